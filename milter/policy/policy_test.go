package policy

import (
	"net/netip"
	"reflect"
	"strings"
	"sync"
	"testing"
)

// off switches every origin rule off; tests switch one on again.
var off = OriginOptions{NoLogin: true, Networks: []string{}, NoLocal: true, DaemonNames: []string{}}

func with(change func(*OriginOptions)) OriginOptions {
	o := off
	change(&o)
	return o
}

func client(addr string) Connection {
	return Connection{Client: netip.MustParseAddr(addr), DaemonName: "mx.example.com"}
}

// mustNew returns rules about origin only: everybody may sign for any domain.
func mustNew(t testing.TB, o OriginOptions) *Rules {
	t.Helper()
	return mustOptions(t, Options{Origin: o, Permission: PermissionOptions{Off: true}})
}

func mustOptions(t testing.TB, o Options) *Rules {
	t.Helper()
	r, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// postfixLocal is what Postfix says about mail by the sendmail command and
// about its own bounces.
var postfixLocal = Connection{Client: netip.MustParseAddr("127.0.0.1"), Local: true, DaemonName: "mx.example.com", MTA: "Postfix 3.7.11"}

func TestOrigin(t *testing.T) {
	logins := with(func(o *OriginOptions) { o.NoLogin = false })
	locals := with(func(o *OriginOptions) { o.NoLocal = false })
	nets := with(func(o *OriginOptions) { o.Networks = []string{"192.0.2.0/24", "2001:db8::/32"} })
	loopback := with(func(o *OriginOptions) { o.Networks = nil })
	daemons := with(func(o *OriginOptions) { o.DaemonNames = []string{"ORIGINATING", "submission"} })
	named := func(name string) Connection {
		c := client("203.0.113.9")
		c.DaemonName = name
		return c
	}
	noNothing := Connection{}

	for _, row := range []struct {
		sentence string
		options  OriginOptions
		conn     Connection
		login    string
		rule     string // empty: not ours
		reason   string
	}{
		{"by default, mail of an authenticated login is ours", OriginOptions{}, client("203.0.113.9"), "ann", "login", `authenticated login "ann"`},
		{"by default, mail from IPv4 loopback is ours", OriginOptions{}, client("127.0.0.1"), "", "network 127.0.0.0/8", "client 127.0.0.1 is in network 127.0.0.0/8"},
		{"by default, mail from IPv6 loopback is ours", OriginOptions{}, client("::1"), "", "network ::1/128", "client ::1 is in network ::1/128"},
		{"by default, local submission is ours", OriginOptions{}, postfixLocal, "", "local submission", "submitted on this machine, without an SMTP client"},
		{"by default, mail of daemon ORIGINATING is ours", OriginOptions{}, named("ORIGINATING"), "", "daemon name ORIGINATING", "the MTA's daemon name is ORIGINATING"},
		{"by default, mail from outside is not ours", OriginOptions{}, named("smtpd"), "", "", `no login, client 203.0.113.9 is in no trusted network, daemon name "smtpd" is not listed`},
		{"mail that nothing is known about is not ours", OriginOptions{}, noNothing, "", "", "no login, no client address, no daemon name"},
		{"a client without an address is not local unless the MTA made it so", locals, noNothing, "", "", "no login, no client address, no daemon name"},

		{"the login rule matches any login", logins, client("203.0.113.9"), "bob@example.org", "login", `authenticated login "bob@example.org"`},
		{"the login rule does not match without a login", logins, client("203.0.113.9"), "", "", `no login, client 203.0.113.9 does not count (no networks are trusted), daemon name "mx.example.com" does not count (no names are listed)`},
		{"the login rule can be switched off", nets, client("203.0.113.9"), "ann", "", `login "ann" does not count (rule switched off), client 203.0.113.9 is in no trusted network, daemon name "mx.example.com" does not count (no names are listed)`},
		{"a login is quoted in the reason", logins, client("203.0.113.9"), "a\nb\"", "login", `authenticated login "a\nb\""`},
		{"a long login is cut in the reason", logins, client("203.0.113.9"), strings.Repeat("a", 1000), "login", `authenticated login "` + strings.Repeat("a", 128) + `"...`},

		{"the network rule matches a client in a network", nets, client("192.0.2.7"), "", "network 192.0.2.0/24", "client 192.0.2.7 is in network 192.0.2.0/24"},
		{"the network rule matches an IPv6 client", nets, client("2001:db8::7"), "", "network 2001:db8::/32", "client 2001:db8::7 is in network 2001:db8::/32"},
		{"the network rule matches a mapped IPv4 client", nets, client("::ffff:192.0.2.7"), "", "network 192.0.2.0/24", "client ::ffff:192.0.2.7 is in network 192.0.2.0/24"},
		{"the network rule does not match outside the network", nets, client("192.0.3.7"), "", "", `no login, client 192.0.3.7 is in no trusted network, daemon name "mx.example.com" does not count (no names are listed)`},
		{"own networks replace loopback", nets, client("127.0.0.1"), "", "", `no login, client 127.0.0.1 is in no trusted network, daemon name "mx.example.com" does not count (no names are listed)`},
		{"the network rule can be switched off", logins, client("127.0.0.1"), "", "", `no login, client 127.0.0.1 does not count (no networks are trusted), daemon name "mx.example.com" does not count (no names are listed)`},

		{"local submission is its own rule", locals, postfixLocal, "", "local submission", "submitted on this machine, without an SMTP client"},
		{"local submission needs no client address", locals, Connection{Local: true}, "", "local submission", "submitted on this machine, without an SMTP client"},
		{"local submission can be switched off, whatever address Postfix made up", loopback, postfixLocal, "", "", `no login, local submission does not count (rule switched off), daemon name "mx.example.com" does not count (no names are listed)`},
		{"a real loopback client is not local submission", locals, client("127.0.0.1"), "", "", `no login, client 127.0.0.1 does not count (no networks are trusted), daemon name "mx.example.com" does not count (no names are listed)`},

		{"the daemon rule matches a listed name", daemons, named("submission"), "", "daemon name submission", "the MTA's daemon name is submission"},
		{"the daemon rule ignores upper and lower case", daemons, named("Originating"), "", "daemon name ORIGINATING", "the MTA's daemon name is ORIGINATING"},
		{"the daemon rule wants the whole name", daemons, named("ORIGINATING2"), "", "", `no login, client 203.0.113.9 does not count (no networks are trusted), daemon name "ORIGINATING2" is not listed`},
		{"the daemon rule does not match a host name", daemons, named("mx.example.com"), "", "", `no login, client 203.0.113.9 does not count (no networks are trusted), daemon name "mx.example.com" is not listed`},
		{"the daemon rule does not match when the MTA sends no name", daemons, named(""), "", "", "no login, client 203.0.113.9 does not count (no networks are trusted), no daemon name"},
		{"the daemon rule matches local submission too", daemons, Connection{Local: true, DaemonName: "ORIGINATING"}, "", "daemon name ORIGINATING", "the MTA's daemon name is ORIGINATING"},
		{"the daemon rule can be switched off", nets, named("ORIGINATING"), "", "", `no login, client 203.0.113.9 is in no trusted network, daemon name "ORIGINATING" does not count (no names are listed)`},

		{"one rule is enough: a login from an unknown network", OriginOptions{Networks: []string{"192.0.2.0/24"}}, client("203.0.113.9"), "ann", "login", `authenticated login "ann"`},
		{"a login is named before a network", OriginOptions{}, client("127.0.0.1"), "ann", "login", `authenticated login "ann"`},
		{"a network is named before a daemon", OriginOptions{}, Connection{Client: netip.MustParseAddr("127.0.0.1"), DaemonName: "ORIGINATING"}, "", "network 127.0.0.0/8", "client 127.0.0.1 is in network 127.0.0.0/8"},
		{"with every rule off, nothing is ours", off, Connection{Local: true, DaemonName: "ORIGINATING"}, "ann", "", `login "ann" does not count (rule switched off), local submission does not count (rule switched off), daemon name "ORIGINATING" does not count (no names are listed)`},
	} {
		got := mustNew(t, row.options).Origin(row.conn, row.login)
		want := Origin{Ours: row.rule != "", Rule: row.rule, Reason: row.reason}
		if got != want {
			t.Errorf("%s:\n got %+v\nwant %+v", row.sentence, got, want)
		}
	}
}

// The words of rules that have to be configured first.
func TestOriginWordsOfOtherRules(t *testing.T) {
	certificates := with(func(o *OriginOptions) {
		o.Certificates = []Certificate{{"client", "our CA"}, {Subject: "client"}, {Issuer: "our CA"}}
	})
	anyOf := with(func(o *OriginOptions) { o.AnyCertificate = true })
	macros := with(func(o *OriginOptions) { o.Macros = []Macro{{"daemon_port", []string{"587"}}, {Name: "{auth_type}"}} })
	all := with(func(o *OriginOptions) { o.All = true })
	listener := func(name string, o OriginOptions) Options {
		return Options{Listeners: map[string]OriginOptions{name: o}}
	}
	sent := func(macros ...string) Connection {
		c := Connection{Listener: "smtp", MTA: "Postfix 3.7.11", Macros: map[string]string{}}
		for i := 0; i < len(macros); i += 2 {
			c.Macros[macros[i]] = macros[i+1]
		}
		return c
	}
	const otherwise = "no login, no client address, "
	for _, row := range []struct {
		sentence     string
		options      Options
		conn         Connection
		rule, reason string
	}{
		{"a certificate of both names", listener("smtp", certificates), sent("{cert_subject}", "client", "{cert_issuer}", "our CA"), "certificate of client by our CA", `the MTA has verified the client's certificate of "client" by "our CA"`},
		{"a certificate of the subject", listener("smtp", certificates), sent("{cert_subject}", "client", "{cert_issuer}", "a CA"), "certificate of client", `the MTA has verified the client's certificate of "client" by "a CA"`},
		{"a certificate of the issuer", listener("smtp", certificates), sent("{cert_subject}", "x", "{cert_issuer}", "our CA"), "certificate by our CA", `the MTA has verified the client's certificate of "x" by "our CA"`},
		{"a certificate that is not listed", listener("smtp", certificates), sent("{cert_subject}", "x", "{cert_issuer}", "a CA"), "", otherwise + `certificate of "x" by "a CA" is not listed, no daemon name`},
		{"a certificate that is not verified", listener("smtp", certificates), sent("{cert_subject}", "client", "{verify}", "TEMP"), "", otherwise + `certificate of "client" is not verified, no daemon name`},
		{"no certificate", listener("smtp", certificates), sent("{verify}", "NO"), "", otherwise + "no verified certificate, no daemon name"},
		{"any certificate", listener("smtp", anyOf), sent("{cert_issuer}", "a\nCA"), "certificate", `the MTA has verified the client's certificate by "a\nCA"`},
		{"any certificate, without names", listener("smtp", anyOf), sent("{verify}", "OK"), "certificate", "the MTA has verified the client's certificate"},
		{"a macro", listener("smtp", macros), sent("{auth_type}", "PLAIN"), "macro {auth_type}", `the MTA's macro {auth_type} is "PLAIN"`},
		{"a macro with another value", listener("smtp", macros), sent("{daemon_port}", "25"), "", otherwise + `no daemon name, macro {daemon_port} has the value "25", which is not listed, no macro {auth_type}`},
		{"a listener", listener("smtp", all), sent(), "listener smtp", "all mail of listener smtp counts as ours"},
		{"a skipped client", Options{Origin: OriginOptions{SkipNetworks: []string{"203.0.113.0/24"}}}, client("203.0.113.9"), "", "client 203.0.113.9 is in network 203.0.113.0/24, which is skipped"},
	} {
		got := mustOptions(t, row.options).Origin(row.conn, "")
		want := Origin{Ours: row.rule != "", Rule: row.rule, Reason: row.reason}
		if got != want {
			t.Errorf("%s:\n got %+v\nwant %+v", row.sentence, got, want)
		}
	}
}

func TestDecide(t *testing.T) {
	r := mustNew(t, OriginOptions{})
	outside := client("203.0.113.9")
	postfix := Connection{Client: netip.MustParseAddr("127.0.0.1"), MTA: "Postfix 3.7.11"}
	unknown := Connection{Client: netip.MustParseAddr("127.0.0.1")}
	const network = "network 127.0.0.0/8"
	ours := func(rule, reason, author string) Decision {
		return Decision{Verdict: Ours, Rule: rule, Reason: reason, Code: CodeOurs, Author: author, Field: "From",
			Domains: []string{author}, Candidates: []Candidate{{Domain: author}}}
	}
	never := func(code, reason string) Decision {
		return Decision{Verdict: NotSignable, Rule: network, Reason: reason, Code: code}
	}
	inNetwork := "client 127.0.0.1 is in " + network

	for _, row := range []struct {
		sentence string
		conn     Connection
		message  Message
		want     Decision
	}{
		{"the author domain signs", postfix, Message{From: []string{" Ann <ann@Example.ORG>"}}, ours(network, inNetwork, "example.org")},
		{"a subdomain signs for itself, not its parent", postfix, Message{From: []string{" ann@a.example.org"}}, ours(network, inNetwork, "a.example.org")},
		{"the signing domain is an A-label", postfix, Message{From: []string{" ann@bücher.example"}}, ours(network, inNetwork, "xn--bcher-kva.example")},
		{"the envelope sender never chooses a domain", postfix, Message{MailFrom: "<b@bounce.example.net>", From: []string{" ann@example.org"}}, ours(network, inNetwork, "example.org")},
		{"the login never chooses a domain", outside, Message{Login: "bob@example.net", From: []string{" ann@example.org"}}, ours("login", `authenticated login "bob@example.net"`, "example.org")},
		{"a null sender in brackets is judged by From", postfix, Message{MailFrom: "<>", From: []string{" MAILER-DAEMON@example.org (Mail Delivery System)"}}, ours(network, inNetwork, "example.org")},
		{"a null sender as an empty string is judged by From", postfixLocal, Message{MailFrom: "", From: []string{" MAILER-DAEMON@example.org (Mail Delivery System)"}}, ours("local submission", "submitted on this machine, without an SMTP client", "example.org")},
		{"mail from outside that claims our From is not ours", outside, Message{From: []string{" ann@example.org"}}, Decision{Reason: `no login, client 203.0.113.9 is in no trusted network, daemon name "mx.example.com" is not listed`, Code: CodeNotOurs}},
		{"mail from outside is not ours, however bad its From", outside, Message{}, Decision{Reason: `no login, client 203.0.113.9 is in no trusted network, daemon name "mx.example.com" is not listed`, Code: CodeNotOurs}},
		{"without a From field nothing can be signed", postfix, Message{MailFrom: "<ann@example.org>"}, never(CodeNoFrom, "no From field")},
		{"behind an MTA that may add From later, the reason says so", unknown, Message{}, never(CodeNoFrom, "no From field (an MTA that adds one after its milters does so too late for a signature)")},
		{"two From fields cannot be signed", postfix, Message{From: []string{" a@example.org", " a@example.org"}}, never(CodeManyFrom, "2 From fields")},
		{"two author domains cannot be signed", postfix, Message{From: []string{" a@example.org, b@example.net"}}, never(CodeManyDomains, "From field: addresses of two domains, example.org and example.net")},
		{"two authors of one domain are signed", postfix, Message{From: []string{" a@example.org, b@example.org"}}, ours(network, inNetwork, "example.org")},
		{"a group has no author domain", postfix, Message{From: []string{" Undisclosed:;"}}, never(CodeNoDomain, "From field: a group (name: members;) has no author domain")},
		{"a domain literal is no author domain", postfix, Message{From: []string{" a@[192.0.2.1]"}}, never(CodeNoDomain, "From field: an address literal [...] is no author domain")},
		{"a name that DNS cannot have is no author domain", postfix, Message{From: []string{" a@localhost"}}, never(CodeBadDomain, `From field: domain name "localhost": a single label; mail is signed for names of two labels and more`)},
		{"a From field that can be read in two ways cannot be signed", postfix, Message{From: []string{" a@example.org <b@example.net>"}}, never(CodeBadFrom, "From field: text before < has an @ outside quotation marks, or two addresses lack a comma")},
	} {
		if got := r.Decide(row.conn, row.message); !reflect.DeepEqual(got, row.want) {
			t.Errorf("%s:\n got %+v\nwant %+v", row.sentence, got, row.want)
		}
	}
}

// What MAIL decided is what the end of the header decides.
func TestDecideAgreesWithOrigin(t *testing.T) {
	r := mustNew(t, OriginOptions{})
	for _, c := range []Connection{{}, postfixLocal, client("127.0.0.1"), client("203.0.113.9"), {DaemonName: "ORIGINATING"}} {
		for _, login := range []string{"", "ann"} {
			o := r.Origin(c, login)
			d := r.Decide(c, Message{Login: login, From: []string{" a@example.org"}})
			if (d.Verdict != NotOurs) != o.Ours || d.Rule != o.Rule || d.Reason != o.Reason {
				t.Errorf("%+v, login %q: Origin %+v, Decide %+v", c, login, o, d)
			}
		}
	}
}

func TestNewNamesEveryWrongValue(t *testing.T) {
	_, err := New(Options{Origin: OriginOptions{
		Networks:    []string{"127.0.0.1/8", "192.0.2.0/24", "nonsense"},
		DaemonNames: []string{"", "ORIGINATING", "two names"},
	}})
	if err == nil {
		t.Fatal("no error")
	}
	got := strings.Split(err.Error(), "\n")
	want := []string{`network "127.0.0.1/8"`, `network "nonsense"`, "daemon name is empty", `daemon name "two names"`}
	if len(got) != len(want) {
		t.Fatalf("error %q, want %d lines", err, len(want))
	}
	for i := range want {
		if !strings.HasPrefix(got[i], want[i]) {
			t.Errorf("line %d of the error is %q, want %q", i, got[i], want[i])
		}
	}
}

func TestDefaultsAreWhatNilMeans(t *testing.T) {
	spelled := mustNew(t, OriginOptions{Networks: DefaultNetworks(), DaemonNames: DefaultDaemonNames()})
	if zero := mustNew(t, OriginOptions{}); !reflect.DeepEqual(zero, spelled) {
		t.Errorf("got %+v, want %+v", zero, spelled)
	}
	DefaultNetworks()[0] = "changed"
	if got := DefaultNetworks()[0]; got != "127.0.0.0/8" {
		t.Errorf("a caller changed the default to %q", got)
	}
}

// The rules are New's own: what the caller does with the lists afterwards
// changes nothing.
func TestRulesDoNotChangeAfterNew(t *testing.T) {
	o := OriginOptions{Networks: []string{"192.0.2.0/24"}, DaemonNames: []string{"submission"}}
	r := mustNew(t, o)
	o.Networks[0], o.DaemonNames[0] = "203.0.113.0/24", "mx.example.com"
	if got := r.Origin(client("203.0.113.9"), ""); got.Ours {
		t.Errorf("got %+v", got)
	}
	if got := r.Origin(client("192.0.2.7"), ""); !got.Ours {
		t.Errorf("got %+v", got)
	}
}

func TestVerdictWords(t *testing.T) {
	for v, want := range map[Verdict]string{NotOurs: "not ours", Ours: "ours", NotSignable: "not signable", Denied: "denied", Excluded: "excluded", 9: "unknown verdict"} {
		if got := v.String(); got != want {
			t.Errorf("verdict %d is %q, want %q", v, got, want)
		}
	}
}

func TestRulesMayBeUsedAtOnce(t *testing.T) {
	r := mustNew(t, OriginOptions{})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 200 {
				if got := r.Decide(client("::1"), Message{From: []string{" a@BÜCHER.example, a@bücher.example"}}); got.Verdict != NotSignable {
					t.Errorf("got %+v", got)
				}
				if got := r.Decide(client("::1"), Message{From: []string{" a@bücher.example"}}); got.Author != "xn--bcher-kva.example" {
					t.Errorf("got %+v", got)
				}
			}
		})
	}
	wg.Wait()
}

func BenchmarkOrigin(b *testing.B) {
	few, many := mustNew(b, OriginOptions{}), mustNew(b, OriginOptions{Networks: thousands(10000)})
	for _, c := range []struct {
		name  string
		rules *Rules
		conn  Connection
		login string
	}{
		{"login", few, client("203.0.113.9"), "ann"},
		{"network", few, client("127.0.0.1"), ""},
		{"foreign", few, client("203.0.113.9"), ""},
		{"foreign-10000-networks", many, client("203.0.113.9"), ""},
		{"foreign6-10000-networks", many, client("2001:dba::1"), ""},
	} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				c.rules.Origin(c.conn, c.login)
			}
		})
	}
}

func BenchmarkDecide(b *testing.B) {
	r := mustNew(b, OriginOptions{})
	m := Message{Login: "ann", MailFrom: "<ann@example.org>", From: []string{` "Ann Example" <ann@example.org>`}}
	b.ReportAllocs()
	for b.Loop() {
		if d := r.Decide(client("203.0.113.9"), m); d.Verdict != Ours {
			b.Fatal(d)
		}
	}
}
