package keystore

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"
	"syscall"
	"time"
)

const (
	lockName   = ".lock"
	tempPrefix = ".tmp-" // files of an Update that did not finish; the next one deletes them

	modeDir    = 0o750
	modeKey    = 0o600
	modePublic = 0o644 // domain.toml and SELECTOR.txt
)

// lockPoll is how long Update sleeps between tries to get the lock, which is
// held for a few milliseconds.
const lockPoll = 10 * time.Millisecond

// Update implements Store. The order of its steps makes it complete or absent
// at any point: key files first, under names that no row mentions yet; then
// domain.toml, by a rename, which is the moment the change happens; then the
// key files that no row needs any more. What a crash (but no other error) can
// leave behind is a key file without a row, which Check names, and temporary
// files, which the next Update deletes.
func (d *Dir) Update(ctx context.Context, dom *Domain) error {
	if err := ValidDomain(dom.Name); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("domain %s: %w", dom.Name, err)
	}
	if err := dom.Validate(); err != nil { // before there is a directory for it
		return fmt.Errorf("domain %s: %w", dom.Name, err)
	}
	u := &update{dir: d, dom: dom, uid: -1, gid: -1}
	defer u.close()
	if err := u.open(ctx); err != nil {
		return fmt.Errorf("domain %s: %w", dom.Name, err)
	}
	if err := u.compare(); err != nil {
		return fmt.Errorf("domain %s: %w", dom.Name, err)
	}
	err := u.writeKeys(ctx)
	if err == nil {
		err = u.writeDomain()
	}
	if err != nil {
		u.undo()
		return fmt.Errorf("domain %s: %w", dom.Name, err)
	}
	dom.Version++
	if err := u.tidy(); err != nil {
		return fmt.Errorf("domain %s: saved as version %d, but tidying up afterwards: %w", dom.Name, dom.Version, err)
	}
	return nil
}

// update is one Update at work. All paths are relative to root.
type update struct {
	dir  *Dir
	dom  *Domain
	old  *Domain // nil when the domain is new
	root *os.Root
	lock *os.File

	uid, gid int // whom new files are given to; -1 leaves them as they are

	linked  []string // key files of new rows, by name
	renamed bool     // domain.toml is the new one: no way back
}

// open opens the store and locks the domain's directory, which it makes if the
// domain is new.
func (u *update) open(ctx context.Context) (err error) {
	if u.root, err = os.OpenRoot(u.dir.path); err != nil {
		return err
	}
	info, err := u.root.Stat(".")
	if err != nil {
		return err
	}
	if os.Geteuid() == 0 {
		u.uid, u.gid = ownerOf(info)
	}
	if _, err := u.root.Stat(u.dom.Name); err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if u.dom.Version != 0 {
			return ErrConflict
		}
		if err := u.makeDir(); err != nil {
			return err
		}
	}
	return u.takeLock(ctx)
}

func (u *update) makeDir() error {
	if err := u.step("make directory"); err != nil {
		return err
	}
	if err := u.root.Mkdir(u.dom.Name, modeDir); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if u.uid >= 0 {
		if err := u.root.Lchown(u.dom.Name, u.uid, u.gid); err != nil {
			return err
		}
	}
	return u.sync(".")
}

// takeLock waits for the lock on the domain's directory. The lock is flock(2)
// on a file of its own: it works between processes, on NFS between hosts, and
// goes when its holder dies.
func (u *update) takeLock(ctx context.Context) (err error) {
	name := path.Join(u.dom.Name, lockName)
	u.lock, err = u.root.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, modeKey)
	switch {
	case errors.Is(err, fs.ErrExist): // and it has its owner already
		if u.lock, err = u.root.OpenFile(name, os.O_RDWR|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0); err != nil {
			return err
		}
	case err != nil:
		return err
	default:
		if err := u.own(u.lock, modeKey); err != nil {
			return err
		}
	}
	for {
		err := syscall.Flock(int(u.lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		switch {
		case err == nil:
			return nil
		case !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR):
			return fmt.Errorf("locking %s: %w", u.lock.Name(), err)
		}
		select {
		case <-time.After(lockPoll):
		case <-ctx.Done():
			return fmt.Errorf("waiting for another process to finish its change: %w", ctx.Err())
		}
	}
}

