package sqltest

import (
	"bytes"
	"os"
	"strconv"
)

// family returns a process and all that it has started, and these in turn. A
// group is not enough: PostgreSQL gives each of its processes one of its own.
func family(pid int) []int {
	children := map[int][]int{}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return []int{pid}
	}
	for _, e := range entries {
		child, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if fields := stat(e.Name()); len(fields) > 1 {
			parent, _ := strconv.Atoi(string(fields[1]))
			children[parent] = append(children[parent], child)
		}
	}
	all := []int{pid}
	for i := 0; i < len(all); i++ {
		all = append(all, children[all[i]]...)
	}
	return all
}

// anyAlive reports whether one of the processes still runs. One that nobody has
// waited for does not.
func anyAlive(pids []int) bool {
	for _, pid := range pids {
		if fields := stat(strconv.Itoa(pid)); len(fields) > 0 && string(fields[0]) != "Z" {
			return true
		}
	}
	return false
}

// stopped reports whether all threads of the processes stand still, which they do
// one by one, some time after the signal.
func stopped(pids []int) bool {
	for _, pid := range pids {
		tasks := strconv.Itoa(pid) + "/task/"
		threads, _ := os.ReadDir("/proc/" + tasks)
		for _, thread := range threads {
			if fields := stat(tasks + thread.Name()); len(fields) > 0 && !bytes.Contains([]byte("TZX"), fields[0]) { // stopped, or dead
				return false
			}
		}
	}
	return true
}

// stat returns what the file stat of a process or thread in /proc has from the
// state on (proc(5)); nothing if there is no such one.
func stat(name string) [][]byte {
	text, err := os.ReadFile("/proc/" + name + "/stat")
	if err != nil {
		return nil
	}
	return bytes.Fields(text[bytes.LastIndexByte(text, ')')+1:]) // the name may hold anything
}
