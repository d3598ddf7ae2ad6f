package main

// Copies of a keystore.

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"waxseal/keystore"
)

func (a *app) storeCopyCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "copy FROM TO",
		Short: "Copy a keystore into another",
		Long: `Copy all domains with their keys, slots and history from one keystore into another.
What is written is read back, compared, and each key tested. With
keystore.key_encryption_key set, keys are encrypted with it in TO, whether they are
in FROM or not; without it they are written as they are, and encrypted ones refused.

A copy that was broken off is begun again and goes on with what is missing; so is
one that should take over what has changed since. A domain that has changed in TO
is left alone and told: then the exit status is 1. Keys are changed by daemons and
commands that use either keystore, so stop them, or let them use FROM, until all
use TO. Keys in Vault's transit engine cannot be copied, nor any key into a
keystore that has its keys made there.`,
		Example: `  waxseal store copy /var/lib/waxseal/keys sqlite:/var/lib/waxseal/keys.db
  waxseal store copy /var/lib/waxseal/keys "postgres://waxseal@db1,db2/mail?password_file=/etc/waxseal/db" --dry-run`,
		Args: cobra.ExactArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			if args[0] == args[1] {
				return misused(errors.New("FROM and TO are the same keystore"))
			}
			d, err := a.loadConfig()
			if err != nil {
				return err
			}
			from, remedy, err := openStoreAt(d, args[0], a.warn)
			if err != nil {
				return about("FROM", err, remedy)
			}
			a.opening(from, nil)
			target := *d
			target.Keystore.URL = args[1]
			var to keystore.Store
			if a.dryRun {
				to, remedy, err = openStoreAt(&target, args[1], a.warn)
			} else {
				to, err = makeStore(c.Context(), &target, a.warn, a.madeStore)
			}
			if err != nil {
				return about("TO", err, remedy)
			}
			a.opening(to, nil)
			return a.copyStore(c.Context(), from, to, " --keystore "+shellArgument(args[1]))
		},
	}
	a.configFlag(c)
	a.jsonFlag(c)
	a.dryRunFlag(c)
	return c
}

// about says which of the two keystores an error is about. The setting that would
// name a keystore has nothing to do with it.
func about(which string, err error, remedy string) error {
	var found problems
	if errors.As(err, &found) && len(found) == 1 {
		err, remedy = found[0].err, found[0].remedy
	}
	var hint interface{ Hint() string }
	if remedy == "" && errors.As(err, &hint) {
		remedy = hint.Hint()
	}
	return withHint(fmt.Errorf("%s: %w", which, err), "%s", remedy)
}

// copiers is how many domains are copied at a time.
const copiers = 8

// copied counts what became of domains.
type copied struct {
	Copied  int `json:"copied"`
	Same    int `json:"same"`
	Refused int `json:"refused"`
}

// copyStore copies all domains. What is wrong with one stops no other; a keystore
// that does not answer any more ends it. The flags are those by which a command finds
// the one that is written to.
func (a *app) copyStore(ctx context.Context, from, to keystore.Store, flags string) error {
	if err := takesChanges(ctx, to, flags); err != nil {
		return about("TO", err, "")
	}
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	names := make(chan string)
	var mu sync.Mutex // guards count and what is printed
	var count copied
	var running sync.WaitGroup
	for range copiers {
		running.Go(func() {
			for name := range names {
				wrote, err := copyDomain(ctx, from, to, name, a.now(), a.dryRun)
				if errors.As(err, new(unanswered)) {
					if dead := answers(ctx, from, to); dead != nil {
						stop(dead)
					}
				}
				mu.Lock()
				switch {
				case errors.Is(err, errNotInSource):
				case err != nil && ctx.Err() != nil: // told once, below
				case err != nil:
					count.Refused++
					a.report(err)
				case wrote:
					count.Copied++
				default:
					count.Same++
				}
				mu.Unlock()
			}
		})
	}
	_, err := a.eachDomainOrAll(ctx, from, nil, func(domain string) error {
		select {
		case names <- domain:
		case <-ctx.Done(): // which ends the list, too
		}
		return nil
	})
	close(names)
	running.Wait()
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if printed := a.printCopied(count); err == nil {
		err = printed
	}
	return err
}

// printCopied prints the result. The error is errFindings if not all was copied.
func (a *app) printCopied(count copied) error {
	verb := "copied"
	if a.dryRun {
		verb = "to copy"
	}
	var err error
	if a.json {
		err = a.printJSON(count)
	} else {
		_, err = fmt.Fprintf(a.stdout, "%s: %d, there already: %d, not copied: %d\n", verb, count.Copied, count.Same, count.Refused)
	}
	if err == nil && count.Refused > 0 {
		return errFindings
	}
	return err
}

// takesChanges returns an error if no domain at all can be written to the store.
func takesChanges(ctx context.Context, to keystore.Store, flags string) error {
	if readOnly(to) {
		return keystore.ErrReadOnly
	}
	if makesKeys(to) {
		return errNoImport
	}
	if r, ok := to.(keystore.Reporter); ok {
		s, err := r.Status(ctx)
		return schemaProblem(s, err, flags)
	}
	return nil
}

