package mta

import (
	"cmp"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"waxseal/milter"
	"waxseal/signer"
)

// goodSendmail are the set-ups in which nothing goes wrong, with where waxseal listens.
var goodSendmail = map[string]milter.Address{
	"smarthost": {Network: "unix", Address: "/run/waxseal/milter.sock"},
	"direct":    {Network: "tcp4", Address: "127.0.0.1:8891"},
	"filter":    {Network: "unix", Address: "/run/waxseal/milter.sock"},
}

// m4Files finds the m4 files of Sendmail: of Debian's sendmail-cf, installed, or
// unpacked below $WAXSEAL_SENDMAIL because Sendmail excludes Postfix.
func m4Files() string {
	for _, root := range []string{cmp.Or(os.Getenv("WAXSEAL_SENDMAIL"), "/var/cache/waxseal-test/sendmail"), "/"} {
		dir := filepath.Join(root, "usr/share/sendmail/cf")
		if _, err := os.Stat(filepath.Join(dir, "m4/cf.m4")); err == nil {
			return dir
		}
	}
	return ""
}

func needM4(t *testing.T) {
	t.Helper()
	_, err := exec.LookPath("m4")
	require(t, err == nil && m4Files() != "", "m4, or no m4 files of Sendmail, which are in Debian's sendmail-cf")
}

// compile makes a sendmail.cf, as Sendmail's own Makefile does.
func compile(t *testing.T, mc string) string {
	t.Helper()
	m4 := exec.Command("m4", "-D_CF_DIR_="+m4Files()+"/", m4Files()+"/m4/cf.m4", mc)
	out, err := m4.Output()
	if err != nil {
		t.Fatalf("m4: %v", err)
	}
	cf := strings.TrimSuffix(mc, ".mc") + ".cf"
	write(t, cf, string(out))
	return cf
}

func readGood(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata/sendmail", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func inspect(t *testing.T, cf, mc string, setup Setup) []Finding {
	t.Helper()
	s, err := ReadSendmail(cf, mc)
	if err != nil {
		t.Fatal(err)
	}
	return s.Check(setup)
}

func TestNothingIsFoundInAGoodSendmail(t *testing.T) {
	for name, socket := range goodSendmail {
		setup := Setup{Sockets: []milter.Address{socket}, Root: t.TempDir()}
		base := filepath.Join("testdata/sendmail", name)
		for _, files := range [][2]string{{base + ".cf", ""}, {"", base + ".mc"}} {
			if found := inspect(t, files[0], files[1], setup); len(found) > 0 {
				t.Errorf("%v:\n%s", files, describe(found))
			}
			s, err := ReadSendmail(files[0], files[1])
			if err != nil {
				t.Fatal(err)
			}
			if got := s.Connections(setup); len(got) != 1 || got[0].Address != socket || got[0].User != "" {
				t.Errorf("%v: connections %+v", files, got)
			}
		}
	}
}

// TestWhatM4MakesOfAFile compares our reading of an .mc file with what m4 makes of
// it, and the files beside it with that.
func TestWhatM4MakesOfAFile(t *testing.T) {
	needM4(t)
	for name := range goodSendmail {
		mc := filepath.Join(t.TempDir(), "sendmail.mc")
		write(t, mc, readGood(t, name+".mc"))
		text, err := os.ReadFile(compile(t, mc))
		if err != nil {
			t.Fatal(err)
		}
		built, err := parseCF(text)
		if err != nil {
			t.Fatal(err)
		}
		kept, err := parseCF([]byte(readGood(t, name+".cf")))
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(built, kept) {
			t.Errorf("%s.cf has\n%+v\nand m4 makes\n%+v", name, kept, built)
		}
		source := parseMC([]byte(readGood(t, name+".mc")))
		if !reflect.DeepEqual(source.filters, built.filters) || !slices.Equal(source.input, built.input) || !reflect.DeepEqual(source.daemons, built.daemons) {
			t.Errorf("%s.mc is read as\n%+v\nand m4 makes\n%+v", name, source, built)
		}
		for mailer, m := range source.mailers {
			if built.mailers[mailer] != m {
				t.Errorf("%s.mc: mailer %s is read as %v, and m4 makes %v", name, mailer, m, built.mailers[mailer])
			}
		}
		for option, value := range source.options {
			if value != built.options[option] {
				t.Errorf("%s.mc: option %s is read as %q, and m4 makes %q", name, option, value, built.options[option])
			}
		}
	}
}

