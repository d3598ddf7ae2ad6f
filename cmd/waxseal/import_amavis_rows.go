package main

// The senders of amavis as rows of ours.

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"waxseal/cmd/waxseal/internal/amavis"
	"waxseal/milter/policy"
	"waxseal/signer"
)

// senders makes rows of the entries for senders, the general ones first.
func (im *amavisImport) senders() {
	for _, s := range im.model.Senders {
		if s.Key == "." {
			im.general(s)
		}
	}
	for _, s := range im.model.Senders {
		place, text := s.Place.String(), s.Key
		switch {
		case s.Key == ".":
		case strings.Contains(s.Key, "@"):
			local, domain, _ := strings.Cut(strings.ToLower(s.Key), "@")
			if d, err := policy.Domain(domain); err != nil || d != domain {
				im.open(place, text, "no address", "correct it")
				continue
			}
			im.row(s, local+"@"+domain, local+"@"+domain, func(r *RowConfig) { r.Address = local + "@" + domain })
		default:
			bare, below := strings.CutPrefix(strings.ToLower(s.Key), ".")
			if d, err := policy.Domain(bare); err != nil || d != bare {
				im.open(place, text, "no domain", "correct it")
				continue
			}
			name := strings.ToLower(s.Key)
			im.row(s, "someone@"+bare, name, func(r *RowConfig) { r.Domain, r.Subdomains, r.Always = bare, below, below })
		}
	}
}

// general takes the options for all senders.
func (im *amavisImport) general(s amavis.Sender) {
	place := s.Place.String()
	if c := s.Options["c"]; c != "" {
		header, body, err := signer.ParseCanonicalization(c)
		if err == nil {
			im.config.Signing.Canonicalization = Canonicalization{header, body}
			im.comments["signing.canonicalization"] = place
		}
	}
	if ttl, err := strconv.Atoi(s.Options["ttl"]); err == nil {
		im.config.Signing.Expiry = Duration(time.Duration(ttl) * time.Second)
		im.comments["signing.expiry"] = place
	}
	if s.Options["d"] == "" && s.Options["s"] == "" && s.Options["i"] == "" {
		im.add(lineTaken, place, ".", "signing", "")
		return
	}
	im.row(s, elsewhere, "*", func(r *RowConfig) { r.Domain, r.Always = "*", true })
}

// row makes a row of what amavis does with an address that stands for all that an
// entry is about.
func (im *amavisImport) row(s amavis.Sender, address, name string, about func(*RowConfig)) {
	place := s.Place.String()
	if before := im.rows[name]; before != "" {
		return // the entries were looked up together
	}
	im.rows[name] = place
	row := defaultRow()
	about(&row)
	options := im.model.Options(address)
	key, identity := im.model.Decide(address)
	switch {
	case key == nil && options["d"] == "" && row.Address == "":
		// No key of the domain itself; what is below it has none either.
		row.Always, row.Enabled, row.Reason = false, false, "amavis has no key for it"
	case key == nil:
		im.open(place, s.Key, "amavis has no key for it, and leaves such mail unsigned", "add the dkim_key line, or take the entry out")
		row.Always, row.Enabled, row.Reason = false, false, "amavis has no key for it"
	case row.Subdomains && options["d"] == "":
		// Mail from below the domain would be signed as the domain below.
		im.add(lineDefault, place, s.Key, "without d amavis signs mail from below the domain as where it comes from, so this is taken for the domain alone", "")
		row.Subdomains, row.Always = false, false
		im.give(&row, key, identity)
	default:
		im.give(&row, key, identity)
	}
	im.rowOptions(&row, options)
	im.config.Row[name] = row
	im.comments["row."+name] = place
	im.add(lineTaken, place, s.Key, "row "+name, "")
}

// give lets a row sign with a key.
func (im *amavisImport) give(row *RowConfig, key *amavis.Key, identity string) {
	k, err := im.take(key)
	if err != nil {
		im.open(key.Place.String(), key.Selector+" of "+key.Domain, err.Error(), "correct the key or take it out")
		row.Always, row.Enabled, row.Reason = false, false, "the key of amavis cannot be used"
		return
	}
	own := row.Domain
	if row.Address != "" {
		_, own, _ = strings.Cut(row.Address, "@")
	}
	if k.Domain != own || row.Domain == "*" {
		row.SignAs = k.Domain
	}
	row.Selectors = []string{k.Selector}
	if !row.Subdomains && row.Domain != "*" {
		row.Identity = identity
	}
}

