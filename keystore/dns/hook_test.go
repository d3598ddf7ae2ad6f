package dns

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	mdns "github.com/miekg/dns"

	"waxseal/keystore"
)

// script writes a shell script whose first argument is a directory of its own.
func script(t *testing.T, text string) (h *Hook, dir string) {
	t.Helper()
	dir = t.TempDir()
	path := filepath.Join(dir, "hook")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text), 0o700); err != nil {
		t.Fatal(err)
	}
	return &Hook{Command: []string{path, dir}, Timeout: 10 * time.Second}, dir
}

func contents(t *testing.T, path ...string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(path...))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestHookGetsTheRecord(t *testing.T) {
	t.Setenv("WAXSEAL_TOKEN", "a secret of ours")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "another")
	t.Setenv("LANG", "C")
	h, dir := script(t, `env -0 >"$1/env"; cat >"$1/stdin"`)
	c := own(value(t, keystore.RSA4096, `it's "quoted" \ $HOME`))
	c.TTL = 5 * time.Minute
	if err := h.Publish(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	env := strings.Split(strings.TrimSuffix(contents(t, dir, "env"), "\x00"), "\x00")
	for _, want := range []string{
		"WAXSEAL_ACTION=publish", "WAXSEAL_NAME=" + ownName, "WAXSEAL_TYPE=TXT", "WAXSEAL_DOMAIN=example.com",
		"WAXSEAL_SELECTOR=s1", "WAXSEAL_TTL=300", "WAXSEAL_RECORD=" + c.Record, "LANG=C", "PATH=" + os.Getenv("PATH"),
	} {
		if !slices.Contains(env, want) {
			t.Errorf("no %q in %q", want, env)
		}
	}
	for _, v := range env {
		// The shell sets the last three by itself.
		name, _, _ := strings.Cut(v, "=")
		if !strings.HasPrefix(name, "WAXSEAL_") && !slices.Contains([]string{"PATH", "HOME", "LANG", "PWD", "SHLVL", "_"}, name) || name == "WAXSEAL_TOKEN" {
			t.Errorf("%q got through", v)
		}
	}
	rr, err := mdns.NewRR(contents(t, dir, "stdin"))
	if err != nil {
		t.Fatal(err)
	}
	if txt, ok := rr.(*mdns.TXT); !ok || rr.Header().Name != ownName+"." || rr.Header().Ttl != 300 || octets(strings.Join(txt.Txt, "")) != c.Record {
		t.Errorf("on the standard input: %v", rr)
	}
}

func TestHookDeletes(t *testing.T) {
	h, dir := script(t, `echo "$WAXSEAL_ACTION $WAXSEAL_NAME <$WAXSEAL_RECORD>" >"$1/said"; cat >"$1/stdin"`)
	if err := h.Publish(t.Context(), slot("s1.dkim.example.net", "")); err != nil {
		t.Fatal(err)
	}
	if got := contents(t, dir, "said"); got != "delete s1.dkim.example.net <>\n" {
		t.Errorf("got %q", got)
	}
	if got := contents(t, dir, "stdin"); got != "" {
		t.Errorf("on the standard input: %q", got)
	}
}

func TestHookFails(t *testing.T) {
	for _, test := range []struct {
		name, text string
		want       string
	}{
		{"with its error output", "echo chatter; echo 'no such zone' >&2; echo >&2; printf 'try\\033[31m later' >&2; exit 3", "exit status 3: no such zone / try?[31m later"},
		{"with too much of it", "i=0; while [ $i -lt 9999 ]; do echo line $i >&2; i=$((i+1)); done; exit 1", "exit status 1: line 0 / line 1 / line 2"},
		{"silently", "exit 1", "exit status 1"},
		{"by a signal", "kill -9 $$", "signal: killed"},
	} {
		t.Run(test.name, func(t *testing.T) {
			h, _ := script(t, test.text)
			err := h.Publish(t.Context(), own("v=DKIM1; p="))
			var known *PublishError
			if !errors.As(err, &known) || known.Problem != test.want || known.Name != ownName {
				t.Errorf("error %v, want %q", err, test.want)
			}
		})
	}
}

func TestHookThatCannotRun(t *testing.T) {
	if err := new(Hook).Publish(t.Context(), own("")); err == nil || !strings.Contains(err.Error(), "no command") {
		t.Errorf("no command: error %v", err)
	}
	for _, path := range []string{"/nowhere/hook", t.TempDir()} {
		err := (&Hook{Command: []string{path}}).Publish(t.Context(), own(""))
		if err == nil || !strings.Contains(err.Error(), "cannot be run") || !strings.Contains(err.Error(), "whole path") {
			t.Errorf("%s: error %v", path, err)
		}
	}
	h, dir := script(t, `: >"$1/ran"`)
	if err := h.Publish(t.Context(), slot("a b", "")); err == nil {
		t.Error("a change that is none: no error")
	}
	if _, err := os.Stat(filepath.Join(dir, "ran")); err == nil {
		t.Error("a change that is none: the command was run")
	}
}

// A child in the background holds the error output open; it must neither
// survive nor keep us.
const lingering = `sleep 600 & echo $! >"$1/new"; mv "$1/new" "$1/child"; `

func TestHookIsKilledWithItsChildren(t *testing.T) {
	h, dir := script(t, lingering+"echo still here >&2; wait")
	h.Timeout = time.Second
	err := h.Publish(t.Context(), own("v=DKIM1; p="))
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "did not end in 1s and was killed: still here") {
		t.Errorf("error %v", err)
	}
	childGone(t, dir)

	h, dir = script(t, lingering+"wait")
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		defer cancel()
		for ctx.Err() == nil {
			if _, err := os.Stat(filepath.Join(dir, "child")); err == nil {
				return
			}
			time.Sleep(5 * time.Millisecond)
		}
	}()
	if err := h.Publish(ctx, own("v=DKIM1; p=")); !errors.Is(err, context.Canceled) {
		t.Errorf("interrupted: error %v", err)
	}
	childGone(t, dir)
}

// childGone waits for the kernel: a killed child is a zombie until its new
// parent has taken note.
func childGone(t *testing.T, dir string) {
	t.Helper()
	pid, err := strconv.Atoi(strings.TrimSpace(contents(t, dir, "child")))
	if err != nil {
		t.Fatal(err)
	}
	for range 400 {
		stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
		if err != nil && syscall.Kill(pid, 0) != nil || strings.Contains(string(stat), ") Z ") {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	_ = syscall.Kill(pid, syscall.SIGKILL)
	t.Errorf("the child %d lives", pid)
}

func TestHookMayLeaveADaemonBehind(t *testing.T) {
	h, dir := script(t, lingering+"exit 0")
	err := h.Publish(t.Context(), own("v=DKIM1; p="))
	pid, _ := strconv.Atoi(strings.TrimSpace(contents(t, dir, "child")))
	if killed := syscall.Kill(pid, syscall.SIGKILL); err != nil || killed != nil {
		t.Errorf("error %v; child: %v", err, killed)
	}
}
