package milter

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestAddressesOfPostfixAndSendmail(t *testing.T) {
	for _, c := range []struct {
		in                string
		want              Address
		remote            bool
		postfix, sendmail string
	}{
		{"unix:/run/s", Address{"unix", "/run/s"}, false, "unix:/run/s", "local:/run/s"},
		{"local:/run/s", Address{"unix", "/run/s"}, false, "unix:/run/s", "local:/run/s"},
		{"inet:127.0.0.1:8891", Address{"tcp4", "127.0.0.1:8891"}, false, "inet:127.0.0.1:8891", "inet:8891@127.0.0.1"},
		{"inet:localhost:8891", Address{"tcp4", "localhost:8891"}, false, "inet:localhost:8891", "inet:8891@localhost"},
		{"inet:8891@127.0.0.1", Address{"tcp4", "127.0.0.1:8891"}, false, "inet:127.0.0.1:8891", "inet:8891@127.0.0.1"},
		{"inet:0.0.0.0:8891", Address{"tcp4", "0.0.0.0:8891"}, true, "inet:0.0.0.0:8891", "inet:8891@0.0.0.0"},
		{"inet:192.0.2.1:0", Address{"tcp4", "192.0.2.1:0"}, true, "inet:192.0.2.1:0", "inet:0@192.0.2.1"},
		{"inet6:[::1]:8891", Address{"tcp6", "[::1]:8891"}, false, "inet:[::1]:8891", "inet6:8891@::1"},
		{"inet6:8891@[::1]", Address{"tcp6", "[::1]:8891"}, false, "inet:[::1]:8891", "inet6:8891@::1"},
		{"inet6:8891@2001:db8::1", Address{"tcp6", "[2001:db8::1]:8891"}, true, "inet:[2001:db8::1]:8891", "inet6:8891@2001:db8::1"},
	} {
		got, err := ParseAddress(c.in)
		if err != nil || got != c.want || got.IsRemote() != c.remote || got.Postfix() != c.postfix || got.Sendmail() != c.sendmail {
			t.Errorf("%s: got %v, %v, remote %v, %s, %s", c.in, got, err, got.IsRemote(), got.Postfix(), got.Sendmail())
		}
	}
	for _, in := range []string{
		"", "unix:", "/run/s", "unix", "tcp:127.0.0.1:1", "inet:127.0.0.1", "inet::8891", "inet:8891", "inet:127.0.0.1:x", "inet:127.0.0.1:65536",
		"inet:mx.example.com:8891", "inet:[::1]:8891", "inet6:127.0.0.1:8891", "inet:-1@127.0.0.1", "unix:/" + strings.Repeat("x", 107),
	} {
		if got, err := ParseAddress(in); err == nil {
			t.Errorf("%s: got %v, want an error", in, got)
		}
	}
	if got, err := ParseAddress("unix:here"); err != nil || !filepath.IsAbs(got.Address) {
		t.Errorf("a relative path became %v, %v", got, err)
	}
}

func FuzzParseAddress(f *testing.F) {
	for _, s := range []string{"unix:/run/s", "inet:127.0.0.1:8891", "inet6:[::1]:8891", "inet:8891@127.0.0.1", "inet6:8891@::1", "local:x", "inet:@:1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		a, err := ParseAddress(s)
		if err != nil {
			return
		}
		if a.Network == "unix" {
			return
		}
		spelling := "inet:" + a.Address
		if a.Network == "tcp6" {
			spelling = "inet6:" + a.Address
		}
		if again, err := ParseAddress(spelling); err != nil || again != a {
			t.Errorf("%q is %v, and again %v, %v", s, a, again, err)
		}
		if again, err := ParseAddress(a.Sendmail()); err != nil || again != a {
			t.Errorf("%q for Sendmail is %q, read back as %v, %v", s, a.Sendmail(), again, err)
		}
	})
}

func TestUnixSockets(t *testing.T) {
	o := SocketOptions{Mode: 0o660, UID: -1, GID: -1}
	dir := t.TempDir()
	path := filepath.Join(dir, "made", "s")
	a := Address{"unix", path}
	l, err := Listen(a, o)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Lstat(filepath.Dir(path)); err != nil || info.Mode().Perm() != 0o750 {
		t.Errorf("the directory was made with %v, %v, want 0750", info.Mode(), err)
	}
	if info, err := os.Lstat(path); err != nil || info.Mode().Perm() != 0o660 || info.Mode().Type() != os.ModeSocket {
		t.Errorf("the socket is %v, %v, want mode 0660", info.Mode(), err)
	}
	if entries, _ := os.ReadDir(filepath.Dir(path)); len(entries) != 1 {
		t.Errorf("beside the socket there is %v", entries)
	}
	if _, err := Listen(a, o); err == nil || !strings.Contains(err.Error(), "another process") {
		t.Errorf("a live socket was replaced: %v", err)
	}
	accepted := make(chan struct{})
	go func(l net.Listener) {
		defer close(accepted)
		if c, err := l.Accept(); err == nil {
			c.Close()
		}
	}(l)
	if c, err := net.Dial("unix", path); err != nil {
		t.Errorf("the socket does not answer: %v", err)
	} else {
		c.Close()
	}

	<-accepted

	// A stale one, as a crash leaves it.
	l.(*unixListener).UnixListener.Close()
	if _, err := os.Lstat(path); err != nil {
		t.Fatal("the stale socket is gone")
	}
	l, err = Listen(a, o)
	if err != nil {
		t.Fatalf("a stale socket was not replaced: %v", err)
	}

	// A successor that has taken the path keeps its socket.
	os.Remove(path)
	successor, err := Listen(a, o)
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	if _, err := os.Lstat(path); err != nil {
		t.Error("closing took the socket of the successor away")
	}
	successor.Close()
	if _, err := os.Lstat(path); err == nil {
		t.Error("closing left the socket there")
	}

	file := filepath.Join(dir, "file")
	os.WriteFile(file, nil, 0o600)
	if _, err := Listen(Address{"unix", file}, o); err == nil || !strings.Contains(err.Error(), "no socket") {
		t.Errorf("a file was replaced: %v", err)
	}
}

func TestSocketOwner(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root can give files away")
	}
	path := filepath.Join(t.TempDir(), "made", "s")
	l, err := Listen(Address{"unix", path}, SocketOptions{Mode: 0o600, UID: 1, GID: 2})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, p := range []string{path, filepath.Dir(path)} {
		if uid, gid := owner(t, p); uid != 1 || gid != 2 {
			t.Errorf("%s belongs to %d:%d, want 1:2", p, uid, gid)
		}
	}
}

func owner(t *testing.T, path string) (uid, gid uint32) {
	t.Helper()
	info, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	stat := info.Sys().(*syscall.Stat_t)
	return stat.Uid, stat.Gid
}
