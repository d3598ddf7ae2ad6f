package main

// Making, listing and showing keys, and taking them in and out as files.

import (
	"context"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"waxseal/keystore"
	"waxseal/keystore/dns"
)

func (a *app) keyCommand() *cobra.Command {
	return group("key", "Make, list, activate, retire, revoke and remove keys",
		a.keyNewCommand(),
		a.keyListCommand(),
		a.keyShowCommand(),
		a.keyActivateCommand(),
		a.keyRetireCommand(),
		a.keyRevokeCommand(),
		a.keyRemoveCommand(),
		a.keyImportCommand(),
		a.keyExportCommand(),
	)
}

func (a *app) keyNewCommand() *cobra.Command {
	var selector, algorithm, note string
	var slots []string
	c := &cobra.Command{
		Use:   "new DOMAIN...",
		Short: "Make a key, and print the DNS record to publish",
		Long: `Make a key for each domain, and print its DNS record and what to do next. The
key is pending: it signs once it is activated. With - the domains are read from
standard input, one a line.

Without --selector the key gets the next dated one: 2026a, 2026b, ... A selector
is never used a second time for a domain.

With --slots the domain's zone is not ours: its owner sets a CNAME for each of
these selectors, once and for all, and all later changes are made where they
point: in keeper.slot_zone. Rotation goes round the slots, so there should be
three; one is used again when its last key was revoked and no mail needs it.`,
		Example: `  waxseal key new example.com
  waxseal key new example.com --algorithm ed25519
  waxseal key new example.com --selector mail --note "newsletter"
  waxseal key new customer.example --slots s1,s2,s3
  waxseal key new - < domains.txt`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if !slices.Contains(algorithms, algorithm) {
				return misused(fmt.Errorf("--algorithm %q, want one of %s", algorithm, strings.Join(algorithms, ", ")))
			}
			if selector != "" {
				if err := keystore.ValidSelector(strings.ToLower(selector)); err != nil {
					return misused(err)
				}
			}
			wish := newKeyWish{selector: selector, algorithm: keystore.Algorithm(algorithm), note: note}
			if len(slots) > 0 {
				var err error
				if wish.slots, wish.slotZone, err = a.slotWish(slots); err != nil {
					return err
				}
			}
			store, err := a.beginStore(c.Context())
			if err != nil {
				return err
			}
			made := []keyRow{}
			failed, err := a.eachDomain(args, func(domain string) error {
				d, k, err := a.newKey(c.Context(), store, domain, wish)
				if err != nil {
					return err
				}
				a.warnOfKey(domain, k)
				row := newKeyRow(domain, k)
				if a.dryRun {
					row.Record = "" // this key goes nowhere, and a real one will have another
				}
				made = append(made, row)
				switch {
				case a.json:
				case a.dryRun:
					fmt.Fprintf(a.stdout, "would make %s key %s of %s\n", k.Algorithm, k.Selector, domain)
				default:
					a.printSlots(d, slots)
					a.printNewKey(d, k)
				}
				return nil
			})
			if err != nil {
				return err
			}
			if a.json {
				if err := a.printJSON(made); err != nil {
					return err
				}
			}
			return failed
		},
		ValidArgsFunction: a.completeDomains,
	}
	a.storeFlags(c)
	a.jsonFlag(c)
	a.dryRunFlag(c)
	c.Flags().StringVar(&selector, "selector", "", "`name` of the key (default: the next dated one)")
	c.Flags().StringVar(&algorithm, "algorithm", string(keystore.RSA2048), "one of "+strings.Join(algorithms, ", "))
	c.Flags().StringVar(&note, "note", "", "`text` to keep with the key")
	c.Flags().StringSliceVar(&slots, "slots", nil, "delegate these `selectors` by CNAMEs, and make the key in the first free one")
	_ = c.RegisterFlagCompletionFunc("algorithm", cobra.FixedCompletions(algorithms, cobra.ShellCompDirectiveNoFileComp))
	return c
}

