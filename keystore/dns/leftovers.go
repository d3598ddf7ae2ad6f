package dns

import (
	"context"
	"fmt"
	"slices"
	"strings"

	mdns "github.com/miekg/dns"

	"waxseal/keystore"
)

// Severity says whether a Finding does harm.
type Severity string

// The severities of a Finding.
const (
	Note    Severity = "note"    // could be better
	Warning Severity = "warning" // does harm
)

// Finding is something about a domain's DNS, other than its key records, that
// an administrator should know.
type Finding struct {
	Name     string // where it is
	Text     string
	Remedy   string
	Severity Severity
}

// Leftovers asks the resolvers for policy records of the domain that nobody
// looks at any more, and for its DMARC record, without which a signature
// protects little. The error names the question that had no answer.
func (c *Checker) Leftovers(ctx context.Context, domain string) ([]Finding, error) {
	if err := keystore.ValidDomain(domain); err != nil {
		return nil, err
	}
	var found []Finding
	for _, old := range []struct {
		name, what string
		tags       []string // one of them is in every such record
	}{
		// A DomainKeys policy is any of these tags (RFC 4870, section 3.6).
		{"_policy._domainkey." + domain, "an obsolete policy of DomainKeys (RFC 4870), which DKIM has replaced in 2007", []string{"o", "r", "t", "n"}},
		{"_adsp._domainkey." + domain, "an obsolete ADSP policy (RFC 5617), which was made historic in 2013", []string{"dkim"}},
	} {
		values, err := c.texts(ctx, old.name)
		if err != nil {
			return nil, err
		}
		// A wildcard's key record or SPF policy is none.
		if slices.ContainsFunc(values, func(s string) bool { return hasTag(s, old.tags) }) {
			found = append(found, Finding{old.name, "there is " + old.what, "delete the TXT record: nobody looks at it", Note})
		}
	}
	dmarc, err := c.dmarc(ctx, domain)
	if err != nil {
		return nil, err
	}
	return append(found, dmarc...), nil
}

// dmarc looks for the DMARC record at the domain, and at those above it as far
// as one can have been registered: which one that is does not matter here.
func (c *Checker) dmarc(ctx context.Context, domain string) ([]Finding, error) {
	for at := domain; strings.Contains(at, "."); _, at, _ = strings.Cut(at, ".") {
		name := "_dmarc." + at
		values, err := c.texts(ctx, name)
		if err != nil {
			return nil, err
		}
		values = slices.DeleteFunc(values, func(s string) bool { return !isDMARC(s) })
		switch {
		case len(values) > 1:
			return []Finding{{name, fmt.Sprintf("there are %d DMARC records, which receivers take for none (RFC 7489, section 6.6.3)", len(values)),
				"leave one and delete the others", Warning}}, nil
		case len(values) == 1:
			return nil, nil
		}
	}
	return []Finding{{"_dmarc." + domain, "there is no DMARC record: receivers are not told what to do with mail that pretends to come from the domain",
		fmt.Sprintf(`publish a TXT record to start with: "v=DMARC1; p=none; rua=mailto:postmaster@%s"`, domain), Note}}, nil
}

// isDMARC holds a value to the beginning that RFC 7489, section 6.4, wants.
func isDMARC(s string) bool {
	first, _, _ := strings.Cut(s, ";")
	name, value, _ := strings.Cut(first, "=")
	return strings.TrimFunc(name, isBlank[rune]) == "v" && strings.TrimFunc(value, isBlank[rune]) == "DMARC1"
}

func hasTag(s string, names []string) bool {
	tags, err := parseTags(s)
	if err != nil || tags[0].name == "v" {
		return false
	}
	return slices.ContainsFunc(tags, func(t tag) bool { return slices.Contains(names, t.name) }) &&
		!slices.ContainsFunc(tags, func(t tag) bool { return t.name == "p" })
}

// texts returns the TXT records that a resolver finds for the name.
func (c *Checker) texts(ctx context.Context, name string) ([]string, error) {
	r, err := c.resolve(ctx, mdns.Fqdn(name), mdns.TypeTXT)
	if err != nil {
		return nil, fmt.Errorf("TXT records of %s: %w", name, err)
	}
	a, at := &shown{}, mdns.Fqdn(name)
	for range maxChain {
		a.cnames, a.values = 0, nil
		if a.collect(r.Answer, at); a.cnames != 1 {
			break
		}
		at = a.target
	}
	return a.values, nil
}
