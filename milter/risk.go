package milter

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"waxseal/signer"
)

// BadFrom is the risk of a message without one From field that everybody reads
// in the same way, and that stays as it is. There is no signature for it.
const BadFrom signer.Risk = "bad_from"

// RiskAction is what happens to a message of ours that has a risk.
type RiskAction string

const (
	RiskSign     RiskAction = "sign"     // it is signed, and the risk is logged and counted
	RiskUnsigned RiskAction = "unsigned" // it cannot be signed, and Outcomes says what becomes of it
	RiskReject   RiskAction = "reject"   // it is refused for good
)

// risks has, for every risk, what happens by default, the enhanced code of a
// refusal (RFC 3463), and what to do about it.
var risks = map[signer.Risk]struct {
	action   RiskAction
	unsigned bool   // there is no signature for it
	certain  bool   // the signature breaks on the way to any next hop
	status   string // of code 550
	postfix  string // the remedy
	sendmail string // if it is another
}{
	signer.LongBodyLine: {action: RiskSign, certain: true, status: "5.6.0",
		postfix:  "have the program that writes the mail encode such text as quoted-printable or base64",
		sendmail: "have the program that writes the mail encode such text as quoted-printable or base64, unless L= of the mailer allows for it"},
	signer.LongHeaderLine: {action: RiskSign, certain: true, status: "5.6.0",
		postfix:  "have the program that writes the mail fold its header fields",
		sendmail: "have the program that writes the mail fold its header fields, unless L= of the mailer allows for it"},
	signer.EightBit: {action: RiskSign, status: "5.6.3",
		postfix:  "set disable_mime_output_conversion = yes, or from Postfix 3.9 on force_mime_input_conversion = yes for submission",
		sendmail: "add F=8 to the flags of the mailer when its next hop takes 8-bit text, or have the mail written in quoted-printable or base64"},
	signer.MissingDate: {action: RiskSign, status: "5.6.0",
		postfix:  "set always_add_missing_headers = yes, or local_header_rewrite_clients for your clients",
		sendmail: "have the program that writes the mail add Date"},
	signer.MissingMessageID: {action: RiskSign, status: "5.6.0",
		postfix:  "set always_add_missing_headers = yes, or local_header_rewrite_clients for your clients",
		sendmail: "have the program that writes the mail add Message-ID"},
	signer.BareCRLF: {action: RiskUnsigned, status: "5.6.0",
		postfix:  "set cleanup_replace_stray_cr_lf = yes, and leave no_header_body_checks out of receive_override_options",
		sendmail: "use Sendmail 8.18, which refuses such mail"},
	signer.NUL: {action: RiskSign, status: "5.6.0",
		postfix:  "set message_strip_characters = \\0, which acts before this milter",
		sendmail: "have the program that writes the mail encode such data as base64"},
	signer.DuplicateField: {action: RiskSign, status: "5.6.0",
		postfix: "have the program that writes the mail send one field of a kind"},
	signer.RewrittenField: {action: RiskSign, status: "5.6.0",
		postfix:  "none is needed: Postfix rewrites before its milters",
		sendmail: "have the program that writes the mail put full addresses of domains that are not masqueraded, a comma and a blank between them, and quotation marks around names with dots"},
	signer.RewrittenMultipart: {action: RiskSign, certain: true, status: "5.6.0",
		postfix:  "none is needed: Postfix leaves multiparts as they are",
		sendmail: "have the program that writes the mail end each multipart with its last delimiter, and begin each part with header fields and a blank line"},
	BadFrom: {action: RiskUnsigned, unsigned: true, status: "5.6.0",
		postfix:  "have the program that writes the mail send one From field with one full address",
		sendmail: "have the program that writes the mail send one From field with one full address of a domain that is not masqueraded, and quotation marks around a name with dots"},
}

