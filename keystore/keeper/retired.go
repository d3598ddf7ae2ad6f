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
	if err := root.Mkdir(d.Name, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	// The slots of a domain are used more than once.
	name := path.Join(d.Name, selector+".pem")
	if _, slot := d.Slot(selector); slot {
		name = path.Join(d.Name, selector+"-"+key.Activated.UTC().Format("20060102")+".pem")
	}
	temp := path.Join(d.Name, ".tmp-"+rand.Text())
	if err := writeFile(root, temp, text); err != nil {
		return err
	}
	defer root.Remove(temp)
	if err := root.Link(temp, name); err != nil {
		if there, readErr := root.ReadFile(name); errors.Is(err, fs.ErrExist) && readErr == nil && bytes.Equal(there, text) {
			return nil // a try before this one got so far
		}
		return err
	}
	dir, err := root.Open(d.Name)
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}

func writeFile(root *os.Root, name string, text []byte) error {
	f, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	err = errors.Join(err, f.Sync(), f.Close())
	if err != nil {
		root.Remove(name)
	}
	return err
}
