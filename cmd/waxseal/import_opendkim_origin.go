package main

// Whose mail OpenDKIM signs, as origin rules of ours.

import (
	"net/netip"
	"slices"
	"strings"

	"waxseal/cmd/waxseal/internal/opendkim"
	"waxseal/milter/policy"
)

var loopback4, loopback6 = netip.MustParsePrefix("127.0.0.1/32"), netip.MustParsePrefix("::1/128")

// origin translates InternalHosts, PeerList, MTA and MacroList. OpenDKIM signs
// for every login, and lets every login use every domain.
func (im *opendkimImport) origin() {
	o := &im.config.Origin
	internal := im.networks("InternalHosts", im.model.Internal)
	o.Networks = prefixStrings(internal)
	// Mail without a client address counts as 127.0.0.1 for OpenDKIM.
	o.Local = slices.ContainsFunc(internal, holds(loopback4))
	im.comments["origin.networks"] = im.model.Internal.Place.String()
	if im.model.Peers != nil {
		peers := im.networks("PeerList", im.model.Peers)
		o.SkipNetworks = prefixStrings(peers)
		im.comments["origin.skip_networks"] = im.model.Peers.Place.String()
		if slices.ContainsFunc(peers, holds(loopback4)) {
			o.Local = false
		}
	}
	im.daemons()
	im.config.Permission.Check = false
	im.comments["permission.check"] = "OpenDKIM lets every login sign for every domain. Without this line a login\nsigns for its own domain, and for what [permission] gives it."
	im.add(lineDefault, "logins", "", "OpenDKIM lets every login sign for every domain, and so does what is written: permission.check = false",
		"take that line out to hold logins to their own domains")
}

func holds(p netip.Prefix) func(netip.Prefix) bool {
	return func(q netip.Prefix) bool { return q.Contains(p.Addr()) }
}

// networks reads a list of hosts. What cannot be taken is told.
func (im *opendkimImport) networks(name string, list *opendkim.DataSet) []netip.Prefix {
	peers := name == "PeerList"
	hosts := list.Hosts()
	for i := range hosts {
		h := &hosts[i]
		place := h.Place.String()
		switch {
		case h.Kind == opendkim.Never:
			im.open(place, h.Text, h.Why, h.Meant)
		case h.Kind == opendkim.Odd:
			im.add(lineRefused, place, h.Text, h.Why, h.Meant+", in a list with file: before its name")
		case h.Kind == opendkim.Name && h.Not:
			im.add(lineNotNeeded, place, h.Text, "it excludes names, and no names are taken", "")
		case h.Kind == opendkim.Name && strings.EqualFold(h.Text, "localhost"):
			im.add(lineTaken, place, h.Text, "the loopback addresses 127.0.0.1 and ::1", "")
		case h.Kind == opendkim.Name && peers:
			im.add(lineRefused, place, h.Text, "waxseal knows clients by address, and to leave this out would sign mail that is not signed now", "list the addresses of these hosts in its place")
		case h.Kind == opendkim.Name:
			im.open(place, h.Text, "waxseal knows clients by address, as whoever owns an address can give it names", "list the addresses of these hosts in its place")
		case !peers && !h.Not && wide(h.Network):
			im.open(place, h.Text, "it holds the whole Internet, so OpenDKIM signs for everybody", "list your networks; or leave it out, and set allow_internet afterwards")
			h.Kind = opendkim.Never
		default:
			im.add(lineTaken, place, h.Text, map[bool]string{false: "origin.networks", true: "origin.skip_networks"}[peers], "")
		}
	}
	networks := opendkim.Networks(hosts)
	for _, h := range hosts {
		if h.Kind == opendkim.Name && !h.Not && strings.EqualFold(h.Text, "localhost") {
			for _, p := range []netip.Prefix{loopback4, loopback6} {
				if !slices.ContainsFunc(networks, holds(p)) {
					networks = append(networks, p)
				}
			}
		}
	}
	return networks
}

