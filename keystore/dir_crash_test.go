package keystore

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// Environment variables by which the test binary runs as a child.
const (
	childVar = "KEYSTORE_TEST_CHILD" // what to do
	rootVar  = "KEYSTORE_TEST_ROOT"  // the store
	stepVar  = "KEYSTORE_TEST_STEP"  // before which step to die
)

func TestMain(m *testing.M) {
	if what := os.Getenv(childVar); what != "" {
		os.Exit(child(what, os.Getenv(rootVar)))
	}
	os.Exit(m.Run())
}

// exitKilled is the exit status of a child that died as it was told.
const exitKilled = 42

func child(what, root string) int {
	ctx := context.Background()
	d, err := OpenDir(root, DirOptions{Describe: func(d *Domain, k *Key) []byte {
		return []byte(k.Selector + " is " + string(k.State) + "\n")
	}})
	if err != nil {
		fmt.Println(err)
		return 1
	}
	dom, err := d.Domain(ctx, "example.com")
	switch what {
	case "read":
		fmt.Print("domain: ", err)
		if err == nil {
			_, err := dom.Keys[0].Load(ctx)
			fmt.Print(" key: ", err)
		}
	case "update":
		if err == nil {
			dom.Keys[0].Note = "changed"
			err = d.Update(ctx, dom)
		}
		fmt.Print("update: ", err)
	case "append": // twenty updates against others who do the same
		for i := range 20 {
			for {
				dom, err := d.Domain(ctx, "example.com")
				if err == nil {
					dom.Keys[0].Note += strconv.Itoa(i % 10)
					err = d.Update(ctx, dom)
				}
				if err == nil {
					break
				}
				if !errors.Is(err, ErrConflict) {
					fmt.Println(err)
					return 1
				}
			}
		}
	case "create", "change": // and die at a step
		dieAt, _ := strconv.Atoi(os.Getenv(stepVar))
		step := 0
		d.between = func(string) error {
			if step++; step == dieAt {
				os.Exit(exitKilled)
			}
			return nil
		}
		dom, err := crashPlan(what, dom)
		if err == nil {
			err = d.Update(ctx, dom)
		}
		if err != nil {
			fmt.Println(err)
			return 1
		}
	}
	return 0
}

// crashPlan makes the change that a crash interrupts: a new domain with a key,
// or one more key, the first one removed.
func crashPlan(what string, dom *Domain) (*Domain, error) {
	if what == "create" {
		dom = &Domain{Name: "example.com"}
	} else {
		dom.Keys[0].State, dom.Keys[0].Removed = Removed, stamp(noon)
	}
	data, err := os.ReadFile(filepath.Join("testdata", "keys", "ed25519.pem"))
	if err != nil {
		return nil, err
	}
	signer, err := ParsePrivateKey(data)
	if err != nil {
		return nil, err
	}
	k := Key{Selector: "new", State: Active, Created: stamp(noon)}
	if k.Public, k.Algorithm, err = PublicBytes(signer.Public()); err != nil {
		return nil, err
	}
	k.Load = loadFrom(data)
	dom.Keys = append(dom.Keys, k)
	return dom, nil
}

// run runs the test binary as a child and returns its output and status.
func run(t *testing.T, exe string, attr *syscall.SysProcAttr, what, root string, step int) (string, int) {
	t.Helper()
	cmd := exec.Command(exe)
	cmd.SysProcAttr = attr
	cmd.Env = append(os.Environ(), childVar+"="+what, rootVar+"="+root, stepVar+"="+strconv.Itoa(step))
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

// asUser runs a child as another user.
func asUser(t *testing.T, uid uint32, what, root string) string {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	visible := filepath.Join(t.TempDir(), "test") // where others may run it
	if err := os.Link(exe, visible); err != nil {
		data, err := os.ReadFile(exe)
		if err != nil {
			t.Fatal(err)
		}
		write(t, visible, string(data), 0o755)
	}
	exe = visible
	makeVisible(t, exe)
	out, _ := run(t, exe, &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}, what, root, 0)
	return out
}

