package e2e

import (
	"bytes"
	"database/sql"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib"

	"waxseal/keystore/sqlstore/sqltest"
)

// million is how many domains there are.
const million = 1_000_000

// millionStore is a database with a million domains, each with an active Ed25519
// key, and what it tells of what it is asked.
type millionStore struct {
	url string

	// asked counts the statements about domains and their keys, and the rows that
	// they returned; nil where the database does not count.
	asked func(t *testing.T) (statements, rows int)
}

// millionKey is the key of all these domains, as the columns public and private
// have it.
func millionKey(t *testing.T, dir string) (public, private string) {
	t.Helper()
	k := newKeystore(t, dir)
	selector := k.newKey(t, "d0000000.example", "ed25519")
	text, err := os.ReadFile(filepath.Join(k.dir, "d0000000.example", selector+".pem"))
	if err != nil {
		t.Fatal(err)
	}
	if block, _ := pem.Decode(text); block == nil {
		t.Fatalf("no PEM: %q", text)
	}
	records, err := k.lookup(selector + "._domainkey.d0000000.example")
	if err != nil || len(records) != 1 {
		t.Fatal(records, err)
	}
	_, public, _ = strings.Cut(records[0], "p=")
	if raw, err := base64.StdEncoding.DecodeString(public); err != nil || len(raw) != 32 {
		t.Fatalf("record %q: %v", records[0], err)
	}
	return public, string(text)
}

// fillMillion returns the statements that fill the tables: rows is a table r of
// numbers i, and name the name of domain i.
func fillMillion(rows, name, public, private string) string {
	const made = "'2026-11-22T10:20:30Z'"
	return fmt.Sprintf(`INSERT INTO waxseal_domain (name, version, changed, changed_at, changed_by) %[1]s SELECT %[2]s, 1, i, %[5]s, '' FROM r;
INSERT INTO waxseal_key (domain, selector, number, algorithm, state, public, private, created, activated, retired, revoked, removed, published, seen, ready, withdrawn, urgent, note, reason)
%[1]s SELECT %[2]s, '2026a', 0, 'ed25519', 'active', '%[3]s', '%[4]s', %[5]s, %[5]s, '', '', '', '', '', '', '', 0, '', '' FROM r;
UPDATE waxseal_meta SET value = %[6]d WHERE name = 'change';
`, rows, name, public, private, made, million)
}

// millionInPostgreSQL fills a PostgreSQL of our own, which counts statements.
func millionInPostgreSQL(t *testing.T, dir string) millionStore {
	shared := &sqltest.Shared{Start: sqltest.PostgreSQL}
	t.Cleanup(shared.Stop)
	s := shared.Get(t)
	p := connectPostgres(t, s)
	do := func(statement string) {
		t.Helper()
		if _, err := p.ExecContext(t.Context(), statement); err != nil {
			t.Fatalf("%v\n%s", err, statement)
		}
	}
	do(`ALTER SYSTEM SET shared_preload_libraries = 'pg_stat_statements'`)
	do(`CHECKPOINT`)
	s.Kill()
	if err := s.Begin(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "PostgreSQL answers again", func() bool { return p.PingContext(t.Context()) == nil })
	do(`CREATE EXTENSION pg_stat_statements`)
	url := fmt.Sprintf("postgres://%s@%s/postgres?password_file=%s", s.User, s.Addr, s.PasswordFile)
	command(t, "store", "migrate", "--keystore", url)
	public, private := millionKey(t, dir)
	conn, err := p.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	// Without a look at waxseal_domain for each key.
	statements := "SET session_replication_role = replica;\nBEGIN;\n" +
		fillMillion(fmt.Sprintf(`WITH r AS (SELECT i FROM generate_series(0, %d) AS g(i))`, million-1), `'d' || lpad(i::text, 7, '0') || '.example'`, public, private) +
		"COMMIT;\nANALYZE"
	for statement := range strings.SplitSeq(statements, ";\n") {
		if _, err := conn.ExecContext(t.Context(), statement); err != nil {
			t.Fatalf("%v\n%.200s", err, statement)
		}
	}
	do(`SELECT pg_stat_statements_reset()`)
	return millionStore{url, func(t *testing.T) (statements, rows int) {
		t.Helper()
		row := p.QueryRowContext(t.Context(), `SELECT coalesce(sum(calls), 0), coalesce(sum(rows), 0) FROM pg_stat_statements WHERE query ~ 'waxseal_(domain|key|slot|history)'`)
		if err := row.Scan(&statements, &rows); err != nil {
			t.Fatal(err)
		}
		return statements, rows
	}}
}

