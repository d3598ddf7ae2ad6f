package policy

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// OriginOptions says whose mail is ours. Any one of the rules is enough. The
// zero value is: every authenticated login, the loopback networks, local
// submission, and the daemon name ORIGINATING.
type OriginOptions struct {
	// SkipNetworks are the addresses of clients whose mail is not ours,
	// whatever else is known about it, a login included. They are written as
	// Networks. Like these, they do not hold mail handed in on the machine.
	SkipNetworks []string

	// NoLogin switches the rule off that mail of an authenticated login is
	// ours.
	NoLogin bool

	// Networks are the addresses of clients whose mail is ours, as prefixes
	// ("192.0.2.0/24", "2001:db8::/32", also in Postfix's spelling
	// "[2001:db8::]/32") or single addresses. Nil means DefaultNetworks; an
	// empty list that is not nil switches the rule off. Where a content
	// filter gives foreign mail back through loopback, loopback must not be
	// in the list: name the daemon of the listener for own mail instead.
	//
	// IPv4-mapped IPv6 addresses are IPv4 on both sides of the comparison, so
	// "::ffff:192.0.2.0/120" means 192.0.2.0/24, and an IPv6 network never
	// matches an IPv4 client.
	Networks []string

	// AllowInternet accepts Networks that hold the whole Internet: half or
	// more of all IPv4 addresses, or of all global IPv6 addresses (2000::/3).
	// Without it such a list is an error.
	AllowInternet bool

	// NoLocal switches the rule off that mail handed in on the machine itself
	// is ours. Such mail has no client address, or one that Postfix made up,
	// so no network ever matches it.
	NoLocal bool

	// Certificates are the TLS client certificates that make mail ours, once
	// the MTA has verified them. Where it trusts certification authorities of
	// the public, name the issuer too: anybody may have a certificate on any
	// common name.
	Certificates []Certificate

	// AnyCertificate makes mail ours whatever verified certificate the client
	// has: right where the MTA trusts your own certification authority alone.
	AnyCertificate bool

	// DaemonNames are the values of macro {daemon_name} that make mail ours,
	// upper and lower case alike. Postfix sets the macro per service in
	// master.cf: -o milter_macro_daemon_name=ORIGINATING. Nil means
	// DefaultDaemonNames; an empty list that is not nil switches the rule off.
	DaemonNames []string

	// Macros are other macros that make mail ours.
	Macros []Macro

	// All makes mail ours whoever sent it. It is for a listener to which only
	// a submission service connects; in Options.Origin it is an error.
	All bool
}

// DefaultNetworks returns what a nil OriginOptions.Networks means.
func DefaultNetworks() []string { return []string{"127.0.0.0/8", "::1/128"} }

// DefaultDaemonNames returns what a nil OriginOptions.DaemonNames means.
func DefaultDaemonNames() []string { return []string{"ORIGINATING"} }

// Origin says whether mail is ours.
type Origin struct {
	Ours bool

	// Rule is the rule that matched: "login", "local submission",
	// "network 192.0.2.0/24", "certificate of NAME", "certificate by ISSUER",
	// "certificate of NAME by ISSUER", "certificate", "daemon name
	// ORIGINATING", "macro {NAME}" or "listener NAME", with names as
	// configured. Empty when the mail is not ours.
	Rule string

	// Reason says in words which fact matched, or for mail that is not ours
	// why no rule did.
	Reason string
}

const (
	ruleLogin          = "login"
	ruleLocal          = "local submission"
	ruleAnyCertificate = "certificate"
	ruleListener       = "listener "
)

// originRules are OriginOptions in a form that is quick to ask.
type originRules struct {
	skip           networks
	login, local   bool
	networks       networks
	certificates   map[Certificate]string // → what the rule is called
	anyCertificate bool
	daemons        []daemon
	macros         []macroRule
	all            bool
}

// daemon is a configured daemon name and what its rule is called.
type daemon struct{ name, rule string }

