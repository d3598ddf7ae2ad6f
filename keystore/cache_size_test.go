package keystore

import (
	"context"
	"crypto"
	"crypto/rsa"
	"fmt"
	"runtime"
	"testing"
	"time"
)

// heap returns the bytes in use.
func heap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// The estimate is no less than what an entry takes, and not many times as much.
func TestCacheEntriesWeighWhatTheyTake(t *testing.T) {
	const domains = 200
	for _, test := range []struct{ name, pem string }{
		{"absent", ""}, {"ed25519", "ed25519.pem"}, {"rsa-2048", "rsa2048-pkcs8.pem"},
	} {
		s := newFakeStore(t)
		c := NewCache(s, CacheOptions{Refresh: time.Hour})
		names := make([]string, domains)
		for i := range names {
			names[i] = fmt.Sprintf("d%d.example", i)
			if test.pem != "" {
				k := keyOf(t, "a", mustParse(t, test.pem)) // a key in memory for each
				k.State = Active
				k.Load = nil
				s.put(&Domain{Name: names[i], Version: 1, Keys: []Key{k}})
			}
		}
		before := heap()
		var size int64
		for _, name := range names {
			if d := s.domains[name]; d != nil {
				d.Keys[0].Load = loadsFile(t, test.pem)
			}
			c.Signing(t.Context(), name)
			e, _ := c.entries.GetIfPresent(name)
			size += e.size()
		}
		took := heap() - before
		t.Logf("%s: %d bytes an entry, estimated as %d", test.name, took/domains, size/domains)
		if took > size || size > 8*took {
			t.Errorf("%s: %d bytes an entry, estimated as %d", test.name, took/domains, size/domains)
		}
		runtime.KeepAlive(s)
		c.Close()
	}
}

func TestCacheIsBoundedByEntriesAndBytes(t *testing.T) {
	rsaKey := mustParse(t, "rsa2048-pkcs8.pem").(*rsa.PrivateKey)
	ofRSA := (&entry{signing: &Signing{Keys: []SigningKey{{Signer: rsaKey}}}}).size()
	for _, test := range []struct {
		what string
		opts CacheOptions
		most int
	}{
		{"by entries", CacheOptions{MaxEntries: 50}, 50},
		{"by bytes", CacheOptions{MaxBytes: 20 * ofRSA}, 20},
		{"by whichever is reached first", CacheOptions{MaxEntries: 10, MaxBytes: 20 * ofRSA}, 10},
	} {
		s := newFakeStore(t)
		k := keyOf(t, "a", rsaKey)
		k.State = Active
		test.opts.Refresh = time.Hour
		c := NewCache(s, test.opts)
		for i := range 200 {
			name := fmt.Sprintf("d%d.example", i)
			s.put(&Domain{Name: name, Version: 1, Keys: []Key{k}})
			mustSign(t, c, name)
		}
		c.entries.CleanUp()
		if got := c.Stats().Entries; got > test.most || got < test.most/2 {
			t.Errorf("%s: %d entries, want at most %d", test.what, got, test.most)
		}
		c.Close()
	}
}

// Domains that are asked for once, as many as there may be, do not push out those
// that half of the mail is from.
func TestCacheKeepsTheHotSet(t *testing.T) {
	s := newFakeStore(t)
	const hot, strangers = 100, 10_000
	names := make([]string, hot)
	k := s.key(t, "a", Active)
	for i := range names {
		names[i] = fmt.Sprintf("hot%d.example", i)
		s.put(&Domain{Name: names[i], Version: 1, Keys: []Key{k}})
	}
	c := NewCache(s, CacheOptions{Refresh: time.Hour, MaxEntries: 2 * hot})
	defer c.Close()
	for range 5 {
		for _, name := range names {
			mustSign(t, c, name)
		}
	}
	for i := range strangers {
		c.Signing(t.Context(), fmt.Sprintf("stranger%d.example", i))
		mustSign(t, c, names[i%hot])
		if i%50 == 0 {
			c.entries.CleanUp() // which else is done beside, and on a busy machine late
		}
	}
	c.entries.CleanUp()
	if _, loads := s.counts(); loads > hot+strangers/10 {
		t.Errorf("%d keys loaded for %d domains in use, while %d others passed", loads, hot, strangers)
	}
	if got := c.Stats().Entries; got > 2*hot {
		t.Errorf("%d entries, want at most %d", got, 2*hot)
	}
}

// loadsFile returns a Key.Load that reads the key anew each time.
func loadsFile(t testing.TB, name string) func(context.Context) (crypto.Signer, error) {
	return func(context.Context) (crypto.Signer, error) { return mustParse(t, name), nil }
}
