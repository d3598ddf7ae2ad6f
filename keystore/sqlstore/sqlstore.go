// Package sqlstore keeps keys in an SQL database, which any number of machines
// may share: PostgreSQL, MySQL and MariaDB, or SQLite for one machine.
//
// It promises what every keystore.Store does. A change is one transaction, and
// a change whose outcome the network has swallowed is looked up before anything
// is said of it. The history table only grows. Opening connects to nothing, so
// that a database which is down stops no start.
//
// The URL is one of
//
//	sqlite:PATH
//	postgres://[USER@]HOST[:PORT][,HOST[:PORT]…]/DATABASE[?OPTION=VALUE&…]
//	mysql://[USER@]HOST[:PORT][,HOST[:PORT]…]/DATABASE[?OPTION=VALUE&…]
//
// where postgresql: and mariadb: are accepted, too. Of several hosts each new
// connection takes the first that answers and takes changes; where none does, as
// before a standby has taken over, the first that answers. The options are
//
//	password_file        the file that has the password; it is read for each new
//	                     connection. The URL itself takes none, since it is
//	                     logged.
//	sslmode              disable, require (encrypted, but nobody knows with
//	                     whom), verify-full; PostgreSQL also has verify-ca. The
//	                     default is verify-full; without sslrootcert it is
//	                     disable for sockets and loopback addresses.
//	sslrootcert          the file of authorities, where it is not the system's
//	sslcert, sslkey      the client's certificate and key
//	connect_timeout      seconds for one host; default 3
//	connections          how many connections are open at most; default 8
//	socket               the server's unix socket (mysql), or the directory it is
//	                     in (postgres), in place of hosts: none or localhost
//	target_session_attrs as in libpq, in place of that rule: read-write takes only
//	                     a primary, prefer-standby prefers the others (postgres)
//	search_path          the schema of the tables (postgres)
//	pooler               "transaction" behind PgBouncer and its like, which give
//	                     each transaction another connection; changes are asked
//	                     for every second then (postgres)
//	preset               read the tables of another program, and change nothing:
//	                     froxlor, ispconfig, modoboa, opendkim (as Postfixadmin
//	                     fills them), postal or vexim
//	table_prefix         what the names of the tables begin with, as Postfixadmin's
//	                     database_prefix says (opendkim)
//	dkim_identifier      Postal's setting of this name; default postal (postal)
package sqlstore

import (
	"context"
	"crypto"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"waxseal/keystore"
)

const (
	// defaultTimeout bounds a call whose context does not.
	defaultTimeout = 10 * time.Second

	// defaultPage is how many names List returns when not told.
	defaultPage = 1000

	// attempts is how often a call is tried when the connection is lost, or
	// other clients are in the way.
	attempts = 4
)

