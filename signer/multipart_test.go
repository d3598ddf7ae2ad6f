package signer

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// changedBySendmail has the messages of testdata/delivery with a body that
// Sendmail 8.17 writes in another way although it encodes nothing, as the
// end-to-end tests measure, and what is to be said about each.
var changedBySendmail = map[string]string{
	"boundary-extended":                     "a multipart names no boundary",
	"boundary-no-mime-version-unterminated": "a multipart lacks its last delimiter",
	"forwarded-at-top-blanks":               "the header of a part has a line that is no field",
	"inner-mime-unterminated":               "a multipart within another lacks its last delimiter",
	"long-boundary":                         "the boundary of a multipart is too long",
	"multipart-boundary-missing":            "a multipart names no boundary",
	"multipart-blanks-unterminated":         "a multipart lacks its last delimiter",
	"multipart-comment-unterminated":        "a multipart lacks its last delimiter",
	"multipart-inner-unterminated":          "a multipart within another lacks its last delimiter",
	"multipart-part-field-long":             "a field of a part is changed: it has more than",
	"multipart-unterminated":                "a multipart lacks its last delimiter",
	"multipart-wrong-boundary":              "a multipart lacks its last delimiter",
	"part-field-blank-before-colon":         "the header of a part has a line that is no field",
	"part-header-only":                      "the header of a part has a line that is no field",
	"part-line-without-colon":               "the header of a part has a line that is no field",
	"part-mbox-line":                        "the header of a part has a line that is no field",
	"part-no-blank-line":                    "the header of a part has a line that is no field",
	"part-quotes-unbalanced":                "a field of a part is changed: a quotation mark",
}

// risk returns what is said about a risk of the message; empty when it has none.
func (m *Message) risk(r Risk) string {
	for _, f := range m.Risks() {
		if f.Risk == r {
			return f.Why
		}
	}
	return ""
}

func TestMultipartsThatSendmailChanges(t *testing.T) {
	files, err := filepath.Glob("../testdata/delivery/*.eml")
	if err != nil || len(files) < 200 {
		t.Fatalf("%d messages in testdata/delivery, want 200: %v", len(files), err)
	}
	seen := 0
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		name := strings.TrimSuffix(filepath.Base(file), ".eml")
		want, changed := changedBySendmail[name]
		if changed {
			seen++
		}
		head, body, _ := strings.Cut(string(text), "\r\n\r\n")
		for _, piece := range []int{len(body) + 1, 1, 2, 3, 7} {
			for _, profile := range []Profile{Sendmail, Postfix} {
				m := New(Options{Profile: profile})
				for _, f := range strings.Split(strings.ReplaceAll(strings.ReplaceAll(head, "\r\n ", "\n "), "\r\n\t", "\n\t"), "\r\n") {
					name, value, _ := strings.Cut(f, ":")
					m.AddField(name, value)
				}
				for rest := body; rest != ""; {
					n := min(piece, len(rest))
					_, _ = m.Write([]byte(rest[:n]))
					rest = rest[n:]
				}
				got := m.risk(RewrittenMultipart)
				if profile == Postfix && got != "" {
					t.Errorf("%s behind Postfix: %q", name, got)
				}
				if profile == Sendmail && (changed != (got != "") || !strings.Contains(got, want)) {
					t.Errorf("%s in pieces of %d: got %q, want %q", name, piece, got, want)
				}
			}
		}
	}
	if seen != len(changedBySendmail) {
		t.Errorf("%d of %d messages are there", seen, len(changedBySendmail))
	}
}

// TestDelimiterWithBlanks: Sendmail writes it without, which a simple body does
// not forgive.
func TestDelimiterWithBlanks(t *testing.T) {
	for _, c := range []struct {
		body Canonicalization
		want string
	}{{Relaxed, ""}, {Simple, "a delimiter has blanks at its end"}} {
		m := New(Options{Profile: Sendmail, Body: c.body})
		m.AddField("Content-Type", " multipart/mixed; boundary=e")
		_, _ = m.Write([]byte("--e \r\n\r\nx\r\n--e--\r\n"))
		if got := m.risk(RewrittenMultipart); !strings.HasPrefix(got, c.want) || got != "" && c.want == "" {
			t.Errorf("body %v: got %q, want %q", c.body, got, c.want)
		}
	}
}

// TestBoundary has the values that Sendmail reads in another way than others do.
func TestBoundary(t *testing.T) {
	for _, c := range []struct{ kind, want string }{
		{` multipart/mixed; boundary=e`, "e"},
		{` multipart/mixed; boundary="a b"`, "a b"},
		{` multipart/mixed; charset="x;boundary=no"; BOUNDARY = "e"`, "e"},
		{` multipart/mixed; boundary="a\b"`, "ab"},
		{` multipart/mixed; boundary=a=b`, "a"},
		{` multipart/mixed; boundary==`, "="},
		{` multipart/mixed; boundary=e; boundary=f`, "e"},
		{` multipart/mixed; boundary*0=e`, ""},
		{` multipart/mixed; (boundary=no) boundary (c) = (d) e`, "e"},
		{` multipart/mixed; boundary="(e)"`, "(e)"},
		{` multipart/mixed; boundary`, ""},
		{` multipart/mixed; boundary=`, ""},
		{` multipart/mixed`, ""},
	} {
		if got := boundaryOf(withoutComments(c.kind)); got != c.want {
			t.Errorf("boundaryOf(%q) = %q, want %q", c.kind, got, c.want)
		}
	}
}

// FuzzMultipart has a body read at once and in two pieces, with the same result.
func FuzzMultipart(f *testing.F) {
	f.Add(" multipart/mixed; boundary=e", "--e\r\nContent-Type: multipart/digest; boundary=\"i\"\r\n\r\n--i\r\n\r\nFrom: a\r\n\r\nx\r\n--i--\r\n--e--\r\n", 9)
	f.Add(" message/rfc822", "From: a\r\nContent-Type: multipart/mixed;\r\n boundary=e\r\n\r\n--e\r\n--e--", 30)
	f.Fuzz(func(t *testing.T, kind, body string, at int) {
		var one, two multipart
		one.begin(kind)
		two.begin(kind)
		one.scan([]byte(body))
		if at < 0 || at > len(body) {
			at = 0
		}
		two.scan([]byte(body[:at]))
		two.scan([]byte(body[at:]))
		if one.changed() != two.changed() {
			t.Errorf("%q %q: at once %q, in two pieces at %d %q", kind, body, one.changed(), at, two.changed())
		}
		if len(one.open) > maxNesting+1 || cap(one.line) > 2*keptLine || cap(one.field) > 4*keptField {
			t.Errorf("%d boundaries, %d and %d bytes are kept", len(one.open), cap(one.line), cap(one.field))
		}
	})
}
