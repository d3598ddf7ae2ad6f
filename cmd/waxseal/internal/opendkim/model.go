package opendkim

import (
	"net/netip"
	"slices"
	"strings"

	"waxseal/cmd/waxseal/internal/source"
)

// Client is who hands in a message, as the mail server tells.
type Client struct {
	Name    string     // in lower case; "localhost" for this machine
	Address netip.Addr // the zero value when there is none
	Login   string
	Daemon  string            // {daemon_name}
	Macros  map[string]string // others, by name without braces
}

// Verdict is what OpenDKIM does with a message.
type Verdict string

// The verdicts.
const (
	Ignored  Verdict = "ignored"  // a peer's: not looked at
	NotOurs  Verdict = "not ours" // verified, not signed
	Unsigned Verdict = "unsigned" // ours, but no rule matches or none can sign
	Signed   Verdict = "signed"
	PutOff   Verdict = "put off" // 451, the sender tries again
)

// Signature is one that OpenDKIM adds.
type Signature struct{ Domain, Selector, Identity string }

// Result is what happens to a message, and why.
type Result struct {
	Verdict    Verdict
	Signatures []Signature // topmost first
	Why        string
}

// Model says what OpenDKIM does under a configuration.
type Model struct {
	Tables *Tables

	// Peers and Internal are the lists of PeerList and InternalHosts.
	Peers, Internal *DataSet

	// Daemons and Macros are MTA and MacroList.
	Daemons, Macros *DataSet

	// Usable says whether the key for a signing domain can sign. Nil means
	// that all can.
	Usable func(k *Key, domain string) bool
}

// defaultInternal is what InternalHosts is when it is not set.
const defaultInternal = "csl:127.0.0.1,::1"

// Model reads what decides about signing. The errors are what could not be read.
func (c *Config) Model() (*Model, []error) {
	m := &Model{}
	var errs []error
	var err error
	if m.Tables, err = c.Tables(); err != nil {
		errs = append(errs, err)
		m.Tables = (&Tables{Kind: List}).index()
	}
	for _, d := range []struct {
		name string
		to   **DataSet
	}{{"PeerList", &m.Peers}, {"InternalHosts", &m.Internal}, {"MTA", &m.Daemons}, {"MacroList", &m.Macros}} {
		if *d.to, err = c.DataSet(d.name); err != nil {
			errs = append(errs, err)
		}
	}
	if m.Internal == nil {
		m.Internal = &DataSet{Kind: List}
	}
	if _, ok := c.Get("InternalHosts"); !ok {
		m.Internal = &DataSet{Kind: List, Place: source.Place{File: "InternalHosts (default)"}}
		m.Internal.list(strings.TrimPrefix(defaultInternal, "csl:"))
	}
	return m, errs
}

// Decide takes a message of a sender, local@domain, from a client.
func (m *Model) Decide(c Client, sender string) Result {
	c.Address = c.Address.Unmap()
	if m.Peers.host(c) {
		return Result{Verdict: Ignored, Why: "the client is in PeerList"}
	}
	if !c.Address.IsValid() {
		c.Address = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	if !m.ours(c) {
		return Result{Verdict: NotOurs, Why: "no login, and the client is not in InternalHosts"}
	}
	return m.Tables.sign(sender, m.Usable)
}

// ours says whether OpenDKIM signs for a client. Of MTA and the macros of
// MacroList that have come at all, the last one decides, so that a macro with
// another value takes back what those before it have said.
func (m *Model) ours(c Client) bool {
	ok := false
	if m.Daemons != nil && c.Daemon != "" {
		_, ok = m.Daemons.find(c.Daemon, false)
	}
	if m.Macros != nil {
		for _, r := range m.Macros.Rows {
			name := strings.Trim(r.Key, "{}")
			value, set := c.Macros[name]
			if name == "daemon_name" {
				value, set = c.Daemon, true
			}
			if set {
				ok = r.Value == "" || slices.Contains(strings.Split(r.Value, "|"), value)
			}
		}
	}
	return ok || c.Login != "" || m.Internal.host(c)
}

// sign finds the rules of a sender, and what they sign with.
func (t *Tables) sign(sender string, usable func(*Key, string) bool) Result {
	local, domain, _ := cutLast(sender, "@")
	domain = strings.ToLower(domain)
	matches := t.matches(local, domain)
	if len(matches) == 0 {
		return Result{Verdict: Unsigned, Why: "no row of the SigningTable matches"}
	}
	if !t.Multiple {
		matches = matches[:1]
	}
	var all []Signature
	for _, r := range matches {
		name := r.KeyName
		if name == "%" {
			name = domain
		}
		k, ok := t.Key(name)
		if r.KeyName == "" || !ok {
			return Result{Verdict: PutOff, Why: "the key " + name + " is not in the KeyTable"}
		}
		s := Signature{k.Domain, k.Selector, strings.ReplaceAll(r.Signer, "%", domain)}
		if s.Domain == "%" {
			s.Domain = domain
		}
		if k.Bad != "" || usable != nil && !usable(k, s.Domain) {
			return Result{Verdict: PutOff, Why: "the key " + name + " cannot be used"}
		}
		if s.Identity != "" && !strings.Contains(s.Identity, "@") {
			return Result{Verdict: Unsigned, Why: "the signer " + s.Identity + " has no @"}
		}
		if _, of, _ := cutLast(s.Identity, "@"); !within(of, s.Domain) {
			s.Identity = ""
		}
		all = append(all, s)
	}
	if len(all) > 2 { // a bug: only the first and the last sign
		all = []Signature{all[0], all[len(all)-1]}
	}
	slices.Reverse(all)
	return Result{Verdict: Signed, Signatures: all, Why: "row " + matches[0].Pattern + " of the SigningTable"}
}

func within(name, domain string) bool {
	name, domain = strings.ToLower(name), strings.ToLower(domain)
	return name == domain || strings.HasSuffix(name, "."+domain)
}

// matches returns the rules for a sender in the order in which they are found.
func (t *Tables) matches(local, domain string) []*Rule {
	var found []*Rule
	if t.Kind == Refile && !t.Simple {
		sender := Scope{Kind: Address, Local: strings.ToLower(local), Domain: domain}
		for i := range t.Rules {
			r := &t.Rules[i]
			if r.Scope.Kind != Other && r.Scope.Holds(sender) || r.Scope.Kind == Other && t.signing.matches(r.row, local+"@"+domain, true) {
				found = append(found, r)
			}
		}
		return found
	}
	add := func(key string) {
		if i, ok := t.byPattern[strings.ToLower(key)]; ok {
			found = append(found, &t.Rules[i])
		}
	}
	if t.Simple {
		add(domain)
		for _, up := range above(domain) {
			if len(found) == 0 {
				add(up)
			}
		}
		return found
	}
	add(local + "@" + domain)
	add(domain)
	for _, up := range above(domain) {
		add(local + "@" + up)
		add(up)
	}
	add(local + "@*")
	add("*")
	return found
}

// above returns the names above a domain, nearest first, each with a dot before
// it.
func above(domain string) []string {
	var names []string
	for i := range len(domain) {
		if domain[i] == '.' {
			names = append(names, domain[i:])
		}
	}
	return names
}

// Signs says whether mail of a sender is signed when it is ours.
func (t *Tables) Signs(sender string) bool { return t.sign(sender, nil).Verdict == Signed }
