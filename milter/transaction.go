package milter

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"waxseal/keystore"
	"waxseal/milter/policy"
	"waxseal/signer"
)

// Result is what became of a message, and why.
type Result struct {
	Signed bool
	Fields []signer.Field // to be put on top of the message, topmost first

	Action Action // for a message that was not signed
	Cause  Cause
	Code   uint16 // the reply of a refusal: code,
	Text   string // enhanced code and sentence

	Rule      string   // the origin rule that matched
	Row       string   // the row of the selector table, if there is one
	SenderRow string   // what the row is about that the sender query has found
	Reason    string   // in words
	Author    string   // author domain
	Domain    string   // signing domain, d=
	Beside    []string // other domains that have signed, too
	Unaligned bool     // Domain surely is of another organization than Author
	Known     bool     // the keystore has Domain
	Selectors []string // s=, as Fields
	Broken    []error  // active keys that could not be used although others could
	Bytes     int64    // body size

	RSA, Ed25519 int // signatures by key type

	Risks []Risk // of a message that would be signed without them
}

// Transaction takes one message through: facts at MAIL, header fields, the
// decision at the end of the header, the body as it streams, and the signature
// at its end. It is not for concurrent use.
type Transaction struct {
	set        *Settings
	connection policy.Connection
	login      string
	mailFrom   string

	message *signer.Message
	options signer.Options
	from    []string            // values of the From fields
	others  map[string][]string // those of other fields that the rules ask for
	asked   []string            // the names of these
	blurred bool                // the blanks of field values are not as in the message
	late    bool                // keep the fields in held until the row is known
	held    []signer.Field
	fields  int
	bytes   int // of header
	over    string

	result     Result
	outcomes   Outcomes
	lifetime   time.Duration
	candidates []policy.Candidate
	sender     string // whom the keystore is asked about; then candidates are empty
	decided    bool
	cancel     context.CancelFunc
	loading    chan *loaded
	ready      *loaded
}

// Begin starts a message at MAIL. It returns nil, and the result, for mail
// that is certainly not ours. The message is reset, and used until End or
// Abort. Without verbatim, the blanks after the colons of fields are not as they
// stand in the message, and the header is signed relaxed whatever the settings
// say: a simple signature would not verify. So it is behind Sendmail.
func (s *Settings) Begin(c policy.Connection, login, mailFrom string, verbatim bool, message *signer.Message) (*Transaction, *Result) {
	origin := s.Rules.Origin(c, login)
	if !origin.Ours {
		var r Result
		s.Outcomes.settle(&r, NotOurs, origin.Reason)
		return nil, &r
	}
	peer := s.Peers[c.Listener]
	t := &Transaction{
		set: s, connection: c, login: login, mailFrom: mailFrom, message: message,
		options:  signer.Options{Header: s.Header, Body: s.Body, Fields: s.Fields, Profile: peer.profile(c.MTA), Host: c.Host, Masquerade: peer.Masquerade},
		asked:    s.Rules.Fields(),
		late:     s.late(),
		result:   Result{Rule: origin.Rule},
		outcomes: s.Outcomes,
		lifetime: s.Lifetime,
	}
	t.blurred = !verbatim
	t.reset()
	return t, nil
}

// Field takes one header field as a milter gets it: the value with its blanks,
// folds as LF or CRLF.
func (t *Transaction) Field(name, value string) {
	t.fields++
	t.bytes += len(name) + len(value) + len(":\r\n")
	if t.over != "" {
		return
	}
	switch {
	case t.bytes > orDefault(t.set.HeaderBytes, DefaultHeaderBytes):
		t.over = fmt.Sprintf("header of more than %d bytes", orDefault(t.set.HeaderBytes, DefaultHeaderBytes))
	case t.fields > orDefault(t.set.HeaderFields, DefaultHeaderFields):
		t.over = fmt.Sprintf("more than %d header fields", orDefault(t.set.HeaderFields, DefaultHeaderFields))
	default:
		if t.late {
			t.held = append(t.held, signer.Field{Name: name, Value: value})
		} else {
			t.message.AddField(name, value)
		}
		if strings.EqualFold(name, "From") {
			t.from = append(t.from, value)
		}
		for _, wanted := range t.asked {
			if strings.EqualFold(name, wanted) {
				if t.others == nil {
					t.others = make(map[string][]string)
				}
				t.others[wanted] = append(t.others[wanted], value)
			}
		}
	}
}

