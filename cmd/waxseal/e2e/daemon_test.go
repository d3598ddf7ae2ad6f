package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// command runs waxseal to its end and returns what it printed. It has to
// succeed.
func command(t *testing.T, args ...string) string {
	t.Helper()
	stdout, stderr, code := tryCommand(t, "", nil, args...)
	if code != 0 {
		t.Fatalf("waxseal %s: exit %d\n%s%s", strings.Join(args, " "), code, stdout, stderr)
	}
	return stdout
}

func tryCommand(t *testing.T, dir string, stdin []byte, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	if err := dependOnSource(); err != nil {
		t.Fatal(err)
	}
	c := exec.CommandContext(t.Context(), waxseal, args...)
	var out, errs bytes.Buffer
	c.Dir, c.Stdin, c.Stdout, c.Stderr = dir, bytes.NewReader(stdin), &out, &errs
	err := c.Run()
	if c.ProcessState == nil {
		t.Fatalf("waxseal %s: %v", strings.Join(args, " "), err)
	}
	return out.String(), errs.String(), c.ProcessState.ExitCode()
}

// keystore is a directory of keys, made with the commands, and a file with the
// records of all keys there ever were in it: the DNS of these tests.
type keystore struct {
	dir, records string

	mu   sync.Mutex
	txt  map[string]string // guarded by mu: name → record
	made []string          // guarded by mu: domains
}

// newKeystore makes a keystore in which each domain has an active RSA-2048 and
// an active Ed25519 key.
func newKeystore(t *testing.T, dir string, domains ...string) *keystore {
	t.Helper()
	k := &keystore{dir: filepath.Join(dir, "keys"), records: filepath.Join(dir, "records.tsv"), txt: map[string]string{}}
	for _, domain := range domains {
		for _, algorithm := range []string{"rsa-2048", "ed25519"} {
			k.activate(t, domain, k.newKey(t, domain, algorithm))
		}
	}
	return k
}

// newKey makes a pending key, publishes its record, and returns its selector.
func (k *keystore) newKey(t *testing.T, domain, algorithm string) string {
	t.Helper()
	var made []struct{ Domain, Selector, State string }
	out := command(t, "key", "new", domain, "--algorithm", algorithm, "--keystore", k.dir, "--json")
	if err := json.Unmarshal([]byte(out), &made); err != nil || len(made) != 1 || made[0].Domain != domain || made[0].State != "pending" {
		t.Fatalf("key new %s --json: %v: %s", domain, err, out)
	}
	k.mu.Lock()
	if !slices.Contains(k.made, domain) {
		k.made = append(k.made, domain)
	}
	k.mu.Unlock()
	k.publish(t)
	return made[0].Selector
}

func (k *keystore) activate(t *testing.T, domain, selector string) {
	t.Helper()
	command(t, "key", "activate", domain, selector, "--keystore", k.dir, "--force", "--reason", "published in this test")
}

func (k *keystore) retire(t *testing.T, domain, selector string) {
	t.Helper()
	command(t, "key", "retire", domain, selector, "--keystore", k.dir)
}

// publish adds the records that "dns show" prints to the file of records.
func (k *keystore) publish(t *testing.T) {
	t.Helper()
	k.mu.Lock()
	defer k.mu.Unlock()
	args := append([]string{"dns", "show", "--keystore", k.dir, "--format", "tsv"}, k.made...)
	for line := range strings.Lines(command(t, args...)) {
		name, record, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "\t")
		if !ok {
			t.Fatalf("dns show --format tsv: no tab in %q", line)
		}
		if old, ok := k.txt[name]; ok && old != record {
			t.Fatalf("record %s changed from %q to %q", name, old, record)
		}
		k.txt[name] = record
	}
	var b strings.Builder
	for name, record := range k.txt {
		fmt.Fprintf(&b, "%s\t%s\n", name, record)
	}
	// Readers see the old file or the new one.
	if err := os.Rename(writeFile(t, k.records+".new", b.String(), 0o644), k.records); err != nil {
		t.Fatal(err)
	}
}

// lookup answers as the DNS would.
func (k *keystore) lookup(name string) ([]string, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if record, ok := k.txt[strings.TrimSuffix(name, ".")]; ok {
		return []string{record}, nil
	}
	return nil, fmt.Errorf("no record %s", name)
}

// transcript is what a process has written so far.
type transcript struct {
	mu sync.Mutex
	b  []byte // guarded by mu
}

func (l *transcript) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.b = append(l.b, p...)
	return len(p), nil
}

func (l *transcript) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return string(l.b)
}

// daemon is a running "waxseal serve".
type daemon struct {
	*exec.Cmd
	stdout, log transcript
	exited      chan struct{}
}

// daemonOptions say how a daemon is started. The zero value works.
type daemonOptions struct {
	binary  string            // "": the checked one
	prepare func(c *exec.Cmd) // last changes before the start
}

