package policy

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
)

// PermissionOptions says who may sign for which domain. The zero value is: a
// login may sign for its own domain, a login without one for the mail server's
// own; mail that is ours without a login may sign for any domain.
type PermissionOptions struct {
	// Off lets all mail that is ours sign for any domain, logins included: for
	// servers where nobody has anything to fear from the others.
	Off bool

	// NoOwnDomain switches off that a login may sign for its own domain, so
	// that only LoginDomains and Grants count. It is needed where the password
	// check ignores what stands behind the @ of a login, as Cyrus saslauthd
	// does without its option -r: whoever has the password of ann may log in
	// as ann@anything there. Grants for all logins of a domain are of no use then.
	NoOwnDomain bool

	// LoginDomains are the domains that logins without a domain of their own
	// may sign for. Nil means the mail server's own: the name in macro j, and
	// that name without its first label, which is what Postfix takes for
	// mydomain. An empty list that is not nil means none: right where
	// customers have such logins and the server's own domain is not theirs.
	LoginDomains []string

	// Grants let them sign for more.
	Grants []Grant
}

// Grant is a permission: who, and what they may sign for. Grants with the same
// who add up.
//
// A grant for a login adds to what the login may anyway. A grant for a network
// or a certificate takes away: mail from there that has no login may otherwise
// sign for any domain, and then for those of its grants only.
type Grant struct {
	// Name is what the grant is called in errors and explanations, such as that
	// of its table in a file. Empty means its number.
	Name string

	// Login is a login, as the MTA has it in {auth_authen}; or "@example.org"
	// for every login of that domain; or "*" for every login. Upper and lower
	// case are alike.
	Login string

	// Network are the clients without a login in a network, written as in
	// OriginOptions.Networks. Of several that hold a client, the smallest
	// counts. It does not make their mail ours.
	Network string

	// Certificate are the clients without a login that have shown a verified
	// certificate. It counts before a network, and does not make mail ours.
	Certificate Certificate

	// Domains are the domains that they may sign for, and with Subdomains all
	// below these too.
	Domains    []string
	Subdomains bool

	// Addresses are single addresses that they may sign for. Upper and lower
	// case are alike. All addresses of the From field have to be allowed.
	Addresses []string

	// AnyDomain lets them sign for any domain, those of others included.
	AnyDomain bool
}

// login is an authenticated login in a form that can be compared.
type login struct {
	name string // as the MTA has it
	key  string // lower case, domain as A-labels
	own  string // domain behind the @; empty when there is none, or no domain name
}

func newLogin(name string) login {
	l := login{name: name, key: lower(name)}
	at := strings.LastIndexByte(l.key, '@')
	if at < 0 {
		return l
	}
	behind := l.key[at+1:]
	d, err := domain(strings.TrimSuffix(behind, "."))
	if err != nil {
		return l
	}
	if d != behind {
		l.key = l.key[:at+1] + d
	}
	l.own = l.key[at+1:]
	return l
}

// lower is lowerASCII without an allocation for what is lower case.
func lower(s string) string {
	for i := range len(s) {
		if 'A' <= s[i] && s[i] <= 'Z' {
			return lowerASCII(s)
		}
	}
	return s
}

// address is a mail address in a form that can be compared.
type address struct{ local, domain string }

// newAddress reads an address of the options.
func newAddress(s string) (address, error) {
	at := strings.LastIndexByte(s, '@')
	if at < 0 {
		return address{}, fmt.Errorf("address %s: no @; write it like ann@example.org", quote(s))
	}
	local := s[:at]
	if bad := checkText(s); bad != nil {
		return address{}, fmt.Errorf("address %s: %s", quote(s), strings.TrimPrefix(bad.Reason, "From field: "))
	}
	if p := (fromParser{s: local}); strings.HasPrefix(local, `"`) && (p.quoted() != nil || p.i < len(local)) {
		return address{}, fmt.Errorf("address %s: a quotation mark without its other half; write it like ann@example.org", quote(s))
	}
	if bad := checkLocal(local); bad != nil {
		return address{}, fmt.Errorf("address %s: %s", quote(s), strings.TrimPrefix(bad.Reason, "From field: "))
	}
	d, err := Domain(s[at+1:])
	if err != nil {
		return address{}, fmt.Errorf("address %s: %w", quote(s), err)
	}
	return address{localKey(local), d}, nil
}

// localKey is a local part without case and quotation marks. What has passed
// checkLocal has no backslash, so nothing else differs.
func localKey(s string) string {
	if strings.HasPrefix(s, `"`) {
		s = s[1 : len(s)-1]
	}
	return lower(s)
}

// permission is PermissionOptions in a form that is quick to ask.
type permission struct {
	off, ownDomain bool
	serverDomains  bool            // LoginDomains are the mail server's own
	loginDomains   map[string]bool // otherwise

	// Who the grants are about, and the grant that lets them sign for any domain;
	// empty if none does.
	subjects     map[subject]string
	networks     networks
	certificates map[Certificate]string // → name

	domains    map[grantDomain]granted
	subdomains bool // whether any grant means what is below its domains, too
	addresses  map[grantAddress]string
}