// unanswered is an error of a keystore, which need not be about a domain.
type unanswered struct{ error }

func (u unanswered) Unwrap() error { return u.error }

// answers returns what is wrong with the two keystores.
func answers(ctx context.Context, from, to keystore.Store) error {
	for which, store := range map[string]keystore.Store{"FROM": from, "TO": to} {
		if _, err := store.List(ctx, "", 1); err != nil && ctx.Err() == nil {
			return about(which, err, "run it again when that is mended: it goes on with what is missing")
		}
	}
	return nil
}

// errNotInSource means that a domain was listed and is not there.
var errNotInSource = errors.New("not in the keystore to copy from")

// copyDomain makes a domain of one store that of another, unless it is so
// already, and tests the result.
func copyDomain(ctx context.Context, from, to keystore.Store, name string, now time.Time, dryRun bool) (wrote bool, err error) {
	source, err := from.Domain(ctx, name)
	if errors.Is(err, keystore.ErrNotFound) {
		return false, errNotInSource
	}
	if err != nil {
		return false, unanswered{err}
	}
	there, err := to.Domain(ctx, name)
	if errors.Is(err, keystore.ErrNotFound) {
		there, err = nil, nil
	}
	if err != nil {
		return false, unanswered{err}
	}
	if readOnly(from) {
		takeOver(source, there, now)
	}
	if there == nil || !sameDomain(there, source) {
		next := *source
		if next.Version = 0; there != nil {
			next.Version = there.Version
		}
		if err := refusal(there, &next); err != nil {
			return false, err
		}
		if dryRun {
			err := exportable(ctx, source, there)
			return err == nil, err
		}
		switch err := to.Update(ctx, &next); {
		case errors.Is(err, keystore.ErrConflict):
			return false, fmt.Errorf("TO: %w; run it again", err)
		case err != nil:
			return false, unanswered{err}
		}
		if there, err = to.Domain(ctx, name); err != nil {
			return false, unanswered{err}
		}
		if !sameDomain(there, source) {
			return false, fmt.Errorf("domain %s: what was written reads otherwise", name)
		}
		wrote = true
	}
	if dryRun {
		return false, nil
	}
	return wrote, errors.Join(keystore.CheckKeys(ctx, to, name)...)
}

// takeOver gives the keys of another program, which tells no age, the time at which
// they are copied: else the keeper would rotate all of them at once.
func takeOver(source, there *keystore.Domain, now time.Time) {
	for i := range source.Keys {
		k := &source.Keys[i]
		if !k.Created.IsZero() || k.State != keystore.Active {
			continue
		}
		k.Created = now.UTC().Truncate(time.Second)
		if there != nil && there.Key(k.Selector) != nil {
			k.Created = there.Key(k.Selector).Created
		}
		k.Activated = k.Created
	}
}

// refusal says why no store would take next in the place of what is there, which
// is nil if nothing is.
func refusal(there, next *keystore.Domain) error {
	for which, d := range map[string]*keystore.Domain{"FROM": next, "TO": there} {
		if d != nil && d.Whole() != nil {
			return fmt.Errorf("%s: %w", which, d.Whole())
		}
	}
	err := keystore.CheckUpdate(there, next)
	if err != nil && there != nil {
		return fmt.Errorf("domain %s: TO has it otherwise: %w", next.Name, err)
	}
	if err != nil {
		return fmt.Errorf("domain %s: %w", next.Name, err)
	}
	return nil
}

// exportable reports why the private halves of new keys cannot be copied, or nil.
func exportable(ctx context.Context, source, there *keystore.Domain) error {
	for i := range source.Keys {
		k := &source.Keys[i]
		if k.State == keystore.Removed || !source.IsNew(there, k) {
			continue
		}
		half, err := k.MarshalPrivate(ctx, source.Name, nil)
		if err != nil {
			return fmt.Errorf("domain %s: %w", source.Name, err)
		}
		clear(half)
	}
	return nil
}

// sameDomain compares all but versions and private halves.
func sameDomain(a, b *keystore.Domain) bool {
	return slices.EqualFunc(a.Keys, b.Keys, sameKey) && slices.Equal(a.Slots, b.Slots) &&
		slices.EqualFunc(a.History, b.History, func(a, b keystore.Event) bool {
			at := a.Time.Equal(b.Time)
			a.Time, b.Time = time.Time{}, time.Time{}
			return at && a == b
		})
}

func sameKey(a, b keystore.Key) bool {
	for _, t := range [][2]time.Time{
		{a.Created, b.Created}, {a.Activated, b.Activated}, {a.Retired, b.Retired}, {a.Revoked, b.Revoked}, {a.Removed, b.Removed},
		{a.Published, b.Published}, {a.Seen, b.Seen}, {a.Ready, b.Ready}, {a.Withdrawn, b.Withdrawn},
	} {
		if !t[0].Equal(t[1]) {
			return false
		}
	}
	return a.Selector == b.Selector && a.Algorithm == b.Algorithm && a.State == b.State && slices.Equal(a.Public, b.Public) &&
		a.Urgent == b.Urgent && a.Note == b.Note && a.Reason == b.Reason
}
