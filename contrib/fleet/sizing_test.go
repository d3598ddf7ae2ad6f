package fleet

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"database/sql"
	"fmt"
	mathrand "math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	_ "github.com/go-sql-driver/mysql"
	_ "github.com/jackc/pgx/v5/stdlib"

	"waxseal/keystore"
	"waxseal/keystore/redisstore"
	"waxseal/keystore/sqlstore"
	"waxseal/keystore/sqlstore/sqltest"
	"waxseal/keystore/storetest"
	"waxseal/signer/libcrypto"
)

// The numbers of the README come from these tests, with WAXSEAL_SIZING=100000 in
// the environment and -v. Without it there are few domains, and what is tested is
// what holds for any number of them.
func domains(t *testing.T) int {
	t.Helper()
	text := os.Getenv("WAXSEAL_SIZING")
	if text == "" {
		return 500
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// sizing says whether numbers are wanted, at the price of minutes.
func sizing() bool { return os.Getenv("WAXSEAL_SIZING") != "" }

const extraEvents, extraKeys = 10, 2

// rsaKey is a key as most domains have one.
func rsaKey(t *testing.T, selector string) keystore.Key {
	t.Helper()
	signer, err := keystore.ParsePrivateKey([]byte(read(t, "../../testdata/keys/rsa-2048.pem")))
	if err != nil {
		t.Fatal(err)
	}
	k := storetest.ActiveOf(t, selector, signer)
	k.Created = time.Now().UTC().Truncate(time.Second)
	k.Seen, k.Ready, k.Activated = k.Created, k.Created, k.Created
	return k
}

// template makes a domain whose only key was made, seen in DNS and activated. With
// more, it also has a number of events and of removed keys more.
func template(t *testing.T, s keystore.Store, name string, events, keys int) {
	t.Helper()
	d := &keystore.Domain{Name: name}
	event := func(selector string, what keystore.What) {
		d.History = append(d.History, keystore.Event{
			Time: time.Now().UTC().Truncate(time.Second), Selector: selector, What: what, By: "keeper@mx1.example.com", Reason: "every authoritative server shows the record",
		})
	}
	for i := range keys {
		k := rsaKey(t, "2025"+string(rune('a'+i)))
		k.State, k.Retired, k.Revoked, k.Removed, k.Load = keystore.Removed, k.Created, k.Created, k.Created, nil
		d.Keys = append(d.Keys, k)
	}
	d.Keys = append(d.Keys, rsaKey(t, "2026a"))
	for _, what := range []keystore.What{keystore.WasCreated, keystore.WasPublished, keystore.WasSeen, keystore.WasActivated} {
		event("2026a", what)
	}
	for range events {
		event("2026a", keystore.WasSeen)
	}
	if err := s.Update(t.Context(), d); err != nil {
		t.Fatal(err)
	}
}

// filled is a store of many domains, and how to look at its server.
type filled struct {
	open    func() keystore.SigningStore
	copies  func(from, prefix string, n int) // of a domain: prefix0.example and so on
	bytes   func() int64
	clients func() int
	most    int // clients that a daemon has
}

var kinds = []struct {
	name string
	make func(t *testing.T) filled
}{
	{"PostgreSQL", postgresFilled},
	{"MariaDB", mariadbFilled},
	{"SQLite", sqliteFilled},
	{"Redis", redisFilled},
}

func execute(t *testing.T, db *sql.DB, statements ...string) {
	t.Helper()
	for _, s := range statements {
		if _, err := db.Exec(s); err != nil {
			t.Fatalf("%s: %v", s, err)
		}
	}
}

func number(t *testing.T, db *sql.DB, query string) (n int64) {
	t.Helper()
	if err := db.QueryRow(query).Scan(&n); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	return n
}

// sqlFilled has all that databases have in common. names is a query of n names,
// as name.
func sqlFilled(t *testing.T, u string, db *sql.DB, names func(prefix string, n int) string, f filled) filled {
	open := func() *sqlstore.Store {
		s, err := sqlstore.Open(u, sqlstore.Options{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close() })
		return s
	}
	first := open()
	if _, _, err := first.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	first.Close() // with its connection, which none of the daemon's is
	f.open = func() keystore.SigningStore { return open() }
	f.copies = func(from, prefix string, n int) {
		for _, table := range []struct{ name, columns string }{
			{"waxseal_domain", "version, changed, changed_at, changed_by"},
			{"waxseal_key", "selector, number, algorithm, state, public, private, created, activated, retired, revoked, removed, published, seen, ready, withdrawn, urgent, note, reason"},
			{"waxseal_history", "number, at, selector, what, done_by, reason, forced"},
		} {
			key := map[bool]string{true: "name", false: "domain"}[table.name == "waxseal_domain"]
			execute(t, db, fmt.Sprintf("INSERT INTO %[1]s (%[2]s, %[3]s) SELECT n.name, o.%[4]s FROM %[1]s o CROSS JOIN (%[5]s) n WHERE o.%[2]s = '%[6]s'",
				table.name, key, table.columns, strings.ReplaceAll(table.columns, ", ", ", o."), names(prefix, n), from))
		}
	}
	return f
}

func server(t *testing.T, start func() (*sqltest.Server, error)) (s *sqltest.Server, password string) {
	t.Helper()
	shared := sqltest.Shared{Start: start}
	s = shared.Get(t)
	t.Cleanup(shared.Stop)
	return s, strings.TrimSpace(read(t, s.PasswordFile))
}

func connect(t *testing.T, driver, dsn string) *sql.DB {
	t.Helper()
	db, err := sql.Open(driver, dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

func postgresURL(s *sqltest.Server, hosts string) string {
	return fmt.Sprintf("postgres://%s@%s/postgres?password_file=%s", s.User, hosts, s.PasswordFile)
}

func postgresFilled(t *testing.T) filled {
	s, password := server(t, sqltest.PostgreSQL)
	return postgresFilledOn(t, s, password)
}

func postgresFilledOn(t *testing.T, s *sqltest.Server, password string) filled {
	db := connect(t, "pgx", fmt.Sprintf("postgres://%s:%s@%s/postgres?sslmode=disable", s.User, strings.ReplaceAll(password, " ", "%20"), s.Addr))
	return sqlFilled(t, postgresURL(s, s.Addr), db,
		func(prefix string, n int) string {
			return fmt.Sprintf("SELECT '%s' || i || '.example' AS name FROM generate_series(0, %d) i", prefix, n-1)
		},
		filled{
			bytes: func() int64 {
				execute(t, db, "VACUUM ANALYZE")
				return number(t, db, "SELECT sum(pg_total_relation_size(oid)) FROM pg_class WHERE relkind = 'r' AND relname LIKE 'waxseal%'")
			},
			clients: func() int {
				return int(number(t, db, "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'waxseal'"))
			},
			most: 9, // and one of them only listens
		})
}

func mariadbFilled(t *testing.T) filled {
	s, password := server(t, sqltest.MariaDB)
	db := connect(t, "mysql", fmt.Sprintf("%s:%s@tcp(%s)/", s.User, password, s.Addr))
	execute(t, db, "CREATE DATABASE mail")
	in := connect(t, "mysql", fmt.Sprintf("%s:%s@tcp(%s)/mail", s.User, password, s.Addr))
	in.SetMaxIdleConns(0) // those are not of the daemon
	return sqlFilled(t, fmt.Sprintf("mysql://%s@%s/mail?password_file=%s", s.User, s.Addr, s.PasswordFile), in,
		func(prefix string, n int) string {
			return fmt.Sprintf("SELECT CAST(concat('%s', seq, '.example') AS char CHARACTER SET ascii) AS name FROM seq_0_to_%d", prefix, n-1)
		},
		filled{
			bytes: func() int64 {
				execute(t, in, "ANALYZE TABLE waxseal_domain, waxseal_key, waxseal_history")
				return number(t, db, "SELECT sum(file_size) FROM information_schema.innodb_sys_tablespaces WHERE name LIKE 'mail/waxseal%'")
			},
			clients: func() int {
				return int(number(t, db, "SELECT count(*) FROM information_schema.processlist WHERE db = 'mail'"))
			},
			most: 8,
		})
}

func sqliteFilled(t *testing.T) filled {
	path := filepath.Join(t.TempDir(), "keys.db")
	if _, err := sqlstore.CreateFile("sqlite:" + path); err != nil {
		t.Fatal(err)
	}
	db := connect(t, "sqlite", path)
	return sqlFilled(t, "sqlite:"+path, db,
		func(prefix string, n int) string {
			return fmt.Sprintf("WITH RECURSIVE r (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM r WHERE i < %d) SELECT '%s' || i || '.example' AS name FROM r", n-1, prefix)
		},
		filled{bytes: func() int64 { return number(t, db, "PRAGMA page_count") * number(t, db, "PRAGMA page_size") }})
}

func redisFilled(t *testing.T) filled {
	r := startRedis(t)
	open := func() *redisstore.Store {
		s, err := redisstore.Open(t.Context(), "redis://"+r.address, redisstore.Options{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close() })
		return s
	}
	return filled{
		open:   func() keystore.SigningStore { return open() },
		copies: func(from, prefix string, n int) { redisCopies(t, r, from, prefix, n) },
		bytes: func() int64 {
			n, err := strconv.ParseInt(regexp.MustCompile(`used_memory_dataset:(\d+)`).FindStringSubmatch(r.do(t, "INFO", "memory"))[1], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return n
		},
		clients: func() int { return strings.Count(r.do(t, "CLIENT", "LIST"), "name=waxseal ") },
		most:    3,
	}
}

// TestSizing fills stores, and says what a domain, an event and a removed key take
// in them, how many domains that are in no memory one daemon reads in a second, and by
// how many connections.
func TestSizing(t *testing.T) {
	n := domains(t)
	for _, kind := range kinds {
		t.Run(kind.name, func(t *testing.T) {
			f := kind.make(t)
			s := f.open()
			template(t, s, "one.example", 0, 0)
			template(t, s, "events.example", extraEvents, 0)
			template(t, s, "keys.example", 0, extraKeys)
			at := []int64{f.bytes()}
			few := n / 10
			for i, copies := range []struct {
				from string
				n    int
			}{{"one.example", n}, {"events.example", few}, {"keys.example", few}} {
				f.copies(copies.from, string(rune('a'+i)), copies.n)
				at = append(at, f.bytes())
			}
			domain := float64(at[1]-at[0]) / float64(n)
			t.Logf("%s, %d domains: %.0f bytes a domain, %.0f an event, %.0f a removed key", kind.name, n, domain,
				(float64(at[2]-at[1])/float64(few)-domain)/extraEvents, (float64(at[3]-at[2])/float64(few)-domain)/extraKeys)

			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			var watching, asking sync.WaitGroup
			began := make(chan bool, 1)
			watching.Go(func() {
				_ = s.Watch(ctx, func(string) {
					select {
					case began <- true:
					default:
					}
				})
			})
			<-began
			const askers = 100 // as many messages at once
			var asked atomic.Int64
			lasts := 400 * time.Millisecond
			if sizing() {
				lasts = 4 * time.Second
			}
			end := time.Now().Add(lasts)
			for range askers {
				asking.Go(func() {
					for time.Now().Before(end) {
						d, err := s.Signing(ctx, fmt.Sprintf("a%d.example", mathrand.N(n)))
						if err == nil {
							_, err = d.Keys[0].Load(ctx)
						}
						if err != nil {
							t.Error(err)
							return
						}
						asked.Add(1)
					}
				})
			}
			if f.clients != nil {
				time.Sleep(lasts / 2) // until all are at it
				if got := f.clients(); got > f.most || got < 1 {
					t.Errorf("%d connections, want at most %d", got, f.most)
				} else {
					t.Logf("%s: %d connections of one daemon", kind.name, got)
				}
			}
			asking.Wait()
			t.Logf("%s: %d domains a second are read and their keys parsed, by one daemon", kind.name, int64(float64(asked.Load())/lasts.Seconds()))
			cancel()
			watching.Wait()
		})
	}
}

// rss is the memory of this process.
func rss(t *testing.T) int64 {
	t.Helper()
	runtime.GC()
	debug.FreeOSMemory()
	m := regexp.MustCompile(`VmRSS:\s+(\d+) kB`).FindStringSubmatch(read(t, "/proc/self/status"))
	n, err := strconv.ParseInt(m[1], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n << 10
}

// TestSizingOfTheCache says what memory a domain takes whose keys are loaded and
// have signed.
func TestSizingOfTheCache(t *testing.T) {
	if !sizing() {
		t.Skip("WAXSEAL_SIZING is not set, and there is nothing here but numbers")
	}
	n := min(domains(t), 20_000)
	for _, mode := range []libcrypto.Mode{libcrypto.ModeGo, libcrypto.ModeLibcrypto} {
		engine, err := libcrypto.NewEngine(libcrypto.EngineOptions{Mode: mode})
		if err != nil {
			t.Logf("%s: %v", mode, err)
			continue
		}
		f := sqliteFilled(t)
		s := f.open()
		template(t, s, "one.example", 0, 0)
		f.copies("one.example", "a", n)
		cache := keystore.NewCache(s, keystore.CacheOptions{Prepare: engine.Prepare, Refresh: time.Hour, MaxEntries: n + 1000, MaxBytes: 1 << 40})
		digest := sha256.Sum256(nil)
		sign := func(i int) {
			got, err := cache.Signing(t.Context(), fmt.Sprintf("a%d.example", i))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := got.Keys[0].Signer.Sign(rand.Reader, digest[:], crypto.SHA256); err != nil {
				t.Fatal(err)
			}
		}
		for i := range n / 10 {
			sign(i)
		}
		before := rss(t)
		for i := n / 10; i < n; i++ {
			sign(i)
		}
		t.Logf("%s signs with RSA-2048: %d bytes in memory for each of %d domains", mode, (rss(t)-before)/int64(n-n/10), n)
		cache.Close()
	}
}

// TestSizingOfRefreshes compares how often a daemon asks the store with the
// README's formula.
func TestSizingOfRefreshes(t *testing.T) {
	const n, refresh = 200, time.Second
	rates, seconds := []int{200}, 2
	if sizing() {
		rates, seconds = []int{50, 200, 2000}, 4
	}
	f := sqliteFilled(t)
	s := f.open()
	template(t, s, "one.example", 0, 0)
	f.copies("one.example", "a", n)
	for _, messages := range rates {
		cache := keystore.NewCache(s, keystore.CacheOptions{Refresh: refresh})
		send := func(seconds int) {
			tick := time.NewTicker(time.Second / time.Duration(messages))
			defer tick.Stop()
			for range messages * seconds {
				if _, err := cache.Signing(t.Context(), fmt.Sprintf("a%d.example", mathrand.N(n))); err != nil {
					t.Fatal(err)
				}
				<-tick.C
			}
		}
		send(1)
		before, began := cache.Stats().Loads, time.Now()
		send(seconds)
		took := time.Since(began).Seconds()
		got, rate := float64(cache.Stats().Loads-before)/took, float64(messages*seconds)/took
		want := 1 / (1/rate + refresh.Seconds()/n)
		t.Logf("%.0f messages a second over %d domains, refresh %v: %.0f queries a second, by the formula %.0f", rate, n, refresh, got, want)
		if got > 1.3*want || got < 0.7*want {
			t.Errorf("%.0f queries a second, by the formula %.0f", got, want)
		}
		cache.Close()
	}
}
