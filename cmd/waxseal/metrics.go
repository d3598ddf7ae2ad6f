package main

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"waxseal/keystore"
	"waxseal/milter"
)

// Bounds of the metrics listener. Nobody who asks it has much to say.
const (
	monitorReadTimeout  = 5 * time.Second
	monitorWriteTimeout = 30 * time.Second
	monitorIdleTimeout  = 2 * time.Minute // between two scrapes, which are a minute apart at most
	monitorHeaderBytes  = 8 << 10
	monitorScrapes      = 4 // at once
	monitorStopTimeout  = time.Second

	// storeTimeout bounds the question whether the keystore answers again.
	storeTimeout = 2 * time.Second
)

// readiness is what /readyz says but for the keystore.
type readiness int32

const (
	isStarting readiness = iota
	isServing
	isStopping
)

// monitor is the HTTP listener that metrics and health are read from. A nil
// monitor is one that is switched off; its methods do nothing.
type monitor struct {
	log       *slog.Logger
	server    *http.Server
	ended     chan struct{}
	registry  *prometheus.Registry
	collector *milter.Collector

	state    atomic.Int32 // a readiness
	store    atomic.Pointer[askedStore]
	reloads  *prometheus.CounterVec
	reloadOK prometheus.Gauge
}

// startMonitor opens the listener of the [metrics] table, and answers on it
// from then on. Without an address it returns nil.
func startMonitor(d *decoded, log *slog.Logger) (*monitor, error) {
	if d.Metrics.Address.Address.Address == "" {
		return nil, nil
	}
	if found := metricsProblems(d); len(found) > 0 {
		return nil, found
	}
	l, err := milter.Listen(d.Metrics.Address.Address, milter.SocketOptions{})
	if err != nil {
		return nil, problems{d.problem("metrics.address", err, listenRemedy(ListenConfig{Address: d.Metrics.Address}, err))}
	}
	m := newMonitor(d.Metrics, log)
	go func() {
		defer close(m.ended)
		if err := m.server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			log.Error("metrics listener ended", "err", err) // mail goes on
		}
	}()
	log.Info("metrics", "url", "http://"+l.Addr().String()+"/metrics")
	return m, nil
}

func newMonitor(c MetricsConfig, log *slog.Logger) *monitor {
	m := &monitor{
		log:       log,
		ended:     make(chan struct{}),
		registry:  prometheus.NewRegistry(),
		collector: milter.NewCollector(milter.CollectorOptions{PerDomain: c.PerDomain}),
		reloads: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "waxseal_config_reloads_total",
			Help: "Reloads of the configuration. After one that failed, the old configuration stays in force.",
		}, []string{"result"}),
		reloadOK: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "waxseal_config_last_reload_ok",
			Help: "1 when the configuration in force is the latest, 0 when the last reload failed.",
		}),
	}
	for _, result := range []string{"ok", "failed"} {
		m.reloads.WithLabelValues(result)
	}
	m.reloadOK.Set(1)
	m.registry.MustRegister(m.collector, m.reloads, m.reloadOK,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	m.server = &http.Server{
		Handler:        m.handler(),
		ReadTimeout:    monitorReadTimeout,
		WriteTimeout:   monitorWriteTimeout,
		IdleTimeout:    monitorIdleTimeout,
		MaxHeaderBytes: monitorHeaderBytes,
		ErrorLog:       slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
	return m
}

func (m *monitor) handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{
		MaxRequestsInFlight: monitorScrapes,
		ErrorLog:            slog.NewLogLogger(m.log.Handler(), slog.LevelError),
	}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { answer(w, nil) })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) { answer(w, m.notReady(r.Context())) })
	return mux
}

// answer says ok, or in one line why not.
func answer(w http.ResponseWriter, why error) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	if why == nil {
		fmt.Fprintln(w, "ok")
		return
	}
	w.WriteHeader(http.StatusServiceUnavailable)
	line, _, _ := strings.Cut(why.Error(), "\n")
	fmt.Fprintln(w, line)
}

// notReady says why mail should not be sent here now, or nil.
func (m *monitor) notReady(ctx context.Context) error {
	switch readiness(m.state.Load()) {
	case isStarting:
		return errors.New("starting")
	case isStopping:
		return errors.New("stopping")
	}
	if store := m.store.Load(); store != nil {
		if err := store.failure(ctx); err != nil {
			return fmt.Errorf("keystore: %w", err)
		}
	}
	return nil
}

// milterCollector is for the options of the milter's server.
func (m *monitor) milterCollector() *milter.Collector {
	if m == nil {
		return nil
	}
	return m.collector
}

// serving tells that mail is served, with these objects. It is called once.
func (m *monitor) serving(l *live, keys *keeping) {
	if m == nil {
		return
	}
	m.registry.MustRegister(keys)
	m.registry.MustRegister(liveCollectors(l)...)
	m.store.Store(l.store)
	m.state.Store(int32(isServing))
}

// reloaded counts a reload.
func (m *monitor) reloaded(ok bool) {
	switch {
	case m == nil:
	case ok:
		m.reloads.WithLabelValues("ok").Inc()
		m.reloadOK.Set(1)
	default:
		m.reloads.WithLabelValues("failed").Inc()
		m.reloadOK.Set(0)
	}
}

// stopping tells that no further mail is wanted. Questions are answered until
// close.
func (m *monitor) stopping() {
	if m != nil {
		m.state.Store(int32(isStopping))
	}
}

// close stops the listener, and waits for it.
func (m *monitor) close() {
	if m == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), monitorStopTimeout)
	defer cancel()
	if m.server.Shutdown(ctx) != nil {
		m.server.Close()
	}
	<-m.ended
}

