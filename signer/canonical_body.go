package signer

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"hash"
)

const crlf = "\r\n"

// What was held back is hashed from these, line ends many at a time.
var (
	crlfs = bytes.Repeat([]byte(crlf), 256)
	space = []byte(" ")
)

// Spans shorter than directSpan are collected, so that the hash is not called
// for every few bytes.
const directSpan = 512

// newHash returns the only hash there is to sign with (RFC 8301, section 3.1).
func newHash() hash.Hash { return sha256.New() }

// body hashes a message body in canonical form as it streams by. A line ends
// in CRLF and nowhere else; a CR or LF alone is text.
type body struct {
	hash hash.Hash
	mode Canonicalization

	// lines counts CRLFs seen but not yet hashed. Blank lines at the end of
	// the body are not part of it (RFC 6376, sections 3.4.3 and 3.4.4), so
	// they are held back as a number, however many there are.
	lines int
	// blank says that after these lines a run of blanks was seen. It is one
	// SP if text follows and nothing if a line end does. Relaxed only.
	blank bool
	// cr says that the last byte was a CR, of which nothing is known yet.
	cr bool

	text   bool // something was hashed
	stray  bool // a CR or LF was not half of a CRLF
	octet  bool // an octet was beyond ASCII
	long   bool // a line was longer than measure allows
	column int  // octets since the last LF, as measure saw them
	closed bool
	sum    [sha256.Size]byte // once closed
	base64 string            // the same as bh= has it

	collected int
	collect   [2 << 10]byte
}

// reset makes b ready for another body.
func (b *body) reset(mode Canonicalization) {
	*b = body{hash: b.hash, mode: mode}
	b.hash.Reset()
}

// write hashes p, except for what the bytes after p decide.
func (b *body) write(p []byte) {
	if b.mode == Simple {
		b.writeSimple(p)
	} else {
		b.writeRelaxed(p)
	}
}

// strayLineEnds reports whether a CR or LF was seen outside of a CRLF, if p
// given so far is all there is.
func (b *body) strayLineEnds() bool { return b.stray || b.cr }

// close ends the body and computes its hash. Both forms add a last CRLF when
// it is missing; the simple form of nothing is a CRLF (section 3.4.3), the
// relaxed form of nothing is nothing (section 3.4.4).
func (b *body) close() {
	if b.closed {
		return
	}
	if b.cr {
		b.strayCR()
	}
	if b.text || b.mode == Simple {
		b.emit(crlfs[:len(crlf)])
	}
	b.flush()
	b.hash.Sum(b.sum[:0])
	var text [44]byte
	base64.StdEncoding.Encode(text[:], b.sum[:])
	b.base64 = string(text[:])
	b.closed = true
}

// writeSimple is the simple canonicalization of section 3.4.3.
func (b *body) writeSimple(p []byte) {
	p = b.gap(p)
	if len(p) == 0 {
		return
	}
	end := len(p)
	if p[end-1] == '\r' {
		end--
	}
	for end >= 2 && p[end-1] == '\n' && p[end-2] == '\r' {
		end -= 2
	}
	stray, octet := strayLineEnd(p[:end])
	b.stray = b.stray || stray
	b.octet = b.octet || octet
	b.emit(p[:end])
	b.gap(p[end:])
}

// writeRelaxed is the relaxed canonicalization of section 3.4.4.
func (b *body) writeRelaxed(p []byte) {
	for {
		p = b.gap(p)
		if len(p) == 0 {
			return
		}
		end := bytes.IndexByte(p, '\t')
		if end < 0 {
			end = len(p)
		}
		for isGap(p[end-1]) {
			end--
		}
		b.relax(p[:end])
		p = p[end:]
	}
}

// relax hashes text that has no TAB and neither begins nor ends with a blank
// or a line end.
//
// Only one thing changes inside such text: a SP before another SP or a line
// end. All the rest, line ends included, goes to the hash as it stands.
func (b *body) relax(p []byte) {
	if bytes.IndexByte(p, ' ') < 0 { // base64, most often
		stray, octet := strayLineEnd(p)
		b.stray = b.stray || stray
		b.octet = b.octet || octet
		b.emit(p)
		return
	}
	start := 0 // of what was not hashed yet
	for i := 0; ; {
		k, octet := nextIrregular(p, i)
		b.octet = b.octet || octet
		if k == len(p) {
			b.emit(p[start:])
			return
		}
		i = k + 1
		if p[k] != ' ' {
			b.stray = true
			continue
		}
		for p[i] == ' ' {
			i++
		}
		switch {
		case p[i] == '\r' && p[i+1] == '\n': // drop all blanks
			b.emit(p[start:k])
			start = i
		case i > k+1: // drop all but the first
			b.emit(p[start : k+1])
			start = i
		}
		if p[i] == '\n' {
			b.stray = true
		}
	}
}

// measure notes a line of more than limit octets. A line end is an LF here: with
// any other the body is not signed. As no line end can be missed by looking for
// the last one that is near enough, most of the body is not looked at.
func (b *body) measure(p []byte, limit int) {
	if b.long {
		return
	}
	for {
		// The line end may be limit+1 octets away, with its CR.
		n := min(len(p), limit+2-b.column)
		k := lastLF(p[:n])
		if k < 0 {
			b.column += n
			b.long = b.column > limit+1
			return
		}
		b.column = 0
		p = p[k+1:]
	}
}

// gap takes line ends and, if the form is relaxed, blanks from the start of p.
// It stops before the first byte that is neither, hashes what that byte makes
// part of the body, and returns the rest of p.
func (b *body) gap(p []byte) []byte {
	for i := 0; i < len(p); i++ {
		c := p[i]
		if b.cr && c != '\n' {
			b.strayCR()
		}
		switch {
		case b.cr: // and this is its LF
			b.cr = false
			b.lineEnd()
		case c == '\r' && i+1 < len(p) && p[i+1] == '\n':
			i++
			b.lineEnd()
		case c == '\r':
			b.cr = true
		case (c == ' ' || c == '\t') && b.mode == Relaxed:
			b.blank = true
		case c == '\n':
			b.stray = true
			b.held()
			b.emit(p[i : i+1])
		default:
			b.held()
			return p[i:]
		}
	}
	return nil
}

// lineEnd holds back a line end, and drops the blanks before it.
func (b *body) lineEnd() {
	b.lines++
	b.blank = false
}

// isGap reports whether gap takes c in relaxed form.
func isGap(c byte) bool {
	return c == ' ' || c == '\t' || c == '\r' || c == '\n'
}

// strayCR hashes the CR that was held back and turned out to be text.
func (b *body) strayCR() {
	b.cr = false
	b.stray = true
	b.held()
	b.emit(crlfs[:1])
}

// held hashes the lines and the blank that were held back, as text follows.
func (b *body) held() {
	for b.lines > 0 {
		n := min(b.lines, len(crlfs)/len(crlf))
		b.emit(crlfs[:n*len(crlf)])
		b.lines -= n
	}
	if b.blank {
		b.blank = false
		b.emit(space)
	}
}

// emit hashes p.
func (b *body) emit(p []byte) {
	b.text = true
	if len(p) >= directSpan {
		b.flush()
		b.hash.Write(p)
		return
	}
	if b.collected+len(p) > len(b.collect) {
		b.flush()
	}
	b.collected += copy(b.collect[b.collected:], p)
}

// flush hashes what was collected.
func (b *body) flush() {
	b.hash.Write(b.collect[:b.collected])
	b.collected = 0
}
