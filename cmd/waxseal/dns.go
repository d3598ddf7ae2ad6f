package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"waxseal/keystore"
	"waxseal/keystore/dns"
	"waxseal/milter/policy"
)

func (a *app) dnsCommand() *cobra.Command {
	return group("dns", "Show, publish and check the DNS records of keys",
		a.dnsShowCommand(),
		a.dnsPublishCommand(),
		a.dnsCheckCommand(),
	)
}

func (a *app) dnsShowCommand() *cobra.Command {
	var format string
	var o dns.RecordOptions
	c := &cobra.Command{
		Use:   "show DOMAIN [SELECTOR] | show DOMAIN...",
		Short: "Print the records that must be in DNS",
		Long: `Print the DNS records that the keys of a domain need: of all keys that are
pending, active or retired, and the empty one of a revoked key. With - the domains
are read from standard input, one a line.

Formats: zone (a zone file, strings of at most 255 octets), line (name and value,
for web forms), strings (the value as quoted strings on one line), tsv
(name<TAB>value, as "waxseal verify --keys" reads it) and json.`,
		Example: `  waxseal dns show example.com
  waxseal dns show example.com 2026a --format line
  waxseal dns show example.com --testing`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if a.json {
				format = "json"
			}
			if !slices.Contains(dns.Formats, format) {
				return misused(fmt.Errorf("--format %q, want one of %s", format, strings.Join(dns.Formats, ", ")))
			}
			if _, err := dns.NewRecord(&keystore.Key{State: keystore.Pending, Algorithm: keystore.Ed25519, Public: make([]byte, 32)}, o); err != nil {
				return misused(err) // the options are wrong for any key
			}
			store, err := a.loadStore()
			if err != nil {
				return err
			}
			selector := ""
			if len(args) == 2 && args[1] != "-" && !a.isDomain(c.Context(), store, args[1]) {
				selector, args = strings.ToLower(args[1]), args[:1]
			}
			entries := []dns.Entry{}
			failed, err := a.eachDomain(args, func(domain string) error {
				d, err := a.domain(c.Context(), store, domain)
				if err != nil {
					return err
				}
				found, err := a.domainEntries(d, selector, o)
				entries = append(entries, found...)
				if err == nil {
					err = d.Whole()
				}
				return err
			})
			if err != nil {
				return err
			}
			if len(entries) > 0 || a.json {
				if err := dns.Write(a.stdout, format, entries); err != nil {
					return err
				}
			}
			return failed
		},
		ValidArgsFunction: a.completeKeys,
	}
	a.storeFlags(c)
	a.jsonFlag(c)
	c.Flags().StringVar(&format, "format", dns.Formats[0], strings.Join(dns.Formats, ", "))
	c.Flags().BoolVar(&o.Testing, "testing", false, "add t=y: receivers may treat the mail as unsigned")
	c.Flags().BoolVar(&o.StrictIdentity, "strict-identity", false, "add t=s: i= must not be of a subdomain")
	c.Flags().StringSliceVar(&o.Service, "service", nil, "add s= with this service `type`: email")
	c.Flags().StringSliceVar(&o.Hash, "hash", nil, "add h= with this `hash`: sha256")
	c.Flags().StringVar(&o.Note, "note", "", "add n= with this `text`, which all the world can read")
	c.Flags().StringVar(&o.Granularity, "granularity", "", "")
	_ = c.Flags().MarkHidden("granularity") // only to say why there is none
	_ = c.RegisterFlagCompletionFunc("format", cobra.FixedCompletions(dns.Formats, cobra.ShellCompDirectiveNoFileComp))
	return c
}

// isDomain tells DOMAIN DOMAIN from DOMAIN SELECTOR: a name that the keystore
// has as a domain is one.
func (a *app) isDomain(ctx context.Context, store keystore.Store, name string) bool {
	domain, err := policy.Domain(name)
	if err != nil {
		return false
	}
	_, err = store.Domain(ctx, domain)
	return err == nil
}

// domainEntries returns the records of a domain's keys, or of one of them.
func (a *app) domainEntries(d *keystore.Domain, selector string, o dns.RecordOptions) ([]dns.Entry, error) {
	var entries []dns.Entry
	for i := range d.Keys {
		k := &d.Keys[i]
		if selector != "" && k.Selector != selector || selector == "" && k.State == keystore.Removed {
			continue
		}
		if k.State == keystore.Removed {
			return nil, fmt.Errorf("key %s of %s is removed and needs no record", k.Selector, d.Name)
		}
		record, err := dns.NewRecord(k, o)
		if err != nil {
			return nil, err
		}
		target, _ := d.Slot(k.Selector)
		entries = append(entries, dns.Entry{Domain: d.Name, Key: k, Record: record, Target: target})
	}
	switch {
	case len(entries) == 0 && selector != "":
		return nil, withHint(fmt.Errorf("%s has no key %s, and no such domain is in the keystore", d.Name, selector), "list its keys with \"waxseal key list %s%s\"", d.Name, a.flags())
	case len(entries) == 0:
		return nil, a.noRecordNeeded(d.Name)
	}
	return entries, nil
}

func (a *app) noRecordNeeded(domain string) error {
	return withHint(fmt.Errorf("%s has no key that needs a record", domain), "make one with \"waxseal key new %s%s\"", domain, a.flags())
}
