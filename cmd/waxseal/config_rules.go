package main

// The tables that decide whose mail is signed, and as what.

// OriginConfig is the [origin] table.
type OriginConfig struct {
	// Mail of clients in these networks is never ours, even with a login.
	SkipNetworks []string `toml:"skip_networks"`

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

	// Mail of clients whose TLS certificate, verified by the mail server, has
	// one of these subjects: common names as the macro {cert_subject} has them.
	Certificates []string `toml:"certificates"`

	// The issuer that such a certificate must have, as {cert_issuer} has it.
	// Name it unless the mail server trusts your own authority alone.
	CertificateIssuer string `toml:"certificate_issuer"`

	// Mail of clients with any verified certificate.
	AnyCertificate bool `toml:"any_certificate"`

	// Mail for which the mail server sends one of these macros: "{name}", or
	// "{name}=value".
	Macros []string `toml:"macros"`

	// All mail. Only for a single listener.
	All bool `toml:"all"`
}

// PermissionConfig is the [permission] table.
type PermissionConfig struct {
	// Hold logins to the domains they may use. false lets every login sign for
	// every domain of the keystore.
	Check bool `toml:"check"`

	// A login may sign for its own domain: ann@example.com for example.com.
	// Switch it off where the password check ignores what stands behind the @,
	// as Cyrus saslauthd does without its option -r.
	OwnDomain bool `toml:"own_domain"`

	// What logins without a domain may sign for. ["mail server"] means the
	// mail server's own name and the domain it is in; an empty list means none,
	// which is right where customers have such logins.
	LoginDomains []string `toml:"login_domains"`

	// Further permissions: one table [permission.grant.NAME] for each.
	Grant map[string]GrantConfig `toml:"grant"`
}

// GrantConfig is one [permission.grant.NAME] table.
type GrantConfig struct {
	// Who: this login, written as the log has it, where "ann" and
	// "ann@mx.example.com" are different ones; or "@example.com" for all logins
	// of a domain, "*" for all.
	Login string `toml:"login"`

	// Or who: clients without a login in this network. They may then sign for
	// nothing else.
	Network string `toml:"network"`

	// Or who: clients without a login with a verified certificate of this
	// subject. They may then sign for nothing else.
	Certificate string `toml:"certificate"`

	// The issuer of that certificate.
	CertificateIssuer string `toml:"certificate_issuer"`

	// For what: these domains.
	Domains []string `toml:"domains"`

	// And all below them.
	Subdomains bool `toml:"subdomains"`

	// For what: these addresses.
	Addresses []string `toml:"addresses"`

	// For what: any domain, those of others included.
	AnyDomain bool `toml:"any_domain"`
}

// RowConfig is one [row.NAME] table.
type RowConfig struct {
	// What the row is about: a login, written as the log has it, or
	Login string `toml:"login"`

	// an address of the author, or
	Address string `toml:"address"`

	// an author domain, or "*" for all mail that no other row is about.
	Domain string `toml:"domain"`

	// The row is about all domains below its domain, too.
	Subdomains bool `toml:"subdomains"`

	// The domain to sign as. Empty: the author domain; for what is below the
	// row's domain, that. For a login, "*", and what is below a domain, keys of
	// the author domain itself come first.
	SignAs string `toml:"sign_as"`

	// Use the row even where the author domain has keys of its own.
	Always bool `toml:"always"`

	// Sign with these selectors only. Empty: with all active keys.
	Selectors []string `toml:"selectors"`

	// The identity, i=: an address or "@domain" within the signing domain, or
	// "address" for the author's own. Empty: none.
	Identity string `toml:"identity"`

	// false leaves such mail unsigned.
	Enabled bool `toml:"enabled"`

	// Why it is not enabled, for the log.
	Reason string `toml:"reason"`

	// Never let such mail leave unsigned: tempfail, whatever the cause. Of a
	// message without a sound From field it is known only by a row for the login.
	Strict bool `toml:"strict"`

	// As in [signing]. Empty: as there.
	Canonicalization string `toml:"canonicalization"`

	// As in [signing]. "0s": as there.
	Expiry Duration `toml:"expiry"`

	// Signatures never expire, even if they do by [signing].
	NeverExpires bool `toml:"never_expires"`

	// As in [signing]. Empty: as there.
	Fields []string `toml:"fields"`

	// As in [signing]. Empty: as there.
	Oversign []string `toml:"oversign"`

	// Outcomes of such mail: a table [row.NAME.outcome] with what differs from
	// [outcome]. over_limit is for all mail alike.
	Outcome *OutcomeConfig `toml:"outcome"`
}

func defaultOrigin() OriginConfig {
	return OriginConfig{
		Login:       true,
		Networks:    []string{"127.0.0.0/8", "::1/128"},
		Local:       true,
		DaemonNames: []string{"ORIGINATING"},

		SkipNetworks: []string{},
		Certificates: []string{},
		Macros:       []string{},
	}
}

func defaultPermission() PermissionConfig {
	return PermissionConfig{
		Check:        true,
		OwnDomain:    true,
		LoginDomains: []string{ownLoginDomains},
	}
}

// defaultRow is a row's settings before its table is read.
func defaultRow() RowConfig { return RowConfig{Enabled: true} }

// ownLoginDomains stands for the mail server's own domains.
const ownLoginDomains = "mail server"
