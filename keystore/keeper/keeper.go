// Package keeper takes the steps that a plan of keystore asks for: it looks at
// DNS, has records published, and moves keys through their life.
//
// It promises: every change of the store is one compare-and-swap of a domain, so
// any number of keepers may work on one store, and one that dies between any two
// steps leaves nothing that the next round does not mend; a key whose private
// half cannot be used is not activated; what one round asks of DNS is bounded in
// time and number; trouble with one domain does not delay the others.
package keeper

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"waxseal/keystore"
	"waxseal/keystore/dns"
)

// The defaults of Options.
const (
	DefaultInterval = 10 * time.Minute
	DefaultDomains  = 16
)

// Options are the settings of a Keeper. Check must be given.
type Options struct {
	// Check asks DNS about a key's record: the method of a dns.Checker.
	Check func(ctx context.Context, name string, want *dns.Record) (*dns.Report, error)

	// Publisher returns who puts the record of the given name into DNS, and the
	// TTL it is to have. nil, or a nil Publisher: an administrator does.
	Publisher func(name string) (dns.Publisher, time.Duration)

	// Rules returns how the keys of a domain are to live; Automatic is set by
	// the keeper. nil: the zero Rules.
	Rules func(domain string) keystore.Rules

	// Notify is called when an administrator has something to do, or something
	// is wrong: once in a while for the same thing, however many keepers there
	// are, and not until then if one dies just before it tells. It is called in
	// the goroutines of a round. nil: nobody is told.
	Notify func(ctx context.Context, n Notice)

	// Retired is the directory that the private halves of removed keys are
	// published in, as DOMAIN/SELECTOR.pem, so that nobody can prove by an old
	// signature who wrote a mail. Empty: none are.
	Retired string

	// By is who takes the steps, for the history.
	By string

	// Interval is the time between two rounds of Run, give or take a tenth. 0:
	// DefaultInterval.
	Interval time.Duration

	// Domains is how many domains are worked on at a time. 0: DefaultDomains.
	Domains int

	Now func() time.Time // nil: time.Now
	Log *slog.Logger     // nil: nothing is logged
}

// Notice is what an administrator should know.
type Notice struct {
	Domain, Selector string
	Alarm            bool   // something is wrong; else there is something to do
	Text             string // what, and why
	Name, Record     string // of the record that should be in DNS; Record is empty if there should be none
}

// Message is the notice as a mail to an administrator would have it.
func (n Notice) Message() string {
	what := "To do"
	if n.Alarm {
		what = "Alarm"
	}
	text := fmt.Sprintf("%s for key %s of %s: %s.\n\n", what, n.Selector, n.Domain, n.Text)
	if n.Record == "" {
		return text + fmt.Sprintf("There should be no record at %s.\n", n.Name)
	}
	return text + fmt.Sprintf("There should be one TXT record at %s:\n%s\n", n.Name, n.Record)
}

// Keeper keeps the keys of a store. Its methods may be called concurrently.
type Keeper struct {
	store   keystore.Store
	options Options
	backoff backoff
	clock   clock // of Run

	mu    sync.Mutex // guards stats
	stats Stats
}

// Stats are what a Keeper did and found.
type Stats struct {
	Rounds   uint64
	Steps    map[keystore.Action]uint64 // taken, without those that only speak
	Failures uint64                     // domains that a round could not finish

	// Of the last round that was finished:
	Last     time.Time // when it was; zero if there was none
	Took     time.Duration
	Domains  int // looked at
	Asks     int // changes of DNS that an administrator has to make
	Alarms   int // records that mail needs, and that are not seen as they should be
	Overdue  int // keys that should have been rotated by now
	Deferred int // domains that were left out because of trouble in the rounds before
}

// New makes a Keeper of the keys in store.
func New(store keystore.Store, o Options) *Keeper {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Interval <= 0 {
		o.Interval = DefaultInterval
	}
	if o.Domains <= 0 {
		o.Domains = DefaultDomains
	}
	return &Keeper{store: store, options: o, clock: clock{now: o.Now}, stats: Stats{Steps: map[keystore.Action]uint64{}}}
}

// Stats returns the present numbers.
func (k *Keeper) Stats() Stats {
	k.mu.Lock()
	defer k.mu.Unlock()
	s := k.stats
	s.Steps = make(map[keystore.Action]uint64, len(k.stats.Steps))
	for action, n := range k.stats.Steps {
		s.Steps[action] = n
	}
	return s
}

