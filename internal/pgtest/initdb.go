package pgtest

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

const superuserHBA = "local all postgres trust\nlocal replication postgres trust\n"

// The hostssl line changes nothing while the host line is there; it stays on its own feet when a test
// takes the other away.
const defaultHBA = `hostssl all all 127.0.0.1/32 scram-sha-256
host    all all 127.0.0.1/32 scram-sha-256
`

func (s *Server) initdb() error {
	program, err := serverProgram(s.Major, "initdb")
	if err != nil {
		return err
	}
	cmd := s.account.command(s.dir, program, "--pgdata", s.dataDir(), "--username", superuser,
		"--no-sync", "--auth", "trust", "--locale", "C.UTF-8", "--encoding", "UTF8")
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := start(cmd); err != nil {
		return err
	}
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("initdb: %w\n%s", err, &output)
	}
	return nil
}

func (s *Server) configure(authority *Authority, opts Options) error {
	certFile, keyFile, err := authority.issue(s.dir, "localhost", s.Host)
	if err != nil {
		return err
	}
	// PostgreSQL refuses a key that belongs to another user.
	if err := errors.Join(s.account.own(certFile), s.account.own(keyFile)); err != nil {
		return err
	}
	settings := defaultSettings()
	settings["ssl_cert_file"] = certFile
	settings["ssl_key_file"] = keyFile
	settings["unix_socket_directories"] = s.SocketDir
	maps.Copy(settings, opts.Settings)

	hba := opts.HBA
	if hba == "" {
		hba = defaultHBA
	}
	// These files are there already, so they keep their owner.
	if err := appendFile(filepath.Join(s.dataDir(), "postgresql.conf"), configText(settings)); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(s.dataDir(), "pg_hba.conf"), []byte(superuserHBA+hba+"\n"), 0o600)
}

func defaultSettings() map[string]string {
	return map[string]string{ //nolint:gosec // password_encryption is no password
		"listen_addresses":    "127.0.0.1",
		"ssl":                 "on",
		"password_encryption": "scram-sha-256", // the default since 14
		"max_connections":     "200",
		"shared_buffers":      "32MB",
		// The machine will not lose power during a test. synchronous_commit stays on: without it a
		// killed server would forget transactions that it has confirmed.
		"fsync":            "off",
		"full_page_writes": "off",
		"log_line_prefix":  "%m [%p] %q%u@%d ",
		"log_timezone":     "UTC",
		"timezone":         "UTC",
	}
}

func configText(settings map[string]string) string {
	var text strings.Builder
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		fmt.Fprintf(&text, "%s = '%s'\n", name, strings.ReplaceAll(settings[name], "'", "''"))
	}
	return text.String()
}

func appendFile(path, text string) error {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	if _, err := file.WriteString(text); err != nil {
		_ = file.Close()
		return err
	}
	return file.Close()
}
