package vaultstore

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"waxseal/keystore"
	"waxseal/keystore/storetest"
	"waxseal/keystore/vaultstore/vaulttest"
)

type object = map[string]any

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
		return open(t, vaulttest.New(t).StoreURL(t, "secret/waxseal"), Options{})
	})
}

func TestManyClients(t *testing.T) {
	f := vaulttest.New(t)
	var clients []keystore.Store
	for range 4 {
		clients = append(clients, open(t, f.StoreURL(t, "secret/waxseal"), Options{}))
	}
	storetest.RunClients(t, clients...)
}

func TestWrappedKeysConform(t *testing.T) {
	storetest.Run(t, func(t *testing.T) keystore.Store {
		return open(t, vaulttest.New(t).StoreURL(t, "secret"), Options{
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

func TestConnectionCutInEveryOperation(t *testing.T) {
	f := vaulttest.New(t)
	p := storetest.NewProxy(t, "tcp", f.Host())
	url := strings.Replace(f.StoreURL(t, "secret/waxseal"), f.Host(), p.Address, 1)
	storetest.RunCuts(t, open(t, url, Options{}), p)
}

func TestSilentServerHoldsNobody(t *testing.T) {
	f := vaulttest.New(t)
	p := storetest.NewProxy(t, "tcp", f.Host())
	url := strings.Replace(f.StoreURL(t, "secret/waxseal"), f.Host(), p.Address, 1)
	storetest.RunSlow(t, open(t, url, Options{}), p)
}

func TestServerMayBeDownAtTheStartAndRestart(t *testing.T) {
	f := vaulttest.New(t)
	s := open(t, f.StoreURL(t, "secret/waxseal", "transit=transit"), Options{})
	d := &keystore.Domain{Name: "example.com"}
	f.Restart(t, func() {
		if _, err := s.Domain(t.Context(), d.Name); err == nil || errors.Is(err, keystore.ErrNotFound) {
			t.Errorf("without a server: %v", err)
		}
	})
	key, err := s.Generate(t.Context(), d.Name, "a", keystore.Ed25519)
	if err != nil {
		t.Fatal(err)
	}
	d.Keys = append(d.Keys, storetest.ActiveOf(t, "a", key))
	if err := s.Update(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	f.Restart(t, func() {
		if err := keystore.SelfTest(key, nil); err == nil {
			t.Error("signed without a server")
		}
	})
	if got, err := s.Domain(t.Context(), d.Name); err != nil || got.Version != d.Version {
		t.Errorf("after the restart: %v", err)
	}
	if err := keystore.SelfTest(key, nil); err != nil {
		t.Errorf("after the restart: %v", err)
	}
}

func TestNothingIsLeftOfARemovedKey(t *testing.T) {
	f := vaulttest.New(t)
	s := open(t, f.StoreURL(t, "secret/waxseal"), Options{})
	d := storetest.Create(t, s, "example.com", "a", "b")
	stored := string(f.KV2["waxseal/example.com"].Versions[0].Data)
	half := stored[strings.Index(stored, "BEGIN PRIVATE KEY"):][:60]
	d.Keys[0].Note = "more versions"
	if err := s.Update(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	d.Keys[0].State = keystore.Removed
	if err := s.Update(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	for i, v := range f.KV2["waxseal/example.com"].Versions {
		if i < 2 && v.Data != nil || strings.Contains(string(v.Data), half) {
			t.Errorf("version %d is there still: %.100s", i+1, v.Data)
		}
	}
}

func TestDeletedSecretMayBeMadeAnew(t *testing.T) {
	f := vaulttest.New(t)
	s := open(t, f.StoreURL(t, "secret/waxseal"), Options{})
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
		f := vaulttest.New(t)
		s := open(t, f.StoreURL(t, "secret/waxseal"), Options{})
		storetest.Create(t, s, "example.com", "a")
		secret := f.KV2["waxseal/example.com"]
		var was struct{ Domain json.RawMessage }
		json.Unmarshal(secret.Versions[0].Data, &was)
		secret.Versions[0].Data = json.RawMessage(strings.Replace(test.secret, "DOMAIN", string(was.Domain), 1))
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

// A host that takes connections and says nothing leaves time for the next.
func TestSilentHostIsPassedOver(t *testing.T) {
	a, b := vaulttest.New(t), vaulttest.New(t)
	storetest.Create(t, open(t, b.StoreURL(t, "secret/waxseal"), Options{}), "example.com", "a")
	p := storetest.NewProxy(t, "tcp", a.Host())
	p.Delay(time.Minute)
	defer p.Drop()
	s := open(t, strings.Replace(b.StoreURL(t, "secret/waxseal"), b.Host(), p.Address+","+b.Host(), 1), Options{Timeout: 2 * time.Second})
	for range 2 {
		began := time.Now()
		if _, err := s.Domain(t.Context(), "example.com"); err != nil {
			t.Errorf("after %v: %v", time.Since(began), err)
		}
	}
	q := storetest.NewProxy(t, "tcp", b.Host())
	q.Delay(time.Minute)
	defer q.Drop()
	s = open(t, strings.Replace(b.StoreURL(t, "secret/waxseal"), b.Host(), p.Address+","+q.Address, 1), Options{Timeout: 200 * time.Millisecond})
	if _, err := s.Domain(t.Context(), "example.com"); err == nil || errors.Is(err, keystore.ErrNotFound) {
		t.Errorf("no host answers: %v", err)
	}
}

// All requests share a connection. One that is dead without a word, as after a
// failover of an address, would hold them up until the system gives it up.
func TestDeadConnectionIsGivenUp(t *testing.T) {
	f := vaulttest.NewTLS(t)
	p := storetest.NewProxy(t, "tcp", f.Host())
	url := strings.Replace(strings.Replace(f.StoreURL(t, "secret/waxseal", "ca="+authority(t, f)), "vault+http", "vault", 1), f.Host(), p.Address, 1)
	s := open(t, url, Options{Timeout: time.Second})
	storetest.Create(t, s, "example.com", "a")
	p.Delay(time.Hour)
	if _, err := s.Domain(t.Context(), "example.com"); err == nil {
		t.Fatal("a dead connection answers")
	}
	p.Delay(0) // for new ones
	for end := time.Now().Add(10 * time.Second); ; {
		_, err := s.Domain(t.Context(), "example.com")
		if err == nil {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("after 10 seconds: %v", err)
		}
	}
}

func TestSealedHostIsPassedOver(t *testing.T) {
	a, b := vaulttest.New(t), vaulttest.New(t)
	a.Sealed = true
	url := strings.Replace(b.StoreURL(t, "secret/waxseal"), b.Host(), "127.0.0.1:1,"+a.Host()+","+b.Host(), 1)
	storetest.Create(t, open(t, url, Options{}), "example.com", "a")
	b.Sealed = true
	s := open(t, b.StoreURL(t, "secret/waxseal"), Options{})
	if _, err := s.Domain(t.Context(), "example.com"); err == nil || !strings.Contains(err.Error(), "sealed") || errors.Is(err, keystore.ErrNotFound) {
		t.Errorf("sealed: %v", err)
	}
}
