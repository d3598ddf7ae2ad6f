package main

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"waxseal/cmd/waxseal/internal/landlock"
)

// confinementReport is what check says of the confinement of the daemon.
type confinementReport struct {
	ABI   int             `json:"landlock_abi"` // of this kernel; 0: the daemon will not be confined
	Why   string          `json:"why_not,omitempty"`
	Rules *landlock.Rules `json:"rules,omitempty"` // what will be allowed, of what exists
}

// reportConfinement foresees what the daemon does with this configuration on
// this machine.
func reportConfinement(d *decoded) *confinementReport {
	if d.Confine.Landlock == landlockOff {
		return &confinementReport{Why: "confine.landlock is off"}
	}
	abi, err := landlock.ABI()
	if err != nil {
		return &confinementReport{Why: err.Error()}
	}
	program, err := ownProgram()
	if err != nil {
		return &confinementReport{Why: err.Error()}
	}
	rules := confineRules(d, program)
	rules.Paths = slices.DeleteFunc(rules.Paths, func(p landlock.Path) bool {
		return p.Access != landlock.Sockets && absent(p) // the directory of a socket will be made
	})
	return &confinementReport{ABI: abi, Rules: &rules}
}

// linkWarnings are about links in the directory of a domain that lead to where
// the daemon will not be able to read.
func (r *confinementReport) linkWarnings(d *decoded, domain string) []error {
	root, ok := keystoreDir(d.Keystore.URL)
	if !ok || r.Rules == nil {
		return nil
	}
	dir := filepath.Join(root, domain)
	paths := []string{dir}
	entries, _ := os.ReadDir(dir) // what is wrong with it has been told
	for _, e := range entries {
		paths = append(paths, filepath.Join(dir, e.Name()))
	}
	var found []error
	for _, path := range paths {
		info, err := os.Lstat(path)
		if err != nil || info.Mode()&fs.ModeSymlink == 0 {
			continue
		}
		target, err := filepath.EvalSymlinks(path)
		if err == nil {
			target, err = filepath.Abs(target)
		}
		if err == nil && !r.Rules.Covers(landlock.Path{Path: target, Access: landlock.Read}) {
			found = append(found, withHint(fmt.Errorf("%s leads to %s, which the daemon cannot read when it has confined itself", path, target),
				"[confine] read = [%q]", filepath.Dir(target)))
		}
	}
	return found
}

// accessInWords is what may be done with a path.
func accessInWords(a landlock.Access) string {
	switch a {
	case landlock.Read:
		return "read"
	case landlock.Read | landlock.Execute:
		return "read and run"
	case landlock.Write, landlock.Read | landlock.Write:
		return "read and change"
	case landlock.Sockets:
		return "make sockets and remove files in"
	case landlock.Read | landlock.Device:
		return "read and write"
	}
	return "read, change and run"
}

// print says it in lines: what may be done, with what, and what it is for.
func (r *confinementReport) print(w io.Writer) {
	if r.ABI == 0 {
		fmt.Fprintf(w, "the daemon will not confine itself: %s\n", r.Why)
		return
	}
	fmt.Fprintf(w, "the daemon will confine itself by Landlock (ABI %d), to:\n", r.ABI)
	type line struct{ what, why string }
	var lines []line // in the order of the rules
	things := map[line][]string{}
	add := func(what, why, thing string) {
		l := line{what, why}
		if things[l] == nil {
			lines = append(lines, l)
		}
		if !slices.Contains(things[l], thing) {
			things[l] = append(things[l], thing)
		}
	}
	for _, p := range r.Rules.Paths {
		add(accessInWords(p.Access), p.For, p.Path)
	}
	const bind, connect = "listen on TCP port", "connect to TCP port"
	if r.ABI < 4 {
		add("use any TCP port", "this kernel cannot restrict them", "")
	} else {
		for _, p := range r.Rules.Bind {
			port := fmt.Sprint(p.Port)
			if p.Port == 0 {
				port = "0 (any that is free)"
			}
			add(bind, p.For, port)
		}
		if r.Rules.AnyConnect {
			add("connect to any TCP port", forCommands, "")
		} else {
			for _, p := range r.Rules.Connect {
				add(connect, p.For, fmt.Sprint(p.Port))
			}
		}
	}
	for _, l := range lines {
		fmt.Fprintf(w, "  %s  (%s)\n", strings.TrimSpace(l.what+" "+strings.Join(things[l], ", ")), l.why)
	}
}
