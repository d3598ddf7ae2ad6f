package milter

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"time"
)

// Commands of the milter protocol that the guard looks at (libmilter's
// mfdef.h, SMFIC_*), and the replies that change a message (SMFIR_*).
const (
	cmdConnect = 'C'
	cmdMacro   = 'D'
	cmdMail    = 'M'
	cmdRcpt    = 'R'
	cmdHeader  = 'L'
	cmdBody    = 'B'

	modifications = "+-2bhimqe"
)

const (
	// maxFrame bounds a packet: the largest chunk any MTA can negotiate is
	// 1 MiB, and the command takes one byte more. Postfix header packets can
	// reach its header_size_limit, 100 KiB by default.
	maxFrame = 1<<20 + 1

	// maxEnvelopeFrame bounds CONNECT, MAIL and RCPT, which are looked at as
	// a whole before they are handed on. SMTP command lines end at 2 KiB.
	maxEnvelopeFrame = readBuffer - 4

	// maxMacroFrame and maxMacros bound the macros of one command, which
	// go-milter keeps as long as the connection lasts. Postfix sends some ten,
	// in well under 2 KiB.
	maxMacroFrame = readBuffer - 4
	maxMacros     = 100

	// readBuffer is what a connection keeps for reading. Body packets of
	// 64 KiB go through it in four pieces.
	readBuffer = 16 << 10

	// keepWriteBuffer is how much of a buffer for answers an idle connection
	// may keep.
	keepWriteBuffer = 8 << 10
)

// malformed is the error of a peer that does not speak the milter protocol.
type malformed string

func (e malformed) Error() string { return string(e) }

// guard stands between the socket and go-milter, which trusts its peer: a
// packet of length zero or a MAIL without its NUL would end the process, and
// four bytes would make it reserve half a gigabyte. The guard looks at every
// frame before the library sees it, and hands over only sound ones.
//
// It also takes work off the library: macros for single header fields and body
// chunks, which hold nothing but the queue id, are dropped; header fields and
// the payload of body packets go straight to the session when no reply to them
// is wanted; everything that is written is collected until the reply it belongs
// to is complete, and leaves in one write (two small writes cost a TCP peer
// 40 ms and more).
//
// All methods but Close are called from the one goroutine of the connection.
type guard struct {
	conn   net.Conn
	reader *bufio.Reader

	// idle is how long a peer may be silent between two packets, frame how
	// long one packet may take from its first byte to its last.
	idle, frame time.Duration

	// field takes header fields and body the payload of body packets. They
	// are nil until the MTA has agreed to get no reply to these. A chunk is
	// valid until body returns.
	field func(name, value string) error
	body  func(chunk []byte) error

	// panicked makes an error of a panic, which go-milter would let end the
	// process.
	panicked func(p any) error

	// flushed is called after each write to the peer.
	flushed func()

	spoken  bool   // the first packet has begun
	rest    int    // bytes of the current frame still to be handed over from reader
	pending []byte // bytes to be handed over before those: a rewritten frame
	out     []byte // packets not yet written
	whole   int    // how much of out is complete packets
	bad     error  // why the peer was cut off, if it was
}

func newGuard(conn net.Conn, idle, frame time.Duration) *guard {
	return &guard{
		conn:     conn,
		reader:   bufio.NewReaderSize(quickAck(conn), readBuffer),
		idle:     idle,
		frame:    frame,
		panicked: func(p any) error { panic(p) },
	}
}

// Read hands over bytes of sound frames. It returns io.EOF at the end of the
// stream between two frames, and a malformed error for a peer that breaks the
// protocol.
func (g *guard) Read(p []byte) (n int, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = g.panicked(p)
		}
	}()
	for len(g.pending) == 0 && g.rest == 0 {
		if err := g.next(); err != nil {
			if !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) {
				g.bad = err
			}
			return 0, err
		}
	}
	if len(g.pending) > 0 {
		n := copy(p, g.pending)
		g.pending = g.pending[n:]
		return n, nil
	}
	n, err = g.reader.Read(p[:min(len(p), g.rest)])
	g.rest -= n
	if err != nil {
		err = midFrame(err)
		g.bad = err
	}
	return n, err
}

