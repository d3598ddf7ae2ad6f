package policy

import (
	"net/netip"
	"os"
	"regexp"
	"strings"
	"testing"
)

// summary is a decision in few words: the verdict, or for a message that is
// ours the candidates with what they sign with.
func summary(d Decision) string {
	if d.Verdict != Ours {
		return d.Verdict.String()
	}
	if d.Candidates == nil && d.SenderRow == "" && !strings.HasPrefix(d.Reason, "the sender query") {
		return "asks about " + d.Sender
	}
	if d.Candidates == nil {
		return d.Reason
	}
	var b strings.Builder
	for i, c := range d.Candidates {
		s := c.Domain
		if c.Selectors != nil {
			s += " s=" + strings.Join(c.Selectors, ",")
		}
		if c.Identity != "" {
			s += " i=" + c.Identity
		}
		switch {
		case i > 0 && c.Beside:
			b.WriteString(" and ")
		case i > 0:
			b.WriteString(" or ")
		}
		b.WriteString(s)
	}
	return b.String()
}

// asking is a message of which the keystore is to be asked, and has been asked if
// there is an answer.
func (m Message) asking(answer ...*Sender) Message {
	m.AskSender = true
	if len(answer) > 0 {
		m.Sender = answer[0]
	}
	return m
}

func from(s string) Message { return Message{From: []string{" " + s}} }

func by(login, s string) Message { return Message{Login: login, From: []string{" " + s}} }

// listed is a message with other fields that name an author.
func listed(s string, fields map[string][]string) Message {
	m := from(s)
	m.Fields = fields
	return m
}

func (m Message) by(login string) Message {
	m.Login = login
	return m
}

