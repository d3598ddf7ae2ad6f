package dns

import (
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	mdns "github.com/miekg/dns"
)

const (
	testKey    = "key \"waxseal\" {\n\talgorithm hmac-sha256;\n\tsecret \"c2VjcmV0IG9mIHRoaXJ0eS10d28gb2N0ZXRzICEhISE=\";\n};\n"
	testSecret = "c2VjcmV0IG9mIHRoaXJ0eS10d28gb2N0ZXRzICEhISE="
)

// updateServer is a primary of example.com inside the test's process. It takes
// updates for what RFC 2136 has of TXT records.
type updateServer struct {
	addr string
	zone string // with the final dot

	mu      sync.Mutex
	records map[string][]mdns.RR // by name, with the final dot; guarded by mu
	updates int                  // guarded by mu

	// answer, if not nil, may change an answer, or return nil for silence.
	answer func(q, r *mdns.Msg) *mdns.Msg
	plain  bool // sends no signatures
}

func startUpdateServer(t *testing.T, lines ...string) *updateServer {
	t.Helper()
	s := &updateServer{zone: "example.com.", records: map[string][]mdns.RR{}}
	for _, line := range append(lines, "example.com. 60 SOA ns.example.com. hostmaster.example.com. 1 2 3 4 5", "ns.example.com. 60 A 127.0.0.1") {
		rr, err := mdns.NewRR(line)
		if err != nil {
			t.Fatal(err)
		}
		s.records[rr.Header().Name] = append(s.records[rr.Header().Name], rr)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p, err := net.ListenPacket("udp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	s.addr = l.Addr().String()
	secrets := map[string]string{"waxseal.": testSecret}
	var running sync.WaitGroup
	t.Cleanup(running.Wait) // runs last
	// The library's server otherwise refuses updates.
	accept := func(mdns.Header) mdns.MsgAcceptAction { return mdns.MsgAccept }
	for _, server := range []*mdns.Server{
		{Listener: l, TsigSecret: secrets, Handler: s, MsgAcceptFunc: accept},
		{PacketConn: p, TsigSecret: secrets, Handler: s, MsgAcceptFunc: accept},
	} {
		started := make(chan struct{})
		server.NotifyStartedFunc = func() { close(started) }
		running.Go(func() { _ = server.ActivateAndServe() })
		<-started
		t.Cleanup(func() { _ = server.Shutdown() })
	}
	return s
}

func (s *updateServer) ServeDNS(w mdns.ResponseWriter, q *mdns.Msg) {
	r := new(mdns.Msg)
	r.SetReply(q)
	r.Authoritative = true
	switch t := q.IsTsig(); {
	case t != nil && w.TsigStatus() != nil:
		r.Rcode = mdns.RcodeNotAuth
		bad := mdns.RcodeBadSig
		if t.Hdr.Name != "waxseal." {
			bad = mdns.RcodeBadKey
		} else if w.TsigStatus() == mdns.ErrTime {
			bad = mdns.RcodeBadTime
		}
		r.SetTsig(t.Hdr.Name, t.Algorithm, 300, int64(t.TimeSigned))
		r.IsTsig().Error = uint16(bad)
		if bad == mdns.RcodeBadTime {
			r.IsTsig().OtherData, r.IsTsig().OtherLen = hex48(time.Now()), 6
		}
	case q.Opcode == mdns.OpcodeUpdate && t == nil:
		r.Rcode = mdns.RcodeRefused
	default:
		s.mu.Lock()
		if q.Opcode == mdns.OpcodeUpdate {
			r.Rcode = s.update(q)
		} else {
			s.lookup(q.Question[0], r)
		}
		s.mu.Unlock()
		if s.answer != nil {
			if r = s.answer(q, r); r == nil {
				return
			}
		}
		if t != nil && !s.plain {
			r.SetTsig(t.Hdr.Name, t.Algorithm, 300, time.Now().Unix())
		}
	}
	_ = w.WriteMsg(r)
}

func hex48(t time.Time) string {
	const digits = "0123456789abcdef"
	out := make([]byte, 12)
	for i, n := 11, t.Unix(); i >= 0; i, n = i-1, n>>4 {
		out[i] = digits[n&15]
	}
	return string(out)
}

func (s *updateServer) lookup(q mdns.Question, r *mdns.Msg) {
	name := strings.ToLower(q.Name)
	rrs, ok := s.records[name]
	if !ok {
		_, above, _ := strings.Cut(name, ".")
		for _, rr := range s.records["*."+above] {
			rr = mdns.Copy(rr)
			rr.Header().Name = q.Name
			rrs = append(rrs, rr)
		}
	}
	for _, rr := range rrs {
		if kind := rr.Header().Rrtype; kind == q.Qtype || kind == mdns.TypeCNAME {
			r.Answer = append(r.Answer, rr)
		}
	}
	if len(r.Answer) == 0 {
		r.Ns = s.records[s.zone][:1]
		if len(rrs) == 0 {
			r.Rcode = mdns.RcodeNameError
		}
	}
}

func (s *updateServer) update(q *mdns.Msg) int {
	if q.Question[0].Name != s.zone {
		return mdns.RcodeNotAuth
	}
	var want []mdns.RR
	for _, p := range q.Answer {
		h := p.Header()
		has := slices.ContainsFunc(s.records[h.Name], func(rr mdns.RR) bool { return rr.Header().Rrtype == h.Rrtype })
		switch {
		case h.Class == mdns.ClassNONE && has:
			return mdns.RcodeYXRrset
		case h.Class == mdns.ClassINET:
			want = append(want, p)
		}
	}
	if len(want) > 0 {
		name := want[0].Header().Name
		if values(s.records[name]) != values(want) {
			return mdns.RcodeNXRrset
		}
	}
	s.updates++
	for _, p := range q.Ns {
		h := p.Header()
		if h.Class == mdns.ClassANY {
			s.records[h.Name] = slices.DeleteFunc(s.records[h.Name], func(rr mdns.RR) bool { return rr.Header().Rrtype == h.Rrtype })
		} else {
			s.records[h.Name] = append(s.records[h.Name], p)
		}
		if len(s.records[h.Name]) == 0 {
			delete(s.records, h.Name)
		}
	}
	return mdns.RcodeSuccess
}

func values(rrs []mdns.RR) string {
	var all []string
	for _, rr := range rrs {
		if txt, ok := rr.(*mdns.TXT); ok {
			all = append(all, octets(strings.Join(txt.Txt, "")))
		}
	}
	slices.Sort(all)
	return strings.Join(all, "\n")
}

// at returns the values and the TTL of the TXT records of a name.
func (s *updateServer) at(name string) (string, uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	rrs := s.records[name+"."]
	if len(rrs) == 0 {
		return "", 0
	}
	return values(rrs), rrs[0].Header().Ttl
}

func (s *updateServer) made() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.updates
}

// set changes a name behind the client's back.
func (s *updateServer) set(t *testing.T, line string) {
	t.Helper()
	rr, err := mdns.NewRR(line)
	if err != nil {
		t.Fatal(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.records[rr.Header().Name] = []mdns.RR{rr}
}

// updateTo returns an Update for the server, with the options changed.
func (s *updateServer) updateTo(t *testing.T, change func(*UpdateOptions)) *Update {
	t.Helper()
	key, err := ParseTSIGKey([]byte(testKey))
	if err != nil {
		t.Fatal(err)
	}
	o := UpdateOptions{Server: s.addr, Key: key, Timeout: 5 * time.Second}
	if change != nil {
		change(&o)
	}
	u, err := NewUpdate(o)
	if err != nil {
		t.Fatal(err)
	}
	return u
}
