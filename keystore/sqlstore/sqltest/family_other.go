//go:build !linux

package sqltest

// family knows the process itself only. Without its parent a server's process
// ends by itself soon.
func family(pid int) []int { return []int{pid} }

// anyAlive is never asked about more than what was waited for.
func anyAlive([]int) bool { return false }

// stopped takes the signal for enough.
func stopped([]int) bool { return true }
