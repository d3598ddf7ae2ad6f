package keystore

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// downLog collects what OnDown is told.
type downLog struct {
	mu    sync.Mutex
	lines []string
}

func (l *downLog) add(after time.Duration, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, fmt.Sprintf("%v %v", after, err))
}

func (l *downLog) take() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	lines := l.lines
	l.lines = nil
	return lines
}

// A store that refuses connections is asked a few times, and then only by the
// probe, however much mail there is.
func TestCacheStopsAskingADeadStore(t *testing.T) {
	downs := &downLog{}
	inBubble(t, CacheOptions{Refresh: time.Minute, OnDown: downs.add}, func(t *testing.T, s *fakeStore, c *Cache, log *errorLog) {
		mustSign(t, c, "example.com")
		s.set(func() { s.err = errors.New("connection refused") })
		for i := range breakerFailures {
			if _, err := c.Signing(t.Context(), fmt.Sprintf("d%d.example", i)); err == nil {
				t.Fatal("no error")
			}
		}
		synctest.Wait()
		if got := downs.take(); len(got) != 1 || !strings.HasPrefix(got[0], "0s ") || !strings.HasSuffix(got[0], "connection refused") {
			t.Errorf("told %q", got)
		}
		reads, _ := s.counts()
		for i := range 1000 {
			var down *DownError
			if _, err := c.Signing(t.Context(), fmt.Sprintf("e%d.example", i)); !errors.As(err, &down) || !strings.Contains(err.Error(), "connection refused") {
				t.Fatalf("got %v, want a DownError with the reason", err)
			}
		}
		if again, _ := s.counts(); again != reads {
			t.Errorf("asked %d times more", again-reads)
		}
		for range 20 {
			time.Sleep(30 * time.Second)
			if got := selectors(mustSign(t, c, "example.com")); got != "a" {
				t.Fatalf("signs with %q", got)
			}
		}
		if got := c.Down(); got != 10*time.Minute {
			t.Errorf("down for %v, want 10m", got)
		}
		if got := c.Age(); got < 9*time.Minute {
			t.Errorf("age %v, want about 10m", got)
		}
		if got := downs.take(); len(got) < 1 || len(got) > 2 || !strings.HasPrefix(got[0], "5m0") {
			t.Errorf("told %q in ten minutes", got)
		}
		if errs := log.take(); len(errs) > breakerFailures {
			t.Errorf("errors %q", errs)
		}

		s.set(func() { s.err = nil })
		time.Sleep(maxProbePause)
		synctest.Wait()
		if got := downs.take(); c.Down() != 0 || len(got) == 0 || !strings.HasSuffix(got[len(got)-1], " <nil>") {
			t.Errorf("told %q; down for %v", got, c.Down())
		}
		mustSign(t, c, "other.example")
		mustSign(t, c, "example.com") // read again, in the background, though it is not due
		synctest.Wait()
		if got := c.Age(); got != 0 {
			t.Errorf("age %v when the store is back", got)
		}
	})
}

// A store that swallows everything costs the first lookups their time, and then
// none any.
func TestCacheDoesNotWaitForAStoreThatHangs(t *testing.T) {
	inBubble(t, CacheOptions{Refresh: time.Minute}, func(t *testing.T, s *fakeStore, c *Cache, _ *errorLog) {
		mustSign(t, c, "example.com")
		block := make(chan struct{})
		s.set(func() { s.block = block })
		var group sync.WaitGroup
		for i := range breakerFailures {
			group.Go(func() { c.Signing(context.Background(), fmt.Sprintf("d%d.example", i)) })
		}
		time.Sleep(slowLoad + probeTimeout + time.Second)
		begin := time.Now()
		for i := range 100 {
			c.Invalidate("example.com")
			if got := selectors(mustSign(t, c, "example.com")); got != "a" {
				t.Fatalf("signs with %q", got)
			}
			// Even a domain that somebody waits for since before.
			if _, err := c.Signing(t.Context(), fmt.Sprintf("d%d.example", i)); err == nil {
				t.Fatal("no error")
			}
		}
		if took := time.Since(begin); took != 0 {
			t.Errorf("took %v", took)
		}
		close(block)
		s.set(func() { s.block = nil })
		group.Wait()
		time.Sleep(maxProbePause)
		synctest.Wait()
		if c.Down() != 0 {
			t.Errorf("down for %v when the store is back", c.Down())
		}
		mustSign(t, c, "other.example")
	})
}