// sendmailMistakes are those that people make in an .mc file.
var sendmailMistakes = []struct {
	name       string
	good       string
	mc         []edit
	want       string
	severity   Severity
	where, say string
	remedy     string
	cfOnly     bool // the .mc file alone does not show it
}{
	{name: "no filter at all", good: "smarthost", mc: []edit{{"INPUT_MAIL_FILTER(`waxseal'", "dnl INPUT_MAIL_FILTER(`waxseal'"}},
		want: "not_wired", severity: Error, remedy: "INPUT_MAIL_FILTER(`waxseal', `S=local:/run/waxseal/milter.sock, F=T, T=S:30s;R:30s;E:5m')dnl"},
	{name: "a filter at another path", good: "smarthost", mc: []edit{{"/run/waxseal/milter.sock", "/var/run/dkim/milter"}}, want: "not_wired", severity: Error, say: "waxseal at local:/var/run/dkim/milter"},
	{name: "a filter that is defined and not used", good: "smarthost", mc: []edit{{"INPUT_MAIL_FILTER(`waxseal'", "MAIL_FILTER(`waxseal'"}}, want: "unused_filter", severity: Error},
	{name: "a list that is emptied afterwards", good: "smarthost", mc: []edit{{"MAILER(`local')dnl", "define(`confINPUT_MAIL_FILTERS', `clamav')dnl\nMAILER(`local')dnl"}}, want: "unused_filter", severity: Error, where: "InputMailFilters=clamav"},
	{name: "a list with a filter that is not there", good: "smarthost", mc: []edit{{"MAILER(`local')dnl", "define(`confINPUT_MAIL_FILTERS', `clamav, waxsael, waxseal')dnl\nMAILER(`local')dnl"}},
		want: "undefined_filter", severity: Error, say: "waxsael"},
	{name: "submission with filters of its own", good: "smarthost", mc: []edit{{"M=Ea", "M=Ea, InputMailFilters=clamav"}}, want: "daemon_filters", severity: Error, say: "MSA", remedy: "InputMailFilters=clamav;waxseal"},
	{name: "no signature after the content filter either", good: "filter", mc: []edit{{", InputMailFilters=waxseal", ""}}, want: "unused_filter", severity: Error},
	{name: "no flag, so unsigned when waxseal is down", good: "smarthost", mc: []edit{{"F=T, ", ""}}, want: "default_action", severity: Error},
	{name: "an empty flag", good: "smarthost", mc: []edit{{"F=T, ", "F=, "}}, want: "default_action", severity: Error},
	{name: "refusal when waxseal is down", good: "smarthost", mc: []edit{{"F=T", "F=R"}}, want: "default_action", severity: Warning},
	{name: "a flag that does not exist", good: "smarthost", mc: []edit{{"F=T", "F=X"}}, want: "default_action", severity: Error},
	{name: "an impatient Sendmail", good: "smarthost", mc: []edit{{"R:30s;E:5m", "R:2s;E:5m"}}, want: "timeout", severity: Warning, say: "R:2s"},
	{name: "limits with commas", good: "direct", mc: []edit{{"T=C:1m;S:20s", "T=C1m;S:20s"}}, want: "timeout", severity: Error, say: "C1m"},
	{name: "Postfix's spelling of a port", good: "direct", mc: []edit{{"inet:8891@127.0.0.1", "inet:127.0.0.1:8891"}}, want: "address", severity: Error, remedy: "S=inet:8891@127.0.0.1"},
	{name: "a filter without an address", good: "smarthost", mc: []edit{{"S=local:/run/clamav/milter.sock, ", ""}}, want: "address", severity: Error, where: "Xclamav"},
	{name: "a filter after waxseal", good: "smarthost", mc: []edit{{"MAILER(`local')dnl", "INPUT_MAIL_FILTER(`spamass', `S=local:/run/spamass.sock, F=')dnl\nMAILER(`local')dnl"}},
		want: "order", severity: Warning, say: "spamass"},
	{name: "a filter after waxseal in a daemon's list", good: "direct", mc: []edit{{"InputMailFilters=waxseal", "InputMailFilters=waxseal;clamav"}, {"INPUT_MAIL_FILTER(", "MAIL_FILTER(`clamav', `S=local:/run/clam')dnl\nINPUT_MAIL_FILTER("}},
		want: "order", severity: Warning, where: "DaemonPortOptions", say: "clamav"},
	{name: "OpenDKIM beside waxseal", good: "smarthost", mc: []edit{{"dnl INPUT_MAIL_FILTER(`opendkim', `S=inet:12301@localhost')", "INPUT_MAIL_FILTER(`opendkim', `S=inet:12301@localhost')"}},
		want: "other_signer", severity: Warning, say: "OpenDKIM"},
	{name: "masquerading", good: "smarthost", mc: []edit{{"MAILER(`local')dnl", "MASQUERADE_AS(`example.com')dnl\nMAILER(`local')dnl"}}, want: "masquerade", severity: Error, say: "example.com"},
	{name: "masquerading of everything", good: "smarthost", mc: []edit{{"MAILER(`local')dnl", "MASQUERADE_AS(`example.com')dnl\nMASQUERADE_DOMAIN(`example.org')dnl\nFEATURE(`allmasquerade')dnl\nFEATURE(`masquerade_entire_domain')dnl\nMAILER(`local')dnl"}},
		want: "masquerade", severity: Error, say: "addresses in mx.example.net and example.org and .example.org in the header become example.com, also those of recipients (allmasquerade) after signing, which breaks",
		remedy: `masquerade = ["mx.example.net", "example.org", ".example.org"] and masquerade_recipients = true`},
	{name: "masquerading of some domains", good: "smarthost", mc: []edit{{"MAILER(`local')dnl", "MASQUERADE_AS(`example.com')dnl\nMASQUERADE_DOMAIN(`example.org')dnl\nFEATURE(`limited_masquerade')dnl\nMAILER(`local')dnl"}},
		want: "masquerade", severity: Error, remedy: `masquerade = ["example.org"]; mail with such a From is not signed then`},
	{name: "masquerading of a host with a name of its own", good: "smarthost", mc: []edit{{"MAILER(`local')dnl", "define(`confDOMAIN_NAME', `mail.example.com')dnl\nLOCAL_DOMAIN(`example.com example.org')dnl\nMASQUERADE_AS(`example.com')dnl\nMAILER(`local')dnl"}},
		want: "masquerade", severity: Error, remedy: `masquerade = ["mail.example.com", "example.org"]`},
	{name: "a table of generics", good: "direct", mc: []edit{{"MAILER(`local')dnl", "FEATURE(`genericstable', `hash /etc/mail/genericstable')dnl\nGENERICS_DOMAIN(`example.com')dnl\nMAILER(`local')dnl"}},
		want: "genericstable", severity: Error, where: "hash /etc/mail/genericstable", remedy: `masquerade = ["mx.example.net", "example.com"]`},
	{name: "domains added for local users", good: "direct", mc: []edit{{"MAILER(`local')dnl", "FEATURE(`always_add_domain')dnl\nMAILER(`local')dnl"}}, want: "always_add_domain", severity: Note},
	{name: "addresses of UUCP", good: "direct", mc: []edit{{"FEATURE(`nouucp', `reject')dnl\n", ""}}, want: "nouucp", severity: Note, cfOnly: true},
	{name: "8-bit mail labelled", good: "direct", mc: []edit{{"`pass8'", "`mimify'"}}, want: "eight_bit_mode", severity: Warning},
	{name: "8-bit mail converted", good: "direct", mc: []edit{{"MODIFY_MAILER_FLAGS(`ESMTP', `+8')dnl\n", ""}}, want: "eight_bit", severity: Warning, where: "Mesmtp", remedy: "MODIFY_MAILER_FLAGS(`ESMTP', `+8')dnl"},
	{name: "8-bit mail converted for the smart host", good: "smarthost", mc: []edit{{"smtp.example.net", "esmtp:smtp.example.net"}}, want: "eight_bit", severity: Warning, where: "Mesmtp"},
	{name: "fields of MIME cut", good: "direct", mc: []edit{{"2048/1024", "256/128"}}, want: "mime_header_length", severity: Warning},
	{name: "short lines", good: "direct", mc: []edit{{"MAILER(`local')dnl", "define(`SMTP_MAILER_LL', `80')dnl\nMAILER(`local')dnl"}}, want: "line_length", severity: Warning, say: "80"},
	{name: "a daemon without a name", good: "smarthost", mc: []edit{{"Family=inet, Name=MTA, ", "Family=inet, "}}, want: "daemon_name", severity: Note},
	{name: "no macro for the login", good: "direct", mc: []edit{{"{auth_type}, {auth_authen}", "{mail_addr}"}}, want: "macros", severity: Error, remedy: "`i, {mail_addr}, {auth_type}, {auth_authen}'"},
}

