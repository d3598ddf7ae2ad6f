package keystore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path"
)

// Rewrap writes the key files of a domain anew that are not as
// DirOptions.Wrapper would have them now, and returns the selectors of these; a
// dry run only returns them. Each is replaced by a rename, once the new file is
// durable, has been read back and has signed, so that a crash at any point
// leaves the old file or the new one, and the next Rewrap goes on where this one
// ended. A key or a row that cannot be read is an error and stops no other.
func (d *Dir) Rewrap(ctx context.Context, domain string, dryRun bool) ([]string, error) {
	dom, err := d.Domain(ctx, domain)
	if err != nil {
		return nil, err
	}
	u := &update{dir: d, dom: dom, uid: -1, gid: -1}
	defer u.close()
	if !dryRun {
		if err := u.open(ctx); err != nil {
			return nil, fmt.Errorf("domain %s: %w", domain, err)
		}
		if dom, err = d.Domain(ctx, domain); err != nil { // nobody changes it now
			return nil, err
		}
		u.dom = dom
		if err := u.deleteTemps(); err != nil {
			return nil, fmt.Errorf("domain %s: %w", domain, err)
		}
	}
	var done []string
	errs := []error{dom.Whole()}
	for i := range dom.Keys {
		k := &dom.Keys[i]
		if k.State == Removed {
			continue
		}
		if err := ctx.Err(); err != nil {
			return done, errors.Join(append(errs, fmt.Errorf("domain %s: %w", domain, err))...)
		}
		wrote, err := u.rewrap(k, dryRun)
		if err != nil {
			errs = append(errs, &KeyError{domain, k.Selector, err})
		} else if wrote {
			done = append(done, k.Selector)
		}
	}
	return done, errors.Join(errs...)
}

// rewrap writes one key file anew, if it is not as it should be.
func (u *update) rewrap(k *Key, dryRun bool) (wrote bool, err error) {
	stored, info, err := u.dir.readKey(u.dom.Name, k.Selector)
	if err != nil {
		return false, err
	}
	defer clear(stored)
	file := u.dir.file(u.dom.Name, k.Selector+pemExt)
	next, err := u.dir.opts.Wrapper.Rewrap(u.dom.Name, k, stored)
	if err != nil {
		return false, wrapError(file, err)
	}
	if next == nil || dryRun {
		return next != nil, nil
	}
	defer clear(next)
	name := path.Join(u.dom.Name, k.Selector+pemExt)
	if link, err := u.root.Lstat(name); err != nil {
		return false, err
	} else if !link.Mode().IsRegular() {
		return false, &FileError{Path: file, Problem: "a link, so that its key is not replaced here", Repair: "put the file itself here"}
	}
	temp, err := u.writeTemp(next, info.Mode().Perm())
	if err != nil {
		return false, err
	}
	defer u.root.Remove(temp) // nothing, once it is renamed
	there, err := u.root.ReadFile(temp)
	if err != nil {
		return false, err
	}
	if !bytes.Equal(there, next) {
		return false, fmt.Errorf("%s: another content is read than was written", temp)
	}
	if err := u.step("rename key"); err != nil {
		return false, err
	}
	if err := u.root.Rename(temp, name); err != nil {
		return false, err
	}
	return true, u.sync(u.dom.Name)
}
