package dns

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"waxseal/keystore"
)

// negativeUnknown stands in for a negative TTL that could not be found out: few
// resolvers keep a negative answer for longer (RFC 2308, section 5).
const negativeUnknown = 3 * time.Hour

// Report is what DNS has at the name of a key record. Texts that come from DNS
// may hold any octet in Values, and are quoted in every Detail.
type Report struct {
	Name   string   // names are without the final dot
	Chain  []string // where the CNAMEs led, in order
	Zone   string   // the zone of the last of them, or of Name; empty for the root
	Wanted string   // the record that should be there

	Servers   []ServerReport // each address of each authoritative server
	Resolvers []ServerReport

	Verdict Verdict // on all authoritative servers together
	Detail  string  // the same in a sentence

	// TTL is the longest time for which a resolver may remember what is there,
	// NegativeTTL that nothing is there.
	TTL, NegativeTTL time.Duration

	Wildcard bool // a wildcard answers for selectors that nobody made
	Bogus    bool // a resolver refuses the record, because DNSSEC is broken

	doubled string // the record is at this name instead
	left    int    // servers that were not asked
}

// ServerReport is what one address of a server showed.
type ServerReport struct {
	Server  string // the name of the server; IP:PORT of a resolver
	Address netip.Addr
	Verdict Verdict
	Detail  string // in words; empty for a record that is the one wanted to the letter
	TTL     time.Duration
	Values  []string // the TXT records at the name
}

// severity orders the verdicts that can be the one on all servers, mild ones
// first.
var severity = []Verdict{Matches, Blanks, Testing, Timeout, Refused, Failed, Lame}

// sumUp derives the verdict on the whole from those on the servers.
func (r *Report) sumUp() {
	if len(r.Servers) == 0 {
		r.Verdict, r.Detail = Missing, fmt.Sprintf("%s does not exist in DNS: the resolver knows no zone above it but the root", r.Name)
		return
	}
	var counted, showing, silent []*ServerReport
	for i := range r.Servers {
		switch s := &r.Servers[i]; {
		case s.Verdict == Unreachable:
		case s.Verdict.silent():
			silent, counted = append(silent, s), append(counted, s)
		default:
			showing, counted = append(showing, s), append(counted, s)
		}
	}
	if len(counted) == 0 {
		r.Verdict, r.Detail = Unreachable, "no name server can be reached from this machine: "+r.Servers[0].Detail
		return
	}
	var odd *ServerReport
	var others string
	if len(showing) > 0 {
		odd, others = minority(showing)
	}
	switch {
	case odd != nil:
		r.Verdict = Differs
		r.Detail = fmt.Sprintf("%s, differs: %s; %s", r.which(odd), odd.words(), others)
	case len(showing) > 0 && !showing[0].Verdict.Shown():
		r.Verdict, r.Detail = showing[0].Verdict, showing[0].words()
	case len(silent) > 0:
		s := slices.MaxFunc(silent, bySeverity)
		r.Verdict, r.Detail = s.Verdict, fmt.Sprintf("%s: %s", r.which(s), s.words())
	default:
		s := slices.MaxFunc(showing, bySeverity)
		r.Verdict, r.Detail = s.Verdict, s.words()
	}
	r.remark(silent)
}

// which names a server for people.
func (r *Report) which(s *ServerReport) string {
	for i := range r.Servers {
		if &r.Servers[i] == s {
			if !s.Address.IsValid() {
				return fmt.Sprintf("server %d of %d, %s", i+1, len(r.Servers), s.Server)
			}
			return fmt.Sprintf("server %d of %d, %s (%s)", i+1, len(r.Servers), s.Server, s.Address)
		}
	}
	return s.Server
}

func (s *ServerReport) words() string {
	if s.Detail == "" {
		return "the record is there"
	}
	return s.Detail
}

// class is the same for servers that agree: those that all show our key, be it
// with different warnings, or that have a CNAME to the same name.
func (s *ServerReport) class() string {
	switch {
	case s.Verdict.Shown():
		return string(Matches)
	case s.Verdict == Differs:
		return s.Detail
	}
	return string(s.Verdict)
}

