package milter

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"waxseal/keystore"
	"waxseal/milter/policy"
	"waxseal/signer"
)

// table is a keystore that knows of senders.
type table struct {
	domains map[string]*keystore.Signing
	senders map[string]*keystore.Sender
	err     error // of everything else; nil: there is nothing else
	cold    bool  // nothing is in memory
}

func (t *table) Cached(domain string) (*keystore.Signing, error, bool) {
	if t.cold {
		return nil, nil, false
	}
	s, err := t.Signing(context.Background(), domain)
	return s, err, true
}

func (t *table) Signing(_ context.Context, domain string) (*keystore.Signing, error) {
	switch s := t.domains[domain]; {
	case s != nil:
		return s, nil
	case t.err != nil:
		return nil, t.err
	}
	return nil, fmt.Errorf("domain %s: %w", domain, keystore.ErrNotFound)
}

func (t *table) CachedSender(address string) (*keystore.Sender, error, bool) {
	if t.cold {
		return nil, nil, false
	}
	s, err := t.Sender(context.Background(), address)
	return s, err, true
}

func (t *table) Sender(_ context.Context, address string) (*keystore.Sender, error) {
	switch s := t.senders[address]; {
	case s != nil:
		return s, nil
	case t.err != nil:
		return nil, t.err
	}
	return &keystore.Sender{}, nil
}

func newSenderTable() *table {
	rsa, ed := signingKeys()[0], signingKeys()[1]
	key := func(k keystore.SigningKey, selector string) keystore.SigningKey {
		k.Selector = selector
		return k
	}
	domain := func(name string, keys ...keystore.SigningKey) *keystore.Signing {
		return &keystore.Signing{Domain: name, Keys: keys}
	}
	row := func(row string, keys ...string) *keystore.Sender { // each a selector, a domain, and perhaps an identity
		s := &keystore.Sender{Row: row}
		for _, k := range keys {
			parts := append(strings.Fields(k), "")
			s.Keys = append(s.Keys, keystore.SenderKey{Selector: parts[0], Domain: parts[1], Identity: parts[2]})
		}
		return s
	}
	t := &table{
		domains: map[string]*keystore.Signing{
			"example.com": domain("example.com", key(rsa, "s1"), key(rsa, "s2"), key(ed, "e1")),
			"esp.example": domain("esp.example", key(rsa, "bulk"), key(ed, "e2")),
			"ed.example":  domain("ed.example", key(ed, "e3")),
			"bad.example": {Domain: "bad.example", Keys: []keystore.SigningKey{key(rsa, "good")}, Broken: []error{&keystore.KeyError{Domain: "bad.example", Selector: "bad", Err: errors.New("damaged")}}},
		},
		senders: map[string]*keystore.Sender{
			"one@example.com":      row("example.com", "s1 example.com"),
			"other@example.com":    row("other@example.com", "bulk esp.example @esp.example"),
			"two@example.com":      row("*", "e1 example.com", "s1 example.com", "bulk esp.example", "e2 esp.example"),
			"x@sub.example.com":    row("*", "bulk esp.example", "s1 example.com"),
			"gone@example.com":     row("gone@example.com", "s1 gone.example"),
			"unnamed@example.com":  row("*", "s9 example.com"),
			"part@example.com":     row("*", "s1 gone.example", "bulk esp.example"),
			"bad@example.com":      row("*", "bad bad.example"),
			"badpart@example.com":  row("*", "bad bad.example", "s1 example.com"),
			"bad-ed@example.com":   row("*", "bad bad.example", "e3 ed.example"),
			"row@example.com":      {Row: "row@example.com", Broken: []error{errors.New("no selector")}},
			"rowpart@example.com":  {Row: "*", Broken: []error{errors.New("no selector")}, Keys: []keystore.SenderKey{{Domain: "example.com", Selector: "s1"}}},
			"bob@example.org":      row("*", "s1 example.org"),
			"ann@customer.example": row("*", "s1 customer.example"),
		},
	}
	return t
}

