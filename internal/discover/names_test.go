package discover_test

import (
	"bytes"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hourgate/hourgate/internal/awstest"
	"github.com/hourgate/hourgate/internal/discover"
	"github.com/hourgate/hourgate/internal/eventually"
)

func bothRegions(c *discover.AWSRDS) { c.Regions = []string{"eu-west-1", "eu-central-1"} }

// gateOf is one life of a gate, as far as names go: what it finds, and then it ends.
func gateOf(t *testing.T, file string, want ...string) (found []discover.Integration) {
	t.Helper()
	t.Run("a gate", func(t *testing.T) {
		w := watch(t, discover.Options{Names: file}, rdsConfig(bothRegions))
		found = w.until(t, strings.Join(want, ", "), named(want...))
	})
	return found
}

// A name that was given to a server means no server of another region or account later: not when the next gate starts while
// the first one's region does not answer, and not when the first one is gone. The next one at its place gets it.
func TestNamesOutliveTheGate(t *testing.T) {
	s := awstest.New(t)
	file := filepath.Join(t.TempDir(), "names")
	const full = "orders-111111111111-eu-central-1"
	first := s.Add(ireland, awstest.Instance{ID: "orders", Tags: tagged()})
	s.Add(frankfurt, awstest.Instance{ID: "orders", Created: time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC), Tags: tagged()})
	if found := gateOf(t, file, "orders", full); found[0].Place.Region != "eu-west-1" {
		t.Fatalf("orders is in %v", found[0].Place)
	}
	down := func(w awstest.Where, _ string) (int, string, string) {
		if w == ireland {
			return http.StatusForbidden, "AccessDenied", "not now"
		}
		return 0, "", ""
	}
	s.Change(func() { s.Fault = down })
	gateOf(t, file, full)
	s.Change(func() { s.Fault, s.Instances[ireland] = nil, nil })
	gateOf(t, file, full)
	if got := names(reportOf(t, file).Integrations); !slices.Equal(got, []string{full}) {
		t.Errorf("a command finds %v", got)
	}
	s.Add(ireland, awstest.Instance{ID: "orders", Resource: "db-RESTORED", Created: time.Date(2026, 7, 1, 0, 0, 0, 0, time.UTC), Tags: tagged()})
	if found := gateOf(t, file, "orders", full); found[0].Place.Region != "eu-west-1" || strings.Contains(found[0].ID, first.Resource) {
		t.Errorf("orders is %s", found[0].ID)
	}

	// A server that gives its name up and asks for it again has it; one elsewhere that asks for it meanwhile has not.
	s.Change(func() { s.Instances[ireland][0].Tags = tagged("hourgate-name", "sales") })
	gateOf(t, file, full, "sales")
	s.Change(func() { s.Instances[ireland][0].Tags = tagged() })
	gateOf(t, file, "orders", full)
}

func reportOf(t *testing.T, file string) discover.Report {
	t.Helper()
	d, err := discover.New(t.Context(), []discover.Config{rdsConfig(bothRegions)}, discover.Options{Names: file})
	if err != nil {
		t.Fatal(err)
	}
	return d.Once(t.Context())
}

// Commands look names up and give none.
func TestCommandsGiveNoNames(t *testing.T) {
	s := awstest.New(t)
	s.Add(ireland, awstest.Instance{ID: "orders", Tags: tagged()})
	file := filepath.Join(t.TempDir(), "names")
	find(t, reportOf(t, file), "orders")
	if _, err := os.Stat(file); err == nil {
		t.Error("a command has written the file")
	}
}

// A file that can't be read is no empty file, and one that can't be written is said and tried again.
func TestNamesFileThatFails(t *testing.T) {
	s := awstest.New(t)
	s.Add(ireland, awstest.Instance{ID: "orders", Tags: tagged()})
	folder := filepath.Join(t.TempDir(), "later")
	file := filepath.Join(folder, "names")
	log := &lockedBuffer{}
	w := watch(t, discover.Options{Names: file, Log: slog.New(slog.NewTextHandler(log, nil))}, rdsConfig(nil))
	w.until(t, "orders", named("orders"))
	eventually.True(t, "the error is logged", func() bool { return strings.Contains(log.String(), "can't be written down") })
	if err := os.Mkdir(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	s.Add(ireland, awstest.Instance{ID: "sales", Tags: tagged()})
	eventually.True(t, "the file has both names", func() bool {
		data, _ := os.ReadFile(file)
		return bytes.Contains(data, []byte(`"orders"`)) && bytes.Contains(data, []byte(`"sales"`))
	})
	if err := os.WriteFile(file, []byte(`{"orders": {"ho`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := discover.New(t.Context(), []discover.Config{rdsConfig(nil)}, discover.Options{Names: file}); err == nil || !strings.Contains(err.Error(), "restore it") {
		t.Errorf("half a file: %v", err)
	}
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}
