package e2e

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"waxseal/cmd/waxseal/internal/landlock"
	"waxseal/keystore/dns/dnstest"
)

// kernelConfines needs a kernel with Landlock.
func kernelConfines() error {
	_, err := landlock.ABI()
	return err
}

// burglar is a hook that does its work, which is to leave the record where it may
// write, and tries what nobody who took over the daemon should be able to do. It
// lists what it could do after all.
const burglar = `#!/bin/sh
try() { what=$1; shift; if ("$@") >/dev/null 2>&1; then echo "$what" >>DIR/out/loot; fi; }
try "read /etc/shadow" cat /etc/shadow
try "read a file beside the keystore" cat DIR/secret
try "list a directory" ls DIR
try "write a file" touch DIR/stolen
try "write beside the keystore" mkdir DIR/keys2
try "change the configuration" sh -c 'echo >>DIR/etc/waxseal.toml'
try "change the hook" sh -c 'echo >>DIR/hooks/publish.sh'
try "leave a file beside the socket" touch DIR/run/file
try "signal the test" kill -0 TEST
try "read the memory of the test" head -c 1 /proc/TEST/mem
try "allowed: read the configuration" cat DIR/etc/waxseal.toml
cat >DIR/out/$WAXSEAL_ACTION.new && mv DIR/out/$WAXSEAL_ACTION.new DIR/out/$WAXSEAL_ACTION.$WAXSEAL_NAME
`

