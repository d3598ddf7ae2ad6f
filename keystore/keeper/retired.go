package keeper

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"

	"waxseal/keystore"
)

// publishRetired writes the private half of a key that is about to be removed to
// DIR/DOMAIN/SELECTOR.pem, readable for all: complete or absent, and never over
// another file. Keys that never signed have nothing to deny.
func (k *Keeper) publishRetired(ctx context.Context, d *keystore.Domain, selector string) (err error) {
	key := d.Key(selector)
	if k.options.Retired == "" || key.Activated.IsZero() || key.Load == nil {
		return nil
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("publishing the private half of %s.%s: %w", selector, d.Name, err)
		}
	}()
	private, err := key.Load(ctx)
	if err != nil {
		return err
	}
	text, err := keystore.MarshalPrivateKey(private)
	if err != nil {
		return err
	}
	root, err := os.OpenRoot(k.options.Retired)
	if err != nil {
		return err
	}
	defer root.Close()
	switch err := root.Mkdir(d.Name, 0o755); {
	case err == nil:
		if err := errors.Join(root.Chmod(d.Name, 0o755), syncDir(root, ".")); err != nil { // whatever the umask is
			return err
		}
	case !errors.Is(err, fs.ErrExist):
		return err
	}
	// The slots of a domain are used more than once.
	name := path.Join(d.Name, selector+".pem")
	if _, slot := d.Slot(selector); slot {
		name = path.Join(d.Name, selector+"-"+key.Activated.UTC().Format("20060102T150405")+".pem")
	}
	temp := path.Join(d.Name, ".tmp-"+rand.Text())
	if err := writeFile(root, temp, text); err != nil {
		return err
	}
	defer root.Remove(temp)
	if err := root.Link(temp, name); err != nil {
		there, readErr := root.ReadFile(name)
		if !errors.Is(err, fs.ErrExist) || readErr != nil || !bytes.Equal(there, text) {
			return err
		}
		// A try before this one got so far.
	}
	return syncDir(root, d.Name)
}

func syncDir(root *os.Root, name string) error {
	dir, err := root.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

func writeFile(root *os.Root, name string, text []byte) error {
	f, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	err = errors.Join(err, f.Chmod(0o644), f.Sync(), f.Close())
	if err != nil {
		root.Remove(name)
	}
	return err
}
