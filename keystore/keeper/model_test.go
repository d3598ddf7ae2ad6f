package keeper

import (
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"waxseal/keystore"
	"waxseal/keystore/dns"
)

var (
	modelSeed      = flag.Uint64("model.seed", 0, "run this sequence of the model test alone, and show it")
	modelSequences = flag.Uint64("model.sequences", 0, "how many sequences the model test runs")
)

// TestModel runs random sequences of what can happen to two keepers of one
// domain: servers that lag, are down or lose records, clocks that jump, crashes
// before and after every step, the other keeper at work between any two steps,
// rotations and emergencies. After every change of the store, and before every
// change of DNS, it checks the promises of the packages; at the end, with all
// troubles over, it wants every key to come to the end of its life.
func TestModel(t *testing.T) {
	if *modelSeed != 0 {
		m := newModel(t, *modelSeed)
		defer func() { t.Log(m.story()) }()
		m.run()
		return
	}
	n := *modelSequences
	if n == 0 {
		n = 2000
		if testing.Short() || raceDetector {
			n = 100
		}
	}
	first := rand.Uint64N(1 << 40)
	for part := range uint64(2) {
		t.Run(fmt.Sprint(part), func(t *testing.T) {
			t.Parallel()
			runModels(t, first+part*n/2, n/2)
		})
	}
}

func runModels(t *testing.T, first, n uint64) {
	t.Logf("%d sequences, from seed %d", n, first)
	total := map[string]int{}
	for seed := first; seed < first+n; seed++ {
		m := newModel(t, seed)
		m.run()
		for what, n := range m.did {
			total[what] += n
		}
	}
	t.Logf("in all sequences: %v", total)
	for _, what := range []string{"activated", "retired", "revoked", "removed", "withdrawn", "unseen", "crashed", "interrupted", "slot used again"} {
		if total[what] == 0 && n >= 1000 {
			t.Errorf("no key was %s: the sequences are too tame", what)
		}
	}
}

const (
	modelGrace    = 10 * time.Hour
	modelTTL      = time.Hour
	modelNegative = 2 * time.Hour
)

// model is one sequence.
type model struct {
	*testing.T
	seed  uint64
	rng   *rand.Rand
	lines []string // what happened
	did   map[string]int

	now    time.Time // that of the world
	ahead  [2]time.Duration
	keeper [2]*Keeper
	acting int // the keeper at work

	store  *memory
	dns    *fakeDNS
	rules  keystore.Rules
	byHand bool
	slots  bool

	blows  int  // steps until something happens to the keeper at work; 0: nothing will
	nested bool // the other keeper works between two steps of this one
	raced  bool

	facts map[string]*fact // by public key
}

// fact is what is true of a key.
type fact struct {
	selector   string
	shown      time.Time // since when every server shows its record; zero: not all do
	seen       moment    // when that was noted
	broken     bool      // it was not shown all the time since
	retired    moment
	revoked    moment
	wasRevoked bool
}

// restored puts back the records of keys that mail needs and that somebody seems
// to have revoked, which is for an administrator to decide.
func (m *model) restored() {
	d := m.current()
	for i := range d.Keys {
		name, _ := recordName(d, d.Keys[i].Selector)
		if s := d.Keys[i].State; s == keystore.Active || s == keystore.Retired {
			m.dns.set(name, value(&d.Keys[i]))
		}
	}
}

// noted checks that a keeper that nothing disturbed has noted what is not shown.
func (m *model) noted() {
	d := m.current()
	for i := range d.Keys {
		if k := &d.Keys[i]; k.State == keystore.Pending && !k.Seen.IsZero() && !slices.Contains(m.dns.down, true) && !m.shown(d, k) {
			m.broken("%s is not shown, and still noted as seen", k.Selector)
		}
	}
}

// moment is a time of the world and how far the clock of the keeper was ahead.
type moment struct {
	at    time.Time
	ahead time.Duration
}

// crash is what a keeper dies of.
type crash struct{}

