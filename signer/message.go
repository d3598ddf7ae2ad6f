// Package signer makes DKIM signatures (RFC 6376, with RFC 8301 and RFC 8463)
// for one message at a time.
//
// A message goes in as it is read: its fields through [Message.AddField], its
// body through [Message.Write] in pieces of any size. [Message.Sign] then
// returns the DKIM-Signature fields to put on top of it, one for each key.
//
// The package promises:
//
//   - Memory does not grow with the body: what is kept between two writes are
//     counters. Of the fields, only those that may be signed are kept; how many
//     and how long they are is for the caller to bound.
//   - The body is hashed once and the signed fields are hashed once, however
//     many keys sign.
//   - The same message, keys and time give the same signatures.
//   - All keys sign or none does.
//
// It knows nothing of milters, keystores or policy, starts no goroutine, and
// reads no clock.
package signer

import (
	"errors"
	"fmt"
	"hash"
	"strings"
)

// Canonicalization is how a header or a body is normalized before it is
// hashed (RFC 6376, section 3.4).
type Canonicalization uint8

// Relaxed, the default, survives what mail servers commonly do to blanks and
// folds. Simple survives nothing.
const (
	Relaxed Canonicalization = iota
	Simple
)

// String returns the name that the c= tag uses.
func (c Canonicalization) String() string {
	switch c {
	case Relaxed:
		return "relaxed"
	case Simple:
		return "simple"
	}
	return fmt.Sprintf("Canonicalization(%d)", uint8(c))
}

// ParseCanonicalization reads a c= value: two names with a slash between them,
// header first. One name alone is the header's, and the body is then simple
// (RFC 6376, section 3.5).
func ParseCanonicalization(s string) (header, body Canonicalization, err error) {
	h, b, both := strings.Cut(s, "/")
	if !both {
		b = "simple"
	}
	header, okHeader := canonicalizations[h]
	body, okBody := canonicalizations[b]
	if !okHeader || !okBody {
		return 0, 0, fmt.Errorf("canonicalization %q: want relaxed or simple for header and body, as in relaxed/relaxed", s)
	}
	return header, body, nil
}

var canonicalizations = map[string]Canonicalization{"relaxed": Relaxed, "simple": Simple}

// Profile is what the mail server still does to a message after it is signed.
type Profile uint8

const (
	// Sendmail, the default, is also for any server that is not known. It adds
	// a missing From, Date or Message-ID after its filters have run, so the
	// absence of these is never signed. It writes address lists and MIME fields
	// anew, so those that will differ then are left out of the signature, and
	// the header is always signed in relaxed form: it folds anew, too.
	Sendmail Profile = iota
	// Postfix completes a message before its filters see it.
	Postfix
)

// String returns the name of the mail server.
func (p Profile) String() string {
	if p == Postfix {
		return "Postfix"
	}
	return "Sendmail"
}

// Options say how a message is signed. The zero value signs relaxed/relaxed
// with the default fields behind a server that is not known.
type Options struct {
	Header  Canonicalization
	Body    Canonicalization
	Fields  *Fields // nil: the default lists
	Profile Profile

	// Host is the server's own name, in the case in which it writes it; empty when
	// it is not known. It is for Sendmail.
	Host string

	// Masquerade is for Sendmail; nil is none. It is not changed once in use.
	Masquerade *Masquerade
}

// Errors for a message that no key can sign. A message has exactly one From
// field (RFC 5322, section 3.6), and a signature must cover it (RFC 6376,
// section 5.4): without it, or with a choice of it, there is nothing to vouch
// for.
var (
	ErrNoFrom      = errors.New("message has no From field")
	ErrSeveralFrom = errors.New("message has several From fields")

	// ErrFromRewritten is wrapped with how the server will change the field.
	ErrFromRewritten = errors.New("the mail server will write the From field anew")
)

// keptArena and keptEntries bound what Reset carries over to the next message.
const (
	keptArena   = 64 << 10
	keptEntries = 1 << 10
)

