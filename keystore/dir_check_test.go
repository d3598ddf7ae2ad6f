package keystore

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestCheckFindsEveryProblemAtOnce(t *testing.T) {
	d := newDir(t, DirOptions{})
	dom := create(t, d, "example.com")
	for _, selector := range []string{"b", "c", "d", "e", "f", "gone"} {
		dom.Keys = append(dom.Keys, newKey(t, selector))
	}
	if err := d.Update(t.Context(), dom); err != nil {
		t.Fatal(err)
	}
	dom.Key("gone").State = Removed
	if err := d.Update(t.Context(), dom); err != nil {
		t.Fatal(err)
	}
	if errs := d.Check(t.Context(), "example.com"); len(errs) != 0 {
		t.Fatalf("a good domain: %v", errs)
	}

	path := func(name string) string { return d.file("example.com", name) }
	other := string(keyFile(t, "ed25519.pem"))
	write(t, path("a.pem"), other, 0o600)                             // of another record
	os.Chmod(path("b.pem"), 0o644)                                    // open
	os.Remove(path("c.pem"))                                          // missing
	write(t, path("d.pem"), string(keyFile(t, "dsa.pem")), 0o600)     // no key of ours
	write(t, path("gone.pem"), other, 0o600)                          // should be gone
	write(t, path("stray.pem"), other, 0o600)                         // no row
	write(t, path(".tmp-XYZ"), other, 0o600)                          // left by a crash
	write(t, path("x; y.pem"), other, 0o600)                          // no row, and no selector
	os.Chmod(path("domain.toml"), 0o666)                              // anyone may write
	os.Remove(path("e.pem"))                                          // e's file is a
	if err := os.Symlink(path("nosuch"), path("e.pem")); err != nil { // link to nowhere
		t.Fatal(err)
	}
	want := map[string]string{
		path("a.pem"):       "does not match",
		path("b.pem"):       "open to",
		path("c.pem"):       "missing",
		path("d.pem"):       "DSA",
		path("e.pem"):       "missing",
		path("gone.pem"):    "removed key",
		path("stray.pem"):   "waxseal key import example.com stray",
		path("x; y.pem"):    "without a row in domain.toml; delete it",
		path(".tmp-XYZ"):    "did not finish",
		path("domain.toml"): "writable by others",
	}
	for _, err := range d.Check(t.Context(), "example.com") {
		var file *FileError
		var permission *PermissionError
		var where string
		switch {
		case errors.As(err, &file) && file.Repair != "":
			where = file.Path
		case errors.As(err, &permission) && permission.Repair != "":
			where = permission.Path
		default:
			t.Errorf("%v: no path or remedy", err)
		}
		if text := want[where]; text == "" || !strings.Contains(err.Error(), text) {
			t.Errorf("%v, want %q", err, text)
		}
		delete(want, where)
	}
	for path, text := range want {
		t.Errorf("not found: %s, %s", path, text)
	}

	// Rows that are broken do not hide keys that are, and the other way round.
	data, _ := os.ReadFile(path("domain.toml"))
	write(t, path("domain.toml"), strings.Replace(string(data), `note = `, ``, 1)+"[[key]]\nselector = \"x\"\nstate = \"asleep\"\n", 0o644)
	errs := errors.Join(d.Check(t.Context(), "example.com")...).Error()
	for _, text := range []string{"does not match", "asleep", "DSA", "missing"} {
		if text = strings.Replace(text, "asleep", `"state" has a wrong value`, 1); !strings.Contains(errs, text) {
			t.Errorf("no word of %q in %s", text, errs)
		}
	}
	if strings.Contains(errs, "stray.pem") {
		t.Error("a stray key is named although a row could not be read")
	}
}

func TestCheckOfWhatIsNotThere(t *testing.T) {
	d := newDir(t, DirOptions{})
	for _, name := range []string{"example.com", "../x", ""} {
		if errs := d.Check(t.Context(), name); len(errs) != 1 {
			t.Errorf("%q: %v, want one error", name, errs)
		}
	}
	os.Mkdir(filepath.Join(d.Path(), "empty.example"), 0o750)
	errs := d.Check(t.Context(), "empty.example")
	if len(errs) != 1 || !strings.Contains(errs[0].Error(), "domain.toml: missing; restore it") {
		t.Errorf("a directory without domain.toml: %v", errs)
	}
	ctx, cancel := context.WithCancel(t.Context())
	create(t, d, "example.com")
	cancel()
	if err := errors.Join(d.Check(ctx, "example.com")...); !errors.Is(err, context.Canceled) {
		t.Errorf("an ended context: %v", err)
	}
}

func TestCheckRoot(t *testing.T) {
	d := newDir(t, DirOptions{})
	create(t, d, "example.com")
	write(t, filepath.Join(d.Path(), "logins.toml"), "", 0o644)
	os.Mkdir(filepath.Join(d.Path(), "lost+found"), 0o700)
	if errs := d.CheckRoot(t.Context()); len(errs) != 0 {
		t.Errorf("a good store: %v", errs)
	}
	upper := filepath.Join(d.Path(), "Example.NET")
	os.Mkdir(upper, 0o750)
	write(t, filepath.Join(upper, "domain.toml"), "version = 1\n", 0o644)
	os.Chmod(d.Path(), 0o777)
	errs := d.CheckRoot(t.Context())
	var permission *PermissionError
	var file *FileError
	if len(errs) != 2 || !errors.As(errs[0], &permission) || !errors.As(errs[1], &file) || file.Path != upper {
		t.Errorf("open to all, and a name in capitals: %v", errs)
	}
	os.RemoveAll(d.Path())
	if errs := d.CheckRoot(t.Context()); !slices.ContainsFunc(errs, func(err error) bool { return errors.Is(err, os.ErrNotExist) }) {
		t.Errorf("a store that is gone: %v", errs)
	}
}

func TestCheckFindsKeysThatNoFileTellsOf(t *testing.T) {
	d := newDir(t, DirOptions{})
	create(t, d, "example.com")
	if errs := d.CheckRoot(t.Context()); len(errs) > 0 {
		t.Fatalf("a good store: %v", errs)
	}
	path := d.file("example.com", tomlName)
	os.Remove(path)
	errs := d.CheckRoot(t.Context())
	var file *FileError
	if len(errs) != 1 || !errors.As(errs[0], &file) || file.Path != path || file.Repair == "" {
		t.Errorf("without domain.toml: %v, want one error that names %s", errs, path)
	}
}
