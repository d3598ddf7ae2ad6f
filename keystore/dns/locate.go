package dns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync/atomic"

	mdns "github.com/miekg/dns"
)

// ednsSize is the answer we take over UDP from a resolver: it passes everywhere
// without being cut into fragments (DNS flag day 2020).
const ednsSize = 1232

// primary is the server that takes updates of a name.
type primary struct {
	name      string // whose record it is about, with the final dot
	zone      string // with the final dot
	host      string // as people know it
	addresses []string
}

// locate finds the zone that holds the name, and its primary.
func (u *Update) locate(ctx context.Context, name string) (*primary, error) {
	p := &primary{name: name, zone: u.zone, host: u.host}
	if p.host == "" {
		from := name
		if p.zone != "" {
			from = p.zone
		}
		soa, err := findSOA(from, func(n string) (*mdns.Msg, error) { return u.resolve(ctx, n) })
		if err != nil {
			return nil, err
		}
		if p.zone != "" && !strings.EqualFold(soa.Hdr.Name, p.zone) {
			return nil, &problem{
				text:   fmt.Sprintf("%s is no zone, the resolver says that it belongs to %s", bare(p.zone), bare(soa.Hdr.Name)),
				remedy: "correct the zone for updates, or leave it out",
			}
		}
		p.zone, p.host = mdns.CanonicalName(soa.Hdr.Name), bare(soa.Ns)
	}
	if err := u.findAddresses(ctx, p); err != nil {
		return nil, err
	}
	if p.zone == "" {
		soa, err := findSOA(name, func(n string) (*mdns.Msg, error) { return u.askPrimary(ctx, p, n, mdns.TypeSOA) })
		if err != nil {
			return nil, err
		}
		p.zone = mdns.CanonicalName(soa.Hdr.Name)
	}
	switch {
	case !mdns.IsSubDomain(p.zone, name):
		return nil, &problem{
			text:   "is not in the zone for updates, " + bare(p.zone),
			remedy: "give the zone that holds it, or none, so that it is found",
		}
	case p.zone == name:
		return nil, &problem{
			text:   "is the apex of its zone, where no key record belongs",
			remedy: "take a name below it for the slot's target",
		}
	case p.zone == ".":
		return nil, &problem{text: "no zone but the root holds the name", remedy: "correct the name, or register its domain"}
	}
	return p, nil
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
		for _, rr := range append(r.Answer, r.Ns...) {
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
	return nil, &problem{text: "its zone cannot be found: there is no SOA record above it", remedy: "give the zone"}
}

// findAddresses looks the primary's host up.
func (u *Update) findAddresses(ctx context.Context, p *primary) error {
	if net.ParseIP(p.host) != nil {
		p.addresses = []string{p.host}
		return nil
	}
	if !isHost(p.host) {
		return &problem{
			text:   fmt.Sprintf("the SOA record of %s names %.80q as the primary, which is no host", bare(p.zone), p.host),
			remedy: "give the server for updates",
		}
	}
	ctx, cancel := context.WithTimeout(ctx, u.timeout)
	defer cancel()
	resolver := &net.Resolver{PreferGo: true}
	if len(u.resolvers) > 0 {
		var next atomic.Uint32
		resolver.Dial = func(ctx context.Context, network, _ string) (net.Conn, error) {
			n := int(next.Add(1)-1) % len(u.resolvers)
			return new(net.Dialer).DialContext(ctx, network, u.resolvers[n])
		}
	}
	// With the final dot, so that no search list leads elsewhere.
	addresses, err := resolver.LookupHost(ctx, mdns.Fqdn(p.host))
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

// resolve asks the resolvers in turn for a SOA record.
func (u *Update) resolve(ctx context.Context, name string) (*mdns.Msg, error) {
	servers := u.resolvers
	if len(servers) == 0 {
		conf, err := mdns.ClientConfigFromFile("/etc/resolv.conf")
		if err != nil {
			return nil, fmt.Errorf("the machine's resolvers: %w", err)
		}
		for _, s := range conf.Servers {
			servers = append(servers, net.JoinHostPort(s, conf.Port))
		}
	}
	m := new(mdns.Msg)
	m.SetQuestion(name, mdns.TypeSOA)
	m.SetEdns0(ednsSize, false)
	var last error = errors.New("no resolver is known")
	for _, server := range servers {
		for _, network := range []string{"udp", "udp", "tcp"} {
			r, err := u.send(ctx, network, server, m)
			if err != nil {
				if last = err; ctx.Err() != nil {
					return nil, ctx.Err()
				}
				continue
			}
			if r.Truncated && network != "tcp" {
				continue
			}
			if r.Rcode == mdns.RcodeSuccess || r.Rcode == mdns.RcodeNameError {
				return r, nil
			}
			last = errors.New("answers " + rcodeName(r.Rcode))
			break
		}
		last = fmt.Errorf("resolver %s: %w", server, last)
	}
	return nil, &problem{
		text:   fmt.Sprintf("finding the zone: %v", last),
		remedy: "give both the zone and the server for updates, or mend the resolver",
		err:    last,
	}
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
		r, err = u.send(ctx, "tcp", net.JoinHostPort(address, u.port), m)
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

// send makes one exchange. The message is returned beside an error if there is
// one: it then tells why the server refuses our signature.
func (u *Update) send(ctx context.Context, network, address string, m *mdns.Msg) (*mdns.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, u.timeout)
	defer cancel()
	client := &mdns.Client{
		Net:        network,
		Timeout:    u.timeout,
		UDPSize:    ednsSize,
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
