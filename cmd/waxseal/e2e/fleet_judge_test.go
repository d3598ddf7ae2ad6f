package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	ks "waxseal/keystore"
	"waxseal/keystore/dns"
)

// The judges of the fleet trial: what must hold of the keys at any time, and what
// must hold of everything in the end.

// watcher reads the domains over and over, past all proxies, and compares each
// with what it was: nothing may go back.
type watcher struct{ seen map[string]*ks.Domain }

func (w *watcher) run(ctx context.Context, f *fleet) {
	for ctx.Err() == nil {
		for _, domain := range f.warm {
			d, err := f.keys.Domain(ctx, domain)
			switch {
			case errors.Is(err, ks.ErrNotFound):
				f.fault("%s is gone: %v", domain, err)
			case err == nil:
				w.compare(f, d)
				// The resolver is to remember that the next key has no record.
				_, _ = f.lookup(f.bind.Resolver.Addr, dns.Name(ks.NextSelector(d, time.Now()), domain))
			}
		}
		select {
		case <-time.After(200 * time.Millisecond):
		case <-ctx.Done():
		}
	}
}

var order = []ks.State{ks.Pending, ks.Active, ks.Retired, ks.Revoked, ks.Removed}

func (w *watcher) compare(f *fleet, d *ks.Domain) {
	was := w.seen[d.Name]
	w.seen[d.Name] = d
	if was == nil {
		return
	}
	if d.Version < was.Version {
		f.fault("%s went back from version %d to %d", d.Name, was.Version, d.Version)
	}
	if len(d.History) < len(was.History) || !slices.Equal(d.History[:len(was.History)], was.History) {
		f.fault("the history of %s has changed from\n%v\nto\n%v", d.Name, was.History, d.History)
	}
	for i := range was.Keys {
		old := &was.Keys[i]
		k := d.Key(old.Selector)
		if k == nil || !bytes.Equal(k.Public, old.Public) || slices.Index(order, k.State) < slices.Index(order, old.State) {
			f.fault("%s of %s was %s, and is %+v", old.Selector, d.Name, old.State, k)
		}
	}
	rsa, ed25519 := 0, 0
	for i := range d.Keys {
		switch k := &d.Keys[i]; {
		case k.State != ks.Active:
		case k.Algorithm == ks.Ed25519:
			ed25519++
		default:
			rsa++
		}
	}
	if ed25519 != 1 || rsa != len(f.kinds[d.Name])-1 {
		f.fault("%d RSA and %d Ed25519 keys sign for %s", rsa, ed25519, d.Name)
	}
}

// reported is a step that somebody said was done.
type reported struct {
	domain, selector string
	what             ks.What
	by               string
}

// stepEvents are the events of the history that steps leave. What was observed is
// in the history in several ways, and is left out.
var stepEvents = map[string]ks.What{
	"made": ks.WasCreated, "create": ks.WasCreated, "activate": ks.WasActivated, "retire": ks.WasRetired,
	"revoke": ks.WasRevoked, "remove": ks.WasRemoved,
}

var (
	printedStep = regexp.MustCompile(`(?m)^(\S+): (made|activate|retire|revoke|remove) ([^\s:]+)`)
	loggedStep  = regexp.MustCompile(`msg="key step" step=(\S+) domain=(\S+) selector=(\S+)`)
)

// noteCommand keeps what a command says it has done, and whether that was to make
// a key.
func (f *fleet) noteCommand(stdout string) (made bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, m := range printedStep.FindAllStringSubmatch(stdout, -1) {
		f.reports = append(f.reports, reported{m[1], m[3], stepEvents[m[2]], "waxseal rotate"})
		made = made || m[2] == "made"
	}
	return made
}

// noteLogs keeps what all daemons there were say that they have done.
func (f *fleet) noteLogs() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, n := range f.nodes {
		for _, d := range n.daemons {
			for _, m := range loggedStep.FindAllStringSubmatch(d.log.String(), -1) {
				if what, ok := stepEvents[m[1]]; ok {
					f.reports = append(f.reports, reported{m[2], m[3], what, n.name})
				}
			}
		}
	}
}

