// Package rspamd reads what rspamd is told about DKIM signing, with the maps that
// belong to it, and says which keys rspamd signs a message with.
//
// It promises what rspamd 3.4 does; a test signs with that, and with what an
// import makes of these answers. Nothing here changes a file, runs Lua or asks a
// server: what depends on those is an error that names the line.
package rspamd

import "strconv"

// Place is where something stands. Line 0 is the file as a whole.
type Place struct {
	File string
	Line int
}

func (p Place) String() string {
	if p.Line == 0 {
		return p.File
	}
	return p.File + ":" + strconv.Itoa(p.Line)
}

// Error is a line that cannot be read here.
type Error struct {
	Place  Place
	Text   string
	Remedy string
}

func (e *Error) Error() string { return e.Place.String() + ": " + e.Text }

// Hint is what to do about it.
func (e *Error) Hint() string { return e.Remedy }
