package e2e

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	ks "waxseal/keystore"
	"waxseal/keystore/dns/dnstest"
	"waxseal/keystore/storetest"
)

// The fleet trial: three daemons, each with its keeper, share a keystore on one
// server and sign a stream of mail while keys are rotated, and while daemons and
// the server are killed, cut off and paused at random. Its clock runs fast: DNS
// remembers for a second to three, and mail is under way for half a minute.
//
// It holds the fleet to this. No mail leaves unsigned: a daemon that has signed
// for a domain goes on doing so whatever becomes of the server, and one that has
// not yet answers with a tempfail at worst. Each signature verifies when it is
// made, and until its key has been retired for the grace period. Whatever was
// reported as done is done. The keys of a domain go through their lives in order,
// and no selector is given twice. In the end all nodes know the same, and sign
// with new keys at once.
const (
	fleetRefresh  = time.Second
	fleetInterval = 2 * time.Second

	// mostTrouble bounds one trouble, and mostApart how long troubles go on while a
	// node has missed a rotation: one that has not reached the store for a whole
	// grace period signs with keys whose records are gone. A daemon may take 15 s
	// to notice that the store answers again.
	mostTrouble = 3 * time.Second
	mostApart   = 5 * time.Second

	// leastGrace lets a short trial, of few troubles, see the end of a grace period.
	leastGrace = 20 * time.Second
	mostGrace  = 30 * time.Second
)

// fleetTime is for how long there is trouble. WAXSEAL_FLEET sets another time,
// such as 10m.
func fleetTime(t *testing.T) time.Duration {
	t.Helper()
	d, err := time.ParseDuration(cmp.Or(os.Getenv("WAXSEAL_FLEET"), "25s"))
	if err != nil {
		t.Fatalf("WAXSEAL_FLEET: %v", err)
	}
	return d
}

// fleetSeed decides when which trouble comes. WAXSEAL_FLEET_SEED repeats one.
func fleetSeed(t *testing.T) uint64 {
	t.Helper()
	text := os.Getenv("WAXSEAL_FLEET_SEED")
	if text == "" {
		return rand.Uint64()
	}
	seed, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatalf("WAXSEAL_FLEET_SEED: %v", err)
	}
	return seed
}

func TestFleetOnPostgreSQL(t *testing.T) {
	require(t, root) // for port 53
	t.Parallel()     // most of the time it waits
	fleetTrial(t, postgreSQL(t))
}

func TestFleetOnRedis(t *testing.T) {
	require(t, root) // for port 53
	t.Parallel()     // most of the time it waits
	fleetTrial(t, durableRedis(t))
}

// fleet is a trial under way.
type fleet struct {
	t       *testing.T
	dir     string
	store   *fleetStore
	grace   time.Duration // keeper.grace
	keys    ks.Store      // the same, past all proxies
	bind    *dnstest.BIND
	servers []string // that receivers ask: the primary, the secondary, a resolver
	config  string   // of commands
	nodes   []*fleetNode
	kinds   map[string][]string // domain → algorithms of its signatures, top to bottom
	warm    []string            // domains with mail all the time, whose keys rotate
	cold    []string            // domains with mail now and then

	over  chan struct{} // closed when nobody waits for old mail any longer
	later sync.WaitGroup
	uses  uses
	watch watcher
	count struct {
		signed, tempfailed, broken, verified, faults, rotations atomic.Int64
	}

	mu      sync.Mutex
	misses  []miss     // guarded by mu
	reports []reported // guarded by mu

	longest time.Duration // that a node has signed with a key that was retired
}

// fault is a broken promise. Of very many the first are enough.
func (f *fleet) fault(format string, args ...any) {
	f.t.Helper()
	const most = 40
	if f.count.faults.Add(1) <= most {
		f.t.Errorf(format, args...)
	}
}

// fleetNode is one mail server of the fleet.
type fleetNode struct {
	name, config, address string
	proxy                 *storetest.Proxy // to the store
	daemon                *daemon
	daemons               []*daemon // all that there were

	mu   sync.Mutex
	life int  // guarded by mu; counts its starts
	up   bool // guarded by mu
}

