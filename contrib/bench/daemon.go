//go:build linux

package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	startTimeout = 20 * time.Second
	// stopTimeout is how long a program may take to end. Those with libmilter
	// look every five seconds only; none of them has anything to lose.
	stopTimeout = time.Second
)

// address is where a milter listens: network "unix" and a path, or "tcp" and a
// host with a port.
type address struct{ network, name string }

// postfix returns the address as Postfix and waxseal spell it.
func (a address) postfix() string {
	if a.network == "unix" {
		return "unix:" + a.name
	}
	return "inet:" + a.name
}

// sendmail returns the address as Sendmail's libmilter spells it.
func (a address) sendmail() string {
	if a.network == "unix" {
		return "local:" + a.name
	}
	host, port, _ := net.SplitHostPort(a.name)
	return "inet:" + port + "@" + host
}

// newAddress returns an address that nobody listens at.
func newAddress(transport, dir string) (address, error) {
	if transport == "unix" {
		return address{"unix", filepath.Join(dir, "socket")}, nil
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return address{}, err
	}
	return address{"tcp", l.Addr().String()}, l.Close()
}

// daemon is a program that runs in the foreground as our child. It must be
// stopped.
type daemon struct {
	name    string
	dir     string // its own
	command *exec.Cmd
	ended   chan struct{} // closed when it has ended
	once    sync.Once     // for stop
}

// startDaemon starts a program in its own directory and process group. It is
// stopped when the context is done, if that has not been done before.
func startDaemon(ctx context.Context, name, dir string, argv []string) (*daemon, error) {
	out, err := os.Create(filepath.Join(dir, "output"))
	if err != nil {
		return nil, err
	}
	defer out.Close()
	d := &daemon{name: name, dir: dir, ended: make(chan struct{})}
	d.command = exec.Command(argv[0], argv[1:]...)
	d.command.Dir = dir
	d.command.Stdout, d.command.Stderr = out, out
	d.command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := d.command.Start(); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	go func() {
		_ = d.command.Wait() // how it ended is in its ProcessState
		close(d.ended)
	}()
	context.AfterFunc(ctx, d.stop)
	return d, nil
}

func (d *daemon) tree() processTree { return processTree(d.command.Process.Pid) }

// listening waits until something accepts connections at the address.
func (d *daemon) listening(ctx context.Context, at address) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for {
		var dialer net.Dialer
		conn, err := dialer.DialContext(ctx, at.network, at.name)
		if err == nil {
			return conn.Close()
		}
		select {
		case <-d.ended:
			return fmt.Errorf("%s ended at once: %s%s", d.name, d.command.ProcessState, d.output())
		case <-ctx.Done():
			return fmt.Errorf("%s: %w%s", d.name, err, d.output())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// output returns the end of what the program printed, as an appendix to an error.
func (d *daemon) output() string {
	b, err := os.ReadFile(filepath.Join(d.dir, "output"))
	if err != nil || len(b) == 0 {
		return ""
	}
	return "; it printed: " + strings.TrimSpace(string(b[max(0, len(b)-500):]))
}

// stop ends the program and all that descends from it, and waits for that.
func (d *daemon) stop() { d.once.Do(d.end) }

func (d *daemon) end() {
	// All of them are told, as some do not tell their children.
	pids, err := d.tree().pids()
	if err != nil {
		pids = []int{int(d.tree())}
	}
	left := map[int]stat{}
	for _, pid := range pids {
		if s, ok := readStat(pid); ok {
			left[pid] = s
			_ = syscall.Kill(pid, syscall.SIGTERM) // it may have ended by itself
		}
	}
	for deadline := time.Now().Add(stopTimeout); len(left) > 0; time.Sleep(10 * time.Millisecond) {
		for pid, then := range left {
			if now, ok := readStat(pid); !ok || now.started != then.started {
				delete(left, pid)
			} else if time.Now().After(deadline) {
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
		}
	}
	// A worker whose parent ended before still is in the process group.
	_ = syscall.Kill(-d.command.Process.Pid, syscall.SIGKILL)
	<-d.ended
}