// EndOfHeader decides about the message. It returns a result when the body
// need not be seen, nil when the message goes on. The loading of keys that are
// not cached begins here, and goes on beside the body.
func (t *Transaction) EndOfHeader(ctx context.Context) *Result {
	t.decided = true
	if t.over != "" {
		return t.refuse(OverLimit, t.over)
	}
	d := t.set.Rules.Decide(t.connection, t.facts())
	t.result.Author, t.result.Row = d.Author, d.RowName
	if d.Row > 0 && d.Row <= len(t.set.Rows) {
		t.useRow(&t.set.Rows[d.Row-1])
	}
	switch d.Verdict {
	case policy.Ours:
	case policy.NotOurs:
		return t.refuse(NotOurs, d.Reason)
	case policy.Denied:
		return t.refuse(Denied, d.Reason)
	case policy.Excluded:
		return t.refuse(Excluded, d.Reason)
	default:
		return t.badFrom(d.Reason)
	}
	t.result.Rule = d.Rule
	t.candidates, t.sender = d.Candidates, d.Sender
	if t.set.Domain != "" {
		t.candidates = []policy.Candidate{{Domain: t.set.Domain}}
	}
	for _, f := range t.held {
		t.message.AddField(f.Name, f.Value)
	}
	t.held = nil

	if t.ready = t.find(ctx, false); t.ready != nil {
		return t.signable()
	}
	ctx, t.cancel = context.WithTimeout(ctx, orDefault(t.set.KeyTimeout, DefaultKeyTimeout))
	t.loading = make(chan *loaded, 1)
	go func() {
		defer func() {
			if p := recover(); p != nil {
				t.loading <- &loaded{candidates: t.candidates, err: fmt.Errorf("panic: %v", p)}
			}
		}()
		t.loading <- t.find(ctx, true)
	}()
	return nil
}

// facts are what the rules decide by.
func (t *Transaction) facts() policy.Message {
	return policy.Message{
		Login: t.login, MailFrom: t.mailFrom, From: t.from, Fields: t.others,
		AskSender: t.set.Senders != nil && t.set.Domain == "",
	}
}

// reset makes the message ready for its fields.
func (t *Transaction) reset() {
	if t.blurred {
		t.options.Header = signer.Relaxed
	}
	t.message.Reset(t.options)
}

// useRow puts the settings of a row in force.
func (t *Transaction) useRow(r *Row) {
	if r.Header != nil {
		t.options.Header = *r.Header
	}
	if r.Body != nil {
		t.options.Body = *r.Body
	}
	if r.Fields != nil {
		t.options.Fields = r.Fields
	}
	if t.late {
		t.reset()
	}
	if r.Lifetime != nil {
		t.lifetime = *r.Lifetime
	}
	if len(r.Outcomes) > 0 {
		t.outcomes = maps.Clone(t.outcomes)
		if t.outcomes == nil {
			t.outcomes = Outcomes{}
		}
		maps.Copy(t.outcomes, r.Outcomes)
	}
}

// Write takes a piece of the body.
func (t *Transaction) Write(chunk []byte) (int, error) {
	t.result.Bytes += int64(len(chunk))
	return t.message.Write(chunk)
}

// End is the end of the message.
func (t *Transaction) End(ctx context.Context, now time.Time) *Result {
	if !t.decided { // an MTA that sends no end of header
		if r := t.EndOfHeader(ctx); r != nil {
			return r
		}
	}
	t.wait()
	defer t.Abort()
	if r := t.signable(); r != nil {
		return r
	}

	keys, rsa := t.signers()
	if t.message.AlreadySigned(now, keys) {
		return t.refuse(AlreadySigned, "our own signature on top is valid")
	}
	if r := t.checkRisks(); r != nil {
		return r
	}
	fields, err := t.message.Sign(now, keys)
	if err != nil {
		return t.refuse(KeyUnusable, err.Error())
	}
	t.result.Signed, t.result.Fields, t.result.Broken = true, fields, t.ready.broken
	t.result.RSA, t.result.Ed25519 = rsa, len(keys)-rsa
	for _, k := range keys {
		t.result.Selectors = append(t.result.Selectors, k.Selector)
		if k.Domain != t.result.Domain && !slices.Contains(t.result.Beside, k.Domain) {
			t.result.Beside = append(t.result.Beside, k.Domain)
		}
	}
	t.result.Reason = "signed"
	return &t.result
}

// signers returns the keys that sign, RSA first, and how many of these there are.
func (t *Transaction) signers() (keys []signer.Key, rsa int) {
	count := 0
	for i := range t.ready.with {
		count += len(t.ready.with[i].keys)
	}
	keys = make([]signer.Key, 0, count)
	for _, ed25519 := range []bool{false, true} {
		for i := range t.ready.with {
			c := &t.ready.with[i]
			for _, k := range c.keys {
				if (k.Algorithm == keystore.Ed25519) == ed25519 {
					keys = append(keys, signer.Key{Domain: c.candidate.Domain, Selector: k.Selector, Identity: c.candidate.Identity, Lifetime: t.lifetime, Signer: k.Signer})
				}
			}
		}
		if !ed25519 {
			rsa = len(keys)
		}
	}
	return keys, rsa
}

// Abort ends a message early. It waits for what was started, and may be called
// again.
func (t *Transaction) Abort() {
	if t.cancel != nil {
		t.cancel()
	}
	t.wait()
}

func (t *Transaction) wait() {
	if t.loading != nil {
		t.ready, t.loading = <-t.loading, nil
	}
}

// signable returns nil when there are keys to sign with and the From field
// allows it, and else the result.
func (t *Transaction) signable() *Result {
	if !t.usable() {
		return &t.result
	}
	if err := t.message.CheckFrom(); err != nil {
		return t.badFrom(err.Error())
	}
	return nil
}

func (t *Transaction) refuse(c Cause, reason string) *Result {
	t.outcomes.settle(&t.result, c, reason)
	return &t.result
}

func orDefault[T int | time.Duration](v, standard T) T {
	if v > 0 {
		return v
	}
	return standard
}
