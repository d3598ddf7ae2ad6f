package mta

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"waxseal/milter"
)

// Check finds what will go wrong with a milter that signs.
func (s *Sendmail) Check(setup Setup) []Finding {
	var all findings
	f, socket := s.ours(setup)
	if f == nil {
		all.add(s.notWired(setup))
	} else {
		s.checkFilter(&all, f, socket)
		s.checkInput(&all, f, setup)
		s.checkMacros(&all)
	}
	for _, f := range s.filters {
		if f.problem != "" {
			remedy := "write S=local:PATH or S=inet:PORT@HOST"
			if f.meant != "" {
				remedy = fmt.Sprintf("in INPUT_MAIL_FILTER(`%s'): S=%s", f.name, f.meant)
			}
			all.add(Finding{Error, "address", s.where("X" + f.name), "S=" + f.text + " " + f.problem, remedy})
		}
	}
	if setup.Peers[socket].MTA == milter.MTAPostfix {
		all.add(Finding{Error, "mta", "waxseal.toml: mta = \"postfix\"", "the listener that Sendmail connects to takes it for Postfix, and signs what Sendmail changes afterwards", "in waxseal.toml, for the listener: mta = \"sendmail\""})
	}
	s.checkMasquerade(&all, setup, socket)
	s.checkRewriting(&all)
	s.checkBytes(&all)
	if s.stale {
		all.add(Finding{Warning, "stale", s.where(filepath.Base(s.source.File)), "the .mc file was changed after sendmail.cf was built, so Sendmail does not know the changes", "run: " + s.rebuild()})
	}
	Sort(all)
	return all
}

// rebuild is the command that makes sendmail.cf of its .mc file.
func (s *Sendmail) rebuild() string {
	if s.source == nil {
		return "make -C /etc/mail"
	}
	return fmt.Sprintf("m4 %s > %s, and restart Sendmail", s.source.File, s.File)
}

// wiring is the line that puts waxseal into an .mc file.
func wiring(name, address string) string {
	return fmt.Sprintf("INPUT_MAIL_FILTER(`%s', `S=%s, F=T, T=S:30s;R:30s;E:5m')dnl", name, address)
}

func (s *Sendmail) notWired(setup Setup) Finding {
	var listens, theirs []string
	for _, socket := range setup.Sockets {
		listens = append(listens, socket.Sendmail())
	}
	for _, f := range s.filters {
		theirs = append(theirs, f.name+" at "+f.text)
	}
	f := Finding{Error, "not_wired", s.where("InputMailFilters"), "no mail filter is waxseal, which listens at " + strings.Join(listens, " and ") + ", so nothing is signed",
		"in sendmail.mc, as the last filter: " + wiring("waxseal", setup.Sockets[0].Sendmail())}
	if len(theirs) > 0 {
		f.Problem += "; there are " + strings.Join(theirs, ", ")
	}
	if s.source != nil {
		if in, _ := s.source.ours(setup); in != nil {
			f.Problem += fmt.Sprintf("; %s has it, but sendmail.cf was not built from that", filepath.Base(s.source.File))
			f.Remedy = "run: " + s.rebuild()
		}
	}
	return f
}

// checkFilter is about the definition of our filter.
func (s *Sendmail) checkFilter(all *findings, f *filter, socket milter.Address) {
	line := func(key string) string { return s.where(fmt.Sprintf("X%s, %s", f.name, key)) }
	whole := "in sendmail.mc: " + wiring(f.name, socket.Sendmail())
	switch f.fails {
	case "T", "4":
	case "R":
		all.add(Finding{Warning, "default_action", line("F=R"), "mail is refused for good whenever waxseal is not running or does not answer, such as during a restart", whole})
	case "":
		all.add(Finding{Error, "default_action", line("F="), "mail leaves unsigned whenever waxseal is not running or does not answer", whole})
	default:
		all.add(Finding{Error, "default_action", line("F=" + f.fails), "is no flag that Sendmail knows; they are T (tempfail), R and 4", whole})
	}
	least := map[string]time.Duration{"C": 5 * time.Second, "S": 10 * time.Second, "R": 10 * time.Second, "E": 30 * time.Second}
	for part := range strings.SplitSeq(f.times, ";") {
		if !f.hasTimes {
			break
		}
		step, value := split2(part, ":")
		span, err := sendmailTime(value)
		switch {
		case least[step] == 0 || err != nil:
			all.add(Finding{Error, "timeout", line("T=" + f.times), fmt.Sprintf("%q is no time limit that Sendmail reads; write T=S:30s;R:30s;E:5m", strings.TrimSpace(part)), whole})
		case span < least[step]:
			all.add(Finding{Warning, "timeout", line("T=" + f.times), fmt.Sprintf("%s:%s is too short for keys that have to be fetched first, and then F= decides", step, value), whole})
		}
	}
	if socket.Network == "unix" {
		s.checkDirectories(all, socket.Address)
	}
}