// newOriginRules checks the origin rules of a listener, or of all that have
// none of their own, when the listener is empty.
func newOriginRules(o OriginOptions, listener string) (originRules, error) {
	option, about := "Origin.", ""
	if listener != "" {
		option, about = "Listeners["+listener+"].", "listener "+listener
	}
	var bad []error
	check := func(name string, err error) {
		bad = append(bad, optionErrors(option+name, about, err))
	}

	r := originRules{login: !o.NoLogin, local: !o.NoLocal, anyCertificate: o.AnyCertificate, all: o.All}
	var err error
	list := o.Networks
	if list == nil {
		list = DefaultNetworks()
	}
	r.networks, err = newNetworks(list, o.AllowInternet)
	check("Networks", err)
	r.skip, err = newNetworks(o.SkipNetworks, true)
	check("SkipNetworks", err)
	names := o.DaemonNames
	if names == nil {
		names = DefaultDaemonNames()
	}
	r.daemons, err = newDaemons(names)
	check("DaemonNames", err)
	for _, c := range o.Certificates {
		if err := checkCertificate(c); err != nil {
			check("Certificates", err)
			continue
		}
		if r.certificates == nil {
			r.certificates = make(map[Certificate]string)
		}
		r.certificates[c] = c.String()
	}
	for _, m := range o.Macros {
		rule, err := newMacroRule(m)
		check("Macros", err)
		r.macros = append(r.macros, rule)
	}
	if o.All && listener == "" {
		check("All", errors.New("all mail would be ours, whoever sent it; say so for one listener, which only a submission service uses"))
	}
	if err := errors.Join(bad...); err != nil {
		return originRules{}, err
	}
	return r, nil
}

func newDaemons(names []string) ([]daemon, error) {
	var daemons []daemon
	var bad []error
	for _, name := range names {
		switch {
		case name == "":
			bad = append(bad, errors.New("daemon name is empty: leave it out of the list; "+
				"an MTA that sends no name never matches"))
		case strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r > '~' }):
			bad = append(bad, fmt.Errorf("daemon name %q: only printable ASCII without blanks is possible; "+
				"write one name per entry", name))
		default:
			daemons = append(daemons, daemon{name, "daemon name " + name})
		}
	}
	return daemons, errors.Join(bad...)
}

// macroNames returns the macros that the rules ask for.
func (r *originRules) macroNames() []string {
	var names []string
	if r.anyCertificate || len(r.certificates) > 0 {
		names = append(names, macroVerify, macroSubject, macroIssuer)
	}
	for _, m := range r.macros {
		names = append(names, m.name)
	}
	return names
}

// originRule is one of the rules, in the order in which they are asked.
type originRule uint8

const (
	originSkip originRule = iota
	originLogin
	originClient // local submission or network
	originCertificate
	originDaemon
	originMacro
	originAll
	originNone // behind the last one
)

// decide also returns the rule that decided: originNone when none matched.
func (r *originRules) decide(c *Connection, login string) (Origin, originRule) {
	if !c.Local && !r.skip.empty() {
		if rule, ok := r.skip.find(c.Client); ok {
			buf := appendClient(make([]byte, 0, 128), c, " is in ")
			buf = append(append(buf, rule...), ", which is skipped"...)
			return Origin{Reason: string(buf)}, originSkip
		}
	}
	if r.login && login != "" {
		buf := appendQuoted(append(make([]byte, 0, 160), "authenticated login "...), login)
		return Origin{true, ruleLogin, string(buf)}, originLogin
	}
	if c.Local {
		if r.local {
			return Origin{true, ruleLocal, "submitted on this machine, without an SMTP client"}, originClient
		}
	} else if rule, ok := r.networks.find(c.Client); ok {
		buf := appendClient(make([]byte, 0, 128), c, " is in ")
		return Origin{true, rule, string(append(buf, rule...))}, originClient
	}
	if r.anyCertificate || len(r.certificates) > 0 {
		if names, verified := c.certificate(); verified {
			rule, ok := findCertificate(r.certificates, names)
			if !ok {
				rule = ruleAnyCertificate
			}
			if ok || r.anyCertificate {
				return Origin{true, rule, "the MTA has verified the client's certificate" + describe(names)}, originCertificate
			}
		}
	}
	for _, d := range r.daemons {
		if strings.EqualFold(d.name, c.DaemonName) {
			return Origin{true, d.rule, "the MTA's daemon name is " + d.name}, originDaemon
		}
	}
	for i := range r.macros {
		if value, ok := r.macros[i].match(c); ok {
			return Origin{true, r.macros[i].rule, "the MTA's " + r.macros[i].rule + " is " + quote(value)}, originMacro
		}
	}
	if r.all {
		return Origin{true, ruleListener + c.Listener, "all mail of listener " + c.Listener + " counts as ours"}, originAll
	}
	return Origin{Reason: r.whyNot(c, login)}, originNone
}

