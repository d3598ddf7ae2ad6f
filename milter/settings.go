package milter

// All that decides about a message beside the message.

import (
	"context"
	"slices"
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

// Senders tells which keys sign an author's mail. *keystore.Cache is one, before
// a keystore.SenderStore.
type Senders interface {
	// Sender returns which keys sign the mail of the author with the address. The
	// error is as with keystore.SenderStore.
	Sender(ctx context.Context, address string) (*keystore.Sender, error)

	// CachedSender is Sender when that needs no input or output; ok is false when
	// it would.
	CachedSender(address string) (s *keystore.Sender, err error, ok bool)
}

// Settings is all that decides about a message. A message keeps the settings
// it began with; they are not changed once in use.
type Settings struct {
	// Rules decides whose mail is ours. Required.
	Rules *policy.Rules

	// Keys are asked for the keys of the author domain. Required.
	Keys Keys

	// Senders is asked which keys those are. Nil: all active keys of the author
	// domain.
	Senders Senders

	// Header and Body are the canonicalizations. Fields selects what is
	// signed; nil means the default.
	Header, Body signer.Canonicalization
	Fields       *signer.Fields

	// Lifetime, when not 0, makes signatures expire (x=).
	Lifetime time.Duration

	// Outcomes says what happens to mail that cannot be signed.
	Outcomes Outcomes

	// Risks says what happens to mail that has a risk.
	Risks RiskActions

	// Peers has the listeners of which more is known than macro v tells, by
	// name.
	Peers map[string]Peer

	// Rows has what each row of the rules' selector table changes, in its
	// order; rows beyond its end change nothing.
	Rows []Row

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

// Row is what a row of the selector table has in place of the general settings.
// Nil and zero fields leave these in force.
type Row struct {
	Header, Body *signer.Canonicalization
	Fields       *signer.Fields
	Lifetime     *time.Duration
	Outcomes     Outcomes
}

// simple says whether a header is to be signed in simple form.
func (s *Settings) simple() bool {
	return s.Header == signer.Simple || slices.ContainsFunc(s.Rows, func(r Row) bool { return r.Header != nil && *r.Header == signer.Simple })
}

// late says whether what becomes of the header's fields is known only when the
// row is, after they have come.
func (s *Settings) late() bool {
	for i := range s.Rows {
		if r := &s.Rows[i]; r.Header != nil || r.Body != nil || r.Fields != nil {
			return true
		}
	}
	return false
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