// sentenceRows are what the package comment says, sentence by sentence.
var sentenceRows = func() []sentenceRow {
	stranger := Connection{Listener: "milter", Client: netip.MustParseAddr("203.0.113.9"), DaemonName: "mx.example.org", MTA: "Postfix 3.7.11", Host: "mx.example.org"}
	change := func(f func(*Connection)) Connection {
		c := stranger
		f(&c)
		return c
	}
	at := func(addr string) Connection {
		return change(func(c *Connection) { c.Client = netip.MustParseAddr(addr) })
	}
	sent := func(mta string, macros ...string) Connection {
		return change(func(c *Connection) {
			c.MTA, c.Macros = mta, map[string]string{}
			for i := 0; i < len(macros); i += 2 {
				c.Macros[macros[i]] = macros[i+1]
			}
		})
	}
	on := func(listener string) Connection { return change(func(c *Connection) { c.Listener = listener }) }
	named := func(daemon string) Connection { return change(func(c *Connection) { c.DaemonName = daemon }) }
	host := func(name string) Connection { return change(func(c *Connection) { c.Host = name }) }
	loopback := at("127.0.0.1")
	local := change(func(c *Connection) { c.Local, c.Client = true, netip.MustParseAddr("127.0.0.1") })
	const postfix, sendmail = "Postfix 3.7.11", ""

	origin := func(o OriginOptions) Options { return Options{Origin: o} }
	grants := func(g ...Grant) Options { return Options{Permission: PermissionOptions{Grants: g}} }
	rows := func(r ...Row) Options { return Options{Table: r} }
	fields := func(names ...string) Options { return Options{AuthorFields: names} }
	allOff := origin(off)
	certificates := func(list ...Certificate) Options { return origin(OriginOptions{Certificates: list}) }
	macro := func(name string, values ...string) Options {
		return origin(OriginOptions{Macros: []Macro{{name, values}}})
	}
	submission := Options{Listeners: map[string]OriginOptions{"submission": {NoLogin: true, All: true}, "relay": {Networks: []string{"198.51.100.0/24"}}}}
	loginDomains := func(list ...string) Options {
		return Options{Permission: PermissionOptions{LoginDomains: append([]string{}, list...)}}
	}
	ann := from("ann@example.org")

	const (
		s01 = "Mail is ours when one of the origin rules matches, and is left alone when none does."
		s02 = "Each rule can be switched off."
		s03 = "A client in a skipped network is a stranger, whatever other rule would match."
		s04 = "Mail of an authenticated login is ours."
		s05 = "Mail that was handed in on the machine itself is ours."
		s06 = "No network holds such mail, because the MTA has made up its client."
		s07 = "Mail of a client in a listed network is ours, by default in the loopback networks."
		s08 = "Mail of a client with a TLS certificate is ours when the certificate, its subject or its issuer is listed, or when any will do."
		s09 = "It counts only if the MTA has verified it: Postfix sends the names of no other, and all else have to say OK in macro {verify}."
		s10 = "Mail of a daemon with a listed name is ours, by default with the name ORIGINATING."
		s11 = "Mail is ours when the MTA has sent a listed macro, with one of the values that are listed for it, if any are."
		s12 = "A macro that strangers can set is refused, and so is one that every connection has, without values."
		s13 = "A listener that has origin rules of its own goes by them alone."
		s14 = "They may declare all its mail to be ours, which the rules for all listeners may not."

		s20 = "The author domain is the one domain of all addresses in the one From field, as lower-case A-labels."
		s21 = "Without such a field, with two of them, with two domains, or with anything in it that mail programs read in different ways, the message is not signable."
		s22 = "The login, the envelope sender and other fields do not choose the domain."
		s23 = "On a list server, other fields may choose it instead: the first of the configured ones that occurs once and names one domain."
		s24 = "Sender, Resent-Sender and Resent-From name the domain of their addresses, List-Post and List-Owner that of their mailto addresses, and List-Id what stands behind its first dot."
		s25 = "Where none of them names a domain, From does."
		s26 = "From has to be sound in any case."
		s27 = "No field makes mail ours."
		s28 = "A signature that may count for the From field takes a permission for the domain of that field too."

		s30 = "A login may sign for its own domain: ann@example.org for example.org, but for nothing above or below it."
		s31 = "A login without a domain may sign for the mail server's own domain: the name that the MTA has for itself, and that name without its first label."
		s32 = "A list of login domains takes the place of that."
		s33 = "A login that ends in @ and the mail server's name, or in @ and no domain name, is a login without a domain as well."
		s34 = "Where the password check ignores what stands behind the @ of a login, that can be kept from counting."
		s35 = "Grants let a login, all logins of a domain, or all logins, sign for more: for domains, for what is below these where the grant says so, for single addresses, or for any domain."
		s42 = "Grants and rows name a login as the MTA does: one for ann is not about ann@mx.example.org."
		s36 = "Where addresses are named, all those of the author have to be."
		s37 = "Who has logged in is held to this, whatever rule made the mail ours."
		s38 = "Mail without a login may sign for any domain."
		s39 = "If there are grants for its client's certificate or network, it may sign for what they name only, and the smallest network counts."
		s40 = "Logins and addresses are compared without regard to upper and lower case."
		s41 = "Permission can be switched off."

		s50 = "One row is used: that for the login, or else for the address, the domain, the nearest domain above that extends to what is below it, or all other mail."
		s51 = "A domain without a row signs for itself."
		s52 = "A row may sign as another domain."
		s60 = "A row that extends to what is below its domain signs that as its domain, unless it names another."
		s53 = "A row that is not about the author domain or address itself comes second to the author domain's own keys, unless it is to be used always."
		s54 = "The row of a login that signs as another domain does so for any author, but the author domain's own keys still take a permission."
		s55 = "Selectors and identity of a row are for the domain that it signs as, not for the author domain's own keys."
		s56 = `The identity "address" is the author's, and is left out where there are several, where it is not in the signing domain, or where it is not ASCII.`
		s57 = "A row that is switched off leaves mail unsigned."
		s58 = "Who may not sign for a domain is denied it, switched off or not."
		s59 = "What a row has in place of general settings is passed on."

		s61 = "Where the keystore is asked which keys sign an author's mail, those of its answer are the author domain's own keys, and without an answer there are none."
		s62 = "It is asked about the author's address, and of several about the first."
		s63 = "A local part beyond ASCII or longer than mail allows is left out of the question."
		s64 = "All keys of the answer sign together, whatever their domains."
		s65 = "A row of the table that names a signing domain, selectors or an identity takes the place of the question, unless it comes second to the author domain's own keys."
		s66 = "A row that comes second signs where the answer has no keys."
		s67 = "Whatever else a row has is passed on beside the answer."
		s68 = "Nobody is asked about mail that its sender may not sign, or that a row leaves unsigned."
	)

	everything := rows(
		Row{Login: "ann", Selectors: []string{"login"}},
		Row{Address: "ann@b.a.example.org", Selectors: []string{"address"}},
		Row{Domain: "b.a.example.org", Selectors: []string{"domain"}},
		Row{Domain: "a.example.org", Subdomains: true, Selectors: []string{"parent"}},
		Row{Domain: "example.org", Subdomains: true, Selectors: []string{"grandparent"}},
		Row{Domain: "*", Selectors: []string{"all"}},
	)
	everything.Permission.Off = true
	customers := grants(
		Grant{Login: "ann@a.example", Domains: []string{"shop.example"}},
		Grant{Login: "ann@a.example", Domains: []string{"wide.example"}, Subdomains: true},
		Grant{Login: "ann@a.example", Addresses: []string{"ann@single.example", "info@single.example"}},
		Grant{Login: "@b.example", Domains: []string{"shared.example"}},
		Grant{Login: "*", Domains: []string{"common.example"}},
		Grant{Login: "root@a.example", AnyDomain: true},
		Grant{Login: "root@a.example", Domains: []string{"b.example"}},
		Grant{Login: "adder", Domains: []string{"wide.example"}, Subdomains: true},
		Grant{Login: "adder", Domains: []string{"wide.example"}},
	)
	clients := Options{
		Origin: OriginOptions{Networks: []string{"192.0.2.0/24"}, Certificates: []Certificate{{Subject: "customer"}, {Subject: "other"}}},
		Permission: PermissionOptions{Grants: []Grant{
			{Network: "192.0.2.128/25", Domains: []string{"a.example"}},
			{Network: "192.0.2.192/26", Domains: []string{"b.example"}},
			{Certificate: Certificate{Subject: "customer"}, Domains: []string{"c.example"}},
		}},
	}
	addressed := grants(Grant{Login: "ann@a.example", Addresses: []string{"ann@shared.example"}})
	addressed.AuthorFields = []string{"Sender"}
	lister := grants(Grant{Login: "mailman", Addresses: []string{"ann@shared.example"}})
	lister.AuthorFields, lister.Table = []string{"Sender"}, []Row{{Login: "mailman", SignAs: "lists.example"}}
	newsletter := rows(
		Row{Login: "news@esp.example", SignAs: "esp.example", Selectors: []string{"bulk"}, Identity: "@news.esp.example"},
		Row{Login: "only@esp.example", SignAs: "esp.example", Always: true},
	)
	newsletter.Permission.Grants = []Grant{{Login: "news@esp.example", Domains: []string{"customer.example"}}, {Login: "only@esp.example", Domains: []string{"customer.example"}}}

	type key = SenderKey
	answer := func(row string, keys ...SenderKey) *Sender { return &Sender{Row: row, Keys: keys} }
	nothing := answer("")

	return []sentenceRow{
		{s01, "one rule of several", origin(OriginOptions{}), named("ORIGINATING"), ann, "example.org"},
		{s01, "none", origin(OriginOptions{}), stranger, ann, "not ours"},
		{s02, "login", allOff, stranger, by("ann@example.org", "ann@example.org"), "not ours"},
		{s02, "network", allOff, loopback, ann, "not ours"},
		{s02, "local submission", allOff, local, ann, "not ours"},
		{s02, "daemon name", allOff, named("ORIGINATING"), ann, "not ours"},
		{s02, "certificate", origin(OriginOptions{}), sent(postfix, "{cert_subject}", "client"), ann, "not ours"},
		{s02, "macro", origin(OriginOptions{}), sent(postfix, "{auth_type}", "PLAIN"), ann, "not ours"},
		{s03, "a login", origin(OriginOptions{SkipNetworks: []string{"203.0.113.0/24"}}), stranger, by("ann@example.org", "ann@example.org"), "not ours"},
		{s03, "a network that is listed as well", origin(OriginOptions{SkipNetworks: []string{"127.0.0.1"}}), loopback, ann, "not ours"},
		{s03, "a daemon name", origin(OriginOptions{SkipNetworks: []string{"203.0.113.9"}}), named("ORIGINATING"), ann, "not ours"},
		{s03, "a mapped address", origin(OriginOptions{SkipNetworks: []string{"127.0.0.0/8"}}), at("::ffff:127.0.0.1"), ann, "not ours"},
		{s03, "another client of a listed network", origin(OriginOptions{SkipNetworks: []string{"127.0.0.1"}}), at("127.0.0.2"), ann, "example.org"},
		{s04, "from anywhere", Options{}, stranger, by("ann@example.org", "ann@example.org"), "example.org"},
		{s05, "by the sendmail command", Options{}, local, ann, "example.org"},
		{s06, "not a listed one", origin(OriginOptions{NoLocal: true}), local, ann, "not ours"},
		{s06, "nor a skipped one", origin(OriginOptions{SkipNetworks: []string{"127.0.0.0/8"}}), local, ann, "example.org"},
		{s06, "nor one with a grant", grants(Grant{Network: "127.0.0.0/8", Domains: []string{"example.net"}}), local, ann, "example.org"},
		{s07, "IPv4 loopback", Options{}, loopback, ann, "example.org"},
		{s07, "IPv6 loopback", Options{}, at("::1"), ann, "example.org"},
		{s07, "a listed network", origin(OriginOptions{Networks: []string{"203.0.113.0/24"}}), stranger, ann, "example.org"},
		{s07, "loopback when others are listed", origin(OriginOptions{Networks: []string{"203.0.113.0/24"}}), loopback, ann, "not ours"},
		{s08, "subject and issuer", certificates(Certificate{"client", "our CA"}), sent(postfix, "{cert_subject}", "client", "{cert_issuer}", "our CA"), ann, "example.org"},
		{s08, "the subject by another issuer", certificates(Certificate{"client", "our CA"}), sent(postfix, "{cert_subject}", "client", "{cert_issuer}", "a CA"), ann, "not ours"},
		{s08, "another subject by the issuer", certificates(Certificate{"client", "our CA"}), sent(postfix, "{cert_subject}", "other", "{cert_issuer}", "our CA"), ann, "not ours"},
		{s08, "any issuer", certificates(Certificate{Subject: "client"}), sent(postfix, "{cert_subject}", "client", "{cert_issuer}", "a CA"), ann, "example.org"},
		{s08, "any subject", certificates(Certificate{Issuer: "our CA"}), sent(postfix, "{cert_subject}", "other", "{cert_issuer}", "our CA"), ann, "example.org"},
		{s08, "any at all", origin(OriginOptions{AnyCertificate: true}), sent(postfix, "{cert_subject}", "other", "{cert_issuer}", "a CA"), ann, "example.org"},
		{s08, "none", origin(OriginOptions{AnyCertificate: true}), stranger, ann, "not ours"},
		{s08, "names are compared exactly", certificates(Certificate{Subject: "client"}), sent(postfix, "{cert_subject}", "Client"), ann, "not ours"},
		{s09, "a name from Postfix", certificates(Certificate{Subject: "client"}), sent(postfix, "{cert_subject}", "client"), ann, "example.org"},
		{s09, "a name from another MTA", certificates(Certificate{Subject: "client"}), sent(sendmail, "{cert_subject}", "client"), ann, "not ours"},
		{s09, "a name and OK", certificates(Certificate{Subject: "client"}), sent(sendmail, "{cert_subject}", "client", "{verify}", "OK"), ann, "example.org"},
		{s09, "a name and FAIL", certificates(Certificate{Subject: "client"}), sent(sendmail, "{cert_subject}", "client", "{verify}", "FAIL"), ann, "not ours"},
		{s09, "FAIL from what calls itself Postfix", certificates(Certificate{Subject: "client"}), sent(postfix, "{cert_subject}", "client", "{verify}", "FAIL"), ann, "not ours"},
		{s09, "any at all and NO", origin(OriginOptions{AnyCertificate: true}), sent(sendmail, "{verify}", "NO"), ann, "not ours"},
		{s10, "the default name", Options{}, named("ORIGINATING"), ann, "example.org"},
		{s10, "a listed name", origin(OriginOptions{DaemonNames: []string{"submission"}}), named("submission"), ann, "example.org"},
		{s10, "the default name when others are listed", origin(OriginOptions{DaemonNames: []string{"submission"}}), named("ORIGINATING"), ann, "not ours"},
		{s11, "present", macro("auth_type"), sent(postfix, "{auth_type}", "PLAIN"), ann, "example.org"},
		{s11, "absent", macro("auth_type"), sent(postfix), ann, "not ours"},
		{s11, "present and empty", macro("auth_type"), sent(postfix, "{auth_type}", ""), ann, "not ours"},
		{s11, "one of two values", macro("{daemon_port}", "465", "587"), sent(postfix, "{daemon_port}", "587"), ann, "example.org"},
		{s11, "another value", macro("{daemon_port}", "465", "587"), sent(postfix, "{daemon_port}", "25"), ann, "not ours"},
		{s11, "absent, with values", macro("{daemon_port}", "587"), sent(postfix), ann, "not ours"},
		{s12, "the envelope sender", macro("mail_addr", "ann@example.org"), stranger, ann, "error: macro {mail_addr}: a stranger can choose its value"},
		{s12, "the AUTH parameter", macro("{auth_author}"), stranger, ann, "error: macro {auth_author}: a stranger can choose its value"},
		{s12, "the name behind the address", macro("_"), stranger, ann, "error: macro _: a stranger can choose its value"},
		{s12, "the port, without values", macro("daemon_port"), stranger, ann, "error: macro {daemon_port}: every connection has it"},
		{s12, "no name at all", macro("two names"), stranger, ann, `error: macro "two names": want a name`},
		{s13, "a network of its own", submission, change(func(c *Connection) { c.Listener, c.Client = "relay", netip.MustParseAddr("198.51.100.7") }), ann, "example.org"},
		{s13, "not the general ones", submission, change(func(c *Connection) { c.Listener, c.Client = "relay", netip.MustParseAddr("127.0.0.1") }), ann, "not ours"},
		{s13, "another listener has the general ones", submission, loopback, ann, "example.org"},
		{s13, "and not those of the first", submission, at("198.51.100.7"), ann, "not ours"},
		{s14, "a listener", submission, on("submission"), ann, "example.org"},
		{s14, "all listeners", origin(OriginOptions{All: true}), stranger, ann, "error: all mail would be ours"},

		{s20, "one address", Options{}, loopback, from("Ann <ann@Example.ORG>"), "example.org"},
		{s20, "two addresses", Options{}, loopback, from("ann@example.org, bob@example.org"), "example.org"},
		{s20, "a U-label", Options{}, loopback, from("ann@bücher.example"), "xn--bcher-kva.example"},
		{s21, "no field", Options{}, loopback, Message{}, "not signable"},
		{s21, "two fields", Options{}, loopback, Message{From: []string{" a@example.org", " a@example.org"}}, "not signable"},
		{s21, "two domains", Options{}, loopback, from("a@example.org, b@example.net"), "not signable"},
		{s21, "an address as name", Options{}, loopback, from("a@example.org <b@example.net>"), "not signable"},
		{s22, "login", Options{Permission: PermissionOptions{Off: true}}, stranger, by("bob@example.net", "ann@example.org"), "example.org"},
		{s22, "envelope sender", Options{}, loopback, Message{MailFrom: "<bob@example.net>", From: []string{" ann@example.org"}}, "example.org"},
		{s22, "Sender", Options{}, loopback, listed("ann@example.org", map[string][]string{"Sender": {" bob@example.net"}}), "example.org"},
		{s23, "the first", fields("List-Id", "Sender"), loopback, listed("ann@example.org", map[string][]string{"List-Id": {" <l.lists.example>"}, "Sender": {" l@sender.example"}}), "lists.example"},
		{s23, "the second, as the first is missing", fields("List-Id", "Sender"), loopback, listed("ann@example.org", map[string][]string{"Sender": {" l@sender.example"}}), "sender.example"},
		{s23, "the second, as the first occurs twice", fields("List-Id", "Sender"), loopback, listed("ann@example.org", map[string][]string{"List-Id": {" <l.lists.example>", " <l.lists.example>"}, "Sender": {" l@sender.example"}}), "sender.example"},
		{s23, "the second, as the first names two domains", fields("Sender", "List-Id"), loopback, listed("ann@example.org", map[string][]string{"List-Id": {" <l.lists.example>"}, "Sender": {" a@a.example, b@b.example"}}), "lists.example"},
		{s23, "a field that is not configured", fields("List-Id"), loopback, listed("ann@example.org", map[string][]string{"Sender": {" l@sender.example"}}), "example.org"},
		{s23, "From may be named as the last one", fields("sender", "from"), loopback, listed("ann@example.org", map[string][]string{"Sender": {" l@sender.example"}}), "sender.example"},
		{s23, "From cannot be named before others", fields("From", "Sender"), loopback, ann, "error: author field From: "},
		{s23, "a field that names no sender", fields("To"), loopback, ann, `error: author field "To": `},
		{s24, "Sender", fields("Sender"), loopback, listed("ann@example.org", map[string][]string{"Sender": {" The List <l@lists.example>"}}), "lists.example"},
		{s24, "Resent-Sender", fields("Resent-Sender"), loopback, listed("ann@example.org", map[string][]string{"Resent-Sender": {" l@lists.example"}}), "lists.example"},
		{s24, "Resent-From", fields("Resent-From"), loopback, listed("ann@example.org", map[string][]string{"Resent-From": {" l@lists.example, m@lists.example"}}), "lists.example"},
		{s24, "List-Post", fields("List-Post"), loopback, listed("ann@example.org", map[string][]string{"List-Post": {" <mailto:l@lists.example?subject=x>, <https://www.example.net/>"}}), "lists.example"},
		{s24, "List-Owner", fields("List-Owner"), loopback, listed("ann@example.org", map[string][]string{"List-Owner": {" <MAILTO:l-owner@lists.example> (Bob)"}}), "lists.example"},
		{s24, "List-Id", fields("List-Id"), loopback, listed("ann@example.org", map[string][]string{"List-Id": {" The List <l.lists.example>"}}), "lists.example"},
		{s25, "no field", fields("List-Id"), loopback, ann, "example.org"},
		{s25, "a field that names none", fields("List-Post"), loopback, listed("ann@example.org", map[string][]string{"List-Post": {" NO (announcements only)"}}), "example.org"},
		{s26, "two From fields", fields("List-Id"), loopback, Message{From: []string{" a@example.org", " b@example.org"}, Fields: map[string][]string{"List-Id": {" <l.lists.example>"}}}, "not signable"},
		{s26, "a group", fields("Sender"), loopback, listed("Friends: a@example.org;", map[string][]string{"Sender": {" l@lists.example"}}), "not signable"},
		{s27, "List-Id", fields("List-Id"), stranger, listed("ann@example.org", map[string][]string{"List-Id": {" <l.lists.example>"}}), "not ours"},
		{s28, "a member of the list's own domain, by a login that may sign for it", fields("Sender"), stranger, listed("ceo@lists.example", map[string][]string{"Sender": {" l@lists.example"}}).by("l@lists.example"), "lists.example"},
		{s28, "a subdomain that the login may not sign for", fields("Sender"), stranger, listed("ceo@secret.lists.example", map[string][]string{"Sender": {" l@lists.example"}}).by("l@lists.example"), "denied"},
		{s28, "not even with a permission for one address, and the address of another in From", addressed, stranger, listed("bob@shared.example", map[string][]string{"Sender": {" ann@shared.example"}}).by("ann@a.example"), "denied"},
		{s28, "the domain that a row lets the login sign as", lister, stranger, listed("ceo@lists.example", map[string][]string{"Sender": {" l@lists.example"}}).by("mailman"), "lists.example"},
		{s28, "that one, and no other", lister, stranger, listed("bob@shared.example", map[string][]string{"Sender": {" ann@shared.example"}}).by("mailman"), "lists.example"},
		{s28, "a domain of somebody else, for which the signature cannot count", fields("Sender"), stranger, listed("ceo@example.org", map[string][]string{"Sender": {" l@lists.example"}}).by("l@lists.example"), "lists.example"},

		{s30, "its own", Options{}, stranger, by("ann@example.org", "ann@example.org"), "example.org"},
		{s30, "another name in it", Options{}, stranger, by("ann@example.org", "info@example.org"), "example.org"},
		{s30, "another domain", Options{}, stranger, by("ann@example.org", "ann@example.net"), "denied"},
		{s30, "a subdomain", Options{}, stranger, by("ann@example.org", "ann@sub.example.org"), "denied"},
		{s30, "the parent", Options{}, stranger, by("ann@sub.example.org", "ann@example.org"), "denied"},
		{s30, "a longer name", Options{}, stranger, by("ann@example.org", "ann@notexample.org"), "denied"},
		{s30, "a U-label", Options{}, stranger, by("ann@bücher.example", "ann@xn--bcher-kva.example"), "xn--bcher-kva.example"},
		{s30, "the last @ counts", Options{}, stranger, by("ann@example.org@example.net", "ann@example.org"), "denied"},
		{s31, "the MTA's name", Options{}, host("mx.example.com"), by("ann", "ann@mx.example.com"), "mx.example.com"},
		{s31, "without its first label", Options{}, host("mx.example.com"), by("ann", "ann@example.com"), "example.com"},
		{s31, "without its second label", Options{}, host("mx.a.example.com"), by("ann", "ann@example.com"), "denied"},
		{s31, "a name of two labels", Options{}, host("example.com"), by("ann", "ann@example.com"), "example.com"},
		{s31, "below the MTA's name", Options{}, host("example.com"), by("ann", "ann@a.example.com"), "denied"},
		{s31, "beside the MTA's name", Options{}, host("mx.example.com"), by("ann", "ann@a.example.com"), "denied"},
		{s31, "another domain", Options{}, host("mx.example.com"), by("ann", "ann@example.net"), "denied"},
		{s31, "an MTA without a name", Options{}, host(""), by("ann", "ann@example.com"), "denied"},
		{s31, "an MTA with a name that is none", Options{}, host("localhost"), by("ann", "ann@localhost.localdomain"), "denied"},
		{s32, "listed", loginDomains("example.net", "example.com"), host("mx.example.com"), by("ann", "ann@example.net"), "example.net"},
		{s32, "the server's own, not listed", loginDomains("example.net"), host("mx.example.com"), by("ann", "ann@example.com"), "denied"},
		{s32, "below a listed one", loginDomains("example.net"), host("mx.example.com"), by("ann", "ann@a.example.net"), "denied"},
		{s32, "an empty list", loginDomains(), host("mx.example.com"), by("ann", "ann@example.com"), "denied"},
		{s32, "for a login with a domain", loginDomains("example.net"), host("mx.example.com"), by("ann@example.org", "ann@example.net"), "denied"},
		{s32, "no domain name", loginDomains("localhost"), stranger, ann, "error: login domains: domain name \"localhost\""},
		{s33, "the server's name", Options{}, host("mx.example.com"), by("ann@mx.example.com", "ann@example.com"), "example.com"},
		{s33, "its own domain all the same", loginDomains(), host("mx.example.com"), by("ann@mx.example.com", "ann@mx.example.com"), "mx.example.com"},
		{s33, "no domain name", Options{}, host("mx.example.com"), by("ann@localhost", "ann@example.com"), "example.com"},
		{s34, "own domain", Options{Permission: PermissionOptions{NoOwnDomain: true}}, stranger, by("ann@example.net", "ann@example.net"), "denied"},
		{s34, "a row still counts", Options{Permission: PermissionOptions{NoOwnDomain: true, Grants: []Grant{{Login: "ann@example.net", Domains: []string{"example.net"}}}}}, stranger, by("ann@example.net", "ann@example.net"), "example.net"},
		{s35, "a login beside its own domain", customers, stranger, by("ann@a.example", "x@a.example"), "a.example"},
		{s35, "a domain", customers, stranger, by("ann@a.example", "x@shop.example"), "shop.example"},
		{s35, "not what is below it", customers, stranger, by("ann@a.example", "x@a.shop.example"), "denied"},
		{s35, "what is below, where the row says so", customers, stranger, by("ann@a.example", "x@b.a.wide.example"), "b.a.wide.example"},
		{s35, "and the domain itself", customers, stranger, by("ann@a.example", "x@wide.example"), "wide.example"},
		{s35, "not what ends in the same letters", customers, stranger, by("ann@a.example", "x@notwide.example"), "denied"},
		{s35, "an address", customers, stranger, by("ann@a.example", "ann@single.example"), "single.example"},
		{s35, "another address", customers, stranger, by("ann@a.example", "bob@single.example"), "denied"},
		{s35, "any domain", customers, stranger, by("root@a.example", "x@whatever.example"), "whatever.example"},
		{s35, "rows add up", customers, stranger, by("adder", "x@a.wide.example"), "a.wide.example"},
		{s35, "rows add up to any domain", customers, stranger, by("root@a.example", "x@shop.example"), "shop.example"},
		{s35, "another login has no part in it", customers, stranger, by("bob@a.example", "x@shop.example"), "denied"},
		{s35, "all logins of a domain", customers, stranger, by("bob@b.example", "x@shared.example"), "shared.example"},
		{s35, "not those below the domain", customers, stranger, by("bob@a.b.example", "x@shared.example"), "denied"},
		{s35, "all logins", customers, stranger, by("bob", "x@common.example"), "common.example"},
		{s42, "the one that is named", grants(Grant{Login: "ann", Domains: []string{"shop.example"}}), stranger, by("ann", "x@shop.example"), "shop.example"},
		{s42, "with the mail server's name behind it", grants(Grant{Login: "ann", Domains: []string{"shop.example"}}), stranger, by("ann@mx.example.org", "x@shop.example"), "denied"},
		{s42, "named with it", grants(Grant{Login: "ann@mx.example.org", Domains: []string{"shop.example"}}), stranger, by("ann@mx.example.org", "x@shop.example"), "shop.example"},
		{s42, "without the name, where the row has it", grants(Grant{Login: "ann@mx.example.org", Domains: []string{"shop.example"}}), stranger, by("ann", "x@shop.example"), "denied"},
		{s42, "a row of the table", rows(Row{Login: "ann", Disabled: true}), stranger, by("ann@mx.example.org", "x@example.org"), "example.org"},
		{s36, "two that are named", customers, stranger, by("ann@a.example", "ann@single.example, info@single.example"), "single.example"},
		{s36, "one that is not", customers, stranger, by("ann@a.example", "ann@single.example, ceo@single.example"), "denied"},
		{s36, "a list identifier has no address", Options{AuthorFields: []string{"List-Id"}, Permission: customers.Permission}, stranger, listed("x@a.example", map[string][]string{"List-Id": {" <ann.single.example>"}}).by("ann@a.example"), "denied"},
		{s37, "a network", Options{}, loopback, by("ann@example.org", "x@example.net"), "denied"},
		{s37, "a network, without the rule for logins", origin(OriginOptions{NoLogin: true}), loopback, by("ann@example.org", "x@example.net"), "denied"},
		{s37, "a daemon name", origin(OriginOptions{NoLogin: true}), named("ORIGINATING"), by("ann@example.org", "x@example.net"), "denied"},
		{s37, "a network with rows", clients, at("192.0.2.130"), by("ann@example.org", "x@a.example"), "denied"},
		{s38, "a network", Options{}, loopback, from("x@a.example"), "a.example"},
		{s38, "local submission", Options{}, local, from("x@a.example"), "a.example"},
		{s38, "a daemon name", Options{}, named("ORIGINATING"), from("x@a.example"), "a.example"},
		{s38, "a client in a network without rows", clients, at("192.0.2.1"), from("x@z.example"), "z.example"},
		{s38, "a certificate without rows", clients, sent(postfix, "{cert_subject}", "other"), from("x@z.example"), "z.example"},
		{s39, "a named domain", clients, at("192.0.2.130"), from("x@a.example"), "a.example"},
		{s39, "another", clients, at("192.0.2.130"), from("x@b.example"), "denied"},
		{s39, "the smallest network", clients, at("192.0.2.200"), from("x@b.example"), "b.example"},
		{s39, "not the one around it", clients, at("192.0.2.200"), from("x@a.example"), "denied"},
		{s39, "a certificate", clients, sent(postfix, "{cert_subject}", "customer"), from("x@c.example"), "c.example"},
		{s39, "another domain, by a certificate", clients, sent(postfix, "{cert_subject}", "customer"), from("x@a.example"), "denied"},
		{s39, "a certificate counts before a network", clients, change(func(c *Connection) {
			c.Client, c.Macros = netip.MustParseAddr("192.0.2.130"), map[string]string{"{cert_subject}": "customer"}
		}), from("x@c.example"), "c.example"},
		{s39, "a row does not make mail ours", grants(Grant{Network: "203.0.113.0/24", AnyDomain: true}), stranger, ann, "not ours"},
		{s40, "own domain", Options{}, stranger, by("Ann@Example.ORG", "ann@example.org"), "example.org"},
		{s40, "login of a row", customers, stranger, by("ANN@A.example", "x@shop.example"), "shop.example"},
		{s40, "row of a login", grants(Grant{Login: "ANN", Domains: []string{"shop.example"}}), stranger, by("ann", "x@shop.example"), "shop.example"},
		{s40, "address", customers, stranger, by("ann@a.example", "Ann@single.example"), "single.example"},
		{s40, "address in quotation marks", customers, stranger, by("ann@a.example", `"ann"@single.example`), "single.example"},
		{s40, "login of a table row", rows(Row{Login: "Scanner", Disabled: true}), stranger, by("SCANNER", "x@example.org"), "excluded"},
		{s40, "address of a table row", rows(Row{Address: "Info@Example.org", Selectors: []string{"X"}}), loopback, from("iNFO@example.org"), "example.org s=x"},
		{s41, "a login for another domain", Options{Permission: PermissionOptions{Off: true}}, stranger, by("ann@example.org", "x@example.net"), "example.net"},
		{s41, "a client with a row", Options{Permission: PermissionOptions{Off: true, Grants: []Grant{{Network: "127.0.0.0/8", Domains: []string{"a.example"}}}}}, loopback, from("x@b.example"), "b.example"},

		{s50, "login", everything, stranger, by("ann", "ann@b.a.example.org"), "b.a.example.org s=login"},
		{s50, "address", everything, stranger, by("bob", "ann@b.a.example.org"), "b.a.example.org s=address"},
		{s50, "the first of two addresses that has a row", everything, stranger, by("bob", "bob@b.a.example.org, ann@b.a.example.org"), "b.a.example.org s=address"},
		{s50, "domain", everything, stranger, by("bob", "bob@b.a.example.org"), "b.a.example.org s=domain"},
		{s50, "nearest above", everything, stranger, by("bob", "bob@c.a.example.org"), "c.a.example.org or a.example.org s=parent"},
		{s50, "nearest above that extends", everything, stranger, by("bob", "bob@c.b.a.example.org"), "c.b.a.example.org or a.example.org s=parent"},
		{s50, "farther above", everything, stranger, by("bob", "bob@c.example.org"), "c.example.org or example.org s=grandparent"},
		{s50, "one that extends is for the domain too", everything, stranger, by("bob", "bob@example.org"), "example.org s=grandparent"},
		{s50, "all other mail", everything, stranger, by("bob", "bob@example.net"), "example.net s=all"},
		{s50, "a domain alone beside one that extends", rows(Row{Domain: "example.org", Selectors: []string{"alone"}}, Row{Domain: "example.org", Subdomains: true, Selectors: []string{"below"}}), loopback, ann, "example.org s=alone"},
		{s50, "what is below the two", rows(Row{Domain: "example.org", Selectors: []string{"alone"}}, Row{Domain: "example.org", Subdomains: true, Selectors: []string{"below"}}), loopback, from("x@a.example.org"), "a.example.org or example.org s=below"},
		{s50, "a row for a domain does not extend by itself", rows(Row{Domain: "example.org", Disabled: true}), loopback, from("x@a.example.org"), "a.example.org"},
		{s51, "no table", Options{}, loopback, ann, "example.org"},
		{s51, "rows for others", rows(Row{Domain: "example.net", SignAs: "example.com"}), loopback, ann, "example.org"},
		{s52, "of a domain", rows(Row{Domain: "example.org", SignAs: "example.net"}), loopback, ann, "example.net"},
		{s52, "of an address", rows(Row{Address: "ann@example.org", SignAs: "news.example.org"}), loopback, ann, "news.example.org"},
		{s60, "below", rows(Row{Domain: "example.org", Subdomains: true, Always: true}), loopback, from("x@a.example.org"), "example.org"},
		{s60, "below, as another", rows(Row{Domain: "example.org", Subdomains: true, Always: true, SignAs: "example.net"}), loopback, from("x@a.example.org"), "example.net"},
		{s60, "the domain itself", rows(Row{Domain: "example.org", Subdomains: true}), loopback, ann, "example.org"},
		{s53, "above", rows(Row{Domain: "example.org", Subdomains: true}), loopback, from("x@a.example.org"), "a.example.org or example.org"},
		{s53, "above, signing as another", rows(Row{Domain: "example.org", Subdomains: true, SignAs: "example.net"}), loopback, from("x@a.example.org"), "a.example.org or example.net"},
		{s53, "above, always", rows(Row{Domain: "example.org", Subdomains: true, Always: true}), loopback, from("x@a.example.org"), "example.org"},
		{s53, "all other mail", rows(Row{Domain: "*", SignAs: "example.net"}), loopback, ann, "example.org or example.net"},
		{s53, "all other mail, always", rows(Row{Domain: "*", SignAs: "example.net", Always: true}), loopback, ann, "example.net"},
		{s53, "all other mail, of that domain", rows(Row{Domain: "*", SignAs: "example.net"}), loopback, from("x@example.net"), "example.net"},
		{s53, "a login", newsletter, stranger, by("news@esp.example", "x@customer.example"), "customer.example or esp.example s=bulk i=@news.esp.example"},
		{s53, "a login, always", newsletter, stranger, by("only@esp.example", "x@customer.example"), "esp.example"},
		{s54, "any author", newsletter, stranger, by("news@esp.example", "x@foreign.example"), "esp.example s=bulk i=@news.esp.example"},
		{s54, "not by another login", newsletter, stranger, by("else@esp.example", "x@foreign.example"), "denied"},
		{s54, "without another domain it is no permission", rows(Row{Login: "ann@example.org", Selectors: []string{"x"}}), stranger, by("ann@example.org", "x@foreign.example"), "denied"},
		{s55, "the author domain's own", newsletter, stranger, by("news@esp.example", "x@customer.example"), "customer.example or esp.example s=bulk i=@news.esp.example"},
		{s55, "the row's", rows(Row{Domain: "example.org", Selectors: []string{"a", "b"}, Identity: "bulk@mail.example.org"}), loopback, ann, "example.org s=a,b i=bulk@mail.example.org"},
		{s55, "outside of it", rows(Row{Domain: "example.org", Identity: "@example.net"}), loopback, ann, `error: row 1: identity "@example.net": not in the signing domain example.org`},
		{s56, "the author's", rows(Row{Domain: "example.org", Identity: "address"}), loopback, from("Ann.B+c@example.org"), "example.org i=Ann.B+c@example.org"},
		{s56, "in quotation marks", rows(Row{Domain: "example.org", Identity: "address"}), loopback, from(`"Ann B"@example.org`), "example.org i=Ann B@example.org"},
		{s56, "below the signing domain", rows(Row{Domain: "example.org", Subdomains: true, Always: true, Identity: "address"}), loopback, from("ann@a.example.org"), "example.org i=ann@a.example.org"},
		{s56, "several", rows(Row{Domain: "example.org", Identity: "address"}), loopback, from("ann@example.org, bob@example.org"), "example.org"},
		{s56, "not in the signing domain", rows(Row{Domain: "example.org", SignAs: "example.net", Identity: "address"}), loopback, ann, "example.net"},
		{s56, "above the signing domain", rows(Row{Domain: "example.org", SignAs: "a.example.org", Identity: "address"}), loopback, ann, "a.example.org"},
		{s56, "not ASCII", rows(Row{Domain: "example.org", Identity: "address"}), loopback, from("jürgen@example.org"), "example.org"},
		{s57, "of a domain", rows(Row{Domain: "example.org", Disabled: true}), loopback, ann, "excluded"},
		{s57, "of what is above", rows(Row{Domain: "example.org", Subdomains: true, Disabled: true}), loopback, from("x@a.example.org"), "excluded"},
		{s57, "of all other mail", rows(Row{Domain: "*", Disabled: true}, Row{Domain: "example.net"}), loopback, ann, "excluded"},
		{s57, "but what has a row", rows(Row{Domain: "*", Disabled: true}, Row{Domain: "example.net"}), loopback, from("x@example.net"), "example.net"},
		{s57, "of a login, for any domain", rows(Row{Login: "scanner", Disabled: true}, Row{Domain: "example.org"}), stranger, by("scanner", "x@example.net"), "excluded"},
		{s57, "of a login, for two From fields", rows(Row{Login: "scanner", Disabled: true}), stranger, Message{Login: "scanner", From: []string{" a@example.org", " b@example.net"}}, "excluded"},
		{s57, "of another login, for two From fields", rows(Row{Login: "scanner", Disabled: true}), stranger, Message{Login: "ann", From: []string{" a@example.org", " b@example.net"}}, "not signable"},
		{s59, "to the caller, by the row of a login, for two From fields", rows(Row{Login: "ann", Overrides: Overrides{Strict: true}}), stranger, Message{Login: "ann", From: []string{" a@example.org", " b@example.net"}}, "not signable"},
		{s58, "another's domain, which signs as a third", rows(Row{Domain: "example.net", SignAs: "example.com"}), stranger, by("ann@example.org", "x@example.net"), "denied"},
		{s58, "all other mail, which signs as a third", rows(Row{Domain: "*", SignAs: "example.com"}), stranger, by("ann@example.org", "x@example.net"), "denied"},
		{s58, "another's address, which signs as a third", rows(Row{Address: "x@example.net", SignAs: "example.com"}), stranger, by("ann@example.org", "x@example.net"), "denied"},
		{s58, "another's domain", rows(Row{Domain: "example.net", Disabled: true}), stranger, by("ann@example.org", "x@example.net"), "denied"},
		{s59, "to the caller", rows(Row{Domain: "example.org", Overrides: Overrides{Canonicalization: "simple", Strict: true}}), loopback, ann, "example.org"},

		{s61, "no answer yet", Options{}, loopback, ann.asking(), "asks about ann@example.org"},
		{s61, "an answer", Options{}, loopback, ann.asking(answer("example.org", key{"example.org", "s1", ""})), "example.org s=s1"},
		{s61, "of another domain", Options{}, loopback, ann.asking(answer("ann@example.org", key{"example.com", "s1", "@example.com"})), "example.com s=s1 i=@example.com"},
		{s61, "none", Options{}, loopback, ann.asking(nothing), "the sender query has no row for ann@example.org"},
		{s61, "not where it is not asked", Options{}, loopback, ann, "example.org"},
		{s62, "in capitals", Options{}, loopback, from("Ann <Ann.B@Example.ORG>").asking(), "asks about ann.b@example.org"},
		{s62, "in quotation marks", Options{}, loopback, from(`"ann"@example.org`).asking(), "asks about ann@example.org"},
		{s62, "several", Options{}, loopback, from("bob@example.org, ann@example.org").asking(), "asks about bob@example.org"},
		{s62, "of a domain beyond ASCII", Options{}, loopback, from("ann@bücher.example").asking(), "asks about ann@xn--bcher-kva.example"},
		{s62, "of a list", fields("List-Id"), loopback, listed("ann@example.org", map[string][]string{"List-Id": {" <l.lists.example>"}}).asking(), "asks about @lists.example"},
		{s62, "of a list's owner", fields("List-Owner"), loopback, listed("ann@example.org", map[string][]string{"List-Owner": {" <mailto:bob@lists.example>"}}).asking(), "asks about bob@lists.example"},
		{s63, "beyond ASCII", Options{}, loopback, from("jürgen@example.org").asking(), "asks about @example.org"},
		{s63, "longer", Options{}, loopback, from(strings.Repeat("a", 65) + "@example.org").asking(), "asks about @example.org"},
		{s63, "as long", Options{}, loopback, from(strings.Repeat("a", 64) + "@example.org").asking(), "asks about " + strings.Repeat("a", 64) + "@example.org"},
		{s64, "of one domain", Options{}, loopback, ann.asking(answer("*", key{"example.org", "s1", ""}, key{"example.org", "s2", ""})), "example.org s=s1,s2"},
		{s64, "of several", Options{}, loopback, ann.asking(answer("*", key{"example.org", "s1", ""}, key{"example.com", "s1", ""}, key{"example.org", "s2", ""}, key{"example.com", "s2", "@example.com"})),
			"example.org s=s1,s2 and example.com s=s1 and example.com s=s2 i=@example.com"},
		{s65, "a signing domain", rows(Row{Domain: "example.org", SignAs: "example.com"}), loopback, ann.asking(), "example.com"},
		{s65, "selectors", rows(Row{Address: "ann@example.org", Selectors: []string{"x"}}), loopback, ann.asking(), "example.org s=x"},
		{s65, "selectors, for a login", rows(Row{Login: "ann@example.org", Selectors: []string{"x"}}), stranger, by("ann@example.org", "ann@example.org").asking(), "example.org s=x"},
		{s65, "selectors of the login's own domain, by its name", rows(Row{Login: "ann@example.org", SignAs: "example.org", Selectors: []string{"x"}}), stranger, by("ann@example.org", "ann@example.org").asking(), "example.org s=x"},
		{s65, "selectors of its own domain, for all other mail", rows(Row{Domain: "*", SignAs: "example.org", Selectors: []string{"x"}}), loopback, ann.asking(), "example.org s=x"},
		{s65, "its own domain alone, for all other mail", rows(Row{Domain: "*", SignAs: "example.org"}), loopback, ann.asking(), "asks about ann@example.org"},
		{s65, "an identity", rows(Row{Domain: "example.org", Identity: "address"}), loopback, ann.asking(), "example.org i=ann@example.org"},
		{s65, "all other mail, always", rows(Row{Domain: "*", SignAs: "example.com", Always: true}), loopback, ann.asking(), "example.com"},
		{s65, "what is below a domain, always", rows(Row{Domain: "example.org", Subdomains: true, Always: true}), loopback, from("x@a.example.org").asking(), "example.org"},
		{s65, "nothing", rows(Row{Domain: "example.org", Overrides: Overrides{Strict: true}}), loopback, ann.asking(), "asks about ann@example.org"},
		{s65, "nothing, for all other mail", rows(Row{Domain: "*"}), loopback, ann.asking(), "asks about ann@example.org"},
		{s65, "all other mail, second", rows(Row{Domain: "*", SignAs: "example.com"}), loopback, ann.asking(), "asks about ann@example.org"},
		{s65, "a login that may not use the domain's own", newsletter, stranger, by("news@esp.example", "x@foreign.example").asking(), "esp.example s=bulk i=@news.esp.example"},
		{s66, "all other mail", rows(Row{Domain: "*", SignAs: "example.com", Selectors: []string{"x"}}), loopback, ann.asking(nothing), "example.com s=x"},
		{s66, "beside an answer", rows(Row{Domain: "*", SignAs: "example.com"}), loopback, ann.asking(answer("*", key{"example.org", "s1", ""}, key{"example.net", "s1", ""})), "example.org s=s1 and example.net s=s1 or example.com"},
		{s66, "what is below a domain", rows(Row{Domain: "example.org", Subdomains: true}), loopback, from("x@a.example.org").asking(nothing), "example.org"},
		{s66, "a login", newsletter, stranger, by("news@esp.example", "x@customer.example").asking(nothing), "esp.example s=bulk i=@news.esp.example"},
		{s67, "to the caller", rows(Row{Domain: "example.org", Overrides: Overrides{Strict: true}}), loopback, ann.asking(answer("*", key{"example.org", "s1", ""})), "example.org s=s1"},
		{s68, "denied", Options{}, stranger, by("ann@example.org", "x@example.net").asking(), "denied"},
		{s68, "excluded", rows(Row{Domain: "example.org", Disabled: true}), loopback, ann.asking(), "excluded"},
		{s68, "denied by the answer", fields("Sender"), stranger, listed("x@example.net", map[string][]string{"Sender": {" ann@example.org"}}).by("ann@example.org").asking(answer("*", key{"example.net", "s1", ""})), "denied"},
		{s68, "denied in part by the answer", fields("Sender"), stranger, listed("x@example.net", map[string][]string{"Sender": {" ann@example.org"}}).by("ann@example.org").asking(answer("*", key{"example.net", "s1", ""}, key{"example.org", "s1", ""})), "example.org s=s1"},
	}
}()

