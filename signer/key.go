package signer

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rsa"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Key is a private key and what its signatures say of it.
type Key struct {
	Domain   string // d=, in A-label form
	Selector string // s=
	// Identity is the i= tag: an address or @domain whose domain is Domain or
	// below it (RFC 6376, section 3.5). Empty leaves the tag out.
	Identity string
	// Lifetime after which the signature expires, rounded up to a second: x=
	// is that much after t=. Zero leaves the tag out.
	Lifetime time.Duration
	// Signer is an RSA or Ed25519 key, as told by its Public method.
	Signer crypto.Signer
}

// Values of the a= tag (RFC 6376, section 3.3.2, and RFC 8463, section 3).
const (
	algRSA     = "rsa-sha256"
	algEd25519 = "ed25519-sha256"
)

// kind is how a key signs a SHA-256 digest.
type kind struct {
	alg  string
	opts crypto.SignerOpts
	size int // octets of the signature
}

// maxTime is the latest t= or x=: they have at most 12 digits (RFC 6376,
// section 3.5).
const maxTime = 999_999_999_999

// MaxLifetime is the longest Key.Lifetime: it keeps x= in range and its
// computation from overflowing.
const MaxLifetime = 100 * 365 * 24 * time.Hour

// minBits is the least RSA modulus that verifiers accept (RFC 8301, section
// 3.2).
const minBits = 1024

// check returns what kind of key k is, or why it cannot sign. What check lets
// through can be written into a tag list as it is, Identity excepted.
func (k *Key) check() (kind, error) {
	if err := checkDomain(k.Domain); err != nil {
		return kind{}, fmt.Errorf("signing domain: %w", err)
	}
	if err := checkDomain(k.Selector); err != nil {
		return kind{}, fmt.Errorf("selector: %w", err)
	}
	if n := len(k.Selector) + len("._domainkey.") + len(k.Domain); n > maxDomain {
		return kind{}, fmt.Errorf("name of the key record would have %d octets, DNS has room for %d", n, maxDomain)
	}
	if k.Identity != "" {
		if err := checkIdentity(k.Identity, k.Domain); err != nil {
			return kind{}, fmt.Errorf("identity %q: %w", k.Identity, err)
		}
	}
	if k.Lifetime < 0 || k.Lifetime > MaxLifetime {
		return kind{}, fmt.Errorf("lifetime %v: want 0 to %v", k.Lifetime, MaxLifetime)
	}
	if k.Signer == nil {
		return kind{}, errors.New("no private key")
	}
	switch pub := k.Signer.Public().(type) {
	case *rsa.PublicKey:
		if n := pub.N.BitLen(); n < minBits {
			return kind{}, fmt.Errorf("RSA modulus has %d bits, verifiers ignore keys under %d (RFC 8301, section 3.2)", n, minBits)
		}
		// PKCS #1 v1.5 (RFC 6376, section 3.3.2).
		return kind{algRSA, crypto.SHA256, pub.Size()}, nil
	case ed25519.PublicKey:
		// The digest is the message that Ed25519 signs (RFC 8463, section 3).
		return kind{algEd25519, crypto.Hash(0), ed25519.SignatureSize}, nil
	default:
		return kind{}, fmt.Errorf("%T is no RSA or Ed25519 key", pub)
	}
}

// wrap says which key an error is about.
func (k *Key) wrap(err error) error {
	return fmt.Errorf("key %q of %q: %w", k.Selector, k.Domain, err)
}

// Limits of DNS (RFC 1035, section 2.3.4), the first without the root label.
const (
	maxDomain = 253
	maxLabel  = 63
)

// checkDomain accepts names that are safe in a tag list: labels of ASCII
// letters, digits, hyphens and underscores. Whether such a name can exist is
// not its concern.
func checkDomain(name string) error {
	if name == "" {
		return errors.New("empty")
	}
	if len(name) > maxDomain {
		return fmt.Errorf("%d octets, want at most %d", len(name), maxDomain)
	}
	for label := range strings.SplitSeq(name, ".") {
		if label == "" {
			return errors.New("empty label")
		}
		if len(label) > maxLabel {
			return fmt.Errorf("label of %d octets, want at most %d", len(label), maxLabel)
		}
		for i := range len(label) {
			switch c := label[i]; {
			case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '_':
			default:
				return fmt.Errorf("character %q", c)
			}
		}
	}
	return nil
}

// checkIdentity accepts addresses at domain or below it. Control characters
// could be encoded but are no one's address.
func checkIdentity(identity, domain string) error {
	at := strings.LastIndexByte(identity, '@')
	if at < 0 {
		return errors.New("no @")
	}
	if at > maxLocal {
		return fmt.Errorf("local part of %d octets, want at most %d", at, maxLocal)
	}
	for i := range at {
		if c := identity[i]; c < ' ' || c == 0x7f {
			return fmt.Errorf("character %q", c)
		}
	}
	host := strings.ToLower(identity[at+1:])
	if err := checkDomain(host); err != nil {
		return err
	}
	domain = strings.ToLower(domain)
	if host != domain && !strings.HasSuffix(host, "."+domain) {
		return fmt.Errorf("not in %s", domain)
	}
	return nil
}

// maxLocal is the longest local part of an address (RFC 5321, section
// 4.5.3.1.1).
const maxLocal = 64

// encodeIdentity writes an identity that checkIdentity accepts as an i= value:
// the local part in DKIM-Quoted-Printable (RFC 6376, section 2.11).
func encodeIdentity(identity string) string {
	at := strings.LastIndexByte(identity, '@')
	var b strings.Builder
	for i := range at {
		if c := identity[i]; c <= ' ' || c >= 0x7f || c == ';' || c == '=' {
			fmt.Fprintf(&b, "=%02X", c)
		} else {
			b.WriteByte(c)
		}
	}
	b.WriteString(strings.ToLower(identity[at:]))
	return b.String()
}
