package sqlstore_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"waxseal/keystore"
	"waxseal/keystore/sqlstore"
)

// opendkimTables are as Postfixadmin makes them, with another prefix if it is
// told to.
func opendkimTables(prefix, key string) []string {
	statements := []string{
		"CREATE TABLE dkim (id int NOT NULL PRIMARY KEY, domain_name varchar(255) NOT NULL, description varchar(255), selector varchar(63) NOT NULL DEFAULT 'default', private_key text, public_key text)",
		"CREATE TABLE dkim_signing (id int NOT NULL PRIMARY KEY, author varchar(255) NOT NULL DEFAULT '', dkim_id int NOT NULL)",
		"CREATE INDEX dkim_signing_author ON dkim_signing (author)",
		"INSERT INTO dkim (id, domain_name, selector, private_key) VALUES (1, 'example.com', 's1', 'P'), (2, 'example.com', 's2', 'P'), (3, 'one.example', 'Only', 'P'), (4, 'hoster.example', 'all', 'P'), " +
			"(5, 'sub.example.com', 'sub', 'P'), (6, '%', 'any', 'P'), (7, 'unused.example', 's1', 'P'), (8, 'news.example.com', 'news', 'P'), (9, 'a b', 's', 'P'), (10, 'example.com', 'any', 'P')",
		"INSERT INTO dkim_signing (id, author, dkim_id) VALUES (1, 'example.com', 1), (2, 'example.com', 2), (3, '.example.com', 2), (4, 'ann@one.example', 3), (5, '*', 4), " +
			"(6, 'sub.example.com', 5), (7, 'bob@.example.com', 8), (8, 'carl@*', 6), (9, 'ann@example.com', 4), (10, 'ann@example.com', 1), (11, 'eve@example.com', 9), (12, 'eve@example.com', 1), (13, 'mallory@example.com', 9), (14, 'zo\u00eb@example.com', 3)",
	}
	for i := range statements {
		statements[i] = strings.NewReplacer("dkim ", prefix+"dkim ", "dkim_signing ", prefix+"dkim_signing ", "'P'", "'"+key+"'").Replace(statements[i])
	}
	return statements
}

// answer writes what a store says of an author in a line.
func answer(t testing.TB, s *sqlstore.Foreign, address string) string {
	t.Helper()
	got, err := s.Sender(t.Context(), address)
	if err != nil {
		return err.Error()
	}
	parts := []string{}
	for _, k := range got.Keys {
		part := k.Selector + "._domainkey." + k.Domain
		if k.Identity != "" {
			part += " i=" + k.Identity
		}
		parts = append(parts, part)
	}
	for _, err := range got.Broken {
		parts = append(parts, "! "+err.Error())
	}
	return strings.TrimSpace(got.Row + ": " + strings.Join(parts, ", "))
}

