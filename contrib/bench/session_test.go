//go:build linux

package main

import (
	"bufio"
	"slices"
	"strings"
	"testing"
)

// fields returns how a header of n fields looks in a log.
func fields(n int, one string) string { return strings.TrimSuffix(strings.Repeat(one+" ", n), " ") }

func TestSessionSendsWhatPostfixSends(t *testing.T) {
	const header = 14
	noReplies := uint32(0)
	for _, s := range stages {
		noReplies |= s.noReply
	}
	for _, c := range []struct {
		name     string
		protocol uint32
		want     string // of the first message of a session, then of the second
	}{
		{
			"a milter that answers everything", 0,
			"O Dc C Dh H Dm M Dr R Dt T " + fields(header, "Dl L") + " Dn N Db B Db B De E" +
				" A Dm M Dr R Dt T " + fields(header, "Dl L") + " Dn N Db B Db B De E A A Q",
		},
		{
			"a milter that answers only at the end", noReplies | leadingSpace,
			"O Dc C Dh H Dm M Dr R Dt T " + fields(header, "Dl L") + " Dn N Db B Db B De E" +
				" A Dm M Dr R Dt T " + fields(header, "Dl L") + " Dn N Db B Db B De E A A Q",
		},
		{
			"macros come even for commands that are not wanted", stages[cmdHelo].unwanted | stages[cmdRcpt].unwanted | stages[cmdData].unwanted,
			"O Dc C Dh Dm M Dr Dt " + fields(header, "Dl L") + " Dn N Db B Db B De E" +
				" A Dm M Dr Dt " + fields(header, "Dl L") + " Dn N Db B Db B De E A A Q",
		},
	} {
		for _, transport := range []string{"unix", "tcp"} {
			t.Run(c.name+", "+transport, func(t *testing.T) {
				f := &fakeMilter{protocol: c.protocol}
				at := f.listen(t, transport)
				s, err := dial(t.Context(), at)
				if err != nil {
					t.Fatal(err)
				}
				m := newMessage(maxBodyPacket + 1000)
				for n := range 2 {
					if _, err := s.deliver(m, n); err != nil {
						t.Fatal(err)
					}
				}
				s.close()
				waitFor(t, func() bool { return strings.HasSuffix(f.log(), "Q") })
				if got := f.log(); got != c.want {
					t.Errorf("packets\n got %s\nwant %s", got, c.want)
				}
			})
		}
	}
}

func TestSessionStopsABodyThatIsSkipped(t *testing.T) {
	f := &fakeMilter{skipBody: true}
	s, err := dial(t.Context(), f.listen(t, "unix"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	if _, err := s.deliver(newMessage(5*maxBodyPacket), 1); err != nil {
		t.Fatal(err)
	}
	if got := strings.Count(f.log(), " B"); got != 1 {
		t.Errorf("%d body packets after the first was answered with skip, want 1", got)
	}
}

func TestSessionReportsARefusal(t *testing.T) {
	f := &fakeMilter{end: 't'}
	s, err := dial(t.Context(), f.listen(t, "unix"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	if _, err := s.deliver(newMessage(100), 1); err == nil || !strings.Contains(err.Error(), `'t'`) {
		t.Errorf("error %v, want one that names the answer 't'", err)
	}
}

func TestSessionRefusesFlagsThatWereNotOffered(t *testing.T) {
	f := &fakeMilter{protocol: 1 << 30}
	if s, err := dial(t.Context(), f.listen(t, "unix")); err == nil {
		s.close()
		t.Error("no error")
	}
}

// writeSizes notes the size of each write.
type writeSizes []int

func (w *writeSizes) Write(p []byte) (int, error) {
	*w = append(*w, len(p))
	return len(p), nil
}

func TestSessionWritesInPostfixPieces(t *testing.T) {
	var got writeSizes
	s := &session{out: bufio.NewWriterSize(&got, writeBuffer)}
	s.send(cmdHeader, make([]byte, 95))  // 100 bytes with its head
	s.send(cmdBody, make([]byte, 10000)) // 10005
	if err := s.out.Flush(); err != nil {
		t.Fatal(err)
	}
	if want := []int{4096, 4096, 1913}; !slices.Equal(got, want) {
		t.Errorf("writes of %v bytes, want %v", got, want)
	}
}
