package signer

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"strings"
	"testing"
	"time"
)

// record is a hash that keeps what is hashed.
type record struct {
	bytes.Buffer
}

func (r *record) Sum(b []byte) []byte {
	sum := sha256.Sum256(r.Bytes())
	return append(b, sum[:]...)
}
func (r *record) Size() int      { return sha256.Size }
func (r *record) BlockSize() int { return sha256.BlockSize }

// canonicalBody is the form of a body that our canonicalizer hashes, and
// whether it saw a stray line end.
func canonicalBody(c Canonicalization, chunks ...[]byte) (string, bool) {
	r := new(record)
	b := body{hash: r}
	b.reset(c)
	for _, chunk := range chunks {
		b.write(chunk)
	}
	stray := b.strayLineEnds()
	b.close()
	return r.String(), stray
}

func canonicalField(c Canonicalization, name, value string) string {
	if c == Simple {
		return string(appendSimple(nil, name, value))
	}
	return string(appendRelaxed(nil, name, value))
}

func TestCanonicalBody(t *testing.T) {
	for _, tt := range []struct{ name, body, relaxed, simple string }{
		{"example of RFC 6376, section 3.4.5", " C \r\nD \t E\r\n\r\n\r\n", " C\r\nD E\r\n", " C \r\nD \t E\r\n"},
		{"empty body", "", "", "\r\n"},
		{"one blank line", "\r\n", "", "\r\n"},
		{"only blank lines", "\r\n\r\n\r\n", "", "\r\n"},
		{"only blanks", " \t ", "", " \t \r\n"},
		{"only lines of blanks", " \r\n\t\r\n", "", " \r\n\t\r\n"},
		{"missing line end", "a", "a\r\n", "a\r\n"},
		{"missing line end after blanks", "a \t", "a\r\n", "a \t\r\n"},
		{"leading blank lines stay", "\r\n\r\na\r\n", "\r\n\r\na\r\n", "\r\n\r\na\r\n"},
		{"blank lines inside stay", "a\r\n\r\n \r\nb\r\n", "a\r\n\r\n\r\nb\r\n", "a\r\n\r\n \r\nb\r\n"},
		{"leading blanks become one", "\t  a\r\n", " a\r\n", "\t  a\r\n"},
		{"dots are text", ".\r\n..\r\n", ".\r\n..\r\n", ".\r\n..\r\n"},
		{"NBSP, VT, FF and NUL are no blanks", "a\u00a0 \x0b \x0c\x00\r\n\x0b\r\n", "a\u00a0 \x0b \x0c\x00\r\n\x0b\r\n", "a\u00a0 \x0b \x0c\x00\r\n\x0b\r\n"},
		{"CR alone is text", "a \r b\r\n\r", "a \r b\r\n\r\r\n", "a \r b\r\n\r\r\n"},
		{"LF alone is text", "a \n b\r\n\n", "a \n b\r\n\n\r\n", "a \n b\r\n\n\r\n"},
		{"CR before CRLF is text", "a\r\r\n\r\r\n", "a\r\r\n\r\r\n", "a\r\r\n\r\r\n"},
		{"LF CR is no line end", "a\n\r", "a\n\r\r\n", "a\n\r\r\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for c, want := range map[Canonicalization]string{Relaxed: tt.relaxed, Simple: tt.simple} {
				if got, _ := canonicalBody(c, []byte(tt.body)); got != want {
					t.Errorf("%v form of %q is %q, want %q", c, tt.body, got, want)
				}
				if got := naiveBody(c, tt.body); got != want {
					t.Errorf("naive %v form of %q is %q, want %q", c, tt.body, got, want)
				}
			}
		})
	}
}