// slowStore takes its time for every answer, or only for the first one that is no
// error, as a client does that has to find out that one of its hosts is silent.
type slowStore struct {
	*fakeStore
	always bool
	found  atomic.Bool
}

func (s *slowStore) Domain(ctx context.Context, name string) (*Domain, error) {
	if s.always || !s.found.Load() {
		select {
		case <-time.After(probeTimeout + time.Second):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	d, err := s.fakeStore.Domain(ctx, name)
	s.found.Store(answered(err))
	return d, err
}

func TestStoreThatNeedsTimeToBeFoundIsFoundUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fake := newFakeStore(t, "example.com")
		fake.err = errors.New("connection refused")
		c := NewCache(&slowStore{fakeStore: fake}, CacheOptions{})
		defer c.Close()
		for i := range breakerFailures {
			c.Signing(t.Context(), fmt.Sprintf("d%d.example", i))
		}
		time.Sleep(time.Minute)
		if c.Down() == 0 {
			t.Fatal("not found to be down")
		}
		fake.set(func() { fake.err = nil })
		time.Sleep(maxProbePause + loadTimeout)
		if down := c.Down(); down != 0 {
			t.Errorf("down for %v, though it answers", down)
		}
		mustSign(t, c, "example.com")
	})
}

// A store that is always slow does not go up and down.
func TestStoreThatIsSlowStaysDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fake := newFakeStore(t)
		fake.err = errors.New("connection refused")
		downs := &downLog{}
		c := NewCache(&slowStore{fakeStore: fake, always: true}, CacheOptions{OnDown: downs.add})
		defer c.Close()
		for i := range breakerFailures {
			c.Signing(t.Context(), fmt.Sprintf("d%d.example", i))
		}
		time.Sleep(time.Minute)
		fake.set(func() { fake.err = nil })
		time.Sleep(downReport)
		if got := downs.take(); c.Down() == 0 || len(got) != 2 || !strings.Contains(got[1], "an answer takes 3s") {
			t.Errorf("down for %v; told %q", c.Down(), got)
		}
	})
}

// badStore cannot read some domains, and does not say that only these are broken.
type badStore struct{ *fakeStore }

func (s badStore) Domain(ctx context.Context, name string) (*Domain, error) {
	if strings.HasPrefix(name, "bad") {
		s.set(func() { s.reads++ })
		return nil, errors.New("permission denied")
	}
	return s.fakeStore.Domain(ctx, name)
}

func TestBadDomainsDoNotStopOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		downs := &downLog{}
		c := NewCache(badStore{newFakeStore(t, "example.com")}, CacheOptions{OnDown: downs.add})
		defer c.Close()
		for i := range 50 {
			if _, err := c.Signing(t.Context(), fmt.Sprintf("bad%d.example", i%7)); err == nil || !strings.Contains(err.Error(), "permission denied") {
				t.Fatalf("got %v", err)
			}
			synctest.Wait()
		}
		mustSign(t, c, "example.com")
		if got := downs.take(); len(got) != 0 || c.Down() != 0 {
			t.Errorf("told %q", got)
		}
	})
}

func TestCacheClosesWhileTheStoreIsDown(t *testing.T) {
	inBubble(t, CacheOptions{}, func(t *testing.T, s *fakeStore, c *Cache, _ *errorLog) {
		s.set(func() { s.err = errors.New("connection refused") })
		for range 10 {
			c.Signing(t.Context(), "example.com")
		}
		synctest.Wait()
		if c.Down() == 0 {
			t.Fatal("one domain alone does not find out that the store is down")
		}
	}) // which closes it, and waits for its goroutines
}
