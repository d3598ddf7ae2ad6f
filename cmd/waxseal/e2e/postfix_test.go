package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
)

// postfix is a private Postfix: configuration, queue, data, log and mailboxes
// lie in one temporary directory. It listens on loopback only, asks no DNS, and
// delivers as an unprivileged user.
type postfix struct {
	dir    string
	ports  map[string]int
	master string       // further lines of master.cf
	used   atomic.Int32 // mailboxes given out
}

// service is an smtpd of its own: a port with its own settings.
type service struct {
	name    string
	options []string // name=value
}

const (
	mailboxes    = 200
	mailDomain   = "example.net" // where mail is delivered to
	deliveryUser = "nobody"      // who writes the mailboxes
)

// queueDirs are the queue's directories and who may use them. The groups and
// modes of maildrop and public let the set-gid postdrop hand in mail.
var queueDirs = []struct {
	name, owner, group string
	mode               os.FileMode
}{
	{"active", "postfix", "root", 0o700}, {"bounce", "postfix", "root", 0o700}, {"corrupt", "postfix", "root", 0o700},
	{"defer", "postfix", "root", 0o700}, {"deferred", "postfix", "root", 0o700}, {"flush", "postfix", "root", 0o700},
	{"hold", "postfix", "root", 0o700}, {"incoming", "postfix", "root", 0o700}, {"private", "postfix", "root", 0o700},
	{"saved", "postfix", "root", 0o700}, {"trace", "postfix", "root", 0o700},
	{"maildrop", "postfix", "postdrop", 0o730}, {"public", "postfix", "postdrop", 0o710},
	{"pid", "root", "root", 0o755},
}

// postfixNeeds are what every test with a Postfix needs.
var postfixNeeds = []need{
	installed("postconf", "postfix"),
	root,
	func() error {
		if _, err := user.Lookup(deliveryUser); err != nil {
			return fmt.Errorf("no unprivileged user to deliver mail: %w", err)
		}
		return nil
	},
}

// startPostfix starts a Postfix with the given lines of main.cf, which come
// last, and an smtpd for each service.
func startPostfix(t *testing.T, main string, services ...service) *postfix {
	t.Helper()
	p := newPostfix(t)
	p.start(t, main, services...)
	return p
}

// newPostfix makes the directories of a Postfix.
func newPostfix(t *testing.T) *postfix {
	t.Helper()
	require(t, postfixNeeds...)
	p := &postfix{dir: shortDir(t), ports: map[string]int{}}
	p.layout(t)
	return p
}

func (p *postfix) start(t *testing.T, main string, services ...service) {
	t.Helper()
	p.configure(t, main, services)

	master := exec.Command(filepath.Join(postconf(t, "daemon_directory"), "master"), "-c", p.path("conf"), "-d")
	var out transcript
	master.Stdout, master.Stderr = &out, &out
	startGroup(t, master, func() string {
		maillog, _ := os.ReadFile(p.path("log/maillog"))
		return out.String() + tail(string(maillog))
	})
	for _, s := range services {
		awaitSMTP(t, p.address(s.name))
	}
}

func (p *postfix) path(name string) string { return filepath.Join(p.dir, name) }

// address is where a service listens.
func (p *postfix) address(service string) string {
	port, ok := p.ports[service]
	if !ok {
		panic("no service " + service)
	}
	return loopback(port)
}

func (p *postfix) layout(t *testing.T) {
	t.Helper()
	for _, dir := range []string{"conf", "queue", "data", "mail", "log"} {
		mkdir(t, p.path(dir), "root", "root", 0o755)
	}
	for _, d := range queueDirs {
		mkdir(t, p.path("queue/"+d.name), d.owner, d.group, d.mode)
	}
	chown(t, p.path("data"), "postfix", "root")
	chown(t, p.path("mail"), deliveryUser, "root")
}

func mkdir(t *testing.T, path, owner, group string, mode os.FileMode) {
	t.Helper()
	if err := os.Mkdir(path, mode); err != nil {
		t.Fatal(err)
	}
	chown(t, path, owner, group)
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}

func chown(t *testing.T, path, owner, group string) {
	t.Helper()
	u, err := user.Lookup(owner)
	if err != nil {
		t.Fatal(err)
	}
	g, err := user.LookupGroup(group)
	if err != nil {
		t.Fatal(err)
	}
	uid, _ := strconv.Atoi(u.Uid)
	gid, _ := strconv.Atoi(g.Gid)
	if err := os.Chown(path, uid, gid); err != nil {
		t.Fatal(err)
	}
}

// postconf asks the installed Postfix for a default.
func postconf(t *testing.T, name string) string {
	t.Helper()
	out, err := exec.Command("postconf", "-d", "-h", name).Output()
	if err != nil {
		t.Fatalf("postconf %s: %v", name, err)
	}
	return strings.TrimSpace(string(out))
}

