package e2e

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// disguise is a message by which a customer might get another's signature. OWN
// and OTHER stand for the domains of the two, own and other for their addresses.
type disguise struct {
	name   string
	sender string // of the envelope
	fields []string
	want   protection
}

// protection is what keeps the other's signature away.
type protection uint8

const (
	signsOwn  protection = iota // it is the customer's own mail, and signed so
	permitted                   // the permission rules; without them the other's domain signs
	unread                      // the author is in doubt, so nobody signs
	stranger                    // it is a third domain, without a key
)

func disguises() []disguise {
	const fullwidth, ideographic, cyrillic = "\uff4fTHER", "\u3002", "\u0430"
	return []disguise{
		{"honest mail", "own", []string{"From: Ann <own>"}, signsOwn},
		{"own domain in capitals", "own", []string{"From: <A.B@^OWN>"}, signsOwn},

		{"From", "own", []string{"From: other"}, permitted},
		{"From, and own Sender", "own", []string{"From: other", "Sender: own"}, permitted},
		{"From, and own Reply-To", "own", []string{"From: other", "Reply-To: own"}, permitted},
		{"From, and own Resent-From", "own", []string{"Resent-From: own", "From: other"}, permitted},
		{"From, and envelope sender", "other", []string{"From: other"}, permitted},
		{"From, and no envelope sender", "", []string{"From: other"}, permitted},
		{"From in capitals", "own", []string{"FROM: <BOB@^OTHER>"}, permitted},
		{"From folded", "own", []string{"From: Bob\r\n\t<other>"}, permitted},
		{"own address as display name", "own", []string{`From: "own" <other>`}, permitted},
		{"own address as display name, in a row with a comma", "own", []string{`From: "own, " <other>`}, permitted},
		{"own address as encoded word", "own", []string{"From: =?utf-8?q?ann=40OWN?= <other>"}, permitted},
		{"own address as encoded word with brackets", "own", []string{"From: =?utf-8?b?PGFubkBleGFtcGxlLmNvbT4=?= <other>"}, permitted},
		{"own name as comment", "own", []string{"From: other (OWN)"}, permitted},
		{"two addresses of the other", "own", []string{"From: other, carl@OTHER"}, permitted},
		{"quoted local part", "own", []string{`From: "bob"@OTHER`}, permitted},

		{"Sender", "own", []string{"From: own", "Sender: other"}, signsOwn},
		{"Reply-To", "own", []string{"From: own", "Reply-To: other"}, signsOwn},
		{"Resent-From and Resent-Sender", "own", []string{"Resent-From: other", "Resent-Sender: other", "From: own"}, signsOwn},
		{"List-Id and List-Post", "own", []string{"From: own", "List-Id: <list.OTHER>", "List-Post: <mailto:other>"}, signsOwn},
		{"envelope sender", "other", []string{"From: own"}, signsOwn},
		{"no envelope sender", "", []string{"From: own"}, signsOwn},
		{"display name", "own", []string{`From: "other" <own>`}, signsOwn},
		{"display name with brackets", "own", []string{`From: "Bob <other>" <own>`}, signsOwn},
		{"encoded word", "own", []string{"From: =?utf-8?q?bob=40OTHER?= <own>"}, signsOwn},
		{"encoded word with brackets", "own", []string{"From: =?utf-8?q?=3Cbob=40OTHER=3E?= <own>"}, signsOwn},
		{"comment", "own", []string{"From: own (OTHER)"}, signsOwn},
		{"a field that begins like From", "own", []string{"From-: other", "From: own", "XFrom: other"}, signsOwn},

		{"comment with an address", "own", []string{"From: own (other)"}, unread},
		{"comment with brackets", "own", []string{"From: own (<other>)"}, unread},
		{"comment within the address", "own", []string{"From: bob(c)@OTHER"}, unread},
		{"comment behind the @", "own", []string{"From: <bob@(OWN)OTHER>"}, unread},
		{"comment that does not end", "own", []string{"From: own (<other>"}, unread},
		{"encoded word as local part", "own", []string{"From: =?utf-8?q?bob?=@OTHER"}, unread},
		{"encoded word as local part in brackets", "own", []string{"From: Bob <=?utf-8?q?bob?=@OTHER>"}, unread},
		{"encoded word as address", "own", []string{"From: =?utf-8?q?bob=40OTHER?="}, unread},
		{"encoded word as address in brackets", "own", []string{"From: <=?utf-8?q?bob=40OTHER?=>"}, unread},
		{"two From fields", "own", []string{"From: own", "From: other"}, unread},
		{"two From fields, other first", "own", []string{"From: other", "From: own"}, unread},
		{"two From fields, one in capitals", "own", []string{"From: own", "FROM: other"}, unread},
		{"two From fields, one with a blank before the colon", "own", []string{"From: own", "From : other"}, unread},
		{"both authors", "own", []string{"From: own, other", "Sender: own"}, unread},
		{"both authors, other first", "own", []string{"From: other, own", "Sender: own"}, unread},
		{"both authors without a comma", "own", []string{"From: <own> <other>"}, unread},
		{"both authors with a semicolon", "own", []string{"From: own; other"}, unread},
		{"group", "own", []string{"From: Team: other;"}, unread},
		{"group with both", "own", []string{"From: Team: own, other;"}, unread},
		{"empty group beside own", "own", []string{"From: other:;, own"}, unread},
		{"empty From", "own", []string{"From: <>", "Sender: other"}, unread},
		{"address as display name without quotation marks", "own", []string{"From: own <other>"}, unread},
		{"other address as display name without quotation marks", "own", []string{"From: other <own>"}, unread},
		{"source route", "own", []string{"From: <@OWN:other>"}, unread},
		{"percent hack in brackets twice", "own", []string{"From: <<other>>"}, unread},
		{"two @", "own", []string{"From: own@OTHER"}, unread},
		{"own address as quoted local part", "own", []string{`From: "own"@OTHER`}, unread},
		{"trailing dot", "own", []string{"From: other."}, unread},
		{"trailing dot in brackets", "own", []string{"From: <bob@OTHER.>"}, unread},
		{"dot of another script", "own", []string{"From: bob@" + strings.ReplaceAll("OTHER", ".", ideographic) + ideographic}, unread},
		{"fullwidth letters", "own", []string{"From: bob@" + fullwidth}, unread},
		{"soft hyphen in the domain", "own", []string{"From: bob@\u00adOTHER"}, unread},
		{"blank of no width in the domain", "own", []string{"From: bob@OTHER\u200b"}, unread},
		{"blank in the domain", "own", []string{"From: bob@ OTHER"}, unread},
		{"domain literal", "own", []string{"From: bob@[127.0.0.1]"}, unread},
		{"bytes that are not UTF-8", "own", []string{"From: \xff <other>"}, unread},

		{"look-alike domain", "own", []string{"From: bob@" + cyrillic + ".OTHER"}, stranger},
		{"look-alike domain as A-label", "own", []string{"From: bob@xn--exmple-4nf.org"}, stranger},
		{"below the own domain", "own", []string{"From: ann@OTHER.OWN"}, stranger},
		{"below the other domain", "own", []string{"From: bob@mail.OTHER"}, stranger},
		{"a domain that ends like the other", "own", []string{"From: bob@not-OTHER"}, stranger},
		{"the other domain as a local part", "own", []string{"From: OTHER@example.info"}, stranger},
	}
}

