package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"waxseal/keystore"
)

// cli runs commands as a user would, against a keystore of its own.
type cli struct {
	t      testing.TB
	now    time.Time
	store  string
	config string // what the configuration file says
}

func newCLI(t testing.TB) *cli {
	return &cli{t: t, now: time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC), store: filepath.Join(t.TempDir(), "keys")}
}

// result is what a command printed, and its exit status.
type result struct {
	stdout, stderr string
	code           int
}

// run runs a command with the keystore; its arguments are split at blanks.
func (c *cli) run(stdin, line string) result {
	c.t.Helper()
	args := strings.Fields(line)
	switch args[0] {
	case "verify", "config", "help", "completion", "--version":
	default:
		args = append(args, "--keystore", c.store, "--config", writeFile(c.t, "waxseal.toml", c.config))
	}
	return c.plain(stdin, args...)
}

func (c *cli) plain(stdin string, args ...string) result {
	c.t.Helper()
	var stdout, stderr bytes.Buffer
	a := &app{stdin: strings.NewReader(stdin), stdout: &stdout, stderr: &stderr, now: func() time.Time { return c.now }}
	code := a.run(args)
	return result{stdout.String(), stderr.String(), code}
}

// ok runs a command that must succeed, and returns what it printed.
func (c *cli) ok(stdin, line string) string {
	c.t.Helper()
	r := c.run(stdin, line)
	if r.code != exitDone {
		c.t.Fatalf("%s: exit status %d\n%s%s", line, r.code, r.stdout, r.stderr)
	}
	return r.stdout
}

// fails runs a command that must not, and checks what it says.
func (c *cli) fails(stdin, line string, code int, say ...string) {
	c.t.Helper()
	r := c.run(stdin, line)
	if r.code != code {
		c.t.Errorf("%s: exit status %d, want %d\n%s%s", line, r.code, code, r.stdout, r.stderr)
	}
	for _, s := range say {
		if !strings.Contains(r.stdout+r.stderr, s) {
			c.t.Errorf("%s: does not say %q:\n%s%s", line, s, r.stdout, r.stderr)
		}
	}
	for l := range strings.Lines(r.stderr) {
		if !strings.HasPrefix(l, "waxseal: ") {
			c.t.Errorf("%s: a line on standard error does not begin with the program's name: %q", line, l)
		}
	}
}

const testMail = "From: Ann <ann@example.com>\nTo: bob@example.net\nSubject: hello\nDate: Sun, 22 Nov 2026 12:00:00 +0000\nMessage-ID: <1@example.com>\n\nIt works.\n"

