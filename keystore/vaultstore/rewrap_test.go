package vaultstore

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"waxseal/keystore"
	"waxseal/keystore/storetest"
	"waxseal/keystore/vaultstore/vaulttest"
)

// wrapping are Options with the wrapping keys that storetest.Wrapper makes.
func wrapping(t testing.TB, keys ...byte) Options {
	t.Helper()
	w := storetest.Wrapper(t, keys...)
	return Options{Wrap: w.Wrap, Unwrap: w.Unwrap, Rewrap: w.Rewrap}
}

// encryptedAnew tests Rewrap in an empty store. stored asks Vault for what it has
// at a path.
func encryptedAnew(t *testing.T, url string, stored func(t *testing.T, path string) []byte) {
	t.Helper()
	s := open(t, url, Options{})
	kv := s.layout.(*native).kv
	rewrap := func(opts Options, dryRun bool, want string) {
		t.Helper()
		got, err := open(t, url, opts).Rewrap(t.Context(), "example.com", dryRun)
		if err != nil || strings.Join(got, " ") != want {
			t.Errorf("rewrapped %q, %v; want %q", got, err, want)
		}
	}
	d := storetest.Create(t, s, "example.com", "a", "b")
	before := stored(t, kv.at("data", "example.com"))
	if !bytes.Contains(before, []byte("BEGIN PRIVATE KEY")) {
		t.Fatalf("stored without encryption: %s", before)
	}
	rewrap(wrapping(t, 1), true, "a b")
	if got := stored(t, kv.at("data", "example.com")); !bytes.Equal(got, before) {
		t.Errorf("the dry run has written %s", got)
	}
	rewrap(wrapping(t, 1), false, "a b")
	rewrap(wrapping(t, 1), false, "")
	rewrap(wrapping(t, 2, 1), false, "a b")
	for _, version := range []string{"1", "2"} {
		err := kv.client.do(t.Context(), "GET", kv.at("data", "example.com")+"?version="+version, nil, nil)
		if !errors.Is(notFound(err), keystore.ErrNotFound) {
			t.Errorf("version %s can be read still: %v", version, err)
		}
	}
	if now := stored(t, kv.at("data", "example.com")); bytes.Contains(now, []byte("PRIVATE KEY")) || bytes.Count(now, []byte("BEGIN WAXSEAL WRAPPED KEY")) != 2 {
		t.Errorf("stored: %s", now)
	}
	got, err := open(t, url, wrapping(t, 2)).Domain(t.Context(), "example.com")
	if err != nil || got.Version != d.Version+2 {
		t.Fatalf("%+v, %v", got, err)
	}
	for i := range got.Keys {
		if key, err := got.Keys[i].Load(t.Context()); err != nil || keystore.SelfTest(key, got.Keys[i].Public) != nil {
			t.Errorf("key %s: %v", got.Keys[i].Selector, err)
		}
	}
	wrong, err := open(t, url, wrapping(t, 3)).Domain(t.Context(), "example.com")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := wrong.Keys[0].Load(t.Context()); !errors.As(err, new(*keystore.WrappedError)) {
		t.Errorf("with another key: %v", err)
	}
	// What cannot be opened is told, and keeps former versions for its repair.
	got.Keys[0].Note = "a version before"
	if err := open(t, url, wrapping(t, 2)).Update(t.Context(), got); err != nil {
		t.Fatal(err)
	}
	if done, err := open(t, url, wrapping(t, 3)).Rewrap(t.Context(), "example.com", false); !errors.As(err, new(*keystore.WrappedError)) || len(done) > 0 {
		t.Errorf("rewrapped %q without the key that it is encrypted with: %v", done, err)
	}
	if err := kv.client.do(t.Context(), "GET", kv.at("data", "example.com")+"?version=3", nil, nil); err != nil {
		t.Errorf("the version before is gone: %v", err)
	}
	if _, err := open(t, url, wrapping(t, 1)).Rewrap(t.Context(), "example.net", false); !errors.Is(err, keystore.ErrNotFound) {
		t.Errorf("a domain that is not there: %v", err)
	}
	if _, err := s.Rewrap(t.Context(), "example.com", false); err == nil {
		t.Error("rewrapped without a key")
	}
}

func TestRewrap(t *testing.T) {
	f := vaulttest.New(t)
	encryptedAnew(t, f.StoreURL(t, "secret/waxseal"), func(t *testing.T, path string) []byte {
		versions := f.KV2[strings.TrimPrefix(path, "secret/data/")].Versions
		return versions[len(versions)-1].Data
	})
}

func TestRewrapBesideAChange(t *testing.T) {
	f := vaulttest.New(t)
	plain := open(t, f.StoreURL(t, "secret/waxseal"), Options{})
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
	if done, err := open(t, f.StoreURL(t, "secret/waxseal"), opts).Rewrap(t.Context(), "example.com", false); len(done) != 0 || !errors.Is(err, keystore.ErrConflict) {
		t.Errorf("rewrapped %q, %v", done, err)
	}
	if _, s, _, err := plain.layout.(*native).read(t.Context(), "example.com"); err != nil || len(s.Keys) > 0 {
		t.Errorf("the private half of the removed key is back: %v", err)
	}
}

// Wherever the connection is cut, the keys are as they were or encrypted, and a
// second run does the rest.
func TestRewrapCut(t *testing.T) {
	f := vaulttest.New(t)
	p := storetest.NewProxy(t, "tcp", f.Host())
	storetest.Create(t, open(t, f.StoreURL(t, "secret/waxseal"), Options{}), "example.com", "a", "b")
	var keys byte
	for _, toServer := range []bool{true, false} {
		for _, octets := range []int{0, 1, 60, 300, 700, 1500, 3000} {
			keys++
			opts := wrapping(t, keys+1, keys) // the first time nothing is encrypted
			url := f.StoreURL(t, "secret/waxseal")
			p.CutAfter(octets, toServer)
			_, _ = open(t, strings.Replace(url, f.Host(), p.Address, 1), opts).Rewrap(t.Context(), "example.com", false)
			p.Heal()
			direct := open(t, url, opts)
			if _, err := direct.Rewrap(t.Context(), "example.com", false); err != nil {
				t.Errorf("cut after %d octets (to the server: %v): %v", octets, toServer, err)
			}
			if errs := keystore.CheckKeys(t.Context(), direct, "example.com"); len(errs) > 0 {
				t.Error(errs)
			}
			versions := f.KV2["waxseal/example.com"].Versions
			for i, v := range versions[:len(versions)-1] {
				if !v.Destroyed {
					t.Errorf("version %d of %d is there still", i+1, len(versions))
				}
			}
		}
	}
}
