package dns

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	mdns "github.com/miekg/dns"
)

// world is a resolver and authoritative servers on loopback addresses, all at
// one port. Each has records of its own, so that they can differ.
type world struct {
	resolver *fakeServer
	servers  []*fakeServer // of example.com: ns1, ns2, …
	port     uint16
}

// fakeServer answers from its records.
type fakeServer struct {
	addr    netip.Addr
	recurse bool

	mu      sync.Mutex
	records []mdns.RR // guarded by mu
	asked   []string  // "TXT name" of each question; guarded by mu
	change  change    // guarded by mu
	forge   forge     // guarded by mu
}

// change makes another answer m of the right one; nil is none.
type change func(q, m *mdns.Msg, tcp bool) *mdns.Msg

// forge returns packets to send before the answer.
type forge func(q *mdns.Msg) [][]byte

// alter has the server answer otherwise from now on.
func (s *fakeServer) alter(c change, f forge) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.change, s.forge = c, f
}

// ownRecords is what the resolver knows of example.com besides what a test adds. The
// resolver's TTLs are on their way down.
const ownRecords = `
$TTL 120
com. IN SOA a.com. b.com. 1 2 3 4 900
example.com. IN SOA ns1.example.com. admin.example.com. 1 3600 900 604800 60
`

// newWorld makes servers of example.com at the addresses, each with the records.
func newWorld(t testing.TB, addrs []string, records string) *world {
	t.Helper()
	w := &world{resolver: &fakeServer{addr: netip.MustParseAddr("127.0.0.1"), recurse: true}}
	delegation := ""
	for i, a := range addrs {
		addr := netip.MustParseAddr(a)
		name := "ns" + string(rune('1'+i)) + ".example.com. "
		kind := " IN A "
		if addr.Is6() {
			kind = " IN AAAA "
		}
		delegation += "example.com. 120 IN NS " + name + "\n" + name + "120" + kind + a + "\n"
		w.servers = append(w.servers, &fakeServer{addr: addr})
	}
	w.resolver.add(t, ownRecords+delegation+records)
	for _, s := range w.servers {
		s.add(t, strings.Replace(ownRecords, "com. IN SOA a.com. b.com. 1 2 3 4 900", "", 1)+delegation+records)
	}
	w.start(t)
	return w
}

// add adds records in a zone file's form.
func (s *fakeServer) add(t testing.TB, text string) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	p := mdns.NewZoneParser(strings.NewReader(text), ".", "")
	p.SetDefaultTTL(300)
	for rr, ok := p.Next(); ok; rr, ok = p.Next() {
		s.records = append(s.records, rr)
	}
	if err := p.Err(); err != nil {
		t.Fatal(err)
	}
}

// remove removes the records of a name.
func (s *fakeServer) remove(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.records = slices.DeleteFunc(s.records, func(rr mdns.RR) bool { return sameName(rr.Header().Name, name) })
}

// start listens, over UDP and TCP, on a port that is free at all addresses.
func (w *world) start(t testing.TB) {
	t.Helper()
	all := append([]*fakeServer{w.resolver}, w.servers...)
	for try := 0; ; try++ {
		running, err := w.listen(all)
		if err == nil {
			t.Cleanup(func() {
				for _, s := range running {
					_ = s.Shutdown()
				}
			})
			return
		}
		for _, s := range running {
			_ = s.Shutdown()
		}
		if try == 20 {
			t.Fatal(err)
		}
	}
}

func (w *world) listen(all []*fakeServer) (running []*mdns.Server, err error) {
	w.port = 0
	for _, s := range all {
		tcp, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(netip.AddrPortFrom(s.addr, w.port)))
		if err != nil {
			return running, err
		}
		w.port = tcp.Addr().(*net.TCPAddr).AddrPort().Port()
		udp, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(s.addr, w.port)))
		if err != nil {
			tcp.Close()
			return running, err
		}
		for _, server := range []*mdns.Server{{Listener: tcp, Handler: s}, {PacketConn: udp, Handler: s}} {
			started := make(chan struct{})
			server.NotifyStartedFunc = func() { close(started) }
			go func() { _ = server.ActivateAndServe() }()
			<-started
			running = append(running, server)
		}
	}
	return running, nil
}

