package policy

import (
	"strings"
	"testing"
	"unicode/utf8"

	"golang.org/x/net/idna"
)

var domainRows = []struct {
	what, in, want string // want empty: an error
}{
	{"a name stays as it is", "example.org", "example.org"},
	{"upper case becomes lower case", "ExAmple.ORG", "example.org"},
	{"one trailing dot is removed", "example.org.", "example.org"},
	{"two trailing dots are an error", "example.org..", ""},
	{"a leading dot is an error", ".example.org", ""},
	{"two dots in a row are an error", "example..org", ""},
	{"nothing is an error", "", ""},
	{"a dot is an error", ".", ""},
	{"a blank is an error", " example.org", ""},
	{"a line end is an error", "example.org\n", ""},
	{"a NUL is an error", "example.org\x00", ""},
	{"a semicolon, which would end a tag, is an error", "example.org; l=0", ""},
	{"an address is an error", "a@example.org", ""},
	{"a URL is an error", "https://example.org", ""},
	{"a wildcard is an error", "*.example.org", ""},
	{"an underscore is an error", "_domainkey.example.org", ""},
	{"a single label is an error", "localhost", ""},
	{"a single label with a dot behind it is an error", "localhost.", ""},
	{"an IPv4 address is an error", "192.0.2.1", ""},
	{"an IPv6 address is an error", "2001:db8::1", ""},
	{"a number as last label is an error", "example.123", ""},
	{"a number elsewhere is fine", "123.example", "123.example"},
	{"a hyphen inside a label is fine", "my-host.example", "my-host.example"},
	{"hyphens in the third and fourth place are fine in ASCII", "r3---sn.example", "r3---sn.example"},
	{"a hyphen at the beginning is an error", "-host.example", ""},
	{"a hyphen at the end is an error", "host-.example", ""},
	{"a label of 63 octets is fine", strings.Repeat("a", 63) + ".example", strings.Repeat("a", 63) + ".example"},
	{"a label of 64 octets is an error", strings.Repeat("a", 64) + ".example", ""},
	{"a name of 253 octets is fine", strings.Repeat("a.", 126) + "a", strings.Repeat("a.", 126) + "a"},
	{"a name of 254 octets is an error", strings.Repeat("a.", 126) + "ab", ""},
	{"a name of 253 octets and its dot is fine", strings.Repeat("a.", 126) + "a.", strings.Repeat("a.", 126) + "a"},

	{"a U-label becomes an A-label", "bücher.example", "xn--bcher-kva.example"},
	{"a U-label with a trailing dot loses the dot", "bücher.example.", "xn--bcher-kva.example"},
	{"an A-label stays as it is", "xn--bcher-kva.example", "xn--bcher-kva.example"},
	{"an A-label in upper case becomes lower case", "XN--BCHER-KVA.EXAMPLE", "xn--bcher-kva.example"},
	{"an A-label behind a U-label stays", "bücher.xn--0zwm56d", "xn--bcher-kva.xn--0zwm56d"},
	{"ASCII upper case in a U-label becomes lower case", "Bücher.example", "xn--bcher-kva.example"},
	{"upper case beyond ASCII is an error", "BÜCHER.example", ""},
	{"sharp s stays itself", "faß.example", "xn--fa-hia.example"},
	{"final sigma stays itself", "βόλος.example", "xn--nxasmm1c.example"},
	{"a ligature is an error", "o\ufb00ice.example", ""},
	{"mixed scripts are allowed", "p\u0430ypal.example", "xn--pypal-4ve.example"},
	{"a right-to-left label is fine", "\u05d9\u05e9\u05e8\u05d0\u05dc.example", "xn--4dbrk0ce.example"},
	{"both directions in one label are an error", "a\u05d0.example", ""},
	{"a right-to-left label beside one that begins with a digit is an error", "1a.\u05d9\u05e9\u05e8\u05d0\u05dc", ""},
	{"a joiner behind a virama is fine", "\u0915\u094d\u200d\u0937.example", "xn--11b2ezcw70k.example"},
	{"a joiner elsewhere is an error", "a\u200db.example", ""},
	{"a decomposed letter is an error", "bu\u0308cher.example", ""},
	{"a symbol is an error", "\u2764.example", ""},
	{"a tatweel is an error", "\u0628\u0640\u0628.example", ""},
	{"a conjoining Jamo is an error", "\u1100\u1161.example", ""},
	{"the ideographic zero is fine", "\u3007\u6708.example", "xn--w6j196n.example"},
	{"a middle dot is an error", "l\u00b7l.example", ""},
	{"the A-label of a name with a middle dot is fine", "xn--ll-0ea.example", "xn--ll-0ea.example"},
	{"an ideographic full stop is an error", "example\u3002org", ""},
	{"full-width letters are an error", "\uff45xample.org", ""},
	{"an A-label that is no punycode is an error", "xn--a.example", ""},
	{"an A-label of plain ASCII is an error", "xn--example-.org", ""},
	{"an empty A-label is an error", "xn--.example", ""},
	{"an A-label of a capital letter is an error", "xn--cher-fna.example", ""},
	{"an A-label of a compatibility form is an error", "xn--oice-g05x.example", ""},
	{"the A-label of a symbol is fine, as it is the same everywhere", "xn--qei.example", "xn--qei.example"},
	{"two hyphens in the third place of a U-label are an error", "üü--ü.example", ""},
	{"Latin-1 is an error", "b\xfccher.example", ""},
	{"a U-label whose A-label is too long is an error", strings.Repeat("ü", 63) + ".example", ""},
	{"a name too long to be converted is an error", strings.Repeat("ü.", 1000) + "example", ""},
}

