// Command waxseal signs outgoing mail with DKIM as a milter for Postfix and
// Sendmail, and looks after the keys it signs with.
//
// A file here is a command family; config*.go hold the configuration and
// build.go turns it into live objects. Results go to standard output,
// everything else to standard error; the exit status is 0 for done, 1 for
// findings or failure, 2 for misuse.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

const (
	exitDone   = 0
	exitFailed = 1
	exitMisuse = 2
)

func main() {
	a := &app{stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr, now: time.Now, ownProcess: true}
	os.Exit(a.run(os.Args[1:]))
}

// app is one run of the program: its streams, clock and common flags.
type app struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	now            func() time.Time

	configFile string // --config
	keystore   string // --keystore
	json       bool   // --json
	dryRun     bool   // --dry-run

	ownProcess bool        // the process is ours alone, and may be replaced
	confined   confinement // that of the process

	started bool // a command's own work has begun, so errors are no misuse

	opened []io.Closer // keystores, which are closed when the command ends
}

// run executes one command line and returns the exit status.
func (a *app) run(args []string) int {
	defer a.closeStores()
	root := a.rootCommand()
	root.SetArgs(args)
	root.SetIn(a.stdin)
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	command, err := root.ExecuteC()
	switch {
	case err == nil:
		return exitDone
	case errors.Is(err, errFindings):
		return exitFailed
	}
	a.report(err)
	if a.started && !errors.As(err, new(misuse)) {
		return exitFailed
	}
	fmt.Fprintf(a.stderr, "waxseal: hint: run \"%s --help\"\n", command.CommandPath())
	return exitMisuse
}

// errFindings ends a command that has already said what it found.
var errFindings = errors.New("findings")

// report prints an error, and each hint it carries, line by line.
func (a *app) report(err error) {
	var many problems
	if errors.As(err, &many) {
		for _, p := range many {
			a.report(p)
		}
		return
	}
	for line := range strings.Lines(err.Error()) {
		fmt.Fprintf(a.stderr, "waxseal: %s\n", strings.TrimRight(line, "\n"))
	}
	var hint interface{ Hint() string }
	if errors.As(err, &hint) {
		for line := range strings.Lines(hint.Hint()) {
			fmt.Fprintf(a.stderr, "waxseal: hint: %s\n", strings.TrimRight(line, "\n"))
		}
	}
}

// hinted is an error with a remedy.
type hinted struct {
	error
	hint string
}

func (h hinted) Hint() string  { return h.hint }
func (h hinted) Unwrap() error { return h.error }

func withHint(err error, format string, args ...any) error {
	return hinted{err, fmt.Sprintf(format, args...)}
}

// misuse is an error in the words of the command line.
type misuse struct{ error }

func (m misuse) Unwrap() error { return m.error }

// misused makes an error a misuse.
func misused(err error) error {
	if err == nil {
		return nil
	}
	return misuse{err}
}

// notice prints a line of conversation to standard error.
func (a *app) notice(format string, args ...any) {
	fmt.Fprintf(a.stderr, "waxseal: "+format+"\n", args...)
}

// printJSON prints a result as indented JSON.
func (a *app) printJSON(v any) error {
	e := json.NewEncoder(a.stdout)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

func (a *app) rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "waxseal",
		Short: "DKIM signing milter for Postfix and Sendmail",
		Long: `waxseal signs outgoing mail with DKIM as a milter for Postfix and Sendmail, and
looks after the keys it signs with.`,
		Example: `  waxseal serve --dev example.com      # run with no set-up at all
  waxseal key new example.com          # make a key and print its DNS record
  waxseal check                        # find what is wrong with the set-up`,
		Version:       version(),
		SilenceErrors: true,
		SilenceUsage:  true,
		PersistentPreRun: func(*cobra.Command, []string) {
			a.started = true
		},
	}
	root.CompletionOptions.HiddenDefaultCmd = false
	root.AddCommand(
		a.serveCommand(),
		a.keyCommand(),
		a.dnsCommand(),
		a.keepCommand(),
		a.rotateCommand(),
		a.signCommand(),
		a.verifyCommand(),
		a.explainCommand(),
		a.checkCommand(),
		a.doctorCommand(),
		a.configCommand(),
		a.importCommand(),
		a.manualCommand(),
		a.storeCommand(),
	)
	return root
}

// group is a command that only has commands below it.
func group(name, short string, commands ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{
		Use:   name,
		Short: short,
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, args []string) error {
			return c.Help()
		},
	}
	c.AddCommand(commands...)
	return c
}

func (a *app) configFlag(c *cobra.Command) {
	c.Flags().StringVar(&a.configFile, "config", "", "configuration `file` (default "+defaultConfigFile+")")
}

func (a *app) storeFlags(c *cobra.Command) {
	a.configFlag(c)
	c.Flags().StringVar(&a.keystore, "keystore", "", "keystore `url`, such as dir:/var/lib/waxseal/keys or sqlite:/var/lib/waxseal/keys.db (default: as configured)")
}

func (a *app) jsonFlag(c *cobra.Command) {
	c.Flags().BoolVar(&a.json, "json", false, "print the result as JSON")
}

// flags returns the flags that lead another command to the same keystore, for
// commands that are shown to be copied.
func (a *app) flags() string {
	switch {
	case a.keystore != "":
		return " --keystore " + shellArgument(a.keystore)
	case a.configFile != "":
		return " --config " + a.configFile
	}
	return ""
}

// shellArgument quotes an argument, where it must be, for commands that are shown
// to be copied.
func shellArgument(s string) string {
	if strings.ContainsAny(s, " \t\n?*&;|<>()[]{}$`\"'\\!#~") {
		return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
	}
	return s
}

// release is the version of the package that the program is in, which the linker
// puts here.
var release string

// version is what the build recorded of its own origin.
func version() string {
	if release != "" {
		return release + " " + runtime.Version()
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	v := info.Main.Version
	if v == "" || v == "(devel)" {
		v = "development"
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" && len(s.Value) >= 12 {
				v += " " + s.Value[:12]
			}
		}
	}
	return v + " " + info.GoVersion
}
