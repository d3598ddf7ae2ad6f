// Package redisstore keeps keys in Redis (6 or newer) or Valkey, which any
// number of machines may share: one server, one found by Sentinel, or a Cluster.
// It also reads the keys that rspamd, mailcow and opendkim-ng keep there.
//
// It promises what every keystore.Store does. A change is one script on one key,
// and may be sent twice without harm, so that a connection lost on the way loses
// no change and makes none twice. Opening connects to nothing, so that a server
// which is down stops no start.
//
// What Redis itself forgets is lost. It must not evict keys (maxmemory-policy
// noeviction), and has to write its append-only file before it answers
// (appendonly yes, appendfsync always). With appendfsync everysec it answers
// first: a failure of power takes back the changes of the last second or two, and
// so does the end of its process alone while a slow disk holds up the writing.
// Where it may fail over to a replica, "replicas" should be 1 or more.
//
// The URL is one of
//
//	redis://[USER@]HOST[:PORT][/DB][?OPTION=VALUE&…]
//	redis+unix:///PATH[?OPTION=VALUE&…]
//	redis+sentinel://[USER@]HOST[:PORT][,HOST[:PORT]…]/NAME[/DB][?OPTION=VALUE&…]
//	redis+cluster://[USER@]HOST[:PORT][,HOST[:PORT]…][?OPTION=VALUE&…]
//
// with rediss in place of redis for TLS. What users of an ACL need is in
// contrib/redis/users.conf. The URL takes no password, since it is logged. The
// options are
//
//	password_file           the file that has the password; it is read for each
//	                        new connection
//	sentinel_user, sentinel_password_file
//	                        what Sentinel itself asks for
//	ca                      the file of authorities, where it is not the system's
//	cert, key               the client's certificate and key
//	layout                  whose layout it is: native (default), rspamd, mailcow
//	                        or opendkim-ng
//	prefix                  what all our keys begin with (native); default waxseal:
//	replicas                how many replicas must have a change before it counts
//	                        as durable (native); default 0
//	keys, selectors         the hashes of private keys and of selectors (rspamd,
//	                        mailcow); what stands behind the hosts in the
//	                        KeyTable and SigningTable of opendkim-ng, which has
//	                        no defaults: both have to be there
//	domains                 the hash whose fields are the domains (mailcow)
//	selector                selectors to look for besides, with commas between
//	                        (rspamd, mailcow)
package redisstore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/redis/rueidis"

	"waxseal/keystore"
)

const (
	// defaultTimeout bounds a call whose context does not.
	defaultTimeout = 5 * time.Second

	// defaultPage is how many names List returns when not told.
	defaultPage = 1000

	// maxValue bounds a private half: see keystore.ParsePrivateKey.
	maxValue = 64 << 10
)

// Options sets up a Store. The zero value works.
type Options struct {
	// Wrap turns a private key in PEM into what Redis gets, and Unwrap turns that
	// back. nil: it is stored as it is. Other products' layouts make no use of
	// them.
	Wrap   func(domain, selector string, pem []byte) ([]byte, error)
	Unwrap func(domain, selector string, stored []byte) ([]byte, error)

	// Rewrap returns what is stored of a key as Wrap would have it now, and nil if
	// it is that already. See Store.Rewrap.
	Rewrap func(domain string, k *keystore.Key, stored []byte) ([]byte, error)

	// SecretPath returns the path of the file that password_file and
	// sentinel_password_file mean; nil takes them as paths.
	SecretPath func(name string) (string, error)

	// Timeout bounds every call. Default 5 seconds.
	Timeout time.Duration

	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// Store is a keystore.Store in Redis.
type Store struct {
	opts   Options
	url    *target
	layout layout

	dial  chan struct{} // held while the client is made
	tasks sync.WaitGroup

	mu     sync.Mutex
	client rueidis.Client // guarded by mu; nil until a server was reached
	closed bool           // guarded by mu
}

var _ keystore.SigningStore = (*Store)(nil)

// layout is where a domain is, and how it is read.
type layout interface {
	domain(ctx context.Context, c rueidis.Client, name string, private bool) (*keystore.Domain, error)
	update(ctx context.Context, c rueidis.Client, d *keystore.Domain) error
	list(ctx context.Context, c rueidis.Client, after string, limit int) ([]string, error)

	// tracked are the prefixes of the keys to watch. changed returns the domain
	// that a change of a key is about; empty if it may be any.
	tracked() []string
	changed(key string) string
}

// Open prepares a Store for the URL. It connects to nothing: ctx bounds the
// reading of certificates alone.
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
		return nil, keystore.WithRemedy(fmt.Errorf("keystore in Redis: %w", err), keystore.ReachRemedy(err, "ca"))
	}
	s := &Store{opts: opts, url: t, dial: make(chan struct{}, 1)}
	switch t.layout {
	case "native":
		s.layout = &native{prefix: t.prefix, replicas: t.replicas, opts: opts}
	case "rspamd", "mailcow":
		s.layout = &hashes{keys: t.keys, selectors: t.selectors, domains: t.domains, fixed: t.fixed}
	case "opendkim-ng":
		s.layout = &tables{keys: t.keys, signing: t.selectors}
	}
	return s, nil
}

// ReadOnly reports whether the layout is another program's, which is where its
// keys are changed.
func (s *Store) ReadOnly() bool {
	_, ours := s.layout.(*native)
	return !ours
}

