package sqlstore

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"

	"waxseal/keystore"
)

const (
	// maxSenderRows bounds the rows of one author: each one signs every message.
	maxSenderRows = 20

	// maxLocal is the greatest length of a local part (RFC 5321, 4.5.3.1.1).
	maxLocal = 64
)

// senderRow is a row of the query of senders.
type senderRow struct {
	pattern, domain, selector, identity string
}

// KnowsSenders reports whether there is a query of senders.
func (f *Foreign) KnowsSenders() bool { return f.senders != "" }

// Sender implements keystore.SenderStore by one query, which is asked for all
// that a row about the author may have: see senderPatterns.
func (f *Foreign) Sender(ctx context.Context, address string) (*keystore.Sender, error) {
	what := "author " + address
	at := strings.LastIndexByte(address, '@')
	if at < 0 || keystore.ValidDomain(address[at+1:]) != nil {
		return nil, fmt.Errorf("%s: no address", what)
	}
	domain := address[at+1:]
	patterns := senderPatterns(address[:at], domain)
	// Each ? becomes as many as there are patterns.
	query := f.bind(strings.ReplaceAll(f.senders, "?", strings.Repeat("?, ", len(patterns)-1)+"?"))
	args := make([]any, len(patterns))
	for i, p := range patterns {
		args[i] = p
	}
	args = slices.Repeat(args, strings.Count(f.senders, "?"))

	var rows []senderRow
	best := len(patterns)
	err := f.reading(ctx, what, func(ctx context.Context) error {
		rows, best = nil, len(patterns)
		return f.eachSenderRow(ctx, query, args, func(r senderRow) error {
			n := slices.IndexFunc(patterns, func(p string) bool { return equal(r.pattern, p) })
			switch {
			case n < 0 && !isASCII(r.pattern):
				return nil // for some collations an author is equal to one with accents, or with a NUL
			case n < 0:
				return fmt.Errorf("the query of senders returns a row for %.80q, which it was not asked for; its first column has to be what it compares with ?: %w", r.pattern, keystore.ErrBroken)
			case n > best:
				return nil
			case n < best:
				rows, best = rows[:0], n
			}
			if len(rows) <= maxSenderRows {
				rows = append(rows, r)
			}
			return nil
		})
	})
	if err != nil {
		return nil, err
	}
	if best == len(patterns) {
		return &keystore.Sender{}, nil
	}
	return f.sender(patterns[best], domain, rows), nil
}

// isASCII reports whether all of it can be seen: some collations pass over what
// cannot.
func isASCII(s string) bool {
	return !strings.ContainsFunc(s, func(c rune) bool { return c < ' ' || c > '~' })
}

// lower returns a name in lower case, if it is one: other letters may have letters
// of ASCII as theirs, and the name be that of somebody else.
func lower(name string) string {
	if isASCII(name) {
		return strings.ToLower(name)
	}
	return name
}

// senderPatterns are what a row may have that is about an author, most specific
// first, in the order in which OpenDKIM looks into its signing table. Without a
// local part there are those that need none.
func senderPatterns(local, domain string) []string {
	if len(local) > maxLocal || strings.ContainsFunc(local, func(c rune) bool { return c < ' ' || c > '~' }) {
		local = "" // no row is about such an address, and not every database would take it
	}
	var list []string
	add := func(host string) {
		if local != "" {
			list = append(list, local+"@"+host)
		}
		list = append(list, host)
	}
	add(domain)
	for dot := strings.IndexByte(domain, '.'); dot >= 0; dot = strings.IndexByte(domain, '.') {
		add(domain[dot:])
		domain = domain[dot+1:]
	}
	add("*")
	return list
}

// eachSenderRow calls f for each row of the query of senders.
func (f *Foreign) eachSenderRow(ctx context.Context, query string, args []any, each func(senderRow) error) error {
	rows, err := f.db.QueryContext(ctx, query, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	columns, err := rows.Columns()
	if err != nil {
		return err
	}
	if len(columns) != 3 && len(columns) != 4 {
		return fmt.Errorf("the query of senders returns %d columns, want what is compared with ?, the domain, the selector, and perhaps the identity: %w", len(columns), keystore.ErrBroken)
	}
	for rows.Next() {
		var values [4]sql.NullString
		into := []any{&values[0], &values[1], &values[2], &values[3]}
		if err := rows.Scan(into[:len(columns)]...); err != nil {
			return err
		}
		if err := each(senderRow{values[0].String, values[1].String, values[2].String, values[3].String}); err != nil {
			return err
		}
	}
	return rows.Err()
}

// sender makes an answer of the rows of one pattern.
func (f *Foreign) sender(pattern, author string, rows []senderRow) *keystore.Sender {
	s := &keystore.Sender{Row: pattern}
	if len(rows) > maxSenderRows {
		rows = rows[:maxSenderRows]
		s.Broken = append(s.Broken, fmt.Errorf("there are more than %d rows for %s, and no more than these sign", maxSenderRows, pattern))
	}
	for _, row := range rows {
		k, err := f.senderKey(author, row)
		if err != nil {
			s.Broken = append(s.Broken, fmt.Errorf("the row for %s, domain %.80q, selector %.80q: %w", pattern, row.domain, row.selector, err))
			continue
		}
		same := func(other keystore.SenderKey) bool { return other.Domain == k.Domain && other.Selector == k.Selector }
		if !slices.ContainsFunc(s.Keys, same) {
			s.Keys = append(s.Keys, k)
		}
	}
	// The database returns rows in any order. The author's own domain comes first.
	slices.SortFunc(s.Keys, func(a, b keystore.SenderKey) int {
		if (a.Domain == author) != (b.Domain == author) {
			if a.Domain == author {
				return -1
			}
			return 1
		}
		return cmp.Or(strings.Compare(a.Domain, b.Domain), strings.Compare(a.Selector, b.Selector))
	})
	return s
}

// senderKey makes a key of a row, in which % is the author's domain, as with
// OpenDKIM: as the whole domain, and anywhere in the identity.
func (f *Foreign) senderKey(author string, row senderRow) (k keystore.SenderKey, err error) {
	k.Domain = lower(strings.TrimSpace(row.domain))
	if k.Domain == "%" {
		k.Domain = author
	}
	k.Selector = f.prefix + lower(strings.TrimSpace(row.selector))
	k.Identity = strings.ReplaceAll(strings.TrimSpace(row.identity), "%", author)
	if err := errors.Join(keystore.ValidDomain(k.Domain), keystore.ValidSelector(k.Selector)); err != nil {
		return k, err
	}
	if k.Identity == "" {
		return k, nil
	}
	at := strings.LastIndexByte(k.Identity, '@')
	if at < 0 {
		return k, fmt.Errorf("identity %.80q: want an address, or @ and a domain", k.Identity)
	}
	local, domain := k.Identity[:at], lower(k.Identity[at+1:])
	if len(local) > maxLocal || strings.ContainsFunc(local, func(c rune) bool { return c <= ' ' || c > '~' }) {
		return k, fmt.Errorf("identity %.80q: want at most %d characters of ASCII before the @, without blanks", k.Identity, maxLocal)
	}
	if keystore.ValidDomain(domain) != nil || domain != k.Domain && !strings.HasSuffix(domain, "."+k.Domain) {
		return k, fmt.Errorf("identity %.80q: not in the signing domain %s or below it (RFC 6376, section 3.5)", k.Identity, k.Domain)
	}
	k.Identity = local + "@" + domain
	return k, nil
}
