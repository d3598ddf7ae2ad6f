// Package amavis reads what a configuration of amavis says of DKIM signing, and
// says which key amavis signs a message with.
//
// The configuration is a program in Perl, which is not run: lines with constants
// are read, and every other line that has to do with DKIM is an error. Nothing
// here changes a file.
package amavis

import (
	"regexp"
	"strings"

	"waxseal/cmd/waxseal/internal/source"
)

// Statement is a line, or several, that was read.
type Statement struct {
	Name  string // such as dkim_key or @mynetworks
	Value Value
	Text  string // the first line of it
	Place source.Place
	Err   error // why it cannot be taken
}

// wanted finds the statements that can be read, at the beginning of a line.
var wanted = regexp.MustCompile(`^[ \t]*(dkim_key|[$]enable_dkim_signing|[$]enable_dkim_verification|[$]dkim_minimum_key_bits|@dkim_signature_options_bysender_maps|@mynetworks)\b`)

// about finds other lines that have to do with it.
var about = regexp.MustCompile(`(?i)dkim|signed_header_fields|mynetworks\b`)

// Parse reads a configuration file.
func Parse(file, text string) []Statement {
	var all []Statement
	inBlock := false // the line before opens one, or this one is indented as in one
	pod := false
	line := 0
	for at := 0; at < len(text); {
		line++
		end := len(text)
		if i := strings.IndexByte(text[at:], '\n'); i >= 0 {
			end = at + i + 1
		}
		l := strings.TrimRight(text[at:end], "\r\n")
		trimmed := strings.TrimSpace(l)
		switch {
		case trimmed == "__END__" || trimmed == "__DATA__":
			return all
		case strings.HasPrefix(l, "=cut"):
			pod = false
			at = end
			continue
		case len(l) > 1 && l[0] == '=' && l[1] >= 'a' && l[1] <= 'z':
			pod = true
		}
		if pod || trimmed == "" || trimmed[0] == '#' {
			at = end
			continue
		}
		s := Statement{Text: trimmed, Place: source.Place{File: file, Line: line}}
		if m := wanted.FindStringSubmatch(l); m != nil {
			r := &reader{text: text, at: at + len(m[0])}
			s.Name = m[1]
			s.Value, s.Err = r.statement(s.Name)
			if (inBlock || l[0] == ' ' || l[0] == '\t') && s.Err == nil {
				s.Err = errBlock
			}
			all = append(all, s)
			if s.Err == nil { // go on behind it
				line += strings.Count(text[at:r.at], "\n")
				if at = r.at; at < len(text) && text[at] == '\n' {
					at++
				} else {
					line-- // more may stand on the line
				}
				inBlock = false
				continue
			}
		} else if bare, _, _ := strings.Cut(trimmed, " #"); about.MatchString(bare) {
			s.Err = errPerl
			all = append(all, s)
		}
		bare, _, _ := strings.Cut(trimmed, " #")
		inBlock = strings.HasSuffix(strings.TrimSpace(bare), "{")
		at = end
	}
	return all
}

// statement reads what stands behind a name, up to the semicolon.
func (r *reader) statement(name string) (v Value, err error) {
	if name != "dkim_key" && !r.take("=") {
		return v, errPerl
	}
	if v, err = r.value(0); err != nil {
		return v, err
	}
	if !r.take(";") {
		return v, errPerl // a condition follows, say
	}
	return v, nil
}

// Key is a key of dkim_key.
type Key struct {
	Domain, Selector, Path string
	Kind                   string // k of the options
	Place                  source.Place
}

// Sender is an entry of @dkim_signature_options_bysender_maps.
type Sender struct {
	Key     string // an address, domain, .domain, or a dot for all
	Options map[string]string
	Place   source.Place
}

// Model is what amavis signs with.
type Model struct {
	Keys    []Key
	Senders []Sender
}

// lookups are the keys of a map under which amavis looks for an address, in
// order.
func lookups(address string) []string {
	address = strings.ToLower(address)
	local, domain, _ := strings.Cut(address, "@")
	keys := []string{address, local + "@", domain}
	for d := domain; d != ""; {
		keys = append(keys, "."+d)
		_, d, _ = strings.Cut(d, ".")
	}
	return append(keys, ".")
}

// Options returns the options for an address: of several entries each option is
// that of the most particular one.
func (m *Model) Options(address string) map[string]string {
	options := map[string]string{}
	for _, key := range lookups(address) {
		for i := len(m.Senders) - 1; i >= 0; i-- { // of equal names in a hash the last one counts
			s := m.Senders[i]
			if strings.ToLower(s.Key) != key {
				continue
			}
			for name, value := range s.Options {
				if _, there := options[name]; !there {
					options[name] = value
				}
			}
			break
		}
	}
	for name, usual := range map[string]string{"c": "relaxed/simple", "a": "rsa-sha256"} {
		if _, there := options[name]; !there {
			options[name] = usual
		}
	}
	return options
}

// Decide returns the key for an author, nil for none, and the identity.
func (m *Model) Decide(address string) (k *Key, identity string) {
	address = strings.ToLower(address)
	_, author, _ := strings.Cut(address, "@")
	o := m.Options(address)
	domain, named := o["d"]
	if !named {
		domain = author
	}
	kind, _, _ := strings.Cut(o["a"], "-")
	for i := range m.Keys {
		each := &m.Keys[i]
		of := each.Kind
		if of == "" {
			of = "rsa"
		}
		if each.Domain == domain && (o["s"] == "" || strings.ToLower(o["s"]) == each.Selector) && of == kind {
			k = each
			break
		}
	}
	if k == nil {
		return nil, ""
	}
	identity, given := o["i"]
	switch {
	case given && identity != "" && !strings.Contains(identity, "@"):
		identity = "@" + identity
	case !given && strings.HasSuffix(author, "."+domain):
		identity = "@" + author
	}
	if identity == "@"+domain {
		identity = ""
	}
	_, of, _ := strings.Cut(identity, "@")
	if identity != "" && of != domain && !strings.HasSuffix(of, "."+domain) {
		return nil, ""
	}
	return k, identity
}
