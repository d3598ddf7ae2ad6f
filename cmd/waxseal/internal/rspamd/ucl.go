package rspamd

import (
	"slices"
	"strings"

	"waxseal/cmd/waxseal/internal/source"
)

// Value is a value of rspamd's configuration language, UCL: an object, an array
// or a text. Numbers and booleans are texts here.
type Value struct {
	Place    source.Place
	Text     string
	Items    []*Value // of an array
	Members  []Member // of an object, in the order of the file
	IsArray  bool
	IsObject bool
}

// Member is a setting of an object.
type Member struct {
	Name  string
	Place source.Place
	Value *Value
}

// Get returns a member of an object, or nil.
func (v *Value) Get(name string) *Value {
	if v != nil {
		for _, m := range v.Members {
			if m.Name == name {
				return m.Value
			}
		}
	}
	return nil
}

// Bool reads a boolean; ok is false for anything else.
func (v *Value) Bool() (yes, ok bool) {
	switch strings.ToLower(v.Text) {
	case "true", "yes", "on":
		return true, !v.IsArray && !v.IsObject
	case "false", "no", "off":
		return false, !v.IsArray && !v.IsObject
	}
	return false, false
}

// Texts returns the texts of an array, or of a text alone.
func (v *Value) Texts() []*Value {
	switch {
	case v == nil:
		return nil
	case v.IsArray:
		return v.Items
	case v.IsObject:
		return nil
	}
	return []*Value{v}
}

const (
	maxDepth = 32      // of objects in objects
	maxFile  = 1 << 20 // bytes of a file; those of rspamd have a few thousand
)

// parser reads one file.
type parser struct {
	file string
	text string
	at   int
	line int
}

// parse reads a file as the inside of an object. Macros, such as .include, are
// members whose name begins with a dot.
func parse(file, text string) (*Value, error) {
	p := &parser{file: file, text: text, line: 1}
	if len(text) > maxFile {
		return nil, p.fail("the file is too long", "")
	}
	return p.object(0, false)
}

func (p *parser) place() source.Place { return source.Place{File: p.file, Line: p.line} }

func (p *parser) fail(text, remedy string) error {
	return &source.Error{Place: p.place(), Text: text, Remedy: remedy}
}

func (p *parser) peek() byte {
	if p.at < len(p.text) {
		return p.text[p.at]
	}
	return 0
}

func (p *parser) next() byte {
	c := p.peek()
	if p.at < len(p.text) {
		p.at++
	}
	if c == '\n' {
		p.line++
	}
	return c
}

// skip passes over blanks, comments, and the characters in also.
func (p *parser) skip(also string) error {
	for p.at < len(p.text) {
		c := p.peek()
		switch {
		case strings.IndexByte(" \t\r", c) >= 0 || strings.IndexByte(also, c) >= 0:
			p.next()
		case c == '#':
			for p.at < len(p.text) && p.peek() != '\n' {
				p.at++
			}
		case strings.HasPrefix(p.text[p.at:], "/*"):
			for depth := 0; ; {
				switch {
				case p.at >= len(p.text):
					return p.fail("a comment that begins with /* does not end", "close it with */")
				case strings.HasPrefix(p.text[p.at:], "/*"):
					depth++
					p.at += 2
					continue
				case strings.HasPrefix(p.text[p.at:], "*/"):
					depth--
					p.at += 2
				default:
					p.next()
				}
				if depth == 0 {
					break
				}
			}
		default:
			return nil
		}
	}
	return nil
}

// object reads members up to the closing brace, or the end of the file.
func (p *parser) object(depth int, braced bool) (*Value, error) {
	o := &Value{Place: p.place(), IsObject: true}
	if depth > maxDepth {
		return nil, p.fail("too many braces in each other", "")
	}
	for {
		if err := p.skip("\n;,"); err != nil {
			return nil, err
		}
		switch {
		case p.at >= len(p.text) && braced:
			return nil, p.fail("a brace is not closed", "close it with }")
		case p.at >= len(p.text):
			return o, nil
		case p.peek() == '}' && braced:
			p.next()
			return o, nil
		case p.peek() == '{' && len(o.Members) == 0 && !braced: // a file in braces, as JSON is
			p.next()
			return p.object(depth+1, true)
		}
		m, err := p.member(depth)
		if err != nil {
			return nil, err
		}
		o.Members = append(o.Members, m)
	}
}

