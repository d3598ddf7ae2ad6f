package sqlstore

import (
	"context"
	"errors"
	"fmt"

	"waxseal/keystore"
)

// Rewrap stores the private halves of a domain anew that are not as
// Options.Rewrap would have them, and returns the selectors of these; a dry run
// only returns them. Each is one statement that replaces what was read and
// nothing else, so that it may be repeated and interrupted at any time, and
// beside changes of the domain. A key or a row that cannot be read is an
// error and stops no other.
func (s *Store) Rewrap(ctx context.Context, domain string, dryRun bool) ([]string, error) {
	if s.opts.Rewrap == nil {
		return nil, errors.New("no key to encrypt with")
	}
	d, err := s.Domain(ctx, domain)
	if err != nil {
		return nil, err
	}
	var done []string
	errs := []error{d.Whole()}
	for i := range d.Keys {
		k := &d.Keys[i]
		if k.State == keystore.Removed {
			continue
		}
		wrote, err := s.rewrap(ctx, domain, k, dryRun)
		if err != nil {
			errs = append(errs, &keystore.KeyError{Domain: domain, Selector: k.Selector, Err: err})
		} else if wrote {
			done = append(done, k.Selector)
		}
	}
	return done, errors.Join(errs...)
}

// rewrap stores one private half anew, if it is not as it should be.
func (s *Store) rewrap(ctx context.Context, domain string, k *keystore.Key, dryRun bool) (wrote bool, err error) {
	stored, err := s.stored(ctx, domain, k.Selector)
	if err != nil {
		return false, err
	}
	next, err := s.opts.Rewrap(domain, k, stored)
	if err != nil || next == nil || dryRun {
		return next != nil, err
	}
	what := "key " + k.Selector + "." + domain
	// Whatever comes of the statement, its connection or a rival, what is there
	// afterwards is what counts.
	bounded, cancel := context.WithTimeout(ctx, s.opts.Timeout)
	defer cancel()
	_, failed := s.db.ExecContext(bounded, s.bind(`UPDATE waxseal_key SET private = ? WHERE domain = ? AND selector = ? AND private = ?`),
		string(next), domain, k.Selector, string(stored))
	there, err := s.stored(ctx, domain, k.Selector)
	switch {
	case err != nil:
		return false, errors.Join(failed, err)
	case string(there) == string(next):
		return true, nil
	case failed != nil:
		return false, fmt.Errorf("%s: %w", what, failed)
	}
	return false, fmt.Errorf("%s: %w; run it again", what, keystore.ErrConflict)
}
