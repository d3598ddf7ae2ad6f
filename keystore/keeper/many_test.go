package keeper

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"runtime/metrics"
	"strings"
	"testing"
	"time"

	"waxseal/keystore"
	"waxseal/keystore/dns"
	"waxseal/keystore/dns/dnstest"
)

// One round over ten thousand domains, in five hundred zones with two servers,
// stays within bounds: of memory, of questions at a time, and of questions a
// second. With -short and with the race detector there are two thousand.
func TestTenThousandDomains(t *testing.T) {
	domains, perSecond := 10_000, 5000
	if testing.Short() || raceDetector {
		domains = 2000
	}
	const questions, inZone = 24, 20

	resolver := dnstest.Serve(t, dnstest.ServerOptions{Recursion: true})
	port := netip.MustParseAddrPort(resolver.Addr).Port()
	var servers [2]*dnstest.Server
	for i := range servers {
		servers[i] = dnstest.Serve(t, dnstest.ServerOptions{Addr: dnstest.Address(t, port)})
	}
	address := func(i int) string { return netip.MustParseAddrPort(servers[i].Addr).Addr().String() }
	resolver.Zone(t, "host.example", fmt.Sprintf("@ SOA ns1 hostmaster 1 3600 60 86400 60\n@ NS ns1\nns1 A %s\nns2 A %s\n", address(0), address(1)))

	w := newWorld(t)
	zone := ""
	for i := range domains {
		apex := fmt.Sprintf("z%d.example", i/inZone)
		name := fmt.Sprintf("d%05d.%s", i, apex)
		if i%inZone == 0 {
			zone = "@ 60 SOA ns1.host.example. hostmaster 1 3600 60 86400 60\n@ NS ns1.host.example.\n@ NS ns2.host.example.\n"
		}
		k := newKey(t, "a", keystore.Ed25519)
		record, err := dns.NewRecord(&k, dns.RecordOptions{})
		if err != nil {
			t.Fatal(err)
		}
		zone += fmt.Sprintf("a._domainkey.d%05d TXT %q\n", i, record)
		if (i+1)%inZone == 0 {
			for _, s := range append(servers[:], resolver) {
				s.Zone(t, apex, zone)
			}
		}
		if err := w.store.Update(t.Context(), &keystore.Domain{Name: name, Keys: []keystore.Key{k}}); err != nil {
			t.Fatal(err)
		}
	}
	checker, err := dns.NewChecker(dns.CheckerOptions{Resolvers: []string{resolver.Addr}, Port: port, Questions: questions, PerSecond: perSecond})
	if err != nil {
		t.Fatal(err)
	}
	w.options.Check, w.options.Now = checker.Check, time.Now
	k := w.keeper()

	runtime.GC()
	before, socketsBefore := live(), sockets(t)
	stop := watch(t)
	began := time.Now()
	if err := k.Round(t.Context()); err != nil {
		t.Fatal(err)
	}
	took := time.Since(began)
	heap, open := stop()
	open -= socketsBefore
	grown := int64(heap) - int64(before)
	asked := resolver.Questions() + servers[0].Questions() + servers[1].Questions()
	t.Logf("%d domains in %v: %d questions, %d a second, live heap grown by %d KiB, %d sockets at most", domains, took.Round(time.Millisecond), asked, int(float64(asked)/took.Seconds()), grown>>10, open)

	s := k.Stats()
	if s.Domains != domains || s.Failures != 0 || s.Steps[keystore.Observe] != uint64(domains) {
		t.Errorf("of %d domains: %+v", domains, s)
	}
	// What the servers of the test remember of each question, and the store of
	// each domain, is counted, too.
	if limit := int64(24<<20 + domains*2<<10); grown > limit {
		t.Errorf("the live heap grew by %d KiB, want at most %d", grown>>10, limit>>10)
	}
	if open > questions {
		t.Errorf("%d sockets open, want at most %d", open, questions)
	}
	for _, server := range append(servers[:], resolver) {
		if n := server.MostOpen(); n > questions {
			t.Errorf("%d questions at a time to one server, want at most %d", n, questions)
		}
		// A loaded machine may deliver late what was sent in time.
		if n := server.MostWithin(time.Second); n > perSecond*3/2 {
			t.Errorf("%d questions within a second, want at most %d", n, perSecond)
		}
	}
}

// live is the size of what the last garbage collection left.
func live() uint64 {
	sample := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}

// sockets counts the open sockets of the process.
func sockets(t *testing.T) int {
	t.Helper()
	const dir = "/proc/self/fd"
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, f := range files {
		if target, err := os.Readlink(filepath.Join(dir, f.Name())); err == nil && strings.HasPrefix(target, "socket:") {
			n++
		}
	}
	return n
}

// watch looks at memory and sockets until stop is called, which returns the most
// of each.
func watch(t *testing.T) (stop func() (heap uint64, open int)) {
	var heap uint64
	var open int
	end, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			heap, open = max(heap, live()), max(open, sockets(t))
			select {
			case <-end:
				return
			case <-time.After(50 * time.Millisecond):
			}
		}
	}()
	return func() (uint64, int) {
		close(end)
		<-ended
		return heap, open
	}
}
