package libcrypto

import (
	"cmp"
	"crypto"
	"crypto/rsa"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
)

// Mode says who makes RSA signatures.
type Mode uint8

const (
	// ModeAuto takes, for each key size, the one that is faster on this machine. Where
	// there is no usable libcrypto, that is Go.
	ModeAuto Mode = iota
	// ModeGo does not look for libcrypto at all.
	ModeGo
	// ModeLibcrypto takes libcrypto without measuring, and wants it present: NewEngine
	// returns an error when it is not.
	ModeLibcrypto
)

var modeNames = [...]string{ModeAuto: "auto", ModeGo: "go", ModeLibcrypto: "libcrypto"}

// ParseMode returns the mode with that name: auto, go or libcrypto.
func ParseMode(s string) (Mode, error) {
	if i := slices.Index(modeNames[:], s); i >= 0 {
		return Mode(i), nil
	}
	return ModeAuto, fmt.Errorf("%q is no way to make RSA signatures, want auto, go or libcrypto", s)
}

func (m Mode) String() string { return modeNames[m] }

// EngineOptions are the settings of an Engine. The zero value works.
type EngineOptions struct {
	Mode Mode
	// OnFallback is told why a key is signed with by Go though libcrypto was wanted, once
	// for each such key. It is called in the goroutine that loads the key or asked for
	// the signature, possibly in several at once, and should be quick.
	OnFallback func(error)
}

// Engine gives keys to the signer that should use them. Its methods may be called
// concurrently.
type Engine struct {
	mode      Mode
	lib       *Library // nil: Go signs with every key
	why       error    // why lib is nil, where it was wanted
	report    func(error)
	fallbacks atomic.Uint64

	mu     sync.Mutex // guards speeds, and is held while measuring
	speeds map[int]Speed
}

// NewEngine opens libcrypto as the mode asks. The error is always about a libcrypto that
// is demanded and cannot be used.
func NewEngine(o EngineOptions) (*Engine, error) {
	return newEngine(o, Open)
}

func newEngine(o EngineOptions, open func() (*Library, error)) (*Engine, error) {
	e := &Engine{mode: o.Mode, speeds: map[int]Speed{}}
	e.report = func(err error) {
		e.fallbacks.Add(1)
		if o.OnFallback != nil {
			o.OnFallback(err)
		}
	}
	if o.Mode == ModeGo {
		return e, nil
	}
	if e.lib, e.why = open(); e.why != nil && o.Mode == ModeLibcrypto {
		return nil, e.why
	}
	return e, nil
}

// Prepare returns what should sign with key: a [Signer], or key itself where Go is faster
// or libcrypto cannot use it. A key that is not RSA is returned as it is. The error is
// always nil; a key that libcrypto cannot use is reported to OnFallback.
//
// The first key of each size may take some 30 ms, for measuring. The Signer returned can
// be closed, and need not be: what a forgotten one holds in libcrypto is freed by the
// garbage collector.
func (e *Engine) Prepare(key crypto.Signer) (crypto.Signer, error) {
	k, ok := key.(*rsa.PrivateKey)
	if !ok || e.lib == nil {
		return key, nil
	}
	if s, ok := e.known(k.N.BitLen()); ok && e.mode == ModeAuto && !s.libcryptoWins() {
		return key, nil
	}
	s, err := e.lib.NewSigner(k, e.report)
	if err != nil {
		e.report(fallbackError(k, err))
		return key, nil
	}
	if e.mode == ModeLibcrypto {
		return s, nil
	}
	speed, err := e.measured(k, s)
	if err != nil {
		e.report(fallbackError(k, err))
	}
	if err != nil || !speed.libcryptoWins() {
		s.Close()
		return key, nil
	}
	return s, nil
}

// fallbackError is what OnFallback is told of a key.
func fallbackError(k *rsa.PrivateKey, err error) error {
	return fmt.Errorf("RSA-%d key falls back to Go: %w", k.N.BitLen(), err)
}

func (e *Engine) known(bits int) (Speed, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	s, ok := e.speeds[bits]
	return s, ok
}

// measured is the speed of keys of k's size: remembered, or else found out now with k. s
// is the same key in libcrypto; nil measures Go alone. A measurement that failed is not
// remembered, so that the next key of that size has its own chance.
func (e *Engine) measured(k *rsa.PrivateKey, s *Signer) (Speed, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if speed, ok := e.speeds[k.N.BitLen()]; ok {
		return speed, nil
	}
	speed, err := measure(k, s)
	if err == nil {
		e.speeds[speed.Bits] = speed
	}
	return speed, err
}

// Fallbacks is how many keys are or were signed with by Go though libcrypto was wanted.
func (e *Engine) Fallbacks() uint64 { return e.fallbacks.Load() }

// Speeds are the measurements made so far, smallest keys first.
func (e *Engine) Speeds() []Speed {
	e.mu.Lock()
	defer e.mu.Unlock()
	var all []Speed
	for _, s := range e.speeds {
		all = append(all, s)
	}
	slices.SortFunc(all, func(a, b Speed) int { return cmp.Compare(a.Bits, b.Bits) })
	return all
}

// Describe says in a line who makes RSA-2048 signatures here, how fast, and where it is
// Go, why: "RSA by libcrypto 3.0.19 (310 µs a signature, Go: 840 µs)". It may take some
// 15 ms the first time, for measuring.
func (e *Engine) Describe() string {
	speed, err := e.probeSpeed()
	us := speed.Go.Microseconds()
	switch {
	case e.mode == ModeGo:
		return fmt.Sprintf("RSA by Go (%d µs a signature)", us)
	case err != nil:
		return fmt.Sprintf("RSA by Go (%d µs a signature; %v)", us, err)
	case e.mode == ModeLibcrypto || speed.libcryptoWins():
		return fmt.Sprintf("RSA by libcrypto %s (%d µs a signature, Go: %d µs)",
			e.lib.Version(), speed.Libcrypto.Microseconds(), us)
	default:
		return fmt.Sprintf("RSA by Go (%d µs a signature, libcrypto %s: %d µs)",
			us, e.lib.Version(), speed.Libcrypto.Microseconds())
	}
}

// Maker names who makes RSA-2048 signatures here: "libcrypto 3.0.19" or "Go". Like
// Describe it may measure first.
func (e *Engine) Maker() string {
	speed, err := e.probeSpeed()
	if e.mode == ModeGo || err != nil || e.mode == ModeAuto && !speed.libcryptoWins() {
		return "Go"
	}
	return "libcrypto " + e.lib.Version()
}

// probeSpeed is the speed of 2048-bit keys. With an error, which says why libcrypto does
// not sign, it is Go's alone.
func (e *Engine) probeSpeed() (Speed, error) {
	if e.lib == nil {
		s, err := e.measured(probe(), nil)
		return s, cmp.Or(e.why, err)
	}
	s, err := e.lib.NewSigner(probe(), nil)
	if err == nil {
		defer s.Close()
		var speed Speed
		if speed, err = e.measured(probe(), s); err == nil {
			return speed, nil
		}
	}
	speed, goErr := measure(probe(), nil)
	return speed, errors.Join(err, goErr)
}
