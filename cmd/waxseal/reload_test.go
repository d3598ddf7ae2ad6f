package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"waxseal/milter/policy"
)

// service is serve in this process.
type service struct {
	t      testing.TB
	config string
	hup    chan os.Signal
	stop   func()

	mu  sync.Mutex
	log bytes.Buffer // guarded by mu
}

func (s *service) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.log.Write(p)
}

func (s *service) logged() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.log.String()
}

func (s *service) wait(what string, there func() bool) {
	s.t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !there(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			s.t.Fatalf("not seen: %s\nlog:\n%s", what, s.logged())
		}
	}
}

// lines waits until n lines with this message are in the log.
func (s *service) lines(n int, message string) {
	s.t.Helper()
	s.wait(fmt.Sprintf("%d times %q in the log", n, message), func() bool { return strings.Count(s.logged(), message) >= n })
	if got := strings.Count(s.logged(), message); got != n {
		s.t.Fatalf("%q stands %d times in the log, want %d:\n%s", message, got, n, s.logged())
	}
}

const (
	reloaded   = "msg=reloaded"
	staysOn    = "the old one stays in force"
	goodConfig = "[origin]\nnetworks = [\"192.0.2.0/24\"]\n"
	nextConfig = "[origin]\nnetworks = [\"198.51.100.0/24\"]\n"
	badConfig  = "[origin]\nnetwork = []\n"
)

// startService serves with the configuration file at this path, and waits until
// it is ready.
func startService(t testing.TB, config string) *service {
	t.Helper()
	c := newCLI(t)
	c.ok("", "key import example.com s ../../testdata/keys/rsa-2048.pem")
	s := &service{t: t, config: config, hup: make(chan os.Signal, 1)}
	a := &app{stdin: strings.NewReader(""), stdout: &bytes.Buffer{}, stderr: s, now: time.Now, keystore: c.store, configFile: config}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	socket := filepath.Join(t.TempDir(), "s")
	go func() { ended <- a.serve(ctx, []string{"unix:" + socket}, "", nil, s.hup) }()
	s.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("serve: %v\n%s", err, s.logged())
		}
	})
	t.Cleanup(s.stop)
	s.lines(1, "msg=started")
	return s
}

// manager is a service manager that collects what it is told.
type manager struct {
	conn *net.UnixConn

	mu     sync.Mutex
	states []string // guarded by mu
}

func startManager(t *testing.T) *manager {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	must(t, err)
	t.Setenv("NOTIFY_SOCKET", socket)
	m := &manager{conn: conn}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for b := make([]byte, 4096); ; {
			n, err := conn.Read(b)
			if err != nil {
				return
			}
			m.mu.Lock()
			m.states = append(m.states, string(b[:n]))
			m.mu.Unlock()
		}
	}()
	t.Cleanup(func() { conn.Close(); <-ended })
	return m
}

// told returns what there was so far, the watchdog's pings apart.
func (m *manager) told() (states []string, pings int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	states = slices.DeleteFunc(slices.Clone(m.states), func(state string) bool { return state == "WATCHDOG=1" })
	return states, len(m.states) - len(states)
}

