package main

// The settings of dkimpy-milter other than its tables.

import (
	"cmp"
	"io/fs"
	"net/netip"
	"strconv"
	"strings"

	"waxseal/cmd/waxseal/internal/dkimpy"
	"waxseal/cmd/waxseal/internal/source"
	"waxseal/milter/policy"
	"waxseal/signer"
)

// dkimpySettings are the settings of dkimpy-milter, each with what takes it over.
var dkimpySettings = map[string]func(*dkimpyImport, dkimpy.Setting){
	"Canonicalization": (*dkimpyImport).canonicalization,
	"Mode":             (*dkimpyImport).mode,
	"Socket":           (*dkimpyImport).socket,
	"SignHeaders":      (*dkimpyImport).fields,
	"MacroListVerify":  (*dkimpyImport).verifyOnly,
	"UMask":            dkimpyTaken("the mode of the socket"),
	"UserID":           dkimpyTaken("the group of the socket; waxseal runs as its own user"),
	"SubDomains":       dkimpyTaken("rows with subdomains"),
	"Selector":         dkimpyTaken("selectors of keys"),
	"SelectorEd25519":  dkimpyTaken("selectors of keys"),
	"KeyFile":          dkimpyTaken("keys; they are copied, so later changes of the file have no effect"),
	"KeyFileEd25519":   dkimpyTaken("keys; they are copied, so later changes of the file have no effect"),
	"Domain":           dkimpyTaken("its domains are told one by one"),
	"KeyTable":         dkimpyTaken("its rows are told one by one"),
	"KeyTableEd25519":  dkimpyTaken("its rows are told one by one"),
	"SigningTable":     dkimpyTaken("its rows are told one by one"),
	"InternalHosts":    dkimpyTaken("its rows are told one by one"),
	"MacroList":        dkimpyTaken("its rows are told one by one"),

	"MinimumKeyBits":      dkimpyNotNeeded("about verifying, which waxseal does not do"),
	"AuthservID":          dkimpyNotNeeded("about verifying, which waxseal does not do"),
	"DiagnosticDirectory": dkimpyNotNeeded("about verifying, which waxseal does not do"),
	"DNSOverride":         dkimpyNotNeeded("about verifying, which waxseal does not do"),
	"DNSTimeout":          dkimpyNotNeeded("about verifying, which waxseal does not do"),
	"Syslog":              dkimpyNotNeeded("about the process and its log"),
	"SyslogFacility":      dkimpyNotNeeded("about the process and its log"),
	"SyslogSuccess":       dkimpyNotNeeded("about the process and its log"),
	"PidFile":             dkimpyNotNeeded("about the process and its log"),
	"debugLevel":          dkimpyNotNeeded("about the process and its log"),
	"IntHosts":            dkimpyNotNeeded("not meant for the file, and InternalHosts takes its place"),
}

func dkimpyTaken(where string) func(*dkimpyImport, dkimpy.Setting) {
	return func(im *dkimpyImport, s dkimpy.Setting) { im.told(lineTaken, s, where, "") }
}

func dkimpyNotNeeded(why string) func(*dkimpyImport, dkimpy.Setting) {
	return func(im *dkimpyImport, s dkimpy.Setting) { im.told(lineNotNeeded, s, why, "") }
}

func (im *dkimpyImport) told(result string, s dkimpy.Setting, why, remedy string) {
	if result == lineOpen {
		im.open(s.Place.String(), s.Name+" "+s.Value, why, remedy)
		return
	}
	im.add(result, s.Place.String(), s.Name+" "+s.Value, why, remedy)
}

func (im *dkimpyImport) settings() {
	im.config.Signing.Canonicalization = Canonicalization{signer.Relaxed, signer.Simple} // its default
	im.comments["signing.canonicalization"] = "dkimpy-milter's default"
	for _, s := range im.source.Settings {
		dkimpySettings[s.Name](im, s)
	}
	if _, ok := im.source.Get("SignHeaders"); !ok {
		im.add(lineDefault, "SignHeaders", "", "waxseal has its own list of fields, and seals those that a reader sees", "")
	}
	if len(im.config.Listen) == 0 {
		im.add(lineDefault, "socket", "", "no Socket is taken, so waxseal listens at "+defaultSocket, "")
	}
	im.add(lineDefault, "clients", "", "dkimpy-milter signs for every client, and waxseal for logins, this machine, InternalHosts and MacroList", "add what is missing to the table origin")
	im.config.Permission.Check = false
	im.comments["permission.check"] = "dkimpy-milter lets every login sign for every domain. Without this line a login\nsigns for its own domain, and for what [permission] gives it."
	im.add(lineDefault, "logins", "", "dkimpy-milter lets every login sign for every domain, and so does what is written: permission.check = false", "take that line out to hold logins to their own domains")
}

