package signer

import (
	"bytes"
	"crypto"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
)

var benchWords = strings.Fields(`the of and to in is you that it he was for on are as with his they be at one have
	this from or had by hot but some what there we can out other were all your when up use word how said an each she
	which do their time if will way about many then them would write like so these her long make thing see him two has
	invoice delivery order newsletter confirmation account password meeting schedule attachment regards`)

// textBody is prose: sentences in lines of up to 72 characters, and paragraphs
// of up to 8 sentences. A few writers put two blanks after a sentence.
func textBody(size int) []byte { return prose(size, "\r\n") }

// flowedBody is the same with a blank at the end of each line, as in
// format=flowed (RFC 3676). Every line has to be changed.
func flowedBody(size int) []byte { return prose(size, " \r\n") }

func prose(size int, lineEnd string) []byte {
	r := rand.New(rand.NewPCG(1, 2))
	var b bytes.Buffer
	column := 0
	word := func(s string) {
		if column+len(s) >= 72 {
			b.WriteString(lineEnd)
			column = 0
		} else if column > 0 {
			b.WriteByte(' ')
			column++
		}
		b.WriteString(s)
		column += len(s)
	}
	for b.Len() < size {
		for range 1 + r.IntN(8) {
			for range 4 + r.IntN(16) {
				word(benchWords[r.IntN(len(benchWords))])
			}
			b.WriteByte('.')
			if column++; r.IntN(8) == 0 && column < 70 {
				b.WriteByte(' ')
				column++
			}
		}
		b.WriteString("\r\n\r\n")
		column = 0
	}
	return b.Bytes()[:size]
}

func base64Body(size int) []byte {
	r := rand.NewChaCha8([32]byte{})
	line := make([]byte, 57)
	var b []byte
	for len(b) < size {
		r.Read(line)
		b = base64.StdEncoding.AppendEncode(b, line)
		b = append(b, "\r\n"...)
	}
	return b[:size]
}

func htmlBody(size int) []byte {
	r := rand.New(rand.NewPCG(3, 4))
	var b bytes.Buffer
	for b.Len() < size {
		fmt.Fprintf(&b, "%s<tr>\r\n", strings.Repeat("  ", 2+r.IntN(6)))
		for range 3 {
			fmt.Fprintf(&b, "%s<td class=\"cell\" style=\"padding:%dpx\">%s</td>\r\n", strings.Repeat("  ", 4+r.IntN(6)), r.IntN(20), benchWords[r.IntN(len(benchWords))])
		}
		b.WriteString("\r\n")
	}
	return b.Bytes()[:size]
}

// utf8Body is prose with an umlaut for every e.
func utf8Body(size int) []byte {
	return bytes.ReplaceAll(textBody(size), []byte("e"), []byte("\u00e4"))[:size]
}

// BenchmarkBody compares the canonicalizers, hash included, with the hash
// alone. Chunks are as large as milters send them.
func BenchmarkBody(b *testing.B) {
	const chunk = 64 << 10
	run := func(name string, text []byte, write func([]byte), done func()) {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(text)))
			b.ReportAllocs()
			for b.Loop() {
				for rest := text; len(rest) > 0; {
					n := min(len(rest), chunk)
					write(rest[:n])
					rest = rest[n:]
				}
				done()
			}
		})
	}
	for _, kind := range []struct {
		name string
		make func(int) []byte
	}{{"text", textBody}, {"flowed", flowedBody}, {"base64", base64Body}, {"html", htmlBody}, {"utf8", utf8Body}} {
		for _, size := range []int{2 << 10, 50 << 10, 1 << 20} {
			if size != 1<<20 && kind.name != "text" {
				continue
			}
			text := kind.make(size)
			name := fmt.Sprintf("%s-%dk", kind.name, size>>10)
			h := sha256.New()
			var sum [sha256.Size]byte
			run(name+"/sha256", text, func(p []byte) { h.Write(p) }, func() { h.Sum(sum[:0]); h.Reset() })
			for _, c := range []Canonicalization{Relaxed, Simple} {
				m := body{hash: newHash()}
				m.reset(c)
				run(name+"/"+c.String(), text, m.write, func() { m.close(); m.reset(c) })
			}
		}
	}
	worst := body{hash: newHash()}
	worst.reset(Relaxed)
	for name, text := range map[string]string{"tabs": "a \t", "blank-lines": "\r\n", "blanks": " "} {
		run("flood-of-"+name+"/relaxed", bytes.Repeat([]byte(text), 1<<20/len(text)), worst.write, func() { worst.close(); worst.reset(Relaxed) })
	}
}

