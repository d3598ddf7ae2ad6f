package dns

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	mdns "github.com/miekg/dns"

	"waxseal/keystore"
)

const ownName = "s1._domainkey.example.com"

// value returns the record of a key with the algorithm.
func value(t testing.TB, alg keystore.Algorithm, note string) string {
	t.Helper()
	r, err := NewRecord(newKey(t, alg), RecordOptions{Note: note})
	if err != nil {
		t.Fatal(err)
	}
	return r.String()
}

// own is a change of the test's own name.
func own(record string) Change {
	return Change{Name: ownName, Domain: "example.com", Selector: "s1", Record: record}
}

func slot(name, record string) Change {
	return Change{Name: name, Slot: true, Domain: "customer.example", Selector: "s1", Record: record}
}

func txtLine(name, value string) string { return name + ". 300 TXT " + quoted(value) }

func TestPublishOneLife(t *testing.T) {
	s := startUpdateServer(t)
	u := s.updateTo(t, nil)
	large := value(t, keystore.RSA4096, `quotes " and \ backslashes`)
	small := value(t, keystore.Ed25519, "")
	revoked := "v=DKIM1; k=ed25519; p="
	for _, step := range []struct {
		name    string
		record  string
		ttl     time.Duration
		updates int // made by then
		wantTTL uint32
	}{
		{"made, with the default TTL", large, 0, 1, 3600},
		{"there already: nothing to do", large, 0, 1, 3600},
		{"another TTL", large, 5 * time.Minute, 2, 300},
		{"without a wish any TTL will do", large, 0, 2, 300},
		{"replaced by another key", small, 0, 3, 3600},
		{"revoked", revoked, 0, 4, 3600},
		{"deleted", "", 0, 5, 0},
		{"gone already: nothing to do", "", 0, 5, 0},
	} {
		t.Run(step.name, func(t *testing.T) {
			c := own(step.record)
			c.TTL = step.ttl
			if err := u.Publish(t.Context(), c); err != nil {
				t.Fatal(err)
			}
			if got, ttl := s.at(ownName); got != step.record || ttl != step.wantTTL {
				t.Errorf("got %q with TTL %d, want %q with %d", got, ttl, step.record, step.wantTTL)
			}
			if got := s.made(); got != step.updates {
				t.Errorf("%d updates, want %d", got, step.updates)
			}
		})
	}
}

func TestPublishSparesWhatIsNotOurs(t *testing.T) {
	key, other := "v=DKIM1; k=rsa; p=", "v=DKIM1; k=ed25519; p="
	for _, test := range []struct {
		name   string
		lines  []string
		change Change
		want   string // of the error; empty: none
		after  string // at the name
	}{
		{"SPF record at a slot's target", []string{txtLine("k.example.com", "v=spf1 -all")}, slot("k.example.com", key),
			"is no key record", "v=spf1 -all"},
		{"DMARC record with its p=", []string{txtLine("k.example.com", "v=DMARC1; p=none")}, slot("k.example.com", key),
			"is no key record", "v=DMARC1; p=none"},
		{"nor is it deleted", []string{txtLine("k.example.com", "hello")}, slot("k.example.com", ""), "is no key record", "hello"},
		{"one among key records", []string{txtLine("k.example.com", "p="), txtLine("k.example.com", "hello")}, slot("k.example.com", key),
			"is no key record", "hello\np="},
		{"several key records become one", []string{txtLine(ownName, "p="), txtLine(ownName, "v=dkim1; p=AAAA")}, own(key), "", key},
		{"a badly pasted record is replaced", []string{txtLine(ownName, `"v=DKIM1\; k=rsa\; p=AAAA"`)}, own(key), "", key},
		{"CNAME", []string{ownName + ". 300 CNAME s1.provider.example."}, own(key), "is a CNAME to s1.provider.example", ""},
		{"wildcard record that is right already", []string{txtLine("*._domainkey.example.com", key)}, own(key), "", ""},
		{"wildcard record of another key stays", []string{txtLine("*._domainkey.example.com", other)}, own(key), "", key},
		{"wildcard of others is not in the way", []string{txtLine("*._domainkey.example.com", "v=spf1 -all")}, own(key), "", key},
		{"wildcard CNAME is not in the way", []string{"*._domainkey.example.com. 300 CNAME elsewhere.example."}, own(key), "", key},
		{"under a wildcard nothing is to be deleted", []string{txtLine("*._domainkey.example.com", "v=spf1 -all")}, own(""), "", ""},
		{"apex", nil, slot("example.com", key), "apex of its zone", ""},
		{"other types at the name stay", []string{ownName + ". 300 A 192.0.2.1", txtLine(ownName, other)}, own(key), "", key},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := startUpdateServer(t, test.lines...)
			err := s.updateTo(t, nil).Publish(t.Context(), test.change)
			if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
				t.Errorf("error %v, want %q", err, test.want)
			}
			var known *PublishError
			if err != nil && (!errors.As(err, &known) || known.Remedy == "") {
				t.Errorf("%v has no remedy", err)
			}
			if got, _ := s.at(test.change.Name); got != test.after {
				t.Errorf("got %q, want %q", got, test.after)
			}
			for _, line := range test.lines {
				if name, _, _ := strings.Cut(line, " "); strings.HasPrefix(name, "*") && len(s.records[name]) != 1 {
					t.Errorf("%s is not as it was", name)
				}
			}
		})
	}
}

