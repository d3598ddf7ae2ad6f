package keystore

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// FileError is a problem with a file of a Dir, and what repairs it.
type FileError struct {
	Path    string
	Line    int    // 0 when the problem has no line
	Problem string // what is wrong
	Repair  string // what to do about it
	Err     error  // the cause, if there is one below
}

func (e *FileError) Error() string {
	var b strings.Builder
	b.WriteString(e.Path)
	if e.Line > 0 {
		fmt.Fprintf(&b, ":%d", e.Line)
	}
	b.WriteString(": " + e.Problem)
	if e.Repair != "" {
		b.WriteString("; " + e.Repair)
	}
	return b.String()
}

func (e *FileError) Unwrap() error { return e.Err }

// Is makes a FileError an ErrBroken.
func (e *FileError) Is(target error) bool { return target == ErrBroken }

// PermissionError says that a key is not used because others could have read
// or replaced it. A key file has to be a regular file (a symbolic link to one
// will do) of mode 0600 or stricter, or 0640 with DirOptions.GroupReadable,
// owned by the user the process runs as, by root, or by the owner of the
// store. No directory on the way to it may be writable by others, unless it
// is sticky, or by a group that is not the owner's private one.
type PermissionError struct {
	Path   string
	Rule   string // the rule that is broken
	Repair string // the command that repairs it
}

func (e *PermissionError) Error() string {
	return fmt.Sprintf("%s: %s; run: %s", e.Path, e.Rule, e.Repair)
}

// Is makes a PermissionError an ErrBroken.
func (e *PermissionError) Is(target error) bool { return target == ErrBroken }

// checkKeyFile judges an open key file.
func (d *Dir) checkKeyFile(path string, info fs.FileInfo) error {
	bad, repair := fs.FileMode(0o077), "chmod 600 "
	if d.opts.GroupReadable {
		bad, repair = 0o037, "chmod 640 "
	}
	if mode := info.Mode().Perm(); mode&bad != 0 {
		return &PermissionError{
			Path:   path,
			Rule:   fmt.Sprintf("private key is open to %s (mode %04o)", openTo(mode&bad), mode),
			Repair: repair + shellWord(path),
		}
	}
	owner, _ := ownerOf(info)
	if owner == 0 || owner == os.Geteuid() {
		return nil
	}
	if owner == d.owner() {
		return nil
	}
	return &PermissionError{
		Path:   path,
		Rule:   fmt.Sprintf("private key is owned by user id %d, want %d, root or the owner of the keystore", owner, os.Geteuid()),
		Repair: fmt.Sprintf("chown --reference=%s %s", shellWord(d.path), shellWord(path)),
	}
}

// owner is the user that the store belongs to, root if that cannot be told.
func (d *Dir) owner() int {
	info, err := os.Stat(d.path)
	if err != nil {
		return 0
	}
	uid, _ := ownerOf(info)
	return uid
}

// checkParents judges every directory from the root of the file system down
// to the real place of the file, and those of the store, in case the way
// there leads through a symbolic link.
func (d *Dir) checkParents(path string) error {
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return readError(path, err)
	}
	for _, p := range []string{real, path} {
		for dir := filepath.Dir(p); ; dir = filepath.Dir(dir) {
			if err := d.checkDirectory(dir); err != nil {
				return err
			}
			if dir == filepath.Dir(dir) {
				break
			}
		}
		if real == path {
			break
		}
	}
	return nil
}

// checkDirectory refuses a directory in which someone else can put a file of
// their own in the place of ours.
func (d *Dir) checkDirectory(dir string) error {
	info, err := os.Stat(dir)
	if err != nil {
		return readError(dir, err)
	}
	mode := info.Mode()
	owner, group := ownerOf(info)
	switch {
	case owner != 0 && owner != os.Geteuid() && owner != d.owner():
		return &PermissionError{
			Path:   dir,
			Rule:   fmt.Sprintf("directory above a private key is owned by user id %d, who can replace what is in it; want %d, root or the owner of the keystore", owner, os.Geteuid()),
			Repair: "chown root " + shellWord(dir) + ", or move the keystore elsewhere",
		}
	case mode&fs.ModeSticky != 0: // as /tmp: only owners move their files
		return nil
	case mode.Perm()&0o002 != 0:
		return &PermissionError{
			Path:   dir,
			Rule:   fmt.Sprintf("directory above a private key is writable by everyone (mode %04o)", mode.Perm()),
			Repair: "chmod o-w " + shellWord(dir),
		}
	case mode.Perm()&0o020 != 0 && group != owner: // a group of the same number is the user's private one
		return &PermissionError{
			Path:   dir,
			Rule:   fmt.Sprintf("directory above a private key is writable by group id %d (mode %04o)", group, mode.Perm()),
			Repair: "chmod g-w " + shellWord(dir),
		}
	}
	return nil
}

func openTo(mode fs.FileMode) string {
	switch {
	case mode&0o007 == 0:
		return "its group"
	case mode&0o070 == 0:
		return "everyone"
	}
	return "its group and everyone"
}

// shellWord quotes a path for the shell, if it needs that.
func shellWord(path string) string {
	if strings.Trim(path, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._-+:@") == "" {
		return path
	}
	return "'" + strings.ReplaceAll(path, "'", `'\''`) + "'"
}

func ownerOf(info fs.FileInfo) (uid, gid int) {
	st := info.Sys().(*syscall.Stat_t)
	return int(st.Uid), int(st.Gid)
}
