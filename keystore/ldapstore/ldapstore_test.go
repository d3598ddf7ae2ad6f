package ldapstore

import (
	"context"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/go-ldap/ldap/v3"

	"waxseal/keystore"
	"waxseal/keystore/storetest"
)

func open(t *testing.T, url string) *Store {
	t.Helper()
	s, err := Open(t.Context(), url, Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func broken(t *testing.T, s *Store, domain, want string) {
	t.Helper()
	d, err := s.Domain(t.Context(), domain)
	if err != nil || len(d.Keys) != 0 || len(d.Unreadable) != 1 || !d.Unreadable[0].Active || !strings.Contains(d.Unreadable[0].Err.Error(), want) {
		t.Errorf("%s: %+v, %v; want %q", domain, d, err, want)
	}
}

// Zimbra's directory begins at the root, with a tree for each top-level domain;
// zmdkimkeyutil takes what opendkim-genkey wrote, line ends included, for the entry
// of a domain, and "-u" puts another key in its place.
func TestZimbrasWholeDirectory(t *testing.T) {
	srv := startAt(t, "")
	text, _ := storetest.PrivateKey(t)
	signer, err := keystore.ParsePrivateKey([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	pkcs1 := string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(signer.(*rsa.PrivateKey))}))
	for name, key := range map[string]string{"com": text, "org": pkcs1} {
		srv.add("dc="+name, map[string][]string{"objectClass": {"domain"}, "dc": {name}})
		srv.add("dc=example,dc="+name, map[string][]string{
			"objectClass": {"domain", "DKIM"}, "dc": {"example"}, "DKIMSelector": {"B534F5FC-EAF5-11E1-A25D-54A9B1B2315" + name[:1]},
			"DKIMDomain": {"example." + name}, "DKIMKey": {key}, "DKIMIdentity": {"example." + name},
			"DKIMPublicKey": {"x._domainkey\tIN\tTXT\t( \"v=DKIM1; k=rsa; \"\n\t  \"p=MIGf\" )  ; ----- DKIM key x for example." + name + "\n"},
		})
	}
	s := open(t, strings.Replace(srv.url(srv.address, "zimbra"), "/dc=mail", "/", 1))
	storetest.Signs(t, s, "example.com", "b534f5fc-eaf5-11e1-a25d-54a9b1b2315c")
	storetest.Signs(t, s, "example.org", "b534f5fc-eaf5-11e1-a25d-54a9b1b2315o")
	storetest.Signs(t, s, "mail")
	storetest.Lists(t, s, "example.com", "example.org")
}

// As zmdkimkeyutil writes: all on the entry of the domain.
func TestZimbra(t *testing.T) {
	srv := start(t)
	text, bare := storetest.PrivateKey(t)
	add := func(domain string, attributes map[string][]string) {
		attributes["objectClass"] = []string{"domain", "DKIM"}
		attributes["dc"] = []string{domain}
		srv.add("dc="+domain+",dc=mail", attributes)
	}
	add("example.com", map[string][]string{"DKIMIdentity": {"example.com"}, "DKIMSelector": {"A1B2-C3"}, "DKIMDomain": {"example.com"}, "DKIMKey": {text}, "DKIMPublicKey": {"x"}})
	add("example.net", map[string][]string{"DKIMIdentity": {"example.net"}, "DKIMSelector": {"mail"}, "DKIMDomain": {"example.net"}, "DKIMKey": {bare}})
	add("example.org", map[string][]string{"DKIMIdentity": {"example.org"}, "DKIMSelector": {"mail"}, "DKIMDomain": {"example.org"}, "DKIMKey": {text}})
	add("other.example", map[string][]string{"DKIMIdentity": {"other.example"}, "DKIMSelector": {"o"}, "DKIMDomain": {"elsewhere.example"}, "DKIMKey": {text}})
	add("empty.example", map[string][]string{"DKIMIdentity": {"empty.example"}, "DKIMSelector": {"e"}, "DKIMDomain": {"empty.example"}})
	add("bad.example", map[string][]string{"DKIMIdentity": {"bad.example"}, "DKIMSelector": {"b*)(x=y"}, "DKIMDomain": {"bad.example"}, "DKIMKey": {text}})
	add("none.example", map[string][]string{})

	s := open(t, srv.url(srv.address, "zimbra"))
	storetest.Signs(t, s, "example.com", "a1b2-c3")
	storetest.Signs(t, s, "example.net", "mail")
	storetest.Signs(t, s, "example.org", "mail")
	storetest.Signs(t, s, "none.example")
	storetest.Signs(t, s, "*")
	broken(t, s, "other.example", "signs for")
	broken(t, s, "empty.example", "has no DKIMKey")
	broken(t, s, "bad.example", "selector")
	storetest.Lists(t, s, "bad.example", "empty.example", "example.com", "example.net", "example.org", "other.example")

	t.Run("who may not read keys is told so", func(t *testing.T) {
		broken(t, open(t, "ldap://"+srv.address+"/dc=mail?layout=zimbra"), "example.com", "may not read")
	})
	t.Run("a wrong password is an error", func(t *testing.T) {
		wrong := strings.Replace(srv.url(srv.address, "zimbra"), "uid=waxseal", "cn=admin", 1)
		if _, err := open(t, wrong).Domain(t.Context(), "example.com"); err == nil || errors.Is(err, keystore.ErrNotFound) || !strings.Contains(err.Error(), "logging in") {
			t.Errorf("error %v", err)
		}
	})
	t.Run("a base that is not there is an error", func(t *testing.T) {
		wrong := strings.Replace(srv.url(srv.address, "zimbra"), "/dc=mail", "/dc=mial", 1)
		if _, err := open(t, wrong).Domain(t.Context(), "example.com"); err == nil || errors.Is(err, keystore.ErrNotFound) {
			t.Errorf("error %v", err)
		}
	})
	t.Run("TLS", func(t *testing.T) {
		secure := srv.url(srv.address, "zimbra") + "&starttls=yes"
		storetest.Signs(t, open(t, secure+"&ca="+srv.ca), "example.com", "a1b2-c3")
		if _, err := open(t, secure).Domain(t.Context(), "example.com"); err == nil || !strings.Contains(err.Error(), "certificate") {
			t.Errorf("a server that nobody vouches for: %v", err)
		}
	})
	t.Run("by the socket, as whom it tells", func(t *testing.T) {
		storetest.Signs(t, open(t, "ldapi://"+url.PathEscape(srv.socket())+"/dc=mail?layout=zimbra&sasl=external"), "example.com", "a1b2-c3")
	})
	t.Run("the second host answers", func(t *testing.T) {
		storetest.Signs(t, open(t, srv.url("127.0.0.1:1,"+srv.address, "zimbra")), "example.com", "a1b2-c3")
	})
	t.Run("more than the server sends at a time", func(t *testing.T) {
		srv.admin(func(c *ldap.Conn) error {
			for i := range 520 {
				r := ldap.NewAddRequest(fmt.Sprintf("dc=d%d.example,dc=mail", i), nil)
				r.Attribute("objectClass", []string{"domain", "DKIM"})
				r.Attribute("dc", []string{fmt.Sprintf("d%d.example", i)})
				r.Attribute("DKIMIdentity", []string{fmt.Sprintf("d%d.example", i)})
				if err := c.Add(r); err != nil {
					return err
				}
			}
			return nil
		})
		names, err := s.List(t.Context(), "", 0)
		if err != nil || len(names) != 526 {
			t.Errorf("%d names, %v", len(names), err)
		}
	})
}

func TestOpenDKIMSchema(t *testing.T) {
	srv := start(t)
	text, bare := storetest.PrivateKey(t)
	n := 0
	add := func(attributes map[string][]string) {
		n++
		attributes["objectClass"] = []string{"account", "domainRelatedObject", "DKIM"}
		attributes["uid"] = []string{fmt.Sprint("k", n)}
		if attributes["associatedDomain"] == nil {
			attributes["associatedDomain"] = []string{"none.invalid"}
		}
		srv.add(fmt.Sprintf("uid=k%d,dc=mail", n), attributes)
	}
	add(map[string][]string{"DKIMIdentity": {"example.com"}, "DKIMSelector": {"s1"}, "DKIMDomain": {"example.com"}, "DKIMKey": {text}, "DKIMActive": {"TRUE"}})
	add(map[string][]string{"DKIMIdentity": {"@example.com"}, "DKIMSelector": {"s2"}, "DKIMDomain": {"%"}, "DKIMKey": {bare}, "DKIMActive": {"TRUE"}})
	add(map[string][]string{"DKIMIdentity": {"example.com"}, "DKIMSelector": {"s3"}, "DKIMDomain": {"example.com"}, "DKIMKey": {text}, "DKIMActive": {"FALSE"}})
	add(map[string][]string{"associatedDomain": {"example.net"}, "DKIMSelector": {"s4"}, "DKIMDomain": {"%"}, "DKIMKey": {text}, "DKIMActive": {"TRUE"}})
	s := open(t, srv.url(srv.address, "opendkim"))
	storetest.Signs(t, s, "example.com", "s1", "s2")
	storetest.Signs(t, s, "example.net", "s4")
	storetest.Signs(t, s, "example.org")
	storetest.Lists(t, s, "example.com", "example.net")
}

func TestConforms(t *testing.T) {
	names := append([]string{"example.com", "example.net"}, storetest.OddNames...)
	for _, layout := range []string{"zimbra", "opendkim"} {
		srv := start(t)
		for i, name := range names {
			text, _ := storetest.PrivateKey(t)
			srv.add("dc="+name+",dc=mail", map[string][]string{"objectClass": {"domain", "DKIM"}, "dc": {name}, "DKIMActive": {"TRUE"},
				"DKIMIdentity": {name}, "DKIMSelector": {fmt.Sprintf("s%d", i)}, "DKIMDomain": {name}, "DKIMKey": {text}})
		}
		s := open(t, srv.url(srv.address, layout))
		storetest.RunReadOnly(t, s, names...)
		st, err := s.Status(t.Context())
		if err != nil || st.Kind != "LDAP, "+layout+"'s keys" || st.Domains != int64(len(names)) || st.Connect <= 0 || st.Latency <= 0 {
			t.Errorf("status %+v, %v", st, err)
		}
		srv.kill()
		if _, err := s.Status(t.Context()); err == nil {
			t.Error("a server that is down has a status")
		}
	}
}

func TestLostConnectionsAndRestart(t *testing.T) {
	srv := start(t)
	text, _ := storetest.PrivateKey(t)
	srv.add("dc=example.com,dc=mail", map[string][]string{"objectClass": {"domain", "DKIM"}, "dc": {"example.com"},
		"DKIMIdentity": {"example.com"}, "DKIMSelector": {"a"}, "DKIMDomain": {"example.com"}, "DKIMKey": {text}})
	p := storetest.NewProxy(t, "tcp", srv.address)
	s := open(t, srv.url(p.Address, "zimbra"))
	for _, toServer := range []bool{true, false} {
		for _, octets := range []int{0, 1, 9, 40, 100, 300, 700, 1200} {
			for what, call := range map[string]func() error{
				"Domain": func() error { _, err := s.Domain(t.Context(), "example.com"); return err },
				"List":   func() error { _, err := s.List(t.Context(), "", 0); return err },
			} {
				p.CutAfter(octets, toServer)
				if err := call(); err != nil {
					t.Errorf("%s cut after %d octets (to the server: %v): %v", what, octets, toServer, err)
				}
				p.Heal()
			}
		}
	}
	srv.kill()
	if _, err := s.Domain(t.Context(), "example.com"); err == nil || errors.Is(err, keystore.ErrNotFound) {
		t.Errorf("with the server gone: %v", err)
	}
	srv.run()
	storetest.Signs(t, s, "example.com", "a")

	p.Delay(time.Minute)
	defer p.Drop()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	began := time.Now()
	if _, err := s.Domain(ctx, "example.com"); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) > 2*time.Second {
		t.Errorf("a silent server: %v after %v", err, time.Since(began))
	}
	p.Drop()
}

