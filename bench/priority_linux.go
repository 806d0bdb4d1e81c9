package main

import (
	"fmt"
	"math"
	"os"
	"strconv"
	"strings"
	"syscall"
)

// niced says to the process that takePriority begins that it has its niceness.
const niced = "HOURGATE_BENCH_NICE"

const (
	cpuGroups = "/sys/fs/cgroup/cpu" // of cgroups version 1
	ourGroup  = cpuGroups + "/hourgate-bench"
)

// takePriority begins this process anew with another niceness, which all that it starts inherits: those that run as
// another user could not take it themselves.
func takePriority(nice int) error {
	if nice == 0 || os.Getenv(niced) != "" {
		return nil
	}
	enterGroup(nice)
	program, err := findProgram("nice")
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	line := append([]string{"nice", "-n", strconv.Itoa(nice), self}, os.Args[1:]...)
	return syscall.Exec(program, line, append(os.Environ(), niced+"=1")) //nolint:gosec // ourselves, as we were started
}

// enterGroup puts us into a group of our own with the weight of the niceness, where the kernel would otherwise weigh
// sessions (setsid) against each other and not processes. Each of PostgreSQL's backends is a session of its own, so
// niceness would do nothing for them. See sched(7), "The autogroup feature". Elsewhere niceness is enough.
func enterGroup(nice int) {
	groups, err := os.ReadFile("/proc/self/cgroup")
	if err != nil || !strings.Contains(string(groups), ":cpu:/\n") {
		return
	}
	weight := int(1024 * math.Pow(1.25, -float64(nice)))                 // as the kernel's sched_prio_to_weight
	if err := os.Mkdir(ourGroup, 0o755); err == nil || os.IsExist(err) { //nolint:gosec // the mode of all groups
		_ = os.WriteFile(ourGroup+"/cpu.shares", []byte(strconv.Itoa(weight)), 0) // or the usual weight
		_ = os.WriteFile(ourGroup+"/cgroup.procs", fmt.Append(nil, os.Getpid()), 0)
	}
}

// leaveGroup undoes enterGroup, once all that we started has ended.
func leaveGroup() {
	if os.Getenv(niced) != "" {
		_ = os.WriteFile(cpuGroups+"/cgroup.procs", fmt.Append(nil, os.Getpid()), 0)
		_ = os.Remove(ourGroup) // unless another run is in it
	}
}
