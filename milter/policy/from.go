package policy

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	// maxFrom bounds a From field. Mail programs cut long fields, each at a
	// length of its own, and would then see different authors.
	maxFrom = 16 << 10

	// maxNesting bounds comments within comments. One level is rare already;
	// parsers that give up do so at depths of their own.
	maxNesting = 8
)

// AuthorError says why a message has no author domain.
type AuthorError struct {
	Code   string // one of the Code constants
	Reason string // words for the log; nothing of the field but domains and single characters
}

func (e *AuthorError) Error() string { return e.Reason }

// AuthorDomain returns the one domain of all addresses in the one From field
// of a message, in the form of Domain. The argument holds the values of all
// From fields, folds included. The error is an *AuthorError.
//
// The parser reads less than RFC 5322 (section 3.4) allows, on purpose: where
// mail programs are known to see different authors in one field, there is none.
//
//   - An address is "local@domain", with a comment behind it or not, or
//     "<local@domain>", with a display name before it and a comment behind
//     either, or not. Several addresses are separated by one comma each.
//   - A display name is words, with dots anywhere but at its beginning, and
//     quoted strings; @ < > , ; : need quotation marks. Encoded words are
//     words: what they decode to is not looked at.
//   - A comment has no @ < or > in it, and at most eight levels.
//   - An address has no blank or comment in it, no source route, no encoded
//     word, and no trailing dot. A quoted local part holds only what could
//     stand there without quotation marks, blanks, and dots in any place.
//   - A group has no author domain, be it empty or not; neither has a domain
//     literal. Text is ASCII or UTF-8 without control characters; local parts
//     beyond ASCII hold letters, marks and digits.
//
// Time is linear in the length of the field, and memory does not depend on it.
func AuthorDomain(fields []string) (string, error) {
	d, bad := authorDomain(fields)
	if bad != nil {
		return "", bad
	}
	return d, nil
}

func authorDomain(fields []string) (string, *AuthorError) {
	domain, _, bad := readFrom(fields, false)
	return domain, bad
}

// readFrom is authorDomain that, when asked to, also collects the local parts
// of the addresses, as written.
func readFrom(fields []string, collect bool) (domain string, locals []string, bad *AuthorError) {
	switch len(fields) {
	case 0:
		return "", nil, &AuthorError{CodeNoFrom, "no From field"}
	case 1:
	default:
		return "", nil, &AuthorError{CodeManyFrom, fmt.Sprintf("%d From fields", len(fields))}
	}
	if bad := checkText(fields[0]); bad != nil {
		return "", nil, bad
	}
	p := fromParser{s: fields[0], collect: collect}
	if bad := p.list(); bad != nil {
		return "", nil, bad
	}
	return strings.Clone(p.domain), p.locals, nil // the field need not stay in memory
}

func badFrom(format string, args ...any) *AuthorError {
	return &AuthorError{CodeBadFrom, "From field: " + fmt.Sprintf(format, args...)}
}

// checkText checks the bytes of a field value: UTF-8, no control characters,
// line ends only as folds before a line that is not blank (a blank line ends
// the header for some). After it, CR and LF are as good as blanks.
func checkText(s string) *AuthorError {
	if len(s) > maxFrom {
		return badFrom("%d bytes, more than the %d that everybody reads", len(s), maxFrom)
	}
	folded, blank := false, true // of the current line
	for i := 0; i < len(s); {
		r, size := rune(s[i]), 1
		if r >= utf8.RuneSelf {
			r, size = utf8.DecodeRuneInString(s[i:])
		}
		switch {
		case r == utf8.RuneError && size == 1:
			return badFrom("bytes that are not UTF-8 (names beyond ASCII are written as encoded words)")
		case r == ' ' || r == '\t':
		case r == '\n' || r == '\r' && strings.HasPrefix(s[i+1:], "\n"):
			if r == '\r' {
				size = 2
			}
			if next := i + size; next == len(s) || s[next] != ' ' && s[next] != '\t' {
				return badFrom("a line end that is no fold")
			}
			if folded && blank {
				return badFrom("a folded line of blanks only")
			}
			folded, blank = true, true
		case r == '\r':
			return badFrom("a bare CR")
		case r == 0:
			return badFrom("a NUL")
		case unicode.IsControl(r) || r == '\u2028' || r == '\u2029':
			return badFrom("control character %U", r)
		default:
			blank = false
		}
		i += size
	}
	if folded && blank {
		return badFrom("a folded line of blanks only")
	}
	return nil
}

