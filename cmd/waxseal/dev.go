package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"waxseal/keystore"
	"waxseal/keystore/dns"
	"waxseal/milter/policy"
)

// What serve --dev uses when flags do not say otherwise.
const (
	devKeystore = "./waxseal-dev"
	devAddress  = "inet:127.0.0.1:8891"
	devRecords  = "records.tsv" // in the keystore, for verify --keys
)

// prepareDev makes the keys of serve --dev, active at once, unless the domain
// has some, and prints all that is needed to try it.
func (a *app) prepareDev(ctx context.Context, config *decoded, name string) error {
	domain, err := policy.Domain(name)
	if err != nil {
		return misused(fmt.Errorf("--dev: %w", err))
	}
	store, err := a.opening(makeStore(ctx, config, a.warn, a.madeStore))
	if err != nil {
		return err
	}
	d, err := store.Domain(ctx, domain)
	if errors.Is(err, keystore.ErrNotFound) {
		d, err = &keystore.Domain{Name: domain}, nil
	}
	if err != nil {
		return err
	}
	active := false
	for _, k := range d.Keys {
		active = active || k.State == keystore.Active
	}
	if !active {
		for _, algorithm := range []keystore.Algorithm{keystore.RSA2048, keystore.Ed25519} {
			_, k, err := a.newKey(ctx, store, domain, newKeyWish{algorithm: algorithm})
			if err != nil {
				return err
			}
			if d, err = a.update(ctx, store, domain, func(d *keystore.Domain) error {
				return d.Activate(k.Selector, keystore.Warrant{Now: a.now(), By: a.who(), Force: true, Reason: "serve --dev"})
			}); err != nil {
				return err
			}
		}
	}
	entries, err := a.domainEntries(d, "", dns.RecordOptions{})
	if err != nil {
		return err
	}
	path, ok := keystoreDir(config.Keystore.URL)
	where := path
	if !ok {
		path, where = ".", config.Keystore.URL
	}
	var tsv bytes.Buffer
	if err := dns.Write(&tsv, "tsv", entries); err != nil {
		return err
	}
	records := filepath.Join(path, devRecords)
	if err := os.WriteFile(records, tsv.Bytes(), 0o644); err != nil {
		return err
	}

	var b strings.Builder
	fmt.Fprintf(&b, "; DNS records of %s, to be published before mail leaves for the world:\n", domain)
	if err := dns.Write(&b, "zone", entries); err != nil {
		return err
	}
	for _, listener := range sortedKeys(config.Listen) {
		address := config.Listen[listener].Address
		fmt.Fprintf(&b, "\n# Postfix, main.cf:\n")
		fmt.Fprintf(&b, "smtpd_milters = %s\nnon_smtpd_milters = %s\nmilter_default_action = tempfail\ninternal_mail_filter_classes = bounce\n", address.Postfix(), address.Postfix())
		fmt.Fprintf(&b, "\ndnl Sendmail, sendmail.mc:\n")
		fmt.Fprintf(&b, "INPUT_MAIL_FILTER(`waxseal', `S=%s, F=T, T=S:30s;R:30s;E:5m')\n", address.Sendmail())
	}
	program, signed := programName(), filepath.Join(path, "signed.eml")
	fmt.Fprintf(&b, "\n# Try it in another terminal:\n")
	fmt.Fprintf(&b, "printf 'From: me@%s\\nSubject: hello\\n\\nIt works.\\n' | %s sign --keystore %s | tee %s | %s verify --keys %s; cat %s\n",
		domain, program, where, signed, program, records, signed)
	_, err = a.stdout.Write([]byte(b.String()))
	return err
}

// programName is how the user can call this program again: with "go run" there
// is no binary that stays.
func programName() string {
	if strings.Contains(os.Args[0], "go-build") {
		return "go run ./cmd/waxseal"
	}
	return os.Args[0]
}
