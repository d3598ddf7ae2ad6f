package dns

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
	"unicode"
)

const (
	// hookTimeout is long enough for the web interface of a slow provider.
	hookTimeout = 2 * time.Minute

	// hookLinger is how long we wait for the end of the output of a command
	// that has ended but left a child behind.
	hookLinger = 2 * time.Second

	maxHookOutput = 4096 // octets of its error output that are kept
	maxHookLines  = 3    // of these, in the error

	// hookPath is for a process that has no PATH itself.
	hookPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
)

// Hook publishes by running a command, for everything that takes no updates
// after RFC 2136. It may be used by many goroutines.
//
// The command is run without a shell. Its environment has PATH, HOME and LANG
// of ours, if set, and
//
//	WAXSEAL_ACTION    publish or delete
//	WAXSEAL_NAME      the record's name, without the final dot
//	WAXSEAL_TYPE      TXT
//	WAXSEAL_DOMAIN    the signing domain
//	WAXSEAL_SELECTOR  the selector
//	WAXSEAL_TTL       seconds
//	WAXSEAL_RECORD    the value in one piece, unquoted; empty for delete
//
// and nothing else. On its standard input is the record as a line of a zone
// file, for delete nothing. It must replace the TXT records that are at the
// name, must bear to be run again, and ends with 0 only when the primary shows
// the change. Its standard output is thrown away; the first lines of its error
// output are in the error when it ends otherwise.
type Hook struct {
	Command []string // program and arguments

	// Timeout of one run, after which the command and its children, which are
	// in a process group of their own, are killed. Default 2 minutes.
	Timeout time.Duration
}

// Publish implements Publisher. When ctx ends, the command is killed.
func (h *Hook) Publish(ctx context.Context, c Change) error {
	if err := c.check(); err != nil {
		return err
	}
	if len(h.Command) == 0 || h.Command[0] == "" {
		return errors.New("the hook has no command")
	}
	timeout := h.Timeout
	if timeout <= 0 {
		timeout = hookTimeout
	}
	err := RunCommand(ctx, h.Command, timeout, hookEnvironment(&c), hookInput(&c))
	var failed *CommandError
	if errors.As(err, &failed) {
		return &PublishError{Name: c.Name, Server: "hook " + failed.Program, Problem: failed.Problem, Remedy: failed.Remedy, Err: failed.Err}
	}
	return err
}

// CommandError says why a command did not do its work.
type CommandError struct {
	Program string
	Problem string // with the first lines of its error output
	Remedy  string // may be empty
	Err     error
}

func (e *CommandError) Error() string {
	text := e.Program + ": " + e.Problem
	if e.Remedy != "" {
		text += "; " + e.Remedy
	}
	return text
}

func (e *CommandError) Unwrap() error { return e.Err }

// RunCommand runs a command as a Hook does: without a shell, in a process group
// of its own that is killed when ctx or the timeout ends, with PATH, HOME and
// LANG of ours and the given variables (NAME=value) as its environment. The
// error is a *CommandError unless the command ended with 0.
func RunCommand(ctx context.Context, command []string, timeout time.Duration, environment []string, input string) error {
	run, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	cmd := exec.CommandContext(run, command[0], command[1:]...)
	cmd.Env = append(ownEnvironment(), environment...)
	cmd.Stdin = strings.NewReader(input)
	var output boundedBuffer
	cmd.Stderr = &output
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = hookLinger
	err := cmd.Run()
	e := &CommandError{Program: command[0], Err: err}
	switch {
	case cmd.ProcessState != nil && cmd.ProcessState.Success():
		// Also when it left a child behind that holds its error output open
		// (exec.ErrWaitDelay).
		return nil
	case ctx.Err() != nil:
		e.Problem, e.Err = "interrupted, the command was killed", ctx.Err()
	case run.Err() != nil:
		e.Problem, e.Err = fmt.Sprintf("did not end in %v and was killed", timeout), run.Err()
	case cmd.ProcessState == nil:
		e.Problem = fmt.Sprintf("cannot be run: %v", err)
		e.Remedy = "give the whole path of a program that the user we run as may execute"
	default:
		e.Problem = err.Error()
	}
	if lines := output.lines(); lines != "" {
		e.Problem += ": " + lines
	}
	return e
}

func hookEnvironment(c *Change) []string {
	action := "publish"
	if c.Record == "" {
		action = "delete"
	}
	return []string{
		"WAXSEAL_ACTION=" + action,
		"WAXSEAL_NAME=" + c.Name,
		"WAXSEAL_TYPE=TXT",
		"WAXSEAL_DOMAIN=" + c.Domain,
		"WAXSEAL_SELECTOR=" + c.Selector,
		fmt.Sprintf("WAXSEAL_TTL=%d", int64(c.ttl()/time.Second)),
		"WAXSEAL_RECORD=" + c.Record,
	}
}

// ownEnvironment is the part of our environment that commands get.
func ownEnvironment() []string {
	var env []string
	for name, missing := range map[string]string{"PATH": hookPath, "HOME": "", "LANG": ""} {
		if v := os.Getenv(name); v != "" {
			env = append(env, name+"="+v)
		} else if missing != "" {
			env = append(env, name+"="+missing)
		}
	}
	return env
}

// hookInput is absolute and has its own TTL, so that it can go into any zone
// file.
func hookInput(c *Change) string {
	if c.Record == "" {
		return ""
	}
	return fmt.Sprintf("%s. %d IN TXT ( %s )\n", c.Name, int64(c.ttl()/time.Second), quoted(c.Record))
}

// boundedBuffer keeps the beginning of what is written to it and takes the
// rest, so that the writer is not held up.
type boundedBuffer struct{ kept []byte }

func (b *boundedBuffer) Write(p []byte) (int, error) {
	b.kept = append(b.kept, p[:min(len(p), maxHookOutput-len(b.kept))]...)
	return len(p), nil
}

// lines returns the first lines that are not empty as one, without what would
// change a terminal or a log.
func (b *boundedBuffer) lines() string {
	var lines []string
	for line := range strings.Lines(string(b.kept)) {
		line = strings.Map(func(c rune) rune {
			if !unicode.IsPrint(c) {
				return '?'
			}
			return c
		}, strings.TrimSpace(line))
		if line != "" {
			lines = append(lines, line)
		}
		if len(lines) == maxHookLines {
			break
		}
	}
	return strings.Join(lines, " / ")
}
