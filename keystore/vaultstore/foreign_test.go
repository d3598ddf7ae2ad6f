package vaultstore

import (
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"waxseal/keystore"
	"waxseal/keystore/storetest"
	"waxseal/keystore/vaultstore/vaulttest"
)

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
	f := vaulttest.New(t)
	f.KV1["dkim/example.com"], f.KV1["dkim/broken.example"] = secret, []byte(strings.ReplaceAll(string(broken), "example.com", "broken.example"))
	f.KV1["dkim/gone.example"] = []byte(`{"selectors":[]}`) // as "rspamadm vault roll --remove-expired" may leave it
	f.KV2["dkim/example.com"] = vaulttest.NewSecret(secret)
	for _, url := range []string{f.StoreURL(t, "kv1/dkim", "layout=rspamd"), f.StoreURL(t, "secret/dkim", "layout=rspamd", "kv=2")} {
		s := open(t, url, Options{})
		storetest.Signs(t, s, "example.com", "a", "b", "ed25519-20261122", "hand", "rsa-20261122")
		storetest.Signs(t, s, "example.net")
	}
	s := open(t, f.StoreURL(t, "kv1/dkim", "layout=rspamd"), Options{})
	storetest.Signs(t, s, "gone.example")
	storetest.Lists(t, s, "broken.example", "example.com", "gone.example")
	if d, err := s.Domain(t.Context(), "broken.example"); err != nil || len(d.Keys) != 1 || d.Keys[0].Selector != "good" || len(d.Unreadable) != 2 {
		t.Errorf("%+v, %v; want the good key, and two rows that cannot be read", d, err)
	}
}

func TestKumoMTASecrets(t *testing.T) {
	text, bare := storetest.PrivateKey(t)
	f := vaulttest.New(t)
	for path, key := range map[string]string{"dkim/example.com/s1": text, "dkim/example.com/s2": bare, "dkim/example.net/s1": text} {
		secret, _ := json.Marshal(object{"key": key})
		f.KV2[path] = vaulttest.NewSecret(secret)
	}
	s := open(t, f.StoreURL(t, "secret/dkim", "layout=kumomta"), Options{})
	storetest.Signs(t, s, "example.com", "s1", "s2")
	storetest.Signs(t, s, "example.net", "s1")
	storetest.Signs(t, s, "example.org")
	if names, err := s.List(t.Context(), "", 0); err != nil || !slices.Equal(names, []string{"example.com", "example.net"}) {
		t.Errorf("List = %q, %v", names, err)
	}
	s = open(t, f.StoreURL(t, "secret/dkim", "layout=kumomta", "selector=s2,s3"), Options{})
	storetest.Signs(t, s, "example.com", "s2")
	storetest.Signs(t, s, "example.net")
}

func TestOtherProductsKeysConform(t *testing.T) {
	f := vaulttest.New(t)
	names := append([]string{"example.com"}, storetest.OddNames...)
	for _, name := range names {
		text, _ := storetest.PrivateKey(t)
		f.KV1["dkim/"+name], _ = json.Marshal(object{"selectors": []object{{"selector": "a", "domain": name, "key": text}}})
		secret, _ := json.Marshal(object{"key": text})
		f.KV2["dkim/"+name+"/s1"] = vaulttest.NewSecret(secret)
	}
	storetest.RunReadOnly(t, open(t, f.StoreURL(t, "kv1/dkim", "layout=rspamd"), Options{}), names...)
	storetest.RunReadOnly(t, open(t, f.StoreURL(t, "secret/dkim", "layout=kumomta"), Options{}), names...)
}