func save(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// replace saves a file as most editors do.
func replace(t testing.TB, path, text string) {
	t.Helper()
	save(t, path+".new", text)
	must(t, os.Rename(path+".new", path))
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestTheServiceManagerIsTold(t *testing.T) {
	t.Setenv("WATCHDOG_USEC", "100000")
	t.Setenv("WATCHDOG_PID", strconv.Itoa(os.Getpid()))
	m := startManager(t)
	s := startService(t, writeFile(t, "waxseal.toml", goodConfig))
	const stamp = `\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\S*`
	seen := 0
	next := func(pattern string) string {
		t.Helper()
		var states []string
		s.wait(pattern, func() bool { states, _ = m.told(); return len(states) > seen })
		got := states[seen]
		seen++
		if !regexp.MustCompile("^" + pattern + "$").MatchString(got) {
			t.Errorf("systemd was told %q, want %q", got, pattern)
		}
		return got
	}
	next(`READY=1\nSTATUS=signing; configuration of ` + stamp + ` in force`)

	before, ok := monotonicUsec()
	if !ok {
		t.Skip("no monotonic clock that systemd shares")
	}
	s.hup <- os.Interrupt
	_, at, _ := strings.Cut(next(`RELOADING=1\nMONOTONIC_USEC=\d+`), "USEC=")
	after, _ := monotonicUsec()
	if usec, err := strconv.ParseInt(at, 10, 64); err != nil || usec < before || usec > after {
		t.Errorf("the reload was at %s, want %d to %d", at, before, after)
	}
	next(`READY=1\nSTATUS=signing; configuration of ` + stamp + ` in force`)

	replace(t, s.config, badConfig)
	next(`RELOADING=1\n.*`)
	next(`READY=1\nSTATUS=signing; new configuration is broken since ` + stamp + `: ` + regexp.QuoteMeta(s.config) + `:2: origin.network: .*; the old one of ` + stamp + ` stays in force`)

	replace(t, s.config, goodConfig+"[limits]\nconnections = 7\n")
	next(`RELOADING=1\n.*`)
	next(`READY=1\nSTATUS=signing; configuration of ` + stamp + ` in force; restart to change limits.connections`)

	_, pings := m.told()
	s.wait("the watchdog's pings", func() bool { _, now := m.told(); return now > pings+1 })
	s.stop()
	next(`STOPPING=1\nSTATUS=stopping, 0 messages under way`)
	if rest, _ := m.told(); len(rest) > seen {
		t.Errorf("systemd was told more: %q", rest[seen:])
	}
}

func TestTheWatchdogIsSilentWhenTheServiceIsIll(t *testing.T) {
	m := startManager(t)
	t.Setenv("WATCHDOG_USEC", "20000")
	var stderr bytes.Buffer
	n := notifier{buildLog(&stderr, LogConfig{}, nil)}
	ctx, cancel := context.WithCancel(context.Background())
	checks := 0
	n.watchdog(ctx, func() error {
		if checks++; checks == 5 {
			cancel()
		}
		return os.ErrInvalid
	})
	time.Sleep(20 * time.Millisecond)
	if states, pings := m.told(); len(states)+pings > 0 {
		t.Errorf("systemd was told %q, and %d pings", states, pings)
	}
	if strings.Count(stderr.String(), "service is ill") != 1 {
		t.Errorf("the log does not say it once:\n%s", stderr.String())
	}
}

func TestChangesOfTheFileAreSeen(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name   string
		before func(t *testing.T, dir string) (config string)
		change func(t *testing.T, dir string)
	}{
		{"written in place", plainFile, func(t *testing.T, dir string) {
			save(t, filepath.Join(dir, "waxseal.toml"), nextConfig)
		}},
		{"renamed over", plainFile, func(t *testing.T, dir string) {
			replace(t, filepath.Join(dir, "waxseal.toml"), nextConfig)
		}},
		{"moved away and written anew", plainFile, func(t *testing.T, dir string) {
			file := filepath.Join(dir, "waxseal.toml")
			must(t, os.Rename(file, file+"~"))
			save(t, file, nextConfig)
		}},
		{"a mounted configuration is switched", func(t *testing.T, dir string) string {
			must(t, os.Mkdir(filepath.Join(dir, "..1"), 0o755))
			save(t, filepath.Join(dir, "..1", "waxseal.toml"), goodConfig)
			must(t, os.Symlink("..1", filepath.Join(dir, "..data")))
			must(t, os.Symlink("..data/waxseal.toml", filepath.Join(dir, "waxseal.toml")))
			return filepath.Join(dir, "waxseal.toml")
		}, func(t *testing.T, dir string) {
			must(t, os.Mkdir(filepath.Join(dir, "..2"), 0o755))
			save(t, filepath.Join(dir, "..2", "waxseal.toml"), nextConfig)
			must(t, os.Symlink("..2", filepath.Join(dir, "..tmp")))
			must(t, os.Rename(filepath.Join(dir, "..tmp"), filepath.Join(dir, "..data")))
		}},
		{"a link elsewhere is switched, on the way", func(t *testing.T, dir string) string {
			for release, text := range map[string]string{"1": goodConfig, "2": nextConfig} {
				must(t, os.MkdirAll(filepath.Join(dir, "releases", release), 0o755))
				save(t, filepath.Join(dir, "releases", release, "c.toml"), text)
			}
			must(t, os.Mkdir(filepath.Join(dir, "etc"), 0o755))
			must(t, os.Symlink(filepath.Join(dir, "releases", "1"), filepath.Join(dir, "current")))
			must(t, os.Symlink("../current/c.toml", filepath.Join(dir, "etc", "waxseal.toml")))
			return filepath.Join(dir, "etc", "waxseal.toml")
		}, func(t *testing.T, dir string) {
			must(t, os.Symlink("releases/2", filepath.Join(dir, "tmp")))
			must(t, os.Rename(filepath.Join(dir, "tmp"), filepath.Join(dir, "current")))
		}},
		{"its directory is replaced", func(t *testing.T, dir string) string {
			must(t, os.Mkdir(filepath.Join(dir, "etc"), 0o755))
			save(t, filepath.Join(dir, "etc", "waxseal.toml"), goodConfig)
			return filepath.Join(dir, "etc", "waxseal.toml")
		}, func(t *testing.T, dir string) {
			must(t, os.Rename(filepath.Join(dir, "etc"), filepath.Join(dir, "old")))
			must(t, os.Mkdir(filepath.Join(dir, "etc"), 0o755))
			save(t, filepath.Join(dir, "etc", "waxseal.toml"), nextConfig)
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			s := startService(t, test.before(t, dir))
			test.change(t, dir)
			s.lines(1, reloaded)
			if !strings.Contains(s.logged(), "changed=origin.networks") || strings.Contains(s.logged(), staysOn) {
				t.Errorf("the log says\n%s", s.logged())
			}
			// The watch goes on from where the file is now.
			replace(t, s.config, goodConfig)
			s.lines(2, reloaded)
		})
	}
}

func plainFile(t *testing.T, dir string) string {
	save(t, filepath.Join(dir, "waxseal.toml"), goodConfig)
	return filepath.Join(dir, "waxseal.toml")
}

func TestABrokenFileIsToldOnceAndMendedByTheNext(t *testing.T) {
	t.Parallel()
	s := startService(t, writeFile(t, "waxseal.toml", goodConfig))
	replace(t, s.config, badConfig)
	s.lines(1, staysOn)
	if !strings.Contains(s.logged(), s.config+":2: origin.network") {
		t.Errorf("the log does not say where:\n%s", s.logged())
	}
	must(t, os.Chtimes(s.config, time.Now(), time.Now()))
	save(t, s.config, badConfig)
	time.Sleep(3 * watchSettle)
	s.lines(1, staysOn)
	s.hup <- os.Interrupt // who asks is answered
	s.lines(2, staysOn)
	save(t, s.config, goodConfig)
	s.lines(1, reloaded)
	s.lines(2, staysOn)
}

func TestAHalfSavedFileTakesNoEffect(t *testing.T) {
	t.Parallel()
	s := startService(t, writeFile(t, "waxseal.toml", goodConfig))
	f, err := os.OpenFile(s.config, os.O_WRONLY|os.O_TRUNC, 0)
	must(t, err)
	defer f.Close()
	for _, part := range []string{"", "[limits]\nheader_fields = 30", "00\nconnec", "tions = 10", "0\n"} {
		_, err := f.WriteString(part)
		must(t, err)
		time.Sleep(5 * watchSettle / 2)
	}
	s.lines(1, reloaded)
	if !strings.Contains(s.logged(), "changed=limits.connections,limits.header_fields,origin.networks") || strings.Contains(s.logged(), staysOn) {
		t.Errorf("the log says\n%s", s.logged())
	}
	// Gone or empty says nothing of what is wanted, whatever the time it takes.
	must(t, os.Remove(s.config))
	s.lines(1, staysOn)
	save(t, s.config, "\n")
	s.lines(2, staysOn)
	for _, want := range []string{"the file is gone", "the file is empty"} {
		if !strings.Contains(s.logged(), want) {
			t.Errorf("the log does not say %q:\n%s", want, s.logged())
		}
	}
	s.lines(1, reloaded)
	s.hup <- os.Interrupt // unless it is meant
	s.lines(2, reloaded)
	// Some editors leave out the last line end.
	save(t, s.config, strings.TrimSpace(goodConfig))
	s.lines(3, reloaded)
}

func TestAFileThatComesLaterIsSeen(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "etc", "waxseal", "waxseal.toml")
	changed := make(chan saved)
	w := &watcher{path: file, tried: func() saved { return saved{absent: true} }, changed: changed, log: buildLog(os.Stderr, LogConfig{}, nil)}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { w.run(ctx); close(ended) }()
	defer func() { cancel(); <-ended }()
	time.Sleep(2 * watchSettle)
	must(t, os.Mkdir(filepath.Join(dir, "etc"), 0o755))
	time.Sleep(2 * watchSettle)
	must(t, os.Mkdir(filepath.Join(dir, "etc", "waxseal"), 0o755))
	time.Sleep(2 * watchSettle)
	save(t, file, goodConfig)
	select {
	case got := <-changed:
		if got.text != goodConfig {
			t.Errorf("got %+v", got)
		}
	case <-time.After(5 * time.Second):
		t.Error("the file was not seen")
	}
}

