package main

// Delegated selectors: slots whose CNAMEs the owner of a zone sets once.

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"waxseal/keystore"
	"waxseal/keystore/dns"
)

// slotWish reads the selectors of --slots, and the zone that they point into.
func (a *app) slotWish(slots []string) (selectors []string, zone string, err error) {
	d, err := a.loadConfig()
	if err != nil {
		return nil, "", err
	}
	if d.Keeper.SlotZone == "" {
		return nil, "", problems{d.problem("keeper.slot_zone", errors.New("not set, so there is no zone for the CNAMEs to point into"),
			`set slot_zone = "dkim.example.net" in [keeper], a zone that a [publish] table can change`)}
	}
	if zone, err = domainArgument(d.Keeper.SlotZone); err != nil {
		return nil, "", err
	}
	ways, bad := buildPublishers(d)
	if len(bad) > 0 {
		return nil, "", bad
	}
	if p, _ := ways.of(zone); p == nil {
		a.notice("warning: no [publish] table is about %s, so its records are to be changed by hand", zone)
	}
	for _, s := range slots {
		s = strings.ToLower(strings.TrimSpace(s))
		if err := keystore.ValidSelector(s); err != nil {
			return nil, "", misused(fmt.Errorf("--slots: %w", err))
		}
		selectors = append(selectors, s)
	}
	return selectors, zone, nil
}

// delegate gives the domain slots that it has not got yet.
func delegate(d *keystore.Domain, selectors []string, zone string) error {
	for _, s := range selectors {
		target := s + "." + d.Name + "." + zone
		switch was, ok := d.Slot(s); {
		case ok && was != target:
			return fmt.Errorf("slot %s of %s points to %s already", s, d.Name, was)
		case !ok && d.Key(s) != nil:
			return fmt.Errorf("%s has a key %s whose record is no CNAME; take another name for the slot", d.Name, s)
		case !ok:
			d.Slots = append(d.Slots, keystore.Slot{Selector: s, Target: target})
		}
	}
	return nil
}

// noSlot says why a domain cannot have a key now.
func noSlot(domain string, from time.Time) error {
	err := fmt.Errorf("domain %s: all slots are in use", domain)
	if from.IsZero() {
		return withHint(err, "add one with --slots, or remove a key that is not needed")
	}
	return withHint(err, "one will be free on %s; or add one with --slots", from.Format(time.RFC3339))
}

// printSlots prints the CNAMEs that the owner of the domain's zone has to set.
func (a *app) printSlots(d *keystore.Domain, asked []string) {
	if len(asked) == 0 {
		return
	}
	fmt.Fprintf(a.stdout, "; to be set once by the owner of %s\n", d.Name)
	for _, s := range d.Slots {
		fmt.Fprintf(a.stdout, "%s. IN CNAME %s.\n", dns.Name(s.Selector, d.Name), s.Target)
	}
}
