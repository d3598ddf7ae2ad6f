package dns

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	mdns "github.com/miekg/dns"

	"waxseal/keystore"
)

// hosting is a resolver and three servers with all the domains there are, each
// a zone of its own, in memory: so that the clock can be a fake one.
type hosting struct {
	value   string
	latency time.Duration

	mu         sync.Mutex
	open, most int         // sockets; guarded by mu
	dialed     []time.Time // guarded by mu
	resolved   map[string]int
}

func (h *hosting) dial(_ context.Context, _, address string) (net.Conn, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.open++
	h.most = max(h.most, h.open)
	h.dialed = append(h.dialed, time.Now())
	here, there := net.Pipe()
	go func() {
		defer there.Close()
		c := &mdns.Conn{Conn: there}
		q, err := c.ReadMsg()
		if err != nil {
			return
		}
		if h.latency > 0 {
			time.Sleep(h.latency)
		}
		_ = c.WriteMsg(h.answer(q, strings.HasPrefix(address, "127.0.0.1:")))
	}()
	return &countedConn{here, h}, nil
}

// countedConn is a socket that is counted until it is closed.
type countedConn struct {
	net.Conn
	h *hosting
}

func (c *countedConn) Close() error {
	c.h.mu.Lock()
	defer c.h.mu.Unlock()
	c.h.open--
	return c.Conn.Close()
}

func (h *hosting) answer(q *mdns.Msg, resolver bool) *mdns.Msg {
	m := new(mdns.Msg).SetReply(q)
	m.Authoritative = !resolver
	name := q.Question[0].Name
	header := mdns.RR_Header{Name: name, Rrtype: q.Question[0].Qtype, Class: mdns.ClassINET, Ttl: 300}
	labels := mdns.SplitDomainName(name)
	apex := strings.Join(labels[len(labels)-2:], ".") + "."
	soa := &mdns.SOA{Hdr: mdns.RR_Header{Name: apex, Rrtype: mdns.TypeSOA, Class: mdns.ClassINET, Ttl: 900}, Ns: "ns1.hoster.test.", Mbox: "x.test.", Minttl: 60}
	if resolver {
		h.mu.Lock()
		h.resolved[mdns.TypeToString[header.Rrtype]+" "+plain(name)]++
		h.mu.Unlock()
	}
	switch {
	case header.Rrtype == mdns.TypeTXT && strings.HasPrefix(labels[0], "2026"):
		m.Answer = append(m.Answer, &mdns.TXT{Hdr: header, Txt: Strings(h.value)})
	case header.Rrtype == mdns.TypeNS && name == apex:
		for i := range 3 {
			m.Answer = append(m.Answer, &mdns.NS{Hdr: header, Ns: fmt.Sprintf("ns%d.hoster.test.", i+1)})
		}
	case header.Rrtype == mdns.TypeA && apex == "hoster.test.":
		m.Answer = append(m.Answer, &mdns.A{Hdr: header, A: net.IPv4(127, 0, 0, name[2]-'0'+1)})
	case header.Rrtype == mdns.TypeSOA && name == apex:
		m.Answer = append(m.Answer, soa)
	default:
		m.Ns = append(m.Ns, soa)
	}
	return m
}

// newHosting is for use in a bubble of synctest.
func newHosting(t *testing.T, o CheckerOptions) (*hosting, *Checker, *Record) {
	t.Helper()
	want := wanted(t, keystore.Ed25519, RecordOptions{})
	h := &hosting{value: want.String(), resolved: map[string]int{}}
	o.Resolvers = []string{"127.0.0.1"}
	c, err := NewChecker(o)
	if err != nil {
		t.Fatal(err)
	}
	c.asker.dial = h.dial
	return h, c, want
}

