package dns

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"reflect"
	"strings"
	"sync"
	"testing"

	"waxseal/keystore"
)

// The key record of RFC 8463, appendix A.2, and one for each size of RSA.
const rfc8463 = "11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="

var (
	signersMu sync.Mutex
	signers   = map[keystore.Algorithm]crypto.Signer{}
)

// newKey returns an active key; the same one for the same algorithm.
func newKey(t testing.TB, alg keystore.Algorithm) *keystore.Key {
	t.Helper()
	signersMu.Lock()
	defer signersMu.Unlock()
	signer := signers[alg]
	if signer == nil {
		var err error
		if signer, err = keystore.Generate(alg); err != nil {
			t.Fatal(err)
		}
		signers[alg] = signer
	}
	public, alg, err := keystore.PublicBytes(signer.Public())
	if err != nil {
		t.Fatal(err)
	}
	return &keystore.Key{Selector: "2026a", Algorithm: alg, State: keystore.Active, Public: public,
		Load: func(context.Context) (crypto.Signer, error) { return signer, nil }}
}

func TestNewRecord(t *testing.T) {
	seed, _ := base64.StdEncoding.DecodeString(rfc8463)
	k := &keystore.Key{Selector: "brisbane", Algorithm: keystore.Ed25519, State: keystore.Active, Public: seed}
	for _, test := range []struct {
		o    RecordOptions
		want string // an error if it does not begin with v=
	}{
		{RecordOptions{}, "v=DKIM1; k=ed25519; p=" + rfc8463},
		{RecordOptions{Testing: true}, "v=DKIM1; k=ed25519; t=y; p=" + rfc8463},
		{RecordOptions{StrictIdentity: true}, "v=DKIM1; k=ed25519; t=s; p=" + rfc8463},
		{RecordOptions{Testing: true, StrictIdentity: true}, "v=DKIM1; k=ed25519; t=y:s; p=" + rfc8463},
		{RecordOptions{Service: []string{"email"}}, "v=DKIM1; k=ed25519; s=email; p=" + rfc8463},
		{RecordOptions{Service: []string{"*", "email"}}, "v=DKIM1; k=ed25519; s=*:email; p=" + rfc8463},
		{RecordOptions{Hash: []string{"sha256"}}, "v=DKIM1; k=ed25519; h=sha256; p=" + rfc8463},
		{RecordOptions{Note: `a; "b" \c=ü`}, `v=DKIM1; k=ed25519; n=a=3B=20"b"=20\c=3D=C3=BC; p=` + rfc8463},
		{RecordOptions{Hash: []string{"sha256"}, Service: []string{"email"}, Testing: true, Note: "x"}, "v=DKIM1; k=ed25519; h=sha256; s=email; t=y; n=x; p=" + rfc8463},
		{RecordOptions{Service: []string{"tlsrpt"}}, `service "tlsrpt", want "email"`},
		{RecordOptions{Service: []string{"email", "email"}}, "each once"},
		{RecordOptions{Service: []string{"email; p="}}, "want"},
		{RecordOptions{Hash: []string{"sha1"}}, "RFC 8301"},
		{RecordOptions{Hash: []string{"sha256", "sha1"}}, "RFC 8301"},
		{RecordOptions{Hash: []string{"sha512"}}, `want "sha256"`},
		{RecordOptions{Hash: []string{"SHA256"}}, `want "sha256"`},
		{RecordOptions{Note: strings.Repeat("x", 256)}, "at most 255"},
		{RecordOptions{Note: "a\nb"}, "control character"},
		{RecordOptions{Note: "\xff"}, "UTF-8"},
		{RecordOptions{Granularity: "*"}, "historic: RFC 6376 removed it"},
	} {
		r, err := NewRecord(k, test.o)
		if !strings.HasPrefix(test.want, "v=") {
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("%+v: %v, %v; want an error with %q", test.o, r, err, test.want)
			}
			continue
		}
		if err != nil || r.String() != test.want {
			t.Errorf("%+v: got %q, %v; want %q", test.o, r, err, test.want)
			continue
		}
		if back, err := ParseRecord(r.String()); err != nil || !reflect.DeepEqual(back, r) {
			t.Errorf("%q parses back to %+v, %v; want %+v", r, back, err, r)
		}
	}
}

func TestNewRecordFollowsTheKeysState(t *testing.T) {
	for _, alg := range []keystore.Algorithm{keystore.RSA1024, keystore.Ed25519} {
		k := newKey(t, alg)
		for state, revoked := range map[keystore.State]bool{keystore.Pending: false, keystore.Active: false, keystore.Retired: false, keystore.Revoked: true} {
			k.State = state
			r, err := NewRecord(k, RecordOptions{})
			if err != nil || r.Revoked() != revoked || strings.HasSuffix(r.String(), " p=") != revoked {
				t.Errorf("%s: %q, %v; want revoked %v", state, r, err, revoked)
			}
		}
		k.State = keystore.Removed
		if r, err := NewRecord(k, RecordOptions{}); err == nil {
			t.Errorf("removed: %q", r)
		}
	}
	if r, err := NewRecord(&keystore.Key{Selector: "a", Algorithm: keystore.RSA2048, Public: []byte("x")}, RecordOptions{}); err == nil {
		t.Errorf("a key that is none: %q", r)
	}
}

