package e2e

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// flow is a steady stream of messages by several senders, each of which tries a
// message again until it is taken, as mail programs do.
type flow struct {
	p        *postfix
	services []string
	domains  []string
	box      string

	stop    chan struct{}
	senders sync.WaitGroup
	retries atomic.Int64

	mu    sync.Mutex
	taken map[string]time.Time // guarded by mu: Subject → when its last try began
	err   error                // guarded by mu: the first that must not happen
}

// pace is the time between two messages of a sender.
const pace = 40 * time.Millisecond

func startFlow(t *testing.T, p *postfix, senders int, services, domains []string) *flow {
	f := &flow{p: p, services: services, domains: domains, box: p.box(), stop: make(chan struct{}), taken: map[string]time.Time{}}
	for i := range senders {
		f.senders.Go(func() { f.send(i) })
	}
	t.Cleanup(func() { f.end() })
	return f
}

// send sends messages one after the other, several by each connection, until
// the flow ends.
func (f *flow) send(sender int) {
	const perConnection = 15
	address := f.p.address(f.services[sender%len(f.services)])
	var c *smtpClient
	defer func() {
		if c != nil {
			c.quit()
		}
	}()
	steady := time.NewTicker(pace)
	defer steady.Stop()
	for n := 0; ; {
		select {
		case <-f.stop:
			return
		case <-steady.C:
		}
		subject := fmt.Sprintf("flow %d.%d", sender, n)
		from := "ann@" + f.domains[n%len(f.domains)]
		began := time.Now()
		err := error(nil)
		if c == nil {
			c, err = dialSMTP(address)
		}
		if err == nil {
			err = c.send(envelope{from: from, to: []string{f.box}}, plain(from, subject))
		}
		switch {
		case err == nil:
			f.mu.Lock()
			f.taken[subject] = began
			f.mu.Unlock()
			if n++; n%perConnection == 0 {
				c.quit()
				c = nil
			}
		case refusedForNow(err):
			// Postfix keeps its verdict about a lost milter for the session.
			f.retries.Add(1)
			if c != nil {
				c.quit()
				c = nil
			}
		default:
			f.mu.Lock()
			f.err = errors.Join(f.err, fmt.Errorf("%s: %w", subject, err))
			f.mu.Unlock()
			return
		}
	}
}

// end stops the senders, when each has finished the message it is at.
func (f *flow) end() {
	select {
	case <-f.stop:
	default:
		close(f.stop)
	}
	f.senders.Wait()
}

func (f *flow) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.taken)
}

// more waits until so many further messages were taken.
func (f *flow) more(t *testing.T, n int) {
	t.Helper()
	want := f.count() + n
	eventually(t, "the flow goes on", func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		return len(f.taken) >= want || f.err != nil
	})
}

