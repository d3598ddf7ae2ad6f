package e2e

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// frame is a packet whose length may lie.
func frame(length uint32, rest string) string {
	return string(binary.BigEndian.AppendUint32(nil, length)) + rest
}

// honest is a packet with its true length.
func honest(payload string) string { return frame(uint32(len(payload)), payload) }

var negotiation = honest("O\x00\x00\x00\x06\x00\x00\x01\xff\x00\x1f\xff\xff")

// broken are things that no mail server sends, each on its own connection. The
// peer goes away after them, unless it lingers.
var broken = []struct {
	name, bytes string
	cut         bool // the daemon has to end the connection by itself
}{
	{"a packet of length zero", frame(0, ""), false},
	{"many packets of length zero", strings.Repeat(frame(0, ""), 1000), true},
	{"a packet of 512 MB", frame(512<<20, "B"), true},
	{"a packet of 512 MB that goes on for a while", frame(512<<20, "B"+strings.Repeat("x", 1<<18)), true},
	{"a packet of 4 GB", frame(0xffffffff, "L"), true},
	{"a packet one octet over the largest", frame(1<<20+2, "B"), true},
	{"MAIL without its NUL", honest("M<ann@example.com>"), true},
	{"MAIL without anything", honest("M"), true},
	{"RCPT without its NUL", honest("R<box@example.net>"), true},
	{"RCPT without anything", honest("R"), true},
	{"CONNECT without its NUL", honest("Clocalhost"), true},
	{"CONNECT without a family", honest("Clocalhost\x00"), true},
	{"CONNECT with an unknown family", honest("Clocalhost\x00X\x00\x19127.0.0.1\x00"), true},
	{"CONNECT cut off in the port", honest("Clocalhost\x004\x00"), true},
	{"CONNECT without the address's NUL", honest("Clocalhost\x004\x00\x19127.0.0.1"), true},
	{"CONNECT with an address that is none", honest("Clocalhost\x006\x00\x19not an address\x00"), false},
	{"macros for nothing", honest("D"), true},
	{"macros without NULs", honest("DMabc"), false},
	{"a macro name without a value", honest("DM{mail_addr}\x00"), false},
	{"HELO without its NUL", honest("Hclient"), false},
	{"a header field without NULs", honest("LSubject"), false},
	{"a header field with one NUL", honest("LSubject\x00hello"), false},
	{"a header field without anything", honest("L"), false},
	{"half a length", "\x00\x00", false},
	{"half a packet", frame(100, "M<ann@exam"), false},
	{"an unknown command", honest("z???"), false},
	{"no milter protocol at all", "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", true},
	{"a body out of nowhere", honest("Bbody"), false},
	{"the end of a message out of nowhere", honest("E"), false},
	{"a second negotiation", negotiation, false},
	{"a negotiation cut off", honest("O\x00\x00\x00\x06"), false},
	{"a negotiation without actions", honest("O\x00\x00\x00\x06\x00\x00\x00\x00\x00\x00\x00\x00"), false},
	{"a negotiation of version 1", honest("O\x00\x00\x00\x01\x00\x00\x01\xff\x00\x1f\xff\xff"), false},
	{"an abort and a quit", honest("A") + honest("Q"), false},
}

// before are the states of a connection in which broken things come.
var before = []struct{ name, bytes string }{
	{"first", ""},
	{"after negotiation", negotiation},
	{"in a message", negotiation + honest("Clocalhost\x004\x9c\x40127.0.0.1\x00") + honest("M<ann@example.com>\x00") +
		honest("R<box@example.net>\x00") + honest("LFrom\x00 ann@example.com\x00")},
	{"in a body", negotiation + honest("Clocalhost\x004\x9c\x40127.0.0.1\x00") + honest("M<ann@example.com>\x00") +
		honest("R<box@example.net>\x00") + honest("LFrom\x00 ann@example.com\x00") + honest("N") + honest("Bhello\r\n")},
}

