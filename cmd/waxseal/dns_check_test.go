package main

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"waxseal/keystore/dns"
	"waxseal/keystore/dns/dnstest"
)

// world is a cli whose configuration names a resolver of the test's own. The
// zones example.com and dkim.example.net are at two name servers.
type world struct {
	*cli
	ns       [2]*dnstest.Server
	resolver *dnstest.Server
}

func newWorld(t *testing.T) *world {
	w := &world{cli: newCLI(t), resolver: dnstest.Serve(t, dnstest.ServerOptions{Addr: dnstest.Address(t, 53), Recursion: true})}
	for i := range w.ns {
		w.ns[i] = dnstest.Serve(t, dnstest.ServerOptions{Addr: dnstest.Address(t, 53)})
	}
	for _, zone := range []string{"example.com", "dkim.example.net"} {
		w.zone(t, zone, "")
	}
	w.config = w.dns()
	return w
}

// dns is the [dns] table.
func (w *world) dns() string {
	return fmt.Sprintf("[dns]\nresolvers = [%q]\ntimeout = \"500ms\"\nper_second = 10000\n", w.resolver.Addr)
}

// zone changes what is in a zone, at all its servers.
func (w *world) zone(t *testing.T, name, text string) {
	t.Helper()
	for i := range w.ns {
		w.at(t, i, name, text)
	}
	w.resolver.Zone(t, name, w.text(text))
}

// at changes what is in a zone at one of its servers.
func (w *world) at(t *testing.T, i int, name, text string) {
	t.Helper()
	w.ns[i].Zone(t, name, w.text(text))
}

func (w *world) text(text string) string {
	head := "@ 600 SOA ns1 hostmaster 1 300 60 3600 600\n@ 300 NS ns1\n@ 300 NS ns2\n_dmarc 300 TXT \"v=DMARC1; p=none\"\n"
	for i, s := range w.ns {
		head += fmt.Sprintf("ns%d 300 A %s\n", i+1, strings.TrimSuffix(s.Addr, ":53"))
	}
	return head + text
}

// show is the zone file of a domain's records.
func (w *world) show(args string) string {
	w.t.Helper()
	return w.ok("", "dns show "+args)
}

// row finds what dns check --json says of a key.
func (w *world) row(line, selector string) keySight {
	w.t.Helper()
	var all []domainSight
	if out := w.run("", line+" --json").stdout; json.Unmarshal([]byte(out), &all) != nil {
		w.t.Fatalf("%s --json printed\n%s", line, out)
	}
	for _, d := range all {
		for _, k := range d.Keys {
			if k.Selector == selector {
				return k
			}
		}
	}
	w.t.Fatalf("%s has no %s: %+v", line, selector, all)
	return keySight{}
}

// says runs a command, and looks for texts in what it prints, where the number
// of blanks does not count.
func (w *world) says(line string, code int, want ...string) {
	w.t.Helper()
	r := w.run("", line)
	if r.code != code {
		w.t.Errorf("%s: exit status %d, want %d\n%s%s", line, r.code, code, r.stdout, r.stderr)
	}
	for _, s := range want {
		if !strings.Contains(squeezed(r.stdout+r.stderr), squeezed(s)) {
			w.t.Errorf("%s: does not say %q:\n%s%s", line, s, r.stdout, r.stderr)
		}
	}
}

func squeezed(s string) string { return strings.Join(strings.Fields(s), " ") }

