package milter

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"waxseal/keystore"
	"waxseal/milter/policy"
)

// slowSenders answers when it is told to, and to whoever gave up with that.
type slowSenders struct {
	*table
	asked  chan string   // who is asked about
	answer chan struct{} // closed: answers
	panics bool
}

func (s *slowSenders) CachedSender(string) (*keystore.Sender, error, bool) { return nil, nil, false }

func (s *slowSenders) Sender(ctx context.Context, address string) (*keystore.Sender, error) {
	s.asked <- address
	if s.panics {
		panic("no rows today")
	}
	select {
	case <-s.answer:
		return s.table.Sender(ctx, address)
	case <-ctx.Done():
		return nil, errors.New("no answer in time")
	}
}

// What the sender query takes is no matter of the body, which streams meanwhile;
// whose message is given up waits for nothing, and leaves nothing to the next.
func TestTheSenderQueryTakesItsTime(t *testing.T) {
	senders := &slowSenders{table: newSenderTable(), asked: make(chan string, 10), answer: make(chan struct{})}
	s := startServer(t, Options{}, func(s *Settings) {
		s.Keys, s.Senders, s.KeyTimeout = senders.table, senders, time.Minute
	})
	m := s.postfixClient(t)
	begin := func(from string) {
		m.ask('M', cstrings("<>"), noMailReply)
		m.ask('L', cstrings("From", " "+from), noHdrReply)
		m.ask('L', cstrings("Subject", " hello"), noHdrReply)
		m.ask('N', nil, noEOHReply)
		m.ask('B', []byte("half a body\r\n"), noBodyReply)
	}
	begin("other@example.com")
	if got := <-senders.asked; got != "other@example.com" {
		t.Errorf("asked about %s", got)
	}
	m.abort() // and the connection is there for the next at once
	begin("one@example.com")
	if got := <-senders.asked; got != "one@example.com" {
		t.Errorf("asked about %s", got)
	}
	s.Use(testSettings(t, nil)) // which are for the messages after this one
	close(senders.answer)
	m.abort()
	if r := m.mail(ordinary()); len(r.inserts) != 2 {
		t.Errorf("after a reload: %v with %d fields, want 2", r.final, len(r.inserts))
	}

	for name, senders := range map[string]*slowSenders{
		"no answer": {table: newSenderTable(), asked: make(chan string, 10)},
		"a panic":   {table: newSenderTable(), asked: make(chan string, 10), panics: true},
	} {
		s := startServer(t, Options{}, func(s *Settings) {
			s.Keys, s.Senders, s.KeyTimeout = senders.table, senders, 10*time.Millisecond
		})
		m := s.postfixClient(t)
		for range 2 {
			if r := m.mail(ordinary()); !strings.HasPrefix(string(r.final.data), "451 4.3.0") || len(r.inserts) != 0 {
				t.Errorf("%s: answered %v, want 451 4.3.0", name, r.final)
			}
		}
	}
}

// A peer that sends a field behind the end of the header breaks the protocol, and
// does not meddle with the looking for keys that is under way.
func TestAFieldBehindTheHeaderIsMalformed(t *testing.T) {
	for _, late := range []struct {
		command byte
		data    []byte
	}{{'L', cstrings("Sender", " mallory@example.org")}, {'L', cstrings("From", " mallory@example.org")}, {'N', nil}} {
		senders := &slowSenders{table: newSenderTable(), asked: make(chan string, 1000)}
		s := startServer(t, Options{}, func(s *Settings) {
			s.Keys, s.Senders, s.KeyTimeout = senders.table, senders, 50*time.Millisecond
			var err error
			if s.Rules, err = policy.New(policy.Options{AuthorFields: []string{"Sender"}}); err != nil {
				t.Fatal(err)
			}
		})
		m := s.postfixClient(t)
		m.ask('M', cstrings("<>"), noMailReply)
		m.ask('L', cstrings("From", " one@example.com"), noHdrReply)
		m.ask('N', nil, noEOHReply)
		m.queue(late.command, late.data)
		m.send('E', nil)
		if p, err := m.tryRead(); err == nil {
			t.Fatalf("%c: got %v, want a closed connection", late.command, p)
		}
		for s.Stats().Open.Load() > 0 {
			time.Sleep(time.Millisecond)
		}
		if got := s.Stats().Malformed.Load(); got != 1 {
			t.Errorf("%c: %d malformed connections counted, want 1", late.command, got)
		}
	}
}
