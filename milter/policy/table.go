package policy

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// Row is a row of the selector table. It is about one login, one address, one
// domain, or everything else; the most specific row of a message is used, and
// no other. Of the rows about one and the same thing there is only one.
type Row struct {
	// Name is what the row is called in reasons and errors, such as that of
	// its table in a file. Empty means its number.
	Name string

	// Login is a login as the MTA has it in {auth_authen}. Upper and lower
	// case are alike.
	Login string

	// Address is an address of the field that names the author. Upper and
	// lower case are alike. Of several addresses there, the first with a row
	// counts.
	Address string

	// Domain is an author domain; or "*", for all mail that no other row is
	// about.
	Domain string

	// Subdomains extends a row for a domain to all domains below it that have
	// no row of their own. A row for the domain alone may stand beside one
	// with Subdomains, and then goes first.
	Subdomains bool

	// SignAs is the signing domain (d=). Empty means the author domain; in a
	// row with Subdomains, the domain of the row.
	//
	// A row for a login, the row "*", and a row with Subdomains, for what is
	// below its domain, come second to keys of the author domain's own, unless
	// Always is set. A row for an address or a domain does not.
	//
	// A row for a login that has SignAs lets the login sign as that domain
	// whatever the author domain is. The author domain's own keys still take
	// a permission.
	SignAs string

	// Always uses the row even where the author domain has keys of its own.
	Always bool

	// Selectors are those that may sign, if active. Nil means all.
	Selectors []string

	// Identity is the value of i=: an address, or "@" and a domain, in the
	// signing domain or below it (RFC 6376, section 3.5). The word "address"
	// means the author's address; it is left out where there are several, or
	// it is not in the signing domain, or it is not ASCII. Empty leaves the
	// tag out.
	Identity string

	// Disabled says that mail of this row is not to be signed, and Reason why,
	// for the log.
	Disabled bool
	Reason   string

	// Overrides is what the row has in place of the general settings.
	Overrides
}

// Overrides is what a row of the table passes on to the signer. Nothing here
// changes what this package decides.
type Overrides struct {
	// Canonicalization is the c= tag, such as "relaxed/simple". Empty means
	// the general setting.
	Canonicalization string

	// Expiry is how long a signature is valid (x=). 0 means the general
	// setting, and NoExpiry that it is valid for ever in spite of that.
	Expiry   time.Duration
	NoExpiry bool

	// Fields and Oversign are the names of the header fields to sign, and of
	// those to sign even where they are absent. Nil means the general setting.
	// They are not checked here.
	Fields, Oversign []string

	// Strict says that the message must not leave unsigned.
	Strict bool

	// Outcomes are actions by cause, when it cannot be signed. They are not
	// checked here.
	Outcomes map[string]string
}

const (
	allDomains      = "*"       // Row.Domain
	identityAddress = "address" // Row.Identity

	// shortExpiry is the life of a signature below which mail loses its
	// signature in queues, which hold it for five days.
	shortExpiry = 6 * 24 * time.Hour
)

// row is a Row in the form that is used.
type row struct {
	Row
	number int
	called string // "row news"
	name   string // "row news (address news@example.org)"
}

func (r *row) excluded() string {
	reason := r.name + " is switched off"
	if r.Reason != "" {
		reason += ": " + r.Reason
	}
	return reason
}

// table finds rows by map, so that a lookup costs as much as the author domain
// has labels, however many rows there are.
type table struct {
	logins    map[string]*row // by key of the login
	addresses map[address]*row
	domains   map[string]*row // for the domain itself
	parents   map[string]*row // for what is below the domain
	fallback  *row
	locals    bool // whether anything depends on the local part of addresses
}

