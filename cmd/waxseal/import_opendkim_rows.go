package main

// The tables of an OpenDKIM as rows of ours.

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"waxseal/cmd/waxseal/internal/opendkim"
	"waxseal/milter"
	"waxseal/milter/policy"
)

// entry is what a set of senders is signed with. The rows of OpenDKIM's table
// become entries, some of them several.
type entry struct {
	scope opendkim.Scope
	rank  opendkim.Scope // of the row that it comes from
	place string
	text  string

	key      *importedKey // nil: none
	identity string
	putOff   bool   // without a key, mail waits
	reason   string // why there is none
}

// rows translates the tables.
func (im *opendkimImport) rows() {
	t := im.model.Tables
	var entries []*entry
	for i := range t.Rules {
		entries = append(entries, im.entries(&t.Rules[i])...)
	}
	var scopes []opendkim.Scope
	for _, e := range entries {
		if !slices.Contains(scopes, e.scope) {
			scopes = append(scopes, e.scope)
		}
	}
	plain := map[string][]*entry{} // rows that say what would be without them, by domain
	for _, s := range scopes {
		chosen := im.choose(entries, s)
		if chosen == nil {
			continue
		}
		row := im.row(s, chosen)
		if s.Kind == opendkim.Domain && isPlain(row) {
			plain[s.Domain] = chosen
			continue
		}
		im.addRow(s, row, chosen)
	}
	im.coverApexes(entries, plain)
	im.coverDomains(entries)
	for _, domain := range sortedKeys(plain) {
		s := opendkim.Scope{Kind: opendkim.Domain, Domain: domain}
		if im.heldByRow(s) {
			im.addRow(s, im.row(s, plain[domain]), plain[domain])
			continue
		}
		for _, e := range plain[domain] {
			im.add(lineTaken, e.place, e.text, "a domain signs with its own keys without a row", "")
		}
	}
	im.unusedKeys()
}

// entries reads a row of the SigningTable. What cannot be taken is told.
func (im *opendkimImport) entries(r *opendkim.Rule) []*entry {
	text := r.Pattern
	if !im.model.Tables.Simple {
		text = strings.TrimSpace(r.Pattern + " " + r.KeyName)
		if r.Signer != "" {
			text += ":" + r.Signer
		}
	}
	e := &entry{scope: bareScope(r.Scope), rank: bareScope(r.Scope), place: r.Place.String(), text: text}
	fail := func(why, remedy string) []*entry {
		im.open(e.place, text, why, remedy)
		e.reason = "not taken from OpenDKIM: " + why
		return []*entry{e}
	}
	switch {
	case r.Scope.Kind == opendkim.Nobody || r.Scope.Kind == opendkim.Other:
		im.open(e.place, text, r.Scope.Why, r.Scope.Meant)
		return nil
	case r.Bad != "":
		return fail(r.Bad, "correct the row")
	}
	if r.Scope.Domain != "" {
		d, err := policy.Domain(r.Scope.Domain)
		if err != nil {
			return fail(err.Error(), "correct the name")
		}
		e.scope.Domain, e.rank.Domain = d, d
	}
	open := r.Scope.Kind == opendkim.Below || r.Scope.Kind == opendkim.All
	if strings.Contains(r.Signer, "%") && open {
		return fail("the signer depends on the sender's domain, for which waxseal has no setting in a row for many domains", "write a row for each domain, or take the signer out")
	}
	if r.KeyName == "%" && open {
		return im.expandNames(r, e)
	}
	name := r.KeyName
	if name == "%" {
		name = e.scope.Domain
	}
	k, ok := im.model.Tables.Key(name)
	if !ok {
		return fail("the key "+name+" is not in the KeyTable, and OpenDKIM puts off such mail", "add the key or remove the row")
	}
	if k.Domain == "%" && open {
		return im.expandFiles(r, k, e)
	}
	if err := im.give(e, r, k, e.scope.Domain); err != nil {
		return fail("key "+name+" at "+k.Place.String()+": "+err.Error(), "correct the key or remove the row")
	}
	return []*entry{e}
}

// bareScope is a scope that can be compared.
func bareScope(s opendkim.Scope) opendkim.Scope {
	return opendkim.Scope{Kind: s.Kind, Local: s.Local, Domain: s.Domain}
}

// give lets an entry sign with a key, for an author domain.
func (im *opendkimImport) give(e *entry, r *opendkim.Rule, k *opendkim.Key, author string) error {
	domain := k.Domain
	if domain == "%" {
		domain = author
	}
	key, err := im.take(k, domain)
	if err != nil {
		return err
	}
	e.key = key
	signer := strings.ReplaceAll(r.Signer, "%", author)
	if signer == "" {
		return nil
	}
	_, of, _ := cutLast(strings.ToLower(signer), "@")
	if of != key.Domain && !strings.HasSuffix(of, "."+key.Domain) {
		im.add(lineNotNeeded, e.place, e.text, "the signer "+signer+" is outside of "+key.Domain+", so OpenDKIM leaves i= out", "")
		return nil
	}
	e.identity = signer
	return nil
}

