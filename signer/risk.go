package signer

import (
	"bytes"
	"fmt"
	"strings"
)

// Risk is a property of a message for which its signature may break on the way,
// or receivers may refuse it. The words are fixed: they stand in logs, counters
// and settings.
type Risk string

const (
	LongBodyLine     Risk = "long_body_line"     // the server will break a line of the body
	LongHeaderLine   Risk = "long_header_line"   // the server will break a line of a signed field
	EightBit         Risk = "eight_bit"          // the server will encode the body anew for a next hop without 8BITMIME
	MissingDate      Risk = "missing_date"       // no Date field
	MissingMessageID Risk = "missing_message_id" // no Message-ID field
	BareCRLF         Risk = "bare_cr_lf"         // a CR or LF that ends no line
	NUL              Risk = "nul"                // a NUL octet in the body
	DuplicateField   Risk = "duplicate_field"    // two fields of a kind of which there is one at most
	RewrittenField   Risk = "rewritten_field"    // the server will write a field anew, which is not signed therefore

	// RewrittenMultipart is a multipart that the server will write in another way.
	RewrittenMultipart Risk = "rewritten_multipart"
)

// Rewritten is a field that the server will write anew.
type Rewritten struct {
	Name string
	Why  string // in words
}

func (r Rewritten) String() string { return r.Name + ": " + r.Why }

// Finding is a risk that a message has.
type Finding struct {
	Risk Risk
	Why  string // in words
}

// singletons are the fields of which a message has one at most (RFC 5322,
// section 3.6, and RFC 2045, sections 3 to 6), in the order of Risks. Of From
// there is exactly one, or no signature.
var singletons = []string{
	"From", "Sender", "Reply-To", "To", "Cc", "Bcc", "Subject", "Date", "Message-ID", "In-Reply-To", "References",
	"MIME-Version", "Content-Type", "Content-Transfer-Encoding",
}

// longestLine is how long a line may be before the server breaks it, without
// its CRLF: Postfix's smtp_line_length_limit, and the L= of Sendmail's SMTP
// mailers (measured: a line of one octet more breaks).
func (p Profile) longestLine() int {
	if p == Postfix {
		return 998
	}
	return 990
}

// maxRewritten bounds the fields whose rewriting is told.
const maxRewritten = 8

// rewrite notes that a field will be written anew.
func (m *Message) rewrite(rule int, why string) {
	r := Rewritten{m.fields.rules[rule].name, why}
	for _, known := range m.rewritten {
		if known == r {
			return
		}
	}
	if len(m.rewritten) < maxRewritten || rule == fromRule {
		m.rewritten = append(m.rewritten, r)
	}
}

// look notes the risks of a field that may be signed.
func (m *Message) look(rule int, name, value string) {
	r := &m.fields.rules[rule]
	// Sendmail folds address lists anew.
	if limit := m.profile.longestLine(); len(name)+1+len(value) > limit && m.longLine == "" && (m.profile == Postfix || !r.nature.list()) {
		line := name + ":"
		for rest := value; ; {
			text, below, folded := strings.Cut(rest, "\n")
			if len(line)+len(strings.TrimSuffix(text, "\r")) > limit {
				m.longLine = r.name
				break
			}
			if !folded {
				break
			}
			line, rest = "", below
		}
	}
	switch {
	case r.nature != mime:
	case strings.EqualFold(r.name, encodingField):
		if is8Bit(value) {
			m.declared = "Content-Transfer-Encoding is 8bit or binary"
		}
	case strings.EqualFold(r.name, "Content-Type"):
		// Sendmail goes by the first Content-Type, Postfix by any that has parts.
		switch kind, _ := mediaType(value); {
		case m.profile == Sendmail:
			m.multipart.begin(value)
		case kind == "multipart" || kind == "message":
			m.parts.wanted = true
		}
	}
}

const encodingField = "Content-Transfer-Encoding"

// is8Bit says whether the value of a Content-Transfer-Encoding begins with a
// word that allows octets beyond ASCII (RFC 2045, section 6.2).
func is8Bit(value string) bool {
	e := encoding{reading: true}
	for i := 0; i < len(value) && e.reading; i++ {
		e.take(value[i])
	}
	return e.found
}

// encoding reads the value of a Content-Transfer-Encoding octet by octet, up to
// the end of its first word. Before that there may be blanks, folds and comments,
// of any length.
type encoding struct {
	reading bool
	found   bool // the word begins with 8bit or binary

	word    [len("binary")]byte // the part of it that was read, in lower case
	length  int
	depth   int // of comments
	escaped bool
	newLine bool // a blank has to come, or the field has ended
}

// take reads an octet. The field goes on while e.reading.
func (e *encoding) take(c byte) {
	switch {
	case e.newLine && c != ' ' && c != '\t':
		e.reading = false
	case c == '\n':
		e.newLine = true
		e.reading = e.length == 0
	case e.escaped:
		e.escaped = false
	case e.depth > 0 && c == '\\':
		e.escaped = true
	case c == '(' && e.length == 0:
		e.depth++
	case c == ')' && e.depth > 0:
		e.depth--
	case e.depth > 0 || e.length == 0 && isBlankByte(int(c)):
		e.newLine = false
	default:
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		e.word[e.length] = c
		e.length++
		word := string(e.word[:e.length])
		e.found = word == "8bit" || word == "binary"
		e.reading = !e.found && (strings.HasPrefix("8bit", word) || strings.HasPrefix("binary", word))
	}
}

