package libcrypto

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"strings"
	"testing"
	"time"
)

func TestParseMode(t *testing.T) {
	for _, m := range []Mode{ModeAuto, ModeGo, ModeLibcrypto} {
		if got, err := ParseMode(m.String()); err != nil || got != m {
			t.Errorf("ParseMode(%q) = %v, %v, want %v", m.String(), got, err, m)
		}
	}
	for _, s := range []string{"", "Auto", "openssl"} {
		if _, err := ParseMode(s); err == nil || !strings.Contains(err.Error(), "want auto, go or libcrypto") {
			t.Errorf("ParseMode(%q): error %v, want one that lists the modes", s, err)
		}
	}
	if (EngineOptions{}).Mode != ModeAuto {
		t.Error("the zero value of EngineOptions is not auto")
	}
}

func TestLibcryptoWinsByATenthOrNotAtAll(t *testing.T) {
	const us = time.Microsecond
	for _, c := range []struct {
		name          string
		goes, library time.Duration
		want          bool
	}{
		{"half the time", 840 * us, 310 * us, true},
		{"just over a tenth less", 1000 * us, 899 * us, true},
		{"a tenth less", 1000 * us, 900 * us, false},
		{"the same", 1000 * us, 1000 * us, false},
		{"slower", 300 * us, 400 * us, false},
		{"not measured", 840 * us, 0, false},
	} {
		if got := (Speed{Bits: 2048, Go: c.goes, Libcrypto: c.library}).libcryptoWins(); got != c.want {
			t.Errorf("%s (Go %v, libcrypto %v): libcrypto wins = %v, want %v", c.name, c.goes, c.library, got, c.want)
		}
	}
}

// absent stands in for Open on a machine without libcrypto.
func absent() (*Library, error) { return nil, errors.New("libcrypto: no such file") }

func TestGoSignsWhereThereIsNoLibcrypto(t *testing.T) {
	k := testKey(t, 1024)
	for _, c := range []struct {
		name     string
		mode     Mode
		open     func() (*Library, error)
		describe string
	}{
		{"auto without a library", ModeAuto, absent, "RSA by Go (… µs a signature; libcrypto: no such file)"},
		{"go does not look for one", ModeGo, func() (*Library, error) {
			t.Error("ModeGo opened the library")
			return nil, nil
		}, "RSA by Go (… µs a signature)"},
	} {
		t.Run(c.name, func(t *testing.T) {
			e, err := newEngine(EngineOptions{Mode: c.mode, OnFallback: func(err error) {
				t.Errorf("reported as a fallback: %v", err)
			}}, c.open)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := e.Prepare(k); got != crypto.Signer(k) || err != nil {
				t.Errorf("Prepare = %T, %v, want the key itself", got, err)
			}
			if got := withoutNumbers(e.Describe()); got != c.describe {
				t.Errorf("Describe() = %q, want %q", got, c.describe)
			}
			if got := e.Maker(); got != "Go" {
				t.Errorf("Maker() = %q, want Go", got)
			}
			if e.Fallbacks() != 0 {
				t.Errorf("%d fallbacks, want none", e.Fallbacks())
			}
		})
	}
}

func TestDemandedLibcryptoMustBeThere(t *testing.T) {
	e, err := newEngine(EngineOptions{Mode: ModeLibcrypto}, absent)
	if e != nil || err == nil || err.Error() != "libcrypto: no such file" {
		t.Errorf("newEngine = %v, %v, want the reason why there is no libcrypto", e, err)
	}
}

func TestOtherKeysAreLeftAlone(t *testing.T) {
	_, k, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	e, err := newEngine(EngineOptions{}, Open)
	if err != nil {
		t.Fatal(err)
	}
	got, err := e.Prepare(k)
	if err != nil {
		t.Fatal(err)
	}
	if same, ok := got.(ed25519.PrivateKey); !ok || !bytes.Equal(same, k) {
		t.Errorf("Prepare turned an Ed25519 key into a %T", got)
	}
}

// withoutNumbers is s with the number before each "µs" replaced.
func withoutNumbers(s string) string {
	words := strings.Fields(s)
	for i := 1; i < len(words); i++ {
		if strings.HasPrefix(words[i], "µs") {
			if open := strings.HasPrefix(words[i-1], "("); open {
				words[i-1] = "(…"
			} else {
				words[i-1] = "…"
			}
		}
	}
	return strings.Join(words, " ")
}
