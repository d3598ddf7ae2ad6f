package milter

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"io"
	"log/slog"
	"net"
	"runtime"
	"strings"
	"testing"
	"time"
)

// negotiation is the first packet of a Postfix.
var negotiation = appendPacket(nil, 'O', []byte{0, 0, 0, 6, 0, 0, 1, 0xff, 0, 0x1f, 0xff, 0xff})

func TestMalformedPacketsCostOnlyTheirConnection(t *testing.T) {
	s := startServer(t, Options{PacketTimeout: time.Second}, nil)
	for name, packets := range map[string][]byte{
		"length zero, first of all":     {0, 0, 0, 0},
		"length zero, later":            join(negotiation, []byte{0, 0, 0, 0, 'M'}),
		"512 MiB announced, first":      {0x20, 0, 0, 0, 'O'},
		"512 MiB announced, later":      join(negotiation, []byte{0x20, 0, 0, 0, 'B'}),
		"4 GiB announced":               {0xff, 0xff, 0xff, 0xff, 'O'},
		"MAIL without NUL":              join(negotiation, appendPacket(nil, 'M', []byte("<a@b>"))),
		"MAIL empty":                    join(negotiation, appendPacket(nil, 'M', nil)),
		"RCPT without NUL":              join(negotiation, appendPacket(nil, 'R', []byte("<a@b>"))),
		"CONNECT without NUL":           join(negotiation, appendPacket(nil, 'C', []byte("host"))),
		"CONNECT with the name only":    join(negotiation, appendPacket(nil, 'C', []byte("host\x00"))),
		"CONNECT without port":          join(negotiation, appendPacket(nil, 'C', []byte("host\x004"))),
		"CONNECT with half a port":      join(negotiation, appendPacket(nil, 'C', []byte("host\x004\x01"))),
		"CONNECT with address cut off":  join(negotiation, appendPacket(nil, 'C', []byte("host\x004\x00\x19192.0.2.1"))),
		"CONNECT of an odd family":      join(negotiation, appendPacket(nil, 'C', []byte("host\x00X\x00\x191\x00"))),
		"MAIL over the limit":           join(negotiation, appendPacket(nil, 'M', make([]byte, maxEnvelopeFrame))),
		"macros over the limit":         join(negotiation, appendPacket(nil, 'D', append([]byte{'C'}, make([]byte, maxMacroFrame)...))),
		"too many macros":               join(negotiation, appendPacket(nil, 'D', append([]byte{'C'}, bytes.Repeat([]byte("a\x00b\x00"), maxMacros+1)...))),
		"macro packet of nothing":       join(negotiation, appendPacket(nil, 'D', nil)),
		"negotiation twice":             join(negotiation, negotiation),
		"negotiation too short":         appendPacket(nil, 'O', []byte{0, 0, 0, 6}),
		"no negotiation":                appendPacket(nil, 'M', []byte("<a@b>\x00")),
		"a command nobody knows":        join(negotiation, appendPacket(nil, '!', []byte("x"))),
		"half a packet, then the end":   join(negotiation, []byte{0, 0, 1, 0, 'L', 'x'}),
		"half a length, then the end":   join(negotiation, []byte{0, 0}),
		"a header with one string":      join(negotiation, appendPacket(nil, 'L', []byte("From\x00"))),
		"an SMTP client at the socket":  []byte("EHLO client.example.org\r\n"),
		"an HTTP client at the socket":  []byte("GET / HTTP/1.1\r\n\r\n"),
		"a TLS client at the socket":    {0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3},
		"half a body packet, then end":  join(negotiation, appendPacket(nil, 'M', []byte("<a@b>\x00")), []byte{0, 0, 0xff, 0xff, 'B', 'x'}),
		"half a macro for a body chunk": join(negotiation, []byte{0, 0, 0, 50, 'D', 'B', 'x'}),
	} {
		t.Run(name, func(t *testing.T) {
			conn, err := net.Dial("tcp", s.address.String())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if _, err := conn.Write(packets); err != nil {
				t.Fatal(err)
			}
			conn.(*net.TCPConn).CloseWrite()
			conn.SetReadDeadline(time.Now().Add(10 * time.Second))
			if _, err := io.Copy(io.Discard, conn); err != nil && !strings.Contains(err.Error(), "reset") {
				t.Errorf("the connection was not closed: %v", err)
			}
		})
	}
	if r := s.postfixClient(t).mail(ordinary()); len(r.inserts) != 2 {
		t.Errorf("a good connection after them: %v with %d fields, want 2", r.final, len(r.inserts))
	}
}

