package keystore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Check looks for everything that is wrong with a domain's files: rows,
// permissions, keys that are missing, damaged, do not match their row or fail
// their self-test, and files that should not be there. Each error carries the
// path and the remedy (FileError, PermissionError); none means that every key
// can be used. It needs to be run as a user who may read the keys.
func (d *Dir) Check(ctx context.Context, domain string) []error {
	if err := ValidDomain(domain); err != nil {
		return []error{err}
	}
	dir := filepath.Join(d.path, domain)
	entries, err := os.ReadDir(dir)
	if missing(err) {
		return []error{fmt.Errorf("domain %s: %w", domain, ErrNotFound)}
	}
	if err != nil {
		return []error{readError(dir, err)}
	}
	errs := d.checkDomainDir(dir)

	path := filepath.Join(dir, tomlName)
	data, info, err := readRegular(path, maxDomainFile)
	if errors.Is(err, fs.ErrNotExist) {
		return append(errs, &FileError{Path: path, Problem: "missing", Err: fs.ErrNotExist,
			Repair: "restore it from a backup; if the directory holds no keys worth keeping, delete it"})
	}
	if err != nil {
		return append(errs, err)
	}
	if err := checkDomainFile(path, info); err != nil {
		errs = append(errs, err)
	}
	dom, rowErrs, _ := decodeDomain(path, domain, data)
	errs = append(errs, rowErrs...)
	for i := range dom.Keys {
		if err := ctx.Err(); err != nil {
			return append(errs, err)
		}
		if k := &dom.Keys[i]; ValidSelector(k.Selector) == nil {
			errs = append(errs, d.checkKey(domain, k)...)
		}
	}
	if len(rowErrs) == 0 { // else a row may be there that we could not read
		errs = append(errs, checkStray(dir, dom, entries)...)
	}
	return errs
}

// checkDomainDir judges the domain's directory itself.
func (d *Dir) checkDomainDir(dir string) []error {
	info, err := os.Stat(dir)
	if err != nil {
		return []error{readError(dir, err)}
	}
	if err := d.checkDirectory(dir); err != nil {
		return []error{err}
	}
	if mode := info.Mode().Perm(); mode&0o002 != 0 { // sticky, so that checkDirectory let it pass
		return []error{&PermissionError{Path: dir, Repair: "chmod 750 " + shellWord(dir),
			Rule: fmt.Sprintf("domain directory is writable by everyone (mode %04o)", mode)}}
	}
	return nil
}

// checkKey does with one key what the cache does before it signs.
func (d *Dir) checkKey(domain string, k *Key) []error {
	path := d.file(domain, k.Selector+pemExt)
	if k.State == Removed {
		if _, err := os.Lstat(path); err == nil {
			return []error{&FileError{Path: path, Problem: "private key of a removed key is still there", Repair: "delete it"}}
		}
		return nil
	}
	key, err := d.loadKey(domain, k.Selector)
	if err != nil {
		return []error{err}
	}
	if len(k.Public) == 0 {
		return nil // the row's error is reported already
	}
	if err := SelfTest(key, k.Public); err != nil {
		return []error{&FileError{Path: path, Problem: err.Error(), Err: err,
			Repair: "restore the key from a backup, or make a new key and remove this one"}}
	}
	return nil
}

// checkDomainFile refuses a domain.toml that others could have changed: it says
// which keys sign.
func checkDomainFile(path string, info fs.FileInfo) error {
	if mode := info.Mode().Perm(); mode&0o022 != 0 {
		return &PermissionError{Path: path, Repair: "chmod 644 " + shellWord(path),
			Rule: fmt.Sprintf("domain file is writable by others (mode %04o)", mode)}
	}
	return nil
}

// checkStray names the files that no row explains.
func checkStray(dir string, dom *Domain, entries []fs.DirEntry) []error {
	var errs []error
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		selector, isKey := strings.CutSuffix(e.Name(), pemExt)
		switch {
		case strings.HasPrefix(e.Name(), tempPrefix):
			errs = append(errs, &FileError{Path: path, Problem: "left by a change that did not finish, and may hold a private key",
				Repair: "it goes with the next change of the domain; or delete it"})
		case isKey && dom.Key(selector) == nil:
			repair := "delete it"
			if ValidSelector(selector) == nil {
				repair = fmt.Sprintf("keep it with: waxseal key import %s %s %s; or delete it", dom.Name, selector, shellWord(path))
			}
			errs = append(errs, &FileError{Path: path, Problem: "private key without a row in " + tomlName, Repair: repair})
		}
	}
	return errs
}

// CheckRoot looks for what is wrong with the store's directory itself: its
// permissions, names in it that no mail will ever ask for, and directories of
// domains whose keys no domain.toml tells of.
func (d *Dir) CheckRoot(ctx context.Context) []error {
	var errs []error
	for dir := d.path; ; dir = filepath.Dir(dir) {
		if err := d.checkDirectory(dir); err != nil {
			errs = append(errs, err)
		}
		if dir == filepath.Dir(dir) {
			break
		}
	}
	entries, err := os.ReadDir(d.path)
	if err != nil {
		return append(errs, readError(d.path, err))
	}
	for _, e := range entries {
		if err := ctx.Err(); err != nil {
			return append(errs, err)
		}
		if !e.IsDir() {
			continue
		}
		path := filepath.Join(d.path, e.Name())
		named := ValidDomain(e.Name())
		described := !missing(statError(filepath.Join(path, tomlName)))
		switch {
		case named != nil && described:
			errs = append(errs, &FileError{Path: path, Problem: named.Error(), Err: named,
				Repair: "rename the directory to the domain's name in lower case, as A-labels, without a final dot"})
		case named == nil && !described:
			if keys, _ := filepath.Glob(filepath.Join(path, "*"+pemExt)); len(keys) > 0 {
				errs = append(errs, &FileError{Path: filepath.Join(path, tomlName), Err: fs.ErrNotExist,
					Problem: "missing, so that the private keys beside it do not sign",
					Repair:  "restore it from a backup, or import the keys: waxseal key import " + e.Name() + " SELECTOR FILE"})
			}
		}
	}
	return errs
}

func statError(path string) error {
	_, err := os.Stat(path)
	return err
}
