package main

// The settings of rspamd's signing.

import (
	"net/netip"
	"slices"
	"strings"

	"waxseal/cmd/waxseal/internal/rspamd"
	"waxseal/signer"
)

// rspamdSettings are the settings of the section dkim_signing, each with what
// takes it over.
var rspamdSettings = map[string]func(*rspamdImport, string, *rspamd.Value){
	"enabled":                 (*rspamdImport).enabled,
	"sign_authenticated":      rspamdBool("origin.login", func(s *rspamd.Signing) *bool { return &s.Authenticated }),
	"auth_only":               rspamdBool("origin.login", func(s *rspamd.Signing) *bool { return &s.Authenticated }),
	"sign_local":              rspamdBool("origin.networks and origin.local", func(s *rspamd.Signing) *bool { return &s.Local }),
	"use_esld":                rspamdBool("rows with subdomains", func(s *rspamd.Signing) *bool { return &s.ESLD }),
	"try_fallback":            rspamdBool("the keys that were looked for", func(s *rspamd.Signing) *bool { return &s.Fallback }),
	"allow_username_mismatch": rspamdBool("permission", func(s *rspamd.Signing) *bool { return &s.UsernameMismatch }),
	"selector":                rspamdText("selectors of keys", func(s *rspamd.Signing) *string { return &s.Selector }),
	"path":                    rspamdText("the keys that were looked for", func(s *rspamd.Signing) *string { return &s.Path }),
	"domain":                  (*rspamdImport).domainBlocks,
	"selector_map":            rspamdMap(func(s *rspamd.Signing) *[]rspamd.Row { return &s.Selectors }),
	"path_map":                rspamdMap(func(s *rspamd.Signing) *[]rspamd.Row { return &s.Paths }),
	"signing_table":           rspamdMap(func(s *rspamd.Signing) *[]rspamd.Row { return &s.Table }),
	"key_table":               rspamdMap(func(s *rspamd.Signing) *[]rspamd.Row { return &s.Keys }),
	"sign_networks":           (*rspamdImport).signNetworks,
	"sign_headers":            func(*rspamdImport, string, *rspamd.Value) {}, // with the other section's
	"use_domain":              headerOnly,
	"use_domain_sign_local":   headerOnly, "use_domain_sign_networks": headerOnly, "use_domain_sign_inbound": headerOnly,

	"allow_hdrfrom_mismatch": func(*rspamdImport, string, *rspamd.Value) {}, // told in any case
	"allow_envfrom_empty":    openUnless(true, "waxseal signs bounces by their From field"),
	"allow_hdrfrom_multiple": rspamdNotNeeded("waxseal signs what has one From field with authors of one domain"),
	"check_pubkey":           rspamdNotNeeded("\"waxseal dns check\" and the keeper compare keys with their records"),
	"allow_pubkey_mismatch":  rspamdNotNeeded("\"waxseal dns check\" and the keeper compare keys with their records"),
	"symbol":                 rspamdNotNeeded("about rspamd's own results"),
	"key_prefix":             rspamdNotNeeded("about keys in Redis"),
	"selector_prefix":        rspamdNotNeeded("about keys in Redis"),
	"use_milter_headers":     rspamdNotNeeded("about the way in which rspamd adds the field"),
	"sign_inbound":           openUnless(false, "it signs mail of strangers"),
	"skip_spam_sign":         openUnless(false, "waxseal does not know what is spam"),
	"use_http_headers":       openUnless(false, "waxseal takes no keys from requests"),
	"check_violation":        openUnless(false, "waxseal verifies nothing"),

	"allow_hdrfrom_mismatch_local": rspamdNotNeeded("told with allow_hdrfrom_mismatch"), "allow_hdrfrom_mismatch_sign_networks": rspamdNotNeeded("told with allow_hdrfrom_mismatch"),

	"use_redis":      refusedUnlessOff("its keys are in Redis, which is not read", "write them to files, name those with path, and set use_redis = false;"),
	"use_vault":      refusedUnlessOff("its keys are in Vault, which is not read", "write them to files, name those with path, and set use_vault = false;"),
	"sign_condition": rspamdRefused("a program in Lua decides alone, and is not run here", "say it with the other settings, and take it out"),
}

