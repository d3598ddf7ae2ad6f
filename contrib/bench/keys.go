//go:build linux

package main

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"net/mail"
	"net/textproto"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/emersion/go-msgauth/dkim"
)

// algorithm is what a milter signs with. The selector of a key is its name.
type algorithm string

const (
	rsa2048 algorithm = "rsa"
	edwards algorithm = "ed25519"
)

// keys are the private keys that all milters sign with, in the files that they
// want them in, and the public ones. They are made for one run.
type keys struct {
	pem     map[algorithm]string // PKCS #8
	rsaPEM  string               // PKCS #1, which dkimpy wants
	seed    string               // of Ed25519, in base64, which dkimpy and rspamd want
	records map[string]string    // DNS name → key record
}

// newKeys makes keys in a directory.
func newKeys(dir string) (*keys, error) {
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, err
	}
	_, edPrivate, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	rsaDER, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, err
	}
	edDER, err := x509.MarshalPKCS8PrivateKey(edPrivate)
	if err != nil {
		return nil, err
	}
	rsaPublic, err := x509.MarshalPKIXPublicKey(private.Public())
	if err != nil {
		return nil, err
	}
	file := func(name string) string { return filepath.Join(dir, name) }
	k := &keys{
		pem:    map[algorithm]string{rsa2048: file("rsa.pem"), edwards: file("ed25519.pem")},
		rsaPEM: file("rsa.pkcs1"),
		seed:   file("ed25519.seed"),
		records: map[string]string{
			recordName(rsa2048): "v=DKIM1; k=rsa; p=" + base64.StdEncoding.EncodeToString(rsaPublic),
			recordName(edwards): "v=DKIM1; k=ed25519; p=" + base64.StdEncoding.EncodeToString(edPrivate.Public().(ed25519.PublicKey)),
		},
	}
	for name, content := range map[string][]byte{
		k.pem[rsa2048]: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: rsaDER}),
		k.pem[edwards]: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: edDER}),
		k.rsaPEM:       pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(private)}),
		k.seed:         []byte(base64.StdEncoding.EncodeToString(edPrivate.Seed())),
	} {
		if err := os.WriteFile(name, content, 0o600); err != nil {
			return nil, err
		}
	}
	return k, nil
}

func recordName(a algorithm) string { return string(a) + "._domainkey." + domain }

// verify checks that a message carries one good signature of each of the
// algorithms, and no other, all with relaxed canonicalization and over the
// same fields.
func (k *keys) verify(wire []byte, want []algorithm) error {
	var mu sync.Mutex // guards found: signatures are verified side by side
	found := map[string]bool{}
	results, err := dkim.VerifyWithOptions(bytes.NewReader(wire), &dkim.VerifyOptions{
		LookupTXT: func(name string) ([]string, error) {
			mu.Lock()
			defer mu.Unlock()
			if found[name] {
				return nil, fmt.Errorf("second signature with the key %s", name)
			}
			found[name] = true
			if k.records[name] == "" {
				return nil, fmt.Errorf("no such key: %s", name)
			}
			return []string{k.records[name]}, nil
		},
	})
	if err != nil {
		return err
	}
	var errs []error
	for _, r := range results {
		errs = append(errs, r.Err)
	}
	if len(results) != len(want) {
		errs = append(errs, fmt.Errorf("%d signatures, want %d", len(results), len(want)))
	}
	for _, a := range want {
		if !found[recordName(a)] {
			errs = append(errs, fmt.Errorf("no signature with %s", a))
		}
	}
	parsed, err := mail.ReadMessage(bytes.NewReader(wire))
	if err != nil {
		return err
	}
	for _, signature := range parsed.Header[textproto.CanonicalMIMEHeaderKey(signatureName)] {
		errs = append(errs, checkTags(signature))
	}
	return errors.Join(errs...)
}

// checkTags checks that a signature is made as all others are, so that their
// costs can be compared.
func checkTags(signature string) error {
	tags := map[string]string{}
	for tag := range strings.SplitSeq(strings.Join(strings.Fields(signature), ""), ";") {
		name, value, _ := strings.Cut(tag, "=")
		tags[name] = value
	}
	if c := tags["c"]; c != "relaxed/relaxed" {
		return fmt.Errorf("signature with c=%s, want relaxed/relaxed", c)
	}
	want := map[string]int{"from": 2}
	for _, name := range signedFields[1:] {
		want[strings.ToLower(name)] = 1
	}
	for name := range strings.SplitSeq(tags["h"], ":") {
		want[strings.ToLower(name)]--
	}
	for name, n := range want {
		if n != 0 {
			return fmt.Errorf("signature with h=%s: %s is there %+d times too often", tags["h"], name, -n)
		}
	}
	return nil
}
