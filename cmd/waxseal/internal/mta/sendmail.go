package mta

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"

	"waxseal/milter"
)

// Sendmail is the set-up of a Sendmail.
type Sendmail struct {
	Version string // of the configuration; "" when only the .mc file was read
	File    string // what was read

	options  map[string]string // long names in lower case
	filters  []filter          // in the order of their definition
	input    []string          // names of filters, in the order mail goes through them
	mailers  map[string]mailer
	macros   map[string]string // "M": what addresses are masqueraded as; "S": the smart host
	classes  map[string][]string
	maps     map[string]string // K lines: name and definition
	features map[string]bool   // FEATURE of the .mc file
	daemons  []daemon

	source *Sendmail // the .mc file beside sendmail.cf; nil when there is none
	stale  bool      // it is newer than sendmail.cf
}

// filter is an X line.
type filter struct {
	name, text string
	address    milter.Address
	problem    string // why Sendmail does not read its address
	meant      string // how it would
	fails      string // F=
	hasTimes   bool
	times      string // T=
}

// mailer is an M line, as far as it matters.
type mailer struct{ flags, lineLimit string }

// daemon is a DaemonPortOptions line.
type daemon struct {
	name, text string
	filters    []string // InputMailFilters
	ownFilters bool     // it has that
	loopback   bool     // only this machine can reach it
}

// ReadSendmail reads sendmail.cf, and the .mc file that it was built from when
// that is there. With an empty cf it goes by the .mc file alone.
func ReadSendmail(cf, mc string) (*Sendmail, error) {
	var s, source *Sendmail
	if mc != "" {
		text, err := os.ReadFile(mc)
		switch {
		case err == nil:
			source = parseMC(text)
			source.File = mc
		case cf == "" || !errors.Is(err, fs.ErrNotExist):
			return nil, err
		}
	}
	if cf == "" {
		if source == nil {
			return nil, errors.New("neither sendmail.cf nor an .mc file is named")
		}
		return source, nil
	}
	text, err := os.ReadFile(cf)
	if err != nil {
		return nil, err
	}
	if s, err = parseCF(text); err != nil {
		return nil, fmt.Errorf("%s: %w", cf, err)
	}
	s.File, s.source = cf, source
	if built, err := os.Stat(cf); err == nil && source != nil {
		if written, err := os.Stat(mc); err == nil {
			s.stale = written.ModTime().After(built.ModTime())
		}
	}
	return s, nil
}

func newSendmail() *Sendmail {
	return &Sendmail{options: map[string]string{}, mailers: map[string]mailer{}, macros: map[string]string{},
		classes: map[string][]string{}, maps: map[string]string{}, features: map[string]bool{}}
}

// parseCF reads a sendmail.cf (version 8 and later).
func parseCF(text []byte) (*Sendmail, error) {
	s := newSendmail()
	var logical string
	take := func() {
		if logical != "" {
			s.line(logical)
		}
	}
	err := eachLine(text, func(line string) error {
		if line[0] == ' ' || line[0] == '\t' { // goes on with the line before
			if logical != "" && len(logical) < maxLine {
				logical += " " + strings.TrimSpace(line)
			}
			return nil
		}
		take()
		logical = strings.TrimRight(line, " \t\r")
		return nil
	})
	if err != nil {
		return nil, err
	}
	take()
	if s.Version == "" {
		return nil, errors.New("is no sendmail.cf: it has no V line")
	}
	return s, nil
}

// line takes one logical line of sendmail.cf.
func (s *Sendmail) line(l string) {
	rest := l[1:]
	switch l[0] {
	case '#': // m4 leaves the name of each FEATURE file in a comment
		if _, id, ok := strings.Cut(l, "$Id: "); ok && strings.HasPrefix(l, "#####") {
			if name, _, ok := strings.Cut(id, ".m4,v"); ok {
				s.features[name] = true
			}
		}
	case 'V':
		s.Version = rest
	case 'O':
		name, value, ok := strings.Cut(strings.TrimSpace(rest), "=")
		if ok && strings.HasPrefix(rest, " ") {
			s.option(strings.TrimSpace(name), strings.TrimSpace(value))
		}
	case 'X':
		s.filters = append(s.filters, parseFilter(rest))
	case 'M':
		name, equates := split2(rest, ",")
		e := parseEquates(equates, ',')
		s.mailers[name] = mailer{flags: e['F'], lineLimit: e['L']}
	case 'D':
		name, value := macroName(rest)
		s.macros[name] = value
	case 'C':
		name, value := macroName(rest)
		s.classes[name] = append(s.classes[name], strings.Fields(value)...)
	case 'K':
		if f := strings.SplitN(rest, " ", 2); len(f) == 2 {
			s.maps[f[0]] = strings.TrimSpace(f[1])
		}
	}
}

