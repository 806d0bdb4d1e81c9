package pgtest

import (
	"os/exec"
	"runtime"
	"sync"
	"syscall"
)

// dyingWithUs are the attributes of a process of its own group that ends when the test binary does. SIGQUIT is PostgreSQL's
// immediate shutdown, which takes the backends along.
func dyingWithUs() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGQUIT}
}

// forks takes functions to a goroutine that never leaves its thread. Linux sends a child the signal
// Pdeathsig when the thread that forked it ends, and Go ends threads as it likes, but not this one.
var forks = sync.OnceValue(func() chan<- func() {
	functions := make(chan func())
	go background(func() {
		runtime.LockOSThread()
		for f := range functions {
			f()
		}
	})
	return functions
})

// start starts cmd such that it ends when the test binary ends, however that comes about.
func start(cmd *exec.Cmd) error {
	result := make(chan error, 1)
	forks() <- func() { result <- cmd.Start() }
	return <-result
}
