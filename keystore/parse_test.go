package keystore

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// keyFile reads a file of testdata/keys.
func keyFile(t testing.TB, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", "keys", name))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestParsePrivateKeyAcceptsWhatSigns(t *testing.T) {
	for name, want := range map[string]Algorithm{
		"rsa1024-pkcs1.pem": RSA1024,
		"rsa2048-pkcs1.pem": RSA2048,
		"rsa2048-pkcs8.pem": RSA2048,
		"rsa2048-e3.pem":    RSA2048,
		"ed25519.pem":       Ed25519,
	} {
		data := keyFile(t, name)
		for form, data := range map[string][]byte{
			"":                data,
			" with CRLF":      bytes.ReplaceAll(data, []byte("\n"), []byte("\r\n")),
			" after a remark": append([]byte("key of example.com\n"), data...),
			" before a blank": append(data[:len(data):len(data)], "\n \n"...),
			" without end":    bytes.TrimSpace(data),
		} {
			key, err := ParsePrivateKey(data)
			if err != nil {
				t.Errorf("%s%s: %v", name, form, err)
				continue
			}
			public, got, err := PublicBytes(key.Public())
			if err != nil || got != want {
				t.Errorf("%s%s: algorithm %s, %v; want %s", name, form, got, err, want)
			}
			if err := SelfTest(key, public); err != nil {
				t.Errorf("%s%s: %v", name, form, err)
			}
		}
	}
}

func TestParsePrivateKeyRefusesByName(t *testing.T) {
	key := string(keyFile(t, "rsa1024-pkcs1.pem"))
	files := map[string]string{
		"encrypted-pkcs1.pem": "encrypted private key",
		"encrypted-pkcs8.pem": "encrypted private key",
		"ec-sec1.pem":         "an EC key",
		"ec-pkcs8.pem":        "an EC key",
		"dsa.pem":             "a DSA key",
		"dsa-pkcs8.pem":       "a DSA key",
		"openssh.pem":         "OpenSSH's own format",
		"openssh-public.txt":  "SSH public key",
		"public-spki.pem":     "a public key",
		"public-pkcs1.pem":    "a public key",
		"certificate.pem":     "a certificate",
		"request.pem":         "a certificate request",
		"rsa.der":             "DER",
		"rsa512.pem":          "RSA key of 512 bits, want at least 1024",
		"rsa768.pem":          "RSA key of 768 bits, want at least 1024",
		"rsa768-pkcs8.pem":    "RSA key of 768 bits, want at least 1024",
		"rsa1023.pem":         "RSA key of 1023 bits, want at least 1024",
		"rsa-3primes.pem":     "more than two primes",
		"rsa-pss.pem":         "an RSA-PSS key",
		"x25519.pem":          "an X25519 key",
		"x448.pem":            "an X448 key",
		"ed448.pem":           "an Ed448 key",
	}
	type test struct{ name, data, want string }
	tests := []test{
		{"empty", "", "empty file"},
		{"blank", "\n \n", "empty file"},
		{"text", "hello", "not PEM"},
		{"only a begin", "-----BEGIN PRIVATE KEY-----\n", "damaged PEM"},
		{"damaged base64", strings.Replace(key, "M", "*", 1), "damaged PEM"},
		{"damaged first block before a good one", strings.Replace(key, "M", "*", 1) + key, "damaged PEM"},
		{"empty block", "-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----\n", "cannot be read"},
		{"two keys", key + key, "several PEM blocks"},
		{"key and certificate", key + string(keyFile(t, "certificate.pem")), "several PEM blocks"},
		{"trailing text", key + "x", "follows after"},
		{"unknown block", strings.ReplaceAll(key, "RSA PRIVATE", "GOST PRIVATE"), `"GOST PRIVATE KEY"`},
		{"PKCS#8 labelled PKCS#1", strings.ReplaceAll(string(keyFile(t, "rsa2048-pkcs8.pem")), "PRIVATE KEY", "RSA PRIVATE KEY"), "damaged RSA"},
		{"PKCS#1 labelled PKCS#8", strings.ReplaceAll(key, "RSA PRIVATE KEY", "PRIVATE KEY"), "PKCS#8 cannot be read"},
		{"huge", key + strings.Repeat(" ", maxKeyFile), "want at most"},
		{"PuTTY", "PuTTY-User-Key-File-3: ssh-rsa\n", "PuTTY"},
	}
	for name, want := range files {
		tests = append(tests, test{name, string(keyFile(t, name)), want})
	}
	for _, test := range tests {
		key, err := ParsePrivateKey([]byte(test.data))
		if err == nil || key != nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, %v; want an error with %q", test.name, key != nil, err, test.want)
		}
	}
}

// rsaFile is RSAPrivateKey of RFC 8017, appendix A.1.2.
type rsaFile struct {
	Version                   int
	N, E, D, P, Q, DP, DQ, QI *big.Int
}

// damage returns the PKCS#1 file of key after change did something to it.
func damage(t *testing.T, key *rsa.PrivateKey, change func(*rsaFile)) []byte {
	t.Helper()
	var f rsaFile
	if _, err := asn1.Unmarshal(x509.MarshalPKCS1PrivateKey(key), &f); err != nil {
		t.Fatal(err)
	}
	change(&f)
	der, err := asn1.Marshal(f)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: der})
}

