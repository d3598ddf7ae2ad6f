package keystore

import (
	"cmp"
	"context"
	"crypto"
	"errors"
	"fmt"
	"hash/maphash"
	"sync"
	"sync/atomic"
	"time"

	"github.com/maypok86/otter/v2"
)

const (
	defaultRefresh    = time.Minute
	defaultMaxEntries = 10_000
	defaultMaxBytes   = 128 << 20

	// brokenRetry is how soon a domain with an unusable key is looked at
	// again, if that is sooner than the refresh.
	brokenRetry = 10 * time.Second

	// maxTorn is how often a domain that changes while it is loaded is loaded
	// anew.
	maxTorn = 3

	// loadTimeout bounds one load of a domain and its keys, and patience how
	// long a lookup that has something to serve waits for one: an MTA waits,
	// but not for ever.
	loadTimeout = 10 * time.Second
	patience    = 2 * time.Second

	// watchRetry is the first pause after Store.Watch broke down; it doubles
	// up to maxWatchRetry.
	watchRetry    = time.Second
	maxWatchRetry = time.Minute

	// stripes is how many counters of changes there are. Domains that share
	// one are read again together, which costs a read and no key test.
	stripes = 1024
)

// ErrClosed is what a closed Cache answers.
var ErrClosed = errors.New("key cache is closed")

// Signing is what a domain signs with. It is shared and must not be changed.
type Signing struct {
	Domain string

	// Keys are the active keys that can be used, tested, RSA before Ed25519
	// and otherwise in the store's order. None means that the domain exists
	// but has no active key, unless Broken says more.
	Keys []SigningKey

	// Broken has a *KeyError for each active key that cannot be used.
	Broken []error

	keys []loadedKey // those of Keys, with what is needed to know them again
}

// KeyError says why an active key cannot be used.
type KeyError struct {
	Domain   string
	Selector string // empty if it is not known, since the key's row cannot be read
	Err      error
}

func (e *KeyError) Error() string {
	if e.Selector == "" {
		return fmt.Sprintf("a key of %s: %v", e.Domain, e.Err)
	}
	return fmt.Sprintf("key %s.%s: %v", e.Selector, e.Domain, e.Err)
}

func (e *KeyError) Unwrap() error { return e.Err }

// SigningKey is a key that has passed its self-test. The Signer stays valid
// for as long as it is referenced, whatever happens to the key in the store:
// see CacheOptions.Prepare.
type SigningKey struct {
	Selector  string
	Algorithm Algorithm
	Signer    crypto.Signer
}

