package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/activation"
	"github.com/spf13/cobra"

	"waxseal/milter"
)

func (a *app) serveCommand() *cobra.Command {
	var listen []string
	var dev string
	c := &cobra.Command{
		Use:   "serve",
		Short: "Run the milter in the foreground",
		Long: `Run the milter in the foreground, logging to standard error. When its file
changes, or by SIGHUP, the configuration is read again; a broken one leaves the
old one in force. SIGTERM and SIGINT stop taking mail, finish the messages under
way and exit. Sockets that systemd hands over are served in place of the
listener of the same name or address. Where the kernel has Landlock, the daemon
gives up what its configuration does not need ([confine]).

Addresses are unix:PATH, inet:HOST:PORT and inet6:[HOST]:PORT, also in
Sendmail's spelling local:PATH and inet:PORT@HOST. Flags win over the file, but a
listener of the file whose address is given keeps its other settings.

With --dev it needs no set-up: it makes keys for the domain in ./waxseal-dev,
prints their DNS records and how to wire the mail server, and listens on
inet:127.0.0.1:8891.`,
		Example: `  waxseal serve
  waxseal serve --keystore /var/lib/waxseal/keys --listen unix:/run/waxseal/milter.sock
  waxseal serve --dev example.com`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := a.confine(listen, dev); err != nil {
				return err
			}
			// A service manager may ask for a stop before we are ready. Each
			// kind has its own channel, so that none crowds out the other.
			stop, reload := make(chan os.Signal, 1), make(chan os.Signal, 1)
			signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
			signal.Notify(reload, syscall.SIGHUP)
			defer signal.Stop(stop)
			defer signal.Stop(reload)
			return a.serve(c.Context(), listen, dev, stop, reload)
		},
	}
	a.storeFlags(c)
	c.Flags().StringArrayVar(&listen, "listen", nil, "listen at this `address` instead of the configured ones; may be repeated")
	c.Flags().StringVar(&dev, "dev", "", "run for this `domain` without any set-up")
	return c
}

// serveConfig reads the configuration as the flags of serve change it.
func (a *app) serveConfig(listen []string, dev string) (*decoded, error) {
	if dev != "" {
		if a.keystore == "" {
			a.keystore = "dir:" + devKeystore
		}
		if len(listen) == 0 {
			listen = []string{devAddress}
		}
	}
	var d *decoded
	var err error
	if dev != "" && a.configFile == "" {
		d, err = decodeConfig(defaultConfigFile, "") // the machine's own set-up is not for trying things
		if err == nil {
			d.Keystore.URL = a.keystore
			d.flags["keystore.url"] = "--keystore"
			d.Keeper.Enabled = false // its keys are in no DNS
		}
	} else {
		d, err = a.loadConfig()
	}
	if err != nil {
		return nil, err
	}
	if len(listen) > 0 {
		configured := d.Listen
		d.Listen = map[string]ListenConfig{}
		for i, given := range listen {
			c := defaultListen()
			if err := c.Address.set(given); err != nil {
				return nil, misused(fmt.Errorf("--listen: %w", err))
			}
			name := "milter"
			if i > 0 {
				name = fmt.Sprintf("milter%d", i+1)
			}
			if configured[name].Origin != nil {
				name = "listen-" + name // not the one whose rules these are
			}
			// At a configured address it is that listener, with all its settings.
			for _, n := range sortedKeys(configured) {
				if configured[n].Address.Address == c.Address.Address {
					name, c = n, configured[n]
				}
			}
			d.Listen[name] = c
			d.flags["listen."+name] = "--listen " + given
		}
		for _, n := range sortedKeys(configured) {
			if _, ok := d.Listen[n]; !ok && configured[n].Origin != nil {
				d.unused = append(d.unused, n)
			}
		}
	}
	return d, nil
}

