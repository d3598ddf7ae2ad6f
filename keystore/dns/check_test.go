package dns

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	mdns "github.com/miekg/dns"

	"waxseal/keystore"
)

const checkedName = "2026a._domainkey.example.com"

var three = []string{"127.0.0.2", "127.0.0.3", "127.0.0.4"}

// txt is a line of a zone file with the value at the name.
func txt(name, value string) string {
	return name + ". 300 IN TXT " + quoted(value) + "\n"
}

func TestCheck(t *testing.T) {
	want := wanted(t, keystore.RSA2048, RecordOptions{})
	value := want.String()
	other := wanted(t, keystore.RSA1024, RecordOptions{}).String()
	revoked := *want
	revoked.Public = nil
	ours := txt(checkedName, value)
	drop := func(q, m *mdns.Msg, tcp bool) *mdns.Msg { return nil }
	onTXT := func(change change) change {
		return func(q, m *mdns.Msg, tcp bool) *mdns.Msg {
			if q.Question[0].Qtype == mdns.TypeTXT {
				return change(q, m, tcp)
			}
			return m
		}
	}
	code := func(rcode int) change {
		return onTXT(func(q, m *mdns.Msg, tcp bool) *mdns.Msg { return new(mdns.Msg).SetRcode(q, rcode) })
	}

	for _, test := range []struct {
		name    string
		records string // of every server and the resolver
		change  func(w *world)
		want    *Record // nil: want
		verdict Verdict
		detail  string
		state   keystore.SightState
	}{
		{"every server shows the record", ours, nil, nil, Matches, "the record is there", keystore.Shown},
		{"every server shows the revoked record", txt(checkedName, "v=DKIM1; p="), nil, &revoked, Matches, "", keystore.ShownRevoked},
		{"the record is revoked, unasked", txt(checkedName, "v=DKIM1; p="), nil, nil, Revoked, "p= is empty", keystore.ShownRevoked},
		{"the key is there, though revoked", ours, nil, &revoked, OtherKey, "should be empty", keystore.Different},
		{"no record", "", nil, nil, Missing, "does not exist", keystore.Missing},
		{"something else at the name", checkedName + ". IN A 192.0.2.1\n", nil, nil, Missing, "there is no TXT record", keystore.Missing},
		{"a record at the doubled name", txt(checkedName+".example.com", value), nil, nil, Missing, "there is a record at " + checkedName + ".example.com", keystore.Missing},
		{"a CNAME at the doubled name", checkedName + ".example.com. IN CNAME a.example.com.\n", nil, nil, Missing, "there is a record at " + checkedName + ".example.com", keystore.Missing},
		{"another key", txt(checkedName, other), nil, nil, OtherKey, "1024 bits", keystore.Different},
		{"two records", ours + txt(checkedName, "v=spf1 -all"), nil, nil, Several, "2 TXT records", keystore.Different},
		{"blanks", txt(checkedName, value[:60]+" "+value[60:]), nil, nil, Blanks, "octet 61", keystore.Shown},
		{"testing", txt(checkedName, "t=y; "+value[9:]), nil, nil, Testing, "t=y", keystore.Shown},
		{"wrong k=", txt(checkedName, strings.Replace(value, "k=rsa", "k=ed25519", 1)), nil, nil, WrongType, "k=", keystore.Different},
		{"h= forbids", txt(checkedName, "h=sha1; "+value[9:]), nil, nil, Forbids, "sha256", keystore.Different},
		{"cut off", txt(checkedName, value[:255]), nil, nil, Truncated, "octet 255", keystore.Different},
		{"escaped twice", txt(checkedName, strings.ReplaceAll(value, ";", `\;`)), nil, nil, Malformed, "backslash", keystore.Different},
		{"the second server has nothing", ours, func(w *world) { w.servers[1].remove(checkedName + ".") }, nil,
			Differs, "server 2 of 3, ns2.example.com (127.0.0.3), differs: the name does not exist; the others: the record is there", keystore.Different},
		{"the third server has an older key", ours, func(w *world) {
			w.servers[2].remove(checkedName + ".")
			w.servers[2].add(t, txt(checkedName, other))
		}, nil, Differs, "server 3 of 3, ns3.example.com (127.0.0.4), differs: there is an RSA key of 1024 bits", keystore.Different},
		{"only the first server has it", "", func(w *world) { w.servers[0].add(t, ours) }, nil,
			Differs, "server 1 of 3, ns1.example.com (127.0.0.2), differs: the record is there; the others: the name does not exist", keystore.Different},
		{"all three differ", ours, func(w *world) {
			w.servers[1].remove(checkedName + ".")
			w.servers[2].remove(checkedName + ".")
			w.servers[2].add(t, txt(checkedName, other))
		}, nil, Differs, "nor do the others agree", keystore.Different},
		{"a wildcard with something else", txt("*._domainkey.example.com", "v=spf1 -all"), nil, nil,
			Wildcard, "the wildcard *._domainkey.example.com answers for every name", keystore.Missing},
		{"a wildcard CNAME", "*._domainkey.example.com. IN CNAME www.example.com.\nwww.example.com. IN A 192.0.2.1\n", nil, nil,
			Wildcard, "the wildcard *._domainkey.example.com answers", keystore.Missing},
		{"a wildcard that revokes everything", txt("*._domainkey.example.com", "v=DKIM1; p="), nil, nil, Wildcard, "p= is empty", keystore.Missing},
		{"a wildcard that revokes everything beside the record", ours + txt("*._domainkey.example.com", "v=DKIM1; p="), nil, nil, Matches, "", keystore.Shown},
		{"a wildcard beside the record", ours + txt("*._domainkey.example.com", "v=spf1 -all"), nil, nil,
			Matches, "the record is there; a wildcard answers for selectors", keystore.Shown},
		{"a wildcard with our record", txt("*._domainkey.example.com", value), nil, nil, Matches, "a wildcard answers", keystore.Shown},
		{"a CNAME", checkedName + ". IN CNAME s1.dkim.example.com.\n" + txt("s1.dkim.example.com", value), nil, nil, Matches, "the record is there", keystore.Shown},
		{"a CNAME to nothing", checkedName + ". IN CNAME s1.dkim.example.com.\n", nil, nil, Dangling, "leads to s1.dkim.example.com, which does not exist", keystore.Missing},
		{"a CNAME to a name without a TXT record", checkedName + ". IN CNAME ns1.example.com.\n", nil, nil, Dangling, "leads to ns1.example.com, where there is no TXT record", keystore.Missing},
		{"a CNAME to itself", checkedName + ". IN CNAME " + checkedName + ".\n", nil, nil, CNAMELoop, "leads back to", keystore.Different},
		{"a loop of CNAMEs", checkedName + ". IN CNAME a.example.com.\na.example.com. IN CNAME b.example.com.\nb.example.com. IN CNAME a.example.com.\n", nil, nil,
			CNAMELoop, "the CNAME at b.example.com leads back to a.example.com", keystore.Different},
		{"nine CNAMEs", checkedName + ". IN CNAME c1.example.com.\n" + chain(9), nil, nil, CNAMELoop, "more than 8 CNAMEs", keystore.Different},
		{"eight CNAMEs", checkedName + ". IN CNAME c1.example.com.\n" + chain(8) + txt("c8.example.com", value), nil, nil, Matches, "", keystore.Shown},
		{"two CNAMEs", checkedName + ". IN CNAME a.example.com.\n" + checkedName + ". IN CNAME b.example.com.\n", nil, nil, Several, "2 CNAME records", keystore.Different},
		{"one server with a CNAME, the others with the record", ours, func(w *world) {
			w.servers[0].remove(checkedName + ".")
			w.servers[0].add(t, checkedName+". IN CNAME s1.dkim.example.com.\n")
		}, nil, Differs, "server 1 of 3, ns1.example.com (127.0.0.2), differs: there is a CNAME to s1.dkim.example.com", keystore.Different},
		{"servers with different CNAMEs", "", func(w *world) {
			for i, s := range w.servers {
				s.add(t, fmt.Sprintf("%s. IN CNAME s%d.dkim.example.com.\n", checkedName, i/2))
			}
		}, nil, Differs, "server 3 of 3, ns3.example.com (127.0.0.4), differs: there is a CNAME to s1.dkim.example.com; the others: there is a CNAME to s0.", keystore.Different},
		{"a server that drops everything", ours, func(w *world) { w.servers[1].alter(drop, nil) }, nil,
			Timeout, "server 2 of 3, ns2.example.com (127.0.0.3): no answer over UDP in 700ms, asked twice", keystore.Unknown},
		{"a server that drops the first question", ours, func(w *world) {
			var asked atomic.Bool
			w.servers[1].alter(onTXT(func(q, m *mdns.Msg, tcp bool) *mdns.Msg {
				if !asked.Swap(true) {
					return nil
				}
				return m
			}), nil)
		}, nil, Matches, "", keystore.Shown},
		{"a silent server beside those that have nothing", "", func(w *world) { w.servers[1].alter(drop, nil) }, nil, Missing, "shows nothing: no answer", keystore.Unknown},
		{"a silent server beside those with another key", txt(checkedName, other), func(w *world) { w.servers[1].alter(drop, nil) }, nil, OtherKey, "shows nothing: no answer", keystore.Different},
		{"a server that refuses", ours, func(w *world) { w.servers[2].alter(code(mdns.RcodeRefused), nil) }, nil,
			Refused, "ns3.example.com (127.0.0.4): answers REFUSED: it does not serve the zone example.com", keystore.Unknown},
		{"a server that fails", ours, func(w *world) { w.servers[2].alter(code(mdns.RcodeServerFailure), nil) }, nil, Failed, "answers SERVFAIL", keystore.Unknown},
		{"a server that answers from a cache", ours, func(w *world) {
			w.servers[0].alter(onTXT(func(q, m *mdns.Msg, tcp bool) *mdns.Msg { m.Authoritative = false; return m }), nil)
		}, nil, Lame, "does not answer with authority", keystore.Unknown},
		{"a server that refers to others", ours, func(w *world) {
			w.servers[0].alter(onTXT(func(q, m *mdns.Msg, tcp bool) *mdns.Msg {
				m.Authoritative, m.Answer = false, nil
				m.Ns = []mdns.RR{&mdns.NS{Hdr: mdns.RR_Header{Name: "com.", Rrtype: mdns.TypeNS, Class: mdns.ClassINET}, Ns: "a.com."}}
				return m
			}), nil)
		}, nil, Lame, "it refers to the servers of com", keystore.Unknown},
		{"a server that does not know EDNS", ours, func(w *world) {
			w.servers[0].alter(func(q, m *mdns.Msg, tcp bool) *mdns.Msg {
				if q.IsEdns0() != nil {
					return new(mdns.Msg).SetRcodeFormatError(q)
				}
				return m
			}, nil)
		}, nil, Matches, "", keystore.Shown},
		{"a record that does not fit into UDP, without TCP", ours + txt(checkedName, strings.Repeat("x", 1500)), func(w *world) {
			w.servers[0].alter(func(q, m *mdns.Msg, tcp bool) *mdns.Msg {
				if tcp {
					return nil
				}
				return m
			}, nil)
		}, nil, Several, "no answer over TCP, which it needs because the answer does not fit into UDP", keystore.Different},
		{"a name server without an address", ours, func(w *world) {
			w.resolver.add(t, "example.com. IN NS gone.example.com.\n")
		}, nil, Lame, "gone.example.com: the name server has no address", keystore.Unknown},
		{"DNSSEC is broken", ours, func(w *world) {
			w.resolver.alter(func(q, m *mdns.Msg, tcp bool) *mdns.Msg {
				if q.CheckingDisabled {
					return m
				}
				r := new(mdns.Msg).SetRcode(q, mdns.RcodeServerFailure)
				r.SetEdns0(udpSize, false)
				opt := r.IsEdns0()
				opt.Option = append(opt.Option, &mdns.EDNS0_EDE{InfoCode: mdns.ExtendedErrorCodeSignatureExpired, ExtraText: "\x1b[31mred"})
				return r
			}, nil)
		}, nil, Bogus, `answers SERVFAIL (Signature Expired: "\x1b[31mred"), but has an answer when asked not to check DNSSEC`, keystore.Different},
		{"the resolver remembers that there was nothing", ours, func(w *world) { w.resolver.remove(checkedName + ".") }, nil,
			Matches, "does not show it: the name does not exist", keystore.Shown},
		{"the resolver fails", ours, func(w *world) { w.resolver.alter(code(mdns.RcodeServerFailure), nil) }, nil, Matches, "answers SERVFAIL", keystore.Shown},
		{"the resolver is silent", ours, func(w *world) { w.resolver.alter(drop, nil) }, nil, Timeout, "the zone of " + checkedName + ": resolver 127.0.0.1:", keystore.Unknown},
		{"the resolver does not find the zone", ours, func(w *world) {
			w.resolver.alter(func(q, m *mdns.Msg, tcp bool) *mdns.Msg {
				return new(mdns.Msg).SetRcode(q, mdns.RcodeServerFailure)
			}, nil)
		}, nil, Failed, "answers SERVFAIL to the question for " + checkedName + " SOA", keystore.Unknown},
		{"the zone has no name servers", ours, func(w *world) {
			w.resolver.alter(func(q, m *mdns.Msg, tcp bool) *mdns.Msg {
				if q.Question[0].Qtype == mdns.TypeNS {
					m.Answer = nil
				}
				return m
			}, nil)
		}, nil, Failed, "no name servers of the zone example.com", keystore.Unknown},
		{"the resolver keeps SOA records of negative answers to itself", ours, func(w *world) {
			w.resolver.alter(func(q, m *mdns.Msg, tcp bool) *mdns.Msg { m.Ns = nil; return m }, nil)
		}, nil, Matches, "", keystore.Shown},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, three, test.records)
			if test.change != nil {
				test.change(w)
			}
			timeout := 5 * time.Second
			for _, slow := range []string{"drops", "silent", "without TCP"} {
				if strings.Contains(test.name, slow) {
					timeout = 700 * time.Millisecond
				}
			}
			c := w.checker(t, CheckerOptions{Timeout: timeout})
			record := test.want
			if record == nil {
				record = want
			}
			r, err := c.Check(t.Context(), checkedName, record)
			if err != nil {
				t.Fatal(err)
			}
			at := time.Unix(1, 0)
			sight := r.Sight(at)
			if r.Verdict != test.verdict || !strings.Contains(r.Detail, test.detail) || sight.State != test.state {
				t.Errorf("got  %s, %v, %q\nwant %s, %v, %q\n%+v", r.Verdict, sight.State, r.Detail, test.verdict, test.state, test.detail, r)
			}
			if sight.At != at || sight.Detail != r.Detail {
				t.Errorf("the sight is %+v", sight)
			}
			if strings.ContainsAny(r.Detail, "\x1b\n") {
				t.Errorf("the detail has control characters: %q", r.Detail)
			}
			if len(r.Servers) > 0 && sight.NegativeTTL != time.Minute {
				t.Errorf("negative TTL %v, want the 60 s of the SOA record's minimum", sight.NegativeTTL)
			}
		})
	}
}

