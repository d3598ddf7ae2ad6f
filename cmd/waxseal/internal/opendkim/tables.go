package opendkim

import (
	"fmt"
	"strings"

	"waxseal/cmd/waxseal/internal/source"
)

// Key is a row of the KeyTable, or what Domain, Selector and KeyFile make.
type Key struct {
	Name             string
	Domain, Selector string // d= and s=; the domain % is that of the sender

	// Path is the file, in which every % is the signing domain if PathHoles;
	// Data is the key itself, where the row has that instead.
	Path      string
	PathHoles bool
	Data      string

	Place source.Place
	Bad   string // why OpenDKIM cannot use it
}

// Rule is a row of the SigningTable, or an item of Domain.
type Rule struct {
	Pattern string
	Scope   Scope
	KeyName string // % is the sender's domain
	Signer  string // i=, every % in it the sender's domain
	Place   source.Place
	Bad     string // why OpenDKIM cannot use it

	row Row
}

// Tables are who signs with what.
type Tables struct {
	Rules []Rule // in the order of the file
	Keys  []Key

	// Kind is that of the SigningTable. In a refile the first rule that matches
	// counts, elsewhere the most specific.
	Kind Kind

	// Multiple collects all rules that match.
	Multiple bool

	// Simple says that they are made of Domain, Selector and KeyFile.
	Simple bool

	signing   *DataSet
	byPattern map[string]int // the first rule of a pattern, in lower case
	byName    map[string]int // the first key of a name
}

// index makes rules and keys quick to find. The first of several equal ones
// counts.
func (t *Tables) index() *Tables {
	t.byPattern, t.byName = make(map[string]int, len(t.Rules)), make(map[string]int, len(t.Keys))
	for i := len(t.Rules) - 1; i >= 0; i-- {
		t.byPattern[strings.ToLower(t.Rules[i].row.Key)] = i
	}
	for i := len(t.Keys) - 1; i >= 0; i-- {
		t.byName[t.Keys[i].Name] = i
	}
	return t
}

// Tables reads the tables. The error is an *source.Error.
func (c *Config) Tables() (*Tables, error) {
	_, hasKeys := c.Get("KeyTable")
	signing, hasSigning := c.Get("SigningTable")
	switch {
	case hasKeys != hasSigning:
		have, lack := "KeyTable", "SigningTable"
		at, _ := c.Get("KeyTable")
		if hasSigning {
			have, lack, at = lack, have, signing
		}
		return nil, &source.Error{Place: at.Place, Text: have + " without " + lack + ", with which OpenDKIM would not start", Remedy: "add the " + lack}
	case hasKeys:
		return c.readTables()
	}
	return c.simpleTables()
}

func (c *Config) readTables() (*Tables, error) {
	keys, err := c.DataSet("KeyTable")
	if err != nil {
		return nil, err
	}
	signing, err := c.DataSet("SigningTable")
	if err != nil {
		return nil, err
	}
	t := &Tables{Kind: signing.Kind, Multiple: c.Bool("MultipleSignatures"), signing: signing}
	for _, r := range keys.Rows {
		t.Keys = append(t.Keys, c.key(keys.Kind, r))
	}
	for _, r := range signing.Rows {
		t.Rules = append(t.Rules, rule(signing.Kind, r))
	}
	return t.index(), nil
}

// key reads a row of the KeyTable: domain, selector and key with colons between.
func (c *Config) key(kind Kind, r Row) Key {
	k := Key{Name: r.Key, Place: r.Place, Bad: r.Ignored}
	bad := func(format string, args ...any) {
		if k.Bad == "" {
			k.Bad = fmt.Sprintf(format, args...)
		}
	}
	fields := strings.SplitN(r.Value, ":", 3)
	for i := range fields {
		fields[i] = strings.Trim(fields[i], blanks)
	}
	if len(fields) < 3 || fields[0] == "" || fields[1] == "" || fields[2] == "" {
		bad("the row is not NAME DOMAIN:SELECTOR:KEY, and OpenDKIM puts off mail that needs it")
		return k
	}
	if kind == Refile && strings.ContainsAny(k.Name, "*"+operators) {
		bad("in a refile the name is a pattern")
	}
	k.Domain, k.Selector = fields[0], fields[1]
	value := withoutAlgorithm(fields[2])
	switch {
	case strings.HasPrefix(value, "/"):
		k.Path, k.PathHoles = value, strings.Contains(value, "%")
	case strings.HasPrefix(value, "./") || strings.HasPrefix(value, "../"):
		k.Path = c.Path(value)
	default:
		k.Data = value
		if looksLikePath(value) {
			bad("the key %s begins neither with / nor with ./, so OpenDKIM takes it for the key itself, and puts off mail", value)
		}
	}
	return k
}

