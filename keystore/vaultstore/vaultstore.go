// Package vaultstore keeps keys in HashiCorp Vault or OpenBao, which any number
// of machines may share, and reads those that rspamd, Mailu and KumoMTA have
// there, or behind the same interface.
//
// It promises what every keystore.Store does, by the check-and-set of the
// key/value engine's version 2; version 1 has none, so that it is for reading other
// products' keys alone. With "transit" new keys are made inside Vault and never
// leave it: each signature is a request, with a time limit of its own, and no more
// than so many are under way at a time. Such a store takes no keys that were made
// elsewhere; those that it has from before "transit" go on signing. Opening
// connects to nothing, so that a Vault which is down or sealed stops no start. Vault
// tells nobody of changes: they are noticed when the cache reads again.
//
// The URL is
//
//	vault://HOST[:PORT][,HOST[:PORT]…][/PATH][?OPTION=VALUE&…]
//
// where vault+http has no TLS, as for an agent on the same machine. PATH begins
// with the mount of the engine; the domains are below it. Of several hosts the
// next is asked if one does not answer or is sealed. The URL takes no secrets,
// since it is logged. The options are
//
//	layout            whose layout it is: native (default; PATH is
//	                  secret/waxseal), rspamd (dkim), mailu (dkim) or kumomta
//	                  (secret/dkim)
//	kv                1 or 2, the version of the engine; default 2 for native,
//	                  which needs it, and kumomta, 1 for rspamd
//	mount             the mount, where it has more than the first part of PATH
//	auth              token (default), approle or kubernetes
//	auth_mount        where that is mounted; default approle or kubernetes
//	token_file        the file that has the token (token); it is read again when
//	                  Vault refuses the token
//	role_id           with secret_id_file (approle)
//	secret_id_file    the file that has the secret ID
//	role              with jwt_file (kubernetes)
//	jwt_file          the service account's token; default
//	                  /var/run/secrets/kubernetes.io/serviceaccount/token
//	namespace         the namespace
//	ca                the file of authorities, where it is not the system's
//	cert, key         the client's certificate and key
//	base              what stands before /v1; Mailu's default is
//	                  /internal/rspamd/vault
//	selector          the selectors of every domain, with commas between
//	                  (kumomta); by default they are listed for each domain
//	transit           the mount of a transit engine (native), which no other
//	                  keystore uses: keys in it are named after their records
//	requests          how many signatures may be under way (transit); default 32
//	sign_timeout      how long one may take, waiting included; default 5s
//
// Tokens that can be renewed are, at two thirds of their time. Where that goes
// wrong, AppRole and Kubernetes log in anew. What tokens have to be allowed is in
// contrib/vault. Below status/, beside the domains, are the daemons that use the
// store, and what changed last.
package vaultstore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"waxseal/keystore"
)

const (
	// defaultTimeout bounds a call whose context does not.
	defaultTimeout = 5 * time.Second

	// defaultPage is how many names List returns when not told.
	defaultPage = 1000
)

// Options sets up a Store. The zero value works.
type Options struct {
	// Wrap turns a private key in PEM into the text that Vault gets, and Unwrap
	// turns that back. nil: it is stored as it is. Other products' layouts and
	// keys in the transit engine make no use of them.
	Wrap   func(domain, selector string, pem []byte) ([]byte, error)
	Unwrap func(domain, selector string, stored []byte) ([]byte, error)

	// Rewrap returns what is stored of a key as Wrap would have it now, and nil if
	// it is that already. See Store.Rewrap.
	Rewrap func(domain string, k *keystore.Key, stored []byte) ([]byte, error)

	// SecretPath returns the path of the file that token_file, secret_id_file
	// and jwt_file mean; nil takes them as paths.
	SecretPath func(name string) (string, error)

	// Timeout bounds every call. Default 5 seconds.
	Timeout time.Duration

	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// Store is a keystore.Store in Vault.
type Store struct {
	opts   Options
	client *client
	layout layout
	swept  atomic.Int64 // when Beat last looked for silent nodes, in Unix seconds
}

var _ keystore.SigningStore = (*Store)(nil)

// layout is where a domain is, and how it is read.
type layout interface {
	domain(ctx context.Context, name string, private bool) (*keystore.Domain, error)
	update(ctx context.Context, d *keystore.Domain) error
	names(ctx context.Context) ([]string, error)
}

// Open prepares a Store for the URL. It connects to nothing: ctx bounds the
// reading of certificates alone. Close has to be called.
func Open(ctx context.Context, url string, opts Options) (*Store, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	opts.Timeout = cmp.Or(max(opts.Timeout, 0), defaultTimeout)
	if opts.Now == nil {
		opts.Now = time.Now
	}
	t, err := parseURL(url, opts.SecretPath)
	if err != nil {
		return nil, fmt.Errorf("keystore in Vault: %w", err)
	}
	s := &Store{opts: opts, client: newClient(t, opts.Timeout)}
	kv := engine{s.client, t.kv, t.mount, t.path}
	switch t.layout {
	case "native":
		n := &native{kv: kv, opts: opts}
		if t.transit != "" {
			n.transit = newTransit(s.client, t.transit, t.requests, t.signTimeout)
		}
		s.layout = n
	case "rspamd":
		s.layout = &lists{kv: kv, now: time.Now}
	case "mailu":
		s.layout = &lists{kv: kv, now: time.Now, mailu: true}
	case "kumomta":
		s.layout = &secrets{kv: kv, fixed: t.selectors}
	}
	return s, nil
}

// ReadOnly reports whether the layout is another program's, which is where its
// keys are changed.
func (s *Store) ReadOnly() bool {
	_, ours := s.layout.(*native)
	return !ours
}

// Close ends the renewal of the token, and closes all connections.
func (s *Store) Close() error {
	s.client.close()
	return nil
}

// Domain implements keystore.Store by one request (native, rspamd, mailu).
func (s *Store) Domain(ctx context.Context, name string) (*keystore.Domain, error) {
	return s.domain(ctx, name, false)
}

// Signing implements keystore.SigningStore: calling the Load of an active key
// asks Vault no more. Those in the transit engine stay there.
func (s *Store) Signing(ctx context.Context, name string) (*keystore.Domain, error) {
	return s.domain(ctx, name, true)
}

func (s *Store) domain(ctx context.Context, name string, private bool) (*keystore.Domain, error) {
	if err := keystore.ValidDomain(name); err != nil {
		return nil, fmt.Errorf("%w: %w", err, keystore.ErrNotFound)
	}
	ctx, cancel := context.WithTimeout(ctx, s.opts.Timeout)
	defer cancel()
	d, err := s.layout.domain(ctx, name, private)
	if err != nil {
		return nil, fmt.Errorf("domain %s: %w", name, err)
	}
	return d, nil
}

// Update implements keystore.Store. The error is keystore.ErrReadOnly in another
// product's layout.
func (s *Store) Update(ctx context.Context, d *keystore.Domain) error {
	if err := keystore.ValidDomain(d.Name); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, s.opts.Timeout)
	defer cancel()
	if err := s.layout.update(ctx, d); err != nil {
		return fmt.Errorf("domain %s: %w", d.Name, err)
	}
	return nil
}