func newTable(rows []Row) (table, error) {
	t := table{
		logins:    make(map[string]*row),
		addresses: make(map[address]*row),
		domains:   make(map[string]*row),
		parents:   make(map[string]*row),
	}
	compiled := make([]row, len(rows))
	var bad []error
	for i := range rows {
		r := &compiled[i]
		*r = row{Row: rows[i], number: i + 1, called: called("row", rows[i].Name, i+1)}
		r.Selectors, r.Fields, r.Oversign = slices.Clone(r.Selectors), slices.Clone(r.Fields), slices.Clone(r.Oversign)
		r.Outcomes = maps.Clone(r.Outcomes)
		bad = append(bad, optionErrors(fmt.Sprintf("Table[%d]", i), r.called, t.add(r)))
	}
	if err := errors.Join(bad...); err != nil {
		return table{}, err
	}
	// What a row for the domain alone leaves over, one with Subdomains takes.
	for d, r := range t.parents {
		if t.domains[d] == nil {
			t.domains[d] = r
		}
	}
	return t, nil
}

// add checks a row, brings it into the form that is compared, and notes what it
// is about.
func (t *table) add(r *row) error {
	var bad []error
	report := func(err error) {
		if err != nil {
			bad = append(bad, err)
		}
	}
	report(t.place(r))
	if r.SignAs != "" {
		d, err := Domain(r.SignAs)
		if err != nil {
			err = fmt.Errorf("sign as: %w", err)
		}
		report(err)
		r.SignAs = d
	}
	if r.Subdomains && (r.Domain == "" || r.Domain == allDomains) {
		report(errors.New("subdomains of no domain; name the domain, or leave them out"))
	}
	if r.Always && !r.Subdomains && (r.SignAs == "" || r.Address != "" || r.Login == "" && r.Domain != allDomains) {
		report(errors.New("always has no effect here, because the row is not second to other keys; leave it out"))
	}
	for i, s := range r.Selectors {
		r.Selectors[i] = lower(s)
		report(checkSelector(r.Selectors[i]))
	}
	if r.Selectors != nil && len(r.Selectors) == 0 {
		report(errors.New("an empty list of selectors, so nothing could sign; leave it out, or switch the row off"))
	}
	if len(bad) == 0 {
		report(r.checkIdentity())
	}
	t.locals = t.locals || r.Address != "" || r.Identity == identityAddress
	if !slices.Contains([]string{"", "relaxed", "simple", "relaxed/relaxed", "relaxed/simple", "simple/relaxed", "simple/simple"}, r.Canonicalization) {
		report(fmt.Errorf("canonicalization %s: want one such as relaxed/relaxed, of relaxed and simple", quote(r.Canonicalization)))
	}
	switch {
	case r.Expiry < 0:
		report(fmt.Errorf("expiry %v: want a time span of 6 days or more", r.Expiry))
	case r.Expiry > 0 && r.NoExpiry:
		report(fmt.Errorf("expiry %v, and none at all; leave one of them out", r.Expiry))
	}
	return errors.Join(bad...)
}

// place notes what the row is about, and gives it a name.
func (t *table) place(r *row) error {
	count := 0
	for _, s := range []string{r.Login, r.Address, r.Domain} {
		if s != "" {
			count++
		}
	}
	if count != 1 {
		return errors.New(`want one of a login, an address and a domain to say what the row is about; the domain "*" is all other mail`)
	}
	var about string
	var taken *row
	switch {
	case r.Login != "":
		if strings.HasPrefix(r.Login, "@") || r.Login == allDomains {
			return fmt.Errorf("login %s: a row is about one login; write a row for the domain, or for each login", quote(r.Login))
		}
		r.Login = newLogin(r.Login).key
		about, taken = "login "+r.Login, t.logins[r.Login]
		t.logins[r.Login] = r
	case r.Address != "":
		a, err := newAddress(r.Address)
		if err != nil {
			return err
		}
		r.Address = a.local + "@" + a.domain
		about, taken = "address "+r.Address, t.addresses[a]
		t.addresses[a] = r
	case r.Domain == allDomains:
		about, taken = "all other mail", t.fallback
		t.fallback = r
	default:
		d, err := Domain(r.Domain)
		if err != nil {
			return err
		}
		r.Domain = d
		about = "domain " + d
		rows := t.domains
		if r.Subdomains {
			about, rows = about+" and below", t.parents
		}
		taken = rows[d]
		rows[d] = r
	}
	r.name = r.called + " (" + about + ")"
	if taken != nil {
		return fmt.Errorf("%s has %s already; merge the two", about, taken.called)
	}
	return nil
}

