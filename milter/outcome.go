package milter

import (
	"fmt"
	"strconv"
	"strings"

	gomilter "github.com/d--j/go-milter"
)

// Action is what happens to a message that does not get its signature.
type Action string

const (
	Accept   Action = "accept"   // the message goes on unsigned
	Tempfail Action = "tempfail" // the sender is asked to try again later (4xx)
	Reject   Action = "reject"   // the message is refused for good (5xx)
)

// Cause is why a message did not get its signature. The words are fixed: they
// stand in the log and count in Stats.
type Cause string

const (
	NotOurs     Cause = "not_ours"     // no origin rule matched
	NoKey       Cause = "no_key"       // the author domain has no active key
	KeyUnusable Cause = "key_unusable" // there is a key, but it cannot be loaded or does not sign
	StoreDown   Cause = "store_down"   // the keystore does not answer and nothing is cached
	Denied      Cause = "denied"       // its sender may not sign for the author domain
	NotSignable Cause = "not_signable" // the message can never be signed, such as one with two From fields
	OverLimit   Cause = "over_limit"   // more header fields or bytes than the limits allow

	// These two are no failures, and mail goes on as it is.
	Excluded      Cause = "excluded"       // a row of the selector table wants it unsigned
	AlreadySigned Cause = "already_signed" // our own valid signature is on top
)

// causes has, for every cause, the default action, the other actions that make
// sense, and the reply that goes with a refusal (codes: RFC 5321, section 4.2;
// enhanced codes: RFC 3463).
var causes = map[Cause]struct {
	action            Action
	others            []Action
	temporary, status string
	code              uint16
}{
	NotOurs:     {action: Accept},
	NoKey:       {action: Accept, others: []Action{Tempfail, Reject}, temporary: "4.7.5", status: "5.7.5", code: 550},
	KeyUnusable: {action: Tempfail, others: []Action{Accept, Reject}, temporary: "4.7.5", status: "5.7.5", code: 550},
	StoreDown:   {action: Tempfail, others: []Action{Accept}, temporary: "4.3.0"},
	Denied:      {action: Accept, others: []Action{Reject}, temporary: "4.7.1", status: "5.7.1", code: 550},
	NotSignable: {action: Accept, others: []Action{Reject}, temporary: "4.6.0", status: "5.6.0", code: 550},
	OverLimit:   {action: Reject, others: []Action{Accept}, temporary: "4.3.4", status: "5.3.4", code: 552},

	Excluded:      {action: Accept},
	AlreadySigned: {action: Accept},
}

// Outcomes says what happens to our own mail that cannot be signed. A cause
// that is absent has its default; the zero value has all of them.
type Outcomes map[Cause]Action

// Strict are the outcomes of mail that must not leave unsigned: whatever the
// cause, the sender is asked to try again later.
func Strict() Outcomes {
	return Outcomes{NoKey: Tempfail, KeyUnusable: Tempfail, StoreDown: Tempfail, Denied: Tempfail, NotSignable: Tempfail, OverLimit: Tempfail}
}

// Check returns an error for an action that the cause does not allow.
func (o Outcomes) Check() error {
	for cause, action := range o {
		known, ok := causes[cause]
		if !ok {
			return fmt.Errorf("unknown cause %q", cause)
		}
		allowed := append([]Action{known.action}, known.others...)
		found := false
		for _, a := range allowed {
			found = found || a == action
		}
		if !found {
			words := make([]string, len(allowed))
			for i, a := range allowed {
				words[i] = strconv.Quote(string(a))
			}
			return fmt.Errorf("%q is not possible here, want %s", action, strings.Join(words, " or "))
		}
	}
	return nil
}

// DefaultAction returns what happens for a cause that no setting names.
func DefaultAction(c Cause) Action { return causes[c].action }

// settle is the one place that decides what becomes of a message without a
// signature: it fills in the action, and the reply for the sender.
func (o Outcomes) settle(r *Result, c Cause, reason string) {
	known := causes[c]
	r.Cause, r.Reason, r.Action = c, reason, known.action
	if a, ok := o[c]; ok {
		r.Action = a
	}
	switch r.Action {
	case Tempfail:
		r.Code, r.Text = 451, known.temporary+" "+r.sentence()+"; try again later"
	case Reject:
		r.Code, r.Text = known.code, known.status+" "+r.sentence()
	}
}

// reject is settle for a message that is refused because of a risk.
func (o Outcomes) reject(r *Result, status, reason string) {
	r.Cause, r.Reason, r.Action = NotSignable, reason, Reject
	r.Code, r.Text = 550, status+" The message is refused: "+printable(reason)
}

// sentence is what the sender of a refused message reads. Trouble of our own
// is told in general words, and of the rules nothing, since they tell who else
// may do what here; what is wrong with the message is told exactly.
func (r *Result) sentence() string {
	switch r.Cause {
	case NoKey:
		return "This server has no DKIM key for the domain of the From field"
	case KeyUnusable, StoreDown:
		return "The message cannot be signed at the moment"
	case Denied:
		return "You may not send mail with a From address of " + printable(r.Author)
	case NotSignable:
		return "The message cannot be signed: " + printable(r.Reason)
	default:
		return "The message header is over a limit of this server: " + printable(r.Reason)
	}
}

// printable keeps a reason in one line of ASCII, as a reply must be.
func printable(s string) string {
	const longest = 200
	b := []byte(s)
	if len(b) > longest {
		b = b[:longest]
	}
	for i, c := range b {
		if c < ' ' || c > '~' {
			b[i] = '?'
		}
	}
	return string(b)
}

// response is a result in the words of the milter protocol.
func (r *Result) response() (*gomilter.Response, error) {
	switch r.Action {
	case Tempfail, Reject:
		return gomilter.RejectWithCodeAndReason(r.Code, r.Text)
	default:
		return gomilter.RespAccept, nil
	}
}
