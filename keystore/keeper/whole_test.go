package keeper

import (
	"context"
	"crypto"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"waxseal/keystore"
	"waxseal/keystore/dns"
)

// What cannot be read may be the key that mail needs, so nothing is done on the
// word of the rest: no key made, no record published, no file changed.
func TestADomainWithUnreadableRowsIsLeftAlone(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o750); err != nil {
		t.Fatal(err)
	}
	store, err := keystore.OpenDir(dir, keystore.DirOptions{})
	if err != nil {
		t.Fatal(err)
	}
	private, err := keystore.Generate(keystore.Ed25519)
	if err != nil {
		t.Fatal(err)
	}
	public, algorithm, err := keystore.PublicBytes(private.Public())
	if err != nil {
		t.Fatal(err)
	}
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	d := &keystore.Domain{Name: "example.com"}
	if err := d.Add(keystore.Key{Selector: "a", Algorithm: algorithm, Public: public,
		Load: func(context.Context) (crypto.Signer, error) { return private, nil }}, keystore.Warrant{Now: now, By: "test"}); err != nil {
		t.Fatal(err)
	}
	if err := store.Update(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "example.com", "domain.toml")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	broken := string(text) + "\n[[key]]\nselector = \"b\"\nstate = \"aktive\"\n"
	if err := os.WriteFile(path, []byte(broken), 0o644); err != nil {
		t.Fatal(err)
	}

	k := New(store, Options{
		Check: func(context.Context, string, *dns.Record) (*dns.Report, error) {
			t.Error("DNS was asked")
			return nil, errors.New("not here")
		},
		Rules: func(string) keystore.Rules { return keystore.Rules{} },
		Now:   func() time.Time { return now.AddDate(2, 0, 0) },
	})
	calls := map[string]func() error{
		"Keep":   func() error { _, err := k.Keep(t.Context(), "example.com"); return err },
		"Plan":   func() error { _, err := k.Plan(t.Context(), "example.com"); return err },
		"Rotate": func() error { _, err := k.Rotate(t.Context(), "example.com", true, "stolen"); return err },
	}
	for name, call := range calls {
		if err := call(); err == nil || !strings.Contains(err.Error(), path+":") {
			t.Errorf("%s: %v, want an error with the line of the row", name, err)
		}
	}
	if after, _ := os.ReadFile(path); string(after) != broken {
		t.Errorf("the file was changed:\n%s", after)
	}
	if files, _ := filepath.Glob(filepath.Join(dir, "example.com", "*.pem")); len(files) != 1 {
		t.Errorf("keys %v, want one", files)
	}
}
