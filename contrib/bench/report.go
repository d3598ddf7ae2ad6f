//go:build linux

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
)

// report is all that was found, as -json writes it.
type report struct {
	Command  string    `json:"command"`
	Machine  machine   `json:"machine"`
	Programs []version `json:"programs"`
	Missing  []string  `json:"not_installed,omitempty"`
	Rounds   int       `json:"rounds"`
	Turn     float64   `json:"turn_seconds"`
	Tables   []*table  `json:"comparisons"`
	Holdings []holding `json:"memory,omitempty"`
	Behind   []behind  `json:"behind_postfix,omitempty"`
}

// version tells which program was measured.
type version struct {
	Program string `json:"program"`
	Version string `json:"version"`
	Path    string `json:"path"`
}

func (r *report) writeFile(name string) error {
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(name, append(b, '\n'), 0o644)
}

// ourFailure returns the first failure of waxseal: that is a finding, whereas
// others are only named in the tables.
func (r *report) ourFailure() error {
	for _, t := range r.Tables {
		for _, p := range t.Rows {
			if p.Ours && p.Failures > 0 {
				return fmt.Errorf("%s, %s, %s: %s", p.Program, t.Work, t.Transport, p.Failure)
			}
		}
	}
	for _, h := range r.Holdings {
		if h.Ours && h.Failure != "" {
			return fmt.Errorf("%s, memory: %s", h.Program, h.Failure)
		}
	}
	for _, b := range r.Behind {
		if b.Ours && b.Failure != "" {
			return fmt.Errorf("%s, behind Postfix, %s: %s", b.Program, b.Transport, b.Failure)
		}
	}
	return nil
}

// printHead prints what one needs to repeat the measurement.
func (r *report) printHead(w io.Writer) {
	line := func(name, value string) { fmt.Fprintf(w, "%-14s %s\n", name, value) }
	m := r.Machine
	ifma := "without avx512ifma"
	if m.IFMA {
		ifma = "with avx512ifma"
	}
	line("command", r.Command)
	line("date", m.Date)
	line("machine", fmt.Sprintf("%d × %s, %s; Linux %s; load average %s", m.Processors, m.Model, ifma, m.Kernel, m.LoadBefore))
	line("libcrypto", m.Libcrypto)
	for _, p := range r.Programs {
		line(p.Program, p.Version)
	}
	if m.Postfix != "" {
		line("Postfix", m.Postfix)
	}
	for _, missing := range r.Missing {
		line("not installed", missing)
	}
	line("rounds", fmt.Sprintf("%d, each program signing for %.1f s in each", r.Rounds, r.Turn))
}

// print prints a comparison. In parentheses is the ratio to the best of the
// others, for which more is better in the column of rates, and less elsewhere.
func (t *table) print(w io.Writer) {
	connections := fmt.Sprintf("%d connections", t.Connections)
	fmt.Fprintf(w, "\n%s; %s, %s\n", t.Work, connections, t.Transport)
	fmt.Fprintf(w, "%-14s %15s %15s %15s %15s %15s %9s %9s\n", "", "CPU µs/message", "messages/s", "end median ms", "end p99 ms", "peak MB", "messages", "verified")
	columns := []struct {
		figure func(row) float64
		most   bool // more is better
	}{
		{func(r row) float64 { return r.CPU }, false},
		{func(r row) float64 { return r.Rate }, true},
		{func(r row) float64 { return r.EndMedian / 1000 }, false},
		{func(r row) float64 { return r.EndP99 / 1000 }, false},
		{func(r row) float64 { return r.Peak / (1 << 20) }, false},
	}
	for _, r := range t.Rows {
		fmt.Fprintf(w, "%-14s", r.Program)
		if r.Messages == 0 {
			fmt.Fprintf(w, " failed: %s\n", r.Failure)
			continue
		}
		for _, c := range columns {
			best := t.bestOfOthers(c.figure, c.most)
			fmt.Fprintf(w, " %15s", short(c.figure(r))+ratio(c.figure(r), best))
		}
		fmt.Fprintf(w, " %9d %9d", r.Messages, r.Verified)
		if r.Failures > 0 {
			fmt.Fprintf(w, ", %d failed: %s", r.Failures, r.Failure)
		}
		fmt.Fprintln(w)
	}
}

