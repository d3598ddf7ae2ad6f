package policy

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
)

func TestNetworkSpellings(t *testing.T) {
	for _, row := range []struct {
		what, in, want string
	}{
		{"an IPv4 network is itself", "192.0.2.0/24", "192.0.2.0/24"},
		{"a single IPv4 address is a network of one", "192.0.2.7", "192.0.2.7/32"},
		{"an IPv6 network is itself", "2001:db8::/32", "2001:db8::/32"},
		{"a single IPv6 address is a network of one", "::1", "::1/128"},
		{"IPv6 may be spelled in full", "2001:0DB8:0000:0000:0000:0000:0000:0000/32", "2001:db8::/32"},
		{"IPv6 may be spelled with an IPv4 tail", "2001:db8::192.0.2.0/120", "2001:db8::c000:200/120"},
		{"IPv6 may stand in brackets, as Postfix spells it", "[2001:db8::]/32", "2001:db8::/32"},
		{"a single IPv6 address may stand in brackets", "[::1]", "::1/128"},
		{"a mapped IPv4 network is an IPv4 network", "::ffff:192.0.2.0/120", "192.0.2.0/24"},
		{"a mapped IPv4 network may be spelled in hexadecimal", "::ffff:c000:200/120", "192.0.2.0/24"},
		{"a mapped IPv4 network may stand in brackets", "[::ffff:127.0.0.0]/104", "127.0.0.0/8"},
		{"a mapped IPv4 address is an IPv4 address", "::ffff:192.0.2.7", "192.0.2.7/32"},
	} {
		got, err := parseNetwork(row.in)
		if err != nil || got.String() != row.want {
			t.Errorf("%s: parseNetwork(%q) = %v, %v; want %s", row.what, row.in, got, err, row.want)
		}
	}
}

func TestNetworkErrorsCarryTheRemedy(t *testing.T) {
	const want = "want a network such as 192.0.2.0/24 or 2001:db8::/32, or one address, per entry"
	for _, row := range []struct {
		what, in, want string
	}{
		{"host bits", "127.0.0.1/8", `network "127.0.0.1/8": 127.0.0.1 has bits set beyond /8; write 127.0.0.0/8 for the network, or 127.0.0.1 for the one address`},
		{"host bits in IPv6", "2001:db8::1/64", "write 2001:db8::/64 for the network, or 2001:db8::1 for the one address"},
		{"host bits in mapped IPv4", "::ffff:192.0.2.7/120", "write 192.0.2.0/24 for the network, or 192.0.2.7 for the one address"},
		{"a mask", "192.0.2.0/255.255.255.0", "a mask is not understood; write 192.0.2.0/24"},
		{"a mask with a hole", "192.0.2.0/255.0.255.0", "want a prefix length from 0 to 32 after the slash"},
		{"a prefix too long for IPv4", "192.0.2.0/33", "want a prefix length from 0 to 32 after the slash"},
		{"a prefix too long for IPv6", "::1/129", "want a prefix length from 0 to 128 after the slash"},
		{"a negative prefix", "192.0.2.0/-1", "want a prefix length from 0 to 32 after the slash"},
		{"a prefix with a plus", "192.0.2.0/+24", "want a prefix length from 0 to 32 after the slash"},
		{"a prefix with a leading zero", "192.0.2.0/024", "want a prefix length from 0 to 32 after the slash"},
		{"a slash with nothing behind it", "192.0.2.0/", "want a prefix length from 0 to 32 after the slash"},
		{"two slashes", "192.0.2.0/24/24", "want a prefix length from 0 to 32 after the slash"},
		{"a mapped network with an IPv4 prefix", "::ffff:192.0.2.0/24", "IPv4 in an IPv6 spelling begins at /96; write the IPv4 network, such as 192.0.2.0/24"},
		{"a zone", "fe80::1%eth0", "a zone cannot be matched, because clients are known by address only; write fe80::1"},
		{"a zone in a network", "fe80::%eth0/64", "write fe80::/64"},
		{"a name", "localhost", want},
		{"nothing", "", want},
		{"a blank", " 192.0.2.0/24", want},
		{"two networks in one entry", "192.0.2.0/24, 198.51.100.0/24", "want a prefix length from 0 to 32 after the slash"},
		{"two addresses in one entry", "192.0.2.1 192.0.2.2", want},
		{"an exclusion", "!192.0.2.0/24", want},
		{"a short form", "10/8", want},
		{"leading zeros", "192.0.002.0/24", want},
		{"brackets around IPv4", "[192.0.2.1]", want},
		{"a bracket that does not close", "[::1/128", want},
	} {
		got, err := parseNetwork(row.in)
		if err == nil || !strings.HasPrefix(err.Error(), "network "+quote(row.in)+": ") || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%s: parseNetwork(%q) = %v, error %v; want %q", row.what, row.in, got, err, row.want)
		}
	}
}

