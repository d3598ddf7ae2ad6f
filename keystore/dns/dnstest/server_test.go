package dnstest

import (
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
)

const exampleZone = `@ 60 SOA ns1 hostmaster 1 3600 60 86400 7
@ NS ns1
ns1 A 127.0.0.1
one._domainkey TXT "a" "b"
two._domainkey TXT "first"
two._domainkey TXT "second"
alias._domainkey CNAME one._domainkey
abroad._domainkey CNAME key.example.net.
nowhere._domainkey CNAME none.example.net.
unknown._domainkey CNAME key.elsewhere.test.
loop1 CNAME loop2
loop2 CNAME loop1
*.wild TXT "any"
child NS ns.child
`

func serveExample(t *testing.T, o ServerOptions) *Server {
	s := Serve(t, o)
	s.Zone(t, "example.com", exampleZone)
	s.Zone(t, "example.net", "@ SOA ns1 hostmaster 1 3600 60 86400 7\nkey TXT \"over there\"\n")
	return s
}

func TestServerAnswersAsItShould(t *testing.T) {
	authority, resolver := serveExample(t, ServerOptions{}), serveExample(t, ServerOptions{Recursion: true})
	for _, c := range []struct {
		name        string
		s           *Server
		rcode       int
		authority   bool
		answers, ns int
	}{
		{"one._domainkey.example.com", authority, dns.RcodeSuccess, true, 1, 0},
		{"ONE._DomainKey.example.com", authority, dns.RcodeSuccess, true, 1, 0},
		{"two._domainkey.example.com", authority, dns.RcodeSuccess, true, 2, 0},
		{"_domainkey.example.com", authority, dns.RcodeSuccess, true, 0, 1}, // empty, but there
		{"three._domainkey.example.com", authority, dns.RcodeNameError, true, 0, 1},
		{"alias._domainkey.example.com", authority, dns.RcodeSuccess, true, 2, 0},
		{"abroad._domainkey.example.com", authority, dns.RcodeSuccess, true, 1, 0},
		{"abroad._domainkey.example.com", resolver, dns.RcodeSuccess, false, 2, 0},
		{"nowhere._domainkey.example.com", resolver, dns.RcodeNameError, false, 1, 1},
		{"unknown._domainkey.example.com", resolver, dns.RcodeServerFailure, false, 0, 0},
		{"loop1.example.com", authority, dns.RcodeSuccess, true, maxChain, 0},
		{"loop1.example.com", resolver, dns.RcodeServerFailure, false, 0, 0},
		{"a.b.wild.example.com", authority, dns.RcodeSuccess, true, 1, 0},
		{"s._domainkey.child.example.com", authority, dns.RcodeSuccess, false, 0, 1},
		{"example.org", authority, dns.RcodeRefused, false, 0, 0},
	} {
		r := Query(t, c.s.Addr, c.name, dns.TypeTXT)
		if r.Rcode != c.rcode || r.Authoritative != c.authority || len(r.Answer) != c.answers || len(r.Ns) != c.ns {
			t.Errorf("%s: want %s, authority %v, %d and %d records; got\n%v", c.name, dns.RcodeToString[c.rcode], c.authority, c.answers, c.ns, r)
		}
	}
	if got := TXT(t, authority.Addr, "one._domainkey.example.com"); !slices.Equal(got, []string{"ab"}) {
		t.Errorf("value %q", got)
	}
	if soa := Query(t, authority.Addr, "none.example.com", dns.TypeTXT).Ns[0]; soa.Header().Ttl != 7 {
		t.Errorf("negative TTL %d, want the SOA's minimum, 7 (RFC 2308, section 5)", soa.Header().Ttl)
	}
}

// ask asks once over the network given; nil when no answer comes.
func ask(s *Server, network, name string, change func(*dns.Msg)) *dns.Msg {
	m := new(dns.Msg).SetQuestion(dns.Fqdn(name), dns.TypeTXT)
	if change != nil {
		change(m)
	}
	r, _, err := (&dns.Client{Net: network, Timeout: 200 * time.Millisecond}).Exchange(m, s.Addr)
	if err != nil {
		return nil
	}
	return r
}

