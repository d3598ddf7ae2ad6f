package keystore

import (
	"bytes"
	"cmp"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/BurntSushi/toml"
)

// maxDomainFile bounds domain.toml. A key has two kilobytes in it by the end of
// its life, history included: thirty years of new keys of both kinds in every
// month are 720 keys in a third of this (BenchmarkThirtyYears).
const maxDomainFile = 4 << 20

// tomlHead begins every domain.toml.
const tomlHead = `# Keys of %s, written by waxseal. To change a key use "waxseal key".
# If you edit by hand, stop other writers and raise the version by one.

`

// tomlKey is a [[key]] row as it is written. Reading goes by tomlFields. Exim,
// with the files of contrib/exim, goes by the lines of selector, algorithm and
// state, which therefore come first and in this order.
type tomlKey struct {
	Selector  string     `toml:"selector"`
	Algorithm string     `toml:"algorithm"`
	State     string     `toml:"state"`
	Public    string     `toml:"public"`
	Created   *time.Time `toml:"created"`
	Activated *time.Time `toml:"activated"`
	Retired   *time.Time `toml:"retired"`
	Revoked   *time.Time `toml:"revoked"`
	Removed   *time.Time `toml:"removed"`
	Published *time.Time `toml:"published"`
	Seen      *time.Time `toml:"seen"`
	Ready     *time.Time `toml:"ready"`
	Withdrawn *time.Time `toml:"withdrawn"`
	Urgent    bool       `toml:"urgent,omitempty"`
	Note      string     `toml:"note,omitempty"`
	Reason    string     `toml:"reason,omitempty"`
}

// tomlSlot is a [[slot]] row, tomlEvent an [[event]] row as it is written.
type tomlSlot struct {
	Selector string `toml:"selector"`
	Target   string `toml:"target"`
}

type tomlEvent struct {
	Time     time.Time `toml:"time"`
	Selector string    `toml:"selector,omitempty"`
	What     string    `toml:"what"`
	By       string    `toml:"by,omitempty"`
	Reason   string    `toml:"reason,omitempty"`
	Forced   bool      `toml:"forced,omitempty"`
}

