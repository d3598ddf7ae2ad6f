package opendkim

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"waxseal/cmd/waxseal/internal/source"
)

const (
	// maxDepth is how deep Include may nest.
	maxDepth = 5

	// maxLine is how much of a line OpenDKIM reads at once. What is longer
	// becomes several lines to it.
	maxLine = 1023
)

// Setting is one line of the configuration.
type Setting struct {
	Name  string // in its usual spelling
	Value string
	Place source.Place
	Use   Use
}

// Config is a configuration as OpenDKIM reads it.
type Config struct {
	// Settings are those that count, in the order of the files. Of several of
	// one name it is the last.
	Settings []Setting

	// Lost are those that a later one of the same name has replaced, each with
	// the one that counts.
	Lost []Lost

	// Errors are what OpenDKIM would not start with.
	Errors []*source.Error

	read func(path string) ([]byte, error)
}

// Lost is a setting without effect.
type Lost struct{ Setting, By Setting }

// Read reads a configuration file and what it includes, by a function that
// returns the content of a file. The error is one of reading the file itself;
// all else is in Config.Errors.
func Read(name string, read func(path string) ([]byte, error)) (*Config, error) {
	c := &Config{read: read}
	text, err := read(name)
	if err != nil {
		return nil, err
	}
	c.load(name, text, 0)
	return c, nil
}

func (c *Config) fail(p source.Place, remedy, format string, args ...any) {
	c.Errors = append(c.Errors, &source.Error{Place: p, Text: fmt.Sprintf(format, args...), Remedy: remedy})
}

// load takes in one file.
func (c *Config) load(file string, text []byte, depth int) {
	for _, l := range lines(file, string(text)) {
		if l.cut {
			c.fail(l.place, "shorten it; put long lists into a file of their own", "line of more than %d bytes, which OpenDKIM reads as several", maxLine)
			continue
		}
		body, _, _ := strings.Cut(l.text, "#")
		body, _, _ = strings.Cut(body, "\r")
		body = strings.Trim(body, blanks)
		if body == "" {
			continue
		}
		name, value := cutBlanks(body)
		known, ok := names[strings.ToLower(name)]
		switch {
		case !ok:
			c.fail(l.place, "correct the name or remove the line", "OpenDKIM does not know the setting %q, and would not start", name)
		case value == "":
			c.fail(l.place, "give it a value or remove the line", "%s has no value, and OpenDKIM would not start", known.name)
		case known.kind == include:
			c.include(value, l.place, depth)
		default:
			c.set(Setting{known.name, value, l.place, known.use}, known.kind)
		}
	}
}

func (c *Config) include(file string, at source.Place, depth int) {
	if depth+1 >= maxDepth {
		c.fail(at, "include it from a file further up", "Include nested more than %d deep", maxDepth)
		return
	}
	text, err := c.read(file)
	if err != nil {
		c.fail(at, "correct the path or remove the line", "Include: %v", err)
		return
	}
	c.load(file, text, depth+1)
}

// set lets a setting count in place of an earlier one of its name.
func (c *Config) set(s Setting, k kind) {
	switch k {
	case integer:
		if _, err := strconv.ParseInt(s.Value, 0, 64); err != nil {
			c.fail(s.Place, "write a number", "%s %s: no number", s.Name, s.Value)
			return
		}
	case boolean:
		if !strings.ContainsAny(s.Value[:1], "tTyY1fFnN0") {
			c.fail(s.Place, "write yes or no", "%s %s: neither yes nor no", s.Name, s.Value)
			return
		}
	}
	i := slices.IndexFunc(c.Settings, func(other Setting) bool { return other.Name == s.Name })
	if i >= 0 {
		for j := range c.Lost {
			if c.Lost[j].By == c.Settings[i] {
				c.Lost[j].By = s
			}
		}
		c.Lost = append(c.Lost, Lost{c.Settings[i], s})
		c.Settings = slices.Delete(c.Settings, i, i+1)
	}
	c.Settings = append(c.Settings, s)
}

// Get returns the setting that counts.
func (c *Config) Get(name string) (Setting, bool) {
	for _, s := range c.Settings {
		if s.Name == name {
			return s, true
		}
	}
	return Setting{}, false
}

// Bool returns a setting that is yes or no, which it is not without a line.
func (c *Config) Bool(name string) bool {
	s, ok := c.Get(name)
	return ok && IsYes(s.Value)
}

// IsYes reads a value that is yes or no.
func IsYes(value string) bool { return value != "" && strings.ContainsAny(value[:1], "tTyY1") }

// Int returns a number, in C's spelling: 0x is hexadecimal, 0 octal. ok is false
// without a line.
func (c *Config) Int(name string) (n int64, ok bool) {
	s, ok := c.Get(name)
	if !ok {
		return 0, false
	}
	n, err := strconv.ParseInt(s.Value, 0, 64)
	return n, err == nil
}

// Path returns a path as OpenDKIM sees it: relative to BaseDirectory, or to the
// root, where services are started.
func (c *Config) Path(name string) string {
	if path.IsAbs(name) {
		return name
	}
	base, _ := c.Get("BaseDirectory")
	return path.Join("/", base.Value, name)
}

const blanks = " \t\n\v\f\r"

// cutBlanks splits a line into its first word and the rest.
func cutBlanks(s string) (word, rest string) {
	i := strings.IndexAny(s, blanks)
	if i < 0 {
		return s, ""
	}
	return s[:i], strings.Trim(s[i:], blanks)
}

// line is a line of a file.
type line struct {
	text  string
	place source.Place
	cut   bool // longer than OpenDKIM reads at once
}

func lines(file, text string) []line {
	var all []line
	number := 0
	for l := range strings.Lines(text) {
		number++
		all = append(all, line{strings.TrimSuffix(l, "\n"), source.Place{File: file, Line: number}, len(l) > maxLine})
	}
	return all
}

// errBackend says that a data set is kept where this package does not look.
var errBackend = errors.New("kept in a database or directory service, which cannot be read here")
