package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"waxseal/keystore/sqlstore/sqltest"
)

// unprivileged has daemons run as nobody, from a copy of the program that nobody
// can read.
func unprivileged(t *testing.T, dir string) (daemonOptions, int) {
	t.Helper()
	u, err := user.Lookup("nobody")
	if err != nil {
		t.Fatal(err)
	}
	id, err := strconv.Atoi(u.Uid)
	if err != nil {
		t.Fatal(err)
	}
	from, err := checkedBinary()
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "waxseal")
	if err := os.WriteFile(path, program, 0o755); err != nil {
		t.Fatal(err)
	}
	return daemonOptions{binary: path, prepare: func(c *exec.Cmd) {
		c.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(id), Gid: uint32(id)}
		c.Dir = "/"
	}}, id
}

// sharedStore is a store that a confined daemon has to reach.
type sharedStore struct {
	url     string
	restart func() // nil where there is no server
}

// TestConfinedDaemonsReachTheirStores starts a daemon as nobody, shut out of all
// that its configuration does not name, with each kind of store: it signs, hears of
// a new key, tells that it lives, and finds the server again that was restarted.
func TestConfinedDaemonsReachTheirStores(t *testing.T) {
	require(t, root, kernelConfines, installed("redis-server", "redis-server"), installed("mariadb", "mariadb-server"))
	secret := func(t *testing.T, dir, text string, owner int) string {
		path := writeFile(t, filepath.Join(dir, "password"), text, 0o400)
		if err := os.Chown(path, owner, owner); err != nil {
			t.Fatal(err)
		}
		return path
	}
	database := func(start func() (*sqltest.Server, error), url func(s *sqltest.Server) string) func(t *testing.T, dir string, owner int) sharedStore {
		return func(t *testing.T, dir string, owner int) sharedStore {
			shared := sqltest.Shared{Start: start}
			s := shared.Get(t)
			t.Cleanup(shared.Stop)
			if err := os.Chmod(s.Directory(), 0o755); err != nil { // for its socket
				t.Fatal(err)
			}
			text, err := os.ReadFile(s.PasswordFile)
			if err != nil {
				t.Fatal(err)
			}
			u := url(s)
			if _, p, _ := net.SplitHostPort(s.Addr); strings.HasPrefix(u, "mysql") {
				c := exec.Command("mariadb", "--no-defaults", "-h", "127.0.0.1", "-P", p, "-u", s.User, "-e", "CREATE DATABASE waxseal")
				c.Env = append(os.Environ(), "MYSQL_PWD="+strings.TrimSpace(string(text)))
				if out, err := c.CombinedOutput(); err != nil {
					t.Fatalf("mariadb: %v\n%s", err, out)
				}
			}
			u += map[bool]string{true: "&", false: "?"}[strings.Contains(u, "?")] + "password_file=" + secret(t, dir, string(text), owner)
			return sharedStore{u, func() {
				s.Kill()
				if err := s.Begin(); err != nil {
					t.Fatal(err)
				}
			}}
		}
	}
	port := func(s *sqltest.Server) string { _, p, _ := net.SplitHostPort(s.Addr); return p }
	for _, store := range []struct {
		name string
		make func(t *testing.T, dir string, owner int) sharedStore
	}{
		{"SQLite", func(t *testing.T, dir string, owner int) sharedStore {
			own := filepath.Join(dir, "db")
			if err := os.Mkdir(own, 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.Chown(own, owner, owner); err != nil {
				t.Fatal(err)
			}
			return sharedStore{url: "sqlite:" + filepath.Join(own, "keys.db")}
		}},
		{"PostgreSQL by TCP", database(sqltest.PostgreSQL, func(s *sqltest.Server) string { return "postgres://waxseal@" + s.Addr + "/postgres" })},
		{"PostgreSQL by name", database(sqltest.PostgreSQL, func(s *sqltest.Server) string { return "postgres://waxseal@localhost:" + port(s) + "/postgres" })},
		{"PostgreSQL by its socket", database(sqltest.PostgreSQL, func(s *sqltest.Server) string {
			if err := os.Symlink(".s.PGSQL."+port(s), filepath.Join(s.Directory(), ".s.PGSQL.5432")); err != nil { // the usual name
				t.Fatal(err)
			}
			return "postgres://waxseal@/postgres?socket=" + s.Directory()
		})},
		{"MariaDB by TCP", database(sqltest.MariaDB, func(s *sqltest.Server) string { return "mysql://waxseal@" + s.Addr + "/waxseal" })},
		{"MariaDB by its socket", database(sqltest.MariaDB, func(s *sqltest.Server) string { return "mysql://waxseal@/waxseal?socket=" + s.Socket() })},
		{"Redis by TCP", func(t *testing.T, dir string, _ int) sharedStore {
			address := startRedis(t, dir).address
			return sharedStore{url: "redis://" + address}
		}},
		{"Redis by its socket", func(t *testing.T, dir string, _ int) sharedStore {
			socket := filepath.Join(dir, "redis.sock")
			startRedis(t, dir, "--unixsocket", socket, "--unixsocketperm", "777")
			return sharedStore{url: "redis+unix://" + socket}
		}},
	} {
		t.Run(store.name, func(t *testing.T) {
			t.Parallel()
			dir := shortDir(t)
			o, owner := unprivileged(t, dir)
			s := store.make(t, dir, owner)
			keys := &keystore{dir: s.url, records: filepath.Join(dir, "records.tsv"), txt: map[string]string{}}
			if !strings.HasPrefix(s.url, "redis") {
				command(t, "store", "migrate", "--keystore", s.url)
			}
			keys.activate(t, "example.com", keys.newKey(t, "example.com", "rsa-2048"))
			d, socket := serveAsNobody(t, o, owner, dir, s.url)
			signatures := func() int { return len(signByMilter(t, socket, header, "Hello.\r\n").signatures()) }
			if n := signatures(); n != 1 {
				t.Fatalf("%d signatures, want one", n)
			}
			for round := range 2 {
				if round == 1 && s.restart == nil {
					break
				} else if round == 1 {
					s.restart()
				}
				keys.activate(t, "example.com", keys.newKey(t, "example.com", "ed25519"))
				eventually(t, "the daemon hears of a new key", func() bool { return signatures() == 2+round })
			}
			if !strings.HasPrefix(s.url, "redis") {
				eventually(t, "the daemon tells that it lives", func() bool {
					var status struct{ Nodes []any }
					out := command(t, "store", "status", "--json", "--keystore", s.url)
					return json.Unmarshal([]byte(out), &status) == nil && len(status.Nodes) == 1
				})
			}
			if strings.Contains(d.log.String(), "permission denied") {
				t.Error("the daemon was refused something")
			}
		})
	}
	t.Run("Vault", func(t *testing.T) {
		t.Parallel()
		dir := shortDir(t)
		o, owner := unprivileged(t, dir)
		pem, err := os.ReadFile("../../../testdata/keys/ed25519.pem")
		if err != nil {
			t.Fatal(err)
		}
		vault := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if !strings.HasSuffix(r.URL.Path, "/v1/dkim/example.com") {
				http.NotFound(w, r)
				return
			}
			_ = json.NewEncoder(w).Encode(map[string]any{"data": map[string]any{"selectors": []any{map[string]any{"selector": "mail", "domain": "example.com", "key": string(pem)}}}})
			_, _ = io.Copy(io.Discard, r.Body)
		}))
		defer vault.Close()
		_, socket := serveAsNobody(t, o, owner, dir, "vault+http://"+strings.TrimPrefix(vault.URL, "http://")+"?layout=mailu")
		if n := len(signByMilter(t, socket, header, "Hello.\r\n").signatures()); n != 1 {
			t.Errorf("%d signatures, want one", n)
		}
	})
}

// serveAsNobody starts a daemon that has to confine itself.
func serveAsNobody(t *testing.T, o daemonOptions, owner int, dir, url string) (d *daemon, socket string) {
	t.Helper()
	run := filepath.Join(dir, "run")
	if err := os.Mkdir(run, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(run, owner, owner); err != nil {
		t.Fatal(err)
	}
	socket = "unix:" + filepath.Join(run, "s")
	d = serve(t, o, "--config", writeFile(t, filepath.Join(dir, "waxseal.toml"), fmt.Sprintf(
		"[listen.milter]\naddress = %q\n[keystore]\nurl = %q\n[keeper]\nenabled = false\n[confine]\nlandlock = \"require\"\n", socket, url), 0o644))
	if d.said("confined by Landlock") != 1 {
		t.Error("the daemon does not say that it is confined")
	}
	return d, socket
}
