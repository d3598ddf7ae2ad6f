package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/emersion/go-msgauth/dkim"
)

// signedMessage returns a signed message and the records that verify it.
func signedMessage(t *testing.T) (*cli, string, string) {
	t.Helper()
	c := newCLI(t)
	c.ok("", "key import example.com s ../../testdata/keys/rsa-2048.pem")
	c.ok("", "key activate example.com s --force --reason tested")
	signed := c.ok(testMail, "sign")
	return c, signed, c.ok("", "dns show example.com --format tsv")
}

func TestVerifySaysWhatIsWrong(t *testing.T) {
	c, signed, keys := signedMessage(t)
	verify := func(message, keys string) string {
		return c.run(message, "verify --keys "+writeFile(t, "keys.tsv", keys)).stdout
	}
	record := strings.TrimSpace(strings.SplitN(keys, "\t", 2)[1])
	with := func(record string) string { return "s._domainkey.example.com\t" + record + "\n" }
	for _, c := range []struct{ name, message, keys, want string }{
		{"a changed body", signed + "more\n", keys, "fail d=example.com s=s a=rsa-sha256 bits=2048: "},
		{"no record", signed, "other._domainkey.example.com\tv=DKIM1; p=\n", "fail d=example.com s=s a=rsa-sha256: "},
		{"a revoked key", signed, with("v=DKIM1; p="), "revoked"},
		{"a testing domain", signed, with(strings.Replace(record, "k=rsa;", "k=rsa; t=y;", 1)), "pass d=example.com s=s a=rsa-sha256 bits=2048: the record says the domain is testing"},
		{"upper case and a final dot in the file", signed, "S._domainkey.EXAMPLE.com.\t" + record + "\n", "pass "},
	} {
		if got := verify(c.message, c.keys); !strings.Contains(got, c.want) {
			t.Errorf("%s: printed %q, want %q in it", c.name, got, c.want)
		}
	}
	if r := c.run(signed, "verify --json --keys "+writeFile(t, "keys.tsv", keys)); !strings.Contains(r.stdout, `"pass": true`) {
		t.Errorf("as JSON:\n%s", r.stdout)
	}
	c.fails(signed, "verify --keys "+writeFile(t, "keys.tsv", "no tab here\n"), exitFailed, "keys.tsv:1", "dns show")
	c.fails(signed, "verify --keys /does/not/exist", exitFailed, "/does/not/exist")
}

func TestVerifyBoundsItsWork(t *testing.T) {
	none := func(string) ([]string, error) { return nil, errors.New("not asked") }
	many := strings.Repeat("DKIM-Signature: v=1; a=rsa-sha256; d=example.com; s=s; h=From; bh=; b=\r\n", 100)
	m, err := readMessage(strings.NewReader(many + "From: a@example.com\r\n\r\n"))
	if err != nil {
		t.Fatal(err)
	}
	got, err := verify(m, none)
	if err != nil || len(got) != 100 || !strings.Contains(got[99].Reason, "not looked at") || got[99].Pass {
		t.Errorf("got %v, %v, want the last of 100 not looked at", got, err)
	}
	m, err = readMessage(strings.NewReader(strings.Repeat("X: y\r\n", maxVerifyFields+1) + "\r\n"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := verify(m, none); err == nil || !strings.Contains(err.Error(), fmt.Sprint(maxVerifyFields)) {
		t.Errorf("a header of %d fields: %v", maxVerifyFields+1, err)
	}
}

func TestVerifyHeedsStrictIdentity(t *testing.T) {
	v := verdict{Pass: true, Domain: "example.com", Selector: "s"}
	lookup := func(string) ([]string, error) {
		return []string{"v=DKIM1; k=ed25519; t=s; p=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="}, nil
	}
	for identity, want := range map[string]bool{"@example.com": true, "ann@EXAMPLE.com": true, "@a.example.com": false} {
		got := v
		got.judge(&dkim.Verification{Domain: "example.com", Identifier: identity}, lookup)
		if got.Pass != want {
			t.Errorf("i=%s: pass %v, want %v", identity, got.Pass, want)
		}
	}
}

func TestMessagesDoNotSpeakToTheTerminal(t *testing.T) {
	v := parseTags(" v=1; d=\x1b]0;evil; s=a\x9bb; a=rsa-sha256")
	if s := v.String(); strings.ContainsAny(s, "\x1b\x07") || strings.Contains(s, "\u009b") {
		t.Errorf("printed %q", s)
	}
}

func TestLookupErrorsDoNotSpeakToTheTerminal(t *testing.T) {
	c, signed, keys := signedMessage(t)
	evil := strings.Replace(signed, "s=s;", "s=\x1b[31mX;", 1)
	if r := c.run(evil, "verify --keys "+writeFile(t, "keys.tsv", keys)); strings.Contains(r.stdout+r.stderr, "\x1b") {
		t.Errorf("printed %q", r.stdout+r.stderr)
	}
}

func FuzzVerify(f *testing.F) {
	f.Add([]byte("DKIM-Signature: v=1; a=rsa-sha256; d=example.com; s=s; h=From; bh=x; b=y\nFrom: a\n\nbody\n"))
	if eml, err := os.ReadFile("../../testdata/messages/already-signed.eml"); err == nil {
		f.Add(eml)
	}
	lookup := func(string) ([]string, error) { return []string{"v=DKIM1; k=rsa; p="}, nil }
	f.Fuzz(func(t *testing.T, in []byte) {
		m, err := readMessage(bytes.NewReader(in))
		if err != nil {
			return
		}
		verdicts, err := verify(m, lookup)
		if err != nil {
			return
		}
		for _, v := range verdicts {
			if v.Pass {
				t.Fatalf("a signature passes with a revoked key: %v", v)
			}
		}
	})
}
