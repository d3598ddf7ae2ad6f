package main

// The import from rspamd: its command, keys and tables. Its settings are in
// import_rspamd_settings.go, its files are read in internal/rspamd.

import (
	"cmp"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"waxseal/cmd/waxseal/internal/rspamd"
	"waxseal/milter/policy"
)

func (a *app) importRspamdCommand() *cobra.Command {
	var f importFlags
	var domains []string
	c := &cobra.Command{
		Use:   "rspamd DIR",
		Short: "Take over the DKIM signing and keys of rspamd",
		Long: `Read what rspamd's configuration directory says of DKIM signing, with its maps
and keys, write a configuration of waxseal that signs the same mail in the same
way, and put the keys into the keystore, active. Selectors and keys stay, so DNS
needs no change. Nothing of rspamd is changed, and it goes on with all else:
only its signing has to be switched off when waxseal takes over.

Every line is told with what becomes of it, as for "import opendkim": nothing is
written while one is "open" or "refused". A check of rspamd's that waxseal does
not make is open even when it is a default: rspamd signs only when the envelope
sender is of the author's domain, unless allow_hdrfrom_mismatch is true.

Where one key signs for every domain, as with a path without $domain, --domain
says which domains are yours. At the end stands a comparison of what rspamd does
and what waxseal will do.`,
		Example: `  waxseal import rspamd /etc/rspamd --dry-run
  waxseal import rspamd /etc/rspamd --drop allow_hdrfrom_mismatch --keystore /var/lib/waxseal/keys --output /etc/waxseal/waxseal.toml
  waxseal import rspamd /etc/rspamd --domain example.com,example.net --dry-run`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			source, err := rspamd.Read(args[0], readLimited)
			if err != nil {
				return withHint(err, "name rspamd's configuration directory, usually /etc/rspamd")
			}
			im := &rspamdImport{takeover: a.newTakeover("rspamd", args[0], f.drop), source: source, domains: domains}
			if err := im.translate(); err != nil {
				return err
			}
			return a.takeOver(c.Context(), &im.takeover, f, im.compare)
		},
	}
	a.importFlags(c, &f)
	c.Flags().StringSliceVar(&domains, "domain", nil, "`domains` of yours that keys for every domain sign for")
	return c
}

// rspamdImport is an import at work.
type rspamdImport struct {
	takeover
	source  *rspamd.Config
	signing rspamd.Signing
	domains []string        // --domain
	usable  map[string]bool // paths of keys that were taken
}

// translate says all that it can in our words.
func (im *rspamdImport) translate() error {
	im.usable = map[string]bool{}
	im.signing = rspamd.Signing{Authenticated: true, Local: true, ESLD: true, Fallback: true, Selector: "dkim", Path: "/var/lib/rspamd/dkim/$domain.$selector.key"}
	im.settings()
	im.fields()
	im.origin()
	if im.signing.ByTable() {
		im.tables()
	} else {
		im.permission()
		for i, d := range im.domains {
			var err error
			if im.domains[i], err = policy.Domain(d); err != nil {
				return misused(err)
			}
		}
		im.signingKeys()
	}
	for _, e := range im.source.Errors {
		im.add(lineRefused, e.Place.String(), "", e.Text, e.Remedy)
	}
	if len(im.takeover.keys) == 0 && im.count(lineRefused, lineOpen) == 0 {
		im.add(lineRefused, im.source.Files[0], "", "rspamd has no key to sign with that can be read here", "run as a user who may read its keys; or name your domains with --domain")
	}
	im.hints = append(im.hints, "rspamd still signs: write enabled = false; into local.d/dkim_signing.conf, reload it, and put waxseal's socket behind that of rspamd in smtpd_milters and non_smtpd_milters")
	return nil
}

// keys takes the key of every domain that rspamd has one for.
func (im *rspamdImport) signingKeys() {
	s := &im.signing
	named := s.Named()
	for _, d := range named {
		im.domain(d, true)
	}
	if !s.Fallback {
		return
	}
	path := strings.NewReplacer("${selector}", s.Selector, "$selector", s.Selector, "${domain}", "$domain").Replace(s.Path)
	var rest []string
	if strings.Contains(path, "$domain") {
		rest = domainsOfFiles(path, "$domain")
	} else if _, err := os.Stat(path); err == nil {
		if len(im.domains) == 0 {
			im.open(im.pathPlace(), "path "+s.Path, "this key signs for every domain that a sender names, and waxseal keeps keys by domain", "name the domains that are yours with --domain")
			return
		}
		im.add(lineTaken, im.pathPlace(), "path "+s.Path, "for the domains of --domain alone: rspamd signs with it for every domain that a sender names", "")
	}
	for _, d := range append(rest, im.domains...) {
		if !slices.Contains(named, d) {
			named = append(named, d)
			im.domain(d, slices.Contains(im.domains, d))
		}
	}
}

func (im *rspamdImport) pathPlace() string {
	if v := im.source.Signing.Get("path"); v != nil {
		return v.Place.String()
	}
	return "path"
}

