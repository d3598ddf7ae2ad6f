package main

import (
	"io/fs"
	"time"

	"waxseal/milter"
	"waxseal/signer"
)

// defaultConfigFile is read when --config does not name another; it may be
// absent.
const defaultConfigFile = "/etc/waxseal/waxseal.toml"

// The comments of the types below are the manual: "waxseal config example"
// prints them as an annotated file. A field's default is its value in
// defaultConfig.

// Config is the configuration file. Every setting has a default, and the
// whole file may be absent. After a change, "waxseal check" names all its
// problems at once, and SIGHUP makes the daemon take it; a setting that needs a
// restart instead says so.
type Config struct {
	// Where the keys are.
	Keystore KeystoreConfig `toml:"keystore"`

	// Where the mail server connects: one table for each listener, with a name
	// of your choice that stands in the log. Without any there is one listener
	// at unix:/run/waxseal/milter.sock. Changes need a restart.
	Listen map[string]ListenConfig `toml:"listen"`

	// Whose mail is ours to sign. One matching rule is enough. Mail that
	// matches none is accepted as it is, and the mail server does not even
	// send its content.
	Origin OriginConfig `toml:"origin"`

	// How signatures are made. The defaults are right for nearly all.
	Signing SigningConfig `toml:"signing"`

	// What happens to mail that is ours but cannot be signed: "accept" lets it
	// go unsigned, "tempfail" asks the sender to try again later, "reject"
	// refuses it.
	Outcome OutcomeConfig `toml:"outcome"`

	// Limits, each with a defined outcome.
	Limits LimitsConfig `toml:"limits"`

	// What is logged, on standard error.
	Log LogConfig `toml:"log"`
}

// KeystoreConfig is the [keystore] table.
type KeystoreConfig struct {
	// The store: "dir:PATH", or a bare path. Changes need a restart.
	URL string `toml:"url"`

	// Accept key files that their group can read, and files of a mounted
	// secret that belong to another user.
	GroupReadable bool `toml:"group_readable"`

	// How old an entry of the cache may grow before it is looked up again,
	// beside the mail. Changes made on this machine are seen at once.
	Refresh Duration `toml:"refresh"`

	// How many domains the cache holds.
	CacheDomains int `toml:"cache_domains"`
}

// ListenConfig is one [listen.NAME] table.
type ListenConfig struct {
	// The address: "unix:PATH", "inet:HOST:PORT" or "inet6:[HOST]:PORT", or in
	// Sendmail's spelling "local:PATH" or "inet:PORT@HOST".
	Address Address `toml:"address"`

	// The mode of a unix socket. Whoever may write to it can have mail signed.
	Mode FileMode `toml:"mode"`

	// The owner of a unix socket. Empty: the user that runs the daemon.
	Owner string `toml:"owner"`

	// The group of a unix socket. Empty: when root runs the daemon and there
	// is a group postfix, that; else the group that runs the daemon.
	Group string `toml:"group"`

	// Allow an inet address that other machines can reach. Every machine that
	// can connect can have mail signed: use it behind a firewall only.
	AllowRemote bool `toml:"allow_remote"`
}

// OriginConfig is the [origin] table.
type OriginConfig struct {
	// Mail of clients that have logged in (SASL).
	Login bool `toml:"login"`

	// Mail of clients in these networks. Loopback is trusted by default, as
	// web applications and webmail send from there. Take it out when a content
	// filter hands mail from outside back to this milter over loopback.
	Networks []string `toml:"networks"`

	// Allow networks that cover the whole Internet.
	AllowInternet bool `toml:"allow_internet"`

	// Mail without a client address: the sendmail command and local programs.
	Local bool `toml:"local"`

	// Mail of these daemons: the macro {daemon_name}, which Postfix takes from
	// "-o milter_macro_daemon_name=ORIGINATING" in master.cf, and Sendmail from
	// DAEMON_OPTIONS.
	DaemonNames []string `toml:"daemon_names"`
}

