package e2e

import (
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// otherMilter is a running milter that is not ours, private to a test.
type otherMilter struct {
	*exec.Cmd
	log    transcript
	exited chan struct{}
}

var openDKIMNeeds = []need{root, installed("opendkim", "opendkim")}

// startOpenDKIM starts OpenDKIM with a configuration, and waits for its socket.
func startOpenDKIM(t *testing.T, config, socket string) *otherMilter {
	t.Helper()
	return startSigner(t, exec.Command("opendkim", "-f", "-x", config), socket)
}

// startSigner starts a milter, and waits for its socket.
func startSigner(t *testing.T, c *exec.Cmd, socket string) *otherMilter {
	t.Helper()
	o := launchSigner(t, c)
	eventually(t, c.Args[0]+" listens", func() bool {
		c, err := tryMilter(socket)
		if err == nil {
			c.Close()
		}
		return err == nil || o.hasExited()
	})
	if o.hasExited() {
		t.Fatalf("%s: %v\n%s", c.Args[0], o.ProcessState, o.log.String())
	}
	return o
}

func launchSigner(t *testing.T, c *exec.Cmd) *otherMilter {
	t.Helper()
	o := &otherMilter{Cmd: c, exited: make(chan struct{})}
	o.Stdout, o.Stderr = &o.log, &o.log
	ownGroup(o.Cmd)
	if err := o.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = o.Wait()
		close(o.exited)
	}()
	t.Cleanup(o.stop)
	return o
}

func (o *otherMilter) hasExited() bool {
	select {
	case <-o.exited:
		return true
	default:
		return false
	}
}

// stop ends OpenDKIM by force, as it takes five seconds to end otherwise.
func (o *otherMilter) stop() {
	_ = syscall.Kill(-o.Process.Pid, syscall.SIGKILL) // and its child, with AutoRestart
	<-o.exited
}

// mailClient is the SMTP client of a message, as the mail server tells a milter.
type mailClient struct {
	name, address string // without an address: no SMTP
	login, daemon string
	macros        map[string]string
}

// answer is what a milter did with a message.
type answer struct {
	verdict string // "accepted", "put off" or "refused"
	message *message
}

// The bits of the protocol by which a milter declines steps and replies
// (libmilter's mfdef.h), by command.
var (
	declined = map[byte]uint32{'C': 0x1, 'H': 0x2, 'M': 0x4, 'R': 0x8, 'B': 0x10, 'L': 0x20, 'N': 0x40, 'T': 0x200}
	silent   = map[byte]uint32{'C': 0x1000, 'H': 0x2000, 'M': 0x4000, 'R': 0x8000, 'B': 0x80000, 'L': 0x80, 'N': 0x40000, 'T': 0x10000}
)

const leadingSpace = 0x100000

// throughMilter takes a message through any milter, as a mail server does that
// heeds all that the milter asks for.
func throughMilter(t *testing.T, address string, from mailClient, header, body string) answer {
	t.Helper()
	c := rawMilter(t, address)
	defer c.Close()
	c.packet('O', binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, offerVersion), offerActions), offerProtocol))
	protocol := binary.BigEndian.Uint32(c.want(t, 'O')[8:])
	original, err := parseMessage([]byte(header + "\r\n" + body))
	if err != nil {
		t.Fatal(err)
	}

	// step sends one packet. It returns a verdict once there is one.
	step := func(command byte, payload []byte) string {
		t.Helper()
		if protocol&declined[command] != 0 {
			return ""
		}
		c.packet(command, payload)
		if protocol&silent[command] != 0 {
			return ""
		}
		return finalAnswer(t, c, command)
	}
	zero := func(s ...string) []byte { return []byte(strings.Join(s, "\x00") + "\x00") }
	done := func(verdict string) answer { return answer{verdict, original} }

	macros := []string{"j", "mx.example.com", "{daemon_name}", from.daemon, "v", "Postfix 3.7.11"}
	for name, value := range from.macros {
		macros = append(macros, name, value)
	}
	c.packet('D', append([]byte("C"), zero(macros...)...))
	connect := append(zero(from.name), 'U')
	if ip := net.ParseIP(from.address); ip != nil {
		family := byte('4')
		if ip.To4() == nil {
			family = '6'
		}
		connect = append(append(zero(from.name), family), binary.BigEndian.AppendUint16(nil, 40000)...)
		connect = append(connect, zero(from.address)...)
	}
	if v := step('C', connect); v != "" {
		return done(v)
	}
	if v := step('H', zero("client.example.net")); v != "" {
		return done(v)
	}
	mail := []string{"{mail_addr}", "sender@example.net"}
	if from.login != "" {
		mail = append(mail, "{auth_type}", "PLAIN", "{auth_authen}", from.login)
	}
	c.packet('D', append([]byte("M"), zero(mail...)...))
	if v := step('M', zero("<sender@example.net>")); v != "" {
		return done(v)
	}
	if v := step('R', zero("<box@example.org>")); v != "" {
		return done(v)
	}
	c.packet('D', append([]byte("T"), zero("i", "4ABCDEF")...))
	if v := step('T', nil); v != "" {
		return done(v)
	}
	for _, f := range original.fields {
		value := strings.ReplaceAll(strings.TrimSuffix(f.value(), "\r\n"), "\r\n", "\n")
		if protocol&leadingSpace == 0 {
			value = strings.TrimPrefix(value, " ")
		}
		if v := step('L', zero(f.name, value)); v != "" {
			return done(v)
		}
	}
	if v := step('N', nil); v != "" {
		return done(v)
	}
	if v := step('B', []byte(body)); v != "" {
		return done(v)
	}
	c.packet('D', append([]byte("E"), zero("i", "4ABCDEF")...))
	c.packet('E', nil)
	return endOfMessage(t, c, protocol, header, body)
}

