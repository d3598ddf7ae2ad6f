package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
)

// TestWhatLeavesVerifies sends every message of testdata through a real Postfix
// and a real Sendmail with their default settings, to a next hop with 8BITMIME
// and to one without. Every message that arrives verifies, or was left unsigned
// with a true reason; none arrives with a broken signature unless the log has it
// at risk for the very thing that broke it. A risk that breaks a signature on the
// way to any next hop does so.
func TestWhatLeavesVerifies(t *testing.T) {
	require(t, postfixNeeds...)
	require(t, sendmailNeeds...)
	require(t, dkimpyInstalled)
	t.Parallel()
	dir := ownDir(t)
	keys := newKeystore(t, dir, "example.org", "example.com")
	socket := filepath.Join(dir, "run", "milter.sock")
	d := serve(t, daemonOptions{}, "--keystore", keys.dir, "--listen", "unix:"+socket)
	hop := startSink(t)
	s := startSendmail(t, hop, inputFilter(socket))
	p := startPostfix(t, fmt.Sprintf(`
smtpd_milters = unix:%s
transport_maps = inline:{ %s=smtp:[%s]:%d, %s=smtp:[%s]:%[4]d }
`, socket, eightBitDomain, eightBitHop, hop.port, sevenBitDomain, sevenBitHop), service{"smtp", nil})

	messages := readMessages(t)
	const enough = 240
	if len(messages) < enough {
		t.Fatalf("%d messages, want at least %d", len(messages), enough)
	}
	var all []*delivery
	var servers sync.WaitGroup
	for _, server := range []mailServer{
		{"Postfix", p.address("smtp"), 998, "\r\n "},
		{"Sendmail", s.address(), 990, "!\r\n "},
	} {
		var queue []*delivery
		for _, m := range messages {
			for _, domain := range []string{eightBitDomain, sevenBitDomain} {
				queue = append(queue, &delivery{testMessage: m, server: server, domain: domain})
			}
		}
		all = append(all, queue...)
		servers.Go(func() { sendAll(queue) })
	}
	servers.Wait()
	for _, d := range all {
		eventually(t, d.to()+" arrives, or its bounce", func() bool {
			return d.refused != nil || len(hop.has(d.to())) > 0 || len(hop.has(d.from())) > 0
		})
	}

	lines := linesByQueueID(d)
	tally := map[string]map[ending]int{}
	for _, d := range all {
		way := d.server.name + " to " + d.domain
		if tally[way] == nil {
			tally[way] = map[ending]int{}
		}
		f, err := d.judge(t, hop, keys, lines[d.queueID])
		if err != nil {
			t.Errorf("%s by %s to %s: %v\nlog: %s", d.name, d.server.name, d.domain, err, lines[d.queueID])
		}
		tally[way][f]++
	}
	for way, n := range tally {
		t.Logf("%s, %d messages: %d verify, %d unsigned with a reason, %d broken as foretold, %d refused by the server",
			way, len(messages), n[verifies], n[unsigned], n[foretold], n[refused])
	}
}

// ending is what became of a message.
type ending string

const (
	verifies ending = "verifies"
	unsigned ending = "unsigned"
	foretold ending = "broken as foretold"
	refused  ending = "refused"
	wrong    ending = "wrong"
)