// compare reads what is there and compares versions.
func (u *update) compare() error {
	old, err := u.dir.read(u.dom.Name)
	switch {
	case errors.Is(err, ErrNotFound):
		if u.dom.Version != 0 {
			return ErrConflict
		}
	case err != nil:
		return err
	case old.Version != u.dom.Version:
		return ErrConflict
	default:
		u.old = old
	}
	if err := CheckUpdate(u.old, u.dom); err != nil {
		return err
	}
	return u.deleteTemps()
}

// deleteTemps deletes what an Update that was killed left; they may hold keys.
func (u *update) deleteTemps() error {
	names, err := fs.ReadDir(u.root.FS(), u.dom.Name)
	if err != nil {
		return err
	}
	for _, e := range names {
		if strings.HasPrefix(e.Name(), tempPrefix) {
			if err := u.remove(e.Name()); err != nil {
				return err
			}
		}
	}
	return nil
}

// writeKeys writes the private halves of the keys whose rows are new.
func (u *update) writeKeys(ctx context.Context) error {
	wrote := false
	for i := range u.dom.Keys {
		k := &u.dom.Keys[i]
		if !u.dom.IsNew(u.old, k) || k.State == Removed {
			continue
		}
		if err := u.writeKey(ctx, k); err != nil {
			return fmt.Errorf("key %s: %w", k.Selector, err)
		}
		wrote = true
	}
	if !wrote {
		return nil
	}
	return u.sync(u.dom.Name)
}

// writeKey puts the key under its name, which fails if the name is taken,
// except by the very same key: then a crash came between it and its row.
func (u *update) writeKey(ctx context.Context, k *Key) error {
	key, err := k.Load(ctx)
	if err != nil {
		return err
	}
	if err := SelfTest(key, k.Public); err != nil {
		return err
	}
	data, err := MarshalPrivateKey(key)
	if err != nil {
		return err
	}
	defer clear(data)
	if data, err = u.dir.opts.Wrapper.Wrap(u.dom.Name, k.Selector, data); err != nil {
		return err
	}
	temp, err := u.writeTemp(data, modeKey)
	if err != nil {
		return err
	}
	defer u.root.Remove(temp)
	if err := u.step("link key"); err != nil {
		return err
	}
	name := k.Selector + pemExt
	if u.old != nil && u.old.Key(k.Selector) != nil { // the slot's last key, if a crash left its file
		if err := u.remove(name); err != nil {
			return err
		}
	}
	err = u.root.Link(temp, path.Join(u.dom.Name, name))
	if err == nil {
		u.linked = append(u.linked, name)
	}
	if !errors.Is(err, fs.ErrExist) {
		return err
	}
	file := u.dir.file(u.dom.Name, name)
	there, err := u.dir.loadKey(u.dom.Name, k.Selector)
	if err != nil {
		return fmt.Errorf("its file is there already: %w", err)
	}
	if public, _, _ := PublicBytes(there.Public()); string(public) != string(k.Public) {
		return &FileError{Path: file, Problem: "another key is there, without a row in domain.toml", Err: fs.ErrExist,
			Repair: fmt.Sprintf("keep it with: waxseal key import %s %s %s; or delete it; or take another selector", u.dom.Name, k.Selector, shellWord(file))}
	}
	return nil
}

// writeDomain replaces domain.toml by the next version.
func (u *update) writeDomain() error {
	next := *u.dom
	next.Version++
	data, err := encodeDomain(&next)
	if err != nil {
		return err
	}
	if _, errs, _ := decodeDomain(tomlName, next.Name, data); len(errs) != 0 {
		return fmt.Errorf("cannot be written: %w", errors.Join(errs...))
	}
	if len(data) > maxDomainFile {
		return &FileError{
			Path: u.dir.file(u.dom.Name, tomlName), Problem: fmt.Sprintf("would have %d bytes, want at most %d", len(data), maxDomainFile),
			Repair: "delete by hand the [[key]] rows, and their [[event]] rows, of keys that were removed years ago, raise its version by one, and rotate less often",
		}
	}
	return u.replace(tomlName, data)
}

