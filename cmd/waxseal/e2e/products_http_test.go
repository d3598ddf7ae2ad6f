package e2e

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	waxkeys "waxseal/keystore"
)

// mailuAdmin is what rspamd sees of Mailu's admin service, by the sources below
// core/admin/mailu: keys are PKCS#8 files that the service reads for each request;
// it finds domains by A-labels and names them in U-labels; it takes every token; and
// a domain without a key has an empty list.
type mailuAdmin struct {
	mu       sync.Mutex
	keys     map[string]string // guarded by mu
	other    []string          // guarded by mu; further names that it lists
	requests []string          // guarded by mu; that were not to be expected
}

func (m *mailuAdmin) set(domain, key string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.keys[domain] = key; key == "" {
		delete(m.keys, domain)
	}
}

func (m *mailuAdmin) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	m.mu.Lock()
	defer m.mu.Unlock()
	unicode := func(domain string) string { return strings.Replace(domain, "xn--bcher-kva", "bücher", 1) }
	domain, isKey := strings.CutPrefix(r.URL.Path, "/internal/rspamd/vault/v1/dkim/")
	switch {
	case r.Method != "GET":
		m.requests = append(m.requests, r.Method+" "+r.URL.Path)
		w.WriteHeader(http.StatusMethodNotAllowed)
	case r.URL.Path == "/internal/rspamd/local_domains":
		names := append([]string{}, m.other...)
		for name := range m.keys {
			names = append(names, unicode(name))
		}
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		io.WriteString(w, strings.Join(names, "\n"))
	case isKey:
		type selector struct {
			Domain   string `json:"domain"`
			Key      string `json:"key"`
			Selector string `json:"selector"`
		}
		selectors := []selector{}
		if key := m.keys[domain]; key != "" {
			selectors = append(selectors, selector{unicode(domain), key, "dkim"})
		}
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(map[string]any{"data": map[string]any{"selectors": selectors}})
	default:
		m.requests = append(m.requests, r.Method+" "+r.URL.Path)
		w.WriteHeader(http.StatusNotFound)
	}
}

func TestMailu(t *testing.T) {
	require(t, dkimpyInstalled)
	t.Parallel()
	m := &mailuAdmin{keys: map[string]string{}, other: []string{"alternative.example", "without-key.example"}}
	server := httptest.NewServer(m)
	t.Cleanup(server.Close)
	p := servesProduct(t, "1s", productRecipe(t, "Mailu", "toml"), "admin:8080", strings.TrimPrefix(server.URL, "http://"))
	add := func(domain string, algorithm waxkeys.Algorithm) {
		k := newProductKey(t, algorithm)
		p.tells(t, "dkim", domain, "v=DKIM1; k=rsa; p="+k.public)
		m.set(domain, k.pkcs8)
	}
	add("example.com", waxkeys.RSA2048)
	add("xn--bcher-kva.example", waxkeys.RSA1024)
	p.signs(t, "example.com", "dkim")
	p.signs(t, "xn--bcher-kva.example", "dkim")
	p.signs(t, "alternative.example")
	p.signs(t, "stranger.example")
	p.commandsKnow(t, "dkim.example.com", "dkim.xn--bcher-kva.example")

	add("without-key.example", waxkeys.RSA2048)
	p.signs(t, "without-key.example", "dkim")
	add("example.com", waxkeys.RSA2048) // generated anew
	p.signs(t, "example.com", "dkim")
	m.set("xn--bcher-kva.example", "")
	p.signs(t, "xn--bcher-kva.example")
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.requests) > 0 {
		t.Errorf("Mailu was asked for %q", m.requests)
	}
}

// vaultKV1 is a key/value engine of version 1 for rspamadm and waxseal.
type vaultKV1 struct {
	mu      sync.Mutex
	secrets map[string]json.RawMessage // guarded by mu
	writes  int                        // guarded by mu
}

// written is how often something was written.
func (v *vaultKV1) written() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.writes
}

func (v *vaultKV1) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	v.mu.Lock()
	defer v.mu.Unlock()
	domain, ok := strings.CutPrefix(r.URL.Path, "/v1/dkim")
	domain = strings.TrimPrefix(domain, "/")
	answer := func(data any) {
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(map[string]any{"request_id": "x", "lease_duration": 2764800, "renewable": false, "data": data})
	}
	switch token := r.Header.Get("X-Vault-Token"); {
	case token != "a-token" || !ok:
		w.WriteHeader(http.StatusForbidden)
		io.WriteString(w, `{"errors":["permission denied"]}`)
	case r.Method == "PUT" || r.Method == "POST":
		v.writes++
		v.secrets[domain], _ = io.ReadAll(r.Body)
		w.WriteHeader(http.StatusNoContent)
	case r.URL.Query().Get("list") == "true":
		keys := []string{}
		for name := range v.secrets {
			keys = append(keys, name)
		}
		answer(map[string]any{"keys": keys})
	case v.secrets[domain] != nil:
		answer(v.secrets[domain])
	default:
		w.WriteHeader(http.StatusNotFound)
		io.WriteString(w, `{"errors":[]}`)
	}
}

// TestRspamdVault has rspamd's own tool make and roll the keys.
func TestRspamdVault(t *testing.T) {
	require(t, installed("rspamadm", "rspamd"), dkimpyInstalled)
	t.Parallel()
	v := &vaultKV1{secrets: map[string]json.RawMessage{}}
	server := httptest.NewServer(v)
	t.Cleanup(server.Close)
	token := writeFile(t, filepath.Join(t.TempDir(), "token"), "a-token\n", 0o600)
	p := servesProduct(t, "1s", productRecipes(t, "rspamd", "toml")[1], "vault://vault.example.net", "vault+http://"+strings.TrimPrefix(server.URL, "http://"), "/etc/waxseal/vault-token", token)
	record := regexp.MustCompile(`(?ms)^(\S+)\._domainkey (IN TXT \(.*?\))`)
	rspamadm := func(domain string, args ...string) (selector string) {
		t.Helper()
		c := exec.Command("rspamadm", append(append([]string{"vault", "-a", server.URL}, args...), domain)...)
		c.Env = append(os.Environ(), "VAULT_TOKEN=a-token")
		out, err := c.CombinedOutput()
		if err != nil {
			t.Fatalf("rspamadm %q: %v\n%s", args, err, out)
		}
		for _, m := range record.FindAllStringSubmatch(string(out), -1) {
			p.tells(t, m[1], domain, textOf(m[2]))
			selector = m[1]
		}
		return selector
	}
	rspamadm("example.com", "newkey", "-s", "rsa1", "-b", "2048")
	rspamadm("example.com", "newkey", "-s", "ed1", "-A", "ed25519")
	rspamadm("example.net", "newkey", "-s", "rsa1")
	p.signs(t, "example.com", "ed1", "rsa1")
	p.signs(t, "example.net", "rsa1")
	p.signs(t, "stranger.example")
	writes := v.written()
	p.commandsKnow(t, "ed1.example.com", "rsa1.example.com", "rsa1.example.net")
	if v.written() != writes {
		t.Error("Vault was written to")
	}
	fresh := rspamadm("example.net", "roll", "-T", "7") // the old key signs for another week
	p.signs(t, "example.net", fresh, "rsa1")            // rsa-YYYYMMDD
	v.mu.Lock()
	delete(v.secrets, "example.com")
	v.mu.Unlock()
	p.signs(t, "example.com")
}
