package keystore

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// newDir opens a new store in a directory of its own.
func newDir(t testing.TB, opts DirOptions) *Dir {
	t.Helper()
	d, err := OpenDir(t.TempDir(), opts)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// keyOf makes a pending key whose private half is signer.
func keyOf(t testing.TB, selector string, signer crypto.Signer) Key {
	t.Helper()
	public, algorithm, err := PublicBytes(signer.Public())
	if err != nil {
		t.Fatal(err)
	}
	return Key{
		Selector: selector, Algorithm: algorithm, State: Pending, Public: public, Created: stamp(noon),
		Load: func(context.Context) (crypto.Signer, error) { return signer, nil },
	}
}

func newKey(t testing.TB, selector string) Key {
	t.Helper()
	signer, err := Generate(Ed25519)
	if err != nil {
		t.Fatal(err)
	}
	return keyOf(t, selector, signer)
}

// create writes a domain with one new active key "a".
func create(t testing.TB, s Store, name string) *Domain {
	t.Helper()
	d := &Domain{Name: name, Keys: []Key{newKey(t, "a")}}
	d.Keys[0].State = Active
	if err := s.Update(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	return d
}

func load(t testing.TB, s Store, name, selector string) error {
	t.Helper()
	d, err := s.Domain(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	k := d.Key(selector)
	signer, err := k.Load(t.Context())
	if err != nil {
		return err
	}
	return SelfTest(signer, k.Public)
}

func write(t testing.TB, path, text string, mode fs.FileMode) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}

func TestOpenDirWantsADirectory(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	write(t, file, "", 0o600)
	for _, path := range []string{file, file + "/x", filepath.Join(t.TempDir(), "nosuch")} {
		if _, err := OpenDir(path, DirOptions{}); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v, want an error that names it", path, err)
		}
	}
}

func TestDirFilesAndModes(t *testing.T) {
	old := syscall.Umask(0o077) // what the administrator's shell has must not matter
	defer syscall.Umask(old)
	d := newDir(t, DirOptions{Describe: func(dom *Domain, k *Key) []byte {
		return []byte(k.Selector + "." + dom.Name + " is " + string(k.State) + " " + k.Note + "\n")
	}})
	dom := create(t, d, "example.com")
	dir := filepath.Join(d.Path(), "example.com")
	for name, want := range map[string]fs.FileMode{"domain.toml": 0o644, "a.pem": 0o600, "a.txt": 0o644, ".lock": 0o600} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil || info.Mode() != want {
			t.Errorf("%s: mode %v, %v; want %v", name, info.Mode(), err, want)
		}
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm()&0o027 != 0 {
		t.Errorf("domain directory: mode %v, %v; want 0750 or stricter", info.Mode(), err)
	}
	text := func() string {
		data, _ := os.ReadFile(filepath.Join(dir, "a.txt"))
		return string(data)
	}
	if got, want := text(), "a.example.com is active \n"; got != want {
		t.Errorf("a.txt is %q, want %q", got, want)
	}
	dom.Keys[0].State, dom.Keys[0].Note = Retired, "old"
	if err := d.Update(t.Context(), dom); err != nil {
		t.Fatal(err)
	}
	if got, want := text(), "a.example.com is retired old\n"; got != want {
		t.Errorf("a.txt is %q, want %q", got, want)
	}
	dom.Keys[0].State = Removed
	if err := d.Update(t.Context(), dom); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if want := []string{".lock", "domain.toml"}; !slices.Equal(names, want) {
		t.Errorf("after removal there are %q, want %q", names, want)
	}
}

func TestKeyIsNeverOverwritten(t *testing.T) {
	d := newDir(t, DirOptions{})
	dom := create(t, d, "example.com")
	k := newKey(t, "b")
	signer, _ := k.Load(t.Context())
	data, err := MarshalPrivateKey(signer)
	if err != nil {
		t.Fatal(err)
	}
	path := d.file("example.com", "b.pem")

	// A file without a row, as a crash leaves it: another key is refused …
	write(t, path, string(data), 0o600)
	dom.Keys = append(dom.Keys, newKey(t, "b"))
	err = d.Update(t.Context(), dom)
	if !errors.Is(err, fs.ErrExist) || !strings.Contains(err.Error(), "waxseal key import example.com b "+path) {
		t.Errorf("another key: %v, want an error with the remedy", err)
	}
	if got, _ := os.ReadFile(path); string(got) != string(data) {
		t.Error("the file was overwritten")
	}
	// … the same one is taken in …
	dom.Keys[1] = k
	if err := d.Update(t.Context(), dom); err != nil {
		t.Errorf("the same key: %v", err)
	}
	if err := load(t, d, "example.com", "b"); err != nil {
		t.Error(err)
	}
	// … and one that cannot be trusted is not.
	c := newKey(t, "c")
	signer, _ = c.Load(t.Context())
	data, _ = MarshalPrivateKey(signer)
	write(t, d.file("example.com", "c.pem"), string(data), 0o644)
	dom.Keys = append(dom.Keys, c)
	var permission *PermissionError
	if err := d.Update(t.Context(), dom); !errors.As(err, &permission) {
		t.Errorf("the same key, readable by all: %v", err)
	}
}

func TestUpdateRefusesABrokenDomainFile(t *testing.T) {
	d := newDir(t, DirOptions{})
	dom := create(t, d, "example.com")
	path := d.file("example.com", tomlName)
	write(t, path, "version = 1\nnonsense\n", 0o644)
	if err := d.Update(t.Context(), dom); err == nil || !strings.Contains(err.Error(), path+":2: ") {
		t.Errorf("%v, want an error that names line 2", err)
	}
	if data, _ := os.ReadFile(path); !strings.Contains(string(data), "nonsense") {
		t.Error("the file was overwritten")
	}
}

func TestUpdateWaitsForTheLockAsLongAsItMay(t *testing.T) {
	d := newDir(t, DirOptions{})
	dom := create(t, d, "example.com")
	lock, err := os.OpenFile(d.file("example.com", lockName), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := d.Update(ctx, dom); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "another process") {
		t.Errorf("while it is locked: %v", err)
	}
	go func() {
		time.Sleep(30 * time.Millisecond)
		lock.Close()
	}()
	if err := d.Update(t.Context(), dom); err != nil {
		t.Errorf("when the lock came free: %v", err)
	}
}

func TestOneBrokenDomainDisturbsNoOther(t *testing.T) {
	d := newDir(t, DirOptions{})
	create(t, d, "good.example")
	create(t, d, "bad.example")
	create(t, d, "nokey.example")
	create(t, d, "pipe.example")
	write(t, d.file("bad.example", tomlName), "nonsense\n", 0o644)
	os.Remove(d.file("nokey.example", "a.pem"))
	os.Remove(d.file("pipe.example", tomlName))
	if err := syscall.Mkfifo(d.file("pipe.example", tomlName), 0o644); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(d.Path(), "logins.toml"), "", 0o644)
	os.Mkdir(filepath.Join(d.Path(), "empty.example"), 0o750)
	os.Mkdir(filepath.Join(d.Path(), "lost+found"), 0o700)

	if err := load(t, d, "good.example", "a"); err != nil {
		t.Error(err)
	}
	for _, name := range []string{"bad.example", "pipe.example"} {
		if _, err := d.Domain(t.Context(), name); err == nil || errors.Is(err, ErrNotFound) {
			t.Errorf("%s: %v, want an error that is not %v", name, err, ErrNotFound)
		}
	}
	for _, name := range []string{"logins.toml", "empty.example"} {
		if _, err := d.Domain(t.Context(), name); !errors.Is(err, ErrNotFound) {
			t.Errorf("%s: %v, want %v", name, err, ErrNotFound)
		}
	}
	err := load(t, d, "nokey.example", "a")
	if path := d.file("nokey.example", "a.pem"); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "restore") {
		t.Errorf("missing key: %v, want path and remedy", err)
	}
	names, err := d.List(t.Context(), "", 0)
	if want := []string{"bad.example", "good.example", "nokey.example", "pipe.example"}; err != nil || !slices.Equal(names, want) {
		t.Errorf("List = %q, %v; want %q", names, err, want)
	}
}

