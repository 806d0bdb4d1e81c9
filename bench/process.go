//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	startTimeout = 30 * time.Second
	stopTimeout  = 10 * time.Second
)

// process is a proxy that runs until stop.
type process struct {
	name   string
	pid    int
	log    string // file
	cmd    *exec.Cmd
	exited chan struct{} // closed when it is gone
}

// startProcess runs a program on the contestants' core, with its output in a log. close stops it.
func (r *rig) startProcess(name string, account *syscall.Credential, environment []string, line ...string) (*process, error) {
	line = append(r.pinned(), line...)
	p := &process{name: name, log: r.file(name + ".log"), exited: make(chan struct{})}
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()                          //nolint:errcheck // the child has its own
	p.cmd = exec.Command(line[0], line[1:]...) //nolint:noctx // it lives until it is stopped, in order
	p.cmd.Dir = r.folder
	p.cmd.Env = append(os.Environ(), environment...)
	p.cmd.Stdout, p.cmd.Stderr = log, log
	// The group of its own keeps the terminal's Ctrl-C from it.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Credential: account}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	p.pid = p.cmd.Process.Pid
	go func() {
		_ = p.cmd.Wait() // however it ends, its log says why
		close(p.exited)
	}()
	r.processes = append(r.processes, p)
	return p, nil
}

// stop ends the process and waits for it. It may be called twice.
func (p *process) stop() error {
	for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		if err := p.cmd.Process.Signal(signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
			return fmt.Errorf("stopping %s: %w", p.name, err)
		}
		select {
		case <-p.exited:
			return nil
		case <-time.After(stopTimeout):
		}
	}
	return fmt.Errorf("%s did not stop", p.name)
}

// await returns when ready does not fail any more.
func (p *process) await(ctx context.Context, ready func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for {
		err := ready(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-p.exited:
			return fmt.Errorf("it ended at once; its log:\n%s", p.logTail())
		case <-ctx.Done():
			return fmt.Errorf("it is not ready: %w; its log:\n%s", err, p.logTail())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// awaitPort returns when the process takes connections.
func (p *process) awaitPort(ctx context.Context, port int) error {
	return p.await(ctx, func(ctx context.Context) error {
		var dialer net.Dialer
		conn, err := dialer.DialContext(ctx, "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err != nil {
			return err
		}
		return conn.Close()
	})
}

// logTail is the end of the log.
func (p *process) logTail() string {
	const most = 20
	content, _ := os.ReadFile(p.log)
	lines := strings.Split(strings.TrimSpace(string(content)), "\n")
	return strings.Join(lines[max(0, len(lines)-most):], "\n")
}
