package dns

import (
	"context"
	"errors"
	"sync"
	"time"
)

const (
	// memoTime is how long something asked about a zone is remembered; errors
	// for a shorter time, because they pass.
	memoTime      = time.Minute
	memoErrorTime = 10 * time.Second

	// maxMemo bounds what is remembered of each kind.
	maxMemo = 4096
)

// memo remembers what a question brought, and makes those who ask the same at
// the same time wait for one answer. The zero value, with now set, is empty.
type memo[T any] struct {
	now func() time.Time

	mu      sync.Mutex
	entries map[string]*memory[T] // guarded by mu
}

type memory[T any] struct {
	done  chan struct{} // closed when the rest is set
	value T
	err   error
	until time.Time
}

func (e *memory[T]) finished() bool {
	select {
	case <-e.done:
		return true
	default:
		return false
	}
}

// get returns what is remembered under the key, or else calls find. An error
// that came from another caller's context is not passed on.
func (m *memo[T]) get(ctx context.Context, key string, find func() (T, error)) (T, error) {
	for {
		e, mine := m.entry(key)
		if mine {
			e.value, e.err = find()
			e.until = m.now().Add(memoTime)
			if e.err != nil {
				e.until = m.now().Add(memoErrorTime)
			}
			if isContext(e.err) {
				m.forget(key, e)
			}
			close(e.done)
			return e.value, e.err
		}
		select {
		case <-e.done:
		case <-ctx.Done():
			var none T
			return none, ctx.Err()
		}
		if !isContext(e.err) {
			return e.value, e.err
		}
	}
}

// entry returns the entry of the key, and whether the caller is to fill it.
func (m *memo[T]) entry(key string) (e *memory[T], mine bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.now()
	if e, ok := m.entries[key]; ok && (!e.finished() || now.Before(e.until)) {
		return e, false
	}
	if len(m.entries) >= maxMemo {
		m.makeRoom(now)
	}
	if m.entries == nil {
		m.entries = map[string]*memory[T]{}
	}
	e = &memory[T]{done: make(chan struct{})}
	m.entries[key] = e
	return e, true
}

// makeRoom forgets what is too old, and any quarter if that is not enough.
// Whoever waits for an entry has it in hand. m.mu is held.
func (m *memo[T]) makeRoom(now time.Time) {
	for key, e := range m.entries {
		if e.finished() && !now.Before(e.until) {
			delete(m.entries, key)
		}
	}
	for key := range m.entries {
		if len(m.entries) <= maxMemo*3/4 {
			return
		}
		delete(m.entries, key)
	}
}

func (m *memo[T]) forget(key string, e *memory[T]) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.entries[key] == e {
		delete(m.entries, key)
	}
}

func isContext(err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}
