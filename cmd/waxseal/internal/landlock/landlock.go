// Package landlock takes rights away from this process, for good, by the Linux
// security module of that name (landlock(7)): what its rules do not name, neither
// it nor what it starts can open, whoever runs it and whatever takes control of it.
package landlock

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
)

// ErrAbsent is why a system cannot restrict anything.
var ErrAbsent = errors.New("there is no Landlock")

// Access is what may be done with a file, or with all that is below a directory.
// Metadata are not part of it: Landlock hides neither names nor modes.
type Access uint8

const (
	Read    Access = 1 << iota // read files, list directories
	Write                      // and change, make, rename and remove both
	Execute                    // run programs
	Sockets                    // make and remove unix sockets in a directory
	Device                     // write to and control a device that is there
)

var accessWords = []struct {
	access Access
	word   string
}{{Read, "read"}, {Write, "write"}, {Execute, "execute"}, {Sockets, "sockets"}, {Device, "device"}}

// String has a word for each, such as "read write".
func (a Access) String() string {
	var words []string
	for _, w := range accessWords {
		if a&w.access != 0 {
			words = append(words, w.word)
		}
	}
	return strings.Join(words, " ")
}

// MarshalText and UnmarshalText are for JSON.
func (a Access) MarshalText() ([]byte, error) { return []byte(a.String()), nil }

func (a *Access) UnmarshalText(text []byte) error {
	var all Access
	for word := range strings.FieldsSeq(string(text)) {
		known := all
		for _, w := range accessWords {
			if w.word == word {
				all |= w.access
			}
		}
		if all == known {
			return fmt.Errorf("%q is no access to files", word)
		}
	}
	*a = all
	return nil
}

// Path is one right to files. For says to people what it is needed for.
type Path struct {
	Path   string `json:"path"`
	Access Access `json:"access"`
	For    string `json:"for"`
}

// Port is the right to one TCP port.
type Port struct {
	Port uint16 `json:"port"`
	For  string `json:"for"`
}

// Rules are all rights that are left. The zero value leaves none.
type Rules struct {
	Paths      []Path `json:"paths"` // what does not exist is left out
	Bind       []Port `json:"bind,omitempty"`
	Connect    []Port `json:"connect,omitempty"`
	AnyConnect bool   `json:"any_connect,omitempty"` // to all TCP ports
	Abstract   bool   `json:"abstract,omitempty"`    // to abstract unix sockets of other programs
}

// Covers says whether the rules grant a right to a path. It goes by names, which
// must be absolute; links on the way are followed on both sides.
func (r *Rules) Covers(p Path) bool {
	name := real(p.Path)
	missing := p.Access
	for _, have := range r.Paths {
		dir := strings.TrimSuffix(real(have.Path), "/")
		if name == dir || strings.HasPrefix(name, dir+"/") {
			granted := have.Access
			if granted&Write != 0 {
				granted |= Read
			}
			missing &^= granted
		}
	}
	return missing == 0
}

// real is the path without links, as far as it exists.
func real(path string) string {
	if found, err := filepath.EvalSymlinks(path); err == nil {
		return found
	}
	if dir := filepath.Dir(path); dir != path {
		return filepath.Join(real(dir), filepath.Base(path))
	}
	return path
}

// Connects says the same of connections to a TCP port.
func (r *Rules) Connects(port uint16) bool {
	return r.AnyConnect || slices.ContainsFunc(r.Connect, func(p Port) bool { return p.Port == port })
}
