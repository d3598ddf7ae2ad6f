package sqlstore

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"net/url"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"time"

	"waxseal/keystore"
)

const (
	defaultConnections    = 8
	defaultConnectTimeout = 3 * time.Second
)

// preferStandby is the value of target_session_attrs that leaves a choice.
const preferStandby = "prefer-standby"

// source is a URL, read.
type source struct {
	kind     string // postgres, mysql or sqlite
	path     string // of the SQLite file
	user     string
	hosts    []host
	database string

	passwordFile        string
	sslmode             string // never empty for postgres and mysql
	rootCert, cert, key string
	connectTimeout      time.Duration
	connections         int
	sessionAttrs        string
	searchPath          string
	transactionPooler   bool
	preset              string
	tablePrefix         string
	dkimIdentifier      string
	socketPath          string
}

type host struct{ name, port string }

// IsURL reports whether Open is what takes such a URL.
func IsURL(url string) bool {
	scheme, _, _ := strings.Cut(url, ":")
	_, ok := kinds[scheme]
	return ok
}

var kinds = map[string]string{"postgres": "postgres", "postgresql": "postgres", "mysql": "mysql", "mariadb": "mysql", "sqlite": "sqlite"}

// options of a URL, by the kind of database that has them.
var options = map[string]string{
	"password_file":        "postgres mysql",
	"sslmode":              "postgres mysql",
	"sslrootcert":          "postgres mysql",
	"sslcert":              "postgres mysql",
	"sslkey":               "postgres mysql",
	"connect_timeout":      "postgres mysql",
	"connections":          "postgres mysql",
	"socket":               "postgres mysql",
	"target_session_attrs": "postgres",
	"search_path":          "postgres",
	"pooler":               "postgres",
	"preset":               "postgres mysql",
	"table_prefix":         "postgres mysql",
	"dkim_identifier":      "postgres mysql",
}

// parseURL reads a URL strictly. No error quotes what might be a password.
func parseURL(text string) (*source, error) {
	scheme, rest, ok := strings.Cut(text, ":")
	s := &source{kind: kinds[scheme], connectTimeout: defaultConnectTimeout, connections: defaultConnections}
	switch {
	case !ok || s.kind == "":
		return nil, fmt.Errorf("scheme %.20q, want sqlite, postgres or mysql", scheme)
	case s.kind == "sqlite":
		s.path = rest
		if rest == "" || strings.ContainsAny(rest, "?#\x00") || strings.HasPrefix(rest, "//") {
			return nil, errors.New("want sqlite:PATH, without options")
		}
		return s, nil
	}
	rest, ok = strings.CutPrefix(rest, "//")
	rest, query, _ := strings.Cut(rest, "?")
	authority, database, slash := strings.Cut(rest, "/")
	if at := strings.LastIndexByte(authority, '@'); at >= 0 {
		name, err := url.PathUnescape(authority[:at])
		if err != nil || strings.ContainsRune(authority[:at], ':') {
			return nil, errors.New("a password has no place in the URL, which is logged: put it into a file of mode 0600 and name that with ?password_file=PATH, or password_file=credential:NAME for one from systemd")
		}
		s.user, authority = name, authority[at+1:]
	}
	if !ok || !slash || database == "" || strings.Contains(database, "/") {
		return nil, fmt.Errorf("want %s://[USER@]HOST/DATABASE", scheme)
	}
	var err error
	if s.database, err = url.PathUnescape(database); err != nil {
		return nil, fmt.Errorf("name of the database: %w", err)
	}
	if err := s.readOptions(query); err != nil {
		return nil, err
	}
	if err := s.readHosts(authority); err != nil {
		return nil, err
	}
	if s.user == "" {
		u, err := user.Current()
		if err != nil {
			return nil, fmt.Errorf("want %s://USER@HOST/DATABASE, since the present user has no name: %w", scheme, err)
		}
		s.user = u.Username
	}
	return s, nil
}

// errHost quotes nothing: a password with a slash ends where the port would be.
var errHost = errors.New("between // and / want USER@ or nothing, and then HOST or HOST:PORT, or several of these with commas between")

func (s *source) readHosts(authority string) error {
	port := map[string]string{"postgres": "5432", "mysql": "3306"}[s.kind]
	if authority == "localhost" && s.socketPath != "" { // as everybody writes it
		authority = ""
	}
	if (authority == "") != (s.socketPath != "") {
		return errors.New("want either hosts or a socket, as in mysql://USER@localhost/DATABASE?socket=PATH")
	}
	if authority == "" {
		s.sslmode = "disable"
		s.hosts = []host{{s.socketPath, port}}
		return nil
	}
	local := true
	for text := range strings.SplitSeq(authority, ",") {
		h := host{strings.Trim(text, "[]"), port}
		if name, p, err := net.SplitHostPort(text); err == nil {
			h = host{name, p}
		}
		if n, err := strconv.ParseUint(h.port, 10, 16); err != nil || n == 0 {
			return errHost
		}
		address, err := netip.ParseAddr(h.name)
		if err != nil && (h.name == "" || strings.ContainsAny(h.name, ":/@[]' \\")) {
			return errHost
		}
		local = local && (address.IsLoopback() || h.name == "localhost")
		s.hosts = append(s.hosts, h)
	}
	if s.sslmode == "" {
		if s.sslmode = "verify-full"; local && s.rootCert == "" {
			s.sslmode = "disable"
		}
	}
	return nil
}

