package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	gomilter "github.com/d--j/go-milter"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"waxseal/keystore"
)

// lockedBuffer takes a log that is read while it is written.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func get(t testing.TB, url string) (int, string) {
	t.Helper()
	r, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return r.StatusCode, string(body)
}

// eventually waits for what another goroutine is about to do.
func eventually(t testing.TB, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !done(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not in time: %s", what)
		}
	}
}

func TestADaemonIsWatched(t *testing.T) {
	c := newCLI(t)
	c.ok("", "key import example.com s ../../testdata/keys/rsa-2048.pem")
	c.ok("", "key activate example.com s --force --reason tested")
	socket := filepath.Join(t.TempDir(), "s")
	config := writeFile(t, "waxseal.toml", "[metrics]\naddress = \"inet:127.0.0.1:0\"\nper_domain = true\n")
	var stderr lockedBuffer
	a := &app{stdin: strings.NewReader(""), stdout: &bytes.Buffer{}, stderr: &stderr, now: time.Now, keystore: c.store, configFile: config}
	stop, reload := make(chan os.Signal, 1), make(chan os.Signal, 1)
	ended := make(chan error, 1)
	go func() { ended <- a.serve(context.Background(), []string{"unix:" + socket}, "", stop, reload) }()
	eventually(t, "started", func() bool { return strings.Contains(stderr.String(), "msg=started") })
	url := regexp.MustCompile(`http://127\.0\.0\.1:\d+/`).FindString(stderr.String())
	eventually(t, "ready", func() bool { code, _ := get(t, url+"readyz"); return code == 200 })

	client := gomilter.NewClient("unix", socket)
	session, err := client.Session(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close()
	begin := func() {
		t.Helper()
		if _, err := session.Mail("ann@example.com", ""); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := session.Conn("localhost", gomilter.FamilyInet, 25, "127.0.0.1"); err != nil {
		t.Fatal(err)
	}
	if _, err := session.Helo("localhost"); err != nil {
		t.Fatal(err)
	}
	begin()
	if _, err := session.Rcpt("bob@example.net", ""); err != nil {
		t.Fatal(err)
	}
	if _, err := session.DataStart(); err != nil {
		t.Fatal(err)
	}
	for _, f := range [][2]string{{"From", " ann@example.com"}, {"Subject", " hello"}} {
		if _, err := session.HeaderField(f[0], f[1], nil); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := session.HeaderEnd(); err != nil {
		t.Fatal(err)
	}
	if _, _, err := session.BodyReadFrom(strings.NewReader("It works.\r\n")); err != nil {
		t.Fatal(err)
	}

	if err := os.WriteFile(config, []byte("[metrix]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	reload <- os.Interrupt
	eventually(t, "the broken reload", func() bool { return strings.Contains(stderr.String(), "old one stays in force") })
	var text string
	eventually(t, "all numbers", func() bool {
		var code int
		code, text = get(t, url+"metrics")
		return code == 200 && strings.Contains(text, `waxseal_config_reloads_total{result="failed"} 1`)
	})
	for _, want := range []string{
		`waxseal_messages_total{cause="",outcome="signed"} 1`,
		`waxseal_domain_messages_total{domain="example.com",outcome="signed"} 1`,
		`waxseal_signatures_total{algorithm="rsa"} 1`,
		`waxseal_sign_seconds_count 1`,
		`waxseal_open_connections 1`,
		`waxseal_key_cache_age_seconds 0`,
		`waxseal_keystore_down_seconds 0`,
		`waxseal_key_cache_entries 1`,
		`waxseal_key_cache_loads_total 1`,
		`waxseal_key_cache_load_errors_total 0`,
		`waxseal_rsa_fallbacks_total 0`,
		`waxseal_config_reloads_total{result="ok"} 0`,
		`waxseal_config_last_reload_ok 0`,
	} {
		if !strings.Contains(text, "\n"+want+"\n") {
			t.Errorf("no %s", want)
		}
	}
	if !regexp.MustCompile(`(?m)^waxseal_build_info\{rsa="(Go|libcrypto [0-9.]+)",version="[^"]+"\} 1$`).MatchString(text) {
		t.Error("no waxseal_build_info")
	}
	if t.Failed() {
		t.Log(text)
	}

	// While the last message is finished, no other is wanted.
	begin()
	stop <- os.Interrupt
	eventually(t, "not ready", func() bool {
		code, why := get(t, url+"readyz")
		return code == 503 && why == "stopping\n"
	})
	if code, _ := get(t, url+"healthz"); code != 200 {
		t.Errorf("a daemon that finishes its work is told to be dead: %d", code)
	}
	session.Close()
	if err := <-ended; err != nil {
		t.Errorf("serve: %v", err)
	}
	if _, err := http.Get(url + "healthz"); err == nil {
		t.Error("the listener is still there")
	}
}

// downStore is a store that can be switched off.
type downStore struct {
	keystore.Store
	down error
	of   map[string]error // answers about single domains
}

func (s *downStore) Domain(_ context.Context, name string) (*keystore.Domain, error) {
	if s.down != nil {
		return nil, s.down
	}
	return &keystore.Domain{Name: name}, s.of[name]
}

func (s *downStore) List(context.Context, string, int) ([]string, error) { return nil, s.down }

func TestReadiness(t *testing.T) {
	m := newMonitor(MetricsConfig{}, slog.New(slog.DiscardHandler))
	below := &downStore{of: map[string]error{
		"absent.example": keystore.ErrNotFound,
		"broken.example": fmt.Errorf("domain.toml: %w", keystore.ErrBroken),
		"left.example":   context.Canceled,
		"odd.example":    errors.New("permission denied"),
	}}
	store := &askedStore{Store: below}
	check := func(when, want string) {
		t.Helper()
		w := httptest.NewRecorder()
		m.server.Handler.ServeHTTP(w, httptest.NewRequest("GET", "/readyz", nil))
		code := 503
		if want == "ok" {
			code = 200
		}
		if w.Code != code || w.Body.String() != want+"\n" {
			t.Errorf("%s: got %d %q, want %d %q", when, w.Code, w.Body, code, want)
		}
	}
	ask := func(domain string) { store.Domain(context.Background(), domain) }

	check("at first", "starting")
	m.store.Store(store)
	m.state.Store(int32(isServing))
	check("before the keystore was asked", "ok")
	for domain := range below.of {
		ask(domain)
		check("after "+domain, "ok")
	}
	below.down = errors.New("no route to host\nat all")
	check("while nobody asks the keystore that is down", "ok")
	ask("example.com")
	check("when it was asked", "keystore: no route to host")
	ask("left.example")
	check("when somebody gave up asking", "keystore: no route to host")
	below.down = nil
	check("when it is there again, and there is no mail", "ok")
	if store.last.Load() != nil {
		t.Error("the failure is not forgotten")
	}
	below.down = errors.New("again")
	ask("example.com")
	below.down = nil
	ask("example.com")
	if store.last.Load() != nil {
		t.Error("the failure is not forgotten after an answer")
	}
	m.stopping()
	check("at the end", "stopping")
}

func TestMetricsAreOffUnlessAsked(t *testing.T) {
	d, err := decodeConfig("waxseal.toml", "[metrics]\nper_domain = true")
	if err != nil {
		t.Fatal(err)
	}
	m, err := startMonitor(d, slog.New(slog.DiscardHandler))
	if m != nil || err != nil {
		t.Fatalf("got %v, %v", m, err)
	}
	if m.milterCollector() != nil {
		t.Error("messages are counted")
	}
	m.serving(nil, nil)
	m.reloaded(true)
	m.stopping()
	m.close()
}

func TestTheMetricsAddressIsChecked(t *testing.T) {
	for _, c := range []struct {
		name, text string
		want       []string
	}{
		{"none", "[metrics]\naddress = \"\"\nallow_remote = true", nil},
		{"loopback", "[metrics]\naddress = \"inet:127.0.0.1:9891\"", nil},
		{"loopback of IPv6", "[metrics]\naddress = \"inet6:[::1]:9891\"", nil},
		{"all interfaces", "[metrics]\naddress = \"inet:0.0.0.0:9891\"", []string{`2: metrics.address: inet:0.0.0.0:9891 can be reached from other machines | allow_remote = true`}},
		{"all interfaces, with a firewall", "[metrics]\naddress = \"inet:0.0.0.0:9891\"\nallow_remote = true", nil},
		{"a unix socket", "[metrics]\naddress = \"unix:/run/s\"", []string{`2: metrics.address: unix:/run/s is no inet address | inet:127.0.0.1:9891`}},
		{"that of a listener", "[listen.a]\naddress = \"inet:127.0.0.1:8891\"\n[metrics]\naddress = \"inet:8891@127.0.0.1\"", []string{`4: metrics.address: is that of listen.a, too`}},
	} {
		t.Run(c.name, func(t *testing.T) {
			d, err := decodeConfig("waxseal.toml", c.text)
			if err != nil {
				t.Fatal(err)
			}
			checkProblems(t, checkListeners(d), c.want)
			if c.want != nil {
				_, err := startMonitor(d, slog.New(slog.DiscardHandler))
				checkProblems(t, err, c.want)
			}
		})
	}
}

func TestAMetricsAddressInUseIsToldWithItsLine(t *testing.T) {
	busy := httptest.NewServer(http.NotFoundHandler())
	defer busy.Close()
	d, err := decodeConfig("waxseal.toml", fmt.Sprintf("[metrics]\naddress = \"inet:%s\"", busy.Listener.Addr()))
	if err != nil {
		t.Fatal(err)
	}
	_, err = startMonitor(d, slog.New(slog.DiscardHandler))
	checkProblems(t, err, []string{"2: metrics.address: listen tcp4 | another port"})
}

func TestTheMetricsListenerIsBounded(t *testing.T) {
	m := newMonitor(MetricsConfig{}, slog.New(slog.DiscardHandler))
	server := httptest.NewUnstartedServer(nil)
	server.Config = m.server
	server.Start()
	defer server.Close()
	ask := func(method, path, field string) int {
		t.Helper()
		r, err := http.NewRequest(method, server.URL+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("X-Field", field)
		response, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		return response.StatusCode
	}
	for _, c := range []struct {
		method, path, field string
		want                int
	}{
		{"GET", "/healthz", "", 200},
		{"HEAD", "/metrics", "", 200},
		{"POST", "/metrics", "", 405},
		{"GET", "/debug/pprof/", "", 404},
		{"GET", "/healthz", strings.Repeat("x", 2*monitorHeaderBytes), 431},
	} {
		if got := ask(c.method, c.path, c.field); got != c.want {
			t.Errorf("%s %s with %d bytes of header: got %d, want %d", c.method, c.path, len(c.field), got, c.want)
		}
	}
}

func TestEveryMetricIsNamedWellAndInTheREADME(t *testing.T) {
	c := newCLI(t)
	c.ok("", "key import example.com s ../../testdata/keys/rsa-2048.pem")
	d, err := decodeConfig("waxseal.toml", "")
	if err != nil {
		t.Fatal(err)
	}
	d.Keystore.URL = c.store
	l, err := build(d, time.Now, func(string, error) {})
	if err != nil {
		t.Fatal(err)
	}
	defer l.close()
	m := newMonitor(MetricsConfig{PerDomain: true}, slog.New(slog.DiscardHandler))
	m.serving(l, new(keeping))
	lint, err := testutil.GatherAndLint(m.registry)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range lint {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	families, err := m.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	known := map[string]bool{"waxseal_domain_messages_total": true} // there is none before the first message
	for _, f := range families {
		if strings.HasPrefix(f.GetName(), "waxseal_") {
			known[f.GetName()] = true
		}
	}
	described := map[string]bool{}
	for _, row := range regexp.MustCompile("(?m)^\\| `(waxseal_[a-z0-9_]+)").FindAllStringSubmatch(string(readme), -1) {
		described[row[1]] = true
		if !known[row[1]] {
			t.Errorf("the README has %s, which is none", row[1])
		}
	}
	for name := range known {
		if !described[name] {
			t.Errorf("the README does not have %s", name)
		}
	}
}
