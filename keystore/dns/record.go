// Package dns is about key records, the TXT records from which verifiers learn
// a domain's public keys (RFC 6376, section 3.6): making them from keys,
// parsing what somebody published, and writing them in the forms that zone
// files, web forms and scripts take.
//
// It promises: a record it makes uses only what RFC 6376, 8301 and 8463 allow
// today, and whatever it writes is read back to the same record, by itself and
// by a zone parser.
package dns

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"waxseal/keystore"
)

const (
	version = "DKIM1"

	// maxRecord is the most that a TXT record can carry, with the length
	// octets of its strings (RFC 1035, section 3.3.14) left out of account.
	maxRecord = 65535

	// maxNote keeps a note from making a record too large for one UDP answer.
	maxNote = 255
)

// Record is a key record. The zero value of a list means that the tag is
// absent, which allows everything.
type Record struct {
	KeyType  string   // k=: "rsa" or "ed25519"
	Hashes   []string // h=: acceptable hash algorithms
	Services []string // s=: service types, "email" or "*"
	Flags    []string // t=: "y" testing, "s" no subdomain in i=
	Note     string   // n=: for humans

	// Public is p=, decoded: as keystore.Key.Public has it, nil for a revoked
	// key. ParseRecord brings an RSA key that stands there as a bare
	// RSAPublicKey, or in a form other than DER's canonical one, into it.
	Public []byte
}

// RecordOptions asks for optional tags. The zero value asks for none.
type RecordOptions struct {
	Testing        bool     // t=y: verifiers are to treat the domain as unsigned
	StrictIdentity bool     // t=s: i= must not be in a subdomain
	Service        []string // s=: "email" or "*"
	Hash           []string // h=: "sha256"
	Note           string   // n=

	// Granularity is for those who still have a g= to ask for; any value is
	// refused, with the reason.
	Granularity string
}

// NewRecord makes the record for the key as it is to be published in the key's
// state: a revoked key's has an empty p=, and a removed key has none.
func NewRecord(k *keystore.Key, o RecordOptions) (*Record, error) {
	if k.State == keystore.Removed {
		return nil, fmt.Errorf("key %s is removed and has no record", k.Selector)
	}
	if err := o.validate(); err != nil {
		return nil, err
	}
	public, err := keystore.ParsePublic(k.Algorithm, k.Public)
	if err != nil {
		return nil, fmt.Errorf("key %s: %w", k.Selector, err)
	}
	r := &Record{KeyType: "rsa", Hashes: o.Hash, Services: o.Service, Note: o.Note}
	if _, ok := public.(ed25519.PublicKey); ok {
		r.KeyType = "ed25519"
	}
	if o.Testing {
		r.Flags = append(r.Flags, "y")
	}
	if o.StrictIdentity {
		r.Flags = append(r.Flags, "s")
	}
	if k.State != keystore.Revoked {
		r.Public = bytes.Clone(k.Public)
	}
	return r, nil
}

func (o *RecordOptions) validate() error {
	if o.Granularity != "" {
		return errors.New("g= is historic: RFC 6376 removed it, verifiers ignore it, so it restricts nothing")
	}
	for i, s := range o.Service {
		if s != "email" && s != "*" || slices.Contains(o.Service[:i], s) {
			return fmt.Errorf(`service %.40q, want "email" or "*", each once (RFC 6376, section 3.6.1)`, s)
		}
	}
	for i, h := range o.Hash {
		switch {
		case h == "sha1":
			return errors.New(`hash "sha1" must not be used any more (RFC 8301, section 3.1), want "sha256"`)
		case h != "sha256" || slices.Contains(o.Hash[:i], h):
			return fmt.Errorf(`hash %.40q, want "sha256", once`, h)
		}
	}
	switch {
	case len(o.Note) > maxNote:
		return fmt.Errorf("note of %d octets, want at most %d", len(o.Note), maxNote)
	case !utf8.ValidString(o.Note):
		return errors.New("note is not UTF-8")
	case strings.ContainsFunc(o.Note, unicode.IsControl):
		return errors.New("note has a control character")
	}
	return nil
}

// String returns the record's text, which is printable ASCII. It parses back
// to r if ParseRecord or NewRecord made r.
func (r *Record) String() string {
	var b strings.Builder
	b.WriteString("v=" + version + "; k=" + r.KeyType)
	for _, tag := range []struct {
		name   string
		values []string
	}{{"h", r.Hashes}, {"s", r.Services}, {"t", r.Flags}} {
		if len(tag.values) > 0 {
			b.WriteString("; " + tag.name + "=" + strings.Join(tag.values, ":"))
		}
	}
	if r.Note != "" {
		b.WriteString("; n=" + encodeNote(r.Note))
	}
	b.WriteString("; p=" + base64.StdEncoding.EncodeToString(r.Public))
	return b.String()
}

// Revoked says that the record has an empty p=: its key must not be used.
func (r *Record) Revoked() bool { return len(r.Public) == 0 }

// Key returns the algorithm and the size of the record's key; a revoked record
// has neither.
func (r *Record) Key() (alg keystore.Algorithm, bits int) {
	switch {
	case r.Revoked():
		return "", 0
	case r.KeyType == "ed25519":
		return keystore.Ed25519, 256
	}
	k, err := parseRSA(r.Public)
	if err != nil {
		return "", 0
	}
	return keystore.Algorithm(fmt.Sprintf("rsa-%d", k.N.BitLen())), k.N.BitLen()
}

// encodeNote is DKIM-Quoted-Printable (RFC 6376, section 2.11): what is not
// printable, and ";" and "=", become "=" and two hexadecimal digits.
func encodeNote(s string) string {
	var b strings.Builder
	for _, c := range []byte(s) {
		if c <= ' ' || c >= 0x7f || c == ';' || c == '=' {
			fmt.Fprintf(&b, "=%02X", c)
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}

// parseRSA reads a SubjectPublicKeyInfo, which is what everybody publishes, or
// the bare RSAPublicKey that some read out of RFC 6376, section 3.6.1.
func parseRSA(der []byte) (*rsa.PublicKey, error) {
	key, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		if k, bareErr := x509.ParsePKCS1PublicKey(der); bareErr == nil {
			return k, nil
		}
		return nil, errors.New("p= does not hold an RSA public key")
	}
	k, ok := key.(*rsa.PublicKey)
	if !ok {
		return nil, fmt.Errorf("p= holds a key of type %T, but k= says rsa", key)
	}
	return k, nil
}
