package secrets

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

const commandTimeout = 10 * time.Second

type fileSource string

func (s fileSource) String() string { return "file " + string(s) }

func (s fileSource) Fetch(_ context.Context, stage Stage) (Credential, error) {
	if stage != Current {
		return Credential{}, ErrNoStage
	}
	doc, err := s.read()
	if err != nil {
		return Credential{}, fmt.Errorf("reading %s: %w", s, err)
	}
	cred, err := parse(doc)
	if err != nil {
		return Credential{}, fmt.Errorf("%s: %w", s, err)
	}
	return cred, nil
}

func (s fileSource) read() ([]byte, error) {
	f, err := os.OpenFile(string(s), os.O_RDONLY|syscall.O_NONBLOCK, 0) // O_NONBLOCK: a FIFO must not hang us
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, errors.New("not a regular file")
	}
	return io.ReadAll(io.LimitReader(f, maxDocument+1))
}

type envSource string

func (s envSource) String() string { return "environment variable " + string(s) }

func (s envSource) Fetch(_ context.Context, stage Stage) (Credential, error) {
	if stage != Current {
		return Credential{}, ErrNoStage
	}
	doc, ok := os.LookupEnv(string(s))
	if !ok {
		return Credential{}, fmt.Errorf("%s is not set", s)
	}
	cred, err := parse([]byte(doc))
	if err != nil {
		return Credential{}, fmt.Errorf("%s: %w", s, err)
	}
	return cred, nil
}

type commandSource []string

// String leaves out the arguments, because people do put tokens there.
func (s commandSource) String() string { return "command " + s[0] }

func (s commandSource) Fetch(ctx context.Context, stage Stage) (Credential, error) {
	if stage != Current {
		return Credential{}, ErrNoStage
	}
	ctx, cancel := context.WithTimeoutCause(ctx, commandTimeout, fmt.Errorf("not done after %v", commandTimeout))
	defer cancel()
	doc, err := s.run(ctx)
	if err != nil {
		return Credential{}, fmt.Errorf("running %s: %w", s, err)
	}
	cred, err := parse(doc)
	if err != nil {
		return Credential{}, fmt.Errorf("output of %s: %w", s, err)
	}
	return cred, nil
}

func (s commandSource) run(ctx context.Context) ([]byte, error) {
	stdout := head{limit: maxDocument + 1} // one more than parse takes, so that parse refuses it
	stderr := head{limit: 1 << 10}
	cmd := exec.CommandContext(ctx, s[0], s[1:]...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	// A shell script's children hold the pipes open: end the whole group, and don't wait for who left it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second

	err := cmd.Run()
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if err == nil {
		return stdout.data, nil
	}
	if line, _, _ := strings.Cut(string(bytes.TrimSpace(stderr.data)), "\n"); line != "" {
		return nil, fmt.Errorf("%w: %q", err, line) // quoted, so that it can't forge a log line
	}
	return nil, err
}

// head is a writer that keeps the first bytes and drops the rest, so that the command neither blocks nor fills memory.
type head struct {
	data  []byte
	limit int
}

func (h *head) Write(p []byte) (int, error) {
	h.data = append(h.data, p[:min(len(p), h.limit-len(h.data))]...)
	return len(p), nil
}
