package keystore

import (
	"crypto/ed25519"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// aKey is a row of a plan test's domain, with times in hours from noon; 0 means
// not set.
type aKey struct {
	selector  string
	algorithm Algorithm
	state     State
	created   int // 0: an hour ago
	activated int
	retired   int
	revoked   int
	seen      int
	ready     int
	urgent    bool
}

func hours(n int) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return noon.Add(time.Duration(n) * time.Hour)
}

func planned(rows []aKey, slots ...string) *Domain {
	d := &Domain{Name: "example.com", Version: 1}
	for _, r := range rows {
		if r.algorithm == "" {
			r.algorithm = RSA2048
		}
		if r.created == 0 {
			r.created = -1
		}
		k := Key{
			Selector: r.selector, Algorithm: r.algorithm, State: r.state, Public: make([]byte, ed25519.PublicKeySize), Created: hours(r.created),
			Activated: hours(r.activated), Retired: hours(r.retired), Revoked: hours(r.revoked), Seen: hours(r.seen), Ready: hours(r.ready), Urgent: r.urgent,
		}
		if r.state == Removed {
			k.Removed = noon.Add(-1000 * time.Hour)
		}
		d.Keys = append(d.Keys, k)
	}
	for _, s := range slots {
		d.Slots = append(d.Slots, Slot{s, s + ".example.com.dkim.example.net"})
	}
	return d
}

// brief is a plan in few words: "activate b; retire a".
func brief(steps []Step) string {
	var words []string
	for _, s := range steps {
		word := string(s.Action)
		if s.Selector != "" {
			word += " " + s.Selector
		}
		if s.Action == Create {
			word += " " + string(s.Algorithm)
		}
		if s.Force {
			word += " by force"
		}
		words = append(words, word)
	}
	return strings.Join(words, "; ")
}

