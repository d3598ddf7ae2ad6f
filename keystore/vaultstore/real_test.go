package vaultstore

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"waxseal/keystore"
	"waxseal/keystore/storetest"
)

// A real Vault or OpenBao, for example "vault server -dev": VAULT_ADDR and
// VAULT_TOKEN as for its own tools. Mounts of our own are made in it, and a role
// of AppRole that may do what the policy of contrib/vault for who keeps says.
func TestRealVaultConforms(t *testing.T) {
	address, token := os.Getenv("VAULT_ADDR"), os.Getenv("VAULT_TOKEN")
	if address == "" || token == "" {
		t.Skip("VAULT_ADDR and VAULT_TOKEN are not set")
	}
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	scheme, host, _ := strings.Cut(address, "://")
	base := map[string]string{"http": "vault+http://", "https": "vault://"}[scheme] + strings.TrimSuffix(host, "/")
	name := fmt.Sprintf("waxseal-test-%d", time.Now().UnixNano())
	root := "token_file=" + file("token", token)
	admin := open(t, base+"/"+name+"?"+root, Options{}).client
	ask := func(method, path string, body any) (answer struct{ Data map[string]json.RawMessage }) {
		t.Helper()
		if err := admin.do(t.Context(), method, path, body, &answer); err != nil {
			t.Fatalf("%s %s: %v", method, path, err)
		}
		return answer
	}
	own := strings.NewReplacer("secret/", name+"/", "transit/", name+"-transit/", "/waxseal", "/waxseal/+").Replace(contribPolicy(t, "keep"))
	for _, each := range []struct {
		path string
		body object
	}{
		{"sys/mounts/" + name, object{"type": "kv", "options": object{"version": "2"}}},
		{"sys/mounts/" + name + "-transit", object{"type": "transit"}},
		{"sys/policies/acl/" + name, object{"policy": own}},
		{"sys/auth/" + name, object{"type": "approle"}},
	} {
		ask("POST", each.path, each.body)
		t.Cleanup(func() { admin.do(context.Background(), "DELETE", each.path, nil, nil) })
	}
	ask("POST", "auth/"+name+"/role/mail", object{"token_policies": []string{name}, "token_ttl": "3s", "token_max_ttl": "5s"})
	var roleID, secretID string
	json.Unmarshal(ask("GET", "auth/"+name+"/role/mail/role-id", nil).Data["role_id"], &roleID)
	json.Unmarshal(ask("POST", "auth/"+name+"/role/mail/secret-id", object{}).Data["secret_id"], &secretID)
	login := "auth=approle&auth_mount=" + name + "&role_id=" + roleID + "&secret_id_file=" + file("secret", secretID)

	n := 0
	path := func() string {
		n++
		return fmt.Sprintf("%s/%s/waxseal/t%d?", base, name, n)
	}
	for _, auth := range []string{root, login} {
		storetest.Run(t, func(t *testing.T) keystore.Store { return open(t, path()+auth, Options{}) })
		url := path() + auth
		storetest.RunClients(t, open(t, url, Options{}), open(t, url, Options{}), open(t, url, Options{}))
		inTransitSigns(t, open(t, path()+"transit="+name+"-transit&"+auth, Options{}))
		heardOf(t, path()+auth)
		encryptedAnew(t, path()+auth, func(t *testing.T, path string) []byte {
			return ask("GET", path, nil).Data["data"]
		})
	}
	s := open(t, path()+login, Options{})
	storetest.Create(t, s, "example.com", "a")
	time.Sleep(6 * time.Second) // longer than any of its tokens lives
	if _, err := s.Domain(t.Context(), "example.com"); err != nil {
		t.Errorf("after the token's end: %v", err)
	}
}
