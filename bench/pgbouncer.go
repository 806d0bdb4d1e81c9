//go:build linux

package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/hourgate/hourgate/internal/pgserver"
)

// pgbouncerConfig is PgBouncer as a gate: TLS on both sides, verified; a server connection for each session, and as many
// as anybody wants. It knows verifiers and no passwords, so that it logs in with the keys that the client's log-in
// brings and need not derive them. It does not log sessions, which spares it work.
const pgbouncerConfig = `[databases]
%[1]s = host=127.0.0.1 port=%[2]d dbname=%[1]s

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = %[3]d
unix_socket_dir =
auth_type = scram-sha-256
auth_file = users.txt
pool_mode = session
default_pool_size = 20000
max_client_conn = 20000
server_lifetime = %[4]d
client_tls_sslmode = require
client_tls_cert_file = server.crt
client_tls_key_file = server.key
server_tls_sslmode = verify-full
server_tls_ca_file = ca.crt
log_connections = 0
log_disconnections = 0
log_stats = 0
`

func (r *rig) startPgBouncer(ctx context.Context, name string, upstream int) (*proxy, error) {
	program, err := findPgBouncer()
	if err != nil {
		return nil, err
	}
	port, err := pgserver.FreePort(ctx)
	if err != nil {
		return nil, err
	}
	lifetime := 3600
	if name == freshName {
		lifetime = 0 // a server connection is used once
	}
	folder, err := r.proxyFolder(name)
	if err != nil {
		return nil, err
	}
	ca, err := os.ReadFile(r.authority.CertFile)
	if err != nil {
		return nil, err
	}
	for file, content := range map[string]string{
		"pgbouncer.ini": fmt.Sprintf(pgbouncerConfig, benchDatabase, upstream, port, lifetime),
		"users.txt":     r.pgbouncerUsers(),
		"ca.crt":        string(ca),
	} {
		if err := os.WriteFile(filepath.Join(folder, file), []byte(content), 0o600); err != nil {
			return nil, err
		}
	}
	account, err := pgserver.Account() // PgBouncer does not run as root either
	if err != nil {
		return nil, err
	}
	if account != nil {
		if err := ownAll(folder, int(account.Uid), int(account.Gid)); err != nil {
			return nil, err
		}
	}
	process, err := r.startProcess(filepath.Base(folder), account, nil, "env", "-C", folder, program, "pgbouncer.ini")
	if err != nil {
		return nil, err
	}
	return &proxy{name: name, port: port, process: process}, process.awaitPort(ctx, port)
}

// findPgBouncer takes the newest that scripts/install has fetched, or this system's.
func findPgBouncer() (string, error) {
	return findProgram("pgbouncer", filepath.Join(cacheFolder(), "pgbouncer", "bin"))
}

// pgbouncerUsers have the verifiers that the server has: only so can their keys be used there.
func (r *rig) pgbouncerUsers() string {
	list := fmt.Sprintf("%q %q\n", benchUser, r.verifier)
	for i := range crowd {
		list += fmt.Sprintf("%q %q\n", crowdUser(i*crowdSessions), r.verifier)
	}
	return list
}

// proxyFolder makes a folder for a proxy's files, with a certificate in it. Several of a name may run.
func (r *rig) proxyFolder(name string) (string, error) {
	folder, err := os.MkdirTemp(r.folder, name+"-")
	if err != nil {
		return "", err
	}
	return folder, r.authority.Issue(folder)
}

// ownAll gives a folder and the files in it to another user.
func ownAll(folder string, uid, gid int) error {
	entries, err := os.ReadDir(folder)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if err := os.Chown(filepath.Join(folder, entry.Name()), uid, gid); err != nil {
			return err
		}
	}
	return os.Chown(folder, uid, gid)
}
