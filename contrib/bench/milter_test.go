//go:build linux

package main

import (
	"bufio"
	"bytes"
	"crypto"
	"encoding/binary"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/emersion/go-msgauth/dkim"
)

// fakeMilter signs with go-msgauth and notes what it is sent.
type fakeMilter struct {
	protocol uint32
	skipBody bool                       // answer body packets with "skip"
	end      byte                       // its last answer; 0 is accept
	key      crypto.Signer              // signs with this when not nil
	spoil    func(header string) string // changes what it has signed

	mu      sync.Mutex // guards what follows
	packets []string   // in the order received, "D" packets with the command they are for
	ended   int        // messages
}

// listen starts it on a socket of the kind and returns where.
func (f *fakeMilter) listen(t *testing.T, transport string) address {
	t.Helper()
	at, err := newAddress(transport, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen(at.network, at.name)
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				defer conn.Close()
				f.serve(t, conn)
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		all.Wait()
	})
	return at
}

// serve goes on until the connection is closed.
func (f *fakeMilter) serve(t *testing.T, conn net.Conn) {
	in := bufio.NewReader(conn)
	var buffer []byte
	var message bytes.Buffer
	for {
		command, data, err := readPacket(in, &buffer)
		if err != nil {
			return
		}
		f.note(command, data)
		var out []byte
		switch command {
		case cmdNegotiate:
			reply := binary.BigEndian.AppendUint32(nil, protocolVersion)
			reply = binary.BigEndian.AppendUint32(reply, 1)
			out = packet(cmdNegotiate, binary.BigEndian.AppendUint32(reply, f.protocol))
		case cmdMail:
			message.Reset()
		case cmdHeader:
			name, value, _ := strings.Cut(strings.TrimSuffix(string(data), "\x00"), "\x00")
			blank := " "
			if f.protocol&leadingSpace != 0 {
				blank = ""
			}
			message.WriteString(name + ":" + blank + strings.ReplaceAll(value, "\n", "\r\n") + "\r\n")
		case cmdEndHeader:
			message.WriteString("\r\n")
		case cmdBody:
			message.Write(data)
		case cmdEnd:
			out = f.finish(t, message.Bytes())
		case cmdQuit:
			return
		}
		stage, known := stages[command]
		if known && command != cmdEnd && f.protocol&stage.noReply == 0 {
			out = packet(ansContinue, nil)
			if command == cmdBody && f.skipBody {
				out = packet(ansSkip, nil)
			}
		}
		if len(out) == 0 {
			continue
		}
		if _, err := conn.Write(out); err != nil {
			return
		}
	}
}

func (f *fakeMilter) note(command byte, data []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	p := string(rune(command))
	if command == cmdMacros {
		p += strings.ToLower(string(rune(data[0])))
	}
	f.packets = append(f.packets, p)
	if command == cmdEnd {
		f.ended++
	}
}

// log returns the packets received so far.
func (f *fakeMilter) log() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return strings.Join(f.packets, " ")
}

func (f *fakeMilter) finish(t *testing.T, message []byte) []byte {
	last := byte(ansAccept)
	if f.end != 0 {
		last = f.end
	}
	if f.key == nil {
		return packet(last, nil)
	}
	var signed bytes.Buffer
	err := dkim.Sign(&signed, bytes.NewReader(message), &dkim.SignOptions{
		Domain: domain, Selector: string(rsa2048), Signer: f.key,
		HeaderCanonicalization: dkim.CanonicalizationRelaxed, BodyCanonicalization: dkim.CanonicalizationRelaxed,
		HeaderKeys: append([]string{"From"}, signedFields...),
	})
	if err != nil {
		t.Error(err)
		return packet('t', nil)
	}
	_, value, _ := strings.Cut(strings.TrimSuffix(strings.TrimSuffix(signed.String(), string(message)), "\r\n"), ":")
	if f.protocol&leadingSpace == 0 {
		value = strings.TrimPrefix(value, " ")
	}
	if f.spoil != nil {
		value = f.spoil(value)
	}
	return append(packet(ansInsertHeader, appendStrings([]byte{0, 0, 0, 0}, signatureName, strings.ReplaceAll(value, "\r\n", "\n"))), packet(last, nil)...)
}

func packet(command byte, data []byte) []byte {
	p := binary.BigEndian.AppendUint32(nil, uint32(1+len(data)))
	return append(append(p, command), data...)
}

// testKeys makes the keys of one test.
func testKeys(t *testing.T) *keys {
	t.Helper()
	k, err := newKeys(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{k.rsaPEM, k.seed} {
		if !filepath.IsAbs(file) {
			t.Errorf("key file %q: want an absolute path, as milters run elsewhere", file)
		}
	}
	return k
}
