package dns

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"syscall"
	"time"

	mdns "github.com/miekg/dns"
)

// refusals say for each code of an answer what it means and what to do. In
// them {key}, {keyname}, {zone} and {name} stand for the real ones. The codes are those of RFC
// 2136, section 2.2.
var refusals = map[int]struct{ text, remedy string }{
	mdns.RcodeRefused: {
		"the server does not let the key {key} do this (REFUSED)",
		`allow it; in BIND's zone {zone}: update-policy { grant {keyname} name {name} TXT; };`,
	},
	mdns.RcodeNotAuth: {
		"the server is no authority for {zone}, or does not accept the key {key} (NOTAUTH)",
		"give the primary of the zone, and see that the key is in its configuration and may ask as well as update (Knot: action: [query, update])",
	},
	mdns.RcodeNotZone: {
		"the name is not in the zone {zone} (NOTZONE)",
		"give the zone that holds it, or none, so that it is found",
	},
	mdns.RcodeNotImplemented: {
		"the server does not know dynamic updates (NOTIMP)",
		"give a server that does, or publish by a hook",
	},
	mdns.RcodeFormatError: {
		"the server does not understand the message (FORMERR)",
		"see its log; if it knows neither TSIG nor updates, publish by a hook",
	},
	mdns.RcodeServerFailure: {
		"the server could not do it (SERVFAIL)",
		"see its log; BIND, for instance, has to be able to write its journal beside the zone file",
	},
}

// signatureErrors are what a server says of our signature (RFC 8945, section
// 5.2). BADTIME is told with the difference.
var signatureErrors = map[uint16]struct{ text, remedy string }{
	mdns.RcodeBadKey: {
		"the server does not know the key {key} (BADKEY)",
		"put the same key, with this name and algorithm, into its configuration, and let it reload that",
	},
	mdns.RcodeBadSig: {
		"the server has another secret for the key {key} (BADSIG)",
		"copy the key file anew from the one to the other",
	},
	mdns.RcodeBadTrunc: {
		"the server wants a longer signature of the key {key} (BADTRUNC)",
		"correct the key's algorithm in its configuration",
	},
}

// refusal puts an answer that is neither a success nor a failed prerequisite
// into words.
func (u *Update) refusal(p *primary, r *mdns.Msg) error {
	zone := plain(p.zone)
	if zone == "" {
		zone = "the zone of " + plain(p.name)
	}
	fill := strings.NewReplacer("{keyname}", u.key.Name, "{key}", u.key.String(), "{zone}", zone, "{name}", plain(p.name)).Replace
	if t := r.IsTsig(); t != nil && t.Error != 0 {
		if t.Error == mdns.RcodeBadTime {
			return u.badTime(t)
		}
		if words, ok := signatureErrors[t.Error]; ok {
			return &problem{text: fill(words.text), remedy: words.remedy}
		}
		return &problem{text: fill("the server does not accept our signature with the key {key} (" + rcodeName(int(t.Error)) + ")")}
	}
	if words, ok := refusals[r.Rcode]; ok {
		return &problem{text: fill(words.text), remedy: fill(words.remedy)}
	}
	return &problem{text: "the server answers " + rcodeName(r.Rcode), remedy: "see its log"}
}

// badTime tells how far the clocks are apart. The server sends its time in 48
// bits (RFC 8945, section 5.2.3).
func (u *Update) badTime(t *mdns.TSIG) error {
	remedy := "set both clocks right, by NTP"
	text := "the server's clock and ours differ by too much for a signature (BADTIME)"
	if seconds, err := strconv.ParseUint(t.OtherData, 16, 48); err == nil && len(t.OtherData) == 12 {
		ahead := time.Unix(int64(seconds), 0).Sub(time.Unix(int64(t.TimeSigned), 0))
		where := "ahead of"
		if ahead < 0 {
			ahead, where = -ahead, "behind"
		}
		text = fmt.Sprintf("the server's clock is %v %s ours, too much for a signature (BADTIME)", ahead, where)
	}
	return &problem{text: text, remedy: remedy}
}

// unheard puts an exchange without a usable answer into words.
func (u *Update) unheard(err error) error {
	var wait net.Error
	switch {
	case err == nil:
		return &problem{text: "the server has no address"}
	case errors.Is(err, mdns.ErrTime):
		return &problem{text: "the answer was signed at another time than ours", remedy: "set both clocks right, by NTP", err: err}
	case errors.Is(err, mdns.ErrSig), errors.Is(err, mdns.ErrSecret), errors.Is(err, mdns.ErrKeyAlg):
		return &problem{
			text:   "the signature of the answer is not one of our key " + u.key.String(),
			remedy: "compare the key in the server's configuration; if it is the same, somebody in between changes answers",
			err:    err,
		}
	case errors.Is(err, syscall.ECONNREFUSED):
		return &problem{
			text:   "nothing answers on port " + u.port + " over TCP",
			remedy: "start the server, open the port for TCP, or correct the server for updates",
			err:    err,
		}
	case errors.As(err, &wait) && wait.Timeout(), errors.Is(err, net.ErrClosed):
		return &problem{
			text:   fmt.Sprintf("no answer over TCP in %v", u.timeout),
			remedy: "open port " + u.port + " for TCP between here and the server; repeating is harmless",
			err:    err,
		}
	}
	return &problem{text: fmt.Sprintf("no answer: %v", err), err: err}
}

func rcodeName(code int) string {
	if name, ok := mdns.RcodeToString[code]; ok {
		return name
	}
	return fmt.Sprintf("code %d", code)
}
