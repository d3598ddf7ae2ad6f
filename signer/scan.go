package signer

import (
	"bytes"
	"encoding/binary"
	"math/bits"
)

// The scanners test eight bytes at once in a uint64. Byte k of the mail is
// lane k, and a test leaves its answer in the top bit of each lane. For bytes
// below 0x80, b^c + 0x7f sets that bit exactly when b differs from c, and
// nothing is carried into the next lane.
const (
	lane uint64 = 0x0101010101010101
	top         = 0x80 * lane
	low         = 0x7f * lane
)

// What lanes are compared with.
const (
	lf    = '\n' * lane
	cr    = '\r' * lane
	sp    = ' ' * lane
	above = 0x5f * lane // b + 0x5f sets the top bit exactly when b > 0x20
)

// nextIrregular returns the first index at or after i where p, which has no
// TAB, may not be relaxed text as it stands: a SP before a byte of 0x20 or
// less, a CR without LF after it, or the byte before an LF when that byte is no
// CR. It returns len(p) when there is none. Of the last byte only a CR counts.
// octet tells that a byte on the way there is not ASCII.
func nextIrregular(p []byte, i int) (next int, octet bool) {
	q := p[i:]
	for len(q) >= 17 {
		x, n := binary.LittleEndian.Uint64(q[0:8]), binary.LittleEndian.Uint64(q[1:9])
		e := ^(((x ^ sp) + low) | (n + above)) | (((x ^ cr) + low) ^ ((n ^ lf) + low))
		y, o := binary.LittleEndian.Uint64(q[8:16]), binary.LittleEndian.Uint64(q[9:17])
		f := ^(((y ^ sp) + low) | (o + above)) | (((y ^ cr) + low) ^ ((o ^ lf) + low))
		high := x | y | o
		if (e|f|high)&top != 0 {
			if high&top != 0 {
				return nextIrregularOctet(p, len(p)-len(q)), true
			}
			return len(p) - len(q) + firstLane(e, f), false
		}
		q = q[16:]
	}
	from := len(p) - len(q)
	next = nextIrregularByte(p, from)
	var or byte
	for _, c := range p[from:min(next+1, len(p))] {
		or |= c
	}
	return next, or >= 0x80
}

// nextIrregularOctet is nextIrregular for text that is not ASCII, which may
// well begin behind what it returns.
func nextIrregularOctet(p []byte, i int) int {
	q := p[i:]
	for len(q) >= 17 {
		x, n := binary.LittleEndian.Uint64(q[0:8]), binary.LittleEndian.Uint64(q[1:9])
		a, b := x&low, n&low
		e := ^(((a ^ sp) + low) | x | (b + above) | n) | ((((a ^ cr) + low) | x) ^ (((b ^ lf) + low) | n))
		x, n = binary.LittleEndian.Uint64(q[8:16]), binary.LittleEndian.Uint64(q[9:17])
		a, b = x&low, n&low
		f := ^(((a ^ sp) + low) | x | (b + above) | n) | ((((a ^ cr) + low) | x) ^ (((b ^ lf) + low) | n))
		if (e|f)&top != 0 {
			return len(p) - len(q) + firstLane(e, f)
		}
		q = q[16:]
	}
	return nextIrregularByte(p, len(p)-len(q))
}

// nextIrregularByte is nextIrregular for the last few bytes.
func nextIrregularByte(p []byte, i int) int {
	for ; i < len(p); i++ {
		last := i+1 == len(p)
		switch c := p[i]; {
		case c == ' ' && !last && p[i+1] <= ' ',
			c == '\r' && (last || p[i+1] != '\n'),
			c != '\r' && !last && p[i+1] == '\n':
			return i
		}
	}
	return i
}

// firstLane returns the first of the 16 lanes of e and f that has its top bit
// set, if one has. It does not branch, as nobody could predict where.
func firstLane(e, f uint64) int {
	k := bits.TrailingZeros64(e&top) / 8 // 8 if none
	return k + bits.TrailingZeros64(f&top)/8&-(k/8)
}

// equal sets the top bit of each lane of x that is c. Other bits are noise.
func equal(x uint64, c byte) uint64 {
	v := x ^ uint64(c)*lane
	return ^((v&low + low) | v)
}

// lastLF returns the index of the last LF in p, or -1.
func lastLF(p []byte) int {
	for len(p) >= 8 {
		q := p[len(p)-8:]
		if e := equal(binary.LittleEndian.Uint64(q), '\n') & top; e != 0 {
			return len(p) - 1 - bits.LeadingZeros64(e)/8
		}
		p = p[:len(p)-8]
	}
	return bytes.LastIndexByte(p, '\n')
}

// strayLineEnd reports whether p holds a CR or LF that is not half of a CRLF
// in p, and whether a byte before the first such is not ASCII. p is not empty.
func strayLineEnd(p []byte) (stray, octet bool) {
	if p[0] == '\n' || p[len(p)-1] == '\r' {
		return true, false
	}
	var octets uint64
	q := p
	for len(q) >= 17 {
		x, n := binary.LittleEndian.Uint64(q[0:8]), binary.LittleEndian.Uint64(q[1:9])
		y, o := binary.LittleEndian.Uint64(q[8:16]), binary.LittleEndian.Uint64(q[9:17])
		e := (((x ^ cr) + low) ^ ((n ^ lf) + low)) | (((y ^ cr) + low) ^ ((o ^ lf) + low)) | x | y | o
		if e&top != 0 {
			octets |= x | y
			if ((equal(x, '\r')^equal(n, '\n'))|(equal(y, '\r')^equal(o, '\n')))&top != 0 {
				return true, octets&top != 0
			}
		}
		q = q[16:]
	}
	for i, c := range q {
		octets |= uint64(c)
		if i+1 < len(q) && (c == '\r') != (q[i+1] == '\n') {
			return true, octets&top != 0
		}
	}
	return false, octets&top != 0
}
