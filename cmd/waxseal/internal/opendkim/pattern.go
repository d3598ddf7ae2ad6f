package opendkim

import (
	"regexp"
	"strings"
)

// operators are the characters of regular expressions that stay alive in a
// refile: all but * and the two that are made literal, the dot and the plus.
const operators = `?|[](){}^$\`

// compile makes of a row of a refile what OpenDKIM makes of it, for subjects in
// lower case. The anchors are outside of any alternation, as they are there.
func compile(pattern string) (*regexp.Regexp, error) {
	expression := "^" + strings.NewReplacer(".", `\.`, "+", `\+`, "*", ".*").Replace(strings.ToLower(pattern)) + "$"
	return regexp.CompilePOSIX(expression)
}

// ScopeKind is the form of a Scope.
type ScopeKind uint8

// The forms that a Scope can have.
const (
	Nobody  ScopeKind = iota // no address at all
	Address                  // one address
	Domain                   // all addresses of a domain
	Below                    // those of all domains below a domain, but not of itself
	All                      // every address
	Other                    // some other set
)

// Scope is the set of addresses that a row of a SigningTable is about. Two
// scopes other than Other are either apart, or one holds the other.
type Scope struct {
	Kind   ScopeKind
	Local  string // of an Address, in lower case
	Domain string // in lower case

	// Why says what is wrong with Nobody or Other, and Meant which row would do
	// what was probably meant; it may be empty.
	Why, Meant string
}

// Holds says whether every address of another scope is in this one.
func (s Scope) Holds(o Scope) bool {
	switch s.Kind {
	case All:
		return true
	case Below:
		return o.Kind != All && o.Kind != Nobody && strings.HasSuffix(o.Domain, "."+s.Domain) || o.Kind == Below && o.Domain == s.Domain
	case Domain:
		return o.Domain == s.Domain && (o.Kind == Domain || o.Kind == Address)
	case Address:
		return o.Kind == Address && o.Domain == s.Domain && o.Local == s.Local
	}
	return false
}

// String is the scope in words.
func (s Scope) String() string {
	switch s.Kind {
	case Address:
		return s.Local + "@" + s.Domain
	case Domain:
		return "domain " + s.Domain
	case Below:
		return "below " + s.Domain
	case All:
		return "all other mail"
	}
	return "nobody"
}

// scope reads the pattern of a SigningTable of some kind.
func scope(kind Kind, pattern string) Scope {
	p := strings.ToLower(pattern)
	if kind == Refile {
		return refileScope(p)
	}
	local, domain, isAddress := cutLast(p, "@")
	switch {
	case p == "*":
		return Scope{Kind: All}
	case strings.Contains(p, "*") && isAddress && domain == "*" && !strings.Contains(local, "*"):
		return Scope{Kind: Other, Why: "one local part at every domain is a row that waxseal does not have", Meant: "write one row for each address"}
	case strings.Contains(p, "*"):
		return Scope{Kind: Nobody, Why: "only a refile has patterns, so OpenDKIM never matched this row", Meant: meantPlain(p)}
	case isAddress && strings.HasPrefix(domain, "."):
		return Scope{Kind: Other, Why: "one local part at every subdomain is a row that waxseal does not have", Meant: "write one row for each address"}
	case isAddress && local != "" && domain != "":
		return Scope{Kind: Address, Local: local, Domain: domain}
	case isAddress:
		return Scope{Kind: Nobody, Why: "no address has this form, so OpenDKIM never matched this row", Meant: "write " + strings.Trim(p, "@")}
	case strings.HasPrefix(p, ".") && len(p) > 1:
		return Scope{Kind: Below, Domain: p[1:]}
	}
	return Scope{Kind: Domain, Domain: p}
}

// meantPlain is the row that a pattern was to be, where there are none.
func meantPlain(p string) string {
	domain := strings.TrimPrefix(p, "*@")
	if strings.HasPrefix(domain, "*.") {
		domain = domain[1:]
	}
	switch {
	case domain == "*":
		return "write *"
	case strings.Contains(domain, "*") || domain == "":
		return "write it for each address or domain"
	}
	return "write " + domain + ", or begin the table's name with refile:"
}

func refileScope(p string) Scope {
	local, domain, isAddress := cutLast(p, "@")
	switch {
	case strings.ContainsAny(p, operators):
		return Scope{Kind: Other, Why: "in a refile it is a regular expression", Meant: "write a row for each address or domain that is meant"}
	case p == "*" || p == "*@*":
		return Scope{Kind: All}
	case !isAddress && strings.HasPrefix(p, "*.") && !strings.Contains(p[1:], "*"):
		return Scope{Kind: Below, Domain: p[2:]}
	case !isAddress && !strings.Contains(p, "*"):
		meant := "write *@" + p
		if strings.HasPrefix(p, ".") {
			meant = "write *@*" + p
		}
		return Scope{Kind: Nobody, Why: "a refile is compared with whole addresses, so OpenDKIM never matched this row", Meant: meant}
	case !isAddress:
		return Scope{Kind: Other, Why: "it holds every address that ends like this, those of foreign domains included", Meant: "write *@DOMAIN and *@*.DOMAIN"}
	case local == "*" && strings.HasPrefix(domain, "*.") && !strings.Contains(domain[1:], "*"):
		return Scope{Kind: Below, Domain: domain[2:]}
	case local == "*" && domain != "" && !strings.ContainsAny(domain, "*"):
		return Scope{Kind: Domain, Domain: domain}
	case strings.Contains(p, "*"):
		return Scope{Kind: Other, Why: "a part of a name with * in it is a row that waxseal does not have", Meant: "write one row for each address or domain"}
	case local == "" || domain == "":
		return Scope{Kind: Nobody, Why: "no address has this form, so OpenDKIM never matched this row", Meant: "write *@DOMAIN"}
	}
	return Scope{Kind: Address, Local: local, Domain: domain}
}

func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return "", s, false
}
