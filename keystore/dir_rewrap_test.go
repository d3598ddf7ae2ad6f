package keystore

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// reopen returns the same directory with another Wrapper.
func reopen(t *testing.T, d *Dir, w *Wrapper) *Dir {
	t.Helper()
	next, err := OpenDir(d.Path(), DirOptions{Wrapper: w})
	if err != nil {
		t.Fatal(err)
	}
	return next
}

func TestDirKeepsItsKeysWrapped(t *testing.T) {
	d := newDir(t, DirOptions{Wrapper: newWrapper(t, 1)})
	create(t, d, "example.com")
	stored, err := os.ReadFile(d.file("example.com", "a.pem"))
	if err != nil || !bytes.HasPrefix(stored, []byte("-----BEGIN WAXSEAL WRAPPED KEY-----")) || bytes.Contains(stored, []byte("BEGIN PRIVATE")) {
		t.Fatalf("%v\n%s", err, stored)
	}
	if err := load(t, d, "example.com", "a"); err != nil {
		t.Error(err)
	}
	if errs := d.Check(t.Context(), "example.com"); len(errs) != 0 {
		t.Errorf("Check: %v", errs)
	}
	if errs := reopen(t, d, newWrapper(t, 2, 1)).Check(t.Context(), "example.com"); len(errs) != 0 {
		t.Errorf("with a newer key in front: %v", errs)
	}
	for what, w := range map[string]*Wrapper{"without a key": nil, "with another key": newWrapper(t, 2)} {
		d := reopen(t, d, w)
		var file *FileError
		var missing *WrappedError
		for _, err := range []error{load(t, d, "example.com", "a"), errors.Join(d.Check(t.Context(), "example.com")...)} {
			if !errors.As(err, &file) || !errors.As(err, &missing) || !strings.Contains(file.Repair, "key_encryption_key") || !strings.Contains(file.Problem, missing.ID) {
				t.Errorf("%s: %v", what, err)
			}
		}
	}
	// A file that is put in another's place is not that key.
	write(t, d.file("example.com", "a.pem"), string(stored), 0o600)
	create(t, d, "example.org")
	write(t, d.file("example.org", "a.pem"), string(stored), 0o600)
	if err := load(t, d, "example.org", "a"); err == nil || !strings.Contains(err.Error(), "not that of a.example.org") {
		t.Errorf("a key of another domain: %v", err)
	}
}

func TestRewrap(t *testing.T) {
	d := newDir(t, DirOptions{})
	dom := create(t, d, "example.com") // has a key a
	dom.Keys = append(dom.Keys, newKey(t, "b"))
	if err := d.Update(t.Context(), dom); err != nil {
		t.Fatal(err)
	}
	for _, w := range []*Wrapper{newWrapper(t, 1), newWrapper(t, 2, 1), newWrapper(t, 2)} {
		d := reopen(t, d, w)
		want := []string{"a", "b"}
		if len(w.keys) == 1 && w.find(newWrapper(t, 1).keys[0].id[:]) == nil {
			want = nil // the old key has become needless
		}
		for _, dryRun := range []bool{true, true, false} {
			if got, err := d.Rewrap(t.Context(), "example.com", dryRun); err != nil || !slices.Equal(got, want) {
				t.Errorf("dry run %v: %q, %v, want %q", dryRun, got, err, want)
			}
		}
		if got, err := d.Rewrap(t.Context(), "example.com", false); err != nil || len(got) != 0 {
			t.Errorf("again: %q, %v", got, err)
		}
		if errs := d.Check(t.Context(), "example.com"); len(errs) != 0 {
			t.Errorf("Check: %v", errs)
		}
	}
	// One bad key stops no other, and stays as it is.
	d = reopen(t, d, newWrapper(t, 3, 2))
	write(t, d.file("example.com", "a.pem"), "damaged", 0o600)
	got, err := d.Rewrap(t.Context(), "example.com", false)
	var key *KeyError
	if !slices.Equal(got, []string{"b"}) || !errors.As(err, &key) || key.Selector != "a" {
		t.Errorf("%q, %v", got, err)
	}
	if data, _ := os.ReadFile(d.file("example.com", "a.pem")); string(data) != "damaged" {
		t.Errorf("the damaged file has become %q", data)
	}
	// Nor does a bad row, whose key nobody may think encrypted anew.
	write(t, d.file("example.com", "a.pem"), "damaged", 0o600)
	rows, err := os.ReadFile(d.file("example.com", tomlName))
	if err != nil {
		t.Fatal(err)
	}
	write(t, d.file("example.com", tomlName), strings.Replace(string(rows), `selector = "a"`, `selector = "a"
state = 7`, 1), 0o600)
	d = reopen(t, d, newWrapper(t, 4, 3))
	for _, dryRun := range []bool{true, false} {
		if got, err := d.Rewrap(t.Context(), "example.com", dryRun); !slices.Equal(got, []string{"b"}) || err == nil || !strings.Contains(err.Error(), "cannot be read") {
			t.Errorf("dry run %v with a bad row: %q, %v", dryRun, got, err)
		}
	}
}

// A Rewrap that ends at any point leaves every key readable, and the next one
// goes on.
func TestRewrapSurvivesACrashAtEveryStep(t *testing.T) {
	crash := errors.New("crash")
	for at := 0; ; at++ {
		d := newDir(t, DirOptions{})
		dom := create(t, d, "example.com")
		dom.Keys = append(dom.Keys, newKey(t, "b"))
		if err := d.Update(t.Context(), dom); err != nil {
			t.Fatal(err)
		}
		d = reopen(t, d, newWrapper(t, 1))
		steps, name := 0, ""
		d.between = func(step string) error {
			if steps++; steps > at {
				name = step
				return crash
			}
			return nil
		}
		_, err := d.Rewrap(t.Context(), "example.com", false)
		d.between = nil
		for _, selector := range []string{"a", "b"} {
			if err := load(t, d, "example.com", selector); err != nil {
				t.Errorf("after a crash before %q: %v", name, err)
			}
		}
		if name == "" {
			if err != nil || at < 8 {
				t.Errorf("%d steps, %v", at, err)
			}
			return
		}
		if !errors.Is(err, crash) {
			t.Errorf("crash before %q: %v", name, err)
		}
		if _, err := d.Rewrap(t.Context(), "example.com", false); err != nil {
			t.Errorf("going on after %q: %v", name, err)
		}
		for _, selector := range []string{"a", "b"} {
			if data, _ := os.ReadFile(d.file("example.com", selector+pemExt)); !d.opts.Wrapper.Current(data) {
				t.Errorf("%s is not wrapped when gone on after %q", selector, name)
			}
		}
		if left, _ := filepath.Glob(filepath.Join(d.Path(), "example.com", tempPrefix+"*")); len(left) != 0 {
			t.Errorf("after %q: %q is left", name, left)
		}
	}
}

func TestReadWrapper(t *testing.T) {
	path := filepath.Join(t.TempDir(), "wrap")
	if _, err := ReadWrapper(path); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), path) {
		t.Errorf("no file: %v", err)
	}
	for mode, ok := range map[os.FileMode]bool{0o600: true, 0o400: true, 0o440: true, 0o644: false, 0o660: false} {
		write(t, path, wrapLine(1), mode)
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		_, err := ReadWrapper(path)
		var permission *PermissionError
		if (err == nil) != ok || !ok && (!errors.As(err, &permission) || permission.Path != path) {
			t.Errorf("mode %04o: %v", mode, err)
		}
	}
}
