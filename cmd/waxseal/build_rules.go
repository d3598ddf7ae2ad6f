package main

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"waxseal/milter"
	"waxseal/milter/policy"
	"waxseal/signer"
)

// This file turns the rules of the configuration, which are tables with names,
// into those of package policy, which are lists.

// ruleNames are the names of the tables whose order policy's lists have.
type ruleNames struct{ rows, grants []string }

// buildRules makes the rules, and what each row of the table changes.
func buildRules(d *decoded) (*policy.Rules, []milter.Row, problems) {
	var found problems
	names := ruleNames{rows: sortedKeys(d.Row), grants: sortedKeys(d.Permission.Grant)}
	o := policy.Options{
		Origin:       originOptions(d.Origin),
		AuthorFields: d.Signing.AuthorFields,
		Permission: policy.PermissionOptions{
			Off:          !d.Permission.Check,
			NoOwnDomain:  !d.Permission.OwnDomain,
			LoginDomains: d.Permission.LoginDomains,
		},
	}
	if o.Permission.LoginDomains == nil {
		o.Permission.LoginDomains = []string{}
	}
	if slices.Equal(o.Permission.LoginDomains, []string{ownLoginDomains}) {
		o.Permission.LoginDomains = nil
	}
	for _, name := range sortedKeys(d.Listen) {
		if own := d.Listen[name].Origin; own != nil {
			if o.Listeners == nil {
				o.Listeners = map[string]policy.OriginOptions{}
			}
			o.Listeners[name] = originOptions(*own)
		}
	}
	for _, name := range names.grants {
		g := d.Permission.Grant[name]
		o.Permission.Grants = append(o.Permission.Grants, policy.Grant{
			Name: name, Login: g.Login, Network: g.Network, Certificate: policy.Certificate{Subject: g.Certificate, Issuer: g.CertificateIssuer},
			Domains: g.Domains, Subdomains: g.Subdomains, Addresses: g.Addresses, AnyDomain: g.AnyDomain,
		})
	}
	var rows []milter.Row
	for _, name := range names.rows {
		c := d.Row[name]
		var selectors []string // none in the file means all
		if len(c.Selectors) > 0 {
			selectors = c.Selectors
		}
		o.Table = append(o.Table, policy.Row{
			Name: name, Login: c.Login, Address: c.Address, Domain: c.Domain, Subdomains: c.Subdomains,
			SignAs: c.SignAs, Always: c.Always, Selectors: selectors, Identity: c.Identity,
			Disabled: !c.Enabled, Reason: c.Reason,
			Overrides: policy.Overrides{Expiry: time.Duration(c.Expiry), NoExpiry: c.NeverExpires},
		})
		row, bad := buildRow(d, "row."+name, c)
		rows = append(rows, row)
		found = append(found, bad...)
	}
	rules, err := policy.New(o)
	for _, each := range optionErrors(err) {
		found = append(found, names.problem(d, each))
	}
	if rules != nil {
		return rules, rows, found
	}
	return nil, nil, found
}

// buildRow makes what a row has in place of the general settings.
func buildRow(d *decoded, key string, c RowConfig) (milter.Row, problems) {
	var row milter.Row
	var found problems
	check := func(setting string, err error) {
		if err != nil {
			found = append(found, d.problem(key+"."+setting, err, ""))
		}
	}
	if c.Canonicalization != "" {
		header, body, err := signer.ParseCanonicalization(c.Canonicalization)
		check("canonicalization", err)
		row.Header, row.Body = &header, &body
	}
	if len(c.Fields)+len(c.Oversign) > 0 {
		signed, oversigned := d.Signing.Fields, d.Signing.Oversign
		if len(c.Fields) > 0 {
			signed = c.Fields
		}
		if len(c.Oversign) > 0 {
			oversigned = c.Oversign
		}
		var err error
		row.Fields, err = signer.NewFields(signed, oversigned)
		check("fields", err)
	}
	switch {
	case c.NeverExpires:
		row.Lifetime = new(time.Duration)
	case c.Expiry > 0:
		lifetime := time.Duration(c.Expiry)
		if lifetime > signer.MaxLifetime {
			check("expiry", fmt.Errorf("%s, want at most %s", c.Expiry, Duration(signer.MaxLifetime)))
		}
		row.Lifetime = &lifetime
	}
	if c.Outcome != nil {
		if c.Outcome.OverLimit != "" {
			check("outcome.over_limit", errors.New("has no effect in a row: a header over a limit is answered before it is known whose it is; set it in [outcome]"))
		}
		var bad problems
		row.Outcomes, bad = buildOutcomes(d, key+".outcome", *c.Outcome)
		found = append(found, bad...)
	}
	if c.Strict {
		row.Outcomes = milter.Strict()
	}
	return row, found
}

