package keystore_test

import (
	"testing"

	"waxseal/keystore"
	"waxseal/keystore/storetest"
)

func TestDirConforms(t *testing.T) {
	storetest.Run(t, func(t *testing.T) keystore.Store {
		s, err := keystore.OpenDir(t.TempDir(), keystore.DirOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return s
	})
}
