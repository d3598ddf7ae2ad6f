package main

// What is known of one key: its state, its record, and its life so far.

import (
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"waxseal/keystore"
	"waxseal/keystore/dns"
)

func (a *app) keyShowCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "show DOMAIN SELECTOR",
		Short: "Show one key: state, record, history, and what comes next",
		Long: `Show one key: its state, its record, what was done with it, when, by whom and why,
and what comes next. DNS is not asked; "waxseal dns check" does that.`,
		Example: `  waxseal key show example.com 2026a`,
		Args:    cobra.ExactArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			domain, selector, err := keyArguments(args)
			if err != nil {
				return err
			}
			config, store, err := a.configAndStore()
			if err != nil {
				return err
			}
			d, err := a.domain(c.Context(), store, domain)
			if err != nil {
				return err
			}
			if d.Key(selector) == nil {
				if err := d.Whole(); err != nil {
					return err
				}
				return a.noSuchKey(domain, selector)
			}
			life := newKeyLife(d, selector, keystore.Next(a.now(), d, selector, keyRules(config, domain)))
			if a.json {
				return a.printJSON(life)
			}
			return a.printLife(life)
		},
		ValidArgsFunction: a.completeKeys,
	}
	a.storeFlags(c)
	a.jsonFlag(c)
	return c
}

// keyLife is all that is known of a key.
type keyLife struct {
	keyRow
	Published *time.Time `json:"published,omitempty"`
	Seen      *time.Time `json:"seen,omitempty"`
	Ready     *time.Time `json:"ready,omitempty"`
	Withdrawn *time.Time `json:"withdrawn,omitempty"`
	Slot      string     `json:"slot,omitempty"`
	History   []keyEvent `json:"history"`
	Next      *keptStep  `json:"next,omitempty"`
}

type keyEvent struct {
	Time   time.Time     `json:"time"`
	What   keystore.What `json:"what"`
	By     string        `json:"by,omitempty"`
	Reason string        `json:"reason,omitempty"`
	Forced bool          `json:"forced,omitempty"`
}

func newKeyLife(d *keystore.Domain, selector string, next keystore.Step) keyLife {
	k := d.Key(selector)
	life := keyLife{
		keyRow: newKeyRow(d.Name, k), History: []keyEvent{},
		Published: timeOrNone(k.Published), Seen: timeOrNone(k.Seen), Ready: timeOrNone(k.Ready), Withdrawn: timeOrNone(k.Withdrawn),
	}
	life.Slot, _ = d.Slot(selector)
	for _, e := range d.History {
		if e.Selector == selector {
			life.History = append(life.History, keyEvent{e.Time, e.What, e.By, e.Reason, e.Forced})
		}
	}
	if next.Action != "" {
		step := newKeptStep(next)
		life.Next = &step
	}
	return life
}

func timeOrNone(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

func (a *app) printLife(k keyLife) error {
	table := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
	line := func(name, value string) {
		if value != "" {
			fmt.Fprintf(table, "%s\t%s\n", name, value)
		}
	}
	line("name", dns.Name(k.Selector, k.Domain))
	line("slot", k.Slot)
	line("algorithm", string(k.Algorithm))
	line("state", string(k.State))
	line("note", k.Note)
	line("record", k.Record)
	for _, e := range k.History {
		text := string(e.What)
		if e.Forced {
			text += " by force"
		}
		if e.By != "" {
			text += " by " + e.By
		}
		if e.Reason != "" {
			text += ": " + e.Reason
		}
		line(e.Time.Format(time.RFC3339), text)
	}
	if len(k.History) == 0 { // as of a key that is older than histories
		for _, t := range []struct {
			word keystore.What
			at   *time.Time
		}{
			{keystore.WasCreated, k.Created}, {keystore.WasActivated, k.Activated}, {keystore.WasRetired, k.Retired},
			{keystore.WasRevoked, k.Revoked}, {keystore.WasRemoved, k.Removed},
		} {
			if t.at != nil {
				line(t.at.Format(time.RFC3339), string(t.word))
			}
		}
		line("reason", k.Reason)
	}
	if n := k.Next; n != nil {
		text := string(n.Step) + ", because " + n.Because
		if n.NotBefore != nil {
			text += ", not before " + n.NotBefore.Format(time.RFC3339)
		}
		line("next", text)
	}
	return table.Flush()
}
