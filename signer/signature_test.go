package signer

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"hash"
	"io"
	"math/big"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// checkForm checks the form of a signature field: RFC 6376, sections 3.2 and
// 3.5, and RFC 5322, sections 2.1.1 and 3.2.2.
func checkForm(t testing.TB, f Field, k Key) {
	t.Helper()
	if f.Name != "DKIM-Signature" {
		t.Errorf("field name %q", f.Name)
	}
	if !strings.HasPrefix(f.Value, " v=1; ") {
		t.Errorf("value begins with %.10q, want one blank and v=1", f.Value)
	}
	if strings.Contains(f.Value, "\r") {
		t.Errorf("CR in %q", f.Value)
	}
	for i, line := range strings.Split(f.Name+":"+f.Value, "\n") {
		if i > 0 && (line[0] != '\t' || line[1] == ' ' || line[1] == '\t') {
			t.Errorf("line %q does not begin with one TAB", line)
		}
		if strings.TrimRight(line, " \t") != line || line == "" {
			t.Errorf("line %q ends in blanks", line)
		}
		if len(line) > 78 && strings.ContainsAny(strings.TrimLeft(line, " \t"), " \t") {
			t.Errorf("line of %d characters could be broken: %q", len(line), line)
		}
		if len(line) > 460 { // i= with 64 encoded octets and the longest domain
			t.Errorf("line of %d characters", len(line))
		}
	}
	tag, order, err := tags(f.Value)
	if err != nil {
		t.Fatalf("%v in %q", err, f.Value)
	}
	want := []string{"v", "a", "c", "d", "s", "i", "t", "x", "h", "bh", "b"}
	if !regexp.MustCompile("^v a c d s (i )?t (x )?h bh b$").MatchString(strings.Join(order, " ")) {
		t.Errorf("tags %v, want %v with i and x optional", order, want)
	}
	if tag["v"] != "1" || tag["d"] != strings.ToLower(k.Domain) || tag["s"] != strings.ToLower(k.Selector) {
		t.Errorf("v=%s d=%s s=%s for key %s of %s", tag["v"], tag["d"], tag["s"], k.Selector, k.Domain)
	}
	if got := decodeQP(tag["i"]); !strings.EqualFold(got, k.Identity) {
		t.Errorf("i=%s is %q, want %q", tag["i"], got, k.Identity)
	}
	if !regexp.MustCompile(`^[0-9]{1,12}$`).MatchString(tag["t"]) {
		t.Errorf("t=%s", tag["t"])
	}
	if k.Lifetime > 0 {
		signed, _ := strconv.ParseInt(tag["t"], 10, 64)
		expires, err := strconv.ParseInt(tag["x"], 10, 64)
		if d := time.Duration(expires-signed) * time.Second; err != nil || d < k.Lifetime || d >= k.Lifetime+time.Second {
			t.Errorf("t=%s x=%s, want them %v apart", tag["t"], tag["x"], k.Lifetime)
		}
	}
	names := strings.Split(unfold(tag["h"]), ":")
	if !strings.EqualFold(names[0], "from") {
		t.Errorf("h= begins with %q, want From", names[0])
	}
	for _, name := range names {
		if !regexp.MustCompile(`^[!-9<-~]+$`).MatchString(name) {
			t.Errorf("name %q in h=", name)
		}
	}
	for b, size := range map[string]int{"bh": 32, "b": signatureSize(k.Signer.Public())} {
		if got, err := base64.StdEncoding.Strict().DecodeString(unfold(tag[b])); err != nil || len(got) != size {
			t.Errorf("%s= has %d octets (%v), want %d", b, len(got), err, size)
		}
	}
}

func signatureSize(pub crypto.PublicKey) int {
	if pub, ok := pub.(*rsa.PublicKey); ok {
		return (pub.N.BitLen() + 7) / 8
	}
	return 64
}