func TestCanonicalField(t *testing.T) {
	for _, tt := range []struct{ what, name, value, relaxed, simple string }{
		{"first example of RFC 6376, section 3.4.5", "A", " X", "a:X\r\n", "A: X\r\n"},
		{"second example", "B ", " Y\t\r\n\tZ  ", "b:Y Z\r\n", "B : Y\t\r\n\tZ  \r\n"},
		{"LF folds", "Subject", " a\n\tb\n c", "subject:a b c\r\n", "Subject: a\r\n\tb\r\n c\r\n"},
		{"empty value", "Subject", "", "subject:\r\n", "Subject:\r\n"},
		{"value of a blank", "Subject", " ", "subject:\r\n", "Subject: \r\n"},
		{"value of folds", "Subject", "\n \r\n\t", "subject:\r\n", "Subject:\r\n \r\n\t\r\n"},
		{"value on the next line", "To", "\n bob", "to:bob\r\n", "To:\r\n bob\r\n"},
		{"no blank", "To", "bob", "to:bob\r\n", "To:bob\r\n"},
		{"many blanks", "To", " \t  bob  \t carl \t", "to:bob carl\r\n", "To: \t  bob  \t carl \t\r\n"},
		{"only ASCII case changes", "\u00c4-Ab", " CD", "\u00c4-ab:CD\r\n", "\u00c4-Ab: CD\r\n"},
		{"VT, FF, NBSP and NUL are no blanks", "S", " a\x0b\x0c  b\u00a0\x00 ", "s:a\x0b\x0c b\u00a0\x00\r\n", "S: a\x0b\x0c  b\u00a0\x00 \r\n"},
		{"CR alone is text", "S", " a\r b \r", "s:a\r b \r\r\n", "S: a\r b \r\r\n"},
		{"long value", "S", " " + strings.Repeat("word  ", 20) + "\n\tend", "s:" + strings.Repeat("word ", 20) + "end\r\n", "S: " + strings.Repeat("word  ", 20) + "\r\n\tend\r\n"},
	} {
		t.Run(tt.what, func(t *testing.T) {
			for c, want := range map[Canonicalization]string{Relaxed: tt.relaxed, Simple: tt.simple} {
				if got := canonicalField(c, tt.name, tt.value); got != want {
					t.Errorf("%v form of %q:%q is %q, want %q", c, tt.name, tt.value, got, want)
				}
				if got := naiveField(c, tt.name, tt.value); got != want {
					t.Errorf("naive %v form of %q:%q is %q, want %q", c, tt.name, tt.value, got, want)
				}
			}
		})
	}
}

// TestEmptyBodyHash has the hashes of nothing and of CRLF (RFC 6376, sections
// 3.4.3 and 3.4.4).
func TestEmptyBodyHash(t *testing.T) {
	for _, body := range []string{"", "\r\n", "\r\n\r\n"} {
		for c, want := range map[Canonicalization]string{
			Relaxed: "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=",
			Simple:  "frcCV1k9oG9oKj3dpUqdJg1PxRT2RSN/XKdLCPjaYaY=",
		} {
			m := simpleMessage()
			m.body = []byte(body)
			sig := m.sign(t, Options{Body: c}, testKeys(t)[:1])[0]
			if got := mustTags(t, sig.Value)["bh"]; got != want {
				t.Errorf("body %q, %v: bh=%s, want %s", body, c, got, want)
			}
		}
	}
}

// nasty has every kind of boundary within a few bytes of the others.
const nasty = "\r\n \t\r\n. a\t b  \r\n\r\n\t\r\nc \xa0\x8a\x8d\r\n\r\r\n \r\n\nd \n\r e\x00\x0c \r\r\n" +
	"0123456789abcdef0123456789abcdef 0123456789\tabcdef  0123456789abcdef \r\n" +
	"\u00e4 \u00f6 \t\u00fc\r\n\r\n \r\n\t\t\r\n\r"

// TestChunks splits a body at every place and every pair of places.
func TestChunks(t *testing.T) {
	for _, c := range []Canonicalization{Relaxed, Simple} {
		want := naiveBody(c, nasty)
		p := []byte(nasty)
		for i := 0; i <= len(p); i++ {
			for j := i; j <= len(p); j++ {
				got, stray := canonicalBody(c, p[:i], p[i:j], p[j:])
				if got != want {
					t.Fatalf("%v, split at %d and %d:\n got %q\nwant %q", c, i, j, got, want)
				}
				if !stray {
					t.Fatalf("%v, split at %d and %d: stray line ends not seen", c, i, j)
				}
			}
		}
		single := make([][]byte, len(p))
		for i := range p {
			single[i] = p[i : i+1]
		}
		if got, _ := canonicalBody(c, single...); got != want {
			t.Errorf("%v, byte by byte:\n got %q\nwant %q", c, got, want)
		}
	}
}

