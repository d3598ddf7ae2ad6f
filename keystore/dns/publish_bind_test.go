package dns

import (
	"strings"
	"testing"
	"time"

	mdns "github.com/miekg/dns"

	"waxseal/keystore"
	"waxseal/keystore/dns/dnstest"
)

// The promises of Update once more, with the server that most zones are on.
func TestPublishAtBIND(t *testing.T) {
	b := dnstest.StartBIND(t, dnstest.BINDOptions{
		Zones: []dnstest.Zone{
			{Name: "example.com", UpdatePolicy: "grant waxseal subdomain _domainkey.example.com. TXT;"},
			{Name: "dkim.example.net", UpdatePolicy: "grant waxseal512 zonesub TXT;", Text: "*.wild TXT \"v=spf1 -all\"\nspf TXT \"v=spf1 -all\""},
			{Name: "customer.example", UpdatePolicy: "grant waxseal zonesub TXT;", Text: "s1._domainkey CNAME s1.customer.dkim.example.net."},
		},
		Keys:      map[string]string{"waxseal": "hmac-sha256", "waxseal512": "hmac-sha512"},
		Recursion: true,
	})
	update := func(t *testing.T, key string, o UpdateOptions) *Update {
		t.Helper()
		var err error
		if o.Key, err = ReadTSIGKey(b.KeyFile(key)); err != nil {
			t.Fatal(err)
		}
		u, err := NewUpdate(o)
		if err != nil {
			t.Fatal(err)
		}
		return u
	}
	at := func(t *testing.T, name string) string {
		t.Helper()
		r := dnstest.Query(t, b.Primary.Addr, name, mdns.TypeTXT)
		var all []string
		for _, rr := range r.Answer {
			if txt, ok := rr.(*mdns.TXT); ok {
				all = append(all, octets(strings.Join(txt.Txt, "")))
			}
		}
		return strings.Join(all, "\n")
	}
	serial := func(t *testing.T, zone string) uint32 {
		t.Helper()
		return dnstest.Query(t, b.Primary.Addr, zone, mdns.TypeSOA).Answer[0].(*mdns.SOA).Serial
	}
	large := value(t, keystore.RSA4096, `quotes " and \ backslashes`)

	t.Run("own zone, found through the resolver", func(t *testing.T) {
		u := update(t, "waxseal", UpdateOptions{Resolvers: []string{b.Primary.Addr}, Port: b.Port})
		before := serial(t, "example.com")
		for _, record := range []string{large, large, "v=DKIM1; k=rsa; p=", "", ""} {
			there, err := u.Shows(t.Context(), own(record))
			if want := at(t, ownName) == record; err != nil || there != want {
				t.Errorf("before: shown %v, %v, want %v", there, err, want)
			}
			if err := u.Publish(t.Context(), own(record)); err != nil {
				t.Fatal(err)
			}
			if there, err := u.Shows(t.Context(), own(record)); err != nil || !there {
				t.Errorf("after: shown %v, %v", there, err)
			}
			if got := at(t, ownName); got != record {
				t.Errorf("got %q, want %q", got, record)
			}
		}
		if made := serial(t, "example.com") - before; made != 3 {
			t.Errorf("%d updates, want 3", made)
		}
	})
	t.Run("target of a slot, hmac-sha512, server given", func(t *testing.T) {
		u := update(t, "waxseal512", UpdateOptions{Server: b.Primary.Addr})
		c := slot("s1.customer.dkim.example.net", large)
		if err := u.Publish(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		if got := at(t, "s1._domainkey.customer.example"); got != large {
			t.Errorf("through the CNAME: %q", got)
		}
	})
	t.Run("under a wildcard", func(t *testing.T) {
		u := update(t, "waxseal512", UpdateOptions{Server: b.Primary.Addr})
		for _, record := range []string{"", "v=DKIM1; p=", ""} {
			want := record
			if want == "" {
				want = "v=spf1 -all"
			}
			if err := u.Publish(t.Context(), slot("s1.wild.dkim.example.net", record)); err != nil {
				t.Fatal(err)
			}
			if got := at(t, "s1.wild.dkim.example.net"); got != want {
				t.Errorf("got %q, want %q", got, want)
			}
		}
	})
	t.Run("changed by somebody at the same time", func(t *testing.T) {
		u := update(t, "waxseal", UpdateOptions{Server: b.Primary.Addr})
		u.meanwhile = func() {
			u.meanwhile = nil
			b.Add(t, "example.com", txtLine("s1._domainkey.example.com", "hello"))
		}
		err := u.Publish(t.Context(), own("v=DKIM1; p="))
		if err == nil || !strings.Contains(err.Error(), `"hello", which is not ours to replace`) {
			t.Errorf("error %v", err)
		}
		if got := at(t, ownName); got != "hello" {
			t.Errorf("got %q", got)
		}
	})
	for _, test := range []struct {
		name   string
		key    string
		server string
		change Change
		alter  func(*Update)
		want   []string
	}{
		{"CNAME", "waxseal", b.Primary.Addr, Change{Name: "s1._domainkey.customer.example", Domain: "customer.example", Selector: "s1", Record: "v=DKIM1; p="}, nil,
			[]string{"is a CNAME to s1.customer.dkim.example.net", "delegated slot"}},
		{"other TXT", "waxseal512", b.Primary.Addr, slot("spf.dkim.example.net", "v=DKIM1; p="), nil, []string{"not ours to replace"}},
		{"no grant", "waxseal", b.Primary.Addr, slot("x.dkim.example.net", "v=DKIM1; p="), nil,
			[]string{"REFUSED", "dkim.example.net: update-policy { grant waxseal name x.dkim.example.net TXT; };"}},
		{"secondary", "waxseal512", b.Secondary.Addr, slot("x.dkim.example.net", "v=DKIM1; p="), nil, []string{"the key waxseal512"}},
		{"unknown key", "waxseal512", b.Primary.Addr, slot("x.dkim.example.net", ""), func(u *Update) { u.key.Name = "other" }, []string{"BADKEY"}},
		{"other secret", "waxseal512", b.Primary.Addr, slot("x.dkim.example.net", ""), func(u *Update) { u.key.secret = testSecret }, []string{"BADSIG"}},
		{"clock ahead", "waxseal512", b.Primary.Addr, slot("x.dkim.example.net", ""), func(u *Update) {
			u.now = func() time.Time { return time.Now().Add(time.Hour) }
		}, []string{"the server's clock is ", "behind ours", "BADTIME"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			u := update(t, test.key, UpdateOptions{Server: test.server})
			if test.alter != nil {
				test.alter(u)
			}
			err := u.Publish(t.Context(), test.change)
			if err == nil {
				t.Fatal("no error")
			}
			if there, err := u.Shows(t.Context(), test.change); there {
				t.Errorf("it is shown, error %v", err)
			}
			for _, want := range test.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%v\nwant in it %q", err, want)
				}
			}
		})
	}
}
