package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"waxseal/cmd/waxseal/internal/mta"
	"waxseal/milter"
)

const (
	defaultSendmailCF = "/etc/mail/sendmail.cf"
	defaultPostconf   = "/usr/sbin/postconf"
)

// doctorFlags are where doctor looks.
type doctorFlags struct {
	configDir, cf, mc string
	sockets           []string
	connect           string
}

// diagnosis is what doctor prints.
type diagnosis struct {
	MTA      string        `json:"mta"` // postfix or sendmail
	Version  string        `json:"version,omitempty"`
	File     string        `json:"file"`                // or directory
	Tried    []string      `json:"connected,omitempty"` // as whom, and where
	Findings []mta.Finding `json:"findings"`
}

func (a *app) doctorCommand() *cobra.Command {
	var f doctorFlags
	c := &cobra.Command{
		Use:   "doctor [postfix|sendmail]",
		Short: "Find what will go wrong between the mail server and waxseal",
		Long: `Read the set-up of Postfix (by postconf) or Sendmail (sendmail.cf and the .mc
file beside it), and tell what will keep mail from being signed, what will change
it after it is signed, and how to mend it. It connects to waxseal as the mail
server's own user would, for which it has to be run by root. It changes nothing.

Without an argument it is about Postfix where that is installed, and else about
Sendmail. Where waxseal listens is taken from its configuration, or from --socket.
The exit status is 1 when there is an error; warnings and notes do not count.`,
		Example: `  waxseal doctor
  waxseal doctor postfix --config-dir /etc/postfix --socket unix:/run/waxseal/milter.sock
  waxseal doctor sendmail --cf /etc/mail/sendmail.cf`,
		Args:      cobra.MatchAll(cobra.MaximumNArgs(1), cobra.OnlyValidArgs),
		ValidArgs: []string{"postfix", "sendmail"},
		RunE: func(c *cobra.Command, args []string) error {
			if f.connect != "" {
				return a.connectAs(c.Context(), f.connect)
			}
			d, err := a.doctor(c.Context(), strings.Join(args, ""), f)
			if err != nil {
				return err
			}
			if a.json {
				err = a.printJSON(d)
			} else {
				a.printDiagnosis(d)
			}
			if err == nil && slices.ContainsFunc(d.Findings, func(f mta.Finding) bool { return f.Severity == mta.Error }) {
				err = errFindings
			}
			return err
		},
	}
	a.configFlag(c)
	a.jsonFlag(c)
	c.Flags().StringVar(&f.configDir, "config-dir", "", "the `directory` of Postfix's main.cf (default: what postconf takes)")
	c.Flags().StringVar(&f.cf, "cf", "", "Sendmail's configuration `file` (default "+defaultSendmailCF+")")
	c.Flags().StringVar(&f.mc, "mc", "", "the `file` that it is built from (default: the one beside it); without --cf, go by this alone")
	c.Flags().StringArrayVar(&f.sockets, "socket", nil, "the `address` where waxseal listens, in place of those in its configuration; may be repeated")
	c.Flags().StringVar(&f.connect, "connect", "", "connect to this `address`, as doctor has it done by the mail server's user")
	_ = c.Flags().MarkHidden("connect") // the flag is there
	return c
}

func (a *app) printDiagnosis(d *diagnosis) {
	for _, f := range d.Findings {
		fmt.Fprintf(a.stdout, "%s: %s: %s\n", f.Severity, f.Where, f.Problem)
		if f.Remedy != "" {
			fmt.Fprintf(a.stdout, "  remedy: %s\n", f.Remedy)
		}
	}
	for _, t := range d.Tried {
		fmt.Fprintf(a.stdout, "connected %s\n", t)
	}
	if len(d.Findings) == 0 {
		fmt.Fprintf(a.stdout, "ok: nothing found in the set-up of %s in %s\n", d.MTA, d.File)
	}
}

