package keystore

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"testing/synctest"
)

// twoKeys is a store with an active key a and an active key b of example.com,
// in which the rows of domain.toml are to be spoilt.
func twoKeys(t *testing.T) (d *Dir, spoil func(old, new string)) {
	t.Helper()
	d = newDir(t, DirOptions{})
	dom := create(t, d, "example.com") // has a key a
	dom.Keys = append(dom.Keys, newKey(t, "b"))
	for i := range dom.Keys {
		dom.Keys[i].State, dom.Keys[i].Note = Active, "note of "+dom.Keys[i].Selector
	}
	if err := d.Update(t.Context(), dom); err != nil {
		t.Fatal(err)
	}
	path := d.file("example.com", tomlName)
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return d, func(old, new string) {
		t.Helper()
		at := strings.LastIndex(string(good), old)
		if at < 0 {
			t.Fatalf("no %q in\n%s", old, good)
		}
		write(t, path, string(good[:at])+new+string(good[at+len(old):]), 0o644)
	}
}

func TestABadRowStopsNoOtherKey(t *testing.T) {
	for _, test := range []struct {
		what, old, new string // replaced where it stands last, in the row of b
		signs, broken  string // selectors, "?" for an unknown one
	}{
		{"nothing", `note of b`, `note of b`, "a b", ""},
		{"a state that there is not", `"active"`, `"aktive"`, "a", "b"},
		{"an unknown setting", `note = "note of b"`, `nite = "note of b"`, "a", "b"},
		{"an active key with a wrong algorithm", `algorithm = "ed25519"`, `algorithm = "rsa-2048"`, "a", "b"},
		{"a retired key with a wrong setting", "state = \"active\"", "state = \"retired\"\nnite = 1", "a", ""},
		{"a selector that is none", `selector = "b"`, `selector = "b b"`, "a", "?"},
		{"a header that is none", `[[key]]`, `[[key]`, "a", "?"},
		{"a second row for the same selector", `selector = "b"`, `selector = "a"`, "", "a a"},
		{"a bad event", `note = "note of b"`, "note = \"x\"\n[[event]]\nwhat = \"sold\"", "a b", ""},
		{"a bad slot", `note = "note of b"`, "note = \"x\"\n[[slot]]\nselector = \"a b\"", "a b", ""},
	} {
		t.Run(test.what, func(t *testing.T) {
			d, spoil := twoKeys(t)
			spoil(test.old, test.new)
			c := NewCache(d, CacheOptions{})
			defer c.Close()
			got, err := c.Signing(t.Context(), "example.com")
			if err != nil {
				t.Fatal(err)
			}
			var broken []string
			for _, err := range got.Broken {
				var key *KeyError
				var file *FileError
				if !errors.As(err, &key) || !errors.As(err, &file) || file.Line == 0 || !errors.Is(err, ErrBroken) {
					t.Errorf("%v (%T) does not tell the line", err, err)
					continue
				}
				if key.Selector == "" {
					key.Selector = "?"
				}
				broken = append(broken, key.Selector)
			}
			if selectors(got) != test.signs || strings.Join(broken, " ") != test.broken {
				t.Errorf("signs with %q, broken %q, want %q and %q", selectors(got), broken, test.signs, test.broken)
			}

			// What could not be read must not get lost.
			dom, err := d.Domain(t.Context(), "example.com")
			if err != nil {
				t.Fatal(err)
			}
			before, _ := os.ReadFile(d.file("example.com", tomlName))
			dom.Keys = append(dom.Keys, newKey(t, "c"))
			errUpdate := d.Update(t.Context(), dom)
			after, _ := os.ReadFile(d.file("example.com", tomlName))
			found := d.Check(t.Context(), "example.com")
			if test.what == "nothing" {
				if errUpdate != nil || dom.Whole() != nil || len(found) != 0 {
					t.Errorf("a good file: %v, %v, %v", errUpdate, dom.Whole(), found)
				}
				return
			}
			var file *FileError
			if errUpdate == nil || dom.Whole() == nil || !errors.As(errUpdate, &file) || string(before) != string(after) {
				t.Errorf("Update: %v\n%s", errUpdate, after)
			}
			if _, err := os.Stat(d.file("example.com", "c.pem")); err == nil {
				t.Error("the refused Update has left a key")
			}
			listed := false
			for _, err := range found {
				listed = listed || errors.As(err, &file) && file.Line > 0 && file.Repair != ""
			}
			if !listed {
				t.Errorf("Check does not name the line: %v", found)
			}
			// Nor by one who did not read it.
			fresh := &Domain{Name: "example.com", Version: dom.Version, Keys: dom.Keys}
			if err := d.Update(t.Context(), fresh); err == nil {
				t.Error("Update took a domain made anew")
			}
		})
	}
}

func TestADomainOfWhichTheFileIsBrokenIsNotRead(t *testing.T) {
	for _, text := range []string{"version = 0\n", "", "[[key]]\n", "strict = true\nversion = 3\n", "version = 3\n\xff"} {
		d, _ := twoKeys(t)
		write(t, d.file("example.com", tomlName), text, 0o644)
		if dom, err := d.Domain(t.Context(), "example.com"); err == nil || !errors.Is(err, ErrBroken) {
			t.Errorf("%q: %+v, %v", text, dom, err)
		}
	}
}

// While the store has keys that it cannot read, what signed goes on to.
func TestAKeyWhoseRowBecomesUnreadableGoesOnSigning(t *testing.T) {
	for _, test := range []struct {
		what          string
		bad           BadRow
		signs, broken string
	}{
		{"its state is not known", BadRow{Selector: "b", Active: true}, "a b", ""},
		{"its selector is not known", BadRow{Active: true}, "a b", ""},
		{"it is active no more", BadRow{Selector: "b"}, "a", ""},
		{"it is another", BadRow{Selector: "c", Active: true}, "a", "c"},
	} {
		synctest.Test(t, func(t *testing.T) {
			s := newFakeStore(t)
			var log errorLog
			c := NewCache(s, CacheOptions{OnError: log.add})
			defer c.Close()
			a, b := s.key(t, "a", Active), s.key(t, "b", Active)
			s.put(&Domain{Name: "example.com", Version: 1, Keys: []Key{a, b}})
			if got := selectors(mustSign(t, c, "example.com")); got != "a b" {
				t.Fatalf("signs with %q", got)
			}
			test.bad.Err = errors.New("line 12 makes no sense")
			s.put(&Domain{Name: "example.com", Version: 1, Keys: []Key{a}, Unreadable: []BadRow{test.bad}})
			c.InvalidateAll()
			got := mustSign(t, c, "example.com")
			var broken []string
			for _, err := range got.Broken {
				var key *KeyError
				errors.As(err, &key)
				broken = append(broken, key.Selector)
			}
			if selectors(got) != test.signs || strings.Join(broken, " ") != test.broken {
				t.Errorf("%s: signs with %q, broken %q, want %q and %q", test.what, selectors(got), broken, test.signs, test.broken)
			}
			if told := fmt.Sprint(log.take()); (test.signs == "a b") != strings.Contains(told, "line 12") {
				t.Errorf("%s: told %s", test.what, told)
			}
		})
	}
}
