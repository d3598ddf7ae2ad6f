package dnstest

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// maxWait is how long a relay waits for an answer: longer than any client.
const maxWait = 20 * time.Second

// relay passes on what comes to an address, by UDP and TCP, to a port of
// 127.0.0.1, and the answers back.
type relay struct {
	to      string
	udp     net.PacketConn
	tcp     net.Listener
	running sync.WaitGroup

	mu     sync.Mutex
	closed bool
	open   map[net.Conn]bool
}

func startRelay(t testing.TB, a netip.AddrPort, to uint16) {
	t.Helper()
	r := &relay{to: netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), to).String(), open: map[net.Conn]bool{}}
	r.tcp, r.udp = listen(t, a)
	r.running.Go(r.datagrams)
	r.running.Go(r.connections)
	t.Cleanup(r.stop)
}

func (r *relay) stop() {
	r.udp.Close()
	r.tcp.Close()
	r.mu.Lock()
	r.closed = true
	for c := range r.open {
		c.Close()
	}
	r.mu.Unlock()
	r.running.Wait()
}

// dial connects to the server; nil when the relay is stopped or the server is
// gone. The caller calls hangUp.
func (r *relay) dial(network string) net.Conn {
	c, err := net.Dial(network, r.to)
	if err != nil {
		return nil
	}
	if !r.keep(c) {
		return nil
	}
	return c
}

func (r *relay) keep(c net.Conn) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		c.Close()
		return false
	}
	r.open[c] = true
	return true
}

func (r *relay) hangUp(c net.Conn) {
	c.Close()
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.open, c)
}

// datagrams gives each question a socket of its own, so that answers find
// their way back.
func (r *relay) datagrams() {
	buf := make([]byte, dns.MaxMsgSize)
	for {
		n, client, err := r.udp.ReadFrom(buf)
		if err != nil {
			return
		}
		server := r.dial("udp")
		if server == nil {
			continue
		}
		server.Write(buf[:n])
		r.running.Go(func() {
			defer r.hangUp(server)
			answer := make([]byte, dns.MaxMsgSize)
			server.SetReadDeadline(time.Now().Add(maxWait))
			if n, err := server.Read(answer); err == nil {
				r.udp.WriteTo(answer[:n], client)
			}
		})
	}
}

func (r *relay) connections() {
	for {
		client, err := r.tcp.Accept()
		if err != nil {
			return
		}
		if !r.keep(client) {
			return
		}
		server := r.dial("tcp")
		if server == nil {
			r.hangUp(client)
			continue
		}
		r.running.Go(func() { r.pass(server, client) })
		r.running.Go(func() { r.pass(client, server) })
	}
}

// pass copies one direction, and ends both with it.
func (r *relay) pass(to, from net.Conn) {
	io.Copy(to, from)
	r.hangUp(from)
	r.hangUp(to)
}

// listen listens on one address for UDP and TCP.
func listen(t testing.TB, a netip.AddrPort) (net.Listener, net.PacketConn) {
	t.Helper()
	var l net.Listener
	var p net.PacketConn
	err := whenFree(func() (err error) { l, err = net.Listen("tcp", a.String()); return err })
	if err != nil {
		t.Fatal(err)
	}
	if err = whenFree(func() (err error) { p, err = net.ListenPacket("udp", a.String()); return err }); err != nil {
		l.Close()
		t.Fatal(err)
	}
	return l, p
}

// whenFree listens, again for a while if the address is in use: a process that
// another test is just starting may still hold the socket with which it was found
// to be free.
func whenFree(listen func() error) error {
	err := listen()
	for deadline := time.Now().Add(5 * time.Second); errors.Is(err, syscall.EADDRINUSE) && time.Now().Before(deadline); {
		time.Sleep(10 * time.Millisecond)
		err = listen()
	}
	return err
}