// TestStrayLineEnds puts one CR or LF at every place of a clean body, among
// ASCII and among other octets, in every split.
func TestStrayLineEnds(t *testing.T) {
	clean := "line one\r\n\r\n  line  two, which is longer than sixteen\t\r\n\u00fcmlaut \u00e9\u00e0 \x8a\x8d\r\n" +
		"bGluZXRocmVld2hpY2hoYXNub2JsYW5rc2F0YWxs\r\n \r\n"
	for _, c := range []Canonicalization{Relaxed, Simple} {
		for i := 0; i <= len(clean); i++ {
			if _, stray := canonicalBody(c, []byte(clean[:i]), []byte(clean[i:])); stray {
				t.Fatalf("%v: stray line end in a clean body split at %d", c, i)
			}
			for _, insert := range []string{"", "\r", "\n", "\n\r"} {
				text := clean[:i] + insert + clean[i:]
				want := naiveStray(text)
				for _, split := range []int{0, max(i-1, 0), i, min(i+1, len(text))} {
					if _, got := canonicalBody(c, []byte(text[:split]), []byte(text[split:])); got != want {
						t.Fatalf("%v: %q inserted at %d, split at %d: stray %v, want %v", c, insert, i, split, got, want)
					}
				}
				// No blanks, so that another path is taken.
				text = strings.NewReplacer(" ", "", "\t", "").Replace(text)
				if _, got := canonicalBody(c, []byte(text)); got != naiveStray(text) {
					t.Fatalf("%v: stray line end of %q: %v", c, text, got)
				}
			}
		}
	}
}

// TestStrayAcrossHighOctets has line ends beside octets that carry into the
// neighbour's lane, at every alignment.
func TestStrayAcrossHighOctets(t *testing.T) {
	for _, around := range []string{"\xff", "\xc3", "\x8d", "\x8a", "\xa0", "\x89", "\x80"} {
		for n := range 40 {
			for _, end := range []string{"\r", "\n", "\r\n", " \r\n", "\t"} {
				for _, text := range []string{
					strings.Repeat("a", n) + end + strings.Repeat(around, 40),
					strings.Repeat(around, n) + end + strings.Repeat("a", 40),
					strings.Repeat(" a", n) + end + around + strings.Repeat("a ", 40) + "a",
				} {
					for _, c := range []Canonicalization{Relaxed, Simple} {
						got, stray := canonicalBody(c, []byte(text))
						if want := naiveBody(c, text); got != want {
							t.Fatalf("%v form of %q is %q, want %q", c, text, got, want)
						}
						if want := naiveStray(text); stray != want {
							t.Fatalf("%v: stray line end of %q: %v, want %v", c, text, stray, want)
						}
					}
				}
			}
		}
	}
}

// TestFloods has bodies that only hold back bytes. They take linear time and
// no memory, whatever the chunks.
func TestFloods(t *testing.T) {
	const size = 512 << 10
	x := []byte("x")
	for _, flood := range []string{"\r\n", " ", "\t \r\n", "\r", "\n", "a \t"} {
		chunk := bytes.Repeat([]byte(flood), 4096/len(flood))
		for _, c := range []Canonicalization{Relaxed, Simple} {
			b := body{hash: newHash()}
			b.reset(c)
			start := time.Now()
			allocs := testing.AllocsPerRun(1, func() {
				for n := 0; n < size; n += len(chunk) {
					b.write(chunk)
				}
				b.write(x)
			})
			if allocs > 0 {
				t.Errorf("%v body of %q: %v allocations", c, flood, allocs)
			}
			if d := time.Since(start); d > 5*time.Second {
				t.Errorf("%v body of %q: 2×512 KiB took %v", c, flood, d)
			}
		}
	}
	// And they are hashed right when text follows.
	r := sha256.New()
	r.Write(bytes.Repeat([]byte("\r\n"), 100000))
	r.Write([]byte("x\r\n"))
	b := body{hash: newHash()}
	b.reset(Simple)
	for range 100000 {
		b.write([]byte("\r\n"))
	}
	b.write([]byte("x"))
	b.close()
	if want := base64.StdEncoding.EncodeToString(r.Sum(nil)); b.base64 != want {
		t.Errorf("hash after 100000 blank lines is %s, want %s", b.base64, want)
	}
}

func TestParseCanonicalization(t *testing.T) {
	for s, want := range map[string][2]Canonicalization{
		"relaxed/relaxed": {Relaxed, Relaxed},
		"relaxed/simple":  {Relaxed, Simple},
		"simple/relaxed":  {Simple, Relaxed},
		"simple/simple":   {Simple, Simple},
		"relaxed":         {Relaxed, Simple},
		"simple":          {Simple, Simple},
	} {
		h, b, err := ParseCanonicalization(s)
		if h != want[0] || b != want[1] || err != nil {
			t.Errorf("ParseCanonicalization(%q) = %v, %v, %v", s, h, b, err)
		}
	}
	if got := Canonicalization(7).String(); got != "Canonicalization(7)" {
		t.Errorf("String of an unknown value is %q", got)
	}
	for _, s := range []string{"", "/", "relaxed/", "/relaxed", "nofws", "relaxed/relaxed/relaxed", "Relaxed", " relaxed"} {
		if h, b, err := ParseCanonicalization(s); err == nil {
			t.Errorf("ParseCanonicalization(%q) = %v, %v, want an error", s, h, b)
		}
	}
}
