package vaultstore

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"waxseal/keystore/storetest"
	"waxseal/keystore/vaultstore/vaulttest"
)

func TestURLs(t *testing.T) {
	for _, test := range []struct {
		url, bases, mount, path string
		kv                      int
		err                     string
	}{
		{url: "vault://vault.example?token_file=/t", bases: "https://vault.example:8200", mount: "secret", path: "waxseal", kv: 2},
		{url: "vault+http://[::1]:80,b/kv/a/b?token_file=/t", bases: "http://[::1]:80,http://b:8200", mount: "kv", path: "a/b", kv: 2},
		{url: "vault://v/a/b/c/?mount=a/b&auth=approle&role_id=r", bases: "https://v:8200", mount: "a/b", path: "c", kv: 2},
		{url: "vault://v/secret?token_file=/t&transit=transit&requests=4", bases: "https://v:8200", mount: "secret", kv: 2},
		{url: "vault://v?layout=rspamd&token_file=/t", bases: "https://v:8200", mount: "dkim", kv: 1},
		{url: "vault+http://admin:8080?layout=mailu", bases: "http://admin:8080/internal/rspamd/vault", mount: "dkim", kv: 1},
		{url: "vault://v?layout=kumomta&auth=kubernetes&role=r", bases: "https://v:8200", mount: "secret", path: "dkim", kv: 2},
		{url: "http://v", err: "vault://"},
		{url: "vault://user:s.token@v", err: "token_file"},
		{url: "vault://?token_file=/t", err: "host is missing"},
		{url: "vault://v", err: "no token"},
		{url: "vault://v?auth=approle", err: "role_id"},
		{url: "vault://v?auth=kubernetes", err: `"role"`},
		{url: "vault://v?auth=ldap", err: "auth"},
		{url: "vault://v?token_file=/t&kv=1", err: "check-and-set"},
		{url: "vault://v?token_file=/t&layout=rspamd&kv=3", err: "kv"},
		{url: "vault://v?token_file=/t&layout=x", err: "layout"},
		{url: "vault://v?token_file=/t&tokenfile=x", err: "tokenfile"},
		{url: "vault://v?token_file=", err: "empty"},
		{url: "vault://v?token_file=/t&path=x", err: "no meaning"},
		{url: "vault://v?token_file=/t&requests=3", err: "transit"},
		{url: "vault://v?token_file=/t&transit=t&requests=0", err: "requests"},
		{url: "vault://v?token_file=/t&transit=t&sign_timeout=5", err: "sign_timeout"},
		{url: "vault://v?token_file=/t&layout=kumomta&selector=A", err: "upper-case"},
		{url: "vault://v/a/../b?token_file=/t", err: "path"},
		{url: "vault://v/a//b?token_file=/t", err: "path"},
		{url: "vault://v/a?token_file=/t&mount=b", err: "mount"},
		{url: "vault+http://v?token_file=/t&ca=/x", err: "no meaning"},
		{url: "vault://v?token_file=/t&ca=/does/not/exist", err: "ca"},
		{url: "vault://v?token_file=/t&key=/does/not/exist", err: "missing"},
	} {
		got, err := parseURL(test.url, nil)
		switch {
		case test.err == "" && err != nil, test.err != "" && (err == nil || !strings.Contains(err.Error(), test.err)):
			t.Errorf("%s: error %v, want %q", test.url, err, test.err)
		case test.err == "" && (strings.Join(got.bases, ",") != test.bases || got.mount != test.mount || got.path != test.path || got.kv != test.kv):
			t.Errorf("%s: %+v", test.url, got)
		}
		if err != nil && strings.Contains(err.Error(), "s.token") {
			t.Errorf("%s: the error shows the token: %v", test.url, err)
		}
	}
}

func FuzzURL(f *testing.F) {
	f.Add("vault+http://[::1]:80,b/kv/a/b?token_file=/t")
	f.Add("vault://v/a/b/c/?mount=a/b&auth=approle&role_id=r")
	f.Add("vault+http://admin:8080?layout=mailu")
	f.Fuzz(func(t *testing.T, text string) {
		if strings.Contains(text, "ca=") || strings.Contains(text, "cert=") || strings.Contains(text, "key=") {
			return // names files
		}
		got, err := parseURL(text, nil)
		if err == nil && (len(got.bases) == 0 || got.mount == "" || got.kv < 1) {
			t.Errorf("%q: %+v", text, got)
		}
	})
}

// The token is shown to nobody else than the scheme that was asked for.
func TestRedirects(t *testing.T) {
	f := vaulttest.New(t)
	standby := httptest.NewServer(http.RedirectHandler(f.URL+"/v1/secret/data/waxseal/example.com", http.StatusTemporaryRedirect))
	defer standby.Close()
	storetest.Create(t, open(t, f.StoreURL(t, "secret/waxseal"), Options{}), "example.com", "a")
	url := strings.Replace(f.StoreURL(t, "secret/waxseal"), f.Host(), strings.TrimPrefix(standby.URL, "http://"), 1)
	if _, err := open(t, url, Options{}).Domain(t.Context(), "example.com"); err != nil {
		t.Errorf("a standby's redirection: %v", err)
	}
}
