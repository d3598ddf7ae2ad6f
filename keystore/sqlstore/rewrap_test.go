package sqlstore_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"waxseal/keystore"
	"waxseal/keystore/sqlstore"
	"waxseal/keystore/storetest"
)

// wrapping are Options with the wrapping keys that storetest.Wrapper makes.
func wrapping(t testing.TB, keys ...byte) sqlstore.Options {
	t.Helper()
	w := storetest.Wrapper(t, keys...)
	return sqlstore.Options{Wrap: w.Wrap, Unwrap: w.Unwrap, Rewrap: w.Rewrap}
}

// privates returns what the table has of private halves, by selector.
func (p place) privates(t testing.TB, u string) map[string]string {
	t.Helper()
	rows, err := p.direct(t, u).Query(`SELECT domain, selector, private FROM waxseal_key`)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	all := map[string]string{}
	for rows.Next() {
		var domain, selector, private string
		if err := rows.Scan(&domain, &selector, &private); err != nil {
			t.Fatal(err)
		}
		all[selector+"."+domain] = private
	}
	return all
}

func TestRewrap(t *testing.T) {
	everywhere(t, func(t *testing.T, p place) {
		u, _ := p.url(t, "")
		plain := openAt(t, u, sqlstore.Options{})
		if _, _, err := plain.Migrate(t.Context()); err != nil {
			t.Fatal(err)
		}
		retired := storetest.Active(t, "b")
		retired.State, retired.Retired = keystore.Retired, now
		removed := storetest.Active(t, "c")
		d := &keystore.Domain{Name: "example.com", Keys: []keystore.Key{storetest.Active(t, "a"), retired, removed}}
		if err := plain.Update(t.Context(), d); err != nil {
			t.Fatal(err)
		}
		d.Keys[2].State, d.Keys[2].Retired, d.Keys[2].Revoked, d.Keys[2].Removed = keystore.Removed, now, now, now
		if err := plain.Update(t.Context(), d); err != nil {
			t.Fatal(err)
		}
		version := d.Version
		if _, err := plain.Rewrap(t.Context(), "example.com", false); err == nil {
			t.Error("Rewrap without a wrapping key works")
		}

		check := func(o sqlstore.Options) {
			t.Helper()
			s := openAt(t, u, o)
			if found := keystore.CheckKeys(t.Context(), s, "example.com"); len(found) > 0 {
				t.Error(found)
			}
			if d, err := s.Signing(t.Context(), "example.com"); err != nil || d.Version != version {
				t.Errorf("%+v, %v", d, err)
			} else if _, err := d.Keys[0].Load(t.Context()); err != nil {
				t.Error(err)
			}
		}
		rewrap := func(o sqlstore.Options) {
			t.Helper()
			s := openAt(t, u, o)
			before := p.privates(t, u)
			for _, dryRun := range []bool{true, false} {
				if got, err := s.Rewrap(t.Context(), "example.com", dryRun); err != nil || !slices.Equal(got, []string{"a", "b"}) {
					t.Errorf("Rewrap, dry run %v: %q, %v", dryRun, got, err)
				}
				after := p.privates(t, u)
				for name, private := range after {
					changed := private != before[name]
					if want := !dryRun && name != "c.example.com"; changed != want {
						t.Errorf("dry run %v: %s changed: %v", dryRun, name, changed)
					}
					if !dryRun && strings.Contains(private, "BEGIN PRIVATE KEY") {
						t.Errorf("%s is there in plain text", name)
					}
				}
			}
			if got, err := s.Rewrap(t.Context(), "example.com", false); err != nil || len(got) > 0 {
				t.Errorf("Rewrap again: %q, %v", got, err)
			}
		}
		check(wrapping(t, 1)) // what is in plain text is read all the same
		rewrap(wrapping(t, 1))
		check(wrapping(t, 1))
		rewrap(wrapping(t, 2, 1)) // another wrapping key takes over
		check(wrapping(t, 2))
		s := openAt(t, u, wrapping(t, 3))
		if got, err := s.Rewrap(t.Context(), "example.com", false); err == nil || len(got) > 0 || !strings.Contains(err.Error(), "key_encryption_key") {
			t.Errorf("Rewrap without the old wrapping key: %q, %v", got, err)
		}
		check(wrapping(t, 2))
		// One bad row stops no other key, but its own is not passed over in silence:
		// the old wrapping key would be thrown away.
		execute(t, p.direct(t, u), "UPDATE waxseal_key SET created = 'x' WHERE selector = 'a'")
		s = openAt(t, u, wrapping(t, 4, 2))
		for _, dryRun := range []bool{true, false} {
			if got, err := s.Rewrap(t.Context(), "example.com", dryRun); !slices.Equal(got, []string{"b"}) || err == nil || !strings.Contains(err.Error(), `selector "a"`) {
				t.Errorf("dry run %v with a bad row: %q, %v", dryRun, got, err)
			}
		}
		if _, err := s.Rewrap(t.Context(), "example.net", false); !errors.Is(err, keystore.ErrNotFound) {
			t.Errorf("a domain that is not there: %v", err)
		}
	})
}

