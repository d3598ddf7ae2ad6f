package e2e

import (
	"bytes"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// plain is a message that needs nothing added.
func plain(from, subject string) []byte {
	return []byte(mail(
		"From: "+from,
		"To: box@example.net",
		"Subject: "+subject,
		"Date: Fri, 20 Nov 2026 09:30:00 +0100",
		"Message-ID: <"+strings.ReplaceAll(subject, " ", ".")+"@example.com>",
		"",
		"Hello,",
		"",
		"this is a message.",
	))
}

// TestMailArrivesSigned takes mail along every way into a Postfix that hands
// it to the milter. Two daemons serve it: one is started with flags alone, one
// has a configuration that trusts no network, so that only a login counts.
func TestMailArrivesSigned(t *testing.T) {
	require(t, postfixNeeds...)
	require(t, dkimpyInstalled)
	t.Parallel()
	dir := shortDir(t)
	keys := newKeystore(t, dir, "example.com", "example.org")

	unix, tcp := "unix:"+filepath.Join(dir, "run", "milter.sock"), "inet:"+loopback(freePort(t))
	d := serve(t, daemonOptions{}, "--keystore", keys.dir, "--listen", unix, "--listen", tcp)

	strict := "unix:" + filepath.Join(dir, "strict", "milter.sock")
	serve(t, daemonOptions{}, "--config", configure(t, filepath.Join(dir, "strict.toml"), fmt.Sprintf(`
[keystore]
url = "dir:%s"
[listen.submission]
address = %q
[origin]
networks = []
[log]
level = "debug"
`, keys.dir, strict)))

	p := startPostfix(t, fmt.Sprintf(`
smtpd_milters = %s
non_smtpd_milters = %[1]s
internal_mail_filter_classes = bounce
smtpd_authorized_xclient_hosts = 127.0.0.0/8
`, unix),
		service{"unix", nil},
		service{"tcp", []string{"smtpd_milters=" + tcp}},
		service{"strict", []string{"smtpd_milters=" + strict}},
	)

	for _, way := range []string{"unix", "tcp"} {
		t.Run("SMTP from this machine by a "+way+" socket", func(t *testing.T) {
			box, text := p.box(), plain("Ann <ann@example.com>", "by "+way)
			if err := smtp(t, p.address(way)).send(envelope{from: "ann@example.com", to: []string{box}}, text); err != nil {
				t.Fatal(err)
			}
			m := p.one(t, box)
			checkSigned(t, keys, m, "example.com")
			checkUnchanged(t, text, m, 2)
		})
	}

	t.Run("several messages and two domains in one SMTP session, each by its own domain", func(t *testing.T) {
		c := smtp(t, p.address("unix"))
		type sent struct {
			box, domain string
			text        []byte
		}
		var all []sent
		for i, domain := range []string{"example.com", "example.org", "example.edu", "example.com", "example.org"} {
			s := sent{p.box(), domain, plain("ann@"+domain, fmt.Sprintf("number %d", i))}
			if i == 3 {
				// A message that ends before its content.
				if err := c.command(250, "MAIL FROM:<gone@example.org>"); err != nil {
					t.Fatal(err)
				}
				if err := c.command(250, "RSET"); err != nil {
					t.Fatal(err)
				}
			}
			if err := c.send(envelope{from: "ann@" + domain, to: []string{s.box}}, s.text); err != nil {
				t.Fatal(err)
			}
			all = append(all, s)
		}
		c.quit()
		for _, s := range all {
			m := p.one(t, s.box)
			if s.domain == "example.edu" { // has no key
				checkUnsigned(t, m)
				checkUnchanged(t, s.text, m, 0)
				continue
			}
			checkSigned(t, keys, m, s.domain)
			checkUnchanged(t, s.text, m, 2)
		}
	})

	t.Run("every copy of a message to many recipients", func(t *testing.T) {
		e, text := envelope{from: "ann@example.com"}, plain("ann@example.com", "to many")
		for range 60 {
			e.to = append(e.to, p.box())
		}
		if err := smtp(t, p.address("unix")).send(e, text); err != nil {
			t.Fatal(err)
		}
		var first *message
		for _, box := range e.to {
			m := p.one(t, box)
			if first == nil {
				first = m
				checkSigned(t, keys, m, "example.com")
			}
			checkUnchanged(t, text, m, 2)
			if !bytes.Equal(m.wire(t).text, first.wire(t).text) {
				t.Errorf("copies differ:\n%s\n%s", m.text, first.text)
			}
		}
	})

	t.Run("the sendmail command", func(t *testing.T) {
		for _, c := range []struct {
			name string
			args []string
			text []byte
		}{
			{"recipients on the command line", nil, plain("ann@example.com", "by sendmail")},
			{"recipients in the message", []string{"-t"}, plain("ann@example.org", "by sendmail t")},
			{"without From, Date and Message-ID", nil, []byte(mail("Subject: bare", "", "Hello."))},
		} {
			t.Run(c.name, func(t *testing.T) {
				box := p.box()
				args := append([]string{"-C", p.path("conf"), "-f", "ann@example.com", "-i"}, c.args...)
				text, domain := c.text, "example.com"
				if c.args == nil {
					args = append(args, box)
				} else {
					text, domain = bytes.Replace(text, []byte("box@example.net"), []byte(box), 1), "example.org"
				}
				send := exec.Command(postconf(t, "sendmail_path"), args...)
				send.Stdin = bytes.NewReader(bytes.ReplaceAll(text, []byte("\r\n"), []byte("\n")))
				if out, err := send.CombinedOutput(); err != nil {
					t.Fatalf("sendmail: %v\n%s", err, out)
				}
				m := p.one(t, box)
				checkSigned(t, keys, m, domain)
				var added []string
				if !bytes.Contains(text, []byte("Date:")) {
					added = []string{"From", "Date", "Message-Id"}
				}
				checkUnchanged(t, text, m, 2, added...)
			})
		}
	})

	t.Run("a bounce, by the domain of MAILER-DAEMON", func(t *testing.T) {
		box, text := p.box(), plain("ann@example.org", "to nobody")
		if err := smtp(t, p.address("unix")).send(envelope{from: box, to: []string{"nobody.here@" + mailDomain}}, text); err != nil {
			t.Fatal(err)
		}
		m := p.one(t, box)
		if from := m.get("From"); !strings.Contains(from, "MAILER-DAEMON@example.com") {
			t.Fatalf("From: %s, want MAILER-DAEMON@example.com", from)
		}
		checkSigned(t, keys, m, "example.com")
	})

	t.Run("a bounce stays as it is without internal_mail_filter_classes", func(t *testing.T) {
		// The counterpart, which shows what the setting does.
		p := startPostfix(t, "non_smtpd_milters = "+unix, service{"plain", nil})
		box, text := p.box(), plain("ann@example.org", "to nobody")
		if err := smtp(t, p.address("plain")).send(envelope{from: box, to: []string{"nobody.here@" + mailDomain}}, text); err != nil {
			t.Fatal(err)
		}
		checkUnsigned(t, p.one(t, box))
	})

	t.Run("not when it comes from a foreign address", func(t *testing.T) {
		c := smtp(t, p.address("unix"))
		if err := c.command(220, "XCLIENT ADDR=192.0.2.7 NAME=pc.example.edu"); err != nil {
			t.Fatal(err)
		}
		if err := c.command(250, "EHLO pc.example.edu"); err != nil {
			t.Fatal(err)
		}
		box, text := p.box(), plain("ann@example.com", "from abroad")
		if err := c.send(envelope{from: "ann@example.com", to: []string{box}}, text); err != nil {
			t.Fatal(err)
		}
		m := p.one(t, box)
		checkUnsigned(t, m)
		checkUnchanged(t, text, m, 0)
	})

	t.Run("with a login from a foreign address", func(t *testing.T) {
		c := smtp(t, p.address("unix"))
		if err := c.command(220, "XCLIENT ADDR=192.0.2.7 NAME=pc.example.edu LOGIN=ann@example.com"); err != nil {
			t.Fatal(err)
		}
		if err := c.command(250, "EHLO pc.example.edu"); err != nil {
			t.Fatal(err)
		}
		box, text := p.box(), plain("ann@example.com", "from abroad with login")
		if err := c.send(envelope{from: "ann@example.com", to: []string{box}}, text); err != nil {
			t.Fatal(err)
		}
		m := p.one(t, box)
		checkSigned(t, keys, m, "example.com")
		checkUnchanged(t, text, m, 2)
	})

	t.Run("not from this machine when no network is trusted", func(t *testing.T) {
		box, text := p.box(), plain("ann@example.com", "no login")
		if err := smtp(t, p.address("strict")).send(envelope{from: "ann@example.com", to: []string{box}}, text); err != nil {
			t.Fatal(err)
		}
		checkUnsigned(t, p.one(t, box))
	})

	for _, want := range []string{`msg=signed .* domain=example.com selectors=`, `queue_id=[0-9A-F]`, `rule="local submission"`, `rule=login`} {
		if !matches(d.log.String(), want) {
			t.Errorf("the log has no %s", want)
		}
	}
	if d.said("unsigned") == 0 {
		t.Error("the log does not say what left unsigned")
	}
}

// TestOnlyTheLoginCounts sends mail from an address that no rule trusts, with a
// real SASL login against a password file of its own.
func TestOnlyTheLoginCounts(t *testing.T) {
	require(t, postfixNeeds...)
	require(t, dkimpyInstalled, installed("saslpasswd2", "sasl2-bin"), saslModules)
	t.Parallel()
	dir := shortDir(t)
	keys := newKeystore(t, dir, "example.com")
	address := "unix:" + filepath.Join(dir, "run", "milter.sock")
	d := serve(t, daemonOptions{}, "--config", configure(t, filepath.Join(dir, "waxseal.toml"), fmt.Sprintf(`
[keystore]
url = %q
[listen.submission]
address = %q
[origin]
networks = []
local = false
daemon_names = []
`, keys.dir, address)))

	p := newPostfix(t)
	logins := p.accounts(t, "example.com", "ann")
	p.start(t, "smtpd_milters = "+address+logins, service{"submission", nil})

	send := func(t *testing.T, c *smtpClient) *message {
		t.Helper()
		box, text := p.box(), plain("ann@example.com", "login")
		if err := c.send(envelope{from: "ann@example.com", to: []string{box}}, text); err != nil {
			t.Fatal(err)
		}
		return p.one(t, box)
	}
	t.Run("mail of a login is signed", func(t *testing.T) {
		c := smtp(t, p.address("submission"))
		if err := c.login("ann", password); err != nil {
			t.Fatal(err)
		}
		checkSigned(t, keys, send(t, c), "example.com")
		if !matches(d.log.String(), `rule=login login="?ann`) {
			t.Error("the log does not name the login")
		}
	})
	t.Run("the same mail without a login is not", func(t *testing.T) {
		checkUnsigned(t, send(t, smtp(t, p.address("submission"))))
	})
	t.Run("nor with a login that failed", func(t *testing.T) {
		c := smtp(t, p.address("submission"))
		if err := c.login("ann", "wrong"); err == nil {
			t.Fatal("a wrong password was taken")
		}
		checkUnsigned(t, send(t, c))
	})
}
