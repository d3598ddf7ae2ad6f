package mta

import (
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strings"

	"waxseal/milter"
)

// hop is one milter of a list.
type hop struct {
	text    string // as written
	address milter.Address
	problem string            // why Postfix does not read it
	meant   string            // the text as Postfix would read it
	options map[string]string // { address, name=value }
}

// parseMilters reads a list of milters as smtpd_milters has it: addresses, or
// { address, name=value ... }, separated by commas and blanks.
func parseMilters(list string) []hop {
	var all []hop
	for _, text := range splitBraces(list) {
		h := hop{text: text, options: map[string]string{}}
		address := text
		if inner, ok := unbrace(text); ok {
			parts := splitBraces(inner)
			address = ""
			if len(parts) > 0 {
				address = parts[0]
				// "name = value" with blanks is several parts, so put it together.
				settings := strings.Join(parts[1:], " ")
				for _, blank := range []string{" =", "= "} {
					settings = strings.ReplaceAll(settings, blank, "=")
				}
				for _, part := range splitBraces(settings) {
					if inner, ok := unbrace(part); ok {
						part = inner
					}
					name, value, _ := strings.Cut(part, "=")
					h.options[strings.TrimSpace(name)] = strings.TrimSpace(value)
				}
			}
		}
		if h.address = postfixAddress(address); h.address.Network == "" {
			h.problem = "is no address that Postfix reads"
			if meant := postfixSpelling(address); postfixAddress(meant).Network != "" {
				h.problem = "is Sendmail's spelling, which Postfix does not read"
				h.address = postfixAddress(meant)
				h.meant = strings.Replace(text, address, meant, 1)
			}
		}
		all = append(all, h)
	}
	return all
}

// splitBraces splits a list at commas and blanks outside braces.
func splitBraces(s string) []string {
	var all []string
	start, depth := -1, 0
	for i, c := range []byte(s) {
		separator := depth == 0 && strings.IndexByte(", \t\r\n", c) >= 0
		switch {
		case separator && start >= 0:
			all, start = append(all, s[start:i]), -1
		case !separator && start < 0:
			start = i
		}
		switch {
		case c == '{':
			depth++
		case c == '}' && depth > 0:
			depth--
		}
	}
	if start >= 0 {
		all = append(all, s[start:])
	}
	return all
}

func unbrace(s string) (string, bool) {
	if strings.HasPrefix(s, "{") && strings.HasSuffix(s, "}") && len(s) > 1 {
		return strings.TrimSpace(s[1 : len(s)-1]), true
	}
	return s, false
}

// postfixAddress reads an address as Postfix does. A path stays as written. What
// is no address has no network.
func postfixAddress(s string) milter.Address {
	kind, rest, _ := strings.Cut(s, ":")
	switch kind {
	case "unix":
		if rest != "" {
			return milter.Address{Network: "unix", Address: rest}
		}
	case "inet":
		host, port, err := net.SplitHostPort(rest)
		if err == nil && port != "" && !strings.Contains(rest, "@") {
			return milter.Address{Network: "tcp", Address: net.JoinHostPort(host, port)}
		}
	}
	return milter.Address{}
}

// postfixSpelling turns Sendmail's spelling of an address into Postfix's.
func postfixSpelling(s string) string {
	kind, rest, _ := strings.Cut(s, ":")
	port, host, at := strings.Cut(rest, "@")
	switch {
	case kind == "local" && rest != "":
		return "unix:" + rest
	case (kind == "inet" || kind == "inet6") && at:
		return "inet:" + net.JoinHostPort(strings.Trim(host, "[]"), port)
	}
	return ""
}

// sameAddress says whether a client of one address reaches a listener at
// another.
func sameAddress(client, listener milter.Address) bool {
	if client.Network == "unix" || listener.Network == "unix" {
		return client.Network == listener.Network && realPath(client.Address) == realPath(listener.Address)
	}
	host, port, err := net.SplitHostPort(client.Address)
	ours, oursPort, err2 := net.SplitHostPort(listener.Address)
	if err != nil || err2 != nil || port != oursPort {
		return false
	}
	ip := net.ParseIP(ours)
	return host == ours || ip.IsUnspecified() || isLoopback(host) && isLoopback(ours)
}

func isLoopback(host string) bool {
	return host == "localhost" || net.ParseIP(strings.Trim(host, "[]")).IsLoopback()
}

