package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"
)

func TestEveryProblemOfAFileIsNamedWithItsLine(t *testing.T) {
	for _, c := range []struct {
		name, text string
		want       []string // "line: key: part of the problem | part of the remedy"
	}{
		{"an unknown table", "[lisen.a]\naddress = \"unix:/run/s\"", []string{`1: lisen: unknown setting | did you mean "listen"?`}},
		{"an unknown setting", "\n[signing]\ncanonicalisation = \"relaxed/relaxed\"", []string{`3: signing.canonicalisation: unknown setting | did you mean "canonicalization"?`}},
		{"a setting at the wrong place", "networks = []", []string{`1: networks: unknown setting | waxseal config example`}},
		{"upper case", "[Origin]\nLogin = true", []string{`1: Origin: unknown setting | did you mean "origin"?`}},
		{"upper case beside lower", "[origin]\nlogin = true\nLogin = false", []string{`3: origin.Login: unknown setting | "login"`}},
		{"a table that is a string", "listen = \"unix:/run/s\"", []string{`1: listen: not a table of tables | [listen.NAME]`}},
		{"a named table that is a list", "listen = [1]", []string{`1: listen: not a table of tables | [listen.NAME]`}},
		{"a section that is a number", "origin = 1", []string{`1: origin: not a table | [origin]`}},
		{"a bare number for a time", "[limits]\nkey_timeout = 30", []string{`2: limits.key_timeout: 30 is not a time span in quotes`}},
		{"a time without unit", "[limits]\nkey_timeout = \"30\"", []string{`2: limits.key_timeout: time span "30"`}},
		{"a negative time", "[limits]\nkey_timeout = \"-3s\"", []string{`2: limits.key_timeout: time span "-3s"`}},
		{"a mode without quotes", "[listen.a]\naddress = \"unix:/run/s\"\nmode = 0o660", []string{`3: listen.a.mode: 432 is not an octal mode in quotes`}},
		{"a mode that is none", "[listen.a]\naddress = \"unix:/run/s\"\nmode = \"rw\"", []string{`3: listen.a.mode: mode "rw"`}},
		{"an address that is none", "[listen.a]\naddress = \"/run/s\"", []string{`2: listen.a.address: address "/run/s"`}},
		{"text for yes or no", "[origin]\nlogin = \"yes\"", []string{`2: origin.login: want true or false`}},
		{"text for a list", "[origin]\nnetworks = \"127.0.0.0/8\"", []string{`2: origin.networks: want a list of strings`}},
		{"numbers in a list", "[origin]\nnetworks = [1, 2]", []string{`2: origin.networks: want a list of strings`}},
		{"a fraction for a number", "[limits]\nconnections = 1.5", []string{`2: limits.connections: want a whole number`}},
		{"an unknown level", "[log]\nlevel = \"loud\"", []string{`2: log.level: log level "loud"`}},
		{"an odd size", "[limits]\nheader_bytes = \"1 GB\"", []string{`2: limits.header_bytes: size "1 GB"`}},
		{"a key twice", "[log]\nlevel = \"info\"\nlevel = \"warn\"", []string{`3: : `}},
		{"no TOML at all", "\n\n=", []string{`3: : `}},
		{"several at once", "[log]\nlevel = 1\nformat = \"xml\"\n[origin]\nlogins = true\nlocal = 0", []string{
			`2: log.level: 1 is not`, `3: log.format: log format "xml"`, `5: origin.logins: unknown setting | "login"`, `6: origin.local: want true or false`}},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := decodeConfig("waxseal.toml", c.text)
			checkProblems(t, err, c.want)
		})
	}
}

// checkProblems compares problems with "line: key: problem | remedy".
func checkProblems(t *testing.T, err error, want []string) {
	t.Helper()
	var got problems
	if err != nil && !errors.As(err, &got) {
		t.Fatalf("error %v is not of type problems", err)
	}
	if len(got) != len(want) {
		t.Fatalf("got %d problems, want %d:\n%v", len(got), len(want), err)
	}
	for i, p := range got {
		text, remedy, _ := strings.Cut(want[i], " | ")
		if s := fmt.Sprintf("%d: %s: %v", p.line, p.key, p.err); !strings.HasPrefix(s, text) {
			t.Errorf("got problem %q, want %q", s, text)
		}
		if !strings.Contains(p.remedy, remedy) {
			t.Errorf("got remedy %q, want %q", p.remedy, remedy)
		}
		if !strings.HasPrefix(p.Error(), p.file+":"+fmt.Sprint(p.line)) {
			t.Errorf("%q does not begin with file and line", p.Error())
		}
	}
}