// serve runs the daemon until a signal or the context ends it.
func (a *app) serve(ctx context.Context, listen []string, dev string, stop, reload <-chan os.Signal) error {
	reloads := &reloader{app: a, listen: listen, dev: dev, path: a.watchedFile(dev), state: new(reloadState)}
	first := reloads.saved() // before it is decoded, so that no change is missed
	reloads.lastTried.Store(&first)
	config, err := a.serveConfig(listen, dev)
	if err != nil {
		return err
	}
	if dev != "" {
		if err := a.prepareDev(ctx, config, dev); err != nil {
			return err
		}
	} else if a.configFile == "" && a.keystore == "" && (first.absent || untouched(defaultConfigFile)) {
		if err := nothingSetUp(strings.TrimPrefix(config.Keystore.URL, "dir:")); err != nil {
			return err
		}
	}
	level := new(slog.LevelVar)
	level.Set(slog.Level(config.Log.Level))
	log := buildLog(a.stderr, config.Log, level)
	for _, w := range warnings(config) {
		log.Warn("configuration", w.logged()...)
	}
	if err := a.confined.tell(config, log); err != nil {
		return err
	}
	current, err := build(config, a.now, func(what string, err error) { log.Warn(what, "err", err) })
	if err != nil {
		return err
	}
	defer func() { current.close() }()
	monitor, err := startMonitor(config, log)
	if err != nil {
		return err
	}
	defer monitor.close()
	listeners, err := a.listeners(config)
	if err != nil {
		return err
	}

	server := milter.New(current.settings, milter.Options{
		Log:           log,
		Connections:   config.Limits.Connections,
		IdleTimeout:   time.Duration(config.Limits.IdleTimeout),
		PacketTimeout: time.Duration(config.Limits.PacketTimeout),
		Now:           a.now,
		Collector:     monitor.milterCollector(),
	})
	// The heap is a few megabytes, so letting it grow to two and a half times
	// what is in use costs little memory, and saves work of the collector.
	debug.SetGCPercent(150)

	ended := make(chan error, len(listeners))
	for _, l := range listeners {
		go func() { ended <- server.Serve(l.name, l.Listener) }()
		log.Info("listening", "listener", l.name, "address", l.address.Postfix())
	}
	if year := a.now().Year(); year < 2020 || year > 2100 {
		log.Warn("the clock is wrong, and with it the time in every signature", "now", a.now())
	}
	log.Info("started", "version", version(), "keystore", config.Keystore.URL, "rsa", current.engine.Describe())
	keys := &keeping{store: current.store, now: a.now, by: "keeper@" + hostname(), log: log}
	defer keys.close()
	keys.use(config)
	monitor.serving(current, keys)

	reloads.log, reloads.level, reloads.server, reloads.notify = log, level, server, notifier{log}
	reloads.reloaded, reloads.keys = monitor.reloaded, keys
	reloads.begin(config, current)
	var stopping atomic.Bool
	var helpers sync.WaitGroup
	helping, dismiss := context.WithCancel(context.WithoutCancel(ctx))
	defer helpers.Wait()
	defer dismiss()
	helpers.Go(func() {
		reloads.notify.watchdog(helping, func() error {
			if len(ended) > 0 && !stopping.Load() {
				return errors.New("a listener has ended, and nobody took notice")
			}
			return server.Check()
		})
	})
	node := nodeName(config)
	helpers.Go(func() { beats(helping, current, node, a.now, log) })
	watch := &watcher{path: reloads.path, tried: reloads.tried, changed: make(chan saved), log: log}
	if watch.path != "" {
		helpers.Go(func() { watch.run(helping) })
	}
	store := current.store
	helpers.Go(func() {
		if names, err := store.List(helping, "", 1); err == nil && len(names) == 0 {
			log.Warn("the keystore has no domain yet, so nothing will be signed", "hint", "waxseal key new example.com"+a.flags())
		}
	})
	reloads.notify.ready(reloads.status())

	for {
		select {
		case <-reload:
			reloads.bySignal()
			continue
		case seen := <-watch.changed:
			reloads.byWatch(seen)
			continue
		case s := <-stop:
			log.Info("stopping", "signal", s.String())
		case <-ctx.Done():
			log.Info("stopping")
		case err = <-ended:
			log.Error("listener ended", "err", err)
		}
		break
	}
	monitor.stopping()
	stopping.Store(true)
	reloads.notify.stopping(stoppingStatus(server.UnderWay()))
	config = reloads.config
	wait, cancel := context.WithTimeout(context.Background(), time.Duration(config.Limits.StopTimeout))
	defer cancel()
	if late := server.Shutdown(wait); late != nil {
		log.Warn("messages under way did not finish in time, their connections were closed", "stop_timeout", config.Limits.StopTimeout.String())
	}
	stats := server.Stats()
	log.Info("stopped", "signed", stats.Signed.Load(), "unsigned", stats.Unsigned.Load(), "not_ours", stats.NotOurs.Load(),
		"tempfailed", stats.Tempfailed.Load(), "rejected", stats.Rejected.Load(), "malformed", stats.Malformed.Load(), "panics", stats.Panics.Load())
	return err
}