// buildOutcomes makes the outcomes of an [outcome] table. Settings that are
// empty are left to the general ones.
func buildOutcomes(d *decoded, key string, c OutcomeConfig) (milter.Outcomes, problems) {
	var found problems
	outcomes := milter.Outcomes{}
	for _, o := range []struct {
		key    string
		cause  milter.Cause
		action milter.Action
	}{
		{"no_key", milter.NoKey, c.NoKey},
		{"key_unusable", milter.KeyUnusable, c.KeyUnusable},
		{"store_down", milter.StoreDown, c.StoreDown},
		{"denied", milter.Denied, c.Denied},
		{"not_signable", milter.NotSignable, c.NotSignable},
		{"over_limit", milter.OverLimit, c.OverLimit},
	} {
		if o.action == "" {
			continue
		}
		if err := (milter.Outcomes{o.cause: o.action}).Check(); err != nil {
			found = append(found, d.problem(key+"."+o.key, err, ""))
		}
		outcomes[o.cause] = o.action
	}
	if c.Strict {
		outcomes = milter.Strict()
	}
	return outcomes, found
}

func originOptions(o OriginConfig) policy.OriginOptions {
	options := policy.OriginOptions{
		SkipNetworks:   o.SkipNetworks,
		NoLogin:        !o.Login,
		Networks:       o.Networks,
		AllowInternet:  o.AllowInternet,
		NoLocal:        !o.Local,
		DaemonNames:    o.DaemonNames,
		AnyCertificate: o.AnyCertificate,
		All:            o.All,
	}
	// In a file, an empty list says none; nil would say the default.
	if options.Networks == nil {
		options.Networks = []string{}
	}
	if options.DaemonNames == nil {
		options.DaemonNames = []string{}
	}
	for _, subject := range o.Certificates {
		options.Certificates = append(options.Certificates, policy.Certificate{Subject: subject, Issuer: o.CertificateIssuer})
	}
	if len(o.Certificates) == 0 && o.CertificateIssuer != "" {
		options.Certificates = []policy.Certificate{{Issuer: o.CertificateIssuer}}
	}
	for _, text := range o.Macros {
		name, value, valued := strings.Cut(text, "=")
		m := policy.Macro{Name: name}
		if valued {
			m.Values = []string{value}
		}
		options.Macros = append(options.Macros, m)
	}
	return options
}

// optionErrors returns the single errors of policy.New.
func optionErrors(err error) []*policy.OptionError {
	if err == nil {
		return nil
	}
	var all []*policy.OptionError
	for _, each := range unjoin(err) {
		var o *policy.OptionError
		if !errors.As(each, &o) {
			o = &policy.OptionError{Err: each}
		}
		all = append(all, o)
	}
	return all
}

// problem turns an error of policy's options into one of the file's settings.
func (n ruleNames) problem(d *decoded, e *policy.OptionError) *problem {
	remedy := ""
	if strings.Contains(e.Err.Error(), "whole Internet") {
		remedy = "set allow_internet = true beside it if that is really meant"
	}
	key, rest, _ := strings.Cut(e.Option, "[")
	index, after, _ := strings.Cut(rest, "]")
	number, _ := strconv.Atoi(index)
	switch {
	case key == "Table" && number < len(n.rows):
		key = "row." + n.rows[number]
	case key == "Permission.Grants" && number < len(n.grants):
		key = "permission.grant." + n.grants[number]
	case key == "Listeners" && index != "":
		key = "listen." + index + ".origin" + snake(after)
	case key == "AuthorFields":
		key = "signing.author_fields"
	case key == "Permission.Off":
		key = "permission.check"
	default:
		key = strings.TrimPrefix(snake("."+key), ".")
	}
	return d.problem(key, e.Err, remedy)
}

// snake turns .Origin.DaemonNames into .origin.daemon_names.
func snake(s string) string {
	var b strings.Builder
	for i, c := range []byte(s) {
		if 'A' <= c && c <= 'Z' {
			if i > 0 && s[i-1] != '.' {
				b.WriteByte('_')
			}
			c |= 0x20
		}
		b.WriteByte(c)
	}
	return b.String()
}

// ruleWarnings are doubts about rules that are valid.
func ruleWarnings(d *decoded) problems {
	rules, _, _ := buildRules(d)
	if rules == nil {
		return nil
	}
	names := ruleNames{rows: sortedKeys(d.Row), grants: sortedKeys(d.Permission.Grant)}
	var found problems
	for _, w := range rules.Warnings() {
		for _, each := range optionErrors(w) {
			found = append(found, names.problem(d, each))
		}
	}
	return found
}
