// Package storetest is the conformance suite of keystores: what every
// keystore.Store promises, as tests that each store's own test runs.
package storetest

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"waxseal/keystore"
)

// Run tests the stores that open makes. Each call of open returns a new, empty
// store, and cleans up after the test by itself.
func Run(t *testing.T, open func(t *testing.T) keystore.Store) {
	for _, test := range []struct {
		name string
		run  func(*testing.T, keystore.Store)
	}{
		{"a domain that is not there is not found", absent},
		{"what Update writes Domain reads", roundTrip},
		{"every state and every legal text survives", states},
		{"odd but legal names work", oddNames},
		{"names that are not legal are refused", illegalNames},
		{"a copy belongs to the caller", copies},
		{"an update from another version conflicts", conflicts},
		{"of many clients that create a domain one wins", func(t *testing.T, s keystore.Store) { createRace(t, s) }},
		{"no change of many clients is lost", func(t *testing.T, s keystore.Store) { updateRace(t, s) }},
		{"a selector never names a second key", neverReused},
		{"but a slot does, once its key was removed", slotReused},
		{"the history only grows", historyGrows},
		{"an update that is refused changes nothing", refusedWhole},
		{"a removed key leaves its row and takes its private half along", removed},
		{"pages list every domain once, in order", pages},
		{"an ended context ends every call", ended},
		{"a watch reports changes or ends at once", watch},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, open(t)) })
	}
}

var now = time.Date(2026, 11, 22, 10, 20, 30, 0, time.UTC)

// newKey makes a pending Ed25519 key, the fastest kind.
func newKey(t *testing.T, selector string) keystore.Key {
	t.Helper()
	signer, err := keystore.Generate(keystore.Ed25519)
	if err != nil {
		t.Fatal(err)
	}
	return keyOf(t, selector, signer)
}

func keyOf(t testing.TB, selector string, signer crypto.Signer) keystore.Key {
	t.Helper()
	public, algorithm, err := keystore.PublicBytes(signer.Public())
	if err != nil {
		t.Fatal(err)
	}
	return keystore.Key{
		Selector: selector, Algorithm: algorithm, State: keystore.Pending, Public: public, Created: now,
		Load: func(context.Context) (crypto.Signer, error) { return signer, nil },
	}
}

// create puts a new domain with the keys into the store.
func create(t testing.TB, s keystore.Store, name string, keys ...keystore.Key) *keystore.Domain {
	t.Helper()
	d := &keystore.Domain{Name: name, Keys: keys}
	if err := s.Update(t.Context(), d); err != nil {
		t.Fatalf("creating %s: %v", name, err)
	}
	if d.Version == 0 {
		t.Fatalf("creating %s: version still 0", name)
	}
	return d
}

func read(t *testing.T, s keystore.Store, name string) *keystore.Domain {
	t.Helper()
	d, err := s.Domain(t.Context(), name)
	if err != nil {
		t.Fatalf("reading %s: %v", name, err)
	}
	return d
}

// same compares all of two domains but the private halves.
func same(t *testing.T, got, want *keystore.Domain) {
	t.Helper()
	if got.Name != want.Name || got.Version != want.Version || len(got.Keys) != len(want.Keys) {
		t.Fatalf("got %s, version %d, %d keys; want %s, version %d, %d keys",
			got.Name, got.Version, len(got.Keys), want.Name, want.Version, len(want.Keys))
	}
	for i := range want.Keys {
		g, w := got.Keys[i], want.Keys[i]
		for _, pair := range []struct {
			field     string
			got, want any
		}{
			{"selector", g.Selector, w.Selector},
			{"algorithm", g.Algorithm, w.Algorithm},
			{"state", g.State, w.State},
			{"public", string(g.Public), string(w.Public)},
			{"created", g.Created, w.Created},
			{"activated", g.Activated, w.Activated},
			{"retired", g.Retired, w.Retired},
			{"revoked", g.Revoked, w.Revoked},
			{"removed", g.Removed, w.Removed},
			{"published", g.Published, w.Published},
			{"seen", g.Seen, w.Seen},
			{"ready", g.Ready, w.Ready},
			{"withdrawn", g.Withdrawn, w.Withdrawn},
			{"urgent", g.Urgent, w.Urgent},
			{"note", g.Note, w.Note},
			{"reason", g.Reason, w.Reason},
		} {
			if pair.got != pair.want {
				t.Errorf("key %d of %s: %s is %#v, want %#v", i, want.Name, pair.field, pair.got, pair.want)
			}
		}
	}
	if !slices.Equal(got.Slots, want.Slots) {
		t.Errorf("slots of %s are %v, want %v", want.Name, got.Slots, want.Slots)
	}
	if !slices.Equal(got.History, want.History) {
		t.Errorf("history of %s is\n%v, want\n%v", want.Name, got.History, want.History)
	}
}

