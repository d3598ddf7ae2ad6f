package milter

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"waxseal/keystore"
	"waxseal/milter/policy"
	"waxseal/signer"
)

// Keys gives out what a domain signs with. *keystore.Cache is one.
type Keys interface {
	// Signing returns the domain's active keys; keystore.ErrNotFound means
	// that the store does not have the domain.
	Signing(ctx context.Context, domain string) (*keystore.Signing, error)

	// Cached is Signing when that needs no input or output; ok is false when
	// it would.
	Cached(domain string) (s *keystore.Signing, err error, ok bool)
}

// Settings is all that decides about a message. A message keeps the settings
// it began with; they are not changed once in use.
type Settings struct {
	// Rules decides whose mail is ours. Required.
	Rules *policy.Rules

	// Keys are asked for the keys of the author domain. Required.
	Keys Keys

	// Header and Body are the canonicalizations. Fields selects what is
	// signed; nil means the default.
	Header, Body signer.Canonicalization
	Fields       *signer.Fields

	// Lifetime, when not 0, makes signatures expire (x=).
	Lifetime time.Duration

	// Outcomes says what happens to mail that cannot be signed.
	Outcomes Outcomes

	// HeaderBytes and HeaderFields bound the header of a message. 0 means
	// DefaultHeaderBytes and DefaultHeaderFields.
	HeaderBytes, HeaderFields int

	// KeyTimeout bounds the wait for keys that are not cached. 0 means
	// DefaultKeyTimeout.
	KeyTimeout time.Duration

	// Domain, when not empty, is the signing domain whatever the author
	// domain is, and Selector the only selector: for signing by hand.
	Domain, Selector string
}

const (
	// DefaultHeaderBytes is ten times Postfix's header_size_limit for one
	// field, and what a connection may make us remember.
	DefaultHeaderBytes = 1 << 20

	// DefaultHeaderFields is far above what any mail program writes; list
	// mail with long traces has about 100.
	DefaultHeaderFields = 2000

	// DefaultKeyTimeout is well below the 30 s after which Postfix gives up
	// on a command.
	DefaultKeyTimeout = 10 * time.Second
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
	Reason    string   // in words
	Author    string   // author domain
	Domain    string   // signing domain, d=
	Selectors []string // s=, as Fields
	Broken    []error  // active keys that could not be used although others could
	Bytes     int64    // body size
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
	from    []string // values of the From fields
	fields  int
	bytes   int // of header
	over    string

	result  Result
	decided bool
	cancel  context.CancelFunc
	loading chan loaded
	ready   *loaded
}

type loaded struct {
	signing *keystore.Signing
	err     error
}

// Begin starts a message at MAIL. It returns nil, and the result, for mail
// that is certainly not ours. The message is reset, and used until End or
// Abort.
func (s *Settings) Begin(c policy.Connection, login, mailFrom string, message *signer.Message) (*Transaction, *Result) {
	origin := s.Rules.Origin(c, login)
	if !origin.Ours {
		var r Result
		s.Outcomes.settle(&r, NotOurs, origin.Reason)
		return nil, &r
	}
	profile := signer.Careful
	if strings.HasPrefix(c.MTA, "Postfix") {
		profile = signer.Postfix
	}
	message.Reset(signer.Options{Header: s.Header, Body: s.Body, Fields: s.Fields, Profile: profile})
	return &Transaction{set: s, connection: c, login: login, mailFrom: mailFrom, message: message, result: Result{Rule: origin.Rule}}, nil
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
		t.message.AddField(name, value)
		if strings.EqualFold(name, "From") {
			t.from = append(t.from, value)
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
	d := t.set.Rules.Decide(t.connection, policy.Message{Login: t.login, MailFrom: t.mailFrom, From: t.from})
	t.result.Author = d.Author
	switch d.Verdict {
	case policy.NotOurs:
		return t.refuse(NotOurs, d.Reason)
	case policy.NotSignable:
		return t.refuse(NotSignable, d.Reason)
	}
	t.result.Rule = d.Rule
	t.result.Domain = cmp.Or(t.set.Domain, d.Domains[0])

	if signing, err, ok := t.set.Keys.Cached(t.result.Domain); ok {
		t.ready = &loaded{signing, err}
		if !t.usable() {
			return &t.result
		}
		return nil
	}
	ctx, t.cancel = context.WithTimeout(ctx, orDefault(t.set.KeyTimeout, DefaultKeyTimeout))
	t.loading = make(chan loaded, 1)
	go func() {
		signing, err := t.set.Keys.Signing(ctx, t.result.Domain)
		t.loading <- loaded{signing, err}
	}()
	return nil
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
	if !t.usable() {
		return &t.result
	}
	if t.message.StrayLineEnds() {
		return t.refuse(NotSignable, "bare CR or LF in the message")
	}

	signing := t.ready.signing
	keys := make([]signer.Key, 0, len(signing.Keys))
	for _, k := range signing.Keys {
		if t.set.Selector == "" || t.set.Selector == k.Selector {
			keys = append(keys, signer.Key{Domain: t.result.Domain, Selector: k.Selector, Lifetime: t.set.Lifetime, Signer: k.Signer})
		}
	}
	fields, err := t.message.Sign(now, keys)
	if err != nil {
		return t.refuse(KeyUnusable, err.Error())
	}
	t.result.Signed, t.result.Fields, t.result.Broken = true, fields, signing.Broken
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

// usable says whether the loaded keys can sign; if not, it fills in the
// result. A broken key is made up for by another that signs, but not an RSA
// key by Ed25519 alone, which many verifiers do not know (RFC 8463, section 6).
func (t *Transaction) usable() bool {
	err, signing := t.ready.err, t.ready.signing
	switch {
	case errors.Is(err, keystore.ErrNotFound):
		t.refuse(NoKey, "the keystore has no domain "+t.result.Domain)
		return false
	case err != nil:
		if errors.Is(err, keystore.ErrBroken) {
			t.refuse(KeyUnusable, err.Error())
		} else {
			t.refuse(StoreDown, err.Error())
		}
		return false
	}
	signs, rsa := false, false
	for _, k := range signing.Keys {
		if t.set.Selector == "" || t.set.Selector == k.Selector {
			signs = true
			rsa = rsa || k.Algorithm != keystore.Ed25519
		}
	}
	switch {
	case len(signing.Broken) > 0 && !rsa:
		t.refuse(KeyUnusable, errors.Join(signing.Broken...).Error())
	case !signs && t.set.Selector != "":
		t.refuse(NoKey, fmt.Sprintf("%s has no active key %s", t.result.Domain, t.set.Selector))
	case !signs:
		t.refuse(NoKey, t.result.Domain+" has no active key")
	default:
		return true
	}
	return false
}

func (t *Transaction) refuse(c Cause, reason string) *Result {
	t.set.Outcomes.settle(&t.result, c, reason)
	return &t.result
}

func orDefault[T int | time.Duration](v, standard T) T {
	if v > 0 {
		return v
	}
	return standard
}
