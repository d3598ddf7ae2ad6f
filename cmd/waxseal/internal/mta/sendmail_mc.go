package mta

import (
	"cmp"
	"strings"
)

// optionOf are the options of sendmail.cf that .mc files set by define.
var optionOf = map[string]string{
	"confEIGHT_BIT_HANDLING":     "eightbitmode",
	"confMAX_MIME_HEADER_LENGTH": "maxmimeheaderlength",
	"confRUN_AS_USER":            "runasuser",
	"confDONT_BLAME_SENDMAIL":    "dontblamesendmail",
	"confMILTER_MACROS_CONNECT":  "milter.macros.connect",
	"confMILTER_MACROS_ENVFROM":  "milter.macros.envfrom",
	"SMTP_MAILER_FLAGS":          "smtp_mailer_flags",
	"RELAY_MAILER_FLAGS":         "relay_mailer_flags",
	"SMTP_MAILER_LL":             "smtp_mailer_ll",
	"RELAY_MAILER_LL":            "relay_mailer_ll",
}

// parseMC reads an .mc file without m4: the calls that matter, in their order.
// What it builds is what sendmail.cf would say, as far as the checks look.
// Includes, conditions and macros of one's own are not followed.
func parseMC(text []byte) *Sendmail {
	s := newSendmail()
	flags := map[string]string{}
	smtp := false
	for _, c := range mcCalls(string(text)) {
		arg := func(i int) string {
			if i < len(c.args) {
				return c.args[i]
			}
			return ""
		}
		switch c.name {
		case "define":
			switch name, value := arg(0), arg(1); name {
			case "confINPUT_MAIL_FILTERS":
				s.input = words(value)
			case "SMART_HOST":
				s.macros["S"] = value
			case "confDOMAIN_NAME":
				s.macros["j"] = value
			default:
				if option := optionOf[name]; option != "" {
					s.options[option] = value
				}
			}
		case "FEATURE":
			s.features[arg(0)] = true
			if arg(0) == "genericstable" {
				s.maps["generics"] = arg(1)
			}
		case "INPUT_MAIL_FILTER":
			s.filters = append(s.filters, parseFilter(arg(0)+", "+arg(1)))
			s.input = append(s.input, arg(0))
		case "MAIL_FILTER":
			s.filters = append(s.filters, parseFilter(arg(0)+", "+arg(1)))
		case "DAEMON_OPTIONS":
			s.daemons = append(s.daemons, parseDaemon(arg(0)))
		case "MASQUERADE_AS":
			s.macros["M"] = arg(0)
		case "MASQUERADE_DOMAIN":
			s.classes["M"] = append(s.classes["M"], strings.Fields(arg(0))...)
		case "LOCAL_DOMAIN":
			s.classes["w"] = append(s.classes["w"], strings.Fields(arg(0))...)
		case "GENERICS_DOMAIN":
			s.classes["G"] = append(s.classes["G"], strings.Fields(arg(0))...)
		case "MODIFY_MAILER_FLAGS":
			flags[arg(0)] = arg(1)
		case "MAILER":
			smtp = smtp || arg(0) == "smtp"
		}
	}
	if smtp {
		const ofSMTP = "mDFMuX"
		s.mailers["esmtp"] = mailer{modified(ofSMTP+"a"+s.options["smtp_mailer_flags"], flags["ESMTP"]), cmp.Or(s.options["smtp_mailer_ll"], "990")}
		s.mailers["relay"] = mailer{modified(ofSMTP+"a8"+s.options["relay_mailer_flags"], flags["RELAY"]), cmp.Or(s.options["relay_mailer_ll"], "2040")}
	}
	return s
}

// modified applies MODIFY_MAILER_FLAGS: "+8" adds, "-8" removes, and anything
// else takes the place of the flags.
func modified(flags, change string) string {
	switch {
	case strings.HasPrefix(change, "+"):
		return flags + change[1:]
	case strings.HasPrefix(change, "-"):
		return strings.Map(func(r rune) rune {
			if strings.ContainsRune(change[1:], r) {
				return -1
			}
			return r
		}, flags)
	case change != "":
		return change
	}
	return flags
}

// mcCall is a call of an m4 macro with its arguments, unquoted.
type mcCall struct {
	name string
	args []string
}

// maxCalls bounds the calls of an .mc file; a long one has a hundred.
const maxCalls = 10_000

// mcCalls finds the calls of an .mc file. Only dnl begins a comment: Sendmail's
// m4 files switch # off, and what stands after it, or after divert(-1), is
// carried out like the rest.
func mcCalls(text string) []mcCall {
	var all []mcCall
	for i := 0; i < len(text) && len(all) < maxCalls; {
		if text[i] == '`' {
			_, n := quoted(text[i:])
			i += n
			continue
		}
		if !isLetter(text[i]) {
			i++
			continue
		}
		n := i
		for n < len(text) && (isLetter(text[n]) || text[n] >= '0' && text[n] <= '9') {
			n++
		}
		name := text[i:n]
		switch i = n; {
		case name == "dnl":
			i = endOfLine(text, i)
		case i < len(text) && text[i] == '(':
			args, used := arguments(text[i:])
			i += used
			all = append(all, mcCall{name, args})
		}
	}
	return all
}

func isLetter(c byte) bool { return c == '_' || c|0x20 >= 'a' && c|0x20 <= 'z' }

func endOfLine(text string, i int) int {
	if n := strings.IndexByte(text[i:], '\n'); n >= 0 {
		return i + n + 1
	}
	return len(text)
}

// quoted reads a text in m4's quotes, `…', which nest, and returns what is
// between the outermost, and how long all of it is.
func quoted(s string) (inner string, length int) {
	depth := 0
	for i := range len(s) {
		switch s[i] {
		case '`':
			depth++
		case '\'':
			if depth--; depth == 0 {
				return s[1:i], i + 1
			}
		}
	}
	return s[1:], len(s)
}

// arguments reads "(a, `b', c)", and returns how long it is.
func arguments(s string) (args []string, length int) {
	var arg strings.Builder
	depth := 0
	for i := 0; i < len(s); {
		c := s[i]
		switch {
		case c == '`':
			inner, n := quoted(s[i:])
			arg.WriteString(inner)
			i += n
			continue
		case strings.HasPrefix(s[i:], "dnl") && arg.Len() == 0: // as in define(`x',dnl
			i = endOfLine(s, i)
			continue
		case c == '(':
			if depth++; depth > 1 {
				arg.WriteByte(c)
			}
		case c == ')':
			if depth--; depth == 0 {
				return append(args, strings.TrimSpace(arg.String())), i + 1
			}
			arg.WriteByte(c)
		case c == ',' && depth == 1:
			args = append(args, strings.TrimSpace(arg.String()))
			arg.Reset()
		case arg.Len() == 0 && (c == ' ' || c == '\t' || c == '\n'):
		default:
			arg.WriteByte(c)
		}
		i++
	}
	return append(args, strings.TrimSpace(arg.String())), len(s)
}
