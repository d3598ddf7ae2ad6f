package e2e

import (
	"bytes"
	"path/filepath"
	"strings"
	"testing"
)

// TestMailArrivesSignedBySendmail takes mail along every way into a Sendmail that
// hands it to the milter.
func TestMailArrivesSignedBySendmail(t *testing.T) {
	require(t, sendmailNeeds...)
	require(t, dkimpyInstalled)
	t.Parallel()
	dir := ownDir(t)
	keys := newKeystore(t, dir, "example.com", "example.org")
	socket := filepath.Join(dir, "run", "milter.sock")
	d := serve(t, daemonOptions{}, "--keystore", keys.dir, "--listen", "unix:"+socket)
	hop := startSink(t)
	s := startSendmail(t, hop, inputFilter(socket))

	t.Run("several messages in one SMTP session, each by its own domain", func(t *testing.T) {
		c := smtp(t, s.address())
		for _, domain := range []string{"example.com", "example.org", "example.edu"} {
			to := domain + "@" + eightBitDomain
			if err := c.send(envelope{from: "ann@" + domain, to: []string{to}}, plain("ann@"+domain, "by SMTP")); err != nil {
				t.Fatal(err)
			}
			m := hop.one(t, to)
			if domain == "example.edu" { // has no key
				checkUnsigned(t, m)
				continue
			}
			checkSigned(t, keys, m, domain)
		}
		c.quit()
	})

	unix := func(text []byte) []byte { return bytes.ReplaceAll(text, []byte("\r\n"), []byte("\n")) }
	t.Run("the sendmail command, by submit.cf", func(t *testing.T) {
		to := "command@" + eightBitDomain
		s.command(t, "submit.cf", unix(plain("ann@example.com", "by command")), "-Am", "-i", "-f", "ann@example.com", to)
		checkSigned(t, keys, hop.one(t, to), "example.com")
	})
	t.Run("the sendmail command with recipients in the message", func(t *testing.T) {
		to := "t@" + eightBitDomain
		text := strings.Replace(string(unix(plain("ann@example.com", "by sendmail t"))), "box@example.net", to, 1)
		text = "Bcc: secret@" + eightBitDomain + "\n" + text
		s.command(t, "submit.cf", []byte(text), "-t", "-i", "-f", "ann@example.com")
		for _, to := range []string{to, "secret@" + eightBitDomain} {
			m := hop.one(t, to)
			checkSigned(t, keys, m, "example.com")
			if bcc := m.get("Bcc"); bcc != "" {
				t.Errorf("Bcc: %s arrived", bcc)
			}
		}
	})
	t.Run("the sendmail command, a message with nothing but a body", func(t *testing.T) {
		to := "bare@" + eightBitDomain
		s.command(t, "submit.cf", []byte("Hello.\n"), "-i", "-f", "ann@example.com", to)
		checkSigned(t, keys, hop.one(t, to), "example.com")
	})
	t.Run("SMTP on standard input", func(t *testing.T) {
		to := "bs@" + eightBitDomain
		c := s.onStandardInput(t)
		if err := c.send(envelope{from: "ann@example.com", to: []string{to}}, plain("ann@example.com", "by bs")); err != nil {
			t.Fatal(err)
		}
		c.quit()
		checkSigned(t, keys, hop.one(t, to), "example.com")
	})

	if !matches(d.log.String(), `msg=signed .*queue_id=\w+ .*domain=example.com`) {
		t.Error("the log has no queue id of Sendmail")
	}
}
