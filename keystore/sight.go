package keystore

import (
	"fmt"
	"slices"
	"time"
)

// Sight is what DNS showed of one key's record.
type Sight struct {
	At    time.Time
	State SightState

	// TTL is how long resolvers may remember the answer that was given, or the
	// longest of several; NegativeTTL how long they may remember that there is
	// no record (RFC 2308, section 5).
	TTL, NegativeTTL time.Duration

	// Split means that the record is not seen as it should be, but may be so at
	// some server: one shows it, or has not answered.
	Split bool

	Detail string // in words, for the administrator
}

// SightState sums up the answers of all authoritative servers.
type SightState uint8

// The states of a Sight.
const (
	Unknown      SightState = iota // not asked, or not every server answered
	Shown                          // every server shows exactly the key's record
	ShownRevoked                   // every server shows a record with an empty p=
	Missing                        // no server has a record
	Different                      // anything else: another key, several records, servers that differ
)

var sightNames = [...]string{Unknown: "unknown", Shown: "shown", ShownRevoked: "revoked", Missing: "missing", Different: "different"}

// withdrawn reports whether no server shows the key any longer.
func (s *Sight) withdrawn() bool { return s.State == ShownRevoked || s.State == Missing }

// withdrawnReason is for the history of a revoked key.
const withdrawnReason = "every authoritative server shows that it is revoked, or no record"

func (s SightState) String() string { return sightNames[s] }

const (
	// maxRepeats is how often the history has the same key seen, unseen or
	// told: a record that comes and goes must not fill the store.
	maxRepeats = 20

	// tellRarely is how often a thing is told after that: what nobody mends
	// must not fall silent.
	tellRarely = 30 * 24 * time.Hour

	// missRarely is how often a key that signs is noted as unseen after that.
	missRarely = 24 * time.Hour
)

// Observe keeps what was seen of a key's record. It returns false if that
// changes nothing. From the first Sight that is Shown on, the key is Ready as
// soon as no resolver can remember an earlier answer, be it that there was no
// record or a wrong one; any later Sight that is neither Shown nor Unknown starts
// over, as long as the key is pending. A key that signs and that no server shows
// is Seen no longer. A revoked key is Seen when no server shows it any longer. A
// removed key is withdrawn once its record is Missing.
func (d *Domain) Observe(selector string, s Sight, w Warrant) bool {
	k := d.Key(selector)
	switch {
	case k == nil || s.State == Unknown:
		return false
	case k.State == Removed:
		if s.State != Missing || !k.Withdrawn.IsZero() {
			return false
		}
		k.Withdrawn = stamp(w.Now)
		d.note(selector, WasWithdrawn, w)
		return true
	case k.State == Revoked:
		switch {
		case s.withdrawn() && (k.Seen.IsZero() || k.Seen.After(s.At.Add(time.Second))):
			k.Seen = stamp(s.At).Add(time.Second)
			w.Reason = withdrawnReason
			d.repeat(selector, WasSeen, w)
			return true
		case !s.withdrawn() && !k.Seen.IsZero():
			k.Seen = time.Time{}
			w.Reason = cut(s.Detail)
			d.repeat(selector, WasUnseen, w)
			return true
		}
		return false
	case s.State == Shown && (k.Seen.IsZero() || k.State == Pending && k.Seen.After(s.At.Add(time.Second))):
		// Up to a second of the time stamp is cut off, so one is added. One
		// that lies ahead is from a clock that was wrong.
		k.Seen = stamp(s.At).Add(time.Second)
		if ready := k.Seen.Add(max(s.TTL, s.NegativeTTL).Truncate(time.Second)); ready.After(k.Ready) || k.Ready.After(k.Seen.Add(maxTTL)) {
			k.Ready = ready
		}
		if d.missedSince(k).IsZero() {
			d.repeat(selector, WasSeen, w)
		} else {
			d.note(selector, WasSeen, w)
		}
		return true
	case s.State != Shown && k.State == Active:
		return d.miss(k, s, w)
	case s.State != Shown && k.State == Pending && !k.Seen.IsZero():
		k.Seen, k.Ready = time.Time{}, k.remembered(s)
		w.Reason = cut(s.Detail)
		d.repeat(selector, WasUnseen, w)
		return true
	case s.State != Shown && k.State == Pending && k.remembered(s).After(k.Ready.Add(time.Minute)):
		k.Ready = k.remembered(s)
		return true
	}
	return false
}