func TestFromNoKeyToASignedMessage(t *testing.T) {
	c := newCLI(t)
	out := c.ok("", "key new example.com")
	if !strings.Contains(out, "2026a._domainkey.example.com.") || !strings.Contains(out, "v=DKIM1") {
		t.Errorf("key new does not print the record:\n%s", out)
	}
	c.ok("", "key new example.com --algorithm ed25519")
	c.fails(testMail, "sign", exitFailed, "not signed", "no active key")
	c.fails("", "key activate example.com 2026a --force", exitMisuse, "reason")
	for _, selector := range []string{"2026a", "2026b"} {
		c.ok("", "key activate example.com "+selector+" --force --reason tested")
	}
	signed := c.ok(testMail, "sign")
	if !strings.HasSuffix(signed, testMail) || strings.Contains(signed, "\r") {
		t.Errorf("the message did not stay as it was:\n%s", signed)
	}
	keys := writeFile(t, "keys.tsv", c.ok("", "dns show example.com --format tsv"))
	got := c.ok(signed, "verify --keys "+keys)
	if want := "pass d=example.com s=2026a a=rsa-sha256 bits=2048\npass d=example.com s=2026b a=ed25519-sha256 bits=256\n"; got != want {
		t.Errorf("verify printed\n%s\nwant\n%s", got, want)
	}
	c.fails(strings.Replace(signed, "hello", "hollo", 1), "verify --keys "+keys, exitFailed, "fail d=example.com s=2026a")
	c.fails(testMail, "verify --keys "+keys, exitFailed, "none")

	// With CRLF as it came, and by one key only.
	crlf := strings.ReplaceAll(testMail, "\n", "\r\n")
	signed = c.ok(crlf, "sign --selector 2026b")
	if strings.Contains(strings.ReplaceAll(signed, "\r\n", ""), "\n") || strings.Count(signed, "DKIM-Signature") != 1 {
		t.Errorf("not one signature with CRLF:\n%q", signed)
	}
	c.ok(signed, "verify --keys "+keys)

	// The same rules as the daemon's.
	c.fails(testMail, "sign --client 192.0.2.1", exitFailed, "192.0.2.1 is in no trusted network")
	c.ok(testMail, "sign --client 192.0.2.1 --login ann@example.com")
	c.ok(testMail, "sign --client 192.0.2.1 --login ann --host mx.example.com")
	c.fails(testMail, "sign --client 192.0.2.1 --login eve@example.org", exitFailed, "eve@example.org", "example.com")
	c.fails(testMail, "sign --client here", exitMisuse, "no IP address")
	c.fails(strings.Replace(testMail, "example.com", "example.org", 1), "sign", exitFailed, "example.org")
	c.ok(strings.Replace(testMail, "example.com", "example.org", 1), "sign --domain example.com")
	c.fails("From: a@example.com\nwhat\n\n", "sign", exitFailed, "line 2", "blank line")
	c.fails("", "sign", exitFailed, "no message")
}

func TestKeysAreListedAndShown(t *testing.T) {
	c := newCLI(t)
	c.fails("", "key list", exitFailed, "key new")
	c.ok("", "key new example.com --note newsletter")
	c.ok("", "key new b\u00fccher.example --algorithm ed25519")
	if out := c.ok("", "dns show example.com b\u00fccher.example"); strings.Count(out, "v=DKIM1") != 2 {
		t.Errorf("the second domain was not taken for one:\n%s", out)
	}
	if out := c.ok("", "key new example.com --dry-run"); strings.Contains(out, "v=DKIM1") {
		t.Errorf("a dry run prints a record that will never be:\n%s", out)
	}
	for line, record := range map[string]bool{
		"key new example.com --dry-run --json":                                          false, // that of a key which will never be
		"key import example.com mail ../../testdata/keys/rsa-2048.pem --dry-run --json": true,
	} {
		out := c.ok("", line)
		if !json.Valid([]byte(out)) || !strings.Contains(out, `"state": "pending"`) || strings.Contains(out, "v=DKIM1") != record {
			t.Errorf("%s printed\n%s", line, out)
		}
	}
	out := c.ok("", "key list")
	for _, want := range []string{"example.com          2026a     rsa-2048   pending  2026-11-22  newsletter", "xn--bcher-kva.example  2026a     ed25519"} {
		if !strings.Contains(strings.Join(strings.Fields(out), " "), strings.Join(strings.Fields(want), " ")) {
			t.Errorf("key list does not have %q:\n%s", want, out)
		}
	}
	var rows []keyRow
	if err := json.Unmarshal([]byte(c.ok("", "key list example.com --json")), &rows); err != nil || len(rows) != 1 || rows[0].State != keystore.Pending {
		t.Errorf("key list --json: %v, %+v", err, rows)
	}
	out = c.ok("", "key show example.com 2026a")
	if !strings.Contains(out, "2026-11-22T12:00:00Z") || !strings.Contains(out, "v=DKIM1") || strings.Contains(out, "PRIVATE") {
		t.Errorf("key show printed\n%s", out)
	}
	c.fails("", "key show example.com 2026b", exitFailed, "has no key 2026b", "waxseal key list example.com")
	c.fails("", "key show example.org 2026a", exitFailed, "not found")
	c.fails("", "key show ../etc 2026a", exitMisuse)
	c.fails("", "key show example.com a/b", exitMisuse, "selector")
}

