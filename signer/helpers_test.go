package signer

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-msgauth/dkim"
)

// testTime is when test messages are signed.
var testTime = time.Unix(1763627400, 0)

// loadKey reads a key from the repository's test keys.
func loadKey(t testing.TB, name string) crypto.Signer {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("..", "testdata", "keys", name+".pem"))
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(data)
	if block == nil {
		t.Fatalf("%s: no PEM block", name)
	}
	var key any
	if block.Type == "RSA PRIVATE KEY" {
		key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
	} else {
		key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	}
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return key.(crypto.Signer)
}

// testKeys are an RSA and an Ed25519 key of example.org. The second comes
// first, to see that Sign changes that.
func testKeys(t testing.TB) []Key {
	return []Key{
		{Domain: "example.org", Selector: "ed", Signer: loadKey(t, "ed25519")},
		{Domain: "example.org", Selector: "rsa", Signer: loadKey(t, "rsa-2048")},
	}
}

// keyRecord is the TXT record of a public key.
func keyRecord(t testing.TB, pub crypto.PublicKey) string {
	t.Helper()
	switch pub := pub.(type) {
	case ed25519.PublicKey:
		return "v=DKIM1; k=ed25519; p=" + base64.StdEncoding.EncodeToString(pub)
	case *rsa.PublicKey:
		der, err := x509.MarshalPKIXPublicKey(pub)
		if err != nil {
			t.Fatal(err)
		}
		return "v=DKIM1; k=rsa; p=" + base64.StdEncoding.EncodeToString(der)
	}
	t.Fatalf("no record for %T", pub)
	return ""
}

// records are the key records of keys by name.
func records(t testing.TB, keys []Key) map[string]string {
	t.Helper()
	r := make(map[string]string)
	for _, k := range keys {
		r[strings.ToLower(k.Selector+"._domainkey."+k.Domain)] = keyRecord(t, k.Signer.Public())
	}
	return r
}

// testMessage is a message as a milter gets it.
type testMessage struct {
	fields []Field // values with LF folds
	body   []byte
}

// parseMessage takes an unsigned message apart.
func parseMessage(t testing.TB, raw []byte) testMessage {
	t.Helper()
	head, body, ok := bytes.Cut(raw, []byte("\r\n\r\n"))
	if !ok {
		t.Fatal("message without end of header")
	}
	m := testMessage{body: body}
	unfolded := strings.ReplaceAll(string(head), "\r\n", "\n")
	for line := range strings.SplitSeq(unfolded, "\n") {
		if line[0] == ' ' || line[0] == '\t' {
			m.fields[len(m.fields)-1].Value += "\n" + line
			continue
		}
		name, value, ok := strings.Cut(line, ":")
		if !ok {
			t.Fatalf("header line %q", line)
		}
		m.fields = append(m.fields, Field{name, value})
	}
	return m
}

// text is the message as it goes over the wire, with added fields on top. The
// server ends the last line if need be.
func (m testMessage) text(added []Field) []byte {
	var b bytes.Buffer
	for _, f := range append(append([]Field{}, added...), m.fields...) {
		fmt.Fprintf(&b, "%s:%s\r\n", f.Name, strings.ReplaceAll(f.Value, "\n", "\r\n"))
	}
	b.WriteString("\r\n")
	b.Write(m.body)
	if len(m.body) > 0 && !bytes.HasSuffix(m.body, []byte("\r\n")) {
		b.WriteString("\r\n")
	}
	return b.Bytes()
}

// feed gives m to a Message.
func (m testMessage) feed(t testing.TB, to *Message) {
	t.Helper()
	for _, f := range m.fields {
		to.AddField(f.Name, f.Value)
	}
	if n, err := to.Write(m.body); n != len(m.body) || err != nil {
		t.Fatalf("Write = %d, %v, want %d, nil", n, err, len(m.body))
	}
}

