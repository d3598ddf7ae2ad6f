package main

// The import from OpenDKIM: its command, and the order of its parts. Settings and
// rows are in the files beside it, its files are read in internal/opendkim.

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"waxseal/cmd/waxseal/internal/opendkim"
	"waxseal/cmd/waxseal/internal/source"
)

// opendkimFlags are what the command line of "import opendkim" says.
type opendkimFlags struct {
	importFlags
	defaults, arguments string
}

func (a *app) importOpendkimCommand() *cobra.Command {
	var f opendkimFlags
	c := &cobra.Command{
		Use:   "opendkim FILE",
		Short: "Take over the configuration, tables and keys of OpenDKIM",
		Long: `Read the configuration of OpenDKIM with its tables and keys, write one of waxseal
that signs the same mail in the same way, and put the keys into the keystore,
active. Selectors and keys stay, so DNS needs no change. Nothing of OpenDKIM is
changed.

Every line is told with what becomes of it. A line that cannot be said in
waxseal's configuration, or that OpenDKIM passed over without a word, is "open":
then nothing is written. Correct the line, or say with --drop, by its place or
for all open lines, that you go on without it. "refused" lines have to be
corrected.

At the end stands a comparison: for senders and clients drawn from the tables,
what OpenDKIM does and what waxseal will do, differences first. Nothing is
written if waxseal would sign anything that OpenDKIM does not.

OpenDKIM's socket, user and mode may come from the command line of its service.
Give that with --arguments, or the file of defaults of its start script with
--defaults; Debian's systemd service reads none.`,
		Example: `  waxseal import opendkim /etc/opendkim.conf --dry-run
  waxseal import opendkim /etc/opendkim.conf --keystore /var/lib/waxseal/keys --output /etc/waxseal/waxseal.toml
  waxseal import opendkim /etc/opendkim.conf --arguments "-p inet:8891@127.0.0.1" --drop /etc/opendkim/TrustedHosts:4 --dry-run`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return a.importOpendkim(c.Context(), args[0], f)
		},
	}
	c.Flags().StringVar(&f.defaults, "defaults", "", "`file` of defaults of the start script, such as /etc/default/opendkim")
	c.Flags().StringVar(&f.arguments, "arguments", "", "OpenDKIM's command `line`")
	a.importFlags(c, &f.importFlags)
	return c
}

// opendkimImport is an import at work.
type opendkimImport struct {
	takeover
	source *opendkim.Config
	model  *opendkim.Model
	loaded map[string]loadedKey // by file, or place of a key in a table
	used   map[string]bool      // places of rows of the KeyTable
}

func (a *app) importOpendkim(ctx context.Context, file string, f opendkimFlags) error {
	source, err := opendkim.Read(file, readLimited)
	if err != nil {
		return withHint(err, "name OpenDKIM's configuration file, usually /etc/opendkim.conf")
	}
	if f.defaults != "" {
		text, err := readLimited(f.defaults)
		if err != nil {
			return err
		}
		source.Defaults(f.defaults, text)
	}
	if f.arguments != "" {
		source.Arguments("--arguments", f.arguments)
	}
	im := &opendkimImport{
		takeover: a.newTakeover("OpenDKIM", file, f.drop), source: source,
		loaded: map[string]loadedKey{}, used: map[string]bool{},
	}
	im.translate()
	return a.takeOver(ctx, &im.takeover, f.importFlags, im.compare)
}

// translate says all that it can in our words.
func (im *opendkimImport) translate() {
	for _, e := range im.source.Errors {
		im.add(lineRefused, e.Place.String(), "", e.Text, e.Remedy)
	}
	var errs []error
	im.model, errs = im.source.Model()
	for _, err := range errs {
		var e *source.Error
		if errors.As(err, &e) {
			im.add(lineRefused, e.Place.String(), "", e.Text, e.Remedy)
		}
	}
	im.model.Usable = func(k *opendkim.Key, domain string) bool { return im.load(k, domain).err == nil }
	for _, l := range im.source.Lost {
		im.add(lineNotNeeded, l.Setting.Place.String(), l.Setting.Name+" "+l.Setting.Value, "the one at "+l.By.Place.String()+" counts, as the last of its name", "")
	}
	im.settings()
	im.origin()
	im.rows()
}