// settle waits, with all well, until the fleet is one again, and rotates all
// domains once more.
func (f *fleet) settle() {
	t := f.t
	t.Helper()
	for _, domain := range f.warm {
		eventually(t, "no key of "+domain+" waits", func() bool { return len(f.active(domain)) == len(f.kinds[domain]) && !f.pending(domain) })
	}
	before := map[string][]string{}
	for _, domain := range f.warm {
		before[domain] = f.active(domain)
		eventually(t, "the rotation of "+domain+" begins", func() bool { return f.beginRotation(t.Context(), domain) })
	}
	for _, domain := range f.warm {
		eventually(t, "the successors sign for "+domain, func() bool {
			now := f.active(domain)
			return len(now) == len(f.kinds[domain]) && !slices.ContainsFunc(now, func(s string) bool { return slices.Contains(before[domain], s) })
		})
	}
	changed := time.Now()
	eventually(t, "all nodes sign with the new keys", f.together)
	together := time.Now()
	const slow = 10 * time.Second // machines are
	if took := together.Sub(changed); took > fleetRefresh+slow {
		f.fault("with all well, it took %v until all nodes signed with the new keys", took)
	}
	time.Sleep(2 * fleetRefresh)
	for _, n := range f.nodes {
		for _, domain := range f.warm {
			for _, selector := range before[domain] {
				if _, last, _ := f.uses.of(n.name, domain, selector); last.After(together) {
					f.fault("%s has signed for %s with its new key, and then with %s again", n.name, domain, selector)
				}
			}
		}
		for _, domain := range f.cold {
			if end := judge(t, n.address, facts{id: "4ABC", client: "127.0.0.1"}, by("ann@"+domain), "Hello.\r\n"); end.top == "" {
				f.fault("with all well, %s does not sign for %s: %s", n.name, domain, end)
			}
		}
	}
	f.agree()
}

func (f *fleet) pending(domain string) bool {
	d, err := f.keys.Domain(f.t.Context(), domain)
	return err != nil || slices.ContainsFunc(d.Keys, func(k ks.Key) bool { return k.State == ks.Pending })
}

// agree fails unless every node sees the same keys, and the store all nodes.
func (f *fleet) agree() {
	t := f.t
	t.Helper()
	var lists []string
	eventually(t, "all nodes see the same", func() bool {
		lists = nil
		for _, config := range []string{f.config, f.nodes[0].config, f.nodes[1].config, f.nodes[2].config} {
			lists = append(lists, command(t, "key", "list", "--json", "--config", config))
		}
		return len(slices.Compact(slices.Clone(lists))) == 1
	})
	var rows []struct{ Domain, Selector string }
	if err := json.Unmarshal([]byte(lists[0]), &rows); err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, r := range rows {
		if name := r.Selector + "." + r.Domain; seen[name] {
			f.fault("%s is listed twice", name)
		} else {
			seen[name] = true
		}
	}
	if _, remembers := f.keys.(ks.Beater); remembers {
		eventually(t, "store status has heard of all nodes", func() bool {
			status := command(t, "store", "status", "--config", f.config)
			return strings.Count(status, ", heard of ") == len(f.nodes) && !strings.Contains(status, "silent for")
		})
	}
}

