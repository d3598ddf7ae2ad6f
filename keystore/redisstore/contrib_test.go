package redisstore

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"waxseal/keystore"
	"waxseal/keystore/storetest"
)

// contribUsers starts a Redis with the file of contrib/redis, to which more rights
// are added, and returns what stands behind the hosts of a user's URL.
func contribUsers(t *testing.T, more string, settings ...string) (s *server, options string) {
	t.Helper()
	text, err := os.ReadFile("../../contrib/redis/users.conf")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	file, password := filepath.Join(dir, "users.conf"), filepath.Join(dir, "password")
	users := strings.NewReplacer(" on ", " on >secret ", " +exists ", " +exists "+more+" ").Replace(string(text))
	for path, content := range map[string]string{file: users, password: "secret\n"} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return start(t, append([]string{"--include", file}, settings...)...), "password_file=" + password
}

// TestContribUsers has the keeper's user do all that a store does, and the other
// one sign, be told of changes, and change nothing.
func TestContribUsers(t *testing.T) {
	t.Parallel()
	s, options := contribUsers(t, "")
	for setting, want := range map[string]string{"appendonly": "yes", "appendfsync": "always", "maxmemory-policy": "noeviction"} {
		if got, err := s.do("CONFIG", "GET", setting).AsStrMap(); err != nil || got[setting] != want {
			t.Errorf("%s: %v, %v", setting, got, err)
		}
	}
	url := func(user string) string { return "redis://" + user + "@" + s.address() + "?" + options }
	n := 0
	t.Run("the keeper conforms", func(t *testing.T) {
		storetest.Run(t, func(t *testing.T) keystore.Store {
			n++
			return open(t, url("waxseal_keep")+fmt.Sprintf("&prefix=waxseal:t%d:", n), Options{})
		})
	})
	signsOnly(t, open(t, url("waxseal_keep"), Options{}), open(t, url("waxseal_sign"), Options{}))

	for _, user := range []string{"waxseal_sign", "waxseal_keep"} {
		for _, command := range [][]string{
			{"HGETALL", "other"}, {"KEYS", "*"}, {"DEL", "waxseal:domain:example.com"}, {"FLUSHALL"}, {"CONFIG", "GET", "*"},
			{"CLIENT", "KILL", "TYPE", "normal"}, {"ACL", "LIST"}, {"PUBLISH", "x", "y"},
		} {
			if answer, err := s.do(append([]string{"ACL", "DRYRUN", user}, command...)...).ToString(); err != nil || answer == "OK" {
				t.Errorf("%s may %s: %s %v", user, command, answer, err)
			}
		}
	}
	for _, command := range [][]string{
		{"HSET", "waxseal:domain:example.com", "version", "9"}, {"HSET", "waxseal:last", "domain", "x"}, {"HDEL", "waxseal:domain:example.com", "domain"}, {"ZADD", "waxseal:domains", "0", "x"},
		{"EVAL", "return 1", "0"},
	} {
		if answer, err := s.do(append([]string{"ACL", "DRYRUN", "waxseal_sign"}, command...)...).ToString(); err != nil || answer == "OK" {
			t.Errorf("waxseal_sign may %s: %s %v", command, answer, err)
		}
	}
}

// signsOnly has one store change keys, and the other sign with them, hear of the
// change, and change none.
func signsOnly(t *testing.T, keep, sign *Store) {
	t.Helper()
	d := storetest.Create(t, keep, "example.com", "a")
	cache := keystore.NewCache(sign, keystore.CacheOptions{Refresh: time.Hour, OnError: func(_ string, err error) { t.Error(err) }})
	defer cache.Close()
	signs := func(want int) bool {
		signing, err := cache.Signing(t.Context(), "example.com")
		if err != nil {
			t.Fatal(err)
		}
		return len(signing.Keys) == want
	}
	if !signs(1) {
		t.Error("the signing user does not sign")
	}
	d.Keys = append(d.Keys, storetest.Active(t, "b"))
	if err := keep.Update(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(30 * time.Second); !signs(2); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the signing user is not told of a change")
		}
	}
	if names, err := sign.List(t.Context(), "", 10); err != nil || len(names) != 1 {
		t.Errorf("%v, %v", names, err)
	}
	for _, s := range []*Store{keep, sign} {
		if err := s.Beat(t.Context(), keystore.Node{Name: "mx1"}); err != nil {
			t.Errorf("Beat: %v", err)
		}
		if st, err := s.Status(t.Context()); err != nil || st.Domains != 1 || st.LastChanged != "example.com" || len(st.Nodes) != 1 {
			t.Errorf("Status: %+v, %v", st, err)
		}
	}
	if errs := keystore.CheckKeys(t.Context(), sign, "example.com"); len(errs) > 0 {
		t.Error(errs)
	}
	d.Keys[0].Note = "forged"
	if err := sign.Update(t.Context(), d); err == nil || !strings.Contains(err.Error(), "may not do this") {
		t.Errorf("the signing user has changed a domain: %v", err)
	}
	if err := sign.Update(t.Context(), &keystore.Domain{Name: "example.net"}); err == nil || !strings.Contains(err.Error(), "may not do this") {
		t.Errorf("the signing user has made a domain: %v", err)
	}
	if got, err := keep.Domain(t.Context(), "example.com"); err != nil || got.Version != 2 || got.Keys[0].Note != "" {
		t.Errorf("afterwards: %+v, %v", got, err)
	}
}

// TestContribUsersWithSentinel adds what the file says that Sentinel takes. Sentinel
// itself asks for another user.
func TestContribUsersWithSentinel(t *testing.T) {
	t.Parallel()
	primary, options := contribUsers(t, "+role")
	address := sentinel(t, primary, primary.port)
	watcher := &server{t: t, port: strings.TrimPrefix(address, "127.0.0.1:")}
	watcher.must("ACL", "SETUSER", "guest", "on", ">another secret", "allchannels", "allkeys", "+@all")
	watcher.must("ACL", "SETUSER", "default", "off")
	password := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(password, []byte("another secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	url := func(user string) string {
		return "redis+sentinel://" + user + "@" + address + "/mail?" + options + "&sentinel_user=guest&sentinel_password_file=" + password
	}
	signsOnly(t, open(t, url("waxseal_keep"), Options{}), open(t, url("waxseal_sign"), Options{}))
}

// TestContribUsersInACluster does so for a Cluster, of one server here.
func TestContribUsersInACluster(t *testing.T) {
	t.Parallel()
	s, options := contribUsers(t, "+cluster|shards +cluster|slots", "--cluster-enabled", "yes")
	s.must("CLUSTER", "ADDSLOTSRANGE", "0", "16383")
	s.await("whole cluster", func() bool {
		info, _ := s.do("CLUSTER", "INFO").ToString()
		return strings.Contains(info, "cluster_state:ok")
	})
	url := func(user string) string { return "redis+cluster://" + user + "@" + s.address() + "?" + options }
	signsOnly(t, open(t, url("waxseal_keep"), Options{}), open(t, url("waxseal_sign"), Options{}))
}
