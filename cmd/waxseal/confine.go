package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"waxseal/cmd/waxseal/internal/landlock"
	"waxseal/milter"
)

// confinedVariable hands the confinement over to the program that the process
// becomes when it has confined itself.
const confinedVariable = "WAXSEAL_CONFINED"

// errNotKept is why a setting cannot be taken by a reload.
var errNotKept = errors.New("needs what the daemon has shut itself out of at its start (confine.landlock)")

// confinement is how a process has confined itself. The zero value is one that
// was never asked to.
type confinement struct {
	PID   int // whose it is; 0: the process is not confined
	ABI   int
	Rules landlock.Rules

	why    string // it is not
	wanted bool   // it should have been
}

// confine gives up all that the daemon will not need, once the configuration is
// known, and has the process become this program again: then it returns for the
// second time round. It also returns, with a.confined.why, when that cannot or
// shall not be done, and with an error when serve could not do its work either.
//
// The process keeps its id, so sockets, watchdog and notifications of systemd
// stay its own. It comes before any signal is caught: one to stop ends the
// process between its two lives, too.
func (a *app) confine(listen []string, dev string) error {
	if !a.ownProcess {
		return nil
	}
	handed, ok := os.LookupEnv(confinedVariable)
	os.Unsetenv(confinedVariable)
	if ok {
		if c := parseConfinement(handed); c.PID == os.Getpid() { // and not left over from another process
			a.confined = c
			return nil
		}
	}
	why, wanted, err := a.tryConfine(listen, dev)
	a.confined = confinement{why: why, wanted: wanted}
	return err
}

func parseConfinement(text string) (c confinement) {
	if err := json.Unmarshal([]byte(text), &c); err != nil {
		return confinement{}
	}
	return c
}

// tryConfine returns why the process is not confined, and whether somebody should
// do something about it.
func (a *app) tryConfine(listen []string, dev string) (why string, wanted bool, err error) {
	if dev != "" {
		return "--dev is for trying things", false, nil
	}
	if a.configFile != "" && !readableAgain(a.configFile) {
		return fmt.Sprintf("%s is no file that could be read twice", a.configFile), true, nil
	}
	config, err := a.serveConfig(listen, dev)
	if err != nil {
		return "", false, err
	}
	if config.Confine.Landlock == landlockOff {
		return "confine.landlock is off", false, nil
	}
	abi, err := landlock.ABI()
	if err != nil {
		return err.Error(), !errors.Is(err, landlock.ErrAbsent), nil
	}
	// Mistakes are told in the words of one who can look at everything.
	if _, err := buildSettings(config); err != nil {
		return "", false, err
	}
	if err := checkListeners(config); err != nil {
		return "", false, err
	}
	makeSocketDirectories(config)
	program, err := ownProgram()
	if err != nil {
		return err.Error(), true, nil
	}
	c := confinement{PID: os.Getpid(), ABI: abi, Rules: confineRules(config, program)}
	c.Rules.Paths = slices.DeleteFunc(c.Rules.Paths, absent) // there is no right to these
	text, err := json.Marshal(c)
	if err != nil {
		return err.Error(), true, nil
	}
	signal.Ignore(syscall.SIGHUP) // the configuration will be read again anyway
	err = landlock.Exec(c.Rules, program, os.Args, append(os.Environ(), confinedVariable+"="+string(text)))
	signal.Reset(syscall.SIGHUP)
	return err.Error(), true, nil
}

// readableAgain says whether a file has the same content when it is read again,
// which a pipe has not.
func readableAgain(path string) bool {
	info, err := os.Stat(path)
	return err != nil || info.Mode().IsRegular() // an error will be told by who reads it
}

