package main

import (
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"waxseal/cmd/waxseal/internal/rspamd"
)

// stockRspamd is what a package of rspamd has, as far as it matters.
const stockRspamd = `dkim_signing {
  # If false, messages with empty envelope from are not signed
  allow_envfrom_empty = true;
  allow_hdrfrom_mismatch = false;
  allow_hdrfrom_multiple = false;
  allow_username_mismatch = false;
  #path = "/var/lib/rspamd/dkim/$domain.$selector.key";
  selector = "dkim";
  sign_authenticated = true;
  sign_local = true;
  symbol = "DKIM_SIGNED";
  try_fallback = true;
  use_domain = "header";
  use_esld = true;
  use_redis = false;
  key_prefix = "DKIM_KEYS";

  .include(try=true,priority=5) "${DBDIR}/dynamic/dkim_signing.conf"
  .include(try=true,priority=1,duplicate=merge) "$LOCAL_CONFDIR/local.d/dkim_signing.conf"
  .include(try=true,priority=10) "$LOCAL_CONFDIR/override.d/dkim_signing.conf"
}
`

// importing is an import of the files of another signer into a new keystore.
type importing struct {
	result
	config string // what was written; empty when nothing was
	keys   []string
}

// reported are the lines of an import's report with this result.
func reported(report, result string) string {
	told := ""
	for line := range strings.Lines(report) {
		if strings.HasPrefix(line, result+" ") {
			told += line
		}
	}
	return told
}

func runImport(t *testing.T, dir string, args ...string) importing {
	t.Helper()
	c, to := newCLI(t), t.TempDir()
	i := importing{result: c.plain("", append(append([]string{"import"}, args...), "--keystore", to+"/keys", "--output", to+"/waxseal.toml")...)}
	if text, err := os.ReadFile(to + "/waxseal.toml"); err == nil {
		i.config = strings.ReplaceAll(string(text), dir, "DIR")
		i.keys = importedKeys(c, to+"/keys")
		slices.Sort(i.keys)
	}
	return i
}

// checkWritten fails unless an import wrote these keys and settings.
func (i importing) checkWritten(t *testing.T, keys []string, settings ...string) {
	t.Helper()
	if i.config == "" || (i.code == exitDone) != !strings.Contains(i.stdout, "\ndifferent ") {
		t.Fatalf("exit status %d\n%s%s", i.code, i.stdout, i.stderr)
	}
	if !slices.Equal(i.keys, keys) {
		t.Errorf("keys are %q, want %q", i.keys, keys)
	}
	for _, s := range settings {
		if !strings.Contains(i.config, s) {
			t.Errorf("no %s in\n%s", s, i.config)
		}
	}
}