// Options sets up a Store. The zero value works.
type Options struct {
	// Wrap turns a private key in PEM into what the database gets, which must be
	// text, too, and Unwrap turns that back. nil: it is stored as it is.
	Wrap   func(domain, selector string, pem []byte) ([]byte, error)
	Unwrap func(domain, selector string, stored []byte) ([]byte, error)

	// Rewrap returns what is stored of a key as Wrap would have it now, and nil if
	// it is that already. See Store.Rewrap.
	Rewrap func(domain string, k *keystore.Key, stored []byte) ([]byte, error)

	// SecretPath returns the path of the file that password_file means; nil
	// takes it as a path.
	SecretPath func(name string) (string, error)

	// GroupReadable accepts an SQLite file that its group can read.
	GroupReadable bool

	// Timeout bounds every call. Default 10 seconds.
	Timeout time.Duration

	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// Store keeps domains in tables of its own: see Schema.
type Store struct {
	*database
	opts Options

	domainQuery, signingQuery string
}

var (
	_ keystore.Store        = (*Store)(nil)
	_ keystore.SigningStore = (*Store)(nil)
)

// Open prepares a Store for the URL. It connects to nothing; an SQLite file has
// to be there.
func Open(url string, opts Options) (*Store, error) {
	if opts.Timeout <= 0 {
		opts.Timeout = defaultTimeout
	}
	if opts.Now == nil {
		opts.Now = time.Now
	}
	if HasPreset(url) {
		return nil, errors.New("option preset: tables of another program are read only")
	}
	db, err := openDatabase(url, opts)
	if err != nil {
		return nil, err
	}
	return &Store{database: db, opts: opts, domainQuery: db.bind(domainQuery), signingQuery: db.bind(signingQuery)}, nil
}

// database is a connection pool and what is special about its kind.
type database struct {
	*dialect
	db          *sql.DB
	timeout     time.Duration
	connections int
	foreign     bool // the tables are another program's

	// listen is how to make the connection that hears of changes, on
	// PostgreSQL.
	listen func(context.Context) (*pgx.Conn, error)
}

// Close closes all connections.
func (d *database) Close() error { return d.db.Close() }

// Domain implements keystore.Store by one query.
func (s *Store) Domain(ctx context.Context, name string) (*keystore.Domain, error) {
	return s.domain(ctx, name, s.domainQuery, nil)
}

// Signing implements keystore.SigningStore by one query, which brings the
// private halves along.
func (s *Store) Signing(ctx context.Context, name string) (*keystore.Domain, error) {
	return s.domain(ctx, name, s.signingQuery, s.keyLoader)
}

// keyLoader returns a Key.Load for a private half that has been read.
func (s *Store) keyLoader(domain, selector string, stored []byte) func(context.Context) (crypto.Signer, error) {
	return func(ctx context.Context) (crypto.Signer, error) {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		return s.parseKey(domain, selector, stored)
	}
}

func (s *Store) domain(ctx context.Context, name, query string, prefetched func(domain, selector string, stored []byte) func(context.Context) (crypto.Signer, error)) (*keystore.Domain, error) {
	if err := keystore.ValidDomain(name); err != nil {
		return nil, fmt.Errorf("%w: %w", err, keystore.ErrNotFound)
	}
	var read *readDomain
	err := s.reading(ctx, "domain "+name, func(ctx context.Context) (err error) {
		read, err = readRows(ctx, s.db, query, name)
		return err
	})
	if err != nil {
		return nil, err
	}
	d, err := read.decode()
	if err != nil {
		return nil, err
	}
	for i := range d.Keys {
		k := &d.Keys[i]
		switch stored := read.private[k.Selector]; {
		case k.State == keystore.Removed:
		case prefetched != nil && k.State == keystore.Active && len(stored) > 0:
			k.Load = prefetched(name, k.Selector, stored)
		default:
			k.Load = s.loader(name, k.Selector)
		}
	}
	return d, nil
}

// loader returns a Key.Load that reads the private half from the database.
func (s *Store) loader(domain, selector string) func(context.Context) (crypto.Signer, error) {
	return func(ctx context.Context) (crypto.Signer, error) {
		stored, err := s.stored(ctx, domain, selector)
		if err != nil {
			return nil, err
		}
		return s.parseKey(domain, selector, stored)
	}
}

// stored returns a private half as the database has it.
func (s *Store) stored(ctx context.Context, domain, selector string) ([]byte, error) {
	var stored []byte
	err := s.reading(ctx, "key "+selector+"."+domain, func(ctx context.Context) error {
		return s.db.QueryRowContext(ctx, s.bind(`SELECT private FROM waxseal_key WHERE domain = ? AND selector = ?`), domain, selector).Scan(&stored)
	})
	if errors.Is(err, sql.ErrNoRows) || err == nil && len(stored) == 0 {
		return nil, errors.New("the database has no private half of it; if it was not removed, restore it from a backup")
	}
	return stored, err
}

func (s *Store) parseKey(domain, selector string, stored []byte) (crypto.Signer, error) {
	if s.opts.Unwrap != nil {
		var err error
		if stored, err = s.opts.Unwrap(domain, selector, stored); err != nil {
			return nil, err
		}
	}
	key, err := keystore.ParsePrivateKey(stored)
	if err != nil {
		return nil, fmt.Errorf("table waxseal_key, %s of %s, column private: %w", selector, domain, err)
	}
	return key, nil
}

// List implements keystore.Store.
func (s *Store) List(ctx context.Context, after string, limit int) ([]string, error) {
	if limit < 1 {
		limit = defaultPage
	}
	return s.listValid(ctx, after, limit, s.bind(`SELECT name FROM waxseal_domain WHERE name > ? ORDER BY name LIMIT ?`))
}

// listValid pages through a query of names, and leaves those out that no mail
// can ask for.
func (d *database) listValid(ctx context.Context, after string, limit int, query string) ([]string, error) {
	for {
		names := make([]string, 0, min(limit, defaultPage))
		seen, last := 0, after
		err := d.reading(ctx, "list of domains", func(ctx context.Context) error {
			names, seen = names[:0], 0
			return d.each(ctx, query, []any{after, limit}, func(scan func(...any) error) error {
				if err := scan(&last); err != nil {
					return err
				}
				if seen++; keystore.ValidDomain(last) == nil {
					names = append(names, last)
				}
				return nil
			})
		})
		if err != nil {
			return nil, err
		}
		if len(names) > 0 || seen < limit {
			return names, nil
		}
		after = last
	}
}

// each calls f for each row of a query.
func (d *database) each(ctx context.Context, query string, args []any, f func(scan func(...any) error) error) error {
	rows, err := d.db.QueryContext(ctx, query, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := f(rows.Scan); err != nil {
			return err
		}
	}
	return rows.Err()
}

// reading runs something that may as well be done twice, again if the connection
// is lost.
func (d *database) reading(ctx context.Context, what string, f func(context.Context) error) error {
	bounded, cancel := context.WithTimeout(ctx, d.timeout)
	defer cancel()
	var err error
	for range attempts {
		if err = bounded.Err(); err != nil {
			break
		}
		if err = d.noticed(f(bounded)); err == nil || !d.lost(err) && !d.busy(err) {
			break
		}
	}
	return d.explain(ctx, bounded, what, err)
}

// noticed closes the connections that nobody uses if the error says that one was
// lost, was silent, or leads to a server that takes no changes: where it leads,
// the others may lead, too. The next ones are made anew, to a host that answers.
func (d *database) noticed(err error) error {
	if err != nil && (d.lost(err) || d.readOnly(err) || errors.Is(err, context.DeadlineExceeded)) {
		d.db.SetMaxIdleConns(0)
		d.db.SetMaxIdleConns(d.connections)
	}
	return err
}

// explain puts an error into words. That of the caller's context comes first, as
// drivers have many names for it.
func (d *database) explain(ctx, bounded context.Context, what string, err error) error {
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("%s: %s: %w", what, d.product, ctx.Err())
	case bounded.Err() != nil:
		return withRemedy(fmt.Errorf("%s: %s: no answer within %v: %w", what, d.product, d.timeout, err))
	case d.noTable(err) && d.foreign:
		return fmt.Errorf("%s: %s: the preset or the query does not fit the tables: %w", what, d.product, err)
	case d.noTable(err):
		return fmt.Errorf("%s: %s: the tables of waxseal are missing or of another version; make them with \"waxseal store migrate\": %w", what, d.product, err)
	case d.readOnly(err):
		return fmt.Errorf("%s: %s takes no changes; %s: %w", what, d.product, d.readOnlyRemedy, err)
	case d.pooled(err):
		return fmt.Errorf("%s: %s: each transaction has another connection, as behind PgBouncer; say so in the URL by pooler=transaction: %w", what, d.product, err)
	}
	return withRemedy(fmt.Errorf("%s: %s: %w", what, d.product, err))
}
