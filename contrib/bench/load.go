//go:build linux

package main

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// messagesPerSession is how many messages go over a connection before the
	// next one is opened.
	messagesPerSession = 10
	// keepEvery is how many messages share one that is verified.
	keepEvery = 50
	// maxFailures ends a run whose milter is beyond help.
	maxFailures = 20
)

// load is what is sent to a milter.
type load struct {
	at          address
	message     *message
	connections int
	signatures  int           // that each message is to get
	numbers     *atomic.Int64 // the number of the last message
}

// delivery is a message that went through, to be verified later.
type delivery struct {
	number int
	added  []field
}

// outcome is what came of a load.
type outcome struct {
	sent     int             // answered messages
	ends     []time.Duration // from the end of each message to its last answer
	kept     []delivery
	failures int
	failure  error // the first one
	lasted   time.Duration
}

// run sends messages over all connections at once, until the time is up or the
// context is done, and at least one over each connection.
func (l load) run(ctx context.Context, lasting time.Duration) outcome {
	parts := make([]outcome, l.connections)
	start := time.Now()
	var all sync.WaitGroup
	for i := range parts {
		all.Go(func() { parts[i] = l.one(ctx, start.Add(lasting)) })
	}
	all.Wait()
	total := outcome{lasted: time.Since(start)}
	for _, p := range parts {
		total.add(p)
	}
	return total
}

func (o *outcome) add(p outcome) {
	o.sent += p.sent
	o.ends = append(o.ends, p.ends...)
	o.kept = append(o.kept, p.kept...)
	o.failures += p.failures
	if o.failure == nil {
		o.failure = p.failure
	}
}

// one is what goes over one connection after the other.
func (l load) one(ctx context.Context, until time.Time) (o outcome) {
	var s *session
	defer func() {
		if s != nil {
			s.close()
		}
	}()
	for n := 0; ctx.Err() == nil && (n == 0 || time.Now().Before(until)) && o.failures < maxFailures; n++ {
		if s != nil && s.messages == messagesPerSession {
			s.close()
			s = nil
		}
		var err error
		if s == nil {
			if s, err = dial(ctx, l.at); err != nil {
				o.fail(err)
				continue
			}
		}
		number := int(l.numbers.Add(1))
		a, err := s.deliver(l.message, number)
		if err != nil {
			o.fail(fmt.Errorf("message %d: %w", number, err))
			s.close()
			s = nil
			continue
		}
		o.sent++
		o.ends = append(o.ends, a.took)
		if got := signatures(a.added); got != l.signatures {
			o.fail(fmt.Errorf("message %d: %d signatures, want %d", number, got, l.signatures))
		} else if n == 0 || number%keepEvery == 0 {
			o.kept = append(o.kept, delivery{number, a.added})
		}
	}
	return o
}

func (o *outcome) fail(err error) {
	o.failures++
	if o.failure == nil {
		o.failure = err
	}
}

func signatures(added []field) int {
	n := 0
	for _, f := range added {
		if strings.EqualFold(f.name, signatureName) {
			n++
		}
	}
	return n
}
