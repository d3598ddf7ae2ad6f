package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"waxseal/keystore"
	"waxseal/milter/policy"
	"waxseal/signer/libcrypto"
)

// finding is one problem as check prints it.
type finding struct {
	Severity string `json:"severity"` // error or warning
	File     string `json:"file,omitempty"`
	Line     int    `json:"line,omitempty"`
	Problem  string `json:"problem"`
	Remedy   string `json:"remedy,omitempty"`
}

func (a *app) checkCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "check",
		Short: "Find everything that is wrong with configuration and keystore",
		Long: `Read the configuration and every key of the keystore, and print all problems
with their place and remedy. The exit status is 1 when there is an error;
warnings alone do not count. At the end stands what the daemon will be left
with when it has confined itself ([confine]).`,
		Example: `  waxseal check
  waxseal check --config waxseal.toml --keystore ./keys`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			r := a.check(c.Context())
			failed := false
			for _, f := range r.Findings {
				failed = failed || f.Severity == "error"
			}
			if a.json {
				if err := a.printJSON(r); err != nil {
					return err
				}
			} else {
				a.printReport(r)
			}
			if failed {
				return errFindings
			}
			return nil
		},
	}
	a.storeFlags(c)
	a.jsonFlag(c)
	return c
}

func (a *app) printReport(r *report) {
	for _, f := range r.Findings {
		fmt.Fprintf(a.stdout, "%s: %s\n", f.Severity, f.Problem)
		if f.Remedy != "" {
			fmt.Fprintf(a.stdout, "  remedy: %s\n", f.Remedy)
		}
	}
	if len(r.Findings) == 0 {
		fmt.Fprintf(a.stdout, "ok: the configuration, and the keys of all domains: %d\n", r.Domains)
	}
	if r.RSA != "" {
		fmt.Fprintln(a.stdout, r.RSA)
	}
	if r.Confinement != nil {
		r.Confinement.print(a.stdout)
	}
}

// report is all that check has found.
type report struct {
	Findings []finding `json:"findings"`
	Domains  int       `json:"domains"`       // looked at
	RSA      string    `json:"rsa,omitempty"` // what makes RSA signatures, and how fast

	Confinement *confinementReport `json:"confinement,omitempty"`
}

// add adds a finding, once: a directory that is open to others is found by the
// check of every key in it.
func (r *report) add(f finding) {
	if !slices.Contains(r.Findings, f) {
		r.Findings = append(r.Findings, f)
	}
}

// check finds all problems.
func (a *app) check(ctx context.Context) *report {
	r := &report{}
	r.Findings = []finding{}
	add := func(severity string, err error) {
		var many problems
		if !errors.As(err, &many) {
			r.add(newFinding(severity, err))
			return
		}
		for _, p := range many {
			r.add(newFinding(severity, p))
		}
	}
	config, err := a.loadConfig()
	if err != nil {
		add("error", err)
		if config == nil { // not even TOML
			return r
		}
	}
	if _, err := buildSettings(config); err != nil {
		add("error", err)
	}
	if err := checkListeners(config); err != nil {
		add("error", err)
	}
	if w := warnings(config); len(w) > 0 {
		add("warning", w)
	}
	r.Confinement = reportConfinement(config)
	if r.Confinement.ABI == 0 && config.Confine.Landlock == landlockRequire {
		add("error", config.problem("confine.landlock", errors.New(r.Confinement.Why), `"auto" does without where it must`))
	}

	engine, err := libcrypto.NewEngine(libcrypto.EngineOptions{Mode: libcrypto.Mode(config.Signing.RSA)})
	if err != nil {
		add("error", config.problem("signing.rsa", err, `use "auto", which takes Go's library where there is no other`))
	} else {
		r.RSA = engine.Describe()
	}

	store, err := a.opening(openStore(config, a.warn))
	if err != nil {
		add("error", err)
		return r
	}
	checkDomain := func(domain string) []error { return keystore.CheckKeys(ctx, store, domain) }
	switch s := store.(type) {
	case *keystore.Dir:
		for _, err := range s.CheckRoot(ctx) {
			add("error", err)
		}
		checkDomain = func(domain string) []error { return s.Check(ctx, domain) }
	case keystore.Reporter:
		status, err := s.Status(ctx)
		if err := schemaProblem(status, err, a.flags()); err != nil {
			add("error", config.problem("keystore.url", err, ""))
			return r
		}
	}
	if s, ok := store.(keystore.SenderStore); ok && s.KnowsSenders() {
		if _, err := s.Sender(ctx, "probe@waxseal-probe.invalid"); err != nil { // whatever the answer is
			add("error", config.problem("keystore.sender_query", err, ""))
		}
	}
	failed, err := a.eachDomainOrAll(ctx, store, nil, func(domain string) error {
		errs := checkDomain(domain)
		if len(errs) == 1 && errors.Is(errs[0], keystore.ErrNotFound) {
			return errs[0]
		}
		r.Domains++
		for _, err := range errs {
			add("error", err)
		}
		for _, w := range keyWarnings(ctx, store, domain, a.flags()) {
			add("warning", w)
		}
		for _, w := range r.Confinement.linkWarnings(config, domain) {
			add("warning", w)
		}
		return nil
	})
	if err == nil {
		err = failed
		for _, w := range rowWarnings(ctx, store, config, a.flags()) {
			add("warning", w)
		}
	}
	if err != nil {
		add("error", config.problem("keystore.url", err, ""))
	}
	if r.Domains == 0 && err == nil {
		remedy := fmt.Sprintf("make a key with \"waxseal key new DOMAIN%s\"", a.flags())
		if readOnly(store) {
			remedy = "correct keystore.url, or make a key by the program whose keys these are"
		}
		add("warning", config.problem("keystore.url", errors.New("no domains, so nothing will be signed"), remedy))
	}
	return r
}

