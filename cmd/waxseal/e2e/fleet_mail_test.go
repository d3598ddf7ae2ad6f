package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/emersion/go-msgauth/dkim"
	mdns "github.com/miekg/dns"
)

// The mail of the fleet trial: senders that hand it in, and receivers that
// verify what became of it, at once and later.

// postman hands mail to one node over one connection after the other, as a mail
// server does.
type postman struct {
	fleet   *fleet
	node    *fleetNode
	domains []string
	pause   time.Duration // between two messages, at most

	warm map[string]int // domain → the life of the node in which it has signed for it
	sent int
}

// run works until ctx ends. A connection may break when the node was killed, and
// not otherwise.
func (p *postman) run(ctx context.Context) {
	p.warm = map[string]int{}
	for ctx.Err() == nil {
		life, up := p.node.state()
		if !up {
			time.Sleep(10 * time.Millisecond)
			continue
		}
		if err := p.connection(ctx, life); err != nil {
			if now, up := p.node.state(); up && now == life {
				p.fleet.fault("node %s lives, and a connection broke: %v", p.node.name, err)
				return
			}
			p.fleet.count.broken.Add(1)
		}
	}
}

// connection hands in some messages.
func (p *postman) connection(ctx context.Context, life int) error {
	conn, err := tryMilter(p.node.address)
	if err != nil {
		return err
	}
	defer conn.Close()
	c := &milterClient{conn, bufio.NewReader(conn), bufio.NewWriter(conn)}
	_ = conn.SetDeadline(time.Now().Add(patience))
	c.packet('O', binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, offerVersion), offerActions), offerProtocol))
	if command, _, err := c.read(); err != nil || command != 'O' {
		return fmt.Errorf("negotiation: %c, %w", command, err)
	}
	c.announce(facts{client: "127.0.0.1", host: "mx.example.com"})
	for range 1 + rand.IntN(30) {
		_ = conn.SetDeadline(time.Now().Add(patience))
		if err := p.message(c, life); err != nil {
			return err
		}
		select {
		case <-time.After(rand.N(p.pause)):
		case <-ctx.Done():
			return nil
		}
	}
	c.packet('Q', nil)
	return c.w.Flush()
}

// message hands in one message, and judges the answer.
func (p *postman) message(c *milterClient, life int) error {
	f := p.fleet
	p.sent++
	domain := p.domains[rand.IntN(len(p.domains))]
	id := fmt.Sprintf("%s-%s-%d", p.node.name, domain, p.sent)
	header := mail("From: Ann <ann@"+domain+">", "To: bob@example.net", "Subject: "+id, "Date: Mon, 2 Nov 2026 10:00:00 +0000", "Message-ID: <"+id+"@"+domain+">")
	body := "This is message " + id + ".\r\n"
	began := time.Now()
	end, err := handIn(c, header, body)
	if err != nil {
		return err
	}
	switch {
	case strings.HasPrefix(end.reply, "4"):
		f.count.tempfailed.Add(1)
		if p.warm[domain] == life {
			f.fault("node %s has signed for %s before, and answers %s", p.node.name, domain, end.reply)
		}
	case end.top == "":
		f.fault("node %s lets mail of %s go unsigned: %q", p.node.name, domain, end.reply)
	default:
		p.warm[domain] = life
		f.receive(p.node, domain, end.top+header+"\r\n"+body, began)
	}
	return nil
}

// handIn takes one message through a connection.
func handIn(c *milterClient, header, body string) (end fate, err error) {
	c.strings0('D', "Mi", "4ABC")
	c.strings0('M', "<>")
	if command, payload, err := c.read(); err != nil || command != 'c' {
		return end, fmt.Errorf("answer %c %q to MAIL: %w", command, payload, err)
	}
	for line := range strings.SplitSeq(strings.TrimSuffix(header, "\r\n"), "\r\n") {
		name, value, _ := strings.Cut(line, ":")
		c.strings0('L', name, value)
	}
	c.packet('N', nil)
	for {
		command, payload, err := c.read()
		switch {
		case err != nil:
			return end, err
		case command == 'c': // after the header
			c.packet('B', []byte(body))
			c.packet('E', nil)
		case command == 'i':
			parts := bytes.Split(payload[4:], []byte{0})
			end.top = string(parts[0]) + ":" + strings.ReplaceAll(string(parts[1]), "\n", "\r\n") + "\r\n" + end.top
		case command == 'y':
			end.reply = strings.TrimSuffix(string(payload), "\x00")
			return end, nil
		case command == 'a':
			return end, nil
		default:
			return end, fmt.Errorf("answer %c %q", command, payload)
		}
	}
}

