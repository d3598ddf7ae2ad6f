package policy

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// OriginOptions says whose mail is ours. Any one of the rules is enough. The
// zero value is: every authenticated login, the loopback networks, local
// submission, and the daemon name ORIGINATING.
type OriginOptions struct {
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

	// DaemonNames are the values of macro {daemon_name} that make mail ours,
	// upper and lower case alike. Postfix sets the macro per service in
	// master.cf: -o milter_macro_daemon_name=ORIGINATING. Nil means
	// DefaultDaemonNames; an empty list that is not nil switches the rule off.
	DaemonNames []string
}

// DefaultNetworks returns what a nil OriginOptions.Networks means.
func DefaultNetworks() []string { return []string{"127.0.0.0/8", "::1/128"} }

// DefaultDaemonNames returns what a nil OriginOptions.DaemonNames means.
func DefaultDaemonNames() []string { return []string{"ORIGINATING"} }

// Origin says whether mail is ours.
type Origin struct {
	Ours bool

	// Rule is the rule that matched: "login", "local submission",
	// "network 192.0.2.0/24" or "daemon name ORIGINATING", the last two as
	// configured. Empty when the mail is not ours.
	Rule string

	// Reason says in words which fact matched, or for mail that is not ours
	// why no rule did.
	Reason string
}

const (
	ruleLogin = "login"
	ruleLocal = "local submission"
)

// originRules are OriginOptions in a form that is quick to ask.
type originRules struct {
	login, local bool
	networks     networks
	daemons      []daemon
}

// daemon is a configured daemon name and what its rule is called.
type daemon struct{ name, rule string }

func newOriginRules(o OriginOptions) (originRules, error) {
	r := originRules{login: !o.NoLogin, local: !o.NoLocal}
	list := o.Networks
	if list == nil {
		list = DefaultNetworks()
	}
	var errNetworks, errDaemons error
	r.networks, errNetworks = newNetworks(list, o.AllowInternet)
	names := o.DaemonNames
	if names == nil {
		names = DefaultDaemonNames()
	}
	r.daemons, errDaemons = newDaemons(names)
	if err := errors.Join(errNetworks, errDaemons); err != nil {
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

func (r *originRules) decide(c Connection, login string) Origin {
	if r.login && login != "" {
		return Origin{true, ruleLogin, "authenticated login " + quote(login)}
	}
	if c.Local {
		if r.local {
			return Origin{true, ruleLocal, "submitted on this machine, without an SMTP client"}
		}
	} else if rule, ok := r.networks.find(c.Client); ok {
		buf := make([]byte, 0, 128)
		buf = append(buf, "client "...)
		buf = c.Client.AppendTo(buf)
		buf = append(buf, " is in "...)
		return Origin{true, rule, string(append(buf, rule...))}
	}
	for _, d := range r.daemons {
		if strings.EqualFold(d.name, c.DaemonName) {
			return Origin{true, d.rule, "the MTA's daemon name is " + d.name}
		}
	}
	return Origin{Reason: r.whyNot(c, login)}
}

// whyNot says what each rule misses, given that none matched.
func (r *originRules) whyNot(c Connection, login string) string {
	buf := make([]byte, 0, 160)
	switch {
	case login == "":
		buf = append(buf, "no login"...)
	default:
		buf = appendQuoted(append(buf, "login "...), login)
		buf = append(buf, " does not count (rule switched off)"...)
	}
	switch {
	case c.Local:
		buf = append(buf, ", local submission does not count (rule switched off)"...)
	case !c.Client.IsValid():
		buf = append(buf, ", no client address"...)
	default:
		buf = c.Client.AppendTo(append(buf, ", client "...))
		if r.networks.empty() {
			buf = append(buf, " does not count (no networks are trusted)"...)
		} else {
			buf = append(buf, " is in no trusted network"...)
		}
	}
	switch {
	case c.DaemonName == "":
		buf = append(buf, ", no daemon name"...)
	case len(r.daemons) == 0:
		buf = appendQuoted(append(buf, ", daemon name "...), c.DaemonName)
		buf = append(buf, " does not count (no names are listed)"...)
	default:
		buf = appendQuoted(append(buf, ", daemon name "...), c.DaemonName)
		buf = append(buf, " is not listed"...)
	}
	return string(buf)
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
