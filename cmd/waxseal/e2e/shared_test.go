package e2e

import (
	"bytes"
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
)

// Two daemons share one keystore in Redis: both sign with what a command puts
// there, both notice a new key at once, and both go on when Redis is gone.
func TestDaemonsShareRedis(t *testing.T) {
	require(t, installed("redis-server", "redis-server"))
	t.Parallel()
	dir := shortDir(t)
	redis, address := startRedis(t, dir)
	keys := &keystore{dir: "redis://" + address, records: filepath.Join(dir, "records.tsv"), txt: map[string]string{}}
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
	if err := redis.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for _, c := range clients {
		for range 20 {
			if s := sign(c).signatures(); len(s) != 3 {
				t.Fatalf("%d signatures without Redis, want three", len(s))
			}
		}
	}
}

// startRedis starts a Redis of our own, with more settings, and returns where it
// listens.
func startRedis(t *testing.T, dir string, settings ...string) (*exec.Cmd, string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().(*net.TCPAddr)
	l.Close()
	c := exec.Command("redis-server", append([]string{"--port", fmt.Sprint(address.Port), "--bind", "127.0.0.1", "--dir", dir, "--save", ""}, settings...)...)
	var log bytes.Buffer
	c.Stdout, c.Stderr = &log, &log
	ownGroup(c)
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Process.Kill()
		c.Wait()
		if t.Failed() {
			t.Logf("redis-server:\n%s", tail(log.String()))
		}
	})
	eventually(t, "Redis answers", func() bool {
		conn, err := net.Dial("tcp", address.String())
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
	return c, address.String()
}
