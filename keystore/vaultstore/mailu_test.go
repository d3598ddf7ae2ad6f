package vaultstore

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"waxseal/keystore/storetest"
)

// mailu answers as Mailu's admin service does, in core/admin/mailu/internal of its
// sources: every token is good, domains are found by their A-labels and named in
// U-labels, and a domain without a key, or one that is not there, has an empty list.
// Until 2021 these were an error 404.
type mailu struct {
	keys map[string]string // A-labels → PEM
	list string
	old  bool
}

func (m *mailu) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != "GET" {
		w.WriteHeader(405)
		return
	}
	if r.URL.Path == "/internal/rspamd/local_domains" {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.Write([]byte(m.list))
		return
	}
	domain, ok := strings.CutPrefix(r.URL.Path, "/internal/rspamd/vault/v1/dkim/")
	selectors := []object{}
	if key := m.keys[domain]; key != "" {
		selectors = append(selectors, object{"domain": strings.Replace(domain, "xn--bcher-kva", "bücher", 1), "key": key, "selector": "dkim"})
	}
	switch {
	case !ok || r.Header.Get("X-Vault-Token") != "mailu":
		w.WriteHeader(404)
	case m.old && len(selectors) == 0:
		w.WriteHeader(404)
		json.NewEncoder(w).Encode(object{"errors": []string{"unknown domain"}})
	default:
		json.NewEncoder(w).Encode(object{"data": object{"selectors": selectors}})
	}
}

func TestMailu(t *testing.T) {
	text, _ := storetest.PrivateKey(t)
	for _, old := range []bool{false, true} {
		m := &mailu{
			keys: map[string]string{"example.com": text, "xn--bcher-kva.example": text}, old: old,
			list: "example.com\nbücher.example\nwithout-key.example\nalternative.example",
		}
		server := httptest.NewServer(m)
		defer server.Close()
		s := open(t, "vault+http://"+strings.TrimPrefix(server.URL, "http://")+"?layout=mailu", Options{})
		storetest.Signs(t, s, "example.com", "dkim")
		storetest.Signs(t, s, "xn--bcher-kva.example", "dkim")
		storetest.Signs(t, s, "without-key.example")
		storetest.Signs(t, s, "example.net")
		want := []string{"alternative.example", "example.com", "without-key.example", "xn--bcher-kva.example"}
		if names, err := s.List(t.Context(), "", 0); err != nil || !slices.Equal(names, want) {
			t.Errorf("List = %q, %v, want %q", names, err, want)
		}
		if names, err := s.List(t.Context(), "example.com", 1); err != nil || !slices.Equal(names, want[2:3]) {
			t.Errorf("List of one after another = %q, %v", names, err)
		}
		server.Close()
		if _, err := s.List(t.Context(), "", 0); err == nil {
			t.Error("a service that is down listed its domains")
		}
	}
}