// liveCollectors tell what the keystore's cache and the signer count.
func liveCollectors(l *live) []prometheus.Collector {
	counter := func(name, help string, value func() uint64) prometheus.Collector {
		return prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help}, func() float64 { return float64(value()) })
	}
	gauge := func(name, help string, value func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, value)
	}
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Name:        "waxseal_build_info",
		Help:        "Always 1. The labels are the version, and what makes RSA-2048 signatures.",
		ConstLabels: prometheus.Labels{"version": version(), "rsa": l.engine.Maker()},
	})
	build.Set(1)
	return []prometheus.Collector{
		gauge("waxseal_key_cache_age_seconds", "For how long the keystore has not confirmed the oldest entry that still signs. 0 while it answers.",
			func() float64 { return l.cache.Age().Seconds() }),
		gauge("waxseal_keystore_down_seconds", "For how long the keystore has been known not to answer. 0 while it does.",
			func() float64 { return l.cache.Down().Seconds() }),
		gauge("waxseal_key_cache_entries", "Domains in memory, those that the keystore does not have included, and authors.",
			func() float64 { return float64(l.cache.Stats().Entries) }),
		counter("waxseal_key_cache_hits_total", "Lookups of a domain's keys answered from memory.",
			func() uint64 { return l.cache.Stats().Hits }),
		counter("waxseal_key_cache_loads_total", "Reads of a domain's keys, or of what signs an author's mail, from the keystore.",
			func() uint64 { return l.cache.Stats().Loads }),
		counter("waxseal_key_cache_load_errors_total", "Reads of a domain's keys that went wrong.",
			func() uint64 { return l.cache.Stats().LoadErrors }),
		counter("waxseal_key_cache_stale_total", "Lookups answered with keys that the keystore did not confirm when last asked.",
			func() uint64 { return l.cache.Stats().Stale }),
		counter("waxseal_rsa_fallbacks_total", "RSA keys that Go signs with although libcrypto was wanted.", l.engine.Fallbacks),
		build,
	}
}

// metricsProblems finds what is wrong with the [metrics] table.
func metricsProblems(d *decoded) problems {
	const key = "metrics.address"
	c := d.Metrics
	var found problems
	switch {
	case c.Address.Address.Address == "":
		return nil
	case c.Address.Network == "unix":
		found = append(found, d.problem(key, fmt.Errorf("%s is no inet address", c.Address), "write inet:127.0.0.1:9891"))
	case c.Address.IsRemote() && !c.AllowRemote:
		found = append(found, d.problem(key,
			fmt.Errorf("%s can be reached from other machines, and whoever can connect can read how much mail there is, and of whom", c.Address),
			"listen on 127.0.0.1; or add allow_remote = true if a firewall guards it"))
	}
	for _, name := range sortedKeys(d.Listen) {
		if l := d.Listen[name].Address; l.Address == c.Address.Address {
			found = append(found, d.problem(key, fmt.Errorf("is that of listen.%s, too", name), "choose another port"))
		}
	}
	return found
}

// askedStore is a store that remembers whether it answered when last asked.
type askedStore struct {
	keystore.Store
	last  atomic.Pointer[error] // what went wrong; nil: nothing
	probe sync.Mutex            // held while the store is asked whether it answers again
}

// Domain is the store's. That a domain is absent or broken is an answer.
func (s *askedStore) Domain(ctx context.Context, name string) (*keystore.Domain, error) {
	return s.note(s.Store.Domain(ctx, name))
}

// Signing is that of the store, or its Domain if it has none.
func (s *askedStore) Signing(ctx context.Context, name string) (*keystore.Domain, error) {
	if store, ok := s.Store.(keystore.SigningStore); ok {
		return s.note(store.Signing(ctx, name))
	}
	return s.Domain(ctx, name)
}

// KnowsSenders is the store's, if it knows of senders.
func (s *askedStore) KnowsSenders() bool {
	store, ok := s.Store.(keystore.SenderStore)
	return ok && store.KnowsSenders()
}

// Sender is the store's, for one that knows of senders.
func (s *askedStore) Sender(ctx context.Context, address string) (*keystore.Sender, error) {
	sender, err := s.Store.(keystore.SenderStore).Sender(ctx, address)
	_, err = s.note(nil, err)
	return sender, err
}

// Generate is the store's, if it makes keys itself: embedded, it would be hidden.
func (s *askedStore) Generate(ctx context.Context, domain, selector string, algorithm keystore.Algorithm) (crypto.Signer, error) {
	return keystore.NewKey(ctx, s.Store, domain, selector, algorithm)
}

func (s *askedStore) note(d *keystore.Domain, err error) (*keystore.Domain, error) {
	switch {
	case err == nil, errors.Is(err, keystore.ErrNotFound), errors.Is(err, keystore.ErrBroken):
		if s.last.Load() != nil {
			s.last.Store(nil)
		}
	case errors.Is(err, context.Canceled): // not the store's fault
	default:
		s.last.Store(&err)
	}
	return d, err
}

// failure says why the store did not answer when it was last asked. In that
// case it is asked again, since where nobody sends mail to a daemon that is not
// ready, no mail would ever find out.
func (s *askedStore) failure(ctx context.Context) error {
	last := s.last.Load()
	if last == nil {
		return nil
	}
	if !s.probe.TryLock() {
		return *last // another is asking
	}
	defer s.probe.Unlock()
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	if _, err := s.Store.List(ctx, "", 1); err != nil {
		return err
	}
	s.last.CompareAndSwap(last, nil)
	return nil
}
