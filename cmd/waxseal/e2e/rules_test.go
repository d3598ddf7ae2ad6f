package e2e

import (
	"bytes"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// rowRules is a selector table with each kind of row in it.
const rowRules = `
[log]
format = "json"
level = "debug"
[origin]
skip_networks = ["192.0.2.128/25"]
[listen.relay.origin]
networks = ["198.51.100.0/24"]
[listen.submission.origin]
all = true
[permission.grant.shop]
login = "shop@platform.example"
domains = ["own.example"]
[row.shop]
login = "shop@platform.example"
sign_as = "platform.example"
[row.robot]
login = "robot@example.com"
enabled = false
reason = "test mail"
[row.ann]
login = "ann@example.com"
[row.address]
address = "boss@example.com"
sign_as = "example.com"
identity = "boss@mail.example.com"
[row.below]
domain = "example.com"
subdomains = true
identity = "address"
[row.edu]
domain = "example.edu"
selectors = ["2026b"]
canonicalization = "simple/simple"
expiry = "7d"
[row.off]
domain = "off.example"
enabled = false
reason = "moved away"
[row.strict]
domain = "strict.example"
strict = true
`

// ruleCase is a message, and by whom it is signed.
type ruleCase struct {
	name          string
	service       string // default: mail
	client, login string // as XCLIENT has them
	from          string
	want          string // signing domain; empty is unsigned
	selectors     string // default: 2026a 2026b
	cause         string // of an unsigned one
	tags          map[string]string
}

func ruleCases() []ruleCase {
	const abroad = "203.0.113.9"
	return []ruleCase{
		{name: "a login that signs as the platform, for a domain without keys", client: abroad, login: "shop@platform.example", from: "sales@nokeys.example", want: "platform.example"},
		{name: "the same for a domain with keys of its own, which it may use", client: abroad, login: "shop@platform.example", from: "sales@own.example", want: "own.example"},
		{name: "the same for a domain with keys of its own, which it may not use", client: abroad, login: "shop@platform.example", from: "ann@example.com", want: "platform.example"},
		{name: "the same for its own domain", client: abroad, login: "shop@platform.example", from: "shop@platform.example", want: "platform.example"},
		{name: "another login does not sign as the platform", client: abroad, login: "eve@platform.example", from: "sales@nokeys.example", cause: "denied"},
		{name: "a login that is not to be signed", client: abroad, login: "robot@example.com", from: "robot@example.com", cause: "excluded"},
		{name: "a login's row comes before the address's", client: abroad, login: "ann@example.com", from: "boss@example.com", want: "example.com", tags: map[string]string{"i": ""}},
		{name: "identity of an address", from: "boss@example.com", want: "example.com", tags: map[string]string{"i": "boss@mail.example.com"}},
		{name: "identity of the author", from: "carl@example.com", want: "example.com", tags: map[string]string{"i": "carl@example.com", "c": "relaxed/relaxed", "x": ""}},
		{name: "below a domain", from: "carl@sub.example.com", want: "example.com", tags: map[string]string{"i": "carl@sub.example.com"}},
		{name: "far below a domain", from: "carl@a.b.sub.example.com", want: "example.com", tags: map[string]string{"i": "carl@a.b.sub.example.com"}},
		{name: "below a domain, with keys of its own", from: "carl@own.example.com", want: "own.example.com", tags: map[string]string{"i": ""}},
		{name: "not below a domain, though it ends so", from: "carl@notexample.com", cause: "no_key"},
		{name: "a login does not sign for what is below its domain", client: abroad, login: "carl@example.com", from: "carl@sub.example.com", cause: "denied"},
		{name: "selector, canonicalization and expiry", from: "ann@example.edu", want: "example.edu", selectors: "2026b", tags: map[string]string{"c": "simple/simple", "x": "+604800"}},
		{name: "a domain that is switched off", from: "ann@off.example", cause: "excluded"},
		{name: "a domain without a row", from: "ann@own.example", want: "own.example", tags: map[string]string{"i": "", "c": "relaxed/relaxed", "x": ""}},
		{name: "a domain without a row or a key", from: "ann@nokeys.example", cause: "no_key"},

		{name: "client in a skipped network, with a login", client: "192.0.2.200", login: "ann@example.com", from: "ann@example.com", cause: "not_ours"},
		{name: "client beside the skipped network, with a login", client: "192.0.2.100", login: "ann@example.com", from: "ann@example.com", want: "example.com"},
		{name: "client abroad", client: abroad, from: "ann@own.example", cause: "not_ours"},
		{name: "client abroad, on the listener where all is ours", service: "submission", client: abroad, from: "ann@own.example", want: "own.example"},
		{name: "client in a skipped network, on a listener that skips none", service: "submission", client: "192.0.2.200", from: "ann@own.example", want: "own.example"},
		{name: "client in the network of its listener", service: "relay", client: "198.51.100.7", from: "ann@own.example", want: "own.example"},
		{name: "client in the network of another listener", client: "198.51.100.7", from: "ann@own.example", cause: "not_ours"},
		{name: "client abroad, on the listener with a network", service: "relay", client: abroad, from: "ann@own.example", cause: "not_ours"},
		{name: "a login, on the listener with a network alone", service: "relay", client: abroad, login: "ann@example.com", from: "ann@example.com", cause: "not_ours"},
		{name: "loopback, on the listener with another network", service: "relay", from: "ann@own.example", cause: "not_ours"},
	}
}

// TestRowsDecideHowMailIsSigned sends mail through a Postfix that hands it to
// three listeners, with origin rules of their own, of one daemon.
func TestRowsDecideHowMailIsSigned(t *testing.T) {
	require(t, postfixNeeds...)
	require(t, dkimpyInstalled)
	t.Parallel()
	dir := shortDir(t)
	keys := newKeystore(t, dir, "example.com", "own.example.com", "example.edu", "platform.example", "own.example", "off.example")
	text := fmt.Sprintf("[keystore]\nurl = \"dir:%s\"\n", keys.dir)
	var services []service
	for _, name := range []string{"mail", "relay", "submission"} {
		address := "unix:" + filepath.Join(dir, "run", name+".sock")
		text += fmt.Sprintf("[listen.%s]\naddress = %q\n", name, address)
		services = append(services, service{name, []string{"smtpd_milters=" + address}})
	}
	// Signing as the platform earns a warning, as DMARC does not count it, and so
	// does a row for a domain that has no keys.
	config := writeFile(t, filepath.Join(dir, "waxseal.toml"), text+rowRules, 0o644)
	if out := command(t, "check", "--config", config); strings.Count(out, "warning:") != 2 || !strings.Contains(out, "DMARC") || !strings.Contains(out, "row.strict.domain: the keystore has no domain strict.example") {
		t.Errorf("waxseal check:\n%s", out)
	}
	d := serve(t, daemonOptions{}, "--config", config)
	p := startPostfix(t, "smtpd_authorized_xclient_hosts = 127.0.0.0/8\nlocal_header_rewrite_clients =", services...)

	// as connects as another client.
	as := func(t *testing.T, service, client, login string) *smtpClient {
		t.Helper()
		if service == "" {
			service = "mail"
		}
		c := smtp(t, p.address(service))
		if client != "" {
			facts := "ADDR=" + client + " NAME=client.example.net"
			if login != "" {
				facts += " LOGIN=" + login
			}
			if err := c.command(220, "XCLIENT %s", facts); err != nil {
				t.Fatal(err)
			}
			if err := c.command(250, "EHLO client.example.net"); err != nil {
				t.Fatal(err)
			}
		}
		return c
	}

	for _, each := range ruleCases() {
		t.Run(each.name, func(t *testing.T) {
			box := p.box()
			sent := bytes.Replace(plain("Ann  <"+each.from+">", "row"), []byte("Hello,"), []byte("Hello,  \t there \r\n\r\n \r\nblanks "), 1)
			if err := as(t, each.service, each.client, each.login).send(envelope{from: each.from, to: []string{box}}, sent); err != nil {
				t.Fatal(err)
			}
			m := p.one(t, box)
			if each.want == "" {
				checkUnsigned(t, m)
				checkUnchanged(t, sent, m, 0)
				// Postfix has no queue id for the milter before the first recipient.
				if each.cause != "not_ours" {
					if line := d.logged(queueID(t, m)); line.Cause != each.cause {
						t.Errorf("cause %q (%s), want %q", line.Cause, line.Reason, each.cause)
					}
				}
				return
			}
			checkRow(t, keys, m, each)
			checkUnchanged(t, sent, m, len(m.signatures()))
		})
	}

	t.Run("strict: no key, and put off", func(t *testing.T) {
		err := as(t, "mail", "", "").send(envelope{from: "ann@strict.example", to: []string{p.box()}}, plain("ann@strict.example", "strict"))
		if !refusedForNow(err) || !strings.Contains(err.Error(), "4.7.5") {
			t.Errorf("%v, want 451 4.7.5", err)
		}
	})
	t.Run("a switched off row says why in the log", func(t *testing.T) {
		for _, reason := range []string{"test mail", "moved away"} {
			if !strings.Contains(d.log.String(), reason) {
				t.Errorf("the log does not say %q", reason)
			}
		}
	})
	t.Run("mail with our own valid signature is not signed again", func(t *testing.T) {
		first := p.box()
		if err := as(t, "mail", "", "").send(envelope{from: "ann@own.example", to: []string{first}}, plain("ann@own.example", "again")); err != nil {
			t.Fatal(err)
		}
		once := p.one(t, first).wire(t)
		checkSigned(t, keys, once, "own.example")
		again := func(text []byte) *message {
			t.Helper()
			box := p.box()
			if err := as(t, "mail", "", "").send(envelope{from: "ann@own.example", to: []string{box}}, text); err != nil {
				t.Fatal(err)
			}
			return p.one(t, box)
		}
		whole := again(once.text)
		if n := len(whole.signatures()); n != 2 {
			t.Errorf("%d signatures, want the two it had", n)
		}
		checkVerifies(t, keys, whole.wire(t), 2, byDkimpy, byMsgauth)
		if line := d.logged(queueID(t, whole)); line.Cause != "already_signed" {
			t.Errorf("cause %q, want already_signed", line.Cause)
		}
		for what, broken := range map[string][]byte{
			"its body":           bytes.Replace(once.text, []byte("this is a message"), []byte("this was a message"), 1),
			"a field":            bytes.Replace(once.text, []byte("Subject: again"), []byte("Subject: anew"), 1),
			"an added field":     bytes.Replace(once.text, []byte("Subject: again"), []byte("Reply-To: eve@example.net\r\nSubject: again"), 1),
			"the signature":      bytes.Replace(once.text, []byte("\tb="), []byte("\tb=AAAA"), 1),
			"another domain's":   bytes.Replace(once.text, []byte("d=own.example"), []byte("d=example.com"), 1),
			"another's selector": bytes.Replace(once.text, []byte("s=2026a"), []byte("s=2026c"), 1),
		} {
			if bytes.Equal(broken, once.text) {
				t.Fatalf("%s: nothing changed:\n%s", what, once.text)
			}
			m := again(broken)
			if n := len(m.signatures()); n != 4 {
				t.Errorf("%s is broken: %d signatures, want four", what, n)
				continue
			}
			checkVerifies(t, keys, m.wire(t), 2, byDkimpy, byMsgauth)
		}
	})
}

// checkRow fails unless the message is signed as its row says.
func checkRow(t *testing.T, keys *keystore, m *message, want ruleCase) {
	t.Helper()
	w := m.wire(t)
	selectors := []string{"2026a", "2026b"}
	if want.selectors != "" {
		selectors = strings.Fields(want.selectors)
	}
	var got []string
	for _, s := range w.signatures() {
		got = append(got, s.selector)
		if s.domain != want.want {
			t.Errorf("d=%s, want %s", s.domain, want.want)
		}
	}
	if !slices.Equal(got, selectors) {
		t.Fatalf("signed with %v, want %v:\n%.1500s", got, selectors, m.text)
	}
	for _, f := range w.fields[:len(got)] {
		tags := tagsOf(f)
		for name, value := range want.tags {
			if after, ok := strings.CutPrefix(value, "+"); ok { // seconds after t=
				seconds, _ := strconv.Atoi(after)
				began, _ := strconv.Atoi(tags["t"])
				value = strconv.Itoa(began + seconds)
			}
			if tags[name] != value {
				t.Errorf("%s=%s, want %q", name, tags[name], value)
			}
		}
	}
	checkVerifies(t, keys, w, len(got), byDkimpy, byMsgauth)
	checkOwnVerify(t, keys, w, len(got))
}

// tagsOf reads the tags of a signature.
func tagsOf(f field) map[string]string {
	tags := map[string]string{}
	for tag := range strings.SplitSeq(f.value(), ";") {
		name, value, _ := strings.Cut(tag, "=")
		tags[strings.TrimSpace(name)] = strings.Join(strings.Fields(value), "")
	}
	return tags
}
