package keystore

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"time"
)

// What a Store may have besides, above all one that many machines share.

// SigningStore is a Store that reads all that signing needs in one go. Cache
// makes use of it.
type SigningStore interface {
	Store

	// Signing is Domain for the one who signs: Slots and History may be left
	// out, and the private halves of active keys come along, so that calling
	// their Load asks the store no more.
	Signing(ctx context.Context, name string) (*Domain, error)
}

// ErrReadOnly means that a store takes no changes.
var ErrReadOnly = errors.New("this store is read only")

// Node is a daemon that uses a shared store.
type Node struct {
	Name      string    `json:"name"`
	Program   string    `json:"program"`   // with its version
	Started   time.Time `json:"started"`   // UTC, whole seconds
	Refreshed time.Time `json:"refreshed"` // since when it has not missed a change
	Seen      time.Time `json:"seen"`      // when it last said so
}

// Beater is a Store that remembers which nodes use it.
type Beater interface {
	Beat(ctx context.Context, n Node) error
}

// StoreStatus is what a Store says of itself.
type StoreStatus struct {
	Kind         string
	Connect      time.Duration // for the first answer, with making the connection
	Latency      time.Duration // for an answer
	Schema       int           // version of its tables; 0 if there are none
	SchemaWanted int           // that this program knows; 0 where there is no schema
	Domains      int64
	LastChange   time.Time // zero: none, or not known
	LastChanged  string    // the domain
	Nodes        []Node
}

// Reporter is a Store that can say how it is. The error means that it cannot be
// reached.
type Reporter interface {
	Status(ctx context.Context) (StoreStatus, error)
}

// AnswerTimes says how long the store takes for the first answer, with making a
// connection if there is none, and for the next. The error means that it does not
// answer. It is for a Reporter to call.
func AnswerTimes(ctx context.Context, s Store) (first, next time.Duration, err error) {
	for _, took := range []*time.Duration{&first, &next} {
		began := time.Now()
		if _, err := s.Domain(ctx, probeName); !answered(err) {
			if why := errors.Unwrap(err); why != nil && err.Error() == "domain "+probeName+": "+why.Error() {
				err = why // the domain that was asked for is nobody's
			}
			return 0, 0, err
		}
		*took = time.Since(began)
	}
	return first, next, nil
}

// Generator is a Store that makes new keys itself, since their private halves are
// to stay where it has them.
type Generator interface {
	// Generate makes a key for a row that Update will bring into the domain. A
	// key whose Update fails is taken again by the next try, or in nobody's way.
	Generate(ctx context.Context, domain, selector string, algorithm Algorithm) (crypto.Signer, error)
}

// NewKey makes a key for a new row of a domain in the store: the store makes it if
// it is a Generator, else Generate does.
func NewKey(ctx context.Context, s Store, domain, selector string, algorithm Algorithm) (crypto.Signer, error) {
	if g, ok := s.(Generator); ok {
		return g.Generate(ctx, domain, selector, algorithm)
	}
	return Generate(algorithm)
}

// CheckKeys looks for what is wrong with a domain of any store: rows that cannot
// be read, private halves that are missing, damaged or another key's. Each error
// is a finding.
func CheckKeys(ctx context.Context, s Store, domain string) []error {
	d, err := s.Domain(ctx, domain)
	if err != nil {
		return []error{err}
	}
	var errs []error
	for _, row := range d.Unreadable {
		errs = append(errs, row.Err)
	}
	for i := range d.Keys {
		k := &d.Keys[i]
		if k.State == Removed {
			continue
		}
		if err := checkKey(ctx, k); err != nil {
			errs = append(errs, &KeyError{domain, k.Selector, err})
		}
	}
	return errs
}

func checkKey(ctx context.Context, k *Key) error {
	if k.Load == nil {
		return errors.New("the store has no private half of it")
	}
	key, err := k.Load(ctx)
	if err != nil {
		return err
	}
	if err := SelfTest(key, k.Public); err != nil {
		return fmt.Errorf("%w; restore it from a backup, or make a new key and remove this one", err)
	}
	return nil
}
