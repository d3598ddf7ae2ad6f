package libcrypto

import (
	"crypto"
	"crypto/rsa"
	"time"
)

// Speed is what one signature with a key of that many bits takes. A zero Libcrypto means
// that it was not measured.
type Speed struct {
	Bits          int
	Go, Libcrypto time.Duration
}

// libcryptoWins says whether libcrypto is faster by so much that it is worth leaving Go
// for it: by a tenth. Less is within the error of the measurement.
func (s Speed) libcryptoWins() bool {
	return s.Libcrypto > 0 && s.Libcrypto < s.Go-s.Go/10
}

// A measurement takes about measureFor, and no fewer than minRounds signatures by each: 13 ms
// for 2048 bits, 30 ms for 4096.
const (
	measureFor = 12 * time.Millisecond
	minRounds  = 3
)

// measure times k by Go and, unless s is nil, by libcrypto, in turns, so that a change of
// the processor's clock meets both. The fastest of each counts: everything else that runs
// on the machine can only add to it.
func measure(k *rsa.PrivateKey, s *Signer) (Speed, error) {
	speed := Speed{Bits: k.N.BitLen()}
	began := time.Now()
	for n := 0; n < minRounds || time.Since(began) < measureFor; n++ {
		t := time.Now()
		if _, err := rsa.SignPKCS1v15(nil, k, crypto.SHA256, testDigest[:]); err != nil {
			return speed, err
		}
		fastest(&speed.Go, time.Since(t))
		if s == nil {
			continue
		}
		t = time.Now()
		if _, err := s.signNow(testDigest[:]); err != nil {
			return speed, err
		}
		fastest(&speed.Libcrypto, time.Since(t))
	}
	return speed, nil
}

func fastest(d *time.Duration, new time.Duration) {
	if *d == 0 || new < *d {
		*d = new
	}
}
