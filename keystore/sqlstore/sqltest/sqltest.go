// Package sqltest starts private database servers for tests: on loopback and in
// a directory of their own, with none of the machine's settings. They end with
// the tests.
package sqltest

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"
)

// patience bounds every start of a server.
const patience = 60 * time.Second

// Server is a running database server.
type Server struct {
	Addr string // 127.0.0.1:PORT
	User string // who may do everything

	// PasswordFile has the password of User.
	PasswordFile string

	dir     string
	owner   *user.User // whom the server runs as; nil for ourselves
	command func() *exec.Cmd
	ready   func() error
	running *exec.Cmd
	ended   chan error
	output  bytes.Buffer
}

// Shared starts a server once for all tests of a program, lazily. Its Stop
// belongs into TestMain.
type Shared struct {
	Start func() (*Server, error)

	once   sync.Once
	server *Server
	err    error
}

// Get returns the server, or skips the test where its programs are missing.
func (s *Shared) Get(t testing.TB) *Server {
	t.Helper()
	s.once.Do(func() { s.server, s.err = s.Start() })
	if s.err != nil {
		if _, missing := s.err.(missing); missing && os.Getenv("WAXSEAL_E2E") != "required" {
			t.Skip(s.err)
		}
		t.Fatal(s.err)
	}
	return s.server
}

// Stop ends the server, if it was started, and deletes its files.
func (s *Shared) Stop() {
	if s.server != nil {
		s.server.Kill()
		s.server.Remove()
	}
}

// missing means that a program is not installed.
type missing struct{ error }

const password = "loopback only"

// newServer makes the directory of a server that runs as the given system user
// where root runs the tests: database servers refuse to run as root.
func newServer(runAs string) (*Server, error) {
	s := &Server{User: "waxseal"}
	if os.Geteuid() == 0 {
		u, err := user.Lookup(runAs)
		if err != nil {
			return nil, missing{fmt.Errorf("no user %s to run the server as: %w", runAs, err)}
		}
		s.owner = u
	}
	var err error
	if s.dir, err = os.MkdirTemp("", "waxseal-sql"); err != nil {
		return nil, err
	}
	s.PasswordFile = filepath.Join(s.dir, "password")
	if err := os.WriteFile(s.PasswordFile, []byte(password+"\n"), 0o600); err != nil {
		return nil, err
	}
	for _, path := range []string{s.dir, s.PasswordFile} {
		if s.owner != nil {
			if err := os.Chown(path, number(s.owner.Uid), number(s.owner.Gid)); err != nil {
				return nil, err
			}
		}
	}
	if err := s.certificates(); err != nil {
		return nil, err
	}
	port, err := freePort()
	s.Addr = "127.0.0.1:" + port
	return s, err
}

func number(id string) int {
	n, _ := strconv.Atoi(id) // user.Lookup gives numbers on Unix
	return n
}

func freePort() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	return port, err
}

// program is a command of the server's user, which dies with the tests.
func (s *Server) program(name string, args ...string) *exec.Cmd {
	c := exec.Command(name, args...)
	c.Dir = s.dir
	c.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C", "HOME=" + s.dir}
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	endWithTests(c.SysProcAttr)
	if s.owner != nil {
		c.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(number(s.owner.Uid)), Gid: uint32(number(s.owner.Gid))}
	}
	return c
}

// run runs a command to its end.
func (s *Server) run(c *exec.Cmd) error {
	out, err := c.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w\n%s", c.Path, err, out)
	}
	return nil
}

// Begin starts the server, which has been stopped.
func (s *Server) Begin() error {
	s.running = s.command()
	s.output.Reset()
	s.running.Stdout, s.running.Stderr = &s.output, &s.output
	started := make(chan error)
	s.ended = make(chan error, 1)
	go func(c *exec.Cmd, ended chan error) {
		err := c.Start()
		started <- err
		if err == nil {
			ended <- c.Wait()
		}
	}(s.running, s.ended)
	if err := <-started; err != nil {
		return err
	}
	for end := time.Now().Add(patience); ; {
		err := s.ready()
		if err == nil {
			return nil
		}
		select {
		case <-s.ended:
			s.running = nil
			return fmt.Errorf("%s ended: %s", s.command().Path, s.output.String())
		case <-time.After(50 * time.Millisecond):
		}
		if time.Now().After(end) {
			s.Kill()
			return fmt.Errorf("%s is not ready: %w\n%s", s.command().Path, err, s.output.String())
		}
	}
}

// Kill ends all processes of the server at once, as a power failure would, and
// waits until they are gone.
func (s *Server) Kill() {
	if s.running == nil {
		return
	}
	s.running.Process.Signal(syscall.SIGSTOP) // it must not start further ones meanwhile
	all := family(s.running.Process.Pid)
	for _, pid := range all {
		syscall.Kill(pid, syscall.SIGKILL)
	}
	<-s.ended
	s.running = nil
	for end := time.Now().Add(patience); anyAlive(all) && time.Now().Before(end); {
		time.Sleep(5 * time.Millisecond)
	}
}

