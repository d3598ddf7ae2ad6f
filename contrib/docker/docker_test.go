// Package docker tests the image's recipe as far as that goes without Docker:
// what it copies is there, what it builds is static and takes its configuration,
// and nothing in it runs as root or is open to the world.
package docker

import (
	"debug/elf"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

func read(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// instructions returns the lines of the Dockerfile, as name and rest.
func instructions(t *testing.T) [][2]string {
	var all [][2]string
	for line := range strings.Lines(read(t, "Dockerfile")) {
		if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
			name, rest, _ := strings.Cut(line, " ")
			all = append(all, [2]string{name, rest})
		}
	}
	return all
}

func TestTheImageIsMadeWithCare(t *testing.T) {
	last := map[string]string{} // of the last stage
	for _, i := range instructions(t) {
		name, rest := i[0], i[1]
		switch name {
		case "FROM":
			last = map[string]string{}
			if image := strings.Fields(rest)[0]; !regexp.MustCompile(`:\d`).MatchString(image) {
				t.Errorf("FROM %s: no version", image)
			}
		case "COPY":
			if words := strings.Fields(rest); !strings.HasPrefix(rest, "--from") {
				for _, source := range words[:len(words)-1] {
					if _, err := os.Stat(filepath.Join("../..", source)); err != nil {
						t.Errorf("COPY: %v", err)
					}
				}
			}
		case "ENTRYPOINT", "CMD":
			if !json.Valid([]byte(rest)) {
				t.Errorf("%s %s: a shell would stand between", name, rest)
			}
		}
		last[name] = rest
	}
	if !regexp.MustCompile(`^[1-9]\d*:[1-9]\d*$`).MatchString(last["USER"]) {
		t.Errorf("USER %s: want numbers, and not root's", last["USER"])
	}
	config := read(t, "waxseal.toml")
	if !strings.Contains(config, ":"+last["EXPOSE"]+`"`) {
		t.Errorf("EXPOSE %s is not where it listens", last["EXPOSE"])
	}
	metrics := regexp.MustCompile(`inet:(127\.0\.0\.1:\d+)`).FindStringSubmatch(config)[1]
	if !strings.Contains(last["HEALTHCHECK"], "http://"+metrics+"/readyz") {
		t.Errorf("HEALTHCHECK %s does not ask %s", last["HEALTHCHECK"], metrics)
	}
}

// TestTheProgramIsStatic builds it as the Dockerfile does, and checks the
// configurations with it.
func TestTheProgramIsStatic(t *testing.T) {
	program := filepath.Join(t.TempDir(), "waxseal")
	built := false
	for _, i := range instructions(t) {
		if i[0] == "RUN" && strings.Contains(i[1], "go build") {
			c := exec.Command("sh", "-c", strings.Replace(i[1], "/out/waxseal", program, 1))
			c.Dir = "../.."
			if out, err := c.CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			built = true
		}
	}
	if !built {
		t.Fatal("no go build")
	}
	file, err := elf.Open(program)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for _, p := range file.Progs {
		if p.Type == elf.PT_INTERP {
			t.Error("the program is not static")
		}
	}
	secret := filepath.Join(t.TempDir(), "tsig")
	if err := os.WriteFile(secret, []byte("key \"waxseal\" {\n\talgorithm hmac-sha256;\n\tsecret \"MTIzNDU2Nzg5MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTI=\";\n};\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"waxseal.toml", "waxseal.example.toml"} {
		config := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(config, []byte(strings.ReplaceAll(read(t, name), "/run/secrets/tsig", secret)), 0o644); err != nil {
			t.Fatal(err)
		}
		keys := t.TempDir()
		if out, err := exec.Command(program, "check", "--config", config, "--keystore", keys).CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
	}
}

// TestComposeFileHoldsTogether reads compose.yaml, and has Docker read it where
// that is.
func TestComposeFileHoldsTogether(t *testing.T) {
	if exec.Command("docker", "compose", "version").Run() == nil {
		if out, err := exec.Command("docker", "compose", "-f", "compose.yaml", "config", "-q").CombinedOutput(); err != nil {
			t.Errorf("docker compose config: %v\n%s", err, out)
		}
	}
	out, err := exec.Command("python3", "-c", "import json, sys, yaml; json.dump(yaml.safe_load(open('compose.yaml')), sys.stdout)").Output()
	if err != nil && os.Getenv("WAXSEAL_E2E") == "required" {
		t.Fatalf("python3-yaml: %v, and WAXSEAL_E2E=required", err)
	} else if err != nil {
		t.Skipf("no python3-yaml: %v", err)
	}
	var compose struct {
		Services map[string]struct {
			Build struct{ Context, Dockerfile string }

			ReadOnly bool     `json:"read_only"`
			CapDrop  []string `json:"cap_drop"`

			Networks, Volumes, Secrets, Ports []string
		}
		Networks map[string]struct{ Internal bool }
		Volumes  map[string]any
		Secrets  map[string]struct{ File string }
	}
	if err := json.Unmarshal(out, &compose); err != nil {
		t.Fatal(err)
	}
	s, ok := compose.Services["waxseal"]
	if !ok {
		t.Fatal("no service waxseal")
	}
	if _, err := os.Stat(filepath.Join(s.Build.Context, s.Build.Dockerfile)); err != nil {
		t.Error(err)
	}
	if !s.ReadOnly || len(s.CapDrop) != 1 || s.CapDrop[0] != "ALL" || len(s.Ports) != 0 || !compose.Networks["milter"].Internal {
		t.Errorf("the service is more open than it need be: %+v", s)
	}
	config := ""
	for _, volume := range s.Volumes {
		source, rest, _ := strings.Cut(volume, ":")
		if strings.HasPrefix(source, ".") {
			config = source
			if rest != "/etc/waxseal/waxseal.toml:ro" {
				t.Errorf("volume %s", volume)
			}
		} else if _, ok := compose.Volumes[source]; !ok {
			t.Errorf("volume %s is not declared", source)
		}
	}
	for _, secret := range s.Secrets {
		if _, ok := compose.Secrets[secret]; !ok || !strings.Contains(read(t, config), `"/run/secrets/`+secret+`"`) {
			t.Errorf("secret %s is not declared, or not used by %s", secret, config)
		}
	}
	if len(s.Secrets) == 0 {
		t.Error("no secret")
	}
}
