// Package source says where something stands in another program's configuration,
// and what is wrong with it there.
package source

import "strconv"

// Place is a line of a file. Line 0 is the thing as a whole: a file, or something
// that is none, such as a command line.
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

// Error is something that the other program refuses, or that cannot be read.
type Error struct {
	Place  Place
	Text   string
	Remedy string
}

func (e *Error) Error() string { return e.Place.String() + ": " + e.Text }

// Hint is what to do about it.
func (e *Error) Hint() string { return e.Remedy }
