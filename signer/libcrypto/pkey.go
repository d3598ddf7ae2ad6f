//go:build linux && amd64 && !android && !nolibcrypto

package libcrypto

import (
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"unsafe"

	"github.com/ebitengine/purego"
)

// errRetired is what a retired pkey has to say. It is no failure.
var errRetired = errors.New("libcrypto: key is closed")

// rsaPKCS1Padding is RSA_PKCS1_PADDING of OpenSSL's rsa.h.
const rsaPKCS1Padding = 1

// pkey is a private key in libcrypto (EVP_PKEY). It lives until it is retired and the last
// signature then in flight is done.
type pkey struct {
	lib  *Library
	ptr  uintptr
	size int // of a signature

	mu      sync.Mutex // guards what follows
	idle    []*context // ready for use, the last used at the end
	users   int        // signatures in flight
	retired bool
}

// context is an EVP_PKEY_CTX that is set up for signing. Setting up means looking up
// algorithms under the library's locks, so contexts are kept. One signature at a time.
type context struct {
	ptr  uintptr
	size uintptr // what libcrypto is told of the room for a signature, and answers
}

// newKey copies k into libcrypto.
func (l *Library) newKey(k *rsa.PrivateKey) (*pkey, error) {
	if len(k.Primes) != 2 {
		return nil, fmt.Errorf("libcrypto: RSA key of %d primes, want 2", len(k.Primes))
	}
	der := x509.MarshalPKCS1PrivateKey(k)
	defer clear(der)
	// libcrypto leaves in at the end of what it read, one beyond the last byte. Go must
	// not see that as a pointer, so in is a number, and der is held in place.
	var pin runtime.Pinner
	pin.Pin(&der[0])
	defer pin.Unpin()
	in := uintptr(unsafe.Pointer(&der[0]))

	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	purego.SyscallN(l.fn.errClear)
	ptr, _, _ := purego.SyscallN(l.fn.parseKey, 0, uintptr(unsafe.Pointer(&in)), uintptr(len(der)))
	if ptr == 0 {
		return nil, l.failure("d2i_AutoPrivateKey")
	}
	return &pkey{lib: l, ptr: ptr, size: k.Size()}, nil
}

// sign is signNow when it is its turn.
func (k *pkey) sign(digest []byte) ([]byte, error) {
	k.lib.slots <- struct{}{}
	defer func() { <-k.lib.slots }()
	return k.signNow(digest)
}

// signNow returns the PKCS #1 v1.5 signature of a SHA-256 digest. errRetired means that
// nothing was tried, any other error that libcrypto failed.
func (k *pkey) signNow(digest []byte) ([]byte, error) {
	c, err := k.acquire()
	if err != nil {
		return nil, err
	}
	if c == nil {
		if c, err = k.newContext(); err != nil {
			k.release(nil)
			return nil, err
		}
	}
	sig := make([]byte, k.size)
	if !k.call(c, sig, digest) {
		k.lib.free(c)
		err := k.explain(digest)
		k.release(nil)
		return nil, err
	}
	k.release(c)
	return sig, nil
}

// call makes the signature. Afterwards c can be used again only if it returns true.
func (k *pkey) call(c *context, sig, digest []byte) bool {
	c.size = uintptr(len(sig))
	return ok(purego.SyscallN(k.lib.fn.sign, c.ptr,
		uintptr(unsafe.Pointer(&sig[0])), uintptr(unsafe.Pointer(&c.size)),
		uintptr(unsafe.Pointer(&digest[0])), uintptr(len(digest)))) &&
		c.size == uintptr(len(sig))
}

// explain finds out why a signature failed, by asking for it again: libcrypto keeps the
// reason with the thread, and the goroutine may have left that already. Keeping it there
// for every signature would cost all of them.
func (k *pkey) explain(digest []byte) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	c, err := k.newContext()
	if err != nil {
		return err
	}
	defer k.lib.free(c)
	if k.call(c, make([]byte, k.size), digest) {
		return fmt.Errorf("libcrypto %s: EVP_PKEY_sign: succeeded only when repeated", k.lib.version)
	}
	return k.lib.failure("EVP_PKEY_sign")
}

// newContext sets up a context for signing with k, which must be in use by the caller. It
// leaves the thread's error queue empty.
func (k *pkey) newContext() (*context, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	l := k.lib
	purego.SyscallN(l.fn.errClear)
	ptr, _, _ := purego.SyscallN(l.fn.newContext, k.ptr, 0)
	if ptr == 0 {
		return nil, l.failure("EVP_PKEY_CTX_new")
	}
	c := &context{ptr: ptr}
	failed := ""
	switch {
	case !ok(purego.SyscallN(l.fn.initSign, ptr)):
		failed = "EVP_PKEY_sign_init"
	case !ok(purego.SyscallN(l.fn.setPadding, ptr, rsaPKCS1Padding)):
		failed = "EVP_PKEY_CTX_set_rsa_padding"
	case !ok(purego.SyscallN(l.fn.setDigest, ptr, l.sha256)):
		failed = "EVP_PKEY_CTX_set_signature_md"
	default:
		return c, nil
	}
	err := l.failure(failed)
	l.free(c)
	return nil, err
}

func (l *Library) free(c *context) { purego.SyscallN(l.fn.freeContext, c.ptr) }

// acquire counts the caller in and returns an idle context, or nil if there is none. After
// it, release must be called.
func (k *pkey) acquire() (*context, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.retired {
		return nil, errRetired
	}
	k.users++
	n := len(k.idle)
	if n == 0 {
		return nil, nil
	}
	c := k.idle[n-1]
	k.idle = k.idle[:n-1]
	return c, nil
}

// release counts the caller out and keeps c, unless it is nil, for the next one. As many
// are kept as can be in use at a time.
func (k *pkey) release(c *context) {
	k.mu.Lock()
	k.users--
	if c != nil && len(k.idle) < cap(k.lib.slots) {
		k.idle = append(k.idle, c)
		c = nil
	}
	last := k.retired && k.users == 0
	k.mu.Unlock()
	if c != nil {
		k.lib.free(c)
	}
	if last {
		k.destroy()
	}
}

// retire lets no further signature begin, and frees the key once there are none in flight.
// It returns false if that was done before.
func (k *pkey) retire() bool {
	k.mu.Lock()
	first := !k.retired
	k.retired = true
	last := first && k.users == 0
	k.mu.Unlock()
	if last {
		k.destroy()
	}
	return first
}

// destroy is called once, when nobody uses k and nobody can begin to.
func (k *pkey) destroy() {
	for _, c := range k.idle {
		k.lib.free(c)
	}
	k.idle = nil
	purego.SyscallN(k.lib.fn.freeKey, k.ptr)
}