// bestOfOthers returns the best figure of a program that is not ours and has
// not failed, and 0 when there is none.
func (t *table) bestOfOthers(figure func(row) float64, most bool) float64 {
	best := 0.0
	for _, r := range t.Rows {
		if f := figure(r); !r.Ours && r.Failures == 0 && f > 0 && (best == 0 || (f > best) == most) {
			best = f
		}
	}
	return best
}

// short prints a figure with three digits that count.
func short(figure float64) string {
	switch {
	case figure >= 100:
		return fmt.Sprintf("%.0f", figure)
	case figure >= 10:
		return fmt.Sprintf("%.1f", figure)
	case figure >= 1:
		return fmt.Sprintf("%.2f", figure)
	}
	return fmt.Sprintf("%.3f", figure)
}

// ratio prints a figure as a multiple of the best, in parentheses.
func ratio(figure, best float64) string {
	r := figure / best
	switch {
	case best == 0:
		return ""
	case r >= 9.95:
		return fmt.Sprintf(" (%.0f)", r)
	case r >= 0.095:
		return fmt.Sprintf(" (%.2f)", r)
	}
	return fmt.Sprintf(" (%.1g)", r)
}

// printSummary prints the ratio of CPU per message, ours to that of each other.
func (r *report) printSummary(w io.Writer) {
	var loaded []string
	for _, t := range r.Tables {
		for _, p := range t.Rows {
			if len(p.Libraries) > 0 && !slices.Contains(loaded, p.Program) {
				loaded = append(loaded, p.Program)
			}
		}
	}
	fmt.Fprintf(w, "\nlibcrypto was loaded by: %s\n", strings.Join(loaded, ", "))
	fmt.Fprintf(w, "\nCPU per message, as a share of what others need\n")
	for _, t := range r.Tables {
		fmt.Fprintf(w, "%s, %s\n", t.Work, t.Transport)
		for _, ours := range t.Rows {
			var shares []string
			for _, other := range t.Rows {
				if !other.Ours && other.Failures == 0 && other.CPU > 0 {
					shares = append(shares, fmt.Sprintf("%.2f of %s", ours.CPU/other.CPU, other.Program))
				}
			}
			if ours.Ours && ours.Failures == 0 && len(shares) > 0 {
				fmt.Fprintf(w, "  %-14s %s\n", ours.Program, strings.Join(shares, ", "))
			}
		}
	}
}

func (r *report) printHoldings(w io.Writer) {
	fmt.Fprintf(w, "\nMemory with %d connections in the middle of a message of %d MB, unix, RSA-2048\n", heldConnections, heldBytes>>20)
	fmt.Fprintf(w, "%-14s %17s %17s %22s %10s\n", "", "before MB", "held MB", "KB per connection", "threads")
	best := 0.0
	for _, h := range r.Holdings {
		if !h.Ours && h.Failure == "" && (best == 0 || h.PerConnection < best) {
			best = h.PerConnection
		}
	}
	for _, h := range r.Holdings {
		if h.Failure != "" {
			fmt.Fprintf(w, "%-14s failed: %s\n", h.Program, h.Failure)
			continue
		}
		fmt.Fprintf(w, "%-14s %17.1f %17.1f %22s %10d\n", h.Program, float64(h.Before.Resident)/(1<<20), float64(h.Held.Resident)/(1<<20),
			short(h.PerConnection/(1<<10))+ratio(h.PerConnection, best), h.Held.Threads)
	}
}

func (r *report) printBehind(w io.Writer) {
	fmt.Fprintf(w, "\nBehind a real Postfix, messages of %d KB one after the other, RSA-2048; a delivered message of each was verified\n", behindBytes>>10)
	fmt.Fprintf(w, "%-14s %6s %17s %17s\n", "", "", "ms a message", "ms added")
	best := map[string]float64{} // by transport
	for _, b := range r.Behind {
		if !b.Ours && b.Failure == "" && b.Transport != "" && (best[b.Transport] == 0 || b.Added < best[b.Transport]) {
			best[b.Transport] = b.Added
		}
	}
	for _, b := range r.Behind {
		if b.Failure != "" {
			fmt.Fprintf(w, "%-14s %6s failed: %s\n", b.Program, b.Transport, b.Failure)
			continue
		}
		added := ""
		if b.Transport != "" {
			added = short(b.Added) + ratio(b.Added, best[b.Transport])
		}
		fmt.Fprintf(w, "%-14s %6s %17.2f %17s\n", b.Program, b.Transport, b.Took, added)
	}
}
