package signer

import (
	"bytes"
	"fmt"
	"reflect"
	"runtime"
	"strings"
	"testing"
)

// TestReset uses one Message for many messages, each time with other options,
// and expects what a fresh one gives.
func TestReset(t *testing.T) {
	f, err := NewFields([]string{"X-A", "Subject"}, []string{"X-B"})
	if err != nil {
		t.Fatal(err)
	}
	keys := testKeys(t)
	s := New(Options{})
	for i := range 40 {
		o := Options{Header: Canonicalization(i & 1), Body: Canonicalization(i >> 1 & 1), Profile: Profile(i >> 2 & 1)}
		if i%3 == 0 {
			o.Fields = f
		}
		m := simpleMessage("Subject", "X-A", "X-B", "To")
		m.body = []byte(nasty[i:])
		s.Reset(o)
		m.feed(t, s)
		if i%5 == 0 {
			continue // given up half way
		}
		got, err := s.Sign(testTime, keys)
		if want := m.sign(t, o, keys); err != nil || !reflect.DeepEqual(got, want) {
			t.Fatalf("message %d with %+v:\n got %v, %v\nwant %v", i, o, got, err, want)
		}
	}
	s.AddField("Subject", " a\rb")
	s.Reset(Options{})
	if s.StrayLineEnds() {
		t.Error("stray line ends after Reset")
	}
	if _, err := s.Sign(testTime, keys); err != ErrNoFrom {
		t.Errorf("signing nothing after Reset: error %v, want ErrNoFrom", err)
	}
}

// TestResetReleases: one message with a huge header does not stay in memory.
func TestResetReleases(t *testing.T) {
	s := New(Options{})
	for range 5000 {
		s.AddField("Cc", " "+strings.Repeat("x", 100))
	}
	s.Reset(Options{})
	if cap(s.arena) > keptArena || cap(s.entries) > keptEntries {
		t.Errorf("after Reset: arena of %d, %d entries", cap(s.arena), cap(s.entries))
	}
	s.AddField("Subject", " small")
	before := cap(s.arena)
	s.Reset(Options{})
	if cap(s.arena) != before {
		t.Errorf("Reset released an arena of %d", before)
	}
}

func TestSignAgain(t *testing.T) {
	keys := testKeys(t)
	s := New(Options{})
	simpleMessage("To").feed(t, s)
	first, err := s.Sign(testTime, keys)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := s.Write([]byte("more")); n != 0 || err == nil {
		t.Errorf("Write after Sign = %d, %v, want an error", n, err)
	}
	second, err := s.Sign(testTime, keys)
	if err != nil || !reflect.DeepEqual(first, second) {
		t.Errorf("second Sign: %v, %v, want %v", second, err, first)
	}
	if _, err := s.Sign(testTime, nil); err == nil {
		t.Error("Sign without keys gives no error")
	}
	s.Reset(Options{})
	if _, err := s.Write([]byte("more")); err != nil {
		t.Errorf("Write after Reset: %v", err)
	}
}

func TestStrayLineEndsOfMessage(t *testing.T) {
	for _, tt := range []struct {
		field, value string
		chunks       []string
		want         bool
	}{
		{"Subject", " x", nil, false},
		{"Subject", " x", []string{"a\r\n\r\nb"}, false},
		{"Subject", " x", []string{"a\r", "\nb"}, false},
		{"Subject", " x", []string{"a\r", "b\r\n"}, true},
		{"Subject", " x", []string{"a\r\n", "\nb"}, true},
		{"Subject", " x", []string{"a\n"}, true},
		{"Subject", " x", []string{"a\r\n\r"}, true},
		{"Subject", " a\n b\r\n\tc", nil, false},
		{"Subject", " a\nb", nil, true},
		{"Subject", " a\r\nb", nil, true},
		{"Subject", " a\rb", nil, true},
		{"Subject", " a\r", nil, true},
		{"Subject", " a\n", nil, true},
		{"Subject", " a\r\r\n b", nil, true},
		{"X-Unsigned", " a\rb", nil, true},
	} {
		s := New(Options{})
		s.AddField(tt.field, tt.value)
		for _, chunk := range tt.chunks {
			s.Write([]byte(chunk))
		}
		if got := s.StrayLineEnds(); got != tt.want {
			t.Errorf("%s:%q, body %q: %v, want %v", tt.field, tt.value, tt.chunks, got, tt.want)
		}
	}
	// A CR at the end of a chunk is stray until its LF comes.
	s := New(Options{})
	s.Write([]byte("a\r"))
	if !s.StrayLineEnds() {
		t.Error("CR at the end of the body is not seen")
	}
	s.Write([]byte("\n"))
	if s.StrayLineEnds() {
		t.Error("CRLF in two chunks is taken for stray")
	}
}

// TestMemory: signing a large body takes no more memory than signing none.
func TestMemory(t *testing.T) {
	s := New(Options{})
	keys := testKeys(t)[:1]
	chunk := textBody(64 << 10)
	simpleMessage("To", "Subject").feed(t, s)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range 20 << 20 / len(chunk) {
		s.Write(chunk)
	}
	if _, err := s.Sign(testTime, keys); err != nil {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > 64<<10 {
		t.Errorf("signing 20 MiB allocated %d bytes", n)
	}
}

// TestAllocations: with a key that costs nothing, a reused Message allocates
// the fields it returns and little else.
func TestAllocations(t *testing.T) {
	rsaKey := loadKey(t, "rsa-2048").Public()
	keys := []Key{
		{Domain: "example.org", Selector: "a", Signer: &fixed{rsaKey, make([]byte, 256)}},
		{Domain: "example.org", Selector: "b", Signer: &fixed{rsaKey, make([]byte, 256)}},
	}
	m := benchMessage(2 << 10)
	s := New(Options{})
	for n, want := range map[int]float64{1: 3, 2: 5} {
		got := testing.AllocsPerRun(50, func() {
			s.Reset(Options{})
			for _, f := range m.fields {
				s.AddField(f.Name, f.Value)
			}
			s.Write(m.body)
			if _, err := s.Sign(testTime, keys[:n]); err != nil {
				t.Fatal(err)
			}
		})
		if got > want {
			t.Errorf("%d keys: %v allocations a message, want at most %v", n, got, want)
		}
	}
}

// TestArgumentsAreNotKept: AddField and Write copy.
func TestArgumentsAreNotKept(t *testing.T) {
	keys := testKeys(t)
	m := simpleMessage("Subject")
	want := m.sign(t, Options{}, keys)
	s := New(Options{})
	m.fields = nil
	value := []byte(" ann@example.org")
	s.AddField("From", string(value))
	s.AddField("Subject", " value of Subject")
	chunk := bytes.Clone(m.body)
	s.Write(chunk)
	copy(chunk, "XXXXXXX")
	got, err := s.Sign(testTime, keys)
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, %v, want %v", got, err, want)
	}
}

func ExampleMessage() {
	m := New(Options{})
	m.AddField("From", " ann@example.org")
	m.AddField("Subject", " hello")
	m.Write([]byte("Hello Bob,\r\n"))
	m.Write([]byte("this is Ann.\r\n"))
	_, err := m.Sign(testTime, []Key{{Domain: "example.org", Selector: "a; l=0"}})
	fmt.Println(err)
	// Output: key "a; l=0" of "example.org": selector: character ';'
}