// connectPostgres connects to a server of our own without waxseal.
func connectPostgres(t *testing.T, s *sqltest.Server) *sql.DB {
	t.Helper()
	password, err := os.ReadFile(s.PasswordFile)
	if err != nil {
		t.Fatal(err)
	}
	u := url.URL{Scheme: "postgres", User: url.UserPassword(s.User, strings.TrimSpace(string(password))), Host: s.Addr, Path: "postgres", RawQuery: "sslmode=disable"}
	db, err := sql.Open("pgx", u.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

// millionInSQLite fills a file. Python has the SQLite that is written in C, which
// the race detector does not slow down.
func millionInSQLite(t *testing.T, dir string) millionStore {
	file := filepath.Join(dir, "keys.db")
	url := "sqlite:" + file
	writeFile(t, file, "", 0o600)
	command(t, "store", "migrate", "--keystore", url)
	public, private := millionKey(t, dir)
	c := exec.Command("python3", "-c", "import sqlite3, sys\nsqlite3.connect(sys.argv[1]).executescript(sys.stdin.read())", file)
	c.Stdin = strings.NewReader("PRAGMA journal_mode = DELETE;\nPRAGMA journal_mode = OFF;\nPRAGMA synchronous = OFF;\nBEGIN;\n" +
		fillMillion(fmt.Sprintf(`WITH RECURSIVE r (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM r WHERE i < %d)`, million-1), `printf('d%07d.example', i)`, public, private) + "COMMIT;\n")
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return millionStore{url: url}
}

func pythonWithSQLite() error {
	if out, err := exec.Command("python3", "-c", "import sqlite3").CombinedOutput(); err != nil {
		return fmt.Errorf("no python3 with sqlite3, which is in Debian's python3: %w %s", err, bytes.TrimSpace(out))
	}
	return nil
}

// A million domains cost what one costs: a start reads none of them, a domain
// that is not in memory takes one query, memory stays within its bound, and the
// domains that send most stay in it.
func TestAMillionDomains(t *testing.T) {
	for _, store := range []struct {
		name  string
		needs []need
		fill  func(*testing.T, string) millionStore
	}{
		{"PostgreSQL", []need{proc}, millionInPostgreSQL},
		{"SQLite", []need{proc, pythonWithSQLite}, millionInSQLite},
	} {
		t.Run(store.name, func(t *testing.T) {
			require(t, store.needs...)
			t.Parallel()
			dir := shortDir(t)
			began := time.Now()
			tryMillion(t, dir, store.fill(t, dir), began)
		})
	}
}

func tryMillion(t *testing.T, dir string, store millionStore, began time.Time) {
	t.Logf("filled in %v", time.Since(began).Round(time.Millisecond))
	socket, metrics := "unix:"+filepath.Join(dir, "milter.sock"), loopback(freePort(t))
	// The keeper does go round all domains; it is not what is tested here.
	config := writeFile(t, filepath.Join(dir, "waxseal.toml"), fmt.Sprintf(`
[keystore]
url = %q
refresh = "1h"
cache_domains = 1000
cache_bytes = "8MiB"
[keeper]
enabled = false
[metrics]
address = "inet:%s"
[listen.milter]
address = %q
`, store.url, metrics, socket), 0o644)
	began = time.Now()
	d := serve(t, daemonOptions{binary: waxseal}, "--config", config)
	c := dialMilter(t, socket)
	defer c.Close()
	f := facts{id: "4ABC", client: "127.0.0.1"}
	c.announce(f)
	send := func(domain int) {
		t.Helper()
		if !c.mailFrom(t, f) {
			t.Fatal("mail from loopback is not ours")
		}
		if end := c.content(t, by(fmt.Sprintf("ann@d%07d.example", domain)), "Hello.\r\n"); !strings.Contains(end.top, fmt.Sprintf("d=d%07d.example;", domain)) {
			t.Fatalf("domain %d: %v", domain, end)
		}
	}
	send(million / 2)
	t.Logf("from the start to the first signature in %v", time.Since(began).Round(time.Millisecond))

	// What a start reads: of a file, by the kernel's count for the process, which
	// has the few files in it that any start reads.
	if store.asked != nil {
		if statements, rows := store.asked(t); statements > 10 || rows > 10 {
			t.Errorf("up to the first signature, %d statements returned %d rows", statements, rows)
		}
	} else if info, err := os.Stat(strings.TrimPrefix(store.url, "sqlite:")); err != nil || int64(d.read(t)) > info.Size()/100 {
		t.Errorf("up to the first signature, %d bytes were read of %d, %v", d.read(t), info.Size(), err)
	}

	// Cold domains, each once.
	const cold = 3000
	hot := rand.Perm(million)[:50]
	for _, domain := range hot {
		send(domain)
	}
	var statements int
	if store.asked != nil {
		statements, _ = store.asked(t)
	}
	loads, read, before := d.metric(t, metrics, "waxseal_key_cache_loads_total"), d.read(t), d.status(t, "VmRSS")
	began = time.Now()
	step := million / cold
	for i := range cold {
		send(i*step + 1 + rand.IntN(step-1))
		send(hot[i%len(hot)]) // which are asked for all the time
	}
	t.Logf("%d messages of cold domains, and as many of hot ones, in %v", cold, time.Since(began).Round(time.Millisecond))
	again := d.metric(t, metrics, "waxseal_key_cache_loads_total") - loads
	if again < cold-len(hot) || again > cold*101/100 {
		t.Errorf("%d lookups for %d cold domains, as many as there were, and %d hot ones", again, cold, len(hot))
	}
	if store.asked != nil {
		if now, _ := store.asked(t); now-statements != again {
			t.Errorf("%d lookups took %d statements, want one each", again, now-statements)
		}
	} else if each := (d.read(t) - read) / again; each > 100<<10 {
		t.Errorf("a lookup reads %d bytes", each)
	}
	if entries := d.metric(t, metrics, "waxseal_key_cache_entries"); entries > 1200 {
		t.Errorf("%d domains in memory, want about 1000", entries)
	}
	after := d.status(t, "VmRSS")
	t.Logf("memory went from %d to %d kB", before, after)
	if after > before+64<<10 {
		t.Errorf("memory went from %d to %d kB, though the cache is bounded by 8 MiB", before, after)
	}

	// What is hot is still in memory.
	loads = d.metric(t, metrics, "waxseal_key_cache_loads_total")
	for _, domain := range hot {
		send(domain)
	}
	if again := d.metric(t, metrics, "waxseal_key_cache_loads_total") - loads; again > len(hot)/10 {
		t.Errorf("%d of %d domains that send much had been forgotten", again, len(hot))
	}
}

// read returns how many bytes the daemon has read, of whatever.
func (d *daemon) read(t *testing.T) int {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/io", d.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	return number(t, `(?m)^rchar: (\d+)$`, text)
}

// metric returns the value of a metric without labels.
func (d *daemon) metric(t *testing.T, address, name string) int {
	t.Helper()
	r, err := http.Get("http://" + address + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	text, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return number(t, `(?m)^`+name+` (\d+)$`, text)
}

func number(t *testing.T, pattern string, text []byte) int {
	t.Helper()
	m := regexp.MustCompile(pattern).FindSubmatch(text)
	if m == nil {
		t.Fatalf("no %s in\n%s", pattern, text)
	}
	n, err := strconv.Atoi(string(m[1]))
	if err != nil {
		t.Fatal(err)
	}
	return n
}