func TestDNSCheck(t *testing.T) {
	w := newWorld(t)
	w.ok("", "key new example.com --algorithm ed25519")
	record := w.show("example.com")
	const name = "2026a._domainkey.example.com"
	other := strings.Replace(record, "p=", "p=AAAA", 1)

	t.Run("missing", func(t *testing.T) {
		w.says("dns check example.com", exitFailed, name+"  pending  the name does not exist; ed25519; made 0 seconds ago",
			`waxseal: hint: publish what "waxseal dns show example.com 2026a`)
		if k := w.row("dns check example.com", "2026a"); k.Verdict != dns.Missing || k.Severity != dns.Warning || k.NegativeTTL != 600 || len(k.Servers) != 2 || k.Bits != 256 {
			t.Errorf("--json has %+v", k)
		}
	})
	t.Run("at one of two servers", func(t *testing.T) {
		w.at(t, 0, "example.com", record)
		defer w.zone(t, "example.com", "")
		out := w.run("", "dns check example.com")
		if out.code != exitFailed || !regexp.MustCompile(`(?s)server 2 of 2, ns2.example.com .* differs: the name does not exist; the others: the record is there.*\n  ns1\.example\.com \(127[^)]*\) +matches +the record, to the letter\n  ns2\.example\.com \(127[^)]*\) +missing `).MatchString(out.stdout) {
			t.Errorf("exit status %d\n%s", out.code, out.stdout)
		}
		if life := w.ok("", "key show example.com 2026a"); strings.Contains(life, "seen by") {
			t.Errorf("a record that one server lacks counts as seen:\n%s", life)
		}
	})
	t.Run("another key", func(t *testing.T) {
		w.zone(t, "example.com", other)
		defer w.zone(t, "example.com", "")
		w.says("dns check example.com", exitFailed, name+"  pending  ", "p=")
	})
	t.Run("there", func(t *testing.T) {
		w.zone(t, "example.com", record)
		out := w.ok("", "dns check example.com")
		if want := name + "  pending  the record is there; it may sign from 2026-11-22T12:10:01Z on, when no resolver remembers anything else; ed25519; made 0 seconds ago\n"; out != want {
			t.Errorf("got\n%swant\n%s", out, want)
		}
		w.now = w.now.Add(3 * time.Minute)
		if k := w.row("dns check example.com", "2026a"); k.Ready == nil || k.Ready.Format(time.RFC3339) != "2026-11-22T12:10:01Z" || k.Severity != "" {
			t.Errorf("a second look began the wait anew: %+v", k)
		}
		if life := w.ok("", "key show example.com 2026a"); !strings.Contains(life, "seen by") || !strings.Contains(life, "waxseal dns check") {
			t.Errorf("the look is not in the history:\n%s", life)
		}
		if out := w.ok("", "dns check --all --verbose"); !strings.Contains(out, "resolver 127.") || !strings.Contains(out, "negative TTL 600 s") {
			t.Errorf("--verbose printed\n%s", out)
		}
		w.now = w.now.Add(7*time.Minute + time.Second)
		if out := w.ok("", "dns check"); !strings.Contains(out, "it may sign now; ed25519; made 10 minutes ago") {
			t.Errorf("got\n%s", out)
		}
	})
	t.Run("gone again", func(t *testing.T) {
		w.zone(t, "example.com", "")
		w.says("dns check example.com", exitFailed, "does not exist")
		w.zone(t, "example.com", record)
		if k := w.row("dns check example.com", "2026a"); k.Ready == nil || !k.Ready.After(w.now) {
			t.Errorf("the wait did not begin anew: %+v", k)
		}
	})
	t.Run("test flag left on", func(t *testing.T) {
		w.zone(t, "example.com", w.show("example.com --testing"))
		defer w.zone(t, "example.com", record)
		w.says("dns check example.com", exitFailed, name+"  pending  t=y is set")
	})
	t.Run("a server is silent", func(t *testing.T) {
		w.ns[1].Handle(name, dnstest.Drop)
		defer w.ns[1].Handle(name, nil)
		w.says("dns check example.com", exitFailed, "server 2 of 2, ns2.example.com", "no answer")
	})
	t.Run("arguments", func(t *testing.T) {
		w.says("dns check example.com --all", exitMisuse, "--all")
		w.says("dns check example.com --watch --every 0s", exitMisuse, "--every")
		w.says("dns check example.com --wait 1s", exitMisuse, "--watch")
		w.says("dns check example.org", exitFailed, "not found", "key list")
		r := w.run("example.com\n# comment\nexample.org\n", "dns check -")
		if r.code != exitFailed || !strings.Contains(r.stdout, name) || !strings.Contains(r.stderr, "example.org") {
			t.Errorf("exit status %d\n%s%s", r.code, r.stdout, r.stderr)
		}
	})
}

func TestDNSCheckDoubtsKeys(t *testing.T) {
	w := newWorld(t)
	w.config += "[keeper]\nrotate_every = \"100d\"\n[row.a]\ndomain = \"example.com\"\nselectors = [\"fixed\"]\n"
	w.ok("", "key new example.com --algorithm rsa-1024")
	w.ok("", "key new example.com --selector fixed --algorithm ed25519")
	w.zone(t, "example.com", w.show("example.com"))
	for _, selector := range []string{"2026a", "fixed"} {
		w.ok("", "key activate example.com "+selector+" --force --reason tested")
	}
	w.says("dns check example.com", exitFailed, "2026a._domainkey.example.com  warning  RSA key of 1024 bits is weak", `"waxseal rotate example.com`)
	w.now = w.now.Add(101 * 24 * time.Hour)
	w.says("dns check example.com", exitFailed,
		"2026a._domainkey.example.com  active   the record is there; rsa-1024; signs for 101 days",
		"2026a._domainkey.example.com  warning  it signs for 101 days, and rotate_every is 100 days",
		"fixed._domainkey.example.com  warning  it signs for 101 days", "take fixed out of the selectors")
	if k := w.row("dns check example.com", "2026a"); len(k.Warnings) != 2 || k.Severity != "" || k.Bits != 1024 {
		t.Errorf("--json has %+v", k)
	}
}

