package main

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"waxseal/milter"
	"waxseal/milter/policy"
	"waxseal/signer"
)

func TestWrongRulesAreNamedWithTheirLine(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"a row about nothing", "[row.a]\nsign_as = \"example.com\"", "1: row.a: "},
		{"the second of two rows", "[row.a]\ndomain = \"a.example\"\n[row.b]\ndomain = \"b c\"", "3: row.b: "},
		{"a selector that is none", "[row.a]\ndomain = \"a.example\"\nselectors = [\"a b\"]", "1: row.a: "},
		{"an identity elsewhere", "[row.a]\ndomain = \"a.example\"\nidentity = \"@b.example\"", "1: row.a: "},
		{"a canonicalization of a row", "[row.a]\ndomain = \"a.example\"\ncanonicalization = \"plain\"", "3: row.a.canonicalization: "},
		{"a field of a row", "[row.a]\ndomain = \"a.example\"\nfields = [\"Received\"]", "3: row.a.fields: "},
		{"an expiry that never comes", "[row.a]\ndomain = \"a.example\"\nexpiry = \"7d\"\nnever_expires = true", "1: row.a: "},
		{"an outcome of a row", "[row.a]\ndomain = \"a.example\"\n[row.a.outcome]\nstore_down = \"reject\"", "4: row.a.outcome.store_down: "},
		{"an outcome that a row cannot change", "[row.a]\ndomain = \"a.example\"\n[row.a.outcome]\nover_limit = \"accept\"", "4: row.a.outcome.over_limit: has no effect"},
		{"what a row is about is not said twice", "[row.a]\ndomain = \"a.example\"\nselectors = [\"a b\"]", "1: row.a: selector"},
		{"nor what a grant is about", "[permission.grant.a]\nlogin = \"ann\"", "1: permission.grant.a: nothing is allowed"},
		{"nor what a listener's networks are", "[listen.x]\naddress = \"unix:/s\"\n[listen.x.origin]\nnetworks = [\"10.0.0.1/8\"]", "4: listen.x.origin.networks: network"},
		{"rows about the same are called by name", "[row.a]\ndomain = \"a.example\"\n[row.b]\ndomain = \"A.example\"", "3: row.b: domain a.example has row a already"},
		{"a grant to nobody", "[permission.grant.a]\ndomains = [\"a.example\"]", "1: permission.grant.a: "},
		{"a grant of nothing", "[permission.grant.a]\nlogin = \"ann\"", "1: permission.grant.a: "},
		{"login domains that are none", "[permission]\nlogin_domains = [\"a b\"]", "2: permission.login_domains: "},
		{"a listener's networks", "[listen.x]\naddress = \"unix:/s\"\n[listen.x.origin]\nnetworks = [\"10.0.0.1/8\"]", "4: listen.x.origin.networks: "},
		{"skipped networks", "[origin]\nskip_networks = [\"10.0.0.1/8\"]", "2: origin.skip_networks: "},
		{"a macro that strangers set", "[origin]\nmacros = [\"{mail_addr}\"]", "2: origin.macros: "},
		{"all mail of all listeners", "[origin]\nall = true", "2: origin.all: "},
		{"author fields", "[signing]\nauthor_fields = [\"Subject\"]", "2: signing.author_fields: "},
	} {
		t.Run(c.name, func(t *testing.T) {
			d, err := decodeConfig("waxseal.toml", c.text)
			if err != nil {
				t.Fatal(err)
			}
			_, err = buildSettings(d)
			checkProblems(t, err, []string{c.want})
		})
	}
}

