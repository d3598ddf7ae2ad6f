package dnstest

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// Answer answers every question with the records, each a line of a zone file
// with an absolute name, whatever the zones have: it lies, or serves two
// records in place of one.
func Answer(t testing.TB, records ...string) Handler {
	t.Helper()
	var rrs []dns.RR
	for _, text := range records {
		rr, err := dns.NewRR(text)
		if err == nil && rr == nil {
			err = fmt.Errorf("empty")
		}
		if err != nil {
			t.Fatalf("record %q: %v", text, err)
		}
		rrs = append(rrs, rr)
	}
	return func(q *Question) *dns.Msg {
		r := q.Reply()
		r.Answer = append(r.Answer, rrs...)
		return q.fit(r)
	}
}

// Fail answers with a code such as dns.RcodeRefused or dns.RcodeServerFailure
// and nothing else.
func Fail(rcode int) Handler {
	return func(q *Question) *dns.Msg {
		r := q.Reply()
		r.Rcode = rcode
		return r
	}
}

// Drop answers nothing at all.
func Drop(*Question) *dns.Msg { return nil }

// Slow waits before it answers.
func Slow(d time.Duration, h Handler) Handler {
	return func(q *Question) *dns.Msg {
		select {
		case <-time.After(d):
			return h(q)
		case <-q.server.stopped:
			return nil
		}
	}
}

// TruncateUDP sends everybody to TCP.
func TruncateUDP(h Handler) Handler {
	return func(q *Question) *dns.Msg {
		r := h(q)
		if r != nil && !q.TCP {
			r.Answer, r.Ns, r.Truncated = nil, nil, true
		}
		return r
	}
}

// OnlyUDP answers nothing over TCP.
func OnlyUDP(h Handler) Handler {
	return func(q *Question) *dns.Msg {
		if q.TCP {
			return nil
		}
		return h(q)
	}
}

// Bogus fails as a validating resolver does when signatures are wrong, unless
// the question has checking disabled (RFC 4035, section 3.2.2).
func Bogus(h Handler) Handler {
	return func(q *Question) *dns.Msg {
		if !q.Msg.CheckingDisabled {
			return Fail(dns.RcodeServerFailure)(q)
		}
		return h(q)
	}
}

// Lame answers without authority.
func Lame(h Handler) Handler {
	return func(q *Question) *dns.Msg {
		r := h(q)
		if r != nil {
			r.Authoritative = false
		}
		return r
	}
}

// InTurn gives each question to the next handler, and all that come after the
// last one to the last.
func InTurn(handlers ...Handler) Handler {
	var mu sync.Mutex
	return func(q *Question) *dns.Msg {
		mu.Lock()
		h := handlers[0]
		if len(handlers) > 1 {
			handlers = handlers[1:]
		}
		mu.Unlock()
		return h(q)
	}
}
