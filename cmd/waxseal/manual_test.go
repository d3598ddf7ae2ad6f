package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// programs skips the test when a program is missing that Debian has, and fails it
// where none may be.
func programs(t *testing.T, names ...string) {
	t.Helper()
	for _, name := range names {
		if _, err := exec.LookPath(name); err != nil {
			if os.Getenv("WAXSEAL_E2E") == "required" {
				t.Fatalf("no %s, and WAXSEAL_E2E=required", name)
			}
			t.Skipf("no %s, which Debian has", name)
		}
	}
}

// commands returns all commands that are for everybody.
func commands() []*cobra.Command {
	var all []*cobra.Command
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		all = append(all, c)
		for _, below := range documented(c) {
			walk(below)
		}
	}
	root := (&app{}).rootCommand()
	root.InitDefaultCompletionCmd()
	walk(root)
	return all
}

// TestManualsSayWhatHelpAndSettingsSay renders every page, and finds in it each
// command, flag, example and setting with what is said of it.
func TestManualsSayWhatHelpAndSettingsSay(t *testing.T) {
	programs(t, "mandoc", "groff")
	dir := t.TempDir()
	if r := newCLI(t).plain("", "manual", dir, "--date", "2026-11-22"); r.code != exitDone {
		t.Fatalf("manual: %s", r.stderr)
	}
	pages, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	// No warning, and no line in bad style.
	for _, lint := range [][]string{{"mandoc", "-Tlint"}, {"groff", "-man", "-ww", "-Tutf8", "-z"}} {
		c := exec.Command(lint[0], slices.Concat(lint[1:], pages)...)
		if out, err := c.CombinedOutput(); err != nil || len(out) > 0 {
			t.Errorf("%s: %v\n%s", strings.Join(lint, " "), err, out)
		}
	}
	words := func(s string) string {
		return strings.Join(strings.Fields(strings.ReplaceAll(s, "…", "...")), " ")
	}
	bold := regexp.MustCompile(`.\x08`) // which is written one over the other
	page := func(name string) string {
		out, err := exec.Command("mandoc", "-Tutf8", "-Owidth=900", filepath.Join(dir, name)).Output()
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		return words(bold.ReplaceAllString(string(out), ""))
	}
	want := 1
	for _, c := range commands() {
		want++
		name := manualName(c) + ".1"
		says := []string{c.Long}
		c.LocalFlags().VisitAll(func(f *pflag.Flag) {
			if _, usage := pflag.UnquoteUsage(f); !f.Hidden {
				says = append(says, "--"+f.Name, usage)
			}
		})
		for _, below := range documented(c) {
			says = append(says, below.Name(), below.Short)
		}
		for line := range strings.Lines(c.Example) {
			says = append(says, line)
		}
		text := page(name)
		for _, s := range says {
			if !strings.Contains(text, words(s)) {
				t.Errorf("%s does not say %q:\n%s", name, words(s), text)
			}
		}
	}
	text := page("waxseal.toml.5")
	for _, s := range settings() {
		_, name, _ := cutLast(s.key, ".")
		term := name + " = " + words(s.value)
		if s.table {
			term = "[" + s.key + "]"
		}
		if want := words(term + " " + s.comment); !strings.Contains(text, want) {
			t.Errorf("waxseal.toml.5 does not say %q", want)
		}
	}
	if len(pages) != want {
		t.Errorf("%d pages, want one for each command and waxseal.toml.5: %d", len(pages), want)
	}
}

// told returns the texts that users read: the README, help, and the comments of
// the settings.
func told(t *testing.T) map[string]string {
	all := map[string]string{"the README": readme(t)}
	for _, c := range commands() {
		text := c.Long + "\n" + c.Example
		c.LocalFlags().VisitAll(func(f *pflag.Flag) { text += "\n" + f.Usage })
		all[c.CommandPath()+" --help"] = text
	}
	for _, s := range settings() {
		all["the comment of "+s.key] = s.comment
	}
	return all
}

// TestCommandsThatAreToldExist finds every command line in quotes and examples.
func TestCommandsThatAreToldExist(t *testing.T) {
	line := regexp.MustCompile("(?m)(?:[`\"|] ?|^(?:\\$ | {2,}))waxseal ([a-z][^\"`|<>)#;\\n]*)")
	seen := 0
	for where, text := range told(t) {
		if where == "the README" { // in which other lines may begin with the name
			text = strings.Join(regexp.MustCompile("(?s)```.*?```|`[^`]*`").FindAllString(text, -1), "\n")
		}
		for _, found := range line.FindAllStringSubmatch(text, -1) {
			root := (&app{}).rootCommand()
			root.InitDefaultCompletionCmd()
			c, rest, err := root.Find(strings.Fields(found[1]))
			if err != nil || c == root {
				t.Errorf("%s: waxseal %s: no such command", where, found[1])
				continue
			}
			seen++
			if c.HasSubCommands() && len(rest) > 0 && !strings.HasPrefix(rest[0], "-") {
				t.Errorf("%s: waxseal %s: no such command", where, found[1])
			}
			for _, word := range rest {
				name, ok := strings.CutPrefix(word, "--")
				name, _, _ = strings.Cut(strings.TrimRight(name, ",.:"), "=")
				if ok && c.Flags().Lookup(name) == nil && name != "help" {
					t.Errorf("%s: waxseal %s: no flag --%s", where, found[1], name)
				}
			}
		}
	}
	if seen < 40 {
		t.Errorf("only %d command lines found", seen)
	}
}

// TestSettingsThatAreToldExist finds every name of a setting, such as
// keeper.grace, and every table, such as [outcome].
func TestSettingsThatAreToldExist(t *testing.T) {
	var known []string
	tables := map[string]bool{}
	for _, s := range settings() {
		known = append(known, strings.ReplaceAll(regexp.QuoteMeta(s.key), "NAME", "[A-Za-z]+"))
		table, _, _ := strings.Cut(s.key, ".")
		known = append(known, table)
		tables[table] = true
	}
	setting := regexp.MustCompile("^(" + strings.Join(known, "|") + ")$")
	seen := 0
	check := func(where, name string) {
		seen++
		if !setting.MatchString(name) {
			t.Errorf("%s names the setting %s, which there is not", where, name)
		}
	}
	dotted := regexp.MustCompile(`(?:^|[\s"(` + "`" + `])([a-z]+)\.([a-z_]+)\b`)
	header := regexp.MustCompile(`\[([a-z]+(?:\.[A-Za-z]+)*)\]`)
	for where, text := range told(t) {
		for _, found := range dotted.FindAllStringSubmatch(text, -1) {
			if tables[found[1]] && found[2] != "example" {
				check(where, found[1]+"."+found[2])
			}
		}
		for _, found := range header.FindAllStringSubmatch(text, -1) {
			if top, _, _ := strings.Cut(found[1], "."); tables[top] {
				check(where, found[1])
			}
		}
	}
	if seen < 20 {
		t.Errorf("only %d settings found", seen)
	}
}
