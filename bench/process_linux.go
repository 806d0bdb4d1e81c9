package main

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"
)

// usage is what a process has used since it began.
type usage struct {
	at       time.Time
	cpu      time.Duration // user and system, of all threads, those that have ended too
	switches int           // context switches of the threads that there are
}

// readUsage of no process is that of the direct connection: nothing.
func readUsage(p *process) (usage, error) {
	if p == nil {
		return usage{at: time.Now()}, nil
	}
	switches, err := contextSwitches(p.pid)
	if err != nil {
		return usage{}, err
	}
	// An instant that is not the CPU time's would be an error of the quotient: we may have been put aside between the two.
	for {
		before := time.Now()
		cpu, err := cpuTime(p.pid)
		if err != nil {
			return usage{}, err
		}
		if time.Since(before) < time.Millisecond {
			return usage{at: before, cpu: cpu, switches: switches}, nil
		}
	}
}

// cpuTime reads the clock of another process's CPU time, which is exact to the nanosecond where /proc counts ticks of
// ten milliseconds.
func cpuTime(pid int) (time.Duration, error) {
	const perProcess, sched = 0, 2 // CPUCLOCK_PERTHREAD_MASK unset, CPUCLOCK_SCHED [Linux include/linux/posix-timers_types.h]
	clock := ^pid<<3 | perProcess | sched
	var t syscall.Timespec
	_, _, errno := syscall.Syscall(syscall.SYS_CLOCK_GETTIME, uintptr(clock), uintptr(unsafe.Pointer(&t)), 0) //nolint:gosec // the system call's argument
	if errno != 0 {
		return 0, fmt.Errorf("reading the CPU time of process %d: %w", pid, errno)
	}
	return time.Duration(t.Nano()), nil
}

// contextSwitches adds up those of a process's threads, wanted and not.
func contextSwitches(pid int) (int, error) {
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
	if err != nil {
		return 0, err
	}
	total := 0
	for _, file := range files {
		fields, err := procFields(file, "voluntary_ctxt_switches", "nonvoluntary_ctxt_switches")
		if os.IsNotExist(err) {
			continue // a thread that has just ended
		}
		if err != nil {
			return 0, err
		}
		total += fields[0] + fields[1]
	}
	return total, nil
}

// memory is what a process takes of the machine's.
type memory struct{ rss, pss, anonymous int } // bytes

func readMemory(p *process) (memory, error) {
	f, err := procFields(fmt.Sprintf("/proc/%d/smaps_rollup", p.pid), "Rss", "Pss", "Anonymous")
	if err != nil {
		return memory{}, err
	}
	return memory{rss: f[0] << 10, pss: f[1] << 10, anonymous: f[2] << 10}, nil
}

// procFields reads numbers from lines such as "Rss:   1234 kB".
func procFields(file string, names ...string) ([]int, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // only read
	values := make([]int, len(names))
	found := 0
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		name, rest, ok := strings.Cut(lines.Text(), ":")
		for i := range names {
			if ok && name == names[i] {
				if values[i], err = strconv.Atoi(strings.Fields(rest)[0]); err != nil {
					return nil, fmt.Errorf("%s: %s: %w", file, name, err)
				}
				found++
			}
		}
	}
	if err := lines.Err(); err != nil {
		return nil, err
	}
	if found != len(names) {
		return nil, fmt.Errorf("%s has not all of %v", file, names)
	}
	return values, nil
}

// allowedCores are those that we may run on.
func allowedCores() ([]int, error) {
	content, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(content)) {
		if list, ok := strings.CutPrefix(line, "Cpus_allowed_list:"); ok {
			return parseCores(strings.TrimSpace(list))
		}
	}
	return nil, fmt.Errorf("/proc/self/status has no Cpus_allowed_list")
}
