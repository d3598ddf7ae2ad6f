//go:build linux

package main

import (
	"bytes"
	"math/rand/v2"
	"strconv"
	"strings"
)

const (
	signatureName = "DKIM-Signature"

	domain    = "example.com"
	sender    = "alice@" + domain
	recipient = "bob@example.net"
)

// signedFields are what every milter is told to sign, with From once more than
// it is there. The messages have each of them once and no other field that any
// of the milters would sign, so that all of them come to the same h=.
var signedFields = []string{
	"From", "Reply-To", "To", "Cc", "Subject", "Date", "Message-ID", "In-Reply-To", "References",
	"MIME-Version", "Content-Type", "Content-Transfer-Encoding",
}

// field is a header field. Its value is everything after the colon, with
// folds as "\n\t" and without the last line end.
type field struct{ name, value string }

// numberMark stands in a field for the number of the message, so that no two
// messages are the same.
const numberMark = "#"

func (f field) numbered(n int) field {
	return field{f.name, strings.Replace(f.value, numberMark, strconv.Itoa(n), 1)}
}

// message is what is sent over and over, as one numbered message after the other.
type message struct {
	fields []field
	body   []byte
}

// newMessage makes a message with the header of an ordinary one and a body of
// about the given size. It is the same in each run.
func newMessage(bodyBytes int) *message {
	return &message{
		fields: []field{
			{"Received", " from client.example.org (client.example.org [192.0.2.25])\n\tby mx.example.com (Postfix) with ESMTPSA id 4XyZ5w0c1Kz9s;\n\tSat, 21 Nov 2026 23:00:00 +0000 (UTC)"},
			{"Date", " Sat, 21 Nov 2026 23:00:00 +0000"},
			{"From", " \"Alice Example\" <" + sender + ">"},
			{"To", " Bob Example <" + recipient + ">,\n\tCarol Example <carol@example.net>"},
			{"Cc", " dave@example.net"},
			{"Reply-To", " support@" + domain},
			{"Subject", " Your order number # has been shipped  and is on\n\tits way"},
			{"Message-ID", " <order.#.20261121@" + domain + ">"},
			{"In-Reply-To", " <CA+x1y2z3.0001@mail.example.net>"},
			{"References", " <CA+x1y2z3.0000@mail.example.net>\n\t<CA+x1y2z3.0001@mail.example.net>"},
			{"MIME-Version", " 1.0"},
			{"Content-Type", " multipart/mixed; boundary=\"=_boundary\""},
			{"Content-Transfer-Encoding", " 7bit"},
			{"X-Mailer", " Example Shop 1.0"},
		},
		body: newBody(bodyBytes),
	}
}

// maxText is how much of a body is text: what is beyond is an attachment, as in
// real mail.
const maxText = 32 << 10

var words = strings.Fields(`the of and to in is you that it he was for on are as with his they be at one have this
	from or had by hot but some what there we can out other were all your when up use word how said an each she which do
	their time if will way about many then them would write like so these her long make thing see him two has look more
	invoice delivery order newsletter confirmation account password meeting schedule attachment regards`)

// newBody makes prose in lines of various lengths, with blank lines and now and
// then the double and trailing blanks that relaxed canonicalization is about,
// and then lines of base64.
func newBody(size int) []byte {
	random := rand.New(rand.NewPCG(20, 26))
	chance := func(percent int) bool { return random.IntN(100) < percent }
	var b bytes.Buffer
	b.Grow(size + 256)
	for b.Len() < min(size, maxText) {
		if chance(10) {
			b.WriteString("\r\n")
			continue
		}
		for end := b.Len() + 40 + random.IntN(30); b.Len() < end; {
			b.WriteString(words[random.IntN(len(words))])
			b.WriteByte(' ')
			if chance(4) {
				b.WriteByte(' ')
			}
		}
		if chance(97) { // mostly without a blank at the end
			b.Truncate(len(bytes.TrimRight(b.Bytes(), " ")))
		}
		b.WriteString("\r\n")
	}
	if b.Len() >= size {
		return b.Bytes()
	}
	b.WriteString("--=_boundary\r\nContent-Type: application/octet-stream\r\nContent-Transfer-Encoding: base64\r\n\r\n")
	const digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
	line := []byte(strings.Repeat("A", 76) + "\r\n")
	for b.Len() < size {
		for i := range 76 {
			line[i] = digits[random.IntN(len(digits))]
		}
		b.Write(line)
	}
	b.WriteString("--=_boundary--\r\n")
	return b.Bytes()
}

// wire returns the numbered message as it leaves the mail server, with the added
// fields on top.
func (m *message) wire(n int, added []field) []byte {
	var b bytes.Buffer
	b.Grow(len(m.body) + 8<<10)
	write := func(f field) {
		b.WriteString(f.name + ":" + strings.ReplaceAll(f.value, "\n", "\r\n") + "\r\n")
	}
	for _, f := range added {
		write(f)
	}
	for _, f := range m.fields {
		write(f.numbered(n))
	}
	b.WriteString("\r\n")
	b.Write(m.body)
	return b.Bytes()
}
