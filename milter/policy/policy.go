package policy

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
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

	// Host is the value of macro j, the MTA's name for itself. Both Postfix
	// and Sendmail send it by default. It decides for which domains a login
	// without a domain may sign.
	Host string

	// Macros are the values of those macros that Rules.Macros lists, by name
	// as there, as they stand at MAIL. Others in it are not looked at.
	Macros map[string]string
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

	// Fields holds the values of all fields that Rules.Fields lists, by name
	// as there, in the form of From. Others in it are not looked at.
	Fields map[string][]string

	// AskSender says that the keystore tells which of its keys sign an author's
	// mail. Sender is what it has told of Decision.Sender, nil before it is asked.
	AskSender bool
	Sender    *Sender
}

// Sender is which keys sign an author's mail, as the keystore tells.
type Sender struct {
	// Row is what its row is about: an address, a domain, or a pattern. Empty if
	// there is none for the author.
	Row string

	// Keys sign, all of them.
	Keys []SenderKey
}

// SenderKey names a key: signing domain (d=), selector, and the identity (i=),
// which is within the domain or empty.
type SenderKey struct{ Domain, Selector, Identity string }

// Options configures Rules. The zero value works.
type Options struct {
	// Origin says whose mail is ours.
	Origin OriginOptions

	// Listeners are origin rules that apply, instead of Origin, to what comes
	// in by the listener of that name. Nothing is taken over from Origin.
	Listeners map[string]OriginOptions

	// AuthorFields are the fields that choose the author domain instead of
	// From, most wanted first: for a list server, which signs with the list's
	// own domain (RFC 6377, section 5.8). Possible are List-Id, List-Post,
	// List-Owner, Sender, Resent-Sender, and Resent-From; From always is the
	// last one. Nil means From alone.
	AuthorFields []string

	// Permission says who may sign for which domain.
	Permission PermissionOptions

	// Table is the selector table: what differs for a login, an address or a
	// domain. A domain without a row signs for itself.
	Table []Row
}

// OptionError is one wrong value of Options.
type OptionError struct {
	// Option is where the value stands, as Go would write it: "Origin.Networks",
	// "Listeners[submission].DaemonNames", "Permission.Grants[0]", "Table[2]".
	Option string

	// About says in words what of the options is wrong, such as "row news" or
	// "listener relay"; empty where Err says that itself.
	About string

	// Err says what is wrong with it, and the remedy.
	Err error
}

func (e *OptionError) Error() string {
	if e.About == "" {
		return e.Err.Error()
	}
	return e.About + ": " + e.Err.Error()
}

func (e *OptionError) Unwrap() error { return e.Err }

// optionErrors turns each of the errors that are joined in err into an
// OptionError.
func optionErrors(option, about string, err error) error {
	if err == nil {
		return nil
	}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		var list []error
		for _, each := range joined.Unwrap() {
			list = append(list, optionErrors(option, about, each))
		}
		return errors.Join(list...)
	}
	return &OptionError{option, about, err}
}

// called is what a row is called in words: by its name, or by its number, which
// counts from 1.
func called(kind, name string, number int) string {
	switch {
	case name == "":
		return fmt.Sprintf("%s %d", kind, number)
	case strings.ContainsFunc(name, func(c rune) bool { return !isAlnum(c) && c != '-' && c != '_' && c != '.' }):
		return kind + " " + quote(name)
	}
	return kind + " " + name
}

// Rules are the decisions of one configuration. They never change after New,
// so any number of goroutines may use them at once.
type Rules struct {
	origin     originRules
	listeners  map[string]*originRules
	fields     []string // author fields other than From
	permission permission
	table      table
	locals     bool // whether anything depends on the local part of addresses
	warnings   []error
	macros     []string
}

// New checks the options and prepares them for quick lookup. The error joins an
// *OptionError for every wrong value, with its remedy.
func New(o Options) (*Rules, error) {
	r := &Rules{}
	var errOrigin, errFields, errPermission, errTable error
	r.origin, errOrigin = newOriginRules(o.Origin, "")
	bad := []error{errOrigin}
	for _, name := range slices.Sorted(maps.Keys(o.Listeners)) {
		if name == "" {
			bad = append(bad, &OptionError{"Listeners", "", errors.New("a listener without a name has origin rules: those of all listeners are in Origin")})
			continue
		}
		rules, err := newOriginRules(o.Listeners[name], name)
		bad = append(bad, err)
		if r.listeners == nil {
			r.listeners = make(map[string]*originRules)
		}
		r.listeners[name] = &rules
	}
	r.fields, errFields = newAuthorFields(o.AuthorFields)
	r.permission, errPermission = newPermission(o.Permission)
	r.table, errTable = newTable(o.Table)
	bad = append(bad, optionErrors("AuthorFields", "", errFields), errPermission, errTable)
	if err := errors.Join(bad...); err != nil {
		return nil, err
	}
	r.locals = len(r.permission.addresses) > 0 || r.table.locals
	r.warnings = r.table.warnings(o.Table)
	r.macros = r.macroNames()
	return r, nil
}