func TestEveryMistakeInSendmailIsFound(t *testing.T) {
	for _, m := range sendmailMistakes {
		t.Run(m.name, func(t *testing.T) {
			t.Parallel()
			setup := Setup{Sockets: []milter.Address{goodSendmail[m.good]}, Host: "mx.example.net", Root: t.TempDir()}
			mc := filepath.Join(t.TempDir(), "sendmail.mc")
			write(t, mc, change(t, readGood(t, m.good+".mc"), m.mc))
			check := func(file string, all []Finding) {
				t.Helper()
				i := slices.IndexFunc(all, func(f Finding) bool { return f.Name == m.want })
				if i < 0 {
					t.Fatalf("%s: no %s; found:\n%s", file, m.want, describe(all))
				}
				if f := all[i]; f.Severity != m.severity || !strings.Contains(f.Where, m.where) || !strings.Contains(f.Problem, m.say) || !strings.Contains(f.Remedy, m.remedy) || f.Remedy == "" {
					t.Errorf("%s: want %s at %q that says %q with remedy %q, got:\n%s", file, m.severity, m.where, m.say, m.remedy, describe(all[i:i+1]))
				}
				for _, f := range all {
					if f.Name != m.want {
						t.Errorf("%s: found as well:\n%s", file, describe([]Finding{f}))
					}
				}
			}
			if !m.cfOnly {
				check(mc, inspect(t, "", mc, setup))
			}
			needM4(t)
			check("sendmail.cf", inspect(t, compile(t, mc), "", setup))
		})
	}
}

