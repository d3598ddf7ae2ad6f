package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"waxseal/cmd/waxseal/internal/opendkim"
)

// openDKIMFiles writes the files of an OpenDKIM, with a key at DIR/key.private,
// and returns the directory, which stands for DIR in them.
func openDKIMFiles(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	key, err := os.ReadFile("../../testdata/keys/rsa-2048.pem")
	if err != nil {
		t.Fatal(err)
	}
	other, err := os.ReadFile("../../testdata/keys/rsa-1024.pem")
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{"key.private": string(key), "other.private": string(other)}
	for name, text := range files {
		all[name] = strings.ReplaceAll(text, "DIR", dir)
	}
	for name, text := range all {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// importOpenDKIM runs the import of DIR/opendkim.conf.
func importOpenDKIM(c *cli, dir string, args ...string) result {
	c.t.Helper()
	return c.plain("", append([]string{"import", "opendkim", filepath.Join(dir, "opendkim.conf"), "--keystore", filepath.Join(dir, "keys"), "--output", filepath.Join(dir, "waxseal.toml")}, args...)...)
}

const simpleOpenDKIM = "Domain example.com\nSelector Mail\nKeyFile DIR/key.private\nSocket inet:8891@localhost\nCanonicalization relaxed/simple\n"

func TestImportedKeysKeepSelectorAndAge(t *testing.T) {
	c := newCLI(t)
	dir := openDKIMFiles(t, map[string]string{"opendkim.conf": simpleOpenDKIM})
	made := time.Date(2024, 5, 6, 7, 8, 9, 0, time.UTC)
	if err := os.Chtimes(filepath.Join(dir, "key.private"), made, made); err != nil {
		t.Fatal(err)
	}
	// Nothing is written at first.
	r := importOpenDKIM(c, dir, "--dry-run")
	if r.code != exitDone || !strings.Contains(r.stdout, "Configuration that would be written") || !strings.Contains(r.stdout, `address = "inet:8891@localhost"`) {
		t.Errorf("dry run: exit status %d\n%s%s", r.code, r.stdout, r.stderr)
	}
	for _, name := range []string{"keys", "waxseal.toml"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
			t.Errorf("the dry run made %s", name)
		}
	}
	r = importOpenDKIM(c, dir)
	if r.code != exitDone || !strings.Contains(r.stderr, "DNS needs no change") {
		t.Fatalf("exit status %d\n%s%s", r.code, r.stdout, r.stderr)
	}
	var keys []struct {
		Domain, Selector, State, Note string
		Created, Activated            time.Time
	}
	out := c.plain("", "key", "list", "--json", "--config", filepath.Join(dir, "waxseal.toml")).stdout
	if err := json.Unmarshal([]byte(out), &keys); err != nil || len(keys) != 1 {
		t.Fatalf("%v\n%s", err, out)
	}
	k := keys[0]
	if k.Domain != "example.com" || k.Selector != "mail" || k.State != "active" || !k.Created.Equal(made) || !k.Activated.Equal(made) || !strings.Contains(k.Note, "key.private") {
		t.Errorf("the key is %+v, want mail of example.com, active, from %v", k, made)
	}
	for _, args := range [][]string{{"check"}, {"explain", "--from", "ann@example.com", "--login", "eve@example.org"}} {
		if r := c.plain("", append(args, "--config", filepath.Join(dir, "waxseal.toml"))...); r.code != exitDone {
			t.Errorf("%v: exit status %d\n%s%s", args, r.code, r.stdout, r.stderr)
		}
	}
	// A configuration is never overwritten; keys that are there are let be.
	if r := importOpenDKIM(c, dir); r.code != exitFailed || !strings.Contains(r.stderr, "is there already") {
		t.Errorf("a second import: exit status %d\n%s", r.code, r.stderr)
	}
	// That of a package, in which all is commented, gives way.
	if err := os.WriteFile(filepath.Join(dir, "waxseal.toml"), []byte(c.ok("", "config example")), 0o644); err != nil {
		t.Fatal(err)
	}
	if r := importOpenDKIM(c, dir); r.code != exitDone || !strings.Contains(r.stdout, "in the keystore already") {
		t.Errorf("an import of keys that are there: exit status %d\n%s%s", r.code, r.stdout, r.stderr)
	}
	// A different key under the same selector is not.
	if err := os.Rename(filepath.Join(dir, "other.private"), filepath.Join(dir, "key.private")); err != nil {
		t.Fatal(err)
	}
	if r := importOpenDKIM(c, dir, "--output", filepath.Join(dir, "new.toml")); r.code != exitFailed || !strings.Contains(r.stderr, "selector mail of example.com for another key") {
		t.Errorf("another key: exit status %d\n%s", r.code, r.stderr)
	}
}

// TestEveryLineIsToldWithWhatBecomesOfIt has a row for each line that is not
// simply taken: what is said of it, and whether --drop goes on without it.
func TestEveryLineIsToldWithWhatBecomesOfIt(t *testing.T) {
	const tables = "KeyTable file:DIR/KeyTable\nSigningTable refile:DIR/SigningTable\n"
	const keys = "k example.com:mail:DIR/key.private\n"
	for _, c := range []struct {
		name   string
		files  map[string]string
		result string
		say    []string
	}{
		{"a pattern that never matched", map[string]string{"opendkim.conf": tables, "KeyTable": keys, "SigningTable": "*@example.com k\nexample.net k\n"}, lineOpen, []string{"SigningTable:2", "never matched", "write *@example.net"}},
		{"a regular expression", map[string]string{"opendkim.conf": tables, "KeyTable": keys, "SigningTable": "ann|bob@example.com k\n"}, lineOpen, []string{"regular expression"}},
		{"a row that another hides", map[string]string{"opendkim.conf": tables, "KeyTable": keys, "SigningTable": "*@example.com k\nann@example.com k\n"}, lineNotNeeded, []string{"SigningTable:2", "SigningTable:1 comes first"}},
		{"a catch-all that hides others", map[string]string{"opendkim.conf": tables, "KeyTable": keys, "SigningTable": "* k\n*@example.com k\n"}, lineNotNeeded, []string{"SigningTable:2", "SigningTable:1 comes first"}},
		{"a signer without @", map[string]string{"opendkim.conf": tables, "KeyTable": keys, "SigningTable": "*@example.com k:example.com\n"}, lineOpen, []string{"has no @"}},
		{"a signer outside of the domain", map[string]string{"opendkim.conf": tables, "KeyTable": keys, "SigningTable": "*@example.com k:@example.net\n"}, lineNotNeeded, []string{"outside of example.com"}},
		{"a row without a key", map[string]string{"opendkim.conf": tables, "KeyTable": keys, "SigningTable": "*@example.com\n"}, lineOpen, []string{"names no key"}},
		{"a key that is not in the table", map[string]string{"opendkim.conf": tables, "KeyTable": keys, "SigningTable": "*@example.com l\n"}, lineOpen, []string{"l is not in the KeyTable"}},
		{"a key that no row names", map[string]string{"opendkim.conf": tables, "KeyTable": keys + "l example.net:mail:DIR/other.private\n", "SigningTable": "*@example.com k\n"}, lineNotNeeded, []string{"KeyTable:2", "no row of the SigningTable"}},
		{"a key file that is not there", map[string]string{"opendkim.conf": tables, "KeyTable": "k example.com:mail:DIR/none\n", "SigningTable": "*@example.com k\n"}, lineOpen, []string{"KeyTable:1", "none: no such file"}},
		{"a key that is too small", map[string]string{"opendkim.conf": tables + "MinimumKeyBits 4096\n", "KeyTable": keys, "SigningTable": "*@example.com k\n"}, lineOpen, []string{"below MinimumKeyBits"}},
		{"one key for every domain", map[string]string{"opendkim.conf": tables, "KeyTable": "k %:mail:DIR/key.private\n", "SigningTable": "*@* k\n"}, lineOpen, []string{"waxseal keeps keys by domain"}},
		{"a directive that came twice", map[string]string{"opendkim.conf": simpleOpenDKIM + "Selector mail\n"}, lineNotNeeded, []string{"opendkim.conf:2", "opendkim.conf:6 counts"}},
		{"KeyTable and KeyFile", map[string]string{"opendkim.conf": simpleOpenDKIM + tables, "KeyTable": keys, "SigningTable": "*@example.com k\n"}, lineNotNeeded, []string{"opendkim.conf:3", "KeyTable switches it off"}},
		{"a network with host bits", map[string]string{"opendkim.conf": simpleOpenDKIM + "InternalHosts 127.0.0.1, 192.0.2.1/24\n"}, lineOpen, []string{"opendkim.conf:6", "192.0.2.1/24", "never matched"}},
		{"a name among the hosts", map[string]string{"opendkim.conf": simpleOpenDKIM + "InternalHosts DIR/Hosts\n", "Hosts": "127.0.0.1\nmail.example.com\n"}, lineOpen, []string{"Hosts:2", "knows clients by address"}},
		{"the whole Internet", map[string]string{"opendkim.conf": simpleOpenDKIM + "InternalHosts 0.0.0.0/0\n"}, lineOpen, []string{"whole Internet"}},
		{"a name among the peers", map[string]string{"opendkim.conf": simpleOpenDKIM + "PeerList mail.example.com\n"}, lineRefused, []string{"would sign mail that is not signed now"}},
		{"a pattern among the hosts", map[string]string{"opendkim.conf": simpleOpenDKIM + "InternalHosts refile:DIR/Hosts\n", "Hosts": "127.0.0.1\n10.*\n"}, lineRefused, []string{"Hosts:2", "write the networks"}},
		{"a list that begins with an IPv6 address", map[string]string{"opendkim.conf": simpleOpenDKIM + "InternalHosts ::1,127.0.0.1\n"}, lineRefused, []string{"write csl: before a list"}},
		{"a database", map[string]string{"opendkim.conf": strings.ReplaceAll(tables, "file:DIR/KeyTable", "dsn:mysql://u@h/d"), "SigningTable": ""}, lineRefused, []string{"kept in a database"}},
		{"the hosts that had no effect", map[string]string{"opendkim.conf": simpleOpenDKIM + "ExternalIgnoreList 10.0.0.0/8\n"}, lineNotNeeded, []string{"no effect on signing"}},
		{"MTA beside MacroList", map[string]string{"opendkim.conf": simpleOpenDKIM + "MTA MSA\nMacroList daemon_name=X\n"}, lineOpen, []string{"takes it back"}},
		{"a macro that strangers set", map[string]string{"opendkim.conf": simpleOpenDKIM + "MacroList client_name=x\n"}, lineOpen, []string{"{client_name}", "stranger"}},
		{"a part of the body", map[string]string{"opendkim.conf": simpleOpenDKIM + "MaximumSignedBytes 1000\n"}, lineOpen, []string{"l="}},
		{"SHA-1", map[string]string{"opendkim.conf": simpleOpenDKIM + "SignatureAlgorithm rsa-sha1\n"}, lineOpen, []string{"RFC 8301"}},
		{"recipients", map[string]string{"opendkim.conf": simpleOpenDKIM + "DontSignMailTo x@example.net\n"}, lineOpen, []string{"by recipient"}},
		{"a script", map[string]string{"opendkim.conf": simpleOpenDKIM + "SetupPolicyScript /x.lua\n"}, lineOpen, []string{"scripts"}},
		{"fields by pattern", map[string]string{"opendkim.conf": simpleOpenDKIM + "SignHeaders From,X-*\n"}, lineOpen, []string{"no patterns"}},
		{"unsigned From", map[string]string{"opendkim.conf": simpleOpenDKIM + "OmitHeaders From\n"}, lineOpen, []string{"signs nothing"}},
		{"quarantine", map[string]string{"opendkim.conf": simpleOpenDKIM + "On-SignatureError quarantine\n"}, lineOpen, []string{"quarantines"}},
		{"a socket for all", map[string]string{"opendkim.conf": simpleOpenDKIM + "Socket inet:8891\n"}, lineOpen, []string{"open to all machines", "inet:8891@127.0.0.1"}},
		{"a setting that is unknown", map[string]string{"opendkim.conf": simpleOpenDKIM + "Nonsense yes\n"}, lineRefused, []string{"opendkim.conf:6", "Nonsense"}},
		{"no signing", map[string]string{"opendkim.conf": simpleOpenDKIM + "Mode v\n"}, lineRefused, []string{"does not sign"}},
		{"verifying", map[string]string{"opendkim.conf": simpleOpenDKIM + "On-BadSignature reject\n"}, lineNotNeeded, []string{"about verifying"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			cli := newCLI(t)
			dir := openDKIMFiles(t, c.files)
			r := importOpenDKIM(cli, dir, "--dry-run")
			told := reported(r.stdout, c.result)
			for _, say := range c.say {
				if !strings.Contains(told, say) {
					t.Errorf("no %s line says %q:\n%s%s", c.result, say, r.stdout, r.stderr)
				}
			}
			if c.result == lineNotNeeded {
				if r.code != exitDone {
					t.Errorf("exit status %d\n%s%s", r.code, r.stdout, r.stderr)
				}
				return
			}
			if r.code != exitFailed || !strings.Contains(r.stderr, "nothing is written") {
				t.Errorf("exit status %d\n%s%s", r.code, r.stdout, r.stderr)
			}
			r = importOpenDKIM(cli, dir, "--drop", "all")
			_, err := os.Stat(filepath.Join(dir, "waxseal.toml"))
			if written := err == nil; written != (c.result == lineOpen) {
				t.Errorf("with --drop all: written is %v, exit status %d\n%s%s", written, r.code, r.stdout, r.stderr)
			}
			if strings.Contains(r.stdout, "\nwider ") {
				t.Errorf("it signs what OpenDKIM does not:\n%s", r.stdout)
			}
		})
	}
}

func TestASingleOpenLineIsDroppedByItsPlace(t *testing.T) {
	c := newCLI(t)
	dir := openDKIMFiles(t, map[string]string{"opendkim.conf": simpleOpenDKIM + "InternalHosts DIR/Hosts\n", "Hosts": "127.0.0.1\n192.0.2.1/24\nmail.example.com\n"})
	if r := importOpenDKIM(c, dir, "--drop", "Hosts:2"); r.code != exitFailed || !strings.Contains(r.stderr, "1 lines are open") {
		t.Errorf("exit status %d\n%s", r.code, r.stderr)
	}
	if r := importOpenDKIM(c, dir, "--drop", "Hosts:2", "--drop", "Hosts:7"); r.code != exitMisuse || !strings.Contains(r.stderr, "Hosts:7") {
		t.Errorf("exit status %d\n%s", r.code, r.stderr)
	}
	// The name let a client in, and so there is a difference to be told.
	r := importOpenDKIM(c, dir, "--drop", "Hosts:2", "--drop", dir+"/Hosts:3")
	if r.code != exitFailed || !strings.Contains(r.stdout, "different  someone@example.com          host mail.example.com") {
		t.Errorf("exit status %d\n%s%s", r.code, r.stdout, r.stderr)
	}
	if _, err := os.Stat(filepath.Join(dir, "waxseal.toml")); err != nil {
		t.Error(err)
	}
}

func TestAnImportIsToldAsJSON(t *testing.T) {
	c := newCLI(t)
	dir := openDKIMFiles(t, map[string]string{"opendkim.conf": simpleOpenDKIM})
	r := importOpenDKIM(c, dir, "--dry-run", "--json")
	var got struct {
		Lines         []importedLine
		Keys          []map[string]any
		Configuration string
		Comparison    comparison
	}
	if err := json.Unmarshal([]byte(r.stdout), &got); err != nil || len(got.Lines) < 5 || len(got.Keys) != 1 || len(got.Comparison.Cases) < 10 || got.Comparison.Different != 0 {
		t.Errorf("%v: %+v", err, got)
	}
	if strings.Contains(r.stdout, "PRIVATE") {
		t.Error("a private key is printed")
	}
	if _, err := decodeConfig("x", got.Configuration); err != nil {
		t.Error(err)
	}
}

func TestSettingsOfOpenDKIMAreTranslated(t *testing.T) {
	c := newCLI(t)
	dir := openDKIMFiles(t, map[string]string{"opendkim.conf": `Domain example.com
Selector mail
KeyFile DIR/key.private
SignatureTTL 1209600
SignHeaders *,+X-Mailer,-Cc
OversignHeaders From, Subject
OmitHeaders *,+Reply-To
SenderHeaders Sender,From
On-Default accept
On-SignatureError tempfail
MacroList daemon_name=MSA|TLS
PeerList 192.0.2.0/25
InternalHosts 127.0.0.1,10.0.0.0/30,!10.0.0.1
Mode s
`, "defaults": "SOCKET=local:DIR/run/s\n"})
	r := importOpenDKIM(c, dir, "--defaults", filepath.Join(dir, "defaults"), "--arguments", "-l")
	if r.code != exitDone {
		t.Fatalf("exit status %d\n%s%s", r.code, r.stdout, r.stderr)
	}
	text, err := os.ReadFile(filepath.Join(dir, "waxseal.toml"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`address = "local:` + dir + `/run/s"`, `canonicalization = "simple/simple"`, `expiry = "14d"`, `"X-Mailer"`, `oversign = ["From", "Subject"]`,
		`author_fields = ["Sender"]`, `store_down = "accept"`, `daemon_names = ["MSA", "TLS"]`, `skip_networks = ["192.0.2.0/25"]`,
		`networks = ["127.0.0.1", "10.0.0.0", "10.0.0.2/31"]`, "check = false",
	} {
		if !strings.Contains(string(text), want) {
			t.Errorf("no %s in\n%s", want, text)
		}
	}
	for _, not := range []string{`"Cc"`, `"Reply-To"`, "key_unusable"} {
		if strings.Contains(string(text), not) {
			t.Errorf("%s in\n%s", not, text)
		}
	}
}

// TestNoSettingOfOpenDKIMIsPassedOver wants each setting that has a part in
// signing to be looked at.
func TestNoSettingOfOpenDKIMIsPassedOver(t *testing.T) {
	for _, name := range opendkim.SigningSettings() {
		if opendkimSettings[name] == nil {
			t.Errorf("%s is not looked at", name)
		}
	}
}

// TestTheImportSaysWhatTheSocketTakes wants the commands without which the daemon
// could not listen where OpenDKIM does.
func TestTheImportSaysWhatTheSocketTakes(t *testing.T) {
	const edit = "systemctl edit waxseal, with the lines [Service] and "
	for _, test := range []struct {
		socket     string
		want, not  string
		usesGroups bool
	}{
		{"local:/var/spool/postfix/opendkim/opendkim.sock", "chown waxseal /var/spool/postfix/opendkim; and " + edit + "ReadWritePaths=/var/spool/postfix/opendkim", "RuntimeDirectory", true},
		{"local:/run/opendkim/opendkim.sock", edit + "RuntimeDirectory=opendkim", "chown", true},
		{"local:/run/waxseal/milter.sock", "", "systemctl edit", true},
		{"inet:8891@localhost", "", "systemctl edit", false},
	} {
		c := newCLI(t)
		dir := openDKIMFiles(t, map[string]string{"opendkim.conf": strings.Replace(simpleOpenDKIM, "inet:8891@localhost", test.socket, 1) + "UserID nobody:root\n"})
		r := importOpenDKIM(c, dir)
		if r.code != exitDone || !strings.Contains(r.stderr, test.want) || strings.Contains(r.stderr, test.not) {
			t.Errorf("%s: exit status %d\n%s", test.socket, r.code, r.stderr)
		}
		if got := strings.Contains(r.stderr, "usermod -aG root waxseal"); got != test.usesGroups {
			t.Errorf("%s: tells of the group: %t\n%s", test.socket, got, r.stderr)
		}
	}
}
