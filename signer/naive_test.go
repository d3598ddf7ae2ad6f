package signer

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
)

// A second implementation of RFC 6376, sections 3.4 and 3.7, made to be seen
// right and not to be fast: whole messages, split into lines.

// naiveLine is what the relaxed form makes of the blanks in a line.
func naiveLine(line string) string {
	words := strings.FieldsFunc(line, func(r rune) bool { return r == ' ' || r == '\t' })
	out := strings.Join(words, " ")
	if out != "" && (line[0] == ' ' || line[0] == '\t') {
		out = " " + out
	}
	return out
}

// naiveBody is section 3.4.3 or 3.4.4.
func naiveBody(c Canonicalization, body string) string {
	lines := strings.Split(body, "\r\n")
	if c == Relaxed {
		for i := range lines {
			lines[i] = naiveLine(lines[i])
		}
	}
	for len(lines) > 0 && lines[len(lines)-1] == "" {
		lines = lines[:len(lines)-1]
	}
	out := ""
	for _, line := range lines {
		out += line + "\r\n"
	}
	if out == "" && c == Simple {
		return "\r\n"
	}
	return out
}

// naiveField is section 3.4.1 or 3.4.2, where LF means CRLF.
func naiveField(c Canonicalization, name, value string) string {
	value = strings.ReplaceAll(value, "\r\n", "\n")
	if c == Simple {
		return name + ":" + strings.ReplaceAll(value, "\n", "\r\n") + "\r\n"
	}
	words := strings.FieldsFunc(value, func(r rune) bool { return r == ' ' || r == '\t' || r == '\n' })
	lower := []byte(strings.TrimRight(name, " \t"))
	for i, c := range lower {
		if 'A' <= c && c <= 'Z' {
			lower[i] = c + 'a' - 'A'
		}
	}
	return string(lower) + ":" + strings.Join(words, " ") + "\r\n"
}

// naiveStray tells whether text has a CR or LF outside of CRLF.
func naiveStray(text string) bool {
	return strings.ContainsAny(strings.ReplaceAll(text, "\r\n", ""), "\r\n")
}

// naiveVerify checks one signature over a message.
func naiveVerify(signature string, m testMessage, pub crypto.PublicKey) error {
	tag, _, err := tags(signature)
	if err != nil {
		return err
	}
	header, body, err := ParseCanonicalization(tag["c"])
	if err != nil {
		return err
	}
	bodyHash := sha256.Sum256([]byte(naiveBody(body, string(m.body))))
	if got, want := unfold(tag["bh"]), base64.StdEncoding.EncodeToString(bodyHash[:]); got != want {
		return fmt.Errorf("bh=%s, want %s", got, want)
	}
	input := ""
	used := make([]bool, len(m.fields))
	for name := range strings.SplitSeq(unfold(tag["h"]), ":") {
		for i := len(m.fields) - 1; i >= 0; i-- {
			if !used[i] && strings.EqualFold(strings.TrimRight(m.fields[i].Name, " \t"), name) {
				used[i] = true
				input += naiveField(header, m.fields[i].Name, m.fields[i].Value)
				break
			}
		}
	}
	// b= is the last tag, and no other value of ours can hold "b=" after a fold.
	before, _, found := strings.Cut(signature, "\n\tb=")
	if !found {
		return errors.New("no b= on a line of its own")
	}
	input += strings.TrimSuffix(naiveField(header, "DKIM-Signature", before+"\n\tb="), "\r\n")
	digest := sha256.Sum256([]byte(input))
	sig, err := base64.StdEncoding.Strict().DecodeString(unfold(tag["b"]))
	if err != nil {
		return fmt.Errorf("b=: %w", err)
	}
	switch pub := pub.(type) {
	case *rsa.PublicKey:
		if tag["a"] != "rsa-sha256" {
			return fmt.Errorf("a=%s for an RSA key", tag["a"])
		}
		return rsa.VerifyPKCS1v15(pub, crypto.SHA256, digest[:], sig)
	case ed25519.PublicKey:
		if tag["a"] != "ed25519-sha256" {
			return fmt.Errorf("a=%s for an Ed25519 key", tag["a"])
		}
		if !ed25519.Verify(pub, digest[:], sig) {
			return errors.New("wrong signature")
		}
		return nil
	}
	return fmt.Errorf("key of type %T", pub)
}
