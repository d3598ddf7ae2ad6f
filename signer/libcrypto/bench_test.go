//go:build linux && amd64 && !android && !nolibcrypto

package libcrypto

import (
	"crypto"
	"fmt"
	"testing"
)

// BenchmarkSign compares what a caller gets: one after the other, and from many goroutines,
// where the time is a signature's share of the whole machine.
func BenchmarkSign(b *testing.B) {
	l := testLibrary(b)
	for _, bits := range keySizes {
		k := testKey(b, bits)
		s, err := l.NewSigner(k, func(err error) { b.Error(err) })
		if err != nil {
			b.Fatal(err)
		}
		for _, by := range []struct {
			name   string
			signer crypto.Signer
		}{{"go", k}, {"libcrypto", s}} {
			b.Run(fmt.Sprintf("%d/one/%s", bits, by.name), func(b *testing.B) {
				d := digest(1)
				b.ReportAllocs()
				for b.Loop() {
					if _, err := by.signer.Sign(nil, d, crypto.SHA256); err != nil {
						b.Fatal(err)
					}
				}
			})
			b.Run(fmt.Sprintf("%d/many/%s", bits, by.name), func(b *testing.B) {
				b.SetParallelism(16)
				b.ReportAllocs()
				b.RunParallel(func(pb *testing.PB) {
					d := digest(1)
					for pb.Next() {
						if _, err := by.signer.Sign(nil, d, crypto.SHA256); err != nil {
							b.Fatal(err)
						}
					}
				})
			})
		}
		s.Close()
	}
}

// BenchmarkNewSigner is what loading a key costs, self-test included.
func BenchmarkNewSigner(b *testing.B) {
	l, k := testLibrary(b), testKey(b, 2048)
	b.ReportAllocs()
	for b.Loop() {
		s, err := l.NewSigner(k, nil)
		if err != nil {
			b.Fatal(err)
		}
		s.Close()
	}
}
