//go:build linux

package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// site is what a milter needs to know to be set up: it signs for the domain with
// the algorithms' keys, listens at the address, and keeps its files in a
// directory of its own.
type site struct {
	dir        string
	at         address
	keys       *keys
	algorithms []algorithm
}

func (s *site) has(a algorithm) bool { return slices.Contains(s.algorithms, a) }

// write makes a file in the site's directory and returns its path.
func (s *site) write(name, content string) (string, error) {
	path := filepath.Join(s.dir, name)
	return path, os.WriteFile(path, []byte(content), 0o644)
}

// program is a milter to be measured.
type program struct {
	name    string
	ours    bool
	path    string
	version string
	// setUp writes the configuration and returns the command line of the
	// program in the foreground.
	setUp func(ctx context.Context, path string, s *site) ([]string, error)
}

// peer is a milter of others, which may be installed.
type peer struct {
	program
	binary  string
	install string                            // how to get it
	ask     func(path string) (string, error) // for its version
}

var peers = []peer{
	{
		program{name: "OpenDKIM", setUp: setUpOpenDKIM},
		"opendkim", "apt-get install opendkim",
		func(path string) (string, error) {
			line, err := firstLine(path, "-V")
			return strings.TrimPrefix(line, "opendkim: "), err
		},
	},
	{
		program{name: "rspamd", setUp: setUpRspamd},
		"rspamd", "apt-get install rspamd (rspamd.com has newer ones)",
		func(path string) (string, error) { return firstLine(path, "--version") },
	},
	{
		program{name: "dkimpy-milter", setUp: setUpDkimpy},
		"dkimpy-milter", "apt-get install dkimpy-milter",
		dkimpyVersion,
	},
}

// dkimpyVersion asks the Python that runs the milter, which cannot tell its
// version itself.
func dkimpyVersion(path string) (string, error) {
	script, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	line, _, _ := strings.Cut(string(script), "\n")
	python, ok := strings.CutPrefix(line, "#!")
	if !ok {
		return "", fmt.Errorf("%s is no script", path)
	}
	return firstLine(strings.TrimSpace(python), "-c",
		"import dkimpy_milter, importlib.metadata; print(dkimpy_milter.__version__, 'with dkimpy', importlib.metadata.version('dkimpy'))")
}

// installed returns the peers that are on this machine, and says of the others
// how to get them.
func installed() (found []*program, missing []string) {
	for _, p := range peers {
		path, err := findBinary(p.binary)
		if err != nil {
			missing = append(missing, p.name+": "+p.install)
			continue
		}
		here := p.program
		here.path = path
		if here.version, err = p.ask(path); err != nil {
			here.version = "unknown version"
		}
		found = append(found, &here)
	}
	return found, missing
}

// findBinary also looks where only root's path leads.
func findBinary(name string) (string, error) {
	if path, err := exec.LookPath(name); err == nil {
		return path, nil
	}
	return exec.LookPath(filepath.Join("/usr/sbin", name))
}

// firstLine runs a program and returns the first line that it prints.
func firstLine(name string, args ...string) (string, error) {
	out, err := exec.Command(name, args...).CombinedOutput()
	line, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
	if err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, line)
	}
	return line, nil
}

// start sets a program up in a new directory below dir and starts it. The daemon
// is returned, to be stopped, as soon as it runs, even with an error.
func (p *program) start(ctx context.Context, dir, transport string, k *keys, algorithms []algorithm) (*daemon, address, error) {
	own, err := os.MkdirTemp(dir, strings.ToLower(p.binaryName())+"-")
	if err != nil {
		return nil, address{}, err
	}
	// A mail server under another user has to reach the socket.
	if err := os.Chmod(own, 0o755); err != nil {
		return nil, address{}, err
	}
	at, err := newAddress(transport, own)
	if err != nil {
		return nil, address{}, err
	}
	argv, err := p.setUp(ctx, p.path, &site{own, at, k, algorithms})
	if err != nil {
		return nil, address{}, fmt.Errorf("setting up %s: %w", p.name, err)
	}
	d, err := startDaemon(ctx, p.name, own, argv)
	if err != nil {
		return nil, address{}, err
	}
	return d, at, d.listening(ctx, at)
}

func (p *program) binaryName() string { return filepath.Base(p.path) }
