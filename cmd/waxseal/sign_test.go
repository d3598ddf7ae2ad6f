package main

import (
	"strings"
	"testing"
)

// TestSignKnowsTheMailServerOfTheListener: what the only listener is told of its
// mail server goes for messages that are signed by hand, too.
func TestSignKnowsTheMailServerOfTheListener(t *testing.T) {
	c := newCLI(t)
	c.ok("", "key import example.com s ../../testdata/keys/rsa-2048.pem")
	c.ok("", "key activate example.com s --force --reason tested")
	message := "From: Ann <ann@example.com>\nTo: bob@example.net,carl@example.net\nDate: x\nMessage-ID: <1@example.com>\n\nhello\n"
	for _, row := range []struct {
		settings, flags string
		code            int
		say, not        string
	}{
		{`mta = "postfix"`, "", 0, "DKIM-Signature: ", "rewritten_field"},
		{`mta = "sendmail"`, "--mta Postfix", 0, "risk rewritten_field: not signed: To", ""},
		{`masquerade = ["example.com"]`, "", exitFailed, "Sendmail masquerades example.com", "DKIM-Signature"},
		{`masquerade = ["example.com"]`, "--mta Postfix", 0, "DKIM-Signature: ", "masquerades"},
	} {
		config := writeFile(t, "waxseal.toml", "[listen.relay]\naddress = \"inet:127.0.0.1:8891\"\n"+row.settings+"\n")
		for _, verb := range []string{"sign", "explain"} {
			r := c.plain(message, append(strings.Fields(verb+" "+row.flags), "--keystore", c.store, "--config", config)...)
			out := r.stdout + r.stderr
			if verb == "explain" {
				if wrong := (r.code == 0) != (row.code == 0) || row.not == "rewritten_field" && strings.Contains(out, row.not); wrong {
					t.Errorf("%s, explain %s: exit status %d\n%s", row.settings, row.flags, r.code, out)
				}
				continue
			}
			if r.code != row.code || !strings.Contains(out, row.say) || row.not != "" && strings.Contains(out, row.not) {
				t.Errorf("%s, sign %s: exit status %d, want %d, %q and not %q\n%s", row.settings, row.flags, r.code, row.code, row.say, row.not, out)
			}
		}
	}
}

// TestExplainTellsOfListenersThatDiffer: without one being named, it goes by none.
func TestExplainTellsOfListenersThatDiffer(t *testing.T) {
	c := newCLI(t)
	config := writeFile(t, "waxseal.toml", "[listen.a]\naddress = \"inet:127.0.0.1:1\"\nmta = \"sendmail\"\nmasquerade = [\"example.com\"]\n[listen.b]\naddress = \"inet:127.0.0.1:2\"\n")
	r := c.plain("", "explain", "--from", "ann@example.com", "--keystore", c.store, "--config", config)
	if !strings.Contains(r.stderr, "--listener a") || strings.Contains(r.stderr, "--listener b") {
		t.Errorf("want a hint at listener a alone:\n%s", r.stderr)
	}
}
