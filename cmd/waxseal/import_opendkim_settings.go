package main

// The settings of an OpenDKIM other than its tables.

import (
	"fmt"
	"io/fs"
	"os/user"
	"slices"
	"strings"
	"time"

	"waxseal/cmd/waxseal/internal/opendkim"
	"waxseal/milter"
	"waxseal/milter/policy"
	"waxseal/signer"
)

// opendkimSettings are the settings that have a part in signing, each with what
// takes it over.
var opendkimSettings = map[string]func(*opendkimImport, opendkim.Setting){
	"Canonicalization":   (*opendkimImport).canonicalization,
	"SignatureTTL":       (*opendkimImport).expiry,
	"SignatureAlgorithm": (*opendkimImport).algorithm,
	"Mode":               (*opendkimImport).mode,
	"Socket":             (*opendkimImport).socket,
	"SenderHeaders":      (*opendkimImport).senders,
	"On-Default":         (*opendkimImport).onDefault,
	"On-InternalError":   (*opendkimImport).onInternalError,
	"On-SignatureError":  (*opendkimImport).onSignatureError,
	"SignHeaders":        takenElsewhere("signing.fields"),
	"OmitHeaders":        takenElsewhere("signing.fields"),
	"OversignHeaders":    takenElsewhere("signing.oversign"),
	"UMask":              takenElsewhere("the mode of the socket"),
	"UserID":             takenElsewhere("the group of the socket; waxseal runs as its own user"),
	"Domain":             (*opendkimImport).simple,
	"Selector":           (*opendkimImport).simple,
	"KeyFile":            (*opendkimImport).simple,
	"SubDomains":         (*opendkimImport).simple,
	"KeyTable":           takenElsewhere("its rows are told one by one; keys are copied, so later changes of their files have no effect"),
	"SigningTable":       takenElsewhere("its rows are told one by one"),
	"InternalHosts":      takenElsewhere("its rows are told one by one"),
	"PeerList":           takenElsewhere("its rows are told one by one"),
	"MTA":                takenElsewhere("its rows are told one by one"),
	"MacroList":          takenElsewhere("its rows are told one by one"),
	"MultipleSignatures": takenElsewhere("rows with several selectors"),
	"BaseDirectory":      takenElsewhere("the paths that were read"),
	"MinimumKeyBits":     takenElsewhere("keys below it are not taken"),

	"ExternalIgnoreList":           notNeeded("it had no effect on signing"),
	"RequireSafeKeys":              notNeeded("the keystore always refuses keys that others can read"),
	"AllowSHA1Only":                notNeeded("waxseal signs with SHA-256 only"),
	"MaximumHeaders":               notNeeded("limits.header_bytes is waxseal's own, 1 MiB by default"),
	"WeakSyntaxChecks":             notNeeded("waxseal signs what has one sound From field, and says why not for all else"),
	"RequiredHeaders":              notNeeded("waxseal signs what has one sound From field, and says why not for all else"),
	"StrictHeaders":                notNeeded("waxseal signs what has one sound From field, and says why not for all else"),
	"SoftwareHeader":               notNeeded("waxseal adds no field but the signature"),
	"X-Header":                     notNeeded("waxseal adds no field but the signature"),
	"Diagnostics":                  unlessOff("z= shows a copy of the whole header to every receiver, and waxseal never writes it", "set it to no"),
	"RemoveOldSignatures":          unlessOff("waxseal does not take fields out of messages", "set it to no, or let the mail server take them out"),
	"RequestReports":               unlessOff("waxseal does not write r=y", "set it to no"),
	"FixCRLF":                      unlessOff("waxseal does not sign bare CR or LF, which the mail server changes after it", "set it to no"),
	"CaptureUnknownErrors":         unlessOff("waxseal quarantines nothing", "set it to no"),
	"BodyLengthDB":                 refusedSetting("a signature of a part of the body (l=) lets anybody add to it"),
	"MaximumSignedBytes":           refusedSetting("a signature of a part of the body (l=) lets anybody add to it"),
	"ChangeRootDirectory":          refusedSetting("the paths in its files mean something else there, and waxseal confines itself in another way"),
	"DontSignMailTo":               refusedSetting("waxseal does not choose by recipient, so without this line such mail is signed as well"),
	"ExemptDomains":                refusedSetting("waxseal has no list of domains to ignore, so without this line their mail is signed where a row says so; write rows with enabled = false for them afterwards"),
	"FinalPolicyScript":            refusedSetting("scripts cannot be taken over, so what this one decides is not done"),
	"ScreenPolicyScript":           refusedSetting("scripts cannot be taken over, so what this one decides is not done"),
	"SetupPolicyScript":            refusedSetting("scripts cannot be taken over, so what this one decides is not done"),
	"ReplaceHeaders":               refusedSetting("waxseal signs what is there; let the mail server rewrite it before"),
	"ReplaceRules":                 refusedSetting("waxseal signs what is there; let the mail server rewrite it before"),
	"SelectCanonicalizationHeader": refusedSetting("a sender does not choose how waxseal signs"),
	"SenderMacro":                  refusedSetting("the author is whom the From field names"),
	"VBR-Certifiers":               refusedSetting("waxseal adds no VBR-Info field"),
	"VBR-PurgeFields":              unlessOff("waxseal does not take fields out of messages", "set it to no"),
	"VBR-Type":                     refusedSetting("waxseal adds no VBR-Info field"),
}

