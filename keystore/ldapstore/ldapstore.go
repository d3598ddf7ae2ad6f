// Package ldapstore reads keys from an LDAP directory, where Zimbra and Carbonio
// have theirs, or those who use OpenDKIM's schema. It only reads.
//
// It promises what a keystore.Store that is read only does. Opening connects to
// nothing, so that a directory which is down stops no start. A lost connection is
// made anew. Directories tell nobody of changes: they are noticed when the cache
// reads again.
//
// The URL is one of
//
//	ldap://HOST[:PORT][,HOST[:PORT]…]/BASE?layout=LAYOUT[&OPTION=VALUE…]
//	ldaps://HOST[:PORT][,HOST[:PORT]…]/BASE?layout=LAYOUT[&OPTION=VALUE…]
//	ldapi://SOCKET/BASE?layout=LAYOUT[&OPTION=VALUE…]
//
// where BASE is the name of the entry that all is below (escaped as in every
// URL: a blank is %20; empty for the whole of Zimbra's directory, in which each
// top-level domain has a tree of its own), and SOCKET a path with its slashes written %2F. Of several
// hosts each new connection takes the first that answers. The options are
//
//	layout         zimbra (for Carbonio, too) or opendkim, where keys sign whose
//	               DKIMActive is TRUE
//	bind_dn        whom to log in as; default nobody
//	password_file  the file that has the password; it is read for each new
//	               connection. The URL takes none, since it is logged
//	sasl           external: log in as whom the certificate or the socket tells
//	starttls       yes or no (ldap). Default yes, and no for loopback addresses:
//	               private keys are read
//	ca             the file of authorities, where it is not the system's
//	cert, key      the client's certificate and key
package ldapstore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/go-ldap/ldap/v3"

	"waxseal/keystore"
)

const (
	// defaultTimeout bounds a call whose context does not.
	defaultTimeout = 5 * time.Second

	// defaultPage is how many names List returns when not told.
	defaultPage = 1000

	// pagingSize is how many entries the directory sends at a time; many send no
	// more than 500 or 1000 in one answer.
	pagingSize = 500

	// maxEntries bounds the keys of a domain, as one more than anybody has.
	maxEntries = 100
)

// Options sets up a Store. The zero value works.
type Options struct {
	// SecretPath returns the path of the file that password_file means; nil
	// takes it as a path.
	SecretPath func(name string) (string, error)

	// Timeout bounds every call. Default 5 seconds.
	Timeout time.Duration
}

// Store is a keystore.Store in an LDAP directory.
type Store struct {
	opts   Options
	target *target
	conn   *connection
}

var _ keystore.Store = (*Store)(nil)

// The attributes. Directories take names of attributes in any case.
const (
	identity = "DKIMIdentity"
	selector = "DKIMSelector"
	signsFor = "DKIMDomain"
	private  = "DKIMKey"
	active   = "DKIMActive"
	belongs  = "associatedDomain"
)

// Open prepares a Store for the URL. It connects to nothing: ctx bounds the
// reading of certificates alone. Close has to be called.
func Open(ctx context.Context, url string, opts Options) (*Store, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	opts.Timeout = cmp.Or(max(opts.Timeout, 0), defaultTimeout)
	t, err := parseURL(url, opts.SecretPath)
	if err != nil {
		return nil, fmt.Errorf("keystore in LDAP: %w", err)
	}
	return &Store{opts: opts, target: t, conn: newConnection(t, opts.Timeout)}, nil
}

// ReadOnly reports that a directory takes no changes from us.
func (s *Store) ReadOnly() bool { return true }

// Close closes the connection.
func (s *Store) Close() error {
	s.conn.close()
	return nil
}

// Domain implements keystore.Store.
func (s *Store) Domain(ctx context.Context, name string) (*keystore.Domain, error) {
	if err := keystore.ValidDomain(name); err != nil {
		return nil, fmt.Errorf("%w: %w", err, keystore.ErrNotFound)
	}
	ctx, cancel := context.WithTimeout(ctx, s.opts.Timeout)
	defer cancel()
	entries, err := s.keys(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("domain %s: %w", name, err)
	}
	f := keystore.NewForeign(name)
	for _, e := range entries {
		which := e.GetEqualFoldAttributeValue(selector)
		text := e.GetEqualFoldAttributeValue(private)
		if whose := e.GetEqualFoldAttributeValue(signsFor); whose != "" && whose != "%" && !strings.EqualFold(whose, name) {
			f.AddBroken(which, fmt.Errorf("entry %s signs for %.80q", e.DN, whose))
			continue
		}
		if text == "" {
			f.AddBroken(which, fmt.Errorf("entry %s has no %s, or this user may not read it", e.DN, private))
			continue
		}
		f.Add(which, []byte(text), func(ctx context.Context) ([]byte, error) { return s.load(ctx, name, e.DN, which) })
	}
	d, err := f.Domain()
	if err != nil {
		return nil, err
	}
	return d, nil
}

