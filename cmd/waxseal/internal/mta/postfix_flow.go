package mta

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// onlyVariable is a value that is another parameter's and nothing else.
var onlyVariable = regexp.MustCompile(`^\$[{(]?([A-Za-z0-9_]+)[)}]?$`)

// checkSubmission is about mail of users that passes waxseal by, or is not in
// its final form.
func (p *Postfix) checkSubmission(all *findings, smtpd []place, setup Setup) {
	later := slices.ContainsFunc(smtpd, func(l place) bool { return p.reinjection(l.service) && p.signs(l) })
	for _, l := range smtpd {
		s := l.service
		override := p.get(s, "receive_override_options")
		if p.submission(s) {
			_, filtered := p.filtered(s)
			switch {
			case p.signs(l), filtered && later:
			case l.ours >= 0:
				all.add(Finding{Error, "no_milters", override.where(), fmt.Sprintf("mail of users that comes in by %s leaves unsigned, as no_milters switches waxseal off", s), override.set(without(override.value, "no_milters"))})
			default:
				f := Finding{Error, "submission_unsigned", l.list.where(), fmt.Sprintf("mail of users that comes in by %s leaves unsigned, as this list of milters has no waxseal", s), p.wire(l, setup, func(list string) string { return s.option("smtpd_milters", list) })}
				if m := onlyVariable.FindStringSubmatch(l.list.written); m != nil && l.list.value == "" {
					name := m[1]
					f.Problem += fmt.Sprintf("; $%s is empty, or not set in main.cf", name)
					f.Remedy = p.wire(l, setup, func(list string) string { return fmt.Sprintf("in main.cf: %s = %s", name, list) })
				}
				all.add(f)
			}
			p.checkUsers(all, s)
		}
		if p.signs(l) && !p.reinjection(s) && override.has("no_header_body_checks") {
			all.add(Finding{Warning, "stray_cr_lf", override.where(), "with no_header_body_checks Postfix leaves stray CR and LF in messages, and waxseal does not sign such mail", override.set(without(override.value, "no_header_body_checks"))})
		}
		if c := p.get(p.cleanupOf(s), "cleanup_replace_stray_cr_lf"); p.signs(l) && strings.EqualFold(c.value, "no") {
			all.add(Finding{Warning, "stray_cr_lf", c.where(), "Postfix leaves stray CR and LF in messages, and waxseal does not sign such mail", c.set("yes")})
		}
	}
}

// checkUsers is about what Postfix does to mail of users before it is signed.
func (p *Postfix) checkUsers(all *findings, s *service) {
	rewrite := p.get(s, "local_header_rewrite_clients")
	if !p.get(p.cleanupOf(s), "always_add_missing_headers").yes() && !rewrite.has("permit_sasl_authenticated") && !rewrite.has("static:all") {
		all.add(Finding{Note, "header_rewrite", rewrite.where(), fmt.Sprintf("Postfix adds no Date and no Message-ID to mail of users that comes in by %s without them, and other servers distrust such mail", s),
			s.option("local_header_rewrite_clients", "permit_mynetworks, permit_sasl_authenticated")})
	}
	if utf8 := p.get(s, "smtputf8_enable"); !utf8.yes() {
		all.add(Finding{Note, "smtputf8", utf8.where(), "users cannot send from or to addresses beyond ASCII", utf8.set("yes")})
	}
}

// checkLocal is about mail that comes in on the machine itself, and bounces.
func (p *Postfix) checkLocal(all *findings, smtpd, local []place, setup Setup) {
	later := slices.ContainsFunc(smtpd, func(l place) bool { return p.reinjection(l.service) && p.signs(l) })
	pickup := p.find("pickup", "unix")
	if pickup == nil {
		pickup = p.find("pickup", "fifo")
	}
	passed := false // a filter hands local mail to a listener that signs
	if pickup != nil {
		filter, filtered := p.filtered(pickup)
		override := p.get(pickup, "receive_override_options")
		passed = filtered && later
		switch {
		case override.has("no_milters") && !passed:
			all.add(Finding{Warning, "no_milters", override.where(), "mail of the sendmail command and of local programs leaves unsigned, as no_milters switches waxseal off", override.set(without(override.value, "no_milters"))})
		case filtered && !override.has("no_milters") && slices.ContainsFunc(local, func(l place) bool { return l.ours >= 0 }):
			all.add(Finding{Warning, "content_filter", filter.where(), "mail of the sendmail command and of local programs is signed before the filter, and whatever the filter changes breaks the signature", pickup.option("receive_override_options", "no_milters") + "; and let waxseal sign at the listener that takes mail back from the filter"})
		}
	}
	for _, l := range local {
		if l.ours < 0 {
			if !passed {
				all.add(Finding{Warning, "non_smtpd_milters", l.list.where(), "mail of the sendmail command, of local programs, and bounces leave unsigned, as this list of milters has no waxseal", p.wire(l, setup, l.list.set)})
			}
			continue
		}
		if classes := p.get(nil, "internal_mail_filter_classes"); !classes.has("bounce") {
			all.add(Finding{Note, "bounces", classes.where(), "bounces leave unsigned", classes.set(strings.TrimSpace(classes.value + " bounce"))})
		}
	}
}

