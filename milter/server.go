// Package milter is the mail server's end of waxseal: it takes messages by the
// milter protocol from Postfix or Sendmail and answers with their signatures.
//
// It promises that no peer can end the process or make it grow: packets are
// checked before anything trusts them, bodies stream, headers are bounded. One
// message never sees another's state, and every message that is ours leaves
// one line in the log.
package milter

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	gomilter "github.com/d--j/go-milter"

	"waxseal/signer"
)

const (
	// DefaultConnections is the number of connections served at once. Postfix
	// opens one for each smtpd process, of which it runs 100.
	DefaultConnections = 1000

	// DefaultIdleTimeout is libmilter's: Postfix keeps a milter connection
	// open while its own client thinks, which may take an hour.
	DefaultIdleTimeout = 7210 * time.Second

	// DefaultPacketTimeout bounds one packet from its first byte to its last,
	// and the write of an answer.
	DefaultPacketTimeout = 30 * time.Second
)

// Options of a Server. The zero value works.
type Options struct {
	Log *slog.Logger // nil: slog.Default

	Connections   int           // at once; more wait in the listener's queue. 0: DefaultConnections
	IdleTimeout   time.Duration // between two packets. 0: DefaultIdleTimeout
	PacketTimeout time.Duration // for one packet. 0: DefaultPacketTimeout

	Now func() time.Time // nil: time.Now

	Collector *Collector // counts for Prometheus; nil: nobody asks. Of this server only
}

// Stats counts what the server has done. All counters only grow, but for Open.
type Stats struct {
	Open        atomic.Int64 // connections at this moment
	Connections atomic.Int64
	Malformed   atomic.Int64 // connections cut for breaking the protocol or its time limits
	Panics      atomic.Int64
	Signed      atomic.Int64
	NotOurs     atomic.Int64
	Unsigned    atomic.Int64 // ours, accepted without a signature
	Tempfailed  atomic.Int64
	Rejected    atomic.Int64
}

func (s *Stats) count(r *Result) {
	switch {
	case r.Signed:
		s.Signed.Add(1)
	case r.Cause == NotOurs:
		s.NotOurs.Add(1)
	case r.Action == Tempfail:
		s.Tempfailed.Add(1)
	case r.Action == Reject:
		s.Rejected.Add(1)
	default:
		s.Unsigned.Add(1)
	}
}

// Server serves any number of listeners.
type Server struct {
	options  Options
	log      *slog.Logger
	now      func() time.Time
	settings atomic.Pointer[Settings]
	stats    Stats
	messages sync.Pool // of *signer.Message
	slots    chan struct{}
	halt     chan struct{}   // closed when the server begins to stop
	ctx      context.Context // ends when the server has to stop at once
	cancel   context.CancelFunc

	mu        sync.Mutex
	stopping  bool                      // guarded by mu
	listeners map[net.Listener]struct{} // guarded by mu
	sessions  map[*session]struct{}     // guarded by mu
	running   sync.WaitGroup            // accept loops and sessions
}

// silenceLibrary keeps go-milter from writing to the standard logger. What it
// has to say is said by the guard and the session, with the listener's name.
var silenceLibrary = sync.OnceFunc(func() { gomilter.LogWarning = func(string, ...any) {} })

