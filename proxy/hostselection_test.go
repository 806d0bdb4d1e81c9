package proxy_test

import (
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/hourgate/hourgate/internal/pgtest"
)

// A client that looks for a server that can be written to finds this one, under a grant to read too.
func TestTargetSessionAttributes(t *testing.T) {
	t.Parallel()
	someMajors(t, func(t *testing.T, db *pgtest.Database) {
		g := startGate(t, db, gateOptions{grants: []string{grantAt("inc-1", alice, "READ_ONLY", time.Now().Add(time.Hour))}})
		for _, attributes := range []string{"any", "read-write", "primary", "prefer-standby"} {
			cmd := exec.CommandContext(t.Context(), pgtest.Client(t, "psql"), "-XAtd", g.url("target_session_attrs="+attributes), "-c", "SHOW transaction_read_only")
			out, err := cmd.CombinedOutput()
			if got := strings.TrimSpace(string(out)); err != nil || got != "off" {
				t.Errorf("%s: got %q, %v", attributes, got, err)
			}
		}
	})
}
