//go:build !linux

package main

// monotonicUsec has no reader where there is no systemd.
func monotonicUsec() (int64, bool) { return 0, false }
