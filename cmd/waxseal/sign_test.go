package main

import (
	"bytes"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"testing/iotest"
	"time"
)

// TestSignKnowsTheMailServerOfTheListener: what the only listener is told of its
// mail server goes for messages that are signed by hand, too.
func TestSignKnowsTheMailServerOfTheListener(t *testing.T) {
	c := newCLI(t)
	c.ok("", "key import example.com s ../../testdata/keys/rsa-2048.pem")
	c.ok("", "key activate example.com s --force --reason tested")
	message := "From: Ann <ann@example.com>\nTo: bob@example.net,carl@example.net\nDate: x\nMessage-ID: <1@example.com>\n\nhello\n"
	for _, row := range []struct {
		settings, flags string
		code            int
		say, not        string
	}{
		{`mta = "postfix"`, "", 0, "DKIM-Signature: ", "rewritten_field"},
		{`mta = "sendmail"`, "--mta Postfix", 0, "risk rewritten_field: not signed: To", ""},
		{`masquerade = ["example.com"]`, "", exitFailed, "Sendmail masquerades example.com", "DKIM-Signature"},
		{`masquerade = ["example.com"]`, "--mta Postfix", 0, "DKIM-Signature: ", "masquerades"},
	} {
		config := writeFile(t, "waxseal.toml", "[listen.relay]\naddress = \"inet:127.0.0.1:8891\"\n"+row.settings+"\n")
		for _, verb := range []string{"sign", "explain"} {
			r := c.plain(message, append(strings.Fields(verb+" "+row.flags), "--keystore", c.store, "--config", config)...)
			out := r.stdout + r.stderr
			if verb == "explain" {
				if wrong := (r.code == 0) != (row.code == 0) || row.not == "rewritten_field" && strings.Contains(out, row.not); wrong {
					t.Errorf("%s, explain %s: exit status %d\n%s", row.settings, row.flags, r.code, out)
				}
				continue
			}
			if r.code != row.code || !strings.Contains(out, row.say) || row.not != "" && strings.Contains(out, row.not) {
				t.Errorf("%s, sign %s: exit status %d, want %d, %q and not %q\n%s", row.settings, row.flags, r.code, row.code, row.say, row.not, out)
			}
		}
	}
}

// TestExplainTellsOfListenersThatDiffer: without one being named, it goes by none.
func TestExplainTellsOfListenersThatDiffer(t *testing.T) {
	c := newCLI(t)
	config := writeFile(t, "waxseal.toml", "[listen.a]\naddress = \"inet:127.0.0.1:1\"\nmta = \"sendmail\"\nmasquerade = [\"example.com\"]\n[listen.b]\naddress = \"inet:127.0.0.1:2\"\n")
	r := c.plain("", "explain", "--from", "ann@example.com", "--keystore", c.store, "--config", config)
	if !strings.Contains(r.stderr, "--listener a") || strings.Contains(r.stderr, "--listener b") {
		t.Errorf("want a hint at listener a alone:\n%s", r.stderr)
	}
}

// brokenReader fails in the middle of a message.
func brokenReader(text string) io.Reader {
	return io.MultiReader(strings.NewReader(text), iotest.ErrReader(errors.New("the disk is on fire")))
}

// onlyReader hides all but Read, as of a pipe.
type onlyReader struct{ io.Reader }

