package main

// The keystore as a whole: its tables, how it is, and copies of it.

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"waxseal/keystore"
	"waxseal/keystore/sqlstore"
)

// migrator is a store with tables.
type migrator interface {
	Schema(ctx context.Context) (int, error)
	Migration(from int) []string
	Migrate(ctx context.Context) (from, to int, err error)
}

func (a *app) storeCommand() *cobra.Command {
	return group("store", "Look after the keystore as a whole", a.storeStatusCommand(), a.storeMigrateCommand(), a.storeCopyCommand(), a.storeRewrapCommand())
}

func (a *app) storeMigrateCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "migrate",
		Short: "Make the tables of a keystore in a database, or bring them up to date",
		Long: `Make the tables of a keystore in a database, or bring them up to date. All their
names begin with waxseal_. Daemons may go on signing meanwhile; those of an older
version go on signing afterwards, too, but change no keys.

The database itself, and a user with the right to make tables in it, are made by
the database's own means. With --dry-run the statements are printed, for those who
let nobody else change a schema.`,
		Example: `  waxseal store migrate --keystore sqlite:/var/lib/waxseal/keys.db
  waxseal store migrate --keystore "postgres://waxseal@db1,db2/mail?password_file=/etc/waxseal/db" --dry-run`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			d, err := a.loadConfig()
			if err != nil {
				return err
			}
			if _, ok := keystoreDir(d.Keystore.URL); ok {
				return fmt.Errorf("keystore %s: a directory has no tables, and nothing is to be done", d.Keystore.URL)
			}
			if !a.dryRun {
				if _, err := sqlstore.CreateFile(d.Keystore.URL); err != nil {
					return err
				}
			}
			store, err := openStore(d, a.warn)
			if err != nil {
				return err
			}
			m, ok := store.(migrator)
			if !ok {
				return fmt.Errorf("keystore %s: its tables belong to another program", d.Keystore.URL)
			}
			if a.dryRun {
				from, err := m.Schema(c.Context())
				if err != nil {
					return err
				}
				for _, s := range m.Migration(from) {
					fmt.Fprintf(a.stdout, "%s;\n", s)
				}
				return nil
			}
			from, to, err := m.Migrate(c.Context())
			switch {
			case err != nil:
				return err
			case from == to:
				fmt.Fprintf(a.stdout, "the tables are of version %d already\n", to)
			default:
				fmt.Fprintf(a.stdout, "made the tables of version %d\n", to)
			}
			return nil
		},
	}
	a.storeFlags(c)
	a.dryRunFlag(c)
	return c
}

// storeReport is what "store status" says.
type storeReport struct {
	Keystore      string          `json:"keystore"`
	Kind          string          `json:"kind"`
	Reachable     bool            `json:"reachable"`
	Problem       string          `json:"problem,omitempty"`
	ConnectMillis float64         `json:"connect_ms"`
	LatencyMillis float64         `json:"latency_ms"`
	Schema        int             `json:"schema,omitempty"`
	SchemaWanted  int             `json:"schema_wanted,omitempty"`
	Domains       int64           `json:"domains"`
	LastChange    *time.Time      `json:"last_change,omitempty"`
	LastChanged   string          `json:"last_changed,omitempty"`
	Nodes         []keystore.Node `json:"nodes"`
}