// Several may do it at once, beside changes of the domain; what comes second is
// told so, and no key is lost.
func TestRewrapByManyAtOnce(t *testing.T) {
	everywhere(t, func(t *testing.T, p place) {
		u, _ := p.url(t, "")
		plain := openAt(t, u, sqlstore.Options{})
		if _, _, err := plain.Migrate(t.Context()); err != nil {
			t.Fatal(err)
		}
		storetest.Create(t, plain, "example.com", "a", "b", "c")
		var group sync.WaitGroup
		for range 4 {
			s := openAt(t, u, wrapping(t, 1))
			group.Go(func() {
				if _, err := s.Rewrap(t.Context(), "example.com", false); err != nil && !errors.Is(err, keystore.ErrConflict) {
					t.Error(err)
				}
			})
		}
		changer := openAt(t, u, wrapping(t, 1))
		group.Go(func() {
			for i := range 5 {
				d, err := changer.Domain(t.Context(), "example.com")
				if err != nil {
					t.Error(err)
					return
				}
				d.Keys = append(d.Keys, storetest.Active(t, fmt.Sprintf("new%d", i)))
				if err := changer.Update(t.Context(), d); err != nil {
					t.Error(err)
				}
			}
		})
		group.Wait()
		if _, err := changer.Rewrap(t.Context(), "example.com", false); err != nil {
			t.Error(err)
		}
		only := openAt(t, u, wrapping(t, 1))
		if found := keystore.CheckKeys(t.Context(), only, "example.com"); len(found) > 0 {
			t.Error(found)
		}
		all := p.privates(t, u)
		for name, private := range all {
			if !strings.Contains(private, "WAXSEAL WRAPPED KEY") {
				t.Errorf("%s is not encrypted", name)
			}
		}
		if len(all) != 8 {
			t.Errorf("%d keys, want 8", len(all))
		}
	})
}

// The connection is lost after each piece that is sent or received: every key
// stays readable, and the next run ends what was begun.
func TestRewrapWithALostConnection(t *testing.T) {
	servers(t, func(t *testing.T, p place) {
		options := wrapping(t, 1, 2)
		s, proxy, u := p.behind(t, options)
		direct := strings.Replace(u, proxy.Address, p.server.Get(t).Addr, 1)
		storetest.Create(t, s, "example.com", "a", "b")
		old, reader := openAt(t, direct, wrapping(t, 2, 1)), openAt(t, direct, options)
		cut := 0
		for n := 1; ; n++ {
			proxy.CutAt(0)
			if _, err := old.Rewrap(t.Context(), "example.com", false); err != nil {
				t.Fatal(err)
			}
			proxy.CutAt(n)
			got, err := s.Rewrap(t.Context(), "example.com", false)
			if err == nil && len(got) != 2 {
				t.Errorf("cut at piece %d: %q without an error", n, got)
			}
			if found := keystore.CheckKeys(t.Context(), reader, "example.com"); len(found) > 0 {
				t.Errorf("cut at piece %d: %v", n, found)
			}
			if !proxy.WasCut() {
				break // it has fewer pieces
			}
			cut = n
			proxy.CutAt(0)
			if _, err := s.Rewrap(t.Context(), "example.com", false); err != nil {
				t.Errorf("again after a cut at piece %d: %v", n, err)
			}
			if left, err := reader.Rewrap(t.Context(), "example.com", true); err != nil || len(left) > 0 {
				t.Errorf("after that, %q are left, %v", left, err)
			}
		}
		if cut < 4 {
			t.Errorf("cut only %d times", cut)
		}
	})
}
