package vaultstore

import (
	"context"
	"crypto"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"waxseal/keystore"
)

// native is our own layout: a secret of version 2 for each domain, named after
// it, whose version is the domain's. Besides, below status/, there are secrets
// without versions, whose custom metadata are all they have: see status.go.
type native struct {
	kv      engine
	transit *transit // nil: none
	opts    Options
}

// domainSecret is what such a secret holds.
type domainSecret struct {
	Domain json.RawMessage `json:"domain"` // see keystore.EncodeDocument

	// Keys are the private halves by selector: PEM, or what Options.Wrap makes
	// of it, or "transit:" and the name of a key in the transit engine.
	Keys map[string]string `json:"keys,omitempty"`

	// Gone are the names of keys in the transit engine that belong to nothing any
	// more, and may not be deleted yet.
	Gone []string `json:"gone,omitempty"`

	// Writes are marks of the last changes, to know them again.
	Writes []string `json:"writes"`
}

const (
	inTransit = "transit:"

	// keptWrites is how many changes may pass before one whose answer was lost
	// is taken for a conflict.
	keptWrites = 16

	// maxValue bounds a private half: see keystore.ParsePrivateKey.
	maxValue = 64 << 10

	// maxSecretSize is what Vault's own storage (Raft) takes as one entry by
	// default, less room for what it adds.
	maxSecretSize = 1<<20 - 16<<10
)

var errMissing = errors.New("its private half is missing; restore it from a backup, or remove the key (waxseal key remove)")

func (n *native) domain(ctx context.Context, name string, private bool) (*keystore.Domain, error) {
	d, s, _, err := n.read(ctx, name)
	if err != nil {
		return nil, err
	}
	for i := range d.Keys {
		k := &d.Keys[i]
		if k.State == keystore.Removed {
			continue
		}
		stored, ok := s.Keys[k.Selector]
		row := *k
		switch {
		case ok && strings.HasPrefix(stored, inTransit), private && k.State == keystore.Active:
			k.Load = func(ctx context.Context) (crypto.Signer, error) {
				if err := ctx.Err(); err != nil {
					return nil, err
				}
				return n.parse(name, &row, stored, ok)
			}
		default:
			k.Load = func(ctx context.Context) (crypto.Signer, error) {
				ctx, cancel := context.WithTimeout(ctx, n.opts.Timeout)
				defer cancel()
				_, s, _, err := n.read(ctx, name)
				if err != nil {
					return nil, err
				}
				stored, ok := s.Keys[row.Selector]
				return n.parse(name, &row, stored, ok)
			}
		}
	}
	return d, nil
}

// read reads a domain with its private halves, as they are stored. If there is
// none, cas is what a change has to name as the version all the same.
func (n *native) read(ctx context.Context, name string) (d *keystore.Domain, s *domainSecret, cas uint64, err error) {
	// By pieces, so that what is damaged stops no other.
	raw, version, err := get[struct {
		Domain json.RawMessage            `json:"domain"`
		Keys   map[string]json.RawMessage `json:"keys"`
		Gone   json.RawMessage            `json:"gone"`
		Writes json.RawMessage            `json:"writes"`
	}](ctx, &n.kv, name)
	if err != nil {
		return nil, nil, version, err
	}
	if version == 0 {
		return nil, nil, 0, fmt.Errorf("%w: it has no version; is the engine at %s of version 2?", keystore.ErrBroken, n.kv.mount)
	}
	if d, err = keystore.DecodeDocument(name, raw.Domain); err != nil {
		return nil, nil, version, err
	}
	d.Version = version
	s = &domainSecret{Domain: raw.Domain, Keys: make(map[string]string)}
	_ = json.Unmarshal(raw.Writes, &s.Writes) // without them a change sent twice conflicts
	_ = json.Unmarshal(raw.Gone, &s.Gone)     // without them nobody deletes these
	for selector, value := range raw.Keys {
		var text string
		if json.Unmarshal(value, &text) == nil {
			s.Keys[selector] = text
		}
	}
	return d, s, version, nil
}

