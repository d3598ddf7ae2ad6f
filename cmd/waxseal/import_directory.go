package main

// Keys that lie in a directory, as control panels and guides have them.

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"waxseal/keystore"
	"waxseal/milter/policy"
)

// keyLayout is where a program keeps keys, below the directory that is usual.
type keyLayout struct {
	usual    string
	patterns []string
	selector string // of all keys, where paths have none
}

var keyLayouts = map[string]keyLayout{
	"cpanel":            {"/var/cpanel/domain_keys/private", []string{"{domain}"}, "default"},
	"docker-mailserver": {"docker-data/dms/config", []string{"opendkim/keys/{domain}/{selector}.private", "rspamd/dkim/rsa-*-{selector}-{domain}.private.txt", "rspamd/dkim/ed25519-{selector}-{domain}.private.txt"}, ""},
	"exim":              {"/etc/exim4/dkim", []string{"{domain}.key", "{domain}.pem"}, ""},
	"hestia":            {"/home", []string{"*/conf/mail/{domain}/dkim.pem"}, "mail"},
	"opendkim":          {"/etc/opendkim/keys", []string{"{domain}/{selector}.private"}, ""},
	"plesk":             {"/etc/domainkeys", []string{"{domain}/default"}, "default"},
	"rspamd":            {"/var/lib/rspamd/dkim", []string{"{domain}.{selector}.key"}, ""},
}

func (a *app) importDirectoryCommand() *cobra.Command {
	var f importFlags
	var pattern, selector string
	table := ""
	for _, name := range sortedKeys(keyLayouts) {
		l := keyLayouts[name]
		table += fmt.Sprintf("  %-18s %s", name, strings.Join(l.patterns, "\n"+strings.Repeat(" ", 21)))
		if l.selector != "" {
			table += ", selector " + l.selector
		}
		table += "\n" + strings.Repeat(" ", 21) + "usually in " + l.usual + "\n"
	}
	c := &cobra.Command{
		Use:   "directory DIR",
		Short: "Take over keys that lie in a directory, as control panels have them",
		Long: `Put the keys below a directory into the keystore, active. Domains and selectors
are read from the paths, so DNS needs no change. Nothing in the directory is
changed.

--pattern is the path below DIR: {domain} and {selector} stand for themselves,
and * for anything up to the next character of the pattern, within one name. A
pattern without {selector} takes --selector. These names stand for the patterns
of programs:

` + table + `
A directory does not tell which of several keys of a kind signs for a domain:
such keys are "open", and --drop says which ones to go on without. Nor does it
tell whose mail is signed: the configuration that is written has waxseal's
defaults.`,
		Example: `  waxseal import directory /var/cpanel/domain_keys/private --pattern cpanel --dry-run
  waxseal import directory /etc/exim4/dkim --pattern exim --selector 2024 --dry-run
  waxseal import directory /srv/keys --pattern "{domain}/dkim-{selector}.pem" --keystore /var/lib/waxseal/keys --output /etc/waxseal/waxseal.toml`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			layout, err := newLayout(pattern, selector)
			if err != nil {
				return misused(err)
			}
			t := a.newTakeover("the key directory", args[0], f.drop)
			if err := t.directory(args[0], layout); err != nil {
				return err
			}
			return a.takeOver(c.Context(), &t, f, func(config *decoded) (*comparison, error) { return t.compare(config, nil) })
		},
	}
	a.importFlags(c, &f)
	c.Flags().StringVar(&pattern, "pattern", "", "the `path` of a key below DIR, or one of "+strings.Join(sortedKeys(keyLayouts), ", "))
	c.Flags().StringVar(&selector, "selector", "", "the `selector` of all keys")
	_ = c.MarkFlagRequired("pattern")
	_ = c.RegisterFlagCompletionFunc("pattern", cobra.FixedCompletions(sortedKeys(keyLayouts), cobra.ShellCompDirectiveNoFileComp))
	return c
}

// newLayout reads --pattern and --selector.
func newLayout(pattern, selector string) (keyLayout, error) {
	l, ok := keyLayouts[pattern]
	if !ok {
		l = keyLayout{patterns: []string{pattern}}
	}
	if selector != "" {
		l.selector = strings.ToLower(selector)
		if err := keystore.ValidSelector(l.selector); err != nil {
			return l, err
		}
	}
	for _, p := range l.patterns {
		switch {
		case !strings.Contains(p, "{domain}"):
			return l, fmt.Errorf("--pattern %q has no {domain}; want a path such as {domain}/{selector}.private, or one of %s", p, strings.Join(sortedKeys(keyLayouts), ", "))
		case !filepath.IsLocal(p):
			return l, fmt.Errorf("--pattern %q: want a path below the directory", p)
		case l.selector == "" && !strings.Contains(p, "{selector}"):
			return l, fmt.Errorf("the pattern %s has no {selector}, so --selector has to name it", p)
		}
	}
	return l, nil
}