func TestARestartStaysWanted(t *testing.T) {
	t.Parallel()
	s := startService(t, writeFile(t, "waxseal.toml", goodConfig+"[limits]\nconnections = 7\n"))
	const wanted = "setting=limits.connections"
	save(t, s.config, goodConfig+"[limits]\nconnections = 8\n")
	s.lines(1, wanted)
	s.hup <- os.Interrupt // it is still not in force
	s.lines(2, wanted)
	save(t, s.config, goodConfig+"[limits]\nconnections = 7\n")
	s.lines(3, reloaded)
	s.lines(2, wanted)
}

func TestTheStateOfReloads(t *testing.T) {
	file := writeFile(t, "waxseal.toml", badConfig)
	var stderr bytes.Buffer
	now := time.Unix(1000, 0)
	a := &app{stderr: &stderr, now: func() time.Time { return now }, configFile: file}
	log := buildLog(&stderr, LogConfig{}, nil)
	r := &reloader{app: a, reloaded: func(bool) {}, path: file, log: log, notify: notifier{log}, state: new(reloadState)}
	config, err := decodeConfig(file, "")
	must(t, err)
	r.begin(config, nil)
	if st := r.state; !st.ok.Load() || st.last.Load() != now.UnixNano() || st.inForce.Load() != now.UnixNano() {
		t.Error("the start does not count as the first configuration in force")
	}
	begun := now
	for range 2 {
		now = now.Add(time.Minute)
		r.bySignal()
	}
	if st := r.state; st.ok.Load() || st.refused.Load() != 2 || st.taken.Load() != 0 || st.last.Load() != now.UnixNano() || st.inForce.Load() != begun.UnixNano() {
		t.Errorf("after two broken ones: ok %v, refused %d, taken %d", st.ok.Load(), st.refused.Load(), st.taken.Load())
	}
	if want := begun.Add(time.Minute).Format(time.RFC3339); !strings.Contains(r.status(), "broken since "+want) {
		t.Errorf("status %q, want broken since %s", r.status(), want)
	}
}

