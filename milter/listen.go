package milter

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// maxSocketPath is sun_path less its NUL, unix(7).
const maxSocketPath = 107

// Address is where a milter listens: "unix" and a path, or "tcp4" or "tcp6"
// and host:port.
type Address struct {
	Network, Address string
}

// ParseAddress reads the spellings of Postfix (unix:PATH, inet:HOST:PORT,
// inet6:[HOST]:PORT) and of Sendmail (local:PATH, inet:PORT@HOST).
func ParseAddress(s string) (Address, error) {
	const want = "want unix:PATH, inet:HOST:PORT or inet6:[HOST]:PORT (or Sendmail's local:PATH, inet:PORT@HOST)"
	kind, rest, ok := strings.Cut(s, ":")
	if !ok || rest == "" {
		return Address{}, fmt.Errorf("address %q: %s", s, want)
	}
	switch kind {
	case "unix", "local":
		if !filepath.IsAbs(rest) {
			abs, err := filepath.Abs(rest)
			if err != nil {
				return Address{}, fmt.Errorf("address %q: %w", s, err)
			}
			rest = abs
		}
		if len(rest) > maxSocketPath {
			return Address{}, fmt.Errorf("address %q: path of %d bytes, a socket's may have %d", s, len(rest), maxSocketPath)
		}
		return Address{"unix", rest}, nil
	case "inet", "inet6":
	default:
		return Address{}, fmt.Errorf("address %q: %s", s, want)
	}

	var host, port string
	if before, after, at := strings.Cut(rest, "@"); at {
		host, port = strings.TrimSuffix(strings.TrimPrefix(after, "["), "]"), before
	} else {
		var err error
		if host, port, err = net.SplitHostPort(rest); err != nil {
			return Address{}, fmt.Errorf("address %q: %s", s, want)
		}
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 && port != "0" {
		return Address{}, fmt.Errorf("address %q: port %q, want a number up to 65535", s, port)
	}
	if host == "" {
		return Address{}, fmt.Errorf("address %q: without a host; write 127.0.0.1, or 0.0.0.0 for all", s)
	}
	ip := net.ParseIP(host)
	if ip == nil && host != "localhost" {
		return Address{}, fmt.Errorf("address %q: host %q is no IP address", s, host)
	}
	network := "tcp4"
	if kind == "inet6" {
		network = "tcp6"
	}
	if ip != nil && (ip.To4() == nil) != (network == "tcp6") {
		return Address{}, fmt.Errorf("address %q: %s is not for %s; use inet: for IPv4 and inet6: for IPv6", s, host, kind)
	}
	return Address{network, net.JoinHostPort(host, port)}, nil
}

// IsRemote says whether other machines can reach the address. Whoever can
// connect to a milter can have anything signed.
func (a Address) IsRemote() bool {
	if a.Network == "unix" {
		return false
	}
	host, _, _ := net.SplitHostPort(a.Address)
	return host != "localhost" && !net.ParseIP(host).IsLoopback()
}

// Postfix returns the address as Postfix's smtpd_milters wants it.
func (a Address) Postfix() string {
	switch a.Network {
	case "unix":
		return "unix:" + a.Address
	default: // Postfix takes inet: for both families
		return "inet:" + a.Address
	}
}

// Sendmail returns the address as Sendmail's INPUT_MAIL_FILTER wants it.
func (a Address) Sendmail() string {
	if a.Network == "unix" {
		return "local:" + a.Address
	}
	host, port, _ := net.SplitHostPort(a.Address)
	if a.Network == "tcp6" {
		return "inet6:" + port + "@" + host
	}
	return "inet:" + port + "@" + host
}

// SocketOptions are the mode and owner of a unix socket. UID and GID are -1
// for our own.
type SocketOptions struct {
	Mode     fs.FileMode
	UID, GID int
}

// Listen opens an address. For a unix socket it makes the directory (mode
// 0750, with the socket's owner) when that is missing, replaces a socket that
// nobody listens on any more, and refuses to replace one that is in use. The
// socket appears at its path with its mode and owner already set.
func Listen(a Address, o SocketOptions) (net.Listener, error) {
	if a.Network != "unix" {
		return net.Listen(a.Network, a.Address)
	}
	if err := MakeDirectory(filepath.Dir(a.Address), o); err != nil {
		return nil, err
	}
	if err := removeStale(a.Address); err != nil {
		return nil, err
	}
	temporary := filepath.Join(filepath.Dir(a.Address), fmt.Sprintf(".%d", os.Getpid()))
	if len(temporary) > maxSocketPath {
		return nil, fmt.Errorf("socket %s: the path is too long by %d bytes", a.Address, len(temporary)-maxSocketPath)
	}
	os.Remove(temporary)
	// The mode comes from the umask and the owner is set without following
	// links, as the directory may be another user's.
	umask := syscall.Umask(int(^o.Mode.Perm() & 0o777))
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: temporary, Net: "unix"})
	syscall.Umask(umask)
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false)
	finish := func() error {
		if o.UID >= 0 || o.GID >= 0 {
			if err := os.Lchown(temporary, o.UID, o.GID); err != nil {
				return err
			}
		}
		return os.Rename(temporary, a.Address)
	}
	if err := finish(); err != nil {
		l.Close()
		os.Remove(temporary)
		return nil, fmt.Errorf("socket %s: %w", a.Address, err)
	}
	made, err := os.Lstat(a.Address)
	if err != nil {
		l.Close()
		return nil, err
	}
	return &unixListener{UnixListener: l, path: a.Address, made: made}, nil
}

// MakeDirectory makes the directory of a socket, as Listen does. Only what is
// missing is made, and only that gets a mode and an owner.
func MakeDirectory(dir string, o SocketOptions) error {
	if _, err := os.Stat(dir); err == nil || !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o750); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if o.UID >= 0 || o.GID >= 0 {
		return os.Chown(dir, o.UID, o.GID)
	}
	return nil
}

// removeStale removes a socket that no process listens on.
func removeStale(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode()&fs.ModeSocket == 0 {
		return fmt.Errorf("%s is there and no socket; remove it or choose another path", path)
	}
	conn, err := net.DialTimeout("unix", path, time.Second)
	if err == nil {
		conn.Close()
		return fmt.Errorf("socket %s: another process is listening there; stop it first", path)
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("socket %s is there, and whether it is in use cannot be told: %w", path, err)
	}
	return os.Remove(path)
}

// unixListener removes its socket when it is closed, unless the path is
// another's by then.
type unixListener struct {
	*net.UnixListener
	path string
	made fs.FileInfo
}

func (l *unixListener) Close() error {
	if now, err := os.Lstat(l.path); err == nil && os.SameFile(now, l.made) {
		os.Remove(l.path)
	}
	return l.UnixListener.Close()
}

// Addr returns the path the socket has, not the one it was made at.
func (l *unixListener) Addr() net.Addr { return &net.UnixAddr{Name: l.path, Net: "unix"} }
