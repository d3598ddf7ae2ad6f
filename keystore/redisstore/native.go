package redisstore

import (
	"context"
	"crypto"
	"crypto/rand"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/redis/rueidis"

	"waxseal/keystore"
)

// native is our own layout:
//
//	PREFIXdomain:NAME   a hash, with the fields
//	    version         the domain's version, a number
//	    domain          all but the private halves: see keystore.EncodeDocument
//	    key:SELECTOR    a private half, in PEM unless Options.Wrap makes
//	                    something else of it
//	    writes          marks of the last changes, to know them again
//	PREFIXdomains       a sorted set of all names, with equal scores
//	PREFIXnodes         a hash of the daemons that use the store, by name, each
//	                    a keystore.Node in JSON
//	PREFIXlast          a hash: which domain was changed last, and when
//
// A domain is one key, so that a change is atomic in a Cluster, too. Its name is
// put into the sorted set before; one that is there without its hash is what a
// crash between the two has left, and counts for nothing.
type native struct {
	prefix   string
	replicas int
	opts     Options
}

const (
	fieldVersion = "version"
	fieldDomain  = "domain"
	fieldWrites  = "writes"
	fieldKey     = "key:"

	// keptWrites is how many changes may pass between the first and the second
	// sending of one without its being taken for a conflict.
	keptWrites = 16

	// waitReplicas bounds the wait for replicas.
	waitReplicas = 2 * time.Second
)

// change replaces a domain if its version is the one expected. Arguments: the
// version expected, the new one, the mark of this change, the document, the
// number of fields to delete, these, and then fields and values to set. Done
// before, as the mark tells, it does nothing and says so.
var change = fmt.Sprintf(`
local have = redis.call('HMGET', KEYS[1], '%[1]s', '%[3]s')
local writes = have[2] or ''
if string.find(writes, ARGV[3], 1, true) then return 1 end
if (have[1] or '0') ~= ARGV[1] then return 0 end
writes = string.sub(ARGV[3] .. ' ' .. writes, 1, %[4]d * (#ARGV[3] + 1))
redis.call('HSET', KEYS[1], '%[1]s', ARGV[2], '%[2]s', ARGV[4], '%[3]s', writes)
local deleted = tonumber(ARGV[5])
for i = 6, 5 + deleted do redis.call('HDEL', KEYS[1], ARGV[i]) end
for i = 6 + deleted, #ARGV, 2 do redis.call('HSET', KEYS[1], ARGV[i], ARGV[i+1]) end
return 1
`, fieldVersion, fieldDomain, fieldWrites, keptWrites)

var errMissing = errors.New("its private half is missing; restore it from a backup, or remove the key (waxseal key remove)")

func (n *native) key(domain string) string { return n.prefix + "domain:" + domain }
func (n *native) index() string            { return n.prefix + "domains" }

func (n *native) domain(ctx context.Context, c rueidis.Client, name string, private bool) (*keystore.Domain, error) {
	d, halves, err := n.read(ctx, c, name, private)
	if err != nil {
		return nil, err
	}
	for i := range d.Keys {
		k := &d.Keys[i]
		if k.State == keystore.Removed {
			continue
		}
		selector, field := k.Selector, fieldKey+k.Selector
		stored, here := halves[field]
		here = here && private && k.State == keystore.Active
		k.Load = func(ctx context.Context) (crypto.Signer, error) {
			stored := stored
			if !here {
				var err error
				if stored, err = c.Do(ctx, c.B().Hget().Key(n.key(name)).Field(field).Build()).ToString(); err != nil {
					if rueidis.IsRedisNil(err) {
						return nil, errMissing
					}
					return nil, err
				}
			}
			return n.parse(name, selector, stored)
		}
	}
	return d, nil
}

// read reads a domain, and with private its private halves, as they are stored.
func (n *native) read(ctx context.Context, c rueidis.Client, name string, private bool) (*keystore.Domain, map[string]string, error) {
	var fields map[string]string
	if private {
		var err error
		if fields, err = c.Do(ctx, c.B().Hgetall().Key(n.key(name)).Build()).AsStrMap(); err != nil {
			return nil, nil, err
		}
	} else {
		values, err := c.Do(ctx, c.B().Hmget().Key(n.key(name)).Field(fieldVersion, fieldDomain).Build()).ToArray()
		if err != nil {
			return nil, nil, err
		}
		fields = make(map[string]string)
		for i, field := range []string{fieldVersion, fieldDomain} {
			if i < len(values) && !values[i].IsNil() {
				if fields[field], err = values[i].ToString(); err != nil {
					return nil, nil, err
				}
			}
		}
	}
	if len(fields) == 0 {
		return nil, nil, keystore.ErrNotFound
	}
	version, err := strconv.ParseUint(fields[fieldVersion], 10, 63)
	if err != nil || version == 0 {
		return nil, nil, fmt.Errorf("%w: its field %q is %.40q, want a number from 1", keystore.ErrBroken, fieldVersion, fields[fieldVersion])
	}
	d, err := keystore.DecodeDocument(name, []byte(fields[fieldDomain]))
	if err != nil {
		return nil, nil, err
	}
	d.Version = version
	return d, fields, nil
}

func (n *native) parse(domain, selector, stored string) (crypto.Signer, error) {
	if len(stored) > maxValue {
		return nil, fmt.Errorf("private half of %d bytes, want at most %d", len(stored), maxValue)
	}
	pem := []byte(stored)
	if n.opts.Unwrap != nil {
		var err error
		if pem, err = n.opts.Unwrap(domain, selector, pem); err != nil {
			return nil, err
		}
	}
	defer clear(pem)
	return keystore.ParsePrivateKey(pem)
}

