package e2e

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// eximKeys makes a keystore that belongs to Exim's user, as the README says.
func eximKeys(t *testing.T, domains ...string) *keystore {
	t.Helper()
	dir := shortDir(t)
	mkdir(t, filepath.Join(dir, "keys"), deliveryUser, "nogroup", 0o750)
	return newKeystore(t, dir, domains...)
}

// checkEximSigned fails unless the message has signatures by these selectors of
// the domain, and no others, and all verifiers pass them.
func checkEximSigned(t *testing.T, keys *keystore, m *message, domain string, selectors ...string) {
	t.Helper()
	var got []string
	for _, s := range m.signatures() {
		if s.domain != domain {
			t.Errorf("signed by %s, want %s", s.domain, domain)
		}
		got = append(got, s.selector)
	}
	slices.Sort(got)
	if !slices.Equal(got, selectors) {
		t.Fatalf("signed by the selectors %v, want %v:\n%.1500s", got, selectors, m.text)
	}
	checkVerifies(t, keys, m, len(selectors), byDkimpy, byMsgauth)
	checkOwnVerify(t, keys, m, len(selectors))
}

// contribTransport is a transport with the lines of contrib/exim.
func contribTransport(t *testing.T) string {
	return "remote_smtp:\n  driver = smtp\n" + contrib(t, "exim/transport.conf")
}

// TestContribEximSigns sends mail through an Exim with the files of contrib/exim.
// What is ours leaves signed, and nothing else does.
func TestContribEximSigns(t *testing.T) {
	require(t, eximNeeds...)
	require(t, dkimpyInstalled)
	t.Parallel()
	keys := eximKeys(t, "example.com", "example.org")
	hop := startSink(t)
	x := startExim(t, hop, keys, contribTransport(t))
	both := []string{"2026a", "2026b"}
	if selector := keys.newKey(t, "example.org", "rsa-2048"); selector != "2026c" { // pending
		t.Fatalf("made %s", selector)
	}

	const network = "127.0.0.3"
	for i, c := range []struct {
		name          string
		login, client string
		from          string // the From field, or several
		domain        string // that signs; "": none
	}{
		{"a login signs for its own domain", "ann@example.com", "", "Ann <ann@example.com>", "example.com"},
		{"upper and lower case are one", "ANN@Example.COM", "", "Ann <ann@EXAMPLE.com>", "example.com"},
		{"but not for another", "ann@example.com", "", "Bob <bob@example.org>", ""},
		{"nor by a name that ends in it", "ann@example.com", "", "ann@example.com.example.org", ""},
		{"a login without a domain signs for the server's", "ann", "", "ann@example.com", "example.com"},
		{"and for no other", "ann", "", "bob@example.org", ""},
		{"a login is held to this on a host that may relay, too", "ann@example.com", network, "bob@example.org", ""},
		{"a host that may relay signs for any domain", "", network, "bob@example.org", "example.org"},
		{"a stranger does not, as when mail is forwarded", "", "127.0.0.4", "ann@example.com", ""},
		{"a domain without keys", "", network, "eve@example.net", ""},
		{"a domain below one with keys", "", network, "ann@sub.example.com", ""},
		{"two addresses", "", network, "ann@example.com, bob@example.org", ""},
		{"two From fields", "", network, "ann@example.com\r\nFrom: bob@example.org", ""},
		{"two From fields, one without an address", "", network, "ann@example.com\r\nFrom: (ann)", ""},
		{"two From fields, one of them empty", "", network, "ann@example.com\r\nFrom:", ""},
		{"one that is folded", "", network, "Ann\r\n <ann@example.com>\r\n\t(Ann)", "example.com"},
		{"a group", "", network, "list: ann@example.com;", ""},
		{"no From field", "", network, "\r\nX-From: ann@example.com", ""},
		{"the name of another address", "", network, `"ann@example.com" <eve@example.net>`, ""},
		{"an encoded word that names another address", "", network, "=?utf-8?q?ann=40example.com?= <eve@example.net>", ""},
		{"a path for a domain", "", network, "<ann@../keys/example.com>", ""},
		{"a path below a domain", "", network, "<ann@example.com/2026a.pem>", ""},
		{"the directory itself", "", network, "<ann@.>", ""},
		{"an address for a domain", "", network, "<ann@[127.0.0.1]>", ""},
		{"what Exim would expand", "", network, "<ann@${readfile{/etc/passwd}}>", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			client := smtpFrom(t, cmp.Or(c.client, "127.0.0.1"), x.address())
			if c.login != "" {
				if err := client.login(c.login, "secret"); err != nil {
					t.Fatal(err)
				}
			}
			to := fmt.Sprintf("case%d@%s", i, eightBitDomain)
			if err := client.send(envelope{from: "ann@example.com", to: []string{to}}, plain(c.from, "exim")); err != nil {
				t.Fatal(err)
			}
			m := hop.one(t, to)
			if c.domain == "" {
				checkUnsigned(t, m)
				return
			}
			checkEximSigned(t, keys, m, c.domain, both...)
		})
	}

	t.Run("the sendmail command", func(t *testing.T) {
		to := "command@" + eightBitDomain
		x.command(t, "From: ann@example.org\nSubject: command\n\nHello.\n", "-i", "-f", "ann@example.org", to)
		m := hop.one(t, to)
		checkEximSigned(t, keys, m, "example.org", both...)
		signed := m.signatures()[0].fields
		for _, want := range []string{"(?i)(^|:)from:(.*:)?from(:|$)", "(?i)(^|:)subject:(.*:)?subject(:|$)", "(?i)(^|:)reply-to(:|$)"} {
			if !regexp.MustCompile(want).MatchString(signed) {
				t.Errorf("h=%s, want %s", signed, want)
			}
		}
	})
}

