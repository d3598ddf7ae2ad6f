package signer

import (
	"fmt"
	"strings"
)

// This file knows what Sendmail writes anew after its filters have run, as
// measured with Sendmail 8.17. It goes for all of its mailers, and with
// FEATURE(nocanonify) too.

// nature is how Sendmail treats a field.
type nature uint8

const (
	plain     nature = iota // as it stands
	sender                  // an address list, parsed and written anew; masqueraded
	recipient               // the same, masqueraded with FEATURE(allmasquerade) only
	author                  // a sender that is added when missing or empty
	stamp                   // added when missing or empty
	mime                    // bounded in length, and its quotation marks and parentheses balanced
)

// natures has the fields that are not plain, by name in lower case.
var natures = map[string]nature{
	"from":                        author,
	"resent-from":                 author,
	"sender":                      sender,
	"reply-to":                    sender,
	"resent-sender":               sender,
	"resent-reply-to":             sender,
	"errors-to":                   sender,
	"disposition-notification-to": sender,
	"to":                          recipient,
	"cc":                          recipient,
	"resent-to":                   recipient,
	"resent-cc":                   recipient,
	"apparently-to":               recipient,
	"date":                        stamp,
	"message-id":                  stamp,
	"resent-date":                 stamp,
	"resent-message-id":           stamp,
	"mime-version":                mime,
	"content-type":                mime,
	"content-transfer-encoding":   mime,
	"content-id":                  mime,
	"content-disposition":         mime,
	"content-description":         mime,
}

// late says whether Sendmail adds the field where it is missing.
func (n nature) late() bool { return n == author || n == stamp }

// list says whether the field is an address list.
func (n nature) list() bool { return n == author || n == sender || n == recipient }

// Masquerade is what Sendmail has been told to write in place of other domains,
// by MASQUERADE_AS and its companions or by a genericstable. The zero value is
// nothing.
type Masquerade struct {
	// Domains are those that it replaces. One that begins with a dot stands for
	// all domains below it.
	Domains []string

	// Recipients says that it replaces them in To and Cc too, and not in the
	// fields of senders alone: FEATURE(allmasquerade).
	Recipients bool
}

// replaces says whether a domain in a field of this nature is replaced.
func (m *Masquerade) replaces(n nature, domain string) bool {
	if m == nil || n == recipient && !m.Recipients {
		return false
	}
	for _, d := range m.Domains {
		if strings.EqualFold(d, domain) {
			return true
		}
		if strings.HasPrefix(d, ".") && len(domain) > len(d) && strings.EqualFold(d, domain[len(domain)-len(d):]) {
			return true
		}
	}
	return false
}

const (
	// maxMailbox is how long an address with its name and comments may be:
	// behind that Sendmail cuts it off (its MAXNAME is 256).
	maxMailbox = 253

	// maxMIME is its MaxMimeHeaderLength, and maxParameter stays below the half
	// of that to which it cuts a parameter. More than maxParameters it changes at
	// times, by rules that are not told apart here; in parts it does not.
	maxMIME       = 2040
	maxParameter  = 1000
	maxParameters = 30
)

// change says why Sendmail will change the relaxed form of a field with this
// value; empty when it will not. host is the server's own name, if known.
func (n nature) change(value, host string, m *Masquerade) string {
	switch {
	case n == plain:
		return ""
	case n.late() && isBlank(value):
		return "it is empty, and Sendmail fills it in"
	case n == mime:
		return mimeChange(value, maxParameters)
	case n.list():
		l := list{s: value, nature: n, host: host, masquerade: m}
		return l.read()
	}
	return ""
}

// isBlank says whether a value is nothing but blanks and line ends.
func isBlank(value string) bool { return strings.Trim(value, " \t\r\n") == "" }

