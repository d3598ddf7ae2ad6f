//go:build linux

package main

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// The memory test: connections that stop in the middle of a large message, as
// many slow clients would make them.
const (
	heldConnections = 50
	heldBytes       = 20 << 20
)

// holding is what a program occupies while connections are held.
type holding struct {
	Program       string  `json:"program"`
	Ours          bool    `json:"ours"`
	Before        memory  `json:"before"` // after a few messages
	Held          memory  `json:"held"`
	PerConnection float64 `json:"bytes_per_connection"`
	Failure       string  `json:"failure,omitempty"`
}

// hold measures one program, freshly started.
func hold(ctx context.Context, dir string, k *keys, p *program, transport string) holding {
	h := holding{Program: p.name, Ours: p.ours}
	if err := h.measure(ctx, dir, k, p, transport); err != nil {
		h.Failure = err.Error()
	}
	return h
}

func (h *holding) measure(ctx context.Context, dir string, k *keys, p *program, transport string) error {
	d, at, err := p.start(ctx, dir, transport, k, onlyRSA)
	if d != nil {
		defer d.stop()
	}
	if err != nil {
		return err
	}
	o := load{at, newMessage(2 << 10), 2, 1, new(atomic.Int64)}.run(ctx, 100*time.Millisecond)
	if o.failure != nil {
		return o.failure
	}
	if err := d.tree().quiet(ctx); err != nil {
		return err
	}
	if h.Before, err = d.tree().memory(); err != nil {
		return err
	}

	m := newMessage(heldBytes)
	sessions := make([]*session, heldConnections)
	errs := make([]error, heldConnections)
	var all sync.WaitGroup
	for i := range sessions {
		all.Go(func() { sessions[i], errs[i] = half(ctx, at, m, i) })
	}
	all.Wait()
	defer func() {
		for _, s := range sessions {
			if s != nil {
				s.conn.Close()
			}
		}
	}()
	for i, err := range errs {
		if err != nil {
			return fmt.Errorf("connection %d: %w", i, err)
		}
	}
	if err := d.tree().quiet(ctx); err != nil {
		return err
	}
	if h.Held, err = d.tree().memory(); err != nil {
		return err
	}
	h.PerConnection = float64(h.Held.Resident-h.Before.Resident) / heldConnections
	return nil
}

// half opens a session and sends half of a message.
func half(ctx context.Context, at address, m *message, number int) (*session, error) {
	s, err := dial(ctx, at)
	if err != nil {
		return nil, err
	}
	if err := s.open(m, number); err != nil {
		return s, err
	}
	if err := s.body(m.body[:len(m.body)/2]); err != nil {
		return s, err
	}
	return s, s.out.Flush()
}

// quiet waits until the processes have nothing left to do, a minute at most.
func (t processTree) quiet(ctx context.Context) error {
	const (
		interval = 200 * time.Millisecond
		idle     = 4 * time.Millisecond // what a program may use in it without doing anything
	)
	last, err := t.clocks()
	for range time.Minute / interval {
		if err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(interval):
		}
		var now cpuClocks
		if now, err = t.clocks(); err != nil {
			return err
		}
		var used time.Duration
		if used, err = now.since(last); err == nil && used < idle {
			return nil
		}
		last = now
	}
	return fmt.Errorf("process %d does not come to rest", int(t))
}
