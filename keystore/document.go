package keystore

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"
)

// MaxDocument bounds what EncodeDocument writes and DecodeDocument reads, as
// maxDomainFile does for Dir: two thousand keys with their history.
const MaxDocument = maxDomainFile

// document is a domain as stores keep it that have one value for a domain.
// Rows are decoded one by one, so that a bad one leaves the others.
type document[K, S, E any] struct {
	Keys    []K `json:"keys,omitempty"`
	Slots   []S `json:"slots,omitempty"`
	History []E `json:"history,omitempty"`
}

type documentKey struct {
	Selector  string    `json:"selector"`
	Algorithm Algorithm `json:"algorithm"`
	State     State     `json:"state"`
	Public    []byte    `json:"public,omitempty"`
	Created   time.Time `json:"created,omitzero"`
	Activated time.Time `json:"activated,omitzero"`
	Retired   time.Time `json:"retired,omitzero"`
	Revoked   time.Time `json:"revoked,omitzero"`
	Removed   time.Time `json:"removed,omitzero"`
	Published time.Time `json:"published,omitzero"`
	Seen      time.Time `json:"seen,omitzero"`
	Ready     time.Time `json:"ready,omitzero"`
	Withdrawn time.Time `json:"withdrawn,omitzero"`
	Urgent    bool      `json:"urgent,omitempty"`
	Note      string    `json:"note,omitempty"`
	Reason    string    `json:"reason,omitempty"`
}

func (k *documentKey) times() []*time.Time {
	return []*time.Time{&k.Created, &k.Activated, &k.Retired, &k.Revoked, &k.Removed, &k.Published, &k.Seen, &k.Ready, &k.Withdrawn}
}

type documentSlot struct {
	Selector string `json:"selector"`
	Target   string `json:"target"`
}

type documentEvent struct {
	Time     time.Time `json:"time"`
	Selector string    `json:"selector,omitempty"`
	What     What      `json:"what"`
	By       string    `json:"by,omitempty"`
	Reason   string    `json:"reason,omitempty"`
	Forced   bool      `json:"forced,omitempty"`
}

// EncodeDocument returns all of d as JSON but its name, its version and the
// private halves, for a store that keeps a domain as one value.
func EncodeDocument(d *Domain) ([]byte, error) {
	var doc document[documentKey, documentSlot, documentEvent]
	for i := range d.Keys {
		k := &d.Keys[i]
		row := documentKey{
			k.Selector, k.Algorithm, k.State, k.Public, k.Created, k.Activated, k.Retired, k.Revoked, k.Removed,
			k.Published, k.Seen, k.Ready, k.Withdrawn, k.Urgent, k.Note, k.Reason,
		}
		for _, t := range row.times() {
			*t = t.UTC()
		}
		doc.Keys = append(doc.Keys, row)
	}
	for _, s := range d.Slots {
		doc.Slots = append(doc.Slots, documentSlot(s))
	}
	for _, e := range d.History {
		e.Time = e.Time.UTC()
		doc.History = append(doc.History, documentEvent(e))
	}
	data, err := json.Marshal(doc)
	if err != nil {
		return nil, fmt.Errorf("domain %s: %w", d.Name, err)
	}
	if len(data) > MaxDocument {
		return nil, fmt.Errorf("domain %s: would have %d bytes, want at most %d", d.Name, len(data), MaxDocument)
	}
	return data, nil
}

// DecodeDocument reads what EncodeDocument wrote, strictly. A row that cannot be
// read, and each of two rows for one selector, is in Unreadable; the error is
// ErrBroken (wrapped) if nothing can be read at all. The domain has no version,
// and its keys have no Load.
func DecodeDocument(name string, data []byte) (*Domain, error) {
	if len(data) > MaxDocument {
		return nil, fmt.Errorf("domain %s: %w: %d bytes, want at most %d", name, ErrBroken, len(data), MaxDocument)
	}
	var doc document[json.RawMessage, json.RawMessage, json.RawMessage]
	if err := strictJSON(data, &doc); err != nil {
		return nil, fmt.Errorf("domain %s: %w: %v; restore it from a backup", name, ErrBroken, err)
	}
	d := &Domain{Name: name}
	unreadable := func(what string, i int, selector string, active bool, err error) {
		if ValidSelector(selector) != nil {
			selector = ""
		}
		d.Unreadable = append(d.Unreadable, BadRow{selector, active, fmt.Errorf("%s %d of %s: %w; restore the domain from a backup", what, i+1, name, err)})
	}
	rows := make(map[string]int)
	for _, raw := range doc.Keys {
		rows[looseKey(raw).Selector]++
	}
	for i, raw := range doc.Keys {
		loose := looseKey(raw)
		k, err := decodeKey(name, raw)
		if err == nil && rows[k.Selector] > 1 {
			err = errors.New("another row has the same selector")
		}
		if err != nil {
			unreadable("key", i, loose.Selector, loose.State == Active || !slices.Contains(states, loose.State), err)
			continue
		}
		d.Keys = append(d.Keys, *k)
	}
	targets := make(map[string]bool)
	for i, raw := range doc.Slots {
		var s documentSlot
		err := strictJSON(raw, &s)
		if err == nil {
			err = (*Slot)(&s).validate()
		}
		if err == nil && targets[s.Selector] {
			err = errors.New("another slot has the same selector")
		}
		if err != nil {
			unreadable("slot", i, s.Selector, false, err)
			continue
		}
		targets[s.Selector] = true
		d.Slots = append(d.Slots, Slot(s))
	}
	for i, raw := range doc.History {
		var e documentEvent
		err := strictJSON(raw, &e)
		if err == nil {
			err = (*Event)(&e).validate()
		}
		if err != nil {
			unreadable("event", i, e.Selector, false, err)
			continue
		}
		e.Time = e.Time.UTC()
		d.History = append(d.History, Event(e))
	}
	return d, nil
}

func decodeKey(domain string, raw []byte) (*Key, error) {
	var row documentKey
	if err := strictJSON(raw, &row); err != nil {
		return nil, err
	}
	for _, t := range row.times() {
		*t = t.UTC()
	}
	k := &Key{
		Selector: row.Selector, Algorithm: row.Algorithm, State: row.State, Public: row.Public,
		Created: row.Created, Activated: row.Activated, Retired: row.Retired, Revoked: row.Revoked, Removed: row.Removed,
		Published: row.Published, Seen: row.Seen, Ready: row.Ready, Withdrawn: row.Withdrawn,
		Urgent: row.Urgent, Note: row.Note, Reason: row.Reason,
	}
	return k, k.validate(domain)
}

// looseKey reads of a row what tells whose it is.
func looseKey(raw []byte) (k struct {
	Selector string `json:"selector"`
	State    State  `json:"state"`
}) {
	_ = json.Unmarshal(raw, &k) // what cannot be read stays empty
	return k
}

// strictJSON decodes exactly one value without unknown fields.
func strictJSON(data []byte, into any) error {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(into); err != nil {
		return err
	}
	if _, err := dec.Token(); err != io.EOF {
		return errors.New("something follows after the value")
	}
	return nil
}
