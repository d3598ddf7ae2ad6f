package fleet

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"waxseal/keystore"
	"waxseal/keystore/redisstore"
	"waxseal/keystore/sqlstore"
	"waxseal/keystore/sqlstore/sqltest"
	"waxseal/keystore/storetest"
)

// outage looks at a store through the eyes of mail while something is done to its
// server: of domains that sign all the time, of domains that are in no memory, and
// of changes.
type outage struct {
	t     *testing.T
	store keystore.Store
	cache *keystore.Cache
	n     int // domains read so far
}

const (
	warm        = "example.com"
	coldDomains = 3000 // more than are asked for in the longest outage here
)

// watchOutage begins to watch.
func watchOutage(t *testing.T, store keystore.Store, copies func(n int)) *outage {
	t.Helper()
	template(t, store, warm, 0, 0)
	copies(coldDomains)
	o := &outage{t: t, store: store, cache: keystore.NewCache(store, keystore.CacheOptions{Refresh: time.Second})}
	t.Cleanup(o.cache.Close)
	if err := o.cold(); err != nil {
		t.Fatal(err)
	}
	o.warm()
	return o
}

// warm signs for the domain whose keys are in memory, which has to work.
func (o *outage) warm() {
	o.t.Helper()
	if s, err := o.cache.Signing(o.t.Context(), warm); err != nil || len(s.Keys) != 1 {
		o.t.Errorf("a domain that was signed for before: %v, %v", s, err)
	}
}

// cold asks for a domain that is in no memory.
func (o *outage) cold() error {
	o.n++
	_, err := o.cache.Signing(o.t.Context(), fmt.Sprintf("a%d.example", o.n))
	return err
}

// change is what a keeper does.
func (o *outage) change() error {
	d, err := o.store.Domain(o.t.Context(), warm)
	if err == nil {
		d.Keys[0].Note = fmt.Sprint(time.Now().UnixNano())
		err = o.store.Update(o.t.Context(), d)
	}
	return err
}

// until says after how long something works, while mail of the warm domain flows.
func (o *outage) until(f func() error) time.Duration {
	o.t.Helper()
	const patience = 90 * time.Second
	for began := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		o.warm()
		err := f()
		if took := time.Since(began); err == nil {
			return took.Round(10 * time.Millisecond)
		} else if took > patience {
			o.t.Fatalf("not within %v: %v", patience, err)
		}
	}
}

// TestFailoverOfPostgreSQL has a primary die, and its standby take over.
func TestFailoverOfPostgreSQL(t *testing.T) {
	deaths := []string{"is killed"}
	if sizing() {
		deaths = append(deaths, "falls silent")
	}
	for _, death := range deaths {
		t.Run(death, func(t *testing.T) {
			primary, password := server(t, sqltest.PostgreSQL)
			f := postgresFilledOn(t, primary, password)
			standby, err := primary.Standby()
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				standby.Kill()
				standby.Remove()
			})
			line := storetest.NewProxy(t, "tcp", primary.Addr)
			store, err := sqlstore.Open(postgresURL(primary, line.Address+","+standby.Addr), sqlstore.Options{})
			if err != nil {
				t.Fatal(err)
			}
			defer store.Close()
			o := watchOutage(t, store, func(n int) { f.copies(warm, "a", n) })
			copied, err := sqlstore.Open(postgresURL(primary, standby.Addr), sqlstore.Options{})
			if err != nil {
				t.Fatal(err)
			}
			defer copied.Close()
			o.until(func() error { // until the standby has it all
				_, err := copied.Domain(t.Context(), fmt.Sprintf("a%d.example", coldDomains-1))
				return err
			})
			if death == "is killed" {
				primary.Kill()
			} else {
				line.Delay(time.Hour)
				defer line.Drop()
			}
			t.Logf("the primary %s: domains in no memory are read from the standby after %v", death, o.until(o.cold))
			if err := standby.Promote(); err != nil {
				t.Fatal(err)
			}
			t.Logf("the primary %s: after the promotion keys can be changed within %v", death, o.until(o.change))
		})
	}
}

// TestRestartOfTheOnlyServer has it gone for some seconds.
func TestRestartOfTheOnlyServer(t *testing.T) {
	if !sizing() {
		t.Skip("WAXSEAL_SIZING is not set; the tests of sqlstore have restarts, too")
	}
	const gone = 20 * time.Second
	s, password := server(t, sqltest.PostgreSQL)
	f := postgresFilledOn(t, s, password)
	store, err := sqlstore.Open(postgresURL(s, s.Addr), sqlstore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	o := watchOutage(t, store, func(n int) { f.copies(warm, "a", n) })
	s.Kill()
	failed := time.Now()
	t.Logf("known to be down after %v, with a message every 20 ms for a domain that is in no memory", o.until(func() error {
		if o.cold() == nil || o.cache.Down() == 0 {
			return fmt.Errorf("not known")
		}
		return nil
	}))
	for time.Since(failed) < gone {
		o.warm()
		began := time.Now()
		if err := o.cold(); err == nil {
			t.Error("an answer without a server")
		} else if took := time.Since(began); took > 100*time.Millisecond {
			t.Errorf("mail waits for a dead store for %v", took)
		}
		time.Sleep(50 * time.Millisecond)
	}
	if err := s.Begin(); err != nil {
		t.Fatal(err)
	}
	t.Logf("back after %v: domains in no memory are read %v later", gone, o.until(o.cold))
}

// TestFailoverOfRedis has Sentinel put a replica in the place of a primary.
func TestFailoverOfRedis(t *testing.T) {
	if !sizing() {
		t.Skip("WAXSEAL_SIZING is not set; the tests of redisstore have a failover, too")
	}
	const notices = 5 * time.Second // Sentinel's own default is 30
	primary := startRedis(t)
	host, port, _ := net.SplitHostPort(primary.address)
	replica := startRedis(t, "--replicaof", host+" "+port, "--repl-diskless-sync-delay", "0")
	sentinel := startSentinel(t, primary, notices)
	store, err := redisstore.Open(t.Context(), "redis+sentinel://"+sentinel+"/mail", redisstore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	o := watchOutage(t, store, func(n int) { redisCopies(t, primary, warm, "a", n) })
	for end := time.Now().Add(30 * time.Second); !strings.Contains(replica.do(t, "INFO", "replication"), "master_link_status:up"); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the replica does not follow")
		}
	}
	time.Sleep(11 * time.Second) // until Sentinel has asked for replicas
	primary.kill()
	t.Logf("Sentinel notices after %v: domains in no memory are read after %v", notices, o.until(o.cold))
	t.Logf("and keys can be changed %v after that", o.until(o.change))
}

func startSentinel(t *testing.T, primary *redisServer, notices time.Duration) (address string) {
	t.Helper()
	host, port, _ := net.SplitHostPort(primary.address)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address = l.Addr().String()
	l.Close()
	_, own, _ := net.SplitHostPort(address)
	dir := t.TempDir()
	config := filepath.Join(dir, "sentinel.conf")
	text := fmt.Sprintf("port %s\nbind 127.0.0.1\ndir %s\nsentinel monitor mail %s %s 1\nsentinel down-after-milliseconds mail %d\n", own, dir, host, port, notices.Milliseconds())
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c := exec.Command("redis-server", config, "--sentinel")
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = c.Process.Kill()
		_ = c.Wait()
	})
	awaitServer(t, address)
	return address
}