// OpenDKIM asks its signing table in this order, and what it finds first counts.
func TestSendersAreFoundAsOpenDKIMFindsThem(t *testing.T) {
	key := string(rsaKey(t))
	answers := []struct{ address, want string }{
		{"zoe@example.com", "example.com: s1._domainkey.example.com, s2._domainkey.example.com"},
		{"ann@example.com", "ann@example.com: s1._domainkey.example.com, all._domainkey.hoster.example"},
		{"ann@one.example", "ann@one.example: only._domainkey.one.example"},
		{"zoe@one.example", "*: all._domainkey.hoster.example"}, // not with the key that is about ann
		{"zoe@sub.example.com", "sub.example.com: sub._domainkey.sub.example.com"},
		{"bob@sub.example.com", "sub.example.com: sub._domainkey.sub.example.com"}, // the domain comes before bob@.parent
		{"zoe@other.example.com", ".example.com: s2._domainkey.example.com"},
		{"zoe@deep.sub.example.com", ".example.com: s2._domainkey.example.com"}, // .sub.example.com has no row
		{"bob@other.example.com", "bob@.example.com: news._domainkey.news.example.com"},
		{"bob@example.com", "example.com: s1._domainkey.example.com, s2._domainkey.example.com"}, // .parent is not about the parent
		{"carl@elsewhere.example", "carl@*: any._domainkey.elsewhere.example"},
		{"carl@example.com", "example.com: s1._domainkey.example.com, s2._domainkey.example.com"},
		{"zoe@elsewhere.example", "*: all._domainkey.hoster.example"},
		{"@one.example", "*: all._domainkey.hoster.example"},
		{"@example.com", "example.com: s1._domainkey.example.com, s2._domainkey.example.com"},
		{`x' or ''='@example.net`, "*: all._domainkey.hoster.example"},
		{"?@example.net", "*: all._domainkey.hoster.example"},
		{strings.Repeat("a", 65) + "@example.com", "example.com: s1._domainkey.example.com, s2._domainkey.example.com"},
		{"j\u00fcrgen@example.com", "example.com: s1._domainkey.example.com, s2._domainkey.example.com"},
		{"\x00@example.com", "example.com: s1._domainkey.example.com, s2._domainkey.example.com"},
		{"zoe@" + strings.Repeat("a.", 100) + "example.com", ".example.com: s2._domainkey.example.com"},
		// One row that cannot be used stops no other.
		{"eve@example.com", `eve@example.com: s1._domainkey.example.com, ! the row for eve@example.com, domain "a b", selector "s": domain "a b": has the character ' '`},
		{"mallory@example.com", `mallory@example.com: ! the row for mallory@example.com, domain "a b", selector "s": domain "a b": has the character ' '`},
		{"nobody", "author nobody: no address"},
		{"zoe@a b", "author zoe@a b: no address"},
	}
	servers(t, func(t *testing.T, p place) {
		for _, prefix := range []string{"", "pfa_"} {
			u, _ := p.url(t, "")
			execute(t, p.direct(t, u), opendkimTables(prefix, key)...)
			u += "&preset=opendkim"
			if prefix != "" {
				u += "&table_prefix=" + prefix
			}
			s, err := sqlstore.OpenForeign(u, sqlstore.Queries{}, sqlstore.Options{})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			if !s.KnowsSenders() {
				t.Error("knows of no senders")
			}
			for _, a := range answers {
				if got := answer(t, s, a.address); got != a.want {
					t.Errorf("%q: got  %s\nwant %s", a.address, got, a.want)
				}
			}
			// The keys that the answers name are there.
			for domain, want := range map[string]string{"example.com": "any s1 s2", "one.example": "any only", "elsewhere.example": "any", "hoster.example": "all any", "unused.example": "any"} {
				d, err := s.Signing(t.Context(), domain)
				if err != nil {
					t.Fatal(err)
				}
				var got []string
				for _, k := range d.Keys {
					got = append(got, k.Selector)
				}
				if slices.Sort(got); strings.Join(got, " ") != want || d.Whole() != nil {
					t.Errorf("%s has keys %q, want %s; %v", domain, got, want, d.Whole())
				}
			}
		}
	})
}