// decodeQP is RFC 6376, section 2.11.
func decodeQP(s string) string {
	return regexp.MustCompile("=[0-9A-F]{2}").ReplaceAllStringFunc(s, func(hex string) string {
		c, _ := strconv.ParseUint(hex[1:], 16, 8)
		return string([]byte{byte(c)})
	})
}

// TestRFCExamples remakes the signatures that the RFCs print, from the printed
// fields without b= and the printed keys.
func TestRFCExamples(t *testing.T) {
	for _, tt := range []struct {
		file, key string
		signature int // from the top
	}{
		{"rfc6376-a2", "rfc6376-rsa", 0},
		{"rfc8463-a3", "rfc8463-ed25519", 0},
		{"rfc8463-a3", "rfc8463-rsa", 1},
	} {
		raw, err := os.ReadFile(filepath.Join("..", "testdata", "vectors", tt.file+".eml"))
		if err != nil {
			t.Fatal(err)
		}
		m := parseMessage(t, raw)
		printed := m.fields[tt.signature]
		tag := mustTags(t, printed.Value)
		header, body, err := ParseCanonicalization(tag["c"])
		if err != nil {
			t.Fatal(err)
		}

		f, err := NewFields(strings.Split(unfold(tag["h"]), ":"), []string{})
		if tt.file == "rfc6376-a2" { // signs Received, which NewFields does not
			f, err = NewFields([]string{"To", "Subject", "Date", "Message-ID"}, []string{})
			f.add("Received")
		}
		if err != nil {
			t.Fatal(err)
		}
		s := New(Options{Header: header, Body: body, Fields: f, Profile: Postfix})
		m.feed(t, s)
		s.body.close()
		if s.body.base64 != tag["bh"] {
			t.Errorf("%s: bh=%s, want %s", tt.file, s.body.base64, tag["bh"])
		}

		// The named fields, in the order of the example.
		h := sha256.New()
		for name := range strings.SplitSeq(unfold(tag["h"]), ":") {
			r, _ := f.rule(name)
			if n := &s.names[r]; n.lowest >= 0 {
				e := s.entries[n.lowest]
				h.Write(s.arena[e.start:e.end])
				n.lowest = e.above
			}
		}
		b := regexp.MustCompile(`(?s)(\sb=)[^;]*`)
		own := canonicalField(header, printed.Name, b.ReplaceAllString(printed.Value, "$1"))
		io.WriteString(h, strings.TrimSuffix(own, "\r\n"))

		k := Key{Domain: tag["d"], Selector: tag["s"], Signer: loadKey(t, tt.key)}
		kind, err := k.check()
		if err != nil {
			t.Fatal(err)
		}
		if kind.alg != tag["a"] {
			t.Errorf("%s: a=%s, want %s", tt.key, kind.alg, tag["a"])
		}
		sig, err := k.Signer.Sign(rand.Reader, h.Sum(nil), kind.opts)
		if err != nil {
			t.Fatal(err)
		}
		if got, want := base64.StdEncoding.EncodeToString(sig), unfold(tag["b"]); got != want {
			t.Errorf("%s with %s:\n got b=%s\nwant b=%s", tt.file, tt.key, got, want)
		}

		// go-msgauth agrees that message and key are copied right.
		errs := goVerify(t, raw, tt.signature+1, records(t, []Key{k}))
		if err := errs[tt.signature]; err != nil {
			t.Errorf("%s with %s: go-msgauth: %v", tt.file, tt.key, err)
		}
	}
}