// CacheOptions sets up a Cache. The zero value works.
type CacheOptions struct {
	// Prepare turns a loaded key into the one that signs, for example one
	// that an accelerator runs; nil leaves keys as they are. If it returns an
	// error, or a key that fails its self-test, the key is used unprepared
	// and OnError is told.
	//
	// If the prepared key is an io.Closer, it is closed once nothing refers
	// to it any more: neither the cache nor a Signing nor a SigningKey.Signer
	// that somebody still holds. The garbage collector finds that moment, so
	// nobody counts references, and a key is never closed under a signature.
	Prepare func(crypto.Signer) (crypto.Signer, error)

	// Refresh is how long an entry is served before it is read again, in the
	// background, when it is next used. Default 1 minute. An entry unused for
	// twice that long is read again before it is served.
	Refresh time.Duration

	// MaxEntries bounds how many domains are kept, those unknown to the store
	// included. Default 10,000.
	MaxEntries int

	// MaxBytes bounds the memory that they take, as estimated from the kinds of
	// their keys. Default 128 MiB. The bound that is reached first counts.
	// Domains in frequent use are kept, however many others are asked for.
	MaxBytes int64

	// OnError is told of errors that no caller sees, when they happen: a
	// refresh that did not work (once per Refresh and domain, and not while
	// the store is known to be down), a key that could not be prepared, and,
	// with an empty domain, a watch that broke down. Where it is about a sender,
	// the domain is an address. It may be called from several goroutines at once.
	OnError func(domain string, err error)

	// OnDown is told when the store is found to be down, with the reason and
	// after 0; every five minutes of that, after how long; and, with a nil err,
	// when it is up again. It is called from one goroutine.
	OnDown func(after time.Duration, err error)

	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// Cache stands before a Store, so that signing does not wait for it. What it
// has answered once it answers from memory: in less than a microsecond,
// without touching the store, and with keys that were loaded and tested
// before. It loads a domain when it is first asked for, one load at a time for
// each domain; it remembers also which domains do not exist.
//
// Entries in use are refreshed in the background; after the store reported a
// change the next lookup waits for the new state. While the store does not
// answer, the last good entry keeps signing; Age tells for how long. Once a
// store is known to be down (Down), no lookup waits for it. A key whose row did
// not change is not loaded again, so a damaged key file does not stop a key that
// works; nor does a row that can no longer be read.
//
// A Cache may be used by many goroutines.
type Cache struct {
	store   Store
	opts    CacheOptions
	entries *otter.Cache[string, *entry]

	// changes counts, by the hash of the domain, what the store reported. An
	// entry that was loaded under another count is out of date.
	changes [stripes]atomic.Uint64
	seed    maphash.Seed

	breaker breaker

	ctx    context.Context
	cancel context.CancelFunc
	closed atomic.Bool

	mu    sync.Mutex     // guards against tasks.Add after tasks.Wait
	tasks sync.WaitGroup // the watch, and what otter runs

	hits, loads, loadErrors, stale atomic.Uint64
}

// NewCache starts a Cache before the store; Close stops it.
func NewCache(store Store, opts CacheOptions) *Cache {
	opts.Refresh = cmp.Or(max(opts.Refresh, 0), defaultRefresh)
	opts.MaxEntries = cmp.Or(max(opts.MaxEntries, 0), defaultMaxEntries)
	opts.MaxBytes = cmp.Or(max(opts.MaxBytes, 0), defaultMaxBytes)
	if opts.Now == nil {
		opts.Now = time.Now
	}
	if opts.OnError == nil {
		opts.OnError = func(string, error) {}
	}
	if opts.OnDown == nil {
		opts.OnDown = func(time.Duration, error) {}
	}
	c := &Cache{store: store, opts: opts, seed: maphash.MakeSeed()}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	c.entries = otter.Must(&otter.Options[string, *entry]{
		MaximumWeight: uint64(opts.MaxBytes),
		Weigher:       opts.weigher(),
		Executor:      c.spawn,
		Logger:        &otter.NoopLogger{},
		// Refreshes are asked for one by one, in lookup: when an entry is due
		// depends on more than its age. Without a calculator there are none.
		RefreshCalculator: otter.RefreshWriting[string, *entry](1 << 62),
	})
	c.spawn(c.watch)
	return c
}

// Signing returns what the domain signs with. The error is ErrNotFound
// (wrapped) if the store has no such domain, ErrClosed after Close, that of
// the store or a *DownError if it does not answer and nothing is cached, or
// that of ctx if it ends first.
func (c *Cache) Signing(ctx context.Context, domain string) (*Signing, error) {
	e, err := c.lookup(ctx, domain)
	if err != nil {
		return nil, err
	}
	return e.signing, e.absent
}

// Cached is Signing for callers that cannot wait: ok is false when the answer
// would take a look at the store.
func (c *Cache) Cached(domain string) (s *Signing, err error, ok bool) {
	e, err, ok := c.cached(domain)
	if err != nil || !ok {
		return nil, err, ok
	}
	return e.signing, e.absent, true
}

// lookup returns the entry of a key: a domain, or an author's address.
func (c *Cache) lookup(ctx context.Context, key string) (*entry, error) {
	if c.closed.Load() {
		return nil, ErrClosed
	}
	e, ok := c.entries.GetIfPresent(key)
	if !ok {
		return c.wait(ctx, key, nil)
	}
	now := c.opts.Now().UnixNano()
	switch age := now - e.checked; {
	case c.outdated(key, e, age):
		return c.wait(ctx, key, e)
	case (age >= e.refresh || c.marked(e)) && e.reloading.CompareAndSwap(0, now):
		c.entries.Refresh(ctx, key, (*loader)(c))
	}
	c.hits.Add(1)
	return c.serve(e), nil
}

// cached is lookup where that takes no look at the store.
func (c *Cache) cached(key string) (e *entry, err error, ok bool) {
	e, ok = c.entries.GetIfPresent(key)
	if !ok || c.outdated(key, e, c.opts.Now().UnixNano()-e.checked) {
		return nil, nil, false
	}
	e, err = c.lookup(c.ctx, key)
	return e, err, true
}

// outdated reports whether the entry is not to be served before the store was
// asked. One of the future is: the clock was set back.
func (c *Cache) outdated(key string, e *entry, age int64) bool {
	return e.change != c.change(key).Load() || age >= 2*e.refresh || age < 0
}

// marked reports whether the entry was last refreshed in vain, and the store is
// up again since.
func (c *Cache) marked(e *entry) bool {
	return e.err != nil && e.checked <= c.breaker.recovered.Load()
}

// serve counts an entry that is an answer.
func (c *Cache) serve(e *entry) *entry {
	if e.err != nil {
		c.stale.Add(1)
	}
	return e
}

// wait answers with a newly loaded entry. If it does not come in time, it
// answers with e, the one there was, if any. The load goes on when ctx ends,
// for those who ask next.
func (c *Cache) wait(ctx context.Context, key string, e *entry) (*entry, error) {
	if down := c.breaker.down.Load(); down != nil && e == nil {
		return nil, fmt.Errorf("%s: %w", about(key), down)
	}
	var timeout <-chan time.Time
	if e != nil {
		now := c.opts.Now().UnixNano()
		e.reloading.CompareAndSwap(0, now)
		left := patience - time.Duration(now-e.reloading.Load())
		if left <= 0 { // the load is stuck, and those who came first have waited for it
			return c.serve(e), nil
		}
		timer := time.NewTimer(left)
		defer timer.Stop()
		timeout = timer.C
	}
	for range 2 { // a change that was reported during one load is seen by the next
		select {
		case r := <-c.entries.Refresh(ctx, key, (*loader)(c)):
			if r.Err != nil {
				return nil, r.Err
			}
			e = r.Value
			if e.change == c.change(key).Load() {
				return c.serve(e), nil
			}
		case <-timeout:
			return c.serve(e), nil
		case <-ctx.Done():
			if e != nil {
				return c.serve(e), nil
			}
			return nil, fmt.Errorf("%s: waiting for the keystore: %w", about(key), ctx.Err())
		}
	}
	return c.serve(e), nil
}

// change returns the counter of changes of a domain. What a store knows of
// senders changes with InvalidateAll only.
func (c *Cache) change(key string) *atomic.Uint64 {
	return &c.changes[maphash.String(c.seed, key)%stripes]
}

// Invalidate makes the next lookup of the domain read it from the store. What
// is cached is kept for the case that the store does not answer.
func (c *Cache) Invalidate(domain string) { c.change(domain).Add(1) }

// InvalidateAll does that for every domain.
func (c *Cache) InvalidateAll() {
	for i := range c.changes {
		c.changes[i].Add(1)
	}
}

// changed is told by Store.Watch.
func (c *Cache) changed(domain string) {
	if domain == "" {
		c.InvalidateAll()
		return
	}
	c.Invalidate(domain)
}

// watch keeps Store.Watch running, with pauses after errors.
func (c *Cache) watch() {
	pause := watchRetry
	for {
		began := c.opts.Now()
		err := c.store.Watch(c.ctx, c.changed)
		if err == nil || c.ctx.Err() != nil {
			return // told to stop, or the store has nothing to push
		}
		if c.opts.Now().Sub(began) > maxWatchRetry {
			pause = watchRetry
		}
		if pause == watchRetry { // once for a row of errors
			c.opts.OnError("", err)
		}
		select {
		case <-time.After(pause):
			pause = min(2*pause, maxWatchRetry)
		case <-c.ctx.Done():
			return
		}
	}
}

// Age returns for how long the store has not confirmed the oldest entry that
// is served although its last refresh went wrong, and 0 while every refresh
// works. It looks at every entry.
func (c *Cache) Age() time.Duration {
	now := c.opts.Now().UnixNano()
	var oldest time.Duration
	for e := range c.entries.Values() {
		if e.err != nil && now-e.checked < 2*e.refresh { // else it is read again before it is served
			oldest = max(oldest, time.Duration(now-e.confirmed))
		}
	}
	return oldest
}

// CacheStats counts since the start, except for Entries.
type CacheStats struct {
	Entries    int    // domains in memory, those that do not exist included, and senders
	Hits       uint64 // lookups answered from memory
	Loads      uint64 // reads of a domain or a sender from the store
	LoadErrors uint64 // those that went wrong, other than by ErrNotFound
	Stale      uint64 // lookups answered with an entry whose last refresh went wrong
}

// Stats returns the counters.
func (c *Cache) Stats() CacheStats {
	return CacheStats{
		Entries:    c.entries.EstimatedSize(),
		Hits:       c.hits.Load(),
		Loads:      c.loads.Load(),
		LoadErrors: c.loadErrors.Load(),
		Stale:      c.stale.Load(),
	}
}

// Close stops the cache, waits for its loads, which it cancels, and forgets
// every key.
func (c *Cache) Close() {
	c.mu.Lock()
	c.closed.Store(true)
	c.mu.Unlock()
	c.cancel()
	c.tasks.Wait()
	c.entries.InvalidateAll()
}

// spawn runs a task of the cache in a goroutine that Close waits for.
func (c *Cache) spawn(task func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed.Load() { // otter's last tasks, which must run and do not wait
		go task()
		return
	}
	c.tasks.Go(task)
}
