package main

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"waxseal/cmd/waxseal/internal/landlock"
)

// rulesOf are the rules that a configuration asks for, beside those that every
// program needs: "access path" and "bind port" with what they are for.
func rulesOf(t *testing.T, text string) (r landlock.Rules, configured []string) {
	t.Helper()
	d, err := decodeConfig("/etc/waxseal/waxseal.toml", text)
	must(t, err)
	r = confineRules(d, "/usr/bin/waxseal")
	for _, p := range r.Paths {
		if strings.Contains(p.For, ".") {
			configured = append(configured, fmt.Sprintf("%s %s (%s)", p.Access, p.Path, p.For))
		}
	}
	for _, p := range r.Bind {
		if p.Port != 0 {
			configured = append(configured, fmt.Sprintf("bind %d (%s)", p.Port, p.For))
		}
	}
	for _, p := range r.Connect {
		configured = append(configured, fmt.Sprintf("connect %d (%s)", p.Port, p.For))
	}
	if r.AnyConnect {
		configured = append(configured, "connect")
	}
	return r, configured
}

func TestTheDaemonKeepsWhatItsConfigurationNeeds(t *testing.T) {
	t.Setenv("CREDENTIALS_DIRECTORY", "/run/credentials/waxseal.service")
	base := []string{"read write /var/lib/waxseal/keys (keystore.url)", "sockets /run/waxseal (listen.milter.address)", "connect 53 (DNS)"}
	with := func(more ...string) []string { return slices.Concat(base, more) }
	const publish = "[publish.corp]\nzones = [\"example.com\"]\n"
	for _, test := range []struct {
		name, config string
		want         []string
	}{
		{"nothing is configured", "", base},
		{"without a keeper, keys are only read, and no DNS is asked", "[keeper]\nenabled = false\nnotify = [\"/usr/bin/true\"]",
			[]string{"read /var/lib/waxseal/keys (keystore.url)", "sockets /run/waxseal (listen.milter.address)"}},
		{"another keystore", "[keystore]\nurl = \"/srv/keys\"",
			[]string{"read write /srv/keys (keystore.url)", base[1], base[2]}},
		{"listeners", "[listen.a]\naddress = \"unix:/run/a/s\"\n[listen.b]\naddress = \"inet:127.0.0.1:8891\"\n[metrics]\naddress = \"inet:127.0.0.1:9891\"",
			[]string{base[0], "sockets /run/a (listen.a.address)", "bind 8891 (listen.b.address)", "bind 9891 (metrics.address)", base[2]}},
		{"resolvers and servers elsewhere than at port 53", "[dns]\nresolvers = [\"127.0.0.1\", \"127.0.0.1:5353\"]\n" + publish + "server = \"ns.example.com:5300\"",
			with("connect 5353 (dns.resolvers)", "connect 5300 (publish.corp.server)")},
		{"a key file may be replaced, so its directory", publish + "tsig_key = \"/etc/waxseal/keys/corp.key\"",
			with("read /etc/waxseal/keys (publish.corp.tsig_key)")},
		{"but not /etc", publish + "tsig_key = \"/etc/corp.key\"", with("read /etc/corp.key (publish.corp.tsig_key)")},
		{"nor somebody's home", publish + "tsig_key = \"/home/ann/corp.key\"", with("read /home/ann/corp.key (publish.corp.tsig_key)")},
		{"a credential", publish + "tsig_key = \"credential:corp\"", with("read /run/credentials/waxseal.service (publish.corp.tsig_key)")},
		{"retired keys are published", "[keeper]\npublish_retired_keys = \"/srv/www/keys\"", with("write /srv/www/keys (keeper.publish_retired_keys)")},
		{"what else is wanted", "[confine]\nread = [\"/srv/a\"]\nwrite = [\"/srv/b\"]", with("read /srv/a (confine.read)", "read write /srv/b (confine.write)")},
		{"a command speaks to whom it likes, and what it needs may be run", "[keeper]\nnotify = [\"/bin/sh\"]\n[confine]\nread = [\"/opt/hook\"]",
			append(with("read execute /bin/sh (keeper.notify)", "read execute /opt/hook (confine.read)"), "connect")},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, got := rulesOf(t, test.config)
			for i, g := range got { // /bin may be a link
				got[i] = strings.Replace(g, mustReal(t, "/bin/sh")+" ", "/bin/sh ", 1)
			}
			want := slices.Sorted(slices.Values(test.want))
			if slices.Sort(got); !slices.Equal(got, want) {
				t.Errorf("%s\ngot\n  %s\nwant\n  %s", test.config, strings.Join(got, "\n  "), strings.Join(want, "\n  "))
			}
		})
	}
}

