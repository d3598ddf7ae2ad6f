package mta

import (
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"waxseal/milter"
)

// Check finds what will go wrong with a milter that signs.
func (p *Postfix) Check(setup Setup) []Finding {
	var all findings
	smtpd, local := p.places(setup)
	everywhere := append(slices.Clone(smtpd), local...)
	wired := slices.ContainsFunc(everywhere, func(l place) bool { return l.ours >= 0 })
	if !wired {
		all.add(p.notWired(everywhere, setup))
	}
	for _, l := range everywhere {
		p.checkList(&all, l, setup)
	}
	if wired {
		p.checkSubmission(&all, smtpd, setup)
		p.checkLocal(&all, smtpd, local, setup)
		p.checkFilters(&all, smtpd, setup)
	}
	p.checkDelivery(&all, smtpd)
	p.checkDoubts(&all)
	Sort(all)
	return all
}

// notWired says that no list has waxseal.
func (p *Postfix) notWired(everywhere []place, setup Setup) Finding {
	f := Finding{Error, "not_wired", p.get(nil, "smtpd_milters").where(), "", ""}
	var theirs, ours []string
	for _, l := range everywhere {
		for _, h := range l.hops {
			if !slices.Contains(theirs, h.text) {
				theirs = append(theirs, h.text)
			}
		}
	}
	for _, socket := range setup.Sockets {
		ours = append(ours, socket.Postfix())
	}
	f.Problem = "no list of milters has waxseal, which listens at " + strings.Join(ours, " and ") + ", so nothing is signed"
	if len(theirs) > 0 {
		f.Problem += "; the lists have " + strings.Join(theirs, ", ")
	}
	l := place{list: p.get(nil, "smtpd_milters"), ours: -1}
	l.hops = parseMilters(l.list.value)
	for _, other := range everywhere {
		if other.service.chroot {
			l.service = other.service
		}
	}
	f.Remedy = p.wire(l, setup, l.list.set) + "; and non_smtpd_milters = $smtpd_milters"
	return f
}

// checkList is about one list of milters, and how its service treats them.
func (p *Postfix) checkList(all *findings, l place, setup Setup) {
	for i, h := range l.hops {
		if h.problem != "" {
			f := Finding{Error, "address", l.list.where(), h.text + " " + h.problem, "write unix:PATH or inet:HOST:PORT"}
			if h.meant != "" {
				f.Remedy = l.list.set(withHop(l, i, h.meant))
			}
			all.add(f)
		}
	}
	if l.ours < 0 {
		return
	}
	h := l.hops[l.ours]
	if l.astray {
		p.checkChroot(all, l, setup)
	}

	action, where, remedy := p.hopSetting(l, h, "default_action")
	switch action {
	case "tempfail", "shutdown":
	case "accept":
		all.add(Finding{Error, "default_action", where, "mail leaves unsigned whenever waxseal is not running or does not answer", remedy("tempfail")})
	case "reject":
		all.add(Finding{Warning, "default_action", where, "mail is refused for good whenever waxseal is not running or does not answer, such as during a restart", remedy("tempfail")})
	case "quarantine":
		all.add(Finding{Warning, "default_action", where, "mail goes on hold whenever waxseal is not running, and stays there until someone releases it", remedy("tempfail")})
	default:
		all.add(Finding{Error, "default_action", where, fmt.Sprintf("%q is no action that Postfix knows", action), remedy("tempfail")})
	}

	protocol, where, remedy := p.hopSetting(l, h, "protocol")
	switch version, err := strconv.Atoi(protocol); {
	case err != nil:
		all.add(Finding{Error, "protocol", where, fmt.Sprintf("%q is no version of the milter protocol", protocol), remedy("6")})
	case version < 6:
		all.add(Finding{Warning, "protocol", where, fmt.Sprintf("version %d of the milter protocol loses the blanks at the start of header fields, so signatures with simple header canonicalization break, and has Postfix wait for an answer to each step", version), remedy("6")})
	}

	for _, limit := range []struct {
		name  string
		least time.Duration
	}{{"connect_timeout", 5 * time.Second}, {"command_timeout", 10 * time.Second}, {"content_timeout", 30 * time.Second}} {
		value, where, remedy := p.hopSetting(l, h, limit.name)
		if span, err := postfixTime(value); err == nil && span < limit.least {
			all.add(Finding{Warning, "timeout", where, fmt.Sprintf("%v is too short for keys that have to be fetched first, and then milter_default_action decides", span), remedy(limit.least.String())})
		}
	}

	for _, needed := range []struct{ list, macros, why string }{
		{"milter_connect_macros", "j {daemon_name} v", "waxseal goes by them for the mail server's name, its kind, and the service"},
		{"milter_mail_macros", "i {auth_authen} {auth_type}", "without them waxseal does not see that a client has logged in, or has no queue id for the log"},
	} {
		s := p.get(l.service, needed.list)
		var missing []string
		for _, macro := range strings.Fields(needed.macros) {
			// A name of one letter may stand with braces or without.
			if !s.has(macro) && !s.has("{"+macro+"}") {
				missing = append(missing, macro)
			}
		}
		if len(missing) > 0 {
			all.add(Finding{Error, "macros", s.where(), fmt.Sprintf("lacks %s: %s", strings.Join(missing, " "), needed.why), s.set(strings.TrimSpace(s.value + " " + strings.Join(missing, " ")))})
		}
	}
	if v := p.get(l.service, "milter_macro_v"); !strings.HasPrefix(v.value, "Postfix") {
		all.add(Finding{Warning, "macros", v.where(), "waxseal tells Postfix by a macro v that begins with that word, and otherwise signs with the limits of Sendmail", v.set("$mail_name $mail_version")})
	}
	if maps := p.get(l.service, "smtpd_milter_maps"); maps.value != "" && l.service.command == "smtpd" {
		all.add(Finding{Warning, "milter_maps", maps.where(), "clients that are listed there have other milters than waxseal, or none, so their mail may leave unsigned", "see that nobody is listed whose mail is to be signed"})
	}
	cleanup := l.service
	if l.service.command == "smtpd" {
		cleanup = p.cleanupOf(l.service)
	}
	if checks := p.get(cleanup, "milter_header_checks"); checks.value != "" {
		all.add(Finding{Warning, "milter_header_checks", checks.where(), "is applied to the fields that milters add, so it may remove or change DKIM-Signature", "see that no rule matches DKIM-Signature"})
	}
	list, texts := hopAddresses(l)
	all.checkNeighbours(l.list.where(), list, texts, l.ours, setup.Root)
}

