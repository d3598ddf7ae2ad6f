package sqlstore_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"waxseal/keystore"
	"waxseal/keystore/sqlstore"
	"waxseal/keystore/storetest"
)

// A standby takes over: the URL names it first, and then last, so that neither
// order of the hosts matters.
func TestStandbyTakesOver(t *testing.T) {
	var p place
	for _, p = range places {
		if p.name == "PostgreSQL" {
			break
		}
	}
	primary := postgres.Get(t)
	u, _ := p.url(t, "")
	s := openAt(t, u, sqlstore.Options{})
	if _, _, err := s.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	standby, err := primary.Standby()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		standby.Kill()
		standby.Remove()
	})
	d := storetest.Create(t, s, "example.com", "a")
	change := func(s *sqlstore.Store) error {
		d.Keys[0].Note += "."
		return s.Update(t.Context(), d)
	}

	standbyOnly := openAt(t, strings.Replace(u, primary.Addr, standby.Addr, 1), sqlstore.Options{})
	if err := change(standbyOnly); err == nil || !strings.Contains(err.Error(), "takes no changes") {
		t.Errorf("a change of a standby: %v", err)
	}
	news := make(chan string, 10)
	go standbyOnly.Watch(t.Context(), func(domain string) { news <- domain })
	if got := <-news; got != "" {
		t.Errorf("the watch begins with %q", got)
	}

	first := openAt(t, strings.Replace(u, primary.Addr, standby.Addr+","+primary.Addr, 1), sqlstore.Options{})
	last := openAt(t, strings.Replace(u, primary.Addr, primary.Addr+","+standby.Addr, 1), sqlstore.Options{})
	for _, s := range []*sqlstore.Store{first, last} {
		if err := change(s); err != nil {
			t.Errorf("a change beside a standby: %v", err)
		}
		if got, err := s.Domain(t.Context(), "example.com"); err != nil || got.Version != d.Version {
			t.Errorf("what was changed is not seen: %v", err)
		}
	}
	select {
	case got := <-news:
		if got != "example.com" {
			t.Errorf("heard of %q", got)
		}
	case <-time.After(10 * time.Second):
		t.Error("who reads from a standby hears of no change")
	}

	primary.Kill()
	for _, s := range []*sqlstore.Store{first, last} {
		if got, err := s.Domain(t.Context(), "example.com"); err != nil || len(got.Keys) != 1 {
			t.Errorf("with a standby alone: %v", err)
		}
		if err := change(s); err == nil || errors.Is(err, keystore.ErrConflict) {
			t.Errorf("a change with a standby alone: %v", err)
		}
	}
	if err := standby.Promote(); err != nil {
		t.Fatal(err)
	}
	if d, err = last.Domain(t.Context(), "example.com"); err != nil {
		t.Fatal(err)
	}
	for _, s := range []*sqlstore.Store{first, last, standbyOnly} {
		if err := change(s); err != nil {
			t.Errorf("after the standby took over: %v", err)
		}
	}
	if err := primary.Begin(); err != nil {
		t.Fatal(err)
	}
}