func mustReal(t *testing.T, path string) string {
	t.Helper()
	path, err := filepath.EvalSymlinks(path)
	must(t, err)
	return path
}

func TestNothingElseIsLeftToTheDaemon(t *testing.T) {
	plain, _ := rulesOf(t, "")
	hooked, _ := rulesOf(t, "[keeper]\nnotify = [\"/usr/bin/true\"]")
	for _, r := range []landlock.Rules{plain, hooked} {
		for _, p := range []landlock.Path{
			{Path: "/", Access: landlock.Read}, {Path: "/etc", Access: landlock.Read}, {Path: "/etc/shadow", Access: landlock.Read},
			{Path: "/etc/ssl/private", Access: landlock.Read}, {Path: "/etc/ssh", Access: landlock.Read}, {Path: "/root", Access: landlock.Read},
			{Path: "/home", Access: landlock.Read}, {Path: "/var/log", Access: landlock.Read}, {Path: "/tmp", Access: landlock.Write},
			{Path: "/usr", Access: landlock.Write}, {Path: "/run", Access: landlock.Sockets}, {Path: "/etc/waxseal", Access: landlock.Write},
			{Path: "/proc", Access: landlock.Write}, {Path: "/var/lib/waxseal", Access: landlock.Read}, {Path: "/var/lib/waxseal/keys", Access: landlock.Execute},
		} {
			if r.Covers(p) {
				t.Errorf("%s to %s is left", p.Access, p.Path)
			}
		}
	}
	shell := landlock.Path{Path: "/bin/sh", Access: landlock.Execute}
	if plain.Covers(shell) || !hooked.Covers(shell) {
		t.Error("programs can be run without a command in the configuration, or not with one")
	}
}

func TestTheServiceManagerMayListenAtAnAbstractSocket(t *testing.T) {
	for socket, want := range map[string]bool{"": false, "/run/systemd/notify": false, "@notify": true} {
		t.Setenv("NOTIFY_SOCKET", socket)
		if r, _ := rulesOf(t, ""); r.Abstract != want {
			t.Errorf("NOTIFY_SOCKET=%s: abstract sockets %t, want %t", socket, r.Abstract, want)
		}
	}
}

func TestTheConfigurationFileMayBeReplaced(t *testing.T) {
	dir := mustReal(t, t.TempDir())
	must(t, os.MkdirAll(filepath.Join(dir, "etc"), 0o755))
	must(t, os.MkdirAll(filepath.Join(dir, "versions/1"), 0o755))
	file := filepath.Join(dir, "versions/1/waxseal.toml")
	must(t, os.WriteFile(file, nil, 0o644))
	must(t, os.Symlink("../versions/1", filepath.Join(dir, "etc/current")))
	d, err := decodeConfig(filepath.Join(dir, "etc/current/waxseal.toml"), "")
	must(t, err)
	r := confineRules(d, "/usr/bin/waxseal")
	for path, want := range map[string]bool{"etc/x": true, "versions/1/x": true, "versions/2/x": false, "x": false} {
		if got := r.Covers(landlock.Path{Path: filepath.Join(dir, path), Access: landlock.Read}); got != want {
			t.Errorf("%s can be read: %t, want %t", path, got, want)
		}
	}
}

