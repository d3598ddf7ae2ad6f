package sqltest

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
)

// Standby starts a copy of a PostgreSQL that follows it: it answers questions, and
// takes no changes before Promote. It ends with Kill and Remove.
func (s *Server) Standby() (*Server, error) {
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/pg_basebackup")
	if len(found) == 0 {
		return nil, errors.New("needs pg_basebackup (Debian: postgresql-client)")
	}
	bin := filepath.Dir(found[len(found)-1])
	standby, err := newServer("postgres")
	if err != nil {
		return nil, err
	}
	data := filepath.Join(standby.dir, "data")
	host, port, _ := net.SplitHostPort(s.Addr)
	secret, err := os.ReadFile(s.PasswordFile)
	if err != nil {
		return nil, err
	}
	c := standby.program(filepath.Join(bin, "pg_basebackup"), "-h", host, "-p", port, "-U", s.User, "-D", data, "-R", "-X", "stream", "-c", "fast", "--no-sync")
	c.Env = append(c.Env, "PGPASSWORD="+strings.TrimSpace(string(secret)))
	if err := standby.run(c); err != nil {
		return nil, err
	}
	standby.serve(bin, data)
	return standby, standby.Begin()
}

// Promote makes a standby take changes.
func (s *Server) Promote() error {
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/pg_ctl")
	return s.run(s.program(found[len(found)-1], "promote", "-w", "-D", filepath.Join(s.dir, "data")))
}

// Remove deletes the files of a server that has ended.
func (s *Server) Remove() { os.RemoveAll(s.dir) }