// algorithms are those of keys that key new makes.
var algorithms = []string{
	string(keystore.RSA2048), string(keystore.RSA3072), string(keystore.RSA4096), string(keystore.RSA1024), string(keystore.Ed25519),
}

// newKeyWish is what key new is asked for.
type newKeyWish struct {
	selector  string // empty: the next one
	algorithm keystore.Algorithm
	note      string
	imported  bool     // it was made elsewhere
	slots     []string // selectors to delegate
	slotZone  string
}

func (a *app) newKey(ctx context.Context, store keystore.Store, domain string, w newKeyWish) (*keystore.Domain, *keystore.Key, error) {
	var private crypto.Signer
	var made string // the selector that it was made for
	return a.addKey(ctx, store, domain, w, func(selector string) (_ crypto.Signer, err error) {
		switch {
		case private != nil && made == selector: // and another process was quicker
		case a.dryRun: // so that none stays in the store that makes keys itself
			private, err = keystore.Generate(w.algorithm)
		default:
			private, err = keystore.NewKey(ctx, store, domain, selector, w.algorithm)
		}
		made = selector
		return private, err
	})
}

// addKey puts a key into the store as a pending key: the one that private returns
// for its selector.
func (a *app) addKey(ctx context.Context, store keystore.Store, domain string, w newKeyWish, private func(selector string) (crypto.Signer, error)) (*keystore.Domain, *keystore.Key, error) {
	by := keystore.Warrant{}
	if err := a.vouch(&by); err != nil {
		return nil, nil, err
	}
	d, err := a.update(ctx, store, domain, func(d *keystore.Domain) error {
		if err := delegate(d, w.slots, w.slotZone); err != nil {
			return err
		}
		name := strings.ToLower(w.selector)
		if name == "" {
			var from time.Time
			if name, from = d.NextSelector(a.now(), by.Grace); name == "" {
				return noSlot(domain, from)
			}
		}
		if err := d.MayAdd(name, by); err != nil {
			return err
		}
		key, err := private(name)
		if err != nil {
			return err
		}
		public, algorithm, err := keystore.PublicBytes(key.Public())
		if err != nil {
			return err
		}
		add := d.Add
		if w.imported {
			add = d.Import
		}
		return add(keystore.Key{
			Selector:  name,
			Algorithm: algorithm,
			Public:    public,
			Note:      w.note,
			Load:      func(context.Context) (crypto.Signer, error) { return key, nil },
		}, by)
	})
	if err != nil {
		return nil, nil, err
	}
	return d, &d.Keys[len(d.Keys)-1], nil
}

// update applies a change to a domain, again if another process was quicker.
// With --dry-run nothing is written.
func (a *app) update(ctx context.Context, store keystore.Store, domain string, change func(*keystore.Domain) error) (*keystore.Domain, error) {
	const tries = 10
	for try := 1; ; try++ {
		d, err := store.Domain(ctx, domain)
		if errors.Is(err, keystore.ErrNotFound) {
			d, err = &keystore.Domain{Name: domain}, nil
		}
		if err != nil {
			return nil, err
		}
		if err := d.Whole(); err != nil {
			return nil, err
		}
		if err := change(d); err != nil {
			return nil, err
		}
		if a.dryRun {
			return d, nil
		}
		err = store.Update(ctx, d)
		if err == nil {
			return d, nil
		}
		if !errors.Is(err, keystore.ErrConflict) || try == tries {
			return nil, err
		}
	}
}

// printRecord prints the record that the key should have, for a zone file.
func (a *app) printRecord(d *keystore.Domain, k *keystore.Key) {
	if record, err := dns.NewRecord(k, dns.RecordOptions{}); err == nil { // a key that was not removed has one
		target, _ := d.Slot(k.Selector)
		_ = dns.Write(a.stdout, "zone", []dns.Entry{{Domain: d.Name, Key: k, Record: record, Target: target}})
	}
}

