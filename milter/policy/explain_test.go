package policy

import (
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"testing"
)

// steps prints steps, one a line.
func steps(list []Step) string {
	var b strings.Builder
	for _, s := range list {
		mark := "no "
		if s.Matched {
			mark = "yes"
		}
		fmt.Fprintf(&b, "%s %s: %s: %s", mark, s.Stage, s.Rule, s.Why)
		if s.Change != "" {
			fmt.Fprintf(&b, " [%s]", s.Change)
		}
		b.WriteByte('\n')
	}
	return b.String()
}

func TestExplain(t *testing.T) {
	stranger := client("203.0.113.9")
	stranger.Host = "mx.example.org"
	for _, row := range []struct {
		what    string
		options Options
		conn    Connection
		message Message
		want    string
	}{
		{"a stranger", Options{}, stranger, from("ann@example.org"), `
no  origin: login: no login [log in]
no  origin: network: client 203.0.113.9 is in no trusted network [list the client's network]
no  origin: daemon name: daemon name "mx.example.com" is not listed [let the MTA's service have a listed name (Postfix: milter_macro_daemon_name)]
`},
		{"a stranger where all rules are in use", Options{Origin: OriginOptions{
			SkipNetworks: []string{"192.0.2.0/24"}, NoLogin: true, AnyCertificate: true, Macros: []Macro{{"daemon_port", []string{"587"}}, {Name: "auth_type"}},
		}}, Connection{Client: netip.MustParseAddr("203.0.113.9"), Macros: map[string]string{"{cert_subject}": "x", "{verify}": "FAIL", "{daemon_port}": "25"}}, by("ann", "ann@example.org"), `
no  origin: skipped networks: client 203.0.113.9 is in no skipped network
no  origin: login: login "ann" does not count (rule switched off) [switch the rule on]
no  origin: network: client 203.0.113.9 is in no trusted network [list the client's network]
no  origin: certificate: certificate of "x" is not verified [show a certificate that is listed, and that the MTA can verify]
no  origin: daemon name: no daemon name [let the MTA's service have a listed name (Postfix: milter_macro_daemon_name)]
no  origin: macro: macro {daemon_port} has the value "25", which is not listed, no macro {auth_type} [let the MTA send the macro]
`},
		{"a skipped client", Options{Origin: OriginOptions{SkipNetworks: []string{"203.0.113.0/24"}}}, stranger, by("ann", "ann@example.org"), `
yes origin: skipped networks: client 203.0.113.9 is in network 203.0.113.0/24, which is skipped [take the network out of the skipped ones]
`},
		{"a client without an address, where some are skipped", Options{Origin: OriginOptions{SkipNetworks: []string{"192.0.2.0/24"}}}, Connection{}, by("ann@example.org", "ann@example.org"), `
no  origin: skipped networks: client without address is in no skipped network
yes origin: login: authenticated login "ann@example.org"
yes author: From: names example.org
no  table: login: no row for login "ann@example.org" [add a row for it]
no  table: address: no row for an address in the From field [add a row for it]
no  table: domain: no row for domain example.org [add a row for it]
no  table: parent domain: no row for a domain above example.org that extends to what is below it [add a row with subdomains]
no  table: all other mail: no row for it [add a row for domain "*"]
yes table: none: example.org has no row, so it signs for itself
yes permission: own domain: login "ann@example.org" may sign for its own domain, example.org
yes signing: example.org: the one domain that may sign
`},
		{"local mail that does not count", Options{Origin: off}, Connection{Local: true}, from("ann@example.org"), `
no  origin: login: no login [log in]
no  origin: local submission: local submission does not count (rule switched off) [switch the rule on]
no  origin: daemon name: no daemon name [let the MTA's service have a listed name (Postfix: milter_macro_daemon_name)]
`},
		{"a message that cannot be signed", Options{}, client("127.0.0.1"), from("a@example.org, b@example.net"), `
no  origin: login: no login [log in]
yes origin: network 127.0.0.0/8: client 127.0.0.1 is in network 127.0.0.0/8
no  author: From: From field: addresses of two domains, example.org and example.net [have one From field, with addresses of one domain]
`},
		{"the ordinary case", Options{}, stranger, by("ann", "ann@example.org"), `
yes origin: login: authenticated login "ann"
yes author: From: names example.org
no  table: login: no row for login "ann" [add a row for it]
no  table: address: no row for an address in the From field [add a row for it]
no  table: domain: no row for domain example.org [add a row for it]
no  table: parent domain: no row for a domain above example.org that extends to what is below it [add a row with subdomains]
no  table: all other mail: no row for it [add a row for domain "*"]
yes table: none: example.org has no row, so it signs for itself
yes permission: login domains: login "ann" has no domain of its own, and may sign for example.org
yes signing: example.org: the one domain that may sign
`},
		{"a denied login", Options{Table: []Row{{Domain: "example.net", Selectors: []string{"x"}}}}, stranger, by("ann", "ann@example.net"), `
yes origin: login: authenticated login "ann"
yes author: From: names example.net
no  table: login: no row for login "ann" [add a row for it]
no  table: address: no row for an address in the From field [add a row for it]
yes table: row 1 (domain example.net): the most specific row
no  permission: none: login "ann" may not sign for example.net: it has no domain of its own, so it may for mx.example.org, example.org, and no grant names more for it; add one [add a grant]
`},
		{"an excluded login", Options{Table: []Row{{Login: "scanner", Disabled: true}}}, stranger, by("scanner", "x@example.net"), `
yes origin: login: authenticated login "scanner"
yes author: From: names example.net
yes table: row 1 (login scanner): row 1 (login scanner) is switched off [switch the row on]
`},
		{"a login that signs as another domain", Options{Table: []Row{{Login: "news", SignAs: "esp.example", Selectors: []string{"a", "b"}, Identity: "@esp.example"}}}, stranger, by("news", "x@example.net"), `
yes origin: login: authenticated login "news"
yes author: From: names example.net
yes table: row 1 (login news): the most specific row
no  permission: none: login "news" may not sign for example.net: it has no domain of its own, so it may for mx.example.org, example.org, and no grant names more for it; add one [add a grant]
yes permission: row 1 (login news): the row lets the login sign as esp.example, whatever the author domain is
yes signing: esp.example: the one domain that may sign, with selector a or b, for identity @esp.example; DMARC does not count it for example.net
`},
		{"a sender query that has not answered", Options{}, client("127.0.0.1"), from("ann@example.org").asking(), `
no  origin: login: no login [log in]
yes origin: network 127.0.0.0/8: client 127.0.0.1 is in network 127.0.0.0/8
yes author: From: names example.org
no  table: login: no login
no  table: address: no row for an address in the From field [add a row for it]
no  table: domain: no row for domain example.org [add a row for it]
no  table: parent domain: no row for a domain above example.org that extends to what is below it [add a row with subdomains]
no  table: all other mail: no row for it [add a row for domain "*"]
yes table: none: example.org has no row, so the sender query decides
no  sender: sender query: the keystore has not told which keys sign the mail of ann@example.org
yes permission: no login: mail without a login may sign for any domain, since no grant is about its client
`},
		{"a sender query without a row", Options{Table: []Row{{Domain: "example.org"}}}, client("127.0.0.1"), from("ann@example.org").asking(&Sender{}), `
no  origin: login: no login [log in]
yes origin: network 127.0.0.0/8: client 127.0.0.1 is in network 127.0.0.0/8
yes author: From: names example.org
no  table: login: no login
no  table: address: no row for an address in the From field [add a row for it]
yes table: row 1 (domain example.org): the most specific row
no  sender: sender query: the sender query has no row for ann@example.org [add a row for it to the tables of the keystore]
yes permission: no login: mail without a login may sign for any domain, since no grant is about its client
`},
		{"a sender query with a row", Options{Table: []Row{{Domain: "*", SignAs: "hoster.example"}}}, client("127.0.0.1"), from("ann@a.example.org").asking(&Sender{Row: ".example.org",
			Keys: []SenderKey{{"example.org", "s1", "@example.org"}, {"hoster.example", "s2", ""}}}), `
no  origin: login: no login [log in]
yes origin: network 127.0.0.0/8: client 127.0.0.1 is in network 127.0.0.0/8
yes author: From: names a.example.org
no  table: login: no login
no  table: address: no row for an address in the From field [add a row for it]
no  table: domain: no row for domain a.example.org [add a row for it]
no  table: parent domain: no row for a domain above a.example.org that extends to what is below it [add a row with subdomains]
yes table: row 1 (all other mail): the most specific row
yes sender: sender query: its row for .example.org names key s1 of example.org and s2 of hoster.example
yes permission: no login: mail without a login may sign for any domain, since no grant is about its client
yes signing: example.org: signs if it has keys, with selector s1, for identity @example.org
yes signing: hoster.example: signs beside example.org, with selector s2; DMARC does not count it for a.example.org
yes signing: hoster.example: signs where example.org has no keys; DMARC does not count it for a.example.org
`},
		{"a list server", Options{AuthorFields: []string{"List-Post", "List-Id", "Sender"}, Table: []Row{{Domain: "*", SignAs: "hoster.example"}}}, client("127.0.0.1"), listed("ann@example.org", map[string][]string{"List-Id": {" <l.lists.example>"}}), `
no  origin: login: no login [log in]
yes origin: network 127.0.0.0/8: client 127.0.0.1 is in network 127.0.0.0/8
no  author: List-Post: 0 List-Post fields [have one List-Post field that names one domain]
yes author: List-Id: names lists.example; the From field is sound, and names example.org
no  table: login: no login
no  table: address: no row for an address in the List-Id field [add a row for it]
no  table: domain: no row for domain lists.example [add a row for it]
no  table: parent domain: no row for a domain above lists.example that extends to what is below it [add a row with subdomains]
yes table: row 1 (all other mail): the most specific row
yes permission: no login: mail without a login may sign for any domain, since no grant is about its client
yes signing: lists.example: signs if it has keys; DMARC does not count it for example.org
yes signing: hoster.example: signs where lists.example has no keys; DMARC does not count it for example.org
`},
		{"another field than From that would help", Options{AuthorFields: []string{"Sender"}}, stranger, listed("x@a.example.net", map[string][]string{"Sender": {" ann@example.net"}}).by("ann@example.net"), `
yes origin: login: authenticated login "ann@example.net"
yes author: Sender: names example.net; the From field is sound, and names a.example.net
no  table: login: no row for login "ann@example.net" [add a row for it]
no  table: address: no row for an address in the Sender field [add a row for it]
no  table: domain: no row for domain example.net [add a row for it]
no  table: parent domain: no row for a domain above example.net that extends to what is below it [add a row with subdomains]
no  table: all other mail: no row for it [add a row for domain "*"]
yes table: none: example.net has no row, so it signs for itself
yes permission: own domain: login "ann@example.net" may sign for its own domain, example.net
no  permission: From: a signature of example.net might count for the From field: login "ann@example.net" may not sign for a.example.net: it may for its own domain, example.net, and no grant names more for it; add one [add a grant]
`},
	} {
		_, got := mustOptions(t, row.options).Explain(row.conn, row.message)
		if got, want := steps(got), strings.TrimPrefix(row.want, "\n"); got != want {
			t.Errorf("%s:\n got\n%swant\n%s", row.what, got, want)
		}
	}
}

