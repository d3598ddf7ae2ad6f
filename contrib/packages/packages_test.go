// Package packages tests the packages as an administrator meets them: installed,
// upgraded, removed and purged. It does so in a private root: the machine's own
// files below a layer in memory that takes all changes, in a mount name space
// of its own, where no service manager runs.
package packages

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// require skips the test when a condition is not met, and fails it when
// WAXSEAL_E2E=required says that all are.
func require(t *testing.T, needs ...error) {
	t.Helper()
	for _, err := range needs {
		if err != nil && os.Getenv("WAXSEAL_E2E") == "required" {
			t.Fatalf("%v, and WAXSEAL_E2E=required", err)
		} else if err != nil {
			t.Skip(err)
		}
	}
}

func installed(program string) error {
	_, err := exec.LookPath(program)
	return err
}

// privateRoot says whether one can be made.
func privateRoot() error {
	if os.Geteuid() != 0 {
		return errors.New("not root, which a private root needs")
	}
	out, err := exec.Command("unshare", "--mount", "bash", "testdata/private-root.sh", "true").CombinedOutput()
	if err != nil {
		return errors.New("no private root: " + strings.TrimSpace(string(out)) + ": " + err.Error())
	}
	return nil
}

// made are the packages, and those of a later version.
var made struct {
	sync.Once
	directory string
	out       []byte
	err       error
}

func TestMain(m *testing.M) {
	code := m.Run()
	if made.directory != "" {
		os.RemoveAll(made.directory)
	}
	os.Exit(code)
}

// build makes the packages once for all tests, and returns their directory: they
// are in 1 below it, later versions in 2, and keys to try them with and the README beside.
func build(t *testing.T) string {
	t.Helper()
	made.Do(func() {
		// So that "go test" looks at what the packages are made of.
		_ = filepath.WalkDir("../..", func(path string, e fs.DirEntry, err error) error {
			if err == nil && e.Name() == ".git" {
				return fs.SkipDir
			}
			if err == nil && !e.IsDir() {
				_, _ = os.Stat(path)
			}
			return nil
		})
		if made.directory, made.err = os.MkdirTemp("", "waxseal-packages"); made.err != nil {
			return
		}
		for from, to := range map[string]string{"rsa-2048.pem": "rsa.pem", "ed25519.pem": "ed25519.pem"} {
			var key []byte
			if key, made.err = os.ReadFile(filepath.Join("../../testdata/keys", from)); made.err == nil {
				made.err = os.WriteFile(filepath.Join(made.directory, to), key, 0o600)
			}
			if made.err != nil {
				return
			}
		}
		var text []byte
		if text, made.err = os.ReadFile("../../README.md"); made.err == nil {
			made.err = os.WriteFile(filepath.Join(made.directory, "README.md"), text, 0o644)
		}
		if made.err != nil {
			return
		}
		for _, version := range []string{"1", "2"} {
			to := filepath.Join(made.directory, version)
			if made.err = os.Mkdir(to, 0o755); made.err != nil {
				return
			}
			c := exec.Command("./build", to, "deb", "rpm")
			c.Env = append(os.Environ(), "VERSION="+version+".0", "MAINTAINER=Test <test@example.com>")
			var out []byte
			out, made.err = c.CombinedOutput()
			made.out = append(made.out, out...)
			if made.err != nil {
				return
			}
		}
	})
	if made.err != nil {
		t.Fatalf("build: %v\n%s", made.err, made.out)
	}
	return made.directory
}

// live runs a script of testdata in a private root, with the packages in
// /packages. A line that fails ends it.
func live(t *testing.T, script string) {
	t.Helper()
	c := exec.Command("unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "bash", "testdata/private-root.sh", build(t), filepath.Join("testdata", script))
	if out, err := c.CombinedOutput(); err != nil {
		t.Errorf("%s: %v\n%s", script, err, out)
	}
}

func TestDebianPackageLives(t *testing.T) {
	t.Parallel()
	require(t, installed("dpkg"), installed("deb-systemd-helper"), installed("zsh"), installed("fish"), installed("systemd-sysusers"), installed("systemd-tmpfiles"), privateRoot())
	live(t, "debian.sh")
}

func TestRPMPackageLives(t *testing.T) {
	t.Parallel()
	require(t, installed("rpm"), installed("zsh"), installed("fish"), installed("systemd-sysusers"), installed("systemd-tmpfiles"), privateRoot())
	live(t, "redhat.sh")
}

// TestHelpExamplesRunAsWritten runs each example of each command's help.
func TestHelpExamplesRunAsWritten(t *testing.T) {
	t.Parallel()
	require(t, installed("dpkg"), installed("systemd-sysusers"), installed("systemd-tmpfiles"), privateRoot())
	live(t, "examples.sh")
}

// TestServeSaysHowToBegin follows what the daemon says where nothing is set up.
func TestServeSaysHowToBegin(t *testing.T) {
	t.Parallel()
	require(t, installed("dpkg"), installed("systemd-sysusers"), installed("systemd-tmpfiles"), privateRoot())
	live(t, "begin.sh")
}

// TestREADMEWiresPostfix configures a Postfix by following the README word for
// word, and wants signed mail from it.
func TestREADMEWiresPostfix(t *testing.T) {
	t.Parallel()
	_, noPostfix := os.Stat("/usr/share/postfix/master.cf.dist")
	noDkimpy := exec.Command("/usr/bin/python3", "-c", "import dkim, nacl").Run()
	require(t, installed("dpkg"), installed("ip"), noPostfix, noDkimpy, installed("systemd-sysusers"), installed("systemd-tmpfiles"), privateRoot())
	live(t, "readme.sh")
}

// TestLintianFindsNothing wants no error and no warning, but for those that are
// overridden with a reason.
func TestLintianFindsNothing(t *testing.T) {
	t.Parallel()
	require(t, installed("lintian"))
	packages, err := filepath.Glob(filepath.Join(build(t), "1", "*.deb"))
	if err != nil || len(packages) != 1 {
		t.Fatalf("packages %v, %v", packages, err)
	}
	args := []string{"--profile", "debian", "--fail-on", "error,warning", packages[0]}
	if os.Geteuid() == 0 {
		args = append([]string{"--allow-root"}, args...)
	}
	if out, err := exec.Command("lintian", args...).CombinedOutput(); err != nil {
		t.Errorf("lintian: %v\n%s", err, out)
	}
}