func TestRspamdOfGuidesIsTakenOver(t *testing.T) {
	const check = "allow_hdrfrom_mismatch"
	for _, c := range []struct {
		name     string
		files    map[string]string
		args     []string
		keys     []string
		settings []string
	}{
		{"a map of selectors", map[string]string{
			"local.d/dkim_signing.conf":  "path = \"DIR/dkim/$domain.$selector.key\";\nselector_map = \"DIR/dkim_selectors.map\";\n",
			"dkim_selectors.map":         "# domain selector\nexample.com 2024a\nexample.net mail\n",
			"dkim/example.com.2024a.key": "RSA", "dkim/example.net.mail.key": "OTHER",
		}, nil, []string{"2024a.example.com rsa-2048", "mail.example.net rsa-1024"}, []string{
			"[row.\"example.com\"]\ndomain = \"example.com\"\nsubdomains = true\nalways = true\n", "login_domains = []",
			"[permission.grant.\"example.com\"]\nlogin = \"@example.com\"\ndomains = [\"example.com\"]\nsubdomains = true\n", `"192.168.0.0/16"`,
		}},
		{"one selector for all domains, and keys by name", map[string]string{
			"local.d/dkim_signing.conf": "path = \"DIR/dkim/$domain.$selector.key\";\nselector = \"s1\";\nallow_username_mismatch = true;\nuse_esld = false;\n",
			"dkim/example.com.s1.key":   "RSA", "dkim/mail.example.com.s1.key": "OTHER", "dkim/example.org.other.key": "OTHER",
		}, nil, []string{"s1.example.com rsa-2048", "s1.mail.example.com rsa-1024"}, []string{"check = false"}},
		{"one key for all domains", map[string]string{
			"local.d/dkim_signing.conf": "path = \"DIR/dkim/$selector.key\";\nselector = \"2018\";\nallow_username_mismatch = true;\n",
			"dkim/2018.key":             "RSA",
		}, []string{"--domain", "example.com,Example.NET"}, []string{"2018.example.com rsa-2048", "2018.example.net rsa-2048"}, nil},
		{"domain blocks, two keys", map[string]string{
			"local.d/dkim_signing.conf": `allow_hdrfrom_mismatch = true
sign_networks = ["192.0.2.0/24", "198.51.100.7"];
domain {
    example.com {
        selectors [
            { path: "DIR/rsa.key", selector: "rsa" },
            { path = "DIR/ed.key"; selector = "ed"; },
        ]
    }
    "example.net" { path = "DIR/other.key"; selector = "old"; }
}
`, "rsa.key": "RSA", "ed.key": "ED25519", "other.key": "OTHER",
			"local.d/dkim.conf": `sign_headers = "(o)from:(x)subject:to";`,
		}, nil, []string{"ed.example.com ed25519", "old.example.net rsa-1024", "rsa.example.com rsa-2048"}, []string{
			`fields = ["from", "subject", "to"]`, `oversign = ["from", "subject"]`, "\"192.0.2.0/24\",\n \"198.51.100.7\"]",
		}},
		{"docker-mailserver", map[string]string{
			"override.d/dkim_signing.conf": `# documentation: https://rspamd.com/doc/modules/dkim_signing.html
enabled = true;
sign_authenticated = true;
sign_local = false;
try_fallback = false;
use_domain = "header";
use_redis = false; # don't change unless Redis also provides the DKIM keys
use_esld = true;
allow_username_mismatch = true;
check_pubkey = true; # you want to use this in the beginning
domain {
    example.com {
        path = "DIR/dkim/rsa-2048-mail-example.com.private.txt";
        selector = "mail";
    }
}
`, "dkim/rsa-2048-mail-example.com.private.txt": "RSA",
		}, nil, []string{"mail.example.com rsa-2048"}, []string{"local = false", "networks = []"}},
		{"a signing table", map[string]string{
			"local.d/dkim_signing.conf": "signing_table = [\"*@example.com k1\", \"ann@example.net k2\"];\nkey_table = [\"k1 example.com:s1:DIR/a.key\", \"k2 %:s2:DIR/b.key\"];\n",
			"a.key":                     "RSA", "b.key": "OTHER",
		}, nil, []string{"s1.example.com rsa-2048", "s2.example.net rsa-1024"}, []string{"[row.\"ann@example.net\"]\naddress = \"ann@example.net\"", "enabled = false"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			files := map[string]string{"modules.d/dkim_signing.conf": stockRspamd, "options.inc": "local_addrs [ 192.168.0.0/16, 10.0.0.0/8, fd00::/8 ]\n"}
			for name, text := range c.files {
				files[name] = text
			}
			dir := writeKeyTree(t, files)
			args := append([]string{"rspamd", dir}, c.args...)
			if !strings.Contains(files["local.d/dkim_signing.conf"], "allow_hdrfrom_mismatch") && !strings.Contains(files["local.d/dkim_signing.conf"], "signing_table") {
				if r := runImport(t, dir, args...); r.code != exitFailed || r.config != "" || !strings.Contains(r.stdout, "to go on without this check: --drop allow_hdrfrom_mismatch") {
					t.Errorf("without --drop: exit status %d\n%s%s", r.code, r.stdout, r.stderr)
				}
				args = append(args, "--drop", check)
			}
			r := runImport(t, dir, args...)
			r.checkWritten(t, c.keys, c.settings...)
			if !strings.Contains(r.stderr, "rspamd still signs") {
				t.Errorf("it is not said that rspamd has to stop:\n%s", r.stderr)
			}
		})
	}
}

