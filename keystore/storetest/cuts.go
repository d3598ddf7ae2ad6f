package storetest

import (
	"context"
	"errors"
	"testing"
	"time"

	"waxseal/keystore"
)

// cutPoints are after how many octets a connection is cut: at once, within the
// first word, within a row, within a key.
var cutPoints = []int{0, 1, 9, 60, 200, 500, 900}

// RunCuts cuts the connection to the server in the middle of every operation of
// the store, which must go through the proxy: whatever comes of it, the domain is
// wholly as before or wholly changed, and the store goes on working.
func RunCuts(t *testing.T, s keystore.Store, p *Proxy) {
	create(t, s, "example.com", newKey(t, "first"))
	for _, toServer := range []bool{true, false} {
		for _, n := range cutPoints {
			before := read(t, s, "example.com")
			p.CutAfter(n, toServer)
			d, err := s.Domain(t.Context(), "example.com")
			switch {
			case err == nil:
				same(t, d, before)
			case errors.Is(err, keystore.ErrNotFound):
				t.Errorf("a connection cut after %d octets: %v", n, err)
			}
			p.Heal()

			p.CutAfter(n, toServer)
			if names, err := s.List(t.Context(), "", 0); err == nil && len(names) != 1 {
				t.Errorf("a list cut after %d octets: %q", n, names)
			}
			p.Heal()

			p.CutAfter(n, toServer)
			if _, err := before.Keys[0].Load(t.Context()); err == nil {
				usable(t, &before.Keys[0])
			}
			p.Heal()

			want := read(t, s, "example.com")
			want.Keys = append(want.Keys, newKey(t, keystore.NextSelector(want, now)))
			p.CutAfter(n, toServer)
			err = s.Update(t.Context(), want)
			p.Heal()
			got := read(t, s, "example.com")
			switch {
			case err == nil, got.Version == want.Version:
				same(t, got, want)
				usable(t, &got.Keys[len(got.Keys)-1])
			case got.Version == before.Version:
				same(t, got, before)
			default:
				want.Version++ // done, and not known to be
				same(t, got, want)
			}
			if errors.Is(err, keystore.ErrConflict) {
				t.Errorf("a change cut after %d octets (to the server: %v) conflicts with itself", n, toServer)
			}
		}
	}
}

// RunSlow tests that calls of a store whose server does not answer in time end
// with their context.
func RunSlow(t *testing.T, s keystore.Store, p *Proxy) {
	create(t, s, "example.com", newKey(t, "a"))
	d := read(t, s, "example.com")
	p.Delay(time.Minute)
	defer p.Drop()
	for what, call := range map[string]func(context.Context) error{
		"Domain": func(ctx context.Context) error { _, err := s.Domain(ctx, "example.com"); return err },
		"Update": func(ctx context.Context) error { return s.Update(ctx, d) },
		"List":   func(ctx context.Context) error { _, err := s.List(ctx, "", 0); return err },
		"Load":   func(ctx context.Context) error { _, err := d.Keys[0].Load(ctx); return err },
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		began := time.Now()
		err := call(ctx)
		cancel()
		if err == nil || errors.Is(err, keystore.ErrNotFound) || time.Since(began) > 3*time.Second {
			t.Errorf("%s of a silent server: %v after %v", what, err, time.Since(began))
		}
	}
}
