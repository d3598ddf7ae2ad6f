package main

// The import from amavis: its command, keys and networks. Its senders are in
// import_amavis_rows.go, what its Perl says is read in internal/amavis.

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"waxseal/cmd/waxseal/internal/amavis"
	"waxseal/signer"
)

func (a *app) importAmavisCommand() *cobra.Command {
	var f importFlags
	c := &cobra.Command{
		Use:   "amavis FILE",
		Short: "Take over the DKIM keys and sender options of amavis",
		Long: `Read the dkim_key lines of a configuration of amavis, its
@dkim_signature_options_bysender_maps and @mynetworks, write a configuration of
waxseal that signs in the same way, and put the keys into the keystore, active.
Selectors and keys stay, so DNS needs no change. Nothing of amavis is changed,
and it goes on with all else. FILE may be a directory such as Debian's
/etc/amavis/conf.d: its files are read in order.

The configuration is a program in Perl, which is not run. Lines with constants
are read where they begin without blanks; every other line that has to do with
DKIM is "open", as one in a loop or behind a condition. Every line is told with what becomes of it, as for
"import opendkim".

amavis signs what is "originating": clients in @mynetworks, and what comes by a
port with such a policy bank. waxseal signs for logins, this machine, @mynetworks,
and daemons with the name ORIGINATING. It signs as the author's domain, and never
as that of Sender or the envelope, as amavis does when the author's has no key.`,
		Example: `  waxseal import amavis /etc/amavis/conf.d --dry-run
  waxseal import amavis /etc/amavisd/amavisd.conf --keystore /var/lib/waxseal/keys --output /etc/waxseal/waxseal.toml`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			im := &amavisImport{takeover: a.newTakeover("amavis", args[0], f.drop), rows: map[string]string{}}
			if err := im.read(args[0]); err != nil {
				return withHint(err, "name amavis's configuration, usually /etc/amavis/conf.d or /etc/amavisd/amavisd.conf")
			}
			im.translate()
			return a.takeOver(c.Context(), &im.takeover, f, im.compare)
		},
	}
	a.importFlags(c, &f)
	return c
}

// amavisImport is an import at work.
type amavisImport struct {
	takeover
	statements []amavis.Statement
	model      amavis.Model
	networks   []netip.Prefix
	used       map[*amavis.Key]bool
	rows       map[string]string // what rows are about → place
}

// read reads a file, or all of a directory.
func (im *amavisImport) read(path string) error {
	files := []string{path}
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		entries, err := os.ReadDir(path)
		if err != nil {
			return err
		}
		files = nil
		for _, e := range entries {
			// Debian's program takes files with such names only.
			if e.Type().IsRegular() && !strings.ContainsAny(e.Name(), ".~") {
				files = append(files, filepath.Join(path, e.Name()))
			}
		}
	}
	for _, f := range files {
		text, err := readLimited(f)
		if err != nil {
			return err
		}
		im.statements = append(im.statements, amavis.Parse(f, string(text))...)
	}
	if len(im.statements) == 0 {
		return fmt.Errorf("%s: no line there has to do with DKIM", path)
	}
	return nil
}

// translate says all that it can in our words.
func (im *amavisImport) translate() {
	im.used = map[*amavis.Key]bool{}
	im.config.Signing.Canonicalization = Canonicalization{signer.Relaxed, signer.Simple}
	im.comments["signing.canonicalization"] = "amavis's default"
	im.config.Permission.Check = false
	im.comments["permission.check"] = "amavis lets every login sign for every domain. Without this line a login\nsigns for its own domain, and for what [permission] gives it."
	im.statement()
	if im.networks == nil {
		for _, n := range []string{"127.0.0.0/8", "::1/128", "169.254.0.0/16", "fe80::/10", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7"} {
			im.networks = append(im.networks, netip.MustParsePrefix(n))
		}
		im.comments["origin.networks"] = "amavis's default for @mynetworks; take out what is not yours"
	}
	im.config.Origin.Networks = prefixStrings(im.networks)
	im.senders()
	im.remaining()
	if len(im.keys) == 0 && im.count(lineRefused, lineOpen) == 0 {
		im.add(lineRefused, im.source, "", "amavis has no key to sign with", "waxseal has nothing to take over from it")
	}
	im.add(lineDefault, "originating", "", "amavis signs what its policy banks call originating; waxseal signs for logins, this machine, @mynetworks and daemons named ORIGINATING", "see the table origin")
	im.add(lineDefault, "logins", "", "amavis lets every login sign for every domain, and so does what is written: permission.check = false", "take that line out to hold logins to their own domains")
	im.add(lineDefault, "spam", "", "amavis does not sign what it takes for spam; waxseal behind it signs what amavis lets through", "")
	im.add(lineDefault, "authors", "", "where the author's domain has no key, amavis goes on to Resent-From, Sender and the envelope; waxseal signs as the author's domain only", "")
	im.hints = append(im.hints,
		"amavis still signs: write $enable_dkim_signing = 0; into its configuration when waxseal takes over",
		"waxseal has to see mail behind amavis, which changes it: put its socket into smtpd_milters of the port that amavis hands mail back to, and see that mail from outside does not come there from a client in origin.networks")
}

