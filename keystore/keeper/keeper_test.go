package keeper

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"waxseal/keystore"
	"waxseal/keystore/dns"
)

// put stores a domain with one pending key.
func (w *world) put(name string) {
	w.Helper()
	if err := w.store.Update(w.Context(), &keystore.Domain{Name: name, Keys: []keystore.Key{newKey(w, "a", keystore.Ed25519)}}); err != nil {
		w.Fatal(err)
	}
}

// paged is a store whose lists are shorter than asked for, as they may be.
type paged struct{ *memory }

func (p paged) List(ctx context.Context, after string, limit int) ([]string, error) {
	return p.memory.List(ctx, after, min(limit, 3))
}

func TestRoundTakesAllDomains(t *testing.T) {
	w := newWorld(t)
	for i := range 50 {
		w.put(fmt.Sprintf("d%02d.example", i))
	}
	k := New(paged{w.store}, w.options)
	if err := k.Round(t.Context()); err != nil {
		t.Fatal(err)
	}
	s := k.Stats()
	if s.Domains != 50 || s.Rounds != 1 || s.Failures != 0 || !s.Last.Equal(w.now) || s.Steps[keystore.Publish] != 50 || s.Steps[keystore.Observe] != 50 {
		t.Errorf("%+v", s)
	}
	s.Steps[keystore.Publish] = 0
	if k.Stats().Steps[keystore.Publish] != 50 {
		t.Error("the keeper's own numbers were given away")
	}
}