// leftUnsigned has, for each message that is not signed, what the log gives as
// cause and reason; nothing else may be left unsigned, and none of these signed.
// A cause of one server goes before that of both.
var leftUnsigned = map[string]string{
	"from-empty Postfix":                 `not_signable no address`,
	"from-empty Sendmail":                `not_signable no From field`,
	"from-folded-in-address":             `not_signable a blank inside < >`,
	"from-group":                         `not_signable a group`,
	"from-hidden-in-comment":             `not_signable an address in a comment`,
	"from-latin1-name":                   `not_signable not UTF-8`,
	"latin1-header":                      `not_signable not UTF-8`,
	"from-localhost":                     `not_signable localhost`,
	"from-missing":                       `not_signable no From field`,
	"from-missing-sender-there":          `not_signable no From field`,
	"no-header":                          `not_signable no From field`,
	"from-no-key":                        `no_key no domain example\.edu`,
	"from-null":                          `not_signable nothing between < and >`,
	"from-server-name":                   `no_key no domain mx\.example\.com`,
	"from-subdomain":                     `no_key no domain sub\.example\.org`,
	"from-twice":                         `not_signable 2 From fields`,
	"from-two-addresses-in-one":          `not_signable two addresses lack a comma`,
	"from-two-domains":                   `not_signable addresses of two domains`,
	"from-unterminated-quote":            `not_signable quot`,
	"from-source-route Sendmail":         `not_signable a source route`,
	"from-trailing-dot Sendmail":         `not_signable a dot at its end`,
	"from-unqualified Sendmail":          `not_signable an address without @`,
	"from-no-blank-after-comma Sendmail": `not_signable Sendmail writes a comma`,
	"from-long-name Sendmail":            `not_signable Sendmail cuts an address`,
	"from-utf8-address Sendmail":         `not_signable an address beyond ASCII`,

	// Postfix adds a From, with the address of the envelope.
	"from-missing Postfix":              `no_key no domain (eight|seven)\.example\.net`,
	"from-missing-sender-there Postfix": `no_key no domain (eight|seven)\.example\.net`,
	"no-header Postfix":                 `no_key no domain (eight|seven)\.example\.net`,
}

// refusedBy has the messages that a server does not take, and its words.
var refusedBy = map[string]string{
	"header-50k Sendmail":         "Headers too large",
	"cr-cr-lf Sendmail":           "Bare carriage return (CR) not allowed",
	"bare-cr-only Sendmail":       "Bare carriage return (CR) not allowed",
	"bare-cr-in-subject Sendmail": "Bare carriage return (CR) not allowed",
	"bare-cr-in-body Sendmail":    "Bare carriage return (CR) not allowed",
	"bare-cr-in-header Sendmail":  "Bare carriage return (CR) not allowed",
	"bare-lf-only Sendmail":       "Bare linefeed (LF) not allowed",
	"bare-lf-in-body Sendmail":    "Bare linefeed (LF) not allowed",
}

// of returns what a table has for a message and a server.
func of(table map[string]string, message, server string) string {
	if s, ok := table[message+" "+server]; ok {
		return s
	}
	return table[message]
}

// misjudged has the verifiers that are wrong about a message.
var misjudged = map[string]string{
	"vt-ff-in-header": byDkimpy.name,  // takes VT and FF at the end of a value for blanks
	"header-only":     byMsgauth.name, // takes no message without a blank line
}

// mailServer is a server under test.
type mailServer struct {
	name, address string
	longestLine   int    // that it passes on as it is
	lineBreak     string // what it puts into longer ones
}

// testMessage is a message of testdata.
type testMessage struct {
	name string
	text []byte
}

// readMessages reads the messages of testdata. What testdata/delivery holds and
// what its INDEX says have to be the same.
func readMessages(t *testing.T) []testMessage {
	t.Helper()
	index, err := os.ReadFile("../../../testdata/delivery/INDEX")
	if err != nil {
		t.Fatal(err)
	}
	intents := map[string]string{}
	for line := range strings.Lines(string(index)) {
		name, intent, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "\t")
		if intent == "" || intents[name] != "" {
			t.Errorf("testdata/delivery/INDEX: %q has no intent, or two", name)
		}
		intents[name] = intent
	}
	var all []testMessage
	for _, folder := range []string{"delivery", "messages"} {
		files, err := filepath.Glob(filepath.Join("../../../testdata", folder, "*.eml"))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			name := strings.TrimSuffix(filepath.Base(file), ".eml")
			if folder == "delivery" && intents[name] == "" {
				t.Errorf("testdata/delivery/INDEX lacks %s", name)
			}
			delete(intents, name)
			all = append(all, testMessage{name, text})
		}
	}
	for name := range intents {
		t.Errorf("testdata/delivery/INDEX has %s, and there is no such message", name)
	}
	return all
}

