package dnstest

import (
	"os"
	"strings"
	"testing"

	"github.com/miekg/dns"
)

func TestBIND(t *testing.T) {
	b := StartBIND(t, BINDOptions{
		Zones: []Zone{
			{Name: "dkim.example.net", UpdatePolicy: "grant waxseal zonesub TXT;"},
			{Name: "customer.example", Text: "s1._domainkey CNAME s1.customer.dkim.example.net."},
		},
		Keys:      map[string]string{"waxseal": "hmac-sha512"},
		Recursion: true,
		Resolver:  true,
	})
	name := "s1.customer.dkim.example.net"
	b.Freeze(t)
	b.Add(t, "dkim.example.net", name+`. 5 TXT "v=DKIM1; " "p="`)
	if got := TXT(t, b.Primary.Addr, name); len(got) != 1 || got[0] != "v=DKIM1; p=" {
		t.Errorf("primary: %q", got)
	}
	if got := TXT(t, b.Secondary.Addr, name); got != nil {
		t.Errorf("frozen secondary: %q", got)
	}
	b.CatchUp(t)
	b.Resolver.Flush(t)
	for _, server := range []string{b.Secondary.Addr, b.Primary.Addr, b.Resolver.Addr} {
		if got := TXT(t, server, name); len(got) != 1 {
			t.Errorf("after catching up: %q", got)
		}
	}
	for _, server := range []string{b.Primary.Addr, b.Resolver.Addr} {
		if got := TXT(t, server, "s1._domainkey.customer.example"); len(got) != 1 {
			t.Errorf("through the CNAME at %s: %q", server, got)
		}
		if r := Query(t, server, "elsewhere.example", dns.TypeTXT); r.Rcode != dns.RcodeNameError {
			t.Errorf("a name of nobody at %s: %v", server, r)
		}
	}
	b.Delete(t, "dkim.example.net", name, dns.TypeTXT)
	b.CatchUp(t)
	if got := TXT(t, b.Secondary.Addr, name); got != nil {
		t.Errorf("after deletion: %q", got)
	}
	if key, err := os.ReadFile(b.KeyFile("waxseal")); err != nil || !strings.Contains(string(key), "algorithm hmac-sha512;") {
		t.Errorf("key file %q, %v", key, err)
	}
}
