// Package e2e tests the real waxseal binary in its real place: behind a private
// Postfix that delivers into a directory, and a private Sendmail before a sink,
// with other people's verifiers judging what arrives. It promises what an
// administrator sees: mail that is ours arrives signed, whatever way it took and
// whatever it holds; nothing else in it changed; and no reload, stop or broken
// peer loses or spoils any. An Exim that signs by itself with the keys of waxseal
// is held to the same.
//
// Nothing outside temporary directories is touched. A test that misses a
// program skips and names it, or fails when WAXSEAL_E2E=required is set.
package e2e

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// waxseal is the binary under test, as "make" builds it.
var waxseal string

func TestMain(m *testing.M) {
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "waxseal-e2e")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	waxseal = filepath.Join(dir, "waxseal")
	if err := build(waxseal, "CGO_ENABLED=0", "-trimpath"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer theDkimpy.stop()
	return m.Run()
}

// dependOnSource looks at every source file, so that "go test" does not take an
// earlier result for the present one when the program has changed. What is looked
// at before the tests run counts for nothing, so whatever runs the program calls
// it.
var dependOnSource = sync.OnceValue(func() error {
	return filepath.WalkDir("../../..", func(path string, e fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist): // gone since its directory was read
			return nil
		case err != nil:
			return err
		case e.Name() == ".git":
			return fs.SkipDir
		case strings.HasSuffix(path, ".go"):
			_, _ = os.Stat(path)
		}
		return nil
	})
})

// build compiles the program.
func build(to, env string, flags ...string) error {
	args := append([]string{"build", "-o", to}, flags...)
	c := exec.Command("go", append(args, "waxseal/cmd/waxseal")...)
	c.Env = append(os.Environ(), env)
	if out, err := c.CombinedOutput(); err != nil {
		return fmt.Errorf("go build: %w\n%s", err, out)
	}
	return nil
}

// checkedBinary is the program built with the race detector when the tests are,
// for daemons whose memory is not measured.
var checkedBinary = sync.OnceValues(func() (string, error) {
	if !raceEnabled {
		return waxseal, nil
	}
	path := waxseal + "-race"
	return path, build(path, "CGO_ENABLED=1", "-race")
})

// need is what a test cannot do without. The error says what is missing.
type need func() error

// require skips the test when something it needs is missing, and fails it when
// WAXSEAL_E2E=required says that nothing may be.
func require(t *testing.T, needs ...need) {
	t.Helper()
	for _, n := range needs {
		err := n()
		switch {
		case err == nil:
		case os.Getenv("WAXSEAL_E2E") == "required":
			t.Fatalf("%v, and WAXSEAL_E2E=required", err)
		default:
			t.Skip(err)
		}
	}
}

func root() error {
	if os.Geteuid() != 0 {
		return errors.New("not root, which a private mail server needs")
	}
	return nil
}

// installed needs a program.
func installed(program, from string) need {
	return func() error {
		if _, err := exec.LookPath(program); err != nil {
			return fmt.Errorf("no %s, which is in Debian's %s", program, from)
		}
		return nil
	}
}

// shortDir makes a temporary directory that other users can look into, with a
// path short enough for sockets in it (107 bytes, unix(7)).
func shortDir(t *testing.T) string {
	t.Helper()
	const longest = 40
	base := os.TempDir()
	if len(base) > longest {
		base = "/tmp"
	}
	dir, err := os.MkdirTemp(base, "wx")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// freePort finds a loopback port to listen on. It is below those that the
// kernel gives to outgoing connections, so that none of these can take it.
func freePort(t *testing.T) int {
	t.Helper()
	for range 100 {
		port := 10000 + rand.IntN(20000)
		l, err := net.Listen("tcp4", loopback(port))
		if err == nil {
			l.Close()
			return port
		}
	}
	t.Fatal("no free loopback port")
	return 0
}

func loopback(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

// patience is how long anything may take that should take a moment. It is
// generous, as a loaded machine must not fail a test.
const patience = 30 * time.Second

// eventually waits until a condition holds.
func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !condition(); {
		if time.Now().After(deadline) {
			t.Fatalf("still waiting after %v: %s", patience, what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func writeFile(t *testing.T, path, text string, mode os.FileMode) string {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
	return path
}

// startGroup starts a program with all its children to come in a process group of
// its own, which ends with the test; if that failed, log says why. What it returns
// is closed when the program has ended.
func startGroup(t *testing.T, c *exec.Cmd, log func() string) <-chan struct{} {
	t.Helper()
	ownGroup(c)
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		_ = c.Wait()
		close(ended)
	}()
	t.Cleanup(func() {
		endGroup(c, ended)
		if t.Failed() {
			t.Logf("%s:\n%s", c.Args[0], log())
		}
	})
	return ended
}

// awaitSMTP waits until a mail server greets.
func awaitSMTP(t *testing.T, address string) {
	t.Helper()
	eventually(t, "a mail server greets at "+address, func() bool {
		c, err := dialSMTP(address)
		if err != nil {
			return false
		}
		c.quit()
		return true
	})
}

// endGroup ends a process of ownGroup with all its children: politely, then by
// force. ended is closed when its Wait has returned.
func endGroup(c *exec.Cmd, ended <-chan struct{}) {
	_ = syscall.Kill(-c.Process.Pid, syscall.SIGTERM)
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
	}
	_ = syscall.Kill(-c.Process.Pid, syscall.SIGKILL)
	<-ended
}
