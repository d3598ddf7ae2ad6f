package main

// The socket of another signer.

import (
	"fmt"
	"os/user"
	"path/filepath"
	"slices"
	"strings"
)

// unitSockets are the directories for sockets that our unit opens by itself.
var unitSockets = []string{"/run/waxseal", "/var/spool/postfix/waxseal"}

// socketHints are what the daemon's user needs to take the place of another
// program at its socket.
func socketHints(c ListenConfig) []string {
	if c.Address.Network != "unix" {
		return nil
	}
	var hints []string
	if c.Group != "" {
		hints = append(hints, "the daemon's user gives the socket to group "+c.Group+", so it has to be a member: usermod -aG "+c.Group+" waxseal")
	}
	dir := filepath.Dir(c.Address.Address.Address)
	if slices.Contains(unitSockets, dir) {
		return hints
	}
	open := unitOpens(dir)
	unit := "systemctl edit waxseal, with the lines [Service] and " + open
	if strings.HasPrefix(open, "RuntimeDirectory=") { // systemd gives it to the user
		return append(hints, "the directory of the socket, "+dir+", has to be open to the daemon: "+unit)
	}
	return append(hints, fmt.Sprintf("the directory of the socket, %s, has to be open to the daemon: chown waxseal %s; and %s", dir, dir, unit))
}

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
