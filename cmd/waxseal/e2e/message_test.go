package e2e

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// message is a mail with CRLF line ends, in pieces.
type message struct {
	text   []byte
	fields []field
	body   []byte
}

// field is a header field: text is all of it, with folds and line end.
type field struct{ name, text string }

func (f field) value() string {
	_, value, _ := strings.Cut(f.text, ":")
	return value
}

func toCRLF(b []byte) []byte {
	return bytes.ReplaceAll(bytes.ReplaceAll(b, []byte("\r\n"), []byte("\n")), []byte("\n"), []byte("\r\n"))
}

func parseMessage(text []byte) (*message, error) {
	m := &message{text: text}
	rest := text
	for len(rest) > 0 {
		line, after, _ := bytes.Cut(rest, []byte("\r\n"))
		rest = after
		if len(line) == 0 {
			m.body = rest
			break
		}
		if line[0] == ' ' || line[0] == '\t' {
			if len(m.fields) == 0 {
				return nil, fmt.Errorf("message begins with a blank: %.80q", text)
			}
			m.fields[len(m.fields)-1].text += string(line) + "\r\n"
			continue
		}
		name, _, ok := bytes.Cut(line, []byte(":"))
		if !ok {
			return nil, fmt.Errorf("no header field: %.80q", line)
		}
		m.fields = append(m.fields, field{string(name), string(line) + "\r\n"})
	}
	return m, nil
}

// mail writes a message of the given lines.
func mail(lines ...string) string {
	return strings.Join(lines, "\r\n") + "\r\n"
}

// get returns the value of the first field of this name, trimmed.
func (m *message) get(name string) string {
	for _, f := range m.fields {
		if strings.EqualFold(f.name, name) {
			return strings.TrimSpace(f.value())
		}
	}
	return ""
}

// deliveryFields are what Postfix puts above everything on delivery.
var deliveryFields = []string{"Return-Path", "X-Original-To", "Delivered-To"}

// wire is the message without what its delivery put on top.
func (m *message) wire(t *testing.T) *message {
	t.Helper()
	w := &message{fields: m.fields, body: m.body}
	for len(w.fields) > 0 && slices.Contains(deliveryFields, w.fields[0].name) {
		w.fields = w.fields[1:]
	}
	var b bytes.Buffer
	for _, f := range w.fields {
		b.WriteString(f.text)
	}
	b.WriteString("\r\n")
	b.Write(w.body)
	w.text = b.Bytes()
	return w
}

// signature is what a DKIM-Signature field says of itself.
type signature struct{ domain, selector, algorithm, fields string }

// signatures reads the DKIM-Signature fields, top to bottom.
func (m *message) signatures() []signature {
	var all []signature
	for _, f := range m.fields {
		if !strings.EqualFold(f.name, "DKIM-Signature") {
			continue
		}
		var s signature
		for tag := range strings.SplitSeq(f.value(), ";") {
			name, value, _ := strings.Cut(tag, "=")
			value = strings.Join(strings.Fields(value), "")
			switch strings.TrimSpace(name) {
			case "d":
				s.domain = value
			case "s":
				s.selector = value
			case "a":
				s.algorithm = value
			case "h":
				s.fields = strings.ToLower(value)
			}
		}
		all = append(all, s)
	}
	return all
}

// checkUnchanged fails unless the delivered message is the sent one, to the
// octet, with signatures and Received on top. Fields that Postfix is known to
// add to this message are given by name.
func checkUnchanged(t *testing.T, sent []byte, got *message, signed int, added ...string) {
	t.Helper()
	want, err := parseMessage(sent)
	if err != nil {
		t.Fatal(err)
	}
	top := make([]string, signed, signed+1)
	for i := range top {
		top[i] = "DKIM-Signature"
	}
	top = append(top, "Received")
	wire := got.wire(t)
	for i, name := range top {
		if i >= len(wire.fields) || wire.fields[i].name != name {
			t.Fatalf("field %d is not %s:\n%.2000s", i+1, name, wire.text)
		}
	}
	var rest []field
	for _, f := range wire.fields[len(top):] {
		if !slices.ContainsFunc(added, func(name string) bool { return strings.EqualFold(name, f.name) }) {
			rest = append(rest, f)
		}
	}
	if !slices.Equal(rest, want.fields) {
		t.Errorf("header fields changed:\n got %q\nwant %q", rest, want.fields)
	}
	if !bytes.Equal(wire.body, want.body) {
		t.Errorf("body changed: %d octets, want %d:\n got %.300q\nwant %.300q", len(wire.body), len(want.body), wire.body, want.body)
	}
}
