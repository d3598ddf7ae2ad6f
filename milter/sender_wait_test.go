package milter

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"waxseal/keystore"
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