func TestWrongValuesAreNamedWithTheirLine(t *testing.T) {
	for _, c := range []struct {
		name, text string
		want       []string
	}{
		{"host bits", "[origin]\nnetworks = [\"127.0.0.1/8\"]", []string{`2: origin.networks: network "127.0.0.1/8"`}},
		{"the whole Internet", "[origin]\nnetworks = [\"0.0.0.0/0\"]", []string{`2: origin.networks: `}},
		{"two bad networks", "[origin]\nnetworks = [\"127.0.0.1/8\", \"x\"]", []string{`2: origin.networks: `, `2: origin.networks: `}},
		{"an empty daemon name", "[origin]\ndaemon_names = [\"\"]", []string{`2: origin.daemon_names: daemon name`}},
		{"an outcome that makes no sense", "[outcome]\nstore_down = \"reject\"", []string{`2: outcome.store_down: `}},
		{"an outcome that is none", "[outcome]\nno_key = \"drop\"", []string{`2: outcome.no_key: `}},
		{"a field that must not be signed", "[signing]\nfields = [\"Received\"]", []string{`2: signing.fields: `}},
		{"a risk's outcome that makes no sense", "[risk]\nbad_from = \"sign\"", []string{`2: risk.bad_from: "sign" is not possible here`}},
		{"a risk's outcome that is none", "[risk]\nnul = \"drop\"", []string{`2: risk.nul: "drop"`}},
		{"a mail server that is none", "[listen.a]\naddress = \"unix:/s\"\nmta = \"exim\"", []string{`3: listen.a.mta: "exim" is no mail server`}},
		{"simple headers behind Sendmail", "[listen.a]\naddress = \"unix:/s\"\nmta = \"sendmail\"\n[signing]\ncanonicalization = \"simple/relaxed\"",
			[]string{`3: listen.a.mta: Sendmail folds header fields anew after its milters, so signatures with simple headers, as signing.canonicalization | relaxed/relaxed`}},
		{"simple headers of a row behind Sendmail", "[listen.a]\naddress = \"unix:/s\"\nmta = \"sendmail\"\n[row.b]\ndomain = \"b.example\"\ncanonicalization = \"simple\"",
			[]string{`3: listen.a.mta: Sendmail folds header fields anew after its milters, so signatures with simple headers, as row.b.canonicalization | relaxed/relaxed`}},
		{"masquerading behind Postfix", "[listen.a]\naddress = \"unix:/s\"\nmta = \"postfix\"\nmasquerade = [\"a.example\"]", []string{`4: listen.a.masquerade: is for Sendmail`}},
		{"a masqueraded domain that is none", "[listen.a]\naddress = \"unix:/s\"\nmasquerade = [\"a b\"]", []string{`3: listen.a.masquerade: `}},
		{"masqueraded recipients without domains", "[listen.a]\naddress = \"unix:/s\"\nmasquerade_recipients = true", []string{`3: listen.a.masquerade_recipients: `}},
		{"no connections", "[limits]\nconnections = 0", []string{`2: limits.connections: 0, want at least 1`}},
		{"a time of nothing", "[limits]\nkey_timeout = \"0s\"", []string{`2: limits.key_timeout: 0s, want at least 1s`}},
	} {
		t.Run(c.name, func(t *testing.T) {
			d, err := decodeConfig("waxseal.toml", c.text)
			if err != nil {
				t.Fatal(err)
			}
			_, err = buildSettings(d)
			checkProblems(t, err, c.want)
		})
	}
}

func TestListenersAreCheckedWithoutBeingOpened(t *testing.T) {
	for _, c := range []struct {
		name, text string
		want       []string
	}{
		{"no address", "[listen.a]\nmode = \"0600\"", []string{`1: listen.a: no address | add address`}},
		{"all interfaces", "[listen.a]\naddress = \"inet:0.0.0.0:8891\"", []string{`2: listen.a.address: inet:0.0.0.0:8891 can be reached from other machines | allow_remote`}},
		{"another machine's network", "[listen.a]\naddress = \"inet6:[2001:db8::1]:8891\"", []string{`2: listen.a.address: inet6:[2001:db8::1]:8891 can`}},
		{"the same twice", "[listen.a]\naddress = \"inet:127.0.0.1:8891\"\n[listen.b]\naddress = \"inet:8891@127.0.0.1\"", []string{`4: listen.b.address: is that of listen.a, too`}},
		{"an owner that is nobody", "[listen.a]\naddress = \"unix:/run/s\"\nowner = \"no-such-user\"", []string{`1: listen.a: owner: no user`}},
		{"a group that is none", "[listen.a]\naddress = \"unix:/run/s\"\ngroup = \"no-such-group\"", []string{`1: listen.a: group: no group`}},
		{"all interfaces, with a firewall", "[listen.a]\naddress = \"inet:0.0.0.0:8891\"\nallow_remote = true", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			d, err := decodeConfig("waxseal.toml", c.text)
			if err != nil {
				t.Fatal(err)
			}
			checkProblems(t, checkListeners(d), c.want)
		})
	}
}

