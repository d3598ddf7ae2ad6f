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
// problems at once, and the daemon takes it by itself, or at once by SIGHUP; a
// setting that needs a restart instead says so.
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

	// Who may sign for which domain.
	Permission PermissionConfig `toml:"permission"`

	// The selector table: what differs for a login, an address or a domain.
	// One table for each row, with a name of your choice. The most specific
	// row is used: that of the login, else of the address, the domain, the
	// nearest domain above that extends to subdomains, and "*". A domain
	// without a row signs for itself with all its active keys.
	Row map[string]RowConfig `toml:"row"`

	// How signatures are made. The defaults are right for nearly all.
	Signing SigningConfig `toml:"signing"`

	// What happens to mail that is ours but cannot be signed: "accept" lets it
	// go unsigned, "tempfail" asks the sender to try again later, "reject"
	// refuses it.
	Outcome OutcomeConfig `toml:"outcome"`

	// What happens to mail of ours of which the signature may break on the way,
	// or that receivers may refuse: "sign" signs it all the same, "unsigned" does
	// what not_signable in [outcome] says, "reject" refuses it. Whatever it is,
	// the log and waxseal_messages_at_risk_total have it by this name.
	Risk RiskConfig `toml:"risk"`

	// Limits, each with a defined outcome.
	Limits LimitsConfig `toml:"limits"`

	// How DNS is asked about the records of keys.
	DNS DNSConfig `toml:"dns"`

	// How the records of keys get into DNS: one table for each way, with a name
	// of your choice. What none is about, an administrator publishes by hand.
	Publish map[string]PublishConfig `toml:"publish"`

	// The keeper takes every key through its life: it has the record published,
	// waits until all the world can see it, lets the key sign, replaces it in
	// time, and has the record withdrawn when no mail needs it any more.
	Keeper KeeperConfig `toml:"keeper"`

	// What is logged, on standard error.
	Log LogConfig `toml:"log"`

	// Numbers for Prometheus at /metrics, and the daemon's health: /healthz says
	// that it runs, /readyz that mail may be sent to it. Changes need a restart.
	Metrics MetricsConfig `toml:"metrics"`

	// What is left to the daemon once it has started.
	Confine ConfineConfig `toml:"confine"`
}

// KeystoreConfig is the [keystore] table.
type KeystoreConfig struct {
	// The store: "dir:PATH", or a bare path. In a database that machines share:
	// "postgres://USER@HOST,HOST/DATABASE" or "mysql://USER@HOST/DATABASE", with
	// "?password_file=PATH"; for one machine "sqlite:PATH". "waxseal store
	// migrate" makes the tables. On other servers: "redis://HOST",
	// "redis+sentinel://HOST,HOST/NAME", "redis+cluster://HOST,HOST" or
	// "vault://HOST/PATH", and to read only "ldaps://HOST/BASE?layout=LAYOUT".
	// "waxseal store url" tells of all options. Changes need a restart.
	URL string `toml:"url"`

	// Where a database has the keys in tables of another program, the query that
	// returns the selector, the private key and the domain of each key of the
	// domain ?, such as "SELECT selector, private_key, domain FROM keys WHERE
	// domain = ?". A row with another domain, which to most collations of MySQL is
	// the same if accents are all that differs, does not count; the domain % is
	// any. Without the third column all rows count. All keys are active, and
	// nothing is changed. Programs that are known need none: the
	// option "preset=opendkim" of the URL, or froxlor, ispconfig, modoboa, postal
	// or vexim, is enough. Needs a restart.
	KeyQuery string `toml:"key_query"`

	// And the query that lists domains: "SELECT DISTINCT domain FROM keys WHERE
	// domain > ? ORDER BY domain LIMIT ?". Needs a restart.
	ListQuery string `toml:"list_query"`

	// The query that tells which of these keys sign an author's mail, where that
	// is not simply those of the author's domain: "SELECT author, domain, selector
	// FROM senders WHERE author IN (?)". A fourth column is the identity (i=). The
	// ? stands for a list: of ann@mail.example.com it is ann@mail.example.com,
	// mail.example.com, ann@.example.com, .example.com, ann@.com, .com, ann@* and
	// *, as in OpenDKIM's signing table. All rows sign that have the first of these
	// which any row has; without one, nothing does. The domain % is that of the
	// author, and so is % in the identity. Rows [row.NAME] that name what signs go
	// first. The preset opendkim has such a query. Needs a restart.
	SenderQuery string `toml:"sender_query"`

	// Accept key files, and an SQLite file, that their group can read, as those of
	// a mounted secret are. Needs a restart.
	GroupReadable bool `toml:"group_readable"`

	// Encrypt the private keys in the store with the keys in this file: one to a
	// line, 32 bytes in base64, as "openssl rand -base64 32" makes them. The first
	// encrypts, all decrypt. "credential:NAME" is one that systemd hands over
	// (LoadCredential=). Keys that are there already are encrypted by "waxseal
	// store rewrap". Without this file, the keys are lost. Needs a restart.
	KeyEncryptionKey string `toml:"key_encryption_key"`

	// How old an entry of the cache may grow before it is looked up again,
	// beside the mail. Changes made on this machine, and those in a database, are
	// seen at once. Needs a restart.
	Refresh Duration `toml:"refresh"`

	// How many domains the cache holds. Needs a restart.
	CacheDomains int `toml:"cache_domains"`

	// How much memory they may take, as estimated from the kinds of their keys:
	// 12 KiB for one of RSA-2048, and 1 KiB for an author with sender_query. The
	// bound that is reached first counts. Needs a restart.
	CacheBytes Size `toml:"cache_bytes"`
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

	// The group of a unix socket. Empty: the group postfix, if there is one and
	// root or a member of it runs the daemon; else the group that runs the
	// daemon.
	Group string `toml:"group"`

	// Allow an inet address that other machines can reach. Every machine that
	// can connect can have mail signed: use it behind a firewall only.
	AllowRemote bool `toml:"allow_remote"`

	// The mail server that connects here: "postfix", "sendmail", or "auto" to go
	// by its macro v, which tells Postfix; all others count as Sendmail. It
	// decides what is left out of signatures because the mail server will change
	// it. Applied on reload.
	MTA milter.MTA `toml:"mta"`

	// Domains that Sendmail writes anew in From, Sender and Reply-To after
	// signing, as MASQUERADE_AS, MASQUERADE_DOMAIN or a genericstable tell it to:
	// "mail.example.com", or ".example.com" for all below it. Such a field is not
	// signed, and mail with such a From cannot be. Applied on reload.
	Masquerade []string `toml:"masquerade"`

	// It writes them anew in To and Cc, too: FEATURE(allmasquerade). Applied on
	// reload.
	MasqueradeRecipients bool `toml:"masquerade_recipients"`

	// Origin rules of this listener, in place of those for all: a table
	// [listen.NAME.origin] in which every rule is off that is not set. There,
	// all = true makes ours whatever comes in: for a socket that only the
	// submission service uses.
	Origin *OriginConfig `toml:"origin"`
}