// fromParser reads one field value from left to right, never back. It expects
// text that has passed checkText.
type fromParser struct {
	s string
	i int // next byte

	raw    string // domain of the addresses so far, as written last
	domain string // the same through Domain

	collect bool
	locals  []string // local parts of the addresses so far, as written
}

// list = address *("," address)
func (p *fromParser) list() *AuthorError {
	for {
		if bad := p.address(); bad != nil {
			return bad
		}
		if bad := p.skipComments(); bad != nil {
			return bad
		}
		switch p.peek() {
		case end:
			return nil
		case ',':
			p.i++
		case '<':
			return badFrom("text before < has an @ outside quotation marks, or two addresses lack a comma")
		case ';':
			return badFrom("a semicolon where a comma is due")
		default:
			return badFrom("text behind an address, or two addresses lack a comma")
		}
	}
}

// address reads words until it is clear what they are: a local part, when @
// follows, or a display name, when < follows.
func (p *fromParser) address() *AuthorError {
	words, start := 0, 0
	wordEnd := -1
	for {
		p.skipBlanks()
		switch c := p.peek(); {
		case c == end && words == 0 && p.raw == "":
			return badFrom("no address")
		case (c == end || c == ',') && words == 0:
			return badFrom("a comma with no address on one side of it")
		case c == end || c == ',':
			return badFrom("an address without @")
		case c == '"':
			start = p.i
			if bad := p.quoted(); bad != nil {
				return bad
			}
			words, wordEnd = words+1, p.i
		case c == '.' && words == 0:
			return badFrom("a dot at the beginning of a name or an address")
		case isAtom(c):
			start = p.i
			p.skipAtom()
			words, wordEnd = words+1, p.i
		case c == '(' && words > 0:
			if bad := p.comment(); bad != nil {
				return bad
			}
		case c == '(':
			return badFrom("a comment before an address")
		case c == '@' && words == 1 && wordEnd == p.i:
			return p.addrSpec(p.s[start:p.i])
		case c == '@' && words == 0:
			return badFrom("an @ with nothing before it")
		case c == '@':
			return badFrom("an @ that does not follow its local part, or a name without < > around the address")
		case c == '<':
			return p.angle()
		case c == ':':
			return &AuthorError{CodeNoDomain, "From field: a group (name: members;) has no author domain"}
		default:
			return badFrom("character %q where a name or an address is due", c)
		}
	}
}

// angle = "<" local "@" domain ">"
func (p *fromParser) angle() *AuthorError {
	p.i++
	start := p.i
	switch c := p.peek(); {
	case c == '>':
		return badFrom("nothing between < and >")
	case c == '@':
		return badFrom("a source route, or an address without local part")
	case c == '"':
		if bad := p.quoted(); bad != nil {
			return bad
		}
	default:
		p.skipAtom()
	}
	local := p.s[start:p.i]
	switch c := p.peek(); {
	case c == '@':
	case c == end:
		return badFrom("a < without >")
	case c == '>':
		return badFrom("an address without @")
	case isBlank(c):
		return badFrom("a blank inside < >")
	default:
		return badFrom("character %q inside < >", c)
	}
	if bad := p.addrSpec(local); bad != nil {
		return bad
	}
	switch c := p.peek(); {
	case c == '>':
		p.i++
		return nil
	case c == end:
		return badFrom("a < without >")
	case isBlank(c):
		return badFrom("a blank inside < >")
	default:
		return badFrom("character %q inside < >", c)
	}
}

// addrSpec reads "@" domain. What ends it is looked at by the caller, but for
// a second @.
func (p *fromParser) addrSpec(local string) *AuthorError {
	if bad := checkLocal(local); bad != nil {
		return bad
	}
	p.i++
	start := p.i
	for c := p.peek(); isDomain(c); c = p.peek() {
		p.i++
	}
	raw := p.s[start:p.i]
	switch c := p.peek(); {
	case c == '@':
		return badFrom("two @ in one address")
	case raw == "" && c == '[':
		return &AuthorError{CodeNoDomain, "From field: an address literal [...] is no author domain"}
	case raw == "":
		return badFrom("no domain behind an @")
	case raw[len(raw)-1] == '.':
		return badFrom("a domain with a dot at its end")
	case isAtom(c):
		return &AuthorError{CodeBadDomain, fmt.Sprintf("From field: character %q in a domain", c)}
	}
	if p.collect {
		p.locals = append(p.locals, local)
	}
	return p.author(raw)
}

