package keystore

import (
	"errors"
	"fmt"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/BurntSushi/toml"
)

// zeroKey is the base64 of a public key of 32 zero octets.
const zeroKey = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="

// goodRow is a row that nothing is wrong with, six lines long.
const goodRow = "[[key]]\nselector = \"a\"\nalgorithm = \"ed25519\"\nstate = \"active\"\npublic = \"" + zeroKey + "\"\ncreated = 2026-11-22T10:00:00Z\n"

func TestDecodeDomainAcceptsWhatTOMLAllows(t *testing.T) {
	want := &Domain{Name: "example.com", Version: 3, Keys: []Key{{
		Selector: "a", Algorithm: Ed25519, State: Active, Public: make([]byte, 32),
		Created: time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC), Note: "note #1",
	}}}
	plain := "version = 3\n" + goodRow + "note = \"note #1\"\n"
	for what, text := range map[string]string{
		"as written":            plain,
		"with CRLF":             strings.ReplaceAll(plain, "\n", "\r\n"),
		"with a BOM":            "\uFEFF" + plain,
		"indented, no end":      "  version=3\n\t" + strings.ReplaceAll(strings.TrimSpace(plain[12:]), "\n", "\n\t "),
		"with comments":         "# x\n\n" + strings.ReplaceAll(plain, "\n", " # [[key]] = \"\n"),
		"other number":          strings.Replace(plain, "= 3", "= 0x3", 1),
		"literal strings":       strings.ReplaceAll(plain, `"`, "'"),
		"escapes":               strings.Replace(plain, "note #1", `\u006eote\u0020#1`, 1),
		"another zone":          strings.Replace(plain, "10:00:00Z", "12:00:00+02:00", 1),
		"a blank in the stamp":  strings.Replace(plain, "22T10", "22 10", 1),
		"settings in any order": "version = 3\n[[key]]\nnote = \"note #1\"\n" + goodRow[8:],
	} {
		got, errs, _ := decodeDomain("domain.toml", "example.com", []byte(text))
		if len(errs) != 0 || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %+v, %v", what, got, errs)
		}
	}
}

// TestRowsAreAsEximReadsThem holds what is written to the lines that the
// expression in contrib/exim looks for; no text of a row can look like them.
func TestRowsAreAsEximReadsThem(t *testing.T) {
	macros, err := os.ReadFile("../contrib/exim/waxseal.macros")
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile(`\{\\N(\(\?s\).*)\\N\}\{\\\$1 : \}`).FindSubmatch(macros)
	if found == nil {
		t.Fatal("no expression in waxseal.macros")
	}
	active := newKey(t, "a")
	active.State = Active
	active.Note = "\nselector = \"x\"\nalgorithm = \"ed25519\"\nstate = \"active\"\n"
	active.Reason = "\"\"\"" + active.Note
	last := newKey(t, "b.c-d")
	last.State = Active
	d := &Domain{Name: "example.com", Keys: []Key{newKey(t, "p"), active, newKey(t, "q"), last},
		History: []Event{{Selector: "a", What: WasCreated, By: active.Note, Reason: active.Note}}}
	text, err := encodeDomain(d)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, m := range regexp.MustCompile(string(found[1])).FindAllSubmatch(text, -1) {
		if len(m[1]) > 0 {
			got = append(got, string(m[1]))
		}
	}
	if want := []string{"a", "b.c-d"}; !slices.Equal(got, want) {
		t.Errorf("Exim signs with %q, want %q, of\n%s", got, want, text)
	}
}

