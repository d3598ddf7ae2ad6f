package rspamd

import (
	"errors"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"waxseal/cmd/waxseal/internal/source"
)

// Config is what the files in rspamd's configuration directory say, put together
// as rspamd does.
type Config struct {
	Signing *Value // the section dkim_signing
	DKIM    *Value // the section dkim
	Options *Value // the section options
	Errors  []*source.Error
	Files   []string // that were read

	dir  string
	read func(string) ([]byte, error)
}

// Read reads the configuration in a directory such as /etc/rspamd: the files that
// come with rspamd, local.d, which adds to them, and override.d, which beats both.
// It is an error when none of the files is about signing.
func Read(dir string, read func(string) ([]byte, error)) (*Config, error) {
	c := &Config{dir: dir, read: read}
	c.Signing = c.section("dkim_signing", "modules.d/dkim_signing.conf", "dkim_signing.conf")
	if len(c.Files) == 0 && len(c.Errors) == 0 {
		return nil, errors.New("none of modules.d, local.d and override.d there has a file dkim_signing.conf")
	}
	c.DKIM = c.section("dkim", "modules.d/dkim.conf", "dkim.conf")
	c.Options = c.section("options", "options.inc", "options.inc")
	for _, name := range []string{"rspamd.conf.local", "rspamd.conf.override"} {
		path := filepath.Join(dir, name)
		if text, err := read(path); err == nil && strings.Contains(string(text), "dkim") {
			c.fail(source.Place{File: path}, "settings of DKIM in this file are not read", "move them to local.d/dkim_signing.conf")
		}
	}
	return c, nil
}

func (c *Config) fail(p source.Place, text, remedy string) {
	c.Errors = append(c.Errors, &source.Error{Place: p, Text: text, Remedy: remedy})
}

// section puts a section together.
func (c *Config) section(name, usual, own string) *Value {
	whole := &Value{IsObject: true}
	for _, layer := range []struct {
		path string
		beat bool // what was there before
	}{{usual, false}, {"local.d/" + own, false}, {"override.d/" + own, true}} {
		path := filepath.Join(c.dir, layer.path)
		text, err := c.read(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			c.fail(source.Place{File: path}, err.Error(), "run as a user who may read the file")
			continue
		}
		c.Files = append(c.Files, path)
		v, err := parse(path, string(text))
		if err != nil {
			var e *source.Error
			errors.As(err, &e)
			c.Errors = append(c.Errors, e)
			continue
		}
		if inner := v.Get(name); inner != nil && inner.IsObject {
			if layer.path != usual {
				c.fail(inner.Place, "the file is inside the section "+name+" already, so rspamd does not see what stands in it", "take out the line "+name+" { and its closing brace")
				continue
			}
			v = inner
		}
		c.merge(whole, v, layer.beat)
	}
	return whole
}

// standardIncludes are the includes of the files that come with rspamd; they are
// followed without a word.
var standardIncludes = []string{"dynamic/", "local.d/", "override.d/"}

// merge adds the members of a later file.
func (c *Config) merge(whole, more *Value, beat bool) {
	seen := map[string]bool{}
	for _, m := range more.Members {
		if strings.HasPrefix(m.Name, ".") {
			standard := slices.ContainsFunc(standardIncludes, func(s string) bool {
				return strings.HasPrefix(m.Value.Text, "$LOCAL_CONFDIR/"+s) || strings.HasPrefix(m.Value.Text, "${DBDIR}/"+s)
			})
			if m.Name != ".include" || !standard {
				c.fail(m.Place, m.Name+" is not followed here", "write the text of that file in its place")
			}
			continue
		}
		if seen[m.Name] {
			c.fail(m.Place, m.Name+" is there twice, which makes a list of both for rspamd", "write it once")
			continue
		}
		seen[m.Name] = true
		i := slices.IndexFunc(whole.Members, func(o Member) bool { return o.Name == m.Name })
		switch {
		case i < 0:
			whole.Members = append(whole.Members, m)
		case beat || m.Value.IsArray != whole.Members[i].Value.IsArray || m.Value.IsObject != whole.Members[i].Value.IsObject:
			whole.Members[i] = m
		case m.Value.IsObject:
			old := *whole.Members[i].Value
			old.Members = slices.Clone(old.Members)
			c.merge(&old, m.Value, false)
			whole.Members[i].Value = &old
		case m.Value.IsArray:
			old := *m.Value
			old.Items = slices.Concat(whole.Members[i].Value.Items, m.Value.Items)
			whole.Members[i].Value = &old
		default:
			whole.Members[i] = m
		}
	}
}

// Path fills in the directories that rspamd has variables for.
func (c *Config) Path(s string) string {
	return strings.NewReplacer(
		"${LOCAL_CONFDIR}", c.dir, "$LOCAL_CONFDIR", c.dir, "${CONFDIR}", c.dir, "$CONFDIR", c.dir,
		"${DBDIR}", "/var/lib/rspamd", "$DBDIR", "/var/lib/rspamd",
	).Replace(s)
}

// Row is a row of a map.
type Row struct {
	Key, Value string
	Place      source.Place
}

// Map reads a map: a file, a list of rows, or an object. A row of which only the
// key is wanted needs no value.
func (c *Config) Map(v *Value, keysOnly bool) []Row {
	var rows []Row
	if v != nil && v.IsObject {
		for _, m := range v.Members {
			rows = append(rows, Row{m.Name, m.Value.Text, m.Place})
		}
		return rows
	}
	for _, item := range v.Texts() {
		path := c.Path(item.Text)
		if after, ok := strings.CutPrefix(path, "file://"); ok {
			path = after
		}
		switch {
		case strings.Contains(path, "://") || strings.Contains(path, ";"):
			c.fail(item.Place, "the map "+item.Text+" is not in a file", "write it into a file, and name that")
		case strings.HasPrefix(path, "/"):
			text, err := c.read(path)
			if err != nil {
				c.fail(item.Place, err.Error(), "correct the path, or run as a user who may read the file")
				continue
			}
			line := 0
			for l := range strings.Lines(string(text)) {
				line++
				rows = c.row(rows, l, source.Place{File: path, Line: line}, keysOnly)
			}
		default:
			rows = c.row(rows, item.Text, item.Place, keysOnly)
		}
	}
	return rows
}

func (c *Config) row(rows []Row, text string, place source.Place, keysOnly bool) []Row {
	text, _, _ = strings.Cut(text, "#")
	fields := strings.Fields(text)
	switch {
	case len(fields) == 0:
	case keysOnly:
		rows = append(rows, Row{Key: fields[0], Place: place})
	case len(fields) == 1:
		c.fail(place, fields[0]+" has no value", "write one behind it, or take the row out")
	default:
		rows = append(rows, Row{strings.Trim(fields[0], `"`), strings.Trim(strings.Join(fields[1:], " "), `"`), place})
	}
	return rows
}
