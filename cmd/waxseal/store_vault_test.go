package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"waxseal/keystore/vaultstore/vaulttest"
)

// Every command on a keystore whose keys are made in Vault and stay there.
func TestKeysInTransit(t *testing.T) {
	f := vaulttest.New(t)
	c := newCLI(t)
	plain := f.StoreURL(t, "secret/waxseal")
	c.store = plain + "&transit=transit"
	keys := func() (names []string) {
		for name := range f.Keys {
			names = append(names, strings.TrimSuffix(name, "._domainkey.example.com"))
		}
		slices.Sort(names)
		return names
	}
	want := func(names ...string) {
		t.Helper()
		if got := keys(); !slices.Equal(got, names) {
			t.Errorf("keys in transit: %q, want %q", got, names)
		}
	}

	if out := c.ok("", "key new example.com --dry-run"); !strings.Contains(out, "would make rsa-2048 key 2026a") {
		t.Errorf("key new --dry-run: %s", out)
	}
	want()
	if out := c.ok("", "key new example.com"); !strings.Contains(out, "2026a._domainkey.example.com. IN TXT") {
		t.Errorf("key new: %s", out)
	}
	c.ok("", "key new example.com --algorithm ed25519")
	want("2026a", "2026b")
	c.fails("", "key new example.com --selector 2026a --algorithm ed25519", exitFailed, "used before")
	c.fails("", "key new example.com --algorithm rsa-1024", exitFailed, "makes no rsa-1024 keys")
	want("2026a", "2026b")
	for name, s := range f.KV2 {
		for _, v := range s.Versions {
			if strings.Contains(string(v.Data), "PRIVATE") {
				t.Errorf("%s has a private half", name)
			}
		}
	}

	for _, selector := range []string{"2026a", "2026b"} {
		c.ok("", "key activate example.com "+selector+" --force --reason tested")
	}
	records := writeFile(t, "keys.tsv", c.ok("", "dns show example.com --format tsv"))
	if out := c.ok(c.ok(testMail, "sign"), "verify --keys "+records); strings.Count(out, "pass") != 2 {
		t.Errorf("verify: %s", out)
	}
	c.ok("", "key show example.com 2026a")
	if out := c.ok("", "key list"); strings.Count(out, "active") != 2 {
		t.Errorf("key list:\n%s", out)
	}
	c.ok("", "check")
	if out := c.ok("", "store status"); !strings.Contains(out, "Vault, in ") || !strings.Contains(out, "domains      1\n") || !strings.Contains(out, ", example.com\n") {
		t.Errorf("store status:\n%s", out)
	}

	// No private half gets out.
	c.fails("", "key export example.com 2026a", exitFailed, "Vault's transit engine at transit, as 2026a._domainkey.example.com", "never leaves it")
	if out := c.ok("", "key export example.com 2026a --public"); !strings.Contains(out, "BEGIN PUBLIC KEY") {
		t.Errorf("key export --public: %s", out)
	}
	for _, dryRun := range []string{"", " --dry-run"} {
		c.without("", "store copy "+c.store+" "+t.TempDir()+dryRun, exitFailed, "never leaves it")
	}
	c.config = "[keystore]\nkey_encryption_key = '" + writeFile(t, "wrapping", "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n") + "'\n"
	if out := c.ok("", "store rewrap"); out != "" {
		t.Errorf("store rewrap: %s", out)
	}
	c.config = "[keeper]\npublish_retired_keys = '" + t.TempDir() + "'\n"
	c.fails("", "check", exitFailed, "publish_retired_keys", "never leave")
	c.config = ""

	// And none from elsewhere gets in.
	const pem = "../../keystore/testdata/keys/ed25519.pem"
	for _, dryRun := range []string{"", " --dry-run"} {
		c.fails("", "key import example.net mail "+pem+dryRun, exitFailed, "takes none that were made elsewhere", "hint: ")
		c.without("", "store copy "+t.TempDir()+" "+c.store+dryRun, exitFailed, "takes none that were made elsewhere")
	}

	if out := c.ok("", "rotate example.com"); !strings.Contains(out, "2026c") || !strings.Contains(out, "2026d") {
		t.Errorf("rotate: %s", out)
	}
	want("2026a", "2026b", "2026c", "2026d")
	c.ok("", "key remove example.com 2026d --force --reason tested")
	want("2026a", "2026b", "2026c")
	c.store = plain
	c.fails("", "check", exitFailed, `name the engine's mount in the option "transit"`)
}

// Keys in Vault's key/value engine are encrypted before Vault gets them.
func TestEncryptedKeysInVault(t *testing.T) {
	f := vaulttest.New(t)
	c := newCLI(t)
	c.store = f.StoreURL(t, "secret/waxseal")
	encrypted(t, c, func() (stored string) {
		for _, s := range f.KV2 {
			for _, v := range s.Versions {
				stored += string(v.Data)
			}
		}
		return stored
	})
}

// encrypted tests an empty keystore with keys that encrypt. stored is all that
// the store has, former versions included.
func encrypted(t *testing.T, c *cli, stored func() string) {
	t.Helper()
	keyFile := filepath.Join(t.TempDir(), "wrapping")
	const first, second = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n", "HxwdHhobGBkWFxQVEhMQEQ4PDA0KCwgJBgcEBQIDAAE=\n"
	setKeys := func(text string) {
		t.Helper()
		if err := os.WriteFile(keyFile, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c.ok("", "key new example.com --algorithm ed25519 --selector before")
	plain := c.ok("", "key export example.com before")
	body := strings.Split(plain, "\n")[1]
	if !strings.Contains(stored(), body) {
		t.Fatal("what is stored cannot be seen")
	}
	c.config = "[keystore]\nkey_encryption_key = '" + keyFile + "'\n"
	setKeys(first)
	c.ok("", "key new example.com --algorithm ed25519 --selector after")
	after := strings.Split(c.ok("", "key export example.com after"), "\n")[1]
	if strings.Contains(stored(), after) {
		t.Error("a new key is not encrypted")
	}
	for _, step := range []struct{ keys, want string }{
		{first, "example.com\tbefore\n"}, {second + first, "example.com\tbefore\nexample.com\tafter\n"}, {second, ""},
	} {
		setKeys(step.keys)
		for _, line := range []string{"store rewrap --dry-run", "store rewrap"} {
			if got := c.ok("", line); got != step.want {
				t.Errorf("%s: %q, want %q", line, got, step.want)
			}
		}
	}
	if s := stored(); strings.Contains(s, body) || strings.Contains(s, after) || !strings.Contains(s, "WAXSEAL WRAPPED KEY") {
		t.Errorf("stored: %s", s)
	}
	if got := c.ok("", "key export example.com before"); got != plain {
		t.Errorf("exported %q, want %q", got, plain)
	}
	setKeys(first)
	c.fails("", "key export example.com before", exitFailed, "which is not among those of keystore.key_encryption_key")
	c.fails("", "check", exitFailed, "key_encryption_key")
	c.fails("", "store rewrap", exitFailed, "key_encryption_key")
	var status storeReport
	if err := json.Unmarshal([]byte(c.ok("", "store status --json")), &status); err != nil || status.Domains != 1 || status.LastChanged != "example.com" {
		t.Errorf("status %+v, %v", status, err)
	}
}
