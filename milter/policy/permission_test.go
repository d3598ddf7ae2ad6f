package policy

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

// hoster is a server with customers ann@a.example and bob@b.example, set up in
// every way that might let one of them have the other's signature.
func hoster() map[string]Options {
	everything := Options{
		AuthorFields: []string{"List-Id", "List-Post", "Sender"},
		Permission: PermissionOptions{Grants: []Grant{
			{Login: "bob@b.example", Domains: []string{"b-shop.example"}},
			{Login: "ann@a.example", Addresses: []string{"ann@shared.example"}},
			{Login: "bob@b.example", Addresses: []string{"bob@shared.example"}},
			{Network: "192.0.2.0/24", Domains: []string{"b.example"}},
		}},
		Table: []Row{
			{Domain: "b.example", Subdomains: true, Identity: "address"},
			{Domain: "a.example", Selectors: []string{"a"}},
			{Address: "bob@b.example", Selectors: []string{"bob"}},
			{Login: "bob@b.example", Selectors: []string{"bob"}},
			{Domain: "*", SignAs: "hoster.example"},
		},
	}
	return map[string]Options{
		"with the defaults":             {},
		"with author fields":            {AuthorFields: []string{"Sender", "List-Id", "List-Post"}},
		"with rows of all kinds":        everything,
		"with logins that do not count": {Origin: OriginOptions{NoLogin: true, Networks: []string{"203.0.113.0/24"}}},
		"with login domains":            {Permission: PermissionOptions{LoginDomains: []string{"b.example"}}},
	}
}

// annMay is all that ann@a.example may ever have in one of these set-ups; the
// hoster's own signature does not count for her customers' domains.
var annMay = []string{"a.example", "shared.example", "hoster.example"}

var borrowings = []struct {
	what    string
	message Message
}{
	{"From", from("bob@b.example")},
	{"From in upper case", from("BOB@B.EXAMPLE")},
	{"From with a name of her own", from(`"ann@a.example" <bob@b.example>`)},
	{"From below", from("bob@sub.b.example")},
	{"From above", from("bob@example")},
	{"From of a shop", from("bob@b-shop.example")},
	{"From with her address beside it", from("ann@a.example, bob@b.example")},
	{"From with her address in front", from("ann@a.example <bob@b.example>")},
	{"From with her address behind", from("<bob@b.example> <ann@a.example>")},
	{"From with a route", from("<@a.example:bob@b.example>")},
	{"From with a percent sign", from("bob%b.example@a.example")},
	{"From without brackets closed", from("<bob@b.example")},
	{"From with a trailing dot", from("bob@b.example.")},
	{"From with a NUL", from("bob@b.example\x00@a.example")},
	{"From with a blank", from("bob@b.example @a.example")},
	{"From with a fold in the domain", from("bob@b.exa\r\n mple")},
	{"From with a quoted @", from(`"bob@b.example"@a.example`)},
	{"From with two @", from("bob@b.example@a.example")},
	{"Sender", listed("ann@a.example", map[string][]string{"Sender": {" bob@b.example"}})},
	{"Sender of her own", listed("bob@b.example", map[string][]string{"Sender": {" ann@a.example"}})},
	{"List-Id", listed("ann@a.example", map[string][]string{"List-Id": {" <list.b.example>"}})},
	{"List-Post", listed("ann@a.example", map[string][]string{"List-Post": {" <mailto:list@b.example>"}})},
	{"Sender of her address in a shared domain", listed("bob@shared.example", map[string][]string{"Sender": {" ann@shared.example"}})},
	{"From of a shared domain", from("bob@shared.example")},
	{"From of a shared domain with her own address", from("ann@shared.example, bob@shared.example")},
	{"a group", from("Friends: bob@b.example;")},
	{"a group of her own", from("bob@b.example: ann@a.example;")},
	{"an empty group", from("bob@b.example:;")},
	{"a comment", from("ann@a.example (bob@b.example)")},
	{"a comment in front", from("(ann@a.example) bob@b.example")},
	{"a comment in the domain", from("bob@b.(ann@a.)example")},
	{"an encoded word", from("=?utf-8?q?bob=40b=2Eexample?= <ann@a.example>")},
	{"an encoded word as address", from("=?utf-8?q?bob=40b=2Eexample?=")},
	{"an encoded word as local part", from("=?utf-8?q?bob=40b=2Eexample=3E?=@a.example")},
	{"two From fields", Message{From: []string{" ann@a.example", " bob@b.example"}}},
	{"two From fields, his first", Message{From: []string{" bob@b.example", " ann@a.example"}}},
	{"no From field", Message{MailFrom: "<bob@b.example>"}},
	{"an empty From field", Message{From: []string{""}, MailFrom: "<bob@b.example>"}},
	{"a null sender", Message{MailFrom: "<>", From: []string{" bob@b.example"}}},
	{"a null sender as Postfix simulates it", Message{MailFrom: "", From: []string{" MAILER-DAEMON@b.example (Mail Delivery System)"}}},
	{"the envelope sender", Message{MailFrom: "<bob@b.example>", From: []string{" ann@a.example"}}},
}