// TestAConfinedDaemonDoesAllItsWork has a daemon sign mail of a real Postfix,
// take changes of its file, and take a key that is made meanwhile from its record
// to its first signature; all of it while the daemon, and so its hook, is shut out
// of the rest of the machine.
func TestAConfinedDaemonDoesAllItsWork(t *testing.T) {
	require(t, postfixNeeds...)
	require(t, dkimpyInstalled, kernelConfines)
	t.Parallel()
	dir := shortDir(t)
	at := func(name string) string { return filepath.Join(dir, name) }
	for _, name := range []string{"etc", "hooks", "out", "retired"} {
		if err := os.Mkdir(at(name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	writeFile(t, at("secret"), "secret", 0o644)
	writeFile(t, at("hooks/publish.sh"), strings.NewReplacer("DIR", dir, "TEST", fmt.Sprint(os.Getpid())).Replace(burglar), 0o755)
	keys := newKeystore(t, dir, "example.com", "linked.example")

	// One key has moved out of the keystore, and a link leads there.
	files, err := filepath.Glob(filepath.Join(keys.dir, "linked.example", "*.pem"))
	if err != nil || len(files) != 2 {
		t.Fatalf("%v %v", files, err)
	}
	for i, file := range files {
		moved := at(fmt.Sprintf("moved%d.pem", i))
		if err := os.Rename(file, moved); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(moved, file); err != nil {
			t.Fatal(err)
		}
	}

	authority, resolver := dnstest.Address(t, 53), dnstest.Address(t, 0)
	servers := []*dnstest.Server{
		dnstest.Serve(t, dnstest.ServerOptions{Addr: authority}),
		dnstest.Serve(t, dnstest.ServerOptions{Addr: resolver, Recursion: true}),
	}
	zone := func(records string) {
		for _, s := range servers {
			s.Zone(t, "example.org", fmt.Sprintf("@ 1 SOA ns hostmaster 1 300 60 3600 1\n@ 1 NS ns\nns 1 A %s\n%s", authority.Addr(), records))
		}
	}
	zone("")

	unix := "unix:" + at("run/milter.sock")
	metrics := loopback(freePort(t))
	text := func(more string) string {
		return fmt.Sprintf(`
[keystore]
url = "dir:%s"
[listen.milter]
address = %q
[metrics]
address = "inet:%s"
[dns]
resolvers = [%q]
timeout = "1s"
[publish.hook]
zones = ["example.org"]
command = ["%s"]
ttl = "1s"
timeout = "20s"
[confine]
landlock = "require"
write = [%q]
[keeper]
interval = "1s"
%s`, keys.dir, unix, metrics, resolver, at("hooks/publish.sh"), at("out"), more)
	}
	config := writeFile(t, at("etc/waxseal.toml"), text(""), 0o644)
	if out := command(t, "check", "--config", config); strings.Count(out, " leads to ") != 2 || !strings.Contains(out, "make sockets and remove files in "+at("run")) {
		t.Errorf("check does not tell of the links, or of the socket:\n%s", out)
	}
	d := serve(t, daemonOptions{}, "--config", config)
	if d.said("confined by Landlock") != 1 || strings.Count(d.log.String(), "msg=started") != 1 {
		t.Error("the daemon does not say that it is confined")
	}
	if name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", d.Process.Pid)); err != nil || !strings.HasPrefix(string(name), "waxseal") {
		t.Errorf("ps calls the daemon %q: %v", name, err)
	}
	if r, err := http.Get("http://" + metrics + "/metrics"); err != nil || r.StatusCode != http.StatusOK {
		t.Errorf("metrics: %v %v", r, err)
	} else {
		r.Body.Close()
	}

	p := startPostfix(t, fmt.Sprintf("smtpd_milters = %s\n", unix), service{"smtp", nil})
	box := p.box()
	if err := smtp(t, p.address("smtp")).send(envelope{from: "ann@example.com", to: []string{box}}, plain("Ann <ann@example.com>", "confined")); err != nil {
		t.Fatal(err)
	}
	checkSigned(t, keys, p.one(t, box), "example.com")

	// A key is made outside, seen, published, activated, and signs.
	selector := keys.newKey(t, "example.org", "ed25519")
	name := selector + "._domainkey.example.org"
	published := at("out/publish." + name)
	eventually(t, "the hook has been run", func() bool { _, err := os.Stat(published); return err == nil })
	record, err := os.ReadFile(published)
	if err != nil {
		t.Fatal(err)
	}
	zone(string(record))
	eventually(t, "the keeper lets the key sign", func() bool { return matches(d.log.String(), `step=activate domain=example\.org`) })
	eventually(t, "the new key signs", func() bool {
		return strings.Contains(judge(t, unix, facts{}, by("ann@example.org"), "Hello.\r\n").top, "s="+selector)
	})
	loot, err := os.ReadFile(at("out/loot"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(loot)) {
		if !strings.HasPrefix(line, "allowed: ") {
			t.Errorf("a hook could %s", line)
		}
	}
	if !strings.Contains(string(loot), "allowed: ") {
		t.Errorf("the hook could not do what it may: %q", loot)
	}

	// What lies outside is outside for the daemon itself, too, and its log says so.
	if got := judge(t, unix, facts{}, by("ann@linked.example"), "Hello.\r\n"); got.top != "" || !strings.HasPrefix(got.reply, "451 ") {
		t.Errorf("a key that a link leads to: %v, want none and a reply 451", got)
	}
	eventually(t, "the log says why", func() bool {
		return matches(d.log.String(), `cause=key_unusable .*leads to .*moved0\.pem, which is not readable .*\[confine\] read.* author=linked\.example`)
	})

	// Editors replace a file; the daemon sees the new one.
	replace := func(text string) {
		if err := os.Rename(writeFile(t, config+"~", text, 0o644), config); err != nil {
			t.Fatal(err)
		}
	}
	replace(text("grace = \"8d\"\n"))
	eventually(t, "a changed file is taken", func() bool { return d.said("reloaded") == 1 })
	replace(text(fmt.Sprintf("publish_retired_keys = %q\n", at("retired"))))
	eventually(t, "a file that needs more is refused", func() bool {
		return matches(d.log.String(), `level=ERROR msg=reload .*keeper\.publish_retired_keys: needs what the daemon has shut itself out of.* hint="restart the daemon"`)
	})
	checkSigns(t, keys, unix, "example.com")
	d.stop(t)
	if _, err := os.Lstat(at("run/milter.sock")); err == nil {
		t.Error("the socket is still there")
	}

	// The restart has what the reload had not; without confinement, the link leads somewhere.
	replace(strings.Replace(text(fmt.Sprintf("publish_retired_keys = %q\n", at("retired"))), `"require"`, `"off"`, 1))
	d = serve(t, daemonOptions{}, "--config", config)
	if !matches(d.log.String(), `level=INFO msg="not confined" why="confine\.landlock is off"`) {
		t.Error("the daemon does not say that it is not confined")
	}
	checkSigns(t, keys, unix, "linked.example")
}

// TestConfinementKeepsWhatSystemdGave starts the daemon as a unit of
// Type=notify-reload with a watchdog and a socket does: process id, descriptor and
// notification socket, an abstract one as in containers too, stay good for the
// program that the process becomes.
func TestConfinementKeepsWhatSystemdGave(t *testing.T) {
	require(t, kernelConfines)
	for _, kind := range []string{"path", "abstract"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			dir := shortDir(t)
			keys := newKeystore(t, dir, "example.com")
			name := filepath.Join(dir, "notify")
			if kind == "abstract" {
				name = "@" + name
			}
			manager, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
			if err != nil {
				t.Fatal(err)
			}
			defer manager.Close()
			path := filepath.Join(dir, "milter.sock")
			file := listenOn(t, path)
			o := underSystemd(file, "milter")
			handOver := o.prepare
			o.prepare = func(c *exec.Cmd) {
				handOver(c)
				c.Args[2] = "WATCHDOG_PID=$$ " + c.Args[2]
				c.Env = append(c.Env, "WATCHDOG_USEC=200000", "NOTIFY_SOCKET="+name,
					`WAXSEAL_CONFINED={"PID":1,"ABI":99}`) // left over from whom it is no business of
			}
			d := serve(t, o, "--keystore", keys.dir)
			if !matches(d.log.String(), `msg="confined by Landlock" abi=\d `) {
				t.Error("the daemon does not say that it is confined")
			}
			checkSigns(t, keys, "unix:"+path, "example.com")
			seen := map[string]bool{}
			_ = manager.SetReadDeadline(time.Now().Add(patience))
			for b := make([]byte, 4096); !seen["READY=1"] || !seen["WATCHDOG=1"]; {
				n, err := manager.Read(b)
				if err != nil {
					t.Fatalf("told so far %v: %v", seen, err)
				}
				state, _, _ := strings.Cut(string(b[:n]), "\n")
				seen[state] = true
			}
		})
	}
}

// TestAConfigurationThatCanBeReadButOnce is one that comes from a pipe of the
// shell. The daemon cannot begin again with it.
func TestAConfigurationThatCanBeReadButOnce(t *testing.T) {
	require(t, kernelConfines)
	t.Parallel()
	dir := shortDir(t)
	keys := newKeystore(t, dir, "example.com")
	text := fmt.Sprintf("[keystore]\nurl = \"dir:%s\"\n[listen.milter]\naddress = \"unix:%s\"\n", keys.dir, filepath.Join(dir, "s"))
	piped := func(text string) daemonOptions {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { r.Close() })
		if _, err := w.WriteString(text); err != nil {
			t.Fatal(err)
		}
		w.Close()
		return daemonOptions{prepare: func(c *exec.Cmd) { c.ExtraFiles = []*os.File{r} }}
	}
	d := serve(t, piped(text), "--config", "/dev/fd/3")
	if !matches(d.log.String(), `level=WARN msg="not confined" why="/dev/fd/3 `) {
		t.Error("the daemon does not say that it is not confined")
	}
	checkSigns(t, keys, "unix:"+filepath.Join(dir, "s"), "example.com")
	d.stop(t)

	d = launch(t, piped(text+"[confine]\nlandlock = \"require\"\n"), "--config", "/dev/fd/3")
	d.awaitExit(t)
	if log := d.log.String(); d.ProcessState.ExitCode() != 1 || !strings.Contains(log, "confine.landlock: the daemon cannot confine itself") || !strings.Contains(log, "waxseal: hint:") {
		t.Errorf("exit status %d, and it said\n%s", d.ProcessState.ExitCode(), log)
	}
}

// TestAStopIsNotLostWhenTheDaemonBegins sends SIGTERM at any moment of the start,
// also while the process becomes the confined one.
func TestAStopIsNotLostWhenTheDaemonBegins(t *testing.T) {
	require(t, kernelConfines)
	t.Parallel()
	dir := shortDir(t)
	keys := newKeystore(t, dir, "example.com")
	before := 0 // the daemon caught signals
	for i := range 25 {
		d := launch(t, daemonOptions{binary: waxseal}, "--keystore", keys.dir, "--listen", "unix:"+filepath.Join(dir, "s"))
		time.Sleep(time.Duration(i) * 2 * time.Millisecond)
		d.signal(t, syscall.SIGTERM)
		select {
		case <-d.exited:
		case <-time.After(patience):
			t.Fatalf("SIGTERM %d ms after the start did not stop the daemon", 2*i)
		}
		switch code := d.ProcessState.ExitCode(); {
		case code == -1: // by the signal
			before++
		case code != 0 || d.said("stopped") != 1:
			t.Errorf("SIGTERM %d ms after the start: exit status %d, and it said\n%s", 2*i, code, d.log.String())
		}
	}
	t.Logf("%d of 25 ended before they caught signals", before)
}
