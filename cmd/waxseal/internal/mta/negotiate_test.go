package mta

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"waxseal/milter"
)

// answering listens on a unix socket and answers the first packet.
func answering(t *testing.T, answer string) milter.Address {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			packet := make([]byte, 17)
			_, _ = c.Read(packet)
			_, _ = c.Write([]byte(answer))
			c.Close()
		}
	}()
	return milter.Address{Network: "unix", Address: path}
}

func TestOnlyAMilterThatAddsFieldsWillDo(t *testing.T) {
	const steps = "\x00\x00\x00\x00"
	for answer, want := range map[string]string{
		"\x00\x00\x00\x0dO\x00\x00\x00\x06\x00\x00\x00\x01" + steps: "",
		"\x00\x00\x00\x0dO\x00\x00\x00\x06\x00\x00\x00\x10" + steps: "adds no fields",
		"220 mx.example.com ESMTP\r\n":                              "none of a milter",
		"":                                                          "hung up",
		"\x00\x00\x00\x0d":                                          "hung up",
	} {
		err := Negotiate(context.Background(), answering(t, answer))
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("answer %q: got %v, want %q", answer, err, want)
		}
	}
}

func TestFailuresHaveARemedy(t *testing.T) {
	dir := t.TempDir()
	stale := filepath.Join(dir, "stale")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: stale, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	for path, want := range map[string]string{filepath.Join(dir, "none"): "missing", stale: "refused"} {
		a := milter.Address{Network: "unix", Address: path}
		f := NewFailure(Negotiate(context.Background(), a))
		if f.Kind != want {
			t.Errorf("%s: got %+v, want %s", path, f, want)
		}
		if found := f.Finding(Connection{Address: a}, "postfix"); found.Severity != Error || !strings.Contains(found.Remedy, "start waxseal") || !strings.Contains(found.Problem, "user postfix") {
			t.Errorf("%s: %+v", path, found)
		}
	}
	denied := NewFailure(&os.PathError{Op: "dial", Path: dir, Err: os.ErrPermission})
	if f := denied.Finding(Connection{Address: milter.Address{Network: "unix", Address: "/run/waxseal/s"}}, "postfix"); !strings.Contains(f.Remedy, "chmod 0750 /run/waxseal") {
		t.Errorf("denied: %+v", f)
	}
}

func TestAClockThatIsWrong(t *testing.T) {
	for year, want := range map[int]Severity{1970: Error, 2019: Error, 2101: Error, 2026: Note} {
		for _, f := range CheckClock(time.Date(year, 6, 1, 0, 0, 0, 0, time.UTC)) {
			if f.Severity != want {
				t.Errorf("%d: %+v", year, f)
			}
			want = ""
		}
		if want == Error {
			t.Errorf("%d: nothing found", year)
		}
	}
}
