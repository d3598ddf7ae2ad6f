package keystore

import (
	"context"
	"fmt"
	"hash/maphash"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// BenchmarkWarmLookup is what every message costs.
func BenchmarkWarmLookup(b *testing.B) {
	s := newFakeStore(b)
	const domains = 1000
	names := make([]string, domains)
	for i := range names {
		names[i] = fmt.Sprintf("d%d.example", i)
		s.put(&Domain{Name: names[i], Version: 1, Keys: []Key{newKey(b, "a")}})
	}
	c := NewCache(s, CacheOptions{Refresh: time.Hour})
	defer c.Close()
	for _, name := range names {
		mustSign(b, c, name)
	}
	b.Run("serial", func(b *testing.B) {
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			if _, err := c.Signing(b.Context(), names[i%domains]); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("parallel", func(b *testing.B) {
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			for i := 0; pb.Next(); i++ {
				if _, err := c.Signing(b.Context(), names[i%domains]); err != nil {
					b.Error(err)
				}
			}
		})
	})
	b.Run("absent", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			c.Signing(b.Context(), "nosuch.example")
		}
	})
}

// BenchmarkColdLookup is the first message of a domain: reading its files, and
// loading and testing its key.
func BenchmarkColdLookup(b *testing.B) {
	for _, name := range []string{"ed25519.pem", "rsa2048-pkcs8.pem"} {
		b.Run(name, func(b *testing.B) {
			d := newDir(b, DirOptions{})
			k := keyOf(b, "a", mustParse(b, name))
			k.State = Active
			if err := d.Update(b.Context(), &Domain{Name: "example.com", Keys: []Key{k}}); err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				c := Cache{store: d, opts: CacheOptions{Now: time.Now}, ctx: b.Context(), seed: maphash.MakeSeed()}
				if e, err := c.load("example.com", nil); err != nil || len(e.signing.Keys) != 1 {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkManyDomains is a start of the daemon up to its first signature's
// key, for which the number of domains must not matter (what does matter is in
// the kernel: beginning to watch a directory visits the names it has cached),
// and one page of the list.
func BenchmarkManyDomains(b *testing.B) {
	for _, domains := range []int{10, 20_000} {
		root := manyDomains(b, domains)
		b.Run(fmt.Sprintf("start with %d", domains), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				d, err := OpenDir(root, DirOptions{})
				if err != nil {
					b.Fatal(err)
				}
				c := NewCache(d, CacheOptions{})
				mustSign(b, c, "d7.example")
				b.StopTimer()
				c.Close() // in which the kernel gives a watch back, slowly
				b.StartTimer()
			}
		})
		b.Run(fmt.Sprintf("start with %d, no watch", domains), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				d, err := OpenDir(root, DirOptions{})
				if err != nil {
					b.Fatal(err)
				}
				if err := load(b, d, "d7.example", "a"); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(fmt.Sprintf("page of 1000 from %d", domains), func(b *testing.B) {
			d, err := OpenDir(root, DirOptions{})
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				if page, err := d.List(b.Context(), "", 1000); err != nil || len(page) == 0 {
					b.Fatal(len(page), err)
				}
			}
		})
	}
}

// manyDomains makes a store of n domains, of which d7.example has a key.
func manyDomains(b *testing.B, n int) string {
	b.Helper()
	d := newDir(b, DirOptions{})
	create(b, d, "d7.example")
	for i := range n {
		dir := filepath.Join(d.Path(), fmt.Sprintf("d%d.example", i))
		if err := os.Mkdir(dir, 0o750); err != nil {
			if os.IsExist(err) {
				continue
			}
			b.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, tomlName), []byte("version = 1\n"), 0o644); err != nil {
			b.Fatal(err)
		}
	}
	return d.Path()
}

// BenchmarkMillionDomains is mail of a million domains, few of which send much,
// through a cache that holds a fiftieth of them.
func BenchmarkMillionDomains(b *testing.B) {
	const domains = 1_000_000
	k := newKey(b, "a")
	k.State = Active
	names := make([]string, domains)
	for i := range names {
		names[i] = fmt.Sprintf("d%d.example", i)
	}
	c := NewCache(anyDomain{newFakeStore(b), k}, CacheOptions{Refresh: time.Hour, MaxEntries: domains / 50})
	defer c.Close()
	zipf := rand.NewZipf(rand.New(rand.NewPCG(1, 2)), 1.2, 1, domains-1)
	for range 200_000 {
		mustSign(b, c, names[zipf.Uint64()])
	}
	b.ReportAllocs()
	before := c.Stats()
	for b.Loop() {
		mustSign(b, c, names[zipf.Uint64()])
	}
	after := c.Stats()
	b.ReportMetric(100*float64(after.Hits-before.Hits)/float64(b.N), "%hits")
}

// anyDomain is a store that has every domain.
type anyDomain struct {
	*fakeStore
	key Key
}

func (s anyDomain) Domain(_ context.Context, name string) (*Domain, error) {
	return &Domain{Name: name, Version: 1, Keys: []Key{s.key}}, nil
}