// makeSocketDirectories makes the directories of sockets that are missing, since
// only what exists can be left to the daemon. What goes wrong will be told when
// the sockets are opened.
func makeSocketDirectories(d *decoded) {
	listeners := toOpen(d)
	for _, name := range sortedKeys(listeners) {
		if c := listeners[name]; c.Address.Network == "unix" {
			if o, err := socketOptions(c); err == nil {
				_ = milter.MakeDirectory(filepath.Dir(c.Address.Address.Address), o)
			}
		}
	}
}

// absent says whether there is nothing at a path.
func absent(p landlock.Path) bool {
	_, err := os.Stat(p.Path)
	return err != nil
}

// ownProgram is the file that this process runs: by its name, which the process
// is then called by, unless that leads to another one by now.
func ownProgram() (string, error) {
	const self = "/proc/self/exe"
	running, err := os.Stat(self)
	if err != nil {
		return "", err
	}
	if name, err := os.Executable(); err == nil {
		if there, err := os.Stat(name); err == nil && os.SameFile(running, there) {
			return name, nil
		}
	}
	return self, nil
}

// tell logs how the process is confined. It returns an error when it is not, and
// has to be.
func (c *confinement) tell(d *decoded, log *slog.Logger) error {
	switch {
	case c.PID != 0:
		log.Info("confined by Landlock", c.logged()...)
		return nil
	case d.Confine.Landlock == landlockRequire:
		return problems{d.problem("confine.landlock", fmt.Errorf("the daemon cannot confine itself: %s", c.why), `"auto" does without where it must`)}
	case c.wanted:
		log.Warn("not confined", "why", c.why)
	case c.why != "":
		log.Info("not confined", "why", c.why)
	}
	return nil
}

// logged has what the configuration asked for. What every program here needs is
// left to "waxseal check".
func (c *confinement) logged() []any {
	attrs := []any{"abi", c.ABI}
	for _, kind := range []struct {
		name   string
		access landlock.Access
	}{{"write", landlock.Write}, {"sockets", landlock.Sockets}, {"run", landlock.Execute}, {"read", landlock.Read}} {
		var paths []string
		for _, p := range c.Rules.Paths {
			most := landlock.Write | landlock.Execute
			if p.Access&kind.access == 0 || kind.access == landlock.Read && p.Access&most != 0 || slices.Contains(paths, p.Path) || !ofConfiguration(p.For) {
				continue
			}
			paths = append(paths, p.Path)
		}
		if len(paths) > 0 {
			attrs = append(attrs, kind.name, strings.Join(paths, ","))
		}
	}
	for _, kind := range []struct {
		name  string
		ports []landlock.Port
		any   bool
	}{{"listen_tcp", c.Rules.Bind, false}, {"connect_tcp", c.Rules.Connect, c.Rules.AnyConnect}} {
		switch {
		case kind.any:
			attrs = append(attrs, kind.name, "any")
		case portList(kind.ports) != "":
			attrs = append(attrs, kind.name, portList(kind.ports))
		}
	}
	return attrs
}

// ofConfiguration says whether a rule is there because of a setting.
func ofConfiguration(why string) bool {
	return why == forConfigFile || why == forCommands || strings.Contains(why, ".")
}

func portList(ports []landlock.Port) string {
	var names []string
	for _, p := range ports {
		if name := strconv.Itoa(int(p.Port)); p.For != forRuntime && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return strings.Join(names, ",")
}

// allows refuses a reloaded configuration that needs what the process has given
// up.
func (c *confinement) allows(d *decoded) error {
	if c.PID == 0 {
		return nil
	}
	program, err := ownProgram()
	if err != nil {
		return err
	}
	found := beyond(&c.Rules, d, program)
	if len(found) > 0 {
		return found
	}
	return nil
}

// explain adds to the problems of a reload that a file may be closed to us only
// because it took the place of another since the start.
func (c *confinement) explain(found problems) {
	for _, p := range found {
		if c.PID != 0 && errors.Is(p.err, fs.ErrPermission) {
			p.remedy = "if its mode is right, restart the daemon: it may only have what was there at its start (confine.landlock)"
		}
	}
}