// wide says whether a network is one that has to be allowed explicitly.
func wide(p netip.Prefix) bool {
	_, err := policy.New(policy.Options{Origin: policy.OriginOptions{Networks: []string{p.String()}}})
	return err != nil
}

func prefixStrings(list []netip.Prefix) []string {
	texts := []string{}
	for _, p := range list {
		text := p.String()
		if p.IsSingleIP() {
			text = p.Addr().String()
		}
		if !slices.Contains(texts, text) {
			texts = append(texts, text)
		}
	}
	return texts
}

// daemons translates MTA and MacroList.
func (im *opendkimImport) daemons() {
	o := &im.config.Origin
	o.DaemonNames = []string{}
	mta, macros := im.model.Daemons, im.model.Macros
	if mta != nil {
		for _, r := range mta.Rows {
			place := r.Place.String()
			if macros != nil && anyValue(macros.Rows) {
				im.open(place, "MTA "+r.Key, takenBack, "leave the other macros out of MacroList")
				continue
			}
			if im.fits(place, "MTA "+r.Key, policy.OriginOptions{DaemonNames: []string{r.Key}}) {
				o.DaemonNames = append(o.DaemonNames, r.Key)
				im.add(lineTaken, place, "MTA "+r.Key, "origin.daemon_names", "")
			}
		}
		im.comments["origin.daemon_names"] = mta.Place.String()
	}
	if macros == nil {
		return
	}
	for i, r := range macros.Rows {
		if anyValue(macros.Rows[i+1:]) {
			im.open(r.Place.String(), strings.TrimSpace("MacroList "+r.Key+" "+r.Value), takenBack, "put it behind those with values, or leave them out")
			continue
		}
		im.macro(r)
	}
	im.comments["origin.macros"] = macros.Place.String()
}

// takenBack is why an origin rule of OpenDKIM is none of ours: with us one rule is
// enough.
const takenBack = "a macro further on in MacroList that comes with another value takes it back, which waxseal's rules cannot"

// anyValue says whether a row of MacroList wants a value.
func anyValue(rows []opendkim.Row) bool {
	return slices.ContainsFunc(rows, func(r opendkim.Row) bool { return r.Value != "" })
}

// macro translates one row of MacroList.
func (im *opendkimImport) macro(r opendkim.Row) {
	o := &im.config.Origin
	name, place := strings.Trim(r.Key, "{}"), r.Place.String()
	text := strings.TrimSpace("MacroList " + r.Key + " " + r.Value)
	values := strings.FieldsFunc(r.Value, func(c rune) bool { return c == '|' })
	braced := name
	if len(name) > 1 {
		braced = "{" + name + "}"
	}
	switch {
	case name == "daemon_name" && len(values) > 0:
		if im.fits(place, text, policy.OriginOptions{DaemonNames: values}) {
			o.DaemonNames = append(o.DaemonNames, values...)
			im.comments["origin.daemon_names"] = place
			im.add(lineTaken, place, text, "origin.daemon_names, which are compared without regard to case", "")
		}
	case im.fits(place, text, policy.OriginOptions{Macros: []policy.Macro{{Name: braced, Values: values}}}):
		if len(values) == 0 {
			o.Macros = append(o.Macros, braced)
		}
		for _, v := range values {
			o.Macros = append(o.Macros, braced+"="+v)
		}
		im.add(lineTaken, place, text, "origin.macros", "")
	}
}

// fits says whether origin rules are valid, and tells if they are not.
func (im *opendkimImport) fits(place, text string, o policy.OriginOptions) bool {
	if o.Networks == nil {
		o.Networks = []string{}
	}
	if _, err := policy.New(policy.Options{Origin: o}); err != nil {
		im.open(place, text, err.Error(), "take it out, or list the networks of these clients")
		return false
	}
	return true
}