// letter is a signed message that receivers have.
type letter struct {
	node       *fleetNode
	text       string
	signatures []signature
	began, got time.Time // when it was handed in, and when it was signed at the latest
}

// miss is a signature that did not verify.
type miss struct {
	letter letter
	sig    signature
	at     time.Time // by when it was known
	server string
	err    error
}

// receive verifies a message as it is received, and again twice while a mail that
// waits in a queue may arrive.
func (f *fleet) receive(n *fleetNode, domain, text string, began time.Time) {
	m, err := parseMessage([]byte(text))
	if err != nil {
		f.fault("%v", err)
		return
	}
	l := letter{n, text, m.signatures(), began, time.Now()}
	var kinds []string
	for _, s := range l.signatures {
		if s.domain != domain {
			f.fault("node %s signs as %s, want %s", n.name, s.domain, domain)
		}
		kinds = append(kinds, s.algorithm)
	}
	if want := f.kinds[domain]; !slices.Equal(kinds, want) {
		f.fault("node %s signs for %s with %q, want %q", n.name, domain, kinds, want)
	}
	f.count.signed.Add(1)
	f.uses.note(l)
	f.verify(l)
	f.later.Go(func() {
		for range 2 {
			select {
			case <-time.After(rand.N(f.grace / 2)):
			case <-f.over:
			}
			f.verify(l)
		}
	})
}

// verify verifies a message with what one of the name servers shows, or what a
// resolver remembers.
func (f *fleet) verify(l letter) {
	server := f.servers[rand.IntN(len(f.servers))]
	results, err := dkim.VerifyWithOptions(strings.NewReader(l.text), &dkim.VerifyOptions{LookupTXT: func(name string) ([]string, error) {
		return f.lookup(server, name)
	}})
	if err != nil || len(results) != len(l.signatures) {
		f.fault("go-msgauth: %d results, %v:\n%s", len(results), err, l.text)
		return
	}
	f.count.verified.Add(1)
	for i, r := range results {
		if r.Err != nil {
			f.mu.Lock()
			f.misses = append(f.misses, miss{l, l.signatures[i], time.Now(), server, r.Err})
			f.mu.Unlock()
		}
	}
}

// lookup asks a server for TXT records.
func (f *fleet) lookup(server, name string) ([]string, error) {
	q := new(mdns.Msg).SetQuestion(mdns.Fqdn(name), mdns.TypeTXT)
	q.SetEdns0(1232, false)
	var r *mdns.Msg
	var err error
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		if r, _, err = (&mdns.Client{Timeout: 2 * time.Second}).Exchange(q, server); err == nil && r.Rcode != mdns.RcodeServerFailure {
			break
		}
	}
	if err != nil {
		f.fault("the name server %s does not answer: %v", server, err)
		return nil, err
	}
	var values []string
	for _, rr := range r.Answer {
		if txt, ok := rr.(*mdns.TXT); ok {
			values = append(values, strings.Join(txt.Txt, ""))
		}
	}
	return values, nil
}

// uses are the times at which each node has signed with each key.
type uses struct {
	mu          sync.Mutex
	first, last map[use]time.Time // guarded by mu
}

type use struct{ node, domain, selector string }

func (u *uses) note(l letter) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, s := range l.signatures {
		k := use{l.node.name, s.domain, s.selector}
		if t, ok := u.first[k]; !ok || l.got.Before(t) {
			u.first[k] = l.got
		}
		if l.began.After(u.last[k]) {
			u.last[k] = l.began
		}
	}
}

// of returns when a node has first got a signature of a key, and when it was last
// asked for what became one.
func (u *uses) of(node, domain, selector string) (first, last time.Time, ok bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	k := use{node, domain, selector}
	first, ok = u.first[k]
	return first, u.last[k], ok
}
