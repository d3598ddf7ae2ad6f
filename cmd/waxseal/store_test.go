package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"waxseal/keystore"
)

func TestKeystoreInSQLite(t *testing.T) {
	c := newCLI(t)
	c.store = "sqlite:" + filepath.Join(t.TempDir(), "keys.db")
	c.fails("", "key list", exitFailed, "no such file", "waxseal store migrate")
	if out := c.ok("", "store migrate"); out != "made the tables of version 1\n" {
		t.Errorf("store migrate: %q", out)
	}
	if out := c.ok("", "store migrate"); !strings.Contains(out, "already") {
		t.Errorf("store migrate again: %q", out)
	}
	c.ok("", "key new example.com")
	c.ok("", "key activate example.com 2026a --force --reason tested")
	keys := writeFile(t, "keys.tsv", c.ok("", "dns show example.com --format tsv"))
	c.ok(c.ok(testMail, "sign"), "verify --keys "+keys)
	c.ok("", "check")
	var status storeReport
	if err := json.Unmarshal([]byte(c.ok("", "store status --json")), &status); err != nil {
		t.Fatal(err)
	}
	if !status.Reachable || status.Domains != 1 || status.Kind != "SQLite" || status.LastChanged != "example.com" || status.Schema != status.SchemaWanted {
		t.Errorf("status: %+v", status)
	}
	if out := c.ok("", "store status"); !strings.Contains(out, "SQLite, in ") || !strings.Contains(out, "domains      1\n") {
		t.Errorf("status:\n%s", out)
	}
}

