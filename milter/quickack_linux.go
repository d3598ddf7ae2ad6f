package milter

import (
	"io"
	"net"
	"syscall"
)

// quickAck returns a reader of conn that has the kernel acknowledge what it
// reads at once. Postfix writes small packets under Nagle's algorithm, and
// would otherwise wait for a delayed acknowledgement, 40 ms at a time. The
// option does not last: the kernel falls back by itself, so it is set before
// each read.
func quickAck(conn net.Conn) io.Reader {
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return conn
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return conn
	}
	r := &quickAckReader{conn: tcp, raw: raw}
	r.set = func(fd uintptr) {
		// An old kernel without the option only makes mail slower.
		_ = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_QUICKACK, 1)
	}
	return r
}

type quickAckReader struct {
	conn *net.TCPConn
	raw  syscall.RawConn
	set  func(fd uintptr)
}

func (r *quickAckReader) Read(p []byte) (int, error) {
	if err := r.raw.Control(r.set); err != nil {
		return 0, err
	}
	return r.conn.Read(p)
}