// usable tests that the key's private half is there and is the right one.
func usable(t *testing.T, k *keystore.Key) {
	t.Helper()
	if k.Load == nil {
		t.Errorf("key %s (%s): no private half", k.Selector, k.State)
		return
	}
	signer, err := k.Load(t.Context())
	if err != nil {
		t.Errorf("key %s (%s): %v", k.Selector, k.State, err)
		return
	}
	if err := keystore.SelfTest(signer, k.Public); err != nil {
		t.Errorf("key %s (%s): %v", k.Selector, k.State, err)
	}
}

// absentNames are names that no store has, and that may lead elsewhere.
var absentNames = []string{"", ".", "..", "../example.com", "a/b", "Example.com", "example.com.", "a\x00b", "bücher.example", "-a.example",
	strings.Repeat("a", 64) + ".example", strings.Repeat("a.", 127)}

func absent(t *testing.T, s keystore.Store) {
	for _, name := range append(absentNames, "example.com") {
		d, err := s.Domain(t.Context(), name)
		if !errors.Is(err, keystore.ErrNotFound) {
			t.Errorf("Domain(%q) = %v, %v; want %v", name, d, err, keystore.ErrNotFound)
		}
	}
	names, err := s.List(t.Context(), "", 0)
	if err != nil || len(names) != 0 {
		t.Errorf("List of an empty store = %q, %v", names, err)
	}
}

func roundTrip(t *testing.T, s keystore.Store) {
	rsa, err := keystore.Generate(keystore.RSA1024)
	if err != nil {
		t.Fatal(err)
	}
	want := create(t, s, "example.com", keyOf(t, "2026a", rsa), newKey(t, "2026b"))
	got := read(t, s, "example.com")
	same(t, got, want)
	usable(t, &got.Keys[0])
	usable(t, &got.Keys[1])

	want = got
	k := &want.Keys[0]
	k.State, k.Activated = keystore.Active, now.Add(time.Hour)
	k.Published, k.Seen, k.Ready, k.Withdrawn = now.Add(time.Minute), now.Add(2*time.Minute), now.Add(3*time.Minute), now.Add(time.Hour)
	k.Urgent = true
	want.History = append(want.History, keystore.Event{Time: now, Selector: "2026a", What: keystore.WasActivated, By: "ann@mx1", Reason: `"why" – because`, Forced: true},
		keystore.Event{Time: now.Add(time.Second), What: keystore.WasTold})
	before := want.Version
	if err := s.Update(t.Context(), want); err != nil {
		t.Fatal(err)
	}
	if want.Version == before {
		t.Errorf("version %d before and after an update", before)
	}
	got = read(t, s, "example.com")
	same(t, got, want)
	usable(t, &got.Keys[0])
	usable(t, &got.Keys[1])
}

