package redisstore

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/redis/rueidis"

	"waxseal/keystore"
)

const (
	redisPort    = "6379"
	sentinelPort = "26379"

	// dialTimeout bounds one attempt to connect, and deadAfter how long a server
	// may be silent before its connection is given up.
	dialTimeout = 2 * time.Second
	deadAfter   = 10 * time.Second
)

// target is a URL, taken apart.
type target struct {
	name  string // for errors: the hosts
	mode  string // "", "unix", "sentinel" or "cluster"
	hosts []string
	user  string
	set   string // the name that Sentinel knows the server by
	db    int
	tls   *tls.Config

	passwordFile, sentinelUser, sentinelPasswordFile string

	layout, prefix, keys, selectors, domains string
	fixed                                    []string
	replicas                                 int
}

// layouts are the defaults of the options of each layout; an option that is not
// here has no meaning in it.
var layouts = map[string]map[string]string{
	"native":      {"prefix": "waxseal:", "replicas": "0"},
	"rspamd":      {"keys": "DKIM_KEYS", "selectors": "", "selector": ""},
	"mailcow":     {"keys": "DKIM_PRIV_KEYS", "selectors": "DKIM_SELECTORS", "domains": "DKIM_PUB_KEYS", "selector": ""},
	"opendkim-ng": {"keys": "", "selectors": ""},
}

// parseURL reads the URL, and the certificates that it names. The standard
// library has no URLs with several hosts, so these are taken out before.
func parseURL(text string, secretPath func(string) (string, error)) (*target, error) {
	scheme, rest, ok := strings.Cut(text, "://")
	if !ok {
		return nil, errors.New(`not a URL, want for example "redis://127.0.0.1/0"`)
	}
	t := &target{}
	secure := false
	switch base, mode, _ := strings.Cut(scheme, "+"); {
	case base != "redis" && base != "rediss" || !slices.Contains([]string{"", "unix", "sentinel", "cluster"}, mode) || base == "rediss" && mode == "unix":
		return nil, fmt.Errorf("unknown scheme %.40q, want redis, redis+unix, redis+sentinel or redis+cluster, or rediss for TLS", scheme)
	default:
		t.mode, secure = mode, base == "rediss"
	}
	end := strings.IndexAny(rest, "/?")
	if end < 0 {
		end = len(rest)
	}
	at := strings.LastIndex(rest[:end], "@") + 1
	hosts := rest[at:end]
	u, err := url.Parse(scheme + "://" + rest[:at] + "x" + rest[end:])
	if err != nil {
		return nil, errors.New("not a URL") // its error quotes what may be a password
	}
	if _, has := u.User.Password(); has {
		return nil, errors.New(`the URL has a password, which would be logged: put it into a file, and the file's name into the option "password_file"`)
	}
	t.user = u.User.Username()
	if err := t.setHosts(hosts, strings.TrimPrefix(u.Path, "/")); err != nil {
		return nil, err
	}
	return t, t.setOptions(u.RawQuery, secure, secretPath)
}

// setHosts reads the hosts and the path, which mean something else in each mode.
func (t *target) setHosts(hosts, path string) error {
	db := path
	port := redisPort
	switch t.mode {
	case "unix":
		if hosts != "" || path == "" {
			return errors.New("want three slashes and the path of the socket: redis+unix:///run/redis/redis.sock")
		}
		t.hosts, t.name = []string{"/" + path}, "/"+path
		return nil
	case "sentinel":
		port = sentinelPort
		if t.set, db, _ = strings.Cut(path, "/"); t.set == "" {
			return errors.New("the name that Sentinel knows the server by is missing: redis+sentinel://HOST,HOST/NAME")
		}
	case "cluster":
		if path != "" {
			return errors.New("a cluster has no numbered databases: leave out what follows the hosts")
		}
	}
	if db != "" {
		n, err := strconv.Atoi(db)
		if err != nil || n < 0 {
			return fmt.Errorf("database %.40q, want a number from 0", db)
		}
		t.db = n
	}
	for host := range strings.SplitSeq(hosts, ",") {
		if host == "" {
			return errors.New("a host is missing")
		}
		if _, _, err := net.SplitHostPort(host); err != nil {
			host = net.JoinHostPort(strings.Trim(host, "[]"), port)
		}
		t.hosts = append(t.hosts, host)
	}
	if len(t.hosts) > 1 && t.mode == "" {
		return errors.New("several hosts, want redis+sentinel or redis+cluster for these")
	}
	t.name = strings.Join(t.hosts, ",")
	return nil
}

