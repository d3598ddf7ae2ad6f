// Package dnstest gives tests a Domain Name System of their own: a private
// BIND with a primary, a secondary and a resolver, and servers inside the
// test's process for what BIND will not do, such as to lie, to be slow or to
// drop questions.
//
// It promises: every server listens on loopback addresses only, keeps its
// files in the test's temporary directory and ends with the test. What goes
// wrong in the harness itself ends the test.
package dnstest

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// Address returns a loopback address of 127.53.0.0/16 where nothing listens on
// the port, neither on UDP nor on TCP. Port 0 means 53 where the test may
// listen there, otherwise a free one above 1023. Servers that name each other
// in NS records need the same port: the port of the first is given for the
// others.
func Address(t testing.TB, port uint16) netip.AddrPort {
	t.Helper()
	if runtime.GOOS != "linux" {
		skip(t, errors.New("127.53.0.0/16 is not on the loopback of "+runtime.GOOS))
	}
	var err error
	for range 100 {
		ip := netip.AddrFrom4([4]byte{127, 53, byte(rand.IntN(256)), byte(1 + rand.IntN(254))})
		try := port
		if port == 0 {
			try = 53
			if free(netip.AddrPortFrom(ip, try)) != nil {
				try = uint16(20000 + rand.IntN(12000))
			}
		}
		a := netip.AddrPortFrom(ip, try)
		if err = free(a); err == nil {
			return a
		}
	}
	if errors.Is(err, fs.ErrPermission) {
		skip(t, fmt.Errorf("not root, whom port %d takes: %w", port, err))
	}
	t.Fatalf("no free loopback address: %v", err)
	return netip.AddrPort{}
}

// freePort returns a port of 127.0.0.1 where nothing listens, of those that no
// client gets.
func freePort(t testing.TB) uint16 {
	t.Helper()
	for range 100 {
		port := uint16(20000 + rand.IntN(12000))
		if free(netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), port)) == nil {
			return port
		}
	}
	t.Fatal("no free port")
	return 0
}

// free says why one cannot listen on an address.
func free(a netip.AddrPort) error {
	l, err := net.Listen("tcp", a.String())
	if err != nil {
		return err
	}
	defer l.Close()
	p, err := net.ListenPacket("udp", a.String())
	if err != nil {
		return err
	}
	return p.Close()
}

// Query asks a server at "IP:PORT", over UDP with EDNS and over TCP if the
// answer is truncated. It asks for recursion, which authoritative servers
// ignore.
func Query(t testing.TB, server, name string, qtype uint16) *dns.Msg {
	t.Helper()
	r, err := exchange(server, name, qtype)
	if err != nil {
		t.Fatalf("%s %s at %s: %v", name, dns.TypeToString[qtype], server, err)
	}
	return r
}

// TXT returns the values of the name's TXT records as the server has them,
// sorted, each with its strings joined: nil when there are none.
func TXT(t testing.TB, server, name string) []string {
	t.Helper()
	var values []string
	for _, rr := range Query(t, server, name, dns.TypeTXT).Answer {
		if txt, ok := rr.(*dns.TXT); ok {
			values = append(values, Value(t, txt))
		}
	}
	slices.Sort(values)
	return values
}

// Value returns the octets of a TXT record, its strings joined. The library
// keeps them as escaped text.
func Value(t testing.TB, txt *dns.TXT) string {
	t.Helper()
	wire := make([]byte, dns.MaxMsgSize)
	n, err := dns.PackRR(txt, wire, 0, nil, false)
	if err != nil {
		t.Fatalf("packing %v: %v", txt, err)
	}
	var b strings.Builder
	for data := wire[dns.Len(&dns.TXT{Hdr: txt.Hdr}):n]; len(data) > 0; {
		size := int(data[0])
		b.Write(data[1 : 1+size])
		data = data[1+size:]
	}
	return b.String()
}

// exchange asks one question, three times at most: loopback loses datagrams
// only when a server is overrun.
func exchange(server, name string, qtype uint16) (r *dns.Msg, err error) {
	m := new(dns.Msg).SetQuestion(dns.Fqdn(name), qtype)
	m.SetEdns0(1232, false)
	for range 3 {
		r, _, err = (&dns.Client{Timeout: 2 * time.Second}).Exchange(m, server)
		if err == nil && r.Truncated {
			r, _, err = (&dns.Client{Net: "tcp", Timeout: 5 * time.Second}).Exchange(m, server)
		}
		if err == nil {
			return r, nil
		}
	}
	return nil, err
}

// skip skips the test for want of something, and fails it where
// WAXSEAL_E2E=required says that nothing may be missing.
func skip(t testing.TB, err error) {
	t.Helper()
	if os.Getenv("WAXSEAL_E2E") == "required" {
		t.Fatalf("%v, and WAXSEAL_E2E=required", err)
	}
	t.Skip(err)
}

// wait asks until it gets nil, for at most half a minute.
func wait(t testing.TB, what string, ask func() error) {
	t.Helper()
	var err error
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if err = ask(); err == nil {
			return
		}
	}
	t.Fatal(fmt.Errorf("%s: %w", what, err))
}
