package keystore

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"syscall"
)

// remedied is an error with what to do about it.
type remedied struct {
	error
	remedy string
}

func (r remedied) Unwrap() error { return r.error }

// Hint is what to do about the error.
func (r remedied) Hint() string { return r.remedy }

// WithRemedy adds to an error what to do about it, which its method Hint tells. An
// error that tells so already, and one without a remedy, stay as they are.
func WithRemedy(err error, remedy string) error {
	var hint interface{ Hint() string }
	if err == nil || remedy == "" || errors.As(err, &hint) {
		return err
	}
	return remedied{err, remedy}
}

// SilentRemedy is what to do about a server that says nothing.
const SilentRemedy = "correct host and port in the keystore's URL, or let firewalls on the way pass the connection"

// ReachRemedy returns what to do about an error of reading a file that the URL of
// a keystore names, or of connecting to its server; empty if nothing is known.
// authority is the URL's option for a file of authorities of certificates.
func ReachRemedy(err error, authority string) string {
	var name *net.DNSError
	var file *fs.PathError
	var unknown x509.UnknownAuthorityError
	var hostname x509.HostnameError
	var invalid x509.CertificateInvalidError
	var noTLS tls.RecordHeaderError
	var network *net.OpError
	switch {
	case errors.As(err, &name):
		return fmt.Sprintf("correct the host %s in the keystore's URL, or have it found by DNS or /etc/hosts", name.Name)
	case errors.As(err, &unknown):
		return fmt.Sprintf("name the file with the certificate of its authority in the keystore's URL: %s=FILE", authority)
	case errors.As(err, &hostname):
		return "put the host into the keystore's URL as the server's certificate has it, or give the server a certificate for this one"
	case errors.As(err, &invalid):
		return "give the server another certificate"
	case errors.As(err, &noTLS):
		return "correct host and port in the keystore's URL, or have the server speak TLS"
	case errors.As(err, &file) && errors.Is(err, fs.ErrNotExist):
		return fmt.Sprintf("make %s, or correct its name in the keystore's URL", file.Path)
	case errors.As(err, &file) && errors.Is(err, fs.ErrPermission):
		return fmt.Sprintf("let the present user (id %d) read %s", os.Geteuid(), file.Path)
	case !errors.As(err, &network):
		return ""
	case errors.Is(err, fs.ErrNotExist):
		return "start the server, or correct the path of its socket in the keystore's URL"
	case errors.Is(err, fs.ErrPermission):
		return fmt.Sprintf("let the present user (id %d) connect to the server's socket", os.Geteuid())
	case errors.Is(err, syscall.ECONNREFUSED):
		return "start the server, or correct host and port in the keystore's URL"
	case network.Timeout(), errors.Is(err, context.DeadlineExceeded), errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return SilentRemedy
	}
	return ""
}
