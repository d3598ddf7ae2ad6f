package e2e

import (
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// devAddress is where "serve --dev" listens.
const devAddress = "127.0.0.1:8891"

// devPortFree needs the port that "serve --dev" takes.
func devPortFree() error {
	for deadline := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		l, err := net.Listen("tcp4", devAddress)
		if err == nil {
			return l.Close()
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("the port of serve --dev is taken by another program: %w", err)
		}
	}
}

// TestDevNeedsNoSetUp runs the first command of the README in an empty
// directory, and does what it prints, as it is printed.
func TestDevNeedsNoSetUp(t *testing.T) {
	require(t, devPortFree, installed("bash", "bash"))
	dir := shortDir(t)
	d := serve(t, daemonOptions{prepare: func(c *exec.Cmd) { c.Dir = dir }}, "--dev", "example.com")
	printed := d.stdout.String()

	t.Run("it prints the records of its keys", func(t *testing.T) {
		want := command(t, "dns", "show", "example.com", "--keystore", filepath.Join(dir, "waxseal-dev"))
		if strings.Count(want, "._domainkey") != 2 || !strings.Contains(printed, want) {
			t.Errorf("printed:\n%s\nwant in it what dns show prints, of two keys:\n%s", printed, want)
		}
	})
	t.Run("it prints how to wire the mail server", func(t *testing.T) {
		for _, line := range []string{
			"smtpd_milters = inet:" + devAddress,
			"non_smtpd_milters = inet:" + devAddress,
			"INPUT_MAIL_FILTER(`waxseal', `S=inet:8891@127.0.0.1, F=T, T=S:30s;R:30s;E:5m')",
		} {
			if !strings.Contains(printed, "\n"+line+"\n") {
				t.Errorf("no line %q in:\n%s", line, printed)
			}
		}
	})
	t.Run("the line to try it signs and verifies", func(t *testing.T) { tryDevLine(t, dir, printed) })
	t.Run("it keeps its keys", func(t *testing.T) {
		d.stop(t)
		again := serve(t, daemonOptions{prepare: func(c *exec.Cmd) { c.Dir = dir }}, "--dev", "example.com")
		if got := again.stdout.String(); got != printed {
			t.Errorf("the second run prints:\n%s\nthe first printed:\n%s", got, printed)
		}
		again.stop(t)
	})
	t.Run("the printed lines make Postfix sign", func(t *testing.T) {
		require(t, postfixNeeds...)
		require(t, dkimpyInstalled)
		d := serve(t, daemonOptions{prepare: func(c *exec.Cmd) { c.Dir = dir }}, "--dev", "example.com")
		lines := regexp.MustCompile(`(?m)^(smtpd_milters|non_smtpd_milters|milter_default_action) = .*$`).FindAllString(printed, -1)
		if len(lines) != 3 {
			t.Fatalf("%d lines for main.cf, want 3:\n%s", len(lines), printed)
		}
		p := startPostfix(t, strings.Join(lines, "\n"), service{"smtp", nil})
		box, text := p.box(), plain("me@example.com", "walk-through")
		if err := smtp(t, p.address("smtp")).send(envelope{from: "me@example.com", to: []string{box}}, text); err != nil {
			t.Fatal(err)
		}
		keys := &keystore{dir: filepath.Join(dir, "waxseal-dev"), records: filepath.Join(dir, "records.tsv"), txt: map[string]string{}, made: []string{"example.com"}}
		keys.publish(t)
		m := p.one(t, box)
		checkSigned(t, keys, m, "example.com")
		checkUnchanged(t, text, m, 2)
		d.stop(t)
	})
}

// tryDevLine runs the printed line to try it by a shell.
func tryDevLine(t *testing.T, dir, printed string) {
	t.Helper()
	line := regexp.MustCompile(`(?m)^printf .*$`).FindString(printed)
	if line == "" {
		t.Fatalf("no line to try it:\n%s", printed)
	}
	try := exec.CommandContext(t.Context(), "bash", "-c", line)
	try.Dir = dir
	out, err := try.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", line, err, out)
	}
	for _, want := range []string{
		`(?m)^pass d=example.com s=\S+ a=rsa-sha256 bits=2048$`,
		`(?m)^pass d=example.com s=\S+ a=ed25519-sha256 bits=256$`,
		`(?m)^DKIM-Signature: v=1; a=rsa-sha256;`,
		`(?m)^From: me@example.com$`,
		`(?m)^Subject: hello$`,
		`(?m)^It works.$`,
	} {
		if !matches(string(out), want) {
			t.Errorf("no %s in what the line prints:\n%s\n%s", want, line, out)
		}
	}
}

// TestREADMECommandRunsInAClone takes a copy of the source and runs the
// README's command in it as written.
func TestREADMECommandRunsInAClone(t *testing.T) {
	require(t, devPortFree, installed("bash", "bash"))
	clone := shortDir(t)
	copySource(t, "../../..", clone)

	run := exec.Command("go", "run", "./cmd/waxseal", "serve", "--dev", "example.com")
	run.Dir = clone
	var stdout, log transcript
	run.Stdout, run.Stderr = &stdout, &log
	ended := startGroup(t, run, func() string { return stdout.String() + log.String() })
	eventually(t, "go run says that the daemon has started", func() bool {
		select {
		case <-ended:
			t.Fatalf("go run ended: %v", run.ProcessState)
		default:
		}
		return strings.Contains(log.String(), "msg=started")
	})
	tryDevLine(t, clone, stdout.String())
}

// copySource copies what a clone of the repository has.
func copySource(t *testing.T, from, to string) {
	t.Helper()
	notCloned := []string{".git", "waxseal", "waxseal-dev"} // the latter two by "make" and the README's command
	err := filepath.WalkDir(from, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		target := filepath.Join(to, name)
		switch {
		case name == ".":
			return nil
		case slices.Contains(notCloned, name) && e.IsDir():
			return fs.SkipDir
		case slices.Contains(notCloned, name) || !e.IsDir() && !e.Type().IsRegular():
			return nil
		case e.IsDir():
			return os.Mkdir(target, 0o755)
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(target, text, 0o644)
	})
	if err != nil {
		t.Fatal(err)
	}
}
