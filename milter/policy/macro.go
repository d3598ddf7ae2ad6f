package policy

import (
	"errors"
	"fmt"
	"strings"
)

// Macro is an origin rule: mail is ours when the MTA sent this macro before or
// with MAIL.
type Macro struct {
	// Name is the name of the macro, with braces or without: "{auth_type}" is
	// "auth_type". A macro whose value a stranger can choose, or that every
	// connection has, is an error.
	Name string

	// Values are the values that count, compared exactly. Without any, every
	// value counts but the empty one.
	Values []string
}

// Certificate is an origin rule: mail is ours when the client has shown a TLS
// certificate that the MTA has verified, with this subject and this issuer. An
// empty string leaves one of the two open, not both.
//
// Names are compared exactly, and are what the MTA makes of them: Postfix sends
// common names, Sendmail distinguished names with special characters encoded
// as +XX.
type Certificate struct{ Subject, Issuer string }

func (c Certificate) String() string {
	switch {
	case c.Issuer == "":
		return "certificate of " + c.Subject
	case c.Subject == "":
		return "certificate by " + c.Issuer
	}
	return "certificate of " + c.Subject + " by " + c.Issuer
}

// The macros that tell of a client's certificate.
const (
	macroVerify  = "{verify}"
	macroSubject = "{cert_subject}"
	macroIssuer  = "{cert_issuer}"
)

// certificate returns the client's certificate if the MTA has verified it.
// Postfix has no macro {verify}, and sends the names only of a certificate that
// it trusts. Others send them in any case, and say OK in {verify}.
func (c *Connection) certificate() (names Certificate, verified bool) {
	if len(c.Macros) == 0 {
		return names, false
	}
	names = Certificate{c.Macros[macroSubject], c.Macros[macroIssuer]}
	switch c.Macros[macroVerify] {
	case "OK":
		return names, true
	case "":
		return names, strings.HasPrefix(c.MTA, "Postfix") && names != Certificate{}
	}
	return names, false
}

// findCertificate looks up a client's certificate in a set of rules: one with
// both names before one with the subject only, before one with the issuer. No
// rule is without both.
func findCertificate[V any](rules map[Certificate]V, names Certificate) (V, bool) {
	for _, key := range []Certificate{names, {Subject: names.Subject}, {Issuer: names.Issuer}} {
		if v, ok := rules[key]; ok {
			return v, true
		}
	}
	var none V
	return none, false
}

func checkCertificate(c Certificate) error {
	if c == (Certificate{}) {
		return errors.New("certificate without subject and issuer: name one of them, or let any verified certificate count")
	}
	return nil
}

// macroRule is a Macro in a form that is quick to ask.
type macroRule struct {
	name   string
	values []string
	rule   string
}

func newMacroRule(m Macro) (macroRule, error) {
	name, err := MacroName(m.Name)
	if err != nil {
		return macroRule{}, err
	}
	r := macroRule{name: name, rule: "macro " + name}
	if why, bad := refusedMacros[name]; bad {
		return r, fmt.Errorf("macro %s: %s", name, why)
	}
	if len(m.Values) == 0 && commonMacros[name] {
		return r, fmt.Errorf("macro %s: every connection has it, so its presence says nothing; list the values that count", name)
	}
	for _, v := range m.Values {
		if v == "" {
			return r, fmt.Errorf("macro %s: an empty value is the same as none; leave it out of the list", name)
		}
		r.values = append(r.values, v)
	}
	return r, nil
}

// match returns the value that counts.
func (r *macroRule) match(c *Connection) (value string, ok bool) {
	value = c.Macros[r.name]
	if len(r.values) == 0 {
		return value, value != ""
	}
	for _, v := range r.values {
		if v == value {
			return value, true
		}
	}
	return "", false
}

// MacroName returns the name of a macro as MTAs send it, and as it stands in
// Connection.Macros: in braces unless it is one letter.
func MacroName(s string) (string, error) {
	name := s
	if inner, ok := strings.CutPrefix(s, "{"); ok && strings.HasSuffix(inner, "}") {
		name = strings.TrimSuffix(inner, "}")
	}
	if name == "" || len(name) > maxLabel || strings.ContainsFunc(name, func(r rune) bool { return !isAlnum(r) && r != '_' && r != '-' && r != '.' }) {
		return "", fmt.Errorf("macro %s: want a name such as {auth_type}, without blanks and dollar signs", quote(s))
	}
	if len(name) > 1 {
		name = "{" + name + "}"
	}
	return name, nil
}

const (
	byStranger = "a stranger can choose its value; "
	useNetwork = byStranger + "list the networks of your clients instead"
	useCert    = "strangers have certificates and TLS too; list certificates instead, which also asks whether they were verified"
)

// refusedMacros are those that must not make mail ours, and why. AUTH= of the
// MAIL command ends in {auth_author} whether or not the client has logged in.
var refusedMacros = map[string]string{
	"_":                    useNetwork,
	"s":                    useNetwork,
	"f":                    byStranger + "it is the envelope sender",
	"i":                    "it is the queue id, and says nothing about the sender",
	"{mail_addr}":          byStranger + "it is the envelope sender",
	"{mail_host}":          byStranger + "it is the envelope sender's",
	"{mail_mailer}":        byStranger + "it follows from the envelope sender",
	"{rcpt_addr}":          byStranger + "it is a recipient",
	"{rcpt_host}":          byStranger + "it is a recipient's",
	"{rcpt_mailer}":        byStranger + "it follows from a recipient",
	"{auth_author}":        byStranger + "it is the AUTH parameter of the MAIL command, which needs no login; use the login instead",
	"{client_addr}":        "list the client's network instead",
	"{client_connections}": useNetwork,
	"{client_name}":        useNetwork,
	"{client_port}":        useNetwork,
	"{client_ptr}":         useNetwork,
	"{client_resolve}":     useNetwork,
	"{cert_issuer}":        useCert,
	"{cert_md5}":           useCert,
	"{cert_subject}":       useCert,
	"{cipher}":             useCert,
	"{cipher_bits}":        useCert,
	"{cn_issuer}":          useCert,
	"{cn_subject}":         useCert,
	"{tls_version}":        useCert,
	"{verify}":             useCert,
	"{daemon_name}":        "list the name as a daemon name instead",
}

// commonMacros are those that a connection has whoever its client is.
var commonMacros = map[string]bool{
	"b": true, "d": true, "j": true, "k": true, "m": true, "n": true, "p": true, "r": true, "t": true, "v": true, "w": true,
	"{daemon_addr}": true, "{daemon_family}": true, "{daemon_flags}": true, "{daemon_info}": true, "{daemon_port}": true,
	"{if_addr}": true, "{if_family}": true, "{if_name}": true, "{load_avg}": true, "{ntries}": true, "{queue_interval}": true,
}
