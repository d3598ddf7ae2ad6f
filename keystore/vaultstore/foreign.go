package vaultstore

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"waxseal/keystore"
)

// lists is the layout of rspamd, which Mailu's own service has, too, and which is
// read only: a secret for each domain, with the list "selectors".
type lists struct {
	kv       engine
	now      func() time.Time
	unlisted bool // the service cannot list domains
}

// listed is an element. Only selector and key have to be there.
type listed struct {
	Selector string `json:"selector"`
	Domain   string `json:"domain"`
	Key      string `json:"key"`
	Start    int64  `json:"valid_start"` // Unix seconds; 0: always
	End      int64  `json:"valid_end"`
}

func (l *lists) domain(ctx context.Context, name string, private bool) (*keystore.Domain, error) {
	elements, err := l.read(ctx, name)
	if err != nil {
		return nil, err
	}
	f := keystore.NewForeign(name)
	now := l.now().Unix()
	for _, e := range elements {
		switch {
		case e.Start != 0 && now < e.Start, e.End != 0 && now >= e.End:
			continue // outside its time a key does not sign
		case e.Domain != "" && !strings.EqualFold(e.Domain, name):
			f.AddBroken(e.Selector, fmt.Errorf("is said to be of the domain %.80q", e.Domain))
			continue
		}
		f.Add(e.Selector, []byte(e.Key), func(ctx context.Context) ([]byte, error) {
			if private {
				return []byte(e.Key), ctx.Err()
			}
			elements, err := l.read(ctx, name)
			if err != nil {
				return nil, err
			}
			for _, again := range elements {
				if strings.EqualFold(again.Selector, e.Selector) {
					return []byte(again.Key), nil
				}
			}
			return nil, keystore.ErrNotFound
		})
	}
	return f.Domain()
}

func (l *lists) read(ctx context.Context, name string) ([]listed, error) {
	ctx, cancel := context.WithTimeout(ctx, l.kv.client.auth.timeout)
	defer cancel()
	data, _, err := get[struct{ Selectors []listed }](ctx, &l.kv, name)
	return data.Selectors, err
}

func (l *lists) update(context.Context, *keystore.Domain) error { return keystore.ErrReadOnly }

func (l *lists) names(ctx context.Context) ([]string, error) {
	if l.unlisted {
		return nil, errors.New("mailu does not tell which domains it has; each one is found when it is asked for")
	}
	return l.kv.list(ctx)
}

// secrets is the layout of KumoMTA, which is read only: below each domain a
// secret for each selector, with the private half in "key".
type secrets struct {
	kv    engine
	fixed []string
}

func (s *secrets) domain(ctx context.Context, name string, private bool) (*keystore.Domain, error) {
	selectors := s.fixed
	if len(selectors) == 0 {
		var err error
		if selectors, err = s.kv.list(ctx, name); err != nil {
			return nil, err
		}
	}
	f := keystore.NewForeign(name)
	for _, selector := range selectors {
		if keystore.ValidSelector(strings.ToLower(selector)) != nil {
			continue // "below/", or not a selector
		}
		text, err := s.read(ctx, name, selector)
		if errors.Is(err, keystore.ErrNotFound) {
			continue // deleted, or a selector that this domain has not
		}
		if err != nil {
			return nil, err
		}
		f.Add(selector, text, func(ctx context.Context) ([]byte, error) {
			if private {
				return []byte(string(text)), ctx.Err()
			}
			return s.read(ctx, name, selector)
		})
	}
	return f.Domain()
}

func (s *secrets) read(ctx context.Context, name, selector string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, s.kv.client.auth.timeout)
	defer cancel()
	data, _, err := get[struct{ Key string }](ctx, &s.kv, name, selector)
	return []byte(data.Key), err
}

func (s *secrets) update(context.Context, *keystore.Domain) error { return keystore.ErrReadOnly }

func (s *secrets) names(ctx context.Context) ([]string, error) {
	all, err := s.kv.list(ctx)
	var names []string
	for _, n := range all {
		if name, ok := strings.CutSuffix(n, "/"); ok {
			names = append(names, name)
		}
	}
	return names, err
}