func (a *app) storeStatusCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "status",
		Short: "Say how the keystore is",
		Long: `Say whether the keystore answers and how fast, whether its tables are those that
this waxseal knows, how many domains it has and what changed last; and, where many
machines share it, which daemons use it, since when each has missed no change, and
when it was last heard of. The exit status is 1 if keys cannot be read or changed.`,
		Example: `  waxseal store status
  waxseal store status --keystore sqlite:/var/lib/waxseal/keys.db --json`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			d, err := a.loadConfig()
			if err != nil {
				return err
			}
			store, err := openStore(d, a.warn)
			if err != nil {
				return err
			}
			status := dirStatus
			if r, ok := store.(keystore.Reporter); ok {
				status = func(ctx context.Context, _ keystore.Store) (keystore.StoreStatus, error) { return r.Status(ctx) }
			}
			s, err := status(c.Context(), store)
			r := storeReport{
				Keystore: d.Keystore.URL, Kind: s.Kind, Reachable: err == nil,
				ConnectMillis: millis(s.Connect), LatencyMillis: millis(s.Latency),
				Schema: s.Schema, SchemaWanted: s.SchemaWanted, Domains: s.Domains, LastChanged: s.LastChanged, Nodes: s.Nodes,
			}
			if !s.LastChange.IsZero() {
				r.LastChange = &s.LastChange
			}
			bad := schemaProblem(s, err)
			if bad != nil {
				r.Problem = bad.Error()
			}
			if a.json {
				if r.Nodes == nil {
					r.Nodes = []keystore.Node{}
				}
				if err := a.printJSON(r); err != nil {
					return err
				}
				if bad != nil {
					return errFindings
				}
				return nil
			}
			if err == nil {
				a.printStoreReport(r)
			}
			return bad
		},
	}
	a.storeFlags(c)
	a.jsonFlag(c)
	return c
}

func millis(d time.Duration) float64 {
	return float64(d.Round(10*time.Microsecond)) / float64(time.Millisecond)
}

// schemaProblem says why a store of that status cannot be used.
func schemaProblem(s keystore.StoreStatus, err error) error {
	switch {
	case err != nil:
		return err
	case s.Schema < s.SchemaWanted:
		return withHint(fmt.Errorf("its tables are of version %d, this waxseal needs %d", s.Schema, s.SchemaWanted), "run \"waxseal store migrate\"")
	case s.Schema > s.SchemaWanted:
		return withHint(fmt.Errorf("its tables are of version %d, this waxseal knows %d: it signs, but changes no keys", s.Schema, s.SchemaWanted), "install the newer waxseal here, too")
	}
	return nil
}

// dirStatus is the status of a store that has none of its own.
func dirStatus(ctx context.Context, store keystore.Store) (keystore.StoreStatus, error) {
	s := keystore.StoreStatus{Kind: "directory"}
	began := time.Now()
	_, err := store.List(ctx, "", 1)
	s.Latency = time.Since(began)
	s.Connect = s.Latency
	const page = 100_000
	for after := ""; err == nil; {
		var names []string
		if names, err = store.List(ctx, after, page); len(names) == 0 {
			break
		}
		s.Domains += int64(len(names))
		after = names[len(names)-1]
	}
	return s, err
}

// silentAfter is how long a node may say nothing.
const silentAfter = 3 * beatEvery

func (a *app) printStoreReport(r storeReport) {
	w := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "keystore\t%s\n", r.Keystore)
	fmt.Fprintf(w, "reachable\t%s, in %.2f ms; with connecting in %.2f ms\n", r.Kind, r.LatencyMillis, r.ConnectMillis)
	if r.SchemaWanted > 0 {
		fmt.Fprintf(w, "tables\tversion %d, known up to %d\n", r.Schema, r.SchemaWanted)
	}
	fmt.Fprintf(w, "domains\t%d\n", r.Domains)
	if r.LastChange != nil {
		fmt.Fprintf(w, "last change\t%s, %s\n", r.LastChange.Format(time.RFC3339), r.LastChanged)
	}
	for _, n := range r.Nodes {
		seen := "heard of " + n.Seen.Format(time.RFC3339)
		if silent := a.now().Sub(n.Seen); silent > silentAfter {
			seen = "silent for " + silent.Round(time.Second).String()
		}
		fmt.Fprintf(w, "node\t%s, %s, up to date as of %s, %s\n", n.Name, n.Program, n.Refreshed.Format(time.RFC3339), seen)
	}
	w.Flush()
}

