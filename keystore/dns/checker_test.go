package dns

import (
	"fmt"
	"net"
	"net/netip"
	"reflect"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	mdns "github.com/miekg/dns"

	"waxseal/keystore"
)

// The longest TTL of all that a resolver may have in mind counts: those of the
// CNAMEs, of the record, and the negative ones of each zone on the way.
func TestReportFollowsCNAMEsThroughZones(t *testing.T) {
	want := wanted(t, keystore.Ed25519, RecordOptions{})
	w := newWorld(t, three, `
2026a._domainkey.example.com. 900 IN CNAME s1.customers.example.net.
example.net. 3600 IN SOA ns1.example.net. x.example.net. 1 2 3 4 600
example.net. IN NS ns1.example.net.
ns1.example.net. IN A 127.0.0.4
s1.customers.example.net. 120 IN TXT `+quoted(want.String()))
	// Only the third server serves example.net.
	for _, s := range w.servers[:2] {
		s.alter(func(q, m *mdns.Msg, tcp bool) *mdns.Msg {
			if strings.HasSuffix(q.Question[0].Name, "example.net.") {
				return new(mdns.Msg).SetRcode(q, mdns.RcodeRefused)
			}
			return m
		}, nil)
	}
	r, err := w.checker(t, CheckerOptions{}).Check(t.Context(), "2026a._DomainKey.Example.com.", want)
	if err != nil {
		t.Fatal(err)
	}
	r.Resolvers = nil
	if want := (&Report{
		Name: checkedName, Chain: []string{"s1.customers.example.net"}, Zone: "example.net", Wanted: want.String(),
		Servers: []ServerReport{{"ns1.example.net", netip.MustParseAddr("127.0.0.4"), Matches, "", 2 * time.Minute, []string{want.String()}}},
		Verdict: Matches, Detail: "the record is there", TTL: 15 * time.Minute, NegativeTTL: 10 * time.Minute,
	}); !reflect.DeepEqual(r, want) {
		t.Errorf("got  %+v\nwant %+v", r, want)
	}
}

