package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"runtime"
	"strconv"
	"syscall"
	"time"

	"waxseal/cmd/waxseal/internal/mta"
	"waxseal/milter"
)

// try connects to waxseal as the mail server will.
func (a *app) try(ctx context.Context, c mta.Connection, d *diagnosis) {
	who := c.User
	if who == "" {
		who = "root"
	}
	err := connectByUser(ctx, c.Address, who)
	var failed *mta.Failure
	switch {
	case err == nil:
		d.Tried = append(d.Tried, fmt.Sprintf("as user %s to %s", who, c.Address.Postfix()))
	case errors.As(err, &failed):
		d.Findings = append(d.Findings, failed.Finding(c, who))
	default:
		d.Findings = append(d.Findings, mta.Finding{Severity: mta.Note, Name: "not_tried", Where: c.Where,
			Problem: fmt.Sprintf("whether user %s can use the milter at %s was not tried: %v", who, c.Address.Postfix(), err),
			Remedy:  "run: sudo waxseal doctor " + d.MTA})
		if err := mta.Negotiate(ctx, c.Address); err != nil {
			if f := mta.NewFailure(err); f.Kind != "denied" {
				d.Findings = append(d.Findings, f.Finding(c, currentUser()))
			}
		}
	}
}

// connectByUser negotiates as a user. The error is a *mta.Failure when that user
// tried and failed.
func connectByUser(ctx context.Context, address milter.Address, name string) error {
	u, err := user.Lookup(name)
	if err != nil {
		return err
	}
	uid, err := strconv.Atoi(u.Uid)
	if err != nil {
		return err
	}
	if uid == os.Geteuid() {
		if err := mta.Negotiate(ctx, address); err != nil {
			f := mta.NewFailure(err)
			return &f
		}
		return nil
	}
	if os.Geteuid() != 0 {
		return errors.New("only root can do it")
	}
	credential, err := credentialOf(u)
	if err != nil {
		return err
	}
	// This link leads to the program even where the user cannot see its path.
	self := "/proc/self/exe"
	if runtime.GOOS != "linux" {
		if self, err = os.Executable(); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, childPatience)
	defer cancel()
	child := exec.CommandContext(ctx, self, "doctor", "--connect", address.Sendmail())
	child.Dir, child.Env = "/", []string{}
	child.SysProcAttr = &syscall.SysProcAttr{Credential: credential}
	out, err := child.Output()
	if err == nil {
		return nil
	}
	// Who can use that account may have tampered with the process.
	var f mta.Failure
	if len(out) > maxFailure || json.Unmarshal(out, &f) != nil || f.Text == "" {
		return err
	}
	f.Text = printable(f.Text)
	return &f
}

// childPatience is how long the process of another user may take, and maxFailure
// how much it may say.
const (
	childPatience = 15 * time.Second
	maxFailure    = 4096
)

// credentialOf is a user with all groups, as a mail server's daemon has it.
func credentialOf(u *user.User) (*syscall.Credential, error) {
	number := func(s string) (uint32, error) {
		n, err := strconv.ParseUint(s, 10, 32)
		return uint32(n), err
	}
	uid, err := number(u.Uid)
	if err != nil {
		return nil, err
	}
	gid, err := number(u.Gid)
	if err != nil {
		return nil, err
	}
	ids, err := u.GroupIds()
	if err != nil {
		return nil, err
	}
	c := &syscall.Credential{Uid: uid, Gid: gid}
	for _, id := range ids {
		g, err := number(id)
		if err != nil {
			return nil, err
		}
		c.Groups = append(c.Groups, g)
	}
	return c, nil
}

// connectAs is what the process of another user does: negotiate, and tell on
// standard output how it failed.
func (a *app) connectAs(ctx context.Context, address string) error {
	to, err := milter.ParseAddress(address)
	if err != nil {
		return misused(err)
	}
	if err := mta.Negotiate(ctx, to); err != nil {
		if err := a.printJSON(mta.NewFailure(err)); err != nil {
			return err
		}
		return errFindings
	}
	return nil
}

func currentUser() string {
	if u, err := user.Current(); err == nil {
		return u.Username
	}
	return strconv.Itoa(os.Geteuid())
}
