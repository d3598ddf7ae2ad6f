package keystore

import (
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Who reads that a store cannot be reached reads what to do about it, too.
func TestReachRemedy(t *testing.T) {
	dir := t.TempDir()
	_, absent := os.ReadFile(filepath.Join(dir, "password"))
	_, noSocket := net.Dial("unix", filepath.Join(dir, "socket"))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	_, refused := net.Dial("tcp", l.Addr().String())
	for _, c := range []struct {
		name string
		err  error
		want string
	}{
		{"a password file that is not there", absent, "make " + filepath.Join(dir, "password") + ", or correct its name"},
		{"a file that the user may not read", &fs.PathError{Op: "open", Path: "/etc/db", Err: fs.ErrPermission}, "read /etc/db"},
		{"a socket that is not there", noSocket, "correct the path of its socket"},
		{"nobody listens", refused, "start the server, or correct host and port"},
		{"a host that is not there", &net.OpError{Op: "dial", Err: &net.DNSError{Name: "db1.example", IsNotFound: true}}, "correct the host db1.example"},
		{"an authority that is not known", x509.UnknownAuthorityError{}, "sslrootcert=FILE"},
		{"a certificate for another host", x509.HostnameError{Certificate: &x509.Certificate{}, Host: "db1"}, "as the server's certificate has it"},
		{"something else", errors.New("out of memory"), ""},
	} {
		got := ReachRemedy(fmt.Errorf("domain example.com: %w", c.err), "sslrootcert")
		if !strings.Contains(got, c.want) || (got == "") != (c.want == "") {
			t.Errorf("%s: %v: remedy %q, want %q in it", c.name, c.err, got, c.want)
		}
	}
}

func TestWithRemedyKeepsTheFirst(t *testing.T) {
	cause := errors.New("refused")
	err := WithRemedy(fmt.Errorf("first: %w", WithRemedy(cause, "do this")), "do that")
	var hint interface{ Hint() string }
	if !errors.As(err, &hint) || hint.Hint() != "do this" || !errors.Is(err, cause) {
		t.Errorf("%v: %v", err, hint)
	}
	if err := WithRemedy(cause, ""); err != cause {
		t.Errorf("without a remedy: %#v", err)
	}
}
