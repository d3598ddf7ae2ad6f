// Package systemd tests the units: that systemd understands them, that they
// leave an intruder little, and that the daemon needs nothing they forbid. None
// of it needs a running systemd.
package systemd

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	milter "github.com/d--j/go-milter"
)

// programs skips the test when one is missing, and fails it when
// WAXSEAL_E2E=required says that none is.
func programs(t *testing.T, names ...string) {
	t.Helper()
	for _, name := range names {
		if _, err := exec.LookPath(name); err != nil && os.Getenv("WAXSEAL_E2E") == "required" {
			t.Fatalf("%v, and WAXSEAL_E2E=required", err)
		} else if err != nil {
			t.Skip(err)
		}
	}
}

var units = []string{"waxseal.service", "waxseal.socket", "waxseal-keep.service", "waxseal-keep.timer"}

func read(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestUnitsAreUnderstood has systemd read the units. It wants the program to be
// there, so another one stands in for it.
func TestUnitsAreUnderstood(t *testing.T) {
	programs(t, "systemd-analyze")
	dir := t.TempDir()
	args := []string{"verify", "--man=no"}
	for _, name := range units {
		path := filepath.Join(dir, name)
		text := strings.ReplaceAll(read(t, name), "/usr/bin/waxseal", "/bin/true")
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		args = append(args, path)
	}
	out, err := exec.Command("systemd-analyze", args...).CombinedOutput()
	if err != nil {
		t.Errorf("systemd-analyze: %v\n%s", err, out)
	}
	for line := range strings.Lines(string(out)) {
		// Before version 253 the line above it counts, as the unit says.
		if strings.Contains(line, "waxseal") && !strings.Contains(line, "ignoring: notify-reload") {
			t.Error(line)
		}
	}
}

func TestServicesAreExposedLittle(t *testing.T) {
	programs(t, "systemd-analyze")
	for _, name := range []string{"waxseal.service", "waxseal-keep.service"} {
		out, err := exec.Command("systemd-analyze", "security", "--no-pager", "--offline=true", "--threshold=15", name).CombinedOutput()
		if err != nil {
			t.Errorf("%s: %v, want an exposure of at most 1.5\n%s", name, err, out)
		}
	}
}

// TestTheKeeperIsHeldLikeTheDaemon compares the two services, as systemd has no
// way to say it once.
func TestTheKeeperIsHeldLikeTheDaemon(t *testing.T) {
	hardening := func(name string) []string {
		text := read(t, name)
		text = text[strings.Index(text, "CapabilityBoundingSet="):]
		text, _, _ = strings.Cut(text, "\n[")
		var lines []string
		for line := range strings.Lines(text) {
			if !strings.HasPrefix(line, "#") && !strings.HasPrefix(line, "SystemCallFilter=@chown") {
				lines = append(lines, strings.TrimSpace(line))
			}
		}
		return slices.Compact(lines)
	}
	daemon, keeper := strings.TrimSpace(strings.Join(hardening("waxseal.service"), "\n")), strings.TrimSpace(strings.Join(hardening("waxseal-keep.service"), "\n"))
	if daemon != keeper || !strings.Contains(daemon, "NoNewPrivileges=yes") {
		t.Errorf("waxseal.service has\n%s\nand waxseal-keep.service has\n%s", daemon, keeper)
	}
}

// allowedCalls returns the system calls of SystemCallFilter=, as
// systemd-analyze knows its groups.
func allowedCalls(t *testing.T, unit string) map[string]bool {
	t.Helper()
	var expand func(name string) []string
	expand = func(name string) []string {
		if !strings.HasPrefix(name, "@") {
			return []string{name}
		}
		out, err := exec.Command("systemd-analyze", "syscall-filter", "--no-pager", name).Output()
		if err != nil {
			t.Fatalf("system-call group %s: %v", name, err)
		}
		var calls []string
		for _, line := range strings.Split(string(out), "\n")[1:] {
			if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
				calls = append(calls, expand(line)...)
			}
		}
		return calls
	}
	allowed := map[string]bool{}
	for _, line := range regexp.MustCompile(`(?m)^SystemCallFilter=(~?)(.*)$`).FindAllStringSubmatch(unit, -1) {
		for _, name := range strings.Fields(line[2]) {
			for _, call := range expand(name) {
				allowed[call] = line[1] == ""
			}
		}
	}
	if len(allowed) < 100 {
		t.Fatalf("only %d system calls", len(allowed))
	}
	return allowed
}

// TestTheDaemonNeedsNothingThatIsForbidden watches the calls of a daemon that
// signs with libcrypto, tells systemd how it is, reloads and stops, and holds
// them against the unit: its system calls, memory both written and run, and
// address families. Its keys are in a directory and, as SQLite has ways of its
// own, in a database.
func TestTheDaemonNeedsNothingThatIsForbidden(t *testing.T) {
	programs(t, "strace", "systemd-analyze")
	program := filepath.Join(t.TempDir(), "waxseal")
	c := exec.Command("go", "build", "-trimpath", "-o", program, "waxseal/cmd/waxseal")
	c.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	for _, kind := range []string{"dir", "sqlite"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			needsNothingThatIsForbidden(t, program, kind+":"+filepath.Join(t.TempDir(), "keys"))
		})
	}
}

