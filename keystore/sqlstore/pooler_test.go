package sqlstore_test

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"waxseal/keystore/sqlstore"
	"waxseal/keystore/storetest"
)

// pgbouncer starts one in transaction mode before a database, and returns the URL
// by way of it.
func pgbouncer(t *testing.T, u string) string {
	t.Helper()
	program, err := exec.LookPath("pgbouncer")
	if err != nil {
		program, err = exec.LookPath("/usr/sbin/pgbouncer")
	}
	if err != nil && os.Getenv("WAXSEAL_E2E") == "required" {
		t.Fatalf("%v, and WAXSEAL_E2E=required", err)
	} else if err != nil {
		t.Skip(err)
	}
	s := postgres.Get(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	_, port, _ := net.SplitHostPort(address)
	host, server, _ := net.SplitHostPort(s.Addr)
	text := fmt.Sprintf("[databases]\n%[1]s = host=%[2]s port=%[3]s user=%[4]s password='%[5]s'\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = %[6]s\n"+
		"unix_socket_dir =\nauth_type = any\npool_mode = transaction\n", databaseOf(u), host, server, s.User, secret(t, s), port)
	if os.Geteuid() == 0 {
		text += "user = postgres\n" // as it refuses to be root
	}
	config := filepath.Join(t.TempDir(), "pgbouncer.ini")
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c := exec.Command(program, "-q", config)
	var log bytes.Buffer
	c.Stdout, c.Stderr = &log, &log
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		syscall.Kill(-c.Process.Pid, syscall.SIGKILL)
		c.Wait()
		if t.Failed() {
			t.Logf("pgbouncer:\n%s", log.String())
		}
	})
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if c, err := net.Dial("tcp", address); err == nil {
			c.Close()
			break
		} else if time.Now().After(end) {
			t.Fatalf("%v\n%s", err, log.String())
		}
	}
	return strings.Replace(u, s.Addr, address, 1)
}

// Behind a PgBouncer that gives each transaction another connection, a store that
// is told so works, and hears of changes; one that is not says what is missing.
func TestPoolerOfTransactions(t *testing.T) {
	p := places[1]
	direct, _ := p.url(t, "")
	u := pgbouncer(t, direct)
	told := func() *sqlstore.Store { return openAt(t, u+"&pooler=transaction", sqlstore.Options{}) }
	s := told()
	if _, _, err := s.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	heard := make(chan string, 100)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Watch(ctx, func(domain string) { heard <- domain }) }()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	storetest.Create(t, openAt(t, direct, sqlstore.Options{}), "example.com", "2026a")
	for patience := time.After(20 * time.Second); ; {
		select {
		case domain := <-heard:
			if domain == "" {
				continue // that the watch began
			}
			if domain != "example.com" {
				t.Errorf("heard of %q", domain)
			}
		case <-patience:
			t.Fatal("no word of a change")
		}
		break
	}
	for range 20 { // of whose connections each may have had another owner
		if _, err := told().Signing(t.Context(), "example.com"); err != nil {
			t.Fatal(err)
		}
	}
	for range 20 {
		if _, err := openAt(t, u, sqlstore.Options{}).Signing(t.Context(), "example.com"); err != nil {
			if !strings.Contains(err.Error(), "pooler=transaction") {
				t.Errorf("error %v, want one that says what the URL lacks", err)
			}
			return
		}
	}
	t.Error("no error, although statements are prepared on others' connections")
}
