-- The rights of those who use the tables of postgresql.sql. Run it as the owner of
-- the tables, after them and after each "waxseal store migrate":
--
--   createuser waxseal_sign && createuser waxseal_keep
--   psql -d mail -c '\password waxseal_sign' -c '\password waxseal_keep'
--   psql -1 -v ON_ERROR_STOP=1 -d mail -f postgresql-grants.sql
--
-- Where the tables are in a schema other than public, both need USAGE on it, too.

-- A daemon that signs and no more ("enabled = false" in [keeper]): it reads, and
-- tells that it lives. To be told of changes (LISTEN) takes no right.
GRANT SELECT ON waxseal_meta, waxseal_domain, waxseal_key, waxseal_slot, waxseal_history, waxseal_node TO waxseal_sign;
GRANT INSERT, DELETE ON waxseal_node TO waxseal_sign;

-- The keeper, and commands that change keys. Nobody but the owner deletes a domain
-- or a key, or changes the history.
GRANT SELECT ON waxseal_meta, waxseal_domain, waxseal_key, waxseal_slot, waxseal_history, waxseal_node TO waxseal_keep;
GRANT UPDATE ON waxseal_meta TO waxseal_keep;
GRANT INSERT, UPDATE ON waxseal_domain, waxseal_key TO waxseal_keep;
GRANT INSERT, DELETE ON waxseal_slot, waxseal_node TO waxseal_keep;
GRANT INSERT ON waxseal_history TO waxseal_keep;
