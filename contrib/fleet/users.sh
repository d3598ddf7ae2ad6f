#!/bin/sh
# Makes the two users. The image of PostgreSQL runs it once, when it makes the
# database; what they may do is in ../sql/postgresql-grants.sql. psql itself reads
# the passwords: its arguments could be seen by all users of the machine.
set -e
psql -q -X -v ON_ERROR_STOP=1 -U "$POSTGRES_USER" -d "$POSTGRES_DB" <<'END'
\set sign `cat /run/secrets/sign_password`
\set keep `cat /run/secrets/keep_password`
CREATE ROLE waxseal_sign LOGIN PASSWORD :'sign';
CREATE ROLE waxseal_keep LOGIN PASSWORD :'keep';
END
