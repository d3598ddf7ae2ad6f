package keystore

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"hash/fnv"
	"strings"
)

// maxForeignKeys bounds the keys of one domain in another product's store: each
// one signs every message.
const maxForeignKeys = 20

// Foreign makes a Domain of what another product's store has of it. There, keys
// have no state: every one is active.
type Foreign struct {
	dom     *Domain
	version uint64
}

// NewForeign begins a domain without keys. Its name must be valid.
func NewForeign(name string) *Foreign {
	return &Foreign{dom: &Domain{Name: name}}
}

// Add adds a key. text is the private half as ParseKeyText takes it; load reads
// it anew. What cannot be used becomes a row in Unreadable.
func (f *Foreign) Add(selector string, text []byte, load func(context.Context) ([]byte, error)) {
	selector = strings.ToLower(selector)
	f.hash([]byte(selector), text)
	if err := f.add(selector, text, load); err != nil {
		f.AddBroken(selector, err)
	}
}

func (f *Foreign) add(selector string, text []byte, load func(context.Context) ([]byte, error)) error {
	if err := ValidSelector(selector); err != nil {
		return err
	}
	if f.dom.Key(selector) != nil {
		return errors.New("is there twice")
	}
	if len(f.dom.Keys) == maxForeignKeys {
		return fmt.Errorf("the domain has more than %d keys", maxForeignKeys)
	}
	key, err := ParseKeyText(text)
	if err != nil {
		return err
	}
	public, algorithm, err := PublicBytes(key.Public())
	if err != nil {
		return err
	}
	k := Key{Selector: selector, Algorithm: algorithm, State: Active, Public: public}
	k.Load = func(ctx context.Context) (crypto.Signer, error) {
		text, err := load(ctx)
		if err != nil {
			return nil, err
		}
		defer clear(text)
		return ParseKeyText(text)
	}
	if err := k.validate(f.dom.Name); err != nil {
		return err
	}
	f.dom.Keys = append(f.dom.Keys, k)
	return nil
}

// AddBroken adds a row that should be a key that signs, and says why it is not.
func (f *Foreign) AddBroken(selector string, err error) {
	f.hash([]byte(selector), []byte(err.Error()))
	row := BadRow{Selector: strings.ToLower(selector), Active: true, Err: fmt.Errorf("key %.80q of %s: %w", selector, f.dom.Name, err)}
	if ValidSelector(row.Selector) != nil {
		row.Selector = ""
	}
	f.dom.Unreadable = append(f.dom.Unreadable, row)
}

// Domain returns the domain. Its version is a hash of its keys. The error is
// ErrNotFound (wrapped) if nothing was added.
func (f *Foreign) Domain() (*Domain, error) {
	if len(f.dom.Keys) == 0 && len(f.dom.Unreadable) == 0 {
		return nil, fmt.Errorf("domain %s: %w", f.dom.Name, ErrNotFound)
	}
	f.dom.Version = f.version | 1 // never 0
	return f.dom, nil
}

func (f *Foreign) hash(parts ...[]byte) {
	h := fnv.New64a()
	fmt.Fprint(h, f.version)
	for _, p := range parts {
		fmt.Fprintf(h, " %d:%s", len(p), p)
	}
	f.version = h.Sum64()
}

// ParseKeyText reads a private key as other products keep it: in PEM, as
// ParsePrivateKey takes it, or in bare base64 with or without line ends, which is
// its DER (PKCS#1 or PKCS#8) or, as rspamd has Ed25519 keys, the 32 octets of the
// seed, with or without the 32 of the public half behind them.
func ParseKeyText(text []byte) (crypto.Signer, error) {
	text = bytes.TrimSpace(text)
	if bytes.Contains(text, []byte("-----BEGIN ")) || len(text) == 0 || len(text) > maxKeyFile {
		return ParsePrivateKey(text)
	}
	der, err := base64.StdEncoding.DecodeString(string(bytes.Join(bytes.Fields(text), nil)))
	if err != nil {
		return nil, errors.New("neither PEM nor base64")
	}
	defer clear(der)
	if len(der) == ed25519.SeedSize || len(der) == ed25519.PrivateKeySize {
		key := ed25519.NewKeyFromSeed(der[:ed25519.SeedSize])
		if len(der) == ed25519.PrivateKeySize && !bytes.Equal(key, der) {
			return nil, errors.New("an Ed25519 key whose public half does not belong to it")
		}
		return key, nil
	}
	if key, err := parsePKCS8(der); err == nil {
		return key, nil
	}
	key, err := parsePKCS1(der)
	if err != nil {
		return nil, fmt.Errorf("base64, but: %w", err)
	}
	return key, nil
}

// MarshalPrivate reads the private half of a key that an Update brings into a
// store, tests it against the key's row, and returns it as PKCS#8 in PEM, or what
// wrap makes of that.
func (k *Key) MarshalPrivate(ctx context.Context, domain string, wrap func(domain, selector string, pem []byte) ([]byte, error)) ([]byte, error) {
	key, err := k.Load(ctx)
	if err != nil {
		return nil, fmt.Errorf("key %s: %w", k.Selector, err)
	}
	if err := SelfTest(key, k.Public); err != nil {
		return nil, fmt.Errorf("key %s: %w", k.Selector, err)
	}
	data, err := MarshalPrivateKey(key)
	if err == nil && wrap != nil {
		plain := data
		defer clear(plain)
		data, err = wrap(domain, k.Selector, plain)
		data = bytes.Clone(data) // which is plain itself where nothing is wrapped
	}
	if err != nil {
		return nil, fmt.Errorf("key %s: %w", k.Selector, err)
	}
	return data, nil
}