func TestPublishDoesNotTrampleAConcurrentChange(t *testing.T) {
	s := startUpdateServer(t, txtLine(ownName, "v=DKIM1; p="))
	u := s.updateTo(t, nil)
	changed := false
	u.meanwhile = func() {
		if !changed {
			s.set(t, txtLine(ownName, "left by somebody"))
		}
		changed = true
	}
	if err := u.Publish(t.Context(), own("v=DKIM1; k=ed25519; p=")); err == nil || !strings.Contains(err.Error(), "left by somebody") {
		t.Errorf("error %v", err)
	}
	if got, _ := s.at(ownName); got != "left by somebody" {
		t.Errorf("got %q", got)
	}
	// The same where nothing was, and with a change that never ends.
	s.set(t, ownName+". 300 A 192.0.2.1")
	n := 0
	u.meanwhile = func() { n++; s.set(t, txtLine(ownName, fmt.Sprintf("v=DKIM1; n=%d; p=", n))) }
	if err := u.Publish(t.Context(), own("v=DKIM1; k=ed25519; p=")); err == nil || !strings.Contains(err.Error(), "somebody else changed the name 3 times") {
		t.Errorf("error %v", err)
	}
}

func TestPublishFindsZoneAndServer(t *testing.T) {
	record := "v=DKIM1; k=ed25519; p="
	for _, test := range []struct {
		name   string
		change func(s *updateServer, o *UpdateOptions)
		want   string // of the error; empty: none
	}{
		{"from the server", func(*updateServer, *UpdateOptions) {}, ""},
		{"zone given", func(_ *updateServer, o *UpdateOptions) { o.Zone = "Example.com." }, ""},
		{"both from the resolver", func(s *updateServer, o *UpdateOptions) {
			o.Resolvers, o.Port, o.Server = []string{s.addr}, portOf(s.addr), ""
		}, ""},
		{"server from the resolver", func(s *updateServer, o *UpdateOptions) {
			o.Resolvers, o.Port, o.Server, o.Zone = []string{s.addr}, portOf(s.addr), "", "example.com"
		}, ""},
		{"server by name", func(s *updateServer, o *UpdateOptions) {
			o.Resolvers, o.Port, o.Server = []string{s.addr}, portOf(s.addr), "ns.example.com"
		}, ""},
		{"a resolver that does not answer is passed over", func(s *updateServer, o *UpdateOptions) {
			o.Resolvers, o.Port, o.Server, o.Timeout = []string{"127.0.0.1:1", s.addr}, portOf(s.addr), "", 5*time.Second
		}, ""},
		{"zone that is none", func(s *updateServer, o *UpdateOptions) {
			o.Resolvers, o.Port, o.Server, o.Zone = []string{s.addr}, portOf(s.addr), "", "_domainkey.example.com"
		}, "_domainkey.example.com is no zone, the resolver says that it belongs to example.com"},
		{"zone of others", func(_ *updateServer, o *UpdateOptions) { o.Zone = "example.net" }, "is not in the zone for updates, example.net"},
		{"nothing listens", func(_ *updateServer, o *UpdateOptions) { o.Server = "127.0.0.1:1" }, "nothing answers on port 1 over TCP"},
		{"no such server", func(s *updateServer, o *UpdateOptions) {
			o.Resolvers, o.Server = []string{s.addr}, "nowhere.example.com"
		}, "the address of the primary nowhere.example.com"},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := startUpdateServer(t)
			u := s.updateTo(t, func(o *UpdateOptions) { test.change(s, o) })
			err := u.Publish(t.Context(), own(record))
			if test.want != "" {
				if err == nil || !strings.Contains(err.Error(), test.want) {
					t.Errorf("error %v, want %q", err, test.want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got, _ := s.at(ownName); got != record {
				t.Errorf("got %q", got)
			}
		})
	}
}

func portOf(addr string) uint16 { return netip.MustParseAddrPort(addr).Port() }

// onUpdate changes the answers to updates only.
func onUpdate(change func(r *mdns.Msg) *mdns.Msg) func(q, r *mdns.Msg) *mdns.Msg {
	return func(q, r *mdns.Msg) *mdns.Msg {
		if q.Opcode == mdns.OpcodeUpdate {
			return change(r)
		}
		return r
	}
}

func code(n int) func(r *mdns.Msg) *mdns.Msg {
	return func(r *mdns.Msg) *mdns.Msg { r.Rcode = n; return r }
}

func TestPublishSaysWhatWentWrong(t *testing.T) {
	silent := func(*mdns.Msg) *mdns.Msg { return nil }
	for _, test := range []struct {
		name   string
		server func(s *updateServer, u *Update)
		want   []string
	}{
		{"REFUSED", func(s *updateServer, _ *Update) { s.answer = onUpdate(code(mdns.RcodeRefused)) },
			[]string{"does not let the key waxseal (hmac-sha256)", "grant waxseal name " + ownName + " TXT;"}},
		{"NOTAUTH", func(s *updateServer, _ *Update) { s.answer = onUpdate(code(mdns.RcodeNotAuth)) }, []string{"is no authority for example.com"}},
		{"NOTZONE", func(s *updateServer, _ *Update) { s.answer = onUpdate(code(mdns.RcodeNotZone)) }, []string{"not in the zone example.com"}},
		{"NOTIMP", func(s *updateServer, _ *Update) { s.answer = onUpdate(code(mdns.RcodeNotImplemented)) }, []string{"does not know dynamic updates", "hook"}},
		{"SERVFAIL", func(s *updateServer, _ *Update) { s.answer = onUpdate(code(mdns.RcodeServerFailure)) }, []string{"journal"}},
		{"unknown code", func(s *updateServer, _ *Update) { s.answer = onUpdate(code(11)) }, []string{"answers"}},
		{"key the server does not know", func(_ *updateServer, u *Update) { u.key.Name = "other" },
			[]string{"does not know the key other (hmac-sha256) (BADKEY)", "same key"}},
		{"wrong secret", func(_ *updateServer, u *Update) { u.key.secret = "AAAA" }, []string{"has another secret", "BADSIG"}},
		{"clock behind", func(_ *updateServer, u *Update) {
			u.now = func() time.Time { return time.Now().Add(-time.Hour) }
		}, []string{"the server's clock is 1h0m", "ahead of ours", "NTP"}},
		{"clock ahead", func(_ *updateServer, u *Update) {
			u.now = func() time.Time { return time.Now().Add(time.Hour) }
		}, []string{"behind ours"}},
		{"answers without a signature", func(s *updateServer, _ *Update) { s.plain = true }, []string{"not signed with our key"}},
		{"not authoritative", func(s *updateServer, _ *Update) {
			s.answer = func(_, r *mdns.Msg) *mdns.Msg { r.Authoritative = false; return r }
		}, []string{"no authority over the name (zone example.com)"}},
		{"accepted and not done", func(s *updateServer, _ *Update) {
			s.answer = func(q, r *mdns.Msg) *mdns.Msg {
				if q.Opcode != mdns.OpcodeUpdate && q.Question[0].Qtype == mdns.TypeTXT {
					r.Answer = nil
				}
				return r
			}
		}, []string{"accepted the update, but does not show it", "secondary"}},
		{"silence", func(s *updateServer, u *Update) {
			s.answer = onUpdate(silent)
			u.timeout = 200 * time.Millisecond
		}, []string{"no answer over TCP in 200ms"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := startUpdateServer(t)
			u := s.updateTo(t, nil)
			test.server(s, u)
			err := u.Publish(t.Context(), own("v=DKIM1; k=ed25519; p="))
			var known *PublishError
			if !errors.As(err, &known) || known.Name != ownName || known.Server != "127.0.0.1" {
				t.Fatalf("error %v of type %T", err, err)
			}
			for _, want := range test.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%v\nwant in it %q", err, want)
				}
			}
			if strings.Contains(err.Error(), "{") && !strings.Contains(err.Error(), "update-policy {") {
				t.Errorf("not filled in: %v", err)
			}
		})
	}
}

