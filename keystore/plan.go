package keystore

import (
	"fmt"
	"time"
)

// Rules say how a domain's keys are to live. The zero value makes no keys and
// asks an administrator for every change of DNS.
type Rules struct {
	// Grace is the grace period of retired and revoked keys. 0: Grace.
	Grace time.Duration

	// RotateEvery is how long a key signs before it gets a successor, which is
	// made RotateLead earlier, so that DNS has time to show it. 0: no keys are
	// made.
	RotateEvery, RotateLead time.Duration

	// Named reports selectors that the configuration names. Such a key is
	// neither rotated nor retired: its successor would not sign. nil: none.
	Named func(selector string) bool

	// Automatic means that records are put into DNS by us.
	Automatic bool

	// StopWhenGone retires an active key whose record is gone or another's at
	// every authoritative server, by two looks with secondLook between them.
	StopWhenGone bool

	// KeepPrivate delays the removal of a key until its record was seen to be
	// withdrawn for a grace period, which is longer than any resolver remembers
	// it: its private half is to be published then.
	KeepPrivate bool
}

func (r *Rules) grace() time.Duration {
	w := Warrant{Grace: r.Grace}
	return w.grace()
}

// maxSilence is how old a key may be while DNS does not answer, before somebody
// is told.
const maxSilence = 24 * time.Hour

// secondLook is how long the record of a key that signs must have been gone before
// the key is retired for it: longer than name servers take to restart with another
// zone, and than anything of a look is remembered for the next.
const secondLook = 5 * time.Minute

// Action is what a Step does.
type Action string

// The actions of a plan. Those of the first group change the store, those of
// the second DNS; those of the third do nothing but speak.
const (
	Create     Action = "create" // a pending key of Step.Algorithm
	Observe    Action = "observe"
	DoActivate Action = "activate"
	DoRetire   Action = "retire"
	DoRevoke   Action = "revoke"
	DoRemove   Action = "remove"

	Publish  Action = "publish"  // the record of the key, with an empty p= if it is revoked
	Withdraw Action = "withdraw" // delete the record

	Ask   Action = "ask"   // an administrator must change DNS: Because says what
	Alarm Action = "alarm" // something is wrong with a record that mail needs
	Wait  Action = "wait"  // until NotBefore, or if that is zero until DNS changes
)

// Step is one step of a plan.
type Step struct {
	Action    Action
	Selector  string
	Algorithm Algorithm // of the key to Create
	Force     bool      // the step is early, for Because
	Because   string
	Detail    string    // what DNS showed, if that is why
	NotBefore time.Time // of Wait
}

func (s Step) String() string {
	text := string(s.Action)
	if s.Selector != "" {
		text += " " + s.Selector
	}
	if s.Algorithm != "" {
		text += " (" + string(s.Algorithm) + ")"
	}
	if !s.NotBefore.IsZero() {
		text += " until " + s.NotBefore.UTC().Format(time.RFC3339)
	}
	text += ": " + s.Because
	if s.Detail != "" {
		text += " (" + s.Detail + ")"
	}
	return text
}

// Plan says what is to be done for a domain now, from its keys and from what DNS
// showed of them; a key that is missing in sights was not asked for. It changes
// nothing. Its promises: a key is activated only if it is Shown in sights, was
// seen before and is Ready; a key is retired only together with or after the
// activation of a newer one of its kind (unless StopWhenGone); nothing leaves
// retired or revoked before its grace period; at most one key of a kind is
// pending.
//
// A domain with rows that cannot be read has no steps: see Domain.Whole.
//
// The steps are to be taken in order, those that change the store on one Domain
// and in one Update.
func Plan(now time.Time, d *Domain, sights map[string]Sight, r Rules) []Step {
	if d.Whole() != nil {
		return nil
	}
	p := &plan{now: now, d: d, sights: sights, rules: r}
	for i := range d.Keys {
		k := &d.Keys[i]
		switch k.State {
		case Pending:
			p.pending(k)
		case Active:
			p.active(i, k)
		case Retired:
			p.retired(k)
		case Revoked:
			p.revoked(k)
		case Removed:
			p.removed(k)
		}
	}
	p.rotation()
	return p.steps
}

type plan struct {
	now    time.Time
	d      *Domain
	sights map[string]Sight
	rules  Rules
	steps  []Step
}

// add appends a step. The caller may fill in more of it.
func (p *plan) add(a Action, k *Key, because string, args ...any) *Step {
	p.steps = append(p.steps, Step{Action: a, Selector: k.Selector, Because: fmt.Sprintf(because, args...)})
	return &p.steps[len(p.steps)-1]
}

func (p *plan) wait(k *Key, until time.Time, because string) *Step {
	s := p.add(Wait, k, "%s", because)
	s.NotBefore = until
	return s
}

// named reports whether the configuration names the key's selector.
func (p *plan) named(k *Key) bool { return p.rules.Named != nil && p.rules.Named(k.Selector) }