// expandNames makes entries of a row whose key has the name of the sender's
// domain: one for each such key, and one without a key for the rest.
func (im *opendkimImport) expandNames(r *opendkim.Rule, e *entry) []*entry {
	var all []*entry
	for i := range im.model.Tables.Keys {
		k := &im.model.Tables.Keys[i]
		d, err := policy.Domain(k.Name)
		if err != nil || d != k.Name {
			continue
		}
		all = append(all, im.one(r, k, e, d)...)
	}
	return append(all, im.rest(e, "it has no key of the domain's name, and puts off such mail"))
}

// expandFiles makes entries of a row whose key signs as the sender's domain.
func (im *opendkimImport) expandFiles(r *opendkim.Rule, k *opendkim.Key, e *entry) []*entry {
	if !k.PathHoles {
		im.used[k.Place.String()+" "+k.Name] = true
		im.open(e.place, e.text, "it signs for every domain with one key, and waxseal keeps keys by domain", "write a row for each domain that is yours")
		return nil
	}
	var all []*entry
	for _, d := range fileDomains(k) {
		all = append(all, im.one(r, k, e, d)...)
	}
	im.used[k.Place.String()+" "+k.Name] = true
	return append(all, im.rest(e, "it has no key file for the domain, and puts off such mail"))
}

// one is the entry of a single domain out of a row for many.
func (im *opendkimImport) one(r *opendkim.Rule, k *opendkim.Key, e *entry, domain string) []*entry {
	single := &entry{scope: opendkim.Scope{Kind: opendkim.Domain, Domain: domain}, rank: e.rank, place: e.place, text: e.text}
	if !e.rank.Holds(single.scope) {
		return nil
	}
	if err := im.give(single, r, k, domain); err != nil {
		im.open(k.Place.String(), k.Name, err.Error(), "correct or remove the key")
		single.reason = "OpenDKIM: " + err.Error()
	}
	return []*entry{single}
}

// rest is what a row for many domains leaves over.
func (im *opendkimImport) rest(e *entry, why string) *entry {
	e.putOff, e.reason = e.scope.Kind == opendkim.All, "OpenDKIM: "+why
	return e
}

// matches returns the entries that hold all of a scope, in the order in which
// OpenDKIM finds them.
func (im *opendkimImport) matches(entries []*entry, s opendkim.Scope) []*entry {
	var found []*entry
	for _, e := range entries {
		if e.scope.Holds(s) {
			found = append(found, e)
		}
	}
	if im.model.Tables.Kind != opendkim.Refile {
		slices.SortStableFunc(found, func(a, b *entry) int { return cmp.Compare(width(a.rank), width(b.rank)) })
	}
	return found
}

// width orders the scopes that hold a sender, the smallest first.
func width(s opendkim.Scope) int {
	const longest = 1000
	switch s.Kind {
	case opendkim.Address:
		return 0
	case opendkim.Domain:
		return 1
	case opendkim.Below:
		return longest - min(len(s.Domain), longest-2)
	}
	return longest
}

// choose returns the entries that sign for a scope, or nil when it needs no row
// because that of a larger one has come first.
func (im *opendkimImport) choose(entries []*entry, s opendkim.Scope) []*entry {
	found := im.matches(entries, s)
	if !im.model.Tables.Multiple {
		for _, e := range found[1:] {
			if e.scope == s && e.place != found[0].place {
				im.add(lineNotNeeded, e.place, e.text, "the row at "+found[0].place+" comes first, so OpenDKIM never gets here", "")
			}
		}
		if found[0].scope != s {
			return nil
		}
		return found[:1]
	}
	chosen := found
	if len(found) > 2 { // a bug of OpenDKIM's: only the first and the last sign
		chosen = []*entry{found[0], found[len(found)-1]}
	}
	for _, e := range chosen[1:] {
		if e.key == nil || chosen[0].key == nil || e.key.Domain != chosen[0].key.Domain || e.identity != chosen[0].identity {
			im.open(e.place, e.text, "mail of "+s.String()+" gets a second signature of another domain or identity, and waxseal signs a message for one", "take out one of the rows")
			return chosen[:1]
		}
	}
	return chosen
}

