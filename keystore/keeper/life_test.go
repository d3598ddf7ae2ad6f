package keeper

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"waxseal/keystore"
	"waxseal/keystore/dns"
)

// A key's whole life, step by step.
func TestLife(t *testing.T) {
	w := newWorld(t)
	w.add("a")
	a := dns.Name("a", theDomain)
	full := w.value("a")

	w.dns.lag = true
	if got := brief(w.keep().Taken); got != "publish a" {
		t.Errorf("first: %s", got)
	}
	if !w.dns.shows(a, "") && w.dns.has(a) != full {
		t.Errorf("the primary has %q", w.dns.has(a))
	}
	w.now = w.now.Add(24 * time.Hour)
	if r := w.keep(); len(r.Taken) > 0 || r.Sights["a"].State != keystore.Different {
		t.Errorf("while one server does not have the record: %s, %v", brief(r.Taken), r.Sights)
	}
	w.dns.catchUp()
	w.dns.lag = false
	if got := brief(w.keep().Taken); got != "observe a" {
		t.Errorf("when every server has it: %s", got)
	}
	w.now = w.now.Add(2 * time.Hour)
	if r := w.keep(); len(r.Taken) > 0 || brief(r.Open) != "wait a" {
		t.Errorf("before the negative TTL has passed: %s, open %s", brief(r.Taken), brief(r.Open))
	}
	w.now = w.now.Add(time.Second)
	if got := brief(w.keep().Taken); got != "activate a" {
		t.Errorf("after it: %s", got)
	}

	w.add("b")
	w.keep()
	w.want("a active, b pending")
	w.now = w.now.Add(2*time.Hour + time.Second)
	w.keep()
	w.want("a retired, b active")
	for _, name := range []string{"a", "b"} {
		if !w.dns.shows(dns.Name(name, theDomain), w.value(name)) {
			t.Errorf("in the overlap the record of %s is not there", name)
		}
	}
	w.now = w.now.Add(keystore.Grace - time.Second)
	w.keep()
	w.want("a retired, b active")
	w.now = w.now.Add(time.Second)
	if got := brief(w.keep().Taken); got != "revoke a; publish a" {
		t.Errorf("after the grace period: %s", got)
	}
	if got := w.dns.has(a); !strings.HasSuffix(got, "p=") {
		t.Errorf("record of the revoked key: %q", got)
	}
	w.now = w.now.Add(keystore.Grace)
	if got := brief(w.keep().Taken); got != "remove a; withdraw a" {
		t.Errorf("after another: %s", got)
	}
	if got := brief(w.keep().Taken); got != "observe a" {
		t.Errorf("when its record is gone: %s", got)
	}
	if k := w.key("a"); w.dns.has(a) != "" || k.Load != nil || k.Withdrawn.IsZero() {
		t.Errorf("the removed key has a record %q or a private half, or %v", w.dns.has(a), k.Withdrawn)
	}
	asked := w.dns.asked
	w.keep()
	if w.dns.asked != asked+1 {
		t.Errorf("%d questions, want one about b alone", w.dns.asked-asked)
	}
	var story []string
	for _, e := range w.domain().History {
		if e.Selector == "a" {
			story = append(story, string(e.What))
		}
	}
	if got, want := strings.Join(story, " "), "created published seen activated retired revoked removed withdrawn"; got != want {
		t.Errorf("history %s, want %s", got, want)
	}
	if len(w.notices) != 0 {
		t.Errorf("somebody was told: %v", w.notices)
	}
}

// Without a publisher an administrator does it all.
func TestLifeByHand(t *testing.T) {
	w := newWorld(t).byHand()
	w.add("a")
	a := dns.Name("a", theDomain)
	told := func(want int, text, record string) {
		t.Helper()
		if len(w.notices) != want {
			t.Fatalf("%d notices, want %d: %v", len(w.notices), want, w.notices)
		}
		if n := w.notices[want-1]; n.Alarm || !strings.Contains(n.Text, text) || n.Name != a || n.Record != record || n.Selector != "a" || n.Domain != theDomain {
			t.Errorf("notice %+v, want %q and record %q", n, text, record)
		}
	}
	w.keep()
	full := w.value("a")
	told(1, "publish its record", full)
	w.dns.set(a, full)
	w.keep()
	w.now = w.now.Add(3 * time.Hour)
	w.keep()
	w.want("a active")
	w.add("b")
	w.dns.set(dns.Name("b", theDomain), w.value("b"))
	w.keep()
	w.now = w.now.Add(3 * time.Hour)
	w.keep()
	w.want("a retired, b active")
	w.now = w.now.Add(keystore.Grace)
	w.keep()
	told(2, "empty p=", "v=DKIM1; k=ed25519; p=")
	w.dns.set(a, w.value("a"))
	w.now = w.now.Add(keystore.Grace)
	w.keep()
	told(3, "may be deleted", "")
	w.dns.set(a, "")
	w.keep()
	if w.key("a").Withdrawn.IsZero() {
		t.Error("the record is gone, and nobody noted it")
	}
	w.now = w.now.Add(90 * 24 * time.Hour)
	w.keep()
	told(3, "", "")
}

