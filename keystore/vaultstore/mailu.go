package vaultstore

import (
	"context"
	"strings"

	"golang.org/x/net/idna"
)

// Mailu's admin service answers like Vault where rspamd asks for keys, and has
// for rspamd besides, as text, a list of the domains whose mail it takes.
const mailuDomains = "../../local_domains" // of BASE/v1/, by default /internal/rspamd/local_domains

// mailuNames returns the names that Mailu lists, in A-labels: it writes U-labels.
// Some have no key: alternative names of domains, and domains for which none was
// made.
func (l *lists) mailuNames(ctx context.Context) ([]string, error) {
	var text string
	if err := l.kv.client.do(ctx, "GET", mailuDomains, nil, &text); err != nil {
		return nil, err
	}
	var names []string
	for name := range strings.FieldsSeq(text) {
		names = append(names, aLabels(name))
	}
	return names, nil
}

// aLabels returns a domain with its labels as DNS has them; what is no domain
// comes back as it is.
func aLabels(domain string) string {
	if ascii, err := idna.Lookup.ToASCII(domain); err == nil {
		return ascii
	}
	return domain
}