// A server that still has another record at the name than the CNAME is not
// forgotten because the others lead away from it.
func TestSilentServersOnTheWayAreReported(t *testing.T) {
	want := wanted(t, keystore.Ed25519, RecordOptions{})
	w := newWorld(t, three, checkedName+". IN CNAME a.example.com.\n"+txt("a.example.com", want.String()))
	w.servers[1].alter(func(q, m *mdns.Msg, tcp bool) *mdns.Msg {
		if q.Question[0].Name == checkedName+"." {
			return new(mdns.Msg).SetRcode(q, mdns.RcodeServerFailure)
		}
		return m
	}, nil)
	r, err := w.checker(t, CheckerOptions{}).Check(t.Context(), checkedName, want)
	if err != nil || r.Verdict != Failed || len(r.Servers) != 4 || r.Sight(time.Now()).State != keystore.Unknown {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestLargeRecordsComeOverTCP(t *testing.T) {
	want := wanted(t, keystore.RSA4096, RecordOptions{Note: strings.Repeat("ü", 100)}) // 1.3 kB
	w := newWorld(t, three, txt(checkedName, want.String()))
	var truncated atomic.Int64
	w.servers[0].alter(func(q, m *mdns.Msg, tcp bool) *mdns.Msg {
		if m.Truncated {
			truncated.Add(1)
		}
		return m
	}, nil)
	r, err := w.checker(t, CheckerOptions{}).Check(t.Context(), checkedName, want)
	if err != nil || r.Verdict != Matches || r.Servers[0].Detail != "" || truncated.Load() == 0 {
		t.Errorf("%d truncated answers: %+v, %v", truncated.Load(), r, err)
	}
}

func needIPv6(t *testing.T) {
	l, err := net.Listen("tcp", "[::1]:0")
	if err != nil {
		t.Skip("this machine has no IPv6: ", err)
	}
	l.Close()
}

func TestServersAreAskedOverIPv4AndIPv6(t *testing.T) {
	needIPv6(t)
	want := wanted(t, keystore.Ed25519, RecordOptions{})
	w := newWorld(t, []string{"127.0.0.2", "::1"}, txt(checkedName, want.String()))
	c := w.checker(t, CheckerOptions{})
	if r, err := c.Check(t.Context(), checkedName, want); err != nil || r.Verdict != Matches || len(r.Servers) != 2 || r.Servers[1].Verdict != Matches || !r.Servers[1].Address.Is6() {
		t.Errorf("%+v, %v", r, err)
	}
	w.servers[1].remove(checkedName + ".")
	if r, err := c.Check(t.Context(), checkedName, want); err != nil || r.Verdict != Differs {
		t.Errorf("without the record over IPv6: %+v, %v", r, err)
	}
	// Something answered over IPv6, so it is the server that is silent now.
	drop := func(q, m *mdns.Msg, tcp bool) *mdns.Msg { return nil }
	w.servers[1].alter(drop, nil)
	c.asker.timeout = 500 * time.Millisecond
	if r, err := c.Check(t.Context(), checkedName, want); err != nil || r.Verdict != Timeout {
		t.Errorf("silent over IPv6: %+v, %v", r, err)
	}
	// To another Checker nothing ever answered over IPv6.
	r, err := w.checker(t, CheckerOptions{Timeout: 500 * time.Millisecond}).Check(t.Context(), checkedName, want)
	if err != nil || r.Verdict != Matches || r.Servers[1].Verdict != Unreachable || !strings.Contains(r.Detail, "1 of 2 servers cannot be reached") || r.Sight(time.Now()).State != keystore.Shown {
		t.Errorf("IPv6 that leads nowhere: %+v, %v", r, err)
	}
}

func TestServersWithoutARoute(t *testing.T) {
	needIPv6(t)
	want := wanted(t, keystore.Ed25519, RecordOptions{})
	for _, errno := range []syscall.Errno{syscall.ENETUNREACH, syscall.EADDRNOTAVAIL, syscall.EAFNOSUPPORT} {
		for _, test := range []struct {
			away    string // the address
			verdict Verdict
			state   keystore.SightState
		}{
			// The machine has no IPv6.
			{"::1", Unreachable, keystore.Shown},
			// Others answer over IPv4: the route is away for a moment.
			{"127.0.0.3", Timeout, keystore.Unknown},
		} {
			w := newWorld(t, []string{"127.0.0.2", "127.0.0.3", "::1"}, txt(checkedName, want.String()))
			c := w.checker(t, CheckerOptions{})
			c.asker.dial = dialer(c.asker.dial, func(addr netip.Addr) error {
				if addr == netip.MustParseAddr(test.away) {
					return &net.OpError{Op: "dial", Err: errno}
				}
				return nil
			})
			for range 5 {
				r, err := c.Check(t.Context(), checkedName, want)
				if err != nil || r.Sight(time.Now()).State != test.state || count(r.Servers, test.verdict) != 1 {
					t.Errorf("%v, %s: %+v, %v", errno, test.away, r, err)
				}
			}
		}
	}
}

// A machine whose IPv6 leads nowhere does not wait for every server of the
// world to be silent, but goes on asking a resolver that it has over IPv6.
func TestASilentFamilyIsLeftAlone(t *testing.T) {
	now := time.Unix(1e9, 0)
	a := &asker{now: func() time.Time { return now }, silent: map[netip.Addr]silence{}, answered: map[bool]bool{}}
	addr := func(i int) netip.Addr { return netip.MustParseAddr(fmt.Sprintf("2001:db8::%d", i)) }
	a.heard(netip.MustParseAddr("192.0.2.1"), true, false)
	for i := range maxFamilySilence {
		if err := a.leftAlone(addr(i), false); err != nil {
			t.Fatalf("after %d: %v", i, err)
		}
		a.heard(addr(i), false, false)
	}
	if err := a.leftAlone(addr(100), false); err == nil || troubleOf(err).verdict != Unreachable {
		t.Errorf("another server: %v", err)
	}
	if err := a.leftAlone(addr(100), true); err != nil {
		t.Errorf("a resolver: %v", err)
	}
	if err := a.leftAlone(netip.MustParseAddr("192.0.2.2"), false); err != nil {
		t.Errorf("IPv4: %v", err)
	}
	now = now.Add(silenceTime)
	if err := a.leftAlone(addr(100), false); err != nil {
		t.Errorf("a minute later: %v", err)
	}
	a.heard(addr(100), true, false)
	for i := range 2 * maxFamilySilence {
		a.heard(addr(i), false, false)
	}
	if err := a.leftAlone(addr(101), false); err != nil {
		t.Errorf("once something answered: %v", err)
	}
	for i := range 2 * maxSilent {
		a.heard(addr(i), false, false)
	}
	if len(a.silent) > maxSilent {
		t.Errorf("%d addresses remembered", len(a.silent))
	}
}

func TestNoServerCanBeReached(t *testing.T) {
	needIPv6(t)
	want := wanted(t, keystore.Ed25519, RecordOptions{})
	w := newWorld(t, []string{"::1"}, txt(checkedName, want.String()))
	c := w.checker(t, CheckerOptions{})
	c.asker.dial = dialer(c.asker.dial, func(addr netip.Addr) error {
		if addr.Is6() {
			return &net.OpError{Op: "dial", Err: syscall.ENETUNREACH}
		}
		return nil
	})
	r, err := c.Check(t.Context(), checkedName, want)
	if err != nil || r.Verdict != Timeout || r.Sight(time.Now()).State != keystore.Unknown {
		t.Errorf("before any server answered: %+v, %v", r, err)
	}
	c.asker.answered[false] = true // in another zone
	r, err = c.Check(t.Context(), checkedName, want)
	if err != nil || r.Verdict != Unreachable || r.Sight(time.Now()).State != keystore.Unknown || r.NegativeTTL != negativeUnknown {
		t.Errorf("%+v, %v", r, err)
	}
}

// A wildcard record at the doubled name says nothing of what a panel did.
func TestAWildcardIsNotTakenForADoubledName(t *testing.T) {
	want := wanted(t, keystore.Ed25519, RecordOptions{})
	w := newWorld(t, three, checkedName+". IN A 192.0.2.1\n"+txt("*._domainkey.example.com.example.com", "x"))
	r, err := w.checker(t, CheckerOptions{}).Check(t.Context(), checkedName, want)
	if err != nil || r.Verdict != Missing || r.Detail != "there is no TXT record" || w.servers[0].count("TXT "+checkedName+".example.com") != 1 {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestNothingAnswersOnThePort(t *testing.T) {
	want := wanted(t, keystore.Ed25519, RecordOptions{})
	w := newWorld(t, []string{"127.0.0.2"}, txt(checkedName, want.String()))
	w.resolver.remove("ns1.example.com.")
	w.resolver.add(t, "ns1.example.com. IN A 127.0.0.9")
	r, err := w.checker(t, CheckerOptions{}).Check(t.Context(), checkedName, want)
	if err != nil || r.Verdict != Timeout || !strings.Contains(r.Detail, "nothing answers on its port") {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestDomainsThatDoNotExist(t *testing.T) {
	want := wanted(t, keystore.Ed25519, RecordOptions{})
	w := newWorld(t, three, ". IN SOA a. b. 1 2 3 4 5\ncom. IN NS ns1.example.com.\n")
	for name, text := range map[string]string{
		"2026a._domainkey.gone.com":     "the name does not exist", // the servers of com say so
		"2026a._domainkey.gone.invalid": "knows no zone above it but the root",
	} {
		r, err := w.checker(t, CheckerOptions{}).Check(t.Context(), name, want)
		if err != nil || r.Verdict != Missing || !strings.Contains(r.Detail, text) {
			t.Errorf("%s: %+v, %v", name, r, err)
		}
	}
	if n := w.servers[0].count("TXT 2026a._domainkey.gone.invalid"); n > 0 {
		t.Errorf("%d questions about a top-level domain that does not exist", n)
	}
}

func TestManyServersAreNotAllAsked(t *testing.T) {
	want := wanted(t, keystore.Ed25519, RecordOptions{})
	w := newWorld(t, three, txt(checkedName, want.String()))
	for i := range 100 {
		w.resolver.add(t, fmt.Sprintf("ns3.example.com. IN A 127.0.1.%d\n", i+1))
	}
	r, err := w.checker(t, CheckerOptions{}).Check(t.Context(), checkedName, want)
	if err != nil || len(r.Servers) != maxServers || !strings.Contains(r.Detail, "71 more servers were not asked") {
		t.Errorf("%d servers, %+v, %v", len(r.Servers), r, err)
	}
}

func TestServersNotAskedCouldShowSomethingElse(t *testing.T) {
	r := &Report{Verdict: Matches, Servers: []ServerReport{{Verdict: Matches}}}
	if s := r.Sight(time.Now()); s.State != keystore.Shown {
		t.Errorf("the only server: %+v", s)
	}
	r.left = 1
	if s := r.Sight(time.Now()); s.State != keystore.Unknown {
		t.Errorf("one of two servers: %+v", s)
	}
}

func TestAnswersToOtherQuestionsArePassedOver(t *testing.T) {
	q := new(mdns.Msg).SetQuestion("a.example.com.", mdns.TypeTXT)
	for name, test := range map[string]struct {
		change func(m *mdns.Msg)
		want   bool
	}{
		"the answer":                         {func(m *mdns.Msg) {}, true},
		"in other letters":                   {func(m *mdns.Msg) { m.Question[0].Name = "A.example.COM." }, true},
		"another id":                         {func(m *mdns.Msg) { m.Id++ }, false},
		"a question":                         {func(m *mdns.Msg) { m.Response = false }, false},
		"another name":                       {func(m *mdns.Msg) { m.Question[0].Name = "b.example.com." }, false},
		"another type":                       {func(m *mdns.Msg) { m.Question[0].Qtype = mdns.TypeA }, false},
		"another class":                      {func(m *mdns.Msg) { m.Question[0].Qclass = mdns.ClassCHAOS }, false},
		"an update":                          {func(m *mdns.Msg) { m.Opcode = mdns.OpcodeUpdate }, false},
		"without the question":               {func(m *mdns.Msg) { m.Question = nil }, false},
		"two questions":                      {func(m *mdns.Msg) { m.Question = append(m.Question, m.Question[0]) }, false},
		"an error without the question":      {func(m *mdns.Msg) { m.Question, m.Rcode = nil, mdns.RcodeFormatError }, true},
		"no such name, without the question": {func(m *mdns.Msg) { m.Question, m.Rcode = nil, mdns.RcodeNameError }, false},
	} {
		m := new(mdns.Msg).SetReply(q)
		test.change(m)
		if got := answers(m, q); got != test.want {
			t.Errorf("%s: %v, want %v", name, got, test.want)
		}
	}
}

func TestForgedPacketsDoNotEndTheWait(t *testing.T) {
	want := wanted(t, keystore.Ed25519, RecordOptions{})
	w := newWorld(t, []string{"127.0.0.2"}, txt(checkedName, want.String()))
	c := w.checker(t, CheckerOptions{})
	// The server itself sends what a forger would: a wrong id, and rubbish.
	s := w.servers[0]
	s.alter(nil, func(q *mdns.Msg) [][]byte {
		other := new(mdns.Msg).SetRcode(q, mdns.RcodeNameError)
		other.Id++
		data, _ := other.Pack()
		return [][]byte{data, {}, []byte("x"), data[:20]}
	})
	if r, err := c.Check(t.Context(), checkedName, want); err != nil || r.Verdict != Matches {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestCheckRefusesWhatIsNoName(t *testing.T) {
	want := wanted(t, keystore.Ed25519, RecordOptions{})
	c, err := NewChecker(CheckerOptions{Resolvers: []string{"127.0.0.1"}})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"", ".", "a b", "a..b", strings.Repeat("a", 64), strings.Repeat("a.", 127) + "aa", "ä.de"} {
		if r, err := c.Check(t.Context(), name, want); err == nil {
			t.Errorf("%q: %+v", name, r)
		}
		if f, err := c.Leftovers(t.Context(), name); err == nil {
			t.Errorf("%q: %+v", name, f)
		}
	}
	if r, err := c.Check(t.Context(), checkedName, nil); err == nil {
		t.Errorf("without a record: %+v", r)
	}
}

func TestNewCheckerOptions(t *testing.T) {
	for _, test := range []struct {
		o   CheckerOptions
		err string
	}{
		{CheckerOptions{Resolvers: []string{"192.0.2.1", "192.0.2.1:5353", "2001:db8::1", "[2001:db8::1]", "[2001:db8::1]:53", "fe80::1%lo"}}, ""},
		{CheckerOptions{Resolvers: []string{"dns.example.com"}}, `want "IP:PORT"`},
		{CheckerOptions{Resolvers: []string{"192.0.2.1:0"}}, `want "IP:PORT"`},
		{CheckerOptions{Resolvers: []string{""}}, `want "IP:PORT"`},
		{CheckerOptions{Resolvers: []string{"192.0.2.1"}, Timeout: -1}, "negative"},
		{CheckerOptions{Resolvers: []string{"192.0.2.1"}, Questions: -1}, "negative"},
		{CheckerOptions{Resolvers: []string{"192.0.2.1"}, PerSecond: -1}, "negative"},
	} {
		c, err := NewChecker(test.o)
		if test.err == "" {
			if err != nil || len(c.resolvers) != len(test.o.Resolvers) || cap(c.asker.slots) != 32 || c.asker.every != 5*time.Millisecond || c.asker.timeout != 3*time.Second || c.port != 53 {
				t.Errorf("%+v: %+v, %v", test.o, c, err)
			}
			for _, r := range c.resolvers {
				if r.Port() != 53 && r.Port() != 5353 {
					t.Errorf("resolver %v", r)
				}
			}
		} else if err == nil || !strings.Contains(err.Error(), test.err) {
			t.Errorf("%+v: %v, want %q", test.o, err, test.err)
		}
	}
}

func TestLeftovers(t *testing.T) {
	const domain = "mail.example.com"
	for _, test := range []struct {
		name, records string
		want          []string // Severity, name and part of the text or the remedy
	}{
		{"nothing", "", []string{"note _dmarc.mail.example.com v=DMARC1; p=none; rua=mailto:postmaster@mail.example.com"}},
		{"a good one", txt("_dmarc."+domain, "v=DMARC1; p=reject"), nil},
		{"blanks in it", txt("_dmarc."+domain, "v = DMARC1 ; p=none"), nil},
		{"one above", txt("_dmarc.example.com", "v=DMARC1; p=reject"), nil},
		{"one at a top-level domain", txt("_dmarc.com", "v=DMARC1; p=reject"), []string{"note _dmarc.mail.example.com no DMARC"}},
		{"behind a CNAME", "_dmarc." + domain + ". IN CNAME d.example.com.\n" + txt("d.example.com", "v=DMARC1; p=none"), nil},
		{"something else there", txt("_dmarc."+domain, "v=spf1 -all"), []string{"note _dmarc.mail.example.com no DMARC"}},
		{"two", txt("_dmarc."+domain, "v=DMARC1; p=none") + txt("_dmarc."+domain, "v=DMARC1; p=reject"), []string{"warning _dmarc.mail.example.com 2 DMARC records"}},
		{"a policy of DomainKeys", txt("_dmarc."+domain, "v=DMARC1; p=none") + txt("_policy._domainkey."+domain, "o=~; r=x@example.com"),
			[]string{"note _policy._domainkey.mail.example.com RFC 4870"}},
		{"an ADSP policy", txt("_dmarc."+domain, "v=DMARC1; p=none") + txt("_adsp._domainkey."+domain, "dkim=all"),
			[]string{"note _adsp._domainkey.mail.example.com RFC 5617"}},
		{"a wildcard's key record", txt("_dmarc."+domain, "v=DMARC1; p=none") + txt("*._domainkey."+domain, "t=y; p=x"), nil},
		{"a wildcard's policy", txt("_dmarc."+domain, "v=DMARC1; p=none") + txt("*._domainkey."+domain, "v=spf1 -all"), nil},
	} {
		w := newWorld(t, nil, test.records)
		found, err := w.checker(t, CheckerOptions{}).Leftovers(t.Context(), domain)
		if err != nil || len(found) != len(test.want) {
			t.Errorf("%s: %+v, %v; want %q", test.name, found, err, test.want)
			continue
		}
		for i, f := range found {
			words := strings.SplitN(test.want[i], " ", 3)
			if string(f.Severity) != words[0] || f.Name != words[1] || !strings.Contains(f.Text+f.Remedy, words[2]) || f.Text == "" || f.Remedy == "" {
				t.Errorf("%s: %+v, want %q", test.name, f, test.want[i])
			}
		}
	}
	w := newWorld(t, nil, "")
	w.resolver.alter(func(q, m *mdns.Msg, tcp bool) *mdns.Msg { return new(mdns.Msg).SetRcode(q, mdns.RcodeRefused) }, nil)
	if found, err := w.checker(t, CheckerOptions{}).Leftovers(t.Context(), domain); err == nil || !strings.Contains(err.Error(), "_policy._domainkey") || !strings.Contains(err.Error(), "REFUSED") {
		t.Errorf("a resolver that refuses: %+v, %v", found, err)
	}
}
