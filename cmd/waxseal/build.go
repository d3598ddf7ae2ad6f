package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"waxseal/keystore"
	"waxseal/milter"
	"waxseal/signer"
	"waxseal/signer/libcrypto"
)

// This file turns the configuration into live objects. Beside it, build_rules.go
// makes the rules, build_keys.go what looks after keys, and build_store.go the
// keystore.

// clock tells the time.
type clock = func() time.Time

// minExpiry is the life of a signature below which mail is lost its signature
// in queues, which hold it for five days.
const minExpiry = 6 * 24 * time.Hour

// live is what a configuration has become.
type live struct {
	settings *milter.Settings
	cache    *keystore.Cache
	store    *askedStore // below the cache
	engine   *libcrypto.Engine
}

func (l *live) close() {
	l.cache.Close()
	if c, ok := l.store.Store.(io.Closer); ok {
		c.Close()
	}
}

// build makes everything a message needs. What goes wrong later without a
// message to suffer from it is told to warn.
func build(d *decoded, now clock, warn func(what string, err error)) (*live, error) {
	settings, err := buildSettings(d)
	if err != nil {
		return nil, err
	}
	store, err := openStore(d, warn)
	if err != nil {
		return nil, err
	}
	engine, err := libcrypto.NewEngine(libcrypto.EngineOptions{
		Mode:       libcrypto.Mode(d.Signing.RSA),
		OnFallback: func(err error) { warn("from now on Go signs with this key", err) },
	})
	if err != nil {
		return nil, problems{d.problem("signing.rsa", err, `use "auto", which takes Go's library where there is no other`)}
	}
	asked := &askedStore{Store: store}
	cache := keystore.NewCache(asked, keystore.CacheOptions{
		Prepare:    engine.Prepare,
		Refresh:    time.Duration(d.Keystore.Refresh),
		MaxEntries: d.Keystore.CacheDomains,
		MaxBytes:   int64(d.Keystore.CacheBytes),
		Now:        now,
		OnError: func(domain string, err error) {
			what := "watching the keystore; changes are seen after keystore.refresh"
			if domain != "" {
				what = "reading the keystore again; what is cached goes on signing"
			}
			warn(what, err)
		},
		OnDown: func(after time.Duration, err error) {
			after = after.Round(time.Second)
			if err == nil {
				warn("the keystore answers again", fmt.Errorf("it did not for %s", after))
				return
			}
			if after > 0 {
				err = fmt.Errorf("for %s: %w", after, err)
			}
			warn("the keystore does not answer; what is cached goes on signing, and no mail waits for it", err)
		},
	})
	l := &live{settings: settings, cache: cache, store: asked, engine: engine}
	l.lookups(settings)
	return l, nil
}

// lookups has messages ask the cache.
func (l *live) lookups(settings *milter.Settings) {
	settings.Keys = l.cache
	if l.store.KnowsSenders() {
		settings.Senders = l.cache
	}
}

