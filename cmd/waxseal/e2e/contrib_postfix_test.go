package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// contrib reads a file of contrib, with what belongs to a real machine replaced
// by what belongs to the test. Each old string has to be there.
func contrib(t *testing.T, name string, oldnew ...string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("../../../contrib", name))
	if err != nil {
		t.Fatal(err)
	}
	text := string(b)
	for i := 0; i < len(oldnew); i += 2 {
		if !strings.Contains(text, oldnew[i]) {
			t.Fatalf("contrib/%s has no %q", name, oldnew[i])
		}
		text = strings.ReplaceAll(text, oldnew[i], oldnew[i+1])
	}
	return text
}

// serveContrib makes the directory for the socket as contrib/postfix says, and
// starts a daemon with a configuration from there.
func serveContrib(t *testing.T, p *postfix, toml string, keys *keystore, oldnew ...string) *daemon {
	t.Helper()
	mkdir(t, p.path("queue/waxseal"), "root", "postfix", 0o750)
	text := contrib(t, toml, append(oldnew, "/var/spool/postfix", p.path("queue"))...)
	return serve(t, daemonOptions{}, "--config", configure(t, p.path("waxseal.toml"), text+"\n[keystore]\nurl = \"dir:"+keys.dir+"\"\n"))
}

// checkConfiguration has Postfix itself judge its configuration. Settings of the
// test that others take the place of, and the test's password file, are no matter.
func (p *postfix) checkConfiguration(t *testing.T) {
	t.Helper()
	for _, args := range [][]string{{"postfix", "-c", p.path("conf"), "check"}, {"postconf", "-c", p.path("conf"), "-n"}, {"postconf", "-c", p.path("conf"), "-M"}} {
		c := exec.Command(args[0], args[1:]...)
		var stderr strings.Builder
		c.Stderr = &stderr
		err := c.Run()
		var said string
		for line := range strings.Lines(stderr.String()) {
			if !strings.Contains(line, "overriding earlier entry") && !strings.Contains(line, "sasldb2") {
				said += line
			}
		}
		if err != nil || said != "" {
			t.Errorf("%s: %v\n%s", strings.Join(args, " "), err, said)
		}
	}
}

// certificate makes a certificate for this Postfix. It returns the lines of
// main.cf that use it.
func (p *postfix) certificate(t *testing.T) (*x509.CertPool, string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"mx.example.com"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(certificate)
	file := writeFile(t, p.path("conf/tls.pem"), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}))+
		string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), 0o600)
	return pool, "\nsmtpd_tls_chain_files = " + file + "\n"
}

// serviceAt is a line of master.cf at a loopback port instead.
func serviceAt(port int) string { return loopback(port) + " inet" }

// TestContribPostfixSubmission loads the files for a server with logins, the
// smtpd in a chroot.
func TestContribPostfixSubmission(t *testing.T) {
	require(t, postfixNeeds...)
	require(t, dkimpyInstalled, installed("saslpasswd2", "sasl2-bin"), saslModules)
	t.Parallel()
	p := newPostfix(t)
	keys := newKeystore(t, shortDir(t), "example.com")
	serveContrib(t, p, "postfix/waxseal.toml", keys)
	port := freePort(t)
	p.master = contrib(t, "postfix/submission.master.cf", "submission inet", serviceAt(port))
	pool, tlsLines := p.certificate(t)
	p.start(t, contrib(t, "postfix/main.cf")+tlsLines+p.accounts(t, "example.com", "ann")+"smtpd_authorized_xclient_hosts = 127.0.0.0/8\n", service{name: "smtp"})
	p.checkConfiguration(t)

	t.Run("a user from anywhere", func(t *testing.T) {
		c := smtp(t, loopback(port))
		if err := c.command(250, "MAIL FROM:<ann@example.com>"); err == nil {
			t.Error("mail was taken without TLS")
		}
		if err := c.startTLS("mx.example.com", pool); err != nil {
			t.Fatal(err)
		}
		// The password file is out of reach in a chroot; a real server asks
		// another process. XCLIENT gives the login instead.
		if err := c.command(220, "XCLIENT ADDR=198.51.100.7 NAME=pc.example.edu LOGIN=ann"); err != nil {
			t.Fatal(err)
		}
		if err := c.command(250, "EHLO pc.example.edu"); err != nil {
			t.Fatal(err)
		}
		box := p.box()
		if err := c.send(envelope{from: "ann@example.com", to: []string{box}}, plain("ann@example.com", "submission")); err != nil {
			t.Fatal(err)
		}
		checkSigned(t, keys, p.one(t, box), "example.com")
	})
	t.Run("not a stranger at port 25", func(t *testing.T) {
		c := smtp(t, p.address("smtp"))
		if err := c.command(220, "XCLIENT ADDR=198.51.100.7 NAME=pc.example.edu"); err != nil {
			t.Fatal(err)
		}
		if err := c.command(250, "EHLO pc.example.edu"); err != nil {
			t.Fatal(err)
		}
		box := p.box()
		if err := c.send(envelope{from: "ann@example.com", to: []string{box}}, plain("ann@example.com", "stranger")); err != nil {
			t.Fatal(err)
		}
		checkUnsigned(t, p.one(t, box))
	})
	t.Run("the sendmail command", func(t *testing.T) {
		box := p.box()
		send := exec.Command(postconf(t, "sendmail_path"), "-C", p.path("conf"), "-f", "ann@example.com", "-i", box)
		send.Stdin = strings.NewReader("From: ann@example.com\nSubject: command\n\nHello.\n")
		if out, err := send.CombinedOutput(); err != nil {
			t.Fatalf("sendmail: %v\n%s", err, out)
		}
		checkSigned(t, keys, p.one(t, box), "example.com")
	})
	t.Run("a bounce", func(t *testing.T) {
		box := p.box()
		if err := smtp(t, p.address("smtp")).send(envelope{from: box, to: []string{"nobody.here@" + mailDomain}}, plain("ann@example.com", "to nobody")); err != nil {
			t.Fatal(err)
		}
		checkSigned(t, keys, p.one(t, box), "example.com")
	})
}

