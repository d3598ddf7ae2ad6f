package e2e

import (
	"bufio"
	"bytes"
	"fmt"
	"net"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
)

// sink is the next hop of the mail servers under test: two servers on the same
// port of two loopback addresses, which keep what they get, to the octet. One
// announces 8BITMIME (RFC 6152), so that mail passes as it is; the other does
// not, so that mail servers turn 8-bit content into 7-bit content.
type sink struct {
	port int
	done chan struct{}

	mu  sync.Mutex
	got map[string][]*message // guarded by mu: by recipient
}

// Where the sink's two servers are, and the domains whose mail is sent there.
const (
	eightBitHop, eightBitDomain = "127.0.0.1", "eight.example.net"
	sevenBitHop, sevenBitDomain = "127.0.0.2", "seven.example.net"
)

func startSink(t *testing.T) *sink {
	t.Helper()
	s := &sink{done: make(chan struct{}), got: map[string][]*message{}}
	var servers sync.WaitGroup
	eight, seven := s.listen(t)
	for _, l := range []net.Listener{eight, seven} {
		servers.Go(func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				servers.Go(func() { s.serve(conn, l == eight) })
			}
		})
	}
	t.Cleanup(func() {
		close(s.done)
		eight.Close()
		seven.Close()
		servers.Wait()
	})
	return s
}

// listen finds a port that is free on both addresses.
func (s *sink) listen(t *testing.T) (eight, seven net.Listener) {
	t.Helper()
	for range 100 {
		s.port = freePort(t)
		eight, err := net.Listen("tcp4", loopback(s.port))
		if err != nil {
			continue
		}
		seven, err := net.Listen("tcp4", fmt.Sprintf("%s:%d", sevenBitHop, s.port))
		if err != nil {
			eight.Close()
			continue
		}
		return eight, seven
	}
	t.Fatal("no port that is free on both " + eightBitHop + " and " + sevenBitHop)
	return nil, nil
}

var envelopeAddress = regexp.MustCompile(`(?i)^(?:MAIL FROM|RCPT TO): ?<([^>]*)>`)

// serve speaks SMTP with one client, and takes everything.
func (s *sink) serve(conn net.Conn, eightBit bool) {
	defer conn.Close()
	ended := make(chan struct{})
	defer close(ended)
	go func() {
		select {
		case <-s.done: // the client may keep its connection for later mail
			conn.Close()
		case <-ended:
		}
	}()
	r := bufio.NewReaderSize(conn, 64<<10)
	reply := func(text string) { fmt.Fprintf(conn, "%s\r\n", text) }
	reply("220 sink.example.net ESMTP")
	var recipients []string
	for {
		_ = conn.SetDeadline(time.Now().Add(2 * patience))
		line, err := r.ReadString('\n')
		if err != nil {
			return
		}
		switch verb := strings.ToUpper(line[:min(4, len(line))]); verb {
		case "EHLO":
			reply("250-sink.example.net")
			if eightBit {
				reply("250-8BITMIME\r\n250-SMTPUTF8")
			}
			reply("250 PIPELINING")
		case "MAIL", "RSET":
			recipients = nil
			reply("250 ok")
		case "RCPT":
			if m := envelopeAddress.FindStringSubmatch(line); m != nil {
				recipients = append(recipients, m[1])
			}
			reply("250 ok")
		case "DATA":
			reply("354 go on")
			text, err := readData(r)
			if err != nil {
				return
			}
			s.keep(recipients, text)
			reply("250 taken")
		case "QUIT":
			reply("221 bye")
			return
		default:
			reply("250 ok")
		}
	}
}

// readData reads a message up to the line with the dot, and undoes the doubling
// of dots (RFC 5321, section 4.5.2). Only CRLF ends a line.
func readData(r *bufio.Reader) ([]byte, error) {
	var text []byte
	start := 0 // of the present line
	for {
		part, err := r.ReadSlice('\n')
		text = append(text, part...)
		if err == bufio.ErrBufferFull {
			continue
		}
		if err != nil {
			return nil, err
		}
		line := text[start:]
		if !bytes.HasSuffix(line, []byte("\r\n")) {
			continue
		}
		if string(line) == ".\r\n" {
			return text[:start], nil
		}
		if line[0] == '.' {
			text = append(text[:start], line[1:]...)
		}
		start = len(text)
	}
}

func (s *sink) keep(recipients []string, text []byte) {
	m, err := parseMessage(text)
	if err != nil {
		m = &message{text: text}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, to := range recipients {
		s.got[to] = append(s.got[to], m)
	}
}

// has returns what has come for a recipient so far.
func (s *sink) has(to string) []*message {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.got[to]
}

// one waits for the only message to a recipient.
func (s *sink) one(t *testing.T, to string) *message {
	t.Helper()
	eventually(t, "a message for "+to, func() bool { return len(s.has(to)) > 0 })
	if n := len(s.has(to)); n > 1 {
		t.Fatalf("%d messages for %s, want one", n, to)
	}
	return s.has(to)[0]
}
