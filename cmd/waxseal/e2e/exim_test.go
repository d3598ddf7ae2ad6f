package e2e

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"testing"
)

// exim is a private Exim that signs by itself, with the files of contrib/exim:
// configuration, queue and log lie in one temporary directory. The program is
// Debian's, unpacked by .ci/prepare and not installed, since as packages Exim and
// Postfix exclude each other. It listens on loopback only, asks no DNS, and sends
// all mail to a sink.
type exim struct {
	dir  string
	port int
}

// eximFile is a file of Debian's packages of Exim.
func eximFile(name string) string {
	dir := os.Getenv("WAXSEAL_EXIM")
	if dir == "" {
		dir = "/var/cache/waxseal-test/exim"
	}
	return filepath.Join(dir, name)
}

func eximProgram() string { return eximFile("usr/sbin/exim4") }

// eximNeeds are what every test with an Exim needs.
var eximNeeds = []need{
	root,
	func() error {
		// Without its user or a configuration it says so, and it runs.
		if out, err := exec.Command(eximProgram(), "-bV").CombinedOutput(); !bytes.Contains(out, []byte("Debian-exim")) && !bytes.Contains(out, []byte("Exim version")) {
			return fmt.Errorf("no Exim, which .ci/prepare unpacks where WAXSEAL_EXIM says: %w: %s", err, out)
		}
		if out, err := exec.Command("unshare", "--mount", "true").CombinedOutput(); err != nil {
			return fmt.Errorf("Exim needs a user of its own name, for which unshare(1) has to be allowed: %w: %s", err, out)
		}
		return nil
	},
}

// startExim starts an Exim that signs with the keys, and sends with the given
// transport, which is named remote_smtp. The last arguments are replacements in
// waxseal.macros.
func startExim(t *testing.T, hop *sink, keys *keystore, transport string, oldnew ...string) *exim {
	t.Helper()
	x := &exim{dir: shortDir(t), port: freePort(t)}
	mkdir(t, x.path("spool"), deliveryUser, "nogroup", 0o750)
	mkdir(t, x.path("log"), deliveryUser, "nogroup", 0o750)
	x.addUser(t, "/etc/passwd", "Debian-exim:x:%s:%s::/:/bin/false")
	x.addUser(t, "/etc/group", "Debian-exim:x:%[2]s:")
	macros := contrib(t, "exim/waxseal.macros", append(oldnew, "/var/lib/waxseal/keys", keys.dir)...)
	writeFile(t, x.path("exim.conf"), macros+fmt.Sprintf(`
exim_path = %[2]s
keep_environment =
primary_hostname = mx.example.com
qualify_domain = example.com
hostlist relay_from_hosts = : 127.0.0.3 : ::::1
spool_directory = %[1]s/spool
log_file_path = %[1]s/log/%%slog
pid_file_path = %[1]s/spool/pid
local_interfaces = 127.0.0.1
daemon_smtp_ports = %[3]d
deliver_drop_privilege = true
tls_advertise_hosts =
acl_smtp_rcpt = accept

begin routers
all:
  driver = manualroute
  route_list = * 127.0.0.1
  self = send
  transport = remote_smtp

begin transports
%[4]s
  port = %[5]d
  allow_localhost

begin retry
* * F,1h,1s

begin authenticators
plain:
  driver = plaintext
  public_name = PLAIN
  server_prompts = :
  server_condition = true
  server_set_id = $auth2
`, x.dir, eximProgram(), x.port, transport, hop.port), 0o644)

	daemon := x.program("-bdf")
	var out transcript
	daemon.Stdout, daemon.Stderr = &out, &out
	startGroup(t, daemon, func() string { return out.String() + tail(x.log()) })
	awaitSMTP(t, x.address())
	return x
}

func (x *exim) path(name string) string { return filepath.Join(x.dir, name) }

func (x *exim) address() string { return loopback(x.port) }

// addUser makes a copy of the machine's file that has Debian's user for Exim,
// under the numbers of the user that owns what the tests deliver.
func (x *exim) addUser(t *testing.T, file, row string) {
	t.Helper()
	u, err := user.Lookup(deliveryUser)
	if err != nil {
		t.Fatal(err)
	}
	old, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, x.path(filepath.Base(file)), fmt.Sprintf(row+"\n", u.Uid, u.Gid)+string(old), 0o644)
}

// program is a command that runs Exim, to which this machine has its user.
func (x *exim) program(args ...string) *exec.Cmd {
	const script = `set -e; mount --bind "$1/passwd" /etc/passwd; mount --bind "$1/group" /etc/group; shift; exec "$@"`
	return exec.Command("unshare", append([]string{"--mount", "sh", "-c", script, "sh", x.dir, eximProgram(), "-C", x.path("exim.conf")}, args...)...)
}

// command runs the exim command, and expects it to succeed.
func (x *exim) command(t *testing.T, stdin string, args ...string) {
	t.Helper()
	c := x.program(args...)
	c.Stdin = strings.NewReader(stdin)
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("exim %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// log is what Exim has logged so far.
func (x *exim) log() string {
	var all []byte
	for _, name := range []string{"main", "panic"} {
		b, _ := os.ReadFile(x.path("log/" + name + "log"))
		all = append(all, b...)
	}
	return string(all)
}
