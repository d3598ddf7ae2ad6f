package main

import (
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// rooms is the import table of the house: for each package the packages of ours
// and the modules of others that it may import. Packages of tests alone may
// import what they like; any other that is not listed fails the test.
var rooms = map[string]struct{ ours, modules []string }{
	"waxseal/cmd/waxseal": {
		ours: []string{"waxseal/milter", "waxseal/milter/policy", "waxseal/signer", "waxseal/signer/libcrypto", "waxseal/keystore", "waxseal/keystore/dns", "waxseal/keystore/keeper", "waxseal/keystore/sqlstore", "waxseal/keystore/redisstore", "waxseal/keystore/vaultstore", "waxseal/keystore/ldapstore", "waxseal/cmd/waxseal/internal/mta", "waxseal/cmd/waxseal/internal/opendkim", "waxseal/cmd/waxseal/internal/landlock", "waxseal/cmd/waxseal/internal/rspamd", "waxseal/cmd/waxseal/internal/dkimpy", "waxseal/cmd/waxseal/internal/amavis", "waxseal/cmd/waxseal/internal/source"},
		modules: []string{
			"github.com/BurntSushi/toml", "github.com/spf13/cobra",
			"github.com/spf13/pflag", // cobra's flags, for the manual
			"github.com/coreos/go-systemd/v22",
			"github.com/emersion/go-msgauth", // verify
			"github.com/prometheus/client_golang",
			"github.com/fsnotify/fsnotify", // the watch of the configuration file
		},
	},
	"waxseal/cmd/waxseal/internal/landlock": {modules: []string{
		"golang.org/x/sys", // the numbers of <linux/landlock.h>
	}},
	"waxseal/cmd/waxseal/internal/mta":      {ours: []string{"waxseal/milter"}},
	"waxseal/cmd/waxseal/internal/source":   {},
	"waxseal/cmd/waxseal/internal/opendkim": {ours: []string{"waxseal/cmd/waxseal/internal/source"}},
	"waxseal/cmd/waxseal/internal/amavis":   {ours: []string{"waxseal/cmd/waxseal/internal/source"}},
	"waxseal/cmd/waxseal/internal/dkimpy":   {ours: []string{"waxseal/cmd/waxseal/internal/source"}},
	"waxseal/cmd/waxseal/internal/rspamd":   {ours: []string{"waxseal/cmd/waxseal/internal/source"}, modules: []string{"golang.org/x/net"}}, // public suffixes, by which rspamd shortens domains
	"waxseal/milter": {
		ours:    []string{"waxseal/milter/policy", "waxseal/signer", "waxseal/keystore"},
		modules: []string{"github.com/d--j/go-milter", "github.com/prometheus/client_golang"},
	},
	"waxseal/milter/policy":    {modules: []string{"golang.org/x/net"}},
	"waxseal/signer":           {},
	"waxseal/signer/libcrypto": {modules: []string{"github.com/ebitengine/purego"}},
	"waxseal/keystore": {modules: []string{
		"github.com/BurntSushi/toml", "github.com/maypok86/otter/v2",
		"github.com/fsnotify/fsnotify", // Dir's file watch
	}},
	"waxseal/keystore/dns":    {ours: []string{"waxseal/keystore"}, modules: []string{"github.com/miekg/dns"}},
	"waxseal/keystore/keeper": {ours: []string{"waxseal/keystore", "waxseal/keystore/dns"}},
	"waxseal/keystore/sqlstore": {ours: []string{"waxseal/keystore"}, modules: []string{
		"github.com/jackc/pgx/v5", "github.com/go-sql-driver/mysql", "modernc.org/sqlite",
	}},
	"waxseal/keystore/sqlstore/sqltest":     {},
	"waxseal/keystore/dns/dnstest":          {modules: []string{"github.com/miekg/dns"}},
	"waxseal/contrib/bench":                 {modules: []string{"github.com/emersion/go-msgauth"}},
	"waxseal/keystore/storetest":            {ours: []string{"waxseal/keystore"}},
	"waxseal/keystore/redisstore":           {ours: []string{"waxseal/keystore"}, modules: []string{"github.com/redis/rueidis"}},
	"waxseal/keystore/vaultstore/vaulttest": {},
	"waxseal/keystore/vaultstore":           {ours: []string{"waxseal/keystore"}, modules: []string{"golang.org/x/net"}}, // A-labels of what Mailu has in U-labels
	"waxseal/keystore/ldapstore":            {ours: []string{"waxseal/keystore"}, modules: []string{"github.com/go-ldap/ldap/v3"}},
}

func TestImportsFollowTheTable(t *testing.T) {
	type pkg struct {
		ImportPath string
		Standard   bool
		GoFiles    []string
		Imports    []string
		Module     *struct{ Path string }
	}
	command := exec.Command("go", "list", "-deps", "-json=ImportPath,Standard,GoFiles,Imports,Module", "waxseal/...")
	command.Stderr = os.Stderr
	out, err := command.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	module := map[string]string{} // import path → module; "" for the standard library
	var ours []pkg
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		if err := d.Decode(&p); err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		if p.Module != nil {
			module[p.ImportPath] = p.Module.Path
		}
		if p.Module != nil && p.Module.Path == "waxseal" && len(p.GoFiles) > 0 {
			ours = append(ours, p)
		}
	}
	for _, p := range ours {
		room, ok := rooms[p.ImportPath]
		if !ok {
			t.Errorf("%s is in no room: add it to the table, if it belongs there", p.ImportPath)
			continue
		}
		for _, i := range p.Imports {
			switch m := module[i]; {
			case m == "":
			case m == "waxseal":
				if !slices.Contains(room.ours, i) {
					t.Errorf("%s imports %s, which the table does not allow", p.ImportPath, i)
				}
			case !slices.Contains(room.modules, m):
				t.Errorf("%s imports %s of module %s, which the table does not allow", p.ImportPath, i, m)
			}
		}
	}
	if len(ours) < 5 {
		t.Errorf("only %d packages seen", len(ours))
	}
}
