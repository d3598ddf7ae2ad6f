package keystore

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rsa"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
)

func TestGenerateMakesWhatItIsAskedFor(t *testing.T) {
	for _, want := range []Algorithm{RSA1024, RSA2048, RSA3072, Ed25519} {
		key, err := Generate(want)
		if err != nil {
			t.Fatal(err)
		}
		public, got, err := PublicBytes(key.Public())
		if err != nil || got != want {
			t.Errorf("got %s, %v; want %s", got, err, want)
		}
		if err := SelfTest(key, public); err != nil {
			t.Errorf("%s: %v", want, err)
		}
		if k, ok := key.Public().(*rsa.PublicKey); ok && k.E != 65537 {
			t.Errorf("%s: exponent %d", want, k.E)
		}
		back, err := ParsePublic(want, public)
		if err != nil || !back.(interface{ Equal(crypto.PublicKey) bool }).Equal(key.Public()) {
			t.Errorf("%s: public key does not parse back: %v", want, err)
		}
	}
	for _, bad := range []Algorithm{"", "rsa", "rsa-512", "rsa-2056", "RSA-2048", "ecdsa"} {
		if _, err := Generate(bad); err == nil {
			t.Errorf("%q was made", bad)
		}
	}
}

func TestParsePublicRefuses(t *testing.T) {
	rsaKey, _, err := PublicBytes(mustParse(t, "rsa1024-pkcs1.pem").Public())
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		alg    Algorithm
		public []byte
	}{
		{"ed25519", nil},
		{"ed25519", make([]byte, 31)},
		{"ed25519", rsaKey},
		{"rsa-1024", nil},
		{"rsa-1024", make([]byte, 32)},
		{"rsa-1024", append(slices.Clone(rsaKey), 0)},
		{"dsa-1024", rsaKey},
		{"rsa1024", rsaKey},
		{"", rsaKey},
	} {
		if _, err := ParsePublic(test.alg, test.public); err == nil {
			t.Errorf("%q, %d octets: taken", test.alg, len(test.public))
		}
	}
}

func mustParse(t testing.TB, name string) crypto.Signer {
	t.Helper()
	key, err := ParsePrivateKey(keyFile(t, name))
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func TestWarnings(t *testing.T) {
	for name, want := range map[string]string{
		"rsa1024-pkcs1.pem": "weak",
		"rsa2048-pkcs1.pem": "",
		"rsa2048-e3.pem":    "exponent is 3",
		"ed25519.pem":       "",
	} {
		got := strings.Join(Warnings(mustParse(t, name).Public()), "; ")
		if (got == "") != (want == "") || !strings.Contains(got, want) {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	big := *mustParse(t, "rsa2048-pkcs1.pem").Public().(*rsa.PublicKey)
	big.N.Lsh(big.N, 4097-2048)
	if got := Warnings(&big); len(got) != 1 || !strings.Contains(got[0], "4097 bits") {
		t.Errorf("4097 bits: %q", got)
	}
}

// brokenSigner has the public key of a good one, and signs nonsense.
type brokenSigner struct {
	crypto.Signer
	sign func(sig []byte) ([]byte, error)
}

func (b brokenSigner) Sign(random io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	sig, err := b.Signer.Sign(random, digest, opts)
	if err != nil {
		return nil, err
	}
	return b.sign(sig)
}

func TestSelfTestFindsEveryFault(t *testing.T) {
	failing := errors.New("no token in the slot")
	for _, name := range []string{"rsa1024-pkcs1.pem", "ed25519.pem"} {
		key := mustParse(t, name)
		public, _, err := PublicBytes(key.Public())
		if err != nil {
			t.Fatal(err)
		}
		if err := SelfTest(key, public); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if err := SelfTest(key, nil); err != nil {
			t.Errorf("%s, nothing to compare with: %v", name, err)
		}
		other, err := Generate(Ed25519)
		if err != nil {
			t.Fatal(err)
		}
		if err := SelfTest(other, public); err == nil {
			t.Errorf("%s: another key passed", name)
		}
		for what, sign := range map[string]func([]byte) ([]byte, error){
			"an error":              func([]byte) ([]byte, error) { return nil, failing },
			"no signature":          func([]byte) ([]byte, error) { return nil, nil },
			"a flipped bit":         func(sig []byte) ([]byte, error) { sig[7] ^= 1; return sig, nil },
			"a short signature":     func(sig []byte) ([]byte, error) { return sig[1:], nil },
			"an octet too many":     func(sig []byte) ([]byte, error) { return append(sig, 0), nil },
			"a signature of zeroes": func(sig []byte) ([]byte, error) { clear(sig); return sig, nil },
		} {
			err := SelfTest(brokenSigner{key, sign}, public)
			if err == nil || what == "an error" && !errors.Is(err, failing) {
				t.Errorf("%s, %s: %v", name, what, err)
			}
		}
	}
	if _, _, err := PublicBytes(ed25519.PublicKey("short")); err == nil {
		t.Error("an Ed25519 key of five octets was taken")
	}
	if err := SelfTest(brokenSigner{Signer: unknownKey{}}, nil); err == nil {
		t.Error("a key of an unknown kind passed")
	}
}

type unknownKey struct{ crypto.Signer }

func (unknownKey) Public() crypto.PublicKey { return "a string" }

// remoteKey is in another program.
type remoteKey struct{ crypto.Signer }

func (remoteKey) Where() string { return "a safe" }

func TestRemoteKeyStaysWhereItIs(t *testing.T) {
	key, err := Generate(Ed25519)
	if err != nil {
		t.Fatal(err)
	}
	public, algorithm, _ := PublicBytes(key.Public())
	row := Key{Selector: "a", Algorithm: algorithm, State: Active, Public: public,
		Load: func(context.Context) (crypto.Signer, error) { return remoteKey{key}, nil }}
	if err := SelfTest(remoteKey{key}, public); err != nil {
		t.Errorf("it does not sign: %v", err)
	}
	if text, err := row.MarshalPrivate(t.Context(), "example.com", nil); !errors.Is(err, ErrRemote) || !strings.Contains(err.Error(), "a safe") || len(text) > 0 {
		t.Errorf("%q, %v", text, err)
	}
	if _, err := MarshalPrivateKey(struct{ crypto.Signer }{key}); err == nil || errors.Is(err, ErrRemote) {
		t.Errorf("another kind of key: %v", err)
	}
}
