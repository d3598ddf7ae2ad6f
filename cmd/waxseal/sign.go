package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"waxseal/milter"
	"waxseal/milter/policy"
	"waxseal/signer"
)

func (a *app) signCommand() *cobra.Command {
	var domain, selector string
	var f factFlags
	c := &cobra.Command{
		Use:   "sign",
		Short: "Sign a message as the daemon would",
		Long: fmt.Sprintf(`Sign the message on standard input and print it with its signatures on top. The
message takes the same way as in the daemon: the same rules, keys and settings.
Without --login and --client it counts as submitted on this machine.

When the message is not signed, nothing is printed but the reason, and the exit
status is 1. It is also 1 if the output could not be written to its end, or if a
file changed while it was signed; such an output is to be thrown away.

A file on standard input is read twice. Of a pipe, what is over %d MiB is kept in
a temporary file (in TMPDIR), which has no name.`, spoolMemory>>20),
		Example: `  waxseal sign < message.eml > signed.eml
  waxseal sign --login ann@example.com --client 203.0.113.9 < message.eml`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			connection, err := f.connection()
			if err != nil {
				return err
			}
			return a.sign(c.Context(), connection, f.login, domain, selector)
		},
	}
	a.storeFlags(c)
	f.add(c)
	c.Flags().StringVar(&domain, "domain", "", "sign as this `domain` instead of the author's")
	c.Flags().StringVar(&selector, "selector", "", "sign with this active `selector` only")
	return c
}

// hostName is the name of this machine, or nothing.
func hostName() string {
	name, _ := os.Hostname()
	return name
}

func (a *app) sign(ctx context.Context, connection policy.Connection, login, domain, selector string) error {
	config, err := a.loadConfig()
	if err != nil {
		return err
	}
	live, err := build(config, a.now, a.warn)
	if err != nil {
		return err
	}
	defer live.close()
	if names := sortedKeys(config.Listen); len(names) == 1 {
		connection.Listener = names[0] // whose rules, and whose mail server, are those of all mail
	}
	settings := *live.settings
	if domain != "" {
		if settings.Domain, err = policy.Domain(domain); err != nil {
			return misused(err)
		}
	}
	settings.Selector = strings.ToLower(selector)

	in, err := newSpool(a.stdin, a.stdout)
	if err != nil {
		return err
	}
	defer in.close()
	message, err := readMessage(in)
	if err != nil {
		return err
	}
	result := signMessage(ctx, &settings, connection, login, message, a.now)
	for _, risk := range result.Risks {
		a.notice("risk %s: %s", risk.Name, risk.Why)
		a.notice("hint: %s", risk.Remedy)
	}
	if !result.Signed {
		return fmt.Errorf("not signed: %s", result.Reason)
	}
	for _, broken := range result.Broken {
		a.notice("%v", broken)
	}
	lineEnd := "\n"
	if message.crlf {
		lineEnd = "\r\n"
	}
	for _, f := range result.Fields {
		text := f.Name + ":" + f.Value + "\n"
		if _, err := a.stdout.Write([]byte(strings.ReplaceAll(text, "\n", lineEnd))); err != nil {
			return err
		}
	}
	return in.copy()
}

// signMessage takes a whole message through a transaction.
func signMessage(ctx context.Context, settings *milter.Settings, connection policy.Connection, login string, m *rawMessage, now clock) *milter.Result {
	tx, result := settings.Begin(connection, login, "", true, signer.New(signer.Options{}))
	if result != nil {
		return result
	}
	defer tx.Abort()
	for _, f := range m.fields {
		tx.Field(f.name, f.value)
	}
	if result := tx.EndOfHeader(ctx); result != nil {
		return result
	}
	if m.body != nil {
		if _, err := io.Copy(tx, m.body); err != nil {
			return &milter.Result{Reason: err.Error()}
		}
	}
	return tx.End(ctx, now())
}