func TestLinesOfRspamdAreTaken(t *testing.T) {
	const one = "domain { example.com { path = \"DIR/a.key\"; selector = \"s\"; } }\nallow_hdrfrom_mismatch = true;\n"
	for _, c := range []struct{ name, config, result, say string }{
		{"keys in Redis", "use_redis = true;", lineRefused, "are in Redis"},
		{"keys in Vault", "use_vault = true;", lineRefused, "are in Vault"},
		{"Lua", "sign_condition =<<EOD\nreturn function(task) return true end\nEOD\n", lineRefused, "not run here"},
		{"the envelope chooses", "use_domain = \"envelope\";", lineOpen, "From field"},
		{"strangers", "sign_inbound = true;", lineOpen, "strangers"},
		{"the whole Internet", "sign_networks = [\"0.0.0.0/0\"];", lineOpen, "whole Internet"},
		{"a network that is none", "sign_networks = [\"mail.example.com\"];", lineRefused, "no network"},
		{"a setting that is unknown", "frobnicate = 1;", lineOpen, "not known here"},
		{"a setting that is twice there", "selector = \"a\";\nselector = \"b\";", lineRefused, "there twice"},
		{"a section in the section", "dkim_signing { selector = \"a\"; }", lineRefused, "inside the section"},
		{"an include", ".include \"/x\"", lineRefused, "not followed"},
		{"a map from elsewhere", "selector_map = \"https://example.com/x\";", lineRefused, "not in a file"},
		{"a file that is not there", "path_map = \"DIR/none.map\";", lineRefused, "no such file"},
		{"a key that is not there", "path_map = [\"example.net DIR/none.key\"];", lineOpen, "no such file"},
		{"a key below a domain", "selector_map = [\"sub.example.com x\"];", lineOpen, "as example.com and never with this key"},
		{"a key for everybody", "path = \"DIR/a.key\";", lineOpen, "--domain"},
		{"two rows for a sender", "signing_table = [\"ann@example.com k\", \"*@example.com k\"];\nkey_table = [\"k example.com:s:DIR/a.key\"];", lineOpen, "about the same mail"},
		{"switched off", "enabled = false;", lineRefused, "does not sign"},
		{"a brace too few", "domain { a {", lineRefused, "not closed"},
		{"fields by pattern", "sign_headers = \"(o)from:x-*\";", lineOpen, "x-*"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := writeKeyTree(t, map[string]string{"local.d/dkim_signing.conf": one + c.config + "\n", "a.key": "RSA"})
			if c.name == "switched off" || strings.Contains(c.name, "brace") || strings.Contains(c.name, "twice") {
				dir = writeKeyTree(t, map[string]string{"local.d/dkim_signing.conf": c.config + "\n" + one, "a.key": "RSA"})
			}
			r := runImport(t, dir, "rspamd", dir, "--dry-run")
			told := reported(r.stdout, c.result)
			if !strings.Contains(told, c.say) || r.code != exitFailed {
				t.Errorf("exit status %d, no %s line says %q:\n%s%s", r.code, c.result, c.say, r.stdout, r.stderr)
			}
			r = runImport(t, dir, "rspamd", dir, "--drop", "all")
			if written := r.config != ""; written != (c.result == lineOpen) || strings.Contains(r.stdout, "\nwider ") {
				t.Errorf("with --drop all: written is %v\n%s%s", written, r.stdout, r.stderr)
			}
		})
	}
	dir := t.TempDir()
	if r := runImport(t, dir, "rspamd", dir); r.code == exitDone || !strings.Contains(r.stderr, "usually /etc/rspamd") {
		t.Errorf("an empty directory: %d %s", r.code, r.stderr)
	}
}

func TestRspamdKeysKeepTheirAge(t *testing.T) {
	dir := writeKeyTree(t, map[string]string{"local.d/dkim_signing.conf": "allow_hdrfrom_mismatch = true\npath = \"DIR/$domain.$selector.key\"\n", "example.com.dkim.key": "RSA"})
	old := time.Date(2023, 2, 3, 4, 5, 6, 0, time.UTC)
	if err := os.Chtimes(dir+"/example.com.dkim.key", old, old); err != nil {
		t.Fatal(err)
	}
	if r := runImport(t, dir, "rspamd", dir, "--dry-run"); !strings.Contains(r.stdout, "2023-02-03") {
		t.Errorf("%s%s", r.stdout, r.stderr)
	}
}

// FuzzRspamd reads any file, and decides with it.
func FuzzRspamd(f *testing.F) {
	f.Add(stockRspamd)
	f.Add("domain \"a.example\" { selectors [ { path: '/x', selector: s } ] } /* c /* d */ */ x <<EOD\ny\nEOD\n")
	f.Add("signing_table = [\"*@a k\"]\nkey_table { k = \"%:s:/x/%\" }\n")
	f.Fuzz(func(t *testing.T, text string) {
		c, err := rspamd.Read("/etc/rspamd", func(path string) ([]byte, error) {
			if strings.HasSuffix(path, "local.d/dkim_signing.conf") {
				return []byte(text), nil
			}
			return nil, os.ErrNotExist
		})
		if err != nil {
			return
		}
		s := rspamd.Signing{Authenticated: true, Table: c.Map(c.Signing.Get("signing_table"), false), Keys: c.Map(c.Signing.Get("key_table"), false), Path: "/x/$domain"}
		s.Decide(rspamd.Client{Login: "a@example.com"}, "a@example.com")
		s.Table = nil
		s.Decide(rspamd.Client{Login: "a@example.com"}, "a@example.com")
	})
}
