package main

// The comparison at the end of an import: what the other signer does, by a model
// of it, and what we will do, by the rules that the daemon uses.

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"waxseal/milter"
	"waxseal/milter/policy"
)

// comparison is all cases.
type comparison struct {
	Cases     []compared `json:"cases"` // differences first
	Different int        `json:"different"`
	Wider     int        `json:"wider"` // signed by us, and not so by the other signer
}

// compared is what happens to one message.
type compared struct {
	Result string `json:"result"` // same, different or wider
	From   string `json:"from"`
	Client string `json:"client"`
	Theirs string `json:"before"`
	Ours   string `json:"waxseal"`
	Why    string `json:"why"`
}

// compareCase is a message, and what the other signer does with it.
type compareCase struct {
	from       string
	login      string
	connection policy.Connection
	client     string // for a reader
	theirs     judgement
}

// judgement is what a signer does with a message.
type judgement struct {
	signatures []imprint
	putOff     bool
	why        string
}

// imprint is what matters of a signature here.
type imprint struct{ domain, selector, identity string }

// Strangers, by addresses for documentation (RFC 5737), and names that cannot be
// registered (RFC 2606).
var (
	abroadAddress = netip.MustParseAddr("203.0.113.77")
	elsewhere     = "someone@elsewhere.invalid"
)

// compare takes every case through our rules.
func (t *takeover) compare(config *decoded, cases []compareCase) (*comparison, error) {
	c := &comparison{Cases: []compared{}}
	rules, _, bad := buildRules(config)
	if rules == nil {
		if t.count(lineRefused) > 0 {
			return c, nil // and why is among them
		}
		return nil, bad
	}
	for _, each := range cases {
		ours := t.ours(config, rules, each)
		r := compared{
			Result: "same", From: each.from, Client: each.client, Theirs: each.theirs.words(), Ours: ours.words(),
			Why: t.program + ": " + each.theirs.why + "; waxseal: " + ours.why,
		}
		switch {
		case ours.wider(each.theirs):
			r.Result = "wider"
			c.Wider++
			c.Different++
		case r.Theirs != r.Ours:
			r.Result = "different"
			c.Different++
		}
		c.Cases = append(c.Cases, r)
	}
	rank := map[string]int{"wider": 0, "different": 1, "same": 2}
	slices.SortStableFunc(c.Cases, func(a, b compared) int { return rank[a.Result] - rank[b.Result] })
	return c, nil
}

// ours decides with the rules of the daemon, and the keys that will be there.
func (t *takeover) ours(config *decoded, rules *policy.Rules, c compareCase) judgement {
	c.connection.Host, c.connection.MTA = "mx.example.invalid", "Postfix"
	d := rules.Decide(c.connection, policy.Message{Login: c.login, MailFrom: c.from, From: []string{" <" + c.from + ">"}})
	if d.Verdict != policy.Ours {
		return judgement{why: d.Reason}
	}
	action, why := config.Outcome.NoKey, "no row"
	if d.Row > 0 {
		row := sortedKeys(config.Row)[d.Row-1]
		why = fmt.Sprintf("row %q", row)
		if o := config.Row[row].Outcome; o != nil && o.NoKey != "" {
			action = o.NoKey
		}
	}
	for _, candidate := range d.Candidates {
		j := judgement{why: why}
		for _, s := range t.selectors(candidate.Domain) {
			if candidate.Selectors == nil || slices.Contains(candidate.Selectors, s) {
				j.signatures = append(j.signatures, imprint{candidate.Domain, s, candidate.Identity})
			}
		}
		if len(j.signatures) > 0 {
			return j
		}
	}
	return judgement{putOff: action == milter.Tempfail, why: "no key for " + strings.Join(d.Domains, " or ")}
}

// wider says whether there is a signature that the other does not make, its
// identity aside.
func (j judgement) wider(other judgement) bool {
	return slices.ContainsFunc(j.signatures, func(s imprint) bool {
		return !slices.ContainsFunc(other.signatures, func(o imprint) bool {
			return strings.EqualFold(o.domain, s.domain) && strings.EqualFold(o.selector, s.selector)
		})
	})
}

// words are the same for the same signatures.
func (j judgement) words() string {
	switch {
	case j.putOff:
		return "put off"
	case len(j.signatures) == 0:
		return "not signed"
	}
	var words []string
	for _, s := range j.signatures {
		w := "d=" + strings.ToLower(s.domain) + " s=" + strings.ToLower(s.selector)
		if s.identity != "" {
			w += " i=" + strings.ToLower(s.identity)
		}
		words = append(words, w)
	}
	slices.Sort(words)
	return strings.Join(slices.Compact(words), ", ")
}

// around returns addresses in a domain, and close by.
func around(domain string) []string {
	if _, err := policy.Domain(domain); err != nil {
		return nil
	}
	return []string{"someone@" + domain, "Someone@" + strings.ToUpper(domain), "someone@sub." + domain, "someone@far.sub." + domain, "someone@not" + domain}
}

// senderCases are messages of these senders with a login of their own domain,
// and of the first of them by other logins, this machine, clients in these
// networks, and strangers.
func senderCases(senders []string, networks []netip.Prefix) []compareCase {
	var all []compareCase
	seen := map[string]bool{}
	add := func(client, from, login string, address netip.Addr) {
		if !seen[client+" "+from] {
			seen[client+" "+from] = true
			all = append(all, compareCase{from: from, login: login, client: client, connection: policy.Connection{Client: address, Local: !address.IsValid()}})
		}
	}
	for _, from := range append(slices.Clone(senders), elsewhere) {
		_, domain, _ := cutLast(strings.ToLower(from), "@")
		add("a login of the domain", from, "someone@"+domain, abroadAddress)
	}
	if len(senders) == 0 {
		return all
	}
	from := senders[0]
	add("a login of another domain", from, elsewhere, abroadAddress)
	add("a login without a domain", from, "someone", abroadAddress)
	add("this machine, without SMTP", from, "", netip.Addr{})
	add("a stranger", from, "", abroadAddress)
	for _, text := range []string{"127.0.0.1", "::1", "127.0.0.2"} {
		add(text, from, "", netip.MustParseAddr(text))
	}
	for _, p := range networks {
		last := lastAddress(p)
		for _, a := range []netip.Addr{p.Addr(), last, last.Next()} {
			if a.IsValid() {
				add(a.String(), from, "", a)
			}
		}
	}
	return all
}
