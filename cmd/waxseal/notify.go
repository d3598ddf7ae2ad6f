package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
)

// notifier tells the service manager how we are (sd_notify(3)). Without one it
// does nothing.
type notifier struct{ log *slog.Logger }

// send tells assignments, such as "READY=1".
func (n notifier) send(assignments ...string) {
	if _, err := daemon.SdNotify(false, strings.Join(assignments, "\n")); err != nil && !errors.Is(err, os.ErrNotExist) {
		n.log.Warn("telling systemd", "state", strings.Join(assignments, " "), "err", err)
	}
}

// ready says that the service works, also after a reload.
func (n notifier) ready(status string) { n.send(daemon.SdNotifyReady, statusLine(status)) }

// reloading says that a reload begins; ready has to follow. Units of
// Type=notify-reload tell by the time that it is the reload they asked for.
func (n notifier) reloading() {
	lines := []string{daemon.SdNotifyReloading}
	if usec, ok := monotonicUsec(); ok {
		lines = append(lines, "MONOTONIC_USEC="+strconv.FormatInt(usec, 10))
	}
	n.send(lines...)
}

// stopping says that the end has begun.
func (n notifier) stopping(status string) { n.send(daemon.SdNotifyStopping, statusLine(status)) }

// stoppingStatus says what a stop waits for.
func stoppingStatus(underWay int) string {
	if underWay == 1 {
		return "stopping, 1 message under way"
	}
	return fmt.Sprintf("stopping, %d messages under way", underWay)
}

// statusLine is the sentence in "systemctl status", which has one line for it.
func statusLine(s string) string { return "STATUS=" + strings.Join(strings.Fields(s), " ") }

// watchdog tells the service manager that we live, at half the interval that
// it asks for, until ctx ends. It does so only when check returns, and without
// an error: a check that hangs is what the watchdog is for.
func (n notifier) watchdog(ctx context.Context, check func() error) {
	limit, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		n.log.Warn("the watchdog of systemd gets no answer", "err", err)
		return
	}
	if limit <= 0 {
		return
	}
	tick := time.NewTicker(max(limit/2, time.Microsecond))
	defer tick.Stop()
	for ill := false; ; {
		err := check()
		switch {
		case err == nil:
			n.send(daemon.SdNotifyWatchdog)
		case !ill:
			n.log.Error("the service is ill, so systemd will restart it", "err", err)
		}
		ill = err != nil
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}
