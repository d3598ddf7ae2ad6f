package signer

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// signedNames are the names in h= of a signature over m.
func signedNames(t *testing.T, m testMessage, o Options) []string {
	t.Helper()
	sig := m.sign(t, o, testKeys(t)[:1])[0]
	if err := naiveVerify(sig.Value, m, testKeys(t)[0].Signer.Public()); err != nil {
		t.Errorf("%v in\n%s", err, sig.Value)
	}
	return strings.Split(unfold(mustTags(t, sig.Value)["h"]), ":")
}

func count(names []string, name string) int {
	n := 0
	for _, s := range names {
		if strings.EqualFold(s, name) {
			n++
		}
	}
	return n
}

// TestDefaultFields has a message with every field that is signed by default
// and one with From alone.
func TestDefaultFields(t *testing.T) {
	full := signedNames(t, simpleMessage(DefaultSigned()[1:]...), Options{Profile: Postfix})
	bare := signedNames(t, simpleMessage(), Options{Profile: Postfix})
	for _, name := range DefaultSigned() {
		want := 0
		if slices.Contains(DefaultOversigned(), name) {
			want = 1
		}
		if got := count(full, name); got != want+1 {
			t.Errorf("%s is named %d times where it is present, want %d", name, got, want+1)
		}
		if name == "From" {
			want++ // the bare message has one too
		}
		if got := count(bare, name); got != want {
			t.Errorf("%s is named %d times where it is absent, want %d", name, got, want)
		}
	}
	for _, name := range DefaultOversigned() {
		if !slices.Contains(DefaultSigned(), name) {
			t.Errorf("%s is over-signed but not signed", name)
		}
	}
	// What RFC 6376, section 5.4.1, RFC 8058, section 4, and RFC 9477, section
	// 3, ask for.
	for _, name := range []string{"From", "Reply-To", "Subject", "Date", "To", "Cc", "Resent-Date", "Resent-From",
		"Resent-To", "Resent-Cc", "In-Reply-To", "References", "List-Id", "List-Help", "List-Unsubscribe",
		"List-Subscribe", "List-Post", "List-Owner", "List-Archive", "List-Unsubscribe-Post", "CFBL-Address", "CFBL-Feedback-ID"} {
		if count(full, name) == 0 {
			t.Errorf("%s is not signed", name)
		}
	}
	for _, name := range []string{"Sender", "List-Unsubscribe", "Resent-From"} {
		if slices.Contains(DefaultOversigned(), name) {
			t.Errorf("%s is over-signed; lists and resenders add it", name)
		}
	}
}

// TestCareful: what Sendmail adds later is not named while it is absent.
func TestCareful(t *testing.T) {
	for _, name := range []string{"Date", "Message-ID"} {
		for _, tt := range []struct {
			profile Profile
			m       testMessage
			want    int
		}{
			{Sendmail, simpleMessage(), 0},
			{Postfix, simpleMessage(), 1},
			{Sendmail, simpleMessage(name), 2},
			{Postfix, simpleMessage(name), 2},
		} {
			if got := count(signedNames(t, tt.m, Options{Profile: tt.profile}), name); got != tt.want {
				t.Errorf("profile %d: %s is named %d times, want %d", tt.profile, name, got, tt.want)
			}
		}
	}
	if got := count(signedNames(t, simpleMessage(), Options{}), "Subject"); got != 1 {
		t.Errorf("absent Subject is named %d times, want once", got)
	}
	// And Sendmail's additions do not break the signature.
	m := simpleMessage("To")
	keys := testKeys(t)
	fields := m.sign(t, Options{}, keys)
	m.fields = append(m.fields, Field{"Date", " Fri, 20 Nov 2026 09:30:00 +0100"}, Field{"Message-Id", " <1@example.org>"})
	for _, err := range goVerify(t, m.text(fields), 2, records(t, keys)) {
		if err != nil {
			t.Errorf("after Date and Message-Id were added: %v", err)
		}
	}
}

