package main

import (
	"context"
	"log/slog"
	"maps"
	"os"
	"reflect"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"waxseal/keystore"
	"waxseal/keystore/dns"
	"waxseal/keystore/keeper"
)

// keeping is the keeper of the daemon: that of the configuration in force.
type keeping struct {
	store keystore.Store
	now   clock
	by    string
	log   *slog.Logger

	mu      sync.Mutex     // guards what follows
	keeper  *keeper.Keeper // nil: there is none
	system  []string       // the machine's resolvers, when they were last read
	cancel  context.CancelFunc
	done    chan struct{} // closed when keeper has ended; nil if there was none yet
	made    keeperSource  // what keeper was made from
	before  keeper.Stats  // what the keepers before it did
	stopped bool
}

// keeperSource is all of a configuration that a keeper depends on.
type keeperSource struct {
	dns     DNSConfig
	publish map[string]PublishConfig
	keeper  KeeperConfig
	rows    map[string]RowConfig
	secrets []time.Time // when the key files of publish were changed
}

func newKeeperSource(d *decoded) keeperSource {
	s := keeperSource{dns: d.DNS, publish: d.Publish, keeper: d.Keeper, rows: d.Row}
	for _, name := range sortedKeys(d.Publish) {
		if path, err := dns.CredentialPath(d.Publish[name].TSIGKey); err == nil && path != "" {
			if info, err := os.Stat(path); err == nil {
				s.secrets = append(s.secrets, info.ModTime())
			}
		}
	}
	return s
}

// use lets the keeper of another configuration take over, if it differs in what
// matters to keepers. It does not wait for the one before it. That no keeper can
// be made is logged: mail is signed all the same.
func (k *keeping) use(d *decoded) {
	k.mu.Lock()
	defer k.mu.Unlock()
	made := newKeeperSource(d)
	if k.stopped || k.keeper != nil && reflect.DeepEqual(made, k.made) {
		return
	}
	k.end()
	k.made = made
	if !d.Keeper.Enabled {
		return
	}
	if readOnly(k.store) {
		k.log.Info("keys are looked after by the program whose tables these are, not by the keeper")
		return
	}
	next, err := buildKeeper(k.resolving(d), k.store, k.now, k.by, k.log)
	if err != nil {
		k.log.Error("keys are not looked after", "err", err)
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	last, done := k.done, make(chan struct{})
	k.keeper, k.cancel, k.done = next, cancel, done
	go func() {
		defer close(done)
		if last != nil {
			<-last
		}
		next.Run(ctx)
	}()
}

// resolving names the machine's resolvers in a configuration that names none. A
// daemon that is confined may not read a resolv.conf that took the place of the
// one there was at its start; it goes on with what that said. mu is held.
func (k *keeping) resolving(d *decoded) *decoded {
	if len(d.DNS.Resolvers) > 0 {
		return d
	}
	if now, err := dns.SystemResolvers(); err == nil {
		k.system = now
	}
	with := *d
	with.DNS.Resolvers = k.system
	return &with
}

// end tells the present keeper to stop. mu is held.
func (k *keeping) end() {
	if k.keeper == nil {
		return
	}
	k.before = sum(k.before, k.keeper.Stats())
	k.cancel()
	k.keeper = nil
}

// close stops the keeper and waits for it.
func (k *keeping) close() {
	k.mu.Lock()
	k.end()
	k.stopped = true
	done := k.done
	k.mu.Unlock()
	if done != nil {
		<-done
	}
}

// stats are those of the present keeper, with what those before it did.
func (k *keeping) stats() keeper.Stats {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.keeper == nil {
		return k.before
	}
	return sum(k.before, k.keeper.Stats())
}

// sum adds up what was done. What was found is that of b, if it has found
// anything yet.
func sum(a, b keeper.Stats) keeper.Stats {
	s := b
	if b.Last.IsZero() {
		s = a
	}
	s.Rounds, s.Failures = a.Rounds+b.Rounds, a.Failures+b.Failures
	s.Steps = maps.Clone(a.Steps)
	if s.Steps == nil {
		s.Steps = map[keystore.Action]uint64{}
	}
	for action, n := range b.Steps {
		s.Steps[action] += n
	}
	return s
}

// The metrics of the keeper.
var (
	keeperSteps = prometheus.NewDesc("waxseal_keeper_steps_total",
		"Steps taken in the life of keys, and changes made in DNS.", []string{"step"}, nil)
	keeperRounds = prometheus.NewDesc("waxseal_keeper_rounds_total",
		"Rounds over all domains that were finished.", nil, nil)
	keeperFailures = prometheus.NewDesc("waxseal_keeper_failures_total",
		"Domains that a round could not finish.", nil, nil)
	keeperLast = prometheus.NewDesc("waxseal_keeper_last_round_timestamp_seconds",
		"When the last round was finished, in seconds since 1970; 0: none was.", nil, nil)
	keeperTook = prometheus.NewDesc("waxseal_keeper_last_round_seconds",
		"How long the last round took.", nil, nil)
	keeperFound = prometheus.NewDesc("waxseal_keeper_findings",
		"What the last round found: changes of DNS that a person has to make (ask), records that mail needs and that are not seen as they should be (alarm), "+
			"keys that should have been rotated by now (overdue), domains left out because of trouble before (deferred).", []string{"finding"}, nil)
)

// steps are the labels of keeperSteps.
var keeperActions = []keystore.Action{
	keystore.Create, keystore.Observe, keystore.DoActivate, keystore.DoRetire, keystore.DoRevoke, keystore.DoRemove, keystore.Publish, keystore.Withdraw,
}

// Describe implements prometheus.Collector.
func (k *keeping) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{keeperSteps, keeperRounds, keeperFailures, keeperLast, keeperTook, keeperFound} {
		to <- d
	}
}

// Collect implements prometheus.Collector.
func (k *keeping) Collect(to chan<- prometheus.Metric) {
	s := k.stats()
	counter := func(d *prometheus.Desc, n uint64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), labels...)
	}
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	for _, a := range keeperActions {
		counter(keeperSteps, s.Steps[a], string(a))
	}
	counter(keeperRounds, s.Rounds)
	counter(keeperFailures, s.Failures)
	last := 0.0
	if !s.Last.IsZero() {
		last = float64(s.Last.UnixMilli()) / 1000
	}
	gauge(keeperLast, last)
	gauge(keeperTook, s.Took.Seconds())
	gauge(keeperFound, float64(s.Asks), "ask")
	gauge(keeperFound, float64(s.Alarms), "alarm")
	gauge(keeperFound, float64(s.Overdue), "overdue")
	gauge(keeperFound, float64(s.Deferred), "deferred")
}

var _ prometheus.Collector = (*keeping)(nil)
