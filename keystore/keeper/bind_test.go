package keeper

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/emersion/go-msgauth/dkim"
	mdns "github.com/miekg/dns"

	"waxseal/keystore"
	"waxseal/keystore/dns"
	"waxseal/keystore/dns/dnstest"
	"waxseal/signer"
)

// real is a world of real parts: a store on disk, BIND with a primary, a
// secondary and a caching resolver, dynamic updates with TSIG. The keeper's clock
// runs with the machine's, and can be put forward; the TTLs of DNS, of a second
// or two, pass in real time.
type real struct {
	*testing.T
	bind   *dnstest.BIND
	store  *keystore.Dir
	ahead  atomic.Int64
	keeper *Keeper
	domain string
	mails  []mail
	told   []Notice
}

// mail is a signed message under way.
type mail struct {
	text     []byte
	selector string
	signed   time.Time
}

const (
	realTTL      = time.Second
	realNegative = 2 * time.Second
)

func startReal(t *testing.T, domain string, zones ...dnstest.Zone) *real {
	for i := range zones {
		zones[i].TTL, zones[i].NegativeTTL = realTTL, realNegative
	}
	r := &real{T: t, domain: domain}
	r.bind = dnstest.StartBIND(t, dnstest.BINDOptions{Zones: zones, Keys: map[string]string{"waxseal": "hmac-sha256"}, Recursion: true, Resolver: true})
	var err error
	if r.store, err = keystore.OpenDir(t.TempDir(), keystore.DirOptions{}); err != nil {
		t.Fatal(err)
	}
	checker, err := dns.NewChecker(dns.CheckerOptions{Resolvers: []string{r.bind.Resolver.Addr}, Port: r.bind.Port, PerSecond: 1000})
	if err != nil {
		t.Fatal(err)
	}
	key, err := dns.ReadTSIGKey(r.bind.KeyFile("waxseal"))
	if err != nil {
		t.Fatal(err)
	}
	update, err := dns.NewUpdate(dns.UpdateOptions{Key: key, Resolvers: []string{r.bind.Resolver.Addr}, Port: r.bind.Port})
	if err != nil {
		t.Fatal(err)
	}
	r.keeper = New(r.store, Options{
		Check:     checker.Check,
		Publisher: func(string) (dns.Publisher, time.Duration) { return update, realTTL },
		Notify:    func(_ context.Context, n Notice) { r.told = append(r.told, n) },
		Rules:     func(string) keystore.Rules { return keystore.Rules{RotateEvery: 30 * 24 * time.Hour} },
		By:        "keeper@test",
		Now:       r.now,
	})
	return r
}

func (r *real) now() time.Time { return time.Now().Add(time.Duration(r.ahead.Load())) }

// forward puts the clock forward.
func (r *real) forward(d time.Duration) { r.ahead.Add(int64(d)) }

// forget waits until no resolver remembers what was in DNS before.
func (r *real) forget() { time.Sleep(max(realTTL, realNegative) + time.Second) }

func (r *real) keep() *Result {
	r.Helper()
	result, err := r.keeper.Keep(r.Context(), r.domain)
	if err != nil {
		r.Fatal(err)
	}
	r.mail()
	return result
}

func (r *real) read() *keystore.Domain {
	r.Helper()
	d, err := r.store.Domain(r.Context(), r.domain)
	if err != nil {
		r.Fatal(err)
	}
	return d
}

func (r *real) change(f func(*keystore.Domain) error) {
	r.Helper()
	d, err := r.store.Domain(r.Context(), r.domain)
	if errors.Is(err, keystore.ErrNotFound) {
		d, err = &keystore.Domain{Name: r.domain}, nil
	}
	if err == nil {
		err = f(d)
	}
	if err == nil {
		err = r.store.Update(r.Context(), d)
	}
	if err != nil {
		r.Fatal(err)
	}
}

func (r *real) want(states string) {
	r.Helper()
	text := ""
	for i, k := range r.read().Keys {
		if i > 0 {
			text += ", "
		}
		text += k.Selector + " " + string(k.State)
	}
	if text != states {
		r.Fatalf("keys: %s; want %s", text, states)
	}
}