func states(t *testing.T, s keystore.Store) {
	texts := []string{
		`quotes " and ' and """`, `back\slash \n \u0041`, "semi;colon # hash = equals [key]", " blanks around ",
		"grüße, мир, 世界, 👩‍💻", "-----BEGIN PRIVATE KEY-----", "%s %d {{.}} ${HOME} $(id)", "'; DROP TABLE keys; --",
	}
	d := &keystore.Domain{Name: "example.com"}
	for i, text := range texts {
		k := newKey(t, fmt.Sprintf("s%d", i))
		k.Note, k.Reason = text, texts[len(texts)-1-i]
		d.Keys = append(d.Keys, k)
	}
	if err := s.Update(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	for i, state := range []keystore.State{keystore.Pending, keystore.Active, keystore.Retired, keystore.Revoked, keystore.Removed} {
		k := &d.Keys[i]
		k.State = state
		for j, at := range []*time.Time{&k.Activated, &k.Retired, &k.Revoked, &k.Removed} {
			if j < i {
				*at = now.AddDate(0, 0, j)
			}
		}
	}
	if err := s.Update(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	same(t, read(t, s, "example.com"), d)
}

func copies(t *testing.T, s keystore.Store) {
	want := create(t, s, "example.com", newKey(t, "a"))
	public := slices.Clone(want.Keys[0].Public)
	d := read(t, s, "example.com")
	d.Keys[0].State, d.Keys[0].Note, d.Keys[0].Public[0] = keystore.Active, "scribble", ^d.Keys[0].Public[0]
	d.Keys = append(d.Keys, newKey(t, "b"))
	want.Keys[0].Public = public
	same(t, read(t, s, "example.com"), want)
}

func pages(t *testing.T, s keystore.Store) {
	var want []string
	for i := range 25 {
		name := fmt.Sprintf("d%d.example", i)
		create(t, s, name)
		want = append(want, name)
	}
	create(t, s, "d1--1.d1")
	create(t, s, "d1.d1")
	want = append(want, "d1--1.d1", "d1.d1")
	slices.Sort(want)
	for _, limit := range []int{1, 2, 7, len(want), len(want) + 1, 0, -1} {
		var got []string
		for after := ""; ; after = got[len(got)-1] {
			page, err := s.List(t.Context(), after, limit)
			if err != nil {
				t.Fatal(err)
			}
			if limit > 0 && len(page) > limit {
				t.Fatalf("a page of %d, limit %d", len(page), limit)
			}
			if len(page) == 0 {
				break
			}
			if got = append(got, page...); len(got) > len(want) {
				break
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("pages of %d: got %q, want %q", limit, got, want)
		}
	}
	if got, err := s.List(t.Context(), "d2", 2); err != nil || len(got) != 2 || got[0] <= "d2" {
		t.Errorf("List after a name that is not there = %q, %v", got, err)
	}
	if got, err := s.List(t.Context(), "zz", 2); err != nil || len(got) != 0 {
		t.Errorf("List after the last = %q, %v; want none", got, err)
	}
}

func ended(t *testing.T, s keystore.Store) {
	d := create(t, s, "example.com", newKey(t, "a"))
	got := read(t, s, "example.com")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Domain(ctx, "example.com"); !errors.Is(err, context.Canceled) {
		t.Errorf("Domain: %v", err)
	}
	if _, err := s.List(ctx, "", 0); !errors.Is(err, context.Canceled) {
		t.Errorf("List: %v", err)
	}
	if _, err := got.Keys[0].Load(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Load: %v", err)
	}
	got.Keys[0].Note = "changed"
	if err := s.Update(ctx, got); !errors.Is(err, context.Canceled) {
		t.Errorf("Update: %v", err)
	}
	same(t, read(t, s, "example.com"), d)
	if err := s.Watch(ctx, func(string) {}); err != nil {
		t.Errorf("Watch: %v", err)
	}
}

func watch(t *testing.T, s keystore.Store) {
	create(t, s, "example.com", newKey(t, "a"))
	ctx, cancel := context.WithCancel(t.Context())
	changes := make(chan string, 100)
	done := make(chan error, 1)
	go func() { done <- s.Watch(ctx, func(domain string) { changes <- domain }) }()
	defer func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("Watch after its context ended: %v", err)
			}
		case <-time.After(10 * time.Second):
			t.Error("Watch goes on after its context ended")
		}
	}()

	await := func(want string) {
		t.Helper()
		for timeout := time.After(10 * time.Second); ; {
			select {
			case got := <-changes:
				if got == want {
					return
				}
			case err := <-done:
				done <- err
				if err != nil {
					t.Fatalf("Watch: %v", err)
				}
				t.Skip("this store does not push changes")
			case <-timeout:
				t.Fatalf("no word of the change of %q", want)
			}
		}
	}
	await("") // it has begun: nothing from here on is missed

	d := read(t, s, "example.com")
	d.Keys[0].State, d.Keys[0].Activated = keystore.Active, now
	if err := s.Update(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	await("example.com")

	if _, err := s.Domain(t.Context(), "example.net"); !errors.Is(err, keystore.ErrNotFound) {
		t.Fatal(err)
	}
	create(t, s, "example.net", newKey(t, "a"))
	await("example.net")
}
