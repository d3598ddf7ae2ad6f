package redisstore

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/redis/rueidis"

	"waxseal/keystore"
)

const (
	// nodeLife is how long a node that says nothing more is remembered.
	nodeLife = 7 * 24 * time.Hour

	// noteTimeout bounds the noting of the last change, for which nobody is to
	// wait.
	noteTimeout = time.Second

	fieldLastDomain = "domain"
	fieldLastTime   = "at"
)

var (
	_ keystore.Beater   = (*Store)(nil)
	_ keystore.Reporter = (*Store)(nil)
)

func (n *native) nodesKey() string { return n.prefix + "nodes" }
func (n *native) lastKey() string  { return n.prefix + "last" }

// Beat implements keystore.Beater: it notes that a node lives, and forgets those
// that have not been heard of for a week. The error is keystore.ErrReadOnly in
// another product's layout.
func (s *Store) Beat(ctx context.Context, n keystore.Node) error {
	layout, ok := s.layout.(*native)
	if !ok {
		return keystore.ErrReadOnly
	}
	n.Seen = s.opts.Now().UTC().Truncate(time.Second)
	n.Started, n.Refreshed = n.Started.UTC().Truncate(time.Second), n.Refreshed.UTC().Truncate(time.Second)
	value, err := json.Marshal(n)
	if err != nil {
		return fmt.Errorf("node %.80q: %w", n.Name, err)
	}
	return s.call(ctx, func(ctx context.Context, c rueidis.Client) error {
		key := layout.nodesKey()
		if err := c.Do(ctx, c.B().Hset().Key(key).FieldValue().FieldValue(n.Name, string(value)).Build()).Error(); err != nil {
			return err
		}
		_, silent, err := layout.nodes(ctx, c, n.Seen)
		if err != nil || len(silent) == 0 {
			return err
		}
		return c.Do(ctx, c.B().Hdel().Key(key).Field(silent...).Build()).Error()
	})
}

// nodes returns the nodes by name, and the names of those that are to be
// forgotten.
func (n *native) nodes(ctx context.Context, c rueidis.Client, now time.Time) (nodes []keystore.Node, silent []string, err error) {
	fields, err := c.Do(ctx, c.B().Hgetall().Key(n.nodesKey()).Build()).AsStrMap()
	if err != nil {
		return nil, nil, err
	}
	for name, value := range fields {
		var node keystore.Node
		if json.Unmarshal([]byte(value), &node) != nil || now.Sub(node.Seen) > nodeLife {
			silent = append(silent, name)
			continue
		}
		node.Name = name
		nodes = append(nodes, node)
	}
	slices.SortFunc(nodes, func(a, b keystore.Node) int { return cmp.Compare(a.Name, b.Name) })
	return nodes, silent, nil
}

// note remembers the last change, for Status. That it goes wrong is no trouble of
// the one who made the change.
func (n *native) note(ctx context.Context, c rueidis.Client, domain string) {
	ctx, cancel := context.WithTimeout(ctx, noteTimeout)
	defer cancel()
	at := n.opts.Now().UTC().Format(time.RFC3339)
	_ = c.Do(ctx, c.B().Hset().Key(n.lastKey()).FieldValue().FieldValue(fieldLastDomain, domain).FieldValue(fieldLastTime, at).Build()).Error()
}

// Status implements keystore.Reporter. Other products' layouts tell neither nodes
// nor the last change.
func (s *Store) Status(ctx context.Context) (keystore.StoreStatus, error) {
	st := keystore.StoreStatus{Kind: s.kind()}
	var err error
	if st.Connect, st.Latency, err = keystore.AnswerTimes(ctx, s); err != nil {
		return st, err
	}
	layout, ok := s.layout.(*native)
	if !ok {
		names, err := s.List(ctx, "", math.MaxInt32)
		st.Domains = int64(len(names))
		return st, err
	}
	err = s.call(ctx, func(ctx context.Context, c rueidis.Client) error {
		if st.Domains, err = c.Do(ctx, c.B().Zcard().Key(layout.index()).Build()).AsInt64(); err != nil {
			return err
		}
		last, err := c.Do(ctx, c.B().Hgetall().Key(layout.lastKey()).Build()).AsStrMap()
		if err != nil {
			return err
		}
		if at, err := time.Parse(time.RFC3339, last[fieldLastTime]); err == nil {
			st.LastChange, st.LastChanged = at.UTC(), last[fieldLastDomain]
		}
		st.Nodes, _, err = layout.nodes(ctx, c, s.opts.Now())
		return err
	})
	return st, err
}

// kind says what the store is.
func (s *Store) kind() string {
	kind := "Redis"
	switch s.url.mode {
	case "sentinel":
		kind += " with Sentinel"
	case "cluster":
		kind += " Cluster"
	}
	if s.ReadOnly() {
		kind += ", " + s.url.layout + "'s keys"
	}
	return kind
}
