package milter

import (
	"context"
	"errors"
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
	Reason    string   // in words
	Author    string   // author domain
	Domain    string   // signing domain, d=
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
	decided    bool
	cancel     context.CancelFunc
	loading    chan loaded
	ready      *loaded
}

// loaded is what the keystore has for the first candidate that has keys.
type loaded struct {
	candidate policy.Candidate
	signing   *keystore.Signing
	err       error
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
	d := t.set.Rules.Decide(t.connection, policy.Message{Login: t.login, MailFrom: t.mailFrom, From: t.from, Fields: t.others})
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
	t.candidates = d.Candidates
	if t.set.Domain != "" {
		t.candidates = []policy.Candidate{{Domain: t.set.Domain}}
	}
	for _, f := range t.held {
		t.message.AddField(f.Name, f.Value)
	}
	t.held = nil

	if t.ready = t.cached(); t.ready != nil {
		return t.signable()
	}
	ctx, t.cancel = context.WithTimeout(ctx, orDefault(t.set.KeyTimeout, DefaultKeyTimeout))
	t.loading = make(chan loaded, 1)
	go func() {
		defer func() {
			if p := recover(); p != nil {
				t.loading <- loaded{candidate: t.candidates[0], err: fmt.Errorf("panic: %v", p)}
			}
		}()
		t.loading <- t.load(ctx)
	}()
	return nil
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

// cached returns the keys of the first candidate that has some, nil if that
// takes a look at the store.
func (t *Transaction) cached() *loaded {
	var first *loaded
	for _, c := range t.candidates {
		signing, err, ok := t.set.Keys.Cached(c.Domain)
		if !ok {
			return nil
		}
		l := &loaded{c, signing, err}
		if l.hasKeys(t.set.Selector) {
			return l
		}
		if first == nil {
			first = l
		}
	}
	return first
}

// load is cached with a look at the store. A candidate whose keys cannot be
// read is not passed over for the next.
func (t *Transaction) load(ctx context.Context) loaded {
	var first *loaded
	for _, c := range t.candidates {
		signing, err := t.set.Keys.Signing(ctx, c.Domain)
		l := &loaded{c, signing, err}
		if l.hasKeys(t.set.Selector) {
			return *l
		}
		if first == nil {
			first = l
		}
	}
	return *first
}

// hasKeys says whether the candidate is the one to sign, or to fail.
func (l *loaded) hasKeys(only string) bool {
	if l.err != nil {
		return !errors.Is(l.err, keystore.ErrNotFound)
	}
	return len(l.broken(only)) > 0 || len(l.keys(only)) > 0
}

// keys returns the active keys that the candidate signs with.
func (l *loaded) keys(only string) []keystore.SigningKey {
	if only == "" && l.candidate.Selectors == nil {
		return l.signing.Keys
	}
	var keys []keystore.SigningKey
	for _, k := range l.signing.Keys {
		if l.named(k.Selector, only) {
			keys = append(keys, k)
		}
	}
	return keys
}

// broken returns why active keys are missing that the candidate would sign with.
// One of which the selector is not known may be any.
func (l *loaded) broken(only string) []error {
	var errs []error
	for _, err := range l.signing.Broken {
		var key *keystore.KeyError
		if !errors.As(err, &key) || key.Selector == "" || l.named(key.Selector, only) {
			errs = append(errs, err)
		}
	}
	return errs
}

// named says whether the candidate signs with the selector.
func (l *loaded) named(selector, only string) bool {
	return (only == "" || only == selector) && (l.candidate.Selectors == nil || slices.Contains(l.candidate.Selectors, selector))
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

	c := t.ready.candidate
	signing := t.ready.keys(t.set.Selector)
	keys, ed25519 := make([]signer.Key, 0, len(signing)), 0
	for _, k := range signing {
		keys = append(keys, signer.Key{Domain: c.Domain, Selector: k.Selector, Identity: c.Identity, Lifetime: t.lifetime, Signer: k.Signer})
		if k.Algorithm == keystore.Ed25519 {
			ed25519++
		}
	}
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
	t.result.Signed, t.result.Fields, t.result.Broken = true, fields, t.ready.broken(t.set.Selector)
	t.result.RSA, t.result.Ed25519 = len(keys)-ed25519, ed25519
	for _, k := range keys {
		t.result.Selectors = append(t.result.Selectors, k.Selector)
	}
	t.result.Reason = "signed"
	return &t.result
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
		l := <-t.loading
		t.ready, t.loading = &l, nil
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

// usable says whether the loaded keys can sign; if not, it fills in the
// result. Broken keys are made up for by an RSA key that signs, but not by
// Ed25519 alone, which many verifiers do not know (RFC 8463, section 6).
func (t *Transaction) usable() bool {
	l := t.ready
	t.result.Domain, t.result.Unaligned = l.candidate.Domain, l.candidate.Unaligned
	t.result.Known = l.err == nil || errors.Is(l.err, keystore.ErrBroken)
	switch {
	case errors.Is(l.err, keystore.ErrNotFound):
		t.refuse(NoKey, "the keystore has no domain "+t.tried())
		return false
	case errors.Is(l.err, keystore.ErrBroken):
		t.refuse(KeyUnusable, l.err.Error())
		return false
	case l.err != nil:
		t.refuse(StoreDown, l.err.Error())
		return false
	}
	keys, broken := l.keys(t.set.Selector), l.broken(t.set.Selector)
	rsa := slices.ContainsFunc(keys, func(k keystore.SigningKey) bool { return k.Algorithm != keystore.Ed25519 })
	switch {
	case len(broken) > 0 && !rsa:
		t.refuse(KeyUnusable, errors.Join(broken...).Error())
	case len(keys) > 0:
		return true
	case t.set.Selector != "":
		t.refuse(NoKey, fmt.Sprintf("%s has no active key %s", t.result.Domain, t.set.Selector))
	case l.candidate.Selectors != nil:
		t.refuse(NoKey, fmt.Sprintf("%s has no active key among %s", t.result.Domain, strings.Join(l.candidate.Selectors, ", ")))
	default:
		t.refuse(NoKey, t.tried()+" has no active key")
	}
	return false
}

// tried names the candidates.
func (t *Transaction) tried() string {
	names := make([]string, len(t.candidates))
	for i, c := range t.candidates {
		names[i] = c.Domain
	}
	return strings.Join(names, " or ")
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