// nothingSetUp is an error that says how to begin, unless the keystore is there.
func nothingSetUp(keystore string) error {
	if _, err := os.Stat(keystore); !errors.Is(err, fs.ErrNotExist) {
		return nil // what is wrong with it is told elsewhere
	}
	first := "waxseal key new example.com"
	if parent := filepath.Dir(keystore); !exists(parent) {
		first = "mkdir " + parent + " && " + first
	}
	return withHint(fmt.Errorf("nothing is set up: there is no keystore %s, and nothing in %s", keystore, defaultConfigFile),
		"three commands get you going:\n  %s    # prints the DNS record to publish\n  waxseal serve     # signs as soon as all the world can see the record\n"+
			"  waxseal doctor    # says what the mail server still needs\nor try it with no set-up at all: waxseal serve --dev example.com", first)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// listeners opens the configured sockets and takes those that systemd hands
// over. With the latter, none need be configured.
func (a *app) listeners(config *decoded) ([]namedListener, error) {
	handed, err := activation.ListenersWithNames()
	if err != nil {
		return nil, fmt.Errorf("sockets from systemd: %w", err)
	}
	wanted := *config
	wanted.Listen = maps.Clone(config.Listen)
	var all []namedListener
	for name, listeners := range handed {
		for i, l := range listeners {
			if l == nil {
				return nil, fmt.Errorf("socket %s from systemd is no stream socket", name)
			}
			address := addressOf(l)
			n := listenerOf(config, name, i, address)
			if address.IsRemote() && !config.Listen[n].AllowRemote {
				return nil, withHint(fmt.Errorf("socket %s from systemd: %s can be reached from other machines, and whoever can connect can have mail signed", n, address.Address),
					"set allow_remote = true in [listen.%s] if a firewall guards it", n)
			}
			all = append(all, namedListener{n, l, address})
			maps.DeleteFunc(wanted.Listen, func(configured string, c ListenConfig) bool {
				return configured == n || c.Address.Address == address
			})
		}
	}
	if len(all) == 0 && len(wanted.Listen) == 0 {
		wanted.Listen = listenersByDefault()
	}
	opened, err := openListeners(&wanted)
	if err != nil {
		return nil, err
	}
	return append(all, opened...), nil
}

// listenerOf returns the name of a socket from systemd, which decides by which
// origin rules its mail is judged: that of the listener with this name, or else
// with this address, or else what systemd calls it, with a number from the
// second one on.
func listenerOf(config *decoded, name string, i int, address milter.Address) string {
	if i > 0 {
		name = fmt.Sprintf("%s.%d", name, i+1)
	}
	if _, ok := config.Listen[name]; ok {
		return name
	}
	for _, configured := range sortedKeys(config.Listen) {
		if config.Listen[configured].Address.Address == address {
			return configured
		}
	}
	return name
}

// addressOf tells where a socket from systemd listens.
func addressOf(l net.Listener) milter.Address {
	network := l.Addr().Network()
	if tcp, ok := l.Addr().(*net.TCPAddr); ok {
		network = "tcp6"
		if tcp.IP.To4() != nil {
			network = "tcp4"
		}
	}
	return milter.Address{Network: network, Address: l.Addr().String()}
}
