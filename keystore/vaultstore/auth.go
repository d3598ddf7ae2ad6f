package vaultstore

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"waxseal/keystore"
)

const (
	// replaceEvery is how soon after a token came it may be replaced because it
	// was refused: a refusal may as well be about the path.
	replaceEvery = 10 * time.Second

	// renewRetry is the pause after a renewal that went wrong.
	renewRetry = 5 * time.Second
)

// auth has the token, and keeps it alive.
type auth struct {
	client  *client
	opts    authOptions
	timeout time.Duration

	busy chan struct{} // held by whoever gets a token

	mu    sync.Mutex
	token string    // guarded by mu; empty until the first request
	since time.Time // guarded by mu; when the token came

	renew  chan lease // a new token's
	cancel context.CancelFunc
	tasks  sync.WaitGroup
}

// lease is for how long a token is good.
type lease struct {
	ttl       time.Duration // 0: for ever
	renewable bool
}

// login is what logging in and renewal answer.
type login struct {
	Auth struct {
		ClientToken   string `json:"client_token"`
		LeaseDuration int64  `json:"lease_duration"`
		Renewable     bool   `json:"renewable"`
	} `json:"auth"`
}

func (l *login) lease() lease {
	return lease{time.Duration(l.Auth.LeaseDuration) * time.Second, l.Auth.Renewable}
}

func newAuth(c *client, opts authOptions, timeout time.Duration) *auth {
	a := &auth{client: c, opts: opts, timeout: timeout, busy: make(chan struct{}, 1), renew: make(chan lease, 1)}
	ctx, cancel := context.WithCancel(context.Background())
	a.cancel = cancel
	a.tasks.Go(func() { a.keep(ctx) })
	return a
}

func (a *auth) close() {
	a.cancel()
	a.tasks.Wait()
}

// current returns the token, after getting one if there is none.
func (a *auth) current(ctx context.Context) (string, error) {
	a.mu.Lock()
	token := a.token
	a.mu.Unlock()
	if token != "" {
		return token, ctx.Err()
	}
	return a.get(ctx, "")
}

// replace gets another token than the one that was refused. It reports whether
// there is one.
func (a *auth) replace(ctx context.Context, refused string) bool {
	a.mu.Lock()
	early := a.token == refused && time.Since(a.since) < replaceEvery
	a.mu.Unlock()
	if a.opts.method == "token" {
		token, err := readSecret(a.opts.tokenFile)
		early = err != nil || token == refused // as long as the file has the same
	}
	if early {
		return false
	}
	token, err := a.get(ctx, refused)
	return err == nil && token != refused
}

// get gets a token, unless somebody else has got one in the meantime that is not
// the old one.
func (a *auth) get(ctx context.Context, old string) (string, error) {
	select {
	case a.busy <- struct{}{}:
		defer func() { <-a.busy }()
	case <-ctx.Done():
		return "", ctx.Err()
	}
	a.mu.Lock()
	token := a.token
	a.mu.Unlock()
	if token != old {
		return token, nil
	}
	token, l, err := a.login(ctx)
	if err != nil {
		return "", err
	}
	a.mu.Lock()
	changed := a.token != token
	a.token, a.since = token, time.Now()
	a.mu.Unlock()
	if changed {
		select {
		case <-a.renew: // one that nobody has taken yet
		default:
		}
		a.renew <- l
	}
	return token, nil
}

// login gets a token by whatever method there is.
func (a *auth) login(ctx context.Context) (string, lease, error) {
	var body map[string]string
	switch a.opts.method {
	case "approle":
		body = map[string]string{"role_id": a.opts.roleID}
		if a.opts.secretIDFile != "" {
			secret, err := readSecret(a.opts.secretIDFile)
			if err != nil {
				return "", lease{}, err
			}
			body["secret_id"] = secret
		}
	case "kubernetes":
		jwt, err := readSecret(a.opts.jwtFile)
		if err != nil {
			return "", lease{}, err
		}
		body = map[string]string{"role": a.opts.role, "jwt": jwt}
	default:
		if a.opts.token != "" {
			return a.opts.token, lease{}, nil
		}
		token, err := readSecret(a.opts.tokenFile)
		return token, a.lookup(ctx, token), err
	}
	var answer login
	if err := a.client.send(ctx, "POST", "auth/"+a.opts.mount+"/login", "", body, &answer); err != nil {
		return "", lease{}, fmt.Errorf("logging in by %s: %w", a.opts.method, err)
	}
	if answer.Auth.ClientToken == "" {
		return "", lease{}, fmt.Errorf("logging in by %s: vault gave no token", a.opts.method)
	}
	return answer.Auth.ClientToken, answer.lease(), nil
}

// lookup asks how long a token from a file is good. A token that may not even
// ask that is not renewed.
func (a *auth) lookup(ctx context.Context, token string) lease {
	var answer struct {
		Data struct {
			TTL       int64 `json:"ttl"`
			Renewable bool  `json:"renewable"`
		}
	}
	if token == "" || a.client.send(ctx, "GET", "auth/token/lookup-self", token, nil, &answer) != nil {
		return lease{}
	}
	return lease{time.Duration(answer.Data.TTL) * time.Second, answer.Data.Renewable}
}

// keep renews the token at two thirds of its time, or gets another.
func (a *auth) keep(ctx context.Context) {
	var due <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case l := <-a.renew:
			due = l.due()
		case <-due:
			l, err := a.extend(ctx)
			if err != nil {
				due = time.After(renewRetry)
				continue
			}
			due = l.due()
		}
	}
}

func (l lease) due() <-chan time.Time {
	if l.ttl <= 0 {
		return nil
	}
	return time.After(l.ttl * 2 / 3)
}

// extend renews the token. Where that cannot be done, another one is got.
func (a *auth) extend(ctx context.Context) (lease, error) {
	ctx, cancel := context.WithTimeout(ctx, a.timeout)
	defer cancel()
	a.mu.Lock()
	token := a.token
	a.mu.Unlock()
	var answer login
	err := a.client.send(ctx, "POST", "auth/token/renew-self", token, struct{}{}, &answer)
	if l := answer.lease(); err == nil && l.ttl > 0 {
		return l, nil
	}
	if _, err := a.get(ctx, token); err != nil {
		return lease{}, err
	}
	select {
	case l := <-a.renew:
		return l, nil
	default: // the file has the same token still
		return lease{}, errors.Join(errors.New("the token cannot be renewed"), err)
	}
}

// readSecret reads a file with a token.
func readSecret(path string) (string, error) {
	s, err := keystore.ReadSecret(path)
	if err != nil {
		return "", keystore.WithRemedy(fmt.Errorf("vault: %w", err), keystore.ReachRemedy(err, "ca"))
	}
	return strings.TrimSpace(s), nil
}
