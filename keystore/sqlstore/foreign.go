package sqlstore

import (
	"context"
	"crypto"
	"database/sql"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"waxseal/keystore"
)

// Queries are how keys are found in the tables of another program.
type Queries struct {
	// Keys returns the selector and the private key of each key of the domain
	// that each ? stands for. If there is a third column, it is the domain as the
	// row has it, or % for any: rows of other domains are passed over. To many
	// collations of MySQL, exämple.com is equal to example.com.
	Keys string

	// List returns up to LIMIT ? domains that sort after the first ?.
	List string

	// Senders, if there is such a query, returns which of these keys sign the mail
	// of an author: the author as the row has it, the domain, the selector as in
	// Keys, and if there is a fourth column the identity (i=). Each ? stands for a list, as in
	// "author IN (?)": of ann@mail.example.com it is ann@mail.example.com,
	// mail.example.com, ann@.example.com, .example.com, ann@.com, .com, ann@* and
	// *. All rows count that have the first of these that any row has; what they
	// have is compared without regard to case. The domain % is the author's, and %
	// in an identity too.
	Senders string

	// prefix stands before each selector.
	prefix string
}

// presets are the layouts of programs that are known. What they have in common
// is that every key signs. TABLES stands for the option table_prefix.
var presets = map[string]Queries{
	// OpenDKIM's tables as Postfixadmin fills them: a row of dkim_signing is about
	// an author, and leads to the key. A key with the domain % signs as the
	// author's, and gives way to one of that domain.
	"opendkim": {
		Keys: `SELECT k.selector, k.private_key, k.domain_name FROM TABLESdkim k WHERE EXISTS (SELECT 1 FROM TABLESdkim_signing s WHERE s.dkim_id = k.id) AND (k.domain_name = ? ` +
			`OR k.domain_name = '%' AND NOT EXISTS (SELECT 1 FROM TABLESdkim o JOIN TABLESdkim_signing s ON s.dkim_id = o.id WHERE o.domain_name = ? AND o.selector = k.selector))`,
		List:    `SELECT DISTINCT k.domain_name FROM TABLESdkim k WHERE k.domain_name > ? AND EXISTS (SELECT 1 FROM TABLESdkim_signing s WHERE s.dkim_id = k.id) ORDER BY 1 LIMIT ?`,
		Senders: `SELECT s.author, k.domain_name, k.selector FROM TABLESdkim_signing s JOIN TABLESdkim k ON k.id = s.dkim_id WHERE s.author IN (?)`,
	},
	// Postal signs with a domain's key once it has seen its record, and names the
	// selector after the setting dns.dkim_identifier: the option dkim_identifier.
	"postal": {
		Keys:   `SELECT dkim_identifier_string, dkim_private_key, name FROM domains WHERE name = ? AND dkim_status = 'OK'`,
		List:   `SELECT DISTINCT name FROM domains WHERE name > ? AND dkim_status = 'OK' ORDER BY 1 LIMIT ?`,
		prefix: "postal-",
	},
	// Modoboa's own view. The path is empty until a job of Modoboa has made the key.
	"modoboa": {
		Keys: `SELECT selector, private_key_path, domain_name FROM dkim WHERE domain_name = ? AND private_key_path <> ''`,
		List: `SELECT DISTINCT domain_name FROM dkim WHERE domain_name > ? AND private_key_path <> '' ORDER BY 1 LIMIT ?`,
	},
	// ISPConfig signs for no domain that is switched off or has no key yet, and
	// takes an empty selector for "default".
	"ispconfig": {
		Keys: `SELECT COALESCE(NULLIF(dkim_selector, ''), 'default'), dkim_private, domain FROM mail_domain WHERE domain = ? AND dkim = 'y' AND active = 'y' AND dkim_private <> ''`,
		List: `SELECT domain FROM mail_domain WHERE domain > ? AND dkim = 'y' AND active = 'y' AND dkim_private <> '' ORDER BY 1 LIMIT ?`,
	},
	// The key is empty until a job of Froxlor has made it.
	"froxlor": {
		Keys:   `SELECT dkim_id, dkim_privkey, domain FROM panel_domains WHERE domain = ? AND dkim = '1' AND dkim_privkey <> ''`,
		List:   `SELECT domain FROM panel_domains WHERE domain > ? AND dkim = '1' AND dkim_privkey <> '' ORDER BY 1 LIMIT ?`,
		prefix: "dkim",
	},
	"vexim": {
		Keys: `SELECT k.selector, k.private_key, d.domain FROM dkim k JOIN domains d ON d.domain_id = k.domain_id WHERE d.domain = ? AND k.enabled = '1'`,
		List: `SELECT DISTINCT d.domain FROM dkim k JOIN domains d ON d.domain_id = k.domain_id WHERE d.domain > ? AND k.enabled = '1' ORDER BY 1 LIMIT ?`,
	},
}

// tables is where a preset has the prefix of the tables' names.
const tables = "TABLES"

