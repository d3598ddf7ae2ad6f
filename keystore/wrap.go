package keystore

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
)

const (
	// wrappedKind is the type of the PEM block of a wrapped key.
	wrappedKind = "WAXSEAL WRAPPED KEY"

	wrapVersion  = 1
	wrapKeyBytes = 32 // AES-256
	wrapIDBytes  = 8
	wrapHead     = 1 + wrapIDBytes

	// maxWrapKeys bounds a file of wrapping keys: the one in use and a few that
	// are on their way out.
	maxWrapKeys = 16
	maxWrapFile = 16 << 10
)

// Wrapper encrypts private keys for a store with AES-256-GCM, so that whoever
// reads the store, or a backup of it, has no keys. A wrapped key is the PEM block
// "WAXSEAL WRAPPED KEY" of
//
//	1 byte    the version, 1
//	8 bytes   the wrapping key's identifier: the first bytes of the SHA-256 of
//	          "waxseal wrapping key id" and the key
//	12 bytes  a random nonce
//	the rest  the private key as it would be without, encrypted, and the tag
//
// What is authenticated besides is the version and identifier as they stand, the
// domain, a zero byte and the selector: a wrapped key that is put in another's
// place does not open.
//
// Its Wrap and Unwrap are what the stores take as options.
type Wrapper struct{ keys []wrapKey }

type wrapKey struct {
	id   [wrapIDBytes]byte
	aead cipher.AEAD
}

// WrappedError says that a private key cannot be unwrapped, for want of its
// wrapping key.
type WrappedError struct {
	ID string // of the wrapping key
}

func (e *WrappedError) Error() string {
	return fmt.Sprintf("private key is wrapped with the key %s, which is not among those of keystore.key_encryption_key; add it there", e.ID)
}

// NewWrapper returns a Wrapper with the keys of a file: one to a line, 32 random
// bytes in base64. The first one wraps, all unwrap. Empty lines and those that
// begin with # do not count. No error quotes the file.
func NewWrapper(file []byte) (*Wrapper, error) {
	w := &Wrapper{}
	number := 0
	for line := range bytes.Lines(file) {
		number++
		if line = bytes.TrimSpace(line); len(line) == 0 || line[0] == '#' {
			continue
		}
		secret, err := base64.StdEncoding.Strict().DecodeString(string(line))
		if err != nil || len(secret) != wrapKeyBytes {
			return nil, fmt.Errorf("line %d is no wrapping key: want %d bytes in base64, as \"openssl rand -base64 %d\" makes them", number, wrapKeyBytes, wrapKeyBytes)
		}
		if len(w.keys) == maxWrapKeys {
			return nil, fmt.Errorf("more than %d wrapping keys", maxWrapKeys)
		}
		k, err := newWrapKey(secret)
		clear(secret)
		if err != nil {
			return nil, err
		}
		if w.find(k.id[:]) != nil {
			return nil, fmt.Errorf("line %d has a wrapping key for the second time", number)
		}
		w.keys = append(w.keys, k)
	}
	if len(w.keys) == 0 {
		return nil, fmt.Errorf("no wrapping key: want a line with %d bytes in base64, as \"openssl rand -base64 %d\" makes it", wrapKeyBytes, wrapKeyBytes)
	}
	return w, nil
}

// ReadWrapper is NewWrapper for the file at path. One that others may read or
// change is refused with a *PermissionError; its group may read it.
func ReadWrapper(path string) (*Wrapper, error) {
	data, info, err := readRegular(path, maxWrapFile)
	if err != nil {
		e := &FileError{Path: path, Problem: err.Error(), Err: err}
		errors.As(err, &e)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			e.Repair = fmt.Sprintf("restore it, if keys are encrypted already; else make it: (umask 077; openssl rand -base64 %d > %s)", wrapKeyBytes, shellWord(path))
		case errors.Is(err, fs.ErrPermission):
			e.Repair = fmt.Sprintf("run as the user whose it is, or give it to this one: chown %d %s", os.Geteuid(), shellWord(path))
		}
		return nil, fmt.Errorf("wrapping keys: %w", e)
	}
	defer clear(data)
	if mode := info.Mode().Perm(); mode&0o027 != 0 {
		return nil, &PermissionError{Path: path, Repair: "chmod 600 " + shellWord(path),
			Rule: fmt.Sprintf("file of wrapping keys is open to others (mode %04o)", mode)}
	}
	w, err := NewWrapper(data)
	if err != nil {
		return nil, fmt.Errorf("wrapping keys %s: %w", path, err)
	}
	return w, nil
}

func newWrapKey(secret []byte) (k wrapKey, err error) {
	sum := sha256.Sum256(append([]byte("waxseal wrapping key id"), secret...))
	copy(k.id[:], sum[:])
	block, err := aes.NewCipher(secret)
	if err != nil {
		return k, err
	}
	k.aead, err = cipher.NewGCMWithRandomNonce(block)
	return k, err
}

