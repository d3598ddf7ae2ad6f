//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/smtp"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"time"
)

// server is a private Postfix below one directory: on loopback, without DNS,
// without chroot, apart from any other Postfix of the machine. It has an smtpd for
// each milter, on a port of its own, so that milters can be measured by turns
// without a reload. What it accepts goes nowhere, except that mail for the inbox
// is delivered to a maildir.
type server struct {
	*daemon
	ports []string // of the smtpds, in the order of the milters
	inbox string
}

// inboxRecipient gets mail delivered.
const inboxRecipient = "box@inbox.example.net"

// startPostfix needs root. An empty milter is none.
func startPostfix(ctx context.Context, dir string, milters []string) (*server, error) {
	dir, err := os.MkdirTemp(dir, "postfix-")
	if err != nil {
		return nil, err
	}
	owner, err := user.Lookup("postfix")
	if err != nil {
		return nil, err
	}
	uid, err := strconv.Atoi(owner.Uid)
	if err != nil {
		return nil, err
	}
	gid, err := strconv.Atoi(owner.Gid)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		return nil, err
	}
	for _, sub := range []string{"conf", "queue", "data", "mail"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o755); err != nil {
			return nil, err
		}
	}
	for _, sub := range []string{"data", "mail"} { // written by Postfix's own user
		if err := os.Chown(filepath.Join(dir, sub), uid, gid); err != nil {
			return nil, err
		}
	}
	s := &server{inbox: filepath.Join(dir, "mail/box/new")}
	master := postfixServices
	for _, milter := range milters {
		at, err := newAddress("tcp", "")
		if err != nil {
			return nil, err
		}
		s.ports = append(s.ports, at.name)
		master += fmt.Sprintf("%s inet n - n - - smtpd\n -o smtpd_milters=%s\n", at.name, milter)
	}
	postfix, err := findBinary("postfix")
	if err != nil {
		return nil, err
	}
	postconf := filepath.Join(filepath.Dir(postfix), "postconf")
	defaults := ""
	for _, name := range []string{"command_directory", "daemon_directory"} {
		value, err := firstLine(postconf, "-d", "-h", name)
		if err != nil {
			return nil, err
		}
		defaults += name + " = " + value + "\n"
	}
	main := fmt.Sprintf(postfixMain, dir, uid, gid) + defaults
	for name, content := range map[string]string{"conf/main.cf": main, "conf/master.cf": master} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			return nil, err
		}
	}
	if s.daemon, err = startDaemon(ctx, "Postfix", dir, []string{postfix, "-c", filepath.Join(dir, "conf"), "start-fg"}); err != nil {
		return nil, err
	}
	for _, port := range s.ports {
		if err := s.listening(ctx, address{"tcp", port}); err != nil {
			s.stop()
			return nil, err
		}
	}
	return s, nil
}

const postfixMain = `compatibility_level = 3.6
queue_directory = %[1]s/queue
data_directory = %[1]s/data
maillog_file = %[1]s/maillog
maillog_file_prefixes = %[1]s
mail_owner = postfix
setgid_group = postdrop
myhostname = mx.example.com
mydestination =
alias_maps =
alias_database =
local_recipient_maps =
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
mynetworks = 127.0.0.0/8
smtpd_relay_restrictions = permit_mynetworks, reject
smtpd_peername_lookup = no
smtp_dns_support_level = disabled
in_flow_delay = 0
message_size_limit = 104857600
mailbox_size_limit = 0
virtual_mailbox_limit = 0
virtual_mailbox_domains = inbox.example.net
virtual_mailbox_base = %[1]s/mail
virtual_mailbox_maps = static:box/
virtual_minimum_uid = 1
virtual_uid_maps = static:%[2]d
virtual_gid_maps = static:%[3]d
default_transport = discard:
milter_default_action = tempfail
`

const postfixServices = `cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
virtual unix - n n - - virtual
anvil unix - - n - 1 anvil
proxymap unix - - n - - proxymap
postlog unix-dgram n - n - 1 postlogd
`

// behindBytes is the size of the messages sent through Postfix.
const behindBytes = 2 << 10

