package keystore

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// breakerFailures is after how many failed reads in a row the store is
	// suspected to be down.
	breakerFailures = 3

	// slowLoad is how long a read may take before it counts as failed, though
	// it goes on: with a store that swallows packets, errors come too late.
	slowLoad = loadTimeout / 2

	// probeTimeout is how long a store that is up may take to answer the probe.
	// Once it is down the probe waits for loadTimeout, since a client with several
	// hosts may need its time to find the one that answers; then the next answer
	// counts. probePause is the time between two questions, which doubles up to
	// maxProbePause.
	probeTimeout  = 2 * time.Second
	probePause    = time.Second
	maxProbePause = 15 * time.Second

	// downReport is how often OnDown is told that a store is still down.
	downReport = 5 * time.Minute

	// probeName is a domain that no store has (RFC 2606, section 2). A store
	// that says so is up, whatever is wrong with single domains in it.
	probeName = "waxseal-probe.invalid"
)

// DownError is what a Cache answers for a domain that is not in memory while
// the store is down: it has not been asked.
type DownError struct {
	Since time.Time // when the store was found to be down
	Err   error     // why it did not answer then
}

func (e *DownError) Error() string {
	return fmt.Sprintf("keystore does not answer since %s: %v", e.Since.UTC().Format(time.RFC3339), e.Err)
}

func (e *DownError) Unwrap() error { return e.Err }

// breaker keeps mail from waiting for a store that is down. After several
// failed reads in a row it asks the store for a domain that does not exist. If
// that fails, too, the store is down: nothing but the breaker asks it, until it
// answers.
type breaker struct {
	down      atomic.Pointer[DownError] // nil while the store is up
	recovered atomic.Int64              // when it was last down, in Unix nanoseconds; 0 for never

	mu       sync.Mutex
	failures int  // guarded by mu; in a row
	probing  bool // guarded by mu; Cache.probe runs
}

// answered reports whether an error of the store is an answer.
func answered(err error) bool {
	return err == nil || errors.Is(err, ErrNotFound) || errors.Is(err, ErrBroken)
}

// ask asks the store for a domain and its keys.
func (c *Cache) ask(ctx context.Context, domain string) (dom *Domain, err error) {
	read := c.store.Domain
	if s, ok := c.store.(SigningStore); ok {
		read = s.Signing
	}
	c.counted(domain, func() error {
		dom, err = read(ctx, domain)
		return err
	})
	return dom, err
}

// counted asks the store something, and counts whether it answers.
func (c *Cache) counted(key string, ask func() error) {
	slow := time.AfterFunc(slowLoad, func() { c.failed(fmt.Errorf("%s: no answer within %s", about(key), slowLoad)) })
	err := ask()
	counted := !slow.Stop()
	switch {
	case answered(err):
		c.breaker.mu.Lock()
		c.breaker.failures = 0
		c.breaker.mu.Unlock()
	case !counted:
		c.failed(err)
	}
}

// failed counts a read that went wrong.
func (c *Cache) failed(err error) {
	if c.ctx.Err() != nil {
		return
	}
	b := &c.breaker
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.failures++; b.failures < breakerFailures || b.probing {
		return
	}
	b.probing = true
	c.spawn(func() { c.probe(err) })
}

// probe finds out whether the store is down, and if so, when it is up again.
func (c *Cache) probe(cause error) {
	var down *DownError
	var told time.Time
	for pause := probePause; c.ctx.Err() == nil; {
		timeout := probeTimeout
		if down != nil {
			timeout = loadTimeout
		}
		asked := time.Now()
		err := c.askProbe(timeout)
		if took := time.Since(asked); answered(err) && took > probeTimeout {
			err, pause = fmt.Errorf("an answer takes %v", took.Round(100*time.Millisecond)), probePause
		}
		now := c.opts.Now()
		switch {
		case answered(err):
			c.up(down, now)
			return
		case c.ctx.Err() != nil:
			return
		case down == nil:
			down, told = &DownError{Since: now, Err: cause}, now
			c.breaker.down.Store(down)
			c.opts.OnDown(0, cause)
		case now.Sub(told) >= downReport:
			told = now
			c.opts.OnDown(now.Sub(down.Since), err)
		}
		select {
		case <-time.After(pause):
			pause = min(2*pause, maxProbePause)
		case <-c.ctx.Done():
		}
	}
}

// up ends a probe. Without a DownError only some domains cannot be read.
func (c *Cache) up(down *DownError, now time.Time) {
	b := &c.breaker
	b.mu.Lock()
	b.failures, b.probing = 0, false
	if down != nil {
		b.down.Store(nil)
		b.recovered.Store(c.opts.Now().UnixNano()) // no earlier than what load has marked
	}
	b.mu.Unlock()
	if down != nil {
		c.opts.OnDown(now.Sub(down.Since), nil)
	}
}

// askProbe asks the store for the domain that does not exist.
func (c *Cache) askProbe(timeout time.Duration) (err error) {
	ctx, cancel := context.WithTimeout(c.ctx, timeout)
	defer cancel()
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic: %v", r)
		}
	}()
	_, err = c.store.Domain(ctx, probeName)
	return err
}

// Down returns for how long the store has been known not to answer, and 0 while
// it does.
func (c *Cache) Down() time.Duration {
	down := c.breaker.down.Load()
	if down == nil {
		return 0
	}
	return max(c.opts.Now().Sub(down.Since), 1)
}