func TestNeverSigned(t *testing.T) {
	names := []string{"Return-Path", "Received", "Received-SPF", "Delivered-To", "Bcc", "Resent-Bcc", "Comments", "Keywords",
		"DKIM-Signature", "DomainKey-Signature", "ARC-Seal", "ARC-Message-Signature", "ARC-Authentication-Results",
		"Authentication-Results", "Content-Length", "Status", "X-Status", "X-Spam-Status", "X-Spam-Flag", "X-Virus-Scanned",
		"X-Original-To", "Message-Instance", "DKIM2-Signature", "BIMI-Location", "BIMI-Indicator", "BIMI-Logo-Preference", "X-Foo"}
	got := signedNames(t, simpleMessage(names...), Options{})
	for _, name := range names {
		if count(got, name) > 0 {
			t.Errorf("%s is signed by default", name)
		}
		if name == "X-Foo" {
			continue
		}
		for _, spelling := range []string{name, strings.ToUpper(name), strings.ToLower(name)} {
			if _, err := NewFields([]string{spelling}, nil); err == nil || !strings.Contains(err.Error(), spelling) {
				t.Errorf("NewFields with %s signed: error %v", spelling, err)
			}
			if _, err := NewFields(nil, []string{spelling}); err == nil || !strings.Contains(err.Error(), spelling) {
				t.Errorf("NewFields with %s over-signed: error %v", spelling, err)
			}
		}
	}
}

func TestNewFields(t *testing.T) {
	for _, bad := range []string{"", " ", "a b", "a:b", "Subject:", "a;l=0", "a\r\nBcc", "a\x00", "\u00fcber", "X-*", "*", "a\tb", "a\x7f", strings.Repeat("a", 77)} {
		if _, err := NewFields([]string{"To", bad}, nil); err == nil {
			t.Errorf("NewFields accepts %q", bad)
		} else if strings.ContainsAny(err.Error(), "\r\x00") {
			t.Errorf("error %q has control characters", err)
		}
	}
	// All bad names are reported at once.
	if _, err := NewFields([]string{"Bcc", "To", "a b"}, []string{"Received"}); err == nil {
		t.Error("NewFields accepts three bad names")
	} else {
		for _, name := range []string{"Bcc", "a b", "Received"} {
			if !strings.Contains(err.Error(), name) {
				t.Errorf("error %q does not tell of %s", err, name)
			}
		}
	}
	var many []string
	for i := range maxNames {
		many = append(many, fmt.Sprintf("X-%d", i))
	}
	if _, err := NewFields(many[1:], []string{}); err != nil {
		t.Errorf("NewFields with %d names and From: %v", maxNames-1, err)
	}
	if _, err := NewFields(many, []string{}); err == nil {
		t.Errorf("NewFields accepts %d names and From", maxNames)
	}

	for _, tt := range []struct {
		name              string
		signed, oversided []string
		m                 testMessage
		want              []string
	}{
		{"From is always there", []string{}, []string{}, simpleMessage("To"), []string{"From", "From"}},
		{"order and spelling of the list", []string{"subject", "X-Foo", "FROM"}, []string{}, simpleMessage("X-FOO", "Subject"), []string{"From", "From", "subject", "X-Foo"}},
		{"listed twice", []string{"To", "to"}, []string{"TO"}, simpleMessage("To"), []string{"From", "From", "To", "To"}},
		{"over-signed but not in the other list", []string{"To"}, []string{"X-Foo"}, simpleMessage("To"), []string{"From", "From", "To", "X-Foo"}},
		{"over-signed Sender", []string{"Sender"}, []string{"Sender"}, simpleMessage("Sender"), []string{"From", "From", "Sender", "Sender"}},
	} {
		f, err := NewFields(tt.signed, tt.oversided)
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		if got := signedNames(t, tt.m, Options{Fields: f}); !reflect.DeepEqual(got, tt.want) {
			t.Errorf("%s: h=%v, want %v", tt.name, got, tt.want)
		}
	}
}

// TestInstances: all instances are named, and from the bottom up (RFC 6376,
// section 5.4.2).
func TestInstances(t *testing.T) {
	for named := 1; named <= 3; named++ {
		m := simpleMessage()
		for i := range named {
			m.fields = append(m.fields, Field{"X-A", fmt.Sprintf(" %d", i)}, Field{"X-Other", " x"})
		}
		for _, over := range [][]string{{}, {"X-A"}} {
			f, err := NewFields([]string{"X-A"}, over)
			if err != nil {
				t.Fatal(err)
			}
			got := signedNames(t, m, Options{Fields: f})
			if want := named + len(over); count(got, "x-a") != want {
				t.Errorf("%d instances, over-signed %v: named %d times, want %d", named, over, count(got, "x-a"), want)
			}
		}
	}
	// The order matters: turned around, the signature breaks.
	m := simpleMessage()
	m.fields = append(m.fields, Field{"Cc", " a@example.net"}, Field{"Cc", " b@example.net"})
	keys := testKeys(t)
	fields := m.sign(t, Options{}, keys)
	slices.Reverse(m.fields)
	for i, err := range goVerify(t, m.text(fields), 2, records(t, keys)) {
		if err == nil {
			t.Errorf("signature %d verifies with Cc fields exchanged", i)
		}
	}
}

