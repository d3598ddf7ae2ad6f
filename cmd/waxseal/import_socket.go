package main

// The socket of another signer.

import (
	"os/user"
	"strings"
)

// takeSocket takes over the socket of a milter, in libmilter's spelling.
func (t *takeover) takeSocket(place, setting, text string) (ListenConfig, bool) {
	c := defaultListen()
	if strings.HasPrefix(text, "/") {
		text = "unix:" + text
	}
	if rest, ok := strings.CutPrefix(text, "inet:"); ok && !strings.ContainsAny(rest, "@:") {
		t.open(place, setting, "it is open to all machines, and whoever can connect can have mail signed",
			"write inet:"+rest+"@127.0.0.1; or leave it out, and set listen and allow_remote afterwards")
		return c, false
	}
	if err := c.Address.set(text); err != nil {
		t.open(place, setting, err.Error(), "correct it")
		return c, false
	}
	if c.Address.Network != "unix" {
		c.AllowRemote = c.Address.IsRemote()
	}
	t.comments["listen.milter"] = place
	t.add(lineTaken, place, setting, "listen.milter.address", "")
	return c, true
}

// socketGroup returns a group if there is one of this name here.
func (t *takeover) socketGroup(place, setting, group string) string {
	if _, err := user.LookupGroup(group); err != nil {
		t.add(lineDefault, place, setting, "there is no group "+group+" here, so that of the socket is left to waxseal", "set listen.milter.group to a group that the mail server is in")
		return ""
	}
	return group
}