// settings reads the section.
func (im *rspamdImport) settings() {
	known := map[string]bool{}
	for _, m := range im.source.Signing.Members {
		known[m.Name] = true
		take, ok := rspamdSettings[m.Name]
		if !ok {
			im.open(m.Place.String(), m.Name, "this setting is not known here, and may have a part in signing", "take it out if it has none")
			continue
		}
		take(im, m.Name, m.Value)
	}
	if v := im.source.Signing.Get("allow_hdrfrom_mismatch"); v == nil || !isYes(v) {
		if im.signing.ByTable() {
			return // which is not held to it
		}
		place := "allow_hdrfrom_mismatch"
		im.open(place, "allow_hdrfrom_mismatch = false", "rspamd does not sign when the envelope sender is of another domain than the author, as of mail that is forwarded; waxseal goes by the author alone",
			"to go on without this check: --drop "+place)
	}
}

func isYes(v *rspamd.Value) bool {
	yes, _ := v.Bool()
	return yes
}

func (im *rspamdImport) told(result string, v *rspamd.Value, name, why, remedy string) {
	text := name
	if !v.IsArray && !v.IsObject {
		text += " " + v.Text
	}
	if result == lineOpen {
		im.open(v.Place.String(), text, why, remedy)
		return
	}
	im.add(result, v.Place.String(), text, why, remedy)
}

func rspamdBool(where string, at func(*rspamd.Signing) *bool) func(*rspamdImport, string, *rspamd.Value) {
	return func(im *rspamdImport, name string, v *rspamd.Value) {
		yes, ok := v.Bool()
		if !ok {
			im.told(lineRefused, v, name, "want true or false", "correct it")
			return
		}
		*at(&im.signing) = yes
		im.told(lineTaken, v, name, where, "")
	}
}

func rspamdText(where string, at func(*rspamd.Signing) *string) func(*rspamdImport, string, *rspamd.Value) {
	return func(im *rspamdImport, name string, v *rspamd.Value) {
		if v.IsArray || v.IsObject {
			im.told(lineRefused, v, name, "want a text", "correct it")
			return
		}
		*at(&im.signing) = im.source.Path(v.Text)
		im.told(lineTaken, v, name, where, "")
	}
}

func rspamdMap(at func(*rspamd.Signing) *[]rspamd.Row) func(*rspamdImport, string, *rspamd.Value) {
	return func(im *rspamdImport, name string, v *rspamd.Value) {
		*at(&im.signing) = append([]rspamd.Row{}, im.source.Map(v, false)...)
		im.told(lineTaken, v, name, "its rows are told one by one", "")
	}
}

func rspamdNotNeeded(why string) func(*rspamdImport, string, *rspamd.Value) {
	return func(im *rspamdImport, name string, v *rspamd.Value) { im.told(lineNotNeeded, v, name, why, "") }
}

func rspamdRefused(why, remedy string) func(*rspamdImport, string, *rspamd.Value) {
	return func(im *rspamdImport, name string, v *rspamd.Value) { im.told(lineRefused, v, name, why, remedy) }
}

// openUnless takes one value of a boolean only.
func openUnless(value bool, why string) func(*rspamdImport, string, *rspamd.Value) {
	return func(im *rspamdImport, name string, v *rspamd.Value) {
		if yes, ok := v.Bool(); ok && yes == value {
			im.told(lineNotNeeded, v, name, "as waxseal does", "")
			return
		}
		im.told(lineOpen, v, name, why, "take the line out")
	}
}

func refusedUnlessOff(why, remedy string) func(*rspamdImport, string, *rspamd.Value) {
	return func(im *rspamdImport, name string, v *rspamd.Value) {
		if yes, ok := v.Bool(); ok && !yes {
			im.told(lineNotNeeded, v, name, "it is off", "")
			return
		}
		im.told(lineRefused, v, name, why, remedy)
	}
}

func headerOnly(im *rspamdImport, name string, v *rspamd.Value) {
	if v.Text == "header" {
		im.told(lineTaken, v, name, "the author's domain", "")
		return
	}
	im.told(lineOpen, v, name, "waxseal signs as the domain of the From field, which is what DMARC looks at", "set it to \"header\", and see what the comparison says")
}

func (im *rspamdImport) enabled(name string, v *rspamd.Value) {
	if isYes(v) {
		im.told(lineTaken, v, name, "waxseal signs", "")
		return
	}
	im.told(lineRefused, v, name, "rspamd does not sign", "waxseal has nothing to take over from it; or take the line out for the time of the import")
}

