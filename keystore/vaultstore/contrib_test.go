package vaultstore

import (
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"waxseal/keystore"
	"waxseal/keystore/storetest"
	"waxseal/keystore/vaultstore/vaulttest"
)

// policies are those of contrib/vault, by the token that has them. They are
// understood as Vault does: the rule with the longest path counts.
type policies struct {
	fake *vaulttest.Server
	of   map[string]map[string][]string // token → path → capabilities
	used map[string]bool                // token, path and capability
}

func contribPolicies(t *testing.T) *policies {
	p := &policies{fake: vaulttest.New(t), of: make(map[string]map[string][]string), used: make(map[string]bool)}
	rule := regexp.MustCompile(`(?s)\npath "([^"]+)" \{\n  capabilities = \[([^\]]+)\]\n\}\n`)
	for _, name := range []string{"sign", "keep"} {
		text := contribPolicy(t, name)
		p.of[name] = make(map[string][]string)
		for _, m := range rule.FindAllStringSubmatch(text, -1) {
			p.of[name][m[1]] = strings.Split(strings.ReplaceAll(m[2], `"`, ""), ", ")
		}
		if rest := regexp.MustCompile(`(?m)^#.*\n|^\n`).ReplaceAllString(rule.ReplaceAllString(text, "\n"), ""); rest != "" || len(p.of[name]) == 0 {
			t.Fatalf("%s.hcl has more than rules: %q", name, rest)
		}
		p.fake.Tokens[name] = time.Now().Add(time.Hour)
	}
	p.fake.Refuse = func(r *http.Request) bool {
		path := strings.TrimPrefix(r.URL.Path, "/v1/")
		return !strings.HasPrefix(path, "auth/token/") && !p.allow(r.Header.Get("X-Vault-Token"), path, p.capability(r, path))
	}
	return p
}

func contribPolicy(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile("../../contrib/vault/" + name + ".hcl")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// capability is what a request takes. Only what can tell whether something is
// there already, of the paths that are used here, knows "create".
func (p *policies) capability(r *http.Request, path string) string {
	secret, isSecret := strings.CutPrefix(strings.Replace(path, "/metadata/", "/data/", 1), "secret/data/")
	key, isKey := strings.CutPrefix(path, "transit/keys/")
	switch {
	case r.URL.Query().Get("list") == "true":
		return "list"
	case r.Method == "GET":
		return "read"
	case r.Method == "DELETE":
		return "delete"
	case isSecret && p.fake.KV2[secret] == nil, isKey && !strings.Contains(key, "/") && p.fake.Keys[key] == nil:
		return "create"
	}
	return "update"
}

func (p *policies) allow(token, path, capability string) bool {
	best := ""
	for rule := range p.of[token] {
		if prefix, glob := strings.CutSuffix(rule, "*"); (path == rule || glob && strings.HasPrefix(path, prefix)) && len(rule) > len(best) {
			best = rule
		}
	}
	if best == "" || !slices.Contains(p.of[token][best], capability) {
		return false
	}
	p.used[token+" "+best+" "+capability] = true
	return true
}

// TestContribPolicies has the keeper's token take keys through their life, and the
// other one sign with them and change none. Each right is used.
func TestContribPolicies(t *testing.T) {
	p := contribPolicies(t)
	now := time.Now().UTC().Truncate(time.Second)
	store := func(token, options string) *Store {
		file := filepath.Join(t.TempDir(), "token")
		if err := os.WriteFile(file, []byte(token), 0o600); err != nil {
			t.Fatal(err)
		}
		return open(t, "vault+http://"+p.fake.Host()+"/secret/waxseal?token_file="+file+options, Options{Now: func() time.Time { return now }})
	}
	for _, options := range []string{"", "&transit=transit"} {
		name := map[string]string{"": "example.com", "&transit=transit": "example.org"}[options]
		keep, sign := store("keep", options), store("sign", options)
		d := &keystore.Domain{Name: name}
		for range 2 { // a change, and a key that nothing knows of because the first try ended there
			signer, err := keep.Generate(t.Context(), name, "a", keystore.Ed25519)
			if err != nil {
				t.Fatal(err)
			}
			d.Keys = []keystore.Key{storetest.ActiveOf(t, "a", signer)}
		}
		update := func() {
			t.Helper()
			if err := keep.Update(t.Context(), d); err != nil {
				t.Fatal(err)
			}
		}
		update()
		cache := keystore.NewCache(sign, keystore.CacheOptions{OnError: func(_ string, err error) { t.Error(err) }})
		defer cache.Close()
		if signing, err := cache.Signing(t.Context(), name); err != nil || len(signing.Keys) != 1 {
			t.Errorf("%s does not sign: %+v, %v", name, signing, err)
		}
		if names, err := sign.List(t.Context(), "", 10); err != nil || !slices.Contains(names, name) {
			t.Errorf("%v, %v", names, err)
		}
		if names, err := keep.List(t.Context(), "", 10); err != nil || !slices.Contains(names, name) {
			t.Errorf("%v, %v", names, err)
		}
		forged, err := sign.Domain(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		forged.Keys[0].Note = "forged"
		for what, err := range map[string]error{
			"changed a domain": sign.Update(t.Context(), forged),
			"made a domain":    sign.Update(t.Context(), &keystore.Domain{Name: "example.net"}),
			"deleted a domain": sign.client.do(t.Context(), "DELETE", "secret/metadata/waxseal/"+name, nil, nil),
			"deleted one":      keep.client.do(t.Context(), "DELETE", "secret/metadata/waxseal/"+name, nil, nil),
			"read another's":   keep.client.do(t.Context(), "GET", "secret/data/other", nil, nil),
		} {
			if err == nil || !strings.Contains(err.Error(), "permission denied") {
				t.Errorf("somebody has %s: %v", what, err)
			}
		}
		if _, err := sign.Generate(t.Context(), name, "b", keystore.Ed25519); options != "" && err == nil {
			t.Error("the signing token has made a key")
		}

		for name, s := range map[string]*Store{"keep": keep, "sign": sign} {
			for range 2 {
				if err := s.Beat(t.Context(), keystore.Node{Name: name}); err != nil {
					t.Errorf("%s: Beat: %v", name, err)
				}
			}
		}
		if st, err := keep.Status(t.Context()); err != nil || st.LastChanged != name || len(st.Nodes) != 2 {
			t.Errorf("Status: %+v, %v", st, err)
		}
		if st, err := sign.Status(t.Context()); err != nil || st.Domains < 1 {
			t.Errorf("Status: %+v, %v", st, err)
		}
		now = now.Add(nodeLife + time.Hour)
		if err := keep.Beat(t.Context(), keystore.Node{Name: "keep"}); err != nil {
			t.Errorf("Beat: %v", err)
		}
		k := &d.Keys[0]
		for _, next := range []struct {
			state keystore.State
			at    *time.Time
		}{{keystore.Retired, &k.Retired}, {keystore.Revoked, &k.Revoked}, {keystore.Removed, &k.Removed}} {
			k.State, *next.at = next.state, now
			update()
		}
	}
	p.fake.Mu.Lock()
	defer p.fake.Mu.Unlock()
	for token, rules := range p.of {
		for rule, capabilities := range rules {
			for _, c := range capabilities {
				if !p.used[token+" "+rule+" "+c] {
					t.Errorf("%s.hcl allows %s of %s, which is not needed", token, c, rule)
				}
			}
		}
	}
}