// text writes the message for a customer.
func (d disguise) text(own, other string, number int) (sender string, text []byte) {
	_, ownDomain, _ := strings.Cut(own, "@")
	_, otherDomain, _ := strings.Cut(other, "@")
	r := strings.NewReplacer("^OWN", strings.ToUpper(ownDomain), "^OTHER", strings.ToUpper(otherDomain),
		"OWN", ownDomain, "OTHER", otherDomain, "\uff4fTHER", "\uff45"+otherDomain[1:])
	word := regexp.MustCompile(`\b(own|other)\b`)
	fill := func(s string) string {
		return r.Replace(word.ReplaceAllStringFunc(s, func(w string) string {
			if w == "own" {
				return own
			}
			return other
		}))
	}
	if d.sender != "" {
		sender = map[string]string{"own": own, "other": other}[d.sender]
	}
	lines := []string{"To: box@example.net", fmt.Sprintf("Subject: case %d", number), "Date: Fri, 20 Nov 2026 09:30:00 +0100",
		fmt.Sprintf("Message-ID: <case.%d@example.com>", number)}
	for _, field := range d.fields {
		name, value, _ := strings.Cut(field, ":")
		lines = append(lines, name+":"+fill(value))
	}
	return sender, []byte(mail(append(lines, "", "Hello.")...))
}