func newModel(t *testing.T, seed uint64) *model {
	m := &model{
		T: t, seed: seed, rng: rand.New(rand.NewPCG(seed, 1)), now: noon, did: map[string]int{},
		store: newMemory(), facts: map[string]*fact{},
	}
	m.dns = newDNS(2 + m.rng.IntN(2))
	m.dns.ttl, m.dns.negative = modelTTL, modelNegative
	m.dns.before, m.dns.after = m.step, m.step
	m.dns.published = m.publishing
	m.byHand, m.slots = m.chance(4), m.chance(3)
	m.rules = keystore.Rules{Grace: modelGrace, RotateEvery: 30 * time.Hour, RotateLead: 6 * time.Hour}
	m.store.updated = m.updated
	d := &keystore.Domain{Name: theDomain}
	if m.slots {
		for i := range 2 + m.rng.IntN(3) {
			s := fmt.Sprintf("s%d", i+1)
			d.Slots = append(d.Slots, keystore.Slot{Selector: s, Target: s + ".dkim.example.net"})
			m.dns.alias[dns.Name(s, theDomain)] = s + ".dkim.example.net"
		}
	}
	selector, _ := d.NextSelector(m.now, 0)
	if err := d.Add(newKey(t, selector, keystore.Ed25519), keystore.Warrant{Now: m.now}); err != nil {
		t.Fatal(err)
	}
	if err := m.store.Update(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	m.store.before, m.store.after = m.step, m.step
	m.restart(0)
	m.restart(1)
	return m
}

func (m *model) chance(oneIn int) bool { return m.rng.IntN(oneIn) == 0 }

func (m *model) say(format string, args ...any) {
	m.lines = append(m.lines, m.now.Sub(noon).String()+": "+fmt.Sprintf(format, args...))
}

func (m *model) story() string {
	return fmt.Sprintf("by hand %v, slots %v\n%s", m.byHand, m.slots, strings.Join(m.lines, "\n"))
}

// broken ends the test with what led there.
func (m *model) broken(format string, args ...any) {
	m.Helper()
	m.Fatalf("%s\nRun it again with: go test ./keystore/keeper -run TestModel -model.seed %d\n%s", fmt.Sprintf(format, args...), m.seed, m.story())
}

// restart puts a new keeper in the place of one that died.
func (m *model) restart(i int) {
	o := Options{
		Check: m.dns.Check, By: fmt.Sprintf("keeper%d", i),
		Rules: func(string) keystore.Rules { return m.rules },
		Now:   func() time.Time { return m.now.Add(m.ahead[i]) },
	}
	if !m.byHand {
		o.Publisher = func(string) (dns.Publisher, time.Duration) { return m.dns, modelTTL }
	}
	m.keeper[i] = New(m.store, o)
}

// work lets one keeper do something, and survive its crash.
func (m *model) work(i int, what string, do func(*Keeper) error) {
	before := m.acting
	m.acting = i
	defer func() {
		m.acting = before
		if r := recover(); r != nil {
			if _, ok := r.(crash); !ok {
				panic(r)
			}
			m.say("keeper %d crashed", i)
			m.did["crashed"]++
			m.restart(i)
		}
	}()
	m.say("keeper %d, ahead by %v: %s", i, m.ahead[i], what)
	if err := do(m.keeper[i]); err != nil {
		m.say("keeper %d: %v", i, err)
	}
}

func (m *model) keep(i int) {
	m.work(i, "keeps", func(k *Keeper) error {
		_, err := k.Keep(m.Context(), theDomain)
		return err
	})
}

// step is called before and after whatever a keeper does to the store and to
// DNS.
func (m *model) step(what string) error {
	m.refresh()
	if m.blows == 0 {
		return nil
	}
	if m.blows--; m.blows > 0 {
		return nil
	}
	switch kind := m.rng.IntN(4); {
	case kind == 0:
		m.say("%s of keeper %d fails", what, m.acting)
		return errors.New("trouble of the model")
	case kind == 1 || m.nested:
		m.say("keeper %d dies near %s", m.acting, what)
		panic(crash{})
	default:
		m.say("between two steps of keeper %d (%s):", m.acting, what)
		m.did["interrupted"]++
		m.nested, m.raced = true, true
		m.blows = m.rng.IntN(12)
		m.keep(1 - m.acting)
		m.nested, m.blows = false, 0
	}
	return nil
}

func (m *model) run() {
	for range 40 + m.rng.IntN(80) {
		m.turn()
		m.refresh()
	}
	m.end()
}

// turn is one thing that happens.
func (m *model) turn() {
	pick := func(ds ...time.Duration) time.Duration { return ds[m.rng.IntN(len(ds))] }
	switch n := m.rng.IntN(100); {
	case n < 40:
		m.blows, m.raced = 0, false
		if m.chance(2) {
			m.blows = 1 + m.rng.IntN(16)
		}
		undisturbed := m.blows == 0
		m.keep(m.rng.IntN(2))
		m.blows = 0
		if undisturbed {
			m.noted()
		}
	case n < 70:
		m.now = m.now.Add(pick(time.Second, time.Minute, time.Hour, 4*time.Hour, 6*time.Hour, modelGrace))
	case n < 76:
		m.catchUp(m.rng.IntN(len(m.dns.servers)))
	case n < 79:
		m.dns.lag = !m.dns.lag
		m.say("changes reach the primary alone: %v", m.dns.lag)
	case n < 85 && m.byHand:
		m.administrator()
	case n < 89:
		i := m.rng.IntN(2)
		m.ahead[i] = pick(0, 0, 0, time.Minute, -time.Minute, 3*time.Hour, -3*time.Hour, 30*time.Hour, -30*time.Hour)
	case n < 92:
		i := m.rng.IntN(len(m.dns.down))
		m.dns.down[i] = !m.dns.down[i]
		m.say("server %d down: %v", i, m.dns.down[i])
	case n < 95:
		m.spoil()
	case n < 98:
		m.work(m.rng.IntN(2), "rotates", func(k *Keeper) error {
			_, err := k.Rotate(m.Context(), theDomain, false, "asked for")
			return err
		})
	case n < 99:
		m.work(m.rng.IntN(2), "rotates in an emergency", func(k *Keeper) error {
			_, err := k.Rotate(m.Context(), theDomain, true, "stolen")
			return err
		})
	}
}

// catchUp gives a server what the primary has.
func (m *model) catchUp(server int) {
	for name, v := range m.dns.servers[0] {
		m.dns.set(name, v, server)
	}
	for name := range m.dns.servers[server] {
		m.dns.set(name, m.dns.servers[0][name], server)
	}
	m.say("server %d has what the primary has", server)
}

// current returns the domain as it is.
func (m *model) current() *keystore.Domain {
	m.store.mu.Lock()
	defer m.store.mu.Unlock()
	return m.store.domains[theDomain]
}

// administrator does what he was asked for.
func (m *model) administrator() {
	d := m.current()
	var servers []int // all
	if m.dns.lag {
		servers = []int{0}
	}
	for i := range d.Keys {
		name, slot := recordName(d, d.Keys[i].Selector)
		if !slot || d.Keys[i].State != keystore.Removed {
			m.dns.set(name, value(&d.Keys[i]), servers...)
		}
	}
	m.say("the administrator does his work")
}

// spoil loses or exchanges a record on one server.
func (m *model) spoil() {
	d := m.current()
	k := &d.Keys[m.rng.IntN(len(d.Keys))]
	name, _ := recordName(d, k.Selector)
	server := m.rng.IntN(len(m.dns.servers))
	wrong := []string{"", "v=DKIM1; p=", "nonsense", "v=DKIM1; k=ed25519; p=" + strings.Repeat("A", 43) + "="}[m.rng.IntN(4)]
	m.dns.set(name, wrong, server)
	m.say("server %d has %q for %s", server, wrong, k.Selector)
}

// refresh looks at what the world can see.
func (m *model) refresh() {
	d := m.current()
	for i := range d.Keys {
		k := &d.Keys[i]
		f := m.fact(k)
		switch {
		case !m.shown(d, k):
			f.shown, f.broken = time.Time{}, true
		case f.shown.IsZero():
			f.shown = m.now
		}
	}
}

func (m *model) fact(k *keystore.Key) *fact {
	f := m.facts[string(k.Public)]
	if f == nil {
		f = &fact{selector: k.Selector}
		m.facts[string(k.Public)] = f
	}
	return f
}

// shown reports whether every server shows the key as long as it is good.
func (m *model) shown(d *keystore.Domain, k *keystore.Key) bool {
	name, _ := recordName(d, k.Selector)
	return m.dns.shows(name, full(k))
}

// full is the record of a key that is not revoked.
func full(k *keystore.Key) string {
	good := *k
	good.State = keystore.Active
	return value(&good)
}

// passed is the time since a moment by the clocks of the keepers, to the second.
func (m *model) passed(since moment) time.Duration {
	return m.now.Sub(since.at) + m.ahead[m.acting] - since.ahead + time.Second
}

func (m *model) moment() moment { return moment{m.now, m.ahead[m.acting]} }

// updated checks every change of the store.
func (m *model) updated(old, d *keystore.Domain) {
	if old == nil {
		return
	}
	for i, e := range d.History {
		if i < len(old.History) && e != old.History[i] {
			m.broken("event %d of the history became another", i)
		}
		if i >= len(old.History) {
			m.say("  %s %s (%s)", e.What, e.Selector, e.Reason)
			m.did[string(e.What)]++
		}
	}
	if len(d.History) < len(old.History) || len(d.History) > 3000 {
		m.broken("history of %d events, before %d", len(d.History), len(old.History))
	}
	pending, was, is := 0, 0, 0
	for i := range d.Keys {
		k := &d.Keys[i]
		before := old.Key(k.Selector)
		switch {
		case before == nil:
			for _, f := range m.facts {
				if f.selector == k.Selector {
					m.broken("the selector %s was used before", k.Selector)
				}
			}
			before = &keystore.Key{State: keystore.Pending}
		case string(before.Public) != string(k.Public):
			m.slotUsedAgain(d, before)
			before = &keystore.Key{State: keystore.Pending}
		}
		m.changed(d, before, k)
		if k.State == keystore.Pending && !k.Urgent {
			pending++
		}
		if k.State == keystore.Active {
			is++
		}
	}
	for i := range old.Keys {
		if old.Keys[i].State == keystore.Active {
			was++
		}
	}
	if was > 0 && is == 0 {
		m.broken("no key signs any more")
	}
	if pending > 1 {
		m.broken("%d keys are pending", pending)
	}
}

// changed checks the steps of one key.
func (m *model) changed(d *keystore.Domain, before, k *keystore.Key) {
	f := m.fact(k)
	if k.State == keystore.Pending && !k.Seen.IsZero() && !k.Seen.Equal(before.Seen) || k.State == keystore.Active && before.Seen.IsZero() {
		if !m.shown(d, k) {
			m.broken("%s was noted as seen, and is not", k.Selector)
		}
		f.seen, f.broken = m.moment(), false
	}
	if before.State == k.State {
		return
	}
	switch k.State {
	case keystore.Active:
		if before.State != keystore.Pending || !m.shown(d, k) {
			m.broken("%s signs from %s on, shown %v", k.Selector, before.State, m.shown(d, k))
		}
		if waited := m.passed(f.seen); !k.Urgent && waited < modelNegative {
			m.broken("%s signs %v after it was seen", k.Selector, waited)
		}
		if !f.broken && !k.Urgent && f.shown.After(f.seen.at) {
			m.broken("%s was seen at %v, before it was shown at %v", k.Selector, f.seen.at, f.shown)
		}
	case keystore.Retired:
		f.retired = m.moment()
		if before.State != keystore.Active {
			m.broken("%s retired from %s", k.Selector, before.State)
		}
	case keystore.Revoked:
		f.revoked = m.moment()
		f.wasRevoked = true
		emergency := slices.ContainsFunc(d.Keys, func(k keystore.Key) bool { return k.Urgent && k.State == keystore.Active })
		if early := before.State != keystore.Retired || m.passed(f.retired) < modelGrace; early && !emergency {
			m.broken("%s revoked from %s, without need, %v after it retired", k.Selector, before.State, m.passed(f.retired))
		}
	case keystore.Removed:
		if before.State != keystore.Revoked || m.passed(f.revoked) < modelGrace {
			m.broken("%s removed from %s, %v after it was revoked", k.Selector, before.State, m.passed(f.revoked))
		}
		if _, slot := d.Slot(k.Selector); slot && m.shown(d, k) {
			m.broken("%s removed while its record is there", k.Selector)
		}
	default:
		m.broken("%s went from %s to %s", k.Selector, before.State, k.State)
	}
}

func (m *model) slotUsedAgain(d *keystore.Domain, before *keystore.Key) {
	f := m.fact(before)
	m.did["slot used again"]++
	if _, slot := d.Slot(before.Selector); !slot || before.State != keystore.Removed || !f.wasRevoked {
		m.broken("the selector %s names another key, and the one before was %s", before.Selector, before.State)
	}
	if passed := m.passed(f.revoked); !before.Activated.IsZero() && passed < modelGrace {
		m.broken("the slot %s used again %v after it was revoked", before.Selector, passed)
	}
}

// publishing checks a change of DNS.
func (m *model) publishing(c *dns.Change) {
	d := m.current()
	k := d.Key(c.Selector)
	name, _ := recordName(d, c.Selector)
	m.say("  published for %s, which is %s: %q", c.Selector, k.State, c.Record)
	switch record := c.Record; {
	case c.Name != name:
		m.broken("published at %s, want %s", c.Name, name)
	case record == "" && k.State != keystore.Removed:
		m.broken("the record of %s was withdrawn, and it is %s", c.Selector, k.State)
	case strings.HasSuffix(record, "p=") && k.State != keystore.Revoked && k.State != keystore.Removed:
		m.broken("the record of %s was revoked, and it is %s", c.Selector, k.State)
	case record == full(k) && strings.HasSuffix(m.dns.has(name), "p=") && (k.State == keystore.Active || k.State == keystore.Retired) && m.dns.shows(name, m.dns.has(name)) && !m.raced:
		m.broken("the record of %s was published again, which somebody has revoked", c.Selector)
	case record == full(k) && (k.State == keystore.Revoked || k.State == keystore.Removed) && !m.raced:
		m.broken("the record of %s was published, and it is %s", c.Selector, k.State)
	case record != "" && !strings.HasSuffix(record, "p=") && record != full(k) && !m.raced:
		m.broken("another record was published for %s", c.Selector)
	}
}

// end ends all troubles, and wants all keys to come to their ends.
func (m *model) end() {
	m.say("all troubles are over")
	m.ahead = [2]time.Duration{}
	m.blows, m.raced = 0, false
	clear(m.dns.down)
	m.rules.RotateEvery = 0
	m.dns.lag = false
	m.restored()
	for range 24 { // some stamps are ahead by 30 hours
		if m.byHand {
			m.administrator()
		}
		for i := range m.dns.servers {
			m.catchUp(i)
		}
		m.keep(m.rng.IntN(2))
		m.now = m.now.Add(4 * time.Hour)
		m.refresh()
	}
	d := m.current()
	if n := len(signs(d)); n != 1 {
		m.broken("%d keys sign at the end", n)
	}
	for i := range d.Keys {
		k := &d.Keys[i]
		_, slot := d.Slot(k.Selector)
		switch {
		case k.State == keystore.Active && !m.shown(d, k):
			m.broken("%s signs at the end, and is not shown", k.Selector)
		case k.State == keystore.Removed && k.Withdrawn.IsZero() && !slot:
			m.broken("the record of %s was not withdrawn at the end", k.Selector)
		case k.State != keystore.Active && k.State != keystore.Removed:
			m.broken("%s is %s at the end", k.Selector, k.State)
		}
	}
}
