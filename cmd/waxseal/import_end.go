package main

// The end of every import: the configuration that was made is checked, all is
// told, and then written.

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
	"strings"

	"waxseal/keystore"
)

// takeOver ends an import: it checks the configuration that was made, compares,
// tells all, and writes what there is to write.
func (a *app) takeOver(ctx context.Context, t *takeover, f importFlags, compare func(*decoded) (*comparison, error)) error {
	if err := newOutput(f.output); err != nil && !a.dryRun {
		return err
	}
	var err error
	if t.config.Keystore.URL, err = absoluteKeystore(f.keystore); err != nil {
		return err
	}
	text := fmt.Sprintf("# Taken from %s, %s.\n", t.program, t.source) + writeConfig(t.config, t.comments)
	config, err := t.checked(f.output, text)
	if err != nil {
		return err
	}
	store, err := a.importStore(ctx, t, config)
	if err != nil {
		return err
	}
	report, err := compare(config)
	if err != nil {
		return err
	}
	if err := a.printImport(t, text, report); err != nil {
		return err
	}
	for _, d := range f.drop {
		if !t.drops[d] {
			return misused(fmt.Errorf("--drop %s: no open line is there", d))
		}
	}
	switch {
	case t.count(lineRefused) > 0:
		return withHint(fmt.Errorf("%d lines have to be corrected first, so nothing is written", t.count(lineRefused)), "they are marked \"refused\"")
	case t.count(lineOpen) > 0:
		return withHint(fmt.Errorf("%d lines are open, so nothing is written", t.count(lineOpen)),
			"correct them, or go on without them: --drop PLACE for one, --drop all for all")
	case report.Wider > 0:
		return withHint(fmt.Errorf("waxseal would sign what %s does not, in %d cases, so nothing is written", t.program, report.Wider),
			"they are marked \"wider\"; correct the lines that they come from")
	case a.dryRun:
	default:
		if store == nil {
			if store, err = a.opening(makeStore(ctx, config, a.warn, a.madeStore)); err != nil {
				return err
			}
		}
		if err := a.writeKeys(ctx, store, t.keys, "imported from "+t.program); err != nil {
			return err
		}
		if err := writeNew(f.output, text); err != nil {
			return err
		}
		a.afterImport(t, f.output)
	}
	if report.Different > 0 {
		return errFindings
	}
	return nil
}

// checked decodes the configuration that was made, as the daemon would. What
// is wrong with it is told by line, so that nothing is written.
func (t *takeover) checked(output, text string) (*decoded, error) {
	config, err := decodeConfig(output, text)
	if err == nil {
		_, err = buildSettings(config)
	}
	var many problems
	if errors.As(err, &many) {
		for _, p := range many {
			place := p.key
			if comment := t.comments[p.key]; comment != "" {
				place = comment
			}
			t.add(lineRefused, place, p.key, p.err.Error(), p.remedy)
		}
		if config != nil {
			return config, nil
		}
	}
	return config, err
}

// importStore opens the keystore, if there is one yet, and looks what it has.
func (a *app) importStore(ctx context.Context, t *takeover, config *decoded) (keystore.Store, error) {
	path, ok := keystoreDir(config.Keystore.URL)
	if file, sqlite := strings.CutPrefix(config.Keystore.URL, "sqlite:"); sqlite {
		path, ok = file, true
	}
	if _, err := os.Stat(path); ok && errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	store, err := a.opening(openStore(config, a.warn))
	if err != nil {
		return nil, err
	}
	return store, t.compareStore(ctx, store)
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

// untouched says whether a file is the example configuration and nothing else,
// as packages install it.
func untouched(path string) bool {
	info, err := os.Lstat(path)
	if err != nil || !info.Mode().IsRegular() {
		return false
	}
	text, err := os.ReadFile(path)
	var example strings.Builder
	return err == nil && writeExample(&example) == nil && string(text) == example.String()
}

// newOutput checks that a file is not there yet, or untouched, and can be.
func newOutput(path string) error {
	switch _, err := os.Lstat(path); {
	case err == nil && untouched(path):
		return nil
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

// writeNew writes a file that must not be there, unless untouched.
func writeNew(path, text string) error {
	if untouched(path) {
		if err := os.Remove(path); err != nil {
			return err
		}
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}

// afterImport says what is left to do.
func (a *app) afterImport(t *takeover, output string) {
	a.notice("wrote %s, and %d keys to %s", output, len(t.keys), t.config.Keystore.URL)
	a.notice("hint: selectors and keys are the same, so DNS needs no change; the files of %s are no longer looked at", t.program)
	a.notice("hint: see what is left to do: waxseal check --config %s", output)
	for _, h := range t.hints {
		a.notice("hint: %s", h)
	}
	for _, name := range sortedKeys(t.config.Listen) {
		for _, h := range socketHints(t.config.Listen[name]) {
			a.notice("hint: %s", h)
		}
	}
	if len(t.config.Listen) > 0 {
		start := "start waxseal serve --config " + output
		if output == defaultConfigFile {
			start = "systemctl restart waxseal"
		}
		a.notice("hint: waxseal listens where %s does, so the mail server needs no change: stop that, then %s", t.program, start)
	}
}

// absoluteKeystore makes the path of a keystore hold wherever the daemon runs.
func absoluteKeystore(url string) (string, error) {
	if file, ok := strings.CutPrefix(url, "sqlite:"); ok {
		file, err := filepath.Abs(file)
		return "sqlite:" + file, err
	}
	path, ok := keystoreDir(url)
	if !ok {
		return url, nil // a database, or for openStore to refuse
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