func TestPlan(t *testing.T) {
	const day = 24
	year := Rules{RotateEvery: 365 * day * time.Hour, RotateLead: 30 * day * time.Hour}
	automatic := Rules{Automatic: true}
	see := func(states ...any) map[string]Sight {
		sights := map[string]Sight{}
		for i := 0; i < len(states); i += 2 {
			sights[states[i].(string)] = Sight{At: noon, State: states[i+1].(SightState), TTL: time.Hour, NegativeTTL: 2 * time.Hour}
		}
		return sights
	}
	active := aKey{selector: "a", state: Active, activated: -100, seen: -200, ready: -199}
	for _, test := range []struct {
		name   string
		keys   []aKey
		slots  []string
		sights map[string]Sight
		rules  Rules
		want   string
	}{
		{"a pending key waits for DNS to answer", []aKey{{selector: "a", state: Pending}}, nil, nil, automatic, "wait a"},
		{"which is an alarm when it has not for a day", []aKey{{selector: "a", state: Pending, created: -25}}, nil, nil, automatic, "alarm a; wait a"},
		{"one without a record is published", []aKey{{selector: "a", state: Pending}}, nil, see("a", Missing), automatic, "publish a; wait a"},
		{"or an administrator is asked for it", []aKey{{selector: "a", state: Pending}}, nil, see("a", Missing), Rules{}, "ask a; wait a"},
		{"so is one with a wrong record", []aKey{{selector: "a", state: Pending}}, nil, see("a", Different), automatic, "publish a; wait a"},
		{"one that is seen for the first time is only noted", []aKey{{selector: "a", state: Pending}}, nil, see("a", Shown), Rules{}, "observe a"},
		{"one that resolvers may not know yet waits", []aKey{{selector: "a", state: Pending, seen: -2, ready: 1}}, nil, see("a", Shown), Rules{}, "wait a"},
		{"one that is ready signs", []aKey{{selector: "a", state: Pending, seen: -2, ready: -1}}, nil, see("a", Shown), Rules{}, "activate a"},
		{"not without a look at DNS", []aKey{{selector: "a", state: Pending, seen: -2, ready: -1}}, nil, nil, Rules{}, "wait a"},
		{"one that was seen and is gone starts over", []aKey{{selector: "a", state: Pending, seen: -2, ready: -1}}, nil, see("a", Missing), automatic, "observe a; publish a; wait a"},
		{"its predecessor retires when it signs", []aKey{active, {selector: "b", state: Pending, seen: -2, ready: -1}}, nil, see("a", Shown, "b", Shown), Rules{},
			"activate b; retire a"},
		{"a key of another kind does not", []aKey{{selector: "a", algorithm: Ed25519, state: Active, activated: -100, seen: -200}, {selector: "b", state: Pending, seen: -2, ready: -1}}, nil, see("a", Shown, "b", Shown), Rules{},
			"activate b"},
		{"nor one that the configuration names", []aKey{active, {selector: "b", state: Pending, seen: -2, ready: -1}}, nil, see("a", Shown, "b", Shown), Rules{Named: func(s string) bool { return s == "a" }},
			"activate b; ask a"},
		{"of two successors the older gives way", []aKey{active, {selector: "b", state: Pending, seen: -2, ready: -1}, {selector: "c", state: Pending, seen: -2, ready: -1}}, nil, see("a", Shown, "b", Shown, "c", Shown), Rules{},
			"activate b; retire a; activate c; retire b"},
		{"whose record is watched as long as it signs", []aKey{active, {selector: "b", state: Active, activated: -1, seen: -2, ready: -1}}, nil, see("a", Missing, "b", Shown), Rules{Named: func(s string) bool { return s == "a" }},
			"ask a; alarm a; ask a"},
		{"a predecessor that an administrator left signing retires", []aKey{active, {selector: "b", state: Active, activated: -1, seen: -200}}, nil, see("a", Shown, "b", Shown), Rules{}, "retire a"},
		{"keys activated at the same time both stay", []aKey{active, {selector: "b", state: Active, activated: -100, seen: -200}}, nil, see("a", Shown, "b", Shown), Rules{}, ""},

		{"an urgent key signs when it is seen, and its predecessors are revoked", []aKey{{selector: "r", state: Retired, retired: -1}, active, {selector: "p", state: Pending}, {selector: "u", state: Pending, urgent: true}}, nil, see("a", Shown, "u", Shown), Rules{},
			"wait r; wait p; observe u; activate u; revoke r by force; revoke a by force; revoke p by force"},
		{"and with them keys of a kind that gets no successor", []aKey{{selector: "r", algorithm: Ed25519, state: Retired, retired: -1}, active, {selector: "p", algorithm: Ed25519, state: Pending}, {selector: "u", state: Pending, urgent: true}}, nil, see("a", Shown, "u", Shown), Rules{},
			"wait r; wait p; observe u; activate u; revoke r by force; revoke a by force; revoke p by force"},
		{"but none of a kind whose successor is still to sign", []aKey{{selector: "e", algorithm: Ed25519, state: Retired, retired: -1}, {selector: "f", algorithm: Ed25519, state: Active, activated: -1, seen: -2}, active, {selector: "u", state: Pending, urgent: true}, {selector: "v", algorithm: Ed25519, state: Pending, urgent: true}}, nil, see("u", Shown, "v", Missing), automatic,
			"wait e; observe u; activate u; revoke a by force; publish v; wait v"},
		{"nor the other successor, if both are seen at once", []aKey{{selector: "f", algorithm: Ed25519, state: Active, activated: -1, seen: -2}, active, {selector: "u", state: Pending, urgent: true}, {selector: "v", algorithm: Ed25519, state: Pending, urgent: true}}, nil, see("u", Shown, "v", Shown), automatic,
			"observe u; activate u; revoke a by force; observe v; activate v; revoke f by force"},
		{"not before it is seen", []aKey{active, {selector: "u", state: Pending, urgent: true}}, nil, see("a", Shown, "u", Missing), automatic, "publish u; wait u"},

		{"an active key that is seen needs nothing", []aKey{active}, nil, see("a", Shown), Rules{}, ""},
		{"nor does one that DNS does not answer for", []aKey{active}, nil, nil, automatic, ""},
		{"one whose record is gone is an alarm", []aKey{active}, nil, see("a", Missing), Rules{}, "alarm a; ask a"},
		{"but not published again if somebody has revoked it", []aKey{active}, nil, see("a", ShownRevoked), automatic, "alarm a; ask a"},
		{"nor is that of a retired key", []aKey{{selector: "a", state: Retired, activated: -900, retired: -6 * day}}, nil, see("a", ShownRevoked), automatic, "alarm a; ask a; wait a"},
		{"and is published again", []aKey{active}, nil, see("a", Missing), automatic, "alarm a; publish a"},
		{"which is noted if the key is to stop signing", []aKey{active}, nil, see("a", Missing), Rules{StopWhenGone: true}, "alarm a; ask a; observe a"},

		{"a retired key waits", []aKey{{selector: "a", state: Retired, activated: -900, retired: -6 * day}}, nil, see("a", Shown), Rules{}, "wait a"},
		{"its record is missed meanwhile", []aKey{{selector: "a", state: Retired, activated: -900, retired: -6 * day}}, nil, see("a", Missing), Rules{}, "alarm a; ask a; wait a"},
		{"then it is revoked", []aKey{{selector: "a", state: Retired, activated: -900, retired: -7 * day}}, nil, see("a", Shown), Rules{}, "revoke a"},
		{"later, if the grace period is longer", []aKey{{selector: "a", state: Retired, activated: -900, retired: -7 * day}}, nil, see("a", Shown), Rules{Grace: 8 * day * time.Hour}, "wait a"},
		{"a revoked key's record gets an empty p=", []aKey{{selector: "a", state: Revoked, revoked: -1}}, nil, see("a", Shown), automatic, "publish a; wait a"},
		{"which an administrator is asked for", []aKey{{selector: "a", state: Revoked, revoked: -1}}, nil, see("a", Shown), Rules{}, "ask a; wait a"},
		{"or it may be gone", []aKey{{selector: "a", state: Revoked, revoked: -1}}, nil, see("a", Missing), Rules{}, "wait a"},
		{"then the key is removed", []aKey{{selector: "a", state: Revoked, revoked: -7 * day}}, nil, see("a", ShownRevoked), Rules{}, "remove a"},
		{"not while it may be seen, if its private half is to be published", []aKey{{selector: "a", state: Revoked, activated: -900, revoked: -7 * day}}, nil, see("a", Shown), Rules{KeepPrivate: true}, "ask a; wait a"},
		{"nor while DNS does not answer", []aKey{{selector: "a", state: Revoked, activated: -900, revoked: -7 * day}}, nil, nil, Rules{KeepPrivate: true}, "wait a"},
		{"nor when it is seen no longer", []aKey{{selector: "a", state: Revoked, activated: -900, revoked: -7 * day}}, nil, see("a", ShownRevoked), Rules{KeepPrivate: true}, "observe a; wait a"},
		{"nor while resolvers may remember it", []aKey{{selector: "a", state: Revoked, activated: -900, revoked: -9 * day, seen: -6 * day}}, nil, see("a", ShownRevoked), Rules{KeepPrivate: true}, "wait a"},
		{"nor if it was seen again meanwhile", []aKey{{selector: "a", state: Revoked, activated: -900, revoked: -9 * day, seen: -7 * day}}, nil, see("a", Shown), Rules{KeepPrivate: true}, "ask a; observe a; wait a"},
		{"but then", []aKey{{selector: "a", state: Revoked, activated: -900, revoked: -9 * day, seen: -7 * day}}, nil, see("a", ShownRevoked), Rules{KeepPrivate: true}, "remove a"},
		{"one that never signed has nothing to be published", []aKey{{selector: "a", state: Revoked, revoked: -7 * day}}, nil, see("a", Shown), Rules{KeepPrivate: true}, "ask a; remove a"},
		{"a removed key's record goes", []aKey{{selector: "a", state: Removed}}, nil, see("a", ShownRevoked), automatic, "withdraw a"},
		{"by hand, if need be", []aKey{{selector: "a", state: Removed}}, nil, see("a", ShownRevoked), Rules{}, "ask a"},
		{"not while mail may need it, as of one removed by force", []aKey{{selector: "a", state: Removed, activated: -900, retired: -1}}, nil, see("a", Shown), automatic, "wait a"},
		{"that it is gone is noted", []aKey{{selector: "a", state: Removed}}, nil, see("a", Missing), Rules{}, "observe a"},
		{"one in a slot is removed when its record is seen to be revoked", []aKey{{selector: "a", state: Revoked, revoked: -7 * day}}, []string{"a"}, see("a", ShownRevoked), automatic, "remove a"},
		{"not while it may be seen", []aKey{{selector: "a", state: Revoked, revoked: -7 * day}}, []string{"a"}, see("a", Shown), automatic, "publish a; wait a"},
		{"nor while DNS does not answer for it", []aKey{{selector: "a", state: Revoked, revoked: -7 * day}}, []string{"a"}, nil, automatic, "wait a"},
		{"that of a slot stays", []aKey{{selector: "a", state: Removed}}, []string{"a"}, see("a", ShownRevoked), automatic, ""},

		{"a key that is old enough gets a successor", []aKey{{selector: "a", state: Active, activated: -335 * day, seen: -9000}}, nil, see("a", Shown), year, "create rsa-2048"},
		{"not before", []aKey{{selector: "a", state: Active, activated: -334 * day, seen: -9000}}, nil, see("a", Shown), year, "wait a"},
		{"two kinds do not get one slot", []aKey{{selector: "s1", state: Active, activated: -335 * day, seen: -9000}, {selector: "s2", algorithm: Ed25519, state: Active, activated: -335 * day, seen: -9000}}, []string{"s1", "s2", "s3"}, see("s1", Shown, "s2", Shown), year,
			"create rsa-2048; wait s2"},
		{"each kind has its own", []aKey{{selector: "a", state: Active, activated: -335 * day, seen: -9000}, {selector: "e", algorithm: Ed25519, state: Active, activated: -335 * day, seen: -9000}}, nil, see("a", Shown, "e", Shown), year,
			"create rsa-2048; create ed25519"},
		{"one that is pending is enough", []aKey{{selector: "a", state: Active, activated: -335 * day, seen: -9000}, {selector: "b", state: Pending}}, nil, see("a", Shown, "b", Missing), year, "ask b; wait b"},
		{"a short key gets a longer successor", []aKey{{selector: "a", algorithm: RSA1024, state: Active, activated: -335 * day, seen: -9000}}, nil, see("a", Shown), year, "create rsa-2048"},
		{"one that the configuration names gets none", []aKey{{selector: "a", state: Active, activated: -335 * day, seen: -9000}}, nil, see("a", Shown), Rules{RotateEvery: day * time.Hour, Named: func(string) bool { return true }}, "ask a"},
		{"nor one whose domain has no free slot", []aKey{{selector: "a", state: Active, activated: -365 * day, seen: -9000}, {selector: "b", state: Retired, retired: -1, activated: -900}}, []string{"a", "b"}, see("a", Shown, "b", Shown), year, "wait b; wait a"},
		{"a slot is free when its key is removed", []aKey{{selector: "a", state: Active, activated: -365 * day, seen: -9000}, {selector: "b", state: Removed, revoked: -900, activated: -9000}}, []string{"a", "b"}, see("a", Shown), year, "create rsa-2048"},
		{"a domain without keys needs nothing", nil, nil, nil, year, ""},
	} {
		d := planned(test.keys, test.slots...)
		before := fmt.Sprint(*d)
		got := Plan(noon, d, test.sights, test.rules)
		if brief(got) != test.want {
			t.Errorf("%s:\n got %s\nwant %s", test.name, brief(got), test.want)
		}
		if after := fmt.Sprint(*d); after != before {
			t.Errorf("%s: the plan changed the domain", test.name)
		}
		for _, s := range got {
			if s.Because == "" {
				t.Errorf("%s: %s without a reason", test.name, s.Action)
			}
		}
	}
}

