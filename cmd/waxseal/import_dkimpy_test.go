package main

import (
	"os"
	"strings"
	"testing"

	"waxseal/cmd/waxseal/internal/dkimpy"
)

// debianDkimpy is Debian's configuration with the settings of its comments.
const debianDkimpy = `# This is a basic configuration that can easily be adapted to suit a standard
# installation. For more advanced options, see dkimpy-milter.conf(5).

# Log to syslog
Syslog			yes
UMask			007

# Sign for example.com with key in /etc/dkimkeys/dkim.key using
# selector '2007' (e.g. 2007._domainkey.example.com)
Domain			example.com
KeyFile		DIR/dkim.key
Selector		default
#Mode			sv
Socket local:DIR/dkimpy-milter.sock
PidFile			/run/dkimpy-milter/dkimpy-milter.pid
UserID			no-such-user
`

func TestDkimpyOfGuidesIsTakenOver(t *testing.T) {
	for _, c := range []struct {
		name     string
		files    map[string]string
		drop     []string
		keys     []string
		settings []string
	}{
		{"Debian's file", map[string]string{"d.conf": debianDkimpy}, nil, []string{"default.example.com rsa-2048"}, []string{
			`canonicalization = "relaxed/simple"`, `networks = ["127.0.0.1"]`, `address = "local:DIR/dkimpy-milter.sock"`, "check = false", "daemon_names = []",
		}},
		{"two algorithms, several domains", map[string]string{"d.conf": `Domain example.com,example.net
KeyFile DIR/dkim.key
KeyFileEd25519 DIR/ed.key
Selector rsa
SelectorEd25519 ed
Canonicalization relaxed
SubDomains yes
InternalHosts 127.0.0.1, 192.0.2.0/24
MacroList daemon_name|MSA
Socket inet:8892@localhost
SignHeaders from, to, subject
`, "ed.key": "ED25519"}, nil, []string{"ed.example.com ed25519", "ed.example.net ed25519", "rsa.example.com rsa-2048", "rsa.example.net rsa-2048"}, []string{
			`networks = ["127.0.0.1", "192.0.2.0/24"]`, `daemon_names = ["MSA"]`, "subdomains = true", `address = "inet:8892@localhost"`, `fields = ["from", "to", "subject"]`,
		}},
		{"tables", map[string]string{
			"d.conf":    "KeyTable DIR/keys\nSigningTable refile:DIR/signing\n",
			"keys":      "# name domain:selector:key\nk1 example.com:s1:DIR/dkim.key\nk2 %:s2:DIR/other.key\n",
			"signing":   "*@example.com k1\nann@example.net %:k2\n*@example.org k1\n",
			"other.key": "OTHER",
		}, nil, []string{"s1.example.com rsa-2048", "s2.example.net rsa-1024"}, []string{
			"[row.\"ann@example.net\"]\naddress = \"ann@example.net\"", `identity = "@example.net"`, `reason = "dkimpy-milter did not sign it"`, "[row.\"example.org\"]\ndomain = \"example.org\"\nsign_as = \"example.com\"",
		}},
		{"daemons that only verify", map[string]string{"d.conf": debianDkimpy + "MacroListVerify daemon_name|VERIFYING\n"}, []string{"--drop", "d.conf:17"}, []string{"default.example.com rsa-2048"}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.files["dkim.key"] = "RSA"
			dir := writeKeyTree(t, c.files)
			r := runImport(t, dir, append([]string{"dkimpy", dir + "/d.conf"}, c.drop...)...)
			r.checkWritten(t, c.keys, c.settings...)
			for line := range strings.Lines(r.stdout) {
				if f := strings.Fields(line); strings.HasPrefix(line, "different") && !strings.Contains(line, "stranger") && !strings.Contains(line, "127.0.0.2") && !strings.Contains(line, "::1 ") && !strings.Contains(line, "192.0.3.0") && !strings.Contains(line, "127.0.0.0") {
					t.Errorf("a difference for others than strangers: %s", f)
				}
			}
		})
	}
}

func TestLinesOfDkimpyAreTold(t *testing.T) {
	for _, c := range []struct{ name, config, result, say string }{
		{"an unknown name", "OversignHeaders From", lineOpen, "does not know this name"},
		{"another case", "selector x", lineOpen, "upper and lower case count"},
		{"a name twice", "Selector default", lineNotNeeded, "counts, as the last"},
		{"no signing", "Mode v", lineRefused, "does not sign"},
		{"a host by name", "InternalHosts mail.example.com", lineOpen, "by address"},
		{"an exclusion", "InternalHosts 192.0.2.0/24,!192.0.2.1", lineRefused, "no exclusions"},
		{"a socket for all", "Socket inet:8892", lineOpen, "open to all machines"},
		{"a domain in upper case", "Domain Example.org", lineOpen, "never matched"},
		{"a domain that a blank breaks", "Domain a.example,b.example, c.example", lineOpen, "never matched"},
		{"a table without keys", "SigningTable DIR/signing", lineRefused, "without a KeyTable"},
		{"keys without a table", "KeyTable DIR/keys", lineRefused, "without a SigningTable"},
		{"a table that is not there", "Domain DIR/none", lineRefused, "no such file"},
		{"a wrong canonicalization", "Canonicalization loose", lineRefused, "loose"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := writeKeyTree(t, map[string]string{"d.conf": debianDkimpy + c.config + "\n", "dkim.key": "RSA", "signing": "*@example.com k\n", "keys": "k example.com:s:DIR/dkim.key\n"})
			r := runImport(t, dir, "dkimpy", dir+"/d.conf", "--dry-run")
			told := reported(r.stdout, c.result)
			if !strings.Contains(told, c.say) || r.code != exitFailed {
				t.Errorf("exit status %d, no %s line says %q:\n%s%s", r.code, c.result, c.say, r.stdout, r.stderr)
			}
			if strings.Contains(r.stdout, "\nwider ") {
				t.Errorf("it signs what dkimpy-milter does not:\n%s", r.stdout)
			}
		})
	}
}

// TestNoSettingOfDkimpyIsPassedOver wants each setting to be looked at.
func TestNoSettingOfDkimpyIsPassedOver(t *testing.T) {
	for _, name := range dkimpy.Names() {
		if dkimpySettings[name] == nil {
			t.Errorf("%s is not looked at", name)
		}
	}
}

// FuzzDkimpy reads any configuration and table, and decides with them.
func FuzzDkimpy(f *testing.F) {
	f.Add(debianDkimpy, "*@example.com a:b\n")
	f.Add("SigningTable /t\nKeyTable file:/t\nDomain csl:a, b\n", "% x\n::1\n")
	f.Fuzz(func(t *testing.T, config, table string) {
		c, err := dkimpy.Read("c", func(path string) ([]byte, error) {
			if path == "c" {
				return []byte(config), nil
			}
			return []byte(table), os.ErrNotExist
		})
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"SigningTable", "KeyTable", "Domain", "InternalHosts"} {
			_, _ = c.DataSet(name)
		}
		c, _ = dkimpy.Read("c", func(path string) ([]byte, error) {
			if path == "c" {
				return []byte("SigningTable /t\n"), nil
			}
			return []byte(table), nil
		})
		d, _ := c.DataSet("SigningTable")
		m := dkimpy.Model{Rows: d.Rows, Tables: []map[string]dkimpy.Key{{"b": {Domain: "%"}}}}
		m.Decide("ann@example.com")
	})
}
