package main

// Taking keys through their life: keep.

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"waxseal/keystore"
	"waxseal/keystore/keeper"
)

func (a *app) keepCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "keep [DOMAIN...]",
		Short: "Take the steps that are due in the life of keys",
		Long: `Look at DNS, and take the steps that are due in the life of keys: publish records
where [publish] says how, let keys sign whose records all the world can see, make
successors when rotate_every has passed, retire, revoke and remove old keys. It is
what the daemon does by itself; run it from a timer where the daemon should not.

Without arguments it is about all domains. Any number of machines may run it.
What a person has to do is said, and so is what is wrong with the record of a key
that mail needs; the latter makes the exit status 1.`,
		Example: `  waxseal keep
  waxseal keep example.com --dry-run`,
		RunE: func(c *cobra.Command, args []string) error {
			d, store, err := a.configAndStore()
			if err != nil {
				return err
			}
			log := newQuietLog()
			k, err := buildKeeper(d, store, a.now, a.who(), slog.New(log))
			if err != nil {
				return err
			}
			keep := k.Keep
			if a.dryRun {
				keep = k.Plan
			}
			results := []keepResult{}
			var found error
			var work inOrder
			failed, err := a.eachDomainOrAll(c.Context(), store, args, func(domain string) error {
				work.begin(func() (finish func()) {
					r, err := keep(c.Context(), domain)
					if len(args) == 0 && errors.Is(err, keystore.ErrNotFound) {
						return func() {}
					}
					if errors.Is(err, keystore.ErrNotFound) {
						_, err = a.domain(c.Context(), store, domain) // which knows what to do
					}
					return func() {
						log.report(a)
						if r != nil {
							result := newKeepResult(r)
							if result.alarm {
								found = errFindings
							}
							if results = append(results, result); !a.json {
								a.printKept(result, a.dryRun || len(args) > 0)
							}
						}
						if err != nil {
							a.report(err)
							found = errFindings
						}
					}
				})
				return nil
			})
			work.finish()
			if err == nil && a.json {
				err = a.printJSON(results)
			}
			if err == nil {
				err = cmp.Or(failed, found)
			}
			return err
		},
		ValidArgsFunction: a.completeDomains,
	}
	a.storeFlags(c)
	a.jsonFlag(c)
	a.dryRunFlag(c)
	return c
}

// configAndStore reads the configuration and opens its keystore.
func (a *app) configAndStore() (*decoded, keystore.Store, error) {
	d, err := a.loadConfig()
	if err != nil {
		return nil, nil, err
	}
	store, err := a.opening(openStore(d, a.warn))
	return d, store, err
}

// quietLog is for a keeper whose results are printed. It collects what these do
// not tell: the trouble with keeper.notify. It may be used concurrently.
type quietLog struct {
	slog.Handler
	mu    sync.Mutex // guards texts
	texts []string
}

func newQuietLog() *quietLog { return &quietLog{Handler: slog.DiscardHandler} }

// Enabled implements slog.Handler.
func (l *quietLog) Enabled(context.Context, slog.Level) bool { return true }

// Handle implements slog.Handler.
func (l *quietLog) Handle(_ context.Context, r slog.Record) error {
	if r.Message != notifyFailed {
		return nil
	}
	text := r.Message
	r.Attrs(func(a slog.Attr) bool {
		text += fmt.Sprintf(", %s %s", a.Key, a.Value)
		return true
	})
	l.mu.Lock()
	defer l.mu.Unlock()
	l.texts = append(l.texts, text)
	return nil
}

// report prints what was collected since the last time.
func (l *quietLog) report(a *app) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, text := range l.texts {
		a.notice("warning: %s", text)
	}
	l.texts = nil
}

// keepResult is what was done and is to do in one domain.
type keepResult struct {
	Domain string     `json:"domain"`
	Taken  []keptStep `json:"taken"`
	Open   []keptStep `json:"open"`

	alarm bool
}

type keptStep struct {
	Step      keystore.Action    `json:"step"`
	Selector  string             `json:"selector,omitempty"`
	Algorithm keystore.Algorithm `json:"algorithm,omitempty"`
	Because   string             `json:"because"`
	Detail    string             `json:"detail,omitempty"`
	NotBefore *time.Time         `json:"not_before,omitempty"`

	text string
}

func newKeptStep(s keystore.Step) keptStep {
	return keptStep{
		Step: s.Action, Selector: s.Selector, Algorithm: s.Algorithm, Because: s.Because, Detail: s.Detail,
		NotBefore: timeOrNone(s.NotBefore), text: s.String(),
	}
}

func newKeptSteps(steps []keystore.Step) []keptStep {
	kept := []keptStep{}
	for _, s := range steps {
		kept = append(kept, newKeptStep(s))
	}
	return kept
}

func newKeepResult(r *keeper.Result) keepResult {
	return keepResult{
		Domain: r.Domain.Name, Taken: newKeptSteps(r.Taken), Open: newKeptSteps(r.Open),
		alarm: slices.ContainsFunc(r.Open, func(s keystore.Step) bool { return s.Action == keystore.Alarm }),
	}
}

// printKept prints one step a line. Waiting is of interest only to who asked for
// the domain.
func (a *app) printKept(r keepResult, waiting bool) {
	for _, s := range r.Taken {
		fmt.Fprintf(a.stdout, "%s: %s\n", r.Domain, s.text)
	}
	for _, s := range r.Open {
		if s.Step != keystore.Wait || waiting {
			fmt.Fprintf(a.stdout, "%s: %s\n", r.Domain, s.text)
		}
	}
}
