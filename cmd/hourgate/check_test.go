package main

import (
	"bytes"
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
