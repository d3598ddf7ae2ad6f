package main

// The DOMAIN and SELECTOR arguments of commands: reading, finding and completing
// them.

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/user"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"waxseal/keystore"
	"waxseal/keystore/keeper"
	"waxseal/milter/policy"
)

// who is the person or service that runs this, for the history of keys.
func (a *app) who() string {
	name := "uid " + strconv.Itoa(os.Getuid())
	if sudo := os.Getenv("SUDO_USER"); sudo != "" {
		name = sudo + " (sudo)"
	} else if u, err := user.Current(); err == nil {
		name = u.Username
	}
	return name + "@" + hostname()
}

func hostname() string {
	name, err := os.Hostname()
	if err != nil {
		return "unknown"
	}
	return name
}

// findKey reads the key that the arguments DOMAIN SELECTOR name.
func (a *app) findKey(ctx context.Context, args []string) (string, *keystore.Key, error) {
	domain, selector, err := keyArguments(args)
	if err != nil {
		return "", nil, err
	}
	store, err := a.loadStore()
	if err != nil {
		return "", nil, err
	}
	d, err := a.domain(ctx, store, domain)
	if err != nil {
		return "", nil, err
	}
	k := d.Key(selector)
	if k == nil && d.Whole() != nil {
		return "", nil, d.Whole()
	}
	if k == nil {
		return "", nil, a.noSuchKey(domain, selector)
	}
	return domain, k, nil
}

func (a *app) noSuchKey(domain, selector string) error {
	return withHint(fmt.Errorf("%s has no key %s", domain, selector), "list its keys with \"waxseal key list %s%s\"", domain, a.flags())
}

// domain reads a domain that has to be there.
func (a *app) domain(ctx context.Context, store keystore.Store, name string) (*keystore.Domain, error) {
	d, err := store.Domain(ctx, name)
	if errors.Is(err, keystore.ErrNotFound) {
		return nil, withHint(err, "list what is there with \"waxseal key list%s\", or make a key with \"waxseal key new %s%s\"", a.flags(), name, a.flags())
	}
	return d, err
}

// domainArgument reads DOMAIN.
func domainArgument(arg string) (string, error) {
	domain, err := policy.Domain(arg)
	return domain, misused(err)
}

// keyArguments reads DOMAIN SELECTOR.
func keyArguments(args []string) (domain, selector string, err error) {
	if domain, err = policy.Domain(args[0]); err != nil {
		return "", "", misused(err)
	}
	selector = strings.ToLower(args[1])
	return domain, selector, misused(keystore.ValidSelector(selector))
}

// eachDomain calls f for each domain of the arguments, where "-" is a list on
// standard input. Trouble with one does not stop the others: it is reported at
// once, and failed is errFindings.
func (a *app) eachDomain(args []string, f func(domain string) error) (failed, err error) {
	seen := map[string]bool{}
	one := func(name, where string) {
		domain, err := policy.Domain(name)
		if err == nil && !seen[domain] {
			seen[domain] = true
			err = f(domain)
		}
		if err != nil {
			if where != "" {
				err = fmt.Errorf("%s: %w", where, err)
			}
			a.report(err)
			failed = errFindings
		}
	}
	for _, arg := range args {
		if arg != "-" {
			one(arg, "")
			continue
		}
		lines := bufio.NewScanner(a.stdin)
		for number := 1; lines.Scan(); number++ {
			if line := strings.TrimSpace(lines.Text()); line != "" && line[0] != '#' {
				one(line, fmt.Sprintf("standard input, line %d", number))
			}
		}
		if err := lines.Err(); err != nil {
			return failed, fmt.Errorf("list of domains on standard input: %w", err)
		}
	}
	if len(seen) == 0 && failed == nil {
		return nil, errors.New("no domains on standard input")
	}
	return failed, nil
}

