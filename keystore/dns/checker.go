package dns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	mdns "github.com/miekg/dns"

	"waxseal/keystore"
)

// resolvConf lists the machine's resolvers.
const resolvConf = "/etc/resolv.conf"

// CheckerOptions says whom to ask, and how much. The zero value works.
type CheckerOptions struct {
	Resolvers []string         // "IP:PORT", or "IP" for port 53; those of /etc/resolv.conf if empty
	Timeout   time.Duration    // of one question, which is asked a second time; default 3 s
	Questions int              // at a time, each with a socket; default 32
	PerSecond int              // questions a second, all together; default 200
	Port      uint16           // of authoritative servers; default 53
	Now       func() time.Time // default time.Now
}

// Checker looks at key records as the world sees them. It may be used by many
// goroutines. What it finds out about a zone's servers it remembers for a
// minute at most.
type Checker struct {
	resolvers []netip.AddrPort
	port      uint16
	asker     *asker

	apexes    memo[string]       // owner → apex of its zone
	zones     memo[*authority]   // by apex
	addresses memo[[]netip.Addr] // by name of the server
	wildcards memo[*shown]       // by base: what a name has that nobody made
}

// NewChecker returns a Checker. It asks nothing yet.
func NewChecker(o CheckerOptions) (*Checker, error) {
	resolvers, err := parseResolvers(o.Resolvers)
	if err != nil {
		return nil, err
	}
	if o.Timeout < 0 || o.Questions < 0 || o.PerSecond < 0 {
		return nil, errors.New("timeout, questions and questions a second cannot be negative")
	}
	if o.Timeout == 0 {
		o.Timeout = 3 * time.Second
	}
	if o.Questions == 0 {
		o.Questions = 32
	}
	if o.PerSecond == 0 {
		o.PerSecond = 200
	}
	if o.Port == 0 {
		o.Port = 53
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Checker{
		resolvers: resolvers,
		port:      o.Port,
		asker: &asker{
			timeout:  o.Timeout,
			dial:     new(net.Dialer).DialContext,
			now:      o.Now,
			slots:    make(chan struct{}, o.Questions),
			every:    time.Second / time.Duration(o.PerSecond),
			silent:   map[netip.Addr]silence{},
			answered: map[bool]bool{},
		},
		apexes:    memo[string]{now: o.Now},
		zones:     memo[*authority]{now: o.Now},
		addresses: memo[[]netip.Addr]{now: o.Now},
		wildcards: memo[*shown]{now: o.Now},
	}, nil
}

// SystemResolvers returns the resolvers of /etc/resolv.conf as "IP:PORT".
func SystemResolvers() ([]string, error) {
	conf, err := mdns.ClientConfigFromFile(resolvConf)
	if err != nil {
		return nil, fmt.Errorf("the machine's resolvers: %w", err)
	}
	if len(conf.Servers) == 0 {
		return nil, fmt.Errorf("%s names no resolver: name one", resolvConf)
	}
	var all []string
	for _, server := range conf.Servers {
		all = append(all, net.JoinHostPort(server, conf.Port))
	}
	return all, nil
}

func parseResolvers(names []string) ([]netip.AddrPort, error) {
	if len(names) == 0 {
		var err error
		if names, err = SystemResolvers(); err != nil {
			return nil, err
		}
	}
	var resolvers []netip.AddrPort
	for _, name := range names {
		resolver, err := netip.ParseAddrPort(name)
		if err != nil {
			resolver, err = netip.ParseAddrPort(net.JoinHostPort(strings.Trim(name, "[]"), "53"))
		}
		if err != nil || resolver.Port() == 0 {
			return nil, fmt.Errorf(`resolver %.80q, want "IP:PORT" or "IP"`, name)
		}
		resolvers = append(resolvers, resolver)
	}
	return resolvers, nil
}

// Check asks every authoritative server of the zone that holds the record, and
// the resolvers, for the TXT record at the name, and compares it with the one
// wanted. What goes wrong on the way is in the Report; the error is only for a
// name that cannot have a key record, or a ctx that ended.
func (c *Checker) Check(ctx context.Context, name string, want *Record) (*Report, error) {
	name = strings.TrimSuffix(strings.ToLower(name), ".")
	if err := keystore.ValidDomain(name); err != nil {
		return nil, err
	}
	if want == nil {
		return nil, errors.New("no record to compare with")
	}
	r := &Report{Name: name, Wanted: want.String()}
	resolved := make(chan []ServerReport, 1)
	go func() { resolved <- c.askResolvers(ctx, mdns.Fqdn(name), want) }()
	err := c.askServers(ctx, r, want)
	r.Resolvers = <-resolved
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if err != nil {
		r.Verdict, r.Detail = troubleOf(err).verdict, err.Error()
		r.remark(nil)
		return r, nil
	}
	r.sumUp()
	return r, nil
}
