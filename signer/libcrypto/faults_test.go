//go:build linux && amd64 && !android && !nolibcrypto

package libcrypto

import (
	"bytes"
	"crypto"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"github.com/ebitengine/purego"
)

// faults is a libcrypto of which some functions pass through here, as C sees it: their
// calls are counted, and made to fail.
type faults struct {
	t   *testing.T
	lib *Library

	sign        atomic.Pointer[func() verdict] // asked before each signature
	failContext atomic.Bool                    // EVP_PKEY_CTX_new returns NULL

	signed                                           atomic.Int64
	keysMade, keysFreed, contextsMade, contextsFreed atomic.Int64
}

// verdict is what becomes of a call to EVP_PKEY_sign.
type verdict int

const (
	pass    verdict = iota
	refuse          // it fails, with an error of libcrypto's own
	shorten         // it says that the signature is a byte shorter than it should be
	falsify         // it returns another signature and calls that a success
)

// Callbacks into Go are never released and limited in number, so there is one of each, for
// whichever test is running.
var (
	current   atomic.Pointer[faults]
	real      functions
	callbacks = sync.OnceValue(func() map[string]uintptr {
		return map[string]uintptr{
			"EVP_PKEY_sign":         purego.NewCallback(signCallback),
			"EVP_PKEY_CTX_new":      purego.NewCallback(newContextCallback),
			"EVP_PKEY_CTX_free":     purego.NewCallback(freeContextCallback),
			"d2i_AutoPrivateKey":    purego.NewCallback(parseKeyCallback),
			"EVP_PKEY_free":         purego.NewCallback(freeKeyCallback),
			"returns 3.0.4":         purego.NewCallback(func() uintptr { return 0x30000040 }),
			"returns 4.0.0":         purego.NewCallback(func() uintptr { return 0x40000000 }),
			"returns 0":             purego.NewCallback(func() uintptr { return 0 }),
			"returns -2":            purego.NewCallback(func() uintptr { return 0xfffffffe }),
			"returns 0 above 1<<32": purego.NewCallback(func() uintptr { return 1 << 32 }),
			"returns 1 below 1<<63": purego.NewCallback(func() uintptr { return 1<<63 | 1 }),
			"returns 1":             purego.NewCallback(func() uintptr { return 1 }),
		}
	})
)

func signCallback(ctx, sig, size, tbs, tbsLen uintptr) uintptr {
	f := current.Load()
	f.signed.Add(1)
	v := pass
	if ask := f.sign.Load(); ask != nil {
		v = (*ask)()
	}
	if v == refuse {
		tbsLen-- // no SHA-256 digest has this length
	}
	r, _, _ := purego.SyscallN(real.sign, ctx, sig, size, tbs, tbsLen)
	switch v {
	case shorten:
		*(*uintptr)(pointer(size))--
	case falsify:
		*(*byte)(pointer(sig)) ^= 1
	}
	return r
}

// pointer is the address that C was given.
func pointer(a uintptr) unsafe.Pointer { return *(*unsafe.Pointer)(unsafe.Pointer(&a)) }

func newContextCallback(key, engine uintptr) uintptr {
	f := current.Load()
	if f.failContext.Load() {
		return 0
	}
	f.contextsMade.Add(1)
	r, _, _ := purego.SyscallN(real.newContext, key, engine)
	return r
}

func freeContextCallback(c uintptr) uintptr {
	current.Load().contextsFreed.Add(1)
	purego.SyscallN(real.freeContext, c)
	return 0
}

func parseKeyCallback(a, in, n uintptr) uintptr {
	r, _, _ := purego.SyscallN(real.parseKey, a, in, n)
	if r != 0 {
		current.Load().keysMade.Add(1)
	}
	return r
}

func freeKeyCallback(k uintptr) uintptr {
	current.Load().keysFreed.Add(1)
	purego.SyscallN(real.freeKey, k)
	return 0
}

func newFaults(t *testing.T) *faults {
	t.Helper()
	real = testLibrary(t).fn
	f := &faults{t: t}
	current.Store(f)
	lib, err := openWith(nil)
	if err != nil {
		t.Fatal(err)
	}
	f.lib = lib
	f.checkBalance()
	return f
}

