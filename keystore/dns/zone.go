package dns

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	mdns "github.com/miekg/dns"
)

// maxServers bounds the addresses asked about one name, whatever a zone says.
const maxServers = 32

// authority is what has to be known of a zone to ask its servers.
type authority struct {
	apex     string // with the final dot
	servers  []server
	left     int           // servers beyond maxServers
	negative time.Duration // how long caches keep that there is no record
}

// server is one address of one name server of a zone.
type server struct {
	name string // without the final dot
	addr netip.Addr
	err  *trouble // why there is no address
}

// zoneOf finds the zone that holds owner.
func (c *Checker) zoneOf(ctx context.Context, owner string) (*authority, error) {
	apex, err := c.apexes.get(ctx, owner, func() (string, error) { return c.findApex(ctx, owner) })
	if err != nil {
		return nil, err
	}
	return c.zones.get(ctx, apex, func() (*authority, error) { return c.readZone(ctx, apex) })
}

// findApex asks the resolvers for the apex of the zone that holds owner.
func (c *Checker) findApex(ctx context.Context, owner string) (string, error) {
	soa, err := findSOA(owner, func(name string) (*mdns.Msg, error) { return c.resolve(ctx, name, mdns.TypeSOA) })
	if err != nil {
		return "", fmt.Errorf("the zone of %s: %w", plain(owner), err)
	}
	return mdns.CanonicalName(soa.Hdr.Name), nil
}

// readZone finds the zone's servers and reads its SOA record from them.
func (c *Checker) readZone(ctx context.Context, apex string) (*authority, error) {
	z := &authority{apex: apex}
	if apex == "." {
		// Nobody has to bother the root servers about a domain that is not
		// even under a top-level domain.
		return z, nil
	}
	r, err := c.resolve(ctx, apex, mdns.TypeNS)
	if err != nil {
		return nil, fmt.Errorf("the name servers of %s: %w", plain(apex), err)
	}
	var hosts []string
	for _, rr := range r.Answer {
		if ns, ok := rr.(*mdns.NS); ok && sameName(ns.Hdr.Name, apex) {
			hosts = append(hosts, mdns.CanonicalName(ns.Ns))
		}
	}
	if len(hosts) == 0 {
		return nil, &trouble{Failed, fmt.Sprintf("the resolver shows no name servers of the zone %s", plain(apex))}
	}
	slices.Sort(hosts)
	if len(hosts) > maxServers {
		hosts, z.left = hosts[:maxServers], len(hosts)-maxServers
	}
	addrs := make([][]netip.Addr, len(hosts))
	errs := make([]error, len(hosts))
	var wg sync.WaitGroup
	for i, host := range hosts {
		wg.Go(func() {
			addrs[i], errs[i] = c.addresses.get(ctx, host, func() ([]netip.Addr, error) { return c.findAddresses(ctx, host) })
		})
	}
	wg.Wait()
	seen := map[netip.Addr]bool{}
	for i, host := range hosts {
		if isContext(errs[i]) {
			return nil, errs[i]
		}
		if errs[i] != nil {
			z.servers = append(z.servers, server{name: plain(host), err: troubleOf(errs[i])})
			continue
		}
		for _, addr := range addrs[i] {
			switch {
			case seen[addr]:
			case len(z.servers) >= maxServers:
				z.left++
			default:
				z.servers = append(z.servers, server{name: plain(host), addr: addr})
			}
			seen[addr] = true
		}
	}
	return z, c.readSOA(ctx, z)
}

// readSOA asks the zone's servers in turn, because a resolver's TTL is what is
// left of it. When none answers, the questions for the record tell why.
func (c *Checker) readSOA(ctx context.Context, z *authority) error {
	for _, s := range z.servers {
		if s.err != nil {
			continue
		}
		r, err := c.asker.ask(ctx, netip.AddrPortFrom(s.addr, c.port), question{name: z.apex, kind: mdns.TypeSOA})
		if isContext(err) {
			return err
		}
		if err != nil || !r.Authoritative {
			continue
		}
		if negative, ok := negativeTTL(r.Answer, z.apex); ok {
			z.negative = negative
			return nil
		}
	}
	z.negative = negativeUnknown
	return nil
}

