package main

import (
	"context"
	"fmt"
	"slices"
	"testing"

	"waxseal/keystore"
)

// pagedStore lists page by page, as its pages are.
type pagedStore struct {
	keystore.Store
	pages map[string][]string // after → names
}

func (s pagedStore) List(_ context.Context, after string, _ int) ([]string, error) {
	return s.pages[after], nil
}

func TestAllDomainsAreWalked(t *testing.T) {
	store := pagedStore{pages: map[string][]string{"": {"a.example", "gone.example"}, "gone.example": {"z.example"}}}
	var seen []string
	failed, err := new(app).eachDomainOrAll(t.Context(), store, nil, func(domain string) error {
		if domain == "gone.example" {
			return fmt.Errorf("domain %s: %w", domain, keystore.ErrNotFound)
		}
		seen = append(seen, domain)
		return nil
	})
	if want := []string{"a.example", "z.example"}; !slices.Equal(seen, want) || failed != nil || err != nil {
		t.Errorf("walked %q, %v, %v; want %q, since a page may be short, and a domain may be deleted once it is listed", seen, failed, err, want)
	}
}
