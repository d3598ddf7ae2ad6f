package dns

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	mdns "github.com/miekg/dns"
)

// maxChain is how many CNAMEs are followed; resolvers give up somewhere
// between 8 and 20.
const maxChain = 8

// shown is what one server has at one name: values, or the target of a CNAME,
// or neither; or err, when it shows nothing.
type shown struct {
	err      *trouble
	values   []string
	target   string // with the final dot
	cnames   int
	exists   bool // the name does, without a TXT record
	ttl      time.Duration
	negative time.Duration // of an answer that there is no record
}

// readAnswer reads what an authoritative server of the zone has at owner.
// Whatever the server adds about other names is left to those who serve them.
func readAnswer(r *mdns.Msg, apex, owner string) *shown {
	a := &shown{}
	switch {
	case r.Rcode != mdns.RcodeSuccess && r.Rcode != mdns.RcodeNameError:
		v, text := rcode(r)
		if v == Refused {
			text += fmt.Sprintf(": it does not serve the zone %s, or not us", plain(apex))
		}
		a.err = &trouble{v, text}
		return a
	case !r.Authoritative:
		text := fmt.Sprintf("it is named as a server of the zone %s, but does not answer with authority", plain(apex))
		for _, rr := range r.Ns {
			if ns, ok := rr.(*mdns.NS); ok && len(r.Answer) == 0 {
				text = fmt.Sprintf("%s: it refers to the servers of %s", text, plain(ns.Hdr.Name))
				break
			}
		}
		a.err = &trouble{Lame, text}
		return a
	}
	a.collect(r.Answer, owner)
	a.exists = r.Rcode == mdns.RcodeSuccess
	a.negative, _ = negativeTTL(r.Ns, apex)
	return a
}

// something reports whether there is a record.
func (a *shown) something() bool { return a.err == nil && (len(a.values) > 0 || a.cnames > 0) }

// collect takes from an answer what it has at owner. A name with a CNAME has
// nothing else (RFC 1034, section 3.6.2).
func (a *shown) collect(rrs []mdns.RR, owner string) {
	for _, rr := range rrs {
		if !sameName(rr.Header().Name, owner) || rr.Header().Class != mdns.ClassINET {
			continue
		}
		switch rr := rr.(type) {
		case *mdns.CNAME:
			a.cnames++
			a.target = mdns.CanonicalName(rr.Target)
		case *mdns.TXT:
			a.values = append(a.values, octets(strings.Join(rr.Txt, "")))
		default:
			continue
		}
		a.ttl = max(a.ttl, ttl(rr.Header().Ttl))
	}
}

// octets undoes the escapes with which miekg/dns keeps the strings of a TXT
// record: a backslash and the octet, or its three decimal digits.
func octets(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] != '\\' || i+1 == len(s):
			b.WriteByte(s[i])
		case i+3 < len(s) && isDigit(s[i+1]) && isDigit(s[i+2]) && isDigit(s[i+3]):
			b.WriteByte((s[i+1]-'0')*100 + (s[i+2]-'0')*10 + s[i+3] - '0')
			i += 3
		default:
			i++
			b.WriteByte(s[i])
		}
	}
	return b.String()
}

// verdict judges what is there. With via, owner is where a CNAME led.
func (a *shown) verdict(owner string, via bool, want *Record) (Verdict, string) {
	switch {
	case a.err != nil:
		return a.err.verdict, a.err.text
	case a.cnames > 1:
		return Several, fmt.Sprintf("there are %d CNAME records", a.cnames)
	case a.cnames == 1:
		return Differs, fmt.Sprintf("there is a CNAME to %s", plain(a.target))
	case len(a.values) > 0:
		return judge(a.values, want)
	}
	switch {
	case via && a.exists:
		return Dangling, fmt.Sprintf("the CNAME leads to %s, where there is no TXT record", plain(owner))
	case via:
		return Dangling, fmt.Sprintf("the CNAME leads to %s, which does not exist", plain(owner))
	case a.exists:
		return Missing, "there is no TXT record"
	}
	return Missing, "the name does not exist"
}

