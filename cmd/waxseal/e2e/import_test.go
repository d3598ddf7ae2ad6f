package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// otherSigner is another milter that signs, and its import.
type otherSigner struct {
	name  string
	needs []need
	files map[string]string // DIR is a directory of the test; its socket is DIR/run/s
	run   []string
	args  []string // of the import
	code  int      // exit status of the import
	own   bool     // waxseal listens at its own socket, not at that of the other
	mails []signedMail
}

// signedMail is a message, and the signatures that it gets from both.
type signedMail struct {
	from   string
	client mailClient
	want   []string
}

// rawEd25519 is a key as rspamd and dkimpy have it: base64 of its 32 bytes.
const rawEd25519 = "nWGxne/9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A="

func loginOf(name string) mailClient {
	return mailClient{name: "client.example.net", address: "203.0.113.9", login: name}
}

var otherSigners = []otherSigner{
	{
		name:  "rspamd",
		needs: []need{root, installed("rspamd", "rspamd")},
		files: map[string]string{
			"rspamd.conf": `options {
  filters = "dkim";
  dns { nameserver = ["127.0.0.1:9"]; }
  local_addrs = ["192.168.0.0/16"];
  pidfile = "DIR/run/pid"; control_socket = "DIR/run/control mode=0600"; tempdir = "DIR/run"; cache_file = "DIR/run/cache";
  dynamic_conf = "DIR/run/dynamic"; history_file = ""; url_tld = "DIR/tld"; disable_monitoring = true; explicit_modules = [];
}
logging { type = "console"; level = "error"; }
worker "rspamd_proxy" {
  bind_socket = "DIR/run/s mode=0666"; milter = yes; timeout = 120s;
  upstream "local" { default = yes; self_scan = yes; }
}
modules { path = "/usr/share/rspamd/plugins/dkim_signing.lua"; }
dkim_signing { .include "DIR/etc/modules.d/dkim_signing.conf"
  .include(try=true,priority=1,duplicate=merge) "DIR/etc/local.d/dkim_signing.conf"
}
`,
			"tld":             "com\nnet\norg\n",
			"etc/options.inc": "local_addrs = [192.168.0.0/16];\n",
			"etc/modules.d/dkim_signing.conf": "allow_hdrfrom_mismatch = false;\nallow_username_mismatch = false;\nselector = \"dkim\";\nsign_authenticated = true;\n" +
				"sign_local = true;\ntry_fallback = true;\nuse_domain = \"header\";\nuse_esld = true;\nuse_redis = false;\nkey_prefix = \"DKIM_KEYS\";\n",
			"etc/local.d/dkim_signing.conf": `allow_hdrfrom_mismatch = true;
path = "DIR/keys/$domain.$selector.key";
selector_map = "DIR/etc/selectors.map";
sign_networks = ["198.51.100.0/25"];
domain {
  example.com {
    selectors [
      { path = "DIR/keys/rsa.key"; selector = "rsa"; },
      { path: "DIR/keys/ed.key", selector: "ed" }
    ]
  }
}
`,
			"etc/selectors.map":         "# domain selector\nexample.net mail\n",
			"keys/rsa.key":              "RSA2048",
			"keys/ed.key":               rawEd25519,
			"keys/example.net.mail.key": "RSA1024",
			"keys/example.org.dkim.key": "RSA2048",
		},
		run:  []string{"rspamd", "-f", "-i", "-c", "DIR/rspamd.conf"},
		args: []string{"rspamd", "DIR/etc"},
		own:  true,
		mails: []signedMail{
			{"ann@example.com", loginOf("ann@example.com"), []string{"example.com/ed/", "example.com/rsa/"}},
			{"ann@sub.example.com", loginOf("ann@example.com"), []string{"example.com/ed/", "example.com/rsa/"}},
			{"ann@example.com", loginOf("ann@example.net"), nil},
			{"ann@example.com", loginOf("ann"), nil},
			{"ann@example.net", loginOf("bob@example.net"), []string{"example.net/mail/"}},
			{"ann@example.org", onLoopback, []string{"example.org/dkim/"}},
			{"ann@example.com", onLoopback, []string{"example.com/ed/", "example.com/rsa/"}},
			{"ann@example.com", at("192.168.7.7"), []string{"example.com/ed/", "example.com/rsa/"}},
			{"ann@example.com", at("198.51.100.127"), []string{"example.com/ed/", "example.com/rsa/"}},
			{"ann@example.com", at("198.51.100.128"), nil},
			{"ann@elsewhere.org", onLoopback, nil},
		},
	},
	{
		name:  "dkimpy-milter",
		needs: []need{root, installed("dkimpy-milter", "dkimpy-milter")},
		files: map[string]string{"dkimpy-milter.conf": `Syslog no
UMask 007
UserID root
PidFile DIR/run/pid
Socket local:DIR/run/s
Domain example.com,example.net
KeyFile DIR/rsa-2048.private
Selector rsa
KeyFileEd25519 DIR/ed.private
SelectorEd25519 ed
SubDomains yes
`, "ed.private": rawEd25519 + "\n"},
		run:  []string{"dkimpy-milter", "DIR/dkimpy-milter.conf"},
		args: []string{"dkimpy", "DIR/dkimpy-milter.conf"},
		code: 1, // strangers
		mails: []signedMail{
			{"ann@example.com", onLoopback, []string{"example.com/ed/", "example.com/rsa/"}},
			{"ann@example.net", withLogin, []string{"example.net/ed/", "example.net/rsa/"}},
			{"Ann@SUB.Example.com", withLogin, []string{"example.com/ed/", "example.com/rsa/"}},
			{"ann@notexample.com", onLoopback, nil},
		},
	},
	{
		name:  "dkimpy-milter with tables",
		needs: []need{root, installed("dkimpy-milter", "dkimpy-milter")},
		files: map[string]string{
			"dkimpy-milter.conf": "Syslog no\nUserID root\nPidFile DIR/run/pid\nSocket local:DIR/run/s\nKeyTable DIR/keys\nSigningTable refile:DIR/signing\nCanonicalization relaxed\n",
			"keys":               "# name domain:selector:key\nk1 example.com:s1:DIR/rsa-2048.private\nk2 %:s2:DIR/rsa-1024.private\n",
			"signing":            "news@example.com k2\n*@example.com k1\n*@example.org %:k2\n*@other.example k1\n",
		},
		run:  []string{"dkimpy-milter", "DIR/dkimpy-milter.conf"},
		args: []string{"dkimpy", "DIR/dkimpy-milter.conf"},
		code: 1,
		mails: []signedMail{
			{"ann@example.com", onLoopback, []string{"example.com/s1/"}},
			{"news@example.com", onLoopback, []string{"example.com/s2/"}},
			{"ann@example.org", onLoopback, []string{"example.org/s2/"}},
			{"ann@other.example", onLoopback, []string{"example.com/s1/"}},
			{"ann@example.info", onLoopback, nil},
		},
	},
}