// SigningConfig is the [signing] table.
type SigningConfig struct {
	// Header and body canonicalization (RFC 6376, section 3.4): "relaxed" or
	// "simple" for each. Simple headers break when a mail server folds them anew.
	// Sendmail does, and so gets relaxed ones in any case.
	Canonicalization Canonicalization `toml:"canonicalization"`

	// How long signatures are valid (x=). "0s": for ever. A queue may hold mail
	// for five days, so anything below six days loses mail its signature.
	Expiry Duration `toml:"expiry"`

	// The header fields to sign when present. From always is.
	Fields []string `toml:"fields"`

	// The header fields that nobody may add later: the signature names them
	// once more than they are present (RFC 6376, section 8.15).
	Oversign []string `toml:"oversign"`

	// Fields that choose the author domain in place of From, most wanted
	// first, on a list server that signs with its own domain: List-Id,
	// List-Post, List-Owner, Sender, Resent-Sender, Resent-From.
	AuthorFields []string `toml:"author_fields"`

	// What makes RSA signatures: "libcrypto" is the system's OpenSSL, "go" is
	// Go's own library, "auto" the faster of the two, measured. Needs a restart.
	RSA RSAMode `toml:"rsa"`
}

// OutcomeConfig is the [outcome] table.
type OutcomeConfig struct {
	// Never let our mail leave unsigned: tempfail, whatever the cause.
	Strict bool `toml:"strict"`

	// The author domain has no active key: accept, tempfail or reject.
	NoKey milter.Action `toml:"no_key"`

	// It has one, but the key cannot be read or does not sign: accept, tempfail
	// or reject.
	KeyUnusable milter.Action `toml:"key_unusable"`

	// The keystore does not answer, and nothing is cached: accept or tempfail.
	StoreDown milter.Action `toml:"store_down"`

	// The sender may not sign for the author domain: accept or reject.
	Denied milter.Action `toml:"denied"`

	// The message can never be signed: no From field, two of them, authors of
	// two domains, bare CR or LF. accept or reject.
	NotSignable milter.Action `toml:"not_signable"`

	// The header is over one of the limits: accept or reject.
	OverLimit milter.Action `toml:"over_limit"`
}

