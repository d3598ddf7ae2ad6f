package signer

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// risksOf returns the risks of a message that was given in pieces of a size.
func risksOf(o Options, fields []Field, text string, piece int) []Risk {
	s := New(o)
	for _, f := range fields {
		s.AddField(f.Name, f.Value)
	}
	for rest := []byte(text); len(rest) > 0; {
		n := min(piece, len(rest))
		s.Write(rest[:n])
		rest = rest[n:]
	}
	var names []Risk
	for _, f := range s.Risks() {
		names = append(names, f.Risk)
	}
	return names
}

func TestRisks(t *testing.T) {
	complete := []Field{{"From", " ann@example.org"}, {"Date", " x"}, {"Message-ID", " <1@example.org>"}}
	with := func(pairs ...string) []Field {
		fields := slices.Clone(complete)
		for i := 0; i < len(pairs); i += 2 {
			fields = append(fields, Field{pairs[i], pairs[i+1]})
		}
		return fields
	}
	line := func(n int) string { return strings.Repeat("x", n) + "\r\n" }
	part := "--b\r\nContent-Type: text/plain\r\ncontent-transfer-encoding:  8Bit\r\n\r\nhello\r\n--b--\r\n"
	for _, tt := range []struct {
		name              string
		fields            []Field
		text              string
		postfix, sendmail []Risk
	}{
		{"nothing", complete, "hello\r\n", nil, nil},
		{"line of 990", complete, line(5) + line(990) + line(990) + line(5), nil, nil},
		{"line of 991", complete, line(5) + line(991) + line(5), nil, []Risk{LongBodyLine}},
		{"line of 998", complete, line(998), nil, []Risk{LongBodyLine}},
		{"line of 999", complete, line(5) + line(999), []Risk{LongBodyLine}, []Risk{LongBodyLine}},
		{"last line of 999 without its end", complete, line(5) + strings.Repeat("x", 999), []Risk{LongBodyLine}, []Risk{LongBodyLine}},
		{"last line of 998 without its end", complete, line(5) + strings.Repeat("x", 998), nil, []Risk{LongBodyLine}},
		{"line of 100000", complete, line(100000), []Risk{LongBodyLine}, []Risk{LongBodyLine}},
		{"header line of 998", with("Subject", strings.Repeat("x", 990)), "", nil, []Risk{LongHeaderLine}},
		{"header line of 990", with("Subject", strings.Repeat("x", 982)), "", nil, nil},
		{"header line of 999", with("Subject", strings.Repeat("x", 991)), "", []Risk{LongHeaderLine}, []Risk{LongHeaderLine}},
		{"long header of short lines", with("References", strings.Repeat(" <x@example.org>\n", 200)+" y"), "", nil, nil},
		{"long line in the middle of a header", with("References", " a\r\n "+strings.Repeat("x", 1000)+"\r\n b"), "", []Risk{LongHeaderLine}, []Risk{LongHeaderLine}},
		{"long line of a field that is not signed", with("X-Foo", strings.Repeat("x", 2000)), "", nil, nil},
		{"long line of addresses, which Sendmail folds", with("To", strings.Repeat(" a@example.org,", 100)+" b@example.org"), "", []Risk{LongHeaderLine}, nil},
		{"8bit declared", with("Content-Transfer-Encoding", " 8bit"), "hello\r\n", []Risk{EightBit}, nil},
		{"binary declared", with("Content-Transfer-Encoding", " BINARY"), "hello\r\n", []Risk{EightBit}, nil},
		{"8-bit octets", complete, "hall\xc3\xb6chen, das ist ein Satz.\r\n", nil, []Risk{EightBit}},
		{"8-bit octets without a blank", complete, "hall\xf6chen\r\n", nil, []Risk{EightBit}},
		{"one 8-bit octet at the end", complete, strings.Repeat("all is ascii so far\r\n", 50) + "\xff\r\n", nil, []Risk{EightBit}},
		{"8bit declared in a part", with("Content-Type", " Multipart/mixed; boundary=b"), part, []Risk{EightBit}, nil},
		{"8bit declared behind a comment", with("Content-Transfer-Encoding", " (a (b) \\) c)\r\n 8bit"), "hello\r\n", []Risk{EightBit}, nil},
		{"8bit as the second word", with("Content-Transfer-Encoding", " 7bit 8bit"), "hello\r\n", nil, nil},
		{"8bit declared in a part behind comments", with("Content-Type", " multipart/mixed; boundary=b"), strings.Replace(part, " 8Bit", " ("+strings.Repeat("(:", 50)+strings.Repeat(")", 51)+"\r\n 8bit", 1), []Risk{EightBit}, nil},
		{"8bit declared in a part behind many blanks", with("Content-Type", " multipart/mixed; boundary=b"), strings.Replace(part, " 8Bit", strings.Repeat(" ", 300)+"8Bit", 1), []Risk{EightBit}, nil},
		{"8bit in the text of a part without encoding", with("Content-Type", " multipart/mixed; boundary=b"), strings.Replace(part, " 8Bit", "\r\n\r\n8bit", 1), nil, nil},
		{"8bit behind another field of a part", with("Content-Type", " multipart/mixed; boundary=b"), strings.Replace(part, "content", "X-Content", 1), nil, nil},
		{"multipart behind a comment", with("Content-Type", " (c) multipart/mixed; boundary=b"), part, []Risk{EightBit}, nil},
		{"multipart with blanks", with("Content-Type", " multipart\r\n / mixed; boundary=b"), part, []Risk{EightBit}, nil},
		{"multipart in the first of two types", with("Content-Type", " multipart/mixed; boundary=b", "Content-Type", " text/plain"), part, []Risk{EightBit, DuplicateField}, []Risk{DuplicateField}},
		{"multipart without its last delimiter", with("Content-Type", " multipart/mixed; boundary=b"), "--b\r\n\r\nhello\r\n", nil, []Risk{RewrittenMultipart}},
		{"the same in text", with("Content-Type", " text/plain"), part, nil, nil},
		{"no Date", []Field{complete[0], complete[2]}, "", []Risk{MissingDate}, []Risk{MissingDate}},
		{"no Message-ID", complete[:2], "", []Risk{MissingMessageID}, []Risk{MissingMessageID}},
		{"bare LF", complete, "a\nb\r\n", []Risk{BareCRLF}, []Risk{BareCRLF}},
		{"bare CR at the end", complete, "a\r\nb\r", []Risk{BareCRLF}, []Risk{BareCRLF}},
		{"NUL", complete, "a\x00b\r\n", []Risk{NUL}, []Risk{NUL}},
		{"two Subject fields", with("Subject", " a", "SUBJECT", " b"), "", []Risk{DuplicateField}, []Risk{DuplicateField}},
		{"two Bcc fields, which are never signed", with("Bcc", " a", "Bcc", " b"), "", []Risk{DuplicateField}, []Risk{DuplicateField}},
		{"two Received fields", with("Received", " a", "Received", " b"), "", nil, nil},
		{"addresses without a blank between", with("Cc", " a@x.org,b@x.org"), "", nil, []Risk{RewrittenField}},
	} {
		for _, piece := range []int{1, 7, 64, 1000, 1 << 20} {
			for _, c := range []Canonicalization{Relaxed, Simple} {
				if got := risksOf(Options{Profile: Postfix, Body: c}, tt.fields, tt.text, piece); !slices.Equal(got, tt.postfix) {
					t.Errorf("%s, Postfix, body %v in pieces of %d: %v, want %v", tt.name, c, piece, got, tt.postfix)
				}
				if got := risksOf(Options{Body: c}, tt.fields, tt.text, piece); !slices.Equal(got, tt.sendmail) {
					t.Errorf("%s, Sendmail, body %v in pieces of %d: %v, want %v", tt.name, c, piece, got, tt.sendmail)
				}
			}
		}
	}
}

