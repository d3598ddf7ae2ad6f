package policy

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"math/bits"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// networks is a set of IP networks. Looking an address up costs one map access
// for each prefix length in use, however many networks there are.
type networks struct {
	rules              map[netip.Prefix]string // network → "network 192.0.2.0/24"
	lengths4, lengths6 []int                   // prefix lengths in use, longest first
}

// newNetworks parses a list of networks. The error has a line for each entry
// that is wrong.
func newNetworks(list []string, allowInternet bool) (networks, error) {
	n := networks{rules: make(map[netip.Prefix]string, len(list))}
	var bad []error
	for _, s := range list {
		p, err := parseNetwork(s)
		if err != nil {
			bad = append(bad, err)
			continue
		}
		n.add(p)
	}
	if !allowInternet {
		bad = append(bad, n.wholeInternet())
	}
	if err := errors.Join(bad...); err != nil {
		return networks{}, err
	}
	return n, nil
}

func (n *networks) add(p netip.Prefix) {
	n.rules[p] = "network " + p.String()
	lengths := &n.lengths6
	if p.Addr().Is4() {
		lengths = &n.lengths4
	}
	i, found := slices.BinarySearchFunc(*lengths, p.Bits(), func(have, want int) int { return cmp.Compare(want, have) })
	if !found {
		*lengths = slices.Insert(*lengths, i, p.Bits())
	}
}

func (n *networks) empty() bool { return len(n.rules) == 0 }

// find returns the rule of the smallest network that holds the address.
func (n *networks) find(a netip.Addr) (rule string, ok bool) {
	a = a.Unmap()
	return n.findShorter(a, a.BitLen())
}

// findShorter is find among networks with a prefix of at most maxBits.
func (n *networks) findShorter(a netip.Addr, maxBits int) (rule string, ok bool) {
	lengths := n.lengths6
	if a.Is4() {
		lengths = n.lengths4
	}
	for _, length := range lengths {
		if length > maxBits {
			continue
		}
		p, _ := a.Prefix(length) // without a zone; invalid, so never found, when there is no address
		if rule, ok = n.rules[p]; ok {
			return rule, true
		}
	}
	return "", false
}

// global6 is the part of the IPv6 address space that is the Internet
// (RFC 4291, section 2.4, and IANA's registry: all else is reserved or local).
var global6 = netip.MustParsePrefix("2000::/3")

// wholeInternet returns an error when the networks of either address family
// hold half of its Internet or more. One network as wide as that, or two
// halves, is a mistake or a list of everything with a hole in it.
func (n *networks) wholeInternet() error {
	var wide4, wide6 []netip.Prefix
	var share4, share6 float64
	for p := range n.rules {
		if _, inOther := n.findShorter(p.Addr(), p.Bits()-1); inOther {
			continue
		}
		switch {
		case p.Addr().Is4():
			wide4 = append(wide4, p)
			share4 += math.Ldexp(1, -p.Bits())
		case p.Overlaps(global6):
			wide6 = append(wide6, p)
			share6 += math.Ldexp(1, min(0, global6.Bits()-p.Bits()))
		}
	}
	return errors.Join(internetError("IPv4", wide4, share4), internetError("IPv6", wide6, share6))
}

func internetError(family string, wide []netip.Prefix, share float64) error {
	if share < 0.5 {
		return nil
	}
	slices.SortFunc(wide, func(a, b netip.Prefix) int {
		return cmp.Or(cmp.Compare(a.Bits(), b.Bits()), a.Addr().Compare(b.Addr()))
	})
	var names []string
	for _, p := range wide[:min(len(wide), 3)] {
		names = append(names, p.String())
	}
	if len(wide) > len(names) {
		names = append(names, "…")
	}
	return fmt.Errorf("networks %s hold %.0f %% of the %s Internet: anybody there would get a signature; "+
		"list the networks that are yours, or allow the whole Internet explicitly",
		strings.Join(names, ", "), 100*share, family)
}

// parseNetwork reads a network or a single address. IPv4-mapped IPv6 becomes
// IPv4. Bits beyond the prefix are an error, because it cannot be known whether
// the network or the address was meant.
func parseNetwork(s string) (netip.Prefix, error) {
	none := netip.Prefix{}
	text, length, hasLength := strings.Cut(s, "/")
	if inner, ok := strings.CutPrefix(text, "["); ok && strings.HasSuffix(inner, "]") && strings.Contains(inner, ":") {
		text = strings.TrimSuffix(inner, "]") // Postfix's spelling: [::1]/128
	}
	addr, err := netip.ParseAddr(text)
	if err != nil {
		return none, fmt.Errorf("network %s: want a network such as 192.0.2.0/24 or 2001:db8::/32, "+
			"or one address, per entry", quote(s))
	}
	if addr.Zone() != "" {
		return none, fmt.Errorf("network %s: a zone cannot be matched, because clients are known by address only; "+
			"write %s", quote(s), strings.Replace(s, "%"+addr.Zone(), "", 1))
	}

	n := addr.BitLen()
	if hasLength {
		n, err = strconv.Atoi(length)
		if err != nil || strconv.Itoa(n) != length || n < 0 || n > addr.BitLen() {
			if m, ok := maskLength(length); ok && addr.Is4() {
				return none, fmt.Errorf("network %s: a mask is not understood; write %s/%d", quote(s), addr, m)
			}
			return none, fmt.Errorf("network %s: want a prefix length from 0 to %d after the slash",
				quote(s), addr.BitLen())
		}
	}
	if addr.Is4In6() {
		const mapped = 96 // length of ::ffff:0:0/96, below which IPv4 is mapped
		if n < mapped {
			return none, fmt.Errorf("network %s: IPv4 in an IPv6 spelling begins at /%d; "+
				"write the IPv4 network, such as %s/24", quote(s), mapped, netip.PrefixFrom(addr.Unmap(), 24).Masked().Addr())
		}
		addr, n = addr.Unmap(), n-mapped
	}

	p := netip.PrefixFrom(addr, n)
	if meant := p.Masked(); meant != p {
		return none, fmt.Errorf("network %s: %s has bits set beyond /%d; write %s for the network, or %s for the one address",
			quote(s), addr, n, meant, addr)
	}
	return p, nil
}

// maskLength returns the prefix length of a mask such as 255.255.255.0.
func maskLength(s string) (int, bool) {
	a, err := netip.ParseAddr(s)
	if err != nil || !a.Is4() {
		return 0, false
	}
	b := a.As4()
	mask := uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
	ones := bits.LeadingZeros32(^mask)
	return ones, mask<<ones == 0
}
