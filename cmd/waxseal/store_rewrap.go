package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"waxseal/keystore"
	"waxseal/keystore/redisstore"
	"waxseal/keystore/sqlstore"
	"waxseal/keystore/vaultstore"
)

// rewrapper is a store that can encrypt anew what it holds.
type rewrapper interface {
	Rewrap(ctx context.Context, domain string, dryRun bool) (selectors []string, err error)
}

var (
	_ rewrapper = (*keystore.Dir)(nil)
	_ rewrapper = (*sqlstore.Store)(nil)
	_ rewrapper = (*redisstore.Store)(nil)
	_ rewrapper = (*vaultstore.Store)(nil)
)

func (a *app) storeRewrapCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "rewrap [DOMAIN...]",
		Short: "Encrypt the private keys in the store with the first key of key_encryption_key",
		Long: `Encrypt the private keys of the domains, or of all, with the first key in the
file of keystore.key_encryption_key: those that are not encrypted yet, and those
that an older key of the file encrypts. Each one is opened again and tested before
it takes the place of what there was. Daemons go on signing meanwhile, if they have
all keys of the file. A run that was cut short is simply repeated. In Vault it
destroys the former versions of the secrets, which have the keys as they were, and
leaves keys in the transit engine alone.

To replace the wrapping key: put the new one in front of the old in the file,
restart the daemons, run this, and take the old one out when it finds nothing more
to do. Machines that share a store first get the new one behind the old, all of
them, so that none meets a key that it cannot open. Backups of the store still
need the old one.`,
		Example: `  waxseal store rewrap --config waxseal.toml --dry-run
  waxseal store rewrap --config waxseal.toml example.com`,
		ValidArgsFunction: a.completeEachDomain,
		RunE: func(c *cobra.Command, args []string) error {
			return a.rewrap(c.Context(), args)
		},
	}
	a.storeFlags(c)
	a.dryRunFlag(c)
	a.jsonFlag(c)
	return c
}

// rewrapReport is what rewrap has done, or would do.
type rewrapReport struct {
	Domains int            `json:"domains"` // looked at
	Keys    []rewrappedKey `json:"keys"`    // encrypted anew
}

type rewrappedKey struct {
	Domain   string `json:"domain"`
	Selector string `json:"selector"`
}

func (a *app) rewrap(ctx context.Context, domains []string) error {
	d, err := a.loadConfig()
	if err != nil {
		return err
	}
	if d.Keystore.KeyEncryptionKey == "" {
		return withHint(errors.New("no key to encrypt with: keystore.key_encryption_key is not set"),
			"make one with \"openssl rand -base64 32\", in a file that only the daemon may read")
	}
	store, err := a.opening(openStore(d, a.warn))
	if err != nil {
		return err
	}
	w, ok := store.(rewrapper)
	if !ok || readOnly(store) {
		return fmt.Errorf("keystore %s: its keys cannot be encrypted by waxseal", d.Keystore.URL)
	}
	r := rewrapReport{Keys: []rewrappedKey{}}
	failed, err := a.eachDomainOrAll(ctx, store, domains, func(domain string) error {
		r.Domains++
		selectors, err := w.Rewrap(ctx, domain, a.dryRun)
		for _, s := range selectors {
			r.Keys = append(r.Keys, rewrappedKey{domain, s})
			if !a.json {
				fmt.Fprintf(a.stdout, "%s\t%s\n", domain, s)
			}
		}
		return err
	})
	if a.json {
		err = errors.Join(err, a.printJSON(r))
	} else if err == nil {
		verb := "encrypted anew"
		if a.dryRun {
			verb = "would be encrypted anew"
		}
		a.notice("%d keys of %d domains %s", len(r.Keys), r.Domains, verb)
	}
	if err == nil {
		err = failed
	}
	return err
}
