package sqlstore

import (
	"errors"
	"strconv"

	"github.com/go-sql-driver/mysql"
	"github.com/jackc/pgx/v5/pgconn"
	"modernc.org/sqlite"

	"waxseal/keystore"
)

const (
	remedyLogin    = "correct the user or the password_file in the keystore's URL, or what the server has of that user"
	remedyDatabase = "make the database, or correct its name in the keystore's URL"
	remedyRights   = "give the user the rights that contrib/sql has for the tables of waxseal, and contrib/products for those of other programs"
	remedyFile     = "let the present user read and write the file, and the directory that it is in"
)

// remedies say what to do about errors of servers, by their number.
var remedies = map[string]string{
	// PostgreSQL, by SQLSTATE.
	"28P01": remedyLogin,
	"28000": remedyLogin + "; pg_hba.conf says who may connect from where, and whether by TLS",
	"3D000": remedyDatabase,
	"42501": remedyRights,
	// MySQL and MariaDB.
	"1044": remedyDatabase + ", or give the user rights in it",
	"1045": remedyLogin + "; where there is an anonymous user ''@'localhost', it goes before 'NAME'@'%': DROP USER ''@'localhost'",
	"1049": remedyDatabase,
	"1130": remedyLogin + ", who may not connect from this host",
	"1142": remedyRights,
	"1143": remedyRights,
	"1698": remedyLogin,
	// SQLite, by the primary result code.
	"sqlite14": remedyFile,
	"sqlite23": remedyFile,
	"sqlite26": "correct the path in the keystore's URL",
}

// withRemedy adds to an error of a database what to do about it.
func withRemedy(err error) error {
	var ofPostgres *pgconn.PgError
	var ofMySQL *mysql.MySQLError
	var ofSQLite *sqlite.Error
	remedy := ""
	switch {
	case errors.As(err, &ofPostgres):
		remedy = remedies[ofPostgres.Code]
	case errors.As(err, &ofMySQL):
		remedy = remedies[strconv.Itoa(int(ofMySQL.Number))]
	case errors.As(err, &ofSQLite):
		remedy = remedies["sqlite"+strconv.Itoa(ofSQLite.Code()&0xff)]
	}
	if remedy == "" {
		remedy = keystore.ReachRemedy(err, "sslrootcert")
	}
	return keystore.WithRemedy(err, remedy)
}
