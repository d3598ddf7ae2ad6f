package milter

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"waxseal/keystore"
	"waxseal/milter/policy"
)

// This file finds the keys of a message: which domains may sign, what they have
// to sign with, and what to say when that is nothing.

// loaded is what there is to sign a message with.
type loaded struct {
	// with are the candidates that sign together: the first that have keys, or
	// fail; else the first.
	with []candidateKeys

	// What the sender query had a part in.
	sender *keystore.Sender // its answer; nil if it was not asked
	row    string           // that of the answer, if it counts
	err    error            // why there is none
	denied bool             // its answer takes a permission that the sender does not have
	reason string           // why it leaves nothing to sign with

	candidates []policy.Candidate
	broken     []error // what is wrong although there is something to sign with

	room [1]candidateKeys // of with, for nearly all messages
}

// candidateKeys is what the keystore has of a candidate to sign with.
type candidateKeys struct {
	candidate policy.Candidate
	keys      []keystore.SigningKey
	broken    []error // why active keys are missing that would sign
	err       error   // why it is not known: ErrNotFound, or the keystore does not answer
}

// failed says whether it is not known what the candidate has.
func (c *candidateKeys) failed() bool { return c.err != nil && !errors.Is(c.err, keystore.ErrNotFound) }

// find returns what there is to sign with. Without wait it is nil if that takes
// a look at the store. Candidates whose keys cannot be read are not passed over
// for the next.
func (t *Transaction) find(ctx context.Context, wait bool) *loaded {
	l := &loaded{candidates: t.candidates}
	if t.sender != "" && !t.askSender(ctx, wait, l) {
		return nil
	}
	for i := 0; i < len(l.candidates); {
		first, together := i, []candidateKeys(nil)
		if first == 0 {
			together = l.room[:0]
		}
		found := first == 0 && l.sender != nil && len(l.sender.Broken) > 0
		for ; i == first || i < len(l.candidates) && l.candidates[i].Beside; i++ {
			c, ok := t.keysOf(ctx, l.candidates[i], wait)
			if !ok {
				return nil
			}
			found = found || c.failed() || len(c.keys)+len(c.broken) > 0
			together = append(together, c)
		}
		if found || first == 0 {
			l.with = together
		}
		if found {
			break
		}
	}
	return l
}

// keysOf returns what a candidate signs with; ok is false without wait, if that
// takes a look at the store.
func (t *Transaction) keysOf(ctx context.Context, candidate policy.Candidate, wait bool) (c candidateKeys, ok bool) {
	c.candidate, ok = candidate, true
	var signing *keystore.Signing
	if wait {
		signing, c.err = t.set.Keys.Signing(ctx, candidate.Domain)
	} else {
		signing, c.err, ok = t.set.Keys.Cached(candidate.Domain)
	}
	switch {
	case errors.Is(c.err, keystore.ErrBroken):
		c.broken, c.err = []error{c.err}, nil
		return c, ok
	case c.err != nil || !ok:
		return c, ok
	}
	named := func(selector string) bool {
		return (t.set.Selector == "" || t.set.Selector == selector) && (candidate.Selectors == nil || slices.Contains(candidate.Selectors, selector))
	}
	if t.set.Selector == "" && candidate.Selectors == nil {
		c.keys = signing.Keys
	} else {
		for _, k := range signing.Keys {
			if named(k.Selector) {
				c.keys = append(c.keys, k)
			}
		}
	}
	for _, err := range signing.Broken { // one of which the selector is not known may be any
		var key *keystore.KeyError
		if !errors.As(err, &key) || key.Selector == "" || named(key.Selector) {
			c.broken = append(c.broken, err)
		}
	}
	return c, ok
}

// askSender has the keystore tell which keys sign, and decides anew with that. It
// returns false without wait, if that takes a look at the store.
func (t *Transaction) askSender(ctx context.Context, wait bool, l *loaded) bool {
	ok := true
	if wait {
		l.sender, l.err = t.set.Senders.Sender(ctx, t.sender)
	} else {
		l.sender, l.err, ok = t.set.Senders.CachedSender(t.sender)
	}
	if l.err != nil || !ok {
		return ok
	}
	facts := t.facts()
	facts.Sender = PolicySender(l.sender)
	d := t.set.Rules.Decide(t.connection, facts)
	l.row, l.denied, l.reason = d.SenderRow, d.Verdict != policy.Ours, d.Reason
	if len(l.sender.Keys) > 0 || len(l.sender.Broken) == 0 {
		l.candidates = d.Candidates
	}
	return true
}