type sentenceRow struct {
	sentence, what string
	options        Options
	conn           Connection
	message        Message
	want           string // see summary; "error: " and how the error of New begins
}

func TestEverySentenceOfTheDocumentation(t *testing.T) {
	for _, row := range sentenceRows {
		r, err := New(row.options)
		if want, bad := strings.CutPrefix(row.want, "error: "); bad {
			if err == nil || !strings.HasPrefix(err.Error(), want) {
				t.Errorf("%s\n%s: error %v, want %s", row.sentence, row.what, err, want)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s\n%s: %v", row.sentence, row.what, err)
			continue
		}
		d := r.Decide(row.conn, row.message)
		if got := summary(d); got != row.want {
			t.Errorf("%s\n%s: got %s (%s), want %s", row.sentence, row.what, got, d.Reason, row.want)
		}
	}
}

// TestTheDocumentationHasNoOtherSentence holds the rows against the comment.
func TestTheDocumentationHasNoOtherSentence(t *testing.T) {
	source, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	_, rules, ok := strings.Cut(string(source), "// # Whose mail is ours\n")
	if !ok {
		t.Fatal("doc.go has no heading about whose mail is ours")
	}
	rules = strings.ReplaceAll(rules, "//   - ", "//\n// ")
	rules = regexp.MustCompile(`(?m)^// #.*$`).ReplaceAllString(rules, "")
	var sentences []string
	for _, paragraph := range regexp.MustCompile(`(?m)^(//)?$`).Split(rules, -1) {
		text := strings.Join(strings.Fields(strings.ReplaceAll(paragraph, "//", " ")), " ")
		if text = strings.TrimSuffix(text, "package policy"); text == "" {
			continue
		}
		sentences = append(sentences, regexp.MustCompile(`[^ ].*?\.( |$)`).FindAllString(text, -1)...)
	}
	rows := map[string]bool{}
	for _, row := range sentenceRows {
		rows[row.sentence] = true
	}
	for _, s := range sentences {
		s = strings.TrimSpace(s)
		if !rows[s] {
			t.Errorf("no row tests the sentence\n%s", s)
		}
		delete(rows, s)
	}
	for s := range rows {
		t.Errorf("the documentation does not have the sentence\n%s", s)
	}
	if len(sentences) < 40 {
		t.Errorf("%d sentences found in doc.go", len(sentences))
	}
}