// outcomeOf is what became of a message in a line.
func outcomeOf(r *Result) string {
	if !r.Signed {
		s := fmt.Sprintf("%s %s: %s", r.Action, r.Cause, r.Reason)
		if r.SenderRow != "" {
			s += " [" + r.SenderRow + "]"
		}
		return s
	}
	var list []string
	for _, f := range r.Fields {
		tag := func(name string) string {
			for part := range strings.SplitSeq(f.Value, ";") {
				if n, value, _ := strings.Cut(strings.TrimSpace(part), "="); n == name {
					return value
				}
			}
			return ""
		}
		s := tag("s") + "._domainkey." + tag("d")
		if i := tag("i"); i != "" {
			s += " i=" + i
		}
		list = append(list, s)
	}
	s := strings.Join(list, ", ") + " [" + r.SenderRow + "]"
	if len(r.Broken) > 0 {
		s += " though " + errors.Join(r.Broken...).Error()
	}
	return s
}

func TestSenderQuery(t *testing.T) {
	down := errors.New("no answer")
	for _, c := range []struct {
		login, from string
		err         error
		rows        []policy.Row
		want        string
	}{
		{"", "one@example.com", nil, nil, "s1._domainkey.example.com [example.com]"},
		{"", "One <ONE@Example.com>", nil, nil, "s1._domainkey.example.com [example.com]"},
		{"", "other@example.com", nil, nil, "bulk._domainkey.esp.example i=@esp.example [other@example.com]"},
		// All of them, RSA on top.
		{"", "two@example.com", nil, nil, "s1._domainkey.example.com, bulk._domainkey.esp.example, e1._domainkey.example.com, e2._domainkey.esp.example [*]"},
		// Without a row nothing signs, whatever keys the domain has.
		{"", "none@example.com", nil, nil, "accept no_key: the sender query has no row for none@example.com"},
		{"", "none@example.com", nil, []policy.Row{{Domain: "*", SignAs: "esp.example", Selectors: []string{"bulk"}}}, "bulk._domainkey.esp.example []"},
		{"", "one@example.com", nil, []policy.Row{{Domain: "*", SignAs: "esp.example"}}, "s1._domainkey.example.com [example.com]"},
		{"", "one@example.com", nil, []policy.Row{{Domain: "example.com", Selectors: []string{"s2"}}}, "s2._domainkey.example.com []"},
		// What it names and the keystore does not have.
		{"", "gone@example.com", nil, nil, "accept no_key: the keystore has no domain gone.example, which the sender query names for gone@example.com [gone@example.com]"},
		{"", "unnamed@example.com", nil, nil, "accept no_key: example.com has no active key among s9, which the sender query names for * [*]"},
		{"", "part@example.com", nil, nil, "bulk._domainkey.esp.example [*] though the keystore has no domain gone.example, which the sender query names for *"},
		// What cannot be used.
		{"", "bad@example.com", nil, nil, "tempfail key_unusable: key bad.bad.example: damaged [*]"},
		{"", "badpart@example.com", nil, nil, "s1._domainkey.example.com [*] though key bad.bad.example: damaged"},
		{"", "bad-ed@example.com", nil, nil, "tempfail key_unusable: key bad.bad.example: damaged [*]"},
		{"", "row@example.com", nil, nil, "tempfail key_unusable: the sender query: no selector [row@example.com]"},
		{"", "row@example.com", nil, []policy.Row{{Domain: "*", SignAs: "esp.example"}}, "tempfail key_unusable: the sender query: no selector [row@example.com]"},
		{"", "rowpart@example.com", nil, nil, "s1._domainkey.example.com [*] though no selector"},
		// While the keystore does not answer, what is in memory signs, and the rest waits.
		{"", "one@example.com", down, nil, "s1._domainkey.example.com [example.com]"},
		{"", "none@example.com", down, nil, "tempfail store_down: no answer"},
		{"", "none@example.com", down, []policy.Row{{Domain: "*", SignAs: "esp.example"}}, "tempfail store_down: no answer"},
		{"", "part@example.com", down, nil, "tempfail store_down: no answer [*]"},
		{"", "none@example.com", fmt.Errorf("a wrong query: %w", keystore.ErrBroken), nil, "tempfail key_unusable: a wrong query: broken"},
		// A row is no permission.
		{"bob@example.org", "one@example.com", nil, nil, `accept denied: login "bob@example.org" may not sign for example.com: it may for its own domain, example.org, and no grant names more for it; add one`},
		{"one@example.com", "one@example.com", nil, nil, "s1._domainkey.example.com [example.com]"},
	} {
		for _, cold := range []bool{false, true} {
			keys := newSenderTable()
			keys.err, keys.cold = c.err, cold
			s := testSettings(t, func(s *Settings) {
				s.Keys, s.Senders = keys, keys
				var err error
				if s.Rules, err = policy.New(policy.Options{Table: c.rows}); err != nil {
					t.Fatal(err)
				}
			})
			if got := outcomeOf(carry(t, s, c.login, c.from)); got != c.want {
				t.Errorf("%s, login %q, cold %v:\n got %s\nwant %s", c.from, c.login, cold, got, c.want)
			}
		}
	}
}