// negativeTTL is how long caches keep a negative answer: the smaller one of the
// TTL and the MINIMUM of the zone's SOA record (RFC 2308, section 5).
func negativeTTL(rrs []mdns.RR, apex string) (time.Duration, bool) {
	for _, rr := range rrs {
		if soa, ok := rr.(*mdns.SOA); ok && sameName(soa.Hdr.Name, apex) {
			return min(ttl(soa.Hdr.Ttl), ttl(soa.Minttl)), true
		}
	}
	return 0, false
}

// ttl is a TTL as a duration; one with the highest bit set counts as zero (RFC
// 2181, section 8).
func ttl(seconds uint32) time.Duration {
	if seconds > 1<<31-1 {
		return 0
	}
	return time.Duration(seconds) * time.Second
}

// findAddresses asks for the addresses of a name server. One family may fail
// when the other has something.
func (c *Checker) findAddresses(ctx context.Context, host string) ([]netip.Addr, error) {
	var found [2][]netip.Addr
	var errs [2]error
	var wg sync.WaitGroup
	for i, kind := range []uint16{mdns.TypeA, mdns.TypeAAAA} {
		wg.Go(func() {
			var r *mdns.Msg
			if r, errs[i] = c.resolve(ctx, host, kind); errs[i] != nil {
				return
			}
			for _, rr := range r.Answer {
				var addr netip.Addr
				switch rr := rr.(type) {
				case *mdns.A:
					addr, _ = netip.AddrFromSlice(rr.A)
				case *mdns.AAAA:
					addr, _ = netip.AddrFromSlice(rr.AAAA)
				}
				if addr = addr.Unmap(); addr.IsValid() && !addr.IsUnspecified() && !addr.IsMulticast() {
					found[i] = append(found[i], addr)
				}
			}
		})
	}
	wg.Wait()
	all := append(found[0], found[1]...)
	for _, err := range errs {
		if err != nil && (len(all) == 0 || isContext(err)) {
			return nil, err
		}
	}
	if len(all) == 0 {
		return nil, &trouble{Lame, "the name server has no address: correct the zone's NS records, or give it one"}
	}
	return all, nil
}

// resolve asks the resolvers in turn until one has an answer or knows that
// there is none. DNSSEC is not checked, so that a broken zone can be looked at.
func (c *Checker) resolve(ctx context.Context, name string, kind uint16) (*mdns.Msg, error) {
	var first error
	for _, resolver := range c.resolvers {
		r, err := c.asker.ask(ctx, resolver, question{name: name, kind: kind, recurse: true, unchecked: true})
		switch {
		case isContext(err):
			return nil, err
		case err != nil:
			err = &trouble{troubleOf(err).verdict, fmt.Sprintf("resolver %s: %v", resolver, err)}
		case r.Rcode == mdns.RcodeSuccess || r.Rcode == mdns.RcodeNameError:
			return r, nil
		default:
			v, text := rcode(r)
			err = &trouble{v, fmt.Sprintf("resolver %s %s to the question for %s %s", resolver, text, plain(name), mdns.TypeToString[kind])}
		}
		if first == nil {
			first = err
		}
	}
	return nil, first
}

// rcode puts the code of an answer that is neither NOERROR nor NXDOMAIN into
// words.
func rcode(r *mdns.Msg) (Verdict, string) {
	text := "answers " + rcodeName(r.Rcode) + extended(r)
	if r.Rcode == mdns.RcodeRefused {
		return Refused, text
	}
	return Failed, text
}

// extended returns what the server says besides the code (RFC 8914).
func extended(r *mdns.Msg) string {
	opt := r.IsEdns0()
	if opt == nil {
		return ""
	}
	for _, o := range opt.Option {
		e, ok := o.(*mdns.EDNS0_EDE)
		if !ok {
			continue
		}
		text := mdns.ExtendedErrorCodeToString[e.InfoCode]
		if e.ExtraText != "" {
			text = strings.TrimPrefix(fmt.Sprintf("%s: %.100q", text, e.ExtraText), ": ")
		}
		if text != "" {
			return " (" + text + ")"
		}
	}
	return ""
}

func sameName(a, b string) bool { return mdns.CanonicalName(a) == mdns.CanonicalName(b) }

// plain is a name as people write it.
func plain(name string) string {
	if name == "." {
		return name
	}
	return strings.TrimSuffix(name, ".")
}
