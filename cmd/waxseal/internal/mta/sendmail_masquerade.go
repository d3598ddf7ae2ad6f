package mta

import (
	"fmt"
	"slices"
	"strings"

	"waxseal/milter"
)

// checkMasquerade is about domains that Sendmail replaces after its filters, and
// about what the listener at socket was told of them.
func (s *Sendmail) checkMasquerade(all *findings, setup Setup, socket milter.Address) {
	var told replaced
	if m := setup.Peers[socket].Masquerade; m != nil {
		told = replaced{m.Domains, m.Recipients}
	}
	recipients := s.features["allmasquerade"]
	if as := s.macros["M"]; as != "" {
		hosts := s.classes["M"]
		if !s.features["limited_masquerade"] {
			hosts = slices.Concat(s.ownNames(setup.Host), hosts)
		}
		if s.features["masquerade_entire_domain"] {
			hosts = withBelow(hosts, s.classes["M"])
		}
		hosts = slices.DeleteFunc(hosts, func(d string) bool { return strings.EqualFold(d, as) })
		change := "become " + as
		if recipients {
			change += ", also those of recipients (allmasquerade)"
		}
		all.add(masquerading("masquerade", s.where("DM"+as), change, "MASQUERADE_AS", hosts, recipients, told))
	}
	if table, ok := s.maps["generics"]; ok {
		hosts := append(s.ownNames(setup.Host), s.classes["G"]...)
		if s.features["generics_entire_domain"] {
			hosts = withBelow(hosts, s.classes["G"])
		}
		all.add(masquerading("genericstable", s.where("Kgenerics "+table), "are looked up there and changed", "FEATURE(`genericstable')", hosts, recipients, told))
	}
}

// replaced are domains that Sendmail replaces in fields of senders, and maybe in
// those of recipients.
type replaced struct {
	domains    []string
	recipients bool
}

// masquerading is the finding for domains that are replaced in the header. When
// the listener was told of them all, no signature breaks, and mail from them
// leaves unsigned.
func masquerading(name, where, change, feature string, domains []string, recipients bool, told replaced) Finding {
	f := Finding{Severity: Note, Name: name, Where: where}
	which := "of this host"
	if len(domains) > 0 {
		which = "in " + strings.Join(domains, " and ")
	}
	f.Problem = fmt.Sprintf("addresses %s in the header %s after signing", which, change)
	use := "have clients use the address that is wanted, and remove " + feature
	if len(domains) > 0 && knows(told, domains) && (told.recipients || !recipients) {
		f.Problem += "; waxseal is told so (masquerade), and does not sign such fields, nor mail with such a From"
		f.Remedy = use
		return f
	}
	f.Severity = Error
	f.Problem += ", which breaks the signature"
	if len(domains) == 0 {
		f.Remedy = use
		return f
	}
	quoted := make([]string, 0, len(domains))
	for _, d := range slices.Concat(told.domains, domains) {
		if q := fmt.Sprintf("%q", strings.ToLower(d)); !slices.Contains(quoted, q) {
			quoted = append(quoted, q)
		}
	}
	f.Remedy = "in waxseal.toml, for the listener: masquerade = [" + strings.Join(quoted, ", ") + "]"
	if recipients {
		f.Remedy += " and masquerade_recipients = true"
	}
	f.Remedy += "; mail with such a From is not signed then, so better " + use
	return f
}

// knows says whether all domains are among those that waxseal was told of.
func knows(told replaced, domains []string) bool {
	return !slices.ContainsFunc(domains, func(d string) bool {
		return !slices.ContainsFunc(told.domains, func(known string) bool {
			return strings.EqualFold(known, d) || strings.HasPrefix(known, ".") && len(d) > len(known) && strings.EqualFold(d[len(d)-len(known):], known)
		})
	})
}

// ownNames are the full names that Sendmail takes for its own, as far as its file
// has them: its host name and class w.
func (s *Sendmail) ownNames(host string) []string {
	if j := s.macros["j"]; j != "" && !strings.Contains(j, "$") {
		host = j
	}
	var names []string
	for _, name := range append([]string{host}, s.classes["w"]...) {
		known := slices.ContainsFunc(names, func(n string) bool { return strings.EqualFold(n, name) })
		if !known && strings.Contains(name, ".") && !strings.Contains(name, "$") && !strings.HasPrefix(name, "[") {
			names = append(names, name)
		}
	}
	return names
}

// withBelow adds to names all that is below those of some.
func withBelow(names, some []string) []string {
	for _, d := range some {
		names = append(names, "."+strings.TrimPrefix(d, "."))
	}
	return names
}
