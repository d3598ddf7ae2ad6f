package signer

import (
	"bytes"
	"errors"
	"os"
	"strconv"
	"strings"
	"testing"
)

// TestAddressesAsMeasured: what Sendmail was seen to change is not signed, and
// what it left alone is, but for the odd.
func TestAddressesAsMeasured(t *testing.T) {
	data, err := os.ReadFile("testdata/sendmail.txt")
	if err != nil {
		t.Fatal(err)
	}
	cases := 0
	for line := range strings.Lines(string(data)) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		kind, quoted, _ := strings.Cut(strings.TrimSpace(line), " ")
		value, err := strconv.Unquote(strings.TrimSpace(quoted))
		if err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		cases++
		why := recipient.change(value, "", nil)
		if got, want := why != "", kind != "same"; got != want {
			t.Errorf("%q: changes: %v (%s), want %v", value, got, why, want)
		}
		if got := author.change(value, "", nil); got != why {
			t.Errorf("%q in From: %q, want %q as in To", value, got, why)
		}
	}
	if cases < 200 {
		t.Errorf("only %d cases", cases)
	}
}

func TestWhatElseSendmailChanges(t *testing.T) {
	name := strings.Repeat("n", 240)
	parameter := "; name=" + strings.Repeat("x", 900)
	for _, tt := range []struct {
		nature nature
		value  string
		want   string // in the reason; empty: stays as it is
	}{
		{recipient, "", ""},
		{author, " ", "empty"},
		{stamp, "", "empty"},
		{stamp, " <1@example.org>", ""},
		{plain, " a,b", ""},
		{recipient, " " + name + " <a@x.org>", ""},
		{recipient, " " + name + "nnnnnn <a@x.org>", "253 octets"},
		{recipient, " a@x.org (" + name + "nnnnnn)", "253 octets"},
		{recipient, strings.Repeat(" ann@example.org,\n", 200) + " bob@example.org", ""},
		{mime, ` text/plain; charset="utf-8"`, ""},
		{mime, ` text/plain; charset="utf-8`, "other half"},
		{mime, " text/plain (comment", "other half"},
		{mime, " text/plain; name=a)b", ""},
		{mime, ` text/plain; name="a\"b"`, ""},
		{mime, ` text/plain; name="a\`, "other half"},
		{mime, " text/plain" + parameter + parameter, ""},
		{mime, " text/plain" + parameter + parameter + parameter, "2040 octets"},
		{mime, " text/plain" + parameter + strings.Repeat("x", 200), "parameter"},
		{mime, " text/plain" + strings.Repeat("; a=b", 40), "parameters"},
	} {
		why := tt.nature.change(tt.value, "", nil)
		if got := why != ""; got != (tt.want != "") || !strings.Contains(why, tt.want) {
			t.Errorf("%.60q: %q, want %q", tt.value, why, tt.want)
		}
	}
}

func TestMasquerade(t *testing.T) {
	m := &Masquerade{Domains: []string{"mail.example.com", ".int.example.org"}}
	all := &Masquerade{Domains: m.Domains, Recipients: true}
	for _, tt := range []struct {
		nature  nature
		m       *Masquerade
		address string
		want    bool
	}{
		{author, m, "ann@MAIL.example.com", true},
		{author, nil, "ann@mail.example.com", false},
		{author, m, "ann@sub.mail.example.com", false},
		{author, m, "ann@example.com", false},
		{author, m, "ann@a.b.int.example.org", true},
		{author, m, "ann@int.example.org", false},
		{author, m, "ann@print.example.org", false},
		{sender, m, "x@x.org, ann@mail.example.com", true},
		{recipient, m, "ann@mail.example.com", false},
		{recipient, all, "ann@mail.example.com", true},
	} {
		if got := tt.nature.change(" "+tt.address, "", tt.m) != ""; got != tt.want {
			t.Errorf("%s, %v: replaced: %v, want %v", tt.address, tt.m, got, tt.want)
		}
	}
}

// TestOwnName: Sendmail writes its own name in the case in which it has it.
func TestOwnName(t *testing.T) {
	for value, want := range map[string]bool{
		" ann@mx.Example.com": false, " ann@MX.example.com": true, " Ann <ann@mx.example.com>, bob@x.org": true, " ann@a.MX.example.com": false,
	} {
		if got := recipient.change(value, "mx.Example.com", nil); (got != "") != want || want && !strings.Contains(got, "mx.Example.com") {
			t.Errorf("%q: %q, want a change: %v", value, got, want)
		}
	}
	m := New(Options{Host: "mx.example.com"})
	m.AddField("From", " ann@MX.example.com")
	if err := m.CheckFrom(); !errors.Is(err, ErrFromRewritten) {
		t.Errorf("From in another case: %v", err)
	}
}

// TestOnlyWhatChangesIsLeftOut: of several fields, those below the lowest one
// that changes are signed, and none is over-signed then. Behind Postfix, all are.
func TestOnlyWhatChangesIsLeftOut(t *testing.T) {
	m := simpleMessage()
	for _, to := range []string{"a@x.org", "a@x.org,b@x.org", "c@x.org", "d@x.org"} {
		m.fields = append(m.fields, Field{"To", " " + to})
	}
	m.fields = append(m.fields, Field{"Cc", " e@x.org"}, Field{"Reply-To", " postmaster"}, Field{"Content-Type", " text/plain; name=(\"x"})
	names := signedNames(t, m, Options{})
	for name, want := range map[string]int{"To": 2, "Cc": 2, "Reply-To": 0, "Content-Type": 0, "From": 2, "MIME-Version": 1} {
		if got := count(names, name); got != want {
			t.Errorf("%s is named %d times, want %d", name, got, want)
		}
	}
	if got := count(signedNames(t, m, Options{Profile: Postfix}), "To"); got != 5 {
		t.Errorf("behind Postfix, To is named %d times, want 5", got)
	}
	keys := testKeys(t)
	fields := m.sign(t, Options{}, keys)
	m.fields[1].Value, m.fields[2].Value = " a@x.org", " a@x.org, b@x.org"
	for i, err := range goVerify(t, m.text(fields), len(fields), records(t, keys)) {
		if err != nil {
			t.Errorf("signature %d does not verify once Sendmail is done: %v", i, err)
		}
	}
}

func TestFromThatChangesCannotBeSigned(t *testing.T) {
	for _, tt := range []struct {
		from string
		o    Options
		want error
	}{
		{" John Q. Public <john@example.org>", Options{}, ErrFromRewritten},
		{" \"John Q. Public\" <john@example.org>", Options{}, nil},
		{" John Q. Public <john@example.org>", Options{Profile: Postfix}, nil},
		{" ann@localhost", Options{}, ErrFromRewritten},
		{" ann@example.org", Options{Masquerade: &Masquerade{Domains: []string{"example.org"}}}, ErrFromRewritten},
	} {
		s := New(tt.o)
		s.AddField("From", tt.from)
		if err := s.CheckFrom(); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", tt.from, err, tt.want)
		}
		if _, err := s.Sign(testTime, testKeys(t)); !errors.Is(err, tt.want) {
			t.Errorf("%s: signing: %v, want %v", tt.from, err, tt.want)
		}
	}
}

// TestSendmailGetsRelaxedHeaders: it folds anew.
func TestSendmailGetsRelaxedHeaders(t *testing.T) {
	sig := simpleMessage().sign(t, Options{Header: Simple, Body: Simple}, testKeys(t))[0]
	if !strings.Contains(sig.Value, "c=relaxed/simple") {
		t.Errorf("%s, want relaxed/simple", sig.Value)
	}
}

// FuzzAddresses: the list parser takes everything, and its answer does not
// depend on how a field is folded.
func FuzzAddresses(f *testing.F) {
	data, err := os.ReadFile("testdata/sendmail.txt")
	if err != nil {
		f.Fatal(err)
	}
	for line := range bytes.Lines(data) {
		if i := bytes.IndexByte(line, '"'); i >= 0 {
			if value, err := strconv.Unquote(string(bytes.TrimSpace(line[i:]))); err == nil {
				f.Add(value)
			}
		}
	}
	m := &Masquerade{Domains: []string{"example.org", ".example.com"}}
	f.Fuzz(func(t *testing.T, value string) {
		for _, n := range []nature{plain, sender, recipient, author, stamp, mime} {
			why := n.change(value, "", m)
			folded := strings.ReplaceAll(value, " ", "\n ")
			if again := n.change(folded, "", m); n.list() && len(value) < maxMailbox/2 && (why == "") != (again == "") {
				t.Errorf("%q: %q, folded: %q", value, why, again)
			}
			if n.list() && why == "" && !isBlank(value) && n.change(value+",", "", m) == "" {
				t.Errorf("%q is said to stay with a comma behind it", value)
			}
		}
	})
}