// subject is who grants are about. No login can be named so that it passes for a
// network.
type subject struct {
	kind subjectKind
	name string // key of a login, "@" and a domain, "*"; or name of a network or certificate
}

type subjectKind uint8

const (
	noSubject subjectKind = iota
	loginSubject
	networkSubject
	certificateSubject
)

type grantDomain struct {
	subject subject
	domain  string
}

// granted are the grants that name a domain: any, and one that means what is
// below it, too.
type granted struct{ grant, below string }

type grantAddress struct {
	subject subject
	address address
}

func newPermission(o PermissionOptions) (permission, error) {
	p := permission{
		off: o.Off, ownDomain: !o.NoOwnDomain, serverDomains: o.LoginDomains == nil,
		loginDomains: make(map[string]bool),
		subjects:     make(map[subject]string),
		networks:     networks{rules: make(map[netip.Prefix]string)},
		certificates: make(map[Certificate]string),
		domains:      make(map[grantDomain]granted),
		addresses:    make(map[grantAddress]string),
	}
	var bad []error
	for _, name := range o.LoginDomains {
		d, err := Domain(name)
		bad = append(bad, optionErrors("Permission.LoginDomains", "login domains", err))
		p.loginDomains[d] = true
	}
	for i, g := range o.Grants {
		grant := called("grant", g.Name, i+1)
		bad = append(bad, optionErrors(fmt.Sprintf("Permission.Grants[%d]", i), grant, p.add(g, grant)))
	}
	return p, errors.Join(bad...)
}

// add notes a grant by what it is called.
func (p *permission) add(g Grant, grant string) error {
	var bad []error
	who, err := p.subject(g)
	bad = append(bad, err)
	if !g.AnyDomain && len(g.Domains) == 0 && len(g.Addresses) == 0 {
		bad = append(bad, errors.New("nothing is allowed; name domains or addresses, or let it be any domain"))
	}
	if g.Subdomains && len(g.Domains) == 0 {
		bad = append(bad, errors.New("subdomains of no domain; name the domains"))
	}
	anyDomain := ""
	if g.AnyDomain {
		anyDomain = grant
	}
	p.subjects[who] = cmp.Or(p.subjects[who], anyDomain)
	for _, name := range g.Domains {
		d, err := Domain(name)
		bad = append(bad, err)
		key := grantDomain{who, d}
		have := p.domains[key]
		have.grant = cmp.Or(have.grant, grant)
		if g.Subdomains {
			have.below = cmp.Or(have.below, grant)
			p.subdomains = true
		}
		p.domains[key] = have
	}
	for _, s := range g.Addresses {
		a, err := newAddress(s)
		bad = append(bad, err)
		p.addresses[grantAddress{who, a}] = cmp.Or(p.addresses[grantAddress{who, a}], grant)
	}
	return errors.Join(bad...)
}

// subject returns who a grant is about.
func (p *permission) subject(g Grant) (subject, error) {
	count := 0
	for _, given := range []bool{g.Login != "", g.Network != "", g.Certificate != Certificate{}} {
		if given {
			count++
		}
	}
	switch {
	case count != 1:
		return subject{}, errors.New("want one of a login, a network and a certificate to say who is meant")
	case g.Login != "":
		if domain, ok := strings.CutPrefix(g.Login, "@"); ok {
			d, err := Domain(domain)
			return subject{loginSubject, "@" + d}, err
		}
		return subject{loginSubject, newLogin(g.Login).key}, nil
	case g.Network != "":
		prefix, err := parseNetwork(g.Network)
		if err != nil {
			return subject{}, err
		}
		p.networks.add(prefix)
		return subject{networkSubject, p.networks.rules[prefix]}, nil
	}
	name := g.Certificate.String()
	p.certificates[g.Certificate] = name
	return subject{certificateSubject, name}, nil
}

// permit is the answer of the permission rules.
type permit struct {
	ok  bool
	why permitReason

	// subject is whose grants were asked, for a client without a login.
	subject subject

	// grant is what the grant is called that gives permission; of several, one.
	grant string
}

type permitReason uint8

const (
	permitNone   permitReason = iota
	permitOff                 // permission is off
	permitOwn                 // the login's own domain
	permitDomain              // a domain for logins without one
	permitGrant               // a grant
	permitAny                 // no login, and no grant for the client
)

// check says whether the sender may sign for the author.
func (p *permission) check(c *Connection, l login, a author) permit {
	switch {
	case p.off:
		return permit{ok: true, why: permitOff}
	case l.name == "":
		who := p.client(c)
		if who.kind == noSubject {
			return permit{ok: true, why: permitAny}
		}
		if grant := p.allows([]subject{who}, a); grant != "" {
			return permit{true, permitGrant, who, grant}
		}
		return permit{subject: who}
	case p.ownDomain && l.own == a.domain:
		return permit{ok: true, why: permitOwn}
	case p.plain(c, l) && p.isLoginDomain(c, a.domain):
		return permit{ok: true, why: permitDomain}
	}
	if len(p.subjects) > 0 {
		who := [3]subject{{loginSubject, l.key}, {loginSubject, "*"}}
		n := 2
		if l.own != "" {
			who[n] = subject{loginSubject, l.key[len(l.key)-len(l.own)-1:]} // "@" and domain
			n++
		}
		if grant := p.allows(who[:n], a); grant != "" {
			return permit{ok: true, why: permitGrant, grant: grant}
		}
	}
	return permit{}
}

