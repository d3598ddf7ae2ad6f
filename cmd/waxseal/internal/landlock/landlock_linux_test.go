package landlock

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// The tests restrict a process of their own: this program, which is told by a
// variable to give up its rights, and then, as what it has become, to try things.
const (
	rulesVariable = "LANDLOCK_TEST_RULES"
	triesVariable = "LANDLOCK_TEST_TRIES"
)

func TestMain(m *testing.M) {
	if text, ok := os.LookupEnv(rulesVariable); ok {
		os.Unsetenv(rulesVariable)
		fmt.Println(os.Getpid())
		var r Rules
		err := json.Unmarshal([]byte(text), &r)
		if err == nil {
			err = Exec(r, os.Args[0], os.Args, os.Environ())
		}
		fmt.Println(err)
		os.Exit(1)
	}
	if text, ok := os.LookupEnv(triesVariable); ok {
		var all [][]string
		if err := json.Unmarshal([]byte(text), &all); err != nil {
			panic(err)
		}
		fmt.Println(os.Getpid())
		for _, try := range all {
			switch err := tries[try[0]](try[1]); {
			case err == nil:
				fmt.Println("done")
			case errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.EXDEV):
				fmt.Println("refused")
			default:
				fmt.Println(err)
			}
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// tries are what a process may try.
var tries = map[string]func(string) error{
	"read":   func(path string) error { _, err := os.ReadFile(path); return err },
	"list":   func(path string) error { _, err := os.ReadDir(path); return err },
	"create": func(path string) error { return os.WriteFile(path, []byte("x"), 0o600) },
	"append": func(path string) error {
		f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
		if err == nil {
			f.Close()
		}
		return err
	},
	"truncate": func(path string) error { return os.Truncate(path, 0) },
	"mkdir":    func(path string) error { return os.Mkdir(path, 0o700) },
	"remove":   os.Remove,
	"rename":   func(path string) error { return os.Rename(path, path+".new") },
	"link":     func(path string) error { return os.Link(path, path+".link") },
	"symlink":  func(path string) error { return os.Symlink("/etc/shadow", path) },
	"run":      func(path string) error { return exec.Command(path).Run() },
	"socket": func(path string) error {
		l, err := net.Listen("unix", path)
		if err == nil {
			err = l.Close() // which removes it
		}
		return err
	},
	"abstract": func(name string) error { return dial("unix", "@"+name) },
	"connect":  func(address string) error { return dial("tcp", address) },
	"bind": func(port string) error {
		n, err := strconv.Atoi(port)
		if err != nil {
			return err
		}
		s, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
		if err != nil {
			return err
		}
		defer unix.Close(s)
		return unix.Bind(s, &unix.SockaddrInet4{Port: n, Addr: [4]byte{127, 0, 0, 1}})
	},
	"signal": func(pid string) error {
		n, err := strconv.Atoi(pid)
		if err != nil {
			return err
		}
		return syscall.Kill(n, 0)
	},
	"no new privileges": func(string) error {
		if n, err := unix.PrctlRetInt(unix.PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0); err != nil || n != 1 {
			return fmt.Errorf("%d, %v", n, err)
		}
		return nil
	},
}

func dial(network, address string) error {
	c, err := net.Dial(network, address)
	if err == nil {
		c.Close()
	}
	return err
}

// need skips the test where the kernel has no Landlock of this version.
func need(t *testing.T, abi int) {
	t.Helper()
	got, err := ABI()
	if err == nil && got < abi {
		err = fmt.Errorf("the kernel has ABI %d of Landlock, and this takes %d", got, abi)
	}
	if err == nil {
		return
	}
	if os.Getenv("WAXSEAL_E2E") == "required" {
		t.Fatalf("%v, and WAXSEAL_E2E=required", err)
	}
	t.Skip(err)
}

// restricted has a process with these rules try things, and returns what came of
// each.
func restricted(t *testing.T, r Rules, attempts [][]string) []string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	// What a program, perhaps a dynamic one, takes to start.
	for _, path := range []string{self, "/lib64", "/lib", "/usr/lib"} {
		r.Paths = append(r.Paths, Path{Path: path, Access: Read | Execute})
	}
	r.Paths = append(r.Paths, Path{Path: os.DevNull, Access: Read | Device}, Path{Path: "/proc", Access: Read})
	r.Bind = append(r.Bind, Port{Port: 0}) // for Go's net package to see whether there is IPv6
	c := exec.Command(self)
	c.Env = append(os.Environ(), rulesVariable+"="+asJSON(t, r), triesVariable+"="+asJSON(t, attempts))
	out, err := c.CombinedOutput()
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	if err != nil || len(lines) != len(attempts)+2 {
		t.Fatalf("%v, and it said\n%s", err, out)
	}
	if lines[0] != lines[1] {
		t.Errorf("process %s became %s", lines[0], lines[1])
	}
	return lines[2:]
}

func asJSON(t *testing.T, v any) string {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestOnlyWhatTheRulesNameIsLeft(t *testing.T) {
	need(t, 3)
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	for _, name := range []string{"read", "write", "sockets", "out"} {
		if err := os.Mkdir(at(name), 0o755); err != nil {
			t.Fatal(err)
		}
		for _, file := range []string{"a", "b", "c"} {
			if err := os.WriteFile(at(name+"/"+file), []byte("x"), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Symlink(at("out/a"), at(name+"/link")); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(at("file"), []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	r := Rules{Paths: []Path{
		{Path: at("read"), Access: Read},
		{Path: at("write"), Access: Write},
		{Path: at("sockets"), Access: Sockets},
		{Path: at("file"), Access: Read | Write},
		{Path: at("nowhere"), Access: Write},
	}}
	const done, refused = "done", "refused"
	rows := [][3]string{
		{"read", at("read/a"), done}, {"list", at("read"), done},
		{"create", at("read/new"), refused}, {"append", at("read/a"), refused}, {"truncate", at("read/a"), refused},
		{"remove", at("read/a"), refused}, {"rename", at("read/a"), refused}, {"link", at("read/a"), refused},
		{"read", at("read/link"), refused}, {"symlink", at("read/new"), refused},

		{"read", at("write/a"), done}, {"list", at("write"), done}, {"create", at("write/new"), done},
		{"append", at("write/a"), done}, {"truncate", at("write/a"), done}, {"mkdir", at("write/dir"), done},
		{"rename", at("write/a"), done}, {"link", at("write/b"), done}, {"remove", at("write/c"), done},
		{"read", at("write/link"), refused}, {"symlink", at("write/new link"), refused}, {"socket", at("write/s"), refused},

		{"socket", at("sockets/s"), done}, {"read", at("sockets/a"), refused}, {"create", at("sockets/new"), refused},

		{"read", at("file"), done}, {"append", at("file"), done}, {"remove", at("file"), refused},

		{"read", at("out/a"), refused}, {"list", at("out"), refused}, {"create", at("out/new"), refused},
		{"remove", at("out/a"), refused}, {"list", dir, refused}, {"read", "/etc/shadow", refused}, {"read", "/etc/passwd", refused},
		{"run", "/usr/bin/env", refused},
		{"no new privileges", "", done},
	}
	var attempts [][]string
	for _, row := range rows {
		attempts = append(attempts, row[:2])
	}
	for i, got := range restricted(t, r, attempts) {
		if got != rows[i][2] {
			t.Errorf("%s %s: %s, want %s", rows[i][0], strings.TrimPrefix(rows[i][1], dir+"/"), got, rows[i][2])
		}
	}
}

func TestPortsThatTheRulesNameAreLeft(t *testing.T) {
	need(t, 4)
	var ports []uint16
	for range 2 {
		l, err := net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		ports = append(ports, uint16(l.Addr().(*net.TCPAddr).Port))
	}
	address := func(i int) string { return net.JoinHostPort("127.0.0.1", fmt.Sprint(ports[i])) }
	attempts := [][]string{{"connect", address(0)}, {"connect", address(1)}, {"bind", "11001"}, {"bind", "11002"}}
	r := Rules{Connect: []Port{{Port: ports[0]}}, Bind: []Port{{Port: 11001}}}
	want := func(r Rules, want string) {
		t.Helper()
		got := strings.Replace(strings.Join(restricted(t, r, attempts), " "), "address already in use", "done", 1)
		if got != want {
			t.Errorf("%+v of %+v: %s, want %s", attempts, r, got, want)
		}
	}
	want(r, "done refused done refused")
	r.AnyConnect = true
	want(r, "done done done refused")
}

func TestOtherProgramsAreOutOfReach(t *testing.T) {
	need(t, 6)
	name := fmt.Sprintf("waxseal-landlock-%d", os.Getpid())
	l, err := net.Listen("unix", "@"+name)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	attempts := [][]string{{"abstract", name}, {"signal", fmt.Sprint(os.Getpid())}}
	if got := strings.Join(restricted(t, Rules{}, attempts), " "); got != "refused refused" {
		t.Errorf("an abstract socket and a signal: %s", got)
	}
	if got := strings.Join(restricted(t, Rules{Abstract: true}, attempts), " "); got != "done refused" {
		t.Errorf("an abstract socket that is allowed, and a signal: %s", got)
	}
}

// TestOlderKernels makes the rules as for older versions of the interface, which
// take no right that they do not know.
func TestOlderKernels(t *testing.T) {
	newest, err := ABI()
	if err != nil {
		need(t, 1)
	}
	r := &Rules{
		Paths:   []Path{{Path: t.TempDir(), Access: Read | Write | Execute | Sockets | Device}, {Path: os.Args[0], Access: Read | Write | Execute | Sockets}, {Path: os.Args[0], Access: Sockets}},
		Bind:    []Port{{Port: 25}},
		Connect: []Port{{Port: 53}},
	}
	for abi := 1; abi <= min(newest, newestABI); abi++ {
		set, err := ruleset(r, abi)
		if err != nil {
			t.Errorf("ABI %d: %v", abi, err)
			continue
		}
		unix.Close(set)
	}
}

func TestAProgramThatCannotBeRunLeavesTheProcessAsItWas(t *testing.T) {
	need(t, 1)
	err := Exec(Rules{}, filepath.Join(t.TempDir(), "nothing"), []string{"nothing"}, nil)
	if err == nil || !strings.Contains(err.Error(), "nothing") {
		t.Errorf("error %v, want one that names the program", err)
	}
	for range 20 { // on whatever thread
		if _, err := os.ReadFile(os.Args[0]); err != nil {
			t.Fatalf("the process is restricted: %v", err)
		}
	}
}
