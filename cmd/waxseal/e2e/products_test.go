package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// The tests of products whose keys waxseal reads fill a store as the product
// does, by what its sources say, and configure the daemon as contrib/products says.
// They promise: the keys sign, verified with the record that the product tells;
// what the product changes is followed; nothing in the store changes; and the
// commands know the keys.

// productRecipe returns a block of contrib/products/README.md: the first one of
// that language below a heading.
func productRecipe(t *testing.T, heading, language string) string {
	t.Helper()
	return productRecipes(t, heading, language)[0]
}

func productRecipes(t *testing.T, heading, language string) (blocks []string) {
	t.Helper()
	text, err := os.ReadFile("../../../contrib/products/README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, ok := strings.Cut(string(text), "\n## "+heading+"\n")
	section, _, _ = strings.Cut(section, "\n## ")
	for _, b := range regexp.MustCompile("(?s)```"+language+"\n(.*?)```").FindAllStringSubmatch(section, -1) {
		blocks = append(blocks, b[1])
	}
	if !ok || len(blocks) == 0 {
		t.Fatalf("contrib/products/README.md has no block of %q below %q", language, heading)
	}
	return blocks
}

// product is a daemon that signs with the keys of a product.
type product struct {
	*keystore // its records are those that the product tells
	config    string
	socket    string
	url       string
}

// servesProduct starts a daemon with a recipe in which some texts are replaced, and
// keys that are read again after so long if there is no word of a change.
func servesProduct(t *testing.T, refresh, recipe string, replace ...string) *product {
	t.Helper()
	dir := shortDir(t)
	p := &product{
		keystore: &keystore{records: filepath.Join(dir, "records.tsv"), txt: map[string]string{}},
		config:   filepath.Join(dir, "waxseal.toml"), socket: "unix:" + filepath.Join(dir, "milter.sock"),
	}
	for i := 0; i < len(replace); i += 2 {
		if !strings.Contains(recipe, replace[i]) {
			t.Fatalf("the recipe has no %q:\n%s", replace[i], recipe)
		}
	}
	text := strings.NewReplacer(replace...).Replace(recipe)
	p.url = regexp.MustCompile(`url = "(.*)"`).FindStringSubmatch(text)[1]
	writeFile(t, p.config, fmt.Sprintf("%srefresh = %q\n[listen.milter]\naddress = %q\n", text, refresh, p.socket), 0o644)
	serve(t, daemonOptions{}, "--config", p.config)
	return p
}

// tells sets the record of a key, as the product shows it; empty removes it.
func (p *product) tells(t *testing.T, selector, domain, record string) {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	name := strings.ToLower(selector) + "._domainkey." + domain
	if p.txt[name] = record; record == "" {
		delete(p.txt, name)
	}
	var b strings.Builder
	for name, record := range p.txt {
		fmt.Fprintf(&b, "%s\t%s\n", name, record)
	}
	writeFile(t, p.records, b.String(), 0o644)
}

// sign takes a message through the milter. It returns the selectors of its
// signatures, and what the verifiers of others have against them.
func (p *product) sign(t *testing.T, domain string) (selectors []string, faults string) {
	t.Helper()
	header := strings.Replace(header, "ann@example.com", "ann@"+domain, 1)
	m := judge(t, p.socket, facts{id: "4ABC", client: "127.0.0.1"}, header, "Hello.\r\n").signed(t, header, "Hello.\r\n")
	for _, s := range m.signatures() {
		if s.domain != domain {
			t.Errorf("mail of %s is signed by %s", domain, s.domain)
		}
		selectors = append(selectors, s.selector)
	}
	for _, v := range []verifier{byMsgauth, byDkimpy} {
		verdicts, err := v.verify(m, p.keystore)
		if err != nil {
			t.Fatalf("%s: %v", v.name, err)
		}
		faults += strings.Join(verdicts, "")
	}
	slices.Sort(selectors)
	return selectors, faults
}

// signs waits until mail of a domain is signed with just these selectors, and
// verifies.
func (p *product) signs(t *testing.T, domain string, selectors ...string) {
	t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		got, faults := p.sign(t, domain)
		if slices.Equal(got, selectors) && faults == "" {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("mail of %s is signed with %q, want %q; %s", domain, got, selectors, faults)
		}
	}
}

// run runs a command with the daemon's configuration.
func (p *product) run(t *testing.T, args ...string) string {
	t.Helper()
	return command(t, append(args, "--config", p.config)...)
}

// commandsKnow tests that the commands find the keys (SELECTOR.DOMAIN, sorted) and
// nothing wrong, that what they would publish is what the product tells, and that a
// copy of the store signs.
func (p *product) commandsKnow(t *testing.T, keys ...string) {
	t.Helper()
	var rows []struct{ Domain, Selector, State string }
	out := p.run(t, "key", "list", "--json")
	if err := json.Unmarshal([]byte(out), &rows); err != nil {
		t.Fatal(err)
	}
	var got, domains []string
	for _, r := range rows {
		got = append(got, r.Selector+"."+r.Domain)
		if r.State != "active" {
			t.Errorf("key %s of %s is %s", r.Selector, r.Domain, r.State)
		}
		if !slices.Contains(domains, r.Domain) {
			domains = append(domains, r.Domain)
		}
	}
	slices.Sort(got)
	if !slices.Equal(got, keys) {
		t.Errorf("key list: %q, want %q", got, keys)
	}
	if out := p.run(t, "check"); strings.Contains(out, "error:") {
		t.Errorf("check:\n%s", out)
	}
	var status struct {
		Reachable bool
		Domains   int
	}
	if err := json.Unmarshal([]byte(p.run(t, "store", "status", "--json")), &status); err != nil || !status.Reachable || status.Domains < len(domains) {
		t.Errorf("store status: %+v, %v, want %d domains", status, err, len(domains))
	}
	public := regexp.MustCompile(`\bp=([A-Za-z0-9+/=]+)`)
	p.mu.Lock()
	for line := range strings.Lines(p.run(t, append([]string{"dns", "show", "--format", "tsv"}, domains...)...)) {
		name, record, _ := strings.Cut(strings.TrimSpace(line), "\t")
		ours, theirs := public.FindString(record), public.FindString(p.txt[name])
		if ours == "" || ours != theirs {
			t.Errorf("dns show: %s has %.60q, the product tells %.60q", name, record, p.txt[name])
		}
	}
	p.mu.Unlock()
	_, stderr, code := tryCommand(t, "", nil, "key", "new", domains[0], "--config", p.config)
	if code == 0 || !strings.Contains(stderr, "another program") && !strings.Contains(stderr, "read only") {
		t.Errorf("key new: exit %d, %s; want to be told that the keys are changed elsewhere", code, stderr)
	}
	copied := filepath.Join(t.TempDir(), "copy")
	command(t, "store", "copy", p.url, copied)
	for _, domain := range domains {
		m := []byte(strings.Replace(header, "ann@example.com", "ann@"+domain, 1) + "\r\nHello.\r\n")
		signed, stderr, code := tryCommand(t, "", m, "sign", "--keystore", copied)
		if code != 0 {
			t.Fatalf("sign with a copy: %s", stderr)
		}
		out, _, code := tryCommand(t, "", []byte(signed), "verify", "--keys", p.records)
		if code != 0 || !strings.Contains(out, "pass d="+domain) {
			t.Errorf("a copy's signature of %s:\n%s", domain, out)
		}
	}
}
