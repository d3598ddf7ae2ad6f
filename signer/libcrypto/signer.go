//go:build linux && amd64 && !android && !nolibcrypto

package libcrypto

import (
	"bytes"
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"runtime"
)

// Signer is an RSA private key that signs by libcrypto, and by Go where libcrypto is not
// asked, fails, or is done with. It may be used concurrently.
type Signer struct {
	key    *rsa.PrivateKey
	pkey   *pkey
	report func(error)
}

var (
	_ crypto.Signer = (*Signer)(nil)
	_ io.Closer     = (*Signer)(nil)
)

// NewSigner copies key into libcrypto and tests it: a signature must verify and be the same
// as Go's. The key must have been through Precompute, as parsed and generated keys have,
// and must not be changed afterwards. Should libcrypto fail later, onFallback,
// unless it is nil, is told once, in the goroutine that asked for the signature, and Go
// signs from then on.
func (l *Library) NewSigner(key *rsa.PrivateKey, onFallback func(error)) (*Signer, error) {
	k, err := l.newKey(key)
	if err != nil {
		return nil, err
	}
	if err := k.selfTest(key); err != nil {
		k.retire()
		return nil, err
	}
	s := &Signer{key: key, pkey: k, report: onFallback}
	// A Signer that is dropped without Close takes its key with it.
	runtime.AddCleanup(s, func(k *pkey) { k.retire() }, k)
	return s, nil
}

// selfTest signs with k and compares with key.
func (k *pkey) selfTest(key *rsa.PrivateKey) error {
	got, err := k.signNow(testDigest[:])
	if err != nil {
		return err
	}
	want, err := rsa.SignPKCS1v15(nil, key, crypto.SHA256, testDigest[:])
	if err == nil && !bytes.Equal(got, want) {
		err = errors.New("signature differs from Go's")
	}
	if err == nil {
		err = rsa.VerifyPKCS1v15(&key.PublicKey, crypto.SHA256, testDigest[:], got)
	}
	if err != nil {
		return fmt.Errorf("libcrypto %s: self-test: %w", k.lib.version, err)
	}
	return nil
}

// Public returns the public half, an *rsa.PublicKey.
func (s *Signer) Public() crypto.PublicKey { return s.key.Public() }

// Sign signs digest as the key itself would; see [rsa.PrivateKey.Sign]. With
// opts = crypto.SHA256, libcrypto does it.
func (s *Signer) Sign(rand io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	if opts != crypto.SHA256 || len(digest) != sha256.Size {
		return s.key.Sign(rand, digest, opts)
	}
	sig, err := s.pkey.sign(digest)
	if err == nil {
		return sig, nil
	}
	// Of several that fail at once, the first to retire the key reports. One that found it
	// retired already has nothing to report.
	if s.pkey.retire() && s.report != nil {
		s.report(fallbackError(s.key, err))
	}
	return s.key.Sign(rand, digest, opts)
}

// signNow signs by libcrypto without waiting for a turn, so that a measurement is of the
// signature alone.
func (s *Signer) signNow(digest []byte) ([]byte, error) { return s.pkey.signNow(digest) }

// Close gives up the key in libcrypto and returns nil. It does not wait: signatures in flight
// are finished, and the last of them frees the key. Signatures asked for later are made by Go.
func (s *Signer) Close() error {
	s.pkey.retire()
	return nil
}