// next looks at the next frame. It returns with g.rest or g.pending set, or
// with neither when the frame was dropped or taken.
func (g *guard) next() error {
	if g.reader.Buffered() == 0 {
		wait := g.idle
		if !g.spoken { // who has nothing to say need not connect
			wait = g.frame
		}
		g.conn.SetReadDeadline(time.Now().Add(wait))
		if _, err := g.reader.Peek(1); err != nil {
			return err
		}
	}
	head, err := g.peek(4)
	if err != nil {
		return err
	}
	length := binary.BigEndian.Uint32(head)
	if length < 1 || length > maxFrame {
		return malformed(fmt.Sprintf("packet of %d bytes, want 1 to %d", length, maxFrame))
	}
	if head, err = g.peek(5); err != nil {
		return err
	}
	command := head[4]
	g.spoken = true
	size := 4 + int(length)
	if g.reader.Buffered() < size {
		g.conn.SetReadDeadline(time.Now().Add(g.frame))
	}

	switch command {
	case cmdMacro:
		if length < 2 {
			return malformed("macro packet without a command")
		}
		if head, err = g.peek(6); err != nil {
			return err
		}
		if head[5] == cmdHeader || head[5] == cmdBody {
			_, err := g.reader.Discard(size)
			return midFrame(err)
		}
		if length > maxMacroFrame {
			return malformed(fmt.Sprintf("macro packet of %d bytes, want at most %d", length, maxMacroFrame))
		}
		packet, err := g.peek(size)
		if err != nil {
			return err
		}
		if n := bytes.Count(packet[6:], []byte{0}); n > 2*maxMacros {
			return malformed(fmt.Sprintf("packet of %d macros, want at most %d", n/2, maxMacros))
		}
	case cmdConnect, cmdMail, cmdRcpt:
		if length > maxEnvelopeFrame {
			return malformed(fmt.Sprintf("%c packet of %d bytes, want at most %d", command, length, maxEnvelopeFrame))
		}
		packet, err := g.peek(size)
		if err != nil {
			return err
		}
		payload := packet[5:]
		if bytes.IndexByte(payload, 0) < 0 {
			return malformed(fmt.Sprintf("%c packet without a NUL", command))
		}
		if command == cmdConnect {
			replacement, err := checkConnect(payload)
			if err != nil {
				return err
			}
			if replacement != nil {
				_, err := g.reader.Discard(size)
				g.pending = appendPacket(nil, cmdConnect, replacement)
				return err
			}
		}
	case cmdHeader:
		if g.field != nil && size <= readBuffer { // the library takes larger ones
			return g.takeField(size)
		}
	case cmdBody:
		if g.body != nil {
			return g.takeBody(int(length) - 1)
		}
	}
	g.rest = size
	return nil
}

// peek returns the next n bytes of a frame of which at least one has come.
func (g *guard) peek(n int) ([]byte, error) {
	if g.reader.Buffered() < n {
		g.conn.SetReadDeadline(time.Now().Add(g.frame))
	}
	p, err := g.reader.Peek(n)
	return p, midFrame(err)
}

// takeField feeds a header packet to the session: name, NUL, value, NUL.
func (g *guard) takeField(size int) error {
	packet, err := g.peek(size)
	if err != nil {
		return err
	}
	name, value, ok := strings.Cut(string(packet[5:]), "\x00")
	if !ok || len(value) == 0 || strings.IndexByte(value, 0) != len(value)-1 {
		return malformed("L packet without its two strings")
	}
	if err := g.field(name, value[:len(value)-1]); err != nil {
		return err
	}
	_, err = g.reader.Discard(size)
	return err
}

// takeBody feeds the n bytes of a body packet to the session.
func (g *guard) takeBody(n int) error {
	if _, err := g.reader.Discard(5); err != nil {
		return midFrame(err)
	}
	for n > 0 {
		if g.reader.Buffered() == 0 {
			if _, err := g.reader.Peek(1); err != nil {
				return midFrame(err)
			}
		}
		chunk, _ := g.reader.Peek(min(n, g.reader.Buffered()))
		if err := g.body(chunk); err != nil {
			return err
		}
		n -= len(chunk)
		g.reader.Discard(len(chunk))
	}
	return nil
}

