package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	mdns "github.com/miekg/dns"

	"waxseal/keystore"
	"waxseal/keystore/dns/dnstest"
)

// hooked is a world whose zones a hook changes: a script that writes records into
// files, which the name servers serve.
type hooked struct {
	*world
	dir string
}

const hookScript = `#!/bin/sh
set -e
echo "$WAXSEAL_ACTION $WAXSEAL_NAME" >> "$1/log"
case $WAXSEAL_ACTION in
publish) cat > "$1/$WAXSEAL_NAME" ;;
delete) rm -f "$1/$WAXSEAL_NAME" ;;
esac
`

func newHooked(t *testing.T, zones string) *hooked {
	h := &hooked{newWorld(t), t.TempDir()}
	script := writeFile(t, "hook", hookScript)
	if err := os.Chmod(script, 0o755); err != nil {
		t.Fatal(err)
	}
	h.config += fmt.Sprintf("[publish.hook]\nzones = [%s]\ncommand = [%q, %q]\n", zones, script, h.dir)
	return h
}

// serve has the servers show at a name what the hook wrote.
func (h *hooked) serve(t *testing.T, names ...string) {
	t.Helper()
	for _, name := range names {
		handler := func(q *dnstest.Question) *mdns.Msg {
			text, err := os.ReadFile(filepath.Join(h.dir, name))
			if errors.Is(err, fs.ErrNotExist) {
				return q.Normal()
			}
			return dnstest.Answer(t, string(text))(q)
		}
		for _, s := range []*dnstest.Server{h.ns[0], h.ns[1], h.resolver} {
			s.Handle(name, handler)
		}
	}
}