// miss notes that no server shows the record of a key that signs, unless that is
// known, or was noted too often.
func (d *Domain) miss(k *Key, s Sight, w Warrant) bool {
	known := d.missedSince(k)
	if s.Split || !known.IsZero() && !known.After(w.Now) {
		return false
	}
	var last time.Time
	n := d.times(k.Selector, func(e *Event) bool {
		if e.What == WasUnseen && last.IsZero() {
			last = e.Time
		}
		return e.What == WasUnseen
	})
	if age := w.Now.Sub(last); n >= maxRepeats && age >= 0 && age < missRarely {
		return false
	}
	k.Seen = time.Time{}
	w.Reason = cut(s.Detail)
	d.note(k.Selector, WasUnseen, w)
	return true
}

// missedSince is when it was noted that no server shows the record of a key that
// signs; zero if it was seen since then.
func (d *Domain) missedSince(k *Key) time.Time {
	for i := range slices.Backward(d.History) {
		if e := &d.History[i]; e.Selector == k.Selector {
			switch e.What {
			case WasUnseen:
				return e.Time
			case WasSeen, WasActivated, WasCreated, WasImported:
				return time.Time{}
			}
		}
	}
	return time.Time{}
}

// maxTTL is the longest that a wait may be: what resolvers keep at most.
const maxTTL = 7 * 24 * time.Hour

// remembered is until when resolvers may remember the wrong record that a Sight
// shows; zero if it shows none, or if the wait for the right one is longer.
func (k *Key) remembered(s Sight) time.Time {
	if s.State != Different && s.State != ShownRevoked || s.TTL <= s.NegativeTTL {
		return time.Time{}
	}
	return stamp(s.At).Add(time.Second + min(s.TTL, maxTTL).Truncate(time.Second))
}

// MarkPublished keeps that the key's record was put into DNS. It returns false
// if that was known.
func (d *Domain) MarkPublished(selector string, w Warrant) bool {
	k := d.Key(selector)
	if k == nil || !k.Published.IsZero() {
		return false
	}
	k.Published = stamp(w.Now)
	d.note(selector, WasPublished, w)
	return true
}

// Tell keeps that an administrator was asked for w.Reason. It returns false if
// that was asked already within the time given: the others of a fleet, and this
// process after a restart, then need not ask again. What was told very often is
// told more rarely, so the history is bounded if w.Reason is one of a few texts.
func (d *Domain) Tell(selector string, within time.Duration, w Warrant) bool {
	if d.times(selector, func(e *Event) bool { return e.What == WasTold && e.Reason == w.Reason }) >= maxRepeats {
		within = max(within, tellRarely)
	}
	for _, e := range slices.Backward(d.History) {
		if e.What == WasTold && e.Selector == selector && e.Reason == w.Reason {
			if age := w.Now.Sub(e.Time); age >= 0 && age < within {
				return false
			}
			break
		}
	}
	d.note(selector, WasTold, w)
	return true
}

// repeat is note for what may happen often. It does nothing if the history has
// enough of it.
func (d *Domain) repeat(selector string, what What, w Warrant) {
	if d.times(selector, func(e *Event) bool { return e.What == what }) < maxRepeats {
		d.note(selector, what, w)
	}
}

// times counts the events of the key that has the selector now: those of the keys
// that were in its slot before do not count.
func (d *Domain) times(selector string, counts func(*Event) bool) int {
	n := 0
	for i := range slices.Backward(d.History) {
		switch e := &d.History[i]; {
		case e.Selector != selector:
		case counts(e):
			n++
		case e.What == WasCreated || e.What == WasImported:
			return n
		}
	}
	return n
}

// cut makes a text fit for the history.
func cut(s string) string {
	const most = 300
	if validText(s) != nil {
		s = fmt.Sprintf("%+q", s)
	}
	if len(s) <= most {
		return s
	}
	s = s[:most]
	for validText(s) != nil { // in the middle of a letter
		s = s[:len(s)-1]
	}
	return s + " …"
}
