//go:build linux && amd64 && !android && !nolibcrypto

package libcrypto

import (
	"crypto"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/ebitengine/purego"
)

func TestAcceptVersion(t *testing.T) {
	for _, c := range []struct {
		number uint64
		want   string // version
		err    string
	}{
		{0x30000000, "3.0.0", ""},
		{0x30000030, "3.0.3", ""},
		{0x30000040, "", "libcrypto 3.0.4: refused, its RSA corrupts memory (CVE-2022-2274)"},
		{0x30000050, "3.0.5", ""},
		{0x30000130, "3.0.19", ""},
		{0x30100040, "3.1.4", ""},
		{0x30600010, "3.6.1", ""},
		{0x1010117f, "", "libcrypto 1.1.1: want a version 3"},
		{0x20000000, "", "libcrypto 2.0.0: want a version 3"}, // LibreSSL
		{0x40000000, "", "libcrypto 4.0.0: want a version 3"},
		{0, "", "libcrypto 0.0.0: want a version 3"},
	} {
		got, err := acceptVersion(c.number)
		text := ""
		if err != nil {
			text = err.Error()
		}
		if got != c.want || text != c.err {
			t.Errorf("%#x: %q, error %q, want %q, %q", c.number, got, text, c.want, c.err)
		}
	}
}

func TestOpenSaysWhyNot(t *testing.T) {
	f := newFaults(t)
	for _, c := range []struct {
		name    string
		replace map[string]string
		want    string
	}{
		{"3.0.4", map[string]string{"OpenSSL_version_num": "returns 3.0.4"}, "libcrypto 3.0.4: refused"},
		{"4.0.0", map[string]string{"OpenSSL_version_num": "returns 4.0.0"}, "libcrypto 4.0.0: want a version 3"},
		{"no version", map[string]string{"OpenSSL_version_num": "is missing"}, "no version: undefined symbol: OpenSSL_version_num"},
		{"a function is missing", map[string]string{"EVP_PKEY_sign": "is missing"}, ": undefined symbol: EVP_PKEY_sign"},
		{"no SHA-256", map[string]string{"EVP_sha256": "returns 0"}, ": no SHA-256"},
		{"keys are refused", map[string]string{"d2i_AutoPrivateKey": "returns 0"}, ": d2i_AutoPrivateKey: no reason given"},
		{"no contexts", map[string]string{"EVP_PKEY_CTX_new": "returns 0"}, ": EVP_PKEY_CTX_new: no reason given"},
		{"no signing", map[string]string{"EVP_PKEY_sign_init": "returns -2"}, ": EVP_PKEY_sign_init: no reason given"},
		{"no such padding", map[string]string{"EVP_PKEY_CTX_set_rsa_padding": "returns 0"}, ": EVP_PKEY_CTX_set_rsa_padding: no reason given"},
		{"no such digest", map[string]string{"EVP_PKEY_CTX_set_signature_md": "returns -2"}, ": EVP_PKEY_CTX_set_signature_md: no reason given"},
		{"only the upper half of the word is set", map[string]string{"EVP_PKEY_sign": "returns 0 above 1<<32"}, ": EVP_PKEY_sign: no reason given"},
		{"a digest that is not set", map[string]string{"EVP_PKEY_CTX_set_signature_md": "returns 1"}, "self-test"},
		{"signatures that are not made", map[string]string{"EVP_PKEY_sign": "returns 1"}, "self-test"},
		// The signature fails, and what libcrypto has to say about that comes from it.
		{"not set up for signing", map[string]string{"EVP_PKEY_sign_init": "returns 1"}, ": EVP_PKEY_CTX_set_rsa_padding: error:03000095:"},
	} {
		t.Run(c.name, func(t *testing.T) {
			l, err := openWith(c.replace)
			if l != nil || err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("open = %v, %v, want an error with %q", l, err, c.want)
			}
			if err != nil && !strings.HasPrefix(err.Error(), "libcrypto") {
				t.Errorf("error %q does not name libcrypto", err)
			}
			f.checkBalance()
		})
	}
}

