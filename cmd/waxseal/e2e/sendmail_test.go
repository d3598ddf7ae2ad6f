package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// sendmail is a private Sendmail: configuration, queues and log lie in one
// temporary directory. The program itself is Debian's, unpacked by .ci/prepare
// and not installed, since as packages Sendmail and Postfix exclude each other.
// It listens on loopback only, asks no DNS, and sends all mail to a sink.
type sendmail struct {
	dir  string
	port int // of the daemon
	hop  *sink
}

// sendmailRoot is where .ci/prepare has unpacked Sendmail.
func sendmailRoot() string {
	if dir := os.Getenv("WAXSEAL_SENDMAIL"); dir != "" {
		return dir
	}
	return "/var/cache/waxseal-test/sendmail"
}

func sendmailProgram() string {
	return filepath.Join(sendmailRoot(), "usr/libexec/sendmail/sendmail")
}

// sendmailNeeds are what every test with a Sendmail needs.
var sendmailNeeds = []need{
	root,
	installed("m4", "m4"),
	func() error {
		if _, err := os.Stat(sendmailProgram()); err != nil {
			return errors.New("no Sendmail, which .ci/prepare unpacks where WAXSEAL_SENDMAIL says: " + err.Error())
		}
		if out, err := inOwnHost("/etc/hosts", sendmailProgram(), "-C/dev/null", "-d0.1", "-bv").CombinedOutput(); !bytes.Contains(out, []byte("Version")) {
			return fmt.Errorf("Sendmail does not run; .ci/prepare installs what it misses, and unshare(1) has to be allowed: %w: %s", err, out)
		}
		return nil
	},
}

// inOwnHost is a command for a process to which this machine has the name
// mx.example.com, and a hosts file of its own. Sendmail waits for a minute at
// each start where the machine's own name has no dot.
func inOwnHost(hosts, program string, args ...string) *exec.Cmd {
	const script = `set -e; mount --bind "$1" /etc/hosts; hostname mx.example.com; shift; exec "$@"`
	return exec.Command("unshare", append([]string{"--uts", "--mount", "sh", "-c", script, "sh", hosts, program}, args...)...)
}

// ownDir makes a temporary directory below which Sendmail accepts sockets: nobody
// but root may write to any directory on the way to it, which excludes /tmp.
func ownDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/run", "wx")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// startSendmail starts a Sendmail with the given lines of sendmail.mc, which
// come last before the mailers, and one listener. It delivers into the sink.
func startSendmail(t *testing.T, hop *sink, mc string) *sendmail {
	t.Helper()
	port := freePort(t)
	return startSendmailAt(t, hop, port, mc+fmt.Sprintf("\nFEATURE(`no_default_msa')dnl\nDAEMON_OPTIONS(`Name=MTA, Addr=127.0.0.1, Port=%d')dnl\n", port))
}

// startSendmailAt is startSendmail with the listeners among the lines; one of
// them is at this port.
func startSendmailAt(t *testing.T, hop *sink, port int, mc string) *sendmail {
	t.Helper()
	require(t, sendmailNeeds...)
	s := &sendmail{dir: ownDir(t), port: port, hop: hop}
	s.configure(t, mc)

	daemon := s.program("-C"+s.path("sendmail.cf"), "-bD", "-q1m", "-X"+s.path("transcript"))
	var out transcript
	daemon.Stdout, daemon.Stderr = &out, &out
	startGroup(t, daemon, func() string {
		log, _ := os.ReadFile(s.path("transcript"))
		return out.String() + tail(string(log))
	})
	awaitSMTP(t, s.address())
	return s
}

func (s *sendmail) path(name string) string { return filepath.Join(s.dir, name) }

func (s *sendmail) address() string { return loopback(s.port) }