// runs is what the hook was called for.
func (h *hooked) runs(t *testing.T) string {
	t.Helper()
	log, err := os.ReadFile(filepath.Join(h.dir, "log"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return string(log)
}

func TestDNSPublishByHook(t *testing.T) {
	h := newHooked(t, `"example.com"`)
	const name = "2026a._domainkey.example.com"
	h.serve(t, name)
	h.ok("", "key new example.com --algorithm rsa-4096")

	h.says("dns publish example.com --dry-run", exitDone, name+" pending would publish: now: the name does not exist", name+". IN TXT")
	if log := h.runs(t); log != "" {
		t.Errorf("a dry run ran the hook: %s", log)
	}
	h.says("dns publish example.com", exitDone, name+" pending done")
	h.says("dns publish example.com 2026a", exitDone, name+" pending unchanged")
	h.says("dns publish --all --dry-run", exitDone, name+" pending unchanged")
	if want := "publish " + name + "\n"; h.runs(t) != want {
		t.Errorf("the hook was run for\n%swant\n%s", h.runs(t), want)
	}
	life := h.ok("", "key show example.com 2026a")
	if strings.Count(life, "published by") != 1 || strings.Count(life, "seen by") != 1 {
		t.Errorf("what was done is not in the history once:\n%s", life)
	}

	// A hand in the zone; then the rest of the key's life.
	if err := os.WriteFile(filepath.Join(h.dir, name), []byte(name+". 300 IN TXT \"v=DKIM1; p=\"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	h.says("dns check example.com", exitFailed, "p= is empty", `"waxseal dns publish example.com 2026a`, "puts it right")
	h.says("dns publish example.com --dry-run", exitDone, "would publish: now: p= is empty")
	h.says("dns publish example.com", exitDone, "pending done")
	h.ok("", "key activate example.com 2026a --force --reason tested")
	h.ok("", "key revoke example.com 2026a --force --reason stolen")
	h.says("dns publish example.com", exitDone, name+" revoked done")
	if text, err := os.ReadFile(filepath.Join(h.dir, name)); err != nil || !strings.Contains(string(text), `p="`) {
		t.Errorf("the record of a revoked key: %v, %s", err, text)
	}
	h.now = h.now.Add(keystore.Grace)
	h.ok("", "key remove example.com 2026a")
	h.says("dns publish example.com --dry-run", exitDone, "removed would delete")
	h.says("dns publish example.com", exitDone, "removed done")
	h.says("dns publish example.com", exitFailed, "no key that needs a record", "key new")
	h.says("dns publish example.com 2026a", exitFailed, "removed and needs no record")
	if out := h.ok("", "key show example.com 2026a"); !strings.Contains(out, "withdrawn by") {
		t.Errorf("that the record is gone is not in the history:\n%s", out)
	}
}

// TestDNSPublishDoesNotBringARevokedKeyBack has the key revoked while its record
// is being published.
func TestDNSPublishDoesNotBringARevokedKeyBack(t *testing.T) {
	h := newHooked(t, `"example.com"`)
	const name = "2026a._domainkey.example.com"
	h.serve(t, name)
	h.ok("", "key new example.com --algorithm ed25519")
	revoke := sync.OnceFunc(func() { h.ok("", "key revoke example.com 2026a --force --reason stolen") })
	serve := func(q *dnstest.Question) *mdns.Msg {
		text, err := os.ReadFile(filepath.Join(h.dir, name))
		if err != nil {
			return q.Normal()
		}
		revoke()
		return dnstest.Answer(t, string(text))(q)
	}
	h.ns[0].Handle(name, serve)
	h.says("dns publish example.com", exitDone, name+" revoked done")
	if text, err := os.ReadFile(filepath.Join(h.dir, name)); err != nil || !strings.Contains(string(text), `p="`) {
		t.Errorf("the record is %v, %s", err, text)
	}
}

func TestDNSPublishKeepsWhatMailNeeds(t *testing.T) {
	h := newHooked(t, `"example.com"`)
	const name = "2026a._domainkey.example.com"
	h.serve(t, name)
	h.ok("", "key new example.com --algorithm ed25519")
	h.ok("", "dns publish example.com")
	h.ok("", "key activate example.com 2026a --force --reason tested")
	h.ok("", "key remove example.com 2026a --force --reason tested")
	h.says("dns publish example.com", exitDone, "removed unchanged: mail under way needs it until 2026-11-29T12:00:00Z")
	if out := h.ok("", "dns check example.com"); !strings.Contains(out, "removed  mail under way needs its record until 2026-11-29T12:00:00Z") {
		t.Errorf("dns check printed\n%s", out)
	}
	h.now = h.now.Add(keystore.Grace)
	h.says("dns publish example.com", exitDone, "removed done")
}

func TestDNSPublishToldOfTrouble(t *testing.T) {
	h := newHooked(t, `"example.com"`)
	const name = "2026a._domainkey.example.com"
	h.ok("", "key new example.com --algorithm ed25519")
	h.says("dns publish example.com", exitFailed, name+" pending failed", "no server shows it", "waxseal: hint: ")
	if life := h.ok("", "key show example.com 2026a"); strings.Contains(life, "published by") {
		t.Errorf("a record that nobody shows counts as published:\n%s", life)
	}
	if err := os.Chmod(h.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	good := h.config
	h.config = strings.Replace(good, h.dir, "/does/not/exist", 1)
	h.says("dns publish example.com", exitFailed, "failed: hook", "/does/not/exist")

	// One server lags behind.
	h.config = good
	h.serve(t, name)
	h.ns[1].Handle(name, nil)
	h.says("dns publish example.com", exitDone, "pending done: server 2 of 2", "--watch")

	// A key that lets nobody update.
	key := writeFile(t, "tsig.key", "key \"waxseal\" {\n\talgorithm hmac-sha256;\n\tsecret \"MTIzNDU2Nzg5MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTI=\";\n};\n")
	if err := os.Chmod(key, 0o600); err != nil {
		t.Fatal(err)
	}
	h.config = h.dns() + fmt.Sprintf("[publish.bind]\nzones = [\"example.com\"]\nserver = %q\ntsig_key = %q\n", h.ns[0].Addr, key)
	var rows []publication
	r := h.run("", "dns publish example.com --json")
	if err := json.Unmarshal([]byte(r.stdout), &rows); err != nil || r.code != exitFailed || len(rows) != 1 || rows[0].Outcome != recordFailed || rows[0].Detail == "" {
		t.Errorf("exit status %d, %v\n%s%s", r.code, err, r.stdout, r.stderr)
	}
	h.config = "[publish.bind]\nzones = [\"example.com\"]\n"
	h.says("dns publish example.com", exitFailed, "publish.bind.tsig_key")

	h.says("dns publish", exitMisuse, "--all")
	h.says("dns publish example.com --all", exitMisuse, "--all")
	h.says("dns publish example.com a;b", exitMisuse, "selector")
	h.says("dns publish -", exitMisuse)
	h.config = good
	h.says("dns publish example.com 2027a", exitFailed, "has no key 2027a")
	h.says("dns publish example.org", exitFailed, "not found")
}

func TestDNSPublishByHand(t *testing.T) {
	h := newHooked(t, `"example.com"`)
	h.serve(t, "2026a._domainkey.a.example.com")
	h.ok("a.example.com\nb.dkim.example.net\n", "key new - --algorithm ed25519")
	h.says("dns check", exitFailed, `"waxseal dns publish a.example.com 2026a`, `publish what "waxseal dns show b.dkim.example.net 2026a`)
	r := h.run("", "dns publish --all")
	if r.code != exitFailed || !strings.Contains(r.stdout, "2026a._domainkey.a.example.com  pending  done\n") ||
		!strings.Contains(r.stdout, "2026a._domainkey.b.dkim.example.net  pending  by hand: no [publish] table is about it; now: the name does not exist\n2026a._domainkey.b.dkim.example.net. IN TXT (") {
		t.Errorf("exit status %d\n%s%s", r.code, r.stdout, r.stderr)
	}
	h.zone(t, "dkim.example.net", h.show("b.dkim.example.net"))
	h.says("dns publish --all", exitDone, "2026a._domainkey.b.dkim.example.net pending unchanged")
	if life := h.ok("", "key show b.dkim.example.net 2026a"); strings.Contains(life, "published by") {
		t.Errorf("a record that somebody else published counts as ours:\n%s", life)
	}
	h.ok("", "key remove b.dkim.example.net 2026a")
	h.says("dns publish b.dkim.example.net", exitFailed, "removed by hand", "; delete the TXT record at 2026a._domainkey.b.dkim.example.net")
	var rows []publication
	if err := json.Unmarshal([]byte(h.run("", "dns publish --all --json").stdout), &rows); err != nil || len(rows) != 2 || rows[0].Outcome != recordUnchanged || rows[1].Outcome != recordByHand {
		t.Errorf("--json: %v, %+v", err, rows)
	}
}

func TestDNSPublishIntoASlot(t *testing.T) {
	h := newHooked(t, `"dkim.example.net"`)
	h.config += "[keeper]\nslot_zone = \"dkim.example.net\"\n"
	const target = "s1.example.com.dkim.example.net"
	h.serve(t, target)
	h.ok("", "key new example.com --slots s1 --algorithm ed25519")
	h.says("dns publish example.com", exitDone, target+" pending done: the CNAME to "+target+" is missing",
		"the owner of example.com has to set: s1._domainkey.example.com. IN CNAME "+target+".")
	h.says("dns publish example.com", exitDone, target+" pending unchanged: the CNAME")
	if want := "publish " + target + "\n"; h.runs(t) != want {
		t.Errorf("the hook was run for\n%swant\n%s", h.runs(t), want)
	}
	if life := h.ok("", "key show example.com s1"); strings.Contains(life, "seen by") {
		t.Errorf("a record that no CNAME leads to counts as seen:\n%s", life)
	}
}

func TestDNSCommandsOnADomainThatIsNotWhole(t *testing.T) {
	h := newHooked(t, `"example.com"`)
	h.ok("", "key new example.com --algorithm ed25519")
	h.ok("", "key new example.com --algorithm ed25519")
	file := filepath.Join(h.store, "example.com", "domain.toml")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	broken := strings.Replace(string(text), `state = "pending"`, `state = "asleep"`, 1)
	if err := os.WriteFile(file, []byte(broken), 0o600); err != nil {
		t.Fatal(err)
	}
	h.zone(t, "example.com", h.run("", "dns show example.com").stdout)
	h.says("dns check example.com", exitFailed, "2026b._domainkey.example.com pending the record is there;", "rows that cannot be read", "domain.toml")
	h.says("dns check example.com --watch", exitFailed, "2026b._domainkey.example.com", "rows that cannot be read")
	h.says("dns publish example.com", exitFailed, "rows that cannot be read")
	if log := h.runs(t); log != "" {
		t.Errorf("the hook was run: %s", log)
	}
}
