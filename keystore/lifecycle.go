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

// Step is when, and on whose word, a key changes its state.
type Step struct {
	Now time.Time

	// Force takes the step although it is early or leaves nothing that signs.
	// It needs a Reason.
	Force bool

	// Reason is kept in the key's row if it is not empty.
	Reason string
}

// Add appends k as a pending key, created at now. Its selector must never
// have been used for this domain.
func (d *Domain) Add(k Key, now time.Time) error {
	if d.Key(k.Selector) != nil {
		return fmt.Errorf("key %s.%s: the selector was used before, and is never used twice; take %s",
			k.Selector, d.Name, NextSelector(d, now))
	}
	k.State = Pending
	k.Created = stamp(now)
	k.Activated, k.Retired, k.Revoked, k.Removed = time.Time{}, time.Time{}, time.Time{}, time.Time{}
	if err := k.validate(d.Name); err != nil {
		return fmt.Errorf("key %s.%s: %w", k.Selector, d.Name, err)
	}
	d.Keys = append(d.Keys, k)
	return nil
}

// Activate makes a pending key sign. The caller has made sure that the world
// can see its record. With Force a retired key signs again, which is right
// only while its record is still published.
func (d *Domain) Activate(selector string, s Step) error {
	return d.step(selector, s, Active, func(k *Key) error {
		switch k.State {
		case Pending:
		case Retired:
			if !s.Force {
				return errors.New("retired; to let it sign again its record must still be published, and the step be forced")
			}
			k.Retired = time.Time{}
		default:
			return fmt.Errorf("%s, want %s", k.State, Pending)
		}
		k.Activated = stamp(s.Now)
		return nil
	})
}

// Retire stops an active key from signing. It refuses the domain's last
// active key unless forced.
func (d *Domain) Retire(selector string, s Step) error {
	return d.step(selector, s, Retired, func(k *Key) error {
		if k.State != Active {
			return fmt.Errorf("%s, want %s", k.State, Active)
		}
		if err := d.notLast(k, s); err != nil {
			return err
		}
		k.Retired = stamp(s.Now)
		return nil
	})
}

// Revoke says that the key's record is to have an empty p=. A retired key may
// be revoked after Grace; earlier, and from pending or active (a stolen key),
// only when forced.
func (d *Domain) Revoke(selector string, s Step) error {
	return d.step(selector, s, Revoked, func(k *Key) error {
		switch k.State {
		case Retired:
			if err := grace(k.Retired, s); err != nil {
				return err
			}
		case Pending, Active:
			if !s.Force {
				return fmt.Errorf("%s; retire it first, or force the step", k.State)
			}
		default:
			return fmt.Errorf("%s, want %s", k.State, Retired)
		}
		k.Revoked = stamp(s.Now)
		return nil
	})
}

// Remove destroys the key's private half when the domain is next updated; the
// row stays. A pending key may go at once, a retired or revoked one after
// Grace or when forced, an active one only when forced.
func (d *Domain) Remove(selector string, s Step) error {
	return d.step(selector, s, Removed, func(k *Key) error {
		switch k.State {
		case Pending:
		case Active:
			if err := d.notLast(k, s); err != nil {
				return err
			}
			if !s.Force {
				return fmt.Errorf("%s; retire it first, or force the step", k.State)
			}
		case Retired:
			if err := grace(k.Retired, s); err != nil {
				return err
			}
		case Revoked:
			if err := grace(k.Revoked, s); err != nil {
				return err
			}
		default:
			return errors.New("removed already")
		}
		k.Removed = stamp(s.Now)
		k.Load = nil
		return nil
	})
}

// step finds the key, lets leave check its present state and set the time
// stamp, and then moves it to the state to. After an error nothing changed.
func (d *Domain) step(selector string, s Step, to State, leave func(*Key) error) error {
	k := d.Key(selector)
	if k == nil {
		return fmt.Errorf("key %s.%s: %w", selector, d.Name, ErrNotFound)
	}
	if s.Force && s.Reason == "" {
		return fmt.Errorf("key %s.%s: a forced step needs a reason", selector, d.Name)
	}
	if err := validText(s.Reason); err != nil {
		return fmt.Errorf("key %s.%s: reason: %w", selector, d.Name, err)
	}
	changed := *k
	if err := leave(&changed); err != nil {
		return fmt.Errorf("key %s.%s is %w", selector, d.Name, err)
	}
	changed.State = to
	if s.Reason != "" {
		changed.Reason = s.Reason
	}
	*k = changed
	return nil
}

// notLast refuses a step that would leave the domain without a key that signs.
func (d *Domain) notLast(k *Key, s Step) error {
	if s.Force {
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
func grace(since time.Time, s Step) error {
	if until := since.Add(Grace); !s.Force && s.Now.Before(until) {
		return fmt.Errorf("still needed by mail under way until %s; wait, or force the step", until.UTC().Format(time.RFC3339))
	}
	return nil
}

// stamp is the form of time stamps in a store.
func stamp(t time.Time) time.Time { return t.UTC().Truncate(time.Second) }
