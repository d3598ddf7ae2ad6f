package keystore

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

var noon = time.Date(2026, 11, 22, 12, 0, 0, 999, time.UTC)

// domainWith has one Ed25519 key for each state, named s0, s1, …
func domainWith(states ...State) *Domain {
	d := &Domain{Name: "example.com", Version: 1}
	for i, s := range states {
		d.Keys = append(d.Keys, Key{
			Selector: fmt.Sprintf("s%d", i), Algorithm: Ed25519, State: s, Public: make([]byte, ed25519.PublicKeySize),
			Created: noon, Seen: noon, Ready: noon, Retired: noon, Revoked: noon,
		})
	}
	return d
}

func TestStepsOfAKeysLife(t *testing.T) {
	day := 24 * time.Hour
	type step = func(*Domain, string, Warrant) error
	var (
		activate step = (*Domain).Activate
		retire   step = (*Domain).Retire
		revoke   step = (*Domain).Revoke
		remove   step = (*Domain).Remove
	)
	for _, test := range []struct {
		name  string
		other State // of a second key
		from  State
		step  step
		after time.Duration
		force bool
		want  State
		err   string
	}{
		{"a pending key is activated", "", Pending, activate, 0, false, Active, ""},
		{"an active key is not activated again", "", Active, activate, 0, false, "", "want pending"},
		{"nor when forced", "", Active, activate, 0, true, "", "want pending"},
		{"a retired key is not activated", "", Retired, activate, 0, false, "", "forced"},
		{"unless forced", "", Retired, activate, 0, true, Active, ""},
		{"a revoked key never", "", Revoked, activate, 0, true, "", "want pending"},
		{"a removed key never", "", Removed, activate, 0, true, "", "want pending"},

		{"an active key is retired", Active, Active, retire, 0, false, Retired, ""},
		{"the last active key is not", Pending, Active, retire, 0, false, "", "last active key"},
		{"unless forced", Pending, Active, retire, 0, true, Retired, ""},
		{"a pending key is not retired", Active, Pending, retire, 0, true, "", "want active"},
		{"a retired key is not retired", Active, Retired, retire, 0, true, "", "want active"},

		{"a retired key is revoked after grace", "", Retired, revoke, Grace, false, Revoked, ""},
		{"not before", "", Retired, revoke, Grace - time.Minute, false, "", "until 2026-11-29T12:00:00Z"},
		{"unless forced", "", Retired, revoke, 0, true, Revoked, ""},
		{"an active key is not revoked", Active, Active, revoke, 0, false, "", "force"},
		{"unless forced", "", Active, revoke, 0, true, Revoked, ""},
		{"a pending key likewise", "", Pending, revoke, 0, true, Revoked, ""},
		{"a revoked key is not revoked", "", Revoked, revoke, 9 * day, true, "", "want retired"},
		{"a removed key is not revoked", "", Removed, revoke, 9 * day, true, "", "want retired"},

		{"a pending key is removed", "", Pending, remove, 0, false, Removed, ""},
		{"an active key is not removed", Active, Active, remove, 0, false, "", "retire it first"},
		{"the last active key is not removed", "", Active, remove, 0, false, "", "last active key"},
		{"unless forced", "", Active, remove, 0, true, Removed, ""},
		{"a retired key is removed after grace", "", Retired, remove, Grace, false, Removed, ""},
		{"not before", "", Retired, remove, 6 * day, false, "", "mail under way"},
		{"unless forced", "", Retired, remove, 6 * day, true, Removed, ""},
		{"a revoked key is removed after grace", "", Revoked, remove, Grace, false, Removed, ""},
		{"not before", "", Revoked, remove, 6 * day, false, "", "mail under way"},
		{"a removed key is not removed", "", Removed, remove, 0, true, "", "removed already"},
	} {
		d := domainWith(test.from)
		if test.other != "" {
			d = domainWith(test.from, test.other)
		}
		d.Keys[0].Reason = "before"
		s := Warrant{Now: noon.Add(test.after), Force: test.force}
		if test.force {
			s.Reason = "because"
		}
		was := d.Keys[0]
		err := test.step(d, "s0", s)
		k := d.Keys[0]
		if test.err != "" {
			if err == nil || !strings.Contains(err.Error(), test.err) || !strings.Contains(err.Error(), "s0.example.com") {
				t.Errorf("%s: %v, want an error with %q", test.name, err, test.err)
			}
			if k.State != was.State || k.Reason != was.Reason || k.Activated != was.Activated || k.Removed != was.Removed {
				t.Errorf("%s: refused, but the key changed", test.name)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", test.name, err)
			continue
		}
		if k.State != test.want {
			t.Errorf("%s: state %s, want %s", test.name, k.State, test.want)
		}
		at := map[State]time.Time{Active: k.Activated, Retired: k.Retired, Revoked: k.Revoked, Removed: k.Removed}[test.want]
		if want := s.Now.Truncate(time.Second); at != want {
			t.Errorf("%s: time stamp %v, want %v", test.name, at, want)
		}
		if want := map[bool]string{true: "because", false: "before"}[test.force]; k.Reason != want {
			t.Errorf("%s: reason %q, want %q", test.name, k.Reason, want)
		}
		if test.want == Active && !k.Retired.IsZero() && test.from == Retired {
			t.Errorf("%s: still has the time it was retired", test.name)
		}
	}
}

func TestStepsRefuse(t *testing.T) {
	d := domainWith(Active, Active)
	if err := d.Retire("s0", Warrant{Now: noon, Force: true}); err == nil || !strings.Contains(err.Error(), "reason") {
		t.Errorf("forced without a reason: %v", err)
	}
	if err := d.Retire("s0", Warrant{Now: noon, Reason: "a\nb"}); err == nil {
		t.Error("a reason of two lines was taken")
	}
	if err := d.Retire("nosuch", Warrant{Now: noon}); !errors.Is(err, ErrNotFound) {
		t.Errorf("a key that is not there: %v", err)
	}
}

func TestAdd(t *testing.T) {
	d := domainWith(Removed)
	k := Key{Selector: "s0", Algorithm: Ed25519, Public: make([]byte, 32)}
	if err := d.MayAdd("s0", Warrant{Now: noon}); err == nil || !strings.Contains(err.Error(), "s0.example.com") {
		t.Errorf("the selector of a removed key may be added: %v", err)
	}
	if err := d.MayAdd("2026a", Warrant{Now: noon}); err != nil {
		t.Error(err)
	}
	if err := d.Add(k, Warrant{Now: noon}); err == nil || !strings.Contains(err.Error(), "2026a") {
		t.Errorf("the selector of a removed key: %v, want an error that names a free one", err)
	}
	k.Selector, k.State, k.Activated = "2026a", Active, noon
	if err := d.Add(k, Warrant{Now: noon}); err != nil {
		t.Fatal(err)
	}
	if got := d.Key("2026a"); got.State != Pending || got.Created != noon.Truncate(time.Second) || !got.Activated.IsZero() {
		t.Errorf("added key is %s, created %v, activated %v", got.State, got.Created, got.Activated)
	}
	for _, bad := range []Key{
		{Selector: "A", Algorithm: Ed25519, Public: make([]byte, 32)},
		{Selector: "b", Algorithm: Ed25519, Public: make([]byte, 31)},
		{Selector: "b", Algorithm: RSA2048, Public: make([]byte, 32)},
		{Selector: "b", Algorithm: Ed25519, Public: make([]byte, 32), Note: "\n"},
	} {
		if err := d.Add(bad, Warrant{Now: noon}); err == nil {
			t.Errorf("%+v was added", bad)
		}
	}
	if len(d.Keys) != 2 {
		t.Errorf("%d keys, want 2", len(d.Keys))
	}
}

func TestNextSelector(t *testing.T) {
	if got := NextSelector(nil, noon); got != "2026a" {
		t.Errorf("of no domain: %s", got)
	}
	d := &Domain{Name: "example.com", Keys: []Key{{Selector: "2025z"}, {Selector: "2026a", State: Removed}, {Selector: "2026c"}}}
	if got := NextSelector(d, noon); got != "2026b" {
		t.Errorf("got %s, want 2026b", got)
	}
	d.Keys = nil
	want := map[int]string{0: "2026a", 1: "2026b", 25: "2026z", 26: "2026aa", 27: "2026ab", 51: "2026az", 52: "2026ba", 701: "2026zz", 702: "2026aaa"}
	for n := range 703 { // n selectors are used
		selector := "2026" + letters(n+1)
		if want[n] != "" {
			if got := NextSelector(d, noon); got != want[n] || got != selector {
				t.Errorf("after %d selectors comes %s, want %s", n, got, want[n])
			}
		}
		d.Keys = append(d.Keys, Key{Selector: selector})
	}
	if got := NextSelector(nil, time.Date(2026, 12, 31, 23, 30, 0, 0, time.FixedZone("", -3600))); got != "2027a" {
		t.Errorf("the year counts in UTC: %s", got)
	}
}

func FuzzValidNames(f *testing.F) {
	for _, s := range []string{"example.com", "_a.b-c.d", "-a", "a..b", "A", "ü", strings.Repeat("a", 64), "a.", "..", "a/b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if ValidDomain(s) != nil {
			return
		}
		if len(s) == 0 || len(s) > 253 || strings.ToLower(s) != s || strings.ContainsAny(s, "/\\;: \t\r\n\x00\"'()*@") ||
			strings.HasPrefix(s, ".") || strings.HasSuffix(s, ".") || strings.Contains(s, "..") {
			t.Errorf("%q is not the name of a domain", s)
		}
		for _, c := range []byte(s) {
			if c <= ' ' || c >= 0x7f {
				t.Errorf("%q has the octet %#x", s, c)
			}
		}
	})
}