// buildSettings makes the settings of messages, without their keys.
func buildSettings(d *decoded) (*milter.Settings, error) {
	var found problems
	check := func(key string, err error, remedy string) {
		if err == nil {
			return
		}
		for _, each := range unjoin(err) {
			found = append(found, d.problem(key, each, remedy))
		}
	}

	rules, rows, bad := buildRules(d)
	found = append(found, bad...)
	fields, err := signer.NewFields(d.Signing.Fields, d.Signing.Oversign)
	if err != nil {
		_, signed := signer.NewFields(d.Signing.Fields, []string{})
		_, oversigned := signer.NewFields([]string{}, d.Signing.Oversign)
		if signed == nil && oversigned == nil {
			signed = err // it takes both
		}
		check("signing.fields", signed, "")
		check("signing.oversign", oversigned, "")
	}

	outcomes, bad := buildOutcomes(d, "outcome", d.Outcome)
	found = append(found, bad...)
	risks, bad := buildRisks(d)
	found = append(found, bad...)
	peers, bad := buildPeers(d)
	found = append(found, bad...)
	found = append(found, keeperProblems(d)...)
	_, bad = buildPublishers(d)
	found = append(found, bad...)
	found = append(found, confineProblems(d)...)
	for _, l := range []struct {
		key   string
		value int
		least int
	}{
		{"limits.connections", d.Limits.Connections, 1},
		{"limits.header_bytes", int(d.Limits.HeaderBytes), 1024},
		{"limits.header_fields", d.Limits.HeaderFields, 10},
		{"keystore.cache_domains", d.Keystore.CacheDomains, 1},
		{"keystore.cache_bytes", int(d.Keystore.CacheBytes), 1 << 20},
	} {
		if l.value < l.least {
			check(l.key, fmt.Errorf("%d, want at least %d", l.value, l.least), "")
		}
	}
	if e := time.Duration(d.Signing.Expiry); e > signer.MaxLifetime {
		check("signing.expiry", fmt.Errorf("%s, want at most %s", d.Signing.Expiry, Duration(signer.MaxLifetime)), "")
	}
	for _, t := range []struct {
		key   string
		value Duration
	}{
		{"keystore.refresh", d.Keystore.Refresh},
		{"limits.idle_timeout", d.Limits.IdleTimeout},
		{"limits.packet_timeout", d.Limits.PacketTimeout},
		{"limits.key_timeout", d.Limits.KeyTimeout},
		{"limits.stop_timeout", d.Limits.StopTimeout},
	} {
		if time.Duration(t.value) < time.Second {
			check(t.key, fmt.Errorf("%s, want at least 1s", t.value), "")
		}
	}
	if len(found) > 0 {
		return nil, found
	}
	return &milter.Settings{
		Rules:        rules,
		Header:       d.Signing.Canonicalization.header,
		Body:         d.Signing.Canonicalization.body,
		Fields:       fields,
		Lifetime:     time.Duration(d.Signing.Expiry),
		Outcomes:     outcomes,
		Risks:        risks,
		Peers:        peers,
		Rows:         rows,
		HeaderBytes:  int(d.Limits.HeaderBytes),
		HeaderFields: d.Limits.HeaderFields,
		KeyTimeout:   time.Duration(d.Limits.KeyTimeout),
	}, nil
}

// warnings are doubts about settings that are valid.
func warnings(d *decoded) problems {
	found := append(ruleWarnings(d), keeperWarnings(d)...)
	if e := time.Duration(d.Signing.Expiry); e > 0 && e < minExpiry {
		found = append(found, d.problem("signing.expiry", fmt.Errorf("%s: mail that waits in a queue for five days arrives with an expired signature", d.Signing.Expiry),
			"use 6d or more, or leave it out"))
	}
	for _, name := range sortedKeys(d.Listen) {
		if c := d.Listen[name]; c.Address.Network == "unix" && c.Mode&0o002 != 0 {
			found = append(found, d.problem("listen."+name+".mode", fmt.Errorf("%s: every program on this machine can have mail signed", c.Mode),
				"use 0660 and the group of the mail server"))
		}
	}
	for _, name := range d.unused {
		found = append(found, d.problem("listen."+name+".origin", errors.New("these rules are for no mail, as --listen has replaced the listener"),
			"give its address to --listen, or leave --listen out"))
	}
	if !anyRule(d) {
		found = append(found, d.problem("origin", errors.New("all rules are off, so nothing is ever signed"), "switch at least one on"))
	}
	return found
}

// anyRule says whether any mail at all can be ours.
func anyRule(d *decoded) bool {
	on := func(o *OriginConfig) bool {
		return o.Login || o.Local || o.AnyCertificate || o.All || o.CertificateIssuer != "" ||
			len(o.Networks)+len(o.DaemonNames)+len(o.Certificates)+len(o.Macros) > 0
	}
	for _, l := range d.Listen {
		if l.Origin != nil && on(l.Origin) {
			return true
		}
	}
	return on(&d.Origin)
}

// namedListener is an open listener and its name in the log.
type namedListener struct {
	name string
	net.Listener
	address milter.Address
}

