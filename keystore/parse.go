package keystore

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
)

// maxKeyFile bounds a key file. PKCS#8 of the largest RSA key we take is 13 KB.
const maxKeyFile = 64 << 10

// pemKinds names what a PEM file may hold instead of a key we can use.
var pemKinds = map[string]string{
	"ENCRYPTED PRIVATE KEY":   "an encrypted private key; decrypt it first: openssl pkey -in FILE -out NEWFILE",
	"EC PRIVATE KEY":          "an EC key; DKIM has no signature algorithm for it",
	"EC PARAMETERS":           "an EC key; DKIM has no signature algorithm for it",
	"DSA PRIVATE KEY":         "a DSA key; DKIM has no signature algorithm for it",
	"DSA PARAMETERS":          "a DSA key; DKIM has no signature algorithm for it",
	"OPENSSH PRIVATE KEY":     "a key in OpenSSH's own format; convert a copy of it: ssh-keygen -p -m PKCS8 -f COPY (RSA only)",
	"SSH2 PUBLIC KEY":         "an SSH public key; the private key is wanted",
	"PUBLIC KEY":              "a public key; the private key is wanted",
	"RSA PUBLIC KEY":          "a public key; the private key is wanted",
	"CERTIFICATE":             "a certificate; the private key is wanted",
	"X509 CERTIFICATE":        "a certificate; the private key is wanted",
	"TRUSTED CERTIFICATE":     "a certificate; the private key is wanted",
	"CERTIFICATE REQUEST":     "a certificate request; the private key is wanted",
	"NEW CERTIFICATE REQUEST": "a certificate request; the private key is wanted",
	"X509 CRL":                "a certificate revocation list; the private key is wanted",
	"PKCS7":                   "a PKCS#7 message; the private key is wanted",
	"CMS":                     "a CMS message; the private key is wanted",
	"DH PARAMETERS":           "Diffie-Hellman parameters; the private key is wanted",
	"PGP PRIVATE KEY BLOCK":   "an OpenPGP key; an RSA or Ed25519 key in PEM is wanted",
	"PGP PUBLIC KEY BLOCK":    "an OpenPGP key; an RSA or Ed25519 key in PEM is wanted",
	wrappedKind:               "a private key that waxseal has encrypted for its own keystore; export it there: waxseal key export DOMAIN SELECTOR",
	"ED25519 PRIVATE KEY":     "an Ed25519 key in a format of its own; PKCS#8 (RFC 8410) is wanted",
}

// oidKinds names the algorithm of a PKCS#8 key that we cannot use.
var oidKinds = map[string]string{
	"1.2.840.10045.2.1":     "an EC key; DKIM has no signature algorithm for it",
	"1.2.840.10040.4.1":     "a DSA key; DKIM has no signature algorithm for it",
	"1.2.840.113549.1.1.10": "an RSA-PSS key; DKIM signs with PKCS#1 v1.5, which the key forbids",
	"1.2.840.113549.1.3.1":  "a Diffie-Hellman key, which cannot sign",
	"1.3.101.110":           "an X25519 key, which cannot sign",
	"1.3.101.111":           "an X448 key, which cannot sign",
	"1.3.101.113":           "an Ed448 key; DKIM has no signature algorithm for it",
}

var (
	oidRSA     = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 1}
	oidEd25519 = asn1.ObjectIdentifier{1, 3, 101, 112}
)

// ParsePrivateKey reads a file that holds one private key in PEM: RSA as
// PKCS#1 or PKCS#8, Ed25519 as PKCS#8 (RFC 8410). Lines before the key are
// skipped, anything after it is refused. Every other kind of file is refused
// by name: encrypted (both styles), EC, DSA, public, certificate, OpenSSH, and
// RSA keys that are too small, damaged, or have an exponent that verifiers do
// not take. No error quotes the file.
func ParsePrivateKey(data []byte) (crypto.Signer, error) {
	der, kind, err := onePEM(data)
	if err != nil {
		return nil, err
	}
	switch kind {
	case "RSA PRIVATE KEY":
		return parsePKCS1(der)
	case "PRIVATE KEY":
		return parsePKCS8(der)
	}
	if what, ok := pemKinds[kind]; ok {
		return nil, fmt.Errorf("holds %s", what)
	}
	return nil, fmt.Errorf("holds a PEM block of type %.40q, want a private key", kind)
}

