package ldapstore

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/go-ldap/ldap/v3"
)

// config is that of a slapd of our own, with the attributes of Zimbra's and of
// OpenDKIM's schema.
const config = `
include /etc/ldap/schema/core.schema
include /etc/ldap/schema/cosine.schema
attributetype ( 1.3.6.1.4.1.4203.666.77.1.1 NAME 'DKIMSelector' EQUALITY caseIgnoreIA5Match SYNTAX 1.3.6.1.4.1.1466.115.121.1.26 )
attributetype ( 1.3.6.1.4.1.4203.666.77.1.2 NAME 'DKIMKey' EQUALITY caseExactIA5Match SYNTAX 1.3.6.1.4.1.1466.115.121.1.26 )
attributetype ( 1.3.6.1.4.1.4203.666.77.1.3 NAME 'DKIMIdentity' EQUALITY caseIgnoreIA5Match SYNTAX 1.3.6.1.4.1.1466.115.121.1.26 )
attributetype ( 1.3.6.1.4.1.4203.666.77.1.4 NAME 'DKIMDomain' EQUALITY caseIgnoreIA5Match SYNTAX 1.3.6.1.4.1.1466.115.121.1.26 )
attributetype ( 1.3.6.1.4.1.4203.666.77.1.5 NAME 'DKIMPublicKey' EQUALITY caseExactIA5Match SYNTAX 1.3.6.1.4.1.1466.115.121.1.26 )
attributetype ( 1.3.6.1.4.1.4203.666.77.1.6 NAME 'DKIMActive' EQUALITY booleanMatch SYNTAX 1.3.6.1.4.1.1466.115.121.1.7 SINGLE-VALUE )
objectclass ( 1.3.6.1.4.1.4203.666.77.2.1 NAME 'DKIM' SUP top AUXILIARY MAY ( DKIMSelector $ DKIMKey $ DKIMIdentity $ DKIMDomain $ DKIMPublicKey $ DKIMActive ) )
pidfile %[1]s/pid
TLSCertificateFile %[2]s
TLSCertificateKeyFile %[3]s
TLSCACertificateFile %[2]s
modulepath /usr/lib/ldap
moduleload back_mdb.la
database mdb
maxsize 16777216
suffix "%[5]s"
rootdn "cn=admin,dc=mail"
rootpw secret
directory %[1]s/db
limits dn="uid=waxseal,dc=mail" size.soft=100 size.hard=500 size.prtotal=unlimited
%[4]s
access to attrs=userPassword by anonymous auth
access to * by * read
`

type server struct {
	t       *testing.T
	dir     string
	address string
	ca      string
	program string
	process *exec.Cmd
	log     bytes.Buffer
}

func (s *server) socket() string { return filepath.Join(s.dir, "s") }

// start starts a slapd with an entry for the domain, and one for a user.
func start(t *testing.T) *server {
	t.Helper()
	return startAt(t, "dc=mail")
}

// startAt is start with a database of another suffix.
func startAt(t *testing.T, suffix string) *server {
	t.Helper()
	program, err := exec.LookPath("slapd")
	if err != nil {
		if program = "/usr/sbin/slapd"; exec.Command(program, "-VV").Run() != nil {
			if os.Getenv("WAXSEAL_E2E") == "required" {
				t.Fatal("no slapd, and WAXSEAL_E2E=required")
			}
			t.Skip("no slapd")
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &server{t: t, dir: t.TempDir(), address: l.Addr().String(), program: program}
	l.Close()
	cert, key := s.certificate()
	s.ca = cert
	if err := os.Mkdir(filepath.Join(s.dir, "db"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(s.dir, "slapd.conf"), fmt.Appendf(nil, config, s.dir, cert, key, contribAccess(t), suffix), 0o600); err != nil {
		t.Fatal(err)
	}
	s.run()
	t.Cleanup(s.kill)
	s.add("dc=mail", map[string][]string{"objectClass": {"domain"}, "dc": {"mail"}})
	s.add("uid=waxseal,dc=mail", map[string][]string{"objectClass": {"account", "simpleSecurityObject"}, "uid": {"waxseal"}, "userPassword": {"a secret"}})
	return s
}

// contribAccess are the rules of contrib/ldap, for our directory, and with a right
// of whoever comes by the socket.
func contribAccess(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("../../contrib/ldap/access.conf")
	if err != nil {
		t.Fatal(err)
	}
	return strings.NewReplacer("dc=example,dc=com", "dc=mail",
		"\tby * none", "\tby dn.regex=\"gidNumber=.*,cn=peercred,cn=external,cn=auth\" read\n\tby * none").Replace(string(text))
}

func (s *server) run() {
	s.t.Helper()
	s.process = exec.Command(s.program, "-d", "0", "-f", filepath.Join(s.dir, "slapd.conf"), "-h", "ldap://"+s.address+" ldapi://"+url.PathEscape(s.socket()))
	s.process.Stdout, s.process.Stderr = &s.log, &s.log
	s.process.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := s.process.Start(); err != nil {
		s.t.Fatal(err)
	}
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if c, err := net.Dial("tcp", s.address); err == nil {
			c.Close()
			return
		}
		if time.Now().After(end) {
			s.t.Fatalf("slapd does not answer\n%s", s.log.String())
		}
	}
}

func (s *server) kill() {
	s.process.Process.Kill()
	s.process.Wait()
}

func (s *server) admin(f func(*ldap.Conn) error) {
	s.t.Helper()
	c, err := ldap.DialURL("ldap://" + s.address)
	if err != nil {
		s.t.Fatal(err)
	}
	defer c.Close()
	if err := c.Bind("cn=admin,dc=mail", "secret"); err != nil {
		s.t.Fatal(err)
	}
	if err := f(c); err != nil {
		s.t.Fatal(err)
	}
}

func (s *server) add(dn string, attributes map[string][]string) {
	s.t.Helper()
	s.admin(func(c *ldap.Conn) error {
		r := ldap.NewAddRequest(dn, nil)
		for name, values := range attributes {
			r.Attribute(name, values)
		}
		return c.Add(r)
	})
}

// url is the store's, for a user who may read keys.
func (s *server) url(address, layout string) string {
	file := filepath.Join(s.dir, "password")
	if err := os.WriteFile(file, []byte("a secret\n"), 0o600); err != nil {
		s.t.Fatal(err)
	}
	return "ldap://" + address + "/dc=mail?layout=" + layout + "&bind_dn=uid=waxseal,dc=mail&password_file=" + file
}

// certificate makes an authority that is its own server.
func (s *server) certificate() (cert, key string) {
	s.t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		s.t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotAfter: time.Now().Add(time.Hour), IsCA: true,
		BasicConstraintsValid: true, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		s.t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		s.t.Fatal(err)
	}
	cert, key = filepath.Join(s.dir, "cert.pem"), filepath.Join(s.dir, "key.pem")
	for file, block := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: pkcs8}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			s.t.Fatal(err)
		}
	}
	return cert, key
}
