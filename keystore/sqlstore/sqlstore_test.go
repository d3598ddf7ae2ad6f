package sqlstore_test

import (
	"database/sql"
	"encoding/base64"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	_ "github.com/go-sql-driver/mysql"
	_ "github.com/jackc/pgx/v5/stdlib"

	"waxseal/keystore"
	"waxseal/keystore/sqlstore"
	"waxseal/keystore/sqlstore/sqltest"
	"waxseal/keystore/storetest"
)

var (
	postgres = sqltest.Shared{Start: sqltest.PostgreSQL}
	mariadb  = sqltest.Shared{Start: sqltest.MariaDB}
)

func TestMain(m *testing.M) {
	code := m.Run()
	postgres.Stop()
	mariadb.Stop()
	os.Exit(code)
}

var now = time.Date(2026, 11, 22, 10, 20, 30, 0, time.UTC)

// place is a database to test with: an empty one for each call of url.
type place struct {
	name string
	// url makes a database and returns its URL, and the address of its server;
	// via, unless it is empty, is the address to name instead.
	url func(t testing.TB, via string) (url, addr string)
	// direct opens the database without a Store.
	direct func(t testing.TB, url string) *sql.DB
	server *sqltest.Shared // nil for none
}

var databases atomic.Int64

func newName() string { return fmt.Sprintf("t%d", databases.Add(1)) }

var places = []place{
	{
		name: "SQLite",
		url: func(t testing.TB, _ string) (string, string) {
			u := "sqlite:" + filepath.Join(t.TempDir(), "keys.db")
			if created, err := sqlstore.CreateFile(u); err != nil || !created {
				t.Fatal(created, err)
			}
			return u, ""
		},
		direct: func(t testing.TB, u string) *sql.DB { return openDirect(t, "sqlite", strings.TrimPrefix(u, "sqlite:")) },
	},
	{
		name:   "PostgreSQL",
		server: &postgres,
		url: func(t testing.TB, via string) (string, string) {
			s := postgres.Get(t)
			name := newName()
			admin := openDirect(t, "pgx", directPostgres(t, s, "postgres"))
			defer admin.Close()
			execute(t, admin, "CREATE DATABASE "+name)
			if via == "" {
				via = s.Addr
			}
			return fmt.Sprintf("postgres://%s@%s/%s?password_file=%s", s.User, via, name, s.PasswordFile), s.Addr
		},
		direct: func(t testing.TB, u string) *sql.DB {
			return openDirect(t, "pgx", directPostgres(t, postgres.Get(t), databaseOf(u)))
		},
	},
	{
		name:   "MariaDB",
		server: &mariadb,
		url: func(t testing.TB, via string) (string, string) {
			s := mariadb.Get(t)
			name := newName()
			admin := openDirect(t, "mysql", directMariaDB(t, s, ""))
			defer admin.Close()
			execute(t, admin, "CREATE DATABASE "+name)
			if via == "" {
				via = s.Addr
			}
			return fmt.Sprintf("mysql://%s@%s/%s?password_file=%s", s.User, via, name, s.PasswordFile), s.Addr
		},
		direct: func(t testing.TB, u string) *sql.DB {
			return openDirect(t, "mysql", directMariaDB(t, mariadb.Get(t), databaseOf(u)))
		},
	},
}

// everywhere runs a test with each kind of database.
func everywhere(t *testing.T, test func(t *testing.T, p place)) {
	for _, p := range places {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			test(t, p)
		})
	}
}

// servers runs a test with each database that has a server.
func servers(t *testing.T, test func(t *testing.T, p place)) {
	for _, p := range places {
		if p.server != nil {
			t.Run(p.name, func(t *testing.T) {
				t.Parallel()
				test(t, p)
			})
		}
	}
}