// TestForm has the shortest and the longest fields there are.
func TestForm(t *testing.T) {
	label := strings.Repeat("a", 63)
	var sixty []string
	for i := range 60 {
		sixty = append(sixty, fmt.Sprintf("X-Signed-Field-%0*d", 2+i%40, i))
	}
	f, err := NewFields(append(sixty, "X-"+strings.Repeat("n", maxName-2)), sixty)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		o    Options
		k    Key
	}{
		{"ordinary", Options{}, Key{Domain: "example.org", Selector: "2026a"}},
		{"everything set", Options{Header: Simple, Body: Simple, Profile: Postfix}, Key{
			Domain: "Example.Org", Selector: "2026A", Identity: "ann+x=3By;z @sub.EXAMPLE.org", Lifetime: 90 * time.Hour}},
		{"lifetime of a moment", Options{}, Key{Domain: "example.org", Selector: "s", Lifetime: 1}},
		{"longest domain", Options{Fields: f}, Key{
			Domain: label + "." + label + "." + label + "." + label[:48], Selector: "s", Identity: strings.Repeat("\u00e4", 32) + "@" + label + "." + label + "." + label + "." + label[:48]}},
		{"longest selector", Options{Fields: f}, Key{
			Domain: "a.b", Selector: label + "." + label + "." + label + "." + label[:46]}},
	} {
		for _, key := range []string{"rsa-1024", "rsa-2048", "rsa-4096", "ed25519"} {
			t.Run(tt.name+" with "+key, func(t *testing.T) {
				k := tt.k
				k.Signer = loadKey(t, key)
				m := simpleMessage(append(sixty, DefaultSigned()[1:]...)...)
				for o, sig := range map[string]Field{
					"full":  m.sign(t, tt.o, []Key{k})[0],
					"small": simpleMessage().sign(t, tt.o, []Key{k})[0],
				} {
					checkForm(t, sig, k)
					m := m
					if o == "small" {
						m = simpleMessage()
					}
					if err := naiveVerify(sig.Value, m, k.Signer.Public()); err != nil {
						t.Errorf("%v in\n%s", err, sig.Value)
					}
				}
			})
		}
	}
}

// TestGolden pins one field to the letter.
func TestGolden(t *testing.T) {
	m := simpleMessage("To", "Subject", "Date", "Message-ID")
	got := m.sign(t, Options{}, []Key{{Domain: "example.org", Selector: "2026a", Signer: loadKey(t, "rfc8463-ed25519")}})
	const want = " v=1; a=ed25519-sha256; c=relaxed/relaxed; d=example.org;\n" +
		"\ts=2026a; t=1763627400; h=From:From:Reply-To:To:To:Cc:Subject:Subject:Date:\n" +
		"\tDate:Message-ID:Message-ID:In-Reply-To:References:MIME-Version:Content-Type:\n" +
		"\tContent-Transfer-Encoding; bh=Ba3gj8+xBPQLJTahTfzW6RbWQ/XPgESxkCi2B66PSQg=;\n"
	if head, _, _ := strings.Cut(got[0].Value, "\tb="); head != want {
		t.Errorf("got\n%s\nwant\n%s", head, want)
	}
}

