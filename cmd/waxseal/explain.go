package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"waxseal/milter"
	"waxseal/milter/policy"
)

// explanation is what explain prints: the way to the decision, and its end.
type explanation struct {
	Steps  []policy.Step `json:"steps"`
	Result explained     `json:"result"`
}

// explained is the end of a message's way.
type explained struct {
	Signed    bool     `json:"signed"`
	Domain    string   `json:"domain,omitempty"`
	Beside    []string `json:"beside,omitempty"` // other domains that sign, too
	Selectors []string `json:"selectors,omitempty"`
	Row       string   `json:"row,omitempty"`
	SenderRow string   `json:"sender_row,omitempty"` // what the row is about that the sender query has found
	Cause     string   `json:"cause,omitempty"`
	Action    string   `json:"action,omitempty"`
	Reply     string   `json:"reply,omitempty"`
	Reason    string   `json:"reason"`

	Risks []explainedRisk `json:"risks,omitempty"` // of a whole message
}

// explainedRisk is what may break the signature of the message, or have it
// refused.
type explainedRisk struct {
	Risk   string `json:"risk"`
	Action string `json:"action"` // as [risk] has it
	Why    string `json:"why"`
	Remedy string `json:"remedy"`
}

func (a *app) explainCommand() *cobra.Command {
	var from, listener, daemon string
	var macros []string
	var f factFlags
	c := &cobra.Command{
		Use:   "explain",
		Short: "Tell whether and how a message would be signed, and why",
		Long: `Walk through the rules for a message, and tell at each step what matched and
why, what would be signed with what, and what would change it. The message is
one that is read from standard input, or with --from just an author's address.
The same functions decide as in the daemon. Of a message, it also tells what
may break its signature on the way ([risk] in the configuration). The exit
status is 1 when the message would not be signed.

Without --client, --login and --daemon-name the message counts as handed in on
this machine; with --local it does beside a daemon name, too, which Postfix
always has. The rules are those of the only listener, or of the one that
--listener names.`,
		Example: `  waxseal explain --from ann@example.com --login ann@example.com
  waxseal explain --from ann@example.com --client 203.0.113.9
  waxseal explain --from ann@example.com --local --daemon-name mx.example.com
  waxseal explain --login ann@example.com < message.eml`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			connection, err := f.connection()
			if err != nil {
				return err
			}
			connection.Listener, connection.DaemonName = listener, daemon
			if daemon != "" && !f.local {
				connection.Local = false // another way for mail without a client address to be ours
			}
			for _, m := range macros {
				name, value, _ := strings.Cut(m, "=")
				if name, err = policy.MacroName(name); err != nil {
					return misused(fmt.Errorf("--macro: %w", err))
				}
				if connection.Macros == nil {
					connection.Macros = map[string]string{}
				}
				connection.Macros[name] = value
			}
			var message *rawMessage
			if from != "" {
				if strings.ContainsAny(from, "\r\n") {
					return misused(fmt.Errorf("--from %q has a line end", from))
				}
				message = &rawMessage{fields: []rawField{{"From", " " + from}}, authorOnly: true}
			} else if message, err = readMessage(a.stdin); err != nil {
				return err
			}
			return a.explain(c.Context(), connection, f.login, message)
		},
	}
	a.storeFlags(c)
	a.jsonFlag(c)
	f.add(c)
	c.Flags().StringVar(&from, "from", "", "the `address` of the author, in place of a message on standard input")
	c.Flags().StringVar(&listener, "listener", "", "the `name` of the listener")
	c.Flags().StringVar(&daemon, "daemon-name", "", "the `value` of the macro {daemon_name}")
	c.Flags().StringArrayVar(&macros, "macro", nil, "another macro, `{name}=value`; may be repeated")
	return c
}

// factFlags are the facts of a client that sign and explain are told by flags.
type factFlags struct {
	login, client, mta, host string
	local                    bool
}

func (f *factFlags) add(c *cobra.Command) {
	c.Flags().StringVar(&f.login, "login", "", "the SASL `login` of the client")
	c.Flags().StringVar(&f.client, "client", "", "the IP `address` of the client")
	c.Flags().BoolVar(&f.local, "local", false, "the message is handed in on this machine, as by the sendmail command")
	c.Flags().StringVar(&f.mta, "mta", "", "the mail `server` that will send the message on, as its macro v names it; all but Postfix count as Sendmail")
	c.Flags().StringVar(&f.host, "host", "", "the `name` of that mail server, on which logins without a domain depend (default: that of this machine)")
}

// connection makes facts of the flags. Without a client and a login, the
// message was submitted on this machine.
func (f *factFlags) connection() (policy.Connection, error) {
	if f.local && f.client != "" {
		return policy.Connection{}, misused(errors.New("--local: mail that is handed in on this machine has no --client; leave one of them out"))
	}
	connection := policy.Connection{Local: f.local || f.client == "" && f.login == "", MTA: f.mta, Host: cmp.Or(f.host, hostName())}
	if f.client != "" {
		ip, err := netip.ParseAddr(f.client)
		if err != nil {
			return connection, misused(withHint(fmt.Errorf("--client %q is no IP address", f.client), "write it like 203.0.113.9 or 2001:db8::1"))
		}
		connection.Client = ip.Unmap()
	}
	return connection, nil
}