// find returns the key with the identifier, or nil.
func (w *Wrapper) find(id []byte) *wrapKey {
	for i := range w.keys {
		if bytes.Equal(w.keys[i].id[:], id) {
			return &w.keys[i]
		}
	}
	return nil
}

// associated is what is authenticated besides the private key. Neither a domain
// nor a selector has a zero byte.
func associated(head []byte, domain, selector string) []byte {
	return []byte(string(head) + domain + "\x00" + selector)
}

// Wrap encrypts a private key in PEM with the first key. A nil Wrapper returns it
// as it is.
func (w *Wrapper) Wrap(domain, selector string, key []byte) ([]byte, error) {
	if w == nil {
		return key, nil
	}
	if strings.ContainsRune(domain+selector, 0) {
		return nil, errors.New("a name with a zero byte")
	}
	first := w.keys[0]
	head := append([]byte{wrapVersion}, first.id[:]...)
	sealed := first.aead.Seal(head, nil, key, associated(head, domain, selector))
	return pem.EncodeToMemory(&pem.Block{Type: wrappedKind, Bytes: sealed}), nil
}

// Unwrap returns the private key in PEM. One that is not wrapped is returned as it
// is, so that a store may be wrapped step by step. The error is a *WrappedError
// when the wrapping key is missing; a nil Wrapper has none.
func (w *Wrapper) Unwrap(domain, selector string, stored []byte) ([]byte, error) {
	sealed, err := wrapped(stored)
	if err != nil || sealed == nil {
		return stored, err
	}
	id := sealed[1:wrapHead]
	if w == nil {
		return nil, &WrappedError{hex.EncodeToString(id)}
	}
	k := w.find(id)
	if k == nil {
		return nil, &WrappedError{hex.EncodeToString(id)}
	}
	key, err := k.aead.Open(nil, nil, sealed[wrapHead:], associated(sealed[:wrapHead], domain, selector))
	if err != nil {
		return nil, fmt.Errorf("wrapped private key is damaged, or not that of %s.%s; restore it from a backup", selector, domain)
	}
	return key, nil
}

// Current reports whether a stored private key is as Wrap would have it now:
// wrapped with the first key, or, for a nil Wrapper, not at all.
func (w *Wrapper) Current(stored []byte) bool {
	sealed, err := wrapped(stored)
	if w == nil || sealed == nil {
		return err == nil && w == nil && sealed == nil
	}
	return bytes.Equal(sealed[1:wrapHead], w.keys[0].id[:])
}

// wrapped takes the PEM off a wrapped key. What has other PEM, or none, is not
// wrapped: then sealed is nil.
func wrapped(stored []byte) (sealed []byte, err error) {
	if !bytes.Contains(stored, []byte("-----BEGIN "+wrappedKind+"-----")) {
		return nil, nil
	}
	der, kind, err := onePEM(stored)
	switch {
	case err != nil:
		return nil, fmt.Errorf("wrapped private key: %w", err)
	case kind != wrappedKind:
		return nil, fmt.Errorf("wrapped private key: holds a PEM block of type %.40q as well", kind)
	case len(der) < wrapHead+12+16:
		return nil, fmt.Errorf("wrapped private key is cut short: %d bytes", len(der))
	case der[0] != wrapVersion:
		return nil, fmt.Errorf("wrapped private key has the format version %d, want %d; use the version of waxseal that wrote it", der[0], wrapVersion)
	}
	return der, nil
}

// Rewrap returns the stored private key of k, a key of the domain, as Wrap has it
// now, and nil if it is that already. What it returns has been opened again, and
// has signed, as has what it was made from.
func (w *Wrapper) Rewrap(domain string, k *Key, stored []byte) ([]byte, error) {
	if w.Current(stored) {
		return nil, nil
	}
	key, err := w.Unwrap(domain, k.Selector, stored)
	if err != nil {
		return nil, err
	}
	key = bytes.Clone(key) // which may be what is stored, and that is the caller's
	defer clear(key)
	if err := testPEM(key, k.Public); err != nil {
		return nil, err
	}
	next, err := w.Wrap(domain, k.Selector, key)
	if err != nil {
		return nil, err
	}
	again, err := w.Unwrap(domain, k.Selector, next)
	if err != nil {
		return nil, err
	}
	defer clear(again)
	if err := testPEM(again, k.Public); err != nil {
		return nil, err
	}
	return next, nil
}

// testPEM tests a private key in PEM against its public one.
func testPEM(key, public []byte) error {
	signer, err := ParsePrivateKey(key)
	if err != nil {
		return err
	}
	return SelfTest(signer, public)
}
