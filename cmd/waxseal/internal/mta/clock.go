package mta

import (
	"fmt"
	"time"
)

// CheckClock is about the time that signatures carry (t= and x=, RFC 6376,
// section 3.5).
func CheckClock(now time.Time) []Finding {
	const remedy = "set the clock, and let chrony or systemd-timesyncd keep it"
	switch {
	case now.Year() < 2020 || now.Year() > 2100:
		return []Finding{{Error, "clock", "clock", fmt.Sprintf("it shows %s, so signatures carry a wrong time and may count as expired or not yet valid", now.UTC().Format(time.DateOnly)), remedy}}
	case unsynchronized():
		return []Finding{{Note, "clock", "clock", "the kernel says that nothing keeps it right; a signature from the future counts as invalid", remedy}}
	}
	return nil
}
