package redisstore

import (
	"context"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"waxseal/keystore"
)

// rsaPEM makes a key as the products do, as PKCS#8.
func rsaPEM(t *testing.T) string {
	t.Helper()
	key, err := keystore.Generate(keystore.RSA1024)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

func bare(key string) string {
	block, _ := pem.Decode([]byte(key))
	return base64.StdEncoding.EncodeToString(block.Bytes)
}

// expect tests that the domain signs with just these selectors.
func expect(t *testing.T, s *Store, domain string, selectors ...string) {
	t.Helper()
	expectOf(t, s, s.Signing, domain, selectors...)
	expectOf(t, s, s.Domain, domain, selectors...)
}

func expectOf(t *testing.T, s *Store, read func(context.Context, string) (*keystore.Domain, error), domain string, selectors ...string) {
	t.Helper()
	d, err := read(t.Context(), domain)
	if len(selectors) == 0 {
		if !errors.Is(err, keystore.ErrNotFound) {
			t.Errorf("%s: %v, want not found", domain, err)
		}
		return
	}
	if err != nil {
		t.Errorf("%s: %v", domain, err)
		return
	}
	var got []string
	for i := range d.Keys {
		k := &d.Keys[i]
		if _, err := k.Load(t.Context()); err != nil {
			t.Errorf("key %s.%s: %v", k.Selector, domain, err)
		}
		key, err := k.Load(t.Context()) // again
		if err != nil || k.State != keystore.Active || keystore.SelfTest(key, k.Public) != nil {
			t.Errorf("key %s.%s: %s, %v", k.Selector, domain, k.State, err)
		}
		got = append(got, k.Selector)
	}
	if !slices.Equal(got, selectors) || d.Whole() != nil || d.Version == 0 {
		t.Errorf("%s: selectors %q, want %q; %v", domain, got, selectors, d.Whole())
	}
	if err := s.Update(t.Context(), d); !errors.Is(err, keystore.ErrReadOnly) {
		t.Errorf("%s: a change: %v, want %v", domain, err, keystore.ErrReadOnly)
	}
}

func lists(t *testing.T, s keystore.Store, want ...string) {
	t.Helper()
	var got []string
	for after := ""; ; after = got[len(got)-1] {
		page, err := s.List(t.Context(), after, 2)
		if err != nil {
			t.Fatal(err)
		}
		if len(page) == 0 {
			break
		}
		got = append(got, page...)
	}
	if !slices.Equal(got, want) {
		t.Errorf("domains %q, want %q", got, want)
	}
}

func TestRspamdKeys(t *testing.T) {
	s := start(t)
	a, b := rsaPEM(t), rsaPEM(t)
	s.must("HSET", "DKIM_KEYS", "dkim.example.com", a, "dkim.example.net", bare(b), "ed.example.com", b, "other.example.org", b)
	s.must("HSET", "SELECTORS", "example.org", "other")
	store := open(t, "redis://"+s.address()+"?layout=rspamd&selector=dkim,ed", Options{})
	expect(t, store, "example.com", "dkim", "ed")
	expect(t, store, "example.net", "dkim")
	expect(t, store, "example.org")
	expect(t, store, "*")
	lists(t, store, "example.com", "example.net")
	store = open(t, "redis://"+s.address()+"?layout=rspamd&selectors=SELECTORS", Options{})
	expect(t, store, "example.org", "other")
	expect(t, store, "example.com")
	lists(t, store, "example.org")
}

// As mailcow's functions.dkim.inc.php writes it: the public key, the selector,
// and only then the private key.
func TestMailcowKeys(t *testing.T) {
	s := start(t)
	add := func(domain, selector string) {
		s.must("HSET", "DKIM_PUB_KEYS", domain, "MIGf")
		s.must("HSET", "DKIM_SELECTORS", domain, selector)
		s.must("HSET", "DKIM_PRIV_KEYS", selector+"."+domain, rsaPEM(t))
	}
	add("example.com", "dkim")
	add("b.example", "Mail2")
	store := open(t, "redis://"+s.address()+"?layout=mailcow&selector=ed1", Options{})
	expect(t, store, "example.com", "dkim")
	s.must("HSET", "DKIM_PRIV_KEYS", "ed1.example.com", rsaPEM(t))
	expect(t, store, "example.com", "dkim", "ed1")
	expect(t, store, "example.org")
	lists(t, store, "b.example", "example.com")

	t.Run("a selector whose key comes a moment later", func(t *testing.T) {
		s.must("HSET", "DKIM_SELECTORS", "late.example", "dkim")
		key := rsaPEM(t)
		go func() {
			time.Sleep(secondLook / 4)
			s.do("HSET", "DKIM_PRIV_KEYS", "dkim.late.example", key)
		}()
		expect(t, store, "late.example", "dkim")
	})
	t.Run("a selector whose key never comes", func(t *testing.T) {
		s.must("HSET", "DKIM_SELECTORS", "never.example", "dkim")
		d, err := store.Domain(t.Context(), "never.example")
		if err != nil || len(d.Unreadable) != 1 || !d.Unreadable[0].Active || !strings.Contains(d.Unreadable[0].Err.Error(), "DKIM_PRIV_KEYS has no field dkim.never.example") {
			t.Errorf("%+v, %v", d, err)
		}
	})
	t.Run("a change is noticed", func(t *testing.T) {
		cache := keystore.NewCache(store, keystore.CacheOptions{Refresh: time.Hour})
		defer cache.Close()
		for i := range 2 {
			name := fmt.Sprintf("n%d.example", i)
			if _, err := cache.Signing(t.Context(), name); !errors.Is(err, keystore.ErrNotFound) {
				t.Fatal(err)
			}
			add(name, "dkim")
			s.await("word of the change", func() bool {
				signing, err := cache.Signing(t.Context(), name)
				return err == nil && len(signing.Keys) == 1
			})
		}
	})
}

func TestOpenDKIMNgTables(t *testing.T) {
	s := start(t)
	key := rsaPEM(t)
	for name, value := range map[string]string{
		"dkim-signing-table:example.com":   "k1",
		"dkim-signing-table:example.net":   "k2:@example.net",
		"dkim-signing-table:other.example": "k1",
		"dkim-signing-table:file.example":  "k3",
		"dkim-signing-table:gone.example":  "k4",
		"dkim-signing-table:ann@a.example": "k1",
		"dkim-key-table:k1":                "example.com:s1:" + key,
		"dkim-key-table:k2":                "%:s2:" + bare(key),
		"dkim-key-table:k3":                "%:s3:/etc/dkim/key.pem",
	} {
		s.must("SET", name, value)
	}
	store := open(t, "redis://"+s.address()+"?layout=opendkim-ng", Options{})
	expect(t, store, "example.com", "s1")
	expect(t, store, "example.net", "s2")
	expect(t, store, "example.org")
	for domain, want := range map[string]string{"other.example": "signs for", "file.example": "names a file", "gone.example": "is missing"} {
		d, err := store.Domain(t.Context(), domain)
		if err != nil || len(d.Keys) != 0 || len(d.Unreadable) != 1 || !strings.Contains(d.Unreadable[0].Err.Error(), want) {
			t.Errorf("%s: %+v, %v; want %q", domain, d, err, want)
		}
	}
	lists(t, store, "example.com", "example.net", "file.example", "gone.example", "other.example")
}
