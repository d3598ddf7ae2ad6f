package dns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	mdns "github.com/miekg/dns"
)

// primary is the server that takes updates of a name.
type primary struct {
	name      string // whose record it is about, with the final dot
	zone      string // with the final dot
	host      string // as people know it
	addresses []string
}

// locate finds the zone that holds p.name, and its primary, as far as p does not
// have them.
func (u *Update) locate(ctx context.Context, p *primary) error {
	if p.host == "" {
		from := p.name
		if p.zone != "" {
			from = p.zone
		}
		soa, err := findSOA(from, func(n string) (*mdns.Msg, error) { return u.askResolvers(ctx, n) })
		if err != nil {
			return err
		}
		if p.zone != "" && !strings.EqualFold(soa.Hdr.Name, p.zone) {
			return &problem{
				text:   fmt.Sprintf("%s is no zone, the resolver says that it belongs to %s", plain(p.zone), plain(soa.Hdr.Name)),
				remedy: "correct the zone for updates, or leave it out",
			}
		}
		p.zone, p.host = mdns.CanonicalName(soa.Hdr.Name), plain(soa.Ns)
	}
	if err := u.findAddresses(ctx, p); err != nil {
		return err
	}
	if p.zone == "" {
		soa, err := findSOA(p.name, func(n string) (*mdns.Msg, error) { return u.askPrimary(ctx, p, n, mdns.TypeSOA) })
		if err != nil {
			return err
		}
		p.zone = mdns.CanonicalName(soa.Hdr.Name)
	}
	switch {
	case !mdns.IsSubDomain(p.zone, p.name):
		return &problem{
			text:   "is not in the zone for updates, " + plain(p.zone),
			remedy: "give the zone that holds it, or none, so that it is found",
		}
	case p.zone == p.name:
		return &problem{
			text:   "is the apex of its zone, where no key record belongs",
			remedy: "take a name below it for the slot's target",
		}
	case p.zone == ".":
		return &problem{text: "no zone but the root holds the name", remedy: "correct the name, or register its domain"}
	}
	return nil
}

// findSOA asks for the SOA record of the name, which the zone's stands in for
// when there is none (RFC 2308, section 3), and of the names above, because
// not every server sends it then.
func findSOA(name string, ask func(string) (*mdns.Msg, error)) (*mdns.SOA, error) {
	for above, end := name, false; !end; {
		r, err := ask(above)
		if err != nil {
			return nil, err
		}
		// Behind a CNAME stands the SOA of another name.
		alias := false
		for _, rr := range slices.Concat(r.Answer, r.Ns) {
			switch rr := rr.(type) {
			case *mdns.CNAME:
				alias = true
			case *mdns.SOA:
				if !alias && mdns.IsSubDomain(rr.Hdr.Name, above) {
					return rr, nil
				}
			}
		}
		var next int
		if next, end = mdns.NextLabel(above, 0); !end {
			above = above[next:]
		}
	}
	return nil, &problem{text: "its zone cannot be found: there is no SOA record above it", remedy: "give the zone for updates"}
}

// findAddresses looks the primary's host up.
func (u *Update) findAddresses(ctx context.Context, p *primary) error {
	if net.ParseIP(p.host) != nil {
		p.addresses = []string{p.host}
		return nil
	}
	if !isHost(p.host) {
		return &problem{
			text:   fmt.Sprintf("the SOA record of %s names %.80q as the primary, which is no host", plain(p.zone), p.host),
			remedy: "give the server for updates",
		}
	}
	addresses, err := u.lookupHost(ctx, p.host)
	if err != nil {
		return &problem{
			text:   fmt.Sprintf("the address of the primary %s: %v", p.host, err),
			remedy: "give the server for updates, by its address if it has no public name",
			err:    err,
		}
	}
	p.addresses = addresses
	return nil
}