// checkFilters is about content filters that get a message after waxseal.
func (p *Postfix) checkFilters(all *findings, smtpd []place, setup Setup) {
	// Mail from outside and mail of users may go through filters. They may have
	// ways back of their own, of which one signs.
	foreign, users := map[string]bool{}, map[string]bool{}
	ownWay := slices.ContainsFunc(smtpd, func(l place) bool { return p.reinjection(l.service) && !p.signs(l) })
	for _, l := range smtpd {
		s := l.service
		f, filtered := p.filtered(s)
		if !filtered {
			continue
		}
		switch {
		case p.submission(s):
			users[f.value] = true
		case !p.reinjection(s):
			foreign[f.value] = true
		}
		if !p.signs(l) {
			continue
		}
		if f.name == "smtpd_proxy_filter" {
			all.add(Finding{Error, "proxy_filter", f.where(), fmt.Sprintf("milters of %s see no content, as it goes to the proxy filter directly, so nothing is signed", s),
				s.option("smtpd_milters", "") + "; and let waxseal sign at the listener that takes mail back from the filter"})
		} else {
			all.add(Finding{Warning, "content_filter", f.where(), fmt.Sprintf("mail of %s is signed before the filter, and whatever the filter changes breaks the signature", s),
				s.option("receive_override_options", "no_milters") + "; and let waxseal sign at the listener that takes mail back from the filter"})
		}
	}
	shared := !ownWay && len(foreign) > 0
	for filter := range foreign {
		shared = shared || users[filter]
	}
	for _, l := range smtpd {
		if ours := setup.LoopbackIsOurs || p.get(l.service, "milter_macro_daemon_name").value == "ORIGINATING"; ours && shared && p.reinjection(l.service) && p.signs(l) {
			all.add(Finding{Warning, "foreign_mail", l.list.where(), fmt.Sprintf("mail from outside that comes back from its content filter by %s counts as ours, so a stranger can have mail signed that claims to be from your domains", l.service),
				"give mail from outside a filter of its own (another port), which gives it back to a listener with -o smtpd_milters="})
		}
	}
}

// afterwards are the settings by which Postfix changes a message when it sends
// it, after the milters.
var afterwards = []struct {
	name     string
	severity Severity
	problem  string
	remedy   string
}{
	{"smtp_generic_maps", Error, "addresses in the header are rewritten after signing, which breaks the signature",
		"rewrite before signing: empty it, and use sender_canonical_maps or canonical_maps"},
	{"smtp_header_checks", Warning, "rules that change, add or remove fields do so after signing, and may break the signature", "rewrite before signing: use header_checks"},
	{"smtp_mime_header_checks", Warning, "rules that change or remove fields of MIME do so after signing, which breaks the signature", "rewrite before signing: use mime_header_checks"},
	{"smtp_nested_header_checks", Warning, "rules that change attached messages do so after signing, which breaks the signature", "rewrite before signing: use nested_header_checks"},
	{"smtp_body_checks", Warning, "rules that change the body do so after signing, which breaks the signature", "rewrite before signing: use body_checks"},
}