// sendmailTime reads a time span of T=: a number and s or m, or seconds.
func sendmailTime(s string) (time.Duration, error) {
	if s == "" || strings.IndexByte("0123456789sm", s[len(s)-1]) < 0 {
		return 0, errors.New("no time span")
	}
	return postfixTime(s)
}

// checkDirectories is about Sendmail's refusal of sockets that others could put
// in place of ours.
func (s *Sendmail) checkDirectories(all *findings, path string) {
	blame := strings.ToLower(s.options["dontblamesendmail"])
	for dir := filepath.Dir(path); ; dir = filepath.Dir(dir) {
		info, err := os.Stat(dir)
		if err == nil {
			open, mode := "", info.Mode()
			sticky := mode&fs.ModeSticky != 0 && strings.Contains(blame, "truststickybit")
			switch {
			case mode.Perm()&0o002 != 0 && !sticky:
				open = "everyone"
			case mode.Perm()&0o020 != 0 && !sticky && !strings.Contains(blame, "groupwritabledirpathsafe"):
				open = "its group"
			}
			if open != "" {
				all.add(Finding{Error, "socket_directory", dir, fmt.Sprintf("%s may write to it (mode %04o), so Sendmail takes the socket in it for unsafe and does not connect", open, mode.Perm()), "run: chmod go-w " + dir + "; or move the socket to a directory of its own"})
			}
		}
		if dir == filepath.Dir(dir) {
			return
		}
	}
}

// checkInput is about the lists that mail goes through.
func (s *Sendmail) checkInput(all *findings, ours *filter, setup Setup) {
	// Where a content filter gives mail back to a daemon on loopback that signs,
	// the others need not.
	later := slices.ContainsFunc(s.daemons, func(d daemon) bool { return d.loopback && slices.Contains(d.filters, ours.name) })
	check := func(where string, list []string, unsigned Finding) {
		addresses, texts := make([]milter.Address, len(list)), make([]string, len(list))
		for i, name := range list {
			f := s.filter(name)
			if f == nil {
				all.add(Finding{Error, "undefined_filter", where, fmt.Sprintf("there is no filter %s, and Sendmail goes on without it", name), fmt.Sprintf("correct the name, or add INPUT_MAIL_FILTER(`%s', ...)", name)})
				continue
			}
			addresses[i], texts[i] = f.address, name+", "+f.text
		}
		if position := slices.Index(list, ours.name); position >= 0 {
			all.checkNeighbours(where, addresses, texts, position, setup.Root)
		} else if !later {
			all.add(unsigned)
		}
	}
	global := false // some daemon uses the common list
	for _, d := range s.daemons {
		global = global || !d.ownFilters
		if d.ownFilters {
			check(s.where("DaemonPortOptions="+d.text), d.filters, Finding{Error, "daemon_filters", s.where("DaemonPortOptions=" + d.text),
				fmt.Sprintf("mail that comes in by the daemon %s leaves unsigned, as its own list of filters has no %s", d.name, ours.name),
				"in DAEMON_OPTIONS: InputMailFilters=" + strings.Join(append(slices.Clone(d.filters), ours.name), ";")})
		}
		if d.name == "" {
			all.add(Finding{Note, "daemon_name", s.where("DaemonPortOptions=" + d.text), "the daemon has no name, so rules of waxseal cannot tell it from others", "in DAEMON_OPTIONS: add Name=MTA, or Name=MSA for submission"})
		}
	}
	if global || len(s.daemons) == 0 {
		check(s.where("InputMailFilters="+strings.Join(s.input, ", ")), s.input, Finding{Error, "unused_filter", s.where("InputMailFilters=" + strings.Join(s.input, ", ")),
			fmt.Sprintf("the filter %s is defined, but no mail goes through it: MAIL_FILTER only defines it, and a later define of confINPUT_MAIL_FILTERS empties the list", ours.name),
			"in sendmail.mc: use INPUT_MAIL_FILTER, and remove the define of confINPUT_MAIL_FILTERS"})
	}
}

