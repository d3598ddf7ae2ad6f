package main

// This file opens the keystore of a configuration: the part of build.go that names
// every kind of store.

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"strings"

	"waxseal/keystore"
	"waxseal/keystore/dns"
	"waxseal/keystore/ldapstore"
	"waxseal/keystore/redisstore"
	"waxseal/keystore/sqlstore"
	"waxseal/keystore/vaultstore"
)

// openStore opens the keystore of the configuration.
func openStore(d *decoded, warn func(what string, err error)) (keystore.Store, error) {
	store, remedy, err := openStoreAt(d, d.Keystore.URL, warn)
	if errors.As(err, new(problems)) { // which say where they are
		return nil, err
	}
	if err != nil {
		return nil, problems{d.problem("keystore.url", err, remedy)}
	}
	return store, nil
}

// openStoreAt opens the keystore at a URL, otherwise as configured.
func openStoreAt(d *decoded, url string, warn func(what string, err error)) (_ keystore.Store, remedy string, err error) {
	if sqlstore.IsURL(url) {
		return openSQL(d, url)
	}
	if url == d.Keystore.URL && d.Keystore.KeyQuery+d.Keystore.ListQuery+d.Keystore.SenderQuery != "" {
		return nil, "leave key_query, list_query and sender_query out", errors.New("only a database can be asked by SQL")
	}
	if kind := serverKind(url); kind != "" {
		store, err := openServer(d, kind, url)
		return store, "", err
	}
	path, ok := keystoreDir(url)
	if !ok {
		scheme, _, _ := strings.Cut(url, ":") // what follows may have a password in it
		return nil, "write dir:PATH, a bare path, sqlite:PATH, postgres://HOST/DATABASE, mysql://HOST/DATABASE, redis://HOST, vault://HOST or ldaps://HOST/BASE", fmt.Errorf("%.20q is no kind of keystore", scheme)
	}
	wrapper, err := readWrapper(d)
	if err != nil {
		return nil, "", err
	}
	store, err := keystore.OpenDir(path, keystore.DirOptions{
		GroupReadable: d.Keystore.GroupReadable,
		Wrapper:       wrapper,
		Describe:      dns.Describe,
		WatchError: func(err error) {
			warn("watching the keystore; changes are seen after keystore.refresh", err)
		},
	})
	if err != nil {
		return nil, "make a keystore and a key in it with \"waxseal key new DOMAIN\"", err
	}
	return store, "", nil
}

// serverKind returns which kind of server the keystore of a URL is on: redis,
// vault or ldap; empty if it is on none of these.
func serverKind(url string) string {
	scheme, _, ok := strings.Cut(url, "://")
	if !ok {
		return ""
	}
	switch kind, _, _ := strings.Cut(scheme, "+"); kind {
	case "redis", "rediss":
		return "redis"
	case "vault":
		return "vault"
	case "ldap", "ldaps", "ldapi":
		return "ldap"
	}
	return ""
}

// openServer opens a keystore on a server of that kind. Nothing is connected to
// yet.
func openServer(d *decoded, kind, url string) (keystore.Store, error) {
	wrapper, err := readWrapper(d)
	if err != nil {
		return nil, err
	}
	ctx := context.Background() // it only bounds the reading of files
	switch kind {
	case "redis":
		return redisstore.Open(ctx, url, redisstore.Options{SecretPath: dns.CredentialPath, Wrap: wrapper.Wrap, Unwrap: wrapper.Unwrap, Rewrap: wrapper.Rewrap})
	case "vault":
		return vaultstore.Open(ctx, url, vaultstore.Options{SecretPath: dns.CredentialPath, Wrap: wrapper.Wrap, Unwrap: wrapper.Unwrap, Rewrap: wrapper.Rewrap})
	default:
		return ldapstore.Open(ctx, url, ldapstore.Options{SecretPath: dns.CredentialPath})
	}
}