// whyNot says what each rule misses, given that none matched.
func (r *originRules) whyNot(c *Connection, login string) string {
	buf := make([]byte, 0, 160)
	for rule := originLogin; rule < originNone; rule++ {
		if !r.asks(rule) {
			continue
		}
		if rule > originLogin {
			buf = append(buf, ", "...)
		}
		buf = r.appendMiss(buf, rule, c, login)
	}
	return string(buf)
}

// asks reports whether the answer of a rule is of interest: those that are
// rarely used only where they are.
func (r *originRules) asks(rule originRule) bool {
	switch rule {
	case originSkip:
		return !r.skip.empty()
	case originCertificate:
		return r.anyCertificate || len(r.certificates) > 0
	case originMacro:
		return len(r.macros) > 0
	case originAll:
		return r.all
	}
	return true
}

// appendMiss says why a rule did not match.
func (r *originRules) appendMiss(buf []byte, rule originRule, c *Connection, login string) []byte {
	switch rule {
	case originSkip:
		if c.Local {
			return append(buf, "no client that could be skipped"...)
		}
		return appendClient(buf, c, " is in no skipped network")
	case originLogin:
		if login == "" {
			return append(buf, "no login"...)
		}
		return append(appendQuoted(append(buf, "login "...), login), " does not count (rule switched off)"...)
	case originClient:
		switch {
		case c.Local:
			return append(buf, "local submission does not count (rule switched off)"...)
		case !c.Client.IsValid():
			return append(buf, "no client address"...)
		case r.networks.empty():
			return appendClient(buf, c, " does not count (no networks are trusted)")
		}
		return appendClient(buf, c, " is in no trusted network")
	case originCertificate:
		names, verified := c.certificate()
		switch {
		case verified:
			return append(append(append(buf, "certificate"...), describe(names)...), " is not listed"...)
		case names != Certificate{}:
			return append(append(append(buf, "certificate"...), describe(names)...), " is not verified"...)
		}
		return append(buf, "no verified certificate"...)
	case originDaemon:
		if c.DaemonName == "" {
			return append(buf, "no daemon name"...)
		}
		buf = appendQuoted(append(buf, "daemon name "...), c.DaemonName)
		if len(r.daemons) == 0 {
			return append(buf, " does not count (no names are listed)"...)
		}
		return append(buf, " is not listed"...)
	case originMacro:
		for i := range r.macros {
			if i > 0 {
				buf = append(buf, ", "...)
			}
			if value := c.Macros[r.macros[i].name]; value != "" {
				buf = append(append(append(buf, r.macros[i].rule...), " has the value "...), quote(value)...)
				buf = append(buf, ", which is not listed"...)
			} else {
				buf = append(append(buf, "no "...), r.macros[i].rule...)
			}
		}
	}
	return buf
}

// appendClient names the client, if it has an address.
func appendClient(buf []byte, c *Connection, predicate string) []byte {
	if !c.Client.IsValid() {
		return append(append(buf, "client without address"...), predicate...)
	}
	return append(c.Client.AppendTo(append(buf, "client "...)), predicate...)
}

// describe names a certificate that the MTA told of.
func describe(c Certificate) string {
	var s string
	if c.Subject != "" {
		s = " of " + quote(c.Subject)
	}
	if c.Issuer != "" {
		s += " by " + quote(c.Issuer)
	}
	return s
}

// maxQuoted bounds how much of a foreign value stands in a reason: enough to
// recognise it, and no whole message field in a log line.
const maxQuoted = 128

// quote returns s in quotation marks, safe for a log line, cut when long.
func quote(s string) string { return string(appendQuoted(nil, s)) }

func appendQuoted(buf []byte, s string) []byte {
	if len(s) <= maxQuoted {
		return strconv.AppendQuote(buf, s)
	}
	return append(strconv.AppendQuote(buf, s[:maxQuoted]), "..."...)
}

// sortedUnique returns the different strings of a list.
func sortedUnique(list []string) []string {
	list = slices.Clone(list)
	slices.Sort(list)
	return slices.Compact(list)
}