// Notices are for people: the same thing is told once a week, whatever keepers
// there are, and an alarm once a day.
func TestNoticesAreToldOnce(t *testing.T) {
	w := newWorld(t).byHand()
	w.add("a")
	first, second := w.keeper(), w.keeper()
	for range 3 {
		for _, k := range []*Keeper{first, second, w.keeper()} {
			if _, err := k.Keep(t.Context(), theDomain); err != nil {
				t.Fatal(err)
			}
		}
	}
	if len(w.notices) != 1 {
		t.Fatalf("%d notices, want 1: %v", len(w.notices), w.notices)
	}
	w.now = w.now.Add(askAgain)
	w.keep()
	if len(w.notices) != 2 {
		t.Fatalf("%d notices a week later, want 2", len(w.notices))
	}
	w.notices = nil
	w.addActive("b")
	w.dns.set(dns.Name("b", theDomain), "", 1)
	for range 3 {
		w.keep()
	}
	alarms := 0
	for _, n := range w.notices {
		if n.Alarm {
			alarms++
			if !strings.Contains(n.Message(), "Alarm for key b of example.com") || !strings.Contains(n.Message(), w.value("b")) {
				t.Errorf("the alarm says %q", n.Message())
			}
		}
	}
	if alarms != 1 {
		t.Errorf("%d alarms, want 1: %v", alarms, w.notices)
	}
	w.notices = nil
	w.now = w.now.Add(alarmAgain)
	w.keep()
	if len(w.notices) != 1 || !w.notices[0].Alarm {
		t.Errorf("a day later: %v", w.notices)
	}
}

// What goes on for long is told now and then for as long, and fills no store.
func TestTroubleThatLasts(t *testing.T) {
	w := newWorld(t).byHand()
	w.addActive("a")
	w.dns.set(dns.Name("a", theDomain), "")
	for range 3 * 365 {
		w.keep()
		w.now = w.now.Add(24 * time.Hour)
	}
	last := w.domain().History[len(w.domain().History)-1]
	if age := w.now.Sub(last.Time); last.What != keystore.WasTold || age > 60*24*time.Hour {
		t.Errorf("the last that was told is %v old", age)
	}
	if n := len(w.domain().History); n > 120 {
		t.Errorf("%d events in three years", n)
	}
}

func TestUnusablePrivateHalf(t *testing.T) {
	other := newKey(t, "x", keystore.Ed25519)
	for name, load := range map[string]func(context.Context) (crypto.Signer, error){
		"unreadable":      func(context.Context) (crypto.Signer, error) { return nil, errors.New("permission denied") },
		"of another key":  other.Load,
		"not there":       nil,
		"gone since seen": func(context.Context) (crypto.Signer, error) { return nil, errors.New("no such file") },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.addActive("a")
			w.add("b")
			w.keep()
			w.now = w.now.Add(24 * time.Hour)
			w.store.domains[theDomain].Key("b").Load = load
			r := w.keep()
			w.want("a active, b pending")
			if r.Sights["b"].State != keystore.Unknown || !strings.Contains(r.Sights["b"].Detail, "private half cannot be used") {
				t.Errorf("sight %+v", r.Sights["b"])
			}
			if len(w.notices) != 1 || !w.notices[0].Alarm || !strings.Contains(w.notices[0].Text, "private half cannot be used") {
				t.Errorf("an administrator is told %v", w.notices)
			}
		})
	}
}

// Another keeper takes the step first.
func TestConflict(t *testing.T) {
	w := newWorld(t)
	w.add("a")
	other := newWorld(t)
	other.store, other.dns = w.store, w.dns
	other.options.Check = w.dns.Check
	other.options.Publisher = w.options.Publisher
	races := 0
	w.store.before = func(what string) error {
		if what == "update" && races < 3 {
			races++
			h := w.store.before
			w.store.before = nil
			other.now = w.now
			other.change(func(d *keystore.Domain) error {
				d.Keys[0].Note = fmt.Sprint("changed by ann ", races)
				return nil
			})
			w.store.before = h
		}
		return nil
	}
	w.keep()
	if k := w.key("a"); races != 3 || k.Seen.IsZero() || k.Note != "changed by ann 3" {
		t.Errorf("after %d races: %+v", races, k)
	}

	w.store.before = func(what string) error {
		if what == "update" {
			return fmt.Errorf("domain: %w", keystore.ErrConflict)
		}
		return nil
	}
	w.add2(t)
	if _, err := w.keeper().Keep(t.Context(), theDomain); !errors.Is(err, keystore.ErrConflict) {
		t.Errorf("conflicts without end: error %v", err)
	}
	if _, err := w.keeper().Rotate(t.Context(), theDomain, true, "stolen"); !errors.Is(err, keystore.ErrConflict) {
		t.Errorf("rotation with conflicts without end: error %v", err)
	}
}