func TestRulesComeFromTheFile(t *testing.T) {
	d, err := decodeConfig("waxseal.toml", `
[permission]
login_domains = []
[permission.grant.ann]
login = "ann"
domains = ["a.example"]
[row.b]
domain = "b.example"
sign_as = "a.example"
selectors = ["s"]
canonicalization = "simple/relaxed"
expiry = "7d"
strict = true
[row.c]
domain = "c.example"
enabled = false
reason = "no more"
[listen.open]
address = "unix:/s"
[listen.open.origin]
all = true
`)
	if err != nil {
		t.Fatal(err)
	}
	s, err := buildSettings(d)
	if err != nil {
		t.Fatal(err)
	}
	decide := func(c policy.Connection, login, from string) policy.Decision {
		return s.Rules.Decide(c, policy.Message{Login: login, From: []string{" " + from}})
	}
	mx := policy.Connection{Host: "mx.d.example"}
	if got := decide(mx, "ann", "x@a.example").Verdict; got != policy.Ours {
		t.Errorf("a granted domain: %v", got)
	}
	if got := decide(mx, "ann", "x@d.example").Verdict; got != policy.Denied {
		t.Errorf("the mail server's domain, with no login domains: %v", got)
	}
	local := policy.Connection{Local: true}
	d2 := decide(local, "", "x@b.example")
	if d2.Domains[0] != "a.example" || d2.Row != 1 {
		t.Errorf("a row that signs as another domain: %+v", d2)
	}
	row := s.Rows[d2.Row-1]
	if *row.Header != signer.Simple || *row.Body != signer.Relaxed || *row.Lifetime != 7*24*time.Hour || row.Outcomes[milter.NotSignable] != milter.Tempfail {
		t.Errorf("what the row changes: %+v", row)
	}
	if got := decide(local, "", "x@c.example"); got.Verdict != policy.Excluded || !strings.Contains(got.Reason, "no more") {
		t.Errorf("a row that is off: %+v", got)
	}
	if got := s.Rules.Origin(policy.Connection{Listener: "open"}, ""); !got.Ours {
		t.Errorf("a listener whose mail is all ours: %+v", got)
	}
	if got := s.Rules.Origin(policy.Connection{Listener: "other"}, ""); got.Ours {
		t.Errorf("another listener: %+v", got)
	}
}

// A flag says where to listen; whom to trust there is not its business.
func TestListenFlagsKeepTheRulesOfTheListenersAddress(t *testing.T) {
	for address, trusted := range map[string]bool{"unix:/relay": false, "local:/relay": false, "unix:/other": true} {
		for _, name := range []string{"relay", "milter"} {
			testListenFlag(t, address, name, trusted)
		}
	}
}

func testListenFlag(t *testing.T, address, configured string, trusted bool) {
	t.Helper()
	a := &app{configFile: writeFile(t, "waxseal.toml", fmt.Sprintf(
		"[listen.%s]\naddress = \"unix:/relay\"\nmode = \"0600\"\n[listen.%[1]s.origin]\nnetworks = [\"192.0.2.0/24\"]\n", configured))}
	d, err := a.serveConfig([]string{address}, "")
	must(t, err)
	settings, err := buildSettings(d)
	must(t, err)
	if len(d.Listen) != 1 {
		t.Fatalf("%s: %d listeners", address, len(d.Listen))
	}
	name := sortedKeys(d.Listen)[0]
	got := settings.Rules.Origin(policy.Connection{Listener: name, Client: netip.MustParseAddr("127.0.0.1")}, "").Ours
	if got != trusted || (d.Listen[name].Mode == 0o600) == trusted {
		t.Errorf("--listen %s: listener %s trusts loopback: %t, mode %v", address, name, got, d.Listen[name].Mode)
	}
	doubts := warnings(d).Error()
	if strings.Contains(doubts, "listen."+configured) != trusted {
		t.Errorf("--listen %s: %s", address, doubts)
	}
}

func TestNoRuleAtAllIsDoubted(t *testing.T) {
	const off = "[origin]\nlogin = false\nlocal = false\nnetworks = []\ndaemon_names = []\n"
	for text, want := range map[string]int{
		"":                                   0,
		off:                                  1,
		off + "certificates = [\"relay\"]\n": 0,
		off + "[listen.x]\naddress = \"unix:/s\"\n[listen.x.origin]\nlogin = true\n": 0,
	} {
		d, err := decodeConfig("waxseal.toml", text)
		if err != nil {
			t.Fatal(err)
		}
		if got := warnings(d); len(got) != want {
			t.Errorf("%s\n%v, want %d warnings", text, got, want)
		}
	}
}
