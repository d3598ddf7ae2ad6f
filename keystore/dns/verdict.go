package dns

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
)

// Verdict says in one word what DNS has at the name of a record.
type Verdict string

// Verdicts on what a server shows. Of these the first three show our key.
const (
	Matches   Verdict = "matches"    // the record, or one that says the same
	Blanks    Verdict = "blanks"     // it matches, with blanks inside p= that some verifiers cannot read
	Testing   Verdict = "testing"    // it matches, but t=y tells verifiers to ignore the signatures
	Missing   Verdict = "missing"    // there is no TXT record
	Dangling  Verdict = "dangling"   // a CNAME, and no TXT record where it leads
	Wildcard  Verdict = "wildcard"   // no record of its own: a wildcard answers
	Revoked   Verdict = "revoked"    // p= is empty
	OtherKey  Verdict = "other-key"  // a good record of another key
	WrongType Verdict = "wrong-type" // our key under the wrong k=
	Forbids   Verdict = "forbids"    // our key, but h= or s= does not allow its use
	Several   Verdict = "several"    // more than one record at the name
	Truncated Verdict = "truncated"  // our record, cut off
	Malformed Verdict = "malformed"  // no key record, or a spoiled one
	CNAMELoop Verdict = "cname-loop" // CNAMEs that lead back, or too many of them
)

// Verdicts on servers that show nothing.
const (
	Unreachable Verdict = "unreachable" // nothing at all answers this machine over IPv6, or IPv4, which the server needs; not counted
	Timeout     Verdict = "timeout"     // no answer
	Refused     Verdict = "refused"     // the server will not answer us
	Failed      Verdict = "failed"      // the server answers with an error
	Lame        Verdict = "lame"        // named as a server of the zone, but does not serve it
)

// Verdicts on the whole.
const (
	Differs Verdict = "differs" // the servers do not show the same
	Bogus   Verdict = "bogus"   // a resolver refuses the answer: DNSSEC is broken
)

// Shown reports whether verifiers find our key, be it with a warning.
func (v Verdict) Shown() bool { return v == Matches || v == Blanks || v == Testing }

// silent reports whether the server showed nothing.
func (v Verdict) silent() bool {
	return slices.Contains([]Verdict{Unreachable, Timeout, Refused, Failed, Lame}, v)
}

// judge compares the TXT records at a name, the strings of each joined without
// anything between them, with the record that should be there. The detail is
// empty when they are the same to the letter.
func judge(values []string, want *Record) (Verdict, string) {
	switch len(values) {
	case 0:
		return Missing, "there is no TXT record"
	case 1:
		return judgeOne(values[0], want)
	}
	ours := 0
	for _, s := range values {
		if v, _ := judgeOne(s, want); v.Shown() {
			ours++
		}
	}
	who := "none of them ours"
	if ours > 0 {
		who = "ours among them; delete the others"
	}
	return Several, fmt.Sprintf("there are %d TXT records, %s: with more than one a verifier may take any (RFC 6376, section 3.6.2.2)", len(values), who)
}

func judgeOne(s string, want *Record) (Verdict, string) {
	if s == want.String() {
		return Matches, ""
	}
	if part, ok := cut(s, want); ok {
		return Truncated, part
	}
	if mistake := commonMistake(s); mistake != "" {
		return Malformed, mistake
	}
	r, err := ParseRecord(s)
	tags, _ := parseTags(s)
	if p, _ := tagValue(tags, "p"); isOurs(p, want) {
		// Said before ParseRecord's complaint, which is that our key does not
		// fit the k=.
		k, ok := tagValue(tags, "k")
		switch {
		case !ok && want.KeyType != "rsa":
			return WrongType, fmt.Sprintf("k= is missing and therefore means rsa, but the key is %s", want.KeyType)
		case ok && k != want.KeyType:
			return WrongType, fmt.Sprintf("k=%.40q, but the key is %s", k, want.KeyType)
		}
	}
	switch {
	case err != nil:
		return Malformed, place(s, err)
	case r.Revoked() && want.Revoked():
		return Matches, note(tags, want)
	case r.Revoked():
		return Revoked, "p= is empty: the key is revoked"
	case want.Revoked():
		return OtherKey, fmt.Sprintf("p= should be empty, but there is %s", describeKey(r))
	case !bytes.Equal(r.Public, want.Public) || r.KeyType != want.KeyType:
		return OtherKey, fmt.Sprintf("there is %s, which is not ours", describeKey(r))
	case len(r.Hashes) > 0 && !slices.Contains(r.Hashes, "sha256"):
		return Forbids, fmt.Sprintf("h=%.80s does not allow sha256", strings.Join(r.Hashes, ":"))
	case len(r.Services) > 0 && !slices.Contains(r.Services, "email") && !slices.Contains(r.Services, "*"):
		return Forbids, fmt.Sprintf("s=%.80s does not allow email", strings.Join(r.Services, ":"))
	case slices.Contains(r.Flags, "y") && !slices.Contains(want.Flags, "y"):
		return Testing, "t=y is set: verifiers may treat the mail as unsigned; remove it when the test is over"
	}
	if start, p := keyValue(s); strings.ContainsFunc(p, isBlank[rune]) {
		return Blanks, fmt.Sprintf("there are blanks inside p=, the first at octet %d of the value: they are allowed, but some verifiers cannot read the key",
			start+strings.IndexFunc(p, isBlank[rune])+1)
	}
	return Matches, note(tags, want)
}

