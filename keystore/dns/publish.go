package dns

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	mdns "github.com/miekg/dns"

	"waxseal/keystore"
)

const (
	// updateTimeout leaves a server the time to sign its zone anew.
	updateTimeout = 10 * time.Second

	// maxRaces is how often we begin again because somebody else changed the
	// name between our reading and writing.
	maxRaces = 3
)

// readBackPauses are the waits before each look at what the server made of an
// update. One is enough with most; some show it when their caches are cleared.
var readBackPauses = []time.Duration{0, 200 * time.Millisecond, time.Second}

// UpdateOptions says where updates go. Only Key is required.
type UpdateOptions struct {
	// Server takes the updates: a name or an address, with ":PORT" if it is
	// not Port. Default: the primary that the zone's SOA record names.
	Server string

	// Zone is the apex of the zone that has the records. Default: found by
	// questions for the SOA record, put to the server if it is given, else to
	// the resolvers.
	Zone string

	Key       *TSIGKey
	Timeout   time.Duration // of one question or update; default 10 s
	Resolvers []string      // "IP:PORT"; default those of /etc/resolv.conf
	Port      uint16        // of the server, if Server has none; default 53
}

// Update publishes by dynamic updates (RFC 2136) that are signed with TSIG
// (RFC 8945). It may be used by many goroutines.
//
// It reads before it writes, and writes nothing when the record is there as it
// shall be. An update is bound to what was read, so that what somebody else
// changes at the same time is read anew and not overwritten. It touches only
// the TXT records of the name, and these only if all are key records. Then it
// reads the name back. Questions to the server and answers from it are signed,
// too, and go over TCP, where a record of any size fits.
type Update struct {
	host, port string // of the server; host empty: as the SOA says
	zone       string // with the final dot; empty: to be found
	key        TSIGKey
	timeout    time.Duration
	resolvers  []netip.AddrPort // empty: as the machine resolves names
	checker    *Checker         // asks the resolvers for the zone; nil if the server is given
	now        func() time.Time // what TSIG takes for the time
	meanwhile  func()           // tests: called between reading and writing
}

// NewUpdate asks nothing yet.
func NewUpdate(o UpdateOptions) (*Update, error) {
	if o.Key == nil {
		return nil, errors.New("updates have to be signed, so they need a TSIG key: " + makeKey)
	}
	u := &Update{key: *o.Key, timeout: o.Timeout, now: time.Now, port: "53"}
	if u.timeout <= 0 {
		u.timeout = updateTimeout
	}
	if o.Port != 0 {
		u.port = strconv.Itoa(int(o.Port))
	}
	if o.Zone != "" {
		zone := strings.TrimSuffix(strings.ToLower(o.Zone), ".")
		if err := keystore.ValidDomain(zone); err != nil {
			return nil, fmt.Errorf("zone for updates: %w", err)
		}
		u.zone = zone + "."
	}
	var err error
	if len(o.Resolvers) > 0 {
		if u.resolvers, err = parseResolvers(o.Resolvers); err != nil {
			return nil, err
		}
	}
	if o.Server == "" {
		if u.checker, err = NewChecker(CheckerOptions{Resolvers: o.Resolvers}); err != nil {
			return nil, err
		}
	} else {
		u.host = strings.Trim(o.Server, "[]")
		if host, port, err := net.SplitHostPort(o.Server); err == nil {
			u.host, u.port = host, port
		}
		if n, err := strconv.ParseUint(u.port, 10, 16); err != nil || n == 0 || !isHost(u.host) {
			return nil, fmt.Errorf(`server for updates %.80q, want a name or an address, perhaps with ":PORT"`, o.Server)
		}
	}
	return u, nil
}

// isHost reports whether s is an address or the name of a host.
func isHost(s string) bool {
	if net.ParseIP(s) != nil {
		return true
	}
	s = strings.TrimSuffix(strings.ToLower(s), ".")
	return keystore.ValidDomain(s) == nil && strings.Trim(s[strings.LastIndexByte(s, '.')+1:], "0123456789") != ""
}

