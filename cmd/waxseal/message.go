package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
)

const (
	// maxMessage bounds a message on standard input: far above what mail servers
	// take.
	maxMessage = 4 << 30

	// maxHeader bounds its header, which is held in memory; the body is not. It is
	// four times the default of limits.header_bytes.
	maxHeader = 4 << 20
)

// rawField is one header field as it stands in a message: its value with the
// blanks after the colon, folds as CRLF, no line end.
type rawField struct{ name, value string }

// rawMessage is a message in the form in which it is hashed: all lines end
// with CRLF.
type rawMessage struct {
	fields []rawField
	body   io.Reader // to be read once

	crlf       bool // as it came, its first line ended with CRLF
	authorOnly bool // it was made up for its author's address
}

// readMessage reads the header of a message on standard input. Reading the body
// reads the rest.
func readMessage(r io.Reader) (*rawMessage, error) {
	lines := &crlfReader{from: &stdinReader{from: r}}
	text := bufio.NewReaderSize(lines, 64<<10)
	if _, err := text.Peek(1); err == io.EOF {
		return nil, withHint(errors.New("no message on standard input"), "give one with: < message.eml")
	}
	m, err := parseMessage(text)
	if err == nil {
		m.crlf = lines.crlf
	}
	return m, err
}

// stdinReader is standard input up to maxMessage. An error comes alone and again:
// bufio.Reader.WriteTo goes on reading after one that came with octets.
type stdinReader struct {
	from io.Reader
	n    int64
	err  error
}

func (s *stdinReader) Read(p []byte) (int, error) {
	if s.err != nil {
		return 0, s.err
	}
	n, err := s.from.Read(p)
	if s.n += int64(n); s.n > maxMessage {
		err = fmt.Errorf("over %d MiB", maxMessage>>20)
	}
	if err != nil && err != io.EOF {
		err = fmt.Errorf("message on standard input: %w", err)
	}
	if s.err = err; n > 0 {
		err = nil
	}
	return n, err
}

// crlfReader ends lines with CRLF where they end with LF, as files on disk do.
type crlfReader struct {
	from   io.Reader
	buffer []byte
	last   byte // that was read
	lf     bool // is owed, after its CR
	seen   bool // a line end
	crlf   bool // the first one was CRLF
}

func (c *crlfReader) Read(p []byte) (n int, err error) {
	if c.lf && len(p) > 0 {
		c.lf, p[0] = false, '\n'
		return 1, nil
	}
	if want := (len(p) + 1) / 2; cap(c.buffer) < want {
		c.buffer = make([]byte, want)
	}
	got, err := c.from.Read(c.buffer[:(len(p)+1)/2])
	for _, b := range c.buffer[:got] {
		if b == '\n' {
			bare := c.last != '\r'
			if !c.seen {
				c.seen, c.crlf = true, !bare
			}
			if bare {
				p[n] = '\r'
				n++
			}
		}
		if c.last = b; n == len(p) { // one of an odd number, and it was a bare LF
			c.lf = true
			break
		}
		p[n] = b
		n++
	}
	if c.lf && err == io.EOF {
		err = nil // not before the LF
	}
	return n, err
}

// parseMessage splits a message with CRLF line ends into header fields and body
// (RFC 5322, section 2). A message without a blank line is all header.
func parseMessage(text *bufio.Reader) (*rawMessage, error) {
	m := &rawMessage{body: text}
	size := 0
	var value []byte // of the last field
	finish := func() *rawMessage {
		if n := len(m.fields); n > 0 {
			m.fields[n-1].value = string(value)
		}
		return m
	}
	for number := 1; ; number++ {
		line, complete, err := readLine(text, maxHeader-size)
		if err != nil {
			return nil, err
		}
		size += len(line)
		switch {
		case len(line) == 0:
			return finish(), nil // the blank line, or the end
		case line[0] == ' ' || line[0] == '\t':
			if len(m.fields) == 0 {
				return nil, fmt.Errorf("line %d: begins with a blank, want a header field", number)
			}
			value = append(append(value, "\r\n"...), line...)
		default:
			name, first, ok := bytes.Cut(line, []byte(":"))
			if !ok || !isFieldName(bytes.TrimRight(name, " \t")) {
				err := fmt.Errorf("line %d: no header field", number)
				if number == 1 && bytes.HasPrefix(line, []byte("From ")) {
					return nil, withHint(err, "this is an mbox file; take one message out of it, without its \"From \" line")
				}
				return nil, withHint(err, "a blank line must stand between header and body")
			}
			// A blank before the colon is no part of the name, and MTAs
			// take it away.
			finish()
			m.fields = append(m.fields, rawField{name: string(bytes.TrimRight(name, " \t"))})
			value = append(value[:0], first...)
		}
		if !complete {
			return finish(), nil
		}
	}
}

// readLine reads a line without its CRLF. It is not complete if the text ends
// before that.
func readLine(text *bufio.Reader, most int) (line []byte, complete bool, err error) {
	for {
		part, err := text.ReadSlice('\n')
		if line = append(line, part...); len(line) > most {
			return nil, false, fmt.Errorf("message on standard input: header over %d MiB", maxHeader>>20)
		}
		switch err {
		case nil:
			return line[:len(line)-len("\r\n")], true, nil
		case bufio.ErrBufferFull:
		case io.EOF:
			return line, false, nil
		default:
			return nil, false, err
		}
	}
}

// isFieldName says whether a name is one: printable ASCII without blanks (RFC
// 5322, section 3.6.8).
func isFieldName(name []byte) bool {
	for _, c := range name {
		if c <= ' ' || c > '~' {
			return false
		}
	}
	return len(name) > 0
}
