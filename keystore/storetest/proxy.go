package storetest

import (
	"io"
	"net"
	"sync"
	"testing"
	"time"
)

// Proxy stands between a store and its server, and cuts connections.
type Proxy struct {
	Address string // host and port

	network, server string

	mu    sync.Mutex
	conns map[net.Conn]bool // guarded by mu
	cut   map[bool]int      // guarded by mu; octets that still pass, by direction
	cutAt int               // guarded by mu; the number of the piece to cut; 0: none
	seen  int               // guarded by mu; pieces that came by
	delay time.Duration     // guarded by mu

	ended chan struct{}
}

// NewProxy starts a proxy on loopback, which ends with the test.
func NewProxy(t *testing.T, network, server string) *Proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{Address: l.Addr().String(), network: network, server: server, conns: make(map[net.Conn]bool), cut: make(map[bool]int), ended: make(chan struct{})}
	var tasks sync.WaitGroup
	tasks.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			tasks.Go(func() { p.serve(client) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		close(p.ended)
		p.Drop()
		tasks.Wait()
	})
	return p
}

// CutAfter cuts the connection once n more octets have passed to the server, or
// from it. The next connection passes again.
func (p *Proxy) CutAfter(n int, toServer bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cut[toServer] = n + 1
}

// CutAt counts the pieces that come by from now on, from either side, and cuts the
// connection at the one of that number, which is lost. The next connection passes
// again. 0 cuts none.
func (p *Proxy) CutAt(piece int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cutAt, p.seen = piece, 0
}

// WasCut reports whether the cut that CutAt asked for has happened.
func (p *Proxy) WasCut() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cutAt == 0
}

// Pieces returns how many pieces have come by since CutAt.
func (p *Proxy) Pieces() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.seen
}

// Heal takes back CutAfter.
func (p *Proxy) Heal() {
	p.mu.Lock()
	defer p.mu.Unlock()
	clear(p.cut)
}

// Delay makes everything take that much longer in each direction.
func (p *Proxy) Delay(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.delay = d
}

// Drop cuts all connections.
func (p *Proxy) Drop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		c.Close()
	}
}

func (p *Proxy) serve(client net.Conn) {
	server, err := net.Dial(p.network, p.server)
	if err != nil {
		client.Close()
		return
	}
	p.mu.Lock()
	p.conns[client], p.conns[server] = true, true
	p.mu.Unlock()
	var both sync.WaitGroup
	both.Go(func() { p.copy(server, client, true) })
	both.Go(func() { p.copy(client, server, false) })
	both.Wait()
	p.mu.Lock()
	delete(p.conns, client)
	delete(p.conns, server)
	p.mu.Unlock()
}

func (p *Proxy) copy(to, from net.Conn, toServer bool) {
	defer to.Close()
	defer from.Close()
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		p.mu.Lock()
		delay, end := p.delay, false
		if left := p.cut[toServer]; left > 0 && n > 0 {
			if end = n >= left; end {
				n = left - 1
				delete(p.cut, toServer)
			} else {
				p.cut[toServer] = left - n
			}
		}
		if n > 0 {
			if p.seen++; p.seen == p.cutAt {
				p.cutAt, n, end = 0, 0, true
			}
		}
		p.mu.Unlock()
		if delay > 0 {
			select {
			case <-time.After(delay):
			case <-p.ended:
			}
		}
		if _, werr := to.Write(buffer[:n]); werr != nil || end || err != nil && err != io.EOF {
			return
		}
		if err == io.EOF {
			return
		}
	}
}