// TestNoCustomerGetsTheOthersSignature has two customers and a plain login send
// mail through one Postfix, in all disguises there are. A second daemon has the
// permission rules switched off, which shows that they are what protects.
func TestNoCustomerGetsTheOthersSignature(t *testing.T) {
	require(t, postfixNeeds...)
	require(t, dkimpyInstalled, installed("saslpasswd2", "sasl2-bin"), saslModules)
	t.Parallel()
	dir := shortDir(t)
	keys := newKeystore(t, dir, "example.com", "example.org", "example.edu")
	daemons := map[string]*daemon{}
	var services []service
	for _, permission := range []string{"checked", "unchecked"} {
		address := "unix:" + filepath.Join(dir, permission, "milter.sock")
		daemons[permission] = serve(t, daemonOptions{}, "--config", configure(t, filepath.Join(dir, permission+".toml"), fmt.Sprintf(`
[keystore]
url = "dir:%s"
[listen.submission]
address = %q
[origin]
networks = []
[permission]
check = %t
[log]
format = "json"
`, keys.dir, address, permission == "checked")))
		services = append(services, service{permission, []string{"smtpd_milters=" + address}})
	}
	p := newPostfix(t)
	// Header fields come to the milter as the customer wrote them.
	p.start(t, p.accounts(t, "", "ann@example.com", "bob@example.org", "carl@mx.example.edu")+`
myhostname = mx.example.edu
mydomain = example.edu
local_header_rewrite_clients =
`, services...)

	const ann, bob = "ann@example.com", "bob@example.org"
	for permission, d := range daemons {
		for own, other := range map[string]string{ann: bob, bob: ann} {
			t.Run(own+" "+permission, func(t *testing.T) {
				box, all := p.box(), disguises()
				c := smtp(t, p.address(permission))
				if err := c.login(own, password); err != nil {
					t.Fatal(err)
				}
				for i, each := range all {
					sender, text := each.text(own, other, i)
					if err := c.send(envelope{from: sender, to: []string{box}, parameters: " BODY=8BITMIME SMTPUTF8"}, text); err != nil {
						t.Fatalf("%s: %v", each.name, err)
					}
				}
				c.quit()
				arrived := bySubject(t, p.inbox(t, box, len(all)))
				for i, each := range all {
					t.Run(each.name, func(t *testing.T) {
						m := arrived[fmt.Sprintf("case %d", i)]
						want, cause := "", ""
						switch {
						case each.want == signsOwn:
							_, want, _ = strings.Cut(own, "@")
						case each.want == permitted && permission == "unchecked":
							_, want, _ = strings.Cut(other, "@")
						case each.want == unread:
							cause = "not_signable"
						case permission == "unchecked":
							cause = "no_key"
						default:
							cause = "denied"
						}
						checkCustomer(t, keys, d, m, want, cause)
					})
				}
			})
		}
	}

	t.Run("carl has no domain, and signs for the server's own only", func(t *testing.T) {
		box := p.box()
		c := smtp(t, p.address("checked"))
		if err := c.login("carl", password); err != nil {
			t.Fatal(err)
		}
		want := map[string]string{"example.edu": "example.edu", "mx.example.edu": "", "example.com": "", "example.org": "", "sub.example.edu": "", "edu.example.edu": ""}
		cause := map[string]string{"mx.example.edu": "no_key"} // allowed, but not in the keystore
		for domain := range want {
			if err := c.send(envelope{from: "carl@example.edu", to: []string{box}}, plain("carl@"+domain, domain)); err != nil {
				t.Fatal(err)
			}
		}
		for domain, m := range bySubject(t, p.inbox(t, box, len(want))) {
			t.Run(domain, func(t *testing.T) {
				why := ""
				if want[domain] == "" {
					why = "denied"
					if cause[domain] != "" {
						why = cause[domain]
					}
				}
				checkCustomer(t, keys, daemons["checked"], m, want[domain], why)
			})
		}
	})
	t.Run("without a login nobody gets any", func(t *testing.T) {
		for permission := range daemons {
			box := p.box()
			if err := smtp(t, p.address(permission)).send(envelope{from: ann, to: []string{box}}, plain(ann, "no login")); err != nil {
				t.Fatal(err)
			}
			checkUnsigned(t, p.one(t, box))
		}
	})
}

