package main

// One look at DNS: what it shows of the keys of a domain, and what that means.

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"waxseal/keystore"
	"waxseal/keystore/dns"
	"waxseal/milter/policy"
)

// lookout looks at DNS for the commands dns check and dns publish. Its methods
// may be called concurrently, for different domains.
type lookout struct {
	app     *app
	config  *decoded
	store   keystore.Store
	checker *dns.Checker
	by      string
}

func (a *app) newLookout() (*lookout, error) {
	config, store, err := a.configAndStore()
	if err != nil {
		return nil, err
	}
	if found := keeperProblems(config); len(found) > 0 {
		return nil, found
	}
	checker, err := buildChecker(config, a.now)
	if err != nil {
		return nil, err
	}
	return &lookout{app: a, config: config, store: store, checker: checker, by: a.who()}, nil
}

// domainSight is what DNS shows of a domain.
type domainSight struct {
	Domain   string       `json:"domain"`
	Keys     []keySight   `json:"keys"`
	Findings []dnsFinding `json:"findings"` // other than about keys

	err   error // the look is not complete
	doubt error // what was seen could not be kept
}

// keySight is what DNS shows of the record of a key, or with State "slot" of the
// CNAME of a slot that has no key at present.
type keySight struct {
	Selector  string             `json:"selector"`
	Name      string             `json:"name"`
	State     string             `json:"state"`
	Algorithm keystore.Algorithm `json:"algorithm,omitempty"`
	Bits      int                `json:"bits,omitempty"`
	Since     *time.Time         `json:"since,omitempty"` // in this state
	Seen      *time.Time         `json:"seen,omitempty"`
	Ready     *time.Time         `json:"ready,omitempty"`
	Record    string             `json:"record,omitempty"` // that should be there
	Target    string             `json:"target,omitempty"` // of the CNAME that should be there

	Severity dns.Severity `json:"severity,omitempty"` // empty: all is well
	Verdict  dns.Verdict  `json:"verdict"`
	Detail   string       `json:"detail"`
	Remedy   string       `json:"remedy,omitempty"`
	Warnings []dnsFinding `json:"warnings,omitempty"` // about the key itself

	Zone        string        `json:"zone,omitempty"`
	Chain       []string      `json:"chain,omitempty"` // of CNAMEs
	TTL         int           `json:"ttl"`             // seconds
	NegativeTTL int           `json:"negative_ttl"`    // seconds
	Servers     []serverSight `json:"servers"`
	Resolvers   []serverSight `json:"resolvers"`

	age    string // in words
	sight  keystore.Sight
	awaits bool // a record that is to be waited for is not there
	differ bool // the servers do
}

// dnsFinding is a dns.Finding as it is printed.
type dnsFinding struct {
	Name     string       `json:"name"`
	Text     string       `json:"text"`
	Remedy   string       `json:"remedy,omitempty"`
	Severity dns.Severity `json:"severity"`
}

type serverSight struct {
	Server  string      `json:"server"`
	Address string      `json:"address,omitempty"`
	Verdict dns.Verdict `json:"verdict"`
	Detail  string      `json:"detail,omitempty"`
	TTL     int         `json:"ttl"` // seconds
	Values  []string    `json:"values,omitempty"`
}

