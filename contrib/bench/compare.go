//go:build linux

package main

import (
	"context"
	"fmt"
	"math"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// work is what the milters are compared at.
type work struct {
	name        string
	ours        []algorithm // what waxseal signs with
	others      []algorithm // what the others sign with
	bodyBytes   int
	connections int
}

var (
	onlyRSA     = []algorithm{rsa2048}
	onlyEdwards = []algorithm{edwards}
)

var works = []work{
	{"RSA-2048, 2 KB", onlyRSA, onlyRSA, 2 << 10, 8},
	{"RSA-2048, 1 MB", onlyRSA, onlyRSA, 1 << 20, 8},
	{"RSA-2048, 20 MB", onlyRSA, onlyRSA, 20 << 20, 2},
	{"Ed25519, 2 KB", onlyEdwards, onlyEdwards, 2 << 10, 8},
	{"waxseal RSA-2048 + Ed25519, others RSA-2048 alone, 2 KB", []algorithm{rsa2048, edwards}, onlyRSA, 2 << 10, 8},
}

// pace is how long the measuring takes.
type pace struct {
	rounds int
	turn   time.Duration // of one program in a round
}

// row is one program's result. Figures are zero when there is none.
type row struct {
	Program   string    `json:"program"`
	Ours      bool      `json:"ours"`
	CPU       float64   `json:"cpu_us"` // per message: all processes, user and system, median of the rounds
	CPURounds []float64 `json:"cpu_us_rounds"`
	Rate      float64   `json:"messages_per_second"`        // median of the rounds
	EndMedian float64   `json:"end_of_message_median_us"`   // of all messages
	EndP99    float64   `json:"end_of_message_p99_us"`      // of all messages
	Peak      float64   `json:"peak_resident_bytes"`        // of all processes
	Messages  int       `json:"messages"`                   // measured
	Verified  int       `json:"verified"`                   // messages with good signatures only
	Failures  int       `json:"failures"`                   // of any kind
	Failure   string    `json:"first_failure,omitempty"`    // in words
	Libraries []string  `json:"libcrypto_mapped,omitempty"` // by the running program
}

// table is the comparison at one work over one transport.
type table struct {
	Work        string `json:"work"`
	Transport   string `json:"transport"`
	BodyBytes   int    `json:"body_bytes"`
	Connections int    `json:"connections"`
	Rows        []row  `json:"rows"`
}

// compare lets programs sign by turns, in an order that changes from round to
// round, so that all meet the same noise. A program that fails is in the table
// with its failure; the error is about the comparison as a whole.
func compare(ctx context.Context, dir string, k *keys, programs []*program, w work, transport string, p pace) (*table, error) {
	m := newMessage(w.bodyBytes)
	contestants := make([]*contestant, len(programs))
	var all sync.WaitGroup
	for i, program := range programs {
		algorithms := w.others
		if program.ours {
			algorithms = w.ours
		}
		c := &contestant{row: row{Program: program.name, Ours: program.ours}, keys: k, algorithms: algorithms}
		contestants[i] = c
		all.Go(func() {
			var at address
			var err error
			if c.daemon, at, err = program.start(ctx, dir, transport, k, algorithms); err != nil {
				c.fail(1, err)
			}
			c.load = load{at, m, w.connections, len(algorithms), new(atomic.Int64)}
		})
	}
	all.Wait()
	defer func() {
		for _, c := range contestants {
			all.Go(c.stop)
		}
		all.Wait()
	}()

	for _, c := range contestants {
		c.turn(ctx, p.turn/4)
		c.forget() // it was cold
	}
	for round := range p.rounds {
		for i := range contestants {
			contestants[(round+i)%len(contestants)].turn(ctx, p.turn)
		}
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	t := &table{Work: w.name, Transport: transport, BodyBytes: w.bodyBytes, Connections: w.connections}
	for _, c := range contestants {
		t.Rows = append(t.Rows, c.result())
	}
	return t, nil
}

// contestant is a program that takes part in a comparison.
type contestant struct {
	keys       *keys
	algorithms []algorithm
	daemon     *daemon // nil when it could not be started
	load       load
	row        row
	rates      []float64
	ends       []float64
}

func (c *contestant) stop() {
	if c.daemon != nil {
		c.daemon.stop()
		_ = os.RemoveAll(c.daemon.dir) // else it goes with the rest, at the end
	}
}

func (c *contestant) fail(times int, err error) {
	c.row.Failures += times
	if c.row.Failure == "" {
		c.row.Failure = err.Error()
	}
}

// turn lets the program sign for a while, unless it has failed before.
func (c *contestant) turn(ctx context.Context, lasting time.Duration) {
	if c.row.Failures > 0 {
		return
	}
	before, err := c.daemon.tree().clocks()
	if err != nil {
		c.fail(1, err)
		return
	}
	o := c.load.run(ctx, lasting)
	time.Sleep(10 * time.Millisecond) // for what it does when connections end
	after, err := c.daemon.tree().clocks()
	if err != nil {
		c.fail(1, err)
		return
	}
	used, err := after.since(before)
	if err != nil {
		c.fail(1, err)
		return
	}
	if o.failures > 0 {
		c.fail(o.failures, o.failure)
	}
	if o.sent == 0 {
		return
	}
	c.row.Messages += o.sent
	c.row.CPURounds = append(c.row.CPURounds, microseconds(used)/float64(o.sent))
	c.rates = append(c.rates, float64(o.sent)/o.lasted.Seconds())
	for _, end := range o.ends {
		c.ends = append(c.ends, microseconds(end))
	}
	for _, d := range o.kept {
		if err := c.keys.verify(c.load.message.wire(d.number, d.added), c.algorithms); err != nil {
			c.fail(1, fmt.Errorf("message %d: %w", d.number, err))
			continue
		}
		c.row.Verified++
	}
}

// forget drops what has been measured, but not what was verified or failed.
func (c *contestant) forget() {
	c.row.Messages, c.row.CPURounds, c.rates, c.ends = 0, nil, nil, nil
}

func (c *contestant) result() row {
	r := c.row
	r.CPU, r.Rate = quantile(r.CPURounds, 0.5), quantile(c.rates, 0.5)
	r.EndMedian, r.EndP99 = quantile(c.ends, 0.5), quantile(c.ends, 0.99)
	if c.row.Failures == 0 {
		m, err := c.daemon.tree().memory()
		if err != nil {
			r.Failures, r.Failure = 1, err.Error()
		}
		r.Peak = float64(m.Peak)
		if r.Libraries, err = c.daemon.tree().libraries("libcrypto."); err != nil {
			r.Failures, r.Failure = 1, err.Error()
		}
	}
	return r
}

func microseconds(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

// quantile returns the smallest value that at least the share q of the values
// does not exceed, and 0 when there are none.
func quantile(values []float64, q float64) float64 {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	return sorted[max(0, int(math.Ceil(q*float64(len(sorted))))-1)]
}
