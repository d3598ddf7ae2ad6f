package milter

import (
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"waxseal/keystore"
)

func TestEveryMessageIsCountedWithItsCause(t *testing.T) {
	c := NewCollector(CollectorOptions{PerDomain: true})
	s := startServer(t, Options{Collector: c}, func(s *Settings) {
		s.Outcomes = Outcomes{NotSignable: Reject}
	})
	m := s.postfixClient(t)
	send := func(author string) {
		t.Helper()
		msg := ordinary()
		msg.header[0] = "From: " + author
		m.mail(msg)
		m.abort()
	}
	send("Ann <ann@example.com>")
	send("Ann <ann@example.com>")
	send("ann@elsewhere.example")
	send("ann@example.com, bob@example.org")
	foreign := dialMTA(t, s.address, postfix)
	foreign.connect("mail.example.org", "192.0.2.7", 40000, "mx.example.com", "Postfix 3.7.11")
	for range 3 {
		foreign.mail(ordinary())
	}

	const want = `
# HELP waxseal_connections_total Connections of mail servers.
# TYPE waxseal_connections_total counter
waxseal_connections_total 2
# HELP waxseal_domain_messages_total Messages answered, by signing domain, of domains in the keystore. Those over the first 10,000 are "other".
# TYPE waxseal_domain_messages_total counter
waxseal_domain_messages_total{domain="example.com",outcome="signed"} 2
# HELP waxseal_malformed_total Connections cut for breaking the protocol or its time limits.
# TYPE waxseal_malformed_total counter
waxseal_malformed_total 0
# HELP waxseal_messages_at_risk_total Messages of ours with a property for which a signature may break or receivers refuse the mail, by the word that the log has, whatever became of them. A message may have several.
# TYPE waxseal_messages_at_risk_total counter
waxseal_messages_at_risk_total{risk="bad_from"} 1
# HELP waxseal_messages_total Messages answered, by outcome and, for those not signed, by the cause that the log has.
# TYPE waxseal_messages_total counter
waxseal_messages_total{cause="",outcome="signed"} 2
waxseal_messages_total{cause="no_key",outcome="unsigned"} 1
waxseal_messages_total{cause="not_ours",outcome="not_ours"} 3
waxseal_messages_total{cause="not_signable",outcome="rejected"} 1
# HELP waxseal_open_connections Connections of mail servers at this moment.
# TYPE waxseal_open_connections gauge
waxseal_open_connections 2
# HELP waxseal_panics_total Panics, each of which cost one connection. Every one is a bug.
# TYPE waxseal_panics_total counter
waxseal_panics_total 0
# HELP waxseal_signatures_total Signatures added to messages, by key type. A message may get several.
# TYPE waxseal_signatures_total counter
waxseal_signatures_total{algorithm="ed25519"} 2
waxseal_signatures_total{algorithm="rsa"} 2
`
	scraped := scrape(t, c)
	var got []string
	for line := range strings.Lines(scraped) {
		// Series of causes that did not happen are there, too, at zero.
		if strings.Contains(line, "_seconds") || strings.HasPrefix(line, "waxseal_messages_") && strings.HasSuffix(line, " 0\n") {
			continue
		}
		got = append(got, line)
	}
	if g := strings.Join(got, ""); g != want[1:] {
		t.Errorf("got\n%s\nwant%s", g, want)
	}
	for _, line := range []string{
		"waxseal_message_seconds_count 4",
		"waxseal_sign_seconds_count 2", // the others were answered before their end
		`waxseal_messages_total{cause="store_down",outcome="tempfailed"} 0`,
	} {
		if !strings.Contains(scraped, line+"\n") {
			t.Errorf("no %q in\n%s", line, scraped)
		}
	}
}

// scrape returns what Prometheus would get.
func scrape(t testing.TB, c prometheus.Collector) string {
	t.Helper()
	r := prometheus.NewPedanticRegistry()
	if err := r.Register(c); err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	promhttp.HandlerFor(r, promhttp.HandlerOpts{}).ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	if w.Code != 200 {
		t.Fatalf("status %d\n%s", w.Code, w.Body)
	}
	return w.Body.String()
}

func TestOnlyDomainsOfTheKeystoreAreCounted(t *testing.T) {
	for _, test := range []struct {
		name, author string
		keys         *keys
		want         string // the series, or none
	}{
		{"a domain with keys", "example.com", &keys{domain: "example.com", signing: signingKeys()}, `domain="example.com",outcome="signed"`},
		{"a domain without an active key", "example.com", &keys{domain: "example.com"}, `domain="example.com",outcome="unsigned"`},
		{"a domain whose files are broken", "example.com", &keys{err: fmt.Errorf("domain.toml: %w", keystore.ErrBroken)}, `domain="example.com",outcome="tempfailed"`},
		{"a domain it does not have", "invented.example", &keys{domain: "example.com"}, ""},
		{"any domain while the keystore is down", "invented.example", &keys{err: fmt.Errorf("down")}, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := NewCollector(CollectorOptions{PerDomain: true})
			s := startServer(t, Options{Collector: c}, func(s *Settings) { s.Keys = test.keys })
			msg := ordinary()
			msg.header[0] = "From: ann@" + test.author
			s.postfixClient(t).mail(msg)
			got := scrape(t, c)
			if test.want == "" {
				if strings.Contains(got, "domain=") {
					t.Errorf("a domain is counted in\n%s", got)
				}
			} else if !strings.Contains(got, "waxseal_domain_messages_total{"+test.want+"} 1\n") {
				t.Errorf("no %s in\n%s", test.want, got)
			}
		})
	}
}

func TestCountedDomainsAreBounded(t *testing.T) {
	const over = 25
	c := NewCollector(CollectorOptions{PerDomain: true})
	now := time.Now()
	for range 2 {
		for i := range maxCountedDomains + over {
			c.observe(&Result{Signed: true, Known: true, Domain: fmt.Sprintf("d%d.example", i)}, now, now, now)
		}
	}
	if got := testutil.CollectAndCount(c, "waxseal_domain_messages_total"); got != maxCountedDomains+1 {
		t.Errorf("%d series, want %d", got, maxCountedDomains+1)
	}
	if got := testutil.ToFloat64(c.byDomain.WithLabelValues("other", "signed")); got != 2*over {
		t.Errorf("others counted %v times, want %d", got, 2*over)
	}
	if got := testutil.ToFloat64(c.byDomain.WithLabelValues("d0.example", "signed")); got != 2 {
		t.Errorf("the first domain counted %v times, want 2", got)
	}
	off := NewCollector(CollectorOptions{})
	off.observe(&Result{Signed: true, Known: true, Domain: "example.com"}, now, now, now)
	if got := scrape(t, off); strings.Contains(got, "example.com") {
		t.Errorf("domains are counted without being asked for:\n%s", got)
	}
}

func TestMetricsAreNamedAsPrometheusWants(t *testing.T) {
	problems, err := testutil.CollectAndLint(NewCollector(CollectorOptions{PerDomain: true}))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

func BenchmarkObserve(b *testing.B) {
	c := NewCollector(CollectorOptions{PerDomain: true})
	r := &Result{Signed: true, Known: true, Domain: "example.com", RSA: 1}
	now := time.Now()
	b.ReportAllocs()
	for b.Loop() {
		c.observe(r, now, now, now)
	}
}
