package keeper

import (
	"sync"
	"time"
)

// backoff makes tries with a domain rarer while they fail: after the first
// failure one round is left out, then two, four, and at most maxSkipped. A
// domain that works is not remembered.
type backoff struct {
	mu    sync.Mutex // guards state
	state map[string]trouble
}

type trouble struct {
	failures int
	until    time.Time
}

const (
	maxSkipped = 16 // rounds: under three hours with the default interval

	// maxTroubled bounds the memory: further domains are tried in each round.
	maxTroubled = 100_000
)

func (b *backoff) due(domain string, now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return !now.Before(b.state[domain].until)
}

func (b *backoff) done(domain string, ok bool, now time.Time, interval time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if ok {
		delete(b.state, domain)
		return
	}
	t, known := b.state[domain]
	if !known && len(b.state) >= maxTroubled {
		return
	}
	if b.state == nil {
		b.state = make(map[string]trouble)
	}
	skip := min(1<<min(t.failures, 10), maxSkipped)
	b.state[domain] = trouble{t.failures + 1, now.Add(time.Duration(skip) * interval).Add(interval / 2)}
}