// lookupHost returns the addresses of a host. A resolver that does not answer is
// passed over.
func (u *Update) lookupHost(ctx context.Context, host string) (addresses []string, err error) {
	ctx, cancel := context.WithTimeout(ctx, u.timeout)
	defer cancel()
	host = mdns.Fqdn(host) // so that no search list leads elsewhere
	if len(u.resolvers) == 0 {
		return (&net.Resolver{PreferGo: true}).LookupHost(ctx, host)
	}
	end, _ := ctx.Deadline()
	for i, address := range u.resolvers {
		resolver := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, address.String())
		}}
		part := time.Until(end) / time.Duration(len(u.resolvers)-i)
		partCtx, cancel := context.WithTimeout(ctx, part)
		addresses, err = resolver.LookupHost(partCtx, host)
		cancel()
		var answer *net.DNSError
		if err == nil || errors.As(err, &answer) && answer.IsNotFound {
			break
		}
	}
	return addresses, err
}

// askResolvers asks for the SOA record that the world sees.
func (u *Update) askResolvers(ctx context.Context, name string) (*mdns.Msg, error) {
	r, err := u.checker.resolve(ctx, name, mdns.TypeSOA)
	if err != nil {
		return nil, &problem{
			text:   fmt.Sprintf("finding the zone: %v", err),
			remedy: "give the server for updates, or mend the resolver",
			err:    err,
		}
	}
	return r, nil
}

// askPrimary puts a signed question to the primary.
func (u *Update) askPrimary(ctx context.Context, p *primary, name string, kind uint16) (*mdns.Msg, error) {
	m := new(mdns.Msg)
	m.SetQuestion(name, kind)
	m.RecursionDesired = false
	r, err := u.exchange(ctx, p, m)
	if err != nil {
		return nil, err
	}
	if r.Rcode != mdns.RcodeSuccess && r.Rcode != mdns.RcodeNameError {
		return nil, u.refusal(p, r)
	}
	return r, nil
}

// exchange signs m, sends it to the primary and returns the answer. Only a
// refusal may come without a signature (RFC 8945, section 5.3.2).
func (u *Update) exchange(ctx context.Context, p *primary, m *mdns.Msg) (*mdns.Msg, error) {
	m.SetTsig(mdns.Fqdn(u.key.Name), mdns.Fqdn(u.key.Algorithm), 300, u.now().Unix())
	var err error
	for _, address := range p.addresses {
		var r *mdns.Msg
		r, err = u.send(ctx, net.JoinHostPort(address, u.port), m)
		var op *net.OpError
		switch {
		case errors.As(err, &op) && op.Op == "dial" && ctx.Err() == nil:
			continue // nothing was sent: the next address may do
		case errors.Is(err, mdns.ErrAuth) && r != nil && r.Rcode == mdns.RcodeNotAuth:
			return r, nil
		case err != nil:
			return nil, u.unheard(err)
		case r.IsTsig() == nil && (r.Rcode == mdns.RcodeSuccess || r.Rcode == mdns.RcodeNameError || r.Rcode >= mdns.RcodeYXDomain && r.Rcode <= mdns.RcodeNXRrset):
			return nil, &problem{
				text:   "the answer is not signed with our key " + u.key.String() + ", so anybody could have made it",
				remedy: "give the name server itself, with nothing in between that takes signatures away",
			}
		}
		return r, nil
	}
	return nil, u.unheard(err)
}

// send makes one exchange over TCP. The message is returned beside an error if there is
// one: it then tells why the server refuses our signature.
func (u *Update) send(ctx context.Context, address string, m *mdns.Msg) (*mdns.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, u.timeout)
	defer cancel()
	client := &mdns.Client{
		Net:        "tcp",
		Timeout:    u.timeout,
		TsigSecret: map[string]string{mdns.Fqdn(u.key.Name): u.key.secret},
	}
	conn, err := client.DialContext(ctx, address)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	signed := m.Copy() // with each sending the library takes its signature off
	signed.Id = mdns.Id()
	if t := signed.IsTsig(); t != nil {
		t.OrigId = signed.Id
	}
	r, _, err := client.ExchangeWithConnContext(ctx, signed, conn)
	if err == nil && (!r.Response || r.Opcode != m.Opcode || len(r.Question) > 0 && !strings.EqualFold(r.Question[0].Name, m.Question[0].Name)) {
		return nil, errors.New("the answer is to another question")
	}
	return r, err
}
