package mta

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"waxseal/milter"
)

// Postfix is the set-up of a Postfix, as postconf tells it.
type Postfix struct {
	Version  string
	Dir      string            // of main.cf and master.cf
	values   map[string]string // main.cf and defaults, expanded
	given    map[string]string // main.cf, as written
	services []*service
	doubts   []string // warnings of postconf, each once
}

// service is a line of master.cf.
type service struct {
	name, kind string // "submission", "inet"
	unpriv     bool
	chroot     bool
	command    string
	options    map[string]string // -o, as written
	values     map[string]string // as the service sees them, expanded; nil: as in main.cf

	chrootColumn string // "y", "n", or "-" for the default
}

// PostfixOptions are how to ask Postfix. The zero value works.
type PostfixOptions struct {
	ConfigDir string // as postconf -c; empty: Postfix's own default
	Command   string // empty: postconf
}

// ReadPostfix asks postconf for everything.
func ReadPostfix(ctx context.Context, o PostfixOptions) (*Postfix, error) {
	p := &Postfix{}
	ask := func(arguments ...string) ([]byte, error) {
		command := o.Command
		if command == "" {
			command = "postconf"
		}
		if o.ConfigDir != "" {
			arguments = append([]string{"-c", o.ConfigDir}, arguments...)
		}
		var out, doubts bytes.Buffer
		c := exec.CommandContext(ctx, command, arguments...)
		c.Stdout, c.Stderr = &out, &doubts
		err := c.Run()
		for line := range strings.Lines(doubts.String()) {
			line = strings.TrimSpace(line) // postconf: warning: ...
			if _, why, ok := strings.Cut(line, ": fatal: "); ok {
				return nil, fmt.Errorf("postconf: %s", why)
			}
			if _, doubt, ok := strings.Cut(line, ": warning: "); ok && !slices.Contains(p.doubts, doubt) {
				p.doubts = append(p.doubts, doubt)
			}
		}
		if err != nil {
			return nil, fmt.Errorf("postconf %s: %w", strings.Join(arguments, " "), err)
		}
		return out.Bytes(), nil
	}
	for _, part := range []struct {
		arguments []string
		read      func([]byte) error
	}{
		{[]string{"-x"}, func(b []byte) (err error) { p.values, err = parseParameters(b); return }},
		{[]string{"-n"}, func(b []byte) (err error) { p.given, err = parseParameters(b); return }},
		{[]string{"-M"}, func(b []byte) (err error) { p.services, err = parseServices(b); return }},
		{[]string{"-P"}, func(b []byte) error { return parseOptions(b, p.services) }},
	} {
		out, err := ask(part.arguments...)
		if err != nil {
			return nil, err
		}
		if err := part.read(out); err != nil {
			return nil, fmt.Errorf("postconf %s: %w", part.arguments[0], err)
		}
	}
	p.Version, p.Dir = p.values["mail_version"], p.values["config_directory"]
	if p.Version == "" || p.values["queue_directory"] == "" {
		return nil, errors.New("postconf -x: no mail_version or no queue_directory; is this the postconf of Postfix 2.10 or later?")
	}
	for _, s := range p.services {
		s.chroot = s.chrootColumn == "y" || s.chrootColumn == "-" && chrootByDefault(p)
		if len(s.options) == 0 {
			continue
		}
		// Postfix itself works out what the options make of everything else.
		arguments := []string{"-x"}
		for _, name := range sortedNames(s.options) {
			arguments = append(arguments, "-o", name+"="+s.options[name])
		}
		out, err := ask(arguments...)
		if err != nil {
			return nil, err
		}
		if s.values, err = parseParameters(out); err != nil {
			return nil, fmt.Errorf("postconf -x for %s: %w", s, err)
		}
	}
	return p, nil
}

// chrootByDefault says what "-" in the chroot column means: no since Postfix 3.0,
// unless main.cf asks for the behaviour of before.
func chrootByDefault(p *Postfix) bool {
	return !p.atLeast(3, 0) || p.values["compatibility_level"] == "0"
}

func sortedNames(m map[string]string) []string {
	names := make([]string, 0, len(m))
	for name := range m {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func (s *service) String() string { return s.name + "/" + s.kind }

// atLeast says whether this is a Postfix of the version or a later one.
func (p *Postfix) atLeast(major, minor int) bool {
	parts := strings.FieldsFunc(p.Version, func(r rune) bool { return r < '0' || r > '9' })
	if len(parts) < 2 {
		return false
	}
	a, _ := strconv.Atoi(parts[0])
	b, _ := strconv.Atoi(parts[1])
	return a > major || a == major && b >= minor
}

// find returns the service of a name, or nil.
func (p *Postfix) find(name, kind string) *service {
	for _, s := range p.services {
		if s.name == name && s.kind == kind {
			return s
		}
	}
	return nil
}

// setting is a parameter as a service sees it.
type setting struct {
	name    string
	value   string
	written string   // of the option or in main.cf; "" for a default
	isSet   bool     // it is no default
	service *service // whose option it is; nil: main.cf
}

// get returns a parameter as a service sees it, or with nil that of main.cf.
func (p *Postfix) get(s *service, name string) setting {
	got := setting{name: name, value: p.values[name]}
	got.written, got.isSet = p.given[name]
	if s != nil && s.values != nil {
		got.value = s.values[name]
		if option, ok := s.options[name]; ok {
			got.written, got.isSet, got.service = option, true, s
		}
	}
	return got
}

func (s setting) where() string {
	if s.service != nil {
		return fmt.Sprintf("master.cf, %s: -o %s=%s", s.service, s.name, s.written)
	}
	if !s.isSet {
		return fmt.Sprintf("main.cf: %s, which is not set", s.name)
	}
	return fmt.Sprintf("main.cf: %s = %s", s.name, s.written)
}

// set is the line that gives the setting another value.
func (s setting) set(value string) string {
	if s.service != nil {
		return s.service.option(s.name, value)
	}
	return fmt.Sprintf("in main.cf: %s = %s", s.name, value)
}

// option is the line of master.cf that sets a parameter for the service.
func (s *service) option(name, value string) string {
	o := name + "=" + strings.ReplaceAll(value, ", ", ",")
	if strings.ContainsAny(o, " \t") {
		o = "{ " + name + " = " + value + " }"
	}
	return fmt.Sprintf("in master.cf, below %s: -o %s", s, o)
}

func (s setting) yes() bool { return strings.EqualFold(s.value, "yes") }

// has says whether a list has a word.
func (s setting) has(word string) bool {
	return slices.ContainsFunc(words(s.value), func(w string) bool { return strings.EqualFold(w, word) })
}

func words(s string) []string {
	return strings.FieldsFunc(s, func(r rune) bool { return r == ',' || r == ' ' || r == '\t' || r == '\n' || r == '\r' })
}

// cleanupOf returns the cleanup service that a service hands its mail to.
func (p *Postfix) cleanupOf(s *service) *service {
	return p.find(p.get(s, "cleanup_service_name").value, "unix")
}

// resolve returns where a socket path leads for a service: below the queue
// directory when it is chrooted, or when the path is relative, as daemons work
// there.
func (p *Postfix) resolve(s *service, a milter.Address) milter.Address {
	if a.Network == "unix" && (s.chroot || !filepath.IsAbs(a.Address)) {
		a.Address = filepath.Join(p.values["queue_directory"], a.Address)
	}
	return a
}

// user is the name of who runs a service; empty for root.
func (p *Postfix) user(s *service) string {
	if s.unpriv {
		return p.values["mail_owner"]
	}
	return ""
}
