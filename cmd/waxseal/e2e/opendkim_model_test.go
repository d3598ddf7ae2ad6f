package e2e

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"waxseal/cmd/waxseal/internal/opendkim"
)

// oddOpenDKIMs are configurations of which OpenDKIM makes something else than
// was meant, or that show the order of its lookup.
var oddOpenDKIMs = []struct {
	name   string
	config string // after the socket
	tables map[string]string
	from   []string
}{
	{
		name:   "patterns in a refile",
		config: "KeyTable file:DIR/KeyTable\nSigningTable refile:DIR/SigningTable\n",
		tables: map[string]string{
			"KeyTable": "a example.com:a:DIR/rsa-2048.private\nb example.com:b:DIR/rsa-2048.private\nc example.com:c:DIR/rsa-2048.private\nd example.com:d:DIR/rsa-2048.private\n",
			"SigningTable": "example.com a\n.example.com a\n *@blank.example a\nann|bob@example.com b\nx+y@example.com c\n" +
				"*@*.example.com c\nnews*@example.com c:news@mail.example.com\nu@* d:@other.example\n*@example.org d:nosign\n*example.net b\n",
		},
		from: []string{
			"zoe@example.com", "ann@elsewhere.example", "anna@example.com", "bob@example.com", "bbob@example.com", "x+y@example.com", "X+Y@EXAMPLE.com", "xxy@example.com",
			"a@sub.example.com", "a@b.sub.example.com", "newsletter@example.com", "u@any.example", "u@example.com", "z@example.org",
			"z@example.net", "z@notexample.net", "z@sub.example.net", "z@blank.example",
		},
	},
	{
		name:   "the order of other tables",
		config: "KeyTable file:DIR/KeyTable\nSigningTable file:DIR/SigningTable\n",
		tables: map[string]string{
			"KeyTable": "a example.com:a:DIR/rsa-2048.private\nb %:b:DIR/rsa-2048.private\nc example.com:c:DIR/rsa-2048.private\nd example.com:d:DIR/rsa-2048.private\n" +
				"example.info example.info:e:DIR/rsa-2048.private\nUpper example.com:f:DIR/rsa-2048.private\nsub.example.info x:DIR/rsa-2048.private\nrel example.com:g:rsa-2048.private\n",
			"SigningTable": "ann@example.com a:ann@example.com\nexample.com b:@%\nu@.example.com c\n.example.com d\nexample.com a\n*@example.net a\nu@* c\n" +
				"example.info %\nsub.example.info %\ncase.example upper\ncase2.example Upper\nrel.example rel\n EXAMPLE.org a\nlong.example a:ann@example.net\n",
		},
		from: []string{
			"ann@example.com", "ANN@Example.com", "bob@example.com", "u@example.com", "u@sub.example.com", "u@b.sub.example.com", "v@b.sub.example.com",
			"v@example.net", "u@example.net", "v@EXAMPLE.info", "v@sub.example.info", "v@case.example", "v@case2.example", "v@rel.example", "v@example.org", "v@long.example", "v@none.example",
		},
	},
	{
		name:   "names in a refile",
		config: "KeyTable refile:DIR/KeyTable\nSigningTable csl:example.com=mail.x,example.net=MAIL.x\n",
		tables: map[string]string{"KeyTable": "mail.x example.com:a:DIR/rsa-2048.private\n"},
		from:   []string{"ann@example.com", "ann@example.net"},
	},
	{
		name:   "a wildcard, and all that match",
		config: "KeyTable file:DIR/KeyTable\nSigningTable refile:DIR/SigningTable\nMultipleSignatures yes\n",
		tables: map[string]string{
			"KeyTable":     "a example.com:a:DIR/rsa-2048.private\nb example.com:b:DIR/rsa-2048.private\nc example.com:c:DIR/rsa-2048.private\n",
			"SigningTable": "ann@example.com a\n*@example.com b\n* c\n",
		},
		from: []string{"ann@example.com", "bob@example.com", "v@example.net"},
	},
	{
		name:   "subdomains",
		config: "Domain example.com, sub.example.com, EXAMPLE.net, *.example.org\nSubDomains yes\nSelector s\nKeyFile DIR/rsa-2048.private\n",
		from:   []string{"a@example.com", "a@x.example.com", "a@sub.example.com", "a@x.sub.example.com", "a@example.net", "a@x.example.net", "a@example.org", "a@x.example.org", "a@Example.COM"},
	},
}

// TestOpenDKIMIsAsModelled compares what OpenDKIM does with what the importer
// says that it does, for senders.
func TestOpenDKIMIsAsModelled(t *testing.T) {
	require(t, openDKIMNeeds...)
	for _, odd := range oddOpenDKIMs {
		t.Run(odd.name, func(t *testing.T) {
			t.Parallel()
			m, socket := startModelled(t, odd.config, odd.tables)
			for _, from := range odd.from {
				compareModel(t, m, socket, onLoopback, from)
			}
		})
	}
}