func (n *fleetNode) state() (life int, up bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.life, n.up
}

func (n *fleetNode) start(t *testing.T) {
	t.Helper()
	n.daemon = serve(t, daemonOptions{}, "--config", n.config)
	n.daemons = append(n.daemons, n.daemon)
	n.mu.Lock()
	defer n.mu.Unlock()
	n.life++
	n.up = true
}

func (n *fleetNode) kill(t *testing.T) {
	t.Helper()
	n.mu.Lock()
	n.up = false
	n.mu.Unlock()
	n.daemon.signal(t, syscall.SIGKILL)
	<-n.daemon.exited
}

func fleetTrial(t *testing.T, store *fleetStore) {
	length, seed := fleetTime(t), fleetSeed(t)
	t.Logf("WAXSEAL_FLEET=%v WAXSEAL_FLEET_SEED=%d", length, seed)
	f := newFleet(t, store, max(leastGrace, min(length/4, mostGrace)))
	for _, n := range f.nodes {
		n.start(t)
	}
	eventually(t, "all keys sign", func() bool {
		return !slices.ContainsFunc(slices.Concat(f.warm, f.cold), func(domain string) bool { return len(f.active(domain)) != len(f.kinds[domain]) })
	})

	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	end := sync.OnceFunc(func() {
		stop()
		running.Wait()
		close(f.over)
		f.later.Wait()
	})
	defer end()
	for _, n := range f.nodes {
		for _, p := range []*postman{
			{fleet: f, node: n, domains: f.warm, pause: 80 * time.Millisecond},
			{fleet: f, node: n, domains: f.cold, pause: 800 * time.Millisecond},
		} {
			running.Go(func() { p.run(ctx) })
		}
	}
	running.Go(func() { f.watch.run(ctx, f) })
	troubled, calm := context.WithCancel(ctx)
	rotated := make(chan struct{})
	running.Go(func() {
		defer close(rotated)
		f.rotate(troubled)
	})
	happened := f.trouble(rand.New(rand.NewPCG(seed, seed)), length)
	calm()
	<-rotated
	quiet := time.Now()
	f.settle()
	end()

	done := f.judgeHistory()
	f.judgeMail()
	t.Logf("%v of trouble: %s", length, happened)
	t.Logf("%d messages signed and verified %d times, %d tempfailed by nodes that had not signed for the domain, %d connections lost with their nodes",
		f.count.signed.Load(), f.count.verified.Load(), f.count.tempfailed.Load(), f.count.broken.Load())
	t.Logf("%d rotations begun; steps: %s; at most %v with a retired key; %v for the quiet part", f.count.rotations.Load(), done, f.longest.Round(time.Millisecond), time.Since(quiet).Round(time.Second))
	if f.count.signed.Load() == 0 || f.count.rotations.Load() == 0 {
		t.Error("no mail was signed, or no key rotated")
	}
}

