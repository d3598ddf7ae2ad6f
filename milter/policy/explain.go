package policy

import (
	"fmt"
	"strings"
)

// Step is one step on the way to a decision.
type Step struct {
	// Stage is the part of the rules that was asked: one of the Stage
	// constants, in this order.
	Stage string `json:"stage"`

	// Rule is what was asked: an origin rule, a field, a row.
	Rule string `json:"rule"`

	// Matched says whether it matched: made the message ours, named the author
	// domain, gave permission, was the row to use.
	Matched bool `json:"matched"`

	// Why says in words why it did or did not.
	Why string `json:"why"`

	// Change says what would change that; empty when there is nothing to say.
	Change string `json:"change,omitempty"`
}

// The values of Step.Stage.
const (
	StageOrigin     = "origin"     // whose mail is it
	StageAuthor     = "author"     // for which domain
	StageTable      = "table"      // which row
	StageSender     = "sender"     // which keys does the keystore name for the author
	StagePermission = "permission" // may the sender
	StageSigning    = "signing"    // with which domain's keys
)

// Explain is Decide, and tells how it came to its decision. It stops where
// Decide does: what was not asked has no step. Without Message.Sender, where that
// is wanted, the keystore counts as one that has not answered.
func (r *Rules) Explain(c Connection, m Message) (Decision, []Step) {
	d, p := r.decide(&c, &m)
	e := explanation{rules: r, c: &c, m: &m, d: &d, p: &p}
	e.origin()
	if d.Verdict != NotOurs {
		e.author()
	}
	if d.Verdict != NotOurs && d.Verdict != NotSignable {
		e.table()
		e.sender()
		e.permission()
		e.signing()
	}
	return d, e.steps
}

// explanation puts the path of a decision into words. It decides nothing.
type explanation struct {
	rules *Rules
	c     *Connection
	m     *Message
	d     *Decision
	p     *path
	steps []Step
}

func (e *explanation) add(stage, rule string, matched bool, why, change string) {
	e.steps = append(e.steps, Step{stage, rule, matched, why, change})
}

// originNames are what rules are called that did not match, and what would make
// them match.
var originNames = [originNone]struct{ name, change string }{
	originSkip:        {"skipped networks", ""},
	originLogin:       {ruleLogin, "log in"},
	originClient:      {"network", "list the client's network"},
	originCertificate: {"certificate", "show a certificate that is listed, and that the MTA can verify"},
	originDaemon:      {"daemon name", "let the MTA's service have a listed name (Postfix: milter_macro_daemon_name)"},
	originMacro:       {"macro", "let the MTA send the macro"},
	originAll:         {"listener", ""},
}

func (e *explanation) origin() {
	rules := e.rules.rulesOf(e.c)
	for rule := originSkip; rule < e.p.origin && rule < originNone; rule++ {
		if !rules.asks(rule) {
			continue
		}
		name, change := originNames[rule].name, originNames[rule].change
		switch {
		case rule == originLogin && e.m.Login != "":
			change = "switch the rule on"
		case rule == originClient && e.c.Local:
			name, change = ruleLocal, "switch the rule on"
		}
		e.add(StageOrigin, name, false, string(rules.appendMiss(nil, rule, e.c, e.m.Login)), change)
	}
	switch e.p.origin {
	case originNone:
	case originSkip:
		e.add(StageOrigin, originNames[originSkip].name, true, e.d.Reason, "take the network out of the skipped ones")
	default:
		// The reason of a message that is ours may be another rule's.
		o, _ := rules.decide(e.c, e.m.Login)
		e.add(StageOrigin, o.Rule, true, o.Reason, "")
	}
}

func (e *explanation) author() {
	if e.d.Verdict == NotSignable {
		e.add(StageAuthor, fieldFrom, false, e.d.Reason, "have one From field, with addresses of one domain")
		return
	}
	if e.p.unsound != "" {
		e.add(StageAuthor, fieldFrom, false, e.p.unsound, "")
		return
	}
	for _, name := range e.rules.fields {
		a, err := readAuthorField(name, e.m.Fields[name], e.rules.locals)
		if err == nil {
			e.add(StageAuthor, name, true, "names "+a.domain+"; the From field is sound, and names "+e.d.Author, "")
			return
		}
		e.add(StageAuthor, name, false, err.Error(), "have one "+name+" field that names one domain")
	}
	e.add(StageAuthor, fieldFrom, true, "names "+e.d.Author, "")
}

