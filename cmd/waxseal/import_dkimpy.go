package main

// The import from dkimpy-milter: its command, and its tables. Its other settings
// are in import_dkimpy_settings.go, its files are read in internal/dkimpy.

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"waxseal/cmd/waxseal/internal/dkimpy"
	"waxseal/milter/policy"
)

func (a *app) importDkimpyCommand() *cobra.Command {
	var f importFlags
	c := &cobra.Command{
		Use:   "dkimpy FILE",
		Short: "Take over the configuration, tables and keys of dkimpy-milter",
		Long: `Read the configuration of dkimpy-milter with its tables and keys, write one of
waxseal that signs with the same keys, and put them into the keystore, active.
Selectors and keys stay, so DNS needs no change. Nothing of dkimpy-milter is
changed.

dkimpy-milter 1.2 signs all mail with an author in its domains, whoever sends
it, and uses InternalHosts only for verifying. waxseal signs for logins, for this
machine, and for InternalHosts and MacroList. So the comparison at the end always
tells of a difference, for strangers, and the exit status is 1.

Every line is told with what becomes of it, as for "import opendkim": nothing is
written while one is "open" or "refused".`,
		Example: `  waxseal import dkimpy /etc/dkimpy-milter/dkimpy-milter.conf --dry-run
  waxseal import dkimpy /etc/dkimpy-milter/dkimpy-milter.conf --keystore /var/lib/waxseal/keys --output /etc/waxseal/waxseal.toml`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			source, err := dkimpy.Read(args[0], readLimited)
			if err != nil {
				return withHint(err, "name dkimpy-milter's configuration file, usually /etc/dkimpy-milter/dkimpy-milter.conf")
			}
			im := &dkimpyImport{takeover: a.newTakeover("dkimpy-milter", args[0], f.drop), source: source}
			im.translate()
			return a.takeOver(c.Context(), &im.takeover, f, im.compare)
		},
	}
	a.importFlags(c, &f)
	return c
}

// dkimpyImport is an import at work.
type dkimpyImport struct {
	takeover
	source   *dkimpy.Config
	model    dkimpy.Model
	networks []netip.Prefix
}

// translate says all that it can in our words.
func (im *dkimpyImport) translate() {
	for _, s := range im.source.Unknown {
		im.open(s.Place.String(), strings.TrimSpace(s.Name+" "+s.Value), "dkimpy-milter does not know this name, or misses a value, and passes over the line without a word", "correct it or take it out; upper and lower case count")
	}
	for _, s := range im.source.Lost {
		by, _ := im.source.Get(s.Name)
		im.add(lineNotNeeded, s.Place.String(), s.Name+" "+s.Value, "the one at "+by.Place.String()+" counts, as the last of its name", "")
	}
	im.settings()
	im.origin()
	if _, ok := im.source.Get("SigningTable"); ok {
		im.tables()
	} else {
		im.simple()
	}
	if len(im.keys) == 0 && im.count(lineRefused, lineOpen) == 0 {
		im.add(lineRefused, im.takeover.source, "", "dkimpy-milter has no key to sign with", "waxseal has nothing to take over from it")
	}
}

// place is where a setting stands.
func (im *dkimpyImport) place(name string) string {
	s, _ := im.source.Get(name)
	return s.Place.String()
}

// dataSet reads a data set; what dkimpy-milter passes over in it is told.
func (im *dkimpyImport) dataSet(name string) dkimpy.DataSet {
	d, err := im.source.DataSet(name)
	if err != nil {
		im.add(lineRefused, im.place(name), name, err.Error(), "correct the path, or run as a user who may read the file")
	}
	for _, r := range d.Ignored {
		im.open(r.Place.String(), r.Key, "dkimpy-milter passes over this row: another has its key, or it has not as many words as the rest", "correct it or take it out")
	}
	return d
}

