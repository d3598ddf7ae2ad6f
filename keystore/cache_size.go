package keystore

import (
	"crypto/rsa"
	"math"
)

// What an entry takes in memory: as measured on amd64, with Go's keys and as much
// again for what an accelerator makes of them, rounded up.
const (
	entryBytes   = 1 << 10 // its names, its place in the cache
	ed25519Bytes = 1 << 10
	rsaBytes     = 2 << 10 // and rsaBitBytes for each bit of the modulus
	rsaBitBytes  = 4       // the numbers, and what is computed ahead from them

	senderKeyBytes = 128 // a key that a sender names, but for the names
)

// size estimates the memory that an entry takes, in bytes. A key that Prepare
// has made is counted like the one it was made from.
func (e *entry) size() int64 {
	size := int64(entryBytes)
	switch {
	case e.sender != nil:
		return size + e.sender.size()
	case e.signing == nil:
		return size
	}
	for _, k := range e.signing.Keys {
		size += ed25519Bytes
		if public, ok := k.Signer.Public().(*rsa.PublicKey); ok {
			size += rsaBytes + rsaBitBytes*int64(public.N.BitLen())
		}
	}
	for _, err := range e.signing.Broken {
		size += entryBytes + int64(len(err.Error()))
	}
	return size
}

// weigher makes one bound of two: an entry weighs what it takes, but that of a
// domain at least as much as lets no more than MaxEntries be within MaxBytes.
func (o *CacheOptions) weigher() func(string, *entry) uint32 {
	least := (o.MaxBytes + int64(o.MaxEntries) - 1) / int64(o.MaxEntries)
	return func(_ string, e *entry) uint32 {
		if e.sender != nil {
			return uint32(min(e.size(), math.MaxUint32))
		}
		return uint32(min(max(e.size(), least), math.MaxUint32))
	}
}