// checkChroot tells of a path that leads elsewhere in the service's chroot.
func (p *Postfix) checkChroot(all *findings, l place, setup Setup) {
	h, queue := l.hops[l.ours], p.values["queue_directory"]
	f := Finding{Severity: Error, Name: "chroot", Where: l.list.where()}
	leads := p.resolve(l.service, h.address).Address
	if l.service.chroot {
		f.Problem = fmt.Sprintf("%s runs in a chroot below %s, where %s leads to %s, and waxseal listens at %s", l.service, queue, h.text, leads, l.reached.Address)
	} else {
		f.Problem = fmt.Sprintf("%s does not run in a chroot, so %s leads to %s, and waxseal listens at %s", l.service, h.text, leads, l.reached.Address)
	}
	f.Remedy = p.wire(l, setup, l.list.set)
	// All services in the chroot have the same list, mostly: one of them will do.
	if !slices.ContainsFunc(*all, func(g Finding) bool { return g.Name == f.Name && g.Where == f.Where && g.Remedy == f.Remedy }) {
		all.add(f)
	}
}

func hopAddresses(l place) (list []milter.Address, texts []string) {
	for _, h := range l.hops {
		list, texts = append(list, h.address), append(texts, h.text)
	}
	return list, texts
}

// withHop is the list with another text for one milter.
func withHop(l place, i int, text string) string {
	_, texts := hopAddresses(l)
	texts[i] = text
	return strings.Join(texts, ", ")
}

// hopSetting returns a setting of one milter: its own, { address, name=value },
// or else milter_name.
func (p *Postfix) hopSetting(l place, h hop, name string) (value, where string, remedy func(string) string) {
	if own, ok := h.options[name]; ok {
		return own, l.list.where(), func(to string) string {
			return fmt.Sprintf("write %s=%s in place of %s=%s", name, to, name, own)
		}
	}
	s := p.get(l.service, "milter_"+name)
	return s.value, s.where(), s.set
}

// postfixTime reads a time span as Postfix writes it: a number, and a unit or
// seconds.
func postfixTime(s string) (time.Duration, error) {
	units := map[byte]time.Duration{'s': time.Second, 'm': time.Minute, 'h': time.Hour, 'd': 24 * time.Hour, 'w': 7 * 24 * time.Hour}
	unit := time.Second
	if s != "" && units[s[len(s)-1]] > 0 {
		unit, s = units[s[len(s)-1]], s[:len(s)-1]
	}
	n, err := strconv.ParseUint(s, 10, 31)
	if err != nil {
		return 0, err
	}
	return min(time.Duration(n), 365*24*3600) * unit, nil
}

// submission says whether users log in to an smtpd.
func (p *Postfix) submission(s *service) bool {
	if _, port, ok := strings.Cut(s.name, ":"); ok && (port == "submission" || port == "587") {
		return true
	}
	switch s.name {
	case "submission", "submissions", "smtps", "587", "465":
		return true
	}
	if p.reinjection(s) {
		return false
	}
	return p.get(s, "smtpd_sasl_auth_enable").yes() || p.get(s, "milter_macro_daemon_name").value == "ORIGINATING"
}

// reinjection says whether an smtpd takes mail back from a content filter: it
// listens on loopback, on a port of its own, or is told to filter no more.
func (p *Postfix) reinjection(s *service) bool {
	host, port, err := net.SplitHostPort(s.name)
	if err == nil && isLoopback(host) && !slices.Contains([]string{"25", "smtp", "587", "submission", "465", "submissions", "smtps"}, port) {
		return true
	}
	option, ok := s.options["content_filter"]
	return ok && option == "" && p.values["content_filter"] != ""
}

// filtered says whether the mail of a service goes through a content filter that
// gives it back, and by which setting.
func (p *Postfix) filtered(s *service) (setting, bool) {
	for _, name := range []string{"smtpd_proxy_filter", "content_filter"} {
		if f := p.get(s, name); f.value != "" && (name == "content_filter" || s.command == "smtpd") {
			return f, true
		}
	}
	return setting{}, false
}
