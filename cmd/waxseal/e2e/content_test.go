package e2e

import (
	"bytes"

	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// content is a message whose content is the case. Fields that Postfix adds to
// it before the milter sees it are named.
type content struct {
	name       string
	parameters string
	text       string
	added      []string
	unsigned   bool
}

// header is what the cases begin with.
const header = "From: Ann <ann@example.com>\r\nTo: Bob <bob@example.net>\r\nDate: Fri, 20 Nov 2026 09:30:00 +0100\r\nMessage-ID: <content@example.com>\r\n"

func contents() []content {
	line := "The quick brown fox jumps over the lazy dog, again and again and again.\r\n"
	return []content{
		{name: "8-bit body, declared", parameters: " BODY=8BITMIME",
			text: header + "MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\nGrüße aus Köln – 你好\r\n"},
		{name: "8-bit body, not declared", text: header + "\r\nGr\xfc\xdfe, every octet: \x80\xa0\xff\x01\x7f\r\n"},
		{name: "UTF-8 in header fields and addresses", parameters: " BODY=8BITMIME SMTPUTF8",
			text: "From: Jörg <jörg@example.com>\r\nTo: Bøb <bøb@example.net>\r\nSubject: Grüße\r\n" +
				"Date: Fri, 20 Nov 2026 09:30:00 +0100\r\nMessage-ID: <utf8@example.com>\r\n\r\nHello.\r\n"},
		{name: "raw Latin-1 in header fields", text: header + "Subject: Gr\xfc\xdfe\r\n\r\nHello.\r\n"},
		{name: "lines that begin with dots", text: header + "\r\n.\r\n..\r\n.hidden\r\n...\r\nend\r\n"},
		{name: "a dot as the last line", text: header + "\r\nend\r\n.\r\n"},
		{name: "body line of 998 octets", text: header + "\r\n" + strings.Repeat("x", 998) + "\r\nshort\r\n"},
		{name: "header line of 998 octets", text: header + "X-Long: " + strings.Repeat("x", 990) + "\r\nSubject: " + strings.Repeat("word ", 190) + "end\r\n\r\nHello.\r\n"},
		{name: "empty body", text: header + "\r\n"},
		{name: "body of blank lines", text: header + "\r\n\r\n\r\n\r\n"},
		{name: "body of blank lines with blanks", text: header + "\r\n \r\n\t\r\n  \t \r\n"},
		{name: "leading and trailing blank lines", text: header + "\r\n\r\n\r\nHello.\r\n\r\n\r\n"},
		{name: "trailing blanks and runs of blanks", text: header + "Subject:  two   three \t tab \r\n\r\nHello  \t there \t \r\n \r\nend \r\n"},
		{name: "5 MB body", text: header + "\r\n" + strings.Repeat(line, 5<<20/len(line)+1)},
		{name: "5 MB of blank lines", text: header + "\r\n" + strings.Repeat("\r\n", 5<<19) + "end\r\n"},
		{name: "folded fields", text: header + "Subject: one\r\n two\r\n\tthree\r\n  \t four\r\nReferences:\r\n <a@example.com>\r\n\t<b@example.com>\r\n" +
			"Cc: Bob\r\n <bob@example.net>,\r\n\tCarl <carl@example.net>\r\n\r\nHello.\r\n"},
		{name: "empty fields and fields without a blank", text: header + "Subject:\r\nKeywords: \r\nReply-To:ann@example.com\r\nX-Tab:\ttab\r\n\r\nHello.\r\n"},
		{name: "many fields, some of them twice", text: header + "Subject: one\r\nSubject: two\r\n" + strings.Repeat("X-Trace: hop\r\n", 300) + "\r\nHello.\r\n"},
		{name: "field of 30 KB", text: header + "References: <0@example.com>" + strings.Repeat("\r\n <0123456789.0123456789.0123456789@example.com>", 600) + "\r\n\r\nHello.\r\n"},
		{name: "NUL in the body", text: header + "\r\nnul \x00 nul\r\n"},
		{name: "multipart with boundaries and attachment", text: header + "MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=\"=_b\"\r\n\r\npreamble\r\n--=_b\r\n\r\ntext\r\n" +
			"--=_b\r\nContent-Type: application/octet-stream\r\nContent-Transfer-Encoding: base64\r\n\r\nAAECAwQF\r\n--=_b--\r\nepilogue\r\n"},

		{name: "From with a comment", text: "From: ann@example.com (Ann (at the desk))\r\nSubject: c\r\nDate: Fri, 20 Nov 2026 09:30:00 +0100\r\nMessage-ID: <c@example.com>\r\n\r\nHello.\r\n"},
		{name: "From folded, with quotes and another address in them", text: "From: \"Ann, <eve@example.edu>\"\r\n <ann@example.com>\r\nSubject: c\r\nDate: Fri, 20 Nov 2026 09:30:00 +0100\r\nMessage-ID: <c@example.com>\r\n\r\nHello.\r\n"},
		{name: "From in capitals", text: "FROM: Ann@EXAMPLE.Com\r\nSubject: c\r\nDate: Fri, 20 Nov 2026 09:30:00 +0100\r\nMessage-ID: <c@example.com>\r\n\r\nHello.\r\n"},
		{name: "two authors of one domain", text: "From: ann@example.com, bob@example.com\r\nSender: ann@example.com\r\nDate: Fri, 20 Nov 2026 09:30:00 +0100\r\nMessage-ID: <c@example.com>\r\n\r\nHello.\r\n"},
		{name: "Date and Message-ID missing", text: "From: ann@example.com\r\nSubject: missing\r\n\r\nHello.\r\n", added: []string{"Date", "Message-Id"}},
		{name: "From missing", text: "Subject: missing\r\n\r\nHello.\r\n", added: []string{"Date", "Message-Id", "From"}},

		{name: "author domain without a key", text: strings.Replace(header, "ann@example.com", "ann@example.edu", 1) + "\r\nHello.\r\n", unsigned: true},
		{name: "author of a subdomain", text: strings.Replace(header, "ann@example.com", "ann@sub.example.com", 1) + "\r\nHello.\r\n", unsigned: true},
		{name: "two From fields", text: header + "From: bob@example.com\r\n\r\nHello.\r\n", unsigned: true},
		{name: "authors of two domains", text: strings.Replace(header, "<ann@example.com>", "<ann@example.com>, bob@example.org", 1) + "\r\nHello.\r\n", unsigned: true},
	}
}

// TestWhateverItHolds sends messages of every kind through Postfix. What can be
// signed arrives signed by its author's domain, the rest unsigned, and all of it
// unchanged to the octet.
func TestWhateverItHolds(t *testing.T) {
	require(t, postfixNeeds...)
	require(t, dkimpyInstalled)
	t.Parallel()
	dir := shortDir(t)
	keys := newKeystore(t, dir, "example.com", "example.org")
	address := "unix:" + filepath.Join(dir, "run", "milter.sock")
	serve(t, daemonOptions{}, "--keystore", keys.dir, "--listen", address)
	p := startPostfix(t, "smtpd_milters = "+address, service{"smtp", nil})

	// All go by one session, so that one message's content could spoil the next.
	type sent struct {
		content
		box string
	}
	c := smtp(t, p.address("smtp"))
	var all []sent
	for _, each := range contents() {
		s := sent{each, p.box()}
		if err := c.send(envelope{from: "ann@example.com", to: []string{s.box}, parameters: s.parameters}, []byte(s.text)); err != nil {
			t.Fatalf("%s: %v", s.name, err)
		}
		all = append(all, s)
	}
	c.quit()
	for _, s := range all {
		t.Run(s.name, func(t *testing.T) {
			m := p.one(t, s.box)
			if s.unsigned {
				checkUnsigned(t, m)
				checkUnchanged(t, []byte(s.text), m, 0, s.added...)
				return
			}
			checkSigned(t, keys, m, "example.com")
			checkUnchanged(t, []byte(s.text), m, 2, s.added...)
			for _, name := range append([]string{"from"}, s.added...) {
				if h := strings.Split(m.wire(t).signatures()[0].fields, ":"); !slices.Contains(h, strings.ToLower(name)) {
					t.Errorf("h= lacks %s: %s", name, h)
				}
			}
		})
	}

	t.Run("every message of testdata", func(t *testing.T) { testdataMessages(t, keys, p) })
}

// testdataMessages sends the messages that all packages share. Postfix may change
// them, but before they are signed. Ours are the topmost two signatures.
func testdataMessages(t *testing.T, keys *keystore, p *postfix) {
	files, err := filepath.Glob("../../../testdata/messages/*.eml")
	if err != nil {
		t.Fatal(err)
	}
	if len(files) < 40 {
		t.Fatalf("only %d messages in testdata", len(files))
	}
	c := smtp(t, p.address("smtp"))
	boxes := map[string]string{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		boxes[file] = p.box()
		if err := c.send(envelope{from: "ann@example.org", to: []string{boxes[file]}, parameters: " BODY=8BITMIME SMTPUTF8"}, text); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
	}
	c.quit()
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			switch m := p.one(t, boxes[file]); filepath.Base(file) {
			case "latin1-header.eml": // who wrote it cannot be told: From is not UTF-8
				checkUnsigned(t, m)
			case "vt-ff-in-header.eml": // dkimpy takes VT and FF at the end of a value for blanks
				checkSignedBy(t, keys, m, "example.org", byMsgauth)
			default:
				checkSigned(t, keys, m, "example.org")
			}
		})
	}
}

