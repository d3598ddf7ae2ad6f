package sqlstore_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"waxseal/keystore"
	"waxseal/keystore/sqlstore"
	"waxseal/keystore/storetest"
)

// behind makes a store whose server is reached through a proxy.
func (p place) behind(t *testing.T, o sqlstore.Options) (*sqlstore.Store, *storetest.Proxy, string) {
	t.Helper()
	_, addr := p.url(t, "")
	proxy := storetest.NewProxy(t, "tcp", addr)
	u, _ := p.url(t, proxy.Address)
	u += "&connections=1" // so that every piece is the operation's
	s := openAt(t, u, o)
	if _, _, err := s.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s, proxy, u
}

// The connection is lost after each piece that an operation sends or receives,
// one after the other. What reads never notices; a change takes place exactly
// once.
func TestConnectionLostInTheMiddle(t *testing.T) {
	servers(t, func(t *testing.T, p place) {
		s, proxy, u := p.behind(t, sqlstore.Options{})
		storetest.Create(t, s, "example.com", "a")
		direct := openAt(t, strings.Replace(u, proxy.Address, p.server.Get(t).Addr, 1), sqlstore.Options{})
		domain := func() *keystore.Domain {
			t.Helper()
			d, err := direct.Domain(t.Context(), "example.com")
			if err != nil {
				t.Fatal(err)
			}
			return d
		}
		key := domain().Keys[0]
		made := 0
		for _, test := range []struct {
			name string
			run  func() error
		}{
			{"Domain", func() error { _, err := s.Domain(t.Context(), "example.com"); return err }},
			{"Signing", func() error { _, err := s.Signing(t.Context(), "example.com"); return err }},
			{"List", func() error { _, err := s.List(t.Context(), "", 0); return err }},
			{"Load", func() error {
				d, err := s.Domain(t.Context(), "example.com")
				if err == nil {
					_, err = d.Keys[0].Load(t.Context())
				}
				return err
			}},
			{"Status", func() error { _, err := s.Status(t.Context()); return err }},
			{"Beat", func() error { return s.Beat(t.Context(), keystore.Node{Name: "mx1", Started: now, Refreshed: now}) }},
			{"Update of a domain", func() error {
				before := domain()
				d := domain()
				k := storetest.Active(t, fmt.Sprintf("k%d", made))
				made++
				d.Keys = append(d.Keys, k)
				d.History = append(d.History, keystore.Event{Time: now, Selector: k.Selector, What: keystore.WasCreated})
				err := s.Update(t.Context(), d)
				after := domain()
				if err != nil {
					return err
				}
				if after.Version != before.Version+1 || d.Version != after.Version || len(after.Keys) != len(before.Keys)+1 || len(after.History) != len(before.History)+1 {
					t.Errorf("from version %d, %d keys, %d events to %d, %d, %d; told %d", before.Version, len(before.Keys), len(before.History),
						after.Version, len(after.Keys), len(after.History), d.Version)
				}
				return nil
			}},
			{"Update of a new domain", func() error {
				name := fmt.Sprintf("d%d.example", made)
				made++
				d := &keystore.Domain{Name: name, Keys: []keystore.Key{storetest.Active(t, "a")}}
				if err := s.Update(t.Context(), d); err != nil {
					return err
				}
				got, err := direct.Domain(t.Context(), name)
				if err == nil && (got.Version != 1 || d.Version != 1 || len(got.Keys) != 1) {
					t.Errorf("version %d, told %d, %d keys", got.Version, d.Version, len(got.Keys))
				}
				return err
			}},
		} {
			cut := 0
			for n := 1; ; n++ {
				proxy.CutAt(n)
				if err := test.run(); err != nil {
					t.Errorf("%s, cut at piece %d: %v", test.name, n, err)
				}
				if !proxy.WasCut() {
					break // it has fewer pieces
				}
				cut = n
			}
			proxy.CutAt(0)
			if cut < 2 {
				t.Errorf("%s was cut only %d times", test.name, cut)
			}
		}
		if _, err := key.Load(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// A server that does not answer costs a call its time and no more.
func TestSlowServer(t *testing.T) {
	servers(t, func(t *testing.T, p place) {
		s, proxy, u := p.behind(t, sqlstore.Options{})
		d := storetest.Create(t, s, "example.com", "a")
		s = openAt(t, u, sqlstore.Options{Timeout: 200 * time.Millisecond})
		proxy.Delay(time.Second)
		for _, test := range []struct {
			name string
			run  func(context.Context) error
		}{
			{"Domain", func(ctx context.Context) error { _, err := s.Domain(ctx, "example.com"); return err }},
			{"List", func(ctx context.Context) error { _, err := s.List(ctx, "", 0); return err }},
			{"Update", func(ctx context.Context) error { return s.Update(ctx, d) }},
			{"Status", func(ctx context.Context) error { _, err := s.Status(ctx); return err }},
		} {
			began := time.Now()
			if err := test.run(t.Context()); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%s: %v", test.name, err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			if err := test.run(ctx); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%s with a deadline of its own: %v", test.name, err)
			}
			cancel()
			if took := time.Since(began); took > 1500*time.Millisecond {
				t.Errorf("%s took %v", test.name, took)
			}
		}
		proxy.Delay(0)
		if err := openAt(t, u, sqlstore.Options{}).Update(t.Context(), d); err != nil {
			t.Errorf("afterwards: %v", err)
		}
	})
}

// The server is killed and comes back: reads go on, the watch says what may have
// changed meanwhile, and what was saved is there.
func TestServerRestarts(t *testing.T) {
	servers(t, func(t *testing.T, p place) {
		u, _ := p.url(t, "")
		s := openAt(t, u, sqlstore.Options{})
		if _, _, err := s.Migrate(t.Context()); err != nil {
			t.Fatal(err)
		}
		storetest.Create(t, s, "example.com", "a")
		news := make(chan string, 10)
		ended := make(chan error, 1)
		go func() { ended <- s.Watch(t.Context(), func(domain string) { news <- domain }) }()
		if got := <-news; got != "" {
			t.Fatalf("the watch begins with %q", got)
		}
		server := p.server.Get(t)
		server.Kill()
		if _, err := s.Domain(t.Context(), "example.com"); err == nil || errors.Is(err, keystore.ErrNotFound) {
			t.Errorf("while it is down: %v", err)
		}
		if err := s.Watch(t.Context(), func(string) {}); err == nil || strings.Contains(err.Error(), "no answer within") {
			t.Errorf("the watch of a server that refuses: %v", err)
		}
		if err := <-ended; err == nil {
			t.Error("the watch of a dead server ended without an error")
		}
		if err := server.Begin(); err != nil {
			t.Fatal(err)
		}
		if d, err := s.Domain(t.Context(), "example.com"); err != nil || len(d.Keys) != 1 {
			t.Errorf("afterwards: %v", err)
		}
		storetest.Create(t, s, "example.net", "a")
	})
}

// A server that is paused says nothing, also to those who are connected already,
// and what they asked for does not hang on it.
func TestServerIsPaused(t *testing.T) {
	servers(t, func(t *testing.T, p place) {
		u, _ := p.url(t, "")
		s := openAt(t, u, sqlstore.Options{})
		if _, _, err := s.Migrate(t.Context()); err != nil {
			t.Fatal(err)
		}
		storetest.Create(t, s, "example.com", "a")
		server := p.server.Get(t)
		server.Pause()
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		_, err := s.Domain(ctx, "example.com")
		cancel()
		server.Resume()
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("while it is paused: %v", err)
		}
		if d, err := s.Domain(t.Context(), "example.com"); err != nil || len(d.Keys) != 1 {
			t.Errorf("afterwards: %v", err)
		}
	})
}

func TestFailoverToTheNextHost(t *testing.T) {
	servers(t, func(t *testing.T, p place) {
		dead, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		dead.Close()
		silent, err := net.Listen("tcp", "127.0.0.1:0") // takes connections, and says nothing
		if err != nil {
			t.Fatal(err)
		}
		defer silent.Close()
		_, addr := p.url(t, "")
		u, _ := p.url(t, dead.Addr().String()+","+silent.Addr().String()+","+addr)
		s := openAt(t, u+"&connect_timeout=1", sqlstore.Options{})
		if _, _, err := s.Migrate(t.Context()); err != nil {
			t.Fatal(err)
		}
		storetest.Create(t, s, "example.com", "a")
	})
}

func TestWrongPassword(t *testing.T) {
	servers(t, func(t *testing.T, p place) {
		u, _ := p.url(t, "")
		u, _, _ = strings.Cut(u, "?")
		s := openAt(t, u, sqlstore.Options{})
		if _, err := s.Domain(t.Context(), "example.com"); err == nil || errors.Is(err, keystore.ErrNotFound) {
			t.Errorf("without a password: %v", err)
		}
		s = openAt(t, u+"?password_file=/nonexistent/password", sqlstore.Options{})
		if _, err := s.Domain(t.Context(), "example.com"); err == nil || !strings.Contains(err.Error(), "/nonexistent/password") {
			t.Errorf("without its file: %v", err)
		}
	})
}

// Who comes through a pooler cannot listen, but is heard, and sees what others
// change.
func TestBehindAPooler(t *testing.T) {
	for _, p := range places {
		if p.name != "PostgreSQL" {
			continue
		}
		u, _ := p.url(t, "")
		direct, pooled := openAt(t, u, sqlstore.Options{}), openAt(t, u+"&pooler=transaction", sqlstore.Options{})
		if _, _, err := pooled.Migrate(t.Context()); err != nil {
			t.Fatal(err)
		}
		watch := func(s *sqlstore.Store) chan string {
			news := make(chan string, 10)
			go s.Watch(t.Context(), func(domain string) { news <- domain })
			<-news // it has begun
			return news
		}
		heard, polled := watch(direct), watch(pooled)
		d := storetest.Create(t, pooled, "example.com", "a")
		d.Keys[0].Note = "changed"
		if err := pooled.Update(t.Context(), d); err != nil {
			t.Fatal(err)
		}
		for _, news := range []chan string{heard, polled} {
			if got := <-news; got != "example.com" {
				t.Errorf("heard of %q", got)
			}
		}
	}
}