// openWith is Open where the functions named are replaced by other callbacks.
func openWith(replace map[string]string) (*Library, error) {
	return open(soname, func(handle uintptr, symbol string) (uintptr, error) {
		name := symbol
		if r := replace[symbol]; r != "" {
			name = r
		}
		if name == "is missing" {
			return 0, errors.New("undefined symbol: " + symbol)
		}
		if a := callbacks()[name]; a != 0 {
			return a, nil
		}
		return purego.Dlsym(handle, symbol)
	})
}

// onSign sets what is asked before each signature from now on.
func (f *faults) onSign(ask func() verdict) { f.sign.Store(&ask) }

// checkBalance fails the test unless all that was made in libcrypto was freed, once.
func (f *faults) checkBalance() {
	f.t.Helper()
	if made, freed := f.keysMade.Load(), f.keysFreed.Load(); made != freed {
		f.t.Errorf("%d keys made in libcrypto, %d freed", made, freed)
	}
	if made, freed := f.contextsMade.Load(), f.contextsFreed.Load(); made != freed {
		f.t.Errorf("%d contexts made in libcrypto, %d freed", made, freed)
	}
}

func TestAFailureFallsBackForGoodAndIsReportedOnce(t *testing.T) {
	always := func(v verdict) func() func() verdict {
		return func() func() verdict { return func() verdict { return v } }
	}
	for _, c := range []struct {
		name string
		ask  func() func() verdict
		want string
	}{
		{"libcrypto refuses", always(refuse), "EVP_PKEY_sign: error:"},
		{"libcrypto refuses once", func() func() verdict {
			v := refuse
			return func() verdict {
				defer func() { v = pass }()
				return v
			}
		}, "succeeded only when repeated"},
		{"the signature is too short", always(shorten), "EVP_PKEY_sign: no reason given"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFaults(t)
			k := testKey(t, 1024)
			var reports []error
			s, err := f.lib.NewSigner(k, func(err error) { reports = append(reports, err) })
			if err != nil {
				t.Fatal(err)
			}
			f.onSign(c.ask())
			for i := range 5 {
				checkSign(t, s, k, i)
			}
			if len(reports) != 1 || !strings.Contains(reports[0].Error(), c.want) ||
				!strings.HasPrefix(reports[0].Error(), "RSA-1024 key falls back to Go: libcrypto 3.") {
				t.Errorf("reported %v, want once, with %q", reports, c.want)
			}
			if got := f.signed.Load(); got > 4 {
				t.Errorf("libcrypto was asked %d times, want no more after it failed", got)
			}
			f.checkBalance() // without Close: falling back gives the key up
			s.Close()
			f.checkBalance()
		})
	}
}

