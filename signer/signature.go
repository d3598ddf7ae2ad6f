package signer

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"hash"
	"strconv"
	"strings"
	"time"
)

// Field is a header field to be put on top of the message. Value begins with
// one blank, its folds are LF TAB, and it has no final line end.
type Field struct {
	Name, Value string
}

const fieldName = "DKIM-Signature"

// Sign closes the body and returns one signature for each key, in the order in
// which they are to stand in the message: RSA above Ed25519, for verifiers
// that stop after the first, and else as given. Either all keys sign or an
// error is returned. A message that no key can sign gives the error of
// CheckFrom.
//
// The time is written as t=. Sign may be called again, with the same result
// for the same arguments.
func (m *Message) Sign(now time.Time, keys []Key) ([]Field, error) {
	if len(keys) == 0 {
		return nil, errors.New("no key to sign with")
	}
	if err := m.CheckFrom(); err != nil {
		return nil, err
	}
	if t := now.Unix(); t < 0 || t > maxTime-int64(MaxLifetime/time.Second) {
		return nil, fmt.Errorf("signing time %v cannot be written as t=", now.UTC())
	}
	m.kinds = m.kinds[:0]
	for i := range keys {
		kind, err := keys[i].check()
		if err != nil {
			return nil, keys[i].wrap(err)
		}
		m.kinds = append(m.kinds, kind)
	}
	m.body.close()
	m.hashFields()

	out := make([]Field, 0, len(keys))
	for _, alg := range []string{algRSA, algEd25519} {
		for i := range keys {
			if m.kinds[i].alg != alg {
				continue
			}
			value, err := m.sign(now, &keys[i], m.kinds[i], len(out)+1 == len(keys))
			if err != nil {
				return nil, keys[i].wrap(err)
			}
			out = append(out, Field{Name: fieldName, Value: value})
		}
	}
	return out, nil
}

// hashFields hashes the fields that h= names (RFC 6376, section 3.7).
func (m *Message) hashFields() {
	m.fieldHash.Reset()
	name, next := -1, -1
	for _, r := range m.choose() {
		if r != name {
			name, next = r, m.names[r].lowest
		}
		if next >= 0 { // else none is left, and that is what is signed
			e := m.entries[next]
			m.fieldHash.Write(m.arena[e.start:e.end])
			next = e.above
		}
	}
}

// sign makes the value of one DKIM-Signature field. The last signature may use
// up the hash of the fields, the others work on a copy of it.
func (m *Message) sign(now time.Time, k *Key, kind kind, last bool) (string, error) {
	m.appendTags(now, k, kind.alg)

	h := m.fieldHash
	if !last {
		c, err := h.(hash.Cloner).Clone()
		if err != nil {
			return "", fmt.Errorf("copying the hash of the fields: %w", err)
		}
		h = c
	}
	// The field itself comes last, with nothing after b= and no line end
	// (RFC 6376, section 3.7).
	if m.header == Simple {
		m.canonical = appendSimple(m.canonical[:0], fieldName, m.value)
	} else {
		m.canonical = appendRelaxed(m.canonical[:0], fieldName, m.value)
	}
	h.Write(m.canonical[:len(m.canonical)-len(crlf)])

	sig, err := k.Signer.Sign(rand.Reader, h.Sum(m.digest[:0]), kind.opts)
	if err != nil {
		return "", fmt.Errorf("signing: %w", err)
	}
	if len(sig) != kind.size {
		return "", fmt.Errorf("signing: signature has %d octets, want %d", len(sig), kind.size)
	}
	m.base64 = base64.StdEncoding.AppendEncode(m.base64[:0], sig)
	for rest := m.base64; len(rest) > 0; {
		n := min(len(rest), signatureLine)
		m.value = append(m.value, rest[:n]...)
		if rest = rest[n:]; len(rest) > 0 {
			m.value = append(m.value, fold...)
		}
	}
	return string(m.value), nil
}

// appendTags makes m.value the tags of the field up to and including "b=".
func (m *Message) appendTags(now time.Time, k *Key, alg string) {
	f := folder{buf: m.value[:0], col: len(fieldName) + 1}
	var num [20]byte
	f.token(" ", "v=1;")
	f.token(" ", "a=", alg, ";")
	f.token(" ", "c=", m.header.String(), "/", m.body.mode.String(), ";")
	f.token(" ", "d=", strings.ToLower(k.Domain), ";")
	f.token(" ", "s=", strings.ToLower(k.Selector), ";")
	if k.Identity != "" {
		f.token(" ", "i=", encodeIdentity(k.Identity), ";")
	}
	f.token(" ", "t=", string(strconv.AppendInt(num[:0], now.Unix(), 10)), ";")
	if k.Lifetime > 0 {
		expires := now.Unix() + int64((k.Lifetime+time.Second-1)/time.Second)
		f.token(" ", "x=", string(strconv.AppendInt(num[:0], expires, 10)), ";")
	}
	sep, tag := " ", "h="
	for i, r := range m.named {
		end := ":"
		if i+1 == len(m.named) {
			end = ";"
		}
		f.token(sep, tag, m.fields.rules[r].name, end)
		sep, tag = "", ""
	}
	f.token(" ", "bh=", m.body.base64, ";")
	m.value = append(f.buf, fold+"b="...)
}

// fold is a line break in a field, as milters take it.
const fold = "\n\t"

// Lines of the field are at most maxLine long where they can be broken at all
// (RFC 5322, section 2.1.1). The signature is broken into shorter lines of
// equal length.
const (
	maxLine       = 78
	signatureLine = 72
)

// folder writes a value and breaks its lines between tokens.
type folder struct {
	buf []byte
	col int // length of the last line in buf
}

// token appends the parts as one unbreakable text, after sep or, if the line
// would become too long, on a new line.
func (f *folder) token(sep string, parts ...string) {
	n := len(sep)
	for _, p := range parts {
		n += len(p)
	}
	if f.col+n > maxLine {
		n += len("\t") - len(sep)
		sep, f.col = fold, 0
	}
	f.col += n
	f.buf = append(f.buf, sep...)
	for _, p := range parts {
		f.buf = append(f.buf, p...)
	}
}