// RiskConfig is the [risk] table.
type RiskConfig struct {
	// A line of the body is so long that the mail server breaks it: over 998
	// octets for Postfix, 990 for Sendmail.
	LongBodyLine milter.RiskAction `toml:"long_body_line"`

	// So is a line of a signed header field.
	LongHeaderLine milter.RiskAction `toml:"long_header_line"`

	// 8-bit text that the mail server encodes anew when the next hop lacks
	// 8BITMIME.
	EightBit milter.RiskAction `toml:"eight_bit"`

	// There is no Date field.
	MissingDate milter.RiskAction `toml:"missing_date"`

	// There is no Message-ID field.
	MissingMessageID milter.RiskAction `toml:"missing_message_id"`

	// A CR or LF that ends no line.
	BareCRLF milter.RiskAction `toml:"bare_cr_lf"`

	// A NUL octet in the body.
	NUL milter.RiskAction `toml:"nul"`

	// Two Subject fields, or two of another kind of which there is one at most.
	DuplicateField milter.RiskAction `toml:"duplicate_field"`

	// Sendmail will write an address or MIME field anew, which is left out of
	// the signature therefore.
	RewrittenField milter.RiskAction `toml:"rewritten_field"`

	// A multipart that lacks its last delimiter, or a part whose header is none,
	// which Sendmail will write in another way.
	RewrittenMultipart milter.RiskAction `toml:"rewritten_multipart"`

	// No From field, two of them, authors of two domains, one that cannot be
	// read for certain, or one that Sendmail will write anew: unsigned or reject.
	BadFrom milter.RiskAction `toml:"bad_from"`
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

	// "text" or "json". Needs a restart.
	Format LogFormat `toml:"format"`
}

// MetricsConfig is the [metrics] table.
type MetricsConfig struct {
	// Where they are read, by HTTP: "inet:HOST:PORT" or "inet6:[HOST]:PORT",
	// such as "inet:127.0.0.1:9891". Empty: nowhere.
	Address Address `toml:"address"`

	// Count messages by signing domain, too: one set of series for each domain
	// of the keystore that sends mail, up to 10,000; further ones are counted
	// together as "other".
	PerDomain bool `toml:"per_domain"`

	// Allow an address that other machines can reach. There is neither login nor
	// encryption: use it behind a firewall only.
	AllowRemote bool `toml:"allow_remote"`
}

func defaultConfig() Config {
	return Config{
		Keystore: KeystoreConfig{
			URL:          "dir:/var/lib/waxseal/keys",
			Refresh:      Duration(time.Minute),
			CacheDomains: 100_000,
			CacheBytes:   1 << 30,
		},
		Origin:     defaultOrigin(),
		Permission: defaultPermission(),
		Signing: SigningConfig{
			Fields:   signer.DefaultSigned(),
			Oversign: signer.DefaultOversigned(),

			AuthorFields: []string{},
		},
		Outcome: OutcomeConfig{
			NoKey:       milter.DefaultAction(milter.NoKey),
			KeyUnusable: milter.DefaultAction(milter.KeyUnusable),
			StoreDown:   milter.DefaultAction(milter.StoreDown),
			Denied:      milter.DefaultAction(milter.Denied),
			NotSignable: milter.DefaultAction(milter.NotSignable),
			OverLimit:   milter.DefaultAction(milter.OverLimit),
		},
		Risk: RiskConfig{
			LongBodyLine:       milter.DefaultRiskAction(signer.LongBodyLine),
			LongHeaderLine:     milter.DefaultRiskAction(signer.LongHeaderLine),
			EightBit:           milter.DefaultRiskAction(signer.EightBit),
			MissingDate:        milter.DefaultRiskAction(signer.MissingDate),
			MissingMessageID:   milter.DefaultRiskAction(signer.MissingMessageID),
			BareCRLF:           milter.DefaultRiskAction(signer.BareCRLF),
			NUL:                milter.DefaultRiskAction(signer.NUL),
			DuplicateField:     milter.DefaultRiskAction(signer.DuplicateField),
			RewrittenField:     milter.DefaultRiskAction(signer.RewrittenField),
			RewrittenMultipart: milter.DefaultRiskAction(signer.RewrittenMultipart),
			BadFrom:            milter.DefaultRiskAction(milter.BadFrom),
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
		DNS:     defaultDNS(),
		Keeper:  defaultKeeper(),
		Confine: defaultConfine(),
	}
}

// defaultListen is a listener's settings before its table is read.
func defaultListen() ListenConfig {
	return ListenConfig{Mode: FileMode(defaultSocketMode), MTA: milter.MTAAuto, Masquerade: []string{}}
}

// listenersByDefault are the listeners where none is configured.
func listenersByDefault() map[string]ListenConfig {
	c := defaultListen()
	if err := c.Address.set(defaultSocket); err != nil {
		panic(err) // a constant of ours
	}
	return map[string]ListenConfig{"milter": c}
}

const (
	defaultSocketMode fs.FileMode = 0o660
	defaultSocket                 = "unix:/run/waxseal/milter.sock"
)
