package main

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/BurntSushi/toml"

	"waxseal/milter"
)

// reloadState is what has become of the configuration so far. All of it may be
// read at any time, such as by metrics.
type reloadState struct {
	ok      atomic.Bool  // the last reload took, or there was none
	last    atomic.Int64 // when it was, or the start; Unix time in nanoseconds
	inForce atomic.Int64 // since when the configuration in force is
	taken   atomic.Int64 // reloads that took
	refused atomic.Int64 // reloads of a broken configuration
}

// reloader puts changed configurations in force. Its methods are called by one
// goroutine, except tried and state.
type reloader struct {
	app    *app
	listen []string // the flags
	dev    string
	path   string // the file to watch, "" for none

	log    *slog.Logger
	level  *slog.LevelVar
	server *milter.Server
	live   *live
	notify notifier

	reloaded func(ok bool) // is told of each reload
	keys     *keeping

	started *decoded                // what needs a restart is still as in this
	open    map[string]ListenConfig // the listeners that rules are known for, those taken out included
	config  *decoded                // what is in force
	pending []string                // what differs between the two and needs a restart
	broken  string                  // the first problem of the last reload
	since   time.Time

	lastTried atomic.Pointer[saved]
	state     *reloadState
}

// watchedFile is the absolute path of the configuration file that serve reads,
// "" if it reads none.
func (a *app) watchedFile(dev string) string {
	path := a.configFile
	switch {
	case path == "" && dev != "":
		return ""
	case path == "":
		path = defaultConfigFile
	}
	path, err := filepath.Abs(path)
	if err != nil || readSaved(path).err != "" {
		return "" // such as a pipe of the shell: nothing will ever change in it
	}
	return path
}

// begin is called when the first configuration is in force.
func (r *reloader) begin(config *decoded, current *live) {
	r.started, r.config, r.live, r.open = config, config, current, config.Listen
	now := r.app.now().UnixNano()
	r.state.ok.Store(true)
	r.state.last.Store(now)
	r.state.inForce.Store(now)
}

// tried is the content of the file when it was last read.
func (r *reloader) tried() saved { return *r.lastTried.Load() }

// status says in a sentence how the service is.
func (r *reloader) status() string {
	of := func(t time.Time) string { return t.Format(time.RFC3339) }
	inForce := time.Unix(0, r.state.inForce.Load())
	s := fmt.Sprintf("signing; configuration of %s in force", of(inForce))
	if r.broken != "" {
		s = fmt.Sprintf("signing; new configuration is broken since %s: %s; the old one of %s stays in force", of(r.since), r.broken, of(inForce))
	}
	if len(r.pending) > 0 {
		s += "; restart to change " + strings.Join(r.pending, ", ")
	}
	return s
}

// bySignal reads the configuration again because the administrator says so:
// whatever is there is meant.
func (r *reloader) bySignal() { r.reload("SIGHUP", false) }

// byWatch reads it again because the file has changed. Where it has changed
// once more since, the watch will tell again.
func (r *reloader) byWatch(seen saved) {
	if seen != r.tried() && seen == readSaved(r.path) {
		r.reload("file changed", true)
	}
}

// reload puts the configuration in force as a whole, or leaves the old one in
// service and says why.
func (r *reloader) reload(cause string, watched bool) {
	r.notify.reloading()
	defer func() { r.notify.ready(r.status()) }()
	now := r.app.now()
	r.state.last.Store(now.UnixNano())
	config, settings, err := r.read(watched)
	if err != nil {
		r.refuse(now, err)
		return
	}
	for _, w := range warnings(config) {
		r.log.Warn("configuration", w.logged()...)
	}
	r.pending = needsRestart(&r.started.Config, &config.Config)
	for _, setting := range r.pending {
		r.log.Warn("reload: this change needs a restart", "setting", setting)
	}
	changed := changedSettings(&r.config.Config, &config.Config)

	// Nothing from here on can go wrong.
	r.live.lookups(settings)
	r.live.settings = settings
	r.server.Use(settings)
	r.live.cache.InvalidateAll()
	r.keys.use(config)
	r.level.Set(slog.Level(config.Log.Level))
	r.config, r.broken, r.open = config, "", withOldListeners(config, r.open).Listen
	r.state.inForce.Store(now.UnixNano())
	r.state.taken.Add(1)
	r.state.ok.Store(true)
	r.reloaded(true)
	r.log.Info("reloaded", "config", config.file, "cause", cause, "changed", strings.Join(changed, ","))
}