// checkExplained holds the steps of a message against its decision.
func checkExplained(t *testing.T, r *Rules, c Connection, m Message) {
	t.Helper()
	want := r.Decide(c, m)
	got, list := r.Explain(c, m)
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("%+v, %+v:\nexplained %+v\n  decided %+v", c, m, got, want)
	}
	if o := r.Origin(c, m.Login); o.Ours != (want.Verdict != NotOurs) || o.Rule != want.Rule {
		t.Fatalf("%+v, %+v: Origin %+v, Decide %+v", c, m, o, want)
	}
	last := map[string]Step{}
	stages := []string{StageOrigin, StageAuthor, StageTable, StageSender, StagePermission, StageSigning}
	at := 0
	signing := 0
	for _, s := range list {
		for at < len(stages) && s.Stage != stages[at] {
			at++
		}
		if at == len(stages) || s.Rule == "" || s.Why == "" {
			t.Fatalf("%+v, %+v: step %+v out of order, or without words", c, m, s)
		}
		if s.Stage == StageSigning {
			if s.Rule != want.Domains[signing] {
				t.Fatalf("step %+v, want domain %s", s, want.Domains[signing])
			}
			signing++
		}
		last[s.Stage] = s
	}
	skipped := last[StageOrigin].Rule == "skipped networks"
	ok := signing == len(want.Domains) && len(want.Domains) == len(want.Candidates)
	switch want.Verdict {
	case NotOurs:
		ok = ok && last[StageOrigin].Matched == skipped && len(last) == 1
	case NotSignable:
		ok = ok && last[StageOrigin].Matched && last[StageOrigin].Rule == want.Rule && !last[StageAuthor].Matched && len(last) == 2
	case Denied:
		ok = ok && last[StageAuthor].Matched && !last[StagePermission].Matched && signing == 0
	case Excluded:
		ok = ok && last[StageTable].Rule == want.RowName && signing == 0 && want.Row > 0
	case Ours:
		ok = ok && last[StageOrigin].Rule == want.Rule && last[StageAuthor].Rule == want.Field && (signing > 0 || !last[StageSender].Matched && want.Sender != "")
	}
	for i, candidate := range want.Candidates {
		ok = ok && candidate.Domain == want.Domains[i]
		if candidate.Identity != "" {
			ok = ok && within(candidate.Identity[strings.LastIndexByte(candidate.Identity, '@')+1:], candidate.Domain)
		}
	}
	if !ok {
		t.Fatalf("%+v, %+v:\ndecided %+v\n%s", c, m, want, steps(list))
	}
}

