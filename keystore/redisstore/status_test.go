package redisstore

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"waxseal/keystore"
	"waxseal/keystore/storetest"
)

// Whatever the server: several clients change the same domains, each tells that it
// lives, and all see the same of the others.
func sharedByMany(t *testing.T, url string, opts Options, kind string) {
	t.Helper()
	at := time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)
	opts.Now = func() time.Time { return at }
	var stores []*Store
	var clients []keystore.Store
	for range 4 {
		s := open(t, url, opts)
		stores, clients = append(stores, s), append(clients, s)
	}
	if st, err := stores[0].Status(t.Context()); err != nil || st.Domains != 0 || st.LastChanged != "" || len(st.Nodes) != 0 {
		t.Errorf("an empty store: %+v, %v", st, err)
	}
	storetest.RunClients(t, clients...)

	started, refreshed := at.Add(-time.Hour), at.Add(-time.Second)
	for i, s := range stores {
		n := keystore.Node{Name: fmt.Sprintf("mx%d/unix:/run/a b.sock", i), Program: "waxseal 1", Started: started, Refreshed: refreshed}
		if err := s.Beat(t.Context(), n); err != nil {
			t.Fatal(err)
		}
		at = at.Add(time.Minute)
	}
	st, err := stores[0].Status(t.Context())
	if err != nil || st.Kind != kind || st.Connect <= 0 || st.Latency <= 0 || st.Domains != 2 || st.LastChanged != "example.net" || st.LastChange.IsZero() {
		t.Errorf("%+v, %v", st, err)
	}
	want := keystore.Node{Name: "mx1/unix:/run/a b.sock", Program: "waxseal 1", Started: started, Refreshed: refreshed,
		Seen: started.Add(time.Hour + time.Minute)}
	if len(st.Nodes) != 4 || st.Nodes[1] != want {
		t.Errorf("nodes %+v, want the second to be %+v", st.Nodes, want)
	}
	at = at.Add(nodeLife - 2*time.Minute) // of the four, two have been silent for longer
	if err := stores[0].Beat(t.Context(), keystore.Node{Name: "new"}); err != nil {
		t.Fatal(err)
	}
	at = started // and they are gone, not hidden
	if st, err = stores[0].Status(t.Context()); err != nil || len(st.Nodes) != 3 || st.Nodes[0].Name != "mx2/unix:/run/a b.sock" || st.Nodes[2].Name != "new" {
		t.Errorf("after a week: %+v, %v", st.Nodes, err)
	}
	if names, err := stores[0].List(t.Context(), "", 0); err != nil || len(names) != 2 {
		t.Errorf("List = %q, %v", names, err)
	}
}

func TestStatusOfAUserOfAnACL(t *testing.T) {
	url, opts := limitedUser(t, start(t))
	sharedByMany(t, url+"&prefix=t:", opts, "Redis")
}

func TestNodeThatCannotBeReadIsForgotten(t *testing.T) {
	s := start(t)
	store := open(t, "redis://"+s.address(), Options{})
	s.must("HSET", "waxseal:nodes", "bad", "{", "worse", `{"seen":7}`)
	if st, err := store.Status(t.Context()); err != nil || len(st.Nodes) != 0 {
		t.Errorf("%+v, %v", st.Nodes, err)
	}
	if err := store.Beat(t.Context(), keystore.Node{Name: "good"}); err != nil {
		t.Fatal(err)
	}
	if n, err := s.do("HLEN", "waxseal:nodes").AsInt64(); err != nil || n != 1 {
		t.Errorf("%d nodes are noted, %v; want one", n, err)
	}
}

// That the last change cannot be noted fails no change.
func TestChangeThatCannotBeNotedIsMade(t *testing.T) {
	s := start(t)
	s.must("SET", "waxseal:last", "of another type")
	store := open(t, "redis://"+s.address(), Options{})
	storetest.Create(t, store, "example.com", "a")
	if _, err := store.Status(t.Context()); err == nil {
		t.Error("a key of another type in the way of the status was not told")
	}
}

func TestStatusOfOtherProductsKeys(t *testing.T) {
	s := start(t)
	s.must("HSET", "DKIM_KEYS", "dkim.example.com", "x", "dkim.example.net", "x")
	store := open(t, "redis://"+s.address()+"?layout=rspamd&selector=dkim", Options{Rewrap: func(string, *keystore.Key, []byte) ([]byte, error) { return nil, nil }})
	if st, err := store.Status(t.Context()); err != nil || st.Kind != "Redis, rspamd's keys" || st.Domains != 2 || st.Latency <= 0 {
		t.Errorf("%+v, %v", st, err)
	}
	if err := store.Beat(t.Context(), keystore.Node{Name: "n"}); !errors.Is(err, keystore.ErrReadOnly) {
		t.Errorf("Beat: %v", err)
	}
	if _, err := store.Rewrap(t.Context(), "example.com", false); !errors.Is(err, keystore.ErrReadOnly) {
		t.Errorf("Rewrap: %v", err)
	}
	s.kill()
	if _, err := open(t, "redis://"+s.address(), Options{Timeout: time.Second}).Status(t.Context()); err == nil {
		t.Error("a server that is down has a status")
	}
}
