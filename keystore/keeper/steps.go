package keeper

import (
	"cmp"
	"context"
	"crypto"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"waxseal/keystore"
	"waxseal/keystore/dns"
)

// How long the same thing is not told again.
const (
	askAgain   = 7 * 24 * time.Hour
	alarmAgain = 24 * time.Hour
)

// tellCNAME is how long after its publication a record in a slot may be unseen
// before somebody is told that the CNAME is to blame.
const tellCNAME = time.Hour

// plan is what there is to do, with the steps for which there is no publisher
// left to an administrator, and the CNAMEs of slots to the owner of the domain.
func (k *Keeper) plan(now time.Time, d *keystore.Domain, sights map[string]keystore.Sight, unusable []keystore.Step, r keystore.Rules) []keystore.Step {
	steps := keystore.Plan(now, d, sights, r)
	for i := range steps {
		s := &steps[i]
		if s.Action != keystore.Publish && s.Action != keystore.Withdraw {
			continue
		}
		if p, _ := k.publisher(d, s.Selector); p == nil {
			if s.Action == keystore.Withdraw {
				s.Because = "its record may be deleted from DNS now"
			}
			s.Action = keystore.Ask
		}
	}
	for _, s := range steps {
		key := d.Key(s.Selector)
		target, slot := d.Slot(s.Selector)
		if s.Action == keystore.Publish && slot && key.State == keystore.Pending && !key.Published.IsZero() && now.Sub(key.Published) >= tellCNAME {
			s.Action = keystore.Ask
			s.Because = fmt.Sprintf("its record is published, but not seen where it is to be: the owner of %s has to set %s. IN CNAME %s.", d.Name, dns.Name(s.Selector, d.Name), target)
			steps = append(steps, s)
		}
	}
	return append(steps, unusable...)
}

// look asks DNS about every key whose record matters: all but those of removed
// keys that are withdrawn. A pending key that could not sign must not take over:
// it is not looked for, and there is an alarm instead.
func (k *Keeper) look(ctx context.Context, d *keystore.Domain) (sights map[string]keystore.Sight, alarms []keystore.Step, err error) {
	sights = make(map[string]keystore.Sight, len(d.Keys))
	var mu sync.Mutex // guards sights
	var asking sync.WaitGroup
	for i := range d.Keys {
		key := &d.Keys[i]
		if _, slot := d.Slot(key.Selector); key.State == keystore.Removed && (slot || !key.Withdrawn.IsZero()) {
			continue
		}
		if key.State == keystore.Pending {
			if err := Usable(ctx, key); err != nil {
				s := keystore.Step{Action: keystore.Alarm, Selector: key.Selector, Because: "its private half cannot be used, so it will not sign", Detail: err.Error()}
				alarms = append(alarms, s)
				mu.Lock()
				sights[key.Selector] = keystore.Sight{Detail: fmt.Sprintf("not asked, as its private half cannot be used: %v", err)}
				mu.Unlock()
				continue
			}
		}
		asking.Go(func() {
			s := k.sight(ctx, d, key)
			mu.Lock()
			sights[key.Selector] = s
			mu.Unlock()
		})
	}
	asking.Wait()
	return sights, alarms, ctx.Err()
}

// sight is what DNS shows of one key.
func (k *Keeper) sight(ctx context.Context, d *keystore.Domain, key *keystore.Key) keystore.Sight {
	record := &dns.Record{} // of a removed key it only matters whether there is one
	if key.State != keystore.Removed {
		var err error
		if record, err = dns.NewRecord(key, dns.RecordOptions{}); err != nil {
			return keystore.Sight{Detail: err.Error()}
		}
	}
	report, err := k.check(ctx, dns.Name(key.Selector, d.Name), record)
	if err != nil {
		return keystore.Sight{Detail: err.Error()}
	}
	return report.Sight(k.options.Now())
}

// check asks DNS. It is called in a goroutine of its own, where a panic would be
// the end of the process.
func (k *Keeper) check(ctx context.Context, name string, want *dns.Record) (r *dns.Report, err error) {
	defer recovered(&err)
	return k.options.Check(ctx, name, want)
}

