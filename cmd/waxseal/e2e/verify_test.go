package e2e

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"github.com/emersion/go-msgauth/dkim"
)

// Three verifiers judge each message: dkimpy and go-msgauth, which are not
// ours, and "waxseal verify". Each returns the reason why a signature fails, or
// "", for all signatures from top to bottom.

// verifier judges the signatures of a message that is not delivered any more.
type verifier struct {
	name   string
	verify func(*message, *keystore) ([]string, error)
}

var (
	byDkimpy  = verifier{"dkimpy", theDkimpy.verify}
	byMsgauth = verifier{"go-msgauth", msgauth}
)

// checkSigned fails unless the message has, at its very top, an RSA and below
// it an Ed25519 signature of this domain, and all verifiers pass both.
func checkSigned(t *testing.T, k *keystore, m *message, domain string) {
	t.Helper()
	checkSignedBy(t, k, m, domain, byDkimpy, byMsgauth)
}

func checkSignedBy(t *testing.T, k *keystore, m *message, domain string, others ...verifier) {
	t.Helper()
	w := m.wire(t)
	got := w.signatures()
	if len(got) < 2 || len(w.fields) < 2 || w.fields[0].name != "DKIM-Signature" || w.fields[1].name != "DKIM-Signature" {
		t.Fatalf("not signed:\n%.1500s", m.text)
	}
	for i, algorithm := range []string{"rsa-sha256", "ed25519-sha256"} {
		if got[i].domain != domain || got[i].algorithm != algorithm {
			t.Errorf("signature %d: d=%s a=%s, want d=%s a=%s", i+1, got[i].domain, got[i].algorithm, domain, algorithm)
		}
	}
	checkVerifies(t, k, w, 2, others...)
	checkOwnVerify(t, k, w, 2)
}

// checkVerifies fails unless these verifiers pass the topmost n signatures.
func checkVerifies(t *testing.T, k *keystore, m *message, n int, verifiers ...verifier) {
	t.Helper()
	for _, v := range verifiers {
		verdicts, err := v.verify(m, k)
		if err != nil {
			t.Fatalf("%s: %v", v.name, err)
		}
		if len(verdicts) < n {
			t.Fatalf("%s: %d signatures, want %d:\n%.1500s", v.name, len(verdicts), n, m.text)
		}
		for i, reason := range verdicts[:n] {
			if reason != "" {
				t.Errorf("%s: signature %d of %d: %s\n%.2000s", v.name, i+1, n, reason, m.text)
			}
		}
	}
}

// checkOwnVerify is the same for "waxseal verify --keys".
func checkOwnVerify(t *testing.T, k *keystore, m *message, n int) {
	t.Helper()
	out, stderr, _ := tryCommand(t, "", m.text, "verify", "--keys", k.records, "--json")
	var verdicts []struct {
		Pass                                bool
		Domain, Selector, Algorithm, Reason string
		Bits                                int
	}
	if err := json.Unmarshal([]byte(out), &verdicts); err != nil || len(verdicts) < n {
		t.Fatalf("waxseal verify: %v\n%s%s", err, out, stderr)
	}
	for i, s := range m.signatures()[:n] {
		v := verdicts[i]
		bits := 2048
		if s.algorithm == "ed25519-sha256" {
			bits = 256
		}
		if !v.Pass || v.Domain != s.domain || v.Selector != s.selector || v.Algorithm != s.algorithm || v.Bits != bits {
			t.Errorf("waxseal verify: signature %d is %+v, want pass of %+v with %d bits", i+1, v, s, bits)
		}
	}
}

// checkUnsigned fails if the message has a signature.
func checkUnsigned(t *testing.T, m *message) {
	t.Helper()
	if s := m.signatures(); len(s) > 0 {
		t.Errorf("signed by %+v, want no signature:\n%.1500s", s, m.text)
	}
}

// msgauth verifies with go-msgauth.
func msgauth(m *message, k *keystore) ([]string, error) {
	results, err := dkim.VerifyWithOptions(bytes.NewReader(m.text), &dkim.VerifyOptions{LookupTXT: k.lookup})
	if err != nil {
		return nil, err
	}
	var verdicts []string
	for _, r := range results {
		if r.Err != nil {
			verdicts = append(verdicts, r.Err.Error())
			continue
		}
		verdicts = append(verdicts, "")
	}
	return verdicts, nil
}

// dkimpyScript verifies messages one after the other: it reads a line with a
// size and the path of the records, then the message, and answers with a line.
const dkimpyScript = `
import json, sys, dkim, nacl.signing

while True:
    request = sys.stdin.buffer.readline()
    if not request:
        break
    size, path = request.decode().rstrip("\n").split(" ", 1)
    message = sys.stdin.buffer.read(int(size))
    txt = {}
    for line in open(path):
        name, _, record = line.rstrip("\n").partition("\t")
        txt[name] = record.encode()
    def lookup(name, timeout=5):
        if isinstance(name, bytes):
            name = name.decode()
        return txt.get(name.rstrip("."))
    verdicts = []
    count = sum(1 for f in dkim.rfc822_parse(message)[0] if f[0].lower() == b"dkim-signature")
    for i in range(count):
        try:
            verdicts.append("" if dkim.DKIM(message).verify(idx=i, dnsfunc=lookup) else "signature is wrong")
        except Exception as e:
            verdicts.append("%s: %s" % (type(e).__name__, e))
    print(json.dumps(verdicts), flush=True)
`

// dkimpy is a running python3 with dkimpy, for all tests together.
type dkimpy struct {
	mu     sync.Mutex
	c      *exec.Cmd // guarded by mu, as the following
	stdin  io.WriteCloser
	stdout *bufio.Reader
}

var theDkimpy dkimpy

// pythonWithDkimpy is a python3 that has dkimpy and what it needs for Ed25519;
// the first one on the path may be another than Debian's.
var pythonWithDkimpy = sync.OnceValues(func() (string, error) {
	for _, python := range []string{"python3", "/usr/bin/python3"} {
		if exec.Command(python, "-c", "import dkim, nacl.signing").Run() == nil {
			return python, nil
		}
	}
	return "", errors.New("no dkimpy for python3, which is in Debian's python3-dkim and python3-nacl")
})

// dkimpyInstalled needs dkimpy.
func dkimpyInstalled() error {
	_, err := pythonWithDkimpy()
	return err
}

func (d *dkimpy) verify(m *message, k *keystore) ([]string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.c == nil {
		if err := d.start(); err != nil {
			return nil, err
		}
	}
	if _, err := fmt.Fprintf(d.stdin, "%d %s\n", len(m.text), k.records); err != nil {
		return nil, err
	}
	if _, err := d.stdin.Write(m.text); err != nil {
		return nil, err
	}
	answer, err := d.stdout.ReadString('\n')
	if err != nil {
		return nil, err
	}
	var verdicts []string
	return verdicts, json.Unmarshal([]byte(answer), &verdicts)
}

func (d *dkimpy) start() error {
	python, err := pythonWithDkimpy()
	if err != nil {
		return err
	}
	c := exec.Command(python, "-c", strings.TrimSpace(dkimpyScript))
	c.Stderr = os.Stderr
	ownGroup(c)
	if d.stdin, err = c.StdinPipe(); err != nil {
		return err
	}
	stdout, err := c.StdoutPipe()
	if err != nil {
		return err
	}
	d.stdout = bufio.NewReader(stdout)
	if err := c.Start(); err != nil {
		return err
	}
	d.c = c
	return nil
}

func (d *dkimpy) stop() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.c != nil {
		d.stdin.Close()
		_ = d.c.Wait()
	}
}
