package keystore

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// inBubble runs a test of a cache before a fake store in fake time.
func inBubble(t *testing.T, opts CacheOptions, test func(t *testing.T, s *fakeStore, c *Cache, log *errorLog)) {
	t.Helper()
	s := newFakeStore(t, "example.com", "other.example")
	s.push = make(chan string)
	synctest.Test(t, func(t *testing.T) {
		s.push = make(chan string)
		inBubbleBefore(t, s, opts, func(t *testing.T, c *Cache, log *errorLog) { test(t, s, c, log) })
	})
}

// inBubbleBefore runs a test of a cache before a store, within a bubble.
func inBubbleBefore(t *testing.T, s Store, opts CacheOptions, test func(t *testing.T, c *Cache, log *errorLog)) {
	log := &errorLog{}
	opts.OnError = log.add
	c := NewCache(s, opts)
	defer c.Close()
	synctest.Wait()
	test(t, c, log)
}

func mustSign(t testing.TB, c *Cache, domain string) *Signing {
	t.Helper()
	got, err := c.Signing(t.Context(), domain)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func selectors(s *Signing) string {
	var names []string
	for _, k := range s.Keys {
		names = append(names, k.Selector)
	}
	return strings.Join(names, " ")
}

func TestCacheAnswersFromMemory(t *testing.T) {
	inBubble(t, CacheOptions{}, func(t *testing.T, s *fakeStore, c *Cache, _ *errorLog) {
		first := mustSign(t, c, "example.com")
		if first.Domain != "example.com" || selectors(first) != "a" || len(first.Broken) != 0 {
			t.Errorf("got %+v", first)
		}
		if err := SelfTest(first.Keys[0].Signer, s.domains["example.com"].Keys[0].Public); err != nil {
			t.Error(err)
		}
		for range 100 {
			time.Sleep(500 * time.Millisecond)
			if got := mustSign(t, c, "example.com"); got != first {
				t.Fatal("another answer")
			}
		}
		if reads, loads := s.counts(); reads != 1 || loads != 1 {
			t.Errorf("%d reads, %d key loads; want 1 and 1", reads, loads)
		}
		if got := c.Stats(); got != (CacheStats{Entries: 1, Hits: 100, Loads: 1}) {
			t.Errorf("stats %+v", got)
		}
	})
}

func TestCachedNeverAsksTheStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newFakeStore(t, "a.example")
		c := NewCache(store, CacheOptions{Refresh: time.Minute})
		defer c.Close()
		if _, _, ok := c.Cached("a.example"); ok {
			t.Error("answered for a domain that nobody has asked for")
		}
		for _, name := range []string{"a.example", "b.example"} {
			c.Signing(t.Context(), name)
		}
		if s, err, ok := c.Cached("a.example"); !ok || err != nil || len(s.Keys) != 1 {
			t.Errorf("got %v, %v, %v, want one key", s, err, ok)
		}
		if _, err, ok := c.Cached("b.example"); !ok || !errors.Is(err, ErrNotFound) {
			t.Errorf("got %v, %v, want ErrNotFound", err, ok)
		}
		c.Invalidate("a.example")
		if _, _, ok := c.Cached("a.example"); ok {
			t.Error("answered after the store reported a change")
		}
		time.Sleep(2 * time.Minute)
		if _, _, ok := c.Cached("b.example"); ok {
			t.Error("answered from an entry that is too old")
		}
		if reads, _ := store.counts(); reads != 2 {
			t.Errorf("%d reads, want those 2 of Signing", reads)
		}
	})
}

func TestCacheRemembersWhatIsNotThere(t *testing.T) {
	inBubble(t, CacheOptions{}, func(t *testing.T, s *fakeStore, c *Cache, log *errorLog) {
		for range 3 {
			if got, err := c.Signing(t.Context(), "nosuch.example"); !errors.Is(err, ErrNotFound) || got != nil {
				t.Fatalf("got %v, %v", got, err)
			}
		}
		if reads, _ := s.counts(); reads != 1 {
			t.Errorf("%d reads, want 1", reads)
		}
		s.put(&Domain{Name: "nosuch.example", Version: 1})
		s.push <- "nosuch.example"
		synctest.Wait()
		if got := mustSign(t, c, "nosuch.example"); len(got.Keys)+len(got.Broken) != 0 {
			t.Errorf("got %+v, want a domain without keys", got)
		}
		s.set(func() { delete(s.domains, "nosuch.example") })
		s.push <- "nosuch.example"
		synctest.Wait()
		if _, err := c.Signing(t.Context(), "nosuch.example"); !errors.Is(err, ErrNotFound) {
			t.Errorf("after its removal: %v", err)
		}
		if errs := log.take(); len(errs) != 0 {
			t.Errorf("errors %q", errs)
		}
	})
}