// SigningConfig is the [signing] table.
type SigningConfig struct {
	// Header and body canonicalization (RFC 6376, section 3.4): "relaxed" or
	// "simple" for each. Simple headers break when a mail server folds them anew.
	Canonicalization Canonicalization `toml:"canonicalization"`

	// How long signatures are valid (x=). "0s": for ever. A queue may hold mail
	// for five days, so anything below six days loses mail its signature.
	Expiry Duration `toml:"expiry"`

	// The header fields to sign when present. From always is.
	Fields []string `toml:"fields"`

	// The header fields that nobody may add later: the signature names them
	// once more than they are present (RFC 6376, section 8.15).
	Oversign []string `toml:"oversign"`

	// What makes RSA signatures: "libcrypto" is the system's OpenSSL, "go" is
	// Go's own library, "auto" the faster of the two, measured. Needs a restart.
	RSA RSAMode `toml:"rsa"`
}

// OutcomeConfig is the [outcome] table.
type OutcomeConfig struct {
	// The author domain has no active key: accept, tempfail or reject.
	NoKey milter.Action `toml:"no_key"`

	// It has one, but the key cannot be read or does not sign: accept, tempfail
	// or reject.
	KeyUnusable milter.Action `toml:"key_unusable"`

	// The keystore does not answer, and nothing is cached: accept or tempfail.
	StoreDown milter.Action `toml:"store_down"`

	// The message can never be signed: no From field, two of them, authors of
	// two domains, bare CR or LF. accept or reject.
	NotSignable milter.Action `toml:"not_signable"`

	// The header is over one of the limits: accept or reject.
	OverLimit milter.Action `toml:"over_limit"`
}

// LimitsConfig is the [limits] table.
type LimitsConfig struct {
	// Connections served at once; further ones wait. Needs a restart.
	Connections int `toml:"connections"`

	// The size of a message's header.
	HeaderBytes Size `toml:"header_bytes"`

	// The number of a message's header fields.
	HeaderFields int `toml:"header_fields"`

	// How long a mail server may be silent on a connection. Postfix keeps one
	// open while its client thinks. Needs a restart.
	IdleTimeout Duration `toml:"idle_timeout"`

	// How long one packet may take. Needs a restart.
	PacketTimeout Duration `toml:"packet_timeout"`

	// How long a message waits for keys that are not cached.
	KeyTimeout Duration `toml:"key_timeout"`

	// How long a stop waits for the messages under way.
	StopTimeout Duration `toml:"stop_timeout"`
}

// LogConfig is the [log] table.
type LogConfig struct {
	// "debug" also has a line for each mail that is not ours, "info" one for
	// each that is, "warn" only what someone should look at, "error".
	Level LogLevel `toml:"level"`

	// "text" or "json".
	Format LogFormat `toml:"format"`
}

func defaultConfig() Config {
	return Config{
		Keystore: KeystoreConfig{
			URL:          "dir:/var/lib/waxseal/keys",
			Refresh:      Duration(time.Minute),
			CacheDomains: 100_000,
		},
		Origin: OriginConfig{
			Login:       true,
			Networks:    []string{"127.0.0.0/8", "::1/128"},
			Local:       true,
			DaemonNames: []string{"ORIGINATING"},
		},
		Signing: SigningConfig{
			Fields:   signer.DefaultSigned(),
			Oversign: signer.DefaultOversigned(),
		},
		Outcome: OutcomeConfig{
			NoKey:       milter.DefaultAction(milter.NoKey),
			KeyUnusable: milter.DefaultAction(milter.KeyUnusable),
			StoreDown:   milter.DefaultAction(milter.StoreDown),
			NotSignable: milter.DefaultAction(milter.NotSignable),
			OverLimit:   milter.DefaultAction(milter.OverLimit),
		},
		Limits: LimitsConfig{
			Connections:   milter.DefaultConnections,
			HeaderBytes:   milter.DefaultHeaderBytes,
			HeaderFields:  milter.DefaultHeaderFields,
			IdleTimeout:   Duration(milter.DefaultIdleTimeout),
			PacketTimeout: Duration(milter.DefaultPacketTimeout),
			KeyTimeout:    Duration(milter.DefaultKeyTimeout),
			StopTimeout:   Duration(30 * time.Second),
		},
	}
}

// defaultListen is a listener's settings before its table is read.
func defaultListen() ListenConfig {
	return ListenConfig{Mode: FileMode(defaultSocketMode)}
}

const (
	defaultSocketMode fs.FileMode = 0o660
	defaultSocket                 = "unix:/run/waxseal/milter.sock"
)
