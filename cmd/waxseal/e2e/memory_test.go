package e2e

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/emersion/go-msgauth/dkim"
)

// chunkSize is the largest body packet of Postfix.
const chunkSize = 65535

// TestHugeMessageTakesNoMemory signs a message of 100 MB, and compares the
// daemon's memory at its peak with that after small messages of the same kind.
func TestHugeMessageTakesNoMemory(t *testing.T) {
	require(t, proc)
	t.Parallel()
	dir := shortDir(t)
	keys := newKeystore(t, dir, "example.com")
	address := "unix:" + filepath.Join(dir, "run", "milter.sock")
	d := serve(t, daemonOptions{binary: waxseal}, "--keystore", keys.dir, "--listen", address)

	// A body with work for the canonicalization, and packets that end anywhere.
	piece := []byte(strings.Repeat("The quick  brown fox \t jumps over the lazy dog. \r\n\r\n \r\nabc\r\n", 2000))
	send := func(size int, each func()) string {
		t.Helper()
		c := dialMilter(t, address)
		defer c.Close()
		c.connect()
		c.begin(t, header)
		body, chunk := bodyOf(piece, size), make([]byte, chunkSize)
		for {
			n, err := io.ReadFull(body, chunk)
			c.packet('B', chunk[:n])
			each()
			if err != nil {
				break
			}
		}
		return c.end(t)
	}

	const small, huge, most = 1 << 20, 100_000_000, 1024 // bytes, bytes, kB
	for range 10 {
		send(small, func() {})
	}
	before := d.status(t, "VmRSS")
	resets := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", d.Process.Pid), []byte("5"), 0) == nil
	peak, chunks := 0, 0
	top := send(huge, func() {
		if chunks++; chunks%16 == 0 {
			peak = max(peak, d.status(t, "VmRSS"))
		}
	})
	peak = max(peak, d.status(t, "VmRSS"))
	if resets { // the kernel's own peak was set back, so it is that of this message
		peak = max(peak, d.status(t, "VmHWM"))
	}
	t.Logf("memory: %d kB after messages of 1 MiB, at most %d kB with one of 100 MB", before, peak)
	if peak-before >= most {
		t.Errorf("memory grew by %d kB, want less than %d", peak-before, most)
	}

	// The verifier reads it as a stream, too.
	results, err := dkim.VerifyWithOptions(io.MultiReader(strings.NewReader(top+header+"\r\n"), bodyOf(piece, huge)),
		&dkim.VerifyOptions{LookupTXT: keys.lookup})
	if err != nil || len(results) != 2 {
		t.Fatalf("go-msgauth: %v, %d results, want 2", err, len(results))
	}
	for _, r := range results {
		if r.Err != nil {
			t.Errorf("go-msgauth: %v", r.Err)
		}
	}
}

// bodyOf repeats a piece up to a size, and ends it with a line end.
func bodyOf(piece []byte, size int) io.Reader {
	var pieces []io.Reader
	for n := size; n > 0; n -= len(piece) {
		pieces = append(pieces, bytes.NewReader(piece[:min(n, len(piece))]))
	}
	return io.MultiReader(append(pieces, strings.NewReader("end\r\n"))...)
}