func TestHandlers(t *testing.T) {
	s := serveExample(t, ServerOptions{})
	lie := Answer(t, `x.example.com. 9 TXT "lie"`)
	checkingDisabled := func(m *dns.Msg) { m.CheckingDisabled = true }
	for _, c := range []struct {
		name    string
		handler Handler
		network string
		change  func(*dns.Msg)
		want    func(*dns.Msg) bool
	}{
		{"a lie", lie, "udp", nil, func(r *dns.Msg) bool { return len(r.Answer) == 1 }},
		{"a code", Fail(dns.RcodeRefused), "udp", nil, func(r *dns.Msg) bool { return r.Rcode == dns.RcodeRefused }},
		{"nothing", Drop, "udp", nil, func(r *dns.Msg) bool { return r == nil }},
		{"nothing over TCP", Drop, "tcp", nil, func(r *dns.Msg) bool { return r == nil }},
		{"too slow", Slow(time.Minute, lie), "udp", nil, func(r *dns.Msg) bool { return r == nil }},
		{"slow", Slow(time.Millisecond, lie), "udp", nil, func(r *dns.Msg) bool { return len(r.Answer) == 1 }},
		{"cut over UDP", TruncateUDP(lie), "udp", nil, func(r *dns.Msg) bool { return r.Truncated && r.Answer == nil }},
		{"whole over TCP", TruncateUDP(lie), "tcp", nil, func(r *dns.Msg) bool { return !r.Truncated && len(r.Answer) == 1 }},
		{"only UDP", OnlyUDP(lie), "udp", nil, func(r *dns.Msg) bool { return len(r.Answer) == 1 }},
		{"no TCP", OnlyUDP(lie), "tcp", nil, func(r *dns.Msg) bool { return r == nil }},
		{"bogus", Bogus(lie), "udp", nil, func(r *dns.Msg) bool { return r.Rcode == dns.RcodeServerFailure }},
		{"not checked", Bogus(lie), "udp", checkingDisabled, func(r *dns.Msg) bool { return len(r.Answer) == 1 }},
		{"lame", Lame(lie), "udp", nil, func(r *dns.Msg) bool { return !r.Authoritative }},
	} {
		s.Handle("x.example.com", c.handler)
		if r := ask(s, c.network, "X.example.com", c.change); c.want(r) == false {
			t.Errorf("%s: %v", c.name, r)
		}
	}
	s.Handle("x.example.com", InTurn(lie, Fail(dns.RcodeRefused)))
	for i, want := range []int{dns.RcodeSuccess, dns.RcodeRefused, dns.RcodeRefused} {
		if r := ask(s, "udp", "x.example.com", nil); r == nil || r.Rcode != want {
			t.Errorf("question %d: %v", i, r)
		}
	}
	s.Handle("x.example.com", nil)
	s.Handle("", Fail(dns.RcodeNotZone))
	if r := ask(s, "udp", "x.example.com", nil); r == nil || r.Rcode != dns.RcodeNotZone {
		t.Errorf("by the handler of all names: %v", r)
	}
}

func TestLongAnswersNeedTCP(t *testing.T) {
	s := serveExample(t, ServerOptions{})
	long := `"` + string(slices.Repeat([]byte("x"), 250)) + `" `
	s.Zone(t, "example.org", "@ SOA ns1 h 1 1 1 1 1\nlong TXT "+long+long+long+"\n")
	if r := ask(s, "udp", "long.example.org", nil); r == nil || !r.Truncated {
		t.Errorf("without EDNS: %v", r)
	}
	if r := ask(s, "udp", "long.example.org", func(m *dns.Msg) { m.SetEdns0(1232, false) }); r == nil || r.Truncated || len(r.Answer) != 1 {
		t.Errorf("with EDNS: %v", r)
	}
	if got := TXT(t, s.Addr, "long.example.org"); len(got) != 1 || len(got[0]) != 750 {
		t.Errorf("got %q", got)
	}
}

func TestCounts(t *testing.T) {
	s := serveExample(t, ServerOptions{})
	all := make(chan struct{})
	var waiting sync.WaitGroup
	waiting.Add(5)
	s.Handle("x.example.com", func(q *Question) *dns.Msg {
		waiting.Done()
		<-all
		return q.Normal()
	})
	var clients sync.WaitGroup
	for range 5 {
		clients.Go(func() { ask(s, "tcp", "x.example.com", nil) })
	}
	waiting.Wait()
	close(all)
	clients.Wait()
	Query(t, s.Addr, "one._domainkey.example.com", dns.TypeTXT)
	if s.Questions() != 6 || s.MostOpen() != 5 || s.Asked("X.example.com.", dns.TypeTXT) != 5 || s.Asked("x.example.com", dns.TypeA) != 0 {
		t.Errorf("%d questions, %d open, %d about x", s.Questions(), s.MostOpen(), s.Asked("x.example.com", dns.TypeTXT))
	}
	if most := s.MostWithin(time.Hour); most != 6 {
		t.Errorf("%d within an hour, want 6", most)
	}
	if most := s.MostWithin(1); most < 1 || most > 6 {
		t.Errorf("%d within a nanosecond", most)
	}
}

func TestAddressesAreFree(t *testing.T) {
	a := Address(t, 0)
	if b := Address(t, a.Port()); b.Port() != a.Port() || b.Addr() == a.Addr() {
		t.Errorf("%v and %v, want one port and two addresses", a, b)
	}
	l, err := net.Listen("tcp", a.String())
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if free(a) == nil {
		t.Error("an address in use is called free")
	}
}