// carry takes a message through.
func carry(t testing.TB, s *Settings, login, from string) *Result {
	t.Helper()
	connection := policy.Connection{Local: login == "", MTA: "Postfix 3.7.11"}
	tx, r := s.Begin(connection, login, "", true, signer.New(signer.Options{}))
	if r != nil {
		return r
	}
	defer tx.Abort()
	tx.Field("From", " "+from)
	tx.Field("Subject", " hello")
	tx.Field("Date", " Sat, 21 Nov 2026 23:00:00 +0000")
	tx.Field("Message-ID", " <m1@example.com>")
	if r := tx.EndOfHeader(t.Context()); r != nil {
		return r
	}
	if _, err := tx.Write([]byte("Hello.\r\n")); err != nil {
		t.Fatal(err)
	}
	return tx.End(t.Context(), time.Now())
}

// A sender query whose every row is that of a row of the selector table has the
// same mail signed, in the same way, and the rest not.
func TestSenderQueryIsLikeRowsOfTheTable(t *testing.T) {
	keys := newSenderTable()
	keys.domains["example.org"] = keys.domains["esp.example"]
	grants := policy.PermissionOptions{Grants: []policy.Grant{{Login: "ann@customer.example", Domains: []string{"example.com"}}}}
	var rows []policy.Row
	query := &table{domains: keys.domains, senders: map[string]*keystore.Sender{}}
	for address, row := range map[string]policy.Row{
		"ann@example.com":     {SignAs: "esp.example", Selectors: []string{"bulk"}, Identity: "@mail.esp.example"},
		"bob@example.com":     {SignAs: "example.com", Selectors: []string{"s1", "e1"}},
		"bob@example.org":     {SignAs: "bad.example", Selectors: []string{"bad"}},
		"ann@example.org":     {SignAs: "gone.example", Selectors: []string{"s1"}},
		"bob@sub.example.com": {SignAs: "example.com", Selectors: []string{"s1"}, Identity: "@sub.example.com"},
	} {
		row.Address = address
		rows = append(rows, row)
		answer := &keystore.Sender{Row: address}
		for _, s := range row.Selectors {
			answer.Keys = append(answer.Keys, keystore.SenderKey{Domain: row.SignAs, Selector: s, Identity: row.Identity})
		}
		query.senders[address] = answer
	}
	settings := func(rows []policy.Row, senders Senders) *Settings {
		return testSettings(t, func(s *Settings) {
			var err error
			if s.Rules, err = policy.New(policy.Options{Table: rows, Permission: grants}); err != nil {
				t.Fatal(err)
			}
			s.Keys, s.Senders = query, senders
		})
	}
	static, asked := settings(rows, nil), settings(nil, query)
	signed := 0
	for _, login := range []string{"", "ann@customer.example", "bob@example.org", "x@example.com", "ann@example.com"} {
		for address := range query.senders {
			for _, form := range []string{"%s", "Ann <%s>", `"bob@example.org" <%s>`, "%s, x@example.org", "%s, bob@example.com", "<%s", "<>"} {
				from := strings.Replace(form, "%s", address, 1)
				want, got := carry(t, static, login, from), carry(t, asked, login, from)
				if want.Row == "" && want.Signed || strings.Contains(form, "bob@example.com") {
					continue // of several addresses, rows look at all, and the query at the first
				}
				for _, r := range []*Result{want, got} {
					r.Row, r.SenderRow, r.Fields = "", "", nil
					r.Reason, _, _ = strings.Cut(r.Reason, ", which the sender query")
				}
				if !reflect.DeepEqual(got, want) {
					t.Errorf("login %q, From: %s\n got %+v\nwant %+v", login, from, got, want)
				}
				if got.Signed {
					signed++
				}
			}
		}
	}
	if signed < 10 {
		t.Errorf("%d messages signed, so little was compared", signed)
	}
}