// realPath follows the links of a socket's directory, such as /var/run.
func realPath(path string) string {
	dir, err := filepath.EvalSymlinks(filepath.Dir(path))
	if err != nil {
		return filepath.Clean(path)
	}
	return filepath.Join(dir, filepath.Base(path))
}

// place is a list of milters that a service runs its mail through.
type place struct {
	service *service
	list    setting
	hops    []hop
	ours    int            // the hop that is waxseal; -1: none
	reached milter.Address // our socket that it is, or was meant to be
	astray  bool           // meant to be, but the path leads elsewhere
}

// newPlace looks for waxseal in a service's list.
func (p *Postfix) newPlace(s *service, name string, setup Setup) place {
	l := place{service: s, list: p.get(s, name), ours: -1}
	l.hops = parseMilters(l.list.value)
	for _, astray := range []bool{false, true} {
		for i, h := range l.hops {
			for _, socket := range setup.Sockets {
				same := sameAddress(p.resolve(s, h.address), socket)
				if astray && h.address.Network == "unix" {
					below := h.address
					below.Address = filepath.Join(p.values["queue_directory"], h.address.Address)
					same = sameAddress(h.address, socket) || sameAddress(below, socket)
				}
				if same {
					l.ours, l.reached, l.astray = i, socket, astray
					return l
				}
			}
		}
	}
	return l
}

// signs says whether the list has waxseal, and is used.
func (p *Postfix) signs(l place) bool {
	return l.ours >= 0 && !p.get(l.service, "receive_override_options").has("no_milters")
}

// wire says how to put waxseal last into a list, in place of what was meant to be
// it. set makes the line of a list. Where the listener cannot be reached from a
// chroot, it has to move, too.
func (p *Postfix) wire(l place, setup Setup, set func(string) string) string {
	socket, remedy := setup.Sockets[0], ""
	if l.ours >= 0 {
		socket = l.reached
	}
	queue := p.values["queue_directory"]
	if l.service != nil && l.service.chroot && socket.Network == "unix" && !strings.HasPrefix(socket.Address, queue+"/") {
		socket.Address = filepath.Join(queue, "waxseal/milter.sock")
		remedy = fmt.Sprintf("in waxseal.toml, for the listener: address = \"unix:%s\"; and ", socket.Address)
	}
	var list []string
	for i, h := range l.hops {
		if i != l.ours && h.problem == "" {
			list = append(list, h.text)
		}
	}
	return remedy + set(strings.Join(append(list, p.spell(socket)), ", "))
}

// spell is how a list names one of our sockets so that it is reached by a service
// in a chroot and by one outside.
func (p *Postfix) spell(socket milter.Address) string {
	if below, ok := strings.CutPrefix(socket.Address, p.values["queue_directory"]+"/"); ok && socket.Network == "unix" {
		return "unix:" + below
	}
	return socket.Postfix()
}

// places are all lists of milters: those of each smtpd, and those of the cleanup
// services that local mail and bounces come to.
func (p *Postfix) places(setup Setup) (smtpd, local []place) {
	var cleanups []*service
	for _, s := range p.services {
		switch s.command {
		case "smtpd":
			smtpd = append(smtpd, p.newPlace(s, "smtpd_milters", setup))
		case "pickup":
			cleanups = append(cleanups, p.cleanupOf(s))
		}
	}
	cleanups = append(cleanups, p.cleanupOf(nil))
	for i, s := range cleanups {
		if s != nil && !slices.Contains(cleanups[:i], s) {
			local = append(local, p.newPlace(s, "non_smtpd_milters", setup))
		}
	}
	return smtpd, local
}

// Connections are those that Postfix will make to waxseal, each once.
func (p *Postfix) Connections(setup Setup) []Connection {
	smtpd, local := p.places(setup)
	var all []Connection
	for _, l := range append(smtpd, local...) {
		if l.ours < 0 || l.astray || l.hops[l.ours].problem != "" {
			continue
		}
		c := Connection{Address: dialed(l.hops[l.ours].address, l.reached), User: p.user(l.service), Where: l.list.where()}
		if !slices.ContainsFunc(all, func(d Connection) bool { return d.Address == c.Address && d.User == c.User }) {
			all = append(all, c)
		}
	}
	return all
}
