package vaultstore

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"waxseal/keystore"
)

// transit is an engine that has keys which never leave it.
type transit struct {
	client  *client
	mount   string
	timeout time.Duration
	room    chan struct{} // one element for each request under way
}

func newTransit(c *client, mount string, requests int, timeout time.Duration) *transit {
	return &transit{client: c, mount: mount, timeout: timeout, room: make(chan struct{}, requests)}
}

// makeTimeout bounds the making of a key: a large RSA key takes its time.
const makeTimeout = 30 * time.Second

// transitKinds are the engine's names for our algorithms.
var transitKinds = map[keystore.Algorithm]string{
	keystore.RSA2048: "rsa-2048", keystore.RSA3072: "rsa-3072", keystore.RSA4096: "rsa-4096", keystore.Ed25519: "ed25519",
}

// transitKey is a crypto.Signer whose private half is in Vault. A signature takes
// at most the engine's time limit, waiting for others included.
type transitKey struct {
	transit *transit
	name    string
	public  crypto.PublicKey
}

// ErrMadeElsewhere means that a store whose keys are in the transit engine was
// given a key that is not.
var ErrMadeElsewhere = errors.New("the keystore has its keys made inside Vault's transit engine, and takes none that were made elsewhere")

// Transit reports whether new keys are made inside the transit engine, and never
// leave it. Such a store takes no others.
func (s *Store) Transit() bool {
	n, ok := s.layout.(*native)
	return ok && n.transit != nil
}

var _ keystore.Generator = (*Store)(nil)

// Generate implements keystore.Generator: the key is made inside the transit
// engine, if there is one, and here otherwise. There its name is that of its
// record, SELECTOR._domainkey.DOMAIN, so that one whose Update failed is found
// again. A slot's next key has .V and the domain's version behind it, which is the
// name of no other domain's key.
func (s *Store) Generate(ctx context.Context, domain, selector string, algorithm keystore.Algorithm) (crypto.Signer, error) {
	n, ok := s.layout.(*native)
	if !ok {
		return nil, keystore.ErrReadOnly
	}
	if n.transit == nil {
		return keystore.Generate(algorithm)
	}
	if err := errors.Join(keystore.ValidDomain(domain), keystore.ValidSelector(selector)); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, max(s.opts.Timeout, makeTimeout))
	defer cancel()
	name := selector + "._domainkey." + domain
	d, err := n.domain(ctx, domain, false)
	switch {
	case errors.Is(err, keystore.ErrNotFound):
	case err != nil:
		return nil, fmt.Errorf("domain %s: %w", domain, err)
	case d.Key(selector) != nil:
		name += ".V" + strconv.FormatUint(d.Version, 10)
	}
	key, err := n.transit.make(ctx, name, algorithm)
	if err != nil {
		return nil, fmt.Errorf("key %s.%s: %w", selector, domain, err)
	}
	return key, nil
}

// key returns the key of a row.
func (t *transit) key(name string, k *keystore.Key) (*transitKey, error) {
	public, err := keystore.ParsePublic(k.Algorithm, k.Public)
	if err != nil {
		return nil, err
	}
	return &transitKey{t, name, public}, nil
}

// make makes a key. If there is one of the name already, which a row has not come
// to, it returns that.
func (t *transit) make(ctx context.Context, name string, algorithm keystore.Algorithm) (*transitKey, error) {
	kind, ok := transitKinds[algorithm]
	if !ok {
		return nil, fmt.Errorf("vault's transit engine makes no %s keys, want rsa-2048, rsa-3072, rsa-4096 or ed25519", algorithm)
	}
	body := map[string]any{"type": kind, "exportable": false, "allow_plaintext_backup": false}
	if err := t.client.do(ctx, "POST", t.mount+"/keys/"+name, body, nil); err != nil {
		return nil, err
	}
	var answer struct {
		Data struct {
			Type       string
			Exportable bool
			Keys       map[string]struct {
				PublicKey string `json:"public_key"`
			}
		}
	}
	if err := t.client.do(ctx, "GET", t.mount+"/keys/"+name, nil, &answer); err != nil {
		return nil, err
	}
	if answer.Data.Type != kind {
		return nil, fmt.Errorf("transit has a key %s already, of the type %.20q: delete it, or take another selector", name, answer.Data.Type)
	}
	if answer.Data.Exportable {
		return nil, fmt.Errorf("transit has a key %s already, which may be exported: delete it, or take another selector", name)
	}
	public, err := parseTransitPublic(kind, answer.Data.Keys["1"].PublicKey)
	if err != nil {
		return nil, fmt.Errorf("the public key that transit gives of %s: %w", name, err)
	}
	return &transitKey{t, name, public}, nil
}

