package vaultstore

import (
	"context"
	"crypto"
	"crypto/rand"
	"errors"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"waxseal/keystore"
	"waxseal/keystore/storetest"
	"waxseal/keystore/vaultstore/vaulttest"
)

// taking is a store with transit that takes the keys of the test suite, which no
// such store does: they are put into the engine. And a key that is loaded has
// signed: otherwise the engine has not been asked for it.
type taking struct {
	*Store
	server *vaulttest.Server
}

func (s taking) Update(ctx context.Context, d *keystore.Domain) error {
	c := *d
	c.Keys = slices.Clone(d.Keys)
	for i := range c.Keys {
		k := &c.Keys[i]
		if load := k.Load; load != nil {
			k.Load = func(ctx context.Context) (crypto.Signer, error) {
				key, err := load(ctx)
				if _, inside := key.(*transitKey); err != nil || inside {
					return key, err
				}
				name := rand.Text()
				s.server.Mu.Lock()
				defer s.server.Mu.Unlock()
				s.server.Keys[name] = &vaulttest.Key{Kind: string(k.Algorithm), Signer: key}
				return &transitKey{s.layout.(*native).transit, name, key.Public()}, nil
			}
		}
	}
	err := s.Store.Update(ctx, &c)
	d.Version = c.Version
	return err
}

func (s taking) Domain(ctx context.Context, name string) (*keystore.Domain, error) {
	d, err := s.Store.Domain(ctx, name)
	if err != nil {
		return nil, err
	}
	for i := range d.Keys {
		if load := d.Keys[i].Load; load != nil {
			d.Keys[i].Load = func(ctx context.Context) (crypto.Signer, error) {
				key, err := load(ctx)
				if err == nil {
					err = keystore.SelfTest(key, nil)
				}
				return key, err
			}
		}
	}
	return d, nil
}

func TestTransitConforms(t *testing.T) {
	storetest.Run(t, func(t *testing.T) keystore.Store {
		f := vaulttest.New(t)
		return taking{open(t, f.StoreURL(t, "secret/waxseal", "transit=transit"), Options{}), f}
	})
	f := vaulttest.New(t)
	var clients []keystore.Store
	for range 4 {
		clients = append(clients, taking{open(t, f.StoreURL(t, "secret/waxseal", "transit=transit"), Options{}), f})
	}
	storetest.RunClients(t, clients...)
}

func TestTransitWithConnectionsCut(t *testing.T) {
	f := vaulttest.New(t)
	p := storetest.NewProxy(t, "tcp", f.Host())
	url := strings.Replace(f.StoreURL(t, "secret/waxseal", "transit=transit", "sign_timeout=300ms"), f.Host(), p.Address, 1)
	storetest.RunCuts(t, taking{open(t, url, Options{}), f}, p)
	storetest.RunSlow(t, taking{open(t, strings.Replace(url, "secret/waxseal", "secret/slow", 1), Options{}), f}, p)
}

