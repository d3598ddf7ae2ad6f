package sqltest

import (
	"net"
	"sync"
	"testing"
	"time"
)

// Proxy stands between a client and a server and does what networks do.
type Proxy struct {
	Addr string

	to      string
	listen  net.Listener
	running sync.WaitGroup

	mu     sync.Mutex
	open   map[net.Conn]bool
	cutAt  int           // guarded by mu; pieces until the connection is cut, 0 for never
	pieces int           // guarded by mu; that have passed
	delay  time.Duration // guarded by mu; of every piece
	closed bool          // guarded by mu
}

// NewProxy starts a proxy to the address, which ends with the test.
func NewProxy(t testing.TB, to string) *Proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{Addr: l.Addr().String(), to: to, listen: l, open: map[net.Conn]bool{}}
	p.running.Go(p.accept)
	t.Cleanup(func() {
		l.Close()
		p.mu.Lock()
		p.closed = true
		p.mu.Unlock()
		p.Cut()
		p.running.Wait()
	})
	return p
}

// CutAt cuts all connections once, when so many more pieces have come by, from
// either side: the piece itself is swallowed. 0 lets everything pass.
func (p *Proxy) CutAt(pieces int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cutAt, p.pieces = pieces, 0
}

// WasCut reports whether the cut that CutAt asked for has happened.
func (p *Proxy) WasCut() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cutAt == 0
}

// Pieces returns how many pieces have come by since CutAt, from either side.
func (p *Proxy) Pieces() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.pieces
}

// Delay holds every piece back for so long.
func (p *Proxy) Delay(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.delay = d
}

// Cut cuts all connections now.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cut()
}

func (p *Proxy) cut() {
	for c := range p.open {
		c.Close()
	}
}

func (p *Proxy) accept() {
	for {
		client, err := p.listen.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", p.to)
		p.mu.Lock()
		if err != nil || p.closed {
			client.Close()
			if err == nil {
				server.Close()
			}
			p.mu.Unlock()
			continue
		}
		p.open[client], p.open[server] = true, true
		p.mu.Unlock()
		p.running.Go(func() { p.pass(client, server) })
		p.running.Go(func() { p.pass(server, client) })
	}
}

func (p *Proxy) pass(to, from net.Conn) {
	defer func() {
		to.Close()
		from.Close()
		p.mu.Lock()
		delete(p.open, from)
		p.mu.Unlock()
	}()
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		if err != nil || !p.piece() {
			return
		}
		if _, err := to.Write(buf[:n]); err != nil {
			return
		}
	}
}

// piece says whether one more piece passes.
func (p *Proxy) piece() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if delay := p.delay; delay > 0 {
		p.mu.Unlock()
		time.Sleep(delay)
		p.mu.Lock()
	}
	p.pieces++
	if p.cutAt > 0 && p.pieces == p.cutAt {
		p.cutAt = 0
		p.cut()
		return false
	}
	return true
}
