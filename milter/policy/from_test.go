package policy

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"net/mail"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	gomail "github.com/emersion/go-message/mail"
	"github.com/emersion/go-message/textproto"
)

// fromRow is a row of testdata/from.txt.
type fromRow struct {
	line   int
	domain string // empty when none
	code   string // of the error, when domain is empty
	fields []string
	what   string
	why    string
}

func readFromRows(t testing.TB) []fromRow {
	t.Helper()
	text, err := os.ReadFile("testdata/from.txt")
	if err != nil {
		t.Fatal(err)
	}
	var rows []fromRow
	for i, line := range strings.Split(string(text), "\n") {
		if line == "" || line[0] == '#' {
			continue
		}
		columns := strings.Split(line, "\t")
		if len(columns) < 3 || len(columns) > 4 || columns[2] == "" {
			t.Fatalf("testdata/from.txt:%d: %d columns, want 3 or 4", i+1, len(columns))
		}
		row := fromRow{line: i + 1, what: columns[2]}
		if code, ok := strings.CutPrefix(columns[0], "none:"); ok {
			row.code = code
		} else {
			row.domain = columns[0]
		}
		if len(columns) == 4 {
			row.why = columns[3]
		}
		for rest := columns[1]; rest != ""; rest = strings.TrimPrefix(rest, " ") {
			quoted, err := strconv.QuotedPrefix(rest)
			if err != nil {
				t.Fatalf("testdata/from.txt:%d: %v", i+1, err)
			}
			field, _ := strconv.Unquote(quoted)
			row.fields = append(row.fields, field)
			rest = rest[len(quoted):]
			if rest == "" {
				break
			}
		}
		rows = append(rows, row)
	}
	if len(rows) < 150 {
		t.Fatalf("%d rows in testdata/from.txt, want 150 and more", len(rows))
	}
	return rows
}

func TestAuthorDomain(t *testing.T) {
	for _, row := range readFromRows(t) {
		got, err := AuthorDomain(row.fields)
		var bad *AuthorError
		code := ""
		if errors.As(err, &bad) {
			code = bad.Code
		}
		if got != row.domain || code != row.code {
			t.Errorf("line %d, %s: AuthorDomain(%q) = %q, %v (%s); want %q (%s)",
				row.line, row.what, row.fields, got, err, code, row.domain, row.code)
		}
		if err != nil && len(err.Error()) > 4*maxQuoted {
			t.Errorf("line %d, %s: error of %d bytes", row.line, row.what, len(err.Error()))
		}
	}
}

