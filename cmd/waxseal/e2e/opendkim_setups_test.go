package e2e

import (
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// openDKIMSetup is a configuration of OpenDKIM as guides have it. DIR in it is a
// directory of the test. KEY.private are the keys of testdata.
type openDKIMSetup struct {
	name  string
	files map[string]string
	args  []string // of the import
	mails []openDKIMMail
	code  int // exit status of the import: 1 when the comparison tells of a difference
}

// openDKIMMail is a message, and what both do with it.
type openDKIMMail struct {
	from   string
	client mailClient
	want   string // signatures, such as "example.com/mail" or "example.com/mail/@example.com"; "" for none
}

var (
	onLoopback    = mailClient{name: "localhost", address: "127.0.0.1"}
	noSMTP        = mailClient{name: "localhost"}
	withLogin     = mailClient{name: "client.example.net", address: "203.0.113.9", login: "ann"}
	unknownClient = mailClient{name: "client.example.net", address: "203.0.113.9"}
)

// at is a client at an address.
func at(address string) mailClient { return mailClient{name: "host.example.net", address: address} }

const debianDefaults = `# This is a basic configuration for signing and verifying.
Syslog			no
SyslogSuccess		yes
RequireSafeKeys		no
#LogWhy			no

# oversigned, because it is often the identity key used by reputation systems
Canonicalization	relaxed/simple
#Mode			sv
#SubDomains		no
OversignHeaders		From

# Signing domain, selector, and key (required).
Domain			example.com
Selector		2020
KeyFile			DIR/rsa-2048.private

UserID			opendkim
UMask			007
Socket			local:DIR/run/opendkim.sock
PidFile			DIR/run/opendkim.pid
TrustAnchorFile		/usr/share/dns/root.key
#Nameservers		127.0.0.1
`

func openDKIMSetups(t *testing.T) []openDKIMSetup {
	t.Helper()
	const common = "Socket local:DIR/run/opendkim.sock\nSyslog no\nRequireSafeKeys no\n"
	return []openDKIMSetup{
		{
			name: "a single domain",
			files: map[string]string{"opendkim.conf": common + `
AutoRestart             Yes
AutoRestartRate         10/1h
UMask                   002
Canonicalization        relaxed/simple
Mode                    sv
SignatureAlgorithm      rsa-sha256
Domain                  example.com
KeyFile                 DIR/rsa-2048.private
Selector                mail
`},
			mails: []openDKIMMail{
				{"ann@example.com", onLoopback, "example.com/mail"},
				{"ann@EXAMPLE.com", noSMTP, "example.com/mail"},
				{"ann@example.com", withLogin, "example.com/mail"},
				{"ann@example.com", at("::1"), "example.com/mail"},
				{"ann@sub.example.com", withLogin, ""},
				{"ann@example.net", withLogin, ""},
				{"ann@example.com", unknownClient, ""},
				{"ann@example.com", at("127.0.0.2"), ""},
			},
		},
		{
			name:  "Debian's default file",
			files: map[string]string{"opendkim.conf": debianDefaults},
			mails: []openDKIMMail{
				{"ann@example.com", onLoopback, "example.com/2020"},
				{"ann@example.com", withLogin, "example.com/2020"},
				{"ann@sub.example.com", onLoopback, ""},
				{"ann@example.com", unknownClient, ""},
			},
		},
		{
			name: "many domains with refile and TrustedHosts",
			files: map[string]string{
				"opendkim.conf": common + `
AutoRestart             Yes
UMask                   002
LogWhy                  Yes
Canonicalization        relaxed/simple
ExternalIgnoreList      refile:DIR/TrustedHosts
InternalHosts           refile:DIR/TrustedHosts
KeyTable                refile:DIR/KeyTable
SigningTable            refile:DIR/SigningTable
Mode                    sv
SignatureAlgorithm      rsa-sha256
`,
				"TrustedHosts": "127.0.0.1\nlocalhost\n192.168.0.1/24\n10.0.0.0/8\n\n*.example.com\n",
				"KeyTable": `mail._domainkey.example.com example.com:mail:DIR/rsa-2048.private
mail._domainkey.example.net example.net:mail:DIR/rsa-1024.private
old._domainkey.example.org example.org:old:DIR/rsa-1024.private
`,
				"SigningTable": `*@example.com mail._domainkey.example.com
boss@example.net mail._domainkey.example.com
*@example.net mail._domainkey.example.net
*@*.example.net mail._domainkey.example.net
`},
			args: []string{"--drop", "TrustedHosts:3", "--drop", "TrustedHosts:6"},
			mails: []openDKIMMail{
				{"ann@example.com", onLoopback, "example.com/mail"},
				{"ann@example.net", at("10.1.2.3"), "example.net/mail"},
				{"boss@example.net", withLogin, "example.com/mail"},
				{"Boss@Example.NET", withLogin, "example.com/mail"},
				{"ann@sub.example.net", withLogin, "example.net/mail"},
				{"ann@a.b.example.net", withLogin, "example.net/mail"},
				{"ann@sub.example.com", withLogin, ""},
				{"ann@example.org", withLogin, ""},
				{"ann@notexample.com", withLogin, ""},
				{"ann@example.com", at("192.168.0.7"), ""},
				{"ann@example.com", mailClient{name: "mail.example.com", address: "203.0.113.9"}, ""},
			},
		},
		{
			name: "lists in the file",
			files: map[string]string{"opendkim.conf": common + `
Canonicalization  relaxed/relaxed
InternalHosts     127.0.0.1, ::1, 192.0.2.0/24, !192.0.2.9, 2001:db8::/32
PeerList          csl:192.0.2.64/26
KeyTable          csl:one=example.com:mail:DIR/rsa-2048.private, two=example.net:mail:DIR/rsa-1024.private
SigningTable      csl:example.com=one, .example.com=one, ann@example.net=two
OversignHeaders   From,Subject
SignHeaders       *,+X-Mailer,-Reply-To
SignatureTTL      1209600
`},
			mails: []openDKIMMail{
				{"ann@example.com", at("192.0.2.1"), "example.com/mail"},
				{"ann@sub.example.com", at("2001:db8::7"), "example.com/mail"},
				{"ann@example.net", onLoopback, "example.net/mail"},
				{"bob@example.net", onLoopback, ""},
				{"ann@example.com", at("192.0.2.9"), ""},
				{"ann@example.com", at("192.0.2.70"), ""},
				{"ann@example.com", mailClient{name: "x.example.net", address: "192.0.2.70", login: "ann"}, ""},
				{"ann@example.com", mailClient{name: "x.example.net", address: "192.0.2.9", login: "ann"}, "example.com/mail"},
			},
		},
		{
			name: "subdomains",
			files: map[string]string{"opendkim.conf": common + `
Domain      example.com, example.net
SubDomains  yes
Selector    mail
KeyFile     DIR/rsa-2048.private
`},
			mails: []openDKIMMail{
				{"ann@example.com", onLoopback, "example.com/mail"},
				{"ann@sub.example.com", onLoopback, "example.com/mail/@example.com"},
				{"ann@a.b.example.net", onLoopback, "example.net/mail/@example.net"},
				{"ann@notexample.com", onLoopback, ""},
			},
		},
		{
			name: "subdomains without the domain",
			files: map[string]string{
				"opendkim.conf": common + "KeyTable file:DIR/KeyTable\nSigningTable file:DIR/SigningTable\nInternalHosts 127.0.0.1\n",
				"KeyTable":      "k example.com:mail:DIR/rsa-2048.private\nl example.net:other:DIR/rsa-1024.private\n",
				"SigningTable":  ".example.com k\n.far.example.com l:@mail.example.net\nann@own.example.com k:ann@own.example.com\n",
			},
			mails: []openDKIMMail{
				{"ann@example.com", onLoopback, ""},
				{"ann@sub.example.com", onLoopback, "example.com/mail"},
				{"ann@far.example.com", onLoopback, "example.com/mail"},
				{"ann@very.far.example.com", onLoopback, "example.net/other/@mail.example.net"},
				{"ann@own.example.com", onLoopback, "example.com/mail/ann@own.example.com"},
				{"ann@example.net", onLoopback, ""},
			},
		},
		{
			name: "Sendmail with MacroList",
			files: map[string]string{"opendkim.conf": common + `
Domain         example.com
Selector       mail
KeyFile        DIR/rsa-2048.private
InternalHosts  192.0.2.1
MacroList      daemon_name=MSA|ORIGINATING,signed_here
Mode           s
`},
			mails: []openDKIMMail{
				{"ann@example.com", mailClient{name: "x.example.net", address: "203.0.113.9", daemon: "MSA"}, "example.com/mail"},
				{"ann@example.com", mailClient{name: "x.example.net", address: "203.0.113.9", daemon: "ORIGINATING"}, "example.com/mail"},
				{"ann@example.com", mailClient{name: "x.example.net", address: "203.0.113.9", macros: map[string]string{"{signed_here}": "x"}}, "example.com/mail"},
				{"ann@example.com", mailClient{name: "x.example.net", address: "203.0.113.9", daemon: "MTA"}, ""},
				{"ann@example.com", onLoopback, ""},
				{"ann@example.com", at("192.0.2.1"), "example.com/mail"},
			},
		},
		{
			name: "Sendmail with MTA",
			files: map[string]string{"opendkim.conf": common + `
Domain         example.com
Selector       mail
KeyFile        DIR/rsa-2048.private
MTA            MSA
`},
			mails: []openDKIMMail{
				{"ann@example.com", mailClient{name: "x.example.net", address: "203.0.113.9", daemon: "MSA"}, "example.com/mail"},
				{"ann@example.com", mailClient{name: "x.example.net", address: "203.0.113.9", daemon: "MTA"}, ""},
				{"ann@example.com", onLoopback, "example.com/mail"},
			},
		},
		{
			name: "inline keys",
			files: map[string]string{
				"opendkim.conf": common + "KeyTable file:DIR/KeyTable\nSigningTable refile:DIR/SigningTable\n",
				"KeyTable":      "k example.com:mail:" + inlineKey(t, "rsa-1024") + "\n",
				"SigningTable":  "*@example.com k:@%\n",
			},
			mails: []openDKIMMail{
				{"ann@example.com", onLoopback, "example.com/mail/@example.com"},
				{"ann@example.net", onLoopback, ""},
			},
		},
		{
			name: "a key file for each domain",
			files: map[string]string{
				"opendkim.conf":                    common + "KeyTable file:DIR/KeyTable\nSigningTable refile:DIR/SigningTable\n",
				"KeyTable":                         "k %:default:DIR/keys/%/default.private\n",
				"SigningTable":                     "*@off.example missing-on-purpose\n*@* k\n",
				"keys/example.com/default.private": "RSA2048",
				"keys/example.net/default.private": "RSA1024",
			},
			args: []string{"--drop", "SigningTable:1"},
			code: 1,
			mails: []openDKIMMail{
				{"ann@example.com", onLoopback, "example.com/default"},
				{"ann@example.net", onLoopback, "example.net/default"},
				{"ann@example.org", onLoopback, "put off"},
			},
		},
		{
			name: "a platform that signs for all others, and two keys for one domain",
			files: map[string]string{
				"opendkim.conf": common + "KeyTable file:DIR/KeyTable\nSigningTable file:DIR/SigningTable\n",
				"KeyTable":      "a example.com:a:DIR/rsa-2048.private\nb example.com:b:DIR/rsa-1024.private\n",
				"SigningTable":  "* a\nnews@example.com b\nexample.net b\n",
			},
			mails: []openDKIMMail{
				{"ann@example.com", onLoopback, "example.com/a"},
				{"news@example.com", onLoopback, "example.com/b"},
				{"ann@example.net", onLoopback, "example.com/b"},
				{"ann@example.org", onLoopback, "example.com/a"},
			},
		},
	}
}

// inlineKey is a key of testdata as it stands in a table: PKCS#1 in base64.
func inlineKey(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile("../../../testdata/keys/" + name + ".pem")
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return base64.StdEncoding.EncodeToString(x509.MarshalPKCS1PrivateKey(key.(*rsa.PrivateKey)))
}

// TestOpenDKIMSetupsSignTheSame sends the same mail through OpenDKIM, imports its
// configuration, and sends it through waxseal at the same socket.
func TestOpenDKIMSetupsSignTheSame(t *testing.T) {
	require(t, openDKIMNeeds...)
	for _, setup := range openDKIMSetups(t) {
		t.Run(setup.name, func(t *testing.T) {
			t.Parallel()
			dir := shortDir(t)
			writeOpenDKIM(t, dir, setup.files)
			config, socket := filepath.Join(dir, "opendkim.conf"), "unix:"+filepath.Join(dir, "run/opendkim.sock")

			o := startOpenDKIM(t, config, socket)
			var before []answer
			for _, m := range setup.mails {
				before = append(before, throughMilter(t, socket, m.client, plainHeader(m.from), "Hello,  \t there\r\n\r\n"))
			}
			o.stop()

			keys := &keystore{dir: filepath.Join(dir, "imported"), records: filepath.Join(dir, "records.tsv"), txt: map[string]string{}}
			output := filepath.Join(dir, "waxseal.toml")
			args := append([]string{"import", "opendkim", config, "--keystore", keys.dir, "--output", output}, setup.args...)
			stdout, stderr, code := tryCommand(t, "", nil, args...)
			if code != setup.code {
				t.Fatalf("import: exit %d, want %d\n%s%s", code, setup.code, stdout, stderr)
			}
			if !strings.Contains(stderr, "DNS needs no change") {
				t.Errorf("import does not say that DNS needs no change:\n%s", stderr)
			}
			keys.made = importedDomains(t, keys.dir)
			keys.publish(t)
			if out, _, code := tryCommand(t, "", nil, "check", "--config", output); code != 0 {
				t.Errorf("waxseal check:\n%s", out)
			}

			d := serve(t, daemonOptions{}, "--config", output)
			for i, m := range setup.mails {
				after := throughMilter(t, socket, m.client, plainHeader(m.from), "Hello,  \t there\r\n\r\n")
				want := wantedWords(m.want)
				if got := before[i].words(); got != want {
					t.Errorf("%s from %+v: OpenDKIM: %s, want %s", m.from, m.client, got, want)
				}
				if got := after.words(); got != want {
					t.Errorf("%s from %+v: waxseal: %s, want %s\n%s", m.from, m.client, got, want, stdout)
				}
				before[i].checkValid(t, "OpenDKIM", keys)
				after.checkValid(t, "waxseal", keys)
			}
			d.stop(t)
		})
	}
}

// wantedWords are the words of an answer that is wanted.
func wantedWords(want string) string {
	switch want {
	case "":
		return "accepted"
	case "put off":
		return want
	}
	parts := append(strings.SplitN(want, "/", 3), "")
	return "accepted [d=" + parts[0] + " s=" + parts[1] + " i=" + parts[2] + "]"
}

// writeOpenDKIM writes the files of a setup, with keys of testdata, for the user
// that OpenDKIM becomes.
func writeOpenDKIM(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	all := map[string]string{"run/.keep": ""}
	for name, text := range files {
		all[name] = text
	}
	for name, word := range map[string]string{"rsa-2048": "RSA2048", "rsa-1024": "RSA1024"} {
		key, err := os.ReadFile("../../../testdata/keys/" + name + ".pem")
		if err != nil {
			t.Fatal(err)
		}
		all[name+".private"] = string(key)
		for file, text := range all {
			if text == word {
				all[file] = string(key)
			}
		}
	}
	writeTree(t, dir, all)
	if strings.Contains(files["opendkim.conf"], "UserID") {
		if out, err := exec.Command("chown", "opendkim:opendkim", filepath.Join(dir, "run"), filepath.Join(dir, "rsa-2048.private")).CombinedOutput(); err != nil {
			t.Fatalf("chown: %v\n%s", err, out)
		}
	}
}

// importedDomains lists the domains of a keystore, whose keys all have to be
// active.
func importedDomains(t *testing.T, dir string) []string {
	t.Helper()
	var rows []struct{ Domain, State string }
	if err := json.Unmarshal([]byte(command(t, "key", "list", "--keystore", dir, "--json")), &rows); err != nil {
		t.Fatal(err)
	}
	var domains []string
	for _, r := range rows {
		if r.State != "active" {
			t.Errorf("a key of %s is %s, want active", r.Domain, r.State)
		}
		if !slices.Contains(domains, r.Domain) {
			domains = append(domains, r.Domain)
		}
	}
	return domains
}
