package sqlstore_test

import (
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"waxseal/keystore"
	"waxseal/keystore/sqlstore"
)

// layouts are tables as their programs make and fill them, with P standing for
// the private key of example.com as the program writes it, and what must be found
// of them.
var layouts = []struct {
	preset     string
	places     string // where the program keeps them
	statements []string
	private    func(t *testing.T, key []byte) string // nil: PEM
	selectors  []string                              // of example.com
	list       []string
	absent     []string
}{
	{
		preset: "opendkim", places: "MariaDB PostgreSQL",
		statements: []string{
			"CREATE TABLE dkim (id int NOT NULL PRIMARY KEY, domain_name varchar(255) NOT NULL, description varchar(255), selector varchar(63) NOT NULL DEFAULT 'default', private_key text, public_key text, created varchar(30), modified varchar(30))",
			"CREATE TABLE dkim_signing (id int NOT NULL PRIMARY KEY, author varchar(255) NOT NULL DEFAULT '', dkim_id int NOT NULL, created varchar(30), modified varchar(30))",
			"INSERT INTO dkim (id, domain_name, selector, private_key) VALUES (1, 'example.com', 'default', 'P'), (2, 'example.com', 'older', 'P'), (3, 'one.example', 'default', 'P'), (4, 'all.example', 'Upper', 'P')",
			"INSERT INTO dkim_signing (id, author, dkim_id) VALUES (1, 'example.com', 1), (2, '.example.com', 1), (3, 'ann@one.example', 3), (4, '*', 4)",
		},
		selectors: []string{"default"}, list: []string{"all.example", "example.com", "one.example"}, absent: []string{"example.net"},
	},
	{
		preset: "postal&dkim_identifier=Mail", places: "MariaDB",
		statements: []string{
			"CREATE TABLE domains (id int NOT NULL AUTO_INCREMENT PRIMARY KEY, name varchar(255), verified_at datetime, dkim_private_key text, dkim_status varchar(255), dkim_identifier_string varchar(255), owner_type varchar(255), owner_id int)",
			"INSERT INTO domains (name, verified_at, dkim_private_key, dkim_status, dkim_identifier_string) VALUES ('example.com', '2026-11-22 10:20:30', 'P', 'OK', 'ABCDEF'), ('example.com', NULL, 'P', 'Missing', 'GHIJKL'), ('off.example', NULL, 'P', NULL, 'MNOPQR')",
		},
		selectors: []string{"mail-abcdef"}, list: []string{"example.com"}, absent: []string{"off.example"},
	},
	{
		preset: "modoboa", places: "PostgreSQL MariaDB",
		statements: []string{
			"CREATE TABLE admin_domain (id int NOT NULL PRIMARY KEY, name varchar(100) NOT NULL, enable_dkim boolean NOT NULL, dkim_key_selector varchar(30) NOT NULL, dkim_private_key_path varchar(254) NOT NULL)",
			"INSERT INTO admin_domain VALUES (1, 'example.com', true, 'modoboa', 'P'), (2, 'off.example', false, 'modoboa', 'P'), (3, 'soon.example', true, 'modoboa', '')",
			"CREATE OR REPLACE VIEW dkim AS (SELECT id, name as domain_name, dkim_private_key_path AS private_key_path, dkim_key_selector AS selector FROM admin_domain WHERE enable_dkim)",
		},
		private: func(t *testing.T, key []byte) string {
			path := filepath.Join(t.TempDir(), "example.com.pem")
			if err := os.WriteFile(path, key, 0o640); err != nil {
				t.Fatal(err)
			}
			return path
		},
		selectors: []string{"modoboa"}, list: []string{"example.com"}, absent: []string{"off.example", "soon.example"},
	},
	{
		preset: "ispconfig", places: "MariaDB",
		statements: []string{
			"CREATE TABLE mail_domain (domain_id int(11) unsigned NOT NULL auto_increment, sys_userid int(11) unsigned NOT NULL default '0', server_id int(11) unsigned NOT NULL default '0', domain varchar(255) NOT NULL default '', dkim ENUM('n', 'y') NOT NULL default 'n', dkim_selector varchar(63) NOT NULL DEFAULT 'default', dkim_private mediumtext NULL, dkim_public mediumtext NULL, active enum('n','y') NOT NULL DEFAULT 'n', PRIMARY KEY (domain_id), KEY server_id (server_id,domain), KEY domain_active (domain,active)) DEFAULT CHARSET=utf8",
			"INSERT INTO mail_domain (domain, dkim, dkim_selector, dkim_private, active) VALUES ('example.com', 'y', '', 'P', 'y'), ('named.example', 'y', 'mail', 'P', 'y'), ('off.example', 'n', 'default', 'P', 'y'), ('closed.example', 'y', 'default', 'P', 'n'), ('soon.example', 'y', 'default', NULL, 'y'), ('later.example', 'y', 'default', '', 'y')",
		},
		private:   func(t *testing.T, key []byte) string { return strings.ReplaceAll(string(key), "\n", "\r\n") }, // as a browser sends it
		selectors: []string{"default"}, list: []string{"example.com", "named.example"}, absent: []string{"off.example", "closed.example", "soon.example", "later.example"},
	},
	{
		preset: "froxlor", places: "MariaDB",
		statements: []string{
			"CREATE TABLE panel_domains (id int(11) unsigned NOT NULL auto_increment, domain varchar(255) NOT NULL, domain_ace varchar(255) NOT NULL default '', isemaildomain tinyint(1) NOT NULL default '0', dkim tinyint(1) NOT NULL default '0', dkim_id int(11) unsigned NOT NULL default '0', dkim_privkey text, dkim_pubkey text, PRIMARY KEY (id)) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE utf8mb4_unicode_ci",
			"INSERT INTO panel_domains (domain, dkim, dkim_id, dkim_privkey) VALUES ('example.com', 1, 17, 'P'), ('off.example', 0, 18, 'P'), ('soon.example', 1, 0, NULL), ('later.example', 1, 0, '')",
		},
		selectors: []string{"dkim17"}, list: []string{"example.com"}, absent: []string{"off.example", "soon.example", "later.example"},
	},
	{
		preset: "vexim", places: "MariaDB",
		statements: []string{
			"CREATE TABLE domains (domain_id int(10) unsigned NOT NULL auto_increment, domain varchar(255) NOT NULL default '', enabled bool NOT NULL default '1', PRIMARY KEY (domain_id), UNIQUE KEY domain (domain)) DEFAULT CHARSET=utf8mb4",
			"CREATE TABLE dkim (dkim_id INT(10) UNSIGNED NOT NULL AUTO_INCREMENT, domain_id INT(10) UNSIGNED NOT NULL, selector VARCHAR(63) NOT NULL DEFAULT 'default', private_key TEXT NOT NULL, public_key TEXT NOT NULL, canonical ENUM('simple', 'relaxed') NOT NULL DEFAULT 'relaxed', sign_headers VARCHAR(255) DEFAULT NULL, enabled TINYINT(1) NOT NULL DEFAULT 1, created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP, PRIMARY KEY (dkim_id), UNIQUE KEY domain_selector (domain_id, selector), FOREIGN KEY (domain_id) REFERENCES domains (domain_id) ON DELETE CASCADE) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4",
			"INSERT INTO domains (domain) VALUES ('example.com'), ('off.example')",
			"INSERT INTO dkim (domain_id, selector, private_key, public_key, enabled) VALUES (1, 'a', 'P', '', 1), (1, 'b', 'P', '', 1), (1, 'c', 'P', '', 0), (2, 'a', 'P', '', 0)",
		},
		private: func(t *testing.T, key []byte) string { // bare base64 of PKCS#1
			block, _ := pem.Decode(key)
			parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
			if err != nil {
				t.Fatal(err)
			}
			return base64.StdEncoding.EncodeToString(pkcs1(t, parsed))
		},
		selectors: []string{"a", "b"}, list: []string{"example.com"}, absent: []string{"off.example"},
	},
}

