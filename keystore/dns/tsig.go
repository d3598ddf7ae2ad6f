package dns

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"syscall"

	mdns "github.com/miekg/dns"

	"waxseal/keystore"
)

// maxKeyFile bounds a TSIG key file, which has some hundred octets.
const maxKeyFile = 64 << 10

// makeKey is the remedy for a key that will not do.
const makeKey = `make one with "tsig-keygen -a hmac-sha256 NAME", for the name server, too`

// TSIGKey is a secret shared with a name server, by which it knows that an
// update is ours, and we that an answer is its (RFC 8945).
type TSIGKey struct {
	Name      string // lower-case, without the final dot
	Algorithm string // "hmac-sha256" or "hmac-sha512"
	secret    string // base64
}

// String names the key and keeps the secret.
func (k TSIGKey) String() string { return k.Name + " (" + k.Algorithm + ")" }

// GoString is for %#v, which would print the secret.
func (k TSIGKey) GoString() string { return "TSIGKey(" + k.String() + ")" }

// ReadTSIGKey reads a key file as ParseTSIGKey has it. The path may be
// "credential:NAME" (see CredentialPath). A file that others may read or
// change is refused with a *keystore.PermissionError; its group may read it,
// because the name server's often does.
func ReadTSIGKey(path string) (*TSIGKey, error) {
	file, err := CredentialPath(path)
	if err != nil {
		return nil, fmt.Errorf("TSIG key: %w", err)
	}
	// Without O_NONBLOCK a named pipe would hold us up.
	f, err := os.OpenFile(file, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("TSIG key: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("TSIG key: %w", err)
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("TSIG key %s: not a regular file", file)
	}
	if mode := info.Mode().Perm(); mode&0o027 != 0 {
		return nil, &keystore.PermissionError{
			Path:   file,
			Rule:   fmt.Sprintf("TSIG key is open to others (mode %04o)", mode),
			Repair: "chmod " + stricter(mode) + " '" + strings.ReplaceAll(file, "'", `'\''`) + "'",
		}
	}
	data, err := io.ReadAll(io.LimitReader(f, maxKeyFile+1))
	if err != nil {
		return nil, fmt.Errorf("TSIG key: %w", err)
	}
	k, err := ParseTSIGKey(data)
	if err != nil {
		return nil, fmt.Errorf("TSIG key %s: %w", file, err)
	}
	return k, nil
}

// stricter is the mode for chmod that leaves a group its reading.
func stricter(mode fs.FileMode) string {
	if mode&0o040 != 0 {
		return "640"
	}
	return "600"
}

// ParseTSIGKey reads the one key of a file in BIND's form, as tsig-keygen
// writes it:
//
//	key "name" {
//		algorithm hmac-sha256;
//		secret "…";
//	};
//
// Comments may be written as //, # or /* */. Other algorithms than hmac-sha256
// and hmac-sha512, and other forms of key file, are refused with a word about
// the right one. No error repeats the secret.
func ParseTSIGKey(data []byte) (*TSIGKey, error) {
	if len(data) > maxKeyFile {
		return nil, fmt.Errorf("larger than %d octets, so no key file", maxKeyFile)
	}
	if err := otherForm(string(data)); err != nil {
		return nil, err
	}
	s := &keyScanner{rest: string(data), line: 1}
	k, err := s.file()
	if err != nil {
		return nil, fmt.Errorf("line %d: %w", s.line, err)
	}
	return k, nil
}

// otherForm recognizes the files of dnssec-keygen, which BIND no longer makes
// for TSIG.
func otherForm(s string) error {
	if strings.HasPrefix(s, "Private-key-format:") {
		return errors.New("a K*.private file of dnssec-keygen, want BIND's key file: " + makeKey)
	}
	for line := range strings.Lines(s) {
		if f := strings.Fields(line); len(f) > 3 && f[1] == "IN" && (f[2] == "KEY" || f[2] == "DNSKEY") {
			return errors.New("a K*.key file of dnssec-keygen, want BIND's key file: " + makeKey)
		}
	}
	return nil
}

// keyScanner reads a key file from its beginning.
type keyScanner struct {
	rest string
	line int
}

// token is a word, a quoted string without its quotes, or one of { } ; as a
// mark. At the end it is empty.
type token struct {
	text string
	kind byte // 'w' word, 'q' quoted, 'm' mark, 0 the end
}

func (t token) is(mark string) bool   { return t.kind == 'm' && t.text == mark }
func (t token) word(text string) bool { return t.kind == 'w' && strings.EqualFold(t.text, text) }
func (t token) value() bool           { return t.kind == 'w' || t.kind == 'q' }

func (s *keyScanner) file() (*TSIGKey, error) {
	var key *TSIGKey
	for {
		t, err := s.next()
		switch {
		case err != nil:
			return nil, err
		case t.kind == 0 && key == nil:
			return nil, errors.New("no key in it: " + makeKey)
		case t.kind == 0:
			return key, nil
		case !t.word("key"):
			return nil, errors.New(`want nothing but key "NAME" { … };`)
		case key != nil:
			return nil, errors.New("a second key, want a file with the one to be used")
		}
		if key, err = s.key(); err != nil {
			return nil, err
		}
	}
}

// key reads what follows the word.
func (s *keyScanner) key() (*TSIGKey, error) {
	name, err := s.next()
	if err != nil {
		return nil, err
	}
	if !name.value() {
		return nil, errors.New("the key has no name")
	}
	if _, ok := mdns.IsDomainName(name.text); !ok || name.text == "." || strings.ContainsFunc(name.text, notInName) {
		return nil, errors.New("the key's name is not a domain name")
	}
	if err := s.mark("{", "the key's name"); err != nil {
		return nil, err
	}
	k := &TSIGKey{Name: strings.TrimSuffix(strings.ToLower(name.text), ".")}
	for {
		t, err := s.next()
		if err != nil {
			return nil, err
		}
		switch {
		case t.is("}"):
			if err := s.mark(";", "the closing brace"); err != nil {
				return nil, err
			}
			return k, k.complete()
		case t.word("algorithm") && k.Algorithm == "":
			k.Algorithm, err = s.clause("algorithm", parseAlgorithm)
		case t.word("secret") && k.secret == "":
			k.secret, err = s.clause("secret", parseSecret)
		case t.word("algorithm"), t.word("secret"):
			return nil, fmt.Errorf("a second %s", strings.ToLower(t.text))
		default:
			return nil, errors.New(`want "algorithm …;", "secret …;" or the closing brace`)
		}
		if err != nil {
			return nil, err
		}
	}
}

func (k *TSIGKey) complete() error {
	switch {
	case k.Algorithm == "":
		return fmt.Errorf("key %s has no algorithm", k.Name)
	case k.secret == "":
		return fmt.Errorf("key %s has no secret", k.Name)
	}
	return nil
}

// clause reads the value of a clause and its semicolon.
func (s *keyScanner) clause(name string, parse func(string) (string, error)) (string, error) {
	t, err := s.next()
	if err != nil {
		return "", err
	}
	if !t.value() {
		return "", fmt.Errorf("%s has no value", name)
	}
	v, err := parse(t.text)
	if err != nil {
		return "", err
	}
	return v, s.mark(";", "the "+name)
}

func (s *keyScanner) mark(m, after string) error {
	t, err := s.next()
	if err != nil {
		return err
	}
	if !t.is(m) {
		return fmt.Errorf("want %q after %s", m, after)
	}
	return nil
}

func notInName(c rune) bool { return c <= ' ' || c >= 0x7f || strings.ContainsRune(`\"{};`, c) }

func parseAlgorithm(s string) (string, error) {
	a := strings.TrimSuffix(strings.ToLower(s), ".")
	switch {
	case a == "hmac-sha256" || a == "hmac-sha512":
		return a, nil
	case strings.HasPrefix(a, "hmac-md5"), strings.HasPrefix(a, "hmac-sha1"):
		return "", fmt.Errorf("the algorithm %.40q is too weak (RFC 8945, section 6): %s", a, makeKey)
	case strings.HasPrefix(a, "hmac-"):
		return "", fmt.Errorf("the algorithm %.40q is not among those we use, hmac-sha256 and hmac-sha512: %s", a, makeKey)
	}
	// It could be the secret in the wrong place, so it is not repeated.
	return "", errors.New("unknown algorithm, want hmac-sha256 or hmac-sha512")
}

func parseSecret(s string) (string, error) {
	secret, err := base64.StdEncoding.DecodeString(strings.Join(strings.Fields(s), ""))
	if err != nil {
		return "", errors.New("the secret is not base64")
	}
	if len(secret) == 0 {
		return "", errors.New("the secret is empty")
	}
	return base64.StdEncoding.EncodeToString(secret), nil
}

// next returns the next token and leaves blanks and comments out.
func (s *keyScanner) next() (token, error) {
	for {
		if s.rest == "" {
			return token{}, nil
		}
		switch c := s.rest[0]; {
		case strings.IndexByte(" \t\r\n", c) >= 0:
			s.take(1)
		case c == '#' || strings.HasPrefix(s.rest, "//"):
			end := strings.IndexByte(s.rest, '\n')
			if end < 0 {
				end = len(s.rest)
			}
			s.take(end)
		case strings.HasPrefix(s.rest, "/*"):
			end := strings.Index(s.rest[2:], "*/")
			if end < 0 {
				return token{}, errors.New("a comment without its end")
			}
			s.take(end + 4)
		case c == '"':
			end := strings.IndexByte(s.rest[1:], '"')
			if end < 0 {
				return token{}, errors.New("a quoted string without its end")
			}
			return token{s.take(end + 2)[1 : end+1], 'q'}, nil
		case strings.IndexByte("{};", c) >= 0:
			return token{s.take(1), 'm'}, nil
		default:
			return token{s.take(s.wordEnd()), 'w'}, nil
		}
	}
}

// wordEnd is the length of the word that s begins with. A slash begins a
// comment only with another or a star behind it: base64 has slashes.
func (s *keyScanner) wordEnd() int {
	for i, c := range []byte(s.rest) {
		if strings.IndexByte(" \t\r\n{};\"#", c) >= 0 || strings.HasPrefix(s.rest[i:], "//") || strings.HasPrefix(s.rest[i:], "/*") {
			return i
		}
	}
	return len(s.rest)
}

func (s *keyScanner) take(n int) string {
	taken := s.rest[:n]
	s.line += strings.Count(taken, "\n")
	s.rest = s.rest[n:]
	return taken
}