// Of a register that returns an int, the upper half is whatever was left there.
func TestAnIntIsHalfAWord(t *testing.T) {
	newFaults(t)
	_, err := openWith(map[string]string{"EVP_PKEY_CTX_set_rsa_padding": "returns 1 below 1<<63"})
	if err != nil {
		t.Errorf("a 1 with something above it was taken for a failure: %v", err)
	}
}

func TestAKeyThatGoIsFasterWithIsNotGivenToLibcrypto(t *testing.T) {
	f := newFaults(t)
	e, err := newEngine(EngineOptions{}, func() (*Library, error) { return f.lib, nil })
	if err != nil {
		t.Fatal(err)
	}
	e.speeds[1024] = Speed{Bits: 1024, Go: 1, Libcrypto: 2}
	made := f.keysMade.Load()
	if _, err := e.Prepare(testKey(t, 1024)); err != nil {
		t.Fatal(err)
	}
	if f.keysMade.Load() != made {
		t.Error("the key was copied into libcrypto, though that is known to be slower")
	}
}

func TestOpenOfALibraryThatIsAbsentOrAnother(t *testing.T) {
	for _, c := range []struct{ name, want string }{
		{"libcrypto-absent.so.3", "libcrypto: libcrypto-absent.so.3: cannot open"},
		{"libc.so.6", "libcrypto: no version: "},
	} {
		l, err := open(c.name, purego.Dlsym)
		if l != nil || err == nil || !strings.HasPrefix(err.Error(), c.want) {
			t.Errorf("open(%q) = %v, %v, want an error that begins %q", c.name, l, err, c.want)
		}
	}
}

func TestEngine(t *testing.T) {
	l := testLibrary(t)
	open := func() (*Library, error) { return l, nil }
	k := testKey(t, 2048)
	const us = time.Microsecond
	for _, c := range []struct {
		name     string
		mode     Mode
		speed    Speed // remembered, unless zero
		want     bool  // libcrypto signs
		describe string
	}{
		{"auto takes libcrypto where it is faster", ModeAuto, Speed{2048, 840 * us, 310 * us}, true,
			`^RSA by libcrypto 3\.\d+\.\d+ \(310 µs a signature, Go: 840 µs\)$`},
		{"auto takes Go where it is faster", ModeAuto, Speed{2048, 290 * us, 310 * us}, false,
			`^RSA by Go \(290 µs a signature, libcrypto 3\.\d+\.\d+: 310 µs\)$`},
		{"libcrypto does not depend on speed", ModeLibcrypto, Speed{2048, 290 * us, 310 * us}, true,
			`^RSA by libcrypto 3\.\d+\.\d+ \(310 µs a signature, Go: 290 µs\)$`},
		{"libcrypto is described by measuring", ModeLibcrypto, Speed{}, true,
			`^RSA by libcrypto 3\.\d+\.\d+ \(\d+ µs a signature, Go: \d+ µs\)$`},
	} {
		t.Run(c.name, func(t *testing.T) {
			e, err := newEngine(EngineOptions{Mode: c.mode, OnFallback: func(err error) { t.Error(err) }}, open)
			if err != nil {
				t.Fatal(err)
			}
			if c.speed.Bits != 0 {
				e.speeds[c.speed.Bits] = c.speed
			}
			s, err := e.Prepare(k)
			if err != nil {
				t.Fatal(err)
			}
			if _, got := s.(*Signer); got != c.want {
				t.Errorf("Prepare = %T, want libcrypto: %v", s, c.want)
			}
			checkSign(t, s, k, 1)
			if got := e.Describe(); !regexp.MustCompile(c.describe).MatchString(got) {
				t.Errorf("Describe() = %q, want %s", got, c.describe)
			}
			if got := e.Maker(); !strings.HasPrefix(e.Describe(), "RSA by "+got+" (") {
				t.Errorf("Maker() = %q, but Describe() = %q", got, e.Describe())
			}
		})
	}
}

