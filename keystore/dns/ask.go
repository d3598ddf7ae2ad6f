package dns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	mdns "github.com/miekg/dns"
)

const (
	// udpSize is the answer we take over UDP: it passes everywhere without
	// being cut into fragments (DNS flag day 2020).
	udpSize = 1232

	// maxSilence is how many questions in a row an address may leave without
	// an answer; then it is left alone for silenceTime.
	maxSilence  = 3
	silenceTime = time.Minute

	// maxFamilySilence is the same for a whole family, IPv4 or IPv6, of which
	// no address ever answered.
	maxFamilySilence = 8

	// maxSilent bounds the addresses remembered as silent.
	maxSilent = 4096
)

// trouble is why a question has no answer.
type trouble struct {
	verdict Verdict
	text    string
}

func (t *trouble) Error() string { return t.text }

// question is what to ask a server.
type question struct {
	name      string // with the final dot
	kind      uint16
	recurse   bool // the server is a resolver
	unchecked bool // the resolver shall not check DNSSEC (CD)
}

// asker puts questions to servers. It keeps to a number of sockets open at a
// time, which are its slots, and to a number of questions a second.
type asker struct {
	timeout time.Duration
	dial    func(ctx context.Context, network, address string) (net.Conn, error)
	now     func() time.Time
	slots   chan struct{}
	every   time.Duration // between two questions

	mu       sync.Mutex
	next     time.Time              // when the next question may go out; guarded by mu
	silent   map[netip.Addr]silence // guarded by mu
	answered map[bool]bool          // whether any authoritative server ever did, over IPv4 (false) or IPv6 (true); guarded by mu
}

// silence is how long an address has not answered.
type silence struct {
	questions int
	last      time.Time
}

// ask returns the server's answer, whatever its code. It asks over UDP and a
// second time when nothing comes, over TCP when the answer does not fit, and
// without EDNS when the server does not know it (RFC 6891, section 7). The
// error is a *trouble unless ctx ended.
func (a *asker) ask(ctx context.Context, server netip.AddrPort, q question) (*mdns.Msg, error) {
	if err := a.leftAlone(server.Addr(), q.recurse); err != nil {
		return nil, err
	}
	m := new(mdns.Msg)
	m.SetQuestion(q.name, q.kind)
	m.RecursionDesired, m.CheckingDisabled = q.recurse, q.unchecked
	m.SetEdns0(udpSize, false)
	network, tries := "udp", 2
	for {
		m.Id = mdns.Id()
		r, err := a.exchange(ctx, network, server, m)
		switch {
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case err != nil:
			if tries--; tries > 0 && !isUnreachable(err) {
				continue
			}
			if !isUnreachable(err) { // that costs no time
				a.heard(server.Addr(), false, q.recurse)
			}
			return nil, a.explain(server.Addr(), network, err)
		case r.Truncated && network == "udp":
			network, tries = "tcp", 2
		case (r.Rcode == mdns.RcodeFormatError || r.Rcode == mdns.RcodeNotImplemented) && len(m.Extra) > 0:
			m.Extra = nil
		default:
			a.heard(server.Addr(), true, q.recurse)
			return r, nil
		}
	}
}

// exchange sends one packet and waits for its answer. A packet that is no
// answer to it, which anybody can send over UDP, is passed over.
func (a *asker) exchange(ctx context.Context, network string, server netip.AddrPort, m *mdns.Msg) (*mdns.Msg, error) {
	if err := a.slot(ctx); err != nil {
		return nil, err
	}
	defer func() { <-a.slots }()
	ctx, cancel := context.WithTimeout(ctx, a.timeout)
	defer cancel()
	conn, err := a.dial(ctx, network, server.String())
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	c := &mdns.Conn{Conn: conn, UDPSize: udpSize}
	if err := c.WriteMsg(m); err != nil {
		return nil, err
	}
	for {
		r, err := c.ReadMsg()
		var broken *mdns.Error
		if err != nil && (network != "udp" || !errors.As(err, &broken)) {
			return nil, err
		}
		if err == nil && answers(r, m) {
			return r, nil
		}
		if network != "udp" {
			return nil, errors.New("the answer is to another question")
		}
	}
}

