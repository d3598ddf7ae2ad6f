package sqlstore_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"waxseal/keystore/sqlstore"
)

// Where the change counter is looked at, many changes at once are told as one of
// every domain, and so is a counter that went back, as after a restored backup.
func TestCounterThatJumps(t *testing.T) {
	everywhere(t, func(t *testing.T, p place) {
		u, _ := p.url(t, "")
		s := openAt(t, u, sqlstore.Options{})
		if p.name == "PostgreSQL" {
			s = openAt(t, u+"&pooler=transaction", sqlstore.Options{})
		}
		if _, _, err := s.Migrate(t.Context()); err != nil {
			t.Fatal(err)
		}
		const domains = 1100
		rows := make([]string, domains)
		for i := range rows {
			rows[i] = fmt.Sprintf("('d%d.example', 1, %d, '', '')", i, i+1)
		}
		news := make(chan string, 2*domains)
		go s.Watch(t.Context(), func(domain string) { news <- domain })
		await := func(what string) {
			t.Helper()
			select {
			case got := <-news:
				if got != "" {
					t.Fatalf("%s: told of %q, want of all", what, got)
				}
			case <-time.After(10 * time.Second):
				t.Fatalf("%s: nothing was told", what)
			}
		}
		await("at the beginning")
		db := p.direct(t, u)
		execute(t, db, "INSERT INTO waxseal_domain (name, version, changed, changed_at, changed_by) VALUES "+strings.Join(rows, ", "))
		execute(t, db, fmt.Sprintf("UPDATE waxseal_meta SET value = %d WHERE name = 'change'", domains))
		await("many changes")
		execute(t, db, "UPDATE waxseal_meta SET value = 5 WHERE name = 'change'")
		await("a counter that went back")
	})
}
