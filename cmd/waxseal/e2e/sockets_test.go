package e2e

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// listenOn makes a socket and returns it as what systemd hands over.
func listenOn(t *testing.T, path string) *os.File {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	file, err := l.File()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	return file
}

// underSystemd has a daemon started as systemd does it: the socket is file
// descriptor 3, and the environment says for which process it is. A shell knows
// that number before it becomes the daemon.
func underSystemd(listener *os.File, name string) daemonOptions {
	return daemonOptions{prepare: func(c *exec.Cmd) {
		shell := exec.Command("/bin/sh", append([]string{"-c", `LISTEN_PID=$$ exec "$@"`, "sh"}, c.Args...)...)
		c.Path, c.Args = shell.Path, shell.Args
		c.Env = append(os.Environ(), "LISTEN_FDS=1", "LISTEN_FDNAMES="+name)
		c.ExtraFiles = []*os.File{listener}
	}}
}

// TestSocketOfSystemdIsServed starts the daemon with a socket that is already
// open, which outlives it.
func TestSocketOfSystemdIsServed(t *testing.T) {
	for _, network := range []string{"unix", "inet"} {
		t.Run(network, func(t *testing.T) {
			t.Parallel()
			dir := shortDir(t)
			keys := newKeystore(t, dir, "example.com")
			var listener interface {
				net.Listener
				File() (*os.File, error)
			}
			var address string
			if network == "unix" {
				path := filepath.Join(dir, "milter.sock")
				l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
				if err != nil {
					t.Fatal(err)
				}
				listener, address = l, "unix:"+path
			} else {
				l, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
				if err != nil {
					t.Fatal(err)
				}
				listener, address = l, "inet:"+l.Addr().String()
			}
			defer listener.Close()
			file, err := listener.File()
			if err != nil {
				t.Fatal(err)
			}
			defer file.Close()

			d := serve(t, underSystemd(file, "submission"), "--keystore", keys.dir)
			checkSigns(t, keys, address, "example.com")
			eventually(t, "the log names the socket as systemd does", func() bool {
				return matches(d.log.String(), `msg=signed .* listener=submission`)
			})
			if d.said("listening") != 1 {
				t.Error("the daemon opened a socket of its own")
			}
			d.stop(t)

			// Who connects meanwhile waits for the next daemon.
			early, err := tryMilter(address)
			if err != nil {
				t.Fatalf("the socket did not outlive the daemon: %v", err)
			}
			defer early.Close()
			serve(t, underSystemd(file, "submission"), "--keystore", keys.dir)
			checkSigns(t, keys, address, "example.com")
		})
	}
}

// TestSocketOfSystemdKeepsTheRulesOfItsListener has a socket that systemd calls
// by the name of its unit, at the address of a listener with rules of its own.
func TestSocketOfSystemdKeepsTheRulesOfItsListener(t *testing.T) {
	t.Parallel()
	dir := shortDir(t)
	keys := newKeystore(t, dir, "example.com")
	path := filepath.Join(dir, "milter.sock")
	file := listenOn(t, path)
	config := configure(t, filepath.Join(dir, "waxseal.toml"), fmt.Sprintf(`
[keystore]
url = "dir:%s"
[listen.relay]
address = "unix:%s"
[listen.relay.origin]
networks = ["192.0.2.0/24"]
`, keys.dir, path))
	d := serve(t, underSystemd(file, "waxseal.socket"), "--config", config)
	for client, want := range map[string]bool{"192.0.2.1": true, "127.0.0.1": false} {
		if got := judge(t, "unix:"+path, facts{id: "q" + client, client: client}, header, "Hello.\r\n"); (got.top != "") != want {
			t.Errorf("mail of %s: %v, want signed %t", client, got, want)
		}
	}
	if !matches(d.log.String(), `msg=signed .* listener=relay`) {
		t.Error("the log does not name the listener as the configuration does")
	}
}

