//go:build linux

package main

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
)

// The milter protocol, version 6, as far as a mail server speaks it to a signer.

// Commands of the mail server.
const (
	cmdAbort     = 'A'
	cmdBody      = 'B'
	cmdConnect   = 'C'
	cmdMacros    = 'D'
	cmdEnd       = 'E' // of the message
	cmdHelo      = 'H'
	cmdHeader    = 'L'
	cmdMail      = 'M'
	cmdEndHeader = 'N'
	cmdNegotiate = 'O'
	cmdQuit      = 'Q'
	cmdRcpt      = 'R'
	cmdData      = 'T'
)

// Answers of the milter.
const (
	ansAddHeader    = 'h'
	ansInsertHeader = 'i'
	ansAccept       = 'a'
	ansContinue     = 'c'
	ansProgress     = 'p'
	ansSkip         = 's'
)

// What Postfix offers in the negotiation.
const (
	protocolVersion = 6
	allActions      = 0x1ff
	allProtocol     = 0x1fffff
	leadingSpace    = 0x100000 // values of header fields with the blank after the colon
	maxBodyPacket   = 65535
)

// stages are the commands that a milter can do without, and the flags by which
// it says so: that the command is not sent, and that it is sent but not answered.
var stages = map[byte]struct{ unwanted, noReply uint32 }{
	cmdConnect:   {0x1, 0x1000},
	cmdHelo:      {0x2, 0x2000},
	cmdMail:      {0x4, 0x4000},
	cmdRcpt:      {0x8, 0x8000},
	cmdBody:      {0x10, 0x80000},
	cmdHeader:    {0x20, 0x80},
	cmdEndHeader: {0x40, 0x40000},
	cmdData:      {0x200, 0x10000},
	cmdEnd:       {}, // always sent, always answered
}

// appendStrings appends strings as the protocol has them, each ended by a NUL.
func appendStrings(to []byte, strings ...string) []byte {
	for _, s := range strings {
		to = append(append(to, s...), 0)
	}
	return to
}

// maxPacket bounds packets. No answer to a mail server comes near it, and no
// server sends longer ones.
const maxPacket = 1 << 20

// readPacket reads one packet into buf, which it grows when needed. The data is
// good until the next use of buf.
func readPacket(r *bufio.Reader, buf *[]byte) (command byte, data []byte, err error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, nil, err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n < 1 || n > maxPacket {
		return 0, nil, fmt.Errorf("packet of %d bytes, want 1 to %d", n, maxPacket)
	}
	if int(n) > cap(*buf) {
		*buf = make([]byte, n)
	}
	b := (*buf)[:n]
	if _, err := io.ReadFull(r, b); err != nil {
		return 0, nil, fmt.Errorf("packet of %d bytes: %w", n, err)
	}
	return b[0], b[1:], nil
}
