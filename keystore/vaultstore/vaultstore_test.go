package vaultstore

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"waxseal/keystore"
	"waxseal/keystore/storetest"
)

func open(t testing.TB, url string, opts Options) *Store {
	t.Helper()
	s, err := Open(t.Context(), url, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func TestConforms(t *testing.T) {
	storetest.Run(t, func(t *testing.T) keystore.Store {
		return open(t, newFake(t).url(t, "secret/waxseal"), Options{})
	})
}

func TestWrappedKeysConform(t *testing.T) {
	storetest.Run(t, func(t *testing.T) keystore.Store {
		return open(t, newFake(t).url(t, "secret"), Options{
			Wrap: func(domain, selector string, pem []byte) ([]byte, error) {
				return append([]byte(selector+"/"+domain+":"), pem...), nil
			},
			Unwrap: func(domain, selector string, stored []byte) ([]byte, error) {
				pem, ok := bytes.CutPrefix(stored, []byte(selector+"/"+domain+":"))
				if !ok {
					return nil, errors.New("not for this key")
				}
				return pem, nil
			},
		})
	})
}

// A real Vault or OpenBao, for example "vault server -dev": VAULT_ADDR and
// VAULT_TOKEN as for its own tools. A mount of our own is made in it.
func TestRealVaultConforms(t *testing.T) {
	address, token := os.Getenv("VAULT_ADDR"), os.Getenv("VAULT_TOKEN")
	if address == "" || token == "" {
		t.Skip("VAULT_ADDR and VAULT_TOKEN are not set")
	}
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte(token), 0o600); err != nil {
		t.Fatal(err)
	}
	scheme, host, _ := strings.Cut(address, "://")
	base := map[string]string{"http": "vault+http://", "https": "vault://"}[scheme] + strings.TrimSuffix(host, "/")
	mount := fmt.Sprintf("waxseal-test-%d", time.Now().UnixNano())
	admin := open(t, base+"/"+mount+"?token_file="+file, Options{})
	for name, kind := range map[string]any{mount: object{"type": "kv", "options": object{"version": "2"}}, mount + "-transit": object{"type": "transit"}} {
		if err := admin.client.do(t.Context(), "POST", "sys/mounts/"+name, kind, nil); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			admin.client.do(context.Background(), "DELETE", "sys/mounts/"+name, nil, nil)
		})
	}
	n := 0
	storetest.Run(t, func(t *testing.T) keystore.Store {
		n++
		return open(t, fmt.Sprintf("%s/%s/t%d?token_file=%s", base, mount, n, file), Options{})
	})
	inTransitSigns(t, open(t, base+"/"+mount+"/x?transit="+mount+"-transit&token_file="+file, Options{}))
}

func TestConnectionCutInEveryOperation(t *testing.T) {
	f := newFake(t)
	p := storetest.NewProxy(t, "tcp", f.host())
	url := strings.Replace(f.url(t, "secret/waxseal"), f.host(), p.Address, 1)
	storetest.RunCuts(t, open(t, url, Options{}), p)
}

func TestSilentServerHoldsNobody(t *testing.T) {
	f := newFake(t)
	p := storetest.NewProxy(t, "tcp", f.host())
	url := strings.Replace(f.url(t, "secret/waxseal"), f.host(), p.Address, 1)
	storetest.RunSlow(t, open(t, url, Options{}), p)
}