func TestCacheLoadsADomainOnceForAllWhoAsk(t *testing.T) {
	inBubble(t, CacheOptions{}, func(t *testing.T, s *fakeStore, c *Cache, _ *errorLog) {
		block := make(chan struct{})
		s.set(func() { s.block = block })
		var group sync.WaitGroup
		for i := range 50 {
			group.Go(func() {
				name := "example.com"
				if i%2 == 1 {
					name = "other.example"
				}
				if got := mustSign(t, c, name); got.Domain != name {
					t.Errorf("got %s, want %s", got.Domain, name)
				}
			})
		}
		synctest.Wait()
		close(block)
		group.Wait()
		if reads, loads := s.counts(); reads != 2 || loads != 2 {
			t.Errorf("%d reads, %d key loads; want 2 and 2", reads, loads)
		}
	})
}

func TestCacheRefreshesInTheBackgroundWhenUsed(t *testing.T) {
	inBubble(t, CacheOptions{Refresh: time.Minute}, func(t *testing.T, s *fakeStore, c *Cache, _ *errorLog) {
		first := mustSign(t, c, "example.com")
		d := &Domain{Name: "example.com", Version: 2, Keys: append(slices.Clone(s.domains["example.com"].Keys), s.key(t, "b", Active))}
		s.put(d)
		time.Sleep(59 * time.Second)
		mustSign(t, c, "example.com")
		synctest.Wait()
		if reads, _ := s.counts(); reads != 1 {
			t.Errorf("%d reads before it is due", reads)
		}
		time.Sleep(31 * time.Second)
		for range 3 {
			if got := mustSign(t, c, "example.com"); selectors(got) != "a" && selectors(got) != "a b" {
				t.Errorf("got %q", selectors(got))
			}
		}
		synctest.Wait()
		got := mustSign(t, c, "example.com")
		if selectors(got) != "a b" {
			t.Errorf("after the refresh: %q", selectors(got))
		}
		if !sameSigner(got.Keys[0], first.Keys[0]) {
			t.Error("the key that did not change was replaced")
		}
		if reads, loads := s.counts(); reads != 2 || loads != 2 {
			t.Errorf("%d reads, %d key loads; want 2 and 2", reads, loads)
		}
	})
}

// sameSigner tells two Ed25519 keys, which are slices, by their memory.
func sameSigner(a, b SigningKey) bool {
	return fmt.Sprintf("%p", a.Signer) == fmt.Sprintf("%p", b.Signer)
}

// A clock that is set back makes no entry young again.
func TestCacheReadsAnewWhenTheClockIsSetBack(t *testing.T) {
	var back atomic.Int64
	now := func() time.Time { return time.Now().Add(-time.Duration(back.Load())) }
	inBubble(t, CacheOptions{Refresh: time.Minute, Now: now}, func(t *testing.T, s *fakeStore, c *Cache, _ *errorLog) {
		mustSign(t, c, "example.com")
		s.put(&Domain{Name: "example.com", Version: 2, Keys: []Key{s.key(t, "b", Active)}})
		back.Store(int64(24 * time.Hour))
		time.Sleep(2 * time.Minute)
		if got := mustSign(t, c, "example.com"); selectors(got) != "b" {
			t.Errorf("signs with %q", selectors(got))
		}
	})
}

// An answer of long ago could name a key whose record is gone.
func TestCacheReadsAnIdleEntryBeforeServingIt(t *testing.T) {
	inBubble(t, CacheOptions{Refresh: time.Minute}, func(t *testing.T, s *fakeStore, c *Cache, _ *errorLog) {
		mustSign(t, c, "example.com")
		s.put(&Domain{Name: "example.com", Version: 2, Keys: []Key{s.key(t, "b", Active)}})
		time.Sleep(24 * time.Hour)
		if reads, _ := s.counts(); reads != 1 {
			t.Errorf("%d reads while nobody asked", reads)
		}
		if got := mustSign(t, c, "example.com"); selectors(got) != "b" {
			t.Errorf("after a day: %q", selectors(got))
		}
	})
}

func TestCacheSeesReportedChanges(t *testing.T) {
	inBubble(t, CacheOptions{Refresh: time.Hour}, func(t *testing.T, s *fakeStore, c *Cache, _ *errorLog) {
		for i, tell := range []func(){
			func() { s.push <- "example.com" },
			func() { s.push <- "" },
			func() { c.Invalidate("example.com") },
			c.InvalidateAll,
		} {
			mustSign(t, c, "example.com")
			want := fmt.Sprintf("s%d", i)
			s.put(&Domain{Name: "example.com", Version: uint64(i + 2), Keys: []Key{s.key(t, want, Active)}})
			if got := selectors(mustSign(t, c, "example.com")); got == want {
				t.Fatal("seen before it was reported: the test is no good")
			}
			tell()
			synctest.Wait()
			if got := selectors(mustSign(t, c, "example.com")); got != want {
				t.Errorf("change %d: got %q, want %q", i, got, want)
			}
		}
	})
}

