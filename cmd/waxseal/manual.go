package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// manualCommand writes what packages install beside the program. It is hidden, as
// nobody else needs it.
func (a *app) manualCommand() *cobra.Command {
	var date string
	c := &cobra.Command{
		Use:     "manual DIR",
		Short:   "Write the manual pages into a directory",
		Example: `  waxseal manual --date 2026-11-22 .`,
		Hidden:  true,
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if date == "" {
				date = a.now().UTC().Format(time.DateOnly)
			}
			for name, text := range manuals(c.Root(), date) {
				if err := os.WriteFile(filepath.Join(args[0], name), []byte(text), 0o644); err != nil {
					return err
				}
			}
			return nil
		},
	}
	c.Flags().StringVar(&date, "date", "", "`day` that the pages are of (default: today)")
	return c
}

// manuals returns the manual pages by file name: waxseal.1, one for each command
// below it, and waxseal.toml.5. They are made of the help and of the comments of
// the settings.
func manuals(root *cobra.Command, date string) map[string]string {
	pages := map[string]string{"waxseal.toml.5": configManual(date)}
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		pages[manualName(c)+".1"] = commandManual(c, date)
		for _, below := range documented(c) {
			walk(below)
		}
	}
	root.InitDefaultCompletionCmd()
	walk(root)
	return pages
}

// documented returns the commands directly below one that are for everybody.
func documented(c *cobra.Command) []*cobra.Command {
	var all []*cobra.Command
	for _, below := range c.Commands() {
		if below.IsAvailableCommand() && below.Name() != "help" {
			all = append(all, below)
		}
	}
	return all
}

// manualName is "waxseal-key-new" for "waxseal key new".
func manualName(c *cobra.Command) string { return strings.ReplaceAll(c.CommandPath(), " ", "-") }

// manual is a page under construction, in the macros of man(7).
type manual struct{ strings.Builder }

func newManual(name, section, date, short string) *manual {
	m := &manual{}
	fmt.Fprintf(m, ".TH %s %s %s waxseal waxseal\n", roff(strings.ToUpper(name)), section, date)
	m.section("NAME")
	fmt.Fprintf(m, "%s \\-\n%s\n", roff(name), roff(lowerFirst(short)))
	return m
}

func (m *manual) section(title string) { fmt.Fprintf(m, ".SH %s\n", roff(title)) }

// paragraphs writes text whose paragraphs are separated by blank lines. Those
// that begin with a tab are commands.
func (m *manual) paragraphs(text string) {
	for i, p := range strings.Split(strings.TrimSpace(text), "\n\n") {
		if i > 0 {
			m.WriteString(".PP\n")
		}
		if strings.HasPrefix(p, "\t") {
			m.literal(p)
		} else {
			m.lines(p)
		}
	}
}

// lines writes text in lines that mandoc finds short enough.
func (m *manual) lines(text string) {
	line := ""
	for word := range strings.FieldsSeq(text) {
		if line != "" && len(roff(line+" "+word)) > 78 {
			fmt.Fprintf(m, "%s\n", roff(line))
			line = ""
		}
		line = strings.TrimSpace(line + " " + word)
	}
	fmt.Fprintf(m, "%s\n", roff(line))
}

// literal writes lines as they are.
func (m *manual) literal(text string) {
	m.WriteString(".nf\n.RS 4\n")
	for line := range strings.Lines(text) {
		fmt.Fprintf(m, "%s\n", roff(strings.TrimRight(strings.TrimPrefix(line, "\t"), "\n")))
	}
	m.WriteString(".RE\n.fi\n")
}

// item writes a term in bold and what it means.
func (m *manual) item(term, text string) {
	fmt.Fprintf(m, ".TP\n\\fB%s\\fR\n", roff(term))
	for i, p := range strings.Split(strings.TrimSpace(text), "\n\n") {
		if i > 0 {
			m.WriteString(".IP\n")
		}
		m.lines(p)
	}
}