func TestDecodeDomainNamesLineAndRemedy(t *testing.T) {
	two := "version = 3\n" + goodRow + strings.Replace(goodRow, `"a"`, `"b"`, 1) // lines 1, 2 to 7, 8 to 13
	for _, test := range []struct {
		what, old, new string // replaced in two, last occurrence
		line           int
		problem        string
		repair         string
	}{
		{"no version", "version = 3\n", "", 0, `"version" is missing`, "version = 1"},
		{"version in quotes", "= 3", `= "3"`, 1, "wrong value", "whole number"},
		{"version 0", "= 3", `= 0`, 1, "wrong value", "whole number"},
		{"version negative", "= 3", `= -3`, 1, "wrong value", "whole number"},
		{"version too large", "= 3", `= 99999999999999999999`, 1, "not TOML", ""},
		{"version a float", "= 3", `= 3.0`, 1, "wrong value", "whole number"},
		{"version in capitals", "version", "Version", 1, `unknown setting "Version"`, `"version"`},
		{"version twice", "version = 3", "version = 3\nversion = 4", 2, "set twice, first in line 1", "delete"},
		{"version below", goodRow[:8], goodRow[:8], 0, "", ""},
		{"version inside a row", `selector = "b"`, "selector = \"b\"\nversion = 4", 10, `inside a [[key]] row`, "move it"},
		{"setting outside a row", "version = 3", "version = 3\nstate = \"active\"", 2, "outside a [[key]] row", "move it"},
		{"unknown setting at the top", "version = 3", "version = 3\nstrict = true", 2, `unknown setting "strict"`, "delete it"},
		{"a typing error", "algorithm", "algoritm", 10, `unknown setting "algoritm"`, `did you mean "algorithm"`},
		{"capitals", "state", "State", 11, `unknown setting "State"`, `did you mean "state"`},
		{"a quoted name", "state", `"state"`, 11, "unknown setting", ""},
		{"a dotted name", "state", `state.x`, 11, "unknown setting", ""},
		{"nothing like it", "state", `colour`, 11, `unknown setting "colour"`, "delete it"},
		{"twice", `state = "active"`, "state = \"active\"\nstate = \"retired\"", 12, "set twice, first in line 11", "delete"},
		{"unknown state", `"active"`, `"asleep"`, 11, `"state" has a wrong value`, `"pending" "active"`},
		{"state a number", `"active"`, `1`, 11, `"state" has a wrong value`, `"pending" "active"`},
		{"selector a number", `"b"`, `2`, 9, "wrong value", "in quotes"},
		{"selector a path", `"b"`, `"../b"`, 8, "empty label", "correct the row"},
		{"selector missing", `selector = "b"`, "", 8, "empty", "correct the row"},
		{"selector twice", `"b"`, `"a"`, 8, `"a" has a second row, the first is in line 2`, "delete"},
		{"unknown algorithm", `"ed25519"`, `"dsa"`, 8, `algorithm "dsa"`, ""},
		{"another algorithm", `"ed25519"`, `"rsa-2048"`, 8, "rsa public key", ""},
		{"public not base64", zeroKey, "AA==*", 12, `"public" has a wrong value`, "base64"},
		{"public not whole", zeroKey, zeroKey[4:], 8, "29 octets, want 32", ""},
		{"public with a line end", zeroKey, `AAAA\n` + zeroKey[4:], 12, `"public" has a wrong value`, "base64"},
		{"public missing", `public = "` + zeroKey + `"`, "", 8, "0 octets", "add its public key"},
		{"time in quotes", "2026-11-22T10:00:00Z", `"2026-11-22T10:00:00Z"`, 13, `"created" has a wrong value`, "without quotes"},
		{"time without a zone", "2026-11-22T10:00:00Z", "2026-11-22T10:00:00", 13, `"created" has a wrong value`, "without quotes"},
		{"only a day", "2026-11-22T10:00:00Z", "2026-11-22", 13, `"created" has a wrong value`, "without quotes"},
		{"no such day", "2026-11-22T10:00:00Z", "2026-11-32T10:00:00Z", 13, `not TOML`, ""},
		{"before 1970", "2026-11-22T10:00:00Z", "0001-01-02T10:00:00Z", 8, `1970`, ""},
		{"a number of seconds", "2026-11-22T10:00:00Z", "1793268000", 13, `"created" has a wrong value`, "without quotes"},
		{"open quotes", `"active"`, `"active`, 11, "not TOML", ""},
		{"no value", `state = "active"`, "state =", 11, "not a setting", ""},
		{"no equals", `state = "active"`, "state", 11, "not a setting", ""},
		{"two values", `"active"`, `"active" "retired"`, 11, "not TOML", ""},
		{"a list", `"active"`, `["active"]`, 11, "single value", ""},
		{"a nest of lists", `"active"`, strings.Repeat("[", 1<<18), 11, "single value", ""},
		{"a nest of tables", `"active"`, strings.Repeat("{a=", 1<<16), 11, "single value", ""},
		{"a text of several lines", `"active"`, "\"\"\"\nactive\"\"\"", 11, "single value", ""},
		{"another table", "[[key]]", "[key]", 8, `unknown table "[key]"`, "[[key]]"},
		{"another list", "[[key]]", "[[keys]]", 8, `unknown table "[[keys]]"`, "[[key]]"},
		{"a nested list", "[[key]]", "[[key]]\n[[key.x]]", 9, `unknown table "[[key.x]]"`, "[[key]]"},
		{"not UTF-8", `"active"`, "\"\xff\"", 0, "not UTF-8", "save it"},
		{"control character", `"active"`, "\"\x01\"", 11, "not TOML", ""},
		{"control character in a comment", `"active"`, "\"active\"\n#\x01", 12, "control character", ""},
	} {
		at := strings.LastIndex(two, test.old)
		text := two[:at] + test.new + two[at+len(test.old):]
		_, errs, _ := decodeDomain("/keys/example.com/domain.toml", "example.com", []byte(text))
		if test.problem == "" {
			continue
		}
		if len(errs) == 0 {
			t.Errorf("%s: accepted", test.what)
			continue
		}
		var e *FileError
		if !errors.As(errs[0], &e) {
			t.Errorf("%s: %T", test.what, errs[0])
			continue
		}
		where := "/keys/example.com/domain.toml:"
		if test.line > 0 {
			where += fmt.Sprintf("%d:", test.line)
		}
		problems := errors.Join(errs...).Error()
		if e.Line != test.line || !strings.Contains(problems, test.problem) || !strings.HasPrefix(e.Error(), where) ||
			e.Repair == "" || !strings.Contains(problems, test.repair) {
			t.Errorf("%s: %s\nwant line %d, %q and %q", test.what, problems, test.line, test.problem, test.repair)
		}
	}
}

