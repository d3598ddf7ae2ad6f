package sqlstore

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"

	"github.com/go-sql-driver/mysql"
	"github.com/jackc/pgx/v5/pgconn"
	"modernc.org/sqlite"
)

// dialect is what differs between the databases.
type dialect struct {
	product string
	dollars bool              // parameters are $1, $2, … and not ?
	words   *strings.Replacer // of migrations
	lock    string            // at the end of a SELECT: until the transaction ends nobody else changes the row
	tx      *sql.TxOptions
	before  []string // what a migration is put between
	after   []string
	alone   string // asks for the lock on migrations, and gets 1; "" if that is in before

	// What errors mean.
	exists   func(error) bool // the primary key is taken
	busy     func(error) bool // another client was in the way: try again
	noTable  func(error) bool // or no such column
	readOnly func(error) bool // no changes are taken
	down     func(error) bool // the server's last words
	pooled   func(error) bool // a statement that we prepared is another connection's

	readOnlyRemedy string
}

const namePrimary = "if this server is a standby, name the primary in the URL, too"

var errBadConnection = driver.ErrBadConn

var postgres = &dialect{
	product: "PostgreSQL",
	dollars: true,
	words: strings.NewReplacer("{name}", `varchar(253) COLLATE "C"`, "{time}", "varchar(40)", "{word}", "varchar(40)", "{text}", "text",
		"{table}", "", "{absent}", "IF NOT EXISTS", "{ignore} ", "", "{nothing}", "ON CONFLICT DO NOTHING"),
	lock:   " FOR UPDATE",
	tx:     &sql.TxOptions{Isolation: sql.LevelReadCommitted},
	before: []string{`BEGIN`, `SELECT pg_advisory_xact_lock(20264871)`},
	after:  []string{`COMMIT`},

	exists:   postgresError("23505"),
	busy:     postgresError("40001", "40P01", "55P03"),
	noTable:  postgresError("42P01", "42703"),
	readOnly: postgresError("25006"),
	pooled:   postgresError("26000", "42P05"),
	down:     postgresError("57P01", "57P02", "57P03", "57P05", "08000", "08003", "08006", "08P01", "53300"), // 08P01 is PgBouncer's

	readOnlyRemedy: namePrimary,
}

func postgresError(codes ...string) func(error) bool {
	return func(err error) bool {
		var e *pgconn.PgError
		return errors.As(err, &e) && slices.Contains(codes, e.Code)
	}
}

var mariadb = &dialect{
	product: "MySQL",
	words: strings.NewReplacer("{name}", "varchar(253) CHARACTER SET ascii COLLATE ascii_bin", "{time}", "varchar(40)", "{word}", "varchar(40)", "{text}", "text",
		"{table}", " ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin", "{absent} ", "", "{ignore}", "IGNORE", " {nothing}", "",
		// MySQL has no CREATE INDEX IF NOT EXISTS, so the index is made with its table.
		"changed_by {word} NOT NULL\n", "changed_by varchar(40) NOT NULL,\n\tINDEX waxseal_domain_changed (changed)\n",
		"CREATE INDEX {absent} waxseal_domain_changed ON waxseal_domain (changed);", ""),
	lock:  " FOR UPDATE",
	tx:    &sql.TxOptions{Isolation: sql.LevelReadCommitted}, // no locks on gaps, and so no deadlocks of inserts
	after: []string{`SELECT RELEASE_LOCK('waxseal')`},
	alone: `SELECT GET_LOCK('waxseal', 60)`,

	exists:   mysqlError(1062),
	busy:     mysqlError(1213, 1205),
	noTable:  mysqlError(1146, 1054),
	readOnly: mysqlError(1290, 1792, 1836),
	pooled:   func(error) bool { return false },
	down:     mysqlError(1040, 1047, 1053, 1077, 1078, 1079, 1152, 1158, 1159, 1160, 1161, 1184, 1927, 3169), // 1047: a node outside its Galera cluster

	readOnlyRemedy: namePrimary,
}

func mysqlError(numbers ...uint16) func(error) bool {
	return func(err error) bool {
		var e *mysql.MySQLError
		return errors.As(err, &e) && slices.Contains(numbers, e.Number)
	}
}

var sqlite3 = &dialect{
	product: "SQLite",
	words: strings.NewReplacer("{name}", "text", "{time}", "text", "{word}", "text", "{text}", "text",
		"{table}", "", "{absent}", "IF NOT EXISTS", "{ignore} ", "", "{nothing}", "ON CONFLICT DO NOTHING"),
	before: []string{`BEGIN IMMEDIATE`},
	after:  []string{`COMMIT`},

	exists:   sqliteError(1555, 2067), // SQLITE_CONSTRAINT_PRIMARYKEY, _UNIQUE
	busy:     sqliteError(5, 261, 517, 6),
	noTable:  sqliteMissing,
	readOnly: sqliteError(8, 264, 520, 776, 1032, 1288, 1544),
	down:     func(error) bool { return false },
	pooled:   func(error) bool { return false },

	readOnlyRemedy: "let the present user write the file, and the directory that it is in",
}

// sqliteError compares extended result codes (https://sqlite.org/rescode.html).
func sqliteError(codes ...int) func(error) bool {
	return func(err error) bool {
		var e *sqlite.Error
		return errors.As(err, &e) && slices.Contains(codes, e.Code())
	}
}

func sqliteMissing(err error) bool {
	var e *sqlite.Error
	return errors.As(err, &e) && e.Code() == 1 && (strings.Contains(e.Error(), "no such table") || strings.Contains(e.Error(), "no such column"))
}

// bind writes the parameters of a query as the database wants them.
func (d *dialect) bind(query string) string {
	if !d.dollars {
		return query
	}
	var b strings.Builder
	n := 0
	for part := range strings.SplitSeq(query, "?") {
		if n > 0 {
			b.WriteString("$" + strconv.Itoa(n))
		}
		b.WriteString(part)
		n++
	}
	return b.String()
}

// lost reports whether the error means that the connection is gone, or could not
// be made.
func (d *dialect) lost(err error) bool {
	var network net.Error
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return false
	case d.down(err), errors.Is(err, driver.ErrBadConn), errors.Is(err, mysql.ErrInvalidConn), errors.Is(err, sql.ErrConnDone),
		errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, net.ErrClosed), errors.As(err, &network):
		return true
	}
	return pgconn.SafeToRetry(err)
}
