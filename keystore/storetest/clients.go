package storetest

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"

	"waxseal/keystore"
)

// RunClients tests that of many clients that change the same domain at once each
// loses nothing. Every store of the list is another client of the same, empty
// store.
func RunClients(t *testing.T, stores ...keystore.Store) {
	createRace(t, stores...)
	updateRace(t, stores...)
}

func conflicts(t *testing.T, s keystore.Store) {
	d := create(t, s, "example.com", newKey(t, "a"))
	stale, current := read(t, s, "example.com"), read(t, s, "example.com")
	current.Keys[0].Note = "current"
	if err := s.Update(t.Context(), current); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		what    string
		name    string
		version uint64
	}{
		{"an update from an old version", "example.com", stale.Version},
		{"creating what is there", "example.com", 0},
		{"an update from a version that never was", "example.com", d.Version + 1000},
		{"an update of a domain that is not there", "example.net", d.Version},
	} {
		attempt := &keystore.Domain{Name: test.name, Version: test.version, Keys: slices.Clone(d.Keys)}
		attempt.Keys[0].Note = "stale"
		if err := s.Update(t.Context(), attempt); !errors.Is(err, keystore.ErrConflict) {
			t.Errorf("%s: %v, want %v", test.what, err, keystore.ErrConflict)
		}
		if attempt.Version != test.version {
			t.Errorf("%s: version became %d, want %d as before", test.what, attempt.Version, test.version)
		}
	}
	same(t, read(t, s, "example.com"), current)
	if _, err := s.Domain(t.Context(), "example.net"); !errors.Is(err, keystore.ErrNotFound) {
		t.Errorf("after a conflict the domain is there: %v", err)
	}
}

func createRace(t *testing.T, stores ...keystore.Store) {
	const clients = 8
	keys := make([]keystore.Key, clients)
	errs := make([]error, clients)
	for i := range clients {
		keys[i] = newKey(t, "2026a")
	}
	var group sync.WaitGroup
	for i := range clients {
		group.Go(func() {
			errs[i] = stores[i%len(stores)].Update(t.Context(), &keystore.Domain{Name: "example.com", Keys: []keystore.Key{keys[i]}})
		})
	}
	group.Wait()
	winner := -1
	for i, err := range errs {
		switch {
		case err == nil && winner < 0:
			winner = i
		case err == nil:
			t.Errorf("clients %d and %d both created the domain", winner, i)
		case !errors.Is(err, keystore.ErrConflict):
			t.Errorf("client %d: %v, want %v", i, err, keystore.ErrConflict)
		}
	}
	if winner < 0 {
		t.Fatal("no client created the domain")
	}
	d := read(t, stores[0], "example.com")
	if len(d.Keys) != 1 || string(d.Keys[0].Public) != string(keys[winner].Public) {
		t.Error("the domain is not the winner's")
	}
	usable(t, &d.Keys[0])
}

func updateRace(t *testing.T, stores ...keystore.Store) {
	const clients, steps = 6, 5
	create(t, stores[0], "example.net")
	versions := make(chan uint64, clients*steps)
	var group sync.WaitGroup
	for client := range clients {
		keys := make([]keystore.Key, steps)
		for i := range keys {
			keys[i] = newKey(t, fmt.Sprintf("c%d-%d", client, i))
		}
		s := stores[client%len(stores)]
		group.Go(func() {
			for _, k := range keys {
				for {
					d, err := s.Domain(t.Context(), "example.net")
					if err != nil {
						t.Error(err)
						return
					}
					d.Keys = append(d.Keys, k)
					err = s.Update(t.Context(), d)
					if err == nil {
						versions <- d.Version
						break
					}
					if !errors.Is(err, keystore.ErrConflict) {
						t.Error(err)
						return
					}
				}
			}
		})
	}
	group.Wait()
	close(versions)
	seen := make(map[uint64]bool)
	for v := range versions {
		if seen[v] {
			t.Errorf("two updates made version %d", v)
		}
		seen[v] = true
	}
	d := read(t, stores[0], "example.net")
	if len(d.Keys) != clients*steps {
		t.Errorf("%d keys after %d updates that each added one", len(d.Keys), clients*steps)
	}
	for i := range d.Keys {
		usable(t, &d.Keys[i])
	}
}
