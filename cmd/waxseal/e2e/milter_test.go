package e2e

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

// milterClient speaks the milter protocol as Postfix does, packet by packet,
// for what Postfix would never send, or not so fast.
type milterClient struct {
	net.Conn
	r *bufio.Reader
	w *bufio.Writer
}

// What the client offers: Postfix's version, actions and protocol bits
// (libmilter's mfdef.h).
const (
	offerVersion  = 6
	offerActions  = 0x1ff
	offerProtocol = 0x1fffff

	// noReplies are the bits that the client counts on being taken: no reply
	// to CONNECT, HELO, RCPT, DATA, header fields and body.
	noReplies = 0x80 | 0x1000 | 0x2000 | 0x8000 | 0x10000 | 0x80000
)

// dialMilter connects to an address in Postfix's spelling, and negotiates.
func dialMilter(t *testing.T, address string) *milterClient {
	t.Helper()
	c := rawMilter(t, address)
	c.packet('O', binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, offerVersion), offerActions), offerProtocol))
	answer := c.want(t, 'O')
	if len(answer) < 12 {
		t.Fatalf("negotiation: answer of %d bytes", len(answer))
	}
	if taken := binary.BigEndian.Uint32(answer[8:]); taken&noReplies != noReplies {
		t.Fatalf("negotiation: took protocol bits %#x, want at least %#x", taken, noReplies)
	}
	return c
}

// rawMilter connects, and no more.
func rawMilter(t *testing.T, address string) *milterClient {
	t.Helper()
	conn, err := tryMilter(address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(4 * patience))
	return &milterClient{conn, bufio.NewReader(conn), bufio.NewWriterSize(conn, 128<<10)}
}

func tryMilter(address string) (net.Conn, error) {
	network, where, _ := strings.Cut(address, ":")
	if network == "inet" {
		network = "tcp"
	}
	return net.DialTimeout(network, where, patience)
}

// packet writes one packet. Errors show at the next read.
func (c *milterClient) packet(command byte, payload []byte) {
	var head [5]byte
	binary.BigEndian.PutUint32(head[:], uint32(1+len(payload)))
	head[4] = command
	c.w.Write(head[:])
	c.w.Write(payload)
}

// strings0 writes a packet of strings, each with its NUL.
func (c *milterClient) strings0(command byte, s ...string) {
	c.packet(command, []byte(strings.Join(s, "\x00")+"\x00"))
}

// read flushes what was written, and reads a packet.
func (c *milterClient) read() (command byte, payload []byte, err error) {
	if err := c.w.Flush(); err != nil {
		return 0, nil, err
	}
	var head [5]byte
	if _, err := io.ReadFull(c.r, head[:]); err != nil {
		return 0, nil, err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n < 1 || n > 1<<20 {
		return 0, nil, fmt.Errorf("answer of %d bytes", n)
	}
	payload = make([]byte, n-1)
	_, err = io.ReadFull(c.r, payload)
	return head[4], payload, err
}

// want reads a packet that has to be of this kind.
func (c *milterClient) want(t *testing.T, command byte) []byte {
	t.Helper()
	got, payload, err := c.read()
	if err != nil {
		t.Fatalf("waiting for packet %c: %v", command, err)
	}
	if got != command {
		t.Fatalf("packet %c %q, want %c", got, payload, command)
	}
	return payload
}

// connect tells of an SMTP client on this machine.
func (c *milterClient) connect() {
	c.strings0('D', "Cj", "mx.example.com", "{daemon_name}", "mx.example.com", "v", "Postfix 3.7.11")
	c.packet('C', append([]byte("localhost\x004"), append(binary.BigEndian.AppendUint16(nil, 40000), "127.0.0.1\x00"...)...))
}

// begin takes a message up to the end of its header.
func (c *milterClient) begin(t *testing.T, header string) {
	t.Helper()
	c.strings0('D', "M{mail_addr}", "ann@example.com")
	c.strings0('M', "<ann@example.com>")
	c.want(t, 'c')
	c.strings0('R', "<box@example.net>")
	c.strings0('D', "Ti", "4ABCDEF")
	c.header(t, header)
	c.want(t, 'c')
}

// header tells of all fields, and of their end.
func (c *milterClient) header(t *testing.T, header string) {
	t.Helper()
	m, err := parseMessage([]byte(header + "\r\n"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range m.fields {
		c.strings0('L', f.name, strings.ReplaceAll(strings.TrimSuffix(f.value(), "\r\n"), "\r\n", "\n"))
	}
	c.packet('N', nil)
}

// end ends the message, and returns the fields to be put on top of it.
func (c *milterClient) end(t *testing.T) string {
	t.Helper()
	c.strings0('D', "Ei", "4ABCDEF")
	c.packet('E', nil)
	more, f := c.verdict(t)
	if more || f.reply != "" {
		t.Fatalf("answer %q to the end of a message", f.reply)
	}
	return f.top
}

// signByMilter takes one message through a connection of its own.
func signByMilter(t *testing.T, address, header, body string) *message {
	t.Helper()
	c := dialMilter(t, address)
	defer c.Close()
	c.connect()
	c.begin(t, header)
	c.packet('B', []byte(body))
	top := c.end(t)
	c.packet('Q', nil)
	_ = c.w.Flush()
	m, err := parseMessage([]byte(top + header + "\r\n" + body))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// checkSigns fails unless the daemon signs a message.
func checkSigns(t *testing.T, keys *keystore, address, domain string) {
	t.Helper()
	header := strings.Replace(header, "ann@example.com", "ann@"+domain, 1)
	m := signByMilter(t, address, header, "Hello.\r\n")
	got := m.signatures()
	if len(got) != 2 || got[0].domain != domain || got[0].algorithm != "rsa-sha256" || got[1].domain != domain {
		t.Fatalf("signatures %+v, want RSA and Ed25519 of %s", got, domain)
	}
	verdicts, err := msgauth(m, keys)
	if err != nil || strings.Join(verdicts, "") != "" {
		t.Errorf("go-msgauth: %v %q\n%s", err, verdicts, m.text)
	}
}
