package opendkim

import (
	"net/netip"
	"strconv"
	"strings"

	"waxseal/cmd/waxseal/internal/source"
)

// host says whether a list of hosts holds a client: by its name or by its
// address. Each is asked by itself, so what is excluded by name may come in by
// address.
func (d *DataSet) host(c Client) bool {
	return d != nil && (d.name(c.Name) || d.address(c.Address))
}

// name asks for the host and then for each name above it, with a dot before it.
// At each of them ! comes first and means no.
func (d *DataSet) name(host string) bool {
	if host == "" {
		return false
	}
	for _, key := range append([]string{host}, above(host)...) {
		if key == host && strings.HasPrefix(host, ".") {
			continue
		}
		if _, no := d.find("!"+key, true); no {
			return false
		}
		if _, yes := d.find(key, true); yes {
			return true
		}
	}
	return false
}

// address asks for an address and then for each network that holds it, the
// smallest first, comparing text.
func (d *DataSet) address(a netip.Addr) bool {
	if !a.IsValid() {
		return false
	}
	forms := []string{a.String(), "[" + a.String() + "]"}
	for length := a.BitLen(); length >= 0; length-- {
		p, _ := a.Prefix(length)
		n := strconv.Itoa(length)
		forms = append(forms, p.Addr().String()+"/"+n, "["+p.Addr().String()+"]/"+n)
	}
	for _, form := range forms {
		if _, no := d.find("!"+form, true); no {
			return false
		}
		if _, yes := d.find(form, true); yes {
			return true
		}
	}
	return false
}

// HostKind is what a row of a list of hosts is.
type HostKind uint8

// The kinds of rows.
const (
	Network HostKind = iota // an address is one of full length
	Name                    // of a host, or with a dot before it, of all below
	Never                   // OpenDKIM never matches it
	Odd                     // it matches, in a way that was hardly meant
)

// Host is a row of a list of hosts.
type Host struct {
	Text    string
	Place   source.Place
	Kind    HostKind
	Not     bool // the row excludes
	Network netip.Prefix

	// Why says what is wrong, and Meant what was probably meant.
	Why, Meant string
}

// Hosts reads the rows of a list of hosts.
func (d *DataSet) Hosts() []Host {
	if d == nil {
		return nil
	}
	var all []Host
	for _, r := range d.Rows {
		h := d.readHost(strings.ToLower(r.Key))
		h.Text, h.Place = r.Key, r.Place
		if r.Ignored != "" {
			h.Kind, h.Why = Never, r.Ignored
		}
		all = append(all, h)
	}
	return all
}

func (d *DataSet) readHost(key string) Host {
	h := Host{}
	key, h.Not = strings.CutPrefix(key, "!")
	bare := strings.NewReplacer("[", "", "]", "").Replace(key)
	address, length, hasLength := strings.Cut(bare, "/")
	a, err := netip.ParseAddr(address)
	if err != nil {
		return d.readName(h, key)
	}
	a = a.WithZone("")
	n := a.BitLen()
	if hasLength {
		if n, err = strconv.Atoi(length); err != nil || n < 0 || n > a.BitLen() {
			h.Kind, h.Why, h.Meant = Never, "OpenDKIM knows a network by its prefix length only, so it never matched this row", "write the length, such as "+a.String()+"/24"
			return h
		}
	}
	h.Network = netip.PrefixFrom(a, n).Masked()
	canonical := []string{h.Network.String(), "[" + h.Network.Addr().String() + "]/" + strconv.Itoa(n)}
	if n == a.BitLen() {
		canonical = append(canonical, a.String(), "["+a.String()+"]")
	}
	for _, form := range canonical {
		if form == key && !(d.Kind == Refile && strings.Contains(key, "[")) {
			return h
		}
	}
	h.Kind, h.Why = Never, "OpenDKIM compares text, and spells this otherwise, so it never matched this row"
	h.Meant = "write " + h.Network.String()
	switch {
	case h.Network.Addr() != a:
		h.Why = "the address has bits set beyond the prefix, so OpenDKIM never matched this row"
		h.Meant = "write " + h.Network.String() + " if the network is meant, or " + a.String() + " if the address is"
	case d.Kind == Refile && strings.Contains(key, "["):
		h.Why = "in a refile brackets are a regular expression, so OpenDKIM never matched this row"
	}
	h.Network = netip.Prefix{}
	return h
}

func (d *DataSet) readName(h Host, key string) Host {
	h.Kind = Name
	switch {
	case d.Kind == Refile && strings.HasPrefix(key, "*.") && isName(key[2:]):
		h.Kind, h.Why = Never, "in a refile it also matches what is asked with ! before it, and so excludes what it was to let in"
	case d.Kind == Refile && strings.ContainsAny(key, "*"+operators):
		h.Kind, h.Why = Odd, "in a refile it is a pattern for the text of names and addresses, and for what begins with ! too"
		h.Meant = "write the networks"
	case strings.Contains(key, "*"):
		h.Kind, h.Why = Never, "only a refile has patterns, so OpenDKIM never matched this row"
	case strings.ContainsAny(key, "/:,; ") || strings.Trim(key, "0123456789.") == "":
		h.Kind, h.Why = Never, "it is neither an address nor a network nor a name, so OpenDKIM never matched this row"
		h.Meant = "write the network in full, such as 192.0.2.0/24"
		return h
	}
	if h.Meant == "" {
		h.Meant = "list the addresses of these hosts"
	}
	return h
}

// isName says whether something can be the name of a host, but no address.
func isName(s string) bool {
	return !strings.ContainsFunc(s, func(c rune) bool {
		return c != '.' && c != '-' && c != '_' && (c < '0' || c > '9') && (c < 'a' || c > 'z')
	}) && strings.Trim(s[strings.LastIndexByte(s, '.')+1:], "0123456789") != ""
}

// Networks returns what the rows about networks hold together, in the order of
// the rows, without what smaller ones exclude.
func Networks(hosts []Host) []netip.Prefix {
	var held []netip.Prefix
	for _, h := range hosts {
		if h.Kind == Network && !h.Not {
			held = append(held, without(h.Network, hosts)...)
		}
	}
	return held
}

// without returns the parts of a network that no row within it excludes.
func without(p netip.Prefix, hosts []Host) []netip.Prefix {
	holes := false
	for _, h := range hosts {
		if h.Kind != Network || !h.Not || !h.Network.Overlaps(p) {
			continue
		}
		if h.Network == p {
			return nil
		}
		holes = holes || h.Network.Bits() > p.Bits()
	}
	if !holes {
		return []netip.Prefix{p}
	}
	low := netip.PrefixFrom(p.Addr(), p.Bits()+1)
	bytes := p.Addr().AsSlice()
	bytes[p.Bits()/8] |= 0x80 >> (p.Bits() % 8)
	high, _ := netip.AddrFromSlice(bytes)
	return append(without(low, hosts), without(netip.PrefixFrom(high, p.Bits()+1), hosts)...)
}
