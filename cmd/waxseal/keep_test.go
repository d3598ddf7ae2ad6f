package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"waxseal/keystore"
	"waxseal/keystore/dns/dnstest"
	"waxseal/keystore/keeper"
)

// newZone is a cli whose configuration names a resolver of the test's own, which
// has the zone example.com, as its authoritative server has. records changes
// what is in it.
func newZone(t *testing.T) (c *cli, records func(text string)) {
	address, resolver := dnstest.Address(t, 53), dnstest.Address(t, 53)
	servers := []*dnstest.Server{
		dnstest.Serve(t, dnstest.ServerOptions{Addr: address}),
		dnstest.Serve(t, dnstest.ServerOptions{Addr: resolver, Recursion: true}),
	}
	records = func(text string) {
		for _, s := range servers {
			s.Zone(t, "example.com", fmt.Sprintf("@ 300 SOA ns hostmaster 1 300 60 3600 600\n@ 300 NS ns\nns 300 A %s\n%s", address.Addr(), text))
		}
	}
	records("")
	c = newCLI(t)
	c.config = fmt.Sprintf("[dns]\nresolvers = [%q]\ntimeout = \"1s\"\n", resolver.String())
	return c, records
}

func TestAKeySignsOnlyWhenTheWorldCanSeeIt(t *testing.T) {
	c, records := newZone(t)
	record := c.ok("", "key new example.com --algorithm ed25519")
	c.fails("", "key activate example.com 2026a", exitFailed, "not seen", "dns check")
	c.fails("", "key activate example.com 2026a --force", exitMisuse, "reason")
	records(record)
	c.fails("", "key activate example.com 2026a", exitFailed, "may remember until 2026-11-22T12:05:01Z")
	if out := c.ok("", "key show example.com 2026a"); !strings.Contains(out, "seen by") || !strings.Contains(out, "not before 2026-11-22T12:05:01Z") {
		t.Errorf("key show has no history and future:\n%s", out)
	}
	c.now = c.now.Add(10*time.Minute + time.Second)
	records("")
	c.fails("", "key activate example.com 2026a", exitFailed)
	records(record)
	c.fails("", "key activate example.com 2026a", exitFailed, "may remember until 2026-11-22T12:15:02Z")
	c.now = c.now.Add(10*time.Minute + time.Second)
	c.ok("", "key activate example.com 2026a")
	if out := c.ok("", "key show example.com 2026a"); !strings.Contains(out, "activated by") || strings.Contains(out, "force") {
		t.Errorf("key show printed\n%s", out)
	}
}