// TestMasqueradingThatIsKnown is a note: signatures do not break, but mail from
// such addresses leaves unsigned.
func TestMasqueradingThatIsKnown(t *testing.T) {
	mc := filepath.Join(t.TempDir(), "sendmail.mc")
	write(t, mc, change(t, readGood(t, "smarthost.mc"), []edit{{"MAILER(`local')dnl", "MASQUERADE_AS(`example.com')dnl\nMASQUERADE_DOMAIN(`example.org')dnl\nFEATURE(`allmasquerade')dnl\nMAILER(`local')dnl"}}))
	socket := goodSendmail["smarthost"]
	for _, c := range []struct {
		told     *signer.Masquerade
		severity Severity
		remedy   string
	}{
		{nil, Error, `masquerade = ["mx.example.net", "example.org"] and masquerade_recipients`},
		{&signer.Masquerade{Domains: []string{"MX.example.net", "example.org"}, Recipients: true}, Note, "have clients use"},
		{&signer.Masquerade{Domains: []string{".example.net", "example.org"}, Recipients: true}, Note, "have clients use"},
		{&signer.Masquerade{Domains: []string{"mx.example.net", "example.org"}}, Error, "masquerade_recipients = true"},
		{&signer.Masquerade{Domains: []string{"a.example.org", "mx.example.net"}, Recipients: true}, Error, `masquerade = ["a.example.org", "mx.example.net", "example.org"]`},
	} {
		all := inspect(t, "", mc, Setup{Sockets: []milter.Address{socket}, Host: "mx.example.net", Root: t.TempDir(), Peers: map[milter.Address]milter.Peer{socket: {Masquerade: c.told}}})
		if len(all) != 1 || all[0].Severity != c.severity || all[0].Name != "masquerade" || !strings.Contains(all[0].Remedy, c.remedy) {
			t.Errorf("told %+v: want %s with remedy %q, found:\n%s", c.told, c.severity, c.remedy, describe(all))
		}
	}
}