func TestNobodyGetsAnothersSignature(t *testing.T) {
	conn := Connection{Client: netip.MustParseAddr("203.0.113.9"), DaemonName: "ORIGINATING", MTA: "Postfix 3.7.11", Host: "mx.hoster.example"}
	for name, options := range hoster() {
		r := mustOptions(t, options)
		for _, login := range []string{"ann@a.example", "Ann@A.EXAMPLE"} {
			for _, b := range borrowings {
				if bad := borrowed(r, conn, b.message.by(login)); bad != "" {
					t.Errorf("%s, login %s, by %s: %s", name, login, b.what, bad)
				}
			}
			// The rules are not so strict that nothing works.
			if d := r.Decide(conn, by(login, "ann@a.example")); d.Verdict != Ours || d.Domains[0] != "a.example" {
				t.Errorf("%s, login %s: her own mail: %+v", name, login, d)
			}
		}
	}
}

// borrowed says what is wrong with the decision about a message of ann's.
func borrowed(r *Rules, c Connection, m Message) string {
	d := r.Decide(c, m)
	for _, candidate := range d.Candidates {
		if !slices.Contains(annMay, candidate.Domain) {
			return fmt.Sprintf("may sign as %s", candidate.Domain)
		}
		if !candidate.Unaligned && candidate.Domain != d.Author {
			return fmt.Sprintf("%s may sign for %s, which is another's", candidate.Domain, d.Author)
		}
	}
	if d.Author == "shared.example" && slices.Contains(d.Domains, "shared.example") {
		return "the address of another in a shared domain"
	}
	return ""
}

// FuzzNobodyGetsAnothersSignature tries whatever fields may do.
func FuzzNobodyGetsAnothersSignature(f *testing.F) {
	for _, b := range borrowings {
		value := func(list []string) string { return strings.Join(list, "\x01") }
		f.Add(value(b.message.From), value(b.message.Fields["Sender"]), value(b.message.Fields["List-Id"]), value(b.message.Fields["List-Post"]), b.message.MailFrom)
	}
	conn := Connection{Client: netip.MustParseAddr("203.0.113.9"), DaemonName: "ORIGINATING", MTA: "Postfix 3.7.11", Host: "mx.hoster.example"}
	var rules []*Rules
	for _, options := range hoster() {
		rules = append(rules, mustOptions(f, options))
	}
	f.Fuzz(func(t *testing.T, fromField, sender, listID, listPost, mailFrom string) {
		values := func(s string) []string {
			if s == "" {
				return nil
			}
			return strings.Split(s, "\x01")
		}
		m := Message{Login: "ann@a.example", MailFrom: mailFrom, From: values(fromField), Fields: map[string][]string{
			"Sender": values(sender), "List-Id": values(listID), "List-Post": values(listPost),
		}}
		for _, r := range rules {
			d := r.Decide(conn, m)
			bad := borrowed(r, conn, m)
			if d.Author == "shared.example" && strings.Contains(strings.ToLower(fromField), "ann") {
				bad = "" // her own address there is hers
			}
			if bad != "" {
				t.Errorf("From %q, Sender %q, List-Id %q, List-Post %q: %s", m.From, sender, listID, listPost, bad)
			}
		}
	})
}

