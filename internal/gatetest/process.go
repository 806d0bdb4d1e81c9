package gatetest

import (
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/hourgate/hourgate/internal/eventually"
	"github.com/hourgate/hourgate/internal/pgtest"
)

// StartProcess runs `hourgate serve` as a process of its own, which the caller ends.
func StartProcess(t testing.TB, g *Gate, configFile string) *exec.Cmd {
	t.Helper()
	return g.StartProgram(t, Binary(t), configFile)
}

// StartProgram is StartProcess for another build of hourgate.
func (g *Gate) StartProgram(t testing.TB, program, configFile string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(context.WithoutCancel(t.Context()), program, "serve", "--config", configFile)
	cmd.Stderr = g.Logs
	*g.Logs = Buffer{}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	var open struct {
		Msg, Listen string
		Ops         string `json:"ops_listen"`
	}
	eventually.True(t, "the process opens its ports", func() bool {
		for line := range strings.Lines(g.Logs.String()) {
			if json.Unmarshal([]byte(line), &open) == nil && open.Msg == "gate open" {
				return true
			}
		}
		return false
	})
	g.Addr, g.Ops = open.Listen, open.Ops
	return cmd
}

// Binary is hourgate as `go build` makes it.
func Binary(t testing.TB) string {
	t.Helper()
	file, err := buildBinary()
	if err != nil {
		t.Fatal(err)
	}
	return file
}

var buildBinary = sync.OnceValues(func() (string, error) {
	file := filepath.Join(pgtest.Folder(), "hourgate")
	out, err := exec.Command("go", "build", "-race", "-o", file, "github.com/hourgate/hourgate/cmd/hourgate").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return file, nil
})
