package sqlstore

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/go-sql-driver/mysql"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	_ "modernc.org/sqlite" // the driver "sqlite"

	"waxseal/keystore"
)

const (
	// connectionLife makes connections go back to the first host of the URL, once
	// that answers again.
	connectionLife = 10 * time.Minute
	connectionIdle = 2 * time.Minute

	// maxAddresses is how many silent addresses a name may have before the next
	// host is asked.
	maxAddresses = 3
)

// openDatabase makes the pool for a URL. Nothing is connected to.
func openDatabase(text string, o Options) (*database, error) {
	s, err := parseURL(text)
	if err != nil {
		return nil, err
	}
	password := func() (string, error) { return readPassword(s.passwordFile, o.SecretPath) }
	d := &database{timeout: o.Timeout}
	switch s.kind {
	case "postgres":
		err = openPostgres(d, s, password)
	case "mysql":
		err = openMySQL(d, s, password)
	case "sqlite":
		err = openSQLite(d, s, o.GroupReadable)
	}
	if err != nil {
		return nil, err
	}
	d.connections = s.connections
	d.db.SetMaxOpenConns(s.connections)
	d.db.SetMaxIdleConns(s.connections)
	d.db.SetConnMaxIdleTime(connectionIdle)
	d.db.SetConnMaxLifetime(connectionLife)
	return d, nil
}

// readPassword reads the password file, anew for each connection, so that a
// password may be changed under a daemon that runs.
func readPassword(file string, path func(string) (string, error)) (string, error) {
	if file == "" {
		return "", nil
	}
	if path != nil {
		var err error
		if file, err = path(file); err != nil {
			return "", fmt.Errorf("password_file: %w", err)
		}
	}
	password, err := keystore.ReadSecret(file)
	if err != nil {
		return "", fmt.Errorf("password_file: %w", err)
	}
	return password, nil
}

func openPostgres(d *database, s *source, password func() (string, error)) error {
	var b strings.Builder
	add := func(name, value string) {
		if value != "" {
			fmt.Fprintf(&b, "%s='%s' ", name, strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(value))
		}
	}
	add("user", s.user)
	add("dbname", s.database)
	add("sslmode", s.sslmode)
	add("sslrootcert", s.rootCert)
	add("sslcert", s.cert)
	add("sslkey", s.key)
	if s.sessionAttrs != preferStandby {
		add("target_session_attrs", s.sessionAttrs)
	}
	add("search_path", s.searchPath)
	add("application_name", "waxseal")
	add("connect_timeout", fmt.Sprint(int(s.connectTimeout/time.Second)))
	if s.transactionPooler {
		add("default_query_exec_mode", "exec") // prepared statements would stay with another connection
	}
	withPassword := func(_ context.Context, c *pgx.ConnConfig) error {
		p, err := password()
		if p != "" {
			c.Password = p
		}
		return err
	}
	common := b.String()
	var hosts []driver.Connector
	for _, h := range s.hosts {
		b.Reset()
		add("host", h.name)
		add("port", h.port)
		if _, err := tlsConfig(s, h.name); err != nil { // in words of ours
			return err
		}
		config, err := pgx.ParseConfig(common + b.String())
		if err != nil {
			return fmt.Errorf("postgres: %w", err) // pgx keeps passwords out of it
		}
		hosts = append(hosts, stdlib.GetConnector(*config, stdlib.OptionBeforeConnect(withPassword)))
	}
	// pgx itself gives each address of a host its time.
	f := newFailover(hosts, maxAddresses*s.connectTimeout)
	if len(hosts) > 1 && (s.sessionAttrs == "" || s.sessionAttrs == preferStandby) {
		f.readOnlyQuery, f.readOnly = `SHOW transaction_read_only`, s.sessionAttrs == preferStandby
	}
	d.dialect = postgres
	d.db = sql.OpenDB(f)
	d.listen = func(ctx context.Context) (*pgx.Conn, error) {
		c, err := f.Connect(ctx)
		if err != nil {
			return nil, err
		}
		return c.(*stdlib.Conn).Conn(), nil
	}
	if s.transactionPooler { // which gives LISTEN no connection of its own
		d.listen = nil
	}
	return nil
}