// PolicySender is an answer of the keystore as the rules take it.
func PolicySender(s *keystore.Sender) *policy.Sender {
	p := &policy.Sender{Row: s.Row, Keys: make([]policy.SenderKey, len(s.Keys))}
	for i, k := range s.Keys {
		p.Keys[i] = policy.SenderKey(k)
	}
	return p
}

// usable says whether the loaded keys can sign; if not, it fills in the
// result. Broken keys are made up for by an RSA key that signs, but not by
// Ed25519 alone, which many verifiers do not know (RFC 8463, section 6).
func (t *Transaction) usable() bool {
	l := t.ready
	t.result.SenderRow = l.row
	switch {
	case l.err != nil:
		return t.unreadable(l.err)
	case l.denied:
		t.refuse(Denied, l.reason)
		return false
	case len(l.with) == 0 && l.sender != nil && len(l.sender.Broken) > 0:
		t.refuse(KeyUnusable, "the sender query: "+errors.Join(l.sender.Broken...).Error())
		return false
	case len(l.with) == 0:
		t.refuse(NoKey, l.reason)
		return false
	}
	lead, rsa := &l.with[0], false // lead is whom log and metrics name
	var broken []error
	if l.sender != nil {
		broken = slices.Clone(l.sender.Broken)
	}
	var missing []string
	for i := range l.with {
		c := &l.with[i]
		if len(c.keys) > 0 && (len(lead.keys) == 0 || lead.candidate.Unaligned && !c.candidate.Unaligned) {
			lead = c
		}
		if c.failed() {
			lead = c
			break
		}
		broken = append(broken, c.broken...)
		rsa = rsa || slices.ContainsFunc(c.keys, func(k keystore.SigningKey) bool { return k.Algorithm != keystore.Ed25519 })
		if len(c.keys)+len(c.broken) == 0 {
			missing = append(missing, t.missing(c))
		}
	}
	t.result.Domain, t.result.Unaligned, t.result.Known = lead.candidate.Domain, lead.candidate.Unaligned, lead.err == nil
	switch {
	case lead.failed():
		return t.unreadable(lead.err)
	case len(broken) > 0 && !rsa:
		t.refuse(KeyUnusable, errors.Join(broken...).Error())
		return false
	case len(lead.keys) == 0:
		t.refuse(NoKey, strings.Join(missing, ", and "))
		return false
	}
	for _, reason := range missing {
		broken = append(broken, errors.New(reason))
	}
	l.broken = broken
	return true
}

// unreadable is the result when the keystore does not tell.
func (t *Transaction) unreadable(err error) bool {
	cause := StoreDown
	if errors.Is(err, keystore.ErrBroken) {
		cause = KeyUnusable
	}
	t.refuse(cause, err.Error())
	return false
}

// missing says why a candidate has nothing to sign with.
func (t *Transaction) missing(c *candidateKeys) string {
	name, named := t.ready.tried(), ""
	if len(t.ready.with) > 1 {
		name = c.candidate.Domain
	}
	if t.ready.row != "" {
		named = ", which the sender query names for " + t.ready.row
	}
	switch {
	case c.err != nil:
		return "the keystore has no domain " + name + named
	case t.set.Selector != "":
		return fmt.Sprintf("%s has no active key %s", c.candidate.Domain, t.set.Selector)
	case c.candidate.Selectors != nil:
		return fmt.Sprintf("%s has no active key among %s", c.candidate.Domain, strings.Join(c.candidate.Selectors, ", ")) + named
	}
	return name + " has no active key"
}

// tried names the candidates.
func (l *loaded) tried() string {
	names := make([]string, len(l.candidates))
	for i, c := range l.candidates {
		names[i] = c.Domain
	}
	return strings.Join(names, " or ")
}