// List implements keystore.Store. Vault has no pages: each call asks for all. With
// rspamd and Mailu, a name may turn out to have no key.
func (s *Store) List(ctx context.Context, after string, limit int) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, s.opts.Timeout)
	defer cancel()
	names, err := s.names(ctx)
	if err != nil {
		return nil, fmt.Errorf("listing domains: %w", err)
	}
	names = slices.DeleteFunc(names, func(n string) bool { return n <= after })
	slices.Sort(names)
	names = slices.Compact(names)
	if limit < 1 {
		limit = defaultPage
	}
	return names[:min(limit, len(names))], nil
}

// names returns all names of domains. What else is beside them, such as status/,
// is none.
func (s *Store) names(ctx context.Context) ([]string, error) {
	names, err := s.layout.names(ctx)
	return slices.DeleteFunc(names, func(n string) bool { return keystore.ValidDomain(n) != nil }), err
}

// Watch implements keystore.Store. Vault does not push.
func (s *Store) Watch(context.Context, func(domain string)) error { return nil }

// engine is a key/value engine, and the path in it that all is below.
type engine struct {
	client      *client
	version     int
	mount, path string
}

// at returns the path of the API for a secret. kind is data, metadata or
// destroy, of which version 1 has the first alone.
func (e *engine) at(kind string, parts ...string) string {
	if e.version == 1 {
		kind = ""
	}
	var all []string
	for _, p := range append([]string{e.mount, kind, e.path}, parts...) {
		if p != "" {
			all = append(all, p)
		}
	}
	return strings.Join(all, "/")
}

// secret is what an engine has at a path.
type secret[Data any] struct {
	Data     Data
	Metadata struct {
		Version uint64 `json:"version"`
	}
}

// get reads a secret into data. The error is keystore.ErrNotFound if it is not
// there; version is that of what was deleted, then.
func get[Data any](ctx context.Context, e *engine, parts ...string) (data Data, version uint64, err error) {
	if e.version == 1 {
		var answer struct{ Data Data }
		err = e.client.do(ctx, "GET", e.at("data", parts...), nil, &answer)
		return answer.Data, 1, notFound(err)
	}
	var answer struct{ Data secret[Data] }
	err = e.client.do(ctx, "GET", e.at("data", parts...), nil, &answer)
	return answer.Data.Data, answer.Data.Metadata.Version, notFound(err)
}

// list returns the names below a path; those that have more below end in "/".
func (e *engine) list(ctx context.Context, parts ...string) ([]string, error) {
	var answer struct {
		Data struct {
			Keys []string `json:"keys"`
		}
	}
	err := notFound(e.client.do(ctx, "GET", e.at("metadata", parts...)+"?list=true", nil, &answer))
	if errors.Is(err, keystore.ErrNotFound) {
		return nil, nil
	}
	return answer.Data.Keys, err
}

// notFound turns the answer 404 into keystore.ErrNotFound.
func notFound(err error) error {
	if a := (*answerError)(nil); errors.As(err, &a) && a.status == 404 {
		return keystore.ErrNotFound
	}
	return err
}