func TestWholeInternetIsRefusedUnlessAllowed(t *testing.T) {
	for _, row := range []struct {
		what string
		list []string
		want string // of the error; empty when accepted
	}{
		{"all of IPv4", []string{"0.0.0.0/0"}, "networks 0.0.0.0/0 hold 100 % of the IPv4 Internet"},
		{"all of IPv6", []string{"::/0"}, "networks ::/0 hold 100 % of the IPv6 Internet"},
		{"all of mapped IPv4", []string{"::ffff:0:0/96"}, "networks 0.0.0.0/0 hold 100 % of the IPv4 Internet"},
		{"two halves of IPv4", []string{"0.0.0.0/1", "128.0.0.0/1"}, "networks 0.0.0.0/1, 128.0.0.0/1 hold 100 % of the IPv4 Internet"},
		{"two halves of IPv6", []string{"::/1", "8000::/1"}, "networks ::/1 hold 100 % of the IPv6 Internet"},
		{"all of global IPv6", []string{"2000::/3"}, "networks 2000::/3 hold 100 % of the IPv6 Internet"},
		{"one half of IPv4", []string{"128.0.0.0/1"}, "networks 128.0.0.0/1 hold 50 % of the IPv4 Internet"},
		{"pieces", []string{"0.0.0.0/2", "64.0.0.0/3", "96.0.0.0/3", "128.0.0.0/2", "192.0.0.0/3"}, "networks 0.0.0.0/2, 128.0.0.0/2, 64.0.0.0/3, … hold 88 % of the IPv4 Internet"},
		{"both families", []string{"0.0.0.0/0", "::/0"}, "networks ::/0 hold 100 % of the IPv6 Internet"},
		{"a quarter of IPv4", []string{"0.0.0.0/2"}, ""},
		{"a quarter and networks inside it", []string{"0.0.0.0/2", "0.0.0.0/3", "32.0.0.0/3", "10.0.0.0/8"}, ""},
		{"the private networks", []string{"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7", "fe80::/10"}, ""},
		{"the reserved half of IPv6", []string{"8000::/1"}, ""},
		{"no network", []string{}, ""},
	} {
		_, err := New(Options{Origin: OriginOptions{Networks: row.list}})
		switch {
		case row.want == "" && err != nil:
			t.Errorf("%s: %q: %v; want none", row.what, row.list, err)
		case row.want != "" && (err == nil || !strings.Contains(err.Error(), row.want)):
			t.Errorf("%s: %q: error %v; want %q", row.what, row.list, err, row.want)
		}
		if _, err := New(Options{Origin: OriginOptions{Networks: row.list, AllowInternet: true}}); err != nil {
			t.Errorf("%s: %q is allowed: %v", row.what, row.list, err)
		}
	}
}

