package sqlstore

import (
	"context"
	"fmt"
	"time"
)

const (
	// channel is where PostgreSQL announces the names of changed domains.
	channel = "waxseal"

	// pollEvery is how often the change counter is looked at where the database
	// announces nothing. It is one row, which is always in memory.
	pollEvery = time.Second

	// silence is how long the connection to PostgreSQL may be silent before it
	// is asked whether it still stands.
	silence = 20 * time.Second
)

// Watch implements keystore.Store: by LISTEN on PostgreSQL, elsewhere, and on a
// standby, by a look at the change counter every second.
func (s *Store) Watch(ctx context.Context, changed func(domain string)) error {
	watch := s.poll
	if s.listen != nil {
		watch = s.hear
	}
	err := watch(ctx, changed)
	if err != nil && s.readOnly(err) { // a standby takes no LISTEN
		err = s.poll(ctx, changed)
	}
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// hear reports what PostgreSQL announces.
func (s *Store) hear(ctx context.Context, changed func(domain string)) error {
	bounded, cancel := context.WithTimeout(ctx, s.opts.Timeout)
	conn, err := s.listen(bounded)
	if err == nil {
		defer conn.Close(context.WithoutCancel(ctx))
		_, err = conn.Exec(bounded, "LISTEN "+channel)
	}
	if err != nil {
		err = s.explain(ctx, bounded, "watching", err)
	}
	cancel()
	if err != nil {
		return err
	}
	changed("") // what happened before now
	for {
		bounded, cancel := context.WithTimeout(ctx, silence)
		n, err := conn.WaitForNotification(bounded)
		quiet := bounded.Err() != nil && ctx.Err() == nil
		cancel()
		switch {
		case err == nil:
			changed(n.Payload)
		case quiet && !conn.IsClosed():
			bounded, cancel := context.WithTimeout(ctx, s.opts.Timeout)
			err := conn.Ping(bounded)
			cancel()
			if err != nil {
				return fmt.Errorf("watching: %s: the connection is dead: %w", s.product, err)
			}
		default:
			return fmt.Errorf("watching: %s: %w", s.product, err)
		}
	}
}

// maxNews is how many changed domains are reported one by one.
const maxNews = 1000

// poll reports what has changed since the counter was last looked at. A domain
// that changes between the two queries gets a number above the one that was
// read: the next round reports it.
func (s *Store) poll(ctx context.Context, changed func(domain string)) error {
	last, err := s.counter(ctx)
	if err != nil {
		return err
	}
	changed("") // what happened before now
	ticker := time.NewTicker(pollEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		now, err := s.counter(ctx)
		if err != nil {
			return err
		}
		if now == last {
			continue
		}
		var names []string
		err = s.reading(ctx, "changes", func(ctx context.Context) error {
			names = names[:0]
			return s.each(ctx, s.bind(`SELECT name FROM waxseal_domain WHERE changed > ? AND changed <= ? ORDER BY changed LIMIT ?`), []any{last, now, maxNews},
				func(scan func(...any) error) error {
					var name string
					err := scan(&name)
					names = append(names, name)
					return err
				})
		})
		if err != nil {
			return err
		}
		if now < last || len(names) == maxNews { // restored from a backup, or too much
			names = []string{""}
		}
		for _, name := range names {
			changed(name)
		}
		last = now
	}
}

// counter reads the change counter.
func (s *Store) counter(ctx context.Context) (int64, error) {
	var n int64
	err := s.reading(ctx, "watching", func(ctx context.Context) error {
		return s.db.QueryRowContext(ctx, `SELECT value FROM waxseal_meta WHERE name = 'change'`).Scan(&n)
	})
	return n, err
}
