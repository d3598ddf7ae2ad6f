package policy

import (
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestNewNamesEveryWrongRow(t *testing.T) {
	long := strings.Repeat("a", 65)
	_, err := New(Options{Table: []Row{
		{},
		{Login: "ann", Domain: "example.org"},
		{Login: "@example.org"},
		{Login: "*"},
		{Address: "ann"},
		{Domain: "*.example.org"},
		{Domain: "Example.ORG."},
		{Domain: "example.org"},
		{Domain: "example.org", Subdomains: true},
		{Domain: "example.org", Subdomains: true},
		{Login: "Ann"},
		{Login: "ann"},
		{Address: `"ann"@example.org`},
		{Address: "ANN@example.org"},
		{Domain: "*"},
		{Domain: "*", Subdomains: true},
		{Login: "a1", Subdomains: true},
		{Domain: "b1.example", SignAs: "localhost"},
		{Domain: "b2.example", SignAs: "example.net", Always: true},
		{Login: "b3", Always: true},
		{Address: "b4@example.org", SignAs: "example.net", Always: true},
		{Domain: "b5.example", Selectors: []string{"2026a", "a b", "", "-a", "a..b", "a;b", "ü"}},
		{Domain: "b6.example", Selectors: []string{}},
		{Domain: "c1.example", Identity: "ann"},
		{Domain: "c2.example", Identity: "ann@example.net"},
		{Domain: "c3.example", Identity: "@notc3.example"},
		{Domain: "c4.example", SignAs: "example.net", Identity: "@c4.example"},
		{Login: "c5", Identity: "@c5.example"},
		{Domain: "c6.example", Identity: long + "@c6.example"},
		{Domain: "c7.example", Identity: "a b@c7.example"},
		{Domain: "c8.example", Identity: "a;\r\nb@c8.example"},
		{Domain: "c9.example", Identity: "ann@localhost"},
		{Address: "ann@d1.example", Identity: "@d.example"},
		{Domain: "d2.example", Overrides: Overrides{Canonicalization: "strict"}},
		{Domain: "d3.example", Overrides: Overrides{Expiry: -time.Hour}},
		{Domain: "d4.example", Overrides: Overrides{Expiry: time.Hour, NoExpiry: true}},
	}})
	const about = `want one of a login, an address and a domain to say what the row is about; the domain "*" is all other mail`
	const useless = "always has no effect here, because the row is not second to other keys; leave it out"
	const selector = "want letters, digits, hyphens and underscores, with dots between them, such as 2026a"
	checkErrors(t, err, []string{
		"Table[0]	row 1: " + about,
		"Table[1]	row 2: " + about,
		`Table[2]	row 3: login "@example.org": a row is about one login; write a row for the domain, or for each login`,
		`Table[3]	row 4: login "*": a row is about one login; write a row for the domain, or for each login`,
		`Table[4]	row 5: address "ann": no @; write it like ann@example.org`,
		`Table[5]	row 6: domain name "*.example.org": character '*' is not a letter, digit or hyphen`,
		"Table[7]	row 8: domain example.org has row 7 already; merge the two",
		"Table[9]	row 10: domain example.org and below has row 9 already; merge the two",
		"Table[11]	row 12: login ann has row 11 already; merge the two",
		"Table[13]	row 14: address ann@example.org has row 13 already; merge the two",
		"Table[15]	row 16: all other mail has row 15 already; merge the two",
		"Table[15]	row 16: subdomains of no domain; name the domain, or leave them out",
		"Table[16]	row 17: subdomains of no domain; name the domain, or leave them out",
		`Table[17]	row 18: sign as: domain name "localhost": a single label; mail is signed for names of two labels and more`,
		"Table[18]	row 19: " + useless,
		"Table[19]	row 20: " + useless,
		"Table[20]	row 21: " + useless,
		`Table[21]	row 22: selector "a b": ` + selector,
		`Table[21]	row 22: selector "": want a name of 1 to 253 octets`,
		`Table[21]	row 22: selector "-a": ` + selector,
		`Table[21]	row 22: selector "a..b": ` + selector,
		`Table[21]	row 22: selector "a;b": ` + selector,
		`Table[21]	row 22: selector "ü": ` + selector,
		"Table[22]	row 23: an empty list of selectors, so nothing could sign; leave it out, or switch the row off",
		`Table[23]	row 24: identity "ann": want an address, @ and a domain, or the word address`,
		`Table[24]	row 25: identity "ann@example.net": not in the signing domain c2.example or below it (RFC 6376, section 3.5)`,
		`Table[25]	row 26: identity "@notc3.example": not in the signing domain c3.example or below it (RFC 6376, section 3.5)`,
		`Table[26]	row 27: identity "@c4.example": not in the signing domain example.net or below it (RFC 6376, section 3.5)`,
		`Table[27]	row 28: identity "@c5.example": the signing domain is the author's, whatever that is; say what to sign as, or write the word address`,
		`Table[28]	row 29: identity "` + long + `@c6.example": the part before the @ is longer than 64 octets`,
		`Table[29]	row 30: identity "a b@c7.example": only printable ASCII without blanks can stand before the @`,
		`Table[30]	row 31: identity "a;\r\nb@c8.example": only printable ASCII without blanks can stand before the @`,
		`Table[31]	row 32: identity "ann@localhost": domain name "localhost": a single label; mail is signed for names of two labels and more`,
		`Table[32]	row 33: identity "@d.example": not in the signing domain d1.example or below it (RFC 6376, section 3.5)`,
		`Table[33]	row 34: canonicalization "strict": want one such as relaxed/relaxed, of relaxed and simple`,
		"Table[34]	row 35: expiry -1h0m0s: want a time span of 6 days or more",
		"Table[35]	row 36: expiry 1h0m0s, and none at all; leave one of them out",
	})
}

// One New names what is wrong in all parts of the options.
func TestNewNamesEveryWrongOption(t *testing.T) {
	_, err := New(Options{
		Origin: OriginOptions{
			SkipNetworks: []string{"127.0.0.1/8"},
			Certificates: []Certificate{{}, {Subject: "fine"}},
			Macros:       []Macro{{Name: "s"}, {Name: "auth_type", Values: []string{"PLAIN", ""}}},
		},
		Listeners: map[string]OriginOptions{
			"":      {},
			"smtp":  {Networks: []string{"0.0.0.0/0"}, SkipNetworks: []string{"0.0.0.0/0"}},
			"relay": {Networks: []string{"x", "192.0.2.0/24"}, DaemonNames: []string{""}, Macros: []Macro{{Name: ""}}},
		},
		AuthorFields: []string{"X-Sender"},
		Permission:   PermissionOptions{Grants: []Grant{{}}},
		Table:        []Row{{}},
	})
	checkErrors(t, err, []string{
		`Origin.SkipNetworks	network "127.0.0.1/8": 127.0.0.1 has bits set beyond /8; write 127.0.0.0/8 for the network, or 127.0.0.1 for the one address`,
		"Origin.Certificates	certificate without subject and issuer: name one of them, or let any verified certificate count",
		"Origin.Macros	macro s: a stranger can choose its value; list the networks of your clients instead",
		"Origin.Macros	macro {auth_type}: an empty value is the same as none; leave it out of the list",
		"Listeners	a listener without a name has origin rules: those of all listeners are in Origin",
		`Listeners[relay].Networks	listener relay: network "x": want a network such as 192.0.2.0/24 or 2001:db8::/32, or one address, per entry`,
		"Listeners[relay].DaemonNames	listener relay: daemon name is empty: leave it out of the list; an MTA that sends no name never matches",
		`Listeners[relay].Macros	listener relay: macro "": want a name such as {auth_type}, without blanks and dollar signs`,
		"Listeners[smtp].Networks	listener smtp: networks 0.0.0.0/0 hold 100 % of the IPv4 Internet: anybody there would get a signature; list the networks that are yours, or allow the whole Internet explicitly",
		`AuthorFields	author field "X-Sender": only Sender, Resent-From, Resent-Sender, List-Id, List-Post and List-Owner can stand for From`,
		"Permission.Grants[0]	grant 1: want one of a login, a network and a certificate to say who is meant",
		"Permission.Grants[0]	grant 1: nothing is allowed; name domains or addresses, or let it be any domain",
		`Table[0]	row 1: want one of a login, an address and a domain to say what the row is about; the domain "*" is all other mail`,
	})
}

func TestRowsPassOnWhatTheySay(t *testing.T) {
	overrides := Overrides{
		Canonicalization: "simple/relaxed", Expiry: 7 * 24 * time.Hour, Fields: []string{"Subject"}, Oversign: []string{"To"},
		Strict: true, Outcomes: map[string]string{"no_key": "reject"},
	}
	r := mustOptions(t, Options{Table: []Row{
		{Domain: "example.net"},
		{Domain: "example.org", Overrides: overrides},
		{Domain: "off.example", Disabled: true, Reason: "left in March", Overrides: Overrides{Strict: true}},
	}})
	d := r.Decide(client("127.0.0.1"), from("ann@example.org"))
	if d.Row != 2 || d.RowName != "row 2 (domain example.org)" || d.Overrides == nil || !reflect.DeepEqual(*d.Overrides, overrides) {
		t.Errorf("got %+v", d)
	}
	// What is not signed has them too, because they say what then happens.
	d = r.Decide(client("203.0.113.9"), by("ann@a.example", "ann@example.org"))
	if d.Verdict != Denied || d.Row != 2 || !d.Overrides.Strict {
		t.Errorf("denied: got %+v", d)
	}
	d = r.Decide(client("127.0.0.1"), from("ann@off.example"))
	if d.Verdict != Excluded || d.Code != CodeExcluded || d.Reason != "row 3 (domain off.example) is switched off: left in March" || !d.Overrides.Strict || d.Domains != nil {
		t.Errorf("excluded: got %+v", d)
	}
	d = r.Decide(client("127.0.0.1"), from("ann@other.example"))
	if d.Row != 0 || d.RowName != "" || d.Overrides != nil {
		t.Errorf("without a row: got %+v", d)
	}
}

// The rules are New's own, in all their parts.
func TestRulesDoNotChangeWithTheirOptions(t *testing.T) {
	o := Options{
		Origin:       OriginOptions{Macros: []Macro{{"auth_type", []string{"PLAIN"}}}},
		AuthorFields: []string{"List-Id"},
		Permission:   PermissionOptions{LoginDomains: []string{"a.example"}, Grants: []Grant{{Login: "ann", Domains: []string{"b.example"}}}},
		Table:        []Row{{Domain: "example.org", Selectors: []string{"A"}, Overrides: Overrides{Fields: []string{"To"}, Oversign: []string{"Cc"}, Outcomes: map[string]string{"no_key": "accept"}}}},
	}
	r := mustOptions(t, o)
	if got := o.Table[0].Selectors[0]; got != "A" {
		t.Errorf("New changed its argument to %q", got)
	}
	o.Origin.Macros[0].Values[0] = "LOGIN"
	o.AuthorFields[0] = "Sender"
	o.Permission.LoginDomains[0], o.Permission.Grants[0].Domains[0] = "c.example", "c.example"
	row := &o.Table[0]
	row.Selectors[0], row.Fields[0], row.Oversign[0], row.Outcomes["no_key"], row.SignAs = "b", "X", "X", "reject", "example.net"
	conn := Connection{Macros: map[string]string{"{auth_type}": "PLAIN"}}
	d := r.Decide(conn, from("ann@example.org"))
	if summary(d) != "example.org s=a" || d.Overrides.Fields[0] != "To" || d.Overrides.Oversign[0] != "Cc" || d.Overrides.Outcomes["no_key"] != "accept" {
		t.Errorf("got %+v, %+v", d, d.Overrides)
	}
	for _, domain := range []string{"a.example", "b.example"} {
		if d := r.Decide(conn, by("ann", "ann@"+domain)); d.Verdict != Ours {
			t.Errorf("%s: got %+v", domain, d)
		}
	}
}

func TestUnaligned(t *testing.T) {
	for _, row := range []struct {
		from, as string
		want     bool
	}{
		{"example.org", "example.org", false},
		{"a.example.org", "example.org", false},
		{"example.org", "a.example.org", false},
		{"a.example.org", "b.example.org", false},
		{"a.co.example", "b.co.example", false}, // co.example may be an organization
		{"example.org", "example.net", true},
		{"example.org", "notexample.org", true},
		{"example.org", "org.example", true},
	} {
		r := mustOptions(t, Options{Table: []Row{{Domain: row.from, SignAs: row.as}}})
		d := r.Decide(client("127.0.0.1"), from("x@"+row.from))
		if got := d.Candidates[0].Unaligned; got != row.want {
			t.Errorf("From %s signed as %s: unaligned %v, want %v", row.from, row.as, got, row.want)
		}
	}
}

func TestWarnings(t *testing.T) {
	day := 24 * time.Hour
	r := mustOptions(t, Options{Table: []Row{
		{Domain: "example.org", Overrides: Overrides{Expiry: 5 * day}},
		{Domain: "a.example.org", SignAs: "example.org", Overrides: Overrides{Expiry: 6 * day}},
		{Domain: "b.example.org", SignAs: "example.net"},
		{Domain: "c.example.org", SignAs: "example.net", Disabled: true},
		{Login: "news", SignAs: "example.net"},
		{Domain: "*", SignAs: "example.net"},
	}})
	var got []string
	for _, err := range r.Warnings() {
		var option *OptionError
		if !errors.As(err, &option) {
			t.Fatalf("not an OptionError: %v", err)
		}
		got = append(got, option.Option+"\t"+err.Error())
	}
	want := []string{
		"Table[0]	row 1: expiry of 5 days: mail that waits in a queue for five days arrives with an expired signature; use 6 days or more, or leave it out",
		"Table[2]	row 3: signs mail of b.example.org as example.net, which DMARC does not count for it",
		"Table[4]	row 5: signs mail of any domain as example.net, which DMARC does not count for authors of other domains",
		"Table[5]	row 6: signs mail of any domain as example.net, which DMARC does not count for authors of other domains",
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if got := mustOptions(t, Options{}).Warnings(); got != nil {
		t.Errorf("the defaults warn: %v", got)
	}
}

func TestMacrosAreThoseThatRulesName(t *testing.T) {
	names := []string{"{cert_issuer}", "{cert_subject}", "{verify}"}
	for _, row := range []struct {
		what    string
		options Options
		want    []string
	}{
		{"by default", Options{}, nil},
		{"a certificate", Options{Origin: OriginOptions{Certificates: []Certificate{{Subject: "x"}}}}, names},
		{"any certificate, of a listener", Options{Listeners: map[string]OriginOptions{"smtp": {AnyCertificate: true}}}, names},
		{"a grant for a certificate", Options{Permission: PermissionOptions{Grants: []Grant{{Certificate: Certificate{Subject: "x"}, AnyDomain: true}}}}, names},
		{"macros", Options{Origin: OriginOptions{Macros: []Macro{{Name: "{auth_type}"}, {Name: "auth_ssf"}, {Name: "z"}, {Name: "{z}"}}}}, []string{"z", "{auth_ssf}", "{auth_type}"}},
	} {
		if got := mustOptions(t, row.options).Macros(); !reflect.DeepEqual(got, row.want) {
			t.Errorf("%s: got %q, want %q", row.what, got, row.want)
		}
	}
}

// manyRows is a table of n rows of all kinds, and grants for its
// logins.
func manyRows(n int) Options {
	o := Options{}
	for i := range n {
		domain := fmt.Sprintf("customer%d.example", i)
		switch i % 4 {
		case 0:
			o.Table = append(o.Table, Row{Login: fmt.Sprintf("login%d", i), Selectors: []string{"a"}})
			o.Permission.Grants = append(o.Permission.Grants, Grant{Login: fmt.Sprintf("login%d", i), Domains: []string{domain}, Subdomains: true})
		case 1:
			o.Table = append(o.Table, Row{Address: "info@" + domain, Selectors: []string{"b"}})
		case 2:
			o.Table = append(o.Table, Row{Domain: domain, Selectors: []string{"c"}})
		default:
			o.Table = append(o.Table, Row{Domain: domain, Subdomains: true, Selectors: []string{"d"}})
		}
	}
	return o
}

var tableLookups = []struct {
	name    string
	conn    Connection
	message Message
	want    string
}{
	{"login", client("203.0.113.9"), by("login40", "x@customer40.example"), "customer40.example s=a"},
	{"login-below", client("203.0.113.9"), by("login40", "x@a.b.c.customer40.example"), "a.b.c.customer40.example s=a"},
	{"address", client("127.0.0.1"), from("info@customer41.example"), "customer41.example s=b"},
	{"domain", client("127.0.0.1"), from("x@customer42.example"), "customer42.example s=c"},
	{"parent", client("127.0.0.1"), from("x@a.b.c.customer43.example"), "a.b.c.customer43.example or customer43.example s=d"},
	{"none", client("127.0.0.1"), from("x@a.b.c.d.e.other.example"), "a.b.c.d.e.other.example"},
}

func TestManyRows(t *testing.T) {
	r := mustOptions(t, manyRows(1000))
	for _, l := range tableLookups {
		if got := summary(r.Decide(l.conn, l.message)); got != l.want {
			t.Errorf("%s: got %s, want %s", l.name, got, l.want)
		}
	}
}

// BenchmarkTable compares lookups in a small table and in a large one.
func BenchmarkTable(b *testing.B) {
	for _, n := range []int{100, 100_000} {
		r := mustOptions(b, manyRows(n))
		for _, l := range tableLookups {
			b.Run(fmt.Sprintf("%s/rows=%d", l.name, n), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					r.Decide(l.conn, l.message)
				}
			})
		}
	}
}

func BenchmarkNew(b *testing.B) {
	o := manyRows(100_000)
	b.ReportAllocs()
	for b.Loop() {
		mustOptions(b, o)
	}
}

func BenchmarkExplain(b *testing.B) {
	r := mustOptions(b, Options{})
	c := Connection{Client: netip.MustParseAddr("203.0.113.9"), Host: "mx.example.org"}
	m := by("ann", "ann@example.org")
	b.ReportAllocs()
	for b.Loop() {
		r.Explain(c, m)
	}
}
