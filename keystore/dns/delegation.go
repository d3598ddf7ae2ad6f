package dns

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	mdns "github.com/miekg/dns"

	"waxseal/keystore"
)

// maxDelegationTries is how many servers of a zone are asked for NS records, one
// after the other.
const maxDelegationTries = 2

// Delegation compares the NS records of the zone that holds the key records of
// the domain with those that the zone above has for it: resolvers go by either.
// Where one of the two cannot be found out there is no Finding; a Report tells what
// is wrong with the zone. The error is only for a name that is no domain, or a ctx
// that ended.
func (c *Checker) Delegation(ctx context.Context, domain string) ([]Finding, error) {
	if err := keystore.ValidDomain(domain); err != nil {
		return nil, err
	}
	zone, err := c.zoneOf(ctx, mdns.Fqdn("_domainkey."+domain))
	if err != nil {
		return nil, ctx.Err()
	}
	next, top := mdns.NextLabel(zone.apex, 0)
	if top { // nobody has to bother the root servers
		return nil, nil
	}
	parent, err := c.zoneOf(ctx, zone.apex[next:])
	if err != nil {
		return nil, ctx.Err()
	}
	own := c.nameServers(ctx, zone, zone.apex, ownNS)
	delegated := c.nameServers(ctx, parent, zone.apex, delegatedNS)
	if ctx.Err() != nil || len(own) == 0 || len(delegated) == 0 {
		return nil, ctx.Err()
	}
	apex, above := plain(zone.apex), plain(parent.apex)
	var found []Finding
	if more := without(delegated, own); len(more) > 0 {
		found = append(found, Finding{
			apex, fmt.Sprintf("the zone above, %s, has NS records for it that it has not itself: %s; resolvers ask these servers, too, which may have an old copy of it", above, strings.Join(more, ", ")),
			"add them to the NS records of " + apex + ", or have them taken out of the delegation", Warning,
		})
	}
	if more := without(own, delegated); len(more) > 0 {
		found = append(found, Finding{
			apex, fmt.Sprintf("it has NS records that the zone above, %s, has not: %s", above, strings.Join(more, ", ")),
			"have them added to the delegation, or take them out of " + apex, Note,
		})
	}
	return found, nil
}

// nameServers asks the servers of a zone for the NS records of the apex, which
// read finds in an answer.
func (c *Checker) nameServers(ctx context.Context, z *authority, apex string, read func(*mdns.Msg) []mdns.RR) []string {
	tries := 0
	for _, s := range z.servers {
		if s.err != nil {
			continue
		}
		if tries++; tries > maxDelegationTries {
			break
		}
		r, err := c.asker.ask(ctx, netip.AddrPortFrom(s.addr, c.port), question{name: apex, kind: mdns.TypeNS})
		if err != nil || r.Rcode != mdns.RcodeSuccess {
			continue
		}
		var hosts []string
		for _, rr := range read(r) {
			if ns, ok := rr.(*mdns.NS); ok && sameName(ns.Hdr.Name, apex) {
				hosts = append(hosts, plain(mdns.CanonicalName(ns.Ns)))
			}
		}
		if len(hosts) > 0 {
			slices.Sort(hosts)
			return slices.Compact(hosts)
		}
	}
	return nil
}

// ownNS are the records that a zone has of itself.
func ownNS(r *mdns.Msg) []mdns.RR {
	if !r.Authoritative {
		return nil
	}
	return r.Answer
}

// delegatedNS are those that refer to a zone below (RFC 1034, section 4.3.2). A
// server that has both zones answers from the lower one, which tells nothing.
func delegatedNS(r *mdns.Msg) []mdns.RR {
	if r.Authoritative || len(r.Answer) > 0 {
		return nil
	}
	return r.Ns
}

// without returns those of a that are not in b.
func without(a, b []string) []string {
	return slices.DeleteFunc(slices.Clone(a), func(s string) bool { return slices.Contains(b, s) })
}