// Every case of the documentation is explained as it was decided.
func TestExplainAgreesWithDecide(t *testing.T) {
	for _, row := range sentenceRows {
		if r, err := New(row.options); err == nil {
			checkExplained(t, r, row.conn, row.message)
		}
	}
	for _, options := range hoster() {
		r := mustOptions(t, options)
		for _, b := range borrowings {
			for _, login := range []string{"", "ann@a.example", "bob@b.example"} {
				for _, c := range []Connection{{}, client("127.0.0.1"), client("192.0.2.1"), client("203.0.113.9")} {
					checkExplained(t, r, c, b.message.by(login))
					checkExplained(t, r, c, b.message.by(login).asking())
				}
			}
		}
	}
}

// FuzzExplainAgreesWithDecide mixes the options of the documentation with any
// facts.
func FuzzExplainAgreesWithDecide(f *testing.F) {
	var rules []*Rules
	for _, row := range sentenceRows {
		r, err := New(row.options)
		if err != nil {
			continue
		}
		rules = append(rules, r)
		value := func(name string) string { return strings.Join(row.message.Fields[name], "\x01") }
		f.Add(uint16(len(rules)-1), row.conn.Client.AsSlice(), row.conn.Local, row.conn.Listener, row.conn.DaemonName, row.conn.MTA, row.conn.Host,
			row.conn.Macros["{cert_subject}"], row.message.Login, strings.Join(row.message.From, "\x01"), value("Sender"), value("List-Id"))
	}
	for _, options := range hoster() {
		rules = append(rules, mustOptions(f, options))
	}
	f.Fuzz(func(t *testing.T, n uint16, addr []byte, local bool, listener, daemon, mta, host, macro, login, fromField, sender, listID string) {
		values := func(s string) []string {
			if s == "" {
				return nil
			}
			return strings.Split(s, "\x01")
		}
		c := Connection{Listener: listener, Client: addrFrom(addr), Local: local, DaemonName: daemon, MTA: mta, Host: host, Macros: map[string]string{
			"{cert_subject}": macro, "{cert_issuer}": "our CA", "{auth_type}": macro, "{daemon_port}": macro, "{verify}": macro,
		}}
		m := Message{Login: login, From: values(fromField), Fields: map[string][]string{"Sender": values(sender), "List-Id": values(listID), "List-Post": values(listID)}}
		answer := &Sender{Row: "*", Keys: []SenderKey{
			{"esp.example", "bulk", "@mail.esp.example"}, {"example.org", "s1", ""}, {"esp.example", "e2", "@mail.esp.example"}, {"example.org", "s1", "@a.example.org"},
		}}
		for _, m := range []Message{m, m.asking(), m.asking(&Sender{}), m.asking(answer)} {
			checkExplained(t, rules[int(n)%len(rules)], c, m)
		}
	})
}
