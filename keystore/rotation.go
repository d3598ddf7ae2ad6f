package keystore

// This file is the part of a plan that is about successors: when a key gets one,
// of what algorithm, and under which selector.

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// rotation has successors made in time, one for each kind of key that signs.
func (p *plan) rotation() {
	if p.rules.RotateEvery <= 0 {
		return
	}
	for _, kind := range kinds {
		k := p.newest(kind)
		if k == nil || p.waiting(kind) {
			continue
		}
		due := k.Activated.Add(p.rules.RotateEvery - p.rules.RotateLead)
		because := fmt.Sprintf("%s signs since %s", k.Selector, k.Activated.UTC().Format(time.DateOnly))
		switch {
		case p.now.Before(due):
			p.wait(k, due, "then its successor is made")
		case p.named(k):
			p.add(Ask, k, "%s and should be rotated, but the configuration names its selector: take it out of the row's selectors", because)
		default:
			p.create(k, because)
		}
	}
}

// newest returns the newest key of a kind that signs.
func (p *plan) newest(kind string) *Key {
	var found *Key
	for i := range p.d.Keys {
		if k := &p.d.Keys[i]; k.State == Active && k.Algorithm.kind() == kind && !p.has(k, DoRetire, DoRevoke) &&
			(found == nil || !k.Activated.Before(found.Activated)) {
			found = k
		}
	}
	return found
}

// waiting reports whether a key of the kind is pending.
func (p *plan) waiting(kind string) bool {
	for i := range p.d.Keys {
		if k := &p.d.Keys[i]; k.State == Pending && k.Algorithm.kind() == kind {
			return true
		}
	}
	return false
}

// create has a successor made. Its selector is chosen when it is: several may be
// made at once.
func (p *plan) create(old *Key, because string) {
	if len(p.d.Slots) > 0 {
		free, from := p.d.freeSlots(p.now, p.rules.Grace)
		for _, s := range p.steps {
			if s.Action == Create && len(free) > 0 {
				free = free[1:]
			}
		}
		if len(free) == 0 {
			p.wait(old, from, "its successor needs a slot, and none is free")
			return
		}
	}
	p.steps = append(p.steps, Step{Action: Create, Algorithm: Successor(old.Algorithm), Because: because})
}

// Rotation says what begins the rotation of a domain's keys now, whatever the
// rules say of its time: a successor for each kind of key that signs, unless one
// is pending; if urgent, even then. It is empty if no key signs. A Step other
// than Create says why a kind cannot be rotated.
func Rotation(now time.Time, d *Domain, urgent bool, r Rules) []Step {
	p := &plan{now: now, d: d, rules: r}
	for _, kind := range kinds {
		k := p.newest(kind)
		switch {
		case k == nil:
		case p.waiting(kind) && !urgent:
			p.add(Wait, k, "its successor was made, and is pending")
		case p.named(k):
			p.add(Ask, k, "the configuration names the selector %s: take it out of the row's selectors, or its successor will not sign", k.Selector)
		default:
			p.create(k, "rotation asked for")
		}
	}
	return p.steps
}

// NextSelector returns the selector that the domain's next key gets. In a domain
// with slots it is one that is free, and the one that was used longest ago; if
// none is free it is empty, and from is when one will be, or zero if none waits
// for time alone.
func (d *Domain) NextSelector(now time.Time, grace time.Duration) (selector string, from time.Time) {
	if len(d.Slots) == 0 {
		return NextSelector(d, now), time.Time{}
	}
	free, from := d.freeSlots(now, grace)
	if len(free) == 0 {
		return "", from
	}
	return free[0], time.Time{}
}

// freeSlots returns the selectors of the slots that may get a key, those that
// were used longest ago first, and when the next of the others will be free, or
// zero if none waits for time alone.
func (d *Domain) freeSlots(now time.Time, grace time.Duration) (free []string, from time.Time) {
	w := Warrant{Now: now, Grace: grace}
	removed := func(selector string) time.Time {
		if k := d.Key(selector); k != nil {
			return k.Removed
		}
		return time.Time{}
	}
	for _, s := range d.Slots {
		k := d.Key(s.Selector)
		switch {
		case k == nil:
			free = append(free, s.Selector)
		case k.State != Removed:
		case now.Before(k.slotFree(w.grace())):
			if t := k.slotFree(w.grace()); from.IsZero() || t.Before(from) {
				from = t
			}
		default:
			free = append(free, s.Selector)
		}
	}
	slices.SortStableFunc(free, func(a, b string) int { return removed(a).Compare(removed(b)) })
	return free, from
}

// Successor is the algorithm of the key that follows one of the given algorithm:
// the same, or where that is not among those that Generate makes, or too short
// (RFC 8301, section 3.2), the next better.
func Successor(a Algorithm) Algorithm {
	switch a {
	case Ed25519, RSA2048, RSA3072, RSA4096:
		return a
	}
	var bits int
	if _, err := fmt.Sscanf(string(a), "rsa-%d", &bits); err == nil && bits > 2048 {
		if bits <= 3072 {
			return RSA3072
		}
		return RSA4096
	}
	return RSA2048
}

// kinds are what verifiers tell keys apart by.
var kinds = []string{"rsa", "ed25519"}

// kind is the one of kinds.
func (a Algorithm) kind() string {
	kind, _, _ := strings.Cut(string(a), "-")
	return kind
}

func sameKind(a, b *Key) bool { return a.Algorithm.kind() == b.Algorithm.kind() }
