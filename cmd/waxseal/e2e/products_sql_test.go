package e2e

import (
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/go-sql-driver/mysql"
	_ "github.com/jackc/pgx/v5/stdlib"

	waxkeys "waxseal/keystore"
	"waxseal/keystore/sqlstore/sqltest"
)

// postfixadmin is a database as Postfixadmin's public/upgrade.php makes it: the
// tables that DKIM is about, with what {AUTOINCREMENT} and the like become there.
type postfixadmin struct {
	t      *testing.T
	server *sqltest.Server
	db     *sql.DB
	listen string // URL of the database, without user
	mysql  bool
}

var postfixadminTables = map[bool][]string{
	true: {
		"CREATE DATABASE postfix CHARACTER SET latin1", "USE postfix",
		"CREATE TABLE IF NOT EXISTS domain (`domain` varchar(255) COLLATE latin1_general_ci NOT NULL, `description` varchar(255) NOT NULL default '', `created` datetime NOT NULL default '2000-01-01 00:00:00', `active` tinyint(1) NOT NULL default '1', PRIMARY KEY (`domain`)) CHARACTER SET latin1 COLLATE latin1_general_ci COMMENT='Postfix Admin - Virtual Domains'",
		"CREATE TABLE IF NOT EXISTS dkim (`id` int(11) not null auto_increment primary key, `domain_name` varchar(255) NOT NULL, `description` varchar(255) DEFAULT '', `selector` varchar(63) NOT NULL DEFAULT 'default', `private_key` text, `public_key` text, `created` datetime NOT NULL default '2000-01-01 00:00:00', `modified` datetime NOT NULL default '2000-01-01 00:00:00', INDEX(domain_name, description), FOREIGN KEY (`domain_name`) REFERENCES domain(`domain`) ON DELETE CASCADE) CHARACTER SET latin1 COLLATE latin1_general_ci COMMENT='Postfix Admin - OpenDKIM Key Table'",
		"CREATE TABLE IF NOT EXISTS dkim_signing (`id` int(11) not null auto_increment primary key, `author` varchar(255) NOT NULL DEFAULT '', `dkim_id` integer NOT NULL, `created` datetime NOT NULL default '2000-01-01 00:00:00', `modified` datetime NOT NULL default '2000-01-01 00:00:00', INDEX(author), FOREIGN KEY (`dkim_id`) REFERENCES dkim(`id`) ON DELETE CASCADE) CHARACTER SET latin1 COLLATE latin1_general_ci COMMENT='Postfix Admin - OpenDKIM Signing Table'",
	},
	false: {
		"CREATE TABLE domain (domain character varying(255) NOT NULL, description character varying(255) NOT NULL default '', created timestamp with time zone default now(), active boolean NOT NULL default true, Constraint \"domain_key\" Primary Key (\"domain\"))",
		"CREATE TABLE dkim (id SERIAL primary key, domain_name varchar(255) NOT NULL, description varchar(255) DEFAULT '', selector varchar(63) NOT NULL DEFAULT 'default', private_key text, public_key text, created timestamp with time zone default '2000-01-01', modified timestamp with time zone default '2000-01-01', FOREIGN KEY (domain_name) REFERENCES domain(domain) ON DELETE CASCADE)",
		"CREATE INDEX domain_desc_idx ON dkim(domain_name, description)",
		"CREATE TABLE dkim_signing (id SERIAL primary key, author varchar(255) NOT NULL DEFAULT '', dkim_id integer NOT NULL, created timestamp with time zone default '2000-01-01', modified timestamp with time zone default '2000-01-01', FOREIGN KEY (dkim_id) REFERENCES dkim(id) ON DELETE CASCADE)",
		"CREATE INDEX author_idx ON dkim_signing(author)",
	},
}

// startPostfixadmin starts a database with the tables, and the user of a recipe.
func startPostfixadmin(t *testing.T, isMySQL bool) *postfixadmin {
	t.Helper()
	shared := &sqltest.Shared{Start: sqltest.PostgreSQL}
	if isMySQL {
		shared.Start = sqltest.MariaDB
	}
	t.Cleanup(shared.Stop)
	server := shared.Get(t)
	password, err := os.ReadFile(server.PasswordFile)
	if err != nil {
		t.Fatal(err)
	}
	a := &postfixadmin{t: t, server: server, mysql: isMySQL}
	open := func(driver, dsn string) {
		if a.db, err = sql.Open(driver, dsn); err != nil {
			t.Fatal(err)
		}
		a.db.SetMaxOpenConns(1) // for USE
		t.Cleanup(func() { a.db.Close() })
	}
	if isMySQL {
		a.listen = server.Addr + "/postfix"
		c := mysql.NewConfig()
		c.User, c.Passwd, c.Net, c.Addr = server.User, strings.TrimSpace(string(password)), "tcp", server.Addr
		open("mysql", c.FormatDSN())
	} else {
		a.listen = server.Addr + "/postgres"
		open("pgx", fmt.Sprintf("host=127.0.0.1 port=%s user=%s password='%s' dbname=postgres", server.Addr[strings.LastIndexByte(server.Addr, ':')+1:], server.User, strings.TrimSpace(string(password))))
	}
	for _, s := range postfixadminTables[isMySQL] {
		a.do(s)
	}
	grants := productRecipes(t, "Postfixadmin", "sql")
	grant := grants[1]
	if isMySQL {
		grant = grants[0]
	}
	for s := range strings.SplitSeq(strings.TrimSpace(grant), ";\n") {
		// Of the name in the recipe there is one who may do everything.
		a.do(strings.ReplaceAll(strings.TrimSuffix(s, ";"), "waxseal", "reader"))
	}
	return a
}

