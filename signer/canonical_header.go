package signer

import (
	"encoding/binary"
	"math/bits"
	"strings"
)

// appendSimple appends a field as it will stand in the message: unchanged,
// with the LF of a fold written as CRLF (RFC 6376, section 3.4.1).
func appendSimple[T string | []byte](dst []byte, name string, value T) []byte {
	dst = append(dst, name...)
	dst = append(dst, ':')
	start := 0
	for i := range len(value) {
		if value[i] == '\n' && (i == 0 || value[i-1] != '\r') {
			dst = append(dst, value[start:i]...)
			dst = append(dst, '\r')
			start = i
		}
	}
	dst = append(dst, value[start:]...)
	return append(dst, crlf...)
}

// appendRelaxed appends a field in relaxed form: name in lower case, no blank
// around the colon or at the end, each fold and each run of blanks in between
// one SP (RFC 6376, section 3.4.2). Blanks are SP and TAB, nothing else
// (section 2.8). A fold is an LF or CRLF.
func appendRelaxed[T string | []byte](dst []byte, name string, value T) []byte {
	dst = appendLower(dst, trimName(name))
	dst = append(dst, ':')
	start, end := 0, len(value)
	for start < end && inGap(value, start) {
		start++
	}
	for end > start && inGap(value, end-1) {
		end--
	}
	at := len(dst)
	dst = append(dst, value[start:end]...)
	dst = dst[:at+collapse(dst[at:])]
	return append(dst, crlf...)
}

// collapse replaces each run of blanks and line ends in v by one SP, in place,
// and returns the new length. v neither begins nor ends with such a run.
func collapse(v []byte) int {
	w := 0 // v[:w] is done
	for r := 0; ; {
		k := nextGap(v, r)
		if w == r {
			w = k
		} else {
			w += copy(v[w:], v[r:k])
		}
		if k == len(v) {
			return w
		}
		r = k
		for r < len(v) && inGap(v, r) {
			r++
		}
		if r == k { // a control byte that is text
			v[w] = v[k]
			r++
		} else {
			v[w] = ' '
		}
		w++
	}
}

// inGap reports whether v[i] is a blank or belongs to a line end.
func inGap[T string | []byte](v T, i int) bool {
	switch v[i] {
	case ' ', '\t', '\n':
		return true
	case '\r':
		return i+1 < len(v) && v[i+1] == '\n'
	}
	return false
}

// nextGap returns the first index at or after i of a control byte, or of a SP
// that a SP or control byte follows; len(v) when there is none. Text in between
// is canonical as it stands.
func nextGap(v []byte, i int) int {
	for ; i+9 <= len(v); i += 8 {
		q := (*[9]byte)(v[i:])
		x, n := binary.LittleEndian.Uint64(q[:]), binary.LittleEndian.Uint64(q[1:])
		control := (x&low + 0x60*lane) | x
		space := equal(x, ' ')
		blank := (n&low + 0x5f*lane) | n // top bit clear: at most 0x20
		if e := (^control | space&^blank) & top; e != 0 {
			return i + bits.TrailingZeros64(e)/8
		}
	}
	for ; i < len(v); i++ {
		if v[i] < ' ' || v[i] == ' ' && i+1 < len(v) && v[i+1] <= ' ' {
			return i
		}
	}
	return i
}

// strayInField reports whether a field value holds a line end that is not a
// fold, or a CR that is no line end.
func strayInField(value string) bool {
	for {
		i := strings.IndexByte(value, '\n')
		if i < 0 {
			return strings.IndexByte(value, '\r') >= 0
		}
		if strings.IndexByte(strings.TrimSuffix(value[:i], "\r"), '\r') >= 0 {
			return true
		}
		value = value[i+1:]
		if value == "" || value[0] != ' ' && value[0] != '\t' {
			return true
		}
	}
}

// trimName drops the blanks that may stand between a name and its colon
// (RFC 5322, section 4.5.8).
func trimName(name string) string {
	for name != "" && (name[len(name)-1] == ' ' || name[len(name)-1] == '\t') {
		name = name[:len(name)-1]
	}
	return name
}

// appendLower appends s with A to Z in lower case and all else as it is.
func appendLower(dst []byte, s string) []byte {
	for i := range len(s) {
		c := s[i]
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		dst = append(dst, c)
	}
	return dst
}
