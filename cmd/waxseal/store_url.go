package main

// How the URL of a keystore is written.

import (
	"embed"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

// urlTexts are what the packages of the stores say of their URLs. A test keeps them
// so; with -update it writes them.
//
//go:embed url
var urlTexts embed.FS

// urlKinds are the names of these texts, in the order in which they are told.
var urlKinds = []struct{ name, title string }{
	{"sqlstore", "PostgreSQL, MySQL and MariaDB, SQLite"},
	{"redisstore", "Redis, Valkey"},
	{"vaultstore", "Vault, OpenBao"},
	{"ldapstore", "LDAP"},
}

func (a *app) storeURLCommand() *cobra.Command {
	var b strings.Builder
	b.WriteString(`Tell how the URL of a keystore is written, with all options: in the setting
keystore.url, behind --keystore, and for "waxseal store copy".

A directory of this machine is

	dir:PATH

or a path alone, and has no options. A file that holds a secret may be named as
credential:NAME, which is what systemd has handed over (LoadCredential=).
`)
	for _, kind := range urlKinds {
		text, err := urlTexts.ReadFile("url/" + kind.name + ".txt")
		if err != nil {
			panic(err) // the program is built without it
		}
		fmt.Fprintf(&b, "\n%s. %s", kind.title, text)
	}
	c := &cobra.Command{
		Use:     "url",
		Short:   "Tell how the URL of a keystore is written",
		Long:    strings.TrimSuffix(b.String(), "\n"),
		Example: `  waxseal store url | less`,
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			_, err := fmt.Fprintln(a.stdout, c.Long)
			return err
		},
	}
	return c
}
