package milter

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// The outcomes of a message, as the label of that name has them.
const (
	outcomeSigned     = "signed"
	outcomeUnsigned   = "unsigned" // ours, accepted without a signature
	outcomeTempfailed = "tempfailed"
	outcomeRejected   = "rejected"
	outcomeNotOurs    = "not_ours"
)

// outcome is what became of the message, in one word.
func (r *Result) outcome() string {
	switch {
	case r.Signed:
		return outcomeSigned
	case r.Cause == NotOurs:
		return outcomeNotOurs
	case r.Action == Tempfail:
		return outcomeTempfailed
	case r.Action == Reject:
		return outcomeRejected
	default:
		return outcomeUnsigned
	}
}

const (
	// maxCountedDomains bounds the domains with series of their own; each has
	// up to four. They are kept until the end of the process.
	maxCountedDomains = 10_000

	// otherDomains stands for all domains over the bound.
	otherDomains = "other"
)

// messageBuckets reach from mail that is handed over by a program on the same
// machine to mail that crawls in over a bad line; signBuckets from an Ed25519
// signature to the wait for a keystore that does not answer.
var (
	messageBuckets = []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300}
	signBuckets    = []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, 1, 2.5, 10}
)

// CollectorOptions sets up a Collector. The zero value works.
type CollectorOptions struct {
	// PerDomain counts messages also by signing domain: of domains that the
	// keystore has, and of no more than 10,000 of them. Further ones are
	// counted together as "other".
	PerDomain bool
}

// Collector counts what one server does, for Prometheus. It is given to the
// server in its Options; a server without one counts Stats and no more.
//
// No label has a value that a sender or a peer can choose: they are fixed words
// and domains of the keystore.
type Collector struct {
	stats atomic.Pointer[Stats] // of the server, once there is one

	messages     *prometheus.CounterVec
	risks        *prometheus.CounterVec
	rsa, ed25519 prometheus.Counter
	duration     prometheus.Histogram
	signing      prometheus.Histogram
	all          []prometheus.Collector

	byDomain *prometheus.CounterVec // nil: not wanted
	mu       sync.Mutex
	domains  map[string]struct{} // guarded by mu: those with series of their own
}

var _ prometheus.Collector = (*Collector)(nil)

// NewCollector makes the collector of one server.
func NewCollector(o CollectorOptions) *Collector {
	c := &Collector{domains: map[string]struct{}{}}
	c.stats.Store(&Stats{})
	c.messages = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "waxseal_messages_total",
		Help: "Messages answered, by outcome and, for those not signed, by the cause that the log has.",
	}, []string{"outcome", "cause"})
	c.risks = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "waxseal_messages_at_risk_total",
		Help: "Messages of ours with a property for which a signature may break or receivers refuse the mail, by the word that the log has, whatever became of them. A message may have several.",
	}, []string{"risk"})
	signatures := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "waxseal_signatures_total",
		Help: "Signatures added to messages, by key type. A message may get several.",
	}, []string{"algorithm"})
	c.rsa, c.ed25519 = signatures.WithLabelValues("rsa"), signatures.WithLabelValues("ed25519")
	c.duration = prometheus.NewHistogram(prometheus.HistogramOpts{
		Name:    "waxseal_message_seconds",
		Help:    "Time from MAIL to the answer, of messages that are ours. Most of it is the client's.",
		Buckets: messageBuckets,
	})
	c.signing = prometheus.NewHistogram(prometheus.HistogramOpts{
		Name:    "waxseal_sign_seconds",
		Help:    "Time from the end of the message to the answer, of messages that got that far: what signing adds.",
		Buckets: signBuckets,
	})
	counter := func(name, help string, value func(*Stats) *atomic.Int64) prometheus.Collector {
		return prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help},
			func() float64 { return float64(value(c.stats.Load()).Load()) })
	}
	c.all = []prometheus.Collector{
		c.messages, c.risks, signatures, c.duration, c.signing,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "waxseal_open_connections",
			Help: "Connections of mail servers at this moment.",
		}, func() float64 { return float64(c.stats.Load().Open.Load()) }),
		counter("waxseal_connections_total", "Connections of mail servers.",
			func(s *Stats) *atomic.Int64 { return &s.Connections }),
		counter("waxseal_malformed_total", "Connections cut for breaking the protocol or its time limits.",
			func(s *Stats) *atomic.Int64 { return &s.Malformed }),
		counter("waxseal_panics_total", "Panics, each of which cost one connection. Every one is a bug.",
			func(s *Stats) *atomic.Int64 { return &s.Panics }),
	}
	if o.PerDomain {
		c.byDomain = prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "waxseal_domain_messages_total",
			Help: "Messages answered, by signing domain, of domains in the keystore. Those over the first 10,000 are \"other\".",
		}, []string{"domain", "outcome"})
		c.all = append(c.all, c.byDomain)
	}
	// A series that begins at its first event has lost it for rate().
	c.messages.WithLabelValues(outcomeSigned, "")
	for name := range risks {
		c.risks.WithLabelValues(string(name))
	}
	for cause, known := range causes {
		actions := append([]Action{known.action}, known.others...)
		if action, ok := Strict()[cause]; ok {
			actions = append(actions, action)
		}
		for _, action := range actions {
			r := Result{Cause: cause, Action: action}
			c.messages.WithLabelValues(r.outcome(), string(cause))
		}
	}
	return c
}

// Describe and Collect make it a prometheus.Collector.
func (c *Collector) Describe(to chan<- *prometheus.Desc) {
	for _, each := range c.all {
		each.Describe(to)
	}
}

func (c *Collector) Collect(to chan<- prometheus.Metric) {
	for _, each := range c.all {
		each.Collect(to)
	}
}

// observe counts the result of a message that began and ended then, and is
// answered now. One that was answered before its end has a zero ended.
func (c *Collector) observe(r *Result, began, ended, now time.Time) {
	outcome := r.outcome()
	if r.Signed {
		c.messages.WithLabelValues(outcome, "").Inc()
		c.rsa.Add(float64(r.RSA))
		c.ed25519.Add(float64(r.Ed25519))
	} else {
		c.messages.WithLabelValues(outcome, string(r.Cause)).Inc()
	}
	for _, r := range r.Risks {
		c.risks.WithLabelValues(string(r.Name)).Inc()
	}
	if outcome != outcomeNotOurs {
		c.duration.Observe(now.Sub(began).Seconds())
	}
	if !ended.IsZero() {
		c.signing.Observe(now.Sub(ended).Seconds())
	}
	if c.byDomain != nil && r.Known {
		c.byDomain.WithLabelValues(c.domain(r.Domain), outcome).Inc()
	}
}

// domain is the label of a domain.
func (c *Collector) domain(name string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.domains[name]; ok {
		return name
	}
	if len(c.domains) >= maxCountedDomains {
		return otherDomains
	}
	c.domains[name] = struct{}{}
	return name
}
