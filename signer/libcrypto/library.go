//go:build linux && amd64 && !android && !nolibcrypto

package libcrypto

import (
	"fmt"
	"runtime"
	"strings"
	"unsafe"

	"github.com/ebitengine/purego"
)

// soname is the library of OpenSSL 3. The one of 1.1 is not tried: what is called here
// were macros there, and it is out of support.
const soname = "libcrypto.so.3"

// Library is the system's libcrypto. It may be used concurrently. It is never unloaded, and
// one is enough: the bound on signatures at a time is each Library's own.
type Library struct {
	fn      functions
	sha256  uintptr // EVP_sha256(), a constant of the library
	version string
	// slots has room for as many signatures as may be in libcrypto at a time. With one
	// for each processor, processors idle while the next thread wakes up; unbounded,
	// every caller ends up with a thread.
	slots chan struct{}
}

// functions are the addresses of what is called in libcrypto.
type functions struct {
	errClear, errGet, errString uintptr

	parseKey, freeKey uintptr

	newContext, freeContext, initSign, setPadding, setDigest, sign uintptr
}

// Open loads libcrypto and makes a signature with it. The error says why it cannot be used:
// absent, a version that is refused, incomplete, or misconfigured.
func Open() (*Library, error) {
	return open(soname, purego.Dlsym)
}

// open is Open for a library file and a way to look up its functions.
func open(name string, lookup func(handle uintptr, symbol string) (uintptr, error)) (*Library, error) {
	// dlerror's text belongs to the thread.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()

	handle, err := purego.Dlopen(name, purego.RTLD_NOW|purego.RTLD_LOCAL)
	if err != nil {
		return nil, fmt.Errorf("libcrypto: %w", err)
	}
	l := &Library{slots: make(chan struct{}, 2*runtime.GOMAXPROCS(0))}
	if err := l.load(handle, lookup); err != nil {
		purego.Dlclose(handle)
		return nil, err
	}
	// From here on the library has state of its own and stays.
	s, err := l.NewSigner(probe(), nil)
	if err != nil {
		return nil, err
	}
	s.Close()
	return l, nil
}

// load fills in l. The version is looked at first: another may lack functions, or not
// survive the calls.
func (l *Library) load(handle uintptr, lookup func(uintptr, string) (uintptr, error)) error {
	number, err := lookup(handle, "OpenSSL_version_num")
	if err != nil {
		return fmt.Errorf("libcrypto: no version: %w", err)
	}
	n, _, _ := purego.SyscallN(number)
	if l.version, err = acceptVersion(uint64(n)); err != nil {
		return err
	}
	var sha256 uintptr
	for _, f := range []struct {
		at     *uintptr
		symbol string
	}{
		{&l.fn.errClear, "ERR_clear_error"},
		{&l.fn.errGet, "ERR_get_error"},
		{&l.fn.errString, "ERR_error_string_n"},
		{&l.fn.parseKey, "d2i_AutoPrivateKey"},
		{&l.fn.freeKey, "EVP_PKEY_free"},
		{&l.fn.newContext, "EVP_PKEY_CTX_new"},
		{&l.fn.freeContext, "EVP_PKEY_CTX_free"},
		{&l.fn.initSign, "EVP_PKEY_sign_init"},
		{&l.fn.setPadding, "EVP_PKEY_CTX_set_rsa_padding"},
		{&l.fn.setDigest, "EVP_PKEY_CTX_set_signature_md"},
		{&l.fn.sign, "EVP_PKEY_sign"},
		{&sha256, "EVP_sha256"},
	} {
		if *f.at, err = lookup(handle, f.symbol); err != nil {
			return fmt.Errorf("libcrypto %s: %w", l.version, err)
		}
	}
	if l.sha256, _, _ = purego.SyscallN(sha256); l.sha256 == 0 {
		return fmt.Errorf("libcrypto %s: no SHA-256", l.version)
	}
	return nil
}

// acceptVersion returns the name of the version with that number, as OpenSSL_version_num
// gives it (0xMNN00PP0 since 3.0, 0xMNNFFPPS before), or an error if it is refused.
func acceptVersion(n uint64) (string, error) {
	major, minor, patch := n>>28, n>>20&0xff, n>>4&0xff
	if major < 3 {
		patch = n >> 12 & 0xff
	}
	version := fmt.Sprintf("%d.%d.%d", major, minor, patch)
	switch {
	case major != 3:
		return "", fmt.Errorf("libcrypto %s: want a version 3", version)
	case version == "3.0.4":
		return "", fmt.Errorf("libcrypto %s: refused, its RSA corrupts memory (CVE-2022-2274)", version)
	}
	return version, nil
}

// Version is the library's version, such as "3.0.19".
func (l *Library) Version() string { return l.version }

// failure is the error for a call that just failed on this thread, to which the caller is
// locked, with libcrypto's own account of it.
func (l *Library) failure(call string) error {
	text := "no reason given"
	// The first error is the cause, those after it are what came of it.
	if code, _, _ := purego.SyscallN(l.fn.errGet); code != 0 {
		buf := make([]byte, 256)
		purego.SyscallN(l.fn.errString, code, uintptr(unsafe.Pointer(&buf[0])), uintptr(len(buf)))
		text, _, _ = strings.Cut(string(buf), "\x00")
		purego.SyscallN(l.fn.errClear)
	}
	return fmt.Errorf("libcrypto %s: %s: %s", l.version, call, text)
}

// ok says whether a function returned 1, which is success for all that return an int. The
// upper half of the word is not part of an int.
func ok(result, _, _ uintptr) bool { return int32(result) == 1 }
