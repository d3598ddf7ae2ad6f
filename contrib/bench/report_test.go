//go:build linux

package main

import (
	"bytes"
	"context"
	"os"
	"strings"
	"testing"
	"time"
)

func TestQuantile(t *testing.T) {
	for _, c := range []struct {
		values []float64
		q      float64
		want   float64
	}{
		{nil, 0.5, 0},
		{[]float64{7}, 0.99, 7},
		{[]float64{3, 1, 2}, 0.5, 2},
		{[]float64{4, 3, 2, 1}, 0.5, 2},
		{[]float64{1, 2, 3, 4}, 0, 1},
		{[]float64{1, 2, 3, 4}, 1, 4},
	} {
		if got := quantile(c.values, c.q); got != c.want {
			t.Errorf("quantile(%v, %v) = %v, want %v", c.values, c.q, got, c.want)
		}
	}
}

func TestTableComparesWithTheBestOfTheOthers(t *testing.T) {
	full := func(name string, ours bool, cpu, rate float64) row {
		return row{Program: name, Ours: ours, CPU: cpu, Rate: rate, EndMedian: 1000, EndP99: 1000, Peak: 1 << 20, Messages: 10, Verified: 2}
	}
	failed := full("broken", false, 1, 9999) // fastest, but what it does is wrong
	failed.Failures, failed.Failure = 3, "bad signature"
	r := report{Tables: []*table{{Work: "RSA", Transport: "unix", Connections: 8, Rows: []row{
		full("waxseal", true, 300, 3000), full("slow", false, 2000, 500), full("fast", false, 600, 2000), failed,
		{Program: "dead", Failures: 1, Failure: "did not start"},
	}}}}
	var out bytes.Buffer
	r.Tables[0].print(&out)
	r.printSummary(&out)
	for _, want := range []string{"300 (0.50)", "3000 (1.50)", "2000 (3.33)", "600 (1.00)", "3 failed: bad signature", "failed: did not start", "waxseal        0.15 of slow, 0.50 of fast\n"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
}

func TestOnlyOurFailuresEndWithAnError(t *testing.T) {
	r := report{
		Tables:   []*table{{Work: "RSA", Transport: "unix", Rows: []row{{Program: "rspamd", Failures: 1, Failure: "x"}, {Program: "waxseal", Ours: true}}}},
		Holdings: []holding{{Program: "waxseal", Ours: true}},
		Behind:   []behind{{Program: "OpenDKIM", Failure: "x"}},
	}
	if err := r.ourFailure(); err != nil {
		t.Error(err)
	}
	r.Behind = append(r.Behind, behind{Program: "waxseal", Ours: true, Transport: "tcp", Failure: "not delivered"})
	if err := r.ourFailure(); err == nil || err.Error() != "waxseal, behind Postfix, tcp: not delivered" {
		t.Errorf("error %v", err)
	}
	r.Tables[0].Rows[1].Failures, r.Tables[0].Rows[1].Failure = 2, "bad signature"
	if err := r.ourFailure(); err == nil || err.Error() != "waxseal, RSA, unix: bad signature" {
		t.Errorf("error %v", err)
	}
}

func TestProcessTreeSeesItself(t *testing.T) {
	me := processTree(os.Getpid())
	before, err := me.clocks()
	if err != nil {
		t.Fatal(err)
	}
	const busy = 50 * time.Millisecond
	for start := before[int(me)]; ; {
		now, err := cpuClock(int(me))
		if err != nil {
			t.Fatal(err)
		}
		if now-start >= busy {
			break
		}
	}
	after, err := me.clocks()
	if err != nil {
		t.Fatal(err)
	}
	if used, err := after.since(before); err != nil || used < busy || used > 50*busy {
		t.Errorf("%v of CPU time used, error %v; want %v and a little", used, err, busy)
	}
	if m, err := me.memory(); err != nil || m.Resident < 1<<20 || m.Peak < m.Resident/2 || m.Threads < 1 {
		t.Errorf("memory %+v, error %v", m, err)
	}
}

func TestClocksNoticeAProcessThatEnded(t *testing.T) {
	older := cpuClocks{1: time.Second, 2: time.Second}
	if used, err := (cpuClocks{1: 3 * time.Second, 2: time.Second, 3: time.Second}).since(older); err != nil || used != 3*time.Second {
		t.Errorf("a worker more: %v, %v; want 3s", used, err)
	}
	if used, err := (cpuClocks{1: 3 * time.Second}).since(older); err == nil {
		t.Errorf("a worker less: %v and no error", used)
	}
}

func TestDaemonIsStoppedWithAllItsProcesses(t *testing.T) {
	for name, script := range map[string]string{
		"a worker in its group":            "sleep 60 & echo ready; wait",
		"a worker in a session of its own": "setsid sleep 60 & echo ready; wait",
	} {
		t.Run(name, func(t *testing.T) {
			d, err := startDaemon(t.Context(), "careless", t.TempDir(), []string{"sh", "-c", script})
			if err != nil {
				t.Fatal(err)
			}
			defer d.stop()
			var pids []int
			waitFor(t, func() bool {
				pids, err = d.tree().pids()
				return err == nil && len(pids) == 2 && strings.Contains(d.output(), "ready")
			})
			d.stop()
			for _, pid := range pids {
				if s, ok := readStat(pid); ok {
					t.Errorf("process %d of %v is left: %+v", pid, pids, s)
				}
			}
		})
	}
}

func TestDaemonEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	d, err := startDaemon(ctx, "idle", t.TempDir(), []string{"sleep", "60"})
	if err != nil {
		t.Fatal(err)
	}
	defer d.stop()
	cancel()
	select {
	case <-d.ended:
	case <-time.After(stopTimeout):
		t.Error("it still runs")
	}
}

func TestLibcryptoVersion(t *testing.T) {
	if got := libcryptoVersion([]byte("\x00x\x00OpenSSL 3.0.19 27 Jan 2026\x00y")); got != "OpenSSL 3.0.19 27 Jan 2026" {
		t.Errorf("%q", got)
	}
	if got := libcryptoVersion([]byte("nothing")); got != "unknown version" {
		t.Errorf("%q", got)
	}
}