// midFrame tells an end of the stream inside a frame from one between frames.
func midFrame(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// checkConnect checks the payload of a CONNECT packet: host name, NUL, family,
// and for families with an address port, address, NUL. An address that
// go-milter would not take, such as one with an IPv6 zone, must not cost the
// client its mail, so a payload with a plain spelling is returned instead; an
// address that is none at all becomes "::", which no network contains.
func checkConnect(payload []byte) (replacement []byte, err error) {
	host, rest, _ := bytes.Cut(payload, []byte{0})
	if len(rest) == 0 {
		return nil, malformed("C packet without an address family")
	}
	family := rest[0]
	switch family {
	case 'U':
		return nil, nil
	case 'L', '4', '6':
	default:
		return nil, malformed(fmt.Sprintf("C packet with address family %q", family))
	}
	if len(rest) < 4 || bytes.IndexByte(rest[3:], 0) < 0 {
		return nil, malformed("C packet with its address cut off")
	}
	if family == 'L' {
		return nil, nil
	}
	port := rest[1:3]
	given, _, _ := bytes.Cut(rest[3:], []byte{0})
	text := strings.TrimSuffix(strings.TrimPrefix(strings.TrimPrefix(string(given), "IPv6:"), "["), "]")
	address, err := netip.ParseAddr(text)
	switch {
	case err != nil:
		address = netip.IPv6Unspecified()
	case family == '4' && !address.Unmap().Is4():
		address = netip.IPv6Unspecified()
	default:
		address = address.WithZone("")
	}
	if address.String() == string(given) {
		return nil, nil
	}
	address = address.Unmap()
	family = '6'
	if address.Is4() {
		family = '4'
	}
	replacement = append(replacement, host...)
	replacement = append(replacement, 0, family)
	replacement = append(replacement, port...)
	replacement = append(replacement, address.String()...)
	return append(replacement, 0), nil
}

func appendPacket(b []byte, command byte, payload []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(1+len(payload)))
	b = append(b, command)
	return append(b, payload...)
}

// insertField adds the packet that inserts a field at the very top of the
// message to the answer being made. The field comes from our own signer, which
// makes no byte that a milter may not send: the library's way would search it
// for them, at a twentieth of what an Ed25519 message costs.
func (g *guard) insertField(name, value string) {
	size := 1 + 4 + len(name) + 1 + len(value) + 1
	g.out = binary.BigEndian.AppendUint32(g.out, uint32(size))
	g.out = append(g.out, 'i', 0, 0, 0, 0) // index 0
	g.out = append(append(g.out, name...), 0)
	g.out = append(append(g.out, value...), 0)
	g.whole = len(g.out)
}

// Write collects packets, and sends them when the last of them ends a reply.
func (g *guard) Write(p []byte) (int, error) {
	g.out = append(g.out, p...)
	ends := false
	for len(g.out)-g.whole >= 5 {
		packet := g.out[g.whole:]
		size := 4 + int(binary.BigEndian.Uint32(packet))
		if len(packet) < size {
			break
		}
		ends = strings.IndexByte(modifications, packet[4]) < 0
		g.whole += size
	}
	if !ends || g.whole < len(g.out) {
		return len(p), nil
	}
	return len(p), g.flush()
}

func (g *guard) flush() error {
	g.conn.SetWriteDeadline(time.Now().Add(g.frame))
	_, err := g.conn.Write(g.out)
	g.out, g.whole = g.out[:0], 0
	if cap(g.out) > keepWriteBuffer {
		g.out = nil
	}
	if err != nil {
		g.bad = err
		return err
	}
	if g.flushed != nil {
		g.flushed()
	}
	return nil
}

func (g *guard) Close() error         { return g.conn.Close() }
func (g *guard) LocalAddr() net.Addr  { return g.conn.LocalAddr() }
func (g *guard) RemoteAddr() net.Addr { return g.conn.RemoteAddr() }

// The guard sets the deadlines of the socket; those of the library, which
// cannot tell a silent peer from half a packet, do nothing.

func (g *guard) SetDeadline(time.Time) error      { return nil }
func (g *guard) SetReadDeadline(time.Time) error  { return nil }
func (g *guard) SetWriteDeadline(time.Time) error { return nil }

var _ net.Conn = (*guard)(nil)