// withoutAlgorithm takes off the fourth field that later versions of OpenDKIM
// have.
func withoutAlgorithm(value string) string {
	for _, algorithm := range []string{"rsa-sha1", "rsa-sha256", "ed25519-sha256"} {
		if before, ok := strings.CutSuffix(value, ":"+algorithm); ok {
			return strings.Trim(before, blanks)
		}
	}
	return value
}

// looksLikePath tells a file from base64 and PEM.
func looksLikePath(s string) bool {
	return len(s) < 300 && !strings.HasPrefix(s, "MII") && !strings.Contains(s, "-----BEGIN")
}

func rule(kind Kind, r Row) Rule {
	name, signer, _ := strings.Cut(r.Value, ":")
	rule := Rule{
		Pattern: r.Key, Scope: scope(kind, r.Key), KeyName: strings.Trim(name, blanks), Signer: strings.Trim(signer, blanks),
		Place: r.Place, Bad: r.Ignored, row: r,
	}
	switch {
	case rule.Bad != "" && kind == Refile: // and so no row at all
		rule.Scope, rule.Bad = Scope{Kind: Nobody, Why: rule.Bad, Meant: "correct the row"}, ""
	case rule.Bad != "":
	case rule.KeyName == "":
		rule.Bad = "the row names no key, and OpenDKIM crashes or puts off mail"
	case rule.Signer != "" && !strings.Contains(rule.Signer, "@"):
		rule.Bad = "the signer " + rule.Signer + " has no @, and OpenDKIM sends such mail unsigned, without a word"
	}
	return rule
}

// simpleTables makes tables of Domain, Selector and KeyFile.
func (c *Config) simpleTables() (*Tables, error) {
	domains, err := c.DataSet("Domain")
	if domains == nil || err != nil {
		return (&Tables{Kind: List, Simple: true}).index(), err
	}
	selector, hasSelector := c.Get("Selector")
	file, hasFile := c.Get("KeyFile")
	if !hasSelector || !hasFile {
		return nil, &source.Error{Place: domains.Place, Text: "Domain without Selector and KeyFile, with which OpenDKIM would not start", Remedy: "add them"}
	}
	t := &Tables{Kind: List, Simple: true}
	subdomains := c.Bool("SubDomains")
	for _, r := range domains.Rows {
		name := strings.ToLower(r.Key)
		k := Key{Name: name, Domain: name, Selector: selector.Value, Path: c.Path(file.Value), Place: file.Place}
		at := Scope{Kind: Domain, Domain: name}
		if strings.Contains(name, "*") {
			at = Scope{Kind: Nobody, Why: "OpenDKIM compares it with the whole domain, so it never matched", Meant: "name each domain"}
			if domains.Kind == Refile || name == "*" {
				at = Scope{Kind: Other, Why: "one key file for domains that are not named cannot be kept by domain", Meant: "name each domain"}
			}
		}
		t.Keys = append(t.Keys, k)
		t.Rules = append(t.Rules, Rule{Pattern: r.Key, Scope: at, KeyName: name, Place: r.Place, Bad: r.Ignored, row: r})
		if subdomains && at.Kind == Domain {
			t.Rules = append(t.Rules, Rule{Pattern: r.Key + " and SubDomains", Scope: Scope{Kind: Below, Domain: name}, KeyName: name, Signer: "@" + name, Place: r.Place, Bad: r.Ignored,
				row: Row{Key: "." + name, Place: r.Place}})
		}
	}
	return t.index(), nil
}

// Key finds a row of the KeyTable by name, with regard to case. Names of a refile
// that are patterns are not followed.
func (t *Tables) Key(name string) (*Key, bool) {
	i, ok := t.byName[name]
	if !ok {
		return nil, false
	}
	return &t.Keys[i], true
}

// File is the file of the key for a signing domain.
func (k *Key) File(domain string) string {
	if k.PathHoles {
		return strings.ReplaceAll(k.Path, "%", domain)
	}
	return k.Path
}