// openListeners opens the configured listeners, or none.
func openListeners(d *decoded) (_ []namedListener, err error) {
	var open []namedListener
	defer func() {
		if err != nil {
			for _, l := range open {
				l.Close()
			}
		}
	}()
	if err := checkListeners(d); err != nil {
		return nil, err
	}
	for _, name := range sortedKeys(d.Listen) {
		c := d.Listen[name]
		var o milter.SocketOptions
		if c.Address.Network == "unix" {
			if o, err = socketOptions(c); err != nil {
				return nil, problems{d.problem("listen."+name, err, "")}
			}
		}
		l, err := milter.Listen(c.Address.Address, o)
		if err != nil {
			return nil, problems{d.problem("listen."+name+".address", err, listenRemedy(c, err))}
		}
		open = append(open, namedListener{name, l, c.Address.Address})
	}
	return open, nil
}

// listenRemedy is what to do when a listener cannot be opened.
func listenRemedy(c ListenConfig, err error) string {
	dir := filepath.Dir(c.Address.Address.Address)
	switch {
	case errors.Is(err, syscall.EROFS) && c.Address.Network == "unix":
		return fmt.Sprintf("in a unit of systemd, only what it names may be changed: systemctl edit waxseal, with the lines [Service] and %s", unitOpens(dir))
	case errors.Is(err, fs.ErrPermission) && c.Address.Network == "unix":
		if _, err := os.Stat(dir); err == nil {
			return fmt.Sprintf("give its directory to this user: chown %d %s", os.Geteuid(), dir)
		}
		return fmt.Sprintf("make its directory for this user: install -d -m 0755 -o %d -g %d %s", os.Geteuid(), os.Getegid(), dir)
	case errors.Is(err, syscall.EADDRINUSE):
		return "stop the process that listens there, or choose another port"
	}
	return ""
}

// unitOpens is the line of a unit that lets its process make sockets in a
// directory. In /run, which is empty after a boot, systemd makes it, too.
func unitOpens(dir string) string {
	if name, ok := strings.CutPrefix(dir, "/run/"); ok {
		return "RuntimeDirectory=" + name
	}
	return "ReadWritePaths=" + dir
}

// checkListeners finds what is wrong with the listeners, that of the metrics
// included, without opening them.
func checkListeners(d *decoded) error {
	var found problems
	seen := map[string]string{}
	for _, name := range sortedKeys(d.Listen) {
		c := d.Listen[name]
		key := "listen." + name
		if c.Address.Address.Address == "" {
			found = append(found, d.problem(key, errors.New("no address"), `add address = "unix:/run/waxseal/milter.sock"`))
			continue
		}
		if other, ok := seen[c.Address.Address.Address]; ok {
			found = append(found, d.problem(key+".address", fmt.Errorf("is that of listen.%s, too", other), "remove one of them"))
		}
		seen[c.Address.Address.Address] = name
		if c.Address.IsRemote() && !c.AllowRemote {
			found = append(found, d.problem(key+".address",
				fmt.Errorf("%s can be reached from other machines, and whoever can connect can have mail signed", c.Address),
				"listen on a unix socket or 127.0.0.1; or add allow_remote = true if a firewall guards it"))
		}
		if c.Address.Network != "unix" {
			continue
		}
		if _, err := socketOptions(c); err != nil {
			for _, each := range unjoin(err) {
				// A daemon that has confined itself cannot read a new /etc/group;
				// its sockets are open already.
				if !errors.Is(each, fs.ErrPermission) {
					found = append(found, d.problem(key, each, ""))
				}
			}
		}
	}
	found = append(found, metricsProblems(d)...)
	if len(found) > 0 {
		return found
	}
	return nil
}

