package keystore

import (
	"context"
	"crypto"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// fakeStore is a Store in memory whose behaviour a test sets.
type fakeStore struct {
	mu       sync.Mutex
	domains  map[string]*Domain
	err      error         // what Domain answers
	block    chan struct{} // Domain waits until it is closed, or ctx ends
	deaf     bool          // … even if ctx ends
	reads    int           // calls of Domain
	keyLoads int           // calls of Key.Load
	inside   atomic.Int64  // calls of Domain under way

	push    chan string // what Watch reports; nil means no push
	watches []time.Time // calls of Watch
	broken  error       // what Watch returns at once
}

func newFakeStore(t testing.TB, names ...string) *fakeStore {
	s := &fakeStore{domains: make(map[string]*Domain)}
	for _, name := range names {
		s.put(&Domain{Name: name, Version: 1, Keys: []Key{s.key(t, "a", Active)}})
	}
	return s
}

// key makes a key whose loads are counted.
func (s *fakeStore) key(t testing.TB, selector string, state State) Key {
	k := newKey(t, selector)
	load := k.Load
	k.State = state
	k.Load = func(ctx context.Context) (crypto.Signer, error) {
		s.mu.Lock()
		s.keyLoads++
		s.mu.Unlock()
		return load(ctx)
	}
	return k
}

func (s *fakeStore) put(d *Domain) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.domains[d.Name] = d
}

func (s *fakeStore) set(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
}

func (s *fakeStore) counts() (reads, keyLoads int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.reads, s.keyLoads
}

func (s *fakeStore) Domain(ctx context.Context, name string) (*Domain, error) {
	s.inside.Add(1)
	defer s.inside.Add(-1)
	s.mu.Lock()
	s.reads++
	d, err, block, deaf := s.domains[name], s.err, s.block, s.deaf
	if d != nil {
		d = &Domain{Name: d.Name, Version: d.Version, Keys: slices.Clone(d.Keys), Unreadable: d.Unreadable}
	}
	s.mu.Unlock()
	if block != nil {
		select {
		case <-block:
		case <-ctx.Done():
			if deaf {
				<-block
			} else {
				time.Sleep(time.Millisecond)
			}
			return nil, ctx.Err()
		}
	}
	if err == nil && d == nil {
		err = ErrNotFound
	}
	if err != nil {
		return nil, fmt.Errorf("domain %s: %w", name, err)
	}
	return d, nil
}

func (s *fakeStore) Update(context.Context, *Domain) error { panic("not used") }

func (s *fakeStore) List(context.Context, string, int) ([]string, error) { panic("not used") }

func (s *fakeStore) Watch(ctx context.Context, changed func(string)) error {
	s.mu.Lock()
	s.watches = append(s.watches, time.Now())
	push, broken := s.push, s.broken
	s.mu.Unlock()
	if broken != nil || push == nil {
		return broken
	}
	for {
		select {
		case domain := <-push:
			changed(domain)
		case <-ctx.Done():
			return nil
		}
	}
}

// errorLog collects what OnError is told.
type errorLog struct {
	mu   sync.Mutex
	errs []string
}

func (l *errorLog) add(domain string, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.errs = append(l.errs, domain+": "+err.Error())
}

func (l *errorLog) take() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	errs := l.errs
	l.errs = nil
	return errs
}
