// Package sql_test tests the statements for databases: that the tables are those
// that the program makes, that databases take them as their comments say, and
// that the rights are enough and no more.
package sql_test

import (
	"context"
	"database/sql"
	"flag"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"
	_ "github.com/jackc/pgx/v5/stdlib"

	"waxseal/keystore"
	"waxseal/keystore/sqlstore"
	"waxseal/keystore/sqlstore/sqltest"
	"waxseal/keystore/storetest"
)

var update = flag.Bool("update", false, "write the tables as the program makes them")

var (
	postgres = sqltest.Shared{Start: sqltest.PostgreSQL}
	mariadb  = sqltest.Shared{Start: sqltest.MariaDB}
)

func TestMain(m *testing.M) {
	flag.Parse()
	code := m.Run()
	postgres.Stop()
	mariadb.Stop()
	os.Exit(code)
}

func read(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func open(t *testing.T, u string) *sqlstore.Store {
	t.Helper()
	s, err := sqlstore.Open(u, sqlstore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// comment is what a file begins with.
func comment(text string) string {
	end := 0
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(line, "--") {
			break
		}
		end += len(line)
	}
	return text[:end]
}

func TestTablesAreThoseOfTheProgram(t *testing.T) {
	file := filepath.Join(t.TempDir(), "keys.db")
	if _, err := sqlstore.CreateFile("sqlite:" + file); err != nil {
		t.Fatal(err)
	}
	for name, u := range map[string]string{
		"postgresql.sql": "postgres://ann@localhost/mail", "mariadb.sql": "mysql://ann@localhost/mail", "sqlite.sql": "sqlite:" + file,
	} {
		text := read(t, name)
		want := comment(text)
		for _, statement := range open(t, u).Migration(0) {
			want += statement + ";\n" // as "store migrate --dry-run" prints them
		}
		if *update {
			if err := os.WriteFile(name, []byte(want), 0o644); err != nil {
				t.Fatal(err)
			}
		} else if text != want {
			t.Errorf("%s is not what the program makes; rewrite it with: go test ./contrib/sql -update", name)
		}
	}
}

// TestSQLiteTakesTheTables loads them as their comment says.
func TestSQLiteTakesTheTables(t *testing.T) {
	program(t, "sqlite3")
	file := filepath.Join(t.TempDir(), "keys.db")
	said := strings.TrimSpace(strings.Split(comment(read(t, "sqlite.sql")), "\n--\n--")[1])
	said, _, _ = strings.Cut(said, "\n")
	for range 2 {
		if out, err := exec.Command("sh", "-c", strings.Replace(said, "/var/lib/waxseal/keys.db", file, 1)).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", said, err, out)
		}
	}
	s := open(t, "sqlite:"+file) // which refuses a file that others can read
	if v, err := s.Schema(t.Context()); err != nil || v != sqlstore.SchemaVersion() {
		t.Fatalf("version %d, %v", v, err)
	}
	create(t, s, "example.com")
}

// program skips the test when a program is missing.
func program(t *testing.T, name string) {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil && os.Getenv("WAXSEAL_E2E") == "required" {
		t.Fatalf("%v, and WAXSEAL_E2E=required", err)
	} else if err != nil {
		t.Skip(err)
	}
}

func create(t *testing.T, s *sqlstore.Store, name string) *keystore.Domain {
	t.Helper()
	d := &keystore.Domain{Name: name, Keys: []keystore.Key{storetest.Active(t, "2026a")}}
	d.History = []keystore.Event{{Time: d.Keys[0].Created, Selector: "2026a", What: keystore.WasCreated, By: "tests"}}
	if err := s.Update(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	return d
}

// server is a database that has users.
type server struct {
	name, url string
	shared    *sqltest.Shared
	driver    string
	dsn       func(address, user, password, database string) string
	makeUser  string                                             // with the name and the password
	load      func(s *sqltest.Server, database string) *exec.Cmd // takes a file on standard input
}

var servers = []server{
	{
		"postgresql", "postgres", &postgres, "pgx",
		func(address, user, password, database string) string {
			u := url.URL{Scheme: "postgres", User: url.UserPassword(user, password), Host: address, Path: database, RawQuery: "sslmode=disable"}
			return u.String()
		},
		"CREATE ROLE %s LOGIN PASSWORD '%s'",
		func(s *sqltest.Server, database string) *exec.Cmd {
			host, port, _ := net.SplitHostPort(s.Addr)
			return exec.Command("psql", "-q", "-X", "-1", "-v", "ON_ERROR_STOP=1", "-h", host, "-p", port, "-U", s.User, "-d", database)
		},
	},
	{
		"mariadb", "mysql", &mariadb, "mysql",
		func(address, user, password, database string) string {
			c := mysql.NewConfig()
			c.Net, c.Addr, c.User, c.Passwd, c.DBName = "tcp", address, user, password, database
			return c.FormatDSN()
		},
		"CREATE USER %s@'%%' IDENTIFIED BY '%s'",
		func(s *sqltest.Server, database string) *exec.Cmd {
			host, port, _ := net.SplitHostPort(s.Addr)
			return exec.Command("mariadb", "--no-defaults", "-h", host, "-P", port, "-u", s.User, database)
		},
	},
}

const database, password = "mail", "loopback only"

// everywhere runs a test with each of the databases, which has the tables and the
// two users of the files.
func everywhere(t *testing.T, test func(t *testing.T, s server, on *sqltest.Server)) {
	for _, s := range servers {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			on := s.shared.Get(t)
			admin := s.connect(t, on, on.User, "")
			statements := []string{"CREATE DATABASE " + database}
			for _, user := range []string{"waxseal_sign", "waxseal_keep"} {
				statements = append(statements, fmt.Sprintf(s.makeUser, user, password))
			}
			for _, statement := range statements {
				if _, err := admin.Exec(statement); err != nil {
					t.Fatalf("%s: %v", statement, err)
				}
			}
			// Twice, as it should do no harm.
			for _, name := range []string{s.name + ".sql", s.name + ".sql", s.name + "-grants.sql", s.name + "-grants.sql"} {
				c := s.load(on, database)
				program(t, c.Args[0])
				c.Env = append(os.Environ(), "PGPASSWORD="+password, "MYSQL_PWD="+password, "PGOPTIONS=-c client_min_messages=warning")
				c.Stdin = strings.NewReader(read(t, name))
				if out, err := c.CombinedOutput(); err != nil || len(out) > 0 {
					t.Fatalf("%s: %v\n%s", name, err, out)
				}
			}
			test(t, s, on)
		})
	}
}