// chain is n-1 CNAMEs from c1 to c<n>.
func chain(n int) string {
	var b strings.Builder
	for i := 1; i < n; i++ {
		fmt.Fprintf(&b, "c%d.example.com. IN CNAME c%d.example.com.\n", i, i+1)
	}
	return b.String()
}

// Whether the record may still be at some server tells a Sight that is Split from
// one on which all servers agree.
func TestASightIsSplitUnlessNoServerShowsTheRecord(t *testing.T) {
	for _, test := range []struct {
		name    string
		verdict Verdict
		servers []Verdict
		split   bool
	}{
		{"nowhere", Missing, []Verdict{Missing, Missing}, false},
		{"another's everywhere", OtherKey, []Verdict{OtherKey, OtherKey}, false},
		{"revoked everywhere", Revoked, []Verdict{Revoked, Revoked}, false},
		{"wrong in two ways", Differs, []Verdict{Missing, OtherKey}, false},
		{"at one of two", Differs, []Verdict{Matches, Missing}, true},
		{"wrong at one, and the other is silent", OtherKey, []Verdict{OtherKey, Timeout}, true},
		{"wrong where it can be asked for", OtherKey, []Verdict{OtherKey, Unreachable}, false},
		{"everywhere, but refused by a resolver", Bogus, []Verdict{Matches, Matches}, true},
		{"everywhere", Matches, []Verdict{Matches, Blanks}, false},
	} {
		r := &Report{Verdict: test.verdict}
		for _, v := range test.servers {
			r.Servers = append(r.Servers, ServerReport{Verdict: v})
		}
		if s := r.Sight(time.Unix(1, 0)); s.Split != test.split {
			t.Errorf("%s: %v, split is %v", test.name, s.State, s.Split)
		}
	}
}
