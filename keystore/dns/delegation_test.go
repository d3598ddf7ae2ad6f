package dns

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"waxseal/keystore/dns/dnstest"
)

// The name servers that the zone above has for a zone may be others than it has
// itself: resolvers ask both.
func TestDelegation(t *testing.T) {
	const head = "@ 60 SOA ns1 hostmaster 1 3600 60 86400 7\n"
	parent, child, resolver := dnstest.Address(t, 53), dnstest.Address(t, 53), dnstest.Address(t, 53)
	above := dnstest.Serve(t, dnstest.ServerOptions{Addr: parent})
	zone := dnstest.Serve(t, dnstest.ServerOptions{Addr: child})
	world := dnstest.Serve(t, dnstest.ServerOptions{Addr: resolver, Recursion: true})
	c, err := NewChecker(CheckerOptions{Resolvers: []string{resolver.String()}, Timeout: 500 * time.Millisecond, PerSecond: 10000})
	if err != nil {
		t.Fatal(err)
	}
	number := 0
	for _, test := range []struct {
		name           string
		own, delegated []string
		alter          func(domain string)
		want           []Severity
		text           string
	}{
		{"the same", []string{"ns1", "ns2"}, []string{"ns2", "NS1"}, nil, nil, ""},
		{"one more above", []string{"ns1"}, []string{"ns1", "ns9"}, nil, []Severity{Warning},
			"the zone above, example, has NS records for it that it has not itself: ns9.d2.example; resolvers ask these servers, too, which may have an old copy of it"},
		{"one more in the zone", []string{"ns1", "ns2"}, []string{"ns1"}, nil, []Severity{Note}, "it has NS records that the zone above, example, has not: ns2.d3.example"},
		{"wholly others", []string{"ns1"}, []string{"ns9"}, nil, []Severity{Warning, Note}, "ns9.d4.example"},
		{"the zone above is on the same server", []string{"ns1"}, []string{"ns9"}, func(domain string) {
			above.Zone(t, domain, head+"@ NS ns1\nns1 A "+child.Addr().String()+"\n")
		}, nil, ""},
		{"the zone above is silent", []string{"ns1"}, []string{"ns9"}, func(domain string) { above.Handle(domain, dnstest.Drop) }, nil, ""},
		{"the zone above refuses", []string{"ns1"}, []string{"ns9"}, func(domain string) { above.Handle(domain, dnstest.Fail(5)) }, nil, ""},
		{"the zone itself is silent", []string{"ns1"}, []string{"ns9"}, func(domain string) { zone.Handle(domain, dnstest.Drop) }, nil, ""},
	} {
		number++
		label := fmt.Sprintf("d%d", number)
		domain := label + ".example"
		t.Run(test.name, func(t *testing.T) {
			records := func(owner, below string, hosts []string) (text string) {
				for _, host := range hosts {
					text += fmt.Sprintf("%s 60 NS %s%s\n%s%s 60 A %s\n", owner, host, below, host, below, child.Addr())
				}
				return text
			}
			delegation := head + "@ NS ns1\nns1 A " + parent.Addr().String() + "\n" + records(label, "."+label, test.delegated)
			above.Zone(t, "example", delegation)
			world.Zone(t, "example", delegation)
			zone.Zone(t, domain, head+records("@", "", test.own))
			world.Zone(t, domain, head+records("@", "", test.own))
			if test.alter != nil {
				test.alter(domain)
			}
			found, err := c.Delegation(t.Context(), domain)
			var got []Severity
			for _, f := range found {
				got = append(got, f.Severity)
				if f.Name != domain || f.Remedy == "" {
					t.Errorf("%+v", f)
				}
			}
			if err != nil || !slices.Equal(got, test.want) {
				t.Fatalf("%+v, %v; want %v", found, err, test.want)
			}
			if len(found) > 0 && !strings.Contains(found[0].Text, test.text) {
				t.Errorf("%q, want %q in it", found[0].Text, test.text)
			}
		})
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Delegation(ctx, "d9.example"); !errors.Is(err, context.Canceled) {
		t.Errorf("an ended context: %v", err)
	}
	if _, err := c.Delegation(t.Context(), "no domain"); err == nil {
		t.Error("no error for what is no domain")
	}
	if found, err := c.Delegation(t.Context(), "d9.test"); err != nil || found != nil {
		t.Errorf("a zone that cannot be found: %v, %v", found, err)
	}
}
