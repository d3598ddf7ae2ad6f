package keeper

import (
	"bytes"
	"context"
	"crypto"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"waxseal/keystore"
	"waxseal/keystore/dns"
)

// noon is when the tests begin.
var noon = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)

// memory is a Store without a disk. Its hooks, if set, run before and after what
// they are told of, and may fail or panic in its place.
type memory struct {
	before  func(what string) error
	after   func(what string) error
	updated func(old, d *keystore.Domain) // old is nil for a new domain

	mu      sync.Mutex // guards all below
	domains map[string]*keystore.Domain
	updates int
}

var _ keystore.Store = (*memory)(nil)

func newMemory() *memory { return &memory{domains: map[string]*keystore.Domain{}} }

func hook(h func(string) error, what string) error {
	if h == nil {
		return nil
	}
	return h(what)
}

func (m *memory) Domain(_ context.Context, name string) (*keystore.Domain, error) {
	if err := hook(m.before, "read"); err != nil {
		return nil, err
	}
	m.mu.Lock()
	d := m.domains[name]
	m.mu.Unlock()
	if err := hook(m.after, "read"); err != nil {
		return nil, err
	}
	if d == nil {
		return nil, fmt.Errorf("domain %s: %w", name, keystore.ErrNotFound)
	}
	return copied(d), nil
}

func copied(d *keystore.Domain) *keystore.Domain {
	c := *d
	c.Keys, c.Slots, c.History = slices.Clone(d.Keys), slices.Clone(d.Slots), slices.Clone(d.History)
	return &c
}

func (m *memory) Update(ctx context.Context, d *keystore.Domain) error {
	if err := hook(m.before, "update"); err != nil {
		return err
	}
	if err := m.update(d); err != nil {
		return err
	}
	return hook(m.after, "update")
}

func (m *memory) update(d *keystore.Domain) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	old := m.domains[d.Name]
	if old == nil && d.Version != 0 || old != nil && old.Version != d.Version {
		return fmt.Errorf("domain %s: %w", d.Name, keystore.ErrConflict)
	}
	if err := keystore.CheckUpdate(old, d); err != nil {
		return fmt.Errorf("domain %s: %w", d.Name, err)
	}
	is := copied(d)
	is.Version++
	for i := range is.Keys {
		if k := &is.Keys[i]; k.State == keystore.Removed {
			k.Load = nil
		}
	}
	m.domains[d.Name] = is
	m.updates++
	d.Version = is.Version
	if m.updated != nil {
		m.updated(old, is)
	}
	return nil
}

func (m *memory) List(_ context.Context, after string, limit int) ([]string, error) {
	if err := hook(m.before, "list"); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	names := slices.Sorted(maps.Keys(m.domains))
	i, found := slices.BinarySearch(names, after)
	if found {
		i++
	}
	return names[i:min(len(names), i+limit)], nil
}

func (m *memory) Watch(context.Context, func(string)) error { return nil }

// signs returns the selectors of the active keys of a domain.
func signs(d *keystore.Domain) (selectors []string) {
	for i := range d.Keys {
		if d.Keys[i].State == keystore.Active {
			selectors = append(selectors, d.Keys[i].Selector)
		}
	}
	return selectors
}

// fakeDNS has the key records of the authoritative servers of one zone; the
// first is the primary, to which records are published.
type fakeDNS struct {
	ttl, negative time.Duration
	lag           bool                // published records are not passed on to the others
	fail          error               // of Publish
	refuse        func(string) error  // of Publish, by name
	before, after func(string) error  // as those of memory
	alias         map[string]string   // what CNAMEs point to
	published     func(c *dns.Change) // of each change

	mu      sync.Mutex          // guards all below
	servers []map[string]string // name → value
	down    []bool
	asked   int
}

func newDNS(servers int) *fakeDNS {
	f := &fakeDNS{ttl: time.Hour, negative: 2 * time.Hour, down: make([]bool, servers), alias: map[string]string{}}
	for range servers {
		f.servers = append(f.servers, map[string]string{})
	}
	return f
}