// watch notes the risks of a piece of the body.
func (m *Message) watch(p []byte) {
	m.body.measure(p, m.profile.longestLine())
	if !m.nul && bytes.IndexByte(p, 0) >= 0 {
		m.nul = true
	}
	if m.parts.wanted && !m.parts.found {
		m.parts.scan(p)
	}
	m.multipart.scan(p)
}

// parts looks for a Content-Transfer-Encoding of 8bit or binary in the parts of
// a body. Postfix encodes such a part anew even if it is all ASCII.
type parts struct {
	wanted, found bool
	tail          []byte   // the last octets of what was seen, as many as a name and the line end before it
	value         encoding // of the field under way
}

func (s *parts) reset() { *s = parts{tail: s.tail[:0]} }

// scan goes from colon to colon, of which there is none in base64.
func (s *parts) scan(p []byte) {
	for i := 0; i < len(p) && !s.found; i++ {
		if s.value.reading {
			s.value.take(p[i])
			s.found = s.value.found
			continue
		}
		n := bytes.IndexByte(p[i:], ':')
		if n < 0 {
			break
		}
		if i += n; s.named(p[:i]) {
			s.value = encoding{reading: true}
		}
	}
	const kept = len(encodingField) + 1
	s.tail = append(s.tail, p[max(0, len(p)-kept):]...)
	s.tail = append(s.tail[:0], s.tail[max(0, len(s.tail)-kept):]...)
}

// named says whether what ends here is a line with the name of the field, and
// nothing else.
func (s *parts) named(text []byte) bool {
	if len(text) <= len(encodingField) {
		text = append(s.tail[:len(s.tail):len(s.tail)], text...)
	}
	at := len(text) - len(encodingField)
	return at >= 0 && bytes.EqualFold(text[at:], []byte(encodingField)) && (at == 0 || text[at-1] == '\n')
}

// CheckFrom says why the message cannot be signed for its From field, and nil
// when it can: ErrNoFrom, ErrSeveralFrom, or an error that wraps
// ErrFromRewritten. It is to be asked when all fields were added.
func (m *Message) CheckFrom() error {
	switch n := m.names[fromRule]; {
	case n.count == 0:
		return ErrNoFrom
	case n.count > 1:
		return ErrSeveralFrom
	case n.firm == 0:
		for _, r := range m.rewritten {
			if r.Name == m.fields.rules[fromRule].name {
				return fmt.Errorf("%w: %s", ErrFromRewritten, r.Why)
			}
		}
		return ErrFromRewritten
	}
	return nil
}

// Risks returns the risks of the message as far as it was given, at most one of
// each kind, always in the same order.
func (m *Message) Risks() []Finding {
	var found []Finding
	add := func(r Risk, format string, args ...any) {
		found = append(found, Finding{r, fmt.Sprintf(format, args...)})
	}

	limit := m.profile.longestLine()
	if m.body.long || m.body.column > limit {
		add(LongBodyLine, "a line of the body has more than %d octets, and %s breaks it", limit, m.profile)
	}
	if m.longLine != "" {
		add(LongHeaderLine, "a line of %s has more than %d octets, and %s breaks it", m.longLine, limit, m.profile)
	}
	// What each server does for a next hop without 8BITMIME (measured): Postfix
	// goes by what the message declares, Sendmail by its octets.
	switch {
	case m.profile == Postfix && m.declared != "":
		add(EightBit, "%s: Postfix encodes the body anew for a next hop without 8BITMIME", m.declared)
	case m.profile == Postfix && m.parts.found:
		add(EightBit, "Content-Transfer-Encoding of a part is 8bit or binary: Postfix encodes it anew for a next hop without 8BITMIME")
	case m.profile == Sendmail && m.body.octet:
		add(EightBit, "the body has 8-bit octets: Sendmail encodes it anew for a next hop without 8BITMIME")
	}
	if why := m.multipart.changed(); why != "" {
		add(RewrittenMultipart, "%s, and Sendmail writes it in another way", why)
	}
	count := func(name string) int {
		rule, _ := m.fields.rule(name) // every Fields has one
		return m.names[rule].count
	}
	if count("Date") == 0 {
		add(MissingDate, "no Date field: a server on the way may add one, and receivers dislike mail without")
	}
	if count("Message-ID") == 0 {
		add(MissingMessageID, "no Message-ID field: a server on the way may add one, and receivers dislike mail without")
	}
	if m.StrayLineEnds() {
		add(BareCRLF, "bare CR or LF in the message")
	}
	if m.nul {
		add(NUL, "a NUL octet in the body")
	}
	var twice []string
	for _, name := range singletons {
		if count(name) > 1 {
			twice = append(twice, name)
		}
	}
	if len(twice) > 0 {
		add(DuplicateField, "more than one %s field", strings.Join(twice, " and one "))
	}
	if len(m.rewritten) > 0 {
		why := make([]string, len(m.rewritten))
		for i, r := range m.rewritten {
			why[i] = r.String()
		}
		add(RewrittenField, "not signed: %s", strings.Join(why, "; "))
	}
	return found
}