// BenchmarkMultipart reads an attachment as Sendmail does, chunk by chunk.
func BenchmarkMultipart(b *testing.B) {
	const chunk = 64 << 10
	text := []byte("--e\r\nContent-Transfer-Encoding: base64\r\n\r\n" + string(base64Body(1<<20)) + "\r\n--e--\r\n")
	var m multipart
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	for b.Loop() {
		m.reset(false)
		m.begin(" multipart/mixed; boundary=e")
		for rest := text; len(rest) > 0; {
			n := min(len(rest), chunk)
			m.scan(rest[:n])
			rest = rest[n:]
		}
		if why := m.changed(); why != "" {
			b.Fatal(why)
		}
	}
}

func BenchmarkHeader(b *testing.B) {
	fields := benchMessage(0).fields
	for _, c := range []Canonicalization{Relaxed, Simple} {
		b.Run(c.String(), func(b *testing.B) {
			m := New(Options{Header: c})
			b.ReportAllocs()
			for b.Loop() {
				m.Reset(Options{Header: c})
				for _, f := range fields {
					m.AddField(f.Name, f.Value)
				}
			}
		})
	}
}

// benchMessage has 20 fields, 12 of which are signed.
func benchMessage(size int) testMessage {
	return testMessage{
		fields: []Field{
			{"Received", " from client.example.org (client.example.org [192.0.2.1])\n\tby mail.example.org (Postfix) with ESMTPSA id 4ABCDE\n\tfor <bob@example.net>; Fri, 20 Nov 2026 09:30:00 +0100 (CET)"},
			{"Message-ID", " <CAF4ns9k2YzT0g8c1Ql7xX3vRbWkPq5m2n@mail.example.org>"},
			{"Date", " Fri, 20 Nov 2026 09:30:00 +0100"},
			{"From", " Ann Example <ann@example.org>"},
			{"To", " Bob Example <bob@example.net>,\n\tCarl Example <carl@example.net>"},
			{"Cc", " Dora Example <dora@example.com>"},
			{"Subject", " Re: [project] minutes of the meeting on Friday and what is to be\n done until the next"},
			{"In-Reply-To", " <20261119120000.12345@mail.example.net>"},
			{"References", " <20261118110000.11111@mail.example.net>\n <20261119120000.12345@mail.example.net>"},
			{"MIME-Version", " 1.0"},
			{"Content-Type", " text/plain; charset=utf-8; format=flowed"},
			{"Content-Transfer-Encoding", " 8bit"},
			{"Content-Language", " en-GB"},
			{"User-Agent", " Mozilla Thunderbird"},
			{"Organization", " Example Organization"},
			{"X-Priority", " 3 (Normal)"},
			{"X-Mailer", " Some Mailer 1.2.3"},
			{"X-Originating-IP", " [192.0.2.1]"},
			{"Thread-Topic", " minutes of the meeting"},
			{"Thread-Index", " AQHZ0123456789abcdefghijklmnopqrstuvwxyz=="},
		},
		body: textBody(size),
	}
}

// BenchmarkMessage signs a whole message with a key that costs nothing, with
// the standard library's RSA and Ed25519, and with both.
func BenchmarkMessage(b *testing.B) {
	rsaKey, edKey := loadKey(b, "rsa-2048"), loadKey(b, "ed25519")
	noop := &fixed{rsaKey.Public(), make([]byte, 256)}
	for _, size := range []int{2 << 10, 50 << 10, 1 << 20} {
		m := benchMessage(size)
		for _, tt := range []struct {
			name    string
			signers []crypto.Signer
		}{
			{"noop", []crypto.Signer{noop}},
			{"rsa", []crypto.Signer{rsaKey}},
			{"ed25519", []crypto.Signer{edKey}},
			{"both", []crypto.Signer{rsaKey, edKey}},
		} {
			var keys []Key
			for i, s := range tt.signers {
				keys = append(keys, Key{Domain: "example.org", Selector: fmt.Sprint("2026", i), Signer: s})
			}
			b.Run(fmt.Sprintf("%dk/%s", size>>10, tt.name), func(b *testing.B) {
				s := New(Options{})
				b.SetBytes(int64(size))
				b.ReportAllocs()
				for b.Loop() {
					s.Reset(Options{})
					for _, f := range m.fields {
						s.AddField(f.Name, f.Value)
					}
					for rest := m.body; len(rest) > 0; {
						n := min(len(rest), 64<<10)
						s.Write(rest[:n])
						rest = rest[n:]
					}
					if _, err := s.Sign(testTime, keys); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