// statement takes each line.
func (im *amavisImport) statement() {
	signs := false
	for _, s := range im.statements {
		place := s.Place.String()
		if s.Err != nil {
			im.open(place, s.Text, s.Err.Error(), "write it with constants in a line of its own, without blanks before it, or take it out")
			continue
		}
		switch s.Name {
		case "$enable_dkim_signing":
			signs = s.Value.Text != "" && s.Value.Text != "0"
			im.add(lineTaken, place, s.Text, "waxseal signs", "")
		case "dkim_key":
			im.key(s)
		case "@dkim_signature_options_bysender_maps":
			im.maps(s)
		case "@mynetworks":
			im.mynetworks(s)
		default:
			im.add(lineNotNeeded, place, s.Text, "about verifying, which waxseal does not do", "")
		}
	}
	if !signs {
		im.add(lineRefused, im.source, "$enable_dkim_signing", "it is not set to 1, so this amavis does not sign", "set it, or name the file that sets it; waxseal has nothing to take over otherwise")
	}
}

// key reads a dkim_key line.
func (im *amavisImport) key(s amavis.Statement) {
	place := s.Place.String()
	items := s.Value.Items
	if len(items) < 3 || slices.ContainsFunc(items, func(v amavis.Value) bool { return v.IsList }) {
		im.open(place, s.Text, "want a domain, a selector and a file", "correct the line")
		return
	}
	k := amavis.Key{Domain: strings.ToLower(items[0].Text), Selector: strings.ToLower(items[1].Text), Path: items[2].Text, Place: s.Place}
	names, values, err := amavis.Value{IsList: true, Items: items[3:]}.Pairs()
	if err != nil {
		im.open(place, s.Text, err.Error(), "correct the line")
		return
	}
	for i, name := range names {
		switch {
		case name == "k":
			k.Kind = "rsa" // whatever it says, for a key in a file
		case name == "t" && strings.Contains(values[i].Text, "s"):
			im.open(place, s.Text, "t=s lets no subdomain of the key's domain sign, which the record in DNS has to say", "check that the record says t=s, and take the option out")
		}
	}
	if strings.Contains(k.Domain, "*") {
		im.open(place, s.Text, "it signs for every domain that fits, and waxseal keeps keys by domain", "write a line for each domain that is yours")
		return
	}
	im.model.Keys = append(im.model.Keys, k)
}

// maps reads @dkim_signature_options_bysender_maps.
func (im *amavisImport) maps(s amavis.Statement) {
	place := s.Place.String()
	im.model.Senders = nil // a second one takes the place of the first
	if len(s.Value.Items) != 1 {
		im.open(place, s.Text, "waxseal takes one hash of senders", "write all senders into one { … }")
		return
	}
	senders, options, err := s.Value.Items[0].Pairs()
	if err != nil {
		im.open(place, s.Text, err.Error(), "correct it")
		return
	}
	for i, sender := range senders {
		text := sender
		if strings.HasSuffix(sender, "@") {
			im.open(place, text, "waxseal has no rows for a name in all domains", "write a row for each domain")
			continue
		}
		names, values, err := options[i].Pairs()
		if err != nil {
			im.open(place, text, err.Error(), "correct it")
			continue
		}
		entry := amavis.Sender{Key: sender, Options: map[string]string{}, Place: s.Place}
		for j, name := range names {
			value := values[j].Text
			switch {
			case values[j].IsList || !slices.Contains([]string{"d", "s", "a", "c", "i", "ttl"}, name):
				im.open(place, text+" "+name, "waxseal has no such option for a sender", "take it out")
				continue
			case name == "a" && value != "rsa-sha256" && value != "ed25519-sha256":
				im.open(place, text+" "+name+" => "+value, "waxseal signs with SHA-256, the algorithm of the key", "take it out")
				continue
			case name == "ttl":
				if seconds, err := strconv.Atoi(value); err != nil || seconds < 0 || time.Duration(seconds) > signer.MaxLifetime/time.Second {
					im.open(place, text+" ttl => "+value, "waxseal takes at most "+Duration(signer.MaxLifetime).String(), "set a number of seconds up to that")
					continue
				}
			case name == "c":
				if _, _, err := signer.ParseCanonicalization(value); err != nil {
					im.open(place, text+" c => "+value, err.Error(), "correct it")
					continue
				}
			case name == "d" || name == "s":
				value = strings.ToLower(value)
			}
			entry.Options[name] = value
		}
		im.model.Senders = append(im.model.Senders, entry)
	}
}

// mynetworks reads @mynetworks.
func (im *amavisImport) mynetworks(s amavis.Statement) {
	place := s.Place.String()
	im.networks = []netip.Prefix{}
	im.comments["origin.networks"] = place
	for _, v := range s.Value.Items {
		p, err := amavisNetwork(v.Text)
		switch {
		case strings.HasPrefix(v.Text, "!"):
			im.add(lineRefused, place, v.Text, "waxseal has no exclusions in its networks", "list what is left over in its place")
		case err != nil || v.IsList:
			im.open(place, v.Text, "no network", "write it like 192.0.2.0/24")
		case wide(p):
			im.open(place, v.Text, "it holds the whole Internet, so amavis signs for everybody", "list your networks")
		default:
			im.networks = append(im.networks, p.Masked())
			im.add(lineTaken, place, "@mynetworks "+v.Text, "origin.networks", "")
		}
	}
}

// amavisNetwork reads a network, of which an IPv4 one may lack its last numbers,
// and an IPv6 one may have brackets.
func amavisNetwork(text string) (netip.Prefix, error) {
	address, bits, cut := strings.Cut(strings.NewReplacer("[", "", "]", "").Replace(text), "/")
	if !strings.Contains(address, ":") && cut {
		for strings.Count(address, ".") < 3 {
			address += ".0"
		}
	}
	a, err := netip.ParseAddr(address)
	if err != nil || !cut {
		return netip.PrefixFrom(a, a.BitLen()), err
	}
	return netip.ParsePrefix(a.String() + "/" + bits)
}