func (a *app) printNewKey(d *keystore.Domain, k *keystore.Key) {
	domain := d.Name
	fmt.Fprintf(a.stdout, "; %s key %s of %s, %s\n", k.Algorithm, k.Selector, domain, k.State)
	a.printRecord(d, k)
	a.notice("hint: publish this record; \"waxseal dns show %s%s --format line\" has it for web forms", domain, a.flags())
	a.notice("hint: the daemon lets the key sign when all the world can see the record; \"waxseal dns check %s%s --watch\" waits for that", domain, a.flags())
}

// warnOfKey tells of doubts about a key that is about to be used.
func (a *app) warnOfKey(domain string, k *keystore.Key) {
	public, err := keystore.ParsePublic(k.Algorithm, k.Public)
	if err != nil {
		return
	}
	for _, w := range keystore.Warnings(public) {
		a.notice("warning: key %s of %s: %s", k.Selector, domain, w)
	}
}

func (a *app) keyListCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "list [DOMAIN]",
		Short: "List the keys of all domains or of one",
		Example: `  waxseal key list
  waxseal key list example.com --json`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			store, err := a.loadStore()
			if err != nil {
				return err
			}
			rows := []keyRow{}
			failed, err := a.eachDomainOrAll(c.Context(), store, args, func(domain string) error {
				d, err := a.domain(c.Context(), store, domain)
				if err != nil {
					return err
				}
				for i := range d.Keys {
					rows = append(rows, newKeyRow(d.Name, &d.Keys[i]))
				}
				return d.Whole()
			})
			if err != nil {
				return err
			}
			if a.json {
				if err := a.printJSON(rows); err != nil {
					return err
				}
				return failed
			}
			if len(rows) == 0 && failed == nil {
				a.notice("no keys yet")
				a.notice("hint: make one with \"waxseal key new DOMAIN\"")
			}
			table := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
			if len(rows) > 0 {
				fmt.Fprintln(table, "DOMAIN\tSELECTOR\tALGORITHM\tSTATE\tSINCE\tNOTE")
			}
			for _, r := range rows {
				since := "-" // another program's key
				if at := r.since(); !at.IsZero() {
					since = at.Format(time.DateOnly)
				}
				fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\n", r.Domain, r.Selector, r.Algorithm, r.State, since, r.Note)
			}
			if err := table.Flush(); err != nil {
				return err
			}
			return failed
		},
		ValidArgsFunction: a.completeDomains,
	}
	a.storeFlags(c)
	a.jsonFlag(c)
	return c
}

func (a *app) keyImportCommand() *cobra.Command {
	var note string
	c := &cobra.Command{
		Use:   "import DOMAIN SELECTOR FILE",
		Short: "Take an existing private key into the keystore",
		Long: `Take an existing private key into the keystore as a pending key. FILE is PEM:
PKCS#1 or PKCS#8 for RSA, PKCS#8 for Ed25519; - is standard input. FILE itself
stays as it is. A keystore whose keys are made inside Vault takes none.`,
		Example: `  waxseal key import example.com mail /etc/opendkim/keys/mail.private`,
		Args:    cobra.ExactArgs(3),
		RunE: func(c *cobra.Command, args []string) error {
			domain, selector, err := keyArguments(args)
			if err != nil {
				return err
			}
			text, err := readFile(args[2], a.stdin)
			if err != nil {
				return err
			}
			private, err := keystore.ParsePrivateKey(text)
			if err != nil {
				return fmt.Errorf("%s: %w", args[2], err)
			}
			store, err := a.beginStore(c.Context())
			if err != nil {
				return err
			}
			if makesKeys(store) {
				return errNoImport
			}
			w := newKeyWish{selector: selector, note: note, imported: true}
			d, k, err := a.addKey(c.Context(), store, domain, w, func(string) (crypto.Signer, error) { return private, nil })
			if err != nil {
				return err
			}
			a.warnOfKey(domain, k)
			switch {
			case a.json:
				return a.printJSON(newKeyRow(domain, k))
			case a.dryRun:
				fmt.Fprintf(a.stdout, "would import %s key %s of %s\n", k.Algorithm, k.Selector, domain)
			default:
				a.printNewKey(d, k)
			}
			return nil
		},
		ValidArgsFunction: func(c *cobra.Command, args []string, toComplete string) ([]cobra.Completion, cobra.ShellCompDirective) {
			if len(args) == 2 {
				return nil, cobra.ShellCompDirectiveDefault
			}
			return a.completeDomains(c, args, toComplete)
		},
	}
	a.storeFlags(c)
	a.jsonFlag(c)
	a.dryRunFlag(c)
	c.Flags().StringVar(&note, "note", "", "`text` to keep with the key")
	return c
}

