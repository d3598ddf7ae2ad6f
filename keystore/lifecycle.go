package keystore

import (
	"errors"
	"fmt"
	"time"
)

// Grace is how long a retired key's record stays as it is before the key may
// be revoked or removed, and a revoked key's empty record before removal:
// longer than any mail queue keeps a message (five days with Postfix and
// Sendmail).
const Grace = 7 * 24 * time.Hour

// Warrant is when, and on whose word, a key takes a step of its life.
type Warrant struct {
	Now time.Time

	// By is who takes the step, for the history.
	By string

	// Reason is kept in the history, and in the key's row if it is not empty.
	Reason string

	// Force takes the step although it is early or leaves nothing that signs.
	// It needs a Reason.
	Force bool

	// Grace replaces the grace period of the same name. 0: Grace.
	Grace time.Duration
}

func (w *Warrant) grace() time.Duration {
	if w.Grace > 0 {
		return w.Grace
	}
	return Grace
}

// Add appends k as a pending key, created now. Its selector must never have
// been used for this domain. In a domain with slots it must be one of them, and
// then it is enough that its last key was removed and a grace period has passed.
func (d *Domain) Add(k Key, w Warrant) error {
	return d.add(k, w, WasCreated)
}

// Import is Add for a key that was made elsewhere: it keeps k.Created, if set.
func (d *Domain) Import(k Key, w Warrant) error {
	return d.add(k, w, WasImported)
}

func (d *Domain) add(k Key, w Warrant, what What) error {
	place, err := d.free(k.Selector, w)
	if err != nil {
		return fmt.Errorf("key %s.%s: %w", k.Selector, d.Name, err)
	}
	created := stamp(w.Now)
	if what == WasImported && !k.Created.IsZero() {
		created = stamp(k.Created)
	}
	k = Key{
		Selector: k.Selector, Algorithm: k.Algorithm, State: Pending, Public: k.Public,
		Created: created, Urgent: k.Urgent, Note: k.Note, Reason: w.Reason, Load: k.Load,
	}
	if err := k.validate(d.Name); err != nil {
		return fmt.Errorf("key %s.%s: %w", k.Selector, d.Name, err)
	}
	if place >= 0 { // the slot's old row goes; its history stays
		d.Keys = append(d.Keys[:place:place], d.Keys[place+1:]...)
	}
	d.Keys = append(d.Keys, k)
	d.note(k.Selector, what, w)
	return nil
}

// MayAdd reports why Add would refuse any key of the selector, or nil.
func (d *Domain) MayAdd(selector string, w Warrant) error {
	if _, err := d.free(selector, w); err != nil {
		return fmt.Errorf("key %s.%s: %w", selector, d.Name, err)
	}
	return nil
}

// free refuses a selector that may not name a new key. place is the row in the
// way that may be given up, or -1.
func (d *Domain) free(selector string, w Warrant) (place int, err error) {
	_, slot := d.Slot(selector)
	if len(d.Slots) > 0 && !slot {
		return -1, errors.New("the domain has slots, and this selector is none of them: the owner of its zone has no CNAME for it")
	}
	for i := range d.Keys {
		k := &d.Keys[i]
		if k.Selector != selector {
			continue
		}
		if !slot {
			return -1, fmt.Errorf("the selector was used before, and is never used twice; take %s", NextSelector(d, w.Now))
		}
		if k.State != Removed {
			return -1, fmt.Errorf("the slot is taken by a key that is %s", k.State)
		}
		if until := k.slotFree(w.grace()); w.Now.Before(until) {
			return -1, fmt.Errorf("the slot may be used again from %s, when no mail needs its last key", until.UTC().Format(time.RFC3339))
		}
		return i, nil
	}
	return -1, nil
}

// slotFree is when the slot of a removed key may be used again: a grace period
// after the world was told that the key is no good, or if it never was, after
// the key was removed. A key that never signed is in nobody's way.
func (k *Key) slotFree(grace time.Duration) time.Time {
	switch {
	case k.Activated.IsZero():
		return k.Removed
	case !k.Revoked.IsZero():
		return k.Revoked.Add(grace)
	default:
		return k.Removed.Add(grace)
	}
}

// NeededUntil is when the last mail that needs the record of a removed key has
// arrived; zero if there never was any.
func (k *Key) NeededUntil(grace time.Duration) time.Time {
	switch {
	case k.Activated.IsZero() || !k.Revoked.IsZero(): // nothing was signed, or nothing is to verify
		return time.Time{}
	case k.Retired.IsZero():
		return k.Removed.Add(grace)
	default:
		return k.Retired.Add(grace)
	}
}

// Activate makes a pending key sign. Its record must have been seen, and be
// Ready; that of an Urgent key must have been seen. With Force neither is asked,
// and a retired key signs again, which is right only while its record is still
// published.
func (d *Domain) Activate(selector string, w Warrant) error {
	return d.step(selector, w, Active, WasActivated, func(k *Key) error {
		switch k.State {
		case Pending:
			if err := k.visible(w); err != nil {
				return err
			}
		case Retired:
			if !w.Force {
				return errors.New("retired; to let it sign again its record must still be published, and the step be forced")
			}
			k.Retired = time.Time{}
		default:
			return fmt.Errorf("%s, want %s", k.State, Pending)
		}
		k.Activated = stamp(w.Now)
		return nil
	})
}

