package storetest

import (
	"context"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"slices"
	"testing"

	"waxseal/keystore"
)

// PrivateKey makes an RSA key as other products store theirs: PKCS#8 in PEM, and
// the base64 of that without its first and last line.
func PrivateKey(t *testing.T) (text, bare string) {
	t.Helper()
	key, err := keystore.Generate(keystore.RSA1024)
	if err != nil {
		t.Fatal(err)
	}
	data, err := keystore.MarshalPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(data)
	return string(data), base64.StdEncoding.EncodeToString(block.Bytes)
}

// Signs tests that a read-only store has for the domain just the keys of these
// selectors, in whatever order, that each signs more than once, and that the store
// takes no change of it. Without selectors, there must be no such domain.
func Signs(t *testing.T, s keystore.Store, domain string, selectors ...string) {
	t.Helper()
	reads := []func(context.Context, string) (*keystore.Domain, error){s.Domain}
	if signing, ok := s.(keystore.SigningStore); ok {
		reads = append(reads, signing.Signing)
	}
	for _, read := range reads {
		d, err := read(t.Context(), domain)
		if len(selectors) == 0 {
			if !errors.Is(err, keystore.ErrNotFound) {
				t.Errorf("%s: %v, want not found", domain, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", domain, err)
			continue
		}
		var got []string
		for i := range d.Keys {
			k := &d.Keys[i]
			for range 2 {
				if key, err := k.Load(t.Context()); err != nil || k.State != keystore.Active || keystore.SelfTest(key, k.Public) != nil {
					t.Errorf("key %s.%s: %s, %v", k.Selector, domain, k.State, err)
				}
			}
			got = append(got, k.Selector)
		}
		slices.Sort(got)
		if !slices.Equal(got, selectors) || d.Whole() != nil || d.Version == 0 {
			t.Errorf("%s: selectors %q, want %q; %v", domain, got, selectors, d.Whole())
		}
		if err := s.Update(t.Context(), d); !errors.Is(err, keystore.ErrReadOnly) {
			t.Errorf("%s: a change: %v, want %v", domain, err, keystore.ErrReadOnly)
		}
	}
}

// Lists tests that the store lists just these domains, page by page.
func Lists(t *testing.T, s keystore.Store, want ...string) {
	t.Helper()
	var got []string
	for after := ""; ; after = got[len(got)-1] {
		page, err := s.List(t.Context(), after, 1+len(want)/2)
		if err != nil {
			t.Fatal(err)
		}
		if len(page) == 0 {
			break
		}
		got = append(got, page...)
	}
	if !slices.Equal(got, want) {
		t.Errorf("domains %q, want %q", got, want)
	}
}
