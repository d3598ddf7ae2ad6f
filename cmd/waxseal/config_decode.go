package main

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"reflect"
	"slices"
	"sort"
	"strings"

	"github.com/BurntSushi/toml"
)

// problem is something wrong in a configuration file, told so that it can be
// mended: where, what, and what to do.
type problem struct {
	file   string
	line   int // 0: the file as a whole
	key    string
	err    error
	remedy string
}

func (p *problem) Error() string {
	where := p.file
	if p.line > 0 {
		where = fmt.Sprintf("%s:%d", p.file, p.line)
	}
	if p.key != "" {
		where += ": " + p.key
	}
	return where + ": " + p.err.Error()
}

func (p *problem) Unwrap() error { return p.err }
func (p *problem) Hint() string  { return p.remedy }

// logged are its attributes in the log.
func (p *problem) logged() []any {
	if p.remedy == "" {
		return []any{"err", p}
	}
	return []any{"err", p, "hint", p.remedy}
}

// problems are all that is wrong in one run.
type problems []*problem

func (ps problems) Error() string {
	lines := make([]string, len(ps))
	for i, p := range ps {
		lines[i] = p.Error()
	}
	return strings.Join(lines, "\n")
}

// decoded is a configuration with the places its settings come from.
type decoded struct {
	Config
	file  string
	lines map[string]int    // dotted key → line, for what is in the file
	flags map[string]string // dotted key → the flag that set it

	unused []string // listeners with rules of their own that a flag has replaced
}

// problem makes an error about a setting. It tells where that comes from: the
// file, a flag, or the defaults.
func (d *decoded) problem(key string, err error, remedy string) *problem {
	var hint interface{ Hint() string }
	if remedy == "" && errors.As(err, &hint) {
		remedy = hint.Hint()
	}
	for k := key; ; {
		if flag, ok := d.flags[k]; ok {
			return &problem{file: flag, err: err, remedy: remedy}
		}
		if line := d.lines[k]; line > 0 {
			return &problem{file: d.file, line: line, key: key, err: err, remedy: remedy}
		}
		above, _, found := cutLast(k, ".")
		if !found {
			return &problem{file: key + " (default)", err: err, remedy: remedy}
		}
		k = above
	}
}

// readConfig reads and decodes a configuration file. A file that is absent has
// the defaults, unless it was asked for by name. The error is of type problems;
// what could be decoded is returned all the same, if anything could.
func readConfig(path string, named bool) (*decoded, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) && !named {
		text, err = nil, nil
	}
	if err != nil {
		return nil, problems{{file: path, err: errors.Unwrap(err), remedy: "name another file with --config"}}
	}
	return decodeConfig(path, string(text))
}

// decodeConfig decodes strictly: unknown keys, wrong spelling and wrong types
// are errors with their line, all of them in one run; settings that have one keep
// their default. The library by itself
// names unknown keys without a line, takes any spelling of case, and stops at
// the first wrong type, so tables are walked here and it decodes single values.
func decodeConfig(file, text string) (*decoded, error) {
	d := &decoded{Config: defaultConfig(), file: file, lines: map[string]int{}, flags: map[string]string{}}
	var top map[string]toml.Primitive
	meta, err := toml.Decode(text, &top)
	if err != nil {
		return nil, problems{syntaxProblem(file, err)}
	}
	w := walker{meta: meta, decoded: d}
	w.table("", top, reflect.ValueOf(&d.Config).Elem())
	if len(w.problems) > 0 {
		sort.SliceStable(w.problems, func(i, j int) bool { return w.problems[i].line < w.problems[j].line })
		return d, w.problems
	}
	return d, nil
}

func syntaxProblem(file string, err error) *problem {
	var parse toml.ParseError
	if errors.As(err, &parse) {
		return &problem{file: file, line: parse.Position.Line, err: errors.New(parse.Message)}
	}
	return &problem{file: file, err: err}
}

type walker struct {
	meta     toml.MetaData
	decoded  *decoded
	problems problems
}

func (w *walker) add(key string, err error, remedy string) {
	w.problems = append(w.problems, w.decoded.problem(key, err, remedy))
}

// table decodes the keys of one table into the struct v.
func (w *walker) table(prefix string, keys map[string]toml.Primitive, v reflect.Value) {
	fields := fieldsByKey(v.Type())
	for _, name := range sortedKeys(keys) {
		value := keys[name]
		key := prefix + name
		w.decoded.lines[key] = w.line(value)
		index, ok := fields[name]
		if !ok {
			remedy := "run \"waxseal config example\" for all settings"
			if near := nearest(name, sortedKeys(fields)); near != "" {
				remedy = fmt.Sprintf("did you mean %q?", near)
			}
			w.add(key, errors.New("unknown setting"), remedy)
			continue
		}
		field := v.Field(index)
		switch field.Kind() {
		case reflect.Struct:
			if _, leaf := field.Addr().Interface().(toml.Unmarshaler); leaf {
				w.value(key, value, field)
			} else {
				w.subtable(key, value, field)
			}
		case reflect.Map:
			w.tables(key, value, field)
		case reflect.Pointer:
			field.Set(reflect.New(field.Type().Elem()))
			w.subtable(key, value, field.Elem())
		default:
			w.value(key, value, field)
		}
	}
}