// delivery is one message on one way.
type delivery struct {
	testMessage
	server  mailServer
	domain  string // of the recipient, which decides about the next hop
	queueID string
	refused error
}

// to and from are addresses of this delivery alone. Bounces come to from.
func (d *delivery) to() string   { return d.name + "." + d.server.name + "@" + d.domain }
func (d *delivery) from() string { return d.name + "." + d.server.name + ".bounce@" + d.domain }

// sendAll hands deliveries to a server, by several connections at once.
func sendAll(queue []*delivery) {
	const connections = 4
	next := make(chan *delivery)
	var senders sync.WaitGroup
	for range connections {
		senders.Go(func() {
			var c *smtpClient
			for d := range next {
				if c == nil {
					if c, d.refused = dialSMTP(d.server.address); d.refused != nil {
						continue
					}
				}
				e := envelope{from: d.from(), to: []string{d.to()}}
				if declared8Bit.Match(d.text) {
					e.parameters = " BODY=8BITMIME"
				}
				if d.queueID, d.refused = c.sendQueued(e, d.text); d.refused != nil {
					c.quit()
					c = nil
				}
			}
			if c != nil {
				c.quit()
			}
		})
	}
	for _, d := range queue {
		next <- d
	}
	close(next)
	senders.Wait()
}

// linesByQueueID returns the line of the log for each message.
func linesByQueueID(d *daemon) map[string]string {
	id := regexp.MustCompile(` queue_id=(\w+)`)
	lines := map[string]string{}
	for line := range strings.Lines(d.log.String()) {
		if m := id.FindStringSubmatch(line); m != nil {
			lines[m[1]] += line
		}
	}
	return lines
}

var risksInLog = regexp.MustCompile(` risks=(\S+)`)

// judge compares what arrived with what the log says. An error is a broken
// promise.
func (d *delivery) judge(t *testing.T, hop *sink, keys *keystore, line string) (ending, error) {
	t.Helper()
	expected := of(refusedBy, d.name, d.server.name)
	switch {
	case d.refused != nil && expected != "" && strings.Contains(d.refused.Error(), expected):
		return refused, nil
	case d.refused != nil:
		return refused, fmt.Errorf("refused: %w", d.refused)
	case len(hop.has(d.to())) == 0:
		return refused, errors.New("it has bounced")
	}
	sent, err := parseMessage(d.text)
	if err != nil {
		sent = &message{text: d.text, body: d.text}
	}
	got := hop.one(t, d.to())

	if reason := of(leftUnsigned, d.name, d.server.name); strings.Contains(line, " msg=unsigned ") || reason != "" {
		cause, why, _ := strings.Cut(reason, " ")
		if reason == "" || !matches(line, ` msg=unsigned .*cause=`+cause+` action=accept reason="(\\"|[^"])*`+why) {
			return wrong, fmt.Errorf("cause and reason are not %q", reason)
		}
		if n := len(got.signatures()); n > len(sent.signatures()) {
			return wrong, errors.New("it is signed although the log says that it is not")
		}
		return unsigned, nil
	}
	if s := got.signatures(); len(s) < 2 || s[0].domain != s[1].domain || !matches(line, " msg=signed .* domain="+s[0].domain+" selectors="+s[0].selector+","+s[1].selector+" ") {
		return wrong, fmt.Errorf("signatures %+v, want two, as in the log", s)
	}
	var risks []string
	if m := risksInLog.FindStringSubmatch(line); m != nil {
		risks = strings.Split(m[1], ",")
	}
	broken := d.verify(got, keys)
	if broken == "" {
		for _, certain := range []string{"long_body_line", "long_header_line", "rewritten_multipart"} {
			if slices.Contains(risks, certain) {
				return wrong, fmt.Errorf("it verifies, and the log says %s", certain)
			}
		}
		return verifies, nil
	}
	for _, why := range d.whatBroke(sent, got) {
		if !slices.Contains(risks, why) {
			return wrong, fmt.Errorf("%s, because of %s, which the log does not say", broken, why)
		}
	}
	return foretold, nil
}