// describeKey names the key of a record that is not revoked.
func describeKey(r *Record) string {
	alg, bits := r.Key()
	if r.KeyType == "ed25519" {
		return "an Ed25519 key"
	}
	if alg == "" {
		return "a key"
	}
	return fmt.Sprintf("an RSA key of %d bits", bits)
}

// minPart is the shortest value that is taken for a part of our record.
const minPart = 16

// cut reports whether s is a part of our record: what is left when a panel
// keeps only the first string, or the first 255 octets, or the last string.
func cut(s string, want *Record) (string, bool) {
	if want.Revoked() {
		return "", false
	}
	key := base64.StdEncoding.EncodeToString(want.Public)
	_, value := keyValue(s)
	if value = dropBlanks(value); value != "" && len(value) < len(key) && strings.HasPrefix(key, value) {
		limit := ""
		if len(s) == maxString {
			limit = ", as by a panel that takes only 255 octets: enter the value as several quoted strings, or use a smaller key"
		}
		return fmt.Sprintf("p= has only the first %d of %d characters: the value was cut at octet %d%s", len(value), len(key), len(s), limit), true
	}
	if whole := want.String(); value == "" && len(s) >= minPart && len(s) < len(whole) && strings.HasSuffix(whole, s) {
		return fmt.Sprintf("only the last %d of %d octets of the value are there: its first string is lost", len(s), len(whole)), true
	}
	return "", false
}

// commonMistake finds what people and panels do to a value on its way into a
// zone, and says where. It finds more than a parser has to: a tag V= is only an
// unknown one to RFC 6376.
func commonMistake(s string) string {
	offset := 0
	for spec := range strings.SplitSeq(s, ";") {
		name, value, _ := strings.Cut(spec, "=")
		name = strings.TrimFunc(name, isBlank[rune])
		if i := strings.IndexByte(spec, '"'); i >= 0 && name != "n" {
			return fmt.Sprintf("there is a quotation mark at octet %d of the value: the quotes of a zone file do not belong into it", offset+i+1)
		}
		if end := offset + len(spec); end < len(s) && strings.HasSuffix(spec, `\`) && name != "n" {
			return fmt.Sprintf("there is a backslash at octet %d of the value, before a semicolon: the escapes of a zone file do not belong into it", end)
		}
		if lower := strings.ToLower(name); lower != name && slices.Contains([]string{"v", "k", "h", "s", "t", "p"}, lower) {
			return fmt.Sprintf("the tag %s= at octet %d of the value must be %s=, in lower case", name, offset+strings.Index(spec, name)+1, lower)
		}
		if value = strings.TrimFunc(value, isBlank[rune]); name == "v" && value != version && strings.EqualFold(value, version) {
			return fmt.Sprintf("v=%s at octet %d of the value must be v=%s, in upper case", value, offset+strings.IndexByte(spec, 'v')+1, version)
		}
		offset += len(spec) + 1
	}
	return ""
}

// place adds to a complaint about p= where its first wrong octet is.
func place(s string, err error) string {
	start, value := keyValue(s)
	for i, c := range []byte(strings.TrimRightFunc(value, isBlank[rune])) {
		if !isLetter(c) && !isDigit(c) && !isBlank(c) && !strings.ContainsRune("+/=", rune(c)) {
			return fmt.Sprintf("%v: the first wrong character is at octet %d of the value", err, start+i+1)
		}
	}
	return err.Error()
}

// keyValue returns the value of p= as it stands in s, and where it starts.
func keyValue(s string) (start int, value string) {
	offset := 0
	for spec := range strings.SplitSeq(s, ";") {
		name, value, ok := strings.Cut(spec, "=")
		if ok && strings.TrimFunc(name, isBlank[rune]) == "p" {
			start := offset + len(name) + 1
			rest := strings.TrimLeftFunc(value, isBlank[rune])
			return start + len(value) - len(rest), strings.TrimRightFunc(rest, isBlank[rune])
		}
		offset += len(spec) + 1
	}
	return 0, ""
}

// isOurs reports whether the value of p= holds want's key, whatever k= says.
func isOurs(value string, want *Record) bool {
	public, err := parsePublic(want.KeyType, value)
	return err == nil && len(public) > 0 && bytes.Equal(public, want.Public)
}

func tagValue(tags []tag, name string) (value string, ok bool) {
	for _, t := range tags {
		if t.name == name {
			return t.value, true
		}
	}
	return "", false
}

// note says in what harmless way a record that matches is not the one wanted.
func note(tags []tag, want *Record) string {
	wanted, _ := parseTags(want.String())
	var notes []string
	if _, ok := tagValue(tags, "v"); !ok {
		notes = append(notes, "v=DKIM1 is missing")
	}
	for _, t := range tags {
		value, ok := tagValue(wanted, t.name)
		switch {
		case t.name == "p" && dropBlanks(t.value) != value && !want.Revoked():
			notes = append(notes, "p= holds the key in another form, which some verifiers cannot read")
		case t.name != "p" && !ok:
			notes = append(notes, fmt.Sprintf("%.20s= is there", t.name))
		case t.name != "p" && t.value != value:
			notes = append(notes, fmt.Sprintf("%.20s= has another value", t.name))
		}
	}
	for _, t := range wanted {
		// k=rsa may be left out.
		if _, ok := tagValue(tags, t.name); !ok && t.name != "v" && t.name != "k" {
			notes = append(notes, t.name+"= is missing")
		}
	}
	if len(notes) == 0 {
		notes = append(notes, "it is written in another way")
	}
	return "harmless: " + strings.Join(notes, ", ")
}
