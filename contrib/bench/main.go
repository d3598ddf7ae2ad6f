//go:build linux

// Command bench measures waxseal beside the other DKIM milters that are
// installed on this machine: OpenDKIM, rspamd and dkimpy-milter.
//
// It builds waxseal, with and without libcrypto, gives every milter the same
// keys and comparable settings, starts each in a temporary directory of its
// own, and sends them the same messages by turns, as Postfix does. Samples
// of the signatures are verified. What it starts, it stops. README.md in this
// directory says what the figures mean, and what they do not.
//
// It needs Linux, for the CPU clocks of processes. Run it in the module's root:
//
//	go run ./contrib/bench
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

func main() {
	syscall.Umask(0o022) // Postfix's user has to reach sockets and configuration
	o := parse(os.Args[1:])
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, o, os.Stdout, os.Stderr)
	if ctx.Err() != nil {
		err = errors.New("interrupted")
	}
	stop()
	if err != nil {
		fmt.Fprintf(os.Stderr, "bench: %v\n", err)
		os.Exit(1)
	}
}

// options are the command line.
type options struct {
	args                   []string
	quick, memory, postfix bool
	only                   []string // nil for all
	json                   string
}

// parse ends the program when the command line is wrong.
func parse(args []string) options {
	o := options{args: args}
	flags := flag.NewFlagSet("bench", flag.ExitOnError)
	flags.BoolVar(&o.quick, "quick", false, "a minute instead of seven: fewer and shorter rounds, and TCP for the first comparison only")
	flags.BoolVar(&o.memory, "memory", false, "also measure the memory of connections held in the middle of a large message")
	flags.BoolVar(&o.postfix, "postfix", false, "also measure what each milter adds to a message's way through a private Postfix; needs root")
	flags.Func("only", "of the other milters only those with these comma-separated `names`: OpenDKIM, rspamd, dkimpy-milter", func(names string) error {
		o.only = strings.Split(names, ",")
		for _, name := range o.only {
			if !slices.ContainsFunc(peers, func(p peer) bool { return p.name == name }) {
				return fmt.Errorf("no milter is called %q here", name)
			}
		}
		return nil
	})
	flags.StringVar(&o.json, "json", "", "also write everything to this `file`")
	_ = flags.Parse(args) // it exits
	misuse := ""
	switch {
	case flags.NArg() > 0:
		misuse = fmt.Sprintf("unexpected argument %q", flags.Arg(0))
	case o.postfix && os.Geteuid() != 0:
		misuse = "-postfix needs root, as Postfix does"
	}
	if misuse != "" {
		fmt.Fprintf(os.Stderr, "bench: %s\n", misuse)
		os.Exit(2)
	}
	return o
}

func run(ctx context.Context, o options, stdout, stderr io.Writer) error {
	dir, err := os.MkdirTemp("", "waxseal-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil { // Postfix's user has to get in
		return err
	}
	k, err := newKeys(dir)
	if err != nil {
		return err
	}
	programs, err := buildWaxseal(ctx, dir)
	if err != nil {
		return err
	}
	others, missing := installed()
	if o.only != nil {
		others = slices.DeleteFunc(others, func(p *program) bool { return !slices.Contains(o.only, p.name) })
	}
	programs = append(programs, others...)

	p := pace{rounds: 7, turn: time.Second}
	if o.quick {
		p = pace{rounds: 3, turn: 400 * time.Millisecond}
	}
	r := &report{
		Command: strings.Join(append([]string{"go run ./contrib/bench"}, o.args...), " "),
		Machine: thisMachine(),
		Missing: missing,
		Rounds:  p.rounds,
		Turn:    p.turn.Seconds(),
	}
	for _, p := range programs {
		r.Programs = append(r.Programs, version{p.name, p.version, p.path})
	}
	if o.postfix {
		if r.Machine.Postfix, err = postfixVersion(); err != nil {
			return err
		}
	}
	r.printHead(stdout)
	if load, err := strconv.ParseFloat(r.Machine.LoadBefore, 64); err == nil && load > 0.5 {
		fmt.Fprintf(stderr, "bench: the machine is busy already (load average %s), so the figures will be worse than they should\n", r.Machine.LoadBefore)
	}
	if err := r.measure(ctx, o, dir, k, programs, p, stdout); err != nil {
		return err
	}
	if o.json != "" {
		if err := r.writeFile(o.json); err != nil {
			return err
		}
	}
	return r.ourFailure()
}

// measure fills the report and prints each part as soon as it is there.
func (r *report) measure(ctx context.Context, o options, dir string, k *keys, programs []*program, p pace, stdout io.Writer) error {
	for _, transport := range []string{"unix", "tcp"} {
		for i, w := range works {
			if o.quick && transport == "tcp" && i > 0 {
				break
			}
			t, err := compare(ctx, dir, k, programs, w, transport, p)
			if err != nil {
				return err
			}
			t.print(stdout)
			r.Tables = append(r.Tables, t)
		}
	}
	r.printSummary(stdout)
	if o.memory {
		for _, program := range programs {
			r.Holdings = append(r.Holdings, hold(ctx, dir, k, program, "unix"))
		}
		r.printHoldings(stdout)
	}
	if o.postfix {
		var err error
		if r.Behind, err = behindPostfix(ctx, dir, k, programs, p); err != nil {
			return err
		}
		r.printBehind(stdout)
	}
	return ctx.Err()
}

func postfixVersion() (string, error) {
	postfix, err := findBinary("postfix")
	if err != nil {
		return "", fmt.Errorf("-postfix: %w", err)
	}
	return firstLine(filepath.Join(filepath.Dir(postfix), "postconf"), "-d", "-h", "mail_version")
}
