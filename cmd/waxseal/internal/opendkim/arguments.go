package opendkim

import (
	"fmt"
	"strings"

	"waxseal/cmd/waxseal/internal/source"
)

// options are those of the command line, as getopt(3) knows them: a colon says
// that an argument follows.
const options = "Ab:c:d:De:fF:k:lL:no:p:P:Qrs:S:t:T:u:vVWx:X?"

// optionNames are the settings that options stand for. Others have no effect on
// what is signed.
var optionNames = map[byte]string{
	'b': "Mode", 'c': "Canonicalization", 'd': "Domain", 'k': "KeyFile", 'o': "OmitHeaders", 'p': "Socket", 'P': "PidFile",
	's': "Selector", 'S': "SignatureAlgorithm", 'u': "UserID", 'D': "SubDomains",
}

// Arguments takes in options of OpenDKIM's command line, which beat the file.
// From is what to call the command line: "--arguments", say.
func (c *Config) Arguments(from, text string) {
	at := source.Place{File: from}
	words, err := shellWords(text, nil)
	if err != nil {
		c.fail(at, "correct the quotation marks", "%v", err)
		return
	}
	if len(words) > 0 && !strings.HasPrefix(words[0], "-") {
		words = words[1:] // the program
	}
	for i := 0; i < len(words); i++ {
		w := words[i]
		if len(w) < 2 || w[0] != '-' {
			c.fail(at, "leave it out", "%q is no option of OpenDKIM", w)
			continue
		}
		for j := 1; j < len(w); j++ {
			where := strings.IndexByte(options, w[j])
			if where < 0 || w[j] == ':' {
				c.fail(at, "leave it out", "OpenDKIM has no option -%c", w[j])
				continue
			}
			if where+1 == len(options) || options[where+1] != ':' {
				continue
			}
			value := w[j+1:]
			if value == "" {
				if i++; i == len(words) {
					c.fail(at, "give it one", "option -%c lacks its argument", w[j])
					return
				}
				value = words[i]
			}
			c.option(at, w[j], value)
			break
		}
	}
}

func (c *Config) option(at source.Place, letter byte, value string) {
	name, ok := optionNames[letter]
	if !ok {
		return
	}
	if letter == 'D' {
		value = "yes"
	}
	known := names[strings.ToLower(name)]
	c.set(Setting{name, value, source.Place{File: at.File + ": -" + string(letter), Line: at.Line}, known.use}, known.kind)
}

// defaultNames are the options that Debian's and Red Hat's start scripts make of
// the variables in their files of defaults.
var defaultNames = []struct {
	variable string
	option   byte
}{{"USER", 'u'}, {"PIDFILE", 'P'}, {"SOCKET", 'p'}}

// Defaults takes in a file of defaults for the start script, such as Debian's
// /etc/default/opendkim, which beats the configuration file. Debian's systemd
// unit does not read it.
func (c *Config) Defaults(name string, content []byte) {
	variables := map[string]string{"NAME": "opendkim"}
	places := map[string]source.Place{}
	for _, l := range lines(name, string(content)) {
		body := strings.TrimSpace(strings.TrimSuffix(l.text, "\r"))
		body = strings.TrimPrefix(body, "export ")
		if body == "" || body[0] == '#' {
			continue
		}
		variable, value, ok := strings.Cut(body, "=")
		if !ok || variable == "" || strings.ContainsAny(variable, blanks+"$`(;&|") {
			c.fail(l.place, "write it as NAME=VALUE", "line is more than a variable and its value")
			continue
		}
		words, err := shellWords(value, variables)
		if err != nil {
			c.fail(l.place, "write it as NAME=VALUE", "%s: %v", variable, err)
			continue
		}
		variables[variable], places[variable] = strings.Join(words, " "), l.place
	}
	for _, d := range defaultNames {
		value := variables[d.variable]
		if group := variables["GROUP"]; d.variable == "USER" && value != "" && group != "" {
			value += ":" + group
		}
		if value != "" {
			c.option(places[d.variable], d.option, value)
		}
	}
	for _, variable := range []string{"OPTIONS", "DAEMON_OPTS"} { // Red Hat's and Debian's
		if at, ok := places[variable]; ok {
			c.Arguments(at.String(), variables[variable])
		}
	}
}

// shellWords splits a line as a shell does, with its quotation marks and
// variables, and nothing else: what would run a command is an error.
func shellWords(s string, variables map[string]string) ([]string, error) {
	var words []string
	var word strings.Builder
	open := false // a word has begun
	var quote byte
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case quote == '\'' && c != '\'':
			word.WriteByte(c)
		case c == quote && quote != 0:
			quote = 0
		case quote == 0 && (c == '\'' || c == '"'):
			quote, open = c, true
		case c == '\\' && i+1 < len(s):
			i++
			word.WriteByte(s[i])
			open = true
		case c == '`' || c == '$' && strings.HasPrefix(s[i:], "$("):
			return nil, fmt.Errorf("a command in %q", s)
		case c == '$' && variables != nil:
			name, length := variable(s[i:])
			if length == 0 {
				return nil, fmt.Errorf("a $ in %q that is no variable", s)
			}
			word.WriteString(variables[name])
			open = true
			i += length - 1
		case quote == 0 && strings.IndexByte(blanks, c) >= 0:
			if open {
				words = append(words, word.String())
				word.Reset()
			}
			open = false
		case quote == 0 && c == '#' && !open:
			i = len(s)
		case quote == 0 && strings.IndexByte(";&|<>()", c) >= 0:
			return nil, fmt.Errorf("%q in %q, outside quotation marks", c, s)
		default:
			word.WriteByte(c)
			open = true
		}
	}
	if quote != 0 {
		return nil, fmt.Errorf("a quotation mark without its other half in %q", s)
	}
	if open {
		words = append(words, word.String())
	}
	return words, nil
}

// variable reads $NAME or ${NAME}.
func variable(s string) (name string, length int) {
	braced := strings.HasPrefix(s, "${")
	i := 1
	if braced {
		i = 2
	}
	start := i
	for i < len(s) && (s[i] == '_' || '0' <= s[i] && s[i] <= '9' || 'a' <= s[i]|0x20 && s[i]|0x20 <= 'z') {
		i++
	}
	name = s[start:i]
	if braced {
		if i == len(s) || s[i] != '}' {
			return "", 0
		}
		i++
	}
	if name == "" {
		return "", 0
	}
	return name, i
}
