package vaultstore

import (
	"context"
	"crypto"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"waxseal/keystore"
)

// native is our own layout: a secret of version 2 for each domain, named after
// it, whose version is the domain's.
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
	s = &domainSecret{Keys: make(map[string]string)}
	_ = json.Unmarshal(raw.Writes, &s.Writes) // without them a change sent twice conflicts
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
		return nil, errors.New("its private half is missing; restore it from a backup, or remove the key (waxseal key remove)")
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
	gone, err := n.change(ctx, s, old, d)
	if err != nil {
		return err
	}
	version, err := n.write(ctx, d.Name, s, cas)
	if err != nil {
		return err
	}
	d.Version = version
	if err := n.tidy(ctx, d, gone); err != nil {
		return fmt.Errorf("saved as version %d, but tidying up afterwards: %w", d.Version, err)
	}
	return nil
}

// change brings the secret up to date with d, but does not write it. It returns
// the private halves that go.
func (n *native) change(ctx context.Context, s *domainSecret, old, d *keystore.Domain) (gone []string, err error) {
	if s.Domain, err = keystore.EncodeDocument(d); err != nil {
		return nil, err
	}
	if again, err := keystore.DecodeDocument(d.Name, s.Domain); err != nil || again.Whole() != nil {
		return nil, fmt.Errorf("cannot be written: %w", errors.Join(err, again.Whole()))
	}
	for i := range d.Keys {
		k := &d.Keys[i]
		if k.State != keystore.Removed && d.IsNew(old, k) {
			if s.Keys[k.Selector], err = n.half(ctx, d.Name, k); err != nil {
				return nil, err
			}
		}
	}
	for selector, stored := range s.Keys {
		if k := d.Key(selector); k == nil || k.State == keystore.Removed {
			gone = append(gone, stored)
			delete(s.Keys, selector)
		}
	}
	s.Writes = append([]string{rand.Text()}, s.Writes[:min(len(s.Writes), keptWrites-1)]...)
	return gone, nil
}

// half is the private half of a new key, as it is stored.
func (n *native) half(ctx context.Context, domain string, k *keystore.Key) (string, error) {
	key, err := k.Load(ctx)
	if err != nil {
		return "", fmt.Errorf("key %s: %w", k.Selector, err)
	}
	if inside, ok := key.(*transitKey); ok && inside.transit == n.transit {
		if err := keystore.SelfTest(key, k.Public); err != nil {
			return "", fmt.Errorf("key %s: %w", k.Selector, err)
		}
		return inTransit + inside.name, nil
	}
	loaded := *k
	loaded.Load = func(context.Context) (crypto.Signer, error) { return key, nil }
	stored, err := loaded.MarshalPrivate(ctx, domain, n.opts.Wrap)
	return string(stored), err
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

// tidy destroys what the engine keeps of former versions, if a key was removed:
// they have its private half. It also does what an Update before it did not come
// to.
func (n *native) tidy(ctx context.Context, d *keystore.Domain, gone []string) error {
	if !slices.ContainsFunc(d.Keys, func(k keystore.Key) bool { return k.State == keystore.Removed }) {
		return nil
	}
	var errs []error
	for _, stored := range gone {
		if name, ok := strings.CutPrefix(stored, inTransit); ok && n.transit != nil {
			errs = append(errs, n.transit.remove(ctx, name))
		}
	}
	var answer struct {
		Data struct {
			Versions map[string]struct {
				Destroyed bool `json:"destroyed"`
			} `json:"versions"`
		}
	}
	if err := n.kv.client.do(ctx, "GET", n.kv.at("metadata", d.Name), nil, &answer); err != nil {
		return errors.Join(append(errs, err)...)
	}
	var versions []uint64
	for text, v := range answer.Data.Versions {
		var number uint64
		if _, err := fmt.Sscan(text, &number); err == nil && number < d.Version && !v.Destroyed {
			versions = append(versions, number)
		}
	}
	if len(versions) > 0 {
		errs = append(errs, n.kv.client.do(ctx, "POST", n.kv.at("destroy", d.Name), map[string]any{"versions": versions}, nil))
	}
	return errors.Join(errs...)
}

func (n *native) names(ctx context.Context) ([]string, error) { return n.kv.list(ctx) }

// Generate makes a key for a new row of the domain: inside the transit engine,
// if there is one, and here otherwise. The key that it returns signs, and Update
// takes it.
func (s *Store) Generate(ctx context.Context, domain, selector string, algorithm keystore.Algorithm) (crypto.Signer, error) {
	n, ok := s.layout.(*native)
	if !ok {
		return nil, keystore.ErrReadOnly
	}
	if n.transit == nil {
		return keystore.Generate(algorithm)
	}
	if err := errors.Join(keystore.ValidDomain(domain), keystore.ValidSelector(selector)); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, max(s.opts.Timeout, 30*time.Second)) // a large RSA key takes its time
	defer cancel()
	name := selector + "._domainkey." + domain
	// A slot's last key, if it is there still, has the same name.
	d, err := s.layout.domain(ctx, domain, false)
	if err != nil && !errors.Is(err, keystore.ErrNotFound) {
		return nil, fmt.Errorf("domain %s: %w", domain, err)
	}
	if err == nil {
		if k := d.Key(selector); k != nil && k.State == keystore.Removed {
			if err := n.transit.remove(ctx, name); err != nil {
				return nil, fmt.Errorf("key %s.%s: %w", selector, domain, err)
			}
		}
	}
	key, err := n.transit.make(ctx, name, algorithm)
	if err != nil {
		return nil, fmt.Errorf("key %s.%s: %w", selector, domain, err)
	}
	return key, nil
}
