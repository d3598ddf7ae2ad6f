//go:build linux

package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"strings"
	"time"
)

// messageTimeout is how long a milter may take over one message. The slowest
// need seconds for 20 MB.
const messageTimeout = 2 * time.Minute

// writeBuffer is the size of Postfix's buffer: it writes when that many bytes
// are waiting, or when it needs an answer.
const writeBuffer = 4096

// session is one connection to a milter, with this program as the mail server.
// It sends what Postfix sends, in writes of the same sizes: macros before each
// command, no command that the milter has declined, no wait for an answer that
// it has declined, and an abort after each message, which stays in the buffer until
// the next one. It is not for concurrent use.
type session struct {
	conn     net.Conn
	in       *bufio.Reader
	out      *bufio.Writer
	packet   []byte // the milter's last one
	data     []byte // of the command that is being made
	protocol uint32 // flags as negotiated

	messages int
	number   int    // of the present message
	queueID  string // of the present message
	skip     bool   // the milter wants no more of its body
}

// dial connects to a milter and goes as far as HELO.
func dial(ctx context.Context, at address) (*session, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, at.network, at.name)
	if err != nil {
		return nil, err
	}
	s := &session{conn: conn, in: bufio.NewReader(conn), out: bufio.NewWriterSize(conn, writeBuffer)}
	if err := s.greet(); err != nil {
		conn.Close()
		return nil, err
	}
	return s, nil
}

func (s *session) greet() error {
	if tcp, ok := s.conn.(*net.TCPConn); ok {
		// Go switches Nagle's algorithm off, Postfix does not.
		if err := tcp.SetNoDelay(false); err != nil {
			return err
		}
	}
	if err := s.conn.SetDeadline(time.Now().Add(messageTimeout)); err != nil {
		return err
	}
	s.data = binary.BigEndian.AppendUint32(s.data[:0], protocolVersion)
	s.data = binary.BigEndian.AppendUint32(s.data, allActions)
	s.data = binary.BigEndian.AppendUint32(s.data, allProtocol)
	s.send(cmdNegotiate, s.data)
	kind, data, err := s.read()
	if err != nil {
		return fmt.Errorf("negotiation: %w", err)
	}
	// What follows the three numbers asks for other macros, which Postfix
	// would then send. No milter here does that.
	if kind != cmdNegotiate || len(data) != 12 || binary.BigEndian.Uint32(data) != protocolVersion {
		return fmt.Errorf("negotiation: answer %q % x, want version %d and no list of macros", kind, data, protocolVersion)
	}
	s.protocol = binary.BigEndian.Uint32(data[8:])
	if more := s.protocol &^ allProtocol; more != 0 {
		return fmt.Errorf("negotiation: the milter asks for flags %#x, which were not offered", more)
	}
	const port = "\xa0\x01"
	if err := s.command(cmdConnect, s.strings("localhost", "4"+port+"127.0.0.1"), "j", "mx.example.com",
		"{daemon_name}", "mx.example.com", "{daemon_addr}", "127.0.0.1", "v", "Postfix 3.7.11", "_", "localhost [127.0.0.1]"); err != nil {
		return err
	}
	return s.command(cmdHelo, s.strings("client.example.org"))
}

// answer is what a milter did with a message.
type answer struct {
	added []field       // topmost first, as they leave the mail server
	took  time.Duration // from the end of the message to the last answer
}

// deliver sends one message, whole.
func (s *session) deliver(m *message, number int) (answer, error) {
	if err := s.open(m, number); err != nil {
		return answer{}, err
	}
	if err := s.body(m.body); err != nil {
		return answer{}, err
	}
	return s.finish()
}

// open sends a message's envelope and header.
func (s *session) open(m *message, number int) error {
	if err := s.conn.SetDeadline(time.Now().Add(messageTimeout)); err != nil {
		return err
	}
	s.messages++
	s.number, s.queueID, s.skip = number, fmt.Sprintf("4F%08X", number), false
	if err := s.command(cmdMail, s.strings("<"+sender+">"),
		"{mail_addr}", sender, "{mail_host}", domain, "{mail_mailer}", "smtp"); err != nil {
		return err
	}
	if err := s.command(cmdRcpt, s.strings("<"+recipient+">"),
		"{rcpt_addr}", recipient, "{rcpt_host}", "example.net", "{rcpt_mailer}", "smtp"); err != nil {
		return err
	}
	if err := s.command(cmdData, nil, "i", s.queueID); err != nil {
		return err
	}
	// Postfix's smtpd hands the connection to cleanup here, with nothing unsent.
	if err := s.out.Flush(); err != nil {
		return err
	}
	for _, f := range m.fields {
		f = f.numbered(number)
		if s.protocol&leadingSpace == 0 {
			f.value = strings.TrimPrefix(f.value, " ")
		}
		if err := s.command(cmdHeader, s.strings(f.name, f.value), "i", s.queueID); err != nil {
			return err
		}
	}
	return s.command(cmdEndHeader, nil, "i", s.queueID)
}