// member reads a name and a value. Between them may stand = or a colon, or the
// names of objects in it: section "name" { … }.
func (p *parser) member(depth int) (Member, error) {
	m := Member{Place: p.place()}
	ends := "=:{[;"
	if p.peek() == '.' { // a macro, with arguments or without
		ends = "("
	}
	name, _, err := p.word(ends)
	if err != nil {
		return m, err
	}
	if name == "" {
		return m, p.fail("a name of a setting is missing", "correct the line")
	}
	m.Name = name
	if err := p.skip(""); err != nil {
		return m, err
	}
	if strings.HasPrefix(name, ".") && p.peek() == '(' { // the arguments of a macro
		for p.at < len(p.text) && p.next() != ')' {
		}
	}
	if strings.IndexByte("=:", p.peek()) >= 0 && p.at < len(p.text) {
		p.next()
		if err := p.skip("\n"); err != nil {
			return m, err
		}
		m.Value, err = p.value(depth)
		return m, err
	}
	if err := p.skip("\n"); err != nil {
		return m, err
	}
	m.Value, err = p.value(depth)
	if err != nil || m.Value.IsArray || m.Value.IsObject {
		return m, err
	}
	if err := p.skip(""); err != nil {
		return m, err
	}
	if p.peek() == '{' { // the text was the name of an object
		inner := Member{Name: m.Value.Text, Place: m.Value.Place}
		if inner.Value, err = p.value(depth + 1); err != nil {
			return m, err
		}
		m.Value = &Value{Place: inner.Place, IsObject: true, Members: []Member{inner}}
	}
	return m, nil
}

func (p *parser) value(depth int) (*Value, error) {
	v := &Value{Place: p.place()}
	switch {
	case p.peek() == '{':
		p.next()
		return p.object(depth+1, true)
	case p.peek() == '[':
		p.next()
		return p.array(depth + 1)
	case strings.HasPrefix(p.text[p.at:], "<<"):
		var err error
		v.Text, err = p.heredoc()
		return v, err
	}
	text, quoted, err := p.word(";,{}]\n#")
	if err == nil && text == "" && !quoted {
		err = p.fail("a value is missing", "correct the line")
	}
	v.Text = text
	return v, err
}

func (p *parser) array(depth int) (*Value, error) {
	a := &Value{Place: p.place(), IsArray: true}
	if depth > maxDepth {
		return nil, p.fail("too many brackets in each other", "")
	}
	for {
		if err := p.skip("\n,;"); err != nil {
			return nil, err
		}
		switch {
		case p.at >= len(p.text):
			return nil, p.fail("a bracket is not closed", "close it with ]")
		case p.peek() == ']':
			p.next()
			return a, nil
		}
		item, err := p.value(depth)
		if err != nil {
			return nil, err
		}
		a.Items = append(a.Items, item)
	}
}

// word reads a text in quotation marks, or up to a blank or one of the
// characters that end it.
func (p *parser) word(ends string) (text string, quoted bool, err error) {
	quote := p.peek()
	if quote != '"' && quote != '\'' {
		start := p.at
		for p.at < len(p.text) && strings.IndexByte(ends+" \t\r\n", p.peek()) < 0 {
			if strings.HasPrefix(p.text[p.at:], "${") { // braces of a variable
				if end := strings.IndexAny(p.text[p.at:], "}\n"); end > 0 && p.text[p.at+end] == '}' {
					p.at += end
				}
			}
			p.at++
		}
		return p.text[start:p.at], false, nil
	}
	p.next()
	var b strings.Builder
	for p.at < len(p.text) {
		c := p.next()
		switch {
		case c == quote:
			return b.String(), true, nil
		case c == '\n' && quote == '"':
			return "", true, p.fail("a text in quotation marks goes over the end of the line", "close it with \"")
		case c == '\\' && quote == '\'':
			if p.peek() == '\'' {
				c = p.next()
			}
			b.WriteByte(c)
		case c == '\\':
			c = p.next()
			if i := strings.IndexByte("ntr", c); i >= 0 {
				c = "\n\t\r"[i]
			}
			b.WriteByte(c)
		default:
			b.WriteByte(c)
		}
	}
	return "", true, p.fail("a text in quotation marks does not end", "close it")
}

// heredoc reads a text between <<WORD and a line of that word.
func (p *parser) heredoc() (string, error) {
	first, rest, ok := strings.Cut(p.text[p.at+2:], "\n")
	word := strings.TrimRight(first, "\r")
	if !ok || word == "" || strings.Trim(word, "ABCDEFGHIJKLMNOPQRSTUVWXYZ") != "" {
		return "", p.fail("<< wants a word in capital letters behind it", "correct the line")
	}
	lines := strings.SplitAfter(rest, "\n")
	i := slices.IndexFunc(lines, func(l string) bool { return strings.TrimRight(l, ";\r\n") == word })
	if i < 0 {
		return "", p.fail("no line "+word+" ends this text", "add it")
	}
	text := strings.Join(lines[:i], "")
	p.at += 2 + len(first) + 1 + len(text) + len(word)
	p.line += 1 + i
	return strings.TrimSuffix(text, "\n"), nil
}
