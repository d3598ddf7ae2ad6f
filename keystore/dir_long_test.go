package keystore

import (
	"hash/maphash"
	"strings"
	"testing"
	"time"
)

// thirtyYears is a domain after thirty years of a new key of each kind every month,
// each of which went through its whole life but the last two.
func thirtyYears(t testing.TB) *Domain {
	t.Helper()
	const months = 30 * 12
	start := time.Date(2026, 1, 1, 3, 0, 0, 0, time.UTC)
	d := &Domain{Name: "example.com"}
	keys := []Key{keyOf(t, "x", mustParse(t, "rsa2048-pkcs8.pem")), keyOf(t, "x", mustParse(t, "ed25519.pem"))}
	for month := range months {
		at := start.AddDate(0, month, 0)
		for i := range keys {
			k := keys[i]
			k.Selector = NextSelector(d, at)
			now := at
			by := func(reason string, later time.Duration) Warrant {
				now = now.Add(later)
				return Warrant{Now: now, By: "keeper@mx1.example.com", Reason: reason}
			}
			step := func(err error) {
				t.Helper()
				if err != nil {
					t.Fatal(err)
				}
			}
			step(d.Add(k, by("rsa signs since 2026-01-01", 0)))
			d.MarkPublished(k.Selector, by("publish its record", time.Second))
			w := by("every authoritative server shows the record", time.Minute)
			d.Observe(k.Selector, Sight{At: w.Now, State: Shown, TTL: time.Hour}, w)
			step(d.Activate(k.Selector, by("every authoritative server shows its record, and no resolver remembers anything else", 2*time.Hour)))
			if month == months-1 {
				continue
			}
			step(d.Retire(k.Selector, Warrant{Now: at.AddDate(0, 1, 0), By: "keeper@mx1.example.com", Reason: "2026b signs in its place", Force: true}))
			now = at.AddDate(0, 1, 0)
			step(d.Revoke(k.Selector, by("it stopped signing more than 7 days ago", 8*24*time.Hour)))
			w = by(withdrawnReason, time.Hour)
			d.Observe(k.Selector, Sight{At: w.Now, State: ShownRevoked}, w)
			step(d.Remove(k.Selector, by("it was revoked more than 7 days ago", 8*24*time.Hour)))
			w = by("its record is gone", time.Hour)
			d.Observe(k.Selector, Sight{At: w.Now, State: Missing}, w)
		}
	}
	return d
}

// A directory takes a domain for thirty years: it knows every selector that was
// used, and all that was done.
func TestADomainLivesThirtyYears(t *testing.T) {
	d := newDir(t, DirOptions{})
	dom := thirtyYears(t)
	if err := d.Update(t.Context(), dom); err != nil {
		t.Fatal(err)
	}
	got, err := d.Domain(t.Context(), dom.Name)
	if err != nil || got.Whole() != nil {
		t.Fatal(err, got.Whole())
	}
	if len(got.Keys) != 720 || len(got.History) != len(dom.History) {
		t.Fatalf("%d keys and %d events, want 720 and %d", len(got.Keys), len(got.History), len(dom.History))
	}
	now := Warrant{Now: time.Date(2056, 1, 1, 0, 0, 0, 0, time.UTC)}
	if err := got.Add(newKey(t, "2026a"), now); err == nil || !strings.Contains(err.Error(), "used before") {
		t.Errorf("the first selector again: %v", err)
	}
	if err := got.Add(newKey(t, "2056a"), now); err != nil {
		t.Fatal(err)
	}
	if err := d.Update(t.Context(), got); err != nil {
		t.Errorf("one more key: %v", err)
	}
}

// BenchmarkThirtyYears is what such a domain costs: reading its file, the first
// message, and a change. A young domain costs a thousandth.
func BenchmarkThirtyYears(b *testing.B) {
	d := newDir(b, DirOptions{})
	dom := thirtyYears(b)
	if err := d.Update(b.Context(), dom); err != nil {
		b.Fatal(err)
	}
	b.Run("read", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := d.Domain(b.Context(), dom.Name); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("cold lookup", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			c := Cache{store: d, opts: CacheOptions{Now: time.Now}, ctx: b.Context(), seed: maphash.MakeSeed()}
			if e, err := c.load(dom.Name, nil); err != nil || len(e.signing.Keys) != 2 {
				b.Fatal(err)
			}
		}
	})
	b.Run("change", func(b *testing.B) {
		for b.Loop() {
			dom.Keys[len(dom.Keys)-1].Note += "x"
			if len(dom.Keys[len(dom.Keys)-1].Note) > maxText {
				dom.Keys[len(dom.Keys)-1].Note = ""
			}
			if err := d.Update(b.Context(), dom); err != nil {
				b.Fatal(err)
			}
		}
	})
}