func TestKeepAndRotate(t *testing.T) {
	c, records := newZone(t)
	c.fails("", "rotate example.com", exitFailed, "keystore")
	first := c.ok("", "key new example.com --algorithm ed25519")
	c.fails("", "rotate example.com", exitFailed, "no key signs", "key new")
	if out := c.ok("", "keep"); !strings.Contains(out, "example.com: ask 2026a: publish its record") {
		t.Errorf("keep does not ask for the record:\n%s", out)
	}
	records(first)
	if out := c.ok("", "keep example.com --dry-run"); !strings.Contains(out, "observe 2026a") {
		t.Errorf("a dry run printed\n%s", out)
	}
	if out := c.ok("", "keep"); !strings.Contains(out, "observe 2026a") {
		t.Errorf("keep printed\n%s", out)
	}
	c.now = c.now.Add(11 * time.Minute)
	if out := c.ok("", "keep"); !strings.Contains(out, "activate 2026a") {
		t.Errorf("keep printed\n%s", out)
	}

	if out := c.ok("", "rotate example.com --dry-run"); !strings.Contains(out, "would create") {
		t.Errorf("a dry run printed\n%s", out)
	}
	var planned rotateResult
	if err := json.Unmarshal([]byte(c.ok("", "rotate example.com --dry-run --json")), &planned); err != nil ||
		len(planned.Taken) != 0 || len(planned.Open) != 1 || planned.Open[0].Step != keystore.Create || len(planned.Keys) != 1 {
		t.Errorf("rotate --dry-run --json: %v, %+v", err, planned)
	}
	out := c.ok("", "rotate example.com --reason quarterly")
	if !strings.Contains(out, "made 2026b") || !strings.Contains(out, "2026b._domainkey.example.com. IN TXT") {
		t.Errorf("rotate does not say what to publish:\n%s", out)
	}
	second := c.ok("", "dns show example.com 2026b")
	records(first + second)
	c.ok("", "keep")
	c.now = c.now.Add(11 * time.Minute)
	if out := c.ok("", "keep"); !strings.Contains(out, "activate 2026b") || !strings.Contains(out, "retire 2026a") {
		t.Errorf("keep printed\n%s", out)
	}
	if out := c.ok("", "key show example.com 2026a"); !strings.Contains(out, "retired by") || !strings.Contains(out, "next") {
		t.Errorf("key show printed\n%s", out)
	}

	// The record of the key that signs goes.
	records(first)
	r := c.run("", "keep")
	if r.code != exitFailed || !strings.Contains(r.stdout, "alarm 2026b") {
		t.Errorf("exit status %d\n%s%s", r.code, r.stdout, r.stderr)
	}
	var results []keepResult
	if err := json.Unmarshal([]byte(c.run("", "keep --json").stdout), &results); err != nil || len(results) != 1 || len(results[0].Open) == 0 {
		t.Errorf("keep --json: %v, %+v", err, results)
	}
	records(first + second)

	c.fails("", "rotate example.com --emergency", exitMisuse, "reason")
	c.now = c.now.Add(time.Minute)
	out = c.run("", "rotate example.com --emergency --reason stolen --wait 1ms --json").stdout
	var rotated rotateResult
	if err := json.Unmarshal([]byte(out), &rotated); err != nil || rotated.Domain != "example.com" || len(rotated.Taken) == 0 ||
		rotated.Taken[0].Step != keystore.Create || rotated.Taken[0].Selector != "2026c" ||
		len(rotated.Open) == 0 || len(rotated.Keys) != 3 || !strings.HasPrefix(rotated.Keys[2].Record, "v=DKIM1") {
		t.Errorf("rotate --emergency --json printed\n%s", out)
	}
	records(first + second + c.ok("", "dns show example.com 2026c"))
	out = c.ok("", "keep")
	for _, want := range []string{"activate 2026c", "revoke 2026a", "revoke 2026b", "ask 2026b: publish its record with an empty p="} {
		if !strings.Contains(out, want) {
			t.Errorf("after an emergency keep does not say %q:\n%s", want, out)
		}
	}
	if out := c.ok("", "dns show example.com 2026b --format line"); !strings.HasSuffix(out, "p=\n") {
		t.Errorf("the record of the stolen key is\n%s", out)
	}
}

func TestStepsAreKeptWithWhoAndWhy(t *testing.T) {
	c := newCLI(t)
	c.ok("", "key new example.com --algorithm ed25519")
	c.ok("", "key activate example.com 2026a --force --reason tested")
	c.fails("", "key revoke example.com 2026a", exitFailed, "force")
	c.ok("", "key revoke example.com 2026a --force --reason stolen")
	var life keyLife
	if err := json.Unmarshal([]byte(c.ok("", "key show example.com 2026a --json")), &life); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range life.History {
		got = append(got, fmt.Sprint(e.What, e.Forced, e.Reason, strings.Contains(e.By, "@")))
	}
	if want := "[createdfalsetrue activatedtruetestedtrue revokedtruestolentrue]"; fmt.Sprint(got) != want {
		t.Errorf("history %v, want %s", got, want)
	}
	if life.Next == nil || life.Next.Step != keystore.DoRemove || life.Next.NotBefore == nil {
		t.Errorf("next is %+v, want the removal after the grace period", life.Next)
	}
}

