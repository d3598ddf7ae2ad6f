package landlock

import (
	"errors"
	"fmt"
	"io/fs"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// newestABI is the newest version of the interface that is made use of. Newer
// kernels grant what it does not know of.
const newestABI = 7

// What golang.org/x/sys/unix leaves out of <linux/landlock.h>.
const ruleNetPort = 2 // LANDLOCK_RULE_NET_PORT

// netPort is struct landlock_net_port_attr.
type netPort struct {
	access uint64
	port   uint64 // in host byte order
}

// The rights to files of each ABI that brought some.
var handledFS = []struct {
	abi    int
	rights uint64
}{
	{1, unix.LANDLOCK_ACCESS_FS_EXECUTE | unix.LANDLOCK_ACCESS_FS_WRITE_FILE | unix.LANDLOCK_ACCESS_FS_READ_FILE |
		unix.LANDLOCK_ACCESS_FS_READ_DIR | unix.LANDLOCK_ACCESS_FS_REMOVE_DIR | unix.LANDLOCK_ACCESS_FS_REMOVE_FILE |
		unix.LANDLOCK_ACCESS_FS_MAKE_CHAR | unix.LANDLOCK_ACCESS_FS_MAKE_DIR | unix.LANDLOCK_ACCESS_FS_MAKE_REG |
		unix.LANDLOCK_ACCESS_FS_MAKE_SOCK | unix.LANDLOCK_ACCESS_FS_MAKE_FIFO | unix.LANDLOCK_ACCESS_FS_MAKE_BLOCK |
		unix.LANDLOCK_ACCESS_FS_MAKE_SYM},
	{2, unix.LANDLOCK_ACCESS_FS_REFER},
	{3, unix.LANDLOCK_ACCESS_FS_TRUNCATE},
	{5, unix.LANDLOCK_ACCESS_FS_IOCTL_DEV},
}

// rightsOf are the rights that each Access stands for.
var rightsOf = []struct {
	access Access
	rights uint64
}{
	{Read | Write, unix.LANDLOCK_ACCESS_FS_READ_FILE | unix.LANDLOCK_ACCESS_FS_READ_DIR},
	{Write, unix.LANDLOCK_ACCESS_FS_WRITE_FILE | unix.LANDLOCK_ACCESS_FS_TRUNCATE | unix.LANDLOCK_ACCESS_FS_REFER |
		unix.LANDLOCK_ACCESS_FS_MAKE_REG | unix.LANDLOCK_ACCESS_FS_MAKE_DIR |
		unix.LANDLOCK_ACCESS_FS_REMOVE_FILE | unix.LANDLOCK_ACCESS_FS_REMOVE_DIR},
	{Execute, unix.LANDLOCK_ACCESS_FS_EXECUTE},
	{Sockets, unix.LANDLOCK_ACCESS_FS_MAKE_SOCK | unix.LANDLOCK_ACCESS_FS_REMOVE_FILE},
	{Device, unix.LANDLOCK_ACCESS_FS_WRITE_FILE | unix.LANDLOCK_ACCESS_FS_IOCTL_DEV},
}

// fileRights are those that a rule about anything but a directory may have.
const fileRights = unix.LANDLOCK_ACCESS_FS_EXECUTE | unix.LANDLOCK_ACCESS_FS_WRITE_FILE |
	unix.LANDLOCK_ACCESS_FS_READ_FILE | unix.LANDLOCK_ACCESS_FS_TRUNCATE | unix.LANDLOCK_ACCESS_FS_IOCTL_DEV

// ABI returns the version of Landlock that the kernel offers, or why there is
// none for us: ErrAbsent where it offers none.
func ABI() (int, error) {
	abi, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	switch errno {
	case 0:
		return int(abi), nil
	case unix.ENOSYS:
		return 0, fmt.Errorf("%w in this kernel", ErrAbsent)
	case unix.EOPNOTSUPP:
		return 0, fmt.Errorf("%w: it was switched off at boot (the kernel's parameter lsm= does not name it)", ErrAbsent)
	case unix.EPERM, unix.EACCES:
		return 0, errors.New("a filter of system calls forbids Landlock (in a unit of systemd: add @sandbox to SystemCallFilter=)")
	}
	return 0, fmt.Errorf("asking for Landlock: %w", errno)
}

// Exec gives up all rights but those of the rules and replaces this process by a
// program, which has the same process id, the open files that are meant for it,
// and cannot gain privileges. It returns only when that fails; the process then
// has all its rights still.
//
// Rights are those of a thread, and handed on to threads and processes that it
// starts. The threads of a running program can be restricted all at once by cgo
// only, or since ABI 8; so one is restricted, and becomes the new program.
func Exec(r Rules, program string, args, env []string) error {
	failed := make(chan error)
	go func() {
		runtime.LockOSThread() // for ever: the thread ends with the goroutine
		failed <- restrictAndExec(&r, program, args, env)
	}()
	return <-failed
}

func restrictAndExec(r *Rules, program string, args, env []string) error {
	abi, err := ABI()
	if err != nil {
		return err
	}
	set, err := ruleset(r, min(abi, newestABI))
	if err != nil {
		return err
	}
	defer unix.Close(set)
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("no_new_privs: %w", err)
	}
	var flags uintptr
	if abi >= 7 {
		flags = unix.LANDLOCK_RESTRICT_SELF_LOG_NEW_EXEC_ON // the audit log has what is refused
	}
	if _, _, errno := unix.Syscall(unix.SYS_LANDLOCK_RESTRICT_SELF, uintptr(set), flags, 0); errno != 0 {
		return fmt.Errorf("landlock_restrict_self: %w", errno)
	}
	return fmt.Errorf("executing %s again: %w", program, syscall.Exec(program, args, env))
}

