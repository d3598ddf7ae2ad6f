package keystore

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"strings"
	"testing"
)

func TestKeyTexts(t *testing.T) {
	key, err := Generate(Ed25519)
	if err != nil {
		t.Fatal(err)
	}
	text, err := MarshalPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	bare := base64.StdEncoding.EncodeToString(block.Bytes)
	pair := key.(ed25519.PrivateKey)
	for name, good := range map[string]string{
		"PEM": string(text), "PEM with blank lines around": "\n" + string(text) + "\n\n", "base64": bare, "base64 in lines": bare[:20] + "\r\n" + bare[20:] + "\n",
		"PEM with CRLF": strings.ReplaceAll(string(text), "\n", "\r\n"), "rspamd's": base64.StdEncoding.EncodeToString(pair) + "\n", "a seed": base64.StdEncoding.EncodeToString(pair.Seed()),
	} {
		got, err := ParseKeyText([]byte(good))
		if err != nil || SelfTest(got, nil) != nil || !pair.Equal(got) {
			t.Errorf("%s: %v", name, err)
		}
	}
	other := append(pair[:ed25519.SeedSize:ed25519.SeedSize], make([]byte, ed25519.PublicKeySize)...)
	for name, bad := range map[string]string{"nothing": "", "a path": "/etc/dkim/key.pem", "base64 of something else": "AAAA", "halves of two keys": base64.StdEncoding.EncodeToString(other), "a public key": "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----"} {
		if _, err := ParseKeyText([]byte(bad)); err == nil || strings.Contains(err.Error(), bad) && bad != "" {
			t.Errorf("%s: error %v", name, err)
		}
	}
}

func TestForeignDomain(t *testing.T) {
	key, err := Generate(Ed25519)
	if err != nil {
		t.Fatal(err)
	}
	text, _ := MarshalPrivateKey(key)
	load := func(context.Context) ([]byte, error) { return []byte(string(text)), nil }
	if _, err := NewForeign("example.com").Domain(); !errors.Is(err, ErrNotFound) {
		t.Errorf("without keys: %v", err)
	}
	f := NewForeign("example.com")
	f.Add("Mail", text, load)
	one, _ := f.Domain()
	first := one.Version
	f.Add("mail", text, load)
	f.Add("no selector", text, load)
	f.Add("empty", nil, load)
	for i := range maxForeignKeys {
		f.Add(letters(i+1), text, load)
	}
	d, err := f.Domain()
	if err != nil || len(d.Keys) != maxForeignKeys || d.Keys[0].Selector != "mail" || len(d.Unreadable) != 4 || d.Version == first {
		t.Fatalf("%d keys, %v, %v", len(d.Keys), d.Unreadable, err)
	}
	if got, err := d.Keys[0].Load(t.Context()); err != nil || SelfTest(got, d.Keys[0].Public) != nil {
		t.Error(err)
	}
}