// roff writes plain text so that it comes out as it is, with hyphens that can be
// copied (groff_char(7)).
func roff(s string) string {
	s = strings.NewReplacer(`\`, `\e`, "-", `\-`, "'", `\(aq`, "`", `\(ga`, "^", `\(ha`, "~", `\(ti`, "–", `\(en`, "…", `\&...`, "→", `\(->`).Replace(s)
	if strings.HasPrefix(s, ".") {
		s = `\&` + s
	}
	return s
}

func lowerFirst(s string) string {
	if len(s) > 1 && s[1] >= 'a' && s[1] <= 'z' {
		return strings.ToLower(s[:1]) + s[1:]
	}
	return s // such as DKIM
}

// commandManual is the page of one command.
func commandManual(c *cobra.Command, date string) string {
	m := newManual(manualName(c), "1", date, c.Short)
	m.section("SYNOPSIS")
	if c.HasAvailableSubCommands() {
		fmt.Fprintf(m, "\\fB%s\\fR COMMAND\n", roff(c.CommandPath()))
	} else {
		fmt.Fprintf(m, "\\fB%s\\fR%s\n", roff(c.CommandPath()), roff(strings.TrimPrefix(c.UseLine(), c.CommandPath())))
	}
	m.section("DESCRIPTION")
	text := c.Long
	if text == "" {
		text = c.Short + "."
	}
	m.paragraphs(text)
	below := documented(c)
	if len(below) > 0 {
		m.section("COMMANDS")
		for _, b := range below {
			m.item(strings.TrimPrefix(b.CommandPath(), c.Root().Name()+" "), b.Short)
		}
	}
	if c.LocalFlags().HasAvailableFlags() {
		m.section("OPTIONS")
		c.LocalFlags().VisitAll(func(f *pflag.Flag) {
			if !f.Hidden {
				m.item(flagTerm(f), flagText(f))
			}
		})
	}
	if c.Example != "" {
		m.section("EXAMPLES")
		m.literal(c.Example)
	}
	m.section("EXIT STATUS")
	m.lines("0 when all is done, 1 for findings or failure, 2 for misuse.")
	if c == c.Root() {
		m.section("FILES")
		m.item(defaultConfigFile, "The configuration, which may be absent; see waxseal.toml(5).")
		m.item(strings.TrimPrefix(defaultConfig().Keystore.URL, "dir:"), "The keystore, where the configuration names no other.")
		m.item(strings.TrimPrefix(defaultSocket, "unix:"), "The socket for the mail server, where the configuration names no other.")
	}
	m.section("SEE ALSO")
	m.lines(strings.Join(related(c, below), ", "))
	return m.String()
}

// related names the pages above and below a command's.
func related(c *cobra.Command, below []*cobra.Command) []string {
	var pages []string
	if c.HasParent() {
		pages = append(pages, manualName(c.Parent())+"(1)")
	}
	for _, b := range below {
		pages = append(pages, manualName(b)+"(1)")
	}
	return append(pages, "waxseal.toml(5)")
}

// flagTerm is a flag with the name of its value.
func flagTerm(f *pflag.Flag) string {
	term := "--" + f.Name
	if f.Shorthand != "" {
		term = "-" + f.Shorthand + ", " + term
	}
	if value, _ := pflag.UnquoteUsage(f); value != "" {
		term += " " + strings.ToUpper(value)
	}
	return term
}

// flagText is what a flag means, and its default where that is worth telling.
func flagText(f *pflag.Flag) string {
	_, text := pflag.UnquoteUsage(f)
	switch f.DefValue {
	case "", "false", "0", "[]", "0s":
	default:
		text += " (default " + f.DefValue + ")"
	}
	return text
}

const configIntroduction = `The file is TOML. Every setting has a default, and the whole file may be absent.
After a change, "waxseal check" names all its problems at once, and the daemon
takes it by itself, or at once by SIGHUP; a setting that needs a restart instead
says so.

NAME stands for a name of your choice. What stands behind a setting here is its
default. "waxseal config example" prints the same as a file.`

// configManual is the page of the configuration file.
func configManual(date string) string {
	m := newManual("waxseal.toml", "5", date, "configuration of the DKIM signing milter waxseal")
	m.section("DESCRIPTION")
	m.paragraphs(configIntroduction)
	for _, s := range settings() {
		if s.table {
			m.section("[" + s.key + "]")
			m.paragraphs(s.comment)
			continue
		}
		_, name, _ := cutLast(s.key, ".")
		m.item(name+" = "+strings.Join(strings.Fields(s.value), " "), s.comment)
	}
	m.section("FILES")
	m.item(defaultConfigFile, "The configuration, which may be absent.")
	m.section("SEE ALSO")
	m.lines("waxseal(1), waxseal-check(1), waxseal-config-example(1)")
	return m.String()
}