// look asks DNS about all of a domain that matters, and keeps in the store since
// when a record is seen. With leftovers it looks at what else the domain has in
// DNS, too.
func (l *lookout) look(ctx context.Context, name string, leftovers bool) (*domainSight, error) {
	d, err := l.app.domain(ctx, l.store, name)
	if err != nil {
		return nil, err
	}
	s := &domainSight{Domain: d.Name, Keys: []keySight{}, Findings: []dnsFinding{}}
	var asks []func() keySight
	for i := range d.Keys {
		if k := &d.Keys[i]; needsLook(d, k) {
			asks = append(asks, func() keySight { return l.key(ctx, d, k) })
		}
	}
	for _, slot := range d.Slots {
		if k := d.Key(slot.Selector); k == nil || k.State == keystore.Removed {
			asks = append(asks, func() keySight { return l.slot(ctx, d, slot) })
		}
	}
	s.err = d.Whole()
	if len(asks) == 0 {
		return s, nil
	}
	s.Keys = make([]keySight, len(asks))
	var asking sync.WaitGroup
	for i, ask := range asks {
		asking.Go(func() { s.Keys[i] = ask() })
	}
	var others [2][]dns.Finding
	var missed [2]error
	if leftovers {
		asking.Go(func() { others[0], missed[0] = l.checker.Leftovers(ctx, d.Name) })
		asking.Go(func() { others[1], missed[1] = l.checker.Delegation(ctx, d.Name) })
	}
	asking.Wait()
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	for i := range others {
		for _, f := range others[i] {
			s.Findings = append(s.Findings, dnsFinding(f))
		}
		if missed[i] != nil {
			s.err = errors.Join(s.err, fmt.Errorf("domain %s: %w", d.Name, missed[i]))
		}
	}
	if d.Whole() == nil {
		if d, err = l.keep(ctx, d, "waxseal dns check", s.Keys, nil); err != nil {
			s.doubt = fmt.Errorf("domain %s: what was seen is not kept: %w", d.Name, err)
		}
	}
	for i := range s.Keys {
		l.age(&s.Keys[i], d)
	}
	return s, nil
}

// needsLook leaves out the keys whose record nobody cares about.
func needsLook(d *keystore.Domain, k *keystore.Key) bool {
	_, slot := d.Slot(k.Selector)
	return k.State != keystore.Removed || !slot && k.Withdrawn.IsZero()
}

// key asks DNS about a key's record. When ctx ends the result means nothing.
func (l *lookout) key(ctx context.Context, d *keystore.Domain, k *keystore.Key) keySight {
	s := keySight{
		Selector: k.Selector, Name: dns.Name(k.Selector, d.Name), State: string(k.State), Algorithm: k.Algorithm,
		Verdict: dns.Failed, Severity: dns.Warning, Servers: []serverSight{}, Resolvers: []serverSight{},
	}
	s.Target, _ = d.Slot(k.Selector)
	want := &dns.Record{} // of a removed key it only matters whether there is one
	if k.State != keystore.Removed {
		var err error
		if want, err = dns.NewRecord(k, dns.RecordOptions{}); err != nil {
			s.Detail = err.Error()
			return s
		}
		s.Record = want.String()
	}
	r, err := l.checker.Check(ctx, s.Name, want)
	if err != nil {
		s.Detail = err.Error()
		return s
	}
	s.fill(r)
	s.sight = r.Sight(l.app.now())
	s.judge(k, l.publishHint(d, k))
	if until := k.NeededUntil(time.Duration(l.config.Keeper.Grace)); k.State == keystore.Removed && s.Remedy != "" && l.app.now().Before(until) {
		s.Detail, s.Remedy = "mail under way needs its record until "+until.Format(time.RFC3339), ""
	}
	if s.Target != "" {
		s.judgeCNAME(d.Name)
	}
	l.weigh(&s, d, k)
	return s
}

// slot asks DNS about the CNAME of a slot without a key. When ctx ends the result
// means nothing.
func (l *lookout) slot(ctx context.Context, d *keystore.Domain, slot keystore.Slot) keySight {
	s := keySight{
		Selector: slot.Selector, Name: dns.Name(slot.Selector, d.Name), State: "slot", Target: slot.Target,
		Verdict: dns.Failed, Severity: dns.Warning, Servers: []serverSight{}, Resolvers: []serverSight{},
	}
	r, err := l.checker.Check(ctx, s.Name, &dns.Record{})
	if err != nil {
		s.Detail = err.Error()
		return s
	}
	s.fill(r)
	if s.judgeCNAME(d.Name); slices.Contains(s.Chain, s.Target) {
		s.Severity, s.Detail = "", "the CNAME to "+s.Target+" is there, for a key to come"
	}
	return s
}

// fill takes over what the checker found.
func (s *keySight) fill(r *dns.Report) {
	s.Verdict, s.Detail = r.Verdict, r.Detail
	s.Zone, s.Chain = r.Zone, r.Chain
	s.TTL, s.NegativeTTL = int(r.TTL/time.Second), int(r.NegativeTTL/time.Second)
	s.Servers, s.Resolvers = serverSights(r.Servers), serverSights(r.Resolvers)
	var first dns.Verdict
	for _, at := range r.Servers {
		switch {
		case at.Verdict == dns.Unreachable: // not counted
		case first == "":
			first = at.Verdict
		default:
			s.differ = s.differ || at.Verdict != first
		}
	}
}