// Run makes a round every Interval, give or take a tenth, until ctx ends. The
// first comes within a tenth. So the nodes of a fleet drift apart, also when all
// of them are started at once. When the clock has jumped forward, the rest of a
// round under way is left out, and the one after it; the next then comes within
// DefaultInterval.
func (k *Keeper) Run(ctx context.Context) {
	tenth := k.options.Interval / 10
	k.clock.begin()
	for pause := rand.N(tenth); ; {
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		pause = k.options.Interval - tenth + rand.N(2*tenth+1)
		ahead := k.clock.ahead()
		k.clock.begin()
		if ahead > maxAhead {
			k.options.Log.Warn("the clock has jumped forward: keys are not kept in this round, so that it can be put right", "by", ahead.Round(time.Second).String())
			pause = min(pause, DefaultInterval)
			continue
		}
		if err := k.Round(ctx); err != nil && ctx.Err() == nil {
			k.options.Log.Error("keeping keys", "err", err)
		}
	}
}

// Round takes all steps that are due in all domains. The error is about the
// store as a whole, or the end of ctx; trouble with a domain is logged, counted,
// and makes its next tries rarer.
func (k *Keeper) Round(ctx context.Context) error {
	began := k.options.Now()
	var found Stats
	var mu sync.Mutex // guards found
	names := make(chan string)
	var workers sync.WaitGroup
	for range k.options.Domains {
		workers.Go(func() {
			for name := range names {
				if k.clock.ahead() > maxAhead {
					continue
				}
				if !k.backoff.due(name, k.options.Now()) && !k.hurries(ctx, name) {
					mu.Lock()
					found.Deferred++
					mu.Unlock()
					continue
				}
				r, err := k.survive(ctx, name)
				mu.Lock()
				found.add(r)
				mu.Unlock()
				if ctx.Err() != nil {
					continue
				}
				k.backoff.done(name, err == nil, k.options.Now(), k.options.Interval)
				if err != nil {
					k.failed(name, err)
				}
			}
		})
	}
	err := k.eachDomain(ctx, names)
	close(names)
	workers.Wait()
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	s := &k.stats
	s.Rounds++
	s.Last = k.options.Now()
	s.Took = s.Last.Sub(began)
	s.Domains, s.Asks, s.Alarms, s.Overdue, s.Deferred = found.Domains, found.Asks, found.Alarms, found.Overdue, found.Deferred
	return nil
}

// eachDomain sends the name of every domain.
func (k *Keeper) eachDomain(ctx context.Context, names chan<- string) error {
	const page = 500
	for after := ""; ; {
		list, err := k.store.List(ctx, after, page)
		if err != nil {
			return err
		}
		for _, name := range list {
			select {
			case names <- name:
			case <-ctx.Done():
				return ctx.Err()
			}
			after = name
		}
		if len(list) == 0 {
			return nil
		}
	}
}

func (k *Keeper) failed(name string, err error) {
	k.mu.Lock()
	k.stats.Failures++
	k.mu.Unlock()
	k.options.Log.Warn("keys not kept", "domain", name, "err", err)
}

// hurries reports whether the domain is in an emergency, in which trouble in the
// rounds before is no reason to wait: a key that replaces a stolen one does not
// sign yet, or signs so recently that the stolen one may be still in DNS.
func (k *Keeper) hurries(ctx context.Context, name string) bool {
	d, err := k.store.Domain(ctx, name)
	if err != nil {
		return false
	}
	for i := range d.Keys {
		key := &d.Keys[i]
		if key.Urgent && (key.State == keystore.Pending || key.State == keystore.Active && k.options.Now().Before(key.Activated.Add(hurry))) {
			return true
		}
	}
	return false
}

// add counts what was found in one domain.
func (s *Stats) add(r *Result) {
	if r == nil {
		return
	}
	s.Domains++
	for _, step := range r.Open {
		switch step.Action {
		case keystore.Ask:
			s.Asks++
		case keystore.Alarm:
			s.Alarms++
		}
	}
	s.Overdue += r.Overdue
}

// Result is what Keep did and left in one domain.
type Result struct {
	Domain  *keystore.Domain // as it is now
	Taken   []keystore.Step  // in this order
	Open    []keystore.Step  // what remains: Wait, Ask, Alarm
	Sights  map[string]keystore.Sight
	Overdue int // keys that should have been rotated by now
}

// domain reads a domain, which must be whole: a row that cannot be read may be
// the key that mail needs.
func (k *Keeper) domain(ctx context.Context, name string) (*keystore.Domain, error) {
	d, err := k.store.Domain(ctx, name)
	if err != nil {
		return nil, err
	}
	if err := d.Whole(); err != nil {
		return nil, err
	}
	return d, nil
}

// maxPasses bounds how often Keep looks again because something changed: a whole
// life of a key has fewer steps.
const maxPasses = 12

