package dnstest

import (
	"net/netip"
	"sort"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// Server is a DNS server inside the test's process: it serves zones as they
// should be served, except for the names that have a handler.
type Server struct {
	Addr string // "IP:PORT"

	recursion bool
	stopped   chan struct{}

	mu       sync.Mutex // guards all below
	zones    map[string]*zone
	handlers map[string]Handler
	asked    []asked
	open     int
	mostOpen int
}

type asked struct {
	name  string
	qtype uint16
	at    time.Time
}

// Question is what a handler answers.
type Question struct {
	Msg  *dns.Msg
	Name string // in lower case, without the final dot
	Type uint16
	TCP  bool

	server *Server
}

// Handler returns the answer to a question, or nil to drop it. It may run many
// times at once.
type Handler func(*Question) *dns.Msg

// ServerOptions is what a Server is like. The zero value is an authoritative
// one at an address of its choice.
type ServerOptions struct {
	Addr netip.AddrPort // default: as Address chooses

	// Recursion makes it answer as a resolver does: without authority, along
	// CNAMEs from one of its zones into another.
	Recursion bool
}

// Serve starts a server.
func Serve(t testing.TB, o ServerOptions) *Server {
	t.Helper()
	if !o.Addr.IsValid() {
		o.Addr = Address(t, 0)
	}
	s := &Server{
		Addr: o.Addr.String(), recursion: o.Recursion, stopped: make(chan struct{}),
		zones: map[string]*zone{}, handlers: map[string]Handler{},
	}
	l, p := listen(t, o.Addr)
	var running sync.WaitGroup
	servers := []*dns.Server{
		{PacketConn: p, Handler: s.handler(false)},
		{Listener: l, Handler: s.handler(true), IdleTimeout: func() time.Duration { return time.Second }},
	}
	for _, d := range servers {
		started := make(chan struct{})
		d.NotifyStartedFunc = func() { close(started) }
		running.Go(func() {
			if err := d.ActivateAndServe(); err != nil {
				t.Errorf("%s: %v", s.Addr, err)
			}
		})
		<-started
	}
	t.Cleanup(func() {
		close(s.stopped)
		for _, d := range servers {
			d.Shutdown()
		}
		running.Wait()
	})
	return s
}

// Zone adds a zone, or replaces it: name is its apex, text is in the form of a
// zone file with that origin, SOA and NS included.
func (s *Server) Zone(t testing.TB, name, text string) {
	t.Helper()
	z := parseZone(t, name, text)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.zones[z.apex] = z
}

// Handle has the handler answer all questions about a name; "" means every
// name without a handler of its own, nil ends it.
func (s *Server) Handle(name string, h Handler) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.handlers[canonical(name)] = h
}

// Questions returns how many questions have come.
func (s *Server) Questions() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.asked)
}

// Asked returns how many questions about the name and type have come.
func (s *Server) Asked(name string, qtype uint16) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, a := range s.asked {
		if a.name == canonical(name) && a.qtype == qtype {
			n++
		}
	}
	return n
}

// MostOpen returns the greatest number of questions that waited for their
// answers at one time.
func (s *Server) MostOpen() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mostOpen
}

// MostWithin returns the greatest number of questions that came within any
// time of the given length.
func (s *Server) MostWithin(d time.Duration) (most int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, a := range s.asked {
		end := sort.Search(len(s.asked), func(j int) bool { return s.asked[j].at.Sub(a.at) >= d })
		most = max(most, end-i)
	}
	return most
}

// handler answers one question and counts it.
func (s *Server) handler(tcp bool) dns.HandlerFunc {
	return func(w dns.ResponseWriter, m *dns.Msg) {
		if len(m.Question) != 1 {
			w.WriteMsg(new(dns.Msg).SetRcode(m, dns.RcodeFormatError))
			return
		}
		q := &Question{Msg: m, Name: canonical(m.Question[0].Name), Type: m.Question[0].Qtype, TCP: tcp, server: s}
		s.mu.Lock()
		s.asked = append(s.asked, asked{q.Name, q.Type, time.Now()})
		s.open++
		s.mostOpen = max(s.mostOpen, s.open)
		h := s.handlers[q.Name]
		if h == nil {
			h = s.handlers[""]
		}
		s.mu.Unlock()
		if h == nil {
			h = (*Question).Normal
		}
		r := h(q)
		s.mu.Lock()
		s.open--
		s.mu.Unlock()
		if r != nil {
			w.WriteMsg(r)
		}
	}
}

// canonical returns a name in lower case without the final dot.
func canonical(name string) string { return strings.ToLower(strings.TrimSuffix(name, ".")) }
