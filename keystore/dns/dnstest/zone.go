package dnstest

import (
	"strings"
	"testing"

	"github.com/miekg/dns"
)

// maxChain is how many CNAMEs an answer follows, as resolvers have it.
const maxChain = 16

// zone is the data of one zone.
type zone struct {
	apex  string
	names map[string][]dns.RR // nil for a name that only has names below it
	soa   dns.RR
}

func parseZone(t testing.TB, name, text string) *zone {
	t.Helper()
	z := &zone{apex: canonical(name), names: map[string][]dns.RR{}}
	p := dns.NewZoneParser(strings.NewReader(text), dns.Fqdn(name), name)
	p.SetDefaultTTL(2)
	for rr, ok := p.Next(); ok; rr, ok = p.Next() {
		owner := canonical(rr.Header().Name)
		if !dns.IsSubDomain(dns.Fqdn(name), rr.Header().Name) {
			t.Fatalf("%s is not in the zone %s", owner, name)
		}
		z.names[owner] = append(z.names[owner], rr)
		if rr.Header().Rrtype == dns.TypeSOA {
			z.soa = rr
		}
		for ; owner != z.apex; owner = parent(owner) {
			if _, ok := z.names[parent(owner)]; !ok {
				z.names[parent(owner)] = nil
			}
		}
	}
	if err := p.Err(); err != nil {
		t.Fatal(err)
	}
	if z.soa == nil {
		t.Fatalf("zone %s has no SOA", name)
	}
	return z
}

// parent returns the name one label up; the root's is the root.
func parent(name string) string {
	_, up, _ := strings.Cut(name, ".")
	return up
}

// Normal returns the answer as it should be: from the zones, along CNAMEs as
// far as they stay in one zone (a resolver's: in any), with wildcards (RFC
// 4592), referrals, and the SOA when there is nothing (RFC 2308). It is cut
// to what the client takes over UDP. Names of no zone are refused.
func (q *Question) Normal() *dns.Msg {
	r := q.Reply()
	s := q.server
	s.mu.Lock()
	defer s.mu.Unlock()
	z := s.zoneOf(q.Name)
	if z == nil {
		r.Authoritative = false
		r.Rcode = dns.RcodeRefused
		return q.fit(r)
	}
	name := q.Name
	for range maxChain {
		cname := z.answer(r, name, q.Type)
		if cname == "" {
			return q.fit(r)
		}
		next := s.zoneOf(cname)
		if next != z && !s.recursion {
			return q.fit(r)
		}
		if name, z = cname, next; z == nil {
			break // a resolver that cannot find out
		}
	}
	if s.recursion {
		r.Rcode = dns.RcodeServerFailure
		r.Answer = nil
	}
	return q.fit(r)
}

// Reply returns an empty answer with the server's flags, and EDNS if the
// client has it.
func (q *Question) Reply() *dns.Msg {
	r := new(dns.Msg).SetReply(q.Msg)
	r.Authoritative = !q.server.recursion
	r.RecursionAvailable = q.server.recursion
	if q.Msg.IsEdns0() != nil {
		r.SetEdns0(1232, false)
	}
	return r
}

// fit truncates what is too long for the client (RFC 2181, section 9).
func (q *Question) fit(r *dns.Msg) *dns.Msg {
	if !q.TCP {
		size := dns.MinMsgSize
		if edns := q.Msg.IsEdns0(); edns != nil {
			size = max(size, int(edns.UDPSize()))
		}
		r.Truncate(size)
	}
	return r
}

// zoneOf returns the zone that a name is in. The caller holds the lock.
func (s *Server) zoneOf(name string) *zone {
	for {
		if z := s.zones[name]; z != nil {
			return z
		}
		if name == "" {
			return nil
		}
		name = parent(name)
	}
}

// answer adds what the zone has of a name, and returns the target of a CNAME
// that is yet to be followed.
func (z *zone) answer(r *dns.Msg, name string, qtype uint16) (cname string) {
	for cut := name; cut != z.apex; cut = parent(cut) {
		if ns := ofType(z.names[cut], dns.TypeNS); ns != nil {
			r.Authoritative = false
			r.Ns = ns
			return ""
		}
	}
	rrs, found := z.names[name]
	for encloser := name; !found; {
		// The wildcard of the closest name that exists.
		encloser = parent(encloser)
		if _, exists := z.names[encloser]; exists {
			for _, rr := range z.names["*."+encloser] {
				found = true
				rr = dns.Copy(rr)
				rr.Header().Name = dns.Fqdn(name)
				rrs = append(rrs, rr)
			}
			break
		}
	}
	if alias := ofType(rrs, dns.TypeCNAME); alias != nil && qtype != dns.TypeCNAME {
		r.Answer = append(r.Answer, alias...)
		return canonical(alias[0].(*dns.CNAME).Target)
	}
	matches := ofType(rrs, qtype)
	r.Answer = append(r.Answer, matches...)
	if !found {
		r.Rcode = dns.RcodeNameError
	}
	if matches == nil {
		soa := dns.Copy(z.soa)
		soa.Header().Ttl = min(soa.Header().Ttl, z.soa.(*dns.SOA).Minttl)
		r.Ns = append(r.Ns, soa)
	}
	return ""
}

// ofType returns the records of a type, nil when there are none.
func ofType(rrs []dns.RR, qtype uint16) (of []dns.RR) {
	for _, rr := range rrs {
		if rr.Header().Rrtype == qtype {
			of = append(of, rr)
		}
	}
	return of
}