// TestRisksOfCustomLists: a field is watched even if it is on no list.
func TestRisksOfCustomLists(t *testing.T) {
	f, err := NewFields([]string{"To"}, []string{})
	if err != nil {
		t.Fatal(err)
	}
	got := risksOf(Options{Fields: f}, []Field{{"From", " a@x.org"}, {"Subject", " a"}, {"Subject", " b"}, {"Date", " x"}}, "", 1)
	if want := []Risk{MissingMessageID, DuplicateField}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

// TestRisksAreForgotten by Reset.
func TestRisksAreForgotten(t *testing.T) {
	s := New(Options{})
	s.AddField("From", " alice")
	s.AddField("Content-Transfer-Encoding", " 8bit")
	s.AddField("Subject", strings.Repeat("x", 2000))
	s.Write([]byte("\x00\xff\n" + strings.Repeat("x", 2000)))
	if len(s.Risks()) < 6 {
		t.Errorf("%v", s.Risks())
	}
	s.Reset(Options{Profile: Postfix})
	s.AddField("Date", " x")
	s.AddField("Message-ID", " x")
	if got := s.Risks(); got != nil {
		t.Errorf("after Reset: %v", got)
	}
}

// TestLongLinesAreFound wherever they are, and however the body comes: the
// measure, which skips most of it, agrees with a simple one.
func TestLongLinesAreFound(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	for range 2000 {
		const limit = 20
		var text []byte
		for range 1 + r.IntN(6) {
			text = append(append(text, strings.Repeat("x", r.IntN(limit+2))...), "\r\n"...)
		}
		if r.IntN(2) == 0 {
			text = text[:len(text)-2]
		}
		want := slices.ContainsFunc(bytes.Split(text, []byte("\r\n")), func(line []byte) bool { return len(line) > limit })
		var b body
		for rest := text; len(rest) > 0; {
			n := 1 + r.IntN(len(rest))
			b.measure(rest[:n], limit)
			rest = rest[n:]
		}
		if got := b.long || b.column > limit; got != want {
			t.Fatalf("%q: long: %v, want %v", text, got, want)
		}
	}
}

// FuzzRisks: how a body is cut into pieces changes nothing.
func FuzzRisks(f *testing.F) {
	f.Add("multipart/mixed", "Content-Transfer-Encoding: 8bit\r\n\r\n\xff", uint8(3))
	f.Add("text/plain", strings.Repeat("x", 1000)+"\r\n\x00", uint8(0))
	f.Fuzz(func(t *testing.T, kind, text string, piece uint8) {
		for _, p := range []Profile{Sendmail, Postfix} {
			fields := []Field{{"Content-Type", " " + kind}}
			whole, cut := risksOf(Options{Profile: p}, fields, text, len(text)+1), risksOf(Options{Profile: p}, fields, text, 1+int(piece))
			if slices.Contains(whole, BareCRLF) != slices.Contains(cut, BareCRLF) || !slices.Contains(whole, BareCRLF) && !slices.Equal(whole, cut) {
				t.Errorf("%v in one piece: %v, in pieces of %d: %v", p, whole, 1+int(piece), cut)
			}
		}
	})
}
