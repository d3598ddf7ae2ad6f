package dnstest

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// Named is one process of BIND. It listens on addresses that an interface has
// only, which of 127.0.0.0/8 is 127.0.0.1 alone; so it listens there, on ports
// of its own, and a relay on the address that the world knows.
type Named struct {
	Addr string // "IP:PORT"

	ip      netip.Addr
	listen  uint16 // on 127.0.0.1
	control uint16 // where rndc asks
	dir     string
	process *exec.Cmd
	ended   chan struct{}
}

func newNamed(t testing.TB, dir, name string, a netip.AddrPort) *Named {
	t.Helper()
	n := &Named{
		Addr: a.String(), ip: a.Addr(), dir: filepath.Join(dir, name), ended: make(chan struct{}),
		listen: freePort(t), control: freePort(t),
	}
	if err := os.Mkdir(n.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	startRelay(t, a, n.listen)
	write(t, n.file("rndc.key"), fmt.Sprintf("key \"rndc\" { algorithm hmac-sha256; secret \"%s\"; };\n", newSecret()), 0o600)
	return n
}

func (n *Named) file(name string) string { return filepath.Join(n.dir, name) }

// options is the part of the configuration that all servers have. Whatever
// named would write stays below its directory.
func (n *Named) options(recursion bool) string {
	answers := "recursion no;"
	if recursion {
		answers = "recursion yes; allow-recursion { any; };"
	}
	return fmt.Sprintf(`options {
	directory "%[1]s";
	managed-keys-directory "%[1]s";
	pid-file "%[1]s/named.pid";
	session-keyfile none;
	lock-file none;
	listen-on port %[2]d { 127.0.0.1; };
	listen-on-v6 { none; };
	allow-query { any; };
	%[3]s
	dnssec-validation no;
	empty-zones-enable no;
	notify-delay 0;
	notify-rate 1000;
	startup-notify-rate 1000;
	serial-query-rate 1000;
	prefetch 0;
	max-cache-size 16m;
};
include "%[1]s/rndc.key";
controls { inet 127.0.0.1 port %[4]d allow { 127.0.0.1; } keys { rndc; }; };
`, n.dir, n.listen, answers, n.control)
}

// start runs named as the user of the test: run by root it stays root, and
// so owns its directory, but gives up the right to write elsewhere.
func (n *Named) start(t testing.TB, config string) {
	t.Helper()
	write(t, n.file("named.conf"), config, 0o600)
	log, err := os.Create(n.file("log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	n.process = exec.Command("named", "-g", "-n", "1", "-c", n.file("named.conf"))
	n.process.Dir = n.dir
	n.process.Stderr = log
	endWithTests(n.process)
	if err := n.process.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		n.process.Wait()
		close(n.ended)
	}()
	t.Cleanup(func() {
		n.process.Process.Kill()
		<-n.ended
	})
}

// wait waits until the server has the zone. It asks past the relay, whence no
// refusal comes back while named does not listen yet.
func (n *Named) wait(t testing.TB, zone string) {
	t.Helper()
	wait(t, n.Addr, func() error {
		select {
		case <-n.ended:
			t.Fatalf("named has ended:\n%s", n.Log())
		default:
		}
		if strings.Contains(n.Log(), "not loaded due to errors") {
			t.Fatalf("a zone does not load:\n%s", n.Log())
		}
		if _, err := serial(fmt.Sprintf("127.0.0.1:%d", n.listen), zone); err != nil {
			return fmt.Errorf("%w; its log:\n%s", err, n.Log())
		}
		return nil
	})
}

// Log returns what the server has logged.
func (n *Named) Log() string {
	log, err := os.ReadFile(n.file("log"))
	if err != nil {
		return err.Error()
	}
	return string(log)
}

// Pause makes the server answer nothing, as if its machine were gone.
func (n *Named) Pause(t testing.TB) {
	t.Helper()
	n.signal(t, syscall.SIGSTOP)
	wait(t, "the pause of "+n.Addr, func() error {
		threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", n.process.Process.Pid))
		if err != nil {
			return err
		}
		for _, file := range threads {
			status, err := os.ReadFile(file)
			if err != nil {
				return err
			}
			if !bytes.Contains(status, []byte("\nState:\tT")) {
				return errors.New("a thread still runs")
			}
		}
		return nil
	})
}

// Resume ends a pause. Questions that still wait are answered then.
func (n *Named) Resume(t testing.TB) { n.signal(t, syscall.SIGCONT) }

func (n *Named) signal(t testing.TB, s os.Signal) {
	t.Helper()
	if err := n.process.Process.Signal(s); err != nil {
		t.Fatalf("named: %v", err)
	}
}

// Flush empties the cache of a resolver.
func (n *Named) Flush(t testing.TB) { n.rndc(t, "flush") }

func (n *Named) reconfigure(t testing.TB, config string) {
	t.Helper()
	write(t, n.file("named.conf"), config, 0o600)
	n.rndc(t, "reconfig")
}

// rndc has the server do something, and waits for it.
func (n *Named) rndc(t testing.TB, command ...string) {
	t.Helper()
	args := append([]string{"-k", n.file("rndc.key"), "-s", "127.0.0.1", "-p", fmt.Sprint(n.control)}, command...)
	if out, err := exec.Command("rndc", args...).CombinedOutput(); err != nil {
		t.Fatalf("rndc %s: %v: %s\n%s", strings.Join(command, " "), err, out, n.Log())
	}
}

func installed(t testing.TB, program, from string) {
	t.Helper()
	if _, err := exec.LookPath(program); err != nil {
		skip(t, fmt.Errorf("no %s, which is in Debian's %s", program, from))
	}
}

// notConfined skips where AppArmor would let named read and write in the
// machine's own directories only.
func notConfined(t testing.TB) {
	t.Helper()
	profiles, err := os.ReadFile("/sys/kernel/security/apparmor/profiles")
	if err != nil {
		return // no AppArmor, or not ours to see: then named's log tells
	}
	if bytes.Contains(profiles, []byte("named (enforce)")) {
		skip(t, errors.New(`AppArmor keeps named out of temporary directories ("aa-disable named" lets it in)`))
	}
}