// client returns whose grants a client without a login has to keep to.
func (p *permission) client(c *Connection) subject {
	if len(p.certificates) > 0 {
		if names, verified := c.certificate(); verified {
			if name, ok := findCertificate(p.certificates, names); ok {
				return subject{certificateSubject, name}
			}
		}
	}
	if !c.Local && !p.networks.empty() {
		if name, ok := p.networks.find(c.Client); ok {
			return subject{networkSubject, name}
		}
	}
	return subject{}
}

// plain reports whether a login has no domain of its own. The name of the mail
// server itself is none: Cyrus SASL puts it behind local users.
func (p *permission) plain(c *Connection, l login) bool {
	return l.own == "" || l.own == serverName(c)
}

func (p *permission) isLoginDomain(c *Connection, d string) bool {
	if !p.serverDomains {
		return p.loginDomains[d]
	}
	host := serverName(c)
	return host != "" && (d == host || d == parent(host))
}

// serverName returns the mail server's name, empty when it has said none.
func serverName(c *Connection) string {
	if c.Host == "" {
		return ""
	}
	d, err := domain(strings.TrimSuffix(c.Host, "."))
	if err != nil {
		return ""
	}
	return d
}

// parent returns a domain name without its first label, empty when that leaves
// a single one.
func parent(d string) string {
	_, up, _ := strings.Cut(d, ".")
	if strings.IndexByte(up, '.') < 0 {
		return ""
	}
	return up
}

// allows returns the grant of these subjects that allows the author; where
// several addresses take several grants, that for the first. Empty means none.
func (p *permission) allows(subjects []subject, a author) string {
	for _, s := range subjects {
		if grant := p.subjects[s]; grant != "" {
			return grant
		}
		if have, ok := p.domains[grantDomain{s, a.domain}]; ok {
			return have.grant
		}
		if !p.subdomains {
			continue
		}
		for up := parent(a.domain); up != ""; up = parent(up) {
			if have := p.domains[grantDomain{s, up}]; have.below != "" {
				return have.below
			}
		}
	}
	if len(p.addresses) == 0 {
		return ""
	}
	first := ""
	for _, local := range a.locals {
		key, grant := address{localKey(local), a.domain}, ""
		for _, s := range subjects {
			grant = cmp.Or(grant, p.addresses[grantAddress{s, key}])
		}
		if grant == "" {
			return ""
		}
		first = cmp.Or(first, grant)
	}
	return first
}

// denied says why the sender may not sign for the author, and what would let
// them.
func (p *permission) denied(c *Connection, l login, a author, answer permit) string {
	if l.name == "" {
		client := appendClient(nil, c, "")
		return fmt.Sprintf("%s may not sign for %s: %s has grants, and none names it; add one", client, a.domain, answer.subject.name)
	}
	var may string
	switch domains := p.loginDomainsOf(c); {
	case !p.plain(c, l) && p.ownDomain:
		may = "it may for its own domain, " + l.own
	case !p.plain(c, l):
		may = "its own domain does not count (rule switched off)"
	case len(domains) == 0 && p.serverDomains:
		may = "it has no domain of its own, and the MTA does not say its name (macro j)"
	case len(domains) == 0:
		may = "it has no domain of its own, and there are no login domains"
	default:
		may = "it has no domain of its own, so it may for " + strings.Join(domains, ", ")
	}
	return fmt.Sprintf("login %s may not sign for %s: %s, and no grant names more for it%s; add one", quote(l.name), a.domain, may, p.nearMiss(c, l))
}

// nearMiss tells of grants for the same login with the mail server's name behind
// it, or without. Whether the MTA has that name there is a matter of its
// password check, and the two could be different people.
func (p *permission) nearMiss(c *Connection, l login) string {
	other, host := l.key, serverName(c)
	switch {
	case host == "" || !p.plain(c, l):
		return ""
	case l.own != "":
		other = strings.TrimSuffix(l.key, "@"+l.own)
	default:
		other += "@" + host
	}
	if _, ok := p.subjects[subject{loginSubject, other}]; !ok {
		return ""
	}
	return " (one is about " + quote(other) + ", which is another login)"
}

// loginDomainsOf returns the domains of logins without one, at most three.
func (p *permission) loginDomainsOf(c *Connection) []string {
	if p.serverDomains {
		host := serverName(c)
		return slices.DeleteFunc([]string{host, parent(host)}, func(d string) bool { return d == "" })
	}
	list := slices.Sorted(maps.Keys(p.loginDomains))
	if len(list) > 3 {
		list = append(list[:3], "…")
	}
	return list
}