// TestNothingIsLostInMidStream keeps mail flowing by unix socket and TCP while
// the daemon is reloaded again and again, keys come and go, and the daemon is
// once stopped and once killed, and started again. Every message that was taken
// arrives once, and signed.
func TestNothingIsLostInMidStream(t *testing.T) {
	require(t, postfixNeeds...)
	require(t, dkimpyInstalled)
	t.Parallel()
	dir := shortDir(t)
	domains := []string{"example.com", "example.org"}
	keys := newKeystore(t, dir, domains...)
	unix, tcp := "unix:"+filepath.Join(dir, "run", "milter.sock"), "inet:"+loopback(freePort(t))
	config := configure(t, filepath.Join(dir, "waxseal.toml"), fmt.Sprintf(`
[keystore]
url = "dir:%s"
[listen.unix]
address = %q
[listen.tcp]
address = %q
`, keys.dir, unix, tcp))
	d := serve(t, daemonOptions{}, "--config", config)
	p := startPostfix(t, "",
		service{"unix", []string{"smtpd_milters=" + unix}},
		service{"tcp", []string{"smtpd_milters=" + tcp}})
	f := startFlow(t, p, 4, []string{"unix", "tcp"}, domains)

	for range 20 {
		d.reload(t)
		f.more(t, 1)
	}
	if n := f.retries.Load(); n > 0 {
		t.Errorf("%d messages were put off while the daemon was reloaded", n)
	}

	retired := map[string]time.Time{} // selector._domainkey.domain → when
	var activated []string
	for range 2 {
		for _, domain := range domains {
			next := keys.newKey(t, domain, "rsa-2048")
			keys.activate(t, domain, next)
			activated = append(activated, next+" "+domain)
			d.reload(t)
			f.more(t, 10)
			old := firstActive(t, keys, domain)
			keys.retire(t, domain, old)
			d.reload(t)
			retired[old+" "+domain] = time.Now()
			f.more(t, 10)
		}
	}
	// Without a reload the daemon sees a new key as well.
	next := keys.newKey(t, domains[0], "rsa-2048")
	keys.activate(t, domains[0], next)
	eventually(t, "the daemon takes a new key without being told", func() bool {
		m := signByMilter(t, unix, header, "Hello.\r\n")
		return slices.ContainsFunc(m.signatures(), func(s signature) bool { return s.selector == next })
	})
	if n := f.retries.Load(); n > 0 {
		t.Errorf("%d messages were put off while keys came and went", n)
	}

	for _, end := range []func(){
		func() { d.stop(t) },
		func() {
			d.signal(t, syscall.SIGKILL)
			<-d.exited
		},
	} {
		end()
		before := f.retries.Load()
		eventually(t, "a sender notices that the milter is away", func() bool { return f.retries.Load() > before })
		d = serve(t, daemonOptions{}, "--config", config)
		f.more(t, 30)
	}
	f.end()

	if f.err != nil {
		t.Fatal(f.err)
	}
	checkFlow(t, f, keys, activated, retired)
}

// firstActive returns the oldest active RSA key of a domain.
func firstActive(t *testing.T, keys *keystore, domain string) string {
	t.Helper()
	for line := range strings.Lines(command(t, "key", "list", domain, "--keystore", keys.dir)) {
		columns := strings.Fields(line)
		if len(columns) > 3 && columns[2] == "rsa-2048" && columns[3] == "active" {
			return columns[1]
		}
	}
	t.Fatalf("%s has no active RSA key", domain)
	return ""
}

// checkFlow compares what was taken with what arrived.
func checkFlow(t *testing.T, f *flow, keys *keystore, activated []string, retired map[string]time.Time) {
	t.Helper()
	arrived := map[string]int{}
	signed := map[string]int{} // by "selector domain"
	for _, m := range f.p.inbox(t, f.box, len(f.taken)) {
		subject := m.get("Subject")
		arrived[subject]++
		began, ok := f.taken[subject]
		if !ok {
			t.Errorf("%q arrived, but was not taken", subject)
		}
		w := m.wire(t)
		signatures := w.signatures()
		if len(signatures) < 2 || signatures[0].algorithm != "rsa-sha256" {
			t.Fatalf("%q: signatures %+v, want RSA on top and at least two", subject, signatures)
		}
		_, domain, _ := strings.Cut(m.get("From"), "@")
		for _, s := range signatures {
			key := s.selector + " " + s.domain
			signed[key]++
			if s.domain != domain {
				t.Errorf("%q from %s is signed by %s", subject, domain, s.domain)
			}
			if at, ok := retired[key]; ok && began.After(at) {
				t.Errorf("%q, sent %v after key %s was retired, is signed by it", subject, began.Sub(at), key)
			}
		}
		checkVerifies(t, keys, w, len(signatures), byDkimpy, byMsgauth)
		if t.Failed() {
			return
		}
	}
	for subject := range f.taken {
		if arrived[subject] != 1 {
			t.Errorf("%q was taken, and arrived %d times", subject, arrived[subject])
		}
	}
	for _, key := range append(activated, slices.Collect(maps.Keys(retired))...) {
		if signed[key] == 0 {
			t.Errorf("key %s has never signed", key)
		}
	}
	eventually(t, "the queue is empty", func() bool { return f.p.queued(t) == 0 })
	t.Logf("%d messages, %d put off", len(f.taken), f.retries.Load())
}

