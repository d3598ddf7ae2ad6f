package e2e

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"
	"testing"
)

// facts are what a mail server tells of a message beside its content.
type facts struct {
	id     string // of the queue
	client string // IP address; empty for mail handed in on the machine
	login  string
	daemon string // macro {daemon_name}
	host   string // macro j
}

// fate is what the milter protocol says became of a message.
type fate struct {
	top   string // fields to be put on top
	reply string // refusal: code, enhanced code and sentence
}

// announce tells of the SMTP client.
func (c *milterClient) announce(f facts) {
	c.strings0('D', "Cj", f.host, "{daemon_name}", f.daemon, "v", "Postfix 3.7.11")
	// Postfix makes up this client for mail by the sendmail command.
	host, family, port, address := "localhost", "4", uint16(0), "127.0.0.1"
	if f.client != "" {
		host, port, address = "client.example.net", 40000, f.client
		if netip.MustParseAddr(f.client).Is6() {
			family = "6"
		}
	}
	c.packet('C', append([]byte(host+"\x00"+family), append(binary.BigEndian.AppendUint16(nil, port), address+"\x00"...)...))
}

// mailFrom begins a message. It says whether the milter wants to see more.
func (c *milterClient) mailFrom(t *testing.T, f facts) bool {
	t.Helper()
	macros := []string{"Mi", f.id}
	if f.login != "" {
		macros = append(macros, "{auth_authen}", f.login)
	}
	c.strings0('D', macros...)
	c.strings0('M', "<>")
	more, _ := c.verdict(t)
	return more
}

// verdict reads an answer: whether the message goes on, and with what it ends.
func (c *milterClient) verdict(t *testing.T) (more bool, f fate) {
	t.Helper()
	for {
		command, payload, err := c.read()
		if err != nil {
			t.Fatalf("waiting for a verdict: %v", err)
		}
		switch command {
		case 'i': // insert: index, name, value
			parts := bytes.Split(payload[4:], []byte{0})
			if binary.BigEndian.Uint32(payload) != 0 || len(parts) != 3 || !strings.HasPrefix(string(parts[1]), " ") {
				t.Fatalf("insertion %q, want index 0 and a value with a leading blank", payload)
			}
			f.top = string(parts[0]) + ":" + strings.ReplaceAll(string(parts[1]), "\n", "\r\n") + "\r\n" + f.top
		case 'y':
			f.reply = strings.TrimSuffix(string(payload), "\x00")
			return false, f
		case 'c':
			return true, f
		case 'a':
			return false, f
		default:
			t.Fatalf("answer %c %q", command, payload)
		}
	}
}

// content takes a message from its header to its end.
func (c *milterClient) content(t *testing.T, header, body string) fate {
	t.Helper()
	c.header(t, header)
	if more, f := c.verdict(t); !more {
		return f
	}
	c.packet('B', []byte(body))
	c.packet('E', nil)
	_, f := c.verdict(t)
	return f
}

// judge takes one message through a connection of its own.
func judge(t *testing.T, address string, f facts, header, body string) fate {
	t.Helper()
	c := dialMilter(t, address)
	defer c.Close()
	c.announce(f)
	var end fate
	if c.mailFrom(t, f) {
		end = c.content(t, header, body)
	}
	c.packet('Q', nil)
	_ = c.w.Flush()
	return end
}

// signed is the message with what the milter put on top.
func (f fate) signed(t *testing.T, header, body string) *message {
	t.Helper()
	m, err := parseMessage([]byte(f.top + header + "\r\n" + body))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// by writes a header with this author.
func by(author string) string {
	return strings.Replace(header, "Ann <ann@example.com>", author, 1)
}

// String is for messages of tests.
func (f fate) String() string {
	return fmt.Sprintf("%d signatures, reply %q", strings.Count(f.top, "DKIM-Signature:"), f.reply)
}
