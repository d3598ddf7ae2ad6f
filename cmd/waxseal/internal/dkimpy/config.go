// Package dkimpy reads the configuration of dkimpy-milter, its tables included,
// and says what dkimpy-milter does with a message under it.
//
// It promises what version 1.2.3 does, not what its manual says; a test signs
// with that, and with what an import makes of these answers. Nothing here changes
// a file.
package dkimpy

import (
	"fmt"
	"slices"
	"strings"

	"waxseal/cmd/waxseal/internal/source"
)

// Setting is a line of the configuration. Value is what stands behind the name,
// with its blanks.
type Setting struct {
	Name, Value string
	Place       source.Place
}

// Config is a configuration file.
type Config struct {
	Settings []Setting // those that count: of equal names the last
	Lost     []Setting // those that another beat
	Unknown  []Setting // passed over, for want of such a name or of a value

	read func(string) ([]byte, error)
}

// names are the settings that dkimpy-milter knows, in its own spelling.
var names = []string{
	"AuthservID", "Syslog", "SyslogFacility", "SyslogSuccess", "UMask", "Mode", "MinimumKeyBits", "Socket", "PidFile", "UserID",
	"Domain", "SubDomains", "KeyFile", "KeyTable", "KeyFileEd25519", "KeyTableEd25519", "Selector", "SelectorEd25519", "SigningTable",
	"Canonicalization", "InternalHosts", "IntHosts", "DiagnosticDirectory", "MacroList", "MacroListVerify", "DNSOverride", "DNSTimeout",
	"debugLevel", "SignHeaders",
}

// Names returns the settings that dkimpy-milter knows.
func Names() []string { return slices.Clone(names) }

// Read reads a configuration file.
func Read(file string, read func(string) ([]byte, error)) (*Config, error) {
	text, err := read(file)
	if err != nil {
		return nil, err
	}
	c := &Config{read: read}
	line := 0
	for l := range strings.Lines(string(text)) {
		line++
		l, _, _ = strings.Cut(l, "#")
		if l = strings.TrimSpace(l); l == "" {
			continue
		}
		s := Setting{Name: strings.Fields(l)[0], Place: source.Place{File: file, Line: line}}
		s.Value = strings.TrimSpace(strings.TrimPrefix(l, s.Name))
		if s.Value == "" || !slices.Contains(names, s.Name) {
			c.Unknown = append(c.Unknown, s)
			continue
		}
		if i := slices.IndexFunc(c.Settings, func(o Setting) bool { return o.Name == s.Name }); i >= 0 {
			c.Lost = append(c.Lost, c.Settings[i])
			c.Settings = slices.Delete(c.Settings, i, i+1)
		}
		c.Settings = append(c.Settings, s)
	}
	return c, nil
}

// Get returns a setting.
func (c *Config) Get(name string) (Setting, bool) {
	for _, s := range c.Settings {
		if s.Name == name {
			return s, true
		}
	}
	return Setting{}, false
}

// Text returns the value of a setting, or the default.
func (c *Config) Text(name, usual string) string {
	if s, ok := c.Get(name); ok {
		return s.Value
	}
	return usual
}

// Yes reads a boolean, of which the first letter counts.
func Yes(value string) bool { return value != "" && strings.IndexByte("TtYy1", value[0]) >= 0 }

// Row is a row of a data set: the words that stand in it between colons, behind
// a key if it has one.
type Row struct {
	Key    string
	Values []string
	Place  source.Place
}

// DataSet is a list or a table.
type DataSet struct {
	Rows    []Row
	Keyed   bool // a table; else each row is a key alone
	Ignored []Row
}

// DataSet reads the data set that a setting names; without the setting it is
// empty.
func (c *Config) DataSet(name string) (DataSet, error) {
	s, ok := c.Get(name)
	if !ok {
		return DataSet{}, nil
	}
	words := strings.Fields(s.Value)
	if len(words) > 1 {
		var d DataSet
		words[0] = strings.TrimPrefix(words[0], "csl:")
		for _, w := range words {
			if w = strings.Trim(w, ","); w != "" {
				d.Rows = append(d.Rows, Row{Key: w, Place: s.Place})
			}
		}
		return d, nil
	}
	path := ""
	for _, kind := range []string{"file:", "refile:"} {
		if rest, ok := strings.CutPrefix(s.Value, kind); ok {
			path = rest
		}
	}
	if strings.HasPrefix(s.Value, "/") {
		path = s.Value
	}
	if path == "" {
		var d DataSet
		for w := range strings.SplitSeq(strings.TrimPrefix(s.Value, "csl:"), ",") {
			d.Rows = append(d.Rows, Row{Key: strings.TrimSpace(w), Place: s.Place})
		}
		return d, nil
	}
	text, err := c.read(path)
	if err != nil {
		return DataSet{}, fmt.Errorf("%s: %w", name, err)
	}
	return table(path, string(text)), nil
}

// table reads a file. When some of its lines are one word, and others two, only
// the former count.
func table(path, text string) DataSet {
	var alone, keyed, ignored []Row
	line := 0
	for l := range strings.Lines(text) {
		line++
		words := strings.Fields(l)
		if strings.HasPrefix(l, "#") || len(words) == 0 {
			continue
		}
		r := Row{Key: words[0], Place: source.Place{File: path, Line: line}}
		switch len(words) {
		case 1:
			for part := range strings.SplitSeq(words[0], ":") {
				alone = append(alone, Row{Key: part, Place: r.Place})
			}
		case 2:
			r.Values = strings.Split(words[1], ":")
			// A second row of a key takes the place of the first.
			if i := slices.IndexFunc(keyed, func(o Row) bool { return o.Key == r.Key }); i >= 0 {
				ignored = append(ignored, keyed[i])
				keyed[i] = r
				continue
			}
			keyed = append(keyed, r)
		default:
			ignored = append(ignored, r)
		}
	}
	if len(alone) > 0 {
		return DataSet{Rows: alone, Ignored: append(keyed, ignored...)}
	}
	return DataSet{Rows: keyed, Keyed: true, Ignored: ignored}
}
