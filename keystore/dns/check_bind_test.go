package dns

import (
	"strings"
	"testing"
	"time"

	mdns "github.com/miekg/dns"

	"waxseal/keystore"
	"waxseal/keystore/dns/dnstest"
)

// A record's way into DNS, as BIND shows it: on no server, on the primary, on
// both, behind a customer's CNAME, withdrawn from the primary first.
func TestCheckAgainstBIND(t *testing.T) {
	want := wanted(t, keystore.RSA2048, RecordOptions{})
	large := wanted(t, keystore.RSA4096, RecordOptions{Note: strings.Repeat(`"\;`, 80)})
	b := dnstest.StartBIND(t, dnstest.BINDOptions{
		Recursion: true,
		Zones: []dnstest.Zone{
			{Name: "example.com", Text: "slot._domainkey 7 CNAME slot.dkim.example.net.\n", NegativeTTL: 9 * time.Second},
			{Name: "example.net", Text: "", NegativeTTL: 5 * time.Second},
		},
	})
	o := CheckerOptions{Resolvers: []string{b.Primary.Addr}, Port: b.Port, PerSecond: 1000}
	c, err := NewChecker(o)
	if err != nil {
		t.Fatal(err)
	}
	check := func(when, name string, want *Record, verdict Verdict, state keystore.SightState, ttl, negative time.Duration) *Report {
		t.Helper()
		r, err := c.Check(t.Context(), name, want)
		if err != nil {
			t.Fatal(err)
		}
		if s := r.Sight(time.Now()); r.Verdict != verdict || s.State != state || s.TTL != ttl || s.NegativeTTL != negative || len(r.Servers) < 2 {
			t.Errorf("%s:\ngot  %s, %s, TTL %v, negative %v, %q\nwant %s, %s, %v, %v", when, r.Verdict, s.State, s.TTL, s.NegativeTTL, r.Detail, verdict, state, ttl, negative)
		}
		return r
	}
	line := func(name string, ttl string, r *Record) string {
		return name + ". " + ttl + " TXT " + quoted(r.String())
	}

	check("before", checkedName, want, Missing, keystore.Missing, 0, 9*time.Second)
	b.Freeze(t)
	b.Add(t, "example.com", line(checkedName, "6", want))
	r := check("on the primary only", checkedName, want, Differs, keystore.Different, 6*time.Second, 9*time.Second)
	if !strings.Contains(r.Detail, "server 2 of 2, ns2.example.com") {
		t.Errorf("the detail does not name the server: %q", r.Detail)
	}
	b.CatchUp(t)
	check("on both", checkedName, want, Matches, keystore.Shown, 6*time.Second, 9*time.Second)
	b.Add(t, "example.com", checkedName+". 6 TXT \"v=spf1 -all\"")
	b.CatchUp(t)
	check("beside another", checkedName, want, Several, keystore.Different, 6*time.Second, 9*time.Second)

	check("a slot without a record", "slot._domainkey.example.com", want, Dangling, keystore.Missing, 7*time.Second, 9*time.Second)
	b.Add(t, "example.net", line("slot.dkim.example.net", "3", want))
	b.CatchUp(t)
	r = check("a slot with its record", "slot._domainkey.example.com", want, Matches, keystore.Shown, 7*time.Second, 9*time.Second)
	if r.Zone != "example.net" || len(r.Chain) != 1 || r.Chain[0] != "slot.dkim.example.net" {
		t.Errorf("the slot leads along %q into %q", r.Chain, r.Zone)
	}

	b.Add(t, "example.com", line("big._domainkey.example.com", "6", large))
	b.CatchUp(t)
	check("a large record", "big._domainkey.example.com", large, Matches, keystore.Shown, 6*time.Second, 9*time.Second)

	b.Freeze(t)
	b.Delete(t, "example.com", checkedName, mdns.TypeTXT)
	check("withdrawn from the primary only", checkedName, want, Differs, keystore.Different, 6*time.Second, 9*time.Second)
	b.CatchUp(t)
	check("withdrawn", checkedName, want, Missing, keystore.Missing, 0, 9*time.Second)
	b.Secondary.Pause(t)
	c.asker.timeout = time.Second
	check("withdrawn, as far as the primary says", checkedName, want, Missing, keystore.Unknown, 0, 9*time.Second)
	b.Secondary.Resume(t)
}