func newFinding(severity string, err error) finding {
	f := finding{Severity: severity, Problem: err.Error()}
	var p *problem
	if errors.As(err, &p) {
		f.File, f.Line = p.file, p.line
	}
	var hint interface{ Hint() string }
	if errors.As(err, &hint) {
		f.Remedy = hint.Hint()
	}
	var file *keystore.FileError
	var permission *keystore.PermissionError
	switch {
	case errors.As(err, &file):
		f.File, f.Line, f.Remedy = file.Path, file.Line, file.Repair
		f.Problem = strings.Replace(f.Problem, "; "+file.Repair, "", 1)
	case errors.As(err, &permission):
		f.File, f.Remedy = permission.Path, "run: "+permission.Repair
		f.Problem = strings.Replace(f.Problem, "; run: "+permission.Repair, "", 1)
	}
	return f
}

// rowWarnings are doubts about rows that name a domain or selectors which the
// keystore does not have.
func rowWarnings(ctx context.Context, store keystore.Store, config *decoded, flags string) []error {
	var found []error
	for _, name := range sortedKeys(config.Row) {
		row := config.Row[name]
		if !row.Enabled {
			continue
		}
		// What the row signs as, where that does not depend on the message.
		key, domain := "sign_as", row.SignAs
		if domain == "" && row.Address != "" {
			key, domain = "address", row.Address[strings.LastIndexByte(row.Address, '@')+1:]
		}
		if domain == "" && row.Domain != "*" {
			key, domain = "domain", row.Domain
		}
		domain, err := policy.Domain(domain)
		if err != nil {
			continue
		}
		d, err := store.Domain(ctx, domain)
		switch {
		case errors.Is(err, keystore.ErrNotFound):
			found = append(found, config.problem("row."+name+"."+key, fmt.Errorf("the keystore has no domain %s, so nothing signs such mail", domain),
				fmt.Sprintf("make a key: waxseal key new %s%s", domain, flags)))
		case err != nil, d.Whole() != nil: // which has been told
		case len(row.Selectors) > 0 && !slices.ContainsFunc(row.Selectors, func(s string) bool {
			k := d.Key(strings.ToLower(s))
			return k != nil && k.State == keystore.Active
		}):
			found = append(found, config.problem("row."+name+".selectors",
				fmt.Errorf("%s has no active key %s, so nothing signs such mail", domain, strings.Join(row.Selectors, " or ")),
				fmt.Sprintf("make it: waxseal key new %s --selector %s%s; or activate it", domain, row.Selectors[0], flags)))
		}
	}
	return found
}

// keyWarnings are doubts about keys that work.
func keyWarnings(ctx context.Context, store keystore.Store, domain, flags string) []error {
	d, err := store.Domain(ctx, domain)
	if err != nil {
		return nil // Check has told it
	}
	var found []error
	active, rsa, gone := 0, false, true
	for i := range d.Keys {
		k := &d.Keys[i]
		gone = gone && k.State == keystore.Removed
		switch k.State {
		case keystore.Active:
			active++
			rsa = rsa || k.Algorithm != keystore.Ed25519
		case keystore.Pending:
		default:
			continue
		}
		public, err := keystore.ParsePublic(k.Algorithm, k.Public)
		if err != nil {
			continue
		}
		for _, w := range keystore.Warnings(public) {
			found = append(found, fmt.Errorf("key %s of %s: %s", k.Selector, domain, w))
		}
	}
	switch {
	case d.Whole() != nil: // it may have keys that Check has told of
	case gone: // the domain is only remembered for its selectors
	case active == 0:
		found = append(found, withHint(fmt.Errorf("%s has no active key, so its mail leaves unsigned", domain), "activate one; \"waxseal key list %s%s\" has them all", domain, flags))
	case !rsa:
		found = append(found, withHint(fmt.Errorf("%s signs with Ed25519 alone, which many receivers do not know", domain), "add an RSA key: waxseal key new %s%s", domain, flags))
	}
	return found
}
