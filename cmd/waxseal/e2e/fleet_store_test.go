package e2e

import (
	"syscall"
	"testing"

	ks "waxseal/keystore"
	"waxseal/keystore/redisstore"
	"waxseal/keystore/sqlstore"
	"waxseal/keystore/sqlstore/sqltest"
)

// fleetStore is a server that many daemons keep their keys in, and what may
// befall it.
type fleetStore struct {
	address string                      // HOST:PORT
	url     func(address string) string // of the keystore, by way of another address
	tables  bool                        // which have to be made

	open  func(t *testing.T, url string) ks.Store
	kill  func() // all of its processes at once
	start func(t *testing.T)
	pause func() // its processes stop where they stand, and its connections stay
	awake func()
}

// postgreSQL does not wait for disks. What it has written it has after a kill all
// the same; a failure of power is not what is tried here.
func postgreSQL(t *testing.T) *fleetStore {
	t.Helper()
	shared := &sqltest.Shared{Start: sqltest.PostgreSQL}
	server := shared.Get(t)
	t.Cleanup(shared.Stop)
	return &fleetStore{
		address: server.Addr,
		url: func(address string) string {
			return "postgres://" + server.User + "@" + address + "/postgres?password_file=" + server.PasswordFile
		},
		tables: true,
		open: func(t *testing.T, url string) ks.Store {
			t.Helper()
			s, err := sqlstore.Open(url, sqlstore.Options{})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { s.Close() })
			return s
		},
		kill: server.Kill,
		start: func(t *testing.T) {
			t.Helper()
			if err := server.Begin(); err != nil {
				t.Fatal(err)
			}
		},
		pause: server.Pause,
		awake: server.Resume,
	}
}

// durableRedis writes each change to its file before it answers.
func durableRedis(t *testing.T) *fleetStore {
	t.Helper()
	require(t, installed("redis-server", "redis-server"))
	server := startRedis(t, shortDir(t), "--appendonly", "yes", "--appendfsync", "always", "--maxmemory-policy", "noeviction")
	return &fleetStore{
		address: server.address,
		url:     func(address string) string { return "redis://" + address },
		open: func(t *testing.T, url string) ks.Store {
			t.Helper()
			s, err := redisstore.Open(t.Context(), url, redisstore.Options{})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { s.Close() })
			return s
		},
		kill:  server.kill,
		start: server.start,
		pause: func() { _ = server.process.Process.Signal(syscall.SIGSTOP) },
		awake: func() { _ = server.process.Process.Signal(syscall.SIGCONT) },
	}
}
