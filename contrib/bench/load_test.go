//go:build linux

package main

import (
	"crypto/x509"
	"encoding/pem"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// waitFor waits until something is true that happens on its own.
func waitFor(t *testing.T, done func() bool) {
	t.Helper()
	for end := time.Now().Add(5 * time.Second); !done(); {
		if time.Now().After(end) {
			t.Fatal("it does not happen")
		}
		time.Sleep(time.Millisecond)
	}
}

// signingMilter makes a milter that signs with the RSA key.
func signingMilter(t *testing.T, k *keys) *fakeMilter {
	t.Helper()
	text, err := os.ReadFile(k.rsaPEM)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	key, err := x509.ParsePKCS1PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return &fakeMilter{key: key}
}

func TestLoadCountsAndItsSamplesVerify(t *testing.T) {
	k := testKeys(t)
	for _, protocol := range []uint32{0, leadingSpace} {
		f := signingMilter(t, k)
		f.protocol = protocol
		l := load{f.listen(t, "unix"), newMessage(3000), 3, 1, new(atomic.Int64)}
		// One message a connection, however short the time.
		if o := l.run(t.Context(), 0); o.sent != 3 || o.failures != 0 || len(o.ends) != 3 || len(o.kept) != 3 {
			t.Fatalf("%d messages, %d times, %d kept, %d failures (%v); want 3 of each and no failure", o.sent, len(o.ends), len(o.kept), o.failures, o.failure)
		}
		o := l.run(t.Context(), 300*time.Millisecond)
		if o.failures != 0 {
			t.Fatal(o.failure)
		}
		if f.ended != o.sent+3 {
			t.Errorf("%d messages counted, the milter has got %d", o.sent+3, f.ended)
		}
		if o.sent > 3*messagesPerSession && strings.Count(f.log(), "O") <= 6 {
			t.Errorf("%d messages over the first connections", o.sent)
		}
		for _, d := range o.kept {
			if err := k.verify(l.message.wire(d.number, d.added), onlyRSA); err != nil {
				t.Error(err)
			}
			if err := k.verify(l.message.wire(d.number+1, d.added), onlyRSA); err == nil {
				t.Errorf("the signature of message %d verifies on another", d.number)
			}
		}
	}
}

func TestLoadCountsUnsignedMessagesAsFailures(t *testing.T) {
	f := &fakeMilter{}
	l := load{f.listen(t, "tcp"), newMessage(100), 2, 1, new(atomic.Int64)}
	o := l.run(t.Context(), 0)
	if o.sent != 2 || o.failures != 2 || len(o.kept) != 0 {
		t.Errorf("%d messages, %d failures, %d kept; want 2, 2 and none", o.sent, o.failures, len(o.kept))
	}
}

func TestLoadGivesUpOnADeadMilter(t *testing.T) {
	l := load{address{"unix", t.TempDir() + "/none"}, newMessage(100), 1, 1, new(atomic.Int64)}
	o := l.run(t.Context(), time.Hour)
	if o.sent != 0 || o.failures != maxFailures || o.failure == nil {
		t.Errorf("%d messages, %d failures (%v); want none, %d and a reason", o.sent, o.failures, o.failure, maxFailures)
	}
}

func TestVerifyFindsWhatIsNotComparable(t *testing.T) {
	k := testKeys(t)
	for _, c := range []struct {
		name  string
		want  []algorithm
		spoil func(string) string
		err   string // "" is none
	}{
		{"a good signature", onlyRSA, nil, ""},
		{"a second signature is missing", []algorithm{rsa2048, edwards}, nil, "1 signatures, want 2"},
		{"the wrong algorithm", onlyEdwards, nil, "no signature with ed25519"},
		{"a broken signature", onlyRSA, func(s string) string { return strings.Replace(s, "bh=", "bh=AAAA", 1) }, "did not verify"},
		{"simple canonicalization", onlyRSA, func(s string) string { return strings.Replace(s, "c=relaxed/relaxed", "c=relaxed/simple", 1) }, "want relaxed/relaxed"},
		{"a field less", onlyRSA, func(s string) string { return strings.Replace(s, ":Subject", "", 1) }, "subject is there"},
		{"a field more", onlyRSA, func(s string) string { return strings.Replace(s, ":Subject", ":Subject:X-Mailer", 1) }, "x-mailer is there"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := signingMilter(t, k)
			f.spoil = c.spoil
			s, err := dial(t.Context(), f.listen(t, "unix"))
			if err != nil {
				t.Fatal(err)
			}
			defer s.close()
			m := newMessage(500)
			a, err := s.deliver(m, 1)
			if err != nil {
				t.Fatal(err)
			}
			err = k.verify(m.wire(1, a.added), c.want)
			switch {
			case c.err == "" && err != nil:
				t.Error(err)
			case c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)):
				t.Errorf("error %v, want one with %q", err, c.err)
			}
		})
	}
}