// visible refuses to let a key sign that not all the world can see.
func (k *Key) visible(w Warrant) error {
	switch {
	case w.Force:
		return nil
	case k.Seen.IsZero():
		return errors.New("pending, and its record was not seen at every authoritative server of its zone yet")
	case !k.Urgent && w.Now.Before(k.Ready):
		return fmt.Errorf("pending; its record was seen, but resolvers may remember until %s that it was not there", k.Ready.UTC().Format(time.RFC3339))
	}
	return nil
}

// Retire stops an active key from signing. It refuses the domain's last
// active key unless forced.
func (d *Domain) Retire(selector string, w Warrant) error {
	return d.step(selector, w, Retired, WasRetired, func(k *Key) error {
		if k.State != Active {
			return fmt.Errorf("%s, want %s", k.State, Active)
		}
		if err := d.notLast(k, w); err != nil {
			return err
		}
		k.Retired = stamp(w.Now)
		return nil
	})
}

// Revoke says that the key's record is to have an empty p=. A retired key may
// be revoked after the grace period; earlier, and from pending or active (a
// stolen key), only when forced.
func (d *Domain) Revoke(selector string, w Warrant) error {
	return d.step(selector, w, Revoked, WasRevoked, func(k *Key) error {
		switch k.State {
		case Retired:
			if err := grace(k.Retired, w); err != nil {
				return err
			}
		case Pending, Active:
			if !w.Force {
				return fmt.Errorf("%s; retire it first, or force the step", k.State)
			}
		default:
			return fmt.Errorf("%s, want %s", k.State, Retired)
		}
		k.Revoked = stamp(w.Now)
		k.Seen, k.Ready = time.Time{}, time.Time{} // what is to be seen is another record now
		return nil
	})
}

// Remove destroys the key's private half when the domain is next updated; the
// row stays. A pending key may go at once, a retired or revoked one after the
// grace period or when forced, an active one only when forced.
func (d *Domain) Remove(selector string, w Warrant) error {
	return d.step(selector, w, Removed, WasRemoved, func(k *Key) error {
		switch k.State {
		case Pending:
		case Active:
			if err := d.notLast(k, w); err != nil {
				return err
			}
			if !w.Force {
				return fmt.Errorf("%s; retire it first, or force the step", k.State)
			}
		case Retired:
			if err := grace(k.Retired, w); err != nil {
				return err
			}
		case Revoked:
			if err := grace(k.Revoked, w); err != nil {
				return err
			}
		default:
			return errors.New("removed already")
		}
		k.Removed = stamp(w.Now)
		k.Load = nil
		return nil
	})
}

// step finds the key, lets leave check its present state and set the time
// stamp, and then moves it to the state to. After an error nothing changed.
func (d *Domain) step(selector string, w Warrant, to State, what What, leave func(*Key) error) error {
	k := d.Key(selector)
	if k == nil {
		return fmt.Errorf("key %s.%s: %w", selector, d.Name, ErrNotFound)
	}
	if w.Force && w.Reason == "" {
		return fmt.Errorf("key %s.%s: a forced step needs a reason", selector, d.Name)
	}
	for _, text := range []string{w.Reason, w.By} {
		if err := validText(text); err != nil {
			return fmt.Errorf("key %s.%s: reason: %w", selector, d.Name, err)
		}
	}
	changed := *k
	if err := leave(&changed); err != nil {
		return fmt.Errorf("key %s.%s is %w", selector, d.Name, err)
	}
	changed.State = to
	if w.Reason != "" {
		changed.Reason = w.Reason
	}
	*k = changed
	d.note(selector, what, w)
	return nil
}

// note appends to the history.
func (d *Domain) note(selector string, what What, w Warrant) {
	d.History = append(d.History, Event{
		Time: stamp(w.Now), Selector: selector, What: what, By: w.By, Reason: w.Reason, Forced: w.Force,
	})
}

// notLast refuses a step that would leave the domain without a key that signs.
func (d *Domain) notLast(k *Key, w Warrant) error {
	if w.Force {
		return nil
	}
	for i := range d.Keys {
		if other := &d.Keys[i]; other.State == Active && other.Selector != k.Selector {
			return nil
		}
	}
	return errors.New("the last active key, and without it mail leaves unsigned; activate a successor first, or force the step")
}

// grace refuses a step before the grace period since the given time is over.
func grace(since time.Time, w Warrant) error {
	if until := since.Add(w.grace()); !w.Force && w.Now.Before(until) {
		return fmt.Errorf("still needed by mail under way until %s; wait, or force the step", until.UTC().Format(time.RFC3339))
	}
	return nil
}

// stamp is the form of time stamps in a store.
func stamp(t time.Time) time.Time { return t.UTC().Truncate(time.Second) }