// TestSendmailTakenForPostfix: the listener was told so.
func TestSendmailTakenForPostfix(t *testing.T) {
	socket := goodSendmail["smarthost"]
	all := inspect(t, "testdata/sendmail/smarthost.cf", "", Setup{Sockets: []milter.Address{socket}, Root: t.TempDir(), Peers: map[milter.Address]milter.Peer{socket: {MTA: milter.MTAPostfix}}})
	if len(all) != 1 || all[0].Name != "mta" || all[0].Severity != Error || !strings.Contains(all[0].Remedy, `mta = "sendmail"`) {
		t.Errorf("found:\n%s", describe(all))
	}
}

// TestTheAddressOfTheMailServerIsTried, and not that of the listener: they may be
// two, though they look alike.
func TestTheAddressOfTheMailServerIsTried(t *testing.T) {
	mc := filepath.Join(t.TempDir(), "sendmail.mc")
	write(t, mc, change(t, readGood(t, "direct.mc"), []edit{{"inet:8891@127.0.0.1", "inet6:8891@::1"}}))
	s, err := ReadSendmail("", mc)
	if err != nil {
		t.Fatal(err)
	}
	got := s.Connections(Setup{Sockets: []milter.Address{goodSendmail["direct"]}})
	if len(got) != 1 || got[0].Address.Address != "[::1]:8891" {
		t.Errorf("connections %+v, want one to [::1]:8891", got)
	}
}

// Mistakes in a sendmail.cf that somebody has edited by hand, in the modes of
// directories, and between the two files.
func TestMistakesInASendmailCF(t *testing.T) {
	// Checks walk up to the root, and the usual temporary directory is everyone's.
	socketDir := t.TempDir()
	open := filepath.Join(socketDir, "open")
	if err := os.MkdirAll(open, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(open, 0o777); err != nil {
		t.Fatal(err)
	}
	const local = "S=local:/run/waxseal/milter.sock"
	for _, m := range []struct {
		name   string
		cf     []edit
		socket string
		want   string
		say    string
	}{
		{"the flag taken out", []edit{{"F=T, T=", "T="}}, "", "default_action", "leaves unsigned"},
		{"the X line taken out", []edit{{"Xwaxseal", "#Xwaxseal"}}, "", "not_wired", "nothing is signed"},
		{"masquerading by hand", []edit{{"\nDS", "\nDMexample.com\nDS"}}, "", "masquerade", "example.com"},
		{"a list in its own words", []edit{{"O InputMailFilters=clamav, waxseal", "O  InputMailFilters = clamav"}}, "", "unused_filter", "defined"},
		{"a socket in everyone's directory", []edit{{local, "S=local:" + open + "/s"}}, open + "/s", "socket_directory", "everyone may write to it (mode 0777)"},
	} {
		t.Run(m.name, func(t *testing.T) {
			cf := filepath.Join(t.TempDir(), "sendmail.cf")
			write(t, cf, change(t, readGood(t, "smarthost.cf"), m.cf))
			setup := Setup{Sockets: []milter.Address{{Network: "unix", Address: cmp.Or(m.socket, "/run/waxseal/milter.sock")}}, Root: t.TempDir()}
			all := inspect(t, cf, "", setup)
			if !slices.ContainsFunc(all, func(f Finding) bool { return f.Name == m.want && strings.Contains(f.Problem, m.say) }) {
				t.Errorf("no %s that says %q; found:\n%s", m.want, m.say, describe(all))
			}
		})
	}
}

func TestWhatSendmailSaysMakesASocketSafe(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "group")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o770); err != nil {
		t.Fatal(err)
	}
	for blame, unsafe := range map[string]bool{"": true, "GroupWritableDirPathSafe": false, "truststickybit": true} {
		s := newSendmail()
		s.options["dontblamesendmail"] = blame
		var all findings
		s.checkDirectories(&all, filepath.Join(dir, "milter.sock"))
		found := slices.ContainsFunc(all, func(f Finding) bool { return f.Where == dir })
		if found != unsafe {
			t.Errorf("DontBlameSendmail=%s: found %v, want %v:\n%s", blame, found, unsafe, describe(all))
		}
	}
}