// A change that is reported while a load is under way, which may have read the
// state before it, is not lost.
func TestCacheSeesAChangeDuringALoad(t *testing.T) {
	for _, warm := range []bool{false, true} {
		inBubble(t, CacheOptions{Refresh: time.Hour}, func(t *testing.T, s *fakeStore, c *Cache, _ *errorLog) {
			if warm {
				mustSign(t, c, "example.com")
				c.Invalidate("example.com")
			}
			block := make(chan struct{})
			s.set(func() { s.block = block })
			done := make(chan *Signing)
			go func() { done <- mustSign(t, c, "example.com") }()
			synctest.Wait() // the old state has been read, and is on its way
			s.put(&Domain{Name: "example.com", Version: 2, Keys: []Key{s.key(t, "new", Active)}})
			s.push <- "example.com"
			synctest.Wait()
			close(block)
			s.set(func() { s.block = nil })
			if got := selectors(<-done); got != "new" {
				t.Errorf("warm %v: who waited got %q", warm, got)
			}
			if got := selectors(mustSign(t, c, "example.com")); got != "new" {
				t.Errorf("warm %v: then %q", warm, got)
			}
		})
	}
}

func TestCacheServesTheLastGoodEntryWhileTheStoreIsDown(t *testing.T) {
	inBubble(t, CacheOptions{Refresh: time.Minute}, func(t *testing.T, s *fakeStore, c *Cache, log *errorLog) {
		down := errors.New("connection refused")
		mustSign(t, c, "example.com")
		c.Signing(t.Context(), "nosuch.example")
		s.set(func() { s.err = down })
		for minute := range 60 {
			time.Sleep(time.Minute)
			if got := mustSign(t, c, "example.com"); selectors(got) != "a" {
				t.Fatalf("minute %d: %q", minute, selectors(got))
			}
			if _, err := c.Signing(t.Context(), "nosuch.example"); !errors.Is(err, ErrNotFound) {
				t.Fatalf("minute %d: %v", minute, err)
			}
		}
		synctest.Wait()
		if reads, _ := s.counts(); reads < 100 || reads > 260 {
			t.Errorf("the store was asked %d times in an hour, want about 4 times a minute", reads)
		}
		if got := c.Age(); got != time.Hour {
			t.Errorf("age %v, want 1h", got)
		}
		if got := c.Stats(); got.LoadErrors < breakerFailures || got.LoadErrors > breakerFailures+1 || got.Stale < 50 {
			t.Errorf("stats %+v", got)
		}
		if errs := log.take(); len(errs) < breakerFailures || len(errs) > breakerFailures+1 || !strings.Contains(errs[0], "connection refused (what is cached is 1m0s old)") {
			t.Errorf("errors %q", errs)
		}
		// A domain that nobody asks for does not keep the gauge up.
		time.Sleep(time.Hour)
		if got := c.Age(); got != 0 {
			t.Errorf("age %v when nothing is served", got)
		}
		if _, err := c.Signing(t.Context(), "other.example"); !errors.Is(err, down) {
			t.Errorf("nothing cached: %v, want %v", err, down)
		}

		mustSign(t, c, "example.com")
		s.set(func() { s.err = nil })
		time.Sleep(time.Minute)
		mustSign(t, c, "example.com")
		synctest.Wait()
		if got := c.Age(); got != 0 {
			t.Errorf("age %v when the store is back", got)
		}
		mustSign(t, c, "other.example")
	})
}

