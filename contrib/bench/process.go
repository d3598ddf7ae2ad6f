//go:build linux

package main

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"
)

// processTree is a process and all that descend from it: a milter may have
// workers.
type processTree int

// pids returns the processes that are there now, the root first.
func (t processTree) pids() ([]int, error) {
	names, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	children := map[int][]int{}
	for _, name := range names {
		pid, err := strconv.Atoi(name.Name())
		if err != nil {
			continue // not a process
		}
		if s, ok := readStat(pid); ok {
			children[s.parent] = append(children[s.parent], pid)
		}
	}
	all := []int{int(t)}
	for i := 0; i < len(all); i++ {
		all = append(all, children[all[i]]...)
	}
	return all, nil
}

// stat is what the system knows of a process. The time of its start, in
// whatever unit, tells it from a later one of the same number.
type stat struct {
	parent  int
	started string
}

// readStat returns false for a process that is gone, or as good as gone.
func readStat(pid int) (stat, bool) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return stat{}, false
	}
	// The second field is the program's name in parentheses, with anything in it.
	fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	const state, parent, started = 0, 1, 19 // number 3, 4 and 22 in proc(5)
	if len(fields) <= started || fields[state] == "Z" {
		return stat{}, false
	}
	ppid, err := strconv.Atoi(fields[parent])
	return stat{ppid, fields[started]}, err == nil
}

// cpuClocks are CPU times, user and system, of the processes of a tree.
type cpuClocks map[int]time.Duration

// clocks reads the CPU clock of each process. It counts all threads, also those
// that have ended, in nanoseconds.
func (t processTree) clocks() (cpuClocks, error) {
	pids, err := t.pids()
	if err != nil {
		return nil, err
	}
	clocks := cpuClocks{}
	for _, pid := range pids {
		now, err := cpuClock(pid)
		if errors.Is(err, syscall.EINVAL) && pid != int(t) {
			continue // it has just ended
		}
		if err != nil {
			return nil, fmt.Errorf("CPU clock of process %d: %w", pid, err)
		}
		clocks[pid] = now
	}
	return clocks, nil
}

// cpuClock reads the CPU clock of a process, by the number that Linux gives it
// (clock_getcpuclockid(3)): the inverted process number, and 2 for "as the
// scheduler counts".
func cpuClock(pid int) (time.Duration, error) {
	var now syscall.Timespec
	id := int32(^pid)<<3 | 2
	if _, _, err := syscall.Syscall(syscall.SYS_CLOCK_GETTIME, uintptr(id), uintptr(unsafe.Pointer(&now)), 0); err != 0 {
		return 0, err
	}
	return time.Duration(now.Nano()), nil
}

// since returns the CPU time that was used since the older reading. A
// process that ended in between has taken its figure with it, which is an error.
func (c cpuClocks) since(older cpuClocks) (time.Duration, error) {
	var used time.Duration
	for pid, then := range older {
		now, ok := c[pid]
		if !ok {
			return 0, fmt.Errorf("process %d ended while it was measured", pid)
		}
		used += now - then
	}
	for pid, now := range c {
		if _, ok := older[pid]; !ok {
			used += now
		}
	}
	return used, nil
}

// memory is what a process tree occupies, in bytes. Pages that processes share
// count for each of them.
type memory struct {
	Resident int64 `json:"resident_bytes"`
	Peak     int64 `json:"peak_bytes"` // of each process, added up
	Threads  int64 `json:"threads"`
}

func (t processTree) memory() (memory, error) {
	var m memory
	pids, err := t.pids()
	if err != nil {
		return m, err
	}
	for _, pid := range pids {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if errors.Is(err, os.ErrNotExist) && pid != int(t) {
			continue // it has just ended
		}
		if err != nil {
			return m, err
		}
		for line := range strings.Lines(string(status)) {
			name, value, _ := strings.Cut(line, ":")
			n, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
			if err != nil {
				continue // one of the many lines that are not a number
			}
			switch name {
			case "VmRSS":
				m.Resident += n << 10
			case "VmHWM":
				m.Peak += n << 10
			case "Threads":
				m.Threads += n
			}
		}
	}
	return m, nil
}

// libraries returns the files that the processes have mapped and whose names
// begin with the prefix.
func (t processTree) libraries(prefix string) ([]string, error) {
	pids, err := t.pids()
	if err != nil {
		return nil, err
	}
	found := map[string]bool{}
	for _, pid := range pids {
		maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
		if err != nil {
			return nil, err
		}
		for line := range strings.Lines(string(maps)) {
			if i := strings.IndexByte(line, '/'); i >= 0 {
				name := strings.TrimSpace(line[i:])
				if strings.HasPrefix(filepath.Base(name), prefix) {
					found[name] = true
				}
			}
		}
	}
	return slices.Sorted(maps.Keys(found)), nil
}