// parseTransitPublic reads a public key as transit shows it: PEM for RSA, bare
// base64 for Ed25519.
func parseTransitPublic(kind, text string) (crypto.PublicKey, error) {
	if kind == "ed25519" {
		raw, err := base64.StdEncoding.DecodeString(text)
		if err != nil || len(raw) != ed25519.PublicKeySize {
			return nil, errors.New("want 32 octets in base64")
		}
		return ed25519.PublicKey(raw), nil
	}
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		return nil, errors.New("want PEM")
	}
	return x509.ParsePKIXPublicKey(block.Bytes)
}

// remove deletes a key for good. It need not be there.
func (t *transit) remove(ctx context.Context, name string) error {
	err := t.client.do(ctx, "POST", t.mount+"/keys/"+name+"/config", map[string]any{"deletion_allowed": true}, nil)
	if err == nil {
		err = t.client.do(ctx, "DELETE", t.mount+"/keys/"+name, nil, nil)
	}
	a := (*answerError)(nil)
	if !errors.As(err, &a) || a.status != 404 && a.status != 400 {
		return err
	}
	if what := strings.Join(a.errs, " "); a.status == 400 && !strings.Contains(what, "no existing key") && !strings.Contains(what, "not found") {
		return err
	}
	return nil
}

var _ keystore.Remote = (*transitKey)(nil)

// Where implements keystore.Remote.
func (k *transitKey) Where() string {
	return fmt.Sprintf("Vault's transit engine at %s, as %s", k.transit.mount, k.name)
}

// Public implements crypto.Signer.
func (k *transitKey) Public() crypto.PublicKey { return k.public }

// Sign implements crypto.Signer: PKCS#1 v1.5 over a SHA-256 digest for RSA, and
// the message itself for Ed25519 (RFC 8463, section 3).
func (k *transitKey) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), k.transit.timeout)
	defer cancel()
	body := map[string]any{"input": base64.StdEncoding.EncodeToString(digest), "key_version": 1}
	path := k.transit.mount + "/sign/" + k.name
	switch hash := opts.HashFunc(); {
	case isEd25519(k.public) && hash == 0:
	case !isEd25519(k.public) && hash == crypto.SHA256 && len(digest) == hash.Size():
		body["prehashed"], body["signature_algorithm"] = true, "pkcs1v15"
		path += "/sha2-256"
	default:
		return nil, fmt.Errorf("transit key %s: asked for a signature that DKIM does not have", k.name)
	}
	select {
	case k.transit.room <- struct{}{}:
		defer func() { <-k.transit.room }()
	case <-ctx.Done():
		return nil, fmt.Errorf("transit key %s: %d signatures are under way, and none ended within %v", k.name, cap(k.transit.room), k.transit.timeout)
	}
	var answer struct {
		Data struct{ Signature string }
	}
	if err := k.transit.client.do(ctx, "POST", path, body, &answer); err != nil {
		return nil, fmt.Errorf("transit key %s: %w", k.name, err)
	}
	text, ok := strings.CutPrefix(answer.Data.Signature, "vault:v1:")
	signature, err := base64.StdEncoding.DecodeString(text)
	if !ok || err != nil || len(signature) == 0 {
		return nil, fmt.Errorf("transit key %s: vault's answer has no signature", k.name)
	}
	return signature, nil
}

func isEd25519(public crypto.PublicKey) bool {
	_, ok := public.(ed25519.PublicKey)
	return ok
}