func TestKeyThatIsNoKey(t *testing.T) {
	d := newDir(t, DirOptions{})
	create(t, d, "example.com")
	path := d.file("example.com", "a.pem")
	for text, want := range map[string]string{
		string(keyFile(t, "public-spki.pem")):     "a public key",
		string(keyFile(t, "encrypted-pkcs8.pem")): "encrypted",
		string(keyFile(t, "ed25519.pem")):         "does not match",
		strings.Repeat("x", maxKeyFile+1):         "more than",
		"":                                        "empty file",
	} {
		write(t, path, text, 0o600)
		if err := load(t, d, "example.com", "a"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want an error with %q", err, want)
		}
	}
	os.Remove(path)
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := load(t, d, "example.com", "a"); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Errorf("a pipe: %v", err)
	}
}

// Who runs "waxseal dns show" need not be allowed to read keys.
func TestDomainNeedsOnlyDomainTOML(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to become someone else")
	}
	d := newDir(t, DirOptions{})
	create(t, d, "example.com")
	makeVisible(t, d.Path())
	// Neither is listing the store, which nothing does unless asked to.
	for _, dir := range []string{d.Path(), filepath.Join(d.Path(), "example.com")} {
		if err := os.Chmod(dir, 0o711); err != nil {
			t.Fatal(err)
		}
	}
	out := asUser(t, 65534, "read", d.Path())
	if !strings.Contains(out, "domain: <nil> key: "+d.file("example.com", "a.pem")+": not readable by user id 65534") {
		t.Errorf("got %q", out)
	}
}