// TestTCPCostsNoDelay compares the time that the end of a message takes by TCP
// with that by a unix socket. Small packets under Nagle and delayed
// acknowledgements used to cost 40 ms and more.
func TestTCPCostsNoDelay(t *testing.T) {
	require(t, postfixNeeds...)
	dir := shortDir(t)
	keys := newKeystore(t, dir, "example.com")
	unix, tcp := "unix:"+filepath.Join(dir, "run", "milter.sock"), "inet:"+loopback(freePort(t))
	serve(t, daemonOptions{binary: waxseal}, "--keystore", keys.dir, "--listen", unix, "--listen", tcp)
	p := startPostfix(t, "",
		service{"unix", []string{"smtpd_milters=" + unix}},
		service{"tcp", []string{"smtpd_milters=" + tcp}})

	took := map[string][]float64{} // ms
	text := []byte(header + "\r\n" + strings.Repeat("Hello.\r\n", 300))
	ways := map[string]*smtpClient{"unix": smtp(t, p.address("unix")), "tcp": smtp(t, p.address("tcp"))}
	boxes := map[string]string{"unix": p.box(), "tcp": p.box()}
	const mails = 21
	for range mails {
		for way, c := range ways { // taking turns, so that load hits both
			if err := c.begin(envelope{from: "ann@example.com", to: []string{boxes[way]}}); err != nil {
				t.Fatal(err)
			}
			if err := c.write(text); err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			if err := c.end(); err != nil {
				t.Fatal(err)
			}
			took[way] = append(took[way], 1000*time.Since(began).Seconds())
		}
	}
	for way, box := range boxes {
		slices.Sort(took[way])
		for _, m := range p.inbox(t, box, mails) {
			if len(m.signatures()) != 2 || !bytes.HasSuffix(m.text, []byte("Hello.\r\n")) {
				t.Errorf("by %s: not signed", way)
			}
		}
	}
	median := func(way string) float64 { return took[way][mails/2] }
	const most = 25
	if extra := median("tcp") - median("unix"); extra > most {
		t.Errorf("the end of a message takes %.1f ms by TCP, %.1f ms by unix socket, want less than %d ms apart", median("tcp"), median("unix"), most)
	}
	t.Logf("end of message: tcp %.1f ms, unix %.1f ms", median("tcp"), median("unix"))
}
