package dnstest

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// Zone is a zone that BIND serves.
type Zone struct {
	Name string // the apex, such as "example.com"

	// Text has the records as in a zone file whose origin is the apex, for
	// instance "s1._domainkey CNAME s1.k.dkim.example.net." A SOA, two NS
	// records (ns1 and ns2, the primary and the secondary) and their
	// addresses are there already; more NS records are welcome.
	Text string

	// TTL is that of records without one; default 2 s.
	TTL time.Duration

	// NegativeTTL is the SOA's minimum and TTL: how long a resolver remembers
	// that a name is not there; default 2 s.
	NegativeTTL time.Duration

	// UpdatePolicy has grants of BIND's update-policy, for instance
	// "grant waxseal zonesub TXT;". Without any, only Add and Delete change
	// the zone.
	UpdatePolicy string
}

// BINDOptions is what a private BIND has. The zero value is one without zones.
type BINDOptions struct {
	Zones []Zone

	// Keys are the names of TSIG keys that the zones' update policies speak
	// of, and their algorithms, such as "hmac-sha256".
	Keys map[string]string

	// Recursion makes the primary answer for every name: it finds those of the
	// zones at once and without a cache, and all others do not exist.
	Recursion bool

	// Resolver starts a third server, a resolver that caches what it learnt
	// from primary and secondary.
	Resolver bool

	// Port of all the servers; 0: as Address says.
	Port uint16
}

// BIND is a private primary and its secondary.
type BIND struct {
	Primary, Secondary *Named
	Resolver           *Named // nil unless asked for
	Port               uint16

	o       BINDOptions
	dir     string
	secrets map[string]string
	frozen  bool
}

// adminKey is the TSIG key of Add and Delete.
const adminKey = "dnstest-admin"

// StartBIND starts a private BIND and returns when both servers have all
// zones. Without the program it skips the test.
func StartBIND(t testing.TB, o BINDOptions) *BIND {
	t.Helper()
	installed(t, "named", "bind9")
	installed(t, "rndc", "bind9-utils")
	notConfined(t)
	b := &BIND{o: o, dir: t.TempDir(), secrets: map[string]string{}}
	keys := map[string]string{adminKey: "hmac-sha256"}
	for name, algorithm := range o.Keys {
		keys[name] = algorithm
	}
	for name, algorithm := range keys {
		b.secrets[name] = newSecret()
		write(t, b.KeyFile(name), fmt.Sprintf("key \"%s\" {\n\talgorithm %s;\n\tsecret \"%s\";\n};\n", name, algorithm, b.secrets[name]), 0o600)
	}
	primary := Address(t, o.Port)
	b.Port = primary.Port()
	b.Primary = newNamed(t, b.dir, "primary", primary)
	b.Secondary = newNamed(t, b.dir, "secondary", Address(t, b.Port))
	for _, z := range o.Zones {
		write(t, b.Primary.file(z.Name+".zone"), b.zoneText(&z), 0o600)
	}
	write(t, b.Primary.file("root.zone"), b.rootText(), 0o600)
	b.Primary.start(t, b.primaryConfig())
	b.Secondary.start(t, b.secondaryConfig())
	servers := []*Named{b.Primary, b.Secondary}
	if o.Resolver {
		b.Resolver = newNamed(t, b.dir, "resolver", Address(t, b.Port))
		write(t, b.Resolver.file("root.zone"), b.rootText(), 0o600)
		b.Resolver.start(t, b.resolverConfig())
		servers = append(servers, b.Resolver)
	}
	for _, n := range servers {
		for _, z := range o.Zones {
			n.wait(t, z.Name)
		}
	}
	return b
}

// KeyFile returns the file of a TSIG key, in the form that tsig-keygen writes.
func (b *BIND) KeyFile(name string) string { return filepath.Join(b.dir, name+".key") }

// Freeze cuts the secondary off: from now on changes show on the primary
// only. Before, it lets the secondary catch up.
func (b *BIND) Freeze(t testing.TB) {
	t.Helper()
	b.CatchUp(t)
	b.frozen = true
	b.Primary.reconfigure(t, b.primaryConfig())
}

// CatchUp ends a freeze, and returns when the secondary has what the primary
// has.
func (b *BIND) CatchUp(t testing.TB) {
	t.Helper()
	if b.frozen {
		b.frozen = false
		b.Primary.reconfigure(t, b.primaryConfig())
		for _, z := range b.o.Zones {
			b.Secondary.rndc(t, "retransfer", z.Name)
		}
	}
	for _, z := range b.o.Zones {
		wait(t, "the secondary's "+z.Name, func() error {
			want, err := serial(b.Primary.Addr, z.Name)
			if err != nil {
				return err
			}
			got, err := serial(b.Secondary.Addr, z.Name)
			if err == nil && got != want {
				err = fmt.Errorf("serial %d, want %d", got, want)
			}
			return err
		})
	}
}

// Add adds a record to the zone at the primary, given as a line of a zone
// file with an absolute name; the secondary is told as always.
func (b *BIND) Add(t testing.TB, zone, record string) {
	t.Helper()
	rr, err := dns.NewRR(record)
	if err != nil {
		t.Fatalf("record %q: %v", record, err)
	}
	b.update(t, zone, func(m *dns.Msg) { m.Insert([]dns.RR{rr}) })
}