// TestOtherSignersSignTheSame sends the same messages through another signer, and
// through a daemon with what the import made of its configuration.
func TestOtherSignersSignTheSame(t *testing.T) {
	for _, s := range otherSigners {
		t.Run(s.name, func(t *testing.T) {
			require(t, s.needs...)
			t.Parallel()
			dir := shortDir(t)
			fill := func(list []string) []string {
				list = slices.Clone(list)
				for i := range list {
					list[i] = strings.ReplaceAll(list[i], "DIR", dir)
				}
				return list
			}
			writeOpenDKIM(t, dir, s.files)
			socket := "unix:" + filepath.Join(dir, "run/s")
			run := fill(s.run)
			if s.name == "rspamd" {
				run = append(run, "-u", "root", "-g", "root")
			}
			before := s.answers(t, startSigner(t, exec.Command(run[0], run[1:]...), socket), socket)

			keys := &keystore{dir: filepath.Join(dir, "imported"), records: filepath.Join(dir, "records.tsv"), txt: map[string]string{}}
			output := filepath.Join(dir, "waxseal.toml")
			stdout, stderr, code := tryCommand(t, "", nil, append(append([]string{"import"}, fill(s.args)...), "--keystore", keys.dir, "--output", output)...)
			if code != s.code || !strings.Contains(stderr, "DNS needs no change") {
				t.Fatalf("import: exit %d, want %d\n%s%s", code, s.code, stdout, stderr)
			}
			keys.made = importedDomains(t, keys.dir)
			keys.publish(t)
			if s.own {
				text, err := os.ReadFile(output)
				if err != nil {
					t.Fatal(err)
				}
				writeFile(t, output, string(text)+fmt.Sprintf("\n[listen.milter]\naddress = %q\n", socket), 0o600)
			}
			d := serve(t, daemonOptions{}, "--config", output)
			for i, m := range s.mails {
				after := throughMilter(t, socket, m.client, plainHeader(m.from), "Hello,  \t there\r\n\r\n")
				for who, a := range map[string]answer{s.name: before[i], "waxseal": after} {
					if got := a.signatures(); a.verdict != "accepted" || !slices.Equal(got, m.want) {
						t.Errorf("%s from %+v: %s: %s %q, want %q\n%s", m.from, m.client, who, a.verdict, got, m.want, stdout)
					}
					a.checkValid(t, who, keys)
				}
			}
			d.stop(t)
		})
	}
}

// answers takes the messages through the other signer, and stops it.
func (s *otherSigner) answers(t *testing.T, o *otherMilter, socket string) []answer {
	t.Helper()
	var all []answer
	for _, m := range s.mails {
		all = append(all, throughMilter(t, socket, m.client, plainHeader(m.from), "Hello,  \t there\r\n\r\n"))
	}
	o.stop()
	if err := os.Remove(strings.TrimPrefix(socket, "unix:")); err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return all
}

// signatures are d=, s= and i= of all, sorted. An i= that says what its absence
// does (RFC 6376, section 3.5) is left out.
func (a answer) signatures() []string {
	var all []string
	for _, f := range a.message.fields {
		if f.name == "DKIM-Signature" {
			tags := tagsOf(f)
			identity := tags["i"]
			if identity == "@"+tags["d"] {
				identity = ""
			}
			all = append(all, tags["d"]+"/"+tags["s"]+"/"+identity)
		}
	}
	slices.Sort(all)
	return all
}