// onePEM returns the only PEM block of data.
func onePEM(data []byte) (der []byte, kind string, err error) {
	begin := []byte("-----BEGIN ")
	at := bytes.Index(data, begin)
	switch {
	case len(data) > maxKeyFile:
		return nil, "", fmt.Errorf("file of %d bytes, want at most %d", len(data), maxKeyFile)
	case len(bytes.TrimSpace(data)) == 0:
		return nil, "", errors.New("empty file")
	case at < 0 && data[0] == 0x30:
		return nil, "", errors.New("not PEM, but perhaps a key in DER; convert it: openssl pkey -inform DER -in FILE -out NEWFILE")
	case at < 0 && (bytes.HasPrefix(data, []byte("ssh-")) || bytes.HasPrefix(data, []byte("ecdsa-"))):
		return nil, "", errors.New("holds an SSH public key; the private key is wanted")
	case at < 0 && bytes.HasPrefix(data, []byte("PuTTY-User-Key-File")):
		return nil, "", errors.New("holds a key in PuTTY's format; an RSA or Ed25519 key in PEM is wanted")
	case at < 0:
		return nil, "", errors.New("not PEM: no line with -----BEGIN")
	}
	block, rest := pem.Decode(data[at:])
	if block == nil || bytes.Count(data[:len(data)-len(rest)], begin) != 1 {
		return nil, "", errors.New("damaged PEM: its first block cannot be read")
	}
	switch {
	case block.Headers["Proc-Type"] == "4,ENCRYPTED" || block.Headers["DEK-Info"] != "":
		return nil, "", fmt.Errorf("holds %s", pemKinds["ENCRYPTED PRIVATE KEY"])
	case bytes.Contains(rest, begin) && (block.Type == "EC PARAMETERS" || block.Type == "DSA PARAMETERS"):
		return nil, block.Type, nil // parameters, then their key: named for what it is
	case bytes.Contains(rest, begin):
		return nil, "", errors.New("holds several PEM blocks, want exactly one private key")
	case len(bytes.TrimSpace(rest)) != 0:
		return nil, "", errors.New("something follows after the private key")
	}
	return block.Bytes, block.Type, nil
}

// pkcs1 is the beginning of RSAPrivateKey (RFC 8017, appendix A.1.2), as far as
// it is looked at before the standard library sees it, so that a key which
// the library would refuse is refused in our words.
type pkcs1 struct {
	Version int
	N, E    *big.Int
}

func parsePKCS1(der []byte) (crypto.Signer, error) {
	var head pkcs1
	rest, err := asn1.Unmarshal(der, &head)
	switch {
	case err != nil:
		return nil, errors.New("damaged RSA private key: its ASN.1 cannot be read")
	case len(rest) != 0:
		return nil, errors.New("damaged RSA private key: something follows after it")
	case head.Version != 0:
		return nil, errors.New("holds an RSA key with more than two primes, want two")
	case head.N.Sign() <= 0:
		return nil, errors.New("damaged RSA private key: its modulus is not positive")
	case head.E.Sign() <= 0 || head.E.BitLen() > 31:
		return nil, fmt.Errorf("holds an RSA key with a public exponent of %d bits, want 65537", head.E.BitLen())
	}
	if err := checkRSA(&rsa.PublicKey{N: head.N, E: int(head.E.Int64())}); err != nil {
		return nil, fmt.Errorf("holds an %w", err)
	}
	key, err := x509.ParsePKCS1PrivateKey(der)
	if err != nil {
		return nil, fmt.Errorf("damaged RSA private key: %w", err)
	}
	return key, nil
}

// pkcs8 is PrivateKeyInfo (RFC 5208, section 5) and the beginning of its
// successor OneAsymmetricKey (RFC 5958).
type pkcs8 struct {
	Version    int
	Algorithm  pkix.AlgorithmIdentifier
	PrivateKey []byte
}

func parsePKCS8(der []byte) (crypto.Signer, error) {
	var info pkcs8
	rest, err := asn1.Unmarshal(der, &info)
	if err != nil {
		return nil, errors.New("damaged private key: its PKCS#8 cannot be read")
	}
	if len(rest) != 0 {
		return nil, errors.New("damaged private key: something follows after its PKCS#8")
	}
	switch oid := info.Algorithm.Algorithm; {
	case oid.Equal(oidRSA):
		return parsePKCS1(info.PrivateKey)
	case oid.Equal(oidEd25519):
		return parseEd25519(info.PrivateKey)
	default:
		if what, ok := oidKinds[oid.String()]; ok {
			return nil, fmt.Errorf("holds %s", what)
		}
		return nil, fmt.Errorf("holds a key of the unknown algorithm %.60s, want RSA or Ed25519", oid)
	}
}

// parseEd25519 reads CurvePrivateKey (RFC 8410, section 7): the seed as an
// OCTET STRING inside the OCTET STRING of PKCS#8.
func parseEd25519(der []byte) (crypto.Signer, error) {
	var seed []byte
	rest, err := asn1.Unmarshal(der, &seed)
	if err != nil || len(rest) != 0 || len(seed) != ed25519.SeedSize {
		return nil, errors.New("damaged Ed25519 private key")
	}
	return ed25519.NewKeyFromSeed(seed), nil
}