func TestAnAbsentFileHasTheDefaults(t *testing.T) {
	d, err := readConfig(filepath.Join(t.TempDir(), "absent.toml"), false)
	if err != nil || !reflect.DeepEqual(d.Config, defaultConfig()) {
		t.Errorf("got %+v, %v", d, err)
	}
	if _, err := readConfig(filepath.Join(t.TempDir(), "absent.toml"), true); err == nil {
		t.Error("a file that was asked for by name may be absent")
	}
}

func TestAnEmptyListIsNotTheDefault(t *testing.T) {
	d, err := decodeConfig("waxseal.toml", "[origin]\nnetworks = []\ndaemon_names = []")
	if err != nil {
		t.Fatal(err)
	}
	o := originOptions(d.Origin)
	if o.Networks == nil || len(o.Networks) > 0 || o.DaemonNames == nil || len(o.DaemonNames) > 0 {
		t.Errorf("got %#v", o)
	}
}

func TestTheExampleIsTrue(t *testing.T) {
	var b strings.Builder
	if err := writeExample(&b); err != nil {
		t.Fatal(err)
	}
	example := b.String()
	if d, err := decodeConfig("example.toml", example); err != nil || !reflect.DeepEqual(d.Config, defaultConfig()) {
		t.Errorf("as it is, the example is not the default: %v", err)
	}
	// With every setting taken in, it is still the default, but for its listener.
	all := regexp.MustCompile(`(?m)^#([\w\[]| "[^\n]*[,\]]$)`).ReplaceAllString(example, "$1")
	d, err := decodeConfig("example.toml", all)
	if err != nil {
		t.Fatalf("%v\n%s", err, all)
	}
	if got := d.Listen["example"].Address.String(); got != defaultSocket || len(d.Listen) != 1 {
		t.Errorf("listeners %v, want one at %s", d.Listen, defaultSocket)
	}
	if len(d.Publish) != 1 || len(d.Keeper.Domain) != 1 || len(d.Row) != 1 || len(d.Permission.Grant) != 1 || d.Listen["example"].Origin == nil || d.Row["example"].Outcome == nil {
		t.Errorf("not all named tables are there: %+v", d.Config)
	}
	d.Listen, d.Row, d.Permission.Grant, d.Publish, d.Keeper.Domain = nil, nil, nil, nil, nil
	if want := defaultConfig(); !reflect.DeepEqual(d.Config, want) {
		t.Errorf("got\n%+v\nwant\n%+v", d.Config, want)
	}
	if _, err := buildSettings(d); err != nil {
		t.Errorf("the defaults do not pass the check: %v", err)
	}
	for _, s := range settings() {
		if s.comment == "" {
			t.Errorf("%s has no comment", s.key)
		}
	}
}

func TestDurations(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"90s": 90 * time.Second, "1h30m": 90 * time.Minute, "7d": 7 * 24 * time.Hour, "2w": 14 * 24 * time.Hour, "0.5d": 12 * time.Hour, "0s": 0,
	} {
		got, err := parseDuration(text)
		if err != nil || got != want {
			t.Errorf("%q: got %v, %v, want %v", text, got, err, want)
		}
		if back, err := parseDuration(Duration(got).String()); err != nil || back != got {
			t.Errorf("%q is written as %q", text, Duration(got))
		}
	}
	for _, text := range []string{"", "s", "d", "1", "-1d", "1e30w", "1y", "NaNd", "Infw"} {
		if got, err := parseDuration(text); err == nil {
			t.Errorf("%q: got %v, want an error", text, got)
		}
	}
}

func FuzzConfig(f *testing.F) {
	var example strings.Builder
	if err := writeExample(&example); err != nil {
		f.Fatal(err)
	}
	f.Add(example.String())
	f.Add("[listen.a]\naddress = \"inet:1@::1\"\n[listen.\"b c\"]\nmode = \"0\"")
	f.Add("listen = [[1], {a = 2}]\n[[origin]]\n")
	f.Fuzz(func(t *testing.T, text string) {
		d, err := decodeConfig("fuzz.toml", text)
		if err != nil {
			if !errors.As(err, new(problems)) {
				t.Fatalf("error %v is not of type problems", err)
			}
			return
		}
		buildSettings(d)
		checkListeners(d)
		warnings(d)
	})
}

// writeFile makes a file for a test.
func writeFile(t testing.TB, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