func inTransitSigns(t *testing.T, s *Store) {
	t.Helper()
	d := &keystore.Domain{Name: "example.com"}
	for selector, algorithm := range map[string]keystore.Algorithm{"r": keystore.RSA2048, "e": keystore.Ed25519} {
		signer, err := s.Generate(t.Context(), d.Name, selector, algorithm)
		if err != nil {
			t.Fatal(err)
		}
		d.Keys = append(d.Keys, storetest.ActiveOf(t, selector, signer))
	}
	if err := s.Update(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	cache := keystore.NewCache(s, keystore.CacheOptions{})
	defer cache.Close()
	signing, err := cache.Signing(t.Context(), d.Name)
	if err != nil || len(signing.Keys) != 2 || len(signing.Broken) != 0 {
		t.Fatalf("%+v, %v", signing, err)
	}
	for _, k := range signing.Keys {
		if err := keystore.SelfTest(k.Signer, nil); err != nil {
			t.Errorf("%s: %v", k.Algorithm, err)
		}
	}
	if d, err = s.Domain(t.Context(), d.Name); err != nil {
		t.Fatal(err)
	}
	key, err := d.Keys[0].Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := keystore.MarshalPrivateKey(key); err == nil {
		t.Error("a key in the transit engine can be written out")
	}
	d.Keys[0].State = keystore.Removed
	if err := s.Update(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	if err := keystore.SelfTest(key, nil); err == nil {
		t.Error("a removed key signs")
	}
	if _, err := s.Generate(t.Context(), d.Name, "x", keystore.RSA1024); err == nil {
		t.Error("transit made a key of 1024 bits")
	}
}

func TestKeysStayInTransit(t *testing.T) {
	f := vaulttest.New(t)
	inTransitSigns(t, open(t, f.StoreURL(t, "secret/waxseal", "transit=transit"), Options{}))
	for name, s := range f.KV2 {
		for _, v := range s.Versions {
			if strings.Contains(string(v.Data), "PRIVATE KEY") {
				t.Errorf("%s has a private half", name)
			}
		}
	}
	if len(f.Keys) != 1 {
		t.Errorf("%d keys in the engine, want the one that was not removed", len(f.Keys))
	}
}

func TestSignaturesInTransitAreBounded(t *testing.T) {
	f := vaulttest.New(t)
	f.SlowSign = 20 * time.Millisecond
	s := open(t, f.StoreURL(t, "secret/waxseal", "transit=transit", "requests=3", "sign_timeout=10s"), Options{})
	key, err := s.Generate(t.Context(), "example.com", "e", keystore.Ed25519)
	if err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	for range 12 {
		group.Go(func() {
			if err := keystore.SelfTest(key, nil); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	if f.Most != 3 {
		t.Errorf("%d signatures under way at a time, want 3", f.Most)
	}
	f.Mu.Lock()
	f.SlowSign = time.Second
	f.Mu.Unlock()
	s = open(t, f.StoreURL(t, "secret/waxseal", "transit=transit", "requests=1", "sign_timeout=60ms"), Options{})
	if key, err = s.Generate(t.Context(), "example.com", "e", keystore.Ed25519); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	for range 2 {
		group.Go(func() {
			if err := keystore.SelfTest(key, nil); err == nil {
				t.Error("a signature that takes too long was waited for")
			}
		})
	}
	group.Wait()
	if d := time.Since(began); d > 900*time.Millisecond {
		t.Errorf("it took %v to give up", d)
	}
}

func TestNoKeyFromElsewhereGetsIntoTransit(t *testing.T) {
	f := vaulttest.New(t)
	plain := open(t, f.StoreURL(t, "secret/waxseal"), Options{})
	d := storetest.Create(t, plain, "example.com", "old")
	s := open(t, f.StoreURL(t, "secret/waxseal", "transit=transit"), Options{})
	if plain.Transit() || !s.Transit() {
		t.Error("Transit does not tell the two apart")
	}
	d.Keys = append(d.Keys, storetest.Active(t, "new"))
	if err := s.Update(t.Context(), d); !errors.Is(err, ErrMadeElsewhere) {
		t.Errorf("a key that was made here: %v", err)
	}
	// What is there from before goes on signing, beside a key inside.
	key, err := s.Generate(t.Context(), d.Name, "new", keystore.Ed25519)
	if err != nil {
		t.Fatal(err)
	}
	d.Keys[1] = storetest.ActiveOf(t, "new", key)
	if err := s.Update(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	cache := keystore.NewCache(s, keystore.CacheOptions{})
	defer cache.Close()
	if signing, err := cache.Signing(t.Context(), d.Name); err != nil || len(signing.Keys) != 2 {
		t.Errorf("%+v, %v", signing, err)
	}
	// Nor does one of this engine get out, or into another keystore.
	for name, to := range map[string]*Store{
		"out": open(t, f.StoreURL(t, "secret/copy"), Options{}), "a second keystore": open(t, f.StoreURL(t, "secret/copy", "transit=transit"), Options{}),
	} {
		copied := &keystore.Domain{Name: d.Name, Keys: slices.Clone(d.Keys[1:])}
		if err := to.Update(t.Context(), copied); err == nil || name == "out" && !errors.Is(err, keystore.ErrRemote) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestKeyOfAFailedUpdateIsFoundAgain(t *testing.T) {
	f := vaulttest.New(t)
	s := open(t, f.StoreURL(t, "secret/waxseal", "transit=transit"), Options{})
	first, err := s.Generate(t.Context(), "example.com", "a", keystore.Ed25519)
	if err != nil {
		t.Fatal(err)
	}
	again, err := s.Generate(t.Context(), "example.com", "a", keystore.Ed25519)
	if err != nil || keystore.SelfTest(again, storetest.ActiveOf(t, "a", first).Public) != nil || len(f.Keys) != 1 || f.Keys["a._domainkey.example.com"] == nil {
		t.Errorf("%v; keys %v", err, f.Keys)
	}
	if _, err := s.Generate(t.Context(), "example.com", "a", keystore.RSA2048); err == nil || !strings.Contains(err.Error(), "of the type") {
		t.Errorf("a key of another type by the same name: %v", err)
	}
	f.Keys["a._domainkey.example.com"].Exportable = true
	if _, err := s.Generate(t.Context(), "example.com", "a", keystore.Ed25519); err == nil || !strings.Contains(err.Error(), "exported") {
		t.Errorf("a key that may be exported: %v", err)
	}
}

// The next key of a slot never takes the place of one that signs.
func TestSlotsInTransit(t *testing.T) {
	f := vaulttest.New(t)
	s := open(t, f.StoreURL(t, "secret/waxseal", "transit=transit"), Options{})
	d := &keystore.Domain{Name: "example.com", Slots: []keystore.Slot{{Selector: "s1", Target: "s1.example.net"}}}
	var publics []string
	for range 3 {
		key, err := s.Generate(t.Context(), d.Name, "s1", keystore.Ed25519)
		if err != nil {
			t.Fatal(err)
		}
		d.Keys = []keystore.Key{storetest.ActiveOf(t, "s1", key)}
		if publics = append(publics, string(d.Keys[0].Public)); publics[0] == string(d.Keys[0].Public) && len(publics) > 1 {
			t.Fatal("the slot got a key that it had before")
		}
		if err := s.Update(t.Context(), d); err != nil {
			t.Fatal(err)
		}
		// A rival that has read the domain before makes another key in vain.
		if _, err := s.Generate(t.Context(), d.Name, "s1", keystore.Ed25519); err != nil {
			t.Fatal(err)
		}
		got, err := s.Domain(t.Context(), d.Name)
		if err != nil {
			t.Fatal(err)
		}
		if key, err = got.Keys[0].Load(t.Context()); err != nil || keystore.SelfTest(key, d.Keys[0].Public) != nil {
			t.Fatalf("the slot's key: %v", err)
		}
		d.Keys[0].State = keystore.Removed
		if err := s.Update(t.Context(), d); err != nil {
			t.Fatal(err)
		}
		if keystore.SelfTest(key, nil) == nil {
			t.Error("the removed key signs")
		}
	}
}

// A key that could not be deleted with its row is deleted by the next change.
func TestKeyIsDeletedLater(t *testing.T) {
	f := vaulttest.New(t)
	s := open(t, f.StoreURL(t, "secret/waxseal", "transit=transit"), Options{})
	d := &keystore.Domain{Name: "example.com"}
	for _, selector := range []string{"a", "b"} {
		key, err := s.Generate(t.Context(), d.Name, selector, keystore.Ed25519)
		if err != nil {
			t.Fatal(err)
		}
		d.Keys = append(d.Keys, storetest.ActiveOf(t, selector, key))
	}
	if err := s.Update(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	f.Refuse = func(r *http.Request) bool { return r.Method == "DELETE" }
	d.Keys[0].State = keystore.Removed
	if err := s.Update(t.Context(), d); err == nil || d.Version != 2 || len(f.Keys) != 2 {
		t.Errorf("the key cannot be deleted: %v, version %d", err, d.Version)
	}
	f.Refuse = nil
	d.Keys[1].Note = "changed"
	if err := s.Update(t.Context(), d); err != nil || len(f.Keys) != 1 {
		t.Errorf("%v, keys %v", err, f.Keys)
	}
}
