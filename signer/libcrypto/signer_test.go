//go:build linux && amd64 && !android && !nolibcrypto

package libcrypto

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/binary"
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"
)

// testLibrary opens libcrypto. Where there is none, the test is skipped, unless
// WAXSEAL_E2E=required says that this machine must have everything.
func testLibrary(t testing.TB) *Library {
	t.Helper()
	l, err := Open()
	if err != nil {
		if os.Getenv("WAXSEAL_E2E") == "required" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	return l
}

// testSigner is a signer that must not fall back.
func testSigner(t testing.TB, l *Library, k *rsa.PrivateKey) *Signer {
	t.Helper()
	s, err := l.NewSigner(k, func(err error) { t.Errorf("fell back: %v", err) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// keySizes has the sizes DKIM uses (RFC 8301, section 3.2), and two whose modulus is no
// whole number of the words and blocks that fast arithmetic likes.
var keySizes = []int{1024, 1032, 2048, 2056, 3072, 4096}

// digest is the i-th test digest.
func digest(i int) []byte {
	d := sha256.Sum256(binary.AppendUvarint(nil, uint64(i)))
	return d[:]
}

func goSignature(t testing.TB, k *rsa.PrivateKey, digest []byte) []byte {
	t.Helper()
	sig, err := rsa.SignPKCS1v15(nil, k, crypto.SHA256, digest)
	if err != nil {
		t.Fatal(err)
	}
	return sig
}

func TestSignaturesAreGosByteForByte(t *testing.T) {
	l := testLibrary(t)
	for _, bits := range keySizes {
		t.Run(fmt.Sprint(bits), func(t *testing.T) {
			t.Parallel()
			k := testKey(t, bits)
			s := testSigner(t, l, k)
			n := 300_000 / bits * 1024 / bits // 286 with 1024 bits, 18 with 4096
			for i := range n {
				d := digest(i)
				got, err := s.Sign(nil, d, crypto.SHA256)
				if err != nil {
					t.Fatal(err)
				}
				if want := goSignature(t, k, d); !bytes.Equal(got, want) {
					t.Fatalf("digest %x: signature %x, want Go's %x", d, got, want)
				}
			}
		})
	}
}

// A signature is the same whichever made it, so that libcrypto was not asked is seen by
// taking it away: a signer whose every libcrypto call fails reports none.
func TestWhatIsNotDKIMGoesToGo(t *testing.T) {
	f := newFaults(t)
	k := testKey(t, 1024)
	reported := 0
	s, err := f.lib.NewSigner(k, func(error) { reported++ })
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	f.onSign(func() verdict { return refuse })

	d512 := sha512.Sum512([]byte("x"))
	for _, c := range []struct {
		name   string
		digest []byte
		opts   crypto.SignerOpts
		verify func([]byte) error
		err    string
	}{
		{"SHA-512", d512[:], crypto.SHA512, func(sig []byte) error {
			return rsa.VerifyPKCS1v15(&k.PublicKey, crypto.SHA512, d512[:], sig)
		}, ""},
		{"PSS", digest(1), &rsa.PSSOptions{Hash: crypto.SHA256}, func(sig []byte) error {
			return rsa.VerifyPSS(&k.PublicKey, crypto.SHA256, digest(1), sig, nil)
		}, ""},
		{"no DigestInfo", digest(1), crypto.Hash(0), func(sig []byte) error {
			return rsa.VerifyPKCS1v15(&k.PublicKey, 0, digest(1), sig)
		}, ""},
		{"digest too short", digest(1)[:31], crypto.SHA256, nil, "input must be hashed"},
		{"digest too long", append(digest(1), 0), crypto.SHA256, nil, "input must be hashed"},
		{"no digest", nil, crypto.SHA256, nil, "input must be hashed"},
	} {
		sig, err := s.Sign(rand.Reader, c.digest, c.opts)
		switch {
		case c.err != "":
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%s: error %v, want Go's %q", c.name, err, c.err)
			}
		case err != nil:
			t.Errorf("%s: %v", c.name, err)
		default:
			if err := c.verify(sig); err != nil {
				t.Errorf("%s: signature does not verify: %v", c.name, err)
			}
		}
	}
	if reported != 0 {
		t.Error("libcrypto was asked for what it is not to do")
	}
	if _, err := s.Sign(nil, digest(1), crypto.SHA256); err != nil || reported != 1 {
		t.Errorf("PKCS #1 v1.5 with SHA-256: error %v, %d reports, want libcrypto to be asked", err, reported)
	}
}

func TestPublicIsTheKeys(t *testing.T) {
	k := testKey(t, 1024)
	s := testSigner(t, testLibrary(t), k)
	if pub, ok := s.Public().(*rsa.PublicKey); !ok || !pub.Equal(&k.PublicKey) {
		t.Errorf("Public() = %v, want the key's", s.Public())
	}
}

func TestKeysThatCannotBeUsedAreRefused(t *testing.T) {
	l := testLibrary(t)
	a, b := testKey(t, 1024), testKey(t, 1024)
	b.D.Add(b.D, b.D)
	for _, c := range []struct {
		name string
		key  *rsa.PrivateKey
		want string
	}{
		{"no primes", &rsa.PrivateKey{PublicKey: a.PublicKey, D: a.D}, "RSA key of 0 primes, want 2"},
		{"private exponent of another key", b, "self-test"},
	} {
		s, err := l.NewSigner(c.key, nil)
		if s != nil || err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: NewSigner = %v, %v, want an error with %q", c.name, s, err, c.want)
		}
	}
}

func TestAForgottenSignerIsFreed(t *testing.T) {
	f := newFaults(t)
	before := f.keysFreed.Load()
	if _, err := f.lib.NewSigner(testKey(t, 1024), nil); err != nil {
		t.Fatal(err)
	}
	if f.keysFreed.Load() != before {
		t.Fatal("the key was freed before the signer was forgotten")
	}
	for range 100 {
		runtime.GC()
		if f.keysFreed.Load() > before {
			f.checkBalance()
			return
		}
		time.Sleep(time.Millisecond)
	}
	t.Error("the key of a signer that nobody has any more was not freed")
}
