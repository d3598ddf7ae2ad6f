package main

// Replacing the keys of a domain: rotate.

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"waxseal/keystore"
	"waxseal/keystore/keeper"
)

func (a *app) rotateCommand() *cobra.Command {
	var now, emergency bool
	var reason string
	var wait time.Duration
	c := &cobra.Command{
		Use:   "rotate DOMAIN",
		Short: "Replace the keys of a domain",
		Long: `Begin to replace the keys that sign for a domain: make a successor for each kind
of key (RSA, Ed25519), have its record published, and let it sign when all the
world can see it. The old key stops signing at that moment; its record stays for
mail under way, and is revoked and withdrawn later. The keeper of the daemon, or
"waxseal keep", takes the steps after the first.

With --now the command itself waits and takes them, until the successors sign.
With --json it prints at the end what was done, what is open, and the keys with
the records that they should have in DNS.

With --emergency the keys were stolen, or may have been: successors sign as soon
as every authoritative server shows them, even where resolvers remember the
absence of their records for a while, and at that moment all older keys of the
domain are revoked, without a grace period. The command waits until no server
shows them any longer. Mail that is still under way loses its signature: that is
the price of nobody else being able to sign.`,
		Example: `  waxseal rotate example.com
  waxseal rotate example.com --now
  waxseal rotate example.com --dry-run --json
  waxseal rotate example.com --emergency --reason "backup of mx1 was stolen"`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if emergency && strings.TrimSpace(reason) == "" {
				return misused(errors.New("--emergency needs --reason TEXT, which is kept with the keys"))
			}
			if c.Flags().Changed("wait") && !now && !emergency {
				return misused(errors.New("--wait without --now or --emergency"))
			}
			if wait < 0 {
				return misused(fmt.Errorf("--wait %s, want more than 0s", wait))
			}
			domain, err := domainArgument(args[0])
			if err != nil {
				return err
			}
			d, store, err := a.configAndStore()
			if err != nil {
				return err
			}
			log := newQuietLog()
			k, err := buildKeeper(d, store, a.now, a.who(), slog.New(log))
			if err != nil {
				return err
			}
			r := newRotation(a, k, log, d, domain, emergency)
			if a.dryRun {
				return r.end(r.plan(c.Context(), store))
			}
			if emergency {
				if err := a.confirm(domain, "all keys of the domain will be revoked"); err != nil {
					return err
				}
			}
			return r.end(r.run(c.Context(), reason, now || emergency, wait))
		},
		ValidArgsFunction: a.completeDomains,
	}
	a.storeFlags(c)
	a.jsonFlag(c)
	a.dryRunFlag(c)
	c.Flags().BoolVar(&now, "now", false, "wait until the successors sign")
	c.Flags().BoolVar(&emergency, "emergency", false, "the keys were stolen: waive every wait, and revoke them")
	c.Flags().StringVar(&reason, "reason", "", "`text` to keep with the new keys; needed with --emergency")
	c.Flags().DurationVar(&wait, "wait", 0, "with --now or --emergency, wait no longer than this `time` (default: for ever)")
	return c
}

// rotation is one run of the command rotate.
type rotation struct {
	app       *app
	keeper    *keeper.Keeper
	log       *quietLog
	config    *decoded
	domain    string
	emergency bool
	told      map[string]bool
	result    rotateResult
}

// rotateResult is what a rotation did and left, for --json.
type rotateResult struct {
	keepResult
	Keys []keyRow `json:"keys"` // all but removed ones
}

func newRotation(a *app, k *keeper.Keeper, log *quietLog, config *decoded, domain string, emergency bool) *rotation {
	return &rotation{
		app: a, keeper: k, log: log, config: config, domain: domain, emergency: emergency, told: map[string]bool{},
		result: rotateResult{keepResult{Domain: domain, Taken: []keptStep{}, Open: []keptStep{}}, []keyRow{}},
	}
}