// verify returns what verifiers say against the two topmost signatures.
func (d *delivery) verify(m *message, keys *keystore) string {
	for _, v := range []verifier{byDkimpy, byMsgauth} {
		if misjudged[d.name] == v.name {
			continue
		}
		verdicts, err := v.verify(m, keys)
		if err != nil || len(verdicts) < 2 {
			return fmt.Sprintf("%s: %d signatures, %v", v.name, len(verdicts), err)
		}
		for _, reason := range verdicts[:2] {
			if reason != "" {
				return v.name + ": " + reason
			}
		}
	}
	return ""
}

// multipartType finds a type with parts, or a message within.
var multipartType = regexp.MustCompile(`(?i)^\s*(\([^()]*\))?\s*(multipart|message)\s*/`)

// declared8Bit finds where a message, or a part of it, says that it is 8-bit.
var declared8Bit = regexp.MustCompile(`(?im)^Content-Transfer-Encoding:[ \t]*(\([^()]*\))?[ \t]*(8bit|binary)`)

// whatBroke finds the risks that came true, by comparing what was sent with what
// arrived. What it cannot explain is in words that are no risk.
func (d *delivery) whatBroke(sent, got *message) []string {
	var why []string
	add := func(risk string) {
		if !slices.Contains(why, risk) {
			why = append(why, risk)
		}
	}
	eightBit := declared8Bit.Match(sent.text) || bytes.ContainsFunc(sent.body, func(r rune) bool { return r > 0x7f })
	reencoded := eightBit && (got.get("Content-Transfer-Encoding") != sent.get("Content-Transfer-Encoding") || !bytes.Equal(eightBitOctets(sent.body), eightBitOctets(got.body)) ||
		declared8Bit.Match(sent.body) && !declared8Bit.Match(got.body))

	for name := range strings.SplitSeq(got.signatures()[0].fields, ":") {
		was, is := relaxed(sent, name), relaxed(got, name)
		switch {
		case slices.Equal(was, is):
		case reencoded && (name == "content-transfer-encoding" || name == "mime-version"):
			add("eight_bit")
		case slices.ContainsFunc(sent.fields, func(f field) bool {
			return strings.EqualFold(f.name, name) && longestLine(f.text) > d.server.longestLine
		}):
			add("long_header_line")
		default:
			add(fmt.Sprintf("a change of %s from %.300q to %.300q", name, was, is))
		}
	}
	switch {
	case bytes.Equal(sent.body, got.body):
	case reencoded:
		add("eight_bit")
	case longestLine(string(sent.body)) > d.server.longestLine && strings.TrimRight(strings.ReplaceAll(string(got.body), d.server.lineBreak, ""), "\r\n") == strings.TrimRight(string(sent.body), "\r\n"):
		add("long_body_line")
	case d.server.name == "Sendmail" && multipartType.MatchString(sent.get("Content-Type")):
		add("rewritten_multipart")
	default:
		add(fmt.Sprintf("a change of the body from %.300q to %.300q", sent.body, got.body))
	}
	if len(why) == 0 {
		add("nothing that can be seen")
	}
	return why
}

func eightBitOctets(b []byte) []byte {
	var octets []byte
	for _, c := range b {
		if c > 0x7f {
			octets = append(octets, c)
		}
	}
	return octets
}

// relaxed returns the values of the fields of a name, blanks run together.
func relaxed(m *message, name string) []string {
	var values []string
	for _, f := range m.fields {
		if strings.EqualFold(strings.TrimRight(f.name, " \t"), name) {
			values = append(values, strings.Join(strings.Fields(f.value()), " "))
		}
	}
	return values
}

func longestLine(text string) int {
	longest := 0
	for line := range strings.SplitSeq(text, "\r\n") {
		longest = max(longest, len(line))
	}
	return longest
}