// author notes the domain of one more address.
func (p *fromParser) author(raw string) *AuthorError {
	if raw == p.raw {
		return nil // a long list costs one conversion
	}
	d, err := domain(raw)
	if err != nil {
		return &AuthorError{CodeBadDomain, fmt.Sprintf("From field: domain name %s: %v", quote(raw), err)}
	}
	if p.raw != "" && d != p.domain {
		return &AuthorError{CodeManyDomains, fmt.Sprintf("From field: addresses of two domains, %s and %s", p.domain, d)}
	}
	p.raw, p.domain = raw, d
	return nil
}

// checkLocal checks the part before the @, as written: a dot-atom or a quoted
// string.
func checkLocal(s string) *AuthorError {
	inQuotes := strings.HasPrefix(s, `"`)
	if inQuotes {
		s = s[1 : len(s)-1]
	}
	if s == "" {
		return badFrom("an empty local part")
	}
	if strings.Contains(s, "=?") {
		return badFrom("an encoded word in an address")
	}
	if !inQuotes && (s[0] == '.' || s[len(s)-1] == '.' || strings.Contains(s, "..")) {
		return badFrom("a dot at an end of a local part, or two dots in a row")
	}
	for _, r := range s {
		switch {
		case r >= utf8.RuneSelf:
			if !unicode.In(r, unicode.L, unicode.M, unicode.Nd) {
				return badFrom("character %U in a local part", r)
			}
		case isAtom(r), inQuotes && r == ' ':
		case inQuotes:
			return badFrom("character %q in a quoted local part", r)
		default:
			return badFrom("character %q in a local part", r)
		}
	}
	return nil
}

// quoted skips a quoted string.
func (p *fromParser) quoted() *AuthorError {
	for p.i++; p.i < len(p.s); p.i++ {
		switch p.s[p.i] {
		case '"':
			p.i++
			return nil
		case '\\':
			if p.i++; isFold(p.peek()) {
				return badFrom("a backslash at the end of a line")
			}
		}
	}
	return badFrom("a quotation mark without its other half")
}

// comment skips a comment and those nested in it.
func (p *fromParser) comment() *AuthorError {
	depth := 1
	for p.i++; p.i < len(p.s); p.i++ {
		switch p.s[p.i] {
		case '(':
			if depth++; depth > maxNesting {
				return badFrom("more than %d levels of comments", maxNesting)
			}
		case ')':
			if depth--; depth == 0 {
				p.i++
				return nil
			}
		case '@', '<', '>':
			return badFrom("an address in a comment")
		case '\\':
			p.i++
			switch p.peek() {
			case '@', '<', '>':
				return badFrom("an address in a comment")
			case '\r', '\n':
				return badFrom("a backslash at the end of a line")
			}
		}
	}
	return badFrom("a parenthesis without its other half")
}

func (p *fromParser) skipComments() *AuthorError {
	for p.skipBlanks(); p.peek() == '('; p.skipBlanks() {
		if bad := p.comment(); bad != nil {
			return bad
		}
	}
	return nil
}

func (p *fromParser) skipBlanks() {
	for isBlank(p.peek()) {
		p.i++
	}
}

func (p *fromParser) skipAtom() {
	for isAtom(p.peek()) {
		p.i++
	}
}

// end is what peek returns behind the last byte.
const end = -1

// peek returns the next byte without consuming it; bytes beyond ASCII are
// parts of a character, and only compared with utf8.RuneSelf.
func (p *fromParser) peek() rune {
	if p.i >= len(p.s) {
		return end
	}
	return rune(p.s[p.i])
}

func isBlank(c rune) bool { return c == ' ' || c == '\t' || isFold(c) }

func isFold(c rune) bool { return c == '\r' || c == '\n' }

// isDomain reports whether c can be part of something that was meant as a
// domain name. Domain has the last word.
func isDomain(c rune) bool {
	return isAlnum(c) || c == '-' || c == '.' || c == '_' || c >= utf8.RuneSelf
}

// isAtom reports whether c is atext (RFC 5322, section 3.2.3, and RFC 6532,
// section 3.2) or a dot.
func isAtom(c rune) bool {
	return isAlnum(c) || c >= utf8.RuneSelf || c > 0 && strings.IndexByte(".!#$%&'*+-/=?^_`{|}~", byte(c)) >= 0
}

func isAlnum(c rune) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
}