// checker returns a Checker of this world that is in a hurry.
func (w *world) checker(t testing.TB, o CheckerOptions) *Checker {
	t.Helper()
	o.Resolvers, o.Port = []string{netip.AddrPortFrom(w.resolver.addr, w.port).String()}, w.port
	if o.PerSecond == 0 {
		o.PerSecond = 100000
	}
	if o.Timeout == 0 {
		o.Timeout = 5 * time.Second
	}
	c, err := NewChecker(o)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func (s *fakeServer) ServeDNS(w mdns.ResponseWriter, q *mdns.Msg) {
	_, tcp := w.RemoteAddr().(*net.TCPAddr)
	s.mu.Lock()
	forge := s.forge
	s.mu.Unlock()
	if forge != nil {
		for _, data := range forge(q) {
			_, _ = w.Write(data)
		}
	}
	if m := s.answer(q, tcp); m != nil {
		_ = w.WriteMsg(m)
	}
}

// answer answers a question; tcp says how it came.
func (s *fakeServer) answer(q *mdns.Msg, tcp bool) *mdns.Msg {
	name, kind := q.Question[0].Name, q.Question[0].Qtype
	s.mu.Lock()
	s.asked = append(s.asked, mdns.TypeToString[kind]+" "+plain(name))
	m := new(mdns.Msg)
	m.SetReply(q)
	m.Authoritative, m.RecursionAvailable = !s.recurse, s.recurse
	for range 12 {
		next := s.lookUp(m, name, kind)
		if next == "" || !s.recurse {
			break
		}
		name = next
	}
	change := s.change
	s.mu.Unlock()
	if !tcp {
		size := mdns.MinMsgSize
		if opt := q.IsEdns0(); opt != nil {
			size = int(opt.UDPSize())
			m.SetEdns0(udpSize, false)
		}
		m.Truncate(size)
	}
	if change != nil {
		return change(q, m, tcp)
	}
	return m
}

// lookUp adds to m what there is at the name, and returns where a CNAME leads.
// s.mu is held.
func (s *fakeServer) lookUp(m *mdns.Msg, name string, kind uint16) (next string) {
	m.Rcode = mdns.RcodeNameError
	var soa *mdns.SOA
	find := func(owner string) bool {
		found := false
		for _, rr := range s.records {
			h := rr.Header()
			if sameName(h.Name, owner) {
				found, m.Rcode = true, mdns.RcodeSuccess
				if cname, ok := rr.(*mdns.CNAME); ok && kind != mdns.TypeCNAME {
					next = cname.Target
				} else if h.Rrtype != kind {
					continue
				}
				rr = mdns.Copy(rr)
				rr.Header().Name = name
				m.Answer = append(m.Answer, rr)
			} else if mdns.IsSubDomain(owner, h.Name) {
				m.Rcode = mdns.RcodeSuccess // an empty name between
			}
		}
		return found
	}
	if !find(name) && m.Rcode == mdns.RcodeNameError {
		find("*." + name[strings.Index(name, ".")+1:])
	}
	for _, rr := range s.records {
		if r, ok := rr.(*mdns.SOA); ok && mdns.IsSubDomain(r.Hdr.Name, name) && (soa == nil || len(r.Hdr.Name) > len(soa.Hdr.Name)) {
			soa = r
		}
	}
	if len(m.Answer) == 0 && soa != nil {
		soa = mdns.Copy(soa).(*mdns.SOA)
		soa.Hdr.Ttl = min(soa.Hdr.Ttl, soa.Minttl)
		m.Ns = append(m.Ns, soa)
	}
	return next
}

// count returns how many questions there were with this prefix.
func (s *fakeServer) count(prefix string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, q := range s.asked {
		if strings.HasPrefix(q, prefix) {
			n++
		}
	}
	return n
}

// dialer fails for addresses for which refuse returns an error.
func dialer(dial func(context.Context, string, string) (net.Conn, error), refuse func(netip.Addr) error) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		if err := refuse(netip.MustParseAddrPort(address).Addr()); err != nil {
			return nil, err
		}
		return dial(ctx, network, address)
	}
}
