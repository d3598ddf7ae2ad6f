//go:build !linux || !amd64 || android || nolibcrypto

package libcrypto

import (
	"crypto"
	"crypto/rsa"
	"errors"
	"io"
)

// errNotBuiltIn is what every program without libcrypto has to say about it. It is used on
// linux/amd64 only: what finds the library and calls it without a C compiler (purego) is
// unproven or unsupported elsewhere, and only there is the gain known to be worth it.
var errNotBuiltIn = errors.New("libcrypto is not built into this program: " +
	"it is for linux/amd64, without the tag nolibcrypto")

// Library is libcrypto. There is none in this build.
type Library struct{}

// Open says that libcrypto is not built into this program.
func Open() (*Library, error) { return nil, errNotBuiltIn }

// Version is empty in this build.
func (*Library) Version() string { return "" }

// NewSigner says that libcrypto is not built into this program.
func (*Library) NewSigner(*rsa.PrivateKey, func(error)) (*Signer, error) {
	return nil, errNotBuiltIn
}

// Signer is a key in libcrypto. NewSigner makes none in this build; one made by other means
// signs nothing.
type Signer struct{}

// Public is nil in this build.
func (*Signer) Public() crypto.PublicKey { return nil }

// Sign says that libcrypto is not built into this program.
func (s *Signer) Sign(_ io.Reader, digest []byte, _ crypto.SignerOpts) ([]byte, error) {
	return s.signNow(digest)
}

func (*Signer) signNow([]byte) ([]byte, error) { return nil, errNotBuiltIn }

// Close does nothing in this build.
func (*Signer) Close() error { return nil }