func (a *app) explain(ctx context.Context, connection policy.Connection, login string, message *rawMessage) error {
	config, err := a.loadConfig()
	if err != nil {
		return err
	}
	if connection.Listener != "" && len(config.Listen) > 0 {
		if _, ok := config.Listen[connection.Listener]; !ok {
			return misused(fmt.Errorf("--listener %q, want one of %s", connection.Listener, strings.Join(sortedKeys(config.Listen), ", ")))
		}
	}
	if connection.Listener == "" {
		connection.Listener = a.onlyListener(config)
	}
	live, err := build(config, a.now, a.warn)
	if err != nil {
		return err
	}
	defer live.close()
	e := explainMessage(ctx, live.settings, connection, login, message, a.now)
	if a.json {
		err = a.printJSON(e)
	} else {
		err = a.printExplanation(e)
	}
	if err == nil && !e.Result.Signed {
		err = errFindings
	}
	return err
}

// onlyListener is the listener that mail comes in by: of several, none, and then
// it tells which have rules that are not looked at.
func (a *app) onlyListener(config *decoded) string {
	names := sortedKeys(config.Listen)
	if len(names) == 1 {
		return names[0]
	}
	for _, name := range names {
		c := config.Listen[name]
		switch {
		case c.Origin != nil:
			a.notice("hint: listener %s has origin rules of its own; for mail that comes in by it, add --listener %s", name, name)
		case c.MTA != milter.MTAAuto || len(c.Masquerade) > 0:
			a.notice("hint: listener %s is told of its mail server; for mail that comes in by it, add --listener %s", name, name)
		}
	}
	return ""
}

// explainMessage takes a message the daemon's way, and has the rules tell theirs.
func explainMessage(ctx context.Context, settings *milter.Settings, connection policy.Connection, login string, message *rawMessage, now clock) explanation {
	facts := policy.Message{Login: login, Fields: map[string][]string{}}
	for _, f := range message.fields {
		if strings.EqualFold(f.name, "From") {
			facts.From = append(facts.From, f.value)
		}
		for _, wanted := range settings.Rules.Fields() {
			if strings.EqualFold(f.name, wanted) {
				facts.Fields[wanted] = append(facts.Fields[wanted], f.value)
			}
		}
	}
	facts.AskSender = settings.Senders != nil
	if d := settings.Rules.Decide(connection, facts); d.Sender != "" {
		if s, err := settings.Senders.Sender(ctx, d.Sender); err == nil {
			facts.Sender = milter.PolicySender(s)
		} // else the result says why
	}
	_, steps := settings.Rules.Explain(connection, facts)
	if message.authorOnly {
		settings = withoutRisks(settings)
	}
	r := signMessage(ctx, settings, connection, login, message, now)
	e := explanation{Steps: steps, Result: explained{
		Signed: r.Signed, Domain: r.Domain, Beside: r.Beside, Selectors: r.Selectors, Row: r.Row, SenderRow: r.SenderRow,
		Cause: string(r.Cause), Action: string(r.Action), Reason: r.Reason,
	}}
	if r.Code > 0 {
		e.Result.Reply = fmt.Sprintf("%d %s", r.Code, r.Text)
	}
	for _, risk := range r.Risks {
		if !message.authorOnly || risk.Name == milter.BadFrom {
			e.Result.Risks = append(e.Result.Risks, explainedRisk{string(risk.Name), string(risk.Action), risk.Why, risk.Remedy})
		}
	}
	return e
}

// withoutRisks returns settings for which only the author counts.
func withoutRisks(s *milter.Settings) *milter.Settings {
	calm := *s
	calm.Risks = milter.RiskActions{}
	for _, name := range milter.RiskNames() {
		calm.Risks[name] = milter.RiskSign
	}
	calm.Risks[milter.BadFrom] = s.Risks[milter.BadFrom]
	return &calm
}

func (a *app) printExplanation(e explanation) error {
	table := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
	for _, s := range e.Steps {
		answer := "no"
		if s.Matched {
			answer = "yes"
		}
		why := s.Why
		if s.Change != "" && !s.Matched {
			why += " (to change it: " + s.Change + ")"
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\n", s.Stage, s.Rule, answer, why)
	}
	r := e.Result
	for _, risk := range r.Risks {
		fmt.Fprintf(table, "risk\t%s\t%s\t%s (remedy: %s)\n", risk.Risk, risk.Action, risk.Why, risk.Remedy)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	switch {
	case r.Signed:
		fmt.Fprintf(a.stdout, "signed as %s with %s\n", strings.Join(append([]string{r.Domain}, r.Beside...), " and "), strings.Join(r.Selectors, " and "))
	case r.Reply != "":
		fmt.Fprintf(a.stdout, "not signed (%s), and refused with %s\n", r.Reason, r.Reply)
	default:
		fmt.Fprintf(a.stdout, "not signed, and accepted as it is: %s\n", r.Reason)
	}
	return nil
}