// mimeChange is change for MIME fields with so many parameters at most.
func mimeChange(value string, most int) string {
	if len(value) > maxMIME {
		return fmt.Sprintf("it has more than %d octets, to which Sendmail cuts it", maxMIME)
	}
	if len(value) <= maxParameter && strings.Count(value, ";") <= most &&
		strings.IndexByte(value, '"') < 0 && strings.IndexByte(value, '(') < 0 && strings.IndexByte(value, '\\') < 0 {
		return "" // as most are
	}
	depth, quoted, escaped, parameters, start := 0, false, false, 0, 0
	for i := range len(value) {
		c := value[i]
		switch {
		case escaped:
			escaped = false
			continue
		case c == '\\':
			escaped = true
		case c == '(' && !quoted:
			depth++
		case c == ')' && depth > 0:
			depth--
		case c == '"' && depth == 0:
			quoted = !quoted
		}
		if c == ';' && !quoted && depth == 0 {
			if parameters++; parameters > most {
				return fmt.Sprintf("it has more than %d parameters", most)
			}
			start = i + 1
		}
		if i-start > maxParameter {
			return fmt.Sprintf("a parameter has more than %d octets, to which Sendmail cuts it", maxParameter)
		}
	}
	if depth > 0 || quoted || escaped {
		return "a quotation mark or parenthesis lacks its other half, which Sendmail adds"
	}
	return ""
}

// list reads an address list from left to right, and tells the first thing in it
// that Sendmail writes in another way: it parses each address, completes it, puts
// quotation marks around names that need them, and joins the addresses with a
// comma and a blank. What it cannot parse it changes in ways that are not told
// apart here.
type list struct {
	s          string
	i          int // next byte
	start      int // of the address that i is in
	nature     nature
	host       string // the server's own name
	masquerade *Masquerade
}

// What can be wrong with an address list, in the words of the log.
const (
	badComma    = "Sendmail writes a comma and one blank between addresses"
	badSyntax   = "Sendmail repairs what is no valid address list"
	badName     = "Sendmail puts quotation marks around a name with any of .'@;:\\[]() in it"
	badAddress  = "Sendmail writes an address without the blanks and comments in it"
	badUTF8     = "an address beyond ASCII, into which Sendmail puts octets of its own"
	unqualified = "Sendmail completes an address without a full domain"
)

func (l *list) read() string {
	l.blanks()
	l.start = l.i
	if l.peek() == end {
		return ""
	}
	for {
		if why := l.element(false); why != "" {
			return why
		}
		if done, why := l.comma(end); done || why != "" {
			return why
		}
	}
}

// comma passes over what is between two addresses. It is done at stop.
func (l *list) comma(stop int) (done bool, why string) {
	at := l.i
	l.blanks()
	if at-l.start > maxMailbox {
		return false, fmt.Sprintf("Sendmail cuts an address and its name to %d octets", maxMailbox)
	}
	switch l.peek() {
	case stop:
		if stop != end && at != l.i {
			return false, badComma
		}
		return true, ""
	case ',':
		if at != l.i {
			return false, badComma
		}
		l.i++
		at = l.i
		l.blanks()
		if at == l.i || l.peek() == end || l.peek() == ',' || l.peek() == stop {
			return false, badComma
		}
		l.start = l.i
		return false, ""
	}
	return false, badSyntax
}

// element reads an address, or a group of them.
func (l *list) element(grouped bool) string {
	words := 0        // of a name, or of what may be one
	word := -1        // start of the word that ends here
	special := false  // a character that a name has in quotation marks only
	unusable := false // one that a local part has not either
	after := true     // a blank or the beginning is before i
	glued := false    // a comment is
	for {
		c := l.peek()
		switch {
		case c == end || c == ',' || c == ';' && grouped:
			if words == 0 {
				return badComma
			}
			if words == 1 && !unusable {
				return unqualified
			}
			return badSyntax
		case isBlankByte(c):
			l.blanks()
			word, after, glued = -1, true, false
			continue
		case c == '(':
			if !after || !l.comment() {
				return badAddress
			}
			word, glued = -1, true
		case c == '<':
			if special || unusable {
				return badName
			}
			return l.angle()
		case c == ':':
			if grouped || words == 0 {
				return badSyntax
			}
			if special || unusable {
				return badName
			}
			return l.group()
		case c == '@':
			if words != 1 || word < 0 || unusable {
				return badSyntax
			}
			l.i++
			if why := l.domain(); why != "" {
				return why
			}
			if hasHighControl(l.s[word:l.i]) {
				return badUTF8
			}
			return l.comments(true)
		case c == '>' || c < ' ' || c == 0x7f:
			return badSyntax
		case glued:
			return badAddress
		default:
			if word < 0 {
				words, word = words+1, l.i
			}
			switch c {
			case '"':
				if !l.quoted() {
					return badSyntax
				}
				after = false
				continue
			case '.', '\'':
				special = true
			case ';', '\\', '[', ']', ')':
				unusable = true
			}
			l.i++
		}
		after = false
	}
}

