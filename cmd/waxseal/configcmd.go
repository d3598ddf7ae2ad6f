package main

import "github.com/spf13/cobra"

func (a *app) configCommand() *cobra.Command {
	return group("config", "Show what can be configured", &cobra.Command{
		Use:     "example",
		Short:   "Print an annotated configuration file with all settings and defaults",
		Example: `  waxseal config example > waxseal.toml`,
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			return writeExample(a.stdout)
		},
	})
}