// read builds everything that the file asks for, without touching what is in
// service. What it returns was in the file at one time as a whole.
func (r *reloader) read(watched bool) (config *decoded, settings *milter.Settings, err error) {
	const attempts = 5
	for range attempts {
		before := r.saved()
		r.lastTried.Store(&before)
		if err = nil; watched {
			err = r.unmeant(before)
		}
		if err == nil {
			config, err = r.app.serveConfig(r.listen, r.dev)
		}
		if err == nil {
			err = r.app.confined.allows(config)
		}
		if err == nil {
			settings, err = buildSettings(withOldListeners(config, r.open))
		}
		if err == nil {
			err = checkListeners(config)
		}
		if before == r.saved() {
			return config, settings, err
		}
	}
	return nil, nil, problems{{file: r.path, err: errors.New("changes while it is read"), remedy: "send SIGHUP when it is complete"}}
}

// withOldListeners is a configuration with those listeners that it has taken out
// and that have origin rules of their own. They are open until the restart, and
// the rules for all may trust whom they do not.
func withOldListeners(config *decoded, old map[string]ListenConfig) *decoded {
	with := *config
	with.Listen = map[string]ListenConfig{}
	for name, c := range old {
		if c.Origin != nil {
			with.Listen[name] = c
		}
	}
	maps.Copy(with.Listen, config.Listen)
	return &with
}

func (r *reloader) saved() saved {
	if r.path == "" {
		return saved{}
	}
	return readSaved(r.path)
}

// unmeant refuses a file that is gone or empty. At the start, or when asked to
// by a signal, that means the defaults; seen in passing it is more likely an
// accident, and would change whose mail is signed.
func (r *reloader) unmeant(s saved) error {
	const remedy = "save it again; or send SIGHUP if the defaults are meant"
	switch {
	case s.absent:
		return problems{{file: r.path, err: errors.New("the file is gone"), remedy: remedy}}
	case s.err == "" && s.empty():
		return problems{{file: r.path, err: errors.New("the file is empty"), remedy: remedy}}
	}
	return nil
}

// refuse leaves the old configuration in service.
func (r *reloader) refuse(now time.Time, err error) {
	r.log.Error("reload: the new configuration is broken, the old one stays in force; \"waxseal check\" tells more")
	var found problems
	if errors.As(err, &found) {
		r.app.confined.explain(found)
	} else {
		r.log.Error("reload", "err", err)
	}
	for _, p := range found {
		r.log.Error("reload", p.logged()...)
	}
	if r.broken == "" {
		r.since = now
	}
	r.broken = err.Error()
	if len(found) > 0 {
		r.broken = found[0].Error()
	}
	r.state.refused.Add(1)
	r.state.ok.Store(false)
	r.reloaded(false)
}

// needsRestart names the settings that differ and are not taken by a reload.
func needsRestart(old, new *Config) []string {
	var names []string
	add := func(name string, changed bool) {
		if changed {
			names = append(names, name)
		}
	}
	add("keystore", old.Keystore != new.Keystore)
	add("limits.connections", old.Limits.Connections != new.Limits.Connections)
	add("limits.idle_timeout", old.Limits.IdleTimeout != new.Limits.IdleTimeout)
	add("limits.packet_timeout", old.Limits.PacketTimeout != new.Limits.PacketTimeout)
	add("signing.rsa", old.Signing.RSA != new.Signing.RSA)
	add("log.format", old.Log.Format != new.Log.Format)
	add("metrics", old.Metrics != new.Metrics)
	add("confine", !reflect.DeepEqual(old.Confine, new.Confine))
	changed := len(old.Listen) != len(new.Listen)
	for name, is := range new.Listen {
		was, ok := old.Listen[name]
		// What a reload takes:
		for _, c := range []*ListenConfig{&was, &is} {
			c.Origin, c.MTA, c.Masquerade, c.MasqueradeRecipients = nil, "", nil, false
		}
		changed = changed || !ok || !reflect.DeepEqual(was, is)
	}
	add("listen", changed)
	return names
}

var leafType = reflect.TypeFor[toml.Unmarshaler]()

// changedSettings names the settings that differ, so that the log has what a
// reload has done. Their values stay out of it.
func changedSettings(old, new *Config) []string {
	var names []string
	var compare func(prefix string, a, b reflect.Value)
	compare = func(prefix string, a, b reflect.Value) {
		t := a.Type()
		switch {
		case t.Kind() == reflect.Struct && !reflect.PointerTo(t).Implements(leafType):
			for key, i := range fieldsByKey(t) {
				compare(prefix+"."+key, a.Field(i), b.Field(i))
			}
		case t.Kind() == reflect.Map && t.Key().Kind() == reflect.String:
			for _, key := range slices.Concat(a.MapKeys(), b.MapKeys()) {
				in, out := a.MapIndex(key), b.MapIndex(key)
				if in.IsValid() && out.IsValid() {
					compare(prefix+"."+key.String(), in, out)
				} else {
					names = append(names, prefix[1:]+"."+key.String())
				}
			}
		case !reflect.DeepEqual(a.Interface(), b.Interface()):
			names = append(names, prefix[1:])
		}
	}
	compare("", reflect.ValueOf(*old), reflect.ValueOf(*new))
	slices.Sort(names)
	return slices.Compact(names)
}