// configure writes sendmail.cf for the daemon, and submit.cf for mail that is
// handed in on the machine itself.
func (s *sendmail) configure(t *testing.T, mc string) {
	t.Helper()
	mkdir(t, s.path("mqueue"), "root", "root", 0o700)
	mkdir(t, s.path("clientmqueue"), deliveryUser, "root", 0o770)
	writeFile(t, s.path("hosts"), "127.0.0.1 mx.example.com localhost\n", 0o644)
	writeFile(t, s.path("switch"), "hosts files\naliases files\npasswd files\n", 0o644)
	writeFile(t, s.path("mailertable"), fmt.Sprintf("%s esmtp:[%s]\n%s esmtp:[%s]\n", eightBitDomain, eightBitHop, sevenBitDomain, sevenBitHop), 0o644)

	private := fmt.Sprintf(`OSTYPE(linux)dnl
undefine(`+"`ALIAS_FILE'"+`)dnl
define(`+"`confDOMAIN_NAME', `mx.example.com'"+`)dnl
define(`+"`confSERVICE_SWITCH_FILE', `%[1]s/switch'"+`)dnl
define(`+"`confHOSTS_FILE', `%[1]s/hosts'"+`)dnl
define(`+"`confDEF_USER_ID', `%[2]s'"+`)dnl
define(`+"`confTO_IDENT', `0'"+`)dnl
define(`+"`confDONT_PROBE_INTERFACES', `True'"+`)dnl
define(`+"`confQUEUE_LA', `1000'"+`)dnl
define(`+"`confREFUSE_LA', `1000'"+`)dnl
define(`+"`confDELAY_LA', `1000'"+`)dnl
define(`+"`confMAX_HOP', `100'"+`)dnl
`, s.dir, deliveryUser)

	s.build(t, "sendmail", private+fmt.Sprintf(`define(`+"`QUEUE_DIR', `%[1]s/mqueue'"+`)dnl
define(`+"`STATUS_FILE', `%[1]s/statistics'"+`)dnl
define(`+"`confPID_FILE', `%[1]s/sendmail.pid'"+`)dnl
define(`+"`ESMTP_MAILER_ARGS', `TCP $h %[2]d'"+`)dnl
define(`+"`RELAY_MAILER_ARGS', `TCP $h %[2]d'"+`)dnl
FEATURE(`+"`accept_unresolvable_domains'"+`)dnl
FEATURE(`+"`mailertable', `text -k0 -v1 %[1]s/mailertable'"+`)dnl
`, s.dir, s.hop.port)+mc+"\nMAILER(`smtp')dnl\n")

	s.build(t, "submit", private+fmt.Sprintf(`define(`+"`MSP_QUEUE_DIR', `%[1]s/clientmqueue'"+`)dnl
define(`+"`STATUS_FILE', `%[1]s/clientmqueue/statistics'"+`)dnl
define(`+"`confPID_FILE', `%[1]s/clientmqueue/pid'"+`)dnl
define(`+"`confRUN_AS_USER', `%[2]s:root'"+`)dnl
define(`+"`RELAY_MAILER_ARGS', `TCP $h %[3]d'"+`)dnl
FEATURE(`+"`msp', `[127.0.0.1]'"+`)dnl
`, s.dir, deliveryUser, s.port))
}

// program is a command that runs the program sendmail.
func (s *sendmail) program(args ...string) *exec.Cmd {
	return inOwnHost(s.path("hosts"), sendmailProgram(), args...)
}

// build makes NAME.cf from the text of NAME.mc, as an administrator would.
func (s *sendmail) build(t *testing.T, name, mc string) {
	t.Helper()
	cf := filepath.Join(sendmailRoot(), "usr/share/sendmail/cf") + "/"
	writeFile(t, s.path(name+".mc"), mc, 0o644)
	m4 := exec.Command("m4", "-D_CF_DIR_="+cf, cf+"m4/cf.m4", s.path(name+".mc"))
	var stderr bytes.Buffer
	m4.Stderr = &stderr
	out, err := m4.Output()
	if err != nil || stderr.Len() > 0 {
		t.Fatalf("m4 %s.mc: %v\n%s", name, err, &stderr)
	}
	writeFile(t, s.path(name+".cf"), string(out), 0o644)
}

// command runs the sendmail command with a configuration, and expects it to
// succeed. It returns what it printed.
func (s *sendmail) command(t *testing.T, configuration string, stdin []byte, args ...string) string {
	t.Helper()
	c := s.program(append([]string{"-C" + s.path(configuration)}, args...)...)
	c.Stdin = bytes.NewReader(stdin)
	out, err := c.CombinedOutput()
	if err != nil {
		t.Fatalf("sendmail %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// pipes lead to the standard input and from the standard output of a process.
type pipes struct {
	*os.File // to read from
	w        *os.File
}

func (p pipes) Write(b []byte) (int, error) { return p.w.Write(b) }

func (p pipes) SetDeadline(t time.Time) error {
	return errors.Join(p.File.SetDeadline(t), p.w.SetDeadline(t))
}

func (p pipes) Close() error { return errors.Join(p.File.Close(), p.w.Close()) }

// onStandardInput starts "sendmail -bs", as mail programs do, and returns the
// client of it.
func (s *sendmail) onStandardInput(t *testing.T) *smtpClient {
	t.Helper()
	stdin, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	r, stdout, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	c := s.program("-C"+s.path("sendmail.cf"), "-bs")
	c.Stdin, c.Stdout = stdin, stdout
	ownGroup(c)
	err = c.Start()
	stdin.Close()
	stdout.Close()
	if err != nil {
		t.Fatal(err)
	}
	client, err := greetSMTP(pipes{r, w})
	t.Cleanup(func() {
		r.Close()
		w.Close()
		_ = c.Wait()
	})
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// inputFilter is the line of sendmail.mc for a milter at a unix socket.
func inputFilter(socket string) string {
	return fmt.Sprintf("INPUT_MAIL_FILTER(`waxseal', `S=local:%s, F=T, T=S:30s;R:30s;E:5m')dnl", socket)
}