// checkSign fails the test unless s makes Go's signature of the i-th digest.
func checkSign(t testing.TB, s crypto.Signer, k crypto.Signer, i int) {
	t.Helper()
	got, err := s.Sign(nil, digest(i), crypto.SHA256)
	if err != nil {
		t.Errorf("digest %d: no signature: %v", i, err)
		return
	}
	want, err := k.Sign(nil, digest(i), crypto.SHA256)
	if err != nil {
		t.Errorf("digest %d: no signature by Go: %v", i, err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("digest %d: signature %x, want Go's %x", i, got, want)
	}
}

func TestAContextThatCannotBeMadeIsAFailure(t *testing.T) {
	f := newFaults(t)
	k := testKey(t, 1024)
	var reports []error
	s, err := f.lib.NewSigner(k, func(err error) { reports = append(reports, err) })
	if err != nil {
		t.Fatal(err)
	}
	f.failContext.Store(true)
	// The context of the self-test is idle, so that the second of two at a time needs one.
	inside := make(chan struct{})
	before := f.signed.Load()
	f.onSign(func() verdict {
		if f.signed.Load() > before+1 {
			t.Error("libcrypto was asked without a context")
			return refuse
		}
		checkSign(t, s, k, 2)
		close(inside)
		return pass
	})
	checkSign(t, s, k, 1)
	<-inside
	if len(reports) != 1 || !strings.Contains(reports[0].Error(), "EVP_PKEY_CTX_new: no reason given") {
		t.Errorf("reported %v, want once that there is no context", reports)
	}
	f.checkBalance()
}

func TestManyFailAtOnceAndOneReports(t *testing.T) {
	f := newFaults(t)
	k := testKey(t, 1024)
	var reports atomic.Int64
	s, err := f.lib.NewSigner(k, func(error) { reports.Add(1) })
	if err != nil {
		t.Fatal(err)
	}
	var n atomic.Int64
	f.onSign(func() verdict {
		if n.Add(1) > 50 {
			return refuse
		}
		return pass
	})
	var wg sync.WaitGroup
	for g := range 40 {
		wg.Go(func() {
			for i := range 5 {
				checkSign(t, s, k, g*5+i)
			}
		})
	}
	wg.Wait()
	if got := reports.Load(); got != 1 {
		t.Errorf("%d reports of a key that failed, want 1", got)
	}
	f.checkBalance()
}

func TestASelfTestThatFailsRefusesTheKey(t *testing.T) {
	for _, c := range []struct {
		name    string
		verdict verdict
		want    string
	}{
		{"no signature", refuse, "EVP_PKEY_sign: error:"},
		{"a wrong signature", falsify, "self-test: signature differs from Go's"},
	} {
		f := newFaults(t)
		f.onSign(func() verdict { return c.verdict })
		s, err := f.lib.NewSigner(testKey(t, 1024), nil)
		if s != nil || err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: NewSigner = %v, %v, want an error with %q", c.name, s, err, c.want)
		}
		f.checkBalance()
	}
}

func TestTheKeyIsFreedAfterTheLastSignature(t *testing.T) {
	f := newFaults(t)
	k := testKey(t, 1024)
	s := testSigner(t, f.lib, k)
	free := f.keysFreed.Load()
	const inFlight = 2
	entered, leave := make(chan struct{}, inFlight), make(chan struct{})
	f.onSign(func() verdict {
		entered <- struct{}{}
		<-leave
		return pass
	})
	var wg sync.WaitGroup
	for i := range inFlight {
		wg.Go(func() { checkSign(t, s, k, i) })
	}
	for range inFlight {
		<-entered
	}
	s.Close()
	s.Close()
	asked := f.signed.Load()
	checkSign(t, s, k, 3) // would wait for leave if libcrypto were asked
	if f.signed.Load() != asked {
		t.Error("libcrypto was asked after Close")
	}
	if f.keysFreed.Load() != free {
		t.Error("the key was freed while signatures were in flight")
	}
	leave <- struct{}{}
	leave <- struct{}{}
	wg.Wait()
	if got := f.keysFreed.Load() - free; got != 1 {
		t.Errorf("the key was freed %d times after the last signature, want once", got)
	}
	f.checkBalance()
}

func TestSignaturesInLibcryptoAtATimeAreBounded(t *testing.T) {
	f := newFaults(t)
	k := testKey(t, 1024)
	s := testSigner(t, f.lib, k)
	var now, most atomic.Int64
	f.onSign(func() verdict {
		n := now.Add(1)
		defer now.Add(-1)
		time.Sleep(time.Millisecond) // long enough for every caller to get here, if it may
		for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
		}
		return pass
	})
	var wg sync.WaitGroup
	for g := range 100 {
		wg.Go(func() {
			for i := range 3 {
				s.Sign(nil, digest(g*3+i), crypto.SHA256)
			}
		})
	}
	wg.Wait()
	if got, want := most.Load(), int64(cap(f.lib.slots)); got > want || got < 1 {
		t.Errorf("%d signatures in libcrypto at a time, want at most %d", got, want)
	}
	if got := f.contextsMade.Load() - f.contextsFreed.Load(); got > int64(cap(f.lib.slots)) {
		t.Errorf("%d contexts kept for a key, want at most %d", got, cap(f.lib.slots))
	}
}
