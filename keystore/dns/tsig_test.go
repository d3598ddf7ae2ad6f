package dns

import (
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"waxseal/keystore"
)

var goodKeyFiles = []string{
	testKey,
	strings.ReplaceAll(testKey, "\n", "\r\n"),
	"// made by hand\n# twice\n/* over\nlines */key waxseal. { secret \"" + testSecret + "\"; algorithm HMAC-SHA256; };",
	"key \"waxseal\" { algorithm hmac-sha256; // the algorithm\n secret " + testSecret + "; # the secret\n };\n# the end",
	"KEY WaxSeal {Algorithm \"hmac-sha256\";Secret \"c2VjcmV0IG9mIHRoaXJ0eS10d28g b2N0ZXRzICEhISE=\";};",
}

var badKeyFiles = []struct{ name, text, want string }{
	{"empty", "", "no key in it"},
	{"comment only", "# key\n", "no key in it"},
	{"md5", strings.Replace(testKey, "sha256", "md5.sig-alg.reg.int", 1), "too weak"},
	{"sha1", strings.Replace(testKey, "hmac-sha256", "hmac-sha1", 1), "line 2: the algorithm \"hmac-sha1\" is too weak"},
	{"sha384", strings.Replace(testKey, "sha256", "sha384", 1), "not among those we use"},
	{"truncated signatures", strings.Replace(testKey, "sha256", "sha256-128", 1), "not among those we use"},
	{"secret for algorithm", strings.Replace(testKey, "hmac-sha256", testSecret, 1), "unknown algorithm"},
	{"no algorithm", "key a { secret \"AAAA\"; };", "key a has no algorithm"},
	{"no secret", "key a { algorithm hmac-sha256; };", "key a has no secret"},
	{"empty secret", strings.Replace(testKey, testSecret, "", 1), "the secret is empty"},
	{"secret that is not base64", strings.Replace(testKey, "c2Vj", "c2V!", 1), "line 3: the secret is not base64"},
	{"two secrets", strings.Replace(testKey, "};", "secret \"AAAA\"; };", 1), "a second secret"},
	{"two keys", testKey + testKey, "a second key"},
	{"no name", "key { secret a; };", "the key has no name"},
	{"name with a blank", "key \"a b\" { secret a; };", "not a domain name"},
	{"root for a name", "key . { secret a; };", "not a domain name"},
	{"no brace", "key a secret b;", `want "{" after the key's name`},
	{"no semicolon within", "key a { algorithm hmac-sha256 secret \"AAAA\"; };", `want ";" after the algorithm`},
	{"no semicolon behind", "key a { algorithm hmac-sha256; secret \"AAAA\"; }", `want ";" after the closing brace`},
	{"cut off", testKey[:60], "quoted string without its end"},
	{"comment without end", "/* " + testKey, "comment without its end"},
	{"configuration of BIND", "options { directory \"/var\"; };\n" + testKey, `want nothing but key "NAME"`},
	{"secret where a clause belongs", "key a { " + testSecret + "; };", `want "algorithm …;", "secret …;"`},
	{"private file of dnssec-keygen", "Private-key-format: v1.3\nAlgorithm: 163 (HMAC_SHA256)\nKey: " + testSecret + "\n", "K*.private file of dnssec-keygen"},
	{"public file of dnssec-keygen", "waxseal. IN KEY 512 3 163 " + testSecret + "\n", "K*.key file of dnssec-keygen"},
	{"nsupdate -y", "hmac-sha256:waxseal:" + testSecret, `want nothing but key "NAME"`},
	{"too large", strings.Repeat("#", maxKeyFile+1), "no key file"},
}

func TestParseTSIGKey(t *testing.T) {
	for _, text := range goodKeyFiles {
		k, err := ParseTSIGKey([]byte(text))
		if err != nil || k.Name != "waxseal" || k.Algorithm != "hmac-sha256" || k.secret != testSecret {
			t.Errorf("%q: %v, %v", text, k, err)
		}
	}
	for _, test := range badKeyFiles {
		_, err := ParseTSIGKey([]byte(test.text))
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: error %v, want %q", test.name, err, test.want)
		}
		if err != nil && strings.Contains(err.Error(), testSecret[:8]) {
			t.Errorf("%s: the error has the secret: %v", test.name, err)
		}
	}
}

