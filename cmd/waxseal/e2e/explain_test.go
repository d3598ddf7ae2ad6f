package e2e

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
)

// explainedCase is a message, and what the daemon did with it.
type explainedCase struct {
	facts
	listener, header string
	fate             fate
}

// verdictOf is what daemon and explain have to agree on.
type verdictOf struct {
	Signed               bool
	Domain               string
	Selectors            []string
	Cause, Action, Reply string
	Row, Reason          string
}

// explainRules is a configuration in which every part of the rules has a say.
const explainRules = `
[signing]
rsa = "go"
[log]
level = "debug"
format = "json"
[origin]
networks = ["127.0.0.0/8", "192.0.2.0/24", "2001:db8::/32"]
skip_networks = ["192.0.2.128/25"]
[listen.relay.origin]
networks = ["198.51.100.0/24"]
[listen.submission.origin]
all = true
skip_networks = ["203.0.113.9"]
[permission.grant.bob]
login = "bob@b.example"
domains = ["a.example"]
subdomains = true
[permission.grant.customers]
login = "@c.example"
addresses = ["sales@b.example"]
[permission.grant.office]
network = "192.0.2.0/25"
domains = ["a.example", "strict.example"]
[row.shop]
login = "shop"
sign_as = "b.example"
[row.robot]
login = "robot@a.example"
enabled = false
reason = "test mail"
[row.boss]
address = "boss@a.example"
sign_as = "b.example"
[row.below]
domain = "a.example"
subdomains = true
[row.off]
domain = "off.example"
enabled = false
[row.strict]
domain = "strict.example"
strict = true
[row.b]
domain = "b.example"
selectors = ["2026b", "2026c"]
[row.none]
domain = "none.example"
selectors = ["2027a"]
[row.none.outcome]
no_key = "reject"
[outcome]
denied = "reject"
`