// keys finds the entries of a domain's keys.
func (s *Store) keys(ctx context.Context, name string) ([]*ldap.Entry, error) {
	value := ldap.EscapeFilter(name)
	want := []string{selector, signsFor, private}
	if s.target.layout == "opendkim" {
		// The identity is the domain, with or without an @, and where there is
		// none the domain that the key signs for or belongs to.
		filter := fmt.Sprintf("(&(%[1]s=TRUE)(|(%[2]s=%[5]s)(%[2]s=@%[5]s)(&(!(%[2]s=*))(|(%[3]s=%[5]s)(%[4]s=%[5]s)))))", active, identity, signsFor, belongs, value)
		return s.conn.search(ctx, s.target.base, ldap.ScopeWholeSubtree, filter, want, maxEntries)
	}
	// As Zimbra has OpenDKIM look: the selectors of an identity, and then the
	// key of each selector.
	named, err := s.conn.search(ctx, s.target.base, ldap.ScopeWholeSubtree, fmt.Sprintf("(%s=%s)", identity, value), []string{selector}, maxEntries)
	if err != nil {
		return nil, err
	}
	var selectors []string
	for _, e := range named {
		for _, which := range e.GetEqualFoldAttributeValues(selector) {
			if !slices.Contains(selectors, which) {
				selectors = append(selectors, which)
			}
		}
	}
	var entries []*ldap.Entry
	for _, which := range selectors {
		found, err := s.conn.search(ctx, s.target.base, ldap.ScopeWholeSubtree, fmt.Sprintf("(%s=%s)", selector, ldap.EscapeFilter(which)), want, maxEntries)
		if err != nil {
			return nil, err
		}
		for _, e := range found {
			// The same selector of another domain is none of ours.
			if whose := e.GetEqualFoldAttributeValue(signsFor); len(found) == 1 || strings.EqualFold(whose, name) {
				entries = append(entries, e)
			}
		}
	}
	return entries, nil
}

// load reads a key's entry anew.
func (s *Store) load(ctx context.Context, name, dn, which string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, s.opts.Timeout)
	defer cancel()
	entries, err := s.conn.search(ctx, dn, ldap.ScopeBaseObject, fmt.Sprintf("(%s=%s)", selector, ldap.EscapeFilter(which)), []string{private}, 1)
	if err != nil {
		return nil, err
	}
	if len(entries) == 0 || entries[0].GetEqualFoldAttributeValue(private) == "" {
		return nil, fmt.Errorf("key %s.%s is not in the directory any more", which, name)
	}
	return []byte(entries[0].GetEqualFoldAttributeValue(private)), nil
}

// Update implements keystore.Store. The error is keystore.ErrReadOnly.
func (s *Store) Update(_ context.Context, d *keystore.Domain) error {
	return fmt.Errorf("domain %s: %w", d.Name, keystore.ErrReadOnly)
}

// List implements keystore.Store. Directories have no pages by name: each call
// goes over all keys.
func (s *Store) List(ctx context.Context, after string, limit int) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, s.opts.Timeout)
	defer cancel()
	filter, want := fmt.Sprintf("(%s=*)", identity), []string{identity}
	if s.target.layout == "opendkim" {
		filter, want = fmt.Sprintf("(&(%s=TRUE)(%s=*))", active, selector), []string{identity, signsFor, belongs}
	}
	entries, err := s.conn.search(ctx, s.target.base, ldap.ScopeWholeSubtree, filter, want, 0)
	if err != nil {
		return nil, fmt.Errorf("listing domains: %w", err)
	}
	var names []string
	for _, e := range entries {
		found := e.GetEqualFoldAttributeValues(identity)
		if len(found) == 0 {
			found = append(e.GetEqualFoldAttributeValues(signsFor), e.GetEqualFoldAttributeValues(belongs)...)
		}
		for _, name := range found {
			name = strings.ToLower(strings.TrimPrefix(name, "@"))
			if name > after && keystore.ValidDomain(name) == nil {
				names = append(names, name)
			}
		}
	}
	slices.Sort(names)
	names = slices.Compact(names)
	if limit < 1 {
		limit = defaultPage
	}
	return names[:min(limit, len(names))], nil
}

// Watch implements keystore.Store. A directory does not push.
func (s *Store) Watch(context.Context, func(domain string)) error { return nil }

// errClosed is what a closed Store answers.
var errClosed = errors.New("closed")
