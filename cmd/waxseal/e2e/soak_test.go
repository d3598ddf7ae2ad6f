package e2e

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// soakTime is how long the soak test runs. WAXSEAL_SOAK sets another time, such
// as 30m.
func soakTime(t *testing.T) time.Duration {
	t.Helper()
	d, err := time.ParseDuration(cmp.Or(os.Getenv("WAXSEAL_SOAK"), "60s"))
	if err != nil {
		t.Fatalf("WAXSEAL_SOAK: %v", err)
	}
	return d
}

// TestSoak sends all kinds of mail at full speed over many connections while the
// configuration is read again every second and the keys rotate: every message
// that is ours is signed, none that is not, and the daemon does not grow.
func TestSoak(t *testing.T) {
	require(t, proc)
	dir := shortDir(t)
	domains := []string{"a.example", "b.example", "c.example"}
	keys := newKeystore(t, dir, domains...)
	addresses := []string{"unix:" + filepath.Join(dir, "run", "milter.sock"), "inet:" + loopback(freePort(t))}
	config := configure(t, filepath.Join(dir, "waxseal.toml"), fmt.Sprintf(`
[keystore]
url = "dir:%s"
[listen.unix]
address = %q
[listen.tcp]
address = %q
[log]
level = "error"
`, keys.dir, addresses[0], addresses[1]))
	d := launch(t, daemonOptions{binary: waxseal}, "--config", config) // its memory is measured
	for _, address := range addresses {
		eventually(t, "the daemon listens at "+address, func() bool {
			conn, err := tryMilter(address)
			if err == nil {
				conn.Close()
			}
			return err == nil || d.hasExited()
		})
	}

	end := time.Now().Add(soakTime(t))
	var signed, foreign, aborted atomic.Int64
	finished := make(chan struct{})
	watched := make(chan struct{})
	var memory []int // kB, each second
	threads := 0
	go func() {
		defer close(watched)
		for {
			select {
			case <-finished:
				return
			case <-time.After(time.Second):
			}
			_ = d.Process.Signal(syscall.SIGHUP)
			memory = append(memory, d.status(t, "VmRSS"))
			if entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", d.Process.Pid)); err == nil {
				threads = max(threads, len(entries))
			}
		}
	}()
	// Senders end with their connection's first failure. They are goroutines
	// and not parallel tests, of which only a few run at once.
	var running sync.WaitGroup
	for sender := range 8 {
		s := soaker{t: t, keys: keys, domain: domains[sender%len(domains)], signed: &signed, foreign: &foreign, aborted: &aborted}
		running.Go(func() {
			for n := sender; time.Now().Before(end); n++ {
				s.connection(addresses[n%len(addresses)], 1+n%40)
			}
		})
	}
	for time.Now().Before(end) {
		for _, domain := range domains {
			old := firstActive(t, keys, domain)
			keys.activate(t, domain, keys.newKey(t, domain, "rsa-2048"))
			keys.retire(t, domain, old)
		}
		time.Sleep(min(2*time.Second, time.Until(end)))
	}
	running.Wait()
	close(finished)
	<-watched
	t.Logf("%d messages signed, %d foreign, %d aborted; memory %v kB, at most %d threads", signed.Load(), foreign.Load(), aborted.Load(), spread(memory), threads)
	if signed.Load() == 0 || foreign.Load() == 0 || aborted.Load() == 0 {
		t.Error("not all kinds of mail were sent")
	}
	if log := d.log.String(); strings.TrimSpace(log) != "" {
		t.Errorf("the daemon logged errors:\n%s", tail(log))
	}
	const mostThreads, mostGrowth = 64, 8 << 10
	if threads > mostThreads {
		t.Errorf("%d threads, want at most %d", threads, mostThreads)
	}
	if n := len(memory); n >= 12 {
		// The first quarter is for getting warm.
		if early, late := highest(memory[n/4:n/2]), highest(memory[n*3/4:]); late-early > mostGrowth {
			t.Errorf("memory grew from %d to %d kB", early, late)
		}
	}
	// It was told to log errors only, so its last words are not there.
	d.signal(t, syscall.SIGTERM)
	d.awaitExit(t)
	if code := d.ProcessState.ExitCode(); code != 0 {
		t.Errorf("exit status %d", code)
	}
}

// soaker sends mail over one connection after the other.
type soaker struct {
	t                        *testing.T
	keys                     *keystore
	domain                   string
	signed, foreign, aborted *atomic.Int64
	sent                     int
}

// connection sends some messages over a connection.
func (s *soaker) connection(address string, messages int) {
	t := s.t
	c := dialMilter(t, address)
	defer c.Close()
	c.connect()
	text := strings.Replace(header, "ann@example.com", "ann@"+s.domain, 1)
	for range messages {
		s.sent++
		switch {
		case s.sent%17 == 0: // a client elsewhere
			c.packet('K', nil)
			c.packet('C', append([]byte("mx.example.org\x004"), append(binary.BigEndian.AppendUint16(nil, 40000), "192.0.2.7\x00"...)...))
			c.strings0('M', "<eve@example.org>")
			c.want(t, 'a')
			s.foreign.Add(1)
			c.packet('K', nil)
			c.connect()
		case s.sent%11 == 0: // given up in the middle
			c.begin(t, text)
			c.packet('B', []byte(strings.Repeat("half a body\r\n", 100)))
			c.packet('A', nil)
			s.aborted.Add(1)
		default:
			c.begin(t, text)
			body := soakBodies[s.sent%len(soakBodies)]
			for rest := body; rest != ""; {
				n := min(len(rest), chunkSize)
				c.packet('B', []byte(rest[:n]))
				rest = rest[n:]
			}
			top := c.end(t)
			// In a rotation two RSA keys sign for a moment.
			if n := strings.Count(top, "DKIM-Signature:"); n != 2 && n != 3 {
				t.Fatalf("%d signatures, want 2 or 3", n)
			}
			s.signed.Add(1)
			if s.sent%300 == 0 {
				s.verify(top + text + "\r\n" + body)
			}
		}
	}
	c.packet('Q', nil)
	_ = c.w.Flush()
}

func (s *soaker) verify(text string) {
	s.t.Helper()
	m, err := parseMessage([]byte(text))
	if err != nil {
		s.t.Fatal(err)
	}
	verdicts, err := msgauth(m, s.keys)
	if err != nil || strings.Join(verdicts, "") != "" {
		s.t.Errorf("go-msgauth: %v %q\n%.3000s", err, verdicts, m.text)
	}
}

// soakBodies are mostly small, as mail is.
var soakBodies = func() []string {
	line := "The quick  brown fox \t jumps over the lazy dog. \r\n"
	var all []string
	for _, lines := range []int{0, 1, 40, 40, 40, 200, 40, 40, 1400, 40, 40, 40, 40000} {
		all = append(all, strings.Repeat(line, lines))
	}
	return all
}()

// spread shortens a series to its lowest and highest values.
func spread(v []int) string {
	if len(v) == 0 {
		return "unknown"
	}
	lowest := v[0]
	for _, n := range v {
		lowest = min(lowest, n)
	}
	return fmt.Sprintf("%d to %d", lowest, highest(v))
}

func highest(v []int) int {
	most := 0
	for _, n := range v {
		most = max(most, n)
	}
	return most
}