// judgeHistory compares the histories with themselves, with the keys, and with
// what was reported. It returns how many steps there were.
func (f *fleet) judgeHistory() string {
	f.noteLogs()
	steps := map[ks.What]int{}
	done := map[reported]bool{}
	for _, domain := range slices.Concat(f.warm, f.cold) {
		d := f.read(domain)
		lives := map[string][]ks.Event{}
		for i, e := range d.History {
			steps[e.What]++
			done[reported{domain: domain, selector: e.Selector, what: e.What}] = true
			if i > 0 && e.Time.Before(d.History[i-1].Time) {
				f.fault("the history of %s is not in order: %v", domain, d.History)
			}
			switch e.What {
			case ks.WasCreated, ks.WasActivated, ks.WasRetired, ks.WasRevoked, ks.WasRemoved:
				lives[e.Selector] = append(lives[e.Selector], e)
			}
		}
		if len(lives) != len(d.Keys) {
			f.fault("%s has %d keys, and the history of %d", domain, len(d.Keys), len(lives))
		}
		for i := range d.Keys {
			f.judgeLife(d, &d.Keys[i], lives[d.Keys[i].Selector])
		}
	}
	for _, r := range f.reports {
		if !done[reported{domain: r.domain, selector: r.selector, what: r.what}] {
			f.fault("%s has reported that %s of %s was %s, and the store does not know of it", r.by, r.selector, r.domain, r.what)
		}
	}
	return fmt.Sprintf("%d created, %d activated, %d retired, %d revoked, %d removed, %d withdrawn, %d reports of them", steps[ks.WasCreated], steps[ks.WasActivated],
		steps[ks.WasRetired], steps[ks.WasRevoked], steps[ks.WasRemoved], steps[ks.WasWithdrawn], len(f.reports))
}

func (f *fleet) read(domain string) *ks.Domain {
	f.t.Helper()
	d, err := f.keys.Domain(f.t.Context(), domain)
	if err != nil {
		f.t.Fatal(err)
	}
	return d
}

// judgeLife fails unless a key has gone through its states in order, once each,
// and says so of itself; and unless it signed between activation and revocation.
func (f *fleet) judgeLife(d *ks.Domain, k *ks.Key, life []ks.Event) {
	whats := []ks.What{ks.WasCreated, ks.WasActivated, ks.WasRetired, ks.WasRevoked, ks.WasRemoved}
	times := []time.Time{k.Created, k.Activated, k.Retired, k.Revoked, k.Removed}
	at := slices.Index(order, k.State)
	if len(life) != at+1 {
		f.fault("%s of %s is %s, by this history: %v", k.Selector, d.Name, k.State, life)
		return
	}
	for i, e := range life {
		if e.What != whats[i] || !e.Time.Equal(times[i]) {
			f.fault("%s of %s was %s at %v, and its history is %v", k.Selector, d.Name, whats[i], times[i], life)
		}
	}
	for _, n := range f.nodes {
		first, last, ok := f.uses.of(n.name, d.Name, k.Selector)
		if ok && !k.Retired.IsZero() {
			f.longest = max(f.longest, last.Sub(k.Retired))
		}
		switch {
		case ok && (k.Activated.IsZero() || first.Before(k.Activated)):
			f.fault("%s signed with %s of %s at %v, and it was activated at %v", n.name, k.Selector, d.Name, first, k.Activated)
		case ok && !k.Revoked.IsZero() && last.After(k.Revoked.Add(time.Second)):
			f.fault("%s signed with %s of %s at %v, and it was revoked at %v", n.name, k.Selector, d.Name, last, k.Revoked)
		}
	}
}

// judgeMail fails for each signature that did not verify, unless it was too late
// for it.
func (f *fleet) judgeMail() {
	for _, m := range f.misses {
		k := f.read(m.sig.domain).Key(m.sig.selector)
		if k == nil {
			f.fault("%s signed with %s of %s, which there never was", m.letter.node.name, m.sig.selector, m.sig.domain)
			continue
		}
		needed := k.Retired.Add(f.grace)
		if !k.Retired.IsZero() && m.letter.got.Before(needed) && !m.at.Before(needed) {
			continue
		}
		f.fault("a message that %s signed with %s of %s at %v (activated %v, retired %v, revoked %v) does not verify at %v with %s: %v",
			m.letter.node.name, m.sig.selector, m.sig.domain, m.letter.got, k.Activated, k.Retired, k.Revoked, m.at, m.server, m.err)
	}
}
