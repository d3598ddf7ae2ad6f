package dnstest

import (
	"os/exec"
	"syscall"
)

// endWithTests has a process killed when the tests die before they could clean
// up.
func endWithTests(c *exec.Cmd) {
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