func TestSlots(t *testing.T) {
	c := newCLI(t)
	c.fails("", "key new customer.example --slots s1,s2", exitFailed, "slot_zone")
	c.config = "[keeper]\nslot_zone = \"dkim.example.net\"\n"
	out := c.ok("", "key new customer.example --slots s1,s2 --algorithm ed25519")
	for _, want := range []string{
		"s1._domainkey.customer.example. IN CNAME s1.customer.example.dkim.example.net.",
		"s2._domainkey.customer.example. IN CNAME s2.customer.example.dkim.example.net.",
		"s1.customer.example.dkim.example.net. IN TXT",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("key new does not print %q:\n%s", want, out)
		}
	}
	if out := c.ok("", "dns show customer.example"); !strings.HasPrefix(out, "s1.customer.example.dkim.example.net. IN TXT") {
		t.Errorf("dns show printed\n%s", out)
	}
	c.ok("", "key new customer.example --algorithm ed25519")
	c.fails("", "key new customer.example --algorithm ed25519", exitFailed, "all slots are in use")
	c.fails("", "key new customer.example --selector other --algorithm ed25519", exitFailed, "slots")
	text, err := os.ReadFile(filepath.Join(c.store, "customer.example", "s1.txt"))
	if err != nil || !strings.Contains(string(text), "IN CNAME s1.customer.example.dkim.example.net.") {
		t.Errorf("s1.txt: %v\n%s", err, text)
	}
}

func TestKeeperSettings(t *testing.T) {
	key := writeFile(t, "tsig.key", "key \"waxseal\" {\n\talgorithm hmac-sha256;\n\tsecret \"MTIzNDU2Nzg5MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTI=\";\n};\n")
	if err := os.Chmod(key, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ config, want string }{
		{"[publish.a]\nzones = [\"example.com\"]\nserver = \"127.0.0.1\"\ntsig_key = \"" + key + "\"", ""},
		{"[publish.a]\nzones = [\"example.com\"]\ncommand = [\"/bin/true\"]", ""},
		{"[publish.a]\nzones = [\"example.com\"]", "waxseal.toml:1: publish.a.tsig_key: dynamic updates without a key"},
		{"[publish.a]\ncommand = [\"/bin/true\"]", "waxseal.toml:1: publish.a: no zones"},
		{"[publish.a]\nzones = [\"example.com\"]\ntsig_key = \"/does/not/exist\"", "publish.a.tsig_key"},
		{"[publish.a]\nzones = [\"example.com\"]\ncommand = [\"/bin/true\"]\nserver = \"127.0.0.1\"", "publish.a.command: both a command and a server"},
		{"[publish.a]\nzones = [\"example.com\"]\ncommand = [\"/bin/true\"]\n[publish.b]\nzones = [\"example.com\"]\ncommand = [\"/bin/true\"]", "example.com is in publish.a, too"},
		{"[publish.a]\nzones = [\"exa mple.com\"]\ncommand = [\"/bin/true\"]", "waxseal.toml:2: publish.a.zones"},
		{"[keeper]\ninterval = \"1ms\"", "keeper.interval"},
		{"[keeper]\nrotate_every = \"1m\"", "keeper.rotate_every"},
		{"[keeper]\nrecord_gone = \"panic\"", `want "alarm" or "stop"`},
		{"[keeper]\nslot_zone = \"x\"", "keeper.slot_zone"},
		{"[keeper]\npublish_retired_keys = \"/does/not/exist\"", "keeper.publish_retired_keys"},
		{"[keeper.domain.\"Example.com\"]\nrotate_every = \"30d\"", "is written example.com"},
		{"[dns]\nquestions = 0", "dns.questions"},
	} {
		d, err := decodeConfig("waxseal.toml", test.config)
		if err == nil {
			_, err = buildSettings(d)
		}
		if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
			t.Errorf("%s\n got %v\nwant %q", test.config, err, test.want)
		}
	}
}

