package main

// The keys of an OpenDKIM.

import (
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"waxseal/cmd/waxseal/internal/opendkim"
	"waxseal/keystore"
	"waxseal/milter/policy"
)

// loadedKey is a private key of OpenDKIM, or why there is none.
type loadedKey struct {
	key importedKey // without domain and selector
	err error
}

// load reads the private key that a row of the KeyTable has for a signing
// domain, once.
func (im *opendkimImport) load(k *opendkim.Key, domain string) loadedKey {
	from := k.File(domain)
	if from == "" {
		from = "the key at " + k.Place.String()
	}
	l, ok := im.loaded[from]
	if !ok {
		l = im.readKey(k, domain)
		l.key.From = from
		im.loaded[from] = l
	}
	if k.Bad != "" {
		l.err = errors.New(k.Bad)
	}
	return l
}

func (im *opendkimImport) readKey(k *opendkim.Key, domain string) (l loadedKey) {
	if k.Data == "" {
		l.key, l.err = im.readKeyFile(k.File(domain))
	} else {
		var text []byte
		if text, l.err = inlineKey(k.Data); l.err == nil {
			l.key.Created = im.now().UTC().Truncate(time.Second)
			l.err = l.key.parse(text)
		}
	}
	if l.err == nil {
		l.err = im.suitable(l.key.Algorithm)
	}
	return l
}

// suitable refuses keys with which OpenDKIM does not sign.
func (im *opendkimImport) suitable(algorithm keystore.Algorithm) error {
	wanted, _ := im.source.Get("SignatureAlgorithm")
	isEd25519 := algorithm == keystore.Ed25519
	if isEd25519 && !strings.EqualFold(wanted.Value, "ed25519-sha256") {
		return errors.New("an Ed25519 key, with which OpenDKIM does not sign unless SignatureAlgorithm says so")
	}
	var bits int64
	if least, ok := im.source.Int("MinimumKeyBits"); ok && !isEd25519 {
		if _, err := fmt.Sscanf(string(algorithm), "rsa-%d", &bits); err == nil && bits < least {
			return fmt.Errorf("an %s key, which is below MinimumKeyBits, so OpenDKIM does not sign with it", algorithm)
		}
	}
	return nil
}

// inlineKey makes a file of a key that stands in a table: PEM, or DER in base64.
func inlineKey(data string) ([]byte, error) {
	if strings.HasPrefix(data, "-----BEGIN ") {
		return []byte(data), nil
	}
	der, err := base64.StdEncoding.DecodeString(strings.Join(strings.Fields(data), ""))
	if err != nil {
		return nil, errors.New("a key that is neither a file nor PEM nor base64")
	}
	for _, kind := range []string{"RSA PRIVATE KEY", "PRIVATE KEY"} {
		text := pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
		if _, err = keystore.ParsePrivateKey(text); err == nil {
			return text, nil
		}
	}
	return nil, err
}

// take makes an imported key of a row of the KeyTable, for a signing domain.
func (im *opendkimImport) take(k *opendkim.Key, domain string) (*importedKey, error) {
	im.used[k.Place.String()+" "+k.Name] = true
	l := im.load(k, domain)
	if l.err != nil {
		return nil, l.err
	}
	key := l.key
	var err error
	if key.Domain, err = policy.Domain(domain); err != nil {
		return nil, err
	}
	key.Selector = strings.ToLower(k.Selector)
	if err := keystore.ValidSelector(key.Selector); err != nil {
		return nil, err
	}
	if err := im.addKey(&key); err != nil {
		return nil, err
	}
	return &key, nil
}

// fileDomains returns the domains for which there is a file of a key whose path
// has % for the domain.
func fileDomains(k *opendkim.Key) []string {
	return slices.DeleteFunc(domainsOfFiles(k.Path, "%"), func(d string) bool { return k.File(d) != strings.ReplaceAll(k.Path, "%", d) })
}
