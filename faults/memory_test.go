//go:build faults

package faults

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// starve lets the gate have one more megabyte, makes it want more, and starts it again when the kernel has killed it.
func starve(r *rig) {
	group, limit := "/sys/fs/cgroup/memory", "memory.limit_in_bytes"
	if _, err := os.Stat(group); err != nil {
		group, limit = "/sys/fs/cgroup", "memory.max"
	}
	group = filepath.Join(group, fmt.Sprintf("hourgate-%d", r.process.Process.Pid))
	pid := fmt.Sprint(r.process.Process.Pid)
	err := os.Mkdir(group, 0o700)
	// What the process has already is counted where it was: cgroup-v1/memory.txt, cgroup-v2.rst.
	err = errors.Join(err, os.WriteFile(filepath.Join(group, limit), []byte("1048576"), 0o600))
	err = errors.Join(err, os.WriteFile(filepath.Join(group, "cgroup.procs"), []byte(pid), 0o600))
	if err != nil {
		r.t.Errorf("limiting memory needs root and cgroups: %v", err)
	}
	defer func() { _ = os.Remove(group) }()
	stop := make(chan struct{})
	go wantMemory(r.gate.Addr, stop)
	died := make(chan error, 1)
	go func() { died <- r.process.Wait() }()
	select {
	case <-died:
		if status, ok := r.process.ProcessState.Sys().(syscall.WaitStatus); !ok || status.Signal() != syscall.SIGKILL {
			r.t.Errorf("out of memory, the gate ended with %v", r.process.ProcessState)
		}
	case <-time.After(20 * time.Second):
		r.t.Errorf("a megabyte is enough for the gate")
		_ = r.process.Process.Kill()
		<-died
	}
	close(stop)
	r.start()
}

// wantMemory connects again and again and asks for TLS, which costs the gate memory.
func wantMemory(addr string, stop chan struct{}) {
	for {
		select {
		case <-stop:
			return
		default:
		}
		conn, err := net.DialTimeout("tcp", addr, time.Second)
		if err != nil {
			continue
		}
		defer conn.Close()
		_, _ = conn.Write([]byte{0, 0, 0, 8, 4, 210, 22, 47}) // SSLRequest
		_, _ = conn.Read(make([]byte, 1))
		_, _ = conn.Write([]byte{22, 3, 1, 1, 0}) // the head of a ClientHello
	}
}
