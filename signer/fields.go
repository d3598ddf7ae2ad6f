package signer

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Limits on h=. With these it stays under 30 KB, so the whole field fits into
// a milter packet and under every server's limit for a field.
const (
	// maxNames is how many names a Fields may list, and maxName how long each
	// may be: such a name and its colon still fit on a line of 78.
	maxNames = 128
	maxName  = 76
	// maxRepeats bounds how often names are repeated in h= because a message
	// has several fields of that name. Beyond it, further instances stay
	// unsigned, from the top of the message, and as they leave the name open
	// to additions anyway it is not over-signed.
	maxRepeats = 128
)

// Fields are the names of the fields that signatures cover. A Fields is made
// by NewFields, never changes and may be shared.
type Fields struct {
	rules []rule
	index map[string]int // by name in lower case
}

// rule is how one name is treated. Rule 0 is From.
type rule struct {
	name string
	// oversign names the field once more than there are instances, so that
	// none can be added without breaking the signature (RFC 6376, section
	// 8.15).
	oversign bool
	// nature is how Sendmail treats it.
	nature nature
	// unsigned marks a name that is on no list: its fields are counted, as
	// Risks wants to know, and nothing else.
	unsigned bool
}

const fromRule = 0

// defaultFields is what Options with nil Fields sign.
var defaultFields = mustFields(NewFields(nil, nil))

func mustFields(f *Fields, err error) *Fields {
	if err != nil {
		panic(err) // the default lists are wrong; tests see to it that they are not
	}
	return f
}

// DefaultSigned returns the names that are signed where they are present:
// those of RFC 6376, section 5.4.1, and those that decide what a reader sees
// or that a receiver wants signed: the MIME fields, Message-ID and Sender,
// List-Unsubscribe-Post (RFC 8058, section 4), CFBL-Address and
// CFBL-Feedback-ID (RFC 9477, section 3), Feedback-ID, BIMI-Selector, and
// Autocrypt.
func DefaultSigned() []string {
	return []string{
		"From", "Sender", "Reply-To", "To", "Cc", "Subject", "Date", "Message-ID", "In-Reply-To", "References",
		"MIME-Version", "Content-Type", "Content-Transfer-Encoding",
		"Content-Disposition", "Content-ID", "Content-Language",
		"List-Id", "List-Help", "List-Unsubscribe", "List-Unsubscribe-Post", "List-Subscribe",
		"List-Post", "List-Owner", "List-Archive",
		"Auto-Submitted", "Autocrypt", "BIMI-Selector", "CFBL-Address", "CFBL-Feedback-ID", "Feedback-ID",
		"Resent-Date", "Resent-From", "Resent-To", "Resent-Cc", "Resent-Sender",
	}
}

// DefaultOversigned returns the names that are signed even where they are
// absent, so that none can be added later. Not among them are fields that a
// mailing list or a resender adds for good reason: Sender, List-* and Resent-*.
func DefaultOversigned() []string {
	return []string{
		"From", "Reply-To", "To", "Cc", "Subject", "Date", "Message-ID", "In-Reply-To", "References",
		"MIME-Version", "Content-Type", "Content-Transfer-Encoding",
	}
}