// checkIdentity checks i= against the signing domain, as far as it is known.
func (r *row) checkIdentity() error {
	switch r.Identity {
	case "", identityAddress:
		return nil
	}
	at := strings.LastIndexByte(r.Identity, '@')
	if at < 0 {
		return fmt.Errorf("identity %s: want an address, @ and a domain, or the word address", quote(r.Identity))
	}
	local, name := r.Identity[:at], r.Identity[at+1:]
	if len(local) > maxLocal {
		return fmt.Errorf("identity %s: the part before the @ is longer than %d octets", quote(r.Identity), maxLocal)
	}
	if strings.ContainsFunc(local, func(c rune) bool { return c <= ' ' || c > '~' }) {
		return fmt.Errorf("identity %s: only printable ASCII without blanks can stand before the @", quote(r.Identity))
	}
	d, err := Domain(name)
	if err != nil {
		return fmt.Errorf("identity %s: %w", quote(r.Identity), err)
	}
	r.Identity = local + "@" + d
	as := r.SignAs
	switch {
	case as != "":
	case r.Domain != "" && r.Domain != allDomains:
		as = r.Domain
	case r.Address != "":
		as = r.Address[strings.LastIndexByte(r.Address, '@')+1:]
	default:
		return fmt.Errorf("identity %s: the signing domain is the author's, whatever that is; "+
			"say what to sign as, or write the word address", quote(r.Identity))
	}
	if !within(d, as) {
		return fmt.Errorf("identity %s: not in the signing domain %s or below it (RFC 6376, section 3.5)", quote(r.Identity), as)
	}
	return nil
}

// maxLocal is the greatest length of a local part (RFC 5321, 4.5.3.1.1).
const maxLocal = 64

// checkSelector checks a lower-case selector (RFC 6376, section 3.1).
func checkSelector(s string) error {
	if s == "" || len(s) > maxName {
		return fmt.Errorf("selector %s: want a name of 1 to %d octets", quote(s), maxName)
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > maxLabel || label[0] == '-' || label[len(label)-1] == '-' ||
			strings.ContainsFunc(label, func(c rune) bool { return !isAlnum(c) && c != '-' && c != '_' }) {
			return fmt.Errorf("selector %s: want letters, digits, hyphens and underscores, with dots between them, such as 2026a", quote(s))
		}
	}
	return nil
}

// within reports whether a domain is another, or below it.
func within(d, of string) bool {
	return d == of || len(d) > len(of) && strings.HasSuffix(d, of) && d[len(d)-len(of)-1] == '.'
}

// unaligned reports whether two domains surely belong to different
// organizations. Without a list of public suffixes, or DNS, it can be known
// only of those that differ in the last two labels, which any organizational
// domain has.
func unaligned(a, b string) bool { return lastTwo(a) != lastTwo(b) }

// lastTwo returns the last two labels of a name. One from the keystore may have
// less.
func lastTwo(d string) string {
	last := strings.LastIndexByte(d, '.')
	if last < 0 {
		return d
	}
	return d[strings.LastIndexByte(d[:last], '.')+1:]
}

// level is what the row of a message is about.
type level uint8

const (
	levelLogin level = iota
	levelAddress
	levelDomain
	levelParent
	levelFallback
	levelNone // there is no row
)

// match is the row of a message.
type match struct {
	row   *row
	level level
}

// find returns the most specific row.
func (t *table) find(l login, a author) match {
	if r := t.logins[l.key]; r != nil {
		return match{r, levelLogin}
	}
	if len(t.addresses) > 0 {
		for _, local := range a.locals {
			if r := t.addresses[address{localKey(local), a.domain}]; r != nil {
				return match{r, levelAddress}
			}
		}
	}
	if r := t.domains[a.domain]; r != nil {
		return match{r, levelDomain}
	}
	if len(t.parents) > 0 {
		for up := parent(a.domain); up != ""; up = parent(up) {
			if r := t.parents[up]; r != nil {
				return match{r, levelParent}
			}
		}
	}
	if t.fallback != nil {
		return match{t.fallback, levelFallback}
	}
	return match{nil, levelNone}
}

