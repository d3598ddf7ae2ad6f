package vaultstore

import (
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"waxseal/keystore"
	"waxseal/keystore/storetest"
	"waxseal/keystore/vaultstore/vaulttest"
)

func TestLogins(t *testing.T) {
	f := vaulttest.New(t)
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	base := "vault+http://" + f.Host() + "/secret/waxseal?"
	good := []string{
		"auth=approle&role_id=mail&secret_id_file=" + write("secret", "secret"),
		"auth=kubernetes&auth_mount=k8s&role=mail&jwt_file=" + write("jwt", "a.b.c"),
	}
	for i, options := range good {
		s := open(t, base+options, Options{})
		storetest.Create(t, s, fmt.Sprintf("d%d.example", i), "a")
		// A token that Vault has forgotten is replaced, once it is not new.
		s.client.auth.mu.Lock()
		s.client.auth.since = time.Now().Add(-time.Minute)
		s.client.auth.mu.Unlock()
		f.Mu.Lock()
		clear(f.Tokens)
		f.Mu.Unlock()
		if _, err := s.Domain(t.Context(), fmt.Sprintf("d%d.example", i)); err != nil {
			t.Errorf("%s: after the token was revoked: %v", options, err)
		}
	}
	for _, options := range []string{
		"auth=approle&role_id=mail&secret_id_file=" + write("wrong", "wrong"),
		"auth=approle&role_id=mail&secret_id_file=" + filepath.Join(dir, "nothing"),
		"auth=kubernetes&role=mail&jwt_file=" + write("empty", ""),
		"token_file=" + write("token", "not a token"),
	} {
		if _, err := open(t, base+options, Options{}).Domain(t.Context(), "d0.example"); err == nil || errors.Is(err, keystore.ErrNotFound) || strings.Contains(err.Error(), "not a token") {
			t.Errorf("%s: %v", options, err)
		}
	}
	// A token in a file is read again when it is refused.
	file := write("rotated", "old")
	f.Tokens["old"] = time.Now().Add(time.Hour)
	s := open(t, base+"token_file="+file, Options{})
	if _, err := s.Domain(t.Context(), "d0.example"); err != nil {
		t.Fatal(err)
	}
	f.Mu.Lock()
	delete(f.Tokens, "old")
	f.Tokens["new"] = time.Now().Add(time.Hour)
	f.Mu.Unlock()
	write("rotated", "new")
	if _, err := s.Domain(t.Context(), "d0.example"); err != nil {
		t.Errorf("after the file got another token: %v", err)
	}
}

func TestTokenIsRenewed(t *testing.T) {
	f := vaulttest.New(t)
	f.TTL = time.Second
	file := filepath.Join(t.TempDir(), "secret")
	os.WriteFile(file, []byte("secret"), 0o600)
	s := open(t, "vault+http://"+f.Host()+"/secret/waxseal?auth=approle&role_id=mail&secret_id_file="+file, Options{})
	storetest.Create(t, s, "example.com", "a")
	first, _ := s.client.auth.current(t.Context())
	time.Sleep(1500 * time.Millisecond)
	if _, err := s.Domain(t.Context(), "example.com"); err != nil {
		t.Error(err)
	}
	if now, _ := s.client.auth.current(t.Context()); now != first {
		t.Error("the token was replaced, want it renewed")
	}
}

func TestLoginAnewWhereATokenIsNotRenewed(t *testing.T) {
	f := vaulttest.New(t)
	f.TTL = time.Second
	f.Refuse = func(r *http.Request) bool { return r.URL.Path == "/v1/auth/token/renew-self" }
	file := filepath.Join(t.TempDir(), "jwt")
	os.WriteFile(file, []byte("a.b.c"), 0o600)
	s := open(t, "vault+http://"+f.Host()+"/secret/waxseal?auth=kubernetes&auth_mount=k8s&role=mail&jwt_file="+file, Options{})
	storetest.Create(t, s, "example.com", "a")
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		f.Mu.Lock()
		logins := f.Logins
		f.Mu.Unlock()
		if logins > 1 {
			break
		}
		if time.Now().After(end) {
			t.Fatal("no second login")
		}
	}
	if _, err := s.Domain(t.Context(), "example.com"); err != nil {
		t.Error(err)
	}
}

func TestNamespace(t *testing.T) {
	f := vaulttest.New(t)
	f.Namespace = "mail/out"
	storetest.Create(t, open(t, f.StoreURL(t, "secret/waxseal", "namespace=mail/out"), Options{}), "example.com", "a")
	if err := open(t, f.StoreURL(t, "secret/waxseal"), Options{}).Update(t.Context(), &keystore.Domain{Name: "example.com"}); err == nil {
		t.Error("a change without the namespace")
	}
}

// authority writes the file of the authority that vouches for a server.
func authority(t *testing.T, f *vaulttest.Server) string {
	t.Helper()
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: f.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	return ca
}

func TestTLS(t *testing.T) {
	f := vaulttest.NewTLS(t)
	ca := authority(t, f)
	url := strings.Replace(f.StoreURL(t, "secret/waxseal"), "vault+http", "vault", 1)
	s := open(t, url+"&ca="+ca, Options{})
	storetest.Create(t, s, "example.com", "a")
	if _, err := open(t, url, Options{}).Domain(t.Context(), "example.com"); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("a server that nobody vouches for: %v", err)
	}
	// A redirection to a server without TLS is not followed: it would show the token.
	shown := false
	bare := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { shown = true }))
	defer bare.Close()
	f.Config.Handler = http.RedirectHandler(bare.URL+"/v1/secret/data/waxseal/example.com", http.StatusTemporaryRedirect)
	if _, err := s.Domain(t.Context(), "example.com"); err == nil || errors.Is(err, keystore.ErrNotFound) || shown {
		t.Errorf("a redirection to http: %v, followed: %v", err, shown)
	}
}
