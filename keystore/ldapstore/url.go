package ldapstore

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"github.com/go-ldap/ldap/v3"

	"waxseal/keystore"
)

// target is a URL, taken apart.
type target struct {
	name     string   // for errors: the hosts
	urls     []string // of each host, as the library takes them
	base     string
	layout   string
	startTLS bool
	tls      *tls.Config

	bindDN, passwordFile string
	external             bool
}

// parseURL reads the URL, and the certificates that it names. The standard
// library has no URLs with several hosts, so these are taken out before.
func parseURL(text string, secretPath func(string) (string, error)) (*target, error) {
	scheme, rest, ok := strings.Cut(text, "://")
	if !ok || !slices.Contains([]string{"ldap", "ldaps", "ldapi"}, scheme) {
		return nil, errors.New("want a URL that begins with ldap://, ldaps:// or ldapi://")
	}
	end := strings.IndexAny(rest, "/?")
	if end < 0 {
		end = len(rest)
	}
	hosts := rest[:end]
	if strings.Contains(hosts, "@") {
		return nil, errors.New(`the URL has a user or a password: put the name into the option "bind_dn", the password into a file, and its name into "password_file"`)
	}
	u, err := url.Parse("ldap://x" + rest[end:])
	if err != nil {
		return nil, errors.New("not a URL")
	}
	t := &target{base: strings.TrimPrefix(u.Path, "/"), name: hosts}
	if _, err := ldap.ParseDN(t.base); err != nil {
		return nil, fmt.Errorf("base %.80q: want the name of the entry that all is below, such as dc=example,dc=com", t.base)
	}
	local, err := t.setHosts(scheme, hosts)
	if err != nil {
		return nil, err
	}
	return t, t.setOptions(u.RawQuery, scheme, local, secretPath)
}

// setHosts reads the hosts. local means that all are this machine.
func (t *target) setHosts(scheme, hosts string) (local bool, err error) {
	if scheme == "ldapi" {
		path, err := url.PathUnescape(hosts)
		if err != nil || !strings.HasPrefix(path, "/") {
			return true, fmt.Errorf("socket %.80q: want its path, slashes written %%2F", hosts)
		}
		t.urls, t.name = []string{"ldapi://" + path}, path
		return true, nil
	}
	local = true
	for host := range strings.SplitSeq(hosts, ",") {
		name, _, err := net.SplitHostPort(host)
		if err != nil {
			name = strings.Trim(host, "[]")
		}
		if name == "" || strings.ContainsAny(name, "/?#% ") {
			return false, errors.New("a host is missing, or is none")
		}
		ip, err := netip.ParseAddr(name)
		local = local && (name == "localhost" || err == nil && ip.IsLoopback())
		if err == nil && ip.Is6() && !strings.HasPrefix(host, "[") {
			host = "[" + host + "]"
		}
		one := scheme + "://" + host
		if _, err := url.Parse(one); err != nil {
			return false, fmt.Errorf("host %.80q is none", host)
		}
		t.urls = append(t.urls, one)
	}
	return local, nil
}

func (t *target) setOptions(query, scheme string, local bool, secretPath func(string) (string, error)) error {
	values, err := url.ParseQuery(query)
	if err != nil {
		return errors.New("the options are not of the form name=value&name=value")
	}
	known := []string{"layout", "bind_dn", "password_file", "sasl"}
	if scheme == "ldap" {
		known = append(known, "starttls")
	}
	if scheme != "ldapi" {
		known = append(known, "ca", "cert", "key")
	}
	for name, v := range values {
		if !slices.Contains(known, name) {
			return fmt.Errorf("option %.40q has no meaning here, want one of %s", name, strings.Join(known, ", "))
		}
		if len(v) > 1 || v[0] == "" {
			return fmt.Errorf("option %s is empty or there twice", name)
		}
	}
	t.layout = values.Get("layout")
	if t.layout != "zimbra" && t.layout != "opendkim" {
		return fmt.Errorf(`layout %.40q, want zimbra or opendkim`, t.layout)
	}
	if t.base == "" && t.layout != "zimbra" {
		return errors.New("the base is missing: the name of the entry that all is below, such as ldaps://HOST/dc=example,dc=com")
	}
	t.startTLS = scheme == "ldap" && !local
	switch v := values.Get("starttls"); v {
	case "":
	case "yes", "no":
		t.startTLS = v == "yes"
	default:
		return fmt.Errorf("starttls %.40q, want yes or no", v)
	}
	t.bindDN, t.passwordFile = values.Get("bind_dn"), values.Get("password_file")
	if (t.bindDN == "") != (t.passwordFile == "") {
		return errors.New(`of "bind_dn" and "password_file" one is missing`)
	}
	if v := values.Get("sasl"); v != "" {
		if t.external = v == "external"; !t.external || t.bindDN != "" {
			return fmt.Errorf(`sasl %.40q, want external, and without "bind_dn"`, v)
		}
	}
	if t.passwordFile != "" && secretPath != nil {
		if t.passwordFile, err = secretPath(t.passwordFile); err != nil {
			return fmt.Errorf("password_file: %w", err)
		}
	}
	if (values.Has("ca") || values.Has("cert")) && scheme == "ldap" && !t.startTLS {
		return errors.New(`"ca" and "cert" are about TLS, which "starttls" is to begin`)
	}
	t.tls, err = keystore.ClientTLS(values.Get("ca"), values.Get("cert"), values.Get("key"))
	return err
}

// tlsFor is the configuration for one host, whose name the certificate must have.
func (t *target) tlsFor(text string) *tls.Config {
	c := t.tls.Clone()
	if u, err := url.Parse(text); err == nil {
		c.ServerName = u.Hostname()
	}
	return c
}
