package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// prometheusProgram is a program of Debian's package prometheus, which
// .ci/prepare unpacks and does not install.
func prometheusProgram(name string) string {
	dir := os.Getenv("WAXSEAL_PROMETHEUS")
	if dir == "" {
		dir = "/var/cache/waxseal-test/prometheus"
	}
	return filepath.Join(dir, "usr/bin", name)
}

func prometheusUnpacked() error {
	if out, err := exec.Command(prometheusProgram("promtool"), "--version").CombinedOutput(); err != nil {
		return fmt.Errorf("no Prometheus, which .ci/prepare unpacks where WAXSEAL_PROMETHEUS says: %w: %s", err, out)
	}
	return nil
}

// promtool runs it in contrib/grafana, and expects it to be content.
func promtool(t *testing.T, args ...string) {
	t.Helper()
	c := exec.CommandContext(t.Context(), prometheusProgram("promtool"), args...)
	c.Dir = "../../../contrib/grafana"
	if out, err := c.CombinedOutput(); err != nil {
		t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// TestContribGrafanaAlerts has Prometheus judge the alerts, and run the tests of
// them. Each alert fires in one of these, and is in the table of the README.
func TestContribGrafanaAlerts(t *testing.T) {
	require(t, prometheusUnpacked)
	t.Parallel()
	promtool(t, "check", "config", "prometheus.yml") // with its alerts
	promtool(t, "test", "rules", "alerts.test.yml")
	alert := regexp.MustCompile(`(?m)^ +- alert: (\w+)$`)
	tested, described := contrib(t, "grafana/alerts.test.yml"), contrib(t, "grafana/README.md")
	for _, m := range alert.FindAllStringSubmatch(contrib(t, "grafana/alerts.yml"), -1) {
		if !strings.Contains(tested, `alertname="`+m[1]+`"`) {
			t.Errorf("%s fires in no test", m[1])
		}
		if !strings.Contains(described, "| `"+m[1]+"` |") {
			t.Errorf("the README does not have %s", m[1])
		}
	}
}

// prometheus is a private Prometheus, with the files of contrib/grafana.
type prometheus struct{ address string }

// startPrometheus starts one that asks a daemon for its metrics every second.
func startPrometheus(t *testing.T, target string) *prometheus {
	t.Helper()
	dir := shortDir(t)
	writeFile(t, filepath.Join(dir, "alerts.yml"), contrib(t, "grafana/alerts.yml"), 0o644)
	config := writeFile(t, filepath.Join(dir, "prometheus.yml"), contrib(t, "grafana/prometheus.yml", "127.0.0.1:9891", target, "30s", "1s"), 0o644)
	p := &prometheus{loopback(freePort(t))}
	c := exec.Command(prometheusProgram("prometheus"), "--config.file="+config, "--storage.tsdb.path="+filepath.Join(dir, "data"),
		"--web.listen-address="+p.address, "--log.level=warn")
	var out transcript
	c.Stdout, c.Stderr = &out, &out
	startGroup(t, c, func() string { return tail(out.String()) })
	return p
}

// query asks for the present value of an expression, and returns the labels of
// each series.
func (p *prometheus) query(expression string) ([]map[string]string, error) {
	text, err := fetch("http://" + p.address + "/api/v1/query?" + url.Values{"query": {expression}}.Encode())
	var answer struct {
		Status, Error string
		Data          struct {
			Result []struct{ Metric map[string]string }
		}
	}
	if jsonErr := json.Unmarshal([]byte(text), &answer); jsonErr != nil {
		return nil, errors.Join(err, jsonErr)
	}
	if answer.Status != "success" {
		return nil, fmt.Errorf("%s: %s", expression, answer.Error)
	}
	var series []map[string]string
	for _, r := range answer.Data.Result {
		series = append(series, r.Metric)
	}
	return series, nil
}

// fetch reads a page, also that of an error.
func fetch(address string) (string, error) {
	r, err := http.Get(address)
	if err != nil {
		return "", err
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	return string(b), err
}

// dashboard returns the expressions of the dashboard, by panel, as Grafana would
// ask for them.
func dashboard(t *testing.T) map[string][]string {
	t.Helper()
	var d struct {
		Panels []struct {
			Type, Title string
			Targets     []struct{ Expr string }
		}
	}
	if err := json.Unmarshal([]byte(contrib(t, "grafana/dashboard.json")), &d); err != nil {
		t.Fatalf("dashboard.json: %v", err)
	}
	variables := strings.NewReplacer("$__rate_interval", "1m", "$__range", "1h", "$instance", ".*")
	of := map[string][]string{}
	for _, p := range d.Panels {
		if (p.Type == "row") != (len(p.Targets) == 0) || of[p.Title] != nil {
			t.Errorf("panel %q: %d expressions, or not the only one of its name", p.Title, len(p.Targets))
		}
		for _, target := range p.Targets {
			of[p.Title] = append(of[p.Title], variables.Replace(target.Expr))
		}
	}
	return of
}

// TestContribGrafanaWithADaemon asks a real Prometheus for all that the
// dashboard shows and the alerts go by, when a daemon has signed one message and
// left another unsigned. Its keeper is off, as there is no DNS to look at.
func TestContribGrafanaWithADaemon(t *testing.T) {
	require(t, prometheusUnpacked)
	t.Parallel()
	dir := shortDir(t)
	keys := newKeystore(t, dir, "example.com")
	socket, metrics := "unix:"+filepath.Join(dir, "s"), loopback(freePort(t))
	serve(t, daemonOptions{}, "--config", configure(t, filepath.Join(dir, "waxseal.toml"), fmt.Sprintf(
		"[listen.milter]\naddress = %q\n[keystore]\nurl = %q\n[metrics]\naddress = %q\nper_domain = true\n[keeper]\nenabled = false\n", socket, "dir:"+keys.dir, "inet:"+metrics)))

	p := startPrometheus(t, metrics)
	eventually(t, "Prometheus has asked waxseal", func() bool {
		series, _ := p.query(`waxseal_messages_total{outcome="signed"} == 0`)
		return len(series) == 1
	})
	if m := signByMilter(t, socket, header, "Hello.\r\n"); len(m.signatures()) == 0 {
		t.Fatalf("not signed:\n%s", m.text)
	}
	leaveUnsigned(t, socket, "example.org")

	alerts := regexp.MustCompile(`(?ms)^ +expr: (?:>-\n)?(.*?)\n +(?:for|labels):`).FindAllStringSubmatch(contrib(t, "grafana/alerts.yml"), -1)
	var expressions []string
	for _, m := range alerts {
		expressions = append(expressions, m[1])
	}
	if n := strings.Count(contrib(t, "grafana/alerts.yml"), "- alert:"); len(expressions) != n {
		t.Fatalf("%d expressions of %d alerts", len(expressions), n)
	}
	panels := dashboard(t)
	for title, all := range panels {
		expressions = append(expressions, all...)
		for _, e := range all {
			if title == "Since the last round" { // there was none
				continue
			}
			eventually(t, fmt.Sprintf("panel %q has something to show: %s", title, e), func() bool {
				series, err := p.query(e)
				if err != nil {
					t.Fatal(err)
				}
				return len(series) > 0
			})
		}
	}
	if len(panels) < 20 {
		t.Errorf("only %d panels", len(panels))
	}

	page, err := fetch("http://" + metrics + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	name := regexp.MustCompile(`\b(?:waxseal|process)_[a-z_]+`)
	known := name.FindAllString(page, -1)
	for _, e := range expressions {
		if _, err := p.query(e); err != nil {
			t.Error(err)
		}
		for _, n := range name.FindAllString(e, -1) {
			if !slices.Contains(known, n) {
				t.Errorf("no metric %s, in %s", n, e)
			}
		}
	}
	eventually(t, "the alert of unsigned mail fires", func() bool {
		series, _ := p.query(`ALERTS{alertname="WaxsealMailUnsigned", alertstate="firing", cause="no_key", severity="warning"}`)
		return len(series) == 1
	})
	if series, _ := p.query(`ALERTS{alertname!="WaxsealMailUnsigned", alertstate="firing"}`); len(series) > 0 {
		t.Errorf("alerts without a reason: %v", series)
	}
}

// leaveUnsigned hands a message in for whose author there is no key.
func leaveUnsigned(t *testing.T, socket, domain string) {
	t.Helper()
	m := signByMilter(t, socket, strings.Replace(header, "ann@example.com", "ann@"+domain, 1), "Hello.\r\n")
	checkUnsigned(t, m)
}
