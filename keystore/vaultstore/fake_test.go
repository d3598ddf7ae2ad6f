package vaultstore

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// fakeVault answers as Vault's HTTP API documents it, and as Vault 1.15 does.
type fakeVault struct {
	server *httptest.Server

	mu       sync.Mutex
	tokens   map[string]time.Time // until when they are good
	ttl      time.Duration        // of new tokens
	v1       map[string]json.RawMessage
	v2       map[string]*kvSecret
	keys     map[string]*transitEntry
	count    map[string]int // requests by the first parts of their path
	signing  int            // signatures under way, and the most there were
	most     int
	slowSign time.Duration
	sealed   bool
}

type kvSecret struct {
	versions  []json.RawMessage // nil: destroyed
	destroyed []bool
	deleted   []bool
}

type transitEntry struct {
	kind     string
	key      crypto.Signer
	mayBeRid bool
}

func newFake(t testing.TB) *fakeVault {
	f := &fakeVault{
		tokens: map[string]time.Time{"root": time.Now().Add(time.Hour)}, ttl: time.Hour,
		v1: make(map[string]json.RawMessage), v2: make(map[string]*kvSecret), keys: make(map[string]*transitEntry), count: make(map[string]int),
	}
	f.server = httptest.NewServer(f)
	t.Cleanup(f.server.Close)
	return f
}

func (f *fakeVault) host() string { return strings.TrimPrefix(f.server.URL, "http://") }

