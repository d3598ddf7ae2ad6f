package mta

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"waxseal/milter"
)

// neighbour is another milter that can be told by its address.
type neighbour struct {
	name  string
	words []string // in the path of its socket
	ports []string // that it has by custom

	harmless bool // it adds fields that no signature covers, and edits none
	signs    bool // it can sign

	configs []string       // where it says whether it does
	off     *regexp.Regexp // in one of them: it does not
	keys    string         // without a match of this, it has nothing to sign with
	stop    string         // how to stop it signing
}

var verifierMode = regexp.MustCompile(`(?mi)^\s*Mode\s+v\s*$`)

var neighbours = []neighbour{
	{name: "OpenDKIM", words: []string{"opendkim"}, ports: []string{"8891", "12301"}, harmless: true, signs: true,
		configs: []string{"etc/opendkim.conf"}, off: verifierMode, stop: `set "Mode v" in /etc/opendkim.conf, or take it out of the list`},
	{name: "dkimpy-milter", words: []string{"dkimpy"}, ports: []string{"8892"}, harmless: true, signs: true,
		configs: []string{"etc/dkimpy-milter/dkimpy-milter.conf"}, off: verifierMode, stop: `set "Mode v" in /etc/dkimpy-milter/dkimpy-milter.conf, or take it out of the list`},
	{name: "rspamd", words: []string{"rspamd"}, ports: []string{"11332"}, signs: true,
		configs: []string{"etc/rspamd/override.d/dkim_signing.conf", "etc/rspamd/local.d/dkim_signing.conf"},
		off:     regexp.MustCompile(`(?mi)^\s*enabled\s*=\s*"?(false|no|off)"?\s*;?\s*$`),
		keys:    "var/lib/rspamd/dkim/*.key", stop: `write "enabled = false;" into /etc/rspamd/local.d/dkim_signing.conf`},
	{name: "OpenDMARC", words: []string{"opendmarc"}, ports: []string{"8893"}, harmless: true},
	{name: "OpenARC", words: []string{"openarc"}, ports: []string{"8894"}, harmless: true},
}

// neighbourAt tells what listens at an address, by its name or port; nil when
// that is not known.
func neighbourAt(a milter.Address) *neighbour {
	path := strings.ToLower(a.Address)
	for i, n := range neighbours {
		for _, w := range n.words {
			if a.Network == "unix" && strings.Contains(path, w) {
				return &neighbours[i]
			}
		}
		for _, port := range n.ports {
			if a.Network != "unix" && strings.HasSuffix(path, ":"+port) {
				return &neighbours[i]
			}
		}
	}
	return nil
}

// maySign says whether a neighbour signs, as far as its files tell.
func (n *neighbour) maySign(root string) bool {
	if !n.signs {
		return false
	}
	if root == "" {
		root = "/"
	}
	configured := false
	for _, path := range n.configs {
		text, err := os.ReadFile(filepath.Join(root, path))
		if err != nil {
			continue
		}
		configured = true
		if n.off.Match(text) {
			return false
		}
	}
	if n.keys == "" || configured {
		return true
	}
	keys, _ := filepath.Glob(filepath.Join(root, n.keys))
	return len(keys) > 0
}

// checkNeighbours says what the milters beside ours do to its signatures. where
// is the list, ours the position in it.
func (all *findings) checkNeighbours(where string, list []milter.Address, texts []string, ours int, root string) {
	for i, a := range list {
		if i == ours {
			continue
		}
		n := neighbourAt(a)
		if n != nil && n.maySign(root) {
			all.add(Finding{Warning, "other_signer", where,
				n.name + " at " + texts[i] + " signs as well, so mail gets two signatures, one of them with keys that waxseal does not look after", n.stop})
		}
		if i > ours && (n == nil || !n.harmless) {
			all.add(Finding{Warning, "order", where,
				"the milter at " + texts[i] + " comes after waxseal, and whatever it changes in a message breaks the signature", "put waxseal last in the list"})
		}
	}
}
