package gate_test

import (
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/hourgate/hourgate/audit"
	"github.com/hourgate/hourgate/gate"
	"github.com/hourgate/hourgate/internal/eventually"
	"github.com/hourgate/hourgate/internal/gatetest"
	"github.com/hourgate/hourgate/internal/pgtest"
	"github.com/hourgate/hourgate/internal/strictyaml"
)

// What protects the connection to the server is in the log, the trail and a metric, and what could be better is said at
// the start.
func TestWhatProtectsTheConnectionIsTold(t *testing.T) {
	t.Parallel()
	db := pgtest.Start(t, 18).Database(t)
	for mode, want := range map[string]struct{ record, label, note string }{
		"disable":     {"none", "none", "connections to the server are not encrypted"},
		"require":     {"TLS 1.3, chain verified", "chain", "verifies as verify-ca does"},
		"verify-full": {"TLS 1.3, verified", "verified", ""},
	} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			g := gatetest.Start(t, db, gatetest.Options{Grants: gatetest.Grant("inc-1"), SSLMode: mode, Deployment: "test-" + mode})
			_ = g.Connect(t, "orders").Close(t.Context())
			eventually.True(t, "the session ends", func() bool { return len(g.Records(t, audit.SessionEnd)) == 1 })
			if got := g.Records(t, audit.SessionEnd)[0].TLSUpstream; got != want.record {
				t.Errorf("trail: got %q, want %q", got, want.record)
			}
			g.AwaitMetric(t, `hourgate_upstream_connections_total{integration="orders",tls="`+want.label+`"} 1`)
			if !strings.Contains(g.Logs.String(), want.record) || !strings.Contains(g.Logs.String(), want.note) ||
				want.note == "" && strings.Contains(g.Logs.String(), "not as safe") {
				t.Errorf("the log does not say %q and %q:\n%s", want.record, want.note, g.Logs)
			}
		})
	}
}

// Settings of an integration that do not go together are found with the others, each at its key.
func TestUpstreamSettings(t *testing.T) {
	t.Parallel()
	file := writeConfig(t, `
tls: {cert_file: a, key_file: b}
policy: [p]
audit: {file: t}
integrations:
  - name: a
    hostname: a
    database: a
    ssl_mode: verify-ca
    ssl_root_cert: system
    ssl_cert: client.crt
    secret: {rds_iam: {region: eu-west-1, username: u}}
  - name: b
    hostname: b
    database: b
    ssl_mode: prefer
    ssl_negotiation: direct
    secret: {hashicorp_vault: {address: "http://vault:8200"}}
`)
	_, err := gate.LoadConfig(file)
	var problems strictyaml.Problems
	if !errors.As(err, &problems) {
		t.Fatalf("got %v", err)
	}
	for _, want := range []string{
		"integrations[0].ssl_root_cert: system works with ssl_mode verify-full only",
		"integrations[0].ssl_key: required by ssl_cert",
		"integrations[0].ssl_mode: secret.rds_iam sends a token in cleartext",
		"integrations[1].ssl_negotiation: direct has no way back to plaintext",
		"integrations[1].secret.hashicorp_vault.address: want https://host:port",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("not reported: %s\n%v", want, err)
		}
	}
}

func writeConfig(t *testing.T, content string) string {
	t.Helper()
	file := t.TempDir() + "/config.yaml"
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}