func (p *plan) pending(k *Key) {
	sight := p.sights[k.Selector]
	switch sight.State {
	case Unknown:
		if !k.Created.IsZero() && p.now.Sub(k.Created) > maxSilence {
			p.add(Alarm, k, "it cannot take over, as DNS does not tell whether its record is there").Detail = sight.Detail
		}
		p.wait(k, time.Time{}, "DNS has not answered yet").Detail = sight.Detail
	case Shown:
		switch {
		case k.Seen.IsZero() || k.Seen.After(p.now.Add(time.Second)): // the clock was set back
			p.add(Observe, k, "every authoritative server shows the record")
			if k.Urgent {
				p.takeOver(k)
			}
		case !k.Urgent && p.now.Before(k.Ready):
			p.wait(k, k.Ready, "resolvers may remember until then that the record was not there")
		default:
			p.takeOver(k)
		}
	default:
		switch {
		case !k.Seen.IsZero():
			p.add(Observe, k, "the record is no longer seen as it should be").Detail = sight.Detail
		case k.remembered(sight).After(k.Ready.Add(time.Minute)):
			p.add(Observe, k, "resolvers remember the wrong record for a while").Detail = sight.Detail
		}
		p.correct(k, "publish its record", sight)
		p.wait(k, time.Time{}, "its record must be seen at every authoritative server").Detail = sight.Detail
	}
}

// takeOver activates a key, and ends the time of those of its kind before it.
// Where one key was stolen, those that lay beside it are not to be trusted
// either, nor those of a kind of which no key signs, as it gets no successor.
func (p *plan) takeOver(k *Key) {
	because := "every authoritative server shows its record, and no resolver remembers anything else"
	if k.Urgent {
		because = "every authoritative server shows its record, and its predecessor is compromised"
	}
	p.add(DoActivate, k, "%s", because)
	for i := range p.d.Keys {
		old := &p.d.Keys[i]
		if old == k { // those behind it are newer
			return
		}
		switch {
		case p.has(old, DoRevoke):
		case !sameKind(old, k):
			if k.Urgent && p.newest(old.Algorithm.kind()) == nil && (old.State == Retired || old.State == Pending && !old.Urgent) {
				p.replaced(old, k)
			}
		case k.Urgent && (old.State == Pending || old.State == Active || old.State == Retired),
			(old.State == Active || p.has(old, DoActivate)) && !p.has(old, DoRetire):
			p.replaced(old, k)
		}
	}
}

// replaced ends the time of a key whose successor signs.
func (p *plan) replaced(old, successor *Key) {
	switch {
	case successor.Urgent:
		p.add(DoRevoke, old, "compromised, replaced by %s", successor.Selector).Force = true
	case p.named(old):
		p.add(Ask, old, "%s signs in its place, but the configuration names the selector %s: take it out of the row's selectors", successor.Selector, old.Selector)
	default:
		p.add(DoRetire, old, "%s signs in its place", successor.Selector)
	}
}

func (p *plan) active(place int, k *Key) {
	for i := place + 1; i < len(p.d.Keys); i++ {
		newer := &p.d.Keys[i]
		if newer.State == Active && sameKind(k, newer) && newer.Activated.After(k.Activated) && !p.has(k, DoRetire, DoRevoke, Ask) {
			p.replaced(k, newer)
			break
		}
	}
	if p.has(k, DoRetire, DoRevoke) {
		return
	}
	sight := p.sights[k.Selector]
	switch sight.State {
	case Unknown:
		return
	case Shown:
		if k.Seen.IsZero() {
			p.add(Observe, k, "every authoritative server shows the record")
		}
		return
	}
	p.add(Alarm, k, "it signs, but its record is not seen as it should be").Detail = sight.Detail
	p.restore(k, sight)
	if !p.rules.StopWhenGone || sight.Split {
		return
	}
	switch since := p.d.missedSince(k); {
	case since.IsZero() || since.After(p.now): // or the clock was set back
		p.add(Observe, k, "no authoritative server shows its record as it should be").Detail = sight.Detail
	case p.now.Before(since.Add(secondLook)):
		p.wait(k, since.Add(secondLook), "it stops signing if its record is not seen then either")
	default:
		s := p.add(DoRetire, k, "its record is not seen as it should be since %s", since.UTC().Format(time.RFC3339))
		s.Force, s.Detail = true, cut(sight.Detail)
	}
}

func (p *plan) retired(k *Key) {
	if until := k.Retired.Add(p.rules.grace()); p.now.Before(until) {
		switch sight := p.sights[k.Selector]; sight.State {
		case Missing, Different, ShownRevoked:
			p.add(Alarm, k, "mail under way needs its record, which is not seen as it should be").Detail = sight.Detail
			p.restore(k, sight)
		}
		p.wait(k, until, "mail under way may need its record")
		return
	}
	p.add(DoRevoke, k, "it stopped signing more than %s ago", words(p.rules.grace()))
}

