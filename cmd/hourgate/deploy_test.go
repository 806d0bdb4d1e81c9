package main

import (
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/hourgate/hourgate/gate"
	"github.com/hourgate/hourgate/internal/gatetest"
	"github.com/hourgate/hourgate/internal/pgtest"
	"github.com/hourgate/hourgate/internal/strictyaml"
)

// The flags that the compose file gives to init are init's.
func TestComposeKnowsInit(t *testing.T) {
	t.Parallel()
	compose := readFile(t, "../../deploy/compose/compose.yaml")
	_, after, _ := strings.Cut(compose, "      - init\n")
	block, _, _ := strings.Cut(after, "    environment:")
	var flags []string
	for _, match := range regexp.MustCompile(`(?m)^      - (--\S+)$`).FindAllStringSubmatch(block, -1) {
		flags = append(flags, match[1])
	}
	if len(flags) < 10 {
		t.Fatalf("found the flags %q in\n%s", flags, block)
	}
	if err := initCommand().ParseFlags(flags); err != nil {
		t.Error(err)
	}
}

// The configurations in deploy have no setting that is not there. The files that they name are not.
func TestDeployedConfigurations(t *testing.T) {
	t.Parallel()
	values := readFile(t, "../../deploy/helm/hourgate/ci/files.yaml")
	block := regexp.MustCompile(`(?m)^    config\.yaml: \|\n((?:      .*\n)+)`).FindStringSubmatch(values)
	if block == nil {
		t.Fatal("the chart's example has no config.yaml")
	}
	file := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(file, []byte(regexp.MustCompile(`(?m)^      `).ReplaceAllString(block[1], "")), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := gate.LoadConfig(file)
	if problems := strictyaml.Problems(nil); errors.As(err, &problems) || len(cfg.Integrations) != 1 {
		t.Errorf("the chart's example: %v, %d integrations", err, len(cfg.Integrations))
	}
}

// Each metric that the dashboard and the alerts look at is there once a session was let in and one was refused.
func TestDashboardAndAlertsKnowTheMetrics(t *testing.T) {
	t.Parallel()
	g := gatetest.Start(t, pgtest.Start(t, 15).Database(t), gatetest.Options{Grants: gatetest.Grant("g")})
	conn := g.Connect(t, "orders")
	if err := conn.PgConn().CancelRequest(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := g.TryConnect(t, gatetest.Alice, "wrong", "orders"); err == nil {
		t.Fatal("a wrong password was let in")
	}
	if err := conn.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	g.AwaitMetric(t, `hourgate_sessions_ended_total{integration="orders",reason="disconnect"} 1`)
	_, metrics := g.Get(t, "/metrics")
	for _, file := range []string{"../../deploy/grafana/hourgate.json", "../../deploy/prometheus/hourgate.rules.yaml"} {
		names := regexp.MustCompile(`hourgate_[a-z_]+`).FindAllString(readFile(t, file), -1)
		slices.Sort(names)
		for _, name := range slices.Compact(names) {
			if !regexp.MustCompile(`(?m)^` + name + `[{ ]`).MatchString(metrics) {
				t.Errorf("%s: a gate has no metric %s", file, name)
			}
		}
	}
}

func readFile(t *testing.T, name string) string {
	t.Helper()
	content, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}