func TestAReloadThatNeedsMoreIsRefused(t *testing.T) {
	dir := mustReal(t, t.TempDir())
	const publish = "[publish.corp]\nzones = [\"example.com\"]\n"
	for _, test := range []struct {
		name, before, after string
		want                []string
	}{
		{"nothing new", "", "", nil},
		{"rules of mail", "", "[origin]\nnetworks = [\"192.0.2.0/24\"]", nil},
		{"what needs a restart by itself", "", "[keystore]\nurl = \"/srv/keys\"\n[listen.a]\naddress = \"inet:127.0.0.1:99\"\n[metrics]\naddress = \"inet:127.0.0.1:9891\"\n[confine]\nread = [\"/srv\"]", nil},
		{"a key file elsewhere", "", publish + "tsig_key = \"" + dir + "/a.key\"", []string{"publish.corp.tsig_key"}},
		{"a key file beside another", publish + "tsig_key = \"" + dir + "/a.key\"", publish + "tsig_key = \"" + dir + "/b.key\"", nil},
		{"a server at another port", "", publish + "server = \"ns.example.com:5300\"", []string{"publish.corp.server"}},
		{"a resolver at another port", "", "[dns]\nresolvers = [\"127.0.0.1:5300\"]", []string{"dns.resolvers"}},
		{"a resolver at port 53", "", "[dns]\nresolvers = [\"127.0.0.1\"]", nil},
		{"the first keeper", "[keeper]\nenabled = false", "[keeper]\nenabled = true", []string{"keeper.enabled"}},
		{"no keeper any more", "", "[keeper]\nenabled = false", nil},
		{"the first command", "", publish + "command = [\"/bin/true\"]", []string{"publish.corp.command"}},
		{"another command", publish + "command = [\"/bin/true\"]", publish + "command = [\"/bin/false\"]\n[keeper]\nnotify = [\"/bin/sh\"]", nil},
		{"no command any more", publish + "command = [\"/bin/true\"]", "", nil},
		{"retired keys are published", "", "[keeper]\npublish_retired_keys = \"" + dir + "\"", []string{"keeper.publish_retired_keys"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			have, _ := rulesOf(t, test.before)
			d, err := decodeConfig("/etc/waxseal/waxseal.toml", test.after)
			must(t, err)
			var got []string
			for _, p := range beyond(&have, d, "/usr/bin/waxseal") {
				got = append(got, p.key)
				if p.line == 0 && p.key != "keeper.enabled" || p.remedy == "" {
					t.Errorf("no line or no remedy: %+v", p)
				}
			}
			slices.Sort(got)
			if !slices.Equal(slices.Compact(got), test.want) {
				t.Errorf("from\n%s\nto\n%s\nis refused for %q, want %q", test.before, test.after, got, test.want)
			}
		})
	}
}

func TestADaemonThatHasToBeConfinedSaysWhyItIsNot(t *testing.T) {
	for _, test := range []struct {
		mode   string
		c      confinement
		logged string
		fails  string
	}{
		{"auto", confinement{PID: 1, ABI: 7}, `level=INFO msg="confined by Landlock" abi=7`, ""},
		{"auto", confinement{why: "because"}, `level=INFO msg="not confined" why=because`, ""},
		{"auto", confinement{why: "because", wanted: true}, `level=WARN msg="not confined" why=because`, ""},
		{"require", confinement{PID: 1, ABI: 7}, `msg="confined by Landlock"`, ""},
		{"require", confinement{why: "because"}, "", "because"},
	} {
		d, err := decodeConfig("waxseal.toml", "[confine]\nlandlock = \""+test.mode+"\"")
		must(t, err)
		var log bytes.Buffer
		err = test.c.tell(d, slog.New(slog.NewTextHandler(&log, nil)))
		if !strings.Contains(log.String(), test.logged) || test.logged == "" && log.Len() > 0 {
			t.Errorf("%s, %+v: logged %q, want %q", test.mode, test.c, log.String(), test.logged)
		}
		if (err != nil) != (test.fails != "") || err != nil && !strings.Contains(err.Error(), test.fails) {
			t.Errorf("%s, %+v: error %v, want %q", test.mode, test.c, err, test.fails)
		}
	}
}