// beatEvery is how often a daemon tells the store that it lives.
const beatEvery = 30 * time.Second

// beats tells the store, if it wants to know, that this daemon lives. That it
// cannot be told is no concern of anybody's: what matters of it is logged by
// those who need the store.
func beats(ctx context.Context, current *live, name string, now clock, log *slog.Logger) {
	store, ok := current.store.Store.(keystore.Beater)
	if !ok {
		return
	}
	n := keystore.Node{Name: name, Program: "waxseal " + version(), Started: now()}
	ticker := time.NewTicker(beatEvery)
	defer ticker.Stop()
	for {
		n.Refreshed = now().Add(-current.cache.Age())
		err := store.Beat(ctx, n)
		if errors.Is(err, keystore.ErrReadOnly) {
			return
		}
		if err != nil && ctx.Err() == nil {
			log.Debug("the keystore does not hear that this node lives", "err", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// nodeName is this daemon among others, the same after a restart.
func nodeName(config *decoded) string {
	name := hostname()
	for _, listener := range sortedKeys(config.Listen) {
		return name + "/" + config.Listen[listener].Address.String()
	}
	return name
}

func (a *app) storeCopyCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "copy FROM TO",
		Short: "Copy a keystore into another",
		Long: `Copy all domains with their keys, slots and history from one keystore into another.
What is written is read back, compared, and each key tested.

A copy that was broken off is begun again and goes on with what is missing; so is
one that should take over what has changed since. A domain that has changed in TO
is left alone and told: then the exit status is 1. Keys are changed by daemons and
commands that use either keystore, so stop them, or let them use FROM, until all
use TO. Keys in Vault's transit engine cannot be copied, nor any key into a
keystore that has its keys made there.`,
		Example: `  waxseal store copy /var/lib/waxseal/keys sqlite:/var/lib/waxseal/keys.db
  waxseal store copy /var/lib/waxseal/keys "postgres://waxseal@db1,db2/mail?password_file=/etc/waxseal/db" --dry-run`,
		Args: cobra.ExactArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			if args[0] == args[1] {
				return misused(errors.New("FROM and TO are the same keystore"))
			}
			d, err := a.loadConfig()
			if err != nil {
				return err
			}
			from, remedy, err := openStoreAt(d, args[0], a.warn)
			if err != nil {
				return withHint(fmt.Errorf("FROM: %w", err), "%s", remedy)
			}
			target := *d
			target.Keystore.URL = args[1]
			var to keystore.Store
			if a.dryRun {
				to, remedy, err = openStoreAt(&target, args[1], a.warn)
			} else {
				to, err = makeStore(c.Context(), &target, a.warn, a.madeStore)
			}
			if err != nil {
				return withHint(fmt.Errorf("TO: %w", err), "%s", remedy)
			}
			if makesKeys(to) {
				return fmt.Errorf("TO: %w", errNoImport)
			}
			return a.copyStore(c.Context(), from, to)
		},
	}
	a.configFlag(c)
	a.jsonFlag(c)
	a.dryRunFlag(c)
	return c
}

// copiers is how many domains are copied at a time.
const copiers = 8

// copied counts what became of domains.
type copied struct {
	Copied  int `json:"copied"`
	Same    int `json:"same"`
	Refused int `json:"refused"`
}

func (a *app) copyStore(ctx context.Context, from, to keystore.Store) error {
	names := make(chan string)
	var mu sync.Mutex // guards count and what is printed
	var count copied
	var running sync.WaitGroup
	for range copiers {
		running.Go(func() {
			for name := range names {
				wrote, err := copyDomain(ctx, from, to, name, a.dryRun)
				mu.Lock()
				switch {
				case errors.Is(err, errNotInSource):
				case err != nil:
					count.Refused++
					a.report(err)
				case wrote:
					count.Copied++
				default:
					count.Same++
				}
				mu.Unlock()
			}
		})
	}
	_, err := a.eachDomainOrAll(ctx, from, nil, func(domain string) error {
		select {
		case names <- domain:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	})
	close(names)
	running.Wait()
	if err != nil {
		return err
	}
	verb := "copied"
	if a.dryRun {
		verb = "to copy"
	}
	if a.json {
		err = a.printJSON(count)
	} else {
		_, err = fmt.Fprintf(a.stdout, "%s: %d, there already: %d, not copied: %d\n", verb, count.Copied, count.Same, count.Refused)
	}
	if err == nil && count.Refused > 0 {
		return errFindings
	}
	return err
}

// errNotInSource means that a domain was listed and is not there.
var errNotInSource = errors.New("not in the keystore to copy from")

// copyDomain makes a domain of one store that of another, unless it is so
// already, and tests the result.
func copyDomain(ctx context.Context, from, to keystore.Store, name string, dryRun bool) (wrote bool, err error) {
	source, err := from.Domain(ctx, name)
	if errors.Is(err, keystore.ErrNotFound) {
		return false, errNotInSource
	}
	if err == nil {
		err = source.Whole()
	}
	if err != nil {
		return false, err
	}
	there, err := to.Domain(ctx, name)
	switch {
	case errors.Is(err, keystore.ErrNotFound):
		there = &keystore.Domain{Name: name}
	case err != nil:
		return false, err
	}
	if err := there.Whole(); err != nil {
		return false, err
	}
	next := *source
	next.Version = there.Version
	wrote = there.Version == 0 || !sameDomain(there, source)
	switch {
	case !wrote:
	case dryRun:
		return true, exportable(ctx, source, there)
	default:
		err := to.Update(ctx, &next)
		if errors.Is(err, keystore.ErrRemote) {
			return false, err
		}
		if err != nil {
			return false, fmt.Errorf("TO has it otherwise: %w", err)
		}
		if there, err = to.Domain(ctx, name); err != nil {
			return false, err
		}
		if !sameDomain(there, source) {
			return false, fmt.Errorf("domain %s: what was written reads otherwise", name)
		}
	}
	if dryRun {
		return false, nil
	}
	return wrote, errors.Join(keystore.CheckKeys(ctx, to, name)...)
}

// exportable reports why the new keys of a domain cannot be copied, or nil.
func exportable(ctx context.Context, source, there *keystore.Domain) error {
	for i := range source.Keys {
		k := &source.Keys[i]
		if k.State == keystore.Removed || !source.IsNew(there, k) {
			continue
		}
		half, err := k.MarshalPrivate(ctx, source.Name, nil)
		if err != nil {
			return fmt.Errorf("domain %s: %w", source.Name, err)
		}
		clear(half)
	}
	return nil
}

// sameDomain compares all but versions and private halves.
func sameDomain(a, b *keystore.Domain) bool {
	return slices.EqualFunc(a.Keys, b.Keys, sameKey) && slices.Equal(a.Slots, b.Slots) &&
		slices.EqualFunc(a.History, b.History, func(a, b keystore.Event) bool {
			at := a.Time.Equal(b.Time)
			a.Time, b.Time = time.Time{}, time.Time{}
			return at && a == b
		})
}

func sameKey(a, b keystore.Key) bool {
	for _, t := range [][2]time.Time{
		{a.Created, b.Created}, {a.Activated, b.Activated}, {a.Retired, b.Retired}, {a.Revoked, b.Revoked}, {a.Removed, b.Removed},
		{a.Published, b.Published}, {a.Seen, b.Seen}, {a.Ready, b.Ready}, {a.Withdrawn, b.Withdrawn},
	} {
		if !t[0].Equal(t[1]) {
			return false
		}
	}
	return a.Selector == b.Selector && a.Algorithm == b.Algorithm && a.State == b.State && slices.Equal(a.Public, b.Public) &&
		a.Urgent == b.Urgent && a.Note == b.Note && a.Reason == b.Reason
}