func TestCacheObeysDeadlines(t *testing.T) {
	inBubble(t, CacheOptions{Refresh: time.Minute}, func(t *testing.T, s *fakeStore, c *Cache, _ *errorLog) {
		mustSign(t, c, "other.example")
		block := make(chan struct{})
		s.set(func() { s.block, s.deaf = block, true })
		begin := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		if _, err := c.Signing(ctx, "example.com"); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "example.com") {
			t.Errorf("nothing cached: %v", err)
		}
		if took := time.Since(begin); took != 3*time.Second {
			t.Errorf("took %v, want 3s", took)
		}

		// What is cached is served, the latest after patience …
		c.Invalidate("other.example")
		begin = time.Now()
		if got := mustSign(t, c, "other.example"); selectors(got) != "a" || time.Since(begin) != patience {
			t.Errorf("got %q after %v", selectors(got), time.Since(begin))
		}
		// … by the next at once …
		begin = time.Now()
		if got := mustSign(t, c, "other.example"); selectors(got) != "a" || time.Since(begin) != 0 {
			t.Errorf("got %q after %v", selectors(got), time.Since(begin))
		}
		// … and the load of the first caller, who is gone, was not in vain.
		close(block)
		s.set(func() { s.block = nil })
		synctest.Wait()
		reads, _ := s.counts()
		mustSign(t, c, "example.com")
		mustSign(t, c, "other.example")
		if again, _ := s.counts(); again > reads+1 { // the one that was invalidated may be read again
			t.Errorf("%d reads more", again-reads)
		}

		ctx, cancel = context.WithCancel(t.Context())
		cancel()
		if _, err := c.Signing(ctx, "example.com"); err != nil {
			t.Errorf("cached, with an ended context: %v", err)
		}
	})
}

func TestCacheSurvivesAPanic(t *testing.T) {
	inBubble(t, CacheOptions{Prepare: func(crypto.Signer) (crypto.Signer, error) { panic("oh") }},
		func(t *testing.T, s *fakeStore, c *Cache, _ *errorLog) {
			for range 2 {
				if _, err := c.Signing(t.Context(), "example.com"); err == nil || err.Error() != "domain example.com: panic: oh" {
					t.Errorf("got %v", err)
				}
			}
		})
}

func TestCacheRestartsTheWatch(t *testing.T) {
	s := newFakeStore(t)
	s.broken = errors.New("no watches left")
	synctest.Test(t, func(t *testing.T) {
		log := &errorLog{}
		c := NewCache(s, CacheOptions{OnError: log.add})
		begin := time.Now()
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		var pauses []time.Duration
		s.set(func() {
			for _, at := range s.watches {
				pauses = append(pauses, at.Sub(begin))
				begin = at
			}
		})
		want := []time.Duration{0, 1e9, 2e9, 4e9, 8e9, 16e9, 32e9, 60e9, 60e9}
		if len(pauses) < len(want) || !slices.Equal(pauses[:len(want)], want) {
			t.Errorf("pauses %v, want %v …", pauses, want)
		}
		if errs := log.take(); !slices.Equal(errs, []string{": no watches left"}) {
			t.Errorf("errors %q, want one", errs)
		}
		c.Close()
	})
	// A store that has nothing to push is asked once.
	s = newFakeStore(t)
	synctest.Test(t, func(t *testing.T) {
		c := NewCache(s, CacheOptions{})
		time.Sleep(time.Hour)
		s.set(func() {
			if len(s.watches) != 1 {
				t.Errorf("asked %d times", len(s.watches))
			}
		})
		c.Close()
	})
}

func TestCacheIsBounded(t *testing.T) {
	s := newFakeStore(t)
	c := NewCache(s, CacheOptions{MaxEntries: 100})
	defer c.Close()
	for i := range 5000 {
		c.Signing(t.Context(), fmt.Sprintf("d%d.example", i))
	}
	for deadline := time.Now().Add(10 * time.Second); c.Stats().Entries > 150; {
		if time.Now().After(deadline) {
			t.Fatalf("%d entries, want about 100", c.Stats().Entries)
		}
		c.Signing(t.Context(), "d0.example")
		time.Sleep(time.Millisecond)
	}
}

func TestCacheClose(t *testing.T) {
	before := runtime.NumGoroutine()
	s := newFakeStore(t, "example.com", "other.example")
	s.push = make(chan string)
	c := NewCache(s, CacheOptions{})
	mustSign(t, c, "example.com")
	s.set(func() { s.block = make(chan struct{}) })
	failed := make(chan error)
	go func() {
		_, err := c.Signing(context.Background(), "other.example")
		failed <- err
	}()
	for reads, _ := s.counts(); reads < 2; reads, _ = s.counts() {
		time.Sleep(time.Millisecond)
	}
	c.Close()
	if n := s.inside.Load(); n != 0 {
		t.Errorf("Close returned before %d loads did", n)
	}
	c.Close()
	if err := <-failed; !errors.Is(err, ErrClosed) {
		t.Errorf("who waited got %v, want %v", err, ErrClosed)
	}
	if _, err := c.Signing(t.Context(), "example.com"); !errors.Is(err, ErrClosed) {
		t.Errorf("after Close: %v, want %v", err, ErrClosed)
	}
	for deadline := time.Now().Add(5 * time.Second); runtime.NumGoroutine() > before; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			stack := make([]byte, 1<<16)
			t.Fatalf("%d goroutines, %d before:\n%s", runtime.NumGoroutine(), before, stack[:runtime.Stack(stack, true)])
		}
	}
}