// simple takes the keys of Domain, Selector and KeyFile.
func (im *dkimpyImport) simple() {
	if _, ok := im.source.Get("KeyTable"); ok {
		im.add(lineRefused, im.place("KeyTable"), "KeyTable", "without a SigningTable dkimpy-milter signs nothing with it", "add the SigningTable")
		return
	}
	im.model.SubDomains = dkimpy.Yes(im.source.Text("SubDomains", "no"))
	for _, suffix := range []string{"", "Ed25519"} {
		if s, ok := im.source.Get("KeyFile" + suffix); ok {
			im.model.Keys = append(im.model.Keys, dkimpy.Key{Selector: im.source.Text("Selector"+suffix, ""), Path: s.Value, Place: s.Place})
		}
	}
	for _, r := range im.dataSet("Domain").Rows {
		d, err := policy.Domain(r.Key)
		if err != nil || d != r.Key {
			im.open(r.Place.String(), "Domain "+r.Key, "this never matched, as dkimpy-milter compares it with a domain in lower case", "write one domain in lower case, or several with commas and no blanks between them")
			continue
		}
		im.model.Domains = append(im.model.Domains, d)
		taken := false
		for _, k := range im.model.Keys {
			if _, err := im.takeKey(d, k.Selector, k.Path); err != nil {
				im.open(k.Place.String(), "key of "+d, err.Error(), "correct the key or its selector")
				continue
			}
			taken = true
		}
		if taken {
			im.add(lineTaken, r.Place.String(), "Domain "+r.Key, "keys", "")
		}
		if taken && im.model.SubDomains {
			row := defaultRow()
			row.Domain, row.Subdomains, row.Always = d, true, true
			im.config.Row[d] = row
			im.comments["row."+d] = im.place("SubDomains")
		}
	}
	if im.model.SubDomains && slices.ContainsFunc(im.model.Domains, func(d string) bool { return im.parentOf(d) != "" }) {
		im.open(im.place("SubDomains"), "SubDomains", "one of the domains is below another, and the order in Domain decides which one signs", "take SubDomains out, or list only domains that are not below each other")
	}
}

// parentOf returns a domain of the list that a domain is below.
func (im *dkimpyImport) parentOf(domain string) string {
	for _, d := range im.model.Domains {
		if strings.HasSuffix(domain, "."+d) {
			return d
		}
	}
	return ""
}

// tables takes the rows of the SigningTable, and their keys.
func (im *dkimpyImport) tables() {
	if _, ok := im.source.Get("Domain"); ok {
		im.open(im.place("Domain"), "Domain "+im.source.Text("Domain", ""), "beside a SigningTable dkimpy-milter adds every author's domain to it as mail comes", "take the line out; the table is enough")
	}
	for _, name := range []string{"KeyTable", "KeyTableEd25519"} {
		if d := im.dataSet(name); len(d.Rows) > 0 {
			im.model.Tables = append(im.model.Tables, im.keyTable(name, d))
		}
	}
	if len(im.model.Tables) == 0 {
		im.add(lineRefused, im.place("SigningTable"), "SigningTable", "without a KeyTable dkimpy-milter signs every author's domain with one key", "write a KeyTable; or take the SigningTable out and list the domains in Domain")
		return
	}
	im.add(lineDefault, "letters", "", "dkimpy-milter compares senders with its table in upper and lower case, and waxseal without regard to it: Ann@Example.com is signed, too", "")
	d := im.dataSet("SigningTable")
	im.model.Rows = []dkimpy.Row{}
	covered := map[string]string{}
	for _, r := range d.Rows {
		place, text := r.Place.String(), strings.TrimSpace(r.Key+" "+strings.Join(r.Values, ":"))
		if !d.Keyed || len(r.Values) > 2 {
			im.open(place, text, "want a pattern and a key", "correct the row")
			continue
		}
		im.model.Rows = append(im.model.Rows, r)
		local, domain, ok := strings.Cut(r.Key, "@")
		name := strings.ToLower(r.Key)
		if local == "*" {
			name = domain
		}
		asDomain, err := policy.Domain(domain)
		switch {
		case !ok || err != nil || local != "*" && strings.Contains(local, "*"):
			im.open(place, text, "waxseal has rows for one address or one domain", "write *@DOMAIN or an address")
			continue
		case asDomain != domain:
			im.open(place, text, "dkimpy-milter compares this with upper and lower case, so it matches hardly ever", "write it in lower case")
			continue
		case covered[domain] != "":
			im.add(lineNotNeeded, place, text, "the row at "+covered[domain]+" comes first, so dkimpy-milter never gets here", "")
			continue
		case covered[name] != "":
			im.add(lineNotNeeded, place, text, "the row at "+covered[name]+" comes first", "")
			continue
		}
		covered[name] = place
		im.row(r, text, name, domain)
	}
	im.coverDomains(covered)
}

