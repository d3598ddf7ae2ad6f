package mta

import "syscall"

// unsynchronized says whether the kernel knows that its clock is not kept right
// (STA_UNSYNC of adjtimex(2)).
func unsynchronized() bool {
	const staUnsync = 0x40
	var t syscall.Timex
	_, err := syscall.Adjtimex(&t)
	return err == nil && t.Status&staUnsync != 0
}
