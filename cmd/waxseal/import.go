package main

// Taking over the configuration and keys of another signer: what all such
// imports share.

import (
	"bytes"
	"context"
	"crypto"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"waxseal/keystore"
)

func (a *app) importCommand() *cobra.Command {
	return group("import", "Take over the configuration and keys of another signer",
		a.importOpendkimCommand(),
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
	config   Config
	comments map[string]string // dotted key of ours → the line it comes from
	lines    []importedLine
	keys     []*importedKey

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

func newTakeover(drop []string) takeover {
	t := takeover{config: defaultConfig(), comments: map[string]string{}, drop: drop, drops: map[string]bool{}}
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
	for _, d := range t.drop {
		if d == "all" || d == place || d == filepath.Base(place) {
			result = lineDropped
			t.drops[d] = true
		}
	}
	t.add(result, place, setting, why, remedy)
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

// compareStore looks what the keystore already has of the keys, and of others.
func (t *takeover) compareStore(ctx context.Context, store keystore.Store) error {
	for _, k := range t.keys {
		d, err := store.Domain(ctx, k.Domain)
		if errors.Is(err, keystore.ErrNotFound) {
			continue
		}
		if err != nil {
			return err
		}
		for i := range d.Keys {
			there := &d.Keys[i]
			switch {
			case there.Selector == k.Selector && there.State == keystore.Active && bytes.Equal(there.Public, k.public):
				k.there = true
			case there.Selector == k.Selector:
				return withHint(fmt.Errorf("the keystore has selector %s of %s for another key, or one that is %s", k.Selector, k.Domain, there.State),
					"import into an empty keystore")
			case there.State == keystore.Active && !slices.Contains(t.selectors(k.Domain), there.Selector):
				return withHint(fmt.Errorf("the keystore has an active key %s of %s, which would sign as well", there.Selector, k.Domain),
					"import into an empty keystore, or retire that key first")
			}
		}
	}
	const page = 1000
	names, err := store.List(ctx, "", page)
	others := 0
	for _, name := range names {
		if len(t.selectors(name)) == 0 {
			others++
		}
	}
	if others > 0 {
		t.add(lineDefault, "keystore", "", fmt.Sprintf("it has keys of other domains, which waxseal signs for as well: %d", others), "import into an empty keystore if that is not meant")
	}
	return err
}

// writeKeys puts the keys into the store, active, and as old as they are.
func (a *app) writeKeys(ctx context.Context, store keystore.Store, keys []*importedKey, reason string) error {
	for _, k := range keys {
		if k.there {
			continue
		}
		_, err := a.update(ctx, store, k.Domain, func(d *keystore.Domain) error {
			by := keystore.Warrant{Now: a.now(), By: a.who(), Force: true, Reason: reason}
			err := d.Import(keystore.Key{
				Selector: k.Selector, Algorithm: k.Algorithm, Public: k.public, Created: k.Created,
				Note: noteOf(k.From),
				Load: func(context.Context) (crypto.Signer, error) { return k.private, nil },
			}, by)
			if err != nil {
				return err
			}
			if err := d.Activate(k.Selector, by); err != nil {
				return err
			}
			// It has signed since, so rotation is due as it would have been.
			key := d.Key(k.Selector)
			key.Activated = key.Created
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// noteOf says where a key came from, in a length that a note may have.
func noteOf(from string) string {
	const most = 200
	return "from " + from[:min(len(from), most)]
}

// newOutput checks that a file is not there yet, and can be.
func newOutput(path string) error {
	switch _, err := os.Lstat(path); {
	case err == nil:
		return withHint(fmt.Errorf("%s is there already", path), "name another file with --output, or move it away")
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	info, err := os.Stat(filepath.Dir(path))
	if err == nil && !info.IsDir() {
		err = fmt.Errorf("%s: not a directory", filepath.Dir(path))
	}
	return err
}

// writeNew writes a file that must not be there.
func writeNew(path, text string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}

// printTable prints lines of cells under a title, if there are any.
func (a *app) printTable(title string, rows [][]string) {
	if len(rows) == 0 {
		return
	}
	fmt.Fprintf(a.stdout, "%s\n", title)
	table := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
	for _, r := range rows {
		for i, cell := range r {
			if i > 0 {
				fmt.Fprint(table, "\t")
			}
			fmt.Fprint(table, cell)
		}
		fmt.Fprintln(table)
	}
	_ = table.Flush()
	fmt.Fprintln(a.stdout)
}
