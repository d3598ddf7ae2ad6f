-- The tables of waxseal's keystore in SQLite: what "waxseal store migrate
-- --dry-run" prints for an empty database. Load them as the daemon's user, into a
-- file that nobody else may read:
--
--   (umask 077; sqlite3 -bail /var/lib/waxseal/keys.db < sqlite.sql)
--
-- It does no harm to load them again. SQLite has no users: whoever may write the
-- file may change all of it.
CREATE TABLE IF NOT EXISTS waxseal_meta (
	name text NOT NULL PRIMARY KEY,
	value bigint NOT NULL
);
CREATE TABLE IF NOT EXISTS waxseal_domain (
	name text NOT NULL PRIMARY KEY,
	version bigint NOT NULL,
	changed bigint NOT NULL,
	changed_at text NOT NULL,
	changed_by text NOT NULL
);
CREATE INDEX IF NOT EXISTS waxseal_domain_changed ON waxseal_domain (changed);
CREATE TABLE IF NOT EXISTS waxseal_key (
	domain text NOT NULL,
	selector text NOT NULL,
	number bigint NOT NULL,
	algorithm text NOT NULL,
	state text NOT NULL,
	public text NOT NULL,
	private text NOT NULL,
	created text NOT NULL,
	activated text NOT NULL,
	retired text NOT NULL,
	revoked text NOT NULL,
	removed text NOT NULL,
	published text NOT NULL,
	seen text NOT NULL,
	ready text NOT NULL,
	withdrawn text NOT NULL,
	urgent smallint NOT NULL,
	note text NOT NULL,
	reason text NOT NULL,
	PRIMARY KEY (domain, selector),
	FOREIGN KEY (domain) REFERENCES waxseal_domain (name) ON DELETE CASCADE
);
CREATE TABLE IF NOT EXISTS waxseal_slot (
	domain text NOT NULL,
	selector text NOT NULL,
	number bigint NOT NULL,
	target text NOT NULL,
	PRIMARY KEY (domain, selector),
	FOREIGN KEY (domain) REFERENCES waxseal_domain (name) ON DELETE CASCADE
);
CREATE TABLE IF NOT EXISTS waxseal_history (
	domain text NOT NULL,
	number bigint NOT NULL,
	at text NOT NULL,
	selector text NOT NULL,
	what text NOT NULL,
	done_by text NOT NULL,
	reason text NOT NULL,
	forced smallint NOT NULL,
	PRIMARY KEY (domain, number),
	FOREIGN KEY (domain) REFERENCES waxseal_domain (name) ON DELETE CASCADE
);
CREATE TABLE IF NOT EXISTS waxseal_node (
	name text NOT NULL PRIMARY KEY,
	program text NOT NULL,
	started text NOT NULL,
	refreshed text NOT NULL,
	seen text NOT NULL
);
INSERT INTO waxseal_meta (name, value) VALUES ('change', 0) ON CONFLICT DO NOTHING;
DELETE FROM waxseal_meta WHERE name = 'schema';
INSERT INTO waxseal_meta (name, value) VALUES ('schema', 1);
