package signer

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"testing"
)

// exception is a message about which a verifier is known to be wrong, in the
// canonicalizations that match the pattern. Nearly all have a CR or LF that is
// not half of a CRLF. Everybody reads RFC 6376 the same way for all other
// messages.
type exception struct {
	message, canonicalization, why string
}

var goMsgauthWrong = []exception{
	{"bare-cr-in-body", "*/relaxed", "drops blanks before a lone CR as if a line ended there"},
	{"bare-cr-in-header", "relaxed/*", "takes a lone CR for a blank"},
	{"bare-lf-in-body", "*/*", "takes a lone LF for CRLF"},
}

var dkimpyWrong = []exception{
	{"bare-lf-in-body", "*/*", "takes a lone LF for CRLF"},
	{"blank-before-colon", "*/*", "refuses to parse a name with a blank after it"},
	{"vt-ff-in-header", "relaxed/*", "takes VT and FF at the end of a value for blanks"},
}

func wrongAbout(t *testing.T, list []exception, s signedMessage) string {
	t.Helper()
	for _, e := range list {
		match, err := path.Match(e.canonicalization, s.canonicalization)
		if err != nil {
			t.Fatal(err)
		}
		if match && e.message == s.name {
			return e.why
		}
	}
	return ""
}

// signedMessage is a message of the corpus, signed with both of testKeys.
type signedMessage struct {
	name, canonicalization string
	m                      testMessage
	fields                 []Field
	text                   []byte
}

// signCorpus signs every message of the repository's test messages in each of
// the canonicalizations.
func signCorpus(t *testing.T, canonicalizations ...string) []signedMessage {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("..", "testdata", "messages", "*.eml"))
	if err != nil {
		t.Fatal(err)
	}
	if len(files) < 45 {
		t.Fatalf("%d test messages, want at least 45", len(files))
	}
	keys := testKeys(t)
	var out []signedMessage
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		name := strings.TrimSuffix(filepath.Base(file), ".eml")
		m := parseMessage(t, raw)
		for _, c := range canonicalizations {
			header, body, err := ParseCanonicalization(c)
			if err != nil {
				t.Fatal(err)
			}
			s := New(Options{Header: header, Body: body, Profile: Postfix})
			m.feed(t, s)
			if got, want := s.StrayLineEnds(), strings.HasPrefix(name, "bare-"); got != want {
				t.Errorf("%s: StrayLineEnds is %v, want %v", name, got, want)
			}
			fields, err := s.Sign(testTime, keys)
			if err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			out = append(out, signedMessage{name, c, m, fields, m.text(fields)})
		}
	}
	return out
}

// TestCorpus has the naive implementation and go-msgauth verify the test
// messages.
func TestCorpus(t *testing.T) {
	keys := testKeys(t)
	dns := records(t, keys)
	for _, s := range signCorpus(t, "relaxed/relaxed", "simple/simple", "relaxed/simple", "simple/relaxed") {
		what := s.name + " " + s.canonicalization
		for i, field := range s.fields {
			checkForm(t, field, keys[1-i])
			if err := naiveVerify(field.Value, s.m, keys[1-i].Signer.Public()); err != nil {
				t.Errorf("%s, signature %d: naive: %v", what, i, err)
			}
		}
		why := wrongAbout(t, goMsgauthWrong, s)
		for i, err := range goVerify(t, s.text, len(s.fields), dns) {
			switch {
			case err != nil && why == "":
				t.Errorf("%s, signature %d: go-msgauth: %v", what, i, err)
			case err == nil && why != "":
				t.Errorf("%s, signature %d: go-msgauth passes; it is listed as wrong: %s", what, i, why)
			}
		}
	}
}

// TestCorpusDkimpy has dkimpy verify the test messages, all in one process.
func TestCorpusDkimpy(t *testing.T) {
	type message struct {
		Message    []byte `json:"message"`
		Signatures int    `json:"signatures"`
	}
	var job struct {
		Records  map[string]string `json:"records"`
		Messages []message         `json:"messages"`
	}
	job.Records = records(t, testKeys(t))
	signed := signCorpus(t, "relaxed/relaxed", "simple/simple")
	for _, s := range signed {
		job.Messages = append(job.Messages, message{s.text, len(s.fields)})
	}
	var results [][]string
	runDkimpy(t, job, &results)
	if len(results) != len(signed) {
		t.Fatalf("%d results for %d messages", len(results), len(signed))
	}
	for n, s := range signed {
		why := wrongAbout(t, dkimpyWrong, s)
		for i, result := range results[n] {
			if (result == "pass") != (why == "") {
				t.Errorf("%s %s, signature %d: dkimpy: %s (listed as wrong: %q)", s.name, s.canonicalization, i, result, why)
			}
		}
	}
}

// TestDkimpyTampered has dkimpy see that a tampered message fails, so that
// its passes mean something.
func TestDkimpyTampered(t *testing.T) {
	keys := testKeys(t)
	m := simpleMessage("To", "Subject")
	fields := m.sign(t, Options{}, keys)
	var job struct {
		Records  map[string]string `json:"records"`
		Messages []map[string]any  `json:"messages"`
	}
	job.Records = records(t, keys)
	tamper := []struct{ old, new string }{
		{"Hello", "Hallo"},
		{"value of Subject", "value of subject"},
		{"\r\n\r\n", "\r\nSubject: added\r\n\r\n"},
		{"\r\n\r\n", "\r\nReply-To: added\r\n\r\n"},
	}
	for _, x := range tamper {
		text := bytes.Replace(m.text(fields), []byte(x.old), []byte(x.new), 1)
		job.Messages = append(job.Messages, map[string]any{"message": base64.StdEncoding.EncodeToString(text), "signatures": 2})
	}
	var results [][]string
	runDkimpy(t, job, &results)
	for i, x := range tamper {
		for _, result := range results[i] {
			if result == "pass" {
				t.Errorf("dkimpy passes a message with %q for %q", x.new, x.old)
			}
		}
	}
}

// runDkimpy gives a job to testdata/verify.py.
func runDkimpy(t *testing.T, job, results any) {
	t.Helper()
	python, err := pythonWithDkimpy()
	if err != nil {
		if os.Getenv("WAXSEAL_E2E") == "required" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	input, err := json.Marshal(job)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), python, filepath.Join("testdata", "verify.py"))
	cmd.Stdin = bytes.NewReader(input)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	output, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s verify.py: %v\n%s", python, err, stderr.Bytes())
	}
	if err := json.Unmarshal(output, results); err != nil {
		t.Fatal(err)
	}
}

// pythonWithDkimpy finds an interpreter that has dkimpy and PyNaCl, which it
// needs for Ed25519. The one of the system comes first: python3-dkim is
// installed for it.
func pythonWithDkimpy() (string, error) {
	for _, python := range []string{"/usr/bin/python3", "python3"} {
		if exec.Command(python, "-c", "import dkim, nacl.signing").Run() == nil {
			return python, nil
		}
	}
	return "", fmt.Errorf("no python3 with dkimpy (Debian: apt-get install python3-dkim)")
}
