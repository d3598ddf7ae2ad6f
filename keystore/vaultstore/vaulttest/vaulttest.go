// Package vaulttest is a server for tests that answers as the HTTP API of Vault
// does: key/value engines of version 1 (mounted at kv1) and 2 (at secret), a
// transit engine (at transit), and logins by token, AppRole (at approle) and
// Kubernetes (at k8s).
package vaulttest

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
	"net"
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

// Server is such a server. It has the token "root", and lets the role "mail" log
// in with the secret ID "secret" or the JWT "a.b.c".
type Server struct {
	*httptest.Server

	Mu        sync.Mutex           // guards what follows
	Tokens    map[string]time.Time // until when they are good
	TTL       time.Duration        // of new tokens
	Namespace string               // that requests must name
	KV1       map[string]json.RawMessage
	KV2       map[string]*Secret
	Keys      map[string]*Key          // of the transit engine
	Refuse    func(*http.Request) bool // what policies do not allow, called with Mu held; nil: nothing
	Logins    int
	Most      int // signatures that were under way at a time
	SlowSign  time.Duration
	Sealed    bool

	signing int
}

// Secret is a secret of version 2.
type Secret struct {
	Versions []Version
	Custom   map[string]string // its custom metadata
}

// Version is one version of a Secret.
type Version struct {
	Data               json.RawMessage // nil: destroyed
	Deleted, Destroyed bool
}

// Key is a key of the transit engine.
type Key struct {
	Kind       string
	Signer     crypto.Signer
	Exportable bool
	deletable  bool
}

// New starts a Server, which ends with the test.
func New(t testing.TB) *Server {
	f := newServer()
	f.Server = httptest.NewServer(f)
	t.Cleanup(func() { f.Close() })
	return f
}

// Restart ends the server and starts it again at the same address, with what it
// has. between is called while it is down.
func (f *Server) Restart(t testing.TB, between func()) {
	t.Helper()
	address := f.Host()
	f.Close()
	between()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	f.Server = &httptest.Server{Listener: l, Config: &http.Server{Handler: f}}
	f.Start()
}

// NewTLS is New with TLS, and so with HTTP/2, like Vault.
func NewTLS(t testing.TB) *Server {
	f := newServer()
	f.Server = httptest.NewUnstartedServer(f)
	f.EnableHTTP2 = true
	f.StartTLS()
	t.Cleanup(f.Close)
	return f
}

func newServer() *Server {
	return &Server{
		Tokens: map[string]time.Time{"root": time.Now().Add(time.Hour)}, TTL: time.Hour,
		KV1: make(map[string]json.RawMessage), KV2: make(map[string]*Secret), Keys: make(map[string]*Key),
	}
}

// NewSecret is a Secret with one version.
func NewSecret(data []byte) *Secret { return &Secret{Versions: []Version{{Data: data}}} }

// Host is the server's address and port.
func (f *Server) Host() string { return f.Listener.Addr().String() }