// RiskNames returns all risks, in order.
func RiskNames() []signer.Risk {
	names := make([]signer.Risk, 0, len(risks))
	for name := range risks {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// DefaultRiskAction returns what happens for a risk that no setting names.
func DefaultRiskAction(r signer.Risk) RiskAction { return risks[r].action }

// Remedy returns what an administrator of that mail server can do about a risk.
func Remedy(r signer.Risk, p signer.Profile) string {
	if known := risks[r]; p == signer.Sendmail && known.sendmail != "" {
		return known.sendmail
	}
	return risks[r].postfix
}

// RiskActions says what happens to our own mail that has a risk. A risk that is
// absent has its default; the zero value has all of them.
type RiskActions map[signer.Risk]RiskAction

// Check returns an error for an action that the risk does not allow.
func (a RiskActions) Check() error {
	for risk, action := range a {
		known, ok := risks[risk]
		if !ok {
			return fmt.Errorf("unknown risk %q", risk)
		}
		allowed := []RiskAction{RiskSign, RiskUnsigned, RiskReject}
		if known.unsigned {
			allowed = allowed[1:]
		}
		if !slices.Contains(allowed, action) {
			words := make([]string, len(allowed))
			for i, a := range allowed {
				words[i] = strconv.Quote(string(a))
			}
			return fmt.Errorf("%q is not possible here, want %s", action, strings.Join(words, " or "))
		}
	}
	return nil
}

// action returns what happens for a risk.
func (a RiskActions) action(r signer.Risk) RiskAction {
	if action, ok := a[r]; ok {
		return action
	}
	return risks[r].action
}

// Risk is one that a message has.
type Risk struct {
	Name   signer.Risk
	Action RiskAction
	Why    string // in words
	Remedy string
}

// String returns the risk in words for the log.
func (r Risk) String() string { return fmt.Sprintf("%s: %s (%s)", r.Name, r.Why, r.Remedy) }

// risk notes a risk of the message.
func (t *Transaction) risk(name signer.Risk, why string) Risk {
	r := Risk{name, t.set.Risks.action(name), why, Remedy(name, t.options.Profile)}
	t.result.Risks = append(t.result.Risks, r)
	return r
}

// checkRisks notes all risks of the message. It returns the result when one of
// them decides about it, and nil when it is to be signed. A refusal comes first.
func (t *Transaction) checkRisks() *Result {
	var deciding Risk
	for _, f := range t.message.Risks() {
		r := t.risk(f.Risk, f.Why)
		if r.Action == RiskReject && deciding.Action != RiskReject || r.Action == RiskUnsigned && deciding.Action == "" {
			deciding = r
		}
	}
	return t.decide(deciding)
}

// decide does with the message what its risk asks for.
func (t *Transaction) decide(r Risk) *Result {
	switch r.Action {
	case RiskUnsigned:
		return t.refuse(NotSignable, r.Why)
	case RiskReject:
		t.outcomes.reject(&t.result, risks[r.Name].status, r.Why)
		return &t.result
	}
	return nil
}

// badFrom is the end of a message with a From field for which there is no
// signature.
func (t *Transaction) badFrom(why string) *Result { return t.decide(t.risk(BadFrom, why)) }

// certain says whether the message has a risk that surely comes true.
func (r *Result) certain() bool {
	return slices.ContainsFunc(r.Risks, func(each Risk) bool { return risks[each.Name].certain })
}

// MTA says which mail server a listener serves.
type MTA string

const (
	MTAAuto     MTA = "auto"     // what it says in macro v: Postfix, or else Sendmail
	MTAPostfix  MTA = "postfix"  // Postfix
	MTASendmail MTA = "sendmail" // Sendmail, or any other
)

// ParseMTA reads one.
func ParseMTA(s string) (MTA, error) {
	switch m := MTA(s); m {
	case MTAAuto, MTAPostfix, MTASendmail:
		return m, nil
	}
	return "", errors.New(strconv.Quote(s) + ` is no mail server, want "auto", "postfix" or "sendmail"`)
}

// Peer is what is known of the mail server of a listener. The zero value is
// nothing, so that macro v tells.
type Peer struct {
	MTA        MTA
	Masquerade *signer.Masquerade // of Sendmail; nil is none
}

// profile returns what the mail server will do to a message after this. v is the
// value of its macro v: "Postfix 3.7.11", or a version number of Sendmail.
func (p Peer) profile(v string) signer.Profile {
	if p.MTA == MTAPostfix || p.MTA != MTASendmail && strings.HasPrefix(v, "Postfix") {
		return signer.Postfix
	}
	return signer.Sendmail
}
