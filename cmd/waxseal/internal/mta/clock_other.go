//go:build !linux

package mta

// unsynchronized cannot be told here.
func unsynchronized() bool { return false }
