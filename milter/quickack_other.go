//go:build !linux

package milter

import (
	"io"
	"net"
)

// quickAck is for Linux, where it saves a TCP peer 40 ms a mail.
func quickAck(conn net.Conn) io.Reader { return conn }