// mail signs a message with every key that signs now, and verifies it and those
// of the grace period before, as receivers do at the primary, at the secondary
// and through a resolver that remembers.
func (r *real) mail() {
	r.Helper()
	d := r.read()
	for i := range d.Keys {
		k := &d.Keys[i]
		if k.State != keystore.Active {
			continue
		}
		private, err := k.Load(r.Context())
		if err != nil {
			r.Fatal(err)
		}
		m := signer.New(signer.Options{})
		m.AddField("From", " ann@"+d.Name+"\r\n")
		m.AddField("Subject", " hello\r\n")
		if _, err := m.Write([]byte("Hello.\r\n")); err != nil {
			r.Fatal(err)
		}
		fields, err := m.Sign(time.Now(), []signer.Key{{Domain: d.Name, Selector: k.Selector, Signer: private}})
		if err != nil {
			r.Fatal(err)
		}
		text := fields[0].Name + ":" + fields[0].Value
		text = strings.TrimSuffix(text, "\r\n") + "\r\nFrom: ann@" + d.Name + "\r\nSubject: hello\r\n\r\nHello.\r\n"
		r.mails = append(r.mails, mail{[]byte(text), k.Selector, r.now()})
	}
	stolen := false
	for i := range d.Keys {
		stolen = stolen || d.Keys[i].Urgent && d.Keys[i].State == keystore.Active
	}
	for _, m := range r.mails {
		if k := d.Key(m.selector); r.now().Sub(m.signed) >= keystore.Grace || k.State == keystore.Revoked && stolen {
			continue
		}
		for _, server := range []string{r.bind.Primary.Addr, r.bind.Secondary.Addr, r.bind.Resolver.Addr} {
			if k := d.Key(m.selector); server == r.bind.Resolver.Addr && k.Urgent && r.now().Before(k.Ready) {
				continue // it remembers that there was no record, and the key could not wait
			}
			if err := r.verify(m, server); err != nil {
				r.Errorf("a mail that %s signed %v ago does not verify at %s: %v", m.selector, r.now().Sub(m.signed), server, err)
			}
		}
	}
}

// verify verifies a mail with the record that a server shows.
func (r *real) verify(m mail, server string) error {
	results, err := dkim.VerifyWithOptions(bytes.NewReader(m.text), &dkim.VerifyOptions{LookupTXT: func(name string) ([]string, error) {
		return r.txt(server, name), nil
	}})
	if err != nil {
		return err
	}
	if len(results) != 1 {
		return fmt.Errorf("%d signatures", len(results))
	}
	return results[0].Err
}

// txt returns what a server has at the name. An authoritative server does not
// follow a CNAME into another zone, even if it has that, too.
func (r *real) txt(server, name string) []string {
	if values := dnstest.TXT(r, server, name); values != nil {
		return values
	}
	for _, rr := range dnstest.Query(r, server, name, mdns.TypeTXT).Answer {
		if cname, ok := rr.(*mdns.CNAME); ok {
			return dnstest.TXT(r, server, cname.Target)
		}
	}
	return nil
}

// activate takes a pending key through the world as it is until it signs.
func (r *real) activate() {
	r.Helper()
	r.keep()
	r.bind.CatchUp(r)
	r.keep()
	r.forget()
	r.keep()
}

func TestWholeLifeOnBIND(t *testing.T) {
	if testing.Short() {
		t.Skip("takes some seconds")
	}
	t.Parallel() // most of the time it waits
	r := startReal(t, "example.com", dnstest.Zone{Name: "example.com", UpdatePolicy: "grant waxseal zonesub TXT;"})
	r.change(func(d *keystore.Domain) error {
		if err := d.Add(newKey(t, "a", keystore.RSA2048), keystore.Warrant{Now: r.now(), By: "ann"}); err != nil {
			return err
		}
		return d.Add(newKey(t, "e", keystore.Ed25519), keystore.Warrant{Now: r.now(), By: "ann"})
	})
	// A resolver that has asked for it remembers that there is no record.
	if got := dnstest.TXT(t, r.bind.Resolver.Addr, dns.Name("a", "example.com")); got != nil {
		t.Fatalf("a record before there is one: %q", got)
	}

	t.Log("on the primary only")
	r.bind.Freeze(t)
	r.keep()
	if dnstest.TXT(t, r.bind.Primary.Addr, dns.Name("a", "example.com")) == nil {
		t.Fatal("the primary has no record")
	}
	r.forget()
	r.forward(24 * time.Hour)
	if result := r.keep(); result.Sights["a"].State != keystore.Different {
		t.Errorf("sight %+v", result.Sights["a"])
	}
	r.want("a pending, e pending")

	t.Log("on the secondary, too")
	r.bind.CatchUp(t)
	r.keep()
	r.want("a pending, e pending")
	if k := r.read().Key("a"); k.Seen.IsZero() || k.Ready.Sub(k.Seen) != realNegative {
		t.Errorf("seen %v, ready %v, want the negative TTL of %v between", k.Seen, k.Ready, realNegative)
	}
	r.forget()
	r.keep()
	r.want("a active, e active")

	t.Log("rotation")
	r.forward(30 * 24 * time.Hour)
	year := r.now().UTC().Format("2006")
	b, f := year+"a", year+"b"
	r.activate()
	r.want("a retired, e retired, " + b + " active, " + f + " active")
	r.forward(keystore.Grace - time.Minute)
	r.keep()
	r.want("a retired, e retired, " + b + " active, " + f + " active")
	r.forward(time.Minute)
	r.keep()
	r.bind.CatchUp(t)
	r.want("a revoked, e revoked, " + b + " active, " + f + " active")
	for _, server := range []string{r.bind.Primary.Addr, r.bind.Secondary.Addr} {
		if got := dnstest.TXT(t, server, dns.Name("a", "example.com")); len(got) != 1 || !strings.HasSuffix(got[0], "p=") {
			t.Errorf("%s shows %q for the revoked key", server, got)
		}
	}
	r.forward(keystore.Grace)
	r.keep()
	r.bind.CatchUp(t)
	r.keep()
	r.want("a removed, e removed, " + b + " active, " + f + " active")
	d := r.read()
	if k := d.Key("a"); k.Withdrawn.IsZero() || k.Load != nil {
		t.Errorf("the removed key: withdrawn %v", k.Withdrawn)
	}
	for _, server := range []string{r.bind.Primary.Addr, r.bind.Secondary.Addr} {
		if got := dnstest.TXT(t, server, dns.Name("a", "example.com")); got != nil {
			t.Errorf("%s shows %q for the removed key", server, got)
		}
	}
	if len(r.told) > 0 {
		t.Errorf("an administrator was told %v", r.told)
	}
	if files, err := filepath.Glob(filepath.Join(r.store.Path(), "example.com", "*.pem")); err != nil || len(files) != 2 {
		t.Errorf("private halves of %q are left, want two; %v", files, err)
	}
}