// TestSignKeepsWhatCannotBeReadTwice: a message comes out as it went in, however
// it comes and however large it is, and no file is left behind.
func TestSignKeepsWhatCannotBeReadTwice(t *testing.T) {
	c := newCLI(t)
	c.ok("", "key import example.com s ../../testdata/keys/rsa-2048.pem")
	c.ok("", "key activate example.com s --force --reason tested")
	keys := writeFile(t, "keys.tsv", c.ok("", "dns show example.com --format tsv"))
	temporary := t.TempDir()
	t.Setenv("TMPDIR", temporary)
	run := func(stdin io.Reader, args ...string) result {
		var stdout, stderr bytes.Buffer
		a := &app{stdin: stdin, stdout: &stdout, stderr: &stderr, now: func() time.Time { return c.now }}
		code := a.run(args)
		return result{stdout.String(), stderr.String(), code}
	}
	sign := []string{"sign", "--keystore", c.store}
	large := testMail + strings.Repeat("Seventy octets of text, and that over and over, to the end of it all.\n", 2*spoolMemory/70)
	path := writeFile(t, "large.eml", "what stands before\n"+large)
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if _, err := file.Seek(int64(len("what stands before\n")), io.SeekStart); err != nil {
		t.Fatal(err)
	}
	for name, in := range map[string]struct {
		stdin io.Reader
		want  string
	}{
		"a small one by a pipe": {onlyReader{strings.NewReader(testMail)}, testMail},
		"a large one by a pipe": {onlyReader{strings.NewReader(large)}, large},
		"a part of a file":      {file, large},
	} {
		r := run(in.stdin, sign...)
		if r.code != exitDone || !strings.HasSuffix(r.stdout, in.want) || !strings.HasPrefix(r.stdout, "DKIM-Signature:") {
			t.Fatalf("%s: exit status %d, %d octets for %d\n%s", name, r.code, len(r.stdout), len(in.want), r.stderr)
		}
		if v := run(onlyReader{strings.NewReader(r.stdout)}, "verify", "--keys", keys); v.code != exitDone {
			t.Errorf("%s: %s%s", name, v.stdout, v.stderr)
		}
		if left, err := os.ReadDir(temporary); err != nil || len(left) > 0 {
			t.Errorf("%s: left behind: %v, %v", name, left, err)
		}
	}
	for _, command := range [][]string{sign, {"verify", "--keys", keys}, {"explain", "--keystore", c.store}} {
		r := run(brokenReader(testMail), command...)
		if said := r.stdout + r.stderr; command[0] != "explain" && (r.code != exitFailed || r.stdout != "") || !strings.Contains(said, "the disk is on fire") {
			t.Errorf("%s of what cannot be read: exit status %d\n%s", command[0], r.code, said)
		}
	}
	t.Setenv("TMPDIR", "/does/not/exist")
	if r := run(onlyReader{strings.NewReader(large)}, sign...); r.code != exitFailed || r.stdout != "" || !strings.Contains(r.stderr, "/does/not/exist") || !strings.Contains(r.stderr, "set TMPDIR") {
		t.Errorf("without a place for a temporary file: exit status %d\n%s", r.code, r.stderr)
	}
}

// TestSignNoticesAChange of the file that it signs. What is added behind its end
// is none, and does not come out.
func TestSignNoticesAChange(t *testing.T) {
	file, err := os.OpenFile(writeFile(t, "a.eml", testMail), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	var out bytes.Buffer
	s, err := newSpool(file, &out)
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	if _, err := io.Copy(io.Discard, s); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		what  string
		write string
		at    int
		bad   bool
	}{
		{"as it was", "", 0, false},
		{"a file with more behind its end", "More.\n", len(testMail), false},
		{"a file that changed", "X", 3, true},
	} {
		if _, err := file.WriteAt([]byte(c.write), int64(c.at)); err != nil {
			t.Fatal(err)
		}
		out.Reset()
		err := s.copy()
		if c.bad && (err == nil || !strings.Contains(err.Error(), "changed while it was signed")) || !c.bad && (err != nil || out.String() != testMail) {
			t.Errorf("%s: %v\n%s", c.what, err, out.String())
		}
	}
}

// TestSignIntoTheFileItself, as by sign < a.eml >> a.eml, or 1<> a.eml, which
// puts the output in its place.
func TestSignIntoTheFileItself(t *testing.T) {
	c := newCLI(t)
	c.ok("", "key import example.com s ../../testdata/keys/rsa-2048.pem")
	c.ok("", "key activate example.com s --force --reason tested")
	want := c.ok(testMail, "sign")
	for mode, want := range map[int]string{os.O_APPEND | os.O_WRONLY: testMail + want, os.O_RDWR: want} {
		path := writeFile(t, "a.eml", testMail)
		in, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer in.Close()
		out, err := os.OpenFile(path, mode, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer out.Close()
		var stderr bytes.Buffer
		a := &app{stdin: in, stdout: out, stderr: &stderr, now: func() time.Time { return c.now }}
		if code := a.run([]string{"sign", "--keystore", c.store}); code != exitDone {
			t.Fatalf("exit status %d\n%s", code, stderr.String())
		}
		if got, err := os.ReadFile(path); err != nil || string(got) != want {
			t.Errorf("got\n%s\nwant\n%s", got, want)
		}
	}
}