// rowOptions sets what a row has in place of the general settings.
func (im *amavisImport) rowOptions(row *RowConfig, options map[string]string) {
	if header, body, err := signer.ParseCanonicalization(options["c"]); err == nil && (Canonicalization{header, body}) != im.config.Signing.Canonicalization {
		row.Canonicalization = options["c"]
	}
	if ttl, err := strconv.Atoi(options["ttl"]); err == nil && Duration(time.Duration(ttl)*time.Second) != im.config.Signing.Expiry {
		row.Expiry = Duration(time.Duration(ttl) * time.Second)
		row.NeverExpires = ttl == 0
	}
}

// take takes a key into the keystore.
func (im *amavisImport) take(key *amavis.Key) (*importedKey, error) {
	im.used[key] = true
	k, err := im.takeKey(key.Domain, key.Selector, key.Path)
	if err == nil {
		im.add(lineTaken, key.Place.String(), key.Selector+" of "+key.Domain, "key", "")
	}
	return k, err
}

// remaining takes the keys of domains without an entry. Of several for a domain
// amavis uses the first; others stay out, as an active key signs.
func (im *amavisImport) remaining() {
	for i := range im.model.Keys {
		key := &im.model.Keys[i]
		chosen, _ := im.model.Decide("someone@" + key.Domain)
		switch {
		case chosen == key && !im.used[key]:
			if _, err := im.take(key); err != nil {
				im.open(key.Place.String(), key.Selector+" of "+key.Domain, err.Error(), "correct the key or take it out")
			}
		case !im.used[key]:
			im.add(lineNotNeeded, key.Place.String(), key.Selector+" of "+key.Domain, "amavis never signs with it, as another key of the domain comes first", "")
		}
	}
	for _, k := range im.keys {
		chosen, _ := im.model.Decide("someone@" + k.Domain)
		if _, ok := im.config.Row[k.Domain]; ok {
			continue
		}
		row := defaultRow()
		row.Domain = k.Domain
		switch {
		case chosen == nil || !im.used[chosen]:
			row.Enabled, row.Reason = false, "amavis did not sign it"
		case chosen.Domain != k.Domain || len(im.selectors(k.Domain)) > 1 || im.config.Row["*"].Always:
			im.give(&row, chosen, "")
			im.rowOptions(&row, im.model.Options("someone@"+k.Domain))
		default:
			continue
		}
		if above, ok := im.config.Row["."+k.Domain]; ok && above.Enabled {
			continue // is about the domain, too
		}
		im.config.Row[k.Domain] = row
		im.comments["row."+k.Domain] = "what amavis does with the domain itself"
	}
}

// compare draws senders and clients from keys and entries.
func (im *amavisImport) compare(config *decoded) (*comparison, error) {
	var from []string
	for i := range im.model.Keys {
		from = append(from, around(im.model.Keys[i].Domain)...)
	}
	for _, s := range im.model.Senders {
		local, domain, ok := strings.Cut(s.Key, "@")
		if !ok {
			local, domain = "someone", strings.TrimPrefix(s.Key, ".")
		}
		if domain != "" && local != "" {
			from = append(from, local+"@"+domain)
			from = append(from, around(strings.ToLower(domain))...)
		}
	}
	cases := senderCases(from, im.networks)
	for i := range cases {
		c := &cases[i]
		client := c.connection.Client
		if c.login == "" && client.IsValid() && !slices.ContainsFunc(im.networks, func(p netip.Prefix) bool { return p.Contains(client) }) {
			c.theirs.why = "not originating"
			continue
		}
		c.theirs.why = "its sender maps and keys"
		if k, identity := im.model.Decide(c.from); k != nil && len(im.selectors(k.Domain)) > 0 && slices.Contains(im.selectors(k.Domain), k.Selector) {
			c.theirs.signatures = []imprint{{k.Domain, k.Selector, identity}}
		}
	}
	return im.takeover.compare(config, cases)
}