// Pause stops the server's processes where they stand; Resume lets them go on.
func (s *Server) Pause() {
	s.signal(syscall.SIGSTOP)
	for end := time.Now().Add(patience); !stopped(family(s.running.Process.Pid)) && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
}

func (s *Server) Resume() { s.signal(syscall.SIGCONT) }

func (s *Server) signal(sig syscall.Signal) {
	s.running.Process.Signal(sig)
	for _, pid := range family(s.running.Process.Pid) {
		syscall.Kill(pid, sig)
	}
}

// PostgreSQL is a server with password logins, and TLS. The user certified, whom
// tests may make, needs a certificate as well.
func PostgreSQL() (*Server, error) {
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if len(found) == 0 {
		return nil, missing{fmt.Errorf("needs PostgreSQL's server (Debian: postgresql)")}
	}
	bin := filepath.Dir(found[len(found)-1])
	s, err := newServer("postgres")
	if err != nil {
		return nil, err
	}
	data := filepath.Join(s.dir, "data")
	if err := s.run(s.program(filepath.Join(bin, "initdb"), "-D", data, "-U", s.User, "--pwfile", s.PasswordFile, "-A", "scram-sha-256", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync")); err != nil {
		return s, err
	}
	rules := filepath.Join(data, "pg_hba.conf")
	others, err := os.ReadFile(rules)
	if err != nil {
		return s, err
	}
	if err := os.WriteFile(rules, append([]byte(certifiedRules), others...), 0o600); err != nil {
		return s, err
	}
	s.serve(bin, data)
	return s, s.Begin()
}

const certifiedRules = `hostssl all certified 127.0.0.1/32 scram-sha-256 clientcert=verify-ca
host    all certified 127.0.0.1/32 reject
`

// serve says how to start a PostgreSQL on its data.
func (s *Server) serve(bin, data string) {
	_, port, _ := net.SplitHostPort(s.Addr)
	s.command = func() *exec.Cmd {
		return s.program(filepath.Join(bin, "postgres"), "-D", data, "-p", port, "-c", "listen_addresses=127.0.0.1",
			"-c", "unix_socket_directories="+s.dir, "-c", "fsync=off", "-c", "max_connections=60", "-c", "ssl=on",
			"-c", "ssl_ca_file="+s.File("ca.pem"), "-c", "ssl_cert_file="+s.File("server.pem"), "-c", "ssl_key_file="+s.File("server.key"))
	}
	s.ready = func() error {
		return s.run(s.program(filepath.Join(bin, "pg_isready"), "-q", "-h", "127.0.0.1", "-p", port))
	}
}

// MariaDB is a server with password logins, and TLS.
func MariaDB() (*Server, error) {
	for _, name := range []string{"mariadbd", "mariadb-install-db"} {
		if _, err := find(name); err != nil {
			return nil, missing{fmt.Errorf("needs MariaDB's server (Debian: mariadb-server): %w", err)}
		}
	}
	s, err := newServer("mysql")
	if err != nil {
		return nil, err
	}
	data, socket := filepath.Join(s.dir, "data"), s.Socket()
	install, _ := find("mariadb-install-db")
	if err := s.run(s.program(install, "--no-defaults", "--datadir="+data, "--auth-root-authentication-method=normal", "--skip-test-db")); err != nil {
		return s, err
	}
	_, port, _ := net.SplitHostPort(s.Addr)
	initial := filepath.Join(s.dir, "init.sql")
	text := fmt.Sprintf("CREATE USER IF NOT EXISTS '%s'@'%%' IDENTIFIED BY '%s';\nGRANT ALL ON *.* TO '%s'@'%%' WITH GRANT OPTION;\n", s.User, password, s.User)
	if err := os.WriteFile(initial, []byte(text), 0o644); err != nil {
		return s, err
	}
	server, _ := find("mariadbd")
	s.command = func() *exec.Cmd {
		return s.program(server, "--no-defaults", "--datadir="+data, "--socket="+socket, "--port="+port, "--bind-address=127.0.0.1",
			"--pid-file="+filepath.Join(s.dir, "pid"), "--init-file="+initial, "--innodb-flush-log-at-trx-commit=2", "--innodb-buffer-pool-size=64M",
			"--ssl-ca="+s.File("ca.pem"), "--ssl-cert="+s.File("server.pem"), "--ssl-key="+s.File("server.key"), "--skip-name-resolve", "--skip-log-bin", "--tmpdir="+s.dir)
	}
	s.ready = func() error {
		c, err := net.Dial("tcp", s.Addr)
		if err == nil {
			c.Close()
		}
		return err
	}
	return s, s.Begin()
}

// File is a file of the server. The authority of its certificate is in ca.pem; a
// client's certificate and key are in client.pem and client.key.
func (s *Server) File(name string) string { return filepath.Join(s.dir, name) }

// Socket is the unix socket of MariaDB, and Directory the directory that has
// that of PostgreSQL.
func (s *Server) Socket() string    { return filepath.Join(s.dir, "s") }
func (s *Server) Directory() string { return s.dir }

// find looks also where only root's path leads.
func find(name string) (string, error) {
	if path, err := exec.LookPath(name); err == nil {
		return path, nil
	}
	return exec.LookPath("/usr/sbin/" + name)
}
