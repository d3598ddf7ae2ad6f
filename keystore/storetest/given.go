package storetest

// What a store's own tests begin with.

import (
	"bytes"
	"crypto"
	"encoding/base64"
	"strings"
	"testing"

	"waxseal/keystore"
)

// Active makes an Ed25519 key that signs.
func Active(t testing.TB, selector string) keystore.Key {
	t.Helper()
	signer, err := keystore.Generate(keystore.Ed25519)
	if err != nil {
		t.Fatal(err)
	}
	return ActiveOf(t, selector, signer)
}

// ActiveOf makes a key that signs of its private half.
func ActiveOf(t testing.TB, selector string, signer crypto.Signer) keystore.Key {
	t.Helper()
	k := keyOf(t, selector, signer)
	k.State, k.Activated = keystore.Active, now
	return k
}

// Create puts a new domain with active keys of these selectors into the store.
func Create(t testing.TB, s keystore.Store, name string, selectors ...string) *keystore.Domain {
	t.Helper()
	keys := make([]keystore.Key, len(selectors))
	for i, selector := range selectors {
		keys[i] = Active(t, selector)
	}
	return create(t, s, name, keys...)
}

// Wrapper makes a Wrapper of keys of one byte each, 32 times, of which the first
// encrypts.
func Wrapper(t testing.TB, keys ...byte) *keystore.Wrapper {
	t.Helper()
	var file strings.Builder
	for _, b := range keys {
		file.WriteString(base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{b}, 32)) + "\n")
	}
	w, err := keystore.NewWrapper([]byte(file.String()))
	if err != nil {
		t.Fatal(err)
	}
	return w
}
