package main

// What an import tells: all lines, keys and the comparison.

import (
	"fmt"
	"text/tabwriter"
)

// printImport prints all lines, keys and cases.
func (a *app) printImport(t *takeover, text string, c *comparison) error {
	if a.json {
		lines, keys := t.lines, t.keys
		if lines == nil {
			lines = []importedLine{}
		}
		if keys == nil {
			keys = []*importedKey{}
		}
		return a.printJSON(struct {
			Lines         []importedLine `json:"lines"`
			Keys          []*importedKey `json:"keys"`
			Configuration string         `json:"configuration"`
			Comparison    *comparison    `json:"comparison"`
		}{lines, keys, text, c})
	}
	var rows [][]string
	for _, result := range []string{lineRefused, lineOpen, lineDropped, lineTaken, lineDefault, lineNotNeeded} {
		for _, l := range t.lines {
			if l.Result != result {
				continue
			}
			why := l.Why
			if l.Remedy != "" {
				why += "; " + l.Remedy
			}
			rows = append(rows, []string{l.Result, l.Place, l.Setting, why})
		}
	}
	a.printTable("Lines of "+t.program+", and what becomes of them", rows)
	rows = nil
	for _, k := range t.keys {
		state := "new in the keystore"
		if k.there {
			state = "in the keystore already"
		}
		rows = append(rows, []string{k.Domain, k.Selector, string(k.Algorithm), k.Created.Format("2006-01-02"), k.From, state})
	}
	a.printTable("Keys, active; their records in DNS stay as they are", rows)
	if a.dryRun {
		fmt.Fprintf(a.stdout, "Configuration that would be written\n%s\n", text)
	}
	rows = nil
	const most = 40 // of those that are the same
	same := 0
	for _, each := range c.Cases {
		if each.Result == "same" {
			if same++; same > most {
				continue
			}
		}
		what := each.Theirs
		if each.Result != "same" {
			what = t.program + ": " + each.Theirs + "; waxseal: " + each.Ours
		}
		rows = append(rows, []string{each.Result, each.From, each.Client, what})
	}
	a.printTable(fmt.Sprintf("Comparison of %d messages, %d with a difference", len(c.Cases), c.Different), rows)
	if same > most {
		fmt.Fprintf(a.stdout, "and %d more that are the same; --json has all\n", same-most)
	}
	return nil
}

// printTable prints lines of cells under a title, if there are any.
func (a *app) printTable(title string, rows [][]string) {
	if len(rows) == 0 {
		return
	}
	fmt.Fprintf(a.stdout, "%s\n", title)
	table := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
	for _, r := range rows {
		for i, cell := range r {
			if i > 0 {
				fmt.Fprint(table, "\t")
			}
			fmt.Fprint(table, cell)
		}
		fmt.Fprintln(table)
	}
	_ = table.Flush()
	fmt.Fprintln(a.stdout)
}