func TestALeftOverConfinementIsNotBelieved(t *testing.T) {
	for _, text := range []string{"", "yes", `{"PID":1,"ABI":7}`, `{"PID":"x"}`, `{"PID":1,"Rules":{"paths":[{"path":"/","access":"fly"}]}}`} {
		if c := parseConfinement(text); c.PID == os.Getpid() {
			t.Errorf("%q is believed: %+v", text, c)
		}
	}
}

func TestConfineSettingsAreChecked(t *testing.T) {
	c := newCLI(t)
	c.ok("", "key import example.com s ../../testdata/keys/rsa-2048.pem")
	c.config = "[confine]\nlandlock = \"maybe\"\n"
	c.fails("", "check", exitFailed)
	if out := c.run("", "check").stdout; !strings.Contains(out, `"maybe": want "auto", "require" or "off"`) {
		t.Errorf("check printed\n%s", out)
	}
	c.config = "[confine]\nread = [\"keys\"]\nwrite = [\"/nowhere/at/all\"]\n"
	if out := c.run("", "check").stdout; !strings.Contains(out, `confine.read: "keys" is no absolute path`) || !strings.Contains(out, "confine.write: stat /nowhere/at/all") {
		t.Errorf("check printed\n%s", out)
	}
	c.config = "[confine]\nlandlock = \"off\"\n"
	if out := c.run("", "check").stdout; !strings.Contains(out, "the daemon will not confine itself: confine.landlock is off") {
		t.Errorf("check printed\n%s", out)
	}
}

func TestCheckTellsWhatWillBeAllowed(t *testing.T) {
	var b bytes.Buffer
	r := &confinementReport{ABI: 7, Rules: &landlock.Rules{
		Paths: []landlock.Path{
			{Path: "/a", Access: landlock.Read, For: "libraries"}, {Path: "/b", Access: landlock.Read, For: "libraries"}, {Path: "/a", Access: landlock.Read, For: "libraries"},
			{Path: "/keys", Access: landlock.Read | landlock.Write, For: "keystore.url"}, {Path: "/run/waxseal", Access: landlock.Sockets, For: "listen.milter.address"},
		},
		Bind: []landlock.Port{{Port: 8891, For: "listen.tcp.address"}}, Connect: []landlock.Port{{Port: 53, For: "DNS"}},
	}}
	r.print(&b)
	const want = `the daemon will confine itself by Landlock (ABI 7), to:
  read /a, /b  (libraries)
  read and change /keys  (keystore.url)
  make sockets and remove files in /run/waxseal  (listen.milter.address)
  listen on TCP port 8891  (listen.tcp.address)
  connect to TCP port 53  (DNS)
`
	if b.String() != want {
		t.Errorf("printed\n%s", b.String())
	}
	r.ABI, r.Rules.AnyConnect = 3, true
	b.Reset()
	if r.print(&b); !strings.Contains(b.String(), "use any TCP port  (this kernel cannot restrict them)") {
		t.Errorf("for a kernel without rules for TCP, printed\n%s", b.String())
	}
}

func TestCheckWarnsOfLinksOutOfTheKeystore(t *testing.T) {
	if _, err := landlock.ABI(); err != nil {
		t.Skip(err)
	}
	c := newCLI(t)
	c.ok("", "key import example.com s ../../testdata/keys/rsa-2048.pem")
	key, dir := filepath.Join(c.store, "example.com", "s.pem"), mustReal(t, t.TempDir())
	must(t, os.Rename(key, filepath.Join(dir, "key")))
	must(t, os.Symlink(filepath.Join(dir, "key"), key))
	warning := "warning: " + key + " leads to " + dir + "/key"
	if out := c.ok("", "check"); !strings.Contains(out, warning) || !strings.Contains(out, fmt.Sprintf("[confine] read = [%q]", dir)) {
		t.Errorf("check printed\n%s", out)
	}
	c.config = fmt.Sprintf("[confine]\nread = [%q]\n", dir)
	if out := c.ok("", "check"); strings.Contains(out, " leads to ") {
		t.Errorf("check printed\n%s", out)
	}
}
