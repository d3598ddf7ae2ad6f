package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A keystore is encrypted after the fact, its wrapping key is replaced, and what
// is missing is said.
func TestStoreRewrap(t *testing.T) {
	c := newCLI(t)
	keyFile := filepath.Join(t.TempDir(), "wrapping")
	setKeys := func(lines ...string) {
		t.Helper()
		if err := os.WriteFile(keyFile, []byte(strings.Join(lines, "\n")), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	const first, second = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=", "HxwdHhobGBkWFxQVEhMQEQ4PDA0KCwgJBgcEBQIDAAE="
	c.ok("", "key new example.com --algorithm ed25519 --selector a")
	if r := c.run("", "store rewrap"); r.code != exitFailed || !strings.Contains(r.stderr, "key_encryption_key is not set") || !strings.Contains(r.stderr, "hint: ") {
		t.Errorf("without the setting: %+v", r)
	}

	c.config = "[keystore]\nkey_encryption_key = '" + keyFile + "'\n"
	if r := c.run("", "check"); r.code != exitFailed || !strings.Contains(r.stdout, keyFile) || !strings.Contains(r.stdout, "remedy: ") {
		t.Errorf("check without the file: %+v", r)
	}
	setKeys(first)
	pem, err := filepath.Glob(filepath.Join(c.store, "example.com", "*.pem"))
	if err != nil || len(pem) != 1 {
		t.Fatal(pem, err)
	}
	plain, _ := os.ReadFile(pem[0])
	if r := c.run("", "store rewrap --dry-run"); r.code != exitDone || r.stdout != "example.com\ta\n" || !strings.Contains(r.stderr, "1 keys of 1 domains would be") {
		t.Errorf("dry run: %+v", r)
	}
	if now, _ := os.ReadFile(pem[0]); !bytes.Equal(now, plain) {
		t.Error("the dry run has written")
	}
	if got := c.ok("", "store rewrap"); got != "example.com\ta\n" {
		t.Errorf("rewrap: %q", got)
	}
	if now, _ := os.ReadFile(pem[0]); !bytes.Contains(now, []byte("WAXSEAL WRAPPED KEY")) {
		t.Errorf("not encrypted:\n%s", now)
	}

	setKeys("# new", second, first)
	var report rewrapReport
	if err := json.Unmarshal([]byte(c.ok("", "store rewrap --json")), &report); err != nil || report.Domains != 1 || len(report.Keys) != 1 {
		t.Errorf("%+v, %v", report, err)
	}
	setKeys(second)
	c.ok("", "check")
	if got := c.ok("", "key export example.com a"); got != string(plain) {
		t.Errorf("exported %q, want the key as it was made", got)
	}
	setKeys(first)
	if r := c.run("", "check"); r.code != exitFailed || !strings.Contains(r.stdout, "encrypted with the wrapping key ") || !strings.Contains(r.stdout, "remedy: add that to the file of keystore.key_encryption_key") {
		t.Errorf("check with the wrong key: %+v", r)
	}
	if r := c.run("", "store rewrap"); r.code != exitFailed || !strings.Contains(r.stderr, "which is not there") {
		t.Errorf("rewrap with the wrong key: %+v", r)
	}
}

func TestStoreRewrapInADatabase(t *testing.T) {
	c := newCLI(t)
	keyFile := filepath.Join(t.TempDir(), "wrapping")
	c.store = "sqlite:" + filepath.Join(t.TempDir(), "keys.db")
	c.ok("", "key new example.com --algorithm ed25519 --selector a")
	plain := c.ok("", "key export example.com a")
	const first, second = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n", "HxwdHhobGBkWFxQVEhMQEQ4PDA0KCwgJBgcEBQIDAAE=\n"
	for _, step := range []struct{ keys, want string }{
		{first, "example.com\ta\n"}, {second + first, "example.com\ta\n"}, {second, ""},
	} {
		c.config = "[keystore]\nkey_encryption_key = '" + keyFile + "'\n"
		if err := os.WriteFile(keyFile, []byte(step.keys), 0o600); err != nil {
			t.Fatal(err)
		}
		for _, line := range []string{"store rewrap --dry-run", "store rewrap"} {
			if got := c.ok("", line); got != step.want {
				t.Errorf("%s: %q, want %q", line, got, step.want)
			}
		}
		if got := c.ok("", "store rewrap"); got != "" {
			t.Errorf("again: %q", got)
		}
		if got := c.ok("", "key export example.com a"); got != plain {
			t.Errorf("exported %q, want %q", got, plain)
		}
		c.config = ""
		if r := c.run("", "check"); r.code != exitFailed || !strings.Contains(r.stdout, "key_encryption_key") {
			t.Errorf("check without the wrapping key: %+v", r)
		}
	}
}
