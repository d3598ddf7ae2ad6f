package keystore

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// senderStore is a fakeStore that knows of senders.
type senderStore struct {
	*fakeStore
	senders map[string]*Sender
	asked   int
}

func (s *senderStore) KnowsSenders() bool { return true }

func (s *senderStore) Sender(ctx context.Context, address string) (*Sender, error) {
	s.mu.Lock()
	s.asked++
	answer, err, block := s.senders[address], s.err, s.block
	s.mu.Unlock()
	if block != nil {
		select {
		case <-block:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	switch {
	case err != nil:
		return nil, fmt.Errorf("author %s: %w", address, err)
	case answer == nil:
		answer = &Sender{}
	}
	return answer, nil
}

func (s *senderStore) asks() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked
}

func senderBubble(t *testing.T, opts CacheOptions, test func(t *testing.T, s *senderStore, c *Cache, log *errorLog)) {
	t.Helper()
	s := &senderStore{fakeStore: newFakeStore(t, "example.com"), senders: map[string]*Sender{
		"ann@example.com": {Row: "example.com", Keys: []SenderKey{{"example.com", "a", ""}}},
		"bad@example.com": {Row: "bad@example.com", Broken: []error{errors.New("no selector")}},
	}}
	synctest.Test(t, func(t *testing.T) {
		inBubbleBefore(t, s, opts, func(t *testing.T, c *Cache, log *errorLog) { test(t, s, c, log) })
	})
}

func mustAsk(t testing.TB, c *Cache, address string) *Sender {
	t.Helper()
	s, err := c.Sender(t.Context(), address)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestCacheRemembersSenders(t *testing.T) {
	senderBubble(t, CacheOptions{Refresh: time.Minute}, func(t *testing.T, s *senderStore, c *Cache, log *errorLog) {
		if _, _, ok := c.CachedSender("ann@example.com"); ok {
			t.Error("answered about an author of whom nobody has asked")
		}
		for range 10 {
			if got := mustAsk(t, c, "ann@example.com"); got.Row != "example.com" || len(got.Keys) != 1 {
				t.Fatalf("got %+v", got)
			}
			if got := mustAsk(t, c, "none@example.com"); got.Row != "" || len(got.Keys) != 0 {
				t.Fatalf("an author without a row: %+v", got)
			}
		}
		if n := s.asks(); n != 2 {
			t.Errorf("asked %d times for two authors", n)
		}
		if got, err, ok := c.CachedSender("ann@example.com"); !ok || err != nil || got.Row != "example.com" {
			t.Errorf("got %+v, %v, %v", got, err, ok)
		}
		mustSign(t, c, "example.com") // which is another entry
		s.set(func() { s.senders["ann@example.com"] = &Sender{Row: "ann@example.com"} })
		time.Sleep(time.Minute)
		mustAsk(t, c, "ann@example.com")
		synctest.Wait()
		if got := mustAsk(t, c, "ann@example.com"); got.Row != "ann@example.com" {
			t.Errorf("after the refresh: %+v", got)
		}
		s.set(func() { delete(s.senders, "ann@example.com") })
		c.InvalidateAll()
		if _, _, ok := c.CachedSender("ann@example.com"); ok {
			t.Error("answered from memory after a change")
		}
		if got := mustAsk(t, c, "ann@example.com"); got.Row != "" {
			t.Errorf("after a change: %+v", got)
		}
		// A row that cannot be used is looked at again sooner.
		asks := s.asks()
		mustAsk(t, c, "bad@example.com")
		time.Sleep(brokenRetry)
		mustAsk(t, c, "bad@example.com")
		synctest.Wait()
		if n := s.asks() - asks; n != 2 {
			t.Errorf("a broken row was read %d times, want 2", n)
		}
		if errs := log.take(); len(errs) > 0 {
			t.Errorf("errors %q", errs)
		}
	})
}

func TestCacheAsksOnceAboutASenderForAllWhoWait(t *testing.T) {
	senderBubble(t, CacheOptions{}, func(t *testing.T, s *senderStore, c *Cache, _ *errorLog) {
		block := make(chan struct{})
		s.set(func() { s.block = block })
		var group sync.WaitGroup
		for range 50 {
			group.Go(func() {
				if got, err := c.Sender(t.Context(), "ann@example.com"); err != nil || got.Row != "example.com" {
					t.Errorf("got %+v, %v", got, err)
				}
			})
		}
		synctest.Wait()
		close(block)
		group.Wait()
		if n := s.asks(); n != 1 {
			t.Errorf("asked %d times", n)
		}
	})
}

// Senders share the breaker with domains: they open it, and heed it.
func TestCacheServesTheLastGoodSenderWhileTheStoreIsDown(t *testing.T) {
	senderBubble(t, CacheOptions{Refresh: time.Minute}, func(t *testing.T, s *senderStore, c *Cache, log *errorLog) {
		mustAsk(t, c, "ann@example.com")
		mustAsk(t, c, "none@example.com")
		s.set(func() { s.err = errors.New("connection refused") })
		for minute := range 60 {
			time.Sleep(time.Minute)
			if got := mustAsk(t, c, "ann@example.com"); got.Row != "example.com" {
				t.Fatalf("minute %d: %+v", minute, got)
			}
			if got := mustAsk(t, c, "none@example.com"); got.Row != "" {
				t.Fatalf("minute %d: %+v", minute, got)
			}
		}
		synctest.Wait()
		if c.Down() == 0 || c.Age() != time.Hour {
			t.Errorf("down for %v, age %v", c.Down(), c.Age())
		}
		asks := s.asks()
		var down *DownError
		if _, err := c.Sender(t.Context(), "cold@example.com"); !errors.As(err, &down) || !strings.Contains(err.Error(), "author cold@example.com") {
			t.Errorf("nothing cached: %v", err)
		}
		if n := s.asks(); n != asks {
			t.Error("a store that is down was asked about a sender")
		}
		if errs := log.take(); len(errs) == 0 || !strings.Contains(errs[0], "@example.com: author ") {
			t.Errorf("errors %q", errs)
		}
		s.set(func() { s.err = nil; s.senders["ann@example.com"] = &Sender{Row: "*"} })
		time.Sleep(time.Minute)
		mustAsk(t, c, "ann@example.com")
		mustAsk(t, c, "none@example.com")
		synctest.Wait()
		if got := mustAsk(t, c, "ann@example.com"); got.Row != "*" || c.Age() != 0 {
			t.Errorf("the store is back: %+v, age %v", got, c.Age())
		}
	})
}

// What a database says that makes no sense is no sign of its being down.
func TestAnAnswerAboutASenderThatIsNoneOpensNoBreaker(t *testing.T) {
	senderBubble(t, CacheOptions{}, func(t *testing.T, s *senderStore, c *Cache, _ *errorLog) {
		s.set(func() { s.err = fmt.Errorf("a wrong query: %w", ErrBroken) })
		for i := range 10 {
			if _, err := c.Sender(t.Context(), fmt.Sprintf("a%d@example.com", i)); !errors.Is(err, ErrBroken) {
				t.Fatal(err)
			}
		}
		s.set(func() { s.err = ErrNotFound })
		if _, err := c.Sender(t.Context(), "ann@example.com"); !errors.Is(err, ErrNotFound) {
			t.Errorf("got %v", err)
		}
		synctest.Wait()
		if c.Down() > 0 {
			t.Error("the store counts as down")
		}
	})
}

func TestCacheSurvivesAPanicAboutASender(t *testing.T) {
	s := newFakeStore(t)
	c := NewCache(panicking{&senderStore{fakeStore: s}}, CacheOptions{})
	defer c.Close()
	if _, err := c.Sender(t.Context(), "ann@example.com"); err == nil || err.Error() != "author ann@example.com: panic: oh" {
		t.Errorf("got %v", err)
	}
	without := NewCache(s, CacheOptions{})
	defer without.Close()
	if _, err := without.Sender(t.Context(), "ann@example.com"); err == nil {
		t.Error("a store that knows of no senders has answered")
	}
}

type panicking struct{ *senderStore }

func (panicking) Sender(context.Context, string) (*Sender, error) { panic("oh") }

// There are many more authors than domains, and they take little.
func TestSendersTakeNoRoomOfDomains(t *testing.T) {
	opts := CacheOptions{MaxEntries: 10, MaxBytes: 1 << 20}
	weigh := opts.weigher()
	sender := &entry{sender: &Sender{Row: "*", Keys: []SenderKey{{"example.com", "a", ""}, {"example.org", "a", "@example.org"}}}}
	if got, domain := weigh("ann@example.com", sender), weigh("example.com", &entry{}); got > 2048 || domain != (1<<20+9)/10 {
		t.Errorf("a sender weighs %d, a domain %d", got, domain)
	}
	huge := &entry{sender: &Sender{Broken: []error{errors.New(strings.Repeat("x", 1<<20))}}}
	if got := weigh("ann@example.com", huge); got < 1<<20 || got == math.MaxUint32 {
		t.Errorf("a long error weighs %d", got)
	}

	below := newFakeStore(t)
	s := &senderStore{fakeStore: below, senders: map[string]*Sender{}}
	c := NewCache(s, CacheOptions{Refresh: time.Hour})
	defer c.Close()
	const authors = 500
	before := heap()
	var size int64
	for i := range authors {
		address := fmt.Sprintf("a%d@example.com", i)
		below.set(func() {
			s.senders[address] = &Sender{Row: "example.com", Keys: []SenderKey{{strings.Clone("example.com"), strings.Clone("a"), ""}}}
		})
		mustAsk(t, c, address)
		e, _ := c.entries.GetIfPresent(address)
		size += e.size()
	}
	if took := heap() - before; took > size {
		t.Errorf("%d bytes a sender, estimated as %d", took/authors, size/authors)
	}
}

func BenchmarkWarmSender(b *testing.B) {
	s := &senderStore{fakeStore: newFakeStore(b), senders: map[string]*Sender{"ann@example.com": {Row: "*"}}}
	c := NewCache(s, CacheOptions{Refresh: time.Hour})
	defer c.Close()
	mustAsk(b, c, "ann@example.com")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.Sender(b.Context(), "ann@example.com"); err != nil {
			b.Fatal(err)
		}
	}
}