// url is the store's, with a token that is good.
func (f *fakeVault) url(t testing.TB, path string, options ...string) string {
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte("root\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return "vault+http://" + f.host() + "/" + path + "?" + strings.Join(append(options, "token_file="+file), "&")
}

func reply(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	if body != nil {
		json.NewEncoder(w).Encode(body)
	}
}

func refuse(w http.ResponseWriter, status int, errs ...string) {
	if errs == nil {
		errs = []string{}
	}
	reply(w, status, map[string]any{"errors": errs})
}

type object = map[string]any

func (f *fakeVault) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path, ok := strings.CutPrefix(r.URL.Path, "/v1/")
	if !ok {
		refuse(w, 404)
		return
	}
	var body json.RawMessage
	if err := json.NewDecoder(r.Body).Decode(&body); err != nil && err != io.EOF {
		refuse(w, 400, "error parsing JSON")
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	head, rest, _ := strings.Cut(path, "/")
	f.count[head]++
	if f.sealed {
		refuse(w, 503, "Vault is sealed")
		return
	}
	if head == "auth" && strings.HasSuffix(rest, "/login") {
		f.login(w, rest, body)
		return
	}
	token := r.Header.Get("X-Vault-Token")
	if until, ok := f.tokens[token]; !ok || time.Now().After(until) {
		refuse(w, 403, "permission denied")
		return
	}
	switch head {
	case "auth":
		switch rest {
		case "token/lookup-self":
			reply(w, 200, object{"data": object{"ttl": int(time.Until(f.tokens[token]).Seconds()), "renewable": true}})
		case "token/renew-self":
			f.tokens[token] = time.Now().Add(f.ttl)
			reply(w, 200, object{"auth": object{"client_token": token, "lease_duration": int(f.ttl.Seconds()), "renewable": true}})
		}
	case "kv1":
		f.serveV1(w, r, rest)
	case "secret":
		f.serveV2(w, r, rest, body)
	case "transit":
		f.serveTransit(w, r, rest, body)
	default:
		refuse(w, 404, "no handler for route")
	}
}

func (f *fakeVault) login(w http.ResponseWriter, path string, body json.RawMessage) {
	var in struct{ RoleID, SecretID, Role, JWT string }
	var loose map[string]string
	json.Unmarshal(body, &loose)
	in.RoleID, in.SecretID, in.Role, in.JWT = loose["role_id"], loose["secret_id"], loose["role"], loose["jwt"]
	good := path == "approle/login" && in.RoleID == "mail" && in.SecretID == "secret" || path == "k8s/login" && in.Role == "mail" && in.JWT == "a.b.c"
	if !good {
		refuse(w, 400, "invalid role or secret ID")
		return
	}
	token := rand.Text()
	f.tokens[token] = time.Now().Add(f.ttl)
	reply(w, 200, object{"auth": object{"client_token": token, "lease_duration": int(f.ttl.Seconds()), "renewable": true}})
}

func (f *fakeVault) serveV1(w http.ResponseWriter, r *http.Request, name string) {
	if r.URL.Query().Get("list") == "true" {
		reply(w, 200, object{"data": object{"keys": below(f.v1, name)}})
		return
	}
	if data, ok := f.v1[name]; ok {
		reply(w, 200, object{"data": data})
		return
	}
	refuse(w, 404)
}

// below lists what is directly below a path, as LIST does.
func below[V any](all map[string]V, path string) []string {
	var names []string
	if path != "" {
		path += "/"
	}
	for name := range all {
		if rest, ok := strings.CutPrefix(name, path); ok {
			if first, _, deeper := strings.Cut(rest, "/"); deeper {
				rest = first + "/"
			}
			if !slices.Contains(names, rest) {
				names = append(names, rest)
			}
		}
	}
	return names
}

func (f *fakeVault) serveV2(w http.ResponseWriter, r *http.Request, path string, body json.RawMessage) {
	kind, name, _ := strings.Cut(path, "/")
	s := f.v2[name]
	switch {
	case kind == "metadata" && r.URL.Query().Get("list") == "true":
		if names := below(f.v2, name); len(names) > 0 {
			reply(w, 200, object{"data": object{"keys": names}})
			return
		}
		refuse(w, 404)
	case kind == "metadata" && s != nil:
		versions := object{}
		for i := range s.versions {
			versions[strconv.Itoa(i+1)] = object{"destroyed": s.destroyed[i]}
		}
		reply(w, 200, object{"data": object{"current_version": len(s.versions), "versions": versions}})
	case kind == "destroy" && s != nil:
		var in struct{ Versions []int }
		json.Unmarshal(body, &in)
		for _, v := range in.Versions {
			s.versions[v-1], s.destroyed[v-1] = nil, true
		}
		reply(w, 204, nil)
	case kind == "data" && r.Method == "DELETE" && s != nil:
		s.deleted[len(s.versions)-1] = true
		reply(w, 204, nil)
	case kind == "data" && r.Method == "POST":
		var in struct {
			Data    json.RawMessage
			Options struct{ CAS *int }
		}
		json.Unmarshal(body, &in)
		if s == nil {
			s = &kvSecret{}
		}
		if in.Options.CAS != nil && *in.Options.CAS != len(s.versions) {
			refuse(w, 400, "check-and-set parameter did not match the current version")
			return
		}
		s.versions, s.destroyed, s.deleted = append(s.versions, in.Data), append(s.destroyed, false), append(s.deleted, false)
		f.v2[name] = s
		reply(w, 200, object{"data": object{"version": len(s.versions)}})
	case kind == "data" && s != nil:
		last := len(s.versions) - 1
		answer := object{"data": object{"data": s.versions[last], "metadata": object{"version": last + 1, "destroyed": s.destroyed[last]}}}
		if s.deleted[last] || s.destroyed[last] {
			answer["data"].(object)["data"] = nil
			reply(w, 404, answer)
			return
		}
		reply(w, 200, answer)
	default:
		refuse(w, 404)
	}
}

func (f *fakeVault) serveTransit(w http.ResponseWriter, r *http.Request, path string, body json.RawMessage) {
	kind, name, _ := strings.Cut(path, "/")
	name, more, _ := strings.Cut(name, "/")
	k := f.keys[name]
	switch {
	case kind == "keys" && more == "config" && k == nil:
		refuse(w, 400, "no existing key named "+name+" could be found")
	case kind == "keys" && more == "config":
		k.mayBeRid = true
		reply(w, 200, object{})
	case kind == "keys" && r.Method == "DELETE":
		if k == nil || !k.mayBeRid {
			refuse(w, 400, "deletion is not allowed for this key")
			return
		}
		delete(f.keys, name)
		reply(w, 204, nil)
	case kind == "keys" && r.Method == "POST":
		var in struct{ Type string }
		json.Unmarshal(body, &in)
		if k == nil {
			k = &transitEntry{kind: in.Type}
			if in.Type == "ed25519" {
				_, k.key, _ = ed25519.GenerateKey(rand.Reader)
			} else {
				k.key, _ = rsa.GenerateKey(rand.Reader, 2048)
			}
			f.keys[name] = k
		}
		reply(w, 200, object{})
	case kind == "keys" && k != nil:
		public := ""
		if p, ok := k.key.Public().(ed25519.PublicKey); ok {
			public = base64.StdEncoding.EncodeToString(p)
		} else {
			der, _ := x509.MarshalPKIXPublicKey(k.key.Public())
			public = string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
		}
		reply(w, 200, object{"data": object{"type": k.kind, "keys": object{"1": object{"public_key": public}}}})
	case kind == "sign" && k != nil:
		f.sign(w, k, more, body)
	default:
		refuse(w, 404)
	}
}

func (f *fakeVault) sign(w http.ResponseWriter, k *transitEntry, hash string, body json.RawMessage) {
	f.signing++
	f.most = max(f.most, f.signing)
	f.mu.Unlock()
	time.Sleep(f.slowSign)
	f.mu.Lock()
	f.signing--
	var in struct {
		Input              string
		Prehashed          bool
		SignatureAlgorithm string `json:"signature_algorithm"`
	}
	json.Unmarshal(body, &in)
	input, err := base64.StdEncoding.DecodeString(in.Input)
	opts := crypto.Hash(0)
	if k.kind != "ed25519" {
		opts = crypto.SHA256
		if !in.Prehashed || in.SignatureAlgorithm != "pkcs1v15" || hash != "sha2-256" {
			refuse(w, 400, "not what DKIM needs")
			return
		}
	}
	signature, serr := k.key.Sign(rand.Reader, input, opts)
	if err != nil || serr != nil {
		refuse(w, 400, fmt.Sprint(err, serr))
		return
	}
	reply(w, 200, object{"data": object{"signature": "vault:v1:" + base64.StdEncoding.EncodeToString(signature)}})
}