// sign signs m and fails the test if that cannot be done.
func (m testMessage) sign(t testing.TB, o Options, keys []Key) []Field {
	t.Helper()
	s := New(o)
	m.feed(t, s)
	fields, err := s.Sign(testTime, keys)
	if err != nil {
		t.Fatalf("Sign: %v", err)
	}
	if len(fields) != len(keys) {
		t.Fatalf("Sign returned %d fields for %d keys", len(fields), len(keys))
	}
	return fields
}

// simpleMessage has every field name in names once, and From.
func simpleMessage(names ...string) testMessage {
	m := testMessage{body: []byte("Hello\r\n")}
	m.fields = append(m.fields, Field{"From", " ann@example.org"})
	for _, name := range names {
		value := " value of " + name
		if natures[strings.ToLower(name)].list() {
			value = " " + name + " <" + name + "@example.org>"
		}
		m.fields = append(m.fields, Field{name, value})
	}
	return m
}

// goVerify verifies the topmost n signatures with go-msgauth and returns what
// is wrong with each, nil for nothing.
func goVerify(t testing.TB, message []byte, n int, records map[string]string) []error {
	t.Helper()
	got, err := dkim.VerifyWithOptions(bytes.NewReader(message), &dkim.VerifyOptions{
		LookupTXT: func(name string) ([]string, error) {
			if r, ok := records[strings.ToLower(strings.TrimSuffix(name, "."))]; ok {
				return []string{r}, nil
			}
			return nil, fmt.Errorf("no record %s", name)
		},
	})
	if err != nil {
		t.Fatalf("go-msgauth: %v", err)
	}
	if len(got) < n {
		t.Fatalf("go-msgauth sees %d signatures, want %d", len(got), n)
	}
	errs := make([]error, n)
	for i := range errs {
		errs[i] = got[i].Err
	}
	return errs
}

// tags parses the value of a DKIM-Signature field by the grammar of RFC 6376,
// section 3.2, and nothing beyond it. Folds may be LF or CRLF. Values keep the
// white space inside them.
func tags(value string) (map[string]string, []string, error) {
	value = strings.ReplaceAll(value, "\r\n", "\n")
	for line := range strings.SplitSeq(value, "\n") {
		if strings.Trim(line, " \t") == "" {
			return nil, nil, fmt.Errorf("a line has only blanks")
		}
	}
	for i, c := range []byte(value) {
		switch {
		case c == '\n' && i+1 < len(value) && (value[i+1] == ' ' || value[i+1] == '\t'):
		case c == ' ', c == '\t', c > ' ' && c < 0x7f:
		default:
			return nil, nil, fmt.Errorf("byte %q at %d", c, i)
		}
	}
	byName := make(map[string]string)
	var order []string
	specs := strings.Split(value, ";")
	if strings.Trim(specs[len(specs)-1], " \t\n") == "" {
		specs = specs[:len(specs)-1]
	}
	for _, spec := range specs {
		name, v, ok := strings.Cut(spec, "=")
		name, v = strings.Trim(name, " \t\n"), strings.Trim(v, " \t\n")
		if !ok || name == "" {
			return nil, nil, fmt.Errorf("tag %q", spec)
		}
		for i, c := range []byte(name) {
			letter := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
			if !letter && (i == 0 || c != '_' && (c < '0' || c > '9')) {
				return nil, nil, fmt.Errorf("tag name %q", name)
			}
		}
		if _, twice := byName[name]; twice {
			return nil, nil, fmt.Errorf("tag %s twice", name)
		}
		byName[name] = v
		order = append(order, name)
	}
	return byName, order, nil
}

// mustTags is tags for a value that has to parse.
func mustTags(t testing.TB, value string) map[string]string {
	t.Helper()
	m, _, err := tags(value)
	if err != nil {
		t.Fatalf("%v in %q", err, value)
	}
	return m
}

// unfold removes all white space, as from base64 and lists of names.
func unfold(s string) string {
	return strings.Join(strings.Fields(s), "")
}