func openMySQL(d *database, s *source, password func() (string, error)) error {
	var hosts []driver.Connector
	for _, h := range s.hosts {
		c := mysql.NewConfig()
		c.Net, c.Addr = "tcp", net.JoinHostPort(h.name, h.port)
		if s.socketPath != "" {
			c.Net, c.Addr = "unix", s.socketPath
		}
		c.User, c.DBName = s.user, s.database
		c.Timeout = s.connectTimeout
		c.Collation = "utf8mb4_bin"
		c.InterpolateParams = true // a query is one question, not three
		// Whatever the server's defaults are: no value is cut to fit, and a query
		// alone is a transaction alone.
		c.Params = map[string]string{"sql_mode": "'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION'", "autocommit": "1"}
		c.Logger = &mysql.NopLogger{}
		var err error
		if c.TLS, err = tlsConfig(s, h.name); err != nil {
			return err
		}
		if err := c.Apply(mysql.BeforeConnect(func(_ context.Context, c *mysql.Config) (err error) {
			c.Passwd, err = password()
			return err
		})); err != nil {
			return err
		}
		connector, err := mysql.NewConnector(c)
		if err != nil {
			return err
		}
		hosts = append(hosts, connector)
	}
	f := newFailover(hosts, s.connectTimeout)
	if len(hosts) > 1 {
		f.readOnlyQuery = `SELECT IF(@@global.innodb_read_only, 'on', @@global.read_only)`
	}
	d.dialect = mariadb
	d.db = sql.OpenDB(f)
	return nil
}

// tlsConfig is what sslmode asks for.
func tlsConfig(s *source, host string) (*tls.Config, error) {
	if s.sslmode == "disable" {
		return nil, nil
	}
	c := &tls.Config{ServerName: host, InsecureSkipVerify: s.sslmode == "require", MinVersion: tls.VersionTLS12}
	if s.rootCert != "" {
		data, err := os.ReadFile(s.rootCert)
		if err != nil {
			return nil, withRemedy(fmt.Errorf("sslrootcert: %w", err))
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(data) {
			return nil, fmt.Errorf("sslrootcert %s: no certificate in PEM", s.rootCert)
		}
	}
	if s.cert != "" {
		pair, err := tls.LoadX509KeyPair(s.cert, s.key)
		if err != nil {
			return nil, withRemedy(fmt.Errorf("sslcert: %w", err))
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c, nil
}

// CreateFile makes an empty SQLite file for a URL, if there is none; for other
// databases it does nothing. Root gives it to the owner of its directory.
func CreateFile(text string) (created bool, err error) {
	s, err := parseURL(text)
	if err != nil || s.kind != "sqlite" {
		return false, err
	}
	f, err := os.OpenFile(s.path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer f.Close()
	if info, err := os.Stat(filepath.Dir(s.path)); err == nil && os.Geteuid() == 0 {
		if owner, ok := info.Sys().(*syscall.Stat_t); ok {
			return true, f.Chown(int(owner.Uid), int(owner.Gid))
		}
	}
	return true, nil
}

func openSQLite(d *database, s *source, groupReadable bool) error {
	path, err := filepath.Abs(s.path)
	if err != nil {
		return err
	}
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return fmt.Errorf("keystore: %w", err)
	case !info.Mode().IsRegular():
		return fmt.Errorf("keystore %s: not a regular file", path)
	}
	forbidden := fs.FileMode(0o077)
	if groupReadable {
		forbidden = 0o037
	}
	if mode := info.Mode().Perm(); mode&forbidden != 0 {
		return fmt.Errorf("keystore %s: others may read or change its private keys (mode %04o); run: chmod 600 '%s'", path, mode, path)
	}
	// A change is on the disk before it is told, and a removed key leaves no
	// trace in free pages.
	pragmas := []string{"busy_timeout(2000)", "journal_mode(WAL)", "synchronous(FULL)", "foreign_keys(ON)", "trusted_schema(OFF)", "secure_delete(ON)", "temp_store(MEMORY)"}
	dsn := url.URL{Scheme: "file", OmitHost: true, Path: path, RawQuery: url.Values{"_pragma": pragmas, "_txlock": {"immediate"}, "mode": {"rw"}}.Encode()}
	d.dialect = sqlite3
	d.db, err = sql.Open("sqlite", dsn.String())
	return err
}
