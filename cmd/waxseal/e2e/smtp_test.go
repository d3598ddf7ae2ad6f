package e2e

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/textproto"
	"regexp"
	"testing"
	"time"
)

// smtpClient speaks SMTP and leaves the bytes of a message alone.
type smtpClient struct {
	conn smtpConn
	text *textproto.Conn
}

// smtpConn is a connection to a server, or the pipes to one that is a child.
type smtpConn interface {
	io.ReadWriteCloser
	SetDeadline(time.Time) error
}

// dialSMTP connects and says EHLO.
func dialSMTP(address string) (*smtpClient, error) {
	conn, err := net.DialTimeout("tcp", address, patience)
	if err != nil {
		return nil, err
	}
	return greetSMTP(conn)
}

// greetSMTP says EHLO.
func greetSMTP(conn smtpConn) (*smtpClient, error) {
	c := &smtpClient{conn, textproto.NewConn(conn)}
	_ = conn.SetDeadline(time.Now().Add(2 * patience))
	if _, _, err := c.text.ReadResponse(220); err != nil {
		conn.Close()
		return nil, err
	}
	if err := c.command(250, "EHLO client.example.com"); err != nil {
		conn.Close()
		return nil, err
	}
	return c, nil
}

// smtp is dialSMTP for a test.
func smtp(t *testing.T, address string) *smtpClient {
	t.Helper()
	c, err := dialSMTP(address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.conn.Close() })
	return c
}

func (c *smtpClient) quit() {
	_ = c.command(221, "QUIT")
	c.conn.Close()
}

// command sends a line and wants a reply with this code. Another reply is a
// *textproto.Error.
func (c *smtpClient) command(code int, format string, args ...any) error {
	_ = c.conn.SetDeadline(time.Now().Add(2 * patience))
	if err := c.text.PrintfLine(format, args...); err != nil {
		return err
	}
	_, _, err := c.text.ReadResponse(code)
	return err
}

// startTLS goes on in TLS, with a server that has a certificate of this pool.
func (c *smtpClient) startTLS(name string, pool *x509.CertPool) error {
	if err := c.command(220, "STARTTLS"); err != nil {
		return err
	}
	conn := tls.Client(c.conn.(net.Conn), &tls.Config{ServerName: name, RootCAs: pool})
	c.conn, c.text = conn, textproto.NewConn(conn)
	return c.command(250, "EHLO client.example.com")
}

// login authenticates with a password (RFC 4616).
func (c *smtpClient) login(name, password string) error {
	return c.command(235, "AUTH PLAIN %s", base64.StdEncoding.EncodeToString([]byte("\x00"+name+"\x00"+password)))
}

// envelope is how a message is handed in.
type envelope struct {
	from       string // may be empty
	to         []string
	parameters string // of MAIL, with a leading blank
}

func (c *smtpClient) begin(e envelope) error {
	if err := c.command(250, "MAIL FROM:<%s>%s", e.from, e.parameters); err != nil {
		return fmt.Errorf("MAIL: %w", err)
	}
	for _, to := range e.to {
		if err := c.command(250, "RCPT TO:<%s>", to); err != nil {
			return fmt.Errorf("RCPT: %w", err)
		}
	}
	if err := c.command(354, "DATA"); err != nil {
		return fmt.Errorf("DATA: %w", err)
	}
	return nil
}

// write sends bytes as they are.
func (c *smtpClient) write(b []byte) error {
	_ = c.conn.SetDeadline(time.Now().Add(2 * patience))
	if _, err := c.text.W.Write(b); err != nil {
		return err
	}
	return c.text.W.Flush()
}

// end ends the message and reads the reply.
func (c *smtpClient) end() error {
	if err := c.command(250, "."); err != nil {
		return fmt.Errorf("end of message: %w", err)
	}
	return nil
}

// send hands in a message with CRLF line ends. Lines that begin with a dot get
// another (RFC 5321, section 4.5.2).
func (c *smtpClient) send(e envelope, message []byte) error {
	if err := c.begin(e); err != nil {
		return err
	}
	if err := c.write(stuffed(message)); err != nil {
		return err
	}
	return c.end()
}

var queuedAs = regexp.MustCompile(`queued as (\w+)|(\w+) Message accepted`)

// sendQueued is send, and returns the id that the message has in the queue of
// Postfix or Sendmail.
func (c *smtpClient) sendQueued(e envelope, message []byte) (string, error) {
	if err := c.begin(e); err != nil {
		return "", err
	}
	if err := c.write(append(stuffed(message), ".\r\n"...)); err != nil {
		return "", err
	}
	_, reply, err := c.text.ReadResponse(250)
	if err != nil {
		return "", fmt.Errorf("end of message: %w", err)
	}
	m := queuedAs.FindStringSubmatch(reply)
	if m == nil {
		return "", fmt.Errorf("no queue id in %q", reply)
	}
	return m[1] + m[2], nil
}

func stuffed(message []byte) []byte {
	b := bytes.ReplaceAll(message, []byte("\r\n."), []byte("\r\n.."))
	if bytes.HasPrefix(b, []byte(".")) {
		b = append([]byte("."), b...)
	}
	if !bytes.HasSuffix(b, []byte("\r\n")) {
		b = append(b, "\r\n"...)
	}
	return b
}

// refusedForNow says whether an error is a 4xx reply: the same message may be
// sent again.
func refusedForNow(err error) bool {
	var reply *textproto.Error
	if errors.As(err, &reply) {
		return reply.Code >= 400 && reply.Code < 500
	}
	return false
}
