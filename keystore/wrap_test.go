package keystore

import (
	"bytes"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"strings"
	"testing"
)

// wrapLine is a wrapping key of 32 times the byte, as its file has it.
func wrapLine(b byte) string {
	return base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{b}, wrapKeyBytes)) + "\n"
}

func newWrapper(t testing.TB, keys ...byte) *Wrapper {
	t.Helper()
	var file string
	for _, b := range keys {
		file += wrapLine(b)
	}
	w, err := NewWrapper([]byte(file))
	if err != nil {
		t.Fatal(err)
	}
	return w
}

var plainKey = []byte("-----BEGIN PRIVATE KEY-----\nMC4CAQ==\n-----END PRIVATE KEY-----\n")

func TestWrapOpensOnlyInItsPlace(t *testing.T) {
	w := newWrapper(t, 1)
	stored, err := w.Wrap("example.com", "a", plainKey)
	if err != nil || bytes.Contains(stored, plainKey[30:36]) || !bytes.HasPrefix(stored, []byte("-----BEGIN WAXSEAL WRAPPED KEY-----\n")) {
		t.Fatalf("%v\n%s", err, stored)
	}
	if again, _ := w.Wrap("example.com", "a", plainKey); bytes.Equal(again, stored) {
		t.Error("the same key is wrapped twice in the same way")
	}
	if got, err := w.Unwrap("example.com", "a", stored); err != nil || !bytes.Equal(got, plainKey) {
		t.Errorf("got %q, %v", got, err)
	}
	for _, other := range [][2]string{{"example.org", "a"}, {"example.com", "b"}, {"example.co", "ma"}} {
		if _, err := w.Unwrap(other[0], other[1], stored); err == nil || !strings.Contains(err.Error(), other[1]+"."+other[0]) {
			t.Errorf("as %v: %v", other, err)
		}
	}
	block, _ := pem.Decode(stored)
	for i := range block.Bytes {
		bad := bytes.Clone(block.Bytes)
		bad[i] ^= 1
		if _, err := w.Unwrap("example.com", "a", pem.EncodeToMemory(&pem.Block{Type: wrappedKind, Bytes: bad})); err == nil {
			t.Errorf("opens although byte %d is changed", i)
		}
	}
	for i := range block.Bytes {
		if _, err := w.Unwrap("example.com", "a", pem.EncodeToMemory(&pem.Block{Type: wrappedKind, Bytes: block.Bytes[:i]})); err == nil {
			t.Errorf("opens although it is cut after %d bytes", i)
		}
	}
}

func TestWrappingKeysAreReplaced(t *testing.T) {
	old, both, next := newWrapper(t, 1), newWrapper(t, 2, 1), newWrapper(t, 2)
	stored, _ := old.Wrap("example.com", "a", plainKey)
	if got, err := both.Unwrap("example.com", "a", stored); err != nil || !bytes.Equal(got, plainKey) || both.Current(stored) || !old.Current(stored) {
		t.Errorf("with both keys: %q, %v", got, err)
	}
	again, _ := both.Wrap("example.com", "a", plainKey)
	if got, err := next.Unwrap("example.com", "a", again); err != nil || !bytes.Equal(got, plainKey) || !both.Current(again) {
		t.Errorf("wrapped anew: %q, %v", got, err)
	}
	var missing *WrappedError
	for _, w := range []*Wrapper{next, nil} {
		if _, err := w.Unwrap("example.com", "a", stored); !errors.As(err, &missing) || len(missing.ID) != 2*wrapIDBytes {
			t.Errorf("without its wrapping key: %v", err)
		}
	}
	// A store is wrapped step by step, and unwrapped.
	for _, w := range []*Wrapper{both, nil} {
		if got, err := w.Unwrap("example.com", "a", plainKey); err != nil || !bytes.Equal(got, plainKey) || w.Current(plainKey) != (w == nil) {
			t.Errorf("not wrapped: %q, %v", got, err)
		}
	}
}

func TestWrappingKeyFiles(t *testing.T) {
	good := "# made in May\n\n" + wrapLine(1) + "  " + strings.TrimSpace(wrapLine(2)) + "  "
	if w, err := NewWrapper([]byte(good)); err != nil || len(w.keys) != 2 {
		t.Errorf("a good file: %v", err)
	}
	var many string
	for i := range byte(maxWrapKeys + 1) {
		many += wrapLine(i)
	}
	for _, test := range []struct{ what, file, want string }{
		{"nothing", "", "no wrapping key"},
		{"comments alone", "# x\n", "no wrapping key"},
		{"a short key", "c2VjcmV0\n", "line 1"},
		{"no base64", wrapLine(1) + "secret!\n", "line 2"},
		{"a key twice", wrapLine(1) + wrapLine(1), "line 2"},
		{"too many", many, "more than 16"},
	} {
		if _, err := NewWrapper([]byte(test.file)); err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v, want %q", test.what, err, test.want)
		}
	}
}

func FuzzUnwrap(f *testing.F) {
	w := newWrapper(f, 1)
	stored, _ := w.Wrap("example.com", "a", plainKey)
	f.Add(stored)
	f.Add(plainKey)
	f.Add([]byte("-----BEGIN WAXSEAL WRAPPED KEY-----\nAQ==\n-----END WAXSEAL WRAPPED KEY-----\n"))
	f.Add(append(bytes.Clone(plainKey), stored...))
	f.Fuzz(func(t *testing.T, data []byte) {
		key, err := w.Unwrap("example.com", "a", data)
		if err != nil || bytes.Equal(key, data) {
			return
		}
		if !bytes.Equal(key, plainKey) {
			t.Errorf("made up a key: %q", key)
		}
	})
}

// A store gets the private half whatever wraps it, also where no wrapping key is
// set and nothing does.
func TestMarshalPrivateIsWhatAStoreGets(t *testing.T) {
	for name, w := range map[string]*Wrapper{"wrapped": newWrapper(t, 1), "not wrapped": nil} {
		k := newKey(t, "a")
		stored, err := k.MarshalPrivate(t.Context(), "example.com", w.Wrap)
		if err != nil {
			t.Fatal(err)
		}
		opened, err := w.Unwrap("example.com", "a", stored)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		private, err := ParsePrivateKey(opened)
		if err == nil {
			err = SelfTest(private, k.Public)
		}
		if err != nil {
			t.Errorf("%s: what is stored is no key: %v", name, err)
		}
	}
}
