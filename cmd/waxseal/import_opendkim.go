package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"waxseal/cmd/waxseal/internal/opendkim"
	"waxseal/keystore"
)

// opendkimFlags are what the command line of "import opendkim" says.
type opendkimFlags struct {
	defaults, arguments, keystore, output string
	drop                                  []string
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
	c.Flags().StringVar(&f.keystore, "keystore", defaultConfig().Keystore.URL, "keystore `url` to put the keys into")
	c.Flags().StringVar(&f.output, "output", "waxseal.toml", "configuration `file` to write; it must not be there")
	c.Flags().StringArrayVar(&f.drop, "drop", nil, "go on without the open line at this `place`, such as TrustedHosts:4, or without \"all\"; may be repeated")
	a.dryRunFlag(c)
	a.jsonFlag(c)
	return c
}

// opendkimImport is an import at work.
type opendkimImport struct {
	takeover
	now    clock
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
	if err := newOutput(f.output); err != nil && !a.dryRun {
		return err
	}
	im := &opendkimImport{
		takeover: newTakeover(f.drop), now: a.now, source: source,
		loaded: map[string]loadedKey{}, used: map[string]bool{},
	}
	if im.config.Keystore.URL, err = absoluteKeystore(f.keystore); err != nil {
		return err
	}
	im.translate()
	text := "# Taken from OpenDKIM's " + file + ".\n" + writeConfig(im.config, im.comments)
	config, err := im.checked(f.output, text)
	if err != nil {
		return err
	}
	store, err := a.importStore(ctx, im, config)
	if err != nil {
		return err
	}
	report, err := im.compare(config)
	if err != nil {
		return err
	}
	if err := a.printImport(im, text, report); err != nil {
		return err
	}
	for _, d := range f.drop {
		if !im.drops[d] {
			return misused(fmt.Errorf("--drop %s: no open line is there", d))
		}
	}
	switch {
	case im.count(lineRefused) > 0:
		return withHint(fmt.Errorf("%d lines have to be corrected first, so nothing is written", im.count(lineRefused)), "they are marked \"refused\"")
	case im.count(lineOpen) > 0:
		return withHint(fmt.Errorf("%d lines are open, so nothing is written", im.count(lineOpen)),
			"correct them, or go on without them: --drop PLACE for one, --drop all for all")
	case report.Wider > 0:
		return withHint(fmt.Errorf("waxseal would sign what OpenDKIM does not, in %d cases, so nothing is written", report.Wider),
			"they are marked \"wider\"; correct the lines that they come from")
	case a.dryRun:
	default:
		if store == nil {
			if store, err = makeStore(config, a.warn, a.madeStore); err != nil {
				return err
			}
		}
		if err := a.writeKeys(ctx, store, im.keys, "it signed for OpenDKIM"); err != nil {
			return err
		}
		if err := writeNew(f.output, text); err != nil {
			return err
		}
		a.afterImport(im, f.output)
	}
	if report.Different > 0 {
		return errFindings
	}
	return nil
}

// afterImport says what is left to do.
func (a *app) afterImport(im *opendkimImport, output string) {
	a.notice("wrote %s, and %d keys to %s", output, len(im.keys), im.config.Keystore.URL)
	a.notice("hint: selectors and keys are the same, so DNS needs no change; OpenDKIM's files are no longer looked at")
	a.notice("hint: see what is left to do: waxseal check --config %s", output)
	if len(im.config.Listen) > 0 {
		a.notice("hint: waxseal listens where OpenDKIM does, so the mail server needs no change: stop opendkim, then start waxseal serve --config %s", output)
	}
}

// translate says all that it can in our words.
func (im *opendkimImport) translate() {
	for _, e := range im.source.Errors {
		im.add(lineRefused, e.Place.String(), "", e.Text, e.Remedy)
	}
	var errs []error
	im.model, errs = im.source.Model()
	for _, err := range errs {
		var e *opendkim.Error
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

// checked decodes the configuration that was made, as the daemon would. What
// is wrong with it is told by line, so that nothing is written.
func (im *opendkimImport) checked(output, text string) (*decoded, error) {
	config, err := decodeConfig(output, text)
	if err == nil {
		_, err = buildSettings(config)
	}
	var many problems
	if errors.As(err, &many) {
		for _, p := range many {
			place := p.key
			if comment := im.comments[p.key]; comment != "" {
				place = comment
			}
			im.add(lineRefused, place, p.key, p.err.Error(), p.remedy)
		}
		if config != nil {
			return config, nil
		}
	}
	return config, err
}

// importStore opens the keystore, if there is one yet, and looks what it has.
func (a *app) importStore(ctx context.Context, im *opendkimImport, config *decoded) (*keystore.Dir, error) {
	path := strings.TrimPrefix(config.Keystore.URL, "dir:")
	if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	store, err := openStore(config, a.warn)
	if err != nil {
		return nil, err
	}
	return store, im.compareStore(ctx, store)
}

// absoluteKeystore makes the path of a keystore hold wherever the daemon runs.
func absoluteKeystore(url string) (string, error) {
	path := strings.TrimPrefix(url, "dir:")
	if kind, _, ok := strings.Cut(path, ":"); ok && !strings.ContainsAny(kind, "/.") {
		return url, nil // for openStore to refuse
	}
	path, err := filepath.Abs(path)
	return "dir:" + path, err
}

// readLimited reads a file of a size that a table may have.
func readLimited(path string) ([]byte, error) {
	const most = 64 << 20
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("%s: not a file", path)
	case info.Size() > most:
		return nil, fmt.Errorf("%s: over %d MiB", path, most>>20)
	}
	return os.ReadFile(path)
}
