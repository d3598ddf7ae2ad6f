package keystore

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
)

const (
	tomlName = "domain.toml"
	pemExt   = ".pem"
	textExt  = ".txt"

	// defaultPage is how many names List returns when not told.
	defaultPage = 1000
)

// DirOptions sets up a Dir. The zero value works.
type DirOptions struct {
	// GroupReadable accepts private keys that their group can read, as in a
	// mounted secret or a service manager's credential directory.
	GroupReadable bool

	// Describe makes the text of SELECTOR.txt, which stands beside each key
	// for the administrator who publishes it; nil keeps no such files, and so
	// does an empty result.
	Describe func(d *Domain, k *Key) []byte

	// Wrapper encrypts the key files that are written, and decrypts those that
	// are read; nil writes them as they are.
	Wrapper *Wrapper

	// WatchError is told once, by the first Watch that runs out of watches:
	// from then on some changes are noticed only when the cache refreshes.
	WatchError func(error)
}

// Dir is the default Store: a directory with one directory per domain, which
// holds
//
//	domain.toml     the domain's version and its keys' rows
//	SELECTOR.pem    the private key, mode 0600; wrapped if there is a Wrapper
//	SELECTOR.txt    the record and how to publish it (DirOptions.Describe)
//	.lock           locked (flock) by whoever writes
//
// A change is complete or absent after a crash at any point, and a key file is
// never overwritten. Reading takes no lock and needs no more than domain.toml
// to be readable. What root creates gets the owner and group of the store's
// directory, so that a daemon which runs as that user can read it.
//
// Private keys are handed out only if nobody else could have read or replaced
// them: see PermissionError.
type Dir struct {
	path string
	opts DirOptions

	// between is called before each step of an Update that changes the disk;
	// its error ends the Update there. Tests crash in it.
	between func(step string) error

	mu       sync.Mutex
	watchers map[*watcher]struct{} // guarded by mu
	told     bool                  // guarded by mu; WatchError was called
}

var _ Store = (*Dir)(nil)

// OpenDir opens the store at path, which must be a directory. It reads nothing
// in it, however many domains there are.
func OpenDir(path string, opts DirOptions) (*Dir, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	info, err := os.Stat(abs)
	if err != nil {
		return nil, fmt.Errorf("keystore: %w", err)
	}
	if !info.IsDir() {
		return nil, fmt.Errorf("keystore %s: not a directory", abs)
	}
	// Whether we may look into it is better found out now than with every
	// message.
	if _, err := os.Stat(abs + "/."); err != nil {
		return nil, readError(filepath.Join(abs, "*", tomlName), err)
	}
	return &Dir{path: abs, opts: opts, watchers: make(map[*watcher]struct{})}, nil
}

// Path returns the directory of the store.
func (d *Dir) Path() string { return d.path }

// Domain implements Store. It reads domain.toml and nothing else.
func (d *Dir) Domain(ctx context.Context, name string) (*Domain, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("domain %s: %w", name, err)
	}
	if err := ValidDomain(name); err != nil {
		return nil, fmt.Errorf("%w: %w", err, ErrNotFound)
	}
	d.watchDomain(name) // before reading, so that no change falls between
	dom, err := d.read(name)
	if err != nil {
		return nil, err
	}
	for i := range dom.Keys {
		if k := &dom.Keys[i]; k.State != Removed {
			k.Load = d.loader(name, k.Selector)
		}
	}
	return dom, nil
}

// read decodes the domain's domain.toml.
func (d *Dir) read(name string) (*Domain, error) {
	path := d.file(name, tomlName)
	data, info, err := readRegular(path, maxDomainFile)
	if err == nil {
		err = checkDomainFile(path, info)
	}
	switch {
	case missing(err):
		// Without its directory the store cannot tell what domains it has.
		if _, err := os.Stat(d.path); err != nil {
			return nil, fmt.Errorf("keystore: %w", err)
		}
		return nil, fmt.Errorf("domain %s: %w", name, ErrNotFound)
	case err != nil:
		return nil, err
	}
	dom, errs, ok := decodeDomain(path, name, data)
	if !ok {
		return nil, errors.Join(errs...)
	}
	return dom, nil
}

// loader returns a Key.Load for the key file of the selector.
func (d *Dir) loader(domain, selector string) func(context.Context) (crypto.Signer, error) {
	return func(ctx context.Context) (crypto.Signer, error) {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		return d.loadKey(domain, selector)
	}
}

// loadKey reads a key file, if its permissions allow to trust it.
func (d *Dir) loadKey(domain, selector string) (crypto.Signer, error) {
	stored, _, err := d.readKey(domain, selector)
	if err != nil {
		return nil, err
	}
	defer clear(stored)
	data, err := d.opts.Wrapper.Unwrap(domain, selector, stored)
	if err != nil {
		return nil, wrapError(d.file(domain, selector+pemExt), err)
	}
	defer clear(data)
	key, err := ParsePrivateKey(data)
	if err != nil {
		return nil, &FileError{Path: d.file(domain, selector+pemExt), Problem: err.Error(),
			Repair: "replace it by the RSA or Ed25519 key that belongs to the record, or make a new key"}
	}
	return key, nil
}

