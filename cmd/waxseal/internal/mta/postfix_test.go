package mta

import (
	"context"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"waxseal/milter"
)

// require skips a test that needs a program, or fails it when WAXSEAL_E2E says
// that nothing may be missing.
func require(t *testing.T, found bool, what string) {
	t.Helper()
	switch {
	case found:
	case os.Getenv("WAXSEAL_E2E") == "required":
		t.Fatalf("no %s, and WAXSEAL_E2E=required", what)
	default:
		t.Skipf("no %s", what)
	}
}

func needPostconf(t *testing.T) {
	t.Helper()
	_, err := exec.LookPath("postconf")
	require(t, err == nil, "postconf, which is in Debian's postfix")
}

var unixBelowQueue = milter.Address{Network: "unix", Address: "/var/spool/postfix/waxseal/milter.sock"}

// goodPostfix are the set-ups in which nothing goes wrong, with where waxseal listens.
var goodPostfix = map[string]milter.Address{
	"submission": unixBelowQueue,
	"relay":      {Network: "tcp4", Address: "127.0.0.1:8891"},
	"filter":     {Network: "unix", Address: "/run/waxseal/milter.sock"},
}

// edit is a change of main.cf or master.cf: what is there, and what takes its place.
// With an empty first half the second is added at the end.
type edit struct{ from, to string }

// postfixDir copies a good set-up, with changes.
func postfixDir(t *testing.T, name string, main, master []edit) string {
	t.Helper()
	dir := t.TempDir()
	for file, edits := range map[string][]edit{"main.cf": main, "master.cf": master} {
		text, err := os.ReadFile(filepath.Join("testdata/postfix", name, file))
		if err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, file), change(t, string(text), edits))
	}
	age(t, dir)
	return dir
}

// age makes the files older: postconf waits while someone may be editing them.
func age(t *testing.T, dir string) {
	t.Helper()
	for _, file := range []string{"main.cf", "master.cf"} {
		if err := os.Chtimes(filepath.Join(dir, file), time.Time{}, time.Now().Add(-time.Minute)); err != nil {
			t.Fatal(err)
		}
	}
}

