package e2e

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestDoctorConnectsAsTheMailServerWould has the doctor look at a Postfix and a
// daemon that run as in real life: whether the socket can be used depends on
// modes and groups that root does not feel.
func TestDoctorConnectsAsTheMailServerWould(t *testing.T) {
	t.Parallel()
	p := newPostfix(t)
	keys := newKeystore(t, p.dir, "example.com")
	socket := p.path("queue/waxseal/milter.sock")
	p.start(t, `
smtpd_milters = unix:waxseal/milter.sock
non_smtpd_milters = $smtpd_milters
internal_mail_filter_classes = bounce
disable_mime_output_conversion = yes
`, service{name: "smtp"})
	d := serve(t, daemonOptions{}, "--keystore", keys.dir, "--listen", "unix:"+socket)

	doctor := func(code int, say string, flags ...string) string {
		t.Helper()
		args := append([]string{"doctor", "postfix", "--config-dir", p.path("conf"), "--socket", "unix:" + socket}, flags...)
		out, errs, got := tryCommand(t, "/", nil, args...)
		if got != code || !strings.Contains(out, say) {
			t.Errorf("exit %d, want %d and %q:\n%s%s", got, code, say, out, errs)
		}
		return out
	}
	out := doctor(0, "connected as user postfix to unix:"+socket)
	if strings.Contains(out, "error:") || strings.Contains(out, "warning:") {
		t.Errorf("found in a set-up that works:\n%s", out)
	}

	directory := filepath.Dir(socket)
	if err := os.Chmod(directory, 0o700); err != nil {
		t.Fatal(err)
	}
	out = doctor(1, "user postfix cannot use the milter at unix:"+socket)
	run := regexp.MustCompile(`run: (chgrp .*)`).FindStringSubmatch(out)
	if run == nil {
		t.Fatalf("no remedy to run:\n%s", out)
	}
	if out, err := exec.Command("sh", "-c", run[1]).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", run[1], err, out)
	}
	doctor(0, "connected as user postfix")

	d.stop(t)
	var result struct {
		MTA      string
		Findings []struct{ Severity, Name, Where, Problem, Remedy string }
	}
	if err := json.Unmarshal([]byte(doctor(1, "start waxseal", "--json")), &result); err != nil {
		t.Fatal(err)
	}
	if f := result.Findings[0]; result.MTA != "postfix" || f.Severity != "error" || f.Name != "unreachable" || f.Where == "" {
		t.Errorf("--json: %+v", result)
	}
}