// Publish implements Publisher. Its errors are a *PublishError, except for
// what is wrong with c itself and for the end of ctx.
func (u *Update) Publish(ctx context.Context, c Change) error {
	if err := c.check(); err != nil {
		return err
	}
	p := u.primaryOf(&c)
	if err := u.locate(ctx, p); err != nil {
		return u.failed(ctx, &c, p, err)
	}
	for range maxRaces {
		have, err := u.look(ctx, p, &c)
		if err != nil {
			return u.failed(ctx, &c, p, err)
		}
		if have.shows(&c) {
			return nil
		}
		if err := have.ours(); err != nil {
			return u.failed(ctx, &c, p, err)
		}
		if u.meanwhile != nil {
			u.meanwhile()
		}
		switch done, err := u.write(ctx, p, &c, have); {
		case err != nil:
			return u.failed(ctx, &c, p, err)
		case done:
			return u.failed(ctx, &c, p, u.readBack(ctx, p, &c))
		}
	}
	return u.failed(ctx, &c, p, &problem{
		text:   fmt.Sprintf("somebody else changed the name %d times while we wanted to", maxRaces),
		remedy: "see to it that only one program updates it",
	})
}

// Shows reports whether the primary shows what the change asks for already, so
// that Publish would do nothing. Its errors are those of Publish.
func (u *Update) Shows(ctx context.Context, c Change) (bool, error) {
	if err := c.check(); err != nil {
		return false, err
	}
	p := u.primaryOf(&c)
	if err := u.locate(ctx, p); err != nil {
		return false, u.failed(ctx, &c, p, err)
	}
	have, err := u.look(ctx, p, &c)
	if err != nil {
		return false, u.failed(ctx, &c, p, err)
	}
	return have.shows(&c), nil
}

func (u *Update) primaryOf(c *Change) *primary {
	return &primary{name: mdns.Fqdn(c.Name), zone: u.zone, host: u.host}
}

// failed adds the name and the server to an error; nil stays nil.
func (u *Update) failed(ctx context.Context, c *Change, p *primary, err error) error {
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return fmt.Errorf("publishing %s: %w", c.Name, ctx.Err())
	}
	e := &PublishError{Name: c.Name, Server: p.host, Problem: err.Error(), Err: errors.Unwrap(err)}
	var known *problem
	if errors.As(err, &known) {
		e.Problem, e.Remedy = known.text, known.remedy
	}
	return e
}

// problem is a PublishError in the making.
type problem struct {
	text, remedy string
	err          error
}

func (p *problem) Error() string { return p.text }
func (p *problem) Unwrap() error { return p.err }

// content is what the primary has at a name.
type content struct {
	records []*mdns.TXT
	values  []string // of the records, sorted
	alias   string   // the target if the name is a CNAME
}

func (c *content) empty() bool { return len(c.records) == 0 && c.alias == "" }

// shows reports whether the change is made already.
func (c *content) shows(want *Change) bool {
	if want.Record == "" {
		return c.empty()
	}
	return c.has(want.Record) && (want.TTL == 0 || want.TTL == time.Duration(c.records[0].Hdr.Ttl)*time.Second)
}

// has reports whether value is there, alone.
func (c *content) has(value string) bool { return len(c.values) == 1 && c.values[0] == value }

// ours returns an error if we must not touch what is there.
func (c *content) ours() error {
	if c.alias != "" {
		return &problem{
			text:   "is a CNAME to " + c.alias + ", and nothing can stand beside one (RFC 1034, section 3.6.2)",
			remedy: "publish at the target, as that of a delegated slot, or delete the CNAME",
		}
	}
	for _, v := range c.values {
		if !isKeyRecord(v) {
			return &problem{
				text:   fmt.Sprintf("has a TXT record that is no key record, %.60q, which is not ours to replace", v),
				remedy: "delete it by hand, or take another name",
			}
		}
	}
	return nil
}

