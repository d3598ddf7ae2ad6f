package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	mdns "github.com/miekg/dns"

	"waxseal/keystore/dns/dnstest"
)

// fromREADME returns what an expression finds in the README, so that what people
// copy is what is tested.
func fromREADME(t *testing.T, expression string) string {
	t.Helper()
	text, err := os.ReadFile("../../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile(expression).FindSubmatch(text)
	if found == nil {
		t.Fatalf("the README has no %s", expression)
	}
	return string(found[1])
}

// dnsConfig is a configuration for keys whose records are published by [publish].
func dnsConfig(t *testing.T, resolver, publish string) (config string) {
	t.Helper()
	dir := t.TempDir()
	return writeFile(t, filepath.Join(dir, "waxseal.toml"), fmt.Sprintf(`
[keystore]
url = "dir:%s/keys"
[dns]
resolvers = [%q]
per_second = 1000
%s`, dir, resolver, publish), 0o644)
}

// TestRecordsArePublishedAtBIND takes a key from its making to a signature that
// verifies with what DNS has, with the set-up in the README.
func TestRecordsArePublishedAtBIND(t *testing.T) {
	require(t, root) // for port 53
	t.Parallel()
	policy := fromREADME(t, `update-policy \{ (grant waxseal .*;) \};`)
	b := dnstest.StartBIND(t, dnstest.BINDOptions{
		Zones: []dnstest.Zone{{Name: "example.com", UpdatePolicy: policy, Text: "_dmarc TXT \"v=DMARC1; p=none\"\nwww A 192.0.2.1"}},
		Keys:  map[string]string{"waxseal": "hmac-sha256"}, Recursion: true, Port: 53,
	})
	config := dnsConfig(t, b.Primary.Addr, fmt.Sprintf("[publish.bind]\nzones = [\"example.com\"]\nserver = %q\ntsig_key = %q\nttl = \"1s\"\n", b.Primary.Addr, b.KeyFile("waxseal")))
	const name = "2026a._domainkey.example.com"
	run := func(code int, line string) string {
		t.Helper()
		stdout, stderr, got := tryCommand(t, "", nil, append(strings.Fields(line), "--config", config)...)
		if got != code {
			t.Fatalf("%s: exit status %d, want %d\n%s%s", line, got, code, stdout, stderr)
		}
		return stdout
	}
	says := func(out, want string) {
		t.Helper()
		if !strings.Contains(out, want) {
			t.Errorf("does not say %q:\n%s", want, out)
		}
	}

	if err := os.Mkdir(filepath.Join(filepath.Dir(config), "keys"), 0o700); err != nil {
		t.Fatal(err)
	}
	run(0, "key new example.com --selector 2026a")
	says(run(1, "dns check example.com"), name+"  pending  the name does not exist")
	says(run(0, "dns publish example.com --dry-run"), "would publish")
	if values := dnstest.TXT(t, b.Primary.Addr, name); values != nil {
		t.Fatalf("after a dry run there is %q", values)
	}

	// It shows at the primary only.
	b.Freeze(t)
	says(run(0, "dns publish example.com"), "done: server ")
	says(run(0, "dns publish example.com"), "unchanged: server ")
	says(run(1, "dns check example.com"), "differs: the name does not exist; the others: the record is there")

	watch := exec.CommandContext(t.Context(), waxseal, "dns", "check", "example.com", "--watch", "--every", "50ms", "--config", config)
	var out transcript
	watch.Stdout, watch.Stderr = &out, &out
	if err := watch.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the watch sees that the servers differ", func() bool { return strings.Contains(out.String(), "differs") })
	b.CatchUp(t)
	if err := watch.Wait(); err != nil {
		t.Fatalf("the watch ended with %v\n%s", err, out.String())
	}
	says(out.String(), "the record is there; it may sign ")

	says(run(0, "dns publish example.com"), name+"  pending  unchanged\n")
	text, err := os.ReadFile(config)
	if err != nil {
		t.Fatal(err)
	}
	longer := writeFile(t, config+".longer", strings.Replace(string(text), "1s", "2s", 1), 0o644)
	says(command(t, "dns", "publish", "example.com", "--dry-run", "--config", longer), "would publish: now: the primary has another TTL than 2s")
	var taken string
	eventually(t, "the key signs", func() bool {
		taken += run(0, "keep example.com")
		return strings.Contains(taken, "activate 2026a")
	})
	says(run(0, "dns check example.com"), name+"  active  the record is there; rsa-2048; signs for ")
	timeline := run(0, "key show example.com 2026a")
	if !regexp.MustCompile(`(?s)created by .*published by .*waxseal dns publish.*seen by .*activated by `).MatchString(timeline) {
		t.Errorf("the timeline is\n%s", timeline)
	}

	message := "From: Ann <ann@example.com>\nTo: bob@example.net\nSubject: hello\n\nIt works.\n"
	signed, errs, code := tryCommand(t, "", []byte(message), "sign", "--config", config)
	if code != 0 {
		t.Fatalf("sign: exit status %d\n%s", code, errs)
	}
	verify := func() (string, int) {
		t.Helper()
		var records strings.Builder
		for _, value := range dnstest.TXT(t, b.Secondary.Addr, name) {
			fmt.Fprintf(&records, "%s\t%s\n", name, value)
		}
		stdout, _, code := tryCommand(t, "", []byte(signed), "verify", "--keys", writeFile(t, filepath.Join(t.TempDir(), "dns.tsv"), records.String(), 0o644))
		return stdout, code
	}
	if got, code := verify(); code != 0 || !strings.HasPrefix(got, "pass d=example.com s=2026a") {
		t.Errorf("with what DNS has, verify says: %s", got)
	}

	// Revoked, it verifies nothing as soon as that is published.
	run(0, "key revoke example.com 2026a --force --reason stolen")
	says(run(1, "dns check example.com"), "revoked  p= should be empty")
	says(run(0, "dns publish example.com"), "revoked  done")
	b.CatchUp(t)
	if got, code := verify(); code == 0 {
		t.Errorf("with a revoked key, verify says: %s", got)
	}

	t.Run("the key may do nothing else", func(t *testing.T) {
		for _, record := range []string{
			"example.com. 60 IN TXT \"v=spf1 +all\"", "_dmarc.example.com. 60 IN TXT \"v=DMARC1; p=none\"",
			"www.example.com. 60 IN A 192.0.2.66", "x._domainkey.example.com. 60 IN A 192.0.2.66",
		} {
			if code := update(t, b, "waxseal", record); code != mdns.RcodeRefused {
				t.Errorf("adding %s: %s", record, mdns.RcodeToString[code])
			}
		}
		if code := update(t, b, "waxseal", "x._domainkey.example.com. 60 IN TXT \"v=DKIM1; p=\""); code != mdns.RcodeSuccess {
			t.Errorf("adding a key record: %s", mdns.RcodeToString[code])
		}
	})
}

// update adds a record to example.com, and returns the server's answer.
func update(t *testing.T, b *dnstest.BIND, key, record string) (code int) {
	t.Helper()
	text, err := os.ReadFile(b.KeyFile(key))
	if err != nil {
		t.Fatal(err)
	}
	secret := regexp.MustCompile(`secret "(.*)"`).FindSubmatch(text)[1]
	rr, err := mdns.NewRR(record)
	if err != nil {
		t.Fatal(err)
	}
	m := new(mdns.Msg).SetUpdate("example.com.")
	m.Insert([]mdns.RR{rr})
	m.SetTsig(key+".", mdns.HmacSHA256, 300, time.Now().Unix())
	r, _, err := (&mdns.Client{Net: "tcp", TsigSecret: map[string]string{key + ".": string(secret)}, Timeout: patience}).Exchange(m, b.Primary.Addr)
	if r == nil {
		t.Fatal(err)
	}
	return r.Rcode
}

// TestRecordsArePublishedByAHook runs the script in the README, with a name
// server of the test's own in place of NSD.
func TestRecordsArePublishedByAHook(t *testing.T) {
	require(t, root, installed("flock", "util-linux")) // port 53
	t.Parallel()
	dir := t.TempDir()
	zone := filepath.Join(dir, "example.org")
	if err := os.MkdirAll(filepath.Join(zone, "dkim"), 0o755); err != nil {
		t.Fatal(err)
	}
	ns, resolver := dnstest.Serve(t, dnstest.ServerOptions{Addr: dnstest.Address(t, 53)}), dnstest.Serve(t, dnstest.ServerOptions{Addr: dnstest.Address(t, 53), Recursion: true})
	head := fmt.Sprintf("$ORIGIN example.org.\n$TTL 60\n@ SOA ns hostmaster SERIAL 300 60 3600 60\n@ NS ns\nns A %s\n", strings.TrimSuffix(ns.Addr, ":53"))
	writeFile(t, filepath.Join(zone, "head"), head, 0o644)
	for _, s := range []*dnstest.Server{ns, resolver} {
		s.Zone(t, "example.org", strings.ReplaceAll(head, "SERIAL", "1"))
		for _, selector := range []string{"one", "two"} {
			name := selector + "._domainkey.example.org"
			s.Handle(name, func(q *dnstest.Question) *mdns.Msg {
				text, _ := os.ReadFile(filepath.Join(zone, "zone"))
				for line := range bytes.Lines(text) {
					if bytes.HasPrefix(line, []byte(name+". ")) {
						return dnstest.Answer(t, string(line))(q)
					}
				}
				return q.Normal()
			})
		}
	}
	script := strings.ReplaceAll(fromREADME(t, "(?s)(#!/bin/sh -e\n.*?)```"), "/etc/nsd", dir)
	script = strings.Replace(script, "nsd-control", "echo >> "+filepath.Join(dir, "reloads"), 1)
	hook := writeFile(t, filepath.Join(dir, "hook"), script, 0o755)
	config := dnsConfig(t, resolver.Addr, fmt.Sprintf("[publish.nsd]\nzones = [\"example.org\"]\ncommand = [%q]\n", hook))
	if err := os.Mkdir(filepath.Join(filepath.Dir(config), "keys"), 0o700); err != nil {
		t.Fatal(err)
	}

	command(t, "key", "new", "example.org", "--selector", "one", "--config", config)
	command(t, "key", "new", "example.org", "--selector", "two", "--algorithm", "ed25519", "--config", config)
	var rows []struct{ Selector, Outcome string }
	publish := func(want string) {
		t.Helper()
		out := command(t, "dns", "publish", "example.org", "--json", "--config", config)
		if err := json.Unmarshal([]byte(out), &rows); err != nil || fmt.Sprint(rows) != want {
			t.Fatalf("%v, want %s:\n%s", err, want, out)
		}
	}
	publish("[{one done} {two done}]")
	publish("[{one unchanged} {two unchanged}]")
	command(t, "dns", "check", "example.org", "--watch", "--config", config)
	command(t, "key", "remove", "example.org", "one", "--config", config)
	publish("[{one done} {two unchanged}]")
	command(t, "key", "remove", "example.org", "two", "--config", config)
	publish("[{two done}]")
	text, err := os.ReadFile(filepath.Join(zone, "zone"))
	if err != nil || strings.Contains(string(text), "DKIM1") || !regexp.MustCompile(`hostmaster \d+ 300`).Match(text) {
		t.Errorf("the zone is %v\n%s", err, text)
	}
	if reloads, err := os.ReadFile(filepath.Join(dir, "reloads")); err != nil || strings.Count(string(reloads), "reload example.org") != 4 {
		t.Errorf("reloads: %v\n%s", err, reloads)
	}
}