// angle reads an address in < and >, and the comments behind it.
func (l *list) angle() string {
	l.i++
	if l.peek() == '>' { // no address, as for bounces
		l.i++
		return l.comments(false)
	}
	for at := l.i; ; {
		switch c := l.peek(); c {
		case '"':
			if !l.quoted() {
				return badSyntax
			}
			continue
		case '@':
			if l.i == at {
				return badSyntax
			}
			l.i++
			if why := l.domain(); why != "" {
				return why
			}
			if l.peek() != '>' {
				return badAddress
			}
			if hasHighControl(l.s[at:l.i]) {
				return badUTF8
			}
			l.i++
			return l.comments(false)
		case '>':
			return unqualified
		default:
			if c <= ' ' || c == 0x7f || strings.IndexByte("<,;:\\[]()", byte(c)) >= 0 {
				return badAddress
			}
			l.i++
		}
	}
}

// hasHighControl says whether an address has an octet from 0x80 to 0x9f, as many
// letters beyond ASCII have. Sendmail uses these for itself and marks each.
func hasHighControl(address string) bool {
	for i := range len(address) {
		if c := address[i]; c >= 0x80 && c <= 0x9f {
			return true
		}
	}
	return false
}

// group reads the members of a group behind its name.
func (l *list) group() string {
	l.i++
	l.blanks()
	for l.peek() != ';' {
		if why := l.element(true); why != "" {
			return why
		}
		if done, why := l.comma(';'); why != "" {
			return why
		} else if done {
			break
		}
	}
	l.i++
	return ""
}

// domain reads a domain.
func (l *list) domain() string {
	at := l.i
	for c := l.peek(); isLetter(c) || c == '-' || c == '_' || c == '.'; c = l.peek() {
		l.i++
	}
	d := l.s[at:l.i]
	first, _, dotted := strings.Cut(d, ".")
	switch {
	case l.peek() == '[':
		return "Sendmail puts its name in place of an address literal of its own"
	case d == "":
		return badSyntax
	case !dotted:
		return unqualified
	case strings.HasSuffix(d, "."):
		return "Sendmail drops the dot at the end of a domain"
	case strings.EqualFold(first, "localhost"):
		return "Sendmail puts its name in place of localhost"
	case len(d) > len(uucp) && strings.EqualFold(d[len(d)-len(uucp):], uucp):
		return "Sendmail writes addresses in .uucp in another way"
	case d != l.host && strings.EqualFold(d, l.host):
		return "Sendmail writes its own name as " + l.host
	case l.masquerade.replaces(l.nature, d):
		return "Sendmail masquerades " + d
	}
	return ""
}

const uucp = ".uucp"

// comments passes over comments, and before each the blanks, which there must
// be where apart says so.
func (l *list) comments(apart bool) string {
	for {
		at := l.i
		l.blanks()
		if l.peek() != '(' {
			l.i = at
			return ""
		}
		if apart && at == l.i || !l.comment() {
			return badAddress
		}
	}
}

// comment passes over a comment, and says whether it ends.
func (l *list) comment() bool {
	depth := 0
	for ; l.i < len(l.s); l.i++ {
		switch l.s[l.i] {
		case '\\':
			l.i++
		case '(':
			depth++
		case ')':
			if depth--; depth == 0 {
				l.i++
				return true
			}
		}
	}
	l.i = len(l.s) // a backslash may have led beyond
	return false
}

// quoted passes over a quoted string, and says whether it ends.
func (l *list) quoted() bool {
	for l.i++; l.i < len(l.s); l.i++ {
		switch l.s[l.i] {
		case '\\':
			l.i++
		case '"':
			l.i++
			return true
		}
	}
	l.i = len(l.s)
	return false
}

func (l *list) blanks() {
	for isBlankByte(l.peek()) {
		l.i++
	}
}

// end is what peek returns behind the last byte.
const end = -1

func (l *list) peek() int {
	if l.i >= len(l.s) {
		return end
	}
	return int(l.s[l.i])
}

func isBlankByte(c int) bool { return c == ' ' || c == '\t' || c == '\r' || c == '\n' }

// isLetter says whether c is a letter or digit, or part of one beyond ASCII.
func isLetter(c int) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c >= 0x80
}