// taking is the steps of one plan at work.
type taking struct {
	keeper *Keeper
	d      *keystore.Domain
	now    time.Time
	sights map[string]keystore.Sight
	grace  time.Duration
	urgent bool   // new keys are successors of compromised ones
	reason string // of new keys, in place of the plan's

	taken   []keystore.Step
	notices []Notice
	failed  error // of the first step that could not be taken, and that no other needs
}

func (t *taking) warrant(s keystore.Step) keystore.Warrant {
	w := keystore.Warrant{Now: t.now, By: t.keeper.options.By, Reason: s.Because, Force: s.Force, Grace: t.grace}
	if s.Detail != "" && s.Action == keystore.DoRetire {
		w.Reason += " (" + s.Detail + ")"
	}
	if t.reason != "" && s.Action == keystore.Create {
		w.Reason = t.reason
	}
	return w
}

// store takes the steps that change the store, in one Update, and tells what
// there is to tell. A key that cannot be made or removed does not stop the other
// steps.
func (t *taking) store(ctx context.Context, steps []keystore.Step) error {
	changed := false
	for _, s := range steps {
		w := t.warrant(s)
		var err error
		switch s.Action {
		case keystore.Create:
			s.Selector, err = t.create(ctx, s, w)
		case keystore.Observe:
			if !t.d.Observe(s.Selector, t.sights[s.Selector], w) {
				continue
			}
		case keystore.DoActivate:
			err = t.d.Activate(s.Selector, w)
		case keystore.DoRetire:
			err = t.d.Retire(s.Selector, w)
		case keystore.DoRevoke:
			err = t.d.Revoke(s.Selector, w)
		case keystore.DoRemove:
			if err = t.keeper.publishRetired(ctx, t.d, s.Selector); err == nil {
				err = t.d.Remove(s.Selector, w)
			}
		case keystore.Ask, keystore.Alarm:
			changed = t.tell(s, w) || changed
			continue
		default:
			continue
		}
		if err != nil && (s.Action == keystore.Create || s.Action == keystore.DoRemove) {
			t.failed = cmp.Or(t.failed, err)
			continue
		}
		if err != nil {
			t.taken = nil
			return err
		}
		changed = true
		t.taken = append(t.taken, s)
	}
	if !changed {
		return nil
	}
	before := t.d.Version
	err := t.keeper.store.Update(ctx, t.d)
	if err != nil && t.d.Version == before {
		t.taken = nil
		return err
	}
	t.keeper.report(t.d, t.taken)
	for _, n := range t.notices {
		t.keeper.notify(ctx, n)
	}
	return err
}

// create adds the key that a step asks for, and returns its selector.
func (t *taking) create(ctx context.Context, s keystore.Step, w keystore.Warrant) (selector string, err error) {
	selector, _ = t.d.NextSelector(t.now, t.grace)
	if selector == "" {
		return "", fmt.Errorf("domain %s: all slots are in use", t.d.Name)
	}
	private, err := keystore.NewKey(ctx, t.keeper.store, t.d.Name, selector, s.Algorithm)
	if err != nil {
		return "", err
	}
	public, _, err := keystore.PublicBytes(private.Public())
	if err != nil {
		return "", err
	}
	return selector, t.d.Add(keystore.Key{
		Selector: selector, Algorithm: s.Algorithm, Public: public, Urgent: t.urgent,
		Load: func(context.Context) (crypto.Signer, error) { return private, nil },
	}, w)
}

// tell keeps a notice for when the history says that it was told, or returns
// false if the history says so already.
func (t *taking) tell(s keystore.Step, w keystore.Warrant) bool {
	alarm := s.Action == keystore.Alarm
	within := askAgain
	if alarm {
		within = alarmAgain
	}
	if !t.d.Tell(s.Selector, within, w) {
		return false
	}
	n := Notice{Domain: t.d.Name, Selector: s.Selector, Alarm: alarm, Text: s.Because}
	if s.Detail != "" {
		n.Text += " (" + s.Detail + ")"
	}
	n.Name, _ = recordName(t.d, s.Selector)
	n.Record = value(t.d.Key(s.Selector))
	t.notices = append(t.notices, n)
	return true
}

