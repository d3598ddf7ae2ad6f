package sqlstore_test

import (
	"strings"
	"testing"

	"waxseal/keystore/sqlstore"
)

// Who asks for a verified server gets no other.
func TestTLS(t *testing.T) {
	servers(t, func(t *testing.T, p place) {
		u, _ := p.url(t, "")
		server := p.server.Get(t)
		db := p.direct(t, u)
		// A user whose password is not enough: see sqltest.PostgreSQL.
		if p.name == "PostgreSQL" {
			execute(t, db, "CREATE ROLE certified SUPERUSER LOGIN PASSWORD 'loopback only'")
		} else {
			execute(t, db, "CREATE USER certified@'%' IDENTIFIED BY 'loopback only' REQUIRE X509", "GRANT ALL ON *.* TO certified@'%'")
		}
		ca := "&sslrootcert=" + server.File("ca.pem")
		client := "&sslcert=" + server.File("client.pem") + "&sslkey=" + server.File("client.key")
		certified := func(u string) string { return strings.Replace(u, server.User+"@", "certified@", 1) }
		byName := func(u string) string { return strings.Replace(u, "127.0.0.1", "localhost", 1) }
		for _, test := range []struct{ what, url, err string }{
			{"verified", u + "&sslmode=verify-full" + ca, ""},
			{"by an authority that is not the system's", u + "&sslmode=verify-full", "unknown authority"},
			{"under another name", byName(u) + "&sslmode=verify-full" + ca, "localhost"},
			{"encrypted only", byName(u) + "&sslmode=require", ""},
			{"the wrong file of authorities", u + "&sslmode=verify-full&sslrootcert=" + server.File("client.key"), "sslrootcert"},
			{"without the client's certificate", certified(u) + "&sslmode=verify-full" + ca, "certified"},
			{"with the client's certificate", certified(u) + "&sslmode=verify-full" + ca + client, ""},
			{"by the second of two hosts", strings.Replace(byName(u), "@localhost", "@localhost:1,127.0.0.1", 1) + "&sslmode=verify-full" + ca, ""},
		} {
			s, err := sqlstore.Open(test.url, sqlstore.Options{})
			if err == nil {
				_, err = s.Schema(t.Context())
				s.Close()
			}
			if test.err == "" && err != nil || test.err != "" && (err == nil || !strings.Contains(err.Error(), test.err)) {
				t.Errorf("%s: %v, want %q", test.what, err, test.err)
			}
		}
	})
}
