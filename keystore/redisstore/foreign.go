package redisstore

import (
	"bytes"
	"context"
	"crypto"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/redis/rueidis"

	"waxseal/keystore"
)

const (
	// secondLook is how long after it has named a selector mailcow may take to
	// write the key, which it does as the next thing.
	secondLook = 100 * time.Millisecond

	// scanCount is how many fields a server goes over in one step of HSCAN.
	scanCount = 1000
)

// hashes is the layout of rspamd and of mailcow, which is read only: in the hash
// keys the field SELECTOR.DOMAIN has the private half, in PEM or bare base64. The
// selector is in the field DOMAIN of the hash selectors, if there is one; fixed
// ones are looked for besides. The domains are the fields of the hash domains,
// or of selectors, or else those that the fields of keys end in.
type hashes struct {
	keys, selectors, domains string
	fixed                    []string
}

func (h *hashes) domain(ctx context.Context, c rueidis.Client, name string, private bool) (*keystore.Domain, error) {
	d, err := h.read(ctx, c, name, private)
	if err != nil || h.selectors == "" || d.Whole() == nil {
		return d, err
	}
	// mailcow writes the selector before the key, so a key that is missing may
	// be there a moment later.
	select {
	case <-time.After(secondLook):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	return h.read(ctx, c, name, private)
}

func (h *hashes) read(ctx context.Context, c rueidis.Client, name string, private bool) (*keystore.Domain, error) {
	selectors := slices.Clone(h.fixed)
	named := ""
	if h.selectors != "" {
		var err error
		named, err = c.Do(ctx, c.B().Hget().Key(h.selectors).Field(name).Build()).ToString()
		if err != nil && !rueidis.IsRedisNil(err) {
			return nil, err
		}
		if err == nil && !slices.Contains(selectors, named) {
			selectors = append([]string{named}, selectors...)
		}
	}
	if len(selectors) == 0 {
		return nil, keystore.ErrNotFound
	}
	fields := make([]string, len(selectors))
	for i, s := range selectors {
		fields[i] = s + "." + name
	}
	values, err := c.Do(ctx, c.B().Hmget().Key(h.keys).Field(fields...).Build()).ToArray()
	if err != nil {
		return nil, err
	}
	if len(values) != len(fields) {
		return nil, fmt.Errorf("%d answers to %d questions", len(values), len(fields))
	}
	f := keystore.NewForeign(name)
	for i, s := range selectors {
		text, err := values[i].ToString()
		switch {
		case rueidis.IsRedisNil(err) && s == named:
			f.AddBroken(s, fmt.Errorf("%s names it, but %s has no field %s", h.selectors, h.keys, fields[i]))
		case rueidis.IsRedisNil(err):
		case err != nil:
			return nil, err
		default:
			f.Add(s, []byte(text), func(ctx context.Context) ([]byte, error) {
				if private {
					return []byte(text), nil
				}
				return c.Do(ctx, c.B().Hget().Key(h.keys).Field(fields[i]).Build()).AsBytes()
			})
		}
	}
	return f.Domain()
}

func (h *hashes) update(context.Context, rueidis.Client, *keystore.Domain) error {
	return keystore.ErrReadOnly
}

func (h *hashes) list(ctx context.Context, c rueidis.Client, after string, limit int) ([]string, error) {
	p := &page{after: after, limit: limit}
	hash := h.domains
	if hash == "" {
		hash = h.selectors
	}
	if hash != "" {
		err := scanHash(ctx, c, hash, p.add)
		return p.names(), err
	}
	err := scanHash(ctx, c, h.keys, func(field string) {
		for _, s := range h.fixed {
			if name, ok := strings.CutPrefix(field, s+"."); ok {
				p.add(name)
			}
		}
	})
	return p.names(), err
}

// scanHash calls f with every field of a hash; with some more than once.
func scanHash(ctx context.Context, c rueidis.Client, hash string, f func(field string)) error {
	for cursor := uint64(0); ; {
		e, err := c.Do(ctx, c.B().Hscan().Key(hash).Cursor(cursor).Count(scanCount).Build()).AsScanEntry()
		if err != nil {
			return err
		}
		for i := 0; i < len(e.Elements); i += 2 {
			f(e.Elements[i])
		}
		if cursor = e.Cursor; cursor == 0 {
			return nil
		}
	}
}

// A key that is rewritten concerns all domains in its hash.
func (h *hashes) changed(string) string { return "" }

func (h *hashes) tracked() []string {
	return unrelated(h.keys, h.selectors)
}

// unrelated returns the prefixes that are not empty, and of two of which one
// begins with the other the shorter one: Redis takes no others.
func unrelated(prefixes ...string) []string {
	slices.Sort(prefixes)
	var list []string
	for _, p := range prefixes {
		if p != "" && (len(list) == 0 || !strings.HasPrefix(p, list[len(list)-1])) {
			list = append(list, p)
		}
	}
	return list
}

// tables is the layout of opendkim-ng, which is read only: strings, where
// SIGNING:DOMAIN has the name of a key, and KEYS:NAME of it
// "DOMAIN:SELECTOR:KEY", the private half in PEM or bare base64. A domain of "%"
// is that of the message.
type tables struct{ keys, signing string }

func (t *tables) domain(ctx context.Context, c rueidis.Client, name string, private bool) (*keystore.Domain, error) {
	value, err := c.Do(ctx, c.B().Get().Key(t.signing+":"+name).Build()).ToString()
	if rueidis.IsRedisNil(err) {
		return nil, keystore.ErrNotFound
	}
	if err != nil {
		return nil, err
	}
	row, _, _ := strings.Cut(value, ":") // an identity may follow
	f := keystore.NewForeign(name)
	selector, text, err := t.key(ctx, c, name, row)
	switch {
	case errors.Is(err, errRow):
		f.AddBroken(selector, err)
	case err != nil:
		return nil, err
	default:
		f.Add(selector, text, func(ctx context.Context) ([]byte, error) {
			if private {
				return bytes.Clone(text), nil
			}
			_, text, err := t.key(ctx, c, name, row)
			return text, err
		})
	}
	return f.Domain()
}

// errRow marks a row of the KeyTable that is no good.
var errRow = errors.New("row of the key table")

// key reads a row of the KeyTable.
func (t *tables) key(ctx context.Context, c rueidis.Client, name, row string) (selector string, text []byte, err error) {
	key := t.keys + ":" + row
	value, err := c.Do(ctx, c.B().Get().Key(key).Build()).ToString()
	if rueidis.IsRedisNil(err) {
		return "", nil, fmt.Errorf("%w %s: is missing, though %s:%s names it", errRow, key, t.signing, name)
	}
	if err != nil {
		return "", nil, err
	}
	parts := strings.SplitN(value, ":", 3)
	switch {
	case len(parts) < 3:
		return "", nil, fmt.Errorf("%w %s: want DOMAIN:SELECTOR:KEY", errRow, key)
	case parts[0] != "%" && !strings.EqualFold(parts[0], name):
		return "", nil, fmt.Errorf("%w %s: signs for %.80q", errRow, key, parts[0])
	case strings.HasPrefix(parts[2], "/"), strings.HasPrefix(parts[2], "./"), strings.HasPrefix(parts[2], "../"):
		return parts[1], nil, fmt.Errorf("%w %s: names a file, which other machines may not have; put the key itself there", errRow, key)
	}
	return parts[1], []byte(parts[2]), nil
}

func (t *tables) update(context.Context, rueidis.Client, *keystore.Domain) error {
	return keystore.ErrReadOnly
}

// list goes over the keys of every server of a Cluster; a replica's are those of
// another.
func (t *tables) list(ctx context.Context, c rueidis.Client, after string, limit int) ([]string, error) {
	p := &page{after: after, limit: limit}
	for _, node := range c.Nodes() {
		for cursor := uint64(0); ; {
			e, err := node.Do(ctx, node.B().Scan().Cursor(cursor).Match(glob(t.signing+":")+"*").Count(scanCount).Build()).AsScanEntry()
			if err != nil {
				return nil, err
			}
			for _, key := range e.Elements {
				p.add(strings.TrimPrefix(key, t.signing+":"))
			}
			if cursor = e.Cursor; cursor == 0 {
				break
			}
		}
	}
	return p.names(), nil
}

// glob quotes what is special in a pattern of Redis.
func glob(s string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(s)
}

func (t *tables) changed(key string) string {
	if name, ok := strings.CutPrefix(key, t.signing+":"); ok && keystore.ValidDomain(name) == nil {
		return name
	}
	return ""
}

func (t *tables) tracked() []string { return unrelated(t.keys+":", t.signing+":") }

// page collects the smallest names after the given one, in bounded memory.
type page struct {
	after string
	limit int
	found []string
}

func (p *page) add(name string) {
	if name <= p.after || keystore.ValidDomain(name) != nil {
		return
	}
	if p.found = append(p.found, name); len(p.found) >= 2*p.limit+scanCount {
		p.found = p.names()
	}
}

func (p *page) names() []string {
	slices.Sort(p.found)
	p.found = slices.Compact(p.found)
	return p.found[:min(p.limit, len(p.found))]
}

// loader puts a time limit and the server's name around a Key.Load.
func (s *Store) loader(load func(context.Context) (crypto.Signer, error)) func(context.Context) (crypto.Signer, error) {
	return func(ctx context.Context) (key crypto.Signer, err error) {
		err = s.call(ctx, func(ctx context.Context, _ rueidis.Client) error {
			key, err = load(ctx)
			return err
		})
		return key, err
	}
}