func join(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

func TestAnnouncedLengthsReserveNothing(t *testing.T) {
	s := startServer(t, Options{}, nil)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range 50 {
		conn, err := net.Dial("tcp", s.address.String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		// A body packet of a length that is allowed, and nothing of it.
		conn.Write(join(negotiation, []byte{0, 0x10, 0, 0, 'B'}))
	}
	s.postfixClient(t).mail(ordinary())
	runtime.ReadMemStats(&after)
	if grown := int64(after.TotalAlloc - before.TotalAlloc); grown > 50*64<<10 {
		t.Errorf("50 connections made %d KiB be allocated, want less than 64 each", grown>>10)
	}
}

// TestAConnectionKeepsLittle holds connections in the middle of a large body, and
// looks at heap and stack, the test's own end of the connection included.
func TestAConnectionKeepsLittle(t *testing.T) {
	const connections, most = 50, 64 << 10
	s := startServer(t, Options{}, nil)
	used := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc + m.StackInuse
	}
	parts := wire(&mta{}, benchMail(1<<20))
	before := used()
	for range connections {
		m := s.postfixClient(t)
		m.r = bufio.NewReaderSize(m.conn, 16)
		m.out = nil
		m.replay(parts[:2])
		if _, err := m.conn.Write(parts[2][:300_000]); err != nil {
			t.Fatal(err)
		}
	}
	if each := (int64(used()) - int64(before)) / connections; each > most {
		t.Errorf("%d bytes for each connection, want at most %d", each, most)
	} else {
		t.Logf("%d bytes for each connection", each)
	}
}

func TestAPeerThatStopsInAPacketIsCutOff(t *testing.T) {
	s := startServer(t, Options{PacketTimeout: 50 * time.Millisecond}, nil)
	for _, part := range [][]byte{negotiation[:3], negotiation[:7], join(negotiation, []byte{0, 0}), join(negotiation, []byte{0, 0, 0xff, 0, 'B', 'x'}), join(negotiation, []byte{0, 0, 0, 50, 'L', 'x'})} {
		conn, err := net.Dial("tcp", s.address.String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conn.Write(part)
		conn.SetReadDeadline(time.Now().Add(10 * time.Second))
		if _, err := io.Copy(io.Discard, conn); err != nil && !strings.Contains(err.Error(), "reset") {
			t.Errorf("after %q: not cut off: %v", part, err)
		}
	}
	for s.Stats().Open.Load() > 0 {
		time.Sleep(time.Millisecond)
	}
	if got := s.Stats().Malformed.Load(); got != 5 {
		t.Errorf("%d cut off, want 5", got)
	}
}

func TestABadLengthIsRefusedAtOnce(t *testing.T) {
	s := startServer(t, Options{PacketTimeout: time.Hour}, nil)
	for _, length := range []string{"\x00\x00\x00\x00", "\xff\xff\xff\xff"} {
		conn, err := net.Dial("tcp", s.address.String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conn.Write([]byte(length))
		conn.SetReadDeadline(time.Now().Add(10 * time.Second))
		if _, err := io.Copy(io.Discard, conn); err != nil && !strings.Contains(err.Error(), "reset") {
			t.Errorf("%q: not cut off: %v", length, err)
		}
	}
}

func TestAPeerThatIsSilentBetweenPacketsIsNot(t *testing.T) {
	s := startServer(t, Options{PacketTimeout: 50 * time.Millisecond}, nil)
	m := s.postfixClient(t)
	time.Sleep(200 * time.Millisecond)
	if r := m.mail(ordinary()); len(r.inserts) != 2 {
		t.Errorf("%v with %d fields, want 2", r.final, len(r.inserts))
	}
}

func TestASilentPeerIsCutOffAtLast(t *testing.T) {
	s := startServer(t, Options{IdleTimeout: 50 * time.Millisecond}, nil)
	conn := s.postfixClient(t).conn
	conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.Copy(io.Discard, conn); err != nil && !strings.Contains(err.Error(), "reset") {
		t.Errorf("not cut off: %v", err)
	}
}

func TestAPeerThatNeverSpeaksIsCutOffSoon(t *testing.T) {
	s := startServer(t, Options{PacketTimeout: 50 * time.Millisecond}, nil)
	conn, err := net.Dial("tcp", s.address.String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.Copy(io.Discard, conn); err != nil && !strings.Contains(err.Error(), "reset") {
		t.Errorf("not cut off: %v", err)
	}
}

func TestAddressesThatTheLibraryRefuses(t *testing.T) {
	payload := func(family byte, address string) []byte {
		return append(append(cstrings("host"), family, 0x12, 0x34), cstrings(address)...)
	}
	for _, c := range []struct {
		family  byte
		address string
		want    []byte // nil: as it is
	}{
		{'4', "192.0.2.1", nil},
		{'6', "2001:db8::1", nil},
		{'L', "/run/socket", nil},
		{'6', "IPv6:2001:db8::1", payload('6', "2001:db8::1")},
		{'6', "[2001:DB8:0::1]", payload('6', "2001:db8::1")},
		{'6', "fe80::1%eth0", payload('6', "fe80::1")},
		{'6', "IPv6:fe80::1%eth0", payload('6', "fe80::1")},
		{'4', "unknown", payload('6', "::")},
		{'4', "2001:db8::1", payload('6', "::")},
		{'4', "192.0.2.01", payload('6', "::")},
		{'6', "", payload('6', "::")},
	} {
		got, err := checkConnect(payload(c.family, c.address))
		if err != nil || !bytes.Equal(got, c.want) {
			t.Errorf("%c %q: got %q, %v, want %q", c.family, c.address, got, err, c.want)
		}
	}
}

// countingConn counts writes.
type countingConn struct {
	net.Conn
	writes [][]byte
}

func (c *countingConn) Write(p []byte) (int, error) {
	c.writes = append(c.writes, bytes.Clone(p))
	return len(p), nil
}

func (c *countingConn) SetWriteDeadline(time.Time) error { return nil }

func TestAnAnswerLeavesInOneWrite(t *testing.T) {
	c := &countingConn{}
	g := newGuard(c, time.Hour, time.Hour)
	insert := appendPacket(nil, 'i', []byte("\x00\x00\x00\x00DKIM-Signature\x00 v=1\x00"))
	for _, p := range [][]byte{insert[:5], insert[5:], insert[:5], insert[5:]} { // as go-milter writes
		g.Write(p)
	}
	if len(c.writes) != 0 {
		t.Errorf("%d writes before the reply is whole", len(c.writes))
	}
	g.Write(appendPacket(nil, 'a', nil))
	if want := join(insert, insert, appendPacket(nil, 'a', nil)); len(c.writes) != 1 || !bytes.Equal(c.writes[0], want) {
		t.Errorf("written %q, want all in one", c.writes)
	}
	refusal := appendPacket(nil, 'y', []byte("451 4.7.5 later\x00"))
	g.Write(refusal[:5])
	g.Write(refusal[5:])
	if len(c.writes) != 2 || !bytes.Equal(c.writes[1], refusal) {
		t.Errorf("written %q, want the refusal in one", c.writes)
	}
}

// FuzzGuard sends whatever a peer may send, in any pieces, and wants the server
// to live on without a panic, and only sound frames to get past the guard.
func FuzzGuard(f *testing.F) {
	f.Add(join(negotiation, appendPacket(nil, 'M', []byte("<a@b>\x00"))), uint16(3))
	f.Add(join(negotiation, appendPacket(nil, 'C', []byte("h\x006\x00\x19fe80::1%eth0\x00"))), uint16(1))
	f.Add(join(negotiation, appendPacket(nil, 'D', []byte("Bi\x00x\x00")), appendPacket(nil, 'B', []byte("body"))), uint16(7))
	f.Add([]byte{0, 0, 0, 0}, uint16(1))
	f.Fuzz(func(t *testing.T, stream []byte, piece uint16) {
		g := newGuard(&streamConn{data: stream, piece: int(piece)%97 + 1}, time.Hour, time.Hour)
		g.body = func([]byte) error { return nil }
		g.field = func(name, value string) error {
			if strings.Contains(name+value, "\x00") {
				t.Fatalf("field %q: %q", name, value)
			}
			return nil
		}
		passed, _ := io.ReadAll(g)
		for len(passed) > 0 {
			if len(passed) < 5 {
				return // a frame that the stream ends in
			}
			n := 4 + int(binary.BigEndian.Uint32(passed))
			if n < 5 || n > 4+maxFrame {
				t.Fatalf("a frame of %d bytes got past the guard", n-4)
			}
			if len(passed) < n {
				return
			}
			payload := passed[5:n]
			switch passed[4] {
			case 'B':
				t.Fatal("a body packet got past the guard")
			case 'M', 'R', 'C':
				if bytes.IndexByte(payload, 0) < 0 {
					t.Fatalf("%c %q got past the guard", passed[4], payload)
				}
			case 'D':
				if len(payload) < 1 || payload[0] == 'B' || payload[0] == 'L' {
					t.Fatalf("macros %q got past the guard", payload)
				}
			}
			passed = passed[n:]
		}
	})
}

// FuzzServer runs the bytes of a peer through the whole server.
func FuzzServer(f *testing.F) {
	whole := join(negotiation,
		appendPacket(nil, 'C', []byte("localhost\x004\x12\x34127.0.0.1\x00")),
		appendPacket(nil, 'M', []byte("<a@example.com>\x00")),
		appendPacket(nil, 'L', []byte("From\x00 a@example.com\x00")),
		appendPacket(nil, 'N', nil),
		appendPacket(nil, 'B', []byte("body\r\n")),
		appendPacket(nil, 'E', nil),
		appendPacket(nil, 'A', nil),
		appendPacket(nil, 'Q', nil))
	f.Add(whole)
	f.Add(whole[:len(whole)-11])
	server := New(testSettings(f, nil), Options{Log: slog.New(slog.DiscardHandler)})
	f.Fuzz(func(t *testing.T, stream []byte) {
		panics := server.stats.Panics.Load()
		s := &session{server: server, listener: "fuzz", guard: newGuard(&streamConn{data: stream, piece: 1 << 16}, time.Hour, time.Hour)}
		s.serve()
		if server.stats.Panics.Load() != panics {
			t.Fatal("a panic in the session")
		}
	})
}

// streamConn is a peer that sends data in pieces and reads nothing.
type streamConn struct {
	data  []byte
	piece int
}

func (c *streamConn) Read(p []byte) (int, error) {
	if len(c.data) == 0 {
		return 0, io.EOF
	}
	n := copy(p[:min(len(p), c.piece)], c.data)
	c.data = c.data[n:]
	return n, nil
}

func (c *streamConn) Write(p []byte) (int, error)      { return len(p), nil }
func (c *streamConn) Close() error                     { return nil }
func (c *streamConn) LocalAddr() net.Addr              { return &net.UnixAddr{Name: "local", Net: "unix"} }
func (c *streamConn) RemoteAddr() net.Addr             { return &net.UnixAddr{Name: "peer", Net: "unix"} }
func (c *streamConn) SetDeadline(time.Time) error      { return nil }
func (c *streamConn) SetReadDeadline(time.Time) error  { return nil }
func (c *streamConn) SetWriteDeadline(time.Time) error { return nil }
