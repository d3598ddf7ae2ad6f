// Package policy decides from the facts of a message whether it is ours to
// sign, and for which domain.
//
// It is a pure function of its arguments: no file, no network, no clock, no
// log. The same facts always give the same decision, so a command can explain
// what the daemon did. Every decision says in words why it was taken. Where
// facts are missing or can be read in two ways, the decision is against a
// signature.
package policy

import (
	"net/netip"
	"strings"
)

// Connection is what is known about an SMTP client before its first message.
type Connection struct {
	// Listener is the name of the socket the MTA came in by.
	Listener string

	// Client is the address of the SMTP client, the zero value when the MTA
	// gave none. IPv4-mapped IPv6 addresses and zones are understood.
	Client netip.Addr

	// Local says that the message was handed in on the machine itself, not by
	// an SMTP client: the MTA gave no client address, or Postfix simulated
	// one ("localhost", 127.0.0.1, port 0).
	Local bool

	// DaemonName is the value of macro {daemon_name}, empty when not sent.
	DaemonName string

	// MTA is the value of macro v, such as "Postfix 3.7.11". Sendmail sends
	// none by default.
	MTA string
}

// Message is what is known about one message when its header has ended.
type Message struct {
	// Login is the value of macro {auth_authen}: the SASL name of the client,
	// empty without authentication.
	Login string

	// MailFrom is the envelope sender: "<a@example.org>", "a@example.org",
	// and for the null sender "<>" or "" (Postfix's simulated sessions leave
	// the brackets out). It never chooses a signing domain, because only the
	// From field aligns with DMARC; a bounce is judged by its From field like
	// any other message.
	MailFrom string

	// From holds the values of all From fields, in order, as delivered: with
	// the blanks after the colon, and folded with LF or CRLF.
	From []string
}

// Options configures Rules. The zero value works.
type Options struct {
	// Origin says whose mail is ours.
	Origin OriginOptions
}

// Rules are the decisions of one configuration. They never change after New,
// so any number of goroutines may use them at once.
type Rules struct {
	origin originRules
}

// New checks the options and prepares them for quick lookup. The error names
// every wrong value together with its remedy.
func New(o Options) (*Rules, error) {
	origin, err := newOriginRules(o.Origin)
	if err != nil {
		return nil, err
	}
	return &Rules{origin: origin}, nil
}

// Origin says whether mail of this client and login is ours, before anything
// else is known about the message. Decide gives the same answer for the same
// connection and login: what is not ours here will not become ours later.
func (r *Rules) Origin(c Connection, login string) Origin {
	return r.origin.decide(c, login)
}

// Verdict is what Decide says about a message.
type Verdict uint8

const (
	// NotOurs: nothing vouches for the message; it is none of our business.
	NotOurs Verdict = iota
	// Ours: the message is ours and has one author domain.
	Ours
	// NotSignable: the message is ours, but no signature could mean anything,
	// whatever keys there are.
	NotSignable
)

// String returns the verdict as a fixed word for logs.
func (v Verdict) String() string {
	switch v {
	case NotOurs:
		return "not ours"
	case Ours:
		return "ours"
	case NotSignable:
		return "not signable"
	}
	return "unknown verdict"
}

// The values of Decision.Code. There are no others.
const (
	CodeNotOurs     = "not_ours"     // no origin rule matches
	CodeOurs        = "ours"         // ours, with an author domain
	CodeNoFrom      = "no_from"      // no From field
	CodeManyFrom    = "many_from"    // more than one From field
	CodeBadFrom     = "bad_from"     // From field not understood beyond doubt
	CodeNoDomain    = "no_domain"    // From field is sound but names no domain: group, domain literal
	CodeBadDomain   = "bad_domain"   // what stands after the @ is no domain name
	CodeManyDomains = "many_domains" // addresses of more than one domain
)

// Decision is what is to be done with a message.
type Decision struct {
	Verdict Verdict

	// Rule is the origin rule that made the message ours, as in Origin; empty
	// when it is not.
	Rule string

	// Reason says in words why this is the verdict. It quotes names and
	// addresses of machines, never text of the message other than domains and
	// single characters.
	Reason string

	// Code is one of the Code constants, for metrics.
	Code string

	// Author is the author domain as lower-case A-labels; empty unless Ours.
	Author string

	// Domains are the candidates for the signing domain (d=), most wanted
	// first: the exact author domain. Never empty when Ours.
	Domains []string
}

// Decide judges a message when its header has ended.
func (r *Rules) Decide(c Connection, m Message) Decision {
	o := r.origin.decide(c, m.Login)
	if !o.Ours {
		return Decision{Verdict: NotOurs, Reason: o.Reason, Code: CodeNotOurs}
	}
	author, bad := authorDomain(m.From)
	if bad != nil {
		reason := bad.Reason
		// Sendmail adds a missing From field when it delivers, after all
		// milters. Postfix has added it by now, if it ever does.
		if bad.Code == CodeNoFrom && !strings.HasPrefix(c.MTA, "Postfix") {
			reason += " (an MTA that adds one after its milters does so too late for a signature)"
		}
		return Decision{Verdict: NotSignable, Rule: o.Rule, Reason: reason, Code: bad.Code}
	}
	return Decision{
		Verdict: Ours,
		Rule:    o.Rule,
		Reason:  o.Reason,
		Code:    CodeOurs,
		Author:  author,
		Domains: []string{author},
	}
}