func TestURLs(t *testing.T) {
	for _, test := range []struct {
		url, urls, base string
		startTLS        bool
		err             string
	}{
		{url: "ldap://a,b:1389/dc=mail?layout=zimbra", urls: "ldap://a,ldap://b:1389", base: "dc=mail", startTLS: true},
		{url: "ldap://127.0.0.1/ou=a%20b,dc=mail?layout=zimbra", urls: "ldap://127.0.0.1", base: "ou=a b,dc=mail"},
		{url: "ldap://::1/dc=mail?layout=opendkim&starttls=yes", urls: "ldap://[::1]", base: "dc=mail", startTLS: true},
		{url: "ldaps://[::1]:636/dc=mail?layout=opendkim", urls: "ldaps://[::1]:636", base: "dc=mail"},
		{url: "ldapi://%2Frun%2Fslapd%2Fldapi/dc=mail?layout=zimbra&sasl=external", urls: "ldapi:///run/slapd/ldapi", base: "dc=mail"},
		{url: "http://a/dc=mail", err: "ldap://"},
		{url: "ldap://u:p@a/dc=mail?layout=zimbra", err: "password_file"},
		{url: "ldap:///dc=mail?layout=zimbra", err: "host is missing"},
		{url: "ldaps://a/?layout=zimbra", urls: "ldaps://a"},
		{url: "ldaps://a?layout=zimbra", urls: "ldaps://a"},
		{url: "ldap://a?layout=opendkim", err: "base"},
		{url: "ldap://a/mail?layout=zimbra", err: "base"},
		{url: "ldap://a/dc=mail", err: "layout"},
		{url: "ldap://a/dc=mail?layout=zimbra&scope=sub", err: "no meaning"},
		{url: "ldap://a/dc=mail?layout=zimbra&layout=zimbra", err: "twice"},
		{url: "ldap://a/dc=mail?layout=zimbra&bind_dn=x", err: "missing"},
		{url: "ldap://a/dc=mail?layout=zimbra&sasl=gssapi", err: "sasl"},
		{url: "ldap://a/dc=mail?layout=zimbra&starttls=maybe", err: "starttls"},
		{url: "ldap://a/dc=mail?layout=zimbra&starttls=no&ca=/x", err: "starttls"},
		{url: "ldaps://a/dc=mail?layout=zimbra&starttls=yes", err: "no meaning"},
		{url: "ldaps://a/dc=mail?layout=zimbra&ca=/does/not/exist", err: "ca"},
		{url: "ldapi://run/dc=mail?layout=zimbra", err: "socket"},
	} {
		got, err := parseURL(test.url, nil)
		switch {
		case test.err == "" && err != nil, test.err != "" && (err == nil || !strings.Contains(err.Error(), test.err)):
			t.Errorf("%s: error %v, want %q", test.url, err, test.err)
		case test.err == "" && (strings.Join(got.urls, ",") != test.urls || got.base != test.base || got.startTLS != test.startTLS):
			t.Errorf("%s: %+v", test.url, got)
		}
	}
}

func FuzzURL(f *testing.F) {
	f.Add("ldap://a,b:1389/dc=mail?layout=zimbra")
	f.Add("ldapi://%2Frun%2Fslapd%2Fldapi/dc=mail?layout=opendkim&sasl=external")
	f.Fuzz(func(t *testing.T, text string) {
		if strings.Contains(text, "ca=") || strings.Contains(text, "cert=") || strings.Contains(text, "key=") {
			return // names files
		}
		got, err := parseURL(text, nil)
		if err == nil && (len(got.urls) == 0 || got.base == "" || got.layout == "" || got.tls == nil) {
			t.Errorf("%q: %+v", text, got)
		}
	})
}
