package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
)

// maxMessage bounds a message read from standard input, which is held in
// memory: far above what mail servers take.
const maxMessage = 512 << 20

// rawField is one header field as it stands in a message: its value with the
// blanks after the colon, folds as CRLF, no line end.
type rawField struct{ name, value string }

// rawMessage is a message in the form in which it is hashed: all lines end
// with CRLF.
type rawMessage struct {
	fields []rawField
	body   []byte

	authorOnly bool // it was made up for its author's address
}

// readMessage reads a message from standard input. It returns the bytes as
// they came, too.
func readMessage(r io.Reader) (raw []byte, m *rawMessage, err error) {
	raw, err = io.ReadAll(io.LimitReader(r, maxMessage+1))
	if err != nil {
		return nil, nil, fmt.Errorf("message on standard input: %w", err)
	}
	if len(raw) > maxMessage {
		return nil, nil, fmt.Errorf("message on standard input: over %d MiB", maxMessage>>20)
	}
	if len(raw) == 0 {
		return nil, nil, withHint(errors.New("no message on standard input"), "give one with: < message.eml")
	}
	m, err = parseMessage(toCRLF(raw))
	return raw, m, err
}

// toCRLF ends lines with CRLF where they end with LF, as files on disk do.
func toCRLF(b []byte) []byte {
	bare := 0
	for i, c := range b {
		if c == '\n' && (i == 0 || b[i-1] != '\r') {
			bare++
		}
	}
	if bare == 0 {
		return b
	}
	out := make([]byte, 0, len(b)+bare)
	for i, c := range b {
		if c == '\n' && (i == 0 || b[i-1] != '\r') {
			out = append(out, '\r')
		}
		out = append(out, c)
	}
	return out
}

// parseMessage splits a message with CRLF line ends into header fields and body
// (RFC 5322, section 2). A message without a blank line is all header.
func parseMessage(b []byte) (*rawMessage, error) {
	m := &rawMessage{}
	for number := 1; len(b) > 0; number++ {
		line, rest, complete := bytes.Cut(b, []byte("\r\n"))
		b = rest
		switch {
		case len(line) == 0 && complete:
			m.body = rest
			return m, nil
		case line[0] == ' ' || line[0] == '\t':
			if len(m.fields) == 0 {
				return nil, fmt.Errorf("line %d: begins with a blank, want a header field", number)
			}
			last := &m.fields[len(m.fields)-1]
			last.value += "\r\n" + string(line)
		default:
			name, value, ok := bytes.Cut(line, []byte(":"))
			if !ok || !isFieldName(bytes.TrimRight(name, " \t")) {
				err := fmt.Errorf("line %d: no header field", number)
				if number == 1 && bytes.HasPrefix(line, []byte("From ")) {
					return nil, withHint(err, "this is an mbox file; take one message out of it, without its \"From \" line")
				}
				return nil, withHint(err, "a blank line must stand between header and body")
			}
			// A blank before the colon is no part of the name, and MTAs
			// take it away.
			m.fields = append(m.fields, rawField{string(bytes.TrimRight(name, " \t")), string(value)})
		}
	}
	return m, nil
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