// behind is what a milter adds to a message's way through Postfix.
type behind struct {
	Program   string  `json:"program"`
	Ours      bool    `json:"ours"`
	Transport string  `json:"transport,omitempty"` // none without a milter
	Took      float64 `json:"message_ms"`          // median
	Added     float64 `json:"added_ms"`            // to what a message takes without a milter
	Failure   string  `json:"failure,omitempty"`
}

// behindPostfix sends messages one after the other through smtpds with and
// without milters, by turns. Each milter's signature is also verified in a
// delivered mail.
func behindPostfix(ctx context.Context, dir string, k *keys, programs []*program, p pace) ([]behind, error) {
	rows := []behind{{Program: "no milter"}}
	milters := []string{""}
	for _, transport := range []string{"unix", "tcp"} {
		for _, program := range programs {
			row := behind{Program: program.name, Ours: program.ours, Transport: transport}
			d, at, err := program.start(ctx, dir, transport, k, onlyRSA)
			if d != nil {
				defer d.stop()
			}
			if err != nil {
				row.Failure = err.Error()
			}
			rows, milters = append(rows, row), append(milters, at.postfix())
		}
	}
	s, err := startPostfix(ctx, dir, milters)
	if err != nil {
		return nil, err
	}
	defer s.stop()

	for i := range rows {
		if i > 0 && rows[i].Failure == "" {
			if err := s.verify(ctx, s.ports[i], k); err != nil {
				rows[i].Failure = err.Error()
			}
		}
	}
	m := newMessage(behindBytes)
	times := make([][]float64, len(rows))
	for round := range p.rounds {
		for n := range rows {
			i := (round + n) % len(rows)
			if rows[i].Failure != "" {
				continue
			}
			took, err := mailFor(s.ports[i], m, p.turn)
			if err != nil {
				rows[i].Failure = err.Error()
			}
			times[i] = append(times[i], took...)
		}
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if rows[0].Failure != "" {
		return nil, fmt.Errorf("mail through Postfix without a milter: %s", rows[0].Failure)
	}
	for i := range rows {
		rows[i].Took = quantile(times[i], 0.5)
		rows[i].Added = rows[i].Took - rows[0].Took
	}
	return rows, nil
}

// mailFor sends messages over one SMTP session until the time is up, and returns
// how many milliseconds each took. The first, which finds cold processes, is
// not among them.
func mailFor(at string, m *message, lasting time.Duration) ([]float64, error) {
	c, err := smtp.Dial(at)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	var took []float64
	for n, end := 0, time.Now().Add(lasting); n < 4 || time.Now().Before(end); n++ {
		wire := m.wire(n, nil)
		start := time.Now()
		if err := submit(c, recipient, wire); err != nil {
			return took, err
		}
		if n > 0 {
			took = append(took, float64(time.Since(start))/float64(time.Millisecond))
		}
	}
	return took, c.Quit()
}

// submit sends one message and waits until the server has taken it.
func submit(c *smtp.Client, to string, wire []byte) error {
	if err := c.Mail(sender); err != nil {
		return err
	}
	if err := c.Rcpt(to); err != nil {
		return err
	}
	w, err := c.Data()
	if err != nil {
		return err
	}
	if _, err := w.Write(wire); err != nil {
		return err
	}
	return w.Close()
}

// verify has one mail delivered and verifies it.
func (s *server) verify(ctx context.Context, at string, k *keys) error {
	if err := os.RemoveAll(s.inbox); err != nil {
		return err
	}
	c, err := smtp.Dial(at)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := submit(c, inboxRecipient, newMessage(10<<10).wire(1, nil)); err != nil {
		return err
	}
	for range 100 {
		// What is in the inbox is complete: it is moved there when it is.
		mails, err := os.ReadDir(s.inbox)
		if err == nil && len(mails) > 0 {
			delivered, err := os.ReadFile(filepath.Join(s.inbox, mails[0].Name()))
			if err != nil {
				return err
			}
			return k.verify(bytes.ReplaceAll(delivered, []byte("\n"), []byte("\r\n")), onlyRSA)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
	return errors.New("the mail was not delivered")
}
