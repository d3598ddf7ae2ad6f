package main

// Taking over the configuration and keys of another signer: what all such
// imports share.

import (
	"bytes"
	"crypto"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"waxseal/keystore"
)

// importFlags are those that all imports have.
type importFlags struct {
	keystore, output string
	drop             []string
}

func (a *app) importFlags(c *cobra.Command, f *importFlags) {
	c.Flags().StringVar(&f.keystore, "keystore", defaultConfig().Keystore.URL, "keystore `url` to put the keys into")
	c.Flags().StringVar(&f.output, "output", "waxseal.toml", "configuration `file` to write; it must not be there")
	c.Flags().StringArrayVar(&f.drop, "drop", nil, "go on without the open line at this `place`, as the report has it, or without \"all\"; may be repeated")
	a.dryRunFlag(c)
	a.jsonFlag(c)
}

func (a *app) importCommand() *cobra.Command {
	return group("import", "Take over the configuration and keys of another signer",
		a.importOpendkimCommand(),
		a.importRspamdCommand(),
		a.importDkimpyCommand(),
		a.importAmavisCommand(),
		a.importDirectoryCommand(),
	)
}

// What becomes of a line of another signer's configuration.
const (
	lineTaken     = "taken"      // said in our configuration
	lineDefault   = "default"    // not there, and a difference of the two programs' defaults
	lineNotNeeded = "not needed" // had no part in signing
	lineOpen      = "open"       // not taken; to go on without it takes a word
	lineDropped   = "dropped"    // the same, and the word was given
	lineRefused   = "refused"    // nothing can be taken while it is there
)

// importedLine is a line of another signer's configuration, and what becomes of
// it.
type importedLine struct {
	Result  string `json:"result"` // one of the words above
	Place   string `json:"place"`
	Setting string `json:"setting"`
	Why     string `json:"why"`
	Remedy  string `json:"remedy,omitempty"`
}

// takeover is a configuration of another signer on its way into ours.
type takeover struct {
	program  string // the other signer's name
	source   string // its configuration
	now      clock
	config   Config
	comments map[string]string // dotted key of ours → the line it comes from
	lines    []importedLine
	keys     []*importedKey
	hints    []string // what is left to do

	drop  []string // places that may be left out; "all" is every one
	drops map[string]bool
}

// importedKey is a private key that comes with it.
type importedKey struct {
	Domain    string             `json:"domain"`
	Selector  string             `json:"selector"`
	Algorithm keystore.Algorithm `json:"algorithm"`
	Created   time.Time          `json:"created"`
	From      string             `json:"from"`

	private crypto.Signer
	public  []byte
	there   bool // in the keystore already
}

func (a *app) newTakeover(program, source string, drop []string) takeover {
	t := takeover{program: program, source: source, now: a.now, config: defaultConfig(), comments: map[string]string{}, drop: drop, drops: map[string]bool{}}
	t.config.Listen = map[string]ListenConfig{}
	t.config.Row = map[string]RowConfig{}
	return t
}

func (t *takeover) add(result, place, setting, why, remedy string) {
	line := importedLine{result, place, setting, why, remedy}
	if !slices.Contains(t.lines, line) {
		t.lines = append(t.lines, line)
	}
}

// open notes a line that cannot be taken, unless the user has said to go on
// without it.
func (t *takeover) open(place, setting, why, remedy string) {
	result := lineOpen
	if t.dropped(place) {
		result = lineDropped
	}
	t.add(result, place, setting, why, remedy)
}

// dropped says whether the user goes on without the open line at a place.
func (t *takeover) dropped(place string) bool {
	dropped := false
	for _, d := range t.drop {
		if d == "all" || d == place || d == filepath.Base(place) {
			dropped = true
			t.drops[d] = true
		}
	}
	return dropped
}

// count counts the lines with one of these results.
func (t *takeover) count(results ...string) int {
	n := 0
	for _, l := range t.lines {
		if slices.Contains(results, l.Result) {
			n++
		}
	}
	return n
}

// addKey notes a key, once for each domain and selector.
func (t *takeover) addKey(k *importedKey) error {
	for _, other := range t.keys {
		if other.Domain == k.Domain && other.Selector == k.Selector {
			if !bytes.Equal(other.public, k.public) {
				return fmt.Errorf("%s and %s are different keys for selector %s of %s", other.From, k.From, k.Selector, k.Domain)
			}
			return nil
		}
	}
	t.keys = append(t.keys, k)
	return nil
}

// selectors returns those of the keys that will be active for a domain.
func (t *takeover) selectors(domain string) []string {
	var list []string
	for _, k := range t.keys {
		if k.Domain == domain {
			list = append(list, k.Selector)
		}
	}
	return list
}