func (t *target) setOptions(query string, secure bool, secretPath func(string) (string, error)) error {
	values, err := url.ParseQuery(query)
	if err != nil {
		return errors.New("the options are not of the form name=value&name=value")
	}
	t.layout = "native"
	if l := values.Get("layout"); l != "" {
		t.layout = l
	}
	defaults, ok := layouts[t.layout]
	if !ok {
		return fmt.Errorf("layout %.40q, want native, rspamd, mailcow or opendkim-ng", t.layout)
	}
	get := func(name string) string {
		if values.Has(name) {
			return values.Get(name)
		}
		return defaults[name]
	}
	for name, v := range values {
		if !slices.Contains(t.optionNames(secure), name) {
			return fmt.Errorf("option %.40q has no meaning here, want one of %s", name, strings.Join(t.optionNames(secure), ", "))
		}
		if len(v) > 1 || v[0] == "" {
			return fmt.Errorf("option %s is empty or there twice", name)
		}
	}
	t.prefix, t.keys, t.selectors, t.domains = get("prefix"), get("keys"), get("selectors"), get("domains")
	if r := get("replicas"); r != "" {
		if t.replicas, err = strconv.Atoi(r); err != nil || t.replicas < 0 {
			return fmt.Errorf("replicas %.40q, want a number from 0", r)
		}
	}
	for s := range strings.SplitSeq(get("selector"), ",") {
		if s == "" {
			continue
		}
		if err := keystore.ValidSelector(s); err != nil {
			return err
		}
		t.fixed = append(t.fixed, s)
	}
	if t.layout == "rspamd" && t.selectors == "" && len(t.fixed) == 0 {
		return errors.New(`rspamd's layout does not tell selectors: name them ("selector=dkim"), or their hash ("selectors=HASH", rspamd's selector_prefix)`)
	}
	if t.layout == "opendkim-ng" && (t.keys == "" || t.selectors == "") {
		return errors.New(`opendkim-ng has no prefixes of its own: name those at the end of its KeyTable and SigningTable, redis://HOST:PORT/PREFIX, in "keys" and "selectors"`)
	}
	t.sentinelUser = values.Get("sentinel_user")
	for name, path := range map[string]*string{"password_file": &t.passwordFile, "sentinel_password_file": &t.sentinelPasswordFile} {
		if *path = values.Get(name); *path != "" && secretPath != nil {
			if *path, err = secretPath(*path); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
	}
	if !secure {
		return nil
	}
	t.tls, err = keystore.ClientTLS(values.Get("ca"), values.Get("cert"), values.Get("key"))
	return err
}

// optionNames are the options that have a meaning.
func (t *target) optionNames(secure bool) []string {
	names := append([]string{"layout", "password_file"}, slices.Sorted(maps.Keys(layouts[t.layout]))...)
	if t.mode == "sentinel" {
		names = append(names, "sentinel_user", "sentinel_password_file")
	}
	if secure {
		names = append(names, "ca", "cert", "key")
	}
	return names
}

// option is the target as the client library takes it.
func (t *target) option() (rueidis.ClientOption, error) {
	o := rueidis.ClientOption{
		InitAddress: t.hosts, SelectDB: t.db, TLSConfig: t.tls, ClientName: "waxseal",
		ForceSingleClient: t.mode == "" || t.mode == "unix",
		Dialer:            net.Dialer{Timeout: dialTimeout, KeepAlive: time.Second},
		ConnWriteTimeout:  deadAfter,
		PipelineMultiplex: -1,   // one connection: keys are read when the cache has none
		DisableCache:      true, // keystore.Cache is the cache; Watch asks to be told by itself
		// The library would have half a megabyte for each.
		ReadBufferEachConn: 32 << 10, WriteBufferEachConn: 32 << 10, RingScaleEachConn: 8,
		BlockingPoolSize: 16,
	}
	if t.mode == "unix" {
		o.DialCtxFn = func(ctx context.Context, path string, d *net.Dialer, _ *tls.Config) (net.Conn, error) {
			return d.DialContext(ctx, "unix", path)
		}
	}
	if t.mode == "cluster" {
		o.ClusterOption.ShardsRefreshInterval = 10 * time.Second
	}
	// The library asks one function for the user of a server and of a Sentinel, so
	// the latter are known by who dialled them.
	var sentinels sync.Map // their addresses
	o.AuthCredentialsFn = func(c rueidis.AuthCredentialsContext) (rueidis.AuthCredentials, error) {
		user, file := t.user, t.passwordFile
		if _, ok := sentinels.Load(c.Address.String()); ok {
			user, file = t.sentinelUser, t.sentinelPasswordFile
		}
		credentials := rueidis.AuthCredentials{Username: user}
		if file == "" {
			return credentials, nil
		}
		var err error
		if credentials.Password, err = keystore.ReadSecret(file); err != nil {
			return credentials, fmt.Errorf("password file: %w", err)
		}
		return credentials, nil
	}
	if t.mode == "sentinel" {
		dialer := o.Dialer
		dialer.ControlContext = func(_ context.Context, _, address string, _ syscall.RawConn) error {
			sentinels.Store(address, true)
			return nil
		}
		o.Sentinel = rueidis.SentinelOption{MasterSet: t.set, TLSConfig: t.tls, Dialer: dialer, TopologyRefreshInterval: 5 * time.Second}
	}
	return o, nil
}