// ofURL are the queries of the URL's preset, with those given in their place.
func (q Queries) ofURL(s *source) (Queries, error) {
	if s.preset == "" {
		return q, nil
	}
	if q.Keys+q.List != "" {
		return q, errors.New("want either preset, or key_query and list_query")
	}
	p := presets[s.preset]
	for _, query := range []*string{&p.Keys, &p.List, &p.Senders} {
		*query = strings.ReplaceAll(*query, tables, s.tablePrefix)
	}
	if q.Senders != "" {
		p.Senders = q.Senders
	}
	if s.dkimIdentifier != "" {
		p.prefix = s.dkimIdentifier + "-"
	}
	return p, nil
}

// HasPreset reports whether OpenForeign is what takes such a URL.
func HasPreset(url string) bool {
	s, err := parseURL(url)
	return err == nil && s.preset != ""
}

// Foreign reads keys from tables of another program, and never changes them.
// Every key is active. A private key is as keystore.ParseKeyText takes it, or the
// absolute path of a file, as with OpenDKIM. There is no word of changes: they are seen when the
// cache refreshes.
type Foreign struct {
	*database
	keys, list string
	params     int    // of keys
	senders    string // with ?, as their number depends on the author
	prefix     string
}

var (
	_ keystore.SigningStore = (*Foreign)(nil)
	_ keystore.SenderStore  = (*Foreign)(nil)
	_ keystore.Reporter     = (*Foreign)(nil)
)

// OpenForeign prepares a Foreign for the URL with the option preset=NAME, or
// for one with queries. It connects to nothing.
func OpenForeign(url string, q Queries, opts Options) (*Foreign, error) {
	s, err := parseURL(url)
	if err != nil {
		return nil, err
	}
	if q, err = q.ofURL(s); err != nil {
		return nil, err
	}
	switch {
	case !strings.Contains(q.Keys, "?"):
		return nil, errors.New(`key_query has no ? for the domain; want one such as SELECT selector, private_key, domain FROM keys WHERE domain = ?`)
	case strings.Count(q.List, "?") != 2:
		return nil, errors.New(`list_query has not two ?; want one such as SELECT domain FROM keys WHERE domain > ? ORDER BY domain LIMIT ?`)
	case q.Senders != "" && !strings.Contains(q.Senders, "?"):
		return nil, errors.New(`sender_query has no ? for the author; want one such as SELECT author, domain, selector FROM senders WHERE author IN (?)`)
	}
	if opts.Timeout <= 0 {
		opts.Timeout = defaultTimeout
	}
	d, err := openDatabase(url, opts)
	if err != nil {
		return nil, err
	}
	d.foreign = true
	return &Foreign{database: d, keys: d.bind(q.Keys), list: d.bind(q.List), params: strings.Count(q.Keys, "?"), senders: q.Senders, prefix: q.prefix}, nil
}

// Domain implements keystore.Store.
func (f *Foreign) Domain(ctx context.Context, name string) (*keystore.Domain, error) {
	d, err := f.Signing(ctx, name)
	if err != nil {
		return nil, err
	}
	for i := range d.Keys {
		selector := d.Keys[i].Selector
		d.Keys[i].Load = func(ctx context.Context) (crypto.Signer, error) {
			d, err := f.Signing(ctx, name)
			if err != nil {
				return nil, err
			}
			if k := d.Key(selector); k != nil {
				return k.Load(ctx)
			}
			return nil, errors.New("it is no longer in the database")
		}
	}
	return d, nil
}

// Signing implements keystore.SigningStore.
func (f *Foreign) Signing(ctx context.Context, name string) (*keystore.Domain, error) {
	if err := keystore.ValidDomain(name); err != nil {
		return nil, fmt.Errorf("%w: %w", err, keystore.ErrNotFound)
	}
	var rows [][2]string
	err := f.reading(ctx, "domain "+name, func(ctx context.Context) (err error) {
		rows, err = f.keyRows(ctx, name)
		return err
	})
	if err != nil {
		return nil, err
	}
	if len(rows) == 0 {
		return nil, fmt.Errorf("domain %s: %w", name, keystore.ErrNotFound)
	}
	slices.SortFunc(rows, func(a, b [2]string) int { return strings.Compare(a[0], b[0]) })
	version := fnv.New64a() // another content is another version
	d := &keystore.Domain{Name: name}
	for _, row := range rows {
		fmt.Fprintf(version, "%q", row)
		selector := f.prefix + lower(row[0])
		if keystore.ValidSelector(selector) != nil { // which is a private key, where columns are in another order
			d.Unreadable = append(d.Unreadable, keystore.BadRow{Active: true, Err: fmt.Errorf("domain %s: %.20q in the first column of the query of keys is no selector", name, row[0])})
			continue
		}
		k, err := foreignKey(selector, row[1])
		if err == nil && d.Key(selector) != nil {
			err = errors.New("there are two keys of this selector")
		}
		if err == nil {
			err = (&keystore.Domain{Name: name, Keys: []keystore.Key{k}}).Validate()
		}
		if err != nil {
			d.Unreadable = append(d.Unreadable, keystore.BadRow{Active: true, Selector: selector, Err: fmt.Errorf("domain %s, selector %s: %w", name, selector, err)})
			continue
		}
		d.Keys = append(d.Keys, k)
	}
	d.Version = version.Sum64() | 1
	return d, nil
}

