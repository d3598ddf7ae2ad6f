package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"time"

	"waxseal/keystore"
	"waxseal/keystore/dns"
	"waxseal/keystore/keeper"
	"waxseal/milter/policy"
)

// This file makes what looks after keys: the DNS checker, the publishers and the
// keeper.

func buildChecker(d *decoded, now clock) (*dns.Checker, error) {
	c, err := dns.NewChecker(dns.CheckerOptions{
		Resolvers: d.DNS.Resolvers,
		Timeout:   time.Duration(d.DNS.Timeout),
		Questions: d.DNS.Questions,
		PerSecond: d.DNS.PerSecond,
		Now:       now,
	})
	if err != nil {
		return nil, problems{d.problem("dns.resolvers", err, `name one: resolvers = ["127.0.0.1"]`)}
	}
	return c, nil
}

// publishers are the ways into DNS, by the zones they are for.
type publishers map[string]publisher

type publisher struct {
	dns.Publisher
	ttl  time.Duration
	name string // of its table
}

// of returns who publishes the record of the given name: that of the nearest
// zone above it.
func (p publishers) of(name string) (dns.Publisher, time.Duration) {
	for {
		if found, ok := p[name]; ok {
			return found.Publisher, found.ttl
		}
		var more bool
		if _, name, more = strings.Cut(name, "."); !more {
			return nil, 0
		}
	}
}

// buildPublishers makes what the [publish] tables ask for.
func buildPublishers(d *decoded) (publishers, problems) {
	var found problems
	all := publishers{}
	for _, name := range sortedKeys(d.Publish) {
		c, key := d.Publish[name], "publish."+name
		p, err := buildPublisher(d, c)
		if err != nil {
			var place *problem
			if errors.As(err, &place) {
				found = append(found, d.problem(key+"."+place.key, place.err, place.remedy))
			} else {
				found = append(found, d.problem(key, err, ""))
			}
			continue
		}
		if len(c.Zones) == 0 {
			found = append(found, d.problem(key, errors.New("no zones"), `add zones = ["example.com"]`))
		}
		for _, given := range c.Zones {
			zone, err := policy.Domain(given)
			if err != nil {
				found = append(found, d.problem(key+".zones", err, ""))
			} else if other, ok := all[zone]; ok {
				found = append(found, d.problem(key+".zones", fmt.Errorf("%s is in publish.%s, too", zone, other.name), "leave it out of one of them"))
			} else {
				all[zone] = publisher{p, time.Duration(c.TTL), name}
			}
		}
	}
	return all, found
}

// buildPublisher makes one. Its error may be a problem with a key of the table.
func buildPublisher(d *decoded, c PublishConfig) (dns.Publisher, error) {
	if t := time.Duration(c.Timeout); t < time.Second {
		return nil, &problem{key: "timeout", err: fmt.Errorf("%s, want at least 1s", c.Timeout)}
	}
	if t := time.Duration(c.TTL); t < time.Second || t > 7*24*time.Hour {
		return nil, &problem{key: "ttl", err: fmt.Errorf("%s, want 1s to 7d", c.TTL)}
	}
	if len(c.Command) > 0 {
		if c.Server != "" || c.TSIGKey != "" {
			return nil, &problem{key: "command", err: errors.New("both a command and a server or its key"), remedy: "leave out one of them"}
		}
		return &dns.Hook{Command: c.Command, Timeout: time.Duration(c.Timeout)}, nil
	}
	o := dns.UpdateOptions{Server: c.Server, Zone: c.Apex, Timeout: time.Duration(c.Timeout), Resolvers: d.DNS.Resolvers}
	if c.TSIGKey == "" {
		return nil, &problem{key: "tsig_key", err: errors.New("dynamic updates without a key: whoever reaches the server could change the zone"),
			remedy: "make one with \"tsig-keygen waxseal\", tell it to the name server, and name its file here"}
	}
	var err error
	if o.Key, err = dns.ReadTSIGKey(c.TSIGKey); err != nil {
		return nil, &problem{key: "tsig_key", err: err}
	}
	u, err := dns.NewUpdate(o)
	if err != nil {
		return nil, &problem{key: "server", err: err}
	}
	return u, nil
}