func TestRotation(t *testing.T) {
	active := aKey{selector: "a", state: Active, activated: -1}
	ed := aKey{selector: "e", algorithm: Ed25519, state: Active, activated: -1}
	pending := aKey{selector: "b", state: Pending}
	for _, test := range []struct {
		name   string
		keys   []aKey
		urgent bool
		want   string
	}{
		{"each kind that signs gets a successor", []aKey{active, ed}, false, "create rsa-2048; create ed25519"},
		{"unless it has one", []aKey{active, ed, pending}, false, "wait a; create ed25519"},
		{"in an emergency, even then", []aKey{active, ed, pending}, true, "create rsa-2048; create ed25519"},
		{"without a key that signs there is none", []aKey{pending}, true, ""},
	} {
		if got := brief(Rotation(noon, planned(test.keys), test.urgent, Rules{})); got != test.want {
			t.Errorf("%s: %s, want %s", test.name, got, test.want)
		}
	}
}

func TestVisibility(t *testing.T) {
	d := planned([]aKey{{selector: "a", state: Pending}})
	w := Warrant{Now: noon, By: "keeper@mx1"}
	refused := func(when, want string) {
		t.Helper()
		if err := d.Activate("a", w); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("activated %s: %v, want an error with %q", when, err, want)
		}
	}
	refused("unseen", "not seen")
	sight := Sight{At: noon, State: Shown, TTL: time.Hour, NegativeTTL: 2 * time.Hour}
	if !d.Observe("a", sight, w) {
		t.Fatal("a first sight changed nothing")
	}
	refused("at once", "may remember until 2026-11-22T14:00:01Z")
	if d.Observe("a", sight, w) || d.Observe("a", Sight{}, w) {
		t.Error("a second sight, or none, changed something")
	}
	d.Observe("a", Sight{At: noon, State: Different, Detail: "server 2 of 2 differs"}, w)
	w.Now = noon.Add(3 * time.Hour)
	refused("after it was gone", "not seen")
	sight.At = w.Now
	d.Observe("a", sight, w)
	w.Now = w.Now.Add(2*time.Hour + time.Second)
	if err := d.Activate("a", w); err != nil {
		t.Error(err)
	}
	w.Force, w.Reason = true, "test"
	if err := d.Revoke("a", w); err != nil || !d.Key("a").Seen.IsZero() {
		t.Errorf("%v, revoked, and seen at %v", err, d.Key("a").Seen)
	}
	gone := Sight{At: w.Now, State: ShownRevoked}
	if d.Observe("a", sight, w) || !d.Observe("a", gone, w) || d.Observe("a", gone, w) || d.Key("a").Seen.IsZero() {
		t.Errorf("revoked, and seen at %v", d.Key("a").Seen)
	}
	var got []string
	for _, e := range d.History {
		got = append(got, string(e.What)+" by "+e.By)
	}
	want := []string{"seen by keeper@mx1", "unseen by keeper@mx1", "seen by keeper@mx1", "activated by keeper@mx1", "revoked by keeper@mx1", "seen by keeper@mx1"}
	if !slices.Equal(got, want) {
		t.Errorf("history %q, want %q", got, want)
	}
	if got := d.History[1].Reason; got != "server 2 of 2 differs" {
		t.Errorf("the history has %q for why it was not seen", got)
	}
}