func TestNetworksMatch(t *testing.T) {
	list := []string{"192.0.2.0/24", "192.0.2.128/25", "198.51.100.7", "10.0.0.0/8", "2001:db8::/32", "2001:db8:1::/48", "fe80::/64", "::ffff:203.0.113.0/120"}
	n, err := newNetworks(list, false)
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		what, addr, want string
	}{
		{"first address of a network", "192.0.2.0", "network 192.0.2.0/24"},
		{"last address of a network outside the smaller one", "192.0.2.127", "network 192.0.2.0/24"},
		{"the smaller of two networks is named", "192.0.2.128", "network 192.0.2.128/25"},
		{"address below a network", "192.0.1.255", ""},
		{"address above a network", "192.0.3.0", ""},
		{"the one address", "198.51.100.7", "network 198.51.100.7/32"},
		{"the address beside it", "198.51.100.8", ""},
		{"mapped client in an IPv4 network", "::ffff:192.0.2.1", "network 192.0.2.0/24"},
		{"mapped client with a zone", "::ffff:192.0.2.1%eth0", "network 192.0.2.0/24"},
		{"client in a network configured as mapped", "203.0.113.9", "network 203.0.113.0/24"},
		{"mapped client in a network configured as mapped", "::ffff:203.0.113.9", "network 203.0.113.0/24"},
		{"IPv6 client", "2001:db8:2::1", "network 2001:db8::/32"},
		{"IPv6 client in the smaller of two networks", "2001:db8:1::1", "network 2001:db8:1::/48"},
		{"IPv6 client in full spelling", "2001:0DB8:0001:0000:0000:0000:0000:0001", "network 2001:db8:1::/48"},
		{"IPv6 client with a zone", "fe80::1%eth0", "network fe80::/64"},
		{"IPv6 client elsewhere", "2001:db9::1", ""},
		{"IPv4-compatible IPv6 is not IPv4", "::192.0.2.1", ""},
	} {
		got, ok := n.find(netip.MustParseAddr(row.addr))
		if got != row.want || ok != (row.want != "") {
			t.Errorf("%s: %s is in %q, %v; want %q", row.what, row.addr, got, ok, row.want)
		}
	}
	if got, ok := n.find(netip.Addr{}); ok {
		t.Errorf("no address is in %q", got)
	}
}

// An IPv6 network, however wide, holds no IPv4 client, in either spelling.
func TestIPv6NetworksHoldNoIPv4(t *testing.T) {
	n, err := newNetworks([]string{"::/0"}, true)
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range []string{"192.0.2.1", "::ffff:192.0.2.1"} {
		if got, ok := n.find(netip.MustParseAddr(a)); ok {
			t.Errorf("%s is in %s", a, got)
		}
	}
}

// FuzzNetwork: an accepted network holds exactly the addresses that share its
// prefix, and its printed form is read back as itself.
func FuzzNetwork(f *testing.F) {
	for _, s := range []string{
		"192.0.2.0/24", "127.0.0.1/8", "::1", "[::1]/128", "::ffff:192.0.2.0/120", "2001:db8::/32", "0.0.0.0/0", "::/0",
		"fe80::1%eth0", "10/8", "192.0.2.0/255.255.255.0", "::ffff:0:0/96", "[::ffff:127.0.0.0]/104", "/", "%", "[]/",
	} {
		f.Add(s, []byte{192, 0, 2, 7})
		f.Add(s, []byte("\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01"))
	}
	f.Fuzz(func(t *testing.T, s string, addr []byte) {
		p, err := parseNetwork(s)
		if err != nil {
			if !strings.HasPrefix(err.Error(), "network "+quote(s)+": ") {
				t.Errorf("parseNetwork(%q): %v", s, err)
			}
			return
		}
		if !p.IsValid() || p.Masked() != p || p.Addr().Is4In6() {
			t.Errorf("parseNetwork(%q) = %v", s, p)
		}
		if again, err := parseNetwork(p.String()); err != nil || again != p {
			t.Errorf("parseNetwork(%q) = %v, printed and parsed %v, %v", s, p, again, err)
		}
		n, err := newNetworks([]string{s}, true)
		if err != nil {
			t.Fatalf("parseNetwork(%q) = %v, but newNetworks: %v", s, p, err)
		}
		for _, a := range []netip.Addr{p.Addr(), addrFrom(addr)} {
			if _, got := n.find(a); got != p.Contains(a.Unmap()) {
				t.Errorf("network %q holds %v: %v, want %v", s, a, got, !got)
			}
		}
	})
}

func addrFrom(b []byte) netip.Addr {
	a, _ := netip.AddrFromSlice(b)
	return a
}

// thousands returns n different networks of both families and many lengths.
func thousands(n int) []string {
	list := make([]string, n)
	for i := range list {
		switch i % 4 {
		case 0:
			list[i] = fmt.Sprintf("10.%d.%d.0/24", i>>8&255, i&255)
		case 1:
			list[i] = fmt.Sprintf("172.%d.%d.%d", 16+i>>16, i>>8&255, i&255)
		case 2:
			list[i] = fmt.Sprintf("2001:db8:%x::/48", i)
		default:
			list[i] = fmt.Sprintf("2001:db9:%x:1::/64", i)
		}
	}
	return list
}