// add2 adds an active key b, past the hooks of the store.
func (w *world) add2(t *testing.T) {
	t.Helper()
	h := w.store.before
	w.store.before = nil
	w.addActive("b")
	w.add("c")
	w.store.before = h
}

func TestRotate(t *testing.T) {
	w := newWorld(t)
	k := w.keeper()
	if _, err := k.Rotate(t.Context(), theDomain, false, ""); !errors.Is(err, keystore.ErrNotFound) {
		t.Errorf("a domain of nobody: %v", err)
	}
	w.add("p")
	if _, err := k.Rotate(t.Context(), theDomain, false, ""); !errors.Is(err, ErrNoKey) {
		t.Errorf("a domain without a key that signs: %v", err)
	}
	w.change(func(d *keystore.Domain) error { return d.Remove("p", keystore.Warrant{Now: w.now}) })
	w.addActive("a")
	made, err := k.Rotate(t.Context(), theDomain, false, "the yearly one")
	if err != nil || len(made) != 1 || made[0] != "2026a" {
		t.Fatalf("made %q, %v", made, err)
	}
	if is := w.key("2026a"); is.Urgent || is.Reason != "the yearly one" || is.Algorithm != keystore.Ed25519 {
		t.Errorf("the successor: %+v", is)
	}
	if made, err := k.Rotate(t.Context(), theDomain, false, ""); err == nil || len(made) > 0 {
		t.Errorf("a second rotation before the first is over: %q, %v", made, err)
	}
	w.keep()
	w.now = w.now.Add(3 * time.Hour)
	w.keep()
	w.want("p removed, a retired, 2026a active")

	// While a rotation is under way, the key is stolen.
	if _, err := k.Rotate(t.Context(), theDomain, false, ""); err != nil {
		t.Fatal(err)
	}
	w.dns.lag = true
	made, err = k.Rotate(t.Context(), theDomain, true, "a laptop was stolen")
	if err != nil || len(made) != 1 || made[0] != "2026c" || !w.key("2026c").Urgent {
		t.Fatalf("made %q, %v", made, err)
	}
	w.keep()
	w.want("p removed, a retired, 2026a active, 2026b pending, 2026c pending")
	w.dns.catchUp()
	if got := brief(w.keep().Taken); got != "observe 2026b; observe 2026c; activate 2026c; revoke a; revoke 2026a; revoke 2026b; publish a; publish 2026a; publish 2026b" {
		t.Errorf("when the new key is seen: %s", got)
	}
	w.want("p removed, a revoked, 2026a revoked, 2026b revoked, 2026c active")
	for _, selector := range []string{"a", "2026a", "2026b"} {
		if got := w.dns.has(dns.Name(selector, theDomain)); !strings.HasSuffix(got, "p=") {
			t.Errorf("record of %s: %q", selector, got)
		}
	}
	for _, e := range w.domain().History {
		if e.What == keystore.WasRevoked && (!e.Forced || !strings.Contains(e.Reason, "compromised")) {
			t.Errorf("event %+v", e)
		}
	}
}

// The daemon's keeper writes while an administrator rotates.
func TestRotateTriesAgain(t *testing.T) {
	w := newWorld(t)
	w.addActive("a")
	done := false
	w.store.before = func(what string) error {
		if what == "update" && !done {
			done = true
			return fmt.Errorf("domain: %w", keystore.ErrConflict)
		}
		return nil
	}
	if made, err := w.keeper().Rotate(t.Context(), theDomain, true, "stolen"); err != nil || len(made) != 1 {
		t.Errorf("made %q, %v", made, err)
	}
	w.want("a active, 2026a pending")
}

func TestRotateEvery(t *testing.T) {
	const day = 24 * time.Hour
	w := newWorld(t).rules(keystore.Rules{RotateEvery: 30 * day, RotateLead: 2 * day, Grace: 5 * day})
	w.addActive("a")
	for range 365 {
		w.keep()
		if n := len(signs(w.domain())); n != 1 {
			t.Fatalf("%d keys sign", n)
		}
		w.now = w.now.Add(day)
	}
	if n := len(w.domain().Keys); n < 12 || n > 13 {
		t.Errorf("%d keys in a year, want 12 or 13", n)
	}
	for i, k := range w.domain().Keys {
		if i < 10 && (k.State != keystore.Removed || k.Withdrawn.IsZero()) {
			t.Errorf("key %d is %s, withdrawn %v", i, k.State, k.Withdrawn)
		}
	}
}