func (p *plan) revoked(k *Key) {
	sight := p.sights[k.Selector]
	switch sight.State {
	case Shown, Different:
		p.correct(k, "publish its record with an empty p=", sight)
	}
	until := k.Revoked.Add(p.rules.grace())
	withdrawn := sight.withdrawn()
	unseen := k.Seen.IsZero() || k.Seen.After(p.now.Add(time.Second)) // the clock was set back
	keep := p.rules.KeepPrivate && !k.Activated.IsZero()              // that of a key that never signed is of no use to anybody
	if keep && sight.State != Unknown && withdrawn == unseen {
		p.add(Observe, k, "%s", withdrawnReason)
	}
	switch {
	case p.now.Before(until):
		p.wait(k, until, "until then its record is to say that it is revoked")
	case keep && !withdrawn:
		p.wait(k, time.Time{}, "its private half is to be published, and DNS may still show its record")
	case keep && (unseen || p.now.Before(k.Seen.Add(p.rules.grace()))):
		from := p.now
		if !unseen {
			from = k.Seen
		}
		p.wait(k, from.Add(p.rules.grace()), "its private half is to be published, and resolvers may still remember its record")
	case p.slot(k) && !withdrawn:
		p.wait(k, time.Time{}, "its slot is to be used again, and DNS may still show its record")
	default:
		p.add(DoRemove, k, "it was revoked more than %s ago", words(p.rules.grace()))
	}
}

func (p *plan) slot(k *Key) bool {
	_, slot := p.d.Slot(k.Selector)
	return slot
}

// removed sees to it that the record goes. That of a slot stays, with its empty
// p=, until the slot is used again: the CNAME that points to it is not ours.
func (p *plan) removed(k *Key) {
	if p.slot(k) || !k.Withdrawn.IsZero() {
		return
	}
	until := k.NeededUntil(p.rules.grace())
	switch sight := p.sights[k.Selector]; {
	case sight.State == Missing:
		p.add(Observe, k, "its record is gone")
	case p.now.Before(until):
		p.wait(k, until, "mail under way may need its record")
	case sight.State == Unknown:
	case p.rules.Automatic:
		p.add(Withdraw, k, "nobody needs its record any longer")
	default:
		p.add(Ask, k, "its record may be deleted from DNS now")
	}
}

// restore has the record of a key that mail needs put back. An empty p= does not
// come by accident: who put it there may know that the key is compromised.
func (p *plan) restore(k *Key, sight Sight) {
	if sight.State == ShownRevoked {
		p.add(Ask, k, "publish its record again, or if somebody revoked it because it is compromised, rotate in an emergency").Detail = sight.Detail
		return
	}
	p.correct(k, "publish its record again", sight)
}

// correct has the record of a key put right.
func (p *plan) correct(k *Key, what string, sight Sight) {
	action := Ask
	if p.rules.Automatic {
		action = Publish
	}
	p.add(action, k, "%s", what).Detail = sight.Detail
}

// Next says what comes next in the life of a key as far as the store knows, and
// from when on; zero if that does not hang on time. DNS is not asked. The Action
// is empty if nothing comes.
func Next(now time.Time, d *Domain, selector string, r Rules) Step {
	k := d.Key(selector)
	if k == nil {
		return Step{}
	}
	p := &plan{now: now, d: d, rules: r}
	s := Step{Selector: selector}
	switch k.State {
	case Pending:
		s.Action, s.NotBefore, s.Because = DoActivate, k.Ready, "resolvers may remember until then that its record was not there"
		if k.Seen.IsZero() {
			s.Because = "its record must be seen at every authoritative server"
		} else if k.Urgent {
			s.NotBefore, s.Because = time.Time{}, "its predecessor is compromised"
		}
	case Active:
		p.active(p.place(k), k)
		switch {
		case len(p.steps) > 0:
			return p.steps[0]
		case r.RotateEvery > 0 && p.waiting(k.Algorithm.kind()):
			s.Action, s.Because = DoRetire, "its successor is pending"
		case r.RotateEvery > 0 && p.newest(k.Algorithm.kind()) == k:
			s.Action, s.NotBefore, s.Because = Create, k.Activated.Add(r.RotateEvery-r.RotateLead), "its successor is to sign in time"
		}
	case Retired:
		s.Action, s.NotBefore, s.Because = DoRevoke, k.Retired.Add(r.grace()), "it signs no longer, and mail under way may need its record until then"
	case Revoked:
		s.Action, s.NotBefore, s.Because = DoRemove, k.Revoked.Add(r.grace()), "its record is to say until then that it is revoked"
	case Removed:
		if _, slot := d.Slot(selector); !slot && k.Withdrawn.IsZero() {
			s.Action, s.NotBefore, s.Because = Withdraw, k.NeededUntil(r.grace()), "nobody needs its record any longer"
		}
	}
	return s
}

// place is where the key stands in its domain.
func (p *plan) place(k *Key) int {
	for i := range p.d.Keys {
		if p.d.Keys[i].Selector == k.Selector {
			return i
		}
	}
	return -1
}

// has reports whether the plan has one of the actions for the key.
func (p *plan) has(k *Key, actions ...Action) bool {
	for _, s := range p.steps {
		for _, a := range actions {
			if s.Selector == k.Selector && s.Action == a {
				return true
			}
		}
	}
	return false
}

// words writes a long duration for people.
func words(d time.Duration) string {
	if day := 24 * time.Hour; d >= 2*day && d%day == 0 {
		return fmt.Sprintf("%d days", d/day)
	}
	return d.String()
}