func TestRulesOfADomain(t *testing.T) {
	const day = 24 * time.Hour
	d, err := decodeConfig("waxseal.toml", `
[keeper]
rotate_every = "365d"
grace = "10d"
[keeper.domain."often.example"]
rotate_every = "40d"
record_gone = "stop"
[keeper.domain."never.example"]
never_rotate = true
[row.a]
domain = "named.example"
selectors = ["Mail"]
`)
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		domain      string
		every, lead time.Duration
		stop        bool
	}{
		{"example.com", 365 * day, 30 * day, false},
		{"often.example", 40 * day, 10 * day, true},
		{"never.example", 0, 0, false},
	} {
		r := keyRules(d, test.domain)
		if r.RotateEvery != test.every || r.RotateLead != test.lead || r.StopWhenGone != test.stop || r.Grace != 10*day {
			t.Errorf("rules of %s are %+v", test.domain, r)
		}
	}
	if r := keyRules(d, "named.example"); !r.Named("mail") || r.Named("other") {
		t.Error("a selector that a row names is not known as such")
	}
}

func TestRotateFlags(t *testing.T) {
	c, _ := newZone(t)
	c.ok("", "key new example.com --algorithm ed25519")
	c.fails("", "rotate example.com --emergency --reason stolen", exitFailed, "no key signs", "key revoke example.com SELECTOR")
	c.ok("", "key activate example.com 2026a --force --reason tested")
	c.fails("", "rotate example.com --wait 1m", exitMisuse, "--wait without --now")
	c.fails("", "rotate example.com --now --wait -1m", exitMisuse, "--wait")
	c.ok("", "key new example.com")
	if r := c.run("", "rotate example.org --json"); r.code != exitFailed || r.stdout != "" {
		t.Errorf("a rotation that never began: exit status %d, %q", r.code, r.stdout)
	}
	out := c.ok("", "rotate example.com --emergency --reason stolen --dry-run --json")
	if !json.Valid([]byte(out)) || strings.Count(out, `"step": "revoke"`) != 2 {
		t.Errorf("a dry run printed as JSON\n%s", out)
	}
	out = c.ok("", "rotate example.com --emergency --reason stolen --dry-run")
	for _, want := range []string{"would create (ed25519)", "would revoke 2026a (active)", "would revoke 2026b (pending)"} {
		if !strings.Contains(out, want) {
			t.Errorf("a dry run does not say %q:\n%s", want, out)
		}
	}
}

// An emergency is over when nobody sees the stolen key any longer.
func TestEmergencyWaitsForDNS(t *testing.T) {
	c, records := newZone(t)
	first := c.ok("", "key new example.com --algorithm ed25519")
	records(first)
	c.ok("", "key activate example.com 2026a --force --reason tested")
	c.fails("", "rotate example.com --emergency --reason stolen --wait 1ms", exitFailed, "the successors do not sign yet")
	c.now = c.now.Add(2 * time.Minute) // what is known of the zone is asked anew
	second := c.ok("", "dns show example.com 2026b")
	records(first + second)
	c.ok("", "keep")
	r := c.run("", "rotate example.com --emergency --reason again --wait 1ms")
	if r.code != exitFailed {
		t.Errorf("exit status %d while DNS shows a stolen key\n%s%s", r.code, r.stdout, r.stderr)
	}
	records(c.ok("", "dns show example.com"))
	out := c.ok("", "rotate example.com --emergency --reason more --wait 8s --dry-run")
	if !strings.Contains(out, "would create") {
		t.Errorf("a dry run printed\n%s", out)
	}
	out = c.ok("", "keep example.com")
	if !strings.Contains(out, "activate 2026c") {
		t.Errorf("keep printed\n%s", out)
	}
	d := keeperResult(t, map[string]keystore.Sight{"a": {State: keystore.ShownRevoked}, "b": {State: keystore.Shown}})
	for _, test := range []struct {
		emergency bool
		b         keystore.SightState
		want      bool
	}{
		{true, keystore.Shown, true},
		{true, keystore.Different, true},
		{true, keystore.Unknown, true},
		{true, keystore.Missing, false},
		{true, keystore.ShownRevoked, false},
		{false, keystore.Shown, false},
	} {
		d.Sights["b"] = keystore.Sight{State: test.b}
		if got := (&rotation{emergency: test.emergency}).exposed(d); got != test.want {
			t.Errorf("in an emergency (%v), DNS shows %v: exposed is %v", test.emergency, test.b, got)
		}
	}
}

