package main

// The keystore as a whole: its tables, and how it is.

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
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
	return group("store", "Look after the keystore as a whole", a.storeStatusCommand(), a.storeMigrateCommand(), a.storeCopyCommand(), a.storeRewrapCommand(), a.storeURLCommand())
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
			if !sqlstore.IsURL(d.Keystore.URL) {
				return errors.New("this keystore has no tables, and nothing is to be done")
			}
			if !a.dryRun {
				if _, err := sqlstore.CreateFile(d.Keystore.URL); err != nil {
					return err
				}
			}
			store, err := a.opening(openStore(d, a.warn))
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
			store, err := a.opening(openStore(d, a.warn))
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
			bad := schemaProblem(s, err, a.flags())
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
			if bad != nil {
				return problems{d.problem("keystore.url", bad, "")}
			}
			return nil
		},
	}
	a.storeFlags(c)
	a.jsonFlag(c)
	return c
}

func millis(d time.Duration) float64 {
	return float64(d.Round(10*time.Microsecond)) / float64(time.Millisecond)
}

// schemaProblem says why a store of that status cannot be used. The flags are those
// by which a command finds it.
func schemaProblem(s keystore.StoreStatus, err error, flags string) error {
	switch {
	case err != nil:
		return err
	case s.Schema == 0 && s.SchemaWanted > 0:
		return withHint(errors.New("the database has no tables of waxseal"), "make them with \"waxseal store migrate%s\"", flags)
	case s.Schema < s.SchemaWanted:
		return withHint(fmt.Errorf("its tables are of version %d, this waxseal needs %d", s.Schema, s.SchemaWanted), "run \"waxseal store migrate%s\"", flags)
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