func takenElsewhere(where string) func(*opendkimImport, opendkim.Setting) {
	return func(im *opendkimImport, s opendkim.Setting) { im.taken(s, where) }
}

func notNeeded(why string) func(*opendkimImport, opendkim.Setting) {
	return func(im *opendkimImport, s opendkim.Setting) {
		im.add(lineNotNeeded, s.Place.String(), s.Name+" "+s.Value, why, "")
	}
}

func unlessOff(why, remedy string) func(*opendkimImport, opendkim.Setting) {
	return func(im *opendkimImport, s opendkim.Setting) {
		if !opendkim.IsYes(s.Value) {
			im.add(lineNotNeeded, s.Place.String(), s.Name+" "+s.Value, "it is off", "")
			return
		}
		im.openSetting(s, why, remedy)
	}
}

func refusedSetting(why string) func(*opendkimImport, opendkim.Setting) {
	return func(im *opendkimImport, s opendkim.Setting) { im.openSetting(s, why, "remove the line") }
}

func (im *opendkimImport) taken(s opendkim.Setting, where string) {
	im.add(lineTaken, s.Place.String(), s.Name+" "+s.Value, where, "")
}

func (im *opendkimImport) openSetting(s opendkim.Setting, why, remedy string) {
	im.open(s.Place.String(), s.Name+" "+s.Value, why, remedy)
}

// settings translates all of them.
func (im *opendkimImport) settings() {
	im.config.Signing.Canonicalization = Canonicalization{signer.Simple, signer.Simple} // OpenDKIM's default
	im.comments["signing.canonicalization"] = "OpenDKIM's default"
	for _, s := range im.source.Settings {
		take, ok := opendkimSettings[s.Name]
		switch {
		case ok:
			take(im, s)
		case s.Use == opendkim.Verifying:
			im.add(lineNotNeeded, s.Place.String(), s.Name+" "+s.Value, "about verifying, which waxseal does not do", "")
		default:
			im.add(lineNotNeeded, s.Place.String(), s.Name+" "+s.Value, "about the process and its log", "")
		}
	}
	im.fields()
	if len(im.config.Listen) == 0 {
		im.add(lineDefault, "socket", "", "no Socket is taken, so waxseal listens at "+defaultSocket, "give OpenDKIM's command line with --arguments if it has one there")
	}
}

func (im *opendkimImport) canonicalization(s opendkim.Setting) {
	header, body, err := signer.ParseCanonicalization(s.Value)
	if err != nil {
		im.add(lineRefused, s.Place.String(), s.Name+" "+s.Value, err.Error(), "correct it")
		return
	}
	im.config.Signing.Canonicalization = Canonicalization{header, body}
	im.comments["signing.canonicalization"] = s.Place.String()
	im.taken(s, "signing.canonicalization")
}

func (im *opendkimImport) expiry(s opendkim.Setting) {
	seconds, _ := im.source.Int(s.Name)
	if seconds < 0 || seconds > int64(signer.MaxLifetime/time.Second) {
		im.openSetting(s, "waxseal takes at most "+Duration(signer.MaxLifetime).String(), "set a number of seconds up to that")
		return
	}
	im.config.Signing.Expiry = Duration(time.Duration(seconds) * time.Second)
	im.comments["signing.expiry"] = s.Place.String()
	im.taken(s, "signing.expiry")
}

