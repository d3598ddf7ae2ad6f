package libcrypto

import (
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"testing"
)

func testKey(t testing.TB, bits int) *rsa.PrivateKey {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("testdata/rsa-%d.pem", bits))
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(data)
	k, err := x509.ParsePKCS1PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	if k.N.BitLen() != bits {
		t.Fatalf("test key has %d bits, want %d", k.N.BitLen(), bits)
	}
	return k
}

func TestProbeIsAValidKeyOf2048Bits(t *testing.T) {
	if err := probe().Validate(); err != nil {
		t.Fatal(err)
	}
	if got := probe().N.BitLen(); got != 2048 {
		t.Errorf("probe has %d bits, want 2048", got)
	}
}
