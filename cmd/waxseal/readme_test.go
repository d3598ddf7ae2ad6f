package main

import (
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

func readme(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestREADMEHasTheRulesThatAreTested compares the README's section on the rules
// with the package comment of policy, whose every sentence has a row in the
// table of its tests.
func TestREADMEHasTheRulesThatAreTested(t *testing.T) {
	doc, err := os.ReadFile("../../milter/policy/doc.go")
	if err != nil {
		t.Fatal(err)
	}
	words := func(s string) string { return strings.Join(strings.Fields(s), " ") }
	rules := regexp.MustCompile(`(?m)^// ?`).ReplaceAllString(string(doc), "")
	rules = rules[strings.Index(rules, "# Whose mail is ours"):strings.Index(rules, "\npackage policy")]
	section := readme(t)
	section = section[strings.Index(section, "### Whose mail is ours"):]
	section = section[:strings.Index(section, "### In the configuration")]
	section = regexp.MustCompile(`(?m)^### `).ReplaceAllString(section, "# ")
	if got, want := words(section), words(rules); got != want {
		t.Errorf("the README has\n%s\nand the rules that are tested are\n%s", section, rules)
	}
}

// TestREADMEConfigurationsAreValid decodes every configuration in the README.
func TestREADMEConfigurationsAreValid(t *testing.T) {
	blocks := regexp.MustCompile("(?s)```toml\n(.*?)```").FindAllStringSubmatch(readme(t), -1)
	if len(blocks) < 2 {
		t.Fatalf("%d configurations found", len(blocks))
	}
	key := writeFile(t, "tsig.key", "key \"waxseal\" {\n\talgorithm hmac-sha256;\n\tsecret \"MTIzNDU2Nzg5MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTI=\";\n};\n")
	if err := os.Chmod(key, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, b := range blocks {
		text := strings.ReplaceAll(b[1], "/etc/waxseal/tsig.key", key)
		d, err := decodeConfig("README.md", text)
		if err == nil {
			_, err = buildSettings(d)
		}
		if err == nil {
			err = checkListeners(d)
		}
		if err != nil {
			t.Errorf("%v\n%s", err, text)
		}
	}
}

// TestREADMENamesEveryCommand wants each command in the README, so that nobody
// has to find one by chance.
func TestREADMENamesEveryCommand(t *testing.T) {
	text := readme(t)
	a := &app{}
	for _, c := range a.rootCommand().Commands() {
		if c.Name() != "help" && !c.Hidden && !strings.Contains(text, "waxseal "+c.Name()) {
			t.Errorf("the README does not name waxseal %s", c.Name())
		}
		if c.Name() == "dns" {
			for _, sub := range c.Commands() {
				if !strings.Contains(text, "waxseal dns "+sub.Name()) {
					t.Errorf("the README does not name waxseal dns %s", sub.Name())
				}
			}
		}
	}
	for _, link := range regexp.MustCompile(`\]\(([^)#:]+)\)`).FindAllStringSubmatch(text, -1) {
		if _, err := os.Stat(filepath.Join("../..", link[1])); err != nil {
			t.Errorf("the README leads to %s: %v", link[1], err)
		}
	}
}

// TestRecipesForProductsAreValid opens every keystore of contrib/products.
func TestRecipesForProductsAreValid(t *testing.T) {
	text, err := os.ReadFile("../../contrib/products/README.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := regexp.MustCompile("(?s)```toml\n(.*?)```").FindAllStringSubmatch(string(text), -1)
	if len(blocks) < 6 {
		t.Fatalf("%d configurations found", len(blocks))
	}
	for _, b := range blocks {
		d, err := decodeConfig("contrib/products/README.md", b[1])
		if err != nil {
			t.Error(err)
			continue
		}
		store, err := openStore(d, func(string, error) {})
		if err != nil || !readOnly(store) {
			t.Errorf("%s\n%v, want a keystore of another product", b[1], err)
		}
		if store, ok := store.(io.Closer); ok && err == nil {
			store.Close()
		}
	}
}
