package milter

import (
	"crypto"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"testing"
)

// instant is an RSA key whose signature costs nothing, so that what is measured
// is all the rest.
type instant struct{ crypto.Signer }

func (instant) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) {
	return make([]byte, 256), nil
}

// benchServer is a server without a log on a unix socket or on TCP.
func benchServer(b *testing.B, network string, keys Keys) net.Addr {
	b.Helper()
	address := "127.0.0.1:0"
	if network == "unix" {
		address = filepath.Join(b.TempDir(), "s")
	}
	l, err := net.Listen(network, address)
	if err != nil {
		b.Fatal(err)
	}
	s := New(testSettings(b, func(s *Settings) { s.Keys = keys }), Options{Log: slog.New(slog.DiscardHandler)})
	go s.Serve("bench", l)
	b.Cleanup(func() {
		s.mu.Lock()
		for c := range s.sessions {
			c.guard.Close()
		}
		s.mu.Unlock()
		l.Close()
	})
	return l.Addr()
}

func instantKey() Keys {
	k := signingKeys()[:1]
	k[0].Signer = instant{k[0].Signer}
	return &keys{domain: "example.com", signing: k}
}

func benchMail(size int) mail {
	msg := ordinary()
	for i := range 12 {
		msg.header = append(msg.header, fmt.Sprintf("X-Field-%d: some value of an ordinary length, %d", i, i))
	}
	msg.body = strings.Repeat("a line of text such as people write, 60 octets and some more\r\n", size/62+1)[:size-2] + "\r\n"
	return msg
}

// BenchmarkMessage is a message as Postfix sends it, from MAIL to the answer,
// with a key that costs nothing: the whole price of the milter but the
// signature, and that of the test's own MTA.
func BenchmarkMessage(b *testing.B) {
	for _, network := range []string{"unix", "tcp"} {
		for _, size := range []int{2 << 10, 64 << 10, 1 << 20} {
			b.Run(fmt.Sprintf("%s/%dKiB", network, size>>10), func(b *testing.B) {
				m := dialMTA(b, benchServer(b, network, instantKey()), postfix)
				m.connect("localhost", "127.0.0.1", 40000, "mx.example.com", "Postfix 3.7.11")
				raw := wire(m, benchMail(size))
				b.SetBytes(int64(size))
				b.ReportAllocs()
				for b.Loop() {
					if p := m.replay(raw); p != 'a' {
						b.Fatalf("answered %c", p)
					}
				}
			})
		}
	}
}

// BenchmarkForeign is mail that is not ours: a connection fact and a MAIL.
func BenchmarkForeign(b *testing.B) {
	m := dialMTA(b, benchServer(b, "unix", instantKey()), postfix)
	m.connect("mail.example.org", "192.0.2.7", 40000, "mx.example.com", "Postfix 3.7.11")
	packets := appendPacket(nil, 'M', cstrings("<ann@example.com>"))
	b.ReportAllocs()
	for b.Loop() {
		m.out = append(m.out, packets...)
		m.flush()
		if p := m.read(); p.command != 'a' {
			b.Fatalf("answered %v", p)
		}
	}
}

// wire returns the packets of a message by the parts after which the MTA waits.
func wire(m *mta, msg mail) [][]byte {
	var parts [][]byte
	cut := func() {
		parts = append(parts, append([]byte(nil), m.out...))
		m.out = m.out[:0]
	}
	m.queue('A', nil)
	m.macros('M', "{mail_addr}", msg.from)
	m.queue('M', cstrings("<"+msg.from+">"))
	cut()
	m.macros('R', "i", "4841299E615", "{rcpt_addr}", "bob@example.net")
	m.queue('R', cstrings("<bob@example.net>"))
	m.macros('T', "i", "4841299E615")
	m.queue('T', nil)
	for _, h := range msg.header {
		name, value, _ := strings.Cut(h, ":")
		m.macros('L', "i", "4841299E615")
		m.queue('L', cstrings(name, value))
	}
	m.macros('N', "i", "4841299E615")
	m.queue('N', nil)
	cut()
	for body := []byte(msg.body); len(body) > 0; {
		n := min(65535, len(body))
		m.macros('B', "i", "4841299E615")
		m.queue('B', body[:n])
		body = body[n:]
	}
	m.macros('E', "i", "4841299E615")
	m.queue('E', nil)
	cut()
	return parts
}

// replay sends the parts and reads the reply to each.
func (m *mta) replay(parts [][]byte) byte {
	var last byte
	var buffer [4096]byte
	for _, part := range parts {
		if _, err := m.conn.Write(part); err != nil {
			m.t.Fatal(err)
		}
		for last = 'i'; last == 'i'; {
			if _, err := io.ReadFull(m.r, buffer[:5]); err != nil {
				m.t.Fatal(err)
			}
			last = buffer[4]
			if _, err := m.r.Discard(int(binary.BigEndian.Uint32(buffer[:])) - 1); err != nil {
				m.t.Fatal(err)
			}
		}
	}
	return last
}