// Warnings returns doubts about options that are valid: each is an
// *OptionError. They are the same for every message, so they belong in the log
// once.
func (r *Rules) Warnings() []error { return r.warnings }

// Macros returns the names of the macros that Connection.Macros should hold, in
// the form in which MTAs send them. Nil when no rule asks for one. The slice is
// shared and must not be changed, as that of Fields.
func (r *Rules) Macros() []string { return r.macros }

func (r *Rules) macroNames() []string {
	names := r.origin.macroNames()
	for _, rules := range r.listeners {
		names = append(names, rules.macroNames()...)
	}
	if len(r.permission.certificates) > 0 {
		names = append(names, macroVerify, macroSubject, macroIssuer)
	}
	return sortedUnique(names)
}

// Fields returns the names of the fields that Message.Fields should hold. The
// names of fields in a message match in upper and lower case alike. Nil when
// only From counts.
func (r *Rules) Fields() []string { return r.fields }

// Origin says whether mail of this client and login is ours, before anything
// else is known about the message. Decide gives the same answer for the same
// connection and login: what is not ours here will not become ours later.
func (r *Rules) Origin(c Connection, login string) Origin {
	o, _ := r.rulesOf(&c).decide(&c, login)
	return o
}

// rulesOf returns the origin rules of the connection's listener.
func (r *Rules) rulesOf(c *Connection) *originRules {
	if rules, ok := r.listeners[c.Listener]; ok {
		return rules
	}
	return &r.origin
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
	// Denied: the message is ours, but its sender may not sign for the author
	// domain.
	Denied
	// Excluded: the message is ours, but a row of the table wants such mail
	// unsigned.
	Excluded
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
	case Denied:
		return "denied"
	case Excluded:
		return "excluded"
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
	CodeDenied      = "denied"       // the sender may not sign for the author domain
	CodeExcluded    = "excluded"     // a row of the table is switched off
)

// Decision is what is to be done with a message.
type Decision struct {
	Verdict Verdict

	// Rule is the origin rule that made the message ours, as in Origin; empty
	// when it is not.
	Rule string

	// Reason says in words why this is the verdict. It quotes names and
	// addresses of machines, and logins, never text of the message other than
	// domains and single characters.
	Reason string

	// Code is one of the Code constants, for metrics.
	Code string

	// Author is the domain of the From field as lower-case A-labels. Empty
	// when the message is not ours, or the field names none.
	Author string

	// Field is the name of the field that chose the domain to sign for: "From",
	// or one of Options.AuthorFields. Empty like Author.
	Field string

	// Domains are the candidates for the signing domain (d=), most wanted
	// first: the first one that has keys is to sign, alone or with those beside
	// it. When Ours they are empty only if the keystore is yet to be asked about
	// Sender, or has told that no key signs, which Reason says. Empty otherwise.
	Domains []string

	// Candidates are Domains, each with what it signs with.
	Candidates []Candidate

	// Sender is the address, or "@" and the domain, of which the keystore has to
	// be asked which keys sign. With the answer as Message.Sender, Decide decides.
	// Empty when the decision does not depend on it.
	Sender string

	// SenderRow is Sender.Row of the answer, if that counts.
	SenderRow string

	// Row is the number of the row of Options.Table that was used, counted
	// from 1, and RowName what it is called, such as "row news (address
	// news@example.org)". 0 and empty without a row. A message that is denied or
	// excluded has them too.
	Row     int
	RowName string

	// Overrides is what the row has in place of the general settings; nil
	// without a row. It is shared by all messages and must not be changed.
	Overrides *Overrides
}

// Candidate is a domain that may sign a message.
type Candidate struct {
	Domain string // d=

	// Selectors are those that may sign, if active. Nil means all. The slice
	// is shared by all messages and must not be changed.
	Selectors []string

	// Identity is the value of i=, within Domain. Empty leaves the tag out.
	Identity string

	// Beside says that it signs together with the candidate before it, and not in
	// its place.
	Beside bool

	// Unaligned says that Domain and the domain of the From field surely
	// belong to different organizations, so that no receiver counts the
	// signature for DMARC.
	Unaligned bool
}