func TestDNSCheckOfOldKeysAndOtherRecords(t *testing.T) {
	w := newWorld(t)
	for range 4 {
		w.ok("", "key new example.com --algorithm ed25519")
	}
	whole := w.show("example.com")
	for _, s := range []string{"2026a", "2026b", "2026c"} {
		w.ok("", "key activate example.com "+s+" --force --reason tested")
	}
	w.ok("", "key retire example.com 2026a")
	w.ok("", "key revoke example.com 2026b --force --reason stolen")
	w.ok("", "key remove example.com 2026d")

	// DNS has all records as they once were, and some that nobody needs.
	w.zone(t, "example.com", whole+"_adsp._domainkey TXT \"dkim=all\"\n_policy._domainkey TXT \"o=-\"\n")
	w.resolver.Handle("_dmarc.example.com", dnstest.Answer(t))
	w.says("dns check example.com", exitFailed,
		"2026a._domainkey.example.com  retired  the record is there",
		"2026b._domainkey.example.com  revoked  p= should be empty",
		"2026d._domainkey.example.com  removed  there is still a record, which nobody needs",
		"_adsp._domainkey.example.com  ", "obsolete ADSP policy", "obsolete policy of DomainKeys",
		"_dmarc.example.com ", "no DMARC record", "v=DMARC1; p=none; rua=mailto:postmaster@example.com")

	// What remains are notes.
	only := func(selectors string) string {
		var lines []string
		for line := range strings.Lines(whole) {
			if slices.Contains(strings.Fields(selectors), line[:5]) {
				lines = append(lines, line)
			}
		}
		return strings.Join(lines, "")
	}
	w.zone(t, "example.com", only("2026a 2026c 2026d"))
	out := w.ok("", "dns check example.com")
	for _, want := range []string{"revoked  there is no record, which says the same", "note     there is no DMARC record"} {
		if !strings.Contains(out, want) {
			t.Errorf("does not say %q:\n%s", want, out)
		}
	}
	w.zone(t, "example.com", only("2026a 2026c")+w.show("example.com 2026b"))
	if out := w.ok("", "dns check example.com"); !strings.Contains(out, "removed  its record is gone") {
		t.Errorf("got\n%s", out)
	}
	if out := w.ok("", "dns check example.com"); strings.Contains(out, "2026d") {
		t.Errorf("a key whose record is gone is still of interest:\n%s", out)
	}
	w.zone(t, "example.com", only("2026c"))
	w.says("dns check example.com", exitFailed, "2026a._domainkey.example.com  retired  the name does not exist")
}

func TestDNSCheckOfSlots(t *testing.T) {
	w := newWorld(t)
	w.config += "[keeper]\nslot_zone = \"dkim.example.net\"\n"
	w.ok("", "key new example.com --slots s1,s2 --algorithm ed25519")
	record := w.show("example.com")
	const s1, s2 = "s1._domainkey.example.com. IN CNAME s1.example.com.dkim.example.net.\n", "s2._domainkey.example.com. IN CNAME s2.example.com.dkim.example.net.\n"
	for _, test := range []struct {
		name, customer, ours string
		code                 int
		want                 []string
	}{
		{"nothing is there", "", "", exitFailed, []string{
			"s1._domainkey.example.com  pending  the CNAME to s1.example.com.dkim.example.net is missing",
			"s2._domainkey.example.com  slot     the CNAME to s2.example.com.dkim.example.net is missing",
			"waxseal: hint: the owner of example.com has to set: " + strings.TrimSpace(s1)}},
		{"pointing elsewhere", "s1._domainkey CNAME s1.elsewhere\n" + s2, "", exitFailed, []string{
			"the CNAME points to s1.elsewhere.example.com, not to s1.example.com.dkim.example.net", strings.TrimSpace(s1)}},
		{"no record behind it", s1 + s2, "", exitFailed, []string{"the CNAME leads to s1.example.com.dkim.example.net, which does not exist"}},
		{"a record in its place", strings.Replace(record, "s1.example.com.dkim.example.net.", "s1._domainkey.example.com.", 1) + s2, record, exitFailed, []string{"there is a TXT record in the place of the CNAME"}},
		{"one slot is missing", s1, record, exitFailed, []string{"s1._domainkey.example.com  pending  the record is there", "the CNAME to s2"}},
		{"all is well", s1 + s2, record, exitDone, []string{"the record is there", "slot     the CNAME to s2.example.com.dkim.example.net is there"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			w.zone(t, "example.com", test.customer)
			w.zone(t, "dkim.example.net", test.ours)
			w.says("dns check example.com", test.code, test.want...)
		})
	}
}