// look reads what the primary has at the name itself. What a wildcard makes up
// is not there, and cannot be deleted: it shows at a name beside it, too, that
// nobody ever made. It is as good as a record of the name if it is the one that
// is wanted.
func (u *Update) look(ctx context.Context, p *primary, want *Change) (*content, error) {
	have, err := u.read(ctx, p, p.name)
	if err != nil || have.shows(want) {
		return have, err
	}
	beside := "waxseal-" + strings.ToLower(rand.Text()) + p.name[strings.IndexByte(p.name, '.'):]
	made, err := u.read(ctx, p, beside)
	if err != nil {
		return nil, err
	}
	if made.alias == have.alias && slices.Equal(made.values, have.values) {
		return new(content), nil
	}
	return have, nil
}

// read asks the primary for the TXT records of a name.
func (u *Update) read(ctx context.Context, p *primary, name string) (*content, error) {
	r, err := u.askPrimary(ctx, p, name, mdns.TypeTXT)
	if err != nil {
		return nil, err
	}
	if !r.Authoritative {
		return nil, &problem{
			text:   fmt.Sprintf("the server has no authority over the name (zone %s)", plain(p.zone)),
			remedy: "give the primary of the zone that holds it, in case a part of the zone is delegated elsewhere",
		}
	}
	have := new(content)
	for _, rr := range r.Answer {
		if !strings.EqualFold(rr.Header().Name, name) {
			continue
		}
		switch rr := rr.(type) {
		case *mdns.CNAME:
			have.alias = plain(rr.Target)
		case *mdns.TXT:
			have.records = append(have.records, rr)
			have.values = append(have.values, octets(strings.Join(rr.Txt, "")))
		}
	}
	slices.Sort(have.values)
	return have, nil
}

// write makes the change if the name still has what it had (RFC 2136, sections
// 2.4 and 2.5). It reports false if it has not.
func (u *Update) write(ctx context.Context, p *primary, c *Change, have *content) (bool, error) {
	m := new(mdns.Msg)
	m.SetUpdate(p.zone)
	name := mdns.RR_Header{Name: p.name, Rrtype: mdns.TypeTXT, Class: mdns.ClassINET}
	if have.empty() {
		m.RRsetNotUsed([]mdns.RR{&mdns.TXT{Hdr: name}, &mdns.CNAME{Hdr: mdns.RR_Header{Name: p.name, Rrtype: mdns.TypeCNAME}}})
	} else {
		for _, rr := range have.records {
			m.Used([]mdns.RR{mdns.Copy(rr)})
		}
		m.RemoveRRset([]mdns.RR{&mdns.TXT{Hdr: name}})
	}
	if c.Record != "" {
		name.Ttl = uint32(c.ttl() / time.Second)
		txt := &mdns.TXT{Hdr: name}
		for _, s := range Strings(c.Record) {
			txt.Txt = append(txt.Txt, strings.ReplaceAll(s, `\`, `\\`))
		}
		m.Insert([]mdns.RR{txt})
	}
	r, err := u.exchange(ctx, p, m)
	if err != nil {
		return false, err
	}
	switch r.Rcode {
	case mdns.RcodeSuccess:
		return true, nil
	case mdns.RcodeYXRrset, mdns.RcodeNXRrset, mdns.RcodeYXDomain, mdns.RcodeNameError:
		return false, nil
	}
	return false, u.refusal(p, r)
}

// readBack makes sure that the primary shows what it accepted.
func (u *Update) readBack(ctx context.Context, p *primary, c *Change) error {
	for _, pause := range readBackPauses {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
		have, err := u.look(ctx, p, c)
		if err != nil {
			return err
		}
		if c.Record == "" && have.empty() || c.Record != "" && have.has(c.Record) {
			return nil
		}
	}
	return &problem{
		text:   "the server accepted the update, but does not show it",
		remedy: "give the primary as the server if this is a secondary that forwards updates; otherwise see the server's log",
	}
}