func TestParseRecord(t *testing.T) {
	k := newKey(t, keystore.RSA1024)
	spki := base64.StdEncoding.EncodeToString(k.Public)
	signer, err := k.Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	bare := base64.StdEncoding.EncodeToString(x509.MarshalPKCS1PublicKey(signer.Public().(*rsa.PublicKey)))
	ecKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ecDER, err := x509.MarshalPKIXPublicKey(ecKey.Public())
	if err != nil {
		t.Fatal(err)
	}
	ec := base64.StdEncoding.EncodeToString(ecDER)
	edSPKI := "MCowBQYDK2VwAyEA" + rfc8463
	// The record of RFC 6376, appendix C.
	rfc6376 := "v=DKIM1; p=MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDwIRP/UC3SBsEmGqZ9ZJW3/DkMoGeLnQg1fWn7/zYt" +
		"IxN2SnFCjxOCKG9v3b4jYfcTNh5ijSsq631uBItLa7od+v/RtdC2UzJ1lWT947qR+Rcac2gb" +
		"to/NMqJ0fzfVjH4OuKhitdY9tf6mcwGjaNBcWToIMmPSPDdQPNUYckcQ2QIDAQAB"
	for _, test := range []struct {
		name, text string
		want       *Record
		err        string
	}{
		{"as we write it", "v=DKIM1; k=rsa; p=" + spki, &Record{KeyType: "rsa", Public: k.Public}, ""},
		{"the least", "p=" + spki, &Record{KeyType: "rsa", Public: k.Public}, ""},
		{"bare RSAPublicKey", "k=rsa;p=" + bare, &Record{KeyType: "rsa", Public: k.Public}, ""},
		{"blanks everywhere", " v = DKIM1 ;\tk =\r\n rsa; h = sha1 : sha256 ; p = " + spki[:9] + " \t" + spki[9:] + " ; ", &Record{KeyType: "rsa", Hashes: []string{"sha1", "sha256"}, Public: k.Public}, ""},
		{"all tags", "v=DKIM1; n=a=3Bb c; t=y:s; s=email:*; h=sha256; k=rsa; p=" + spki,
			&Record{KeyType: "rsa", Hashes: []string{"sha256"}, Services: []string{"email", "*"}, Flags: []string{"y", "s"}, Note: "a;b c", Public: k.Public}, ""},
		{"unknown tags and values", "p=" + spki + "; g=*; x-y_1=a=b; t=future-flag; s=tlsrpt; h=sha3-256; zz=", nil, "not the name of a tag"},
		{"unknown tags and values, well named", "p=" + spki + "; g=*; x_y1=a=b; t=future-flag; s=tlsrpt; h=sha3-256; zz=",
			&Record{KeyType: "rsa", Hashes: []string{"sha3-256"}, Services: []string{"tlsrpt"}, Flags: []string{"future-flag"}, Public: k.Public}, ""},
		{"historic g=", "v=DKIM1; g=; k=rsa; p=" + spki, &Record{KeyType: "rsa", Public: k.Public}, ""},
		{"Ed25519 of RFC 8463", "v=DKIM1; k=ed25519; p=" + rfc8463, &Record{KeyType: "ed25519"}, ""},
		{"RSA of RFC 6376", rfc6376, &Record{KeyType: "rsa"}, ""},
		{"revoked", "v=DKIM1; p=", &Record{KeyType: "rsa"}, ""},
		{"revoked, with blanks", "v=DKIM1; k=ed25519; p= ;", &Record{KeyType: "ed25519"}, ""},
		{"note that is not quoted-printable", "n=50=25 =zz =a; p=", &Record{KeyType: "rsa", Note: "50% =zz =a"}, ""},
		{"note of our own dialect's capitals only", "n==c3; p=", &Record{KeyType: "rsa", Note: "=c3"}, ""},

		{"nothing", "", nil, "no record at all"},
		{"another record", "v=spf1 -all", nil, `v="spf1 -all", want DKIM1`},
		{"another version", "v=DKIM2; p=", nil, "want DKIM1"},
		{"version in small letters", "v=dkim1; p=", nil, "want DKIM1"},
		{"version not first", "p=; v=DKIM1", nil, "not the first tag"},
		{"tag name in capitals is another tag", "V=DKIM1; P=", nil, "p= is missing"},
		{"no key", "v=DKIM1; k=rsa", nil, "p= is missing"},
		{"a tag twice", "v=DKIM1; p=; p=" + spki, nil, "p= stands there twice"},
		{"an unknown tag twice", "v=DKIM1; x=1; x=1; p=", nil, "x= stands there twice"},
		{"a semicolon too many", "v=DKIM1;; p=", nil, "semicolon"},
		{"two at the end", "v=DKIM1; p=;;", nil, "semicolon"},
		{"no equals", "v=DKIM1; foo; p=", nil, "not a tag=value"},
		{"no name", "v=DKIM1; =x; p=", nil, "not the name"},
		{"quotes of a zone file", `"v=DKIM1; p=` + spki + `"`, nil, "not the name"},
		{"8-bit", "v=DKIM1; n=ü; p=", nil, "not allowed"},
		{"NUL", "v=DKIM1; n=\x00; p=", nil, "not allowed"},
		{"unknown key type", "k=dsa; p=" + spki, nil, `k="dsa"`},
		{"empty key type", "k=; p=" + spki, nil, `k=""`},
		{"empty list", "h=; p=" + spki, nil, "no word"},
		{"a hole in a list", "t=y::s; p=" + spki, nil, "no word"},
		{"words that are none", "h=sha256-; p=" + spki, nil, "no word"},
		{"a star where none may be", "h=*; p=" + spki, nil, "no word"},
		{"not base64", "p=" + spki[:40] + "*", nil, "not base64"},
		{"base64 cut off", "p=" + spki[:41], nil, "not base64"},
		{"key cut off", "p=" + spki[:40], nil, "RSA public key"},
		{"key cut off at 255", ("v=DKIM1; k=rsa; p=" + spki)[:18+100], nil, "RSA public key"},
		{"EC key", "p=" + ec, nil, "k= says rsa"},
		{"Ed25519 without k=", "p=" + rfc8463, nil, "RSA public key"},
		{"RSA with k=ed25519", "k=ed25519; p=" + spki, nil, "want the 32"},
		{"wrapped Ed25519", "k=ed25519; p=" + edSPKI, nil, "RFC 8463, section 4.2"},
		{"too long", "p=; n=" + strings.Repeat("x", maxRecord), nil, "at most 65535"},
	} {
		r, err := ParseRecord(test.text)
		if test.err != "" {
			if err == nil || !strings.Contains(err.Error(), test.err) {
				t.Errorf("%s: %+v, %v; want an error with %q", test.name, r, err, test.err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", test.name, err)
			continue
		}
		if test.want.Public == nil && !strings.HasPrefix(test.name, "revoked") && !strings.HasPrefix(test.name, "note") {
			test.want.Public = r.Public // only that there is one
			if r.Revoked() {
				t.Errorf("%s: no key", test.name)
			}
		}
		if !reflect.DeepEqual(r, test.want) {
			t.Errorf("%s: got %+v, want %+v", test.name, r, test.want)
		}
	}
}

func TestRecordKey(t *testing.T) {
	for _, alg := range []keystore.Algorithm{keystore.RSA1024, keystore.RSA2048, keystore.Ed25519} {
		r, err := NewRecord(newKey(t, alg), RecordOptions{})
		if err != nil {
			t.Fatal(err)
		}
		want := map[keystore.Algorithm]int{keystore.RSA1024: 1024, keystore.RSA2048: 2048, keystore.Ed25519: 256}[alg]
		if got, bits := r.Key(); got != alg || bits != want {
			t.Errorf("got %s, %d bits; want %s, %d", got, bits, alg, want)
		}
		r.Public = nil
		if got, bits := r.Key(); got != "" || bits != 0 {
			t.Errorf("revoked: %s, %d bits", got, bits)
		}
	}
}

func FuzzParseRecord(f *testing.F) {
	k := newKey(f, keystore.RSA1024)
	spki := base64.StdEncoding.EncodeToString(k.Public)
	for _, s := range []string{
		"v=DKIM1; k=rsa; p=" + spki, "v=DKIM1; k=ed25519; p=" + rfc8463, "p=", "v=DKIM1; n=a=3Bb=20\"\\; t=y:s; s=*:email; h=sha256; p=",
		" v = DKIM1 ;\tk =\r\n rsa; p = " + spki[:9] + " " + spki[9:] + " ;", ";", "=", "a=b=c;", "k=ed25519; p=MCowBQYDK2VwAyEA" + rfc8463,
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := ParseRecord(s)
		if err != nil {
			return
		}
		text := r.String()
		for _, c := range []byte(text) {
			if c < ' ' || c >= 0x7f {
				t.Fatalf("%q has the octet %#x", text, c)
			}
		}
		if len(text) > maxRecord {
			return
		}
		again, err := ParseRecord(text)
		if err != nil || !reflect.DeepEqual(again, r) {
			t.Fatalf("%q: %+v, %v; want %+v", text, again, err, r)
		}
	})
}
