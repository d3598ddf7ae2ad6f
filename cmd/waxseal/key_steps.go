package main

// The steps of a key's life that an administrator takes: activate, retire, remove.

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"waxseal/keystore"
	"waxseal/keystore/dns"
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
	case a.dryRun:
		fmt.Fprintf(a.stdout, "would make %s %s\n", dns.Name(k.Selector, d.Name), k.State)
	case a.json:
		return d, k, a.printJSON(newKeyRow(d.Name, k))
	default:
		fmt.Fprintf(a.stdout, "%s %s\n", dns.Name(k.Selector, d.Name), k.State)
	}
	return d, k, nil
}

func (a *app) keyActivateCommand() *cobra.Command {
	var step keystore.Warrant
	c := &cobra.Command{
		Use:   "activate DOMAIN SELECTOR --force --reason TEXT",
		Short: "Let a pending key sign",
		Long: `Let a pending key sign. Its record must be visible in DNS by then: a signature
with a key that the world cannot see is worse than none. Whether it is cannot be
checked by this version, so the step must be forced, with a reason that is kept.`,
		Example: `  waxseal key activate example.com 2026a --force --reason "record seen in DNS"`,
		Args:    cobra.ExactArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			if !step.Force {
				return withHint(errors.New("cannot check yet whether DNS shows the record"),
					"look yourself: dig +short TXT %s, then use --force --reason TEXT", dns.Name(args[1], args[0]))
			}
			step.Now, step.By = a.now(), a.who()
			_, _, err := a.changeKey(c.Context(), args, step, func(d *keystore.Domain, selector string) error {
				return d.Activate(selector, step)
			})
			return err
		},
	}
	a.stepFlags(c, &step, "activate without a check of DNS")
	return c
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
			step.Now, step.By = a.now(), a.who()
			_, k, err := a.changeKey(c.Context(), args, step, func(d *keystore.Domain, selector string) error {
				return d.Retire(selector, step)
			})
			if err == nil {
				a.notice("hint: keep its record in DNS until %s", k.Retired.Add(keystore.Grace).Format(time.RFC3339))
			}
			return err
		},
	}
	a.stepFlags(c, &step, "retire even the last active key")
	return c
}

func (a *app) keyRemoveCommand() *cobra.Command {
	var step keystore.Warrant
	c := &cobra.Command{
		Use:   "remove DOMAIN SELECTOR",
		Short: "Destroy a key for good",
		Long: fmt.Sprintf(`Destroy the private half of a key for good. A pending key may go at once, a
retired one after %d days, any other only when forced. The selector stays on
record, so that it is not used again.`, keystore.Grace/(24*time.Hour)),
		Example: `  waxseal key remove example.com 2025b`,
		Args:    cobra.ExactArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			step.Now, step.By = a.now(), a.who()
			_, k, err := a.changeKey(c.Context(), args, step, func(d *keystore.Domain, selector string) error {
				return d.Remove(selector, step)
			})
			if err == nil {
				a.noticeRecordOf(dns.Name(k.Selector, args[0]), k)
			}
			return err
		},
	}
	a.stepFlags(c, &step, "remove a key that mail under way may need")
	return c
}

// noticeRecordOf says until when the record of a removed key must stay for mail
// under way.
func (a *app) noticeRecordOf(name string, k *keystore.Key) {
	var until time.Time
	switch {
	case k.Activated.IsZero() || !k.Revoked.IsZero(): // nothing was signed, or nothing is to verify
	case k.Retired.IsZero():
		until = k.Removed.Add(keystore.Grace)
	default:
		until = k.Retired.Add(keystore.Grace)
	}
	if until.After(a.now()) {
		a.notice("hint: mail under way needs the record %s: keep it in DNS until %s", name, until.Format(time.RFC3339))
	} else {
		a.notice("hint: the record %s may be deleted from DNS now", name)
	}
}