// TestNoPeerHarmsTheDaemon sends what breaks the milter protocol, in every state
// of a connection, by unix socket and TCP. The daemon lives, signs, keeps no
// connection, and does not grow.
func TestNoPeerHarmsTheDaemon(t *testing.T) {
	require(t, proc)
	dir := shortDir(t)
	keys := newKeystore(t, dir, "example.com")
	unix, tcp := "unix:"+filepath.Join(dir, "run", "milter.sock"), "inet:"+loopback(freePort(t))
	d := serve(t, daemonOptions{binary: waxseal}, "--keystore", keys.dir, "--listen", unix, "--listen", tcp)

	for _, state := range before {
		t.Run(state.name, func(t *testing.T) {
			for i, b := range broken {
				address := []string{unix, tcp}[i%2]
				t.Run(b.name, func(t *testing.T) {
					offend(t, address, state.bytes+b.bytes, b.cut)
					if d.hasExited() {
						t.Fatal("the daemon is dead")
					}
					checkSigns(t, keys, []string{tcp, unix}[i%2], "example.com")
				})
			}
		})
	}
	checkSigns(t, keys, unix, "example.com")

	t.Run("memory and connections stay as they were", func(t *testing.T) {
		round := func() {
			t.Helper()
			for _, state := range before {
				for _, b := range broken {
					offend(t, unix, state.bytes+b.bytes, b.cut)
				}
			}
			checkSigns(t, keys, unix, "example.com")
		}
		open := d.files(t)
		const warmUp, rounds, most = 20, 40, 2048 // kB
		for range warmUp {
			round()
		}
		memory := d.status(t, "VmRSS")
		for range rounds {
			round()
		}
		after := d.status(t, "VmRSS")
		t.Logf("memory: %d kB, after %d broken connections %d kB", memory, rounds*len(before)*len(broken), after)
		if after-memory >= most {
			t.Errorf("memory grew by %d kB, want less than %d", after-memory, most)
		}
		eventually(t, fmt.Sprintf("the daemon has %d files open again", open), func() bool { return d.files(t) <= open })
	})

	d.stop(t)
	if matches(d.log.String(), `malformed=0 `) {
		t.Error("the daemon counted nothing as malformed")
	}
}

// atOnce is far below the 30 s that the daemon gives a packet by default, and
// enough for a loaded machine.
const atOnce = 10 * time.Second

// offend sends bytes, and waits for the daemon to end the connection: by itself
// if it has to, else after we have ended our side. That has to happen at once.
func offend(t *testing.T, address, bytes string, cut bool) {
	t.Helper()
	conn, err := tryMilter(address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(atOnce))
	// The daemon may close while we still write.
	_, _ = io.WriteString(conn, bytes)
	if !cut {
		_ = conn.(interface{ CloseWrite() error }).CloseWrite()
	}
	_, err = io.Copy(io.Discard, conn)
	if e, ok := err.(net.Error); ok && e.Timeout() {
		t.Errorf("the connection is still open after %v", atOnce)
	}
}

// TestSlowPeersAreCutAndSilentOnesAreNot has many peers stop in the middle of a
// packet, and one between two packets.
func TestSlowPeersAreCutAndSilentOnesAreNot(t *testing.T) {
	require(t, proc)
	t.Parallel()
	dir := shortDir(t)
	keys := newKeystore(t, dir, "example.com")
	address := "unix:" + filepath.Join(dir, "run", "milter.sock")
	d := serve(t, daemonOptions{binary: waxseal}, "--config", configure(t, filepath.Join(dir, "waxseal.toml"), fmt.Sprintf(`
[keystore]
url = "dir:%s"
[listen.milter]
address = %q
[limits]
packet_timeout = "2s"
`, keys.dir, address)))
	checkSigns(t, keys, address, "example.com")

	const peers = 100
	memory := d.status(t, "VmRSS")
	var slow []net.Conn
	for i := range peers {
		conn, err := tryMilter(address)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(patience))
		b := []string{
			frame(0, ""),
			frame(100, "M<ann"),
			negotiation + frame(1<<20, "B"+strings.Repeat("x", 1000)),
			before[len(before)-1].bytes + frame(65536, "B"+strings.Repeat("x", 30000)),
		}[i%4]
		if _, err := io.Copy(conn, bytes.NewReader([]byte(b))); err != nil {
			t.Fatal(err)
		}
		slow = append(slow, conn)
	}
	silent := dialMilter(t, address)
	silent.connect()
	if err := silent.w.Flush(); err != nil {
		t.Fatal(err)
	}
	checkSigns(t, keys, address, "example.com")
	if grown := (d.status(t, "VmRSS") - memory); grown > peers*64 {
		t.Errorf("%d slow peers cost %d kB of memory, want at most 64 each", peers, grown)
	}
	for i, conn := range slow {
		_, err := io.Copy(io.Discard, conn)
		if e, ok := err.(net.Error); ok && e.Timeout() {
			t.Fatalf("slow peer %d is still connected", i)
		}
	}
	checkSigns(t, keys, address, "example.com")
	silent.begin(t, header) // has been silent for longer than a packet may take
	silent.packet('B', []byte("Hello.\r\n"))
	if top := silent.end(t); strings.Count(top, "DKIM-Signature:") != 2 {
		t.Errorf("after a silence: %q, want two signatures", top)
	}
}