// body sends a part of the message's body.
func (s *session) body(b []byte) error {
	for len(b) > 0 && !s.skip {
		n := min(len(b), maxBodyPacket)
		if err := s.command(cmdBody, b[:n], "i", s.queueID); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

// finish ends the message and takes the milter's answers to it.
func (s *session) finish() (answer, error) {
	var a answer
	start := time.Now()
	s.macros(cmdEnd, "i", s.queueID)
	s.send(cmdEnd, nil)
	for {
		kind, data, err := s.read()
		if err != nil {
			return a, fmt.Errorf("end of message: %w", err)
		}
		switch kind {
		case ansProgress:
		case ansAddHeader, ansInsertHeader:
			f, err := s.addedField(kind, data)
			if err != nil {
				return a, err
			}
			a.added = append([]field{f}, a.added...)
		case ansAccept, ansContinue:
			a.took = time.Since(start)
			s.send(cmdAbort, nil)
			return a, nil
		default:
			return a, fmt.Errorf("end of message: answer %q %q", kind, data)
		}
	}
}

// addedField reads an answer that adds a header field.
func (s *session) addedField(kind byte, data []byte) (field, error) {
	if kind == ansInsertHeader {
		data = data[min(4, len(data)):] // the place
	}
	name, value, ok := bytes.Cut(data, []byte{0})
	value, ended := bytes.CutSuffix(value, []byte{0})
	if !ok || !ended {
		return field{}, fmt.Errorf("answer %q without a name and a value: %q", kind, data)
	}
	f := field{string(name), strings.ReplaceAll(string(value), "\r\n", "\n")}
	if s.protocol&leadingSpace == 0 {
		f.value = " " + f.value
	}
	return f, nil
}

// close ends the session as Postfix does.
func (s *session) close() {
	s.send(cmdAbort, nil)
	s.send(cmdQuit, nil)
	_ = s.out.Flush() // the milter may be gone, and that is not what is measured
	s.conn.Close()
}

// command sends a command after its macros, as far as the milter wants it, and
// takes the answer, if there is to be one.
func (s *session) command(command byte, data []byte, macros ...string) error {
	stage := stages[command]
	s.macros(command, macros...)
	if s.protocol&stage.unwanted != 0 {
		return nil
	}
	s.send(command, data)
	if s.protocol&stage.noReply != 0 {
		return nil
	}
	for {
		kind, data, err := s.read()
		switch {
		case err != nil:
			return fmt.Errorf("command %q: %w", command, err)
		case kind == ansContinue:
			return nil
		case kind == ansSkip && command == cmdBody:
			s.skip = true
			return nil
		case kind != ansProgress:
			return fmt.Errorf("command %q: answer %q %q", command, kind, data)
		}
	}
}

// strings makes the data of a command. It is good until the next call.
func (s *session) strings(values ...string) []byte {
	s.data = appendStrings(s.data[:0], values...)
	return s.data
}

// macros sends the macros of a command. Postfix sends this packet even when it
// has none, and even when the command itself is not wanted.
func (s *session) macros(command byte, pairs ...string) {
	var b [256]byte
	s.send(cmdMacros, appendStrings(append(b[:0], command), pairs...))
}

// send puts a packet into the buffer. What goes wrong comes up in the next read
// or flush.
func (s *session) send(command byte, data []byte) {
	var head [5]byte
	binary.BigEndian.PutUint32(head[:], uint32(1+len(data)))
	head[4] = command
	s.write(head[:])
	s.write(data)
}

// write fills the buffer to the brim before it is written, whereas bufio.Writer
// would pass large data on at once.
func (s *session) write(p []byte) {
	for len(p) > 0 {
		if s.out.Available() == 0 && s.out.Flush() != nil {
			return
		}
		n := min(len(p), s.out.Available())
		_, _ = s.out.Write(p[:n]) // the error stays with the writer
		p = p[n:]
	}
}

// read takes the milter's next packet, after sending what it may be waiting for.
func (s *session) read() (kind byte, data []byte, err error) {
	if err := s.out.Flush(); err != nil {
		return 0, nil, err
	}
	return readPacket(s.in, &s.packet)
}
