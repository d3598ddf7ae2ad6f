package keeper

import (
	"sync/atomic"
	"time"
)

// maxAhead is by how much the time of day may run ahead of the time that passes.
// Those who keep clocks right correct them by seconds.
const maxAhead = 5 * time.Minute

// clock notices that the time of day has jumped forward, because it was set, or
// because the machine slept. All waits end by the time of day, so they end early
// if it is wrong; whoever keeps it right needs a while to notice.
type clock struct {
	now  func() time.Time
	from atomic.Pointer[reading]
}

// reading is the time of day, and the time of the monotonic clock, at one moment.
type reading struct{ day, monotonic time.Time }

// begin measures from now on.
func (c *clock) begin() {
	c.from.Store(&reading{c.now().Round(0), time.Now()})
}

// ahead is how far the time of day has run ahead since begin, and 0 without one.
func (c *clock) ahead() time.Duration {
	from := c.from.Load()
	if from == nil {
		return 0
	}
	return c.now().Round(0).Sub(from.day) - time.Since(from.monotonic)
}