// openSQL opens a keystore in a database.
func openSQL(d *decoded, url string) (_ keystore.Store, remedy string, err error) {
	wrapper, err := readWrapper(d)
	if err != nil {
		return nil, "", err
	}
	o := sqlstore.Options{
		GroupReadable: d.Keystore.GroupReadable, SecretPath: dns.CredentialPath,
		Wrap: wrapper.Wrap, Unwrap: wrapper.Unwrap, Rewrap: wrapper.Rewrap,
	}
	queries := sqlstore.Queries{}
	if url == d.Keystore.URL {
		queries = sqlstore.Queries{Keys: d.Keystore.KeyQuery, List: d.Keystore.ListQuery, Senders: d.Keystore.SenderQuery}
	}
	if sqlstore.HasPreset(url) || queries != (sqlstore.Queries{}) {
		store, err := sqlstore.OpenForeign(url, queries, o)
		if err != nil {
			return nil, "", err
		}
		return store, "", nil
	}
	store, err := sqlstore.Open(url, o)
	if errors.Is(err, fs.ErrNotExist) && strings.HasPrefix(url, "sqlite:") {
		remedy = "make it, and its tables, with \"waxseal store migrate\""
	}
	if err != nil {
		return nil, remedy, err
	}
	return store, "", nil
}

// readOnly reports whether a store takes no changes.
func readOnly(store keystore.Store) bool {
	if asked, ok := store.(*askedStore); ok {
		store = asked.Store
	}
	foreign, ok := store.(interface{ ReadOnly() bool })
	return ok && foreign.ReadOnly()
}

// makesKeys reports whether a store has its keys made inside Vault, and takes no
// others.
func makesKeys(store keystore.Store) bool {
	s, ok := store.(*vaultstore.Store)
	return ok && s.Transit()
}

// inTransit reports whether a URL is that of such a store.
func inTransit(text string) bool {
	_, options, _ := strings.Cut(text, "?")
	values, err := url.ParseQuery(options)
	return err == nil && serverKind(text) == "vault" && values.Has("transit")
}

// errNoImport is what such a store answers to a key from elsewhere.
var errNoImport = withHint(vaultstore.ErrMadeElsewhere,
	"let it make new keys (\"waxseal key new\", \"waxseal rotate\"); or take the keys in without the option \"transit\" in the URL, and add that when the successors are to be made inside")

// readWrapper reads the keys that encrypt the private keys in the store; without
// the setting it returns nil.
func readWrapper(d *decoded) (*keystore.Wrapper, error) {
	if d.Keystore.KeyEncryptionKey == "" {
		return nil, nil
	}
	path, err := dns.CredentialPath(d.Keystore.KeyEncryptionKey)
	if err != nil {
		return nil, problems{d.problem("keystore.key_encryption_key", err, "")}
	}
	w, err := keystore.ReadWrapper(path)
	if err != nil {
		return nil, problems{d.problem("keystore.key_encryption_key", err, "")}
	}
	return w, nil
}

// keystoreDir returns the directory that is the keystore, if one is.
func keystoreDir(url string) (path string, ok bool) {
	kind, path, ok := strings.Cut(url, ":")
	if !ok || strings.HasPrefix(url, "/") || strings.HasPrefix(url, ".") {
		kind, path = "dir", url
	}
	return path, kind == "dir" && path != ""
}

// makeStore is openStore for commands that may begin a new keystore, which it
// tells. Tables in a database that other programs use, too, are made by "store
// migrate" alone.
func makeStore(ctx context.Context, d *decoded, warn func(what string, err error), made func(path string)) (keystore.Store, error) {
	if path, ok := keystoreDir(d.Keystore.URL); ok {
		switch err := os.Mkdir(path, 0o750); {
		case err == nil:
			made(path)
		case errors.Is(err, fs.ErrNotExist):
			return nil, problems{d.problem("keystore.url", err, "make the directory above it, or correct the path")}
		case !errors.Is(err, fs.ErrExist):
			return nil, problems{d.problem("keystore.url", err, "")}
		}
	}
	created := false
	if sqlstore.IsURL(d.Keystore.URL) {
		var err error
		if created, err = sqlstore.CreateFile(d.Keystore.URL); err != nil {
			return nil, problems{d.problem("keystore.url", err, "")}
		}
	}
	store, err := openStore(d, warn)
	if migrator, ok := store.(migrator); ok && created {
		if _, _, err := migrator.Migrate(ctx); err != nil {
			return nil, problems{d.problem("keystore.url", err, "")}
		}
		made(d.Keystore.URL)
	}
	return store, err
}
