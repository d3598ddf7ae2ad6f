package keystore

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"time"
	"unicode"
	"unicode/utf8"
)

// maxText bounds Note and Reason: a sentence or two, not a document.
const maxText = 1000

// Validate reports everything about d that no store may hold, joined: names,
// states, algorithms and public keys that contradict each other, a selector
// named twice. It does not look at Load.
func (d *Domain) Validate() error {
	var errs []error
	if err := ValidDomain(d.Name); err != nil {
		errs = append(errs, err)
	}
	seen := make(map[string]bool, len(d.Keys))
	for i := range d.Keys {
		k := &d.Keys[i]
		if seen[k.Selector] {
			errs = append(errs, fmt.Errorf("key %s: selector named twice", k.Selector))
		}
		seen[k.Selector] = true
		if err := k.validate(d.Name); err != nil {
			errs = append(errs, fmt.Errorf("key %s: %w", k.Selector, err))
		}
	}
	return errors.Join(errs...)
}

func (k *Key) validate(domain string) error {
	if err := ValidSelector(k.Selector); err != nil {
		return err
	}
	if n := len(k.Selector) + len(domainKey) + len(domain); n > maxName {
		return fmt.Errorf("the record's name would have %d octets, want at most %d", n, maxName)
	}
	if !slices.Contains(states, k.State) {
		return fmt.Errorf("state %.40q, want one of %q", k.State, states)
	}
	for _, text := range []string{k.Note, k.Reason} {
		if err := validText(text); err != nil {
			return err
		}
	}
	for _, t := range []time.Time{k.Created, k.Activated, k.Retired, k.Revoked, k.Removed} {
		if !t.IsZero() && (t.UTC().Year() < 1970 || t.UTC().Year() > 9999) {
			return fmt.Errorf("time stamp %v, want a year from 1970 to 9999", t)
		}
	}
	if k.State == Removed && len(k.Public) == 0 {
		return nil // nothing is left to compare with
	}
	public, err := ParsePublic(k.Algorithm, k.Public)
	if err != nil {
		return err
	}
	_, actual, err := PublicBytes(public)
	if err != nil {
		return err
	}
	if actual != k.Algorithm {
		return fmt.Errorf("algorithm %s, but the public key is %s", k.Algorithm, actual)
	}
	return nil
}

func validText(s string) error {
	if len(s) > maxText {
		return fmt.Errorf("text of %d octets, want at most %d", len(s), maxText)
	}
	if !utf8.ValidString(s) {
		return errors.New("text is not UTF-8")
	}
	for _, r := range s {
		if unicode.IsControl(r) {
			return fmt.Errorf("text has the control character %U", r)
		}
	}
	return nil
}

// CheckUpdate reports why a store must not replace old by d, or nil. old is
// nil when the domain is new. Every Store calls it inside Update, after the
// versions matched: besides Validate it keeps a selector from ever naming two
// different keys, a row from disappearing, and a removed key from coming back.
func CheckUpdate(old, d *Domain) error {
	if err := d.Validate(); err != nil {
		return err
	}
	for i := range d.Keys {
		k := &d.Keys[i]
		if isNew := old == nil || old.Key(k.Selector) == nil; isNew && k.State != Removed && k.Load == nil {
			return fmt.Errorf("key %s: new, but without a private half", k.Selector)
		}
	}
	if old == nil {
		return nil
	}
	for i := range old.Keys {
		was := &old.Keys[i]
		is := d.Key(was.Selector)
		switch {
		case is == nil:
			return fmt.Errorf("key %s: its row is missing; a removed key stays as a row with state %q", was.Selector, Removed)
		case !bytes.Equal(is.Public, was.Public) || is.Algorithm != was.Algorithm:
			return fmt.Errorf("key %s: the selector belongs to another key and is never used twice; take a new selector", was.Selector)
		case was.State == Removed && is.State != Removed:
			return fmt.Errorf("key %s: removed, and a removed key does not come back; take a new selector", was.Selector)
		}
	}
	return nil
}
