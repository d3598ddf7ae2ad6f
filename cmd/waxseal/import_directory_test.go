package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// writeKeyTree writes files below a new directory. RSA, OTHER and ED25519 are
// keys; DIR stands for the directory.
func writeKeyTree(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		if file, ok := map[string]string{"RSA": "rsa-2048.pem", "OTHER": "rsa-1024.pem", "ED25519": "ed25519.pem"}[text]; ok {
			key, err := os.ReadFile("../../testdata/keys/" + file)
			if err != nil {
				t.Fatal(err)
			}
			text = string(key)
		}
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(strings.NewReplacer("DBDIR", "DBDIR", "CONFDIR", "CONFDIR", "DIR", dir).Replace(text)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// importedKeys lists the keys that an import made, and fails unless all are
// active.
func importedKeys(c *cli, keystore string) []string {
	c.t.Helper()
	var rows []struct{ Domain, Selector, Algorithm, State string }
	out := c.plain("", "key", "list", "--json", "--keystore", keystore).stdout
	if err := json.Unmarshal([]byte(out), &rows); err != nil {
		c.t.Fatalf("%v\n%s", err, out)
	}
	var keys []string
	for _, r := range rows {
		if r.State != "active" {
			c.t.Errorf("a key of %s is %s", r.Domain, r.State)
		}
		keys = append(keys, r.Selector+"."+r.Domain+" "+r.Algorithm)
	}
	return keys
}

func TestKeysOfPanelsAreTakenOver(t *testing.T) {
	for _, c := range []struct {
		name  string
		files map[string]string
		args  string
		want  []string
	}{
		{"cpanel", map[string]string{"example.com": "RSA", "example.net": "OTHER", "README": "x"}, "--pattern cpanel", []string{"default.example.com rsa-2048", "default.example.net rsa-1024"}},
		{"plesk", map[string]string{"example.com/default": "RSA", "example.com/default.pub": "x"}, "--pattern plesk", []string{"default.example.com rsa-2048"}},
		{"hestia", map[string]string{"ann/conf/mail/example.com/dkim.pem": "RSA", "bob/conf/mail/example.net/dkim.pem": "OTHER", "bob/web/x": "x"}, "--pattern hestia", []string{"mail.example.com rsa-2048", "mail.example.net rsa-1024"}},
		{"docker-mailserver with OpenDKIM", map[string]string{"opendkim/keys/example.com/mail.private": "RSA", "opendkim/keys/example.com/mail.txt": "x", "opendkim/KeyTable": "x"}, "--pattern docker-mailserver", []string{"mail.example.com rsa-2048"}},
		{"docker-mailserver with rspamd", map[string]string{
			"rspamd/dkim/rsa-2048-mail-example.com.private.txt": "RSA", "rspamd/dkim/rsa-2048-mail-example.com.public.txt": "x", "rspamd/dkim/ed25519-ed-example.com.private.txt": "ED25519",
		}, "--pattern docker-mailserver", []string{"ed.example.com ed25519", "mail.example.com rsa-2048"}},
		{"docker-mailserver with a hyphen", map[string]string{"rspamd/dkim/rsa-2048-mail-my-example.com.private.txt": "RSA"}, "--pattern docker-mailserver --selector mail", []string{"mail.my-example.com rsa-2048"}},
		{"exim", map[string]string{"example.com.key": "RSA", "Example.NET.pem": "OTHER", "example.com.pub": "x"}, "--pattern exim --selector 2024A", []string{"2024a.example.com rsa-2048", "2024a.example.net rsa-1024"}},
		{"rspamd", map[string]string{"example.com.dkim.key": "RSA", "sub.example.com.dkim.key": "OTHER"}, "--pattern rspamd", []string{"dkim.example.com rsa-2048", "dkim.sub.example.com rsa-1024"}},
		{"a pattern of one's own", map[string]string{"a1/example.com/dkim:s1.pem": "RSA", "a1/example.com/dkim:s2.pem": "ED25519"}, "--pattern */{domain}/dkim:{selector}.pem", []string{"s1.example.com rsa-2048", "s2.example.com ed25519"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			cli, dir, to := newCLI(t), writeKeyTree(t, c.files), t.TempDir()
			args := append([]string{"import", "directory", dir, "--keystore", to + "/keys", "--output", to + "/waxseal.toml"}, strings.Fields(c.args)...)
			if r := cli.plain("", args...); r.code != exitDone {
				t.Fatalf("exit status %d\n%s%s", r.code, r.stdout, r.stderr)
			}
			got := importedKeys(cli, to+"/keys")
			slices.Sort(got)
			if !slices.Equal(got, c.want) {
				t.Errorf("got %q, want %q", got, c.want)
			}
			if r := cli.plain("", "check", "--config", to+"/waxseal.toml"); r.code != exitDone && !strings.Contains(r.stdout+r.stderr, "1024") {
				t.Errorf("check: %s%s", r.stdout, r.stderr)
			}
		})
	}
}

func TestADirectoryThatIsNotClearIsAskedAbout(t *testing.T) {
	cli := newCLI(t)
	dir := writeKeyTree(t, map[string]string{"example.com/a.private": "RSA", "example.com/b.private": "OTHER", "example.net/a.private": "no key", "rsa-2048-mail-my-example.com.private": "RSA"})
	old := time.Date(2024, 5, 6, 7, 8, 9, 0, time.UTC)
	if err := os.Chtimes(dir+"/example.com/b.private", old, old); err != nil {
		t.Fatal(err)
	}
	run := func(args ...string) result {
		return cli.plain("", append([]string{"import", "directory", dir, "--keystore", dir + "/keys", "--output", dir + "/waxseal.toml"}, args...)...)
	}
	r := run("--pattern", "opendkim")
	for _, say := range []string{"several keys of this kind", "a.private", "b.private", "example.net/a.private: "} {
		if !strings.Contains(r.stdout, say) || r.code != exitFailed || !strings.Contains(r.stderr, "nothing is written") {
			t.Errorf("exit status %d, want %q\n%s%s", r.code, say, r.stdout, r.stderr)
		}
	}
	if r := run("--pattern", "opendkim", "--drop", dir+"/example.com/a.private", "--drop", dir+"/example.net/a.private"); r.code != exitDone || !strings.Contains(r.stdout, "2024-05-06") {
		t.Errorf("exit status %d\n%s%s", r.code, r.stdout, r.stderr)
	}
	if got := importedKeys(cli, dir+"/keys"); !slices.Equal(got, []string{"b.example.com rsa-1024"}) {
		t.Errorf("got %q", got)
	}
	if r := run("--pattern", "rsa-*-{selector}-{domain}.private", "--dry-run"); !strings.Contains(r.stdout, "this may be selector mail of my-example.com or mail-my of example.com") || r.code != exitFailed {
		t.Errorf("exit status %d\n%s%s", r.code, r.stdout, r.stderr)
	}
	for args, say := range map[string]string{"--pattern {domain}": "--selector", "--pattern x": "no {domain}", "--pattern ../{domain} --selector a": "below the directory", "--pattern nothing/{domain} --selector a": "no file there"} {
		if r := run(strings.Fields(args)...); r.code == exitDone || !strings.Contains(r.stderr, say) {
			t.Errorf("%s: exit status %d\n%s", args, r.code, r.stderr)
		}
	}
}

// FuzzMatchPath wants every reading of a path to make that path again.
func FuzzMatchPath(f *testing.F) {
	f.Add("{domain}/{selector}.private", "example.com/mail.private")
	f.Add("rsa-*-{selector}-{domain}.txt", "rsa-2048-mail-my-example.com.txt")
	f.Add("*/{domain}", "a/example.com")
	f.Fuzz(func(t *testing.T, pattern, path string) {
		if len(pattern) > 60 || len(path) > 60 || strings.Count(pattern, "{") > 3 {
			return
		}
		for _, n := range matchPath(pattern, path, "") {
			made := strings.NewReplacer("{domain}", n.domain, "{selector}", n.selector).Replace(pattern)
			if !strings.Contains(pattern, "*") && !strings.EqualFold(made, path) {
				t.Errorf("%q by %q is %+v, which makes %q", path, pattern, n, made)
			}
		}
	})
}