func TestStats(t *testing.T) {
	w := newWorld(t).byHand().rules(keystore.Rules{RotateEvery: 24 * time.Hour, Named: func(s string) bool { return s == "a" }})
	w.addActive("a")
	w.add("b")
	w.dns.set(dns.Name("a", theDomain), "")
	w.now = w.now.Add(25 * time.Hour)
	k := w.keeper()
	for range 2 {
		if err := k.Round(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	// What is open is counted in each round, told or not.
	if s := k.Stats(); s.Rounds != 2 || s.Domains != 1 || s.Alarms != 1 || s.Asks != 2 || s.Overdue != 1 {
		t.Errorf("%+v", s)
	}
}

// One domain in trouble neither stops the others nor is tried in each round.
func TestTroubleWithOneDomain(t *testing.T) {
	w := newWorld(t)
	w.put("bad.example")
	w.put("good.example")
	w.dns.refuse = func(name string) error {
		if strings.HasSuffix(name, "bad.example") {
			return errors.New("refused")
		}
		return nil
	}
	w.options.Interval = time.Hour
	k := w.keeper()
	var tries []int
	for round := range 60 {
		before := k.Stats().Failures
		if err := k.Round(t.Context()); err != nil {
			t.Fatal(err)
		}
		s := k.Stats()
		if s.Failures > before {
			tries = append(tries, round)
		} else if s.Deferred != 1 {
			t.Errorf("round %d: deferred %d", round, s.Deferred)
		}
		w.now = w.now.Add(time.Hour)
	}
	if want := []int{0, 2, 5, 10, 19, 36, 53}; !slices.Equal(tries, want) {
		t.Errorf("tried in rounds %d, want %d", tries, want)
	}
	w.dns.refuse = nil
	for range maxSkipped + 1 {
		w.now = w.now.Add(time.Hour)
		if err := k.Round(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"good.example", "bad.example"} {
		d, err := w.store.Domain(t.Context(), name)
		if err != nil || len(signs(d)) != 1 {
			t.Errorf("%s has no key that signs: %v", name, err)
		}
	}
	if len(k.backoff.state) > 0 {
		t.Errorf("trouble that is over is remembered: %v", k.backoff.state)
	}
}

// In an emergency nothing is put off.
func TestEmergencyIsNotPutOff(t *testing.T) {
	w := newWorld(t)
	w.addActive("a")
	k := w.keeper()
	if _, err := k.Rotate(t.Context(), theDomain, true, "stolen"); err != nil {
		t.Fatal(err)
	}
	w.dns.fail = errors.New("the primary is down")
	for range 5 {
		if err := k.Round(t.Context()); err != nil {
			t.Fatal(err)
		}
		w.now = w.now.Add(time.Second)
	}
	if s := k.Stats(); s.Failures != 5 || s.Deferred != 0 {
		t.Errorf("%+v", s)
	}
	w.dns.fail = nil
	w.dns.refuse = func(name string) error {
		if strings.HasPrefix(name, "a.") {
			return errors.New("not now")
		}
		return nil
	}
	if err := k.Round(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.want("a revoked, 2026a active")
	w.dns.refuse = nil
	if err := k.Round(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := w.dns.has(dns.Name("a", theDomain)); !strings.HasSuffix(got, "p=") {
		t.Errorf("the stolen key has the record %q", got)
	}
}

func TestRoundFails(t *testing.T) {
	w := newWorld(t)
	w.put("a.example")
	w.store.before = func(what string) error {
		if what == "list" {
			return errors.New("the store is down")
		}
		return nil
	}
	k := w.keeper()
	if err := k.Round(t.Context()); err == nil || k.Stats().Rounds != 0 {
		t.Errorf("error %v, %+v", err, k.Stats())
	}
	w.store.before = nil
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := k.Round(ctx); !errors.Is(err, context.Canceled) || k.Stats().Rounds != 0 || k.Stats().Failures != 0 {
		t.Errorf("error %v, %+v", err, k.Stats())
	}
}

// At most so many domains are worked on at a time.
func TestDomainsAtATime(t *testing.T) {
	w := newWorld(t)
	for i := range 40 {
		w.put(fmt.Sprintf("d%02d.example", i))
	}
	var mu sync.Mutex
	open, most := 0, 0
	check := w.options.Check
	w.options.Check = func(ctx context.Context, name string, want *dns.Record) (*dns.Report, error) {
		mu.Lock()
		open++
		most = max(most, open)
		mu.Unlock()
		defer func() {
			mu.Lock()
			open--
			mu.Unlock()
		}()
		time.Sleep(time.Millisecond)
		return check(ctx, name, want)
	}
	w.options.Domains = 3
	if err := w.keeper().Round(t.Context()); err != nil {
		t.Fatal(err)
	}
	if most != 3 {
		t.Errorf("%d domains at a time, want 3", most)
	}
}

// Run makes a round at once, and the next ones at times that differ.
func TestRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.put("a.example")
		w.options.Now = time.Now
		w.options.Interval = 10 * time.Minute
		var times []time.Time
		check := w.options.Check
		w.options.Check = func(ctx context.Context, name string, want *dns.Record) (*dns.Report, error) {
			if len(times) == 0 || time.Since(times[len(times)-1]) > 0 {
				times = append(times, time.Now())
			}
			return check(ctx, name, want)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		start := time.Now()
		k := w.keeper()
		running.Go(func() { k.Run(ctx) })
		time.Sleep(4 * time.Hour)
		cancel()
		running.Wait()
		if len(times) < 21 || len(times) > 28 || times[0].Sub(start) > time.Minute {
			t.Fatalf("%d rounds in four hours, the first after %v", len(times), times[0].Sub(start))
		}
		pauses := map[time.Duration]bool{}
		for i := range times[1:] {
			pause := times[i+1].Sub(times[i])
			pauses[pause] = true
			if pause < 9*time.Minute || pause > 11*time.Minute {
				t.Errorf("a pause of %v", pause)
			}
		}
		if len(pauses) < 5 {
			t.Errorf("only %d different pauses", len(pauses))
		}
	})
}

// A clock that jumps forward is given a round to be put right before any wait ends
// by it.
func TestAClockThatJumps(t *testing.T) {
	for _, test := range []struct {
		name   string
		jump   time.Duration
		during string // what the store is asked in a round; empty: between two
		back   bool   // it is put right before the round after that
		want   string
	}{
		{"it stays as it is", 0, "", false, "a pending"},
		{"forward, and put right", 2 * time.Hour, "", true, "a pending"},
		{"forward, and that was right", 2 * time.Hour, "", false, "a active"},
		{"forward in the middle of a round, and put right", 2 * time.Hour, "list", true, "a pending"},
		{"forward in the middle of a domain, and put right", 2 * time.Hour, "read", true, "a pending"},
		{"by a few minutes", 4 * time.Minute, "", false, "a pending"},
		{"back", -2 * time.Hour, "", false, "a pending"},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				var jumped atomic.Int64
				w.options.Now = func() time.Time { return time.Now().Add(time.Duration(jumped.Load())) }
				w.options.Interval = 10 * time.Minute
				w.options.Domains = 1
				var log bytes.Buffer
				w.options.Log = slog.New(slog.NewTextHandler(&log, nil))
				w.now = time.Now()
				w.add("a")
				w.dns.set(dns.Name("a", theDomain), w.value("a"))
				w.dns.negative = time.Hour
				w.change(func(d *keystore.Domain) error {
					d.Observe("a", keystore.Sight{At: w.now, State: keystore.Shown, NegativeTTL: time.Hour}, keystore.Warrant{Now: w.now})
					return nil
				})
				var due atomic.Bool
				due.Store(test.during != "")
				w.store.before = func(what string) error {
					if what == test.during && time.Since(w.now) > 5*time.Minute && due.Swap(false) {
						jumped.Store(int64(test.jump))
					}
					return nil
				}
				ctx, cancel := context.WithCancel(t.Context())
				var running sync.WaitGroup
				k := w.keeper()
				running.Go(func() { k.Run(ctx) })
				time.Sleep(5 * time.Minute) // the first round is over
				if test.during == "" {
					jumped.Store(int64(test.jump))
				}
				time.Sleep(10 * time.Minute) // the second is left out
				w.want("a pending")
				if test.back {
					jumped.Store(0)
				}
				time.Sleep(25 * time.Minute)
				cancel()
				running.Wait()
				w.want(test.want)
				if told := strings.Contains(log.String(), "the clock has jumped forward"); told != (test.jump > maxAhead && !(test.during != "" && test.back)) {
					t.Errorf("told: %v\n%s", told, log.String())
				}
			})
		})
	}
}