func TestDNSCheckWatches(t *testing.T) {
	w := newWorld(t)
	w.ok("", "key new example.com --algorithm ed25519")
	record := w.show("example.com")
	w.says("dns check example.com --watch --every 5ms --wait 50ms", exitFailed, "does not exist", "50ms are over")

	// Each look finds something new at the second server.
	w.zone(t, "example.com", record)
	const name = "2026a._domainkey.example.com"
	empty := dnstest.Answer(t)
	two := dnstest.Answer(t, name+". 300 TXT \"v=DKIM1; p=\"")
	good := dnstest.Answer(t, strings.TrimSpace(strings.Replace(record, " IN TXT (", " 300 IN TXT (", 1)))
	w.ns[1].Handle(name, dnstest.InTurn(empty, empty, two, good))
	out := w.ok("", "dns check example.com --watch --every 5ms")
	if lines := strings.Count(out, name); lines != 3 || !strings.Contains(out, "it may sign from 2026-11-22T12:10:01Z") {
		t.Errorf("want 3 lines about the key, the last with the time:\n%s", out)
	}

	// The record of a stolen key has to go.
	w.ok("", "key revoke example.com 2026a --force --reason stolen")
	w.ns[1].Handle(name, nil)
	w.says("dns check example.com --watch --every 5ms --wait 30ms", exitFailed, "p= should be empty")
	w.zone(t, "example.com", w.show("example.com"))
	var all []domainSight
	if out := w.ok("", "dns check example.com --watch --every 5ms --json"); json.Unmarshal([]byte(out), &all) != nil || len(all) != 1 || all[0].Keys[0].Verdict != dns.Matches {
		t.Errorf("--json printed\n%s", out)
	}
}

func TestDNSCheckPrintsInOrder(t *testing.T) {
	w := newWorld(t)
	var domains []string
	for i := range 3 * atATime {
		domains = append(domains, fmt.Sprintf("d%02d.example.com", i))
	}
	w.ok(strings.Join(domains, "\n"), "key new - --algorithm ed25519")
	w.ns[0].Handle("2026a._domainkey.d00.example.com", dnstest.Slow(200*time.Millisecond, (*dnstest.Question).Normal))
	var got []string
	for line := range strings.Lines(w.run("", "dns check --all").stdout) {
		if name, ok := strings.CutPrefix(strings.Fields(line)[0], "2026a._domainkey."); ok {
			got = append(got, name)
		}
	}
	if !slices.Equal(got, domains) {
		t.Errorf("the domains come as %v", got)
	}
	if most := w.ns[0].MostOpen() + w.ns[1].MostOpen() + w.resolver.MostOpen(); most > 32 {
		t.Errorf("%d questions were open at once, and dns.questions is 32", most)
	}
}

func TestDNSCompletion(t *testing.T) {
	c := newCLI(t)
	c.ok("", "key new example.com --algorithm ed25519")
	c.ok("", "key new example.com --algorithm ed25519")
	c.ok("", "key new example.org --algorithm ed25519")
	for _, test := range []struct{ line, want string }{
		{"dns check ex", "example.com example.org"},
		{"dns check example.com ex", "example.org"},
		{"dns publish ex", "example.com example.org"},
		{"dns publish example.com 20", "2026a 2026b"},
		{"dns publish example.com 2026a 20", "2026b"},
	} {
		args := strings.Fields(test.line)
		args = slices.Concat([]string{"__complete"}, args[:2], []string{"--keystore", c.store, "--config", writeFile(t, "waxseal.toml", "")}, args[2:])
		var got []string
		for line := range strings.Lines(c.plain("", args...).stdout) {
			if word, _, _ := strings.Cut(strings.TrimSpace(line), "\t"); !strings.HasPrefix(word, ":") {
				got = append(got, word)
			}
		}
		if strings.Join(got, " ") != test.want {
			t.Errorf("%s: completed with %q, want %q", test.line, got, test.want)
		}
	}
}

// Servers that only the zone above names are asked by resolvers, and not by us.
func TestDNSCheckComparesTheDelegation(t *testing.T) {
	w := newWorld(t)
	above := dnstest.Serve(t, dnstest.ServerOptions{Addr: dnstest.Address(t, 53)})
	text := fmt.Sprintf("@ 600 SOA ns hostmaster 1 300 60 3600 600\n@ 300 NS ns\nns 300 A %s\nexample 300 NS ns1.example\nexample 300 NS old.example\n", strings.TrimSuffix(above.Addr, ":53"))
	above.Zone(t, "com", text)
	w.resolver.Zone(t, "com", text)
	w.ok("", "key new example.com --algorithm ed25519")
	w.zone(t, "example.com", w.show("example.com"))
	w.says("dns check example.com", exitFailed,
		"example.com warning the zone above, com, has NS records for it that it has not itself: old.example.com",
		"example.com note it has NS records that the zone above, com, has not: ns2.example.com",
		"hint: example.com: add them to the NS records of example.com, or have them taken out of the delegation")
}
