package amavis

import (
	"errors"
	"strconv"
	"strings"
)

// Value is a constant of Perl: a text, or a list of values. A hash is a list of
// its keys and values in turn.
type Value struct {
	Text   string
	Items  []Value
	IsList bool
}

// Pairs returns the keys and values of a hash.
func (v Value) Pairs() ([]string, []Value, error) {
	if !v.IsList || len(v.Items)%2 != 0 {
		return nil, nil, errors.New("want names with values")
	}
	var names []string
	var values []Value
	for i := 0; i < len(v.Items); i += 2 {
		if v.Items[i].IsList {
			return nil, nil, errors.New("want a text for a name")
		}
		names, values = append(names, v.Items[i].Text), append(values, v.Items[i+1])
	}
	return names, values, nil
}

// errPerl is for all that only Perl itself can find the value of.
var errPerl = errors.New("this is no constant, and Perl is not run here")

// errBlock is for what may be in a loop or behind a condition.
var errBlock = errors.New("it is indented or follows a brace, so it may depend on what stands before, and Perl is not run here")

const maxDepth = 16 // of lists in lists

// reader reads constants.
type reader struct {
	text string
	at   int
}

// rest is what has not been read.
func (r *reader) rest() string { return r.text[r.at:] }

// skip passes over blanks and comments.
func (r *reader) skip() {
	for r.at < len(r.text) {
		switch c := r.text[r.at]; {
		case strings.IndexByte(" \t\r\n", c) >= 0:
			r.at++
		case c == '#':
			if i := strings.IndexByte(r.rest(), '\n'); i >= 0 {
				r.at += i
			} else {
				r.at = len(r.text)
			}
		default:
			return
		}
	}
}

// take reads a word if it is next.
func (r *reader) take(word string) bool {
	r.skip()
	if strings.HasPrefix(r.rest(), word) {
		r.at += len(word)
		return true
	}
	return false
}

var closing = map[byte]byte{'(': ')', '[': ']', '{': '}', '<': '>'}

// value reads a constant.
func (r *reader) value(depth int) (Value, error) {
	r.skip()
	if r.at >= len(r.text) || depth > maxDepth {
		return Value{}, errPerl
	}
	switch c := r.text[r.at]; {
	case c == '\'' || c == '"':
		text, err := r.quoted(c)
		return Value{Text: text}, err
	case c == '(' || c == '[' || c == '{':
		r.at++
		return r.list(closing[c], depth+1)
	case c == '-' && r.at+1 < len(r.text) && r.text[r.at+1] >= '0' && r.text[r.at+1] <= '9', c >= '0' && c <= '9':
		return r.number()
	case strings.HasPrefix(r.rest(), "qw"):
		r.at += 2
		r.skip()
		if r.at < len(r.text) {
			open := r.text[r.at]
			end, ok := closing[open]
			if !ok {
				end = open
			}
			if i := strings.IndexByte(r.rest()[1:], end); i >= 0 {
				list := Value{IsList: true}
				for _, w := range strings.Fields(r.rest()[1 : 1+i]) {
					list.Items = append(list.Items, Value{Text: w})
				}
				r.at += i + 2
				return list, nil
			}
		}
		return Value{}, errPerl
	default:
		// A bare word is a text only before =>.
		n := len(r.rest()) - len(strings.TrimLeft(r.rest(), "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_"))
		word := r.rest()[:n]
		r.at += n
		r.skip()
		if n > 0 && strings.HasPrefix(r.rest(), "=>") {
			return Value{Text: word}, nil
		}
		if word == "undef" {
			return Value{}, nil
		}
		return Value{}, errPerl
	}
}

// list reads values between commas, up to the character that ends it. Lists in
// round brackets become one with the list that they are in.
func (r *reader) list(end byte, depth int) (Value, error) {
	list := Value{IsList: true}
	for {
		r.skip()
		if r.at >= len(r.text) {
			return list, errors.New("a bracket is not closed")
		}
		if r.text[r.at] == end {
			r.at++
			return list, nil
		}
		flat := r.text[r.at] == '(' || strings.HasPrefix(r.rest(), "qw")
		v, err := r.value(depth)
		if err != nil {
			return list, err
		}
		if flat {
			list.Items = append(list.Items, v.Items...)
		} else {
			list.Items = append(list.Items, v)
		}
		if !r.take("=>") && !r.take(",") {
			r.skip()
			if r.at >= len(r.text) || r.text[r.at] != end {
				return list, errPerl
			}
		}
	}
}

// quoted reads a text in quotation marks. In double ones a variable is none of
// ours to fill in.
func (r *reader) quoted(quote byte) (string, error) {
	var b strings.Builder
	for r.at++; r.at < len(r.text); r.at++ {
		c := r.text[r.at]
		switch {
		case c == quote:
			r.at++
			return b.String(), nil
		case quote == '"' && (c == '$' || c == '@'):
			return "", errPerl
		case c == '\\' && r.at+1 < len(r.text):
			next := r.text[r.at+1]
			if quote == '\'' && next != '\'' && next != '\\' {
				break
			}
			if quote == '"' && strings.IndexByte(`"\$@`, next) < 0 {
				return "", errPerl
			}
			r.at++
			c = next
		}
		b.WriteByte(c)
	}
	return "", errors.New("a text in quotation marks does not end")
}

// number reads a whole number, or a product of several.
func (r *reader) number() (Value, error) {
	product := int64(1)
	for {
		r.skip()
		n := len(r.rest()) - len(strings.TrimLeft(r.rest(), "-0123456789_"))
		i, err := strconv.ParseInt(strings.ReplaceAll(r.rest()[:n], "_", ""), 10, 32)
		if err != nil {
			return Value{}, errPerl
		}
		if product *= i; product > 1<<40 || product < -1<<40 {
			return Value{}, errPerl
		}
		r.at += n
		if strings.HasPrefix(r.rest(), "**") || !r.take("*") {
			break
		}
	}
	if r.skip(); r.at < len(r.text) && strings.IndexByte("+-/.%x", r.text[r.at]) >= 0 {
		return Value{}, errPerl
	}
	return Value{Text: strconv.FormatInt(product, 10)}, nil
}
