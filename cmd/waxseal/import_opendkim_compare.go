package main

// What OpenDKIM does with messages of senders and clients drawn from its tables.

import (
	"net/netip"
	"slices"
	"strings"

	"waxseal/cmd/waxseal/internal/opendkim"
	"waxseal/milter/policy"
)

// opendkimCase is a message to be judged by both.
type opendkimCase struct {
	from   string
	client opendkim.Client
	name   string // of the client, for a reader
}

var abroad = opendkim.Client{Name: "client.example.invalid", Address: abroadAddress}

// compare takes every case through both.
func (im *opendkimImport) compare(config *decoded) (*comparison, error) {
	var all []compareCase
	for _, c := range im.cases() {
		each := compareCase{from: c.from, client: c.name, login: c.client.Login, connection: policy.Connection{
			Client: c.client.Address, Local: !c.client.Address.IsValid(), DaemonName: c.client.Daemon, Macros: map[string]string{},
		}}
		for name, value := range c.client.Macros {
			if len(name) > 1 {
				name = "{" + name + "}"
			}
			each.connection.Macros[name] = value
		}
		r := im.model.Decide(c.client, c.from)
		each.theirs = judgement{putOff: r.Verdict == opendkim.PutOff, why: r.Why}
		if r.Verdict == opendkim.Signed {
			for _, s := range r.Signatures {
				each.theirs.signatures = append(each.theirs.signatures, imprint{s.Domain, s.Selector, s.Identity})
			}
		}
		all = append(all, each)
	}
	return im.takeover.compare(config, all)
}

// cases draws senders and clients from the tables: each sender with a client
// that has logged in, and each client with a sender that is signed.
func (im *opendkimImport) cases() []opendkimCase {
	login := abroad
	login.Login = "someone"
	var all []opendkimCase
	signed := elsewhere
	for _, from := range im.senderCases() {
		all = append(all, opendkimCase{from, login, "a login"})
		if signed == elsewhere && im.model.Tables.Signs(from) {
			signed = from
		}
	}
	for _, c := range im.clientCases() {
		c.from = signed
		all = append(all, c)
	}
	return all
}

// senderCases are addresses that rows are about, and others close by.
func (im *opendkimImport) senderCases() []string {
	var all []string
	seen := map[string]bool{}
	add := func(addresses ...string) {
		for _, s := range addresses {
			if !seen[s] {
				seen[s] = true
				all = append(all, s)
			}
		}
	}
	for i := range im.model.Tables.Rules {
		r := &im.model.Tables.Rules[i]
		switch r.Scope.Kind {
		case opendkim.Address:
			add(r.Scope.Local+"@"+r.Scope.Domain, strings.ToUpper(r.Scope.Local+"@"+r.Scope.Domain))
			add(around(r.Scope.Domain)...)
		case opendkim.Domain, opendkim.Below:
			add(around(r.Scope.Domain)...)
		case opendkim.Nobody, opendkim.Other:
			for pattern := range strings.SplitSeq(strings.NewReplacer("(", "|", ")", "|", "*", "x").Replace(r.Pattern), "|") {
				local, domain, isAddress := strings.Cut(strings.TrimPrefix(pattern, "."), "@")
				if !isAddress {
					local, domain = "someone", local
				}
				if domain == "x" {
					domain = "elsewhere.invalid"
				}
				if d, err := policy.Domain(strings.TrimPrefix(strings.TrimPrefix(domain, "x."), ".")); err == nil && local != "" {
					add(local + "@" + d)
					add(around(d)...)
				}
			}
		}
	}
	for _, k := range im.keys {
		add(around(k.Domain)...)
	}
	for i := range im.model.Tables.Keys {
		add(around(strings.ToLower(im.model.Tables.Keys[i].Domain))...)
	}
	add(elsewhere)
	return all
}

// clientCases are clients that rows are about, and others close by.
func (im *opendkimImport) clientCases() []opendkimCase {
	client := func(name string, a netip.Addr) opendkim.Client { return opendkim.Client{Name: name, Address: a} }
	all := []opendkimCase{
		{client: opendkim.Client{Name: "localhost"}, name: "this machine, without SMTP"},
		{client: client("localhost", netip.MustParseAddr("127.0.0.1")), name: "127.0.0.1"},
		{client: client("localhost", netip.MustParseAddr("::1")), name: "::1"},
		{client: client("", netip.MustParseAddr("127.0.0.2")), name: "127.0.0.2"},
		{client: abroad, name: "a stranger"},
	}
	add := func(c opendkim.Client, name string) {
		if !slices.ContainsFunc(all, func(other opendkimCase) bool { return other.name == name }) {
			all = append(all, opendkimCase{client: c, name: name})
		}
	}
	for _, list := range []*opendkim.DataSet{im.model.Internal, im.model.Peers} {
		for _, h := range list.Hosts() {
			text := strings.TrimLeft(h.Text, "!")
			switch {
			case h.Kind == opendkim.Network:
				last := lastAddress(h.Network)
				add(client("", h.Network.Addr()), h.Network.Addr().String())
				add(client("", last), last.String())
				if next := last.Next(); next.IsValid() {
					add(client("", next), next.String())
				}
			case strings.ContainsAny(text, "/:[]") || strings.Trim(text, "0123456789.*") == "":
				bare, _, _ := strings.Cut(strings.Trim(text, "[]"), "/")
				if a, err := netip.ParseAddr(strings.ReplaceAll(bare, "*", "1")); err == nil {
					add(client("", a), a.String())
				}
			case !strings.EqualFold(text, "localhost"):
				host := strings.ToLower(strings.ReplaceAll(text, "*", "host"))
				if strings.HasPrefix(host, ".") {
					host = "host" + host
				}
				add(client(host, abroadAddress), "host "+host)
			}
		}
	}
	if im.model.Daemons != nil {
		for _, r := range im.model.Daemons.Rows {
			c := abroad
			c.Daemon = r.Key
			add(c, "daemon "+r.Key)
		}
	}
	if im.model.Macros != nil {
		for _, r := range im.model.Macros.Rows {
			for value := range strings.SplitSeq(r.Value+"|other", "|") {
				if value == "" {
					continue
				}
				c := abroad
				if c.Macros = map[string]string{strings.Trim(r.Key, "{}"): value}; c.Macros["daemon_name"] != "" {
					c.Daemon, c.Macros = value, nil
				}
				add(c, "macro "+r.Key+"="+value)
			}
		}
	}
	peer := opendkim.Client{Login: "someone"}
	for _, h := range im.model.Peers.Hosts() {
		if h.Kind == opendkim.Network {
			peer.Address = h.Network.Addr()
			add(peer, peer.Address.String()+" with a login")
		}
	}
	return all
}

// lastAddress is the highest address of a network.
func lastAddress(p netip.Prefix) netip.Addr {
	bytes := p.Addr().AsSlice()
	for i := p.Bits(); i < len(bytes)*8; i++ {
		bytes[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(bytes)
	return a
}