// startModelled starts OpenDKIM, and makes the model of it.
func startModelled(t *testing.T, config string, tables map[string]string) (*opendkim.Model, string) {
	t.Helper()
	dir := shortDir(t)
	files := map[string]string{"opendkim.conf": "Socket local:DIR/run/opendkim.sock\nSyslog no\nRequireSafeKeys no\n" + config}
	for name, text := range tables {
		files[name] = text
	}
	writeOpenDKIM(t, dir, files)
	file := filepath.Join(dir, "opendkim.conf")
	c, err := opendkim.Read(file, os.ReadFile)
	if err != nil {
		t.Fatal(err)
	}
	m, errs := c.Model()
	if len(errs)+len(c.Errors) > 0 {
		t.Fatal(errs, c.Errors)
	}
	socket := "unix:" + filepath.Join(dir, "run/opendkim.sock")
	startOpenDKIM(t, file, socket)
	return m, socket
}

func compareModel(t *testing.T, m *opendkim.Model, socket string, client mailClient, from string) {
	t.Helper()
	c := opendkim.Client{Name: client.name, Login: client.login, Daemon: client.daemon, Macros: map[string]string{}}
	if client.address != "" {
		c.Address = netip.MustParseAddr(client.address)
	}
	for name, value := range client.macros {
		c.Macros[strings.Trim(name, "{}")] = value
	}
	r := m.Decide(c, from)
	want := "accepted"
	switch r.Verdict {
	case opendkim.PutOff:
		want = "put off"
	case opendkim.Signed:
		for _, s := range r.Signatures {
			want += fmt.Sprintf(" [d=%s s=%s i=%s]", s.Domain, s.Selector, s.Identity)
		}
	}
	if got := throughMilter(t, socket, client, plainHeader(from), "Hello.\r\n").words(); got != want {
		t.Errorf("%s from %+v: OpenDKIM: %s, the model: %s (%s)", from, client, got, want, r.Why)
	}
}

// TestOpenDKIMHostsAreAsModelled does the same for clients.
func TestOpenDKIMHostsAreAsModelled(t *testing.T) {
	require(t, openDKIMNeeds...)
	const hosts = `127.0.0.1
192.0.2.0/24
!192.0.2.128/25
192.0.2.200
!192.0.2.7
198.51.100.5/24
10.0.0.0/8
[2001:db8:1::]/48
2001:db8:2::/48
2001:DB8:3::/48
2001:db8:4:0::/48
[2001:db8:5::1]
[192.0.3.1]
[192.0.4.0/24]
192.0.5
mail.example.com
.example.net
!bad.example.net
*.example.org
MX.Example.info
`
	clients := []mailClient{
		onLoopback, noSMTP, unknownClient, withLogin, at("127.0.0.2"), at("::1"), at("192.0.2.1"), at("192.0.2.7"), at("192.0.2.129"), at("192.0.2.200"), at("198.51.100.5"), at("198.51.100.0"),
		at("10.255.255.255"), at("2001:db8:1::1"), at("2001:db8:2::1"), at("2001:db8:3::1"), at("2001:db8:4::1"), at("2001:db8:5::1"), at("192.0.3.1"), at("192.0.4.1"), at("192.0.5.1"),
	}
	for _, name := range []string{"mail.example.com", "x.mail.example.com", "example.com", "a.example.net", "b.a.example.net", "bad.example.net", "x.bad.example.net", "example.net", "a.example.org", "mx.example.info"} {
		clients = append(clients, mailClient{name: name, address: "203.0.113.9"})
	}
	const tables = "Domain example.com\nSelector s\nKeyFile DIR/rsa-2048.private\n"
	for _, c := range []struct{ name, config, hosts string }{
		{"a file", "InternalHosts file:DIR/Hosts\n", hosts},
		{"a refile", "InternalHosts refile:DIR/Hosts\n", strings.Replace(hosts, "[192.0.4.0/24]\n", "", 1)},
		{"a refile with a network in stars", "InternalHosts refile:DIR/Hosts\n", "10.*\n192.0.2.*\nmail.*\n"},
		{"a refile in which all is allowed", "InternalHosts refile:DIR/Hosts\n", "127.0.0.1\n10.0.0.0/8\n*\n"},
		{"peers", "PeerList file:DIR/Hosts\nInternalHosts 0.0.0.0/0,::/0\n", hosts},
		{"a list, and daemons", "InternalHosts 192.0.2.0/24, 10.0.0.1\nMTA MSA,ORIGINATING\n", ""},
		{"macros that take back what others said", "MTA MSA\nMacroList signed_here,a=b,c\n", ""},
		{"nothing, and macros with daemons", "MTA MSA\nMacroList signed_here,daemon_name=X|Y\n", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			m, socket := startModelled(t, tables+c.config, map[string]string{"Hosts": c.hosts})
			all := slices.Clone(clients)
			for _, daemon := range []string{"MSA", "msa", "X", "x"} {
				all = append(all, mailClient{name: "a.example.edu", address: "203.0.113.9", daemon: daemon})
			}
			for _, macros := range []map[string]string{{"{signed_here}": ""}, {"{signed_here}": "x"}, {"{signed_here}": "x", "a": "b"}, {"{signed_here}": "x", "a": "z"},
				{"a": "b"}, {"a": "z"}, {"a": "z", "c": "z"}} {
				for _, daemon := range []string{"", "MSA", "X"} {
					all = append(all, mailClient{name: "a.example.edu", address: "203.0.113.9", daemon: daemon, macros: macros})
				}
			}
			for _, client := range all {
				compareModel(t, m, socket, client, "ann@example.com")
			}
		})
	}
}
