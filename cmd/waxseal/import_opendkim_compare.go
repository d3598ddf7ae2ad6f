package main

// The comparison at the end of an import: what OpenDKIM does, by a model of it,
// and what we will do, by the rules that the daemon uses.

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"waxseal/cmd/waxseal/internal/opendkim"
	"waxseal/milter"
	"waxseal/milter/policy"
)

// comparison is all cases.
type comparison struct {
	Cases     []compared `json:"cases"` // differences first
	Different int        `json:"different"`
	Wider     int        `json:"wider"` // signed by us, and not so by OpenDKIM
}

// compared is what happens to one message.
type compared struct {
	Result string `json:"result"` // same, different or wider
	From   string `json:"from"`
	Client string `json:"client"`
	Theirs string `json:"opendkim"`
	Ours   string `json:"waxseal"`
	Why    string `json:"why"`
}

// compareCase is a message to be judged by both.
type compareCase struct {
	from   string
	client opendkim.Client
	name   string // of the client, for a reader
}

// Strangers, by addresses for documentation (RFC 5737), and names that cannot be
// registered (RFC 2606).
var (
	abroadAddress = netip.MustParseAddr("203.0.113.77")
	abroad        = opendkim.Client{Name: "client.example.invalid", Address: abroadAddress}
	elsewhere     = "someone@elsewhere.invalid"
)