// row makes our row of one of the SigningTable.
func (im *dkimpyImport) row(r dkimpy.Row, text, name, domain string) {
	place := r.Place.String()
	found, _ := (&dkimpy.Model{Rows: []dkimpy.Row{r}, Tables: im.model.Tables}).Decide(strings.Replace(r.Key, "*", "someone", 1))
	row := defaultRow()
	if name == domain {
		row.Domain = domain
	} else {
		row.Address = name
	}
	for _, s := range found {
		k, err := im.takeKey(s.Domain, s.Selector, s.Path)
		if err == nil && row.SignAs != "" && row.SignAs != k.Domain {
			err = fmt.Errorf("its keys are of two domains, %s and %s, and waxseal signs a message for one", row.SignAs, k.Domain)
		}
		if err != nil {
			im.open(s.Place.String(), s.Selector+" of "+s.Domain, err.Error(), "correct the key or take it out")
			continue
		}
		row.SignAs, row.Identity = k.Domain, s.Identity
		row.Selectors = append(row.Selectors, k.Selector)
	}
	if len(row.Selectors) == 0 {
		im.open(place, text, "it has no key that can be used, and dkimpy-milter fails for such mail", "correct the row or take it out")
		row.SignAs, row.Identity, row.Enabled, row.Reason = "", "", false, "dkimpy-milter had no key for it"
	} else {
		im.add(lineTaken, place, text, "row "+name, "")
	}
	if row.SignAs == domain {
		row.SignAs = ""
	}
	im.config.Row[name] = row
	im.comments["row."+name] = place
}

// coverDomains keeps domains unsigned that have keys, but no row of their own.
func (im *dkimpyImport) coverDomains(covered map[string]string) {
	for _, k := range im.keys {
		if covered[k.Domain] == "" {
			row := defaultRow()
			row.Domain, row.Enabled, row.Reason = k.Domain, false, "dkimpy-milter did not sign it"
			im.config.Row[k.Domain] = row
			im.comments["row."+k.Domain] = "dkimpy-milter has a key of this domain, and no row for all of its mail"
		}
	}
}

// keyTable reads a table of keys.
func (im *dkimpyImport) keyTable(name string, d dkimpy.DataSet) map[string]dkimpy.Key {
	table := map[string]dkimpy.Key{}
	for _, r := range d.Rows {
		place, text := r.Place.String(), r.Key
		switch {
		case !d.Keyed || len(r.Values) != 3:
			im.open(place, text, "want domain:selector:path", "correct the row")
			continue
		case !strings.HasPrefix(r.Values[2], "/"):
			im.open(place, text, "the key is no file with its whole path, and dkimpy-milter takes another row's key in its place", "write the path")
			continue
		}
		table[r.Key] = dkimpy.Key{Domain: r.Values[0], Selector: r.Values[1], Path: r.Values[2], Place: r.Place}
		im.add(lineTaken, place, text, name, "")
	}
	return table
}

// compare draws senders and clients from the tables.
func (im *dkimpyImport) compare(config *decoded) (*comparison, error) {
	var from []string
	for _, k := range im.keys {
		from = append(from, around(k.Domain)...)
	}
	for _, r := range im.model.Rows {
		if _, domain, ok := strings.Cut(r.Key, "@"); ok {
			from = append(from, strings.Replace(r.Key, "*", "someone", 1))
			from = append(from, around(strings.ToLower(domain))...)
		}
	}
	// Case counts in its tables, which is not what anybody meant.
	from = slices.DeleteFunc(from, func(s string) bool { return im.model.Rows != nil && strings.ToLower(s) != s })
	cases := senderCases(from, im.networks)
	for i := range cases {
		c := &cases[i]
		found, why := im.model.Decide(c.from)
		c.theirs.why = why
		for _, s := range found {
			if slices.ContainsFunc(im.keys, func(k *importedKey) bool { return k.From == s.Path && k.Domain == s.Domain }) {
				c.theirs.signatures = append(c.theirs.signatures, imprint{s.Domain, s.Selector, s.Identity})
			}
		}
	}
	return im.takeover.compare(config, cases)
}
