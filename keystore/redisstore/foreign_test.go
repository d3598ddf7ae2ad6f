package redisstore

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"waxseal/keystore"
	"waxseal/keystore/storetest"
)

func TestRspamdKeys(t *testing.T) {
	s := start(t)
	a, _ := storetest.PrivateKey(t)
	b, bare := storetest.PrivateKey(t)
	s.must("HSET", "DKIM_KEYS", "dkim.example.com", a, "dkim.example.net", bare, "ed.example.com", b, "other.example.org", b)
	s.must("HSET", "SELECTORS", "example.org", "other")
	store := open(t, "redis://"+s.address()+"?layout=rspamd&selector=dkim,ed", Options{})
	storetest.Signs(t, store, "example.com", "dkim", "ed")
	storetest.Signs(t, store, "example.net", "dkim")
	storetest.Signs(t, store, "example.org")
	storetest.Signs(t, store, "*")
	storetest.Lists(t, store, "example.com", "example.net")
	store = open(t, "redis://"+s.address()+"?layout=rspamd&selectors=SELECTORS", Options{})
	storetest.Signs(t, store, "example.org", "other")
	storetest.Signs(t, store, "example.com")
	storetest.Lists(t, store, "example.org")
}

// As mailcow's functions.dkim.inc.php writes it: the public key, the selector,
// and only then the private key.
func TestMailcowKeys(t *testing.T) {
	s := start(t)
	key, _ := storetest.PrivateKey(t)
	add := func(domain, selector string) {
		s.must("HSET", "DKIM_PUB_KEYS", domain, "MIGf")
		s.must("HSET", "DKIM_SELECTORS", domain, selector)
		s.must("HSET", "DKIM_PRIV_KEYS", selector+"."+domain, key)
	}
	add("example.com", "dkim")
	add("b.example", "Mail2")
	store := open(t, "redis://"+s.address()+"?layout=mailcow&selector=ed1", Options{})
	storetest.Signs(t, store, "example.com", "dkim")
	s.must("HSET", "DKIM_PRIV_KEYS", "ed1.example.com", key)
	storetest.Signs(t, store, "example.com", "dkim", "ed1")
	storetest.Signs(t, store, "example.org")
	storetest.Lists(t, store, "b.example", "example.com")

	t.Run("a selector whose key comes a moment later", func(t *testing.T) {
		s.must("HSET", "DKIM_SELECTORS", "late.example", "dkim")
		go func() {
			time.Sleep(secondLook / 4)
			s.do("HSET", "DKIM_PRIV_KEYS", "dkim.late.example", key)
		}()
		storetest.Signs(t, store, "late.example", "dkim")
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
	key, bare := storetest.PrivateKey(t)
	for name, value := range map[string]string{
		"dkim-signing-table:example.com":   "k1",
		"dkim-signing-table:example.net":   "k2:@example.net",
		"dkim-signing-table:other.example": "k1",
		"dkim-signing-table:file.example":  "k3",
		"dkim-signing-table:gone.example":  "k4",
		"dkim-signing-table:near.example":  "k5",
		"dkim-signing-table:ann@a.example": "k1",
		"dkim-key-table:k1":                "example.com:s1:" + key,
		"dkim-key-table:k2":                "%:s2:" + bare,
		"dkim-key-table:k3":                "%:s3:/etc/dkim/key.pem",
		"dkim-key-table:k5":                "%:s3:./key.pem",
	} {
		s.must("SET", name, value)
	}
	store := open(t, "redis://"+s.address()+"?layout=opendkim-ng&keys=dkim-key-table&selectors=dkim-signing-table", Options{})
	storetest.Signs(t, store, "example.com", "s1")
	storetest.Signs(t, store, "example.net", "s2")
	storetest.Signs(t, store, "example.org")
	for domain, want := range map[string]string{"other.example": "signs for", "file.example": "names a file", "near.example": "names a file", "gone.example": "is missing"} {
		d, err := store.Domain(t.Context(), domain)
		if err != nil || len(d.Keys) != 0 || len(d.Unreadable) != 1 || !strings.Contains(d.Unreadable[0].Err.Error(), want) {
			t.Errorf("%s: %+v, %v; want %q", domain, d, err, want)
		}
	}
	storetest.Lists(t, store, "example.com", "example.net", "file.example", "gone.example", "near.example", "other.example")
}

func TestOtherProductsKeysConform(t *testing.T) {
	s := start(t)
	names := append([]string{"example.com"}, storetest.OddNames...)
	for _, name := range names {
		text, _ := storetest.PrivateKey(t)
		s.must("HSET", "DKIM_PRIV_KEYS", "dkim."+name, text)
		s.must("HSET", "DKIM_SELECTORS", name, "dkim")
		s.must("HSET", "DKIM_PUB_KEYS", name, "x")
		s.must("SET", "dkim-key-table:"+name, name+":dkim:"+text)
		s.must("SET", "dkim-signing-table:"+name, name)
	}
	url := "redis://" + s.address() + "?layout="
	for _, layout := range []string{"mailcow", "rspamd&keys=DKIM_PRIV_KEYS&selector=dkim", "opendkim-ng&keys=dkim-key-table&selectors=dkim-signing-table"} {
		storetest.RunReadOnly(t, open(t, url+layout, Options{}), names...)
	}
}
