package vaultstore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"waxseal/keystore"
)

// lists is the layout of rspamd, which Mailu's own service has, too, and which is
// read only: a secret for each domain, with the list "selectors".
type lists struct {
	kv    engine
	now   func() time.Time
	mailu bool
}

// listed is an element. Only selector and key have to be there. One that cannot
// be read has what is wrong with it in err.
type listed struct {
	Selector string      `json:"selector"`
	Domain   string      `json:"domain"`
	Key      string      `json:"key"`
	Start    json.Number `json:"valid_start"` // Unix seconds, as a number or as text; none: always
	End      json.Number `json:"valid_end"`

	start, end float64
	err        error
}

func readListed(text []byte) (l listed) {
	l.end = math.Inf(1)
	if err := json.Unmarshal(text, &l); err != nil {
		l.err = errors.New("its element of selectors is not what rspamd has there") // the error may quote it
	}
	for _, limit := range []struct {
		text json.Number
		to   *float64
	}{{l.Start, &l.start}, {l.End, &l.end}} {
		if limit.text == "" {
			continue
		}
		seconds, err := limit.text.Float64()
		if err != nil {
			l.err = fmt.Errorf("valid from %.20q to %.20q, want Unix seconds", l.Start, l.End)
		}
		*limit.to = seconds
	}
	return l
}

func (l *lists) domain(ctx context.Context, name string, private bool) (*keystore.Domain, error) {
	elements, err := l.read(ctx, name)
	if err != nil {
		return nil, err
	}
	f := keystore.NewForeign(name)
	now := float64(l.now().Unix())
	for _, e := range elements {
		switch {
		case e.err != nil:
			f.AddBroken(e.Selector, e.err)
			continue
		case now < e.start, now >= e.end:
			continue // outside its time a key does not sign
		case e.Domain != "" && !strings.EqualFold(aLabels(e.Domain), name):
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
	data, _, err := get[struct{ Selectors []json.RawMessage }](ctx, &l.kv, name)
	elements := make([]listed, len(data.Selectors))
	for i, text := range data.Selectors {
		elements[i] = readListed(text)
		clear(text)
	}
	return elements, err
}

func (l *lists) update(context.Context, *keystore.Domain) error { return keystore.ErrReadOnly }

func (l *lists) names(ctx context.Context) ([]string, error) {
	if !l.mailu {
		return l.kv.list(ctx)
	}
	return l.mailuNames(ctx)
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
