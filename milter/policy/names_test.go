package policy

import (
	"strings"
	"testing"
)

func TestRowsAreCalledByTheirNames(t *testing.T) {
	_, err := New(Options{
		Table: []Row{
			{Name: "old", Domain: "example.org"},
			{Name: "new", Domain: "example.org"},
			{Name: "a\nb", Domain: "a b"},
		},
		Permission: PermissionOptions{Grants: []Grant{{Name: "carl", Login: "carl"}}},
	})
	checkErrors(t, err, []string{
		"Permission.Grants[0]	grant carl: nothing is allowed; name domains or addresses, or let it be any domain",
		"Table[1]	row new: domain example.org has row old already; merge the two",
		`Table[2]	row "a\nb": domain name "a b": character ' ' is not a letter, digit or hyphen`,
	})

	r := mustOptions(t, Options{
		Table: []Row{
			{Name: "news", Address: "news@example.org"},
			{Name: "off for now", Domain: "example.net", Disabled: true},
			{Domain: "example.com"},
		},
		Permission: PermissionOptions{Grants: []Grant{
			{Name: "any", Login: "boss", AnyDomain: true},
			{Name: "domain", Login: "carl", Domains: []string{"example.org"}},
			{Name: "below", Login: "dave", Domains: []string{"example.org"}, Subdomains: true},
			{Name: "addresses", Login: "emil", Addresses: []string{"news@example.org"}},
			{Name: "office", Network: "127.0.0.0/8", Domains: []string{"example.org"}},
			{Login: "fred", AnyDomain: true},
		}},
	})
	for from, want := range map[string]string{
		"news@example.org": "row news (address news@example.org)",
		"ann@example.net":  `row "off for now" (domain example.net)`,
		"ann@example.com":  "row 3 (domain example.com)",
	} {
		if d := r.Decide(client("127.0.0.1"), by("boss", from)); d.RowName != want {
			t.Errorf("From: %s has %s, want %s", from, d.RowName, want)
		}
	}
	for _, c := range []struct{ login, from, want string }{
		{"boss", "ann@example.org", "grant any"},
		{"carl", "ann@example.org", "grant domain"},
		{"dave", "ann@example.org", "grant below"},
		{"dave", "ann@a.example.org", "grant below"},
		{"emil", "news@example.org", "grant addresses"},
		{"", "ann@example.org", "grant office"},
		{"fred", "ann@example.org", "grant 6"},
	} {
		_, list := r.Explain(client("127.0.0.1"), by(c.login, c.from))
		if got := steps(list); !strings.Contains(got, "yes permission: "+c.want+": ") {
			t.Errorf("login %q, From: %s, want %s:\n%s", c.login, c.from, c.want, got)
		}
	}
}