func keeperResult(t *testing.T, sights map[string]keystore.Sight) *keeper.Result {
	t.Helper()
	return &keeper.Result{Sights: sights, Domain: &keystore.Domain{Keys: []keystore.Key{
		{Selector: "a", State: keystore.Revoked}, {Selector: "b", State: keystore.Revoked}, {Selector: "c", State: keystore.Active},
	}}}
}

// Who is to be told by a command hears of nothing else when that fails.
func TestNotifyThatFailsIsTold(t *testing.T) {
	c, _ := newZone(t)
	c.config += "[keeper]\nnotify = [\"/bin/false\"]\n"
	c.ok("", "key new example.com --algorithm ed25519")
	r := c.run("", "keep")
	if !strings.Contains(r.stdout, "ask 2026a") || !strings.Contains(r.stderr, "keeper.notify failed") {
		t.Errorf("keep printed\n%s%s", r.stdout, r.stderr)
	}
	c.fails("", "keep nosuch.example", exitFailed, "not found", "key list")
}

func TestHintsOfStepsFit(t *testing.T) {
	c, _ := newZone(t)
	c.ok("", "key new example.com --algorithm ed25519")
	if r := c.run("", "key activate example.com 2026a --force"); strings.Contains(r.stderr, "keeper") {
		t.Errorf("misuse has a hint for something else:\n%s", r.stderr)
	}
	for _, step := range []string{"activate", "retire", "remove"} {
		if r := c.run("", "key "+step+" example.com 2026a --force --reason x --dry-run"); strings.Contains(r.stderr, "hint: keep") || strings.Contains(r.stderr, "may be deleted") {
			t.Errorf("a dry run of %s speaks as if it were done:\n%s", step, r.stderr)
		}
	}
	file := filepath.Join(c.store, "example.com", "2026a.pem")
	if err := os.Rename(file, file+".away"); err != nil {
		t.Fatal(err)
	}
	c.fails("", "key activate example.com 2026a --force --reason x", exitFailed, "private half cannot be used")
	c.ok("", "key import example.com mail "+file+".away")
	if out := c.ok("", "key show example.com mail"); !strings.Contains(out, "imported by") {
		t.Errorf("key show printed\n%s", out)
	}
}

// What could not be rotated is not passed over because there is nothing to wait
// for.
func TestRotationThatIsNotPossible(t *testing.T) {
	c, records := newZone(t)
	c.config += "[row.a]\ndomain = \"example.com\"\nselectors = [\"2026a\"]\n"
	records(c.ok("", "key new example.com --algorithm ed25519"))
	c.ok("", "key activate example.com 2026a --force --reason tested")
	for _, flags := range []string{"", " --now", " --emergency --reason stolen"} {
		c.fails("", "rotate example.com"+flags, exitFailed, "the configuration names the selector 2026a")
	}
	// Nor because there is something to wait for.
	c.ok("", "key import example.com other ../../testdata/keys/rsa-2048.pem")
	c.ok("", "key activate example.com other --force --reason tested")
	c.fails("", "rotate example.com", exitFailed, "the configuration names the selector 2026a")
	if out := c.ok("", "key list example.com"); !strings.Contains(out, "pending") {
		t.Errorf("the other kind of key has no successor:\n%s", out)
	}
}
