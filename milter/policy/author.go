package policy

import (
	"errors"
	"fmt"
	"strings"
)

// author is who answers for a message: by the From field, or by another that
// Options.AuthorFields names.
type author struct {
	field  string   // its name
	domain string   // lower-case A-labels
	locals []string // local parts of its addresses as written; only where they matter
}

// authorFields are the fields that can name the author domain instead of From,
// each with its parser. They are those that a mailing list or a resender sets.
var authorFields = map[string]struct {
	name  string
	parse func(value string, collect bool) (domain string, locals []string, err error)
}{
	"sender":        {"Sender", parseAddresses},
	"resent-from":   {"Resent-From", parseAddresses},
	"resent-sender": {"Resent-Sender", parseAddresses},
	"list-id":       {"List-Id", parseListID},
	"list-post":     {"List-Post", parseMailto},
	"list-owner":    {"List-Owner", parseMailto},
}

// fieldFrom is the name of the field that decides when no other does.
const fieldFrom = "From"

// newAuthorFields returns the names in their usual spelling, without From.
func newAuthorFields(names []string) ([]string, error) {
	var fields []string
	var bad []error
	for i, name := range names {
		known, ok := authorFields[strings.ToLower(name)]
		switch {
		case strings.EqualFold(name, fieldFrom):
			if i < len(names)-1 {
				bad = append(bad, errors.New("author field From: it always decides where nothing before it does, so those behind it never would; put it last or leave it out"))
			}
		case !ok:
			bad = append(bad, fmt.Errorf("author field %s: only Sender, Resent-From, Resent-Sender, List-Id, List-Post and List-Owner can stand for From", quote(name)))
		default:
			fields = append(fields, known.name)
		}
	}
	return fields, errors.Join(bad...)
}

// author returns who answers for the message, and who stands in the From field,
// which has to be sound in any case.
func (r *Rules) author(m *Message, collect bool) (a, from author, bad *AuthorError) {
	from.field = fieldFrom
	from.domain, from.locals, bad = readFrom(m.From, collect)
	if bad != nil {
		return a, from, bad
	}
	for _, name := range r.fields {
		if a, err := readAuthorField(name, m.Fields[name], collect); err == nil {
			return a, from, nil
		}
	}
	return from, from, nil
}

// readAuthorField reads a field other than From. The error says why it names no
// author domain.
func readAuthorField(name string, values []string, collect bool) (author, error) {
	a := author{field: name}
	if len(values) != 1 {
		return a, fmt.Errorf("%d %s fields", len(values), name)
	}
	if bad := checkText(values[0]); bad != nil {
		return a, renamed(bad, name)
	}
	var err error
	a.domain, a.locals, err = authorFields[strings.ToLower(name)].parse(values[0], collect)
	if err != nil {
		return a, renamed(err, name)
	}
	return a, nil
}

// renamed is an error of the From parser about another field.
func renamed(err error, name string) error {
	return errors.New(name + strings.TrimPrefix(err.Error(), fieldFrom))
}

// parseAddresses reads an address list as if it stood in a From field.
func parseAddresses(s string, collect bool) (string, []string, error) {
	domain, locals, bad := readFrom([]string{s}, collect)
	if bad != nil {
		return "", nil, bad
	}
	return domain, locals, nil
}

// parseListID reads the domain of a mailing list: what stands behind the first
// dot of the identifier (RFC 2919, section 3), which for list@lists.example.org
// is list.lists.example.org. What stands before the < is read as in From.
func parseListID(s string, _ bool) (string, []string, error) {
	p := fromParser{s: s}
	if bad := p.phrase(); bad != nil {
		return "", nil, bad
	}
	start := p.i
	p.skipAtom()
	id := p.s[start:p.i]
	if p.peek() != '>' {
		return "", nil, badFrom("no list identifier between < and >")
	}
	p.i++
	if bad := p.skipComments(); bad != nil {
		return "", nil, bad
	}
	if p.peek() != end {
		return "", nil, badFrom("text behind the list identifier")
	}
	_, owner, _ := strings.Cut(id, ".")
	d, err := domain(owner)
	if err != nil {
		return "", nil, badFrom("list identifier %s: behind its first dot, domain name %s: %v", quote(id), quote(owner), err)
	}
	return strings.Clone(d), nil, nil
}

// phrase reads what may stand before a <, and the < itself.
func (p *fromParser) phrase() *AuthorError {
	for {
		p.skipBlanks()
		switch c := p.peek(); {
		case c == '"':
			if bad := p.quoted(); bad != nil {
				return bad
			}
		case c == '(':
			if bad := p.comment(); bad != nil {
				return bad
			}
		case isAtom(c):
			p.skipAtom()
		case c == '<':
			p.i++
			return nil
		case c == end:
			return badFrom("nothing in < >")
		default:
			return badFrom("character %q before <", c)
		}
	}
}

// parseMailto reads the one domain of all mailto addresses in a list of URLs
// (RFC 2369, section 2). Other URLs, and comments, are passed over.
func parseMailto(s string, collect bool) (string, []string, error) {
	p := fromParser{s: s, collect: collect}
	for {
		if bad := p.skipComments(); bad != nil {
			return "", nil, bad
		}
		if p.peek() != '<' {
			return "", nil, badFrom("no < where a URL is due")
		}
		p.i++
		url, _, ok := strings.Cut(p.s[p.i:], ">")
		if !ok {
			return "", nil, badFrom("a < without >")
		}
		p.i += len(url) + 1
		if bad := p.mailto(url); bad != nil {
			return "", nil, bad
		}
		if bad := p.skipComments(); bad != nil {
			return "", nil, bad
		}
		switch p.peek() {
		case ',':
			p.i++
		case end:
			if p.domain == "" {
				return "", nil, badFrom("no mailto address")
			}
			return strings.Clone(p.domain), p.locals, nil
		default:
			return "", nil, badFrom("text behind a URL")
		}
	}
}

// mailto notes the domain of a URL if it is one with an address (RFC 6068).
// What is encoded there is not decoded.
func (p *fromParser) mailto(url string) *AuthorError {
	const scheme = "mailto:"
	if len(url) < len(scheme) || !strings.EqualFold(url[:len(scheme)], scheme) {
		return nil
	}
	address, _, _ := strings.Cut(url[len(scheme):], "?")
	local, raw, ok := strings.Cut(address, "@")
	if !ok || raw == "" || strings.ContainsAny(address, "%\",") {
		return badFrom("a mailto URL of which the address is not plain")
	}
	if bad := checkLocal(local); bad != nil {
		return bad
	}
	if p.collect {
		p.locals = append(p.locals, local)
	}
	return p.author(raw)
}