// askServers follows the CNAMEs from the report's name to where all servers
// have something else, and fills in the servers' reports. The error is a
// *trouble if ctx has not ended.
func (c *Checker) askServers(ctx context.Context, r *Report, want *Record) error {
	owner := mdns.Fqdn(r.Name)
	visited := map[string]bool{}
	var first []*shown // what the servers have at the name itself
	var served *authority
	for {
		visited[owner] = true
		z, err := c.zoneOf(ctx, owner)
		if err != nil {
			return err
		}
		if served == nil {
			served = z
		}
		r.Zone = plain(z.apex)
		r.left += z.left
		r.NegativeTTL = max(r.NegativeTTL, z.negative)
		answers, err := c.askAll(ctx, z, owner)
		if err != nil {
			return err
		}
		if first == nil {
			first = answers
		}
		target := common(answers)
		for i, a := range answers {
			r.TTL, r.NegativeTTL = max(r.TTL, a.ttl), max(r.NegativeTTL, a.negative)
			if target == "" || a.err != nil {
				v, detail := a.verdict(owner, len(r.Chain) > 0, want)
				r.Servers = append(r.Servers, ServerReport{z.servers[i].name, z.servers[i].addr, v, detail, a.ttl, a.values})
			}
		}
		if target == "" {
			break
		}
		r.Chain = append(r.Chain, plain(target))
		if visited[target] || len(r.Chain) > maxChain {
			detail := fmt.Sprintf("the CNAME at %s leads back to %s", plain(owner), plain(target))
			if !visited[target] {
				detail = fmt.Sprintf("there are more than %d CNAMEs, one after the other", maxChain)
			}
			for i, a := range answers {
				if a.err == nil {
					r.Servers = append(r.Servers, ServerReport{z.servers[i].name, z.servers[i].addr, CNAMELoop, detail, a.ttl, nil})
				}
			}
			break
		}
		owner = target
	}
	if err := c.compareWithWildcard(ctx, r, served, first); err != nil {
		return err
	}
	return c.lookForDoubledName(ctx, r, served)
}

// askAll asks all servers of the zone at once.
func (c *Checker) askAll(ctx context.Context, z *authority, owner string) ([]*shown, error) {
	answers := make([]*shown, len(z.servers))
	var wg sync.WaitGroup
	for i, s := range z.servers {
		if s.err != nil {
			answers[i] = &shown{err: s.err}
			continue
		}
		wg.Go(func() { answers[i] = c.askOne(ctx, z, s.addr, owner) })
	}
	wg.Wait()
	return answers, ctx.Err()
}

// askOne returns a shown with an err of no meaning when ctx ends.
func (c *Checker) askOne(ctx context.Context, z *authority, addr netip.Addr, owner string) *shown {
	r, err := c.asker.ask(ctx, netip.AddrPortFrom(addr, c.port), question{name: owner, kind: mdns.TypeTXT})
	if err != nil {
		return &shown{err: troubleOf(err)}
	}
	return readAnswer(r, z.apex, owner)
}

// common returns the target of the CNAME that all servers have who answer, or
// "" when one has something else.
func common(answers []*shown) string {
	target := ""
	for _, a := range answers {
		switch {
		case a.err != nil:
		case a.cnames != 1 || target != "" && a.target != target:
			return ""
		default:
			target = a.target
		}
	}
	return target
}

// compareWithWildcard asks for a name that nobody made, beside the report's. A
// server that has the same at both has no record of ours.
func (c *Checker) compareWithWildcard(ctx context.Context, r *Report, z *authority, first []*shown) error {
	at := slices.IndexFunc(first, (*shown).something)
	if at < 0 {
		return nil // nor does a wildcard answer, then
	}
	place := selectorsOf(mdns.Fqdn(r.Name))
	if !mdns.IsSubDomain(z.apex, place) {
		return nil // the zone is this one name
	}
	wild, err := c.wildcards.get(ctx, place, func() (*shown, error) {
		return c.askOne(ctx, z, z.servers[at].addr, nobodys(place)), ctx.Err()
	})
	if err != nil {
		return err
	}
	if !wild.something() {
		return nil
	}
	r.Wildcard = true
	r.TTL = max(r.TTL, wild.ttl)
	for i := range r.Servers {
		s := &r.Servers[i]
		same := len(r.Chain) > 0 && plain(wild.target) == r.Chain[0] || len(s.Values) > 0 && sameValues(s.Values, wild.values)
		if same && !s.Verdict.Shown() && !s.Verdict.silent() {
			s.Verdict = Wildcard
			s.Detail = fmt.Sprintf("there is no record of its own: the wildcard *.%s answers for every name (%s)", plain(place), s.Detail)
		}
	}
	return nil
}

