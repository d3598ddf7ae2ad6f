package main

// The keys of another signer.

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"waxseal/keystore"
	"waxseal/milter/policy"
)

// readKeyFile reads a private key, as old as its file.
func (t *takeover) readKeyFile(path string) (importedKey, error) {
	k := importedKey{From: path, Created: t.now()}
	info, err := os.Stat(path)
	if err != nil {
		return k, err
	}
	if age := info.ModTime(); age.Before(k.Created) && age.After(time.Unix(0, 0)) {
		k.Created = age
	}
	k.Created = k.Created.UTC().Truncate(time.Second)
	text, err := readLimited(path)
	if err != nil {
		return k, err
	}
	if info.Mode()&0o007 != 0 {
		t.add(lineDefault, path, "", "every user of this machine may read this key", "make a new key when the move is done")
	}
	if err := k.parse(text); err != nil {
		return k, fmt.Errorf("%s: %w", path, err)
	}
	return k, nil
}

// parse reads the key itself: PEM, or base64 of DER or of the bare bytes of an
// Ed25519 key, as rspamd and dkimpy have it.
func (k *importedKey) parse(text []byte) error {
	var err error
	if !bytes.Contains(text, []byte("-----BEGIN ")) {
		if seed, err := base64.StdEncoding.DecodeString(strings.Join(strings.Fields(string(text)), "")); err == nil && (len(seed) == ed25519.SeedSize || len(seed) == ed25519.PrivateKeySize) {
			private := ed25519.NewKeyFromSeed(seed[:ed25519.SeedSize])
			if len(seed) == ed25519.PrivateKeySize && !bytes.Equal(private, seed) {
				return errors.New("an Ed25519 key whose public half does not belong to it")
			}
			k.private = private
			k.public, k.Algorithm, err = keystore.PublicBytes(private.Public())
			return err
		}
		if text, err = inlineKey(string(text)); err != nil {
			return err
		}
	}
	if k.private, err = keystore.ParsePrivateKey(text); err != nil {
		return err
	}
	k.public, k.Algorithm, err = keystore.PublicBytes(k.private.Public())
	return err
}

// takeKey notes the key in a file for a domain and selector, in whatever case
// those are written.
func (t *takeover) takeKey(domain, selector, path string) (*importedKey, error) {
	k, err := t.readKeyFile(path)
	if err != nil {
		return nil, err
	}
	if k.Domain, err = policy.Domain(domain); err != nil {
		return nil, err
	}
	k.Selector = strings.ToLower(selector)
	if err := keystore.ValidSelector(k.Selector); err != nil {
		return nil, err
	}
	return &k, t.addKey(&k)
}

// domainsOfFiles returns the domains for which there is a file whose path has
// them in place of a word.
func domainsOfFiles(path, word string) []string {
	parts := strings.Split(path, word)
	glob, expression := make([]string, len(parts)), make([]string, len(parts))
	for i, part := range parts {
		glob[i] = strings.NewReplacer(`\`, `\\`, "*", `\*`, "?", `\?`, "[", `\[`).Replace(part)
		expression[i] = regexp.QuoteMeta(part)
	}
	files, _ := filepath.Glob(strings.Join(glob, "*"))
	find := regexp.MustCompile("^" + strings.Join(expression, "([^/]+)") + "$")
	var domains []string
	for _, f := range files {
		m := find.FindStringSubmatch(f)
		if m == nil || strings.ReplaceAll(path, word, m[1]) != f {
			continue
		}
		if d, err := policy.Domain(m[1]); err == nil && d == m[1] {
			domains = append(domains, d)
		}
	}
	return domains
}
