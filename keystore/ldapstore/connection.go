package ldapstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/go-ldap/ldap/v3"

	"waxseal/keystore"
)

const dialTimeout = 2 * time.Second

// connection is one connection to the directory, which many may use at once. The
// library knows no contexts: what it does goes on by itself, for no longer than
// the time limit.
type connection struct {
	target  *target
	timeout time.Duration
	tasks   sync.WaitGroup
	dialing chan struct{} // held by whoever connects

	mu     sync.Mutex
	conn   *ldap.Conn // guarded by mu; nil: none
	closed bool       // guarded by mu
}

func newConnection(t *target, timeout time.Duration) *connection {
	return &connection{target: t, timeout: timeout, dialing: make(chan struct{}, 1)}
}

func (c *connection) close() {
	c.mu.Lock()
	c.closed = true
	if c.conn != nil {
		c.conn.Close()
	}
	c.mu.Unlock()
	c.tasks.Wait()
}

// search returns the entries that match, at most limit (0: all, in pages). An
// entry that the base does not have is none.
func (c *connection) search(ctx context.Context, base string, scope int, filter string, attributes []string, limit int) ([]*ldap.Entry, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	request := ldap.NewSearchRequest(base, scope, ldap.NeverDerefAliases, limit, int(c.timeout.Seconds())+1, false, filter, attributes, nil)
	type answer struct {
		result *ldap.SearchResult
		err    error
	}
	answers := make(chan answer, 1)
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return nil, errClosed
	}
	c.tasks.Go(func() {
		var a answer
		defer func() {
			if r := recover(); r != nil { // an answer that the library cannot bear
				a.err = fmt.Errorf("panic: %v", r)
			}
			answers <- a
		}()
		a.result, a.err = c.ask(ctx, request, limit == 0)
	})
	c.mu.Unlock()
	select {
	case a := <-answers:
		switch {
		case ldap.IsErrorWithCode(a.err, ldap.LDAPResultNoSuchObject) && scope == ldap.ScopeBaseObject:
			return nil, nil
		case a.err != nil:
			return nil, c.withRemedy(fmt.Errorf("ldap %s: %w", c.target.name, a.err))
		}
		return a.result.Entries, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("ldap %s: %w", c.target.name, ctx.Err())
	}
}

// withRemedy adds to an error what to do about it.
func (c *connection) withRemedy(err error) error {
	remedy := keystore.ReachRemedy(err, "ca")
	if remedy == "" && errors.Is(err, io.EOF) {
		remedy = "correct the port in the keystore's URL; a server that speaks TLS from the start wants ldaps://, and one that does not ldap://"
	}
	if answer := (*ldap.Error)(nil); remedy == "" && errors.As(err, &answer) {
		switch answer.ResultCode {
		case ldap.LDAPResultInvalidCredentials:
			remedy = "correct the bind_dn or the password_file in the keystore's URL"
		case ldap.LDAPResultInsufficientAccessRights, ldap.LDAPResultNoSuchObject:
			remedy = "correct the base in the keystore's URL, or give the user the rights that contrib/ldap has"
		}
	}
	return keystore.WithRemedy(err, remedy)
}

// ask asks, and asks a second time by a new connection if the first has been
// lost.
func (c *connection) ask(ctx context.Context, request *ldap.SearchRequest, pages bool) (*ldap.SearchResult, error) {
	result, err := c.once(ctx, request, pages)
	if lost(err) && ctx.Err() == nil {
		result, err = c.once(ctx, request, pages)
	}
	return result, err
}

func (c *connection) once(ctx context.Context, request *ldap.SearchRequest, pages bool) (result *ldap.SearchResult, err error) {
	conn, err := c.get(ctx)
	if err != nil {
		return nil, err
	}
	if pages {
		result, err = conn.SearchWithPaging(request, pagingSize)
	} else {
		result, err = conn.Search(request)
	}
	if lost(err) {
		c.mu.Lock()
		if c.conn == conn {
			c.conn = nil
		}
		c.mu.Unlock()
		conn.Close()
	}
	return result, err
}

// lost reports whether the error is about the connection, or the server is about
// to go.
func lost(err error) bool {
	answer := (*ldap.Error)(nil)
	if !errors.As(err, &answer) {
		return err != nil && !errors.Is(err, errClosed)
	}
	return slices.Contains([]uint16{ldap.ErrorNetwork, ldap.LDAPResultUnavailable, ldap.LDAPResultBusy}, answer.ResultCode)
}

// get returns the connection, after making it if there is none.
func (c *connection) get(ctx context.Context) (*ldap.Conn, error) {
	select {
	case c.dialing <- struct{}{}:
		defer func() { <-c.dialing }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	c.mu.Lock()
	conn := c.conn
	c.mu.Unlock()
	if conn != nil && !conn.IsClosing() {
		return conn, nil
	}
	var err error
	for _, url := range c.target.urls {
		if conn, err = c.dial(url); err == nil {
			break
		}
	}
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		conn.Close()
		return nil, errClosed
	}
	c.conn = conn
	return conn, nil
}

// dial connects to one host, and logs in.
func (c *connection) dial(url string) (*ldap.Conn, error) {
	tls := c.target.tlsFor(url)
	conn, err := ldap.DialURL(url, ldap.DialWithDialer(&net.Dialer{Timeout: min(dialTimeout, c.timeout)}), ldap.DialWithTLSConfig(tls))
	if err != nil {
		return nil, err
	}
	conn.SetTimeout(c.timeout)
	if c.target.startTLS {
		if err := conn.StartTLS(tls); err != nil {
			conn.Close()
			return nil, fmt.Errorf("StartTLS: %w", err)
		}
	}
	if err := c.login(conn); err != nil {
		conn.Close()
		return nil, fmt.Errorf("logging in: %w", err)
	}
	return conn, nil
}

func (c *connection) login(conn *ldap.Conn) error {
	if c.target.external {
		return conn.ExternalBind()
	}
	if c.target.bindDN == "" {
		return nil
	}
	password, err := keystore.ReadSecret(c.target.passwordFile)
	if err != nil {
		return fmt.Errorf("password file: %w", err)
	}
	return conn.Bind(c.target.bindDN, password)
}
