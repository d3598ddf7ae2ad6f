package sqlstore

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"slices"
	"strings"
	"time"

	"waxseal/keystore"
)

// Update implements keystore.Store by one transaction. It begins with the
// comparison, which locks the domain's row, and ends with the change counter.
func (s *Store) Update(ctx context.Context, d *keystore.Domain) error {
	what := "domain " + d.Name
	if err := keystore.ValidDomain(d.Name); err != nil {
		return err
	}
	if err := d.Validate(); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	bounded, cancel := context.WithTimeout(ctx, s.opts.Timeout)
	defer cancel()
	u := &update{store: s, domain: d, token: rand.Text()}
	var err error
	for try := range attempts {
		if err = bounded.Err(); err != nil {
			break
		}
		if err = s.noticed(u.run(bounded)); err == nil {
			d.Version++
			return nil
		}
		if ours := (refused{}); errors.As(err, &ours) {
			// What is in the way may be the try before this one, whose
			// transaction the server had not finished when it was looked for.
			if try > 0 && errors.Is(err, keystore.ErrConflict) {
				if saved, _ := u.saved(bounded); saved {
					d.Version++
					return nil
				}
			}
			return fmt.Errorf("%s: %w", what, ours.error)
		}
		if !s.lost(err) && !s.busy(err) && !s.readOnly(err) {
			break
		}
		pause := time.NewTimer(mathrand.N(20*time.Millisecond) << try)
		select {
		case <-pause.C:
		case <-bounded.Done():
			pause.Stop()
		}
	}
	return s.explain(ctx, bounded, what, err)
}

// refused is an error that is not the database's.
type refused struct{ error }

func (r refused) Unwrap() error { return r.error }

// update is one Update at work.
type update struct {
	store  *Store
	domain *keystore.Domain
	old    *keystore.Domain // nil when the domain is new
	event  int64            // number of the next row of the history
	token  string           // marks the domain's row as changed by this update
	tx     *sql.Tx
}

// exec runs a statement and returns how many rows it has changed.
func (u *update) exec(ctx context.Context, query string, args ...any) (int64, error) {
	r, err := u.tx.ExecContext(ctx, u.store.bind(query), args...)
	if err != nil {
		return 0, err
	}
	return r.RowsAffected()
}

// run is one try.
func (u *update) run(ctx context.Context) (err error) {
	if u.tx, err = u.store.db.BeginTx(ctx, u.store.tx); err != nil {
		return err
	}
	defer u.tx.Rollback()
	if err := u.compare(ctx); err != nil {
		return err
	}
	if err := u.writeKeys(ctx); err != nil {
		return err
	}
	if err := u.writeSlots(ctx); err != nil {
		return err
	}
	if err := u.writeHistory(ctx); err != nil {
		return err
	}
	if err := u.count(ctx); err != nil {
		return err
	}
	if err := u.tx.Commit(); err != nil {
		return u.settle(ctx, err)
	}
	return nil
}

// compare takes the domain's row if it has the version that the change was made
// from.
func (u *update) compare(ctx context.Context) error {
	d := u.domain
	at := formatTime(u.store.opts.Now().Truncate(time.Second))
	if d.Version == 0 {
		u.old, u.event = nil, 0
		_, err := u.exec(ctx, `INSERT INTO waxseal_domain (name, version, changed, changed_at, changed_by) VALUES (?, 1, 0, ?, ?)`, d.Name, at, u.token)
		switch {
		case err != nil && u.store.exists(err):
			return refused{keystore.ErrConflict}
		case err != nil:
			return err
		}
	} else {
		n, err := u.exec(ctx, `UPDATE waxseal_domain SET version = version + 1, changed_at = ?, changed_by = ? WHERE name = ? AND version = ?`, at, u.token, d.Name, int64(d.Version))
		switch {
		case err != nil:
			return err
		case n == 0:
			return refused{keystore.ErrConflict}
		}
		read, err := readRows(ctx, u.tx, u.store.domainQuery, d.Name)
		if err != nil {
			return err
		}
		if u.old, err = read.decode(); err != nil {
			return refused{err}
		}
		u.old.Version = d.Version
		u.event = read.nextEvent()
	}
	if err := keystore.CheckUpdate(u.old, d); err != nil {
		return refused{err}
	}
	return nil
}

