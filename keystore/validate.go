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
	errs = append(errs, d.validateHistory())
	return errors.Join(errs...)
}

// validateHistory is the part of Validate that is about slots and events.
func (d *Domain) validateHistory() error {
	seen := make(map[string]bool, len(d.Slots))
	for _, s := range d.Slots {
		if err := s.validate(); err != nil {
			return err
		}
		if seen[s.Selector] {
			return fmt.Errorf("slot %s: named twice", s.Selector)
		}
		seen[s.Selector] = true
	}
	for i := range d.History {
		if err := d.History[i].validate(); err != nil {
			return fmt.Errorf("event %d of the history: %w", i+1, err)
		}
	}
	return nil
}

func (s *Slot) validate() error {
	if err := ValidSelector(s.Selector); err != nil {
		return fmt.Errorf("slot: %w", err)
	}
	if err := ValidDomain(s.Target); err != nil {
		return fmt.Errorf("target of slot %s: %w", s.Selector, err)
	}
	return nil
}

func (e *Event) validate() error {
	if !slices.Contains(whats, e.What) {
		return fmt.Errorf("%.40q, want one of %q", e.What, whats)
	}
	if e.Selector != "" {
		if err := ValidSelector(e.Selector); err != nil {
			return err
		}
	}
	for _, text := range []string{e.By, e.Reason} {
		if err := validText(text); err != nil {
			return err
		}
	}
	return validTime(e.Time)
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
	for _, t := range []time.Time{k.Created, k.Activated, k.Retired, k.Revoked, k.Removed, k.Published, k.Seen, k.Ready, k.Withdrawn} {
		if err := validTime(t); err != nil && !t.IsZero() {
			return err
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

func validTime(t time.Time) error {
	if year := t.UTC().Year(); year < 1970 || year > 9999 {
		return fmt.Errorf("time stamp %v, want a year from 1970 to 9999", t)
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
// versions matched: besides Validate it keeps rows that cannot be read from
// being lost, a selector from ever naming two different keys, a row from
// disappearing, a removed key from coming back, and the history from losing
// anything. A slot whose key was removed may get
// another, as Domain.Add allows it.
func CheckUpdate(old, d *Domain) error {
	for _, each := range []*Domain{old, d} {
		if each != nil && each.Whole() != nil {
			return each.Whole()
		}
	}
	if err := d.Validate(); err != nil {
		return err
	}
	for i := range d.Keys {
		k := &d.Keys[i]
		if d.IsNew(old, k) && k.State != Removed && k.Load == nil {
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
		case is != nil && d.IsNew(old, is):
		case is == nil:
			return fmt.Errorf("key %s: its row is missing; a removed key stays as a row with state %q", was.Selector, Removed)
		case !bytes.Equal(is.Public, was.Public) || is.Algorithm != was.Algorithm:
			return fmt.Errorf("key %s: the selector belongs to another key and is never used twice; take a new selector", was.Selector)
		case was.State == Removed && is.State != Removed:
			return fmt.Errorf("key %s: removed, and a removed key does not come back; take a new selector", was.Selector)
		}
	}
	if len(d.History) < len(old.History) || !slices.EqualFunc(old.History, d.History[:len(old.History)], Event.same) {
		return errors.New("the history may only grow")
	}
	return nil
}

func (e Event) same(o Event) bool {
	return e.Time.Equal(o.Time) && e.Selector == o.Selector && e.What == o.What && e.By == o.By && e.Reason == o.Reason && e.Forced == o.Forced
}

// IsNew reports whether k, a key of d, has a row that old does not have: because
// old is nil or has not got the selector, or because k is the next key of a slot
// whose last key was removed. Then a store reads the private half with k.Load
// and writes it.
func (d *Domain) IsNew(old *Domain, k *Key) bool {
	if old == nil {
		return true
	}
	was := old.Key(k.Selector)
	if was == nil {
		return true
	}
	_, slot := old.Slot(k.Selector)
	return slot && was.State == Removed && k.State != Removed && !bytes.Equal(was.Public, k.Public)
}