// minority returns a server that fewer agree with than with others, of equal
// parties one that does not show our key, and what the others have. It returns
// nil when all agree.
func minority(servers []*ServerReport) (odd *ServerReport, others string) {
	count := map[string]int{}
	for _, s := range servers {
		count[s.class()]++
	}
	if len(count) < 2 {
		return nil, ""
	}
	for _, s := range servers {
		if odd == nil || count[s.class()] < count[odd.class()] ||
			count[s.class()] == count[odd.class()] && odd.Verdict.Shown() {
			odd = s
		}
	}
	for _, s := range servers {
		switch {
		case s.class() == odd.class():
		case len(count) > 2:
			return odd, "nor do the others agree"
		default:
			return odd, fmt.Sprintf("the others: %s", s.words())
		}
	}
	return odd, ""
}

func bySeverity(a, b *ServerReport) int {
	return slices.Index(severity, a.Verdict) - slices.Index(severity, b.Verdict)
}

// remark adds to the sentence what else a person should know.
func (r *Report) remark(silent []*ServerReport) {
	var also []string
	if r.doubled != "" {
		also = append(also, fmt.Sprintf("there is a record at %s: the name was entered with the zone, and the zone was added to it again", r.doubled))
	}
	if len(silent) > 0 && !r.Verdict.silent() {
		also = append(also, fmt.Sprintf("%s shows nothing: %s", r.which(silent[0]), silent[0].words()))
	}
	if n := count(r.Servers, Unreachable); n > 0 {
		also = append(also, fmt.Sprintf("%d of %d servers cannot be reached from this machine and are not counted", n, len(r.Servers)))
	}
	if r.left > 0 {
		also = append(also, fmt.Sprintf("%d more servers were not asked", r.left))
	}
	if r.Wildcard && r.Verdict != Wildcard {
		also = append(also, "a wildcard answers for selectors that nobody made")
	}
	for _, s := range r.Resolvers {
		switch {
		case s.Verdict == Bogus:
			r.Bogus = true
			if r.Verdict.Shown() {
				r.Verdict = Bogus
			}
			also = append(also, fmt.Sprintf("resolver %s refuses the record: %s", s.Server, s.Detail))
		case r.Verdict.Shown() && !s.Verdict.Shown():
			also = append(also, fmt.Sprintf("resolver %s does not show it: %s", s.Server, s.Detail))
		}
	}
	r.Detail = strings.Join(append([]string{r.Detail}, also...), "; ")
}

func count(servers []ServerReport, v Verdict) int {
	n := 0
	for i := range servers {
		if servers[i].Verdict == v {
			n++
		}
	}
	return n
}

// Sight is what the report means for the key's life. It is Different as soon as
// one server shows what it should not, and Unknown as long as one that could do
// so has not answered. It is Split unless all have answered, and none of them
// shows the record.
func (r *Report) Sight(now time.Time) keystore.Sight {
	complete := len(r.Servers) > 0 && r.left == 0 && !slices.ContainsFunc(r.Servers, func(s ServerReport) bool {
		return s.Verdict.silent() && s.Verdict != Unreachable
	})
	state := keystore.Different
	switch v := r.Verdict; {
	case v.silent():
		state = keystore.Unknown
	case v == Revoked, v == Matches && strings.HasSuffix(r.Wanted, "; p="):
		state = keystore.ShownRevoked
	case v.Shown():
		state = keystore.Shown
	case v == Missing || v == Dangling || v == Wildcard:
		state = keystore.Missing
	}
	if state != keystore.Different && !complete {
		state = keystore.Unknown
	}
	split := state != keystore.Shown && (!complete || slices.ContainsFunc(r.Servers, func(s ServerReport) bool { return s.Verdict.Shown() }))
	return keystore.Sight{At: now, State: state, TTL: r.TTL, NegativeTTL: r.NegativeTTL, Split: split, Detail: r.Detail}
}