// endOfMessage reads the changes and the answer at the end of a message.
func endOfMessage(t *testing.T, c *milterClient, protocol uint32, header, body string) answer {
	t.Helper()
	for top := ""; ; {
		command, payload, err := c.read()
		if err != nil {
			t.Fatalf("end of message: %v", err)
		}
		switch command {
		case 'i', 'h': // insert, with an index, and append
			if command == 'i' {
				payload = payload[4:]
			}
			name, value, _ := strings.Cut(strings.TrimSuffix(string(payload), "\x00"), "\x00")
			if name != "DKIM-Signature" {
				continue
			}
			if protocol&leadingSpace == 0 {
				value = " " + value
			}
			top = name + ":" + strings.ReplaceAll(value, "\n", "\r\n") + "\r\n" + top
		case 'p', 'm', 'b', 'e', 'q': // progress and other changes
		default:
			m, err := parseMessage([]byte(top + header + "\r\n" + body))
			if err != nil {
				t.Fatal(err)
			}
			return answer{milterVerdict(t, command, payload), m}
		}
	}
}

// finalAnswer reads the answer to a step, and returns a verdict that ends the
// message.
func finalAnswer(t *testing.T, c *milterClient, step byte) string {
	t.Helper()
	command, payload, err := c.read()
	if err != nil {
		t.Fatalf("answer to %c: %v", step, err)
	}
	if command == 'c' || command == 's' {
		return ""
	}
	return milterVerdict(t, command, payload)
}

func milterVerdict(t *testing.T, command byte, payload []byte) string {
	t.Helper()
	switch command {
	case 'a', 'c':
		return "accepted"
	case 't':
		return "put off"
	case 'r':
		return "refused"
	case 'y':
		if strings.HasPrefix(string(payload), "4") {
			return "put off"
		}
		return "refused"
	}
	t.Fatalf("answer %c %q", command, payload)
	return ""
}

// words are the verdict and the signatures' d=, s= and i=, to be compared.
func (a answer) words() string {
	if a.verdict != "accepted" {
		return a.verdict
	}
	text := "accepted"
	for _, f := range a.message.fields {
		if f.name == "DKIM-Signature" {
			tags := tagsOf(f)
			text += fmt.Sprintf(" [d=%s s=%s i=%s]", tags["d"], tags["s"], tags["i"])
		}
	}
	return text
}

// checkValid fails unless go-msgauth passes all signatures of a message.
func (a answer) checkValid(t *testing.T, who string, keys *keystore) {
	t.Helper()
	verdicts, err := msgauth(a.message, keys)
	if err != nil {
		t.Fatalf("%s: %v", who, err)
	}
	for i, reason := range verdicts {
		if reason != "" {
			t.Errorf("%s: signature %d: %s\n%.2000s", who, i+1, reason, a.message.text)
		}
	}
}

// plainHeader is the header of a message of this author.
func plainHeader(from string) string {
	return "From: Ann  <" + from + ">\r\nTo: bob@example.org\r\nSubject: hello\r\nDate: " + time.Now().Format(time.RFC1123Z) + "\r\nMessage-ID: <1@example.com>\r\n"
}

// writeTree writes files below a directory, with DIR in them made its path.
func writeTree(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		mode := os.FileMode(0o644)
		if strings.HasSuffix(name, ".private") {
			mode = 0o600
		}
		writeFile(t, path, strings.ReplaceAll(text, "DIR", dir), mode)
	}
}
