// Package keystore holds the keys that sign mail: what a key and a domain
// are, the contract of a store, the default store (Dir), and the cache that
// stands before every store.
//
// It promises: a selector never names two different keys, a change is
// compare-and-swap on the domain's version, a key that cannot be trusted
// (wrong permissions, wrong kind, does not match its record) is never handed
// out for signing, and one bad domain or key never disturbs another. Private
// halves leave a store only through Key.Load and have no text form here.
package keystore

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"time"
)

// State is where a key stands in its life: pending, active, retired, revoked,
// removed, in this order.
type State string

// The states of a key.
const (
	Pending State = "pending" // does not sign; its record must be published
	Active  State = "active"  // signs; its record must stay
	Retired State = "retired" // does not sign; its record stays for mail under way
	Revoked State = "revoked" // its record has an empty p= (RFC 6376, section 3.6.1)
	Removed State = "removed" // its private half is gone; the row keeps the selector from being used again
)

// states lists every State; a store refuses anything else.
var states = []State{Pending, Active, Retired, Revoked, Removed}

// Algorithm is a kind of key: "ed25519", or "rsa-" and the bits of the
// modulus. Generate makes the five named here; an imported RSA key may have
// any other size from 1024 bits.
type Algorithm string

// The algorithms that Generate makes.
const (
	RSA1024 Algorithm = "rsa-1024"
	RSA2048 Algorithm = "rsa-2048"
	RSA3072 Algorithm = "rsa-3072"
	RSA4096 Algorithm = "rsa-4096"
	Ed25519 Algorithm = "ed25519"
)

// Key is one key of a domain, without its private half.
type Key struct {
	Selector  string
	Algorithm Algorithm
	State     State

	// Public is what the record's p= carries: the DER SubjectPublicKeyInfo of
	// an RSA key (RFC 6376, section 3.6.1), the bare 32 octets of an Ed25519
	// key (RFC 8463, section 4.2).
	Public []byte

	// When the key entered each state; zero means not yet. UTC, and a store
	// keeps at least whole seconds.
	Created, Activated, Retired, Revoked, Removed time.Time

	// What is known of the key's record in DNS; zero means not yet, or no
	// longer. Published: waxseal has put it there. Seen: since then every
	// authoritative server has shown exactly this key, or of a revoked one
	// nothing but that it is revoked. Ready: by then no resolver remembers
	// anything older, and the key may sign. Withdrawn: a removed key's record is
	// gone from every authoritative server.
	Published, Seen, Ready, Withdrawn time.Time

	// Urgent is set on the successor of a stolen key: it signs as soon as it is
	// seen, and the older keys of its kind are revoked with that.
	Urgent bool

	Note   string // free text of the administrator
	Reason string // why a step was forced, and by whom

	// Load reads the private half. It is nil when the store has none, as for
	// a removed key. Each call reads anew: nothing is kept here. For a key
	// that a call of Update brings into the store, Load supplies the private
	// half to write.
	Load func(context.Context) (crypto.Signer, error)
}

// Domain is a signing domain and all keys it ever had. A removed key stays as
// a row, so that its selector is not used a second time.
type Domain struct {
	Name    string
	Version uint64 // changes with every Update; 0 means that the store has no such domain yet
	Keys    []Key  // in the order in which they were added

	// Slots are the selectors of a zone that is not ours: see Slot. A domain
	// without any may use every name as a selector.
	Slots []Slot

	// History is what was done with the keys, oldest first. It only grows.
	History []Event

	// Unreadable are the rows that the store has of the domain and cannot read.
	// The other keys sign all the same, but such a domain cannot be changed: see
	// Whole.
	Unreadable []BadRow
}

// BadRow is a row of a domain that cannot be read.
type BadRow struct {
	Selector string // of the key; empty if the row does not tell
	Active   bool   // it is a key that signs, or might be one
	Err      error  // what is wrong, and where
}

// Whole returns an error if the domain has rows that could not be read. No store
// takes a change of it then, so that these are not lost.
func (d *Domain) Whole() error {
	if len(d.Unreadable) == 0 {
		return nil
	}
	errs := make([]error, len(d.Unreadable))
	for i, row := range d.Unreadable {
		errs[i] = row.Err
	}
	return fmt.Errorf("%s has rows that cannot be read, so it is not changed: %w", d.Name, errors.Join(errs...))
}

