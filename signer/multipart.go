package signer

import (
	"bytes"
	"strings"
)

// This file knows what Sendmail does to multiparts, as measured with Sendmail
// 8.17: when it delivers, it takes each apart and writes it anew, also where
// nothing needs another encoding. A multipart whose parts have header fields as
// they should be, and that ends with its last delimiter, stays as it is.

// Limits of Sendmail's, and of ours.
const (
	maxBoundary = 127 // octets of a boundary; of a longer one it reads so many
	maxNesting  = 20  // multiparts within multiparts
	keptLine    = 998 // octets of a line that are looked at; a longer one is a risk of its own
	keptField   = 4096
)

// multipart follows a body as Sendmail reads it, and tells the first thing that
// Sendmail writes in another way. It holds a line, a header field of a part, and
// the boundaries; a body that is no multipart costs nothing.
type multipart struct {
	state multipartState
	begun bool   // the Content-Type of the message was read
	exact bool   // blanks at the end of a line count
	why   string // in words; empty when there is nothing

	open   []openMultipart // from the outermost inwards
	line   []byte          // the beginning of the present line
	kind   string          // Content-Type of the header under way
	digest bool            // without one, what follows is a message
	field  []byte          // the present field of the header, with folds
}

type openMultipart struct {
	boundary string
	digest   bool // parts without a Content-Type are messages
}

type multipartState uint8

const (
	unread   multipartState = iota // no multipart, or the part behind its end
	inHeader                       // fields of a part or of a message within
	inText                         // between delimiters, or before the first
)

func (s *multipart) reset(exact bool) {
	*s = multipart{exact: exact, open: s.open[:0], line: s.line[:0], field: s.field[:0]}
}

// begin reads the Content-Type of the message. The first counts.
func (s *multipart) begin(kind string) {
	if !s.begun {
		s.begun = true
		s.content(kind)
	}
}

// content begins what stands behind a header with this Content-Type.
func (s *multipart) content(kind string) {
	kindOf, subtype := mediaType(kind)
	s.state = inText
	switch {
	case kindOf == "multipart":
		boundary := boundaryOf(withoutComments(kind))
		switch {
		case boundary == "":
			s.why = "a multipart names no boundary"
		case len(boundary) > maxBoundary:
			s.why = "the boundary of a multipart is too long"
		case len(s.open) == maxNesting:
			s.why = "multiparts are nested too deep"
		}
		s.open = append(s.open, openMultipart{boundary, subtype == "digest"})
	case kindOf == "message" && subtype == "rfc822":
		s.header(false)
	case len(s.open) == 0:
		s.state = unread
	}
}

// header begins the header of a part, or of a message within.
func (s *multipart) header(digest bool) {
	s.state, s.kind, s.digest, s.field = inHeader, "", digest, s.field[:0]
}

// scan reads a piece of the body.
func (s *multipart) scan(p []byte) {
	for len(p) > 0 && s.state != unread && s.why == "" {
		if s.state == inText && len(s.line) == 0 && p[0] != '-' {
			// Most of a body: on to the next line that may be a delimiter.
			if n := bytes.Index(p, []byte("\n-")); n >= 0 {
				p = p[n+1:]
				continue
			}
			if n := bytes.LastIndexByte(p, '\n'); n >= 0 {
				p = p[n+1:]
			}
		}
		line, rest, ended := bytes.Cut(p, []byte("\n"))
		if room := keptLine - len(s.line); room > 0 {
			s.line = append(s.line, line[:min(room, len(line))]...)
		}
		if p = rest; ended {
			s.read(bytes.TrimSuffix(s.line, []byte("\r")))
			s.line = s.line[:0]
		}
	}
}

// read reads a line.
func (s *multipart) read(line []byte) {
	switch {
	case s.state == inText:
		s.text(line)
	case len(line) == 0:
		s.endField()
		if s.kind == "" && s.digest {
			s.kind = "message/rfc822"
		}
		if s.why == "" {
			s.content(s.kind)
		}
	case line[0] == ' ' || line[0] == '\t':
		if len(s.field) == 0 {
			s.why = "the header of a part begins with a blank"
		}
		if len(s.field) < keptField {
			s.field = append(append(s.field, "\r\n"...), line...)
		}
	default:
		s.endField()
		name, _, ok := bytes.Cut(line, []byte(":"))
		if !ok || len(name) == 0 || bytes.ContainsAny(name, " \t") {
			s.why = "the header of a part has a line that is no field"
		}
		s.field = append(s.field[:0], line...)
	}
}

