package sqlstore_test

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"waxseal/keystore/sqlstore"
)

// Where contrib/products has the rights that reading a panel's keys takes, they are
// enough, and nothing can be written with them.
func TestRightsOfTheRecipesAreEnough(t *testing.T) {
	text, err := os.ReadFile("../../contrib/products/README.md")
	if err != nil {
		t.Fatal(err)
	}
	key := rsaKey(t)
	p := places[slices.IndexFunc(places, func(p place) bool { return p.name == "MariaDB" })]
	for _, l := range layouts {
		row := regexp.MustCompile("(?m)^\\| [^|]* \\| `" + l.preset + "` \\| (.*) \\|$").FindSubmatch(text)
		if row == nil {
			continue // not in the table of panels
		}
		t.Run(l.preset, func(t *testing.T) {
			u, _ := p.url(t, "")
			private := string(key)
			if l.private != nil {
				private = l.private(t, key)
			}
			db := p.direct(t, u)
			for _, s := range l.statements {
				execute(t, db, strings.ReplaceAll(s, "'P'", "'"+private+"'"))
			}
			reader := "reader_" + l.preset
			execute(t, db, "CREATE USER "+reader+" IDENTIFIED BY 'loopback only'")
			grants := regexp.MustCompile(`GRANT [^;]*;`).FindAllString(string(row[1]), -1)
			if len(grants) == 0 {
				t.Fatalf("no GRANT in %s", row[1])
			}
			for _, grant := range grants {
				grant = regexp.MustCompile(` ON (\w+\.)?`).ReplaceAllString(grant, " ON "+databaseOf(u)+".")
				execute(t, db, strings.Replace(grant, "TO waxseal;", "TO "+reader, 1))
			}
			u = strings.Replace(u, "//waxseal@", "//"+reader+"@", 1)
			s, err := sqlstore.OpenForeign(u+"&preset="+l.preset, sqlstore.Queries{}, sqlstore.Options{})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			checkForeign(t, s, l.selectors, l.list, l.absent)
		})
	}
}
