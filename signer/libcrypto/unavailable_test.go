//go:build !linux || !amd64 || android || nolibcrypto

package libcrypto

import (
	"strings"
	"testing"
)

func TestABuildWithoutLibcryptoSaysSo(t *testing.T) {
	const want = "libcrypto is not built into this program"
	if l, err := Open(); l != nil || err == nil || !strings.HasPrefix(err.Error(), want) {
		t.Errorf("Open() = %v, %v, want an error that begins %q", l, err, want)
	}
	if _, err := NewEngine(EngineOptions{Mode: ModeLibcrypto}); err == nil {
		t.Error("an engine that demands libcrypto was made without it")
	}
	e, err := NewEngine(EngineOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if got := e.Describe(); !strings.HasPrefix(got, "RSA by Go (") || !strings.Contains(got, want) {
		t.Errorf("Describe() = %q, want Go and that %s", got, want)
	}
}