// checkMacros is about what Sendmail tells waxseal of a message.
func (s *Sendmail) checkMacros(all *findings) {
	for _, needed := range []struct{ option, define, macros, why string }{
		{"milter.macros.connect", "confMILTER_MACROS_CONNECT", "j {daemon_name}", "waxseal goes by them for the mail server's name and the daemon"},
		{"milter.macros.envfrom", "confMILTER_MACROS_ENVFROM", "i {auth_type} {auth_authen}", "without them waxseal does not see that a client has logged in, or has no queue id for the log"},
	} {
		value, ok := s.options[needed.option]
		if !ok { // Sendmail's own default has them
			continue
		}
		var missing []string
		for _, m := range strings.Fields(needed.macros) {
			if has := words(value); !slices.Contains(has, m) && !slices.Contains(has, "{"+m+"}") {
				missing = append(missing, m)
			}
		}
		if len(missing) > 0 {
			all.add(Finding{Error, "macros", s.where(needed.option), fmt.Sprintf("lacks %s: %s", strings.Join(missing, " "), needed.why),
				fmt.Sprintf("define(`%s', `%s')dnl", needed.define, strings.Join(append(words(value), missing...), ", "))})
		}
	}
}

// checkRewriting is about what else Sendmail changes in addresses after its
// filters.
func (s *Sendmail) checkRewriting(all *findings) {
	if s.features["always_add_domain"] {
		all.add(Finding{Note, "always_add_domain", s.where("FEATURE(`always_add_domain')"), "addresses without a domain get one in mail to local users, too, after signing, which breaks the signature for them", "have clients write whole addresses"})
	}
	if s.Version != "" && !s.features["nouucp"] {
		all.add(Finding{Note, "nouucp", s.where("FEATURE(`nouucp')"), "it is not there, so addresses with ! in the header are taken for UUCP and changed after signing", "FEATURE(`nouucp', `reject')dnl"})
	}
}

// checkBytes is about bytes that Sendmail changes after its filters.
func (s *Sendmail) checkBytes(all *findings) {
	if mode := s.options["eightbitmode"]; strings.HasPrefix(strings.ToLower(mode), "m") {
		all.add(Finding{Warning, "eight_bit_mode", s.where("EightBitMode=" + mode), "8-bit mail that does not say it is gets fields of MIME after signing, which breaks the signature", "define(`confEIGHT_BIT_HANDLING', `pass8')dnl"})
	}
	if value := s.options["maxmimeheaderlength"]; value != "" {
		field, parameter := split2(value, "/")
		n, _ := strconv.Atoi(field)
		m, _ := strconv.Atoi(parameter)
		const usual = 998 // a line of a header
		if n > 0 && n < usual || m > 0 && m < usual {
			all.add(Finding{Warning, "mime_header_length", s.where("MaxMimeHeaderLength=" + value), "longer fields of MIME are cut after signing, which breaks the signature", "define(`confMAX_MIME_HEADER_LENGTH', `2048/1024')dnl"})
		}
	}
	name := "esmtp"
	if host := s.macros["S"]; host != "" {
		name = "relay"
		if mailer, _, ok := strings.Cut(host, ":"); ok {
			name = mailer
		}
	}
	m, ok := s.mailers[name]
	if !ok {
		return
	}
	if !strings.Contains(m.flags, "8") {
		all.add(Finding{Warning, "eight_bit", s.where("M" + name), "8-bit mail is turned into base64 or quoted-printable for servers without 8BITMIME, after signing, which breaks the signature",
			fmt.Sprintf("if the servers you send to are 8-bit clean, as nearly all are: MODIFY_MAILER_FLAGS(`%s', `+8')dnl", strings.ToUpper(name))})
	}
	if n, err := strconv.Atoi(m.lineLimit); err == nil && n > 0 && n < 990 {
		all.add(Finding{Warning, "line_length", s.where(fmt.Sprintf("M%s, L=%d", name, n)), fmt.Sprintf("lines over %d bytes are broken after signing, which breaks the signature", n), "remove the limit, so that it is 990"})
	}
}
