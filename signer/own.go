package signer

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rsa"
	"encoding/base64"
	"strconv"
	"strings"
	"time"
)

// maxOwn bounds a DKIM-Signature field that is looked at: ours have less than
// half of it.
const maxOwn = 64 << 10

// AlreadySigned reports whether the topmost DKIM-Signature of the message was
// made with one of the keys, with the same canonicalization, and is valid now.
// So is mail that comes back from a content filter or is queued anew, and
// another signature would say nothing more. Any doubt is a no.
//
// It closes the body, as Sign does.
func (m *Message) AlreadySigned(now time.Time, keys []Key) bool {
	if m.top == "" {
		return false
	}
	tags, unsigned, ok := splitTags(m.top)
	if !ok || tags["v"] != "1" || tags["c"] != m.header.String()+"/"+m.body.mode.String() {
		return false
	}
	if _, partly := tags["l"]; partly {
		return false
	}
	if x, ok := tags["x"]; ok {
		if expires, err := strconv.ParseInt(x, 10, 64); err != nil || expires <= now.Unix() {
			return false
		}
	}
	for i := range keys {
		k := &keys[i]
		if !strings.EqualFold(tags["d"], k.Domain) || !strings.EqualFold(tags["s"], k.Selector) {
			continue
		}
		kind, err := k.check()
		if err != nil || kind.alg != tags["a"] {
			return false
		}
		return m.verifies(tags, unsigned, k.Signer.Public())
	}
	return false
}

// verifies checks a signature of this message (RFC 6376, section 6.1.3).
func (m *Message) verifies(tags map[string]string, unsigned string, public crypto.PublicKey) bool {
	signature, err := base64.StdEncoding.DecodeString(tags["b"])
	if err != nil {
		return false
	}
	m.body.close()
	if tags["bh"] != m.body.base64 {
		return false
	}
	h := newHash()
	next := make([]int, len(m.names)) // by rule, the entry that h= names next
	for i := range next {
		next[i] = m.names[i].lowest
	}
	for name := range strings.SplitSeq(tags["h"], ":") {
		rule, ok := m.fields.rule(name)
		if !ok || m.fields.rules[rule].unsigned { // fields of this name were not kept
			return false
		}
		if next[rule] >= 0 {
			e := m.entries[next[rule]]
			h.Write(m.arena[e.start:e.end])
			next[rule] = e.above
		}
	}
	if m.header == Simple {
		m.canonical = appendSimple(m.canonical[:0], fieldName, unsigned)
	} else {
		m.canonical = appendRelaxed(m.canonical[:0], fieldName, unsigned)
	}
	h.Write(m.canonical[:len(m.canonical)-len(crlf)])
	digest := h.Sum(nil)
	switch public := public.(type) {
	case *rsa.PublicKey:
		return rsa.VerifyPKCS1v15(public, crypto.SHA256, digest, signature) == nil
	case ed25519.PublicKey:
		return ed25519.Verify(public, digest, signature)
	}
	return false
}

// splitTags reads a tag list (RFC 6376, section 3.2): the values without any
// blanks, and the list with the value of b= taken out. A tag named twice makes
// it not ok.
func splitTags(list string) (tags map[string]string, unsigned string, ok bool) {
	tags = make(map[string]string)
	var b strings.Builder
	for part := range strings.SplitSeq(list, ";") {
		if b.Len() > 0 {
			b.WriteByte(';')
		}
		name, value, found := strings.Cut(part, "=")
		key := strings.Trim(name, " \t\r\n")
		if !found {
			if key != "" {
				return nil, "", false
			}
			b.WriteString(part)
			continue
		}
		if _, twice := tags[key]; twice {
			return nil, "", false
		}
		tags[key] = strings.Map(dropBlanks, value)
		b.WriteString(name + "=")
		if key != "b" {
			b.WriteString(value)
		}
	}
	return tags, b.String(), true
}

func dropBlanks(r rune) rune {
	if r == ' ' || r == '\t' || r == '\r' || r == '\n' {
		return -1
	}
	return r
}
