package fleet

import (
	"fmt"
	"net"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// redisServer is a Redis of our own.
type redisServer struct {
	address string
	process *exec.Cmd
}

func startRedis(t *testing.T, settings ...string) *redisServer {
	t.Helper()
	program, err := exec.LookPath("redis-server")
	need(t, "Redis", err)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &redisServer{address: l.Addr().String()}
	l.Close()
	_, port, _ := net.SplitHostPort(r.address)
	r.process = exec.Command(program, append([]string{"--port", port, "--bind", "127.0.0.1", "--dir", t.TempDir(), "--save", ""}, settings...)...)
	r.process.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := r.process.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.kill)
	awaitServer(t, r.address)
	return r
}

// awaitServer waits until somebody listens.
func awaitServer(t *testing.T, address string) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if c, err := net.Dial("tcp", address); err == nil {
			c.Close()
			return
		} else if time.Now().After(end) {
			t.Fatal(err)
		}
	}
}

func (r *redisServer) kill() {
	_ = r.process.Process.Kill()
	_ = r.process.Wait()
}

// do has redis-cli send a command.
func (r *redisServer) do(t *testing.T, command ...string) string {
	t.Helper()
	host, port, _ := net.SplitHostPort(r.address)
	out, err := exec.Command("redis-cli", append([]string{"--raw", "-h", host, "-p", port}, command...)...).CombinedOutput()
	if err != nil || strings.HasPrefix(string(out), "ERR") {
		t.Fatalf("redis-cli %s: %v\n%s", fmt.Sprint(command), err, out)
	}
	return string(out)
}

// redisCopies makes n domains of one: prefix0.example and so on.
func redisCopies(t *testing.T, r *redisServer, from, prefix string, n int) {
	t.Helper()
	r.do(t, "EVAL", `for i = 0, ARGV[1] - 1 do
		local name = ARGV[3] .. i .. '.example'
		redis.call('COPY', 'waxseal:domain:' .. ARGV[2], 'waxseal:domain:' .. name)
		redis.call('ZADD', 'waxseal:domains', 0, name)
	end`, "0", fmt.Sprint(n), from, prefix)
}