// TestMessageUnderWayIsFinishedOnStop stops the daemon while a message is half
// sent.
func TestMessageUnderWayIsFinishedOnStop(t *testing.T) {
	t.Run("half of its content has come to Postfix", func(t *testing.T) {
		require(t, postfixNeeds...)
		require(t, dkimpyInstalled)
		t.Parallel()
		dir := shortDir(t)
		keys := newKeystore(t, dir, "example.com")
		address := "unix:" + filepath.Join(dir, "run", "milter.sock")
		d := serve(t, daemonOptions{}, "--keystore", keys.dir, "--listen", address)
		p := startPostfix(t, "smtpd_milters = "+address, service{"smtp", nil})

		idle := smtp(t, p.address("smtp")) // a session between two messages
		if err := idle.send(envelope{from: "ann@example.com", to: []string{p.box()}}, plain("ann@example.com", "before")); err != nil {
			t.Fatal(err)
		}
		text, box := plain("ann@example.com", "half"), p.box()
		c := smtp(t, p.address("smtp"))
		if err := c.begin(envelope{from: "ann@example.com", to: []string{box}}); err != nil {
			t.Fatal(err)
		}
		if err := c.write(text[:len(text)/2]); err != nil {
			t.Fatal(err)
		}
		awaitStopping(t, d, address)
		if d.hasExited() {
			t.Fatal("the daemon did not wait for the message")
		}
		if err := c.write(text[len(text)/2:]); err != nil {
			t.Fatal(err)
		}
		if err := c.end(); err != nil {
			t.Fatal(err)
		}
		m := p.one(t, box)
		checkSigned(t, keys, m, "example.com")
		checkUnchanged(t, text, m, 2)
		d.awaitExit(t)
		if code := d.ProcessState.ExitCode(); code != 0 {
			t.Errorf("exit status %d", code)
		}
		// The next message is asked to come again, not let out unsigned.
		err := c.send(envelope{from: "ann@example.com", to: []string{box}}, text)
		if !refusedForNow(err) {
			t.Errorf("with the daemon gone: %v, want a 4xx reply", err)
		}
	})

	t.Run("half of its body has come to the daemon", func(t *testing.T) {
		t.Parallel()
		dir := shortDir(t)
		keys := newKeystore(t, dir, "example.com")
		address := "inet:" + loopback(freePort(t))
		d := serve(t, daemonOptions{}, "--keystore", keys.dir, "--listen", address)
		c, silent := dialMilter(t, address), dialMilter(t, address)
		c.connect()
		c.begin(t, header)
		c.packet('B', []byte("first half\r\n"))
		if err := c.w.Flush(); err != nil {
			t.Fatal(err)
		}
		awaitStopping(t, d, address)
		if _, _, err := silent.read(); err == nil || errors.Is(err, net.ErrClosed) {
			t.Errorf("a connection without a message: %v, want it closed by the daemon", err)
		}
		c.packet('B', []byte("second half\r\n"))
		m, err := parseMessage([]byte(c.end(t) + header + "\r\nfirst half\r\nsecond half\r\n"))
		if err != nil {
			t.Fatal(err)
		}
		verdicts, err := msgauth(m, keys)
		if err != nil || len(verdicts) != 2 || strings.Join(verdicts, "") != "" {
			t.Errorf("go-msgauth: %v %q", err, verdicts)
		}
		if _, _, err := c.read(); !errors.Is(err, io.EOF) && !errors.Is(err, syscall.EPIPE) && !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("after its message: %v, want the connection closed", err)
		}
		d.awaitExit(t)
		if code := d.ProcessState.ExitCode(); code != 0 {
			t.Errorf("exit status %d", code)
		}
	})
}

// awaitStopping tells the daemon to stop, and waits until it takes no more
// connections.
func awaitStopping(t *testing.T, d *daemon, address string) {
	t.Helper()
	d.signal(t, syscall.SIGTERM)
	eventually(t, "the daemon takes no more connections", func() bool {
		conn, err := tryMilter(address)
		if err == nil {
			conn.Close()
		}
		return err != nil
	})
}