// A file that is not there is made with its first key, like a directory.
func TestFirstKeyMakesTheSQLiteFile(t *testing.T) {
	c := newCLI(t)
	c.store = "sqlite:" + filepath.Join(t.TempDir(), "keys.db")
	c.ok("", "key new example.com")
	info, err := os.Stat(strings.TrimPrefix(c.store, "sqlite:"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	// The file is whole: nothing is left in a journal beside it.
	if beside, _ := filepath.Glob(strings.TrimPrefix(c.store, "sqlite:") + "-*"); len(beside) > 0 {
		t.Errorf("beside it there is %q", beside)
	}
}

func TestStoreMigrateDryRun(t *testing.T) {
	c := newCLI(t)
	file := filepath.Join(t.TempDir(), "keys.db")
	c.store = "sqlite:" + file
	c.fails("", "store migrate --dry-run", exitFailed, "no such file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if out := c.ok("", "store migrate --dry-run"); !strings.HasPrefix(out, "CREATE TABLE") || !strings.Contains(out, "waxseal_key") {
		t.Errorf("store migrate --dry-run:\n%s", out)
	}
	c.fails("", "store status", exitFailed, "version 0", "waxseal store migrate")
	c.fails("", "check", exitFailed, "no tables of waxseal")
	c.store = filepath.Join(t.TempDir())
	c.fails("", "store migrate", exitFailed, "a directory has no tables")
	c.store = "redis://127.0.0.1:1"
	c.fails("", "store migrate", exitFailed, "has no tables")
}

// Who mistypes the keystore's URL reads where it stands, what is wrong, and what to
// do, and nothing of what may be a password.
func TestStoreSaysWhatIsWrongWithItsURL(t *testing.T) {
	dir := t.TempDir()
	c := newCLI(t)
	for _, mistake := range []struct {
		url string
		say []string
	}{
		{"postgres://ws@127.0.0.1:1/mail", []string{"PostgreSQL: user ws, database mail: ", "connection refused", "hint: start the server, or correct host and port"}},
		{"mysql://ws@127.0.0.1:1/mail", []string{"connection refused", "hint: start the server, or correct host and port"}},
		{"mysql://ws@localhost/mail?socket=" + dir + "/sock", []string{"hint: start the server, or correct the path of its socket"}},
		{"postgres://ws@127.0.0.1:1/mail?password_file=" + dir + "/none", []string{"password_file: open " + dir + "/none", "hint: make " + dir + "/none, or correct its name"}},
		{"postgres://ws@db/mail?sslrootcert=" + dir + "/none", []string{"sslrootcert: open " + dir + "/none", "hint: make " + dir + "/none, or correct its name"}},
		{"redis://127.0.0.1:1", []string{"redis 127.0.0.1:1: ", "connection refused", "hint: start the server, or correct host and port"}},
		{"rediss://127.0.0.1:1?ca=" + dir + "/none", []string{"ca: open " + dir + "/none", "hint: make " + dir + "/none, or correct its name"}},
		{"vault+http://127.0.0.1:1/secret/waxseal?token_file=" + dir + "/none", []string{"hint: make " + dir + "/none, or correct its name"}},
		{"ldap://127.0.0.1:1/dc=example?layout=opendkim", []string{"connection refused", "hint: start the server, or correct host and port"}},
		{"pgsql://ws:hunter2@db/mail", []string{`"pgsql" is no kind of keystore`, "hint: write dir:PATH"}},
	} {
		file := writeFile(t, "waxseal.toml", "[keystore]\nurl = \""+mistake.url+"\"\n")
		for _, command := range []string{"store status", "check"} {
			r := c.plain("", append(strings.Fields(command), "--config", file)...)
			said := strings.ReplaceAll(r.stdout+r.stderr, "  remedy: ", "waxseal: hint: ")
			if r.code != exitFailed {
				t.Errorf("%s with %s: exit status %d, want %d", command, mistake.url, r.code, exitFailed)
			}
			for _, s := range append(mistake.say, file+":2: keystore.url: ") {
				if !strings.Contains(said, s) {
					t.Errorf("%s with %s: does not say %q:\n%s", command, mistake.url, s, said)
				}
			}
			if strings.Contains(said, "hunter2") || strings.Contains(said, "waxseal-probe") || strings.Count(r.stderr, "\n") > 3 {
				t.Errorf("%s with %s says too much:\n%s", command, mistake.url, said)
			}
		}
	}
}

// without runs a command without --keystore.
func (c *cli) without(config, line string, code int, say ...string) string {
	c.t.Helper()
	r := c.plain("", append(strings.Fields(line), "--config", writeFile(c.t, "waxseal.toml", config))...)
	for _, s := range say {
		if r.code != code || !strings.Contains(r.stdout+r.stderr, s) {
			c.t.Errorf("%s: exit status %d, want %d, and %q in\n%s%s", line, r.code, code, s, r.stdout, r.stderr)
		}
	}
	return r.stdout
}

func TestStoreCopy(t *testing.T) {
	c := newCLI(t)
	c.ok("", "key new example.com")
	c.ok("", "key activate example.com 2026a --force --reason tested")
	c.ok("", "key new example.com --algorithm ed25519")
	c.ok("", "key new example.net")
	from, to, back := c.store, "sqlite:"+filepath.Join(t.TempDir(), "keys.db"), filepath.Join(t.TempDir(), "back")
	c.without("", "store copy "+from+" "+from, exitMisuse, "the same keystore")
	c.without("", "store copy "+from+" "+to+" --dry-run", exitFailed, "TO: ")
	c.without("", "store copy "+from+" "+to, exitDone, "copied: 2, there already: 0, not copied: 0\n")
	c.without("", "store copy "+from+" "+to, exitDone, "copied: 0, there already: 2, not copied: 0\n")
	c.without("", "store copy "+to+" "+back, exitDone, "copied: 2, there already: 0, not copied: 0\n")
	c.without("", "store copy "+from+" "+back+" --dry-run", exitDone, "to copy: 0, there already: 2, not copied: 0\n")

	// What changed since is taken over; what changed there is not.
	c.ok("", "key retire example.com 2026a --force --reason tested")
	c.without("", "store copy "+from+" "+to, exitDone, "copied: 1, there already: 1, not copied: 0\n")
	c.store = to
	if out := c.ok("", "key list example.com"); !strings.Contains(out, "retired") {
		t.Errorf("the change was not copied:\n%s", out)
	}
	c.ok("", "key new example.com --selector there")
	c.without("", "store copy "+from+" "+to+" --dry-run", exitFailed, "example.com", "TO has it otherwise", "to copy: 0", "not copied: 1")
	c.without("", "store copy "+from+" "+to, exitFailed, "example.com", "TO has it otherwise", "not copied: 1")
	if out := c.ok("", "key list example.com"); !strings.Contains(out, "there") {
		t.Errorf("what changed there was lost:\n%s", out)
	}
}

// failingStore takes some changes, and then does not answer any more.
type failingStore struct {
	keystore.Store
	updates atomic.Int64 // that it still takes
}

var errDead = errors.New("connection refused")

func (s *failingStore) Update(ctx context.Context, d *keystore.Domain) error {
	if s.updates.Add(-1) < 0 {
		return errDead
	}
	return s.Store.Update(ctx, d)
}

func (s *failingStore) List(ctx context.Context, after string, limit int) ([]string, error) {
	if s.updates.Load() < 0 {
		return nil, errDead
	}
	return s.Store.List(ctx, after, limit)
}

// A keystore that does not answer any more is told once, not for each domain that
// is left. The next run goes on with what is missing.
func TestStoreCopyIsBrokenOff(t *testing.T) {
	c := newCLI(t)
	from := newDirWith(t, 50)
	to := &failingStore{Store: newDirWith(t, 0)}
	to.updates.Store(20)
	var stdout, stderr bytes.Buffer
	a := &app{stdout: &stdout, stderr: &stderr, now: func() time.Time { return c.now }}
	if err := a.copyStore(t.Context(), from, to, ""); !errors.Is(err, errDead) || !strings.Contains(err.Error(), "TO: ") {
		t.Errorf("broken off: %v", err)
	}
	if stderr.Len() > 0 || !strings.HasPrefix(stdout.String(), "copied: ") {
		t.Errorf("says\n%s%s", stdout.String(), stderr.String())
	}
	stdout.Reset()
	if err := a.copyStore(t.Context(), from, to.Store, ""); err != nil || !strings.HasSuffix(stdout.String(), "there already: 20, not copied: 0\n") {
		t.Errorf("again: %v, %s", err, stdout.String())
	}
}

// newDirWith makes a directory with so many domains.
func newDirWith(t *testing.T, domains int) *keystore.Dir {
	t.Helper()
	store, err := keystore.OpenDir(t.TempDir(), keystore.DirOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for i := range domains {
		if err := store.Update(t.Context(), &keystore.Domain{Name: fmt.Sprintf("d%d.example", i)}); err != nil {
			t.Fatal(err)
		}
	}
	return store
}

// shortPages leaves some names out of each page, as a database does that has
// rows which are no names.
type shortPages struct{ keystore.Store }

func (s shortPages) List(ctx context.Context, after string, limit int) ([]string, error) {
	n := 0
	if after != "" {
		fmt.Sscanf(after, "d%d.example", &n)
	}
	var names []string
	for n++; n <= 1500 && len(names) < 900; n++ {
		names = append(names, fmt.Sprintf("d%04d.example", n))
	}
	return names, nil
}

// agelessStore is another program's: its keys have no age and no history.
type agelessStore struct{ *keystore.Dir }

func (agelessStore) ReadOnly() bool { return true }

func (s agelessStore) Domain(ctx context.Context, name string) (*keystore.Domain, error) {
	d, err := s.Dir.Domain(ctx, name)
	if err != nil {
		return nil, err
	}
	d.History = nil
	for i := range d.Keys {
		d.Keys[i].Created, d.Keys[i].Activated = time.Time{}, time.Time{}
	}
	return d, nil
}

// The keys of another program are as old as their copy, so that the keeper does not
// rotate all of them at once; a second copy leaves them as they are.
func TestStoreCopyOfAnotherProgramsKeys(t *testing.T) {
	c := newCLI(t)
	c.ok("", "key new example.com --algorithm ed25519")
	c.ok("", "key activate example.com 2026a --force --reason test")
	open := func(path string) *keystore.Dir {
		d, err := keystore.OpenDir(path, keystore.DirOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	from, to := agelessStore{open(c.store)}, open(t.TempDir())
	for i, wrote := range []bool{true, false} {
		now := c.now.Add(time.Duration(i) * time.Hour)
		if got, err := copyDomain(t.Context(), from, to, "example.com", now, false); got != wrote || err != nil {
			t.Fatalf("copy %d: wrote %v, want %v: %v", i+1, got, wrote, err)
		}
	}
	d, err := to.Domain(t.Context(), "example.com")
	if err != nil {
		t.Fatal(err)
	}
	if k := d.Key("2026a"); !k.Created.Equal(c.now) || !k.Activated.Equal(c.now) {
		t.Errorf("made %v, active since %v, want %v", k.Created, k.Activated, c.now)
	}
}

func TestShortPagesEndNoList(t *testing.T) {
	a, count := &app{}, 0
	if failed, err := a.eachDomainOrAll(t.Context(), shortPages{}, nil, func(string) error { count++; return nil }); count != 1500 || failed != nil || err != nil {
		t.Errorf("%d domains, %v, %v", count, failed, err)
	}
}

func TestQueriesAreForDatabases(t *testing.T) {
	c := newCLI(t)
	c.without("[keystore]\nurl = \"dir:"+t.TempDir()+"\"\nkey_query = \"SELECT 1\"\n", "key list", exitFailed, "SQL", "key_query")
	c.without("[keystore]\nurl = \"dir:"+t.TempDir()+"\"\nsender_query = \"SELECT 1\"\n", "key list", exitFailed, "SQL", "sender_query")
	c.without("[keystore]\nurl = \"mysql://ann:hunter2@localhost/x\"\n", "key list", exitFailed, "password_file")
}

// However a password gets into a URL, no error tells it.
func TestNoErrorTellsAPassword(t *testing.T) {
	c := newCLI(t)
	for _, url := range []string{
		"mysql://ann:hunter2@localhost/x", "postgres://ann:hunter2/3@localhost", "postgres://ann:hunter2/3@localhost/x", "postgres://localhost/x?password=hunter2",
		"postgresq://ann:hunter2@localhost/x", "ann:hunter2@tcp(localhost)/x", "postgres:ann:hunter2@localhost/x",
	} {
		for _, line := range []string{"key list --keystore " + url, "store copy " + url + " " + t.TempDir(), "store copy " + t.TempDir() + " " + url} {
			r := c.plain("", append(strings.Fields(line), "--config", writeFile(t, "waxseal.toml", ""))...)
			if r.code != exitFailed || strings.Contains(r.stdout+r.stderr, "hunter2") {
				t.Errorf("%s: exit status %d\n%s%s", line, r.code, r.stdout, r.stderr)
			}
		}
	}
}

func TestKeystoresOfEveryKind(t *testing.T) {
	for _, test := range []struct{ url, want string }{
		{"redis://127.0.0.1:1", ""},
		{"rediss+cluster://127.0.0.1:1,127.0.0.2:1", ""},
		{"redis://127.0.0.1:1?layout=sendmail", "layout"},
		{"vault+http://127.0.0.1:1/secret/waxseal?token_file=/does/not/matter", ""},
		{"ldaps://127.0.0.1:1/dc=example?layout=zimbra", ""},
		{"ldaps://127.0.0.1:1/dc=example", "layout"},
		{"gopher://127.0.0.1", "no kind of keystore"},
	} {
		d, err := decodeConfig("waxseal.toml", "[keystore]\nurl = \""+test.url+"\"\n")
		if err != nil {
			t.Fatal(err)
		}
		store, err := openStore(d, func(what string, err error) { t.Errorf("%s: %v", what, err) })
		if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
			t.Errorf("%s: %v, want %q", test.url, err, test.want)
		}
		if c, ok := store.(interface{ Close() error }); ok && err == nil {
			c.Close()
		}
		rules := confineRules(d, "/usr/bin/waxseal")
		if server := serverKind(test.url) != ""; rules.AnyConnect != server {
			t.Errorf("%s: confined with free connections: %v, want %v", test.url, rules.AnyConnect, server)
		}
		if readsOnly := strings.HasPrefix(test.url, "ldap"); err == nil && readOnly(store) != readsOnly {
			t.Errorf("%s: read only: %v", test.url, readOnly(store))
		}
	}
}
