package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"strings"
	"time"

	"waxseal/keystore"
)

// nodeLife is how long a node that says nothing more is remembered.
const nodeLife = 7 * 24 * time.Hour

// Beat implements keystore.Beater: it notes that a node lives, and forgets those that have not
// been heard of for a week.
func (s *Store) Beat(ctx context.Context, n keystore.Node) error {
	n.Name = strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' { // which the column does not take
			return '?'
		}
		return r
	}, n.Name)
	n.Name = n.Name[:min(len(n.Name), 253)]
	return s.reading(ctx, "heartbeat", func(ctx context.Context) error {
		now := s.opts.Now()
		tx, err := s.db.BeginTx(ctx, s.tx)
		if err != nil {
			return err
		}
		defer tx.Rollback()
		for _, each := range []struct {
			query string
			args  []any
		}{
			{`DELETE FROM waxseal_node WHERE name = ? OR seen < ?`, []any{n.Name, formatTime(now.Add(-nodeLife).Truncate(time.Second))}},
			{`INSERT INTO waxseal_node (name, program, started, refreshed, seen) VALUES (?, ?, ?, ?, ?)`,
				[]any{n.Name, n.Program, formatTime(n.Started.Truncate(time.Second)), formatTime(n.Refreshed.Truncate(time.Second)), formatTime(now.Truncate(time.Second))}},
		} {
			if _, err := tx.ExecContext(ctx, s.bind(each.query), each.args...); err != nil {
				return err
			}
		}
		return tx.Commit()
	})
}

// Nodes returns the nodes that Beat has told of, by name.
func (s *Store) Nodes(ctx context.Context) ([]keystore.Node, error) {
	var nodes []keystore.Node
	err := s.reading(ctx, "nodes", func(ctx context.Context) error {
		nodes = nil
		return s.each(ctx, `SELECT name, program, started, refreshed, seen FROM waxseal_node ORDER BY name`, nil, func(scan func(...any) error) error {
			var n keystore.Node
			var at [3]string
			if err := scan(&n.Name, &n.Program, &at[0], &at[1], &at[2]); err != nil {
				return err
			}
			for i, to := range []*time.Time{&n.Started, &n.Refreshed, &n.Seen} {
				*to, _ = parseTime(at[i]) // one that cannot be read is told as none
			}
			nodes = append(nodes, n)
			return nil
		})
	})
	return nodes, err
}

// Status implements keystore.Reporter.
func (s *Store) Status(ctx context.Context) (keystore.StoreStatus, error) {
	st := keystore.StoreStatus{Kind: s.product, SchemaWanted: len(migrations)}
	var err error
	if st.Connect, st.Latency, err = s.answerTimes(ctx); err != nil {
		return st, err
	}
	if st.Schema, err = s.Schema(ctx); err != nil {
		return st, err
	}
	if st.Schema == 0 {
		return st, nil
	}
	err = s.reading(ctx, "status", func(ctx context.Context) error {
		var at string
		if err := s.db.QueryRowContext(ctx, `SELECT count(*) FROM waxseal_domain`).Scan(&st.Domains); err != nil {
			return err
		}
		err := s.db.QueryRowContext(ctx, `SELECT name, changed_at FROM waxseal_domain ORDER BY changed DESC LIMIT 1`).Scan(&st.LastChanged, &at)
		if errors.Is(err, sql.ErrNoRows) {
			return nil
		}
		st.LastChange, _ = parseTime(at)
		return err
	})
	if err != nil {
		return st, err
	}
	st.Nodes, err = s.Nodes(ctx)
	return st, err
}

// answerTimes says how long the first answer takes, with making the connection if
// there is none, and the next.
func (d *database) answerTimes(ctx context.Context) (first, next time.Duration, err error) {
	for _, took := range []*time.Duration{&first, &next} {
		began := time.Now()
		err := d.reading(ctx, "status", func(ctx context.Context) error {
			return d.db.QueryRowContext(ctx, `SELECT 1`).Scan(new(int))
		})
		if err != nil {
			return 0, 0, err
		}
		*took = time.Since(began)
	}
	return first, next, nil
}
