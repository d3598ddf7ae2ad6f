package keystore

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"strconv"
)

const (
	// minRSA is the smallest modulus that signers may use (RFC 8301, section
	// 3.2), wantRSA what they should use, and wideRSA the largest one that
	// every verifier has to handle.
	minRSA, wantRSA, wideRSA = 1024, 2048, 4096

	// maxRSA bounds the work that a key file can cause: a signature of this
	// size takes a third of a second.
	maxRSA = 16384
)

// Generate makes a key of one of the named algorithms from the system's
// random numbers.
func Generate(alg Algorithm) (crypto.Signer, error) {
	bits := 0
	switch alg {
	case Ed25519:
		_, key, err := ed25519.GenerateKey(rand.Reader)
		return key, err
	case RSA1024:
		bits = 1024
	case RSA2048:
		bits = 2048
	case RSA3072:
		bits = 3072
	case RSA4096:
		bits = 4096
	default:
		return nil, fmt.Errorf("algorithm %.40q, want one of %q", alg, []Algorithm{RSA2048, Ed25519, RSA3072, RSA4096, RSA1024})
	}
	return rsa.GenerateKey(rand.Reader, bits)
}

// Remote is a key whose private half is in another program, which signs with it
// and never hands it out.
type Remote interface {
	crypto.Signer
	Where() string // such as "Vault's transit engine at transit, as NAME"
}

// ErrRemote means that a private half cannot be had, since its key is Remote.
var ErrRemote = errors.New("never leaves it")

// MarshalPrivateKey returns the key as PKCS#8 in PEM. Only the standard
// library's RSA and Ed25519 keys have that form; the error is ErrRemote (wrapped)
// for a Remote one.
func MarshalPrivateKey(key crypto.Signer) ([]byte, error) {
	switch key := key.(type) {
	case *rsa.PrivateKey, ed25519.PrivateKey:
	case Remote:
		return nil, fmt.Errorf("its private half is in %s, and %w", key.Where(), ErrRemote)
	default:
		return nil, fmt.Errorf("key of type %T has no PKCS#8 form", key)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// PublicBytes returns what a key record's p= carries for this key, and the
// key's algorithm: the SubjectPublicKeyInfo for RSA (RFC 6376, section 3.6.1),
// the bare 32 octets for Ed25519 (RFC 8463, section 4.2).
func PublicBytes(public crypto.PublicKey) ([]byte, Algorithm, error) {
	switch k := public.(type) {
	case *rsa.PublicKey:
		der, err := x509.MarshalPKIXPublicKey(k)
		if err != nil {
			return nil, "", err
		}
		return der, Algorithm("rsa-" + strconv.Itoa(k.N.BitLen())), nil
	case ed25519.PublicKey:
		if len(k) != ed25519.PublicKeySize {
			return nil, "", fmt.Errorf("ed25519 key of %d octets, want %d", len(k), ed25519.PublicKeySize)
		}
		return bytes.Clone(k), Ed25519, nil
	}
	return nil, "", fmt.Errorf("key of type %T, want RSA or Ed25519", public)
}

// ParsePublic is the reverse of PublicBytes. Of the algorithm only "ed25519"
// or "rsa" before the hyphen counts.
func ParsePublic(alg Algorithm, public []byte) (crypto.PublicKey, error) {
	switch {
	case alg == Ed25519:
		if len(public) != ed25519.PublicKeySize {
			return nil, fmt.Errorf("ed25519 public key of %d octets, want %d", len(public), ed25519.PublicKeySize)
		}
		return ed25519.PublicKey(bytes.Clone(public)), nil
	case alg == "rsa" || len(alg) > 4 && alg[:4] == "rsa-":
		key, err := x509.ParsePKIXPublicKey(public)
		if err != nil {
			return nil, fmt.Errorf("rsa public key: %w", err)
		}
		k, ok := key.(*rsa.PublicKey)
		if !ok {
			return nil, fmt.Errorf("public key of type %T, want RSA", key)
		}
		if err := checkRSA(k); err != nil {
			return nil, err
		}
		return k, nil
	}
	return nil, fmt.Errorf("algorithm %.40q, want ed25519 or rsa- and the bits", alg)
}

// checkRSA refuses the moduli and exponents that no signer may use.
func checkRSA(k *rsa.PublicKey) error {
	switch bits := k.N.BitLen(); {
	case bits < minRSA:
		return fmt.Errorf("RSA key of %d bits, want at least %d (RFC 8301, section 3.2)", bits, minRSA)
	case bits > maxRSA:
		return fmt.Errorf("RSA key of %d bits, want at most %d", bits, maxRSA)
	case k.E < 3 || k.E%2 == 0:
		return fmt.Errorf("RSA key with the public exponent %d, want 65537", k.E)
	case k.E > 1<<31-1:
		return errors.New("RSA key with a public exponent beyond 31 bits, want 65537")
	}
	return nil
}

// Warnings says what is wrong with a key that nevertheless works: RSA below
// 2048 or above 4096 bits, or an unusual public exponent.
func Warnings(public crypto.PublicKey) []string {
	k, ok := public.(*rsa.PublicKey)
	if !ok {
		return nil
	}
	var warnings []string
	switch bits := k.N.BitLen(); {
	case bits < wantRSA:
		warnings = append(warnings, fmt.Sprintf("RSA key of %d bits is weak; replace it by one of %d", bits, wantRSA))
	case bits > wideRSA:
		warnings = append(warnings, fmt.Sprintf("RSA key of %d bits; verifiers need not handle more than %d", bits, wideRSA))
	}
	if k.E != 65537 {
		warnings = append(warnings, fmt.Sprintf("RSA public exponent is %d; some verifiers may refuse anything but 65537", k.E))
	}
	return warnings
}

var errMismatch = errors.New("private key does not match the public key of its record")

// selfTestText is what SelfTest signs; it cannot be the digest of a message.
const selfTestText = "waxseal key self-test"

// SelfTest signs with the key, verifies the signature, and compares the key
// with public, which is what the record's p= carries (nil compares nothing).
// A key that has a fault in its CRT values, or that fails in memory or in an
// accelerator, is found here and not by whoever factors its modulus from a
// faulty signature.
func SelfTest(key crypto.Signer, public []byte) error {
	mine, _, err := PublicBytes(key.Public())
	if err != nil {
		return err
	}
	if public != nil && !bytes.Equal(mine, public) {
		return errMismatch
	}
	digest := sha256.Sum256([]byte(selfTestText))
	switch k := key.Public().(type) {
	case *rsa.PublicKey:
		sig, err := key.Sign(rand.Reader, digest[:], crypto.SHA256)
		if err != nil {
			return fmt.Errorf("signing: %w", err)
		}
		if err := rsa.VerifyPKCS1v15(k, crypto.SHA256, digest[:], sig); err != nil {
			return errors.New("its signature does not verify")
		}
	case ed25519.PublicKey:
		sig, err := key.Sign(rand.Reader, digest[:], crypto.Hash(0))
		if err != nil {
			return fmt.Errorf("signing: %w", err)
		}
		if !ed25519.Verify(k, digest[:], sig) {
			return errors.New("its signature does not verify")
		}
	}
	return nil
}