func TestAuthorDomainOfOversizedFields(t *testing.T) {
	for _, c := range []struct {
		name, field, want string
	}{
		{"a field of the greatest length", strings.Repeat(" ", maxFrom-13) + "a@example.org", "example.org"},
		{"a field one byte longer", strings.Repeat(" ", maxFrom-12) + "a@example.org", ""},
		{"a thousand addresses", strings.Repeat("a@example.org,", 1000) + "a@example.org", "example.org"},
		{"a thousand words", strings.Repeat("a ", 1000) + "<a@example.org>", "example.org"},
		{"all parentheses", strings.Repeat("(", maxFrom), ""},
		{"all quotation marks", strings.Repeat(`"`, maxFrom), ""},
		{"all backslashes in quotation marks", `"` + strings.Repeat(`\`, maxFrom-1), ""},
		{"a domain of the greatest field length", "a@" + strings.Repeat("a", maxFrom-2), ""},
		{"a U-label of the greatest field length", "a@" + strings.Repeat("ü", (maxFrom-2)/2), ""},
		{"control characters as a domain that is reported", "a@" + strings.Repeat("_", maxFrom-2), ""},
	} {
		got, err := AuthorDomain([]string{c.field})
		if got != c.want || (err == nil) != (c.want != "") {
			t.Errorf("%s: got %q, %v; want %q", c.name, got, err, c.want)
		}
		if err != nil && len(err.Error()) > 4*maxQuoted {
			t.Errorf("%s: error of %d bytes", c.name, len(err.Error()))
		}
	}
}

// A domain that is kept must not keep the field it came from.
func TestAuthorDomainAllocatesOnlyTheDomain(t *testing.T) {
	fields := []string{` "Alice (Example)" <alice@example.org>, ` + strings.Repeat(`b@example.org (Bob), `, 200) + "c@example.org"}
	allocs := testing.AllocsPerRun(100, func() {
		if _, err := AuthorDomain(fields); err != nil {
			t.Fatal(err)
		}
	})
	if allocs > 1 {
		t.Errorf("%v allocations, want 1", allocs)
	}
}

// sole returns the one domain that addresses have, in the form of Domain, or
// the empty string.
func sole(addresses []string) string {
	one := ""
	for _, a := range addresses {
		d, err := Domain(a[strings.LastIndexByte(a, '@')+1:])
		if err != nil || one != "" && d != one {
			return ""
		}
		one = d
	}
	return one
}

func addressesOf(list []*mail.Address) []string {
	var addresses []string
	for _, a := range list {
		addresses = append(addresses, a.Address)
	}
	return addresses
}

// netMail reads a field as a program would that uses net/mail.
func netMail(field string) string {
	m, err := mail.ReadMessage(strings.NewReader("From:" + field + "\r\n\r\n"))
	if err != nil || len(m.Header["From"]) != 1 {
		return ""
	}
	list, err := m.Header.AddressList("From")
	if err != nil {
		return ""
	}
	return sole(addressesOf(list))
}

// goMessage reads a field as a program would that uses go-message.
func goMessage(field string) string {
	h, err := textproto.ReadHeader(bufio.NewReader(strings.NewReader("From:" + field + "\r\n\r\n")))
	if err != nil {
		return ""
	}
	var header gomail.Header
	header.Header.Header = h
	list, err := header.AddressList("From")
	if err != nil || h.FieldsByKey("From").Len() != 1 {
		return ""
	}
	return sole(addressesOf(list))
}

// TestFromRowsAgainstOtherParsers enforces the rule of the table: where
// another parser sees another author than we do, we see none, or the row says
// why.
func TestFromRowsAgainstOtherParsers(t *testing.T) {
	rows := readFromRows(t)
	disagree := map[int][]string{}
	for _, row := range rows {
		if row.domain == "" {
			continue
		}
		for name, parse := range map[string]func(string) string{"net/mail": netMail, "go-message": goMessage} {
			if got := parse(row.fields[0]); got != row.domain {
				disagree[row.line] = append(disagree[row.line], name+" sees "+strconv.Quote(got))
			}
		}
	}
	for _, row := range rows {
		got := disagree[row.line]
		switch {
		case len(got) > 0 && row.why == "":
			t.Errorf("line %d, %s: %q is %s for us, but %s: say none, or why not",
				row.line, row.what, row.fields, row.domain, strings.Join(got, ", "))
		case len(got) == 0 && row.why != "" && !strings.HasPrefix(row.why, "Python "):
			t.Errorf("line %d, %s: says why parsers disagree, but they do not", row.line, row.what)
		}
	}
}

// pythonParsers reads lines of hexadecimal field values and prints for each a
// list of what two parsers of Python's standard library see: a list of
// addresses, or null when the parser refuses the field.
const pythonParsers = `
import json, re, sys
from email import policy
from email.utils import getaddresses

def simple(v):
    return [a for _, a in getaddresses([v])]

def structured(v):
    return [a.addr_spec for a in policy.default.header_factory('From', v).addresses]

for line in sys.stdin:
    v = bytes.fromhex(line).decode('utf-8', 'surrogateescape')
    v = re.sub(r'\r?\n(?=[ \t])', '', v)
    seen = []
    for parse in simple, structured:
        try:
            addresses = parse(v)
        except Exception:
            addresses = None
        seen.append(addresses)
    print(json.dumps(seen))
`

// The parsers of Python's standard library are not related to those of Go,
// which are one parser in two coats.
func TestFromRowsAgainstPython(t *testing.T) {
	python, err := exec.LookPath("python3")
	if err != nil {
		if os.Getenv("WAXSEAL_E2E") == "required" {
			t.Fatalf("python3 is required: %v", err)
		}
		t.Skipf("needs python3: %v", err)
	}
	var rows []fromRow
	var in bytes.Buffer
	for _, row := range readFromRows(t) {
		if row.domain != "" {
			rows = append(rows, row)
			in.WriteString(hexOf(row.fields[0]) + "\n")
		}
	}
	cmd := exec.Command(python, "-c", pythonParsers)
	cmd.Stdin = &in
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("python3: %v", err)
	}
	answers := json.NewDecoder(bytes.NewReader(out))
	for _, row := range rows {
		var seen [2][]string
		if err := answers.Decode(&seen); err != nil {
			t.Fatalf("line %d, %s: answer of python3: %v", row.line, row.what, err)
		}
		for i, parser := range []string{"email.utils", "email.headerregistry"} {
			if got := sole(seen[i]); got != row.domain && row.why == "" {
				t.Errorf("line %d, %s: %q is %s for us, but Python's %s sees %q: say none, or why not",
					row.line, row.what, row.fields, row.domain, parser, seen[i])
			}
		}
	}
}

func hexOf(s string) string {
	const digits = "0123456789abcdef"
	b := make([]byte, 0, 2*len(s))
	for i := range len(s) {
		b = append(b, digits[s[i]>>4], digits[s[i]&15])
	}
	return string(b)
}

// FuzzAuthorDomain: no field makes the parser panic, and when it names a
// domain, then net/mail and go-message name the same or refuse the field.
func FuzzAuthorDomain(f *testing.F) {
	for _, row := range readFromRows(f) {
		for _, field := range row.fields {
			f.Add(field)
		}
	}
	f.Fuzz(func(t *testing.T, field string) {
		got, err := AuthorDomain([]string{field})
		if err != nil {
			var bad *AuthorError
			if got != "" || !errors.As(err, &bad) || bad.Code == "" || bad.Reason == "" {
				t.Fatalf("AuthorDomain(%q) = %q, %#v", field, got, err)
			}
			return
		}
		if again, err := Domain(got); err != nil || again != got {
			t.Errorf("AuthorDomain(%q) = %q, which Domain makes %q, %v", field, got, again, err)
		}
		if other := netMail(field); other != "" && other != got {
			t.Errorf("AuthorDomain(%q) = %q, net/mail sees %q", field, got, other)
		}
		if other := goMessage(field); other != "" && other != got {
			t.Errorf("AuthorDomain(%q) = %q, go-message sees %q", field, got, other)
		}
	})
}

func BenchmarkAuthorDomain(b *testing.B) {
	for _, c := range []struct{ name, field string }{
		{"plain", ` "Alice Example" <alice@example.org>`},
		{"U-label", " alice@bücher.example"},
	} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			fields := []string{c.field}
			for b.Loop() {
				if _, err := AuthorDomain(fields); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	b.Run("net-mail", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := mail.ParseAddressList(` "Alice Example" <alice@example.org>`); err != nil {
				b.Fatal(err)
			}
		}
	})
}
