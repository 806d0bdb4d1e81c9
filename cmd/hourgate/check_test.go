package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hourgate/hourgate/internal/pgtest"
)

// required is a configuration that has what is required and nothing else.
const required = `tls: {cert_file: server.crt, key_file: server.key}
policy: [policy.yaml]
audit: {file: trail.jsonl}
integrations:
  - name: orders
    hostname: db.example.com
    database: orders
    ssl_root_cert: ca.pem
    secret: {file: secret.json}
`

// The command line prints the problems alone, one a line, and exits with 2.
func TestCheckPrintsTheProblems(t *testing.T) {
	t.Parallel()
	ca := pgtest.CA(t)
	certFile, keyFile := ca.Issue(t, "localhost")
	files := strings.NewReplacer("server.crt", certFile, "server.key", keyFile, "ca.pem", ca.CertFile)
	file := writeConfig(t, files.Replace(required)+"listen: localhost\n")
	if err := os.WriteFile(filepath.Join(filepath.Dir(file), "policy.yaml"), []byte("users: []\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var stdout, stderr bytes.Buffer
	code := run(t.Context(), []string{"check", "--config", file}, nil, &stdout, &stderr)
	if want := file + ":10:9: listen: want host:port, such as 127.0.0.1:6432\n"; code != exitUsage || stderr.String() != want || stdout.Len() > 0 {
		t.Errorf("got exit code %d, output %q and errors\n%swant %d and\n%s", code, &stdout, &stderr, exitUsage, want)
	}
}

func writeConfig(t *testing.T, yaml string) (file string) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(file, []byte(yaml), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// serve tells a wrong configuration from a panic, after which it has to be started again, and the unit knows the difference.
func TestServeWithAWrongConfiguration(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(file, []byte("listen: nowhere\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var stdout, stderr bytes.Buffer
	if code := run(t.Context(), []string{"serve", "--config", file}, strings.NewReader(""), &stdout, &stderr); code != exitConfig || !strings.Contains(stderr.String(), file+":1:") {
		t.Errorf("got exit code %d and %s", code, &stderr)
	}
	unit, err := os.ReadFile("../../deploy/systemd/hourgate.service")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{fmt.Sprintf("\nRestartPreventExitStatus=%d\n", exitConfig), "\nRestart=on-failure\n", "\nRemoveIPC=no\n"} {
		if !strings.Contains(string(unit), want) {
			t.Errorf("the unit has no %q", want)
		}
	}
}