// row makes our row for a scope.
func (im *opendkimImport) row(s opendkim.Scope, chosen []*entry) RowConfig {
	row := defaultRow()
	switch s.Kind {
	case opendkim.Address:
		row.Address = s.Local + "@" + s.Domain
	case opendkim.All:
		row.Domain = "*"
	default:
		row.Domain, row.Subdomains = s.Domain, s.Kind == opendkim.Below
	}
	first := chosen[0]
	switch {
	case first.key == nil && first.putOff:
		row.Outcome = &OutcomeConfig{NoKey: milter.Tempfail}
		return row
	case first.key == nil:
		row.Enabled, row.Reason = false, first.reason
		return row
	}
	row.Always = row.Subdomains || s.Kind == opendkim.All
	if s.Kind == opendkim.All || first.key.Domain != s.Domain {
		row.SignAs = first.key.Domain
	}
	row.Identity = first.identity
	var selectors []string
	for _, e := range chosen {
		if !slices.Contains(selectors, e.key.Selector) {
			selectors = append(selectors, e.key.Selector)
		}
	}
	if len(im.selectors(first.key.Domain)) > len(selectors) {
		row.Selectors = selectors
	}
	return row
}

// isPlain says whether a row for a domain says what would be without it.
func isPlain(r RowConfig) bool {
	return r.Enabled && r.SignAs == "" && r.Identity == "" && len(r.Selectors) == 0 && !r.Always
}

func (im *opendkimImport) addRow(s opendkim.Scope, row RowConfig, chosen []*entry) {
	name := strings.TrimPrefix(s.String(), "domain ")
	if _, err := policy.New(policy.Options{Table: []policy.Row{{
		Address: row.Address, Domain: row.Domain, Subdomains: row.Subdomains, SignAs: row.SignAs, Always: row.Always, Selectors: row.Selectors, Identity: row.Identity,
	}}}); err != nil {
		im.open(chosen[0].place, chosen[0].text, strings.TrimPrefix(err.Error(), "row 1: "), "correct the row")
		return
	}
	im.config.Row[name] = row
	var places []string
	for _, e := range chosen {
		places = append(places, e.place)
		if e.key != nil || e.putOff {
			im.add(lineTaken, e.place, e.text, fmt.Sprintf("row %q", name), "")
		}
	}
	im.comments["row."+name] = strings.Join(places, ", ")
}

// heldByRow says whether a row of ours for a larger set would take a scope.
func (im *opendkimImport) heldByRow(s opendkim.Scope) bool {
	for _, row := range im.config.Row {
		if row.Domain == "*" || row.Subdomains && (row.Domain == s.Domain || strings.HasSuffix(s.Domain, "."+row.Domain)) {
			return true
		}
	}
	return false
}

// coverApexes adds rows for domains of which OpenDKIM signs only what is below:
// our row for that would take the domain, too.
func (im *opendkimImport) coverApexes(entries []*entry, plain map[string][]*entry) {
	for _, name := range sortedKeys(im.config.Row) {
		if row := im.config.Row[name]; row.Subdomains {
			im.cover(entries, plain, row.Domain)
		}
	}
}

// coverDomains adds rows for domains that have keys but that OpenDKIM does not
// sign, or not with these.
func (im *opendkimImport) coverDomains(entries []*entry) {
	for _, k := range im.keys {
		s := opendkim.Scope{Kind: opendkim.Domain, Domain: k.Domain}
		found := im.matches(entries, s)
		if len(found) == 0 || found[0].key == nil {
			im.cover(entries, nil, k.Domain)
		}
	}
}

// cover adds a row for a domain that has none.
func (im *opendkimImport) cover(entries []*entry, plain map[string][]*entry, domain string) {
	s := opendkim.Scope{Kind: opendkim.Domain, Domain: domain}
	if _, ok := im.config.Row[domain]; ok || plain[domain] != nil {
		return
	}
	if found := im.matches(entries, s); len(found) > 0 && found[0].key != nil {
		if im.model.Tables.Multiple {
			found = im.choose(entries, s)
		} else {
			found = found[:1]
		}
		im.addRow(s, im.row(s, found), found)
		return
	}
	row := defaultRow()
	row.Domain, row.Enabled, row.Reason = domain, false, "OpenDKIM did not sign it"
	im.config.Row[domain] = row
	im.comments["row."+domain] = "OpenDKIM has a key of this domain, or signs what is below it, and does not sign its own mail."
}

// unusedKeys tells of keys that no row uses. They are not taken, as an active
// key signs.
func (im *opendkimImport) unusedKeys() {
	for i := range im.model.Tables.Keys {
		k := &im.model.Tables.Keys[i]
		text := k.Name + " " + k.Domain + ":" + k.Selector
		switch {
		case im.model.Tables.Simple:
		case im.used[k.Place.String()+" "+k.Name]:
			im.add(lineTaken, k.Place.String(), text, "key", "")
		default:
			im.add(lineNotNeeded, k.Place.String(), text, "no row of the SigningTable names this key, so it is not taken", "")
		}
	}
}
