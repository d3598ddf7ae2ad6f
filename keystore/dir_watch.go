package keystore

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/fsnotify/fsnotify"
)

const (
	// watchDelay collects the handful of events that one Update makes.
	watchDelay = 20 * time.Millisecond

	// maxWatches leaves watches to the rest of the system, which often grants
	// a user 65536 of them, and bounds the kernel memory they take (1 KB each).
	maxWatches = 16384
)

// watcher is one Watch at work. Domain adds the directories of the domains
// that are asked for.
type watcher struct {
	notify *fsnotify.Watcher

	// Guarded by Dir.mu.
	dirs    map[string]bool // true: the domain's directory is watched; false: no watch was left
	watched int             // how many are true
}

// Watch implements Store. It watches the store's directory, and the
// directories of the domains that Domain was asked for since Watch began. A
// domain for which the system has no watch left is not reported; Unwatched
// counts them, and DirOptions.WatchError is told.
func (d *Dir) Watch(ctx context.Context, changed func(domain string)) error {
	notify, err := fsnotify.NewWatcher()
	if err != nil {
		return d.noWatches(err)
	}
	defer notify.Close()
	if err := notify.Add(d.path); err != nil {
		return d.noWatches(err)
	}
	w := &watcher{notify: notify, dirs: make(map[string]bool)}
	d.mu.Lock()
	d.watchers[w] = struct{}{}
	d.mu.Unlock()
	defer func() {
		d.mu.Lock()
		delete(d.watchers, w)
		d.mu.Unlock()
	}()
	changed("") // what happened before now
	return d.watch(ctx, w, changed)
}

// watch turns events into domains until ctx ends.
func (d *Dir) watch(ctx context.Context, w *watcher, changed func(domain string)) error {
	pending := make(map[string]bool)
	var flush <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-flush:
			flush = nil
			for domain := range pending {
				changed(domain)
			}
			clear(pending)
		case e, ok := <-w.notify.Events:
			if !ok {
				return errors.New("watching the keystore: the system's event queue closed")
			}
			if e.Name == d.path && e.Has(fsnotify.Remove|fsnotify.Rename) {
				return fmt.Errorf("watching the keystore: %s was removed or renamed", d.path)
			}
			if domain := d.changedBy(w, e); domain != "" {
				pending[domain] = true
				if flush == nil {
					flush = time.After(watchDelay)
				}
			}
		case err, ok := <-w.notify.Errors:
			if !ok {
				return errors.New("watching the keystore: the system's event queue closed")
			}
			if !errors.Is(err, fsnotify.ErrEventOverflow) {
				return fmt.Errorf("watching the keystore: %w", err)
			}
			changed("")
		}
	}
}

// changedBy returns the domain that an event concerns, or "".
func (d *Dir) changedBy(w *watcher, e fsnotify.Event) string {
	rel, err := filepath.Rel(d.path, e.Name)
	if err != nil {
		return ""
	}
	domain, file, inside := strings.Cut(rel, string(filepath.Separator))
	if ValidDomain(domain) != nil {
		return ""
	}
	if inside && file != tomlName && filepath.Ext(file) != pemExt {
		return ""
	}
	if e.Has(fsnotify.Remove | fsnotify.Rename) {
		d.forget(w, domain, !inside)
	}
	return domain
}

// forget drops the watch on a domain's directory if that is gone; whoever asks
// for the domain again sets it again.
func (d *Dir) forget(w *watcher, domain string, gone bool) {
	if !gone {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if w.dirs[domain] {
		w.watched--
		w.notify.Remove(filepath.Join(d.path, domain)) // an error means that the system dropped it
	}
	delete(w.dirs, domain)
}

// watchDomain adds the domain's directory to every Watch at work.
func (d *Dir) watchDomain(domain string) {
	d.mu.Lock()
	var full error
	for w := range d.watchers {
		if w.dirs[domain] {
			continue
		}
		dir := filepath.Join(d.path, domain)
		var err error
		if w.watched < maxWatches {
			err = w.notify.Add(dir)
		} else if _, err = os.Stat(dir); err == nil {
			err = syscall.ENOSPC
		}
		switch {
		case err == nil:
			w.dirs[domain] = true
			w.watched++
		case errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.ENOMEM):
			w.dirs[domain] = false
			full = err
		} // else there is no such directory, and Domain will say so
	}
	d.mu.Unlock()
	if full != nil {
		d.noWatches(full)
	}
}

// noWatches tells WatchError about the first error, and returns it.
func (d *Dir) noWatches(err error) error {
	err = fmt.Errorf("watching the keystore %s: %w", d.path, err)
	d.mu.Lock()
	tell := !d.told && d.opts.WatchError != nil
	d.told = true
	d.mu.Unlock()
	if tell {
		d.opts.WatchError(err)
	}
	return err
}

// Unwatched returns how many domains in use could not be watched.
func (d *Dir) Unwatched() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := 0
	for w := range d.watchers {
		n += len(w.dirs) - w.watched
	}
	return n
}