func TestDomain(t *testing.T) {
	for _, row := range domainRows {
		got, err := Domain(row.in)
		if got != row.want || (err == nil) != (row.want != "") {
			t.Errorf("%s: Domain(%+q) = %q, %v; want %q", row.what, row.in, got, err, row.want)
		}
		if err != nil && len(err.Error()) > 4*maxQuoted {
			t.Errorf("%s: error of %d bytes", row.what, len(err.Error()))
		}
	}
}

func TestDomainErrorsSayWhatIsWrong(t *testing.T) {
	for _, row := range []struct{ in, want string }{
		{"a@example.org", `domain name "a@example.org": an address; want what stands after its @`},
		{"my_host.example.org", `domain name "my_host.example.org": an underscore cannot be part of a mail or signing domain`},
		{"localhost", `domain name "localhost": a single label; mail is signed for names of two labels and more`},
		{"BÜCHER.example", `domain name "BÜCHER.example": character 'Ü' (U+00DC) cannot be part of a name (IDNA2008)`},
		{"-a.example", `domain name "-a.example": label "-a" begins or ends with a hyphen`},
	} {
		_, err := Domain(row.in)
		if err == nil || !strings.HasPrefix(err.Error(), row.want) {
			t.Errorf("Domain(%q): error %v, want %s", row.in, err, row.want)
		}
	}
}

// FuzzDomain: whatever Domain accepts is a legal name that it leaves alone from
// then on, and that a lookup under UTS 46 would find in the same place.
func FuzzDomain(f *testing.F) {
	for _, row := range domainRows {
		f.Add(row.in)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, err := Domain(s)
		if err != nil {
			if got != "" {
				t.Fatalf("Domain(%q) = %q, %v", s, got, err)
			}
			return
		}
		if len(got) > maxName || strings.Trim(got, "abcdefghijklmnopqrstuvwxyz0123456789-.") != "" || !strings.Contains(got, ".") {
			t.Errorf("Domain(%q) = %q", s, got)
		}
		for label := range strings.SplitSeq(got, ".") {
			if label == "" || len(label) > maxLabel {
				t.Errorf("Domain(%q) = %q, with label %q", s, got, label)
			}
		}
		if plain := strings.ToLower(strings.TrimSuffix(s, ".")); isASCII(s) && got != plain {
			t.Errorf("Domain(%q) = %q, want %q", s, got, plain)
		}
		if again, err := Domain(got); err != nil || again != got {
			t.Errorf("Domain(%q) = %q, but Domain(%q) = %q, %v", s, got, got, again, err)
		}
		if strings.Contains(got, "xn--") {
			lookup := idna.New(idna.MapForLookup(), idna.BidiRule(), idna.CheckHyphens(false), idna.Transitional(false))
			if other, err := lookup.ToASCII(strings.TrimSuffix(s, ".")); err != nil || other != got {
				t.Errorf("Domain(%q) = %q, looked up as %q, %v", s, got, other, err)
			}
		}
	})
}

func isASCII(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r >= utf8.RuneSelf })
}