// Message is one message on its way to being signed. It is made by New, may be
// used again after Reset, and is not safe for concurrent use.
type Message struct {
	header     Canonicalization
	fields     *Fields
	profile    Profile
	host       string
	masquerade *Masquerade
	body       body
	parts      parts       // declarations in the parts of the body
	multipart  multipart   // what Sendmail does to its parts
	stray      bool        // a field value had a stray CR or LF
	nul        bool        // the body has a NUL
	declared   string      // the Content-Transfer-Encoding that says 8bit or binary
	longLine   string      // the field that has a line over the limit
	rewritten  []Rewritten // fields that the server will write anew
	top        string      // value of the topmost DKIM-Signature

	// Fields that may be signed, in canonical form one after the other.
	arena   []byte
	entries []entry
	names   []instances // by rule of fields

	// Scratch of Sign, kept for its memory.
	fieldHash hash.Hash
	kinds     []kind // of the keys
	named     []int  // rules in the order of h=, one for each naming
	value     []byte
	canonical []byte
	base64    []byte
	digest    [32]byte
}

// entry is one field in the arena.
type entry struct {
	start, end int
	above      int // the entry of the same name above this one, or -1
}

// instances are the fields of one name.
type instances struct {
	count  int
	lowest int // entry nearest to the body, or -1
	// firm counts those below the lowest one that the server will write anew:
	// instances are named from the bottom up (RFC 6376, section 5.4.2), so that
	// no other can be signed. It is count where there is none.
	firm int
}

// New returns a Message to be signed as o says.
func New(o Options) *Message {
	m := &Message{fieldHash: newHash()}
	m.body.hash = newHash()
	m.Reset(o)
	return m
}

// Reset forgets the message and makes m ready for another one.
func (m *Message) Reset(o Options) {
	m.header = o.Header
	m.profile, m.host, m.masquerade = o.Profile, o.Host, o.Masquerade
	if m.profile == Sendmail {
		m.header = Relaxed
	}
	m.fields = o.Fields
	if m.fields == nil {
		m.fields = defaultFields
	}
	m.body.reset(o.Body)
	m.parts.reset()
	m.multipart.reset(o.Body == Simple)
	m.stray, m.nul = false, false
	m.declared, m.longLine, m.top = "", "", ""
	m.rewritten = nil
	m.arena = m.arena[:0]
	if cap(m.arena) > keptArena {
		m.arena = nil
	}
	m.entries = m.entries[:0]
	if cap(m.entries) > keptEntries {
		m.entries = nil
	}
	m.names = m.names[:0]
	for range m.fields.rules {
		m.names = append(m.names, instances{lowest: -1})
	}
}

// AddField adds the next field of the header, from top to bottom. The value is
// everything after the colon, leading blank included, without the final line
// end; folds in it may end in LF or CRLF. AddField keeps no reference to its
// arguments.
func (m *Message) AddField(name, value string) {
	if strayInField(value) {
		m.stray = true
	}
	rule, ok := m.fields.rule(name)
	if ok && m.fields.rules[rule].unsigned {
		m.names[rule].count++
		return
	}
	if !ok {
		if m.top == "" && len(value) <= maxOwn && strings.EqualFold(trimName(name), fieldName) {
			m.top = strings.Clone(value)
		}
		return
	}
	start := len(m.arena)
	if m.header == Simple {
		m.arena = appendSimple(m.arena, name, value)
	} else {
		m.arena = appendRelaxed(m.arena, name, value)
	}
	n := &m.names[rule]
	m.entries = append(m.entries, entry{start: start, end: len(m.arena), above: n.lowest})
	n.lowest = len(m.entries) - 1
	n.count++
	n.firm++
	if m.profile == Sendmail {
		if why := m.fields.rules[rule].nature.change(value, m.host, m.masquerade); why != "" {
			n.firm = 0
			m.rewrite(rule, why)
		}
	}
	m.look(rule, name, value)
}

// Write adds p to the body. Lines end in CRLF; a dot at the start of a line is
// not doubled (RFC 6376, section 5.3). After Sign the body is closed and Write
// returns an error.
func (m *Message) Write(p []byte) (int, error) {
	if m.body.closed {
		return 0, errors.New("body written after the message was signed")
	}
	m.body.write(p)
	m.watch(p)
	return len(p), nil
}

// StrayLineEnds reports whether the message, as far as it was given, holds a
// CR or LF that is not half of a CRLF, or a line end in a field that is not a
// fold. Servers change such bytes, each in its own way, so a signature over
// them is not likely to verify. A lone LF that folds a field is no stray: that
// is how milters deliver folds.
//
// A CR that is the last byte given so far counts as stray until an LF follows.
func (m *Message) StrayLineEnds() bool {
	return m.stray || m.body.strayLineEnds()
}