// allows reports whether the row is itself a permission for its signing domain.
func (m match) allows() bool {
	return m.level == levelLogin && m.row.SignAs != "" && !m.row.Disabled
}

// candidates returns the domains that may sign. Allowed says whether the sender
// may sign for the author domain; from is the domain of the From field.
func (m match) candidates(a author, from string, allowed bool) ([]string, []Candidate) {
	as, second := m.signAs()
	var list [2]Candidate
	n := 0
	if as == "" {
		as = a.domain
	} else if second && allowed && as != a.domain {
		list[0] = Candidate{Domain: a.domain, Unaligned: unaligned(a.domain, from)}
		n = 1
	}
	list[n] = Candidate{Domain: as, Unaligned: unaligned(as, from)}
	if m.row != nil {
		list[n].Selectors = m.row.Selectors
		list[n].Identity = m.row.identity(a, as)
	}
	if n == 0 {
		// One piece of memory for both results of nearly all messages.
		room := &struct {
			domain    [1]string
			candidate [1]Candidate
		}{[1]string{as}, [1]Candidate{list[0]}}
		return room.domain[:], room.candidate[:]
	}
	return []string{list[0].Domain, list[1].Domain}, []Candidate{list[0], list[1]}
}

// own says whether the author's own keys may sign, which are those of the author
// domain, unless the keystore tells. A row leaves that to them if it names
// nothing to sign with but that domain, or comes second to them.
func (m match) own(a author, allowed bool) bool {
	if m.row == nil {
		return true
	}
	as, second := m.signAs()
	if as != "" && !(second && allowed) {
		return false
	}
	return as != "" && as != a.domain || m.row.Selectors == nil && m.row.Identity == ""
}

// signAs returns what the row signs as, empty if that is the author domain, and
// whether it comes second to keys of the author domain.
func (m match) signAs() (as string, second bool) {
	switch {
	case m.row == nil:
		return "", false
	case m.row.SignAs != "":
		return m.row.SignAs, !m.row.Always && (m.level == levelParent || m.level == levelLogin || m.level == levelFallback)
	case m.level == levelParent:
		return m.row.Domain, !m.row.Always
	}
	return "", false
}

// identity returns the i= of a row for a signing domain.
func (r *row) identity(a author, as string) string {
	if r.Identity != identityAddress {
		return r.Identity
	}
	if len(a.locals) != 1 || !within(a.domain, as) {
		return ""
	}
	local := strings.Trim(a.locals[0], `"`)
	if len(local) > maxLocal || strings.ContainsFunc(local, func(c rune) bool { return c > '~' }) {
		return ""
	}
	return local + "@" + a.domain
}

// warnings returns doubts about rows that are valid.
func (t *table) warnings(rows []Row) []error {
	var found []error
	for i := range rows {
		r := &rows[i]
		warn := func(format string, args ...any) {
			found = append(found, &OptionError{fmt.Sprintf("Table[%d]", i), called("row", r.Name, i+1), fmt.Errorf(format, args...)})
		}
		if r.Expiry > 0 && r.Expiry < shortExpiry {
			warn("expiry of %.3g days: mail that waits in a queue for five days arrives with an expired signature; use 6 days or more, or leave it out", r.Expiry.Hours()/24)
		}
		as, err := Domain(r.SignAs)
		if err != nil || r.Disabled {
			continue
		}
		switch author, err := Domain(r.Domain); {
		case err == nil && unaligned(author, as):
			warn("signs mail of %s as %s, which DMARC does not count for it", author, as)
		case r.Login != "" || r.Domain == allDomains:
			warn("signs mail of any domain as %s, which DMARC does not count for authors of other domains", as)
		}
	}
	return found
}