// hurry is how long after an emergency a domain is not left out of a round.
const hurry = 24 * time.Hour

// Keep takes all steps that are due in one domain. With an error, Result, if not
// nil, is what was done before it.
func (k *Keeper) Keep(ctx context.Context, name string) (*Result, error) {
	var r *Result
	var taken []keystore.Step
	var conflict error
	for range maxPasses {
		next, again, err := k.pass(ctx, name)
		if next != nil {
			for _, s := range next.Taken {
				if s.Action == keystore.Publish && slices.ContainsFunc(taken, func(t keystore.Step) bool { return t.Action == s.Action && t.Selector == s.Selector }) {
					continue // in each pass, until all servers show it
				}
				taken = append(taken, s)
			}
			next.Taken = slices.Clip(taken)
			r = next
		}
		if errors.Is(err, keystore.ErrConflict) {
			conflict = err
			continue // someone else took the step: look again
		}
		if conflict = nil; !again {
			return r, err
		}
	}
	return r, conflict
}

// survive is Keep, where a panic is an error: mail goes on.
func (k *Keeper) survive(ctx context.Context, name string) (r *Result, err error) {
	defer recovered(&err)
	return k.Keep(ctx, name)
}

// recovered turns a panic into an error.
func recovered(err *error) {
	if p := recover(); p != nil {
		*err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
	}
}

// Plan returns what Keep would do, and does nothing.
func (k *Keeper) Plan(ctx context.Context, name string) (*Result, error) {
	d, err := k.domain(ctx, name)
	if err != nil {
		return nil, err
	}
	sights, unusable, err := k.look(ctx, d)
	if err != nil {
		return nil, err
	}
	return &Result{Domain: d, Open: k.plan(k.options.Now(), d, sights, unusable, k.rules(d)), Sights: sights}, nil
}

// pass looks once, and takes the steps that follow. again means that more may
// follow at once.
func (k *Keeper) pass(ctx context.Context, name string) (r *Result, again bool, err error) {
	d, err := k.domain(ctx, name)
	if err != nil {
		return nil, false, err
	}
	sights, unusable, err := k.look(ctx, d)
	if err != nil {
		return nil, false, err
	}
	rules := k.rules(d)
	now := k.options.Now()
	if k.clock.ahead() > maxAhead {
		return nil, false, fmt.Errorf("domain %s: the clock jumped while DNS was asked", d.Name)
	}
	steps := k.plan(now, d, sights, unusable, rules)
	r = &Result{Domain: d, Sights: sights, Overdue: overdue(d, now, rules)}
	t := &taking{keeper: k, d: d, now: now, sights: sights, grace: rules.Grace}
	err = t.store(ctx, steps)
	r.Taken = t.taken
	if err != nil {
		return r, false, err
	}
	for _, s := range steps {
		switch s.Action {
		case keystore.Ask, keystore.Alarm, keystore.Wait:
			r.Open = append(r.Open, s)
		}
	}
	again = len(r.Taken) > 0
	published, more, err := t.publish(ctx, steps)
	r.Taken = append(r.Taken, published...)
	return r, again || more, cmp.Or(t.failed, err)
}

// rules are those of the domain.
func (k *Keeper) rules(d *keystore.Domain) keystore.Rules {
	var r keystore.Rules
	if k.options.Rules != nil {
		r = k.options.Rules(d.Name)
	}
	r.KeepPrivate = k.options.Retired != ""
	p, _ := k.publisher(d, "")
	r.Automatic = p != nil
	return r
}

// recordName is where the record of a key is to be put: in a slot, where the
// CNAME points.
func recordName(d *keystore.Domain, selector string) (name string, slot bool) {
	if target, ok := d.Slot(selector); ok {
		return target, true
	}
	return dns.Name(selector, d.Name), false
}

// publisher is who publishes the records of a domain. Without a selector it is
// that of the first slot, or of any name.
func (k *Keeper) publisher(d *keystore.Domain, selector string) (dns.Publisher, time.Duration) {
	if k.options.Publisher == nil {
		return nil, 0
	}
	if selector == "" && len(d.Slots) > 0 {
		selector = d.Slots[0].Selector
	}
	if selector == "" {
		selector = "x"
	}
	name, _ := recordName(d, selector)
	return k.options.Publisher(name)
}

// overdue counts the keys that sign longer than the rules want.
func overdue(d *keystore.Domain, now time.Time, r keystore.Rules) int {
	n := 0
	for i := range d.Keys {
		k := &d.Keys[i]
		if k.State == keystore.Active && r.RotateEvery > 0 && now.After(k.Activated.Add(r.RotateEvery)) {
			n++
		}
	}
	return n
}
