package ldapstore

import (
	"context"
	"math"

	"waxseal/keystore"
)

var _ keystore.Reporter = (*Store)(nil)

// Status implements keystore.Reporter. A directory tells neither nodes nor the
// last change.
func (s *Store) Status(ctx context.Context) (keystore.StoreStatus, error) {
	st := keystore.StoreStatus{Kind: "LDAP, " + s.target.layout + "'s keys"}
	var err error
	if st.Connect, st.Latency, err = keystore.AnswerTimes(ctx, s); err != nil {
		return st, err
	}
	names, err := s.List(ctx, "", math.MaxInt32)
	st.Domains = int64(len(names))
	return st, err
}
