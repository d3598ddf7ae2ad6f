// Package mta reads the set-up of Postfix and Sendmail, and finds what will go
// wrong there for a milter that signs: mail that passes it by, mail that leaves
// unsigned when it is not running, and everything the mail server or another
// program still changes in a message that is signed.
//
// It changes nothing. Settings are read as the mail server itself understands
// them: those of Postfix from postconf, those of Sendmail from sendmail.cf.
package mta

import (
	"cmp"
	"net"
	"slices"

	"waxseal/milter"
)

// Severity says how bad a finding is.
type Severity string

const (
	Error   Severity = "error"   // mail leaves unsigned, breaks, or is stuck
	Warning Severity = "warning" // it does so for some mail, or at times
	Note    Severity = "note"    // worth knowing
)

// Finding is one thing that will go wrong.
type Finding struct {
	Severity Severity `json:"severity"`
	Name     string   `json:"name"`             // a fixed word for the kind
	Where    string   `json:"where"`            // the file, and the setting in it
	Problem  string   `json:"problem"`          // what goes wrong
	Remedy   string   `json:"remedy,omitempty"` // what to do; where it can be, a line to paste
}

// Setup is what a mail server's set-up is compared with.
type Setup struct {
	// Sockets are where waxseal listens, at least one, the one to recommend first.
	Sockets []milter.Address

	// LoopbackIsOurs says that waxseal signs whatever comes from loopback.
	LoopbackIsOurs bool

	// Peers is what the listeners have been told of their mail server; one that is
	// absent was told nothing.
	Peers map[milter.Address]milter.Peer

	// Host is the name of this machine, for a Sendmail whose configuration does
	// not name it; empty when that is not known.
	Host string

	// Root is the directory below which the configurations of other signers are
	// looked up. Empty: "/".
	Root string
}

// Connection is one that the mail server will make to waxseal.
type Connection struct {
	Address milter.Address // as the mail server has it; a path is that outside a chroot
	User    string         // who makes it; empty: root
	Where   string
}

// dialed is the address that a mail server connects to that means our socket by
// named. An IP address counts as it is: we may listen at 127.0.0.1, and not at
// [::1]. Of a name, mail servers try all addresses.
func dialed(named, socket milter.Address) milter.Address {
	host, _, _ := net.SplitHostPort(named.Address)
	ours, _, _ := net.SplitHostPort(socket.Address)
	if ip := net.ParseIP(host); socket.Network == "unix" || ip == nil || ip.Equal(net.ParseIP(ours)) {
		return socket
	}
	return named
}

// findings collects without repeating: a setting of main.cf is met at every
// service that uses it.
type findings []Finding

func (all *findings) add(f Finding) {
	if !slices.ContainsFunc(*all, func(g Finding) bool { return g.Name == f.Name && g.Where == f.Where && g.Problem == f.Problem }) {
		*all = append(*all, f)
	}
}

// Sort puts the worst findings first, and leaves the order within a severity.
func Sort(all []Finding) {
	rank := map[Severity]int{Error: 0, Warning: 1, Note: 2}
	slices.SortStableFunc(all, func(a, b Finding) int { return cmp.Compare(rank[a.Severity], rank[b.Severity]) })
}