func serverSights(reports []dns.ServerReport) []serverSight {
	all := []serverSight{}
	for _, r := range reports {
		s := serverSight{Server: r.Server, Verdict: r.Verdict, Detail: r.Detail, TTL: int(r.TTL / time.Second), Values: r.Values}
		if r.Address.IsValid() {
			s.Address = r.Address.String()
		}
		all = append(all, s)
	}
	return all
}

// judge says what the verdict on the record means in the key's state.
func (s *keySight) judge(k *keystore.Key, remedy string) {
	absent := s.sight.State == keystore.Missing
	silent := s.sight.State == keystore.Unknown
	switch {
	case k.State == keystore.Removed && absent:
		s.Severity, s.Detail = "", "its record is gone"
	case k.State == keystore.Removed && silent:
		s.Severity = dns.Note
	case k.State == keystore.Removed:
		s.Severity, s.Detail, s.Remedy = dns.Note, "there is still a record, which nobody needs", remedy
	case k.State == keystore.Revoked && absent:
		s.Severity, s.Detail = "", "there is no record, which says the same as an empty p="
	case s.Verdict == dns.Matches && !silent:
		s.Severity = ""
	case s.Verdict == dns.Bogus:
		s.Remedy = fmt.Sprintf("sign the zone %s anew, or correct the DS record above it", s.Zone)
	case !silent:
		s.Remedy = remedy
	}
	awaited := k.State == keystore.Pending || k.State == keystore.Active || k.State == keystore.Revoked
	s.awaits = awaited && (s.Severity != "" && !s.Verdict.Shown() || silent)
}

// judgeCNAME says what is wrong with the CNAME of a slot, if anything.
func (s *keySight) judgeCNAME(domain string) {
	switch {
	case slices.Contains(s.Chain, s.Target) || len(s.Servers) == 0 && s.Verdict != dns.Missing:
		return
	case slices.ContainsFunc(s.Servers, func(r serverSight) bool { return r.Verdict == dns.Differs }):
		// A part of the servers has it; the detail tells.
	case len(s.Chain) > 0:
		s.Detail = fmt.Sprintf("the CNAME points to %s, not to %s", s.Chain[0], s.Target)
	case s.Verdict == dns.Missing:
		s.Detail = fmt.Sprintf("the CNAME to %s is missing", s.Target)
	case len(s.Servers) > 0 && slices.ContainsFunc(s.Servers, func(r serverSight) bool { return len(r.Values) > 0 }):
		s.Detail = fmt.Sprintf("there is a TXT record in the place of the CNAME to %s", s.Target)
	default:
		return // no server told
	}
	s.Severity, s.awaits = dns.Warning, true
	s.Remedy = fmt.Sprintf("the owner of %s has to set: %s. IN CNAME %s.", domain, s.Name, s.Target)
}

// weigh adds doubts about the key itself.
func (l *lookout) weigh(s *keySight, d *keystore.Domain, k *keystore.Key) {
	warn := func(remedy, text string, args ...any) {
		s.Warnings = append(s.Warnings, dnsFinding{Name: s.Name, Severity: dns.Warning, Text: fmt.Sprintf(text, args...), Remedy: remedy})
	}
	whole := *k
	whole.State = keystore.Active
	if record, err := dns.NewRecord(&whole, dns.RecordOptions{}); err == nil {
		_, s.Bits = record.Key()
	}
	rotate := fmt.Sprintf("\"waxseal rotate %s%s\" replaces it", d.Name, l.app.flags())
	if k.State == keystore.Pending {
		rotate = fmt.Sprintf("remove it with \"waxseal key remove %s %s%s\", and make another", d.Name, k.Selector, l.app.flags())
	}
	if k.State == keystore.Pending || k.State == keystore.Active {
		if public, err := keystore.ParsePublic(k.Algorithm, k.Public); err == nil {
			for _, w := range keystore.Warnings(public) {
				warn(rotate, "%s", w)
			}
		}
	}
	rules := keyRules(l.config, d.Name)
	if age := l.app.now().Sub(k.Activated); k.State == keystore.Active && rules.RotateEvery > 0 && age > rules.RotateEvery {
		if rules.Named(k.Selector) {
			rotate = fmt.Sprintf("take %s out of the selectors of the row that names it; then \"waxseal rotate %s%s\" replaces it", k.Selector, d.Name, l.app.flags())
		}
		warn(rotate, "it signs for %s, and rotate_every is %s", inWords(age), inWords(rules.RotateEvery))
	}
}

