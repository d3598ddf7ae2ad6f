#!/bin/sh
# Makes the two users. The image of PostgreSQL runs it once, when it makes the
# database; what they may do is in ../sql/postgresql-grants.sql.
set -e
psql -q -X -v ON_ERROR_STOP=1 -U "$POSTGRES_USER" -d "$POSTGRES_DB" \
	-v sign="$(cat /run/secrets/sign_password)" -v keep="$(cat /run/secrets/keep_password)" <<'END'
CREATE ROLE waxseal_sign LOGIN PASSWORD :'sign';
CREATE ROLE waxseal_keep LOGIN PASSWORD :'keep';
END
