package mta

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"path/filepath"
	"syscall"
	"time"

	"waxseal/milter"
)

// patience is how long a milter may take for its first answer.
const patience = 5 * time.Second

// Negotiate connects to a milter and begins its protocol, as a mail server does
// for each connection, and goes away. The error says what the milter did wrong.
func Negotiate(ctx context.Context, a milter.Address) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, a.Network, a.Address)
	if err != nil {
		return err
	}
	defer conn.Close()
	deadline, _ := ctx.Deadline()
	if err := conn.SetDeadline(deadline); err != nil {
		return err
	}
	// SMFIC_OPTNEG: length, command, version, actions, protocol steps.
	const version, addHeader = 6, 0x01
	packet := append([]byte{0, 0, 0, 13, 'O'}, make([]byte, 12)...)
	binary.BigEndian.PutUint32(packet[5:], version)
	binary.BigEndian.PutUint32(packet[9:], 0x1ff)     // whatever a milter may change
	binary.BigEndian.PutUint32(packet[13:], 0x1fffff) // and all steps
	if _, err := conn.Write(packet); err != nil {
		return fmt.Errorf("talking to it: %w", err)
	}
	var answer [17]byte
	if _, err := io.ReadFull(conn, answer[:]); err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return errors.New("it hung up at the first packet: it is no milter, or takes no more connections")
		}
		return fmt.Errorf("waiting for its answer: %w", err)
	}
	size, command := binary.BigEndian.Uint32(answer[:]), answer[4]
	if size < 13 || command != 'O' {
		return fmt.Errorf("its answer %q is none of a milter", answer[:])
	}
	if taken := binary.BigEndian.Uint32(answer[9:]); taken&addHeader == 0 {
		return errors.New("it is a milter that adds no fields, and so is not waxseal")
	}
	_, _ = conn.Write([]byte{0, 0, 0, 1, 'Q'}) // a farewell; all that was to be known is known
	return nil
}

// Failure is why a milter cannot be used, in a form that one process can tell
// another.
type Failure struct {
	Kind string `json:"kind,omitempty"` // missing, denied, refused, or none of these
	Text string `json:"text"`
}

func (f *Failure) Error() string { return f.Text }

// NewFailure tells an error of Negotiate.
func NewFailure(err error) Failure {
	f := Failure{Text: err.Error()}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		f.Kind = "missing"
	case errors.Is(err, fs.ErrPermission):
		f.Kind = "denied"
	case errors.Is(err, syscall.ECONNREFUSED):
		f.Kind = "refused"
	}
	return f
}

// Finding says what a failure means. user is who tried to connect.
func (f Failure) Finding(c Connection, user string) Finding {
	found := Finding{Severity: Error, Name: "unreachable", Where: c.Where,
		Problem: fmt.Sprintf("user %s cannot use the milter at %s: %s", user, c.Address.Postfix(), f.Text)}
	switch f.Kind {
	case "missing":
		found.Remedy = "start waxseal, and let it listen there; \"waxseal check\" tells what keeps it from that"
	case "refused":
		found.Remedy = "start waxseal: nothing listens there"
	case "denied":
		dir := filepath.Dir(c.Address.Address)
		found.Remedy = fmt.Sprintf("let a group that %s is in use the socket: in waxseal.toml, for the listener: group = \"%s\"; and run: chgrp %s %s && chmod 0750 %s", user, user, user, dir, dir)
	default:
		found.Remedy = "see what listens there"
	}
	return found
}