func (s *Sendmail) option(name, value string) {
	switch lower := strings.ToLower(name); lower {
	case "daemonportoptions":
		s.daemons = append(s.daemons, parseDaemon(value))
	case "inputmailfilters":
		s.input = words(value)
	default:
		s.options[lower] = value
	}
}

// macroName splits the name off a D or C line: one letter, or {word}.
func macroName(s string) (name, rest string) {
	if strings.HasPrefix(s, "{") {
		if name, rest, ok := strings.Cut(s[1:], "}"); ok {
			return name, strings.TrimSpace(rest)
		}
	}
	if s == "" {
		return "", ""
	}
	return s[:1], strings.TrimSpace(s[1:])
}

func split2(s, separator string) (string, string) {
	before, after, _ := strings.Cut(s, separator)
	return strings.TrimSpace(before), strings.TrimSpace(after)
}

// parseEquates reads "F=T, T=S:30s;R:30s". Only the first letter of a name counts.
func parseEquates(s string, separator byte) map[byte]string {
	all := map[byte]string{}
	for part := range strings.SplitSeq(s, string(separator)) {
		name, value := split2(part, "=")
		if name != "" {
			all[name[0]&^0x20] = value // in upper case
		}
	}
	return all
}

func parseDaemon(text string) daemon {
	e := parseEquates(text, ',')
	list, own := e['I']
	return daemon{name: e['N'], text: text, ownFilters: own, loopback: isLoopback(e['A']),
		filters: strings.FieldsFunc(list, func(r rune) bool { return r == ';' || r == ' ' })}
}

// parseFilter reads the text behind X: a name, and equates.
func parseFilter(text string) filter {
	name, equates := split2(text, ",")
	e := parseEquates(equates, ',')
	f := filter{name: name, text: e['S'], fails: e['F'], times: e['T']}
	_, f.hasTimes = e['T']
	if f.address = sendmailAddress(f.text); f.address.Network != "" {
		return f
	}
	f.problem = "is no address that Sendmail reads"
	if kind, rest, ok := strings.Cut(f.text, ":"); ok && (kind == "inet" || kind == "inet6") {
		if host, port, err := net.SplitHostPort(rest); err == nil && host != "" {
			f.problem = "is Postfix's spelling, which Sendmail does not read"
			f.meant = kind + ":" + port + "@" + host
			f.address = sendmailAddress(f.meant)
		}
	}
	return f
}

// sendmailAddress reads an address as Sendmail does; what is none has no network.
func sendmailAddress(s string) milter.Address {
	kind, rest, _ := strings.Cut(s, ":")
	switch kind {
	case "unix", "local":
		if filepath.IsAbs(rest) {
			return milter.Address{Network: "unix", Address: rest}
		}
	case "inet", "inet6":
		if port, host, ok := strings.Cut(rest, "@"); ok && port != "" && host != "" {
			return milter.Address{Network: "tcp", Address: net.JoinHostPort(strings.Trim(host, "[]"), port)}
		}
	}
	return milter.Address{}
}

// filter returns the definition of a name, or nil.
func (s *Sendmail) filter(name string) *filter {
	for i := range s.filters {
		if s.filters[i].name == name {
			return &s.filters[i]
		}
	}
	return nil
}

// ours returns the filter that is waxseal, or nil.
func (s *Sendmail) ours(setup Setup) (*filter, milter.Address) {
	for i, f := range s.filters {
		for _, socket := range setup.Sockets {
			if sameAddress(f.address, socket) {
				return &s.filters[i], socket
			}
		}
	}
	return nil, milter.Address{}
}

// Connections are those that Sendmail will make to waxseal.
func (s *Sendmail) Connections(setup Setup) []Connection {
	f, socket := s.ours(setup)
	if f == nil || f.problem != "" {
		return nil
	}
	user, _, _ := strings.Cut(s.options["runasuser"], ":")
	return []Connection{{Address: dialed(f.address, socket), User: user, Where: s.where("X" + f.name)}}
}

// where names a line of the file that was read.
func (s *Sendmail) where(what string) string { return filepath.Base(s.File) + ": " + what }
