package sqlstore

import (
	"context"
	"database/sql"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"time"

	"waxseal/keystore"
)

// The kinds of rows that a query of a domain returns.
const (
	domainRow = iota
	keyRow
	slotRow
	historyRow
)

// keyColumns are those of waxseal_key that hold text, in the order of keyTexts.
const keyColumns = `algorithm, state, public, created, activated, retired, revoked, removed, published, seen, ready, withdrawn, note, reason`

// domainQuery reads a domain by one statement, so that what it returns was there
// at one time. Rows of all kinds have the columns of a key.
const domainQuery = `SELECT 1, number, urgent, selector, ` + keyColumns + `, '' FROM waxseal_key WHERE domain = ?
UNION ALL SELECT 0, version, 0, '', '', '', '', '', '', '', '', '', '', '', '', '', '', '', '' FROM waxseal_domain WHERE name = ?
UNION ALL SELECT 2, number, 0, selector, target, '', '', '', '', '', '', '', '', '', '', '', '', '', '' FROM waxseal_slot WHERE domain = ?
UNION ALL SELECT 3, number, forced, selector, what, done_by, '', at, '', '', '', '', '', '', '', '', '', reason, '' FROM waxseal_history WHERE domain = ?
ORDER BY 1, 2`

// signingQuery leaves out what signing does not need, and brings the private
// halves of keys that sign.
const signingQuery = `SELECT 1, number, urgent, selector, ` + keyColumns + `, CASE WHEN state = 'active' THEN private ELSE '' END FROM waxseal_key WHERE domain = ?
UNION ALL SELECT 0, version, 0, '', '', '', '', '', '', '', '', '', '', '', '', '', '', '', '' FROM waxseal_domain WHERE name = ?
ORDER BY 1, 2`

// row is a row of these queries.
type row struct {
	kind, number, flag int64
	selector           string
	text               [14]string // keyColumns
	private            []byte
}

// readDomain is a domain as the database has it.
type readDomain struct {
	name    string
	found   bool
	version int64
	rows    []row
	private map[string][]byte // by selector
}

// querier is a *sql.DB or a *sql.Tx.
type querier interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

// readRows runs domainQuery or signingQuery, whose parameters are all the name.
func readRows(ctx context.Context, q querier, query, name string) (*readDomain, error) {
	args := []any{name, name, name, name}
	if query := strings.Count(query, "WHERE"); query < len(args) {
		args = args[:query]
	}
	rows, err := q.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	d := &readDomain{name: name, private: map[string][]byte{}}
	for rows.Next() {
		var r row
		var selector sql.NullString
		var text [14]sql.NullString
		into := []any{&r.kind, &r.number, &r.flag, &selector}
		for i := range text {
			into = append(into, &text[i])
		}
		if err := rows.Scan(append(into, &r.private)...); err != nil {
			return nil, err
		}
		r.selector = selector.String
		for i := range text {
			r.text[i] = text[i].String
		}
		switch r.kind {
		case domainRow:
			d.found, d.version = true, r.number
		case keyRow:
			d.private[r.selector] = r.private
			fallthrough
		default:
			d.rows = append(d.rows, r)
		}
	}
	return d, rows.Err()
}