// TestRefused has keys that must not sign.
func TestRefused(t *testing.T) {
	good := Key{Domain: "example.org", Selector: "2026a", Signer: loadKey(t, "ed25519")}
	label := strings.Repeat("a", 63)
	long := label + "." + label + "." + label + "." + label[:61] // 253
	type edit func(*Key)
	domain := func(s string) edit { return func(k *Key) { k.Domain = s } }
	selector := func(s string) edit { return func(k *Key) { k.Selector = s } }
	identity := func(s string) edit { return func(k *Key) { k.Identity = s } }
	lifetime := func(d time.Duration) edit { return func(k *Key) { k.Lifetime = d } }
	signer := func(s crypto.Signer) edit { return func(k *Key) { k.Signer = s } }
	for _, tt := range []struct {
		edit edit
		want string // in the error
	}{
		{domain(""), "signing domain: empty"},
		{domain("."), "empty label"},
		{domain("example.org."), "empty label"},
		{domain("example..org"), "empty label"},
		{domain("example.org; l=0"), "character ';'"},
		{domain("example.org\r\nBcc: x@example.net"), `character '\r'`},
		{domain("example.org\nx"), `character '\n'`},
		{domain("example\x00.org"), `character '\x00'`},
		{domain("exam ple.org"), "character ' '"},
		{domain("b\u00fccher.example"), "character"},
		{domain("ann@example.org"), "character '@'"},
		{domain(label + "a.org"), "label of 64"},
		{domain(long + "a"), "254 octets"},
		{domain(long), "DNS has room"},
		{selector(""), "selector: empty"},
		{selector("a; l=0"), "character ';'"},
		{selector("a\r\nBcc: x"), `character '\r'`},
		{selector("a\tb"), `character '\t'`},
		{selector("a."), "empty label"},
		{selector(".a"), "empty label"},
		{selector("a=b"), "character '='"},
		{selector(long[:231]), "DNS has room"},
		{identity("ann"), "no @"},
		{identity("ann@"), "empty"},
		{identity("ann@example.net"), "not in example.org"},
		{identity("@notexample.org"), "not in example.org"},
		{identity("@org"), "not in example.org"},
		{identity("ann@example.org; l=0"), "character ';'"},
		{identity("ann\r\nx@example.org"), `character '\r'`},
		{identity("a\x00@example.org"), `character '\x00'`},
		{identity(strings.Repeat("a", 65) + "@example.org"), "local part of 65"},
		{lifetime(-1), "lifetime -1ns"},
		{lifetime(1<<63 - 1), "lifetime"},
		{signer(nil), "no private key"},
		{signer(otherKey{}), "no RSA or Ed25519 key"},
		{signer(publicOnly{&rsa.PublicKey{N: new(big.Int).Lsh(big.NewInt(1), 1022), E: 65537}}), "RSA modulus has 1023 bits"},
		{signer(publicOnly{&rsa.PublicKey{N: new(big.Int).Lsh(big.NewInt(1), 511), E: 65537}}), "RSA modulus has 512 bits"},
	} {
		bad := good
		tt.edit(&bad)
		s := New(Options{})
		simpleMessage().feed(t, s)
		fields, err := s.Sign(testTime, []Key{good, bad})
		if fields != nil || err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("key %+v: got %v, %v, want an error with %q", bad, fields, err, tt.want)
		} else if strings.ContainsAny(err.Error(), "\r\n\x00") {
			t.Errorf("error %q has control characters", err)
		}
	}
}

// publicOnly is a key that cannot sign.
type publicOnly struct{ pub crypto.PublicKey }

func (k publicOnly) Public() crypto.PublicKey { return k.pub }
func (k publicOnly) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) {
	return nil, io.ErrUnexpectedEOF
}

type otherKey struct{ publicOnly }

func (otherKey) Public() crypto.PublicKey { return "something else" }

// fixed is a key that gives the same bytes for everything.
type fixed struct {
	pub crypto.PublicKey
	sig []byte
}

func (k *fixed) Public() crypto.PublicKey { return k.pub }
func (k *fixed) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) {
	return k.sig, nil
}

// TestAllOrNothing: a key that cannot sign spoils the others' signatures, and
// the message can be signed without it.
func TestAllOrNothing(t *testing.T) {
	keys := testKeys(t)
	rsaPub, edPub := keys[1].Signer.Public(), keys[0].Signer.Public()
	for name, bad := range map[string]crypto.Signer{
		"signing error":           publicOnly{rsaPub},
		"short RSA signature":     &fixed{rsaPub, make([]byte, 255)},
		"long RSA signature":      &fixed{rsaPub, make([]byte, 257)},
		"no signature":            &fixed{rsaPub, nil},
		"short Ed25519 signature": &fixed{edPub, make([]byte, 63)},
	} {
		for _, at := range []int{0, 1, 2} {
			all := append([]Key{}, keys...)
			all = append(all[:at], append([]Key{{Domain: "example.com", Selector: "broken", Signer: bad}}, all[at:]...)...)
			s := New(Options{})
			simpleMessage().feed(t, s)
			fields, err := s.Sign(testTime, all)
			if fields != nil || err == nil || !strings.Contains(err.Error(), "broken") {
				t.Errorf("%s at %d: got %d fields and error %v", name, at, len(fields), err)
			}
			fields, err = s.Sign(testTime, keys)
			if want := simpleMessage().sign(t, Options{}, keys); err != nil || !reflect.DeepEqual(fields, want) {
				t.Errorf("%s at %d: signing again without the key: %v, %v, want %v", name, at, fields, err, want)
			}
		}
	}
}