// checkCustomer fails unless the message is signed by the wanted domain alone,
// or unsigned for the given cause.
func checkCustomer(t *testing.T, keys *keystore, d *daemon, m *message, want, cause string) {
	t.Helper()
	if m == nil {
		t.Fatal("it did not arrive")
	}
	line := d.logged(queueID(t, m))
	if want == "" {
		checkUnsigned(t, m)
		if line.Cause != cause {
			t.Errorf("unsigned for the cause %q (%s), want %q", line.Cause, line.Reason, cause)
		}
		return
	}
	w := m.wire(t)
	got := w.signatures()
	if len(got) != 2 || got[0].domain != want || got[1].domain != want {
		t.Fatalf("signatures %+v, want two by %s: %s: %s", got, want, line.Cause, line.Reason)
	}
	checkVerifies(t, keys, w, 2, byDkimpy, byMsgauth)
	if line.Domain != want {
		t.Errorf("the log says that %q signed, want %q", line.Domain, want)
	}
}

// bySubject sorts messages by their Subject, which no two may share.
func bySubject(t *testing.T, all []*message) map[string]*message {
	t.Helper()
	sorted := map[string]*message{}
	for _, m := range all {
		subject := m.get("Subject")
		if sorted[subject] != nil {
			t.Fatalf("%q arrived twice", subject)
		}
		sorted[subject] = m
	}
	return sorted
}

// queueID reads the queue id from Postfix's Received field.
func queueID(t *testing.T, m *message) string {
	t.Helper()
	for _, f := range m.fields {
		if f.name == "Received" {
			if id := regexp.MustCompile(`\bid ([0-9A-Za-z]+)`).FindStringSubmatch(f.text); id != nil {
				return id[1]
			}
		}
	}
	t.Fatalf("no Received field with a queue id:\n%.1500s", m.text)
	return ""
}

// logLine is the line that a message gets in a log with format = "json".
type logLine struct {
	Level, Msg                   string
	QueueID                      string `json:"queue_id"`
	Cause, Action, Reason        string
	Author, Domain, Selectors    string
	Rule, Row, Login, Err, Risk  string
	Client, Listener, Hint, Time string
}

// logged returns the log line of a message; it is empty when there is none.
func (d *daemon) logged(queueID string) logLine {
	return readLog(d.log.String())[queueID]
}

// readLog sorts the lines of a JSON log by queue id.
func readLog(log string) map[string]logLine {
	lines := map[string]logLine{}
	for text := range strings.Lines(log) {
		var line logLine
		if json.Unmarshal([]byte(text), &line) == nil && line.QueueID != "" {
			lines[line.QueueID] = line
		}
	}
	return lines
}