// Delete removes all records of the name and type from the zone.
func (b *BIND) Delete(t testing.TB, zone, name string, qtype uint16) {
	t.Helper()
	b.update(t, zone, func(m *dns.Msg) {
		m.RemoveRRset([]dns.RR{&dns.RFC3597{Hdr: dns.RR_Header{Name: dns.Fqdn(name), Rrtype: qtype, Class: dns.ClassINET}}})
	})
}

func (b *BIND) update(t testing.TB, zone string, change func(*dns.Msg)) {
	t.Helper()
	m := new(dns.Msg).SetUpdate(dns.Fqdn(zone))
	change(m)
	m.SetTsig(adminKey+".", dns.HmacSHA256, 300, time.Now().Unix())
	c := &dns.Client{Net: "tcp", TsigSecret: map[string]string{adminKey + ".": b.secrets[adminKey]}, Timeout: 10 * time.Second}
	r, _, err := c.Exchange(m, b.Primary.Addr)
	if err != nil {
		t.Fatalf("update of %s: %v", zone, err)
	}
	if r.Rcode != dns.RcodeSuccess {
		t.Fatalf("update of %s: %s\n%s", zone, dns.RcodeToString[r.Rcode], b.Primary.Log())
	}
}

// serial returns the serial number of the zone as the server has it.
func serial(server, zone string) (uint32, error) {
	r, err := exchange(server, zone, dns.TypeSOA)
	if err != nil {
		return 0, err
	}
	for _, rr := range r.Answer {
		if soa, ok := rr.(*dns.SOA); ok {
			return soa.Serial, nil
		}
	}
	return 0, fmt.Errorf("%s has no SOA: %s", server, dns.RcodeToString[r.Rcode])
}

// zoneText lets the secondary ask by itself so seldom that it learns of
// changes by the primary's NOTIFY only, but try again at once after a failure.
func (b *BIND) zoneText(z *Zone) string {
	ttl, negative := seconds(z.TTL), seconds(z.NegativeTTL)
	return fmt.Sprintf(`$ORIGIN %[1]s.
$TTL %[2]d
@ %[3]d SOA ns1 hostmaster 1 86400 1 864000 %[3]d
@ NS ns1
@ NS ns2
ns1 A %[4]s
ns2 A %[5]s
%[6]s
`, z.Name, ttl, negative, b.Primary.ip, b.Secondary.ip, z.Text)
}

func seconds(d time.Duration) int64 {
	if d == 0 {
		d = 2 * time.Second
	}
	return int64(d / time.Second)
}

// rootText is a root that has the zones and nothing else, so that no question
// ever leaves the machine.
func (b *BIND) rootText() string {
	text := "$TTL 60\n. SOA ns.root. hostmaster.root. 1 86400 60 864000 1\n. NS ns.root.\nns.root. A 127.0.0.1\n"
	for _, z := range b.o.Zones {
		text += fmt.Sprintf("%[1]s. NS ns1.%[1]s.\nns1.%[1]s. A %[2]s\n", z.Name, b.Primary.ip)
	}
	return text
}

func (b *BIND) primaryConfig() string {
	var c bytes.Buffer
	for name := range b.secrets {
		fmt.Fprintf(&c, "include \"%s\";\n", b.KeyFile(name))
	}
	transfer, notify := "127.0.0.1", "explicit"
	if b.frozen {
		transfer, notify = "none", "no"
	}
	for _, z := range b.o.Zones {
		fmt.Fprintf(&c, `zone "%s" {
	type primary;
	file "%s.zone";
	update-policy { grant %s zonesub ANY; %s };
	allow-transfer { %s; };
	notify %s;
	also-notify { 127.0.0.1 port %d; };
};
`, z.Name, z.Name, adminKey, z.UpdatePolicy, transfer, notify, b.Secondary.listen)
	}
	if b.o.Recursion {
		c.WriteString("zone \".\" { type primary; file \"root.zone\"; notify no; };\n")
	}
	return b.Primary.options(b.o.Recursion) + c.String()
}

func (b *BIND) secondaryConfig() string {
	var c bytes.Buffer
	for _, z := range b.o.Zones {
		fmt.Fprintf(&c, "zone \"%s\" { type secondary; file \"%s.zone\"; masterfile-format text; primaries { 127.0.0.1 port %d; }; notify no; };\n",
			z.Name, z.Name, b.Primary.listen)
	}
	return b.Secondary.options(false) + c.String()
}

func (b *BIND) resolverConfig() string {
	var c strings.Builder
	c.WriteString("zone \".\" { type primary; file \"root.zone\"; notify no; };\n")
	for _, z := range b.o.Zones {
		fmt.Fprintf(&c, "zone \"%s\" { type forward; forward only; forwarders { 127.0.0.1 port %d; 127.0.0.1 port %d; }; };\n",
			z.Name, b.Primary.listen, b.Secondary.listen)
	}
	return b.Resolver.options(true) + c.String()
}

func newSecret() string {
	secret := make([]byte, 32)
	rand.Read(secret)
	return base64.StdEncoding.EncodeToString(secret)
}

func write(t testing.TB, path, text string, mode os.FileMode) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
}