// encodeDomain writes domain.toml. What it writes, decodeDomain reads back.
func encodeDomain(d *Domain) ([]byte, error) {
	file := struct {
		Version int64       `toml:"version"`
		Key     []tomlKey   `toml:"key"`
		Slot    []tomlSlot  `toml:"slot"`
		Event   []tomlEvent `toml:"event"`
	}{Version: int64(d.Version)}
	for i := range d.Keys {
		k := &d.Keys[i]
		file.Key = append(file.Key, tomlKey{
			Selector: k.Selector, Algorithm: string(k.Algorithm), State: string(k.State),
			Public:  base64.StdEncoding.EncodeToString(k.Public),
			Created: tomlTime(k.Created), Activated: tomlTime(k.Activated), Retired: tomlTime(k.Retired),
			Revoked: tomlTime(k.Revoked), Removed: tomlTime(k.Removed),
			Published: tomlTime(k.Published), Seen: tomlTime(k.Seen), Ready: tomlTime(k.Ready), Withdrawn: tomlTime(k.Withdrawn),
			Urgent: k.Urgent, Note: k.Note, Reason: k.Reason,
		})
	}
	for _, s := range d.Slots {
		file.Slot = append(file.Slot, tomlSlot(s))
	}
	for _, e := range d.History {
		file.Event = append(file.Event, tomlEvent{e.Time.UTC(), e.Selector, string(e.What), e.By, e.Reason, e.Forced})
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, tomlHead, d.Name)
	enc := toml.NewEncoder(&b)
	enc.Indent = ""
	if err := enc.Encode(file); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

func tomlTime(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}

// decoder reads domain.toml line by line: the file is a flat list of settings
// and rows, so each line stands for itself. This gives every problem its exact
// line, also in rows, where the library has none, and keeps nested values,
// which cost it memory without bound, from ever reaching it. What a value
// means is the library's business.
type decoder struct {
	path string
	dom  *Domain
	line int            // the current one, from 1
	row  int            // the present row, counted from 1; 0 above the first
	kind string         // of the present row: key, slot, event, or unknown; empty above the first
	seen map[string]int // line of each setting of the present row
	top  bool           // version was set

	keys, slots, events []place // where each row of dom stands
	strange             []place // rows of unknown kinds

	errs []error
	bad  map[int][]error // errs by row
}

// place is where a row stands in the file.
type place struct{ row, line int }

const unknownKind = "unknown"

// decodeDomain reads the domain.toml at path, strictly, and reports every
// problem with its line. The domain is usable only if ok; then all problems are
// within rows, which are not in the domain but among its Unreadable.
func decodeDomain(path, name string, data []byte) (dom *Domain, errs []error, ok bool) {
	d := &decoder{path: path, dom: &Domain{Name: name}, seen: make(map[string]int), bad: make(map[int][]error)}
	if !utf8.Valid(data) {
		d.fail("not UTF-8", "save it as UTF-8")
		return d.dom, d.errs, false
	}
	data = bytes.TrimPrefix(data, []byte("\uFEFF"))
	for line := range strings.SplitSeq(string(data), "\n") {
		d.line++
		d.decodeLine(strings.TrimSuffix(line, "\r"))
	}
	d.row, d.line = 0, 0
	if !d.top {
		d.fail(`the setting "version" is missing`, `put "version = 1" at the top`)
	}
	d.checkRows()
	d.dropBadRows()
	return d.dom, d.errs, len(d.bad[0]) == 0
}

func (d *decoder) fail(problem, repair string) {
	err := &FileError{Path: d.path, Line: d.line, Problem: problem, Repair: repair}
	d.errs = append(d.errs, err)
	d.bad[d.row] = append(d.bad[d.row], err)
}

func (d *decoder) decodeLine(line string) {
	text := strings.Trim(line, " \t")
	switch {
	case text == "" || text[0] == '#':
		if strings.ContainsFunc(text, func(r rune) bool { return r != '\t' && r < ' ' || r == 0x7f }) {
			d.fail("control character in a comment", "delete it")
		}
	case text[0] == '[':
		d.decodeHeader(text)
	default:
		d.decodeSetting(text)
	}
}

func (d *decoder) decodeHeader(text string) {
	header, comment, _ := strings.Cut(text, "#")
	header = strings.Trim(header, " \t")
	if strings.ContainsRune(comment, 0) {
		header = ""
	}
	d.row++
	here := place{d.row, d.line}
	clear(d.seen)
	switch header {
	case "[[key]]":
		d.dom.Keys, d.keys = append(d.dom.Keys, Key{}), append(d.keys, here)
	case "[[slot]]":
		d.dom.Slots, d.slots = append(d.dom.Slots, Slot{}), append(d.slots, here)
	case "[[event]]":
		d.dom.History, d.events = append(d.dom.History, Event{}), append(d.events, here)
	default:
		d.kind, d.strange = unknownKind, append(d.strange, here)
		d.fail(fmt.Sprintf("unknown table %.40q", text), "a row begins with [[key]], [[slot]] or [[event]]; delete anything else")
		return
	}
	d.kind = strings.Trim(header, "[]")
}

// setter returns the function that sets a field of the present row, or nil, and
// names what there is.
func (d *decoder) setter(name string) (set func(any) string, names func() []string) {
	switch d.kind {
	case "key":
		return keyFields.setter(name, &d.dom.Keys[len(d.dom.Keys)-1]), keyFields.names
	case "slot":
		return slotFields.setter(name, &d.dom.Slots[len(d.dom.Slots)-1]), slotFields.names
	case "event":
		return eventFields.setter(name, &d.dom.History[len(d.dom.History)-1]), eventFields.names
	case "":
		if name == "version" {
			set = d.setVersion
		}
	}
	return set, func() []string { return []string{"version"} }
}

func (d *decoder) setVersion(value any) string {
	version, ok := value.(int64)
	if !ok || version < 1 {
		return "a whole number from 1"
	}
	d.dom.Version = uint64(version)
	return ""
}

func (d *decoder) decodeSetting(text string) {
	if d.kind == unknownKind {
		return // its header was reported
	}
	name, value, ok := strings.Cut(text, "=")
	name, value = strings.Trim(name, " \t"), strings.Trim(value, " \t")
	if !ok || value == "" {
		d.fail(fmt.Sprintf("not a setting: %.40q", text), "write name = value, or delete the line")
		return
	}
	set, names := d.setter(name)
	if set == nil {
		d.unknown(name, names())
		return
	}
	if first := d.seen[name]; first > 0 {
		d.fail(fmt.Sprintf("%q is set twice, first in line %d", name, first), "delete one of the two")
		return
	}
	d.seen[name] = d.line
	d.top = d.top || d.kind == ""
	if value[0] == '[' || value[0] == '{' || strings.HasPrefix(value, `"""`) || strings.HasPrefix(value, `'''`) {
		d.fail(fmt.Sprintf("%q is a list, a table or a text of several lines", name), "write a single value on one line")
		return
	}
	decoded, plain := plainValue(value)
	if !plain {
		var line map[string]any
		if err := toml.Unmarshal([]byte("v = "+value), &line); err != nil {
			d.fail(fmt.Sprintf("the value of %q is not TOML (%s)", name, tomlProblem(err)), "correct it")
			return
		}
		decoded = line["v"]
	}
	if want := set(decoded); want != "" {
		d.fail(fmt.Sprintf("%q has a wrong value", name), "want "+want)
	}
}

// plainValue reads the values that encodeDomain writes nearly always: strings in
// quotes without anything special in them, times in UTC, and true. The library,
// which all else is left to, takes some thirty times as long for each.
func plainValue(value string) (decoded any, ok bool) {
	if value == "true" {
		return true, true
	}
	if n := len(value); n >= 2 && value[0] == '"' && value[n-1] == '"' {
		text := value[1 : n-1]
		for i := range len(text) {
			if c := text[i]; c < ' ' || c == 0x7f || c == '"' || c == '\\' {
				return nil, false
			}
		}
		return text, true
	}
	if len(value) == len("2006-01-02T15:04:05Z") && value[len(value)-1] == 'Z' {
		if t, err := time.Parse("2006-01-02T15:04:05Z", value); err == nil {
			return t, true
		}
	}
	return nil, false
}

// unknown reports a setting that does not exist, or not here.
func (d *decoder) unknown(name string, names []string) {
	_, known := keyFields[name]
	switch {
	case name == "version":
		d.fail(fmt.Sprintf(`"version" inside a [[%s]] row`, d.kind), "move it above the first row")
		return
	case known && d.kind == "":
		d.fail(fmt.Sprintf("%q outside a [[key]] row", name), "move it below the [[key]] it belongs to")
		return
	}
	nearest := slices.MinFunc(names, func(a, b string) int { return cmp.Compare(distance(name, a), distance(name, b)) })
	repair := "delete it"
	if distance(name, nearest) <= 2 {
		repair = fmt.Sprintf("did you mean %q?", nearest)
	}
	d.fail(fmt.Sprintf("unknown setting %.40q", name), repair)
}

// checkRows applies Validate to the rows that could be read, one by one, so that
// each problem gets the line its row begins in. Of two rows for one selector
// neither is good, as it is not known which one is meant.
func (d *decoder) checkRows() {
	const repair = "correct the row, or restore the file from a backup"
	first := make(map[string]place)
	for i, at := range d.keys {
		k := &d.dom.Keys[i]
		d.row, d.line = at.row, at.line
		if err := k.validate(d.dom.Name); err != nil && len(d.bad[d.row]) == 0 {
			repair := repair
			if len(k.Public) == 0 && k.State != Removed {
				repair = "add its public key (waxseal key export --public prints it)"
			}
			d.fail(fmt.Sprintf("key %.40q: %v", k.Selector, err), repair)
		}
		if before, twice := first[k.Selector]; twice && k.Selector != "" {
			d.fail(fmt.Sprintf("key %.40q has a second row, the first is in line %d", k.Selector, before.line), "delete one of the two")
			d.bad[before.row] = append(d.bad[before.row], d.errs[len(d.errs)-1])
		} else {
			first[k.Selector] = at
		}
	}
	named := make(map[string]bool)
	for i, at := range d.slots {
		s := &d.dom.Slots[i]
		d.row, d.line = at.row, at.line
		if err := s.validate(); err != nil && len(d.bad[d.row]) == 0 {
			d.fail(err.Error(), repair)
		}
		if named[s.Selector] && s.Selector != "" {
			d.fail(fmt.Sprintf("slot %.40q has a second row", s.Selector), "delete one of the two")
		}
		named[s.Selector] = true
	}
	for i, at := range d.events {
		d.row, d.line = at.row, at.line
		if err := d.dom.History[i].validate(); err != nil && len(d.bad[d.row]) == 0 {
			d.fail("event: "+err.Error(), repair)
		}
	}
}

// dropBadRows takes the rows with a problem out of the domain, and notes them.
func (d *decoder) dropBadRows() {
	note := func(row BadRow, at place) {
		row.Err = errors.Join(d.bad[at.row]...)
		d.dom.Unreadable = append(d.dom.Unreadable, row)
	}
	keys := d.dom.Keys
	d.dom.Keys = nil
	for i, at := range d.keys {
		k := &keys[i]
		if len(d.bad[at.row]) == 0 {
			d.dom.Keys = append(d.dom.Keys, *k)
			continue
		}
		row := BadRow{Selector: k.Selector, Active: k.State == Active || k.State == ""}
		if ValidSelector(k.Selector) != nil {
			row.Selector = ""
		}
		note(row, at)
	}
	for _, at := range d.strange {
		note(BadRow{Active: true}, at) // the header of a key may have been garbled
	}
	d.dom.Slots = good(d, d.dom.Slots, d.slots, note)
	d.dom.History = good(d, d.dom.History, d.events, note)
}

// good returns the rows without a problem.
func good[Row any](d *decoder, rows []Row, places []place, note func(BadRow, place)) []Row {
	var list []Row
	for i, at := range places {
		if len(d.bad[at.row]) == 0 {
			list = append(list, rows[i])
		} else {
			note(BadRow{}, at)
		}
	}
	return list
}

// tomlProblem is the library's message without the position, which counts from
// our line's beginning.
func tomlProblem(err error) string {
	if parse, ok := err.(toml.ParseError); ok {
		return parse.Message
	}
	return "wrong type"
}

// distance is the number of letters to insert, delete or exchange to make a
// into b. Case does not count: names differ by it only by mistake.
func distance(a, b string) int {
	a, b = strings.ToLower(a[:min(len(a), 40)]), strings.ToLower(b)
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
