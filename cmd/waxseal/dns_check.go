package main

// Comparing DNS with the keystore: dns check.

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"waxseal/keystore"
	"waxseal/keystore/dns"
)

// checkPause is the time between two looks of dns check --watch.
const checkPause = 5 * time.Second

func (a *app) dnsCheckCommand() *cobra.Command {
	var all, watch, verbose bool
	var every, wait time.Duration
	c := &cobra.Command{
		Use:   "check [DOMAIN... | --all]",
		Short: "Compare DNS with the keys",
		Long: `Ask every authoritative server of the zone, and the resolvers, for the record of
each key, and say for each what is there: its name, the key's state, and what is
wrong with the record, if anything; where servers differ, or with --verbose, what
each of them shows. Then come doubts about keys (too short, or older than
rotate_every), what else DNS has that is obsolete or missing, and whether the zone
above names the same name servers as the zone itself. Without a domain it is about
all. With - the domains are read from standard input, one a line.

The exit status is 1 when a record or a key is not as it should be. A note, as of a
missing DMARC record, does not count.

That the record of a pending key is seen at all servers, or no longer, is kept with
the key: its waiting time begins with that, as when the keeper sees it.

With --watch it looks again and prints what has changed, until the records of all
keys that are pending, active or revoked, and the CNAMEs of slots, are at all
servers as they should be.`,
		Example: `  waxseal dns check example.com
  waxseal dns check example.com --watch
  waxseal dns check --all --json`,
		RunE: func(c *cobra.Command, args []string) error {
			if all && len(args) > 0 {
				return misused(errors.New("--all, and domains: want one or the other"))
			}
			for _, flag := range []string{"every", "wait"} {
				if c.Flags().Changed(flag) && !watch {
					return misused(fmt.Errorf("--%s without --watch", flag))
				}
			}
			if every <= 0 || wait < 0 {
				return misused(fmt.Errorf("--every %s --wait %s, want more than 0s", every, wait))
			}
			l, err := a.newLookout()
			if err != nil {
				return err
			}
			r := &checking{lookout: l, watch: watch, verbose: verbose, told: map[string]string{}}
			return r.run(c.Context(), args, every, wait)
		},
		ValidArgsFunction: a.completeEachDomain,
	}
	a.storeFlags(c)
	a.jsonFlag(c)
	c.Flags().BoolVar(&all, "all", false, "check all domains, as without any named")
	c.Flags().BoolVar(&verbose, "verbose", false, "print what each server and resolver shows")
	c.Flags().BoolVar(&watch, "watch", false, "wait until the records are as they should be")
	c.Flags().DurationVar(&every, "every", checkPause, "with --watch, the `time` between two looks")
	c.Flags().DurationVar(&wait, "wait", 0, "with --watch, wait no longer than this `time` (default: for ever)")
	return c
}

// checking is one run of the command dns check.
type checking struct {
	*lookout
	watch, verbose bool

	seen     []*domainSight    // of every domain, for --json
	open     []*domainSight    // with --watch: those to look at again
	told     map[string]string // with --watch: what was told last of each thing
	findings bool              // of all but those in open
}

