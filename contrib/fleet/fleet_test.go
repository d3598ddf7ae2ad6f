// Package fleet tests the example of three mail servers on one database as far as
// that goes without Docker: its parts fit together, and its database, users,
// commands and configurations do what the README says of them, with a real
// PostgreSQL.
package fleet

import (
	"encoding/json"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"waxseal/keystore/sqlstore/sqltest"
)

func read(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// need skips the test when something is missing, and fails it when
// WAXSEAL_E2E=required says that nothing is.
func need(t *testing.T, what string, err error) {
	t.Helper()
	if err != nil && os.Getenv("WAXSEAL_E2E") == "required" {
		t.Fatalf("%s: %v, and WAXSEAL_E2E=required", what, err)
	} else if err != nil {
		t.Skipf("no %s: %v", what, err)
	}
}

// service is one of compose.yaml.
type service struct {
	Build struct{ Context, Dockerfile string }

	Image, Hostname, Restart string
	ReadOnly                 bool     `json:"read_only"`
	CapDrop                  []string `json:"cap_drop"`
	SecurityOpt              []string `json:"security_opt"`
	Volumes, Secrets, Ports  []string
	Command                  []string
	Environment              map[string]string
	Networks                 json.RawMessage                       // names, or names with settings
	DependsOn                map[string]struct{ Condition string } `json:"depends_on"`
	Healthcheck              struct{ Test []string }
}

// networks are the names of the service's networks.
func (s service) networks(t *testing.T) []string {
	var names []string
	var settings map[string]any
	if json.Unmarshal(s.Networks, &names) != nil {
		if err := json.Unmarshal(s.Networks, &settings); err != nil {
			t.Fatal(err)
		}
	}
	for name := range settings {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

type compose struct {
	Services map[string]service
	Networks map[string]struct {
		Internal bool
		IPAM     struct{ Config []struct{ Subnet string } }
	}
	Volumes map[string]any
	Secrets map[string]struct{ File string }
}

func readCompose(t *testing.T) (c compose) {
	t.Helper()
	out, err := exec.Command("python3", "-c", "import json, sys, yaml; json.dump(yaml.safe_load(open('compose.yaml')), sys.stdout)").Output()
	need(t, "python3-yaml", err)
	if err := json.Unmarshal(out, &c); err != nil {
		t.Fatal(err)
	}
	return c
}

func TestComposeFileHoldsTogether(t *testing.T) {
	if exec.Command("docker", "compose", "version").Run() == nil {
		if out, err := exec.Command("docker", "compose", "-f", "compose.yaml", "config", "-q").CombinedOutput(); err != nil {
			t.Errorf("docker compose config: %v\n%s", err, out)
		}
	}
	c := readCompose(t)
	on := map[string][]string{} // network → services
	used := map[string]bool{}
	for name, s := range c.Services {
		for _, n := range s.networks(t) {
			if _, ok := c.Networks[n]; !ok {
				t.Errorf("%s: network %s is not declared", name, n)
			}
			on[n] = append(on[n], name)
		}
		config := ""
		for _, v := range s.Volumes {
			source, at, _ := strings.Cut(v, ":")
			if !strings.HasPrefix(source, ".") {
				if _, ok := c.Volumes[source]; !ok || used[source] {
					t.Errorf("%s: volume %s is not declared, or another's, too", name, source)
				}
				used[source] = true
			} else if _, err := os.Stat(source); err != nil || !strings.HasSuffix(at, ":ro") {
				t.Errorf("%s: volume %s: %v", name, v, err)
			} else {
				config += read(t, source)
			}
		}
		for _, secret := range s.Secrets {
			if _, ok := c.Secrets[secret]; !ok || !strings.Contains(config+strings.Join(s.Command, " ")+s.Environment["POSTGRES_PASSWORD_FILE"], "/run/secrets/"+secret) {
				t.Errorf("%s: secret %s is not declared, or not used", name, secret)
			}
			used[secret] = true
		}
		for _, m := range regexp.MustCompile(`/run/secrets/(\w+)`).FindAllStringSubmatch(config, -1) {
			if !slices.Contains(s.Secrets, m[1]) {
				t.Errorf("%s: its files want the secret %s", name, m[1])
			}
		}
		for other, on := range s.DependsOn {
			o, ok := c.Services[other]
			if !ok || on.Condition == "service_completed_successfully" && o.Restart != "no" || on.Condition == "service_healthy" && len(o.Healthcheck.Test) == 0 {
				t.Errorf("%s: waits for %s in vain", name, other)
			}
		}
		if s.Build.Dockerfile != "" {
			if _, err := os.Stat(filepath.Join(s.Build.Context, s.Build.Dockerfile)); err != nil {
				t.Error(err)
			}
		}
		if s.Image == "waxseal" && (!s.ReadOnly || !slices.Equal(s.CapDrop, []string{"ALL"}) || !slices.Equal(s.SecurityOpt, []string{"no-new-privileges:true"})) {
			t.Errorf("%s is more open than it need be", name)
		}
		if len(s.Ports) > 0 {
			t.Errorf("%s: ports %v are open to the world", name, s.Ports)
		}
	}
	for name := range c.Secrets {
		if !used[name] {
			t.Errorf("secret %s is nobody's", name)
		}
	}

	// Three pairs, each on a network of its own, and all signers on the database's.
	for i := range 3 {
		n := strconv.Itoa(i + 1)
		slices.Sort(on["milter"+n])
		if want := []string{"mx" + n, "waxseal" + n}; !slices.Equal(on["milter"+n], want) || !c.Networks["milter"+n].Internal {
			t.Errorf("network milter%s has %v, want %v, and no way out", n, on["milter"+n], want)
		}
		if got := c.Services["waxseal"+n]; !slices.Equal(got.networks(t), []string{"database", "milter" + n}) || got.Hostname != "waxseal"+n {
			t.Errorf("waxseal%s: %+v", n, got)
		}
	}
	slices.Sort(on["database"])
	if want := []string{"db", "grants", "keeper", "migrate", "waxseal1", "waxseal2", "waxseal3"}; !slices.Equal(on["database"], want) || !c.Networks["database"].Internal {
		t.Errorf("the network of the database has %v, want %v, and no way out", on["database"], want)
	}

	// Whose mail it is, is said in three places.
	apps := c.Networks["apps"].IPAM.Config[0].Subnet
	if !strings.Contains(read(t, "main.cf"), "mynetworks = 127.0.0.0/8 [::1]/128 "+apps+"\n") || !strings.Contains(read(t, "sign.toml"), `networks = ["127.0.0.0/8", "::1/128", "`+apps+`"]`) {
		t.Errorf("main.cf or sign.toml do not name the network %s", apps)
	}
}

// TestPostfixTakesItsConfiguration has Postfix read it, and wants no complaint.
func TestPostfixTakesItsConfiguration(t *testing.T) {
	_, err := exec.LookPath("postconf")
	need(t, "Postfix", err)
	dir := t.TempDir()
	for name, text := range map[string]string{"main.cf": read(t, "main.cf"), "master.cf": "smtp inet n - n - - smtpd\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := exec.Command("sh", "-c", "postconf -c '"+dir+"' -n 2>&1 >/dev/null").CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("postconf: %v\n%s", err, out)
	}
}

// begun is the example without its containers: a PostgreSQL, the secrets, and
// the program.
type begun struct {
	t       *testing.T
	dir     string
	program string
	server  *sqltest.Server
}

// text is a text of the example as it is true here.
func (b *begun) text(s string) string {
	host, port, _ := net.SplitHostPort(b.server.Addr)
	secrets := filepath.Join(b.dir, "secrets")
	return strings.NewReplacer(
		"@db/", "@"+b.server.Addr+"/", "-h db ", "-h "+host+" -p "+port+" ", "/grants.sql", "../sql/postgresql-grants.sql",
		"/run/secrets/tsig", secrets+"/tsig.key", "/run/secrets/", secrets+"/", "$$", "$").Replace(s)
}

func (b *begun) run(c *exec.Cmd) string {
	b.t.Helper()
	out, err := c.CombinedOutput()
	if err != nil {
		b.t.Fatalf("%s: %v\n%s", strings.Join(c.Args, " "), err, out)
	}
	return string(out)
}

func (b *begun) waxseal(args ...string) *exec.Cmd {
	for i := range args {
		args[i] = b.text(args[i])
	}
	return exec.Command(b.program, args...)
}

// begin does what the README says, and the containers, up to the tables and users.
func begin(t *testing.T, c compose) *begun {
	shared := sqltest.Shared{Start: sqltest.PostgreSQL}
	b := &begun{t: t, dir: t.TempDir(), server: shared.Get(t)}
	t.Cleanup(shared.Stop)
	_, err := exec.LookPath("psql")
	need(t, "psql", err)
	b.program = filepath.Join(b.dir, "waxseal")
	b.run(exec.Command("go", "build", "-o", b.program, "waxseal/cmd/waxseal"))

	tsig := filepath.Join(b.dir, "waxseal.key")
	if err := os.WriteFile(tsig, []byte("key \"waxseal\" {\n\talgorithm hmac-sha256;\n\tsecret \"MTIzNDU2Nzg5MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTI=\";\n};\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	commands := regexp.MustCompile("(?s)```sh\n(.*?)```").FindStringSubmatch(read(t, "README.md"))[1]
	commands = regexp.MustCompile(`(?m)^docker .*\n`).ReplaceAllString(commands, "")
	commands = strings.NewReplacer("/etc/bind/waxseal.key", tsig, "chown 10025", "chown "+strconv.Itoa(os.Getuid())).Replace(commands)
	sh := exec.Command("sh", "-ec", commands)
	sh.Dir = b.dir
	b.run(sh)
	for name, s := range c.Secrets {
		if _, err := os.Stat(filepath.Join(b.dir, s.File)); err != nil {
			t.Errorf("the README does not make the secret %s: %v", name, err)
		}
	}

	// The database's image makes the database and its owner, and runs users.sh.
	owner := strings.TrimSpace(read(t, filepath.Join(b.dir, "secrets/owner_password")))
	host, port, _ := net.SplitHostPort(b.server.Addr)
	admin := append(os.Environ(), "PGHOST="+host, "PGPORT="+port, "PGPASSWORD="+strings.TrimSpace(read(t, b.server.PasswordFile)))
	environment := c.Services["db"].Environment
	if b.server.User != environment["POSTGRES_USER"] {
		t.Fatalf("the owner is %s", environment["POSTGRES_USER"])
	}
	create := exec.Command("psql", "-q", "-U", b.server.User, "-d", "postgres", "-c", "CREATE DATABASE "+environment["POSTGRES_DB"])
	create.Env = admin
	b.run(create)
	users := exec.Command("sh", "-c", b.text(read(t, "users.sh")))
	users.Env = append(admin, "POSTGRES_USER="+environment["POSTGRES_USER"], "POSTGRES_DB="+environment["POSTGRES_DB"])
	b.run(users)
	password := exec.Command("psql", "-q", "-U", b.server.User, "-d", "postgres", "-c", "ALTER ROLE "+b.server.User+" PASSWORD '"+owner+"'")
	password.Env = admin
	b.run(password)

	b.run(b.waxseal(c.Services["migrate"].Command...))
	grants := c.Services["grants"].Command
	b.run(exec.Command(grants[0], grants[1], b.text(grants[2])))
	return b
}

// TestTheExampleWorks has the keeper make a key, and the daemons' configuration
// sign with it and change nothing.
func TestTheExampleWorks(t *testing.T) {
	c := readCompose(t)
	b := begin(t, c)
	config := map[string]string{}
	for _, name := range []string{"sign.toml", "keep.toml"} {
		config[name] = filepath.Join(b.dir, name)
		if err := os.WriteFile(config[name], []byte(b.text(read(t, name))), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	var made []struct{ Selector string }
	out := b.run(b.waxseal("key", "new", "example.com", "--json", "--config", config["keep.toml"]))
	if err := json.Unmarshal([]byte(out), &made); err != nil || len(made) != 1 {
		t.Fatalf("%v: %s", err, out)
	}
	b.run(b.waxseal("key", "activate", "example.com", made[0].Selector, "--force", "--reason", "no DNS here", "--config", config["keep.toml"]))
	for _, path := range config {
		if out := b.run(b.waxseal("check", "--config", path)); !strings.Contains(out, "ok: the configuration, and the keys of all domains: 1\n") {
			t.Errorf("check:\n%s", out)
		}
	}
	sign := b.waxseal("sign", "--config", config["sign.toml"])
	sign.Stdin = strings.NewReader("From: ann@example.com\nTo: bob@example.net\nSubject: hello\nDate: Fri, 20 Nov 2026 09:30:00 +0100\nMessage-ID: <a@example.com>\n\nIt works.\n")
	if out := b.run(sign); !strings.HasPrefix(out, "DKIM-Signature: ") {
		t.Errorf("sign:\n%s", out)
	}
	if out, err := b.waxseal("key", "new", "example.com", "--config", config["sign.toml"]).CombinedOutput(); err == nil || !strings.Contains(string(out), "permission denied") {
		t.Errorf("a daemon beside a mail server can make keys: %v\n%s", err, out)
	}

	// The private half is not in the database.
	dump := exec.Command("sh", "-c", b.text("PGPASSWORD=$(cat /run/secrets/owner_password) exec psql -X -A -t -h db -U waxseal -d mail -c 'SELECT private FROM waxseal_key'"))
	if out := b.run(dump); strings.Contains(out, "PRIVATE KEY") || len(out) < 100 {
		t.Errorf("the database has %s", out)
	}
}