func needsNothingThatIsForbidden(t *testing.T, program, keys string) {
	unit := read(t, "waxseal.service")
	allowed := allowedCalls(t, unit)
	dir := t.TempDir()
	run := func(args ...string) []byte {
		t.Helper()
		out, err := exec.Command(program, args...).Output()
		if err != nil {
			t.Fatalf("waxseal %s: %v", strings.Join(args, " "), err)
		}
		return out
	}
	config := filepath.Join(dir, "waxseal.toml")
	if err := os.WriteFile(config, []byte("[dns]\nresolvers = [\"127.0.0.1:9\"]\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	flags := []string{"--config", config, "--keystore", keys}
	var made []struct{ Selector string }
	if err := json.Unmarshal(run(append([]string{"key", "new", "example.com", "--json"}, flags...)...), &made); err != nil || len(made) != 1 {
		t.Fatal(made, err)
	}
	run(append([]string{"key", "activate", "example.com", made[0].Selector, "--force", "--reason", "tested"}, flags...)...)

	notify := filepath.Join("/tmp", "wx"+rand.Text()[:8])
	told, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: notify, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer os.Remove(notify)
	defer told.Close()
	say := make(chan string, 100)
	go func() {
		defer close(say)
		for b := make([]byte, 4096); ; {
			n, err := told.Read(b)
			if err != nil {
				return
			}
			say <- string(b[:n])
		}
	}()
	trace, socket := filepath.Join(dir, "trace"), notify+".sock"
	defer os.Remove(socket)
	c := exec.Command("strace", append([]string{"-f", "-qq", "-o", trace, program, "serve", "--listen", "unix:" + socket}, flags...)...)
	c.Env = append(os.Environ(), "NOTIFY_SOCKET="+notify, "WATCHDOG_USEC=200000")
	var log bytes.Buffer
	c.Stderr = &log
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- c.Wait() }()
	defer func() { _ = syscall.Kill(-c.Process.Pid, syscall.SIGKILL) }()
	tells := func(what string) {
		t.Helper()
		for deadline := time.After(60 * time.Second); ; {
			select {
			case s := <-say:
				if strings.Contains(s, what) {
					return
				}
			case err := <-ended:
				t.Fatalf("the daemon ended: %v\n%s", err, log.String())
			case <-deadline:
				t.Fatalf("the daemon did not say %s", what)
			}
		}
	}
	tells("READY=1")
	tells("WATCHDOG=1")
	if err := signed(socket); err != nil {
		t.Error(err)
	}
	if err := syscall.Kill(-c.Process.Pid, syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	tells("RELOADING=1")
	tells("READY=1")
	if err := syscall.Kill(-c.Process.Pid, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	<-ended

	call := regexp.MustCompile(`^\d+ +([a-z_0-9]+)\((.*)`)
	seen, families := map[string]bool{}, regexp.MustCompile(`(?m)^RestrictAddressFamilies=(.*)$`).FindStringSubmatch(unit)[1]
	for line := range strings.Lines(read(t, trace)) {
		found := call.FindStringSubmatch(line)
		if found == nil {
			continue
		}
		name, arguments := found[1], found[2]
		if !seen[name] && !allowed[name] {
			t.Errorf("the filter forbids: %s", line)
		}
		seen[name] = true
		family, _, _ := strings.Cut(arguments, ",")
		switch {
		case name == "mmap" && strings.Contains(arguments, "PROT_WRITE|PROT_EXEC"), name == "mprotect" && strings.Contains(arguments, "PROT_EXEC"):
			t.Errorf("MemoryDenyWriteExecute= forbids: %s", line)
		case name == "socket" && !slices.Contains(strings.Fields(families), family):
			t.Errorf("RestrictAddressFamilies= forbids: %s", line)
		}
	}
	if !seen["mmap"] || !seen["socket"] || !seen["sendto"] && !seen["sendmsg"] && !seen["write"] {
		t.Errorf("the trace has only %d calls", len(seen))
	}
}

// signed has a message signed.
func signed(socket string) error {
	session, err := milter.NewClient("unix", socket).Session(milter.NewMacroBag())
	if err != nil {
		return err
	}
	defer session.Close()
	if _, err := session.Conn("localhost", milter.FamilyInet, 1234, "127.0.0.1"); err != nil {
		return err
	}
	if _, err := session.Helo("localhost"); err != nil {
		return err
	}
	if _, err := session.Mail("ann@example.com", ""); err != nil {
		return err
	}
	if _, err := session.Rcpt("bob@example.net", ""); err != nil {
		return err
	}
	if _, err := session.DataStart(); err != nil {
		return err
	}
	if _, err := session.HeaderField("From", " ann@example.com", nil); err != nil {
		return err
	}
	if _, err := session.HeaderEnd(); err != nil {
		return err
	}
	modifications, _, err := session.BodyReadFrom(strings.NewReader("hello\r\n"))
	if err != nil {
		return err
	}
	for _, m := range modifications {
		if m.HeaderName == "DKIM-Signature" {
			return nil
		}
	}
	return errors.New("the message was not signed")
}
