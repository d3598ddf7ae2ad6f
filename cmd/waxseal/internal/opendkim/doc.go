// Package opendkim reads the configuration of OpenDKIM, its tables included,
// and says what OpenDKIM does with a message under it.
//
// What it promises is what OpenDKIM 2.11 does, not what its manual says: which
// of several equal lines counts, which rows never match, and which it takes for
// something else than was meant. A test compares the model with the program.
// Nothing here changes a file or knows how this would be said otherwise.
package opendkim

import "strconv"

// Place is where something stands. Line 0 is the thing as a whole, such as the
// command line.
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

// Error is something that OpenDKIM refuses, or that makes no sense to it.
type Error struct {
	Place  Place
	Text   string
	Remedy string
}

func (e *Error) Error() string { return e.Place.String() + ": " + e.Text }

// Hint is what to do about it.
func (e *Error) Hint() string { return e.Remedy }