func TestAutoMeasuresEachSizeOnceAndTakesTheFaster(t *testing.T) {
	testLibrary(t)
	e, err := NewEngine(EngineOptions{OnFallback: func(err error) { t.Error(err) }})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		for _, bits := range []int{2048, 1024} {
			began := time.Now()
			k := testKey(t, bits)
			s, err := e.Prepare(k)
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%d bits: %T after %v", bits, s, time.Since(began))
			checkSign(t, s, k, 1)
		}
	}
	speeds := e.Speeds()
	if len(speeds) != 2 || speeds[0].Bits != 1024 || speeds[1].Bits != 2048 {
		t.Fatalf("Speeds() = %v, want those of 1024 and 2048 bits", speeds)
	}
	for _, s := range speeds {
		if s.Go <= 0 || s.Libcrypto <= 0 {
			t.Errorf("%d bits: Go %v, libcrypto %v, want both measured", s.Bits, s.Go, s.Libcrypto)
		}
		k := testKey(t, s.Bits)
		got, err := e.Prepare(k)
		if err != nil {
			t.Fatal(err)
		}
		if _, used := got.(*Signer); used != s.libcryptoWins() {
			t.Errorf("%d bits: Prepare = %T with speeds %v", s.Bits, got, s)
		}
	}
	t.Log(e.Describe(), e.Speeds())
}

func TestEngineCountsAndReportsKeysItCannotUse(t *testing.T) {
	for _, c := range []struct {
		name string
		mode Mode
		at   int64 // libcrypto refuses from this signature on: 1 is the self-test
	}{
		{"libcrypto, self-test fails", ModeLibcrypto, 1},
		{"auto, self-test fails", ModeAuto, 1},
		{"auto, measurement fails", ModeAuto, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFaults(t)
			var reports []error
			e, err := newEngine(EngineOptions{Mode: c.mode, OnFallback: func(err error) {
				reports = append(reports, err)
			}}, func() (*Library, error) { return f.lib, nil })
			if err != nil {
				t.Fatal(err)
			}
			from := f.signed.Load() + c.at
			f.onSign(func() verdict {
				if f.signed.Load() >= from {
					return refuse
				}
				return pass
			})
			k := testKey(t, 1024)
			got, err := e.Prepare(k)
			if err != nil || got != crypto.Signer(k) {
				t.Errorf("Prepare = %T, %v, want the key itself", got, err)
			}
			if len(reports) != 1 || e.Fallbacks() != 1 || !strings.Contains(reports[0].Error(), "EVP_PKEY_sign: error:") {
				t.Errorf("reports %v, %d fallbacks, want one of libcrypto's error", reports, e.Fallbacks())
			}
			if len(e.Speeds()) != 0 {
				t.Errorf("Speeds() = %v after a measurement that failed", e.Speeds())
			}
			if got := withoutNumbers(e.Describe()); !strings.HasPrefix(got, "RSA by Go (… µs a signature; libcrypto 3.") {
				t.Errorf("Describe() = %q, want Go and why", got)
			}
			f.checkBalance()
		})
	}
}

// OpenSSL's configuration can ask for algorithms that no provider has. Open must find that
// out, not the first mail.
func TestOpenWithAConfigurationThatCannotWork(t *testing.T) {
	if os.Getenv("WAXSEAL_TEST_OPEN") != "" {
		_, err := Open()
		fmt.Println("Open:", err)
		return
	}
	testLibrary(t)
	conf := filepath.Join(t.TempDir(), "openssl.cnf")
	const text = "openssl_conf = init\n[init]\nalg_section = alg\n[alg]\ndefault_properties = fips=yes\n"
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), "WAXSEAL_TEST_OPEN=1", "OPENSSL_CONF="+conf)
	out, err := cmd.CombinedOutput()
	if err != nil || !regexp.MustCompile(`Open: libcrypto 3\.\d+\.\d+: \w+: error:`).Match(out) {
		t.Errorf("%v, output %q, want Open's error", err, out)
	}
	t.Logf("%s", out)
}