func TestNothingIsLeftOfARemovedKey(t *testing.T) {
	f := newFake(t)
	s := open(t, f.url(t, "secret/waxseal"), Options{})
	d := storetest.Create(t, s, "example.com", "a", "b")
	stored := string(f.v2["waxseal/example.com"].versions[0])
	half := stored[strings.Index(stored, "BEGIN PRIVATE KEY"):][:60]
	d.Keys[0].Note = "more versions"
	if err := s.Update(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	d.Keys[0].State = keystore.Removed
	if err := s.Update(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	for i, v := range f.v2["waxseal/example.com"].versions {
		if i < 2 && v != nil || strings.Contains(string(v), half) {
			t.Errorf("version %d is there still: %.100s", i+1, v)
		}
	}
}

func TestDeletedSecretMayBeMadeAnew(t *testing.T) {
	f := newFake(t)
	s := open(t, f.url(t, "secret/waxseal"), Options{})
	storetest.Create(t, s, "example.com", "a")
	if err := s.client.do(t.Context(), "DELETE", "secret/data/waxseal/example.com", nil, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Domain(t.Context(), "example.com"); !errors.Is(err, keystore.ErrNotFound) {
		t.Fatalf("deleted: %v", err)
	}
	storetest.Create(t, s, "example.com", "b")
	if d, err := s.Domain(t.Context(), "example.com"); err != nil || d.Keys[0].Selector != "b" || d.Version != 2 {
		t.Errorf("%+v, %v", d, err)
	}
}

func TestDamageIsNamed(t *testing.T) {
	for _, test := range []struct{ name, secret, whole, row, load string }{
		{"no document", `{"keys":{}}`, "broken", "", ""},
		{"another product's secret", `{"selectors":[]}`, "broken", "", ""},
		{"a document that is none", `{"domain":7}`, "broken", "", ""},
		{"a row that is none", `{"domain":{"keys":[{"selector":"a","state":"active"}]}}`, "", "key 1 of example.com", ""},
		{"a private half that is none", `{"domain":DOMAIN,"keys":{"a":"x"}}`, "", "", "not PEM"},
		{"a private half that is no text", `{"domain":DOMAIN,"keys":{"a":7}}`, "", "", "missing"},
		{"a private half in an engine that is not named", `{"domain":DOMAIN,"keys":{"a":"transit:a"}}`, "", "", "transit"},
	} {
		f := newFake(t)
		s := open(t, f.url(t, "secret/waxseal"), Options{})
		storetest.Create(t, s, "example.com", "a")
		secret := f.v2["waxseal/example.com"]
		var was struct{ Domain json.RawMessage }
		json.Unmarshal(secret.versions[0], &was)
		secret.versions[0] = json.RawMessage(strings.Replace(test.secret, "DOMAIN", string(was.Domain), 1))
		d, err := s.Domain(t.Context(), "example.com")
		switch {
		case test.whole != "":
			if !errors.Is(err, keystore.ErrBroken) || !strings.Contains(err.Error(), test.whole) {
				t.Errorf("%s: error %v", test.name, err)
			}
		case err != nil:
			t.Errorf("%s: %v", test.name, err)
		case test.row != "":
			if len(d.Unreadable) != 1 || !strings.Contains(d.Unreadable[0].Err.Error(), test.row) {
				t.Errorf("%s: unreadable %v", test.name, d.Unreadable)
			}
		default:
			if _, err := d.Keys[0].Load(t.Context()); err == nil || !strings.Contains(err.Error(), test.load) {
				t.Errorf("%s: error %v, want %q", test.name, err, test.load)
			}
		}
	}
}

func TestSealedHostIsPassedOver(t *testing.T) {
	a, b := newFake(t), newFake(t)
	a.sealed = true
	url := strings.Replace(b.url(t, "secret/waxseal"), b.host(), "127.0.0.1:1,"+a.host()+","+b.host(), 1)
	storetest.Create(t, open(t, url, Options{}), "example.com", "a")
	b.sealed = true
	s := open(t, b.url(t, "secret/waxseal"), Options{})
	if _, err := s.Domain(t.Context(), "example.com"); err == nil || !strings.Contains(err.Error(), "sealed") || errors.Is(err, keystore.ErrNotFound) {
		t.Errorf("sealed: %v", err)
	}
}

func inTransitSigns(t *testing.T, s *Store) {
	t.Helper()
	d := &keystore.Domain{Name: "example.com"}
	for selector, algorithm := range map[string]keystore.Algorithm{"r": keystore.RSA2048, "e": keystore.Ed25519} {
		signer, err := s.Generate(t.Context(), d.Name, selector, algorithm)
		if err != nil {
			t.Fatal(err)
		}
		d.Keys = append(d.Keys, storetest.ActiveOf(t, selector, signer))
	}
	if err := s.Update(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	cache := keystore.NewCache(s, keystore.CacheOptions{})
	defer cache.Close()
	signing, err := cache.Signing(t.Context(), d.Name)
	if err != nil || len(signing.Keys) != 2 || len(signing.Broken) != 0 {
		t.Fatalf("%+v, %v", signing, err)
	}
	for _, k := range signing.Keys {
		if err := keystore.SelfTest(k.Signer, nil); err != nil {
			t.Errorf("%s: %v", k.Algorithm, err)
		}
	}
	if d, err = s.Domain(t.Context(), d.Name); err != nil {
		t.Fatal(err)
	}
	key, err := d.Keys[0].Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := keystore.MarshalPrivateKey(key); err == nil {
		t.Error("a key in the transit engine can be written out")
	}
	d.Keys[0].State = keystore.Removed
	if err := s.Update(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	if err := keystore.SelfTest(key, nil); err == nil {
		t.Error("a removed key signs")
	}
	if _, err := s.Generate(t.Context(), d.Name, "x", keystore.RSA1024); err == nil {
		t.Error("transit made a key of 1024 bits")
	}
}

func TestKeysStayInTransit(t *testing.T) {
	f := newFake(t)
	inTransitSigns(t, open(t, f.url(t, "secret/waxseal", "transit=transit"), Options{}))
	for name, s := range f.v2 {
		for _, v := range s.versions {
			if strings.Contains(string(v), "PRIVATE KEY") {
				t.Errorf("%s has a private half", name)
			}
		}
	}
	if len(f.keys) != 1 {
		t.Errorf("%d keys in the engine, want the one that was not removed", len(f.keys))
	}
}

func TestSignaturesInTransitAreBounded(t *testing.T) {
	f := newFake(t)
	f.slowSign = 20 * time.Millisecond
	s := open(t, f.url(t, "secret/waxseal", "transit=transit", "requests=3", "sign_timeout=10s"), Options{})
	key, err := s.Generate(t.Context(), "example.com", "e", keystore.Ed25519)
	if err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	for range 12 {
		group.Go(func() {
			if err := keystore.SelfTest(key, nil); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	if f.most != 3 {
		t.Errorf("%d signatures under way at a time, want 3", f.most)
	}
	f.mu.Lock()
	f.slowSign = time.Second
	f.mu.Unlock()
	s = open(t, f.url(t, "secret/waxseal", "transit=transit", "requests=1", "sign_timeout=60ms"), Options{})
	if key, err = s.Generate(t.Context(), "example.com", "e", keystore.Ed25519); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	for range 2 {
		group.Go(func() {
			if err := keystore.SelfTest(key, nil); err == nil {
				t.Error("a signature that takes too long was waited for")
			}
		})
	}
	group.Wait()
	if d := time.Since(began); d > 900*time.Millisecond {
		t.Errorf("it took %v to give up", d)
	}
}

func TestLogins(t *testing.T) {
	f := newFake(t)
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	base := "vault+http://" + f.host() + "/secret/waxseal?"
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
		f.mu.Lock()
		clear(f.tokens)
		f.mu.Unlock()
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
	f.tokens["old"] = time.Now().Add(time.Hour)
	s := open(t, base+"token_file="+file, Options{})
	if _, err := s.Domain(t.Context(), "d0.example"); err != nil {
		t.Fatal(err)
	}
	f.mu.Lock()
	delete(f.tokens, "old")
	f.tokens["new"] = time.Now().Add(time.Hour)
	f.mu.Unlock()
	write("rotated", "new")
	if _, err := s.Domain(t.Context(), "d0.example"); err != nil {
		t.Errorf("after the file got another token: %v", err)
	}
}

func TestTokenIsRenewed(t *testing.T) {
	f := newFake(t)
	f.ttl = time.Second
	file := filepath.Join(t.TempDir(), "secret")
	os.WriteFile(file, []byte("secret"), 0o600)
	s := open(t, "vault+http://"+f.host()+"/secret/waxseal?auth=approle&role_id=mail&secret_id_file="+file, Options{})
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

// As "rspamadm vault newkey" and "roll" write: RSA as bare base64 of PKCS#1,
// Ed25519 as that of both halves, with times, of which those made by hand may lack
// some or have them as text.
func TestRspamdSecrets(t *testing.T) {
	text, bare := storetest.PrivateKey(t)
	pair, err := keystore.Generate(keystore.Ed25519)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := keystore.ParsePrivateKey([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	pkcs1 := base64.StdEncoding.EncodeToString(x509.MarshalPKCS1PrivateKey(signer.(*rsa.PrivateKey)))
	eddsa := base64.StdEncoding.EncodeToString(pair.(ed25519.PrivateKey))
	now := time.Now().Unix()
	element := func(selector, key string, more object) object {
		o := object{"selector": selector, "domain": "example.com", "key": key, "alg": "rsa", "bits": 1024, "pubkey": "x"}
		maps.Copy(o, more)
		return o
	}
	secret, _ := json.Marshal(object{"selectors": []object{
		element("a", text, nil), element("b", bare, object{"valid_start": now - 100, "valid_end": now + 100}),
		element("past", text, object{"valid_end": now - 1}), element("future", text, object{"valid_start": now + 100}), element("never", text, object{"valid_end": 0}),
		element("rsa-20261122", pkcs1, object{"valid_start": now}), element("ed25519-20261122", eddsa, object{"alg": "ed25519", "valid_start": now}),
		element("hand", text, object{"valid_start": fmt.Sprint(now - 1), "valid_end": fmt.Sprint(now + 100)}),
	}})
	broken, _ := json.Marshal(object{"selectors": []object{element("good", text, nil), element("odd", text, object{"valid_end": "tomorrow"}), {"selector": 17}}})
	f := newFake(t)
	f.v1["dkim/example.com"], f.v1["dkim/broken.example"] = secret, []byte(strings.ReplaceAll(string(broken), "example.com", "broken.example"))
	f.v1["dkim/gone.example"] = []byte(`{"selectors":[]}`) // as "rspamadm vault roll --remove-expired" may leave it
	f.v2["dkim/example.com"] = &kvSecret{[]json.RawMessage{secret}, []bool{false}, []bool{false}}
	for _, url := range []string{f.url(t, "kv1/dkim", "layout=rspamd"), f.url(t, "secret/dkim", "layout=rspamd", "kv=2")} {
		s := open(t, url, Options{})
		storetest.Signs(t, s, "example.com", "a", "b", "ed25519-20261122", "hand", "rsa-20261122")
		storetest.Signs(t, s, "example.net")
	}
	s := open(t, f.url(t, "kv1/dkim", "layout=rspamd"), Options{})
	storetest.Signs(t, s, "gone.example")
	storetest.Lists(t, s, "broken.example", "example.com", "gone.example")
	if d, err := s.Domain(t.Context(), "broken.example"); err != nil || len(d.Keys) != 1 || d.Keys[0].Selector != "good" || len(d.Unreadable) != 2 {
		t.Errorf("%+v, %v; want the good key, and two rows that cannot be read", d, err)
	}
}

func TestKumoMTASecrets(t *testing.T) {
	text, bare := storetest.PrivateKey(t)
	f := newFake(t)
	for path, key := range map[string]string{"dkim/example.com/s1": text, "dkim/example.com/s2": bare, "dkim/example.net/s1": text} {
		secret, _ := json.Marshal(object{"key": key})
		f.v2[path] = &kvSecret{[]json.RawMessage{secret}, []bool{false}, []bool{false}}
	}
	s := open(t, f.url(t, "secret/dkim", "layout=kumomta"), Options{})
	storetest.Signs(t, s, "example.com", "s1", "s2")
	storetest.Signs(t, s, "example.net", "s1")
	storetest.Signs(t, s, "example.org")
	storetest.Lists(t, s, "example.com", "example.net")
	s = open(t, f.url(t, "secret/dkim", "layout=kumomta", "selector=s2,s3"), Options{})
	storetest.Signs(t, s, "example.com", "s2")
	storetest.Signs(t, s, "example.net")
}
