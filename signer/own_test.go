package signer

import (
	"strings"
	"testing"
	"time"
)

func TestAMessageIsNotSignedTwice(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	keys := testKeys(t)
	original := parseMessage(t, []byte("From: ann@example.com\r\nTo: bob@example.net,\r\n\tcarol@example.net\r\nTo: again\r\nSubject:  hello  \r\n\r\nbody \r\n\r\n"))
	for _, o := range []Options{{}, {Header: Simple, Body: Simple}, {Body: Simple}, {Profile: Postfix}} {
		m := New(o)
		original.feed(t, m)
		fields, err := m.Sign(now, keys)
		if err != nil {
			t.Fatal(err)
		}
		text := string(original.text(fields))
		check := func(what, text string, o Options, now time.Time, keys []Key, want bool) {
			t.Helper()
			m := New(o)
			parseMessage(t, []byte(text)).feed(t, m)
			if got := m.AlreadySigned(now, keys); got != want {
				t.Errorf("%v, %s: %v, want %v", o, what, got, want)
			}
			if _, err := m.Sign(now, keys); err != nil {
				t.Errorf("%v, %s: signing after the question: %v", o, what, err)
			}
		}
		later := now.Add(time.Hour)
		check("as it left", text, o, later, keys, true)
		check("with a Received on top", "Received: by filter\r\n"+text, o, later, keys, true)
		check("without any signature", string(original.text(nil)), o, later, keys, false)
		check("with another body", text+"more\r\n", o, later, keys, false)
		check("with another subject", strings.Replace(text, "hello", "hullo", 1), o, later, keys, false)
		check("with a second subject", "Subject: two\r\n"+text, o, later, keys, false)
		check("with somebody's signature on top", "DKIM-Signature: v=1; d=example.org; s=x; b=\r\n"+text, o, later, keys, false)
		check("with a tag twice", strings.Replace(text, "v=1;", "v=1; v=1;", 1), o, later, keys, false)
		check("with a length", strings.Replace(text, "v=1;", "v=1; l=0;", 1), o, later, keys, false)
		check("by other keys", text, o, later, []Key{{Domain: "example.com", Selector: "other", Signer: keys[0].Signer}}, false)
		check("by another domain's keys", text, o, later, []Key{{Domain: "example.org", Selector: keys[0].Selector, Signer: keys[0].Signer}}, false)
		other := o
		other.Body = 1 - o.Body
		check("with another canonicalization", text, other, later, keys, false)
	}
	// An expired signature does not count.
	short := append([]Key(nil), keys...)
	for i := range short {
		short[i].Lifetime = time.Minute
	}
	m := New(Options{})
	original.feed(t, m)
	fields, err := m.Sign(now, short)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		after time.Duration
		want  bool
	}{{0, true}, {59 * time.Second, true}, {time.Minute, false}} {
		m.Reset(Options{})
		parseMessage(t, original.text(fields)).feed(t, m)
		if got := m.AlreadySigned(now.Add(c.after), short); got != c.want {
			t.Errorf("%v after signing for a minute: %v, want %v", c.after, got, c.want)
		}
	}
}

// FuzzAlreadySigned wants no forged signature to pass, and no panic.
func FuzzAlreadySigned(f *testing.F) {
	keys := testKeys(f)
	f.Add(" v=1; a=rsa-sha256; c=relaxed/relaxed; d=example.com; s=rsa; h=From:From:X; bh=; b=AAAA")
	f.Add(" ;;=;b")
	f.Fuzz(func(t *testing.T, value string) {
		m := New(Options{})
		m.AddField("DKIM-Signature", value)
		m.AddField("From", " a@example.com")
		m.Write([]byte("never signed\r\n"))
		if m.AlreadySigned(time.Unix(0, 0), keys) {
			t.Fatalf("%q passes", value)
		}
	})
}
