package storetest

import (
	"context"
	"crypto"
	"errors"
	"testing"

	"waxseal/keystore"
)

func neverReused(t *testing.T, s keystore.Store) {
	create(t, s, "example.com", newKey(t, "a"), newKey(t, "b"))
	d := read(t, s, "example.com")
	d.Keys[1].State, d.Keys[1].Removed = keystore.Removed, now
	if err := s.Update(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	other := newKey(t, "a")
	for _, test := range []struct {
		what   string
		change func(*keystore.Domain)
	}{
		{"dropping a row", func(d *keystore.Domain) { d.Keys = d.Keys[1:] }},
		{"dropping a removed row", func(d *keystore.Domain) { d.Keys = d.Keys[:1] }},
		{"renaming a selector", func(d *keystore.Domain) { d.Keys[0].Selector = "c" }},
		{"another key under a selector", func(d *keystore.Domain) { d.Keys[0].Public, d.Keys[0].Load = other.Public, other.Load }},
		{"another key under a removed selector", func(d *keystore.Domain) { d.Keys[1].Public = other.Public }},
		{"a removed key comes back", func(d *keystore.Domain) { d.Keys[1].State, d.Keys[1].Load = keystore.Active, other.Load }},
		{"a selector twice", func(d *keystore.Domain) { d.Keys = append(d.Keys, other) }},
		{"leaving out what could not be read", func(d *keystore.Domain) {
			d.Unreadable = []keystore.BadRow{{Err: errors.New("no row")}}
		}},
	} {
		attempt := read(t, s, "example.com")
		test.change(attempt)
		if err := s.Update(t.Context(), attempt); err == nil || errors.Is(err, keystore.ErrConflict) {
			t.Errorf("%s: %v, want an error that is no conflict", test.what, err)
		}
	}
	got := read(t, s, "example.com")
	same(t, got, d)
	usable(t, &got.Keys[0])
}

func slotReused(t *testing.T, s keystore.Store) {
	slots := []keystore.Slot{{Selector: "s1", Target: "s1.example.com.dkim.example.net"}, {Selector: "s2", Target: "s2.example.com.dkim.example.net"}}
	d := &keystore.Domain{Name: "example.com", Keys: []keystore.Key{newKey(t, "s1"), newKey(t, "s2")}, Slots: slots}
	if err := s.Update(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	next := newKey(t, "s1")
	early := read(t, s, "example.com")
	early.Keys = []keystore.Key{early.Keys[1], next}
	if err := s.Update(t.Context(), early); err == nil || errors.Is(err, keystore.ErrConflict) {
		t.Errorf("a slot whose key is pending: %v, want an error that is no conflict", err)
	}
	d = read(t, s, "example.com")
	d.Keys[0].State, d.Keys[0].Removed = keystore.Removed, now
	if err := s.Update(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	d = read(t, s, "example.com")
	d.Keys = []keystore.Key{d.Keys[1], next}
	if err := s.Update(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	got := read(t, s, "example.com")
	same(t, got, d)
	usable(t, &got.Keys[0])
	usable(t, &got.Keys[1])
}

func historyGrows(t *testing.T, s keystore.Store) {
	event := func(selector string) keystore.Event {
		return keystore.Event{Time: now, Selector: selector, What: keystore.WasCreated, By: "ann@mx1"}
	}
	d := &keystore.Domain{Name: "example.com", Keys: []keystore.Key{newKey(t, "a")}, History: []keystore.Event{event("a"), event("b")}}
	if err := s.Update(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		what   string
		change func(*keystore.Domain)
	}{
		{"dropping an event", func(d *keystore.Domain) { d.History = d.History[:1] }},
		{"dropping all", func(d *keystore.Domain) { d.History = nil }},
		{"changing one", func(d *keystore.Domain) { d.History[0].By = "bob@mx1" }},
		{"putting one between", func(d *keystore.Domain) {
			d.History = []keystore.Event{d.History[0], event("c"), d.History[1]}
		}},
		{"an event without a name", func(d *keystore.Domain) { d.History = append(d.History, keystore.Event{Time: now}) }},
		{"an event without a time", func(d *keystore.Domain) {
			d.History = append(d.History, keystore.Event{What: keystore.WasTold})
		}},
	} {
		attempt := read(t, s, "example.com")
		test.change(attempt)
		if err := s.Update(t.Context(), attempt); err == nil || errors.Is(err, keystore.ErrConflict) {
			t.Errorf("%s: %v, want an error that is no conflict", test.what, err)
		}
	}
	same(t, read(t, s, "example.com"), d)
}

func refusedWhole(t *testing.T, s keystore.Store) {
	create(t, s, "example.com", newKey(t, "a"))
	before := read(t, s, "example.com")
	failing := errors.New("no such key")
	for _, test := range []struct {
		what string
		key  func(k *keystore.Key)
	}{
		{"an unknown state", func(k *keystore.Key) { k.State = "sleeping" }},
		{"an algorithm that is not the key's", func(k *keystore.Key) { k.Algorithm = keystore.RSA2048 }},
		{"a public key that is none", func(k *keystore.Key) { k.Public = []byte("x") }},
		{"a private half of another key", func(k *keystore.Key) { k.Load = newKey(t, "x").Load }},
		{"no private half", func(k *keystore.Key) { k.Load = nil }},
		{"a private half that cannot be read", func(k *keystore.Key) {
			k.Load = func(context.Context) (crypto.Signer, error) { return nil, failing }
		}},
		{"a note that is not UTF-8", func(k *keystore.Key) { k.Note = "\xff" }},
		{"a note of several lines", func(k *keystore.Key) { k.Note = "a\nb" }},
		{"a reason with a NUL", func(k *keystore.Key) { k.Reason = "\x00" }},
	} {
		d := read(t, s, "example.com")
		good, bad := newKey(t, "good"), newKey(t, "bad")
		test.key(&bad)
		d.Keys = append(d.Keys, good, bad)
		if err := s.Update(t.Context(), d); err == nil {
			t.Errorf("%s: taken", test.what)
		}
		if d.Version != before.Version {
			t.Errorf("%s: version became %d", test.what, d.Version)
		}
		same(t, read(t, s, "example.com"), before)
	}
	// And nothing of the refused keys is in the way of others of their names.
	d := read(t, s, "example.com")
	d.Keys = append(d.Keys, newKey(t, "good"), newKey(t, "bad"))
	if err := s.Update(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	got := read(t, s, "example.com")
	for i := range got.Keys {
		usable(t, &got.Keys[i])
	}
}

func removed(t *testing.T, s keystore.Store) {
	create(t, s, "example.com", newKey(t, "a"), newKey(t, "b"))
	old := read(t, s, "example.com")
	d := read(t, s, "example.com")
	d.Keys[0].State, d.Keys[0].Removed = keystore.Removed, now
	if err := s.Update(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	got := read(t, s, "example.com")
	same(t, got, d)
	if got.Keys[0].Load != nil {
		t.Error("a removed key can be loaded")
	}
	if _, err := old.Keys[0].Load(t.Context()); err == nil {
		t.Error("the private half of a removed key is still there")
	}
	usable(t, &got.Keys[1])
}