// tidy brings the files that follow from domain.toml up to date, those also
// that a crash kept an earlier Update from.
func (u *update) tidy() error {
	var errs []error
	for i := range u.dom.Keys {
		k := &u.dom.Keys[i]
		if k.State == Removed {
			errs = append(errs, u.remove(k.Selector+pemExt), u.remove(k.Selector+textExt))
		} else if u.dir.opts.Describe != nil {
			errs = append(errs, u.describe(k))
		}
	}
	errs = append(errs, u.sync(u.dom.Name))
	return errors.Join(errs...)
}

// describe writes SELECTOR.txt if it is to say something new.
func (u *update) describe(k *Key) error {
	name := k.Selector + textExt
	text := u.dir.opts.Describe(u.dom, k)
	if len(text) == 0 {
		return u.remove(name)
	}
	if old, err := u.root.ReadFile(path.Join(u.dom.Name, name)); err == nil && bytes.Equal(old, text) {
		return nil
	}
	return u.replace(name, text)
}

// replace writes a public file of the domain under a temporary name, renames
// it and makes that durable.
func (u *update) replace(name string, data []byte) error {
	temp, err := u.writeTemp(data, modePublic)
	if err != nil {
		return err
	}
	if err := u.step("rename " + path.Ext(name)); err != nil {
		u.root.Remove(temp)
		return err
	}
	if err := u.root.Rename(temp, path.Join(u.dom.Name, name)); err != nil {
		u.root.Remove(temp)
		return err
	}
	u.renamed = u.renamed || name == tomlName
	return u.sync(u.dom.Name)
}

// undo deletes the key files of rows that did not come to be.
func (u *update) undo() {
	if u.renamed {
		return
	}
	for _, name := range u.linked {
		u.root.Remove(path.Join(u.dom.Name, name))
	}
}

// writeTemp writes a new file with a temporary name, durably, and returns its
// path. After an error there is none.
func (u *update) writeTemp(data []byte, mode fs.FileMode) (string, error) {
	if err := u.step("make temporary file"); err != nil {
		return "", err
	}
	name := path.Join(u.dom.Name, tempPrefix+rand.Text())
	f, err := u.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, modeKey)
	if err != nil {
		return "", err
	}
	err = u.step("write temporary file")
	if err == nil {
		_, err = f.Write(data)
	}
	if err == nil {
		err = u.own(f, mode)
	}
	if err == nil {
		err = u.step("sync temporary file")
	}
	if err == nil {
		err = f.Sync()
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		u.root.Remove(name)
		return "", err
	}
	return name, nil
}

// own gives a new file its mode and, when root writes, its owner.
func (u *update) own(f *os.File, mode fs.FileMode) error {
	if u.uid >= 0 {
		if err := f.Chown(u.uid, u.gid); err != nil {
			return err
		}
	}
	info, err := f.Stat()
	if err != nil || info.Mode().Perm() == mode {
		return err
	}
	return f.Chmod(mode)
}

// remove deletes a file of the domain, which need not be there.
func (u *update) remove(name string) error {
	if _, err := u.root.Lstat(path.Join(u.dom.Name, name)); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err := u.step("remove " + path.Ext(name)); err != nil {
		return err
	}
	if err := u.root.Remove(path.Join(u.dom.Name, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// sync makes the names in a directory durable.
func (u *update) sync(dir string) error {
	if err := u.step("sync directory"); err != nil {
		return err
	}
	f, err := u.root.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}

func (u *update) step(name string) error {
	if u.dir.between == nil {
		return nil
	}
	return u.dir.between(name)
}

func (u *update) close() {
	if u.lock != nil {
		u.lock.Close() // gives up the lock
	}
	if u.root != nil {
		u.root.Close()
	}
}
