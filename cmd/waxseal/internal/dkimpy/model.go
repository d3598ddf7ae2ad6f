package dkimpy

import (
	"slices"
	"strings"

	"waxseal/cmd/waxseal/internal/source"
)

// Key is a private key, and what it signs as.
type Key struct {
	Domain, Selector, Path string // a domain % is that of the author
	Place                  source.Place
}

// Model is what dkimpy-milter signs with. It asks neither who the client is nor
// what login it has: only MacroListVerify keeps it from signing.
type Model struct {
	Domains    []string
	SubDomains bool
	Keys       []Key // of KeyFile and KeyFileEd25519

	Rows   []Row            // of the SigningTable; nil without one
	Tables []map[string]Key // of KeyTable and KeyTableEd25519
}

// Signature is one that it makes.
type Signature struct {
	Key
	Identity string
}

// Decide returns what a message of this author is signed with, and why.
func (m *Model) Decide(author string) ([]Signature, string) {
	_, domain, _ := strings.Cut(author, "@")
	domain = strings.ToLower(domain)
	if m.Rows != nil {
		return m.byTable(author, domain)
	}
	if m.SubDomains {
		domain = m.parent(domain)
	}
	if !slices.Contains(m.Domains, domain) {
		return nil, "Domain does not have it"
	}
	var all []Signature
	for _, k := range m.Keys {
		k.Domain = domain
		all = append(all, Signature{Key: k})
	}
	return all, "Domain"
}

// parent returns the first domain of the list that a domain is below.
func (m *Model) parent(domain string) string {
	for _, d := range m.Domains {
		if strings.HasSuffix(domain, "."+d) {
			return d
		}
	}
	return domain
}

func (m *Model) byTable(author, domain string) ([]Signature, string) {
	for _, r := range m.Rows {
		if len(r.Values) == 0 || !r.Matches(author) {
			continue
		}
		identity := ""
		if len(r.Values) == 2 {
			switch signer := r.Values[0]; {
			case signer == "%":
				identity = "@" + domain
			case len(signer) > 0 && signer[1:] == domain:
				identity = signer
			}
		}
		var all []Signature
		for _, t := range m.Tables {
			if k, ok := t[r.Values[len(r.Values)-1]]; ok {
				if k.Domain == "%" {
					k.Domain = domain
				}
				all = append(all, Signature{k, identity})
			}
		}
		return all, "row " + r.Key
	}
	return nil, "no row of the SigningTable"
}

// Matches says whether a row of the SigningTable is about an author. Case
// counts.
func (r Row) Matches(author string) bool {
	_, after, star := strings.Cut(r.Key, "*") // what stands before the star is not looked at
	switch {
	case r.Key == "%":
		return true
	case !star:
		return r.Key == author
	}
	return !strings.Contains(after, "*") && strings.HasSuffix(author, after)
}
