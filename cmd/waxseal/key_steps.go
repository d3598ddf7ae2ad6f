package main

// The steps of a key's life that an administrator takes: activate, retire,
// revoke, remove.

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"waxseal/keystore"
	"waxseal/keystore/dns"
	"waxseal/keystore/keeper"
)

// stepFlags are those of commands that change a key's state.
func (a *app) stepFlags(c *cobra.Command, step *keystore.Warrant, force string) {
	a.storeFlags(c)
	a.jsonFlag(c)
	a.dryRunFlag(c)
	c.Flags().BoolVar(&step.Force, "force", false, force)
	c.Flags().StringVar(&step.Reason, "reason", "", "`text` to keep with the key; needed with --force")
	c.ValidArgsFunction = a.completeKeys
}

// vouch fills in when and on whose word a step is taken, and the grace period.
func (a *app) vouch(step *keystore.Warrant) error {
	d, err := a.loadConfig()
	if err != nil {
		return err
	}
	step.Now, step.By, step.Grace = a.now(), a.who(), time.Duration(d.Keeper.Grace)
	return nil
}

// changeKey takes one step with one key.
func (a *app) changeKey(ctx context.Context, args []string, step keystore.Warrant, change func(d *keystore.Domain, selector string) error) (*keystore.Domain, *keystore.Key, error) {
	domain, selector, err := keyArguments(args)
	if err != nil {
		return nil, nil, err
	}
	if step.Force && strings.TrimSpace(step.Reason) == "" {
		return nil, nil, misused(errors.New("--force needs --reason TEXT, which is kept with the key"))
	}
	store, err := a.loadStore()
	if err != nil {
		return nil, nil, err
	}
	d, err := a.update(ctx, store, domain, func(d *keystore.Domain) error { return change(d, selector) })
	if err != nil {
		return nil, nil, err
	}
	k := d.Key(selector)
	switch {
	case a.json:
		return d, k, a.printJSON(newKeyRow(d.Name, k))
	case a.dryRun:
		fmt.Fprintf(a.stdout, "would make %s %s\n", dns.Name(k.Selector, d.Name), k.State)
	default:
		fmt.Fprintf(a.stdout, "%s %s\n", dns.Name(k.Selector, d.Name), k.State)
	}
	return d, k, nil
}

func (a *app) keyActivateCommand() *cobra.Command {
	var step keystore.Warrant
	c := &cobra.Command{
		Use:   "activate DOMAIN SELECTOR",
		Short: "Let a pending key sign, if all the world can see its record",
		Long: `Let a pending key sign, if all the world can see its record: every authoritative
server of its zone must show it, and have shown it for so long that no resolver
remembers anything else. The first look begins that time; the keeper, which looks
by itself, needs no command.

A signature with a key that the world cannot see is worse than none. To take that
risk, use --force with a reason, which is kept.`,
		Example: `  waxseal key activate example.com 2026a
  waxseal key activate example.com 2026a --force --reason "zone is behind a firewall"`,
		Args: cobra.ExactArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			if err := a.vouch(&step); err != nil {
				return err
			}
			sight := keystore.Sight{}
			if !step.Force {
				var err error
				if sight, err = a.lookAt(c.Context(), args); err != nil {
					return err
				}
			}
			var refused error
			pending := false
			d, k, err := a.changeKey(c.Context(), args, step, func(d *keystore.Domain, selector string) error {
				refused = nil
				if k := d.Key(selector); k != nil && k.State == keystore.Pending {
					pending = true
					if err := keeper.Usable(c.Context(), k); err != nil {
						return fmt.Errorf("key %s.%s: its private half cannot be used, so it would not sign: %w", selector, d.Name, err)
					}
				}
				seen := d.Observe(selector, sight, step)
				err := d.Activate(selector, step)
				if err != nil && seen { // the look counts
					refused, err = err, nil
				}
				return err
			})
			switch {
			case err == nil && refused != nil:
				err = refused
			case err != nil && sight.State != keystore.Shown && sight.Detail != "":
				err = fmt.Errorf("%w: %s", err, sight.Detail)
			}
			if err != nil && (!pending || step.Force) {
				return err
			}
			if err != nil {
				return withHint(err, "the daemon's keeper lets it sign when it is time; \"waxseal dns check %s%s --watch\" waits for the record", args[0], a.flags())
			}
			for i := range d.Keys {
				if old := &d.Keys[i]; old.State == keystore.Active && old.Selector != k.Selector && old.Activated.Before(k.Activated) {
					a.notice("hint: %s signs, too; the keeper retires it if it is of the same kind, or do it now: waxseal key retire %s %s%s", old.Selector, d.Name, old.Selector, a.flags())
				}
			}
			return nil
		},
	}
	a.stepFlags(c, &step, "activate without a look at DNS")
	return c
}

// lookAt asks DNS about the record of the key that the arguments name.
func (a *app) lookAt(ctx context.Context, args []string) (keystore.Sight, error) {
	domain, k, err := a.findKey(ctx, args)
	if err != nil {
		return keystore.Sight{}, err
	}
	if k.State != keystore.Pending {
		return keystore.Sight{}, nil // there are better reasons to refuse
	}
	config, err := a.loadConfig()
	if err != nil {
		return keystore.Sight{}, err
	}
	checker, err := buildChecker(config, a.now)
	if err != nil {
		return keystore.Sight{}, err
	}
	record, err := dns.NewRecord(k, dns.RecordOptions{})
	if err != nil {
		return keystore.Sight{}, err
	}
	report, err := checker.Check(ctx, dns.Name(k.Selector, domain), record)
	if err != nil {
		return keystore.Sight{}, err
	}
	return report.Sight(a.now()), nil
}