func (a *app) keyExportCommand() *cobra.Command {
	var public bool
	c := &cobra.Command{
		Use:   "export DOMAIN SELECTOR",
		Short: "Print a key as PEM",
		Long: `Print a private key as PKCS#8 PEM, or with --public its public half as
SubjectPublicKeyInfo PEM. Of a key in Vault's transit engine there is no private
half to print.`,
		Example: `  waxseal key export example.com 2026a > key.pem
  waxseal key export example.com 2026a --public`,
		Args: cobra.ExactArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			domain, k, err := a.findKey(c.Context(), args)
			if err != nil {
				return err
			}
			var text []byte
			if public {
				key, err := keystore.ParsePublic(k.Algorithm, k.Public)
				if err != nil {
					return err
				}
				der, err := x509.MarshalPKIXPublicKey(key)
				if err != nil {
					return err
				}
				text = pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
			} else {
				if k.Load == nil {
					return fmt.Errorf("key %s of %s is %s, its private half is gone", k.Selector, domain, k.State)
				}
				private, err := k.Load(c.Context())
				if err != nil {
					return err
				}
				if text, err = keystore.MarshalPrivateKey(private); err != nil {
					return err
				}
			}
			_, err = a.stdout.Write(text)
			return err
		},
		ValidArgsFunction: a.completeKeys,
	}
	a.storeFlags(c)
	c.Flags().BoolVar(&public, "public", false, "print the public half")
	return c
}

// keyRow is a key as it is listed and printed as JSON.
type keyRow struct {
	Domain    string             `json:"domain"`
	Selector  string             `json:"selector"`
	Algorithm keystore.Algorithm `json:"algorithm"`
	State     keystore.State     `json:"state"`
	Created   *time.Time         `json:"created,omitempty"`
	Activated *time.Time         `json:"activated,omitempty"`
	Retired   *time.Time         `json:"retired,omitempty"`
	Revoked   *time.Time         `json:"revoked,omitempty"`
	Removed   *time.Time         `json:"removed,omitempty"`
	Note      string             `json:"note,omitempty"`
	Reason    string             `json:"reason,omitempty"`
	Name      string             `json:"name"`
	Record    string             `json:"record,omitempty"`
}

func newKeyRow(domain string, k *keystore.Key) keyRow {
	at := timeOrNone
	r := keyRow{
		Domain: domain, Selector: k.Selector, Algorithm: k.Algorithm, State: k.State,
		Created: at(k.Created), Activated: at(k.Activated), Retired: at(k.Retired), Revoked: at(k.Revoked), Removed: at(k.Removed),
		Note: k.Note, Reason: k.Reason, Name: dns.Name(k.Selector, domain),
	}
	if k.State != keystore.Removed {
		if record, err := dns.NewRecord(k, dns.RecordOptions{}); err == nil {
			r.Record = record.String()
		}
	}
	return r
}

// since is when the key came into its present state.
func (r keyRow) since() time.Time {
	for _, t := range []*time.Time{r.Removed, r.Revoked, r.Retired, r.Activated, r.Created} {
		if t != nil {
			return *t
		}
	}
	return time.Time{}
}

// readFile reads a file, or standard input for "-".
func readFile(name string, stdin io.Reader) ([]byte, error) {
	const most = 1 << 20
	from := stdin
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		from = f
	}
	text, err := io.ReadAll(io.LimitReader(from, most+1))
	if err == nil && len(text) > most {
		err = fmt.Errorf("%s: over %d bytes, which no key file has", name, most)
	}
	return text, err
}
