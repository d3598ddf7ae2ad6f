package sqlstore_test

import (
	"context"
	"database/sql"
	"encoding/base64"
	"fmt"
	"math/rand/v2"
	"strconv"
	"testing"

	"waxseal/keystore"
	"waxseal/keystore/sqlstore"
	"waxseal/keystore/storetest"
)

// few are more than any page has. A million are in the tests of the daemon.
const few = 5_000

// fill puts n domains with one active key into the tables, by SQL.
func fill(t testing.TB, db *sql.DB, n int) {
	t.Helper()
	k := storetest.Active(t, "2026a")
	signer, err := k.Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	private, err := keystore.MarshalPrivateKey(signer)
	if err != nil {
		t.Fatal(err)
	}
	const numbers = `WITH RECURSIVE r (i) AS (SELECT %d UNION ALL SELECT i + 1 FROM r WHERE i < %d) `
	const each = 1000 // MariaDB recurses no deeper, unless told
	tx, err := db.Begin()
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback()
	for at := 0; at < n; at += each {
		with := fmt.Sprintf(numbers, at, at+each-1)
		for _, s := range []string{
			`INSERT INTO waxseal_domain (name, version, changed, changed_at, changed_by) ` + with + `SELECT concat('d', i, '.example'), 1, i, '2026-11-22T10:20:30Z', '' FROM r`,
			`INSERT INTO waxseal_key (domain, selector, number, algorithm, state, public, private, created, activated, retired, revoked, removed, published, seen, ready, withdrawn, urgent, note, reason) ` +
				with + `SELECT concat('d', i, '.example'), '2026a', 0, 'ed25519', 'active', '` + base64.StdEncoding.EncodeToString(k.Public) + `', '` + string(private) +
				`', '2026-11-22T10:20:30Z', '2026-11-22T10:20:30Z', '', '', '', '', '', '', '', 0, '', '' FROM r`,
		} {
			if _, err := tx.Exec(s); err != nil {
				t.Fatal(err)
			}
		}
	}
	if _, err := tx.Exec(`UPDATE waxseal_meta SET value = ` + strconv.Itoa(n) + ` WHERE name = 'change'`); err != nil {
		t.Fatal(err)
	}
	if err := tx.Commit(); err != nil {
		t.Fatal(err)
	}
}

// filled makes a store of n domains.
func (p place) filled(t testing.TB, n int) (url string) {
	t.Helper()
	u, _ := p.url(t, "")
	s := openAt(t, u, sqlstore.Options{})
	if _, _, err := s.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	fill(t, p.direct(t, u), n)
	return u
}

func TestManyDomains(t *testing.T) {
	everywhere(t, func(t *testing.T, p place) {
		u := p.filled(t, few)
		name := func() string { return fmt.Sprintf("d%d.example", rand.N(few)) }
		s := openAt(t, u, sqlstore.Options{})
		cache := keystore.NewCache(s, keystore.CacheOptions{})
		defer cache.Close()
		if got, err := cache.Signing(t.Context(), name()); err != nil || len(got.Keys) != 1 {
			t.Fatal(got, err)
		}
		d, err := s.Domain(t.Context(), name())
		if err != nil {
			t.Fatal(err)
		}
		d.Keys[0].Note = "changed"
		if err := s.Update(t.Context(), d); err != nil {
			t.Fatal(err)
		}
		names, err := s.List(t.Context(), "d5", 10)
		if err != nil || len(names) != 10 {
			t.Fatal(names, err)
		}
		if st, err := s.Status(t.Context()); err != nil || st.Domains != few || st.LastChanged != d.Name {
			t.Errorf("%+v, %v", st, err)
		}
	})
}

// A lookup of a domain that is not in the cache is one question and one answer.
func TestColdLookupIsOneQuery(t *testing.T) {
	servers(t, func(t *testing.T, p place) {
		s, proxy, _ := p.behind(t, sqlstore.Options{})
		for _, name := range []string{"a.example", "b.example"} {
			storetest.Create(t, s, name, "2026a")
		}
		var last int
		for _, name := range []string{"a.example", "none.example", "b.example"} { // the first prepares
			cache := keystore.NewCache(silent{s}, keystore.CacheOptions{})
			proxy.CutAt(0)
			cache.Signing(t.Context(), name)
			last = proxy.Pieces()
			cache.Close()
		}
		if last != 2 {
			t.Errorf("a cold lookup of a domain takes %d pieces, want a question and an answer", last)
		}
	})
}

// silent is a store that watches nothing, so that only lookups are on the line.
type silent struct{ keystore.SigningStore }

func (silent) Watch(context.Context, func(string)) error { return nil }

func BenchmarkColdLookup(b *testing.B) {
	for _, p := range places {
		b.Run(p.name, func(b *testing.B) {
			s := openAt(b, p.filled(b, few), sqlstore.Options{})
			for b.Loop() {
				d, err := s.Signing(b.Context(), fmt.Sprintf("d%d.example", rand.N(few)))
				if err != nil {
					b.Fatal(err)
				}
				if _, err := d.Keys[0].Load(b.Context()); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkUpdate(b *testing.B) {
	for _, p := range places {
		b.Run(p.name, func(b *testing.B) {
			s := p.open(b, sqlstore.Options{})
			d := storetest.Create(b, s, "example.com", "2026a")
			for n := 0; b.Loop(); n++ {
				d.Keys[0].Note = strconv.Itoa(n)
				if err := s.Update(b.Context(), d); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
