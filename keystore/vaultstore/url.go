package vaultstore

import (
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"waxseal/keystore"
)

const vaultPort = "8200"

// target is a URL, taken apart.
type target struct {
	bases     []string // of each host: scheme, host, and what stands before /v1
	tls       *tls.Config
	namespace string
	auth      authOptions

	layout      string
	kv          int
	mount, path string
	selectors   []string

	transit     string
	requests    int
	signTimeout time.Duration
}

// authOptions say how to get a token.
type authOptions struct {
	method, mount string
	token         string // literal, Mailu's alone
	tokenFile     string
	roleID        string
	secretIDFile  string
	role          string
	jwtFile       string
}

// layouts are the defaults of the options of each layout; an option that is not
// here has no meaning in it.
var layouts = map[string]map[string]string{
	"native":  {"path": "secret/waxseal", "kv": "2", "transit": "", "requests": "32", "sign_timeout": "5s"},
	"rspamd":  {"path": "dkim", "kv": "1"},
	"mailu":   {"path": "dkim", "base": "/internal/rspamd/vault"},
	"kumomta": {"path": "secret/dkim", "kv": "2", "selector": ""},
}

// methods are the options of each way to log in.
var methods = map[string]map[string]string{
	"token":      {"token_file": ""},
	"approle":    {"auth_mount": "approle", "role_id": "", "secret_id_file": ""},
	"kubernetes": {"auth_mount": "kubernetes", "role": "", "jwt_file": "/var/run/secrets/kubernetes.io/serviceaccount/token"},
}

// options are the query of a URL with its defaults.
type options struct {
	values   url.Values
	defaults map[string]string
}

func (o options) get(name string) string {
	if o.values.Has(name) {
		return o.values.Get(name)
	}
	return o.defaults[name]
}

// parseURL reads the URL, and the certificates that it names. The standard
// library has no URLs with several hosts, so these are taken out before.
func parseURL(text string, secretPath func(string) (string, error)) (*target, error) {
	scheme, rest, ok := strings.Cut(text, "://")
	if !ok || scheme != "vault" && scheme != "vault+http" {
		return nil, errors.New(`want a URL that begins with vault:// or vault+http://`)
	}
	end := strings.IndexAny(rest, "/?")
	if end < 0 {
		end = len(rest)
	}
	hosts := rest[:end]
	if strings.Contains(hosts, "@") {
		return nil, errors.New(`the URL has a user or a secret, which would be logged: put the token into a file, and the file's name into the option "token_file"`)
	}
	u, err := url.Parse("vault://x" + rest[end:])
	if err != nil {
		return nil, errors.New("not a URL") // its error quotes the URL
	}
	t := &target{}
	o, err := t.options(u.RawQuery, scheme == "vault")
	if err != nil {
		return nil, err
	}
	if err := t.setPath(cleanPath(u.Path), o); err != nil {
		return nil, err
	}
	if err := t.setNumbers(o); err != nil {
		return nil, err
	}
	if err := t.setAuth(o, secretPath); err != nil {
		return nil, err
	}
	httpScheme := "http://"
	if scheme == "vault" {
		httpScheme = "https://"
		if t.tls, err = keystore.ClientTLS(o.get("ca"), o.get("cert"), o.get("key")); err != nil {
			return nil, err
		}
	}
	for host := range strings.SplitSeq(hosts, ",") {
		if host == "" {
			return nil, errors.New("a host is missing")
		}
		if _, _, err := net.SplitHostPort(host); err != nil {
			host = net.JoinHostPort(strings.Trim(host, "[]"), vaultPort)
		}
		base := httpScheme + host + strings.TrimSuffix("/"+cleanPath(o.get("base")), "/")
		if _, err := url.Parse(base); err != nil {
			return nil, fmt.Errorf("host %.80q is none", host)
		}
		t.bases = append(t.bases, base)
	}
	return t, nil
}