// canonicalization: a single word stands for header and body here, unlike in a
// signature.
func (im *dkimpyImport) canonicalization(s dkimpy.Setting) {
	text := s.Value
	if !strings.Contains(text, "/") {
		text += "/" + text
	}
	header, body, err := signer.ParseCanonicalization(text)
	if err != nil {
		im.told(lineRefused, s, err.Error(), "correct it")
		return
	}
	im.config.Signing.Canonicalization = Canonicalization{header, body}
	im.comments["signing.canonicalization"] = s.Place.String()
	im.told(lineTaken, s, "signing.canonicalization", "")
}

func (im *dkimpyImport) mode(s dkimpy.Setting) {
	switch s.Value {
	case "v":
		im.told(lineRefused, s, "this dkimpy-milter does not sign", "waxseal has nothing to take over from it")
	case "s":
		im.told(lineTaken, s, "waxseal signs", "")
	default:
		im.told(lineTaken, s, "waxseal signs; for verifying and Authentication-Results keep another filter for incoming mail", "")
	}
}

// socket translates Socket with UMask and UserID.
func (im *dkimpyImport) socket(s dkimpy.Setting) {
	c, ok := im.takeSocket(s.Place.String(), s.Name+" "+s.Value, s.Value)
	if !ok {
		return
	}
	if c.Address.Network == "unix" {
		if u, ok := im.source.Get("UMask"); ok {
			mask, err := strconv.ParseUint(u.Value, 10, 16) // in tens, even with a zero before it
			if err != nil {
				im.told(lineRefused, u, "want a number", "correct it")
			}
			c.Mode = FileMode(0o666 &^ fs.FileMode(mask) & 0o777)
		}
		if u, ok := im.source.Get("UserID"); ok {
			name, group, _ := strings.Cut(u.Value, ":")
			c.Group = im.socketGroup(u.Place.String(), u.Name+" "+u.Value, cmp.Or(group, name))
		}
	}
	im.config.Listen["milter"] = c
}

func (im *dkimpyImport) fields(s dkimpy.Setting) {
	list := []string{}
	for _, r := range im.dataSet(s.Name).Rows {
		if _, err := signer.NewFields([]string{r.Key}, []string{}); err != nil {
			im.open(r.Place.String(), s.Name+" "+r.Key, err.Error(), "name each field")
			continue
		}
		list = append(list, r.Key)
	}
	im.config.Signing.Fields = list
	im.comments["signing.fields"] = s.Place.String()
	im.told(lineTaken, s, "signing.fields", "")
}

func (im *dkimpyImport) verifyOnly(s dkimpy.Setting) {
	im.told(lineOpen, s, "dkimpy-milter signs nothing of this; waxseal signs nothing of strangers there, but still for logins and InternalHosts", "to go on without it, have no logins and no webmail there")
}

// origin translates InternalHosts and MacroList.
func (im *dkimpyImport) origin() {
	o := &im.config.Origin
	o.DaemonNames = []string{}
	hosts := im.dataSet("InternalHosts")
	if _, ok := im.source.Get("InternalHosts"); !ok {
		hosts.Rows = []dkimpy.Row{{Key: "127.0.0.1", Place: source.Place{File: "InternalHosts"}}}
	}
	for _, r := range hosts.Rows {
		place, text := r.Place.String(), strings.Trim(r.Key, "[]")
		p, err := netip.ParsePrefix(text)
		if a, other := netip.ParseAddr(text); other == nil {
			p, err = netip.PrefixFrom(a, a.BitLen()), nil
		}
		switch {
		case strings.HasPrefix(text, "!"):
			im.add(lineRefused, place, r.Key, "waxseal has no exclusions in its networks", "list what is left over in its place")
		case err != nil:
			im.open(place, r.Key, "waxseal knows clients by address, and this is none", "list the addresses of these hosts in its place; a file may not have IPv6 addresses, so write them into the setting, with commas")
		case wide(p):
			im.open(place, r.Key, "it holds the whole Internet", "list your networks")
		default:
			im.networks = append(im.networks, p.Masked())
			im.add(lineTaken, place, r.Key, "origin.networks", "")
		}
	}
	o.Networks = prefixStrings(im.networks)
	im.comments["origin.networks"] = "InternalHosts"
	for _, r := range im.dataSet("MacroList").Rows {
		words := strings.Split(r.Key, "|")
		name, values, place := words[0], words[1:], r.Place.String()
		if name == "daemon_name" && len(values) > 0 {
			o.DaemonNames = append(o.DaemonNames, values...)
			im.add(lineTaken, place, "MacroList "+r.Key, "origin.daemon_names, which are compared without regard to case", "")
			continue
		}
		m := policy.Macro{Name: "{" + name + "}", Values: values}
		if _, err := policy.New(policy.Options{Origin: policy.OriginOptions{Networks: []string{}, Macros: []policy.Macro{m}}}); err != nil {
			im.open(place, "MacroList "+r.Key, err.Error(), "take it out, or list the networks of these clients")
			continue
		}
		if len(values) == 0 {
			o.Macros = append(o.Macros, m.Name)
		}
		for _, v := range values {
			o.Macros = append(o.Macros, m.Name+"="+v)
		}
		im.add(lineTaken, place, "MacroList "+r.Key, "origin.macros", "")
	}
}