// Check is what a dns.Checker would report.
func (f *fakeDNS) Check(ctx context.Context, name string, want *dns.Record) (*dns.Report, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked++
	r := &dns.Report{Name: name, Wanted: want.String(), TTL: f.ttl, NegativeTTL: f.negative}
	if target := f.alias[name]; target != "" {
		r.Chain, name = []string{target}, target
	}
	differ, silent := false, false
	for i, records := range f.servers {
		s := dns.ServerReport{Server: fmt.Sprintf("ns%d", i+1), Verdict: judge(records[name], want)}
		if f.down[i] {
			s.Verdict, silent = dns.Timeout, true
		}
		r.Servers = append(r.Servers, s)
	}
	var shown []dns.Verdict
	for _, s := range r.Servers {
		if s.Verdict != dns.Timeout {
			shown = append(shown, s.Verdict)
			differ = differ || s.Verdict != shown[0]
		}
	}
	switch {
	case differ:
		r.Verdict = dns.Differs
	case len(shown) > 0 && !shown[0].Shown():
		r.Verdict = shown[0]
	case silent:
		r.Verdict = dns.Timeout
	default:
		r.Verdict = shown[0]
	}
	r.Detail = "the servers say: " + string(r.Verdict)
	return r, nil
}

func judge(value string, want *dns.Record) dns.Verdict {
	if value == "" {
		return dns.Missing
	}
	is, err := dns.ParseRecord(value)
	switch {
	case err != nil:
		return dns.Malformed
	case is.Revoked() && !want.Revoked():
		return dns.Revoked
	case bytes.Equal(is.Public, want.Public):
		return dns.Matches
	}
	return dns.OtherKey
}

// Publish implements dns.Publisher.
func (f *fakeDNS) Publish(_ context.Context, c dns.Change) error {
	if err := hook(f.before, "publish"); err != nil {
		return err
	}
	if f.fail != nil {
		return f.fail
	}
	if f.refuse != nil {
		if err := f.refuse(c.Name); err != nil {
			return err
		}
	}
	if f.published != nil {
		f.published(&c)
	}
	f.mu.Lock()
	for i := range f.servers {
		if i == 0 || !f.lag {
			put(f.servers[i], c.Name, c.Record)
		}
	}
	f.mu.Unlock()
	return hook(f.after, "publish")
}

func put(records map[string]string, name, value string) {
	if value == "" {
		delete(records, name)
	} else {
		records[name] = value
	}
}

// set puts a record on the servers given, all if none is.
func (f *fakeDNS) set(name, value string, servers ...int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := range f.servers {
		if len(servers) == 0 || slices.Contains(servers, i) {
			put(f.servers[i], name, value)
		}
	}
}

// has returns what the primary shows.
func (f *fakeDNS) has(name string) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.servers[0][name]
}

// catchUp gives all servers what the primary has.
func (f *fakeDNS) catchUp() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := range f.servers {
		f.servers[i] = maps.Clone(f.servers[0])
	}
}

// shows reports whether every server shows exactly the value.
func (f *fakeDNS) shows(name, value string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, records := range f.servers {
		if records[name] != value {
			return false
		}
	}
	return true
}

// world is a store, DNS, and a clock.
type world struct {
	*testing.T
	store   *memory
	dns     *fakeDNS
	now     time.Time
	notices []Notice
	options Options
}

const theDomain = "example.com"

// newWorld makes a world in which DNS is updated by the keepers.
func newWorld(t *testing.T) *world {
	w := &world{T: t, store: newMemory(), dns: newDNS(2), now: noon}
	var mu sync.Mutex // guards notices
	w.options = Options{
		Check:     w.dns.Check,
		Publisher: func(string) (dns.Publisher, time.Duration) { return w.dns, time.Hour },
		Notify: func(_ context.Context, n Notice) {
			mu.Lock()
			defer mu.Unlock()
			w.notices = append(w.notices, n)
		},
		By:  "keeper@test",
		Now: func() time.Time { return w.now },
	}
	return w
}

