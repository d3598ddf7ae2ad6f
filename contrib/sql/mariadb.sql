-- The tables of waxseal's keystore in MySQL and MariaDB, for those who let nobody
-- else change a schema: what "waxseal store migrate --dry-run" prints for an empty
-- database. Load them as a user who may make tables:
--
--   mariadb mail < mariadb.sql
--
-- It does no harm to load them again. mariadb-grants.sql has the rights of those
-- who use them.
CREATE TABLE IF NOT EXISTS waxseal_meta (
	name varchar(253) CHARACTER SET ascii COLLATE ascii_bin NOT NULL PRIMARY KEY,
	value bigint NOT NULL
) ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
CREATE TABLE IF NOT EXISTS waxseal_domain (
	name varchar(253) CHARACTER SET ascii COLLATE ascii_bin NOT NULL PRIMARY KEY,
	version bigint NOT NULL,
	changed bigint NOT NULL,
	changed_at varchar(40) NOT NULL,
	changed_by varchar(40) NOT NULL,
	INDEX waxseal_domain_changed (changed)
) ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
CREATE TABLE IF NOT EXISTS waxseal_key (
	domain varchar(253) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
	selector varchar(253) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
	number bigint NOT NULL,
	algorithm varchar(40) NOT NULL,
	state varchar(40) NOT NULL,
	public text NOT NULL,
	private text NOT NULL,
	created varchar(40) NOT NULL,
	activated varchar(40) NOT NULL,
	retired varchar(40) NOT NULL,
	revoked varchar(40) NOT NULL,
	removed varchar(40) NOT NULL,
	published varchar(40) NOT NULL,
	seen varchar(40) NOT NULL,
	ready varchar(40) NOT NULL,
	withdrawn varchar(40) NOT NULL,
	urgent smallint NOT NULL,
	note text NOT NULL,
	reason text NOT NULL,
	PRIMARY KEY (domain, selector),
	FOREIGN KEY (domain) REFERENCES waxseal_domain (name) ON DELETE CASCADE
) ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
CREATE TABLE IF NOT EXISTS waxseal_slot (
	domain varchar(253) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
	selector varchar(253) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
	number bigint NOT NULL,
	target varchar(253) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
	PRIMARY KEY (domain, selector),
	FOREIGN KEY (domain) REFERENCES waxseal_domain (name) ON DELETE CASCADE
) ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
CREATE TABLE IF NOT EXISTS waxseal_history (
	domain varchar(253) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
	number bigint NOT NULL,
	at varchar(40) NOT NULL,
	selector varchar(253) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
	what varchar(40) NOT NULL,
	done_by text NOT NULL,
	reason text NOT NULL,
	forced smallint NOT NULL,
	PRIMARY KEY (domain, number),
	FOREIGN KEY (domain) REFERENCES waxseal_domain (name) ON DELETE CASCADE
) ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
CREATE TABLE IF NOT EXISTS waxseal_node (
	name varchar(253) CHARACTER SET ascii COLLATE ascii_bin NOT NULL PRIMARY KEY,
	program text NOT NULL,
	started varchar(40) NOT NULL,
	refreshed varchar(40) NOT NULL,
	seen varchar(40) NOT NULL
) ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
INSERT IGNORE INTO waxseal_meta (name, value) VALUES ('change', 0);
DELETE FROM waxseal_meta WHERE name = 'schema';
INSERT INTO waxseal_meta (name, value) VALUES ('schema', 1);
