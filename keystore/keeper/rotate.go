package keeper

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"waxseal/keystore"
)

// Rotations that somebody asks for. Those that are due are begun by a domain's plan.

// ErrNoKey means that a domain has no key that could be rotated.
var ErrNoKey = errors.New("no key signs for the domain, so there is none to rotate")

// Rotate makes a successor for each kind of key that signs for the domain, and
// returns the new keys' selectors. Where a successor is pending already it makes
// none, unless urgent: then the keys there are compromised, the successors sign
// as soon as they are seen, and all older ones are revoked with that. Keep does
// the rest.
func (k *Keeper) Rotate(ctx context.Context, name string, urgent bool, reason string) (made []string, err error) {
	for range maxPasses {
		if made, err = k.rotate(ctx, name, urgent, reason); !errors.Is(err, keystore.ErrConflict) {
			return made, err
		}
	}
	return made, err
}

func (k *Keeper) rotate(ctx context.Context, name string, urgent bool, reason string) (made []string, err error) {
	d, err := k.domain(ctx, name)
	if err != nil {
		return nil, err
	}
	rules := k.rules(d)
	steps := keystore.Rotation(k.options.Now(), d, urgent, rules)
	if len(steps) == 0 {
		return nil, fmt.Errorf("domain %s: %w", name, ErrNoKey)
	}
	t := &taking{keeper: k, d: d, now: k.options.Now(), grace: rules.Grace, urgent: urgent, reason: reason}
	err = t.store(ctx, steps)
	for _, s := range t.taken {
		made = append(made, s.Selector)
	}
	if err = cmp.Or(err, t.failed); err != nil {
		return made, err
	}
	for _, s := range steps {
		if s.Action == keystore.Ask || len(made) == 0 {
			return made, fmt.Errorf("domain %s: %s", name, s.Because)
		}
	}
	return made, nil
}