func (e *explanation) table() {
	a, m := e.p.author, e.p.match
	for l := levelLogin; l < m.level && l < levelNone; l++ {
		switch l {
		case levelLogin:
			if e.p.login.name == "" {
				e.add(StageTable, "login", false, "no login", "")
			} else {
				e.add(StageTable, "login", false, "no row for login "+quote(e.p.login.name), "add a row for it")
			}
		case levelAddress:
			e.add(StageTable, "address", false, "no row for an address in the "+a.field+" field", "add a row for it")
		case levelDomain:
			e.add(StageTable, "domain", false, "no row for domain "+a.domain, "add a row for it")
		case levelParent:
			e.add(StageTable, "parent domain", false, "no row for a domain above "+a.domain+" that extends to what is below it", "add a row with subdomains")
		case levelFallback:
			e.add(StageTable, "all other mail", false, "no row for it", `add a row for domain "*"`)
		}
	}
	switch {
	case m.row == nil && e.m.AskSender:
		e.add(StageTable, "none", true, a.domain+" has no row, so the sender query decides", "")
		return
	case m.row == nil:
		e.add(StageTable, "none", true, a.domain+" has no row, so it signs for itself", "")
		return
	}
	if m.row.Disabled {
		e.add(StageTable, m.row.name, true, m.row.excluded(), "switch the row on")
		return
	}
	e.add(StageTable, m.row.name, true, "the most specific row", "")
}

// sender tells what the keystore has told of the author.
func (e *explanation) sender() {
	const rule, change = "sender query", "add a row for it to the tables of the keystore"
	s := e.m.Sender
	switch {
	case !e.p.asked:
	case s == nil:
		e.add(StageSender, rule, false, "the keystore has not told which keys sign the mail of "+e.d.Sender, "")
	case len(s.Keys) == 0:
		e.add(StageSender, rule, false, s.none(e.d.Sender), change)
	default:
		names := make([]string, len(s.Keys))
		for i, k := range s.Keys {
			names[i] = k.Selector + " of " + k.Domain
		}
		e.add(StageSender, rule, true, "its row for "+s.Row+" names key "+strings.Join(names, " and "), "")
	}
}

func (e *explanation) permission() {
	a, l, p := e.p.author, e.p.login, e.p.permit
	if e.p.match.level == levelLogin && e.p.match.row.Disabled {
		return // was not asked
	}
	who := "login " + quote(l.name)
	if l.name == "" {
		who = "mail without a login"
	}
	switch {
	case p.why == permitOff:
		e.add(StagePermission, "switched off", true, "all mail that is ours may sign for any domain", "")
	case p.why == permitOwn:
		e.add(StagePermission, "own domain", true, who+" may sign for its own domain, "+a.domain, "")
	case p.why == permitDomain:
		e.add(StagePermission, "login domains", true, who+" has no domain of its own, and may sign for "+a.domain, "")
	case p.why == permitGrant && l.name != "":
		e.add(StagePermission, p.grant, true, who+" may sign for "+a.domain+" by "+p.grant, "")
	case p.why == permitGrant:
		e.add(StagePermission, p.grant, true, p.subject.name+" may sign for "+a.domain+" by "+p.grant, "")
	case p.why == permitAny:
		e.add(StagePermission, "no login", true, who+" may sign for any domain, since no grant is about its client", "")
	default:
		e.add(StagePermission, "none", false, e.rules.permission.denied(e.c, l, a, p), "add a grant")
		if e.p.match.allows() {
			e.add(StagePermission, e.p.match.row.name, true, "the row lets the login sign as "+e.p.match.row.SignAs+", whatever the author domain is", "")
		}
	}
}

func (e *explanation) signing() {
	if e.p.dropped != "" {
		why := "a signature of " + e.p.dropped + " might count for the From field: " + e.rules.permission.denied(e.c, e.p.login, e.p.from, e.p.permitFrom)
		e.add(StagePermission, fieldFrom, false, why, "add a grant")
	}
	for i, c := range e.d.Candidates {
		var b strings.Builder
		switch {
		case len(e.d.Candidates) == 1:
			b.WriteString("the one domain that may sign")
		case c.Beside && i > 0:
			b.WriteString("signs beside " + e.d.Domains[0])
		case i == 0:
			b.WriteString("signs if it has keys")
		default:
			b.WriteString("signs where " + e.d.Domains[0] + " has no keys")
		}
		if len(c.Selectors) > 0 {
			fmt.Fprintf(&b, ", with selector %s", strings.Join(c.Selectors, " or "))
		}
		if c.Identity != "" {
			fmt.Fprintf(&b, ", for identity %s", c.Identity)
		}
		if c.Unaligned {
			fmt.Fprintf(&b, "; DMARC does not count it for %s", e.d.Author)
		}
		e.add(StageSigning, c.Domain, true, b.String(), "")
	}
}