func TestTheLifeOfAKey(t *testing.T) {
	c := newCLI(t)
	if r := c.run("", "key new example.com --algorithm rsa"); r.code != exitMisuse || strings.Contains(r.stderr, "made the keystore") {
		t.Errorf("an unknown algorithm: exit status %d\n%s", r.code, r.stderr)
	}
	c.ok("", "key new example.com --selector Mail --algorithm ed25519")
	c.fails("", "key new example.com --selector mail", exitFailed, "used before", "2026a")
	c.fails("", "key new example.com --selector a;b", exitMisuse, "selector")
	c.fails("", "key new example.com --algorithm rsa-512", exitMisuse, "rsa-512")
	c.ok("", "key activate example.com mail --force --reason tested")
	c.fails("", "key retire example.com mail", exitFailed, "last active key")
	c.fails("", "key remove example.com mail", exitFailed)
	c.ok("", "key new example.com --algorithm ed25519")
	c.ok("", "key activate example.com 2026a --force --reason tested")
	c.ok("", "key retire example.com mail --dry-run")
	if out := c.ok("", "key show example.com mail"); !strings.Contains(out, "active") {
		t.Errorf("a dry run changed the key:\n%s", out)
	}
	for _, test := range []struct {
		line  string
		state keystore.State
	}{
		{"key retire example.com mail", keystore.Retired},
		{"key activate example.com 2026b --force --reason tested", keystore.Active},
		{"key revoke example.com mail --force --reason tested", keystore.Revoked},
		{"key remove example.com 2026b", keystore.Removed},
	} {
		if test.state == keystore.Active {
			c.ok("", "key new example.com --algorithm ed25519 --selector 2026b")
		}
		var row keyRow
		if err := json.Unmarshal([]byte(c.ok("", test.line+" --dry-run --json")), &row); err != nil || row.State != test.state {
			t.Errorf("%s --dry-run --json: %v, %+v", test.line, err, row)
		}
	}
	c.ok("", "key remove example.com 2026b")
	c.ok("", "key retire example.com mail")
	c.fails("", "key remove example.com mail", exitFailed, "2026-11-29")
	c.now = c.now.Add(keystore.Grace)
	c.ok("", "key remove example.com mail")
	if out := c.ok("", "key list example.com"); !strings.Contains(out, "removed") {
		t.Errorf("the removed key left no trace:\n%s", out)
	}
	if out := c.ok("", "dns show example.com"); strings.Contains(out, "mail._domainkey") {
		t.Errorf("the removed key's record is still shown:\n%s", out)
	}
	c.fails("", "key export example.com mail", exitFailed, "gone")
	c.fails("", "key new example.com --selector mail", exitFailed, "used before")
	for i := range 3 {
		if out := c.ok("", "key new example.com --algorithm ed25519"); !strings.Contains(out, []string{"2026c", "2026d", "2026e"}[i]) {
			t.Errorf("the next key is not the next letter:\n%s", out)
		}
	}
}

func TestKeysComeAndGoAsFiles(t *testing.T) {
	c := newCLI(t)
	rsa := "../../testdata/keys/rsa-2048.pem"
	c.ok("", "key import example.com mail "+rsa)
	private := c.ok("", "key export example.com mail")
	if !strings.Contains(private, "BEGIN PRIVATE KEY") {
		t.Errorf("export printed\n%s", private)
	}
	public := c.ok("", "key export example.com mail --public")
	if !strings.Contains(public, "BEGIN PUBLIC KEY") || strings.Contains(public, "PRIVATE") {
		t.Errorf("export --public printed\n%s", public)
	}
	c.ok(private, "key import example.org mail -")
	if got := c.ok("", "key export example.org mail --public"); got != public {
		t.Error("the key is another after export and import")
	}
	c.fails(public, "key import example.com other -", exitFailed, "public")
	c.fails("nothing", "key import example.com other -", exitFailed, "PEM")
	c.fails("", "key import example.com other /does/not/exist", exitFailed, "/does/not/exist")
}

