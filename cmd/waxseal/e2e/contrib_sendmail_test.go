package e2e

import (
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"testing"
)

// serveContribSendmail starts a daemon with a configuration of contrib/sendmail.
// It returns the path of the directory that stands for /run/waxseal.
func serveContribSendmail(t *testing.T, toml string, keys *keystore, oldnew ...string) string {
	t.Helper()
	dir := ownDir(t)
	run := filepath.Join(dir, "run")
	mkdir(t, run, deliveryUser, "nogroup", 0o750)
	text := contrib(t, "sendmail/"+toml, append(oldnew, "/run/waxseal", run)...)
	serve(t, daemonOptions{}, "--config", configure(t, filepath.Join(dir, "waxseal.toml"), text+"\n[keystore]\nurl = \"dir:"+keys.dir+"\"\n"))
	chown(t, filepath.Join(run, "milter.sock"), deliveryUser, "nogroup") // as if the daemon ran as this user
	return run
}

// smtpFrom connects from another loopback address.
func smtpFrom(t *testing.T, client, address string) *smtpClient {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(client)}}
	conn, err := d.Dial("tcp4", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	c, err := greetSMTP(conn)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// eightBit is a message with 8-bit content.
const eightBit = header + "MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\nGrüße\r\n"

// TestContribSendmailSubmission loads the files for a server with logins, and the
// 8-bit settings, before a next hop without 8BITMIME.
func TestContribSendmailSubmission(t *testing.T) {
	require(t, sendmailNeeds...)
	require(t, dkimpyInstalled)
	t.Parallel()
	keys := newKeystore(t, shortDir(t), "example.com")
	run := serveContribSendmail(t, "waxseal.toml", keys)
	hop := startSink(t)
	mta, msa := freePort(t), freePort(t)
	s := startSendmailAt(t, hop, mta, contrib(t, "sendmail/eight-bit.mc")+contrib(t, "sendmail/submission.mc", "/run/waxseal", run,
		"Port=25'", fmt.Sprintf("Addr=127.0.0.1, Port=%d'", mta), "Port=587,", fmt.Sprintf("Addr=127.0.0.1, Port=%d,", msa)))

	t.Run("nobody without a login at port 587", func(t *testing.T) {
		err := smtp(t, loopback(msa)).send(envelope{from: "ann@example.com", to: []string{"msa@" + eightBitDomain}}, plain("ann@example.com", "msa"))
		if err == nil || !strings.Contains(err.Error(), "530") {
			t.Errorf("mail without a login: %v, want 530", err)
		}
	})
	t.Run("the sendmail command", func(t *testing.T) {
		to := "command@" + eightBitDomain
		s.command(t, "submit.cf", []byte("From: ann@example.com\nSubject: command\n\nHello.\n"), "-i", "-f", "ann@example.com", to)
		checkSigned(t, keys, hop.one(t, to), "example.com")
	})
	t.Run("8-bit mail, lines of 998 octets", func(t *testing.T) {
		to := "eight@" + sevenBitDomain
		text := eightBit + strings.Repeat("x", 998) + "\r\n"
		if err := smtp(t, s.address()).send(envelope{from: "ann@example.com", to: []string{to}, parameters: " BODY=8BITMIME"}, []byte(text)); err != nil {
			t.Fatal(err)
		}
		checkSigned(t, keys, hop.one(t, to), "example.com")
	})
}

// TestContribSendmailRelay loads the files for a relay. It signs the bounces of
// another server, too.
func TestContribSendmailRelay(t *testing.T) {
	require(t, sendmailNeeds...)
	require(t, dkimpyInstalled)
	t.Parallel()
	keys := newKeystore(t, shortDir(t), "example.com")
	run := serveContribSendmail(t, "relay.toml", keys, `"127.0.0.0/8", "::1/128", "192.0.2.0/24"`, `"127.0.0.3/32"`)
	hop := startSink(t)
	s := startSendmail(t, hop, contrib(t, "sendmail/relay.mc", "/run/waxseal", run, "192.0.2", "127.0.0"))

	send := func(t *testing.T, client, from string, text []byte) *message {
		t.Helper()
		to := strings.NewReplacer("/", ".", " ", ".").Replace(t.Name()) + "@" + eightBitDomain
		if err := smtpFrom(t, client, s.address()).send(envelope{from: from, to: []string{to}}, text); err != nil {
			t.Fatal(err)
		}
		return hop.one(t, to)
	}
	t.Run("mail of a host of the network", func(t *testing.T) {
		checkSigned(t, keys, send(t, "127.0.0.3", "ann@example.com", plain("ann@example.com", "relay")), "example.com")
	})
	t.Run("not of another", func(t *testing.T) {
		checkUnsigned(t, send(t, "127.0.0.4", "ann@example.com", plain("ann@example.com", "relay")))
	})
	t.Run("a bounce", func(t *testing.T) {
		checkSigned(t, keys, send(t, "127.0.0.3", "", plain("MAILER-DAEMON@example.com (Mail Delivery Subsystem)", "bounce")), "example.com")
	})
}

// TestContribSendmailContentFilter loads the files for a content filter that
// hands mail back to a listener of its own.
func TestContribSendmailContentFilter(t *testing.T) {
	require(t, sendmailNeeds...)
	require(t, dkimpyInstalled)
	t.Parallel()
	keys := newKeystore(t, shortDir(t), "example.com")
	run := serveContribSendmail(t, "content-filter.toml", keys)
	hop := startSink(t)
	mta, msa, back := freePort(t), freePort(t), freePort(t)
	s := startSendmailAt(t, hop, mta, contrib(t, "sendmail/content-filter.mc", "/run/waxseal", run,
		"Port=25'", fmt.Sprintf("Addr=127.0.0.1, Port=%d'", mta), "Port=587,", fmt.Sprintf("Addr=127.0.0.1, Port=%d,", msa),
		"Port=10027,", fmt.Sprintf("Port=%d,", back)))

	for address, signed := range map[string]bool{s.address(): false, loopback(back): true} {
		to := fmt.Sprintf("signed.%v@%s", signed, eightBitDomain)
		if err := smtp(t, address).send(envelope{from: "ann@example.com", to: []string{to}}, plain("ann@example.com", "filter")); err != nil {
			t.Fatal(err)
		}
		if m := hop.one(t, to); signed {
			checkSigned(t, keys, m, "example.com")
		} else {
			checkUnsigned(t, m)
		}
	}
}
