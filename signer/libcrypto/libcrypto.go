// Package libcrypto makes RSA signatures with the system's libcrypto.so.3, which needs
// well under half the time of Go's crypto/rsa for the key size that mail uses. The library
// is found at run time (dlopen, no cgo), so the program runs, and signs, without it too.
//
// An [Engine] decides which of the two signs with which key. It promises:
//
//   - A signature asked for is delivered. Whatever goes wrong in libcrypto, then or later,
//     Go's crypto/rsa signs instead, for good as far as that key is concerned, and the
//     failure is reported once.
//   - The two are interchangeable. RSASSA-PKCS1-v1_5 (RFC 8017, section 8.2) leaves no
//     choice to the signer, and a key is used through libcrypto only after a signature
//     with it came out identical to Go's and was verified.
//   - Only what DKIM needs is done by libcrypto: PKCS #1 v1.5 with SHA-256 (RFC 8301,
//     section 3.1). Every other request goes to Go.
//   - Threads are bounded. A call into C occupies an operating system thread, so at most
//     twice GOMAXPROCS signatures are in libcrypto at a time; the others wait their turn.
//
// libcrypto is used on linux/amd64. Elsewhere, and in a program built with the tag
// nolibcrypto (which makes it static), [Open] says that it is not built in.
//
// The library is loaded and used once by [Open], which reads OpenSSL's configuration and
// the provider modules it names: call it before dropping rights or changing the root. The
// loaded copy stays in use when the file is replaced; restart to pick up a fixed one.
package libcrypto

import (
	"crypto/rsa"
	"crypto/sha256"
	"math/big"
	"sync"
)

// testDigest is what self-tests and measurements sign. It is no header hash of a mail, so
// the signature is of no use to anyone.
var testDigest = sha256.Sum256([]byte("waxseal: self-test of libcrypto"))

// probe is the key of Open's self-test and of the first measurement. It is public, as
// everything in this file is, and nothing else is ever signed with it. Making a fresh one
// would cost a start-up several hundred signatures' time.
var probe = sync.OnceValue(func() *rsa.PrivateKey {
	p, q, e := hex(probeP), hex(probeQ), big.NewInt(65537)
	one := big.NewInt(1)
	phi := new(big.Int).Mul(new(big.Int).Sub(p, one), new(big.Int).Sub(q, one))
	k := &rsa.PrivateKey{
		PublicKey: rsa.PublicKey{N: new(big.Int).Mul(p, q), E: int(e.Int64())},
		D:         new(big.Int).ModInverse(e, phi),
		Primes:    []*big.Int{p, q},
	}
	k.Precompute()
	return k
})

func hex(s string) *big.Int {
	n, _ := new(big.Int).SetString(s, 16)
	return n
}

const (
	probeP = "" +
		"cfa04598c0bffb5f7d56c53f2705dd5bb661fe8cc94c746c62cbb278cf5fbb14" +
		"349fdb2268a7bb3118e097cf5a0d569c25a580e1742cf73f9ffadd15fc29a2fa" +
		"72572ad5f7de9a248f892138856dca03f6733529d788feb0455278eb9d59dffd" +
		"137c6a33f7e8a10227dc5364320cb041db3578d73737b8082e4b2ce7713845a3"
	probeQ = "" +
		"bb96e1eb83d93d96a1a24c24e5e5d563e9870970f147335f0c0f2c4e0ea0ac39" +
		"8d9001ab77f0fdc36db52e4c367cf81ad28e9714349d195edf096c4de80905a7" +
		"6b26b3f54d3d752faa323fd56146e8a5ac7a0dd5e1018ff498a6897ed1f2ef28" +
		"846140f5e9b26827df23b2099a674fa7652a45d1c3bc0691db588146fc21a85d"
)
