package keystore

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestPermissionRules(t *testing.T) {
	type paths struct{ root, domain, key string }
	chmod := func(path func(paths) string, mode fs.FileMode) func(*testing.T, paths) {
		return func(t *testing.T, p paths) {
			if err := os.Chmod(path(p), mode); err != nil {
				t.Fatal(err)
			}
		}
	}
	key := func(p paths) string { return p.key }
	domain := func(p paths) string { return p.domain }
	root := func(p paths) string { return p.root }
	above := func(p paths) string { return filepath.Dir(p.root) }
	link := func(target string, mode fs.FileMode) func(*testing.T, paths) {
		return func(t *testing.T, p paths) {
			path := filepath.Join(t.TempDir(), target)
			data, err := os.ReadFile(p.key)
			if err != nil {
				t.Fatal(err)
			}
			write(t, path, string(data), mode)
			os.Remove(p.key)
			if err := os.Symlink(path, p.key); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, test := range []struct {
		name          string
		groupReadable bool
		change        func(*testing.T, paths)
		path          func(paths) string // nil: nothing is wrong
		rule, repair  string
	}{
		{"mode 0600", false, chmod(key, 0o600), nil, "", ""},
		{"mode 0400", false, chmod(key, 0o400), nil, "", ""},
		{"mode 0640", false, chmod(key, 0o640), key, "open to its group (mode 0640)", "chmod 600 "},
		{"mode 0604", false, chmod(key, 0o604), key, "open to everyone (mode 0604)", "chmod 600 "},
		{"mode 0644", false, chmod(key, 0o644), key, "open to its group and everyone", "chmod 600 "},
		{"mode 0610", false, chmod(key, 0o610), key, "open to its group", "chmod 600 "},
		{"mode 0640, allowed", true, chmod(key, 0o640), nil, "", ""},
		{"mode 0440, allowed", true, chmod(key, 0o440), nil, "", ""},
		{"mode 0660, although readable is allowed", true, chmod(key, 0o660), key, "open to its group (mode 0660)", "chmod 640 "},
		{"mode 0644, although the group is allowed", true, chmod(key, 0o644), key, "open to everyone", "chmod 640 "},
		{"domain directory 0755", false, chmod(domain, 0o755), nil, "", ""},
		{"domain directory 0757", false, chmod(domain, 0o757), domain, "writable by everyone (mode 0757)", "chmod o-w "},
		{"store 0777", false, chmod(root, 0o777), root, "writable by everyone", "chmod o-w "},
		{"store 1777", false, chmod(root, 0o777|fs.ModeSticky), nil, "", ""},
		{"above the store 0777", false, chmod(above, 0o777), above, "writable by everyone", "chmod o-w "},
		{"a link to a good file", false, link("secret", 0o600), nil, "", ""},
		{"a link to a bad file", false, link("secret", 0o644), key, "open to", "chmod 600 "},
		{"a link to a mounted secret", true, link("secret", 0o440), nil, "", ""},
		{"a link out of a directory open to all", false, func(t *testing.T, p paths) {
			link("secret", 0o600)(t, p)
			chmod(domain, 0o777)(t, p)
		}, domain, "writable by everyone", "chmod o-w "},
	} {
		t.Run(test.name, func(t *testing.T) {
			d := newDir(t, DirOptions{GroupReadable: test.groupReadable})
			create(t, d, "example.com")
			p := paths{d.Path(), filepath.Join(d.Path(), "example.com"), d.file("example.com", "a.pem")}
			test.change(t, p)
			checkPermission(t, d, test.path != nil, func() string { return test.path(p) }, test.rule, test.repair)
		})
	}
}

// checkPermission loads key a of example.com and looks at the error.
func checkPermission(t *testing.T, d *Dir, bad bool, path func() string, rule, repair string) {
	t.Helper()
	err := load(t, d, "example.com", "a")
	problems := errors.Join(d.Check(t.Context(), "example.com")...)
	if !bad {
		if err != nil {
			t.Errorf("Load: %v", err)
		}
		if problems != nil {
			t.Errorf("Check: %v", problems)
		}
		return
	}
	var e *PermissionError
	if !errors.As(err, &e) {
		t.Fatalf("Load: %v, want a PermissionError", err)
	}
	if e.Path != path() || !strings.Contains(e.Rule, rule) || !strings.HasPrefix(e.Repair, repair) || !strings.HasSuffix(e.Repair, shellWord(path())) {
		t.Errorf("Load: path %s, rule %q, repair %q; want %s, %q, %q", e.Path, e.Rule, e.Repair, path(), rule, repair)
	}
	for _, s := range []string{e.Path, e.Rule, e.Repair} {
		if !strings.Contains(e.Error(), s) {
			t.Errorf("the error %q does not say %q", e, s)
		}
	}
	if problems == nil || !errors.As(problems, &e) {
		t.Errorf("Check does not see it: %v", problems)
	}
	// The command named repairs it.
	if out, err := exec.Command("/bin/sh", "-c", e.Repair).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v, %s", e.Repair, err, out)
	}
	if err := load(t, d, "example.com", "a"); err != nil {
		t.Errorf("after %s: %v", e.Repair, err)
	}
}

// The command that repairs can be pasted, whatever the store is called.
func TestRepairQuotesPaths(t *testing.T) {
	root := filepath.Join(t.TempDir(), "it's a; store")
	if err := os.Mkdir(root, 0o750); err != nil {
		t.Fatal(err)
	}
	d, err := OpenDir(root, DirOptions{})
	if err != nil {
		t.Fatal(err)
	}
	create(t, d, "example.com")
	key := d.file("example.com", "a.pem")
	if err := os.Chmod(key, 0o644); err != nil {
		t.Fatal(err)
	}
	checkPermission(t, d, true, func() string { return key }, "open to", "chmod 600 '/")
}

func TestOwnerRules(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to give files away")
	}
	for _, test := range []struct {
		name             string
		store, key       int
		group            int // of the store's directory, when it is group-writable
		bad              bool
		path, rule, hint string
	}{
		{name: "root's key in root's store"},
		{name: "the daemon's key in the daemon's store", store: 12345, key: 12345},
		{name: "root's key in the daemon's store", store: 12345},
		{name: "a stranger's key", store: 12345, key: 54321, bad: true, path: "example.com/a.pem", rule: "owned by user id 54321", hint: "chown --reference="},
		{name: "the daemon's key in root's store", key: 12345, bad: true, path: "example.com/a.pem", rule: "owned by user id 12345", hint: "chown --reference="},
		{name: "the owner's private group may write", store: 12345, key: 12345, group: 12345},
		{name: "another group may write", store: 12345, key: 12345, group: 23456, bad: true, rule: "writable by group id 23456", hint: "chmod g-w "},
	} {
		t.Run(test.name, func(t *testing.T) {
			d := newDir(t, DirOptions{})
			create(t, d, "example.com")
			if err := os.Chown(d.file("example.com", "a.pem"), test.key, test.key); err != nil {
				t.Fatal(err)
			}
			if err := os.Chown(d.Path(), test.store, test.group); err != nil {
				t.Fatal(err)
			}
			if test.group != 0 {
				if err := os.Chmod(d.Path(), 0o770); err != nil {
					t.Fatal(err)
				}
			}
			if test.path == "" {
				err := load(t, d, "example.com", "a")
				var e *PermissionError
				if test.bad != errors.As(err, &e) || test.bad && (e.Path != d.Path() || !strings.Contains(e.Rule, test.rule)) {
					t.Errorf("Load: %v", err)
				}
				return
			}
			checkPermission(t, d, test.bad, func() string { return filepath.Join(d.Path(), test.path) }, test.rule, test.hint)
		})
	}
}