func TestASendmailCFThatWasNotBuiltAnew(t *testing.T) {
	dir := t.TempDir()
	cf, mc := filepath.Join(dir, "sendmail.cf"), filepath.Join(dir, "sendmail.mc")
	text := readGood(t, "smarthost.cf")
	write(t, cf, regexp.MustCompile(`(?m)^Xwaxseal.*\n`).ReplaceAllString(text, ""))
	write(t, mc, readGood(t, "smarthost.mc"))
	if err := os.Chtimes(cf, time.Time{}, time.Now().Add(-time.Hour)); err != nil {
		t.Fatal(err)
	}
	all := inspect(t, cf, mc, Setup{Sockets: []milter.Address{goodSendmail["smarthost"]}, Root: dir})
	if len(all) != 2 || all[0].Name != "not_wired" || !strings.Contains(all[0].Remedy, "m4 ") || all[1].Name != "stale" {
		t.Errorf("found:\n%s", describe(all))
	}
}

func TestFilesThatAreNoSendmail(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "main.cf"), "myhostname = a\n")
	for _, files := range [][2]string{{"", ""}, {filepath.Join(dir, "main.cf"), ""}, {filepath.Join(dir, "none.cf"), ""}, {"", filepath.Join(dir, "none.mc")}} {
		if _, err := ReadSendmail(files[0], files[1]); err == nil {
			t.Errorf("%v: no error", files)
		}
	}
	if _, err := ReadSendmail("testdata/sendmail/direct.cf", filepath.Join(dir, "none.mc")); err != nil {
		t.Errorf("without the .mc file beside it: %v", err)
	}
}

func FuzzSendmailCF(f *testing.F) {
	f.Add("V10/Berkeley\nO InputMailFilters=a, b\nXa, S=inet:1@h, F=T, T=C:1m;S:1s\n\tE:5\nMesmtp, P=[IPC], F=mDF8, L=990\nDMx\nC{M}a b\nKgenerics hash /x\n")
	f.Add("#####  $Id: nouucp.m4,v 8.14 $  #####\nO DaemonPortOptions=N=MTA, I=a;b\nD{x")
	f.Fuzz(func(t *testing.T, text string) {
		s, err := parseCF([]byte(text))
		if err != nil {
			return
		}
		s.Check(Setup{Sockets: []milter.Address{{Network: "tcp4", Address: "127.0.0.1:8891"}}, Root: t.TempDir()})
		for _, f := range s.filters {
			if (f.address.Network == "") != (f.problem != "" && f.meant == "") {
				t.Errorf("filter %+v", f)
			}
		}
	})
}

func FuzzMC(f *testing.F) {
	f.Add("divert(-1)\nINPUT_MAIL_FILTER(`a', `S=inet:1@h, F=T')dnl\nFEATURE(`x', , `y')define(`confA',dnl\n`b')")
	f.Add("MODIFY_MAILER_FLAGS(`ESMTP', `-a')MAILER(`smtp')((`")
	f.Fuzz(func(t *testing.T, text string) {
		for _, c := range mcCalls(text) {
			if len(c.args) == 0 || !strings.Contains(text, c.name+"(") {
				t.Errorf("call %+v in %q", c, text)
			}
		}
		parseMC([]byte(text)).Check(Setup{Sockets: []milter.Address{{Network: "tcp4", Address: "127.0.0.1:8891"}}, Root: t.TempDir()})
	})
}
