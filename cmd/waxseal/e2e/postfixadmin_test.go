package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// take fills in the keys of a keystore, as Postfixadmin would make them.
func (a *postfixadmin) take(t *testing.T, k *keystore) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(k.dir, "*", "*.pem"))
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		domain, selector := filepath.Base(filepath.Dir(file)), strings.TrimSuffix(filepath.Base(file), ".pem")
		a.do("INSERT INTO domain (domain) VALUES (?) ON CONFLICT DO NOTHING", domain)
		a.addKey(domain, selector, string(text), "")
	}
}

// signBy adds rows to the signing table: the author, and each key as selector.domain.
func (a *postfixadmin) signBy(author string, keys ...string) {
	a.t.Helper()
	for _, key := range keys {
		selector, domain, _ := strings.Cut(key, ".")
		a.sign(author, a.id("SELECT id FROM dkim WHERE domain_name = '"+domain+"' AND selector = '"+selector+"'"))
	}
}

// url is that of a PostgreSQL, for its reader.
func (a *postfixadmin) url(t *testing.T) string {
	password := writeFile(t, filepath.Join(t.TempDir(), "password"), "PASSWORD\n", 0o600)
	return fmt.Sprintf("postgres://reader@%s?password_file=%s&preset=opendkim", a.listen, password)
}