// selectorsOf is where the selectors beside name are: the part from _domainkey on, or for
// the target of a CNAME the name without its first label.
func selectorsOf(name string) string {
	if i := strings.Index(name, "._domainkey."); i >= 0 {
		return name[i+1:]
	}
	if next, end := mdns.NextLabel(name, 0); !end {
		return name[next:]
	}
	return "."
}

// nobodys is a name under place that nobody made, and that tells those who see
// it in their logs what it is about.
func nobodys(place string) string {
	return "no-such-selector-" + strings.ToLower(rand.Text()[:10]) + "." + place
}

func sameValues(a, b []string) bool {
	return slices.Equal(slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b)))
}

// lookForDoubledName asks for a missing record at the name with the zone behind
// it once more: many panels add it to what was entered.
func (c *Checker) lookForDoubledName(ctx context.Context, r *Report, z *authority) error {
	at := slices.IndexFunc(r.Servers, func(s ServerReport) bool { return s.Verdict == Missing })
	if at < 0 || len(r.Chain) > 0 || !strings.HasSuffix(r.Name, "."+plain(z.apex)) {
		return nil
	}
	doubled := mdns.Fqdn(r.Name) + z.apex
	if len(doubled) > 254 || mdns.CountLabel(z.apex) < 2 {
		return nil // no name, or not a zone of the domain's owner
	}
	addr := r.Servers[at].Address
	// A wildcard for the whole zone answers there, too.
	if c.askOne(ctx, z, addr, doubled).something() && !c.askOne(ctx, z, addr, nobodys(selectorsOf(doubled))).something() {
		r.doubled = plain(doubled)
	}
	return ctx.Err()
}

// troubleOf returns the trouble in err, or one that stands for it.
func troubleOf(err error) *trouble {
	var t *trouble
	if errors.As(err, &t) {
		return t
	}
	return &trouble{Failed, err.Error()}
}

// askResolvers asks each resolver what a verifier would ask it.
func (c *Checker) askResolvers(ctx context.Context, owner string, want *Record) []ServerReport {
	reports := make([]ServerReport, len(c.resolvers))
	var wg sync.WaitGroup
	for i, resolver := range c.resolvers {
		wg.Go(func() { reports[i] = c.askResolver(ctx, resolver, owner, want) })
	}
	wg.Wait()
	return reports
}

func (c *Checker) askResolver(ctx context.Context, resolver netip.AddrPort, owner string, want *Record) ServerReport {
	s := ServerReport{Server: resolver.String(), Address: resolver.Addr()}
	r, err := c.asker.ask(ctx, resolver, question{name: owner, kind: mdns.TypeTXT, recurse: true})
	if err != nil {
		s.Verdict, s.Detail = troubleOf(err).verdict, err.Error()
		return s
	}
	if r.Rcode != mdns.RcodeSuccess && r.Rcode != mdns.RcodeNameError {
		s.Verdict, s.Detail = rcode(r)
		if r.Rcode != mdns.RcodeServerFailure {
			return s
		}
		// With CD a resolver passes on what it would refuse for its signature
		// (RFC 4035, section 3.2.2).
		unchecked, err := c.asker.ask(ctx, resolver, question{name: owner, kind: mdns.TypeTXT, recurse: true, unchecked: true})
		if err == nil && (unchecked.Rcode == mdns.RcodeSuccess || unchecked.Rcode == mdns.RcodeNameError) {
			s.Verdict = Bogus
			s.Detail = fmt.Sprintf("it %s, but has an answer when asked not to check DNSSEC: the zone's signatures are broken or out of date", s.Detail)
		}
		return s
	}
	a := &shown{exists: r.Rcode == mdns.RcodeSuccess}
	at, hops := owner, 0
	for ; ; hops++ {
		a.cnames, a.values = 0, nil
		a.collect(r.Answer, at)
		if a.cnames != 1 {
			break
		}
		if hops == maxChain {
			s.Verdict, s.Detail = CNAMELoop, fmt.Sprintf("there are more than %d CNAMEs, one after the other", maxChain)
			return s
		}
		at = a.target
	}
	s.TTL, s.Values = a.ttl, a.values
	s.Verdict, s.Detail = a.verdict(at, hops > 0, want)
	return s
}