func (a *app) keyRetireCommand() *cobra.Command {
	var step keystore.Warrant
	c := &cobra.Command{
		Use:   "retire DOMAIN SELECTOR",
		Short: "Stop a key from signing; its record must stay",
		Long: fmt.Sprintf(`Stop a key from signing. Its record must stay in DNS for mail that is still
under way, %d days. The last active key of a domain retires only when forced,
as mail would leave unsigned.`, keystore.Grace/(24*time.Hour)),
		Example: `  waxseal key retire example.com 2026a`,
		Args:    cobra.ExactArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			if err := a.vouch(&step); err != nil {
				return err
			}
			_, k, err := a.changeKey(c.Context(), args, step, func(d *keystore.Domain, selector string) error {
				return d.Retire(selector, step)
			})
			if err == nil && !a.dryRun {
				a.notice("hint: keep its record in DNS until %s", k.Retired.Add(step.Grace).Format(time.RFC3339))
			}
			return err
		},
	}
	a.stepFlags(c, &step, "retire even the last active key")
	return c
}

func (a *app) keyRevokeCommand() *cobra.Command {
	var step keystore.Warrant
	c := &cobra.Command{
		Use:   "revoke DOMAIN SELECTOR",
		Short: "Have a key's record say that the key is not to be used",
		Long: fmt.Sprintf(`Say that a key is not to be used any more: its record gets an empty p=. A retired
key may be revoked after %d days; a key that signs or is pending only when forced,
as one that was stolen. For that there is "waxseal rotate --emergency", which
replaces it first.`, keystore.Grace/(24*time.Hour)),
		Example: `  waxseal key revoke example.com 2025b`,
		Args:    cobra.ExactArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			if err := a.vouch(&step); err != nil {
				return err
			}
			if err := a.confirmKey(args, "the key will not verify any mail"); err != nil {
				return err
			}
			d, k, err := a.changeKey(c.Context(), args, step, func(d *keystore.Domain, selector string) error {
				return d.Revoke(selector, step)
			})
			if err == nil && !a.dryRun {
				a.notice("hint: its record must have an empty p= now; the keeper publishes it where it can, and \"waxseal dns show %s %s%s\" prints it", d.Name, k.Selector, a.flags())
			}
			return err
		},
	}
	a.stepFlags(c, &step, "revoke a key that mail under way may need")
	return c
}

func (a *app) keyRemoveCommand() *cobra.Command {
	var step keystore.Warrant
	c := &cobra.Command{
		Use:   "remove DOMAIN SELECTOR",
		Short: "Destroy a key for good",
		Long: fmt.Sprintf(`Destroy the private half of a key for good. A pending key may go at once, a
retired one after %d days, any other only when forced. The selector stays on
record, so that it is not used again. It is destroyed even where the keeper
would have published it (publish_retired_keys).`, keystore.Grace/(24*time.Hour)),
		Example: `  waxseal key remove example.com 2025b`,
		Args:    cobra.ExactArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			if err := a.vouch(&step); err != nil {
				return err
			}
			if err := a.confirmKey(args, "the private key will be destroyed"); err != nil {
				return err
			}
			_, k, err := a.changeKey(c.Context(), args, step, func(d *keystore.Domain, selector string) error {
				return d.Remove(selector, step)
			})
			if err == nil && !a.dryRun {
				a.noticeRecordOf(dns.Name(k.Selector, args[0]), k, step.Grace)
			}
			return err
		},
	}
	a.stepFlags(c, &step, "remove a key that mail under way may need")
	return c
}

// noticeRecordOf says until when the record of a removed key must stay for mail
// under way.
func (a *app) noticeRecordOf(name string, k *keystore.Key, grace time.Duration) {
	if until := k.NeededUntil(grace); until.After(a.now()) {
		a.notice("hint: mail under way needs the record %s: keep it in DNS until %s", name, until.Format(time.RFC3339))
	} else {
		a.notice("hint: the record %s may be deleted from DNS now", name)
	}
}

// confirmKey is confirm for the arguments DOMAIN SELECTOR.
func (a *app) confirmKey(args []string, what string) error {
	domain, _, err := keyArguments(args)
	if err != nil || a.dryRun {
		return err
	}
	return a.confirm(domain, what)
}

// confirm has a person at a terminal type the domain's name before something
// that cannot be undone. Scripts know what they do.
func (a *app) confirm(domain, what string) error {
	in, ok := a.stdin.(*os.File)
	if !ok || !isTerminal(in) {
		return nil
	}
	fmt.Fprintf(a.stderr, "waxseal: %s. To go on, type the domain's name: ", what)
	line, err := bufio.NewReader(in).ReadString('\n')
	if err != nil && line == "" {
		return err
	}
	if got := strings.TrimSpace(line); !strings.EqualFold(got, domain) {
		return fmt.Errorf("%q is not %s, so nothing was done", got, domain)
	}
	return nil
}

// isTerminal reports whether f is a character device other than /dev/null.
func isTerminal(f *os.File) bool {
	info, err := f.Stat()
	if err != nil || info.Mode()&os.ModeCharDevice == 0 {
		return false
	}
	null, err := os.Stat(os.DevNull)
	return err == nil && !os.SameFile(info, null)
}
