package keeper

import (
	"bytes"
	"context"
	"crypto"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"waxseal/keystore"
	"waxseal/keystore/dns"
)

// revoked makes a world with the key of the selector, which signed, and is
// revoked now.
func revoked(t *testing.T, selector string) (w *world, private []byte) {
	t.Helper()
	w = newWorld(t)
	w.options.Retired = t.TempDir()
	w.addActive(selector)
	signer, err := w.key(selector).Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if private, err = keystore.MarshalPrivateKey(signer); err != nil {
		t.Fatal(err)
	}
	w.change(func(d *keystore.Domain) error {
		return d.Revoke(selector, keystore.Warrant{Now: w.now, Force: true, Reason: "test"})
	})
	return w, private
}

// revokedFor is revoked, and then all the world has seen it for a grace period.
func revokedFor(t *testing.T, selector string) (w *world, private []byte) {
	w, private = revoked(t, selector)
	w.keep()
	w.now = w.now.Add(keystore.Grace + time.Second)
	return w, private
}

func files(t *testing.T, dir string) (names []string) {
	t.Helper()
	list, err := filepath.Glob(filepath.Join(dir, "*", "*"))
	if err != nil {
		t.Fatal(err)
	}
	hidden, err := filepath.Glob(filepath.Join(dir, "*", ".*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range append(list, hidden...) {
		name, _ := filepath.Rel(dir, f)
		names = append(names, name)
	}
	return names
}

// wantRetired fails the test if the file is not all there is, and readable for
// everybody.
func wantRetired(t *testing.T, dir, name string, private []byte) {
	t.Helper()
	if names := files(t, dir); len(names) != 1 || names[0] != name {
		t.Fatalf("published %q, want %s", names, name)
	}
	text, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil || !bytes.Equal(text, private) {
		t.Errorf("%s: %d octets, want %d; %v", name, len(text), len(private), err)
	}
	for _, p := range []string{name, filepath.Dir(name)} {
		info, err := os.Stat(filepath.Join(dir, p))
		if err != nil {
			t.Fatal(err)
		}
		if mode := info.Mode().Perm(); mode&0o444 != 0o444 || info.IsDir() && mode&0o111 != 0o111 {
			t.Errorf("%s has mode %v, want it readable for all", p, mode)
		}
	}
}

func TestPrivateHalfIsPublished(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0o077)) // as of a service that has secrets
	w, private := revoked(t, "a")
	w.dns.lag = true
	w.keep()
	w.now = w.now.Add(keystore.Grace)
	w.keep()
	w.want("a revoked")
	if names := files(t, w.options.Retired); len(names) > 0 {
		t.Fatalf("published %q while a server shows the key", names)
	}
	w.dns.catchUp()
	w.keep()
	w.now = w.now.Add(keystore.Grace)
	w.keep()
	w.want("a revoked")
	if names := files(t, w.options.Retired); len(names) > 0 {
		t.Fatalf("published %q while resolvers may remember the key", names)
	}
	w.now = w.now.Add(time.Second)
	w.keep()
	w.want("a removed")
	wantRetired(t, w.options.Retired, "example.com/a.pem", private)
}

// A crash between the publication and the removal.
func TestPrivateHalfIsPublishedAgain(t *testing.T) {
	w, private := revokedFor(t, "a")
	fail := true
	w.store.before = func(what string) error {
		if what == "update" && fail && len(files(t, w.options.Retired)) > 0 {
			return errors.New("the disk is full")
		}
		return nil
	}
	if _, err := w.keeper().Keep(t.Context(), theDomain); err == nil {
		t.Fatal("no error")
	}
	w.want("a revoked")
	fail = false
	w.keep()
	w.want("a removed")
	wantRetired(t, w.options.Retired, "example.com/a.pem", private)
}

func TestPrivateHalfOfASlot(t *testing.T) {
	w := newWorld(t)
	w.options.Retired = t.TempDir()
	w.change(func(d *keystore.Domain) error {
		d.Slots = []keystore.Slot{{Selector: "s1", Target: "s1.example.com.dkim.example.net"}}
		return nil
	})
	w.dns.alias[dns.Name("s1", theDomain)] = "s1.example.com.dkim.example.net"
	for range 2 {
		w.add("s1")
		w.keep()
		w.now = w.now.Add(3 * time.Hour)
		w.keep()
		w.want("s1 active")
		w.change(func(d *keystore.Domain) error {
			return d.Revoke("s1", keystore.Warrant{Now: w.now, Force: true, Reason: "test"})
		})
		w.keep() // publishes
		w.keep() // sees it
		w.now = w.now.Add(2 * keystore.Grace)
		w.keep()
		w.want("s1 removed")
	}
	if names := files(t, w.options.Retired); len(names) != 2 {
		t.Errorf("published %q, want two files", names)
	}
}

// A private half that cannot be published stays, and stops nothing else.
func TestPrivateHalfThatCannotBePublished(t *testing.T) {
	for name, spoil := range map[string]func(w *world){
		"no directory": func(w *world) { w.options.Retired = filepath.Join(w.options.Retired, "none") },
		"another file": func(w *world) {
			dir := filepath.Join(w.options.Retired, theDomain)
			if err := errors.Join(os.Mkdir(dir, 0o755), os.WriteFile(filepath.Join(dir, "a.pem"), []byte("other"), 0o644)); err != nil {
				w.Fatal(err)
			}
		},
		"a file in the way": func(w *world) {
			if err := os.WriteFile(filepath.Join(w.options.Retired, theDomain), nil, 0o644); err != nil {
				w.Fatal(err)
			}
		},
		"unreadable": func(w *world) {
			w.store.domains[theDomain].Key("a").Load = func(context.Context) (crypto.Signer, error) { return nil, errors.New("permission denied") }
		},
	} {
		t.Run(name, func(t *testing.T) {
			w, _ := revokedFor(t, "a")
			w.add("b")
			spoil(w)
			for range 2 {
				if _, err := w.keeper().Keep(t.Context(), theDomain); err == nil {
					t.Error("no error")
				}
				w.now = w.now.Add(3 * time.Hour)
			}
			w.want("a revoked, b active")
		})
	}
}

func TestKeyThatNeverSignedIsNotPublished(t *testing.T) {
	w := newWorld(t)
	w.options.Retired = t.TempDir()
	w.add("a")
	w.keep()
	w.change(func(d *keystore.Domain) error {
		return d.Revoke("a", keystore.Warrant{Now: w.now, Force: true, Reason: "test"})
	})
	w.now = w.now.Add(keystore.Grace)
	w.keep()
	w.keep()
	w.want("a removed")
	if names := files(t, w.options.Retired); len(names) > 0 {
		t.Errorf("published %q", names)
	}
}