func (a *postfixadmin) do(statement string, args ...any) {
	a.t.Helper()
	if !a.mysql {
		for i := range args {
			statement = strings.Replace(statement, "?", fmt.Sprintf("$%d", i+1), 1)
		}
	}
	if _, err := a.db.Exec(statement, args...); err != nil {
		a.t.Fatalf("%s: %v", statement, err)
	}
}

// id returns the one value of a query.
func (a *postfixadmin) id(query string) (id int) {
	a.t.Helper()
	if err := a.db.QueryRow(query).Scan(&id); err != nil {
		a.t.Fatal(err)
	}
	return id
}

// addKey is what DkimHandler does with a filled form: the text of the fields goes in
// as the browser sent it.
func (a *postfixadmin) addKey(domain, selector, private, public string) int {
	a.t.Helper()
	a.do("INSERT INTO dkim (description, selector, domain_name, private_key, public_key, created, modified) VALUES (?, ?, ?, ?, ?, now(), now())", "key of "+domain, selector, domain, private, public)
	return a.id("SELECT MAX(id) FROM dkim")
}

// sign is what DkimsigningHandler does.
func (a *postfixadmin) sign(author string, id int) {
	a.t.Helper()
	a.do("INSERT INTO dkim_signing (dkim_id, author, created, modified) VALUES (?, ?, now(), now())", id, author)
}

// dump is what the tables hold.
func (a *postfixadmin) dump() (text string) {
	a.t.Helper()
	for _, table := range []string{"domain", "dkim", "dkim_signing"} {
		rows, err := a.db.Query("SELECT * FROM " + table + " ORDER BY 1")
		if err != nil {
			a.t.Fatal(err)
		}
		columns, err := rows.Columns()
		if err != nil {
			a.t.Fatal(err)
		}
		for rows.Next() {
			values := make([]any, len(columns))
			into := make([]any, len(columns))
			for i := range values {
				into[i] = &values[i]
			}
			if err := rows.Scan(into...); err != nil {
				a.t.Fatal(err)
			}
			text += fmt.Sprintf("%s: %q\n", table, values)
		}
		if err := rows.Err(); err != nil {
			a.t.Fatal(err)
		}
	}
	return text
}

func TestPostfixadmin(t *testing.T) {
	require(t, dkimpyInstalled)
	for name, isMySQL := range map[string]bool{"MariaDB": true, "PostgreSQL": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := startPostfixadmin(t, isMySQL)
			password := writeFile(t, filepath.Join(t.TempDir(), "password"), "PASSWORD\n", 0o600)
			scheme := "postgres"
			if isMySQL {
				scheme = "mysql"
			}
			p := servesProduct(t, "1s", productRecipe(t, "Postfixadmin", "toml"), "mysql://waxseal@localhost/postfix", scheme+"://reader@"+a.listen, "/etc/waxseal/db-password", password)
			for _, domain := range []string{"ALL", "example.com", "example.net", "xn--bcher-kva.example", "stranger.example"} {
				a.do("INSERT INTO domain (domain) VALUES (?)", domain)
			}
			key := func(selector, domain string, algorithm waxkeys.Algorithm) productKey {
				k := newProductKey(t, algorithm)
				p.tells(t, selector, domain, "v=DKIM1; h=sha256; k=rsa; p="+k.public)
				return k
			}
			crlf := func(s string) string { return strings.ReplaceAll(s, "\n", "\r\n") }
			one, two, three, four := key("default", "example.com", waxkeys.RSA2048), key("2026", "example.com", waxkeys.RSA1024), key("Mail", "example.net", waxkeys.RSA2048), key("default", "xn--bcher-kva.example", waxkeys.RSA2048)
			first := a.addKey("example.com", "default", strings.TrimSpace(one.pkcs8), one.public)
			second := a.addKey("example.com", "2026", crlf(two.pkcs1), two.public)
			third := a.addKey("example.net", "Mail", crlf(three.pkcs8)+"\r\n", three.public)
			fourth := a.addKey("xn--bcher-kva.example", "default", four.pkcs8, four.public)
			a.do("UPDATE dkim SET description = NULL WHERE id = ?", fourth)
			a.addKey("stranger.example", "default", one.pkcs8, one.public) // and no row of dkim_signing
			a.sign("example.com", first)
			a.sign("example.net", third)
			a.sign("xn--bcher-kva.example", fourth)
			before := a.dump()
			p.signs(t, "example.com", "default")
			p.signs(t, "example.net", "mail")
			p.signs(t, "xn--bcher-kva.example", "default")
			p.signs(t, "stranger.example")
			p.commandsKnow(t, "default.example.com", "default.xn--bcher-kva.example", "mail.example.net")
			if now := a.dump(); now != before {
				t.Errorf("the tables were\n%.2000s\nand are\n%.2000s", before, now)
			}

			// Another key signs, and then the first no more; the text of a key is
			// replaced; a domain is deleted.
			a.sign("example.com", second)
			p.signs(t, "example.com", "2026", "default")
			a.do("DELETE FROM dkim_signing WHERE dkim_id = ?", first)
			p.signs(t, "example.com", "2026")
			changed := key("Mail", "example.net", waxkeys.RSA2048)
			a.do("UPDATE dkim SET private_key = ?, public_key = ?, modified = now() WHERE id = ?", changed.pkcs8, changed.public, third)
			p.signs(t, "example.net", "mail")
			a.do("DELETE FROM domain WHERE domain = ?", "xn--bcher-kva.example")
			p.signs(t, "xn--bcher-kva.example")
		})
	}
}