// compare takes every case through both.
func (im *opendkimImport) compare(config *decoded) (*comparison, error) {
	rules, _, bad := buildRules(config)
	if rules == nil {
		if im.count(lineRefused) > 0 {
			return &comparison{Cases: []compared{}}, nil // and why is among them
		}
		return nil, bad
	}
	c := &comparison{Cases: []compared{}}
	for _, each := range im.cases() {
		theirs := im.model.Decide(each.client, each.from)
		ours, why := im.ours(config, rules, each)
		r := compared{Result: "same", From: each.from, Client: each.name, Theirs: theirWords(theirs), Ours: ours.words(), Why: "OpenDKIM: " + theirs.Why + "; waxseal: " + why}
		switch {
		case ours.wider(theirs):
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

// ourResult is what we do with a message.
type ourResult struct {
	signatures []opendkim.Signature
	action     milter.Action // without a signature
}

// ours decides with the rules of the daemon, and the keys that will be there.
func (im *opendkimImport) ours(config *decoded, rules *policy.Rules, c compareCase) (ourResult, string) {
	connection := policy.Connection{
		Client: c.client.Address, Local: !c.client.Address.IsValid(), DaemonName: c.client.Daemon, Host: "mx.example.invalid", MTA: "Postfix",
		Macros: map[string]string{},
	}
	for name, value := range c.client.Macros {
		if len(name) > 1 {
			name = "{" + name + "}"
		}
		connection.Macros[name] = value
	}
	d := rules.Decide(connection, policy.Message{Login: c.client.Login, MailFrom: c.from, From: []string{" <" + c.from + ">"}})
	if d.Verdict != policy.Ours {
		return ourResult{action: milter.Accept}, d.Reason
	}
	for _, candidate := range d.Candidates {
		selectors := im.selectors(candidate.Domain)
		if len(selectors) == 0 {
			continue
		}
		var r ourResult
		for _, s := range selectors {
			if candidate.Selectors == nil || slices.Contains(candidate.Selectors, s) {
				r.signatures = append(r.signatures, opendkim.Signature{Domain: candidate.Domain, Selector: s, Identity: candidate.Identity})
			}
		}
		why := "no row"
		if d.Row > 0 {
			why = fmt.Sprintf("row %q", sortedKeys(config.Row)[d.Row-1])
		}
		if len(r.signatures) > 0 {
			return r, why
		}
	}
	action := config.Outcome.NoKey
	if d.Row > 0 {
		if o := config.Row[sortedKeys(config.Row)[d.Row-1]].Outcome; o != nil && o.NoKey != "" {
			action = o.NoKey
		}
	}
	return ourResult{action: action}, "no key for " + strings.Join(d.Domains, " or ")
}

func (r ourResult) words() string {
	switch {
	case len(r.signatures) > 0:
		return signatureWords(r.signatures)
	case r.action == milter.Tempfail:
		return "put off"
	}
	return "not signed"
}

// wider says whether we add a signature that OpenDKIM does not, its identity
// aside.
func (r ourResult) wider(theirs opendkim.Result) bool {
	for _, s := range r.signatures {
		if !slices.ContainsFunc(theirs.Signatures, func(t opendkim.Signature) bool {
			return strings.EqualFold(t.Domain, s.Domain) && strings.EqualFold(t.Selector, s.Selector)
		}) {
			return true
		}
	}
	return false
}

func theirWords(r opendkim.Result) string {
	switch r.Verdict {
	case opendkim.Signed:
		return signatureWords(r.Signatures)
	case opendkim.PutOff:
		return "put off"
	}
	return "not signed"
}

// signatureWords names signatures so that two equal sets look the same.
func signatureWords(list []opendkim.Signature) string {
	var words []string
	for _, s := range list {
		w := "d=" + strings.ToLower(s.Domain) + " s=" + strings.ToLower(s.Selector)
		if s.Identity != "" {
			w += " i=" + strings.ToLower(s.Identity)
		}
		words = append(words, w)
	}
	slices.Sort(words)
	return strings.Join(slices.Compact(words), ", ")
}

// cases draws senders and clients from the tables: each sender with a client
// that has logged in, and each client with a sender that is signed.
func (im *opendkimImport) cases() []compareCase {
	login := abroad
	login.Login = "someone"
	var all []compareCase
	signed := elsewhere
	for _, from := range im.senderCases() {
		all = append(all, compareCase{from, login, "a login"})
		if signed == elsewhere && im.model.Tables.Signs(from) {
			signed = from
		}
	}
	for _, c := range im.clientCases() {
		c.from = signed
		all = append(all, c)
	}
	return all
}

// senderCases are addresses that rows are about, and others close by.
func (im *opendkimImport) senderCases() []string {
	var all []string
	seen := map[string]bool{}
	add := func(addresses ...string) {
		for _, s := range addresses {
			if !seen[s] {
				seen[s] = true
				all = append(all, s)
			}
		}
	}
	around := func(domain string) {
		if _, err := policy.Domain(domain); err == nil {
			add("someone@"+domain, "Someone@"+strings.ToUpper(domain), "someone@sub."+domain, "someone@far.sub."+domain, "someone@not"+domain)
		}
	}
	for i := range im.model.Tables.Rules {
		r := &im.model.Tables.Rules[i]
		switch r.Scope.Kind {
		case opendkim.Address:
			add(r.Scope.Local+"@"+r.Scope.Domain, strings.ToUpper(r.Scope.Local+"@"+r.Scope.Domain))
			around(r.Scope.Domain)
		case opendkim.Domain, opendkim.Below:
			around(r.Scope.Domain)
		case opendkim.Nobody, opendkim.Other:
			for pattern := range strings.SplitSeq(strings.NewReplacer("(", "|", ")", "|", "*", "x").Replace(r.Pattern), "|") {
				local, domain, isAddress := strings.Cut(strings.TrimPrefix(pattern, "."), "@")
				if !isAddress {
					local, domain = "someone", local
				}
				if domain == "x" {
					domain = "elsewhere.invalid"
				}
				if d, err := policy.Domain(strings.TrimPrefix(strings.TrimPrefix(domain, "x."), ".")); err == nil && local != "" {
					add(local + "@" + d)
					around(d)
				}
			}
		}
	}
	for _, k := range im.keys {
		around(k.Domain)
	}
	for i := range im.model.Tables.Keys {
		around(strings.ToLower(im.model.Tables.Keys[i].Domain))
	}
	add(elsewhere)
	return all
}

// clientCases are clients that rows are about, and others close by.
func (im *opendkimImport) clientCases() []compareCase {
	client := func(name string, a netip.Addr) opendkim.Client { return opendkim.Client{Name: name, Address: a} }
	all := []compareCase{
		{client: opendkim.Client{Name: "localhost"}, name: "this machine, without SMTP"},
		{client: client("localhost", netip.MustParseAddr("127.0.0.1")), name: "127.0.0.1"},
		{client: client("localhost", netip.MustParseAddr("::1")), name: "::1"},
		{client: client("", netip.MustParseAddr("127.0.0.2")), name: "127.0.0.2"},
		{client: abroad, name: "a stranger"},
	}
	add := func(c opendkim.Client, name string) {
		if !slices.ContainsFunc(all, func(other compareCase) bool { return other.name == name }) {
			all = append(all, compareCase{client: c, name: name})
		}
	}
	for _, list := range []*opendkim.DataSet{im.model.Internal, im.model.Peers} {
		for _, h := range list.Hosts() {
			text := strings.TrimLeft(h.Text, "!")
			switch {
			case h.Kind == opendkim.Network:
				last := lastAddress(h.Network)
				add(client("", h.Network.Addr()), h.Network.Addr().String())
				add(client("", last), last.String())
				if next := last.Next(); next.IsValid() {
					add(client("", next), next.String())
				}
			case strings.ContainsAny(text, "/:[]") || strings.Trim(text, "0123456789.*") == "":
				bare, _, _ := strings.Cut(strings.Trim(text, "[]"), "/")
				if a, err := netip.ParseAddr(strings.ReplaceAll(bare, "*", "1")); err == nil {
					add(client("", a), a.String())
				}
			case !strings.EqualFold(text, "localhost"):
				host := strings.ToLower(strings.ReplaceAll(text, "*", "host"))
				if strings.HasPrefix(host, ".") {
					host = "host" + host
				}
				add(client(host, abroadAddress), "host "+host)
			}
		}
	}
	if im.model.Daemons != nil {
		for _, r := range im.model.Daemons.Rows {
			c := abroad
			c.Daemon = r.Key
			add(c, "daemon "+r.Key)
		}
	}
	if im.model.Macros != nil {
		for _, r := range im.model.Macros.Rows {
			for value := range strings.SplitSeq(r.Value+"|other", "|") {
				if value == "" {
					continue
				}
				c := abroad
				if c.Macros = map[string]string{strings.Trim(r.Key, "{}"): value}; c.Macros["daemon_name"] != "" {
					c.Daemon, c.Macros = value, nil
				}
				add(c, "macro "+r.Key+"="+value)
			}
		}
	}
	peer := opendkim.Client{Login: "someone"}
	for _, h := range im.model.Peers.Hosts() {
		if h.Kind == opendkim.Network {
			peer.Address = h.Network.Addr()
			add(peer, peer.Address.String()+" with a login")
		}
	}
	return all
}

// lastAddress is the highest address of a network.
func lastAddress(p netip.Prefix) netip.Addr {
	bytes := p.Addr().AsSlice()
	for i := p.Bits(); i < len(bytes)*8; i++ {
		bytes[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(bytes)
	return a
}

// printImport prints all lines, keys and cases.
func (a *app) printImport(im *opendkimImport, text string, c *comparison) error {
	if a.json {
		lines, keys := im.lines, im.keys
		if lines == nil {
			lines = []importedLine{}
		}
		if keys == nil {
			keys = []*importedKey{}
		}
		return a.printJSON(struct {
			Lines         []importedLine `json:"lines"`
			Keys          []*importedKey `json:"keys"`
			Configuration string         `json:"configuration"`
			Comparison    *comparison    `json:"comparison"`
		}{lines, keys, text, c})
	}
	var rows [][]string
	for _, result := range []string{lineRefused, lineOpen, lineDropped, lineTaken, lineDefault, lineNotNeeded} {
		for _, l := range im.lines {
			if l.Result != result {
				continue
			}
			why := l.Why
			if l.Remedy != "" {
				why += "; " + l.Remedy
			}
			rows = append(rows, []string{l.Result, l.Place, l.Setting, why})
		}
	}
	a.printTable("Lines of OpenDKIM, and what becomes of them", rows)
	rows = nil
	for _, k := range im.keys {
		state := "new in the keystore"
		if k.there {
			state = "in the keystore already"
		}
		rows = append(rows, []string{k.Domain, k.Selector, string(k.Algorithm), k.Created.Format("2006-01-02"), k.From, state})
	}
	a.printTable("Keys, active; their records in DNS stay as they are", rows)
	if a.dryRun {
		fmt.Fprintf(a.stdout, "Configuration that would be written\n%s\n", text)
	}
	rows = nil
	const most = 40 // of those that are the same
	same := 0
	for _, each := range c.Cases {
		if each.Result == "same" {
			if same++; same > most {
				continue
			}
		}
		what := each.Theirs
		if each.Result != "same" {
			what = "OpenDKIM: " + each.Theirs + "; waxseal: " + each.Ours
		}
		rows = append(rows, []string{each.Result, each.From, each.Client, what})
	}
	a.printTable(fmt.Sprintf("Comparison of %d messages, %d with a difference", len(c.Cases), c.Different), rows)
	if same > most {
		fmt.Fprintf(a.stdout, "and %d more that are the same; --json has all\n", same-most)
	}
	return nil
}
