package keystore

import (
	"bytes"
	"context"
	"crypto"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"sync/atomic"
	"time"
)

// entry is what the cache knows of a domain, or of a sender. All but reloading
// stays as it was made. Times are Unix nanoseconds.
type entry struct {
	signing *Signing // of a domain
	absent  error    // ErrNotFound, instead of signing
	sender  *Sender  // of a sender, in place of the two

	change    uint64 // the domain's counter of changes before the load began
	confirmed int64  // when the store last answered
	checked   int64  // when the store was last asked
	refresh   int64  // how long after checked it is to be asked again
	err       error  // why the store did not answer when last asked

	reloading atomic.Int64 // when a reload of this entry began; 0 if none has
}

// loadedKey is a key of a Signing and the row it was loaded for.
type loadedKey struct {
	SigningKey
	public  []byte
	version uint64
}

// loader is the Cache as otter sees it.
type loader Cache

// Load is called when there is no entry.
func (l *loader) Load(_ context.Context, key string) (*entry, error) {
	return (*Cache)(l).load(key, nil)
}

// Reload is called when there is one. It has no error but ErrClosed: the old
// entry, marked, is better.
func (l *loader) Reload(_ context.Context, key string, old *entry) (*entry, error) {
	return (*Cache)(l).load(key, old)
}

// load makes an entry. It does not stop when the caller who caused it goes
// away: others may wait for it.
func (c *Cache) load(key string, old *entry) (*entry, error) {
	ctx, cancel := context.WithTimeout(c.ctx, loadTimeout)
	defer cancel()
	e := &entry{change: c.change(key).Load(), refresh: int64(c.opts.Refresh)}
	e.checked = c.opts.Now().UnixNano()
	if down := c.breaker.down.Load(); down != nil {
		err := fmt.Errorf("%s: %w", about(key), down)
		if old == nil {
			return nil, err
		}
		e.keep(old, err)
		return e, nil
	}
	c.loads.Add(1)
	var err error
	var broken []error
	if isSender(key) {
		if e.sender, err = c.readSender(ctx, key); err == nil {
			broken = e.sender.Broken
		}
	} else if e.signing, err = c.read(ctx, key, old); err == nil {
		broken = e.signing.Broken
	}
	e.checked = c.opts.Now().UnixNano()
	e.confirmed = e.checked
	switch {
	case c.ctx.Err() != nil:
		return nil, ErrClosed
	case err == nil:
		if len(broken) > 0 {
			e.refresh = min(e.refresh, int64(brokenRetry))
		}
		return e, nil
	}
	if errors.Is(err, ErrNotFound) && !isSender(key) {
		e.absent = err
		return e, nil
	}
	c.loadErrors.Add(1)
	if old == nil {
		return nil, err
	}
	e.keep(old, err)
	c.opts.OnError(key, fmt.Errorf("%w (what is cached is %s old)", err, time.Duration(e.checked-e.confirmed).Round(time.Second)))
	return e, nil
}

// keep makes the entry one that says what the old one does, since the store has
// not answered.
func (e *entry) keep(old *entry, err error) {
	e.signing, e.absent, e.sender, e.confirmed, e.err = old.signing, old.absent, old.sender, old.confirmed, err
}

// read asks the store for the domain. A panic in the store, in Prepare or in a
// key is an error of this domain and stops no other.
func (c *Cache) read(ctx context.Context, domain string, old *entry) (s *Signing, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("domain %s: panic: %v", domain, r)
		}
	}()
	dom, err := c.ask(ctx, domain)
	if err != nil {
		return nil, err
	}
	for range maxTorn {
		s, err = c.signing(ctx, domain, dom, old)
		if err != nil || len(s.Broken) == 0 {
			return s, err
		}
		// An unusable key may be one that was removed between the reading of
		// its row and of itself.
		now, err := c.ask(ctx, domain)
		if err != nil || now.Version == dom.Version {
			return s, nil
		}
		dom = now
	}
	return s, nil
}