// Slot is a selector whose record the owner of the zone has made a CNAME, once
// and for all, to a name in a zone that waxseal may update. Rotation goes round
// a domain's slots.
type Slot struct {
	Selector string
	Target   string // where the CNAME points, in lower case and without the last dot
}

// Slot returns the target of the slot with the given selector; ok is false if
// there is no such slot.
func (d *Domain) Slot(selector string) (target string, ok bool) {
	for _, s := range d.Slots {
		if s.Selector == selector {
			return s.Target, true
		}
	}
	return "", false
}

// Event is one line of a domain's history.
type Event struct {
	Time     time.Time // UTC, whole seconds
	Selector string    // the key it happened to
	What     What
	By       string // who did it: user@host, or keeper@host
	Reason   string
	Forced   bool // against a rule, on By's word
}

// What happened to a key.
type What string

// The events of a history.
const (
	WasCreated   What = "created"
	WasImported  What = "imported"
	WasPublished What = "published" // waxseal put the record into DNS
	WasTold      What = "told"      // an administrator was asked to change DNS
	WasSeen      What = "seen"      // every authoritative server began to show the record
	WasUnseen    What = "unseen"    // and stopped
	WasActivated What = "activated"
	WasRetired   What = "retired"
	WasRevoked   What = "revoked"
	WasRemoved   What = "removed"
	WasWithdrawn What = "withdrawn" // the record is gone from DNS
)

// whats lists every What; a store refuses anything else.
var whats = []What{WasCreated, WasImported, WasPublished, WasTold, WasSeen, WasUnseen, WasActivated, WasRetired, WasRevoked, WasRemoved, WasWithdrawn}

// Key returns the key with the given selector, or nil. The pointer is into
// d.Keys.
func (d *Domain) Key(selector string) *Key {
	for i := range d.Keys {
		if d.Keys[i].Selector == selector {
			return &d.Keys[i]
		}
	}
	return nil
}

// Store is where domains and their keys live. A Store may be used by many
// goroutines, and by many processes at once.
//
// Consistency: a Domain call that starts after an Update returned sees that
// Update or a later one, within one process; other processes of a fleet may
// see it later, but always whole. Every method returns soon after its context
// ends. Errors name the domain.
type Store interface {
	// Domain returns a copy that belongs to the caller. The error is
	// ErrNotFound (wrapped) when the store has no such domain, which includes
	// every name that ValidDomain refuses; any other error means that the
	// store cannot tell. A row that it cannot read is in Unreadable.
	Domain(ctx context.Context, name string) (*Domain, error)

	// Update writes d if the store still has d.Version of it, or has no such
	// domain and d.Version is 0; otherwise nothing happens and the error is
	// ErrConflict (wrapped). It refuses what CheckUpdate refuses. The private
	// half of a key whose row is new is read with Load and written; that of a
	// key which became removed is destroyed. Once the change is durable
	// d.Version is the new version, even if an error is returned because
	// tidying up afterwards went wrong.
	Update(ctx context.Context, d *Domain) error

	// List returns up to limit names that sort after the given one, sorted
	// bytewise; the empty string starts, an empty result ends. A limit below
	// 1 means 1000.
	List(ctx context.Context, after string, limit int) ([]string, error)

	// Watch calls changed with the name of each domain that changed or may
	// have, and with the empty string when any domain may have: in particular
	// whenever it has begun to watch. It calls from one goroutine, and
	// returns when ctx ends or watching breaks down, with an error in the
	// latter case. A store that cannot push returns nil at once.
	Watch(ctx context.Context, changed func(domain string)) error
}

var (
	// ErrNotFound means that the store has no such domain.
	ErrNotFound = errors.New("not found")

	// ErrBroken means that the store answered, but that what it has of the
	// domain cannot be used.
	ErrBroken = errors.New("broken")

	// ErrConflict means that the domain is not at the version an Update was
	// made from: read it again, apply the step again, and retry.
	ErrConflict = errors.New("changed by someone else in the meantime")
)