// writeKeys writes the rows of keys that differ.
func (u *update) writeKeys(ctx context.Context) error {
	for i := range u.domain.Keys {
		k := &u.domain.Keys[i]
		var was *keystore.Key
		at := -1
		if u.old != nil {
			at = slices.IndexFunc(u.old.Keys, func(o keystore.Key) bool { return o.Selector == k.Selector })
		}
		if at >= 0 {
			was = &u.old.Keys[at]
		}
		private, change := "", k.State == keystore.Removed // what column private becomes, if it does
		if k.State != keystore.Removed && u.domain.IsNew(u.old, k) {
			text, err := k.MarshalPrivate(ctx, u.domain.Name, u.store.opts.Wrap)
			if err != nil {
				return refused{err}
			}
			private, change = string(text), true
		}
		urgent := 0
		if k.Urgent {
			urgent = 1
		}
		values := keyTexts(k)
		var err error
		switch {
		case was == nil:
			_, err = u.exec(ctx, `INSERT INTO waxseal_key (`+keyColumns+`, number, urgent, private, domain, selector) VALUES (`+strings.Repeat("?, ", len(values)+4)+`?)`,
				append(values, i, urgent, private, u.domain.Name, k.Selector)...)
		case at == i && was.Urgent == k.Urgent && slices.Equal(values, keyTexts(was)):
		case change:
			_, err = u.exec(ctx, `UPDATE waxseal_key SET `+assign(keyColumns)+`, number = ?, urgent = ?, private = ? WHERE domain = ? AND selector = ?`,
				append(values, i, urgent, private, u.domain.Name, k.Selector)...)
		default:
			_, err = u.exec(ctx, `UPDATE waxseal_key SET `+assign(keyColumns)+`, number = ?, urgent = ? WHERE domain = ? AND selector = ?`,
				append(values, i, urgent, u.domain.Name, k.Selector)...)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// assign makes "a = ?, b = ?" of "a, b".
func assign(columns string) string {
	return strings.ReplaceAll(columns, ",", " = ?,") + " = ?"
}

func (u *update) writeSlots(ctx context.Context) error {
	var old []keystore.Slot
	if u.old != nil {
		old = u.old.Slots
	}
	if slices.Equal(old, u.domain.Slots) {
		return nil
	}
	if _, err := u.exec(ctx, `DELETE FROM waxseal_slot WHERE domain = ?`, u.domain.Name); err != nil {
		return err
	}
	for i, slot := range u.domain.Slots {
		if _, err := u.exec(ctx, `INSERT INTO waxseal_slot (domain, selector, number, target) VALUES (?, ?, ?, ?)`, u.domain.Name, slot.Selector, i, slot.Target); err != nil {
			return err
		}
	}
	return nil
}

// writeHistory adds the events that the database does not have.
func (u *update) writeHistory(ctx context.Context) error {
	known := 0
	if u.old != nil {
		known = len(u.old.History)
	}
	for i, e := range u.domain.History[known:] {
		forced := 0
		if e.Forced {
			forced = 1
		}
		if _, err := u.exec(ctx, `INSERT INTO waxseal_history (domain, number, at, selector, what, done_by, reason, forced) VALUES (?, ?, ?, ?, ?, ?, ?, ?)`,
			u.domain.Name, u.event+int64(i), formatTime(e.Time), e.Selector, string(e.What), e.By, e.Reason, forced); err != nil {
			return err
		}
	}
	return nil
}

// count gives the change its number and announces it. The schema has to be the
// one that this program knows: an older program must not write what a newer one
// would misread.
func (u *update) count(ctx context.Context) error {
	if _, err := u.exec(ctx, `UPDATE waxseal_meta SET value = value + 1 WHERE name = 'change'`); err != nil {
		return err
	}
	var schema int
	err := u.tx.QueryRowContext(ctx, `SELECT value FROM waxseal_meta WHERE name = 'schema'`).Scan(&schema)
	switch {
	case errors.Is(err, sql.ErrNoRows):
	case err != nil:
		return err
	}
	if schema != len(migrations) {
		return refused{fmt.Errorf("%s: its tables are of version %d, want %d; run \"waxseal store migrate\", or a newer waxseal", u.store.product, schema, len(migrations))}
	}
	if _, err := u.exec(ctx, `UPDATE waxseal_domain SET changed = (SELECT value FROM waxseal_meta WHERE name = 'change') WHERE name = ?`, u.domain.Name); err != nil {
		return err
	}
	if u.store.dialect == postgres {
		_, err := u.exec(ctx, `SELECT pg_notify('`+channel+`', ?)`, u.domain.Name)
		return err
	}
	return nil
}

// settle finds out whether a transaction was committed whose COMMIT had no
// answer.
func (u *update) settle(ctx context.Context, cause error) error {
	if !u.store.lost(cause) && ctx.Err() == nil {
		return cause
	}
	// The caller's patience may be what ended the COMMIT.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleTimeout)
	defer cancel()
	switch saved, err := u.saved(ctx); {
	case err != nil:
		return refused{fmt.Errorf("%s: the connection was lost while the change was saved (%w), and whether it is saved cannot be told (%w); read the domain again", u.store.product, cause, err)}
	case saved:
		return nil
	}
	return cause
}

// saved reports whether the domain's row is as this update has made it. Reading
// it with a lock waits for a transaction that the server has not yet given up.
func (u *update) saved(ctx context.Context) (bool, error) {
	var token string
	err := u.store.reading(ctx, "outcome of a change", func(ctx context.Context) error {
		tx, err := u.store.db.BeginTx(ctx, u.store.tx)
		if err != nil {
			return err
		}
		defer tx.Rollback()
		token = ""
		err = tx.QueryRowContext(ctx, u.store.bind(`SELECT changed_by FROM waxseal_domain WHERE name = ?`+u.store.lock), u.domain.Name).Scan(&token)
		if errors.Is(err, sql.ErrNoRows) {
			return nil
		}
		return err
	})
	return token == u.token, err
}

// settleTimeout bounds the look for the outcome of a change.
const settleTimeout = 3 * time.Second