// Decide judges a message when its header has ended.
func (r *Rules) Decide(c Connection, m Message) Decision {
	d, _ := r.decide(&c, &m)
	return d
}

// path is how a decision was reached: what the parts of the rules answered.
type path struct {
	origin       originRule
	login        login
	author, from author
	unsound      string // why there is no author, where a row counts all the same
	match        match
	asked        bool   // the keystore tells which keys sign
	permit       permit // for author
	permitFrom   permit // for from, where it was asked
	dropped      string // candidate that this kept from signing
}

func (r *Rules) decide(c *Connection, m *Message) (d Decision, p path) {
	var o Origin
	o, p.origin = r.rulesOf(c).decide(c, m.Login)
	if !o.Ours {
		return Decision{Verdict: NotOurs, Reason: o.Reason, Code: CodeNotOurs}, p
	}
	var bad *AuthorError
	p.author, p.from, bad = r.author(m, r.locals || m.AskSender)
	p.login = newLogin(m.Login)
	if bad != nil {
		reason := bad.Reason
		// Sendmail adds a missing From field when it delivers, after all
		// milters. Postfix has added it by now, if it ever does.
		if bad.Code == CodeNoFrom && !strings.HasPrefix(c.MTA, "Postfix") {
			reason += " (an MTA that adds one after its milters does so too late for a signature)"
		}
		d = Decision{Verdict: NotSignable, Rule: o.Rule, Reason: reason, Code: bad.Code}
		// The row of a login counts all the same.
		if row := r.table.logins[p.login.key]; row != nil {
			p.match, p.unsound = match{row, levelLogin}, reason
			d.Row, d.RowName, d.Overrides = row.number, row.name, &row.Overrides
			if row.Disabled {
				d.Verdict, d.Code, d.Reason = Excluded, CodeExcluded, row.excluded()
			}
		}
		return d, p
	}
	p.match = r.table.find(p.login, p.author)
	d = Decision{Verdict: Ours, Rule: o.Rule, Reason: o.Reason, Code: CodeOurs, Author: p.from.domain, Field: p.author.field}
	row := p.match.row
	if row != nil {
		d.Row, d.RowName, d.Overrides = row.number, row.name, &row.Overrides
	}

	// A login that is never to be signed is not asked what it may. A domain
	// that is not to be signed is no licence for others to use it.
	if p.match.level == levelLogin && row.Disabled {
		d.Verdict, d.Code, d.Reason = Excluded, CodeExcluded, row.excluded()
		return d, p
	}
	p.permit = r.permission.check(c, p.login, p.author)
	switch {
	case !p.permit.ok && !p.match.allows():
		d.Verdict, d.Code, d.Reason = Denied, CodeDenied, r.permission.denied(c, p.login, p.author, p.permit)
		return d, p
	case row != nil && row.Disabled:
		d.Verdict, d.Code, d.Reason = Excluded, CodeExcluded, row.excluded()
		return d, p
	}
	if m.AskSender && p.match.own(p.author, p.permit.ok) {
		p.asked = true
		d.Sender = p.author.sender()
		if m.Sender == nil {
			return d, p
		}
		r.fromSender(&d, &p, m.Sender)
	} else {
		d.Domains, d.Candidates = p.match.candidates(p.author, p.from.domain, p.permit.ok)
	}
	if p.author.field != fieldFrom {
		r.keepFrom(c, &d, &p)
	}
	return d, p
}

// keepFrom sees to it that nobody gets by another field what the From field
// would not give them: a signature that may count for its domain takes a
// permission for it too, unless a row lets the login sign as that domain.
func (r *Rules) keepFrom(c *Connection, d *Decision, p *path) {
	p.permitFrom = r.permission.check(c, p.login, p.from)
	if p.permitFrom.ok {
		return
	}
	var domains []string
	var candidates []Candidate
	for _, candidate := range d.Candidates {
		if candidate.Unaligned || p.match.allows() && candidate.Domain == p.match.row.SignAs {
			domains, candidates = append(domains, candidate.Domain), append(candidates, candidate)
		} else {
			p.dropped = candidate.Domain
		}
	}
	d.Domains, d.Candidates = domains, candidates
	if p.dropped != "" && len(domains) == 0 {
		d.Verdict, d.Code = Denied, CodeDenied
		d.Reason = "a signature of " + p.dropped + " might count for the From field: " + r.permission.denied(c, p.login, p.from, p.permitFrom)
	}
}