// options reads the query, and refuses what has no meaning.
func (t *target) options(query string, secure bool) (options, error) {
	values, err := url.ParseQuery(query)
	if err != nil {
		return options{}, errors.New("the options are not of the form name=value&name=value")
	}
	o := options{values, map[string]string{"layout": "native", "auth": "token", "namespace": "", "mount": "", "base": ""}}
	if secure {
		o.defaults["ca"], o.defaults["cert"], o.defaults["key"] = "", "", ""
	}
	t.layout, t.auth.method = o.get("layout"), o.get("auth")
	ofLayout, ok := layouts[t.layout]
	if !ok {
		return o, fmt.Errorf("layout %.40q, want native, rspamd, mailu or kumomta", t.layout)
	}
	ofMethod, ok := methods[t.auth.method]
	if !ok {
		return o, fmt.Errorf("auth %.40q, want token, approle or kubernetes", t.auth.method)
	}
	for _, more := range []map[string]string{ofLayout, ofMethod} {
		for name, value := range more {
			o.defaults[name] = value
		}
	}
	for name, v := range values {
		if _, ok := o.defaults[name]; !ok || name == "path" {
			known := slices.DeleteFunc(slices.Sorted(maps.Keys(o.defaults)), func(n string) bool { return n == "path" })
			return o, fmt.Errorf("option %.40q has no meaning here, want one of %s", name, strings.Join(known, ", "))
		}
		if len(v) > 1 || v[0] == "" {
			return o, fmt.Errorf("option %s is empty or there twice", name)
		}
	}
	return o, nil
}

// setPath tells the mount from the path in it.
func (t *target) setPath(path string, o options) error {
	if path == "" {
		path = o.defaults["path"]
	}
	for part := range strings.SplitSeq(path, "/") {
		if part == "" || part == "." || part == ".." || url.PathEscape(part) != part {
			return fmt.Errorf("path %.80q: want names with single slashes between", path)
		}
	}
	mount := cleanPath(o.get("mount"))
	if mount == "" {
		t.mount, t.path, _ = strings.Cut(path, "/")
		return nil
	}
	below, ok := strings.CutPrefix(path+"/", mount+"/")
	if !ok {
		return fmt.Errorf("path %.80q does not begin with the mount %.80q", path, mount)
	}
	t.mount, t.path = mount, strings.TrimSuffix(below, "/")
	return nil
}

func (t *target) setNumbers(o options) error {
	t.kv = 1
	switch kv := o.get("kv"); {
	case kv == "2":
		t.kv = 2
	case kv == "1" && t.layout == "native":
		return errors.New("version 1 of the key/value engine has no check-and-set, which changes need: mount one of version 2")
	case kv != "" && kv != "1":
		return fmt.Errorf("kv %.40q, want 1 or 2, the version of the key/value engine", kv)
	}
	if s := o.get("selector"); s != "" {
		t.selectors = strings.Split(s, ",")
		for _, s := range t.selectors {
			if err := keystore.ValidSelector(s); err != nil {
				return err
			}
		}
	}
	t.namespace, t.transit = o.get("namespace"), cleanPath(o.get("transit"))
	if t.transit == "" {
		if o.values.Has("requests") || o.values.Has("sign_timeout") {
			return errors.New(`"requests" and "sign_timeout" are about "transit", which is not set`)
		}
		return nil
	}
	var err error
	if t.requests, err = strconv.Atoi(o.get("requests")); err != nil || t.requests < 1 {
		return fmt.Errorf("requests %.40q, want a number from 1", o.get("requests"))
	}
	if t.signTimeout, err = time.ParseDuration(o.get("sign_timeout")); err != nil || t.signTimeout <= 0 {
		return fmt.Errorf("sign_timeout %.40q, want a time such as 5s", o.get("sign_timeout"))
	}
	return nil
}

func (t *target) setAuth(o options, secretPath func(string) (string, error)) error {
	a := &t.auth
	a.mount = cleanPath(o.get("auth_mount"))
	a.roleID, a.role = o.get("role_id"), o.get("role")
	a.tokenFile, a.secretIDFile, a.jwtFile = o.get("token_file"), o.get("secret_id_file"), o.get("jwt_file")
	for name, path := range map[string]*string{"token_file": &a.tokenFile, "secret_id_file": &a.secretIDFile, "jwt_file": &a.jwtFile} {
		if secretPath != nil && o.values.Has(name) {
			var err error
			if *path, err = secretPath(*path); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
	}
	switch {
	case t.layout == "mailu" && a.method == "token" && a.tokenFile == "":
		a.token = "mailu" // Mailu takes every token
	case a.method == "token" && a.tokenFile == "":
		return errors.New(`no token: name its file in the option "token_file", or use auth=approle or auth=kubernetes`)
	case a.method == "approle" && a.roleID == "":
		return errors.New(`auth=approle needs "role_id"`)
	case a.method == "kubernetes" && a.role == "":
		return errors.New(`auth=kubernetes needs "role"`)
	}
	return nil
}

// cleanPath leaves out slashes around.
func cleanPath(p string) string { return strings.Trim(p, "/") }