func (r *checking) run(ctx context.Context, args []string, every, most time.Duration) error {
	failed, err := r.first(ctx, args)
	if err != nil {
		return err
	}
	var deadline <-chan time.Time
	if most > 0 {
		deadline = time.After(most)
	}
	var late error
	for len(r.open) > 0 && late == nil {
		select {
		case <-time.After(every):
			if err := r.again(ctx); err != nil {
				return err
			}
		case <-deadline:
			late = fmt.Errorf("%d of the domains are not as they should be, and %s are over", len(r.open), most)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if r.app.json {
		if r.seen == nil {
			r.seen = []*domainSight{}
		}
		if err := r.app.printJSON(r.seen); err != nil {
			return err
		}
	}
	switch {
	case late != nil:
		return late
	case r.findings:
		return errFindings
	}
	return failed
}

// first looks at the domains of the arguments, or all.
func (r *checking) first(ctx context.Context, args []string) (failed, err error) {
	var looks inOrder
	var missed error
	failed, err = r.app.eachDomainOrAll(ctx, r.store, args, func(domain string) error {
		looks.begin(func() (finish func()) {
			s, err := r.look(ctx, domain, true)
			if len(args) == 0 && errors.Is(err, keystore.ErrNotFound) {
				return func() {}
			}
			if err == nil && len(s.Keys) == 0 {
				if err = s.err; err == nil && len(args) > 0 {
					err = r.app.noRecordNeeded(domain)
				}
			}
			return func() {
				if err != nil {
					r.app.report(err)
					missed = errFindings
				} else {
					r.take(s)
				}
			}
		})
		return nil
	})
	looks.finish()
	if failed == nil {
		failed = missed
	}
	return failed, err
}

// take prints and keeps the first sight of a domain.
func (r *checking) take(s *domainSight) {
	if len(s.Keys) == 0 {
		return
	}
	r.print(s)
	if r.app.json {
		r.seen = append(r.seen, s)
	}
	if r.watch && !s.settled() {
		r.open = append(r.open, s)
	} else {
		r.findings = r.findings || s.bad()
	}
}

// again looks at the domains in which something is still to come.
func (r *checking) again(ctx context.Context) error {
	var looks inOrder
	last := r.open
	r.open = nil
	for _, s := range last {
		leftovers := s.err != nil // they were not all found last time
		looks.begin(func() (finish func()) {
			next, err := r.look(ctx, s.Domain, leftovers)
			return func() {
				if err != nil {
					r.tell(s.Domain, err.Error(), func() { r.app.report(err) })
					r.open = append(r.open, s)
					return
				}
				if !leftovers {
					next.Findings = s.Findings
				}
				*s = *next
				r.print(s)
				if s.settled() {
					r.findings = r.findings || s.bad()
				} else {
					r.open = append(r.open, s)
				}
			}
		})
	}
	looks.finish()
	return ctx.Err()
}

// settled reports whether there is nothing to wait for.
func (s *domainSight) settled() bool {
	return !slices.ContainsFunc(s.Keys, func(k keySight) bool { return k.awaits })
}

// bad reports whether something is not as it should be.
func (s *domainSight) bad() bool {
	return s.err != nil ||
		slices.ContainsFunc(s.Findings, func(f dnsFinding) bool { return f.Severity == dns.Warning }) ||
		slices.ContainsFunc(s.Keys, func(k keySight) bool { return k.Severity == dns.Warning || len(k.Warnings) > 0 })
}

// print prints what is new in a sight: with --json only the errors.
func (r *checking) print(s *domainSight) {
	if !r.app.json {
		r.printTable(s)
	}
	for i, err := range []error{s.err, s.doubt} {
		if err != nil {
			r.tell(fmt.Sprint(s.Domain, i), err.Error(), func() { r.app.report(err) })
		}
	}
}

func (r *checking) printTable(s *domainSight) {
	var remedies []string
	remedy := func(of, text string) {
		if text != "" && !slices.Contains(remedies, of+text) {
			remedies = append(remedies, of+text)
		}
	}
	table := tabwriter.NewWriter(r.app.stdout, 0, 0, 2, ' ', 0)
	finding := func(f dnsFinding) {
		line := f.Name + "\t" + string(f.Severity) + "\t" + f.Text
		r.tell(line, line, func() {
			fmt.Fprintln(table, line)
			remedy(f.Name+": ", f.Remedy)
		})
	}
	for i := range s.Keys {
		k := &s.Keys[i]
		line := k.Name + "\t" + k.State + "\t" + k.Detail
		r.tell(k.Name, line, func() {
			for _, more := range []string{string(k.Algorithm), k.age} {
				if more != "" {
					line += "; " + more
				}
			}
			fmt.Fprintln(table, line)
			remedy("", k.Remedy)
			if r.verbose || k.differ {
				k.printServers(table, r.verbose)
			}
		})
		for _, f := range k.Warnings {
			finding(f)
		}
	}
	for _, f := range s.Findings {
		finding(f)
	}
	_ = table.Flush()
	for _, text := range remedies {
		r.app.notice("hint: %s", text)
	}
}

// tell calls print, except with --watch when the same was told of the thing last.
func (r *checking) tell(thing, text string, print func()) {
	if !r.watch {
		print()
	} else if r.told[thing] != text {
		r.told[thing] = text
		print()
	}
}

// printServers prints what each server shows, and with resolvers what each of
// these does.
func (s *keySight) printServers(table *tabwriter.Writer, resolvers bool) {
	row := func(r serverSight, who string) {
		detail := r.Detail
		if detail == "" {
			detail = "the record, to the letter"
		}
		fmt.Fprintf(table, "  %s\t%s\t%s\n", who, r.Verdict, detail)
	}
	for _, r := range s.Servers {
		who := r.Server
		if r.Address != "" {
			who += " (" + r.Address + ")"
		}
		row(r, who)
	}
	if !resolvers {
		return
	}
	for _, r := range s.Resolvers {
		row(r, "resolver "+r.Server)
	}
	if len(s.Servers) > 0 {
		fmt.Fprintf(table, "  TTL\t%d s\tnegative TTL %d s\n", s.TTL, s.NegativeTTL)
	}
}