// signing loads and tests the active keys of the domain, except for those that
// are loaded already. The error means that time was up before they were.
func (c *Cache) signing(ctx context.Context, domain string, dom *Domain, old *entry) (*Signing, error) {
	s := &Signing{Domain: domain}
	for i := range dom.Keys {
		k := &dom.Keys[i]
		if k.State != Active {
			continue
		}
		if known := old.known(k, dom.Version); known != nil {
			s.keys = append(s.keys, *known)
			continue
		}
		key, err := c.loadKey(ctx, domain, k)
		if ctx.Err() != nil {
			return nil, fmt.Errorf("domain %s: loading key %s: %w", domain, k.Selector, ctx.Err())
		}
		if err != nil {
			s.Broken = append(s.Broken, &KeyError{domain, k.Selector, err})
			continue
		}
		s.keys = append(s.keys, loadedKey{*key, k.Public, dom.Version})
	}
	for _, row := range dom.Unreadable {
		if !row.Active {
			continue
		}
		broken := &KeyError{domain, row.Selector, row.Err}
		kept := old.unread(dom, row)
		if len(kept) == 0 {
			s.Broken = append(s.Broken, broken)
			continue
		}
		c.opts.OnError(domain, broken)
		for _, k := range kept { // once, though several rows may be about it
			if !slices.ContainsFunc(s.keys, func(have loadedKey) bool { return have.Selector == k.Selector }) {
				s.keys = append(s.keys, k)
			}
		}
	}
	for _, ed25519 := range []bool{false, true} { // RSA first
		for _, k := range s.keys {
			if (k.Algorithm == Ed25519) == ed25519 {
				s.Keys = append(s.Keys, k.SigningKey)
			}
		}
	}
	return s, nil
}

// known returns the tested key of the entry for the row k. A row without its
// public key is known again only while the domain's version is the same.
func (e *entry) known(k *Key, version uint64) *loadedKey {
	if e == nil || e.signing == nil {
		return nil
	}
	for i := range e.signing.keys {
		l := &e.signing.keys[i]
		if l.Selector == k.Selector && bytes.Equal(l.public, k.Public) && (len(k.Public) > 0 || l.version == version) {
			return l
		}
	}
	return nil
}

// unread returns the tested keys of the entry that the unreadable row may be
// about. A row never goes, so that where its selector cannot be read, it is that
// of a key which has no other.
func (e *entry) unread(dom *Domain, row BadRow) []loadedKey {
	if e == nil || e.signing == nil {
		return nil
	}
	var keys []loadedKey
	for _, l := range e.signing.keys {
		elsewhere := func(r BadRow) bool { return r.Selector == l.Selector }
		if l.Selector == row.Selector || row.Selector == "" && dom.Key(l.Selector) == nil && !slices.ContainsFunc(dom.Unreadable, elsewhere) {
			keys = append(keys, l)
		}
	}
	return keys
}

// loadKey loads, prepares and tests one key.
func (c *Cache) loadKey(ctx context.Context, domain string, k *Key) (*SigningKey, error) {
	if k.Load == nil {
		return nil, errors.New("the store has no private key for it")
	}
	key, err := k.Load(ctx)
	if err != nil {
		return nil, err
	}
	public, algorithm, err := PublicBytes(key.Public())
	if err != nil {
		return nil, err
	}
	if len(k.Public) > 0 && !bytes.Equal(public, k.Public) {
		return nil, errMismatch
	}
	if c.opts.Prepare != nil {
		prepared, err := c.prepare(key, public)
		if err == nil {
			return &SigningKey{k.Selector, algorithm, prepared}, nil
		}
		c.opts.OnError(domain, fmt.Errorf("key %s.%s: signing without the accelerator: %w", k.Selector, domain, err))
	}
	if err := SelfTest(key, public); err != nil {
		return nil, err
	}
	return &SigningKey{k.Selector, algorithm, key}, nil
}

// prepare returns the prepared key if it passes its self-test.
func (c *Cache) prepare(key crypto.Signer, public []byte) (crypto.Signer, error) {
	prepared, err := c.opts.Prepare(key)
	if err != nil {
		return nil, err
	}
	closer, ok := prepared.(io.Closer)
	if err := SelfTest(prepared, public); err != nil {
		if ok {
			closer.Close()
		}
		return nil, err
	}
	if !ok {
		return prepared, nil
	}
	g := &guarded{prepared}
	runtime.AddCleanup(g, func(c io.Closer) { c.Close() }, closer)
	return g, nil
}

// guarded is a key that is closed when nothing refers to it any more.
type guarded struct{ key crypto.Signer }

func (g *guarded) Public() crypto.PublicKey { return g.key.Public() }

func (g *guarded) Sign(random io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	defer runtime.KeepAlive(g) // not closed before Sign has returned
	return g.key.Sign(random, digest, opts)
}
