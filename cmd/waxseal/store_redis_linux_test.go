package main

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// redisURL starts a Redis on a socket, and returns the URL of a keystore in it and
// what prints all that it has of a key.
func redisURL(t *testing.T) (url string, dump func(command ...string) string) {
	t.Helper()
	server, err := exec.LookPath("redis-server")
	client, clientErr := exec.LookPath("redis-cli")
	if err != nil || clientErr != nil {
		if os.Getenv("WAXSEAL_E2E") == "required" {
			t.Fatal("no redis-server and redis-cli, and WAXSEAL_E2E=required")
		}
		t.Skip("no redis-server and redis-cli")
	}
	dir := t.TempDir()
	socket := filepath.Join(dir, "s")
	c := exec.Command(server, "--port", "0", "--unixsocket", socket, "--dir", dir, "--save", "")
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Process.Kill()
		c.Wait()
	})
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if conn, err := net.Dial("unix", socket); err == nil {
			conn.Close()
			break
		}
		if time.Now().After(end) {
			t.Fatal("redis-server does not answer")
		}
	}
	return "redis+unix://" + socket, func(command ...string) string {
		t.Helper()
		out, err := exec.Command(client, append([]string{"-s", socket}, command...)...).Output()
		if err != nil {
			t.Fatal(err)
		}
		return string(out)
	}
}

func TestEncryptedKeysInRedis(t *testing.T) {
	c := newCLI(t)
	url, dump := redisURL(t)
	c.store = url
	encrypted(t, c, func() string { return dump("HGETALL", "waxseal:domain:example.com") })
}