// A fault in one of the values that speed RSA up gives signatures from which
// anyone can compute the key, so no such file may ever sign.
func TestDamagedRSAKeysNeverSign(t *testing.T) {
	parsed, err := ParsePrivateKey(keyFile(t, "rsa1024-pkcs1.pem"))
	if err != nil {
		t.Fatal(err)
	}
	key := parsed.(*rsa.PrivateKey)
	public, _, err := PublicBytes(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	two := big.NewInt(2)
	exponent := func(e int64) func(*rsaFile) { return func(f *rsaFile) { f.E = big.NewInt(e) } }
	for _, test := range []struct {
		name   string
		change func(*rsaFile)
		want   string
	}{
		{"first CRT exponent", func(f *rsaFile) { f.DP.Add(f.DP, two) }, "damaged"},
		{"second CRT exponent", func(f *rsaFile) { f.DQ.Add(f.DQ, two) }, "damaged"},
		{"CRT coefficient", func(f *rsaFile) { f.QI.Add(f.QI, two) }, "damaged"},
		{"private exponent", func(f *rsaFile) { f.D.Add(f.D, two) }, "damaged"},
		{"first prime", func(f *rsaFile) { f.P.Add(f.P, two) }, "damaged"},
		{"primes zero", func(f *rsaFile) { f.P, f.Q = new(big.Int), new(big.Int) }, "damaged"},
		{"modulus", func(f *rsaFile) { f.N.Add(f.N, two) }, "damaged"},
		{"modulus negative", func(f *rsaFile) { f.N.Neg(f.N) }, "not positive"},
		{"modulus too large", func(f *rsaFile) { f.N.Lsh(f.N, maxRSA-1023) }, "want at most"},
		{"another exponent", exponent(3), "damaged"},
		{"exponent 0", exponent(0), "exponent"},
		{"exponent 1", exponent(1), "exponent 1,"},
		{"exponent 2", exponent(2), "exponent 2,"},
		{"exponent even", exponent(65536), "exponent 65536,"},
		{"exponent negative", exponent(-3), "exponent"},
		{"exponent of 33 bits", exponent(1<<32 + 1), "exponent of 33 bits"},
		{"exponent of 32 bits", exponent(1<<31 + 1), "exponent of 32 bits"},
	} {
		key, err := ParsePrivateKey(damage(t, key, test.change))
		if err == nil {
			t.Errorf("%s: parsed; the self-test says: %v", test.name, SelfTest(key, public))
		} else if !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want an error with %q", test.name, err, test.want)
		}
	}
}

// The key pair of RFC 8463, appendix A.2.
func TestParseEd25519KeyOfRFC8463(t *testing.T) {
	seed, _ := base64.StdEncoding.DecodeString("nWGxne/9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A=")
	der := append([]byte{0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20}, seed...)
	key, err := ParsePrivateKey(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	if err != nil {
		t.Fatal(err)
	}
	public, alg, err := PublicBytes(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	const want = "11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="
	if got := base64.StdEncoding.EncodeToString(public); got != want || alg != Ed25519 {
		t.Errorf("public key %s (%s), want %s", got, alg, want)
	}
}

func TestMarshalPrivateKeyParsesBack(t *testing.T) {
	for _, name := range []string{"rsa1024-pkcs1.pem", "rsa2048-e3.pem", "ed25519.pem"} {
		key, err := ParsePrivateKey(keyFile(t, name))
		if err != nil {
			t.Fatal(err)
		}
		data, err := MarshalPrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		again, err := ParsePrivateKey(data)
		if err != nil {
			t.Fatal(err)
		}
		if !again.(interface{ Equal(crypto.PrivateKey) bool }).Equal(key) {
			t.Errorf("%s: another key came back", name)
		}
	}
	if _, err := MarshalPrivateKey(brokenSigner{}); err == nil {
		t.Error("a key that has no PKCS#8 form was written")
	}
}

func FuzzParsePrivateKey(f *testing.F) {
	files, err := filepath.Glob(filepath.Join("testdata", "keys", "*"))
	if err != nil || len(files) < 20 {
		f.Fatal(files, err)
	}
	for _, file := range files {
		f.Add(keyFile(f, filepath.Base(file)))
	}
	_, seedless, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	data, err := MarshalPrivateKey(seedless)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Fuzz(func(t *testing.T, data []byte) {
		key, err := ParsePrivateKey(data)
		if (key == nil) == (err == nil) {
			t.Fatalf("key %v, error %v", key != nil, err)
		}
		if err != nil {
			return
		}
		// Whatever is accepted signs correctly, and can be written and read.
		public, alg, err := PublicBytes(key.Public())
		if err != nil {
			t.Fatal(err)
		}
		if err := SelfTest(key, public); err != nil {
			t.Fatal(err)
		}
		if parsed, err := ParsePublic(alg, public); err != nil {
			t.Fatal(parsed, err)
		}
		written, err := MarshalPrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ParsePrivateKey(written); err != nil {
			t.Fatal(err)
		}
	})
}