func rsaKey(t testing.TB) []byte {
	t.Helper()
	signer, err := keystore.Generate(keystore.RSA1024)
	if err != nil {
		t.Fatal(err)
	}
	text, err := keystore.MarshalPrivateKey(signer)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestPresetsReadWhatTheirProgramsWrite(t *testing.T) {
	key := rsaKey(t)
	everywhere(t, func(t *testing.T, p place) {
		for _, l := range layouts {
			if !slices.Contains(strings.Fields(l.places), p.name) {
				continue
			}
			t.Run(l.preset, func(t *testing.T) {
				u, _ := p.url(t, "")
				private := string(key)
				if l.private != nil {
					private = l.private(t, key)
				}
				db := p.direct(t, u)
				for _, s := range l.statements {
					execute(t, db, strings.ReplaceAll(s, "'P'", "'"+private+"'"))
				}
				s, err := sqlstore.OpenForeign(u+"&preset="+l.preset, sqlstore.Queries{}, sqlstore.Options{})
				if err != nil {
					t.Fatal(err)
				}
				defer s.Close()
				checkForeign(t, s, l.selectors, l.list, l.absent)
			})
		}
	})
}

// checkForeign tests what a read-only store promises.
func checkForeign(t *testing.T, s *sqlstore.Foreign, selectors, list, absent []string) {
	t.Helper()
	d, err := s.Domain(t.Context(), "example.com")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, k := range d.Keys {
		got = append(got, k.Selector)
		if k.State != keystore.Active {
			t.Errorf("key %s is %s", k.Selector, k.State)
		}
	}
	if !slices.Equal(got, selectors) || d.Whole() != nil {
		t.Errorf("selectors are %q, want %q; %v", got, selectors, d.Whole())
	}
	if found := keystore.CheckKeys(t.Context(), s, "example.com"); len(found) > 0 {
		t.Error(found)
	}
	if again, err := s.Signing(t.Context(), "example.com"); err != nil || again.Version != d.Version {
		t.Errorf("read again: version %d, before %d, %v", again.Version, d.Version, err)
	}
	var all []string
	for after := ""; ; after = all[len(all)-1] {
		names, err := s.List(t.Context(), after, 1)
		if err != nil {
			t.Fatal(err)
		}
		if len(names) == 0 {
			break
		}
		all = append(all, names...)
	}
	if !slices.Equal(all, list) {
		t.Errorf("List gives %q, want %q", all, list)
	}
	for _, name := range append(absent, "Example.com", "x' OR ''='") {
		if d, err := s.Domain(t.Context(), name); !errors.Is(err, keystore.ErrNotFound) {
			t.Errorf("%s: %+v, %v", name, d, err)
		}
	}
	if err := s.Update(t.Context(), d); !errors.Is(err, keystore.ErrReadOnly) {
		t.Errorf("Update: %v", err)
	}
	if st, err := s.Status(t.Context()); err != nil || st.Domains != int64(len(list)) {
		t.Errorf("Status: %+v, %v", st, err)
	}
}

func TestFreeQueries(t *testing.T) {
	key := rsaKey(t)
	everywhere(t, func(t *testing.T, p place) {
		u, _ := p.url(t, "")
		execute(t, p.direct(t, u),
			"CREATE TABLE k (host varchar(100), sel varchar(100), pem text)",
			"INSERT INTO k VALUES ('example.com', 's1', '"+string(key)+"'), ('bad.example', 's1', 'x!'), ('bad.example', 's2', '"+string(key)+"'), ('bad.example', 's3', '/nonexistent/key.pem'), ('bad.example', 's4', NULL)")
		q := sqlstore.Queries{Keys: "SELECT sel, pem FROM k WHERE host = ? OR host = ?", List: "SELECT DISTINCT host FROM k WHERE host > ? ORDER BY host LIMIT ?"}
		s, err := sqlstore.OpenForeign(u, q, sqlstore.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		if s.KnowsSenders() {
			t.Error("knows of senders without a query")
		}
		checkForeign(t, s, []string{"s1"}, []string{"bad.example", "example.com"}, nil)
		d, err := s.Domain(t.Context(), "bad.example")
		if err != nil || len(d.Keys) != 1 || d.Keys[0].Selector != "s2" || len(d.Unreadable) != 3 || !d.Unreadable[0].Active {
			t.Errorf("%+v, %v", d, err)
		}
		for keys, want := range map[string]string{
			"SELECT sel FROM k WHERE host = ?":                                    "returns 1 columns",
			"SELECT a.sel, a.pem FROM k a, k b, k c, k d, k e, k f WHERE ? <> ''": "more than 1000 rows",
		} {
			s, err := sqlstore.OpenForeign(u, sqlstore.Queries{Keys: keys, List: q.List}, sqlstore.Options{})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			if _, err := s.Domain(t.Context(), "example.com"); !errors.Is(err, keystore.ErrBroken) || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v", keys, err)
			}
		}
		for _, bad := range []sqlstore.Queries{{}, {Keys: "SELECT 1"}, {Keys: q.Keys}, {Keys: q.Keys, List: "SELECT 1"}} {
			if _, err := sqlstore.OpenForeign(u, bad, sqlstore.Options{}); err == nil {
				t.Errorf("%+v is taken", bad)
			}
		}
	})
}

// Errors are logged, and who makes a query may take one column for another.
func TestNoErrorTellsAPrivateKey(t *testing.T) {
	key := string(rsaKey(t))
	block, _ := pem.Decode([]byte(key))
	bare := base64.StdEncoding.EncodeToString(block.Bytes)
	u, _ := places[0].url(t, "")
	execute(t, places[0].direct(t, u), "CREATE TABLE k (host text, sel text, private text)", "INSERT INTO k VALUES ('pem.example', 's1', '"+key+"'), ('bare.example', 's1', '"+bare+"')")
	for _, columns := range []string{"private, sel", "private, private", "sel, '!' || private", "sel, 'x' || private", "'a b', private", "sel, substr(private, 1, 100)"} {
		s, err := sqlstore.OpenForeign(u, sqlstore.Queries{Keys: "SELECT " + columns + " FROM k WHERE host = ?", List: "SELECT host FROM k WHERE host > ? LIMIT ?"}, sqlstore.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		for _, domain := range []string{"pem.example", "bare.example"} {
			d, err := s.Signing(t.Context(), domain)
			if err != nil {
				t.Fatal(err)
			}
			for _, row := range d.Unreadable {
				if text := strings.ToLower(row.Err.Error()); strings.Contains(text, strings.ToLower(bare[22:40])) {
					t.Errorf("%s: %v", columns, row.Err)
				}
			}
			if columns == "private, sel" && len(d.Unreadable) != 1 {
				t.Errorf("%s of %s: %+v", columns, domain, d)
			}
		}
	}
}

// Most collations of MySQL take letters with accents for those without, and
// pass over what cannot be seen: rows that they find of another domain must not
// sign, or keep its own keys from it.
func TestKeysOfDomainsThatOnlyACollationTakesForTheSame(t *testing.T) {
	key := string(rsaKey(t))
	for _, p := range places {
		if p.name != "MariaDB" {
			continue
		}
		tables := map[string][]string{
			"opendkim": {
				"CREATE TABLE dkim (id int NOT NULL AUTO_INCREMENT PRIMARY KEY, domain_name varchar(255) NOT NULL, selector varchar(63) NOT NULL DEFAULT 'default', private_key text) DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_unicode_ci",
				"CREATE TABLE dkim_signing (id int NOT NULL AUTO_INCREMENT PRIMARY KEY, author varchar(255) NOT NULL DEFAULT '', dkim_id int NOT NULL) DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_unicode_ci",
				"INSERT INTO dkim (domain_name, private_key) VALUES ('Example.COM', 'P'), ('ex\u00e4mple.com', 'P'), ('exam\x01ple.com', 'P'), ('m\u00fcller.example', 'P')",
				"INSERT INTO dkim_signing (author, dkim_id) SELECT domain_name, id FROM dkim",
			},
			"froxlor": {
				"CREATE TABLE panel_domains (domain varchar(255) NOT NULL, dkim tinyint(1) NOT NULL default '0', dkim_id int(11) unsigned NOT NULL default '0', dkim_privkey text) DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_unicode_ci",
				"INSERT INTO panel_domains (domain, dkim, dkim_id, dkim_privkey) VALUES ('Example.COM', 1, 7, 'P'), ('ex\u00e4mple.com', 1, 8, 'P'), ('exam\x01ple.com', 1, 9, 'P'), ('m\u00fcller.example', 1, 10, 'P')",
			},
		}
		for preset, selector := range map[string]string{"opendkim": "default", "froxlor": "dkim7"} {
			u, _ := p.url(t, "")
			db := p.direct(t, u)
			for _, s := range tables[preset] {
				execute(t, db, strings.ReplaceAll(s, "'P'", "'"+key+"'"))
			}
			s, err := sqlstore.OpenForeign(u+"&preset="+preset, sqlstore.Queries{}, sqlstore.Options{})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			d, err := s.Signing(t.Context(), "example.com")
			if err != nil {
				t.Fatal(err)
			}
			if len(d.Keys) != 1 || d.Keys[0].Selector != selector || d.Whole() != nil {
				t.Errorf("%s: %+v, %v", preset, d.Keys, d.Whole())
			}
			if d, err := s.Signing(t.Context(), "muller.example"); !errors.Is(err, keystore.ErrNotFound) {
				t.Errorf("%s: keys of muller.example: %+v, %v", preset, d, err)
			}
			if preset != "opendkim" {
				continue
			}
			if got, want := answer(t, s, "ann@example.com"), "example.com: default._domainkey.example.com"; got != want {
				t.Errorf("got  %s\nwant %s", got, want)
			}
		}
	}
}

func pkcs1(t *testing.T, key any) []byte {
	t.Helper()
	k, ok := key.(*rsa.PrivateKey)
	if !ok {
		t.Fatalf("%T", key)
	}
	return x509.MarshalPKCS1PrivateKey(k)
}