// TestContribEximRotates changes keys between messages, and breaks them.
func TestContribEximRotates(t *testing.T) {
	require(t, eximNeeds...)
	require(t, dkimpyInstalled)
	t.Parallel()
	keys := eximKeys(t, "example.com")
	hop := startSink(t)
	x := startExim(t, hop, keys, contribTransport(t))
	hand := func(t *testing.T, to string) {
		t.Helper()
		x.command(t, "From: ann@example.com\nTo: box@example.net\nSubject: rotation\n\nHello.\n", "-i", "-odf", "-f", "ann@example.com", to)
	}
	send := func(t *testing.T, name string) *message {
		t.Helper()
		hand(t, name+"@"+eightBitDomain)
		return hop.one(t, name+"@"+eightBitDomain)
	}
	old := send(t, "first")
	checkEximSigned(t, keys, old, "example.com", "2026a", "2026b")
	keys.newKey(t, "example.com", "rsa-2048")
	checkEximSigned(t, keys, send(t, "pending"), "example.com", "2026a", "2026b")
	keys.activate(t, "example.com", "2026c")
	keys.retire(t, "example.com", "2026a")
	checkEximSigned(t, keys, send(t, "rotated"), "example.com", "2026b", "2026c")
	checkEximSigned(t, keys, old, "example.com", "2026a", "2026b")

	for i, name := range []string{"/example.com/2026c.pem", "/example.com", ""} {
		t.Run("mail waits while Exim cannot read keys"+name, func(t *testing.T) {
			to := fmt.Sprintf("waits%d@%s", i, eightBitDomain)
			chown(t, keys.dir+name, "root", "root")
			hand(t, to)
			eventually(t, "the log says that the message waits", func() bool { return strings.Contains(x.log(), " == "+to) || len(hop.has(to)) > 0 })
			if len(hop.has(to)) > 0 {
				t.Errorf("it left:\n%s", hop.has(to)[0].text)
			}
			chown(t, keys.dir+name, deliveryUser, "nogroup")
			x.command(t, "", "-qff")
			checkEximSigned(t, keys, hop.one(t, to), "example.com", "2026b", "2026c")
		})
	}
	t.Run("without an active key mail leaves unsigned", func(t *testing.T) {
		for _, selector := range []string{"2026b", "2026c"} {
			command(t, "key", "retire", "example.com", selector, "--keystore", keys.dir, "--force", "--reason", "tested")
		}
		checkUnsigned(t, send(t, "none"))
	})
}

// TestContribEximOnDebian goes by the transport that Debian configures, which
// takes the macros without any further line.
func TestContribEximOnDebian(t *testing.T) {
	require(t, eximNeeds...)
	require(t, dkimpyInstalled)
	t.Parallel()
	transport, err := os.ReadFile(eximFile("etc/exim4/conf.d/transport/30_exim4-config_remote_smtp"))
	if err != nil {
		t.Fatal(err)
	}
	keys := eximKeys(t, "example.com")
	hop := startSink(t)
	x := startExim(t, hop, keys, string(transport))
	to := "debian@" + eightBitDomain
	x.command(t, "From: ann@example.com\nSubject: Debian\n\nHello.\n", "-i", "-f", "ann@example.com", to)
	checkEximSigned(t, keys, hop.one(t, to), "example.com", "2026a", "2026b")
}

// TestContribEximWithLocalCustomers takes the line out that the README names.
func TestContribEximWithLocalCustomers(t *testing.T) {
	require(t, eximNeeds...)
	t.Parallel()
	hop := startSink(t)
	x := startExim(t, hop, eximKeys(t, "example.com"), contribTransport(t), "  {!def:sender_host_address}\\\n", "")
	to := "local@" + eightBitDomain
	x.command(t, "From: ann@example.com\nSubject: local\n\nHello.\n", "-i", "-f", "ann@example.com", to)
	checkUnsigned(t, hop.one(t, to))
}
