package milter

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

// mta speaks the MTA's half of the milter protocol, packet by packet as a real
// Postfix does (libmilter's mfdef.h has the numbers).
type mta struct {
	t       testing.TB
	conn    net.Conn
	r       *bufio.Reader
	proto   uint32 // agreed
	version uint32
	out     []byte
}

// offer is what an MTA brings to the negotiation.
type offer struct{ version, actions, protocol uint32 }

// postfix is the offer of Postfix 3.7 (as captured from a real one).
var postfix = offer{6, 0x1ff, 0x1fffff}

const (
	noConnReply = 1 << 12
	noHeloReply = 1 << 13
	noMailReply = 1 << 14
	noRcptReply = 1 << 15
	noDataReply = 1 << 16
	noHdrReply  = 1 << 7
	noEOHReply  = 1 << 18
	noBodyReply = 1 << 19
	leadSpace   = 1 << 20
)

type packet struct {
	command byte
	data    []byte
}

func (p packet) String() string { return fmt.Sprintf("%c %q", p.command, p.data) }

func dialMTA(t testing.TB, address net.Addr, o offer) *mta {
	t.Helper()
	conn, err := net.Dial(address.Network(), address.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	m := &mta{t: t, conn: conn, r: bufio.NewReaderSize(conn, 1<<16)}
	data := binary.BigEndian.AppendUint32(nil, o.version)
	data = binary.BigEndian.AppendUint32(data, o.actions)
	data = binary.BigEndian.AppendUint32(data, o.protocol)
	m.send('O', data)
	p := m.read()
	if p.command != 'O' || len(p.data) < 12 {
		t.Fatalf("negotiation answered with %v", p)
	}
	m.version, m.proto = binary.BigEndian.Uint32(p.data), binary.BigEndian.Uint32(p.data[8:])
	if extra := m.proto &^ o.protocol; extra != 0 {
		t.Fatalf("the milter asks for protocol bits %#x that were not offered", extra)
	}
	return m
}

func (m *mta) queue(command byte, data []byte) { m.out = appendPacket(m.out, command, data) }

func (m *mta) flush() {
	m.t.Helper()
	m.conn.SetDeadline(time.Now().Add(30 * time.Second))
	if _, err := m.conn.Write(m.out); err != nil {
		m.t.Fatalf("write: %v", err)
	}
	m.out = m.out[:0]
}

func (m *mta) send(command byte, data []byte) {
	m.t.Helper()
	m.queue(command, data)
	m.flush()
}

// read reads one packet.
func (m *mta) read() packet {
	m.t.Helper()
	p, err := m.tryRead()
	if err != nil {
		m.t.Fatalf("read: %v", err)
	}
	return p
}

func (m *mta) tryRead() (packet, error) {
	m.conn.SetReadDeadline(time.Now().Add(30 * time.Second))
	var head [5]byte
	if _, err := io.ReadFull(m.r, head[:]); err != nil {
		return packet{}, err
	}
	data := make([]byte, binary.BigEndian.Uint32(head[:])-1)
	_, err := io.ReadFull(m.r, data)
	return packet{head[4], data}, err
}

// ask sends a command, and reads the reply if one was agreed.
func (m *mta) ask(command byte, data []byte, noReply uint32) packet {
	m.t.Helper()
	m.queue(command, data)
	if m.proto&noReply != 0 {
		return packet{command: 'c'}
	}
	m.flush()
	return m.read()
}

func (m *mta) macros(command byte, pairs ...string) {
	m.queue('D', append([]byte{command}, cstrings(pairs...)...))
}

func cstrings(s ...string) []byte {
	var b []byte
	for _, each := range s {
		b = append(append(b, each...), 0)
	}
	return b
}

// connect tells of an SMTP client, as Postfix does.
func (m *mta) connect(host, address string, port uint16, daemonName, version string) {
	m.t.Helper()
	pairs := []string{"j", "mx.example.com", "{daemon_addr}", "127.0.0.1"}
	if daemonName != "" {
		pairs = append(pairs, "{daemon_name}", daemonName)
	}
	if version != "" {
		pairs = append(pairs, "v", version)
	}
	m.macros('C', pairs...)
	family := byte('4')
	if strings.Contains(address, ":") {
		family = '6'
	}
	data := append(cstrings(host), family)
	data = binary.BigEndian.AppendUint16(data, port)
	if r := m.ask('C', append(data, cstrings(address)...), noConnReply); r.command != 'c' {
		m.t.Fatalf("connect answered with %v", r)
	}
	m.macros('H')
	if r := m.ask('H', cstrings("client.example.org"), noHeloReply); r.command != 'c' {
		m.t.Fatalf("helo answered with %v", r)
	}
}

// mail is one message.
type mail struct {
	login, from string
	header      []string // "Name:value", folds as \n
	body        string
	chunk       int // size of body packets; 0: 65535
}

// reply is what the milter said to a message.
type reply struct {
	final   packet
	stage   byte // the command it was the answer to
	inserts []packet
}

// send runs one message through and returns the final reply.
func (m *mta) mail(msg mail) reply {
	m.t.Helper()
	login := []string{"{mail_addr}", msg.from}
	if msg.login != "" {
		login = append(login, "{auth_type}", "PLAIN", "{auth_authen}", msg.login)
	}
	m.macros('M', login...)
	if r := m.ask('M', cstrings("<"+msg.from+">", "SIZE=1000"), noMailReply); r.command != 'c' {
		return reply{final: r, stage: 'M'}
	}
	m.macros('R', "{rcpt_addr}", "bob@example.net")
	m.ask('R', cstrings("<bob@example.net>"), noRcptReply)
	m.macros('T', "i", "4841299E615")
	m.ask('T', nil, noDataReply)
	for _, h := range msg.header {
		name, value, _ := strings.Cut(h, ":")
		if m.proto&leadSpace == 0 {
			value = strings.TrimPrefix(value, " ")
		}
		m.macros('L', "i", "4841299E615")
		if r := m.ask('L', cstrings(name, value), noHdrReply); r.command != 'c' {
			return reply{final: r, stage: 'L'}
		}
	}
	m.macros('N', "i", "4841299E615")
	if r := m.ask('N', nil, noEOHReply); r.command != 'c' {
		return reply{final: r, stage: 'N'}
	}
	chunk := msg.chunk
	if chunk == 0 {
		chunk = 65535
	}
	for body := []byte(msg.body); len(body) > 0; {
		n := min(chunk, len(body))
		m.macros('B', "i", "4841299E615")
		if r := m.ask('B', body[:n], noBodyReply); r.command != 'c' {
			return reply{final: r, stage: 'B'}
		}
		body = body[n:]
	}
	m.macros('E', "i", "4841299E615")
	m.queue('E', nil)
	m.flush()
	out := reply{stage: 'E'}
	for {
		p := m.read()
		if p.command != 'i' {
			out.final = p
			return out
		}
		out.inserts = append(out.inserts, p)
	}
}

func (m *mta) abort() { m.queue('A', nil); m.flush() }

// delivered puts the inserted fields where an MTA puts them, and returns the
// message as the next hop gets it.
func (m *mta) delivered(msg mail, r reply) []byte {
	m.t.Helper()
	var fields []string
	for _, h := range msg.header {
		fields = append(fields, strings.ReplaceAll(h, "\n", "\r\n"))
	}
	for _, p := range r.inserts {
		index := binary.BigEndian.Uint32(p.data)
		parts := bytes.Split(p.data[4:], []byte{0})
		if index != 0 || len(parts) != 3 {
			m.t.Fatalf("insert %v, want index 0 and two strings", p)
		}
		value := string(parts[1])
		if m.proto&leadSpace == 0 {
			value = " " + value
		}
		if strings.Contains(value, "\r") {
			m.t.Fatalf("folds sent with CR: %q", value)
		}
		fields = append([]string{string(parts[0]) + ":" + strings.ReplaceAll(value, "\n", "\r\n")}, fields...)
	}
	return []byte(strings.Join(fields, "\r\n") + "\r\n\r\n" + msg.body)
}
