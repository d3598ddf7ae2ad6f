package main

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"

	"waxseal/cmd/waxseal/internal/mta"
	"waxseal/milter"
)

const (
	goodCF = "internal/mta/testdata/sendmail/smarthost.cf"
	goodMC = "internal/mta/testdata/sendmail/direct.mc"
)

func TestDoctorIsToldWhatToLookAt(t *testing.T) {
	c := newCLI(t)
	for _, row := range []struct {
		line string
		say  string
	}{
		{"doctor exim", "exim"},
		{"doctor sendmail --config-dir /etc/postfix", "for Postfix"},
		{"doctor postfix --cf /etc/mail/sendmail.cf", "for Sendmail"},
		{"doctor sendmail --socket nowhere", "--socket"},
		{"doctor --connect nowhere", "nowhere"},
	} {
		r := c.plain("", append(strings.Fields(row.line), "--config", writeFile(t, "empty.toml", ""))...)
		if r.code != exitMisuse || !strings.Contains(r.stderr, row.say) {
			t.Errorf("%s: exit status %d\n%s", row.line, r.code, r.stderr)
		}
	}
	r := c.plain("", "doctor", "--cf", "/nonexistent/sendmail.cf", "--socket", "unix:/nonexistent/s")
	if r.code != exitFailed || !strings.Contains(r.stderr, "hint: name Sendmail's configuration") {
		t.Errorf("exit status %d\n%s", r.code, r.stderr)
	}
}

func TestDoctorTakesTheSocketFromTheConfiguration(t *testing.T) {
	c := newCLI(t)
	config := func(text string) string { return writeFile(t, "waxseal.toml", text) }
	for _, row := range []struct{ name, config, flags, say string }{
		{"of a listener", "[listen.a]\naddress = \"local:/nonexistent/other.sock\"", "--cf " + goodCF, "listens at local:/nonexistent/other.sock"},
		{"from the flag", "[listen.a]\naddress = \"local:/nonexistent/other.sock\"", "--socket local:/nonexistent/third.sock --cf " + goodCF, "listens at local:/nonexistent/third.sock"},
		{"of two listeners", "[listen.a]\naddress = \"inet:127.0.0.1:1\"\n[listen.b]\naddress = \"inet:127.0.0.1:2\"", "--mc " + goodMC, "listens at inet:1@127.0.0.1 and inet:2@127.0.0.1"},
	} {
		r := c.plain("", append(strings.Fields("doctor sendmail "+row.flags), "--config", config(row.config))...)
		if r.code != exitFailed || !strings.Contains(r.stdout, "error: ") || !strings.Contains(r.stdout, row.say) || !strings.Contains(r.stdout, "remedy: ") {
			t.Errorf("%s: exit status %d, want %q:\n%s%s", row.name, r.code, row.say, r.stdout, r.stderr)
		}
	}
	r := c.plain("", "doctor", "--mc", goodMC, "--socket", "inet:127.0.0.1:1", "--json")
	var d diagnosis
	if err := json.Unmarshal([]byte(r.stdout), &d); err != nil || d.MTA != "sendmail" || len(d.Findings) == 0 || d.Findings[0].Name != "not_wired" {
		t.Errorf("%v: %s%s", err, r.stdout, r.stderr)
	}
}

func TestLoopbackThatIsOurs(t *testing.T) {
	for text, want := range map[string]bool{
		"":                        true,
		"[origin]\nnetworks = []": false,
		"[origin]\nnetworks = [\"192.0.2.0/24\"]":                                                      false,
		"[listen.a]\naddress = \"inet:127.0.0.1:1\"\n[listen.a.origin]\nnetworks = [\"192.0.2.0/24\"]": false,
		"[listen.a]\naddress = \"inet:127.0.0.1:1\"\n[listen.a.origin]\nall = true":                    true,
	} {
		a := &app{configFile: writeFile(t, "waxseal.toml", text)}
		setup, err := a.doctorSetup(doctorFlags{})
		if err != nil || setup.LoopbackIsOurs != want {
			t.Errorf("%q: got %v, %v, want %v", text, setup.LoopbackIsOurs, err, want)
		}
		if text == "" && (len(setup.Sockets) != 1 || setup.Sockets[0].Postfix() != defaultSocket) {
			t.Errorf("by default it listens at %v, want %s", setup.Sockets, defaultSocket)
		}
	}
}

func TestDoctorSaysWhatItCouldNotTry(t *testing.T) {
	nowhere := milter.Address{Network: "unix", Address: "/nonexistent/milter.sock"}
	err := connectByUser(context.Background(), nowhere, "nosuchuser")
	if err == nil || errors.As(err, new(*mta.Failure)) {
		t.Fatalf("an unknown user: got %v", err)
	}
	d := &diagnosis{MTA: "postfix"}
	new(app).try(context.Background(), mta.Connection{Address: nowhere, User: "nosuchuser"}, d)
	if len(d.Findings) != 2 || d.Findings[0].Name != "not_tried" || d.Findings[0].Severity != mta.Note || d.Findings[1].Name != "unreachable" {
		t.Errorf("%+v", d.Findings)
	}
}

// TestDoctorKnowsWhatTheListenerWasTold of masquerading, and recommends the rest.
func TestDoctorKnowsWhatTheListenerWasTold(t *testing.T) {
	c := newCLI(t)
	text, err := os.ReadFile(goodMC)
	if err != nil {
		t.Fatal(err)
	}
	mc := writeFile(t, "sendmail.mc", string(text)+"define(`confDOMAIN_NAME', `mx.example.com')dnl\nMASQUERADE_AS(`example.com')dnl\n")
	for _, row := range []struct{ told, say string }{
		{"", "error: sendmail.mc: DMexample.com: addresses in mx.example.com in the header become example.com after signing, which breaks the signature\n" +
			`  remedy: in waxseal.toml, for the listener: masquerade = ["mx.example.com"]; mail with such a From is not signed then`},
		{`masquerade = ["mx.example.com"]`, "note: sendmail.mc: DMexample.com: addresses in mx.example.com in the header become example.com after signing; waxseal is told so"},
	} {
		config := writeFile(t, "waxseal.toml", "[listen.a]\naddress = \"inet:127.0.0.1:8891\"\n"+row.told+"\n")
		r := c.plain("", "doctor", "--mc", mc, "--config", config)
		if !strings.Contains(r.stdout, row.say) {
			t.Errorf("told %q: want %q:\n%s%s", row.told, row.say, r.stdout, r.stderr)
		}
	}
	bad := writeFile(t, "waxseal.toml", "[listen.a]\naddress = \"inet:127.0.0.1:8891\"\nmasquerade = [\"a b\"]\n")
	if r := c.plain("", "doctor", "--mc", mc, "--config", bad); r.code == 0 || !strings.Contains(r.stderr, "waxseal check") {
		t.Errorf("settings that are wrong: exit status %d\n%s%s", r.code, r.stdout, r.stderr)
	}
}
