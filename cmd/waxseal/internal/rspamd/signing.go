package rspamd

import (
	"net/netip"
	"strings"

	"golang.org/x/net/publicsuffix"

	"waxseal/cmd/waxseal/internal/source"
)

// Signing is how rspamd signs.
type Signing struct {
	Authenticated, Local, Inbound bool // sign_…
	LocalNetworks, Networks       []netip.Prefix

	ESLD             bool // use_esld
	Fallback         bool // try_fallback
	UsernameMismatch bool // allow_username_mismatch

	Selector, Path string
	Domains        []Domain
	Selectors      []Row // selector_map
	Paths          []Row // path_map

	Table, Keys []Row // signing_table and key_table; with both, nothing above chooses keys
}

// Domain is what the section domain has for one.
type Domain struct {
	Name  string
	Keys  []Key
	Place source.Place
}

// Key is a file with a private key, and what it signs as. An empty selector or
// path is taken from elsewhere.
type Key struct {
	Domain, Selector, Path string
	Place                  source.Place
}

// ByTable says that signing_table and key_table choose the keys.
func (s *Signing) ByTable() bool { return s.Table != nil && s.Keys != nil }

// Shortened is the domain that rspamd signs mail of a domain as: with use_esld,
// the one below the public suffix.
func (s *Signing) Shortened(domain string) string {
	domain = strings.ToLower(domain)
	if s.ESLD {
		if short, err := publicsuffix.EffectiveTLDPlusOne(domain); err == nil {
			return short
		}
	}
	return domain
}

// For returns the keys for a signing domain, with their paths filled in.
func (s *Signing) For(domain string) []Key {
	var keys []Key
	for _, d := range s.Domains {
		if d.Name == domain {
			keys = append(keys, d.Keys...)
		}
	}
	fill := func(place source.Place, empty func(*Key) *string, value string) {
		if len(keys) == 0 {
			keys = []Key{{Place: place}}
		}
		for i := range keys {
			if at := empty(&keys[i]); *at == "" {
				*at = value
			}
		}
	}
	selector, path := func(k *Key) *string { return &k.Selector }, func(k *Key) *string { return &k.Path }
	if r, ok := find(s.Selectors, domain); ok {
		fill(r.Place, selector, r.Value)
	}
	if r, ok := find(s.Paths, domain); ok {
		fill(r.Place, path, r.Value)
	}
	if len(keys) == 0 && !s.Fallback {
		return nil
	}
	fill(source.Place{File: "path"}, path, s.Path)
	fill(source.Place{File: "path"}, selector, s.Selector)
	for i := range keys {
		k := &keys[i]
		k.Domain = domain
		k.Path = strings.NewReplacer("${domain}", domain, "$domain", domain, "${selector}", k.Selector, "$selector", k.Selector).Replace(k.Path)
	}
	return keys
}

// find returns the row of a key, of which maps compare letters without case.
func find(rows []Row, key string) (Row, bool) {
	for i := len(rows) - 1; i >= 0; i-- {
		if strings.EqualFold(rows[i].Key, key) {
			return rows[i], true
		}
	}
	return Row{}, false
}

// Named returns the domains that settings name.
func (s *Signing) Named() []string {
	var names []string
	seen := map[string]bool{}
	add := func(name string) {
		if name = strings.ToLower(name); !seen[name] {
			seen[name] = true
			names = append(names, name)
		}
	}
	for _, d := range s.Domains {
		add(d.Name)
	}
	for _, rows := range [][]Row{s.Selectors, s.Paths} {
		for _, r := range rows {
			add(r.Key)
		}
	}
	return names
}

// TableKey returns what key_table has for a row of signing_table and a domain of
// a sender; why says why there is none.
func (s *Signing) TableKey(r Row, domain string) (k Key, why string) {
	name := r.Value
	if name == "%" {
		name = domain
	}
	row, ok := find(s.Keys, name)
	if !ok {
		return k, "key_table has no row " + name
	}
	k.Place = row.Place
	parts := strings.Split(row.Value, ":")
	switch len(parts) {
	case 2:
		k.Selector = s.Selector
	case 3:
		k.Selector = parts[1]
	default:
		return k, "the row has no domain:selector:key"
	}
	k.Domain, k.Path = strings.ReplaceAll(parts[0], "%", domain), strings.ReplaceAll(parts[len(parts)-1], "%", domain)
	if !strings.HasPrefix(k.Path, "/") && !strings.HasPrefix(k.Path, "./") && !strings.HasPrefix(k.Path, "..") {
		return k, "the key is in the table itself"
	}
	return k, ""
}

// Client is who sends a message. One without an address is this machine.
type Client struct {
	Address netip.Addr
	Login   string
}

// Decide returns the keys that rspamd signs a message of this author with, and
// why. Sender and author are taken to be of one domain.
func (s *Signing) Decide(c Client, from string) (keys []Key, why string) {
	if !c.Address.IsValid() {
		c.Address = netip.MustParseAddr("127.0.0.1")
	}
	local := c.Address.IsLoopback() || c.Address.IsLinkLocalUnicast() && c.Address.Is6() || holds(s.LocalNetworks, c.Address)
	switch {
	case s.Authenticated && c.Login != "":
		why = "a login"
	case holds(s.Networks, c.Address):
		why = "sign_networks"
	case s.Local && local:
		why = "a local address"
	case s.Inbound && !local && c.Login == "":
		why = "inbound"
	default:
		return nil, "no rule makes it ours"
	}
	_, domain, _ := strings.Cut(strings.ToLower(from), "@")
	if s.ByTable() {
		for _, r := range s.Table {
			if local, of, _ := strings.Cut(strings.ToLower(r.Key), "@"); of == domain && (local == "*" || local+"@"+of == strings.ToLower(from)) {
				k, bad := s.TableKey(r, domain)
				if bad != "" {
					return nil, bad
				}
				return []Key{k}, why + ", row " + r.Key
			}
		}
		return nil, "signing_table has no row for it"
	}
	signing := s.Shortened(domain)
	if c.Login != "" && !s.UsernameMismatch {
		_, own, ok := strings.Cut(strings.ToLower(c.Login), "@")
		if !ok || s.Shortened(own) != signing {
			return nil, "the login is of another domain"
		}
	}
	return s.For(signing), why
}

func holds(list []netip.Prefix, a netip.Addr) bool {
	for _, p := range list {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// Networks reads a list of networks. One with host bits is that without them.
func (c *Config) Networks(v *Value) []netip.Prefix {
	var list []netip.Prefix
	for _, r := range c.Map(v, true) {
		p, err := netip.ParsePrefix(r.Key)
		if err != nil {
			var a netip.Addr
			if a, err = netip.ParseAddr(strings.Trim(r.Key, "[]")); err == nil {
				p = netip.PrefixFrom(a, a.BitLen())
			}
		}
		if err != nil {
			c.fail(r.Place, "no network: "+r.Key, "write it like 192.0.2.0/24")
			continue
		}
		list = append(list, p.Masked())
	}
	return list
}
