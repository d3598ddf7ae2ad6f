package vaultstore

import (
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"waxseal/keystore"
	"waxseal/keystore/storetest"
	"waxseal/keystore/vaultstore/vaulttest"
)

// heardOf tests the nodes and the status of an empty store.
func heardOf(t *testing.T, url string) {
	t.Helper()
	at := time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)
	opts := Options{Now: func() time.Time { return at }}
	a, b := open(t, url, opts), open(t, url, opts)
	if st, err := a.Status(t.Context()); err != nil || st.Domains != 0 || len(st.Nodes) != 0 || !st.LastChange.IsZero() {
		t.Errorf("an empty store: %+v, %v", st, err)
	}
	storetest.Create(t, a, "example.com", "k")
	storetest.Create(t, b, "status", "k") // a domain, too
	one := keystore.Node{Name: "mx1/unix:/run/a b%.sock", Program: "waxseal 1", Started: at.Add(-time.Hour), Refreshed: at, Seen: at}
	for _, each := range []struct {
		store *Store
		node  keystore.Node
	}{{a, one}, {b, keystore.Node{Name: "mx2"}}, {a, one}} {
		if err := each.store.Beat(t.Context(), each.node); err != nil {
			t.Fatal(err)
		}
	}
	st, err := b.Status(t.Context())
	if err != nil || st.Kind != "Vault" || st.Connect <= 0 || st.Latency <= 0 || st.Domains != 2 || st.LastChanged != "status" || !st.LastChange.Equal(at) {
		t.Errorf("%+v, %v", st, err)
	}
	if len(st.Nodes) != 2 || st.Nodes[0] != one || st.Nodes[1].Name != "mx2" {
		t.Errorf("nodes %+v, want %+v and mx2", st.Nodes, one)
	}
	if names, err := a.List(t.Context(), "", 0); err != nil || strings.Join(names, " ") != "example.com status" {
		t.Errorf("List = %q, %v", names, err)
	}
	at = at.Add(nodeLife + time.Minute)
	if err := b.Beat(t.Context(), keystore.Node{Name: "mx2"}); err != nil {
		t.Fatal(err)
	}
	at = one.Seen // and the other is gone, not hidden
	if st, err := a.Status(t.Context()); err != nil || len(st.Nodes) != 1 || st.Nodes[0].Name != "mx2" {
		t.Errorf("after a week: %+v, %v", st.Nodes, err)
	}
}

func TestStatusAndNodes(t *testing.T) {
	f := vaulttest.New(t)
	for _, path := range []string{"secret/waxseal", "secret"} {
		heardOf(t, f.StoreURL(t, path))
	}
	for name, secret := range f.KV2 {
		if strings.Contains(name, "status/") && len(secret.Versions) > 0 {
			t.Errorf("%s has %d versions, want none", name, len(secret.Versions))
		}
	}
}

// A token that may read and change domains, and nothing else, is enough.
func TestTokenWithoutRightsToTheStatus(t *testing.T) {
	f := vaulttest.New(t)
	f.Refuse = func(r *http.Request) bool { return strings.HasPrefix(r.URL.Path, "/v1/secret/metadata/waxseal/status") }
	file := strings.Split(f.StoreURL(t, ""), "token_file=")[1]
	s := open(t, "vault+http://"+f.Host()+"?auth=approle&role_id=mail&secret_id_file="+file, Options{})
	if err := s.Beat(t.Context(), keystore.Node{Name: "n"}); err == nil {
		t.Error("logged in with a wrong secret")
	}
	s = open(t, f.StoreURL(t, "secret/waxseal"), Options{})
	storetest.Create(t, s, "example.com", "a")
	if err := s.Beat(t.Context(), keystore.Node{Name: "n"}); err == nil || !strings.Contains(err.Error(), "policies") {
		t.Errorf("Beat: %v", err)
	}
	if st, err := s.Status(t.Context()); err != nil || st.Domains != 1 || len(st.Nodes) != 0 {
		t.Errorf("%+v, %v", st, err)
	}
}

func TestStatusOfOtherProductsKeys(t *testing.T) {
	f := vaulttest.New(t)
	f.KV1["dkim/example.com"] = []byte(`{"selectors":[]}`)
	s := open(t, f.StoreURL(t, "kv1/dkim", "layout=rspamd"), Options{})
	if st, err := s.Status(t.Context()); err != nil || st.Kind != "Vault, rspamd's keys" || st.Domains != 1 {
		t.Errorf("%+v, %v", st, err)
	}
	if err := s.Beat(t.Context(), keystore.Node{Name: "n"}); !errors.Is(err, keystore.ErrReadOnly) {
		t.Errorf("Beat: %v", err)
	}
	if _, err := s.Rewrap(t.Context(), "example.com", false); !errors.Is(err, keystore.ErrReadOnly) {
		t.Errorf("Rewrap: %v", err)
	}
	f.Sealed = true
	if _, err := s.Status(t.Context()); err == nil || !strings.Contains(err.Error(), "sealed") {
		t.Errorf("sealed: %v", err)
	}
}