// Close closes all connections.
func (s *Store) Close() error {
	s.mu.Lock()
	if s.client != nil && !s.closed {
		s.client.Close()
	}
	s.closed = true
	s.mu.Unlock()
	s.tasks.Wait()
	return nil
}

// connect returns the client, which connects anew by itself once it has reached
// a server. The library's first attempt knows no context: it goes on when ctx
// ends, for those who ask next.
func (s *Store) connect(ctx context.Context) (rueidis.Client, error) {
	select {
	case s.dial <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	s.mu.Lock()
	client, closed := s.client, s.closed
	if client != nil || closed {
		s.mu.Unlock()
		<-s.dial
		if closed {
			return nil, errClosed
		}
		return client, nil
	}
	failed := make(chan error, 1)
	done := make(chan rueidis.Client, 1)
	s.tasks.Go(func() {
		defer func() { <-s.dial }()
		option, err := s.url.option()
		if err == nil {
			client, err = rueidis.NewClient(option)
		}
		if err != nil {
			failed <- err
			return
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.closed {
			client.Close()
			failed <- errClosed
			return
		}
		s.client = client
		done <- client
	})
	s.mu.Unlock()
	select {
	case client := <-done:
		return client, nil
	case err := <-failed:
		return nil, err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// call runs one operation with a client and a time limit.
func (s *Store) call(ctx context.Context, f func(context.Context, rueidis.Client) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, s.opts.Timeout)
	defer cancel()
	client, err := s.connect(ctx)
	if err == nil {
		err = f(ctx, client)
	}
	return s.explain(err)
}

// explain adds to an error which server it is about, and what to do.
func (s *Store) explain(err error) error {
	answer, ok := rueidis.IsRedisErr(err)
	switch {
	case err == nil || errors.Is(err, keystore.ErrNotFound) || errors.Is(err, keystore.ErrConflict) || errors.Is(err, errRefused):
		return err
	case !ok:
		return s.withRemedy(fmt.Errorf("redis %s: %w", s.url.name, err))
	case strings.HasPrefix(answer.Error(), "WRONGTYPE"):
		return fmt.Errorf("redis %s: %w: a key of another type is in the way (%w)", s.url.name, keystore.ErrBroken, err)
	case strings.HasPrefix(answer.Error(), "NOPERM"):
		return keystore.WithRemedy(fmt.Errorf("redis %s: the user may not do this: %w", s.url.name, err),
			"give the user the rights that contrib/redis has, and contrib/products for keys of other programs")
	case strings.HasPrefix(answer.Error(), "WRONGPASS"), strings.HasPrefix(answer.Error(), "NOAUTH"):
		return keystore.WithRemedy(fmt.Errorf("redis %s answers: %w", s.url.name, err),
			"correct the user or the password_file in the keystore's URL, or what the server has of that user")
	default:
		return fmt.Errorf("redis %s answers: %w", s.url.name, err)
	}
}

// withRemedy adds to an error of a connection what to do about it.
func (s *Store) withRemedy(err error) error {
	remedy := keystore.ReachRemedy(err, "ca")
	if remedy == "" && (errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET)) {
		remedy = "correct the port in the keystore's URL; a server that speaks TLS wants rediss://, and one that does not redis://"
	}
	return keystore.WithRemedy(err, remedy)
}

var (
	errRefused = errors.New("not saved") // marks a change that never was sent
	errClosed  = errors.New("closed")
)

// Domain implements keystore.Store by one request (native).
func (s *Store) Domain(ctx context.Context, name string) (*keystore.Domain, error) {
	return s.domain(ctx, name, false)
}

// Signing implements keystore.SigningStore: calling the Load of an active key
// asks the server no more.
func (s *Store) Signing(ctx context.Context, name string) (*keystore.Domain, error) {
	return s.domain(ctx, name, true)
}

func (s *Store) domain(ctx context.Context, name string, private bool) (d *keystore.Domain, err error) {
	if err := keystore.ValidDomain(name); err != nil {
		return nil, fmt.Errorf("%w: %w", err, keystore.ErrNotFound)
	}
	err = s.call(ctx, func(ctx context.Context, c rueidis.Client) error {
		d, err = s.layout.domain(ctx, c, name, private)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("domain %s: %w", name, err)
	}
	for i := range d.Keys {
		k := &d.Keys[i]
		if load := k.Load; load != nil {
			k.Load = s.loader(load)
		}
	}
	return d, nil
}

// Update implements keystore.Store. The error is keystore.ErrReadOnly in another
// product's layout.
func (s *Store) Update(ctx context.Context, d *keystore.Domain) error {
	if err := keystore.ValidDomain(d.Name); err != nil {
		return err
	}
	err := s.call(ctx, func(ctx context.Context, c rueidis.Client) error { return s.layout.update(ctx, c, d) })
	if err != nil {
		return fmt.Errorf("domain %s: %w", d.Name, err)
	}
	return nil
}

// List implements keystore.Store. Another product's layout is read as a whole
// for each page.
func (s *Store) List(ctx context.Context, after string, limit int) (names []string, err error) {
	if limit < 1 {
		limit = defaultPage
	}
	err = s.call(ctx, func(ctx context.Context, c rueidis.Client) error {
		names, err = s.layout.list(ctx, c, after, limit)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("listing domains: %w", err)
	}
	return names, nil
}
