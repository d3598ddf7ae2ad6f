package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestOneBrokenDomainHarmsNoOther starts the daemon with a keystore in which
// three of four domains are broken, each in its own way. Each behaves as the
// configuration says, and the fourth signs.
func TestOneBrokenDomainHarmsNoOther(t *testing.T) {
	t.Parallel()
	dir := shortDir(t)
	keys := newKeystore(t, dir, "healthy.example", "garbled.example", "missing.example", "toml.example", "row.example")
	pem := func(domain string) string {
		files, err := filepath.Glob(filepath.Join(keys.dir, domain, "*.pem"))
		if err != nil || len(files) != 2 {
			t.Fatalf("keys of %s: %v %v", domain, files, err)
		}
		return files[0]
	}
	// What check has to name. Both keys of a domain are broken, so that
	// nothing is left to sign with.
	broken := map[string]string{"garbled.example": pem("garbled.example"), "missing.example": pem("missing.example"),
		"toml.example": filepath.Join(keys.dir, "toml.example", "domain.toml")}
	for domain := range broken {
		files, _ := filepath.Glob(filepath.Join(keys.dir, domain, "*.pem"))
		for _, file := range files {
			var err error
			switch domain {
			case "garbled.example":
				writeFile(t, file, "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", 0o600)
			case "missing.example":
				err = os.Remove(file)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	writeFile(t, broken["toml.example"], "version = 2\n[[key]\n", 0o644)

	// One row of a domain is broken, and its other key signs.
	row := filepath.Join(keys.dir, "row.example", "domain.toml")
	text, err := os.ReadFile(row)
	if err != nil {
		t.Fatal(err)
	}
	at := strings.LastIndex(string(text), `state = "active"`)
	writeFile(t, row, string(text[:at])+`state = "aktive"`+string(text[at+len(`state = "active"`):]), 0o644)
	rowLine := fmt.Sprintf("%s:%d", row, 1+strings.Count(string(text[:at]), "\n"))

	run := filepath.Join(dir, "run", "milter.sock")
	base := fmt.Sprintf("[keystore]\nurl = %q\n[listen.milter]\naddress = \"unix:%s\"\n", "dir:"+keys.dir, run)
	config := writeFile(t, filepath.Join(dir, "waxseal.toml"), base, 0o644)
	d := serve(t, daemonOptions{}, "--config", config)

	const later, never = "451 4.7.5 ", "550 5.7.5 "
	for _, each := range []struct {
		name, config string
		want         map[string]string // domain → beginning of the reply; empty is accepted unsigned
	}{
		{"by default all are put off", "", map[string]string{"garbled.example": later, "missing.example": later, "toml.example": later}},
		{"by [outcome]", "[outcome]\nkey_unusable = \"accept\"\n", map[string]string{"garbled.example": "", "missing.example": "", "toml.example": ""}},
		{"each by its row", `
[outcome]
key_unusable = "reject"
[row.missing]
domain = "missing.example"
[row.missing.outcome]
key_unusable = "accept"
[row.toml]
domain = "toml.example"
strict = true
[row.toml.outcome]
key_unusable = "accept"
`, map[string]string{"garbled.example": never, "missing.example": "", "toml.example": later}},
		{"strict for all, but for a row", `
[outcome]
strict = true
[row.garbled]
domain = "garbled.example"
[row.garbled.outcome]
key_unusable = "reject"
`, map[string]string{"garbled.example": never, "missing.example": later, "toml.example": later}},
	} {
		t.Run(each.name, func(t *testing.T) {
			writeFile(t, config, base+each.config, 0o644)
			d.reload(t)
			checkSigns(t, keys, "unix:"+run, "healthy.example")
			if got := judge(t, "unix:"+run, facts{}, by("ann@row.example"), "Hello.\r\n"); strings.Count(got.top, "DKIM-Signature:") != 1 || !strings.Contains(got.top, "a=rsa-sha256") {
				t.Errorf("row.example: %v, want the signature of its RSA key", got)
			}
			eventually(t, "the log tells of "+rowLine, func() bool {
				return matches(d.log.String(), `level=WARN msg=signed .*author=row\.example .*`+regexp.QuoteMeta(rowLine))
			})
			for domain, reply := range each.want {
				got := judge(t, "unix:"+run, facts{}, by("ann@"+domain), "Hello.\r\n")
				if got.top != "" || !strings.HasPrefix(got.reply, reply) || (reply == "") != (got.reply == "") {
					t.Errorf("%s: %v, want no signature and the reply %q", domain, got, reply)
				}
				if strings.Contains(got.reply, keys.dir) {
					t.Errorf("%s: the sender is told paths of ours: %s", domain, got.reply)
				}
			}
			checkSigns(t, keys, "unix:"+run, "healthy.example")
		})
	}

	t.Run("check lists all three with path and remedy", func(t *testing.T) {
		stdout, stderr, code := tryCommand(t, "", nil, "check", "--config", config, "--json")
		var report struct {
			Findings []struct{ Severity, Problem, Remedy string }
			Domains  int
		}
		if err := json.Unmarshal([]byte(stdout), &report); err != nil || code != 1 || report.Domains != 5 {
			t.Fatalf("exit status %d, %d domains, %v\n%s%s", code, report.Domains, err, stdout, stderr)
		}
		remedies := map[string]string{"garbled.example": "replace it", "missing.example": "restore it", "toml.example": "a row begins with", "row.example": "want one of"}
		broken["row.example"] = rowLine
		for domain, path := range broken {
			found := false
			for _, f := range report.Findings {
				found = found || f.Severity == "error" && strings.Contains(f.Problem, path) && strings.Contains(f.Problem+f.Remedy, remedies[domain])
			}
			if !found {
				t.Errorf("no error with %s and %q:\n%s", path, remedies[domain], stdout)
			}
		}
		if strings.Contains(stdout, "healthy.example") {
			t.Errorf("the healthy domain is blamed:\n%s", stdout)
		}
	})
}
