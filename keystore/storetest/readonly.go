package storetest

import (
	"context"
	"errors"
	"slices"
	"testing"

	"waxseal/keystore"
)

// OddNames are legal names of domains that a store or a query may stumble over.
// A product's own rules may be narrower.
var OddNames = []string{"localhost", "0", "1.2.3.4", "xn--bcher-kva.example", "a--b.example", "_dmarc.example", "a_b.example", label63 + ".example"}

// RunReadOnly tests a store that takes no changes, and has the domains with these
// names and no others, each with an active key.
func RunReadOnly(t *testing.T, s keystore.Store, names ...string) {
	slices.Sort(names)
	for _, name := range names {
		d := read(t, s, name)
		if d.Name != name || d.Version == 0 || len(d.Keys) == 0 || d.Whole() != nil {
			t.Errorf("%s: %+v", name, d)
			continue
		}
		usable(t, &d.Keys[0])
		if again := read(t, s, name); again.Version != d.Version {
			t.Errorf("%s: version %d, and then %d", name, d.Version, again.Version)
		}
		if err := s.Update(t.Context(), d); !errors.Is(err, keystore.ErrReadOnly) {
			t.Errorf("%s: an update: %v, want %v", name, err, keystore.ErrReadOnly)
		}
	}
	for _, name := range append(absentNames, "not-there.example", "*", "example.*") {
		if d, err := s.Domain(t.Context(), name); !errors.Is(err, keystore.ErrNotFound) {
			t.Errorf("Domain(%q) = %v, %v; want %v", name, d, err, keystore.ErrNotFound)
		}
	}
	for _, limit := range []int{1, 3, 0} {
		var got []string
		for after := ""; ; after = got[len(got)-1] {
			page, err := s.List(t.Context(), after, limit)
			if err != nil {
				t.Fatal(err)
			}
			if got = append(got, page...); len(page) == 0 || len(got) > len(names) {
				break
			}
		}
		if !slices.Equal(got, names) {
			t.Errorf("pages of %d: got %q, want %q", limit, got, names)
		}
	}
	d := read(t, s, names[0])
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Domain(ctx, names[0]); !errors.Is(err, context.Canceled) {
		t.Errorf("Domain: %v", err)
	}
	if _, err := s.List(ctx, "", 0); !errors.Is(err, context.Canceled) {
		t.Errorf("List: %v", err)
	}
	if _, err := d.Keys[0].Load(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Load: %v", err)
	}
}