// parse makes a key of what is stored of it.
func (n *native) parse(domain string, k *keystore.Key, stored string, ok bool) (crypto.Signer, error) {
	if !ok {
		return nil, errMissing
	}
	if name, ok := strings.CutPrefix(stored, inTransit); ok {
		if n.transit == nil {
			return nil, fmt.Errorf(`is in the transit engine, as %s: name the engine's mount in the option "transit"`, name)
		}
		return n.transit.key(name, k)
	}
	if len(stored) > maxValue {
		return nil, fmt.Errorf("private half of %d bytes, want at most %d", len(stored), maxValue)
	}
	pem := []byte(stored)
	if n.opts.Unwrap != nil {
		var err error
		if pem, err = n.opts.Unwrap(domain, k.Selector, pem); err != nil {
			return nil, err
		}
	}
	defer clear(pem)
	return keystore.ParsePrivateKey(pem)
}

func (n *native) update(ctx context.Context, d *keystore.Domain) error {
	old, s, cas, err := n.read(ctx, d.Name)
	switch {
	case errors.Is(err, keystore.ErrNotFound) && d.Version == 0:
		s = &domainSecret{Keys: make(map[string]string)}
	case errors.Is(err, keystore.ErrNotFound):
		return keystore.ErrConflict
	case err != nil:
		return err
	case old.Version != d.Version:
		return keystore.ErrConflict
	}
	if err := keystore.CheckUpdate(old, d); err != nil {
		return err
	}
	s.Gone = n.remains(ctx, s.Gone) // of an Update that did not come to it
	if err := n.change(ctx, s, old, d); err != nil {
		return err
	}
	version, err := n.write(ctx, d.Name, s, cas)
	if err != nil {
		return err
	}
	d.Version = version
	n.note(ctx, d.Name)
	if err := n.tidy(ctx, d, s.Gone); err != nil {
		return fmt.Errorf("saved as version %d, but tidying up afterwards: %w", d.Version, err)
	}
	return nil
}

// change brings the secret up to date with d, but does not write it.
func (n *native) change(ctx context.Context, s *domainSecret, old, d *keystore.Domain) (err error) {
	if s.Domain, err = keystore.EncodeDocument(d); err != nil {
		return err
	}
	if again, err := keystore.DecodeDocument(d.Name, s.Domain); err != nil || again.Whole() != nil {
		return fmt.Errorf("cannot be written: %w", errors.Join(err, again.Whole()))
	}
	for i := range d.Keys {
		k := &d.Keys[i]
		if k.State != keystore.Removed && d.IsNew(old, k) {
			if s.Keys[k.Selector], err = n.half(ctx, d.Name, k); err != nil {
				return err
			}
		}
	}
	for selector, stored := range s.Keys {
		if k := d.Key(selector); k == nil || k.State == keystore.Removed {
			if name, ok := strings.CutPrefix(stored, inTransit); ok {
				s.Gone = append(s.Gone, name)
			}
			delete(s.Keys, selector)
		}
	}
	s.mark()
	return nil
}

// mark marks the next change.
func (s *domainSecret) mark() {
	s.Writes = append([]string{rand.Text()}, s.Writes[:min(len(s.Writes), keptWrites-1)]...)
}

// remains deletes keys in the transit engine, and returns those that are there
// still.
func (n *native) remains(ctx context.Context, gone []string) (left []string) {
	for _, name := range gone {
		if n.transit == nil || n.transit.remove(ctx, name) != nil {
			left = append(left, name)
		}
	}
	return left
}

// half is the private half of a new key, as it is stored.
func (n *native) half(ctx context.Context, domain string, k *keystore.Key) (string, error) {
	if n.transit != nil {
		return n.inside(ctx, k)
	}
	stored, err := k.MarshalPrivate(ctx, domain, n.opts.Wrap)
	return string(stored), err
}

