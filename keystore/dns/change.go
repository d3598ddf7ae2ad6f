package dns

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"waxseal/keystore"
)

// DefaultTTL is that of a record we make when none is asked for: long enough
// for caches, short enough for the hour of a stolen key.
const DefaultTTL = time.Hour

// maxTTL is that of RFC 2181, section 8.
const maxTTL = (1<<31 - 1) * time.Second

// Change is what DNS is to show of one key.
type Change struct {
	// Name is the owner name of the TXT record, without the final dot: that of
	// Name(Selector, Domain), or with Slot the target of the CNAME there.
	Name string
	Slot bool // Name is the target of a delegated slot, in a zone of ours

	Domain, Selector string

	// Record is the value that the name shall have, alone; empty deletes it.
	Record string

	// TTL of the record in whole seconds. 0: that of the record that is there
	// with the right value already, otherwise DefaultTTL.
	TTL time.Duration
}

// Publisher puts key records into DNS.
type Publisher interface {
	// Publish makes the change; when it is there already, it does nothing.
	// After nil the zone's primary shows it.
	Publish(ctx context.Context, c Change) error
}

var (
	_ Publisher = (*Update)(nil)
	_ Publisher = (*Hook)(nil)
)

// PublishError says why a change was not made.
type PublishError struct {
	Name    string // owner name of the record
	Server  string // the name server that was asked, or the hook; may be empty
	Problem string
	Remedy  string // may be empty
	Err     error  // the cause, if there is one below
}

func (e *PublishError) Error() string {
	var b strings.Builder
	b.WriteString(e.Name)
	if e.Server != "" {
		b.WriteString(" at " + e.Server)
	}
	b.WriteString(": " + e.Problem)
	if e.Remedy != "" {
		b.WriteString("; " + e.Remedy)
	}
	return b.String()
}

func (e *PublishError) Unwrap() error { return e.Err }

// check refuses a change that is not about a key record of ours.
func (c *Change) check() error {
	if err := keystore.ValidDomain(c.Domain); err != nil {
		return err
	}
	if err := keystore.ValidSelector(c.Selector); err != nil {
		return err
	}
	if own := Name(c.Selector, c.Domain); c.Slot {
		if err := keystore.ValidDomain(c.Name); err != nil {
			return fmt.Errorf("target of slot %s: %w", own, err)
		}
		if c.Name == own {
			return fmt.Errorf("the slot %s cannot be its own target", own)
		}
	} else if c.Name != own {
		return fmt.Errorf("%.80q is not the record of %s, and not given as the target of a slot", c.Name, own)
	}
	if c.TTL < 0 || c.TTL > maxTTL || c.TTL%time.Second != 0 {
		return fmt.Errorf("%s: TTL of %v, want whole seconds up to %d", c.Name, c.TTL, maxTTL/time.Second)
	}
	if c.Record == "" {
		return nil
	}
	if _, err := ParseRecord(c.Record); err != nil {
		return fmt.Errorf("%s: the record to publish is no key record: %w", c.Name, err)
	}
	if strings.ContainsAny(c.Record, "\r\n\t") {
		return errors.New(c.Name + ": the record to publish has more than one line, or a tab")
	}
	return nil
}

// ttl is that of a record that has to be made.
func (c *Change) ttl() time.Duration {
	if c.TTL == 0 {
		return DefaultTTL
	}
	return c.TTL
}

// isKeyRecord reports whether s was meant for a key record, well made or not.
// Whatever else stands at a name is not ours to replace.
func isKeyRecord(s string) bool {
	havePublic := false
	for spec := range strings.SplitSeq(s, ";") {
		name, value, _ := strings.Cut(spec, "=")
		switch strings.TrimSpace(name) {
		case "v":
			return strings.EqualFold(strings.TrimSpace(value), version)
		case "p":
			havePublic = true
		}
	}
	return havePublic
}