// makeVisible lets everyone pass through the temporary directories above path.
func makeVisible(t *testing.T, path string) {
	t.Helper()
	for dir := filepath.Dir(path); dir != filepath.Clean(os.TempDir()) && dir != "/"; dir = filepath.Dir(dir) {
		if info, err := os.Stat(dir); err == nil && info.Mode().Perm()&0o001 == 0 {
			if err := os.Chmod(dir, info.Mode().Perm()|0o055); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// A process that dies at any step of an Update leaves the old state or the new
// one, whole, and nothing that keeps the next Update from its work.
func TestUpdateIsCompleteOrAbsentAtEveryCrash(t *testing.T) {
	for _, what := range []string{"create", "change"} {
		for step := 1; ; step++ {
			d := newDir(t, DirOptions{})
			if what == "change" {
				create(t, d, "example.com")
			}
			out, status := run(t, os.Args[0], nil, what, d.Path(), step)
			if status == 0 {
				if step < 10 {
					t.Errorf("%s: only %d steps", what, step-1)
				}
				break
			}
			if status != exitKilled {
				t.Fatalf("%s, step %d: status %d, %s", what, step, status, out)
			}
			afterCrash(t, d, what, step)
		}
	}
}

func afterCrash(t *testing.T, d *Dir, what string, step int) {
	t.Helper()
	dom, err := d.Domain(t.Context(), "example.com")
	isNew := err == nil && dom.Key("new") != nil
	switch {
	case errors.Is(err, ErrNotFound) && what == "create":
	case err != nil:
		t.Fatalf("%s, step %d: %v", what, step, err)
	default:
		for _, k := range dom.Keys {
			if k.State == Removed {
				continue
			}
			if err := load(t, d, "example.com", k.Selector); err != nil {
				t.Errorf("%s, step %d: key %s: %v", what, step, k.Selector, err)
			}
		}
	}
	if what == "change" && isNew != (dom.Keys[0].State == Removed) {
		t.Errorf("%s, step %d: half of the change is there", what, step)
	}
	for _, err := range d.Check(t.Context(), "example.com") {
		var file *FileError
		if !errors.Is(err, ErrNotFound) && (!errors.As(err, &file) || file.Repair == "") {
			t.Errorf("%s, step %d: %v has no remedy", what, step, err)
		}
	}
	// The same change again, or the next one, works and cleans up.
	if !isNew {
		dom, err = crashPlan(what, dom)
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := d.Update(t.Context(), dom); err != nil {
		t.Fatalf("%s, step %d: then: %v", what, step, err)
	}
	if err := load(t, d, "example.com", "new"); err != nil {
		t.Errorf("%s, step %d: then: %v", what, step, err)
	}
	for _, err := range d.Check(t.Context(), "example.com") {
		t.Errorf("%s, step %d: then: %v", what, step, err)
	}
}

// An error, unlike a crash, leaves nothing behind.
func TestUpdateThatFailsLeavesNothing(t *testing.T) {
	full := errors.New("no space left on device")
	for _, what := range []string{"create", "change"} {
		for step := 1; ; step++ {
			d := newDir(t, DirOptions{})
			var before *Domain
			if what == "change" {
				create(t, d, "example.com")
				before, _ = d.Domain(t.Context(), "example.com")
			}
			dom, err := crashPlan(what, before)
			if err != nil {
				t.Fatal(err)
			}
			version, n := dom.Version, 0
			d.between = func(string) error {
				if n++; n == step {
					return full
				}
				return nil
			}
			err = d.Update(t.Context(), dom)
			d.between = nil
			if n < step {
				if err != nil || step < 10 {
					t.Errorf("%s: %d steps, %v", what, step-1, err)
				}
				break
			}
			if !errors.Is(err, full) {
				t.Fatalf("%s, step %d: %v, want %v", what, step, err, full)
			}
			got, err := d.Domain(t.Context(), "example.com")
			done := err == nil && got.Key("new") != nil
			if err != nil && !(what == "create" && errors.Is(err, ErrNotFound)) {
				t.Errorf("%s, step %d: %v", what, step, err)
			}
			if done {
				for _, selector := range []string{"a", "new"} {
					if k := got.Key(selector); k != nil && k.State != Removed {
						if err := load(t, d, "example.com", selector); err != nil {
							t.Errorf("%s, step %d: %v", what, step, err)
						}
					}
				}
			}
			if dom.Version != version && !done {
				t.Errorf("%s, step %d: version %d, but the change is not there", what, step, dom.Version)
			}
			for _, err := range d.Check(t.Context(), "example.com") {
				if strings.Contains(err.Error(), "without a row") || strings.Contains(err.Error(), "did not finish") {
					t.Errorf("%s, step %d: left: %v", what, step, err)
				}
			}
		}
	}
}

func TestUpdatesOfSeveralProcessesDoNotGetLost(t *testing.T) {
	d := newDir(t, DirOptions{})
	create(t, d, "example.com")
	const processes = 4
	done := make(chan string, processes)
	for range processes {
		go func() {
			out, status := run(t, os.Args[0], nil, "append", d.Path(), 0)
			done <- fmt.Sprint(status, out)
		}()
	}
	for range processes {
		if got := <-done; got != "0" {
			t.Error(got)
		}
	}
	dom, err := d.Domain(t.Context(), "example.com")
	if err != nil {
		t.Fatal(err)
	}
	if dom.Version != 1+processes*20 || len(dom.Keys[0].Note) != processes*20 {
		t.Errorf("version %d, note %q after %d updates", dom.Version, dom.Keys[0].Note, processes*20)
	}
}

// The order of the steps is what makes a change survive a power cut: content
// before its name, keys before the rows that need them, rows before the files
// that follow from them.
func TestUpdateStepsInOrder(t *testing.T) {
	d := newDir(t, DirOptions{Describe: func(_ *Domain, k *Key) []byte { return []byte(k.State) }})
	var steps []string
	d.between = func(step string) error {
		steps = append(steps, step)
		return nil
	}
	file := []string{"make temporary file", "write temporary file", "sync temporary file"}
	list := func(parts ...any) (all []string) {
		for _, p := range parts {
			switch p := p.(type) {
			case string:
				all = append(all, p)
			case []string:
				all = append(all, p...)
			}
		}
		return all
	}
	dom := create(t, d, "example.com")
	want := list("make directory", "sync directory", file, "link key", "sync directory",
		file, "rename .toml", "sync directory", file, "rename .txt", "sync directory", "sync directory")
	if !slices.Equal(steps, want) {
		t.Errorf("a new domain: %q\nwant %q", steps, want)
	}
	steps = nil
	dom.Keys[0].State = Removed
	if err := d.Update(t.Context(), dom); err != nil {
		t.Fatal(err)
	}
	want = list(file, "rename .toml", "sync directory", "remove .pem", "remove .txt", "sync directory")
	if !slices.Equal(steps, want) {
		t.Errorf("a removed key: %q\nwant %q", steps, want)
	}
}