// inside is half for a key in the transit engine, which is where new keys have to
// be if there is one.
func (n *native) inside(ctx context.Context, k *keystore.Key) (string, error) {
	key, err := k.Load(ctx)
	if err != nil {
		return "", fmt.Errorf("key %s: %w", k.Selector, err)
	}
	if err := keystore.SelfTest(key, k.Public); err != nil {
		return "", fmt.Errorf("key %s: %w", k.Selector, err)
	}
	if mine, ok := key.(*transitKey); ok && mine.transit == n.transit {
		return inTransit + mine.name, nil
	}
	return "", fmt.Errorf("key %s: %w", k.Selector, ErrMadeElsewhere)
}

// write writes a secret if its version still is cas, and returns the new version.
// A refusal may be the answer to a change that had arrived before, and whose
// answer was lost: its mark tells.
func (n *native) write(ctx context.Context, name string, s *domainSecret, cas uint64) (version uint64, err error) {
	if data, err := json.Marshal(s); err != nil || len(data) > maxSecretSize {
		return 0, fmt.Errorf("the domain would have %d bytes, want at most %d", len(data), maxSecretSize)
	}
	body := map[string]any{"data": s, "options": map[string]any{"cas": cas}}
	var answer struct {
		Data struct {
			Version uint64 `json:"version"`
		}
	}
	err = n.kv.client.do(ctx, "POST", n.kv.at("data", name), body, &answer)
	if err == nil && answer.Data.Version > cas {
		return answer.Data.Version, nil
	}
	if err == nil {
		return 0, errors.New("vault did not tell the new version; read the domain again")
	}
	a := (*answerError)(nil)
	refused := errors.As(err, &a) && a.status == 400 && strings.Contains(strings.Join(a.errs, " "), "check-and-set")
	if !refused && a != nil && a.status < 500 {
		return 0, err
	}
	now, there, _, readErr := n.read(ctx, name)
	switch {
	case readErr == nil && slices.Contains(there.Writes, s.Writes[0]):
		return max(cas+1, now.Version-uint64(slices.Index(there.Writes, s.Writes[0]))), nil
	case refused:
		return 0, keystore.ErrConflict
	case readErr != nil:
		return 0, fmt.Errorf("%w; whether the change was saved is not known, read the domain again", err)
	}
	return 0, err
}

// tidy deletes the keys that are gone from the transit engine, and if a key was
// removed, it destroys what the key/value engine keeps of former versions: they
// have its private half. It also does what an Update before it did not come to.
func (n *native) tidy(ctx context.Context, d *keystore.Domain, gone []string) error {
	if !slices.ContainsFunc(d.Keys, func(k keystore.Key) bool { return k.State == keystore.Removed }) {
		return nil
	}
	var err error
	for _, name := range gone {
		if n.transit != nil {
			err = errors.Join(err, n.transit.remove(ctx, name))
		}
	}
	return errors.Join(err, n.destroyBefore(ctx, d.Name, d.Version))
}

// destroyBefore destroys all versions of a secret before the given one.
func (n *native) destroyBefore(ctx context.Context, name string, version uint64) error {
	var answer struct {
		Data struct {
			Versions map[string]struct {
				Destroyed bool `json:"destroyed"`
			} `json:"versions"`
		}
	}
	if err := n.kv.client.do(ctx, "GET", n.kv.at("metadata", name), nil, &answer); err != nil {
		return err
	}
	var versions []uint64
	for text, v := range answer.Data.Versions {
		number, err := strconv.ParseUint(text, 10, 64)
		if err == nil && number < version && !v.Destroyed {
			versions = append(versions, number)
		}
	}
	if len(versions) == 0 {
		return nil
	}
	return n.kv.client.do(ctx, "POST", n.kv.at("destroy", name), map[string]any{"versions": versions}, nil)
}

func (n *native) names(ctx context.Context) ([]string, error) { return n.kv.list(ctx) }