func TestRecordsInEveryForm(t *testing.T) {
	c := newCLI(t)
	c.ok("example.com\n\n# comment\nexample.org\n", "key new - --algorithm ed25519")
	for _, line := range []string{"dns show example.com example.org", "dns show example.com example.org --format line", "dns show example.com example.org --format strings", "dns show example.com example.org --format tsv", "dns show example.com example.org --json"} {
		out := c.ok("", line)
		if strings.Count(out, "v=DKIM1; k=ed25519; p=") < 2 || !strings.Contains(out, "2026a._domainkey.example.org") {
			t.Errorf("%s printed\n%s", line, out)
		}
	}
	if out := c.ok("", "dns show example.com 2026a --testing --strict-identity --service email --hash sha256 --note hello --format line"); !regexp.MustCompile(`h=sha256.*s=email.*t=y:s.*n=hello`).MatchString(out) {
		t.Errorf("the tags asked for are not there:\n%s", out)
	}
	c.fails("", "dns show example.com --service web", exitMisuse, "web")
	c.fails("", "dns show example.com --hash sha1", exitMisuse, "sha1")
	c.fails("", "dns show example.com --format xml", exitMisuse, "xml", "zone")
	c.fails("", "dns show example.com --granularity x", exitMisuse, "RFC 6376")
	c.fails("", "dns show example.com 2027a", exitFailed, "has no key 2027a")
	c.fails("", "dns show example.net", exitFailed, "not found")
	// One bad domain does not hide the others.
	r := c.run("", "dns show example.net example.com example.org")
	if r.code != exitFailed || strings.Count(r.stdout, "v=DKIM1") != 2 || !strings.Contains(r.stderr, "example.net") {
		t.Errorf("exit status %d\n%s%s", r.code, r.stdout, r.stderr)
	}
}