func TestTSIGKeyKeepsItsSecret(t *testing.T) {
	k, err := ParseTSIGKey([]byte(testKey))
	if err != nil {
		t.Fatal(err)
	}
	for _, format := range []string{"%v", "%+v", "%#v", "%s", "%q"} {
		for _, v := range []any{k, *k} {
			if s := fmt.Sprintf(format, v); strings.Contains(s, testSecret[:8]) || !strings.Contains(s, "waxseal") {
				t.Errorf("%s: %s", format, s)
			}
		}
	}
}

func TestReadTSIGKey(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("CREDENTIALS_DIRECTORY", dir)
	path := filepath.Join(dir, "it's.key")
	if err := os.WriteFile(path, []byte(testKey), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, mode := range []os.FileMode{0o400, 0o600, 0o640, 0o440} {
		chmod(t, path, mode)
		for _, p := range []string{path, "credential:it's.key"} {
			if k, err := ReadTSIGKey(p); err != nil || k.Name != "waxseal" {
				t.Errorf("mode %04o, %s: %v, %v", mode, p, k, err)
			}
		}
	}
	for _, mode := range []os.FileMode{0o644, 0o602, 0o620, 0o646} {
		chmod(t, path, mode)
		_, err := ReadTSIGKey(path)
		var open *keystore.PermissionError
		if !errors.As(err, &open) || open.Path != path {
			t.Errorf("mode %04o: error %v", mode, err)
			continue
		}
		if out, err := exec.Command("/bin/sh", "-c", open.Repair).CombinedOutput(); err != nil {
			t.Errorf("%s: %v: %s", open.Repair, err, out)
		}
		if _, err := ReadTSIGKey(path); err != nil {
			t.Errorf("after the repair: %v", err)
		}
	}
	if _, err := ReadTSIGKey(filepath.Join(dir, "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file: error %v", err)
	}
	if _, err := ReadTSIGKey(dir); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Errorf("directory: error %v", err)
	}
	if err := os.WriteFile(path, []byte("key a {"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadTSIGKey(path); err == nil || !strings.Contains(err.Error(), path+": line 1: ") {
		t.Errorf("broken file: error %v", err)
	}
}

func chmod(t *testing.T, path string, mode os.FileMode) {
	t.Helper()
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}

func TestCredentialPath(t *testing.T) {
	t.Setenv("CREDENTIALS_DIRECTORY", "/run/credentials/waxseal.service")
	for _, test := range []struct{ path, want, err string }{
		{"/etc/waxseal/tsig.key", "/etc/waxseal/tsig.key", ""},
		{"credential:tsig", "/run/credentials/waxseal.service/tsig", ""},
		{"credential:", "", "want the name"},
		{"credential:../x", "", "want the name"},
		{"credential:..", "", "want the name"},
	} {
		got, err := CredentialPath(test.path)
		if got != test.want || (err == nil) != (test.err == "") || err != nil && !strings.Contains(err.Error(), test.err) {
			t.Errorf("%s: %q, %v", test.path, got, err)
		}
	}
	t.Setenv("CREDENTIALS_DIRECTORY", "")
	if _, err := CredentialPath("credential:tsig"); err == nil || !strings.Contains(err.Error(), "LoadCredential=tsig:") {
		t.Errorf("without systemd: %v", err)
	}
}

func FuzzParseTSIGKey(f *testing.F) {
	for _, text := range goodKeyFiles {
		f.Add([]byte(text))
	}
	for _, test := range badKeyFiles[:len(badKeyFiles)-1] {
		f.Add([]byte(test.text))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		k, err := ParseTSIGKey(data)
		if err != nil {
			return
		}
		if secret, err := base64.StdEncoding.DecodeString(k.secret); err != nil || len(secret) == 0 {
			t.Errorf("secret %q: %v", k.secret, err)
		}
		again, err := ParseTSIGKey(fmt.Appendf(nil, "key %q { algorithm %s; secret %q; };", k.Name, k.Algorithm, k.secret))
		if err != nil || *again != *k {
			t.Errorf("%q: read again: %v, %v, want %v", data, again, err, k)
		}
	})
}