// directory takes the keys below a directory.
func (t *takeover) directory(dir string, l keyLayout) error {
	if _, err := os.ReadDir(dir); err != nil {
		return err
	}
	type kind struct{ domain, algorithm string }
	found := map[kind][]*importedKey{}
	var order []kind
	files := 0
	for _, pattern := range l.patterns {
		paths, err := walkPattern(dir, pattern)
		if err != nil {
			return err
		}
		for _, path := range paths {
			below, err := filepath.Rel(dir, path)
			if err != nil {
				return err
			}
			names := matchPath(pattern, filepath.ToSlash(below), l.selector)
			if len(names) == 0 {
				continue
			}
			files++
			if len(names) > 1 {
				t.open(path, "", fmt.Sprintf("this may be selector %s of %s or %s of %s", names[0].selector, names[0].domain, names[1].selector, names[1].domain), "name the selector with --selector")
				continue
			}
			k, err := t.readKeyFile(path)
			if err != nil {
				t.open(path, "", err.Error(), "correct or remove the file")
				continue
			}
			k.Domain, k.Selector = names[0].domain, names[0].selector
			of := kind{k.Domain, strings.TrimRight(string(k.Algorithm), "0123456789")}
			if found[of] == nil {
				order = append(order, of)
			}
			found[of] = append(found[of], &k)
		}
	}
	if files == 0 {
		return withHint(fmt.Errorf("%s: no file there has a path like %s", dir, strings.Join(l.patterns, " or ")), "correct the directory or --pattern")
	}
	for _, of := range order {
		t.one(found[of])
	}
	t.add(lineDefault, dir, "", "keys do not tell whose mail is signed, so waxseal's own rules stand: logins, this machine, loopback", "see the tables origin and permission of the configuration")
	return nil
}

// one takes the one key of a kind that signs for a domain.
func (t *takeover) one(keys []*importedKey) {
	if len(keys) > 1 {
		keys = slices.DeleteFunc(keys, func(k *importedKey) bool {
			const why = "the domain has several keys of this kind, and the directory does not tell which one signs"
			dropped := t.dropped(k.From)
			if dropped {
				t.open(k.From, k.Selector+" of "+k.Domain, why, "")
			}
			return dropped
		})
	}
	if len(keys) > 1 {
		for _, k := range keys {
			t.open(k.From, k.Selector+" of "+k.Domain, "the domain has several keys of this kind, and the directory does not tell which one signs", "leave out all but one: --drop "+k.From)
		}
		return
	}
	for _, k := range keys {
		if err := t.addKey(k); err != nil {
			t.open(k.From, "", err.Error(), "leave one of them out")
			continue
		}
		t.add(lineTaken, k.From, k.Selector+" of "+k.Domain, "key", "")
	}
}

// keyName is a domain and a selector.
type keyName struct{ domain, selector string }

// walkPattern returns the files below a directory that may match a pattern. It
// looks into those directories only that the pattern leads to.
func walkPattern(dir, pattern string) ([]string, error) {
	paths := []string{dir}
	parts := strings.Split(pattern, "/")
	for i, part := range parts {
		last := i == len(parts)-1
		var next []string
		for _, d := range paths {
			entries, err := os.ReadDir(d)
			if err != nil {
				return nil, err
			}
			for _, e := range entries {
				path := filepath.Join(d, e.Name())
				info, err := os.Stat(path) // through links, which panels use
				if err == nil && (last && info.Mode().IsRegular() || !last && info.IsDir()) && len(matchParts(part, e.Name(), nil)) > 0 {
					next = append(next, path)
				}
			}
		}
		paths = next
	}
	return paths, nil
}

// matchPath returns the domains and selectors that a path has by a pattern. A
// selector with a dot is none here, and a domain has one, so that most paths
// have one reading.
func matchPath(pattern, path, selector string) []keyName {
	var names []keyName
	for _, values := range matchParts(pattern, path, nil) {
		n := keyName{selector: selector}
		sound := true
		for _, v := range values {
			text := strings.ToLower(v.text)
			at := &n.domain
			if v.name == "{selector}" {
				at = &n.selector
			}
			sound = sound && (*at == "" || *at == text)
			*at = text
		}
		d, err := policy.Domain(n.domain)
		if !sound || err != nil || d != n.domain || strings.Contains(n.selector, ".") && n.selector != selector || keystore.ValidSelector(n.selector) != nil {
			continue
		}
		if !slices.Contains(names, n) {
			names = append(names, n)
		}
	}
	return names
}

// patternValue is what stands in a path for a name of the pattern.
type patternValue struct{ name, text string }

// matchParts returns all ways in which a text matches a pattern.
func matchParts(pattern, text string, before []patternValue) [][]patternValue {
	if pattern == "" {
		if text == "" {
			return [][]patternValue{slices.Clone(before)}
		}
		return nil
	}
	if rest, ok := strings.CutPrefix(pattern, "*"); ok {
		end := strings.IndexByte(text, '/')
		if rest != "" && rest[0] != '{' && rest[0] != '*' {
			end = strings.IndexByte(text, rest[0])
		}
		if end < 0 {
			if end = len(text); strings.Contains(text, "/") {
				return nil
			}
		}
		if strings.Contains(text[:end], "/") {
			return nil
		}
		return matchParts(rest, text[end:], before)
	}
	for _, name := range []string{"{domain}", "{selector}"} {
		rest, ok := strings.CutPrefix(pattern, name)
		if !ok {
			continue
		}
		const longest = 253 // of a domain name
		var all [][]patternValue
		for end := 1; end <= min(len(text), longest) && text[end-1] != '/'; end++ {
			all = append(all, matchParts(rest, text[end:], append(slices.Clip(before), patternValue{name, text[:end]}))...)
		}
		return all
	}
	if text == "" || pattern[0] != text[0] {
		return nil
	}
	return matchParts(pattern[1:], text[1:], before)
}