// newFleet makes a fleet with pending keys, none of whose daemons run.
func newFleet(t *testing.T, store *fleetStore, grace time.Duration) *fleet {
	t.Helper()
	f := &fleet{
		t: t, dir: shortDir(t), store: store, grace: grace, kinds: map[string][]string{}, over: make(chan struct{}),
		uses: uses{first: map[use]time.Time{}, last: map[use]time.Time{}}, watch: watcher{seen: map[string]*ks.Domain{}},
	}
	var zones []dnstest.Zone
	for _, name := range []string{"a", "b", "c", "d", "e"} {
		domain := name + ".example"
		f.warm = append(f.warm, domain)
		f.kinds[domain] = []string{"ed25519-sha256"}
		zones = append(zones, dnstest.Zone{Name: domain, TTL: time.Second, NegativeTTL: 3 * time.Second, UpdatePolicy: "grant waxseal subdomain _domainkey." + domain + ". TXT;"})
	}
	f.kinds[f.warm[0]] = []string{"rsa-sha256", "ed25519-sha256"}
	for i := range 10 {
		domain := fmt.Sprintf("c%d.cold.example", i)
		f.cold = append(f.cold, domain)
		f.kinds[domain] = []string{"ed25519-sha256"}
	}
	zones = append(zones, dnstest.Zone{Name: "cold.example", TTL: time.Second, UpdatePolicy: "grant waxseal zonesub TXT;"})
	f.bind = dnstest.StartBIND(t, dnstest.BINDOptions{Zones: zones, Keys: map[string]string{"waxseal": "hmac-sha256"}, Recursion: true, Resolver: true, Port: 53})
	f.servers = []string{f.bind.Primary.Addr, f.bind.Secondary.Addr, f.bind.Resolver.Addr}

	f.config = f.configure("command", store.address)
	if store.tables {
		command(t, "store", "migrate", "--config", f.config)
	}
	for domain, kinds := range f.kinds {
		for _, kind := range kinds {
			algorithm := strings.Replace(strings.TrimSuffix(kind, "-sha256"), "rsa", "rsa-2048", 1)
			command(t, "key", "new", domain, "--algorithm", algorithm, "--config", f.config)
		}
	}
	f.keys = store.open(t, store.url(store.address))
	for _, name := range []string{"mx1", "mx2", "mx3"} {
		proxy := storetest.NewProxy(t, "tcp", store.address)
		f.nodes = append(f.nodes, &fleetNode{
			name: name, config: f.configure(name, proxy.Address), proxy: proxy, address: "unix:" + filepath.Join(f.dir, name, "milter.sock"),
		})
	}
	return f
}

// configure writes the configuration of one node.
func (f *fleet) configure(name, store string) string {
	f.t.Helper()
	zones := append(slices.Clone(f.warm), "cold.example")
	return writeFile(f.t, filepath.Join(f.dir, name+".toml"), fmt.Sprintf(`
[keystore]
url = %q
refresh = "%v"
[listen.milter]
address = "unix:%s/%s/milter.sock"
[dns]
resolvers = [%q]
per_second = 1000
[keeper]
interval = "%v"
grace = "%v"
[publish.bind]
zones = ["%s"]
server = %q
tsig_key = %q
ttl = "1s"
`, f.store.url(store), fleetRefresh, f.dir, name, f.bind.Primary.Addr, fleetInterval, f.grace,
		strings.Join(zones, `", "`), f.bind.Primary.Addr, f.bind.KeyFile("waxseal")), 0o644)
}

// active returns the selectors that sign for a domain, by what the store says.
func (f *fleet) active(domain string) (selectors []string) {
	d, err := f.keys.Domain(f.t.Context(), domain)
	if err != nil {
		return nil
	}
	for i := range d.Keys {
		if d.Keys[i].State == ks.Active {
			selectors = append(selectors, d.Keys[i].Selector)
		}
	}
	return selectors
}

// together reports whether all nodes have signed with all keys that are active
// now.
func (f *fleet) together() bool {
	for _, domain := range f.warm {
		active := f.active(domain)
		for _, selector := range active {
			for _, n := range f.nodes {
				if _, _, ok := f.uses.of(n.name, domain, selector); !ok {
					return false
				}
			}
		}
		if len(active) == 0 { // the store does not tell
			return false
		}
	}
	return true
}

// rotate begins the rotation of one domain after the other until ctx ends. Every
// fourth command is killed at some moment.
func (f *fleet) rotate(ctx context.Context) {
	for i := 0; ; i++ {
		within := patience
		if i%4 == 3 {
			within = rand.N(500 * time.Millisecond)
		}
		command, kill := context.WithTimeout(context.WithoutCancel(ctx), within)
		f.beginRotation(command, f.warm[i%len(f.warm)])
		kill()
		select {
		case <-time.After(time.Second + rand.N(4*time.Second)):
		case <-ctx.Done():
			return
		}
	}
}

// beginRotation has a command begin a rotation, which may be in vain. It is
// killed when ctx ends.
func (f *fleet) beginRotation(ctx context.Context, domain string) (begun bool) {
	var stdout transcript
	c := exec.CommandContext(ctx, waxseal, "rotate", domain, "--config", f.config)
	c.Stdout = &stdout
	_ = c.Run() // what it has done it says
	if begun = f.noteCommand(stdout.String()); begun {
		f.count.rotations.Add(1)
	}
	return begun
}
