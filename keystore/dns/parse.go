package dns

import (
	"crypto/ed25519"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// tag is one tag=value of a tag list (RFC 6376, section 3.2).
type tag struct{ name, value string }

// ParseRecord reads the text of a key record, its strings joined without
// anything between them, as strictly as RFC 6376, sections 3.2 and 3.6.1, have
// it. Unknown tags are ignored, the historic g= among them. A revoked record
// is no error. The key may be smaller than a signer may use: that is for the
// caller to judge.
func ParseRecord(s string) (*Record, error) {
	if len(s) > maxRecord {
		return nil, fmt.Errorf("record of %d octets, want at most %d", len(s), maxRecord)
	}
	tags, err := parseTags(s)
	if err != nil {
		return nil, err
	}
	r := &Record{KeyType: "rsa"}
	public, havePublic := "", false
	for i, t := range tags {
		switch t.name {
		case "v":
			// Anything but the first tag, or another value, is not a DKIM
			// record of this version.
			if i != 0 {
				return nil, errors.New("v= is not the first tag")
			}
			if t.value != version {
				return nil, fmt.Errorf("v=%.40q, want %s", t.value, version)
			}
		case "k":
			if t.value != "rsa" && t.value != "ed25519" {
				return nil, fmt.Errorf(`unknown key type k=%.40q, want "rsa" or "ed25519"`, t.value)
			}
			r.KeyType = t.value
		case "h":
			r.Hashes, err = parseWords(t, false)
		case "s":
			r.Services, err = parseWords(t, true)
		case "t":
			r.Flags, err = parseWords(t, false)
		case "n":
			r.Note = decodeNote(t.value)
		case "p":
			public, havePublic = t.value, true
		}
		if err != nil {
			return nil, err
		}
	}
	if !havePublic {
		return nil, errors.New("p= is missing")
	}
	if r.Public, err = parsePublic(r.KeyType, public); err != nil {
		return nil, err
	}
	return r, nil
}

// parseTags splits a tag list. A tag that stands there twice spoils it all.
func parseTags(s string) ([]tag, error) {
	for i, c := range []byte(s) {
		if c < ' ' && !isBlank(c) || c >= 0x7f {
			return nil, fmt.Errorf("the octet %#02x at %d is not allowed in a tag list", c, i)
		}
	}
	s = strings.TrimRightFunc(s, isBlank[rune])
	s = strings.TrimSuffix(s, ";")
	var tags []tag
	for spec := range strings.SplitSeq(s, ";") {
		name, value, ok := strings.Cut(spec, "=")
		name = strings.TrimFunc(name, isBlank[rune])
		switch {
		case !ok && name == "":
			return nil, errors.New("empty tag: a semicolon too many, or no record at all")
		case !ok:
			return nil, fmt.Errorf("%.40q is not a tag=value", name)
		case !isTagName(name):
			return nil, fmt.Errorf("%.40q is not the name of a tag", name)
		case slices.ContainsFunc(tags, func(t tag) bool { return t.name == name }):
			return nil, fmt.Errorf("the tag %.40s= stands there twice", name)
		}
		tags = append(tags, tag{name, strings.TrimFunc(value, isBlank[rune])})
	}
	return tags, nil
}

// isBlank reports whether c can be part of folding white space (RFC 6376,
// section 2.8).
func isBlank[C rune | byte](c C) bool {
	return c == ' ' || c == '\t' || c == '\r' || c == '\n'
}

func isLetter(c byte) bool { return 'a' <= c|0x20 && c|0x20 <= 'z' }

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

func isTagName(s string) bool {
	for i, c := range []byte(s) {
		if !isLetter(c) && (i == 0 || !isDigit(c) && c != '_') {
			return false
		}
	}
	return s != ""
}

// parseWords splits the colon list of h=, s= or t= into hyphenated words; s=
// may also have a "*".
func parseWords(t tag, star bool) ([]string, error) {
	var words []string
	for word := range strings.SplitSeq(t.value, ":") {
		word = strings.TrimFunc(word, isBlank[rune])
		if !isWord(word) && !(star && word == "*") {
			return nil, fmt.Errorf("%s= has the value %.40q, which is no word", t.name, word)
		}
		words = append(words, word)
	}
	return words, nil
}

// isWord holds a word to hyphenated-word of RFC 6376, section 3.6.1.
func isWord(s string) bool {
	for i, c := range []byte(s) {
		last := i == len(s)-1
		if !isLetter(c) && (i == 0 || !isDigit(c) && (last || c != '-')) {
			return false
		}
	}
	return s != ""
}

// decodeNote undoes quoted-printable, and leaves what is none as it is: no
// verifier looks at it.
func decodeNote(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '=' && i+2 < len(s) && isHex(s[i+1]) && isHex(s[i+2]) {
			b.WriteByte(hex(s[i+1])<<4 | hex(s[i+2]))
			i += 2
			continue
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

func isHex(c byte) bool { return isDigit(c) || 'A' <= c && c <= 'F' }

func hex(c byte) byte {
	if isDigit(c) {
		return c - '0'
	}
	return c - 'A' + 10
}

// parsePublic decodes p= into the form of Record.Public.
func parsePublic(keyType, value string) ([]byte, error) {
	if value = dropBlanks(value); value == "" {
		return nil, nil
	}
	data, err := base64.StdEncoding.Strict().DecodeString(value)
	if err != nil {
		return nil, errors.New("p= is not base64")
	}
	if keyType == "ed25519" {
		if len(data) != ed25519.PublicKeySize {
			hint := ""
			if _, err := x509.ParsePKIXPublicKey(data); err == nil {
				hint = " (it is wrapped in a SubjectPublicKeyInfo, which RFC 8463, section 4.2, does not have)"
			}
			return nil, fmt.Errorf("p= has %d octets, want the %d of an Ed25519 key%s", len(data), ed25519.PublicKeySize, hint)
		}
		return data, nil
	}
	k, err := parseRSA(data)
	if err != nil {
		return nil, err
	}
	return x509.MarshalPKIXPublicKey(k)
}

func dropBlanks(s string) string {
	return strings.Map(func(c rune) rune {
		if isBlank(c) {
			return -1
		}
		return c
	}, s)
}
