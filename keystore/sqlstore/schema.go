package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
)

// migrations make the tables, each step from the schema before it. A step is
// never changed once it is released: the next one is added. Steps may run twice,
// as MySQL has no transactions for them.
//
// Times are text such as 2026-01-31T12:00:00Z, empty for never; public keys are
// base64 of what the record's p= carries; private is PEM unless Options.Wrap
// makes something else of it. waxseal_domain.changed is the value that the change
// counter in waxseal_meta had with the domain's last change; the counter's row
// stays locked until the change is complete, so that whoever has read a value
// has missed no lower one.
var migrations = []string{
	`CREATE TABLE IF NOT EXISTS waxseal_meta (
	name {name} NOT NULL PRIMARY KEY,
	value bigint NOT NULL
){table};

CREATE TABLE IF NOT EXISTS waxseal_domain (
	name {name} NOT NULL PRIMARY KEY,
	version bigint NOT NULL,
	changed bigint NOT NULL,
	changed_at {time} NOT NULL,
	changed_by {word} NOT NULL
){table};

CREATE INDEX {absent} waxseal_domain_changed ON waxseal_domain (changed);

CREATE TABLE IF NOT EXISTS waxseal_key (
	domain {name} NOT NULL,
	selector {name} NOT NULL,
	number bigint NOT NULL,
	algorithm {word} NOT NULL,
	state {word} NOT NULL,
	public {text} NOT NULL,
	private {text} NOT NULL,
	created {time} NOT NULL,
	activated {time} NOT NULL,
	retired {time} NOT NULL,
	revoked {time} NOT NULL,
	removed {time} NOT NULL,
	published {time} NOT NULL,
	seen {time} NOT NULL,
	ready {time} NOT NULL,
	withdrawn {time} NOT NULL,
	urgent smallint NOT NULL,
	note {text} NOT NULL,
	reason {text} NOT NULL,
	PRIMARY KEY (domain, selector),
	FOREIGN KEY (domain) REFERENCES waxseal_domain (name) ON DELETE CASCADE
){table};

CREATE TABLE IF NOT EXISTS waxseal_slot (
	domain {name} NOT NULL,
	selector {name} NOT NULL,
	number bigint NOT NULL,
	target {name} NOT NULL,
	PRIMARY KEY (domain, selector),
	FOREIGN KEY (domain) REFERENCES waxseal_domain (name) ON DELETE CASCADE
){table};

CREATE TABLE IF NOT EXISTS waxseal_history (
	domain {name} NOT NULL,
	number bigint NOT NULL,
	at {time} NOT NULL,
	selector {name} NOT NULL,
	what {word} NOT NULL,
	done_by {text} NOT NULL,
	reason {text} NOT NULL,
	forced smallint NOT NULL,
	PRIMARY KEY (domain, number),
	FOREIGN KEY (domain) REFERENCES waxseal_domain (name) ON DELETE CASCADE
){table};

CREATE TABLE IF NOT EXISTS waxseal_node (
	name {name} NOT NULL PRIMARY KEY,
	program {text} NOT NULL,
	started {time} NOT NULL,
	refreshed {time} NOT NULL,
	seen {time} NOT NULL
){table};

INSERT {ignore} INTO waxseal_meta (name, value) VALUES ('change', 0) {nothing}`,
}

// statements are those of a migration, in the words of the dialect.
func (d *dialect) statements(step string) []string {
	var all []string
	for s := range strings.SplitSeq(d.words.Replace(step), ";") {
		if s = strings.TrimSpace(s); s != "" {
			all = append(all, s)
		}
	}
	return all
}

// SchemaVersion is the version of the tables that this program uses.
func SchemaVersion() int { return len(migrations) }

// Schema returns the version of the tables that the database has; 0 if it has
// none.
func (s *Store) Schema(ctx context.Context) (int, error) {
	var version int
	err := s.reading(ctx, "schema", func(ctx context.Context) error {
		err := s.db.QueryRowContext(ctx, s.bind(`SELECT value FROM waxseal_meta WHERE name = ?`), "schema").Scan(&version)
		if errors.Is(err, sql.ErrNoRows) || err != nil && s.noTable(err) {
			version, err = 0, nil
		}
		return err
	})
	return version, err
}

// Migration returns the statements that bring the tables from the given version
// to that of this program.
func (s *Store) Migration(from int) []string {
	var all []string
	for v := from; v < len(migrations); v++ {
		all = append(all, s.statements(migrations[v])...)
		all = append(all,
			`DELETE FROM waxseal_meta WHERE name = 'schema'`,
			fmt.Sprintf(`INSERT INTO waxseal_meta (name, value) VALUES ('schema', %d)`, v+1))
	}
	return all
}

// Migrate makes the tables, or brings them up to date. Any number of clients may
// do so at once. It returns the versions before and after.
func (s *Store) Migrate(ctx context.Context) (from, to int, err error) {
	if from, err = s.Schema(ctx); err != nil {
		return 0, 0, err
	}
	if from > len(migrations) {
		return from, from, fmt.Errorf("%s: the tables are of version %d, and this waxseal knows only %d; run a newer one", s.product, from, len(migrations))
	}
	if from == len(migrations) {
		return from, from, nil
	}
	conn, err := s.db.Conn(ctx)
	if err != nil {
		return from, from, s.explain(ctx, ctx, "migration", err)
	}
	defer conn.Close()
	if from, err = s.migrate(ctx, conn); err != nil {
		conn.Raw(func(any) error { return errBadConnection }) // with its locks and transaction
		return from, from, fmt.Errorf("migration: %s: %w", s.product, err)
	}
	return from, len(migrations), nil
}

// migrate does on one connection what Migrate has to do. What version there is
// counts once nobody else migrates: it may have been a newer program that did.
func (s *Store) migrate(ctx context.Context, conn *sql.Conn) (from int, err error) {
	run := func(statements []string) error {
		for _, statement := range statements {
			if _, err := conn.ExecContext(ctx, statement); err != nil {
				first, _, _ := strings.Cut(statement, "\n")
				return fmt.Errorf("%s: %w", first, err)
			}
		}
		return nil
	}
	if err := run(s.before); err != nil {
		return 0, err
	}
	if s.alone != "" {
		var alone sql.NullInt64
		if err := conn.QueryRowContext(ctx, s.alone).Scan(&alone); err != nil || alone.Int64 != 1 {
			return 0, errors.Join(errors.New("another client migrates; try again when it is done"), err)
		}
	}
	meta := s.statements(migrations[0])[:1] // the table of versions
	if err := run(meta); err != nil {
		return 0, err
	}
	err = conn.QueryRowContext(ctx, `SELECT value FROM waxseal_meta WHERE name = 'schema'`).Scan(&from)
	switch {
	case err != nil && !errors.Is(err, sql.ErrNoRows):
		return 0, err
	case from > len(migrations):
		return from, fmt.Errorf("a newer waxseal has just made the tables of version %d", from)
	}
	if err := run(s.Migration(from)); err != nil {
		return from, err
	}
	return from, run(s.after)
}
