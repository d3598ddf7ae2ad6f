package redisstore

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/redis/rueidis"
)

// require skips a test that needs a program, or fails it where none may be
// missing.
func require(t testing.TB, program string) string {
	t.Helper()
	path, err := exec.LookPath(program)
	switch {
	case err == nil:
	case os.Getenv("WAXSEAL_E2E") == "required":
		t.Fatalf("no %s, and WAXSEAL_E2E=required", program)
	default:
		t.Skipf("no %s", program)
	}
	return path
}

// server is a Redis of our own.
type server struct {
	t       testing.TB
	dir     string
	port    string
	program string
	args    []string
	process *exec.Cmd
	log     bytes.Buffer
}

func freePort(t testing.TB) string {
	t.Helper()
	for {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		port := l.Addr().(*net.TCPAddr).Port
		l.Close()
		if port < 50000 { // a Cluster's servers talk to each other at the port plus 10000
			return fmt.Sprint(port)
		}
	}
}

// start starts redis-server with more settings. TLS alone, if tls-port is among
// them.
func start(t testing.TB, settings ...string) *server {
	t.Helper()
	s := &server{t: t, program: require(t, "redis-server"), dir: t.TempDir(), port: freePort(t)}
	s.args = append([]string{
		"--port", s.port, "--bind", "127.0.0.1", "--dir", s.dir, "--save", "", "--appendonly", "yes", "--appendfsync", "always",
		"--unixsocket", filepath.Join(s.dir, "s"), "--enable-debug-command", "yes",
	}, settings...)
	s.run()
	t.Cleanup(s.kill)
	return s
}

func (s *server) run() {
	s.t.Helper()
	s.process = exec.Command(s.program, s.args...)
	s.process.Stdout, s.process.Stderr = &s.log, &s.log
	s.process.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := s.process.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.await("an answer", func() bool {
		c, err := net.Dial("unix", filepath.Join(s.dir, "s"))
		if err != nil {
			return false
		}
		c.Close()
		return true
	})
}

func (s *server) kill() {
	s.process.Process.Kill()
	s.process.Wait()
}

func (s *server) await(what string, ok func() bool) {
	s.t.Helper()
	for end := time.Now().Add(30 * time.Second); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			s.t.Fatalf("no %s from the server\n%s", what, s.log.String())
		}
	}
}

func (s *server) address() string { return "127.0.0.1:" + s.port }

// do sends one command by a connection of its own.
func (s *server) do(command ...string) rueidis.RedisResult {
	s.t.Helper()
	c, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{s.address()}, ForceSingleClient: true, DisableCache: true})
	if err != nil {
		s.t.Fatal(err)
	}
	defer c.Close()
	return c.Do(s.t.Context(), c.B().Arbitrary(command...).Build())
}

// must is do, and fails the test on an error.
func (s *server) must(command ...string) {
	s.t.Helper()
	if err := s.do(command...).Error(); err != nil {
		s.t.Fatalf("%s: %v", strings.Join(command, " "), err)
	}
}

func open(t testing.TB, url string, opts Options) *Store {
	t.Helper()
	s, err := Open(t.Context(), url, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}