// A login that bears the name of a network or certificate has no part in what
// these may.
func TestLoginsDoNotPassForNetworks(t *testing.T) {
	r := mustOptions(t, Options{Permission: PermissionOptions{Grants: []Grant{
		{Network: "192.0.2.0/24", AnyDomain: true},
		{Certificate: Certificate{Subject: "ann"}, AnyDomain: true},
	}}})
	for _, login := range []string{"network 192.0.2.0/24", "certificate of ann"} {
		if d := r.Decide(client("203.0.113.9"), by(login, "x@example.org")); d.Verdict != Denied {
			t.Errorf("login %q: %+v", login, d)
		}
	}
	r = mustOptions(t, Options{Permission: PermissionOptions{Grants: []Grant{{Login: "network 192.0.2.0/24", Domains: []string{"example.org"}}}}})
	c := Connection{Client: netip.MustParseAddr("192.0.2.1"), DaemonName: "ORIGINATING"}
	if d := r.Decide(c, from("x@example.net")); d.Verdict != Ours {
		t.Errorf("a row of a login holds for a network: %+v", d)
	}
}

func TestDeniedSaysWhy(t *testing.T) {
	for _, row := range []struct {
		what    string
		options PermissionOptions
		conn    Connection
		message Message
		want    string
	}{
		{"a login with a domain", PermissionOptions{}, client("203.0.113.9"), by("ann@a.example", "x@b.example"),
			`login "ann@a.example" may not sign for b.example: it may for its own domain, a.example, and no grant names more for it; add one`},
		{"a login whose domain does not count", PermissionOptions{NoOwnDomain: true}, client("203.0.113.9"), by("ann@a.example", "x@a.example"),
			`login "ann@a.example" may not sign for a.example: its own domain does not count (rule switched off), and no grant names more for it; add one`},
		{"a login without a domain", PermissionOptions{}, Connection{Host: "mx.example.org"}, by("ann", "x@b.example"),
			`login "ann" may not sign for b.example: it has no domain of its own, so it may for mx.example.org, example.org, and no grant names more for it; add one`},
		{"many login domains", PermissionOptions{LoginDomains: []string{"d.example", "c.example", "a.example", "e.example"}}, Connection{}, by("ann", "x@b.example"),
			`login "ann" may not sign for b.example: it has no domain of its own, so it may for a.example, c.example, d.example, …, and no grant names more for it; add one`},
		{"no login domains", PermissionOptions{LoginDomains: []string{}}, Connection{}, by("ann", "x@b.example"),
			`login "ann" may not sign for b.example: it has no domain of its own, and there are no login domains, and no grant names more for it; add one`},
		{"an MTA without a name", PermissionOptions{}, Connection{}, by("ann", "x@b.example"),
			`login "ann" may not sign for b.example: it has no domain of its own, and the MTA does not say its name (macro j), and no grant names more for it; add one`},
		{"a login that is no text", PermissionOptions{}, Connection{Host: "mx.example.org"}, by("a\n\x00", "x@b.example"),
			`login "a\n\x00" may not sign for b.example: it has no domain of its own, so it may for mx.example.org, example.org, and no grant names more for it; add one`},
		{"a client in a network", PermissionOptions{Grants: []Grant{{Network: "127.0.0.0/8", Domains: []string{"a.example"}}}}, client("127.0.0.1"), from("x@b.example"),
			"client 127.0.0.1 may not sign for b.example: network 127.0.0.0/8 has grants, and none names it; add one"},
		{"a client without an address", PermissionOptions{Grants: []Grant{{Certificate: Certificate{Subject: "x"}, Domains: []string{"a.example"}}}},
			Connection{DaemonName: "ORIGINATING", MTA: "Postfix", Macros: map[string]string{"{cert_subject}": "x"}}, from("x@b.example"),
			"client without address may not sign for b.example: certificate of x has grants, and none names it; add one"},
		{"a login that the MTA has the server's name behind", PermissionOptions{LoginDomains: []string{}, Grants: []Grant{{Login: "ann", Domains: []string{"b.example"}}}},
			Connection{Host: "mx.example.org"}, by("ann@mx.example.org", "x@b.example"),
			`login "ann@mx.example.org" may not sign for b.example: it has no domain of its own, and there are no login domains, and no grant names more for it (one is about "ann", which is another login); add one`},
		{"a login that the row has the server's name behind", PermissionOptions{LoginDomains: []string{}, Grants: []Grant{{Login: "ann@mx.example.org", Domains: []string{"b.example"}}}},
			Connection{Host: "mx.example.org"}, by("ann", "x@b.example"),
			`login "ann" may not sign for b.example: it has no domain of its own, and there are no login domains, and no grant names more for it (one is about "ann@mx.example.org", which is another login); add one`},
	} {
		d := mustOptions(t, Options{Permission: row.options}).Decide(row.conn, row.message)
		if d.Verdict != Denied || d.Code != CodeDenied || d.Reason != row.want || d.Domains != nil || d.Candidates != nil || d.Author == "" || d.Rule == "" {
			t.Errorf("%s:\n got %+v\nwant %s", row.what, d, row.want)
		}
	}
}