func TestTenThousandNamesStayWithinTheLimits(t *testing.T) {
	for _, test := range []struct {
		o              CheckerOptions
		names, callers int
		latency        time.Duration
	}{
		// 32 questions at a time of 10 ms each would make 3200 a second.
		{CheckerOptions{}, 10000, 200, 10 * time.Millisecond},
		// More than 5 at a time would have to be open for 1000 a second.
		{CheckerOptions{Questions: 5, PerSecond: 1000}, 500, 500, 200 * time.Millisecond},
	} {
		synctest.Test(t, func(t *testing.T) {
			h, c, want := newHosting(t, test.o)
			h.latency = test.latency
			start := time.Now()
			var wg sync.WaitGroup
			var next atomic.Int64
			for range test.callers {
				wg.Go(func() {
					for n := next.Add(1); n <= int64(test.names); n = next.Add(1) {
						// Four keys a domain: two kinds, in rotation.
						name := fmt.Sprintf("2026%c._domainkey.d%d.test", 'a'+n%4, n/4)
						r, err := c.Check(t.Context(), name, want)
						if err != nil || r.Verdict != Matches || len(r.Servers) != 3 {
							t.Errorf("%s: %+v, %v", name, r, err)
						}
					}
				})
			}
			wg.Wait()
			questions, perSecond := cap(c.asker.slots), int(time.Second/c.asker.every)
			if h.most > questions || h.open != 0 {
				t.Errorf("%d sockets open at a time, want at most %d; %d left open", h.most, questions, h.open)
			}
			for i := perSecond; i < len(h.dialed); i++ {
				if d := h.dialed[i].Sub(h.dialed[i-perSecond]); d < time.Second {
					t.Fatalf("%d questions in %v, want at most %d a second", perSecond+1, d, perSecond)
				}
			}
			if test.o.Questions == 0 {
				// The limits are also made use of.
				if busy := time.Since(start); len(h.dialed) < test.names*5 || busy > time.Duration(len(h.dialed)+perSecond)*c.asker.every {
					t.Errorf("%d questions in %v", len(h.dialed), busy)
				}
			}
			if n := h.resolved["A ns1.hoster.test"]; float64(n) > 1+time.Since(start).Minutes() {
				t.Errorf("the address of a server was asked for %d times in %v", n, time.Since(start))
			}
			for what, n := range map[string]int{"addresses": len(c.addresses.entries), "zones": len(c.zones.entries), "apexes": len(c.apexes.entries), "wildcards": len(c.wildcards.entries)} {
				if n > maxMemo {
					t.Errorf("%d %s remembered", n, what)
				}
			}
		})
	}
}

func TestWhatIsKnownOfAZoneIsKeptForAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, c, want := newHosting(t, CheckerOptions{})
		check := func(selectors ...string) {
			for _, s := range selectors {
				if _, err := c.Check(t.Context(), s+"._domainkey.d.test", want); err != nil {
					t.Fatal(err)
				}
			}
		}
		questions := func() [3]int {
			return [3]int{h.resolved["SOA 2026a._domainkey.d.test"], h.resolved["NS d.test"], h.resolved["A ns2.hoster.test"]}
		}
		check("2026a", "2026a", "2026b")
		if got := questions(); got != [3]int{1, 1, 1} {
			t.Errorf("at once: %v questions for SOA, NS and A; want one of each", got)
		}
		time.Sleep(59 * time.Second)
		if check("2026a"); questions() != [3]int{1, 1, 1} {
			t.Errorf("after 59 s: %v", questions())
		}
		time.Sleep(2 * time.Second)
		if check("2026a"); questions() != [3]int{2, 2, 2} {
			t.Errorf("after 61 s: %v, want two of each", questions())
		}
	})
}

// A dead server of many zones would otherwise take up all sockets.
func TestASilentServerIsLeftAloneForAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, c, want := newHosting(t, CheckerOptions{})
		dead, asked := netip.MustParseAddr("127.0.0.3"), 0
		c.asker.dial = func(ctx context.Context, network, address string) (net.Conn, error) {
			if strings.HasPrefix(address, dead.String()) {
				asked++
				<-ctx.Done()
				return nil, ctx.Err()
			}
			return h.dial(ctx, network, address)
		}
		for i := range 100 {
			r, err := c.Check(t.Context(), fmt.Sprintf("2026a._domainkey.d%d.test", i), want)
			if err != nil || r.Verdict != Timeout || r.Sight(time.Now()).State != keystore.Unknown {
				t.Fatalf("%+v, %v", r, err)
			}
		}
		if asked != 2*maxSilence {
			t.Errorf("the dead server was asked %d times, want %d", asked, 2*maxSilence)
		}
		time.Sleep(silenceTime)
		dead = netip.MustParseAddr("192.0.2.1")
		if r, err := c.Check(t.Context(), "2026a._domainkey.d0.test", want); err != nil || r.Verdict != Matches {
			t.Errorf("when it is back: %+v, %v", r, err)
		}
	})
}

func TestCheckEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, c, want := newHosting(t, CheckerOptions{Questions: 1})
		h.latency = time.Hour
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				if r, err := c.Check(ctx, "2026a._domainkey.d.test", want); err == nil || r != nil || time.Since(start) != time.Second {
					t.Errorf("%+v, %v after %v", r, err, time.Since(start))
				}
			})
		}
		wg.Wait()
		// What one caller gave up is not what another is told.
		synctest.Wait()
		h.latency = 0
		if r, err := c.Check(t.Context(), "2026a._domainkey.d.test", want); err != nil || r.Verdict != Matches {
			t.Errorf("afterwards: %+v, %v", r, err)
		}
		time.Sleep(2 * time.Hour) // lets the servers of the first questions end
	})
}
