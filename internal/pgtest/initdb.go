package pgtest

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

const superuserHBA = "local all postgres trust\nlocal replication postgres trust\n"

// The hostssl line changes nothing while the host line is there; it stays on its own feet when a test
// takes the other away.
const defaultHBA = `hostssl all all 127.0.0.1/32 scram-sha-256
host    all all 127.0.0.1/32 scram-sha-256
`

// initdb makes the data directory. initdb itself takes a second and more of processor time, a copy of what it has made
// before a tenth of that.
func (s *Server) initdb() error {
	program, err := serverProgram(s.Major, "initdb")
	if err != nil {
		return err
	}
	template := templateOf(program)
	if _, err := os.Stat(template); err == nil {
		return copyFolder(template, s.dataDir())
	}
	if err := s.runInitdb(program); err != nil {
		return err
	}
	keepTemplate(s.dataDir(), template)
	return nil
}

// templateOf is where a copy of an empty data directory is kept for a build of the server. Its name changes when scripts/install
// brings another build.
func templateOf(initdb string) string {
	program, err := filepath.EvalSymlinks(initdb)
	if err != nil {
		program = initdb
	}
	var built int64
	if info, err := os.Stat(program); err == nil {
		built = info.ModTime().UnixNano()
	}
	return filepath.Join(cache(), "clusters", fmt.Sprintf("%x", sha256.Sum256(fmt.Append(nil, program, built, os.Geteuid())))[:24])
}

// keepTemplate keeps a copy for other tests. It may fail: then each server has its own initdb.
func keepTemplate(data, template string) {
	if os.MkdirAll(filepath.Dir(template), 0o755) != nil { //nolint:gosec // G301: the server's user reads what is below
		return
	}
	half, err := os.MkdirTemp(filepath.Dir(template), "half.")
	if err != nil {
		return
	}
	defer func() { _ = os.RemoveAll(half) }()
	whole := filepath.Join(half, "data")
	if copyFolder(data, whole) == nil {
		_ = os.Rename(whole, template) // or somebody was quicker
	}
}

// copyFolder copies a folder that is not there yet, with owners and modes.
func copyFolder(from, to string) error {
	if out, err := exec.Command("cp", "-a", from, to).CombinedOutput(); err != nil { //nolint:noctx // a moment
		return fmt.Errorf("copying %s: %w\n%s", from, err, out)
	}
	return nil
}

func (s *Server) runInitdb(program string) error {
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
	if s.Major >= 16 {
		settings["scram_iterations"] = strconv.Itoa(Iterations)
	}
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
		"wal_keep_size":       "64MB", // for a replica that is being made
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