func change(t *testing.T, text string, edits []edit) string {
	t.Helper()
	for _, e := range edits {
		if !strings.Contains(text, e.from) {
			t.Fatalf("the set-up does not have %q", e.from)
		}
		if e.from == "" {
			text += e.to + "\n"
		} else {
			text = strings.ReplaceAll(text, e.from, e.to)
		}
	}
	return text
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func examine(t *testing.T, dir string, setup Setup) []Finding {
	t.Helper()
	p, err := ReadPostfix(context.Background(), PostfixOptions{ConfigDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	return p.Check(setup)
}

func describe(all []Finding) string {
	var b strings.Builder
	for _, f := range all {
		fmt.Fprintf(&b, "%s %s: %s: %s\n  %s\n", f.Severity, f.Name, f.Where, f.Problem, f.Remedy)
	}
	return b.String()
}

func TestNothingIsFoundInAGoodPostfix(t *testing.T) {
	needPostconf(t)
	for name, socket := range goodPostfix {
		dir := filepath.Join("testdata/postfix", name)
		setup := Setup{Sockets: []milter.Address{socket}, LoopbackIsOurs: true, Root: t.TempDir()}
		if found := examine(t, dir, setup); len(found) > 0 {
			t.Errorf("%s:\n%s", name, describe(found))
		}
		p, err := ReadPostfix(context.Background(), PostfixOptions{ConfigDir: dir})
		if err != nil {
			t.Fatal(err)
		}
		want := []Connection{{Address: socket, User: "postfix"}}
		if got := p.Connections(setup); len(got) != 1 || got[0].Address != want[0].Address || got[0].User != want[0].User {
			t.Errorf("%s: connections %+v, want %+v", name, got, want)
		}
	}
}

// mistakes are those that people make with Postfix.
var mistakes = []struct {
	name         string
	good         string
	main, master []edit
	files        map[string]string // of other programs
	socket       string            // where waxseal listens instead
	want         string            // the finding
	severity     Severity
	where, say   string // in its place and text
	remedy       string
	cured        bool // by pasting the remedy
}{
	{name: "no milters at all", good: "submission", main: []edit{{"smtpd_milters = unix:waxseal/milter.sock", ""}},
		want: "not_wired", severity: Error, say: "unix:/var/spool/postfix/waxseal/milter.sock", remedy: "smtpd_milters = unix:waxseal/milter.sock"},
	{name: "a misspelt path", good: "submission", main: []edit{{"waxseal/milter", "waxsael/milter"}},
		want: "not_wired", severity: Error, say: "the lists have unix:waxsael/milter.sock"},
	{name: "another port than waxseal's", good: "relay", main: []edit{{"8891", "8892"}}, want: "not_wired", severity: Error},
	{name: "an absolute path that a chroot moves", good: "submission", main: []edit{{"unix:waxseal/", "unix:/run/waxseal/"}}, socket: "/run/waxseal/milter.sock",
		want: "chroot", severity: Error, say: "leads to /var/spool/postfix/run/waxseal/milter.sock", remedy: `address = "unix:/var/spool/postfix/waxseal/milter.sock"; and in main.cf: smtpd_milters = unix:waxseal/milter.sock`},
	{name: "the queue directory twice in a chroot", good: "submission", main: []edit{{"unix:waxseal/", "unix:/var/spool/postfix/waxseal/"}},
		want: "chroot", severity: Error, where: "main.cf: smtpd_milters", cured: true},
	{name: "a path for a chroot where there is none", good: "submission", main: []edit{{"unix:waxseal/", "unix:/waxseal/"}}, master: []edit{{"y       -       -       smtpd", "n       -       -       smtpd"}},
		want: "chroot", severity: Error, say: "does not run in a chroot", cured: true},
	{name: "a chroot by default of old", good: "filter", main: []edit{{"compatibility_level = 3.6", "compatibility_level = 0"}}, master: []edit{{"inet n  -       n ", "inet n  -       - "}},
		want: "chroot", severity: Error, say: "127.0.0.1:10027/inet runs in a chroot"},
	{name: "Sendmail's spelling of a port", good: "relay", main: []edit{{"inet:localhost:8891", "inet:8891@localhost"}},
		want: "address", severity: Error, say: "Sendmail's spelling", cured: true},
	{name: "Sendmail's spelling of a path", good: "submission", main: []edit{{"unix:waxseal", "local:waxseal"}}, want: "address", severity: Error, cured: true},
	{name: "a path without unix:", good: "relay", main: []edit{{"non_smtpd_milters = inet:127.0.0.1:8891", "non_smtpd_milters = inet:127.0.0.1:8891, /run/x.sock"}},
		want: "address", severity: Error, where: "non_smtpd_milters", remedy: "unix:PATH"},
	{name: "accept when waxseal is down", good: "submission", main: []edit{{"= tempfail", "= accept"}}, want: "default_action", severity: Error, where: "main.cf: milter_default_action = accept", cured: true},
	{name: "accept for the submission service only", good: "submission", master: []edit{{"-o syslog_name=postfix/submission\n", "-o milter_default_action=accept\n"}},
		want: "default_action", severity: Error, where: "master.cf, submission/inet: -o milter_default_action=accept", cured: true},
	{name: "accept among the settings of the milter", good: "relay", main: []edit{{"default_action = tempfail", "default_action = accept"}},
		want: "default_action", severity: Error, where: "main.cf: smtpd_milters", remedy: "default_action=tempfail"},
	{name: "reject when waxseal is down", good: "submission", main: []edit{{"= tempfail", "= reject"}}, want: "default_action", severity: Warning, cured: true},
	{name: "quarantine when waxseal is down", good: "submission", main: []edit{{"= tempfail", "= quarantine"}}, want: "default_action", severity: Warning, cured: true},
	{name: "an action that does not exist", good: "submission", main: []edit{{"= tempfail", "= temp_fail"}}, want: "default_action", severity: Error, cured: true},
	{name: "an old milter protocol", good: "submission", main: []edit{{"", "milter_protocol = 3"}}, want: "protocol", severity: Warning, cured: true},
	{name: "no milter protocol", good: "submission", main: []edit{{"", "milter_protocol = v6"}}, want: "protocol", severity: Error, cured: true},
	{name: "an impatient Postfix", good: "submission", main: []edit{{"", "milter_command_timeout = 2s"}}, want: "timeout", severity: Warning, cured: true},
	{name: "no macro for the login", good: "submission", main: []edit{{"", "milter_mail_macros = i {mail_addr}"}}, want: "macros", severity: Error, say: "{auth_authen} {auth_type}", cured: true},
	{name: "no macro for the service", good: "submission", main: []edit{{"", "milter_connect_macros = j v _"}}, want: "macros", severity: Error, say: "{daemon_name}", cured: true},
	{name: "a macro v that hides Postfix", good: "submission", main: []edit{{"", "milter_macro_v = ESMTP"}}, want: "macros", severity: Warning, cured: true},
	{name: "a filter after waxseal", good: "relay", main: []edit{{"    inet:127.0.0.1:8893", "    unix:/run/spamass/spamass.sock"}},
		want: "order", severity: Warning, say: "unix:/run/spamass/spamass.sock comes after"},
	{name: "OpenDKIM beside waxseal", good: "submission", main: []edit{{"= unix:waxseal", "= unix:opendkim/opendkim.sock, unix:waxseal"}},
		want: "other_signer", severity: Warning, say: "OpenDKIM"},
	{name: "rspamd with keys beside waxseal", good: "relay", main: []edit{{"unix:/run/clamav/milter.sock", "inet:localhost:11332"}}, files: map[string]string{"var/lib/rspamd/dkim/example.com.dkim.key": ""},
		want: "other_signer", severity: Warning, say: "rspamd", remedy: "enabled = false"},
	{name: "dkimpy-milter beside waxseal", good: "submission", main: []edit{{"= unix:waxseal", "= unix:dkimpy-milter/dkimpy-milter.sock, unix:waxseal"}},
		want: "other_signer", severity: Warning, say: "dkimpy"},
	{name: "submission with no milters", good: "submission", master: []edit{{"-o syslog_name=postfix/submission\n", "-o smtpd_milters=\n"}},
		want: "submission_unsigned", severity: Error, where: "master.cf, submission/inet: -o smtpd_milters=", cured: true},
	{name: "submission with a variable that is not set", good: "submission", master: []edit{{"-o syslog_name=postfix/submission\n", "-o smtpd_milters=$mua_milters\n"}},
		want: "submission_unsigned", severity: Error, say: "$mua_milters is empty, or not set", cured: true},
	{name: "submission with a variable that is empty", good: "submission", main: []edit{{"", "mua_milters ="}}, master: []edit{{"-o syslog_name=postfix/submission\n", "-o smtpd_milters=$mua_milters\n"}},
		want: "submission_unsigned", severity: Error, cured: true},
	{name: "logins on port 25, which has no milters", good: "submission", master: []edit{{"smtpd     pass  -       -       y       -       -       smtpd", "25 inet n - y - - smtpd -o smtpd_milters= -o smtpd_sasl_auth_enable=yes"}},
		want: "submission_unsigned", severity: Error, where: "25/inet"},
	{name: "submission without milters by an override", good: "submission", master: []edit{{"-o syslog_name=postfix/submission\n", "-o receive_override_options=no_milters,no_address_mappings\n"}},
		want: "no_milters", severity: Error, cured: true},
	{name: "stray CR kept by an override", good: "submission", master: []edit{{"-o syslog_name=postfix/submission\n", "-o receive_override_options=no_header_body_checks\n"}},
		want: "stray_cr_lf", severity: Warning, cured: true},
	{name: "stray CR kept", good: "submission", main: []edit{{"", "cleanup_replace_stray_cr_lf = no"}}, want: "stray_cr_lf", severity: Warning, cured: true},
	{name: "local mail with no milters", good: "submission", main: []edit{{"non_smtpd_milters = $smtpd_milters", ""}}, want: "non_smtpd_milters", severity: Warning, where: "which is not set", cured: true},
	{name: "local mail without milters by an override", good: "submission", master: []edit{{"60      1       pickup", "60      1       pickup -o receive_override_options=no_milters"}},
		want: "no_milters", severity: Warning, where: "pickup/unix", cured: true},
	{name: "a chroot of cleanup alone", good: "filter", main: []edit{{"non_smtpd_milters =", "non_smtpd_milters = $signing"}}, master: []edit{{"cleanup   unix  n       -       n", "cleanup   unix  n       -       y"}},
		want: "chroot", severity: Error, say: "cleanup/unix"},
	{name: "bounces not signed", good: "submission", main: []edit{{"internal_mail_filter_classes = bounce", ""}}, want: "bounces", severity: Note, cured: true},
	{name: "generic maps", good: "submission", main: []edit{{"", "smtp_generic_maps = hash:/etc/postfix/generic"}}, want: "smtp_generic_maps", severity: Error, where: "main.cf"},
	{name: "generic maps of one client", good: "submission", master: []edit{{"syslog_name=postfix/$service_name", "smtp_generic_maps=hash:/etc/postfix/generic"}},
		want: "smtp_generic_maps", severity: Error, where: "master.cf, relay/unix"},
	{name: "header checks at delivery", good: "submission", main: []edit{{"", "smtp_header_checks = regexp:/etc/postfix/hide"}}, want: "smtp_header_checks", severity: Warning},
	{name: "checks of MIME at delivery", good: "submission", main: []edit{{"", "smtp_mime_header_checks = regexp:/etc/postfix/hide"}}, want: "smtp_mime_header_checks", severity: Warning},
	{name: "checks of attached messages at delivery", good: "submission", main: []edit{{"", "smtp_nested_header_checks = regexp:/etc/postfix/hide"}}, want: "smtp_nested_header_checks", severity: Warning},
	{name: "body checks at delivery", good: "submission", main: []edit{{"", "smtp_body_checks = regexp:/etc/postfix/hide"}}, want: "smtp_body_checks", severity: Warning},
	{name: "checks of what milters add", good: "submission", main: []edit{{"", "milter_header_checks = regexp:/etc/postfix/hide"}}, want: "milter_header_checks", severity: Warning},
	{name: "milters by client", good: "submission", main: []edit{{"", "smtpd_milter_maps = cidr:/etc/postfix/milters"}}, want: "milter_maps", severity: Warning},
	{name: "8-bit mail converted", good: "submission", main: []edit{{"disable_mime_output_conversion = yes", ""}}, want: "eight_bit", severity: Warning, cured: true},
	{name: "8-bit mail converted by one client", good: "submission", master: []edit{{"syslog_name=postfix/$service_name", "disable_mime_output_conversion=no"}},
		want: "eight_bit", severity: Warning, where: "relay/unix", cured: true},
	{name: "no 8BITMIME on purpose", good: "submission", main: []edit{{"disable_mime_output_conversion = yes", "smtp_discard_ehlo_keywords = 8bitmime, chunking"}},
		want: "discard_8bitmime", severity: Error, remedy: "= chunking", cured: true},
	{name: "short lines", good: "submission", main: []edit{{"", "smtp_line_length_limit = 500"}}, want: "line_length", severity: Warning, cured: true},
	{name: "a content filter after signing", good: "submission", main: []edit{{"", "content_filter = scan:[127.0.0.1]:10024"}}, want: "content_filter", severity: Warning, where: "main.cf: content_filter"},
	{name: "local mail signed before its content filter", good: "filter", main: []edit{{"non_smtpd_milters =", "non_smtpd_milters = $signing"}},
		master: []edit{{"-o receive_override_options=no_milters\n", "-o receive_override_options=\n"}}, want: "content_filter", severity: Warning, where: "pickup/unix"},
	{name: "a proxy filter that keeps the content from milters", good: "submission", master: []edit{{"-o syslog_name=postfix/submission\n", "-o smtpd_proxy_filter=127.0.0.1:10025\n"}},
		want: "proxy_filter", severity: Error, where: "submission/inet"},
	{name: "no signature after the content filter either", good: "filter", master: []edit{{"  -o smtpd_milters=$signing\n", ""}}, main: []edit{{"non_smtpd_milters =", "non_smtpd_milters = $signing"}},
		want: "submission_unsigned", severity: Error, where: "main.cf: smtpd_milters, which is not set"},
	{name: "one filter for mail from outside and of users", good: "filter", master: []edit{{"[127.0.0.1]:10024", "[127.0.0.1]:10026"}}, want: "foreign_mail", severity: Warning, where: "127.0.0.1:10027/inet"},
	{name: "one way back for mail from outside and of users", good: "filter", master: []edit{{"127.0.0.1:10025 inet n  -       n       -       -       smtpd\n  -o content_filter=\n  -o smtpd_milters=\n", ""}}, want: "foreign_mail", severity: Warning, where: "127.0.0.1:10027/inet"},
	{name: "no Date for users' mail", good: "submission", master: []edit{{"  -o local_header_rewrite_clients=permit_sasl_authenticated\n", ""}}, want: "header_rewrite", severity: Note, say: "submission/inet", cured: true},
	{name: "no SMTPUTF8", good: "submission", main: []edit{{"", "smtputf8_enable = no"}}, want: "smtputf8", severity: Note, cured: true},
	{name: "a misspelt parameter", good: "submission", main: []edit{{"", "milter_defualt_action = tempfail"}}, want: "unused", severity: Warning, where: "milter_defualt_action"},
	{name: "a misspelt variable in main.cf", good: "relay", main: []edit{{"inet:127.0.0.1:8893", "inet:127.0.0.1:8893 $more_milters"}}, want: "undefined", severity: Warning, where: "main.cf: smtpd_milters", say: "$more_milters"},
	{name: "a misspelt variable", good: "submission", master: []edit{{"-o syslog_name=postfix/submission\n", "-o smtpd_milter_maps=$mua_milter_map\n"}}, want: "undefined", severity: Warning, say: "$mua_milter_map"},
}

func TestEveryMistakeInPostfixIsFound(t *testing.T) {
	needPostconf(t)
	for _, m := range mistakes {
		t.Run(m.name, func(t *testing.T) {
			t.Parallel()
			setup := Setup{Sockets: []milter.Address{goodPostfix[m.good]}, LoopbackIsOurs: true, Root: t.TempDir()}
			if m.socket != "" {
				setup.Sockets = []milter.Address{{Network: "unix", Address: m.socket}}
			}
			for path, text := range m.files {
				write(t, filepath.Join(setup.Root, path), text)
			}
			dir := postfixDir(t, m.good, m.main, m.master)
			for range 5 { // one remedy for each service that has the mistake
				all := examine(t, dir, setup)
				i := slices.IndexFunc(all, func(f Finding) bool { return f.Name == m.want })
				if i < 0 {
					t.Fatalf("no %s; found:\n%s", m.want, describe(all))
				}
				f := all[i]
				if f.Severity != m.severity || !strings.Contains(f.Where, m.where) || !strings.Contains(f.Problem, m.say) || !strings.Contains(f.Remedy, m.remedy) {
					t.Errorf("want %s at %q that says %q with remedy %q, got:\n%s", m.severity, m.where, m.say, m.remedy, describe(all[i:i+1]))
				}
				if f.Problem == "" || f.Remedy == "" {
					t.Errorf("finding without problem or remedy: %+v", f)
				}
				if !m.cured {
					return
				}
				paste(t, dir, f.Remedy)
				if after := examine(t, dir, setup); !slices.ContainsFunc(after, func(f Finding) bool { return f.Name == m.want }) {
					if worse := slices.DeleteFunc(after, func(f Finding) bool {
						return slices.ContainsFunc(all, func(g Finding) bool { return f.Name == g.Name })
					}); len(worse) > 0 {
						t.Errorf("%s\nhas brought:\n%s", f.Remedy, describe(worse))
					}
					return
				} else if m.where != "" {
					m.where = ""
				}
			}
			t.Errorf("the remedies do not cure it:\n%s", describe(examine(t, dir, setup)))
		})
	}
}

// paste does what a remedy says, with postconf.
func paste(t *testing.T, dir, remedy string) {
	t.Helper()
	var arguments []string
	remedy, _, _ = strings.Cut(remedy, "; or ")
	if line, ok := strings.CutPrefix(remedy, "in main.cf: "); ok {
		arguments = []string{"-e", line}
	} else if m := regexp.MustCompile(`^in master\.cf, below (\S+): -o (.*)$`).FindStringSubmatch(remedy); m != nil {
		name, value, _ := strings.Cut(strings.Trim(m[2], "{} "), "=")
		arguments = []string{"-P", m[1] + "/" + strings.TrimSpace(name) + "=" + strings.TrimSpace(value)}
	} else {
		t.Fatalf("%q cannot be pasted", remedy)
	}
	if out, err := exec.Command("postconf", append([]string{"-c", dir}, arguments...)...).CombinedOutput(); err != nil {
		t.Fatalf("postconf %q: %v\n%s", arguments, err, out)
	}
	age(t, dir)
}

// A milter after ours that adds fields only, one that does not sign, and clients
// in no list of their own, are no mistakes.
func TestNeighboursThatDoNoHarm(t *testing.T) {
	needPostconf(t)
	for path, text := range map[string]string{
		"etc/opendkim.conf":                       "Mode\tv\n",
		"etc/rspamd/local.d/dkim_signing.conf":    "# mine\nenabled = false;\n",
		"etc/dkimpy-milter/dkimpy-milter.conf":    "Mode v\n",
		"etc/rspamd/override.d/dkim_signing.conf": "enabled = \"no\";",
	} {
		root := t.TempDir()
		write(t, filepath.Join(root, path), text)
		name := regexp.MustCompile(`opendkim|rspamd|dkimpy`).FindString(path)
		dir := postfixDir(t, "submission", []edit{{"= unix:waxseal", "= unix:" + name + "/sock, unix:waxseal"}}, nil)
		if found := examine(t, dir, Setup{Sockets: []milter.Address{unixBelowQueue}, Root: root}); len(found) > 0 {
			t.Errorf("%s:\n%s", path, describe(found))
		}
	}
}

// TestWhatLaterPostfixesHave is about versions that are not here.
func TestWhatLaterPostfixesHave(t *testing.T) {
	for version, want := range map[string]bool{"3.9.1": true, "3.10-20241225": true, "4.0": true, "3.8.6": false, "2.11": false, "": false, "3": false} {
		if got := (&Postfix{Version: version}).atLeast(3, 9); got != want {
			t.Errorf("is %q at least 3.9? got %v", version, got)
		}
	}
	smtpd := &service{name: "smtp", kind: "inet", command: "smtpd"}
	p := &Postfix{Version: "3.9.1", services: []*service{smtpd, {name: "smtp", kind: "unix", command: "smtp"}, {name: "cleanup", kind: "unix", command: "cleanup"}},
		values: map[string]string{"queue_directory": "/var/spool/postfix", "cleanup_service_name": "cleanup", "smtpd_milters": "inet:127.0.0.1:8891"}}
	for converted, want := range map[string]bool{"no": true, "yes": false} {
		p.values["force_mime_input_conversion"] = converted
		all := p.Check(Setup{Sockets: []milter.Address{goodPostfix["relay"]}, Root: t.TempDir()})
		found := slices.ContainsFunc(all, func(f Finding) bool {
			return f.Name == "eight_bit" && strings.Contains(f.Remedy, "force_mime_input_conversion")
		})
		if found != want {
			t.Errorf("force_mime_input_conversion=%s: 8-bit mail found to break: %v\n%s", converted, found, describe(all))
		}
	}
}

func TestWhatPostconfRefusesIsAnError(t *testing.T) {
	needPostconf(t)
	_, err := ReadPostfix(context.Background(), PostfixOptions{ConfigDir: filepath.Join(t.TempDir(), "none")})
	if err == nil || !strings.Contains(err.Error(), "main.cf") {
		t.Errorf("got %v", err)
	}
	_, err = ReadPostfix(context.Background(), PostfixOptions{Command: "/nonexistent/postconf"})
	if err == nil {
		t.Error("no error without postconf")
	}
}

func TestListsOfMilters(t *testing.T) {
	for list, want := range map[string][]hop{
		"":                       nil,
		"unix:a, inet:h:1":       {{text: "unix:a", address: milter.Address{Network: "unix", Address: "a"}}, {text: "inet:h:1", address: milter.Address{Network: "tcp", Address: "h:1"}}},
		"unix:a\tinet:[::1]:2,,": {{text: "unix:a", address: milter.Address{Network: "unix", Address: "a"}}, {text: "inet:[::1]:2", address: milter.Address{Network: "tcp", Address: "[::1]:2"}}},
		"{ unix:a, default_action = accept,protocol=3 {x = 1} }": {{text: "{ unix:a, default_action = accept,protocol=3 {x = 1} }", address: milter.Address{Network: "unix", Address: "a"},
			options: map[string]string{"default_action": "accept", "protocol": "3", "x": "1"}}},
		"inet:8891@localhost": {{text: "inet:8891@localhost", address: milter.Address{Network: "tcp", Address: "localhost:8891"}, meant: "inet:localhost:8891"}},
		"/run/x { } unix:":    {{text: "/run/x"}, {text: "{ }"}, {text: "unix:"}},
	} {
		got := parseMilters(list)
		same := slices.EqualFunc(got, want, func(a, b hop) bool {
			return a.text == b.text && a.address == b.address && a.meant == b.meant && maps.Equal(a.options, b.options) && (a.problem != "") == (b.address.Network == "" || b.meant != "")
		})
		if !same {
			t.Errorf("%q: got %+v, want %+v", list, got, want)
		}
	}
}

func FuzzPostconf(f *testing.F) {
	f.Add("a = b\nsubmission/inet/smtpd_milters = { unix:a, default_action = accept } inet:1@b")
	f.Add("smtp inet n - y - - smtpd -o {a=b c}\nsmtp/inet/a = b c\n")
	f.Add("$a ${b} {{{ }}} , = ")
	f.Fuzz(func(t *testing.T, text string) {
		services, _ := parseServices([]byte(text))
		_ = parseOptions([]byte(text), services)
		_, _ = parseParameters([]byte(text))
		_, _ = postfixTime(text)
		undefined(text, []string{"main.cf: undefined parameter: " + text})
		for _, h := range parseMilters(text) {
			if !strings.Contains(text, h.text) || h.text == "" {
				t.Errorf("%q has no milter %q", text, h.text)
			}
			if again := parseMilters(h.text); len(again) != 1 || again[0].address != h.address {
				t.Errorf("%q by itself is %+v, in %q it is %+v", h.text, again, text, h)
			}
			if h.meant != "" && parseMilters(h.meant)[0].address != h.address {
				t.Errorf("%q is to be %q, which is another address than %v", h.text, h.meant, h.address)
			}
		}
	})
}