// domain takes the keys of a domain. Those of a domain that no setting names
// are found by their files alone.
func (im *rspamdImport) domain(name string, named bool) {
	s := &im.signing
	keys := s.For(name)
	tell := func(k rspamd.Key) (place, text string) {
		if place = k.Place.String(); place == "path" {
			place = k.Path
		}
		return place, strings.TrimSpace(k.Selector + " of " + name)
	}
	for _, k := range keys {
		place, text := tell(k)
		if short := s.Shortened(name); short != name {
			why := "use_esld is on, so rspamd signs mail of " + name + " as " + short + " and never with this key"
			if named {
				im.open(place, text, why, "write use_esld = false; if the key should sign, or take the line out")
			} else {
				im.add(lineNotNeeded, place, text, why, "")
			}
			continue
		}
		taken, err := im.takeKey(name, k.Selector, im.source.Path(k.Path))
		if err != nil {
			im.open(place, text, err.Error(), "correct the key, or take the line out")
			continue
		}
		im.usable[k.Path] = true
		im.add(lineTaken, place, text, "key", "")
		if s.ESLD {
			row := defaultRow()
			row.Domain, row.Subdomains, row.Always = taken.Domain, true, true
			im.config.Row[taken.Domain] = row
			im.comments["row."+taken.Domain] = "use_esld: mail from below the domain is signed as the domain"
		}
		if im.config.Permission.Check && s.ESLD {
			if im.config.Permission.Grant == nil {
				im.config.Permission.Grant = map[string]GrantConfig{}
			}
			im.config.Permission.Grant[taken.Domain] = GrantConfig{Login: "@" + taken.Domain, Domains: []string{taken.Domain}, Subdomains: true}
			im.comments["permission.grant."+taken.Domain] = "allow_username_mismatch = false, use_esld: logins of a domain sign for all below it"
		}
	}
}

// permission says which login may sign for what.
func (im *rspamdImport) permission() {
	p := &im.config.Permission
	if im.signing.UsernameMismatch {
		p.Check = false
		im.comments["permission.check"] = "allow_username_mismatch = true"
		return
	}
	p.LoginDomains = []string{}
	im.comments["permission.login_domains"] = "allow_username_mismatch = false: a login without a domain signs for none"
}

// tables translates signing_table and key_table.
func (im *rspamdImport) tables() {
	s := &im.signing
	im.config.Permission.Check = false
	im.comments["permission.check"] = "with a signing_table rspamd lets every login sign for every domain"
	covered, addressed := map[string]string{}, map[string]string{} // domain → place of its row, and of one for an address in it
	for _, r := range s.Table {
		place, text := r.Place.String(), r.Key+" "+r.Value
		local, domain, ok := strings.Cut(strings.ToLower(r.Key), "@")
		if d, err := policy.Domain(domain); !ok || err != nil || d != domain || strings.ContainsAny(local, "*?[{") && local != "*" {
			im.open(place, text, "waxseal has rows for one address or one domain", "write *@DOMAIN or an address; or take the row out")
			continue
		}
		before := covered[domain]
		if local == "*" {
			before = cmp.Or(before, addressed[domain])
		}
		if before != "" {
			im.open(place, text, "the row at "+before+" is about the same mail, and rspamd does not say which one counts", "take one of them out")
			continue
		}
		k, why := s.TableKey(r, domain)
		if why != "" {
			im.open(place, text, why, "correct the row or take it out")
			continue
		}
		taken, err := im.takeKey(k.Domain, k.Selector, im.source.Path(k.Path))
		if err != nil {
			im.open(place, text, err.Error(), "correct the row or take it out")
			continue
		}
		im.usable[k.Path] = true
		row := defaultRow()
		name := domain
		if local == "*" {
			row.Domain = domain
			covered[domain] = place
		} else {
			name = local + "@" + domain
			row.Address = name
			addressed[domain] = place
		}
		if taken.Domain != domain {
			row.SignAs = taken.Domain
		}
		row.Selectors = []string{taken.Selector}
		im.config.Row[name] = row
		im.comments["row."+name] = place
		im.add(lineTaken, place, text, "row "+name, "")
	}
	for _, k := range im.takeover.keys {
		if covered[k.Domain] == "" {
			row := defaultRow()
			row.Domain, row.Enabled, row.Reason = k.Domain, false, "rspamd did not sign it"
			im.config.Row[k.Domain] = row
			im.comments["row."+k.Domain] = "rspamd has a key of this domain, and no row for all of its mail"
		}
	}
}

// compare draws senders and clients from the domains and networks.
func (im *rspamdImport) compare(config *decoded) (*comparison, error) {
	var from []string
	for _, k := range im.takeover.keys {
		from = append(from, around(k.Domain)...)
	}
	for _, r := range im.signing.Table {
		if _, domain, ok := strings.Cut(r.Key, "@"); ok {
			from = append(from, strings.Replace(r.Key, "*", "someone", 1))
			from = append(from, around(strings.ToLower(domain))...)
		}
	}
	var networks []netip.Prefix
	for _, list := range [][]netip.Prefix{im.signing.Networks, im.signing.LocalNetworks} {
		networks = append(networks, list...)
	}
	cases := senderCases(from, networks)
	for i := range cases {
		c := &cases[i]
		keys, why := im.signing.Decide(rspamd.Client{Address: c.connection.Client, Login: c.login}, c.from)
		c.theirs.why = why
		for _, k := range keys {
			if im.usable[k.Path] {
				c.theirs.signatures = append(c.theirs.signatures, imprint{k.Domain, k.Selector, ""})
			}
		}
	}
	return im.takeover.compare(config, cases)
}

// networks reads a setting with networks; one that holds the whole Internet is
// not taken without a word.
func (im *rspamdImport) networks(v *rspamd.Value, name string) []netip.Prefix {
	list := im.source.Networks(v)
	return slices.DeleteFunc(list, func(p netip.Prefix) bool {
		if wide(p) {
			im.open(v.Place.String(), name+" "+p.String(), "it holds the whole Internet, so rspamd signs for everybody", "list your networks")
			return true
		}
		return false
	})
}