func TestNewNamesEveryWrongPermission(t *testing.T) {
	_, err := New(Options{Permission: PermissionOptions{
		LoginDomains: []string{"localhost", "example.org"},
		Grants: []Grant{
			{Domains: []string{"example.org"}},
			{Login: "ann", Network: "192.0.2.0/24", AnyDomain: true},
			{Login: "ann"},
			{Login: "@localhost", AnyDomain: true},
			{Network: "192.0.2.1/24", AnyDomain: true},
			{Login: "ann", Domains: []string{"*.example.org", "example.org"}, Addresses: []string{"ann", "ann@", "a b@example.org", `"ann@example.org`, "a\x00@example.org", "ann@example.org"}},
			{Login: "ann", Addresses: []string{"ann@example.org"}, Subdomains: true},
			{Login: "fine", Domains: []string{"example.org"}},
		},
	}})
	checkErrors(t, err, []string{
		`Permission.LoginDomains	login domains: domain name "localhost": a single label; mail is signed for names of two labels and more`,
		`Permission.Grants[0]	grant 1: want one of a login, a network and a certificate to say who is meant`,
		`Permission.Grants[1]	grant 2: want one of a login, a network and a certificate to say who is meant`,
		`Permission.Grants[2]	grant 3: nothing is allowed; name domains or addresses, or let it be any domain`,
		`Permission.Grants[3]	grant 4: domain name "localhost": a single label; mail is signed for names of two labels and more`,
		`Permission.Grants[4]	grant 5: network "192.0.2.1/24": 192.0.2.1 has bits set beyond /24; write 192.0.2.0/24 for the network, or 192.0.2.1 for the one address`,
		`Permission.Grants[5]	grant 6: domain name "*.example.org": character '*' is not a letter, digit or hyphen`,
		`Permission.Grants[5]	grant 6: address "ann": no @; write it like ann@example.org`,
		`Permission.Grants[5]	grant 6: address "ann@": domain name "": empty`,
		`Permission.Grants[5]	grant 6: address "a b@example.org": character ' ' in a local part`,
		`Permission.Grants[5]	grant 6: address "\"ann@example.org": a quotation mark without its other half; write it like ann@example.org`,
		`Permission.Grants[5]	grant 6: address "a\x00@example.org": a NUL`,
		`Permission.Grants[6]	grant 7: subdomains of no domain; name the domains`,
	})
}

// checkErrors compares the joined errors of New: the option and the words.
func checkErrors(t *testing.T, err error, want []string) {
	t.Helper()
	var got []string
	var walk func(error)
	walk = func(err error) {
		if joined, ok := err.(interface{ Unwrap() []error }); ok {
			for _, each := range joined.Unwrap() {
				walk(each)
			}
			return
		}
		var option *OptionError
		if !errors.As(err, &option) {
			t.Errorf("not an OptionError: %v", err)
			return
		}
		got = append(got, option.Option+"\t"+err.Error())
	}
	if err == nil {
		t.Fatal("no error")
	}
	walk(err)
	for i := range max(len(got), len(want)) {
		var g, w string
		if i < len(got) {
			g = got[i]
		}
		if i < len(want) {
			w = want[i]
		}
		if g != w {
			t.Errorf("error %d:\n got %s\nwant %s", i+1, g, w)
		}
	}
}
