-- The rights of those who use the tables of mariadb.sql. Make the users, with
-- passwords of your own, in "mariadb" itself, since the arguments of commands can
-- be seen by all users of the machine:
--
--   CREATE USER waxseal_sign@'%' IDENTIFIED BY '…';
--   CREATE USER waxseal_keep@'%' IDENTIFIED BY '…';
--
-- and run this after the tables and after each "waxseal store migrate":
--
--   mariadb mail < mariadb-grants.sql
--
-- An anonymous user of localhost, as a new server may have one, goes before users
-- of '%' and keeps them out: DROP USER ''@localhost.

-- A daemon that signs and no more ("enabled = false" in [keeper]): it reads, and
-- tells that it lives.
GRANT SELECT ON waxseal_meta TO waxseal_sign@'%';
GRANT SELECT ON waxseal_domain TO waxseal_sign@'%';
GRANT SELECT ON waxseal_key TO waxseal_sign@'%';
GRANT SELECT ON waxseal_slot TO waxseal_sign@'%';
GRANT SELECT ON waxseal_history TO waxseal_sign@'%';
GRANT SELECT, INSERT, DELETE ON waxseal_node TO waxseal_sign@'%';

-- The keeper, and commands that change keys. Neither deletes a domain or a key, or
-- changes the history.
GRANT SELECT, UPDATE ON waxseal_meta TO waxseal_keep@'%';
GRANT SELECT, INSERT, UPDATE ON waxseal_domain TO waxseal_keep@'%';
GRANT SELECT, INSERT, UPDATE ON waxseal_key TO waxseal_keep@'%';
GRANT SELECT, INSERT, DELETE ON waxseal_slot TO waxseal_keep@'%';
GRANT SELECT, INSERT ON waxseal_history TO waxseal_keep@'%';
GRANT SELECT, INSERT, DELETE ON waxseal_node TO waxseal_keep@'%';