func TestDecodeDomainReportsEveryProblem(t *testing.T) {
	text := "version = 0\nfoo = 1\n[[key]]\nselector = 1\nstate = \"x\"\n[bar]\n"
	_, errs, _ := decodeDomain("f", "example.com", []byte(text))
	var lines []int
	for _, err := range errs {
		lines = append(lines, err.(*FileError).Line)
	}
	if want := []int{1, 2, 4, 5, 6}; !reflect.DeepEqual(lines, want) {
		t.Errorf("problems in lines %v, want %v: %v", lines, want, errs)
	}
}

func FuzzDecodeDomain(f *testing.F) {
	f.Add([]byte("version = 3\n" + goodRow))
	f.Add([]byte("version = 3\r\n[[key]]\r\nselector = 'x' # c\r\nstate = \"removed\"\r\nnote = \"\\u00e9\"\r\n"))
	f.Add([]byte("\uFEFFversion = 0b1\n[[key]] # x\nremoved = 2026-01-01 10:00:00.5+01:00\n"))
	f.Add([]byte("version = [[[[\n"))
	f.Add([]byte("version = 3\n" + goodRow + "[[key]]\nselector = \"b\"\nstate = \"asleep\"\n[[slot]]\nx = 1\n[[event]]\n[x]\ny = 2\n" + goodRow))
	f.Add([]byte("version = \"\"\"\n3\"\"\"\n"))
	f.Add([]byte("[[key]]\n[[key]]\n[key]\n[[key.x]]\nx\n=\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		d, errs, ok := decodeDomain("f", "example.com", data)
		for _, err := range errs {
			if e, ok := err.(*FileError); !ok || e.Problem == "" || e.Repair == "" {
				t.Errorf("%#v has no remedy", err)
			}
		}
		if !ok {
			return
		}
		if err := d.Validate(); err != nil {
			t.Fatalf("accepted, but: %v", err)
		}
		if (len(errs) != 0) != (d.Whole() != nil) {
			t.Fatalf("problems %v, unreadable rows %v", errs, d.Unreadable)
		}
		if len(errs) != 0 {
			return
		}
		written, err := encodeDomain(d)
		if err != nil {
			t.Fatal(err)
		}
		again, errs, _ := decodeDomain("f", "example.com", written)
		if len(errs) != 0 || !reflect.DeepEqual(again, d) {
			t.Fatalf("wrote\n%s\nread %+v, %v, want %+v", written, again, errs, d)
		}
	})
}

// FuzzEncodeDomain checks the other direction: any text comes back.
func FuzzEncodeDomain(f *testing.F) {
	f.Add("2026a", "a note", "a reason", int64(0), int64(1793268000))
	f.Add("x.y", "\"\\\t'''", "[[key]]\u0085\u2028", int64(1), int64(-1))
	f.Fuzz(func(t *testing.T, selector, note, reason string, created, removed int64) {
		d := &Domain{Name: "example.com", Version: 7, Keys: []Key{{
			Selector: selector, Algorithm: Ed25519, State: Removed, Public: make([]byte, 32), Note: note, Reason: reason,
			Created: time.Unix(created, created&0xffff).UTC(), Removed: time.Unix(removed, 0).UTC(),
		}}}
		if d.Validate() != nil {
			return
		}
		written, err := encodeDomain(d)
		if err != nil {
			t.Fatal(err)
		}
		got, errs, _ := decodeDomain("f", "example.com", written)
		if len(errs) != 0 || !reflect.DeepEqual(got, d) {
			t.Fatalf("wrote\n%s\nread %+v, %v, want %+v", written, got, errs, d)
		}
	})
}

// What is read without the library is what the library reads.
func TestPlainValuesAreThoseOfTOML(t *testing.T) {
	for _, value := range []string{
		`""`, `"a b"`, `"ü…"`, `"#"`, `"a'b"`, `"a\"b"`, `"\\"`, `"\u00fc"`, `"`, `"a"b"`, `"a" # b"`, "\"a\tb\"", "\"a\x01b\"", "\"\x7f\"", `'a'`,
		"true", "false", "TRUE", "truex", "17", "2026-11-22T10:00:00Z", "2026-11-22t10:00:00Z", "2026-11-22 10:00:00Z", "2024-02-29T00:00:00Z",
		"2026-02-29T00:00:00Z", "2026-11-22T23:59:60Z", "2026-11-22T24:00:00Z", "0000-01-01T00:00:00Z", "2026-11-22T10:00:00+01:00", "2026-1-22T010:00:00Z",
	} {
		got, plain := plainValue(value)
		if !plain {
			continue
		}
		var want map[string]any
		if err := toml.Unmarshal([]byte("v = "+value), &want); err != nil || !reflect.DeepEqual(got, want["v"]) {
			t.Errorf("%s is read as %#v, the library says %#v, %v", value, got, want["v"], err)
		}
	}
}