// publishHint says how the record of a key is put right.
func (l *lookout) publishHint(d *keystore.Domain, k *keystore.Key) string {
	name := dns.Name(k.Selector, d.Name)
	if target, ok := d.Slot(k.Selector); ok {
		name = target
	}
	switch {
	case l.publishes(name):
		return fmt.Sprintf("\"waxseal dns publish %s %s%s\" puts it right", d.Name, k.Selector, l.app.flags())
	case k.State == keystore.Removed:
		return "delete the TXT record at " + name
	}
	return fmt.Sprintf("publish what \"waxseal dns show %s %s%s\" prints", d.Name, k.Selector, l.app.flags())
}

// publishes reports whether a [publish] table is about the name. Unlike
// buildPublishers it takes no key files, which not everybody may read.
func (l *lookout) publishes(name string) bool {
	for _, table := range l.config.Publish {
		for _, given := range table.Zones {
			if zone, err := policy.Domain(given); err == nil && (name == zone || strings.HasSuffix(name, "."+zone)) {
				return true
			}
		}
	}
	return false
}

// age fills in what the store knows of times.
func (l *lookout) age(s *keySight, d *keystore.Domain) {
	k := d.Key(s.Selector)
	if k == nil || s.State == "slot" {
		return
	}
	s.Seen, s.Ready = timeOrNone(k.Seen), timeOrNone(k.Ready)
	row := newKeyRow(d.Name, k)
	if since := row.since(); !since.IsZero() {
		s.Since = &since
		word := map[keystore.State]string{
			keystore.Pending: "made %s ago", keystore.Active: "signs for %s", keystore.Retired: "retired %s ago",
			keystore.Revoked: "revoked %s ago", keystore.Removed: "removed %s ago",
		}[k.State]
		s.age = fmt.Sprintf(word, inWords(l.app.now().Sub(since)))
	}
	if k.State == keystore.Pending && !k.Seen.IsZero() && s.sight.State == keystore.Shown {
		switch {
		case k.Urgent || !l.app.now().Before(k.Ready):
			s.Detail += "; it may sign now"
		default:
			s.Detail += "; it may sign from " + k.Ready.Format(time.RFC3339) + " on, when no resolver remembers anything else"
		}
	}
}

var errUnchanged = errors.New("nothing to change")

// keep has the store remember since when records are seen, as the keeper does,
// and which were published. It returns the domain as it is then.
func (l *lookout) keep(ctx context.Context, d *keystore.Domain, reason string, seen []keySight, published []string) (*keystore.Domain, error) {
	w := keystore.Warrant{Now: l.app.now(), By: l.by, Reason: reason, Grace: time.Duration(l.config.Keeper.Grace)}
	now, err := l.app.update(ctx, l.store, d.Name, func(d *keystore.Domain) error {
		changed := false
		for _, selector := range published {
			changed = d.MarkPublished(selector, w) || changed
		}
		for i := range seen {
			// Somebody may have taken a step since.
			if k := d.Key(seen[i].Selector); k != nil && string(k.State) == seen[i].State {
				changed = d.Observe(k.Selector, seen[i].sight, w) || changed
			}
		}
		if !changed {
			return errUnchanged
		}
		return nil
	})
	switch {
	case errors.Is(err, errUnchanged):
		return d, nil
	case err != nil:
		return d, err
	}
	return now, nil
}

// inWords writes a time that has passed for people.
func inWords(d time.Duration) string {
	for _, u := range []struct {
		unit time.Duration
		name string
	}{{24 * time.Hour, "days"}, {time.Hour, "hours"}, {time.Minute, "minutes"}} {
		if d >= 2*u.unit {
			return fmt.Sprintf("%d %s", d/u.unit, u.name)
		}
	}
	return fmt.Sprintf("%d seconds", max(d, 0)/time.Second)
}
