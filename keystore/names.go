package keystore

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

const (
	maxLabel    = 63  // octets of one label (RFC 1035, section 2.3.4)
	maxName     = 253 // octets of a whole name in text form, without the final dot
	domainKey   = "._domainkey."
	maxSelector = maxName - len(domainKey) - 1
)

// ValidDomain reports why name cannot be the name of a signing domain, or nil.
// It wants lower-case A-labels of letters, digits, hyphens and underscores,
// and no final dot. The answer is about form only.
func ValidDomain(name string) error {
	if err := validLabels(name); err != nil {
		return fmt.Errorf("domain %.80q: %w", name, err)
	}
	return nil
}

// ValidSelector reports why s cannot be a selector, or nil: labels as in
// ValidDomain, joined by dots (RFC 6376, section 3.1).
func ValidSelector(s string) error {
	if err := validLabels(s); err != nil {
		return fmt.Errorf("selector %.80q: %w", s, err)
	}
	if len(s) > maxSelector {
		return fmt.Errorf("selector %.80q: %d octets, want at most %d", s, len(s), maxSelector)
	}
	return nil
}

// validLabels holds names to what every DNS server, file system and tag list
// takes: nothing that is special in a path, a zone file or a DKIM-Signature
// gets through.
func validLabels(name string) error {
	if name == "" {
		return errors.New("empty")
	}
	if len(name) > maxName {
		return fmt.Errorf("%d octets, want at most %d", len(name), maxName)
	}
	for label := range strings.SplitSeq(name, ".") {
		switch {
		case label == "":
			return errors.New("has an empty label (a dot too many)")
		case len(label) > maxLabel:
			return fmt.Errorf("label of %d octets, want at most %d", len(label), maxLabel)
		case label[0] == '-' || label[len(label)-1] == '-':
			return errors.New("a label begins or ends with a hyphen")
		}
		for _, c := range []byte(label) {
			switch {
			case 'a' <= c && c <= 'z', '0' <= c && c <= '9', c == '-', c == '_':
			case 'A' <= c && c <= 'Z':
				return errors.New("has upper-case letters")
			case c >= 0x80:
				return errors.New("is not ASCII (write the A-label, xn--…)")
			default:
				return fmt.Errorf("has the character %q", c)
			}
		}
	}
	return nil
}

// NextSelector returns the first of 2026a, 2026b, … 2026z, 2026aa, … (with the
// year of now) that d has never used. A nil d has used none.
func NextSelector(d *Domain, now time.Time) string {
	year := now.UTC().Format("2006")
	for n := 1; ; n++ {
		s := year + letters(n)
		if d == nil || d.Key(s) == nil {
			return s
		}
	}
}

// letters counts a, b, … z, aa, ab, … from 1.
func letters(n int) string {
	var s []byte
	for ; n > 0; n = (n - 1) / 26 {
		s = append([]byte{byte('a' + (n-1)%26)}, s...)
	}
	return string(s)
}