func TestTheLogNamesAllDomainsAndTheRowOfTheSender(t *testing.T) {
	keys := newSenderTable()
	s := startServer(t, Options{}, func(s *Settings) { s.Keys, s.Senders = keys, keys })
	msg := ordinary()
	msg.header[0] = "From: two@example.com"
	if r := s.postfixClient(t).mail(msg); r.final.command != 'a' || len(r.inserts) != 4 {
		t.Fatalf("answered %v with %d fields, want 4", r.final, len(r.inserts))
	}
	if log := s.log.String(); !strings.Contains(log, "domain=example.com,esp.example selectors=s1,bulk,e1,e2 ") || !strings.Contains(log, "sender_row=*") || strings.Contains(log, "dmarc=") {
		t.Errorf("the log has\n%s", log)
	}
	msg.header[0] = "From: other@example.com"
	s.postfixClient(t).mail(msg)
	if log := s.log.String(); !strings.Contains(log, "domain=esp.example selectors=bulk dmarc=") {
		t.Errorf("the log has\n%s", log)
	}
}

// DMARC counts one signature of several.
func TestTheDomainThatCountsForDMARCIsNamedFirst(t *testing.T) {
	keys := newSenderTable()
	s := testSettings(t, func(s *Settings) { s.Keys, s.Senders = keys, keys })
	if r := carry(t, s, "", "x@sub.example.com"); r.Domain != "example.com" || len(r.Beside) != 1 || r.Unaligned {
		t.Errorf("%+v", r)
	}
}

// By hand, a domain and a selector are named, and nobody has to be asked.
func TestSigningByHandAsksNobodyAboutTheSender(t *testing.T) {
	keys := newSenderTable()
	s := testSettings(t, func(s *Settings) { s.Keys, s.Senders, s.Domain, s.Selector = keys, keys, "example.com", "s2" })
	if got := outcomeOf(carry(t, s, "", "none@example.org")); got != "s2._domainkey.example.com []" {
		t.Error(got)
	}
	s = testSettings(t, func(s *Settings) { s.Keys, s.Senders, s.Selector = keys, keys, "e1" })
	if got := outcomeOf(carry(t, s, "", "two@example.com")); got != "e1._domainkey.example.com [*] though esp.example has no active key e1" {
		t.Error(got)
	}
}

func BenchmarkSenderQuery(b *testing.B) {
	keys := newSenderTable()
	keys.domains["example.com"].Keys[0].Signer = instant{keys.domains["example.com"].Keys[0].Signer}
	for name, senders := range map[string]Senders{"without": nil, "with": keys} {
		b.Run(name, func(b *testing.B) {
			s := testSettings(b, func(s *Settings) {
				s.Keys, s.Senders = &table{domains: map[string]*keystore.Signing{"example.com": {Domain: "example.com", Keys: keys.domains["example.com"].Keys[:1]}}}, senders
			})
			b.ReportAllocs()
			for b.Loop() {
				if r := carry(b, s, "", "one@example.com"); !r.Signed {
					b.Fatal(r)
				}
			}
		})
	}
}