// eachDomainOrAll is eachDomain, or without arguments f for every domain of
// the store. One of these that turns out not to be there is passed over: it has
// been deleted since it was listed, or is in another product's list and has no key.
func (a *app) eachDomainOrAll(ctx context.Context, store keystore.Store, args []string, f func(domain string) error) (failed, err error) {
	if len(args) > 0 {
		return a.eachDomain(args, f)
	}
	const page = 1000
	for after := ""; ; {
		names, err := store.List(ctx, after, page)
		if err != nil {
			return failed, err
		}
		if len(names) == 0 {
			return failed, nil
		}
		for _, name := range names {
			if err := f(name); err != nil && !errors.Is(err, keystore.ErrNotFound) {
				a.report(err)
				failed = errFindings
			}
			after = name
		}
	}
}

// atATime is how many domains a command works on at once, where it waits for DNS.
const atATime = keeper.DefaultDomains

// inOrder does slow work for many domains, atATime of them at once. What is to be
// done with the results is done by the caller's goroutine, in the order in which
// the work was begun. Whoever begins work has to call finish.
type inOrder struct{ begun []chan func() }

// begin starts work in a goroutine. If there is enough of it, it first waits for
// the oldest, and calls what that returns.
func (q *inOrder) begin(work func() (finish func())) {
	if len(q.begun) == atATime {
		q.next()
	}
	c := make(chan func(), 1)
	go func() { c <- work() }()
	q.begun = append(q.begun, c)
}

func (q *inOrder) next() {
	finish := <-q.begun[0]
	q.begun = q.begun[1:]
	finish()
}

// finish waits for all work.
func (q *inOrder) finish() {
	for len(q.begun) > 0 {
		q.next()
	}
}

func (a *app) dryRunFlag(c *cobra.Command) {
	c.Flags().BoolVarP(&a.dryRun, "dry-run", "n", false, "say what would be done, and change nothing")
}

// completeDomains completes DOMAIN arguments from the keystore.
func (a *app) completeDomains(c *cobra.Command, args []string, toComplete string) ([]cobra.Completion, cobra.ShellCompDirective) {
	const most = 200
	var found []cobra.Completion
	if store, err := a.loadStore(); err == nil && len(args) == 0 {
		names, _ := store.List(c.Context(), toComplete, most)
		for _, name := range names {
			if strings.HasPrefix(name, toComplete) {
				found = append(found, name)
			}
		}
	}
	return found, cobra.ShellCompDirectiveNoFileComp
}

// completeEachDomain completes DOMAIN... from the keystore.
func (a *app) completeEachDomain(c *cobra.Command, args []string, toComplete string) ([]cobra.Completion, cobra.ShellCompDirective) {
	found, directive := a.completeDomains(c, nil, toComplete)
	return slices.DeleteFunc(found, func(name string) bool { return slices.Contains(args, name) }), directive
}

// completeEachKey completes DOMAIN SELECTOR... from the keystore.
func (a *app) completeEachKey(c *cobra.Command, args []string, toComplete string) ([]cobra.Completion, cobra.ShellCompDirective) {
	if len(args) < 1 {
		return a.completeDomains(c, args, toComplete)
	}
	found, directive := a.completeKeys(c, args[:1], toComplete)
	return slices.DeleteFunc(found, func(s string) bool {
		selector, _, _ := strings.Cut(s, "\t") // and a description
		return slices.Contains(args[1:], selector)
	}), directive
}

// completeKeys completes DOMAIN SELECTOR from the keystore.
func (a *app) completeKeys(c *cobra.Command, args []string, toComplete string) ([]cobra.Completion, cobra.ShellCompDirective) {
	if len(args) != 1 {
		return a.completeDomains(c, args, toComplete)
	}
	var found []cobra.Completion
	if store, err := a.loadStore(); err == nil {
		if d, err := store.Domain(c.Context(), args[0]); err == nil {
			for _, k := range d.Keys {
				found = append(found, cobra.CompletionWithDesc(k.Selector, string(k.State)))
			}
		}
	}
	return found, cobra.ShellCompDirectiveNoFileComp
}
