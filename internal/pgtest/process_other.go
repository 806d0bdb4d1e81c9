//go:build !linux

package pgtest

import (
	"os/exec"
	"syscall"
)

// dyingWithUs are the attributes of a process of its own group. Only Linux can end it when the test binary is killed.
func dyingWithUs() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

func start(cmd *exec.Cmd) error { return cmd.Start() }
