package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"syscall"
	"time"
)

// toJournal says whether what is written to w reaches journald: systemd names
// the device and inode of the stream it gave us in $JOURNAL_STREAM
// (systemd.exec(5)), and children may have redirected theirs since.
func toJournal(w io.Writer, stream string) bool {
	file, ok := w.(*os.File)
	if !ok || stream == "" {
		return false
	}
	info, err := file.Stat()
	if err != nil {
		return false
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	return ok && stream == fmt.Sprintf("%d:%d", stat.Dev, stat.Ino)
}

// journalHandler writes lines that journald takes apart: each begins with its
// priority, "<6>" for one of level info (sd-daemon(3)).
type journalHandler struct {
	priorities [4]slog.Handler // debug, info, warn, error
	timed      bool
}

var _ slog.Handler = (*journalHandler)(nil)

// newJournalHandler makes a handler that formats as format does. Without timed
// lines carry no time, as the journal has its own.
func newJournalHandler(w io.Writer, timed bool, format func(io.Writer) slog.Handler) *journalHandler {
	h := &journalHandler{timed: timed}
	lines := &lineWriter{w: w}
	for i, priority := range [...]string{"<7>", "<6>", "<4>", "<3>"} {
		h.priorities[i] = format(&priorityWriter{lines, priority})
	}
	return h
}

func (h *journalHandler) at(level slog.Level) slog.Handler {
	switch {
	case level >= slog.LevelError:
		return h.priorities[3]
	case level >= slog.LevelWarn:
		return h.priorities[2]
	case level >= slog.LevelInfo:
		return h.priorities[1]
	}
	return h.priorities[0]
}

func (h *journalHandler) Enabled(ctx context.Context, level slog.Level) bool {
	return h.at(level).Enabled(ctx, level)
}

func (h *journalHandler) Handle(ctx context.Context, r slog.Record) error {
	if !h.timed {
		r.Time = time.Time{}
	}
	return h.at(r.Level).Handle(ctx, r)
}

func (h *journalHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return h.each(func(p slog.Handler) slog.Handler { return p.WithAttrs(attrs) })
}

func (h *journalHandler) WithGroup(name string) slog.Handler {
	return h.each(func(p slog.Handler) slog.Handler { return p.WithGroup(name) })
}

func (h *journalHandler) each(with func(slog.Handler) slog.Handler) slog.Handler {
	next := &journalHandler{timed: h.timed}
	for i, p := range h.priorities {
		next.priorities[i] = with(p)
	}
	return next
}

// lineWriter writes whole lines for the handlers of all priorities.
type lineWriter struct {
	mu   sync.Mutex
	w    io.Writer // guarded by mu
	line []byte    // guarded by mu
}

// priorityWriter takes one line with each Write, as the handlers of log/slog
// promise, and puts its priority in front.
type priorityWriter struct {
	lines    *lineWriter
	priority string
}

func (p *priorityWriter) Write(line []byte) (int, error) {
	l := p.lines
	l.mu.Lock()
	defer l.mu.Unlock()
	l.line = append(append(l.line[:0], p.priority...), line...)
	if _, err := l.w.Write(l.line); err != nil {
		return 0, err
	}
	return len(line), nil
}