// NewFields returns the Fields that sign the names in signed where a message
// has them, each as often as it occurs, and those in oversigned once more than
// that. A name in oversigned need not be in signed. Nil stands for the default
// list.
//
// From is always signed and over-signed, listed or not. Case does not matter,
// except that h= spells names as listed first. A name that must not be signed
// (RFC 6376, section 5.4.1), is not a field name or is a pattern is an error;
// all such names are reported in one.
func NewFields(signed, oversigned []string) (*Fields, error) {
	if signed == nil {
		signed = DefaultSigned()
	}
	if oversigned == nil {
		oversigned = DefaultOversigned()
	}
	f := &Fields{index: make(map[string]int)}
	f.add("From")
	var errs []error
	for _, name := range slices.Concat(signed, oversigned) {
		if err := checkName(name); err != nil {
			errs = append(errs, err)
			continue
		}
		f.add(name)
	}
	if len(f.rules) > maxNames {
		errs = append(errs, fmt.Errorf("%d field names to sign, want at most %d", len(f.rules), maxNames))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	f.rules[fromRule].oversign = true
	for _, name := range oversigned {
		f.rules[f.index[strings.ToLower(name)]].oversign = true
	}
	listed := len(f.rules)
	for _, name := range singletons {
		f.add(name)
	}
	for i := range f.rules {
		f.rules[i].nature = natures[strings.ToLower(f.rules[i].name)]
		f.rules[i].unsigned = i >= listed
	}
	return f, nil
}

// add gives name a rule if it has none.
func (f *Fields) add(name string) {
	key := strings.ToLower(name)
	if _, ok := f.index[key]; !ok {
		f.index[key] = len(f.rules)
		f.rules = append(f.rules, rule{name: name})
	}
}

// rule returns the index of the rule for a field of a message.
func (f *Fields) rule(name string) (int, bool) {
	name = trimName(name)
	if len(name) > maxName {
		return 0, false
	}
	var buf [maxName]byte
	i, ok := f.index[string(appendLower(buf[:0], name))]
	return i, ok
}

// checkName reports why name cannot stand in h=.
func checkName(name string) error {
	switch {
	case name == "":
		return errors.New("field name to sign is empty")
	case len(name) > maxName:
		return fmt.Errorf("field name %.20q… has %d characters, want at most %d", name, len(name), maxName)
	case strings.Contains(name, "*"):
		return fmt.Errorf("field name %q: h= has no patterns, list every name", name)
	}
	for i := range len(name) {
		// A field name is printable ASCII without colon (RFC 5322, section
		// 3.6.8); a semicolon would end the tag.
		if c := name[i]; c <= ' ' || c >= 0x7f || c == ':' || c == ';' {
			return fmt.Errorf("field name %q: character %q cannot be in a signed name", name, c)
		}
	}
	key := strings.ToLower(name)
	if why, ok := neverSigned[key]; ok {
		return fmt.Errorf("field %s cannot be signed: %s", name, why)
	}
	for _, p := range neverSignedPrefixes {
		if strings.HasPrefix(key, p.prefix) {
			return fmt.Errorf("field %s cannot be signed: %s", name, p.why)
		}
	}
	return nil
}

// Why a field is never signed (RFC 6376, section 5.4.1, and what servers do).
const (
	whyTrace     = "servers add and change it on the way"
	whyRemoved   = "servers remove it on the way"
	whyMailbox   = "mail stores change it after delivery"
	whyFree      = "it is a remark that anyone on the way may change"
	whySignature = "it signs the message itself"
	whyReceiver  = "it is the receiver's to set"
)

var neverSigned = map[string]string{
	"return-path":            whyRemoved,
	"bcc":                    whyRemoved,
	"resent-bcc":             whyRemoved,
	"content-length":         whyRemoved,
	"full-name":              whyRemoved,
	"received":               whyTrace,
	"delivered-to":           whyTrace,
	"x-original-to":          whyTrace,
	"x-envelope-from":        whyTrace,
	"x-envelope-to":          whyTrace,
	"x-mime-autoconverted":   whyTrace,
	"x-scanned-by":           whyTrace,
	"status":                 whyMailbox,
	"x-status":               whyMailbox,
	"x-keywords":             whyMailbox,
	"x-uid":                  whyMailbox,
	"x-uidl":                 whyMailbox,
	"x-mozilla-status":       whyMailbox,
	"x-mozilla-status2":      whyMailbox,
	"comments":               whyFree,
	"keywords":               whyFree,
	"dkim-signature":         whySignature,
	"domainkey-signature":    whySignature,
	"dkim2-signature":        whySignature,
	"message-instance":       whySignature,
	"authentication-results": whyReceiver,
	"bimi-location":          whyReceiver,
	"bimi-indicator":         whyReceiver,
	"bimi-logo-preference":   whyReceiver,
}

var neverSignedPrefixes = []struct{ prefix, why string }{
	{"received-", whyReceiver}, // Received-SPF and its like
	{"arc-", whySignature},
	{"x-spam", whyReceiver},
	{"x-virus", whyReceiver},
	{"x-amavis", whyReceiver},
	{"x-rspamd", whyReceiver},
}

// choose decides what h= names and returns it as rules, one for each naming:
// names in the order of the lists, instances from the bottom up (RFC 6376,
// section 5.4.2).
func (m *Message) choose() []int {
	m.named = m.named[:0]
	repeats := maxRepeats
	for i, r := range m.fields.rules {
		if r.unsigned {
			break
		}
		n := m.names[i].count
		signed := m.names[i].firm
		if signed > 1 {
			signed = 1 + min(signed-1, repeats)
			repeats -= signed - 1
		}
		if r.oversign && signed == n && !(n == 0 && r.nature.late() && m.profile == Sendmail) {
			signed++
		}
		for range signed {
			m.named = append(m.named, i)
		}
	}
	return m.named
}