// TestOversigned adds a second instance of each over-signed field, on top and
// at the bottom, to a message that had one and to one that had none.
func TestOversigned(t *testing.T) {
	keys := testKeys(t)
	for _, name := range DefaultOversigned() {
		for _, present := range []bool{true, false} {
			m := simpleMessage()
			if present && name != "From" {
				m = simpleMessage(name)
			}
			fields := m.sign(t, Options{Profile: Postfix}, keys)
			for i, err := range goVerify(t, m.text(fields), 2, records(t, keys)) {
				if err != nil {
					t.Errorf("%s: untouched signature %d: %v", name, i, err)
				}
			}
			added := Field{strings.ToUpper(name), " added"}
			top, bottom := m, m
			top.fields = append([]Field{added}, m.fields...)
			bottom.fields = append(slices.Clone(m.fields), added)
			for where, tampered := range map[string]testMessage{"on top": top, "at the bottom": bottom} {
				for i, err := range goVerify(t, tampered.text(fields), 2, records(t, keys)) {
					if err == nil {
						t.Errorf("signature %d verifies with %s added %s (present before: %v)", i, name, where, present)
					}
				}
			}
		}
	}
}

// TestChanged: a signed field that changes breaks the signature.
func TestChanged(t *testing.T) {
	keys := testKeys(t)
	m := simpleMessage(DefaultSigned()[1:]...)
	fields := m.sign(t, Options{}, keys)
	for i := range m.fields {
		changed := m
		changed.fields = slices.Clone(m.fields)
		changed.fields[i].Value += "x"
		for n, err := range goVerify(t, changed.text(fields), 2, records(t, keys)) {
			if err == nil {
				t.Errorf("signature %d verifies with another %s", n, m.fields[i].Name)
			}
		}
	}
}

// TestBoundedNames: thousands of fields do not make h= endless, and what it
// covers then still verifies.
func TestBoundedNames(t *testing.T) {
	m := simpleMessage("Subject")
	for i := range 5000 {
		m.fields = append(m.fields, Field{"Cc", fmt.Sprintf(" %d@example.net", i)}, Field{fmt.Sprintf("X-%d", i), " x"}, Field{"To", " y@example.net"})
	}
	names := signedNames(t, m, Options{})
	if got := count(names, "Cc") + count(names, "To"); got != maxRepeats+2 {
		t.Errorf("To and Cc are named %d times, want %d", got, maxRepeats+2)
	}
	if got := count(names, "Subject"); got != 2 {
		t.Errorf("Subject is named %d times, want 2", got)
	}

	// The worst that lists and message can do.
	var long []string
	for i := range maxNames - 1 {
		long = append(long, fmt.Sprintf("X-%074d", i))
	}
	f, err := NewFields(long, long)
	if err != nil {
		t.Fatal(err)
	}
	m = simpleMessage(long...)
	for range 5000 {
		m.fields = append(m.fields, Field{long[0], " again"})
	}
	k := Key{Domain: "example.org", Selector: "s", Signer: loadKey(t, "rsa-4096")}
	sig := m.sign(t, Options{Fields: f}, []Key{k})[0]
	checkForm(t, sig, k)
	if n := len(sig.Name) + len(sig.Value); n > 32<<10 {
		t.Errorf("field of %d octets, want at most 32 KiB", n)
	}
}

func TestNoFrom(t *testing.T) {
	for _, tt := range []struct {
		name   string
		fields []Field
		want   error
	}{
		{"no field", nil, ErrNoFrom},
		{"no From", []Field{{"Sender", " ann@example.org"}, {"X-From", " a"}, {"Fr", " om"}, {strings.Repeat("From", 30), " x"}}, ErrNoFrom},
		{"two From", []Field{{"From", " ann@example.org"}, {"To", " b"}, {"from", " eve@example.org"}}, ErrSeveralFrom},
		{"two From, one with a blank", []Field{{"From", " ann@example.org"}, {"FROM \t", " eve@example.org"}}, ErrSeveralFrom},
		{"the same From twice", []Field{{"From", " a"}, {"From", " a"}}, ErrSeveralFrom},
		{"one From", []Field{{"From ", " a@example.org"}}, nil},
	} {
		s := New(Options{})
		testMessage{fields: tt.fields}.feed(t, s)
		got, err := s.Sign(testTime, testKeys(t))
		if !errors.Is(err, tt.want) || (got == nil) != (tt.want != nil) {
			t.Errorf("%s: %d signatures, error %v, want %v", tt.name, len(got), err, tt.want)
		}
	}
}
