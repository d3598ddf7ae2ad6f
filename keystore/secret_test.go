package keystore

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestReadSecret(t *testing.T) {
	path := filepath.Join(t.TempDir(), "password")
	if _, err := ReadSecret(path); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), path) {
		t.Errorf("no file: %v", err)
	}
	for content, want := range map[string]string{"secret": "secret", "secret\n": "secret", " with blanks \r\n": " with blanks ", strings.Repeat("x", maxSecret): strings.Repeat("x", maxSecret)} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := ReadSecret(path); got != want || err != nil {
			t.Errorf("%.20q: %.20q, %v", content, got, err)
		}
	}
	for content, want := range map[string]string{"": "empty", "\n": "empty", strings.Repeat("secret", maxSecret): "more than 16384 bytes"} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadSecret(path); err == nil || !strings.Contains(err.Error(), path+": "+want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%.20q: %v, want %q", content, err, want)
		}
	}
}