// decode makes a keystore.Domain of the rows, and notes those that it cannot
// read.
func (r *readDomain) decode() (*keystore.Domain, error) {
	switch {
	case !r.found:
		return nil, fmt.Errorf("domain %s: %w", r.name, keystore.ErrNotFound)
	case r.version < 1:
		return nil, fmt.Errorf("domain %s: %w: table waxseal_domain has the version %d, want one from 1", r.name, keystore.ErrBroken, r.version)
	}
	d := &keystore.Domain{Name: r.name, Version: uint64(r.version)}
	for i := range r.rows {
		row := &r.rows[i]
		var err error
		switch row.kind {
		case keyRow:
			var k keystore.Key
			if k, err = row.key(); err == nil {
				err = (&keystore.Domain{Name: r.name, Keys: []keystore.Key{k}}).Validate()
			}
			if err == nil {
				d.Keys = append(d.Keys, k)
			}
		case slotRow:
			s := keystore.Slot{Selector: row.selector, Target: row.text[0]}
			if err = (&keystore.Domain{Name: r.name, Slots: []keystore.Slot{s}}).Validate(); err == nil {
				d.Slots = append(d.Slots, s)
			}
		case historyRow:
			var e keystore.Event
			if e, err = row.event(); err == nil {
				err = (&keystore.Domain{Name: r.name, History: []keystore.Event{e}}).Validate()
			}
			if err == nil {
				d.History = append(d.History, e)
			}
		}
		if err != nil {
			d.Unreadable = append(d.Unreadable, row.bad(r.name, err))
		}
	}
	return d, nil
}

// nextEvent is the number of the next row of the history. It is not the count of
// those that are there: old rows may have been deleted by hand.
func (r *readDomain) nextEvent() int64 {
	next := int64(0)
	for i := range r.rows {
		if row := &r.rows[i]; row.kind == historyRow {
			next = max(next, row.number+1)
		}
	}
	return next
}

// bad says what is wrong with a row.
func (r *row) bad(domain string, err error) keystore.BadRow {
	table := map[int64]string{keyRow: "waxseal_key", slotRow: "waxseal_slot", historyRow: "waxseal_history"}[r.kind]
	where := fmt.Sprintf("selector %.80q", r.selector)
	if r.kind == historyRow {
		where = fmt.Sprintf("number %d", r.number)
	}
	b := keystore.BadRow{Err: fmt.Errorf("table %s, domain %s, %s: %w; correct the row, or restore it from a backup", table, domain, where, err)}
	if r.kind != keyRow {
		return b
	}
	if keystore.ValidSelector(r.selector) == nil {
		b.Selector = r.selector
	}
	switch keystore.State(r.text[1]) {
	case keystore.Pending, keystore.Retired, keystore.Revoked, keystore.Removed:
	default:
		b.Active = true
	}
	return b
}

func (r *row) key() (keystore.Key, error) {
	k := keystore.Key{
		Selector: r.selector, Algorithm: keystore.Algorithm(r.text[0]), State: keystore.State(r.text[1]),
		Urgent: r.flag != 0, Note: r.text[12], Reason: r.text[13],
	}
	public, err := base64.StdEncoding.Strict().DecodeString(r.text[2])
	if err != nil {
		return k, errors.New("column public is not base64")
	}
	if len(public) > 0 {
		k.Public = public
	}
	for i, at := range times(&k) {
		if *at, err = parseTime(r.text[3+i]); err != nil {
			return k, err
		}
	}
	return k, nil
}

func (r *row) event() (keystore.Event, error) {
	e := keystore.Event{Selector: r.selector, What: keystore.What(r.text[0]), By: r.text[1], Reason: r.text[13], Forced: r.flag != 0}
	var err error
	e.Time, err = parseTime(r.text[3])
	return e, err
}

// times are the time stamps of a key in the order of keyColumns.
func times(k *keystore.Key) []*time.Time {
	return []*time.Time{&k.Created, &k.Activated, &k.Retired, &k.Revoked, &k.Removed, &k.Published, &k.Seen, &k.Ready, &k.Withdrawn}
}

// keyTexts are the values of keyColumns. keyRow reads them back.
func keyTexts(k *keystore.Key) []any {
	texts := []any{string(k.Algorithm), string(k.State), base64.StdEncoding.EncodeToString(k.Public)}
	for _, at := range times(k) {
		texts = append(texts, formatTime(*at))
	}
	return append(texts, k.Note, k.Reason)
}

func formatTime(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339Nano)
}

func parseTime(s string) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		return t, fmt.Errorf("%.40q is no time such as 2026-01-31T12:00:00Z", s)
	}
	return t.UTC(), nil
}
