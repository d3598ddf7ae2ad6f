package vaultstore

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"waxseal/keystore"
)

const (
	// maxAnswer bounds what Vault may answer: a list of a million names.
	maxAnswer = 64 << 20

	// rounds is how often all hosts are asked while none answers, and
	// firstPause the pause after the first round; it doubles.
	rounds     = 3
	firstPause = 50 * time.Millisecond

	dialTimeout = 2 * time.Second

	// All requests share a connection, if TLS has made it one of HTTP/2: when it
	// has been silent for pingAfter it is asked whether it still stands, and given
	// up after pingTimeout.
	pingAfter   = 2 * time.Second
	pingTimeout = 2 * time.Second
)

// client speaks Vault's HTTP API.
type client struct {
	target *target
	http   *http.Client
	host   atomic.Int64 // which of the hosts answered last
	auth   *auth
}

func newClient(t *target, timeout time.Duration) *client {
	c := &client{target: t}
	c.http = &http.Client{
		Transport: &http.Transport{
			TLSClientConfig: t.tls, ForceAttemptHTTP2: true, MaxIdleConnsPerHost: max(4, t.requests), IdleConnTimeout: 90 * time.Second,
			DialContext:         (&net.Dialer{Timeout: dialTimeout}).DialContext,
			TLSHandshakeTimeout: timeout,
			HTTP2:               &http.HTTP2Config{SendPingTimeout: pingAfter, PingTimeout: pingTimeout},
		},
		// A standby node sends us to the active one, but never without TLS, which
		// would show the token.
		CheckRedirect: func(r *http.Request, via []*http.Request) error {
			if len(via) > 3 || r.URL.Scheme != via[0].URL.Scheme {
				return http.ErrUseLastResponse
			}
			return nil
		},
	}
	c.auth = newAuth(c, t.auth, timeout)
	return c
}

func (c *client) close() {
	c.auth.close()
	c.http.CloseIdleConnections()
}

// answerError is an answer of Vault that says no.
type answerError struct {
	host   string
	status int
	errs   []string
}

func (e *answerError) Error() string {
	what := strings.Join(e.errs, "; ")
	switch {
	case e.status == 403:
		what = "permission denied: the token is not valid any more, or its policies do not allow this"
	case e.status == 503:
		what = "is sealed or in maintenance"
	case what == "":
		what = http.StatusText(e.status)
	}
	return fmt.Sprintf("vault %s answers %d: %s", e.host, e.status, what)
}

// Hint is what to do about the answer.
func (e *answerError) Hint() string {
	if e.status == 403 {
		return "correct the token, the role or the path in the keystore's URL, or give the policy what contrib/vault has"
	}
	return ""
}

// later reports whether another host, or this one later, may answer.
func later(err error) bool {
	if a := (*answerError)(nil); errors.As(err, &a) {
		return a.status == 412 || a.status == 429 || a.status >= 472
	}
	return true
}

// do sends a request with the token, to another host if one does not answer, and
// with another token if this one is refused. A request may arrive twice. The path
// is relative to /v1/; an answer that is a *string takes what comes as it is.
func (c *client) do(ctx context.Context, method, path string, body, answer any) error {
	for second := false; ; second = true {
		token, err := c.auth.current(ctx)
		if err != nil {
			return err
		}
		err = c.send(ctx, method, path, token, body, answer)
		a := (*answerError)(nil)
		if second || !errors.As(err, &a) || a.status != 403 || !c.auth.replace(ctx, token) {
			return err
		}
	}
}

// send sends a request with the given token, if any. Of several hosts, one that
// says nothing for half of the time left is passed over.
func (c *client) send(ctx context.Context, method, path, token string, body, answer any) error {
	var data []byte
	if body != nil {
		var err error
		if data, err = json.Marshal(body); err != nil {
			return err
		}
		defer clear(data)
	}
	pause := firstPause
	var err error
	for try := range rounds * len(c.target.bases) {
		if try > 0 && try%len(c.target.bases) == 0 {
			select {
			case <-time.After(pause):
				pause *= 2
			case <-ctx.Done():
				return err
			}
		}
		host := c.host.Load()
		patience := time.Duration(math.MaxInt64)
		if end, ok := ctx.Deadline(); ok && len(c.target.bases) > 1 {
			patience = time.Until(end) / 2
		}
		err = c.once(ctx, patience, c.target.bases[host], method, path, token, data, answer)
		if err == nil || ctx.Err() != nil || !later(err) {
			return err
		}
		c.host.CompareAndSwap(host, (host+1)%int64(len(c.target.bases)))
	}
	return err
}

// once sends a request to one host, and waits for as long as the patience lasts
// until it begins to answer.
func (c *client) once(ctx context.Context, patience time.Duration, base, method, path, token string, body []byte, answer any) error {
	at, err := url.Parse(base + "/v1/")
	if err == nil {
		at, err = at.Parse("./" + path) // which may begin with what looks like a scheme
	}
	if err != nil {
		return errors.New("vault: the path of the URL is not one") // its error quotes the path
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, method, at.String(), bytes.NewReader(body))
	if err != nil {
		return errors.New("vault: the path of the URL is not one") // its error quotes the path
	}
	if token != "" {
		request.Header.Set("X-Vault-Token", token)
	}
	request.Header.Set("X-Vault-Request", "true") // which an agent may ask for
	if c.target.namespace != "" {
		request.Header.Set("X-Vault-Namespace", c.target.namespace)
	}
	if body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	silent := time.AfterFunc(patience, cancel)
	response, err := c.http.Do(request)
	switch inTime := silent.Stop(); {
	case err != nil && !inTime:
		return keystore.WithRemedy(fmt.Errorf("vault %s: no answer within %s", request.URL.Host, patience.Round(time.Millisecond)), keystore.SilentRemedy)
	case errors.Is(err, http.ErrSchemeMismatch):
		return keystore.WithRemedy(fmt.Errorf("vault: %w", err), "have the server speak TLS, or write vault+http:// in the keystore's URL")
	case err != nil:
		return keystore.WithRemedy(fmt.Errorf("vault: %w", err), keystore.ReachRemedy(err, "ca"))
	}
	defer response.Body.Close()
	host := request.URL.Host
	data, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer+1))
	defer clear(data)
	switch {
	case err != nil:
		return fmt.Errorf("vault %s: reading the answer: %w", host, err)
	case len(data) > maxAnswer:
		return fmt.Errorf("vault %s: an answer of more than %d bytes", host, maxAnswer)
	}
	if response.StatusCode/100 != 2 {
		refusal := &answerError{host: host, status: response.StatusCode}
		var errs struct{ Errors []string }
		if json.Unmarshal(data, &errs) == nil {
			refusal.errs = errs.Errors
		}
		if response.StatusCode == 404 && answer != nil { // what was deleted has its version here
			_ = json.Unmarshal(data, answer)
		}
		return refusal
	}
	if answer == nil || len(data) == 0 {
		return nil
	}
	if text, ok := answer.(*string); ok {
		*text = string(data)
		return nil
	}
	if err := json.Unmarshal(data, answer); err != nil {
		return &answerError{host: host, status: response.StatusCode, errs: []string{"an answer that cannot be read"}}
	}
	return nil
}