// TestSocketPathIsTakenOverOnlyWhenFree looks at what may lie at the path of a
// unix socket.
func TestSocketPathIsTakenOverOnlyWhenFree(t *testing.T) {
	t.Parallel()
	dir := shortDir(t)
	keys := newKeystore(t, dir, "example.com")
	path := filepath.Join(dir, "run", "milter.sock")
	args := []string{"--keystore", keys.dir, "--listen", "unix:" + path}

	first := serve(t, daemonOptions{}, args...)
	checkMode := func(path string, want os.FileMode) {
		t.Helper()
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if got := info.Mode().Perm(); got != want {
			t.Errorf("%s has mode %04o, want %04o", path, got, want)
		}
	}
	checkMode(path, 0o660)
	checkMode(filepath.Dir(path), 0o750)

	t.Run("a socket in use is refused, and its owner goes on", func(t *testing.T) {
		second := launch(t, daemonOptions{}, args...)
		second.awaitExit(t)
		if code := second.ProcessState.ExitCode(); code != 1 {
			t.Errorf("exit status %d, want 1", code)
		}
		if log := second.log.String(); !strings.Contains(log, path) || !strings.Contains(log, "another process is listening") {
			t.Errorf("the error does not say what is wrong where:\n%s", log)
		}
		checkSigns(t, keys, "unix:"+path, "example.com")
	})
	t.Run("a socket left behind is replaced", func(t *testing.T) {
		first.signal(t, syscall.SIGKILL)
		<-first.exited
		if _, err := os.Lstat(path); err != nil {
			t.Fatalf("nothing was left behind: %v", err)
		}
		second := serve(t, daemonOptions{}, args...)
		checkSigns(t, keys, "unix:"+path, "example.com")
		second.stop(t)
		if _, err := os.Lstat(path); !os.IsNotExist(err) {
			t.Errorf("after a stop the socket is still there: %v", err)
		}
	})
	t.Run("a file that is no socket stays", func(t *testing.T) {
		writeFile(t, path, "precious", 0o600)
		d := launch(t, daemonOptions{}, args...)
		d.awaitExit(t)
		if d.ProcessState.ExitCode() != 1 || !strings.Contains(d.log.String(), path) {
			t.Errorf("%v, want exit status 1 and the path:\n%s", d.ProcessState, d.log.String())
		}
		if text, err := os.ReadFile(path); err != nil || string(text) != "precious" {
			t.Errorf("the file is now %q, %v", text, err)
		}
	})
}

// TestBrokenReloadChangesNothing breaks the configuration of a running daemon,
// mends it, and changes it.
func TestBrokenReloadChangesNothing(t *testing.T) {
	t.Parallel()
	dir := shortDir(t)
	keys := newKeystore(t, dir, "example.com")
	address := "unix:" + filepath.Join(dir, "run", "milter.sock")
	text := fmt.Sprintf("[keystore]\nurl = %q\n[listen.milter]\naddress = %q\n", keys.dir, address)
	config := configure(t, filepath.Join(dir, "waxseal.toml"), text)
	d := serve(t, daemonOptions{}, "--config", config)

	writeFile(t, config, text+"[origin]\nnetwork = []\n", 0o644)
	d.signal(t, syscall.SIGHUP)
	eventually(t, "the daemon says that the new configuration is broken", func() bool {
		return strings.Contains(d.log.String(), "the old one stays in force")
	})
	if !strings.Contains(d.log.String(), config+":6") {
		t.Error("the log does not name file and line of the unknown key")
	}
	checkSigns(t, keys, address, "example.com")

	under := dialMilter(t, address)
	under.connect()
	under.begin(t, header)
	configure(t, config, text+"[origin]\nnetworks = []\n")
	d.reload(t)
	c := dialMilter(t, address)
	c.connect()
	c.strings0('M', "<ann@example.com>")
	c.want(t, 'a') // no longer ours, and known at once
	// A message under way ends by the rules it began with.
	under.packet('B', []byte("Hello.\r\n"))
	if top := under.end(t); strings.Count(top, "DKIM-Signature:") != 2 {
		t.Errorf("the message under way got %q, want two signatures", top)
	}
}