// answers reports whether r is an answer to m. A server that did not
// understand the question need not repeat it.
func answers(r, m *mdns.Msg) bool {
	if r.Id != m.Id || !r.Response || r.Opcode != m.Opcode {
		return false
	}
	if len(r.Question) == 0 {
		return r.Rcode == mdns.RcodeFormatError || r.Rcode == mdns.RcodeNotImplemented || r.Rcode == mdns.RcodeRefused || r.Rcode == mdns.RcodeServerFailure
	}
	q := m.Question[0]
	return len(r.Question) == 1 && r.Question[0].Qtype == q.Qtype && r.Question[0].Qclass == q.Qclass && sameName(r.Question[0].Name, q.Name)
}

// slot waits until one more socket may be open, and then for the next moment
// at which a question may go out.
func (a *asker) slot(ctx context.Context) error {
	select {
	case a.slots <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	a.mu.Lock()
	// The machine's clock, not a.now: this is about the wire.
	now := time.Now()
	if a.next.Before(now) {
		a.next = now
	}
	wait := a.next.Sub(now)
	a.next = a.next.Add(a.every)
	a.mu.Unlock()
	if wait <= 0 {
		return nil
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		<-a.slots
		return ctx.Err()
	}
}

// leftAlone returns an error for an address that was silent just now, so that
// one dead server does not hold up the questions about all its zones; and for
// an authoritative server when its whole family was silent.
func (a *asker) leftAlone(addr netip.Addr, resolver bool) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	away := func(addr netip.Addr, limit int) bool {
		s := a.silent[addr]
		return s.questions >= limit && a.now().Sub(s.last) < silenceTime
	}
	switch {
	case away(addr, maxSilence):
		return &trouble{a.noAnswer(addr), fmt.Sprintf("no answer to the last %d questions", a.silent[addr].questions)}
	case !resolver && away(family(addr), maxFamilySilence):
		return &trouble{a.noAnswer(addr), "not asked, as nothing answers over this version of IP from here"}
	}
	return nil
}

// heard keeps account of who answers. A resolver, which may be on this machine,
// tells nothing about the way to anybody else.
func (a *asker) heard(addr netip.Addr, answered, resolver bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	f := family(addr)
	if answered {
		delete(a.silent, addr)
		if !resolver {
			a.answered[addr.Is6()] = true
			delete(a.silent, f)
		}
		return
	}
	for _, addr := range []netip.Addr{addr, f} {
		if addr == f && (resolver || a.answered[addr.Is6()]) {
			continue
		}
		if _, ok := a.silent[addr]; !ok && len(a.silent) >= maxSilent {
			clear(a.silent)
		}
		s := a.silent[addr]
		a.silent[addr] = silence{s.questions + 1, a.now()}
	}
}

// family stands for all addresses of the family of addr.
func family(addr netip.Addr) netip.Addr {
	if addr.Is6() {
		return netip.IPv6Unspecified()
	}
	return netip.IPv4Unspecified()
}

// noAnswer is the verdict on a silent address. When nothing ever answered over
// its family, but did over the other, it is not the server: many machines have
// no IPv6, or a route for it that leads nowhere. Anything less would let a
// server go uncounted because the network was away for a moment. a.mu is held.
func (a *asker) noAnswer(addr netip.Addr) Verdict {
	if !a.answered[addr.Is6()] && a.answered[!addr.Is6()] {
		return Unreachable
	}
	return Timeout
}

// explain puts an error of the network into words.
func (a *asker) explain(addr netip.Addr, network string, err error) *trouble {
	over := "UDP"
	if network == "tcp" {
		over = "TCP, which it needs because the answer does not fit into UDP"
	}
	a.mu.Lock()
	t := &trouble{verdict: a.noAnswer(addr)}
	a.mu.Unlock()
	var timeout net.Error
	switch {
	case isUnreachable(err):
		t.text = "this machine has no route to it"
	case errors.Is(err, syscall.ECONNREFUSED):
		t.text = "nothing answers on its port over " + over
	case !errors.As(err, &timeout) || !timeout.Timeout():
		t.text = fmt.Sprintf("no answer over %s: %v", over, err)
	case t.verdict == Unreachable:
		t.text = "no answer, and nothing else answers over this version of IP from here either"
	default:
		t.text = fmt.Sprintf("no answer over %s in %v, asked twice", over, a.timeout)
	}
	return t
}

// isUnreachable tells an address for which the machine has no route, or no
// address of its own in the same family, by what connect says of it.
func isUnreachable(err error) bool {
	return errors.Is(err, syscall.ENETUNREACH) || errors.Is(err, syscall.EADDRNOTAVAIL) || errors.Is(err, syscall.EAFNOSUPPORT)
}