// doctor examines the named mail server, or the one that is there.
func (a *app) doctor(ctx context.Context, name string, f doctorFlags) (*diagnosis, error) {
	setup, err := a.doctorSetup(f)
	if err != nil {
		return nil, err
	}
	if name == "" {
		if name, err = mailServer(f); err != nil {
			return nil, err
		}
	}
	d := &diagnosis{MTA: name, Findings: []mta.Finding{}}
	var connections []mta.Connection
	if name == "postfix" {
		if f.cf != "" || f.mc != "" {
			return nil, misused(errors.New("--cf and --mc are for Sendmail"))
		}
		p, err := mta.ReadPostfix(ctx, mta.PostfixOptions{ConfigDir: f.configDir, Command: postconfCommand()})
		if err != nil {
			return nil, withHint(err, "repair it until \"postfix check\" is content, or name the directory of main.cf with --config-dir")
		}
		d.Version, d.File = p.Version, p.Dir
		d.Findings = append(d.Findings, p.Check(setup)...)
		connections = p.Connections(setup)
	} else {
		if f.configDir != "" {
			return nil, misused(errors.New("--config-dir is for Postfix"))
		}
		cf, mc := sendmailFiles(f)
		s, err := mta.ReadSendmail(cf, mc)
		if err != nil {
			return nil, withHint(err, "name Sendmail's configuration with --cf, or the file it is built from with --mc")
		}
		d.Version, d.File = s.Version, s.File
		d.Findings = append(d.Findings, s.Check(setup)...)
		connections = s.Connections(setup)
	}
	for _, c := range connections {
		a.try(ctx, c, d)
	}
	d.Findings = append(d.Findings, mta.CheckClock(a.now())...)
	mta.Sort(d.Findings)
	return d, nil
}

// doctorSetup tells where waxseal listens, whether loopback is ours there, and
// what it was told of the mail server.
func (a *app) doctorSetup(f doctorFlags) (mta.Setup, error) {
	setup := mta.Setup{Host: hostName()}
	if len(f.sockets) > 0 {
		for _, given := range f.sockets {
			address, err := milter.ParseAddress(given)
			if err != nil {
				return setup, misused(fmt.Errorf("--socket: %w", err))
			}
			setup.Sockets = append(setup.Sockets, address)
		}
		setup.LoopbackIsOurs = true // as by default
		return setup, nil
	}
	config, err := a.loadConfig()
	if err != nil {
		return setup, withHint(err, "or say where waxseal listens with --socket")
	}
	peers, found := buildPeers(config)
	if len(found) > 0 {
		return setup, withHint(errors.New("the settings of listeners are wrong"), "run \"waxseal check\"")
	}
	setup.Peers = map[milter.Address]milter.Peer{}
	for _, name := range sortedKeys(config.Listen) {
		c := config.Listen[name]
		if c.Address.Address.Address != "" {
			setup.Sockets = append(setup.Sockets, c.Address.Address)
			setup.Peers[c.Address.Address] = peers[name]
		}
		origin := &config.Origin
		if c.Origin != nil {
			origin = c.Origin
		}
		setup.LoopbackIsOurs = setup.LoopbackIsOurs || trustsLoopback(origin)
	}
	if len(config.Listen) == 0 {
		setup.Sockets = []milter.Address{{Network: "unix", Address: strings.TrimPrefix(defaultSocket, "unix:")}}
		setup.LoopbackIsOurs = trustsLoopback(&config.Origin)
	}
	if len(setup.Sockets) == 0 {
		return setup, withHint(errors.New("no listener has an address"), "run \"waxseal check\"")
	}
	return setup, nil
}

func trustsLoopback(o *OriginConfig) bool {
	return o.All || slices.ContainsFunc(o.Networks, func(n string) bool {
		return strings.HasPrefix(n, "127.") || strings.HasPrefix(n, "::1") || n == "0.0.0.0/0" || n == "::/0"
	})
}

// mailServer tells which mail server to look at.
func mailServer(f doctorFlags) (string, error) {
	switch {
	case f.cf != "" || f.mc != "":
		return "sendmail", nil
	case f.configDir != "" || postconfCommand() != "":
		return "postfix", nil
	}
	if _, err := os.Stat(defaultSendmailCF); err == nil {
		return "sendmail", nil
	}
	return "", withHint(errors.New("neither Postfix nor Sendmail is here: no postconf, and no "+defaultSendmailCF), "name Sendmail's configuration with --cf")
}

// postconfCommand finds postconf, which is often not on the path of users; empty
// when it is not there.
func postconfCommand() string {
	if path, err := exec.LookPath("postconf"); err == nil {
		return path
	}
	if _, err := os.Stat(defaultPostconf); err == nil {
		return defaultPostconf
	}
	return ""
}

// sendmailFiles are the files to read: the .mc file is beside sendmail.cf, and
// may be missing.
func sendmailFiles(f doctorFlags) (cf, mc string) {
	cf, mc = f.cf, f.mc
	if cf == "" && mc == "" {
		cf = defaultSendmailCF
	}
	if mc == "" {
		mc = strings.TrimSuffix(cf, filepath.Ext(cf)) + ".mc"
	}
	return cf, mc
}