func TestPublishEndsWithItsContext(t *testing.T) {
	s := startUpdateServer(t)
	ctx, cancel := context.WithCancel(t.Context())
	s.answer = func(*mdns.Msg, *mdns.Msg) *mdns.Msg { cancel(); return nil }
	if err := s.updateTo(t, nil).Publish(ctx, own("v=DKIM1; p=")); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}

func TestChangeIsChecked(t *testing.T) {
	for _, test := range []struct {
		name   string
		change Change
		want   string // of the error; empty: none
	}{
		{"own name", own("v=DKIM1; p="), ""},
		{"own name, deleted", own(""), ""},
		{"target of a slot", slot("s1.customer.dkim.example.net", "v=DKIM1; p="), ""},
		{"a name of others", Change{Name: "www.example.com", Domain: "example.com", Selector: "s1"}, "not given as the target of a slot"},
		{"another selector", Change{Name: "s2._domainkey.example.com", Domain: "example.com", Selector: "s1"}, "is not the record of s1._domainkey.example.com"},
		{"final dot", Change{Name: ownName + ".", Domain: "example.com", Selector: "s1"}, "is not the record"},
		{"slot that is its own target", Change{Name: ownName, Slot: true, Domain: "example.com", Selector: "s1"}, "its own target"},
		{"target that is no name", slot("a b.example", ""), "has the character ' '"},
		{"no domain", Change{Name: ownName, Selector: "s1"}, "empty"},
		{"no selector", Change{Name: ownName, Domain: "example.com"}, "empty"},
		{"no key record", own("v=spf1 -all"), "is no key record"},
		{"second line", own("v=DKIM1;\n p="), "more than one line"},
		{"negative TTL", Change{Name: ownName, Domain: "example.com", Selector: "s1", TTL: -time.Second}, "TTL"},
		{"TTL of parts of a second", Change{Name: ownName, Domain: "example.com", Selector: "s1", TTL: time.Millisecond}, "TTL"},
		{"TTL too large", Change{Name: ownName, Domain: "example.com", Selector: "s1", TTL: 1 << 32 * time.Second}, "TTL"},
	} {
		err := test.change.check()
		if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
			t.Errorf("%s: error %v, want %q", test.name, err, test.want)
		}
	}
}

