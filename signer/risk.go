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
		kind := strings.ToLower(strings.TrimLeft(value, " \t\r\n"))
		if m.profile == Sendmail {
			m.multipart.begin(value)
		}
		m.parts.wanted = m.profile == Postfix && (strings.HasPrefix(kind, "multipart/") || strings.HasPrefix(kind, "message/"))
	}
}

const encodingField = "Content-Transfer-Encoding"

// is8Bit says whether the value of a Content-Transfer-Encoding begins with a
// word that allows octets beyond ASCII (RFC 2045, section 6.2).
func is8Bit(value string) bool {
	value = strings.TrimLeft(value, " \t\r\n")
	for _, word := range []string{"8bit", "binary"} {
		if len(value) >= len(word) && strings.EqualFold(value[:len(word)], word) {
			return true
		}
	}
	return false
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
	tail          []byte // the last bytes of what was seen
}

// declaration is long enough for a field name, its colon and its value.
const declaration = 64

func (s *parts) reset() { *s = parts{tail: s.tail[:0]} }

func (s *parts) scan(p []byte) {
	s.tail = append(s.tail, p[:min(len(p), declaration)]...)
	s.find(s.tail)
	s.find(p)
	if n := len(p) - declaration; n > 0 {
		s.tail = append(s.tail[:0], p[n:]...)
	} else if n := len(s.tail) - declaration; n > 0 {
		s.tail = append(s.tail[:0], s.tail[n:]...)
	}
}

// find goes from colon to colon, of which there is none in base64.
func (s *parts) find(text []byte) {
	for i := 0; ; i++ {
		k := bytes.IndexByte(text[i:], ':')
		if k < 0 {
			return
		}
		i += k
		at := i - len(encodingField)
		if at < 0 || !bytes.EqualFold(text[at:i], []byte(encodingField)) || at > 0 && text[at-1] != '\n' {
			continue
		}
		if is8Bit(string(text[i+1 : min(i+declaration, len(text))])) {
			s.found = true
			return
		}
	}
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
	count := func(name string) int { return m.names[m.fields.index[strings.ToLower(name)]].count }
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