func (im *opendkimImport) algorithm(s opendkim.Setting) {
	switch strings.ToLower(s.Value) {
	case "rsa-sha256", "ed25519-sha256":
		im.taken(s, "waxseal goes by the kind of key")
	case "rsa-sha1":
		im.openSetting(s, "no receiver accepts SHA-1 (RFC 8301, section 3.1); waxseal signs with SHA-256", "remove the line")
	default:
		im.add(lineRefused, s.Place.String(), s.Name+" "+s.Value, "OpenDKIM does not know this algorithm", "correct it")
	}
}

func (im *opendkimImport) mode(s opendkim.Setting) {
	switch {
	case !strings.Contains(s.Value, "s"):
		im.add(lineRefused, s.Place.String(), s.Name+" "+s.Value, "this OpenDKIM does not sign", "waxseal has nothing to take over from it")
	case strings.Contains(s.Value, "v"):
		im.taken(s, "waxseal signs; for verifying and Authentication-Results keep another filter for incoming mail")
	default:
		im.taken(s, "waxseal signs")
	}
}

func (im *opendkimImport) simple(s opendkim.Setting) {
	if !im.model.Tables.Simple {
		im.add(lineNotNeeded, s.Place.String(), s.Name+" "+s.Value, "the KeyTable switches it off", "")
		return
	}
	im.taken(s, "keys and rows")
}

// socket translates Socket with UMask and UserID.
func (im *opendkimImport) socket(s opendkim.Setting) {
	c, ok := im.takeSocket(s.Place.String(), s.Name+" "+s.Value, s.Value)
	if !ok {
		return
	}
	if c.Address.Network == "unix" {
		im.socketFile(&c)
	}
	im.config.Listen["milter"] = c
}

func (im *opendkimImport) socketFile(c *ListenConfig) {
	if mask, ok := im.source.Int("UMask"); ok {
		c.Mode = FileMode(0o666 &^ fs.FileMode(mask) & 0o777)
	}
	s, ok := im.source.Get("UserID")
	if !ok {
		return
	}
	name, group, _ := strings.Cut(s.Value, ":")
	if group == "" {
		u, err := user.Lookup(name)
		if err != nil {
			im.add(lineDefault, s.Place.String(), s.Name+" "+s.Value, "there is no such user here, so the group of the socket is left to waxseal", "set listen.milter.group to a group that the mail server is in")
			return
		}
		g, err := user.LookupGroupId(u.Gid)
		if err != nil {
			return
		}
		group = g.Name
	}
	c.Group = im.socketGroup(s.Place.String(), s.Name+" "+s.Value, group)
}

func (im *opendkimImport) senders(s opendkim.Setting) {
	list, err := im.source.DataSet(s.Name)
	if err != nil {
		im.add(lineRefused, s.Place.String(), s.Name+" "+s.Value, err.Error(), "write csl: before the list")
		return
	}
	var fields []string
	for _, r := range list.Rows {
		if !strings.EqualFold(r.Key, "From") {
			fields = append(fields, r.Key)
			continue
		}
		break // From is always there, so nothing behind it counts
	}
	if _, err := policy.New(policy.Options{AuthorFields: fields}); err != nil {
		im.openSetting(s, err.Error(), "name fields that waxseal knows, or remove the line")
		return
	}
	im.config.Signing.AuthorFields = slices.Concat([]string{}, fields)
	im.comments["signing.author_fields"] = s.Place.String()
	im.taken(s, "signing.author_fields")
}

// opendkimDefaultFields are what OpenDKIM signs when SignHeaders does not say
// otherwise, and what an item * of it stands for.
var opendkimDefaultFields = []string{
	"From", "Reply-To", "Subject", "Date", "To", "Cc", "Resent-Date", "Resent-From", "Resent-Sender", "Resent-To", "Resent-Cc",
	"In-Reply-To", "References", "List-Id", "List-Help", "List-Unsubscribe", "List-Subscribe", "List-Post", "List-Owner", "List-Archive",
}

