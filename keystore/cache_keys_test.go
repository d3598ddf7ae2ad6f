package keystore

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestCacheSignsWithTheKeysThatWork(t *testing.T) {
	inBubble(t, CacheOptions{}, func(t *testing.T, s *fakeStore, c *Cache, log *errorLog) {
		rsa := mustParse(t, "rsa1024-pkcs1.pem")
		failing := &PermissionError{Path: "/x", Rule: "open", Repair: "chmod 600 /x"}
		bad := s.key(t, "bad", Active)
		good := bad.Load
		bad.Load = func(context.Context) (crypto.Signer, error) { return nil, failing }
		other := s.key(t, "other", Active)
		other.Load = newKey(t, "x").Load
		faulty := s.key(t, "faulty", Active)
		signer, _ := faulty.Load(t.Context())
		faulty.Load = func(context.Context) (crypto.Signer, error) {
			return brokenSigner{signer, func(sig []byte) ([]byte, error) { sig[0]++; return sig, nil }}, nil
		}
		none := s.key(t, "none", Active)
		none.Load = nil
		rsaKey := keyOf(t, "rsa", rsa)
		rsaKey.State = Active
		s.put(&Domain{Name: "example.com", Version: 2, Keys: []Key{
			s.key(t, "first", Active), bad, s.key(t, "pending", Pending), s.key(t, "retired", Retired), other, faulty,
			rsaKey, s.key(t, "revoked", Revoked), none, s.key(t, "last", Active),
		}})
		got := mustSign(t, c, "example.com")
		if want := "rsa first last"; selectors(got) != want {
			t.Errorf("signs with %q, want %q", selectors(got), want)
		}
		if got.Keys[0].Algorithm != RSA1024 || got.Keys[1].Algorithm != Ed25519 {
			t.Errorf("algorithms %s, %s", got.Keys[0].Algorithm, got.Keys[1].Algorithm)
		}
		broken := errors.Join(got.Broken...)
		for _, text := range []string{"key bad.example.com: ", "chmod 600 /x", "key other.example.com: private key does not match", "key none.example.com: the store has no private key",
			"key faulty.example.com: its signature does not verify"} {
			if len(got.Broken) != 4 || !strings.Contains(broken.Error(), text) {
				t.Errorf("broken: %v, want %q", broken, text)
			}
		}
		var permission *PermissionError
		if !errors.As(broken, &permission) {
			t.Error("the cause is lost")
		}

		// The broken ones are tried again soon, the others are not touched.
		_, before := s.counts()
		s.set(func() { s.domains["example.com"].Keys[1].Load = good })
		time.Sleep(brokenRetry)
		mustSign(t, c, "example.com")
		synctest.Wait()
		got = mustSign(t, c, "example.com")
		if want := "rsa first bad last"; selectors(got) != want || len(got.Broken) != 3 {
			t.Errorf("after the repair signs with %q, want %q", selectors(got), want)
		}
		if _, after := s.counts(); after != before+1 {
			t.Errorf("%d key loads, want 1", after-before)
		}
		if errs := log.take(); len(errs) != 0 {
			t.Errorf("errors %q", errs)
		}
	})
}

// A domain that was deleted and made anew is at version 1 again.
func TestCacheKnowsAKeyByMoreThanTheVersion(t *testing.T) {
	inBubble(t, CacheOptions{}, func(t *testing.T, s *fakeStore, c *Cache, _ *errorLog) {
		first := mustSign(t, c, "example.com")
		s.put(&Domain{Name: "example.com", Version: 1, Keys: []Key{s.key(t, "a", Active)}})
		c.InvalidateAll()
		if got := mustSign(t, c, "example.com"); sameSigner(got.Keys[0], first.Keys[0]) {
			t.Error("still signs with the key of the domain before")
		}
		// A store that keeps no public keys: the version decides.
		s.set(func() { s.domains["example.com"].Keys[0].Public = nil })
		c.InvalidateAll()
		second := mustSign(t, c, "example.com")
		for version, same := range map[uint64]bool{1: true, 2: false} {
			s.set(func() { s.domains["example.com"].Version = version })
			_, before := s.counts()
			c.InvalidateAll()
			mustSign(t, c, "example.com")
			if _, after := s.counts(); (after == before) != same {
				t.Errorf("version %d: %d key loads", version, after-before)
			}
			if !same {
				break
			}
		}
		if len(second.Broken) != 0 {
			t.Error(second.Broken)
		}
	})
}

