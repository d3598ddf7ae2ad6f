package signer

import (
	"strings"
	"testing"
)

func FuzzBody(f *testing.F) {
	f.Add(nasty, 3, 17)
	f.Add("", 0, 0)
	f.Add(" \t\r\n\r\n", 1, 4)
	f.Add("two  blanks\tand a tab \r\n\r\n\r\nthe end", 5, 20)
	f.Add("\r\r\n\n\r \r \n", 2, 3)
	f.Add(strings.Repeat("no blank", 20)+"\r\n\xff\xfe\n", 40, 161)
	f.Add(strings.Repeat("word word  ", 300)+"\r\n", 1000, 1001)
	f.Fuzz(func(t *testing.T, text string, i, j int) {
		i, j = min(max(i, 0), len(text)), min(max(j, 0), len(text))
		i, j = min(i, j), max(i, j)
		for _, c := range []Canonicalization{Relaxed, Simple} {
			got, stray := canonicalBody(c, []byte(text[:i]), []byte(text[i:j]), []byte(text[j:]))
			if want := naiveBody(c, text); got != want {
				t.Errorf("%v form of %q in chunks at %d and %d:\n got %q\nwant %q", c, text, i, j, got, want)
			}
			if want := naiveStray(text); stray != want {
				t.Errorf("stray line end of %q in chunks at %d and %d: %v, want %v", text, i, j, stray, want)
			}
			// A canonical body does not change again.
			if again, _ := canonicalBody(c, []byte(got)); again != got {
				t.Errorf("%v form of %q is %q and of that %q", c, text, got, again)
			}
		}
	})
}

func FuzzHeader(f *testing.F) {
	f.Add("Subject", " a  b\tc \n\td")
	f.Add("B ", " Y\t\r\n\tZ  ")
	f.Add("", "")
	f.Add("X-\xc4", "\r\r\n\n\r \x00\x0b\xa0 ")
	f.Add("Cc", "\n \n \r\n\t")
	f.Add("References", strings.Repeat(" <0123456789@example.org>\n", 10))
	f.Fuzz(func(t *testing.T, name, value string) {
		for _, c := range []Canonicalization{Relaxed, Simple} {
			if got, want := canonicalField(c, name, value), naiveField(c, name, value); got != want {
				t.Errorf("%v form of %q:%q\n got %q\nwant %q", c, name, value, got, want)
			}
		}
		// A fold is an LF or CRLF with a blank after it.
		folds := strings.NewReplacer("\r\n ", "", "\r\n\t", "", "\n ", "", "\n\t", "")
		if got, want := strayInField(value), strings.ContainsAny(folds.Replace(value), "\r\n"); got != want {
			t.Errorf("stray line end of field value %q: %v, want %v", value, got, want)
		}
	})
}

// FuzzMessage signs whole messages in random ways and has the naive
// implementation verify them.
func FuzzMessage(f *testing.F) {
	f.Add("From: ann@example.org\nSubject: a  b\n\tc\nSubject: d\nX: y", nasty, "example.org", "s", "", uint8(0))
	f.Add("From : ann@example.org\nTo:\nCC:\tx\ncc: y\nDate:  now ", "a \r\n\r\n", "a.b.c.example.org", "2026a.sub", "ann;=\u00e4@x.a.b.c.example.org", uint8(1))
	f.Add("Cc: x\nFrom:\n ann\nBcc: y\nReceived: z", "", strings.Repeat("a.", 100)+"org", strings.Repeat("s", 63), "@A.org", uint8(7))
	keys := testKeys(f)
	f.Fuzz(func(t *testing.T, header, text, domain, selector, identity string, flags uint8) {
		m := testMessage{body: []byte(text)}
		for line := range strings.SplitSeq(header, "\n") {
			if line != "" && (line[0] == ' ' || line[0] == '\t') && len(m.fields) > 0 {
				m.fields[len(m.fields)-1].Value += "\n" + line
			} else if name, value, ok := strings.Cut(line, ":"); ok && len(m.fields) < 200 {
				m.fields = append(m.fields, Field{name, value})
			}
		}
		o := Options{Header: Canonicalization(flags & 1), Body: Canonicalization(flags >> 1 & 1), Profile: Profile(flags >> 2 & 1)}
		for i := range keys {
			keys[i].Domain, keys[i].Selector, keys[i].Identity = domain, selector, identity
		}
		s := New(o)
		m.feed(t, s)
		fields, err := s.Sign(testTime, keys)
		if err != nil {
			if fields != nil {
				t.Errorf("Sign returned fields and error %v", err)
			}
			return
		}
		for i, field := range fields {
			checkForm(t, field, keys[1-i])
			if err := naiveVerify(field.Value, m, keys[1-i].Signer.Public()); err != nil {
				t.Errorf("signature %d: %v\n%s", i, err, field.Value)
			}
		}
	})
}
