//go:build !linux

package e2e

import (
	"os/exec"
	"syscall"
)

// ownGroup puts a process into a group of its own, which can be ended as one.
func ownGroup(c *exec.Cmd) {
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
}