// ruleset makes the kernel's form of the rules.
func ruleset(r *Rules, abi int) (int, error) {
	var a unix.LandlockRulesetAttr // fields that a kernel does not know have to be zero
	for _, h := range handledFS {
		if abi >= h.abi {
			a.Handled_access_fs |= h.rights
		}
	}
	if abi >= 4 {
		a.Handled_access_net = unix.LANDLOCK_ACCESS_NET_BIND_TCP
		if !r.AnyConnect {
			a.Handled_access_net |= unix.LANDLOCK_ACCESS_NET_CONNECT_TCP
		}
	}
	if abi >= 6 {
		a.Scoped = unix.LANDLOCK_SCOPE_SIGNAL
		if !r.Abstract {
			a.Scoped |= unix.LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET
		}
	}
	n, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(&a)), unsafe.Sizeof(a), 0)
	if errno != 0 {
		return -1, fmt.Errorf("landlock_create_ruleset: %w", errno)
	}
	set := int(n)
	unix.CloseOnExec(set)
	err := func() error {
		for _, p := range r.Paths {
			if err := addPath(set, p, a.Handled_access_fs); err != nil {
				return fmt.Errorf("%s: %w", p.Path, err)
			}
		}
		if abi < 4 {
			return nil
		}
		for _, p := range r.Bind {
			if err := addPort(set, p.Port, unix.LANDLOCK_ACCESS_NET_BIND_TCP); err != nil {
				return err
			}
		}
		if r.AnyConnect {
			return nil
		}
		for _, p := range r.Connect {
			if err := addPort(set, p.Port, unix.LANDLOCK_ACCESS_NET_CONNECT_TCP); err != nil {
				return err
			}
		}
		return nil
	}()
	if err != nil {
		unix.Close(set)
		return -1, err
	}
	return set, nil
}

func addPath(set int, p Path, handled uint64) error {
	fd, err := unix.Open(p.Path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) || errors.Is(err, unix.ENOTDIR) {
		return nil // nobody can reach what is not there, nor we what is behind a closed door
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var stat unix.Stat_t
	if err := unix.Fstat(fd, &stat); err != nil {
		return err
	}
	rule := unix.LandlockPathBeneathAttr{Allowed_access: rights(p.Access) & handled, Parent_fd: int32(fd)}
	if stat.Mode&unix.S_IFMT != unix.S_IFDIR {
		rule.Allowed_access &= fileRights
	}
	if rule.Allowed_access == 0 {
		return nil // such as sockets in what is no directory
	}
	return addRule(set, unix.LANDLOCK_RULE_PATH_BENEATH, unsafe.Pointer(&rule))
}

func rights(a Access) (all uint64) {
	for _, r := range rightsOf {
		if a&r.access != 0 {
			all |= r.rights
		}
	}
	return all
}

func addPort(set int, port uint16, right uint64) error {
	rule := netPort{access: right, port: uint64(port)}
	if err := addRule(set, ruleNetPort, unsafe.Pointer(&rule)); err != nil {
		return fmt.Errorf("TCP port %d: %w", port, err)
	}
	return nil
}

func addRule(set, kind int, rule unsafe.Pointer) error {
	if _, _, errno := unix.Syscall6(unix.SYS_LANDLOCK_ADD_RULE, uintptr(set), uintptr(kind), uintptr(rule), 0, 0, 0); errno != 0 {
		if errno == unix.EAFNOSUPPORT && kind == ruleNetPort {
			return nil // a kernel without TCP
		}
		return fmt.Errorf("landlock_add_rule: %w", errno)
	}
	return nil
}
