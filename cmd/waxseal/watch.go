package main

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
)

const (
	// watchSettle is how long a changed file has to stay the same before it is
	// taken: an editor writes it in less.
	watchSettle = 200 * time.Millisecond

	// watchDoubt is the same for a file that looks half-saved. Some editors
	// leave out the last line end, and a slow copy pauses in mid-line.
	watchDoubt = 2 * time.Second

	// maxLinks bounds a chain of symbolic links, as the kernel does.
	maxLinks = 40
)

// saved is what a file holds at some moment.
type saved struct {
	text   string
	absent bool
	err    string // why it cannot be read
}

// readSaved reads a file. Only regular ones are: a pipe could be read but once.
func readSaved(path string) saved {
	info, err := os.Stat(path)
	if err == nil && !info.Mode().IsRegular() {
		err = errors.New("no regular file")
	}
	var text []byte
	if err == nil {
		text, err = os.ReadFile(path)
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return saved{absent: true}
	case err != nil:
		return saved{err: err.Error()}
	}
	return saved{text: string(text)}
}

// empty says whether nothing is there that anyone could have meant.
func (s saved) empty() bool { return strings.TrimSpace(s.text) == "" }

// halfSaved says whether this is what a save under way leaves: no file, an
// empty one, or one that ends in mid-line.
func (s saved) halfSaved() bool {
	return s.empty() || !strings.HasSuffix(s.text, "\n")
}

// watcher tells when the configuration file has another content than was last
// tried, and that has settled. It watches directories instead of the file,
// since most editors replace that.
type watcher struct {
	path    string
	tried   func() saved
	changed chan saved // unbuffered
	log     *slog.Logger
}

// run watches until ctx ends. When it cannot, it says so and ends.
func (w *watcher) run(ctx context.Context) {
	notify, err := fsnotify.NewWatcher()
	if err == nil {
		defer notify.Close()
		err = follow(notify, w.path)
	}
	if err != nil {
		w.deaf(err)
		return
	}
	settled := time.After(0) // what happened before now
	var last saved
	var since time.Time // when last was first seen; zero: nothing has changed
	for {
		select {
		case <-ctx.Done():
			return
		case _, ok := <-notify.Events:
			if !ok {
				return
			}
			if settled == nil {
				settled = time.After(watchSettle)
			}
			continue
		case err, ok := <-notify.Errors:
			if !ok {
				return
			}
			if !errors.Is(err, fsnotify.ErrEventOverflow) {
				w.log.Warn("watching the configuration file", "config", w.path, "err", err)
			}
			if settled == nil {
				settled = time.After(watchSettle)
			}
			continue
		case <-settled:
			settled = nil
		}

		// Directories may have come, gone, or changed places.
		if err := follow(notify, w.path); err != nil {
			w.deaf(err)
			return
		}
		switch now := readSaved(w.path); {
		case now == w.tried():
			since = time.Time{}
			continue
		case since.IsZero() || now != last:
			last, since = now, time.Now()
		case now.halfSaved() && time.Since(since) < watchDoubt:
		default:
			select {
			case w.changed <- now:
			case <-ctx.Done():
				return
			}
			since = time.Time{}
			continue
		}
		settled = time.After(watchSettle)
	}
}

func (w *watcher) deaf(err error) {
	w.log.Warn("changes of the configuration file are not noticed, send SIGHUP after one", "config", w.path, "err", err)
}

// follow watches the directories that decide what a path leads to, and no
// others.
func follow(notify *fsnotify.Watcher, path string) error {
	const attempts = 5
	wanted := directoriesOf(path)
	for range attempts {
		watched := notify.WatchList()
		for _, dir := range wanted {
			if slices.Contains(watched, dir) {
				continue
			}
			if err := notify.Add(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
		for _, dir := range watched {
			if !slices.Contains(wanted, dir) {
				_ = notify.Remove(dir) // an error means that it is gone already
			}
		}
		// What came or went before the watch was set has told nobody.
		before := wanted
		if wanted = directoriesOf(path); slices.Equal(wanted, before) {
			break
		}
	}
	return nil
}

// directoriesOf returns the directory of the file that an absolute path leads
// to, and of each symbolic link on the way there. When part of the way does
// not exist, the last directory that does stands for it.
func directoriesOf(path string) []string {
	var dirs []string
	add := func(dir string) {
		if !slices.Contains(dirs, dir) {
			dirs = append(dirs, dir)
		}
	}
	const root = string(filepath.Separator)
	at, rest := root, strings.Split(filepath.Clean(path), root)
	for links := 0; len(rest) > 0; {
		name := rest[0]
		rest = rest[1:]
		switch name {
		case "", ".":
			continue
		case "..":
			at = filepath.Dir(at)
			continue
		}
		next := filepath.Join(at, name)
		info, err := os.Lstat(next)
		if err != nil || len(rest) == 0 {
			add(at)
		}
		if err != nil {
			return dirs
		}
		if info.Mode()&fs.ModeSymlink == 0 {
			at = next
			continue
		}
		add(at)
		target, err := os.Readlink(next)
		if links++; err != nil || links > maxLinks {
			return dirs
		}
		if filepath.IsAbs(target) {
			at = root
		}
		rest = append(strings.Split(target, root), rest...)
	}
	return dirs
}
