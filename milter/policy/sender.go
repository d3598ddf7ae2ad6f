package policy

import "strings"

// sender is the address of the author that the keystore is asked about: of
// several, the first. A local part that no row could be about is left out.
func (a author) sender() string {
	local := ""
	if len(a.locals) > 0 {
		local = localKey(a.locals[0])
	}
	if len(local) > maxLocal || strings.ContainsFunc(local, func(c rune) bool { return c < ' ' || c > '~' }) {
		local = ""
	}
	return local + "@" + a.domain
}

// fromSender lets the keys sign that the keystore names, together. Where there
// are none, a row signs that comes second to them.
func (r *Rules) fromSender(d *Decision, p *path, s *Sender) {
	d.SenderRow = s.Row
	add := func(c Candidate) {
		c.Unaligned = unaligned(c.Domain, p.from.domain)
		d.Domains, d.Candidates = append(d.Domains, c.Domain), append(d.Candidates, c)
	}
	for _, k := range s.Keys {
		if c := d.candidate(k); c != nil {
			c.Selectors = append(c.Selectors, k.Selector)
			continue
		}
		add(Candidate{Domain: k.Domain, Selectors: []string{k.Selector}, Identity: k.Identity, Beside: len(d.Candidates) > 0})
	}
	if as, second := p.match.signAs(); second {
		row := p.match.row
		add(Candidate{Domain: as, Selectors: row.Selectors, Identity: row.identity(p.author, as)})
	}
	if len(d.Candidates) == 0 {
		d.Reason = s.none(d.Sender)
	}
}

// candidate returns the one that signs as the key's domain and identity.
func (d *Decision) candidate(k SenderKey) *Candidate {
	for i := range d.Candidates {
		if c := &d.Candidates[i]; c.Domain == k.Domain && c.Identity == k.Identity {
			return c
		}
	}
	return nil
}

// none says in words that no key signs.
func (s *Sender) none(address string) string {
	if s.Row == "" {
		return "the sender query has no row for " + address
	}
	return "the sender query has a row for " + s.Row + ", but it names no key"
}
