package keystore

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// startWatch watches d until the test ends, and returns once it has begun.
func startWatch(t *testing.T, d *Dir) (changes chan string, ended chan error) {
	t.Helper()
	changes, ended = make(chan string, 1000), make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	var group sync.WaitGroup
	group.Go(func() { ended <- d.Watch(ctx, func(domain string) { changes <- domain }) })
	t.Cleanup(func() {
		cancel()
		group.Wait()
	})
	if got := next(t, changes); got != "" {
		t.Fatalf("first came %q", got)
	}
	return changes, ended
}

func next(t *testing.T, changes chan string) string {
	t.Helper()
	select {
	case domain := <-changes:
		return domain
	case <-time.After(10 * time.Second):
		t.Fatal("no change was reported")
		return ""
	}
}

func TestWatchReportsEveryKindOfChange(t *testing.T) {
	d := newDir(t, DirOptions{})
	create(t, d, "example.com")
	create(t, d, "other.example")
	changes, _ := startWatch(t, d)
	ask := func() { d.Domain(t.Context(), "example.com") } // which may be gone just then
	ask()
	dir := filepath.Join(d.Path(), "example.com")
	file := filepath.Join(dir, "domain.toml")
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, change := range []struct {
		name string
		do   func() error
	}{
		{"written in place", func() error { return os.WriteFile(file, data, 0o644) }},
		{"replaced", func() error {
			if err := os.WriteFile(file+"~", data, 0o644); err != nil {
				return err
			}
			return os.Rename(file+"~", file)
		}},
		{"a key repaired", func() error { return os.Chmod(filepath.Join(dir, "a.pem"), 0o400) }},
		{"a key removed", func() error { return os.Remove(filepath.Join(dir, "a.pem")) }},
		{"the domain moved away", func() error { return os.Rename(dir, filepath.Join(d.Path(), "elsewhere.example")) }},
		{"and back", func() error { return os.Rename(filepath.Join(d.Path(), "elsewhere.example"), dir) }},
		{"and written", func() error { return os.WriteFile(file, data, 0o644) }},
		{"deleted", func() error { return os.RemoveAll(dir) }},
		{"made anew", func() error { return os.Mkdir(dir, 0o750) }},
		{"and written", func() error { return os.WriteFile(file, data, 0o644) }},
		{"and written again", func() error { return os.WriteFile(file, data, 0o644) }},
	} {
		if err := change.do(); err != nil {
			t.Fatal(err)
		}
		for deadline := time.Now().Add(3 * time.Second); ; {
			if got := next(t, changes); got == "example.com" {
				if time.Now().After(deadline) {
					t.Errorf("%s: reported late", change.name)
				}
				break
			}
		}
		// Everything is reported, then nothing more.
		time.Sleep(2 * watchDelay)
		for len(changes) > 0 {
			<-changes
		}
		ask()
	}
}

func TestWatchIsQuietAboutTheRest(t *testing.T) {
	d := newDir(t, DirOptions{})
	create(t, d, "example.com")
	create(t, d, "other.example")
	changes, _ := startWatch(t, d)
	for range 3 {
		if err := load(t, d, "example.com", "a"); err != nil {
			t.Fatal(err)
		}
	}
	write(t, d.file("example.com", "a.txt"), "text", 0o644)
	write(t, d.file("example.com", lockName), "", 0o600)
	write(t, d.file("example.com", tempPrefix+"x"), "", 0o600)
	write(t, d.file("other.example", tomlName), "version = 2\n", 0o644) // nobody asked for it
	time.Sleep(5 * watchDelay)
	if len(changes) != 0 {
		t.Errorf("reported %q", <-changes)
	}
}

func TestWatchGathersABurst(t *testing.T) {
	d := newDir(t, DirOptions{})
	create(t, d, "example.com")
	changes, _ := startWatch(t, d)
	if _, err := d.Domain(t.Context(), "example.com"); err != nil {
		t.Fatal(err)
	}
	for range 200 {
		write(t, d.file("example.com", tomlName), "version = 2\n", 0o644)
	}
	time.Sleep(5 * watchDelay)
	if n := len(changes); n == 0 || n > 100 {
		t.Errorf("%d reports of 200 writes", n)
	}
}

func TestWatchEndsWithTheStore(t *testing.T) {
	d := newDir(t, DirOptions{})
	_, ended := startWatch(t, d)
	if err := os.Remove(d.Path()); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-ended:
		if err == nil || !strings.Contains(err.Error(), "removed or renamed") {
			t.Errorf("ended with %v", err)
		}
		ended <- nil
	case <-time.After(10 * time.Second):
		t.Error("goes on after the store's directory is gone")
	}
	if err := d.Watch(t.Context(), func(string) { t.Error("reported a change") }); err == nil {
		t.Error("watches a directory that is gone")
	}
}

// Without watches the store works on, and says so once.
func TestWatchRunsOut(t *testing.T) {
	var told []error
	d := newDir(t, DirOptions{WatchError: func(err error) { told = append(told, err) }})
	for _, name := range []string{"a.example", "b.example", "c.example"} {
		create(t, d, name)
	}
	startWatch(t, d)
	d.mu.Lock()
	for w := range d.watchers {
		w.watched = maxWatches - 1
	}
	d.mu.Unlock()
	for range 2 {
		for _, name := range []string{"a.example", "b.example", "c.example", "nosuch.example"} {
			d.Domain(t.Context(), name)
		}
	}
	// Two are without a watch; a.example got the last one.
	d.mu.Lock()
	for w := range d.watchers {
		if !w.dirs["a.example"] || w.dirs["b.example"] || w.dirs["c.example"] || len(w.dirs) != 3 {
			t.Errorf("watches: %v", w.dirs)
		}
		w.watched = 1
	}
	d.mu.Unlock()
	if got := d.Unwatched(); got != 2 {
		t.Errorf("%d domains unwatched, want 2", got)
	}
	if len(told) != 1 || !strings.Contains(told[0].Error(), syscall.ENOSPC.Error()) {
		t.Errorf("told %v, want one error", told)
	}
}