// StoreURL is the URL of a store on the server, with a token that is good.
func (f *Server) StoreURL(t testing.TB, path string, options ...string) string {
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte("root\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return "vault+http://" + f.Host() + "/" + path + "?" + strings.Join(append(options, "token_file="+file), "&")
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

// ServeHTTP implements http.Handler.
func (f *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
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
	f.Mu.Lock()
	defer f.Mu.Unlock()
	head, rest, _ := strings.Cut(path, "/")
	if f.Sealed {
		refuse(w, 503, "Vault is sealed")
		return
	}
	if r.Header.Get("X-Vault-Namespace") != f.Namespace {
		refuse(w, 404, "no handler for route")
		return
	}
	if head == "auth" && strings.HasSuffix(rest, "/login") {
		f.login(w, rest, body)
		return
	}
	token := r.Header.Get("X-Vault-Token")
	if until, ok := f.Tokens[token]; !ok || time.Now().After(until) {
		refuse(w, 403, "permission denied")
		return
	}
	if f.Refuse != nil && f.Refuse(r) {
		refuse(w, 403, "1 error occurred:\n\t* permission denied\n\n")
		return
	}
	switch head {
	case "auth":
		switch rest {
		case "token/lookup-self":
			reply(w, 200, object{"data": object{"ttl": int(time.Until(f.Tokens[token]).Seconds()), "renewable": true}})
		case "token/renew-self":
			f.Tokens[token] = time.Now().Add(f.TTL)
			reply(w, 200, object{"auth": object{"client_token": token, "lease_duration": int(f.TTL.Seconds()), "renewable": true}})
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

func (f *Server) login(w http.ResponseWriter, path string, body json.RawMessage) {
	var in struct{ RoleID, SecretID, Role, JWT string }
	var loose map[string]string
	json.Unmarshal(body, &loose)
	in.RoleID, in.SecretID, in.Role, in.JWT = loose["role_id"], loose["secret_id"], loose["role"], loose["jwt"]
	good := path == "approle/login" && in.RoleID == "mail" && in.SecretID == "secret" || path == "k8s/login" && in.Role == "mail" && in.JWT == "a.b.c"
	if !good {
		refuse(w, 400, "invalid role or secret ID")
		return
	}
	f.Logins++
	token := rand.Text()
	f.Tokens[token] = time.Now().Add(f.TTL)
	reply(w, 200, object{"auth": object{"client_token": token, "lease_duration": int(f.TTL.Seconds()), "renewable": true}})
}

func (f *Server) serveV1(w http.ResponseWriter, r *http.Request, name string) {
	if r.URL.Query().Get("list") == "true" {
		if names := below(f.KV1, name); len(names) > 0 {
			reply(w, 200, object{"data": object{"keys": names}})
			return
		}
		refuse(w, 404)
		return
	}
	if data, ok := f.KV1[name]; ok {
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

func (f *Server) serveV2(w http.ResponseWriter, r *http.Request, path string, body json.RawMessage) {
	kind, name, _ := strings.Cut(path, "/")
	s := f.KV2[name]
	switch {
	case kind == "metadata" && r.URL.Query().Get("list") == "true":
		if names := below(f.KV2, name); len(names) > 0 {
			reply(w, 200, object{"data": object{"keys": names}})
			return
		}
		refuse(w, 404)
	case kind == "metadata" && r.Method == "POST":
		var in struct {
			Custom map[string]string `json:"custom_metadata"`
		}
		if err := json.Unmarshal(body, &in); err != nil {
			refuse(w, 400, err.Error())
			return
		}
		for key, value := range in.Custom {
			if len(value) < 1 || len(value) > 512 || len(key) > 128 {
				refuse(w, 400, fmt.Sprintf("1 error occurred:\n\t* custom_metadata validation failed: length of value for key %q is %d but must be 0 < len(value) <= 512\n\n", key, len(value)))
				return
			}
		}
		if s == nil { // which has no versions then
			s = &Secret{}
			f.KV2[name] = s
		}
		s.Custom = in.Custom
		reply(w, 204, nil)
	case kind == "metadata" && r.Method == "DELETE":
		delete(f.KV2, name)
		reply(w, 204, nil)
	case kind == "metadata" && s != nil:
		versions := object{}
		for i, v := range s.Versions {
			versions[strconv.Itoa(i+1)] = object{"destroyed": v.Destroyed}
		}
		reply(w, 200, object{"data": object{"current_version": len(s.Versions), "versions": versions, "custom_metadata": s.Custom}})
	case kind == "destroy" && s != nil:
		var in struct{ Versions []int }
		json.Unmarshal(body, &in)
		for _, v := range in.Versions {
			s.Versions[v-1] = Version{Destroyed: true}
		}
		reply(w, 204, nil)
	case kind == "data" && r.Method == "DELETE" && s != nil && len(s.Versions) > 0:
		s.Versions[len(s.Versions)-1].Deleted = true
		reply(w, 204, nil)
	case kind == "data" && r.Method == "POST":
		var in struct {
			Data    json.RawMessage
			Options struct{ CAS *int }
		}
		json.Unmarshal(body, &in)
		if s == nil {
			s = &Secret{}
		}
		if in.Options.CAS != nil && *in.Options.CAS != len(s.Versions) {
			refuse(w, 400, "check-and-set parameter did not match the current version")
			return
		}
		s.Versions = append(s.Versions, Version{Data: in.Data})
		f.KV2[name] = s
		reply(w, 200, object{"data": object{"version": len(s.Versions)}})
	case kind == "data" && s != nil && len(s.Versions) > 0:
		number := len(s.Versions)
		if asked, err := strconv.Atoi(r.URL.Query().Get("version")); err == nil && asked > 0 && asked < number {
			number = asked
		}
		v := s.Versions[number-1]
		if v.Deleted || v.Destroyed {
			v.Data = nil
		}
		answer := object{"data": object{"data": v.Data, "metadata": object{"version": number, "destroyed": v.Destroyed}}}
		if v.Data == nil {
			reply(w, 404, answer)
			return
		}
		reply(w, 200, answer)
	default:
		refuse(w, 404)
	}
}

func (f *Server) serveTransit(w http.ResponseWriter, r *http.Request, path string, body json.RawMessage) {
	kind, name, _ := strings.Cut(path, "/")
	name, more, _ := strings.Cut(name, "/")
	k := f.Keys[name]
	switch {
	case kind == "keys" && more == "config" && k == nil:
		refuse(w, 400, "no existing key named "+name+" could be found")
	case kind == "keys" && more == "config":
		k.deletable = true
		reply(w, 200, k.answer())
	case kind == "keys" && r.Method == "DELETE" && k == nil:
		refuse(w, 400, "error deleting policy "+name+": could not delete key; not found")
	case kind == "keys" && r.Method == "DELETE" && !k.deletable:
		refuse(w, 400, "error deleting policy "+name+": deletion is not allowed for this key")
	case kind == "keys" && r.Method == "DELETE":
		delete(f.Keys, name)
		reply(w, 204, nil)
	case kind == "keys" && r.Method == "POST":
		if k == nil { // else it is answered as it is, whatever its type
			var in struct {
				Type       string
				Exportable bool
			}
			json.Unmarshal(body, &in)
			if k = newKey(in.Type); k == nil {
				refuse(w, 400, "unknown key type "+in.Type)
				return
			}
			k.Exportable = in.Exportable
			f.Keys[name] = k
		}
		reply(w, 200, k.answer())
	case kind == "keys" && k != nil:
		reply(w, 200, k.answer())
	case kind == "sign" && k != nil:
		f.sign(w, k, more, body)
	case kind == "sign":
		refuse(w, 400, "signing key not found")
	default:
		refuse(w, 404)
	}
}

// newKey makes a key; nil if there is no such kind.
func newKey(kind string) *Key {
	k := &Key{Kind: kind}
	var bits int
	switch kind {
	case "ed25519":
		_, k.Signer, _ = ed25519.GenerateKey(rand.Reader)
		return k
	case "rsa-2048":
		bits = 2048
	case "rsa-3072":
		bits = 3072
	case "rsa-4096":
		bits = 4096
	default:
		return nil
	}
	k.Signer, _ = rsa.GenerateKey(rand.Reader, bits)
	return k
}

// answer is what is shown of a key.
func (k *Key) answer() object {
	var public string
	if p, ok := k.Signer.Public().(ed25519.PublicKey); ok {
		public = base64.StdEncoding.EncodeToString(p)
	} else {
		der, _ := x509.MarshalPKIXPublicKey(k.Signer.Public())
		public = string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
	}
	return object{"data": object{"type": k.Kind, "exportable": k.Exportable, "latest_version": 1, "keys": object{"1": object{"name": k.Kind, "public_key": public}}}}
}

func (f *Server) sign(w http.ResponseWriter, k *Key, hash string, body json.RawMessage) {
	f.signing++
	f.Most = max(f.Most, f.signing)
	slow := f.SlowSign
	f.Mu.Unlock()
	time.Sleep(slow)
	f.Mu.Lock()
	f.signing--
	var in struct {
		Input              string
		Prehashed          bool
		SignatureAlgorithm string `json:"signature_algorithm"`
	}
	json.Unmarshal(body, &in)
	input, err := base64.StdEncoding.DecodeString(in.Input)
	opts := crypto.Hash(0)
	if k.Kind != "ed25519" {
		opts = crypto.SHA256
		if !in.Prehashed || in.SignatureAlgorithm != "pkcs1v15" || hash != "sha2-256" {
			refuse(w, 400, "not what DKIM needs")
			return
		}
	}
	signature, serr := k.Signer.Sign(rand.Reader, input, opts)
	if err != nil || serr != nil {
		refuse(w, 400, fmt.Sprint(err, serr))
		return
	}
	reply(w, 200, object{"data": object{"signature": "vault:v1:" + base64.StdEncoding.EncodeToString(signature)}})
}