// acceleratedKey counts its uses, and finds those after Close.
type acceleratedKey struct {
	crypto.Signer
	closed  *atomic.Int64
	isShut  atomic.Bool
	misused *atomic.Int64
	fail    error
}

func (k *acceleratedKey) Sign(random io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	if k.fail != nil {
		return nil, k.fail
	}
	sig, err := k.Signer.Sign(random, digest, opts)
	runtime.Gosched()
	if k.isShut.Load() {
		k.misused.Add(1)
	}
	return sig, err
}

func (k *acceleratedKey) Close() error {
	if k.isShut.Swap(true) {
		k.misused.Add(1)
	}
	k.closed.Add(1)
	return nil
}

func TestPreparedKeyIsClosedAfterItsLastUse(t *testing.T) {
	var opened, closed, misused atomic.Int64
	s := newFakeStore(t, "example.com")
	c := NewCache(s, CacheOptions{Prepare: func(key crypto.Signer) (crypto.Signer, error) {
		opened.Add(1)
		return &acceleratedKey{Signer: key, closed: &closed, misused: &misused}, nil
	}})
	held := mustSign(t, c, "example.com").Keys[0].Signer // as a message that is under way
	collect := func(want int64) {
		t.Helper()
		for deadline := time.Now().Add(5 * time.Second); closed.Load() < want && time.Now().Before(deadline); time.Sleep(time.Millisecond) {
			runtime.GC()
		}
		runtime.GC()
		if got := closed.Load(); got != want {
			t.Errorf("%d of %d keys closed, want %d", got, opened.Load(), want)
		}
	}
	next := func(version uint64) {
		s.put(&Domain{Name: "example.com", Version: version, Keys: []Key{s.key(t, fmt.Sprintf("v%d", version), Active)}})
		c.InvalidateAll()
		mustSign(t, c, "example.com")
	}
	next(2)
	collect(0) // the first is held, the second is cached
	if err := SelfTest(held, nil); err != nil {
		t.Error(err)
	}
	next(3)
	collect(1) // the second
	runtime.KeepAlive(held)
	held = nil
	collect(2)
	c.Close()
	collect(3)
	if opened.Load() != 3 || misused.Load() != 0 {
		t.Errorf("%d opened, %d used after Close", opened.Load(), misused.Load())
	}
}

func TestCacheSignsWithoutAnAcceleratorThatFails(t *testing.T) {
	var closed, misused atomic.Int64
	failing := errors.New("no engine")
	for name, prepare := range map[string]func(crypto.Signer) (crypto.Signer, error){
		"does not take the key": func(crypto.Signer) (crypto.Signer, error) { return nil, failing },
		"does not sign": func(key crypto.Signer) (crypto.Signer, error) {
			return &acceleratedKey{Signer: key, closed: &closed, misused: &misused, fail: failing}, nil
		},
		"signs wrongly": func(key crypto.Signer) (crypto.Signer, error) {
			return brokenSigner{key, func(sig []byte) ([]byte, error) { sig[0]++; return sig, nil }}, nil
		},
	} {
		inBubble(t, CacheOptions{Prepare: prepare}, func(t *testing.T, s *fakeStore, c *Cache, log *errorLog) {
			got := mustSign(t, c, "example.com")
			if selectors(got) != "a" || len(got.Broken) != 0 {
				t.Errorf("%s: %+v", name, got)
			} else if err := SelfTest(got.Keys[0].Signer, nil); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			if errs := log.take(); len(errs) != 1 || !strings.Contains(errs[0], "key a.example.com: signing without the accelerator") {
				t.Errorf("%s: errors %q", name, errs)
			}
		})
	}
	if closed.Load() != 1 || misused.Load() != 0 {
		t.Errorf("%d closed, %d misused; want 1 and 0", closed.Load(), misused.Load())
	}
}