func (w *world) byHand() *world {
	w.options.Publisher = nil
	return w
}

func (w *world) rules(r keystore.Rules) *world {
	w.options.Rules = func(string) keystore.Rules { return r }
	return w
}

func (w *world) keeper() *Keeper { return New(w.store, w.options) }

// newKey makes a pending key.
func newKey(t testing.TB, selector string, algorithm keystore.Algorithm) keystore.Key {
	t.Helper()
	private, err := keystore.Generate(algorithm)
	if err != nil {
		t.Fatal(err)
	}
	public, _, err := keystore.PublicBytes(private.Public())
	if err != nil {
		t.Fatal(err)
	}
	return keystore.Key{
		Selector: selector, Algorithm: algorithm, Public: public, State: keystore.Pending,
		Load: func(context.Context) (crypto.Signer, error) { return private, nil },
	}
}

// add stores a new pending key in the domain.
func (w *world) add(selector string) {
	w.Helper()
	w.change(func(d *keystore.Domain) error {
		return d.Add(newKey(w, selector, keystore.Ed25519), keystore.Warrant{Now: w.now, By: "ann"})
	})
}

// addActive stores a new key that is active and seen.
func (w *world) addActive(selector string) {
	w.Helper()
	w.add(selector)
	w.dns.set(dns.Name(selector, theDomain), w.value(selector))
	w.change(func(d *keystore.Domain) error {
		d.Observe(selector, keystore.Sight{At: w.now.Add(-time.Hour), State: keystore.Shown}, keystore.Warrant{Now: w.now})
		return d.Activate(selector, keystore.Warrant{Now: w.now, By: "ann"})
	})
}

// change changes the domain as an administrator does.
func (w *world) change(f func(*keystore.Domain) error) {
	w.Helper()
	d, err := w.store.Domain(w.Context(), theDomain)
	if errors.Is(err, keystore.ErrNotFound) {
		d, err = &keystore.Domain{Name: theDomain}, nil
	}
	if err != nil {
		w.Fatal(err)
	}
	if err := f(d); err != nil {
		w.Fatal(err)
	}
	if err := w.store.Update(w.Context(), d); err != nil {
		w.Fatal(err)
	}
}

// domain returns what the store has.
func (w *world) domain() *keystore.Domain {
	w.Helper()
	d, err := w.store.Domain(w.Context(), theDomain)
	if err != nil {
		w.Fatal(err)
	}
	return d
}

// key returns a key as the store has it.
func (w *world) key(selector string) *keystore.Key {
	w.Helper()
	k := w.domain().Key(selector)
	if k == nil {
		w.Fatalf("there is no key %s", selector)
	}
	return k
}

// value is the record that a key should have.
func (w *world) value(selector string) string {
	w.Helper()
	return value(w.key(selector))
}

// keep has a new keeper take the steps of the domain.
func (w *world) keep() *Result {
	w.Helper()
	r, err := w.keeper().Keep(w.Context(), theDomain)
	if err != nil {
		w.Fatal(err)
	}
	return r
}

// states is "a active, b pending", with those who may read it in mind.
func (w *world) states() string {
	w.Helper()
	text := ""
	for i, k := range w.domain().Keys {
		if i > 0 {
			text += ", "
		}
		text += k.Selector + " " + string(k.State)
	}
	return text
}

// want fails the test if the keys are not in these states.
func (w *world) want(states string) {
	w.Helper()
	if got := w.states(); got != states {
		w.Fatalf("keys: %s; want %s", got, states)
	}
}

// brief is steps in few words: "activate b; retire a".
func brief(steps []keystore.Step) string {
	text := ""
	for i, s := range steps {
		if i > 0 {
			text += "; "
		}
		text += string(s.Action) + " " + s.Selector
	}
	return text
}
