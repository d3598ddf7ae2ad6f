//go:build linux && amd64 && !android && !nolibcrypto

package libcrypto

import (
	"crypto"
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// status reads a number from /proc/self/status.
func status(t *testing.T, name string) int {
	t.Helper()
	data, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		if rest, ok := strings.CutPrefix(line, name+":"); ok {
			var n int
			if _, err := fmt.Sscan(rest, &n); err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatalf("no %s in /proc/self/status", name)
	return 0
}

// checkGrowth fails the test if resident memory is more than so many kB above what it was.
func checkGrowth(t *testing.T, was, mostKB int, by string) {
	t.Helper()
	now := status(t, "VmRSS")
	t.Logf("resident %d kB, then %d kB after %s", was, now, by)
	if raceDetector {
		return // its shadow memory grows with the addresses touched
	}
	if now-was > mostKB {
		t.Errorf("resident memory grew by %d kB in %s, want at most %d", now-was, by, mostKB)
	}
}

func TestHundredsOfCallersKeepThreadsAndMemoryFlat(t *testing.T) {
	l := testLibrary(t)
	k := testKey(t, 1024)
	s := testSigner(t, l, k)
	want := make([][]byte, 50)
	for i := range want {
		want[i] = goSignature(t, k, digest(i))
	}
	run := func(signatures int) {
		var wg sync.WaitGroup
		var n atomic.Int64
		for range 300 {
			wg.Go(func() {
				for {
					i := int(n.Add(1))
					if i > signatures {
						return
					}
					sig, err := s.Sign(nil, digest(i%50), crypto.SHA256)
					if err != nil || string(sig) != string(want[i%50]) {
						t.Errorf("digest %d: signature %x, %v, want %x", i%50, sig, err, want[i%50])
						return
					}
				}
			})
		}
		wg.Wait()
	}
	run(2000)
	threads, rss := status(t, "Threads"), status(t, "VmRSS")
	run(12000)
	threadsNow := status(t, "Threads")
	t.Logf("threads %d, then %d", threads, threadsNow)
	// Besides those in libcrypto: one running Go for each processor, and what the runtime
	// and earlier tests started.
	if most := max(threads, cap(l.slots)+2*runtime.GOMAXPROCS(0)) + 8; threadsNow > most {
		t.Errorf("%d threads after 300 callers, want at most %d", threadsNow, most)
	}
	// 12,000 leaked contexts alone would be 6 MB.
	checkGrowth(t, rss, 4<<10, "12000 signatures")
}

func TestReloadingKeysKeepsMemoryFlat(t *testing.T) {
	l := testLibrary(t)
	k := testKey(t, 1024)
	reload := func(n int) {
		for i := range n {
			s, err := l.NewSigner(k, func(err error) { t.Error(err) })
			if err != nil {
				t.Fatal(err)
			}
			if i%50 == 0 {
				checkSign(t, s, k, i)
			}
			s.Close()
		}
		runtime.GC()
	}
	reload(300)
	rss := status(t, "VmRSS")
	reload(1500)
	checkGrowth(t, rss, 4<<10, "1500 keys")
}

func TestThreadsThatEndAfterASignature(t *testing.T) {
	l := testLibrary(t)
	k := testKey(t, 1024)
	s := testSigner(t, l, k)
	churn := func(n int) {
		room := make(chan struct{}, 8)
		var wg sync.WaitGroup
		for i := range n {
			room <- struct{}{}
			wg.Go(func() {
				runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
				checkSign(t, s, k, i)
				<-room
			})
		}
		wg.Wait()
	}
	churn(100)
	rss := status(t, "VmRSS")
	churn(600)
	// A thread leaves its stack and libcrypto's per-thread state to libc for the next.
	checkGrowth(t, rss, 12<<10, "600 threads")
}

// Reloads take keys away from signatures that are about to begin, wait for their turn, or
// are in flight. Every one must be delivered.
func TestKeysAreClosedUnderLoad(t *testing.T) {
	f := newFaults(t)
	k := testKey(t, 1024)
	var signer atomic.Pointer[Signer]
	signer.Store(testSigner(t, f.lib, k))
	done := make(chan struct{})
	var wg sync.WaitGroup
	for g := range 30 {
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-done:
					return
				default:
					checkSign(t, signer.Load(), k, g*1000+i)
				}
			}
		})
	}
	for range 150 {
		next, err := f.lib.NewSigner(k, func(err error) { t.Errorf("fell back: %v", err) })
		if err != nil {
			t.Error(err)
			break
		}
		signer.Swap(next).Close()
	}
	close(done)
	wg.Wait()
	signer.Load().Close()
	f.checkBalance()
}
