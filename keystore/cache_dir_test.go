package keystore

import (
	"crypto"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// All at once, for the race detector: lookups, changes on disk, refreshes,
// evictions, and keys that are closed.
func TestCacheBeforeADirUnderLoad(t *testing.T) {
	var closed, misused atomic.Int64
	d := newDir(t, DirOptions{})
	const domains = 8
	for i := range domains {
		create(t, d, fmt.Sprintf("d%d.example", i))
	}
	c := NewCache(d, CacheOptions{MaxEntries: domains / 2, Refresh: 20 * time.Millisecond, Prepare: func(key crypto.Signer) (crypto.Signer, error) {
		return &acceleratedKey{Signer: key, closed: &closed, misused: &misused}, nil
	}})
	stop := make(chan struct{})
	var group sync.WaitGroup
	for g := range 4 {
		group.Go(func() {
			for i := g; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				got, err := c.Signing(t.Context(), fmt.Sprintf("d%d.example", i%(domains+1)))
				if i%(domains+1) == domains {
					if !errors.Is(err, ErrNotFound) {
						t.Errorf("a domain that is not there: %v", err)
					}
					continue
				}
				if err != nil || len(got.Broken) != 0 || len(got.Keys) == 0 {
					t.Errorf("%+v, %v", got, err)
					continue
				}
				if err := SelfTest(got.Keys[len(got.Keys)-1].Signer, nil); err != nil {
					t.Error(err)
				}
				if i%50 == 0 {
					runtime.GC()
				}
			}
		})
	}
	for i := range 40 {
		dom, err := d.Domain(t.Context(), fmt.Sprintf("d%d.example", i%domains))
		if err != nil {
			t.Fatal(err)
		}
		k := newKey(t, fmt.Sprintf("k%d", i))
		k.State = Active
		if len(dom.Keys) > 2 {
			dom.Keys[len(dom.Keys)-2].State = Removed
		}
		dom.Keys = append(dom.Keys, k)
		if err := d.Update(t.Context(), dom); err != nil {
			t.Fatal(err)
		}
	}
	close(stop)
	group.Wait()
	c.Close()
	if misused.Load() != 0 {
		t.Errorf("%d uses of closed keys", misused.Load())
	}
}

// What an administrator does with files is seen by the next lookups.
func TestCacheSeesChangesOfADir(t *testing.T) {
	d := newDir(t, DirOptions{})
	dom := create(t, d, "example.com")
	c := NewCache(d, CacheOptions{Refresh: time.Hour})
	defer c.Close()
	await := func(name, want string) {
		t.Helper()
		begin := time.Now()
		for {
			got := "none"
			if s, err := c.Signing(t.Context(), name); err == nil {
				got = fmt.Sprintf("%s/%d", selectors(s), len(s.Broken))
			}
			if got == want {
				break
			}
			if time.Since(begin) > 5*time.Second {
				t.Fatalf("%s signs with %s, want %s", name, got, want)
			}
			time.Sleep(time.Millisecond)
		}
		if took := time.Since(begin); took > 3*time.Second {
			t.Errorf("%s: %v until it was seen", want, took)
		}
	}
	await("example.com", "a/0")
	await("new.example", "none")
	for len(d.snapshotWatchers()) == 0 {
		time.Sleep(time.Millisecond)
	}
	time.Sleep(10 * time.Millisecond)
	await("example.com", "a/0")
	await("new.example", "none")

	k := newKey(t, "b")
	k.State = Active
	dom.Keys = append(dom.Keys, k)
	if err := d.Update(t.Context(), dom); err != nil {
		t.Fatal(err)
	}
	await("example.com", "a b/0")
	dom.Keys[0].State = Retired
	if err := d.Update(t.Context(), dom); err != nil {
		t.Fatal(err)
	}
	await("example.com", "b/0")
	create(t, d, "new.example")
	await("new.example", "a/0")
	c2 := newKey(t, "c")
	c2.State = Active
	dom.Keys = append(dom.Keys, c2)
	if err := d.Update(t.Context(), dom); err != nil {
		t.Fatal(err)
	}
	await("example.com", "b c/0")
	// A key file that is damaged later does not stop the key that works.
	write(t, d.file("example.com", "c.pem"), "damaged", 0o600)
	c.InvalidateAll()
	await("example.com", "b c/0")
}

func (d *Dir) snapshotWatchers() []*watcher {
	d.mu.Lock()
	defer d.mu.Unlock()
	var ws []*watcher
	for w := range d.watchers {
		ws = append(ws, w)
	}
	return ws
}