func (n *native) update(ctx context.Context, c rueidis.Client, d *keystore.Domain) error {
	old, _, err := n.read(ctx, c, d.Name, false)
	switch {
	case errors.Is(err, keystore.ErrNotFound) && d.Version == 0:
	case errors.Is(err, keystore.ErrNotFound):
		return keystore.ErrConflict
	case err != nil:
		return err
	case old.Version != d.Version:
		return keystore.ErrConflict
	}
	if err := keystore.CheckUpdate(old, d); err != nil {
		return fmt.Errorf("%w: %w", errRefused, err)
	}
	args, err := n.arguments(ctx, old, d)
	if err != nil {
		return fmt.Errorf("%w: %w", errRefused, err)
	}
	if old == nil { // before the domain is there, so that none is without its name here
		if err := c.Do(ctx, c.B().Zadd().Key(n.index()).ScoreMember().ScoreMember(0, d.Name).Build()).Error(); err != nil {
			return err
		}
	}
	confirmed, err := n.send(ctx, c, change, d.Name, args)
	if err != nil {
		return err
	}
	d.Version++
	n.note(ctx, c, d.Name)
	if confirmed < n.replicas {
		return fmt.Errorf("saved as version %d, but only %d of %d replicas have it yet", d.Version, confirmed, n.replicas)
	}
	return nil
}

// arguments are those of the script.
func (n *native) arguments(ctx context.Context, old, d *keystore.Domain) ([]string, error) {
	document, err := keystore.EncodeDocument(d)
	if err != nil {
		return nil, err
	}
	if again, err := keystore.DecodeDocument(d.Name, document); err != nil || again.Whole() != nil {
		return nil, fmt.Errorf("cannot be written: %w", errors.Join(err, again.Whole()))
	}
	var gone, set []string
	for i := range d.Keys {
		k := &d.Keys[i]
		switch field := fieldKey + k.Selector; {
		case k.State == keystore.Removed:
			gone = append(gone, field)
		case d.IsNew(old, k):
			half, err := k.MarshalPrivate(ctx, d.Name, n.opts.Wrap)
			if err != nil {
				return nil, err
			}
			set = append(set, field, string(half))
		}
	}
	args := []string{strconv.FormatUint(d.Version, 10), strconv.FormatUint(d.Version+1, 10), rand.Text(), string(document), strconv.Itoa(len(gone))}
	return append(append(args, gone...), set...), nil
}

// send sends a script that changes a domain until it is answered, since an answer
// that is lost on the way tells nothing. confirmed is how many replicas have the
// change.
func (n *native) send(ctx context.Context, c rueidis.Client, script, name string, args []string) (confirmed int, err error) {
	try := func(core rueidis.CoreClient) error {
		done, err := core.Do(ctx, core.B().Eval().Script(script).Numkeys(1).Key(n.key(name)).Arg(args...).Build()).AsInt64()
		if err != nil {
			return err
		}
		if done == 0 {
			return keystore.ErrConflict
		}
		if n.replicas == 0 {
			return nil
		}
		// WAIT is about what its own connection has written.
		left := waitReplicas
		if end, ok := ctx.Deadline(); ok {
			left = min(left, time.Until(end)*3/4)
		}
		have, err := core.Do(ctx, core.B().Wait().Numreplicas(int64(n.replicas)).Timeout(max(1, left.Milliseconds())).Build()).AsInt64()
		confirmed = int(have)
		return err
	}
	for pause := firstPause; ; pause *= 2 {
		if n.replicas == 0 {
			err = try(c)
		} else {
			err = c.Dedicated(func(d rueidis.DedicatedClient) error { return try(d) })
		}
		if err == nil || !again(err) {
			return confirmed, err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return 0, fmt.Errorf("%w; whether the change was saved is not known, read the domain again", err)
		}
	}
}

// firstPause is the first pause before something is sent again; it doubles.
const firstPause = 20 * time.Millisecond

// again reports whether it makes sense to send something again: the connection
// was lost, or the server is starting, or has just become a replica.
func again(err error) bool {
	answer, ok := rueidis.IsRedisErr(err)
	if !ok {
		return !errors.Is(err, keystore.ErrConflict) && !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, rueidis.ErrClosing)
	}
	word, _, _ := strings.Cut(answer.Error(), " ")
	switch word {
	case "LOADING", "READONLY", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN":
		return true
	}
	return false
}

// list reads the sorted set, whose order is that of the bytes.
func (n *native) list(ctx context.Context, c rueidis.Client, after string, limit int) ([]string, error) {
	var page []string
	for {
		from, want := "-", limit-len(page)
		if after != "" {
			from = "(" + after
		}
		names, err := c.Do(ctx, c.B().Zrangebylex().Key(n.index()).Min(from).Max("+").Limit(0, int64(want)).Build()).AsStrSlice()
		if err != nil || len(names) == 0 {
			return page, err
		}
		ask := make(rueidis.Commands, len(names))
		for i, name := range names {
			ask[i] = c.B().Exists().Key(n.key(name)).Build()
		}
		for i, answer := range c.DoMulti(ctx, ask...) {
			there, err := answer.AsInt64()
			if err != nil {
				return nil, err
			}
			if there > 0 && keystore.ValidDomain(names[i]) == nil {
				page = append(page, names[i])
			}
		}
		if len(page) == limit || len(names) < want {
			return page, nil
		}
		after = names[len(names)-1]
	}
}

func (n *native) tracked() []string { return []string{n.prefix + "domain:"} }

func (n *native) changed(key string) string {
	name := strings.TrimPrefix(key, n.prefix+"domain:")
	if keystore.ValidDomain(name) != nil {
		return ""
	}
	return name
}
