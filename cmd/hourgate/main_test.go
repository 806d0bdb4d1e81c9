package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/hourgate/hourgate/internal/pgtest"
)

// suite is the tests of this package, with the servers that they need. The same program is hourgate in scripts.
type suite struct{ m *testing.M }

func (s suite) Run() int { return pgtest.Run(s.m) }

func TestMain(m *testing.M) {
	testscript.Main(suite{m}, map[string]func(){"hourgate": main})
}

// The commands as people type them: testdata/script. $SOON and $PAST are times for grants.
func TestScripts(t *testing.T) {
	t.Parallel()
	ca := pgtest.CA(t)
	certFile, keyFile := ca.Issue(t, "localhost")
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(env *testscript.Env) error {
			for name, from := range map[string]string{"server.crt": certFile, "server.key": keyFile, "ca.pem": ca.CertFile} {
				content, err := os.ReadFile(from)
				if err != nil {
					return err
				}
				if err := os.WriteFile(filepath.Join(env.WorkDir, name), content, 0o600); err != nil {
					return err
				}
			}
			if err := os.WriteFile(filepath.Join(env.WorkDir, "torn.jsonl"), bytes.Repeat([]byte("x"), 3<<20), 0o600); err != nil { // txtar ends each file with a newline
				return err
			}
			now := time.Now().UTC().Truncate(time.Second)
			times := strings.NewReplacer("$SOON", now.Add(time.Hour).Format(time.RFC3339), "$PAST", now.Add(-time.Hour).Format(time.RFC3339), "$LATER", now.Add(48*time.Hour).Format(time.RFC3339))
			files, err := filepath.Glob(filepath.Join(env.WorkDir, "*.yaml"))
			if err != nil {
				return err
			}
			for _, file := range append(files, filepath.Join(env.WorkDir, "secret.json")) {
				content, err := os.ReadFile(file)
				if err != nil {
					continue // not every script has it
				}
				if err := os.Remove(file); err != nil {
					return err
				}
				if err := os.WriteFile(file, []byte(times.Replace(string(content))), 0o600); err != nil {
					return err
				}
			}
			return nil
		},
	})
}