// noClone is a hash that cannot be copied.
type noClone struct{ record }

func (*noClone) Clone() (hash.Cloner, error) { return nil, errors.ErrUnsupported }

func TestNoClone(t *testing.T) {
	s := New(Options{})
	s.fieldHash = new(noClone)
	simpleMessage().feed(t, s)
	if fields, err := s.Sign(testTime, testKeys(t)); fields != nil || !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("Sign with a hash that cannot be copied: %v, %v", fields, err)
	}
}

// TestOrder: RSA on top, else as given.
func TestOrder(t *testing.T) {
	ed, rs := loadKey(t, "ed25519"), loadKey(t, "rsa-1024")
	keys := []Key{
		{Domain: "example.org", Selector: "ed1", Signer: ed},
		{Domain: "example.org", Selector: "rsa1", Signer: rs},
		{Domain: "example.com", Selector: "ed2", Signer: ed},
		{Domain: "example.com", Selector: "rsa2", Signer: rs},
	}
	m := simpleMessage("To", "Subject")
	var got []string
	fields := m.sign(t, Options{}, keys)
	for _, f := range fields {
		got = append(got, mustTags(t, f.Value)["s"])
	}
	if want := []string{"rsa1", "rsa2", "ed1", "ed2"}; !reflect.DeepEqual(got, want) {
		t.Errorf("order %v, want %v", got, want)
	}
	for i, err := range goVerify(t, m.text(fields), len(fields), records(t, keys)) {
		if err != nil {
			t.Errorf("signature %s: %v", got[i], err)
		}
	}
}

// TestOptsOfSigner: what a crypto.Signer is asked for.
func TestOptsOfSigner(t *testing.T) {
	for _, name := range []string{"rsa-1024", "ed25519"} {
		spy := &spy{Signer: loadKey(t, name)}
		simpleMessage().sign(t, Options{}, []Key{{Domain: "example.org", Selector: "s", Signer: spy}})
		want := crypto.SHA256
		if _, ok := spy.Public().(ed25519.PublicKey); ok {
			want = 0
		}
		if spy.opts != crypto.SignerOpts(want) || len(spy.digest) != 32 {
			t.Errorf("%s: asked to sign %d octets with options %v, want 32 and %v", name, len(spy.digest), spy.opts, want)
		}
	}
}

type spy struct {
	crypto.Signer
	digest []byte
	opts   crypto.SignerOpts
}

func (s *spy) Sign(r io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	s.digest, s.opts = digest, opts
	return s.Signer.Sign(r, digest, opts)
}

func TestSigningTime(t *testing.T) {
	keys := testKeys(t)[:1]
	for _, tt := range []struct {
		unix int64
		ok   bool
	}{{-1, false}, {0, true}, {4102444800, true}, {999_999_999_999, false}} {
		s := New(Options{})
		simpleMessage().feed(t, s)
		fields, err := s.Sign(time.Unix(tt.unix, 999), keys)
		if (err == nil) != tt.ok {
			t.Errorf("signing at %d: error %v", tt.unix, err)
		}
		if err == nil {
			if got := mustTags(t, fields[0].Value)["t"]; got != fmt.Sprint(tt.unix) {
				t.Errorf("t=%s, want %d", got, tt.unix)
			}
		}
	}
}
