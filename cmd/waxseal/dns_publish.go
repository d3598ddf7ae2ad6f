package main

// Putting the records of keys into DNS: dns publish.

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"waxseal/keystore"
	"waxseal/keystore/dns"
)

func (a *app) dnsPublishCommand() *cobra.Command {
	var all bool
	c := &cobra.Command{
		Use:   "publish DOMAIN [SELECTOR...] | publish --all",
		Short: "Put the records of keys into DNS",
		Long: `Put into DNS what the state of each key asks for, in the way that the [publish]
table for its name says: the record of a key that is pending, active or retired,
one with an empty p= for a revoked key, and none for a removed key, once no mail
under way needs it. What is there already stays as it is. Afterwards DNS is asked
what it shows.

Records that no [publish] table is about are printed, to be published by hand; the
exit status is then 1, as when something went wrong.`,
		Example: `  waxseal dns publish example.com
  waxseal dns publish example.com 2026a --dry-run
  waxseal dns publish --all`,
		Args: func(_ *cobra.Command, args []string) error {
			switch {
			case all && len(args) > 0:
				return errors.New("--all, and a domain: want one or the other")
			case !all && len(args) == 0:
				return errors.New("no domain: name one, or give --all")
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error {
			names, selectors, err := publishArguments(args)
			if err != nil {
				return err
			}
			l, err := a.newLookout()
			if err != nil {
				return err
			}
			ways, bad := buildPublishers(l.config)
			if len(bad) > 0 {
				return bad
			}
			p := &publishing{lookout: l, ways: ways, rows: []publication{}}
			return p.run(c.Context(), names, selectors)
		},
		ValidArgsFunction: a.completeEachKey,
	}
	a.storeFlags(c)
	a.jsonFlag(c)
	a.dryRunFlag(c)
	c.Flags().BoolVar(&all, "all", false, "publish the records of all domains")
	return c
}

// publishing is one run of the command dns publish.
type publishing struct {
	*lookout
	ways publishers
	rows []publication
}

// publication is what became of one record.
type publication struct {
	Domain   string         `json:"domain"`
	Selector string         `json:"selector"`
	Name     string         `json:"name"`
	State    keystore.State `json:"state"`
	Record   string         `json:"record,omitempty"` // empty: there should be none
	Outcome  recordOutcome  `json:"outcome"`
	Detail   string         `json:"detail,omitempty"`
	Remedy   string         `json:"remedy,omitempty"`

	domain *keystore.Domain
	sight  keySight
}

// recordOutcome is how the publication of a record ended.
type recordOutcome string

const (
	recordDone      recordOutcome = "done"
	recordUnchanged recordOutcome = "unchanged"
	recordFailed    recordOutcome = "failed"
	recordByHand    recordOutcome = "by hand"
	wouldPublish    recordOutcome = "would publish"
	wouldDelete     recordOutcome = "would delete"
)

// publishArguments reads DOMAIN SELECTOR...
func publishArguments(args []string) (names, selectors []string, err error) {
	if len(args) == 0 {
		return nil, nil, nil
	}
	domain, err := domainArgument(args[0])
	if err != nil {
		return nil, nil, err
	}
	for _, s := range args[1:] {
		s = strings.ToLower(s)
		if err := keystore.ValidSelector(s); err != nil {
			return nil, nil, misused(err)
		}
		selectors = append(selectors, s)
	}
	return []string{domain}, selectors, nil
}

// run publishes the records of the domains named, or all.
func (p *publishing) run(ctx context.Context, names, selectors []string) error {
	var work inOrder
	var missed error
	bad, err := p.app.eachDomainOrAll(ctx, p.store, names, func(domain string) error {
		work.begin(func() (finish func()) {
			rows, err := p.domain(ctx, domain, selectors)
			if len(names) == 0 && errors.Is(err, keystore.ErrNotFound) {
				return func() {}
			}
			if err == nil && len(rows) == 0 && len(names) > 0 {
				err = p.app.noRecordNeeded(domain)
			}
			return func() {
				for i := range rows {
					if r := &rows[i]; r.Outcome == recordFailed || r.Outcome == recordByHand {
						missed = errFindings
					}
					p.print(&rows[i])
				}
				if err != nil {
					p.app.report(err)
					missed = errFindings
				}
			}
		})
		return nil
	})
	work.finish()
	if err == nil && p.app.json {
		err = p.app.printJSON(p.rows)
	}
	if err != nil {
		return err
	}
	if bad != nil {
		return bad
	}
	return missed
}

// domain publishes the records of a domain, one after the other, or those of the
// selectors. With an error the rows tell what was done before it.
func (p *publishing) domain(ctx context.Context, name string, selectors []string) ([]publication, error) {
	d, err := p.app.domain(ctx, p.store, name)
	if err != nil {
		return nil, err
	}
	if err := d.Whole(); err != nil {
		return nil, err
	}
	for _, s := range selectors {
		switch k := d.Key(s); {
		case k == nil:
			return nil, p.app.noSuchKey(d.Name, s)
		case !needsLook(d, k):
			return nil, fmt.Errorf("key %s of %s is removed and needs no record", s, d.Name)
		}
	}
	var rows []publication
	var sights []keySight
	var marked []string
	for i := range d.Keys {
		k := &d.Keys[i]
		if !needsLook(d, k) || len(selectors) > 0 && !slices.Contains(selectors, k.Selector) {
			continue
		}
		row, err := p.current(ctx, d.Name, k.Selector)
		if err != nil {
			return rows, err
		}
		rows, sights = append(rows, row), append(sights, row.sight)
		if row.Record != "" && row.Outcome == recordDone {
			marked = append(marked, k.Selector)
		}
	}
	if p.app.dryRun {
		return rows, nil
	}
	if _, err := p.keep(ctx, d, "waxseal dns publish", sights, marked); err != nil {
		return rows, fmt.Errorf("domain %s: what was done is not kept: %w", d.Name, err)
	}
	return rows, nil
}

// current publishes the record of one key, again if the key was taken a step
// further in the meantime: the record of one that was revoked must not come back.
func (p *publishing) current(ctx context.Context, name, selector string) (publication, error) {
	for {
		before, err := p.app.domain(ctx, p.store, name)
		if err != nil {
			return publication{}, err
		}
		k := before.Key(selector)
		if k == nil {
			return publication{}, p.app.noSuchKey(name, selector)
		}
		row, err := p.key(ctx, before, k)
		if err != nil || row.Outcome != recordDone {
			return row, err
		}
		after, err := p.app.domain(ctx, p.store, name)
		if err != nil {
			return row, err
		}
		if now := after.Key(selector); now != nil && now.State == k.State {
			return row, nil
		}
	}
}

// key publishes the record of one key. The error is only for the end of ctx.
func (p *publishing) key(ctx context.Context, d *keystore.Domain, k *keystore.Key) (publication, error) {
	row := publication{Domain: d.Name, Selector: k.Selector, Name: dns.Name(k.Selector, d.Name), State: k.State, domain: d}
	c := dns.Change{Domain: d.Name, Selector: k.Selector, Name: row.Name}
	if target, ok := d.Slot(k.Selector); ok {
		row.Name, c.Name, c.Slot = target, target, true
	}
	want := &dns.Record{}
	if k.State != keystore.Removed {
		var err error
		if want, err = dns.NewRecord(k, dns.RecordOptions{}); err != nil {
			row.fail(err)
			return row, nil
		}
		row.Record = want.String()
		c.Record = row.Record
	} else if until := k.NeededUntil(time.Duration(p.config.Keeper.Grace)); p.app.now().Before(until) {
		row.Outcome, row.Detail = recordUnchanged, "mail under way needs it until "+until.Format(time.RFC3339)
		return row, nil
	}
	way, ttl := p.ways.of(c.Name)
	c.TTL = ttl
	there, before, err := p.there(ctx, way, c, want)
	switch {
	case ctx.Err() != nil:
		return row, ctx.Err()
	case err != nil:
		row.fail(err)
		return row, nil
	case there:
		row.Outcome = recordUnchanged
	case way == nil:
		row.Outcome, row.Detail = recordByHand, "no [publish] table is about it; now: "+before
		return row, nil
	case p.app.dryRun:
		row.Outcome, row.Detail = wouldPublish, "now: "+before
		if c.Record == "" {
			row.Outcome = wouldDelete
		}
		return row, nil
	default:
		if err := way.Publish(ctx, c); err != nil {
			row.fail(err)
			return row, ctx.Err()
		}
		row.Outcome = recordDone
		if _, hook := way.(*dns.Hook); hook {
			if err := p.readBack(ctx, c, want); err != nil {
				row.fail(err)
				return row, ctx.Err()
			}
		}
	}
	// What the world sees, which lags behind the primary.
	if row.sight = p.lookout.key(ctx, d, k); ctx.Err() != nil {
		return row, ctx.Err()
	}
	if s := &row.sight; s.Severity != "" {
		row.Detail = s.Detail
		if s.Target != "" && !slices.Contains(s.Chain, s.Target) {
			row.Remedy = s.Remedy
		} else if k.State != keystore.Removed {
			row.Remedy = fmt.Sprintf("\"waxseal dns check %s%s --watch\" waits until all servers show it", d.Name, p.app.flags())
		}
	}
	return row, nil
}

// fail says that the record could not be published.
func (r *publication) fail(err error) {
	r.Outcome, r.Detail = recordFailed, err.Error()
	var known *dns.PublishError
	if errors.As(err, &known) {
		r.Detail, r.Remedy = known.Problem, known.Remedy
		if known.Server != "" {
			r.Detail = known.Server + ": " + known.Problem
		}
	}
}

// there reports whether DNS has what the change asks for, and what it has. A
// primary that we may update is asked itself; otherwise it is what the world
// sees.
func (p *publishing) there(ctx context.Context, way dns.Publisher, c dns.Change, want *dns.Record) (there bool, detail string, err error) {
	update, ok := way.(*dns.Update)
	if ok {
		if there, err = update.Shows(ctx, c); there || err != nil || !p.app.dryRun {
			return there, "", err
		}
	}
	r, err := p.checker.Check(ctx, c.Name, want)
	if err != nil {
		return false, "", err
	}
	shown := shows(r.Verdict, c)
	if ok && shown { // to the world, but not to the primary
		return false, "the primary has another TTL than " + c.TTL.String() + ", or is not what the world sees", nil
	}
	return shown && r.Sight(p.app.now()).State != keystore.Unknown, r.Detail, nil
}

// shows reports whether a verdict says that what the change asks for is there.
func shows(v dns.Verdict, c dns.Change) bool {
	if c.Record == "" {
		return v == dns.Missing
	}
	return v == dns.Matches
}

// readBackPauses are the waits before each look at what a hook made.
var readBackPauses = []time.Duration{0, 200 * time.Millisecond, time.Second}

// readBack makes sure that at least one server shows what a hook says it has
// done. Where none answers nothing is known, and the hook is believed.
func (p *publishing) readBack(ctx context.Context, c dns.Change, want *dns.Record) error {
	var detail string
	for _, pause := range readBackPauses {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
		r, err := p.checker.Check(ctx, c.Name, want)
		if err != nil {
			return err
		}
		if r.Sight(p.app.now()).State == keystore.Unknown || slices.ContainsFunc(r.Servers, func(s dns.ServerReport) bool { return shows(s.Verdict, c) }) {
			return nil
		}
		detail = r.Detail
	}
	return &dns.PublishError{
		Name: c.Name, Server: "hook", Problem: "it says that it is done, but no server shows it: " + detail,
		Remedy: "see to it that the command ends with 0 only when the primary shows the change",
	}
}

// print prints what became of a record, and what is to be done by hand.
func (p *publishing) print(r *publication) {
	a := p.app
	if a.json {
		p.rows = append(p.rows, *r)
		return
	}
	line := fmt.Sprintf("%s  %s  %s", r.Name, r.State, r.Outcome)
	if r.Detail != "" {
		line += ": " + r.Detail
	}
	fmt.Fprintln(a.stdout, line)
	if r.Outcome == recordByHand || r.Outcome == wouldPublish {
		if r.Record != "" {
			a.printRecord(r.domain, r.domain.Key(r.Selector))
		} else {
			fmt.Fprintf(a.stdout, "; delete the TXT record at %s\n", r.Name)
		}
	}
	if r.Remedy != "" {
		a.notice("hint: %s", r.Remedy)
	}
}