func openDirect(t testing.TB, driver, dsn string) *sql.DB {
	t.Helper()
	db, err := sql.Open(driver, dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

func secret(t testing.TB, s *sqltest.Server) string {
	t.Helper()
	data, err := os.ReadFile(s.PasswordFile)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(data))
}

func directPostgres(t testing.TB, s *sqltest.Server, database string) string {
	u := url.URL{Scheme: "postgres", User: url.UserPassword(s.User, secret(t, s)), Host: s.Addr, Path: database, RawQuery: "sslmode=disable"}
	return u.String()
}

func directMariaDB(t testing.TB, s *sqltest.Server, database string) string {
	return fmt.Sprintf("%s:%s@tcp(%s)/%s?multiStatements=true", s.User, secret(t, s), s.Addr, database)
}

func databaseOf(u string) string {
	u, _, _ = strings.Cut(u, "?")
	return u[strings.LastIndexByte(u, '/')+1:]
}

func execute(t testing.TB, db *sql.DB, statements ...string) {
	t.Helper()
	for _, s := range statements {
		if _, err := db.Exec(s); err != nil {
			t.Fatalf("%s: %v", s, err)
		}
	}
}

// openAt opens a store, without tables.
func openAt(t testing.TB, u string, o sqlstore.Options) *sqlstore.Store {
	t.Helper()
	s, err := sqlstore.Open(u, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// open makes an empty store.
func (p place) open(t testing.TB, o sqlstore.Options) *sqlstore.Store {
	t.Helper()
	u, _ := p.url(t, "")
	s := openAt(t, u, o)
	if _, _, err := s.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s
}

func TestConforms(t *testing.T) {
	everywhere(t, func(t *testing.T, p place) {
		storetest.Run(t, func(t *testing.T) keystore.Store { return p.open(t, sqlstore.Options{}) })
	})
}

func TestMigrationByManyAtOnceAndTwice(t *testing.T) {
	everywhere(t, func(t *testing.T, p place) {
		u, _ := p.url(t, "")
		errs := make(chan error)
		const clients = 4
		for range clients {
			s := openAt(t, u, sqlstore.Options{})
			go func() {
				_, to, err := s.Migrate(t.Context())
				if err == nil && to != sqlstore.SchemaVersion() {
					err = fmt.Errorf("migrated to %d", to)
				}
				errs <- err
			}()
		}
		for range clients {
			if err := <-errs; err != nil {
				t.Error(err)
			}
		}
		s := openAt(t, u, sqlstore.Options{})
		storetest.Create(t, s, "example.com", "a")
		for range 2 {
			if from, to, err := s.Migrate(t.Context()); err != nil || from != to {
				t.Errorf("again: from %d to %d, %v", from, to, err)
			}
		}
		db := p.direct(t, u)
		execute(t, db, "UPDATE waxseal_meta SET value = 99 WHERE name = 'schema'")
		if _, _, err := s.Migrate(t.Context()); err == nil || !strings.Contains(err.Error(), "newer") {
			t.Errorf("tables of a newer program: %v", err)
		}
		if err := s.Update(t.Context(), &keystore.Domain{Name: "example.net"}); err == nil || !strings.Contains(err.Error(), "99") {
			t.Errorf("a change of tables of a newer program: %v", err)
		}
		if _, err := s.Domain(t.Context(), "example.com"); err != nil {
			t.Errorf("and it signs no more: %v", err)
		}
	})
}

// A migration that is cut short, after any of its steps, is done by the next one.
// One that has to wait for a newer program's leaves that one's version.
func TestMigrationCutShort(t *testing.T) {
	servers(t, func(t *testing.T, p place) {
		direct, addr := p.url(t, "")
		proxy := storetest.NewProxy(t, "tcp", addr)
		db := p.direct(t, direct)
		cut := 0
		for n := 1; ; n += 5 {
			s := openAt(t, strings.Replace(direct, addr, proxy.Address, 1)+"&connections=1", sqlstore.Options{})
			proxy.CutAt(n)
			_, _, err := s.Migrate(t.Context())
			if !proxy.WasCut() {
				break
			}
			cut++
			if _, to, again := s.Migrate(t.Context()); again != nil || to != sqlstore.SchemaVersion() {
				t.Errorf("cut at piece %d (%v), then to %d, %v", n, err, to, again)
			}
			storetest.Create(t, s, "example.com", "a")
			execute(t, db, "DROP TABLE waxseal_key, waxseal_slot, waxseal_history, waxseal_node, waxseal_domain, waxseal_meta")
		}
		if cut < 5 {
			t.Errorf("cut only %d times", cut)
		}
	})
}

func TestMigrationBesideANewerProgram(t *testing.T) {
	servers(t, func(t *testing.T, p place) {
		u, _ := p.url(t, "")
		db := p.direct(t, u)
		newer, err := db.Conn(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		run := func(statements ...string) {
			t.Helper()
			for _, s := range statements {
				if _, err := newer.ExecContext(t.Context(), s); err != nil {
					t.Fatal(err)
				}
			}
		}
		begin, end := []string{"BEGIN", "SELECT pg_advisory_xact_lock(20264871)"}, []string{"COMMIT"}
		waiting := "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'advisory' AND datname = current_database()"
		if p.name == "MariaDB" {
			begin, end = []string{"SELECT GET_LOCK('waxseal', 60)"}, []string{"SELECT RELEASE_LOCK('waxseal')"}
			waiting = "SELECT count(*) FROM information_schema.processlist WHERE state = 'User lock' AND db = DATABASE()"
		}
		run(begin...)
		s := openAt(t, u, sqlstore.Options{})
		done := make(chan error)
		go func() {
			_, _, err := s.Migrate(t.Context())
			done <- err
		}()
		for n := 0; n == 0; {
			if err := db.QueryRow(waiting).Scan(&n); err != nil {
				t.Fatal(err)
			}
		}
		run("CREATE TABLE waxseal_meta (name varchar(253) PRIMARY KEY, value bigint)", "INSERT INTO waxseal_meta VALUES ('schema', 99)")
		run(end...)
		if err := <-done; err == nil || !strings.Contains(err.Error(), "newer") {
			t.Errorf("the older program: %v", err)
		}
		if v, err := s.Schema(t.Context()); v != 99 {
			t.Errorf("the tables are of version %d, %v", v, err)
		}
	})
}

func TestWithoutTables(t *testing.T) {
	everywhere(t, func(t *testing.T, p place) {
		u, _ := p.url(t, "")
		s := openAt(t, u, sqlstore.Options{})
		_, err := s.Domain(t.Context(), "example.com")
		if err == nil || errors.Is(err, keystore.ErrNotFound) || !strings.Contains(err.Error(), "waxseal store migrate") {
			t.Errorf("Domain: %v", err)
		}
		if err := s.Update(t.Context(), &keystore.Domain{Name: "example.com"}); err == nil || !strings.Contains(err.Error(), "waxseal store migrate") {
			t.Errorf("Update: %v", err)
		}
		if st, err := s.Status(t.Context()); err != nil || st.Schema != 0 {
			t.Errorf("Status: %+v, %v", st, err)
		}
	})
}

func TestSigningBringsTheKeysAlong(t *testing.T) {
	everywhere(t, func(t *testing.T, p place) {
		u, _ := p.url(t, "")
		s := openAt(t, u, sqlstore.Options{})
		if _, _, err := s.Migrate(t.Context()); err != nil {
			t.Fatal(err)
		}
		given := storetest.Create(t, s, "example.com", "a", "b")
		given.Keys[1].State, given.Keys[1].Retired = keystore.Retired, now
		if err := s.Update(t.Context(), given); err != nil {
			t.Fatal(err)
		}
		d, err := s.Signing(t.Context(), "example.com")
		if err != nil || len(d.Keys) != 2 || d.Version != 2 {
			t.Fatalf("%+v, %v", d, err)
		}
		execute(t, p.direct(t, u), "UPDATE waxseal_key SET private = ''")
		key, err := d.Keys[0].Load(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := keystore.SelfTest(key, d.Keys[0].Public); err != nil {
			t.Error(err)
		}
		if _, err := d.Keys[1].Load(t.Context()); err == nil {
			t.Error("the private half of a retired key came along")
		}
		if found := keystore.CheckKeys(t.Context(), s, "example.com"); len(found) != 2 {
			t.Errorf("CheckKeys without private halves: %v", found)
		}
	})
}

func TestPrivateHalvesAreWrapped(t *testing.T) {
	everywhere(t, func(t *testing.T, p place) {
		u, _ := p.url(t, "")
		s := openAt(t, u, sqlstore.Options{
			Wrap: func(domain, selector string, pem []byte) ([]byte, error) {
				return []byte(domain + " " + selector + " " + base64.StdEncoding.EncodeToString(pem)), nil
			},
			Unwrap: func(domain, selector string, stored []byte) ([]byte, error) {
				text, ok := strings.CutPrefix(string(stored), domain+" "+selector+" ")
				if !ok {
					return nil, errors.New("not wrapped for it")
				}
				return base64.StdEncoding.DecodeString(text)
			},
		})
		if _, _, err := s.Migrate(t.Context()); err != nil {
			t.Fatal(err)
		}
		storetest.Create(t, s, "example.com", "a")
		var stored string
		if err := p.direct(t, u).QueryRow("SELECT private FROM waxseal_key").Scan(&stored); err != nil || !strings.HasPrefix(stored, "example.com a LS0t") {
			t.Errorf("stored is %.60q, %v", stored, err)
		}
		if found := keystore.CheckKeys(t.Context(), s, "example.com"); len(found) > 0 {
			t.Error(found)
		}
		if found := keystore.CheckKeys(t.Context(), openAt(t, u, sqlstore.Options{}), "example.com"); len(found) != 1 {
			t.Errorf("without Unwrap: %v", found)
		}
	})
}

// A row that cannot be read stops no other, and nothing overwrites it.
func TestCorruptRows(t *testing.T) {
	everywhere(t, func(t *testing.T, p place) {
		u, _ := p.url(t, "")
		s := openAt(t, u, sqlstore.Options{})
		if _, _, err := s.Migrate(t.Context()); err != nil {
			t.Fatal(err)
		}
		db := p.direct(t, u)
		event := keystore.Event{Time: now, Selector: "a", What: keystore.WasCreated, By: "ann@mx1"}
		for i, test := range []struct {
			statement string
			active    bool // the row is one of a key that might sign
			selector  string
		}{
			{"UPDATE waxseal_key SET public = 'x!' WHERE selector = 'bad' AND domain = ", true, "bad"},
			{"UPDATE waxseal_key SET public = 'AAAA' WHERE selector = 'bad' AND domain = ", true, "bad"},
			{"UPDATE waxseal_key SET algorithm = 'dsa' WHERE selector = 'bad' AND domain = ", true, "bad"},
			{"UPDATE waxseal_key SET state = 'sleeping' WHERE selector = 'bad' AND domain = ", true, "bad"},
			{"UPDATE waxseal_key SET state = 'retired', created = 'yesterday' WHERE selector = 'bad' AND domain = ", false, "bad"},
			{"UPDATE waxseal_key SET selector = 'B D' WHERE selector = 'bad' AND domain = ", true, ""},
			{"UPDATE waxseal_slot SET target = 'x..y' WHERE domain = ", false, ""},
			{"UPDATE waxseal_history SET what = 'dreamt' WHERE domain = ", false, ""},
			{"UPDATE waxseal_history SET at = '2026' WHERE domain = ", false, ""},
		} {
			name := fmt.Sprintf("d%d.example", i)
			d := &keystore.Domain{Name: name, Keys: []keystore.Key{storetest.Active(t, "good"), storetest.Active(t, "bad")},
				Slots: []keystore.Slot{{Selector: "s1", Target: "x.example"}}, History: []keystore.Event{event}}
			if err := s.Update(t.Context(), d); err != nil {
				t.Fatal(err)
			}
			execute(t, db, test.statement+"'"+name+"'")
			got, err := s.Domain(t.Context(), name)
			if err != nil {
				t.Errorf("%s: %v", test.statement, err)
				continue
			}
			if len(got.Unreadable) != 1 || got.Unreadable[0].Active != test.active || got.Unreadable[0].Selector != test.selector {
				t.Errorf("%s: unreadable is %+v", test.statement, got.Unreadable)
			}
			if k := got.Key("good"); k == nil {
				t.Errorf("%s: the good key is gone", test.statement)
			} else if _, err := k.Load(t.Context()); err != nil {
				t.Error(err)
			}
			d.Keys[0].Note = "changed"
			if err := s.Update(t.Context(), d); err == nil || errors.Is(err, keystore.ErrConflict) {
				t.Errorf("%s: such a domain was changed: %v", test.statement, err)
			}
		}
		storetest.Create(t, s, "broken.example")
		execute(t, db, "UPDATE waxseal_domain SET version = 0 WHERE name = 'broken.example'")
		if _, err := s.Domain(t.Context(), "broken.example"); !errors.Is(err, keystore.ErrBroken) {
			t.Errorf("version 0: %v", err)
		}
		execute(t, db, "INSERT INTO waxseal_domain (name, version, changed, changed_at, changed_by) VALUES ('A B', 1, 0, '', '')")
		names, err := s.List(t.Context(), "", 1)
		if err != nil || !slices.Equal(names, []string{"broken.example"}) {
			t.Errorf("List passes no name by that is none: %q, %v", names, err)
		}
	})
}

// Who deletes old rows of the history by hand stops no later change.
func TestHistoryPrunedByHand(t *testing.T) {
	everywhere(t, func(t *testing.T, p place) {
		u, _ := p.url(t, "")
		s := openAt(t, u, sqlstore.Options{})
		if _, _, err := s.Migrate(t.Context()); err != nil {
			t.Fatal(err)
		}
		event := func(selector string) keystore.Event {
			return keystore.Event{Time: now, Selector: selector, What: keystore.WasCreated}
		}
		d := &keystore.Domain{Name: "example.com", Keys: []keystore.Key{storetest.Active(t, "a")}, History: []keystore.Event{event("a"), event("b"), event("c")}}
		if err := s.Update(t.Context(), d); err != nil {
			t.Fatal(err)
		}
		execute(t, p.direct(t, u), "DELETE FROM waxseal_history WHERE selector IN ('a', 'b')")
		for _, selector := range []string{"d", "e"} {
			got, err := s.Domain(t.Context(), "example.com")
			if err != nil {
				t.Fatal(err)
			}
			got.History = append(got.History, event(selector))
			if err := s.Update(t.Context(), got); err != nil {
				t.Fatal(err)
			}
		}
		got, err := s.Domain(t.Context(), "example.com")
		if err != nil || !slices.Equal(got.History, []keystore.Event{event("c"), event("d"), event("e")}) {
			t.Errorf("%+v, %v", got.History, err)
		}
	})
}

// What a server does unless it is told otherwise is its administrator's choice,
// and changes nothing here.
func TestOddServerSettings(t *testing.T) {
	servers(t, func(t *testing.T, p place) {
		u, _ := p.url(t, "")
		db := p.direct(t, u)
		name := databaseOf(u)
		if p.name == "PostgreSQL" {
			execute(t, db, "ALTER DATABASE "+name+" SET default_transaction_isolation = 'serializable'",
				"ALTER DATABASE "+name+" SET DateStyle = 'German'", "ALTER DATABASE "+name+" SET standard_conforming_strings = off")
		} else {
			execute(t, db, "ALTER DATABASE "+name+" CHARACTER SET latin1 COLLATE latin1_swedish_ci", "SET GLOBAL sql_mode = ''",
				"SET GLOBAL autocommit = 0", "SET GLOBAL time_zone = '+05:00'")
			t.Cleanup(func() {
				execute(t, db, "SET GLOBAL sql_mode = DEFAULT", "SET GLOBAL autocommit = DEFAULT", "SET GLOBAL time_zone = DEFAULT")
			})
		}
		s := openAt(t, u, sqlstore.Options{})
		if _, _, err := s.Migrate(t.Context()); err != nil {
			t.Fatal(err)
		}
		storetest.Run(t, func(t *testing.T) keystore.Store {
			execute(t, db, "DELETE FROM waxseal_domain")
			if p.name == "MariaDB" {
				execute(t, db, "COMMIT")
			}
			return s
		})
	})
}

// The private half is in the database as long as the key has any use for it.
func TestRemovedKeyLeavesNoPrivateHalf(t *testing.T) {
	everywhere(t, func(t *testing.T, p place) {
		u, _ := p.url(t, "")
		s := openAt(t, u, sqlstore.Options{})
		if _, _, err := s.Migrate(t.Context()); err != nil {
			t.Fatal(err)
		}
		d := storetest.Create(t, s, "example.com", "a")
		d.Keys[0].State, d.Keys[0].Removed = keystore.Removed, now
		if err := s.Update(t.Context(), d); err != nil {
			t.Fatal(err)
		}
		var stored string
		if err := p.direct(t, u).QueryRow("SELECT private FROM waxseal_key").Scan(&stored); err != nil || stored != "" {
			t.Errorf("stored is %.60q, %v", stored, err)
		}
	})
}

func TestNodes(t *testing.T) {
	everywhere(t, func(t *testing.T, p place) {
		at := now
		s := p.open(t, sqlstore.Options{Now: func() time.Time { return at }})
		beat := func(name string) {
			t.Helper()
			if err := s.Beat(t.Context(), keystore.Node{Name: name, Program: "waxseal 1", Started: now.Add(-time.Hour), Refreshed: at.Add(-time.Second)}); err != nil {
				t.Fatal(err)
			}
		}
		beat("mx2")
		beat("mx1")
		beat("mx1")
		want := []keystore.Node{
			{Name: "mx1", Program: "waxseal 1", Started: now.Add(-time.Hour), Refreshed: now.Add(-time.Second), Seen: now},
			{Name: "mx2", Program: "waxseal 1", Started: now.Add(-time.Hour), Refreshed: now.Add(-time.Second), Seen: now},
		}
		storetest.Create(t, s, "example.com", "a")
		storetest.Create(t, s, "example.net", "a")
		st, err := s.Status(t.Context())
		if err != nil || !slices.Equal(st.Nodes, want) || st.Domains != 2 || st.LastChanged != "example.net" || !st.LastChange.Equal(now) || st.Schema != sqlstore.SchemaVersion() || st.Latency <= 0 {
			t.Errorf("%+v, %v", st, err)
		}
		at = at.AddDate(0, 0, 8)
		beat("mx2")
		if nodes, err := s.Nodes(t.Context()); err != nil || len(nodes) != 1 {
			t.Errorf("after 8 days: %+v, %v", nodes, err)
		}
	})
}
