package sqlstore

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

func TestParseURL(t *testing.T) {
	for _, test := range []struct{ url, want string }{
		{"sqlite:/var/lib/waxseal/keys.db", "sqlite /var/lib/waxseal/keys.db"},
		{"sqlite:keys.db", "sqlite keys.db"},
		{"postgres://ws@db.example/keys", "postgres ws [{db.example 5432}] keys verify-full"},
		{"postgresql://ws@db1:6432,db2/keys?sslmode=require", "postgres ws [{db1 6432} {db2 5432}] keys require"},
		{"postgres://w%40s@[::1]:5433/k%2Fk", "postgres w@s [{::1 5433}] k/k disable"},
		{"mysql://ws@127.0.0.1/keys", "mysql ws [{127.0.0.1 3306}] keys disable"},
		{"mysql://ws@localhost,db2/keys", "mysql ws [{localhost 3306} {db2 3306}] keys verify-full"},
		{"mysql://ws@localhost/keys?socket=/run/mysqld/mysqld.sock", "mysql ws [{/run/mysqld/mysqld.sock 3306}] keys disable"},
		{"postgres://ws@localhost/keys?sslrootcert=/etc/ssl/own.pem", "postgres ws [{localhost 5432}] keys verify-full"},
		{"mariadb://ws@/keys?socket=/run/mysqld/mysqld.sock", "mysql ws [{/run/mysqld/mysqld.sock 3306}] keys disable"},
	} {
		s, err := parseURL(test.url)
		if err != nil {
			t.Errorf("%s: %v", test.url, err)
			continue
		}
		got := fmt.Sprintf("%s %s", s.kind, s.path)
		if s.kind != "sqlite" {
			got = fmt.Sprintf("%s %s %v %s %s", s.kind, s.user, s.hosts, s.database, s.sslmode)
		}
		if got != test.want {
			t.Errorf("%s: got %s, want %s", test.url, got, test.want)
		}
	}
}

func TestParseURLRefuses(t *testing.T) {
	for _, test := range []struct{ url, want string }{
		{"redis://a/b", "want sqlite"},
		{"sqlite:", "want sqlite:PATH"},
		{"sqlite:a?mode=ro", "without options"},
		{"postgres://ws:hunter2@db/keys", "password_file"},
		{"postgres://ws:hunter%@db/keys", "password_file"},
		{"postgres://ws:hunter2/3@db", "HOST:PORT"},
		{"postgres://db", "want postgres://"},
		{"postgres://db/", "want postgres://"},
		{"postgres:db/keys", "want postgres://"},
		{"postgres://db/keys?password=hunter2", `option "password"`},
		{"postgres://db/keys?pasword_file=/x", "but connect_timeout, connections"},
		{"mysql://db/keys?target_session_attrs=any", "mysql has none"},
		{"mysql://db/keys?sslmode=verify-ca", "want one of"},
		{"mysql://db/keys?sslmode=", "no value"},
		{"mysql://db/keys?connections=0", "from 1"},
		{"mysql://db/keys?connections=1&connections=2", "given twice"},
		{"mysql://db/keys?sslcert=/x", "belong together"},
		{"mysql:///keys", "socket=PATH"},
		{"mysql://db/keys?socket=/x", "either hosts"},
		{"mysql://db/keys?socket=x", "absolute"},
		{"mysql://db/keys?preset=exim", "want one of"},
		{"mysql://db/keys?table_prefix=p_", "only preset=opendkim"},
		{"mysql://db/keys?preset=vexim&table_prefix=p_", "only preset=opendkim"},
		{"mysql://db/keys?preset=opendkim&table_prefix=p-", "want letters"},
		{"mysql://db/keys?preset=opendkim&dkim_identifier=x", "only preset=postal"},
		{"mysql://db/keys?preset=postal&dkim_identifier=a_.-", "selector"},
		{"mysql://db:0/keys", "HOST:PORT"},
		{"mysql://db,/keys", "HOST:PORT"},
		{"postgres://a'b/keys", "HOST:PORT"},
	} {
		_, err := parseURL(test.url)
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q in it", test.url, err, test.want)
		}
		if err != nil && strings.Contains(err.Error(), "hunter") {
			t.Errorf("%s: the error has the password: %v", test.url, err)
		}
	}
}

func TestNeedsOf(t *testing.T) {
	secret := func(name string) (string, error) { return "/run/" + name, nil }
	for _, test := range []struct{ url, want string }{
		{"sqlite:/a/keys.db", "{/a/keys.db [] [] false false}"},
		{"postgres://ws@db1,db2:6432/keys?password_file=p", "{ [/run/p] [5432 6432] true true}"},
		{"mysql://ws@192.0.2.1/keys?sslrootcert=/ca.pem", "{ [/ca.pem] [3306] false false}"},
		{"mysql://ws@/keys?socket=/run/s", "{ [] [] false false}"},
	} {
		if n, err := NeedsOf(test.url, secret); err != nil || fmt.Sprint(n) != test.want {
			t.Errorf("%s: %v, %v, want %s", test.url, n, err, test.want)
		}
	}
}

func FuzzParseURL(f *testing.F) {
	for _, seed := range []string{"sqlite:/a", "postgres://u@h:1,[::1]/d?sslmode=require", "mysql://u@/d?socket=/s", "postgres://u:p@h/d"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		s, err := parseURL(text)
		if err == nil && s.kind != "sqlite" && (len(s.hosts) == 0 || s.database == "" || s.sslmode == "") {
			t.Errorf("%q: %+v", text, s)
		}
		if err == nil && s.kind == "postgres" { // whatever passes is taken
			d := &database{}
			if err := openPostgres(d, s, nil); err == nil {
				d.db.Close()
			}
		}
	})
}

func TestSQLiteFileIsPrivate(t *testing.T) {
	u := "sqlite:" + t.TempDir() + "/keys.db"
	if _, err := Open(u, Options{}); err == nil {
		t.Error("a file that is not there was opened")
	}
	if created, err := CreateFile(u); err != nil || !created {
		t.Fatal(created, err)
	}
	path := strings.TrimPrefix(u, "sqlite:")
	for _, test := range []struct {
		mode  os.FileMode
		group bool
		ok    bool
	}{{0o600, false, true}, {0o640, false, false}, {0o640, true, true}, {0o660, true, false}, {0o604, true, false}} {
		if err := os.Chmod(path, test.mode); err != nil {
			t.Fatal(err)
		}
		s, err := Open(u, Options{GroupReadable: test.group})
		if (err == nil) != test.ok {
			t.Errorf("mode %04o, group readable %v: %v", test.mode, test.group, err)
		}
		if err == nil {
			s.Close()
		}
	}
}