// A query of one's own may go without most of this, and have identities.
func TestFreeQueryOfSenders(t *testing.T) {
	everywhere(t, func(t *testing.T, p place) {
		u, _ := p.url(t, "")
		unicode := ""
		if p.name == "MariaDB" {
			unicode = " DEFAULT CHARSET=utf8mb4"
		}
		execute(t, p.direct(t, u),
			"CREATE TABLE k (host varchar(100), sel varchar(100), pem text)",
			"CREATE TABLE sender (who varchar(100), host varchar(100), sel varchar(100), agent varchar(100))"+unicode,
			"INSERT INTO sender VALUES ('ann@example.com', 'Example.com', 's1', NULL), ('bob@example.com', '%', 's1', 'bob@mail.%'), ('carl@example.com', 'example.com', 's1', '@elsewhere.example'), "+
				"('dan@example.com', 'example.com', 's1', 'dan'), ('eve@example.com', NULL, NULL, NULL), ('Fay@Example.com', 'example.com', 's1', ''), "+
				"('kim@example.com', 'ban\u212a.example', 's1', ''), ('leo@example.com', 'example.com', '\u212a1', '')") // a Kelvin sign, which is a k in lower case
		q := sqlstore.Queries{Keys: "SELECT sel, pem FROM k WHERE host = ?", List: "SELECT DISTINCT host FROM k WHERE host > ? ORDER BY host LIMIT ?"}
		open := func(senders string) *sqlstore.Foreign {
			t.Helper()
			q := q
			q.Senders = senders
			s, err := sqlstore.OpenForeign(u, q, sqlstore.Options{})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { s.Close() })
			return s
		}
		s := open("SELECT who, host, sel, agent FROM sender WHERE who IN (?)")
		for address, want := range map[string]string{
			"ann@example.com":  "ann@example.com: s1._domainkey.example.com",
			"bob@example.com":  "bob@example.com: s1._domainkey.example.com i=bob@mail.example.com",
			"carl@example.com": `carl@example.com: ! the row for carl@example.com, domain "example.com", selector "s1": identity "@elsewhere.example": not in the signing domain example.com or below it (RFC 6376, section 3.5)`,
			"dan@example.com":  `dan@example.com: ! the row for dan@example.com, domain "example.com", selector "s1": identity "dan": want an address, or @ and a domain`,
			"kim@example.com":  `kim@example.com: ! the row for kim@example.com, domain "banK.example", selector "s1": domain "banK.example": is not ASCII (write the A-label, xn--…)`,
			"leo@example.com":  `leo@example.com: ! the row for leo@example.com, domain "example.com", selector "K1": selector "K1": is not ASCII (write the A-label, xn--…)`,
			"zoe@example.com":  ":",
		} {
			if got := answer(t, s, address); got != want {
				t.Errorf("%s: got  %s\nwant %s", address, got, want)
			}
		}
		if got := answer(t, s, "eve@example.com"); !strings.HasPrefix(got, "eve@example.com: ! ") {
			t.Errorf("a row without anything: %s", got)
		}
		// Each ? is asked for, and what is in the table in capitals is found if the
		// query finds it.
		s = open("SELECT who, host, sel FROM sender WHERE who IN (?) OR lower(who) IN (?)")
		for _, who := range []string{"fay", "ann"} {
			if got, want := answer(t, s, who+"@example.com"), who+"@example.com: s1._domainkey.example.com"; got != want {
				t.Errorf("got  %s\nwant %s", got, want)
			}
		}
		for query, want := range map[string]string{
			"SELECT sel, host, who FROM sender WHERE who IN (?)":               `returns a row for "s1", which it was not asked for`,
			"SELECT who, host FROM sender WHERE who IN (?)":                    "returns 2 columns",
			"SELECT who, host, sel, agent, sel FROM sender WHERE who IN (?)":   "returns 5 columns",
			"SELECT 'ann@example.org', host, sel FROM sender WHERE who IN (?)": `returns a row for "ann@example.org", which it was not asked for`,
		} {
			s := open(query)
			if _, err := s.Sender(t.Context(), "ann@example.com"); !errors.Is(err, keystore.ErrBroken) || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v, want %s", query, err, want)
			}
		}
		if _, err := open("SELECT nosuch, host, sel FROM sender WHERE who IN (?)").Sender(t.Context(), "ann@example.com"); err == nil || errors.Is(err, keystore.ErrBroken) || !strings.Contains(err.Error(), "the query does not fit the tables") {
			t.Errorf("a query that the database does not understand: %v", err)
		}
		q.Senders = "SELECT who, host, sel FROM sender"
		if _, err := sqlstore.OpenForeign(u, q, sqlstore.Options{}); err == nil {
			t.Error("a query of senders without ? is taken")
		}
	})
}

// Each row signs every message, so there cannot be any number of them.
func TestRowsOfASenderAreBounded(t *testing.T) {
	p := places[0]
	u, _ := p.url(t, "")
	db := p.direct(t, u)
	execute(t, db, "CREATE TABLE sender (who varchar(100), host varchar(100), sel varchar(100))")
	for i := range 1000 {
		execute(t, db, fmt.Sprintf("INSERT INTO sender VALUES ('example.com', 'example.com', 's%d')", i))
	}
	s, err := sqlstore.OpenForeign(u, sqlstore.Queries{Keys: "SELECT ?", List: "SELECT ?, ?", Senders: "SELECT who, host, sel FROM sender WHERE who IN (?)"}, sqlstore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	got, err := s.Sender(t.Context(), "ann@example.com")
	if err != nil || len(got.Keys) != 20 || len(got.Broken) != 1 {
		t.Errorf("%d keys, %v, %v", len(got.Keys), got.Broken, err)
	}
}