// checkDelivery is about what the smtp client does to a message that is signed.
func (p *Postfix) checkDelivery(all *findings, smtpd []place) {
	// Mail is 7-bit before it is signed where every smtpd sees to that.
	converted := slices.ContainsFunc(smtpd, p.signs) && !slices.ContainsFunc(smtpd, func(l place) bool {
		return p.signs(l) && !p.get(p.cleanupOf(l.service), "force_mime_input_conversion").yes()
	})
	for _, s := range p.services {
		if s.command != "smtp" || s.kind != "unix" || p.toFilter(s) {
			continue
		}
		for _, a := range afterwards {
			if v := p.get(s, a.name); v.value != "" {
				all.add(Finding{a.severity, a.name, v.where(), a.problem, a.remedy})
			}
		}
		if output := p.get(s, "disable_mime_output_conversion"); !output.yes() && !converted {
			f := Finding{Warning, "eight_bit", output.where(), "8-bit mail, and mail that only says it is, is turned into quoted-printable for servers without 8BITMIME, after signing, which breaks the signature", output.set("yes")}
			if p.atLeast(3, 9) {
				f.Remedy += "; or convert it before signing: force_mime_input_conversion = yes"
			}
			all.add(f)
			if discard := p.get(s, "smtp_discard_ehlo_keywords"); discard.has("8bitmime") {
				all.add(Finding{Error, "discard_8bitmime", discard.where(), "Postfix takes every server for one without 8BITMIME, so the signature of all 8-bit mail is broken", discard.set(without(discard.value, "8bitmime"))})
			}
		}
		if limit := p.get(s, "smtp_line_length_limit"); limit.value != "" {
			if n, err := strconv.Atoi(limit.value); err == nil && n > 0 && n < 998 {
				all.add(Finding{Warning, "line_length", limit.where(), fmt.Sprintf("lines over %d bytes are broken after signing, which breaks the signature, though mail may have lines of 998 bytes", n), limit.set("998")})
			}
		}
	}
}

// toFilter says whether a service delivers to a content filter only.
func (p *Postfix) toFilter(client *service) bool {
	return slices.ContainsFunc(p.services, func(s *service) bool {
		transport, _, _ := strings.Cut(p.get(s, "content_filter").value, ":")
		return transport == client.name && transport != "smtp" && transport != "relay"
	})
}

// aboutMilters are the parts of parameter names that the doctor looks at.
var aboutMilters = []string{"milter", "mime", "mail_filter", "generic_maps", "_checks", "receive_override", "content_filter", "proxy_filter", "header_rewrite", "missing_headers"}

// checkDoubts passes on what postconf itself doubts.
func (p *Postfix) checkDoubts(all *findings) {
	for _, doubt := range p.doubts {
		file, text, _ := strings.Cut(doubt, ": ")
		where := file[strings.LastIndexByte(file, '/')+1:] + ": "
		text, ok := strings.CutPrefix(text, "unused parameter: ")
		name, value, _ := strings.Cut(text, "=")
		if ok && isAboutMilters(name) {
			all.add(Finding{Warning, "unused", where + name + " = " + value, "Postfix " + p.Version + " has no such parameter, and nothing refers to it, so it does nothing", "correct the name, or remove it"})
		}
	}
	check := func(s *service, written map[string]string) {
		for _, name := range sortedNames(written) {
			missing := undefined(written[name], p.doubts)
			if missing == "" || !isAboutMilters(name) || s != nil && name == "smtpd_milters" && p.submission(s) {
				continue // for submission it has been told
			}
			all.add(Finding{Warning, "undefined", p.get(s, name).where(), fmt.Sprintf("$%s is not set in main.cf, so it is empty", missing), fmt.Sprintf("set %s in main.cf, or correct the name", missing)})
		}
	}
	check(nil, p.given)
	for _, s := range p.services {
		check(s, s.options)
	}
}

func isAboutMilters(name string) bool {
	return slices.ContainsFunc(aboutMilters, func(part string) bool { return strings.Contains(name, part) })
}

// undefined returns the first name in a value that postconf has not found.
func undefined(value string, doubts []string) string {
	for _, doubt := range doubts {
		if _, name, ok := strings.Cut(doubt, "undefined parameter: "); ok {
			for _, form := range []string{"$" + name, "${" + name, "$(" + name} {
				if i := strings.Index(value, form); i >= 0 && !isName(value[i+len(form):]) {
					return name
				}
			}
		}
	}
	return ""
}

// isName says whether a text begins with a letter of a parameter's name.
func isName(s string) bool {
	return s != "" && (s[0] == '_' || s[0] >= '0' && s[0] <= '9' || s[0] >= 'a' && s[0] <= 'z' || s[0] >= 'A' && s[0] <= 'Z')
}

// without is a list less one word.
func without(list, word string) string {
	return strings.Join(slices.DeleteFunc(words(list), func(w string) bool { return strings.EqualFold(w, word) }), ", ")
}
