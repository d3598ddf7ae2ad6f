package main

import (
	"encoding/json"
	"strings"
	"testing"
)

// explainer is a command line with a keystore that signs for example.com.
func explainer(t *testing.T, config string) func(line string) (result, explanation) {
	t.Helper()
	c := newCLI(t)
	c.ok("", "key import example.com s ../../testdata/keys/rsa-2048.pem")
	c.ok("", "key activate example.com s --force --reason tested")
	path := writeFile(t, "waxseal.toml", config)
	return func(line string) (result, explanation) {
		t.Helper()
		r := c.plain("", append(strings.Fields("explain --json --from ann@example.com "+line), "--keystore", c.store, "--config", path)...)
		var e explanation
		if err := json.Unmarshal([]byte(r.stdout), &e); err != nil && r.code != exitMisuse {
			t.Fatalf("explain %s: %v\n%s%s", line, err, r.stdout, r.stderr)
		}
		return r, e
	}
}

func matched(e explanation) string {
	for _, s := range e.Steps {
		if s.Matched {
			return s.Rule
		}
	}
	return ""
}

func TestExplainKnowsEveryWayThatMailComesIn(t *testing.T) {
	explain := explainer(t, "[origin]\nmacros = [\"{auth_type}=PLAIN\"]\n")
	for line, want := range map[string]string{
		"":                                     "local submission",
		"--local":                              "local submission",
		"--daemon-name ORIGINATING":            "daemon name ORIGINATING",
		"--daemon-name ORIGINATING --local":    "local submission", // asked first
		"--daemon-name mx.example.com --local": "local submission", // Postfix's own name for itself
		"--daemon-name mx.example.com":         "",
		"--login ann@example.com --local":      "login",
		"--client 192.0.2.1":                   "",
		"--client 192.0.2.1 --macro {auth_type}=PLAIN": "macro {auth_type}",
		"--client 192.0.2.1 --macro auth_type=PLAIN":   "macro {auth_type}",
		"--client 192.0.2.1 --macro auth_type=LOGIN":   "",
	} {
		if r, e := explain(line); matched(e) != want {
			t.Errorf("explain %s: by %q, want %q\n%s%s", line, matched(e), want, r.stdout, r.stderr)
		}
	}
	for line, say := range map[string]string{
		"--local --client 127.0.0.1": "--local",
		"--macro a:b":                "--macro",
	} {
		if r, _ := explain(line); r.code != exitMisuse || !strings.Contains(r.stderr, say) {
			t.Errorf("explain %s: exit status %d\n%s", line, r.code, r.stderr)
		}
	}
}

func TestExplainGoesByTheRulesOfTheListener(t *testing.T) {
	const relay = "[listen.relay]\naddress = \"unix:/relay\"\n[listen.relay.origin]\nnetworks = [\"192.0.2.0/24\"]\n"
	const other = "[listen.mail]\naddress = \"unix:/mail\"\n"

	// No mail comes in by anything but the only listener.
	explain := explainer(t, relay)
	if _, e := explain("--client 192.0.2.1"); !e.Result.Signed {
		t.Errorf("by the only listener: %+v", e)
	}
	if _, e := explain("--login ann@example.com"); e.Result.Signed {
		t.Errorf("a rule that the only listener has not: %+v", e)
	}

	// Of several it has to be told, and says so.
	explain = explainer(t, relay+other)
	r, e := explain("--login ann@example.com")
	if !e.Result.Signed || !strings.Contains(r.stderr, "--listener relay") {
		t.Errorf("by no listener in particular: %+v\n%s", e, r.stderr)
	}
	for _, line := range []string{"--login ann@example.com --listener mail", "--client 192.0.2.1 --listener relay"} {
		if r, e := explain(line); !e.Result.Signed || r.stderr != "" {
			t.Errorf("explain %s: %+v\n%s", line, e, r.stderr)
		}
	}
	if r, _ := explain("--listener x"); r.code != exitMisuse || !strings.Contains(r.stderr, "mail, relay") {
		t.Errorf("a listener that there is not: exit status %d\n%s", r.code, r.stderr)
	}
}