// The key is stolen: its signatures stop to verify once the secondary has the
// empty record.
func TestEmergencyOnBIND(t *testing.T) {
	if testing.Short() {
		t.Skip("takes some seconds")
	}
	t.Parallel() // most of the time it waits
	r := startReal(t, "example.com", dnstest.Zone{Name: "example.com", UpdatePolicy: "grant waxseal zonesub TXT;"})
	r.change(func(d *keystore.Domain) error {
		return d.Add(newKey(t, "a", keystore.Ed25519), keystore.Warrant{Now: r.now(), By: "ann"})
	})
	r.activate()
	r.want("a active")
	made, err := r.keeper.Rotate(t.Context(), "example.com", true, "a laptop was stolen")
	if err != nil || len(made) != 1 {
		t.Fatalf("made %q, %v", made, err)
	}
	r.bind.Freeze(t)
	r.keep()
	r.want("a active, " + made[0] + " pending")
	r.bind.CatchUp(t)
	r.bind.Freeze(t)
	r.keep() // without a wait
	r.want("a revoked, " + made[0] + " active")
	stolen := r.mails[0]
	if err := r.verify(stolen, r.bind.Primary.Addr); err == nil {
		t.Error("the stolen key verifies at the primary")
	}
	if err := r.verify(stolen, r.bind.Secondary.Addr); err != nil {
		t.Errorf("the stolen key does not verify at the secondary, which has not heard of it: %v", err)
	}
	r.bind.CatchUp(t)
	if err := r.verify(stolen, r.bind.Secondary.Addr); err == nil {
		t.Error("the stolen key verifies at the secondary, which shows the empty record")
	}
	time.Sleep(realTTL + time.Second)
	if err := r.verify(stolen, r.bind.Resolver.Addr); err == nil {
		t.Error("the stolen key verifies through a resolver after the TTL")
	}
	r.keep()
}

// The zone of the customer is not ours: it has CNAMEs to ours, and rotation goes
// round them.
func TestSlotsOnBIND(t *testing.T) {
	if testing.Short() {
		t.Skip("takes some seconds")
	}
	t.Parallel() // most of the time it waits
	const target = "%s.customer.example.dkim.example.net"
	text := ""
	for i := range 2 {
		s := fmt.Sprintf("s%d", i+1)
		text += fmt.Sprintf("%s._domainkey CNAME "+target+".\n", s, s)
	}
	r := startReal(t, "customer.example",
		dnstest.Zone{Name: "dkim.example.net", UpdatePolicy: "grant waxseal zonesub TXT;"},
		dnstest.Zone{Name: "customer.example", Text: text})
	r.change(func(d *keystore.Domain) error {
		for i := range 2 {
			s := fmt.Sprintf("s%d", i+1)
			d.Slots = append(d.Slots, keystore.Slot{Selector: s, Target: fmt.Sprintf(target, s)})
		}
		return d.Add(newKey(t, "s1", keystore.Ed25519), keystore.Warrant{Now: r.now(), By: "ann"})
	})
	r.activate()
	for _, want := range []string{"s1 active", "s1 removed, s2 active", "s2 removed, s1 active"} {
		r.want(want)
		if want[:2] == "s2" {
			break
		}
		r.forward(30 * 24 * time.Hour)
		r.activate()
		for range 2 {
			r.forward(keystore.Grace)
			r.keep()
			r.bind.CatchUp(t)
			r.keep()
		}
	}
	if len(r.told) > 0 {
		t.Errorf("an administrator was told %v", r.told)
	}
}