// TestContribPostfixRelay loads the files for a relay, and the 8-bit settings,
// before a next hop without 8BITMIME.
func TestContribPostfixRelay(t *testing.T) {
	require(t, postfixNeeds...)
	require(t, dkimpyInstalled)
	t.Parallel()
	p := newPostfix(t)
	keys := newKeystore(t, shortDir(t), "example.com")
	serveContrib(t, p, "postfix/relay.toml", keys)
	hop := startSink(t)
	p.start(t, contrib(t, "postfix/main.cf")+contrib(t, "postfix/eight-bit.cf")+fmt.Sprintf(`
mynetworks = 127.0.0.0/8, 192.0.2.0/24, 198.51.100.0/24
transport_maps = inline:{ %s=smtp:[%s]:%d }
smtpd_authorized_xclient_hosts = 127.0.0.0/8
`, sevenBitDomain, sevenBitHop, hop.port), service{"smtp", nil})
	p.checkConfiguration(t)

	for client, signed := range map[string]bool{"192.0.2.7": true, "198.51.100.7": false} {
		t.Run("8-bit mail of "+client, func(t *testing.T) {
			c := smtp(t, p.address("smtp"))
			if err := c.command(220, "XCLIENT ADDR=%s NAME=host.example.com", client); err != nil {
				t.Fatal(err)
			}
			if err := c.command(250, "EHLO host.example.com"); err != nil {
				t.Fatal(err)
			}
			to := client + "@" + sevenBitDomain
			if err := c.send(envelope{from: "ann@example.com", to: []string{to}, parameters: " BODY=8BITMIME"}, []byte(eightBit)); err != nil {
				t.Fatal(err)
			}
			if m := hop.one(t, to); signed {
				checkSigned(t, keys, m, "example.com")
			} else {
				checkUnsigned(t, m)
			}
		})
	}
}

// TestContribPostfixContentFilter loads the files for a content filter behind the
// queue, and plays the filter, which changes each message.
func TestContribPostfixContentFilter(t *testing.T) {
	require(t, postfixNeeds...)
	require(t, dkimpyInstalled, installed("saslpasswd2", "sasl2-bin"), saslModules)
	t.Parallel()
	p := newPostfix(t)
	keys := newKeystore(t, shortDir(t), "example.com")
	serveContrib(t, p, "postfix/content-filter.toml", keys)
	filter := startSink(t)
	port, back, submission, signed := freePort(t), freePort(t), freePort(t), freePort(t)
	p.master = contrib(t, "postfix/content-filter.master.cf",
		"smtp      inet", serviceAt(port), "127.0.0.1:10025 inet", serviceAt(back),
		"submission inet", serviceAt(submission), "127.0.0.1:10027 inet", serviceAt(signed),
		"[127.0.0.1]:10024", fmt.Sprintf("[127.0.0.1]:%d", filter.port), "[127.0.0.1]:10026", fmt.Sprintf("[127.0.0.1]:%d", filter.port))
	pool, tlsLines := p.certificate(t)
	p.start(t, contrib(t, "postfix/content-filter.main.cf")+tlsLines+p.accounts(t, "example.com", "ann")+"smtpd_authorized_xclient_hosts = 127.0.0.0/8\n")
	p.checkConfiguration(t)

	// pass takes a message through the filter, and returns what is delivered.
	pass := func(t *testing.T, c *smtpClient, back int) *message {
		t.Helper()
		box := p.box()
		if err := c.send(envelope{from: "ann@example.com", to: []string{box}}, plain("ann@example.com", "filter")); err != nil {
			t.Fatal(err)
		}
		m := filter.one(t, box)
		checkUnsigned(t, m)
		text := strings.Replace(string(m.text), "Hello,", "Hello, this was scanned,", 1)
		if err := smtp(t, loopback(back)).send(envelope{from: "ann@example.com", to: []string{box}}, []byte(text)); err != nil {
			t.Fatal(err)
		}
		return p.one(t, box)
	}
	t.Run("mail of a user is signed when it comes back", func(t *testing.T) {
		c := smtp(t, loopback(submission))
		if err := c.startTLS("mx.example.com", pool); err != nil {
			t.Fatal(err)
		}
		if err := c.command(220, "XCLIENT ADDR=198.51.100.7 NAME=pc.example.edu LOGIN=ann"); err != nil {
			t.Fatal(err)
		}
		if err := c.command(250, "EHLO pc.example.edu"); err != nil {
			t.Fatal(err)
		}
		checkSigned(t, keys, pass(t, c, signed), "example.com")
	})
	t.Run("mail from outside is not, although it comes back from this machine", func(t *testing.T) {
		checkUnsigned(t, pass(t, smtp(t, loopback(port)), back))
	})
}
