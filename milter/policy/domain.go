package policy

import (
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/net/idna"
)

const (
	maxName  = 253 // octets of a domain name in text, without the root's dot (RFC 1035, 2.3.4)
	maxLabel = 63  // octets of a label (RFC 1035, 2.3.4)

	// maxUnicodeName bounds a name before conversion: a rune takes up to four
	// octets, and at least one in its A-label.
	maxUnicodeName = 4 * maxName
)

// Domain returns the form in which every part of waxseal knows a domain name:
// lower-case A-labels without a trailing dot.
//
// It accepts upper case, one trailing dot, and U-labels (RFC 5890). A name has
// at least two labels of letters, digits and hyphens, none of them at either
// end a hyphen, because only such a name can be a signing domain (RFC 6376,
// section 3.5: no underscore, no single label), and its last label is not a
// number, because 192.0.2.1 is an address. Labels beyond ASCII are taken as
// they stand or not at all (IDNA2008 without any mapping): lower case, NFC, no
// symbols, no compatibility forms. A label that begins with "xn--" must decode
// to a label that Unicode's UTS 46 lets be registered.
func Domain(s string) (string, error) {
	name, err := domain(strings.TrimSuffix(s, "."))
	if err != nil {
		return "", fmt.Errorf("domain name %s: %w", quote(s), err)
	}
	return name, nil
}

// registration is UTS 46 without any mapping, non-transitional: what is not
// already in its final form is an error.
var registration = idna.New(idna.ValidateForRegistration(), idna.Transitional(false))

// domain is Domain without the trailing dot, and its errors without the name.
func domain(s string) (string, error) {
	if len(s) > maxUnicodeName {
		return "", fmt.Errorf("longer than %d octets", maxName)
	}
	ascii, lower := true, true
	for i := range len(s) {
		ascii = ascii && s[i] < utf8.RuneSelf
		lower = lower && (s[i] < 'A' || s[i] > 'Z')
	}
	if !lower {
		s = lowerASCII(s)
	}
	if !ascii || strings.HasPrefix(s, "xn--") || strings.Contains(s, ".xn--") {
		if !ascii {
			if err := checkUnicode(s); err != nil {
				return "", err
			}
		}
		name, err := registration.ToASCII(s)
		if err != nil {
			return "", fmt.Errorf("not valid as an internationalized name: %w", err)
		}
		s = name
	}
	return s, checkName(s)
}

// lowerASCII leaves all but A to Z alone: what is lower case beyond ASCII
// depends on the language.
func lowerASCII(s string) string {
	b := []byte(s)
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			b[i] += 'a' - 'A'
		}
	}
	return string(b)
}

// checkName checks a lower-case ASCII name.
func checkName(s string) error {
	if s == "" {
		return errors.New("empty")
	}
	if len(s) > maxName {
		return fmt.Errorf("longer than %d octets", maxName)
	}
	var label string
	labels := 0
	for rest, more := s, true; more; labels++ {
		label, rest, more = strings.Cut(rest, ".")
		if err := checkLabel(label); err != nil {
			return err
		}
	}
	if labels == 1 {
		return errors.New("a single label; mail is signed for names of two labels and more")
	}
	if strings.Trim(label, "0123456789") == "" {
		return errors.New("the last label is a number, so this is no name")
	}
	return nil
}

func checkLabel(s string) error {
	switch {
	case s == "":
		return errors.New("a label is empty (two dots, or a dot at an end)")
	case len(s) > maxLabel:
		return fmt.Errorf("a label is longer than %d octets", maxLabel)
	case s[0] == '-' || s[len(s)-1] == '-':
		return fmt.Errorf("label %s begins or ends with a hyphen", quote(s))
	}
	for i := range len(s) {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9', c == '-':
		case c == '@':
			return errors.New("an address; want what stands after its @")
		case c == '_':
			return errors.New("an underscore cannot be part of a mail or signing domain")
		default:
			return fmt.Errorf("character %q is not a letter, digit or hyphen", c)
		}
	}
	return nil
}

// checkUnicode checks the rules of IDNA2008 that UTS 46, or its implementation,
// leaves out: which code points may stand in a U-label at all (RFC 5892,
// section 3), and where hyphens may, counted in characters. Code points with
// a context rule, other than the joiners, which UTS 46 checks, are refused:
// their A-labels can be written instead.
func checkUnicode(s string) error {
	if !utf8.ValidString(s) {
		return errors.New("bytes that are not UTF-8")
	}
	for _, r := range s {
		if r < utf8.RuneSelf || unicode.Is(pvalid, r) {
			continue
		}
		if unicode.Is(unpredictable, r) || !unicode.In(r, unicode.Ll, unicode.Lo, unicode.Lm, unicode.Mn, unicode.Mc, unicode.Nd) {
			return fmt.Errorf("character %q (%U) cannot be part of a name (IDNA2008)", r, r)
		}
	}
	for label := range strings.SplitSeq(s, ".") {
		if r := []rune(label); len(r) > 3 && r[2] == '-' && r[3] == '-' && !strings.HasPrefix(label, "xn--") {
			return fmt.Errorf("label %s has two hyphens in the third place (RFC 5891, 4.2.3.1)", quote(label))
		}
	}
	return nil
}

// pvalid are code points that are allowed in spite of their category, and the
// two joiners (RFC 5892, section 2.6 and appendix A).
var pvalid = &unicode.RangeTable{
	R16: []unicode.Range16{
		{Lo: 0x06fd, Hi: 0x06fe, Stride: 1},
		{Lo: 0x0f0b, Hi: 0x0f0b, Stride: 1},
		{Lo: 0x200c, Hi: 0x200d, Stride: 1},
		{Lo: 0x3007, Hi: 0x3007, Stride: 1},
	},
}

// unpredictable are letters, marks and digits that are not allowed all the
// same (RFC 5892, section 2.6), and conjoining Hangul Jamo (section 2.9).
var unpredictable = &unicode.RangeTable{
	R16: []unicode.Range16{
		{Lo: 0x0640, Hi: 0x0640, Stride: 1},
		{Lo: 0x07fa, Hi: 0x07fa, Stride: 1},
		{Lo: 0x1100, Hi: 0x11ff, Stride: 1},
		{Lo: 0x302e, Hi: 0x302f, Stride: 1},
		{Lo: 0x3031, Hi: 0x3035, Stride: 1},
		{Lo: 0x303b, Hi: 0x303b, Stride: 1},
		{Lo: 0xa960, Hi: 0xa97c, Stride: 1},
		{Lo: 0xd7b0, Hi: 0xd7fb, Stride: 1},
	},
}
