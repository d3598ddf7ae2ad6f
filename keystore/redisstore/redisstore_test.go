package redisstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"waxseal/keystore"
	"waxseal/keystore/storetest"
)

// fresh opens stores that see nothing of each other in one server.
func fresh(url string, opts Options) func(t *testing.T) keystore.Store {
	n := 0
	return func(t *testing.T) keystore.Store {
		n++
		sep := "?"
		if strings.Contains(url, "?") {
			sep = "&"
		}
		return open(t, fmt.Sprintf("%s%sprefix=t%d:", url, sep, n), opts)
	}
}

func TestSingleServerConforms(t *testing.T) {
	t.Parallel()
	s := start(t)
	storetest.Run(t, fresh("redis://"+s.address()+"/3", Options{}))
	sharedByMany(t, "redis://"+s.address()+"/4", Options{}, "Redis")
}

func TestUserOfAnACLConformsOnASocket(t *testing.T) {
	t.Parallel()
	storetest.Run(t, fresh(limitedUser(t, start(t))))
}

// limitedUser makes a user who may do no more than is needed, with keys that begin
// with t, and returns how to open a store of theirs.
func limitedUser(t *testing.T, s *server) (url string, opts Options) {
	t.Helper()
	s.must("ACL", "SETUSER", "waxseal", "on", ">a secret", "resetchannels", "~t*", "-@all", "+@connection", "+client|tracking",
		"+hmget", "+hget", "+hgetall", "+hset", "+hdel", "+zadd", "+zrangebylex", "+zcard", "+exists", "+eval", "+wait")
	file := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(file, []byte("a secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return "redis+unix:///" + strings.TrimPrefix(filepath.Join(s.dir, "s"), "/") + "?password_file=x",
		Options{SecretPath: func(string) (string, error) { return file, nil }}
}

func TestWrappedKeysConform(t *testing.T) {
	t.Parallel()
	s := start(t)
	storetest.Run(t, fresh("redis://"+s.address(), Options{
		Wrap: func(domain, selector string, pem []byte) ([]byte, error) {
			return append([]byte(selector+"/"+domain+":"), pem...), nil
		},
		Unwrap: func(domain, selector string, stored []byte) ([]byte, error) {
			if !bytes.HasPrefix(stored, []byte(selector+"/"+domain+":")) {
				return nil, errors.New("not for this key")
			}
			return bytes.Clone(stored[len(selector)+len(domain)+2:]), nil
		},
	}))
}

func TestConnectionCutInEveryOperation(t *testing.T) {
	s := start(t)
	p := storetest.NewProxy(t, "tcp", s.address())
	storetest.RunCuts(t, open(t, "redis://"+p.Address, Options{}), p)
}

func TestSilentServerHoldsNobody(t *testing.T) {
	s := start(t)
	p := storetest.NewProxy(t, "tcp", s.address())
	storetest.RunSlow(t, open(t, "redis://"+p.Address, Options{}), p)
}

func TestFirstConnectionHoldsNobody(t *testing.T) {
	s := start(t)
	p := storetest.NewProxy(t, "tcp", s.address())
	p.Delay(time.Minute)
	defer p.Drop()
	store, err := Open(t.Context(), "redis://"+p.Address, Options{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	began := time.Now()
	if _, err := store.Domain(ctx, "example.com"); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) > time.Second {
		t.Errorf("a server that never answered: %v after %v", err, time.Since(began))
	}
	p.Drop()
	store.Close()
	if _, err := store.Domain(t.Context(), "example.com"); !errors.Is(err, errClosed) {
		t.Errorf("after Close: %v", err)
	}
}

func TestServerMayBeDownAtTheStartAndRestart(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.kill()
	store := open(t, "redis://"+s.address(), Options{Timeout: time.Second})
	if _, err := store.Domain(t.Context(), "example.com"); err == nil || errors.Is(err, keystore.ErrNotFound) || !strings.Contains(err.Error(), s.address()) {
		t.Errorf("without a server: %v", err)
	}
	s.run()
	want := storetest.Create(t, store, "example.com", "a")
	s.kill()
	if _, err := store.Domain(t.Context(), "example.com"); err == nil || errors.Is(err, keystore.ErrNotFound) {
		t.Errorf("with the server gone: %v", err)
	}
	s.run()
	got, err := store.Domain(t.Context(), "example.com")
	if err != nil || got.Version != want.Version {
		t.Fatalf("after the restart: %v", err)
	}
	if _, err := got.Keys[0].Load(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestSigningTakesOneRequest(t *testing.T) {
	s := start(t)
	store := open(t, "redis://"+s.address(), Options{})
	storetest.Create(t, store, "example.com", "a", "b")
	d, err := store.Signing(t.Context(), "example.com")
	if err != nil {
		t.Fatal(err)
	}
	s.kill()
	for i := range d.Keys {
		if key, err := d.Keys[i].Load(t.Context()); err != nil || keystore.SelfTest(key, d.Keys[i].Public) != nil {
			t.Errorf("key %s asks the server again: %v", d.Keys[i].Selector, err)
		}
	}
}

func TestDamageIsNamed(t *testing.T) {
	s := start(t)
	store := open(t, "redis://"+s.address(), Options{})
	key := "waxseal:domain:example.com"
	for _, test := range []struct {
		name   string
		damage []string
		whole  string // what is said of the domain
		keys   int    // that can be read all the same
		row    string // what is said of a row
		load   string // what is said of the key "a"
	}{
		{"no document", []string{"HDEL", key, "domain"}, "broken", 0, "", ""},
		{"half a document", []string{"HSET", key, "domain", `{"keys":[`}, "broken", 0, "", ""},
		{"a version that is no number", []string{"HSET", key, "version", "x"}, "want a number", 0, "", ""},
		{"a key of another type", []string{"SET", key, "x"}, "another type", 0, "", ""},
		{"a row that is none", []string{"HSET", key, "domain", `{"keys":[{"selector":"a","algorithm":"ed25519","state":"active","public":"AAAA"}]}`}, "", 0, "key 1 of example.com", ""},
		{"a private half that is none", []string{"HSET", key, "key:a", "x"}, "", 2, "", "not PEM"},
		{"a private half that is huge", []string{"HSET", key, "key:a", strings.Repeat("x", maxValue+1)}, "", 2, "", "at most"},
		{"a private half that is gone", []string{"HDEL", key, "key:a"}, "", 2, "", "missing"},
	} {
		t.Run(test.name, func(t *testing.T) {
			s.must("FLUSHALL")
			storetest.Create(t, store, "example.com", "a", "b")
			storetest.Create(t, store, "example.net", "a")
			s.must(test.damage...)
			d, err := store.Domain(t.Context(), "example.com")
			switch {
			case test.whole != "" && (err == nil || !strings.Contains(err.Error(), test.whole) || !errors.Is(err, keystore.ErrBroken)):
				t.Fatalf("error %v, want ErrBroken with %q", err, test.whole)
			case test.whole == "" && (err != nil || len(d.Keys) != test.keys):
				t.Fatalf("%v, error %v", d, err)
			case test.row != "" && (len(d.Unreadable) != 1 || !strings.Contains(d.Unreadable[0].Err.Error(), test.row)):
				t.Errorf("unreadable %v, want %q", d.Unreadable, test.row)
			case test.load != "":
				if _, err := d.Keys[0].Load(t.Context()); err == nil || !strings.Contains(err.Error(), test.load) {
					t.Errorf("error %v, want %q", err, test.load)
				}
			}
			if d, err := store.Domain(t.Context(), "example.net"); err != nil || d.Whole() != nil {
				t.Errorf("another domain is disturbed: %v", err)
			}
		})
	}
}

func TestChangeSentTwiceIsMadeOnce(t *testing.T) {
	s := start(t)
	store := open(t, "redis://"+s.address(), Options{})
	d := storetest.Create(t, store, "example.com", "a")
	n := store.layout.(*native)
	client, err := store.connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	d.Keys[0].Note = "first"
	args, err := n.arguments(t.Context(), d, d)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := n.send(t.Context(), client, change, d.Name, args); err != nil {
		t.Fatal(err)
	}
	other, err := store.Domain(t.Context(), d.Name)
	if err != nil {
		t.Fatal(err)
	}
	other.Keys[0].Note = "second"
	if err := store.Update(t.Context(), other); err != nil {
		t.Fatal(err)
	}
	if _, err := n.send(t.Context(), client, change, d.Name, args); err != nil {
		t.Errorf("the change that was made already: %v", err)
	}
	if got, err := store.Domain(t.Context(), d.Name); err != nil || got.Version != other.Version || got.Keys[0].Note != "second" {
		t.Errorf("it was made twice: %+v, %v", got, err)
	}
}

func TestWatchSurvivesALostConnection(t *testing.T) {
	s := start(t)
	p := storetest.NewProxy(t, "tcp", s.address())
	store := open(t, "redis://"+p.Address, Options{})
	direct := open(t, "redis://"+s.address(), Options{})
	storetest.Create(t, direct, "example.com", "a")
	cache := keystore.NewCache(store, keystore.CacheOptions{Refresh: time.Hour})
	defer cache.Close()
	expect := func(keys int) {
		t.Helper()
		s.await("word of the change", func() bool {
			signing, err := cache.Signing(t.Context(), "example.com")
			return err == nil && len(signing.Keys) == keys
		})
	}
	expect(1)
	change := func(selector string) {
		t.Helper()
		d, err := direct.Domain(t.Context(), "example.com")
		if err != nil {
			t.Fatal(err)
		}
		d.Keys = append(d.Keys, storetest.Active(t, selector))
		if err := direct.Update(t.Context(), d); err != nil {
			t.Fatal(err)
		}
	}
	change("b")
	expect(2)
	p.Drop() // and a change while nobody listens
	change("c")
	expect(3)
	change("d")
	expect(4)
}