// keyRows are the selectors and private keys of the domain.
func (f *Foreign) keyRows(ctx context.Context, name string) ([][2]string, error) {
	rows, err := f.db.QueryContext(ctx, f.keys, slices.Repeat([]any{name}, f.params)...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	columns, err := rows.Columns()
	if err != nil {
		return nil, err
	}
	if len(columns) != 2 && len(columns) != 3 {
		return nil, fmt.Errorf("the query of keys returns %d columns, want the selector, the private key, and perhaps the domain: %w", len(columns), keystore.ErrBroken)
	}
	var keys [][2]string
	for rows.Next() {
		var selector, private, domain sql.NullString
		if err := rows.Scan([]any{&selector, &private, &domain}[:len(columns)]...); err != nil {
			return nil, err
		}
		if len(columns) == 3 && domain.String != "%" && !equal(domain.String, name) {
			continue
		}
		if len(keys) == maxKeyRows {
			return nil, fmt.Errorf("the query of keys returns more than %d rows: %w", maxKeyRows, keystore.ErrBroken)
		}
		keys = append(keys, [2]string{selector.String, private.String})
	}
	return keys, rows.Err()
}

// maxKeyRows bounds the keys of a domain, which are all kept in memory. There
// may be one for each author.
const maxKeyRows = 1000

// equal reports whether a row is about a name in lower case: that is in ASCII,
// and to databases with blanks at the end.
func equal(row, name string) bool {
	row = strings.TrimRight(row, " ")
	return isASCII(row) && strings.EqualFold(row, name)
}

// foreignKey makes a key of a row.
func foreignKey(selector, private string) (keystore.Key, error) {
	k := keystore.Key{Selector: selector, State: keystore.Active}
	signer, err := foreignPrivate(private)
	if err != nil {
		return k, err
	}
	if k.Public, k.Algorithm, err = keystore.PublicBytes(signer.Public()); err != nil {
		return k, err
	}
	k.Load = func(ctx context.Context) (crypto.Signer, error) { return signer, ctx.Err() }
	return k, nil
}

// maxKeyFile bounds a key file, whose path comes from the database.
const maxKeyFile = 64 << 10

func foreignPrivate(text string) (crypto.Signer, error) {
	text = strings.TrimSpace(text)
	switch {
	case text == "":
		return nil, errors.New("there is no private key")
	case filepath.IsAbs(text) && !strings.ContainsAny(text, "\n="):
		data, err := readKeyFile(text)
		if err != nil {
			return nil, err
		}
		key, err := keystore.ParsePrivateKey(data)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", text, err)
		}
		return key, nil
	}
	key, err := keystore.ParseKeyText([]byte(text))
	if err != nil {
		return nil, fmt.Errorf("the private key, which is not the absolute path of a file: %w", err)
	}
	return key, nil
}

func readKeyFile(path string) ([]byte, error) {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("%s: not a regular file", path)
	case info.Mode().Perm()&0o027 != 0:
		return nil, fmt.Errorf("%s: others may read or change it (mode %04o); run: chmod 640 '%s'", path, info.Mode().Perm(), path)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxKeyFile+1))
	if err == nil && len(data) > maxKeyFile {
		err = &fs.PathError{Op: "read", Path: path, Err: fmt.Errorf("more than %d bytes", maxKeyFile)}
	}
	return data, err
}

// List implements keystore.Store.
func (f *Foreign) List(ctx context.Context, after string, limit int) ([]string, error) {
	if limit < 1 {
		limit = defaultPage
	}
	return f.listValid(ctx, after, limit, f.list)
}

// ReadOnly reports that the tables are another program's.
func (f *Foreign) ReadOnly() bool { return true }

// Update changes nothing: the tables are another program's.
func (f *Foreign) Update(_ context.Context, d *keystore.Domain) error {
	return fmt.Errorf("domain %s: the tables belong to another program, which is where its keys are changed: %w", d.Name, keystore.ErrReadOnly)
}

// Watch returns at once: nobody tells of changes.
func (f *Foreign) Watch(context.Context, func(string)) error { return nil }

// Status implements keystore.Reporter.
func (f *Foreign) Status(ctx context.Context) (keystore.StoreStatus, error) {
	st := keystore.StoreStatus{Kind: f.product + ", tables of another program"}
	var err error
	if st.Connect, st.Latency, err = f.answerTimes(ctx); err != nil {
		return st, err
	}
	for after := ""; ; {
		names, err := f.List(ctx, after, 10*defaultPage)
		if err != nil || len(names) == 0 {
			return st, err
		}
		st.Domains += int64(len(names))
		after = names[len(names)-1]
	}
}