// New makes a server with the settings that messages begin with.
func New(settings *Settings, o Options) *Server {
	silenceLibrary()
	o.Connections = orDefault(o.Connections, DefaultConnections)
	o.IdleTimeout = orDefault(o.IdleTimeout, DefaultIdleTimeout)
	o.PacketTimeout = orDefault(o.PacketTimeout, DefaultPacketTimeout)
	if o.Log == nil {
		o.Log = slog.Default()
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	s := &Server{
		options:   o,
		log:       o.Log,
		now:       o.Now,
		messages:  sync.Pool{New: func() any { return signer.New(signer.Options{}) }},
		slots:     make(chan struct{}, o.Connections),
		halt:      make(chan struct{}),
		listeners: map[net.Listener]struct{}{},
		sessions:  map[*session]struct{}{},
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.settings.Store(settings)
	if o.Collector != nil {
		o.Collector.stats.Store(&s.stats)
	}
	return s
}

// Use puts new settings in force. Messages under way finish with those they
// began with.
func (s *Server) Use(settings *Settings) { s.settings.Store(settings) }

// Stats returns the server's counters.
func (s *Server) Stats() *Stats { return &s.stats }

// ErrStopped is returned by Serve after Shutdown.
var ErrStopped = errors.New("milter: server stopped")

// Serve takes connections from a listener, whose name stands in the log, until
// Shutdown closes it. When all slots are taken, further peers wait: one for each
// listener here, the rest in the kernel's queue.
func (s *Server) Serve(name string, listener net.Listener) error {
	if !s.enter(listener) {
		listener.Close()
		return ErrStopped
	}
	defer s.running.Done()
	var full time.Time // when the last warning was given
	for {
		conn, err := s.accept(name, listener)
		if err != nil {
			return err
		}
		select {
		case s.slots <- struct{}{}:
		default:
			if now := s.now(); now.Sub(full) > time.Minute {
				full = now
				s.log.Warn("all connections in use, further ones wait", "listener", name, "connections", s.options.Connections)
			}
			select {
			case s.slots <- struct{}{}:
			case <-s.halt:
				conn.Close()
				return ErrStopped
			}
		}
		c := &session{server: s, listener: name, guard: newGuard(conn, s.options.IdleTimeout, s.options.PacketTimeout)}
		if !s.track(c) {
			conn.Close()
			<-s.slots
			return ErrStopped
		}
		go func() {
			defer s.untrack(c)
			c.serve()
		}()
	}
}

// accept waits for a connection. Trouble that passes, such as a lack of file
// descriptors, is waited out.
func (s *Server) accept(name string, listener net.Listener) (net.Conn, error) {
	const longest = time.Second
	for pause := 5 * time.Millisecond; ; pause = min(2*pause, longest) {
		conn, err := listener.Accept()
		if err == nil {
			return conn, nil
		}
		s.mu.Lock()
		stopping := s.stopping
		s.mu.Unlock()
		if stopping {
			return nil, ErrStopped
		}
		if errors.Is(err, net.ErrClosed) {
			return nil, fmt.Errorf("listener %s: %w", name, err)
		}
		s.log.Error("cannot take a connection, trying again", "listener", name, "err", err)
		select {
		case <-time.After(pause):
		case <-s.halt:
			return nil, ErrStopped
		}
	}
}

func (s *Server) enter(l net.Listener) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopping {
		return false
	}
	s.listeners[l] = struct{}{}
	s.running.Add(1)
	return true
}

func (s *Server) track(c *session) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopping {
		return false
	}
	s.sessions[c] = struct{}{}
	s.running.Add(1)
	s.stats.Connections.Add(1)
	s.stats.Open.Add(1)
	return true
}

func (s *Server) untrack(c *session) {
	s.mu.Lock()
	delete(s.sessions, c)
	s.mu.Unlock()
	s.stats.Open.Add(-1)
	<-s.slots
	s.running.Done()
}

// Shutdown stops taking connections, closes those between two messages, and
// waits for the messages under way. When the context ends first, it closes all
// connections, so that the MTAs try these messages again, and returns the
// context's error. All goroutines have ended when it returns.
func (s *Server) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	if !s.stopping {
		s.stopping = true
		close(s.halt)
	}
	for l := range s.listeners {
		l.Close()
	}
	for c := range s.sessions {
		c.stop()
	}
	s.mu.Unlock()

	done := make(chan struct{})
	go func() {
		s.running.Wait()
		close(done)
	}()
	select {
	case <-done:
		s.cancel()
		return nil
	case <-ctx.Done():
	}
	s.cancel()
	s.mu.Lock()
	for c := range s.sessions {
		c.guard.Close()
	}
	s.mu.Unlock()
	<-done
	return ctx.Err()
}

// oneConn is a listener that gives out a single connection, and ends when that
// is closed.
type oneConn struct {
	conn   net.Conn
	closed chan struct{}
	given  bool
}

func (l *oneConn) Accept() (net.Conn, error) {
	if !l.given {
		l.given = true
		return l.conn, nil
	}
	<-l.closed
	return nil, net.ErrClosed
}

func (l *oneConn) Close() error   { return nil }
func (l *oneConn) Addr() net.Addr { return l.conn.LocalAddr() }

// closeNotifier tells when go-milter is done with a connection.
type closeNotifier struct {
	*guard
	once   sync.Once
	closed chan struct{}
}

func (c *closeNotifier) Close() error {
	err := c.guard.Close()
	c.once.Do(func() { close(c.closed) })
	return err
}
