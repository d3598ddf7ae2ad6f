package e2e

import (
	"os/exec"
	"syscall"
)

// ownGroup puts a process into a group of its own, which can be ended as one,
// and has it ended when the tests die before they could clean up.
func ownGroup(c *exec.Cmd) {
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
}