// socketOptions looks up the owner and group of a socket. The error joins all
// that is wrong.
func socketOptions(c ListenConfig) (milter.SocketOptions, error) {
	o := milter.SocketOptions{Mode: os.FileMode(c.Mode), UID: -1, GID: -1}
	var bad []error
	if c.Owner != "" {
		u, err := user.Lookup(c.Owner)
		if errors.Is(err, fs.ErrPermission) {
			bad = append(bad, fmt.Errorf("owner: %w", err))
		} else if err != nil {
			bad = append(bad, withHint(fmt.Errorf("owner: no user %q", c.Owner), "correct the name, or leave owner out"))
		} else {
			o.UID, _ = strconv.Atoi(u.Uid)
		}
	}
	group := c.Group
	if group == "" {
		if g, err := user.LookupGroup("postfix"); err == nil {
			if gid, err := strconv.Atoi(g.Gid); err == nil && mayGive(gid, g.Name) == nil {
				group = g.Name
			}
		}
	}
	if group != "" {
		g, err := user.LookupGroup(group)
		switch {
		case errors.Is(err, fs.ErrPermission):
			bad = append(bad, fmt.Errorf("group: %w", err))
		case err != nil:
			bad = append(bad, withHint(fmt.Errorf("group: no group %q", group), "correct the name, or leave group out"))
		default:
			o.GID, _ = strconv.Atoi(g.Gid)
			if err := mayGive(o.GID, group); err != nil {
				bad = append(bad, err)
			}
		}
	}
	return o, errors.Join(bad...)
}

// mayGive says whether we may give a socket to a group: root may, and members.
func mayGive(gid int, name string) error {
	if os.Geteuid() == 0 || gid == os.Getegid() {
		return nil
	}
	groups, err := os.Getgroups()
	if err != nil || slices.Contains(groups, gid) {
		return nil // if it cannot be told, it will be tried
	}
	who := strconv.Itoa(os.Geteuid())
	if u, err := user.LookupId(who); err == nil {
		who = u.Username
	}
	return withHint(fmt.Errorf("group: user %s is no member of %s, and so cannot give the socket to it", who, name), "run: usermod -aG %s %s", name, who)
}

func buildLog(w io.Writer, c LogConfig, level slog.Leveler) *slog.Logger {
	o := &slog.HandlerOptions{Level: level}
	format := func(w io.Writer) slog.Handler {
		if c.Format {
			return slog.NewJSONHandler(w, o)
		}
		return slog.NewTextHandler(w, o)
	}
	if toJournal(w, os.Getenv("JOURNAL_STREAM")) {
		return slog.New(newJournalHandler(w, bool(c.Format), format))
	}
	return slog.New(format(w))
}

// unjoin returns the errors that errors.Join has joined.
func unjoin(err error) []error {
	if many, ok := err.(interface{ Unwrap() []error }); ok {
		var all []error
		for _, each := range many.Unwrap() {
			all = append(all, unjoin(each)...)
		}
		return all
	}
	return []error{err}
}

// loadConfig reads the configuration and applies the common flags, which win
// over the file.
func (a *app) loadConfig() (*decoded, error) {
	path, named := a.configFile, a.configFile != ""
	if !named {
		path = defaultConfigFile
	}
	d, err := readConfig(path, named)
	if d != nil && a.keystore != "" {
		d.Keystore.URL = a.keystore
		d.Keystore.KeyQuery, d.Keystore.ListQuery, d.Keystore.SenderQuery = "", "", "" // which are about the other one
		d.flags["keystore.url"] = "--keystore"
	}
	return d, err
}

// loadStore opens the keystore for the commands that only need that.
func (a *app) loadStore() (keystore.Store, error) {
	d, err := a.loadConfig()
	if err != nil {
		return nil, err
	}
	return a.opening(openStore(d, a.warn))
}

// opening has a keystore closed when the command ends. SQLite then moves what is
// in its journal into its one file.
func (a *app) opening(store keystore.Store, err error) (keystore.Store, error) {
	if c, ok := store.(io.Closer); ok && err == nil {
		a.opened = append(a.opened, c)
	}
	return store, err
}

func (a *app) closeStores() {
	for _, c := range a.opened {
		c.Close()
	}
	a.opened = nil
}

// beginStore is loadStore for commands that may begin a new keystore.
func (a *app) beginStore(ctx context.Context) (keystore.Store, error) {
	d, err := a.loadConfig()
	if err != nil {
		return nil, err
	}
	if a.dryRun {
		return a.opening(openStore(d, a.warn))
	}
	return a.opening(makeStore(ctx, d, a.warn, a.madeStore))
}

func (a *app) warn(what string, err error) { a.notice("%s: %v", what, err) }

func (a *app) madeStore(path string) { a.notice("made the keystore %s", path) }