// serve starts a daemon and waits until it says that it has started. At the end
// of the test it has to stop when told to, and to have had no panic.
func serve(t *testing.T, o daemonOptions, args ...string) *daemon {
	t.Helper()
	d := launch(t, o, args...)
	eventually(t, "the daemon says that it has started", func() bool {
		return d.said("started") > 0 || d.hasExited()
	})
	if d.hasExited() {
		t.Fatalf("waxseal serve %s: ended with %v", strings.Join(args, " "), d.ProcessState)
	}
	return d
}

// launch starts a daemon, which may as well refuse to.
func launch(t *testing.T, o daemonOptions, args ...string) *daemon {
	t.Helper()
	if err := dependOnSource(); err != nil {
		t.Fatal(err)
	}
	if o.binary == "" {
		var err error
		if o.binary, err = checkedBinary(); err != nil {
			t.Fatal(err)
		}
	}
	d := &daemon{Cmd: exec.Command(o.binary, append([]string{"serve"}, args...)...), exited: make(chan struct{})}
	d.Stdout, d.Stderr = &d.stdout, &d.log
	ownGroup(d.Cmd)
	if o.prepare != nil {
		o.prepare(d.Cmd)
	}
	if err := d.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = d.Wait() // ProcessState has it
		close(d.exited)
	}()
	t.Cleanup(func() {
		if !d.hasExited() {
			d.stop(t)
		}
		if log := d.log.String(); strings.Contains(log, "DATA RACE") || strings.Contains(log, "panic:") || strings.Contains(log, `msg="panic`) || strings.Contains(log, `"msg":"panic`) {
			t.Error("the daemon had a panic or a race")
		}
		if t.Failed() {
			t.Logf("log of waxseal serve %s:\n%s", strings.Join(args, " "), tail(d.log.String()))
		}
	})
	return d
}

// tail keeps the log of a failed test readable.
func tail(log string) string {
	const most = 16 << 10
	if len(log) > most {
		return "..." + log[len(log)-most:]
	}
	return log
}

func (d *daemon) hasExited() bool {
	select {
	case <-d.exited:
		return true
	default:
		return false
	}
}

// said counts the log lines with this message, in either format of the log.
func (d *daemon) said(message string) int {
	message = regexp.QuoteMeta(message)
	return len(regexp.MustCompile(`(?m) msg="?`+message+`"?( |$)|"msg":"`+message+`"`).FindAllString(d.log.String(), -1))
}

// matches says whether a line of text matches an expression.
func matches(text, expression string) bool { return regexp.MustCompile(expression).MatchString(text) }

// signal sends a signal to the daemon.
func (d *daemon) signal(t *testing.T, s syscall.Signal) {
	t.Helper()
	if err := d.Process.Signal(s); err != nil {
		t.Fatalf("signal %v: %v", s, err)
	}
}

// reload has the configuration read again, and waits until it is in force.
func (d *daemon) reload(t *testing.T) {
	t.Helper()
	before := d.said("reloaded")
	d.signal(t, syscall.SIGHUP)
	eventually(t, "the daemon says that it has reloaded", func() bool { return d.said("reloaded") > before })
}

// stop ends the daemon with SIGTERM, and expects it to end well.
func (d *daemon) stop(t *testing.T) {
	t.Helper()
	d.signal(t, syscall.SIGTERM)
	d.awaitExit(t)
	log := d.log.String()
	if code := d.ProcessState.ExitCode(); code != 0 || d.said("stopped") != 1 || !strings.Contains(log, "panics=0") && !strings.Contains(log, `"panics":0`) {
		t.Errorf("daemon ended with %v, want exit status 0, a log line \"stopped\" and panics=0", d.ProcessState)
	}
}

func (d *daemon) awaitExit(t *testing.T) {
	t.Helper()
	select {
	case <-d.exited:
	case <-time.After(patience + 10*time.Second): // its own limit, and some
		_ = d.Process.Kill()
		<-d.exited
		t.Fatal("the daemon did not stop")
	}
}

// status returns a value of /proc/PID/status in kB, such as VmRSS.
func (d *daemon) status(t *testing.T, name string) int {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", d.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`(?m)^` + name + `:\s+(\d+) kB$`).FindSubmatch(text)
	if m == nil {
		t.Fatalf("no %s in /proc/PID/status:\n%s", name, text)
	}
	n, err := strconv.Atoi(string(m[1]))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// files counts the open files of the daemon.
func (d *daemon) files(t *testing.T) int {
	t.Helper()
	open, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", d.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	return len(open)
}

// proc needs Linux's view of processes.
func proc() error {
	if _, err := os.Stat("/proc/self/status"); err != nil {
		return fmt.Errorf("memory of a process cannot be measured: %w", err)
	}
	return nil
}

// configure writes a configuration file, which "waxseal check" must like.
func configure(t *testing.T, path, text string) string {
	t.Helper()
	writeFile(t, path, text, 0o644)
	if out := command(t, "check", "--config", path); strings.Contains(out, "error:") || strings.Contains(out, "warning:") {
		t.Errorf("waxseal check:\n%s", out)
	}
	return path
}