// domainBlocks reads the section domain.
func (im *rspamdImport) domainBlocks(name string, v *rspamd.Value) {
	if !v.IsObject {
		im.told(lineRefused, v, name, "want a section", "correct it")
		return
	}
	for _, m := range v.Members {
		d := rspamd.Domain{Name: m.Name, Place: m.Place}
		if strings.ToLower(m.Name) != m.Name {
			im.open(m.Place.String(), m.Name, "rspamd looks for domains in lower case, so it never finds this one", "write it in lower case")
			continue
		}
		key := func(of *rspamd.Value) rspamd.Key {
			k := rspamd.Key{Place: of.Place}
			if s := of.Get("selector"); s != nil {
				k.Selector = s.Text
			}
			if p := of.Get("path"); p != nil {
				k.Path = im.source.Path(p.Text)
			}
			return k
		}
		if m.Value.Get("selector") != nil || m.Value.Get("path") != nil {
			d.Keys = append(d.Keys, key(m.Value))
		}
		if list := m.Value.Get("selectors"); list != nil {
			for _, each := range list.Items {
				d.Keys = append(d.Keys, key(each))
			}
		}
		for _, inner := range m.Value.Members {
			if !slices.Contains([]string{"selector", "path", "selectors"}, inner.Name) {
				im.open(inner.Place.String(), m.Name+" "+inner.Name, "rspamd has no such setting for a domain", "take it out")
			}
		}
		im.signing.Domains = append(im.signing.Domains, d)
	}
	im.told(lineTaken, v, name, "its domains are told one by one", "")
}

func (im *rspamdImport) signNetworks(name string, v *rspamd.Value) {
	im.signing.Networks = im.networks(v, name)
	im.comments["origin.networks"] = v.Place.String()
	im.told(lineTaken, v, name, "origin.networks", "")
}

// origin says whose mail is signed.
func (im *rspamdImport) origin() {
	o, s := &im.config.Origin, &im.signing
	o.Login, o.Local, o.DaemonNames = s.Authenticated, s.Local, []string{}
	var list []netip.Prefix
	if s.Local {
		for _, name := range []string{"local_addrs", "local_networks"} {
			if v := im.source.Options.Get(name); v != nil {
				s.LocalNetworks = append(s.LocalNetworks, im.networks(v, name)...)
				im.add(lineTaken, v.Place.String(), name, "origin.networks: rspamd signs for them, as sign_local is on; take out what is not yours", "")
			}
		}
		if len(s.LocalNetworks) == 0 {
			im.add(lineDefault, "local_addrs", "", "options.inc does not have it there, so loopback alone counts as local; the one that comes with rspamd has private networks", "name a directory with options.inc, or add networks of yours to origin.networks")
		}
		list = append(list, netip.MustParsePrefix("127.0.0.0/8"), loopback6)
		list = append(list, s.LocalNetworks...)
	}
	o.Networks = prefixStrings(append(list, s.Networks...))
}

// fields translates sign_headers: a name, behind (o) for one that nobody may add,
// or (x) for one that nobody may add where it is present.
func (im *rspamdImport) fields() {
	v := im.source.DKIM.Get("sign_headers")
	if v == nil {
		v = im.source.Signing.Get("sign_headers")
	}
	if v == nil {
		im.add(lineDefault, "sign_headers", "", "without this setting waxseal's own lists stand, which protect the same fields and more", "")
		return
	}
	signed, over := []string{}, []string{}
	for _, text := range v.Texts() {
		for name := range strings.SplitSeq(text.Text, ":") {
			name = strings.TrimSpace(name)
			bare := strings.TrimPrefix(strings.TrimPrefix(name, "(o)"), "(x)")
			if _, err := signer.NewFields([]string{bare}, []string{}); err != nil {
				im.open(text.Place.String(), "sign_headers "+name, err.Error(), "take the name out of the list")
				continue
			}
			signed = append(signed, bare)
			if bare != name {
				over = append(over, bare)
			}
		}
	}
	im.config.Signing.Fields, im.config.Signing.Oversign = signed, over
	im.comments["signing.fields"] = v.Place.String()
	im.comments["signing.oversign"] = v.Place.String() + ": the names with (o) and (x)"
	im.told(lineTaken, v, "sign_headers", "signing.fields and signing.oversign", "")
}