// end prints the result with --json, unless nothing came of the rotation but the
// error.
func (r *rotation) end(err error) error {
	if !r.app.json || err != nil && len(r.result.Taken)+len(r.result.Open) == 0 {
		return err
	}
	if printErr := r.app.printJSON(r.result); err == nil {
		err = printErr
	}
	return err
}

// line prints a line of what is told as it happens.
func (r *rotation) line(format string, args ...any) {
	if !r.app.json {
		fmt.Fprintf(r.app.stdout, format+"\n", args...)
	}
}

// keep has the keys of the domain in the result.
func (r *rotation) keep(d *keystore.Domain) {
	r.result.Keys = []keyRow{}
	for i := range d.Keys {
		if k := &d.Keys[i]; k.State != keystore.Removed {
			r.result.Keys = append(r.result.Keys, newKeyRow(d.Name, k))
		}
	}
}

// rotatePause is the time between two looks at DNS.
const rotatePause = 5 * time.Second

func (r *rotation) plan(ctx context.Context, store keystore.Store) error {
	d, err := r.app.domain(ctx, store, r.domain)
	if err != nil {
		return err
	}
	if err := d.Whole(); err != nil {
		return err
	}
	steps := keystore.Rotation(r.app.now(), d, r.emergency, keyRules(r.config, r.domain))
	if len(steps) == 0 {
		return r.noKey()
	}
	r.result.Open = newKeptSteps(steps)
	for i := range d.Keys {
		if k := &d.Keys[i]; r.emergency && (k.State == keystore.Pending || k.State == keystore.Active || k.State == keystore.Retired) {
			r.result.Open = append(r.result.Open, keptStep{
				Step: keystore.DoRevoke, Selector: k.Selector, Because: "compromised; it is done when its successor signs",
				text: fmt.Sprintf("revoke %s (%s), when its successor signs", k.Selector, k.State),
			})
		}
	}
	for _, s := range r.result.Open {
		r.line("would %s", s.text)
	}
	r.keep(d)
	return nil
}

func (r *rotation) noKey() error {
	err := fmt.Errorf("domain %s: %w", r.domain, keeper.ErrNoKey)
	if r.emergency {
		return withHint(err, "revoke each stolen one with \"waxseal key revoke %s SELECTOR%s --force --reason TEXT\", and make another with \"waxseal key new %s%s\"",
			r.domain, r.app.flags(), r.domain, r.app.flags())
	}
	return withHint(err, "make one with \"waxseal key new %s%s\"", r.domain, r.app.flags())
}

// run makes the successors and takes what steps there are. With waiting it goes
// on until they sign.
func (r *rotation) run(ctx context.Context, reason string, waiting bool, most time.Duration) error {
	a := r.app
	if reason == "" {
		reason = "rotation asked for"
	}
	var missed error
	made, err := r.keeper.Rotate(ctx, r.domain, r.emergency, reason)
	for _, selector := range made {
		r.line("%s: made %s", r.domain, selector)
		r.result.Taken = append(r.result.Taken, newKeptStep(keystore.Step{Action: keystore.Create, Selector: selector, Because: reason}))
	}
	switch {
	case errors.Is(err, keystore.ErrNotFound), errors.Is(err, keeper.ErrNoKey):
		return r.noKey()
	case err != nil && len(made) == 0 && !waiting:
		return err
	case err != nil:
		a.report(err)
		missed = errFindings
	}
	var deadline <-chan time.Time
	if most > 0 {
		deadline = time.After(most)
	}
	var last *keeper.Result
	for {
		result, err := r.keeper.Keep(ctx, r.domain)
		r.log.report(a)
		if result != nil {
			r.tell(result)
			last = result
			if len(made) == 0 && !r.emergency && r.pending(result) {
				missed = nil // its successor was made before, and is waited for
			}
		}
		if err != nil && (!waiting || ctx.Err() != nil) {
			return err
		}
		if err != nil {
			r.once("waxseal: "+err.Error(), func(text string) { fmt.Fprintln(a.stderr, text) })
		}
		if err == nil && result != nil && !r.pending(result) && (!waiting || !r.exposed(result)) {
			r.left(result)
			return missed
		}
		if !waiting {
			r.handOver()
			return missed
		}
		select {
		case <-time.After(rotatePause):
		case <-deadline:
			r.handOver()
			if last != nil && !r.pending(last) {
				return fmt.Errorf("domain %s: the successors sign, but DNS still shows a revoked key, or does not answer for it; %s are over", r.domain, most)
			}
			return fmt.Errorf("domain %s: the successors do not sign yet, %s are over", r.domain, most)
		case <-ctx.Done():
			r.handOver()
			return ctx.Err()
		}
	}
}

