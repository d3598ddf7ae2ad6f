package vaultstore

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"waxseal/keystore"
)

// Of daemons and changes no secret gets a version: all that is told of them is
// the custom metadata of a secret that has none, which Vault replaces without
// keeping what was there. They are below status/, beside the domains:
//
//	status/nodes/NAME   a daemon: name, program, started, refreshed, seen
//	status/last         which domain was changed last, and when: domain, at
//
// A token may do without rights there: then its daemon and its changes are missing
// from the status.
const (
	statusPart = "status"
	nodesPart  = "nodes"
	lastPart   = "last"

	// nodeLife is how long a node that says nothing more is remembered, and
	// sweepEvery how often Beat looks for such.
	nodeLife   = 7 * 24 * time.Hour
	sweepEvery = time.Hour

	// noteTimeout bounds the noting of the last change, for which nobody is to
	// wait.
	noteTimeout = time.Second

	// maxNode bounds the name of a node. Vault takes values of 512 octets.
	maxNode = 253
)

var (
	_ keystore.Beater   = (*Store)(nil)
	_ keystore.Reporter = (*Store)(nil)
)

// custom is the body of a request that writes custom metadata, and what is read
// of the answer to one that reads them.
type custom struct {
	Metadata map[string]string `json:"custom_metadata"`
}

// Beat implements keystore.Beater: it notes that a node lives, and now and then
// deletes what is noted of those that have not been heard of for a week. The
// error is keystore.ErrReadOnly in another product's layout.
func (s *Store) Beat(ctx context.Context, n keystore.Node) error {
	layout, ok := s.layout.(*native)
	if !ok {
		return keystore.ErrReadOnly
	}
	ctx, cancel := context.WithTimeout(ctx, s.opts.Timeout)
	defer cancel()
	now := s.opts.Now()
	n.Name = n.Name[:min(len(n.Name), maxNode)]
	err := layout.tell(ctx, map[string]string{
		"name": n.Name, "program": n.Program, "started": formatTime(n.Started), "refreshed": formatTime(n.Refreshed), "seen": formatTime(now),
	}, statusPart, nodesPart, pathPart(n.Name))
	if err != nil {
		return fmt.Errorf("node %s: %w", n.Name, err)
	}
	last := s.swept.Load()
	if now.Sub(time.Unix(last, 0)) < sweepEvery || !s.swept.CompareAndSwap(last, now.Unix()) {
		return nil
	}
	_, silent, err := layout.nodes(ctx, now)
	for _, part := range silent {
		if err == nil {
			err = layout.kv.client.do(ctx, "DELETE", layout.kv.at("metadata", statusPart, nodesPart, part), nil, nil)
		}
	}
	if forbidden(err) {
		err = nil // others may
	}
	return err
}

// forbidden reports whether a token may not do something.
func forbidden(err error) bool {
	a := (*answerError)(nil)
	return errors.As(err, &a) && a.status == http.StatusForbidden
}

// tell writes custom metadata. A token that may not is none to be replaced for
// that reason, which would be a login every time.
func (n *native) tell(ctx context.Context, what map[string]string, parts ...string) error {
	token, err := n.kv.client.auth.current(ctx)
	if err != nil {
		return err
	}
	maps.DeleteFunc(what, func(_, value string) bool { return value == "" }) // which Vault refuses
	return n.kv.client.send(ctx, "POST", n.kv.at("metadata", parts...), token, custom{what}, nil)
}

// told reads custom metadata.
func (n *native) told(ctx context.Context, parts ...string) (map[string]string, error) {
	var answer struct{ Data custom }
	err := n.kv.client.do(ctx, "GET", n.kv.at("metadata", parts...), nil, &answer)
	return answer.Data.Metadata, notFound(err)
}

// nodes returns the nodes by name, and of those that are to be forgotten the last
// part of their path.
func (n *native) nodes(ctx context.Context, now time.Time) (nodes []keystore.Node, silent []string, err error) {
	parts, err := n.kv.list(ctx, statusPart, nodesPart)
	if err != nil {
		return nil, nil, err
	}
	for _, part := range parts {
		m, err := n.told(ctx, statusPart, nodesPart, part)
		if errors.Is(err, keystore.ErrNotFound) {
			continue // just now forgotten
		}
		if err != nil {
			return nil, nil, err
		}
		node := keystore.Node{Name: m["name"], Program: m["program"]}
		for field, to := range map[string]*time.Time{"started": &node.Started, "refreshed": &node.Refreshed, "seen": &node.Seen} {
			*to, _ = time.Parse(time.RFC3339, m[field]) // one that cannot be read is told as none
		}
		if now.Sub(node.Seen) > nodeLife {
			silent = append(silent, part)
			continue
		}
		nodes = append(nodes, node)
	}
	slices.SortFunc(nodes, func(a, b keystore.Node) int { return strings.Compare(a.Name, b.Name) })
	return nodes, silent, nil
}

// note remembers the last change, for Status. That it goes wrong is no trouble of
// the one who made the change.
func (n *native) note(ctx context.Context, domain string) {
	ctx, cancel := context.WithTimeout(ctx, noteTimeout)
	defer cancel()
	_ = n.tell(ctx, map[string]string{"domain": domain, "at": formatTime(n.opts.Now())}, statusPart, lastPart)
}

// Status implements keystore.Reporter. Other products' layouts tell neither nodes
// nor the last change.
func (s *Store) Status(ctx context.Context) (keystore.StoreStatus, error) {
	st := keystore.StoreStatus{Kind: "Vault"}
	if s.client.target.layout != "native" {
		st.Kind += ", " + s.client.target.layout + "'s keys"
	}
	var err error
	if st.Connect, st.Latency, err = keystore.AnswerTimes(ctx, s); err != nil {
		return st, err
	}
	ctx, cancel := context.WithTimeout(ctx, s.opts.Timeout)
	defer cancel()
	names, err := s.names(ctx)
	if err != nil {
		return st, fmt.Errorf("listing domains: %w", err)
	}
	st.Domains = int64(len(names))
	layout, ok := s.layout.(*native)
	if !ok {
		return st, nil
	}
	last, err := layout.told(ctx, statusPart, lastPart)
	if err == nil {
		if at, err := time.Parse(time.RFC3339, last["at"]); err == nil {
			st.LastChange, st.LastChanged = at, last["domain"]
		}
	}
	if err == nil || errors.Is(err, keystore.ErrNotFound) {
		st.Nodes, _, err = layout.nodes(ctx, s.opts.Now())
	}
	if forbidden(err) {
		err = nil
	}
	return st, err
}

func formatTime(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// pathPart makes a name one part of a path: what is not a letter, a digit or one
// of "-._:" becomes "=" and two digits.
func pathPart(name string) string {
	var b strings.Builder
	for _, c := range []byte(name) {
		if c < 0x80 && (c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("-._:", c) >= 0) {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "=%02X", c)
		}
	}
	return b.String()
}