// A link out of the store is closed to a daemon that has confined itself,
// whatever the modes are.
func TestAClosedLinkSaysWhereItLeads(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to become someone else")
	}
	d := newDir(t, DirOptions{})
	create(t, d, "example.com")
	makeVisible(t, d.Path())
	key, moved := d.file("example.com", "a.pem"), filepath.Join(t.TempDir(), "moved.pem")
	if err := errors.Join(os.Rename(key, moved), os.Symlink(moved, key), os.Chmod(filepath.Join(d.Path(), "example.com"), 0o711)); err != nil {
		t.Fatal(err)
	}
	makeVisible(t, moved)
	if err := os.Chmod(moved, 0o600); err != nil {
		t.Fatal(err)
	}
	out := asUser(t, 65534, "read", d.Path())
	if !strings.Contains(out, key+": leads to "+moved+", which is not readable by user id 65534") || !strings.Contains(out, "[confine] read") {
		t.Errorf("got %q", out)
	}
}

// What root creates the daemon's user can read.
func TestRootGivesFilesToTheOwnerOfTheStore(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	d := newDir(t, DirOptions{Describe: func(*Domain, *Key) []byte { return []byte("text") }})
	makeVisible(t, d.Path())
	if err := os.Chown(d.Path(), 12345, 23456); err != nil {
		t.Fatal(err)
	}
	create(t, d, "example.com")
	err := filepath.WalkDir(d.Path(), func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		if uid, gid := ownerOf(info); uid != 12345 || gid != 23456 {
			t.Errorf("%s is owned by %d:%d", path, uid, gid)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if out := asUser(t, 12345, "read", d.Path()); !strings.Contains(out, "domain: <nil> key: <nil>") {
		t.Errorf("as the owner: %q", out)
	}
	if out := asUser(t, 12345, "update", d.Path()); !strings.Contains(out, "update: <nil>") {
		t.Errorf("as the owner: %q", out)
	}
}

func TestListPagesOfManyDomains(t *testing.T) {
	d := newDir(t, DirOptions{})
	const n = 3000
	for i := range n {
		dir := filepath.Join(d.Path(), fmt.Sprintf("d%d.example", i))
		if err := os.Mkdir(dir, 0o750); err != nil {
			t.Fatal(err)
		}
		if i%3 != 0 { // the others are no domains
			write(t, filepath.Join(dir, tomlName), "version = 1\n", 0o644)
		}
	}
	var all []string
	for after := ""; ; after = all[len(all)-1] {
		page, err := d.List(t.Context(), after, 300)
		if err != nil {
			t.Fatal(err)
		}
		if len(page) == 0 {
			break
		}
		if all = append(all, page...); len(page) < 300 && len(all) < n*2/3 {
			t.Fatalf("a page of %d in the middle", len(page))
		}
	}
	if len(all) != n*2/3 || !slices.IsSorted(all) || len(slices.Compact(slices.Clone(all))) != len(all) {
		t.Errorf("%d domains, sorted %v; want %d, each once", len(all), slices.IsSorted(all), n*2/3)
	}
}

// loadFrom returns a Key.Load for the text of a key file.
func loadFrom(data []byte) func(context.Context) (crypto.Signer, error) {
	return func(context.Context) (crypto.Signer, error) { return ParsePrivateKey(data) }
}

func TestADirThatIsGoneIsNotAnEmptyOne(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys")
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	d, err := OpenDir(path, DirOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Domain(t.Context(), "a.example"); !errors.Is(err, ErrNotFound) {
		t.Errorf("in an empty store: %v, want ErrNotFound", err)
	}
	os.Remove(path)
	if _, err := d.Domain(t.Context(), "a.example"); err == nil || errors.Is(err, ErrNotFound) {
		t.Errorf("without its directory: %v, want an error that is not ErrNotFound", err)
	}
}