func (s *source) readOptions(query string) error {
	given, err := url.ParseQuery(query)
	if err != nil {
		return fmt.Errorf("options: %w", err)
	}
	for name, values := range given {
		value := values[0]
		of, known := options[name]
		switch {
		case !known || !slices.Contains(strings.Fields(of), s.kind):
			return fmt.Errorf("option %.40q: %s has none of this name, but %s", name, s.kind, strings.Join(s.optionNames(), ", "))
		case len(values) > 1:
			return fmt.Errorf("option %s: given twice", name)
		case value == "" || strings.ContainsRune(value, 0):
			return fmt.Errorf("option %s: has no value", name)
		}
		if err := s.set(name, value); err != nil {
			return fmt.Errorf("option %s: %w", name, err)
		}
	}
	if (s.cert == "") != (s.key == "") {
		return errors.New("sslcert and sslkey belong together")
	}
	if s.tablePrefix != "" && !strings.Contains(presets[s.preset].Keys, tables) {
		return errors.New("option table_prefix: only preset=opendkim has one")
	}
	if s.dkimIdentifier != "" && s.preset != "postal" {
		return errors.New("option dkim_identifier: only preset=postal has one")
	}
	return nil
}

// optionNames are the options that the kind of database has.
func (s *source) optionNames() []string {
	var names []string
	for name, of := range options {
		if slices.Contains(strings.Fields(of), s.kind) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

func (s *source) set(name, value string) error {
	number := func(least, most int) (int, error) {
		n, err := strconv.Atoi(value)
		if err != nil || n < least || n > most {
			return 0, fmt.Errorf("%.20q, want a number from %d to %d", value, least, most)
		}
		return n, nil
	}
	word := func(words ...string) error {
		if !slices.Contains(words, value) {
			return fmt.Errorf("%.40q, want one of %s", value, strings.Join(words, ", "))
		}
		return nil
	}
	switch name {
	case "password_file":
		s.passwordFile = value
	case "sslmode":
		s.sslmode = value
		if s.kind == "postgres" {
			return word("disable", "require", "verify-ca", "verify-full")
		}
		return word("disable", "require", "verify-full")
	case "sslrootcert":
		s.rootCert = value
	case "sslcert":
		s.cert = value
	case "sslkey":
		s.key = value
	case "connect_timeout":
		n, err := number(1, 60)
		s.connectTimeout = time.Duration(n) * time.Second
		return err
	case "connections":
		n, err := number(1, 1000)
		s.connections = n
		return err
	case "socket":
		s.socketPath = value
		if value[0] != '/' {
			return errors.New("want an absolute path")
		}
	case "target_session_attrs":
		s.sessionAttrs = value
		return word("any", "read-write", "read-only", "primary", "standby", preferStandby)
	case "search_path":
		s.searchPath = value
	case "preset":
		s.preset = value
		return word(slices.Sorted(maps.Keys(presets))...)
	case "table_prefix":
		s.tablePrefix = value
		if strings.ContainsFunc(value, func(c rune) bool {
			return c != '_' && c != '.' && (c|0x20 < 'a' || c|0x20 > 'z') && (c < '0' || c > '9')
		}) {
			return errors.New("want letters, digits and underscores")
		}
	case "dkim_identifier":
		s.dkimIdentifier = strings.ToLower(value)
		return keystore.ValidSelector(s.dkimIdentifier)
	case "pooler":
		s.transactionPooler = true
		return word("transaction")
	}
	return nil
}

// Needs is what using a URL takes of a process that is confined.
type Needs struct {
	File        string   // the SQLite file
	Read        []string // files: of the password and of certificates
	Ports       []uint16 // TCP ports to connect to
	Names       bool     // hosts have to be looked up
	Authorities bool     // the system's authorities of certificates
}

// NeedsOf returns what using a URL takes. secretPath is that of Options.
func NeedsOf(text string, secretPath func(string) (string, error)) (Needs, error) {
	s, err := parseURL(text)
	if err != nil {
		return Needs{}, err
	}
	n := Needs{File: s.path, Authorities: strings.HasPrefix(s.sslmode, "verify") && s.rootCert == ""}
	if s.passwordFile != "" && secretPath != nil {
		if s.passwordFile, err = secretPath(s.passwordFile); err != nil {
			return Needs{}, err
		}
	}
	for _, path := range []string{s.passwordFile, s.rootCert, s.cert, s.key} {
		if path != "" {
			n.Read = append(n.Read, path)
		}
	}
	if s.socketPath != "" {
		return n, nil
	}
	for _, h := range s.hosts {
		port, err := strconv.ParseUint(h.port, 10, 16)
		if err != nil {
			return Needs{}, err
		}
		n.Ports = append(n.Ports, uint16(port))
		_, err = netip.ParseAddr(h.name)
		n.Names = n.Names || err != nil
	}
	return n, nil
}