// readKey reads a key file as it stands, if its permissions allow to trust it.
func (d *Dir) readKey(domain, selector string) ([]byte, fs.FileInfo, error) {
	path := d.file(domain, selector+pemExt)
	if err := d.checkParents(path); err != nil {
		return nil, nil, err
	}
	data, info, err := readRegular(path, maxKeyFile)
	if err != nil {
		return nil, nil, err
	}
	if err := d.checkKeyFile(path, info); err != nil {
		return nil, nil, err
	}
	return data, info, nil
}

// wrapError names the remedy for an error of unwrapping.
func wrapError(path string, err error) error {
	e := &FileError{Path: path, Problem: err.Error(), Err: err, Repair: "restore it from a backup, or make a new key and remove this one"}
	if missing := new(WrappedError); errors.As(err, &missing) {
		e.Problem = fmt.Sprintf("encrypted with the wrapping key %s, which is not there", missing.ID)
		e.Repair = "add that to the file of keystore.key_encryption_key"
	}
	return e
}

// List implements Store. Each call goes over the names in the directory once,
// and holds no more of them than it returns.
func (d *Dir) List(ctx context.Context, after string, limit int) ([]string, error) {
	if limit < 1 {
		limit = defaultPage
	}
	var page []string
	for {
		want := limit - len(page)
		names, err := d.smallest(ctx, after, want)
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			if _, err := os.Stat(d.file(name, tomlName)); !missing(err) {
				page = append(page, name)
			}
		}
		if len(page) == limit || len(names) < want {
			return page, nil
		}
		after = names[want-1]
	}
}

// smallest returns the first n names in the directory that sort after the
// given one and could be domains.
func (d *Dir) smallest(ctx context.Context, after string, n int) ([]string, error) {
	dir, err := os.Open(d.path)
	if err != nil {
		return nil, fmt.Errorf("keystore: %w", err)
	}
	defer dir.Close()
	var found []string // up to 2n names, cut back to the n smallest when full
	beyond := ""       // then the largest of these: what sorts after it is not wanted
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		names, err := dir.Readdirnames(1024)
		for _, name := range names {
			if name <= after || beyond != "" && name > beyond || ValidDomain(name) != nil {
				continue
			}
			if found = append(found, name); len(found) >= 2*n {
				slices.Sort(found)
				found = found[:n]
				beyond = found[n-1]
			}
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("keystore: %w", err)
		}
	}
	slices.Sort(found)
	return found[:min(n, len(found))], nil
}

// file returns the path of a file of the domain, whose name is valid.
func (d *Dir) file(domain, name string) string {
	return filepath.Join(d.path, domain, name)
}

// missing reports whether the error means that there is no such file.
func missing(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR)
}

// readRegular reads a regular file of at most limit bytes. Symbolic links are
// followed; a pipe or device is an error and never blocks.
func readRegular(path string, limit int64) ([]byte, fs.FileInfo, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, readError(path, err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, nil, readError(path, err)
	}
	if !info.Mode().IsRegular() {
		return nil, nil, &FileError{Path: path, Problem: "not a regular file", Repair: "replace it by one"}
	}
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, nil, readError(path, err)
	}
	if int64(len(data)) > limit {
		return nil, nil, &FileError{Path: path, Problem: fmt.Sprintf("more than %d bytes", limit), Repair: "restore it from a backup"}
	}
	return data, info, nil
}

// readError names the remedy for the errors of reading that have one.
func readError(path string, err error) error {
	var pathErr *fs.PathError
	if errors.As(err, &pathErr) {
		err = pathErr.Err // the path is ours to say
	}
	e := &FileError{Path: path, Problem: err.Error(), Err: err}
	switch {
	case errors.Is(err, fs.ErrNotExist) && filepath.Ext(path) == pemExt:
		e.Problem = "missing, though domain.toml has a row for it"
		e.Repair = "restore it from a backup, or remove the key (waxseal key remove)"
	case errors.Is(err, fs.ErrPermission):
		// The obstacle may as well be a directory above.
		store := filepath.Dir(path)
		if filepath.Ext(path) == pemExt || filepath.Base(path) == tomlName {
			store = filepath.Dir(store)
		}
		e.Problem = fmt.Sprintf("not readable by user id %d", os.Geteuid())
		e.Repair = fmt.Sprintf("run as the user who owns the keystore, or give it to this one: chown -R %d %s",
			os.Geteuid(), shellWord(store))
		// Where a link leads may be shut, by something else than modes.
		real, err := filepath.EvalSymlinks(path)
		inside, storeErr := filepath.EvalSymlinks(store)
		if err == nil && storeErr == nil && !strings.HasPrefix(real, inside+string(filepath.Separator)) && real != inside {
			e.Problem = fmt.Sprintf("leads to %s, which is not readable by user id %d", real, os.Geteuid())
			e.Repair = "put the file itself here; or, if its mode is right, tell the daemon that it may read there ([confine] read)"
		}
	}
	return e
}
