package dns

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"waxseal/keystore"
)

// maxString is the most that one character-string of a TXT record holds (RFC
// 1035, section 3.3).
const maxString = 255

// Formats are what Write can write.
var Formats = []string{"zone", "line", "strings", "tsv", "json"}

// Entry is a record and where it belongs.
type Entry struct {
	Domain string
	Key    *keystore.Key
	Record *Record
	TTL    time.Duration // 0: the zone's default

	// Target is where the record belongs when the selector's name is a CNAME: in
	// a delegated slot. Empty: at the selector's name.
	Target string
}

// name is where the record belongs, without the final dot.
func (e *Entry) name() string {
	if e.Target != "" {
		return e.Target
	}
	return Name(e.Key.Selector, e.Domain)
}

// Name returns the name of a selector's record (RFC 6376, section 3.6.2.1),
// without the final dot.
func Name(selector, domain string) string {
	return selector + "._domainkey." + domain
}

// Write writes the entries in one of these formats:
//
//	zone     lines of a zone file, each complete whatever stands before it
//	line     name and value, for web forms that want the value unquoted
//	strings  name and quoted strings, for those that want it as in a zone file
//	tsv      name, tab, value
//	json     an array of objects
//
// Each string has at most 255 octets. A reader joins the strings of a record
// without anything between them.
func Write(w io.Writer, format string, entries []Entry) error {
	var b bytes.Buffer
	var line func(name string, e *Entry) string
	switch format {
	case "zone":
		line = zoneLine
	case "line":
		line = func(name string, e *Entry) string { return name + " " + e.Record.String() }
	case "strings":
		line = func(name string, e *Entry) string { return name + " " + quoted(e.Record.String()) }
	case "tsv":
		line = func(name string, e *Entry) string { return name + "\t" + e.Record.String() }
	case "json":
		if err := writeJSON(&b, entries); err != nil {
			return err
		}
	default:
		return fmt.Errorf("format %.40q, want one of %q", format, Formats)
	}
	if line != nil {
		for i := range entries {
			e := &entries[i]
			b.WriteString(line(e.name(), e) + "\n")
		}
	}
	_, err := w.Write(b.Bytes())
	return err
}

// zoneLine has an absolute name, because $ORIGIN is unknown, and quotes, since
// a bare ";" would begin a comment (RFC 1035, section 5.1).
func zoneLine(name string, e *Entry) string {
	ttl := ""
	if e.TTL > 0 {
		ttl = fmt.Sprintf(" %d", int64(e.TTL/time.Second))
	}
	return name + "." + ttl + " IN TXT ( " + quoted(e.Record.String()) + " )"
}

// quoted returns the strings of a value in quotes, with a blank between them.
func quoted(value string) string {
	escape := strings.NewReplacer(`\`, `\\`, `"`, `\"`)
	var all []string
	for _, s := range Strings(value) {
		all = append(all, `"`+escape.Replace(s)+`"`)
	}
	return strings.Join(all, " ")
}

// Strings cuts a value into the character-strings of its TXT record.
func Strings(value string) []string {
	var all []string
	for len(value) > maxString {
		all, value = append(all, value[:maxString]), value[maxString:]
	}
	return append(all, value)
}

// jsonEntry is an object of the JSON format.
type jsonEntry struct {
	Domain    string             `json:"domain"`
	Selector  string             `json:"selector"`
	Name      string             `json:"name"` // without the final dot
	Type      string             `json:"type"` // "TXT"
	TTL       int64              `json:"ttl,omitempty"`
	Value     string             `json:"value"`
	Strings   []string           `json:"strings"`
	Algorithm keystore.Algorithm `json:"algorithm"`
	Bits      int                `json:"bits"`
	State     keystore.State     `json:"state"`
}

func writeJSON(w io.Writer, entries []Entry) error {
	list := make([]jsonEntry, 0, len(entries))
	for i := range entries {
		e := &entries[i]
		value := e.Record.String()
		list = append(list, jsonEntry{
			Domain:    e.Domain,
			Selector:  e.Key.Selector,
			Name:      e.name(),
			Type:      "TXT",
			TTL:       int64(e.TTL / time.Second),
			Value:     value,
			Strings:   Strings(value),
			Algorithm: e.Key.Algorithm,
			Bits:      bits(e.Key),
			State:     e.Key.State,
		})
	}
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(list)
}

// bits returns the size of the key, also when its record is revoked.
func bits(k *keystore.Key) int {
	if k.Algorithm == keystore.Ed25519 {
		return 256
	}
	public, err := parseRSA(k.Public)
	if err != nil {
		return 0
	}
	return public.N.BitLen()
}