// TestExplainAgreesWithTheDaemon sends random mail by all listeners, and asks
// explain about the same.
func TestExplainAgreesWithTheDaemon(t *testing.T) {
	t.Parallel()
	const cases, hostName = 1000, "mx.host.example"
	dir := shortDir(t)
	keys := &keystore{dir: filepath.Join(dir, "keys"), records: filepath.Join(dir, "records.tsv"), txt: map[string]string{}}
	for _, domain := range []string{"a.example", "b.example", "b.example", "off.example", "own.a.example", "host.example", "broken.example", "none.example"} {
		keys.activate(t, domain, keys.newKey(t, domain, "ed25519"))
	}
	broken, _ := filepath.Glob(filepath.Join(keys.dir, "broken.example", "*.pem"))
	writeFile(t, broken[0], "no key", 0o600)
	text := fmt.Sprintf("[keystore]\nurl = %q\n", "dir:"+keys.dir)
	addresses := map[string]string{}
	listeners := []string{"mail", "relay", "submission"}
	for _, name := range listeners {
		addresses[name] = "unix:" + filepath.Join(dir, "run", name+".sock")
		text += fmt.Sprintf("[listen.%s]\naddress = %q\n", name, addresses[name])
	}
	config := writeFile(t, filepath.Join(dir, "waxseal.toml"), text+explainRules, 0o644)
	d := serve(t, daemonOptions{}, "--config", config)

	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 0))
	t.Logf("seed %d", seed)
	pick := func(of ...string) string { return of[r.IntN(len(of))] }
	domains := []string{"a.example", "b.example", "c.example", "off.example", "strict.example", "strict.example", "none.example", "none.example", "broken.example", "broken.example",
		"sub.a.example", "own.a.example", "x.own.a.example", "host.example", "mx.host.example"}
	var all []explainedCase
	for i := range cases {
		c := explainedCase{listener: pick(listeners...), facts: facts{
			id: fmt.Sprintf("case%d", i), host: hostName,
			client: pick("", "127.0.0.1", "127.0.0.1", "192.0.2.7", "192.0.2.200", "198.51.100.1", "203.0.113.9", "203.0.113.10", "2001:db8::1", "2001:db9::1", "::1"),
		}}
		c.daemon = pick("", "", "ORIGINATING", "originating", "mx")
		if c.client != "" { // a local message has no login
			c.login = pick("", "", "ann@a.example", "ANN@A.Example", "bob@b.example", "carl", "shop", "robot@a.example", "eve@c.example", "dan@mx.host.example", "x@", "@a.example")
		}
		address := func() string {
			return pick("ann", "ann", "boss", "boss", "sales", "sales", "Sales", `"sales"`, "=?utf-8?q?a?=") + "@" + pick(domains...) + pick("", "", "", "", "", "", "", "", "", ".")
		}
		form := pick("%s", "%s", "%s", "%s", "<%s>", "Ann <%s>", `"x@b.example" <%s>`, "%s (comment)", "=?utf-8?q?b=40b.example?= <%s>", "Group: %s;", "<%s> x", "%s, ann@a.example", "Ann\r\n <%s>")
		author := fmt.Sprintf(form, address())
		if r.IntN(10) == 0 {
			author = strings.ToUpper(author)
		}
		c.header = strings.Replace(header, "Ann <ann@example.com>", author, 1)
		switch r.IntN(40) {
		case 0:
			c.header = strings.Replace(c.header, "From:", "X-From:", 1)
		case 1:
			c.header += "From: ann@a.example\r\n"
		}
		all = append(all, c)
	}
	for i := range all {
		all[i].fate = judge(t, addresses[all[i].listener], all[i].facts, all[i].header, "Hello.\r\n")
	}
	eventually(t, "the log is complete", func() bool { return len(readLog(d.log.String())) == cases })
	lines := readLog(d.log.String())

	var workers sync.WaitGroup
	next := make(chan *explainedCase)
	var mu sync.Mutex
	seen := map[string]int{} // guarded by mu: by result
	for range 4 {
		workers.Go(func() {
			for c := range next {
				want := c.daemonSays(lines[c.id])
				got, err := c.explain(config)
				if err != nil {
					t.Errorf("%s: %v", c.id, err)
				} else if !reflect.DeepEqual(got, want) {
					t.Errorf("%s: %+v by listener %s\n%s\n the daemon: %+v\n    explain: %+v", c.id, c.facts, c.listener, c.header, want, got)
				}
				mu.Lock()
				seen[want.Cause+" "+want.Action]++
				mu.Unlock()
			}
		})
	}
	for i := range all {
		next <- &all[i]
	}
	close(next)
	workers.Wait()
	t.Logf("results: %v", seen)
	// Cases that are all alike would prove nothing.
	for _, result := range []string{" ", "not_ours accept", "denied reject", "denied tempfail", "not_signable accept", "excluded accept",
		"no_key accept", "no_key reject", "no_key tempfail", "key_unusable tempfail"} {
		if seen[result] == 0 {
			t.Errorf("no case ended with %q", result)
		}
	}
}

// daemonSays puts together what the protocol and the log said.
func (c *explainedCase) daemonSays(line logLine) verdictOf {
	v := verdictOf{Signed: c.fate.top != "", Reply: c.fate.reply, Row: line.Row, Domain: line.Domain, Cause: line.Cause, Action: line.Action, Reason: line.Reason}
	if m, err := parseMessage([]byte(c.fate.top + "\r\n")); err == nil && v.Signed {
		for _, s := range m.signatures() {
			v.Selectors = append(v.Selectors, s.selector)
			v.Domain = s.domain
		}
		v.Reason = "signed"
	}
	return v
}

// explain asks the command.
func (c *explainedCase) explain(config string) (verdictOf, error) {
	args := []string{"explain", "--json", "--config", config, "--listener", c.listener, "--host", c.host, "--mta", "Postfix 3.7.11"}
	if c.client == "" {
		args = append(args, "--local")
	}
	for flag, value := range map[string]string{"--client": c.client, "--login": c.login, "--daemon-name": c.daemon} {
		if value != "" {
			args = append(args, flag+"="+value)
		}
	}
	command := exec.Command(waxseal, args...)
	command.Stdin = strings.NewReader(c.header + "\r\nHello.\r\n")
	out, err := command.Output()
	var e struct{ Result verdictOf }
	if bad := json.Unmarshal(out, &e); bad != nil {
		return e.Result, fmt.Errorf("%w: %w: %s", err, bad, out)
	}
	if (err == nil) != e.Result.Signed {
		return e.Result, fmt.Errorf("exit status %v, though signed is %t", err, e.Result.Signed)
	}
	return e.Result, nil
}
