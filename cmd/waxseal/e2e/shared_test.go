package e2e

import (
	"bufio"
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Two daemons share one keystore in Redis: both sign with what a command puts
// there, both notice a new key at once, and both go on when Redis is gone.
func TestDaemonsShareRedis(t *testing.T) {
	require(t, installed("redis-server", "redis-server"))
	t.Parallel()
	dir := shortDir(t)
	redis := startRedis(t, dir)
	keys := &keystore{dir: "redis://" + redis.address, records: filepath.Join(dir, "records.tsv"), txt: map[string]string{}}
	for _, algorithm := range []string{"rsa-2048", "ed25519"} {
		keys.activate(t, "example.com", keys.newKey(t, "example.com", algorithm))
	}
	keys.publish(t)

	const header = "From: ann@example.com\r\nSubject: hello\r\n"
	var clients []*milterClient
	for _, name := range []string{"a", "b"} {
		socket := "unix:" + filepath.Join(dir, name, "milter.sock")
		serve(t, daemonOptions{}, "--keystore", keys.dir, "--listen", socket)
		c := dialMilter(t, socket)
		defer c.Close()
		clients = append(clients, c)
	}
	sign := func(c *milterClient) *message {
		t.Helper()
		f := facts{id: "4ABC", client: "127.0.0.1"}
		c.announce(f)
		if !c.mailFrom(t, f) {
			t.Fatal("mail from loopback is not ours")
		}
		m := c.content(t, header, "Hello.\r\n").signed(t, header, "Hello.\r\n")
		verdicts, err := msgauth(m, keys)
		if err != nil {
			t.Fatal(err)
		}
		for _, v := range verdicts {
			if v != "" {
				t.Fatalf("go-msgauth: %q", verdicts)
			}
		}
		return m
	}
	for _, c := range clients {
		if s := sign(c).signatures(); len(s) != 2 {
			t.Errorf("%d signatures, want two", len(s))
		}
	}
	third := keys.newKey(t, "example.com", "ed25519")
	keys.publish(t)
	keys.activate(t, "example.com", third)
	for _, c := range clients {
		eventually(t, "a daemon signs with the new key", func() bool { return len(sign(c).signatures()) == 3 })
	}
	redis.kill()
	for _, c := range clients {
		for range 20 {
			if s := sign(c).signatures(); len(s) != 3 {
				t.Fatalf("%d signatures without Redis, want three", len(s))
			}
		}
	}
}

// redisServer is a Redis of our own.
type redisServer struct {
	address string // HOST:PORT
	args    []string
	process *exec.Cmd
	log     transcript
}

// startRedis starts a Redis that keeps its files in dir, with more settings.
func startRedis(t *testing.T, dir string, settings ...string) *redisServer {
	t.Helper()
	port := freePort(t)
	s := &redisServer{address: loopback(port)}
	s.args = append([]string{"--port", fmt.Sprint(port), "--bind", "127.0.0.1", "--dir", dir, "--save", ""}, settings...)
	t.Cleanup(func() {
		s.kill()
		if t.Failed() {
			t.Logf("redis-server:\n%s", tail(s.log.String()))
		}
	})
	s.start(t)
	return s
}

// start starts the server, which does not run, and waits until it answers.
func (s *redisServer) start(t *testing.T) {
	t.Helper()
	s.process = exec.Command("redis-server", s.args...)
	s.process.Stdout, s.process.Stderr = &s.log, &s.log
	ownGroup(s.process)
	if err := s.process.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "Redis answers", func() bool {
		conn, err := net.Dial("tcp", s.address)
		if err != nil {
			return false
		}
		defer conn.Close()
		fmt.Fprint(conn, "PING\r\n")
		answer, _ := bufio.NewReader(conn).ReadString('\n')
		return answer != "" && !strings.HasPrefix(answer, "-LOADING ") // it may want a password
	})
}

// kill ends the server with no chance to tidy up, if it runs.
func (s *redisServer) kill() {
	if s.process != nil && s.process.ProcessState == nil {
		_ = s.process.Process.Kill()
		_ = s.process.Wait()
	}
}