// keeperProblems finds what is wrong with the [dns] and [keeper] tables.
func keeperProblems(d *decoded) problems {
	var found problems
	add := func(key string, err error, remedy string) { found = append(found, d.problem(key, err, remedy)) }
	for _, n := range []struct {
		key         string
		value, most int
	}{{"dns.questions", d.DNS.Questions, 1000}, {"dns.per_second", d.DNS.PerSecond, 100_000}} {
		if n.value < 1 || n.value > n.most {
			add(n.key, fmt.Errorf("%d, want 1 to %d", n.value, n.most), "")
		}
	}
	for _, t := range []struct {
		key         string
		value, want Duration
	}{
		{"dns.timeout", d.DNS.Timeout, Duration(100 * time.Millisecond)},
		{"keeper.interval", d.Keeper.Interval, Duration(time.Second)},
		{"keeper.grace", d.Keeper.Grace, Duration(time.Second)},
	} {
		if t.value < t.want {
			add(t.key, fmt.Errorf("%s, want at least %s", t.value, t.want), "")
		}
	}
	if d.Keeper.SlotZone != "" {
		if _, err := policy.Domain(d.Keeper.SlotZone); err != nil {
			add("keeper.slot_zone", err, "")
		}
	}
	if dir := d.Keeper.PublishRetiredKeys; dir != "" {
		if info, err := os.Stat(dir); err != nil {
			add("keeper.publish_retired_keys", err, "make the directory, for the user that runs the daemon")
		} else if !info.IsDir() {
			add("keeper.publish_retired_keys", fmt.Errorf("%s is no directory", dir), "")
		} else if inTransit(d.Keystore.URL) {
			add("keeper.publish_retired_keys", errors.New("the keystore has its keys made inside Vault's transit engine, which they never leave"), "leave it out")
		}
	}
	rotate := func(key string, c Duration) {
		if t := time.Duration(c); t > 0 && t < time.Hour {
			add(key, fmt.Errorf("%s, want at least 1h", c), "DNS needs its time for each new key")
		}
	}
	rotate("keeper.rotate_every", d.Keeper.RotateEvery)
	for _, name := range sortedKeys(d.Keeper.Domain) {
		key := "keeper.domain." + name
		if domain, err := policy.Domain(name); err != nil {
			add(key, err, "")
		} else if domain != name {
			add(key, fmt.Errorf("%s is written %s", name, domain), "")
		}
		rotate(key+".rotate_every", d.Keeper.Domain[name].RotateEvery)
	}
	return found
}

// keeperWarnings are doubts about these tables.
func keeperWarnings(d *decoded) problems {
	if t := time.Duration(d.Keeper.Grace); t < keystore.Grace {
		return problems{d.problem("keeper.grace", fmt.Errorf("%s: mail that waits in a queue for five days arrives when its record is gone", d.Keeper.Grace), "use 7d or more, or leave it out")}
	}
	return nil
}

// buildKeeper makes the keeper. by is who it is in the history of keys.
func buildKeeper(d *decoded, store keystore.Store, now clock, by string, log *slog.Logger) (*keeper.Keeper, error) {
	if found := keeperProblems(d); len(found) > 0 {
		return nil, found
	}
	ways, bad := buildPublishers(d)
	if len(bad) > 0 {
		return nil, bad
	}
	checker, err := buildChecker(d, now)
	if err != nil {
		return nil, err
	}
	return keeper.New(store, keeper.Options{
		Check:     checker.Check,
		Publisher: ways.of,
		Rules:     func(domain string) keystore.Rules { return keyRules(d, domain) },
		Notify:    notifyCommand(d, log),
		Retired:   d.Keeper.PublishRetiredKeys,
		By:        by,
		Interval:  time.Duration(d.Keeper.Interval),
		Now:       now,
		Log:       log,
	}), nil
}

// keyRules is how the keys of a domain are to live.
func keyRules(d *decoded, domain string) keystore.Rules {
	c := d.Keeper.Domain[domain]
	r := keystore.Rules{
		Grace:        time.Duration(d.Keeper.Grace),
		RotateEvery:  time.Duration(d.Keeper.RotateEvery),
		StopWhenGone: d.Keeper.RecordGone == recordGoneStop,
		Named:        func(selector string) bool { return named(d, domain, selector) },
	}
	if c.RotateEvery > 0 {
		r.RotateEvery = time.Duration(c.RotateEvery)
	}
	if c.NeverRotate {
		r.RotateEvery = 0
	}
	if c.RecordGone != "" {
		r.StopWhenGone = c.RecordGone == recordGoneStop
	}
	r.RotateLead = min(maxRotateLead, r.RotateEvery/4)
	return r
}

// named reports whether a row of the selector table that may sign as the domain
// names the selector.
func named(d *decoded, domain, selector string) bool {
	for _, row := range d.Row {
		if (row.SignAs == "" || strings.EqualFold(row.SignAs, domain)) &&
			slices.ContainsFunc(row.Selectors, func(s string) bool { return strings.EqualFold(s, selector) }) {
			return true
		}
	}
	return false
}

// notifyFailed is the message of the log when it did.
const notifyFailed = "the command of keeper.notify failed"

// notifyCommand runs the command of keeper.notify.
func notifyCommand(d *decoded, log *slog.Logger) func(context.Context, keeper.Notice) {
	if len(d.Keeper.Notify) == 0 {
		return nil
	}
	return func(ctx context.Context, n keeper.Notice) {
		action := "ask"
		if n.Alarm {
			action = "alarm"
		}
		err := dns.RunCommand(ctx, d.Keeper.Notify, defaultPublishTimeout, []string{
			"WAXSEAL_ACTION=" + action, "WAXSEAL_DOMAIN=" + n.Domain, "WAXSEAL_SELECTOR=" + n.Selector,
			"WAXSEAL_NAME=" + n.Name, "WAXSEAL_RECORD=" + n.Record,
		}, n.Message())
		if err != nil {
			log.Warn(notifyFailed, "domain", n.Domain, "selector", n.Selector, "err", err)
		}
	}
}
