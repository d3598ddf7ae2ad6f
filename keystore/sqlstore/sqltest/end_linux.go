package sqltest

import "syscall"

// endWithTests has a process killed when the tests die before they could clean
// up.
func endWithTests(a *syscall.SysProcAttr) { a.Pdeathsig = syscall.SIGKILL }
