package dns

import (
	"fmt"
	"strings"

	"waxseal/keystore"
)

// udpRecord is the size of a record that, with its name and a DNSSEC signature,
// no longer fits the 1232 octets that resolvers ask for over UDP.
const udpRecord = 700

// Describe returns the text that stands beside a key as SELECTOR.txt: the
// record in the forms that people need, and what to do in the key's present
// state. It has none for a removed key.
func Describe(d *keystore.Domain, k *keystore.Key) []byte {
	domain := d.Name
	r, err := NewRecord(k, RecordOptions{})
	if err != nil {
		return nil
	}
	e := Entry{Domain: domain, Key: k, Record: r}
	e.Target, _ = d.Slot(k.Selector)
	name, value := e.name(), r.String()
	var b strings.Builder
	fmt.Fprintf(&b, "Key %s of %s (%s, %s)\n\n", k.Selector, domain, k.Algorithm, k.State)
	fmt.Fprintf(&b, "Record: TXT at\n\n%s\n\n", name)
	fmt.Fprintf(&b, "For a zone file:\n\n%s\n\n", zoneLine(name, &e))
	fmt.Fprintf(&b, "For a web form, as the value:\n\n%s\n\n", value)
	if n := len(Strings(value)); n > 1 {
		fmt.Fprintf(&b, "The value has %d characters and makes %d strings of at most %d. Most web forms\n"+
			"cut it themselves; if yours does not, take the quoted strings of the zone file.\n", len(value), n, maxString)
	}
	if e.Target == "" {
		b.WriteString("Some web forms add the domain to the name by themselves: enter only\n\n")
		fmt.Fprintf(&b, "%s\n\nthen. ", k.Selector+"._domainkey")
	} else {
		fmt.Fprintf(&b, "The owner of %s points to it, once and for all, with\n\n%s. IN CNAME %s.\n\n", domain, Name(k.Selector, domain), e.Target)
	}
	b.WriteString("There must be exactly one TXT record at this name.\n")
	if len(value) > udpRecord {
		b.WriteString("The record is too large for many answers over UDP: the zone's name servers must\nanswer over TCP, too. A key of 2048 bits avoids this.\n")
	}
	b.WriteString("\n" + next(domain, k))
	return []byte(b.String())
}

// next says what the administrator is to do in the key's state.
func next(domain string, k *keystore.Key) string {
	command := func(verb string, flags ...string) string {
		words := append([]string{"    waxseal", verb, domain, k.Selector}, flags...)
		return strings.Join(words, " ") + "\n"
	}
	switch k.State {
	case keystore.Pending:
		return "Next: publish the record. The daemon's keeper lets the key sign when all name\nservers of the domain show it, and have shown it for long enough. To wait for it:\n\n" +
			"    waxseal dns check " + domain + " --watch\n"
	case keystore.Active:
		return "The key signs. The record must stay as it is. To replace the key:\n\n" +
			"    waxseal rotate " + domain + "\n"
	case keystore.Retired:
		return fmt.Sprintf("The key signs no more, but mail that it signed is still under way: the record\nmust stay for %d days after %s.\n",
			int(keystore.Grace.Hours()/24), k.Retired.UTC().Format("2006-01-02 15:04 MST")) +
			"Then the keeper revokes the key. Without a keeper:\n\n" + command("key revoke")
	case keystore.Revoked:
		return "The key is revoked. Publish the record as it stands here, with its empty p=, in\nthe place of the old one.\n"
	}
	return ""
}
