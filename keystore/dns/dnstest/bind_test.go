package dnstest

import (
	"os"
	"strings"
	"testing"
	"time"

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

func TestPausedServerIsSilent(t *testing.T) {
	b := StartBIND(t, BINDOptions{Zones: []Zone{{Name: "example.com", Text: "x TXT here"}}})
	c := &dns.Client{Timeout: 100 * time.Millisecond}
	m := new(dns.Msg).SetQuestion("x.example.com.", dns.TypeTXT)
	b.Secondary.Pause(t)
	if r, _, err := c.Exchange(m, b.Secondary.Addr); err == nil {
		t.Errorf("answer of a paused server: %v", r)
	}
	b.Secondary.Resume(t)
	if got := TXT(t, b.Secondary.Addr, "x.example.com"); len(got) != 1 {
		t.Errorf("after the pause: %q", got)
	}
}

// The update policy of a zone binds the keys of its caller.
func TestUpdatePolicy(t *testing.T) {
	b := StartBIND(t, BINDOptions{
		Zones: []Zone{{Name: "example.com", UpdatePolicy: "grant waxseal zonesub TXT;"}},
		Keys:  map[string]string{"waxseal": "hmac-sha256", "stranger": "hmac-sha512"},
	})
	for _, c := range []struct {
		key, algorithm, record string
		rcode                  int
	}{
		{"waxseal", dns.HmacSHA256, "x.example.com. 5 TXT yes", dns.RcodeSuccess},
		{"waxseal", dns.HmacSHA256, "x.example.com. 5 A 127.0.0.1", dns.RcodeRefused},
		{"stranger", dns.HmacSHA512, "y.example.com. 5 TXT no", dns.RcodeRefused},
	} {
		rr, err := dns.NewRR(c.record)
		if err != nil {
			t.Fatal(err)
		}
		file, err := os.ReadFile(b.KeyFile(c.key))
		if err != nil {
			t.Fatal(err)
		}
		_, secret, _ := strings.Cut(string(file), `secret "`)
		secret, _, _ = strings.Cut(secret, `"`)
		m := new(dns.Msg).SetUpdate("example.com.")
		m.Insert([]dns.RR{rr})
		m.SetTsig(c.key+".", c.algorithm, 300, time.Now().Unix())
		client := &dns.Client{TsigSecret: map[string]string{c.key + ".": secret}}
		r, _, err := client.Exchange(m, b.Primary.Addr)
		if err != nil || r.Rcode != c.rcode {
			t.Errorf("%s adds %s: %v, %v", c.key, c.record, r, err)
		}
	}
	b.CatchUp(t)
	if got := TXT(t, b.Secondary.Addr, "x.example.com"); len(got) != 1 {
		t.Errorf("secondary: %q", got)
	}
}