func (p *postfix) configure(t *testing.T, main string, services []service) {
	t.Helper()
	delivery, err := user.Lookup(deliveryUser)
	if err != nil {
		t.Fatal(err)
	}
	var boxes strings.Builder
	for i := range mailboxes {
		fmt.Fprintf(&boxes, "box%d@%s box%d/\n", i+1, mailDomain, i+1)
	}
	writeFile(t, p.path("conf/boxes"), boxes.String(), 0o644)

	writeFile(t, p.path("conf/main.cf"), fmt.Sprintf(`compatibility_level = 3.6
queue_directory = %[1]s/queue
data_directory = %[1]s/data
command_directory = %[2]s
daemon_directory = %[3]s
mail_owner = postfix
setgid_group = postdrop
maillog_file = %[1]s/log/maillog
maillog_file_prefixes = %[1]s

myhostname = mx.example.com
mydomain = example.com
myorigin = example.com
mydestination =
alias_maps =
alias_database =
local_recipient_maps =
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
mynetworks = 127.0.0.0/8
smtpd_peername_lookup = no
smtp_dns_support_level = disabled
notify_classes =

# Mail to a mailbox that is not there is taken, and bounces later.
smtpd_reject_unlisted_recipient = no
smtpd_relay_restrictions = permit_mynetworks, permit_sasl_authenticated, reject_unauth_destination
virtual_mailbox_domains = %[4]s
virtual_mailbox_base = %[1]s/mail
virtual_mailbox_maps = texthash:%[1]s/conf/boxes
virtual_uid_maps = static:%[5]s
virtual_gid_maps = static:%[6]s
message_size_limit = 104857600
virtual_mailbox_limit = 0

# No brakes for a client that sends much and retries at once, or old mail.
smtpd_client_connection_rate_limit = 0
smtpd_client_connection_count_limit = 0
smtpd_error_sleep_time = 0
smtpd_soft_error_limit = 10000
smtpd_hard_error_limit = 10000
in_flow_delay = 0
hopcount_limit = 100

milter_default_action = tempfail
%[7]s
`, p.dir, postconf(t, "command_directory"), postconf(t, "daemon_directory"), mailDomain, delivery.Uid, delivery.Gid, main), 0o644)

	var master strings.Builder
	for _, s := range services {
		p.ports[s.name] = freePort(t)
		fmt.Fprintf(&master, "%s inet n - n - - smtpd\n", p.address(s.name))
		for _, option := range s.options {
			fmt.Fprintf(&master, "  -o { %s }\n", option)
		}
	}
	master.WriteString(`pickup unix n - n 1 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
smtp unix - - n - - smtp
relay unix - - n - - smtp
showq unix n - n - - showq
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
virtual unix - n n - - virtual
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
postlog unix-dgram n - n - 1 postlogd
`)
	master.WriteString(p.master)
	writeFile(t, p.path("conf/master.cf"), master.String(), 0o644)
}

// box gives out a mailbox that nobody else uses, as an address.
func (p *postfix) box() string {
	n := p.used.Add(1)
	if n > mailboxes {
		panic("out of mailboxes")
	}
	return fmt.Sprintf("box%d@%s", n, mailDomain)
}

// inbox waits until a mailbox has n messages, and returns them in no order.
func (p *postfix) inbox(t *testing.T, box string, n int) []*message {
	t.Helper()
	local, _, _ := strings.Cut(box, "@")
	dir := filepath.Join(p.dir, "mail", local, "new")
	var files []os.DirEntry
	eventually(t, fmt.Sprintf("%d messages in %s", n, box), func() bool {
		files, _ = os.ReadDir(dir)
		return len(files) >= n
	})
	if len(files) > n {
		t.Fatalf("%s has %d messages, want %d", box, len(files), n)
	}
	var all []*message
	for _, f := range files {
		// A file appears in new/ when it is complete.
		text, err := os.ReadFile(filepath.Join(dir, f.Name()))
		if err != nil {
			t.Fatal(err)
		}
		m, err := parseMessage(toCRLF(text))
		if err != nil {
			t.Fatalf("%s: %v", box, err)
		}
		all = append(all, m)
	}
	return all
}

// one waits for the only message of a mailbox.
func (p *postfix) one(t *testing.T, box string) *message {
	t.Helper()
	return p.inbox(t, box, 1)[0]
}

// queued counts the messages that Postfix still has in its queue.
func (p *postfix) queued(t *testing.T) int {
	t.Helper()
	n := 0
	for _, queue := range []string{"maildrop", "incoming", "active", "deferred", "hold", "corrupt"} {
		err := filepath.WalkDir(p.path("queue/"+queue), func(_ string, e os.DirEntry, err error) error {
			if err == nil && !e.IsDir() {
				n++
			}
			return nil // files come and go
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return n
}