// A machine that sleeps a while every night misses a round by that, and not all
// of them.
func TestAClockThatJumpsBetweenAllRounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		var slept atomic.Int64
		w.options.Now = func() time.Time { return time.Now().Add(time.Duration(slept.Load())) }
		w.options.Interval = 24 * time.Hour
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		k := w.keeper()
		running.Go(func() { k.Run(ctx) })
		for range 10 {
			time.Sleep(12 * time.Hour)
			slept.Add(int64(time.Hour))
			time.Sleep(11 * time.Hour)
		}
		cancel()
		running.Wait()
		if n := k.Stats().Rounds; n < 8 || n > 12 {
			t.Errorf("%d rounds in ten days", n)
		}
	})
}

// Two keepers work on one store at the same time, in earnest.
func TestKeepersAtOnce(t *testing.T) {
	w := newWorld(t)
	w.byHand()
	for i := range 20 {
		w.put(fmt.Sprintf("d%02d.example", i))
	}
	var rounds sync.WaitGroup
	for range 4 {
		rounds.Go(func() {
			if err := w.keeper().Round(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	rounds.Wait()
	if len(w.notices) != 20 {
		t.Errorf("%d notices, want one for each domain", len(w.notices))
	}
}

// A domain got slots after it had a key: nobody but an administrator can
// publish what that key needs.
func TestKeyBesideTheSlots(t *testing.T) {
	w := newWorld(t)
	w.addActive("old")
	w.options.Publisher = func(name string) (dns.Publisher, time.Duration) {
		if strings.HasSuffix(name, ".dkim.example.net") {
			return w.dns, time.Hour
		}
		return nil, 0
	}
	w.change(func(d *keystore.Domain) error {
		for i := range 2 {
			s := fmt.Sprintf("s%d", i+1)
			d.Slots = append(d.Slots, keystore.Slot{Selector: s, Target: s + ".dkim.example.net"})
			w.dns.alias[dns.Name(s, theDomain)] = s + ".dkim.example.net"
		}
		return nil
	})
	if made, err := w.keeper().Rotate(t.Context(), theDomain, false, ""); err != nil || len(made) != 1 || made[0] != "s1" {
		t.Fatalf("made %q, %v", made, err)
	}
	w.keep()
	w.now = w.now.Add(3 * time.Hour)
	w.keep()
	w.want("old retired, s1 active")
	if got := w.dns.has("s1.dkim.example.net"); got != w.value("s1") {
		t.Errorf("the target of s1 has %q", got)
	}
	w.now = w.now.Add(keystore.Grace)
	w.keep()
	if len(w.notices) != 1 || !strings.Contains(w.notices[0].Text, "empty p=") || w.notices[0].Name != dns.Name("old", theDomain) {
		t.Fatalf("an administrator was told %+v", w.notices)
	}
	w.dns.set(dns.Name("old", theDomain), w.value("old"))
	w.now = w.now.Add(keystore.Grace)
	w.keep()
	if len(w.notices) != 2 || !strings.Contains(w.notices[1].Text, "may be deleted") {
		t.Fatalf("an administrator was told %+v", w.notices)
	}
}

// With two kinds of key and one free slot, one kind goes first and the other
// waits; the rest goes on.
func TestTwoKindsAndOneSlot(t *testing.T) {
	w := newWorld(t).rules(keystore.Rules{RotateEvery: 30 * 24 * time.Hour})
	w.change(func(d *keystore.Domain) error {
		for i := range 3 {
			s := fmt.Sprintf("s%d", i+1)
			d.Slots = append(d.Slots, keystore.Slot{Selector: s, Target: s + ".dkim.example.net"})
			w.dns.alias[dns.Name(s, theDomain)] = s + ".dkim.example.net"
		}
		return errors.Join(
			d.Add(newKey(t, "s1", keystore.RSA2048), keystore.Warrant{Now: w.now}),
			d.Add(newKey(t, "s2", keystore.Ed25519), keystore.Warrant{Now: w.now}))
	})
	w.keep()
	w.now = w.now.Add(3 * time.Hour)
	w.keep()
	w.want("s1 active, s2 active")
	w.now = w.now.Add(30 * 24 * time.Hour)
	w.keep()
	w.want("s1 active, s2 active, s3 pending")
	if made, err := w.keeper().Rotate(t.Context(), theDomain, true, "stolen"); err == nil || len(made) > 0 || !strings.Contains(err.Error(), "slot") {
		t.Errorf("an emergency without a free slot: made %q, %v", made, err)
	}
	for range 20 {
		w.now = w.now.Add(24 * time.Hour)
		w.keep()
	}
	d := w.domain()
	for _, selector := range signs(d) {
		if w.now.Sub(d.Key(selector).Activated) > 25*24*time.Hour {
			t.Errorf("%s signs since %v: %s", selector, d.Key(selector).Activated, w.states())
		}
	}
	if got := len(signs(d)); got != 2 {
		t.Errorf("%s: want two keys that sign", w.states())
	}
}

// Whether a change was made although the store failed after it, it is told and
// counted.
func TestUpdateThatFailsAfterwards(t *testing.T) {
	w := newWorld(t).byHand()
	w.add("a")
	w.store.after = func(what string) error {
		if what == "update" {
			return errors.New("tidying up")
		}
		return nil
	}
	k := w.keeper()
	if _, err := k.Keep(t.Context(), theDomain); err == nil {
		t.Error("no error")
	}
	if len(w.notices) != 1 {
		t.Errorf("told %v", w.notices)
	}
}

// A domain that is gone, and one that DNS does not answer for.
func TestKeepWithoutSight(t *testing.T) {
	w := newWorld(t)
	if _, err := w.keeper().Keep(t.Context(), theDomain); !errors.Is(err, keystore.ErrNotFound) {
		t.Errorf("error %v", err)
	}
	w.add("a")
	w.keep()
	w.now = w.now.Add(3 * time.Hour)
	w.dns.down[1] = true
	if r := w.keep(); brief(r.Open) != "wait a" || r.Sights["a"].State != keystore.Unknown {
		t.Errorf("with one server down: %s, %+v", brief(r.Open), r.Sights)
	}
	w.options.Check = func(context.Context, string, *dns.Record) (*dns.Report, error) {
		return nil, errors.New("no such name")
	}
	if r := w.keep(); brief(r.Open) != "wait a" {
		t.Errorf("without an answer: %s", brief(r.Open))
	}
	w.want("a pending")
}

func TestStopWhenGone(t *testing.T) {
	w := newWorld(t).byHand().rules(keystore.Rules{StopWhenGone: true})
	w.addActive("a")
	w.dns.set(dns.Name("a", theDomain), "v=DKIM1; p=")
	w.keep()
	w.want("a active")
	w.now = w.now.Add(DefaultInterval * 9 / 10) // the shortest time between two rounds
	w.keep()
	w.want("a retired")
	events := w.domain().History
	i := slices.IndexFunc(events, func(e keystore.Event) bool { return e.What == keystore.WasRetired })
	if e := events[i]; !e.Forced || !strings.Contains(e.Reason, "the servers say: revoked") {
		t.Errorf("event %+v", e)
	}
}

// What a slow keeper has read is old when it comes to publish: the key was
// revoked in the meantime.
func TestKeeperThatIsLate(t *testing.T) {
	w := newWorld(t)
	w.addActive("a")
	w.dns.set(dns.Name("a", theDomain), "")
	w.dns.fail = errors.New("down")
	if _, err := w.keeper().Keep(t.Context(), theDomain); err == nil { // the alarm is told
		t.Fatal("no error")
	}
	w.dns.fail = nil
	w.dns.published = func(c *dns.Change) {
		if !strings.HasSuffix(c.Record, "p=") {
			t.Errorf("published %q", c.Record)
		}
	}
	check, done := w.options.Check, false
	w.options.Check = func(ctx context.Context, name string, want *dns.Record) (*dns.Report, error) {
		r, err := check(ctx, name, want)
		if !done {
			done = true
			w.change(func(d *keystore.Domain) error {
				return d.Revoke("a", keystore.Warrant{Now: w.now, Force: true, Reason: "stolen"})
			})
		}
		return r, err
	}
	w.keep()
	w.want("a revoked")
}

// A panic in what looks at DNS, or publishes, is trouble of one domain.
func TestPanicsEndNothing(t *testing.T) {
	w := newWorld(t)
	w.put("bad.example")
	w.put("good.example")
	check, publisher := w.options.Check, w.options.Publisher
	w.options.Check = func(ctx context.Context, name string, want *dns.Record) (*dns.Report, error) {
		if strings.HasSuffix(name, "bad.example") {
			panic("look")
		}
		return check(ctx, name, want)
	}
	k := w.keeper()
	if r, err := k.Keep(t.Context(), "bad.example"); err != nil || len(r.Open) != 1 || !strings.Contains(r.Open[0].Detail, "panic: look") {
		t.Errorf("after a panic in the look at DNS: %v, %+v", err, r)
	}
	w.options.Check = check
	w.options.Publisher = func(name string) (dns.Publisher, time.Duration) {
		if strings.HasSuffix(name, "bad.example") {
			panic("publish")
		}
		return publisher(name)
	}
	k = w.keeper()
	if err := k.Round(t.Context()); err != nil {
		t.Fatal(err)
	}
	if s := k.Stats(); s.Failures != 1 || s.Steps[keystore.Publish] != 1 {
		t.Errorf("after a panic of a publisher: %+v", s)
	}
}