func TestChangedSettingsAreNamed(t *testing.T) {
	decode := func(text string) *Config {
		d, err := decodeConfig("waxseal.toml", text)
		must(t, err)
		return &d.Config
	}
	for _, test := range []struct{ name, old, new, want string }{
		{"nothing", goodConfig, goodConfig, ""},
		{"a default written out is no change", "", "[log]\nformat = \"text\"\n", ""},
		{"values of every kind", "", "[origin]\nlogin = false\n[signing]\ncanonicalization = \"simple/simple\"\nexpiry = \"9d\"\n[log]\nlevel = \"debug\"\n", "log.level,origin.login,signing.canonicalization,signing.expiry"},
		{"listeners", "[listen.a]\naddress = \"unix:/a\"\n[listen.b]\naddress = \"unix:/b\"\n", "[listen.b]\naddress = \"unix:/c\"\n[listen.d]\naddress = \"unix:/d\"\n", "listen.a,listen.b.address,listen.d"},
	} {
		if got := strings.Join(changedSettings(decode(test.old), decode(test.new)), ","); got != test.want {
			t.Errorf("%s: got %q, want %q", test.name, got, test.want)
		}
	}
}

// A listener stays open until the restart, and so its rules stay with it: the
// rules for all would trust others than it was made for.
func TestAListenerThatIsTakenOutKeepsItsRules(t *testing.T) {
	const relay = "[listen.relay]\naddress = \"unix:/s\"\n[listen.relay.origin]\nnetworks = [\"192.0.2.0/24\"]\n"
	const general, changed = "[log]\nlevel = \"warn\"\n", "[listen.relay]\naddress = \"unix:/s\"\n[listen.relay.origin]\nnetworks = [\"198.51.100.0/24\"]\n"
	decode := func(text string) *decoded {
		d, err := decodeConfig("waxseal.toml", text)
		must(t, err)
		return d
	}
	ours := func(d *decoded, client string) bool {
		t.Helper()
		settings, err := buildSettings(d)
		must(t, err)
		return settings.Rules.Origin(policy.Connection{Listener: "relay", Client: netip.MustParseAddr(client)}, "").Ours
	}
	first := decode(relay)
	second := withOldListeners(decode(general), first.Listen)
	if ours(second, "127.0.0.1") || !ours(second, "192.0.2.1") {
		t.Error("a listener that was taken out has the rules for all")
	}
	third := withOldListeners(decode(general), second.Listen)
	if ours(third, "127.0.0.1") || !ours(third, "192.0.2.1") {
		t.Error("a listener that was taken out has the rules for all after the next reload")
	}
	fourth := withOldListeners(decode(changed), third.Listen)
	if ours(fourth, "192.0.2.1") || !ours(fourth, "198.51.100.1") {
		t.Error("a listener that came back has its old rules")
	}
	fifth := withOldListeners(decode("[listen.relay]\naddress = \"unix:/s\"\n"), fourth.Listen)
	if !ours(fifth, "127.0.0.1") {
		t.Error("a listener that shall go by the rules for all does not")
	}
}
