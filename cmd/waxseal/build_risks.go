package main

import (
	"errors"
	"strings"

	"waxseal/milter"
	"waxseal/milter/policy"
	"waxseal/signer"
)

// This file turns what the configuration says of mail servers, and of what they
// do to signatures, into what packages milter and signer take.

// buildRisks makes the actions of the [risk] table.
func buildRisks(d *decoded) (milter.RiskActions, problems) {
	c := d.Risk
	actions := milter.RiskActions{
		signer.LongBodyLine:       c.LongBodyLine,
		signer.LongHeaderLine:     c.LongHeaderLine,
		signer.EightBit:           c.EightBit,
		signer.MissingDate:        c.MissingDate,
		signer.MissingMessageID:   c.MissingMessageID,
		signer.BareCRLF:           c.BareCRLF,
		signer.NUL:                c.NUL,
		signer.DuplicateField:     c.DuplicateField,
		signer.RewrittenField:     c.RewrittenField,
		signer.RewrittenMultipart: c.RewrittenMultipart,
		milter.BadFrom:            c.BadFrom,
	}
	var found problems
	for _, name := range milter.RiskNames() {
		if err := (milter.RiskActions{name: actions[name]}).Check(); err != nil {
			found = append(found, d.problem("risk."+string(name), err, ""))
		}
	}
	return actions, found
}

// buildPeers makes what is known of the mail servers of listeners.
func buildPeers(d *decoded) (map[string]milter.Peer, problems) {
	var found problems
	peers := map[string]milter.Peer{}
	for _, name := range sortedKeys(d.Listen) {
		c := d.Listen[name]
		key := "listen." + name
		mta, err := milter.ParseMTA(string(c.MTA))
		if err != nil {
			found = append(found, d.problem(key+".mta", err, ""))
			continue
		}
		if simple := simpleHeaders(d); mta == milter.MTASendmail && simple != "" {
			found = append(found, d.problem(key+".mta", errors.New("Sendmail folds header fields anew after its milters, so signatures with simple headers, as "+simple+" wants them, do not verify"),
				`write "relaxed/relaxed" or "relaxed/simple" there`))
		}
		peer := milter.Peer{MTA: mta}
		if len(c.Masquerade) > 0 {
			if mta == milter.MTAPostfix {
				found = append(found, d.problem(key+".masquerade", errors.New("is for Sendmail: Postfix rewrites addresses before its milters"), "leave it out"))
			}
			peer.Masquerade = &signer.Masquerade{Recipients: c.MasqueradeRecipients}
			for _, given := range c.Masquerade {
				bare, below := strings.CutPrefix(given, ".")
				domain, err := policy.Domain(bare)
				if err != nil {
					found = append(found, d.problem(key+".masquerade", err, ""))
				}
				if below {
					domain = "." + domain
				}
				peer.Masquerade.Domains = append(peer.Masquerade.Domains, domain)
			}
		} else if c.MasqueradeRecipients {
			found = append(found, d.problem(key+".masquerade_recipients", errors.New("without masquerade says nothing"), "name the domains in masquerade"))
		}
		peers[name] = peer
	}
	return peers, found
}

// simpleHeaders returns the first setting that asks for them, if one does.
func simpleHeaders(d *decoded) string {
	if d.Signing.Canonicalization.header == signer.Simple {
		return "signing.canonicalization"
	}
	for _, name := range sortedKeys(d.Row) {
		header, _, err := signer.ParseCanonicalization(d.Row[name].Canonicalization)
		if err == nil && header == signer.Simple {
			return "row." + name + ".canonicalization"
		}
	}
	return ""
}
