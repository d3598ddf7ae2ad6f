package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"waxseal/milter"
)

// TestASocketThatCannotBeMadeSaysWhatToDo for a directory that is another
// user's, that is missing, and that systemd keeps closed.
func TestASocketThatCannotBeMadeSaysWhatToDo(t *testing.T) {
	dir := t.TempDir()
	for _, test := range []struct {
		dir  string
		err  error
		want string
	}{
		{dir, syscall.EACCES, fmt.Sprintf("chown %d %s", os.Geteuid(), dir)}, // its mode and group let the mail server in
		{filepath.Join(dir, "new"), syscall.EACCES, fmt.Sprintf("install -d -m 0755 -o %d -g %d %s/new", os.Geteuid(), os.Getegid(), dir)},
		{"/var/spool/postfix/opendkim", syscall.EROFS, "[Service] and ReadWritePaths=/var/spool/postfix/opendkim"},
		{"/run/opendkim", syscall.EROFS, "[Service] and RuntimeDirectory=opendkim"},
	} {
		c := ListenConfig{Address: Address{Address: milter.Address{Network: "unix", Address: test.dir + "/s"}}}
		if got := listenRemedy(c, fmt.Errorf("socket: %w", test.err)); !strings.HasSuffix(got, test.want) {
			t.Errorf("%s, %v: %q, want %q at its end", test.dir, test.err, got, test.want)
		}
	}
}