func (w *walker) subtable(key string, value toml.Primitive, v reflect.Value) {
	var keys map[string]toml.Primitive
	if err := w.meta.PrimitiveDecode(value, &keys); err != nil || keys == nil {
		w.add(key, errors.New("not a table"), fmt.Sprintf("write [%s] on a line of its own, its settings below", key))
		return
	}
	w.table(key+".", keys, v)
}

// tables decodes a map of named tables.
func (w *walker) tables(key string, value toml.Primitive, v reflect.Value) {
	var named map[string]toml.Primitive
	if err := w.meta.PrimitiveDecode(value, &named); err != nil || named == nil {
		w.add(key, errors.New("not a table of tables"), fmt.Sprintf("write [%s.NAME] on a line of its own, its settings below", key))
		return
	}
	v.Set(reflect.MakeMap(v.Type()))
	for _, name := range sortedKeys(named) {
		element := defaultElement(v.Type().Elem())
		w.decoded.lines[key+"."+name] = w.line(named[name])
		w.subtable(key+"."+name, named[name], element)
		v.SetMapIndex(reflect.ValueOf(name), element)
	}
}

// defaultElement is a named table before it is read.
func defaultElement(t reflect.Type) reflect.Value {
	element := reflect.New(t).Elem()
	switch t {
	case reflect.TypeFor[ListenConfig]():
		element.Set(reflect.ValueOf(defaultListen()))
	case reflect.TypeFor[RowConfig]():
		element.Set(reflect.ValueOf(defaultRow()))
	case reflect.TypeFor[PublishConfig]():
		element.Set(reflect.ValueOf(defaultPublish()))
	}
	return element
}

// value decodes a single value. It goes to a fresh one first, since the library
// would merge a list into the default.
func (w *walker) value(key string, value toml.Primitive, v reflect.Value) {
	fresh := reflect.New(v.Type())
	if err := w.meta.PrimitiveDecode(value, fresh.Interface()); err != nil {
		var parse toml.ParseError
		if errors.As(err, &parse) {
			if parse.Position.Line > 0 {
				w.decoded.lines[key] = parse.Position.Line
			}
			err = errors.New(parse.Message)
		} else {
			err = fmt.Errorf("want %s", kindName(v.Type()))
		}
		w.add(key, err, "")
		return
	}
	v.Set(fresh.Elem())
}

// line finds where a value stands: the library tells it only in errors, so it is
// made to give one. A table that has no header of its own, such as "a" of
// [a.b], stands where the first thing in it does.
func (w *walker) line(value toml.Primitive) int {
	var parse toml.ParseError
	if err := w.meta.PrimitiveDecode(value, &refuser{}); errors.As(err, &parse) && parse.Position.Line > 0 {
		return parse.Position.Line
	}
	var keys map[string]toml.Primitive
	if err := w.meta.PrimitiveDecode(value, &keys); err != nil {
		return 0
	}
	first := 0
	for _, inner := range keys {
		if line := w.line(inner); line > 0 && (first == 0 || line < first) {
			first = line
		}
	}
	return first
}

type refuser struct{}

func (*refuser) UnmarshalTOML(any) error { return errors.New("position wanted") }

func kindName(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Bool:
		return "true or false"
	case reflect.Int:
		return "a whole number"
	case reflect.Slice:
		return `a list of strings, such as ["a", "b"]`
	default:
		return "a string in quotes"
	}
}

// fieldsByKey maps the keys of a table to the fields of its struct.
func fieldsByKey(t reflect.Type) map[string]int {
	fields := map[string]int{}
	for i := range t.NumField() {
		fields[t.Field(i).Tag.Get("toml")] = i
	}
	return fields
}

func sortedKeys[V any](m map[string]V) []string {
	return slices.Sorted(maps.Keys(m))
}

// nearest returns the candidate that a name was probably meant to be: the one
// that the fewest changes of a letter lead to, if they are few.
func nearest(name string, candidates []string) string {
	best, most := "", len(name)/2+1
	for _, c := range candidates {
		if d := distance(strings.ToLower(name), c); d < most {
			best, most = c, d
		}
	}
	return best
}

// distance is the Levenshtein distance of two strings.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diagonal, row[j+1] = row[j+1], min(row[j]+1, row[j+1]+1, diagonal+cost)
		}
	}
	return row[len(b)]
}