func TestAWrongRecordIsWaitedOut(t *testing.T) {
	d := planned([]aKey{{selector: "a", state: Pending}})
	w := Warrant{Now: noon}
	wrong := Sight{At: noon, State: Different, TTL: 24 * time.Hour, NegativeTTL: time.Minute}
	if !d.Observe("a", wrong, w) || d.Observe("a", wrong, w) {
		t.Error("a wrong record must be noted, and once")
	}
	d.Observe("a", Sight{At: noon.Add(time.Hour), State: Shown, TTL: time.Hour}, w)
	if got, want := d.Keys[0].Ready, noon.Truncate(time.Second).Add(24*time.Hour+time.Second); !got.Equal(want) {
		t.Errorf("ready at %v, want %v, when no resolver remembers the wrong record", got, want)
	}
}

func TestHistoryIsBounded(t *testing.T) {
	d := planned([]aKey{{selector: "a", state: Pending}})
	for i := range 1000 {
		now := noon.Add(time.Duration(i) * time.Hour)
		w := Warrant{Now: now, Reason: "publish"}
		d.Observe("a", Sight{At: now, State: Shown}, w)
		d.Observe("a", Sight{At: now, State: Missing}, w)
		d.Tell("a", time.Hour, w)
	}
	if len(d.History) > 3*maxRepeats+2 {
		t.Errorf("%d events of a record that comes and goes", len(d.History))
	}
	last := d.History[len(d.History)-1]
	if age := noon.Add(1000 * time.Hour).Sub(last.Time); last.What != WasTold || age > tellRarely {
		t.Errorf("%v ago somebody was told last, and it still is so", age)
	}
}

