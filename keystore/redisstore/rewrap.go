package redisstore

import (
	"context"
	"errors"
	"fmt"

	"github.com/redis/rueidis"

	"waxseal/keystore"
)

// replace puts another value into a field that has the one expected. Arguments:
// the field, the value expected, the new one. Done before, it does nothing and
// says so.
const replace = `
local have = redis.call('HGET', KEYS[1], ARGV[1])
if have == ARGV[3] then return 1 end
if have ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
return 1
`

// Rewrap stores the private halves of a domain anew that are not as
// Options.Rewrap would have them, and returns the selectors of these; a dry run
// only returns them. Each is one script that replaces what was read and nothing
// else, so that it may be repeated and interrupted at any time, and beside
// changes of the domain, whose version stays. A key that cannot be read is an
// error and stops no other. The error is keystore.ErrReadOnly in another
// product's layout.
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
	var d *keystore.Domain
	var stored map[string]string
	err := s.call(ctx, func(ctx context.Context, c rueidis.Client) (err error) {
		d, stored, err = n.read(ctx, c, domain, true)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("domain %s: %w", domain, err)
	}
	var done []string
	errs := []error{d.Whole()}
	for i := range d.Keys {
		k := &d.Keys[i]
		if k.State == keystore.Removed {
			continue
		}
		wrote, err := s.rewrap(ctx, n, d, k, stored, dryRun)
		if err != nil {
			errs = append(errs, &keystore.KeyError{Domain: domain, Selector: k.Selector, Err: err})
		} else if wrote {
			done = append(done, k.Selector)
		}
	}
	return done, errors.Join(errs...)
}

// rewrap stores one private half anew, if it is not as it should be.
func (s *Store) rewrap(ctx context.Context, n *native, d *keystore.Domain, k *keystore.Key, fields map[string]string, dryRun bool) (wrote bool, err error) {
	field := fieldKey + k.Selector
	stored, ok := fields[field]
	switch {
	case !ok:
		return false, errMissing
	case len(stored) > maxValue:
		return false, fmt.Errorf("private half of %d bytes, want at most %d", len(stored), maxValue)
	}
	next, err := s.opts.Rewrap(d.Name, k, []byte(stored))
	if err != nil || next == nil || dryRun {
		return next != nil, err
	}
	err = s.call(ctx, func(ctx context.Context, c rueidis.Client) error {
		confirmed, err := n.send(ctx, c, replace, d.Name, []string{field, stored, string(next)})
		if err == nil && confirmed < n.replicas {
			err = fmt.Errorf("saved, but only %d of %d replicas have it yet", confirmed, n.replicas)
		}
		return err
	})
	if errors.Is(err, keystore.ErrConflict) {
		err = fmt.Errorf("%w; run it again", err)
	}
	return err == nil, err
}
