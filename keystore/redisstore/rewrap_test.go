package redisstore

import (
	"errors"
	"strings"
	"testing"

	"waxseal/keystore"
	"waxseal/keystore/storetest"
)

// wrapping are Options with the wrapping keys that storetest.Wrapper makes.
func wrapping(t testing.TB, keys ...byte) Options {
	t.Helper()
	w := storetest.Wrapper(t, keys...)
	return Options{Wrap: w.Wrap, Unwrap: w.Unwrap, Rewrap: w.Rewrap}
}

func TestRewrap(t *testing.T) {
	s := start(t)
	url := "redis://" + s.address()
	stored := func(selector string) string {
		t.Helper()
		text, err := s.do("HGET", "waxseal:domain:example.com", "key:"+selector).ToString()
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	d := storetest.Create(t, open(t, url, Options{}), "example.com", "a", "b", "gone")
	if !strings.Contains(stored("a"), "BEGIN PRIVATE KEY") {
		t.Fatalf("stored without encryption: %.40q", stored("a"))
	}
	d.Keys[2].State = keystore.Removed
	if err := open(t, url, Options{}).Update(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	rewrap := func(opts Options, dryRun bool, want string) {
		t.Helper()
		got, err := open(t, url, opts).Rewrap(t.Context(), "example.com", dryRun)
		if err != nil || strings.Join(got, " ") != want {
			t.Errorf("rewrapped %q, %v; want %q", got, err, want)
		}
	}
	before := stored("a")
	rewrap(wrapping(t, 1), true, "a b")
	if stored("a") != before {
		t.Error("the dry run has written")
	}
	rewrap(wrapping(t, 1), false, "a b")
	rewrap(wrapping(t, 1), false, "")
	first := stored("a")
	if strings.Contains(first, "PRIVATE KEY") || !strings.Contains(first, "WAXSEAL WRAPPED KEY") {
		t.Errorf("stored %.60q", first)
	}
	s.must("HSET", "waxseal:domain:example.com", "key:a", before) // a run that was cut short
	rewrap(wrapping(t, 2, 1), false, "a b")
	if stored("a") == first {
		t.Error("not encrypted with the new key")
	}
	got, err := open(t, url, wrapping(t, 2)).Domain(t.Context(), "example.com")
	if err != nil || got.Version != d.Version {
		t.Fatalf("%+v, %v", got, err)
	}
	for i := range 2 {
		if key, err := got.Keys[i].Load(t.Context()); err != nil || keystore.SelfTest(key, got.Keys[i].Public) != nil {
			t.Errorf("key %s: %v", got.Keys[i].Selector, err)
		}
	}

	// What cannot be opened is told, stops no other, and stays as it is.
	for name, opts := range map[string]Options{"another key": wrapping(t, 3), "no key": {}} {
		got, err := open(t, url, opts).Domain(t.Context(), "example.com")
		if err != nil {
			t.Fatal(err)
		}
		if opts.Unwrap == nil {
			opts.Unwrap = (*keystore.Wrapper)(nil).Unwrap
			got, _ = open(t, url, opts).Domain(t.Context(), "example.com")
		}
		if missing := (*keystore.WrappedError)(nil); true {
			if _, err := got.Keys[0].Load(t.Context()); !errors.As(err, &missing) {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	s.must("HDEL", "waxseal:domain:example.com", "key:a")
	done, err := open(t, url, wrapping(t, 3, 2)).Rewrap(t.Context(), "example.com", false)
	if len(done) != 1 || done[0] != "b" || err == nil || !strings.Contains(err.Error(), "a.example.com: its private half is missing") {
		t.Errorf("rewrapped %q, %v", done, err)
	}
	if _, err := open(t, url, wrapping(t, 1)).Rewrap(t.Context(), "example.net", false); !errors.Is(err, keystore.ErrNotFound) {
		t.Errorf("a domain that is not there: %v", err)
	}
	if _, err := open(t, url, Options{}).Rewrap(t.Context(), "example.com", false); err == nil {
		t.Error("rewrapped without a key")
	}
}

// A key that is replaced or removed while it is rewrapped is not brought back.
func TestRewrapBesideAChange(t *testing.T) {
	s := start(t)
	url := "redis://" + s.address()
	plain := open(t, url, Options{})
	d := storetest.Create(t, plain, "example.com", "a")
	opts := wrapping(t, 1)
	real := opts.Rewrap
	opts.Rewrap = func(domain string, k *keystore.Key, stored []byte) ([]byte, error) {
		d.Keys[0].State = keystore.Removed
		if err := plain.Update(t.Context(), d); err != nil {
			t.Error(err)
		}
		return real(domain, k, stored)
	}
	if done, err := open(t, url, opts).Rewrap(t.Context(), "example.com", false); len(done) != 0 || !errors.Is(err, keystore.ErrConflict) {
		t.Errorf("rewrapped %q, %v", done, err)
	}
	if n, err := s.do("HEXISTS", "waxseal:domain:example.com", "key:a").AsInt64(); err != nil || n != 0 {
		t.Errorf("the private half of the removed key is back: %d, %v", n, err)
	}
}

// Wherever the connection is cut, a key is as it was or encrypted, and a second
// run does the rest.
func TestRewrapCut(t *testing.T) {
	s := start(t)
	p := storetest.NewProxy(t, "tcp", s.address())
	storetest.Create(t, open(t, "redis://"+s.address(), Options{}), "example.com", "a", "b")
	store := open(t, "redis://"+p.Address, wrapping(t, 1))
	direct := open(t, "redis://"+s.address(), wrapping(t, 1))
	for _, toServer := range []bool{true, false} {
		for _, octets := range []int{0, 1, 60, 300, 700, 1100, 1500} {
			p.CutAfter(octets, toServer)
			_, _ = store.Rewrap(t.Context(), "example.com", false)
			p.Heal()
			if _, err := direct.Rewrap(t.Context(), "example.com", false); err != nil {
				t.Errorf("cut after %d octets (to the server: %v): %v", octets, toServer, err)
			}
			d, err := direct.Domain(t.Context(), "example.com")
			if err != nil {
				t.Fatal(err)
			}
			for i := range d.Keys {
				if key, err := d.Keys[i].Load(t.Context()); err != nil || keystore.SelfTest(key, d.Keys[i].Public) != nil {
					t.Errorf("key %s: %v", d.Keys[i].Selector, err)
				}
			}
		}
	}
}