// fields translates SignHeaders, OmitHeaders and OversignHeaders. Without a line
// for it, waxseal's own lists stay: they protect more.
func (im *opendkimImport) fields() {
	c := &im.config.Signing
	signed, hasSigned := im.fieldList("SignHeaders", opendkimDefaultFields)
	omitted, hasOmitted := im.fieldList("OmitHeaders", nil)
	over, hasOver := im.fieldList("OversignHeaders", nil)
	if hasSigned {
		c.Fields = signed
		im.comments["signing.fields"] = im.place("SignHeaders")
	}
	if hasOver {
		c.Oversign = over
		im.comments["signing.oversign"] = im.place("OversignHeaders") + "; without this line waxseal protects more fields"
	}
	if hasOmitted {
		for _, list := range []*[]string{&c.Fields, &c.Oversign} {
			*list = slices.DeleteFunc(slices.Clone(*list), func(name string) bool {
				return slices.ContainsFunc(omitted, func(o string) bool { return strings.EqualFold(o, name) })
			})
		}
		im.comments["signing.fields"] = strings.TrimPrefix(im.comments["signing.fields"]+", "+im.place("OmitHeaders"), ", ")
	}
	if !hasSigned {
		im.add(lineDefault, "SignHeaders", "", "waxseal signs more fields than OpenDKIM does without this line, so that nobody can change them", "")
	}
	if !hasOver {
		im.add(lineDefault, "OversignHeaders", "", "waxseal seals the fields that a reader sees, which OpenDKIM does not without this line", "")
	}
}

func (im *opendkimImport) place(name string) string {
	s, _ := im.source.Get(name)
	return s.Place.String()
}

// fieldList reads a list of fields. An item * stands for the usual ones, which
// +name and -name then change.
func (im *opendkimImport) fieldList(name string, usual []string) (fields []string, ok bool) {
	s, ok := im.source.Get(name)
	if !ok {
		return nil, false
	}
	list, err := im.source.DataSet(name)
	if err != nil {
		im.add(lineRefused, s.Place.String(), s.Name+" "+s.Value, err.Error(), "write csl: before the list")
		return nil, false
	}
	fields = []string{}
	delta := slices.ContainsFunc(list.Rows, func(r opendkim.Row) bool { return r.Key == "*" })
	if delta {
		fields = slices.Concat(fields, usual)
	}
	for _, r := range list.Rows {
		field, minus := strings.CutPrefix(r.Key, "-")
		switch {
		case r.Key == "*" || name == "OmitHeaders" && r.Key == ".":
		case delta && minus:
			fields = slices.DeleteFunc(fields, func(f string) bool { return strings.EqualFold(f, field) })
		case name == "OmitHeaders" && strings.EqualFold(r.Key, "From"):
			im.open(r.Place.String(), name+" "+r.Key, "without From a signature is not valid, so OpenDKIM signs nothing", "take it out of the list")
		case name == "OmitHeaders":
			fields = append(fields, strings.TrimPrefix(r.Key, "+"))
		default:
			if delta {
				field = strings.TrimPrefix(r.Key, "+")
			} else {
				field = r.Key
			}
			if _, err := signer.NewFields([]string{field}, []string{}); err != nil {
				im.open(r.Place.String(), name+" "+r.Key, err.Error(), "take it out of the list, or name each field")
				continue
			}
			fields = append(fields, field)
		}
	}
	return fields, true
}

// opendkimActions are the values of On-… and what they are with us.
var opendkimActions = map[string]milter.Action{
	"a": milter.Accept, "accept": milter.Accept, "t": milter.Tempfail, "tempfail": milter.Tempfail, "r": milter.Reject, "reject": milter.Reject,
}

func (im *opendkimImport) onDefault(s opendkim.Setting) {
	_, internal := im.source.Get("On-InternalError")
	_, signature := im.source.Get("On-SignatureError")
	if internal && signature {
		im.add(lineNotNeeded, s.Place.String(), s.Name+" "+s.Value, "On-InternalError and On-SignatureError say what counts", "")
	}
	if !internal {
		im.onInternalError(s)
	}
	if !signature {
		im.onSignatureError(s)
	}
}

func (im *opendkimImport) onInternalError(s opendkim.Setting) {
	im.outcome(s, &im.config.Outcome.StoreDown, "store_down")
}

func (im *opendkimImport) onSignatureError(s opendkim.Setting) {
	im.outcome(s, &im.config.Outcome.KeyUnusable, "key_unusable")
}

func (im *opendkimImport) outcome(s opendkim.Setting, to *milter.Action, key string) {
	action, ok := opendkimActions[strings.ToLower(s.Value)]
	cause := map[string]milter.Cause{"store_down": milter.StoreDown, "key_unusable": milter.KeyUnusable}[key]
	if !ok {
		im.openSetting(s, "waxseal neither discards nor quarantines", "choose accept, tempfail or reject")
		return
	}
	if err := (milter.Outcomes{cause: action}).Check(); err != nil {
		im.openSetting(s, err.Error(), "choose another action, or remove the line")
		return
	}
	*to = action
	im.comments["outcome."+key] = s.Place.String()
	im.taken(s, fmt.Sprintf("outcome.%s", key))
}