// tell prints what was not told yet.
func (r *rotation) tell(result *keeper.Result) {
	for _, s := range result.Taken {
		took := func(string) {
			r.line("%s: %s", r.domain, s)
			r.result.Taken = append(r.result.Taken, newKeptStep(s))
		}
		if s.Action == keystore.Publish { // again and again, until all servers show it
			r.once(fmt.Sprint(s.Action, s.Selector, s.Because), took)
		} else {
			took("")
		}
	}
	for _, s := range result.Open {
		text := fmt.Sprintf("%s: %s", r.domain, s)
		r.once(text, func(text string) {
			r.line("%s", text)
			if s.Action == keystore.Ask && !r.app.json {
				r.app.printRecord(result.Domain, result.Domain.Key(s.Selector))
			}
		})
	}
	r.result.Open = newKeptSteps(result.Open)
	r.keep(result.Domain)
}

func (r *rotation) once(text string, print func(string)) {
	if !r.told[text] {
		r.told[text] = true
		print(text)
	}
}

// pending reports whether a successor does not sign yet.
func (r *rotation) pending(result *keeper.Result) bool {
	for i := range result.Domain.Keys {
		if result.Domain.Keys[i].State == keystore.Pending {
			return true
		}
	}
	return false
}

// exposed reports whether somebody who has a revoked key may sign with it still.
func (r *rotation) exposed(result *keeper.Result) bool {
	for i := range result.Domain.Keys {
		if k := &result.Domain.Keys[i]; r.emergency && k.State == keystore.Revoked {
			if s := result.Sights[k.Selector].State; s != keystore.ShownRevoked && s != keystore.Missing {
				return true
			}
		}
	}
	return false
}

// handOver says who goes on from here.
func (r *rotation) handOver() {
	if r.config.Keeper.Enabled {
		r.app.notice("hint: the daemon goes on from here; \"waxseal key show %s%s\" tells how far it is", r.domain, r.app.flags())
	} else {
		r.app.notice("hint: keeper.enabled is false, so run \"waxseal keep%s\" from a timer to go on", r.app.flags())
	}
}

// left says what is left for a person to do after the successors sign.
func (r *rotation) left(result *keeper.Result) {
	a := r.app
	for i := range result.Domain.Keys {
		k := &result.Domain.Keys[i]
		switch {
		case k.State == keystore.Active:
			r.line("%s: %s signs", r.domain, k.Selector)
		case k.State == keystore.Retired:
			a.notice("hint: keep the record of %s until %s; then the keeper revokes it", k.Selector, k.Retired.Add(time.Duration(r.config.Keeper.Grace)).Format(time.RFC3339))
		case k.State == keystore.Revoked && r.emergency:
			r.line("%s: %s is revoked, and no server shows it any longer", r.domain, k.Selector)
		}
	}
	if r.emergency {
		a.notice("hint: resolvers may remember a stolen key until the TTL of its record is over")
		a.notice("hint: find out how the keys got out before you trust the machine again; keys of other domains that lay beside them are to be rotated, too")
		a.notice("hint: mail that was under way with the old signature may be rejected or marked by receivers")
	}
}