// The events of the keys that were in a slot before leave room for those of the
// next.
func TestHistoryOfASlot(t *testing.T) {
	d := planned(nil, "s1")
	for i := range 10 {
		now := noon.Add(time.Duration(i) * 100 * 24 * time.Hour)
		w, forced := Warrant{Now: now}, Warrant{Now: now, Force: true, Reason: "test"}
		if err := d.Add(Key{Selector: "s1", Algorithm: Ed25519, Public: make([]byte, 32)}, w); err != nil {
			t.Fatal(err)
		}
		n := len(d.History)
		for range 3 {
			d.Observe("s1", Sight{At: now, State: Shown}, w)
			d.Observe("s1", Sight{At: now, State: Missing}, w)
		}
		if got := len(d.History) - n; got != 6 {
			t.Errorf("key %d of the slot: %d events, want 6", i, got)
		}
		for _, step := range []func(string, Warrant) error{d.Activate, d.Revoke, d.Remove} {
			if err := step("s1", forced); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// A clock that was ahead when a record was seen does not keep the key from
// signing until that time has come.
func TestSeenByAClockThatWasAhead(t *testing.T) {
	d := planned([]aKey{{selector: "a", state: Pending}})
	sight := Sight{At: noon.Add(24 * 365 * time.Hour), State: Shown, NegativeTTL: time.Hour}
	d.Observe("a", sight, Warrant{Now: sight.At})
	sight.At = noon
	sights := map[string]Sight{"a": sight}
	if got := brief(Plan(noon, d, sights, Rules{})); got != "observe a" {
		t.Errorf("when the clock is right: %s", got)
	}
	if !d.Observe("a", sight, Warrant{Now: noon}) || !d.Key("a").Ready.Equal(stamp(noon).Add(time.Hour+time.Second)) {
		t.Errorf("ready from %v", d.Key("a").Ready)
	}
	if got := brief(Plan(noon, d, sights, Rules{})); got != "wait a" {
		t.Errorf("then: %s", got)
	}
	if got := brief(Plan(noon.Add(time.Hour+time.Second), d, sights, Rules{})); got != "activate a" {
		t.Errorf("after the negative TTL: %s", got)
	}
}

// What DNS shows may be long, and no reason not to take a step.
func TestLongDetail(t *testing.T) {
	d := planned([]aKey{{selector: "a", state: Active, activated: -1, seen: -2}})
	sights := map[string]Sight{"a": {At: noon, State: Different, Detail: strings.Repeat("differs ", 1000)}}
	d.Observe("a", sights["a"], Warrant{Now: noon.Add(-time.Hour)})
	retires := false
	for _, s := range Plan(noon, d, sights, Rules{StopWhenGone: true}) {
		retires = retires || s.Action == DoRetire
		if s.Action == DoRetire && len(s.Because+s.Detail) > maxText-10 {
			t.Errorf("a reason of %d octets", len(s.Because+s.Detail))
		}
	}
	if !retires {
		t.Error("the key goes on signing")
	}
}

// A key stops signing for want of its record only if nobody shows it, twice.
func TestStoppingTakesTwoLooks(t *testing.T) {
	rules := Rules{StopWhenGone: true}
	for _, test := range []struct {
		name  string
		looks []Sight // one every secondLook
		stops bool
	}{
		{"gone once", []Sight{{State: Missing}}, false},
		{"gone twice", []Sight{{State: Missing}, {State: Missing}}, true},
		{"gone, and then another's", []Sight{{State: Missing}, {State: Different}}, true},
		{"revoked twice", []Sight{{State: ShownRevoked}, {State: ShownRevoked}}, true},
		{"gone, there again, gone", []Sight{{State: Missing}, {State: Shown}, {State: Missing}}, false},
		{"gone, and no answer", []Sight{{State: Missing}, {State: Unknown}}, false},
		{"gone, no answer, gone", []Sight{{State: Missing}, {State: Unknown}, {State: Missing}}, true},
		{"some servers show it", []Sight{{State: Different, Split: true}, {State: Different, Split: true}}, false},
		{"gone, and then some show it", []Sight{{State: Missing}, {State: Different, Split: true}}, false},
		{"some show it, and then none", []Sight{{State: Different, Split: true}, {State: Missing}}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			d := planned([]aKey{{selector: "a", state: Active, activated: -100, seen: -200}})
			for i, sight := range test.looks {
				for _, again := range []time.Duration{0, time.Second, secondLook - time.Second} { // of one run of the keeper, or of others
					now := noon.Add(time.Duration(i)*secondLook + again)
					sight.At = now
					for _, s := range Plan(now, d, map[string]Sight{"a": sight}, rules) {
						switch s.Action {
						case Observe:
							d.Observe("a", sight, Warrant{Now: now})
						case DoRetire:
							if !test.stops || i < len(test.looks)-1 {
								t.Fatalf("it stops at look %d", i+1)
							}
							return
						}
					}
				}
			}
			if test.stops {
				t.Error("it goes on signing")
			}
		})
	}
}

// A record that comes and goes does not fill the history, and is noted again
// after a while.
func TestAFlappingRecordIsNotedRarely(t *testing.T) {
	d := planned([]aKey{{selector: "a", state: Active, activated: -100, seen: -200}})
	now := noon
	for range 1000 {
		d.Observe("a", Sight{At: now, State: Missing}, Warrant{Now: now})
		d.Observe("a", Sight{At: now, State: Shown}, Warrant{Now: now})
		now = now.Add(10 * time.Minute)
	}
	if n := len(d.History); n > 2*(maxRepeats+1000/6/24+1) {
		t.Errorf("%d events", n)
	}
	now = now.Add(missRarely)
	if !d.Observe("a", Sight{At: now, State: Missing}, Warrant{Now: now}) || d.missedSince(d.Key("a")).IsZero() {
		t.Error("a day later it is not noted that the record is gone")
	}
}

func TestTheSameIsNotToldTwice(t *testing.T) {
	d := planned([]aKey{{selector: "a", state: Pending}, {selector: "b", state: Pending}})
	for _, test := range []struct {
		after    time.Duration
		selector string
		reason   string
		want     bool
	}{
		{0, "a", "publish", true},
		{time.Minute, "a", "publish", false},
		{time.Minute, "a", "delete", true},
		{time.Minute, "b", "publish", true},
		{time.Hour, "a", "publish", true},
		{time.Hour + time.Minute, "a", "publish", false},
	} {
		if got := d.Tell(test.selector, time.Hour, Warrant{Now: noon.Add(test.after), Reason: test.reason}); got != test.want {
			t.Errorf("after %v, %s of %s: %v, want %v", test.after, test.reason, test.selector, got, test.want)
		}
	}
}

func TestSlotsGoRound(t *testing.T) {
	d := planned(nil, "s1", "s2")
	w := Warrant{Now: noon, Reason: "test"}
	forced := w
	forced.Force = true
	add := func(selector string) error {
		return d.Add(Key{Selector: selector, Algorithm: Ed25519, Public: make([]byte, 32)}, w)
	}
	if err := add("s3"); err == nil || !strings.Contains(err.Error(), "slots") {
		t.Errorf("a selector that is no slot: %v", err)
	}
	for _, want := range []string{"s1", "s2"} {
		got, _ := d.NextSelector(noon, 0)
		if got != want {
			t.Fatalf("next slot %q, want %s", got, want)
		}
		if err := add(got); err != nil {
			t.Fatal(err)
		}
	}
	if got, from := d.NextSelector(noon, 0); got != "" || !from.IsZero() {
		t.Errorf("of full slots %q is free, from %v", got, from)
	}
	for _, step := range []func(string, Warrant) error{d.Activate, d.Revoke, d.Remove} {
		if err := step("s1", forced); err != nil {
			t.Fatal(err)
		}
	}
	if got, from := d.NextSelector(noon, 0); got != "" || !from.Equal(stamp(noon).Add(Grace)) {
		t.Errorf("a slot just revoked: %q is free, another from %v", got, from)
	}
	if err := add("s1"); err == nil || !strings.Contains(err.Error(), "2026-11-29") {
		t.Errorf("a slot used again at once: %v", err)
	}
	w.Now = noon.Add(Grace)
	if got, _ := d.NextSelector(w.Now, 0); got != "s1" {
		t.Errorf("after the grace period %q is free, want s1", got)
	}
	if err := add("s1"); err != nil {
		t.Fatal(err)
	}
	if n := len(d.Keys); n != 2 || d.Key("s1").State != Pending || d.Keys[1].Selector != "s1" {
		t.Errorf("%d rows, s1 is %s and should stand last", n, d.Key("s1").State)
	}
	if n := len(d.History); n != 6 {
		t.Errorf("%d events in the history, want all 6", n)
	}
}
