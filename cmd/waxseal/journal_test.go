package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
)

func TestJournalLinesBeginWithTheirPriority(t *testing.T) {
	file, err := os.Create(filepath.Join(t.TempDir(), "stderr"))
	must(t, err)
	defer file.Close()
	info, err := file.Stat()
	must(t, err)
	stat := info.Sys().(*syscall.Stat_t)
	stream := fmt.Sprintf("%d:%d", stat.Dev, stat.Ino)

	for _, test := range []struct {
		name   string
		stream string
		format LogFormat
		want   string
	}{
		{"text under systemd", stream, false, `^<7>level=DEBUG msg=a
<6>level=INFO msg=b key=v g.n=1
<4>level=WARN msg=c key=v
<3>level=ERROR msg=d text="two\\nlines"
<3>level=ERROR\+4 msg=e
$`},
		{"JSON under systemd", stream, true, `^<7>{"time":"[^"]+","level":"DEBUG","msg":"a"}
<6>{"time":"[^"]+","level":"INFO","msg":"b","key":"v","g":{"n":1}}
<4>{"time":"[^"]+","level":"WARN","msg":"c","key":"v"}
<3>{"time":"[^"]+","level":"ERROR","msg":"d","text":"two\\nlines"}
<3>{"time":"[^"]+","level":"ERROR\+4","msg":"e"}
$`},
		{"redirected since", fmt.Sprintf("%d:%d", stat.Dev, stat.Ino+1), false, `^time=\S+ level=DEBUG msg=a\n`},
		{"no systemd", "", false, `^time=\S+ level=DEBUG msg=a\n`},
	} {
		must(t, file.Truncate(0))
		_, err := file.Seek(0, io.SeekStart)
		must(t, err)
		t.Setenv("JOURNAL_STREAM", test.stream)
		log := buildLog(file, LogConfig{Format: test.format}, slog.LevelDebug)
		with := log.With("key", "v")
		log.Debug("a")
		with.WithGroup("g").Info("b", "n", 1)
		with.Warn("c")
		log.Error("d", "text", "two\nlines")
		log.Log(context.Background(), slog.LevelError+4, "e")
		got, err := os.ReadFile(file.Name())
		must(t, err)
		if !regexp.MustCompile(test.want).Match(got) {
			t.Errorf("%s: got\n%s\nwant\n%s", test.name, got, test.want)
		}
	}
}

func TestOnlyALogLevelThatIsWantedGoesToTheJournal(t *testing.T) {
	var b bytes.Buffer
	level := new(slog.LevelVar)
	level.Set(slog.LevelWarn)
	log := slog.New(newJournalHandler(&b, false, func(w io.Writer) slog.Handler {
		return slog.NewTextHandler(w, &slog.HandlerOptions{Level: level})
	}))
	log.Info("before")
	level.Set(slog.LevelInfo)
	log.Info("after")
	if got := b.String(); strings.Contains(got, "before") || got != "<6>level=INFO msg=after\n" {
		t.Errorf("got %q", got)
	}
}