// value is the text of the record that a key should have in DNS; empty: none.
func value(key *keystore.Key) string {
	if key.State == keystore.Removed {
		return ""
	}
	record, err := dns.NewRecord(key, dns.RecordOptions{})
	if err != nil {
		return ""
	}
	return record.String()
}

// publish takes the steps that change DNS. One that fails does not stop the
// others. The first error is returned. again means that a record was published
// that was not before, so that DNS may show something new.
func (t *taking) publish(ctx context.Context, steps []keystore.Step) (taken []keystore.Step, again bool, err error) {
	var first error
	marked := false
	for _, s := range steps {
		if s.Action != keystore.Publish && s.Action != keystore.Withdraw {
			continue
		}
		key := t.d.Key(s.Selector)
		p, ttl := t.keeper.publisher(t.d, s.Selector)
		if p == nil || (s.Action == keystore.Withdraw) != (key.State == keystore.Removed) {
			continue
		}
		// DNS knows no compare-and-swap, and looking at it takes time: a key that
		// was revoked meanwhile must not be published again.
		if err := t.fresh(ctx); err != nil {
			return taken, again, err
		}
		c := dns.Change{Domain: t.d.Name, Selector: s.Selector, Record: value(key), TTL: ttl}
		c.Name, c.Slot = recordName(t.d, s.Selector)
		if err := p.Publish(ctx, c); err != nil {
			if known := (*dns.PublishError)(nil); !errors.As(err, &known) { // which has the name
				err = fmt.Errorf("publishing %s: %w", c.Name, err)
			}
			first = cmp.Or(first, err)
			continue
		}
		known := s.Action == keystore.Publish && key.State == keystore.Pending && !key.Published.IsZero()
		if !known { // or the first time was told
			taken = append(taken, s)
		}
		t.keeper.count(s.Action)
		if s.Action == keystore.Publish {
			again = again || key.Published.IsZero()
			marked = t.d.MarkPublished(s.Selector, t.warrant(s)) || marked
		}
		level, done := slog.LevelInfo, "key record published"
		if known {
			level = slog.LevelDebug
		}
		if s.Action == keystore.Withdraw {
			done = "key record withdrawn"
		}
		t.keeper.options.Log.Log(ctx, level, done, "domain", t.d.Name, "selector", s.Selector, "name", c.Name, "record", c.Record, "because", s.Because)
	}
	if marked {
		if err := t.keeper.store.Update(ctx, t.d); err != nil {
			return taken, again, err
		}
	}
	return taken, again, first
}

// fresh returns an error if the domain has changed since it was read.
func (t *taking) fresh(ctx context.Context) error {
	d, err := t.keeper.store.Domain(ctx, t.d.Name)
	if err == nil && d.Version != t.d.Version {
		err = fmt.Errorf("domain %s: %w", t.d.Name, keystore.ErrConflict)
	}
	return err
}

// report logs and counts steps that were taken.
func (k *Keeper) report(d *keystore.Domain, taken []keystore.Step) {
	for _, s := range taken {
		k.count(s.Action)
		k.options.Log.Info("key step", "step", string(s.Action), "domain", d.Name, "selector", s.Selector, "because", s.Because)
	}
}

func (k *Keeper) count(a keystore.Action) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.stats.Steps[a]++
}

func (k *Keeper) notify(ctx context.Context, n Notice) {
	if n.Alarm {
		k.options.Log.Warn("key record", "domain", n.Domain, "selector", n.Selector, "trouble", n.Text, "name", n.Name, "record", n.Record)
	} else {
		k.options.Log.Warn("change DNS by hand", "domain", n.Domain, "selector", n.Selector, "what", n.Text, "name", n.Name, "record", n.Record)
	}
	if k.options.Notify != nil {
		k.options.Notify(ctx, n)
	}
}

// Usable reports why the private half of a key cannot be used, or nil.
func Usable(ctx context.Context, key *keystore.Key) error {
	if key.Load == nil {
		return errors.New("it has no private half")
	}
	private, err := key.Load(ctx)
	if err != nil {
		return err
	}
	return keystore.SelfTest(private, key.Public)
}
