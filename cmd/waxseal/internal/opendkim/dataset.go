package opendkim

import (
	"fmt"
	"slices"
	"strings"

	"waxseal/cmd/waxseal/internal/source"
)

// Kind is how a data set is kept.
type Kind string

// The kinds that can be read here.
const (
	File   Kind = "file"
	Refile Kind = "refile" // rows are patterns
	List   Kind = "csl"    // in the value itself
)

// backends are the kinds that cannot.
var backends = []string{"db", "dsn", "erlang", "ldap", "lua", "mdb", "memcache", "repute", "socket"}

// DataSet is a table or list.
type DataSet struct {
	Kind  Kind
	Rows  []Row
	Place source.Place // of the setting
	Text  string
}

// Row is an entry of a data set.
type Row struct {
	Key, Value string
	Place      source.Place

	// Ignored says why OpenDKIM passes over the row; empty when it does not.
	Ignored string
}

// DataSet reads the data set that a setting names. Without such a setting it is
// nil. The error is an *source.Error.
func (c *Config) DataSet(name string) (*DataSet, error) {
	s, ok := c.Get(name)
	if !ok {
		return nil, nil
	}
	d := &DataSet{Place: s.Place, Text: s.Value}
	kind, rest, err := splitKind(s.Value)
	if err != nil {
		return nil, &source.Error{Place: s.Place, Text: fmt.Sprintf("%s %s: %v", name, s.Value, err), Remedy: kindRemedy(s.Value, err)}
	}
	d.Kind = kind
	if kind == List {
		d.list(rest)
		return d, nil
	}
	path := c.Path(rest)
	content, err := c.read(path)
	if err != nil {
		return nil, &source.Error{Place: s.Place, Text: fmt.Sprintf("%s: %v", name, err), Remedy: "correct the path, or run as a user who may read the file"}
	}
	d.file(path, string(content))
	return d, nil
}

// splitKind reads the spelling of a data set. What stands before the first colon
// is its kind, unless a comma comes earlier.
func splitKind(value string) (Kind, string, error) {
	before, rest, ok := strings.Cut(value, ":")
	if ok && !strings.Contains(before, ",") {
		switch kind := Kind(before); {
		case kind == File || kind == Refile || kind == List:
			return kind, rest, nil
		case slices.Contains(backends, before):
			return "", "", errBackend
		}
		return "", "", fmt.Errorf("OpenDKIM takes %q for the kind of a table, does not know it, and would not start", before)
	}
	switch {
	case strings.HasSuffix(value, ".db") && !strings.Contains(value, ","):
		return "", "", errBackend
	case strings.HasPrefix(value, "/"):
		return File, value, nil
	}
	return List, value, nil
}

func kindRemedy(value string, err error) string {
	if err == errBackend {
		return "write its rows into a file, and name that with file:PATH"
	}
	return "write csl: before a list: csl:" + value
}

// list reads a list: items between commas, each with a value behind = or none.
func (d *DataSet) list(text string) {
	for item := range strings.SplitSeq(text, ",") {
		key, value, _ := strings.Cut(strings.Trim(item, blanks), "=")
		if key = strings.Trim(key, blanks); key != "" {
			d.Rows = append(d.Rows, Row{Key: key, Value: strings.Trim(value, blanks), Place: d.Place})
		}
	}
}

// file reads the rows of a file. A long line is several rows to OpenDKIM.
func (d *DataSet) file(path, content string) {
	for _, l := range lines(path, content) {
		for part := 0; ; part++ {
			text := l.text[:min(maxLine, len(l.text))]
			d.row(Row{Place: l.place}, text, part, l.cut)
			if l.text = l.text[len(text):]; l.text == "" {
				break
			}
		}
	}
}

func (d *DataSet) row(r Row, text string, part int, cut bool) {
	text, _, _ = strings.Cut(text, "#")
	body := strings.Trim(text, blanks)
	if body == "" {
		return
	}
	r.Key, r.Value = cutBlanks(body)
	switch {
	case part > 0:
		r.Ignored = fmt.Sprintf("the line has more than %d bytes, and OpenDKIM takes what is behind them for a row of its own", maxLine)
	case cut:
		r.Ignored = fmt.Sprintf("the line has more than %d bytes, and OpenDKIM cuts it there", maxLine)
	case d.Kind == Refile && strings.Trim(text[:1], blanks) == "":
		r.Ignored = "OpenDKIM passes over rows of a refile that begin with a blank"
	}
	d.Rows = append(d.Rows, r)
}

// find returns the row that OpenDKIM finds for a key, compared without case if
// so told, as its kind wants.
func (d *DataSet) find(key string, fold bool) (Row, bool) {
	if d == nil {
		return Row{}, false
	}
	for _, r := range d.Rows {
		if d.matches(r, key, fold) {
			return r, true
		}
	}
	return Row{}, false
}

func (d *DataSet) matches(r Row, key string, fold bool) bool {
	switch {
	case d.Kind == Refile && r.Ignored != "":
		return false
	case d.Kind == Refile:
		p, err := compile(r.Key)
		return err == nil && p.MatchString(strings.ToLower(key))
	case fold:
		return strings.EqualFold(r.Key, key)
	}
	return r.Key == key
}
