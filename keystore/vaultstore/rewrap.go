package vaultstore

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"waxseal/keystore"
)

// Rewrap stores the private halves of a domain anew that are not as
// Options.Rewrap would have them, and returns the selectors of these; a dry run
// only returns them. All that are replaced are one new version of the secret, and
// what the engine keeps of former versions is destroyed, since they have the
// private halves as they were: unless a key cannot be read, which is an error,
// stops no other, and leaves them for its repair. It may be repeated and
// interrupted at any time, and a domain that somebody else changes meanwhile is
// keystore.ErrConflict (wrapped). Keys in the transit engine are left alone. The
// error is keystore.ErrReadOnly in another product's layout.
func (s *Store) Rewrap(ctx context.Context, domain string, dryRun bool) ([]string, error) {
	n, ok := s.layout.(*native)
	switch {
	case !ok:
		return nil, fmt.Errorf("domain %s: %w", domain, keystore.ErrReadOnly)
	case s.opts.Rewrap == nil:
		return nil, errors.New("no key to encrypt with")
	}
	if err := keystore.ValidDomain(domain); err != nil {
		return nil, fmt.Errorf("%w: %w", err, keystore.ErrNotFound)
	}
	ctx, cancel := context.WithTimeout(ctx, s.opts.Timeout)
	defer cancel()
	done, err := n.rewrap(ctx, domain, dryRun)
	if errors.Is(err, keystore.ErrConflict) {
		err = fmt.Errorf("%w; run it again", err)
	}
	if err != nil {
		err = fmt.Errorf("domain %s: %w", domain, err)
	}
	return done, err
}

func (n *native) rewrap(ctx context.Context, domain string, dryRun bool) (done []string, err error) {
	d, s, version, err := n.read(ctx, domain)
	if err != nil {
		return nil, err
	}
	errs := []error{d.Whole()}
	for i := range d.Keys {
		k := &d.Keys[i]
		stored, ok := s.Keys[k.Selector]
		if k.State == keystore.Removed || strings.HasPrefix(stored, inTransit) {
			continue
		}
		next, err := n.rewrapped(domain, k, stored, ok)
		if err != nil {
			errs = append(errs, &keystore.KeyError{Domain: domain, Selector: k.Selector, Err: err})
		} else if next != nil {
			s.Keys[k.Selector] = string(next)
			done = append(done, k.Selector)
		}
	}
	failed := errors.Join(errs...)
	if dryRun {
		return done, failed
	}
	if len(done) > 0 {
		s.mark()
		if version, err = n.write(ctx, domain, s, version); err != nil {
			return nil, errors.Join(failed, err)
		}
	}
	if failed == nil {
		failed = n.destroyBefore(ctx, domain, version)
	}
	return done, failed
}

// rewrapped returns what is to be stored of a key; nil: what there is.
func (n *native) rewrapped(domain string, k *keystore.Key, stored string, ok bool) ([]byte, error) {
	switch {
	case !ok:
		return nil, errMissing
	case len(stored) > maxValue:
		return nil, fmt.Errorf("private half of %d bytes, want at most %d", len(stored), maxValue)
	}
	return n.opts.Rewrap(domain, k, []byte(stored))
}