// makingStore makes the keys itself.
type makingStore struct {
	keystore.Store
	made map[string]crypto.Signer // by selector
	err  error
}

func (s *makingStore) Generate(_ context.Context, domain, selector string, algorithm keystore.Algorithm) (crypto.Signer, error) {
	if s.err != nil {
		return nil, s.err
	}
	key, err := keystore.Generate(algorithm)
	s.made[selector+"."+domain] = key
	return key, err
}

func TestStoreMakesTheKeyOfARotation(t *testing.T) {
	w := newWorld(t)
	w.addActive("a")
	store := &makingStore{Store: w.store, made: map[string]crypto.Signer{}}
	k := New(store, w.options)
	store.err = errors.New("vault says no")
	if made, err := k.Rotate(t.Context(), theDomain, false, ""); !errors.Is(err, store.err) || len(made) != 0 {
		t.Errorf("made %q, %v", made, err)
	}
	w.want("a active")
	store.err = nil
	if _, err := k.Rotate(t.Context(), theDomain, false, ""); err != nil {
		t.Fatal(err)
	}
	key, ok := store.made["2026a."+theDomain]
	if !ok {
		t.Fatalf("the store made %v", store.made)
	}
	if err := keystore.SelfTest(key, w.key("2026a").Public); err != nil {
		t.Errorf("the new row is not of the store's key: %v", err)
	}
}

// A plan is looked at and not taken.
func TestPlanChangesNothing(t *testing.T) {
	w := newWorld(t).rules(keystore.Rules{RotateEvery: time.Hour})
	w.addActive("a")
	w.add("b")
	w.now = w.now.Add(24 * time.Hour)
	before, updates := w.domain(), w.store.updates
	r, err := w.keeper().Plan(t.Context(), theDomain)
	if err != nil {
		t.Fatal(err)
	}
	if got := brief(r.Open); got != "publish b; wait b" || len(r.Taken) > 0 {
		t.Errorf("plan %s, taken %s", got, brief(r.Taken))
	}
	if w.store.updates != updates || w.domain().Version != before.Version || w.dns.has(dns.Name("b", theDomain)) != "" || len(w.notices) > 0 {
		t.Error("something changed")
	}
	if _, err := w.keeper().Plan(t.Context(), "example.net"); !errors.Is(err, keystore.ErrNotFound) {
		t.Errorf("a domain of nobody: %v", err)
	}
}

// What keeps a key in a slot from signing may be the CNAME, which is not ours.
func TestOwnerIsAskedForTheCNAME(t *testing.T) {
	w := newWorld(t)
	w.change(func(d *keystore.Domain) error {
		d.Slots = []keystore.Slot{{Selector: "s1", Target: "s1.example.com.dkim.example.net"}}
		return nil
	})
	w.add("s1")
	asked := func() string {
		var texts []string
		for _, s := range w.keep().Open {
			if s.Action == keystore.Ask {
				texts = append(texts, s.Because)
			}
		}
		return strings.Join(texts, "; ")
	}
	if got := asked(); got != "" {
		t.Errorf("asked at once for %q", got)
	}
	w.now = w.now.Add(time.Hour)
	if got, want := asked(), "the owner of example.com has to set s1._domainkey.example.com. IN CNAME s1.example.com.dkim.example.net."; !strings.Contains(got, want) {
		t.Errorf("asked for %q, want %q", got, want)
	}
	w.dns.alias[dns.Name("s1", theDomain)] = "s1.example.com.dkim.example.net"
	if got := asked(); got != "" {
		t.Errorf("when it is there, asked for %q", got)
	}
}

// That the record of a stolen key was replaced is what everybody waits for.
func TestRepeatedPublicationIsTaken(t *testing.T) {
	w := newWorld(t)
	w.addActive("a")
	w.keep()
	w.change(func(d *keystore.Domain) error {
		return d.Revoke("a", keystore.Warrant{Now: w.now, Force: true, Reason: "stolen"})
	})
	w.dns.lag = true
	n := 0
	for _, s := range w.keep().Taken {
		if s.Action == keystore.Publish && s.Selector == "a" {
			n++
		}
	}
	if n != 1 {
		t.Errorf("told %d times that the record was published, want once", n)
	}
}

// The name stands once in an error that has it already.
func TestErrorOfAPublisher(t *testing.T) {
	w := newWorld(t)
	w.add("a")
	w.options.Publisher = func(string) (dns.Publisher, time.Duration) {
		return &dns.Hook{Command: []string{"/bin/false"}}, time.Hour
	}
	_, err := w.keeper().Keep(t.Context(), theDomain)
	if err == nil || strings.Count(err.Error(), dns.Name("a", theDomain)) != 1 {
		t.Errorf("got %v, want an error with the name once", err)
	}
}