// A database that Postfixadmin fills signs as OpenDKIM's signing table says: for
// addresses, domains, what is below them, and the rest. Permissions hold, explain
// says what the daemon does, changes are seen, and while the database is down
// nothing leaves unsigned.
func TestPostfixadminSignsAsItsSigningTableSays(t *testing.T) {
	require(t, dkimpyInstalled)
	t.Parallel()
	dir := shortDir(t)
	keys := newKeystore(t, dir, "example.com", "sub.example.com", "example.org", "hoster.example")
	p := startPostfixadmin(t, false)
	p.take(t, keys)
	p.signBy("example.com", "2026a.example.com", "2026b.example.com")
	p.signBy(".example.com", "2026a.example.com")
	p.signBy("ann@example.com", "2026a.example.com", "2026a.hoster.example")
	p.signBy("bob@.example.com", "2026a.sub.example.com")
	p.signBy("news@example.org", "2026a.example.org")
	p.signBy("carl@*", "2026a.hoster.example")

	socket := "unix:" + filepath.Join(dir, "milter.sock")
	config := writeFile(t, filepath.Join(dir, "waxseal.toml"), fmt.Sprintf("[keystore]\nurl = %q\nrefresh = \"1s\"\n[listen.milter]\naddress = %q\n[log]\nformat = \"json\"\n", p.url(t), socket), 0o644)
	command(t, "check", "--config", config)
	d := serve(t, daemonOptions{}, "--config", config)

	const abroad = "203.0.113.9"
	cases := []struct{ from, login, want string }{
		{"zoe@example.com", "", "2026a.example.com 2026b.example.com"},
		{"ann@example.com", "", "2026a.example.com 2026a.hoster.example"},
		{"Ann <ANN@Example.COM>", "ann@example.com", "2026a.example.com 2026a.hoster.example"},
		{"bob@example.com", "", "2026a.example.com 2026b.example.com"},
		{"bob@sub.example.com", "", "2026a.sub.example.com"},
		{"bob@deep.sub.example.com", "", "2026a.sub.example.com"},
		{"zoe@deep.sub.example.com", "", "2026a.example.com"},
		{"news@example.org", "", "2026a.example.org"},
		{"zoe@example.org", "", "no_key accept: the sender query has no row for zoe@example.org"}, // the key is about news@
		{"carl@elsewhere.example", "", "2026a.hoster.example"},
		{"ann@example.com", "zoe@example.org", `denied accept: login "zoe@example.org" may not sign for example.com: it may for its own domain, example.org, and no grant names more for it; add one`},
		{"carl@example.org", "zoe@example.com", `denied accept: login "zoe@example.com" may not sign for example.org: it may for its own domain, example.com, and no grant names more for it; add one`},
	}
	ask := func(id, from, login string) (fate, *message) {
		t.Helper()
		f := facts{id: id, login: login}
		if login != "" {
			f.client = abroad
		}
		end := judge(t, socket, f, by(from), "Hello.\r\n")
		return end, end.signed(t, by(from), "Hello.\r\n")
	}
	for i, c := range cases {
		id := fmt.Sprintf("case%d", i)
		_, m := ask(id, c.from, c.login)
		var names []string
		for _, s := range m.signatures() {
			names = append(names, s.selector+"."+s.domain)
		}
		if got := strings.Join(names, " "); got != "" {
			checkVerifies(t, keys, m, len(names), byDkimpy, byMsgauth)
			if got != c.want {
				t.Errorf("%s, login %q: signed by %s, want %s", c.from, c.login, got, c.want)
			}
		} else {
			eventually(t, "the log is complete", func() bool { return d.logged(id).Msg != "" })
			line := d.logged(id)
			if got := line.Cause + " " + line.Action + ": " + line.Reason; got != c.want {
				t.Errorf("%s, login %q: %s, want %s", c.from, c.login, got, c.want)
			}
		}
		args := []string{"explain", "--json", "--config", config, "--from", c.from, "--mta", "Postfix 3.7.11"}
		if c.login != "" {
			args = append(args, "--login", c.login, "--client", abroad)
		}
		out, _, _ := tryCommand(t, "", nil, args...)
		var e struct {
			Result struct {
				Signed                        bool
				Domain, Cause, Action, Reason string
				Beside, Selectors             []string
			}
		}
		if err := json.Unmarshal([]byte(out), &e); err != nil {
			t.Fatal(err, out)
		}
		got := e.Result.Cause + " " + e.Result.Action + ": " + e.Result.Reason
		if r := e.Result; r.Signed {
			domains := append([]string{r.Domain}, r.Beside...)
			for i, s := range r.Selectors {
				r.Selectors[i] = s + "." + domains[min(i, len(domains)-1)]
			}
			got = strings.Join(r.Selectors, " ")
		}
		if got != c.want {
			t.Errorf("explain %s, login %q: %s, want %s", c.from, c.login, got, c.want)
		}
	}
	if out := command(t, "explain", "--config", config, "--from", "bob@deep.sub.example.com"); !strings.Contains(out, "its row for bob@.example.com names key 2026a of sub.example.com") {
		t.Errorf("explain does not tell of the row:\n%s", out)
	}

	// A row more, for the domain of an author who had none.
	p.signBy("example.org", "2026b.example.org", "2026a.example.org")
	eventually(t, "the new row is seen", func() bool {
		_, m := ask("more", "zoe@example.org", "")
		return len(m.signatures()) == 2
	})
	// And one less, for an author whose mail is under way all the time.
	p.do(`DELETE FROM dkim_signing WHERE author = 'ann@example.com'`)
	eventually(t, "the row that went is seen", func() bool {
		_, m := ask("less", "ann@example.com", "")
		s := m.signatures()
		return len(s) == 2 && s[1].domain == "example.com"
	})

	p.server.Kill()
	for i := range 20 {
		if _, m := ask("down", "ann@example.com", ""); len(m.signatures()) != 2 {
			t.Errorf("message %d after the database went: %d signatures, want 2", i, len(m.signatures()))
		}
		end, m := ask("cold", fmt.Sprintf("new%d@example.com", i), "")
		if len(m.signatures()) > 0 || !strings.HasPrefix(end.reply, "451 4.3.0 ") {
			t.Errorf("an author who is not in memory: %v, want 451", end)
		}
	}
	if err := p.server.Begin(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "an author who was not in memory is signed for", func() bool {
		_, m := ask("back", "new0@example.com", "")
		return len(m.signatures()) == 2
	})
}

// What is wrong with the query is found before the first mail.
func TestCheckTriesTheSenderQuery(t *testing.T) {
	t.Parallel()
	p := startPostfixadmin(t, false)
	config := writeFile(t, filepath.Join(shortDir(t), "waxseal.toml"), fmt.Sprintf("[keystore]\nurl = %q\nsender_query = \"SELECT author, nosuch, selector FROM dkim_signing WHERE author IN (?)\"\n", p.url(t)), 0o644)
	out, _, code := tryCommand(t, "", nil, "check", "--config", config)
	if code != 1 || !strings.Contains(out, "waxseal.toml:3: ") || !strings.Contains(out, "does not fit the tables") || !strings.Contains(out, "nosuch") {
		t.Errorf("exit %d\n%s", code, out)
	}
}