// endField takes note of the field that was read.
func (s *multipart) endField() {
	name, value, _ := strings.Cut(string(s.field), ":")
	s.field = s.field[:0]
	name = strings.ToLower(name)
	if natures[name] != mime || s.why != "" {
		return
	}
	if why := mimeChange(value, len(value)); why != "" {
		s.why = "a field of a part is changed: " + why
	}
	if name == "content-type" && s.kind == "" {
		s.kind = value
	}
}

// text reads a line between fields. It is a delimiter when it has the boundary of
// any open multipart.
func (s *multipart) text(line []byte) {
	trimmed := bytes.TrimRight(line, " \t\r")
	rest, ok := bytes.CutPrefix(trimmed, []byte("--"))
	if !ok {
		return
	}
	level := s.levelOf(rest)
	last := false
	if level < 0 {
		if rest, last = bytes.CutSuffix(rest, []byte("--")); last {
			level = s.levelOf(rest)
		}
	}
	switch {
	case level < 0:
	case level < len(s.open)-1:
		s.why = "a multipart within another lacks its last delimiter"
	case s.exact && len(trimmed) < len(line):
		s.why = "a delimiter has blanks at its end"
	case !last:
		s.header(s.open[level].digest)
	default:
		if s.open = s.open[:level]; level == 0 {
			s.state = unread
		}
	}
}

// levelOf returns the innermost open multipart with this boundary, or -1.
func (s *multipart) levelOf(boundary []byte) int {
	for i := len(s.open) - 1; i >= 0; i-- {
		if string(boundary) == s.open[i].boundary {
			return i
		}
	}
	return -1
}

// changed says what Sendmail writes in another way if the body ends here; empty
// when nothing.
func (s *multipart) changed() string {
	if s.why != "" || s.state == unread {
		return s.why
	}
	if s.state == inText && len(s.open) == 1 && string(bytes.TrimRight(s.line, " \t\r")) == "--"+s.open[0].boundary+"--" {
		return "" // the last line has no line end
	}
	if len(s.open) == 0 {
		return "the header of a message within does not end"
	}
	return "a multipart lacks its last delimiter"
}

// mediaType returns the type and the subtype of a Content-Type, in lower case.
// Mail servers pass over blanks and comments there.
func mediaType(value string) (kind, subtype string) {
	name, _, _ := strings.Cut(withoutComments(value), ";")
	kind, subtype, _ = strings.Cut(strings.ToLower(name), "/")
	return strings.TrimSpace(kind), strings.TrimSpace(subtype)
}

// withoutComments is a value with a blank in place of each comment (RFC 5322,
// section 3.2.2).
func withoutComments(value string) string {
	if strings.IndexByte(value, '(') < 0 {
		return value
	}
	var b strings.Builder
	depth, quoted := 0, false
	for i := 0; i < len(value); i++ {
		c := value[i]
		switch {
		case c == '\\' && i+1 < len(value):
			if i++; depth == 0 {
				b.WriteString(value[i-1 : i+1])
			}
			continue
		case c == '"' && depth == 0:
			quoted = !quoted
		case c == '(' && !quoted:
			if depth++; depth == 1 {
				b.WriteByte(' ')
			}
		case c == ')' && depth > 0:
			depth--
			continue
		}
		if depth == 0 {
			b.WriteByte(c)
		}
	}
	return b.String()
}

// boundaryOf returns the boundary that Sendmail reads in a Content-Type without
// comments: a token or a quoted string.
func boundaryOf(kind string) string {
	const specials = "()<>@,;:\\\"/[]?= \t\r\n"
	_, rest, _ := strings.Cut(kind, ";")
	for rest != "" {
		rest = strings.TrimLeft(rest, " \t\r\n;")
		n := strings.IndexAny(rest, specials)
		if n < 0 {
			return ""
		}
		name, value := rest[:n], strings.TrimLeft(rest[n:], " \t\r\n")
		if strings.EqualFold(name, "boundary") && strings.HasPrefix(value, "=") {
			value = strings.TrimLeft(value[1:], " \t\r\n")
			if strings.HasPrefix(value, `"`) {
				return unquote(value[1:])
			}
			if n := strings.IndexAny(value, specials); n > 0 {
				return value[:n]
			} else if n == 0 {
				return value[:1] // as Sendmail takes it
			}
			return value
		}
		rest = afterParameter(rest)
	}
	return ""
}

// unquote reads a quoted string up to its end.
func unquote(s string) string {
	var b strings.Builder
	for i := 0; i < len(s) && s[i] != '"'; i++ {
		if s[i] == '\\' && i+1 < len(s) {
			i++
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// afterParameter returns what stands behind the next semicolon that is in no
// quoted string.
func afterParameter(s string) string {
	quoted := false
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '\\':
			i++
		case s[i] == '"':
			quoted = !quoted
		case s[i] == ';' && !quoted:
			return s[i+1:]
		}
	}
	return ""
}