func TestNobodyElseMayOwnTheWayToAKey(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can give directories away")
	}
	const stranger = 54321
	parent := filepath.Join(t.TempDir(), "home")
	if err := os.MkdirAll(filepath.Join(parent, "keys"), 0o755); err != nil {
		t.Fatal(err)
	}
	d, err := OpenDir(filepath.Join(parent, "keys"), DirOptions{})
	if err != nil {
		t.Fatal(err)
	}
	create(t, d, "example.com")
	if err := load(t, d, "example.com", "a"); err != nil {
		t.Fatalf("a good store: %v", err)
	}
	if err := os.Chown(parent, stranger, stranger); err != nil {
		t.Fatal(err)
	}
	var permission *PermissionError
	if err := load(t, d, "example.com", "a"); !errors.As(err, &permission) || permission.Path != parent {
		t.Errorf("below a stranger's directory: %v, want a PermissionError about %s", err, parent)
	}
	// Whoever owns the store may own the way to it.
	if err := os.Chown(d.Path(), stranger, stranger); err != nil {
		t.Fatal(err)
	}
	if err := load(t, d, "example.com", "a"); err != nil {
		t.Errorf("below a directory of the store's owner: %v", err)
	}
}

func TestADomainFileThatOthersMayWriteIsRefused(t *testing.T) {
	d := newDir(t, DirOptions{})
	create(t, d, "example.com")
	path := d.file("example.com", tomlName)
	if err := os.Chmod(path, 0o666); err != nil {
		t.Fatal(err)
	}
	var permission *PermissionError
	if _, err := d.Domain(t.Context(), "example.com"); !errors.As(err, &permission) || permission.Path != path {
		t.Errorf("got %v, want a PermissionError about %s", err, path)
	}
}