func (s *server) connect(t *testing.T, on *sqltest.Server, user, database string) *sql.DB {
	t.Helper()
	if database == "" && s.driver == "pgx" {
		database = "postgres"
	}
	db, err := sql.Open(s.driver, s.dsn(on.Addr, user, password, database))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

// store opens the keystore as a user.
func (s *server) store(t *testing.T, on *sqltest.Server, user string) *sqlstore.Store {
	t.Helper()
	return open(t, fmt.Sprintf("%s://%s@%s/%s?password_file=%s", s.url, user, on.Addr, database, on.PasswordFile))
}

// The keeper's user can do whatever waxseal does, and that of a daemon which only
// signs can sign, be told of changes, and say that it lives. Neither can do more.
func TestRightsAreEnoughAndNoMore(t *testing.T) {
	everywhere(t, func(t *testing.T, s server, on *sqltest.Server) {
		ctx := t.Context()
		keep, sign := s.store(t, on, "waxseal_keep"), s.store(t, on, "waxseal_sign")
		if v, err := sign.Schema(ctx); err != nil || v != sqlstore.SchemaVersion() {
			t.Fatalf("version %d, %v", v, err)
		}

		d := create(t, keep, "example.com")
		cache := keystore.NewCache(sign, keystore.CacheOptions{OnError: func(_ string, err error) { t.Error(err) }})
		defer cache.Close()
		signs := func() int {
			t.Helper()
			got, err := cache.Signing(ctx, "example.com")
			if err != nil || len(got.Broken) > 0 {
				t.Fatal(got, err)
			}
			return len(got.Keys)
		}
		if n := signs(); n != 1 {
			t.Fatalf("%d keys sign, want one", n)
		}
		heard := make(chan string, 100)
		watching, stop := context.WithCancel(ctx)
		defer stop()
		ended := make(chan error, 1)
		go func() { ended <- sign.Watch(watching, func(domain string) { heard <- domain }) }()
		hears := func(want string) {
			t.Helper()
			for patience := time.After(20 * time.Second); ; {
				select {
				case domain := <-heard:
					if domain == want {
						return
					}
				case err := <-ended:
					t.Fatalf("the watch ended: %v", err)
				case <-patience:
					t.Fatalf("no word of %q", want)
				}
			}
		}
		hears("")

		// A life of keys: a second one, slots, and the end of the first.
		d.Keys = append(d.Keys, storetest.Active(t, "2026b"))
		d.Slots = []keystore.Slot{{Selector: "s1", Target: "s1.example.net"}}
		change := func() {
			t.Helper()
			d.History = append(d.History, keystore.Event{Time: d.Keys[0].Created, Selector: "2026a", What: keystore.WasCreated, By: "tests"})
			if err := keep.Update(ctx, d); err != nil {
				t.Fatal(err)
			}
		}
		change()
		hears("example.com")
		for patience := time.Now().Add(20 * time.Second); signs() != 2; time.Sleep(10 * time.Millisecond) {
			if time.Now().After(patience) { // the cache is told by a connection of its own
				t.Fatalf("%d keys sign after a change, want two", signs())
			}
		}
		d.Slots[0].Target = "s2.example.net"
		first := &d.Keys[0]
		for _, next := range []struct {
			state keystore.State
			at    *time.Time
		}{{keystore.Retired, &first.Retired}, {keystore.Revoked, &first.Revoked}, {keystore.Removed, &first.Removed}} {
			first.State, *next.at = next.state, first.Created
			change()
		}

		// Both say that they live.
		for user, store := range map[string]*sqlstore.Store{"keep": keep, "sign": sign} {
			for range 2 {
				if err := store.Beat(ctx, keystore.Node{Name: user, Program: "test", Started: time.Now(), Refreshed: time.Now()}); err != nil {
					t.Error(err)
				}
			}
			if status, err := store.Status(ctx); err != nil || status.Domains != 1 || len(status.Nodes) == 0 {
				t.Errorf("%s: %+v, %v", user, status, err)
			}
			if names, err := store.List(ctx, "", 10); err != nil || len(names) != 1 {
				t.Errorf("%s: %v, %v", user, names, err)
			}
		}

		// The signing user changes nothing.
		before, err := sign.Domain(ctx, "example.com")
		if err != nil {
			t.Fatal(err)
		}
		forged := *before
		forged.Keys = append([]keystore.Key{storetest.Active(t, "forged")}, forged.Keys...)
		if err := sign.Update(ctx, &forged); err == nil {
			t.Error("the signing user has changed a domain")
		}
		if err := sign.Update(ctx, &keystore.Domain{Name: "example.net", Keys: []keystore.Key{storetest.Active(t, "forged")}}); err == nil {
			t.Error("the signing user has made a domain")
		}
		mayNot := map[string][]string{
			"waxseal_sign": {
				"UPDATE waxseal_key SET private = ''", "UPDATE waxseal_key SET state = 'active'", "DELETE FROM waxseal_key", "DELETE FROM waxseal_domain",
				"UPDATE waxseal_domain SET version = 1", "UPDATE waxseal_meta SET value = 0", "DELETE FROM waxseal_slot", "UPDATE waxseal_slot SET target = ''",
				"DELETE FROM waxseal_history", "UPDATE waxseal_node SET seen = ''", "INSERT INTO waxseal_meta (name, value) VALUES ('x', 1)",
			},
			"waxseal_keep": {
				"DELETE FROM waxseal_key", "DELETE FROM waxseal_domain", "DELETE FROM waxseal_history", "UPDATE waxseal_history SET done_by = ''",
				"DELETE FROM waxseal_meta", "INSERT INTO waxseal_meta (name, value) VALUES ('x', 1)",
			},
		}
		for user, statements := range mayNot {
			db := s.connect(t, on, user, database)
			for _, statement := range append(statements, "DROP TABLE waxseal_key", "ALTER TABLE waxseal_key ADD x int", "CREATE TABLE waxseal_more (x int)") {
				if _, err := db.Exec(statement); err == nil {
					t.Errorf("%s may %s", user, statement)
				}
			}
		}
		after, err := keep.Domain(ctx, "example.com")
		if err != nil || after.Version != before.Version || len(after.Keys) != 2 || len(after.History) != 5 {
			t.Errorf("afterwards: %+v, %v", after, err)
		}
		if errs := keystore.CheckKeys(ctx, keep, "example.com"); len(errs) > 0 {
			t.Error(errs)
		}
	})
}