func TestCheckFindsEverythingAtOnce(t *testing.T) {
	c := newCLI(t)
	for _, domain := range []string{"a.example", "b.example", "c.example", "d.example"} {
		c.ok("", "key import "+domain+" s ../../testdata/keys/rsa-2048.pem")
		c.ok("", "key activate "+domain+" s --force --reason tested")
	}
	if out := c.ok("", "check"); !strings.HasPrefix(out, "ok: ") {
		t.Errorf("check printed\n%s", out)
	}
	if err := os.Chmod(filepath.Join(c.store, "a.example", "s.pem"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(c.store, "b.example", "s.pem")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(c.store, "c.example", "domain.toml"), []byte("keys = 3\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	// Type errors do not hide the others, and one problem is told once.
	config := writeFile(t, "waxseal.toml", "[log]\nlevel = 3\n[outcome]\nno_key = \"drop\"\n[listen.y]\naddress = \"unix:/tmp/s\"\nowner = \"nobody-here\"\ngroup = \"nobody-there\"\n")
	r := c.plain("", "check", "--keystore", c.store, "--config", config)
	for _, want := range []string{config + ":2: log.level", config + ":4: outcome.no_key", config + ":5: listen.y: owner", config + ":5: listen.y: group"} {
		if strings.Count(r.stdout, want) != 1 {
			t.Errorf("check does not say %q once:\n%s", want, r.stdout)
		}
	}
	config = writeFile(t, "waxseal.toml", "[origin]\nnetworks = [\"127.0.0.1/8\"]\n[signing]\nexpiry = \"3d\"\n[listen.x]\naddress = \"inet:0.0.0.0:1\"\n")
	r = c.plain("", "check", "--keystore", c.store, "--config", config)
	if r.code != exitFailed {
		t.Errorf("exit status %d", r.code)
	}
	for _, want := range []string{
		config + ":2: origin.networks", "127.0.0.0/8",
		config + ":4: signing.expiry", "remedy: use 6d or more",
		config + ":6: listen.x.address", "allow_remote",
		filepath.Join(c.store, "a.example", "s.pem"), "chmod 600",
		filepath.Join(c.store, "b.example", "s.pem"), "missing",
		filepath.Join(c.store, "c.example", "domain.toml") + ":1",
	} {
		if !strings.Contains(r.stdout, want) {
			t.Errorf("check does not say %q:\n%s", want, r.stdout)
		}
	}
	if strings.Contains(r.stdout, "d.example") {
		t.Errorf("the healthy domain is named:\n%s", r.stdout)
	}
	// And the healthy one still signs.
	c.ok(strings.Replace(testMail, "example.com", "d.example", 1), "sign")
}

func TestARowThatCannotBeReadIsToldAndKept(t *testing.T) {
	c := newCLI(t)
	c.ok("", "key import example.com s ../../testdata/keys/rsa-2048.pem")
	c.ok("", "key activate example.com s --force --reason tested")
	c.ok("", "key new example.com --algorithm ed25519 --selector bad")
	path := filepath.Join(c.store, "example.com", "domain.toml")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	broken := strings.Replace(string(text), `state = "pending"`, `state = "pendng"`, 1)
	if err := os.WriteFile(path, []byte(broken), 0o644); err != nil {
		t.Fatal(err)
	}
	place := path + ":" + strconv.Itoa(1+strings.Count(broken[:strings.Index(broken, "pendng")], "\n"))

	c.fails("", "check", exitFailed, place, `"pending"`)
	if r := c.run("", "check"); strings.Contains(r.stdout, "no active key") {
		t.Errorf("check doubts what it cannot know:\n%s", r.stdout)
	}
	c.fails("", "key list", exitFailed, "example.com  s ", place)
	c.fails("", "key show example.com bad", exitFailed, place)
	c.ok("", "key show example.com s")
	c.fails("", "dns show example.com", exitFailed, "s._domainkey.example.com", place)
	c.fails("", "key new example.com", exitFailed, place)
	c.fails("", "key new example.com --dry-run", exitFailed, place)
	c.fails("", "key retire example.com s --force --reason x", exitFailed, place)
	c.fails("", "rotate example.com --dry-run", exitFailed, place)
	if after, _ := os.ReadFile(path); string(after) != broken {
		t.Errorf("the file was changed:\n%s", after)
	}
	c.ok(testMail, "sign")
}

func TestCheckDoubtsRowsThatCannotSign(t *testing.T) {
	c := newCLI(t)
	c.ok("", "key import example.com s ../../testdata/keys/rsa-2048.pem")
	c.ok("", "key activate example.com s --force --reason tested")
	c.ok("", "key new example.com --selector later")
	for row, want := range map[string]string{
		`domain = "example.com"
selectors = ["s", "later"]`: "",
		`domain = "example.com"
selectors = ["later"]`: "row.r.selectors: example.com has no active key later",
		`address = "ann@example.com"
selectors = ["bulk", "later"]`: "row.r.selectors: example.com has no active key bulk or later",
		`domain = "example.com"
subdomains = true
selectors = ["bulk"]`: "row.r.selectors: example.com has no active key bulk",
		`domain = "*"
sign_as = "example.net"`: "row.r.sign_as: the keystore has no domain example.net",
		`domain = "example.net"`:      "row.r.domain: the keystore has no domain example.net",
		`address = "ann@example.net"`: "row.r.address: the keystore has no domain example.net",
		`domain = "example.net"
enabled = false`: "",
		`domain = "*"
selectors = ["bulk"]`: "",
		`login = "ann"
selectors = ["bulk"]`: "",
	} {
		config := writeFile(t, "waxseal.toml", "[row.r]\n"+row+"\n")
		r := c.plain("", "check", "--keystore", c.store, "--config", config)
		var doubts []string
		for line := range strings.Lines(r.stdout) {
			if _, doubt, ok := strings.Cut(line, "warning: "); ok && !strings.Contains(line, "DMARC") {
				doubts = append(doubts, doubt)
			}
		}
		got := strings.Join(doubts, "")
		if r.code != exitDone || (got == "") != (want == "") || !strings.Contains(got, want) || len(doubts) > 1 {
			t.Errorf("%s\nexit status %d, want a warning of %q\n%s", row, r.code, want, r.stdout)
		}
	}
}

func TestMisuseIsToldFromFailure(t *testing.T) {
	c := newCLI(t)
	for _, line := range []string{"nonsense", "key", "key new", "key show example.com", "sign now", "serve --nonsense", "verify --keys"} {
		want := exitMisuse
		if line == "key" {
			want = exitDone // it shows its help
		}
		if r := c.plain("", strings.Fields(line)...); r.code != want {
			t.Errorf("%s: exit status %d, want %d\n%s", line, r.code, want, r.stderr)
		}
	}
	if out := c.ok("", "--version"); !strings.HasPrefix(out, "waxseal ") {
		t.Errorf("version is %q", out)
	}
	for _, shell := range []string{"bash", "zsh", "fish"} {
		if out := c.ok("", "completion "+shell); !strings.Contains(out, "waxseal") {
			t.Errorf("no completion for %s", shell)
		}
	}
}

func TestHelpHasExamples(t *testing.T) {
	var walk func(path []string)
	walk = func(path []string) {
		a := &app{stdin: strings.NewReader(""), stdout: &bytes.Buffer{}, stderr: &bytes.Buffer{}, now: time.Now}
		command, _, err := a.rootCommand().Find(path)
		if err != nil {
			t.Fatal(err)
		}
		if !command.HasSubCommands() {
			if command.Example == "" {
				t.Errorf("%s has no example", command.CommandPath())
			}
			for line := range strings.Lines(command.Example) {
				if !strings.Contains(line, command.CommandPath()) && !strings.Contains(line, "waxseal dns show") && !strings.Contains(line, "waxseal verify") {
					t.Errorf("%s: an example of another command: %s", command.CommandPath(), line)
				}
			}
		}
		for _, sub := range command.Commands() {
			if sub.Name() != "completion" && sub.Name() != "help" {
				walk(append(append([]string(nil), path...), sub.Name()))
			}
		}
	}
	walk(nil)
}

func TestServeRunsAndStops(t *testing.T) {
	c := newCLI(t)
	c.ok("", "key import example.com s ../../testdata/keys/rsa-2048.pem")
	c.ok("", "key activate example.com s --force --reason tested")
	socket := filepath.Join(t.TempDir(), "s")
	var stderr bytes.Buffer
	a := &app{stdin: strings.NewReader(""), stdout: &bytes.Buffer{}, stderr: &stderr, now: time.Now, keystore: c.store, configFile: writeFile(t, "empty.toml", "")}
	ctx, cancel := context.WithCancel(context.Background())
	stop, reload := make(chan os.Signal, 1), make(chan os.Signal, 1)
	ended := make(chan error, 1)
	go func() { ended <- a.serve(ctx, []string{"unix:" + socket}, "", stop, reload) }()
	for {
		if info, err := os.Lstat(socket); err == nil {
			if mode := info.Mode().Perm(); mode != 0o660 {
				t.Errorf("the socket has mode %o", mode)
			}
			break
		}
		select {
		case err := <-ended:
			t.Fatalf("serve ended: %v\n%s", err, stderr.String())
		case <-time.After(5 * time.Millisecond):
		}
	}
	reload <- os.Interrupt
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("serve: %v", err)
	}
	if _, err := os.Lstat(socket); err == nil {
		t.Error("the socket is still there")
	}
	if !strings.Contains(stderr.String(), "msg=stopped") {
		t.Errorf("the log does not end well:\n%s", stderr.String())
	}
}
