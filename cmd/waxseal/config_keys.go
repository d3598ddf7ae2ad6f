package main

import (
	"fmt"
	"time"

	"waxseal/keystore"
	"waxseal/keystore/keeper"
)

// The tables that are about DNS and about the life of keys.

// DNSConfig is the [dns] table.
type DNSConfig struct {
	// The resolvers to ask: addresses, with a port if it is not 53. Empty: those
	// of /etc/resolv.conf. What counts is what a zone's own servers say; they
	// are found through a resolver, which is also asked what it sees.
	Resolvers []string `toml:"resolvers"`

	// How long to wait for an answer. Each question is asked twice.
	Timeout Duration `toml:"timeout"`

	// How many questions are open at a time.
	Questions int `toml:"questions"`

	// How many questions are asked in a second, all together.
	PerSecond int `toml:"per_second"`
}

// PublishConfig is one [publish.NAME] table.
type PublishConfig struct {
	// The zones, or parts of zones, whose key records are put there. That of the
	// nearest name above a record counts.
	Zones []string `toml:"zones"`

	// By dynamic update (RFC 2136): the server that takes it, as HOST or
	// HOST:PORT. Empty: the primary that the zone's SOA record names.
	Server string `toml:"server"`

	// The name at the top of the zone that takes the updates, where questions
	// for its SOA record do not find it.
	Apex string `toml:"apex"`

	// The TSIG key of the updates: a file as tsig-keygen writes it, or
	// "credential:NAME" for one that systemd hands over (LoadCredential=).
	TSIGKey string `toml:"tsig_key"`

	// Or by a command, without a shell: it gets WAXSEAL_ACTION (publish or
	// delete), WAXSEAL_NAME, WAXSEAL_TYPE, WAXSEAL_TTL, WAXSEAL_RECORD,
	// WAXSEAL_DOMAIN and WAXSEAL_SELECTOR in its environment, the record as a
	// zone file has it on standard input, and says by exit status 0 that it is
	// done.
	Command []string `toml:"command"`

	// The TTL of the records.
	TTL Duration `toml:"ttl"`

	// How long an update or a run of the command may take.
	Timeout Duration `toml:"timeout"`
}

// KeeperConfig is the [keeper] table.
type KeeperConfig struct {
	// Whether the daemon takes the steps by itself. If not, run "waxseal keep"
	// from a timer.
	Enabled bool `toml:"enabled"`

	// The time between two rounds, give or take a tenth. The first comes within a
	// tenth.
	Interval Duration `toml:"interval"`

	// How long a key signs before it is replaced. A successor is made in good
	// time: 30 days before, or a quarter of this if that is less. "0s": keys are
	// made by people only.
	RotateEvery Duration `toml:"rotate_every"`

	// How long a retired key's record stays for mail under way, and then its
	// empty one.
	Grace Duration `toml:"grace"`

	// When the record of a key that signs is gone or another's: "alarm" goes on
	// signing, "stop" retires the key, once no authoritative server has shown its
	// record in two looks at least five minutes apart.
	RecordGone RecordGone `toml:"record_gone"`

	// A command that is run, without a shell, when DNS must be changed by hand
	// or something is wrong with a record. It gets WAXSEAL_ACTION (ask or
	// alarm), WAXSEAL_DOMAIN, WAXSEAL_SELECTOR, WAXSEAL_NAME and WAXSEAL_RECORD
	// in its environment, and the message on standard input. The same thing is
	// told again after a week, an alarm after a day.
	Notify []string `toml:"notify"`

	// A directory to publish the private halves of keys in that the keeper
	// removes, once no authoritative server has shown them for as long as grace.
	// With them, nobody can prove by its signature who wrote an old mail. Empty:
	// they are destroyed. Not for keys in Vault's transit engine.
	PublishRetiredKeys string `toml:"publish_retired_keys"`

	// The zone that the CNAMEs of delegated selectors point into: see "waxseal
	// key new --slots".
	SlotZone string `toml:"slot_zone"`

	// What differs for a domain: one table [keeper.domain."example.com"] for each.
	Domain map[string]KeeperDomainConfig `toml:"domain"`
}

// KeeperDomainConfig is one [keeper.domain.NAME] table.
type KeeperDomainConfig struct {
	// As in [keeper]. "0s": as there.
	RotateEvery Duration `toml:"rotate_every"`

	// Keys of this domain are made by people only.
	NeverRotate bool `toml:"never_rotate"`

	// As in [keeper]. Empty: as there.
	RecordGone RecordGone `toml:"record_gone"`
}

// RecordGone is what happens when the record of a key that signs is gone.
type RecordGone string

const (
	recordGoneAlarm RecordGone = "alarm"
	recordGoneStop  RecordGone = "stop"
)

func (r *RecordGone) UnmarshalTOML(v any) error {
	s, err := text(v, `"alarm" or "stop"`)
	if err != nil {
		return err
	}
	if *r = RecordGone(s); *r != recordGoneAlarm && *r != recordGoneStop && s != "" {
		return fmt.Errorf(`%q: want "alarm" or "stop"`, s)
	}
	return nil
}

func (r RecordGone) String() string { return string(r) }

const (
	defaultRecordTTL      = time.Hour
	defaultPublishTimeout = 30 * time.Second
	maxRotateLead         = 30 * 24 * time.Hour
)

func defaultDNS() DNSConfig {
	return DNSConfig{Resolvers: []string{}, Timeout: Duration(3 * time.Second), Questions: 32, PerSecond: 200}
}

func defaultKeeper() KeeperConfig {
	return KeeperConfig{
		Enabled:    true,
		Interval:   Duration(keeper.DefaultInterval),
		Grace:      Duration(keystore.Grace),
		RecordGone: recordGoneAlarm,
		Notify:     []string{},
	}
}

// defaultPublish is a [publish.NAME] table before it is read.
func defaultPublish() PublishConfig {
	return PublishConfig{TTL: Duration(defaultRecordTTL), Timeout: Duration(defaultPublishTimeout)}
}