func TestNewUpdateRefuses(t *testing.T) {
	key, err := ParseTSIGKey([]byte(testKey))
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		o    UpdateOptions
		want string // of the error; empty: none
	}{
		{UpdateOptions{}, "need a TSIG key"},
		{UpdateOptions{Key: key}, ""},
		{UpdateOptions{Key: key, Zone: "a..b"}, "zone for updates"},
		{UpdateOptions{Key: key, Server: "ns.example.com"}, ""},
		{UpdateOptions{Key: key, Server: "ns.example.com.:5353"}, ""},
		{UpdateOptions{Key: key, Server: "2001:db8::1"}, ""},
		{UpdateOptions{Key: key, Server: "[2001:db8::1]"}, ""},
		{UpdateOptions{Key: key, Server: "[2001:db8::1]:53"}, ""},
		{UpdateOptions{Key: key, Server: "192.0.2.1:0"}, "server for updates"},
		{UpdateOptions{Key: key, Server: "192.0.2.256"}, "server for updates"},
		{UpdateOptions{Key: key, Server: "ns example"}, "server for updates"},
		{UpdateOptions{Key: key, Server: ":53"}, "server for updates"},
	} {
		_, err := NewUpdate(test.o)
		if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
			t.Errorf("server %q, zone %q: error %v, want %q", test.o.Server, test.o.Zone, err, test.want)
		}
	}
}
